//! The cluster of a case: how many servers, which items, which timings.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::fault::Timed;
use crate::config::{
    ClusterKey, Config, Hooks, Isolated, Item, LogLevel, ORPHAN, Profile, Release, Server, System, SystemKind,
};
use crate::id::ShortId;
use crate::{limits, quorum};

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// One line: what it is about.
    #[serde(default)]
    pub about: String,
    /// Seed of all that the schedule leaves to chance.
    pub seed: u64,
    /// The cluster.
    pub plan: Plan,
    /// What goes wrong.
    pub faults: Vec<Timed>,
}

/// The cluster of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Servers, arbiters included.
    pub servers: usize,
    /// Of them, how many hold nothing; they are the last.
    pub arbiters: usize,
    /// The items of the addresses' system (released by the kernel), each with its policy.
    pub addresses: Vec<Policy>,
    /// The items of a system whose hooks are programs.
    pub programs: Vec<Policy>,
    /// How many items are on every server.
    pub replicated: usize,
    /// One of the names of `Profile::NAMES`.
    pub profile: String,
    /// Length of item leases, milliseconds.
    pub lease_ms: u64,
    /// How long the faults are on, milliseconds.
    pub length_ms: u64,
    /// Latency of a link, microseconds, from and to.
    pub latency_us: (u64, u64),
    /// How fast each clock is, parts per million.
    pub ppm: Vec<i64>,
    /// Whether datagrams are sealed by the real cipher, where the harness has a cheap one.
    pub cipher: bool,
    /// Who is healed at the end; everybody when it is empty. The others stay as broken as they are.
    pub core: Vec<usize>,
    /// Ends with a total partition, in which nothing may move.
    pub apart: bool,
    /// A gateway must answer for Down ballots to count.
    #[serde(default)]
    pub witness: bool,
    /// Health checks of the addresses' system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<super::health::Checks>,
    /// Every host has a catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<super::catalog::Disks>,
    /// How many hooks of a system run at once.
    #[serde(default = "many")]
    pub parallel: usize,
}

const fn many() -> usize {
    limits::HOOKS_AT_ONCE
}

/// `Isolated` as the corpus writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Holds what it holds.
    Keep,
    /// Never no holder.
    Take,
    /// Never two.
    Drop,
}

impl From<Policy> for Isolated {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Keep => Self::Keep,
            Policy::Take => Self::Take,
            Policy::Drop => Self::Drop,
        }
    }
}

impl Plan {
    /// A small cluster in which nothing is unusual, for directed cases.
    #[must_use]
    pub fn simple(servers: usize, profile: &str, addresses: Vec<Policy>) -> Self {
        Self {
            servers,
            arbiters: 0,
            addresses,
            programs: Vec::new(),
            replicated: 0,
            profile: profile.into(),
            lease_ms: 4000,
            length_ms: 20_000,
            latency_us: (150, 800),
            ppm: vec![0; servers],
            cipher: false,
            core: Vec::new(),
            apart: false,
            witness: false,
            checks: None,
            catalog: None,
            parallel: many(),
        }
    }

    /// The timings.
    #[must_use]
    pub fn profile(&self) -> Profile {
        let named = Profile::NAMES.iter().find(|(name, _)| *name == self.profile);
        named.map_or(Profile::Balanced, |(_, profile)| *profile)
    }

    /// The config of every server, with `more` items than the plan names (or less).
    #[must_use]
    pub fn config(&self, more: i64) -> Config {
        let addresses = edited(&self.addresses, more);
        let mut systems = vec![system("addr", "ip_up", SystemKind::Shard, &addresses)];
        if !self.programs.is_empty() {
            systems.push(system("prog", "memory_up", SystemKind::Shard, &self.programs));
            systems[1].hooks.post = Some("post".into());
        }
        if self.replicated > 0 {
            let keep = vec![Policy::Keep; self.replicated];
            systems.push(system("all", "memory_up", SystemKind::Replicate, &keep));
        }
        for system in &mut systems {
            system.hooks.parallel = self.parallel;
        }
        let member: Vec<_> = (0..systems.len()).collect();
        let servers: Vec<_> = (0..self.servers)
            .map(|index| {
                let id = format!("n{index}");
                let last = u8::try_from(index % 250 + 1).unwrap_or(1);
                let third = u8::try_from(index / 250).unwrap_or(0);
                Server {
                    // Hashes of so many ids would collide.
                    short: match u16::try_from(index) {
                        Ok(number) if self.servers > 64 => ShortId(number),
                        _ => ShortId::of(&id),
                    },
                    addr: ([10, 0, third, last], 2200).into(),
                    systems: if index < self.servers - self.arbiters { member.clone() } else { Vec::new() },
                    priority: u64::MAX,
                    retired: false,
                    id,
                }
            })
            .collect();
        let shorts: Vec<_> = servers.iter().map(|server| server.short).collect();
        let voters = quorum::voters(&shorts);
        Config {
            me: 0,
            quorum: quorum::majority(voters.len()),
            voters,
            timing: self.profile().timing(self.servers),
            servers: servers.into(),
            systems,
            key: ClusterKey([3; 32]),
            cluster_id: "sim".into(),
            log_level: LogLevel::Info,
            lease: Duration::from_millis(self.lease_ms),
            witness: self.witness.then(|| [10, 255, 0, 1].into()),
            lua: crate::config::LuaConfig::default(),
            privileges: crate::config::Privileges::default(),
            admin: None,
        }
    }
}

fn edited(items: &[Policy], more: i64) -> Vec<Policy> {
    let count = i64::try_from(items.len()).unwrap_or(0) + more;
    let count = usize::try_from(count).unwrap_or(0);
    let mut items = items.to_vec();
    items.resize(count, Policy::Keep);
    items
}

fn system(name: &str, alive: &str, kind: SystemKind, policies: &[Policy]) -> System {
    let release = Release::of(alive);
    let items = policies
        .iter()
        .enumerate()
        .map(|(n, policy)| Item { isolated: (*policy).into(), ..Item::plain(name, &format!("{name}{n}")) });
    System {
        name: name.into(),
        kind,
        alive: alive.into(),
        down: alive.replace("_up", "_down"),
        config: serde_json::Map::new(),
        items: items.collect(),
        release,
        hooks: Hooks::default(),
        orphan: (release == Release::Kernel).then_some(ORPHAN),
        checks: Vec::new(),
    }
}
