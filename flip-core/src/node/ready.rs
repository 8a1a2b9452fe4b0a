//! What whoever starts and watches a node wants to know of it.

use std::time::Duration;

use super::Node;
use crate::event::ItemState;
use crate::supervise::Seen;
use crate::time::Time;
use crate::view::Life;

/// How long the first hooks may keep a node from being ready, beyond the time in which it looks around.
const FIRST_HOOKS: Duration = Duration::from_secs(10);

impl Node {
    /// How it stands, in a few numbers.
    #[must_use]
    pub fn seen(&self, now: Time) -> Seen {
        let mut seen = Seen {
            ready: self.is_ready(now),
            leaving: self.leaving.is_some(),
            isolated: !self.has_quorum,
            up: (0..self.config.servers.len()).filter(|server| self.view.is_up(*server)).count(),
            servers: self.config.servers.len(),
            quorum: self.config.quorum,
            held: 0,
            failing: 0,
        };
        for item in self.items.states() {
            match item {
                ItemState::Active => seen.held += 1,
                ItemState::Failing | ItemState::Unclean => seen.failing += 1,
                ItemState::Standby | ItemState::Acquiring | ItemState::Releasing => {}
            }
        }
        seen
    }

    /// Whether it has looked around: it knows of every server whether it lives, or has waited for as long as
    /// that takes; and what falls to it at once is here, or has been tried for long enough.
    ///
    /// A cluster of which nobody else runs must not keep a machine from booting, so both have an end.
    fn is_ready(&self, now: Time) -> bool {
        let timing = &self.config.timing;
        // Who never shows up is given the grace, then a case of about a window, then a verdict spreads.
        let look = self.started + self.grace() + timing.ping_timeout * 2 + timing.settle;
        let known = self.others().all(|server| self.view.get(server).life != Life::Unknown);
        let looked = known && self.has_quorum || now >= look;
        let done = !self.has_quorum || self.items.at_rest() || now >= look + FIRST_HOOKS;
        looked && done
    }
}
