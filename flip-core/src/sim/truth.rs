//! Who really holds what: by the kernels of the world, not by what nodes say.

use std::time::Duration;

use crate::time::Time;

/// What is measured of one item.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Longest time without a holder.
    pub longest_none: Duration,
    /// All time without a holder.
    pub total_none: Duration,
    /// Longest time with two holders or more.
    pub longest_two: Duration,
    /// All time with two holders or more.
    pub total_two: Duration,
    /// How often a host became a holder.
    pub arrivals: u64,
}

#[derive(Clone, Debug)]
struct Item {
    holders: Vec<usize>,
    /// Since when the number of holders is what it is.
    since: Time,
    none_since: Option<Time>,
    two_since: Option<Time>,
    /// When each host held it last.
    last: Vec<(usize, Time)>,
    tally: Tally,
}

/// The holders of all items.
#[derive(Debug)]
pub(super) struct Truth {
    items: Vec<Item>,
}

impl Truth {
    pub(super) fn new(items: usize, now: Time) -> Self {
        let item = Item {
            holders: Vec::new(),
            since: now,
            none_since: Some(now),
            two_since: None,
            last: Vec::new(),
            tally: Tally::default(),
        };
        Self { items: vec![item; items] }
    }

    pub(super) fn holders(&self, item: usize) -> &[usize] {
        &self.items[item].holders
    }

    pub(super) fn none_since(&self, item: usize) -> Option<Time> {
        self.items[item].none_since
    }

    /// Whether another host than `host` held the item at `since` or later.
    pub(super) fn held_elsewhere(&self, item: usize, host: usize, since: Time) -> bool {
        let item = &self.items[item];
        item.holders.iter().any(|holder| *holder != host)
            || item.last.iter().any(|(holder, at)| *holder != host && *at >= since)
    }

    /// A host answers for the item from now on, or does no more. True when that is new.
    pub(super) fn set(&mut self, item: usize, host: usize, holds: bool, now: Time) -> bool {
        let item = &mut self.items[item];
        let position = item.holders.binary_search(&host);
        match (position, holds) {
            (Err(at), true) => {
                item.close(now);
                item.holders.insert(at, host);
                item.tally.arrivals += 1;
            }
            (Ok(at), false) => {
                item.close(now);
                item.holders.remove(at);
                item.last.retain(|(holder, _)| *holder != host);
                item.last.push((host, now));
            }
            _ => return false,
        }
        item.since = now;
        item.none_since = item.holders.is_empty().then_some(now);
        item.two_since = match item.two_since {
            Some(since) if item.holders.len() > 1 => Some(since),
            _ => (item.holders.len() > 1).then_some(now),
        };
        true
    }

    /// Starts to measure anew.
    pub(super) fn reset(&mut self, now: Time) {
        for item in &mut self.items {
            item.tally = Tally::default();
            item.since = now;
            item.none_since = item.none_since.map(|_| now);
            item.two_since = item.two_since.map(|_| now);
        }
    }

    /// What was measured until now.
    pub(super) fn tally(&mut self, now: Time) -> Vec<Tally> {
        for item in &mut self.items {
            item.close(now);
            item.since = now;
        }
        self.items.iter().map(|item| item.tally.clone()).collect()
    }
}

impl Item {
    /// Adds up the time since the last change.
    fn close(&mut self, now: Time) {
        let span = now.since(self.since);
        if let Some(since) = self.none_since {
            self.tally.total_none += span;
            self.tally.longest_none = self.tally.longest_none.max(now.since(since));
        }
        if let Some(since) = self.two_since {
            self.tally.total_two += span;
            self.tally.longest_two = self.tally.longest_two.max(now.since(since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_overlaps_are_measured() {
        let at = Time::from_millis;
        let mut truth = Truth::new(1, at(0));
        assert!(truth.set(0, 1, true, at(10)) && !truth.set(0, 1, true, at(11)));
        truth.set(0, 2, true, at(20));
        truth.set(0, 3, true, at(25));
        truth.set(0, 1, false, at(30));
        truth.set(0, 2, false, at(35));
        assert!(truth.held_elsewhere(0, 3, at(35)) && !truth.held_elsewhere(0, 3, at(36)));
        truth.set(0, 3, false, at(50));
        let tally = &truth.tally(at(90))[0];
        let ms = |span: Duration| span.as_millis();
        assert_eq!((ms(tally.longest_none), ms(tally.total_none)), (40, 50));
        assert_eq!((ms(tally.longest_two), ms(tally.total_two)), (15, 15));
        assert_eq!(tally.arrivals, 3);
        truth.reset(at(90));
        assert_eq!(truth.tally(at(95))[0].total_none, Duration::from_millis(5));
    }
}
