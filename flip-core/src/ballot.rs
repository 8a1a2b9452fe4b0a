//! The ballots that stand: who says now, first-hand, that a member does not answer.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::marks::mark;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::{Translation, rekey};
use crate::wire::message::{About, Ballot};

/// The newest ballot of each voter about each server.
#[derive(Debug, Default)]
pub struct Ballots {
    /// Keyed by (subject, voter), both positions in the config.
    newest: BTreeMap<(usize, usize), Entry>,
}

#[derive(Debug)]
struct Entry {
    subject_generation: u64,
    voter_generation: u64,
    seq: u32,
    down: bool,
    received: Time,
}

impl Ballots {
    /// Keeps a ballot unless a newer one of the same voter is known. False when it was too late.
    pub fn record(&mut self, subject: usize, voter: usize, ballot: &Ballot, now: Time) -> bool {
        let order = |generation, seq| (generation, seq);
        if let Some(old) = self.newest.get(&(subject, voter))
            && order(old.voter_generation, old.seq) > order(ballot.voter_generation, ballot.seq)
        {
            mark!("ballot: an old voter's Down came after its Up");
            return false;
        }
        let entry = Entry {
            subject_generation: ballot.about.generation,
            voter_generation: ballot.voter_generation,
            seq: ballot.seq,
            down: ballot.down,
            received: now,
        };
        self.newest.insert((subject, voter), entry);
        true
    }

    /// The voters whose Down ballots about this generation of `subject` are not older than `validity`,
    /// with their generations. A voter counts once.
    pub fn standing(
        &self,
        subject: usize,
        generation: u64,
        now: Time,
        validity: Duration,
    ) -> impl Iterator<Item = (usize, u64)> {
        self.newest
            .range((subject, 0)..=(subject, usize::MAX))
            .filter(move |(_, entry)| {
                entry.down
                    && (entry.subject_generation == generation || planted(Bug::VerdictForWrongGeneration))
                    && (now.since(entry.received) <= validity || planted(Bug::BallotsNeverExpire))
            })
            .map(|((_, voter), entry)| (*voter, entry.voter_generation))
    }

    /// Forgets all ballots about `subject`: it answered, or it is down.
    pub fn forget(&mut self, subject: usize) {
        let about = self.newest.range((subject, 0)..=(subject, usize::MAX));
        let gone: Vec<_> = about.map(|(key, _)| *key).collect();
        for key in gone {
            self.newest.remove(&key);
        }
    }

    /// Goes on under another config. Those who voted about a server that is gone, or are gone, did so in vain.
    pub fn translate(&mut self, to: &Translation) {
        rekey(&mut self.newest, |(subject, voter)| Some((to.server(subject)?, to.server(voter)?)));
    }

    /// How many ballots are kept.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn len(&self) -> usize {
        self.newest.len()
    }

    /// Forgets everything: after a stall nothing that was heard before counts.
    pub fn clear(&mut self) {
        self.newest.clear();
    }
}

/// The ballots of a verdict as its message carries them.
#[must_use]
pub fn evidence(voters: impl Iterator<Item = (u16, u64)>) -> Vec<About> {
    voters.map(|(id, generation)| About { id, generation }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(generation: u64, seq: u32, down: bool) -> Ballot {
        Ballot { electorate: 0, voter_generation: 1, about: About { id: 9, generation }, seq, down }
    }

    #[test]
    fn they_expire_and_the_newest_counts() {
        let mut ballots = Ballots::default();
        let validity = Duration::from_millis(300);
        let at = Time::from_millis;
        let count = |ballots: &Ballots, now| ballots.standing(0, 5, at(now), validity).count();
        assert!(ballots.record(0, 1, &ballot(5, 1, true), at(0)));
        assert!(ballots.record(0, 1, &ballot(5, 2, true), at(10)));
        assert!(ballots.record(0, 2, &ballot(4, 1, true), at(10)));
        assert_eq!(count(&ballots, 10), 1, "one voter counts once, another generation not at all");
        assert!(ballots.record(0, 2, &ballot(5, 2, true), at(20)));
        assert_eq!(count(&ballots, 20), 2);
        assert_eq!(count(&ballots, 315), 1, "the older one has expired");
        assert!(ballots.record(0, 2, &ballot(5, 3, false), at(20)));
        assert!(!ballots.record(0, 2, &ballot(5, 2, true), at(30)), "a late Down does not undo an Up");
        assert_eq!(count(&ballots, 30), 1);
        ballots.forget(0);
        assert_eq!(count(&ballots, 30), 0);
    }
}
