//! A cluster whose network loses, whose disks take time, fail, fill and tear, and whose daemons die: what was
//! acknowledged is there at the end (P9).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::catalog::{self, Catalog, Edit, Key, Record, Stamp};
use crate::config::{self, Joining, Overrides, Source};
use crate::event::Event;
use crate::io::{Command, Input, Output};
use crate::join::{Joiner, Next};
use crate::node::{Node, Start};
use crate::time::Time;
use crate::wire::join::JOIN;
use crate::wire::message::{Exchange, Message, decode_all};

const STEP: Duration = Duration::from_millis(2);

fn file(id: &str, version: u64, items: &str) -> String {
    format!(
        r#"{{"id": "{id}", "version": {version}, "profile": "fast",
        "servers": {{
            "a": {{"ip": "10.0.0.1", "systems": ["job"]}},
            "b": {{"ip": "10.0.0.2", "systems": ["job"]}},
            "c": {{"ip": "10.0.0.3", "systems": ["job"]}}
        }},
        "cluster": {{"system": {{"job": {{"alive": "memory_up", "down": "memory_down", "data": [{items}]}}}}}}}}"#
    )
}

enum Post {
    Datagram { from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    Request { from: usize, to: SocketAddr, data: Vec<u8> },
    Reply { to: usize, data: Vec<u8> },
    Hook { at: usize, life: u64, id: u64 },
}

#[derive(Default)]
struct Disk {
    bytes: Vec<u8>,
    writing: Option<(Time, u64, Vec<u8>, bool)>,
    full: bool,
}

struct World {
    rng: StdRng,
    now: Time,
    files: Vec<String>,
    nodes: Vec<Option<Node>>,
    lives: Vec<u64>,
    disks: Vec<Disk>,
    post: VecDeque<(Time, Post)>,
    loss: f64,
    /// By asker.
    answers: BTreeMap<u64, Result<String, String>>,
    asked: u64,
    events: Vec<(usize, Event)>,
    asker_of_conn: Option<usize>,
    /// The last answer to a stranger.
    reply: Option<Vec<u8>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let ids = ["a", "b", "c"];
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            now: Time::from_millis(1000),
            files: ids.iter().map(|id| file(id, 1, "\"x\", \"y\"")).collect(),
            nodes: vec![None, None, None],
            lives: vec![0; 3],
            disks: (0..3).map(|_| Disk::default()).collect(),
            post: VecDeque::new(),
            loss: 0.0,
            answers: BTreeMap::new(),
            asked: 0,
            events: Vec::new(),
            asker_of_conn: None,
            reply: None,
        };
        (0..3).for_each(|at| world.start(at));
        world
    }

    fn start(&mut self, at: usize) {
        if self.nodes[at].is_some() {
            return;
        }
        let text = &self.files[at];
        let loaded = config::load(&Source { file: "test", text }, &Overrides::default()).expect("no errors");
        let (own, local) = catalog::open(text, &loaded.config, &[]);
        // Damage is what the driver sets aside.
        let stored = catalog::disk::read(&self.disks[at].bytes).ok().map(|(catalog, _)| catalog);
        assert!(stored.is_some() || self.disks[at].bytes.is_empty(), "nothing here damages a file");
        let begun = catalog::begin(&own, &local, stored).expect("a config");
        self.lives[at] += 1;
        let start = Start { generation: self.now.as_nanos(), seed: self.rng.random(), keys: None };
        let mut node = Node::new(Arc::new(begun.config), start, self.now);
        node.set_catalog(begun.catalog, local);
        self.nodes[at] = Some(node);
        self.feed(at, Input::Timeout);
    }

    /// The power goes: of what was being written some bytes, or none, are there.
    fn kill(&mut self, at: usize) {
        if self.nodes[at].take().is_none() {
            return;
        }
        let disk = &mut self.disks[at];
        if let Some((_, _, bytes, whole)) = disk.writing.take()
            && !whole
        {
            let len = self.rng.random_range(0..bytes.len());
            disk.bytes.extend(&bytes[..len]);
        }
    }

    fn feed(&mut self, at: usize, input: Input<'_>) {
        let Some(node) = &mut self.nodes[at] else { return };
        node.handle(input, self.now);
        let me = node.config().servers.get(node.config().me).map(|server| server.addr);
        while let Some(output) = self.nodes[at].as_mut().and_then(Node::poll_output) {
            let later = self.now + Duration::from_micros(self.rng.random_range(200..3000));
            match output {
                Output::Datagram { to, data } => {
                    let lost = self.rng.random_bool(self.loss);
                    if let Some(from) = me.filter(|_| !lost) {
                        self.post.push_back((later, Post::Datagram { from, to, data }));
                    }
                }
                Output::Stream { to, data } => {
                    self.post.push_back((later, Post::Request { from: at, to, data }))
                }
                Output::StreamReply { data, .. } => match self.asker_of_conn {
                    Some(to) => self.post.push_back((later, Post::Reply { to, data })),
                    None => self.reply = Some(data),
                },
                Output::Hook(call) => {
                    self.post.push_back((later, Post::Hook { at, life: self.lives[at], id: call.id }));
                }
                Output::StoreCatalog { id, bytes, whole } => {
                    assert!(self.disks[at].writing.is_none(), "one at a time");
                    self.disks[at].writing = Some((later, id, bytes, whole));
                }
                Output::Done { asker, result } => {
                    assert!(self.answers.insert(asker, result).is_none(), "answered once");
                }
                Output::Late { asker, how_far } => {
                    assert!(how_far.contains("spreads on"), "{how_far}");
                    assert!(self.answers.insert(asker, Err(how_far)).is_none(), "answered once");
                }
                Output::Event(event) => self.events.push((at, event)),
                _ => {}
            }
        }
    }

    fn at(&self, addr: SocketAddr) -> Option<usize> {
        ["10.0.0.1", "10.0.0.2", "10.0.0.3"].iter().position(|ip| addr.ip().to_string() == *ip)
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            for at in 0..self.nodes.len() {
                let due = self.disks[at].writing.take_if(|(done, ..)| *done <= self.now);
                if let Some((_, id, bytes, whole)) = due {
                    let disk = &mut self.disks[at];
                    let result = if disk.full {
                        // A part of it fits.
                        if !whole {
                            disk.bytes.extend(&bytes[..bytes.len() / 2]);
                        }
                        Err("no space left on device".to_owned())
                    } else {
                        if whole {
                            disk.bytes = bytes;
                        } else {
                            disk.bytes.extend(bytes);
                        }
                        Ok(())
                    };
                    self.feed(at, Input::Stored { id, result });
                }
                if self.nodes[at].as_ref().and_then(Node::poll_timeout).is_some_and(|due| due <= self.now) {
                    self.feed(at, Input::Timeout);
                }
            }
            for _ in 0..self.post.len() {
                let Some((when, post)) = self.post.pop_front() else { break };
                if when > self.now {
                    self.post.push_back((when, post));
                    continue;
                }
                match post {
                    Post::Datagram { from, to, data } => {
                        if let Some(to) = self.at(to) {
                            self.feed(to, Input::Datagram { from, data: &data });
                        }
                    }
                    Post::Request { from, to, data } => {
                        if let Some(to) = self.at(to) {
                            self.asker_of_conn = Some(from);
                            self.feed(to, Input::StreamRequest { conn: 1, data: &data });
                            self.asker_of_conn = None;
                        }
                    }
                    Post::Reply { to, data } => self.feed(to, Input::StreamReply { data: &data }),
                    Post::Hook { at, life, id } if self.lives[at] == life => {
                        self.feed(at, Input::HookDone { hook: id, result: Ok(()) });
                    }
                    Post::Hook { .. } => {}
                }
            }
        }
    }

    fn ask(&mut self, at: usize, command: Command) -> u64 {
        self.asked += 1;
        let asker = self.asked;
        self.feed(at, Input::Command { asker, command });
        asker
    }

    fn edit(&mut self, at: usize, text: &str) -> u64 {
        let edits: Vec<Edit> = serde_json::from_str(text).expect("edits");
        let timeout = Duration::from_secs(3);
        self.ask(at, Command::Edit { edits, local: false, force: false, timeout })
    }

    fn answer(&mut self, at: usize, text: &str) -> Result<String, String> {
        let asker = self.edit(at, text);
        self.run(Duration::from_millis(400));
        self.answers[&asker].clone()
    }

    fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().expect("it runs")
    }

    fn items(&self, at: usize) -> Vec<String> {
        let items = self.node(at).config().systems[0].items.iter().filter(|item| !item.retired);
        items.map(|item| item.name.clone()).collect()
    }

    fn is_one(&self) -> bool {
        let brief = |at| self.node(at).catalog().expect("it has one").brief();
        let content = |at: usize| self.node(at).config().content_hash();
        brief(0) == brief(1) && brief(1) == brief(2) && content(0) == content(1) && content(1) == content(2)
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_edit_is_everywhere_and_survives_the_power_cut_of_all() {
    let mut world = World::new(1);
    world.run(SECOND);
    let said = world.answer(0, r#"[{"set_item": {"system": "job", "value": "z"}}]"#).expect("acknowledged");
    assert!(said.contains("a majority"), "{said}");
    for at in 0..3 {
        assert_eq!(world.items(at), ["x", "y", "z"], "n{at}");
    }
    let refused =
        world.answer(1, r#"[{"set_item": {"system": "job", "value": {"name": "q", "prefer": "w"}}}]"#);
    assert!(refused.as_ref().is_err_and(|why| why.contains("item job/q")), "{refused:?}");
    // Of a batch one is wrong: it alone is refused.
    let wrong = world.edit(2, r#"[{"set_item": {"system": "job", "value": {"name": "q", "prefer": "w"}}}]"#);
    let first = world.edit(2, r#"[{"remove_item": {"system": "job", "item": "x"}}]"#);
    let second = world.edit(2, r#"[{"set_item": {"system": "job", "value": {"name": "p", "prefer": "w"}}}]"#);
    let third = world.edit(2, r#"[{"set_item": {"system": "job", "value": "r"}}]"#);
    world.run(SECOND);
    assert!(world.answers[&wrong].is_err() && world.answers[&second].is_err());
    assert!(world.answers[&first].is_ok() && world.answers[&third].is_ok(), "{:?}", world.answers);
    (0..3).for_each(|at| world.kill(at));
    (0..3).for_each(|at| world.start(at));
    world.run(SECOND * 3);
    for at in 0..3 {
        assert_eq!(world.items(at), ["y", "z", "r"], "n{at}");
    }
    assert!(world.is_one());
    // What was removed is forgotten when all know it.
    world.run(SECOND * 8);
    assert_eq!(world.node(0).catalog().map(catalog::Catalog::tombstones), Some(0));
    for at in 0..3 {
        assert_eq!(world.items(at), ["y", "z", "r"], "n{at}: what hides an item of the file is not");
    }
    assert!(world.is_one());
}

#[test]
fn without_a_majority_it_is_said_how_far_it_came() {
    let mut world = World::new(2);
    world.run(SECOND);
    world.kill(1);
    world.kill(2);
    let asker = world.edit(0, r#"[{"set_item": {"system": "job", "value": "z"}}]"#);
    let local = world.ask(
        0,
        Command::Edit {
            edits: serde_json::from_str(r#"[{"set_item": {"system": "job", "value": "l"}}]"#).expect("edits"),
            local: true,
            force: false,
            timeout: SECOND,
        },
    );
    world.run(SECOND * 4);
    let why = world.answers[&asker].clone().expect_err("there is no majority");
    assert!(why.contains("1 of 3"), "{why}");
    assert!(world.answers[&local].is_ok());
    world.start(1);
    world.start(2);
    world.run(SECOND * 4);
    assert_eq!(world.items(2), ["x", "y", "z", "l"], "it spreads on");
}

#[test]
fn a_full_disk_refuses_edits_and_changes_nothing() {
    let mut world = World::new(3);
    world.run(SECOND);
    world.answer(0, r#"[{"set_item": {"system": "job", "value": "z"}}]"#).expect("room");
    world.disks[0].full = true;
    let why = world.answer(0, r#"[{"set_item": {"system": "job", "value": "q"}}]"#).expect_err("no room");
    assert!(why.contains("no space left"), "{why}");
    assert_eq!(world.items(0), ["x", "y", "z"]);
    let hints = world.node(0).status(world.now).hints;
    assert!(hints.iter().any(|hint| hint.contains("no space left")), "{hints:?}");
    world.answer(1, r#"[{"set_item": {"system": "job", "value": "p"}}]"#).expect("two of three have room");
    world.disks[0].full = false;
    world.run(SECOND * 6);
    assert_eq!(world.items(0), ["x", "y", "z", "p"]);
    assert!(world.is_one());
}

#[test]
fn the_higher_file_counts_everywhere_and_equal_ones_are_named() {
    let mut world = World::new(4);
    world.run(SECOND);
    world.answer(2, r#"[{"remove_item": {"system": "job", "item": "x"}}, {"set_item": {"system": "job", "value": "z"}}]"#)
        .expect("acknowledged");
    let reload = |world: &mut World, at: usize, version: u64, items: &str| {
        let text = file(["a", "b", "c"][at], version, items);
        let asker = world.ask(at, Command::File { text, scripts: Vec::new() });
        world.run(SECOND * 3);
        world.answers[&asker].clone()
    };
    reload(&mut world, 0, 2, "\"x\", \"w\"").expect("a higher version");
    for at in 0..3 {
        assert_eq!(world.items(at), ["x", "w", "z"], "n{at}: the removal ended with its file");
    }
    let told = world.events.iter().any(|(at, event)| {
        *at == 1
            && matches!(event, Event::CatalogFile { version: 2, from: Some(_), ended } if !ended.is_empty())
    });
    assert!(told, "{:?}", world.events);
    let why = reload(&mut world, 1, 1, "\"x\"").expect_err("a lower version");
    assert!(why.contains("runs version 2"), "{why}");
    let why = reload(&mut world, 1, 3, "\"x\", 5").expect_err("a bad file");
    assert!(why.contains("line ") && why.contains("nothing was changed"), "{why}");
    reload(&mut world, 1, 2, "\"x\", \"v\"").expect("its own file");
    assert_eq!(world.items(1), ["x", "v", "z"]);
    assert_eq!(world.items(0), ["x", "w", "z"], "neither wins");
    for at in 0..3 {
        let hints = world.node(at).status(world.now).hints;
        assert!(hints.iter().any(|hint| hint.contains("version 2 differ")), "n{at}: {hints:?}");
        assert!(world.node(at).catalog_conflicts() > 0);
    }
    // Edits spread all the same, and the next version ends it.
    world.answer(0, r#"[{"set_item": {"system": "job", "value": "u"}}]"#).expect("acknowledged");
    assert_eq!(world.items(1), ["x", "v", "z", "u"]);
    reload(&mut world, 2, 3, "\"x\"").expect("a higher version");
    world.run(SECOND * 4);
    assert!(world.is_one());
    assert_eq!(world.items(1), ["x", "z", "u"]);
    assert!(world.node(1).status(world.now).hints.is_empty(), "{:?}", world.node(1).status(world.now).hints);
}

#[test]
fn votes_change_one_at_a_time() {
    let mut world = World::new(5);
    world.run(SECOND);
    let add = r#"[{"set_server": {"id": "d", "value": {"ip": "10.0.0.4"}}}]"#;
    let young = world.edit(0, add);
    world.run(SECOND * 4);
    assert!(
        world.answers[&young].as_ref().is_err_and(|why| why.contains("just started")),
        "{:?}",
        world.answers
    );
    world.run(SECOND * 8);
    let why = world.answer(0, r#"[{"remove_server": {"id": "b"}}, {"remove_server": {"id": "c"}}]"#);
    assert!(why.as_ref().is_err_and(|why| why.contains("2 votes at once")), "{why:?}");
    // Of two at once, one.
    let one = world.edit(0, add);
    let other = world.edit(1, r#"[{"set_server": {"id": "e", "value": {"ip": "10.0.0.5"}}}]"#);
    world.run(SECOND * 6);
    let made: Vec<_> = [one, other].into_iter().filter(|asker| world.answers[asker].is_ok()).collect();
    assert_eq!(made.len(), 1, "{:?}", world.answers);
    for at in 0..3 {
        assert_eq!(world.node(at).config().voters.len(), 4, "n{at}");
    }
    // What adds no vote needs nobody's word.
    world.answer(2, r#"[{"set_item": {"system": "job", "value": "z"}}]"#).expect("three of four have it");
}

/// What was acknowledged is in every catalog in the end, whatever the network, the disks and the daemons did.
#[test]
fn what_was_acknowledged_is_never_lost() {
    let mut acknowledged = 0;
    let seeds = std::env::var("FLIP_CATALOG_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(25);
    for seed in 0..seeds {
        let mut world = World::new(100 + seed);
        world.loss = *[0.0, 0.1, 0.3].choose(&mut world.rng).expect("one");
        world.run(SECOND);
        // By item: who asked last, and whether it is to be there. An item is changed by one after the other.
        let mut wanted: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        for step in 0..60 {
            let at = world.rng.random_range(0..3);
            match world.rng.random_range(0..12) {
                0 => world.kill(at),
                1 | 2 => world.start(at),
                3 => world.disks[at].full ^= true,
                4 if world.rng.random_bool(0.1) => {
                    (0..3).for_each(|at| world.kill(at));
                    (0..3).for_each(|at| world.start(at));
                }
                5 => {
                    let known: Vec<_> = wanted
                        .iter()
                        .filter(|(_, (asker, set))| {
                            *set && world.answers.get(asker).is_some_and(Result::is_ok)
                        })
                        .map(|(name, _)| name.clone())
                        .collect();
                    // Its disk is replaced while the others have all that it had.
                    if world.rng.random_bool(0.3) && world.nodes.iter().all(Option::is_some) && world.is_one()
                    {
                        world.kill(at);
                        world.disks[at].bytes.clear();
                        world.start(at);
                    }
                    if let Some(name) = known.choose(&mut world.rng)
                        && world.nodes[at].is_some()
                    {
                        let text = format!(r#"[{{"remove_item": {{"system": "job", "item": "{name}"}}}}]"#);
                        let asker = world.edit(at, &text);
                        wanted.insert(name.clone(), (asker, false));
                    }
                }
                _ => {
                    let name = format!("i{seed}-{step}");
                    if world.nodes[at].is_some() {
                        let text = format!(r#"[{{"set_item": {{"system": "job", "value": "{name}"}}}}]"#);
                        let asker = world.edit(at, &text);
                        wanted.insert(name, (asker, true));
                    }
                }
            }
            let pause = Duration::from_millis(world.rng.random_range(0..300));
            world.run(pause);
        }
        world.loss = 0.0;
        world.disks.iter_mut().for_each(|disk| disk.full = false);
        (0..3).for_each(|at| world.start(at));
        world.run(SECOND * 8);
        if seed % 2 == 0 {
            (0..3).for_each(|at| world.kill(at));
            (0..3).for_each(|at| world.start(at));
            world.run(SECOND * 6);
        }
        for (name, (asker, set)) in &wanted {
            if world.answers.get(asker).is_some_and(Result::is_ok) {
                acknowledged += 1;
                for at in 0..3 {
                    let key = Key::Item("job".into(), name.clone());
                    let there = world.node(at).catalog().and_then(|catalog| catalog.value(&key)).is_some();
                    assert_eq!(there, *set, "seed {seed}: {name} at n{at}: {:?}", world.answers[asker]);
                    assert_eq!(world.items(at).contains(name), *set, "seed {seed}: {name} runs at n{at}");
                }
            }
        }
        assert!(world.is_one(), "seed {seed}");
    }
    assert!(acknowledged > 200, "{acknowledged}");
}

/// The file of a server that joins.
fn joining(id: &str, bind: &str, rest: &str) -> (Joining, String) {
    let text = format!(r#"{{"id": "{id}", "bind": "{bind}"{rest}}}"#);
    let joining = config::load_joining(&Source { file: "join", text: &text }, &Overrides::default());
    (joining.expect("no errors"), text)
}

fn attempt_of(file: &Joining, attempt: [u8; 16]) -> Joiner {
    Joiner::new(&file.config, &file.entry, attempt)
}

impl World {
    /// A stranger's frame, and what it is answered.
    fn stranger(&mut self, at: usize, frame: &[u8]) -> Option<Vec<u8>> {
        self.reply = None;
        self.feed(at, Input::StreamRequest { conn: 7, data: frame });
        self.reply.take()
    }

    /// Brings an attempt to its end: the catalog, or why not and whether that is for good.
    fn join(&mut self, at: usize, joiner: &mut Joiner) -> Result<Catalog, (String, bool)> {
        for _ in 0..1_000 {
            let frame = joiner.question(self.rng.random());
            let answer = self.stranger(at, &frame).expect("an answer");
            match joiner.answer(&answer).expect("one to the question") {
                Next::Ask => {}
                Next::Wait => self.run(STEP * 10),
                Next::Refused { why, again } => return Err((why, again)),
                Next::Joined(catalog) => return Ok(*catalog),
            }
        }
        panic!("it has no end");
    }

    fn servers(&self, at: usize) -> Vec<String> {
        let servers = self.node(at).config().servers.iter().filter(|server| !server.retired);
        servers.map(|server| server.id.clone()).collect()
    }
}

#[test]
fn a_server_joins_with_its_id_the_key_and_an_address() {
    let mut world = World::new(11);
    world.run(SECOND * 11);
    // More than one page, and something removed.
    let long = "long".repeat(10_000);
    for n in 0..60 {
        let item = format!(r#"{{"system": "job", "value": {{"name": "i{n}", "note": "{long}"}}}}"#);
        world.answer(1, &format!(r#"[{{"set_item": {item}}}]"#)).expect("acknowledged");
    }
    world.answer(2, r#"[{"remove_item": {"system": "job", "item": "x"}}]"#).expect("acknowledged");
    let (file, text) = joining("d", "10.0.0.4", r#", "systems": ["job"], "log_level": "debug""#);
    let mut joiner = attempt_of(&file, [1; 16]);
    let catalog = world.join(0, &mut joiner).expect("it is taken in");
    world.run(SECOND);
    for at in 0..3 {
        assert_eq!(world.servers(at), ["a", "b", "c", "d"], "n{at}");
    }
    let (own, local) = catalog::open(&text, &file.config, &[]);
    assert!(own.is_empty() && catalog.is_complete());
    let begun = catalog::begin(&own, &local, Some(catalog)).expect("a config");
    assert_eq!(begun.config.my().addr, "10.0.0.4:2200".parse().expect("an address"));
    assert_eq!(begun.config.content_hash(), world.node(0).config().content_hash());
    assert_eq!(begun.config.log_level, config::LogLevel::Debug);
    assert_eq!(begun.catalog.brief(), world.node(0).catalog().expect("it has one").brief());
    let told = |(at, event): &(usize, Event)| {
        *at == 0
            && matches!(event, Event::Asked { by, what, result: Ok(_), .. } if by == "server d" && what == "join")
    };
    assert!(world.events.iter().any(told), "{:?}", world.events);
    // With its state dir gone it asks again, and nothing has to be changed.
    let before = world.node(0).catalog().map(Catalog::count);
    joiner.again([2; 16]);
    world.join(2, &mut joiner).expect("it is one of them");
    world.run(SECOND);
    assert_eq!(world.node(0).catalog().map(Catalog::count), before);
    // A file that says nothing to the cluster is read again all the same.
    let started = Start { generation: 9, seed: [1; 32], keys: None };
    let mut node = Node::new(Arc::new(begun.config), started, world.now);
    node.set_catalog(begun.catalog, local);
    let text = text.replace("debug", "error");
    node.handle(Input::Command { asker: 1, command: Command::File { text, scripts: Vec::new() } }, world.now);
    while let Some(output) = node.poll_output() {
        if let Output::StoreCatalog { id, .. } = output {
            node.handle(Input::Stored { id, result: Ok(()) }, world.now);
        } else if let Output::Done { result, .. } = output {
            let said = result.expect("it is good");
            assert!(said.contains("says nothing to the cluster") && said.contains("log_level"), "{said}");
            return;
        }
    }
    panic!("no answer");
}

#[test]
fn who_may_not_join_is_told_why() {
    let mut world = World::new(12);
    world.run(SECOND * 2);
    let (file, _) = joining("d", "10.0.0.4", "");
    let (why, again) = world.join(0, &mut attempt_of(&file, [1; 16])).expect_err("voters are young");
    assert!(again && why.contains("just started"), "{why}");
    world.run(SECOND * 10);
    for (id, bind, rest, expected, time_mends) in [
        ("a", "10.0.0.4", "", "has a server a at 10.0.0.1:2200, and not at 10.0.0.4:2200", false),
        ("d", "10.0.0.2", "", "server b of the cluster has the address 10.0.0.2:2200", false),
        (
            "d",
            "10.0.0.4",
            r#", "systems": ["jobs"]"#,
            "expected the name of a system (did you mean \"job\"?)",
            true,
        ),
    ] {
        let (file, _) = joining(id, bind, rest);
        let (why, again) = world.join(0, &mut attempt_of(&file, [2; 16])).expect_err(expected);
        assert!(why.contains(expected), "{why}");
        assert_eq!(again, time_mends, "{why}");
        world.run(SECOND * 100);
    }
    let (other, _) = joining("d", "10.0.0.4", r#", "key": "another key than the cluster has""#);
    let frame = attempt_of(&other, [3; 16]).question([1; 24]);
    assert!(world.stranger(0, &frame).is_none(), "who has another key learns nothing");
    let (other, _) = joining("d", "10.0.0.4", r#", "cluster_id": "other""#);
    assert!(world.stranger(0, &attempt_of(&other, [3; 16]).question([1; 24])).is_none());
    for len in 0..100 {
        assert!(world.stranger(0, &vec![JOIN; len]).is_none());
    }
    assert_eq!(world.servers(0), ["a", "b", "c"]);
}

#[test]
fn recorded_questions_change_nothing() {
    let mut world = World::new(13);
    world.run(SECOND * 11);
    let (file, _) = joining("d", "10.0.0.4", "");
    let mut joiner = attempt_of(&file, [1; 16]);
    let first = joiner.question([1; 24]);
    let answer = world.stranger(0, &first).expect("a challenge");
    assert!(answer.len() < first.len() + 64, "it is not worth to be asked in another's name");
    assert!(matches!(joiner.answer(&answer), Ok(Next::Ask)));
    assert!(joiner.answer(&first).is_err(), "a question is no answer");
    assert!(attempt_of(&file, [2; 16]).answer(&answer).is_err(), "it is another's");
    let entering = joiner.question([2; 24]);
    // To whom it was not said, and to the next life, it is a recording.
    let mut said = |world: &mut World, at: usize| {
        let answer = world.stranger(at, &entering).expect("an answer");
        joiner.answer(&answer).expect("it is one")
    };
    assert!(matches!(said(&mut world, 1), Next::Ask), "a challenge");
    world.run(SECOND);
    assert_eq!(world.servers(1), ["a", "b", "c"]);
    assert!(matches!(said(&mut world, 0), Next::Wait));
    world.run(SECOND);
    assert_eq!(world.servers(1), ["a", "b", "c", "d"]);
    world.run(SECOND * 11);
    world.answer(0, r#"[{"remove_server": {"id": "d"}}]"#).expect("acknowledged");
    assert_eq!(world.servers(1), ["a", "b", "c"]);
    assert!(matches!(said(&mut world, 0), Next::Ask), "an attempt has one end, though it was entered once");
    world.run(SECOND * 120);
    said(&mut world, 0);
    world.run(SECOND * 2);
    assert_eq!(world.servers(0), ["a", "b", "c"], "what was recorded is worth nothing");
}

/// Pages of many short entries are as large as they may be, and can be read.
#[test]
fn every_page_of_a_large_catalog_can_be_read() {
    let mut world = World::new(14);
    let mut node = world.nodes[0].take().expect("it runs");
    let replica = node.replica.as_mut().expect("it has one");
    for n in 0..60_000_u64 {
        let stamp = Stamp { count: n + 1, writer: 1 };
        let record = Record { value: Some(format!("\"{n}\"").into()), stamp, born: stamp, bound: None };
        replica.catalog.merge(Key::Item("job".into(), n.to_string()), record);
    }
    let nothing = Catalog::default();
    let (mut got, mut pages) = (0, 0);
    let mut question = Exchange {
        brief: nothing.brief(),
        sums: nothing.sums().to_vec(),
        after: None,
        file: None,
        entries: Vec::new(),
        push: 0,
    };
    loop {
        let mut body = Vec::new();
        Message::Exchange(replica.answer(&question)).encode(&mut body);
        let read = decode_all(&body).expect("it can be read").pop();
        let Some(Message::Exchange(page)) = read else { panic!("{read:?}") };
        (got, pages) = (got + page.entries.len(), pages + 1);
        question.after = page.after;
        if question.after.is_none() {
            break;
        }
    }
    assert_eq!(got, 60_000);
    assert!((2..8).contains(&pages), "{pages} pages");
}
