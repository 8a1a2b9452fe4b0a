//! How faults begin and end.

use std::time::Duration;

use rand::RngExt;

use super::fault::{Disk, Fault};
use super::happening::{Happening, Mail};
use super::network::Trouble;
use super::world::World;
use crate::config::Config;
use crate::io::Command;

/// What ends a trouble.
#[derive(Clone, Copy, Debug)]
pub(super) enum Undo {
    Network,
    Slow(usize),
    Clock(usize, i64),
    Hooks(usize),
    Interface(usize),
    Disk(usize),
    Drain { at: usize, server: usize },
    Witness(usize),
    Keys,
    Checks(Option<usize>),
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl World {
    /// Something is wrong with this host from now on.
    pub(super) fn ill(&mut self, index: usize) {
        self.hosts[index].ills += 1;
        self.hosts[index].was_ill = true;
        self.hosts[index].healthy_since = None;
    }

    /// One thing less is wrong with this host.
    pub(super) fn well(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.ills = host.ills.saturating_sub(1);
        if host.ills == 0 {
            host.healthy_since = Some(self.now);
        }
    }

    pub(super) fn begin_fault(&mut self, number: usize) {
        let fault = self.faults[number].fault.clone();
        self.note(None, || format!("fault {number}: {fault:?}"));
        let end = self.now + ms(fault.millis());
        match fault {
            Fault::Loss { on, p, .. } => self.network_fault(end, Trouble::Loss(on, p)),
            Fault::Burst { on, bad, mean_ms, .. } => {
                self.network_fault(end, Trouble::Burst(on, bad, ms(mean_ms)));
            }
            Fault::Delay { on, by_ms, .. } => self.network_fault(end, Trouble::Delay(on, ms(by_ms))),
            Fault::Duplicate { p, .. } => self.network_fault(end, Trouble::Duplicate(p)),
            Fault::Late { p, by_ms, .. } => self.network_fault(end, Trouble::Late(p, ms(by_ms))),
            Fault::Corrupt { p, .. } => self.network_fault(end, Trouble::Corrupt(p)),
            Fault::Mtu { on, bytes, .. } => self.network_fault(end, Trouble::Mtu(on, bytes)),
            Fault::Cut { on, .. } => self.network_fault(end, Trouble::Cut(on)),
            Fault::Split { groups, .. } => {
                let size = |group| groups.iter().filter(|other| **other == group).count();
                if size(0) * 2 == groups.len() && size(1) == size(0) {
                    super::mark!("world: half of the cluster on each side");
                }
                self.network_fault(end, Trouble::Split(groups));
            }
            Fault::Bridge { host, groups, .. } => self.network_fault(end, Trouble::Bridge(host, groups)),
            Fault::Kill { host, disk, ms: span } => {
                self.kill(host, disk);
                self.keep_down(host, ms(span));
            }
            Fault::PowerOff { host, disk, ms: span } => {
                self.power_off(host, disk);
                self.keep_down(host, ms(span));
            }
            Fault::Leave { host, ms: span } => {
                self.mail(host, Mail::Leave);
                self.keep_down(host, ms(span));
            }
            Fault::Freeze { host, ms: span } => self.freeze(host, ms(span)),
            Fault::FreezeAt { host, point, ms: span } => {
                if self.hosts[host].node.is_some() {
                    super::mark!("world: frozen in the middle of a call");
                    self.hosts[host].trap = Some((point, ms(span)));
                }
            }
            Fault::Suspend { host, late_ms, dies, .. } => {
                self.machine_sleeps(host, false);
                self.ill(host);
                self.queue.push(end, Happening::Wakes { host, late_us: late_ms * 1000, dies });
            }
            Fault::Pause { host, .. } => {
                self.machine_sleeps(host, true);
                self.ill(host);
                self.queue.push(end, Happening::Wakes { host, late_us: 0, dies: false });
            }
            Fault::Slow { host, each_us, .. } => {
                self.ill(host);
                self.hosts[host].each = Duration::from_micros(each_us);
                self.undo_at(end, Undo::Slow(host));
            }
            Fault::Clock { host, ppm, .. } => {
                let before = self.hosts[host].clock.ppm();
                let now = self.now;
                self.hosts[host].clock.set_rate(now, ppm);
                if ppm.abs() > 10_000 {
                    self.ill(host);
                }
                self.undo_at(end, Undo::Clock(host, before));
                self.replan(host);
            }
            Fault::WallClock { host, by_s } => self.hosts[host].wall_off += by_s,
            Fault::Hooks { host, mode, p, .. } => {
                self.ill(host);
                self.hosts[host].hook_trouble = Some((mode, p));
                self.undo_at(end, Undo::Hooks(host));
            }
            Fault::Interface { host, ms } => {
                self.ill(host);
                // One of two, without another draw.
                self.hosts[host].interface_told |= ms % 2 == 1;
                self.set_interface(host, false);
                self.undo_at(end, Undo::Interface(host));
            }
            Fault::Steal { host } => self.steal(host),
            Fault::DiskFull { host, .. } => {
                self.hosts[host].disk_full = true;
                self.undo_at(end, Undo::Disk(host));
            }
            Fault::Drain { at, server, .. } => {
                self.hosts[server].drained = true;
                self.checker.drained.insert(server, self.now);
                let id = self.hosts[server].config.my().id.clone();
                self.mail(at, Mail::command(Command::Drain { server: id }));
                self.undo_at(end, Undo::Drain { at, server });
            }
            Fault::Checks { host, mode, p, .. } => {
                self.begin_check_trouble(host, mode, p);
                self.undo_at(end, Undo::Checks(host));
            }
            Fault::Replay { host, count, old } => self.replay(host, count, old),
            Fault::Forge { host, count, ms: span } => self.forge(host, count, ms(span)),
            Fault::Edit { add } => self.edit(add),
            Fault::Adopt { change, ms: span } => self.change(change, ms(span)),
            Fault::Edits { at, edits, local } => self.ask_edits(at, &edits, local),
            Fault::File { host, version, items } => self.ask_file(host, version, &items),
            Fault::Witness { host, .. } => {
                // It casts no ballot meanwhile, and what others wait for may be just that.
                self.ill(host);
                self.hosts[host].unwitnessed += 1;
                self.undo_at(end, Undo::Witness(host));
            }
            Fault::Garble { from, to, count } => self.garble(from, to, count),
            Fault::Keys { at, .. } => {
                self.rotate(at);
                self.undo_at(end, Undo::Keys);
            }
            Fault::Upgrade { host, ms: span } => {
                if !self.hosts[host].next_release {
                    self.hosts[host].next_release = true;
                    self.mail(host, Mail::Leave);
                    self.keep_down(host, ms(span));
                }
            }
            Fault::SecondDaemon { host, server } => self.start_second(host, server),
        }
    }

    fn network_fault(&mut self, end: crate::Time, trouble: Trouble) {
        let token = self.token();
        self.network.begin(token, trouble, self.now);
        self.undo.insert(token, Undo::Network);
        self.queue.push(end, Happening::End(token));
    }

    fn undo_at(&mut self, end: crate::Time, undo: Undo) {
        let token = self.token();
        self.undo.insert(token, undo);
        self.queue.push(end, Happening::End(token));
    }

    pub(super) fn end_fault(&mut self, token: u64) {
        let Some(undo) = self.undo.remove(&token) else { return };
        self.note(None, || format!("over: {undo:?}"));
        match undo {
            Undo::Network => self.network.end(token, self.now),
            Undo::Slow(host) => {
                self.hosts[host].each = Duration::ZERO;
                self.well(host);
            }
            Undo::Clock(host, ppm) => {
                let now = self.now;
                if self.hosts[host].clock.ppm().abs() > 10_000 {
                    self.well(host);
                }
                self.hosts[host].clock.set_rate(now, ppm);
                self.replan(host);
            }
            Undo::Hooks(host) => {
                self.hosts[host].hook_trouble = None;
                self.well(host);
            }
            Undo::Interface(host) => {
                self.set_interface(host, true);
                self.well(host);
            }
            Undo::Checks(host) => self.end_check_trouble(host),
            Undo::Disk(host) => self.hosts[host].disk_full = false,
            Undo::Witness(host) => {
                self.hosts[host].unwitnessed -= 1;
                self.well(host);
                self.checker.unwitnessed = Some(self.now);
            }
            Undo::Keys => self.stop_rotating(),
            Undo::Drain { at, server } => {
                self.hosts[server].drained = false;
                // Somebody who runs is asked; the one who was asked first may not.
                let running = |host: &usize| self.hosts[*host].node.is_some();
                let all = 0..self.hosts.len();
                let Some(at) = std::iter::once(at).chain(all).find(running) else { return };
                let id = self.hosts[server].config.my().id.clone();
                self.mail(at, Mail::command(Command::Undrain { server: id }));
            }
        }
    }

    /// The clock changed its rate: what was planned by it is planned anew.
    fn replan(&mut self, host: usize) {
        self.hosts[host].wake_at = None;
        self.pump(host);
    }

    fn keep_down(&mut self, host: usize, span: Duration) {
        let token = self.token();
        self.hosts[host].kept_down = Some(token);
        self.queue.push(self.now + span, Happening::Start { host, token });
    }

    /// A fault that kept a daemon down is over.
    pub(super) fn restart(&mut self, host: usize, token: u64) {
        if self.hosts[host].kept_down != Some(token) {
            return;
        }
        if self.hosts[host].leaving && self.hosts[host].node.is_some() {
            // Its goodbye is not over.
            self.queue.push(self.now + ms(100), Happening::Start { host, token });
            return;
        }
        self.hosts[host].kept_down = None;
        self.hosts[host].powered = true;
        self.start(host);
    }

    /// Somebody deletes one of the addresses of a host.
    fn steal(&mut self, host: usize) {
        let held: Vec<_> = (0..self.things.len())
            .filter(|item| {
                self.hosts[host].addresses[*item].is_some()
                    && self.things[*item].release == crate::config::Release::Kernel
            })
            .collect();
        if held.is_empty() {
            return;
        }
        let item = held[self.rng.random_range(0..held.len())];
        self.note(Some(host), || format!("somebody deletes item {item}"));
        self.remove(host, item);
        self.observe(host, item, false);
    }

    /// All daemons are restarted one by one with another list of items.
    fn edit(&mut self, add: bool) {
        let more: i64 = if add { 1 } else { -1 };
        let mut configs: Vec<_> = self.hosts.iter().map(|host| (*host.config).clone()).collect();
        for config in &mut configs {
            let system = &mut config.systems[0];
            if more < 0 {
                system.items.pop();
            } else if let Some(extra) = self.extra.clone()
                && !system.items.contains(&extra)
            {
                system.items.push(extra);
            }
        }
        self.edited = Some(configs);
        for host in 0..self.hosts.len() {
            let at = self.now + ms(400) * u32::try_from(host).unwrap_or(0);
            let life = self.hosts[host].life;
            self.queue.push(at, Happening::Mail { host, life, mail: Mail::Leave });
            let token = self.token();
            self.hosts[host].kept_down = Some(token);
            self.queue.push(at + ms(300), Happening::Start { host, token });
        }
    }

    /// Ends all troubles of these hosts and of the network, and starts what is down.
    pub(super) fn mend(&mut self, hosts: &[usize]) {
        self.excuse_lost(hosts);
        let tokens: Vec<_> = self.undo.keys().copied().collect();
        for token in tokens {
            self.end_fault(token);
        }
        self.network.calm(self.now);
        self.end_seconds();
        for host in hosts.iter().copied() {
            // A wish to leave that waits in a stopped daemon is none any more; one that was heard is followed
            // by a start.
            self.hosts[host].inbox.retain(|mail| !matches!(mail, Mail::Leave));
            if self.hosts[host].leaving && self.hosts[host].node.is_some() {
                self.keep_down(host, ms(100));
            }
            if self.hosts[host].asleep.is_some() {
                self.machine_wakes(host, Duration::ZERO, false);
            }
            if let Some(token) = self.hosts[host].frozen {
                self.thaw(host, token);
            }
            // Whoever slept through an edit gets it now.
            let items = |config: &Config| config.systems[0].items.len();
            let edited = self.edited.as_ref().map(|configs| items(&configs[host]));
            if self.has_changed() {
                self.catch_up(host);
            } else if edited.is_some_and(|count| count != items(&self.hosts[host].config)) {
                self.kill(host, Disk::Kept);
            }
            if self.has_old_key(host) {
                self.kill(host, Disk::Kept);
            }
            let there = &mut self.hosts[host];
            there.trap = None;
            there.ills = 0;
            there.healthy_since = there.healthy_since.or(Some(self.now));
            let away = there.node.is_none();
            if away {
                there.kept_down = None;
                there.powered = true;
                self.start(host);
            }
        }
    }
}
