//! The replay window: 1,024 counters behind the newest, after RFC 4303 section 3.4.3.

use crate::planted::{Bug, planted};

const WORDS: usize = 16;
const BITS: u64 = WORDS as u64 * 64;

/// Which counters of a session were seen.
#[derive(Clone, Debug, Default)]
pub struct Window {
    newest: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// The window of a session that proved itself with `counter`: what it sent before counts as seen,
    /// whether it arrived or not, so that nothing that was recorded before can be passed off as new.
    #[must_use]
    pub const fn after(counter: u64) -> Self {
        Self { newest: counter, seen: [u64::MAX; WORDS] }
    }

    /// True when `counter` was not seen and is not older than the window. Counters start at 1.
    #[must_use]
    pub fn is_new(&self, counter: u64) -> bool {
        if counter > self.newest || planted(Bug::ReplayWindowOff) {
            return true;
        }
        counter != 0 && self.newest - counter < BITS && self.seen[word(counter)] & bit(counter) == 0
    }

    /// Remembers `counter`, which must be new.
    pub fn mark(&mut self, counter: u64) {
        debug_assert!(self.is_new(counter));
        if counter > self.newest {
            let steps = (counter - self.newest).min(BITS);
            for step in 1..=steps {
                let passed = counter - steps + step;
                self.seen[word(passed)] &= !bit(passed);
            }
            self.newest = counter;
        }
        self.seen[word(counter)] |= bit(counter);
    }
}

fn word(counter: u64) -> usize {
    (counter / 64 % WORDS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt, SeedableRng};

    use super::*;

    /// The window agrees with a set that remembers everything, for any order of arrival.
    #[test]
    fn agrees_with_the_model() {
        for seed in 0..50 {
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let mut window = Window::default();
            let mut seen = BTreeSet::new();
            let mut newest: u64 = 0;
            for _ in 0..5_000 {
                let reach = *[3, 70, 1_500, 5_000].get(rng.random_range(0..4usize)).expect("in range");
                let counter = (newest + 5).saturating_sub(rng.random_range(0..reach)).max(1);
                let expected = !seen.contains(&counter) && newest.saturating_sub(counter) < BITS;
                assert_eq!(window.is_new(counter), expected, "seed {seed} counter {counter} newest {newest}");
                if expected {
                    window.mark(counter);
                    seen.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
        assert!(!Window::default().is_new(0));
        let mut window = Window::after(5_000);
        assert!((0..=5_000).all(|counter| !window.is_new(counter)));
        window.mark(5_003);
        assert_eq!(
            [5_001, 5_002, 5_003, 5_004].map(|counter| window.is_new(counter)),
            [true, true, false, true]
        );
    }
}
