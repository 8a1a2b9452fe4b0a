//! Cases: a suspicion becomes a verdict only by a quorum of voters who looked for themselves.
//!
//! ```text
//!               pong to an own nonce            pong
//!   Probing ──────────────────────▶ closed ◀────────── Accusing ──▶ verdict
//!      │ window over, no pong                             ▲   (quorum of standing ballots)
//!      ├── in contact with quorum - 1 others ─────────────┘
//!      └── else: abstain, look again ever more slowly
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::adopt::Electorate;
use super::{Node, Timer};
use crate::ballot::evidence;
use crate::event::{AbstainReason, CaseCause, Event};
use crate::id::ShortId;
use crate::limits;
use crate::loss::{Purpose, pings_needed};
use crate::marks::mark;
use crate::planted::{Bug, planted};
use crate::quorum;
use crate::time::Time;
use crate::translation::Translation;
use crate::view::Life;
use crate::wire::message::{About, Ballot, Message, Verdict};

/// Pings to the subject after which other voters are asked to look as well, where everybody probes
/// everybody; elsewhere a quarter of the window.
const HINT_AFTER: u32 = 2;

/// Cases about servers that were never seen that are opened at once; more wait until these have had a window.
const UNSEEN_AT_ONCE: usize = 64;

/// An open case about one server.
#[derive(Debug)]
pub(super) struct Case {
    cause: CaseCause,
    opened: Time,
    /// Start of the current window.
    window: Time,
    /// Pings to the subject in this window.
    sent: u32,
    /// Contact pings of this window that are old enough to be answered, and answers.
    contact_sent: u32,
    contact_answers: u32,
    /// Others that answered in this window, and when the newest ping was sent that they answered.
    contacts: BTreeMap<usize, Time>,
    /// Number of the next contact, round robin.
    next_contact: usize,
    /// Windows that ended without an answer.
    silent_windows: u32,
    hinted: bool,
    /// The Down ballot that this node cast, and when it said so last.
    ballot: Option<Time>,
    /// The generation that it was about.
    about: u64,
    abstained: bool,
}

impl Case {
    fn new(cause: CaseCause, now: Time) -> Self {
        Self {
            cause,
            opened: now,
            window: now,
            sent: 0,
            contact_sent: 0,
            contact_answers: 0,
            contacts: BTreeMap::new(),
            next_contact: 0,
            silent_windows: 0,
            // Whoever hinted or voted has told all voters.
            hinted: cause == CaseCause::Ballot,
            ballot: None,
            about: 0,
            abstained: false,
        }
    }

    fn new_window(&mut self, now: Time) {
        self.window = now;
        self.sent = 0;
        self.contact_sent = 0;
        self.contact_answers = 0;
        self.contacts.clear();
    }

    fn translate(&mut self, to: &Translation) {
        to.by_server(&mut self.contacts);
    }

    /// True when a whole window went by without an answer.
    pub(super) const fn silent(&self) -> bool {
        self.silent_windows > 0
    }

    /// True while this node gets no answer and does not trust its own senses.
    pub(super) const fn abstains(&self) -> bool {
        self.abstained
    }

    pub(super) const fn cause(&self) -> CaseCause {
        self.cause
    }

    pub(super) const fn opened(&self) -> Time {
        self.opened
    }

    pub(super) fn contact_answered(&mut self, from: usize, sent: Time) {
        if sent >= self.window {
            let newest = self.contacts.entry(from).or_insert(sent);
            *newest = (*newest).max(sent);
            self.contact_answers += 1;
        }
    }

    /// Others that answered lately. Whoever lost everybody sees loss, so its window grows: what answered at the
    /// beginning of it says nothing about its end.
    fn contacts(&self, window: Duration, now: Time) -> usize {
        let since = now - (now.since(self.window) / 2).max(window * 3);
        self.contacts.values().filter(|sent| **sent >= since).count()
    }

    /// Loss seen by the contact pings of this window. The newest of them may still be under way.
    fn contact_loss(&self, each: u32) -> f64 {
        let settled = self.contact_sent.saturating_sub(each);
        if settled == 0 {
            return 0.0;
        }
        f64::from(settled.saturating_sub(self.contact_answers)) / f64::from(settled)
    }
}

impl Node {
    pub(super) fn open_case(&mut self, server: usize, cause: CaseCause, now: Time) {
        let life = self.view.get(server).life;
        if server == self.config.me
            || self.cases.contains_key(&server)
            || self.leaving.is_some()
            || !matches!(life, Life::Up | Life::Unknown)
        {
            return;
        }
        self.cases.insert(server, Case::new(cause, now));
        self.event(Event::CaseOpened { server, cause });
        if planted(Bug::HearsayIsABallot) && matches!(cause, CaseCause::Suspicion | CaseCause::Ballot) {
            self.cast(server, true, now);
        }
        self.case_turn(server, now);
    }

    /// Servers that never showed up since this node started.
    pub(super) fn open_never_seen(&mut self, now: Time) {
        // Whoever takes items without a quorum has waited for this.
        self.items.touch();
        let unseen = |node: &Self, server: usize| {
            node.view.get(server).life == Life::Unknown && !node.cases.contains_key(&server)
        };
        let mut unseen: Vec<_> = self.others().filter(|server| unseen(self, *server)).collect();
        // In a large cluster that starts, voters look for the missing a few at a time. The others need not: they
        // hear of verdicts, unless there is nobody who could tell them.
        let voters_look = self.config.servers.len() > limits::ALL_VOTE && !self.is_voter() && self.has_quorum;
        let loud = self.cases.values().filter(|case| !case.silent()).count();
        let room = if voters_look { 0 } else { UNSEEN_AT_ONCE.saturating_sub(loud) };
        let more = unseen.len() > room;
        unseen.truncate(room);
        for server in unseen {
            self.open_case(server, CaseCause::NeverSeen, now);
        }
        if more {
            self.timers.set(Timer::NeverSeen, now + self.config.timing.window());
        }
    }

    pub(super) fn close_case(&mut self, server: usize, now: Time) {
        let Some(case) = self.cases.remove(&server) else { return };
        self.reach_changed();
        self.timers.cancel(Timer::Case(server));
        if case.ballot.is_some() {
            self.cast(server, false, now);
        }
        self.ballots.forget(server);
        let after = now.since(case.opened);
        self.event(Event::CaseClosed { server, after });
        self.settle_soon(now);
    }

    /// After a stall: what opened a case, and every silence since, may have been this node's own
    /// absence. A member that is really gone will miss its next probe too; who was never seen is given
    /// time anew.
    pub(super) fn void_cases(&mut self, now: Time) {
        let open: Vec<_> = self.cases.iter().map(|(server, case)| (*server, case.cause)).collect();
        for (server, cause) in open {
            self.drop_case(server);
            self.event(Event::Abstained { server, reason: AbstainReason::Stalled });
            if cause == CaseCause::NeverSeen {
                self.wait_for_unseen(now);
            }
        }
    }

    /// Gives servers that never showed up some time before a case is opened.
    pub(super) fn wait_for_unseen(&mut self, now: Time) {
        self.timers.set(Timer::NeverSeen, now + self.grace());
    }

    /// How long servers that were not seen yet have before a case is opened.
    pub(super) fn grace(&self) -> Duration {
        (self.config.timing.window() * 3).max(Duration::from_secs(1))
    }

    /// Goes on under another config. Where others vote than before, ballots count for nothing, and whoever stands
    /// by one says it again.
    pub(super) fn translate_cases(&mut self, to: &Translation, other_voters: bool) {
        to.by_server(&mut self.cases);
        self.ballots.translate(to);
        for case in self.cases.values_mut() {
            case.translate(to);
            if other_voters {
                case.ballot = None;
                // Who votes no more is no witness of this node's own senses.
                case.contacts.retain(|server, _| self.config.voters.contains(server));
            }
        }
        if other_voters {
            self.ballots.clear();
        }
    }

    /// One step of a case: judge the window if it is over, else ping.
    pub(super) fn case_turn(&mut self, server: usize, now: Time) {
        let timing = &self.config.timing;
        let (interval, window) = (timing.case_ping_interval(), timing.window());
        let each = self.contacts_per_turn();
        let Some(case) = self.cases.get(&server) else { return };
        let loss = self
            .pings
            .losses()
            .filter(|(other, _)| self.view.is_up(*other))
            .fold(case.contact_loss(each), |most, (_, loss)| most.max(loss));
        if case.sent >= pings_needed(loss, self.config.timing.case_pings) {
            self.judge(server, now);
        }
        let hint_after = if self.everybody_probed() { HINT_AFTER } else { self.config.timing.case_pings / 4 };
        let voter = self.is_voter();
        let others = if voter { self.contact_candidates(server) } else { Vec::new() };
        let Some(case) = self.cases.get_mut(&server) else { return };
        // A subject that stays silent without a verdict is looked at ever more slowly.
        let pause = (interval * 2u32.pow(case.silent_windows.min(6))).min(window);
        case.sent += 1;
        let hint = !case.hinted && case.sent >= hint_after.max(1);
        case.hinted |= hint;
        let mut contacts = Vec::new();
        if !others.is_empty() {
            for _ in 0..each.min(u32::try_from(others.len()).unwrap_or(u32::MAX)) {
                contacts.push(others[case.next_contact % others.len()]);
                case.next_contact += 1;
                case.contact_sent += 1;
            }
        }
        let repeat = case.ballot.is_some_and(|cast| now.since(cast) >= window / 2);
        self.timers.set(
            Timer::Case(server),
            now + pause.min(if case.ballot.is_some() { window / 2 } else { pause }),
        );
        self.ping(server, Purpose::Case, now);
        self.ask_witness(now);
        for contact in contacts {
            self.ping(contact, Purpose::Contact(server), now);
        }
        if hint {
            self.hint(server);
        }
        if repeat {
            self.cast(server, true, now);
        }
        self.look_for_verdict(server, now);
    }

    /// The window is over and the subject did not answer.
    fn judge(&mut self, server: usize, now: Time) {
        let (voter, quorum) = (self.is_voter(), self.config.quorum);
        let usual = self.config.timing.window();
        let Some(case) = self.cases.get_mut(&server) else { return };
        case.silent_windows += 1;
        let contact = quorum::has_contact(case.contacts(usual, now), quorum) || planted(Bug::NoAbstain);
        let window = case.window;
        let first_complaint = !case.abstained;
        case.new_window(now);
        self.reach_changed();
        let witnessed = self.witness_answered(window);
        let Some(case) = self.cases.get_mut(&server) else { return };
        if !voter {
            // Whoever may not vote asks again.
            case.hinted = false;
            return;
        }
        if contact && witnessed {
            case.abstained = false;
            if case.ballot.is_none() {
                self.cast(server, true, now);
            }
        } else {
            // Its earlier statement stands no longer, and expires at the others.
            case.ballot = None;
            case.abstained = true;
            if first_complaint {
                let reason = if contact { AbstainReason::WitnessSilent } else { AbstainReason::NoContact };
                self.event(Event::Abstained { server, reason });
            }
        }
    }

    fn cast(&mut self, server: usize, down: bool, now: Time) {
        self.ballot_seq = self.ballot_seq.wrapping_add(1);
        let ballot = Ballot {
            electorate: self.electorate,
            voter_generation: self.generation,
            about: self.about(server),
            seq: self.ballot_seq,
            down,
        };
        self.ballots.record(server, self.config.me, &ballot, now);
        for voter in self.up_voters(server) {
            self.send(voter, &Message::Ballot(ballot));
        }
        if down && let Some(case) = self.cases.get_mut(&server) {
            let said = case.ballot.is_some() && case.about == ballot.about.generation;
            case.ballot = Some(now);
            case.about = ballot.about.generation;
            if !said {
                let ballots = self.standing(server, now).len();
                self.event(Event::BallotCast { server, ballots, quorum: self.config.quorum });
            }
        }
    }

    fn hint(&mut self, server: usize) {
        let about = self.about(server);
        for voter in self.up_voters(server) {
            self.send(voter, &Message::Hint(about));
        }
    }

    pub(super) fn on_ballot(&mut self, voter: usize, ballot: Ballot, now: Time) {
        let Some(server) = self.server_of(ballot.about) else { return };
        if ballot.electorate != self.electorate {
            self.note_difference(voter);
            return;
        }
        if self.config.voters.binary_search(&voter).is_err() || server == self.config.me {
            return;
        }
        let before = self.view.get(server).generation;
        if ballot.about.generation > before {
            // The voter saw a newer life than this node did.
            self.view.heard_of(server, ballot.about.generation);
        }
        if ballot.down && self.just_stalled(now) {
            // It may have waited in the socket for as long as this node was stopped, and be taken back since.
            // Whoever stands by it says it again.
            mark!("ballot: too soon after a stall to count");
            self.open_case(server, CaseCause::Ballot, now);
            return;
        }
        if !self.ballots.record(server, voter, &ballot, now) || !ballot.down {
            return;
        }
        if ballot.about.generation < before {
            self.tell_what_is_known(voter, server);
            return;
        }
        self.open_case(server, CaseCause::Ballot, now);
        if ballot.about.generation > before
            && self.cases.get(&server).is_some_and(|case| case.ballot.is_some())
        {
            self.cast(server, true, now);
        }
        self.look_for_verdict(server, now);
    }

    pub(super) fn on_hint(&mut self, about: About, now: Time) {
        if about.id == self.config.my().short.0 {
            // Somebody knows a later life under this id, which this one must outbid to be heard.
            if about.generation > self.generation {
                self.rebirth(about.generation, now);
            }
        } else if let Some(server) = self.server_of(about)
            && about.generation >= self.view.get(server).generation
        {
            self.view.heard_of(server, about.generation);
            self.open_case(server, CaseCause::Ballot, now);
        }
    }

    pub(super) fn on_unreachable(&mut self, addr: std::net::SocketAddr, now: Time) {
        let subject = self.config.servers.with_addr(addr).filter(|server| *server != self.config.me);
        if let Some(server) = subject
            && self.view.is_up(server)
        {
            self.open_case(server, CaseCause::PortUnreachable, now);
        }
    }

    /// Voters with a standing Down ballot about the newest generation of `server`.
    pub(super) fn standing(&self, server: usize, now: Time) -> Vec<(usize, u64)> {
        let generation = self.view.get(server).generation;
        let validity = self.config.timing.window() * 3;
        self.ballots
            .standing(server, generation, now, validity)
            .filter(|(voter, _)| *voter != server)
            .collect()
    }

    fn look_for_verdict(&mut self, server: usize, now: Time) {
        if !matches!(self.view.get(server).life, Life::Up | Life::Unknown) {
            return;
        }
        let standing = self.standing(server, now);
        let twice = if planted(Bug::BallotCountsTwice) { 2 } else { 1 };
        let quorum = if planted(Bug::QuorumOfTheLiving) {
            quorum::majority(self.up_voters(server).len() + 1)
        } else {
            self.config.quorum
        };
        if !quorum::is_verdict(standing.len() * twice, quorum) {
            return;
        }
        let ids =
            standing.into_iter().map(|(voter, generation)| (self.config.servers[voter].short.0, generation));
        let verdict = Verdict {
            electorate: self.electorate,
            about: self.about(server),
            ballots: evidence(ids),
            ack: true,
        };
        self.accept_verdict(server, verdict, now);
    }

    /// True when a verdict carries what a verdict needs: a quorum of distinct voters of this electorate, or of one that
    /// this node worked with before. A verdict is never undone for its generation, so a change of who votes does not
    /// undo it either: who was away meanwhile has to hear of it all the same.
    pub(super) fn is_valid(&self, verdict: &Verdict) -> bool {
        let electorate = if verdict.electorate == self.electorate {
            Some(Electorate::of(&self.config))
        } else {
            self.adoption.former(verdict.electorate).cloned()
        };
        let Some(Electorate { voters, quorum }) = electorate else { return false };
        let ballots = verdict.ballots.iter().map(|ballot| ShortId(ballot.id));
        let cast: BTreeSet<_> = ballots.filter(|voter| voters.contains(voter)).collect();
        quorum::is_verdict(cast.len(), quorum)
            && self.server_of(verdict.about).is_some()
            && !cast.contains(&ShortId(verdict.about.id))
    }

    /// Whether this is who votes now, or voted before in this life.
    pub(super) fn knows_electorate(&self, electorate: u32) -> bool {
        electorate == self.electorate || self.adoption.former(electorate).is_some()
    }

    /// Ends a case without a word: the subject is down, left or replaced.
    pub(super) fn drop_case(&mut self, server: usize) {
        if self.cases.remove(&server).is_some() {
            self.reach_changed();
        }
        self.timers.cancel(Timer::Case(server));
        self.ballots.forget(server);
    }

    /// Contact pings that accompany each ping to the subject, so that within one window every other
    /// voter is reached twice over, and the loss of the window itself is seen.
    fn contacts_per_turn(&self) -> u32 {
        let wanted = u32::try_from(2 * self.config.quorum.saturating_sub(1)).unwrap_or(u32::MAX);
        wanted.div_ceil(self.config.timing.case_pings).max(1)
    }

    fn contact_candidates(&self, subject: usize) -> Vec<usize> {
        let up = self.up_voters(subject);
        // Whoever is examined as well says little about the network, unless nobody else is left.
        let calm: Vec<_> = up.iter().copied().filter(|voter| !self.cases.contains_key(voter)).collect();
        if quorum::has_contact(calm.len(), self.config.quorum) {
            return calm;
        }
        up.into_iter().filter(|voter| self.is_heard(*voter)).collect()
    }

    fn up_voters(&self, but: usize) -> Vec<usize> {
        let me = self.config.me;
        let voters = self.config.voters.iter().copied();
        voters.filter(|voter| *voter != me && *voter != but && self.view.is_up(*voter)).collect()
    }

    /// True while another case may become a verdict soon: placement waits for it.
    pub(super) fn others_near_verdict(&self, now: Time) -> bool {
        self.cases.keys().any(|server| !self.standing(*server, now).is_empty())
    }

    /// How long placement waits for other cases at most.
    pub(super) fn settle_time(&self) -> Duration {
        self.config.timing.settle
    }
}
