//! Lines that come for hundreds of items at a time: the first of a moment are written, the others are counted.

use std::time::Duration;

use flip_core::Time;

/// A moment: what comes within it after its first lines goes into one.
const MOMENT: Duration = Duration::from_secs(1);
/// So many lines of one kind are written in a moment.
const EACH: u32 = 8;

/// One kind of lines.
#[derive(Debug, Default)]
pub struct Crowd {
    /// When the moment began.
    since: Option<Time>,
    written: u32,
    left_out: u64,
}

impl Crowd {
    /// One more comes: whether it has a line of its own. What is over has to be told before ([`Self::over`]).
    pub fn comes(&mut self, now: Time) -> bool {
        if self.since.is_none_or(|since| now.since(since) >= MOMENT) {
            (self.since, self.written) = (Some(now), 0);
        }
        let own = self.written < EACH;
        if own {
            self.written += 1;
        } else {
            self.left_out += 1;
        }
        own
    }

    /// The moment is over, and so many had no line of their own.
    pub fn over(&mut self, now: Time) -> Option<u64> {
        let over = self.due().is_some_and(|due| due <= now);
        over.then(|| std::mem::take(&mut self.left_out))
    }

    /// When those are to be told of that had no line.
    pub fn due(&self) -> Option<Time> {
        self.since.filter(|_| self.left_out > 0).map(|since| since + MOMENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_written_and_many_are_counted() {
        let at = |millis: u64| Time::from_millis(5000 + millis);
        let mut crowd = Crowd::default();
        assert_eq!((crowd.over(at(0)), crowd.due()), (None, None));
        assert!((0..8).all(|n| crowd.comes(at(n))));
        assert_eq!(crowd.due(), None, "all were written");
        assert_eq!((8..256).filter(|n| crowd.comes(at(*n))).count(), 0);
        assert_eq!((crowd.due(), crowd.over(at(999))), (Some(at(1000)), None));
        assert_eq!(crowd.over(at(1000)), Some(248));
        assert_eq!((crowd.over(at(1001)), crowd.due()), (None, None), "told once");
        assert!(crowd.comes(at(1002)), "another moment");
    }
}
