//! What a node counts because only it can: messages inside of datagrams, round trips, leases. All of it only grows,
//! but for ages; no rule reads any of it.

use std::time::Duration;

use crate::wire::message;

/// How many messages, and their bytes before they are sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) const fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes as u64;
    }
}

/// Messages by their kind on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByKind([Traffic; message::KINDS]);

impl Default for ByKind {
    fn default() -> Self {
        Self([Traffic::default(); message::KINDS])
    }
}

impl ByKind {
    /// What is of a newer version counts as kind 0.
    pub(crate) fn add(&mut self, kind: u8, bytes: usize) {
        let at = usize::from(kind);
        let at = if message::name(kind).is_some() { at } else { 0 };
        if let Some(traffic) = self.0.get_mut(at) {
            traffic.add(bytes);
        }
    }

    /// Every kind by its name; `other` is what this version does not know.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Traffic)> + '_ {
        let named = self.0.iter().enumerate().filter_map(|(kind, traffic)| {
            let name = message::name(u8::try_from(kind).ok()?)?;
            Some((name, *traffic))
        });
        std::iter::once(("other", self.0[0])).chain(named)
    }
}

/// Upper bounds of the buckets of round trips, in microseconds.
pub const ROUND_TRIPS: [u64; 15] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000,
];

/// How often a round trip took how long.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundTrips {
    /// By bucket of [`ROUND_TRIPS`], not summed up; what took longer is in none.
    pub buckets: [u64; ROUND_TRIPS.len()],
    /// All of them.
    pub count: u64,
    /// Their sum, seconds.
    pub sum: f64,
}

impl RoundTrips {
    pub(crate) fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(at) = ROUND_TRIPS.iter().position(|bound| micros <= *bound) {
            self.buckets[at] += 1;
        }
        self.count += 1;
        self.sum += took.as_secs_f64();
    }
}

/// What became of claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// As a voter: claims of others that this node granted.
    pub granted: u64,
    /// As a voter: claims of others that it refused.
    pub refused: u64,
    /// As a holder: grants that others gave.
    pub got: u64,
    /// As a holder: refusals by others.
    pub denied: u64,
    /// As a holder: items that it had to let go of because their lease ended.
    pub expired: u64,
}

/// All that a node counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Messages that it sent.
    pub sent: ByKind,
    /// Messages that it took, of members whose session has proved itself.
    pub received: ByKind,
    /// Datagrams and their bytes that it took.
    pub datagrams: Traffic,
    /// Its own pings that were answered.
    pub round_trips: RoundTrips,
    /// Leases.
    pub leases: Leases,
}

/// How much waits, or is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depths {
    /// Hooks that run.
    pub hooks: usize,
    /// Items that wait for a hook to end.
    pub items: usize,
    /// Health checks that are due and wait for others.
    pub checks: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_and_is_counted_under_it() {
        let mut kinds = ByKind::default();
        for kind in 0..=u8::MAX {
            kinds.add(kind, usize::from(kind));
        }
        let named: Vec<_> = kinds.iter().collect();
        let names: std::collections::BTreeSet<_> = named.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), named.len(), "no name twice");
        assert_eq!(named.iter().map(|(_, traffic)| traffic.count).sum::<u64>(), 256);
        let known = named.iter().filter(|(name, _)| *name != "other");
        assert!(known.clone().all(|(_, traffic)| traffic.count == 1), "{named:?}");
        assert_eq!(known.count(), 27);
    }

    #[test]
    fn round_trips_fall_into_buckets() {
        let mut trips = RoundTrips::default();
        for micros in [1, 50, 51, 2_000_000, 2_000_001] {
            trips.add(Duration::from_micros(micros));
        }
        assert_eq!((trips.buckets[0], trips.buckets[1], trips.buckets[14], trips.count), (2, 1, 1, 5));
        assert!((trips.sum - 4.000_103).abs() < 1e-9, "{}", trips.sum);
    }
}
