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
        admin: None,
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

/// What a system was asked and told, by its number and its own positions.
#[derive(Default)]
struct Diary(std::sync::Mutex<Vec<String>>);

impl Diary {
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Noted {
    diary: Arc<Diary>,
    number: usize,
    names: Vec<String>,
}

impl Noted {
    fn hook(&self, what: &str, item: usize) -> HookFuture {
        self.diary.note(format!("{what} {} of {}", self.names[item], self.number));
        Box::pin(std::future::ready(Ok(())))
    }
}

impl System for Noted {
    fn alive(&self, item: usize, _: &Context) -> HookFuture {
        self.hook("alive", item)
    }

    fn down(&self, item: usize, _: &Context) -> HookFuture {
        self.hook("down", item)
    }

    fn observe(&self) -> ObserveFuture {
        Box::pin(std::future::ready(Ok((0..self.names.len()).collect())))
    }

    fn forget(&self, item: usize) {
        self.diary.note(format!("forget {} of {}", self.names[item], self.number));
    }

    fn heard(&self, from: usize, topic: u8, _: &[u8]) {
        self.diary.note(format!("{} hears {topic} of {from}", self.number));
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.diary.note(format!("{} ends", self.number));
    }
}

fn noted(diary: &Arc<Diary>, drift: &Arc<std::sync::Mutex<Option<Arc<Drift>>>>) -> Registry {
    struct Keeps(Arc<Diary>, Arc<std::sync::Mutex<Option<Arc<Drift>>>>);
    impl Handler for Keeps {
        fn alive(&self) -> &str {
            "n_up"
        }
        fn down(&self) -> &str {
            "n_down"
        }
        fn open(
            &self,
            systems: &[Assigned<'_>],
            drift: &Arc<Drift>,
            _: &Arc<Bus>,
        ) -> Result<Opened, OpenError> {
            *self.1.lock().unwrap() = Some(Arc::clone(drift));
            let make = |one: &Assigned<'_>| {
                let names = one.system.items.iter().map(|item| item.name.clone()).collect();
                Arc::new(Noted { diary: Arc::clone(&self.0), number: one.position, names }) as Arc<dyn System>
            };
            Ok(Opened { systems: systems.iter().map(make).collect(), leftovers: Vec::new() })
        }
    }
    let mut registry = Registry::default();
    registry.register(Keeps(Arc::clone(diary), Arc::clone(drift)));
    registry
}

/// An item stays with who serves it while hooks see no difference; whoever says something of it need not know where
/// it stands by now.
#[test]
fn items_stay_with_who_serves_them_while_others_come_and_go() {
    let diary = Arc::new(Diary::default());
    let drift = Arc::default();
    let registry = noted(&diary, &drift);
    let before = config(&[("n_up", "n_down"), ("memory_up", "memory_down")]);
    let mut systems = Systems::open_with(&registry, &before).unwrap();
    let items = |names: &[&str]| names.iter().map(|name| Item::plain("s0", name)).collect::<Vec<_>>();
    let at = |system, item| ItemRef { system, item };

    // In between comes one, and the systems change their places.
    let mut after = before.clone();
    after.systems[0].items = items(&["a", "x", "b"]);
    after.systems.swap(0, 1);
    assert!(systems.adopt(&registry, &after).is_empty());
    assert_eq!(diary.take(), [] as [&str; 0]);
    on_runtime(async {
        for item in 0..3 {
            systems.run(call(1, item, HookAction::Alive)).await.unwrap();
        }
        assert_eq!(diary.take(), ["alive a of 0", "alive x of 2", "alive b of 0"]);
        assert!(systems.run(call(1, 3, HookAction::Alive)).await.unwrap_err().contains("no item 3"));
        let told = drift.lock().unwrap().clone().unwrap();
        told.put(at(0, 1), false);
        assert_eq!(systems.drift().await, (at(1, 2), false), "b stands there now");
        told.say(at(2, 0), Word::Usable(None));
        assert_eq!(systems.word().await.0, at(1, 1));
        let here = systems.observe().await.unwrap();
        assert_eq!(here.iter().filter(|(_, here)| *here).count(), 3);
    });
    systems.heard(0, 9, b"");
    assert_eq!(diary.take(), ["0 hears 9 of 0", "2 hears 9 of 0"]);

    // One goes, and one is another thing to its hooks: each is served anew or no more.
    let mut last = after.clone();
    last.systems[1].items = items(&["b", "a"]);
    last.systems[1].items[0].own = Some(serde_json::Map::from_iter([("port".to_owned(), 1.into())]));
    assert!(systems.adopt(&registry, &last).is_empty());
    assert_eq!(diary.take(), ["forget b of 0", "forget x of 2", "2 ends"]);
    on_runtime(async {
        for item in 0..2 {
            systems.run(call(1, item, HookAction::Down)).await.unwrap();
        }
    });
    assert_eq!(diary.take(), ["down b of 3", "down a of 0"]);
    let told = drift.lock().unwrap().clone().unwrap();
    told.say(at(0, 1), Word::Usable(None));
    assert_eq!(systems.word_now(), None, "nobody has it any more");

    // A system that cannot be opened says why in place of its hooks, and the others go on.
    let mut wrong = last.clone();
    let mut more = wrong.systems[1].clone();
    (more.name, more.alive) = ("more".to_owned(), "nobody".to_owned());
    wrong.systems.push(more);
    wrong.servers[0].systems.push(2);
    let errors = systems.adopt(&registry, &wrong);
    assert_eq!(errors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["more"]);
    on_runtime(async {
        let error = systems.run(call(2, 0, HookAction::Alive)).await.unwrap_err();
        assert!(error.contains("unknown handler \"nobody\""), "{error}");
        systems.run(call(1, 1, HookAction::Down)).await.unwrap();
    });
    assert_eq!(diary.take(), ["down a of 0"]);
    // And one that is gone ends.
    let mut none = last;
    none.systems.remove(1);
    none.servers[0].systems = vec![0];
    assert!(systems.adopt(&registry, &none).is_empty());
    assert_eq!(diary.take(), ["forget a of 0", "forget b of 3", "0 ends", "3 ends"]);
}

/// Servers keep their numbers on the bus, whatever their positions are.
#[test]
fn servers_keep_their_numbers() {
    let config = |ids: &[&str]| {
        let mut config = config(&[("memory_up", "memory_down")]);
        let server =
            |id: &&str| Server { id: (*id).to_owned(), short: ShortId::of(id), ..config.servers[0].clone() };
        let servers: Vec<_> = ids.iter().map(server).collect();
        config.me = ids.iter().position(|id| *id == "a").unwrap();
        config.servers = servers.into();
        config
    };
    let registry = Registry::default();
    let mut systems = Systems::open_with(&registry, &config(&["a", "b", "c"])).unwrap();
    systems.set_members(vec![1, 2]);
    assert_eq!(systems.bus.members(), [1, 2]);
    systems.adopt(&registry, &config(&["d", "c", "a"]));
    systems.set_members(vec![0, 1]);
    assert_eq!(systems.bus.members(), [3, 2]);
    assert_eq!([2, 3, 0, 1].map(|number| systems.position_of(number)), [Some(1), Some(0), Some(2), None]);
    systems.adopt(&registry, &config(&["a", "b"]));
    assert_eq!(systems.position_of(1), Some(1), "one that comes back has its number");
}
