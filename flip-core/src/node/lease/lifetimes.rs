//! How long the kernel keeps an address by itself (rules R5 to R7, K1 and K5).

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Node, Timer};
use super::{Kept, MANY};
use crate::config::Isolated;
use crate::event::{Event, ItemState, Reason};
use crate::id::ItemRef;
use crate::io::{Lifetime, Output, RefreshCall};
use crate::lease::{KERNEL_LATENESS, lifetime};
use crate::limits;
use crate::planted::{Bug, planted};
use crate::time::Time;

impl Node {
    /// The lifetime for an alive hook; none when the lease is too short for one.
    pub(in crate::node) fn hook_lifetime(&self, at: ItemRef, now: Time) -> Option<Lifetime> {
        if !self.released_by_kernel(at) {
            return Some(Lifetime::ENDLESS);
        }
        if self.isolated(at) == Isolated::Drop && !planted(Bug::PermanentAddress) {
            return lifetime(self.lease_deadline(at)?, now);
        }
        Some(match self.orphan(at) {
            Some(seconds) => Lifetime { seconds, latest: None },
            None => Lifetime::ENDLESS,
        })
    }

    /// How long an address outlives this daemon: finite only while somebody else could take it over
    /// (rules K1 and K5).
    fn orphan(&self, at: ItemRef) -> Option<u32> {
        let orphan = self.config.systems[at.system].orphan?;
        let other = self.others().any(|server| {
            let spec = &self.config.servers[server];
            !spec.retired && spec.systems.contains(&at.system) && self.view.is_up(server)
        });
        (other && self.has_quorum).then(|| u32::try_from(orphan.as_secs()).unwrap_or(Lifetime::FOREVER - 1))
    }

    /// Remembers what the kernel was told.
    pub(in crate::node) fn note_lifetime(&mut self, at: ItemRef, given: Lifetime, now: Time) {
        let kept = match given.seconds {
            Lifetime::FOREVER => Kept::Forever,
            seconds => Kept::Until(now + Duration::from_secs(u64::from(seconds))),
        };
        let at = self.leases.row.at(at);
        self.leases.kernel[at] = Some(kept);
        self.timers.set_earlier(Timer::Lease, now + self.leases.step());
    }

    /// The kernel's timers stood still while the machine slept: what it would keep too long goes now
    /// (R7).
    pub(in crate::node) fn on_suspended(&mut self, by: Duration, now: Time) {
        self.event(Event::Suspended { by });
        self.void_checks();
        if planted(Bug::NoSuspendCheck) {
            return;
        }
        for position in 0..self.leases.kernel.len() {
            let Some(Kept::Until(until)) = self.leases.kernel[position] else { continue };
            let until = until + by;
            self.leases.kernel[position] = Some(Kept::Until(until));
            let at = self.leases.row.item(position);
            if self.isolated(at) == Isolated::Drop
                && self.lease_deadline(at).is_none_or(|deadline| until + KERNEL_LATENESS > deadline)
            {
                self.drop_now(at, Reason::LeaseLost, now);
            }
        }
        self.check_leases(now);
    }

    /// Gives the kernel new lifetimes for what is here: by the lease, or so that an orphan ends.
    pub(super) fn refresh_addresses(&mut self, now: Time) {
        let mut due: Vec<(Option<Time>, ItemRef, Lifetime)> = Vec::new();
        let mut here = 0;
        let many = self.leases.holder.count() > MANY;
        let least = if many { Duration::from_millis(900) } else { self.leases.step() };
        for position in 0..self.leases.kernel.len() {
            let Some(kept) = self.leases.kernel[position] else { continue };
            let at = self.leases.row.item(position);
            if self.item_state(at).0 != ItemState::Active {
                continue;
            }
            let Some(wanted) = self.hook_lifetime(at, now) else { continue };
            here += 1;
            let is_due = match (kept, wanted.seconds) {
                (Kept::Forever, Lifetime::FOREVER) => false,
                (Kept::Forever, _) | (Kept::Until(_), Lifetime::FOREVER) => true,
                (Kept::Until(until), seconds) => {
                    let full = Duration::from_secs(u64::from(seconds));
                    let least = if wanted.latest.is_some() { least } else { full / 3 };
                    now + full >= until + least
                }
            };
            if is_due {
                let until = match kept {
                    Kept::Forever => None,
                    Kept::Until(until) => Some(until),
                };
                due.push((until, at, wanted));
            }
        }
        // A long row of system calls would hold up everything else: those that end first come first.
        due.sort_by_key(|(until, at, _)| (until.is_none(), *until, *at));
        due.truncate((here / 6).max(2 * limits::REFRESHED_AT_ONCE));
        let mut calls: BTreeMap<(usize, u32, Option<Time>), Vec<usize>> = BTreeMap::new();
        for (_, at, wanted) in due {
            calls.entry((at.system, wanted.seconds, wanted.latest)).or_default().push(at.item);
        }
        for ((system, seconds, latest), items) in calls {
            for part in items.chunks(limits::REFRESHED_AT_ONCE) {
                self.refresh(system, part, Lifetime { seconds, latest }, now);
            }
        }
    }

    fn refresh(&mut self, system: usize, items: &[usize], lifetime: Lifetime, now: Time) {
        for item in items {
            self.note_lifetime(ItemRef { system, item: *item }, lifetime, now);
        }
        let id = self.leases.next_refresh;
        self.leases.next_refresh += 1;
        let call = RefreshCall { id, system, items: items.to_vec(), lifetime };
        let called = items.iter().map(|item| (*item, ItemRef { system, item: *item }));
        self.leases.refreshes.insert(id, called.collect());
        self.outputs.push_back(Output::Refresh(call));
    }

    /// Some of the refreshed items are gone: by the kernel, whose timer was faster, or because the
    /// lifetime came too late (R6). If the lease allows it they are brought back.
    pub(in crate::node) fn on_refreshed(&mut self, id: u64, gone: &[usize], now: Time) {
        let Some(called) = self.leases.refreshes.remove(&id) else { return };
        for (_, at) in called.into_iter().filter(|(item, _)| gone.contains(item)) {
            self.leases.kernel[self.leases.row.at(at)] = None;
            self.on_observed(at, false, now);
        }
    }
}
