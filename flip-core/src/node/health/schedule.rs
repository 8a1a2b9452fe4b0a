//! When checks run, and what their results count.

use rand::RngExt;

use super::*;
use crate::io::{CheckCall, Output};
use crate::limits;

impl Node {
    /// Plans the first run of every check.
    pub(in crate::node) fn begin_checks(&mut self, now: Time) {
        if self.health.young {
            self.timers.set(Timer::Young, now + limits::CHECK_YOUTH);
        }
        let all: Vec<_> = (0..self.health.probes.len()).collect();
        self.begin_these(&all, now);
    }

    /// Plans the first run of these checks, spread so that many of them are no burst.
    pub(in crate::node) fn begin_these(&mut self, probes: &[usize], now: Time) {
        for probe in probes.iter().copied() {
            let most = limits::CHECK_SPREAD * u32::try_from(probes.len()).unwrap_or(u32::MAX);
            let most = most.min(self.health.probes[probe].spec.interval);
            let pause = most.mul_f64(self.rng.random_range(0.0..1.0));
            self.timers.set(Timer::Check(probe), now + pause);
        }
    }

    /// This life is not new any more: nobody waits for checks that have not ended.
    pub(in crate::node) fn grow_up(&mut self) {
        self.health.young = false;
        self.items.fitness_changed();
    }

    /// A check is due, or a run of it has taken too long.
    pub(in crate::node) fn check_turn(&mut self, probe: usize, now: Time) {
        if self.leaving.as_ref().is_some_and(|leaving| leaving.done) {
            return;
        }
        let spec = &self.health.probes[probe].spec;
        let Some(run) = self.health.probes[probe].run else {
            if self.health.running.len() >= limits::CHECKS_AT_ONCE {
                self.health.waiting.push_back(probe);
            } else {
                self.run_check(probe, now);
            }
            return;
        };
        // Whoever runs it was to end it at its timeout, and did not.
        let error = format!("no result within {} ms", spec.timeout.as_millis());
        if !planted(Bug::StaleCheckCounts) {
            self.health.running.remove(&run.id);
        }
        self.check_ended(probe, run, Err(error), now);
    }

    fn run_check(&mut self, probe: usize, now: Time) {
        let id = self.health.next_id;
        self.health.next_id += 1;
        self.health.running.insert(id, probe);
        let entry = &mut self.health.probes[probe];
        entry.run = Some(Run { id, since: now, void: false });
        let (check, timeout) = (entry.at, entry.spec.timeout);
        self.timers.set(Timer::Check(probe), now + timeout + limits::CHECK_GRACE);
        self.outputs.push_back(Output::Check(CheckCall { id, check, timeout }));
    }

    /// A run ended.
    pub(in crate::node) fn on_check_done(&mut self, id: u64, result: Result<(), String>, now: Time) {
        let Some(probe) = self.health.running.remove(&id) else { return };
        let Some(run) = self.health.probes[probe].run else { return };
        let timeout = self.health.probes[probe].spec.timeout;
        let took = now.since(run.since);
        let result = result.and_then(|()| {
            if took <= timeout {
                return Ok(());
            }
            Err(format!("took {} ms, expected at most {}", took.as_millis(), timeout.as_millis()))
        });
        self.check_ended(probe, run, result, now);
    }

    fn check_ended(&mut self, probe: usize, run: Run, result: Result<(), String>, now: Time) {
        self.health.probes[probe].run = None;
        let next = if run.void {
            now
        } else {
            let jitter = self.rng.random_range(0.9..1.1);
            (run.since + self.health.probes[probe].spec.interval.mul_f64(jitter)).max(now)
        };
        self.timers.set(Timer::Check(probe), next);
        if !run.void {
            self.count(probe, result, now);
        }
        while self.health.running.len() < limits::CHECKS_AT_ONCE
            && let Some(waiting) = self.health.waiting.pop_front()
        {
            self.run_check(waiting, now);
        }
    }

    /// This node was stopped: what its checks were waiting for may have come and gone meanwhile.
    pub(in crate::node) fn void_checks(&mut self) {
        for probe in self.health.running.values() {
            if let Some(run) = &mut self.health.probes[*probe].run {
                run.void = true;
            }
        }
    }

    fn count(&mut self, probe: usize, result: Result<(), String>, now: Time) {
        let entry = &mut self.health.probes[probe];
        let check = entry.at;
        let state = match result {
            Ok(()) => {
                if !planted(Bug::FallAcrossSuccess) {
                    entry.failures = 0;
                }
                entry.successes = entry.successes.saturating_add(1);
                if entry.successes < entry.spec.rise {
                    return;
                }
                Fitness::Fit
            }
            Err(error) => {
                entry.successes = 0;
                entry.failures = entry.failures.saturating_add(1);
                entry.error = Some((error.clone(), now));
                let (failures, fall) = (entry.failures, entry.spec.fall);
                self.event(Event::CheckFailed { check, error, failures, fall });
                if failures < fall {
                    return;
                }
                Fitness::Unhealthy
            }
        };
        let entry = &mut self.health.probes[probe];
        if entry.state == state {
            return;
        }
        entry.state = state;
        entry.since = now;
        self.event(Event::Health { check, healthy: state == Fitness::Fit });
        self.items.fitness_changed();
    }
}
