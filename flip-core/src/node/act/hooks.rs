//! Hooks: how they are called, and what their end means.

use std::time::Duration;

use super::super::{Node, Timer};
use crate::config::{Isolated, Release, SystemKind};
use crate::event::{Event, ItemState, Reason};
use crate::id::ItemRef;
use crate::io::{HookAction, HookCall, Lifetime, Output};
use crate::planted::{Bug, planted};
use crate::time::Time;

impl Node {
    pub(in crate::node) fn start(&mut self, at: ItemRef, action: HookAction, reason: Reason, now: Time) {
        let state = match action {
            HookAction::Alive => ItemState::Acquiring,
            HookAction::Down if planted(Bug::DownHookSkipped) => {
                return self.change(at, ItemState::Standby, reason, now);
            }
            HookAction::Down => ItemState::Releasing,
            HookAction::Announce => return,
        };
        self.items.at_mut(at).reason = reason;
        self.change(at, state, reason, now);
        self.call(at, action, reason, now);
    }

    pub(super) fn call(&mut self, at: ItemRef, action: HookAction, reason: Reason, now: Time) {
        let lifetime = match action {
            HookAction::Alive => self.hook_lifetime(at, now).unwrap_or(Lifetime::ENDLESS),
            HookAction::Down | HookAction::Announce => Lifetime::ENDLESS,
        };
        if action == HookAction::Alive && self.config.systems[at.system].release == Release::Kernel {
            self.note_lifetime(at, lifetime, now);
        }
        let timeout = self.hook_timeout(at, action);
        let id = self.items.next_id();
        self.items.hooks.insert(id, (at, action));
        if action != HookAction::Announce {
            self.items.queue.began(at.system);
        }
        let item = self.items.at_mut(at);
        debug_assert!(item.hook.is_none(), "hooks of one item must not overlap");
        item.hook = Some(id);
        item.not_before = None;
        item.unannounced.1 = None;
        item.asked = None;
        item.hushed = false;
        item.proof = None;
        item.stray = false;
        self.outputs.push_back(Output::Hook(HookCall { id, item: at, action, reason, timeout, lifetime }));
    }

    pub(in crate::node) fn on_hook_done(&mut self, hook: u64, result: Result<(), String>, now: Time) {
        let Some((at, action)) = self.items.hooks.remove(&hook) else {
            return self.on_post_done(hook, result);
        };
        if action != HookAction::Announce {
            self.items.queue.ended(at.system);
        }
        self.items.queue.look_at(at);
        let item = self.items.at_mut(at);
        item.hook = None;
        let exhausted = std::mem::take(&mut item.exhausted);
        let error = match result {
            Ok(()) => {
                let item = self.items.at_mut(at);
                item.unannounced.0 = 0;
                // Why it is `Failing` is told until it is here again.
                if !exhausted {
                    item.error = None;
                }
                if action != HookAction::Announce {
                    item.failures = 0;
                }
                match action {
                    HookAction::Alive => self.change(at, ItemState::Active, Reason::HookDone, now),
                    HookAction::Down => self.on_down(at, exhausted, now),
                    HookAction::Announce => {}
                }
                return;
            }
            Err(error) => error,
        };
        let item = self.items.at_mut(at);
        // An item that cannot be announced is here all the same: that is no reason to give it away.
        let count = if action == HookAction::Announce { &mut item.unannounced.0 } else { &mut item.failures };
        *count += 1;
        let failures = *count;
        let retry_in = self.retry_in(failures);
        let fall = self.config.systems[at.system].hooks.fall;
        let item = self.items.at_mut(at);
        item.error = Some(error.clone());
        self.event(Event::HookFailed { item: at, action, error, failures, retry_in });
        match action {
            HookAction::Announce if planted(Bug::NoReannounce) => {}
            HookAction::Announce => {
                let item = self.items.at_mut(at);
                item.announce = true;
                item.unannounced.1 = Some(now + retry_in);
                self.timers.set(Timer::Item(at), now + retry_in);
            }
            HookAction::Down if self.is_unclean_now(at, failures, now) => {
                self.change(at, ItemState::Unclean, Reason::HookFailed, now);
                let id = self.config.systems[at.system].items[at.item].id;
                if self.unclean_on(id).is_none() {
                    self.mark(self.config.me, Some(id), true, now);
                }
                self.items.at_mut(at).exhausted = exhausted;
                self.wait(at, retry_in, now);
            }
            HookAction::Alive if failures >= fall && self.leaving.is_none() => {
                // Whatever the handler did half is undone before another server takes over.
                self.start(at, HookAction::Down, Reason::HookFailed, now);
                self.items.at_mut(at).exhausted = true;
            }
            HookAction::Alive | HookAction::Down => {
                self.items.at_mut(at).exhausted = exhausted;
                self.wait(at, retry_in, now);
            }
        }
    }

    /// The item is gone from here.
    fn on_down(&mut self, at: ItemRef, exhausted: bool, now: Time) {
        let id = self.config.systems[at.system].items[at.item].id;
        if self.unclean_on(id) == Some(self.config.me) {
            self.mark(self.config.me, Some(id), false, now);
        }
        if exhausted {
            self.fail(at, now);
        } else {
            self.change(at, ItemState::Standby, Reason::HookDone, now);
        }
        self.items.at_mut(at).missing = false;
        self.release_lease(at, now);
        if self.isolated(at) != Isolated::Drop && self.config.systems[at.system].kind == SystemKind::Shard {
            self.say_released(id, 0, now);
        }
    }

    /// Whether a failed down hook leaves an item behind that nobody may take: the lease promised that
    /// nobody else holds it, and only the hook could release it (rule R10).
    fn is_unclean_now(&self, at: ItemRef, failures: u32, now: Time) -> bool {
        self.isolated(at) == Isolated::Drop
            && self.config.systems[at.system].release == Release::Hook
            && (failures >= self.config.systems[at.system].hooks.fall || !self.may_hold(at, now))
    }

    /// A down hook under a lease is ended before the lease is.
    fn hook_timeout(&self, at: ItemRef, action: HookAction) -> Duration {
        let own = self.config.systems[at.system].hooks.timeout;
        let timeout = own.unwrap_or(self.config.timing.hook_timeout);
        let leased = self.isolated(at) == Isolated::Drop
            && self.config.systems[at.system].release == Release::Hook
            && action == HookAction::Down;
        if leased { timeout.min(self.config.lease / 4) } else { timeout }
    }

    /// Takes an item down at once, whatever else was planned.
    pub(in crate::node) fn drop_now(&mut self, at: ItemRef, reason: Reason, now: Time) {
        let item = self.items.at(at);
        match item.hook {
            None if item.state == ItemState::Active => self.start(at, HookAction::Down, reason, now),
            // It is taken down when the hook that runs has ended.
            _ => self.items.queue.look_at(at),
        }
    }
}
