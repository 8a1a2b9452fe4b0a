//! Why an item is where it is, and what would be if: asked by people, read by no rule.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Node;
use crate::config::{Isolated, SystemKind};
use crate::event::ItemState;
use crate::facts::Fitness;
use crate::id::ItemRef;
use crate::placement;
use crate::plan::{self, Known, Plan, Present, Standing, WhatIf};
use crate::status::CheckHealth;
use crate::time::Time;
use crate::view::Life;
use crate::why::{
    Because, Candidate, CaseWhy, FailedCheck, Home, ItemMoved, LeaseWhy, Moved, Obstacle, RefusedLease, Wait,
    Why,
};

impl Node {
    /// What this node knows of the cluster, as far as placement depends on it.
    #[must_use]
    pub fn present(&self, now: Time) -> Present {
        let servers = 0..self.config.servers.len();
        let standing = |server: usize| Standing {
            live: self.view.is_live(server),
            drained: self.is_drained(server),
            inactive: self.is_inactive(server),
            leaving: self.is_departing(server),
            mature: self.mature_at(server, now) <= now,
        };
        let mut items = BTreeMap::<_, Known>::new();
        for server in servers.clone() {
            let stated = self.facts.of(server);
            if stated.generation != self.view.get(server).generation {
                continue;
            }
            for (item, (state, _)) in &stated.held {
                let known = items.entry(*item).or_default();
                match state {
                    ItemState::Failing => known.failing.insert(server),
                    ItemState::Active | ItemState::Acquiring if server != self.config.me => {
                        known.holds.insert(server)
                    }
                    _ => continue,
                };
            }
            if server != self.config.me {
                for (item, fitness) in &stated.unfit {
                    items.entry(*item).or_default().unfit.insert(server, *fitness);
                }
            }
        }
        // What this node has not said yet, it knows all the same.
        for (item, fitness) in self.unfit() {
            items.entry(item).or_default().unfit.insert(self.config.me, fitness);
        }
        for (item, (state, _)) in self.items.held(&self.config) {
            if matches!(state, ItemState::Active | ItemState::Acquiring) {
                items.entry(item).or_default().holds.insert(self.config.me);
            }
        }
        for at in self.item_refs() {
            let item = self.item_id(at);
            if self.unclean_on(item).is_some() {
                items.entry(item).or_default().unclean = true;
            }
        }
        Present { servers: servers.map(standing).collect(), items }
    }

    /// What would become of the items if all of this happened at once.
    ///
    /// # Errors
    /// When a server or a system is unknown, or an item to be added is there already: one line for people.
    pub fn plan(&self, what_if: &[WhatIf], now: Time) -> Result<Plan, String> {
        plan::plan(&self.config, &self.present(now), what_if.to_vec())
    }

    /// Why an item is where it is. `name` is its name or one of its addresses; `system/name` where several systems
    /// have one of that name.
    ///
    /// # Errors
    /// When there is no such item, or more than one: one line for people.
    pub fn explain(&self, name: &str, now: Time) -> Result<Why, String> {
        let at = self.called(name)?;
        let system = &self.config.systems[at.system];
        let spec = &system.items[at.item];
        let status = self.item_status(at, now);
        let present = self.present(now);
        let alone = !self.has_quorum && self.isolated(at) == Isolated::Take;
        let wanted = self.wanted(at).to_vec();
        let home = self.items.home_of(at);
        let because = match &wanted[..] {
            [] => Because::Nobody,
            _ if system.kind == SystemKind::Replicate => Because::Replicated,
            _ if alone => Because::InReach,
            [one] if home == Some(*one) => Because::Home,
            _ => Because::Fewest,
        };
        let mut reach = present.clone();
        if alone {
            for server in self.others() {
                reach.servers[server].live = !self.is_out_of_reach(server);
            }
        }
        let eligible = plan::eligible(&self.config, &reach, at);
        let loads = self.loads(at.system);
        let candidate = |server: usize| Candidate {
            server: self.name(server),
            eligible: eligible[server],
            against: self.against(at, server, alone, now),
            items: loads[server],
        };
        Ok(Why {
            node: self.name(self.config.me),
            system: system.name.clone(),
            item: spec.name.clone(),
            replicated: system.kind == SystemKind::Replicate,
            home: home.map(|home| Home {
                server: self.name(home),
                preferred: spec.prefer == Some(home),
                kept: spec.prefer != Some(home) && spec.home == Some(home),
                place: at.item + 1,
                dealt_over: placement::members(&self.config, at.system)
                    .into_iter()
                    .map(|server| self.name(server))
                    .collect(),
            }),
            servers: (0..self.config.servers.len()).map(candidate).collect(),
            because,
            waits: self.waits(at, &wanted, now),
            wanted: wanted.iter().map(|server| self.name(*server)).collect(),
            lease: (self.isolated(at) == Isolated::Drop).then(|| self.lease_why(at, now)),
            cases: self.cases_about(at, now),
            moves: self.moves_of(at, now),
            isolated: status.isolated,
            holders: status.holders,
            checks: status.checks,
            failure: status.failure,
        })
    }

    fn called(&self, name: &str) -> Result<ItemRef, String> {
        let named = |at: &ItemRef| {
            let system = &self.config.systems[at.system];
            let item = &system.items[at.item];
            let whole = name.strip_prefix(system.name.as_str()).and_then(|rest| rest.strip_prefix('/'));
            item.is_called(name) || whole.is_some_and(|rest| item.is_called(rest))
        };
        let found: Vec<_> = self.item_refs().filter(named).collect();
        match &found[..] {
            [] => Err(format!("there is no item {name}; `flip status` lists them")),
            [one] => Ok(*one),
            several => {
                let whole = |at: &ItemRef| {
                    let system = &self.config.systems[at.system];
                    format!("{}/{}", system.name, system.items[at.item].name)
                };
                let names: Vec<_> = several.iter().map(whole).collect();
                Err(format!("{name} is the name of several items: say {}", names.join(" or ")))
            }
        }
    }

    fn name(&self, server: usize) -> String {
        self.config.servers[server].id.clone()
    }

    /// How many items of a system placement gives each server.
    fn loads(&self, system: usize) -> Vec<usize> {
        let mut loads = vec![0; self.config.servers.len()];
        for item in 0..self.config.systems[system].items.len() {
            for server in self.holders_now(ItemRef { system, item }) {
                loads[*server] += 1;
            }
        }
        loads
    }

    /// What speaks against a server as a place for an item.
    fn against(&self, at: ItemRef, server: usize, alone: bool, now: Time) -> Vec<Obstacle> {
        let mut against = Vec::new();
        if !self.config.takes_part(server, at.system) {
            return vec![Obstacle::NotInSystem];
        }
        let record = self.view.get(server);
        let since_ms = millis(now.since(record.since));
        match record.life {
            Life::Down => {
                let ballots = record.verdict.as_ref().map(|verdict| verdict.ballots.clone());
                let voters = ballots.unwrap_or_default().into_iter();
                let voters = voters.filter_map(|ballot| self.server_of(ballot)).map(|voter| self.name(voter));
                against.push(Obstacle::Down { since_ms, voters: voters.collect() });
            }
            Life::Left => against.push(Obstacle::Left { since_ms }),
            Life::Up | Life::Unknown if alone && server != self.config.me && self.is_out_of_reach(server) => {
                against.push(Obstacle::OutOfReach);
            }
            Life::Up | Life::Unknown => {}
        }
        if self.is_drained(server) {
            against.push(Obstacle::Drained);
        }
        if self.is_inactive(server) {
            against.push(Obstacle::Inactive { reasons: self.inactive_reasons(server) });
        }
        if self.is_departing(server) {
            against.push(Obstacle::Leaving);
        }
        let mature = self.mature_at(server, now);
        if mature > now && record.life == Life::Up && self.config.systems[at.system].kind == SystemKind::Shard
        {
            against.push(Obstacle::Immature { for_ms: millis(mature.since(now)) });
        }
        self.unfit_against(at, server, now, &mut against);
        if let Some(on) = self.unclean_on(self.item_id(at)) {
            against.push(Obstacle::Unclean { on: self.name(on) });
        }
        against
    }

    /// What checks, what the item stands on, and hooks say against a server.
    fn unfit_against(&self, at: ItemRef, server: usize, now: Time, against: &mut Vec<Obstacle>) {
        let mine = server == self.config.me;
        let ground = self.unusable_status(at, now).filter(|_| mine);
        match self.fitness_on(server, at) {
            Fitness::Fit => {}
            Fitness::Young | Fitness::Unproven => {
                against.push(Obstacle::Unproven { returns_in_ms: ground.and_then(|g| g.returns_in_ms) });
            }
            Fitness::Unhealthy => {
                let checks = self.check_status(at, now).into_iter().filter(|_| mine);
                let failed = checks.filter(|check| check.health == CheckHealth::Unhealthy);
                let failed = failed.map(|check| FailedCheck { check: check.check, error: check.error });
                let trouble = ground.filter(|ground| ground.returns_in_ms.is_none()).map(|ground| ground.why);
                against.push(Obstacle::Unhealthy { checks: failed.collect(), trouble });
            }
        }
        if self.failed_on(server, at) {
            let error = self.items.failure(at, now).filter(|_| mine).map(|failure| failure.error);
            against.push(Obstacle::HooksFailing { error });
        }
    }

    /// What stands between what is wanted and what is.
    fn waits(&self, at: ItemRef, wanted: &[usize], now: Time) -> Vec<Wait> {
        let id = self.item_id(at);
        let me = self.config.me;
        let state_on = |server: usize| match server == me {
            true => self.item_state(at).0,
            false => self.stated(server, id).map_or(ItemState::Standby, |(state, _)| state),
        };
        let has = |server: usize| {
            (server == me || self.view.is_up(server)) && state_on(server) == ItemState::Active
        };
        let mut waits = Vec::new();
        if let Some(on) = self.unclean_on(id) {
            waits.push(Wait::Unclean { on: self.name(on) });
        } else if wanted.is_empty() {
            waits.push(Wait::NobodyMay);
        }
        let missing: Vec<_> = wanted.iter().copied().filter(|server| !has(*server)).collect();
        let holders = (0..self.config.servers.len()).filter(|server| has(*server));
        let extra: Vec<_> = holders.filter(|server| !wanted.contains(server)).collect();
        if self.items.is_stale() {
            waits.push(Wait::Settling);
        }
        if !self.has_quorum && (!missing.is_empty() || !extra.is_empty()) {
            let live = (0..self.config.servers.len()).filter(|server| self.view.is_up(*server)).count();
            waits.push(Wait::NoQuorum { live, quorum: self.config.quorum });
        }
        // Who holds it may be the one that does not answer.
        for server in wanted.iter().chain(&extra).copied().collect::<BTreeSet<_>>() {
            if self.cases.get(&server).is_some_and(super::cases::Case::silent) {
                let ballots = self.standing(server, now).len();
                waits.push(Wait::Case { server: self.name(server), ballots, quorum: self.config.quorum });
            }
        }
        for server in missing {
            if server == me {
                self.waits_here(at, now, &mut waits);
            } else if self.view.is_live(server) {
                waits.push(Wait::NotYet { server: self.name(server), state: state_on(server) });
            }
        }
        for server in extra {
            let others: Vec<_> = wanted.iter().filter(|to| **to != server).map(|to| self.name(*to)).collect();
            if others.is_empty() {
                continue;
            }
            waits.push(match self.isolated(at) {
                Isolated::Drop => Wait::Releasing { from: self.name(server) },
                Isolated::Keep | Isolated::Take => Wait::Handover { from: self.name(server), to: others },
            });
        }
        if let (ItemState::Releasing, progress) = (self.item_state(at).0, self.items.progress(at))
            && progress.hook.is_some()
        {
            self.waits_here(at, now, &mut waits);
        }
        waits
    }

    /// What keeps an item that is wanted here.
    fn waits_here(&self, at: ItemRef, now: Time, waits: &mut Vec<Wait>) {
        let progress = self.items.progress(at);
        if let Some(action) = progress.hook {
            let since_ms = millis(now.since(self.item_state(at).1));
            waits.push(Wait::HookRuns { action: action.name().to_owned(), since_ms });
            return;
        }
        if let Some(failure) = self.items.failure(at, now)
            && let Some(in_ms) = failure.retry_ms
        {
            waits.push(Wait::Retry { error: failure.error, in_ms });
        }
        if let Some(running) = progress.waits_for {
            let limit = self.config.systems[at.system].hooks.parallel;
            waits.push(Wait::Parallel { running, limit });
        }
        let id = self.item_id(at);
        let holder =
            self.others().find(|other| self.view.is_up(*other) && self.says(*other, id, ItemState::Active));
        if let (Some(_), Some(holder)) = (progress.asked, holder) {
            waits.push(Wait::AsksHolder { holder: self.name(holder) });
        }
        if self.isolated(at) == Isolated::Drop && !self.may_hold(at, now) {
            let lease = self.lease_why(at, now);
            waits.push(Wait::Lease { granted: lease.granted.len(), needed: lease.needed });
        }
    }

    fn lease_why(&self, at: ItemRef, now: Time) -> LeaseWhy {
        let id = self.item_id(at);
        let look = self.leases.look(at, now);
        let granted = self.config.voters.iter().filter(|voter| look.granted.contains(voter));
        let refused = self.config.voters.iter().filter_map(|voter| {
            let wait = self.memory.refused_for(id, self.config.servers[*voter].short, now)?;
            Some(RefusedLease { voter: self.name(*voter), for_ms: millis(wait) })
        });
        LeaseWhy {
            claimed: look.claimed,
            held_for_ms: look.deadline.filter(|until| *until > now).map(|until| millis(until.since(now))),
            needed: look.needed,
            granted: granted.map(|voter| self.name(*voter)).collect(),
            refused: refused.collect(),
            promised_to: look.promised_to.filter(|_| self.is_voter()).map(|to| self.name(to)),
            silent_for_ms: (self.is_voter() && look.silent > Duration::ZERO).then(|| millis(look.silent)),
        }
    }

    /// Cases about servers that may have the item, or that have it.
    fn cases_about(&self, at: ItemRef, now: Time) -> Vec<CaseWhy> {
        let takes_part = |server: &usize| self.config.takes_part(*server, at.system);
        let cases = self.cases.iter().filter(|(server, _)| takes_part(server));
        let why = |(server, case): (&usize, &super::cases::Case)| CaseWhy {
            server: self.name(*server),
            cause: case.cause().name().to_owned(),
            since_ms: millis(now.since(case.opened())),
            ballots: self.standing(*server, now).into_iter().map(|(voter, _)| self.name(voter)).collect(),
            quorum: self.config.quorum,
            abstains: case.abstains(),
        };
        cases.map(why).collect()
    }

    /// What happened to all items, oldest first, as far as this node remembers ([`limits::MOVES`](crate::limits::MOVES)).
    #[must_use]
    pub fn moves(&self, now: Time) -> Vec<ItemMoved> {
        let systems = self.config.systems.iter();
        let items = systems.flat_map(|system| system.items.iter().map(move |item| (system, item)));
        let names: BTreeMap<_, _> = items.map(|(system, item)| (item.id, (system, item))).collect();
        let named = |moved: &super::memory::Moved| {
            let (system, item) = names.get(&moved.item)?;
            let Moved { ago_ms, server, what, trigger } = self.moved(moved, now)?;
            Some(ItemMoved {
                system: system.name.clone(),
                item: item.name.clone(),
                ago_ms,
                server,
                what,
                trigger,
            })
        };
        // Of items and servers that left the config there is nothing to say.
        self.memory.all().filter_map(named).collect()
    }

    fn moved(&self, moved: &super::memory::Moved, now: Time) -> Option<Moved> {
        let server = self.config.server_index(moved.server)?;
        Some(Moved {
            ago_ms: millis(now.since(moved.at)),
            server: self.name(server),
            what: moved.what,
            trigger: moved.trigger.map(|reason| reason.name().to_owned()),
        })
    }

    fn moves_of(&self, at: ItemRef, now: Time) -> Vec<Moved> {
        // Of a server that left the config there is nothing to say.
        self.memory.of(self.item_id(at)).iter().filter_map(|moved| self.moved(moved, now)).collect()
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
