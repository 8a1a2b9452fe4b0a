//! What a node remembers to be able to say why: the last moves of items, as it saw them, and which voters refused
//! it a lease. No rule reads any of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Node;
use crate::event::{Event, ItemState, Reason, Refusal};
use crate::facts::Changes;
use crate::id::{ItemId, ItemRef, ShortId};
use crate::limits;
use crate::tally::{Depths, Tally};
use crate::time::Time;
use crate::why::What;

/// Names instead of positions: it is read under whatever config there is then.
#[derive(Debug, Default)]
pub(super) struct Memory {
    moves: VecDeque<Moved>,
    /// Until when asking a voter for a lease is in vain.
    refused: BTreeMap<(ItemId, ShortId), Time>,
    /// Servers whose digest differed from this node's, and since when.
    diverged: BTreeMap<ShortId, Time>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) item: ItemId,
    pub(super) server: ShortId,
    pub(super) what: What,
    pub(super) trigger: Option<Reason>,
    pub(super) at: Time,
}

impl Memory {
    fn moved(&mut self, moved: Moved) {
        if self.moves.len() >= limits::MOVES {
            self.moves.pop_front();
        }
        self.moves.push_back(moved);
    }

    /// The last moves of an item, oldest first.
    pub(super) fn of(&self, item: ItemId) -> Vec<Moved> {
        let moves = self.moves.iter().rev().filter(|moved| moved.item == item);
        let mut last: Vec<_> = moves.take(limits::MOVES_SHOWN).copied().collect();
        last.reverse();
        last
    }

    /// A voter answered a claim: how long it refuses, or that it does not.
    pub(super) fn answered(&mut self, item: ItemId, voter: ShortId, refuses: Option<Duration>, now: Time) {
        match refuses {
            None => {
                self.refused.remove(&(item, voter));
            }
            Some(wait) => {
                if self.refused.len() >= limits::REFUSALS_KEPT {
                    self.refused.retain(|_, until| *until > now);
                }
                if self.refused.len() < limits::REFUSALS_KEPT || self.refused.contains_key(&(item, voter)) {
                    self.refused.insert((item, voter), now + wait);
                }
            }
        }
    }

    /// A server's digest is like this node's, or it is not.
    pub(super) fn compared(&mut self, server: ShortId, differs: bool, now: Time) {
        if differs {
            self.diverged.entry(server).or_insert(now);
        } else {
            self.diverged.remove(&server);
        }
    }

    /// For how much longer a voter refuses an item.
    pub(super) fn refused_for(&self, item: ItemId, voter: ShortId, now: Time) -> Option<Duration> {
        let until = self.refused.get(&(item, voter))?;
        (*until > now).then(|| until.since(now))
    }
}

impl Node {
    /// Remembers what an event says of moves.
    pub(super) fn remember(&mut self, event: &Event) {
        match event {
            Event::Item { item, from, to, reason } => {
                if *reason == Reason::LeaseLost {
                    self.tally.leases.expired += 1;
                }
                let what = match (from, to) {
                    (_, ItemState::Active) => What::Came,
                    (ItemState::Releasing | ItemState::Unclean, ItemState::Standby) => What::Went,
                    (_, ItemState::Failing) => What::Failed,
                    (_, ItemState::Unclean) => What::Stuck,
                    _ => return,
                };
                // That a hook ended says nothing of why it was called.
                let done = *reason == Reason::HookDone;
                let trigger = if done { self.items.trigger(*item) } else { *reason };
                let (item, server) = (self.item_id(*item), self.config.my().short);
                self.memory.moved(Moved { item, server, what, trigger: Some(trigger), at: self.now });
            }
            Event::MemberDown { server, .. } => {
                let held = self.facts.of(*server).held.iter();
                let there = |state: &ItemState| !matches!(state, ItemState::Standby | ItemState::Failing);
                let held = held.filter(|(_, (state, _))| there(state)).map(|(item, _)| *item);
                let server = self.config.servers[*server].short;
                for item in held {
                    let what = What::Died;
                    self.memory.moved(Moved { item, server, what, trigger: None, at: self.now });
                }
            }
            Event::MemberUp { server, .. } | Event::MemberLeft { server, .. } => {
                self.memory.compared(self.config.servers[*server].short, false, self.now);
            }
            _ => {}
        }
    }

    /// Remembers what another server says of its items.
    pub(super) fn remember_facts(&mut self, server: usize, changes: &Changes) {
        let short = self.config.servers[server].short;
        for (item, before, after) in changes {
            let what = match (before, after) {
                (_, Some(ItemState::Active)) => What::Came,
                (Some(ItemState::Active | ItemState::Releasing | ItemState::Unclean), None) => What::Went,
                (_, Some(ItemState::Failing)) => What::Failed,
                (_, Some(ItemState::Unclean)) => What::Stuck,
                _ => continue,
            };
            // Why it came there, by this node's own placement.
            let at = self.items.find(*item).filter(|_| what == What::Came);
            let trigger = at.map(|at| self.why(at));
            self.memory.moved(Moved { item: *item, server: short, what, trigger, at: self.now });
        }
    }

    /// For how long the digest of some member that is up has differed from this node's: zero when all agree.
    #[must_use]
    pub fn diverged_for(&self, now: Time) -> Duration {
        let up = |server: &ShortId| self.config.server_index(*server).is_some_and(|at| self.view.is_up(at));
        let since = self.memory.diverged.iter().filter(|(server, _)| up(server)).map(|(_, since)| *since);
        since.min().map_or(Duration::ZERO, |since| now.since(since))
    }

    /// What this node counts.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Datagrams sent, and their bytes.
    #[must_use]
    pub const fn sent(&self) -> (u64, u64) {
        self.sent
    }

    /// Datagrams that were refused, in the order of [`Refusal::ALL`].
    #[must_use]
    pub fn refused_by_reason(&self) -> [u64; Refusal::ALL.len()] {
        self.refused.by_reason()
    }

    /// How much waits, or is under way.
    #[must_use]
    pub fn depths(&self) -> Depths {
        let (hooks, items) = self.items.depths();
        Depths { hooks, items, checks: self.health.waiting() }
    }

    /// When anything was last heard of a server, first-hand.
    #[must_use]
    pub fn last_heard(&self, server: usize) -> Option<Time> {
        self.spread.last_heard(server)
    }

    /// A hash of everything in the config that has to be alike on all servers.
    #[must_use]
    pub const fn content_hash(&self) -> u64 {
        self.content
    }

    pub(super) fn item_id(&self, at: ItemRef) -> ItemId {
        self.config.systems[at.system].items[at.item].id
    }
}

#[cfg(test)]
impl Node {
    /// Remembers more than may be.
    pub(super) fn fill_memory(&mut self) {
        for n in 0..2 * limits::MOVES.max(limits::REFUSALS_KEPT) {
            let item = ItemId(n as u64);
            let moved = Moved { item, server: ShortId(1), what: What::Came, trigger: None, at: self.now };
            self.memory.moved(moved);
            self.memory.answered(item, ShortId(1), Some(Duration::from_secs(9)), self.now);
        }
    }

    pub(super) fn memory_len(&self) -> (usize, usize) {
        (self.memory.moves.len(), self.memory.refused.len())
    }
}
