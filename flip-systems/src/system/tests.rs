//! Tests of the registry, of timeouts and of drift.

use std::future::pending;
use std::time::Duration;

use flip_core::config::{ClusterKey, Item, LEASE, LogLevel, Profile, Release, Server, SystemKind};
use flip_core::event::Reason;
use flip_core::id::ShortId;

use super::*;

fn config(handlers: &[(&str, &str)]) -> Config {
    let system = |(position, (alive, down)): (usize, &(&str, &str))| flip_core::config::System {
        name: format!("s{position}"),
        kind: SystemKind::Shard,
        alive: (*alive).to_owned(),
        down: (*down).to_owned(),
        config: serde_json::Map::new(),
        release: Release::Hook,
        hooks: Default::default(),
        orphan: None,
        checks: Vec::new(),

        items: ["a", "b"].map(|i| Item::plain(&format!("s{position}"), i)).to_vec(),
    };
    Config {
        me: 0,
        servers: vec![Server {
            id: "n".to_owned(),
            short: ShortId::of("n"),
            addr: "127.0.0.1:1".parse().unwrap(),
            systems: (0..handlers.len()).collect(),
            priority: 1,
            retired: false,
        }]
        .into(),
        quorum: 1,
        voters: vec![0],
        timing: Profile::Lan.timing(1),
        systems: handlers.iter().enumerate().map(system).collect(),
        key: ClusterKey([0; 32]),
        cluster_id: String::new(),
        log_level: LogLevel::Info,
        lease: LEASE,
        witness: None,
        lua: Default::default(),
        privileges: Default::default(),
    }
}

fn call(system: usize, item: usize, action: HookAction) -> HookCall {
    HookCall {
        id: 1,
        item: ItemRef { system, item },
        action,
        reason: Reason::Home,
        timeout: Duration::from_millis(20),
        lifetime: Lifetime::ENDLESS,
    }
}

fn on_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

#[test]
fn handlers_are_found_by_name() {
    let cases = [
        (("memory_up", "memory_down"), None),
        (
            ("memory-up", "memory_down"),
            Some("system s0: unknown handler \"memory-up\" under \"alive\"; there are: ip_up, memory_up"),
        ),
        (
            ("memory_up", ""),
            Some("system s0: unknown handler \"\" under \"down\"; there are: ip_down, memory_down"),
        ),
        (
            ("memory_up", "ip_down"),
            Some(
                "system s0: \"ip_down\" under \"down\" does not belong to \"memory_up\" under \
                 \"alive\"; expected \"memory_down\"",
            ),
        ),
    ];
    for (handlers, expected) in cases {
        let error = on_runtime(async { Systems::open(&config(&[handlers])).err().map(|e| e.to_string()) });
        assert_eq!(error.as_deref(), expected, "{handlers:?}");
    }
}

#[test]
fn an_arbiter_opens_nothing() {
    let mut config = config(&[("nobody", "knows")]);
    config.servers[0].systems.clear();
    let systems = on_runtime(async { Systems::open(&config) }).unwrap();
    assert_eq!(on_runtime(systems.observe()).unwrap(), []);
}

#[test]
fn memory_remembers() {
    on_runtime(async {
        let memory = Memory::default();
        let mut registry = Registry::default();
        registry.register(memory.clone());
        let systems = Systems::open_with(&registry, &config(&[("memory_up", "memory_down"); 2])).unwrap();
        systems.run(call(1, 0, HookAction::Alive)).await.unwrap();
        systems.run(call(1, 1, HookAction::Alive)).await.unwrap();
        systems.run(call(1, 0, HookAction::Down)).await.unwrap();
        let here = ItemRef { system: 1, item: 1 };
        assert!(memory.up().into_iter().eq([here]));
        assert_eq!(memory.calls().len(), 3);
        let seen: Vec<_> = systems.observe().await.unwrap().into_iter().filter(|(_, p)| *p).collect();
        assert_eq!(seen, [(here, true)]);
        systems.run(call(1, 2, HookAction::Alive)).await.unwrap_err();
        systems.run(call(2, 0, HookAction::Alive)).await.unwrap_err();
    });
}

struct Stuck;

impl Handler for Stuck {
    fn alive(&self) -> &str {
        "stuck_up"
    }
    fn down(&self) -> &str {
        "stuck_down"
    }
    fn open(&self, systems: &[Assigned<'_>], drift: &Arc<Drift>, _: &Arc<Bus>) -> Result<Opened, OpenError> {
        let item = ItemRef { system: systems[0].position, item: 0 };
        for present in [true, false] {
            drift.put(item, present);
        }
        Ok(Opened { systems: systems.iter().map(|_| Arc::new(Self) as _).collect(), leftovers: Vec::new() })
    }
}

impl System for Stuck {
    fn alive(&self, _: usize, _: &Context) -> HookFuture {
        Box::pin(pending())
    }
    fn down(&self, _: usize, _: &Context) -> HookFuture {
        Box::pin(pending())
    }
    fn announce(&self, _: usize, _: &Context) -> HookFuture {
        Box::pin(pending())
    }
    fn observe(&self) -> ObserveFuture {
        Box::pin(pending())
    }
}

#[test]
fn a_stuck_hook_is_ended() {
    on_runtime(async {
        let mut registry = Registry::default();
        registry.register(Stuck);
        let systems = Systems::open_with(&registry, &config(&[("stuck_up", "stuck_down")])).unwrap();
        let hook = tokio::spawn(systems.run(call(0, 0, HookAction::Alive)));
        assert_eq!(hook.await.unwrap().unwrap_err(), "alive took longer than 20ms and was ended");
        // Only the last word about an item counts.
        assert_eq!(systems.drift().await, (ItemRef { system: 0, item: 0 }, false));
        tokio::time::timeout(Duration::from_millis(10), systems.drift()).await.unwrap_err();
    });
}
