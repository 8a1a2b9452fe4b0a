//! The clock that a node is driven with, and the priority of the thread that drives it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flip_core::Time;
use rustix::time::{ClockId, clock_gettime};

/// The time on CLOCK_BOOTTIME: nanoseconds since boot, suspended time included, never going back.
///
/// `std::time::Instant` stops while the machine is suspended, so a node could not see that it slept.
#[must_use]
pub fn now() -> Time {
    read(ClockId::Boottime)
}

/// The wall clock in milliseconds since 1970, at least 1: a generation for whoever has none stored.
pub fn wall_millis() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis());
    // Generations must have room to grow.
    u64::try_from(wall).unwrap_or(u64::MAX / 4).max(1)
}

/// A generation for a node that stores none: [`wall_millis`], or one more than this gave last in this process.
///
/// So it grows unless the clock is behind an earlier process's. Then the others take the node for an earlier
/// life of itself and do not count it in before the clock is right and the node was started again. Nobody else is
/// harmed: what an earlier life promised is waited out (rule R4) and not known by its number.
pub fn generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let wall = wall_millis();
    let next = |last: u64| wall.max(last + 1);
    // The closure gives something each time, so there is no error; what comes back is the value before.
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last))).map_or(wall, next)
}

fn read(clock: ClockId) -> Time {
    let time = clock_gettime(clock);
    // Neither field of a time since boot is negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Notices that the machine slept: CLOCK_BOOTTIME went on, CLOCK_MONOTONIC and the kernel's own timers
/// stood still (rule R7).
#[derive(Debug)]
pub struct Sleep {
    /// How much further CLOCK_BOOTTIME is.
    ahead: Duration,
}

/// Less is what passes between reading one clock and the other.
const SLEPT: Duration = Duration::from_millis(1);

impl Default for Sleep {
    fn default() -> Self {
        Self { ahead: ahead() }
    }
}

impl Sleep {
    /// For how long the machine slept since this was asked last, or made; none where it did not.
    pub fn noticed(&mut self) -> Option<Duration> {
        self.compare(ahead())
    }

    fn compare(&mut self, ahead: Duration) -> Option<Duration> {
        let by = ahead.checked_sub(self.ahead).filter(|by| *by >= SLEPT)?;
        self.ahead = ahead;
        Some(by)
    }
}

/// How much further CLOCK_BOOTTIME is than CLOCK_MONOTONIC: never too much, and where this thread is
/// interrupted at the wrong moment each time, too little by how long that took.
fn ahead() -> Duration {
    let mut best = Duration::ZERO;
    for _ in 0..5 {
        let before = now();
        let monotonic = read(ClockId::Monotonic);
        let after = now();
        best = best.max(before.since(monotonic));
        if after.since(before) < SLEPT / 2 {
            break;
        }
    }
    best
}

/// What [`raise_priority`] achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// SCHED_RR at the lowest real-time priority: before every ordinary thread.
    RealTime,
    /// Ordinary scheduling with this nice value.
    Nice(i32),
    /// Nothing was allowed (CAP_SYS_NICE is missing); the thread is as it was.
    Unchanged,
}

/// Puts the calling thread before others, as far as this process is allowed to: SCHED_RR, else
/// nice -10, else nothing.
///
/// Profiles that probe every few milliseconds need it on a busy machine. Call it on the thread that
/// runs the loop: other threads keep theirs, and neither threads nor processes started later
/// inherit it (SCHED_RESET_ON_FORK), so that no hook runs in real time. The kernel keeps 5 % of
/// the time for the rest of the machine whatever a real-time thread does (`sched_rt_runtime_us`).
pub fn raise_priority() -> Priority {
    if crate::sys::set_round_robin(1).is_ok() {
        return Priority::RealTime;
    }
    const NICE: i32 = -10;
    // Without a pid the call concerns the calling thread only (setpriority(2), "C library/kernel
    // differences").
    match rustix::process::setpriority_process(None, NICE) {
        Ok(()) => Priority::Nice(NICE),
        Err(_) => Priority::Unchanged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_go_back() {
        let mut last = now();
        assert!(last > Time::ZERO);
        for _ in 0..1000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }

    #[test]
    fn generations_of_one_process_grow() {
        let first = generation();
        assert!(first >= 1_600_000_000_000, "the wall clock in milliseconds: {first}");
        // Many within one millisecond.
        (0..1000).fold(first, |last, _| {
            let next = generation();
            assert!(next > last);
            next
        });
    }

    #[test]
    fn sleep_is_noticed_once() {
        let ms = Duration::from_millis;
        let mut sleep = Sleep { ahead: ms(500) };
        let table = [(500, None), (500, None), (700, Some(200)), (700, None), (699, None), (701, Some(1))];
        for (ahead, by) in table {
            assert_eq!(sleep.compare(ms(ahead)), by.map(ms), "{ahead}");
        }
        // This machine is awake.
        let mut sleep = Sleep::default();
        for _ in 0..1000 {
            assert_eq!(sleep.noticed(), None);
        }
    }

    #[test]
    fn priority_is_what_was_said() {
        // A thread of its own, because there is no way back.
        std::thread::spawn(|| match raise_priority() {
            Priority::Nice(nice) => {
                assert_eq!(rustix::process::getpriority_process(None).unwrap(), nice);
            }
            Priority::RealTime | Priority::Unchanged => {}
        })
        .join()
        .unwrap();
    }
}
