//! Attackers: what was recorded is sent again, what looks right is forged, and a member seals nonsense.

use std::time::Duration;

use rand::RngExt;

use super::happening::{Happening, Kind};
use super::world::World;
use crate::wire::message::{About, Message};

impl World {
    pub(super) fn replay(&mut self, host: usize, count: u32, old: bool) {
        let life = self.hosts[host].life;
        let of_life: Vec<_> = self
            .recorded
            .get(host)
            .into_iter()
            .flatten()
            .filter(|(from, _, recorded)| (*recorded == (self.hosts[*from].life, life)) != old)
            .map(|(from, data, _)| (*from, data.clone()))
            .collect();
        for n in 0..count {
            if of_life.is_empty() {
                return;
            }
            let (from, data) = of_life[self.rng.random_range(0..of_life.len())].clone();
            let at = self.now + Duration::from_micros(u64::from(n) * 50);
            self.queue.push(at, Happening::Datagram { from, to: host, data, kind: Kind::Replayed });
        }
    }

    pub(super) fn forge(&mut self, host: usize, count: u32, span: Duration) {
        let sample = self.recorded.get(host).and_then(|recorded| recorded.back()).cloned();
        for n in 0..count {
            let from = self.rng.random_range(0..self.hosts.len());
            let mut data = sample.as_ref().map_or_else(|| vec![0xF1; 60], |(_, data, _)| data.clone());
            let len = data.len();
            match self.rng.random_range(0..6) {
                // A right header, and a counter that was not used yet.
                0..=2 => {
                    let counter: u64 = self.rng.random();
                    data[16..24].copy_from_slice(&counter.to_be_bytes());
                }
                3 => {
                    let at = self.rng.random_range(0..len);
                    data[at] ^= self.rng.random_range(1..=255u8);
                }
                4 => data.truncate(self.rng.random_range(0..len)),
                _ => {
                    data = (0..self.rng.random_range(0..1_500)).map(|_| self.rng.random()).collect();
                }
            }
            let at = self.now + span * n / count.max(1);
            self.queue.push(at, Happening::Datagram { from, to: host, data, kind: Kind::Forged });
        }
    }

    /// A member seals what no release says: a length that is longer than the rest, perhaps after something
    /// that is a message. Nothing of that may be taken.
    pub(super) fn garble(&mut self, from: usize, to: usize, count: u32) {
        for n in 0..count {
            let mut body = Vec::new();
            if self.rng.random_bool(0.5) {
                let about = About { id: self.rng.random(), generation: self.rng.random() };
                Message::Hint(about).encode(&mut body);
            }
            // Kind 13 has no length of its own, and the front looks at kinds from 32 on.
            body.push(self.rng.random_range(1..13));
            body.extend([0xFF; 2]);
            body.extend((0..self.rng.random_range(0..200)).map(|_| self.rng.random::<u8>()));
            let Some(node) = self.hosts[from].node.as_mut().filter(|_| from != to) else { return };
            let data = node.seal_for(to, body);
            let at = self.now + Duration::from_micros(u64::from(n) * 50);
            self.queue.push(at, Happening::Datagram { from, to, data, kind: Kind::Garbled });
        }
    }
}
