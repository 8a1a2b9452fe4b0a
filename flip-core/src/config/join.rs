//! The config file of a server that joins a running cluster: who it is, where the others reach it, and what concerns
//! it alone. Everything else it gets from the cluster.

use serde_json::{Map, Value, json};

use super::key;
use super::problem::{Problem, Problems};
use super::raw::{self, Node};
use super::read::{Overrides, read_source};
use super::resolve::{self, Derive, Secrets};
use super::source::{Source, Spanned};
use super::written::{self, WrittenServer};
use super::{ClusterKey, Config, bounds, ip};

/// Where the others reach it: this key makes a file one of this kind.
pub const BIND: &str = "bind";

/// The keys that there are: those of its entry in the cluster's `servers`, and those that never spread.
const KEYS: &[&str] = &[
    "id",
    BIND,
    "port",
    "systems",
    "system",
    "priority",
    "interface",
    "key",
    "key_file",
    "cluster_id",
    "log_level",
    "scripts_dir",
    "unsafe_lua",
    "lua_memory",
    "lua_steps",
    "plugins",
    "user",
    "privileges",
    "admin",
    "witness",
];

/// A file of this kind that can be used.
#[derive(Clone, Debug)]
pub struct Joining {
    /// A cluster of this server alone, without systems: what concerns it alone is as it will be.
    pub config: Config,
    /// What the cluster's `servers` will say of it.
    pub entry: Map<String, Value>,
    /// What will surprise somebody, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Whether a text is a file of this kind: it says where its server listens, and names no servers.
#[must_use]
pub fn is_joining(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Ok(Some(root)) = raw::parse(text) else { return false };
    let root = Node::root(&root);
    root.child(BIND).is_some() && root.child("servers").is_none()
}

/// Reads a file of this kind.
///
/// # Errors
/// As [`super::load`].
pub fn load_joining(source: &Source, overrides: &Overrides) -> Result<Joining, Vec<Problem>> {
    load(source, overrides, Secrets::Derive(key::derive as Derive))
}

/// As [`load_joining`], of a server whose key is known already.
pub(crate) fn load_joining_with_key(
    source: &Source,
    overrides: &Overrides,
    key: &ClusterKey,
) -> Result<Joining, Vec<Problem>> {
    load(source, overrides, Secrets::Known(key))
}

fn load(source: &Source, overrides: &Overrides, secrets: Secrets<'_>) -> Result<Joining, Vec<Problem>> {
    let read = |root: &Node, problems: &mut Problems| read(root, overrides, secrets, problems);
    let ((config, entry), warnings) = read_source(source, bounds::FILE, BIND, read)?;
    // What is said of the servers as a whole is not meant: the others are not here.
    let warnings = warnings.into_iter().filter(|problem| problem.path != "servers").collect();
    Ok(Joining { config, entry, warnings })
}

fn read(
    root: &Node,
    overrides: &Overrides,
    secrets: Secrets<'_>,
    problems: &mut Problems,
) -> Option<(Config, Map<String, Value>)> {
    problems.text.hide(raw::secrets(root.value));
    let fields = root.fields("an object with the keys `id` and `bind`", KEYS, problems)?;
    let named = fields.get("id").and_then(|node| node.text("the id of this server", problems));
    let host = overrides.host_name.map(|name| name.split('.').next().unwrap_or(name));
    let id = match (overrides.id, named, host) {
        (Some(id), ..) | (None, None, Some(id)) => Spanned { value: id.to_owned(), at: root.at.clone() },
        (None, Some(named), _) => named,
        (None, None, None) => {
            problems.error_help(
                &root.at,
                "which server is this? found neither `id` nor --id, and the host name is unknown",
                "add for instance \"id\": \"web3\"",
            );
            return None;
        }
    };
    let mut server = WrittenServer::new(id.clone(), problems);
    match fields.get(BIND) {
        Some(node) => server.ip = ip::server_address(node, problems),
        None => problems.error_help(
            &root.at,
            "found no key `bind`, expected the address at which the others reach this server",
            "add for instance \"bind\": \"10.0.0.3\"",
        ),
    }
    server.read_common(&fields, problems);
    let interface = fields.get("interface").and_then(|node| node.text("the name of an interface", problems));
    let mut entry = Map::new();
    entry.insert("ip".into(), json!(server.ip.as_ref()?.value));
    entry.insert("port".into(), json!(server.port));
    // Which systems there are the cluster knows.
    let systems: Vec<_> = std::mem::take(&mut server.systems).into_iter().map(|name| name.value).collect();
    if !systems.is_empty() {
        entry.insert("systems".into(), json!(systems));
    }
    if fields.get("priority").is_some() {
        entry.insert("priority".into(), json!(server.priority));
    }
    if let Some(interface) = interface {
        entry.insert("config".into(), json!({ "interface": interface.value }));
    }
    let mut written = written::with_servers(root, &fields, vec![server], problems);
    // It is `id`, whatever the file says.
    written.id = None;
    let overrides = Overrides { id: Some(&id.value), ..*overrides };
    Some((resolve::resolve(&written, &overrides, secrets, problems)?, entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::LOCAL_KEYS;

    fn text(text: &str) -> Result<Joining, Vec<Problem>> {
        load_joining(&Source { file: "join.json", text }, &Overrides::default())
    }

    #[test]
    fn what_a_server_needs_to_join() {
        let least =
            text(r#"{"id": "c", "key": "hunter2hunter2hunter2", "bind": "10.0.0.3"}"#).expect("enough");
        assert_eq!(least.config.my().id, "c");
        assert_eq!(least.config.my().addr.to_string(), "10.0.0.3:2200");
        assert_eq!(Value::Object(least.entry), json!({ "ip": "10.0.0.3", "port": 2200 }));
        assert!(
            least.warnings.iter().all(|warning| !warning.message.contains("single")),
            "{:?}",
            least.warnings
        );
        let more = text(
            r#"{
                "id": "c", "bind": "10.0.0.3", "port": 7000, "systems": ["ip", "db"], "priority": 3,
                "interface": "eth1", "log_level": "debug", // its own
            }"#,
        )
        .expect("all of it");
        let wanted = json!({
            "ip": "10.0.0.3", "port": 7000, "systems": ["ip", "db"], "priority": 3,
            "config": { "interface": "eth1" },
        });
        assert_eq!(Value::Object(more.entry), wanted);
        assert_eq!(more.config.log_level, crate::config::LogLevel::Debug);
        assert_eq!(more.warnings.len(), 1, "no key: {:?}", more.warnings);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (wrong, expected) in [
            ("", "expected an object with the key `bind`"),
            (r#"{"id": "c"}"#, "found no key `bind`"),
            (r#"{"bind": "10.0.0.3"}"#, "found neither `id` nor --id"),
            (r#"{"id": "c d", "bind": "10.0.0.3"}"#, "expected the id of a server"),
            (r#"{"id": "c", "bind": "10.0.0.3:2200"}"#, "10.0.0.3:2200"),
            (r#"{"id": "c", "bind": "10.0.0.3", "port": 0}"#, "expected a port"),
            (r#"{"id": "c", "bind": "10.0.0.3", "cluster": {}}"#, "cluster"),
            (r#"{"id": "c", "bind": "10.0.0.3", "version": 2}"#, "version"),
            (r#"{"id": "c", "bind": "10.0.0.3", "log_level": "loud"}"#, "loud"),
            (r#"{"id": "c", "bind": "10.0.0.3", "interface": 1}"#, "expected the name of an interface"),
        ] {
            let problems = text(wrong).expect_err(wrong);
            let said: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
            assert!(said.iter().any(|message| message.contains(expected)), "{wrong}: {said:?}");
        }
    }

    #[test]
    fn its_keys_are_those_that_never_spread() {
        let own = KEYS.iter().filter(|key| LOCAL_KEYS.contains(key)).count();
        assert_eq!(own, LOCAL_KEYS.len() - 1, "all but `version`, which is of what spreads");
    }

    #[test]
    fn a_file_of_this_kind_is_known() {
        assert!(is_joining(r#"{"bind": "10.0.0.3"}"#));
        assert!(!is_joining(r#"{"servers": {}}"#) && !is_joining("{") && !is_joining(""));
    }
}
