//! Under which key and in which version a packet is sealed.

use super::Node;
use crate::wire::seal::WIRE;

impl Node {
    /// Seals for `to`.
    pub(super) fn seal(&mut self, to: usize, body: &[u8]) -> Vec<u8> {
        let random = rand::Rng::next_u64(&mut self.rng);
        let (wire, key) = (self.wire_for(to), self.key_for(to));
        self.seals.seal(wire, key, body, random)
    }

    /// A member certainly has the key that it used itself last.
    fn key_for(&self, to: usize) -> u8 {
        self.sessions.key(to).unwrap_or(self.seals.ring().active())
    }

    /// The newest version that the receiver and every voter said they speak.
    fn wire_for(&self, to: usize) -> u8 {
        let newest = self.seals.newest();
        let speaks = |server: usize| server == self.config.me || self.sessions.wire(server) >= Some(newest);
        if newest > WIRE && speaks(to) && self.config.voters.iter().all(|voter| speaks(*voter)) {
            newest
        } else {
            WIRE
        }
    }
}
