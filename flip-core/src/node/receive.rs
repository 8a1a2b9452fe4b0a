//! What arrives, and what it changes.

use super::{Node, Timer};
use crate::event::{CaseCause, Event};
use crate::id::{Peer, ShortId};
use crate::io::Output;
use crate::marks::mark;
use crate::planted::{Bug, planted};
use crate::swim::SwimOutput;
use crate::time::Time;
use crate::view::{Life, Sign};
use crate::wire::codec;
use crate::wire::join::JOIN;
use crate::wire::message::{About, Leave, Message, Verdict};

impl Node {
    pub(super) fn on_stream_request(&mut self, conn: u64, data: &[u8], now: Time) {
        if data.first() == Some(&JOIN) {
            return self.on_join(conn, data, now);
        }
        match self.open_frame(data, now) {
            Some((server, Message::State(state))) => {
                let answer = state.answer;
                self.on_state(server, state, now);
                if answer {
                    let data = self.sealed_state(server, false, now);
                    self.outputs.push_back(Output::StreamReply { conn, data });
                }
            }
            Some((server, Message::Exchange(exchange))) => {
                self.on_exchange_request(conn, server, exchange, now);
            }
            Some(_) | None => {}
        }
    }

    pub(super) fn on_stream_reply(&mut self, data: &[u8], now: Time) {
        match self.open_frame(data, now) {
            Some((server, Message::State(state))) => {
                self.spread.answered(server);
                self.on_state(server, state, now);
            }
            Some((server, Message::Exchange(exchange))) => self.on_exchange_reply(server, exchange, now),
            Some(_) | None => {}
        }
    }

    pub(super) fn on_message(&mut self, server: usize, message: Message, now: Time) {
        match message {
            Message::Swim(data) => {
                if codec::swim_source(&data).is_some_and(|peer| peer.id == self.config.servers[server].short)
                {
                    self.swim.handle_data(&data, now);
                    self.drain_swim(now);
                }
            }
            Message::Ping(ping) => {
                let known = self.sign_of_life(server, ping.generation, now);
                let pong = Message::Pong(self.ping_of(ping.nonce));
                self.send(server, &pong);
                if known {
                    self.compare_facts(server, ping.generation, ping.facts, now);
                }
            }
            Message::Pong(pong) => {
                let known = self.sign_of_life(server, pong.generation, now);
                self.on_pong(server, pong, now);
                if known {
                    self.compare_facts(server, pong.generation, pong.facts, now);
                }
            }
            Message::Ballot(ballot) => self.on_ballot(server, ballot, now),
            Message::Hint(about) => self.on_hint(about, now),
            Message::Verdict(verdict) => self.on_verdict(server, verdict, now),
            Message::VerdictAck(about) => self.on_verdict_ack(server, about),
            Message::Leave(leave) => {
                self.send(server, &Message::LeaveAck(leave));
                self.accept_leave(server, leave.generation, now);
            }
            Message::LeaveAck(leave) => self.on_leave_ack(server, leave, now),
            Message::Facts(facts) => self.on_facts(server, &facts, now),
            Message::FactsWanted => self.send_facts(server, now),
            Message::Digest(digest) => self.on_digest(server, digest, now),
            Message::Claim(claim) => self.on_claim(server, &claim, now),
            Message::Grant(grant) => self.on_grant(server, &grant, now),
            Message::Renew(renew) => self.on_renew(server, &renew, now),
            Message::Renewed(renewed) => self.on_renewed(server, renewed, now),
            Message::Release(release) => self.on_release(server, &release, now),
            Message::Marks(marks) => self.take_marks(&marks, now),
            Message::Told(told) => self.on_told(told, now),
            Message::Heard(heard) => self.on_heard(server, &heard),
            Message::Aside(aside) => self.on_aside(server, aside, now),
            Message::Flaps(flaps) => self.learn_flaps(self.config.me, &flaps, now),
            Message::Catalog(brief) => self.on_brief(server, brief, now),
            Message::Entries(entries) => self.on_entries(server, entries),
            Message::Kept(kept) => self.on_kept(server, kept),
            Message::Propose(propose) => self.on_propose(server, propose, now),
            Message::Accepted(accepted) => self.on_accepted(server, accepted),
            // These travel by stream only.
            Message::State(_) | Message::Exchange(_) => {}
            // The front has looked at these.
            Message::Hello(_) | Message::Duplicate(_) => {}
            Message::Keys(keys) => self.on_keys(server, keys, now),
            Message::Ring(ring) => self.on_ring(server, ring, now),
        }
    }

    /// Something first-hand from a member. False when it speaks from a life that is over.
    pub(super) fn sign_of_life(&mut self, server: usize, generation: u64, now: Time) -> bool {
        match self.view.alive(server, generation, now) {
            Sign::Known => true,
            Sign::NewlyUp => {
                self.swim.declare_up(self.peer(server), now);
                self.member_up(server, now);
                true
            }
            Sign::Over => {
                mark!("view: a voice from a life that is over");
                self.tell_what_is_known(server, server);
                false
            }
            Sign::Old => {
                mark!("view: a voice from the past");
                // Its session is the live one, so the later life that is known was that of a second
                // daemon, or its disk lost count.
                let about = self.about(server);
                self.send(server, &Message::Hint(about));
                false
            }
        }
    }

    fn member_up(&mut self, server: usize, now: Time) {
        // Whatever was thought of its former life is over; the pongs of this one speak for themselves.
        self.drop_case(server);
        self.spread.forget_content(server);
        let generation = self.view.get(server).generation;
        self.event(Event::MemberUp { server, generation });
        if self.spread.first_contact() {
            self.request_state(server, now);
        }
        self.send_facts(server, now);
        self.send_word(server, self.config.me);
        if let Some(brief) = self.brief_message() {
            self.send(server, &brief);
        }
        let flaps = self.flaps_of(server, now);
        if !flaps.is_empty() {
            self.send(server, &Message::Flaps(flaps));
        }
        self.make_place(now);
    }

    /// Tells `to` about a verdict on `server`, if there is one.
    pub(super) fn tell_what_is_known(&mut self, to: usize, server: usize) {
        if let Some(verdict) = self.view.get(server).verdict.clone() {
            self.send(to, &Message::Verdict(Verdict { ack: false, ..*verdict }));
        }
    }

    pub(super) fn drain_swim(&mut self, now: Time) {
        loop {
            let outputs = self.swim.take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    SwimOutput::Send(peer, data) => {
                        if let Some(to) = self.config.server_index(peer.id)
                            && to != self.config.me
                        {
                            self.send(to, &Message::Swim(data));
                            self.send_digest_along(to);
                        }
                    }
                    SwimOutput::Up(peer) => self.on_gossiped_up(peer, now),
                    SwimOutput::ProbeFailed(peer, sent) => {
                        if let Some(server) = self.config.server_index(peer.id) {
                            self.on_probe_failed(server, sent, now);
                        }
                    }
                    SwimOutput::Suspected(peer) => {
                        if let Some(server) = self.config.server_index(peer.id) {
                            self.on_suspected(server, peer.generation, now);
                        }
                    }
                }
            }
        }
    }

    /// Hearsay: worth a look by those who can do something about it, unless they heard the member
    /// themselves a moment ago. A suspicion goes on travelling for a while after it was refuted.
    pub(super) fn on_suspected(&mut self, server: usize, generation: u64, now: Time) {
        if planted(Bug::SwimGateOpen) {
            self.accept_leave(server, generation, now);
        }
        let recent = self.config.timing.window();
        if self.is_voter()
            && generation >= self.view.get(server).generation
            && self.spread.last_heard(server).is_none_or(|heard| now.since(heard) > recent)
        {
            self.open_case(server, CaseCause::Suspicion, now);
        }
    }

    fn on_gossiped_up(&mut self, peer: Peer, now: Time) {
        let Some(server) = self.config.server_index(peer.id) else { return self.swim.ignore(peer, now) };
        if server != self.config.me && self.view.alive(server, peer.generation, now) == Sign::NewlyUp {
            mark!("swim: gossip told of a member");
            self.spread.forget_heard(server, now);
            self.member_up(server, now);
        }
    }

    fn on_verdict(&mut self, from: usize, verdict: Verdict, now: Time) {
        if !self.knows_electorate(verdict.electorate) {
            // Who came later than a change does not know those who voted before it.
            if self.has_same_electorate(from) != Some(true) {
                self.note_difference(from);
            }
            return;
        }
        if !self.is_valid(&verdict) || planted(Bug::VerdictNotBelieved) {
            return;
        }
        mark!("verdict: received from another");
        if verdict.ack {
            self.send(from, &Message::VerdictAck(verdict.about));
        }
        self.accept_verdict(self.server_of(verdict.about).unwrap_or(self.config.me), verdict, now);
    }

    /// A valid verdict, own or received: applied once, passed on, never undone for its generation.
    pub(super) fn accept_verdict(&mut self, server: usize, verdict: Verdict, now: Time) {
        let generation = verdict.about.generation;
        if server == self.config.me {
            // A larger one is that of a second daemon that ran under this id, or of a lost disk.
            if generation >= self.generation && !planted(Bug::VerdictWithoutRebirth) {
                mark!("verdict: at the node it is about");
                self.note_flap(server, generation, now);
                self.rebirth(generation, now);
            }
            return;
        }
        if !self.view.verdict(server, verdict.clone(), now) {
            return;
        }
        self.note_flap(server, generation, now);
        self.swim.declare_down(Peer { id: ShortId(verdict.about.id), generation }, now);
        self.drop_case(server);
        self.pings.gone(server);
        let voters = verdict.ballots.iter().filter_map(|ballot| self.server_of(*ballot)).collect();
        self.event(Event::MemberDown { server, generation, voters });
        self.spread_verdict(server, now);
        self.settle(now);
    }

    pub(super) fn accept_leave(&mut self, server: usize, generation: u64, now: Time) {
        if server == self.config.me || !self.view.left(server, generation, now) {
            return;
        }
        self.swim.declare_down(Peer { id: self.config.servers[server].short, generation }, now);
        self.drop_case(server);
        self.pings.gone(server);
        self.event(Event::MemberLeft { server, generation });
        self.replace_items(now);
    }

    /// This life was declared over by a quorum: the next one begins at once, with the same items in
    /// hand, and asks the others what became of them.
    pub(super) fn rebirth(&mut self, over: u64, now: Time) {
        let old = self.generation;
        self.generation = over.saturating_add(1);
        let me = self.config.me;
        self.view.alive(me, self.generation, now);
        self.outputs.push_back(Output::StoreGeneration(self.generation));
        self.event(Event::DeclaredDown { old, new: self.generation });
        self.swim.rebirth(self.peer(me), now);
        // A quorum has not heard this node for a window: it may have been away for that long, whatever its clocks
        // show, and ballots from before may have been taken back. Whoever stands by one says it again.
        self.ballots.clear();
        self.spread.forget_contact();
        self.state_facts(now);
        self.restate_word(now);
        // Who was declared down is not ready for items, and others have taken them.
        self.replace_items(now);
        for server in self.others() {
            self.ping(server, crate::loss::Purpose::Probe, now);
        }
        self.greet_soon(now);
    }

    /// After a verdict: acts at once, unless other cases are about to become verdicts as well.
    fn settle(&mut self, now: Time) {
        if self.others_near_verdict(now) {
            let until = now + self.settle_time();
            mark!("settle: placement waited for another case");
            self.items.set_stale();
            self.timers.set_earlier(Timer::Settle, until);
        } else {
            self.replace_items(now);
        }
    }

    /// A case ended: if placement waits and nothing else is near a verdict, it need not wait longer.
    pub(super) fn settle_soon(&mut self, now: Time) {
        if self.items.is_stale() && !self.others_near_verdict(now) {
            self.replace_items(now);
        }
    }

    pub(super) fn server_of(&self, about: About) -> Option<usize> {
        self.config.server_index(ShortId(about.id))
    }

    pub(super) fn note_difference(&mut self, server: usize) {
        if self.differs.insert(server) {
            self.event(Event::ConfigDiffers { server });
        }
    }

    fn on_leave_ack(&mut self, server: usize, leave: Leave, now: Time) {
        if leave.generation == self.generation
            && let Some(waiting) = self.leaving.as_mut().and_then(|leaving| leaving.waiting.as_mut())
        {
            waiting.remove(&server);
            if waiting.is_empty() {
                self.repeat_leave(now);
            }
        }
    }

    /// True when this server counts as gone.
    pub(super) fn is_gone(&self, server: usize) -> bool {
        matches!(self.view.get(server).life, Life::Down | Life::Left)
    }
}
