//! `post` hooks: once after a whole plan is done, with all that it changed (Wackamole's `post up` and
//! `post down`). One that fails is told and not repeated: the next plan calls it anew.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Node;
use super::Items;
use crate::event::{Event, ItemState, Reason};
use crate::id::ItemRef;
use crate::io::{Change, Output, PostCall};
use crate::translation::Translation;

/// What `post` hooks have to tell, system by system.
#[derive(Debug)]
pub(super) struct Posts {
    systems: Vec<Plan>,
}

#[derive(Clone, Debug, Default)]
struct Plan {
    /// Items on their way.
    moving: usize,
    /// Items that are here.
    here: BTreeSet<usize>,
    /// What became different since the last call.
    changed: BTreeMap<usize, (bool, Reason)>,
    running: Option<u64>,
}

impl Posts {
    /// A hook that runs for a system that is gone ends unheard.
    pub(super) fn translate(&mut self, to: &Translation, systems: usize) {
        let mut plans = vec![Plan::default(); systems];
        for (system, plan) in std::mem::take(&mut self.systems).into_iter().enumerate() {
            let Some(after) = to.system(system) else { continue };
            let place = |item| to.item(ItemRef { system, item }).map(|at| at.item);
            plans[after] = Plan {
                moving: plan.moving,
                here: plan.here.into_iter().filter_map(place).collect(),
                changed: (plan.changed.into_iter())
                    .filter_map(|(item, change)| Some((place(item)?, change)))
                    .collect(),
                running: plan.running,
            };
        }
        self.systems = plans;
    }

    /// Whether something is to be told of an item.
    pub(super) fn names(&self, at: ItemRef) -> bool {
        self.systems[at.system].changed.contains_key(&at.item)
    }

    pub(super) fn new(systems: usize) -> Self {
        Self { systems: vec![Plan::default(); systems] }
    }

    /// Nothing is being told. What is still to be told then waits for items that are on their way.
    pub(super) fn is_silent(&self) -> bool {
        self.systems.iter().all(|plan| plan.running.is_none())
    }
}

const fn moves(state: ItemState) -> bool {
    matches!(state, ItemState::Acquiring | ItemState::Releasing)
}

impl Items {
    pub(super) const fn next_id(&mut self) -> u64 {
        let id = self.next_hook;
        self.next_hook += 1;
        id
    }
}

impl Node {
    pub(super) fn note_change(&mut self, at: ItemRef, from: ItemState, to: ItemState, why: Reason) {
        let plan = &mut self.items.posts.systems[at.system];
        plan.moving = plan.moving + usize::from(moves(to)) - usize::from(moves(from));
        if self.config.systems[at.system].hooks.post.is_none() {
            return;
        }
        let here = to == ItemState::Active;
        let gone = matches!(to, ItemState::Standby | ItemState::Failing);
        let news = if here { plan.here.insert(at.item) } else { gone && plan.here.remove(&at.item) };
        // What an earlier life left did not come.
        if !news || from == ItemState::Standby {
            return;
        }
        // What came and went again is as it was.
        match plan.changed.get(&at.item) {
            Some((before, _)) if *before != here => {
                plan.changed.remove(&at.item);
            }
            _ => {
                plan.changed.insert(at.item, (here, why));
            }
        }
    }

    /// Calls the `post` hooks of systems in which nothing is on its way any more.
    pub(super) fn tell_of_plans(&mut self) {
        for system in 0..self.items.posts.systems.len() {
            let id = self.items.next_hook;
            let waits = self.items.queue.is_busy(system);
            let plan = &mut self.items.posts.systems[system];
            if plan.changed.is_empty() || plan.moving > 0 || plan.running.is_some() || waits {
                continue;
            }
            let changed = std::mem::take(&mut plan.changed);
            let changes =
                changed.into_iter().map(|(item, (here, reason))| Change { item, here, reason }).collect();
            plan.running = Some(id);
            self.items.next_id();
            let own = self.config.systems[system].hooks.timeout;
            let timeout = own.unwrap_or(self.config.timing.hook_timeout);
            self.outputs.push_back(Output::Post(PostCall { id, system, changes, timeout }));
        }
    }

    pub(super) fn on_post_done(&mut self, hook: u64, result: Result<(), String>) {
        let plans = &mut self.items.posts.systems;
        let Some(system) = plans.iter().position(|plan| plan.running == Some(hook)) else { return };
        plans[system].running = None;
        if let Err(error) = result {
            self.event(Event::PostFailed { system, error });
        }
    }
}
