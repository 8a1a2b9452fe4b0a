//! A second daemon under the id of one that runs (fault matrix row 33): it must be refused, must be told
//! where the first one is, and may hold nothing. The first one must not notice.

use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;

use super::adopt::sees;
use super::happening::Happening;
use super::world::World;
use crate::config::Config;
use crate::event::Event;
use crate::io::{HookAction, Input, Output};
use crate::node::{Node, Start};
use crate::time::Time;

/// How long it may take until it is refused where it reaches somebody who knows the first one.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);
/// How long somebody watches it who started it by mistake.
const WATCHED: Duration = Duration::from_secs(6);
/// Before this the first one need not be known to anybody.
const KNOWN_AFTER: Duration = Duration::from_secs(3);

/// A second daemon.
pub(super) struct Second {
    /// Where it runs.
    host: usize,
    /// Whose id it has.
    server: usize,
    addr: SocketAddr,
    since: Time,
    /// Who had heard of the first one just before.
    known_by: Vec<usize>,
    /// None when it is over.
    node: Option<Box<Node>>,
    /// Somebody said that there are two, and where.
    said: bool,
}

impl World {
    /// Starts a daemon with the id of `server` at `host`, if that server's own daemon runs.
    pub(super) fn start_second(&mut self, host: usize, server: usize) {
        let first = &self.hosts[server];
        let here = &self.hosts[host];
        let known = self.checker.runs_since(server).is_some_and(|at| self.now.since(at) >= KNOWN_AFTER);
        if !known || !first.runs(self.now) || !here.powered || here.asleep.is_some() {
            return;
        }
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        let number = self.seconds.len();
        // The first one's port is taken where both run on one machine, and another daemon's elsewhere.
        let port = 2_300 + u16::try_from(number).unwrap_or(0);
        let addr = SocketAddr::new(here.config.my().addr.ip(), port);
        let config = Config { me: server, ..(*first.config).clone() };
        let generation = first.stored.unwrap_or(1) + self.rng.random_range(0..1_000);
        let start = Start { generation, seed, keys: first.keys.clone() };
        let mut node = Box::new(Node::new(config.into(), start, here.clock.local(self.now)));
        if first.next_release {
            node.speak_next_version();
        }
        self.note(None, || format!("a second daemon runs as n{server}, at {addr}"));
        let since = self.now;
        // In large clusters not everybody hears everybody, and gossip tells.
        let known_by = (0..self.hosts.len())
            .filter(|other| match self.hosts[*other].heard.get(server) {
                Some(heard) => heard.is_some_and(|at| since.since(at) < KNOWN_AFTER),
                None => true,
            })
            .collect();
        self.seconds.push(Second { host, server, addr, since, known_by, node: Some(node), said: false });
        self.queue.push(self.now + REFUSED_WITHIN, Happening::JudgeSecond(number));
        self.feed_second(number, Input::Timeout);
    }

    /// All of them are ended.
    pub(super) fn end_seconds(&mut self) {
        for second in &mut self.seconds {
            second.node = None;
        }
    }

    /// The machine on which a host or a second daemon is.
    pub(super) fn machine(&self, number: usize) -> usize {
        number.checked_sub(self.hosts.len()).map_or(number, |second| self.seconds[second].host)
    }

    /// The address from which a host or a second daemon speaks.
    pub(super) fn addr_of(&self, number: usize) -> SocketAddr {
        match number.checked_sub(self.hosts.len()) {
            None => self.hosts[number].config.my().addr,
            Some(second) => self.seconds[second].addr,
        }
    }

    pub(super) fn transmit_to_second(&mut self, from: usize, to: SocketAddr, data: Vec<u8>) {
        if let Some(second) = self.seconds.iter().position(|second| second.addr == to) {
            self.transmit(from, self.hosts.len() + second, data);
        }
    }

    pub(super) fn arrive_at_second(&mut self, from: usize, to: usize, data: &[u8]) {
        let from = self.addr_of(from);
        self.feed_second(to - self.hosts.len(), Input::Datagram { from, data });
    }

    pub(super) fn wake_second(&mut self, number: usize) {
        let second = &self.seconds[number];
        let local = self.hosts[second.host].clock.local(self.now);
        let due = second.node.as_ref().and_then(|node| node.poll_timeout());
        if due.is_some_and(|due| due <= local) {
            self.feed_second(number, Input::Timeout);
        }
    }

    fn feed_second(&mut self, number: usize, input: Input<'_>) {
        let Second { host, server, since, .. } = self.seconds[number];
        let here = &self.hosts[host];
        let gone = !here.powered || here.asleep.is_some() || self.hosts[server].node.is_none();
        if gone || self.now.since(since) > WATCHED {
            // Its machine stops, or there is no first one any more, or somebody saw the mistake.
            self.seconds[number].node = None;
        }
        let local = here.clock.local(self.now);
        let Some(node) = self.seconds[number].node.as_mut() else { return };
        node.handle(input, local);
        while let Some(output) = self.seconds[number].node.as_mut().and_then(|node| node.poll_output()) {
            self.carry_out_of_second(number, output);
        }
        let due = self.seconds[number].node.as_ref().and_then(|node| node.poll_timeout());
        if let Some(due) = due {
            let at = self.hosts[host].clock.world(due).max(self.now);
            self.queue.push(at, Happening::WakeSecond(number));
        }
    }

    fn carry_out_of_second(&mut self, number: usize, output: Output) {
        let server = self.seconds[number].server;
        match output {
            Output::Datagram { to, data } => {
                self.trace.bytes(&data);
                if let Some(to) = self.by_addr.get(&to).copied() {
                    self.transmit(self.hosts.len() + number, to, data);
                }
            }
            // With nobody in reach, nobody can tell it.
            Output::Hook(call) if call.action == HookAction::Alive && self.is_told(number) => {
                self.broken("A4", format!("a second daemon takes {:?} as n{server}", call.item));
            }
            Output::Event(event @ Event::DuplicateId { .. }) => {
                self.note(None, || format!("the second daemon of n{server}: {event:?}"));
                self.seconds[number].said = true;
            }
            Output::Refused { other } => {
                self.note(None, || format!("the second daemon of n{server} is refused: {other} has its id"));
                let (named, first) = (other, self.hosts[server].config.my().addr);
                if named != first || !self.seconds[number].said {
                    let what = format!("the second daemon of n{server} is told of {named}, not of {first}");
                    self.broken("A4", what);
                }
                super::mark!("second daemon: refused");
                self.seconds[number].node = None;
            }
            // Its disk, its streams and its witness are nobody's concern; it holds nothing to refresh.
            _ => {}
        }
    }

    /// Whether somebody is in reach of a second daemon who knows that there is a first one. Who has not heard of
    /// that one for a while, across a cut or under another key, cannot tell.
    fn is_told(&self, number: usize) -> bool {
        let Second { host, server, since, ref known_by, .. } = self.seconds[number];
        known_by.iter().any(|&other| {
            other != server
                && self.hosts[other].healthy_since.is_some_and(|at| at <= since)
                && self.checker.runs_since(other).is_some_and(|at| since.since(at) >= KNOWN_AFTER)
                && self.network.was_good(other, host, since)
                && self.network.is_lossless(other, host)
        })
    }

    /// It had time enough: where it reached somebody who knew the first one, it is refused.
    pub(super) fn judge_second(&mut self, number: usize) {
        let Second { host, server, since, ref node, .. } = self.seconds[number];
        if node.is_none() || self.hosts[host].ills > 0 {
            return;
        }
        let sound = |host: usize, since: Time| {
            self.hosts[host].healthy_since.is_some_and(|at| at <= since)
                && self.checker.runs_since(host).is_some_and(|at| at <= since)
        };
        let before = since - KNOWN_AFTER;
        let knows = |other: &usize| {
            *other != server
                && sound(*other, before)
                && self.network.was_good(*other, server, before)
                && self.network.was_good(*other, host, since)
                && self.network.is_lossless(*other, host)
                && self.hosts[*other].node.as_ref().is_some_and(|node| sees(node, server))
        };
        if sound(server, before)
            && let Some(other) = (0..self.hosts.len()).find(knows)
        {
            let what = format!("n{other} knows n{server}, and a second daemon of that id is not refused");
            self.broken("A4", what);
        }
    }
}
