//! How far an item here is on its way, for people.

use crate::event::Reason;
use crate::id::{ItemId, ItemRef};
use crate::io::HookAction;
use crate::time::Time;

use super::Items;

/// What happens to an item here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) struct Progress {
    /// The hook that runs.
    pub(in crate::node) hook: Option<HookAction>,
    /// It waits for other hooks of its system, of which so many run.
    pub(in crate::node) waits_for: Option<usize>,
    /// Since when its present holder is asked whether it is there.
    pub(in crate::node) asked: Option<Time>,
}

impl Items {
    /// What made the item begin its present way.
    pub(in crate::node) fn trigger(&self, at: ItemRef) -> Reason {
        self.at(at).reason
    }

    pub(in crate::node) fn find(&self, item: ItemId) -> Option<ItemRef> {
        self.by_id.get(&item).copied()
    }

    pub(in crate::node) fn progress(&self, at: ItemRef) -> Progress {
        Progress {
            hook: self.running(at).map(|(_, action)| action),
            waits_for: self.queue.waits(at),
            asked: self.at(at).asked,
        }
    }

    /// Where an item belongs when everybody is up.
    pub(in crate::node) fn home_of(&self, at: ItemRef) -> Option<usize> {
        self.home(at)
    }

    /// Hooks that run, and items that wait for one to end.
    pub(in crate::node) fn depths(&self) -> (usize, usize) {
        (self.hooks.len(), self.queue.waiting())
    }
}
