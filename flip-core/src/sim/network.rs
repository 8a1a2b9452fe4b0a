//! The network: what happens to a datagram between two hosts.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::fault::Links;
use crate::time::Time;

/// A trouble that is on now.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    Loss(Links, f64),
    Burst(Links, f64, Duration),
    Delay(Links, Duration),
    Duplicate(f64),
    Late(f64, Duration),
    Corrupt(f64),
    Mtu(Links, usize),
    Cut(Links),
    Split(Vec<u8>),
    Bridge(usize, Vec<u8>),
}

/// What becomes of one datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// How long it takes; none when it is lost.
    pub(super) after: Option<Duration>,
    /// How long its copy takes.
    pub(super) again: Option<Duration>,
    /// Its bits are not what they were.
    pub(super) corrupt: bool,
}

/// The state of one direction of a link.
#[derive(Clone, Debug, Default)]
struct Link {
    /// State of the burst model, and until when.
    bad: bool,
    until: Time,
    /// Cut now, by any trouble.
    cut: bool,
    /// Any datagram may be lost or late now, beyond independent loss.
    poor: bool,
    /// The last moment at which it was cut or poor.
    last_bad: Option<Time>,
}

/// All links.
pub(super) struct Network {
    hosts: usize,
    links: Vec<Link>,
    troubles: Vec<(u64, Trouble)>,
    latency: (Duration, Duration),
    rng: StdRng,
}

impl Network {
    pub(super) fn new(hosts: usize, latency: (Duration, Duration), rng: StdRng) -> Self {
        // Of large clusters no link has a state: they have cuts and losses, and no bursts.
        let links = if hosts <= 128 { vec![Link::default(); hosts * hosts] } else { Vec::new() };
        Self { hosts, links, troubles: Vec::new(), latency, rng }
    }

    /// Begins a trouble; `token` ends it.
    pub(super) fn begin(&mut self, token: u64, trouble: Trouble, now: Time) {
        self.troubles.push((token, trouble));
        self.update(now);
    }

    pub(super) fn end(&mut self, token: u64, now: Time) {
        self.troubles.retain(|(id, _)| *id != token);
        self.update(now);
    }

    /// Everything but what keeps these hosts apart is mended.
    pub(super) fn calm(&mut self, now: Time) {
        self.troubles.clear();
        self.update(now);
    }

    fn update(&mut self, now: Time) {
        if self.links.is_empty() {
            return;
        }
        for from in 0..self.hosts {
            for to in 0..self.hosts {
                let cut = self.troubles.iter().any(|(_, trouble)| is_cut(trouble, from, to));
                let poor = self.troubles.iter().any(|(_, trouble)| is_poor(trouble, from, to));
                let Some(link) = self.links.get_mut(from * self.hosts + to) else { return };
                if link.cut || link.poor || cut || poor {
                    link.last_bad = Some(now);
                }
                (link.cut, link.poor) = (cut, poor);
            }
        }
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        match self.links.get(from * self.hosts + to) {
            Some(link) => link.cut,
            None => self.troubles.iter().any(|(_, trouble)| is_cut(trouble, from, to)),
        }
    }

    /// True when nothing is wrong with the network.
    pub(super) const fn is_calm(&self) -> bool {
        self.troubles.is_empty()
    }

    /// True when both directions carried everything, but for independent loss, since `since`.
    pub(super) fn was_good(&self, a: usize, b: usize, since: Time) -> bool {
        [(a, b), (b, a)].into_iter().all(|(from, to)| {
            let link = &self.links[from * self.hosts + to];
            !link.cut && !link.poor && link.last_bad.is_none_or(|at| at < since)
        })
    }

    /// Probability that a datagram of this link is lost by itself.
    fn loss(&self, from: usize, to: usize) -> f64 {
        let mut pass = 1.0;
        for (_, trouble) in &self.troubles {
            if let Trouble::Loss(on, p) = trouble
                && on.has(from, to)
            {
                pass *= 1.0 - p;
            }
        }
        1.0 - pass
    }

    /// True when nothing that is sent between two hosts now is lost by itself.
    pub(super) fn is_lossless(&self, a: usize, b: usize) -> bool {
        self.loss(a, b) + self.loss(b, a) == 0.0
    }

    pub(super) fn latency(&mut self) -> Duration {
        self.rng.random_range(self.latency.0..=self.latency.1)
    }

    /// Whether a stream between two hosts comes about.
    pub(super) fn connects(&mut self, a: usize, b: usize) -> bool {
        if self.troubles.is_empty() {
            return true;
        }
        let loss = self.loss(a, b);
        !self.is_cut(a, b) && !self.is_cut(b, a) && !self.rng.random_bool(loss)
    }

    /// Draws what becomes of a datagram of `bytes` bytes.
    pub(super) fn send(&mut self, from: usize, to: usize, bytes: usize, now: Time) -> Fate {
        let mut fate = Fate { after: Some(self.latency()), ..Fate::default() };
        if self.troubles.is_empty() {
            return fate;
        }
        if self.is_cut(from, to) {
            return Fate::default();
        }
        for at in 0..self.troubles.len() {
            match self.troubles[at].1 {
                Trouble::Loss(on, p) if on.has(from, to) && self.rng.random_bool(p) => {
                    return Fate::default();
                }
                Trouble::Burst(on, bad, mean) if on.has(from, to) => {
                    let lost = self.in_burst(from, to, bad, mean, now) && self.rng.random_bool(0.95);
                    if lost {
                        return Fate::default();
                    }
                }
                Trouble::Mtu(on, most) if on.has(from, to) && bytes > most => return Fate::default(),
                Trouble::Delay(on, by) if on.has(from, to) => {
                    let more = by.mul_f64(self.rng.random_range(0.0..=1.0));
                    fate.after = fate.after.map(|after| after + more);
                }
                Trouble::Duplicate(p) if self.rng.random_bool(p) => {
                    fate.again = Some(self.latency() * 3);
                }
                Trouble::Late(p, by) if self.rng.random_bool(p) => {
                    fate.after = Some(by.mul_f64(self.rng.random_range(0.0..=1.0)));
                }
                Trouble::Corrupt(p) if self.rng.random_bool(p) => fate.corrupt = true,
                _ => {}
            }
        }
        fate
    }

    /// Moves the two-state chain of a link on to now.
    fn in_burst(&mut self, from: usize, to: usize, part: f64, mean: Duration, now: Time) -> bool {
        let Some(link) = self.links.get_mut(from * self.hosts + to) else { return false };
        for _ in 0..64 {
            if link.until > now {
                break;
            }
            let begin = if link.until == Time::ZERO { now } else { link.until };
            link.bad = link.until != Time::ZERO && !link.bad;
            let mean = if link.bad { mean } else { mean.mul_f64((1.0 - part) / part.max(0.001)) };
            let length = mean.mul_f64(-(1.0 - self.rng.random_range(0.0..1.0f64)).ln());
            link.until = begin + length.max(Duration::from_micros(100));
        }
        link.bad
    }

    /// Flips some bits.
    pub(super) fn damage(&mut self, data: &mut [u8]) {
        // In different bytes, so that no flip undoes another.
        let count = self.rng.random_range(1..4usize).min(data.len());
        let first = if count == 0 { 0 } else { self.rng.random_range(0..data.len()) };
        for n in 0..count {
            let at = (first + n) % data.len();
            data[at] ^= 1 << self.rng.random_range(0..8);
        }
    }
}

fn is_cut(trouble: &Trouble, from: usize, to: usize) -> bool {
    match trouble {
        Trouble::Cut(on) => on.has(from, to),
        Trouble::Split(groups) => groups.get(from) != groups.get(to),
        Trouble::Bridge(host, groups) => from != *host && to != *host && groups.get(from) != groups.get(to),
        _ => false,
    }
}

fn is_poor(trouble: &Trouble, from: usize, to: usize) -> bool {
    match trouble {
        // Independent loss is what windows are made for; everything else may silence somebody.
        Trouble::Loss(on, p) => on.has(from, to) && *p > 0.4,
        Trouble::Burst(on, ..) | Trouble::Delay(on, _) | Trouble::Mtu(on, _) => on.has(from, to),
        Trouble::Late(p, _) | Trouble::Corrupt(p) => *p > 0.05,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn network(hosts: usize) -> Network {
        let latency = (Duration::from_micros(100), Duration::from_micros(200));
        Network::new(hosts, latency, StdRng::seed_from_u64(1))
    }

    fn passed(network: &mut Network, from: usize, to: usize) -> usize {
        let at = |n: u64| Time::from_millis(1_000 + n * 10);
        (0..10_000).filter(|n| network.send(from, to, 100, at(*n)).after.is_some()).count()
    }

    #[test]
    fn bursts_lose_as_much_as_they_are_told_to() {
        let mut network = network(2);
        network.begin(1, Trouble::Burst(Links::One(0, 1), 0.2, Duration::from_millis(500)), Time::ZERO);
        let through = passed(&mut network, 0, 1);
        assert!((7_000..9_000).contains(&through), "{through}");
        assert_eq!(passed(&mut network, 1, 0), 10_000, "the other direction is fine");
        let at = Time::from_millis(200_000);
        network.end(1, at);
        assert!(!network.was_good(0, 1, at - Duration::from_secs(1)));
        assert!(network.was_good(0, 1, at + Duration::from_secs(1)));
    }

    /// Links of a large cluster have no state, and are cut all the same.
    #[test]
    fn a_deaf_host_of_many() {
        let mut network = network(200);
        network.begin(1, Trouble::Cut(Links::To(3)), Time::ZERO);
        assert_eq!((passed(&mut network, 1, 3), passed(&mut network, 3, 1)), (0, 10_000));
        network.end(1, Time::ZERO);
        assert_eq!(passed(&mut network, 1, 3), 10_000);
    }

    #[test]
    fn splits_and_bridges() {
        let mut network = network(4);
        network.begin(1, Trouble::Bridge(0, vec![0, 0, 1, 1]), Time::ZERO);
        assert!(network.is_cut(1, 2) && !network.is_cut(0, 2) && !network.is_cut(3, 0));
        network.end(1, Time::ZERO);
        network.begin(2, Trouble::Split(vec![0, 1, 1, 2]), Time::ZERO);
        assert!(network.is_cut(0, 1) && !network.is_cut(1, 2) && network.is_cut(3, 2));
        network.calm(Time::ZERO);
        assert!(!network.is_cut(0, 1));
    }
}
