//! Leases at work: claims and renewals in messages that leave anyway, lifetimes that the kernel gets, and
//! the end of what may no longer be held.
//!
//! ```text
//!            wanted, quorum seen         grants of a quorum
//!   free ───────────────────────▶ claimed ─────────────▶ leased ──▶ alive hook
//!    ▲                              │ split vote, or        │ renewed by digest, all items at once
//!    │ release ◀────────────────────┘ not wanted            ▼ deadline near, or not wanted
//!    └───────────────────────────────────────────────── down hook ended
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;

use super::{Node, Timer};
use crate::config::{Config, Isolated, Release};
use crate::event::{Event, ItemState, Reason};
use crate::id::{ItemId, ItemRef};
use crate::io::{HookAction, Lifetime, Output, RefreshCall};
use crate::lease::{Answer, Decision, Holder, KERNEL_LATENESS, Row, Voter, lifetime};
use crate::limits;
use crate::planted::{Bug, planted};
use crate::quorum;
use crate::time::Time;
use crate::wire::message::{Claim, Grant, Message, Release as Released, Renew, Renewed};

/// How often a release is said. One that is lost all the same costs a lease's length, nothing else.
const RELEASES: u32 = 3;
/// The pace of claims on what was just released.
const EAGER: Duration = Duration::from_millis(5);
/// With more items than this, addresses are refreshed as seldom as their lifetime allows: the kernel
/// walks all of an interface's IPv6 addresses for each.
const MANY: usize = 200;

/// All that a node knows of leases.
pub(super) struct Leases {
    pub(super) row: Row,
    voter: Voter,
    holder: Holder,
    wishes: BTreeMap<usize, Wish>,
    renewals: BTreeMap<usize, Renewal>,
    /// Voters to which all claims must be said again.
    disagree: BTreeSet<usize>,
    releases: Vec<(Vec<(u64, u32)>, u32)>,
    /// How long the kernel keeps each item by itself.
    kernel: Vec<Option<Kept>>,
    /// Items whose lease was announced as held.
    held: BTreeSet<usize>,
    /// When the first item must be given up, as far as was known at the last turn.
    ends: Option<Time>,
    refreshes: BTreeMap<u64, RefreshCall>,
    next_refresh: u64,
    lease: Duration,
    /// Some item needs a lease, or has an address with a lifetime.
    used: bool,
}

/// A claim that is not granted by everybody yet.
#[derive(Clone, Copy, Debug)]
struct Wish {
    /// When the first voter granted it.
    granted: Option<Time>,
    /// When it is said again.
    next: Time,
    /// How often it is said at a quick pace: the former holder has let go, and its word may reach a voter
    /// after the claim.
    eager: u32,
}

impl Wish {
    const fn new(next: Time) -> Self {
        Self { granted: None, next, eager: 0 }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Renewal {
    sent: Option<Time>,
    /// When the newest acknowledged one was sent.
    done: Option<Time>,
    unanswered: u32,
    /// Claims were sent to this voter and not answered yet: a renewal now would name less than it has.
    claimed: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Forever,
    Until(Time),
}

impl Leases {
    pub(super) fn new(config: &Config, session: u64, now: Time) -> Self {
        let row = Row::new(config);
        let items = row.len();
        let needed = config.quorum.max(quorum::majority(config.voters.len()));
        let used = config.systems.iter().any(|system| {
            system.release == Release::Kernel && system.orphan.is_some() && !system.items.is_empty()
                || system.items.iter().any(|item| item.isolated == Isolated::Drop)
        });
        Self {
            voter: Voter::new(items, config.lease, now),
            holder: Holder::new(items, &config.voters, needed, config.lease, session),
            wishes: BTreeMap::new(),
            renewals: BTreeMap::new(),
            disagree: BTreeSet::new(),
            releases: Vec::new(),
            kernel: vec![None; items],
            held: BTreeSet::new(),
            ends: None,
            refreshes: BTreeMap::new(),
            next_refresh: 1,
            lease: config.lease,
            used,
            row,
        }
    }

    /// The pace of claims and of what is repeated.
    fn step(&self) -> Duration {
        self.lease / 32
    }
}

impl Node {
    pub(super) fn isolated(&self, at: ItemRef) -> Isolated {
        self.config.systems[at.system].items[at.item].isolated
    }

    fn released_by_kernel(&self, at: ItemRef) -> bool {
        self.config.systems[at.system].release == Release::Kernel
    }

    /// Until when an item may be held: as its lease says.
    pub(super) fn lease_deadline(&self, at: ItemRef) -> Option<Time> {
        self.leases.holder.deadline(self.leases.row.at(at))
    }

    /// How long before its deadline an item is given up. What the kernel removes by itself needs only the
    /// call; a down hook needs time to end (rule R10).
    fn stop_budget(&self, at: ItemRef) -> Duration {
        if self.released_by_kernel(at) { self.leases.lease / 16 } else { self.leases.lease / 3 }
    }

    /// Whether an item may be here now, by its lease if it needs one.
    pub(super) fn may_hold(&self, at: ItemRef, now: Time) -> bool {
        self.isolated(at) != Isolated::Drop
            || self.lease_deadline(at).is_some_and(|deadline| now + self.stop_budget(at) < deadline)
    }

    /// Whether an item may be brought up now: there must be time to use it.
    pub(super) fn may_take(&self, at: ItemRef, now: Time) -> bool {
        self.may_hold(at, now) && self.hook_lifetime(at, now).is_some()
    }

    /// The lifetime for an alive hook; none when the lease is too short for one.
    pub(super) fn hook_lifetime(&self, at: ItemRef, now: Time) -> Option<Lifetime> {
        if !self.released_by_kernel(at) {
            return Some(Lifetime::ENDLESS);
        }
        if self.isolated(at) == Isolated::Drop && !planted(Bug::PermanentAddress) {
            return lifetime(self.lease_deadline(at)?, now);
        }
        Some(match self.orphan(at) {
            Some(seconds) => Lifetime { seconds, latest: None },
            None => Lifetime::ENDLESS,
        })
    }

    /// How long an address outlives this daemon: finite only while somebody else could take it over
    /// (rules K1 and K5).
    fn orphan(&self, at: ItemRef) -> Option<u32> {
        let orphan = self.config.systems[at.system].orphan?;
        let other = self.others().any(|server| {
            self.config.servers[server].systems.contains(&at.system) && self.view.is_up(server)
        });
        (other && self.has_quorum).then(|| u32::try_from(orphan.as_secs()).unwrap_or(Lifetime::FOREVER - 1))
    }

    /// Remembers what the kernel was told.
    pub(super) fn note_lifetime(&mut self, at: ItemRef, given: Lifetime, now: Time) {
        let kept = match given.seconds {
            Lifetime::FOREVER => Kept::Forever,
            seconds => Kept::Until(now + Duration::from_secs(u64::from(seconds))),
        };
        let at = self.leases.row.at(at);
        self.leases.kernel[at] = Some(kept);
        self.timers.set_earlier(Timer::Lease, now + self.leases.step());
    }

    /// Wants an item: claims it unless that was done. True when it may be taken now.
    pub(super) fn want_lease(&mut self, at: ItemRef, now: Time) -> bool {
        let position = self.leases.row.at(at);
        if self.leases.holder.epoch(position).is_none() {
            if self.leases.wishes.get(&position).is_some_and(|wish| wish.next > now) {
                return false;
            }
            self.leases.holder.claim(position);
            self.leases.wishes.insert(position, Wish::new(now));
            self.timers.set(Timer::Lease, now);
        }
        self.may_take(at, now)
    }

    /// The former holder says that it holds the item no more: it is worth claiming at once.
    pub(super) fn claim_soon(&mut self, id: ItemId, now: Time) {
        let Some(at) = self.leases.row.find(id) else { return };
        if let Some(wish) = self.leases.wishes.get_mut(&at) {
            wish.next = now;
            wish.eager = 4;
            self.timers.set(Timer::Lease, now);
        }
    }

    /// The item is gone from here, or was never taken: the claim is over (rule R8).
    pub(super) fn release_lease(&mut self, at: ItemRef, now: Time) {
        let position = self.leases.row.at(at);
        let id = self.leases.row.id(position);
        self.leases.wishes.remove(&position);
        self.leases.kernel[position] = None;
        self.note_held(position, false);
        let Some(epoch) = self.leases.holder.give_up(position, id) else { return };
        self.leases.voter.release((position, id), self.config.me, epoch);
        self.say_released(id, epoch.counter, now);
    }

    /// Tells that an item is gone from here: to voters that its claim is over, to its holder that it is to be
    /// announced once more (K4). What was not claimed has the counter 0, which no claim has.
    pub(super) fn say_released(&mut self, id: ItemId, counter: u32, now: Time) {
        match self.leases.releases.last_mut() {
            Some((items, RELEASES)) if items.len() < limits::CLAIMS_PER_DATAGRAM => {
                items.push((id.0, counter))
            }
            _ => self.leases.releases.push((vec![(id.0, counter)], RELEASES)),
        }
        self.timers.set_earlier(Timer::Lease, now + self.leases.step());
    }

    /// What was given up by this input is said with what else it has to say.
    pub(super) fn say_new_releases(&mut self) {
        if self.leases.releases.last().is_some_and(|(_, left)| *left == RELEASES) {
            self.say_releases();
        }
    }

    /// Who is told that these items are gone: the voters, and their holders.
    fn told_of(&self, items: &[(u64, u32)]) -> BTreeSet<usize> {
        let holders = items.iter().filter_map(|(id, _)| self.leases.row.find(ItemId(*id)));
        let holders = holders.flat_map(|at| self.holders_now(self.leases.row.item(at)).iter().copied());
        let voters = items.iter().any(|(_, counter)| *counter > 0).then(|| self.other_voters());
        holders.filter(|holder| *holder != self.config.me).chain(voters.into_iter().flatten()).collect()
    }

    fn other_voters(&self) -> Vec<usize> {
        let me = self.config.me;
        self.config.voters.iter().copied().filter(|voter| *voter != me).collect()
    }

    /// One turn: claims, renewals, releases, lifetimes.
    pub(super) fn lease_turn(&mut self, now: Time) {
        if !self.leases.used && self.leases.releases.is_empty() {
            return;
        }
        self.say_releases();
        self.say_claims(now);
        self.renew_own(now);
        for voter in self.other_voters() {
            if self.renewal_due(voter, now) {
                self.renew(voter, now);
            }
        }
        self.check_leases(now);
        self.refresh_addresses(now);
        let busy = self.leases.holder.count() > 0
            || !self.leases.releases.is_empty()
            || self.leases.kernel.iter().any(Option::is_some);
        if busy {
            let next = self.leases.wishes.values().map(|wish| wish.next).filter(|next| *next > now).min();
            let step = now + self.leases.step();
            self.timers.set_earlier(Timer::Lease, next.map_or(step, |next| next.min(step)));
        }
    }

    fn say_releases(&mut self) {
        let session = self.leases.holder.session();
        let releases = std::mem::take(&mut self.leases.releases);
        for (items, left) in &releases {
            for voter in self.told_of(items) {
                self.send(voter, &Message::Release(Released { session, items: items.clone() }));
            }
            if *left > 1 {
                self.leases.releases.push((items.clone(), left - 1));
            }
        }
    }

    fn say_claims(&mut self, now: Time) {
        self.end_split_votes(now);
        let due: Vec<_> = self
            .leases
            .wishes
            .iter()
            .filter(|(at, wish)| wish.next <= now && self.leases.holder.epoch(**at).is_some())
            .map(|(at, _)| *at)
            .collect();
        let step = self.leases.step();
        for at in &due {
            if let Some(wish) = self.leases.wishes.get_mut(at) {
                wish.next = now + if wish.eager > 0 { EAGER } else { step };
                wish.eager = wish.eager.saturating_sub(1);
            }
        }
        let again: Vec<_> =
            if self.leases.disagree.is_empty() { Vec::new() } else { self.leases.holder.claimed().collect() };
        for voter in std::mem::take(&mut self.leases.disagree) {
            self.claim_from(voter, &again, now);
        }
        if due.is_empty() {
            return;
        }
        let me = self.config.me;
        for voter in self.config.voters.clone() {
            let missing: Vec<_> =
                due.iter().copied().filter(|at| !self.leases.holder.has(voter, *at)).collect();
            if voter == me {
                self.claim_own(&missing, now);
            } else {
                self.claim_from(voter, &missing, now);
            }
        }
        // What everybody granted needs no more claims; what a quorum granted, few.
        let voters = self.config.voters.clone();
        let rare = self.leases.lease / 4;
        let holder = &self.leases.holder;
        self.leases.wishes.retain(|at, _| !voters.iter().all(|voter| holder.has(*voter, *at)));
        for (at, wish) in &mut self.leases.wishes {
            if holder.deadline(*at).is_some_and(|deadline| deadline > now) && wish.next > now {
                wish.next = wish.next.max(now + rare);
            }
        }
    }

    fn claim_from(&mut self, voter: usize, items: &[usize], now: Time) {
        let session = self.leases.holder.session();
        let lease_ms = u32::try_from(self.leases.lease.as_millis()).unwrap_or(u32::MAX);
        let entry = |at: &usize| {
            let epoch = self.leases.holder.epoch(*at)?;
            Some((self.leases.row.id(*at).0, epoch.counter))
        };
        let items: Vec<_> = items.iter().filter_map(entry).collect();
        if items.is_empty() {
            return;
        }
        for part in items.chunks(limits::CLAIMS_PER_DATAGRAM) {
            let claim = Claim {
                electorate: self.electorate,
                session,
                sent: now.as_nanos(),
                lease_ms,
                items: part.to_vec(),
            };
            self.send(voter, &Message::Claim(claim));
        }
        self.leases.renewals.entry(voter).or_default().claimed = Some(now);
    }

    fn claim_own(&mut self, items: &[usize], now: Time) {
        let me = self.config.me;
        for at in items {
            let Some(epoch) = self.leases.holder.epoch(*at) else { continue };
            let id = self.leases.row.id(*at);
            let answer = match self.leases.voter.claim((*at, id), me, epoch, self.leases.lease, now) {
                Decision::Granted => Answer::Granted,
                Decision::Refused(_) | Decision::Stale => Answer::Refused,
            };
            self.leases.holder.answered(me, (*at, id), epoch.counter, now, answer, now);
            self.note_grant(*at, answer, now);
        }
        self.items.touch();
    }

    fn note_grant(&mut self, at: usize, answer: Answer, now: Time) {
        if answer == Answer::Granted
            && let Some(wish) = self.leases.wishes.get_mut(&at)
        {
            wish.granted.get_or_insert(now);
        }
    }

    /// Two nodes that each got some of the grants, but neither a quorum, both let go and try again at
    /// different times.
    fn end_split_votes(&mut self, now: Time) {
        let patience = self.leases.lease / 4;
        let split: Vec<_> = self
            .leases
            .wishes
            .iter()
            .filter(|(at, wish)| {
                wish.granted.is_some_and(|since| now.since(since) > patience)
                    && self.leases.kernel[**at].is_none()
                    && self.leases.holder.epoch(**at).is_some()
                    && self.leases.holder.deadline(**at).is_none_or(|deadline| deadline <= now)
                    && self.item_state(self.leases.row.item(**at)).0 == ItemState::Standby
            })
            .map(|(at, _)| *at)
            .collect();
        for at in split {
            let item = self.leases.row.item(at);
            self.release_lease(item, now);
            let pause = Duration::from_millis(self.rng.random_range(0..500));
            self.leases.wishes.insert(at, Wish::new(now + pause));
            self.timers.set(Timer::Item(item), now + pause);
        }
    }

    fn renew_own(&mut self, now: Time) {
        let me = self.config.me;
        let Some(digest) = self.leases.holder.digest(me) else { return };
        let row = &self.leases.row;
        if self.leases.voter.renew(me, digest, self.leases.lease, |at| row.id(at), now) {
            self.leases.holder.renewed(me, now, now);
        } else {
            let claimed: Vec<_> = self.leases.holder.claimed().collect();
            self.claim_own(&claimed, now);
        }
    }

    fn renewal_due(&self, voter: usize, now: Time) -> bool {
        self.renewal_is_older(voter, self.leases.lease / 8, now)
    }

    /// Whether the newest renewal is older than `pause`, or was not answered for a step.
    fn renewal_is_older(&self, voter: usize, pause: Duration, now: Time) -> bool {
        if self.leases.holder.digest(voter).is_none() {
            return false;
        }
        let Some(renewal) = self.leases.renewals.get(&voter) else { return true };
        if renewal.claimed.is_some_and(|at| now.since(at) < 2 * self.leases.step()) {
            return false;
        }
        let Some(sent) = renewal.sent else { return true };
        let answered = renewal.done.is_some_and(|done| done >= sent);
        let eager = !answered && renewal.unanswered < 16 && self.view.is_up(voter);
        now.since(sent) >= if eager { self.leases.step() } else { pause }
    }

    /// Something is about to be sent to this server: a renewal that is nearly due goes along.
    pub(super) fn renew_along(&mut self, to: usize, now: Time) {
        if self.leases.holder.count() > 0
            && self.config.voters.binary_search(&to).is_ok()
            && self.renewal_is_older(to, self.leases.lease / 16, now)
        {
            self.renew(to, now);
        }
    }

    fn renew(&mut self, voter: usize, now: Time) {
        let Some(digest) = self.leases.holder.digest(voter) else { return };
        let renewal = self.leases.renewals.entry(voter).or_default();
        let answered = renewal.sent.is_none_or(|sent| renewal.done.is_some_and(|done| done >= sent));
        renewal.unanswered = if answered { 0 } else { renewal.unanswered.saturating_add(1) };
        renewal.sent = Some(now);
        let renew = Renew {
            electorate: self.electorate,
            session: self.leases.holder.session(),
            sent: now.as_nanos(),
            lease_ms: u32::try_from(self.leases.lease.as_millis()).unwrap_or(u32::MAX),
            digest,
        };
        self.send(voter, &Message::Renew(renew));
    }

    /// A claim arrives at this voter.
    pub(super) fn on_claim(&mut self, from: usize, claim: &Claim, now: Time) {
        if claim.electorate != self.electorate {
            self.note_difference(from);
            return;
        }
        if !self.is_voter() || claim.items.len() > limits::CLAIMS_PER_DATAGRAM {
            return;
        }
        let lease = Duration::from_millis(u64::from(claim.lease_ms)).min(limits::LEASE_MAX);
        let mut grant =
            Grant { session: claim.session, sent: claim.sent, granted: Vec::new(), refused: Vec::new() };
        for (id, counter) in &claim.items {
            let Some(at) = self.leases.row.find(ItemId(*id)) else { continue };
            let epoch = crate::lease::Epoch { session: claim.session, counter: *counter };
            match self.leases.voter.claim((at, ItemId(*id)), from, epoch, lease, now) {
                Decision::Granted => grant.granted.push((*id, *counter)),
                Decision::Refused(wait) => {
                    let wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
                    grant.refused.push((*id, *counter, wait));
                }
                Decision::Stale => {}
            }
        }
        self.send(from, &Message::Grant(grant));
    }

    /// A voter answers a claim of this node.
    pub(super) fn on_grant(&mut self, voter: usize, grant: &Grant, now: Time) {
        if grant.session != self.leases.holder.session() {
            return;
        }
        self.leases.renewals.entry(voter).or_default().claimed = None;
        let sent = Time::from_nanos(grant.sent);
        for (id, counter) in &grant.granted {
            if let Some(at) = self.leases.row.find(ItemId(*id)) {
                self.leases.holder.answered(voter, (at, ItemId(*id)), *counter, sent, Answer::Granted, now);
                self.note_grant(at, Answer::Granted, now);
            }
        }
        let most = self.leases.lease / 16;
        for (id, counter, wait) in &grant.refused {
            let Some(at) = self.leases.row.find(ItemId(*id)) else { continue };
            self.leases.holder.answered(voter, (at, ItemId(*id)), *counter, sent, Answer::Refused, now);
            if self.leases.holder.epoch(at).is_some() {
                let pause = Duration::from_millis(u64::from(*wait)).min(most);
                let again = now + pause;
                let wish = self.leases.wishes.entry(at).or_insert(Wish::new(again));
                if wish.eager == 0 {
                    wish.next = wish.next.max(again);
                }
                self.timers.set_earlier(Timer::Lease, wish.next);
            }
        }
        self.items.touch();
    }

    /// A renewal arrives at this voter.
    pub(super) fn on_renew(&mut self, from: usize, renew: &Renew, now: Time) {
        if renew.electorate != self.electorate {
            self.note_difference(from);
            return;
        }
        if !self.is_voter() {
            return;
        }
        let lease = Duration::from_millis(u64::from(renew.lease_ms)).min(limits::LEASE_MAX);
        let row = &self.leases.row;
        let done = self.leases.voter.renew(from, renew.digest, lease, |at| row.id(at), now);
        self.send(from, &Message::Renewed(Renewed { session: renew.session, sent: renew.sent, done }));
    }

    /// A voter answers a renewal of this node.
    pub(super) fn on_renewed(&mut self, voter: usize, renewed: Renewed, now: Time) {
        if renewed.session != self.leases.holder.session() {
            return;
        }
        let sent = Time::from_nanos(renewed.sent);
        let renewal = self.leases.renewals.entry(voter).or_default();
        if sent <= now {
            renewal.done = renewal.done.max(Some(sent));
        }
        if renewed.done {
            self.leases.holder.renewed(voter, sent, now);
        } else if self.leases.disagree.insert(voter) {
            let pause = self.leases.step();
            self.timers.set_earlier(Timer::Lease, now + pause);
        }
    }

    pub(super) fn on_release(&mut self, from: usize, release: &Released, now: Time) {
        for (id, counter) in &release.items {
            if let Some(at) = self.leases.row.find(ItemId(*id)) {
                let epoch = crate::lease::Epoch { session: release.session, counter: *counter };
                if *counter > 0 {
                    self.leases.voter.release((at, ItemId(*id)), from, epoch);
                    self.claim_soon(ItemId(*id), now);
                }
                self.reannounce(ItemId(*id), now);
            }
        }
    }

    /// Compares now with every deadline. Comes before anything else that an input brings (R8): whoever
    /// was stopped must not act on what it believed before.
    pub(super) fn check_leases(&mut self, now: Time) {
        let mut ends: Option<Time> = None;
        let claimed: Vec<_> = self.leases.holder.claimed().collect();
        for position in claimed {
            let at = self.leases.row.item(position);
            let may = self.may_hold(at, now);
            self.note_held(position, may);
            let state = self.item_state(at).0;
            if !matches!(state, ItemState::Active | ItemState::Acquiring) {
                continue;
            }
            if may {
                let end = self.lease_deadline(at).map(|deadline| deadline - self.stop_budget(at));
                ends = [ends, end].into_iter().flatten().min();
            } else {
                self.items.touch();
                if let Some((hook, HookAction::Alive)) = self.items.running(at) {
                    self.outputs.push_back(Output::Cancel { hook });
                }
            }
        }
        self.leases.ends = ends;
        if let Some(ends) = ends {
            self.timers.set_earlier(Timer::Lease, ends);
        }
    }

    /// The first thing that happens with every input. True when there was something to look at.
    pub(super) fn check_leases_in_time(&mut self, now: Time) -> bool {
        let ended = self.leases.ends.is_some_and(|ends| ends <= now) && !planted(Bug::NoDeadlineCheck);
        if ended {
            self.check_leases(now);
        }
        ended
    }

    fn note_held(&mut self, position: usize, held: bool) {
        let changed =
            if held { self.leases.held.insert(position) } else { self.leases.held.remove(&position) };
        if changed {
            let item = self.leases.row.item(position);
            self.event(Event::Lease { item, held });
        }
    }

    /// The kernel's timers stood still while the machine slept: what it would keep too long goes now
    /// (R7).
    pub(super) fn on_suspended(&mut self, by: Duration, now: Time) {
        self.event(Event::Suspended { by });
        if planted(Bug::NoSuspendCheck) {
            return;
        }
        for position in 0..self.leases.kernel.len() {
            let Some(Kept::Until(until)) = self.leases.kernel[position] else { continue };
            let until = until + by;
            self.leases.kernel[position] = Some(Kept::Until(until));
            let at = self.leases.row.item(position);
            if self.isolated(at) == Isolated::Drop
                && self.lease_deadline(at).is_none_or(|deadline| until + KERNEL_LATENESS > deadline)
            {
                self.drop_now(at, Reason::LeaseLost, now);
            }
        }
        self.check_leases(now);
    }

    /// Gives the kernel new lifetimes for what is here: by the lease, or so that an orphan ends.
    fn refresh_addresses(&mut self, now: Time) {
        let mut due: Vec<(Option<Time>, ItemRef, Lifetime)> = Vec::new();
        let mut here = 0;
        let many = self.leases.holder.count() > MANY;
        let least = if many { Duration::from_millis(900) } else { self.leases.step() };
        for position in 0..self.leases.kernel.len() {
            let Some(kept) = self.leases.kernel[position] else { continue };
            let at = self.leases.row.item(position);
            if self.item_state(at).0 != ItemState::Active {
                continue;
            }
            let Some(wanted) = self.hook_lifetime(at, now) else { continue };
            here += 1;
            let is_due = match (kept, wanted.seconds) {
                (Kept::Forever, Lifetime::FOREVER) => false,
                (Kept::Forever, _) | (Kept::Until(_), Lifetime::FOREVER) => true,
                (Kept::Until(until), seconds) => {
                    let full = Duration::from_secs(u64::from(seconds));
                    let least = if wanted.latest.is_some() { least } else { full / 3 };
                    now + full >= until + least
                }
            };
            if is_due {
                let until = match kept {
                    Kept::Forever => None,
                    Kept::Until(until) => Some(until),
                };
                due.push((until, at, wanted));
            }
        }
        // A long row of system calls would hold up everything else: those that end first come first.
        due.sort_by_key(|(until, at, _)| (until.is_none(), *until, *at));
        due.truncate((here / 6).max(2 * limits::REFRESHED_AT_ONCE));
        let mut calls: BTreeMap<(usize, u32, Option<Time>), Vec<usize>> = BTreeMap::new();
        for (_, at, wanted) in due {
            calls.entry((at.system, wanted.seconds, wanted.latest)).or_default().push(at.item);
        }
        for ((system, seconds, latest), items) in calls {
            for part in items.chunks(limits::REFRESHED_AT_ONCE) {
                self.refresh(system, part, Lifetime { seconds, latest }, now);
            }
        }
    }

    fn refresh(&mut self, system: usize, items: &[usize], lifetime: Lifetime, now: Time) {
        for item in items {
            self.note_lifetime(ItemRef { system, item: *item }, lifetime, now);
        }
        let id = self.leases.next_refresh;
        self.leases.next_refresh += 1;
        let call = RefreshCall { id, system, items: items.to_vec(), lifetime };
        self.leases.refreshes.insert(id, call.clone());
        self.outputs.push_back(Output::Refresh(call));
    }

    /// Some of the refreshed items are gone: by the kernel, whose timer was faster, or because the
    /// lifetime came too late (R6). If the lease allows it they are brought back.
    pub(super) fn on_refreshed(&mut self, id: u64, gone: &[usize], now: Time) {
        let Some(call) = self.leases.refreshes.remove(&id) else { return };
        for item in gone.iter().filter(|item| call.items.contains(item)) {
            let at = ItemRef { system: call.system, item: *item };
            self.leases.kernel[self.leases.row.at(at)] = None;
            self.on_observed(at, false, now);
        }
    }
}
