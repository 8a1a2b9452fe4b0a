//! What a cluster is to be, and the config that says so.

use std::net::IpAddr;
use std::time::Duration;

use flip_core::config::Isolated;
use serde_json::{Map, Value, json};

use super::name;
use crate::lab::{INTERFACE, Who, host_ip, vip, vip6};

const PORT: u16 = 2200;
/// The passphrase of every lab; the way to a key costs some milliseconds per start.
const KEY: &str = "secret lab key that guards nothing at all";

/// What cluster to build.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// Servers that hold addresses: `h0`, `h1` and so on.
    pub hosts: usize,
    /// Servers after these that only vote.
    pub arbiters: usize,
    /// Virtual IPv4 addresses, from `vip(0)` on.
    pub vips: usize,
    /// As many virtual IPv6 addresses, from `vip6(0)` on.
    pub ip6: bool,
    /// The config's `profile`.
    pub profile: String,
    /// What servers do with their addresses where they see no quorum; none leaves it to the default.
    pub isolated: Option<Isolated>,
    /// The config's `lease`, for addresses with `Isolated::Drop`; none leaves it to the default.
    pub lease: Option<Duration>,
    /// `on_daemon_death`, as an expiry; none leaves it to the default.
    pub orphan: Option<Duration>,
    /// More keys of the config; they replace those made from the fields above.
    pub extra: Map<String, Value>,
    /// More arguments for every daemon.
    pub args: Vec<String>,
}

impl ClusterSpec {
    /// A cluster of servers that share IPv4 addresses.
    #[must_use]
    pub fn new(hosts: usize, vips: usize, profile: &str) -> Self {
        Self {
            hosts,
            arbiters: 0,
            vips,
            ip6: false,
            profile: profile.to_owned(),
            isolated: None,
            lease: None,
            orphan: None,
            extra: Map::new(),
            args: Vec::new(),
        }
    }

    /// The virtual addresses, in the order of the config.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let six = if self.ip6 { self.vips } else { 0 };
        (0..self.vips).map(vip).chain((0..six).map(vip6)).collect()
    }

    /// The config, the same for all servers.
    #[must_use]
    pub fn config(&self) -> Value {
        let mut servers = Map::new();
        for n in 0..self.hosts + self.arbiters {
            let mut server = json!({ "ip": host_ip(Who::Host(n)), "port": PORT });
            if n < self.hosts {
                server["systems"] = json!(["ip"]);
            }
            servers.insert(name(n), server);
        }
        let mut config = json!({
            "profile": self.profile,
            "key": KEY,
            "servers": servers,
            "cluster": { "system": { "ip": {
                "alive": "ip_up",
                "down": "ip_down",
                "type": "shard",
                "config": { "interface": INTERFACE },
                "data": self.addresses(),
            }}},
        });
        let system = &mut config["cluster"]["system"]["ip"];
        if let Some(isolated) = self.isolated {
            let word = Isolated::NAMES.iter().find(|(_, each)| *each == isolated).map(|(word, _)| *word);
            system["isolated"] = json!(word);
        }
        if let Some(orphan) = self.orphan {
            system["on_daemon_death"] = json!(format!("expire:{}", orphan.as_secs()));
        }
        if let Some(lease) = self.lease {
            config["lease"] = json!(lease.as_millis());
        }
        for (key, value) in &self.extra {
            config[key] = value.clone();
        }
        config
    }
}
