//! The configuration: as written (`written`), as meant (this module), and what to warn about (`check`).
//!
//! The order of `servers` and of a system's `data` in the file is significant and kept: homes are
//! dealt in listed order.
//!
//! [`load`] takes a text through these steps, and every step reports all it finds with its place:
//! `raw` (JSON with places; `syntax` when it is none) → `written` (types and ranges of single values) →
//! `resolve` (references, defaults, merged settings; `handlers`, `hooks`, `ip`, `policy`, `checks`, `privileges`, `admin` and `key`
//! for their parts) →
//! [`Config`].

mod admin;
mod announce;
pub mod bounds;
mod check;
pub mod checks;
mod foreign;
mod handlers;
mod hash;
mod hooks;
mod ip;
mod join;
mod key;
mod merge;
mod nearest;
mod policy;
pub mod privileges;
mod problem;
mod raw;
mod read;
mod resolve;
mod scripts;
mod servers;
mod source;
mod syntax;
mod written;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use admin::{Admin, AdminTls};
pub use announce::{Announce, Notify};
pub use checks::{Check, CheckKind, WhenAllFail};
pub use foreign::{CONFLICT_NAMES, PROBE, PROBE_MOST};
pub(crate) use handlers::alive_of;
pub use hooks::{Hooks, OnExit};
pub use ip::{AUTO, Interface, IpItem, IpPart, IpRoute, IpRule, Scope, parse_vip};
pub(crate) use join::load_joining_with_key;
pub use join::{BIND, Joining, is_joining, load_joining};
pub(crate) use merge::{Needs, merge};
pub(crate) use nearest::nearest;
pub use privileges::{Capability, Keep, Privileges};
pub use problem::{Problem, Severity};
pub use read::{Loaded, Overrides, has_key, key_file_path, load};
pub(crate) use read::{item_name, load_with_key, to_json};
pub(crate) use scripts::names_in;
pub use scripts::{LuaConfig, Script, ScriptFound, ScriptNames, script_names};
pub use servers::Servers;
pub use source::Source;

use crate::id::{CheckRef, ItemId, ShortId};

/// The handlers that a system may name, as pairs of `alive` and `down`.
pub const HANDLERS: [(&str, &str); 2] = [("ip_up", "ip_down"), ("memory_up", "memory_down")];

/// The settings that an ip system reads from its `config`.
pub const IP_CONFIG_KEYS: [&str; 11] = [
    "interface",
    "scope",
    "noprefixroute",
    "announce",
    "announce_rate",
    "arp_cache",
    "notify",
    "conflict",
    "probe",
    IP_KILL_CONNECTIONS,
    IP_TICKLE,
];
/// The setting of an ip system that ends TCP connections to an address before it leaves; `true` or `false`.
pub const IP_KILL_CONNECTIONS: &str = "kill_connections";
/// The setting of an ip system that lets the clients of an address's former holder know; `true` or `false`.
pub const IP_TICKLE: &str = "tickle";

/// A cluster as one node sees it: everything that the rules need to know, nothing to be validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Index of this node's server in `servers`.
    pub me: usize,
    /// All servers, in listed order.
    pub servers: Servers,
    /// How many voters must say Down before a member is down (`1..=servers.len()`).
    pub quorum: usize,
    /// Positions of the servers that vote, ascending: those that the key `voters` names (an array of
    /// server ids), else `quorum::voters` of all. The default quorum is a majority of these.
    pub voters: Vec<usize>,
    /// All timings.
    pub timing: Timing,
    /// All systems, in listed order.
    pub systems: Vec<System>,
    /// What the packet keys are derived from.
    pub key: ClusterKey,
    /// Separates clusters that share a key; part of every key derivation.
    pub cluster_id: String,
    /// What to log.
    pub log_level: LogLevel,
    /// How long a majority's grant to hold an item with `"isolated": "drop"` is valid (`lease`).
    pub lease: Duration,
    /// An address that must answer echo requests for this node's Down ballots to count (`witness`).
    pub witness: Option<IpAddr>,
    /// What scripts may use, and which plugins run.
    pub lua: LuaConfig,
    /// As whom the daemon runs and what it keeps (`user`, `privileges`).
    pub privileges: Privileges,
    /// Where the daemon's API listens beside its Unix socket (`admin`).
    pub admin: Option<Admin>,
}

/// The default of `lease`.
pub const LEASE: Duration = Duration::from_secs(4);
/// The default of `on_daemon_death`.
pub const ORPHAN: Duration = Duration::from_secs(60);

/// A server as the config names it.
#[derive(Clone, Debug)]
pub struct Server {
    /// The key under `servers`.
    pub id: String,
    /// Its short form on the wire, unique in the config.
    pub short: ShortId,
    /// Where its daemon listens (UDP and TCP).
    pub addr: SocketAddr,
    /// Indices into `Config::systems` of the systems that it takes part in; empty for an arbiter.
    pub systems: Vec<usize>,
    /// Lower is first. Servers without a priority come after all others (`u64::MAX`).
    pub priority: u64,
    /// It is not in the config any more, but was up when that was changed: it gets nothing, has no vote, and is
    /// gone as soon as it leaves or falls silent. Only in the config of a running node, behind all others.
    pub retired: bool,
}

/// A system: a list of items and how they are placed and acted on.
#[derive(Clone, Debug)]
pub struct System {
    /// The key under `cluster.system`.
    pub name: String,
    /// How its items are placed.
    pub kind: SystemKind,
    /// Name of the handler that runs where an item arrives.
    pub alive: String,
    /// Name of the handler that runs where an item leaves.
    pub down: String,
    /// `cluster.config`, overridden by the system's `config`, overridden by this server's `config`.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// The items, in listed order.
    pub items: Vec<Item>,
    /// How an item is released: decides what promise `"isolated": "drop"` can keep.
    pub release: Release,
    /// How its hooks are called.
    pub hooks: Hooks,
    /// How long the kernel keeps an address whose daemon died while others could take over
    /// (`on_daemon_death`); none for ever. Only for `Release::Kernel` and items that are not `drop`.
    pub orphan: Option<Duration>,
    /// What tells whether a server is fit to hold any of its items.
    pub checks: Vec<Check>,
}

/// What a node does with an item while it sees no quorum (the key `isolated`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolated {
    /// Holds what it holds, takes nothing.
    #[default]
    Keep,
    /// Also takes every item that it can't see held.
    Take,
    /// Releases everything within the lease: never two holders.
    Drop,
}

impl Isolated {
    /// The words of the config.
    pub const NAMES: [(&'static str, Self); 3] =
        [("keep", Self::Keep), ("take", Self::Take), ("drop", Self::Drop)];
}

/// How the items of a system are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// By the kernel, even when nobody acts: addresses with a lifetime.
    Kernel,
    /// By a hook that has to end.
    Hook,
}

impl Release {
    /// How the handler of this name under `alive` releases.
    #[must_use]
    pub fn of(alive: &str) -> Self {
        if alive == HANDLERS[0].0 { Self::Kernel } else { Self::Hook }
    }
}

/// One entry of a system's `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is called: its `name` or the text in the config; of a group without a name, its first address.
    pub name: String,
    /// Its cluster-wide id.
    pub id: ItemId,
    /// Position of the server that is its home by wish (`prefer`).
    pub prefer: Option<usize>,
    /// Position of the server that is its home by the catalog: where it stays when servers or items come and go.
    /// `prefer` is stronger.
    pub home: Option<usize>,
    /// The system's `isolated`, or its own.
    pub isolated: Isolated,
    /// What tells whether a server is fit to hold this item, beside the checks of its system.
    pub checks: Vec<Check>,
    /// The system's `when_all_fail`, or its own.
    pub when_all_fail: WhenAllFail,
    /// The whole entry where it is an object that says more than its name: settings for its hooks.
    pub own: Option<serde_json::Map<String, serde_json::Value>>,
    /// Its addresses, in an ip system.
    pub ip: Option<IpItem>,
    /// It is not in the config any more, but some server may still have it: it belongs nowhere, and is gone as
    /// soon as everybody let go of it. Only in the config of a running node, behind all others of its system.
    pub retired: bool,
}

impl Item {
    /// An item that says nothing but its name.
    #[must_use]
    pub fn plain(system: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: ItemId::of(system, name),
            prefer: None,
            home: None,
            isolated: Isolated::default(),
            checks: Vec::new(),
            when_all_fail: WhenAllFail::default(),
            own: None,
            ip: None,
            retired: false,
        }
    }

    /// Its addresses with their prefixes, in an ip system.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.ip.iter().flat_map(|ip| &ip.parts).map(|part| part.net.to_string()).collect()
    }

    /// Whether people who say `text` mean this item: by its name, or by one of its addresses.
    #[must_use]
    pub fn is_called(&self, text: &str) -> bool {
        let has = |ip: &IpItem| parse_vip(text).is_ok_and(|net| ip.has(net.addr()));
        self.name == text || self.ip.as_ref().is_some_and(has)
    }
}

/// How the items of a system are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemKind {
    /// Each item on exactly one eligible server.
    Shard,
    /// Each item on every eligible server.
    Replicate,
}

/// All timings of a node. A `profile` sets them together; single keys override it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often peers are probed (`gossip_interval`).
    pub probe_interval: Duration,
    /// How many peers each probe round reaches (`ping_per_interval`). With at least
    /// `servers - 1` everybody is probed every interval; with less, one random member every
    /// `probe_interval / ping_per_interval` (SWIM).
    pub pings_per_interval: usize,
    /// Silence after a probe until a voter casts a Down ballot when nothing is lost
    /// (`ping_timeout`): a quarter to open the case, the rest is the window of the case.
    pub ping_timeout: Duration,
    /// How many pings the window of a case holds when nothing is lost. The window grows with the
    /// loss that the node sees, the distance between the pings stays.
    pub case_pings: u32,
    /// How long placement may wait for other open cases before it acts on a verdict.
    pub settle: Duration,
    /// How often a node compares its view with a random member's.
    pub digest_interval: Duration,
    /// How long one hook may take.
    pub hook_timeout: Duration,
    /// How long a server must have been up after a verdict on it before it gets items again (`mature`);
    /// doubled for each further verdict within ten minutes.
    pub mature: Duration,
}

impl Timing {
    /// Silence after a probe until a case is opened.
    #[must_use]
    pub fn open_after(&self) -> Duration {
        self.ping_timeout / 4
    }

    /// The window of a case when nothing is lost.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.ping_timeout - self.open_after()
    }

    /// The distance between two pings of a case.
    #[must_use]
    pub fn case_ping_interval(&self) -> Duration {
        self.window() / self.case_pings
    }
}

/// A named set of timings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Calm: one probe a second.
    Lan,
    /// The default: a dead host's items answer again in under two seconds.
    Balanced,
    /// Under a second.
    Fast,
    /// Tens of milliseconds; for up to nine servers on one LAN.
    Turbo,
}

impl Profile {
    /// The names that a config may use, in the order of their speed.
    pub const NAMES: [(&'static str, Self); 4] =
        [("lan", Self::Lan), ("balanced", Self::Balanced), ("fast", Self::Fast), ("turbo", Self::Turbo)];

    /// The timings of this profile for a cluster of `servers` servers.
    #[must_use]
    pub fn timing(self, servers: usize) -> Timing {
        // Up to nine servers everybody probes everybody: detection is one round, and every voter
        // knows the loss of every path before it has to judge a silence.
        let pings_per_interval = if servers <= 9 { servers.saturating_sub(1).max(1) } else { 1 };
        let ms = Duration::from_millis;
        let timing = |probe, timeout, pings, settle, digest, mature| Timing {
            probe_interval: ms(probe),
            pings_per_interval,
            ping_timeout: ms(timeout),
            case_pings: pings,
            settle: ms(settle),
            digest_interval: ms(digest),
            hook_timeout: ms(10_000),
            mature: ms(mature),
        };
        match self {
            Self::Lan => timing(1000, 1500, 10, 500, 5000, 5000),
            Self::Balanced => timing(500, 1000, 10, 300, 3000, 3000),
            Self::Fast => timing(200, 400, 10, 100, 2000, 1000),
            Self::Turbo => timing(15, 32, 8, 10, 500, 500),
        }
    }
}

/// The secret that packet keys are derived from.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(pub [u8; 32]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// The five levels of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything, also what happens to single messages of a case.
    Debug,
    /// What a user would call a change.
    Info,
    /// What an operator should look at.
    Warning,
    /// What is broken.
    Error,
    /// Only what ends the daemon.
    Fatal,
}

impl System {
    /// The same system with other items, without a copy of those that it has.
    #[must_use]
    pub fn with_items(&self, items: Vec<Item>) -> Self {
        Self {
            name: self.name.clone(),
            kind: self.kind,
            alive: self.alive.clone(),
            down: self.down.clone(),
            config: self.config.clone(),
            items,
            release: self.release,
            hooks: self.hooks.clone(),
            orphan: self.orphan,
            checks: self.checks.clone(),
        }
    }
}

impl Config {
    /// The same config with other systems, without a copy of those that it has.
    #[must_use]
    pub fn with_systems(&self, systems: Vec<System>) -> Self {
        Self {
            me: self.me,
            servers: self.servers.clone(),
            quorum: self.quorum,
            voters: self.voters.clone(),
            timing: self.timing.clone(),
            systems,
            key: self.key.clone(),
            cluster_id: self.cluster_id.clone(),
            log_level: self.log_level,
            lease: self.lease,
            witness: self.witness,
            lua: self.lua.clone(),
            privileges: self.privileges.clone(),
            admin: self.admin.clone(),
        }
    }

    /// This node's own entry in `servers`.
    #[must_use]
    pub fn my(&self) -> &Server {
        &self.servers[self.me]
    }

    /// How many servers before this one in the list have its IP address, and so share its host.
    #[must_use]
    pub fn siblings(&self) -> usize {
        let host = self.my().addr.ip();
        self.servers[..self.me].iter().filter(|server| server.addr.ip() == host).count()
    }

    /// Whether a server may get items of a system.
    #[must_use]
    pub fn takes_part(&self, server: usize, system: usize) -> bool {
        let server = &self.servers[server];
        !server.retired && server.systems.contains(&system)
    }

    /// How many servers the config names: those that are not retired, which come first.
    #[must_use]
    pub fn named_servers(&self) -> usize {
        self.servers.iter().take_while(|server| !server.retired).count()
    }

    /// Who votes when the config names nobody.
    #[must_use]
    pub fn default_voters(&self) -> Vec<usize> {
        let shorts: Vec<_> = self.servers.iter().map(|server| server.short).collect();
        crate::quorum::voters(&shorts)
    }

    /// The check at this place.
    #[must_use]
    pub fn check(&self, at: CheckRef) -> Option<&Check> {
        let system = self.systems.get(at.system)?;
        match at.item {
            None => system.checks.get(at.check),
            Some(item) => system.items.get(item)?.checks.get(at.check),
        }
    }

    /// Position of the server with this short id.
    #[must_use]
    pub fn server_index(&self, short: ShortId) -> Option<usize> {
        self.servers.with_short(short)
    }
}
