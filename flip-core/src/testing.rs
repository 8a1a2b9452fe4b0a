//! Configs for the tests of this crate.

use std::time::Duration;

use crate::config::{
    Check, CheckKind, ClusterKey, Config, Hooks, Item, LEASE, LogLevel, Profile, Release, Server, System,
    SystemKind,
};
use crate::id::ShortId;

/// A cluster whose servers are the letters of `ids`, all in one sharded system without items.
pub fn config(ids: &str, me: &str) -> Config {
    let servers: Vec<_> = ids
        .chars()
        .enumerate()
        .map(|(index, id)| Server {
            id: id.to_string(),
            short: ShortId::of(&id.to_string()),
            addr: ([127, 0, 0, 1], 2200 + u16::try_from(index).expect("few servers")).into(),
            systems: vec![0],
            priority: u64::MAX,
            retired: false,
        })
        .collect();
    let mut config = Config {
        me: servers.iter().position(|s| s.id == me).expect("one of the servers"),
        quorum: servers.len() / 2 + 1,
        voters: Vec::new(),
        timing: Profile::Fast.timing(servers.len()),
        servers: servers.into(),
        systems: vec![System {
            name: "test".into(),
            kind: SystemKind::Shard,
            alive: "memory_up".into(),
            down: "memory_down".into(),
            config: serde_json::Map::new(),
            items: Vec::new(),
            release: Release::Hook,
            hooks: Hooks::default(),
            orphan: None,
            checks: Vec::new(),
        }],
        key: ClusterKey([7; 32]),
        cluster_id: "test".into(),
        log_level: LogLevel::Info,
        lease: LEASE,
        witness: None,
        lua: crate::config::LuaConfig::default(),
        privileges: crate::config::Privileges::default(),
    };
    config.voters = config.default_voters();
    config
}

/// `count` items named "0", "1", … in the system of [`config`].
pub fn items(count: usize) -> Vec<Item> {
    (0..count).map(|n| Item::plain("test", &n.to_string())).collect()
}

/// A check that runs every second, with the defaults.
pub fn check(kind: CheckKind) -> Check {
    let ms = Duration::from_millis;
    Check { kind, interval: ms(1000), timeout: ms(500), rise: 1, fall: 3 }
}
