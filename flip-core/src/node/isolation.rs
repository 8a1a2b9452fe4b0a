//! What a node does without a quorum: it knows who is out of its reach, and `"isolated": "take"` places
//! items over the others. And the witness, whose silence means that this node's own network is gone.

use super::{Node, Timer};
use crate::config::{Isolated, SystemKind};
use crate::event::ItemState;
use crate::id::ItemRef;
use crate::io::Output;
use crate::limits;
use crate::loss::Purpose;
use crate::placement::{self, Holders};
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::view::Life;

/// Placement over those in reach; only while no quorum is in sight.
#[derive(Debug, Default)]
pub(super) struct Alone {
    /// Who is out of reach, by server. Empty while a quorum is in sight.
    gone: Vec<bool>,
    placement: Vec<Vec<Holders>>,
    stale: bool,
}

impl Alone {
    /// Computed anew when it is needed next.
    pub(super) fn forget(&mut self) {
        *self = Self { stale: true, ..Self::default() };
    }
}

/// Pings to the witness.
#[derive(Debug, Default)]
pub(super) struct Witness {
    next: u16,
    asked: std::collections::VecDeque<(u16, Time)>,
    /// When the newest ping that it answered was sent.
    answered: Option<Time>,
}

impl Witness {
    /// Pings to which an answer is still taken.
    const OPEN: usize = 64;

    pub(super) fn answered(&mut self, nonce: u16) {
        if let Some((_, sent)) = self.asked.iter().find(|(asked, _)| *asked == nonce) {
            self.answered = self.answered.max(Some(*sent));
        }
    }
}

impl Node {
    /// Asks the witness, if there is one.
    pub(super) fn ask_witness(&mut self, now: Time) {
        if self.config.witness.is_none() {
            return;
        }
        self.witness.next = self.witness.next.wrapping_add(1);
        let nonce = self.witness.next;
        self.witness.asked.push_back((nonce, now));
        if self.witness.asked.len() > Witness::OPEN {
            self.witness.asked.pop_front();
        }
        self.outputs.push_back(Output::PingWitness { nonce });
    }

    /// Whether the witness answered something that was sent after `since`; always, where there is none.
    pub(super) fn witness_answered(&self, since: Time) -> bool {
        self.config.witness.is_none() || self.witness.answered.is_some_and(|sent| sent >= since)
    }

    /// Somebody may have come into reach, or gone.
    pub(super) fn reach_changed(&mut self) {
        self.alone.stale = true;
        self.items.touch();
    }

    /// Whether an item may be taken without a quorum in sight. Whoever has just started looks around first:
    /// it may be the second daemon of its id, or the holder just has not answered yet.
    pub(super) fn may_take_alone(&self, at: ItemRef, now: Time) -> bool {
        let looked_around = self.ever_had_quorum || now.since(self.started) >= self.grace();
        looked_around && self.isolated(at) == Isolated::Take
    }

    /// Places `take` items over those in reach.
    pub(super) fn place_alone(&mut self, now: Time) {
        if self.has_quorum {
            self.alone.gone.clear();
            return;
        }
        let me = self.config.me;
        let gone: Vec<_> = (0..self.config.servers.len())
            .map(|server| server != me && self.is_out_of_reach(server))
            .collect();
        if gone == self.alone.gone && !std::mem::take(&mut self.alone.stale) {
            return;
        }
        self.alone.gone = gone;
        self.alone.placement = (0..self.config.systems.len())
            .map(|system| self.place_over(system, |node, server| !node.alone.gone[server], now))
            .collect();
    }

    /// It is gone, or was silent for a whole window of a case.
    fn is_out_of_reach(&self, server: usize) -> bool {
        matches!(self.view.get(server).life, Life::Down | Life::Left)
            || self.cases.get(&server).is_some_and(super::cases::Case::silent)
    }

    /// Where an item belongs as this node can act on it now.
    pub(super) fn holders_now(&self, at: ItemRef) -> &Holders {
        if !self.has_quorum
            && self.isolated(at) == Isolated::Take
            && let Some(placed) = self.alone.placement.get(at.system).and_then(|system| system.get(at.item))
        {
            return placed;
        }
        self.items.holders(at)
    }

    /// Places a system over the servers that `usable` names, by the rules of who may get items.
    pub(super) fn place_over(
        &mut self,
        system: usize,
        usable: impl Fn(&Self, usize) -> bool,
        now: Time,
    ) -> Vec<Holders> {
        if self.config.systems[system].items.is_empty() {
            return Vec::new();
        }
        let ready = |node: &Self, server: usize| {
            usable(node, server)
                && !node.is_drained(server)
                && !node.is_inactive(server)
                && !node.is_departing(server)
        };
        // Damping spares items that would move; those that are everywhere would only blink.
        let mature = match self.config.systems[system].kind {
            SystemKind::Shard => self.mature(system, ready, now),
            SystemKind::Replicate => vec![true; self.config.servers.len()],
        };
        let spec = &self.config.systems[system];
        let fit = self.fit_for(system, ready, &mature);
        placement::place(&self.config, system, |server, item| {
            let id = spec.items[item].id;
            if self.unclean_on(id).is_some() {
                return false;
            }
            if let Some(Some(fit)) = fit.get(item) {
                return fit[server];
            }
            mature[server]
                && ready(self, server)
                && (planted(Bug::PlacementIgnoresEligibility) || !self.says(server, id, ItemState::Failing))
        })
    }

    /// For each item of a system, who may hold it where servers differ in that; empty where none does.
    fn fit_for(
        &self,
        system: usize,
        ready: impl Fn(&Self, usize) -> bool,
        mature: &[bool],
    ) -> Vec<Option<Vec<bool>>> {
        if !self.health.any() && !self.somewhere_is_trouble() {
            return Vec::new();
        }
        let member = |server: usize| self.config.servers[server].systems.contains(&system);
        let ready: Vec<_> =
            (0..self.config.servers.len()).map(|server| member(server) && ready(self, server)).collect();
        let mature: Vec<_> = ready.iter().zip(mature).map(|(ready, mature)| *ready && *mature).collect();
        (0..self.config.systems[system].items.len())
            .map(|item| self.fit_servers(ItemRef { system, item }, &ready, &mature))
            .collect()
    }

    /// Whether an item may be taken from whoever holds it now, in a planned move. A node that was cut off
    /// a moment ago still sees a quorum; so it takes nothing from a live holder that does not answer a
    /// ping which was sent after the move was decided.
    pub(super) fn holder_answers(&mut self, at: ItemRef, now: Time) -> bool {
        let id = self.config.systems[at.system].items[at.item].id;
        let holder = self
            .others()
            .find(|other| self.view.is_up(*other) && self.says(*other, id, ItemState::Active))
            .filter(|_| self.has_quorum && self.config.systems[at.system].kind == SystemKind::Shard);
        let Some(holder) = holder else { return true };
        let since = *self.items.asked(at).get_or_insert(now);
        if self.awaits_config_of(holder, since, now) {
            self.timers.set(Timer::Item(at), now + limits::REPEAT_PAUSE);
            return false;
        }
        if self.proven.get(&holder).is_some_and(|proven| *proven >= since) && since < now {
            return true;
        }
        let last = self.asked_holders.get(&holder).copied();
        if last.is_none_or(|last| last < since || now.since(last) >= limits::REPEAT_PAUSE) {
            self.asked_holders.insert(holder, now);
            self.ping(holder, Purpose::Probe, now);
        }
        self.timers.set(Timer::Item(at), now + limits::REPEAT_PAUSE);
        false
    }

    pub(super) fn is_departing(&self, server: usize) -> bool {
        if server == self.config.me {
            return self.leaving.is_some();
        }
        let stated = self.facts.of(server);
        stated.departing && stated.generation == self.view.get(server).generation
    }
}
