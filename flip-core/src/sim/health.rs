//! Health checks in the simulator: how they end, and what must follow.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::adopt::sees;
use super::fault::{CheckMode, Fault, Timed};
use super::happening::{Happening, Mail};
use super::plan::{Case, Plan};
use super::world::World;
use crate::config::{Check, CheckKind, Config, SystemKind, WhenAllFail};
use crate::id::{CheckRef, ItemRef};
use crate::io::CheckCall;
use crate::time::Time;

/// The checks of a plan: one of each item of the first system, and one of the whole system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Milliseconds from one run to the next.
    pub interval_ms: u64,
    /// Milliseconds that a run may take.
    pub timeout_ms: u64,
    /// Successes in a row.
    pub rise: u32,
    /// Failures in a row.
    pub fall: u32,
    /// Whether the last holder keeps what is well nowhere.
    pub keep: bool,
}

impl Checks {
    /// For schedules that make checks fail and plans that say nothing of them.
    pub(super) const USUAL: Self = Self { interval_ms: 500, timeout_ms: 300, rise: 1, fall: 3, keep: false };

    /// Gives a config these checks.
    pub(super) fn apply(self, config: &mut Config) {
        let ms = Duration::from_millis;
        let check = |script: &str| Check {
            kind: CheckKind::Lua { script: script.into() },
            interval: ms(self.interval_ms),
            timeout: ms(self.timeout_ms),
            rise: self.rise,
            fall: self.fall,
        };
        let Some(system) = config.systems.first_mut() else { return };
        system.checks = vec![check("all")];
        for item in &mut system.items {
            item.checks = vec![check("one")];
            item.when_all_fail = if self.keep { WhenAllFail::Keep } else { WhenAllFail::Release };
        }
    }

    /// The longest from a change of what is true to the day when all checks of a node say so: every result
    /// counts anew when one of them was late, and jitter stretches the intervals.
    pub(super) fn patience(self) -> Duration {
        let runs = self.rise.max(self.fall) + 2;
        Duration::from_millis(self.interval_ms + self.interval_ms / 5 + self.timeout_ms + 250) * runs
    }
}

/// What is remembered of the checks of a world.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) checks: Option<Checks>,
    /// How long a hook that failed may wait for its next try.
    pub(super) hook_patience: Duration,
    /// Which checks say on which host that it is not well, and since when.
    unhealthy: BTreeMap<(usize, CheckRef), Time>,
    /// Which runs of each check are on, and when each began by the clock of its host.
    running: BTreeMap<(usize, u64), (CheckRef, Time)>,
    /// The newest run of each check.
    newest: BTreeMap<(usize, CheckRef), u64>,
    /// Successes in a row that reached the daemon, and runs since the last one that did in time.
    rows: BTreeMap<(usize, CheckRef), (u32, u32)>,
}

/// Adds checks and their faults to some cases, by dice of their own: what else a seed draws is as it was.
pub(super) fn draw(case: &mut Case) {
    let mut rng = StdRng::seed_from_u64(case.seed ^ 0x6865_616c_7468);
    if case.plan.servers > 9 || !rng.random_bool(0.15) {
        return;
    }
    case.plan.checks = Some(Checks {
        interval_ms: rng.random_range(50..=1_000),
        timeout_ms: rng.random_range(20..=1_000),
        rise: rng.random_range(1..=3),
        fall: rng.random_range(1..=4),
        keep: rng.random_bool(0.4),
    });
    for _ in 0..rng.random_range(1..=4) {
        let at_ms = rng.random_range(0..case.plan.length_ms * 9 / 10);
        let fault = fault(&case.plan, &mut rng);
        case.faults.push(Timed { at_ms, fault });
    }
    case.faults.sort_by_key(|timed| timed.at_ms);
}

/// One fault of this family.
pub(super) fn fault(plan: &Plan, rng: &mut StdRng) -> Fault {
    let modes = [CheckMode::Fails, CheckMode::Fails, CheckMode::Slow, CheckMode::Hangs, CheckMode::Late];
    let everybody = rng.random_bool(0.2);
    Fault::Checks {
        host: (!everybody).then(|| rng.random_range(0..plan.servers)),
        mode: *modes.choose(rng).unwrap_or(&CheckMode::Fails),
        // As often for good as now and then.
        p: if rng.random_bool(0.5) { 1.0 } else { f64::from(rng.random_range(20..900)) / 1000.0 },
        ms: rng.random_range(plan.length_ms / 20..=plan.length_ms / 2).max(1),
    }
}

impl World {
    /// A daemon runs a check.
    pub(super) fn begin_check(&mut self, index: usize, call: CheckCall) {
        let (now, local) = (self.now, self.local(index));
        self.book.running.insert((index, call.id), (call.check, local));
        let before = self.book.newest.insert((index, call.check), call.id);
        let row = self.book.rows.entry((index, call.check)).or_default();
        row.1 += 1;
        if before.is_some_and(|before| self.book.running.contains_key(&(index, before))) {
            // It was given up.
            row.0 = 0;
        }
        let trouble = self.hosts[index].check_trouble.filter(|(_, p)| self.rng.random_bool(*p));
        let quick = self.rng.random_range(Duration::from_micros(100)..Duration::from_millis(5));
        let (after, healthy) = match trouble.map(|(mode, _)| mode) {
            None => (quick, true),
            Some(CheckMode::Fails) => (quick, false),
            Some(CheckMode::Slow) => {
                (self.hosts[index].clock.stretch(call.timeout).mul_f64(1.1) + quick, true)
            }
            Some(CheckMode::Hangs) => return,
            Some(CheckMode::Late) => {
                let spec = self.hosts[index].config.check(call.check);
                let again = spec.map_or(call.timeout, |spec| spec.interval);
                let given_up = call.timeout + crate::limits::CHECK_GRACE;
                let after = given_up.max(again.mul_f64(1.1)) + call.timeout / 2;
                (self.hosts[index].clock.stretch(after), true)
            }
        };
        let life = self.hosts[index].life;
        let mail = Mail::CheckDone { id: call.id, healthy };
        self.queue.push(now + after, Happening::Mail { host: index, life, mail });
    }

    /// A result gets to a daemon.
    pub(super) fn check_result(&mut self, index: usize, id: u64, healthy: bool) {
        let Some((check, began)) = self.book.running.remove(&(index, id)) else { return };
        // A run that was given up, and another began since, says nothing any more.
        if self.book.newest.get(&(index, check)) != Some(&id) {
            super::mark!("check: a result came after the next run began");
            return;
        }
        // By its own clock: a virtual machine that was paused knows nothing of it.
        let took = self.local(index).since(began);
        let timeout = self.hosts[index].config.check(check).map_or(Duration::ZERO, |check| check.timeout);
        let row = self.book.rows.entry((index, check)).or_default();
        // The daemon may have looked at its clock a little earlier or later.
        if healthy && took <= timeout.mul_f64(1.2) {
            row.0 += 1;
        } else {
            row.0 = 0;
        }
        if healthy && took <= timeout.mul_f64(0.8) {
            row.1 = 0;
        }
    }

    /// A daemon is no more, and what it knew of its checks with it.
    pub(super) fn forget_checks(&mut self, index: usize) {
        self.book.unhealthy.retain(|(host, _), _| *host != index);
        self.book.running.retain(|(host, _), _| *host != index);
        self.book.newest.retain(|(host, _), _| *host != index);
        self.book.rows.retain(|(host, _), _| *host != index);
    }

    /// H2: a check changes its mind after as many results in a row as the config says, and not before.
    pub(super) fn health_changed(&mut self, index: usize, check: CheckRef, healthy: bool) {
        let (well, unwell) = self.book.rows.get(&(index, check)).copied().unwrap_or_default();
        let Some((rise, fall)) = self.hosts[index].config.check(check).map(|check| (check.rise, check.fall))
        else {
            self.broken("H2", format!("n{index} knows the health of a check that is not there"));
            return;
        };
        // A starved daemon hears of what came in time too late, and one that was stopped takes no notice.
        let patience = self.book.checks.map_or(Duration::ZERO, Checks::patience);
        let sound = self.is_sound(index, patience);
        if healthy {
            self.book.unhealthy.remove(&(index, check));
            if well < rise && sound {
                self.broken("H2", format!("n{index} is healthy by {well} successes in a row, not {rise}"));
            }
            return;
        }
        if unwell < fall && sound {
            self.broken("H2", format!("n{index} is unhealthy by {unwell} failures in a row, not {fall}"));
        }
        let since = self.now;
        self.book.unhealthy.insert((index, check), since);
        self.queue.push(since + self.release_bound(), Happening::Unhealthy { host: index, check, since });
    }

    /// How long a host may hold what it knows to be unhealthy there: it lets go at once, unless it has to know
    /// of somebody better.
    fn release_bound(&self) -> Duration {
        if self.book.checks.is_some_and(|checks| checks.keep) {
            self.takeover()
        } else {
            Duration::from_secs(2) + self.book.hook_patience
        }
    }

    /// H1: nobody holds for long what it knows to be unhealthy, unless it may because all are.
    pub(super) fn judge_unhealthy(&mut self, index: usize, check: CheckRef, since: Time) {
        let bound = self.release_bound();
        // Who leaves hands over first, for as long as that may take.
        let leaving = self.hosts[index].leaving;
        if leaving || self.book.unhealthy.get(&(index, check)) != Some(&since) || !self.is_sound(index, bound)
        {
            return;
        }
        let held: Vec<_> = (0..self.things.len())
            .filter(|item| {
                let at = self.things[*item].at;
                at.system == check.system && check.item.is_none_or(|of| of == at.item)
            })
            .filter(|item| self.truth.holders(*item).contains(&index))
            .collect();
        for item in held {
            let at = self.things[item].at;
            let keep = self.book.checks.is_some_and(|checks| checks.keep);
            let better = self.better(index, at, bound);
            if keep && better.is_none() {
                continue;
            }
            let than = better.map_or_else(String::new, |other| format!(", and n{other} is well"));
            self.broken("H1", format!("n{index} holds item {item}, unhealthy there since {since}{than}"));
        }
        self.queue.push(self.now + bound / 2, Happening::Unhealthy { host: index, check, since });
    }

    /// Somebody who could hold an item better, and whom this host can see.
    fn better(&self, index: usize, at: ItemRef, bound: Duration) -> Option<usize> {
        let me = self.hosts[index].node.as_ref()?;
        if self.things.iter().any(|thing| thing.at == at && thing.kind == SystemKind::Replicate) {
            return None;
        }
        (0..self.hosts.len()).find(|other| {
            let host = &self.hosts[*other];
            *other != index
                && self.things.iter().any(|thing| thing.at == at && thing.members[*other])
                && !host.drained
                && !host.leaving
                && host.check_trouble.is_none()
                && host.check_sound.is_some_and(|at| self.now.since(at) >= bound)
                && self.is_sound(*other, bound)
                && me.has_quorum()
                && sees(me, *other)
                && host.node.as_ref().is_some_and(|node| node.has_quorum() && sees(node, index))
                && self.network.was_good(index, *other, self.now - bound)
                && !self.book.unhealthy.keys().any(|(host, _)| host == other)
        })
    }

    /// It ran all the time, and nothing but its checks was wrong with it.
    fn is_sound(&self, index: usize, bound: Duration) -> bool {
        let host = &self.hosts[index];
        host.runs(self.now)
            && host.healthy_since.is_some_and(|at| self.now.since(at) >= bound)
            && self.checker.runs_since(index).is_some_and(|at| self.now.since(at) >= bound)
    }

    /// The checks of a host, or of all, begin to fail.
    pub(super) fn begin_check_trouble(&mut self, host: Option<usize>, mode: CheckMode, p: f64) {
        for (index, there) in self.hosts.iter_mut().enumerate() {
            if host.is_none_or(|host| host == index) {
                there.check_trouble = Some((mode, p));
                there.check_sound = None;
            }
        }
    }

    /// The checks of a host, or of all, are right again.
    pub(super) fn end_check_trouble(&mut self, host: Option<usize>) {
        for (index, there) in self.hosts.iter_mut().enumerate() {
            if host.is_none_or(|host| host == index) {
                there.check_trouble = None;
                there.check_sound = Some(self.now);
            }
        }
    }
}
