//! Acting: what is wanted here against what is here; the difference becomes hook calls.
//!
//! ```text
//!            wanted, quorum seen            hook ok
//!  Standby ──────────────────────▶ Acquiring ─────▶ Active
//!     ▲  ▲                            │  ▲ retry      │ not wanted, and the wanted holder confirmed;
//!     │  │ hook ok                    │  │            │ or shut down
//!     │  └──────── Releasing ◀────────│──│────────────┘
//!     │ after a while                 ▼ failed 3 times
//!     └─────────────────────────── Failing (the item goes elsewhere; also when a health check fails)
//! ```
//!
//! Per item one hook at a time; when it ends, the newest wish wins. Per system so many at once as the config
//! says; what has to wait is only looked at again when one has ended, so what is not wanted any more is never
//! started. Items that may come are looked at before those that may go: who overlaps loses no time.

mod announce;
mod hooks;
mod post;
mod progress;
mod queue;
mod retry;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::post::Posts;
use self::queue::Queue;
use super::{Node, Timer};
use crate::config::{Config, Isolated, OnExit, SystemKind};
use crate::event::{Event, ItemState, Reason};
use crate::facts::Fitness;
use crate::id::{ItemId, ItemRef};
use crate::io::{HookAction, Output};
use crate::limits;
use crate::placement::{self, Holders};
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::Translation;
use crate::view::Life;

/// All items of the config as this node knows them.
#[derive(Debug)]
pub(in crate::node) struct Items {
    /// By system, then item.
    items: Vec<Vec<Item>>,
    /// Where placement wants each item; follows the view after it has settled.
    placement: Vec<Vec<Holders>>,
    /// By system, where its items belong ([`placement::homes`]).
    homes: Vec<Vec<usize>>,
    by_id: BTreeMap<ItemId, ItemRef>,
    hooks: BTreeMap<u64, (ItemRef, HookAction)>,
    next_hook: u64,
    /// What `post` hooks have to tell.
    posts: Posts,
    /// The view changed and placement waits for it to settle.
    stale: bool,
    /// What has to be looked at, and how many hooks run.
    queue: Queue,
    /// States changed since the facts were stated.
    unstated: bool,
    /// When they were stated last.
    stated: Option<Time>,
    /// An item began or ended to be `Failing` here since placement was computed.
    misplaced: bool,
    /// Placement was computed at least once with a quorum in sight.
    placed: bool,
    /// A list of members is being learned: placement is computed once, after it. Whether it has to be.
    learning: Option<bool>,
}

#[derive(Debug)]
struct Item {
    state: ItemState,
    since: Time,
    /// Why it is on its way.
    reason: Reason,
    hook: Option<u64>,
    failures: u32,
    /// What the last hook said that failed, until one succeeds.
    error: Option<String>,
    /// No hook is started before.
    not_before: Option<Time>,
    /// The neighbours must be told once no hook runs.
    announce: bool,
    /// It is not announced any more: somebody else is about to take it.
    hushed: bool,
    /// What a member saw of it since it was announced last.
    proof: Option<announce::Proof>,
    /// How often that failed in a row, and before when it is not tried again.
    unannounced: (u32, Option<Time>),
    /// Found here at the start: it must be made this life's own.
    adopted: bool,
    /// The kernel says that it is not here, though it should be.
    missing: bool,
    /// It is here, though it should not be.
    stray: bool,
    /// How often in a row somebody else changed it, and when last.
    drifts: (u32, Time),
    /// Since when it is to be taken from a live holder.
    asked: Option<Time>,
    /// The alive hook failed too often; when the down hook is through, the item is `Failing`.
    exhausted: bool,
    /// This life has moved it, or found that it may not be here.
    decided: bool,
    /// It came into the config while this node ran, and was not here since.
    fresh: bool,
}

impl Item {
    const fn new(now: Time) -> Self {
        Self {
            state: ItemState::Standby,
            since: now,
            reason: Reason::Home,
            hook: None,
            failures: 0,
            error: None,
            not_before: None,
            announce: false,
            hushed: false,
            proof: None,
            unannounced: (0, None),
            adopted: false,
            missing: false,
            stray: false,
            drifts: (0, now),
            asked: None,
            exhausted: false,
            decided: false,
            fresh: false,
        }
    }
}

impl Items {
    pub(in crate::node) fn new(config: &Config, now: Time) -> Self {
        let item = || Item::new(now);
        Self {
            items: config
                .systems
                .iter()
                .map(|system| system.items.iter().map(|_| item()).collect())
                .collect(),
            placement: config.systems.iter().map(|system| vec![Vec::new(); system.items.len()]).collect(),
            homes: (0..config.systems.len()).map(|system| placement::homes(config, system)).collect(),
            by_id: by_id(config),
            hooks: BTreeMap::new(),
            next_hook: 1,
            posts: Posts::new(config.systems.len()),
            stale: true,
            queue: Queue::new(config.systems.len()),
            unstated: false,
            stated: None,
            misplaced: false,
            placed: false,
            learning: None,
        }
    }

    /// Goes on under another config. Where an item belongs is to be computed anew; what runs goes on.
    pub(in crate::node) fn translate(&mut self, to: &Translation, config: &Config, now: Time) {
        let mut items: Vec<Vec<Item>> = Vec::with_capacity(config.systems.len());
        for system in &config.systems {
            items.push(system.items.iter().map(|_| Item { fresh: true, ..Item::new(now) }).collect());
        }
        for (system, row) in std::mem::take(&mut self.items).into_iter().enumerate() {
            for (item, mut known) in row.into_iter().enumerate() {
                let Some(at) = to.item(ItemRef { system, item }) else { continue };
                known.proof = known.proof.and_then(|proof| proof.translate(to));
                items[at.system][at.item] = known;
            }
        }
        self.items = items;
        self.placement = config.systems.iter().map(|system| vec![Vec::new(); system.items.len()]).collect();
        self.homes = (0..config.systems.len()).map(|system| placement::homes(config, system)).collect();
        self.by_id = by_id(config);
        let hooks = std::mem::take(&mut self.hooks).into_iter();
        self.hooks = hooks.filter_map(|(id, (at, action))| Some((id, (to.item(at)?, action)))).collect();
        self.posts.translate(to, config.systems.len());
        self.queue.translate(to, config.systems.len());
    }

    /// Whether an item is here, on its way, or something runs on it.
    pub(in crate::node) fn is_engaged(&self, at: ItemRef) -> bool {
        let item = self.at(at);
        item.state != ItemState::Standby || item.hook.is_some()
    }

    /// Whether a `post` hook is to be told of an item.
    pub(in crate::node) fn is_told_of(&self, at: ItemRef) -> bool {
        self.posts.names(at)
    }

    /// An item has to go from here for good: nothing that it waits for counts.
    pub(in crate::node) fn dismiss(&mut self, at: ItemRef) {
        let item = self.at_mut(at);
        if item.state == ItemState::Failing {
            item.not_before = None;
        }
        item.asked = None;
    }

    pub(in crate::node) fn count(&self) -> usize {
        self.by_id.len()
    }

    pub(in crate::node) const fn is_stale(&self) -> bool {
        self.stale
    }

    /// The view changed, and placement waits for it to settle.
    pub(in crate::node) const fn set_stale(&mut self) {
        self.stale = true;
    }

    /// Health checks say something else than before: everybody must hear of it.
    pub(in crate::node) fn fitness_changed(&mut self) {
        self.queue.look_at_all();
        self.unstated = true;
        self.misplaced = true;
    }

    /// Everything is to be looked at again.
    pub(in crate::node) const fn touch(&mut self) {
        self.queue.look_at_all();
    }

    /// An item is to be looked at again.
    pub(in crate::node) fn look_at(&mut self, at: ItemRef) {
        self.queue.look_at(at);
    }

    /// The items that are not in standby here.
    pub(in crate::node) fn held(&self, config: &Config) -> BTreeMap<ItemId, (ItemState, Time)> {
        self.each()
            .filter(|at| self.at(*at).state != ItemState::Standby)
            .map(|at| (config.systems[at.system].items[at.item].id, (self.at(at).state, self.at(at).since)))
            .collect()
    }

    /// The same without since when, in listed order.
    pub(in crate::node) fn states_held(&self, config: &Config) -> impl Iterator<Item = (ItemId, ItemState)> {
        let rows = self.items.iter().zip(&config.systems);
        let states = rows.flat_map(|(row, system)| row.iter().zip(&system.items));
        let held = states.filter(|(item, _)| item.state != ItemState::Standby);
        held.map(|(item, spec)| (spec.id, item.state))
    }

    /// The states of all items of the config here.
    pub(in crate::node) fn states(&self) -> impl Iterator<Item = ItemState> {
        self.items.iter().flatten().map(|item| item.state)
    }

    /// Whether all that is wanted at present was placed and tried.
    pub(in crate::node) fn at_rest(&self) -> bool {
        let untried = |item: &Item| item.state == ItemState::Acquiring && item.failures == 0;
        self.placed && !self.stale && self.hooks.is_empty() && !self.items.iter().flatten().any(untried)
    }

    /// Since when an item is to be taken from a live holder.
    pub(in crate::node) fn asked(&mut self, at: ItemRef) -> &mut Option<Time> {
        &mut self.at_mut(at).asked
    }

    /// Whether an item is here that should not be; who asks takes it down.
    pub(in crate::node) fn take_stray(&mut self, at: ItemRef) -> bool {
        std::mem::take(&mut self.at_mut(at).stray)
    }

    /// The hook that runs on an item.
    pub(in crate::node) fn running(&self, at: ItemRef) -> Option<(u64, HookAction)> {
        let hook = self.at(at).hook?;
        self.hooks.get(&hook).map(|(_, action)| (hook, *action))
    }

    pub(in crate::node) fn holders(&self, at: ItemRef) -> &Holders {
        &self.placement[at.system][at.item]
    }

    /// Where an item belongs when everybody is up.
    fn home(&self, at: ItemRef) -> Option<usize> {
        self.homes[at.system].get(at.item).copied()
    }

    fn each(&self) -> impl Iterator<Item = ItemRef> + use<> {
        let lens: Vec<_> = self.items.iter().map(Vec::len).collect();
        lens.into_iter()
            .enumerate()
            .flat_map(|(system, len)| (0..len).map(move |item| ItemRef { system, item }))
    }

    fn at(&self, at: ItemRef) -> &Item {
        &self.items[at.system][at.item]
    }

    fn at_mut(&mut self, at: ItemRef) -> &mut Item {
        &mut self.items[at.system][at.item]
    }
}

fn by_id(config: &Config) -> BTreeMap<ItemId, ItemRef> {
    let systems = config.systems.iter().enumerate();
    let items = systems.flat_map(|(system, spec)| {
        spec.items.iter().enumerate().map(move |(item, spec)| (spec.id, ItemRef { system, item }))
    });
    items.collect()
}

impl Node {
    /// Learns a list of members: what is to be computed for each of them alone is computed once.
    pub(in crate::node) fn learn(&mut self, now: Time, learn: impl FnOnce(&mut Self)) {
        self.items.learning = Some(false);
        learn(self);
        if self.items.learning.take() == Some(true) {
            self.reannounce_all(now);
            self.replace_items(now);
        }
    }

    /// A member is up: it may be a neighbour of items, and a place for them.
    pub(in crate::node) fn make_place(&mut self, now: Time) {
        if let Some(needed) = &mut self.items.learning {
            *needed = true;
            return;
        }
        self.reannounce_all(now);
        self.replace_items(now);
    }

    /// Computes placement from the view as it is now.
    pub(in crate::node) fn replace_items(&mut self, now: Time) {
        self.timers.cancel(Timer::Settle);
        self.items.stale = false;
        for system in 0..self.config.systems.len() {
            self.items.placement[system] = self.place_over(
                system,
                |node, server| node.view.is_live(server) || planted(Bug::PlacementIgnoresDead),
                now,
            );
        }
        self.reach_changed();
    }

    /// Brings what is here closer to what is wanted here.
    pub(in crate::node) fn reconcile(&mut self, now: Time) {
        if self.items.stale && !self.items.placed {
            self.replace_items(now);
        }
        while self.has_to_look() {
            self.place_alone(now);
            self.look(now);
            self.items.placed |= self.has_quorum;
            if self.items.unstated && self.may_state(now) {
                self.items.unstated = false;
                self.items.stated = Some(now);
                self.state_facts(now);
                // `Failing` items are placed elsewhere, by this node as by all that hear its facts.
                if std::mem::take(&mut self.items.misplaced) && !self.items.stale {
                    self.replace_items(now);
                }
            }
        }
        self.tell_of_plans();
        if self.leaving.is_some() && self.items.hooks.is_empty() && self.items.posts.is_silent() {
            let released = self.items.each().all(|at| {
                let item = self.items.at(at);
                let hooks = &self.config.systems[at.system].hooks;
                matches!(item.state, ItemState::Standby | ItemState::Failing)
                    || hooks.on_exit == OnExit::Keep
                    || item.failures >= hooks.fall
            });
            if released {
                self.say_goodbye(now);
            }
        }
    }

    /// Facts are short as long as they fit into a datagram, and are stated at once. Longer ones are fetched
    /// by stream, so many changes go into one.
    fn may_state(&mut self, now: Time) -> bool {
        let items = self.items.by_id.len();
        // Whoever hears them looks at every item.
        let pause = limits::FACTS_PAUSE * u32::try_from(items).unwrap_or(u32::MAX);
        let next = self.items.stated.map(|at| at + limits::LONG_FACTS_PAUSE.max(pause));
        match next {
            Some(next) if next > now && !crate::wire::message::facts_fit(items) => {
                self.timers.set_earlier(Timer::State, next);
                false
            }
            _ => true,
        }
    }

    fn item_step(&mut self, at: ItemRef, now: Time) {
        let item = self.items.at(at);
        if item.hook.is_some() && !planted(Bug::HooksOverlap) || item.not_before.is_some_and(|at| at > now) {
            return;
        }
        let (state, failures) = (item.state, item.failures);
        if !self.has_slot(at.system) && !self.is_urgent(at, now) {
            self.items.queue.wait(at, lets_go(state));
            return;
        }
        if let Some(reason) = self.must_go(at) {
            return self.go_step(at, reason, now);
        }
        let fall = self.config.systems[at.system].hooks.fall;
        if let Some(leaving) = &self.leaving {
            if self.config.systems[at.system].hooks.on_exit == OnExit::Keep {
                return;
            }
            let in_time = now.since(leaving.since) < limits::HANDOVER;
            match state {
                ItemState::Active if in_time && self.awaits_successor(at, now) => self.hush(at),
                ItemState::Active | ItemState::Acquiring => {
                    self.items.at_mut(at).failures = 0;
                    self.start(at, HookAction::Down, Reason::Shutdown, now);
                }
                ItemState::Releasing if failures < fall => {
                    self.start(at, HookAction::Down, Reason::Shutdown, now);
                }
                ItemState::Standby => self.release_lease(at, now),
                ItemState::Releasing | ItemState::Failing | ItemState::Unclean => {}
            }
            return;
        }
        if state == ItemState::Standby && self.isolated(at) == Isolated::Drop && self.items.take_stray(at) {
            self.start(at, HookAction::Down, Reason::Drift, now);
            return;
        }
        if self.ground_step(at, now) || self.unfit_step(at, now) {
            return;
        }
        if self.isolated(at) == Isolated::Drop {
            self.leased_step(at, now);
            return;
        }
        let wanted = self.holders_now(at).contains(&self.config.me);
        // Nothing is taken without a quorum in sight, unless the config says so.
        let may_take = self.has_quorum || self.may_take_alone(at, now) || planted(Bug::TakesWithoutQuorum);
        match state {
            ItemState::Standby if wanted && may_take => {
                if self.holder_answers(at, now) {
                    let reason = self.why(at);
                    self.start(at, HookAction::Alive, reason, now);
                }
            }
            ItemState::Standby if self.items.take_stray(at) => {
                self.start(at, HookAction::Down, Reason::Drift, now);
            }
            ItemState::Standby => self.items.at_mut(at).asked = None,
            // A hook that failed before a partition waits for its end: nothing moves meanwhile.
            ItemState::Acquiring if !may_take => {}
            ItemState::Acquiring if wanted => self.start(at, HookAction::Alive, Reason::HookFailed, now),
            ItemState::Acquiring => {
                let reason = if failures > 0 { Reason::HookFailed } else { self.why(at) };
                self.start(at, HookAction::Down, reason, now);
            }
            ItemState::Active if !wanted && !planted(Bug::NoFailback) && self.may_let_go(at, now) => {
                self.start(at, HookAction::Down, self.why(at), now);
            }
            ItemState::Active if !wanted && self.somebody_else_is_up(at) => {
                self.hush(at);
                self.repair(at, now);
            }
            ItemState::Active => self.stay(at, now),
            ItemState::Releasing if wanted && may_take && !self.items.at(at).exhausted => {
                let reason = self.why(at);
                self.start(at, HookAction::Alive, reason, now);
            }
            ItemState::Releasing => self.start(at, HookAction::Down, Reason::HookFailed, now),
            ItemState::Failing => self.change(at, ItemState::Standby, self.recovery(at), now),
            ItemState::Unclean => {}
        }
    }

    /// As [`Self::item_step`], for an item that may be here only under a lease: verdicts and placement say
    /// who should hold it, the lease who may. Planned moves break before they make.
    fn leased_step(&mut self, at: ItemRef, now: Time) {
        let wanted = self.holders_now(at).contains(&self.config.me);
        let state = self.items.at(at).state;
        match state {
            ItemState::Standby if wanted && self.has_quorum => {
                if self.want_lease(at, now) {
                    let reason = self.why(at);
                    self.start(at, HookAction::Alive, reason, now);
                }
            }
            ItemState::Standby => self.release_lease(at, now),
            ItemState::Acquiring if wanted && self.may_take(at, now) => {
                self.start(at, HookAction::Alive, Reason::HookFailed, now);
            }
            ItemState::Acquiring if wanted => self.start(at, HookAction::Down, Reason::LeaseLost, now),
            ItemState::Acquiring => self.start(at, HookAction::Down, self.why(at), now),
            ItemState::Active if !self.may_hold(at, now) => {
                self.start(at, HookAction::Down, Reason::LeaseLost, now);
            }
            ItemState::Active
                if !wanted
                    && self.has_quorum
                    && self.somebody_else_is_up(at)
                    && self.successor_is_known(at)
                    && self.successor_has_config(at, now) =>
            {
                if planted(Bug::ReleasesBeforeItIsGone) {
                    self.release_lease(at, now);
                }
                self.start(at, HookAction::Down, self.why(at), now);
            }
            ItemState::Active if self.items.at(at).missing && !self.may_take(at, now) => {
                self.start(at, HookAction::Down, Reason::LeaseLost, now);
            }
            ItemState::Active => self.stay(at, now),
            ItemState::Releasing => self.start(at, HookAction::Down, Reason::HookFailed, now),
            ItemState::Unclean => self.retry_unclean(at, now),
            ItemState::Failing => self.change(at, ItemState::Standby, self.recovery(at), now),
        }
    }

    /// The down hook of an unclean item is tried again.
    pub(in crate::node) fn retry_unclean(&mut self, at: ItemRef, now: Time) {
        self.call(at, HookAction::Down, Reason::HookFailed, now);
    }

    /// Somebody else is about to take the item: he is the one to be heard of it. Announcements that were sent
    /// after his would call his clients back.
    fn hush(&mut self, at: ItemRef) {
        let item = self.items.at_mut(at);
        if !std::mem::replace(&mut item.hushed, true) {
            self.outputs.push_back(Output::Hush { item: at });
        }
    }

    /// The item is to be here: it is repaired, if need be.
    fn repair(&mut self, at: ItemRef, now: Time) {
        let item = self.items.at_mut(at);
        if std::mem::take(&mut item.missing) {
            let times = self.drifted(at, now);
            self.event(Event::Drift { item: at, present: false, times });
            self.start(at, HookAction::Alive, Reason::Drift, now);
        } else if std::mem::take(&mut item.adopted) {
            // Its lifetime and its announcements are an earlier life's.
            item.announce = false;
            self.call(at, HookAction::Alive, Reason::Adopted, now);
        }
    }

    /// Somebody else changed the item. How often that happened in a row.
    fn drifted(&mut self, at: ItemRef, now: Time) -> u32 {
        let (times, last) = &mut self.items.at_mut(at).drifts;
        *times = if now.since(*last) < limits::DRIFT_MEMORY { times.saturating_add(1) } else { 1 };
        *last = now;
        *times
    }

    /// A host that is no member uses an item that is here. Where the config says to give way, the item is
    /// `Failing` here, as after a hook that failed too often: whoever takes it looks for that host first.
    pub(in crate::node) fn on_conflict(&mut self, at: ItemRef, with: String, give_up: bool, now: Time) {
        let known = self.config.systems.get(at.system).is_some_and(|system| at.item < system.items.len());
        if !known || self.items.at(at).state != ItemState::Active {
            return;
        }
        self.event(Event::Conflict { item: at, with: with.clone(), give_up });
        if !give_up {
            return;
        }
        let item = self.items.at_mut(at);
        if item.hook.is_some() {
            // It is only being announced; whoever tells this tells it again.
            return;
        }
        item.error = Some(format!("{with}, which is no member, uses it too"));
        item.exhausted = true;
        self.start(at, HookAction::Down, Reason::Conflict, now);
    }

    /// The item stays: it is repaired or announced, if need be.
    fn stay(&mut self, at: ItemRef, now: Time) {
        self.repair(at, now);
        let silent_until = self.silent_until(now);
        let item = self.items.at_mut(at);
        let may_announce =
            silent_until.is_none() && item.hook.is_none() && item.unannounced.1.is_none_or(|at| at <= now);
        item.announce |= std::mem::take(&mut item.hushed);
        if let Some(until) = silent_until.filter(|_| item.announce) {
            self.timers.set_earlier(Timer::Item(at), until);
        }
        let item = self.items.at_mut(at);
        if may_announce && std::mem::take(&mut item.announce) {
            self.event(Event::Reannounced { item: at });
            self.call(at, HookAction::Announce, Reason::HookDone, now);
        }
    }

    pub(in crate::node) fn somebody_else_is_up(&self, at: ItemRef) -> bool {
        self.holders_now(at).iter().any(|holder| *holder != self.config.me && self.view.is_up(*holder))
    }

    /// Whether a leaving node still holds an item for somebody who is about to take it.
    fn awaits_successor(&mut self, at: ItemRef, now: Time) -> bool {
        self.isolated(at) != Isolated::Drop
            && self.config.systems[at.system].kind == SystemKind::Shard
            && self.has_quorum
            && self.somebody_else_is_up(at)
            && !self.may_let_go(at, now)
    }

    /// A holder gives up only for a named successor that says it holds the item (rule K3), and a moment
    /// later: what clients sent before they heard of the successor is still answered. A replicated item
    /// needs no successor.
    fn may_let_go(&mut self, at: ItemRef, now: Time) -> bool {
        let spec = &self.config.systems[at.system];
        if spec.kind == SystemKind::Replicate || planted(Bug::HandoverReleasesFirst) {
            return true;
        }
        let Some(since) = self.confirmed_since(at) else { return false };
        let lingers_until = since + limits::LINGER;
        if now < lingers_until {
            self.timers.set(Timer::Item(at), lingers_until);
        }
        now >= lingers_until
    }

    /// Since when a successor of this node says that it holds the item.
    fn confirmed_since(&self, at: ItemRef) -> Option<Time> {
        let id = self.config.systems[at.system].items[at.item].id;
        let holders = self.holders_now(at).iter().filter(|holder| self.view.is_up(**holder));
        let active = holders.filter_map(|holder| self.stated(*holder, id));
        active.filter(|(state, _)| *state == ItemState::Active).map(|(_, since)| since).min()
    }

    /// What the life of a server that is known now said of an item, and since when. What an earlier
    /// life said is void: a host that died and came back holds nothing.
    pub(in crate::node) fn stated(&self, server: usize, item: ItemId) -> Option<(ItemState, Time)> {
        let stated = self.facts.of(server);
        let current = stated.generation == self.view.get(server).generation || planted(Bug::StaleFactsCount);
        stated.held.get(&item).copied().filter(|_| current)
    }

    pub(in crate::node) fn says(&self, server: usize, item: ItemId, state: ItemState) -> bool {
        self.stated(server, item).is_some_and(|(stated, _)| stated == state)
    }

    /// Why placement puts the item where it is.
    pub(in crate::node) fn why(&self, at: ItemRef) -> Reason {
        match self.items.home(at) {
            _ if !self.has_quorum => Reason::Isolated,
            Some(home) if self.is_drained(home) => Reason::Drain,
            Some(home) if self.is_inactive(home) => Reason::Inactive,
            Some(home) if self.items.holders(at).contains(&home) => {
                if self.items.placed && !self.items.at(at).fresh { Reason::Failback } else { Reason::Home }
            }
            Some(home) if self.view.get(home).life == Life::Left => Reason::Leave,
            Some(home) if self.failed_on(home, at) => Reason::HookFailed,
            Some(_) => Reason::Failover,
            // A replicated item has no home but this node.
            None if self.is_drained(self.config.me) => Reason::Drain,
            None => Reason::Home,
        }
    }

    /// Whether an item is kept from a server by nothing but its hooks.
    pub(in crate::node) fn failed_on(&self, server: usize, at: ItemRef) -> bool {
        let id = self.config.systems[at.system].items[at.item].id;
        self.view.is_up(server)
            && self.says(server, id, ItemState::Failing)
            && self.fitness_on(server, at) == Fitness::Fit
    }

    pub(in crate::node) fn change(&mut self, at: ItemRef, to: ItemState, reason: Reason, now: Time) {
        let item = self.items.at_mut(at);
        let from = item.state;
        if from == to {
            return;
        }
        item.state = to;
        item.since = now;
        item.decided |= reason != Reason::Adopted;
        item.fresh &= to != ItemState::Active;
        let why = item.reason;
        self.note_change(at, from, to, why);
        self.items.unstated = true;
        self.items.misplaced |= from == ItemState::Failing || to == ItemState::Failing;
        self.items.queue.look_at(at);
        self.event(Event::Item { item: at, from, to, reason });
    }

    /// The kernel says what is really there.
    pub(in crate::node) fn on_observed(&mut self, at: ItemRef, present: bool, now: Time) {
        let known = self.config.systems.get(at.system).is_some_and(|system| at.item < system.items.len());
        if !known || present && planted(Bug::LeftoverForgotten) {
            return;
        }
        self.items.queue.look_at(at);
        let state = self.items.at(at).state;
        if self.items.at(at).hook.is_some() {
            // Announcing changes nothing of what is there; other hooks do.
            if state == ItemState::Active {
                self.items.at_mut(at).missing = !present;
            }
            return;
        }
        match (state, present) {
            (ItemState::Standby, true)
                if !self.ever_had_quorum && !self.config.systems[at.system].hooks.remove_on_start => {}
            (ItemState::Standby, true) if !self.ever_had_quorum && self.isolated(at) != Isolated::Drop => {
                // Left by an earlier life of this daemon: it stays until it is clear who holds it.
                self.change(at, ItemState::Active, Reason::Adopted, now);
                self.items.at_mut(at).adopted = true;
            }
            (ItemState::Standby, true) => {
                let times = self.drifted(at, now);
                self.event(Event::Drift { item: at, present, times });
                self.items.at_mut(at).stray = true;
            }
            (ItemState::Standby, false) => self.items.at_mut(at).stray = false,
            (ItemState::Active, _) if !planted(Bug::NoDriftRepair) => {
                self.items.at_mut(at).missing = !present;
            }
            _ => {}
        }
    }

    /// What is here when the daemon starts, told before anything else: what an earlier life of it left. It
    /// stays until it is clear who holds it, but for items that a lease is needed for.
    ///
    /// # Panics
    /// After the first input.
    pub fn leftovers(&mut self, items: &[ItemRef], now: Time) {
        assert!(!self.items.placed && self.items.next_hook == 1, "leftovers are told first");
        for at in items {
            self.on_observed(*at, true, now);
        }
    }

    /// Tells the neighbours again that an item is here.
    pub(in crate::node) fn reannounce(&mut self, id: ItemId, _now: Time) {
        if let Some(at) = self.items.by_id.get(&id).copied()
            && self.items.at(at).state == ItemState::Active
            && !planted(Bug::NoReannounce)
        {
            self.items.at_mut(at).announce = true;
            self.items.queue.look_at(at);
        }
    }

    pub(in crate::node) fn reannounce_all(&mut self, now: Time) {
        let ids: Vec<_> = self.items.by_id.keys().copied().collect();
        for id in ids {
            self.reannounce(id, now);
        }
    }

    /// State of an item here and since when.
    pub(crate) fn item_state(&self, at: ItemRef) -> (ItemState, Time) {
        let item = self.items.at(at);
        (item.state, item.since)
    }

    /// Whether it is open what becomes of an item in this life: nothing was placed yet, or its checks have
    /// not ended.
    pub(crate) fn is_undecided(&self, at: ItemRef) -> bool {
        !self.items.at(at).decided
            && (!self.items.placed || matches!(self.own_fitness(at), Fitness::Young | Fitness::Unproven))
    }

    /// Where this node believes that an item belongs now: positions of servers.
    #[must_use]
    pub fn wanted(&self, at: ItemRef) -> &[usize] {
        self.holders_now(at)
    }
}

/// Whether what comes next for an item in this state is rather that it goes.
const fn lets_go(state: ItemState) -> bool {
    match state {
        ItemState::Standby | ItemState::Acquiring | ItemState::Failing => false,
        ItemState::Active | ItemState::Releasing | ItemState::Unclean => true,
    }
}
