//! What only the simulator may ask.

use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};

use super::Node;
use crate::event::ItemState;
use crate::time::Time;

/// Folds text into a hash, without building it.
struct Fold(DefaultHasher);

impl Write for Fold {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Node {
    /// A digest of what this node believes and is about to do, to see that something changed nothing.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut fold = Fold(DefaultHasher::new());
        let believes = (&self.generation, &self.has_quorum, &self.ballots, &self.items, &self.spread);
        // Folding cannot fail.
        let _ = write!(fold, "{believes:?} {:?} {:?}", self.leaving, self.cases);
        fold.0.write_u64(self.view.digest());
        fold.0.write_u64(self.facts.digest());
        fold.0.finish()
    }

    /// As if this node had been up for long in a cluster whose servers are all up, in this generation. No
    /// session is known: each pair still proves itself to each other when it first speaks.
    pub(crate) fn know_all(&mut self, generation: u64, now: Time) {
        for server in self.others() {
            self.view.alive(server, generation, now);
        }
        let peers: Vec<_> = self.others().map(|server| self.peer(server)).collect();
        self.swim.know(peers.into_iter(), now);
        self.spread.first_contact();
    }

    /// Seals for `to` what may be no message at all.
    pub(crate) fn seal_for(&mut self, to: usize, mut body: Vec<u8>) -> Vec<u8> {
        crate::wire::message::pad(&mut body);
        self.seal(to, &body)
    }

    /// The keys of this node.
    pub(crate) const fn ring(&self) -> &crate::wire::ring::Ring {
        self.seals.ring()
    }

    /// Whether a server is known to have all keys of this node.
    pub(crate) fn has_keys(&self, server: usize) -> bool {
        server == self.config.me || self.has_present_ring(server)
    }

    /// Whether something of an earlier config is left.
    pub(crate) fn is_adopting(&self) -> bool {
        self.adoption.is_under_way()
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
