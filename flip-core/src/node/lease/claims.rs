//! Claims, grants and releases, item by item (rules R1, R2 and R8).

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;

use super::super::{Node, Timer};
use super::{EAGER, RELEASES, Wish};
use crate::event::ItemState;
use crate::id::ItemId;
use crate::lease::{Answer, Decision};
use crate::limits;
use crate::time::Time;
use crate::wire::message::{Claim, Grant, Message, Release as Released};

impl Node {
    /// The former holder says that it holds the item no more: it is worth claiming at once.
    pub(in crate::node) fn claim_soon(&mut self, id: ItemId, now: Time) {
        let Some(at) = self.leases.row.find(id) else { return };
        if let Some(wish) = self.leases.wishes.get_mut(&at) {
            wish.next = now;
            wish.eager = 4;
            self.timers.set(Timer::Lease, now);
        }
    }

    /// Tells that an item is gone from here: to voters that its claim is over, to its holder that it is to be
    /// announced once more (K4). What was not claimed has the counter 0, which no claim has.
    pub(in crate::node) fn say_released(&mut self, id: ItemId, counter: u32, now: Time) {
        match self.leases.releases.last_mut() {
            Some((items, RELEASES)) if items.len() < limits::CLAIMS_PER_DATAGRAM => {
                items.push((id.0, counter))
            }
            _ => self.leases.releases.push((vec![(id.0, counter)], RELEASES)),
        }
        self.timers.set_earlier(Timer::Lease, now + self.leases.step());
    }

    /// What was given up by this input is said with what else it has to say.
    pub(in crate::node) fn say_new_releases(&mut self) {
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

    pub(super) fn say_releases(&mut self) {
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

    pub(super) fn say_claims(&mut self, now: Time) {
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
        let lease_ms = self.leases.lease_ms();
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

    pub(super) fn claim_own(&mut self, items: &[usize], now: Time) {
        let me = self.config.me;
        for at in items {
            let Some(epoch) = self.leases.holder.epoch(*at) else { continue };
            let id = self.leases.row.id(*at);
            let decision = self.leases.voter.claim((*at, id), me, epoch, self.leases.lease, now);
            let (answer, refuses) = match decision {
                Decision::Granted => (Answer::Granted, None),
                Decision::Refused(wait) => (Answer::Refused, Some(wait)),
                Decision::Stale => (Answer::Refused, None),
            };
            self.memory.answered(id, self.config.servers[me].short, refuses, now);
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

    /// A claim arrives at this voter.
    pub(in crate::node) fn on_claim(&mut self, from: usize, claim: &Claim, now: Time) {
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
                Decision::Granted => {
                    self.tally.leases.granted += 1;
                    grant.granted.push((*id, *counter));
                }
                Decision::Refused(wait) => {
                    self.tally.leases.refused += 1;
                    let wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
                    grant.refused.push((*id, *counter, wait));
                }
                Decision::Stale => {}
            }
        }
        self.send(from, &Message::Grant(grant));
    }

    /// A voter answers a claim of this node.
    pub(in crate::node) fn on_grant(&mut self, voter: usize, grant: &Grant, now: Time) {
        if grant.session != self.leases.holder.session() {
            return;
        }
        self.leases.renewals.entry(voter).or_default().claimed = None;
        let sent = Time::from_nanos(grant.sent);
        for (id, counter) in &grant.granted {
            if let Some(at) = self.leases.row.find(ItemId(*id)) {
                self.leases.holder.answered(voter, (at, ItemId(*id)), *counter, sent, Answer::Granted, now);
                self.note_grant(at, Answer::Granted, now);
                self.memory.answered(ItemId(*id), self.config.servers[voter].short, None, now);
                self.tally.leases.got += 1;
            }
        }
        let most = self.leases.lease / 16;
        for (id, counter, wait) in &grant.refused {
            let Some(at) = self.leases.row.find(ItemId(*id)) else { continue };
            self.leases.holder.answered(voter, (at, ItemId(*id)), *counter, sent, Answer::Refused, now);
            self.tally.leases.denied += 1;
            let refuses = Some(Duration::from_millis(u64::from(*wait)));
            self.memory.answered(ItemId(*id), self.config.servers[voter].short, refuses, now);
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

    pub(in crate::node) fn on_release(&mut self, from: usize, release: &Released, now: Time) {
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
}
