//! Failed hooks: when they are tried again, and how an operator speeds that up.

use std::time::Duration;

use rand::RngExt;

use super::super::{Node, Timer};
use crate::event::{ItemState, Reason};
use crate::id::ItemRef;
use crate::limits;
use crate::planted::{Bug, planted};
use crate::status::FailureStatus;
use crate::time::Time;

impl super::Items {
    /// What failed on an item here, for people.
    pub(in crate::node) fn failure(&self, at: ItemRef, now: Time) -> Option<FailureStatus> {
        let item = self.at(at);
        let retry = [item.not_before, item.unannounced.1].into_iter().flatten().max();
        Some(FailureStatus {
            error: item.error.clone()?,
            failures: item.failures.max(item.unannounced.0),
            retry_ms: retry.map(|at| u64::try_from(at.since(now).as_millis()).unwrap_or(u64::MAX)),
        })
    }
}

impl Node {
    /// The pause after so many failures in a row: doubled for each, up to a limit, and a quarter more or less
    /// so that servers that failed together do not try again together.
    pub(super) fn retry_in(&mut self, failures: u32) -> Duration {
        let pause = limits::HOOK_RETRY * 2u32.pow(failures.saturating_sub(1).min(12));
        pause.min(limits::HOOK_RETRY_MAX).mul_f64(self.rng.random_range(0.75..1.25))
    }

    /// What a failed acquisition left behind is gone: the item goes elsewhere for a while.
    pub(super) fn fail(&mut self, at: ItemRef, now: Time) {
        self.change(at, ItemState::Failing, Reason::HookFailed, now);
        self.wait(at, self.config.systems[at.system].hooks.cool_down, now);
    }

    pub(super) fn wait(&mut self, at: ItemRef, pause: Duration, now: Time) {
        self.items.at_mut(at).not_before = Some(now + pause);
        if !planted(Bug::NoRetry) {
            self.timers.set(Timer::Item(at), now + pause);
        }
    }

    pub(in crate::node) fn item_turn(&mut self, at: ItemRef) {
        let item = self.items.at_mut(at);
        item.not_before = None;
        item.unannounced.1 = None;
        self.items.queue.look_at(at);
    }

    /// An operator's word: what caused failures here is mended.
    pub(in crate::node) fn retry(&mut self, name: &str) -> Result<String, String> {
        let named = |at: &ItemRef| self.config.systems[at.system].items[at.item].is_called(name);
        let found: Vec<_> = self.items.each().filter(named).collect();
        if found.is_empty() {
            return Err(format!("there is no item {name}; `flip status` lists them"));
        }
        let waits = |at: &ItemRef| {
            let item = self.items.at(*at);
            item.hook.is_none() && (item.not_before.is_some() || item.unannounced.1.is_some())
        };
        let waiting: Vec<_> = found.iter().copied().filter(waits).collect();
        if waiting.is_empty() {
            return Err(self.not_waiting(name, &found));
        }
        for at in waiting {
            let item = self.items.at_mut(at);
            item.failures = 0;
            self.timers.cancel(Timer::Item(at));
            self.item_turn(at);
        }
        Ok(format!("{name} is tried again on {} now", self.config.my().id))
    }

    fn not_waiting(&self, name: &str, found: &[ItemRef]) -> String {
        let failing = |server: &usize| {
            *server != self.config.me
                && found.iter().any(|at| {
                    let id = self.config.systems[at.system].items[at.item].id;
                    self.says(*server, id, ItemState::Failing)
                })
        };
        let elsewhere: Vec<_> = (0..self.config.servers.len())
            .filter(failing)
            .map(|server| self.config.servers[server].id.as_str())
            .collect();
        if elsewhere.is_empty() {
            format!("no hook of {name} failed on {}: nothing waits to be tried again", self.config.my().id)
        } else {
            let list = elsewhere.join(" and ");
            format!("no hook of {name} failed on {}, but on {list}: run this there", self.config.my().id)
        }
    }
}
