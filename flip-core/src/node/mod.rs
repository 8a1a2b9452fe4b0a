//! The facade: one node, driven.
//!
//! `handle(input, now)`, then drain `poll_output()` until it is empty, then wait until
//! `poll_timeout()` or the next input. One input is worked off completely before the next: nothing is
//! sent or decided between two calls.

mod act;
mod admit;
mod adopt;
mod aside;
mod bodies;
mod cases;
mod catalog;
mod census;
mod damping;
mod health;
#[cfg(any(test, feature = "sim"))]
mod inspect;
mod isolation;
mod join;
mod keys;
mod lease;
mod marks;
mod memory;
mod probing;
mod ready;
mod receive;
mod report;
mod sessions;
mod spread;
mod stall;
#[cfg(test)]
mod tests;
mod told;
mod usable;
mod why;
#[cfg(test)]
mod wire_tests;

#[cfg(test)]
pub(crate) use health::cluster as checked;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::ballot::Ballots;
use crate::config::Config;
use crate::event::Event;
use crate::facts::Facts;
use crate::id::{ItemRef, Peer};
use crate::io::{Input, Output};
use crate::limits;
use crate::loss::Pings;
use crate::quorum;
use crate::status::Status;
use crate::stored::StoredKeys;
use crate::swim::Swim;
use crate::tally::Tally;
use crate::time::Time;
use crate::timer::Timers;
use crate::view::View;
use crate::wire::message::{self, About, Hello, Message};
use crate::wire::seal::{OVERHEAD, Seals};

use act::Items;
use admit::Refused;
use adopt::Adoption;
use bodies::Bodies;
use cases::Case;
use catalog::Replica;
use damping::Flaps;
use health::Health;
use isolation::{Alone, Witness};
use keys::KeyRing;
use lease::Leases;
use marks::Marks;
use memory::Memory;
use sessions::Sessions;
use spread::Spread;
use stall::Asking;
use told::Words;
use usable::Ground;

pub use census::Census;

/// What differs between two starts of the same config.
#[derive(Clone, Debug)]
pub struct Start {
    /// Larger than in every earlier life of this server; at least 1.
    pub generation: u64,
    /// Entropy for session, nonces and random choices. The same config, seed, inputs and times give
    /// the same outputs.
    pub seed: [u8; 32],
    /// What an earlier life wanted to be stored with `Output::StoreKeys`, last.
    pub keys: Option<StoredKeys>,
}

/// One node of the cluster: all rules, no effects.
pub struct Node {
    config: Arc<Config>,
    adoption: Adoption,
    generation: u64,
    rng: StdRng,
    seals: Seals,
    sessions: Sessions,
    keys: KeyRing,
    swim: Swim,
    view: View,
    ballots: Ballots,
    facts: Facts,
    pings: Pings,
    cases: BTreeMap<usize, Case>,
    ballot_seq: u32,
    items: Items,
    leases: Leases,
    marks: Marks,
    memory: Memory,
    tally: Tally,
    health: Health,
    ground: Ground,
    words: Words,
    flaps: Flaps,
    alone: Alone,
    /// When the newest ping was sent that each server answered.
    proven: BTreeMap<usize, Time>,
    /// When holders were asked last whether they are there, before a planned move.
    asked_holders: BTreeMap<usize, Time>,
    witness: Witness,
    spread: Spread,
    timers: Timers<Timer>,
    /// When the last probe round left, and to whom.
    round: (Time, Vec<usize>),
    greeting_pause: Duration,
    /// Pongs before this do not prove contact: the loop stalled then.
    distrust_before: Option<Time>,
    asking: Asking,
    has_quorum: bool,
    ever_had_quorum: bool,
    /// When this node first saw a quorum.
    first_quorum: Option<Time>,
    /// Which members run another config.
    differs: BTreeSet<usize>,
    leaving: Option<Leaving>,
    electorate: u32,
    content: u64,
    bodies: Bodies,
    replica: Option<Replica>,
    joins: join::Joins,
    outputs: VecDeque<Output>,
    refused: Refused,
    sent: (u64, u64),
    started: Time,
    /// The time of the input that is worked off.
    now: Time,
}

/// What can be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The next case ping, ballot or the end of a window.
    Case(usize),
    /// Who did not answer the last round?
    RoundCheck,
    /// Probe everybody.
    Round,
    /// Greet the servers that are not up.
    Greet,
    /// Ask the voters whether they are still there, after a stall.
    Ask,
    /// Open a case about servers that never showed up.
    NeverSeen,
    /// Placement waited for other cases long enough.
    Settle,
    /// Repeat verdicts that were not acknowledged.
    Verdict(usize),
    /// Say facts again.
    Facts,
    /// State long facts, which were stated just before.
    State,
    /// Compare with a random member.
    Digest,
    /// Repeat the goodbye.
    Leave,
    /// Others had long enough to take the items of this node, which leaves.
    Handover,
    /// Claims, renewals, releases and lifetimes.
    Lease,
    /// Say marks again.
    Marks,
    /// Say again what scripts told.
    Words,
    /// A server has been up for long enough to get items.
    Mature,
    /// Repeat a change of the keys.
    Keys,
    /// Removed keys open no longer.
    RetireKeys,
    /// A hook is to be tried again, or `Failing` ends.
    Item(ItemRef),
    /// This life is not new any more.
    Young,
    /// A health check is due, or has run for too long.
    Check(usize),
    /// What an item stands on has been there for long enough.
    Ground,
    /// What is left of an earlier config may have become needless.
    Adopt,
    /// Say entries of the catalog again, or answer those who waited for others to have them.
    Catalog,
}

#[derive(Debug, Default)]
struct Leaving {
    /// Since when.
    since: Time,
    /// Members that have not acknowledged; none before the down hooks ended.
    waiting: Option<BTreeSet<usize>>,
    tries: u32,
    /// Another daemon has this id: there is no goodbye, and this is where the other one is.
    refused: Option<SocketAddr>,
    done: bool,
}

impl Node {
    /// A node at the beginning of a life. Nothing is sent before the first input.
    ///
    /// # Panics
    /// When `start.generation` is zero, which is reserved for "never seen".
    #[must_use]
    pub fn new(config: Arc<Config>, start: Start, now: Time) -> Self {
        assert!(start.generation > 0, "generation zero means never seen");
        let mut rng = StdRng::from_seed(start.seed);
        let ring = StoredKeys::ring_for(start.keys, &config.key);
        let me = Peer { id: config.my().short, generation: start.generation };
        let servers = config.servers.len();
        let everybody = config.timing.pings_per_interval + 1 >= servers;
        let swim = Swim::new(me, &config.timing, everybody, StdRng::from_seed(rng.random()));
        let mut node = Self {
            adoption: Adoption::new(Arc::clone(&config)),
            generation: start.generation,
            seals: Seals::new(Arc::clone(&config), ring, rng.next_u64()),
            sessions: Sessions::default(),
            keys: KeyRing::default(),
            swim,
            view: View::new(servers, now),
            ballots: Ballots::default(),
            facts: Facts::new(servers),
            pings: Pings::default(),
            cases: BTreeMap::new(),
            ballot_seq: 0,
            items: Items::new(&config, now),
            leases: Leases::new(&config, rng.next_u64(), now),
            marks: Marks::default(),
            memory: Memory::default(),
            tally: Tally::default(),
            health: Health::new(&config, now),
            ground: Ground::default(),
            words: Words::default(),
            flaps: Flaps::default(),
            alone: Alone::default(),
            proven: BTreeMap::new(),
            asked_holders: BTreeMap::new(),
            witness: Witness::default(),
            spread: Spread::default(),
            timers: Timers::default(),
            round: (now, Vec::new()),
            greeting_pause: Duration::from_millis(50),
            distrust_before: None,
            asking: Asking::default(),
            has_quorum: false,
            ever_had_quorum: false,
            first_quorum: None,
            differs: BTreeSet::new(),
            leaving: None,
            electorate: config.voters_hash(),
            content: config.content_hash(),
            bodies: Bodies::default(),
            replica: None,
            joins: join::Joins::default(),
            outputs: VecDeque::new(),
            refused: Refused::new(),
            sent: (0, 0),
            started: now,
            now,
            rng,
            config,
        };
        let me = node.config.me;
        node.view.alive(me, node.generation, now);
        node.timers.set(Timer::Greet, now);
        if everybody && servers > 1 {
            node.timers.set(Timer::Round, now + node.config.timing.probe_interval);
        }
        if servers > 1 {
            node.timers.set(Timer::Digest, now + node.config.timing.digest_interval);
            node.wait_for_unseen(now);
        }
        if node.health.any() {
            // Before anybody places something here, it hears that nothing is proven yet.
            node.items.fitness_changed();
            node.begin_checks(now);
        }
        node.event(Event::Started { generation: node.generation });
        node
    }

    /// Works off one input. `now` must not go back.
    pub fn handle(&mut self, input: Input<'_>, now: Time) {
        self.now = now;
        let ended = self.check_leases_in_time(now);
        let stalled = self.notice_stall(now);
        match input {
            Input::Datagram { from, data } => {
                // What is refused changes nothing, and must not cost as much as what counts.
                if !self.on_datagram(from, data, now) && !stalled && !ended {
                    return;
                }
            }
            Input::Timeout => self.run_timers(now),
            Input::Unreachable { addr } => self.on_unreachable(addr, now),
            Input::HookDone { hook, result } => self.on_hook_done(hook, result, now),
            Input::Observed { item, present } => self.on_observed(item, present, now),
            Input::Usable { item, trouble } => self.on_usable(item, trouble, now),
            Input::Conflict { item, with, give_up } => self.on_conflict(item, with, give_up, now),
            Input::StreamRequest { conn, data } => self.on_stream_request(conn, data, now),
            Input::StreamReply { data } => self.on_stream_reply(data, now),
            Input::Leave => self.on_leave(now),
            Input::Suspended { by } => self.on_suspended(by, now),
            Input::Refreshed { id, gone } => self.on_refreshed(id, &gone, now),
            Input::WitnessAnswered { nonce } => self.witness.answered(nonce),
            Input::CheckDone { id, result } => self.on_check_done(id, result, now),
            Input::Confirmed { item, by, answered } => self.on_confirmed_by(item, by, answered, now),
            Input::Say { to, topic, data } => self.say(to, topic, data),
            Input::Command { asker, command } => self.on_command(asker, &command, now),
            Input::Stored { id, result } => self.on_stored(id, result, now),
        }
        self.work_off(now);
    }

    /// What follows from an input, whatever it was.
    fn work_off(&mut self, now: Time) {
        self.drain_swim(now);
        self.update_quorum(now);
        self.reconcile(now);
        while self.has_needless(now) {
            self.go_over(now);
            self.update_quorum(now);
            self.reconcile(now);
        }
        self.say_new_releases();
        self.flush();
    }

    /// What the driver is to do next; none when it may wait.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to hand in `Input::Timeout`, if nothing comes before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        [self.timers.next(), self.swim.poll_timeout()].into_iter().flatten().min()
    }

    /// The picture for people and tools.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        self.report(now)
    }

    /// This node's current generation.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Also speaks the wire version after this release's, as a node of the next release will.
    #[cfg(any(test, feature = "sim"))]
    pub fn speak_next_version(&mut self) {
        self.seals.speak(crate::wire::seal::NEXT_WIRE);
    }

    /// The config that this node runs.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What this node believes of each server, in listed order.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// True since it was asked to leave.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// True when this node sees enough live voters to take items.
    #[must_use]
    pub const fn has_quorum(&self) -> bool {
        self.has_quorum
    }

    fn run_timers(&mut self, now: Time) {
        self.swim.handle_timeout(now);
        self.pings.give_up(self.config.timing.open_after(), now);
        while let Some((timer, _)) = self.timers.pop_due(now) {
            match timer {
                Timer::Case(server) => self.case_turn(server, now),
                Timer::RoundCheck => self.check_round(now),
                Timer::Round => self.probe_round(now),
                Timer::Greet => self.greet(now),
                Timer::Ask => self.ask_around(now),
                Timer::NeverSeen => self.open_never_seen(now),
                Timer::Settle => self.replace_items(now),
                Timer::Verdict(server) => self.repeat_verdict(server, now),
                Timer::Facts => self.repeat_facts(now),
                // They are stated when everything was looked at.
                Timer::State => self.items.touch(),
                Timer::Digest => self.send_digest(now),
                Timer::Leave => self.repeat_leave(now),
                Timer::Handover => self.items.touch(),
                Timer::Lease => self.lease_turn(now),
                Timer::Marks => self.tell_marks(now),
                Timer::Words => self.tell_word(now),
                Timer::Mature => self.replace_items(now),
                Timer::Keys => self.repeat_keys(now),
                Timer::RetireKeys => self.retire_keys(),
                Timer::Item(item) => self.item_turn(item),
                Timer::Young => self.grow_up(),
                Timer::Check(check) => self.check_turn(check, now),
                Timer::Ground => self.ground_turn(now),
                Timer::Adopt => self.adopt_turn(now),
                Timer::Catalog => self.catalog_timer(now),
            }
        }
    }

    fn update_quorum(&mut self, now: Time) {
        let has = quorum::has_contact(self.contacts(), self.config.quorum);
        if has == self.has_quorum {
            return;
        }
        self.has_quorum = has;
        self.items.touch();
        if has {
            // Members that did not hear us may have taken over meanwhile, and neighbours may have
            // learned their addresses.
            if self.ever_had_quorum {
                self.reannounce_all(now);
            }
            self.ever_had_quorum = true;
            self.first_quorum.get_or_insert(now);
            self.event(Event::QuorumSeen);
        } else {
            self.event(Event::Isolated);
        }
    }

    /// Other voters that are up, trusted and not silent; no more than a quorum of them are looked for.
    fn contacts(&self) -> usize {
        self.config
            .voters
            .iter()
            .filter(|voter| **voter != self.config.me && self.view.is_up(**voter) && self.is_heard(**voter))
            // What others say of a voter is no contact with it, where everybody is asked anyway.
            .filter(|voter| !self.everybody_probed() || self.spread.last_heard(**voter).is_some())
            .take(self.config.quorum)
            .count()
    }

    fn event(&mut self, event: Event) {
        self.remember(&event);
        self.outputs.push_back(Output::Event(event));
    }

    /// Answers whoever asked, once.
    fn done(&mut self, asker: u64, result: Result<String, String>) {
        if asker >= join::OWN_ASKERS {
            self.on_join_done(asker, result);
        } else {
            self.outputs.push_back(Output::Done { asker, result });
        }
    }

    /// As [`Node::done`], of an edit that is in effect, and not on the disks of a majority in time.
    fn late(&mut self, asker: u64, how_far: String) {
        if asker >= join::OWN_ASKERS {
            self.on_join_done(asker, Err(how_far));
        } else {
            self.outputs.push_back(Output::Late { asker, how_far });
        }
    }

    fn everybody_probed(&self) -> bool {
        self.config.timing.pings_per_interval + 1 >= self.view.named()
    }

    fn is_voter(&self) -> bool {
        self.config.voters.binary_search(&self.config.me).is_ok()
    }

    fn about(&self, server: usize) -> About {
        About { id: self.config.servers[server].short.0, generation: self.view.get(server).generation }
    }

    fn peer(&self, server: usize) -> Peer {
        Peer { id: self.config.servers[server].short, generation: self.view.get(server).generation }
    }

    /// All servers but this one.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.config.me;
        (0..self.config.servers.len()).filter(move |server| *server != me)
    }

    fn up_others(&self) -> Vec<usize> {
        self.others().filter(|server| self.view.is_up(*server)).collect()
    }

    /// Queues a message; it leaves when the input is worked off.
    fn send(&mut self, to: usize, message: &Message) {
        if !self.sessions.is_live(to) && !self.bodies.has(to) {
            // Whoever does not know this session either will not listen to the rest.
            let hello = Message::Hello(self.hello(to, [0; 8]));
            let body = self.bodies.of(to);
            hello.encode(body);
            self.tally.sent.add(hello.kind(), body.len());
        }
        let body = self.bodies.of(to);
        let before = body.len();
        message.encode(body);
        self.tally.sent.add(message.kind(), body.len() - before);
        if body.len() + OVERHEAD > limits::DATAGRAM && before > 0 {
            let last = body.split_off(before);
            let full = std::mem::replace(body, last);
            self.emit(to, full);
        }
    }

    /// What proves this session to `to`, and asks it to prove its own unless that is known.
    fn hello(&mut self, to: usize, proof: [u8; 8]) -> Hello {
        let random = self.rng.next_u64();
        let challenge =
            if self.sessions.is_live(to) { [0; 8] } else { self.sessions.challenge(to, random, self.now) };
        Hello { challenge, proof, wire: self.seals.newest() }
    }

    fn flush(&mut self) {
        let mut list = self.bodies.take();
        for (to, mut body) in list.drain(..) {
            if let Some(keys) = self.keys_to_go_along(to) {
                let before = body.len();
                keys.encode(&mut body);
                if body.len() + OVERHEAD > limits::DATAGRAM {
                    body.truncate(before);
                }
            }
            self.emit(to, body);
        }
        self.bodies.give_back(list);
    }

    fn emit(&mut self, to: usize, mut body: Vec<u8>) {
        if !self.sessions.is_live(to) {
            let content = message::without_hello(&body);
            if !content.is_empty() {
                self.sessions.keep(to, content, self.now);
            }
        }
        message::pad(&mut body);
        let data = self.seal(to, &body);
        self.bodies.spare(body);
        debug_assert!(data.len() <= limits::DATAGRAM, "a message of {} bytes", data.len());
        self.sent.0 += 1;
        self.sent.1 += data.len() as u64;
        self.outputs.push_back(Output::Datagram { to: self.config.servers[to].addr, data });
    }
}
