//! What a cluster is to be, and the config that says so.

use std::net::IpAddr;

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
        for (key, value) in &self.extra {
            config[key] = value.clone();
        }
        config
    }
}
