//! The clients' neighbour caches: whom a client believes to have an address.

use super::world::World;
use crate::config::SystemKind;
use crate::time::Time;

/// Two clients, on the segments of the first and the last host.
pub(super) struct Clients {
    beside: [usize; 2],
    /// Per client and item: the host that it sends to.
    cache: [Vec<Option<usize>>; 2],
    /// Per client: an announcement did not reach it, and its segment was not seen to be away since.
    missed: [Vec<Option<Time>>; 2],
    /// When the host beside each client was last seen to be away, by itself or by others.
    away: [Option<Time>; 2],
}

impl Clients {
    pub(super) fn new(hosts: usize, items: usize) -> Self {
        Self {
            beside: [0, hosts - 1],
            cache: [vec![None; items], vec![None; items]],
            missed: [vec![None; items], vec![None; items]],
            away: [None; 2],
        }
    }

    /// A host was declared down, or saw that it is isolated.
    pub(super) fn seen_away(&mut self, host: usize, now: Time) {
        for client in 0..2 {
            if self.beside[client] == host {
                self.away[client] = Some(now);
            }
        }
    }
}

impl World {
    /// An announcement reaches whoever is not cut off.
    pub(super) fn announce(&mut self, index: usize, item: usize) {
        if !self.hosts[index].answers(item, self.things[item].release) {
            return;
        }
        for client in 0..2 {
            let beside = self.clients.beside[client];
            if beside == index || !self.network.is_cut(index, beside) {
                self.clients.cache[client][item] = Some(index);
                self.clients.missed[client][item] = None;
            } else {
                super::mark!("world: an announcement did not reach a client");
                self.clients.missed[client][item] = Some(self.now);
            }
        }
    }

    /// Rule K4: at rest, every client sends to the one host that holds the item. Unless it missed the news
    /// behind a cut so short that nobody could notice it.
    pub(super) fn stale_client(&self) -> Option<String> {
        for (item, thing) in self.things.iter().enumerate() {
            let [holder] = self.truth.holders(item) else { continue };
            if thing.kind == SystemKind::Replicate || thing.release == crate::config::Release::Hook {
                continue;
            }
            for client in 0..2 {
                let Some(believed) = self.clients.cache[client][item] else { continue };
                let noticed = match (self.clients.missed[client][item], self.clients.away[client]) {
                    (Some(missed), Some(away)) => away >= missed,
                    (Some(_), None) => false,
                    (None, _) => true,
                };
                if believed != *holder && noticed {
                    return Some(format!(
                        "K4: client {client} still sends to n{believed} for item {item}, which n{holder} holds"
                    ));
                }
            }
        }
        None
    }
}
