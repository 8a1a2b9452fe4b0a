//! Nodes in one thread whose configs change while they run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::config::{Check, CheckKind, Config, Isolated, Item, System};
use crate::event::{Event, ItemState, Reason};
use crate::io::{Command, HookAction, HookCall, Input, Output};
use crate::node::{Node, Start};
use crate::testing;
use crate::time::Time;
use crate::view::Life;

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECOND: Duration = Duration::from_secs(1);

/// A hook as its driver saw it: where, what, of which item, why.
type Ran = (usize, HookAction, String, Reason);

/// Nodes whose datagrams and streams arrive at once. Each has a driver that reads positions by the config that
/// it was told last.
struct Net {
    nodes: Vec<Node>,
    configs: Vec<Arc<Config>>,
    by_addr: BTreeMap<SocketAddr, usize>,
    /// They neither hear nor wake.
    gone: BTreeSet<usize>,
    now: Time,
    /// Hooks wait until they are told to end.
    held_up: Option<Vec<(usize, HookCall)>>,
    hooks: Vec<Ran>,
    /// By item, who has it.
    here: BTreeMap<String, BTreeSet<usize>>,
    /// Items that two had at a time, and for how long.
    overlaps: BTreeMap<String, Duration>,
    events: Vec<(usize, Event)>,
    left: BTreeSet<usize>,
}

/// The servers of `ids`, each at its own address whatever its place, and these items.
fn config(ids: &str, me: char, items: &[&str]) -> Config {
    let ids = if ids.contains(me) { ids.to_owned() } else { format!("{ids}{me}") };
    let mut config = testing::config(&ids, &me.to_string());
    for server in config.servers.iter_mut() {
        let letter = server.id.bytes().next().expect("a letter");
        server.addr.set_port(2200 + u16::from(letter - b'a'));
    }
    config.systems[0].items = items.iter().map(|name| Item::plain("test", name)).collect();
    config
}

/// As [`config`], without the server `me` itself.
fn without(ids: &str, me: char, items: &[&str]) -> Config {
    let first = ids.chars().next().expect("a server");
    let config = config(ids, first, items);
    assert!(!ids.contains(me));
    Config { me: config.servers.len(), ..config }
}

impl Net {
    fn new(ids: &str, items: &[&str], change: impl Fn(&mut Config)) -> Self {
        let mut net = Self {
            nodes: Vec::new(),
            configs: Vec::new(),
            by_addr: BTreeMap::new(),
            gone: BTreeSet::new(),
            now: Time::from_millis(1000),
            held_up: None,
            hooks: Vec::new(),
            here: BTreeMap::new(),
            overlaps: BTreeMap::new(),
            events: Vec::new(),
            left: BTreeSet::new(),
        };
        for me in ids.chars() {
            let mut config = config(ids, me, items);
            change(&mut config);
            net.start(config);
        }
        net
    }

    /// Starts one more node.
    fn start(&mut self, config: Config) {
        let config = Arc::new(config);
        let index = self.nodes.len();
        let start = Start { generation: 1, seed: [u8::try_from(index).expect("few"); 32], keys: None };
        self.nodes.push(Node::new(Arc::clone(&config), start, self.now));
        self.by_addr.insert(config.my().addr, index);
        self.configs.push(config);
        self.feed(index, Input::Timeout);
    }

    fn feed(&mut self, node: usize, input: Input<'_>) {
        self.nodes[node].handle(input, self.now);
        self.deliver(node);
    }

    fn adopt(&mut self, node: usize, config: Config) {
        self.nodes[node].adopt(Arc::new(config), self.now);
        self.deliver(node);
    }

    fn deliver(&mut self, node: usize) {
        let mut busy = VecDeque::from([node]);
        while let Some(from) = busy.pop_front() {
            while let Some(output) = self.nodes[from].poll_output() {
                match output {
                    Output::Datagram { to, data } => {
                        let addr = self.configs[from].my().addr;
                        if let Some(to) = self.by_addr.get(&to).copied().filter(|to| !self.gone.contains(to))
                        {
                            self.nodes[to].handle(Input::Datagram { from: addr, data: &data }, self.now);
                            busy.push_back(to);
                        }
                    }
                    Output::Stream { to, data } => {
                        let Some(to) = self.by_addr.get(&to).copied().filter(|to| !self.gone.contains(to))
                        else {
                            continue;
                        };
                        self.nodes[to].handle(Input::StreamRequest { conn: 7, data: &data }, self.now);
                        busy.push_back(to);
                        // What else it said stays in order.
                        self.deliver_stream(from, to);
                    }
                    Output::Hook(call) => {
                        let item = &self.configs[from].systems[call.item.system].items[call.item.item];
                        self.hooks.push((from, call.action, item.name.clone(), call.reason));
                        match &mut self.held_up {
                            Some(waiting) => waiting.push((from, call)),
                            None => {
                                self.end(from, &call);
                                busy.push_back(from);
                            }
                        }
                    }
                    Output::Config(config) => self.configs[from] = config,
                    Output::Event(event) => self.events.push((from, event)),
                    Output::Left => {
                        self.left.insert(from);
                        self.gone.insert(from);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Brings the answer to a stream's request to who asked.
    fn deliver_stream(&mut self, asker: usize, to: usize) {
        let mut others = Vec::new();
        while let Some(output) = self.nodes[to].poll_output() {
            match output {
                Output::StreamReply { data, .. } => {
                    self.nodes[asker].handle(Input::StreamReply { data: &data }, self.now);
                }
                Output::Datagram { to: addr, data } => others.push((addr, data)),
                Output::Event(event) => self.events.push((to, event)),
                Output::Hook(call) => {
                    let item = &self.configs[to].systems[call.item.system].items[call.item.item];
                    self.hooks.push((to, call.action, item.name.clone(), call.reason));
                    self.end(to, &call);
                }
                Output::Config(config) => self.configs[to] = config,
                _ => {}
            }
        }
        let addr = self.configs[to].my().addr;
        for (receiver, data) in others {
            let Some(receiver) = self.by_addr.get(&receiver).copied().filter(|at| !self.gone.contains(at))
            else {
                continue;
            };
            self.nodes[receiver].handle(Input::Datagram { from: addr, data: &data }, self.now);
            self.deliver(receiver);
        }
    }

    /// A hook ends well.
    fn end(&mut self, node: usize, call: &HookCall) {
        let item = &self.configs[node].systems[call.item.system].items[call.item.item];
        let holders = self.here.entry(item.name.clone()).or_default();
        match call.action {
            HookAction::Alive => {
                assert!(!item.retired, "{} comes though it is retired", item.name);
                holders.insert(node);
            }
            HookAction::Down => {
                holders.remove(&node);
            }
            HookAction::Announce => {}
        }
        self.nodes[node].handle(Input::HookDone { hook: call.id, result: Ok(()) }, self.now);
    }

    /// All hooks that waited end, and those that come from now on at once.
    fn release_hooks(&mut self) {
        for (node, call) in self.held_up.take().unwrap_or_default() {
            self.end(node, &call);
            self.deliver(node);
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let awake = (0..self.nodes.len()).filter(|node| !self.gone.contains(node));
            let next = awake.filter_map(|node| Some((self.nodes[node].poll_timeout()?, node))).min();
            let Some((at, node)) = next.filter(|(at, _)| *at <= end) else { break };
            self.pass(at);
            self.feed(node, Input::Timeout);
        }
        self.pass(end);
    }

    fn pass(&mut self, at: Time) {
        let at = at.max(self.now);
        for (name, holders) in &self.here {
            if holders.len() > 1 {
                *self.overlaps.entry(name.clone()).or_default() += at.since(self.now);
            }
        }
        self.now = at;
    }

    /// What ran since this was asked last.
    fn ran(&mut self) -> Vec<Ran> {
        std::mem::take(&mut self.hooks)
    }

    fn holders(&self, item: &str) -> Vec<usize> {
        self.here.get(item).into_iter().flatten().copied().collect()
    }

    /// Names in the config that a node works with: servers, items; what is retired has a cross.
    fn names(&self, node: usize) -> (String, Vec<String>) {
        let config = &self.configs[node];
        let cross = |retired: bool| if retired { "+" } else { "" };
        let servers = config.servers.iter().map(|server| format!("{}{}", server.id, cross(server.retired)));
        let items = config.systems.iter().flat_map(|system| &system.items);
        let items = items.map(|item| format!("{}{}", item.name, cross(item.retired)));
        (servers.collect(), items.collect())
    }

    fn lives(&self, node: usize) -> Vec<Life> {
        self.nodes[node].view().iter().map(|record| record.life).collect()
    }

    fn states(&self, node: usize) -> BTreeMap<String, ItemState> {
        let status = self.nodes[node].status(self.now);
        let own = |item: &crate::status::ItemStatus| {
            let here = item.holders.iter().find(|holder| holder.server == self.configs[node].my().id);
            here.map(|holder| (item.item.clone(), holder.state))
        };
        status.items.iter().filter_map(own).collect()
    }
}

fn alive(node: usize, item: &str, reason: Reason) -> Ran {
    (node, HookAction::Alive, item.to_owned(), reason)
}

fn down(node: usize, item: &str, reason: Reason) -> Ran {
    (node, HookAction::Down, item.to_owned(), reason)
}

#[test]
fn an_item_comes_and_the_others_are_not_touched() {
    let mut net = Net::new("ab", &["x", "y"], |_| {});
    net.run(SECOND);
    net.ran();
    net.events.clear();
    net.adopt(0, config("ab", 'a', &["x", "y", "z"]));
    net.run(MS(300));
    net.adopt(1, config("ab", 'b', &["x", "y", "z"]));
    net.run(SECOND);
    assert_eq!(net.ran(), [alive(0, "z", Reason::Home)]);
    let what = "item test/z added".to_owned();
    let told: Vec<_> =
        net.events.iter().filter(|(_, event)| matches!(event, Event::ConfigChanged { .. })).collect();
    assert_eq!(
        told,
        [&(0, Event::ConfigChanged { what: what.clone() }), &(1, Event::ConfigChanged { what })]
    );
    assert_eq!((net.holders("x"), net.holders("y"), net.holders("z")), (vec![0], vec![1], vec![0]));
    assert!(net.nodes.iter().all(|node| node.status(net.now).healthy()));
}

#[test]
fn an_item_that_is_held_goes_once_and_is_forgotten() {
    let mut net = Net::new("abc", &["x", "y", "z"], |_| {});
    net.run(SECOND);
    net.ran();
    // First where it is not: they keep it, because the holder says that it has it.
    net.adopt(1, config("abc", 'b', &["x", "z"]));
    net.adopt(2, config("abc", 'c', &["x", "z"]));
    net.run(MS(200));
    assert_eq!(net.names(2).1, ["x", "z", "y+"]);
    assert_eq!(net.ran(), [down(1, "y", Reason::Removed)]);
    net.adopt(0, config("abc", 'a', &["x", "z"]));
    net.run(12 * SECOND);
    for node in 0..3 {
        assert_eq!(net.names(node).1, ["x", "z"], "{node}");
        assert!(net.nodes[node].status(net.now).healthy());
    }
    // The list is shorter, so that what was third is second now.
    assert_eq!(net.ran(), [alive(1, "z", Reason::Failback), down(2, "z", Reason::Failback)]);
    assert_eq!((net.holders("x"), net.holders("y"), net.holders("z")), (vec![0], vec![], vec![1]));
}

#[test]
fn what_is_taken_out_and_put_back_at_once_stays() {
    let mut net = Net::new("ab", &["x"], |_| {});
    net.run(SECOND);
    net.ran();
    net.held_up = Some(Vec::new());
    net.adopt(0, config("ab", 'a', &["y"]));
    // Its down hook runs; it is wanted again when that ends.
    assert_eq!(net.ran()[0], down(0, "x", Reason::Removed));
    net.adopt(0, config("ab", 'a', &["y", "x"]));
    net.adopt(1, config("ab", 'b', &["y", "x"]));
    net.release_hooks();
    net.run(12 * SECOND);
    assert_eq!((net.holders("x"), net.holders("y")), (vec![1], vec![0]));
    assert_eq!(net.names(0).1, ["y", "x"]);
    // And one that leaves in the same change in which another comes.
    net.ran();
    for (node, me) in ['a', 'b'].into_iter().enumerate() {
        net.adopt(node, config("ab", me, &["z", "x"]));
    }
    net.run(SECOND);
    let ran = net.ran();
    assert_eq!(ran, [down(0, "y", Reason::Removed), alive(0, "z", Reason::Home)]);
}

/// Systems, servers and items in another order are the same.
#[test]
fn another_order_touches_nothing() {
    let prefer = |config: &mut Config| {
        config.systems.push(System { name: "second".into(), ..config.systems[0].clone() });
        config.systems[1].items = vec![Item::plain("second", "s"), Item::plain("second", "t")];
        for server in config.servers.iter_mut() {
            server.systems = vec![0, 1];
        }
        for (at, item) in config.systems.iter_mut().flat_map(|system| &mut system.items).enumerate() {
            item.prefer = Some(at % 3);
        }
    };
    let mut net = Net::new("abc", &["x", "y", "z"], prefer);
    net.run(2 * SECOND);
    net.ran();
    net.events.clear();
    let before: Vec<_> = (0..3).map(|node| sorted(&net, node)).collect();
    let mut random = StdRng::seed_from_u64(5);
    for _ in 0..20 {
        let seed = random.random();
        for node in 0..3 {
            let mut config = (*net.configs[node]).clone();
            shuffle(&mut config, seed);
            net.adopt(node, config);
            net.run(MS(random.random_range(0..400)));
        }
    }
    net.run(5 * SECOND);
    assert_eq!(net.ran(), []);
    let quiet = |event: &Event| matches!(event, Event::ConfigChanged { .. } | Event::ConfigDiffers { .. });
    assert_eq!(net.events.iter().find(|(_, event)| !quiet(event)), None);
    let after: Vec<_> = (0..3).map(|node| sorted(&net, node)).collect();
    assert_eq!(before, after);
}

/// Another order of everything; the same for the same seed.
fn shuffle(config: &mut Config, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let me = config.my().id.clone();
    let mut ids: Vec<_> = config.servers.iter().map(|server| server.id.clone()).collect();
    ids.sort();
    ids.shuffle(&mut random);
    let place = |id: &String| ids.iter().position(|known| known == id).expect("known");
    let before: Vec<_> = config.servers.iter().map(|server| server.id.clone()).collect();
    let moved = |at: usize| place(&before[at]);
    config.servers.sort_by_key(|server| place(&server.id));
    config.me = place(&me);
    config.voters = config.voters.iter().map(|voter| moved(*voter)).collect();
    config.voters.sort_unstable();
    for item in config.systems.iter_mut().flat_map(|system| &mut system.items) {
        item.prefer = item.prefer.map(moved);
    }
    let mut names: Vec<_> = config.systems.iter().map(|system| system.name.clone()).collect();
    names.sort();
    names.shuffle(&mut random);
    let system = |name: &String| names.iter().position(|known| known == name).expect("known");
    let before: Vec<_> = config.systems.iter().map(|system| system.name.clone()).collect();
    config.systems.sort_by_key(|spec| system(&spec.name));
    for server in config.servers.iter_mut() {
        server.systems = server.systems.iter().map(|at| system(&before[*at])).collect();
        server.systems.sort_unstable();
    }
    for spec in &mut config.systems {
        spec.items.sort_by(|a, b| a.name.cmp(&b.name));
        spec.items.shuffle(&mut random);
    }
}

/// The status without what grows with time, in an order of its own.
fn sorted(net: &Net, node: usize) -> (Vec<String>, Vec<String>) {
    let status = net.nodes[node].status(net.now);
    let mut members: Vec<_> = status
        .members
        .iter()
        .map(|member| format!("{} {} {:?} {}", member.id, member.address, member.state, member.generation))
        .collect();
    let mut items: Vec<_> = status
        .items
        .iter()
        .map(|item| {
            let held = item.holders.iter().map(|holder| (&holder.server, holder.state));
            format!("{} {} {:?} {:?}", item.system, item.item, item.wanted, held.collect::<Vec<_>>())
        })
        .collect();
    members.sort();
    items.sort();
    (members, items)
}

#[test]
fn what_hooks_see_of_an_item_goes_as_it_was_and_comes_as_it_is() {
    let mut net = Net::new("ab", &["x", "y", "z"], |_| {});
    net.run(SECOND);
    net.ran();
    let own = || Some(serde_json::Map::from_iter([("port".to_owned(), 7.into())]));
    let changed = |me| {
        let mut config = config("ab", me, &["x", "y", "z"]);
        config.systems[0].items[0].own = own();
        config
    };
    net.held_up = Some(Vec::new());
    net.adopt(0, changed('a'));
    net.adopt(1, changed('b'));
    assert_eq!(net.ran(), [down(0, "x", Reason::Redefined)]);
    assert_eq!(net.configs[0].systems[0].items[0].own, None, "its down hook sees what it was");
    assert_eq!(net.configs[1].systems[0].items[0].own, own(), "nothing is here that could be otherwise");
    net.release_hooks();
    net.run(SECOND);
    assert_eq!(net.ran(), [alive(0, "x", Reason::Failback)]);
    assert_eq!(net.configs[0].systems[0].items[0].own, own());
    assert_eq!(net.holders("x"), [0]);

    // What the whole system says changes all that is here; what comes meanwhile waits for it.
    let with = |me, items: &[&str]| {
        let mut config = config("ab", me, items);
        config.systems[0].items[0].own = own();
        config.systems[0].config.insert("dir".into(), "/srv".into());
        config
    };
    net.held_up = Some(Vec::new());
    net.adopt(0, with('a', &["x", "y", "z", "q", "r"]));
    let mut ran = net.ran();
    ran.sort_by(|a, b| a.2.cmp(&b.2));
    assert_eq!(ran, [down(0, "x", Reason::Redefined), down(0, "z", Reason::Redefined)]);
    assert!(net.configs[0].systems[0].config.is_empty());
    net.adopt(1, with('b', &["x", "y", "z", "q", "r"]));
    net.release_hooks();
    net.run(12 * SECOND);
    assert!(net.configs.iter().all(|config| config.systems[0].config.contains_key("dir")));
    let mut ran: Vec<_> = net.ran().into_iter().map(|(node, action, name, _)| (node, action, name)).collect();
    ran.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
    let came = |node, name: &str| (node, HookAction::Alive, name.to_owned());
    let went = |node, name: &str| (node, HookAction::Down, name.to_owned());
    assert_eq!(ran, [came(0, "r"), came(0, "x"), came(0, "z"), came(1, "q"), went(1, "y"), came(1, "y")]);
    assert!(net.nodes.iter().all(|node| node.status(net.now).healthy()));
}

#[test]
fn a_server_comes_and_gets_its_share() {
    let mut net = Net::new("ab", &["x", "y", "z"], |_| {});
    net.run(SECOND);
    net.ran();
    net.adopt(0, config("abc", 'a', &["x", "y", "z"]));
    net.run(MS(100));
    net.adopt(1, config("abc", 'b', &["x", "y", "z"]));
    net.start(config("abc", 'c', &["x", "y", "z"]));
    net.run(12 * SECOND);
    assert_eq!(net.holders("z"), [2]);
    let ran: Vec<_> = net.ran().into_iter().map(|(node, action, name, _)| (node, action, name)).collect();
    assert_eq!(ran, [(2, HookAction::Alive, "z".to_owned()), (0, HookAction::Down, "z".to_owned())]);
    for node in 0..3 {
        assert_eq!(net.lives(node), [Life::Up; 3]);
        assert!(net.nodes[node].status(net.now).healthy());
    }
}

#[test]
fn a_server_goes_with_its_items_handed_over() {
    let mut net = Net::new("abc", &["x", "y", "z"], |_| {});
    net.run(SECOND);
    net.ran();
    let items = &["x", "y", "z"];
    net.adopt(0, config("ab", 'a', items));
    assert_eq!(net.names(0).0, "abc+");
    net.run(3 * SECOND);
    // It does not know yet: what it has is its own.
    net.adopt(1, config("ab", 'b', items));
    net.run(3 * SECOND);
    assert_eq!(net.ran(), []);
    assert_eq!(net.names(1).0, "abc+");
    net.adopt(2, without("ab", 'c', items));
    assert!(net.events.contains(&(2, Event::Outcast)));
    net.run(3 * SECOND);
    assert_eq!(net.left, BTreeSet::from([2]));
    assert_eq!(net.holders("z"), [0]);
    let ran: Vec<_> = net.ran().into_iter().map(|(node, action, name, _)| (node, action, name)).collect();
    assert_eq!(
        ran,
        [(0, HookAction::Alive, "z".to_owned()), (2, HookAction::Down, "z".to_owned())],
        "the successor comes before it goes"
    );
    for node in 0..2 {
        assert_eq!(net.names(node).0, "ab");
        assert_eq!(net.lives(node), [Life::Up; 2]);
        assert!(net.nodes[node].status(net.now).healthy());
    }
}

#[test]
fn a_server_that_goes_and_is_silent_is_given_up() {
    let mut net = Net::new("abc", &["x", "y", "z"], |_| {});
    net.run(SECOND);
    net.ran();
    net.gone.insert(2);
    for (node, me) in ['a', 'b'].into_iter().enumerate() {
        net.adopt(node, config("ab", me, &["x", "y", "z"]));
    }
    let patience = net.nodes[0].grace() + net.configs[0].timing.ping_timeout;
    net.run(patience - MS(50));
    assert!(net.names(0).0 == "abc+" && net.ran().is_empty());
    net.run(2 * SECOND);
    assert_eq!((net.names(0).0.as_str(), net.names(1).0.as_str()), ("ab", "ab"));
    assert_eq!(net.ran(), [alive(0, "z", Reason::Home)]);
}

#[test]
fn a_change_during_a_case_does_not_stop_it() {
    let mut net = Net::new("abcd", &["x", "y", "z", "w"], |_| {});
    net.run(SECOND);
    net.gone.insert(3);
    while net.nodes[0].cases.is_empty() {
        net.run(MS(5));
    }
    net.ran();
    for (node, me) in ['a', 'b', 'c'].into_iter().enumerate() {
        // The one in question stands elsewhere now.
        net.adopt(node, config("dabc", me, &["v", "x", "y", "z", "w"]));
    }
    assert_eq!(net.nodes[0].cases.keys().copied().collect::<Vec<_>>(), [0]);
    net.run(SECOND);
    for node in 0..3 {
        assert_eq!(net.lives(node), [Life::Down, Life::Up, Life::Up, Life::Up]);
    }
    // What it had is taken, and nobody has anything twice but for a handover.
    net.run(12 * SECOND);
    net.here.values_mut().for_each(|holders| {
        holders.remove(&3);
    });
    for item in ["v", "x", "y", "z", "w"] {
        assert_eq!(net.holders(item).len(), 1, "{item}");
    }
}

#[test]
fn a_hook_that_runs_ends_and_then_the_item_goes() {
    let mut net = Net::new("ab", &["x"], |_| {});
    net.held_up = Some(Vec::new());
    net.run(SECOND);
    assert_eq!(net.ran(), [alive(0, "x", Reason::Home)]);
    net.adopt(0, config("ab", 'a', &[]));
    net.adopt(1, config("ab", 'b', &[]));
    net.run(MS(100));
    assert_eq!(net.names(0).1, ["x+"]);
    assert_eq!(net.ran(), []);
    net.release_hooks();
    assert_eq!(net.ran(), [down(0, "x", Reason::Removed)]);
    net.run(MS(500));
    assert!(net.names(0).1.is_empty() && net.names(1).1.is_empty());
}

#[test]
fn a_drain_and_a_departure_outlive_a_change() {
    let mut net = Net::new("abc", &["x", "y", "z"], |_| {});
    net.run(SECOND);
    net.feed(0, Input::Command { asker: 1, command: Command::Drain { server: "b".into() } });
    net.run(SECOND);
    assert!(net.holders("y") != [1]);
    net.ran();
    for (node, me) in ['a', 'b', 'c'].into_iter().enumerate() {
        let mut config = config("cba", me, &["x", "y", "z", "w"]);
        for (item, home) in config.systems[0].items.iter_mut().zip([2, 1, 0, 1]) {
            item.prefer = Some(home);
        }
        net.adopt(node, config);
    }
    net.run(2 * SECOND);
    assert!(net.nodes.iter().all(|node| node.is_drained(1)), "b stands where it stood");
    assert!(net.holders("w") != [1] && net.holders("w").len() == 1);
    net.held_up = Some(Vec::new());
    net.feed(0, Input::Leave);
    for (node, me) in ['a', 'b', 'c'].into_iter().enumerate() {
        net.adopt(node, config("abc", me, &["x", "y", "z", "w", "v"]));
    }
    net.release_hooks();
    net.run(5 * SECOND);
    assert_eq!(net.left, BTreeSet::from([0]));
    for item in ["x", "y", "z", "w", "v"] {
        assert_eq!(net.holders(item), [2], "{item}");
    }
}

fn dropped(config: &mut Config) {
    config.systems[0].items.iter_mut().for_each(|item| item.isolated = Isolated::Drop);
}

/// R9: with other voters nobody gets a new lease for a while, and whoever has one keeps it.
#[test]
fn with_other_voters_leases_go_on_and_new_ones_wait() {
    let mut net = Net::new("abc", &["x", "y"], dropped);
    net.run(8 * SECOND);
    assert_eq!((net.holders("x"), net.holders("y")), (vec![0], vec![1]));
    net.ran();
    let with = |me| {
        let mut config = config("abcd", me, &["x", "y", "z"]);
        dropped(&mut config);
        config.systems[0].items[2].prefer = Some(2);
        config
    };
    for (node, me) in ['a', 'b', 'c'].into_iter().enumerate() {
        net.adopt(node, with(me));
        net.run(MS(50));
    }
    net.start(with('d'));
    let began = net.now;
    while net.holders("z").is_empty() {
        net.run(MS(50));
        assert!(net.now.since(began) < 10 * SECOND);
    }
    let waited = net.now.since(began);
    let quarantine = crate::lease::quarantine(net.configs[0].lease);
    assert!(waited > quarantine - MS(300) && waited < quarantine + SECOND, "{waited:?} {quarantine:?}");
    assert_eq!(net.ran(), [alive(2, "z", Reason::Home)], "nothing else moved");
    assert_eq!((net.holders("x"), net.holders("y")), (vec![0], vec![1]));
}

/// A leased item that leaves the config is released in order, so that it can come again at once.
#[test]
fn a_leased_item_is_released_before_it_is_forgotten() {
    let mut net = Net::new("abc", &["x", "y"], dropped);
    net.run(8 * SECOND);
    net.ran();
    let with = |me, items: &[&str]| {
        let mut config = config("abc", me, items);
        dropped(&mut config);
        config
    };
    for (node, me) in ['a', 'b', 'c'].into_iter().enumerate() {
        net.adopt(node, with(me, &["x"]));
    }
    net.run(SECOND);
    assert_eq!(net.ran(), [down(1, "y", Reason::Removed)]);
    for node in 0..3 {
        assert_eq!(net.names(node).1, ["x"]);
    }
    for (node, me) in ['a', 'b', 'c'].into_iter().enumerate() {
        net.adopt(node, with(me, &["x", "y"]));
    }
    net.run(SECOND);
    assert_eq!(net.ran(), [alive(1, "y", Reason::Home)], "no promise of it is left");
    // Another policy is another thing for whoever holds it.
    for (node, me) in ['a', 'b', 'c'].into_iter().enumerate() {
        let mut config = with(me, &["x", "y"]);
        config.systems[0].items[0].isolated = Isolated::Keep;
        net.adopt(node, config);
    }
    net.run(SECOND);
    assert_eq!(net.ran(), [down(0, "x", Reason::Redefined), alive(0, "x", Reason::Failback)]);
}

#[test]
fn checks_that_stay_the_same_go_on_and_others_begin() {
    let check = |name: &str| -> Check { testing::check(CheckKind::Lua { script: name.into() }) };
    let mut net = Net::new("ab", &["x", "y"], |config| {
        config.systems[0].items[0].checks = vec![check("one")];
    });
    net.run(SECOND);
    let probes = |net: &Net| -> Vec<_> { net.nodes[0].status(net.now).items };
    for (node, me) in ['a', 'b'].into_iter().enumerate() {
        let mut config = config("ab", me, &["y", "x"]);
        config.systems[0].items[1].checks = vec![check("two"), check("one")];
        config.systems[0].items.iter_mut().zip([1, 0]).for_each(|(item, home)| item.prefer = Some(home));
        net.adopt(node, config);
    }
    let items = probes(&net);
    let since: Vec<_> = items[1].checks.iter().map(|check| check.since_ms).collect();
    assert!(since[0] == 0 && since[1] >= 1000, "{since:?}");
    net.run(SECOND);
    assert_eq!(net.nodes[0].health_of(crate::id::ItemRef { system: 0, item: 1 }).count(), 2);
}

/// A whole system comes, and goes again with its items.
#[test]
fn a_system_comes_and_goes() {
    let mut net = Net::new("ab", &["x"], |_| {});
    net.run(SECOND);
    net.ran();
    let with = |me, second: bool| {
        let mut config = config("ab", me, &["x"]);
        if second {
            let items = vec![Item::plain("second", "s"), Item::plain("second", "t")];
            config.systems.insert(0, System { name: "second".into(), items, ..config.systems[0].clone() });
            config.servers.iter_mut().for_each(|server| server.systems = vec![0, 1]);
        }
        config
    };
    for (node, me) in ['a', 'b'].into_iter().enumerate() {
        net.adopt(node, with(me, true));
    }
    net.run(SECOND);
    assert_eq!(net.ran(), [alive(0, "s", Reason::Home), alive(1, "t", Reason::Home)]);
    net.held_up = Some(Vec::new());
    for (node, me) in ['a', 'b'].into_iter().enumerate() {
        net.adopt(node, with(me, false));
    }
    assert_eq!(net.ran(), [down(0, "s", Reason::Removed), down(1, "t", Reason::Removed)]);
    let names: Vec<_> = net.configs[0].systems.iter().map(|system| system.name.as_str()).collect();
    assert_eq!(names, ["test", "second"]);
    assert!(net.configs[0].my().systems == [0, 1], "whoever has something of it takes part in it");
    net.release_hooks();
    net.run(SECOND);
    assert!(net.configs.iter().all(|config| config.systems.len() == 1 && config.my().systems == [0]));
    assert_eq!(net.states(0), BTreeMap::from([("x".to_owned(), ItemState::Active)]));
    assert_eq!(net.overlaps, BTreeMap::new());
}
