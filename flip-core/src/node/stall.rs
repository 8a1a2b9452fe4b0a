//! After a stall of this node's own loop nothing that it was waiting for means anything, and the
//! others must be heard again before it acts.
//!
//! A host on which many nodes stall together must not be kept busy by their asking around: the first
//! stall asks at once, and a stall soon after another waits ever longer before it asks again. What
//! arrives by itself meanwhile counts all the same.

use std::time::Duration;

use super::{Node, Timer};
use crate::event::Event;
use crate::limits;
use crate::loss::Purpose;
use crate::planted::{Bug, planted};
use crate::time::Time;

/// Shortest time between two rounds of asking.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// When the others were asked after a stall, and how soon they may be asked again.
#[derive(Debug)]
pub(super) struct Asking {
    last: Option<Time>,
    pause: Duration,
}

impl Default for Asking {
    fn default() -> Self {
        Self { last: None, pause: FIRST_PAUSE }
    }
}

impl Asking {
    /// When to ask because of a stall that was noticed now.
    fn due(&self, now: Time) -> Time {
        self.last.map_or(now, |last| (last + self.pause).max(now))
    }

    fn asked(&mut self, now: Time) {
        let calm = self.last.is_none_or(|last| now.since(last) > 4 * limits::ASKING_PAUSE);
        self.pause = if calm { FIRST_PAUSE } else { (2 * self.pause).min(limits::ASKING_PAUSE) };
        self.last = Some(now);
    }
}

impl Node {
    /// A loop that was late by more than half a window cannot tell a dead peer from its own absence:
    /// whatever it was waiting for starts anew, and nothing heard before counts. True when it was late.
    pub(super) fn notice_stall(&mut self, now: Time) -> bool {
        let Some(due) = self.poll_timeout() else { return false };
        // Inputs that waited through the same stall do not make it another one.
        let late = now.since(self.distrust_before.map_or(due, |noticed| noticed.max(due)));
        if late <= self.config.timing.window() / 2 || planted(Bug::NoStallCheck) {
            return false;
        }
        self.event(Event::Stalled { late });
        self.distrust_before = Some(now);
        self.pings.forget();
        self.ballots.clear();
        self.round.1.clear();
        self.timers.cancel(Timer::RoundCheck);
        self.void_cases(now);
        self.void_checks();
        self.timers.set_earlier(Timer::Ask, self.asking.due(now));
        true
    }

    /// True for so long after a stall that whatever stood by then has been said again.
    pub(super) fn just_stalled(&self, now: Time) -> bool {
        self.distrust_before.is_some_and(|stall| now.since(stall) <= self.config.timing.window() / 2)
            && !planted(Bug::StaleBallotsCount)
    }

    /// Until when nothing is announced after a stall: the others may have given the items of this node away
    /// meanwhile, and what waited in its socket through the stall says nothing of that.
    pub(super) fn silent_until(&self, now: Time) -> Option<Time> {
        let stall = self.distrust_before.filter(|_| self.just_stalled(now))?;
        Some(stall + self.config.timing.window() / 2 + Duration::from_millis(1))
    }

    /// Asks all voters that were not heard since the stall, because an old pong proves nothing now, and
    /// greets those who are missing.
    pub(super) fn ask_around(&mut self, now: Time) {
        self.asking.asked(now);
        for voter in self.config.voters.clone() {
            if voter != self.config.me && self.view.is_up(voter) && !self.heard_since_stall(voter) {
                self.ping(voter, Purpose::Probe, now);
            }
        }
        self.greet_soon(now);
    }

    fn heard_since_stall(&self, server: usize) -> bool {
        self.distrust_before.is_none_or(|stall| self.spread.last_heard(server).is_some_and(|at| at >= stall))
    }

    /// True when a member answers as far as this node can trust its senses.
    pub(super) fn is_heard(&self, server: usize) -> bool {
        self.heard_since_stall(server) && self.cases.get(&server).is_none_or(|case| !case.silent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, ItemState, Reason};
    use crate::node::checked::{Cluster, MS};

    /// What waited in its socket lets a holder that was stopped see a quorum before it knows that it was declared
    /// down. It must neither call clients back to itself nor keep the item.
    #[test]
    fn a_holder_that_was_stopped_announces_nothing_and_lets_go_of_what_others_took() {
        let mut cluster = Cluster::new("abc", |config| {
            config.systems[0].items[0].checks.clear();
            config.timing.mature = MS(60_000);
        });
        cluster.run(MS(1000));
        assert_eq!(cluster.holders(), [0]);
        cluster.freeze(0);
        cluster.run(MS(20_000));
        assert_eq!(cluster.holders().len(), 2, "its kernel has it still, and another daemon");
        let winner = cluster.holders()[1];
        cluster.events.clear();
        cluster.thaw(0);
        cluster.run(MS(1000));
        assert_eq!(cluster.holders(), [winner]);
        assert_eq!(cluster.state(0), ItemState::Standby);
        let announced = |(node, event): &&(usize, Event)| {
            *node == 0
                && matches!(event, Event::Reannounced { .. } | Event::Item { reason: Reason::Drift, .. })
        };
        assert_eq!(cluster.events.iter().find(announced), None);
    }

    #[test]
    fn who_stalls_again_and_again_asks_ever_less() {
        let mut asking = Asking::default();
        let mut asked = Vec::new();
        let mut waiting: Option<Time> = None;
        for millis in (0..60_000).step_by(10) {
            let now = Time::from_millis(millis);
            if millis % 200 == 0 {
                waiting = Some(waiting.map_or(asking.due(now), |at| at.min(asking.due(now))));
            }
            if waiting.is_some_and(|at| at <= now) {
                waiting = None;
                asking.asked(now);
                asked.push(millis);
            }
        }
        assert_eq!(asked[..3], [0, 200, 400], "{asked:?}");
        assert!((30..40).contains(&asked.len()), "{asked:?}");
        let later = Time::from_millis(90_000);
        assert_eq!(asking.due(later), later, "after a calm time the first stall asks at once");
        asking.asked(later);
        assert_eq!(asking.due(later), later + FIRST_PAUSE);
    }
}
