//! What a service manager is told of a node, and when: a pure machine beside the node, fed once in each turn of
//! the loop that drives it.
//!
//! ```text
//!            looked around             asked to leave
//!  Starting ───────────────▶ Running ─────────────────▶ Stopping
//!     │      READY, STATUS      │ STATUS when it changes    ▲ EXTEND_TIMEOUT while turns go on
//!     │                         │ WATCHDOG while in time    │
//!     └─────────────────────────────────────────────────────┘
//! ```
//!
//! **The watchdog is fed by progress.** A turn feeds it only if the turn itself came in time: what the node had
//! due, when the turn before ended, was not overdue by more than a third of the watchdog's time. A loop that
//! does not turn feeds nothing, and neither does one that turns and is always late; one late turn, as after a
//! suspended machine, is made good by the next.

use std::fmt::Write;
use std::time::Duration;

use crate::time::Time;

/// How often the status line is looked at while the node starts, and afterwards.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// For how long a stop asks for more time, each time.
const EXTEND: Duration = Duration::from_secs(15);

/// How a node stands, in a few numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It has looked around, and what falls to it at once is here.
    pub ready: bool,
    /// It was asked to leave.
    pub leaving: bool,
    /// It sees no quorum.
    pub isolated: bool,
    /// Servers that are up, itself included.
    pub up: usize,
    /// All servers.
    pub servers: usize,
    /// How many of them it must see.
    pub quorum: usize,
    /// Items that are here.
    pub held: usize,
    /// Items that failed here.
    pub failing: usize,
}

impl Seen {
    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = String::new();
        let items = if self.held == 1 { "item" } else { "items" };
        // Writing to a string does not fail.
        let _ = match self.leaving {
            true => write!(line, "leaving: {} {items} to hand over or let go", self.held),
            false => write!(line, "holds {} {items}", self.held),
        };
        if self.failing > 0 {
            let _ = write!(line, ", {} failing", self.failing);
        }
        let _ = write!(line, "; {} of {} servers up", self.up, self.servers);
        if self.isolated && !self.leaving {
            let _ = write!(line, ", NO QUORUM (needs {})", self.quorum);
        }
        line
    }
}

/// What to tell the service manager (sd_notify(3)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// READY=1.
    Ready,
    /// STATUS=…
    Status(String),
    /// WATCHDOG=1.
    Watchdog,
    /// STOPPING=1.
    Stopping,
    /// EXTEND_TIMEOUT_USEC=…
    Extend(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Stopping,
}

/// Tells a service manager of one node.
#[derive(Debug)]
pub struct Supervisor {
    /// After how long without being fed the service manager ends the process.
    watchdog: Option<Duration>,
    phase: Phase,
    /// When the node had something due, as of the last turn.
    promised: Option<Time>,
    /// When the watchdog is to be fed next.
    feed: Time,
    /// When the node is looked at next.
    look: Time,
    /// When more time is asked for next.
    extend: Time,
    line: String,
}

impl Supervisor {
    /// Begins with the start of a node. `watchdog` is how long it may be silent.
    #[must_use]
    pub const fn new(watchdog: Option<Duration>) -> Self {
        let now = Time::ZERO;
        let line = String::new();
        Self { watchdog, phase: Phase::Starting, promised: None, feed: now, look: now, extend: now, line }
    }

    /// A turn of the loop is over: everything is worked off, and `due` is when the node next has something to
    /// do. `seen` is asked only when the answer matters; `leaving` as in [`Seen`].
    pub fn turn(
        &mut self,
        now: Time,
        due: Option<Time>,
        leaving: bool,
        seen: impl FnOnce() -> Seen,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        let promised = std::mem::replace(&mut self.promised, due);
        if let Some(watchdog) = self.watchdog
            && now >= self.feed
            && promised.is_none_or(|promised| now.since(promised) <= watchdog / 3)
            // What is due now and stays so is not worked off.
            && due.is_none_or(|due| now.since(due) <= watchdog / 3)
        {
            notices.push(Notice::Watchdog);
            self.feed = now + watchdog / 3;
        }
        // The goodbye may be over sooner than the next look.
        if now >= self.look || (leaving && self.phase != Phase::Stopping) {
            self.look(now, &seen(), &mut notices);
        }
        if self.phase == Phase::Stopping && now >= self.extend {
            notices.push(Notice::Extend(EXTEND));
            self.extend = now + EXTEND / 3;
        }
        notices
    }

    /// When there must be a turn, whatever the node has due.
    #[must_use]
    pub fn due(&self) -> Time {
        let feed = self.watchdog.map(|_| self.feed);
        let extend = (self.phase == Phase::Stopping).then_some(self.extend);
        [feed, extend].into_iter().flatten().fold(self.look, Time::min)
    }

    fn look(&mut self, now: Time, seen: &Seen, notices: &mut Vec<Notice>) {
        let line = seen.line();
        if self.phase != Phase::Stopping && seen.leaving {
            self.phase = Phase::Stopping;
            notices.push(Notice::Stopping);
        }
        if self.phase == Phase::Starting && seen.ready {
            self.phase = Phase::Running;
            notices.push(Notice::Ready);
        }
        if self.line != line {
            notices.push(Notice::Status(line.clone()));
            self.line = line;
        }
        self.look = now + if self.phase == Phase::Starting { LOOK.0 } else { LOOK.1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn up(held: usize) -> Seen {
        Seen { ready: true, up: 2, servers: 3, quorum: 2, held, ..Seen::default() }
    }

    fn fed(notices: &[Notice]) -> bool {
        notices.contains(&Notice::Watchdog)
    }

    const WATCHDOG: Duration = Duration::from_secs(3);

    #[test]
    fn each_phase_says_what_it_has_to_say_once() {
        let mut supervisor = Supervisor::new(None);
        let starting = Seen { ready: false, isolated: true, up: 1, held: 0, ..up(0) };
        let line = "holds 0 items; 1 of 3 servers up, NO QUORUM (needs 2)".to_owned();
        assert_eq!(supervisor.turn(at(0), None, false, || starting.clone()), [Notice::Status(line)]);
        assert_eq!(supervisor.due(), at(50));
        assert_eq!(supervisor.turn(at(10), None, false, || panic!("not asked so soon")), []);
        let line = "holds 1 item; 2 of 3 servers up".to_owned();
        assert_eq!(supervisor.turn(at(60), None, false, || up(1)), [Notice::Ready, Notice::Status(line)]);
        assert_eq!(supervisor.due(), at(1060));
        assert_eq!(supervisor.turn(at(1060), None, false, || up(1)), [], "nothing is new");
        // What is told once stays told.
        assert_eq!(supervisor.turn(at(2060), None, false, || Seen { ready: false, ..up(1) }), []);
        let line = "holds 1 item, 2 failing; 2 of 3 servers up".to_owned();
        let notices = supervisor.turn(at(3060), None, false, || Seen { failing: 2, ..up(1) });
        assert_eq!(notices, [Notice::Status(line)]);
        let leaving = Seen { leaving: true, ..up(1) };
        let line = "leaving: 1 item to hand over or let go; 2 of 3 servers up".to_owned();
        assert_eq!(
            supervisor.turn(at(3100), None, true, || leaving.clone()),
            [Notice::Stopping, Notice::Status(line), Notice::Extend(EXTEND)]
        );
        // As long as turns go on there is more time, and READY does not come any more.
        assert_eq!(supervisor.turn(at(8099), None, true, || leaving.clone()), []);
        assert_eq!(supervisor.due(), at(8100));
        assert_eq!(supervisor.turn(at(8100), None, true, || leaving.clone()), [Notice::Extend(EXTEND)]);
    }

    #[test]
    fn who_leaves_before_it_was_ready_never_says_that_it_is() {
        let mut supervisor = Supervisor::new(None);
        let notices = supervisor.turn(at(0), None, true, || Seen { leaving: true, ..up(0) });
        assert_eq!(notices.first(), Some(&Notice::Stopping));
        assert!(!notices.contains(&Notice::Ready), "{notices:?}");
    }

    #[test]
    fn a_loop_in_time_feeds_three_times_in_a_period() {
        let mut supervisor = Supervisor::new(Some(WATCHDOG));
        let mut fed_at = Vec::new();
        let mut now = at(0);
        while now <= at(4000) {
            let due = now + Duration::from_millis(100);
            if fed(&supervisor.turn(now, Some(due), false, || up(0))) {
                fed_at.push(now);
            }
            now = due.min(supervisor.due());
        }
        assert_eq!(fed_at, [0, 1000, 2000, 3000, 4000].map(at));
    }

    #[test]
    fn who_has_nothing_due_is_woken_to_feed() {
        let mut supervisor = Supervisor::new(Some(WATCHDOG));
        for n in 0..5 {
            let now = supervisor.due();
            assert!(now <= at(n * 1000), "{n}");
            assert!(fed(&supervisor.turn(at(n * 1000), None, false, || up(0))), "{n}");
        }
    }

    #[test]
    fn a_loop_that_turns_too_late_feeds_nothing() {
        let mut supervisor = Supervisor::new(Some(WATCHDOG));
        assert!(fed(&supervisor.turn(at(0), Some(at(100)), false, || up(0))));
        // Each turn comes more than a second after what was due.
        for turn in 1..10 {
            let now = at(turn * 1500);
            let notices = supervisor.turn(now, Some(now + Duration::from_millis(100)), false, || up(0));
            assert!(!fed(&notices), "{notices:?}");
        }
        // One that is in time again feeds at once.
        assert!(fed(&supervisor.turn(at(13_700), Some(at(13_800)), false, || up(0))));
    }

    #[test]
    fn timers_that_are_not_worked_off_feed_nothing() {
        let mut supervisor = Supervisor::new(Some(WATCHDOG));
        assert!(fed(&supervisor.turn(at(0), Some(at(0)), false, || up(0))));
        // The loop turns all the time, and what was due at zero still is.
        assert!(fed(&supervisor.turn(at(1000), Some(at(0)), false, || up(0))));
        for now in (1100..10_000).step_by(100) {
            assert!(!fed(&supervisor.turn(at(now), Some(at(0)), false, || up(0))), "{now}");
        }
    }
}
