//! The voter's side: what it has promised to whom.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Epoch, promise, quarantine};
use crate::id::ItemId;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::{Translation, arrange};

/// All promises of one voter. Items are positions in a [`super::Row`], nodes are positions of servers.
#[derive(Debug)]
pub struct Voter {
    /// Nothing is promised before (R4).
    silent_until: Time,
    /// Nothing new is promised before, because others vote than before (R9).
    nothing_new_until: Time,
    promises: Vec<Option<Promise>>,
    /// The newest release of each item, so that a claim from before it, arriving late, is not granted.
    released: Vec<Option<(usize, Epoch)>>,
    sets: BTreeMap<usize, Set>,
}

#[derive(Clone, Copy, Debug)]
struct Promise {
    to: usize,
    epoch: Epoch,
    until: Time,
}

/// What is promised to one node as a whole.
#[derive(Clone, Copy, Debug, Default)]
struct Set {
    /// Sum of the digests of its claims.
    digest: u64,
    /// By renewals of all of them.
    until: Time,
}

/// What a voter says to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The item is promised to the claimant.
    Granted,
    /// It is promised to another, or this voter promises nothing yet; asking before this has passed is
    /// in vain.
    Refused(Duration),
    /// The claim is older than what this voter knows of the same process: no answer.
    Stale,
}

impl Voter {
    /// A voter that has just started and may have forgotten promises: `items` items, leases of `lease`.
    #[must_use]
    pub fn new(items: usize, lease: Duration, now: Time) -> Self {
        Self {
            silent_until: if planted(Bug::NoQuarantine) { now } else { now + quarantine(lease) },
            nothing_new_until: Time::ZERO,
            promises: vec![None; items],
            released: vec![None; items],
            sets: BTreeMap::new(),
        }
    }

    /// Goes on under another config, with `items` items, of which `at` says where each is now and `id` what it
    /// was. What is promised for an item or to a server that is gone must be over.
    pub fn translate(
        &mut self,
        to: &Translation,
        (items, at): (usize, &impl Fn(usize) -> Option<usize>),
        id: impl Fn(usize) -> ItemId,
    ) {
        for before in 0..self.promises.len() {
            let gone = self.promises[before].is_some_and(|promised| to.server(promised.to).is_none());
            if at(before).is_none() || gone {
                self.forget(before, id(before));
            }
        }
        let promises = std::mem::take(&mut self.promises).into_iter().enumerate();
        let promises = promises.filter_map(|(before, promised)| {
            let promised = promised.and_then(|p| Some(Promise { to: to.server(p.to)?, ..p }));
            Some((at(before)?, promised))
        });
        self.promises = arrange(items, promises, || None);
        let released = std::mem::take(&mut self.released).into_iter().enumerate();
        let released = released.filter_map(|(before, released)| {
            let released = released.and_then(|(by, epoch)| Some((to.server(by)?, epoch)));
            Some((at(before)?, released))
        });
        self.released = arrange(items, released, || None);
        to.by_server(&mut self.sets);
    }

    /// Others vote now than before: whoever got promises of a quorum that was may go on with what it has, and
    /// nobody gets a new one before all those are over (R9).
    pub fn electorate_changed(&mut self, lease: Duration, now: Time) {
        self.nothing_new_until = self.nothing_new_until.max(now + quarantine(lease));
    }

    /// Whether anything is promised to a node now.
    #[must_use]
    pub fn owes(&self, to: usize, now: Time) -> bool {
        self.promises.iter().flatten().any(|promised| promised.to == to && now < self.until(promised))
    }

    /// How much longer nothing is promised.
    #[must_use]
    pub fn silent_for(&self, now: Time) -> Duration {
        self.silent_until.since(now)
    }

    /// Node `to` claims item `at` under `epoch` for leases of `lease` (R2).
    pub fn claim(
        &mut self,
        (at, id): (usize, ItemId),
        to: usize,
        epoch: Epoch,
        lease: Duration,
        now: Time,
    ) -> Decision {
        if now < self.silent_until {
            return Decision::Refused(self.silent_for(now));
        }
        let older = |known: Epoch| known.session == epoch.session && known.counter >= epoch.counter;
        if self.released[at].is_some_and(|(by, released)| by == to && older(released)) {
            return Decision::Stale;
        }
        if let Some(promised) = self.promises[at] {
            if promised.to == to && promised.epoch != epoch && older(promised.epoch) {
                return Decision::Stale;
            }
            let until = self.until(&promised);
            if promised.to != to && now < until && !planted(Bug::GrantsWhatIsPromised) {
                return Decision::Refused(until.since(now));
            }
            if now < self.nothing_new_until && !(promised.to == to && now < until) {
                return Decision::Refused(self.nothing_new_until.since(now));
            }
            self.forget(at, id);
        } else if now < self.nothing_new_until {
            return Decision::Refused(self.nothing_new_until.since(now));
        }
        self.promises[at] = Some(Promise { to, epoch, until: now + promise(lease) });
        let set = self.sets.entry(to).or_default();
        set.digest = set.digest.wrapping_add(epoch.digest(id));
        Decision::Granted
    }

    /// Node `to` renews everything that it believes to be promised to it. True when both agree what
    /// that is; otherwise nothing is renewed, and promises to it that are over are forgotten, so that
    /// both agree again after its next claims.
    pub fn renew(
        &mut self,
        to: usize,
        digest: u64,
        lease: Duration,
        ids: impl Fn(usize) -> ItemId,
        now: Time,
    ) -> bool {
        if now < self.silent_until {
            return false;
        }
        let Some(set) = self.sets.get_mut(&to) else { return digest == 0 };
        if set.digest == digest {
            set.until = set.until.max(now + promise(lease));
            return true;
        }
        for at in 0..self.promises.len() {
            if self.promises[at].is_some_and(|promised| promised.to == to && now >= self.until(&promised)) {
                self.forget(at, ids(at));
            }
        }
        false
    }

    /// Node `by` says that the item is gone there. Only the claim that it names, or an older one of the
    /// same process, is over by that (R8).
    pub fn release(&mut self, (at, id): (usize, ItemId), by: usize, epoch: Epoch) {
        let newer = |known: Epoch| known.session == epoch.session && known.counter > epoch.counter;
        if self.released[at].is_none_or(|(other, known)| other != by || !newer(known)) {
            self.released[at] = Some((by, epoch));
        }
        if self.promises[at].is_some_and(|promised| {
            planted(Bug::StaleReleaseAccepted)
                || promised.to == by && promised.epoch.session == epoch.session && !newer(promised.epoch)
        }) {
            self.forget(at, id);
        }
    }

    /// To whom an item is promised now.
    #[must_use]
    pub fn promised_to(&self, at: usize, now: Time) -> Option<usize> {
        let promised = self.promises[at].as_ref()?;
        (now < self.until(promised)).then_some(promised.to)
    }

    fn until(&self, promised: &Promise) -> Time {
        promised.until.max(self.sets.get(&promised.to).map_or(Time::ZERO, |set| set.until))
    }

    fn forget(&mut self, at: usize, id: ItemId) {
        if let Some(promised) = self.promises[at].take()
            && let Some(set) = self.sets.get_mut(&promised.to)
        {
            set.digest = set.digest.wrapping_sub(promised.epoch.digest(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: Duration = Duration::from_secs(4);
    const X: (usize, ItemId) = (0, ItemId(70));
    const Y: (usize, ItemId) = (1, ItemId(71));

    fn ids(at: usize) -> ItemId {
        [X.1, Y.1][at]
    }

    fn epoch(session: u64, counter: u32) -> Epoch {
        Epoch { session, counter }
    }

    /// A voter past its quarantine, and the time.
    fn voter() -> (Voter, Time) {
        let voter = Voter::new(2, L, Time::ZERO);
        (voter, Time::ZERO + quarantine(L))
    }

    #[test]
    fn a_restarted_voter_promises_nothing_for_as_long_as_a_forgotten_promise_lasts() {
        let mut voter = Voter::new(2, L, Time::ZERO);
        let before = Time::ZERO + quarantine(L) - Duration::from_nanos(1);
        assert_eq!(voter.claim(X, 1, epoch(5, 1), L, before), Decision::Refused(Duration::from_nanos(1)));
        assert!(!voter.renew(1, 0, L, ids, before));
        assert_eq!(voter.claim(X, 1, epoch(5, 1), L, before + Duration::from_nanos(1)), Decision::Granted);
    }

    #[test]
    fn one_promise_per_item_until_it_is_over_or_released() {
        let (mut voter, now) = voter();
        assert_eq!(voter.claim(X, 1, epoch(5, 1), L, now), Decision::Granted);
        assert_eq!(voter.claim(X, 2, epoch(6, 1), L, now), Decision::Refused(promise(L)));
        assert_eq!(voter.claim(Y, 2, epoch(6, 2), L, now), Decision::Granted, "another item");
        assert_eq!(voter.claim(X, 1, epoch(5, 1), L, now + L), Decision::Granted, "its own, again");
        let over = now + L + promise(L);
        assert_eq!(voter.promised_to(0, over - Duration::from_nanos(1)), Some(1));
        assert_eq!(voter.claim(X, 2, epoch(6, 3), L, over), Decision::Granted);
        voter.release(X, 1, epoch(5, 1));
        assert_eq!(voter.promised_to(0, over), Some(2), "a release of who holds nothing changes nothing");
        voter.release(X, 2, epoch(6, 2));
        assert_eq!(voter.promised_to(0, over), Some(2), "a release of an older claim neither");
        voter.release(X, 2, epoch(6, 3));
        assert_eq!(voter.promised_to(0, over), None);
    }

    #[test]
    fn what_arrives_late_is_not_granted() {
        let (mut voter, now) = voter();
        voter.release(X, 1, epoch(5, 7));
        assert_eq!(voter.claim(X, 1, epoch(5, 7), L, now), Decision::Stale);
        assert_eq!(voter.claim(X, 1, epoch(5, 8), L, now), Decision::Granted);
        assert_eq!(voter.claim(X, 1, epoch(5, 6), L, now), Decision::Stale);
        voter.release(X, 1, epoch(5, 7));
        assert_eq!(voter.promised_to(0, now), Some(1), "a release from before the claim");
        // Another life of the same server numbers its claims anew.
        assert_eq!(voter.claim(X, 1, epoch(9, 1), L, now), Decision::Granted);
        voter.release(X, 1, epoch(5, 8));
        assert_eq!(voter.promised_to(0, now), Some(1), "a release by its earlier life");
    }

    #[test]
    fn a_renewal_is_for_all_or_nothing() {
        let (mut voter, now) = voter();
        let (a, b) = (epoch(5, 1), epoch(5, 2));
        voter.claim(X, 1, a, L, now);
        voter.claim(Y, 1, b, L, now);
        let both = a.digest(X.1).wrapping_add(b.digest(Y.1));
        let half = now + L / 2;
        assert!(!voter.renew(1, a.digest(X.1), L, ids, half));
        assert!(!voter.renew(1, 0, L, ids, half));
        assert!(voter.renew(1, both, L, ids, half));
        let over = half + promise(L);
        for at in [0, 1] {
            assert_eq!(voter.promised_to(at, over - Duration::from_nanos(1)), Some(1));
            assert_eq!(voter.promised_to(at, over), None);
        }
        // What is over and was given to nobody else may be renewed.
        assert!(voter.renew(1, both, L, ids, over));
        // The holder released Y and the word was lost: when the promise is over, both agree again.
        let later = over + promise(L);
        assert!(!voter.renew(1, a.digest(X.1), L, ids, later));
        assert_eq!(voter.claim(X, 1, a, L, later), Decision::Granted);
        assert!(voter.renew(1, a.digest(X.1), L, ids, later));
        assert!(voter.renew(2, 0, L, ids, later), "who claimed nothing agrees to nothing");
    }
}
