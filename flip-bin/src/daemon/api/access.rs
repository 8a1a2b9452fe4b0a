//! The tokens and certificates of the API by TCP: files, which are read at the start and again on `flip reload`.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, bail};
use axum::http::HeaderValue;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use flip_core::config::{Admin, AdminTls};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroizing;

/// Bytes of a file of tokens at most.
const FILE: u64 = 64 * 1024;
/// A token that is shorter is guessed.
const SHORTEST: usize = 16;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Read,
    Admin,
}

/// What a request has to show.
#[derive(Debug, PartialEq, Eq)]
pub enum Given {
    Nothing,
    Wrong,
    Token(String, Role),
}

/// Who may ask by TCP, and with which certificates they are answered.
pub struct Access {
    admin: Admin,
    /// The config's folder, where paths begin.
    dir: PathBuf,
    files: RwLock<Content>,
}

struct Content {
    tokens: Vec<Token>,
    tls: Option<Arc<ServerConfig>>,
}

/// A token is compared by its hash: that takes the same time whatever was guessed.
struct Token {
    name: String,
    role: Role,
    hash: blake3::Hash,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("admin", &self.admin).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads all files; paths are relative to `dir`.
    pub fn read(admin: &Admin, dir: &Path) -> anyhow::Result<Self> {
        let content = Content::read(admin, dir)?;
        Ok(Self { admin: admin.clone(), dir: dir.to_owned(), files: RwLock::new(content) })
    }

    /// Reads them again. When one cannot be used, everything stays as it is.
    pub fn reload(&self) -> anyhow::Result<()> {
        let content = Content::read(&self.admin, &self.dir)?;
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = content;
        Ok(())
    }

    pub fn listen(&self) -> std::net::SocketAddr {
        self.admin.listen
    }

    pub fn hosts(&self) -> &[String] {
        &self.admin.hosts
    }

    /// Whether whoever reaches the address may look. It is on the loopback then: elsewhere a token is needed.
    pub fn is_open(&self) -> bool {
        self.admin.token_file.is_none() && self.admin.read_token_file.is_none()
    }

    /// Whether anybody may change something.
    pub fn has_admin(&self) -> bool {
        self.admin.token_file.is_some()
    }

    /// How to answer a TLS client; none where it is plain HTTP.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.content().tls.clone()
    }

    /// Whose token a request shows: `Bearer TOKEN`, or as the password of `Basic`, whatever the user.
    pub fn find(&self, authorization: Option<&HeaderValue>) -> Given {
        let Some(header) = authorization else { return Given::Nothing };
        let Some(given) = token_of(header) else { return Given::Wrong };
        let given = blake3::hash(given.as_bytes());
        // All of them, so that the time does not tell which one was near. The comparison of hashes is constant in time.
        let content = self.content();
        let found = content.tokens.iter().fold(None, |found, token| match token.hash == given {
            true => Some(token),
            false => found,
        });
        found.map_or(Given::Wrong, |token| Given::Token(token.name.clone(), token.role))
    }

    fn content(&self) -> std::sync::RwLockReadGuard<'_, Content> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn token_of(header: &HeaderValue) -> Option<Zeroizing<String>> {
    let (scheme, given) = header.to_str().ok()?.split_once(' ')?;
    let given = given.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Zeroizing::new(given.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = Zeroizing::new(String::from_utf8(BASE64.decode(given).ok()?).ok()?);
    let (_, password) = pair.split_once(':')?;
    Some(Zeroizing::new(password.to_owned()))
}

impl Content {
    fn read(admin: &Admin, dir: &Path) -> anyhow::Result<Self> {
        let mut tokens = Vec::new();
        let files = [(&admin.token_file, Role::Admin), (&admin.read_token_file, Role::Read)];
        for (file, role) in files.into_iter().filter_map(|(file, role)| Some((file.as_ref()?, role))) {
            tokens.extend(read_tokens(&dir.join(file), role)?);
        }
        let tls = admin.tls.as_ref().map(|tls| server(tls, dir)).transpose()?;
        Ok(Self { tokens, tls: tls.map(Arc::new) })
    }
}

/// The tokens of a file: one a line, after its name if it has one.
fn read_tokens(path: &Path, role: Role) -> anyhow::Result<Vec<Token>> {
    let shown = path.display();
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path);
    let file = file.with_context(|| {
        format!("cannot read the tokens in {shown}; one is made by: flip keygen > {shown}")
    })?;
    let mode = file.metadata().with_context(|| format!("cannot look at {shown}"))?.permissions().mode();
    if mode & 0o007 != 0 {
        bail!(
            "everybody on this host can read the tokens in {shown} (mode {:03o}); chmod 600 it",
            mode & 0o777
        );
    }
    file.take(FILE)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read the tokens in {shown}"))?;
    let mut tokens = Vec::new();
    for (at, line) in
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let words: Vec<_> = line.split_whitespace().collect();
        let default = if role == Role::Admin { "admin" } else { "read" };
        let (name, token) = match words.as_slice() {
            [token] => (default, *token),
            [name, token] => (*name, *token),
            _ => bail!("{shown}:{}: expected one token, or a name and its token", at + 1),
        };
        if token.len() < SHORTEST {
            bail!("{shown}:{}: a token has at least {SHORTEST} characters; flip keygen prints one", at + 1);
        }
        tokens.push(Token { name: name.to_owned(), role, hash: blake3::hash(token.as_bytes()) });
    }
    if tokens.is_empty() {
        bail!("there is no token in {shown}; one is made by: flip keygen > {shown}");
    }
    Ok(tokens)
}

/// How TLS is answered: version 1.3 alone.
fn server(tls: &AdminTls, dir: &Path) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let cert = dir.join(&tls.cert);
    let chain = certificates(&cert)?;
    let key = dir.join(&tls.key);
    let private = PrivateKeyDer::from_pem_file(&key)
        .map_err(|error| anyhow::anyhow!("cannot use the private key in {}: {error}", key.display()))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let file = dir.join(file);
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&file)? {
                roots
                    .add(certificate)
                    .with_context(|| format!("cannot use the certificates in {}", file.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(
                verifier.with_context(|| format!("cannot use the certificates in {}", file.display()))?,
            )
        }
    };
    let mut server = builder
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not fit together", cert.display(), key.display()))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(server)
}

/// All certificates of a file in PEM.
pub fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let refused = |error: &dyn fmt::Display| {
        anyhow::anyhow!("cannot use the certificates in {}: {error}", file.display())
    };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| refused(&error))?.collect();
    let found = found.map_err(|error| refused(&error))?;
    if found.is_empty() {
        return Err(refused(&"there is none"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(token: &str, read: &str) -> anyhow::Result<(Access, tempfile::TempDir)> {
        let dir = tempfile::tempdir()?;
        for (name, text) in [("token", token), ("read", read)] {
            std::fs::write(dir.path().join(name), text)?;
            std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o600))?;
        }
        let admin = Admin {
            listen: "127.0.0.1:1".parse()?,
            token_file: Some("token".to_owned()),
            read_token_file: Some("read".to_owned()),
            tls: None,
            hosts: Vec::new(),
        };
        Ok((Access::read(&admin, dir.path())?, dir))
    }

    #[test]
    fn tokens_are_found_whole_and_by_name() {
        let text = "# of people\nann 0123456789abcdef\n\n  bob   fedcba9876543210  \n";
        let (access, dir) = access(text, "look-look-look-look\n").unwrap();
        let table = [
            ("Bearer 0123456789abcdef", Given::Token("ann".into(), Role::Admin)),
            ("bearer  fedcba9876543210", Given::Token("bob".into(), Role::Admin)),
            ("Bearer look-look-look-look", Given::Token("read".into(), Role::Read)),
            // anybody:0123456789abcdef
            ("Basic YW55Ym9keTowMTIzNDU2Nzg5YWJjZGVm", Given::Token("ann".into(), Role::Admin)),
            ("Bearer 0123456789abcde", Given::Wrong),
            ("Bearer 0123456789abcdef0", Given::Wrong),
            ("Bearer ann", Given::Wrong),
            ("Bearer ", Given::Wrong),
            ("Bearer", Given::Wrong),
            ("0123456789abcdef", Given::Wrong),
            ("Digest 0123456789abcdef", Given::Wrong),
            ("Basic !!!!", Given::Wrong),
            ("Basic YWJj", Given::Wrong),
        ];
        for (header, given) in table {
            let value = HeaderValue::from_str(header).unwrap();
            assert_eq!(access.find(Some(&value)), given, "{header}");
        }
        assert_eq!(access.find(None), Given::Nothing);

        let value = HeaderValue::from_static("Bearer new-new-new-new-new");
        std::fs::write(dir.path().join("token"), "new-new-new-new-new").unwrap();
        assert_eq!(access.find(Some(&value)), Given::Wrong, "not read before it is told to");
        access.reload().unwrap();
        assert_eq!(access.find(Some(&value)), Given::Token("admin".into(), Role::Admin));
        std::fs::write(dir.path().join("token"), "short").unwrap();
        assert!(access.reload().unwrap_err().to_string().contains("at least 16 characters"));
        assert_eq!(access.find(Some(&value)), Given::Token("admin".into(), Role::Admin), "as it was");
    }

    #[test]
    fn files_of_tokens_that_protect_nothing_are_refused() {
        for (text, why) in [
            ("", "there is no token"),
            ("# nothing\n", "there is no token"),
            ("short\n", ":1: a token has at least 16"),
            ("a b 0123456789abcdef", ":1: expected one token"),
        ] {
            let error = access(text, "look-look-look-look").unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let (access, dir) = access("0123456789abcdef", "0123456789abcdef").unwrap();
        let file = dir.path().join("token");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o604)).unwrap();
        let error = access.reload().unwrap_err().to_string();
        assert!(error.contains("everybody on this host can read") && error.contains("mode 604"), "{error}");
        std::fs::remove_file(&file).unwrap();
        assert!(access.reload().unwrap_err().to_string().contains("flip keygen >"));
    }
}
