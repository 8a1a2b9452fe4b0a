//! What arrives, and what it changes.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Node, Timer};
use crate::event::{CaseCause, Event, Refusal};
use crate::id::{Peer, ShortId};
use crate::io::Output;
use crate::limits;
use crate::marks::mark;
use crate::planted::{Bug, planted};
use crate::swim::SwimOutput;
use crate::time::Time;
use crate::view::{Life, Sign};
use crate::wire::codec;
use crate::wire::message::{About, Leave, Message, Verdict, decode_all};
use crate::wire::seal::Opened;

/// A second daemon under one id is reported once in this time.
const DUPLICATE_PAUSE: Duration = Duration::from_secs(10);

impl Node {
    pub(super) fn on_datagram(&mut self, from: SocketAddr, data: &[u8], now: Time) {
        match self.opener.open(data, limits::DATAGRAM) {
            Ok(opened) => self.on_opened(Some(from), &opened, now),
            Err(why) => self.refuse(from, why, now),
        }
    }

    pub(super) fn on_stream_request(&mut self, conn: u64, data: &[u8], now: Time) {
        let Some((server, state)) = self.open_state(data) else { return };
        let answer = state.answer;
        self.on_state(server, state, now);
        if answer {
            let data = self.sealed_state(false, now);
            self.outputs.push_back(Output::StreamReply { conn, data });
        }
    }

    pub(super) fn on_stream_reply(&mut self, data: &[u8], now: Time) {
        if let Some((server, state)) = self.open_state(data) {
            self.on_state(server, state, now);
        }
    }

    fn open_state(&mut self, data: &[u8]) -> Option<(usize, crate::wire::message::State)> {
        let opened = self.opener.open(data, limits::FRAME).ok()?;
        let server = self.config.server_index(opened.sender)?;
        match decode_all(&opened.body).ok()?.pop()? {
            Message::State(state) => Some((server, state)),
            _ => None,
        }
    }

    fn on_opened(&mut self, from: Option<SocketAddr>, opened: &Opened, now: Time) {
        let Some(server) = self.config.server_index(opened.sender) else { return };
        if let Some(from) = from
            && from != self.config.servers[server].addr
        {
            self.report_duplicate(server, from, now);
        }
        let Ok(messages) = decode_all(&opened.body) else {
            if let Some(from) = from {
                self.refuse(from, Refusal::Malformed, now);
            }
            return;
        };
        self.spread.heard(server, now);
        for message in messages {
            self.on_message(server, message, now);
        }
    }

    fn on_message(&mut self, server: usize, message: Message, now: Time) {
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
            // States travel by stream only.
            Message::State(_) => {}
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
            Sign::Over if planted(Bug::OldVoiceCounts) => true,
            Sign::Over => {
                mark!("view: a voice from a life that is over");
                self.tell_what_is_known(server, server);
                false
            }
            Sign::Old => {
                mark!("view: a voice from the past");
                false
            }
        }
    }

    fn member_up(&mut self, server: usize, now: Time) {
        // Whatever was thought of its former life is over; the pongs of this one speak for themselves.
        self.drop_case(server);
        let generation = self.view.get(server).generation;
        self.event(Event::MemberUp { server, generation });
        if self.spread.first_contact() {
            self.request_state(server, now);
        }
        self.send_facts(server, now);
        self.reannounce_all(now);
        self.replace_items(now);
    }

    /// Tells `to` about a verdict on `server`, if there is one.
    pub(super) fn tell_what_is_known(&mut self, to: usize, server: usize) {
        if let Some(verdict) = self.view.get(server).verdict.clone() {
            self.send(to, &Message::Verdict(Verdict { ack: false, ..verdict }));
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
        let Some(server) = self.config.server_index(peer.id) else { return };
        if server != self.config.me && self.view.alive(server, peer.generation, now) == Sign::NewlyUp {
            mark!("swim: gossip told of a member");
            self.member_up(server, now);
        }
    }

    fn on_verdict(&mut self, from: usize, verdict: Verdict, now: Time) {
        if verdict.electorate != self.electorate {
            self.note_difference(from);
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
            if generation == self.generation && !planted(Bug::VerdictWithoutRebirth) {
                mark!("verdict: at the node it is about");
                self.rebirth(now);
            }
            return;
        }
        if !self.view.verdict(server, verdict.clone(), now) {
            return;
        }
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
    fn rebirth(&mut self, now: Time) {
        let old = self.generation;
        self.generation += 1;
        let me = self.config.me;
        self.view.alive(me, self.generation, now);
        self.outputs.push_back(Output::StoreGeneration(self.generation));
        self.event(Event::DeclaredDown { old, new: self.generation });
        self.swim.rebirth(self.peer(me), now);
        self.spread.forget_contact();
        self.state_facts(now);
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
        if !std::mem::replace(&mut self.differs[server], true) {
            self.event(Event::ConfigDiffers { server });
        }
    }

    fn refuse(&mut self, from: SocketAddr, why: Refusal, now: Time) {
        *self.refused.entry(why).or_default() += 1;
        if why == Refusal::OwnId {
            self.report_duplicate(self.config.me, from, now);
        }
        self.event(Event::Refused { from, why });
    }

    fn report_duplicate(&mut self, server: usize, from: SocketAddr, now: Time) {
        if self.duplicate_reported.is_none_or(|last| now.since(last) >= DUPLICATE_PAUSE) {
            self.duplicate_reported = Some(now);
            self.event(Event::DuplicateId { server, from });
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
