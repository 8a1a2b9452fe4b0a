//! What recorded, forged and foreign datagrams do to whole nodes: nothing.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Node, Start};
use crate::config::{ClusterKey, Config};
use crate::event::{Event, Refusal};
use crate::io::{Command, Input, Output};
use crate::stored::StoredKeys;
use crate::time::Time;
use crate::view::Life;
use crate::wire::ring::key_id;
use crate::wire::seal::HEADER;
use crate::{limits, testing};

/// A datagram, or a frame of a stream.
#[derive(Clone)]
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    data: Vec<u8>,
    /// The connection's number at the asking node, and whether this is the answer.
    stream: Option<(usize, bool)>,
    /// When it arrives.
    due: Time,
}

/// Nodes and the addresses at which they really are, on a network that records.
struct Lan {
    nodes: Vec<(SocketAddr, Node)>,
    now: Time,
    air: VecDeque<Packet>,
    record: Vec<Packet>,
    events: Vec<(usize, Event)>,
    refused: Vec<(usize, SocketAddr)>,
    /// While set, packets take up to 50 ms each, and overtake each other.
    jitter: Option<StdRng>,
    /// Links that carry nothing, both ways.
    cut: Vec<(SocketAddr, SocketAddr)>,
    done: Vec<Result<String, String>>,
    stored: BTreeMap<usize, StoredKeys>,
}

fn node(config: Config, seed: u8, now: Time) -> Node {
    Node::new(Arc::new(config), Start { generation: u64::from(seed), seed: [seed; 32], keys: None }, now)
}

impl Lan {
    fn empty() -> Self {
        Self {
            nodes: Vec::new(),
            now: Time::from_millis(1_000_000),
            air: VecDeque::new(),
            record: Vec::new(),
            events: Vec::new(),
            refused: Vec::new(),
            jitter: None,
            cut: Vec::new(),
            done: Vec::new(),
            stored: BTreeMap::new(),
        }
    }

    /// One node for each letter, which have met.
    fn new(ids: &str) -> Self {
        let mut lan = Self::empty();
        for id in ids.chars() {
            lan.add(testing::config(ids, &id.to_string()), None);
        }
        lan.run(Duration::from_secs(2));
        for (_, node) in &lan.nodes {
            assert!(node.view.iter().all(|record| record.life == Life::Up));
        }
        lan
    }

    /// Starts a node, at another address than its config says if one is given.
    fn add(&mut self, config: Config, at: Option<SocketAddr>) -> usize {
        let n = self.nodes.len();
        let at = at.unwrap_or(config.my().addr);
        self.nodes.push((at, node(config, u8::try_from(n + 1).expect("few"), self.now)));
        self.feed(n, Input::Timeout);
        n
    }

    /// Gives a command and waits for what comes of it, for eight seconds at most.
    fn command(&mut self, n: usize, command: Command) -> Result<String, String> {
        self.feed(n, Input::Command { asker: 5, command });
        let end = self.now + 8 * SECOND;
        while self.done.is_empty() && self.now < end {
            self.run(Duration::from_millis(10));
        }
        assert_eq!(self.done.len(), 1, "one answer");
        self.done.remove(0)
    }

    /// Replaces a node by a new life of it, which has not spoken yet.
    fn restart(&mut self, n: usize, seed: u8) {
        let config = self.nodes[n].1.config().clone();
        let keys = self.stored.get(&n).cloned();
        let start = Start { generation: seed.into(), seed: [seed; 32], keys };
        self.nodes[n].1 = Node::new(Arc::new(config), start, self.now);
        self.air.clear();
    }

    fn feed(&mut self, n: usize, input: Input<'_>) {
        self.nodes[n].1.handle(input, self.now);
        let from = self.nodes[n].0;
        while let Some(output) = self.nodes[n].1.poll_output() {
            let due = self.now
                + self.jitter.as_mut().map_or(Duration::ZERO, |rng| rng.random_range(MILLI..MAX_DELAY));
            match output {
                Output::Datagram { to, data } => {
                    self.air.push_back(Packet { from, to, data, stream: None, due });
                }
                Output::Stream { to, data } => {
                    self.air.push_back(Packet { from, to, data, stream: Some((n, false)), due });
                }
                Output::StreamReply { conn, data } => {
                    let asker = usize::try_from(conn).expect("an index");
                    let to = self.nodes[asker].0;
                    self.air.push_back(Packet { from, to, data, stream: Some((asker, true)), due });
                }
                Output::Event(event) => self.events.push((n, event)),
                Output::Refused { other } => self.refused.push((n, other)),
                Output::Done { result, .. } => self.done.push(result),
                Output::StoreKeys(keys) => drop(self.stored.insert(n, keys)),
                _ => {}
            }
        }
    }

    fn receive(&mut self, n: usize, packet: &Packet) {
        let data = &packet.data;
        match packet.stream {
            None => self.feed(n, Input::Datagram { from: packet.from, data }),
            Some((asker, false)) => {
                self.feed(n, Input::StreamRequest { conn: asker as u64, data });
            }
            Some((_, true)) => self.feed(n, Input::StreamReply { data }),
        }
    }

    /// Delivers what is in the air once.
    fn hop(&mut self) {
        for packet in std::mem::take(&mut self.air) {
            self.arrive(&packet);
        }
    }

    fn arrive(&mut self, packet: &Packet) {
        self.record.push(packet.clone());
        let (from, to) = (packet.from, packet.to);
        let cut = self.cut.contains(&(from, to)) || self.cut.contains(&(to, from));
        if let Some(n) = self.nodes.iter().position(|(addr, _)| *addr == to).filter(|_| !cut) {
            self.receive(n, packet);
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            // The first of those that arrive together is the one that was sent first.
            let next = (0..self.air.len()).min_by_key(|at| (self.air[*at].due, *at));
            let arrival = next.map(|at| (self.air[at].due, at)).filter(|(due, _)| *due <= end);
            let timers =
                self.nodes.iter().enumerate().filter_map(|(n, (_, node))| Some((node.poll_timeout()?, n)));
            let timer = timers.min().filter(|(at, _)| *at <= end);
            match (arrival, timer) {
                (Some((due, at)), timer) if timer.is_none_or(|(timer, _)| due <= timer) => {
                    self.now = self.now.max(due);
                    if let Some(packet) = self.air.remove(at) {
                        self.arrive(&packet);
                    }
                }
                (_, Some((at, n))) => {
                    self.now = self.now.max(at);
                    self.feed(n, Input::Timeout);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn duplicates(&self, n: usize) -> usize {
        let is = |event: &Event| matches!(event, Event::DuplicateId { .. });
        self.events.iter().filter(|(at, event)| *at == n && is(event)).count()
    }

    fn count(&self, n: usize, why: Refusal) -> u64 {
        self.nodes[n].1.refused.counts().get(&format!("{why:?}").to_lowercase()).copied().unwrap_or(0)
    }

    /// Everything that a datagram could change in a node, as text.
    fn state(&self, n: usize) -> String {
        let node = &self.nodes[n].1;
        let lives: Vec<_> = (0..node.config.servers.len())
            .map(|server| (node.view.get(server).clone(), node.facts.of(server).clone()))
            .collect();
        let sessions: Vec<_> = (0..lives.len()).map(|server| node.sessions.live_session(server)).collect();
        let cases: Vec<_> = node.cases.keys().collect();
        format!("{lives:?} {sessions:?} {cases:?} {:?} {}", node.swim.poll_timeout(), node.generation)
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const MAX_DELAY: Duration = Duration::from_millis(50);

/// "Recorded last week, replayed after a restart": fault matrix row 50.
#[test]
fn what_was_recorded_before_a_restart_changes_nothing() {
    let mut lan = Lan::new("abc");
    let recorded: Vec<_> = lan.record.iter().filter(|packet| packet.to == lan.nodes[1].0).cloned().collect();
    assert!(recorded.len() > 20 && recorded.iter().any(|packet| packet.stream.is_some()));
    lan.now += Duration::from_secs(7 * 24 * 3600);
    lan.restart(1, 77);
    let before = lan.state(1);
    for packet in &recorded {
        lan.receive(1, packet);
        for answer in std::mem::take(&mut lan.air) {
            assert!(answer.to == lan.nodes[0].0 || answer.to == lan.nodes[2].0);
            assert!(answer.data.len() <= packet.data.len());
        }
        lan.now += Duration::from_millis(15);
    }
    assert_eq!(lan.state(1), before);
    assert_eq!(lan.count(1, Refusal::Session), recorded.iter().filter(|p| p.stream.is_none()).count() as u64);
    // The same packets again, on the air, while the real ones are there: they come together all the same.
    lan.air.extend(recorded);
    lan.run(SECOND);
    assert!(lan.nodes[1].1.view.iter().all(|record| record.life == Life::Up));
}

/// The sessions of live peers cannot be driven out by old ones, nor by the present one's own packets.
#[test]
fn a_replay_of_former_lives_leaves_the_live_session_alone() {
    let mut lan = Lan::new("abc");
    for life in 0..3 {
        lan.restart(1, 50 + life);
        lan.run(2 * SECOND);
    }
    let from_b: Vec<_> = lan
        .record
        .iter()
        .filter(|packet| packet.from == lan.nodes[1].0 && packet.to == lan.nodes[0].0)
        .cloned()
        .collect();
    let before = lan.state(0);
    let replays = lan.count(0, Refusal::Replay);
    for packet in &from_b {
        lan.receive(0, packet);
    }
    lan.air.clear();
    assert_eq!(lan.state(0), before);
    assert!(lan.count(0, Refusal::Replay) > replays, "its own packets are seen by the window");
    lan.run(SECOND);
    assert_eq!(lan.state(0).split('[').next(), before.split('[').next());
    assert!(lan.duplicates(0) == 0 && lan.nodes[0].1.view.iter().all(|record| record.life == Life::Up));
}

/// A start costs one round trip more than it would without the challenge.
#[test]
fn a_start_costs_one_round_trip_more() {
    let mut lan = Lan::new("abc");
    lan.run(Duration::from_millis(5));
    lan.restart(0, 99);
    lan.feed(0, Input::Timeout);
    let mut hops = 0;
    while lan.nodes[0].1.view.get(1).life != Life::Up {
        lan.hop();
        hops += 1;
        assert!(hops <= 4, "greeting, challenge, proof with the greeting again, answer");
    }
    assert_eq!(lan.nodes[1].1.view.get(0).generation, 99);
}

/// Nothing that is not proven is answered by more than was sent, nor to where it says it came from.
#[test]
fn answers_to_the_unproven_are_no_longer_than_what_was_sent() {
    let mut lan = Lan::new("abc");
    let recorded: Vec<_> = lan.record.iter().filter(|packet| packet.to == lan.nodes[1].0).cloned().collect();
    lan.restart(1, 66);
    let mut rng = StdRng::seed_from_u64(4);
    let mut answers = 0;
    for round in 0..20_000u32 {
        let mut packet = recorded[rng.random_range(0..recorded.len())].clone();
        packet.stream = packet.stream.filter(|_| round % 2 == 0);
        if rng.random_bool(0.3) {
            packet.from = SocketAddr::from((rng.random::<[u8; 4]>(), rng.random()));
        }
        match rng.random_range(0..4) {
            0 => {
                let at = rng.random_range(0..packet.data.len());
                packet.data[at] ^= 1 << rng.random_range(0..8);
            }
            1 => packet.data.truncate(rng.random_range(0..=packet.data.len())),
            2 => packet.data.resize(rng.random_range(0..2_000), rng.random()),
            _ => {}
        }
        lan.now += Duration::from_millis(rng.random_range(0..30));
        lan.receive(1, &packet);
        let out: usize = lan.air.iter().map(|answer| answer.data.len()).sum();
        assert!(out <= packet.data.len(), "{out} bytes for {}", packet.data.len());
        for answer in lan.air.drain(..) {
            answers += 1;
            assert!(answer.to == lan.nodes[0].0 || answer.to == lan.nodes[2].0);
        }
    }
    assert!(answers > 1_000, "{answers} answers");
    assert!(lan.nodes[1].1.view.iter().filter(|record| record.life == Life::Up).count() <= 1);
}

/// A flood that has everything right but the seal costs a bounded number of decryptions, and does not
/// keep the real sender from being heard.
#[test]
fn a_flood_spends_its_own_budget() {
    let mut lan = Lan::new("abc");
    let (b, stranger) = (lan.nodes[1].0, addr("198.51.100.9:2200"));
    let mut rng = StdRng::seed_from_u64(5);
    let real = lan.record.iter().rev().find(|p| p.from == b && p.to == lan.nodes[0].0).expect("one").clone();
    for n in 0..50_000 {
        let mut forged = real.data.clone();
        rng.fill(&mut forged[8..]);
        let from = if n % 2 == 0 { b } else { stranger };
        lan.feed(0, Input::Datagram { from, data: &forged });
    }
    assert_eq!(lan.count(0, Refusal::Seal), 2 * u64::from(limits::BURST));
    assert_eq!(lan.count(0, Refusal::Budget), 50_000 - 2 * u64::from(limits::BURST));
    let datagrams = lan.air.len();
    lan.feed(1, Input::Timeout);
    lan.run(3 * SECOND);
    assert!(datagrams == 0 && lan.nodes[0].1.view.iter().all(|record| record.life == Life::Up));
    let events = lan.events.iter().filter(|(n, event)| *n == 0 && matches!(event, Event::Refused { .. }));
    assert!(events.count() < 20, "refusals are counted, not told one by one");
}

/// Fault matrix row 33, at another address: the second one takes nothing and says why.
#[test]
fn a_second_daemon_gives_way() {
    let mut lan = Lan::new("abc");
    let before: Vec<_> = (1..3).map(|n| lan.state(n)).collect();
    let elsewhere = addr("127.0.0.1:2999");
    let mut config = testing::config("abc", "a");
    config.systems[0].items = testing::items(3);
    let second = lan.add(config, Some(elsewhere));
    lan.run(SECOND);
    assert_eq!(lan.refused, [(second, lan.nodes[0].0)]);
    assert!(lan.duplicates(second) == 1 && lan.duplicates(1) == 1, "both say so");
    assert!(!lan.nodes[second].1.ever_had_quorum);
    for (n, before) in (1..3).zip(before) {
        let (was, is) = (before.split_once('[').expect("lives"), lan.state(n));
        assert_eq!(Some(was.0), is.split('[').next());
        assert_eq!(lan.nodes[n].1.view.get(0).generation, 1, "the first keeps all");
    }
    let hints = lan.nodes[1].1.status(lan.now).hints;
    assert!(hints.iter().any(|hint| hint.contains("a second daemon runs as server a at 127.0.0.1:2999")));
    // It keeps quiet from then on, and the hint goes away.
    lan.nodes.truncate(3);
    lan.run(70 * SECOND);
    assert_eq!(lan.nodes[1].1.status(lan.now).hints, Vec::<String>::new());
}

/// The same at one address, as two hosts with one IP address: what proves itself again after another did
/// was first.
#[test]
fn two_that_share_an_address_are_told_apart() {
    let mut lan = Lan::new("abc");
    let at = lan.nodes[0].0;
    // The neighbours learn the second one's MAC, then the first one's again.
    let first = std::mem::replace(&mut lan.nodes[0].1, node(testing::config("abc", "a"), 9, lan.now));
    lan.feed(0, Input::Timeout);
    lan.run(Duration::from_millis(20));
    assert_eq!(lan.nodes[1].1.view.get(0).generation, 9, "for all they know it was restarted");
    let second = std::mem::replace(&mut lan.nodes[0].1, first);
    lan.run(SECOND);
    assert_eq!(lan.duplicates(1), 1);
    lan.nodes.push((at, second));
    lan.air.clear();
    // Whatever the second one sends from here on is answered by the truth, which reaches both.
    lan.feed(3, Input::Timeout);
    for packet in std::mem::take(&mut lan.air) {
        if let Some(n) = lan.nodes[..3].iter().position(|(addr, _)| *addr == packet.to) {
            lan.receive(n, &packet);
        }
    }
    for answer in std::mem::take(&mut lan.air) {
        lan.receive(3, &answer);
        lan.receive(0, &answer);
    }
    assert!(lan.refused.iter().any(|(n, _)| *n == 3), "the younger gives way though it had joined");
    assert!(lan.refused.iter().all(|(n, _)| *n == 3), "the older does not");
    lan.nodes.truncate(3);
    lan.run(8 * SECOND);
    assert!(lan.nodes[1].1.view.is_up(0), "the first is back");
    assert!(lan.nodes[0].1.generation > 9);
}

/// A stream of a session that is not known is answered by a challenge, and asked again.
#[test]
fn a_refused_stream_is_asked_again() {
    let mut lan = Lan::new("abc");
    lan.restart(1, 88);
    let now = lan.now;
    let node = &mut lan.nodes[0].1;
    node.spread.forget_contact();
    node.now = now + 10 * SECOND;
    node.request_state(1, now + 10 * SECOND);
    lan.now += 10 * SECOND;
    // Flushes what was asked for.
    lan.feed(0, Input::Unreachable { addr: addr("192.0.2.99:1") });
    assert!(lan.air.iter().any(|packet| packet.stream.is_some()));
    lan.hop();
    assert!(lan.air.iter().all(|packet| packet.stream.is_none()), "no answer but a challenge");
    let mut asked = 0;
    for _ in 0..6 {
        asked += lan.air.iter().filter(|packet| packet.stream == Some((0, false))).count();
        lan.hop();
    }
    assert!(asked >= 1, "asked again as soon as the session is known");
}

/// Fault matrix row 36: dropped, counted, and said to people on both sides while it lasts.
#[test]
fn a_wrong_key_is_hinted_at() {
    let mut lan = Lan::new("abc");
    let mut config = testing::config("abcd", "d");
    config.key = ClusterKey([8; 32]);
    for n in 0..3 {
        let letter = char::from(b'a' + u8::try_from(n).expect("few"));
        lan.nodes[n].1 = node(testing::config("abcd", &letter.to_string()), 20, lan.now);
    }
    lan.air.clear();
    let d = lan.add(config, None);
    lan.run(2 * SECOND);
    let hints = lan.nodes[0].1.status(lan.now).hints;
    assert_eq!(
        hints,
        ["datagrams from 127.0.0.1 (server d) do not open: its key or cluster_id differs from this \
          server's; compare them"]
    );
    assert_eq!(lan.nodes[d].1.status(lan.now).hints.len(), 3, "and on the other side");
    assert!(lan.count(0, Refusal::Cluster) > 2);
    lan.nodes.truncate(3);
    lan.run(65 * SECOND);
    assert_eq!(lan.nodes[0].1.status(lan.now).hints, Vec::<String>::new());
}

/// Every kind of refusal is reached, each before the next one's work.
#[test]
fn refusals_come_in_the_order_of_the_work() {
    let mut lan = Lan::new("abc");
    let b = lan.nodes[1].0;
    let real = lan.record.iter().rev().find(|p| p.from == b && p.to == lan.nodes[0].0).expect("one").clone();
    let mut seen = BTreeMap::new();
    let mut send = |data: &[u8]| {
        let before = lan.nodes[0].1.refused.counts();
        lan.feed(0, Input::Datagram { from: b, data });
        let after = lan.nodes[0].1.refused.counts();
        let why = after.into_iter().find(|(why, count)| before.get(why) != Some(count)).expect("refused").0;
        *seen.entry(why.clone()).or_insert(0) += 1;
        why
    };
    let changed = |at: usize| {
        let mut data = real.data.clone();
        data[at] ^= 0x55;
        data
    };
    assert_eq!(send(&real.data[..limits::SHORTEST - 1]), "length");
    assert_eq!(send(&[0xF1; 1201]), "length");
    assert_eq!(send(&changed(0)), "version");
    assert_eq!(send(&changed(1)), "cluster");
    assert_eq!(send(&changed(4)), "cluster");
    assert_eq!(send(&changed(2)), "sender");
    assert_eq!(send(&real.data), "replay");
    assert_eq!(send(&changed(HEADER)), "replay", "the window is asked before the cipher");
    assert_eq!(send(&changed(8)), "seal");
}

const NEW: ClusterKey = ClusterKey([42; 32]);

impl Lan {
    fn unopened(&self) -> u64 {
        let each = |n| self.count(n, Refusal::Cluster) + self.count(n, Refusal::Seal);
        (0..self.nodes.len()).map(each).sum()
    }

    fn verdicts(&self) -> usize {
        let is = |event: &Event| matches!(event, Event::BallotCast { .. } | Event::MemberDown { .. });
        self.events.iter().filter(|(_, event)| is(event)).count()
    }
}

/// Fault matrix row 40: everybody talks on, nothing is refused, and the old key is dead in the end.
#[test]
fn keys_rotate_under_load_without_a_gap() {
    let mut lan = Lan::new("abcde");
    let (old, new) = (key_id(&testing::config("a", "a").key), key_id(&NEW));
    let recorded = lan.record.last().expect("some").clone();
    let said = lan.command(0, Command::KeyAdd { key: NEW.clone() });
    assert_eq!(said, Ok(format!("key {new:02x} added on all servers that are up")));
    assert!(lan.command(1, Command::KeyRemove { id: old }).is_err(), "it is in use");
    assert_eq!(
        lan.command(1, Command::KeyUse { id: new }),
        Ok(format!("key {new:02x} is in use on all servers that are up"))
    );
    assert!(lan.command(2, Command::KeyRemove { id: old }).is_ok());
    lan.run(20 * SECOND);
    assert_eq!((lan.unopened(), lan.verdicts()), (0, 0));
    for (n, (_, node)) in lan.nodes.iter().enumerate() {
        assert_eq!(node.seals.ring().ids().collect::<Vec<_>>(), [new]);
        let status = node.status(lan.now).keys;
        assert!(status.len() == 1 && status[0].in_use && status[0].servers.len() == 5, "{n}: {status:?}");
    }
    assert!(lan.record.last().expect("some").data[1] == new);
    let n = lan.nodes.iter().position(|(addr, _)| *addr == recorded.to).expect("a node");
    lan.receive(n, &recorded);
    assert_eq!(lan.count(n, Refusal::Cluster), 1, "the old key is dead");
    // A restart goes on with the stored ring, though the config has the old key.
    lan.restart(3, 33);
    lan.feed(3, Input::Timeout);
    lan.run(3 * SECOND);
    assert!(lan.nodes[0].1.view.get(3).generation == 33 && lan.verdicts() == 0);
}

/// The same where packets overtake each other, and each step follows the one before at once: nobody uses a
/// key that the receiver lacks, whatever arrives first.
#[test]
fn keys_rotate_however_packets_are_ordered() {
    for seed in 0..20 {
        let mut lan = Lan::new("abcde");
        lan.jitter = Some(StdRng::seed_from_u64(seed));
        let mut last = key_id(&testing::config("a", "a").key);
        for round in 0..3u8 {
            let key = ClusterKey([100 + round; 32]);
            let id = key_id(&key);
            let n = usize::from(round);
            lan.command(n, Command::KeyAdd { key }).expect("added");
            lan.command(n + 1, Command::KeyUse { id }).expect("used");
            lan.command(n + 2, Command::KeyRemove { id: last }).expect("removed");
            last = id;
        }
        lan.run(20 * SECOND);
        assert_eq!((lan.unopened(), lan.verdicts()), (0, 0), "seed {seed}");
        assert!(lan.nodes.iter().all(|(_, node)| node.seals.ring().ids().collect::<Vec<_>>() == [last]));
    }
}

/// A member that was away learns the ring from those with which it shares a key.
#[test]
fn who_was_away_learns_the_keys() {
    let mut lan = Lan::new("abcde");
    let (away, new) = (lan.nodes[4].0, key_id(&NEW));
    lan.cut = (0..4).map(|n| (lan.nodes[n].0, away)).collect();
    lan.run(5 * SECOND);
    assert!(!lan.nodes[0].1.view.is_up(4));
    let said = lan.command(0, Command::KeyAdd { key: NEW.clone() }).expect("added");
    assert!(
        said.ends_with("e will learn it when back, as long as a key there is still in the ring"),
        "{said}"
    );
    assert!(lan.command(0, Command::KeyUse { id: new }).is_ok());
    let alone = lan.command(4, Command::KeyAdd { key: ClusterKey([43; 32]) });
    assert!(alone.is_err_and(|error| error.contains("no quorum")));
    lan.cut.clear();
    lan.run(10 * SECOND);
    assert!(lan.nodes.iter().all(|(_, node)| node.view.iter().all(|record| record.life == Life::Up)));
    assert_eq!(lan.nodes[4].1.seals.ring(), lan.nodes[0].1.seals.ring());
    assert_eq!(lan.nodes[4].1.seals.ring().active(), new);
}

/// Nothing is used before all who are up have it, and the error names who has not confirmed.
#[test]
fn a_key_that_somebody_lacks_is_not_used() {
    let mut lan = Lan::new("abcde");
    // The others hear both, so nobody is down.
    lan.cut = vec![(lan.nodes[0].0, lan.nodes[2].0)];
    let error = lan.command(0, Command::KeyAdd { key: NEW.clone() }).expect_err("c cannot confirm");
    assert!(error.contains("but c did not confirm it"), "{error}");
    let error = lan.command(0, Command::KeyUse { id: key_id(&NEW) }).expect_err("c cannot confirm");
    assert!(error.starts_with("nothing was changed: c did not confirm"), "{error}");
    assert!(lan.nodes.iter().all(|(_, node)| node.seals.ring().active() != key_id(&NEW)));
    assert_eq!(lan.nodes[2].1.seals.ring(), lan.nodes[0].1.seals.ring(), "c learned it from the others");
    lan.cut.clear();
    assert!(lan.command(2, Command::KeyUse { id: key_id(&NEW) }).is_ok());
}

/// A rolling upgrade: who speaks the next version speaks the old one until all voters speak the new.
#[test]
fn a_rolling_upgrade_loses_nothing() {
    let mut lan = Lan::new("abc");
    let versions = |lan: &Lan| {
        let tail = lan.record.iter().rev().take(30);
        tail.map(|packet| packet.data[0]).collect::<std::collections::BTreeSet<_>>()
    };
    for n in 0..3 {
        assert_eq!(versions(&lan), [0xF1].into(), "before {n} is upgraded");
        lan.restart(n, u8::try_from(40 + n).expect("few"));
        lan.nodes[n].1.speak_next_version();
        lan.feed(n, Input::Timeout);
        lan.run(3 * SECOND);
        assert!(
            lan.nodes.iter().all(|(_, node)| node.has_quorum && node.view.iter().all(|r| r.life == Life::Up))
        );
    }
    lan.run(3 * SECOND);
    assert_eq!(versions(&lan), [0xF2].into());
    assert_eq!(lan.verdicts(), 0);
    assert_eq!((0..3).map(|n| lan.count(n, Refusal::Version)).sum::<u64>(), 0);
    // And back: one that speaks only the old one is understood, and makes all others speak it again.
    lan.restart(1, 60);
    lan.feed(1, Input::Timeout);
    lan.run(3 * SECOND);
    assert_eq!(versions(&lan), [0xF1].into());
    assert_eq!(lan.verdicts(), 0);
}

fn fact(key: &str, value: Option<&str>) -> Command {
    Command::SetFact { key: key.into(), value: value.map(Into::into) }
}

fn active(active: bool, reason: &str) -> Command {
    Command::SetActive { active, reason: reason.into() }
}

#[test]
fn what_scripts_tell_reaches_everybody_also_whoever_missed_it() {
    let mut lan = Lan::new("abc");
    let (a, c) = (lan.nodes[0].0, lan.nodes[2].0);
    lan.cut.push((a, c));
    lan.command(0, fact("load", Some("0.5"))).expect("said");
    lan.command(0, fact("gone", Some("1"))).expect("said");
    lan.command(0, fact("gone", None)).expect("said");
    lan.command(0, active(false, "disk full")).expect("said");
    assert_eq!(lan.command(0, active(false, "disk full")).expect("said"), "said already");
    // b passes on what c did not hear, with its digests.
    lan.run(10 * SECOND);
    for n in 0..3 {
        let node = &lan.nodes[n].1;
        assert_eq!(node.told_facts(0), [("load".to_owned(), "0.5".to_owned())].into(), "at {n}");
        assert_eq!(node.inactive_reasons(0), ["disk full"], "at {n}");
        assert!(node.is_inactive(0) && !node.is_inactive(1), "at {n}");
    }
    let event = Event::Inactive { server: 0, reason: "disk full".into(), inactive: true };
    assert_eq!(lan.events.iter().filter(|(n, e)| *n == 2 && *e == event).count(), 1);
    lan.cut.clear();
    lan.command(0, active(true, "disk full")).expect("said");
    lan.run(SECOND);
    assert!((0..3).all(|n| !lan.nodes[n].1.is_inactive(0)));
}

#[test]
fn what_an_earlier_life_told_is_void() {
    let mut lan = Lan::new("abc");
    lan.command(0, active(false, "disk")).expect("said");
    lan.command(0, fact("x", Some("1"))).expect("said");
    lan.run(SECOND);
    assert!(lan.nodes[1].1.is_inactive(0));
    lan.restart(0, 9);
    lan.feed(0, Input::Timeout);
    lan.run(5 * SECOND);
    for n in 0..3 {
        assert!(!lan.nodes[n].1.is_inactive(0), "at {n}");
        assert!(lan.nodes[n].1.told_facts(0).is_empty(), "at {n}");
    }
}

#[test]
fn what_scripts_tell_has_limits() {
    let mut lan = Lan::new("abc");
    for name in ["", "a\nb", "ä", &"x".repeat(limits::TOLD_NAME + 1)] {
        let error = lan.command(0, fact(name, Some("1"))).expect_err("no name");
        assert!(error.contains("is no name"), "{error}");
    }
    for n in 0..limits::TOLD_FACTS {
        lan.command(0, fact(&n.to_string(), Some("1"))).expect("said");
    }
    assert!(lan.command(0, fact("one more", Some("1"))).is_err());
    assert!(lan.command(0, fact("0", Some(&"x".repeat(limits::TOLD_BYTES)))).is_err());
    assert_eq!(lan.nodes[0].1.told_facts(0).len(), limits::TOLD_FACTS, "what was refused changes nothing");
    // The longest word of all fits into one datagram.
    let rest = limits::TOLD_BYTES
        - lan.nodes[0].1.told_facts(0).iter().map(|(k, v)| k.len() + v.len() + 4).sum::<usize>();
    lan.command(0, fact("0", Some(&"x".repeat(rest + 1)))).expect("said");
    lan.run(SECOND);
    assert_eq!(lan.nodes[2].1.told_facts(0).len(), limits::TOLD_FACTS);
}
