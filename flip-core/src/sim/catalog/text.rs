//! Config files as operators write them: the same cluster as the plan's, with the items that a host's file has.

use serde_json::{Map, Value, json};

use crate::config::{self, ClusterKey, Config, Isolated, Overrides, Source};
use crate::sim::plan::{Plan, Policy};

/// The key of all simulated clusters.
const KEY: ClusterKey = ClusterKey([3; 32]);
/// Items that no first file has, one of each policy.
const EXTRA: [Policy; 3] = [Policy::Keep, Policy::Take, Policy::Drop];

/// An item that there may be.
#[derive(Clone, Debug)]
pub(super) struct Thing {
    pub(super) system: &'static str,
    pub(super) name: String,
    policy: Policy,
}

/// All items that operators may edit.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    things: Vec<Thing>,
    /// How many of them are addresses.
    addresses: usize,
    /// How many of the addresses the first files have.
    first: usize,
}

/// A config file: its version, and of the addresses those that it has, each with what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) me: usize,
    pub(super) version: u64,
    pub(super) items: Vec<(usize, u32)>,
}

impl Pool {
    pub(super) fn of(plan: &Plan) -> Self {
        let thing = |system: &'static str| {
            move |(n, policy): (usize, &Policy)| Thing {
                system,
                name: format!("{system}{n}"),
                policy: *policy,
            }
        };
        let addresses = plan.addresses.iter().chain(&EXTRA).enumerate();
        let mut things: Vec<_> = addresses.map(thing("addr")).collect();
        let addresses = things.len();
        things.extend(plan.programs.iter().enumerate().map(thing("prog")));
        Self { things, addresses, first: plan.addresses.len() }
    }

    pub(super) fn thing(&self, item: usize) -> (usize, &Thing) {
        let item = item % self.things.len();
        (item, &self.things[item])
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.things.len()
    }

    /// An address of the pool, for the list of a file.
    pub(super) fn address(&self, item: usize) -> usize {
        item % self.addresses
    }

    /// What is said of an item, with its keys in order as catalogs have them. No two numbers make the same of it, and no number but zero the same of two.
    pub(super) fn value(&self, item: usize, to: u32) -> Value {
        let (item, thing) = self.thing(item);
        let isolated = match Isolated::from(thing.policy) {
            Isolated::Keep => "keep",
            Isolated::Take => "take",
            Isolated::Drop => "drop",
        };
        if item >= self.addresses {
            return json!({ "isolated": isolated, "name": thing.name, "to": to });
        }
        json!({ "ip": address(to), "isolated": isolated, "name": thing.name })
    }

    /// What the first files of all hosts say.
    pub(super) fn first_file(&self, plan: &Plan, me: usize) -> Written {
        debug_assert!(me < plan.servers);
        Written { me, version: 1, items: (0..self.first).map(|item| (item, self.own_number(item))).collect() }
    }

    /// What a file says of an item that nobody changed.
    pub(super) fn own_number(&self, item: usize) -> u32 {
        u32::try_from(item).unwrap_or_default() + 1
    }

    /// A text with all items that there ever are.
    pub(super) fn universe(&self, plan: &Plan) -> String {
        let items = (0..self.addresses).map(|item| (item, self.own_number(item))).collect();
        Written { me: 0, version: 1, items }.text(self, plan)
    }
}

/// The address of a number.
pub(super) fn address(to: u32) -> String {
    format!("10.{}.{}.{}/16", 7 + to / 62_500 % 200, to / 250 % 250, to % 250 + 1)
}

impl Written {
    /// The file as a text.
    pub(super) fn text(&self, pool: &Pool, plan: &Plan) -> String {
        let mut systems = Map::new();
        let data: Vec<_> = self.items.iter().map(|(item, to)| pool.value(*item, *to)).collect();
        let ip = json!({ "alive": "ip_up", "down": "ip_down", "config": { "interface": "eth0" },
            "parallel": plan.parallel, "data": data });
        systems.insert("addr".into(), ip);
        let memory = |data: Vec<Value>| json!({ "alive": "memory_up", "down": "memory_down", "parallel": plan.parallel, "data": data });
        if !plan.programs.is_empty() {
            let items = pool.addresses..pool.things.len();
            systems.insert("prog".into(), memory(items.map(|item| pool.value(item, 0)).collect()));
        }
        if plan.replicated > 0 {
            let mut all = memory((0..plan.replicated).map(|n| format!("all{n}").into()).collect());
            all["type"] = "replicate".into();
            systems.insert("all".into(), all);
        }
        let names: Vec<_> = systems.keys().cloned().collect();
        let mut servers = Map::new();
        for server in 0..plan.servers {
            let systems = if server < plan.servers - plan.arbiters { &names[..] } else { &[] };
            servers.insert(
                format!("n{server}"),
                json!({ "ip": format!("10.0.0.{}", server + 1), "port": 2200, "systems": systems }),
            );
        }
        let mut root = json!({ "id": format!("n{}", self.me), "version": self.version, "profile": plan.profile,
            "lease": plan.lease_ms, "cluster_id": "sim", "servers": servers, "cluster": { "system": systems } });
        if plan.witness {
            root["witness"] = json!({ "ping": "10.255.0.1" });
        }
        root.to_string()
    }
}

/// The config that a file means, as the daemon that reads it.
pub(super) fn load(text: &str) -> Config {
    match config::load_with_key(&Source { file: "flip.json", text }, &Overrides::default(), &KEY) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("the simulator writes files without errors: {problems:?}\n{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The world of a plan is the same with a catalog and without, but for what its items are called.
    #[test]
    fn a_file_means_what_its_plan_means() {
        for (servers, profile, witness) in [(1, "lan", false), (4, "fast", true), (9, "turbo", false)] {
            let mut plan = Plan::simple(servers, profile, vec![Policy::Drop, Policy::Keep]);
            plan.programs = vec![Policy::Take];
            plan.replicated = 1;
            plan.arbiters = servers / 4;
            plan.witness = witness;
            plan.parallel = 2;
            let pool = Pool::of(&plan);
            let config = load(&pool.first_file(&plan, servers - 1).text(&pool, &plan));
            let plain = plan.config(0);
            assert_eq!(config.me, servers - 1);
            assert_eq!(config.voters_hash(), plain.voters_hash());
            assert_eq!(config.witness, plain.witness);
            assert_eq!(config.lease, plain.lease);
            assert_eq!(format!("{:?}", config.timing), format!("{:?}", plain.timing));
            for (here, there) in config.servers.iter().zip(plain.servers.iter()) {
                assert_eq!((&here.id, here.addr, here.short), (&there.id, there.addr, there.short));
                assert_eq!(here.systems, there.systems);
            }
            assert_eq!(config.systems.len(), plain.systems.len());
            for (here, there) in config.systems.iter().zip(&plain.systems) {
                assert_eq!((&here.name, here.kind, here.release), (&there.name, there.kind, there.release));
                assert_eq!((here.orphan, here.hooks.parallel), (there.orphan, there.hooks.parallel));
                let items = |system: &config::System| {
                    system.items.iter().map(|item| (item.name.clone(), item.isolated)).collect::<Vec<_>>()
                };
                assert_eq!(items(here), items(there));
            }
        }
    }
}
