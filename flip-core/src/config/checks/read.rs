//! Reads the key `checks`.

use std::net::IpAddr;
use std::time::Duration;

use jsonc_parser::ast::Value;

use super::{
    Check, CheckKind, Encryption, Endpoint, FALL, Http, INTERVAL, Login, RISE, Role, SourceAddress, TIMEOUT,
    Tls, WhenAllFail, url,
};
use crate::config::nearest::nearest;
use crate::config::problem::Problems;
use crate::config::raw::{Fields, Node, clip, list};
use crate::config::source::Spanned;
use crate::config::written::{Written, check_name};
use crate::config::{bounds, ip};

const EXAMPLE: &str = "write for instance {\"type\": \"tcp\", \"port\": 5432}";

/// What every check may say.
macro_rules! keys {
    ($($key:literal),*) => { &["type", "interval", "timeout", "rise", "fall" $(, $key)*] };
}

/// The words of `type`, and the keys that go with each.
const KINDS: [(&str, &[&str]); 7] = [
    ("tcp", keys!("host", "port")),
    (
        "http",
        keys!(
            "url",
            "method",
            "headers",
            "status",
            "body_equals",
            "body_contains",
            "tls_name",
            "ca_file",
            "verify"
        ),
    ),
    ("exec", keys!("command", "args")),
    ("lua", keys!("script")),
    (
        "postgres",
        keys!(
            "host",
            "port",
            "user",
            "password_file",
            "tls",
            "tls_name",
            "ca_file",
            "source",
            "database",
            "query",
            "role"
        ),
    ),
    (
        "pgbouncer",
        keys!(
            "host",
            "port",
            "user",
            "password_file",
            "tls",
            "tls_name",
            "ca_file",
            "source",
            "pool",
            "max_waiting"
        ),
    ),
    ("ping", keys!("ip")),
];

/// The value of `when_all_fail`.
pub(in crate::config) fn when_all_fail(node: &Node, problems: &mut Problems) -> Option<Spanned<WhenAllFail>> {
    node.one_of(&WhenAllFail::NAMES, problems)
}

/// The value of `checks`, of a system or of one item.
pub(in crate::config) fn checks(node: &Node, problems: &mut Problems) -> Vec<Check> {
    if matches!(node.value, Value::Object(_)) {
        node.refuse_help("an array of checks", "put it into brackets: [{…}]", problems);
        return Vec::new();
    }
    let Some(elements) = node.elements("an array of checks", problems) else { return Vec::new() };
    if elements.len() > bounds::CHECKS {
        let message = format!("found {} checks, expected at most {}", elements.len(), bounds::CHECKS);
        problems.error_help(&node.at, message, "put several of them into one \"exec\" or \"lua\" check");
        return Vec::new();
    }
    elements.iter().filter_map(|element| check(element, problems)).collect()
}

/// What is valid and useless, and what is too much of all.
pub(in crate::config) fn warn(written: &Written, problems: &mut Problems) {
    let mut total = 0;
    for system in &written.systems {
        total += system.checks.len() + system.items.iter().map(|item| item.checks.len()).sum::<usize>();
        let given =
            std::iter::once((&system.when_all_fail, system.items.iter().any(|i| !i.checks.is_empty())));
        let items = system.items.iter().map(|item| (&item.when_all_fail, !item.checks.is_empty()));
        for (given, own) in given.chain(items) {
            if let Some(given) = given
                && !own
                && system.checks.is_empty()
            {
                let message = "nothing reads `when_all_fail`: there are no `checks` here";
                problems.warning(&given.at, message, "remove it, or add `checks`");
            }
        }
    }
    if total > bounds::CHECKS_IN_ALL {
        let message = format!("found {total} checks in all, expected at most {}", bounds::CHECKS_IN_ALL);
        problems.error_help(&written.at, message, "check a whole system instead of each of its items");
    }
}

fn check(node: &Node, problems: &mut Problems) -> Option<Check> {
    let expected = "a check: an object with the key `type`";
    if !matches!(node.value, Value::Object(_)) {
        node.refuse_help(expected, EXAMPLE, problems);
        return None;
    }
    let Some(named) = node.child("type") else {
        let message = "found no `type`, expected the kind of the check";
        problems.error_help(&node.at, message, format!("the kinds are {}", list(CheckKind::NAMES)));
        return None;
    };
    let kind = named.one_of(&KINDS.map(|kind| (kind.0, kind)), problems)?.value;
    let fields = node.fields(expected, kind.1, problems)?;
    let millis = |key, range, default, problems: &mut Problems| {
        let given = fields.get(key).map(|node| node.whole("a whole number of milliseconds", range, problems));
        given.map_or(Some(default), |given| given.map(|given| Duration::from_millis(given.value)))
    };
    let interval = millis("interval", bounds::CHECK_INTERVAL, INTERVAL, problems);
    let timeout = millis("timeout", bounds::CHECK_TIMEOUT, TIMEOUT, problems);
    let count = |key, what, default, problems: &mut Problems| {
        let given = fields.get(key).map(|node| node.whole(what, bounds::CHECK_COUNT, problems));
        given.map_or(Some(default), |given| given.and_then(|given| u32::try_from(given.value).ok()))
    };
    let rise = count("rise", "a number of successes in a row", RISE, problems);
    let fall = count("fall", "a number of failures in a row", FALL, problems);
    let asks = Asks { node, fields: &fields };
    let kind = match kind.0 {
        "tcp" => asks.endpoint(None, problems).map(CheckKind::Tcp),
        "http" => asks.http(problems).map(|http| CheckKind::Http(Box::new(http))),
        "exec" => asks.exec(problems),
        "lua" => asks.lua(problems),
        "postgres" => asks.postgres(problems),
        "pgbouncer" => asks.pgbouncer(problems),
        _ => asks.ping(problems),
    };
    Some(Check { kind: kind?, interval: interval?, timeout: timeout?, rise: rise?, fall: fall? })
}

/// The keys of one check. Every reader gives none when it refused something.
struct Asks<'a, 't> {
    node: &'a Node<'t>,
    fields: &'a Fields<'t>,
}

impl Asks<'_, '_> {
    fn http(&self, problems: &mut Problems) -> Option<Http> {
        let node = self.needed("url", "the URL to ask", "\"http://127.0.0.1:8080/health\"", problems)?;
        let text = node.text("a URL", problems)?;
        let url = match url::parse(&text.value) {
            Ok(url) => url,
            Err(help) => {
                node.refuse_help("a URL such as http://127.0.0.1:8080/health", help, problems);
                return None;
            }
        };
        let tls = self.tls(&url, problems);
        let method = self.method(problems);
        let headers = self.headers(problems);
        let status = match self.fields.get("status") {
            None => Some(vec![(200, 299)]),
            Some(node) => status(node, problems),
        };
        let body_equals = self.optional("body_equals", "the body that is expected", problems);
        let body_contains = self.optional("body_contains", "a part of the body", problems);
        if method.as_deref() == Some("HEAD")
            && let Some(node) = self.fields.get("body_equals").or_else(|| self.fields.get("body_contains"))
        {
            let message = "the answer to a HEAD request has no body to look at";
            problems.error_help(&node.at, message, "set `method` to \"GET\", or remove this");
        }
        Some(Http {
            to: url.to,
            tls: tls?,
            path: url.path,
            method: method?,
            headers: headers?,
            status: status?,
            body_equals: body_equals?,
            body_contains: body_contains?,
        })
    }

    fn tls(&self, url: &url::Url, problems: &mut Problems) -> Option<Option<Tls>> {
        let name = self.optional("tls_name", "the name in the server's certificate", problems);
        let ca_file = self.optional("ca_file", "the path of a file of PEM certificates", problems);
        let verify = match self.fields.get("verify").map(|node| (node, node.value)) {
            None => Some(true),
            Some((_, Value::BooleanLit(given))) => Some(given.value),
            Some((node, _)) => {
                node.refuse("`true` or `false`", problems);
                None
            }
        };
        if !url.tls {
            for key in ["tls_name", "ca_file", "verify"] {
                if let Some(node) = self.fields.get(key) {
                    let message =
                        format!("found `{key}` with a URL of http://, expected it with https:// only");
                    problems.error_help(&node.at, message, "remove it, or write https:// in `url`");
                }
            }
            return Some(None);
        }
        Some(Some(Tls { name: name?, ca_file: ca_file?, verify: verify? }))
    }

    fn method(&self, problems: &mut Problems) -> Option<String> {
        const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"];
        match self.fields.get("method") {
            None => Some("GET".into()),
            Some(node) => {
                node.one_of(&METHODS.map(|word| (word, word)), problems).map(|word| word.value.to_owned())
            }
        }
    }

    fn headers(&self, problems: &mut Problems) -> Option<Vec<(String, String)>> {
        let Some(node) = self.fields.get("headers") else { return Some(Vec::new()) };
        let entries = node.entries("an object of header fields and their values", problems)?;
        let mut headers = Some(Vec::new());
        for entry in entries {
            let name = entry.key.value;
            // A token of RFC 9110 §5.6.2, and a field value of §5.5.
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let text = entry.node.text("the value of a header field", problems);
            let plain = |text: &str| text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            let named = !name.is_empty() && name.bytes().all(token);
            if !named {
                let message = format!("found \"{}\", expected the name of a header field", clip(name));
                problems.error(&entry.key.at, message);
            }
            match text {
                Some(text) if named && plain(&text.value) => {
                    if let Some(headers) = &mut headers {
                        headers.push((name.to_owned(), text.value));
                    }
                    continue;
                }
                Some(text) if !plain(&text.value) => {
                    entry.node.refuse("printable ASCII on one line", problems);
                }
                Some(_) | None => {}
            }
            headers = None;
        }
        headers
    }

    fn exec(&self, problems: &mut Problems) -> Option<CheckKind> {
        let node = self.needed("command", "the program to run", "\"/usr/local/bin/is-healthy\"", problems)?;
        let command = node.text("the absolute path of a program", problems)?.value;
        let args = match self.fields.get("args") {
            None => Some(Vec::new()),
            Some(node) => node.elements("an array of arguments", problems).and_then(|elements| {
                let args: Vec<_> = elements.iter().map(|arg| arg.text("an argument", problems)).collect();
                args.into_iter().map(|arg| arg.map(|arg| arg.value)).collect::<Option<Vec<_>>>()
            }),
        };
        if !command.starts_with('/') || command.contains('\0') {
            let help = if command.contains(' ') {
                "no shell reads it: name the program by its path, and put its arguments into `args`"
            } else {
                "the daemon has no PATH that you can rely on; `command -v NAME` prints the path"
            };
            node.refuse_help("the absolute path of a program", help, problems);
            return None;
        }
        Some(CheckKind::Exec { command, args: args? })
    }

    fn lua(&self, problems: &mut Problems) -> Option<CheckKind> {
        let node = self.needed("script", "the name of a script", "\"is_healthy\"", problems)?;
        let script = node.text("the name of a script", problems)?;
        if script.value.contains('/') || script.value.ends_with(".lua") {
            let help = "a script is named without its directory and without .lua";
            node.refuse_help("the name of a script", help, problems);
            return None;
        }
        check_name(&script, "the name of a script", problems)
            .then_some(CheckKind::Lua { script: script.value })
    }

    fn postgres(&self, problems: &mut Problems) -> Option<CheckKind> {
        let login = self.login(5432, "postgres", problems);
        let database = self.optional("database", "the name of a database", problems);
        let query = self.optional("query", "a query", problems);
        let role = match self.fields.get("role") {
            None => Some(None),
            Some(node) => node.one_of(&Role::NAMES, problems).map(|role| Some(role.value)),
        };
        let mut login = login?;
        login.database = database?.unwrap_or_else(|| "postgres".into());
        Some(CheckKind::Postgres { login, query: query?.unwrap_or_else(|| "SELECT 1".into()), role: role? })
    }

    fn pgbouncer(&self, problems: &mut Problems) -> Option<CheckKind> {
        let login = self.login(6432, "pgbouncer", problems);
        let pool = self.optional("pool", "the name of a database", problems);
        let max_waiting = match self.fields.get("max_waiting") {
            None => Some(None),
            Some(node) => node
                .whole("a number of clients", 0..=u64::from(u32::MAX), problems)
                .map(|most| Some(most.value)),
        };
        let mut login = login?;
        login.database = "pgbouncer".into();
        Some(CheckKind::Pgbouncer { login, pool: pool?, max_waiting: max_waiting? })
    }

    fn ping(&self, problems: &mut Problems) -> Option<CheckKind> {
        let node = self.needed("ip", "the address to ask", "\"10.0.0.1\"", problems)?;
        ip::check_address(node, problems).map(|ip: Spanned<IpAddr>| CheckKind::Ping { ip: ip.value })
    }

    fn login(&self, port: u16, user: &str, problems: &mut Problems) -> Option<Login> {
        let to = self.endpoint(Some(port), problems);
        let user_given = self.optional("user", "the name of a role", problems);
        let password_file = self.optional("password_file", "the path of a file", problems);
        let tls = self.encryption(problems);
        let source = self.source(problems);
        let Endpoint { host, port } = to?;
        if host.starts_with('/') {
            for key in ["tls", "source"] {
                if let Some(node) = self.fields.get(key)
                    && node.value.as_string_lit().is_none_or(|word| word.value != "off")
                {
                    let message = format!("found `{key}` with a Unix socket, which has none");
                    problems.error_help(&node.at, message, "remove it, or name the host by an address");
                }
            }
        }
        Some(Login {
            tls: tls?,
            source: source?,
            host,
            port,
            user: user_given?.unwrap_or_else(|| user.to_owned()),
            password_file: password_file?,
            database: String::new(),
        })
    }

    /// Whether a database's connection is encrypted.
    fn encryption(&self, problems: &mut Problems) -> Option<Encryption> {
        let given = match self.fields.get("tls") {
            None => Some("off"),
            Some(node) => {
                node.one_of(&Encryption::NAMES.map(|word| (word, word)), problems).map(|word| word.value)
            }
        };
        let name = self.optional("tls_name", "the name in the server's certificate", problems);
        let ca_file = self.optional("ca_file", "the path of a file of PEM certificates", problems);
        let given = match given? {
            "verify" => return Some(Encryption::Verify { name: name?, ca_file: ca_file? }),
            "require" => Encryption::Require,
            "prefer" => Encryption::Prefer,
            _ => Encryption::Off,
        };
        for key in ["tls_name", "ca_file"] {
            if let Some(node) = self.fields.get(key) {
                let message = format!("found `{key}`, expected it with `\"tls\": \"verify\"` only");
                problems.error_help(
                    &node.at,
                    message,
                    "no other value of `tls` looks at the certificate: set \"verify\", or remove this",
                );
            }
        }
        Some(given)
    }

    /// The address that a connection comes from.
    fn source(&self, problems: &mut Problems) -> Option<Option<SourceAddress>> {
        let Some(node) = self.fields.get("source") else { return Some(None) };
        if node.value.as_string_lit().is_some_and(|word| word.value == "server") {
            return Some(Some(SourceAddress::Server));
        }
        const EXPECTED: &str = "\"server\", or an address that this host has";
        const HELP: &str = "\"server\" is the `ip` of each server in this config";
        let text = node.text(EXPECTED, problems)?;
        match text.value.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => Some(Some(SourceAddress::Ip(ip))),
            Ok(_) | Err(_) => {
                node.refuse_help(EXPECTED, HELP, problems);
                None
            }
        }
    }

    /// `host`, by default this one, and `port`. The directory of a Unix socket is a host of a database,
    /// which is what has a default port.
    fn endpoint(&self, default: Option<u16>, problems: &mut Problems) -> Option<Endpoint> {
        let host = match self.fields.get("host") {
            None => Some("127.0.0.1".to_owned()),
            Some(node) => host(node, default.is_some(), problems),
        };
        let port = match (self.fields.get("port"), default) {
            (Some(node), _) => {
                node.whole("a port", bounds::PORT, problems).and_then(|port| u16::try_from(port.value).ok())
            }
            (None, Some(port)) => Some(port),
            (None, None) => {
                self.needed("port", "the port to connect to", "5432", problems);
                None
            }
        };
        Some(Endpoint { host: host?, port: port? })
    }

    /// A key that the check cannot do without.
    fn needed(&self, key: &str, what: &str, example: &str, problems: &mut Problems) -> Option<&Node<'_>> {
        let found = self.fields.get(key);
        // A misspelt key was reported as such.
        if found.is_none() && !self.misspelt(key) {
            let message = format!("found no `{key}`, expected {what}");
            problems.error_help(&self.node.at, message, format!("add for instance \"{key}\": {example}"));
        }
        found
    }

    fn misspelt(&self, key: &str) -> bool {
        let Value::Object(object) = self.node.value else { return false };
        object.properties.iter().any(|property| {
            let word = property.name.as_str();
            !KINDS.iter().any(|(_, keys)| keys.contains(&word)) && nearest(word, [key]).is_some()
        })
    }

    /// A text that may be missing, but not empty.
    fn optional(&self, key: &str, what: &str, problems: &mut Problems) -> Option<Option<String>> {
        let Some(node) = self.fields.get(key) else { return Some(None) };
        let text = node.text(what, problems)?.value;
        if text.is_empty() || text.len() > bounds::CHECK_TEXT || text.contains('\0') {
            node.refuse(&format!("{what}: 1 to {} bytes without zeros", bounds::CHECK_TEXT), problems);
            return None;
        }
        Some(Some(text))
    }
}

/// An address or a name; of a database also the directory of its socket.
fn host(node: &Node, socket: bool, problems: &mut Problems) -> Option<String> {
    let text = node.text("an address or the name of a host", problems)?.value;
    let name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = (1..=253).contains(&text.len()) && text.chars().all(name);
    let is_socket = socket && text.starts_with('/') && text.len() < 100 && !text.contains(['\0', ',']);
    if text.parse::<IpAddr>().is_ok() || is_name || is_socket {
        return Some(text);
    }
    let help = if text.parse::<std::net::SocketAddr>().is_ok() || text.contains(':') {
        "the port goes into the key `port`"
    } else if socket {
        "a Unix socket is named by its directory, such as /var/run/postgresql"
    } else {
        "write for instance \"127.0.0.1\""
    };
    node.refuse_help("an address or the name of a host", help, problems);
    None
}

/// Codes and ranges of codes: 200, "200-299".
fn status(node: &Node, problems: &mut Problems) -> Option<Vec<(u16, u16)>> {
    const EXPECTED: &str = "a status code from 100 to 599, or a range such as \"200-299\"";
    let elements = match node.value {
        Value::Array(_) => node.elements("an array of status codes", problems)?,
        _ => vec![node.clone()],
    };
    if elements.is_empty() {
        node.refuse_help("at least one status code", "remove it: then 200 to 299 are fine", problems);
        return None;
    }
    let code = |text: &str| text.parse().ok().filter(|code| (100..=599).contains(code));
    let ranges: Vec<_> = elements
        .iter()
        .map(|element| {
            let range = match element.value {
                Value::NumberLit(number) => code(number.value).map(|code| (code, code)),
                Value::StringLit(text) => text
                    .value
                    .split_once('-')
                    .and_then(|(from, to)| Some((code(from)?, code(to)?)))
                    .filter(|(from, to)| from <= to),
                Value::BooleanLit(_) | Value::NullKeyword(_) | Value::Object(_) | Value::Array(_) => None,
            };
            if range.is_none() {
                element.refuse(EXPECTED, problems);
            }
            range
        })
        .collect();
    ranges.into_iter().collect()
}
