//! What must reach everybody: verdicts until acknowledged, goodbyes, facts, and the digests that repair
//! what was lost all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

use super::{Leaving, Node, Timer};
use crate::event::ItemState;
use crate::facts::Stated;
use crate::io::Output;
use crate::limits;
use crate::marks::mark;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::Translation;
use crate::wire::message::{About, Digest, Known, Leave, Message, State, Verdict};

/// Bookkeeping of what is being spread.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// Per subject, the voters that have not acknowledged the newest verdict, and how often it was said.
    verdicts: BTreeMap<usize, (BTreeSet<usize>, u32)>,
    /// By server, when anything was last heard of it.
    heard: BTreeMap<usize, Time>,
    /// Repetitions of the newest facts still to come.
    facts_repeats: u32,
    contacted: bool,
    /// When a full state was last requested.
    requested: Option<Time>,
    /// Who has not answered that.
    asked: Option<usize>,
    /// A digest waits for a datagram to go with.
    digest_due: bool,
    /// When facts were last asked for, by server.
    facts_asked: BTreeMap<usize, Time>,
    /// Digests of the config that each server said last to run: who votes, and what else must be equal.
    contents: BTreeMap<usize, (u32, u64)>,
}

impl Spread {
    pub(super) fn heard(&mut self, server: usize, now: Time) {
        self.heard.insert(server, now);
    }

    pub(super) fn last_heard(&self, server: usize) -> Option<Time> {
        self.heard.get(&server).copied()
    }

    /// Others say that a new life of a server is up: what was heard before now is of a life that is over.
    pub(super) fn forget_heard(&mut self, server: usize, now: Time) {
        if self.heard.get(&server).is_some_and(|at| *at < now) {
            self.heard.remove(&server);
        }
    }

    /// A state came.
    pub(super) fn answered(&mut self, server: usize) {
        self.asked.take_if(|asked| *asked == server);
    }

    pub(super) fn translate(&mut self, to: &Translation) {
        to.by_server(&mut self.verdicts);
        self.verdicts.values_mut().for_each(|(waiting, _)| to.set_of_servers(waiting));
        to.by_server(&mut self.heard);
        to.by_server(&mut self.facts_asked);
        to.by_server(&mut self.contents);
        self.asked = self.asked.and_then(|server| to.server(server));
    }

    /// Another life of a server may run another config.
    pub(super) fn forget_content(&mut self, server: usize) {
        self.contents.remove(&server);
    }

    /// True once in each life.
    pub(super) fn first_contact(&mut self) -> bool {
        !std::mem::replace(&mut self.contacted, true)
    }

    pub(super) fn forget_contact(&mut self) {
        self.contacted = false;
    }
}

impl Node {
    /// Sends the newest verdict on `server` to every voter, and as a rumour to a few others.
    pub(super) fn spread_verdict(&mut self, server: usize, now: Time) {
        let voters: BTreeSet<_> = self
            .up_others()
            .into_iter()
            .filter(|other| self.config.voters.binary_search(other).is_ok())
            .collect();
        let mut rest: Vec<_> = self.up_others().into_iter().filter(|other| !voters.contains(other)).collect();
        rest.shuffle(&mut self.rng);
        rest.truncate(limits::RUMOUR_FANOUT);
        for other in rest {
            self.tell_what_is_known(other, server);
        }
        if self.is_voter() && !voters.is_empty() {
            self.spread.verdicts.insert(server, (voters, 0));
            self.repeat_verdict(server, now);
        }
    }

    pub(super) fn repeat_verdict(&mut self, server: usize, now: Time) {
        let Some(verdict) = self.view.get(server).verdict.clone() else { return };
        let up: BTreeSet<_> = self.up_others().into_iter().collect();
        let Some((waiting, tries)) = self.spread.verdicts.get_mut(&server) else { return };
        waiting.retain(|voter| up.contains(voter));
        *tries += 1;
        if waiting.is_empty() || *tries > limits::REPEATS {
            self.spread.verdicts.remove(&server);
            return;
        }
        let pause = (self.config.timing.window() / 2).min(Duration::from_millis(100)) * *tries;
        for voter in waiting.clone() {
            self.send(voter, &Message::Verdict(Verdict { ack: true, ..(*verdict).clone() }));
        }
        self.timers.set(Timer::Verdict(server), now + pause);
    }

    pub(super) fn on_verdict_ack(&mut self, from: usize, about: About) {
        if let Some(server) = self.server_of(about)
            && about.generation == self.view.get(server).generation
            && let Some((waiting, _)) = self.spread.verdicts.get_mut(&server)
        {
            waiting.remove(&from);
            if waiting.is_empty() {
                mark!("verdict: acknowledged by all");
                self.spread.verdicts.remove(&server);
                self.timers.cancel(Timer::Verdict(server));
            }
        }
    }

    /// States this node's items anew, and tells everybody.
    pub(super) fn state_facts(&mut self, now: Time) {
        let me = self.config.me;
        let held = self.items.held(&self.config);
        let (generation, seq) = (self.generation, self.facts.of(me).seq + 1);
        let departing = self.leaving.is_some();
        let unfit = self.unfit();
        self.facts.put(me, Stated { generation, seq, departing, held, unfit });
        self.spread.facts_repeats = 2;
        self.tell_facts(now);
    }

    pub(super) fn repeat_facts(&mut self, now: Time) {
        self.tell_facts(now);
    }

    fn tell_facts(&mut self, now: Time) {
        let facts = self.facts.to_wire(self.config.me, now, false);
        for server in self.up_others() {
            self.send(server, &Message::Facts(facts.clone()));
        }
        if self.spread.facts_repeats > 0 {
            let pause = if self.spread.facts_repeats == 2 { 30 } else { 120 };
            self.spread.facts_repeats -= 1;
            self.timers.set(Timer::Facts, now + Duration::from_millis(pause));
        }
    }

    pub(super) fn send_facts(&mut self, to: usize, now: Time) {
        if self.facts.of(self.config.me).seq > 0 {
            let facts = self.facts.to_wire(self.config.me, now, false);
            self.send(to, &Message::Facts(facts));
        }
    }

    pub(super) fn on_facts(&mut self, server: usize, facts: &crate::wire::message::Facts, now: Time) {
        if !self.sign_of_life(server, facts.generation, now) {
            return;
        }
        if facts.held.is_none() {
            if self.facts.is_newer(server, facts.generation, facts.seq) {
                self.request_state(server, now);
            }
            return;
        }
        self.take_facts(server, facts, now);
    }

    fn take_facts(&mut self, server: usize, facts: &crate::wire::message::Facts, now: Time) {
        let departed = self.facts.of(server).departing;
        let before = (self.facts.of(server).generation, self.facts.of(server).unfit.clone());
        let Some(changes) = self.facts.update(server, facts, now) else { return };
        self.remember_facts(server, &changes);
        // A successor may have confirmed what this node was holding for it.
        self.items.touch();
        let stated = self.facts.of(server);
        let may_differ = self.health.any() || !stated.unfit.is_empty();
        let unfit_changed = before.1 != stated.unfit || may_differ && before.0 != stated.generation;
        let mut failing_changed = departed != facts.departing || unfit_changed;
        for (id, before, after) in changes {
            failing_changed |= before == Some(ItemState::Failing) || after == Some(ItemState::Failing);
            // Whoever was about to take it may have announced it meanwhile, though its word of that was
            // overtaken by the next.
            let was_there =
                matches!(before, Some(ItemState::Acquiring | ItemState::Active | ItemState::Releasing));
            let is_there = matches!(after, Some(ItemState::Active | ItemState::Releasing));
            if was_there && !is_there {
                // The loser let go; whoever still knows its address must learn the winner's.
                self.reannounce(id, now);
                self.claim_soon(id, now);
            }
        }
        if failing_changed {
            self.replace_items(now);
        }
    }

    /// A ping said which facts are its sender's newest: asks for them if they were lost.
    pub(super) fn compare_facts(&mut self, server: usize, generation: u64, seq: u32, now: Time) {
        if seq == 0 || !self.facts.is_newer(server, generation, seq) {
            return;
        }
        let pause = Duration::from_millis(20);
        if self.spread.facts_asked.get(&server).is_none_or(|asked| now.since(*asked) >= pause) {
            self.spread.facts_asked.insert(server, now);
            mark!("facts: asked for again");
            self.send(server, &Message::FactsWanted);
        }
    }

    /// Tells all who are up, and asks nothing: which config this node runs.
    pub(super) fn tell_content(&mut self) {
        let digest = Message::Digest(self.digest());
        for server in self.up_others() {
            self.send(server, &digest);
        }
    }

    /// Tells one of them.
    pub(super) fn tell_content_to(&mut self, server: usize) {
        if server != self.config.me && self.view.is_up(server) {
            let digest = Message::Digest(self.digest());
            self.send(server, &digest);
        }
    }

    /// Whether a server said last that it runs the same config; none when it has said nothing.
    pub(super) fn has_same_config(&self, server: usize) -> Option<bool> {
        self.spread.contents.get(&server).map(|said| *said == (self.electorate, self.content))
    }

    /// Whether a server said last that the same servers vote as here; none before it said anything.
    pub(super) fn has_same_electorate(&self, server: usize) -> Option<bool> {
        self.spread.contents.get(&server).map(|(electorate, _)| *electorate == self.electorate)
    }

    pub(super) fn send_digest(&mut self, now: Time) {
        let jitter = self.rng.random_range(0.8..1.2);
        self.timers.set(Timer::Digest, now + self.config.timing.digest_interval.mul_f64(jitter));
        if !self.everybody_probed() {
            // SWIM has something for a random member several times a second.
            self.spread.digest_due = true;
        } else if let Some(server) = self.up_others().choose(&mut self.rng).copied() {
            self.send_digest_to(server);
        }
    }

    /// Something is about to be sent to this member: a digest that is due goes along.
    pub(super) fn send_digest_along(&mut self, to: usize) {
        if self.spread.digest_due && self.view.is_up(to) {
            self.spread.digest_due = false;
            self.send_digest_to(to);
        }
    }

    /// The brief of the catalog comes first: where that differs, so will the rest.
    fn send_digest_to(&mut self, to: usize) {
        if let Some(brief) = self.brief_message() {
            self.send(to, &brief);
        }
        let digest = Message::Digest(self.digest());
        self.send(to, &digest);
        self.send_heard(to);
    }

    fn digest(&self) -> Digest {
        Digest {
            members: self.view.digest(),
            facts: self.facts.digest(),
            electorate: self.electorate,
            content: self.content,
            marks: self.marks.digest(),
        }
    }

    pub(super) fn on_digest(&mut self, server: usize, digest: Digest, now: Time) {
        let own = self.digest();
        let before = self.has_same_config(server);
        self.spread.contents.insert(server, (digest.electorate, digest.content));
        if self.has_same_config(server) == Some(true) {
            // It may wait to hear that of this node.
            if before == Some(false) || before.is_none() && self.adopted_lately(now) {
                self.tell_content_to(server);
                self.items.touch();
            }
        }
        if digest.electorate != own.electorate || digest.content != own.content {
            if !self.catalog_differs(server) {
                self.note_difference(server);
            }
        } else {
            self.differs.remove(&server);
        }
        let differs = digest.members != own.members || digest.facts != own.facts || digest.marks != own.marks;
        self.memory.compared(self.config.servers[server].short, differs, now);
        if differs && !planted(Bug::DigestIgnored) {
            self.request_state(server, now);
        }
    }

    /// Exchanges everything with `server`, at most once in half a digest interval.
    pub(super) fn request_state(&mut self, server: usize, now: Time) {
        let pause = self.config.timing.digest_interval / 2;
        if self.spread.requested.is_some_and(|last| now.since(last) < pause) {
            return;
        }
        self.spread.requested = Some(now);
        self.spread.asked = Some(server);
        let data = self.sealed_state(server, true, now);
        self.outputs.push_back(Output::Stream { to: self.config.servers[server].addr, data });
    }

    /// `server` may have refused to answer because it did not know this session: asks again at once.
    pub(super) fn request_again(&mut self, server: usize, now: Time) {
        if self.spread.asked == Some(server) {
            self.spread.requested = None;
            self.request_state(server, now);
        }
    }

    pub(super) fn sealed_state(&mut self, to: usize, answer: bool, now: Time) -> Vec<u8> {
        let servers = 0..self.config.servers.len();
        let state = State {
            answer,
            generation: self.generation,
            members: servers.clone().map(|server| self.known(server, now)).collect(),
            facts: servers
                .filter(|server| self.facts.of(*server).generation > 0)
                .map(|server| (self.config.servers[server].short.0, self.facts.to_wire(server, now, true)))
                .collect(),
            marks: self.marks(),
        };
        let mut body = Vec::new();
        let state = Message::State(state);
        state.encode(&mut body);
        self.tally.sent.add(state.kind(), body.len());
        self.seal(to, &body)
    }

    fn known(&self, server: usize, now: Time) -> Known {
        let record = self.view.get(server);
        Known {
            about: self.about(server),
            up: self.view.is_up(server),
            verdict: record.verdict.as_deref().cloned(),
            left: record.left,
            flaps: self.flaps_of(server, now),
        }
    }

    pub(super) fn on_state(&mut self, from: usize, state: State, now: Time) {
        if !self.sign_of_life(from, state.generation, now) {
            return;
        }
        mark!("state: exchanged by stream");
        self.learn(now, |node| node.take_members(state.members, now));
        for (id, facts) in state.facts {
            if let Some(server) = self.server_of(About { id, generation: 0 })
                && server != self.config.me
            {
                self.take_facts(server, &facts, now);
            }
        }
        self.take_marks(&state.marks, now);
    }

    fn take_members(&mut self, members: Vec<Known>, now: Time) {
        for known in members {
            let Some(server) = self.server_of(known.about) else { continue };
            self.learn_flaps(server, &known.flaps, now);
            if let Some(verdict) = known.verdict
                && self.is_valid(&verdict)
                && verdict.about.id == known.about.id
            {
                self.accept_verdict(server, verdict, now);
            }
            if known.left > 0 {
                self.accept_leave(server, known.left, now);
            }
            if server == self.config.me {
                continue;
            }
            if known.up {
                if !self.view.is_up(server) {
                    self.spread.forget_heard(server, now);
                }
                self.sign_of_life(server, known.about.generation, now);
            } else {
                self.view.heard_of(server, known.about.generation);
            }
        }
    }

    /// Shut down: first the items are handed over, then the goodbye.
    pub(super) fn on_leave(&mut self, now: Time) {
        if self.leaving.is_none() {
            self.leaving = Some(Leaving { since: now, ..Leaving::default() });
            self.timers.set(Timer::Handover, now + limits::HANDOVER);
            self.state_facts(now);
            self.replace_items(now);
            for server in self.others() {
                self.drop_case(server);
            }
        }
    }

    /// The items are released: says goodbye until everybody who is up has heard it.
    pub(super) fn say_goodbye(&mut self, now: Time) {
        let up: BTreeSet<_> = self.up_others().into_iter().collect();
        if let Some(leaving) = &mut self.leaving
            && let Some(other) = leaving.refused
        {
            if !std::mem::replace(&mut leaving.done, true) {
                self.outputs.push_back(Output::Refused { other });
            }
        } else if let Some(leaving) = &mut self.leaving
            && leaving.waiting.is_none()
        {
            leaving.waiting = Some(up);
            self.repeat_leave(now);
        }
    }

    pub(super) fn repeat_leave(&mut self, now: Time) {
        let gone: BTreeSet<_> = self.others().filter(|server| self.is_gone(*server)).collect();
        let generation = self.generation;
        let Some(leaving) = &mut self.leaving else { return };
        let Some(waiting) = &mut leaving.waiting else { return };
        waiting.retain(|server| !gone.contains(server));
        if leaving.done {
            return;
        }
        if waiting.is_empty() || leaving.tries > limits::REPEATS {
            if !waiting.is_empty() {
                mark!("leave: gave up waiting for somebody");
            }
            leaving.done = true;
            self.outputs.push_back(Output::Left);
            return;
        }
        leaving.tries += 1;
        let pause = Duration::from_millis(10) * leaving.tries;
        for server in waiting.clone() {
            self.send(server, &Message::Leave(Leave { generation }));
        }
        self.timers.set(Timer::Leave, now + pause);
    }
}
