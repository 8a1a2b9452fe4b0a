//! Where the daemon's HTTP API listens beside its Unix socket: the key `admin`. It concerns one server alone.

use std::net::SocketAddr;

use super::problem::Problems;
use super::raw::{Fields, Node, clip};
use super::source::Spanned;

const KEYS: &[&str] = &["listen", "token_file", "read_token_file", "tls", "hosts"];
const TLS_KEYS: &[&str] = &["cert", "key", "client_ca"];
/// Names under which people may ask for it.
const HOSTS: usize = 32;
/// Bytes of a name of the DNS.
const HOST: usize = 253;

/// Where the API listens, and who may ask. The paths are relative to the config's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The address.
    pub listen: SocketAddr,
    /// The file with the tokens that may change things; without it nobody may, by this address.
    pub token_file: Option<String>,
    /// The file with the tokens that may only look.
    pub read_token_file: Option<String>,
    /// With which certificates; none for plain HTTP, which is for the loopback only.
    pub tls: Option<AdminTls>,
    /// Names, beside addresses and `localhost`, that a request may give as its `Host`.
    pub hosts: Vec<String>,
}

/// The certificates of the API: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTls {
    /// The certificate, and those between it and the root.
    pub cert: String,
    /// Its private key.
    pub key: String,
    /// Who has signed the certificates of clients; without it they need none.
    pub client_ca: Option<String>,
}

impl Admin {
    /// All files that it names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let tls = self.tls.iter().flat_map(|tls| [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()]);
        let tokens = [self.token_file.as_ref(), self.read_token_file.as_ref()];
        tls.chain(tokens).flatten().map(String::as_str)
    }
}

/// Reads the key; what is refused is reported, and nothing is left of the whole.
pub(super) fn read(fields: &Fields, problems: &mut Problems) -> Option<Admin> {
    const EXPECTED: &str = "an object with the key `listen`";
    let node = fields.get("admin")?;
    let fields = node.fields(EXPECTED, KEYS, problems)?;
    let file = |key, problems: &mut Problems| {
        fields
            .get(key)
            .and_then(|node: &Node| node.text("the path of a file", problems))
            .map(|text| text.value)
    };
    let token_file = file("token_file", problems);
    let read_token_file = file("read_token_file", problems);
    let tls = fields.get("tls").map(|node| read_tls(node, problems));
    let hosts = fields.get("hosts").map(|node| read_hosts(node, problems)).unwrap_or_default();
    let Some(listen) = fields.get("listen") else {
        let help = "write for instance {\"listen\": \"127.0.0.1:7600\", \"token_file\": \"token\"}";
        problems.error_help(&node.at, "found no `listen`, expected the address to listen at", help);
        return None;
    };
    let listen = read_listen(listen, problems)?;
    check(&listen, fields.get("token_file").is_some(), tls.is_some(), problems);
    let local = listen.value.ip().to_canonical().is_loopback();
    if local && fields.get("token_file").is_none() && fields.get("read_token_file").is_none() {
        let message =
            "everybody on this host may look at the cluster by this address, and nobody may change it";
        let help = "name a `token_file`; one token is made by: flip keygen > token && chmod 600 token";
        problems.warning(&node.at, message, help);
    }
    // A part that was refused is an error already.
    let tls = match tls {
        Some(tls) => Some(tls?),
        None => None,
    };
    Some(Admin { listen: listen.value, token_file, read_token_file, tls, hosts })
}

fn read_listen(node: &Node, problems: &mut Problems) -> Option<Spanned<SocketAddr>> {
    const EXPECTED: &str = "an address with a port such as \"127.0.0.1:7600\" or \"[::1]:7600\"";
    let text = node.text(EXPECTED, problems)?;
    match text.value.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Some(node.spanned(address)),
        _ => {
            node.refuse(EXPECTED, problems);
            None
        }
    }
}

/// Whoever can reach the address could steer the cluster.
fn check(listen: &Spanned<SocketAddr>, token: bool, tls: bool, problems: &mut Problems) {
    if listen.value.ip().to_canonical().is_loopback() || (token && tls) {
        return;
    }
    let (lacks, help) = match (token, tls) {
        (false, false) => ("`token_file` and `tls` are missing", "add both"),
        (false, true) => (
            "`token_file` is missing",
            "add it; one token is made by: flip keygen > token && chmod 600 token",
        ),
        _ => (
            "`tls` is missing",
            "add it with `cert` and `key`: a token that goes over the network in the clear is everybody's",
        ),
    };
    let message = format!("{} is reached from other hosts, and {lacks}", listen.value);
    problems.error_help(
        &listen.at,
        message,
        format!("{help}, or listen at 127.0.0.1:{}", listen.value.port()),
    );
}

fn read_tls(node: &Node, problems: &mut Problems) -> Option<AdminTls> {
    const EXPECTED: &str = "an object with the keys `cert` and `key`";
    let fields = node.fields(EXPECTED, TLS_KEYS, problems)?;
    let file = |key, problems: &mut Problems| {
        fields
            .get(key)
            .and_then(|node: &Node| node.text("the path of a file", problems))
            .map(|text| text.value)
    };
    let (cert, key, client_ca) = (file("cert", problems), file("key", problems), file("client_ca", problems));
    for missing in ["cert", "key"].into_iter().filter(|key| fields.get(key).is_none()) {
        let message = format!("found no `{missing}`, expected the path of a file in PEM");
        problems.error_help(
            &node.at,
            message,
            "TLS needs a certificate (`cert`) and its private key (`key`)",
        );
    }
    Some(AdminTls { cert: cert?, key: key?, client_ca })
}

fn read_hosts(node: &Node, problems: &mut Problems) -> Vec<String> {
    let Some(elements) = node.elements("an array of host names", problems) else { return Vec::new() };
    if elements.len() > HOSTS {
        let message = format!("found {} names, expected at most {HOSTS}", elements.len());
        problems.error(&node.at, message);
        return Vec::new();
    }
    let mut hosts = Vec::new();
    for element in &elements {
        let Some(name) = element.text("the name of a host", problems) else { continue };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if (1..=HOST).contains(&name.value.len()) && name.value.chars().all(allowed) {
            hosts.push(name.value.to_ascii_lowercase());
        } else {
            let message =
                format!("found \"{}\", expected the name of a host without a port", clip(&name.value));
            problems.error(&name.at, message);
        }
    }
    hosts
}
