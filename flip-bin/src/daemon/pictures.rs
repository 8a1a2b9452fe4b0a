//! How often watchers are shown a picture of the node.
//!
//! A picture costs the loop time, which of a thousand items is more than a turn costs otherwise. So pictures take
//! a tenth of the loop's time at most, however many changes there are and however slow the machine is; what comes
//! in between is shown with the next.

use flip_core::Time;

/// The loop goes on for so many times as long as a picture took before there is another.
const PAUSE: u32 = 9;

/// When the next picture may be made.
#[derive(Debug, Default)]
pub struct Pictures {
    not_before: Time,
    /// A turn went by without one, in which something may have changed.
    owed: bool,
}

impl Pictures {
    /// A turn is over: whether a picture may be made now. If not, there is one later ([`Self::due`]).
    pub fn may(&mut self, now: Time) -> bool {
        self.owed = now < self.not_before;
        !self.owed
    }

    /// One was made.
    pub fn made(&mut self, began: Time, ended: Time) {
        self.not_before = ended + ended.since(began) * PAUSE;
    }

    /// When a picture must be made that could not be made before.
    pub fn due(&self) -> Option<Time> {
        self.owed.then_some(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn pictures_take_a_tenth_of_the_time_and_none_is_lost() {
        for cost in [Duration::from_micros(40), Duration::from_millis(30)] {
            let mut pictures = Pictures::default();
            let begin = Time::from_millis(1000);
            let (mut now, mut spent) = (begin, Duration::ZERO);
            // A turn each 100 µs in which something changes, and then silence.
            for _ in 0..100_000 {
                if pictures.may(now) {
                    pictures.made(now, now + cost);
                    now += cost;
                    spent += cost;
                }
                now += Duration::from_micros(100);
            }
            let share = spent.as_secs_f64() / now.since(begin).as_secs_f64();
            assert!(share < 0.11 && share > 0.05, "{cost:?}: {share}");
            if let Some(due) = pictures.due() {
                assert!(pictures.may(due), "the last change is shown too");
                pictures.made(due, due + cost);
            }
            assert_eq!(pictures.due(), None, "and then nothing wakes the loop");
        }
    }
}
