//! Nodes in this process, on loopback: what a program that embeds one may rely on.

use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flip_core::config::{Overrides, Source};
use flip_core::event::Event;
use flip_core::stored::StoredKeys;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::*;
use crate::Memory;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// One server on a free port of loopback, with one item in memory.
fn alone(memory: &Memory) -> Builder {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let text = serde_json::json!({
        "servers": {"a": {"ip": "127.0.0.1", "port": port, "systems": ["m"]}},
        "cluster": {"system": {"m": {"alive": "memory_up", "down": "memory_down", "data": ["x"]}}},
    });
    let mut registry = Registry::default();
    registry.register(memory.clone());
    let source = Source { file: "test", text: &text.to_string() };
    let overrides = Overrides { id: Some("a"), ..Overrides::default() };
    Flip::from_text(&source, &overrides, registry).unwrap().0
}

fn on_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(LONG, test).await.expect("in time") });
}

/// Waits until the node says of its item that it is active.
async fn active(events: &mut tokio::sync::broadcast::Receiver<crate::Happened>) {
    use flip_core::event::ItemState;
    while !matches!(events.recv().await.unwrap().event, Event::Item { to: ItemState::Active, .. }) {}
}

#[test]
fn a_node_is_spawned_asked_and_leaves() {
    // Spawned, on a runtime of several threads: the loop may be sent.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let memory = Memory::default();
    let builder = alone(&memory);
    let test = async move {
        let flip = builder.start().await.unwrap();
        let node = flip.handle();
        let mut events = node.events();
        let run = tokio::spawn(flip.run());
        active(&mut events).await;
        assert_eq!(node.status().await.unwrap().items[0].wanted, ["a"]);
        assert_eq!(memory.up().len(), 1);
        let refused = node.drain("nobody").await.unwrap_err();
        assert!(matches!(&refused, Refusal::Refused(why) if why.contains("nobody")), "{refused:?}");
        node.drain("a").await.unwrap();
        node.undrain("a").await.unwrap();
        node.leave();
        node.ended().await;
        assert_eq!(run.await.unwrap().unwrap(), End::Left);
        assert!(memory.up().is_empty(), "it let go of what it held");
        assert_eq!(node.drain("a").await, Err(Refusal::Ended));
        assert_eq!(node.status().await, None);
        while let Ok(_) | Err(RecvError::Lagged(_)) = events.recv().await {}
        assert!(matches!(node.events().recv().await, Err(RecvError::Closed)));
    };
    runtime.block_on(async { timeout(LONG, test).await.expect("in time") });
}

#[test]
fn who_is_aborted_or_dropped_lets_go_of_nothing_and_its_ports_are_free() {
    on_runtime(async {
        let memory = Memory::default();
        let builder = alone(&memory);
        let config = builder.handle().config();
        for drop_it in [false, true] {
            // The TCP port is let go of by a task, so it may take a moment.
            let flip = loop {
                let mut registry = Registry::default();
                registry.register(memory.clone());
                match Flip::builder(Arc::clone(&config)).registry(registry).start().await {
                    Ok(flip) => break flip,
                    Err(Error::Listen { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            };
            let node = flip.handle();
            let mut events = node.events();
            let run = tokio::spawn(flip.run());
            active(&mut events).await;
            if drop_it {
                run.abort();
            } else {
                node.abort();
                // Too late.
                node.leave();
                assert_eq!(run.await.unwrap().unwrap(), End::Aborted);
            }
            node.ended().await;
            assert_eq!(memory.up().len(), 1, "it is where it was");
        }
    });
}

#[test]
fn a_wish_from_before_the_start_counts() {
    on_runtime(async {
        let flip = alone(&Memory::default()).start().await.unwrap();
        flip.handle().leave();
        assert_eq!(flip.run().await.unwrap(), End::Left);
    });
}

#[test]
fn a_program_hears_of_events_turns_and_the_end() {
    #[derive(Default)]
    struct Seen {
        started: Vec<u64>,
        turns: u64,
        left: bool,
    }
    struct Listens(Arc<Mutex<Seen>>);
    impl Program for Listens {
        fn event(&mut self, event: &Event, config: &Config, _: Time) {
            assert_eq!(config.my().id, "a");
            if let Event::Started { generation } = event {
                self.0.lock().unwrap().started.push(*generation);
            }
        }
        fn turn(&mut self, node: &Node, _: Time) {
            assert_eq!(node.generation(), 77);
            self.0.lock().unwrap().turns += 1;
        }
        fn store_keys(&mut self, _: &StoredKeys) {}
        fn left(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async { self.0.lock().unwrap().left = true })
        }
    }
    on_runtime(async {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let builder = alone(&Memory::default()).generation(77).program(Listens(Arc::clone(&seen)));
        let flip = builder.start().await.unwrap();
        let node = flip.handle();
        let mut events = node.events();
        let leave = async {
            active(&mut events).await;
            node.leave();
        };
        let (end, ()) = tokio::join!(flip.run(), leave);
        assert_eq!(end.unwrap(), End::Left);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.started, [77]);
        assert!(seen.turns > 0 && seen.left);
    });
}

#[test]
fn what_keeps_a_node_from_starting_is_said() {
    on_runtime(async {
        let memory = Memory::default();
        let builder = alone(&memory);
        let config = builder.handle().config();
        let first = builder.bind().await.unwrap();
        let error = Flip::builder(config).start().await.err().unwrap();
        assert!(matches!(error, Error::Bind(_)), "{error:?}");
        assert!(error.to_string().contains("another process"), "{error}");
        drop(first);

        let text = r#"{"servers": {"a": "127.0.0.1"}, "cluster": {"system": {"s": {"alive": "mine_up", "data": ["x"]}}}}"#;
        let source = Source { file: "f.json", text };
        let error = Flip::from_text(&source, &Overrides::default(), Registry::default()).err().unwrap();
        assert!(error.to_string().contains("mine_up") && error.to_string().contains("f.json"), "{error}");
    });
}

/// A system that says what it hears, and to whom it listens.
struct Talks {
    bus: Arc<crate::Bus>,
    heard: tokio::sync::mpsc::UnboundedSender<(usize, u8, Vec<u8>)>,
}

impl crate::System for Talks {
    fn alive(&self, _: usize, _: &crate::system::Context) -> crate::system::HookFuture {
        Box::pin(std::future::ready(Ok(())))
    }
    fn down(&self, _: usize, _: &crate::system::Context) -> crate::system::HookFuture {
        Box::pin(std::future::ready(Ok(())))
    }
    fn observe(&self) -> crate::system::ObserveFuture {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
    fn heard(&self, from: usize, topic: u8, data: &[u8]) {
        if topic == 200 {
            assert!(self.bus.say(Some(from), 201, data.to_vec()));
        }
        self.heard.send((from, topic, data.to_vec())).unwrap();
    }
}

struct Talk {
    bus: std::sync::mpsc::Sender<Arc<crate::Bus>>,
    heard: tokio::sync::mpsc::UnboundedSender<(usize, u8, Vec<u8>)>,
}

impl crate::system::Handler for Talk {
    fn alive(&self) -> &str {
        "talk_up"
    }
    fn down(&self) -> &str {
        "talk_down"
    }
    fn open(
        &self,
        systems: &[crate::system::Assigned<'_>],
        _: &Arc<crate::Drift>,
        bus: &Arc<crate::Bus>,
    ) -> Result<crate::system::Opened, crate::OpenError> {
        self.bus.send(Arc::clone(bus)).unwrap();
        let one = || Arc::new(Talks { bus: Arc::clone(bus), heard: self.heard.clone() }) as _;
        Ok(crate::system::Opened { systems: systems.iter().map(|_| one()).collect(), leftovers: Vec::new() })
    }
}

#[test]
fn systems_of_two_nodes_speak_to_each_other() {
    on_runtime(async {
        let sockets = [(), ()].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [a, b] = sockets.map(|socket| socket.local_addr().unwrap().port());
        let server = |port: u16| serde_json::json!({"ip": "127.0.0.1", "port": port, "systems": ["t"]});
        let text = serde_json::json!({
            "servers": {"a": server(a), "b": server(b)},
            "profile": "fast",
            "cluster": {"system": {"t": {"alive": "talk_up", "down": "talk_down", "data": ["x"]}}},
        })
        .to_string();
        let mut ears = Vec::new();
        let mut mouths = Vec::new();
        let mut nodes = Vec::new();
        for id in ["a", "b"] {
            let (bus, mouth) = std::sync::mpsc::channel();
            let (heard, ear) = tokio::sync::mpsc::unbounded_channel();
            let mut registry = Registry::default();
            registry.register(Talk { bus, heard });
            let overrides = Overrides { id: Some(id), ..Overrides::default() };
            let builder =
                Flip::from_text(&Source { file: "test", text: &text }, &overrides, registry).unwrap().0;
            let flip = builder.start().await.unwrap();
            mouths.push(mouth.recv().unwrap());
            ears.push(ear);
            let node = flip.handle();
            let events = node.events();
            tokio::spawn(flip.run());
            nodes.push((node, events));
        }
        for (_, events) in &mut nodes {
            while !matches!(events.recv().await.unwrap().event, Event::MemberUp { .. }) {}
        }
        assert_eq!(mouths.iter().map(|bus| bus.members()).collect::<Vec<_>>(), [[1], [0]]);
        // Both know each other, so what is said arrives; on loopback nothing is lost.
        assert!(mouths[0].say(None, 200, b"hello".to_vec()));
        assert_eq!(ears[1].recv().await.unwrap(), (0, 200, b"hello".to_vec()));
        assert_eq!(ears[0].recv().await.unwrap(), (1, 201, b"hello".to_vec()), "the answer");
    });
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_task_that_ends_or_panics_is_started_again_and_down_waits_for_its_end() {
    struct Guard(Arc<Mutex<Vec<&'static str>>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("dropped");
        }
    }
    on_runtime(async {
        let (starts, mut started) = tokio::sync::mpsc::unbounded_channel();
        let notes = Arc::new(Mutex::new(Vec::new()));
        let (seen, tries) = (Arc::clone(&notes), std::sync::atomic::AtomicUsize::new(0));
        let mut registry = Registry::default();
        registry.register_tasks("job", move |task| {
            let n = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            starts.send((task.item, task.position, task.config["depth"].clone())).unwrap();
            let guard = Guard(Arc::clone(&seen));
            async move {
                let _guard = guard;
                match n {
                    0 => {}
                    1 => panic!("as the test wants it"),
                    _ => std::future::pending().await,
                }
            }
        });
        let text = serde_json::json!({
            "servers": {"a": {"ip": "127.0.0.1", "port": free_port(), "systems": ["job"]}},
            "cluster": {"system": {"job": {"data": ["x"], "config": {"depth": 3}}}},
        });
        let node = Flip::node("a", &text.to_string(), registry).unwrap().spawn().await.unwrap();
        for _ in 0..3 {
            assert_eq!(started.recv().await.unwrap(), ("x".to_owned(), 0, serde_json::json!(3)));
        }
        assert_eq!(notes.lock().unwrap().len(), 2, "the last one runs");
        node.leave();
        node.ended().await;
        assert_eq!(notes.lock().unwrap().len(), 3, "it was gone before the node left");
    });
}

#[test]
fn a_file_may_name_what_the_program_registered_and_scripts() {
    on_runtime(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        let text = serde_json::json!({
            "servers": {"a": {"ip": "127.0.0.1", "port": free_port(), "systems": ["job", "s"]}},
            "cluster": {"system": {"job": {"data": ["x"]}, "s": {"alive": "s", "down": "s", "data": ["y"]}}},
        });
        std::fs::write(&path, text.to_string()).unwrap();
        std::fs::create_dir(dir.path().join("scripts")).unwrap();
        let script = "return {alive = function() end, down = function() end}";
        std::fs::write(dir.path().join("scripts/s.lua"), script).unwrap();
        let mut registry = Registry::default();
        registry.register_tasks("job", |_| std::future::pending());
        let (builder, _) = Flip::from_file(&path, Some("a"), registry).unwrap();
        assert!(builder.engine().is_some());
        let handle = builder.handle();
        let mut events = handle.events();
        let node = builder.spawn().await.unwrap();
        active(&mut events).await;
        active(&mut events).await;
        node.leave();
        node.ended().await;

        let error = Flip::from_file(&path, Some("a"), Registry::default()).err().unwrap();
        assert!(error.to_string().contains("job_up"), "{error}");
        let nowhere = Flip::from_file(&dir.path().join("none"), None, Registry::default()).err().unwrap();
        assert!(matches!(&nowhere, Error::File(why) if why.contains("cannot read the config")), "{nowhere}");
    });
}

/// The loop goes on under another config: hooks run for what is new and what is gone, and for nothing else; events
/// carry the config that their positions are of.
#[test]
fn a_node_that_runs_takes_another_config() {
    use flip_core::HookAction::{Alive, Down};
    use flip_core::config::Item;
    use flip_core::event::ItemState;
    on_runtime(async {
        let memory = Memory::default();
        let flip = alone(&memory).start().await.unwrap();
        let node = flip.handle();
        let mut events = node.events();
        let run = tokio::spawn(flip.run());
        active(&mut events).await;
        let first = memory.calls();
        assert_eq!(first.len(), 1);

        // One comes before the one that is there, and a system before the one that it is of.
        let mut config = (*node.config()).clone();
        config.systems[0].items.insert(0, Item::plain("m", "new"));
        let mut more = config.systems[0].clone();
        (more.name, more.items) = ("more".to_owned(), vec![Item::plain("more", "x")]);
        config.systems.insert(0, more);
        config.servers[0].systems = vec![0, 1];
        node.adopt(config.clone()).await;
        let mut came = Vec::new();
        while came.len() < 2 {
            let happened = events.recv().await.unwrap();
            if let Event::Item { item, to: ItemState::Active, .. } = happened.event {
                let system = &happened.config.systems[item.system];
                came.push((system.name.clone(), system.items[item.item].name.clone()));
            }
        }
        came.sort();
        assert_eq!(came, [("m".to_owned(), "new".to_owned()), ("more".to_owned(), "x".to_owned())]);
        let calls = memory.calls();
        assert_eq!(calls.len(), 3, "and nothing else was called: {calls:?}");
        assert!(calls[1..].iter().all(|(_, action)| *action == Alive));
        assert_eq!(node.config().systems.len(), 2);
        let status = node.status().await.unwrap();
        assert!(status.healthy() && status.items.len() == 3);

        // They go again.
        config.systems.remove(0);
        config.systems[0].items.remove(0);
        config.servers[0].systems = vec![0];
        node.adopt(config).await;
        while memory.up().len() > 1 {
            tokio::task::yield_now().await;
        }
        while node.config().systems.len() > 1 || node.config().systems[0].items.len() > 1 {
            tokio::task::yield_now().await;
        }
        let calls = memory.calls();
        assert_eq!(calls.iter().filter(|(_, action)| *action == Down).count(), 2);
        assert_eq!(memory.up().into_iter().next(), Some(first[0].0), "the first was never touched");

        // And a server that is not in the config any more lets go of everything and ends.
        let mut none = (*node.config()).clone();
        let mut other = none.servers[0].clone();
        other.id = "other".to_owned();
        other.short = flip_core::id::ShortId::of("other");
        other.addr.set_port(1);
        none.servers = vec![other].into();
        none.me = 1;
        node.adopt(none).await;
        assert_eq!(run.await.unwrap().unwrap(), End::Left);
        assert!(memory.up().is_empty());
    });
}
