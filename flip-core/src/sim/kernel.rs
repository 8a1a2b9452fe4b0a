//! Kernels: addresses with lifetimes, interfaces, and machines that sleep.

use std::time::Duration;

use rand::RngExt;

use super::fault::Disk;
use super::happening::{Happening, Mail};
use super::host::{Address, Sleep};
use super::world::World;
use crate::config::Release;
use crate::io::Lifetime;
use crate::planted::{Bug, planted};

/// How late a kernel removes an address at most (assumption A2).
pub(super) const LATENESS: Duration = Duration::from_millis(1250);

impl World {
    /// The kernel has an address from now on, or gives it a new lifetime.
    pub(super) fn install(&mut self, index: usize, item: usize, lifetime: Option<Lifetime>) {
        let lateness = self.rng.random_range(Duration::ZERO..=LATENESS);
        let now = self.now;
        let token = self.token();
        let host = &mut self.hosts[index];
        let seconds = lifetime.map_or(Lifetime::FOREVER, |lifetime| lifetime.seconds);
        let expires = (seconds < Lifetime::FOREVER)
            .then(|| now + host.clock.stretch(Duration::from_secs(u64::from(seconds))) + lateness);
        let before = host.addresses[item];
        let stamp = before.map_or(token, |address| address.stamp);
        host.addresses[item] = Some(Address { expires, stamp });
        // One look is enough for an address that is refreshed: it finds the newest lifetime.
        if let Some(at) = expires
            && before.is_none_or(|before| before.expires.is_none_or(|before| before > at))
        {
            self.queue.push(at, Happening::Expire { host: index, item });
        }
        if before.is_none() {
            self.changed(index, item);
        }
    }

    /// The kernel has an address no more.
    pub(super) fn remove(&mut self, index: usize, item: usize) {
        self.hosts[index].bursts[item] = None;
        if self.hosts[index].addresses[item].take().is_some() {
            self.hosts[index].unanswered[item] = false;
            self.changed(index, item);
        }
    }

    pub(super) fn expire(&mut self, index: usize, item: usize) {
        let host = &self.hosts[index];
        let Some(at) = host.addresses[item].and_then(|address| address.expires) else { return };
        if host.asleep.is_some() {
            return;
        }
        if at > self.now {
            self.queue.push(at, Happening::Expire { host: index, item });
            return;
        }
        super::mark!("world: the kernel removed an address by itself");
        self.note(Some(index), || format!("the kernel removes item {item}"));
        self.remove(index, item);
        self.observe(index, item, false);
    }

    /// The kernel's news reach the daemon.
    pub(super) fn observe(&mut self, index: usize, item: usize, present: bool) {
        if self.things[item].release == Release::Kernel {
            let at = self.now + Duration::from_micros(200);
            let life = self.hosts[index].life;
            let mail = Mail::Observed { item, present };
            self.queue.push(at, Happening::Mail { host: index, life, mail });
        }
    }

    /// The interface goes away with its addresses, or comes back without them. A kernel that has no word for what
    /// is wrong with it (`told`) leaves it to the hooks to find out.
    pub(super) fn set_interface(&mut self, index: usize, up: bool) {
        self.note(Some(index), || format!("interface {}", if up { "up" } else { "gone" }));
        self.hosts[index].interface = up;
        for item in 0..self.things.len() {
            if self.hosts[index].interface_told && self.things[item].release == Release::Kernel {
                let (at, life) = (self.now + Duration::from_micros(200), self.hosts[index].life);
                let mail = Mail::Usable { item, well: up };
                self.queue.push(at, Happening::Mail { host: index, life, mail });
            }
            if self.things[item].release == Release::Kernel && !up {
                self.remove(index, item);
                self.observe(index, item, false);
            } else {
                self.changed(index, item);
            }
        }
    }

    pub(super) fn power_off(&mut self, index: usize, disk: Disk) {
        self.kill(index, disk);
        self.note(Some(index), || "power off".into());
        self.hosts[index].powered = false;
        for item in 0..self.things.len() {
            self.remove(index, item);
        }
    }

    /// The machine stops, and with it its kernel's timers.
    pub(super) fn machine_sleeps(&mut self, index: usize, hidden: bool) {
        if self.hosts[index].asleep.is_some() || !self.hosts[index].powered {
            return;
        }
        self.note(Some(index), || format!("sleeps{}", if hidden { ", hidden from its clocks" } else { "" }));
        self.hosts[index].asleep = Some(Sleep { since: self.now, hidden });
        for item in 0..self.things.len() {
            self.changed(index, item);
        }
    }

    /// The machine runs again; its daemon is scheduled `late` after.
    pub(super) fn machine_wakes(&mut self, index: usize, late: Duration, dies: bool) {
        self.well(index);
        let now = self.now;
        let Some(sleep) = self.hosts[index].asleep.take() else { return };
        let slept = now.since(sleep.since);
        self.note(Some(index), || format!("wakes after {slept:?}"));
        let host = &mut self.hosts[index];
        let mut latest = now;
        for (item, address) in host.addresses.iter_mut().enumerate() {
            if let Some(expires) = address.as_mut().and_then(|address| address.expires.as_mut()) {
                *expires += slept;
                latest = latest.max(*expires);
                self.queue.push(*expires, Happening::Expire { host: index, item });
            }
        }
        if !sleep.hidden && planted(Bug::MonotonicClock) {
            host.clock.lose(now, slept);
        } else if sleep.hidden {
            host.clock.lose(now, slept);
            // Exception X4: no clock of this machine knows of the pause.
            self.hosts[index].unaware = Some((sleep.since, now));
            self.hosts[index].unaware_until = Some(now + self.lease + LATENESS);
            self.excuse(index, self.lease + LATENESS, "X4");
        } else {
            let known = host.clock.local(now).since(host.clock.local(sleep.since));
            host.slept = Some(host.slept.unwrap_or_default() + known);
        }
        let host = &mut self.hosts[index];
        host.busy_until = host.busy_until.max(now + late);
        // Where the wake-ups of the time asleep went is not known any more.
        host.wake_at = None;
        if dies {
            self.kill(index, Disk::Kept);
        }
        let runs = self.hosts[index].node.is_some() && self.hosts[index].frozen.is_none();
        if runs && !sleep.hidden {
            // Exception X2: until the daemon is scheduled and its down hook is done. One that fails or is slow
            // leaves it to the kernel, and what the kernel does not end waits for some turns of a slow loop.
            let host = &self.hosts[index];
            let bad = host.hook_trouble.is_some() || !host.each.is_zero();
            let span = late + Duration::from_millis(5) + host.each * 4;
            self.excuse(index, if bad { span.max(latest.since(now)) } else { span }, "X2");
        } else if !runs {
            super::mark!("world: woke while frozen or dead");
            // Exception X3: nobody is there who could compare the clocks.
            self.excuse(index, latest.since(now) + Duration::from_millis(1), "X3");
        }
        for item in 0..self.things.len() {
            self.changed(index, item);
        }
        if dies {
            let token = self.token();
            self.hosts[index].kept_down = Some(token);
            let at = now + Duration::from_millis(300);
            self.queue.push(at, Happening::Start { host: index, token });
        }
        // Programs run on before their daemon hears that they have ended.
        for (id, item, up) in std::mem::take(&mut self.hosts[index].held_up) {
            self.effect(index, id, item, up);
        }
        self.pump(index);
    }
}
