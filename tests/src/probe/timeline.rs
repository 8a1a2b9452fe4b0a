//! Which hosts had which addresses, and when.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// An address came or left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) at: Instant,
    pub(super) host: usize,
    pub(super) ip: IpAddr,
    pub(super) present: bool,
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its start.
    pub from: Instant,
    /// Its end.
    pub to: Instant,
}

impl Span {
    /// How long it is.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.saturating_duration_since(self.from)
    }
}

/// Who held what, and when.
#[derive(Clone, Debug)]
pub struct HoldersReport {
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) changes: Vec<Change>,
}

impl HoldersReport {
    /// The same without some hosts: a host that is cut off keeps addresses without harm.
    #[must_use]
    pub fn without(&self, hosts: &[usize]) -> Self {
        let mut report = self.clone();
        report.changes.retain(|change| !hosts.contains(&change.host));
        report
    }

    /// The hosts that hold the address, from each change on; the first entry is the start.
    #[must_use]
    pub fn timeline(&self, vip: IpAddr) -> Vec<(Instant, BTreeSet<usize>)> {
        let mut timeline = vec![(self.started, BTreeSet::new())];
        let mut holders = BTreeSet::new();
        for change in self.changes.iter().filter(|change| change.ip == vip) {
            let changed =
                if change.present { holders.insert(change.host) } else { holders.remove(&change.host) };
            match timeline.last_mut() {
                _ if !changed => {}
                Some((at, last)) if *at == change.at => last.clone_from(&holders),
                Some(_) | None => timeline.push((change.at, holders.clone())),
            }
        }
        timeline
    }

    /// The hosts that held the address at that moment.
    #[must_use]
    pub fn holders_at(&self, vip: IpAddr, at: Instant) -> BTreeSet<usize> {
        let timeline = self.timeline(vip);
        let last = timeline.into_iter().rev().find(|(from, _)| *from <= at);
        last.map(|(_, holders)| holders).unwrap_or_default()
    }

    /// The spans within the window in which the number of holders is one that `wanted` likes.
    #[must_use]
    pub fn spans(
        &self,
        vip: IpAddr,
        from: Instant,
        to: Instant,
        wanted: impl Fn(usize) -> bool,
    ) -> Vec<Span> {
        let timeline = self.timeline(vip);
        let ends = timeline.iter().skip(1).map(|(at, _)| *at).chain([self.ended]);
        let mut spans: Vec<Span> = Vec::new();
        for ((start, holders), end) in timeline.iter().zip(ends) {
            let span = Span { from: from.max(*start), to: to.min(end) };
            if span.from >= span.to || !wanted(holders.len()) {
                continue;
            }
            match spans.last_mut() {
                Some(last) if last.to == span.from => last.to = span.to,
                Some(_) | None => spans.push(span),
            }
        }
        spans
    }

    /// The spans within the window in which no host held the address.
    #[must_use]
    pub fn unheld(&self, vip: IpAddr, from: Instant, to: Instant) -> Vec<Span> {
        self.spans(vip, from, to, |holders| holders == 0)
    }

    /// The spans within the window in which two or more hosts held the address.
    #[must_use]
    pub fn contested(&self, vip: IpAddr, from: Instant, to: Instant) -> Vec<Span> {
        self.spans(vip, from, to, |holders| holders >= 2)
    }

    /// How often the address went from one single holder to another.
    #[must_use]
    pub fn moves(&self, vip: IpAddr) -> usize {
        self.moves_in(vip, self.started, self.ended)
    }

    /// How often the address went from one single holder to another, and came there in the window.
    #[must_use]
    pub fn moves_in(&self, vip: IpAddr, from: Instant, to: Instant) -> usize {
        let (mut moves, mut single) = (0, None);
        for (at, holders) in self.timeline(vip) {
            let (1, Some(&holder)) = (holders.len(), holders.first()) else { continue };
            if single.is_some_and(|single| single != holder) && at >= from && at <= to {
                moves += 1;
            }
            single = Some(holder);
        }
        moves
    }

    /// How often a host took the address in the window.
    #[must_use]
    pub fn taken_in(&self, vip: IpAddr, from: Instant, to: Instant) -> usize {
        let timeline = self.timeline(vip);
        let changes = timeline.windows(2).filter(|pair| pair[1].0 >= from && pair[1].0 <= to);
        changes.map(|pair| pair[1].1.difference(&pair[0].1).count()).sum()
    }

    /// When the observation started and ended.
    #[must_use]
    pub fn observed(&self) -> Span {
        Span { from: self.started, to: self.ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 200));

    /// Changes of the address, `+` to a host or `-` from it, one per millisecond, for ten of them.
    fn report(changes: &str) -> (HoldersReport, impl Fn(u64) -> Instant) {
        let started = Instant::now();
        let at = move |ms| started + Duration::from_millis(ms);
        let changes = (0..).zip(changes.split(' ')).filter_map(|(ms, change)| {
            let host = change.get(1..)?.parse().ok()?;
            Some(Change { at: at(ms), host, ip: VIP, present: change.starts_with('+') })
        });
        (HoldersReport { started, ended: at(10), changes: changes.collect() }, at)
    }

    #[test]
    fn two_and_none_are_seen() {
        let (report, at) = report("+0 . -0 . . +1 +0 -1");
        assert_eq!(report.unheld(VIP, at(0), at(10)), [Span { from: at(2), to: at(5) }]);
        assert_eq!(report.unheld(VIP, at(3), at(4)), [Span { from: at(3), to: at(4) }]);
        assert_eq!(report.contested(VIP, at(0), at(10)), [Span { from: at(6), to: at(7) }]);
        assert_eq!(report.holders_at(VIP, at(6)), [0, 1].into());
        assert_eq!(report.without(&[0]).unheld(VIP, at(0), at(6)), [Span { from: at(0), to: at(5) }]);
        assert_eq!(report.moves(VIP), 2);
    }

    #[test]
    fn a_move_is_from_one_holder_to_another() {
        for (changes, moves) in [("+0 +1 -0", 1), ("+0 +1 -1", 0), ("+0 -0 +0", 0), ("+0 -0 +1", 1)] {
            let (report, at) = report(changes);
            assert_eq!(report.moves(VIP), moves, "{changes}");
            assert_eq!(report.moves_in(VIP, at(0), at(1)), 0, "{changes}");
        }
    }

    #[test]
    fn whoever_takes_an_address_is_counted() {
        let (report, at) = report("+0 . +1 -1 +1 -0 +0");
        assert_eq!(report.taken_in(VIP, at(0), at(10)), 3);
        assert_eq!(report.taken_in(VIP, at(3), at(4)), 1);
    }
}
