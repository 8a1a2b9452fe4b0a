//! The holder's side: what it claims, what it was granted, and until when it may hold it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Epoch;
use crate::id::ItemId;
use crate::limits;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::{Translation, arrange};

/// All claims of one node. Items are positions in a [`super::Row`], voters are positions of servers.
#[derive(Debug)]
pub struct Holder {
    session: u64,
    counter: u32,
    lease: Duration,
    /// Grants that are needed.
    quorum: usize,
    claims: Vec<Option<u32>>,
    voters: BTreeMap<usize, Granted>,
    count: usize,
}

/// What one voter granted.
#[derive(Clone, Debug)]
struct Granted {
    items: Vec<Option<Grant>>,
    /// Sum of the digests of all current grants: what a renewal names.
    digest: u64,
    count: usize,
    /// When the newest renewal that it acknowledged was sent.
    renewed: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    counter: u32,
    /// When the claim was sent that it answers.
    sent: Time,
    /// When it arrived: renewals sent before do not include it.
    received: Time,
}

/// A voter's answer about one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Promised.
    Granted,
    /// Not promised.
    Refused,
}

impl Holder {
    /// A node without claims. `session` is random and new; `quorum` is more than half of the voters.
    #[must_use]
    pub fn new(items: usize, voters: &[usize], quorum: usize, lease: Duration, session: u64) -> Self {
        let none = Granted { items: vec![None; items], digest: 0, count: 0, renewed: None };
        Self {
            session: if planted(Bug::EpochReused) { 1 } else { session },
            counter: 0,
            lease,
            quorum: quorum - usize::from(planted(Bug::LeaseQuorumOffByOne) && quorum > 1),
            claims: vec![None; items],
            voters: voters.iter().map(|voter| (*voter, none.clone())).collect(),
            count: 0,
        }
    }

    /// Goes on under another config, with `items` items, of which `at` says where each is now. An item that is
    /// gone must not be claimed. What voters granted that still are voters counts on.
    pub fn translate(
        &mut self,
        to: &Translation,
        (items, at): (usize, &impl Fn(usize) -> Option<usize>),
        (voters, quorum): (&[usize], usize),
        lease: Duration,
    ) {
        let arranged = |row: Vec<_>| {
            let entries =
                row.into_iter().enumerate().filter_map(|(before, entry)| Some((at(before)?, entry)));
            arrange(items, entries, || None)
        };
        let claims = std::mem::take(&mut self.claims);
        self.claims =
            arrange(items, claims.into_iter().enumerate().filter_map(|(n, c)| Some((at(n)?, c))), || None);
        self.count = self.claims.iter().flatten().count();
        to.by_server(&mut self.voters);
        self.voters.retain(|voter, _| voters.binary_search(voter).is_ok());
        for granted in self.voters.values_mut() {
            granted.items = arranged(std::mem::take(&mut granted.items));
        }
        for voter in voters {
            let none = Granted { items: vec![None; items], digest: 0, count: 0, renewed: None };
            self.voters.entry(*voter).or_insert(none);
        }
        self.quorum = quorum - usize::from(planted(Bug::LeaseQuorumOffByOne) && quorum > 1);
        self.lease = lease;
    }

    /// The session of all claims.
    #[must_use]
    pub const fn session(&self) -> u64 {
        self.session
    }

    /// How many items are claimed.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Claims an item under a new epoch, unless it is claimed (R1).
    pub fn claim(&mut self, at: usize) {
        if self.claims[at].is_none() {
            self.counter += 1;
            self.claims[at] = Some(self.counter);
            self.count += 1;
        }
    }

    /// The epoch under which an item is claimed.
    #[must_use]
    pub fn epoch(&self, at: usize) -> Option<Epoch> {
        self.claims[at].map(|counter| Epoch { session: self.session, counter })
    }

    /// Positions of all claimed items.
    pub fn claimed(&self) -> impl Iterator<Item = usize> + '_ {
        self.claims.iter().enumerate().filter(|(_, claim)| claim.is_some()).map(|(at, _)| at)
    }

    /// Gives a claim up; the epoch is to be released. The item must be gone (R8).
    pub fn give_up(&mut self, at: usize, id: ItemId) -> Option<Epoch> {
        let epoch = self.epoch(at)?;
        self.claims[at] = None;
        self.count -= 1;
        for granted in self.voters.values_mut() {
            granted.drop_item(at, id, self.session);
        }
        Some(epoch)
    }

    /// A voter answered the claim on an item that was sent at `sent`.
    pub fn answered(
        &mut self,
        voter: usize,
        (at, id): (usize, ItemId),
        counter: u32,
        sent: Time,
        answer: Answer,
        now: Time,
    ) {
        if self.claims[at] != Some(counter) || sent > now {
            return;
        }
        let session = self.session;
        let Some(granted) = self.voters.get_mut(&voter) else { return };
        match answer {
            // A refusal may be overtaken by the grant of a later claim.
            Answer::Refused if granted.sent(at).is_some_and(|newer| newer > sent) => {}
            Answer::Refused => granted.drop_item(at, id, session),
            // What arrives after it has ended says nothing about now.
            Answer::Granted if now.since(sent) >= self.lease => {}
            Answer::Granted => {
                let sent = if planted(Bug::DeadlineFromReceipt) { now } else { sent };
                let (mut sent, mut received) = (sent, now);
                if let Some(known) = granted.items[at].filter(|known| known.counter == counter) {
                    sent = sent.max(known.sent);
                    received = known.received;
                } else {
                    granted.drop_item(at, id, session);
                    granted.digest = granted.digest.wrapping_add(Epoch { session, counter }.digest(id));
                    granted.count += 1;
                }
                granted.items[at] = Some(Grant { counter, sent, received });
            }
        }
    }

    /// What a renewal to `voter` names; none when there is nothing to renew.
    #[must_use]
    pub fn digest(&self, voter: usize) -> Option<u64> {
        let granted = self.voters.get(&voter)?;
        (granted.count > 0).then_some(granted.digest)
    }

    /// A voter renewed everything that a renewal sent at `sent` named.
    pub fn renewed(&mut self, voter: usize, sent: Time, now: Time) {
        if sent > now {
            return;
        }
        if let Some(granted) = self.voters.get_mut(&voter) {
            let sent = if planted(Bug::DeadlineFromReceipt) { now } else { sent };
            granted.renewed = granted.renewed.max(Some(sent));
        }
    }

    /// Whether a voter has granted the present claim on an item.
    #[must_use]
    pub fn has(&self, voter: usize, at: usize) -> bool {
        self.voters.get(&voter).is_some_and(|granted| granted.items[at].is_some())
    }

    /// Until when an item may be held (R3): the q-th largest of the voters' grants, each counted from
    /// when its claim or renewal was sent.
    #[must_use]
    pub fn deadline(&self, at: usize) -> Option<Time> {
        self.claims[at]?;
        // Asked for every item several times a second: no allocation.
        let mut times = [Time::ZERO; limits::ALL_VOTE];
        let mut count = 0;
        for sent in self.voters.values().filter_map(|granted| granted.sent(at)) {
            times[count] = sent;
            count += 1;
            if planted(Bug::GrantCountsTwice) && count < times.len() {
                times[count] = sent;
                count += 1;
            }
        }
        let enough = count.checked_sub(self.quorum)?;
        let times = &mut times[..count];
        times.sort_unstable();
        Some(times[enough] + self.lease)
    }
}

impl Granted {
    /// When the newest claim or renewal that covers this item was sent.
    fn sent(&self, at: usize) -> Option<Time> {
        let grant = self.items[at]?;
        let renewed = self.renewed.filter(|renewed| *renewed >= grant.received);
        Some(renewed.map_or(grant.sent, |renewed| renewed.max(grant.sent)))
    }

    fn drop_item(&mut self, at: usize, id: ItemId, session: u64) {
        if let Some(Grant { counter, .. }) = self.items[at].take() {
            self.digest = self.digest.wrapping_sub(Epoch { session, counter }.digest(id));
            self.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: Duration = Duration::from_secs(4);
    const X: (usize, ItemId) = (0, ItemId(70));
    const Y: (usize, ItemId) = (1, ItemId(71));

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn holder() -> Holder {
        let mut holder = Holder::new(2, &[0, 1, 2], 2, L, 9);
        holder.claim(0);
        holder
    }

    fn grant(holder: &mut Holder, voter: usize, sent: u64, now: u64) {
        let counter = holder.epoch(0).expect("claimed").counter;
        holder.answered(voter, X, counter, at(sent), Answer::Granted, at(now));
    }

    #[test]
    fn the_deadline_counts_from_when_the_claim_was_sent_and_needs_a_quorum() {
        let mut holder = holder();
        assert_eq!(holder.deadline(0), None);
        grant(&mut holder, 0, 1000, 1000);
        grant(&mut holder, 0, 1500, 1900);
        assert_eq!(holder.deadline(0), None, "one voter counts once");
        grant(&mut holder, 7, 1500, 1600);
        assert_eq!(holder.deadline(0), None, "who has no vote does not count");
        grant(&mut holder, 1, 1200, 2900);
        assert_eq!(holder.deadline(0), Some(at(1200) + L), "the second largest");
        grant(&mut holder, 2, 1400, 1900);
        assert_eq!(holder.deadline(0), Some(at(1400) + L));
        holder.answered(2, X, 1, at(1300), Answer::Refused, at(2000));
        assert_eq!(holder.deadline(0), Some(at(1400) + L), "an older refusal says nothing");
        holder.answered(2, X, 1, at(1400), Answer::Refused, at(2000));
        assert_eq!(holder.deadline(0), Some(at(1200) + L));
    }

    #[test]
    fn what_answers_an_older_claim_or_comes_too_late_says_nothing() {
        let mut holder = holder();
        grant(&mut holder, 0, 1000, 5000);
        grant(&mut holder, 1, 1000, 5000);
        assert_eq!(holder.deadline(0), None, "it has ended when it arrives");
        grant(&mut holder, 0, 6000, 5000);
        grant(&mut holder, 1, 6000, 5000);
        assert_eq!(holder.deadline(0), None, "nobody answers what was not sent");
        assert_eq!(holder.give_up(0, X.1).map(|epoch| epoch.counter), Some(1));
        holder.claim(0);
        holder.answered(0, X, 1, at(5000), Answer::Granted, at(5100));
        holder.answered(1, X, 1, at(5000), Answer::Granted, at(5100));
        assert_eq!(holder.deadline(0), None, "an epoch is never reused");
    }

    #[test]
    fn a_renewal_covers_what_was_granted_when_it_was_sent() {
        let mut holder = holder();
        grant(&mut holder, 0, 1000, 1000);
        grant(&mut holder, 1, 1000, 1100);
        let digest = holder.digest(1).expect("something to renew");
        assert_eq!(digest, holder.epoch(0).expect("claimed").digest(X.1));
        assert_eq!(holder.digest(2), None);
        holder.renewed(0, at(2000), at(2000));
        holder.renewed(1, at(2000), at(2300));
        assert_eq!(holder.deadline(0), Some(at(2000) + L));
        // A second item, granted after a renewal had left: that renewal says nothing of it.
        holder.claim(1);
        for voter in [0, 1] {
            holder.answered(voter, Y, 2, at(2400), Answer::Granted, at(2600));
            holder.renewed(voter, at(2500), at(2700));
        }
        assert_eq!(holder.deadline(1), Some(at(2400) + L));
        assert_eq!(holder.deadline(0), Some(at(2500) + L));
        assert_ne!(holder.digest(1), Some(digest));
        holder.give_up(1, Y.1);
        assert_eq!(holder.digest(1), Some(digest));
        assert_eq!(holder.claimed().collect::<Vec<_>>(), [0]);
    }
}
