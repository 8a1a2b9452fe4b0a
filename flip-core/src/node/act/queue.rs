//! Which items have to be looked at, and which wait until another hook of their system has ended.

use std::collections::BTreeSet;

use super::super::Node;
use super::{Isolated, lets_go};
use crate::id::ItemRef;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::{Translation, arrange};

#[derive(Debug)]
pub(super) struct Queue {
    /// Something may have to be done that no single item's change announced.
    all: bool,
    due: BTreeSet<ItemRef>,
    systems: Vec<Lane>,
}

/// The hooks of one system.
#[derive(Clone, Debug, Default)]
struct Lane {
    /// Those that run, but for announcements.
    running: usize,
    /// Items to be looked at when one has ended: first those that may come, then those that may go.
    waiting: BTreeSet<(bool, ItemRef)>,
}

impl Queue {
    pub(super) fn new(systems: usize) -> Self {
        Self { all: true, due: BTreeSet::new(), systems: vec![Lane::default(); systems] }
    }

    /// Everything is to be looked at again, so nothing waits.
    pub(super) fn translate(&mut self, to: &Translation, systems: usize) {
        let lanes = std::mem::take(&mut self.systems).into_iter().enumerate();
        let lanes = lanes.filter_map(|(before, lane)| Some((to.system(before)?, lane)));
        let running = |lane: Lane| Lane { running: lane.running, waiting: BTreeSet::new() };
        self.systems = arrange(systems, lanes.map(|(at, lane)| (at, running(lane))), Lane::default);
        self.due.clear();
        self.all = true;
    }

    pub(super) const fn look_at_all(&mut self) {
        self.all = true;
    }

    pub(super) fn look_at(&mut self, at: ItemRef) {
        self.due.insert(at);
    }

    pub(super) fn wait(&mut self, at: ItemRef, lets_go: bool) {
        self.systems[at.system].waiting.insert((lets_go, at));
    }

    /// Whether hooks of the system run, or items wait for them.
    pub(super) fn is_busy(&self, system: usize) -> bool {
        let lane = &self.systems[system];
        lane.running > 0 || !lane.waiting.is_empty()
    }

    pub(super) fn began(&mut self, system: usize) {
        self.systems[system].running += 1;
    }

    pub(super) fn ended(&mut self, system: usize) {
        let lane = &mut self.systems[system];
        lane.running = lane.running.saturating_sub(1);
    }
}

impl Node {
    /// Whether another hook of the system may start.
    pub(super) fn has_slot(&self, system: usize) -> bool {
        let most = self.config.systems[system].hooks.parallel;
        self.items.queue.systems[system].running < most || planted(Bug::HooksUnlimited)
    }

    /// An item that may be here no longer does not wait for other hooks: its lease does not either.
    pub(super) fn is_urgent(&self, at: ItemRef, now: Time) -> bool {
        let state = self.items.at(at).state;
        self.isolated(at) == Isolated::Drop && lets_go(state) && !self.may_hold(at, now)
    }

    pub(super) fn has_to_look(&self) -> bool {
        let queue = &self.items.queue;
        let lanes = || queue.systems.iter().enumerate();
        queue.all
            || !queue.due.is_empty()
            || lanes().any(|(system, lane)| !lane.waiting.is_empty() && self.has_slot(system))
    }

    /// Looks once at all items that have to be looked at.
    pub(super) fn look(&mut self, now: Time) {
        let queue = &mut self.items.queue;
        let due = std::mem::take(&mut queue.due);
        if std::mem::take(&mut queue.all) {
            for lane in &mut queue.systems {
                lane.waiting.clear();
            }
            let all: Vec<_> = self.items.each().collect();
            self.look_at_each(&all, now);
        } else {
            let due: Vec<_> = due.into_iter().collect();
            self.look_at_each(&due, now);
        }
        for system in 0..self.config.systems.len() {
            while self.has_slot(system)
                && let Some((_, at)) = self.items.queue.systems[system].waiting.pop_first()
            {
                self.item_step(at, now);
            }
        }
    }

    fn look_at_each(&mut self, items: &[ItemRef], now: Time) {
        for wave in [false, true] {
            for at in items {
                if lets_go(self.items.at(*at).state) == wave {
                    self.item_step(*at, now);
                }
            }
        }
    }
}
