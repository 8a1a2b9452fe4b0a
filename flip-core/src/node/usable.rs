//! Ground to stand on: whether what an item needs here is there at all, by the kernel's word.
//!
//! An address whose link has no carrier reaches nobody. That is no opinion of a check which might be wrong, so
//! one word is enough: the others hear of it at once, and the item moves. A link that flaps would move it each
//! time, so the way back takes `mature` without an interruption.
//!
//! ```text
//!            trouble                    well                  mature has passed
//!  Usable ──────────────▶ Unusable ──────────────▶ Returning ──────────────────▶ Usable
//!                            ▲ │ trouble: its text     │
//!                            └─┴───────────────────────┘
//!                                  trouble
//! ```
//!
//! Others see `Unusable` as an item whose checks fail here, and `Returning` as one whose checks have not ended
//! since the start: it is not taken here, and what is here stays. Where no server is `Usable`, one that is
//! `Returning` gets the item at once, because waiting would help nobody; and where there is none to give it to,
//! its holder keeps it, so that a switch which starts anew costs no more than the time that it takes.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Node, Timer};
use crate::config::Isolated;
use crate::event::{Event, ItemState, Reason};
use crate::facts::Fitness;
use crate::id::{ItemId, ItemRef};
use crate::io::HookAction;
use crate::status::UnusableStatus;
use crate::time::Time;
use crate::translation::Translation;

/// Items that are not `Usable` here.
#[derive(Debug, Default)]
pub(in crate::node) struct Ground {
    // An item of the config each, so it needs no limit of its own.
    troubled: BTreeMap<ItemRef, Trouble>,
}

/// Why an item may not be here, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    /// The last thing that was wrong, for people.
    why: String,
    /// Since when it is wrong, or since when it is well.
    since: Time,
    /// What is wrong is over, but not for long enough.
    returning: bool,
}

/// What a word changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing that others need to know.
    None,
    /// It was well or on its way back, and is not any more.
    Lost,
    /// It is well, and has to prove itself.
    Returning,
}

impl Ground {
    pub(in crate::node) fn translate(&mut self, to: &Translation) {
        to.by_item(&mut self.troubled);
    }

    /// What the kernel says of an item: what is wrong, or that nothing is.
    fn hear(&mut self, at: ItemRef, trouble: Option<String>, now: Time) -> Turn {
        match (self.troubled.get_mut(&at), trouble) {
            (None, None) => Turn::None,
            (None, Some(why)) => {
                self.troubled.insert(at, Trouble { why, since: now, returning: false });
                Turn::Lost
            }
            (Some(known), Some(why)) if known.returning => {
                *known = Trouble { why, since: now, returning: false };
                Turn::Lost
            }
            (Some(known), Some(why)) => {
                known.why = why;
                Turn::None
            }
            (Some(known), None) if known.returning => Turn::None,
            (Some(known), None) => {
                (known.since, known.returning) = (now, true);
                Turn::Returning
            }
        }
    }

    /// Takes out those that have been well for `mature`.
    fn settle(&mut self, mature: Duration, now: Time) -> Vec<ItemRef> {
        let over = |trouble: &Trouble| trouble.returning && trouble.since + mature <= now;
        let items: Vec<_> = self.troubled.iter().filter(|(_, t)| over(t)).map(|(at, _)| *at).collect();
        self.troubled.retain(|_, trouble| !over(trouble));
        items
    }

    /// When the next one has been well for `mature`.
    fn next(&self, mature: Duration) -> Option<Time> {
        self.troubled.values().filter(|trouble| trouble.returning).map(|trouble| trouble.since + mature).min()
    }

    fn fitness(&self, at: ItemRef) -> Fitness {
        match self.troubled.get(&at) {
            None => Fitness::Fit,
            Some(Trouble { returning: true, .. }) => Fitness::Unproven,
            Some(Trouble { returning: false, .. }) => Fitness::Unhealthy,
        }
    }

    fn is_unusable(&self, at: ItemRef) -> bool {
        self.troubled.get(&at).is_some_and(|trouble| !trouble.returning)
    }
}

impl Node {
    /// Whether what an item needs here is there, by the kernel's word.
    pub(in crate::node) fn on_usable(&mut self, at: ItemRef, trouble: Option<String>, now: Time) {
        let known = self.config.systems.get(at.system).is_some_and(|system| at.item < system.items.len());
        if !known {
            return;
        }
        let mature = self.config.timing.mature;
        match self.ground.hear(at, trouble.clone(), now) {
            Turn::None => return,
            Turn::Lost => self.event(Event::Usable { item: at, trouble }),
            Turn::Returning => self.event(Event::Returning { item: at, after: mature }),
        }
        self.items.fitness_changed();
        self.ground_turn(now);
    }

    /// What has been well for long enough is usable again.
    pub(in crate::node) fn ground_turn(&mut self, now: Time) {
        let mature = self.config.timing.mature;
        for item in self.ground.settle(mature, now) {
            self.event(Event::Usable { item, trouble: None });
            self.items.fitness_changed();
        }
        match self.ground.next(mature) {
            Some(at) => self.timers.set(Timer::Ground, at),
            None => self.timers.cancel(Timer::Ground),
        }
    }

    /// How an item is here, by its checks and by what it stands on.
    pub(in crate::node) fn own_fitness(&self, at: ItemRef) -> Fitness {
        self.health.fitness(at).max(self.ground.fitness(at))
    }

    /// Every item that this node is not fit for.
    pub(in crate::node) fn unfit(&self) -> BTreeMap<ItemId, Fitness> {
        let mut unfit = self.health.unfit(&self.config);
        for at in self.ground.troubled.keys() {
            unfit.insert(self.config.systems[at.system].items[at.item].id, self.own_fitness(*at));
        }
        unfit
    }

    /// Whether some server may be kept from an item that has no checks.
    pub(in crate::node) fn somewhere_is_trouble(&self) -> bool {
        !self.ground.troubled.is_empty()
            || self.others().any(|server| !self.facts.of(server).unfit.is_empty())
    }

    /// Does what lost ground demands of an item here. False when it demands nothing.
    pub(in crate::node) fn ground_step(&mut self, at: ItemRef, now: Time) -> bool {
        if !self.ground.is_unusable(at) {
            return false;
        }
        match self.item_state(at).0 {
            ItemState::Standby => {
                self.forget_wish(at, now);
                if self.items.take_stray(at) {
                    self.start(at, HookAction::Down, Reason::Drift, now);
                } else {
                    self.change(at, ItemState::Failing, Reason::Unusable, now);
                }
            }
            ItemState::Failing => self.forget_wish(at, now),
            ItemState::Active | ItemState::Acquiring if self.has_no_better_place(at) => {}
            ItemState::Active | ItemState::Acquiring => {
                self.start(at, HookAction::Down, Reason::Unusable, now);
            }
            ItemState::Releasing => self.start(at, HookAction::Down, Reason::HookFailed, now),
            ItemState::Unclean => return false,
        }
        true
    }

    /// Whether an item stays though nobody reaches it here: nobody else can be asked, or none is better off.
    /// What must never be on two servers does not wait for anybody.
    fn has_no_better_place(&self, at: ItemRef) -> bool {
        self.isolated(at) != Isolated::Drop && (!self.has_quorum || !self.somebody_else_is_up(at))
    }

    /// What keeps an item from this node, for people.
    pub(in crate::node) fn unusable_status(&self, at: ItemRef, now: Time) -> Option<UnusableStatus> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let trouble = self.ground.troubled.get(&at)?;
        let until = trouble.since + self.config.timing.mature;
        Some(UnusableStatus {
            why: trouble.why.clone(),
            since_ms: millis(now.since(trouble.since)),
            returns_in_ms: trouble.returning.then(|| millis(until.since(now))),
        })
    }
}
