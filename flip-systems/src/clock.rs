//! The clock that a node is driven with, and the priority of the thread that drives it.

use flip_core::Time;
use rustix::time::{ClockId, clock_gettime};

/// The time on CLOCK_BOOTTIME: nanoseconds since boot, suspended time included, never going back.
///
/// `std::time::Instant` stops while the machine is suspended, so a node could not see that it slept.
#[must_use]
pub fn now() -> Time {
    let time = clock_gettime(ClockId::Boottime);
    // Neither field of a time since boot is negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
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
