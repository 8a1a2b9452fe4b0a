//! What a daemon does with its time: one input, all its outputs, the next input; and how it is stopped in
//! between. The order of work is the driver's of the real daemon.

use std::time::Duration;

use rand::RngExt;

use super::fault::Disk;
use super::happening::{Happening, Kind, Mail};
use super::trace::Trace;
use super::world::World;
use crate::io::{Input, Output};
use crate::node::{Node, Start};
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::wire::seal::{NEXT_WIRE, WIRE};

impl World {
    /// Starts a daemon that is down. Its kernel's leftovers are observed first, as in production.
    pub fn start(&mut self, index: usize) {
        if self.boot(index) {
            self.hosts[index].inbox.push_back(Mail::Tick);
            self.pump(index);
        }
    }

    /// A daemon that is down is there, and has done nothing yet. False where it can't start.
    pub(super) fn boot(&mut self, index: usize) -> bool {
        let host = &mut self.hosts[index];
        if host.node.is_some() || !host.powered || host.asleep.is_some() {
            return false;
        }
        // It refuses to start with a config that does not name its server.
        if !self.is_named(index) {
            self.clear_away(index);
            return false;
        }
        let host = &mut self.hosts[index];
        if host.disk_full {
            // The next generation cannot be stored, so the daemon says so and ends; systemd tries again.
            let token = self.token();
            self.hosts[index].kept_down = Some(token);
            let at = self.now + Duration::from_millis(500);
            self.queue.push(at, Happening::Start { host: index, token });
            return false;
        }
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        let wall = 1_700_000_000_000 + i64::try_from(self.now.as_nanos() / 1_000_000).unwrap_or(0);
        let host = &mut self.hosts[index];
        let wall = u64::try_from(wall + host.wall_off * 1000).unwrap_or(1).max(1);
        let next = host.stored.map_or(wall, |stored| wall.max(stored + 1));
        let generation = host.stored.filter(|_| planted(Bug::GenerationReused)).unwrap_or(next);
        host.stored_before = host.stored;
        host.stored = Some(generation);
        host.life += 1;
        host.left = false;
        host.kept_down = None;
        self.read_file(index);
        let read = self.open_catalog(index);
        let host = &mut self.hosts[index];
        let local = host.clock.local(self.now);
        let keys = host.keys.clone();
        let mut node = Box::new(Node::new(host.config.clone(), Start { generation, seed, keys }, local));
        Self::hand_catalog(&mut node, read);
        host.speaks = WIRE;
        if host.next_release {
            node.speak_next_version();
            host.speaks = NEXT_WIRE;
        }
        host.node = Some(node);
        self.checker.started(index, self.now);
        self.note(Some(index), || format!("starts as generation {generation}"));
        let mut leftovers = Vec::new();
        for item in 0..self.things.len() {
            if self.hosts[index].addresses[item].is_some() {
                let Some(at) = self.place_at(index, item) else {
                    // An address that no config names any more is removed when the systems are opened; what a program
                    // left is whoever's who edits the config of a daemon that does not run.
                    self.remove(index, item);
                    continue;
                };
                self.checker.leftover(index, item);
                leftovers.push(at);
            }
        }
        if let Some(node) = &mut self.hosts[index].node {
            node.leftovers(&leftovers, local);
        }
        if !self.hosts[index].interface && self.hosts[index].interface_told {
            for item in 0..self.things.len() {
                if self.things[item].release == crate::config::Release::Kernel {
                    self.hosts[index].inbox.push_back(Mail::Usable { item, well: false });
                }
            }
        }
        true
    }

    /// Ends a daemon without a word.
    pub(super) fn kill(&mut self, index: usize, disk: Disk) {
        if self.hosts[index].node.is_none() {
            return;
        }
        self.note(Some(index), || "the daemon is dead".into());
        self.outlived(index);
        self.ended(index);
        self.lose_catalog(index, disk);
        let host = &mut self.hosts[index];
        match disk {
            Disk::Kept => {}
            Disk::Unsynced => host.stored = host.stored_before,
            Disk::Torn | Disk::Gone => {
                super::mark!("world: disk lost its generation");
                host.stored = None;
                if disk == Disk::Gone {
                    host.keys = None;
                }
            }
        }
    }

    /// A daemon that dies before it was scheduled after a sleep compares no clocks any more (exception X3): what
    /// its kernel has stays until its lifetime ends.
    fn outlived(&mut self, index: usize) {
        let host = &self.hosts[index];
        if host.excuse.is_none_or(|(until, by)| by != "X2" || until < self.now) {
            return;
        }
        let ends = host.addresses.iter().flatten().filter_map(|address| address.expires).max();
        if let Some(ends) = ends {
            self.excuse(index, ends.since(self.now) + Duration::from_millis(1), "X3");
        }
    }

    /// A daemon is no more, for whatever reason.
    pub(super) fn ended(&mut self, index: usize) {
        self.stops_again(index);
        self.cut_off(index);
        self.hosts[index].stop();
        self.forget_checks(index);
        if self.hosts.iter().all(|host| host.node.is_none()) {
            super::mark!("world: everybody is down");
        }
        self.checker.ended(index);
        for item in 0..self.things.len() {
            let host = &mut self.hosts[index];
            host.unanswered[item] |= host.addresses[item].is_some();
        }
    }

    /// Stops a daemon as SIGSTOP does; what arrives meanwhile waits in its socket.
    pub(super) fn freeze(&mut self, index: usize, pause: Duration) {
        if self.hosts[index].node.is_none() {
            return;
        }
        let token = self.token();
        self.hosts[index].frozen = Some(token);
        self.stops_again(index);
        if let Some(doing) = &mut self.hosts[index].doing {
            doing.interrupted = true;
        }
        for item in 0..self.things.len() {
            let host = &mut self.hosts[index];
            host.unanswered[item] |= host.addresses[item].is_some();
        }
        self.ill(index);
        self.note(Some(index), || format!("frozen for {pause:?}"));
        self.queue.push(self.now + pause, Happening::Thaw { host: index, token });
    }

    pub(super) fn thaw(&mut self, index: usize, token: u64) {
        self.well(index);
        if self.hosts[index].frozen != Some(token) {
            return;
        }
        self.hosts[index].frozen = None;
        self.note(Some(index), || "thaws".into());
        // Which of the things that are due its loop sees first is the kernel's choice.
        if self.rng.random_bool(0.5) {
            self.hosts[index].inbox.push_front(Mail::Tick);
        } else {
            self.hosts[index].inbox.push_back(Mail::Tick);
        }
        self.pump(index);
    }

    pub(super) fn wake(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if host.wake_at.is_some_and(|at| at > now) {
            return;
        }
        host.wake_at = None;
        if host.node.is_some() && host.runs(now) {
            let local = host.clock.local(now);
            if host.node.as_ref().and_then(|node| node.poll_timeout()).is_some_and(|due| due <= local) {
                self.mail(index, Mail::Tick);
            } else {
                self.plan_wake(index);
            }
        } else if host.node.is_some() && host.asleep.is_none() && host.frozen.is_none() {
            // Busy: the timer is seen when it is done.
            self.mail(index, Mail::Tick);
        }
    }

    /// Something arrives at a daemon.
    pub(super) fn mail(&mut self, index: usize, mail: Mail) {
        if self.hosts[index].node.is_some() {
            self.hosts[index].inbox.push_back(mail);
            self.pump(index);
        }
    }

    /// Goes on as far as the daemon can.
    pub(super) fn pump(&mut self, index: usize) {
        loop {
            let now = self.now;
            let host = &mut self.hosts[index];
            if !host.runs(now) {
                if host.node.is_some() && host.asleep.is_none() && host.frozen.is_none() {
                    let at = host.busy_until;
                    if host.wake_at.is_none_or(|wake| wake > at || wake <= now) {
                        host.wake_at = Some(at);
                        self.queue.push(at, Happening::Go { host: index });
                    }
                }
                return;
            }
            if let Some(doing) = host.doing.take() {
                self.step(index, doing);
                continue;
            }
            let output = host.node.as_mut().and_then(|node| node.poll_output());
            if let Some(output) = output {
                self.carry_out(index, output);
                continue;
            }
            if let Some((id, gone)) = host.refreshed.pop_front() {
                self.feed(index, Input::Refreshed { id, gone });
                continue;
            }
            if let Some(by) = host.slept.take() {
                self.feed(index, Input::Suspended { by });
                continue;
            }
            let Some(mail) = host.inbox.pop_front() else { break };
            self.take(index, mail);
        }
        self.plan_wake(index);
    }

    fn plan_wake(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(due) = host.node.as_ref().and_then(|node| node.poll_timeout()) else { return };
        let at = host.clock.world(due).max(now);
        if host.wake_at.is_none_or(|wake| wake > at || wake <= now) {
            host.wake_at = Some(at);
            self.queue.push(at, Happening::Wake { host: index });
        }
    }

    fn take(&mut self, index: usize, mail: Mail) {
        match mail {
            Mail::Tick => self.feed(index, Input::Timeout),
            Mail::Datagram { from, data, kind } => self.take_datagram(index, from, &data, kind),
            Mail::Unreachable { addr } => self.feed(index, Input::Unreachable { addr }),
            Mail::Request { from, from_life, data } => {
                self.heard(index, from);
                self.connection.0 += 1;
                self.connection.1 = Some((from, from_life));
                let conn = self.connection.0;
                self.feed(index, Input::StreamRequest { conn, data: &data });
            }
            Mail::Reply { from, data } => {
                self.heard(index, from);
                self.feed(index, Input::StreamReply { data: &data });
            }
            Mail::HookCall(call) => self.begin_alive(index, call),
            Mail::HookDone { item, id, result } => {
                if self.hosts[index].hooks[item].is_some_and(|hook| hook.id == id) {
                    self.hosts[index].hooks[item] = None;
                    let result = result.map_err(str::to_owned);
                    self.feed(index, Input::HookDone { hook: id, result });
                }
            }
            Mail::HookEnded { item, ended, id } => {
                if self.hosts[index].hooks[item].is_some_and(|hook| hook.id == ended) {
                    self.hosts[index].hooks[item] = None;
                    self.feed(index, Input::HookDone { hook: id, result: Err("ended early".to_owned()) });
                }
            }
            Mail::HookEnds { call, mode } => self.hook_ends(index, &call, mode),
            Mail::PostDone { id } => self.feed(index, Input::HookDone { hook: id, result: Ok(()) }),
            Mail::Observed { item, present } => {
                // The driver looks again before it tells.
                if self.hosts[index].addresses[item].is_some() == present
                    && let Some(item) = self.place_at(index, item)
                {
                    self.feed(index, Input::Observed { item, present });
                }
            }
            Mail::Usable { item, well } => {
                let trouble = (!well).then(|| "no interface".to_owned());
                if let Some(item) = self.place_at(index, item) {
                    self.feed(index, Input::Usable { item, trouble });
                }
            }
            Mail::Witness { nonce } => self.feed(index, Input::WitnessAnswered { nonce }),
            Mail::CheckDone { id, healthy } => {
                self.check_result(index, id, healthy);
                let result = if healthy { Ok(()) } else { Err("it is not well".to_owned()) };
                self.feed(index, Input::CheckDone { id, result });
            }
            Mail::Command { asker, command } => {
                self.given(asker);
                self.feed(index, Input::Command { asker, command });
            }
            Mail::Stored { id, result } => {
                let result = result.map_err(str::to_owned);
                self.feed(index, Input::Stored { id, result });
            }
            Mail::Adopt { count } => self.adopt(index, count),
            Mail::Leave => {
                self.hosts[index].leaving = true;
                self.feed(index, Input::Leave);
            }
        }
    }

    fn heard(&mut self, index: usize, from: usize) {
        if let Some(heard) = self.hosts[index].heard.get_mut(from) {
            *heard = Some(self.now);
        }
    }

    fn take_datagram(&mut self, index: usize, from: usize, data: &[u8], kind: Kind) {
        let addr = self.addr_of(from);
        if from >= self.hosts.len() {
            self.feed(index, Input::Datagram { from: addr, data });
            return;
        }
        if kind == Kind::Genuine {
            self.heard(index, from);
            self.check_version(index, from, data);
            let lives = (self.hosts[from].life, self.hosts[index].life);
            if let Some(recorded) = self.recorded.get_mut(index)
                && self.hosts[index].knows(from, lives, self.now)
            {
                if recorded.len() >= 256 {
                    recorded.pop_front();
                }
                recorded.push_back((from, data.to_vec(), lives));
            }
            self.feed(index, Input::Datagram { from: addr, data });
            return;
        }
        // What is overdue would be noticed at any input, also at this one.
        let host = &self.hosts[index];
        let local = host.clock.local(self.now);
        let Some(node) = host.node.as_ref() else { return };
        let overdue = node.poll_timeout().is_some_and(|due| due <= local);
        let before = host.believes.unwrap_or_else(|| node.fingerprint());
        self.feed(index, Input::Datagram { from: addr, data });
        if overdue {
            return;
        }
        // Until the next input, no more may leave than came in.
        self.checker.budget = Some((index, data.len()));
        let host = &mut self.hosts[index];
        host.believes = host.node.as_ref().map(|node| node.fingerprint());
        if host.believes.is_some_and(|after| after != before) {
            self.broken("P10", format!("a {kind:?} datagram changed what n{index} believes"));
        }
    }

    fn feed(&mut self, index: usize, input: Input<'_>) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let local = host.clock.local(now);
        let Some(node) = host.node.as_mut() else { return };
        self.checker.budget = None;
        host.believes = None;
        node.handle(input, local);
        if !host.each.is_zero() {
            host.busy_until = now + host.each;
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        self.trace.word(self.now.as_nanos());
        self.trace.word(index as u64);
        match output {
            Output::Datagram { to, data } => {
                self.trace.bytes(&data);
                if let Some(what) = self.checker.sent(index, data.len()) {
                    self.broken("P10", what);
                }
                match self.by_addr.get(&to).copied() {
                    Some(to) => self.transmit(index, to, data),
                    None => self.transmit_to_second(index, to, data),
                }
            }
            Output::Hook(call) => {
                trace_debug(&mut self.trace, &call);
                self.begin_hook(index, call);
            }
            Output::Hush { item } => {
                if let Some(item) = self.thing_at(index, item) {
                    self.hosts[index].bursts[item] = None;
                }
            }
            Output::Post(call) => {
                trace_debug(&mut self.trace, &call);
                super::mark!("hook: post");
                self.note(Some(index), || format!("post hook of system {}: {:?}", call.system, call.changes));
                self.check_post(index, &call);
                let life = self.hosts[index].life;
                let at = self.now + Duration::from_millis(2);
                let mail = Mail::PostDone { id: call.id };
                self.queue.push(at, Happening::Mail { host: index, life, mail });
            }
            Output::Event(event) => {
                trace_debug(&mut self.trace, &event);
                self.note(Some(index), || format!("{event:?}"));
                self.event(index, &event);
            }
            Output::StoreGeneration(generation) => {
                if self.hosts[index].disk_full {
                    super::mark!("world: a generation could not be stored");
                    self.note(Some(index), || "cannot store its generation, and runs on".into());
                    return;
                }
                let host = &mut self.hosts[index];
                if host.stored.is_some_and(|stored| stored >= generation) {
                    let what = format!("n{index} went from generation {:?} to {generation}", host.stored);
                    self.broken("P1", what);
                    return;
                }
                host.stored_before = host.stored;
                host.stored = Some(generation);
            }
            Output::Stream { to, data } => {
                self.trace.bytes(&data);
                let Some(to) = self.by_addr.get(&to).copied() else { return };
                let there = &self.hosts[to];
                if there.powered && there.asleep.is_none() && self.network.connects(index, to) {
                    let at = self.now + self.network.latency() * 2;
                    let from_life = self.hosts[index].life;
                    self.queue.push(at, Happening::Request { from: index, from_life, to, data });
                }
            }
            Output::StreamReply { conn, data } => {
                self.trace.bytes(&data);
                if let (id, Some((asker, life))) = self.connection
                    && id == conn
                    && self.network.connects(index, asker)
                {
                    let at = self.now + self.network.latency();
                    let mail = Mail::Reply { from: index, data };
                    self.queue.push(at, Happening::Mail { host: asker, life, mail });
                }
            }
            Output::Left => {
                self.note(Some(index), || "has left".into());
                self.ended(index);
                self.hosts[index].left = true;
            }
            Output::StoreCatalog { id, bytes, whole } => self.store_catalog(index, id, bytes, whole),
            Output::StoreKeys(keys) => self.hosts[index].keys = Some(keys),
            Output::Cancel { hook } => self.cancel(index, hook),
            Output::Refresh(call) => self.begin_refresh(index, call),
            Output::PingWitness { nonce } => {
                // The gateway is there for everybody who is not cut off from all others.
                let open = |other| !self.network.is_cut(index, other) && !self.network.is_cut(other, index);
                if self.hosts[index].unwitnessed > 0 {
                    return;
                }
                if self.hosts.len() < 3 || (0..self.hosts.len()).any(|other| other != index && open(other)) {
                    let at = self.now + self.network.latency() * 2;
                    let life = self.hosts[index].life;
                    let mail = Mail::Witness { nonce };
                    self.queue.push(at, Happening::Mail { host: index, life, mail });
                }
            }
            // Nobody in the simulator has systems that speak; what is said here is part of the trace.
            Output::Heard { data, .. } => self.trace.bytes(&data),
            Output::Check(call) => self.begin_check(index, call),
            Output::Config(config) => self.hosts[index].config = config,
            Output::Done { asker, result } => {
                self.note(Some(index), || format!("answers asker {asker}: {result:?}"));
                self.answered(index, asker, &result);
            }
            Output::Late { asker, how_far } => {
                self.note(Some(index), || format!("answers asker {asker} late: {how_far}"));
                self.answered_late(index, asker);
            }
            Output::Refused { other } => {
                self.note(Some(index), || format!("is refused: {other} has its id"));
                self.broken("A4", format!("n{index}, which was there first, is refused"));
                self.ended(index);
            }
        }
    }

    pub(super) fn local(&self, index: usize) -> Time {
        self.hosts[index].clock.local(self.now)
    }
}

/// Folds the `Debug` text of a value into the trace, without building it.
fn trace_debug(trace: &mut Trace, value: &impl std::fmt::Debug) {
    struct Fold<'a>(&'a mut Trace);
    impl std::fmt::Write for Fold<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.bytes(text.as_bytes());
            Ok(())
        }
    }
    // Folding cannot fail.
    let _ = std::fmt::Write::write_fmt(&mut Fold(trace), format_args!("{value:?}"));
}
