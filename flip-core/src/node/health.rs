//! Health checks: when each runs, what its results add up to, and who is fit to hold an item.
//!
//! ```text
//!              rise successes in a row
//!  Unproven ────────────────────────────▶ Fit ◀──────┐ rise successes in a row
//!      │                                   │         │
//!      └──────────────▶ Unhealthy ◀────────┴─────────┘
//!        fall failures in a row   fall failures in a row
//! ```
//!
//! An item is as well as the worst of its checks. What is `Unproven` is not taken, and what is here already
//! stays meanwhile, so that a restart of the daemon moves nothing. In the first second of a life the others
//! wait for it too (`Young`): most checks have ended then, and what is at home here need not move twice. Every server says of every checked item
//! how it is there ([`crate::facts`]), so all place alike.

#[cfg(test)]
pub(crate) mod cluster;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use super::{Node, Timer};
use crate::config::{Check, Config, Isolated, WhenAllFail};
use crate::event::{Event, ItemState, Reason};
use crate::facts::Fitness;
use crate::id::{CheckRef, ItemId, ItemRef};
use crate::io::HookAction;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::Translation;

/// All checks that this node runs.
#[derive(Debug, Default)]
pub(in crate::node) struct Health {
    probes: Vec<Probe>,
    /// By system: the checks of the whole system.
    systems: Vec<Range<usize>>,
    /// By system, then item: the item's own.
    items: Vec<Vec<Range<usize>>>,
    running: BTreeMap<u64, usize>,
    /// Due, while so many run that no other is started.
    waiting: VecDeque<usize>,
    next_id: u64,
    /// Some server checks something.
    any: bool,
    /// This life has just begun.
    young: bool,
}

/// One check and what is known of it.
#[derive(Debug)]
struct Probe {
    at: CheckRef,
    spec: Check,
    state: Fitness,
    since: Time,
    /// Results like the last one, in a row.
    successes: u32,
    failures: u32,
    /// What the last failure said, and when.
    error: Option<(String, Time)>,
    run: Option<Run>,
}

/// A run that has not ended.
#[derive(Clone, Copy, Debug)]
struct Run {
    id: u64,
    since: Time,
    /// This node was stopped meanwhile, so that the result means nothing.
    void: bool,
}

impl Health {
    pub(in crate::node) fn new(config: &Config, now: Time) -> Self {
        let mut health = Self { next_id: 1, ..Self::default() };
        for (system, spec) in config.systems.iter().enumerate() {
            let mine = config.my().systems.contains(&system);
            let mut add = |item: Option<usize>, checks: &[Check]| {
                health.any |= !checks.is_empty();
                let begin = health.probes.len();
                let specs = checks.iter().enumerate().filter(|_| mine);
                health.probes.extend(specs.map(|(check, spec)| Probe {
                    at: CheckRef { system, item, check },
                    spec: spec.clone(),
                    state: Fitness::Unproven,
                    since: now,
                    successes: 0,
                    failures: 0,
                    error: None,
                    run: None,
                }));
                begin..health.probes.len()
            };
            let whole = add(None, &spec.checks);
            let own =
                spec.items.iter().enumerate().map(|(item, spec)| add(Some(item), &spec.checks)).collect();
            health.systems.push(whole);
            health.items.push(own);
        }
        health.young = !health.probes.is_empty();
        health
    }

    /// Goes on under another config: a check that is the same at the same item or system goes on as it is. Gives
    /// back where each probe is now, and which are new.
    pub(in crate::node) fn translate(
        &mut self,
        to: &Translation,
        config: &Config,
        now: Time,
    ) -> (Vec<Option<usize>>, Vec<usize>) {
        let old = std::mem::replace(self, Self::new(config, now));
        let mut fresh: BTreeSet<_> = (0..self.probes.len()).collect();
        let mut moved = Vec::with_capacity(old.probes.len());
        for probe in old.probes {
            let CheckRef { system, item, .. } = probe.at;
            let range = match item {
                None => to.system(system).map(|system| self.systems[system].clone()),
                Some(item) => {
                    to.item(ItemRef { system, item }).map(|at| self.items[at.system][at.item].clone())
                }
            };
            let same = |at: &usize| fresh.contains(at) && self.probes[*at].spec == probe.spec;
            let place = range.into_iter().flatten().find(same);
            if let Some(place) = place {
                fresh.remove(&place);
                self.probes[place] = Probe { at: self.probes[place].at, ..probe };
            }
            moved.push(place);
        }
        let place = |probe: usize| moved.get(probe).copied().flatten();
        let running = old.running.into_iter();
        self.running = running.filter_map(|(id, probe)| Some((id, place(probe)?))).collect();
        self.waiting = old.waiting.into_iter().filter_map(place).collect();
        self.next_id = old.next_id;
        self.young = old.young && !self.probes.is_empty();
        (moved, fresh.into_iter().collect())
    }

    /// Whether any server checks anything.
    pub(in crate::node) const fn any(&self) -> bool {
        self.any
    }

    /// The checks that an item depends on here.
    fn of(&self, at: ItemRef) -> impl Iterator<Item = &Probe> {
        let whole = self.systems[at.system].clone();
        let own = self.items[at.system][at.item].clone();
        self.probes[whole].iter().chain(&self.probes[own])
    }

    /// How an item is here.
    pub(in crate::node) fn fitness(&self, at: ItemRef) -> Fitness {
        if planted(Bug::UnhealthyHolds) {
            return Fitness::Fit;
        }
        match self.of(at).map(|probe| probe.state).max() {
            Some(Fitness::Unproven) if self.young => Fitness::Young,
            worst => worst.unwrap_or_default(),
        }
    }

    /// Every item that this node is not fit for.
    pub(in crate::node) fn unfit(&self, config: &Config) -> BTreeMap<ItemId, Fitness> {
        let mut unfit = BTreeMap::new();
        if self.probes.is_empty() {
            return unfit;
        }
        for (system, spec) in config.systems.iter().enumerate() {
            for (item, spec) in spec.items.iter().enumerate() {
                match self.fitness(ItemRef { system, item }) {
                    Fitness::Fit => {}
                    fitness => {
                        unfit.insert(spec.id, fitness);
                    }
                }
            }
        }
        unfit
    }
}

/// A check of an item as the status shows it.
#[derive(Debug)]
pub(in crate::node) struct Report<'a> {
    pub(in crate::node) spec: &'a Check,
    pub(in crate::node) state: Fitness,
    pub(in crate::node) since: Time,
    pub(in crate::node) failures: u32,
    pub(in crate::node) error: Option<&'a (String, Time)>,
}

impl Node {
    /// How the checks of an item are here.
    pub(in crate::node) fn health_of(&self, at: ItemRef) -> impl Iterator<Item = Report<'_>> {
        self.health.of(at).map(|probe| Report {
            spec: &probe.spec,
            state: probe.state,
            since: probe.since,
            failures: probe.failures,
            error: probe.error.as_ref(),
        })
    }

    /// How an item is on a server, by its own word. A server that has said nothing in its present life has
    /// the benefit of the doubt: else its restart would move what it still has.
    pub(in crate::node) fn fitness_on(&self, server: usize, at: ItemRef) -> Fitness {
        if server == self.config.me {
            return self.own_fitness(at);
        }
        let stated = self.facts.of(server);
        if stated.generation != self.view.get(server).generation {
            return Fitness::Fit;
        }
        let id = self.config.systems[at.system].items[at.item].id;
        stated.unfit.get(&id).copied().unwrap_or_default()
    }

    fn is_checked(&self, at: ItemRef) -> bool {
        let system = &self.config.systems[at.system];
        !system.checks.is_empty() || !system.items[at.item].checks.is_empty()
    }

    /// Who may hold an item that is checked, or for which a server is not fit, of those that are ready and of
    /// those that are mature as well. None where all are alike.
    ///
    /// A server that is not mature is better than one that is unhealthy. Where nobody passes and nobody may
    /// yet, `"when_all_fail": "keep"` makes it the holder's, else everybody's.
    pub(in crate::node) fn fit_servers(
        &self,
        at: ItemRef,
        ready: &[bool],
        mature: &[bool],
    ) -> Option<Vec<bool>> {
        let checked = self.health.any && self.is_checked(at);
        let is_fit = |server: usize| !ready[server] || self.fitness_on(server, at) == Fitness::Fit;
        if !checked && (0..ready.len()).all(is_fit) {
            return None;
        }
        let spec = &self.config.systems[at.system].items[at.item];
        let failing = |server| self.says(server, spec.id, ItemState::Failing);
        let holds = |server| {
            let state = if server == self.config.me {
                Some(self.item_state(at).0)
            } else {
                self.stated(server, spec.id).map(|(state, _)| state)
            };
            matches!(state, Some(ItemState::Active | ItemState::Acquiring))
        };
        let choose = |from: &[bool], may: &dyn Fn(usize) -> bool| {
            let chosen: Vec<_> = (0..from.len()).map(|server| from[server] && may(server)).collect();
            chosen.contains(&true).then_some(chosen)
        };
        let fit = |server| match self.fitness_on(server, at) {
            Fitness::Fit | Fitness::Young => !failing(server),
            // What it held before it was started again.
            Fitness::Unproven => holds(server),
            Fitness::Unhealthy => false,
        };
        if let Some(fit) = choose(mature, &fit).or_else(|| choose(ready, &fit)) {
            return Some(fit);
        }
        let nobody = Some(vec![false; ready.len()]);
        let hope = |server| self.fitness_on(server, at) == Fitness::Unproven;
        if !checked {
            // Who has its ground back, but not for long, is better than nobody.
            return choose(ready, &hope).or(nobody);
        }
        if spec.when_all_fail != WhenAllFail::Keep || choose(ready, &hope).is_some() {
            return nobody;
        }
        let unhealthy = |server| self.fitness_on(server, at) == Fitness::Unhealthy;
        let holder = |server| unhealthy(server) && holds(server);
        choose(ready, &holder).or_else(|| choose(ready, &unhealthy)).or(nobody)
    }

    /// Whether somebody else to whom an item belongs now has said that it is well there: what must be let go
    /// of before another takes it is not let go of for somebody who may not be fit.
    pub(in crate::node) fn successor_is_known(&self, at: ItemRef) -> bool {
        !self.is_checked(at)
            || self.holders_now(at).iter().any(|holder| {
                *holder != self.config.me
                    && self.facts.of(*holder).generation == self.view.get(*holder).generation
                    && self.fitness_on(*holder, at) == Fitness::Fit
            })
    }

    /// Does what the checks of an item demand here. False when they demand nothing, and placement counts.
    pub(in crate::node) fn unfit_step(&mut self, at: ItemRef, now: Time) -> bool {
        let fitness = if self.health.any { self.health.fitness(at) } else { return false };
        let state = self.item_state(at).0;
        match (fitness, state) {
            (Fitness::Young | Fitness::Unproven, ItemState::Standby) => self.forget_wish(at, now),
            (Fitness::Fit | Fitness::Young | Fitness::Unproven, _) => return false,
            (Fitness::Unhealthy, _) if self.is_kept(at, state) => return false,
            (Fitness::Unhealthy, ItemState::Standby) => {
                self.forget_wish(at, now);
                if self.items.take_stray(at) {
                    self.start(at, HookAction::Down, Reason::Drift, now);
                    return true;
                }
                self.change(at, ItemState::Failing, Reason::HealthCheck, now);
            }
            (Fitness::Unhealthy, ItemState::Failing) => self.forget_wish(at, now),
            (Fitness::Unhealthy, ItemState::Acquiring | ItemState::Active) => {
                self.start(at, HookAction::Down, Reason::HealthCheck, now);
            }
            (Fitness::Unhealthy, ItemState::Releasing) => {
                self.start(at, HookAction::Down, Reason::HookFailed, now);
            }
            (Fitness::Unhealthy, ItemState::Unclean) => return false,
        }
        true
    }

    /// Whether an item stays though its checks fail: nobody else is any better, or nobody who is can be asked.
    fn is_kept(&self, at: ItemRef, state: ItemState) -> bool {
        let here = matches!(state, ItemState::Active | ItemState::Acquiring | ItemState::Releasing);
        let spec = &self.config.systems[at.system].items[at.item];
        spec.when_all_fail == WhenAllFail::Keep
            && (here && !self.has_quorum || self.holders_now(at).contains(&self.config.me))
    }

    /// An item is not to be taken: who was asked to hand it over is not asked again, and no lease is claimed.
    pub(in crate::node) fn forget_wish(&mut self, at: ItemRef, now: Time) {
        *self.items.asked(at) = None;
        if self.isolated(at) == Isolated::Drop {
            self.release_lease(at, now);
        }
    }

    /// Why an item that was `Failing` is not any more.
    pub(in crate::node) fn recovery(&self, at: ItemRef) -> Reason {
        if self.is_checked(at) { Reason::HealthCheck } else { Reason::HookDone }
    }
}
