//! The clock of one host: CLOCK_BOOTTIME, which runs a little fast or slow and never stops, unless a
//! hypervisor hides a pause from it.

use std::time::Duration;

use crate::time::Time;

/// Maps the time of the world to the time that a host reads.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    world: Time,
    local: u64,
    /// Parts per million that it is fast.
    ppm: i64,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    pub(super) const fn new(world: Time, local: Time, ppm: i64) -> Self {
        Self { world, local: local.as_nanos(), ppm }
    }

    /// What the host reads at a moment of the world.
    pub(super) fn local(&self, world: Time) -> Time {
        let passed = i128::from(world.as_nanos()) - i128::from(self.world.as_nanos());
        let shown = i128::from(self.local) + scale(passed, MILLION + i128::from(self.ppm));
        Time::from_nanos(u64::try_from(shown).unwrap_or(0))
    }

    /// The first moment of the world at which the host reads at least `local`.
    pub(super) fn world(&self, local: Time) -> Time {
        let wanted = i128::from(local.as_nanos()) - i128::from(self.local);
        let rate = MILLION + i128::from(self.ppm);
        let passed = if self.ppm == 0 { wanted } else { unscale(wanted, rate) };
        let at = i128::from(self.world.as_nanos()) + passed;
        let mut at = Time::from_nanos(u64::try_from(at).unwrap_or(0));
        while self.local(at) < local {
            at += Duration::from_nanos(1);
        }
        at
    }

    /// From now on it runs at another rate.
    pub(super) fn set_rate(&mut self, now: Time, ppm: i64) {
        *self = Self::new(now, self.local(now), ppm);
    }

    /// It stood still for `pause` until now, and does not know.
    pub(super) fn lose(&mut self, now: Time, pause: Duration) {
        *self = Self::new(now, self.local(now) - pause, self.ppm);
    }

    pub(super) const fn ppm(&self) -> i64 {
        self.ppm
    }

    /// A span of this clock in the time of the world.
    pub(super) fn stretch(&self, span: Duration) -> Duration {
        let nanos = span.as_nanos() * 1_000_000 / u128::try_from(MILLION + i128::from(self.ppm)).unwrap_or(1);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A span at `rate` millionths, towards zero. Most fit into 64 bits, where division is much faster.
fn scale(span: i128, rate: i128) -> i128 {
    if rate == MILLION {
        return span;
    }
    let product = span * rate;
    i64::try_from(product).map_or_else(|_| product / MILLION, |product| i128::from(product / 1_000_000))
}

/// The shortest span that at `rate` millionths is at least `shown`.
fn unscale(shown: i128, rate: i128) -> i128 {
    let product = shown * MILLION + rate - 1;
    match (i64::try_from(product), i64::try_from(rate)) {
        (Ok(product), Ok(rate)) => i128::from(product.div_euclid(rate)),
        _ => product.div_euclid(rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for ppm in [-300_000, -10_000, -1, 0, 1, 9_999, 100_000] {
            let mut clock = Clock::new(Time::from_millis(1000), Time::from_millis(77), ppm);
            for step in 0..100u64 {
                let local = Time::from_nanos(77_000_000 + step * 1_234_567_891);
                let world = clock.world(local);
                assert!(clock.local(world) >= local, "ppm {ppm}");
                assert!(clock.local(world - Duration::from_nanos(2)) < local, "ppm {ppm} step {step}");
            }
            let now = Time::from_millis(500_000);
            let shown = clock.local(now);
            clock.set_rate(now, 500);
            assert_eq!(clock.local(now), shown, "a change of rate is no jump");
            clock.lose(now, Duration::from_secs(1));
            assert_eq!(clock.local(now), shown - Duration::from_secs(1));
        }
    }
}
