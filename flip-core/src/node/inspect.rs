//! What only the simulator may ask.

use super::Node;
use crate::event::ItemState;

impl Node {
    /// A digest of what this node believes and is about to do, to see that something changed nothing.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let believes = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            self.generation, self.has_quorum, self.ballots, self.items, self.spread, self.leaving
        );
        hasher.update(believes.as_bytes());
        hasher.update(&self.view.digest().to_be_bytes());
        hasher.update(&self.facts.digest().to_be_bytes());
        for (server, case) in &self.cases {
            hasher.update(format!("{server} {case:?}").as_bytes());
        }
        crate::view::word(&hasher)
    }

    /// Whether an item is on its way here or away from here.
    pub(crate) fn is_moving(&self) -> bool {
        let moving = |state| matches!(state, ItemState::Acquiring | ItemState::Releasing);
        self.items.held(&self.config).values().any(|(state, _)| moving(*state))
    }

    /// Tables that can grow: name, entries, and the most that there may be.
    pub(crate) fn sizes(&self) -> Vec<(&'static str, usize, usize)> {
        let servers = self.config.servers.len();
        vec![
            ("open cases", self.cases.len(), servers),
            ("ballots", self.ballots.len(), servers * servers),
            ("pings in flight", self.pings.in_flight(), 1_000 + 200 * servers),
            ("outputs after draining", self.outputs.len(), 0),
            ("bodies after an input", self.bodies.len(), 0),
        ]
    }
}
