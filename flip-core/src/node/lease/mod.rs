//! Leases at work: claims and renewals in messages that leave anyway, lifetimes that the kernel gets, and
//! the end of what may no longer be held.
//!
//! ```text
//!            wanted, quorum seen         grants of a quorum
//!   free ───────────────────────▶ claimed ─────────────▶ leased ──▶ alive hook
//!    ▲                              │ split vote, or        │ renewed by digest, all items at once
//!    │ release ◀────────────────────┘ not wanted            ▼ deadline near, or not wanted
//!    └───────────────────────────────────────────────── down hook ended
//! ```

mod claims;
mod lifetimes;
mod renewals;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Node, Timer};
use crate::config::{Config, Isolated, Release};
use crate::event::{Event, ItemState};
use crate::id::ItemRef;
use crate::io::{HookAction, Output};
use crate::lease::{Holder, Row, Voter};
use crate::planted::{Bug, planted};
use crate::quorum;
use crate::time::Time;
use crate::translation::{Translation, arrange, rekey};

/// How often a release is said. One that is lost all the same costs a lease's length, nothing else.
const RELEASES: u32 = 3;
/// The pace of claims on what was just released.
const EAGER: Duration = Duration::from_millis(5);
/// With more items than this, addresses are refreshed as seldom as their lifetime allows: the kernel
/// walks all of an interface's IPv6 addresses for each.
const MANY: usize = 200;

/// All that a node knows of leases.
pub(in crate::node) struct Leases {
    pub(in crate::node) row: Row,
    voter: Voter,
    holder: Holder,
    wishes: BTreeMap<usize, Wish>,
    renewals: BTreeMap<usize, Renewal>,
    /// Voters to which all claims must be said again.
    disagree: BTreeSet<usize>,
    releases: Vec<(Vec<(u64, u32)>, u32)>,
    /// How long the kernel keeps each item by itself.
    kernel: Vec<Option<Kept>>,
    /// Items whose lease was announced as held.
    held: BTreeSet<usize>,
    /// When the first item must be given up, as far as was known at the last turn.
    ends: Option<Time>,
    /// Refreshes that are under way: each item as it was called, and where it is now.
    refreshes: BTreeMap<u64, Vec<(usize, ItemRef)>>,
    next_refresh: u64,
    lease: Duration,
    /// Some item needs a lease, or has an address with a lifetime.
    used: bool,
}

/// A claim that is not granted by everybody yet.
#[derive(Clone, Copy, Debug)]
struct Wish {
    /// When the first voter granted it.
    granted: Option<Time>,
    /// When it is said again.
    next: Time,
    /// How often it is said at a quick pace: the former holder has let go, and its word may reach a voter
    /// after the claim.
    eager: u32,
}

impl Wish {
    const fn new(next: Time) -> Self {
        Self { granted: None, next, eager: 0 }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Renewal {
    sent: Option<Time>,
    /// When the newest acknowledged one was sent.
    done: Option<Time>,
    unanswered: u32,
    /// Claims were sent to this voter and not answered yet: a renewal now would name less than it has.
    claimed: Option<Time>,
}

impl Renewal {
    fn answered(&self) -> bool {
        self.sent.is_none_or(|sent| self.done.is_some_and(|done| done >= sent))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Forever,
    Until(Time),
}

/// How many grants a lease needs.
fn needed(config: &Config) -> usize {
    config.quorum.max(quorum::majority(config.voters.len()))
}

/// Whether some item needs a lease, or has an address with a lifetime.
fn is_used(config: &Config) -> bool {
    config.systems.iter().any(|system| {
        system.release == Release::Kernel && system.orphan.is_some() && !system.items.is_empty()
            || system.items.iter().any(|item| item.isolated == Isolated::Drop)
    })
}

impl Leases {
    pub(in crate::node) fn new(config: &Config, session: u64, now: Time) -> Self {
        let row = Row::new(config);
        let items = row.len();
        Self {
            voter: Voter::new(items, config.lease, now),
            holder: Holder::new(items, &config.voters, needed(config), config.lease, session),
            wishes: BTreeMap::new(),
            renewals: BTreeMap::new(),
            disagree: BTreeSet::new(),
            releases: Vec::new(),
            kernel: vec![None; items],
            held: BTreeSet::new(),
            ends: None,
            refreshes: BTreeMap::new(),
            next_refresh: 1,
            lease: config.lease,
            used: is_used(config),
            row,
        }
    }

    /// Goes on under another config. What is claimed here, or promised to anybody, is still in it.
    pub(in crate::node) fn translate(&mut self, to: &Translation, config: &Config) {
        let old = std::mem::replace(&mut self.row, Row::new(config));
        let (row, items) = (&self.row, self.row.len());
        let place = |before: usize| row.find(old.id(before));
        self.voter.translate(to, (items, &place), |before| old.id(before));
        self.holder.translate(to, (items, &place), (&config.voters, needed(config)), config.lease);
        rekey(&mut self.wishes, place);
        let kernel = std::mem::take(&mut self.kernel).into_iter().enumerate();
        self.kernel =
            arrange(items, kernel.filter_map(|(before, kept)| Some((place(before)?, kept))), || None);
        self.held = std::mem::take(&mut self.held).into_iter().filter_map(place).collect();
        to.by_server(&mut self.renewals);
        to.set_of_servers(&mut self.disagree);
        for called in self.refreshes.values_mut() {
            let known = called.drain(..).filter_map(|(item, at)| Some((item, to.item(at)?)));
            *called = known.collect();
        }
        self.lease = config.lease;
        self.used = is_used(config);
    }

    /// Others vote than before (R9). Comes before [`Self::translate`].
    pub(in crate::node) fn electorate_changed(&mut self, config: &Config, now: Time) {
        self.voter.electorate_changed(self.lease.max(config.lease), now);
    }

    /// Whether this node may still be bound to a promise of an item, or has a claim on it.
    pub(in crate::node) fn binds(&self, at: ItemRef, now: Time) -> bool {
        self.voter.promised_to(self.row.at(at), now).is_some()
    }

    /// Whether an item is claimed here.
    pub(in crate::node) fn is_claimed(&self, at: ItemRef) -> bool {
        self.holder.epoch(self.row.at(at)).is_some()
    }

    /// Whether anything is promised to a server.
    pub(in crate::node) fn owes(&self, server: usize, now: Time) -> bool {
        self.voter.owes(server, now)
    }

    /// The length of a lease, as claims and renewals say it.
    fn lease_ms(&self) -> u32 {
        u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX)
    }

    /// The pace of claims and of what is repeated.
    fn step(&self) -> Duration {
        self.lease / 32
    }
}

impl Node {
    pub(in crate::node) fn isolated(&self, at: ItemRef) -> Isolated {
        self.config.systems[at.system].items[at.item].isolated
    }

    fn released_by_kernel(&self, at: ItemRef) -> bool {
        self.config.systems[at.system].release == Release::Kernel
    }

    /// Until when an item may be held: as its lease says.
    pub(in crate::node) fn lease_deadline(&self, at: ItemRef) -> Option<Time> {
        self.leases.holder.deadline(self.leases.row.at(at))
    }

    /// How long before its deadline an item is given up. What the kernel removes by itself needs only the
    /// call; a down hook needs time to end (rule R10).
    fn stop_budget(&self, at: ItemRef) -> Duration {
        if self.released_by_kernel(at) { self.leases.lease / 16 } else { self.leases.lease / 3 }
    }

    /// Whether an item may be here now, by its lease if it needs one.
    pub(in crate::node) fn may_hold(&self, at: ItemRef, now: Time) -> bool {
        self.isolated(at) != Isolated::Drop
            || self.lease_deadline(at).is_some_and(|deadline| now + self.stop_budget(at) < deadline)
    }

    /// Whether an item may be brought up now: there must be time to use it.
    pub(in crate::node) fn may_take(&self, at: ItemRef, now: Time) -> bool {
        self.may_hold(at, now) && self.hook_lifetime(at, now).is_some()
    }

    /// Wants an item: claims it unless that was done. True when it may be taken now.
    pub(in crate::node) fn want_lease(&mut self, at: ItemRef, now: Time) -> bool {
        let position = self.leases.row.at(at);
        if self.leases.holder.epoch(position).is_none() {
            if self.leases.wishes.get(&position).is_some_and(|wish| wish.next > now) {
                return false;
            }
            self.leases.holder.claim(position);
            self.leases.wishes.insert(position, Wish::new(now));
            self.timers.set(Timer::Lease, now);
        }
        self.may_take(at, now)
    }

    /// The item is gone from here, or was never taken: the claim is over (rule R8).
    pub(in crate::node) fn release_lease(&mut self, at: ItemRef, now: Time) {
        let position = self.leases.row.at(at);
        let id = self.leases.row.id(position);
        self.leases.wishes.remove(&position);
        self.leases.kernel[position] = None;
        self.note_held(position, false);
        let Some(epoch) = self.leases.holder.give_up(position, id) else { return };
        self.leases.voter.release((position, id), self.config.me, epoch);
        self.say_released(id, epoch.counter, now);
    }

    fn other_voters(&self) -> Vec<usize> {
        let me = self.config.me;
        self.config.voters.iter().copied().filter(|voter| *voter != me).collect()
    }

    /// One turn: claims, renewals, releases, lifetimes.
    pub(in crate::node) fn lease_turn(&mut self, now: Time) {
        if !self.leases.used && self.leases.releases.is_empty() {
            return;
        }
        self.say_releases();
        self.say_claims(now);
        self.renew_own(now);
        for voter in self.other_voters() {
            if self.renewal_due(voter, now) {
                self.renew(voter, now);
            }
        }
        self.check_leases(now);
        self.refresh_addresses(now);
        let busy = self.leases.holder.count() > 0
            || !self.leases.releases.is_empty()
            || self.leases.kernel.iter().any(Option::is_some);
        if busy {
            let next = self.leases.wishes.values().map(|wish| wish.next).filter(|next| *next > now).min();
            let step = now + self.leases.step();
            self.timers.set_earlier(Timer::Lease, next.map_or(step, |next| next.min(step)));
        }
    }

    /// Compares now with every deadline. Comes before anything else that an input brings (R8): whoever
    /// was stopped must not act on what it believed before.
    pub(in crate::node) fn check_leases(&mut self, now: Time) {
        let mut ends: Option<Time> = None;
        let claimed: Vec<_> = self.leases.holder.claimed().collect();
        for position in claimed {
            let at = self.leases.row.item(position);
            let may = self.may_hold(at, now);
            self.note_held(position, may);
            let state = self.item_state(at).0;
            if state == ItemState::Standby && may {
                // It waited for other hooks, and meanwhile for its lease to be renewed.
                self.items.look_at(at);
            }
            if !matches!(state, ItemState::Active | ItemState::Acquiring) {
                continue;
            }
            if may {
                let end = self.lease_deadline(at).map(|deadline| deadline - self.stop_budget(at));
                ends = [ends, end].into_iter().flatten().min();
            } else {
                self.items.touch();
                // What runs on the item would keep its down hook waiting.
                if let Some((hook, HookAction::Alive | HookAction::Announce)) = self.items.running(at) {
                    self.outputs.push_back(Output::Cancel { hook });
                }
            }
        }
        self.leases.ends = ends;
        if let Some(ends) = ends {
            self.timers.set_earlier(Timer::Lease, ends);
        }
    }

    /// The first thing that happens with every input. True when there was something to look at.
    pub(in crate::node) fn check_leases_in_time(&mut self, now: Time) -> bool {
        let ended = self.leases.ends.is_some_and(|ends| ends <= now) && !planted(Bug::NoDeadlineCheck);
        if ended {
            self.check_leases(now);
        }
        ended
    }

    fn note_held(&mut self, position: usize, held: bool) {
        let changed =
            if held { self.leases.held.insert(position) } else { self.leases.held.remove(&position) };
        if changed {
            let item = self.leases.row.item(position);
            self.event(Event::Lease { item, held });
        }
    }
}
