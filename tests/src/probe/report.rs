//! What a probe has seen.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// One datagram of a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) sent: Instant,
    /// When the first answer came, and from which host.
    pub(super) answer: Option<(Instant, usize)>,
}

/// A time in which datagrams were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the last datagram before that was answered was sent; the probe's first without one.
    pub from: Instant,
    /// When the first datagram after that was answered was sent; the probe's last without one.
    pub to: Instant,
    /// How many datagrams in between were lost.
    pub lost: usize,
    /// Which host answered before.
    pub before: Option<usize>,
    /// Which host answered after; none when the probe ended first.
    pub after: Option<usize>,
}

impl Outage {
    /// How long it was.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.saturating_duration_since(self.from)
    }
}

/// A time in which one host answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Which host.
    pub host: usize,
    /// When the first datagram that it answered was sent.
    pub from: Instant,
    /// When the last datagram that it answered was sent.
    pub to: Instant,
}

/// Everything that a probe has seen.
#[derive(Clone, Debug)]
pub struct Report {
    vip: IpAddr,
    interval: Duration,
    /// In the order of sending.
    pub(super) samples: Vec<Sample>,
    pub(super) repeated: u64,
    pub(super) skipped: u64,
    pub(super) late: Duration,
}

impl Report {
    pub(super) fn new(vip: IpAddr, interval: Duration) -> Self {
        Self { vip, interval, samples: Vec::new(), repeated: 0, skipped: 0, late: Duration::ZERO }
    }

    /// The address that was asked.
    #[must_use]
    pub fn vip(&self) -> IpAddr {
        self.vip
    }

    /// How many datagrams were sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.samples.len()
    }

    /// How many of them were answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.samples.iter().filter(|s| s.answer.is_some()).count()
    }

    /// How many of them were not.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.sent() - self.answered()
    }

    /// How many answers came for datagrams that had one already: two hosts have heard one datagram.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// How much later than planned a datagram was sent, at most: the machine was busy, and no outage
    /// is known more exactly than this.
    #[must_use]
    pub fn late(&self) -> Duration {
        self.late
    }

    /// How many datagrams were never sent because the machine was busy.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The resolution: what an outage is known to.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The longest time from a question to its answer, for datagrams sent in the window.
    #[must_use]
    pub fn slowest(&self, from: Instant, to: Instant) -> Duration {
        let sent = self.samples.iter().filter(|s| s.sent >= from && s.sent <= to);
        sent.filter_map(|s| Some(s.answer?.0 - s.sent)).max().unwrap_or_default()
    }

    /// All outages of which a part lies in the window, in order.
    #[must_use]
    pub fn outages(&self, from: Instant, to: Instant) -> Vec<Outage> {
        let mut outages = Vec::new();
        let mut open: Option<Outage> = None;
        let mut last: Option<(Instant, usize)> = None;
        for sample in &self.samples {
            if let Some((_, host)) = sample.answer {
                if let Some(outage) = open.take() {
                    outages.push(Outage { to: sample.sent, after: Some(host), ..outage });
                }
                last = Some((sample.sent, host));
                continue;
            }
            let outage = open.get_or_insert(Outage {
                from: last.map_or(sample.sent, |(sent, _)| sent),
                to: sample.sent,
                lost: 0,
                before: last.map(|(_, host)| host),
                after: None,
            });
            outage.to = sample.sent;
            outage.lost += 1;
        }
        outages.extend(open);
        outages.retain(|outage| outage.to >= from && outage.from <= to);
        outages
    }

    /// The longest outage of which a part lies in the window, as the client sees it: the time between
    /// the sending of two consecutively answered datagrams. Zero when nothing was lost, whatever the
    /// probe's own lateness.
    #[must_use]
    pub fn outage(&self, from: Instant, to: Instant) -> Duration {
        self.outages(from, to).iter().map(Outage::length).max().unwrap_or_default()
    }

    /// The longest part of an outage that lies in the window.
    #[must_use]
    pub fn outage_within(&self, from: Instant, to: Instant) -> Duration {
        let parts = self.outages(from, to).into_iter();
        parts.map(|o| o.to.min(to).saturating_duration_since(o.from.max(from))).max().unwrap_or_default()
    }

    /// The longest outage that a fault at `mark` has caused: of those that end after it.
    #[must_use]
    pub fn outage_since(&self, mark: Instant) -> Duration {
        self.samples.last().map_or(Duration::ZERO, |last| self.outage(mark, last.sent.max(mark)))
    }

    /// Who answered the datagrams that were sent in the window, in order, lost ones aside.
    #[must_use]
    pub fn answered_by(&self, from: Instant, to: Instant) -> Vec<Service> {
        let mut services: Vec<Service> = Vec::new();
        for sample in self.samples.iter().filter(|s| s.sent >= from && s.sent <= to) {
            let Some((_, host)) = sample.answer else { continue };
            match services.last_mut() {
                Some(service) if service.host == host => service.to = sample.sent,
                Some(_) | None => services.push(Service { host, from: sample.sent, to: sample.sent }),
            }
        }
        services
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One datagram per millisecond: which host answered it, or `.`.
    fn report(answers: &str) -> (Report, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let at = move |ms| start + Duration::from_millis(ms);
        let mut report = Report::new([10, 77, 0, 200].into(), Duration::from_millis(1));
        for (n, answer) in (0..).zip(answers.chars()) {
            let host = answer.to_digit(10).map(|host| (at(n), host as usize));
            report.samples.push(Sample { sent: at(n), answer: host });
        }
        (report, at)
    }

    #[test]
    fn outages_are_between_answered_datagrams() {
        let (report, at) = report("000...11.1");
        let ms = Duration::from_millis;
        assert_eq!((report.sent(), report.answered(), report.lost()), (10, 6, 4));
        let all = report.outages(at(0), at(9));
        let first = Outage { from: at(2), to: at(6), lost: 3, before: Some(0), after: Some(1) };
        let second = Outage { from: at(7), to: at(9), lost: 1, before: Some(1), after: Some(1) };
        assert_eq!(all, [first, second]);
        assert_eq!(report.outage(at(0), at(9)), ms(4));
        assert_eq!(report.outage(at(0), at(1)), Duration::ZERO);
        assert_eq!(report.outage_within(at(5), at(9)), ms(2));
        assert_eq!(report.outage_since(at(4)), ms(4));
        assert_eq!(report.outage_since(at(7)), ms(2));
        let served = report.answered_by(at(0), at(9));
        let served: Vec<_> = served.iter().map(|s| (s.host, s.from == at(0), s.to == at(9))).collect();
        assert_eq!(served, [(0, true, false), (1, false, true)]);
    }

    #[test]
    fn outages_may_be_open() {
        let (report, at) = report("..0..");
        let all = report.outages(at(0), at(9));
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].before, all[0].after, all[0].length()), (None, Some(0), Duration::from_millis(2)));
        assert_eq!((all[1].before, all[1].after, all[1].length()), (Some(0), None, Duration::from_millis(2)));
    }

    #[test]
    fn without_loss_there_is_no_outage() {
        let (report, at) = report("0000");
        assert_eq!(report.outage_since(at(0)), Duration::ZERO);
    }
}
