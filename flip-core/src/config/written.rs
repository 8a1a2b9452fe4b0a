//! The config as written: types and ranges of single values are right, what they mean together is open.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use jsonc_parser::ast::Value;

use super::admin::{self, Admin};
use super::bounds;
use super::hooks::{self, WrittenHooks};
use super::privileges::{self, WrittenPrivileges};
use super::problem::Problems;
use super::raw::{self, Entry, Fields, Node, clip};
use super::scripts::{self, WrittenLua};
use super::source::{At, Spanned};
use super::{Check, Isolated, LogLevel, Profile, SystemKind, WhenAllFail, checks, ip, policy};

const KEYS: &[&str] = &[
    "id",
    "version",
    "quorum",
    "voters",
    "profile",
    "gossip_interval",
    "ping_per_interval",
    "ping_timeout",
    "settle",
    "digest_interval",
    "hook_timeout",
    "mature",
    "lease",
    "witness",
    "key",
    "key_file",
    "cluster_id",
    "log_level",
    "servers",
    "cluster",
    "scripts_dir",
    "unsafe_lua",
    "lua_memory",
    "lua_steps",
    "plugins",
    "user",
    "privileges",
    "admin",
];
const SERVER_KEYS: &[&str] = &["ip", "port", "systems", "system", "priority", "config"];
const CLUSTER_KEYS: &[&str] =
    &["config", "system", "systems", "remove_on_start", "on_exit", "remove_on_failure"];
const SYSTEM_KEYS: &[&str] = &[
    "alive",
    "down",
    "type",
    "isolated",
    "on_daemon_death",
    "checks",
    "when_all_fail",
    "timeout",
    "fall",
    "cool_down",
    "parallel",
    "post",
    "remove_on_start",
    "on_exit",
    "remove_on_failure",
    "config",
    "data",
];

const LOG_LEVELS: [(&str, LogLevel); 5] = [
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("warning", LogLevel::Warning),
    ("error", LogLevel::Error),
    ("fatal", LogLevel::Fatal),
];
const KINDS: [(&str, SystemKind); 4] = [
    ("shard", SystemKind::Shard),
    ("sharded", SystemKind::Shard),
    ("replicate", SystemKind::Replicate),
    ("replicated", SystemKind::Replicate),
];

/// A whole file.
#[derive(Debug)]
pub(super) struct Written {
    pub at: At,
    pub id: Option<Spanned<String>>,
    pub quorum: Option<Spanned<u64>>,
    /// The key was there, though its value may have been refused.
    pub quorum_given: bool,
    pub voters: Option<Spanned<Vec<Spanned<String>>>>,
    pub profile: Option<Spanned<Profile>>,
    pub gossip_interval: Option<Duration>,
    pub ping_per_interval: Option<usize>,
    pub ping_timeout: Option<Duration>,
    pub settle: Option<Duration>,
    pub digest_interval: Option<Duration>,
    pub hook_timeout: Option<Duration>,
    pub mature: Option<Duration>,
    pub lease: Option<Spanned<Duration>>,
    pub witness: Option<Spanned<IpAddr>>,
    pub key: Option<Spanned<String>>,
    /// The key was there, though its value may have been refused.
    pub key_given: bool,
    pub key_file: Option<Spanned<String>>,
    pub cluster_id: String,
    pub log_level: LogLevel,
    pub servers_at: At,
    pub servers: Vec<WrittenServer>,
    pub config: Vec<Setting>,
    pub script_uses: Vec<scripts::Use>,
    /// What stands in `cluster` for all systems.
    pub hooks: WrittenHooks,
    pub systems: Vec<WrittenSystem>,
    pub lua: WrittenLua,
    pub privileges: WrittenPrivileges,
    pub admin: Option<Admin>,
}

/// An entry of `servers`.
#[derive(Debug)]
pub(super) struct WrittenServer {
    pub id: Spanned<String>,
    /// Missing when it was refused.
    pub ip: Option<Spanned<IpAddr>>,
    pub port: u16,
    pub priority: u64,
    pub systems: Vec<Spanned<String>>,
    pub config: Vec<Setting>,
}

/// An entry of `cluster.system`.
#[derive(Debug)]
pub(super) struct WrittenSystem {
    pub name: Spanned<String>,
    pub alive: Option<Spanned<String>>,
    pub down: Option<Spanned<String>>,
    pub kind: SystemKind,
    pub isolated: Option<Spanned<Isolated>>,
    /// `None` inside is for ever.
    pub on_daemon_death: Option<Spanned<Option<Duration>>>,
    pub checks: Vec<Check>,
    pub when_all_fail: Option<Spanned<WhenAllFail>>,
    pub hooks: WrittenHooks,
    pub config: Vec<Setting>,
    pub items: Vec<WrittenItem>,
}

/// An entry of a system's `data`.
#[derive(Debug)]
pub(super) struct WrittenItem {
    pub name: Spanned<String>,
    /// The id of the server that is its home.
    pub prefer: Option<Spanned<String>>,
    pub isolated: Option<Spanned<Isolated>>,
    pub checks: Vec<Check>,
    pub when_all_fail: Option<Spanned<WhenAllFail>>,
    /// The whole object, where it says more than flip reads.
    pub own: Option<serde_json::Map<String, serde_json::Value>>,
    /// Its addresses, in an ip system.
    pub parts: Vec<ip::item::WrittenPart>,
    /// The hardware address of a link of its own.
    pub mac: Option<Spanned<ip::mac::WrittenMac>>,
}

impl WrittenItem {
    /// One that says nothing but what it is.
    pub(super) fn plain(name: Spanned<String>, parts: Vec<ip::item::WrittenPart>) -> Self {
        Self {
            name,
            prefer: None,
            isolated: None,
            checks: Vec::new(),
            when_all_fail: None,
            own: None,
            parts,
            mac: None,
        }
    }
}

/// An entry of a `config`.
#[derive(Debug)]
pub(super) struct Setting {
    pub key: Spanned<String>,
    pub value: Spanned<serde_json::Value>,
}

/// Reads a file's root value. Everything refused is reported and left out.
pub(super) fn read(root: &Node, problems: &mut Problems) -> Option<Written> {
    problems.text.hide(raw::secrets(root.value));
    let fields = root.fields("an object with the key `servers`", KEYS, problems)?;
    let servers = read_servers(root, fields.get("servers"), problems);
    Some(with_servers(root, &fields, servers, problems))
}

/// Reads everything but the servers.
pub(super) fn with_servers(
    root: &Node,
    fields: &Fields,
    servers: Vec<WrittenServer>,
    problems: &mut Problems,
) -> Written {
    let servers_at = fields.get("servers").map_or_else(|| root.at.clone(), |node| node.at.clone());
    let quorum = fields.get("quorum");
    let voters = fields.get("voters").and_then(|node| {
        let names = node.elements("an array of server ids", problems)?;
        let names = names.iter().filter_map(|name| name.text("a server id", problems)).collect();
        Some(node.spanned(names))
    });
    if let Some(node) = fields.get("version") {
        // What it means is the catalog's.
        node.whole("the version of this file", bounds::VERSION, problems);
    }
    let lua = scripts::read(fields, problems);
    let privileges = privileges::read(fields, problems);
    let admin = admin::read(fields, problems);
    let (config, hooks, systems) =
        fields.get("cluster").map(|n| read_cluster(n, problems)).unwrap_or_default();
    Written {
        at: root.at.clone(),
        id: fields.get("id").and_then(|node| node.text("the id of one of the servers", problems)),
        quorum: quorum.and_then(|node| read_quorum(node, problems)),
        quorum_given: quorum.is_some(),
        voters,
        profile: fields.get("profile").and_then(|node| node.one_of(&Profile::NAMES, problems)),
        gossip_interval: millis(fields, "gossip_interval", bounds::GOSSIP_INTERVAL, problems),
        ping_per_interval: fields
            .get("ping_per_interval")
            .and_then(|node| node.whole("a number of pings", bounds::PING_PER_INTERVAL, problems))
            .and_then(|number| usize::try_from(number.value).ok()),
        ping_timeout: millis(fields, "ping_timeout", bounds::PING_TIMEOUT, problems),
        settle: millis(fields, "settle", bounds::SETTLE, problems),
        digest_interval: millis(fields, "digest_interval", bounds::DIGEST_INTERVAL, problems),
        hook_timeout: millis(fields, "hook_timeout", bounds::HOOK_TIMEOUT, problems),
        mature: millis(fields, "mature", bounds::MATURE, problems),
        lease: fields.get("lease").and_then(|node| policy::lease(node, problems)),
        witness: fields.get("witness").and_then(|node| policy::witness(node, problems)),
        key: fields.get("key").and_then(|node| read_key(node, problems)),
        key_given: fields.get("key").is_some(),
        key_file: fields.get("key_file").and_then(|node| node.text("the path of a file", problems)),
        cluster_id: fields
            .get("cluster_id")
            .and_then(|node| read_cluster_id(node, problems))
            .unwrap_or_else(|| "flip".into()),
        log_level: fields
            .get("log_level")
            .and_then(|node| node.one_of(&LOG_LEVELS, problems))
            .map_or(LogLevel::Info, |level| level.value),
        servers_at,
        servers,
        config,
        hooks,
        script_uses: scripts::uses(root),
        systems,
        lua,
        privileges,
        admin,
    }
}

/// A name that goes over the wire, into paths and onto command lines.
pub(super) fn check_name(name: &Spanned<String>, what: &str, problems: &mut Problems) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=bounds::NAME).contains(&name.value.chars().count()) && name.value.chars().all(allowed) {
        return true;
    }
    let message = format!(
        "found \"{}\", expected {what}: 1 to {} of the characters A-Z a-z 0-9 . _ -",
        clip(&name.value),
        bounds::NAME,
    );
    problems.error(&name.at, message);
    false
}

fn millis(
    fields: &Fields,
    key: &str,
    range: RangeInclusive<u64>,
    problems: &mut Problems,
) -> Option<Duration> {
    let number = fields.get(key)?.whole("a whole number of milliseconds", range, problems)?;
    Some(Duration::from_millis(number.value))
}

/// Any whole number: what is possible depends on the voters, who are not known here.
fn read_quorum(node: &Node, problems: &mut Problems) -> Option<Spanned<u64>> {
    if let Value::NumberLit(number) = node.value
        && let Ok(value) = number.value.parse()
    {
        return Some(node.spanned(value));
    }
    node.whole("a number of voters", 1..=bounds::SERVERS as u64, problems)
}

/// Like [`Node::text`], but a message about the key does not repeat it.
fn read_key(node: &Node, problems: &mut Problems) -> Option<Spanned<String>> {
    let Value::StringLit(text) = node.value else {
        let help = "`flip keygen` prints a key; put it into double quotes";
        problems.error_help(&node.at, "expected a string of 64 hexadecimal digits", help);
        return None;
    };
    if text.value.len() > bounds::PASSPHRASE {
        let message =
            format!("the key has {} bytes, expected at most {}", text.value.len(), bounds::PASSPHRASE);
        problems.error_help(&node.at, message, "use 64 hexadecimal digits, as `flip keygen` prints them");
        return None;
    }
    Some(node.spanned(text.value.clone().into_owned()))
}

fn read_cluster_id(node: &Node, problems: &mut Problems) -> Option<String> {
    let id = node.text("a name for the cluster", problems)?;
    check_name(&id, "a name for the cluster", problems).then_some(id.value)
}

fn read_servers(root: &Node, node: Option<&Node>, problems: &mut Problems) -> Vec<WrittenServer> {
    const EXAMPLE: &str = "for instance \"servers\": {\"web1\": {\"ip\": \"10.0.0.1\"}}";
    let Some(node) = node else {
        problems.error_help(&root.at, "found no key `servers`, expected all servers of the cluster", EXAMPLE);
        return Vec::new();
    };
    let Some(entries) = node.entries("an object with one entry for each server", problems) else {
        return Vec::new();
    };
    if entries.is_empty() {
        problems.error_help(&node.at, "found no server, expected at least one", EXAMPLE);
    }
    if entries.len() > bounds::SERVERS {
        let message = format!("found {} servers, expected at most {}", entries.len(), bounds::SERVERS);
        problems.error(&node.at, message);
        return Vec::new();
    }
    entries.iter().map(|entry| read_server(entry, problems)).collect()
}

fn read_server(entry: &Entry, problems: &mut Problems) -> WrittenServer {
    let mut server = WrittenServer::new(owned(entry), problems);
    let Some(fields) = entry.node.fields("an object with the key `ip`", SERVER_KEYS, problems) else {
        return server;
    };
    match fields.get("ip") {
        Some(node) => server.ip = ip::server_address(node, problems),
        None => problems.error_help(
            &entry.key.at,
            format!("server `{}` has no `ip`, expected the address of its daemon", clip(entry.key.value)),
            "add for instance \"ip\": \"10.0.0.1\"",
        ),
    }
    server.read_common(&fields, problems);
    server.config = read_config(fields.get("config"), problems);
    server
}

impl WrittenServer {
    /// One of which nothing is known but its id.
    pub(super) fn new(id: Spanned<String>, problems: &mut Problems) -> Self {
        check_name(&id, "the id of a server", problems);
        Self { id, ip: None, port: 2200, priority: u64::MAX, systems: Vec::new(), config: Vec::new() }
    }

    /// Reads its port, priority and systems.
    pub(super) fn read_common(&mut self, fields: &Fields, problems: &mut Problems) {
        let port = fields.get("port").and_then(|node| node.whole("a port", bounds::PORT, problems));
        self.port = port.and_then(|port| u16::try_from(port.value).ok()).unwrap_or(self.port);
        let priority = fields
            .get("priority")
            .and_then(|node| node.whole("a whole number (lower is first)", bounds::PRIORITY, problems));
        self.priority = priority.map_or(self.priority, |priority| priority.value);
        if let Some(node) = fields.either("systems", "system", problems) {
            let names = match node.value {
                Value::StringLit(_) => vec![node.clone()],
                _ => node.elements("an array of system names", problems).unwrap_or_default(),
            };
            self.systems =
                names.iter().filter_map(|name| name.text("the name of a system", problems)).collect();
        }
    }
}

fn read_cluster(node: &Node, problems: &mut Problems) -> (Vec<Setting>, WrittenHooks, Vec<WrittenSystem>) {
    let Some(fields) = node.fields("an object with the key `system`", CLUSTER_KEYS, problems) else {
        return Default::default();
    };
    let config = read_config(fields.get("config"), problems);
    let hooks = hooks::read_of_cluster(&fields, problems);
    let entries = fields
        .either("system", "systems", problems)
        .map(|node| (node, node.entries("an object with one entry for each system", problems)));
    let Some((node, Some(entries))) = entries else {
        return (config, hooks, Vec::new());
    };
    if entries.len() > bounds::SYSTEMS {
        let message = format!("found {} systems, expected at most {}", entries.len(), bounds::SYSTEMS);
        problems.error(&node.at, message);
        return (config, hooks, Vec::new());
    }
    (config, hooks, entries.iter().map(|entry| read_system(entry, problems)).collect())
}

fn read_system(entry: &Entry, problems: &mut Problems) -> WrittenSystem {
    let mut system = WrittenSystem {
        name: owned(entry),
        alive: None,
        down: None,
        kind: SystemKind::Shard,
        isolated: None,
        on_daemon_death: None,
        checks: Vec::new(),
        when_all_fail: None,
        hooks: WrittenHooks::default(),
        config: Vec::new(),
        items: Vec::new(),
    };
    check_name(&system.name, "the name of a system", problems);
    let expected = "an object with keys like `type` and `data`";
    let Some(fields) = entry.node.fields(expected, SYSTEM_KEYS, problems) else {
        return system;
    };
    system.alive = fields.get("alive").and_then(|node| node.text("the name of a handler", problems));
    system.down = fields.get("down").and_then(|node| node.text("the name of a handler", problems));
    let kind = fields.get("type").and_then(|node| node.one_of(&KINDS, problems));
    system.kind = kind.map_or(SystemKind::Shard, |kind| kind.value);
    system.isolated = fields.get("isolated").and_then(|node| policy::isolated(node, problems));
    system.on_daemon_death =
        fields.get("on_daemon_death").and_then(|node| policy::on_daemon_death(node, problems));
    system.checks = fields.get("checks").map(|node| checks::checks(node, problems)).unwrap_or_default();
    system.when_all_fail = fields.get("when_all_fail").and_then(|node| checks::when_all_fail(node, problems));
    system.hooks = hooks::read(&fields, problems);
    system.config = read_config(fields.get("config"), problems);
    system.items = fields.get("data").map(|node| read_items(node, &system, problems)).unwrap_or_default();
    system
}

fn read_items(node: &Node, system: &WrittenSystem, problems: &mut Problems) -> Vec<WrittenItem> {
    let elements = node.elements("an array with one entry for each item", problems).unwrap_or_default();
    if elements.len() > bounds::ITEMS {
        let message = format!("found {} items, expected at most {}", elements.len(), bounds::ITEMS);
        problems.error_help(&node.at, message, "deal them to several systems");
        return Vec::new();
    }
    let read = if ip::is_ip(system) { ip::item::read } else { policy::item };
    elements.iter().filter_map(|element| read(element, problems)).collect()
}

/// What an entry of `data` is called.
pub(super) fn item_name(node: &Node, is_ip: bool, problems: &mut Problems) -> Option<String> {
    let read = if is_ip { ip::item::read } else { policy::item };
    Some(read(node, problems)?.name.value)
}

fn read_config(node: Option<&Node>, problems: &mut Problems) -> Vec<Setting> {
    let entries = node.and_then(|node| node.entries("an object of settings", problems)).unwrap_or_default();
    let setting = |entry: &Entry| {
        let value = entry.node.json(problems)?;
        Some(Setting { key: owned(entry), value: entry.node.spanned(value) })
    };
    entries.iter().filter_map(setting).collect()
}

fn owned(entry: &Entry) -> Spanned<String> {
    Spanned { value: entry.key.value.to_owned(), at: entry.key.at.clone() }
}
