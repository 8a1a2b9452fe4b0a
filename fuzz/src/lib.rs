//! What fuzzers call, one function for each thing that reads what others wrote. Each panics when
//! something is wrong and returns when it is not; none has a state that outlives the call.
//!
//! `scripts/dev/fuzz` runs them with cargo-fuzz, and `tests/tests/fuzz_smoke.rs` with a mutator of its
//! own on a toolchain that has nothing else.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use flip_core::catalog::{self, Local};
use flip_core::config::{self, Config, Overrides, Source};
use flip_core::join::Joiner;
use flip_core::stored::{self, StoredKeys};
use flip_core::wire::message::{self, Hello, Message, Ping};
use flip_core::wire::ring::Ring;
use flip_core::wire::seal::{OVERHEAD, Seals, WIRE};
use flip_core::wire::{codec, join};
use flip_core::{Input, Node, Output, Start, Time, limits};

/// A function to be fuzzed.
pub type Target = fn(&[u8]);

/// All functions with the names of their corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("packet", packet),
    ("body", body),
    ("frame", frame),
    ("config", config),
    ("state_file", state_file),
    ("item_values", item_values),
];

const CLUSTER: &str = r#"{
    "key": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "profile": "fast",
    "servers": {
        "a": {"ip": "192.0.2.1", "systems": ["demo"]},
        "b": {"ip": "192.0.2.2", "systems": ["demo"]},
        "c": {"ip": "192.0.2.3"},
    },
    "cluster": {"system": {"demo": {
        "alive": "memory_up", "down": "memory_down", "data": ["one", "two", "three"],
    }}},
}"#;

fn load(text: &str, id: &str) -> Option<Config> {
    let overrides = Overrides { id: Some(id), ..Overrides::default() };
    config::load(&Source { file: "fuzz", text }, &overrides).ok().map(|loaded| loaded.config)
}

/// The configs of servers a and b.
fn configs() -> &'static [Arc<Config>; 2] {
    static CONFIGS: OnceLock<[Arc<Config>; 2]> = OnceLock::new();
    CONFIGS.get_or_init(|| ["a", "b"].map(|id| Arc::new(load(CLUSTER, id).expect("a good config"))))
}

const START: Time = Time::from_millis(1_000_000);

/// What a node did in answer to one input.
#[derive(Default)]
struct Done {
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    outputs: usize,
}

fn feed(node: &mut Node, input: Input<'_>, now: Time) -> Done {
    node.handle(input, now);
    let mut done = Done::default();
    while let Some(output) = node.poll_output() {
        done.outputs += 1;
        assert!(done.outputs < 1_000, "one input, {} outputs", done.outputs);
        if let Output::Datagram { to, data } = output {
            assert!(data.len() <= limits::DATAGRAM, "a datagram of {} bytes", data.len());
            done.datagrams.push((to, data));
        }
    }
    done
}

fn fresh() -> Node {
    let start = Start { generation: 7, seed: [7; 32], keys: None };
    let config = &configs()[1];
    let mut node = Node::new(Arc::clone(config), start, START);
    let (file, local) = catalog::open(CLUSTER, config, &[]);
    node.set_catalog(catalog::Catalog::new(file), local);
    node
}

/// A node b that knows the session of a, the seals of that a, and the time.
fn acquainted() -> (Node, Seals, Time) {
    let [a, _] = configs();
    let mut seals = Seals::new(Arc::clone(a), Ring::new(a.key.clone()), 0x5E55_1011);
    let mut node = fresh();
    let greeted = feed(&mut node, Input::Timeout, START);
    let (_, data) = greeted.datagrams.iter().find(|(to, _)| *to == a.my().addr).expect("a greeting");
    let header = seals.header(data, OVERHEAD, limits::DATAGRAM).expect("of this cluster");
    let mut body = Vec::new();
    seals.open(&header, data, &mut body).expect("opens");
    let hello = message::hello(&body).expect("begins with a hello");
    body.clear();
    Message::Hello(Hello { challenge: [0; 8], proof: hello.challenge, wire: WIRE }).encode(&mut body);
    Message::Ping(Ping { nonce: 1, generation: 3, facts: 0 }).encode(&mut body);
    let data = seal(&mut seals, &body);
    feed(&mut node, Input::Datagram { from: a.my().addr, data: &data }, START);
    assert!(node.view().is_up(0), "a is known");
    (node, seals, START)
}

fn seal(seals: &mut Seals, body: &[u8]) -> Vec<u8> {
    let key = seals.ring().active();
    seals.seal(WIRE, key, body, 1)
}

/// Lets a node live on for a while after what it was fed.
fn live_on(node: &mut Node, mut now: Time) {
    for _ in 0..8 {
        let Some(at) = node.poll_timeout() else { break };
        now = now.max(at);
        feed(node, Input::Timeout, now);
    }
    assert!(node.status(now).members.len() == 3);
}

/// A datagram of somebody without the key. The first byte tells from where it comes, and whether
/// everything before the session is made right, so that the work behind the noise filter is reached.
pub fn packet(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let [a, _] = configs();
    let mut data = data.to_vec();
    if how & 0x80 != 0 && data.len() >= 8 {
        let mut seals = Seals::new(Arc::clone(a), Ring::new(a.key.clone()), 1);
        data[..8].copy_from_slice(&seal(&mut seals, b"")[..8]);
    }
    let from = if how & 1 == 0 { a.my().addr } else { SocketAddr::from(([198, 51, 100, 1], 9)) };
    let mut node = fresh();
    let before = node.status(START).live;
    for _ in 0..2 {
        let done = feed(&mut node, Input::Datagram { from, data: &data }, START);
        let out: usize = done.datagrams.iter().map(|(_, answer)| answer.len()).sum();
        assert!(out <= data.len(), "{out} bytes for {}", data.len());
    }
    assert_eq!(node.status(START).live, before, "somebody without the key is nobody");
}

/// What a member with the key may put into a datagram.
pub fn body(data: &[u8]) {
    if let Ok(messages) = message::decode_all(data) {
        let mut again = Vec::new();
        for message in &messages {
            message.encode(&mut again);
        }
        assert_eq!(message::decode_all(&again).as_ref(), Ok(&messages));
    }
    if data.len() + OVERHEAD > limits::DATAGRAM {
        return;
    }
    let (mut node, mut seals, now) = acquainted();
    let data = seal(&mut seals, data);
    feed(&mut node, Input::Datagram { from: configs()[0].my().addr, data: &data }, now);
    live_on(&mut node, now);
}

/// What a member with the key may put into a stream, and what anybody may.
pub fn frame(data: &[u8]) {
    let (mut node, mut seals, now) = acquainted();
    feed(&mut node, Input::StreamRequest { conn: 1, data }, now);
    feed(&mut node, Input::StreamReply { data }, now);
    let sealed = seal(&mut seals, data);
    feed(&mut node, Input::StreamRequest { conn: 2, data: &sealed }, now);
    let sealed = seal(&mut seals, data);
    feed(&mut node, Input::StreamReply { data: &sealed }, now);
    let Config { key, cluster_id, .. } = &*configs()[0];
    if let Ok(question) = codec::decode::<join::Question>(data) {
        let sealed = join::seal(key, cluster_id, join::Way::Question, &question, [1; 24]);
        feed(&mut node, Input::StreamRequest { conn: 3, data: &sealed }, now);
    }
    if let Ok(answer) = codec::decode::<join::Answer>(data) {
        let sealed = join::seal(key, cluster_id, join::Way::Answer, &answer, [1; 24]);
        let _ = Joiner::new(&configs()[0], &serde_json::Map::new(), answer.attempt).answer(&sealed);
    }
    live_on(&mut node, now);
}

/// A config file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let source = Source { file: "fuzz", text };
    let _ = config::key_file_path(&source);
    let overrides = Overrides { host_name: Some("a.example"), ..Overrides::default() };
    if let Ok(joining) = config::load_joining(&source, &overrides) {
        assert!(joining.config.my().addr.port() != 0);
    }
    match config::load(&source, &overrides) {
        Ok(loaded) => run(loaded.config),
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal without a reason");
            for problem in problems {
                let _ = problem.to_string();
            }
        }
    }
}

/// The files of a state dir.
pub fn state_file(data: &[u8]) {
    if let Ok(generation) = stored::generation(data) {
        assert_eq!(stored::generation(format!("{generation}\n").as_bytes()), Ok(generation));
    }
    if let Ok((catalog, torn)) = catalog::disk::read(data) {
        let again = catalog::disk::read(&catalog::disk::whole(&catalog)).expect("what was written is read");
        assert!(!again.1 && again.0.brief() == catalog.brief());
        assert!(!torn || !data.is_empty());
        let key = configs()[1].key.clone();
        let _ = catalog::config(&catalog, &Local::alone("b", key));
    }
    if let Ok(keys) = StoredKeys::from_bytes(data) {
        assert_eq!(StoredKeys::from_bytes(&keys.to_bytes()), Ok(keys));
    }
}

/// The items of a system, as JSON, in a config that is right otherwise. (Values of items in Lua come with
/// the handlers in Lua; until then these are all the values that items have.)
pub fn item_values(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    for (alive, down) in [("ip_up", "ip_down"), ("memory_up", "memory_down")] {
        let system = serde_json::json!({
            "alive": alive, "down": down, "config": {"interface": "lo"}, "data": value,
        });
        let text = serde_json::json!({
            "key": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "servers": {"a": {"ip": "192.0.2.1", "systems": ["s"]}, "b": {"ip": "192.0.2.2"}},
            "cluster": {"system": {"s": system}},
        });
        if let Some(config) = load(&text.to_string(), "a") {
            run(config);
        }
    }
}

/// A config that was accepted can be run.
fn run(config: Config) {
    let servers = config.servers.len();
    let mut node = Node::new(Arc::new(config), Start { generation: 1, seed: [1; 32], keys: None }, START);
    feed(&mut node, Input::Timeout, START);
    assert_eq!(node.status(START).members.len(), servers);
}
