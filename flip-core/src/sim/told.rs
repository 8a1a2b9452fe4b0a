//! Liveness of what was agreed: a verdict reaches everybody who can be reached, and an item under a lease
//! is held where everybody is well.

use std::time::Duration;

use super::adopt::sees;
use super::happening::Happening;
use super::world::World;
use crate::config::Isolated;
use crate::lease::quarantine;
use crate::limits;
use crate::time::Time;
use crate::view::Life;

/// A verdict on its way to somebody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    /// Who reached it first.
    by: usize,
    to: usize,
    about: usize,
    generation: u64,
    since: Time,
}

/// How long a verdict may take to somebody to whom nothing is lost.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

impl World {
    /// Who reached a verdict first tells everybody, without waiting for a digest; its subject, when it
    /// speaks next.
    pub(super) fn expect_all_told(&mut self, by: usize, about: usize, generation: u64) {
        if !self.checker.all_probe() || generation == 0 {
            return;
        }
        let since = self.now;
        let probes = self.hosts[by].config.timing.probe_interval * 2;
        for to in (0..self.hosts.len()).filter(|to| *to != by) {
            // Who comes back a moment later hears of it with the next digest.
            let in_sight = self.hosts[by].node.as_ref().is_some_and(|node| sees(node, to));
            if to != about && !in_sight || !self.same_electorate(by, to) {
                continue;
            }
            let mut at = since + TOLD_WITHIN + self.checker.slowest * 2;
            if to == about {
                at += probes + limits::GREETING_PAUSE * 2;
            }
            self.queue.push(at, Happening::Told(Word { by, to, about, generation, since }));
        }
    }

    /// P6: by now it knows, if nothing was in the way.
    pub(super) fn judge_told(&mut self, word: &Word) {
        let Word { by, to, about, generation, since } = *word;
        let well = |host: usize| {
            let there = &self.hosts[host];
            there.healthy_since.is_some_and(|at| at < since)
                && self.checker.runs_since(host).is_some_and(|at| since.since(at) > limits::GREETING_PAUSE)
                && !there.leaving
        };
        let met = since - self.checker.patience();
        if !well(by) || !well(to) || !self.network.was_good(by, to, met) || !self.network.is_lossless(by, to)
        {
            return;
        }
        let (Some(teller), Some(node)) = (self.hosts[by].node.as_ref(), self.hosts[to].node.as_ref()) else {
            return;
        };
        let knows = if to == about {
            node.generation() > generation
        } else {
            // Who is in no config any more is gone for good.
            let named = about < node.config().servers.len();
            let record = node.view().get(if named { about } else { to });
            !named || record.generation > generation || record.life != Life::Up
        };
        // Whoever lost one of the two from sight has no reason to talk to it.
        let in_sight = to == about || sees(teller, to) && sees(node, by);
        if in_sight && !knows && self.same_electorate(by, to) {
            let what =
                format!("n{by} took n{about}@{generation} for down at {since}, and n{to} has not heard it");
            self.broken("P6", what);
        }
    }

    /// Whoever has not heard yet of a change of who votes cannot know that those who agreed are a quorum.
    fn same_electorate(&self, one: usize, other: usize) -> bool {
        let electorate = |host: usize| self.hosts[host].node.as_ref().map(|node| node.config().voters_hash());
        electorate(one) == electorate(other)
    }

    /// An item under a lease has no holder since now.
    pub(super) fn expect_a_lease(&mut self, item: usize, since: Time) {
        let at = self.now + self.lease_within();
        self.queue.push(at, Happening::Missing { item, since });
    }

    /// How long an item may wait for a lease where everybody is well: what was promised before runs out, or
    /// voters that have just started keep silent; then it is claimed.
    fn lease_within(&self) -> Duration {
        quarantine(self.lease) + self.lease / 16 + self.checker.patience() + Duration::from_secs(2)
    }

    /// P4, promise E-live: an item under a lease is held soon after all is well.
    pub(super) fn judge_lease(&mut self, item: usize, since: Time) {
        let bound = self.lease_within();
        let before = self.now - bound;
        let known = |index: usize| self.names(index, item);
        let well = |index: usize| {
            let host = &self.hosts[index];
            host.healthy_since.is_some_and(|at| at <= before)
                && self.checker.runs_since(index).is_some_and(|at| at <= before)
                && !host.leaving
                && !host.drained
                && known(index)
        };
        let reach = |a: usize, b: usize| {
            a == b || self.network.was_good(a, b, before) && self.network.is_lossless(a, b)
        };
        let hosts = 0..self.hosts.len();
        let fine = self.checker.all_probe()
            && self.checker.hook_patience.is_zero()
            && self.edited.is_none()
            && hosts.clone().any(|index| self.things[item].members[index])
            && hosts.clone().all(|a| well(a) && hosts.clone().all(|b| reach(a, b)));
        if fine {
            self.broken("P4", format!("item {item} has no holder since {since}, and everybody is well"));
        } else {
            self.queue.push(self.now + bound / 16, Happening::Missing { item, since });
        }
    }

    /// Whether the promise about items without a holder is that of leases.
    pub(super) fn is_leased(&self, item: usize) -> bool {
        self.things[item].policy == Isolated::Drop
    }
}
