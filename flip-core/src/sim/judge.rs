//! The promises about what is really there: P3, P4 and P6.

use std::time::Duration;

use super::happening::Happening;
use super::world::World;
use crate::config::{Isolated, Release, SystemKind};
use crate::time::Time;

impl World {
    /// Overlaps at this host are excused by an exception of GUARANTEES 1.2.3 for so long.
    pub(super) fn excuse(&mut self, index: usize, span: Duration, by: &'static str) {
        let until = self.now + span;
        let host = &mut self.hosts[index];
        if host.excuse.is_none_or(|(at, _)| at < until) {
            host.excuse = Some((until, by));
        }
        for item in 0..self.things.len() {
            if self.things[item].policy == Isolated::Drop {
                self.queue.push(until + Duration::from_nanos(1), Happening::Look { item });
            }
        }
    }

    /// A host may answer for an item now, or no more.
    pub(super) fn changed(&mut self, index: usize, item: usize) {
        let holds = self.hosts[index].answers(item, self.things[item].release);
        if !self.truth.set(item, index, holds, self.now) {
            return;
        }
        self.note(Some(index), || format!("{} item {item}", if holds { "has" } else { "lost" }));
        self.judge(item);
        if self.truth.none_since(item).is_some() {
            super::mark!("world: no holder of an item");
        }
        if self.truth.holders(item).len() > 1 && self.things[item].policy == Isolated::Keep {
            super::mark!("world: two holders of an item that is kept");
        }
        if let Some(since) = self.truth.none_since(item) {
            match self.things[item].policy {
                Isolated::Keep => {}
                Isolated::Take => {
                    let at = self.now + self.takeover();
                    self.queue.push(at, Happening::Missing { item, since });
                }
                Isolated::Drop => self.expect_a_lease(item, since),
            }
        }
    }

    /// P3: of an item that is dropped in isolation there are never two holders, but for the exceptions.
    pub(super) fn judge(&mut self, item: usize) {
        let thing = &self.things[item];
        if thing.policy != Isolated::Drop || thing.kind == SystemKind::Replicate {
            return;
        }
        let holders = self.truth.holders(item);
        let now = self.now;
        if holders.len() < 2 {
            if let Some((since, by)) = self.checker.overlaps.remove(&item) {
                let longest = self.checker.excused.entry(by).or_default();
                *longest = (*longest).max(now.since(since));
            }
            return;
        }
        let mut excuses = Vec::new();
        let mut plain = Vec::new();
        for holder in holders.iter().copied() {
            let host = &self.hosts[holder];
            if let Some((until, by)) = host.excuse
                && until >= now
            {
                excuses.push(by);
            } else if thing.release == Release::Hook && host.unanswered[item] {
                excuses.push("R10");
            } else if self.clock_is_bad(holder) {
                excuses.push("A1");
            } else {
                plain.push(holder);
            }
        }
        if plain.len() > 1 {
            self.broken("P3", format!("item {item} is held by n{plain:?} at the same time"));
        }
        if let Some(by) = excuses.first() {
            super::mark!("world: two holders of an item that is dropped, excused");
            self.checker.overlaps.entry(item).or_insert((now, by));
        }
    }

    /// Counts the overlaps that are still on.
    pub(super) fn close_overlaps(&mut self) {
        for (since, by) in std::mem::take(&mut self.checker.overlaps).into_values() {
            let longest = self.checker.excused.entry(by).or_default();
            *longest = (*longest).max(self.now.since(since));
        }
    }

    pub(super) const fn broken_already(&self) -> bool {
        !self.checker.violations.is_empty()
    }

    pub(super) const fn all_probe(&self) -> bool {
        self.checker.all_probe()
    }

    /// True while a clock runs beyond what assumption A1 allows.
    fn clock_is_bad(&self, index: usize) -> bool {
        self.hosts[index].clock.ppm().abs() > 10_000
    }

    /// The bound of P4: detection by the slowest way, a second round for whoever fails in between, and the
    /// hooks.
    pub(super) fn takeover(&self) -> Duration {
        self.checker.patience() * 2 + Duration::from_secs(6) + self.checker.falls_within
    }

    /// P4: an item of policy `take` is not without a holder while somebody could hold it.
    pub(super) fn judge_missing(&mut self, item: usize, since: Time) {
        if self.truth.none_since(item) != Some(since) {
            return;
        }
        if self.is_changing() {
            self.queue.push(self.now + self.takeover(), Happening::Missing { item, since });
            return;
        }
        if self.is_leased(item) {
            self.judge_lease(item, since);
            return;
        }
        let bound = self.takeover();
        // Whoever had failing hooks may believe for a while that they fail.
        let recovered = bound + self.checker.hook_patience;
        let witnessed = self.hosts.iter().all(|host| host.unwitnessed == 0)
            && self.checker.unwitnessed.is_none_or(|at| self.now.since(at) >= bound);
        let could = (0..self.hosts.len()).find(|index| {
            let host = &self.hosts[*index];
            self.things[item].members[*index]
                && self.names(*index, item)
                && !host.drained
                && !host.leaving
                && host.node.is_some()
                && self.checker.runs_since(*index).is_some_and(|at| self.now.since(at) >= bound)
                && witnessed
                && host.check_sound.is_some_and(|at| self.now.since(at) >= recovered)
                && host
                    .healthy_since
                    .is_some_and(|at| self.now.since(at) >= if host.was_ill { recovered } else { bound })
        });
        if let Some(host) = could {
            let what =
                format!("item {item} has no holder since {since}, and n{host} is healthy all the time");
            self.broken("P4", what);
        } else {
            self.queue.push(self.now + bound / 2, Happening::Missing { item, since });
        }
    }

    /// P6: among the hosts that are healed all views are equal, and every item has exactly its holders.
    /// Returns what is not so yet.
    #[must_use]
    pub fn unsettled(&self, core: &[usize]) -> Option<String> {
        let nodes =
            || core.iter().filter_map(|host| self.hosts[*host].node.as_ref().map(|node| (*host, node)));
        let mut digests = nodes().map(|(_, node)| node.view().digest());
        let first = digests.next()?;
        if digests.any(|digest| digest != first) {
            let lives: Vec<_> = nodes()
                .map(|(host, node)| {
                    (host, node.view().iter().map(|r| (r.life, r.generation)).collect::<Vec<_>>())
                })
                .collect();
            return Some(format!("views differ: {lives:?}"));
        }
        let mut rings = nodes().map(|(_, node)| node.ring());
        let first = rings.next()?;
        if rings.any(|ring| ring != first) {
            return Some("key rings differ".into());
        }
        if let Some((host, _)) = nodes().find(|(_, node)| !node.has_quorum()) {
            return Some(format!("n{host} sees no quorum"));
        }
        let (any_host, any) = nodes().next()?;
        if let Some(left) = self.left_of_before(core).or_else(|| self.unsettled_catalogs(core)) {
            return Some(left);
        }
        let config = any.config();
        for system in 0..config.systems.len() {
            let eligible = |server: usize, _| any.view().is_up(server) && !self.hosts[server].drained;
            let placed = crate::placement::place(config, system, eligible);
            for (at, wanted) in placed.into_iter().enumerate() {
                let Some(item) = self.thing_at(any_host, crate::id::ItemRef { system, item: at }) else {
                    continue;
                };
                let mut wanted = wanted;
                wanted.sort_unstable();
                let holders: Vec<_> =
                    self.truth.holders(item).iter().copied().filter(|host| core.contains(host)).collect();
                if holders != wanted {
                    return Some(format!("item {item} is on {holders:?}, wanted on {wanted:?}"));
                }
            }
        }
        if core.len() == self.hosts.len() {
            return self.stale_client();
        }
        None
    }
}
