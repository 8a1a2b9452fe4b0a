//! Hooks: in the daemon's own process where the kernel releases, programs elsewhere.

use std::time::Duration;

use rand::RngExt;

use super::fault::{HookMode, Point};
use super::happening::{Happening, Mail};
use super::host::{Doing, Running, Work};
use super::kernel::LATENESS;
use super::world::World;
use crate::config::Release;
use crate::io::{HookAction, HookCall, RefreshCall};
use crate::planted::{Bug, planted};

impl World {
    /// A daemon starts a hook.
    pub(super) fn begin_hook(&mut self, index: usize, call: HookCall) {
        let Some(item) = self.thing_at(index, call.item) else {
            self.broken("P7", format!("n{index} runs a hook of an item that it does not have"));
            return;
        };
        self.note(Some(index), || {
            let reason = if call.action == HookAction::Announce {
                String::new()
            } else {
                format!("{:?}", call.reason)
            };
            format!("hook {:?} {:?} {reason} {:?}", call.action, call.item, call.lifetime)
        });
        self.check_hook(index, item, &call);
        let host = &mut self.hosts[index];
        host.hooks[item] = Some(Running { id: call.id, announces: call.action == HookAction::Announce });
        let mode = host.hook_trouble.filter(|(_, p)| self.rng.random_bool(*p)).map(|(mode, _)| mode);
        let quick = self.rng.random_range(Duration::from_micros(100)..Duration::from_millis(3));
        let host = &self.hosts[index];
        let timeout = host.clock.stretch(call.timeout);
        let after = match mode {
            None | Some(HookMode::Fails | HookMode::FailsDone) => quick,
            Some(HookMode::Slow) => timeout.mul_f64(0.9),
            Some(HookMode::Hangs | HookMode::HangsDone) => timeout,
        };
        if mode.is_some() && call.action == HookAction::Down {
            self.hosts[index].unanswered[item] = true;
        }
        match self.things[item].release {
            Release::Kernel => self.begin_inside(index, item, call, mode, after),
            Release::Hook => self.begin_program(index, item, &call, mode, after),
        }
    }

    fn begin_inside(
        &mut self,
        index: usize,
        item: usize,
        call: HookCall,
        mode: Option<HookMode>,
        after: Duration,
    ) {
        let (at, life, id) = (self.now + after, self.hosts[index].life, call.id);
        if call.action == HookAction::Alive && !self.hosts[index].interface {
            let mail = Mail::HookDone { item, id, result: Err("no such device") };
            self.queue.push(at, Happening::Mail { host: index, life, mail });
            return;
        }
        let mail = match mode {
            None | Some(HookMode::Slow) => Mail::HookCall(call),
            Some(mode) => Mail::HookEnds { call, mode },
        };
        self.queue.push(at, Happening::Mail { host: index, life, mail });
    }

    fn begin_program(
        &mut self,
        index: usize,
        item: usize,
        call: &HookCall,
        mode: Option<HookMode>,
        after: Duration,
    ) {
        let (at, life, id) = (self.now + after, self.hosts[index].life, call.id);
        let (works, result) = match mode {
            None | Some(HookMode::Slow) => (true, Ok(())),
            Some(HookMode::Fails) => (false, Err("exit code 1")),
            Some(HookMode::FailsDone) => (true, Err("exit code 1")),
            Some(HookMode::Hangs) => (false, Err("timed out")),
            Some(HookMode::HangsDone) => (true, Err("timed out")),
        };
        if works && call.action != HookAction::Announce {
            let up = call.action == HookAction::Alive;
            self.queue.push(at, Happening::Effect { host: index, id: (life, id), item, up });
        }
        let mail = Mail::HookDone { item, id, result };
        self.queue.push(at, Happening::Mail { host: index, life, mail });
    }

    /// A program does what it is for.
    pub(super) fn effect(&mut self, index: usize, id: (u64, u64), item: usize, up: bool) {
        let host = &self.hosts[index];
        let runs = host.hooks[item].is_some_and(|hook| hook.id == id.1);
        if host.life != id.0 || !runs || !host.powered {
            return;
        }
        if host.asleep.is_some() {
            self.hosts[index].held_up.push((id, item, up));
        } else if up {
            self.install(index, item, None);
            // Nobody is there to take it down again.
            let host = &mut self.hosts[index];
            host.unanswered[item] |= host.frozen.is_some();
        } else {
            self.remove(index, item);
        }
    }

    /// A hook of the kernel class ends badly.
    pub(super) fn hook_ends(&mut self, index: usize, call: &HookCall, mode: HookMode) {
        let Some(item) = self.of_hook(index, call.id) else { return };
        if matches!(mode, HookMode::FailsDone | HookMode::HangsDone) {
            match call.action {
                // It stops before anything is announced, and the check after the call still holds.
                HookAction::Alive => {
                    let late = call.lifetime.latest.is_some_and(|latest| self.local(index) > latest);
                    if !late {
                        self.install(index, item, Some(call.lifetime));
                    }
                }
                HookAction::Down => self.remove(index, item),
                HookAction::Announce => {}
            }
        }
        self.hosts[index].inbox.push_front(Mail::HookDone {
            item,
            id: call.id,
            result: Err(if matches!(mode, HookMode::Hangs | HookMode::HangsDone) {
                "timed out"
            } else {
                "netlink says no"
            }),
        });
    }

    /// A hook of the kernel class gets to its system call.
    pub(super) fn begin_alive(&mut self, index: usize, call: HookCall) {
        let Some(item) = self.of_hook(index, call.id) else { return };
        match call.action {
            HookAction::Alive => {
                self.hosts[index].doing = Some(Doing {
                    work: Work::Alive(call),
                    stage: Point::BeforeCheck,
                    items: vec![item],
                    gone: Vec::new(),
                    recreated: Vec::new(),
                    interrupted: false,
                    raced: false,
                });
                return;
            }
            HookAction::Down => {
                self.remove(index, item);
                self.hosts[index].unanswered[item] = false;
            }
            HookAction::Announce => self.announce(index, item),
        }
        let mail = Mail::HookDone { item, id: call.id, result: Ok(()) };
        self.hosts[index].inbox.push_front(mail);
    }

    /// The item on which a hook runs.
    fn of_hook(&self, index: usize, id: u64) -> Option<usize> {
        self.hosts[index].hooks.iter().position(|hook| hook.is_some_and(|hook| hook.id == id))
    }

    /// The daemon ends a hook before it is done.
    pub(super) fn cancel(&mut self, index: usize, id: u64) {
        let hooks = &mut self.hosts[index].hooks;
        let Some(item) = hooks.iter().position(|hook| hook.is_some_and(|hook| hook.id == id)) else { return };
        super::mark!("hook: ended early");
        // What it was about to do does not happen; that it ended is news like any other.
        let ended = u64::MAX - id;
        hooks[item] = Some(Running { id: ended, announces: false });
        self.note(Some(index), || format!("ends the hook of item {item}"));
        // The driver takes the ends of hooks before datagrams.
        self.hosts[index].inbox.push_front(Mail::HookEnded { item, ended, id });
    }

    pub(super) fn begin_refresh(&mut self, index: usize, call: RefreshCall) {
        let at = |item: &usize| crate::id::ItemRef { system: call.system, item: *item };
        let items = call.items.iter().filter_map(|item| self.thing_at(index, at(item))).collect();
        self.hosts[index].doing = Some(Doing {
            work: Work::Refresh(call),
            stage: Point::BeforeCheck,
            items,
            gone: Vec::new(),
            recreated: Vec::new(),
            interrupted: false,
            raced: false,
        });
    }

    /// The daemon stops. If it did so before, between the clock and the kernel, the check after the call comes
    /// as late again, and the lifetime is all that limits exception X1.
    pub(super) fn stops_again(&mut self, index: usize) {
        let Some(doing) = self.hosts[index].doing.as_ref().filter(|doing| doing.raced) else { return };
        let lifetime = match &doing.work {
            Work::Refresh(call) => call.lifetime,
            Work::Alive(call) => call.lifetime,
        };
        let lasts = Duration::from_secs(u64::from(lifetime.seconds.min(60))) + LATENESS;
        self.excuse(index, lasts, "X1");
    }

    /// One stage of giving addresses a lifetime. The rules R5 and R6 that the driver keeps are here.
    pub(super) fn step(&mut self, index: usize, mut doing: Doing) {
        let finite = match &doing.work {
            Work::Refresh(call) => call.lifetime.latest.is_some(),
            Work::Alive(call) => call.lifetime.latest.is_some(),
        };
        if let Some((point, pause)) = self.hosts[index].trap
            && point == doing.stage
            && finite
        {
            self.hosts[index].trap = None;
            self.hosts[index].doing = Some(doing);
            self.freeze(index, pause);
            return;
        }
        let lifetime = match &doing.work {
            Work::Refresh(call) => call.lifetime,
            Work::Alive(call) => call.lifetime,
        };
        let items = doing.items.clone();
        let late = lifetime.latest.is_some_and(|latest| self.local(index) > latest);
        match doing.stage {
            Point::BeforeCheck => {
                if late && !planted(Bug::LatestUnchecked) {
                    super::mark!("world: a lifetime came too late before the call");
                    doing.gone.clone_from(&items);
                    for item in items {
                        self.remove(index, item);
                    }
                    self.finish(index, doing);
                    return;
                }
                doing.stage = Point::BeforeCall;
            }
            Point::BeforeCall if !self.hosts[index].interface => {
                doing.gone.clone_from(&items);
                self.finish(index, doing);
                return;
            }
            Point::BeforeCall => {
                if doing.interrupted {
                    // Exception X1: it exists, unannounced, until the next check.
                    super::mark!("world: stopped between the clock and the kernel (X1)");
                    self.excuse(index, Duration::from_millis(1), "X1");
                    doing.raced = true;
                }
                for item in items {
                    if self.hosts[index].addresses[item].is_none() && matches!(doing.work, Work::Refresh(_)) {
                        doing.recreated.push(item);
                    }
                    self.install(index, item, Some(lifetime));
                }
                doing.stage = Point::AfterCall;
            }
            Point::AfterCall => {
                let late = late && !planted(Bug::NoCheckAfterRefresh) && !planted(Bug::LatestUnchecked);
                if planted(Bug::NoCheckAfterRefresh) {
                    doing.recreated.clear();
                }
                if late {
                    super::mark!("world: a lifetime came too late after the call");
                    doing.gone.clone_from(&items);
                } else {
                    doing.gone.clone_from(&doing.recreated);
                }
                if !doing.recreated.is_empty() {
                    super::mark!("world: a refresh brought an address back (R6 a)");
                }
                for item in doing.gone.clone() {
                    self.remove(index, item);
                }
                self.finish(index, doing);
                return;
            }
        }
        self.hosts[index].doing = Some(doing);
    }

    fn finish(&mut self, index: usize, doing: Doing) {
        match doing.work {
            Work::Refresh(call) => {
                let called = doing.items.iter().zip(&call.items);
                let gone = called.filter(|(item, _)| doing.gone.contains(item)).map(|(_, called)| *called);
                let gone = gone.collect();
                self.hosts[index].refreshed.push_back((call.id, gone));
            }
            Work::Alive(call) => {
                let Some(item) = doing.items.first().copied() else { return };
                let result = if doing.gone.is_empty() {
                    self.announce(index, item);
                    Ok(())
                } else {
                    Err("the address could not be added in time")
                };
                self.hosts[index].inbox.push_front(Mail::HookDone { item, id: call.id, result });
            }
        }
    }
}
