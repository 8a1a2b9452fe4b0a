//! Which cases have catalogs, and what happens to them: with dice of their own, so that all else that a seed draws is
//! as it was.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::{Ask, Disks};
use crate::sim::fault::{Disk, Fault, Timed};
use crate::sim::plan::Case;

/// Who draws.
struct Draw<'a> {
    rng: &'a mut StdRng,
    servers: usize,
    /// Numbers what is said of items: none is said twice.
    to: u32,
}

/// Gives some cases catalogs, and operators who edit them.
pub(in crate::sim) fn draw(case: &mut Case) {
    let mut rng = StdRng::seed_from_u64(case.seed ^ 0x0CA7_A106);
    let contradicts = |fault: &Fault| {
        matches!(
            fault,
            Fault::Edit { .. } | Fault::SecondDaemon { .. } | Fault::Checks { .. } | Fault::Adopt { .. }
        )
    };
    let plan = &mut case.plan;
    if !rng.random_bool(0.35)
        || plan.servers > 9
        || plan.checks.is_some()
        || case.faults.iter().any(|timed| contradicts(&timed.fault))
    {
        return;
    }
    let write_us = *[(200, 3_000), (200, 3_000), (1_000, 30_000), (5_000, 400_000)]
        .choose(&mut rng)
        .unwrap_or(&(200, 3_000));
    plan.catalog = Some(Disks { write_us });
    let length = plan.length_ms * 9 / 10;
    let mut draw = Draw { servers: plan.servers, rng: &mut rng, to: 100 };
    let mut faults = Vec::new();
    let mut version = 1;
    for _ in 0..draw.rng.random_range(2..=10) {
        let at_ms = draw.rng.random_range(0..length);
        draw.moment(at_ms, &mut version, &mut faults);
    }
    let edits: Vec<_> = faults.iter().map(|timed| timed.at_ms).collect();
    // What is lost is lost while it spreads.
    if draw.rng.random_bool(0.5) {
        for _ in 0..draw.rng.random_range(1..=3) {
            let at_ms = edits.choose(draw.rng).copied().unwrap_or_default();
            draw.loss(at_ms, &mut faults);
        }
    }
    if draw.servers > 2 && draw.rng.random_bool(0.06) {
        draw.most_lost(length, &mut faults);
    }
    case.faults.extend(faults.into_iter().filter(|timed| timed.at_ms < length));
    case.faults.sort_by_key(|timed| timed.at_ms);
    crate::sim::swarm::never_back(&mut case.faults);
}

impl Draw<'_> {
    fn host(&mut self) -> usize {
        self.rng.random_range(0..self.servers)
    }

    fn set(&mut self, item: usize) -> Ask {
        self.to += 1;
        // Now and then what another item is as well.
        Ask::Set { item, to: if self.rng.random_bool(0.06) { 0 } else { self.to } }
    }

    fn one(&mut self, item: usize) -> Ask {
        match self.rng.random_range(0..10) {
            0..5 => self.set(item),
            5..9 => Ask::Remove { item },
            _ => Ask::Move { item, to: self.host() },
        }
    }

    fn item(&mut self) -> usize {
        self.rng.random_range(0..8)
    }

    fn moment(&mut self, at_ms: u64, version: &mut u64, faults: &mut Vec<Timed>) {
        let local = self.rng.random_bool(0.15);
        match self.rng.random_range(0..20) {
            0..10 => {
                let edits = {
                    let item = self.item();
                    vec![self.one(item)]
                };
                faults.push(Timed { at_ms, fault: Fault::Edits { at: self.host(), edits, local } });
            }
            10..13 => {
                let mut edits: Vec<_> = (0..self.rng.random_range(2..=4))
                    .map(|_| {
                        let item = self.item();
                        self.one(item)
                    })
                    .collect();
                if self.rng.random_bool(0.3) {
                    edits.push(Ask::Wrong);
                }
                faults.push(Timed { at_ms, fault: Fault::Edits { at: self.host(), edits, local } });
            }
            13..17 => {
                // Several at the same time, often about the same.
                let mut hosts: Vec<_> = (0..self.servers).collect();
                hosts.shuffle(self.rng);
                hosts.truncate(self.rng.random_range(2..=3));
                let same = self.rng.random_bool(0.5).then(|| self.item());
                let apart = self.rng.random_range(0..4);
                // Each may say what makes no config with what the other says.
                let clash = self.rng.random_bool(0.15);
                for (n, at) in hosts.into_iter().enumerate() {
                    let item = same.unwrap_or_else(|| self.item());
                    let one = if clash { Ask::Set { item: n, to: 0 } } else { self.one(item) };
                    let fault = Fault::Edits { at, edits: vec![one], local };
                    faults.push(Timed { at_ms: at_ms + apart * n as u64, fault });
                }
            }
            _ => {
                // A higher version, the present one, or an old one.
                let up = self.rng.random_range(0..5);
                *version += u64::from(up > 1);
                let version = if up == 0 { 1 } else { *version };
                let mut items: Vec<_> =
                    (0..6).filter(|_| self.rng.random_bool(0.8)).map(|n| (n, n as u32 + 1)).collect();
                if items.is_empty() || self.rng.random_bool(0.3) {
                    self.to += 1;
                    items.push((self.item() + 6, self.to));
                }
                faults.push(Timed { at_ms, fault: Fault::File { host: self.host(), version, items } });
            }
        }
    }

    /// All disks but one are lost while that one's host is away, and somebody edits before it is back.
    fn most_lost(&mut self, length: u64, faults: &mut Vec<Timed>) {
        let knows = self.host();
        let edit = |at, ask| Fault::Edits { at, edits: vec![ask], local: false };
        for n in 0..4 {
            let ask = self.set(8);
            faults.push(Timed { at_ms: n * 100, fault: edit(knows, ask) });
        }
        faults.push(Timed { at_ms: 600, fault: edit(knows, Ask::Remove { item: 8 }) });
        let at_ms = length / 2;
        let ms = length / 4;
        faults.push(Timed { at_ms, fault: Fault::PowerOff { host: knows, disk: Disk::Kept, ms } });
        for host in (0..self.servers).filter(|host| *host != knows) {
            faults.push(Timed { at_ms: at_ms + 20, fault: Fault::Kill { host, disk: Disk::Gone, ms: 200 } });
        }
        let ask = self.set(9);
        faults.push(Timed { at_ms: at_ms + ms - 50, fault: edit(knows + 1, ask) });
    }

    /// Daemons die soon after an edit, or the power goes everywhere, or a disk is full.
    fn loss(&mut self, at_ms: u64, faults: &mut Vec<Timed>) {
        let at_ms = at_ms + self.rng.random_range(0..60);
        let ms = *[200, 1_000, 4_000].choose(self.rng).unwrap_or(&200);
        let disk = *[Disk::Kept, Disk::Kept, Disk::Torn, Disk::Gone].choose(self.rng).unwrap_or(&Disk::Kept);
        match self.rng.random_range(0..10) {
            0..6 => faults.push(Timed { at_ms, fault: Fault::Kill { host: self.host(), disk, ms } }),
            6 => {
                for host in 0..self.servers {
                    faults
                        .push(Timed { at_ms, fault: Fault::PowerOff { host, disk: Disk::Kept, ms: 1_000 } });
                }
            }
            _ => faults.push(Timed {
                at_ms: at_ms.saturating_sub(100),
                fault: Fault::DiskFull { host: self.host(), ms },
            }),
        }
    }
}
