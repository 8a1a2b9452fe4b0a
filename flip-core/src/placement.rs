//! Placement: a pure function from (config, who is live, who may hold what) to holders.
//!
//! It has no memory and needs no talk: two nodes with the same config and the same live members
//! compute the same holders.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::config::{Config, Item, System, SystemKind};
use crate::id::{ItemId, ShortId};

/// Positions of the servers that hold an item: one for a sharded item, any number for a replicated
/// one, none when nobody may.
pub type Holders = Vec<usize>;

/// Where each item of `system` belongs when everybody is up. Items that prefer a server are at home there, and
/// those that the catalog gives a home are at home where it says. The others are dealt in listed order over the
/// system's servers, each to the one that is home to the fewest so far; ties by priority, then by listed order. Without preferences that is round robin. Empty when the
/// system has no servers or is replicated. Retired items have none.
#[must_use]
pub fn homes(config: &Config, system: usize) -> Vec<usize> {
    let members = members(config, system);
    let spec = &config.systems[system];
    if members.is_empty() || spec.kind == SystemKind::Replicate {
        return Vec::new();
    }
    // Those that are retired come last.
    let items = &spec.items[..spec.items.iter().take_while(|item| !item.retired).count()];
    // Asked often, and without wishes it is simple.
    if items.iter().all(|item| item.prefer.is_none() && item.home.is_none()) {
        return (0..items.len()).map(|item| members[item % members.len()]).collect();
    }
    let mut position = vec![None; config.servers.len()];
    for (at, member) in members.iter().enumerate() {
        position[*member] = Some(at);
    }
    let preferred = |item: &Item| {
        let at = |home: Option<usize>| *position.get(home?)?;
        at(item.prefer).or_else(|| at(item.home))
    };
    let mut load = vec![0usize; members.len()];
    for member in items.iter().filter_map(preferred) {
        load[member] += 1;
    }
    let mut fewest: BinaryHeap<_> =
        load.into_iter().enumerate().map(|(member, load)| Reverse((load, member))).collect();
    let mut deal = || {
        let mut next = fewest.peek_mut()?;
        let Reverse((load, member)) = &mut *next;
        *load += 1;
        Some(*member)
    };
    items.iter().filter_map(|item| preferred(item).or_else(&mut deal)).map(|at| members[at]).collect()
}

/// The servers of a system by priority, then by listed order: the order in which homes are dealt.
#[must_use]
pub fn members(config: &Config, system: usize) -> Vec<usize> {
    let takes_part = |index: &usize| config.takes_part(*index, system);
    let mut members: Vec<_> = (0..config.servers.len()).filter(takes_part).collect();
    members.sort_by_key(|index| (config.servers[*index].priority, *index));
    members
}

/// Places all items of `system`. `eligible(server, item)` says whether a server may hold an item now.
///
/// An item whose home is eligible is at home. The others go, in listed order, to the eligible server
/// that has the fewest items; ties are decided by priority, then by rendezvous hash. So when a node
/// fails only its items move, when it returns only its items come back, and loads differ by at most
/// one where all items may be everywhere.
#[must_use]
pub fn place(config: &Config, system: usize, eligible: impl Fn(usize, usize) -> bool) -> Vec<Holders> {
    let spec = &config.systems[system];
    let members = members(config, system);
    let eligible = |server: usize, item: usize| !spec.items[item].retired && eligible(server, item);
    if spec.kind == SystemKind::Replicate {
        return (0..spec.items.len())
            .map(|item| members.iter().copied().filter(|server| eligible(*server, item)).collect())
            .collect();
    }
    let homes = homes(config, system);
    let mut load = vec![0usize; config.servers.len()];
    let mut placed: Vec<Holders> = vec![Vec::new(); spec.items.len()];
    for (item, home) in homes.iter().enumerate() {
        if eligible(*home, item) {
            load[*home] += 1;
            placed[item].push(*home);
        }
    }
    let mut fewest = Fewest::new(config, &members, &load);
    for (item, holders) in placed.iter_mut().enumerate() {
        if holders.is_empty()
            && let Some(server) = fewest.take(spec, item, eligible)
        {
            holders.push(server);
        }
    }
    placed
}

/// The members of a system by how much they have, so that an orphan finds its place without a look at all of
/// them.
struct Fewest {
    /// By load and priority; the rendezvous hash decides among those that are equal.
    waiting: BTreeMap<(usize, u64), Vec<(usize, ShortId)>>,
}

impl Fewest {
    fn new(config: &Config, members: &[usize], load: &[usize]) -> Self {
        let mut waiting: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for index in members {
            let server = &config.servers[*index];
            waiting.entry((load[*index], server.priority)).or_default().push((*index, server.short));
        }
        Self { waiting }
    }

    /// The eligible server that has the fewest items, which has one more from now on.
    fn take(&mut self, spec: &System, item: usize, eligible: impl Fn(usize, usize) -> bool) -> Option<usize> {
        let id = spec.items[item].id;
        let found = self.waiting.iter().find_map(|(key, servers)| {
            let fit = servers.iter().enumerate().filter(|(_, (server, _))| eligible(*server, item));
            let (at, _) = fit.min_by_key(|(_, (_, short))| weight(id, *short))?;
            Some((*key, at))
        });
        let ((load, priority), at) = found?;
        let servers = self.waiting.get_mut(&(load, priority))?;
        let taken = servers.swap_remove(at);
        if servers.is_empty() {
            self.waiting.remove(&(load, priority));
        }
        self.waiting.entry((load + 1, priority)).or_default().push(taken);
        Some(taken.0)
    }
}

/// Rendezvous weight of a server for an item (Thaler and Ravishankar 1998): lowest wins. An item's id is the hash of
/// its name; the number of the server picks an output of the generator that has it as its seed (SplitMix64: Steele,
/// Lea and Flood 2014), and no two servers have the same.
const fn weight(ItemId(item): ItemId, ShortId(server): ShortId) -> u64 {
    let state = item.wrapping_add((server as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let state = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ state >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ state >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn cluster(nodes: usize, items: usize) -> Config {
        let ids = &"abcdefghi"[..nodes];
        let mut config = testing::config(ids, "a");
        config.systems[0].items = testing::items(items);
        config
    }

    /// The original's permutation test: for every up/down set of up to nine nodes and up to nine items
    /// each item has exactly one holder, loads differ by at most one, and no item of a live home moves.
    #[test]
    fn every_set_of_live_nodes() {
        for nodes in 1..=9 {
            for items in 0..=9 {
                let config = cluster(nodes, items);
                let homes = homes(&config, 0);
                for up in 0..1u32 << nodes {
                    let is_up = |server: usize| up & (1 << server) != 0;
                    let placed = place(&config, 0, |server, _| is_up(server));
                    assert_eq!(placed.len(), items);
                    let mut load = vec![0; nodes];
                    for (item, holders) in placed.iter().enumerate() {
                        if up == 0 {
                            assert!(holders.is_empty());
                            continue;
                        }
                        assert_eq!(holders.len(), 1, "nodes {nodes} items {items} up {up:b} item {item}");
                        assert!(is_up(holders[0]));
                        if is_up(homes[item]) {
                            assert_eq!(holders[0], homes[item], "an item of a live home moved");
                        }
                        load[holders[0]] += 1;
                    }
                    let live: Vec<_> = (0..nodes).filter(|n| is_up(*n)).map(|n| load[n]).collect();
                    if let (Some(most), Some(fewest)) = (live.iter().max(), live.iter().min()) {
                        assert!(most - fewest <= 1, "nodes {nodes} items {items} up {up:b}: {live:?}");
                    }
                }
            }
        }
    }

    /// When one more node fails, only its items move.
    #[test]
    fn survivors_lose_nothing() {
        let config = cluster(5, 9);
        for up in 1..1u32 << 5 {
            let before = place(&config, 0, |server, _| up & (1 << server) != 0);
            for lost in (0..5).filter(|n| up & (1 << n) != 0) {
                let after = place(&config, 0, |server, _| up & !(1 << lost) & (1 << server) != 0);
                if up.count_ones() > 1 {
                    for item in 0..9 {
                        let home = homes(&config, 0)[item];
                        if before[item] != vec![lost] && before[item] == vec![home] {
                            assert_eq!(before[item], after[item], "up {up:b} lost {lost} item {item}");
                        }
                    }
                }
            }
        }
    }

    /// For every choice of preferred homes of up to four items on three servers: each is at home where it wants
    /// to be, and the others are dealt as evenly as that allows, in listed order.
    #[test]
    fn preferred_homes_are_kept_and_the_rest_is_dealt_evenly() {
        for items in 0..=4usize {
            for choice in 0..4usize.pow(items as u32) {
                let mut config = cluster(3, items);
                let wish = |item: usize| Some(choice / 4usize.pow(item as u32) % 4).filter(|home| *home < 3);
                for item in 0..items {
                    config.systems[0].items[item].prefer = wish(item);
                }
                let homes = homes(&config, 0);
                assert_eq!(homes.len(), items);
                let mut wished = [0; 3];
                for (item, home) in homes.iter().enumerate() {
                    assert!(wish(item).is_none_or(|wish| wish == *home), "{choice:b} {item}");
                    wished[*home] += usize::from(wish(item).is_some());
                }
                let load = |server: usize| homes.iter().filter(|home| **home == server).count();
                for (full, spare) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
                    // Who got more than it was wished for got it when nobody had less.
                    assert!(
                        load(full) == wished[full] || load(full) <= load(spare) + 1,
                        "{choice:b}: {homes:?}"
                    );
                }
                let placed = place(&config, 0, |_, _| true);
                assert_eq!(placed, homes.iter().map(|home| vec![*home]).collect::<Vec<_>>());
            }
        }
    }

    /// vippy's example: one of four groups prefers the second server.
    #[test]
    fn one_preferred_home_of_four() {
        let mut config = cluster(2, 4);
        config.systems[0].items[0].prefer = Some(1);
        assert_eq!(homes(&config, 0), [1, 0, 0, 1]);
        assert_eq!(place(&config, 0, |server, _| server == 0), vec![vec![0]; 4]);
        // A server that takes no part is nobody's home.
        config.servers[1].systems.clear();
        assert_eq!(homes(&config, 0), [0; 4]);
    }

    /// The table of the original's README: flip1 has priority 1, flip none, flip2 is an arbiter.
    #[test]
    fn the_original_example() {
        let mut config = testing::config("abc", "a");
        config.servers[1].priority = 1;
        config.servers[2].systems.clear();
        config.systems[0].items = testing::items(2);
        assert_eq!(place(&config, 0, |_, _| true), [vec![1], vec![0]]);
        assert_eq!(place(&config, 0, |server, _| server != 1), [vec![0], vec![0]]);
        assert_eq!(place(&config, 0, |server, _| server == 2), vec![Vec::<usize>::new(); 2]);
    }

    #[test]
    fn replicated_items_are_everywhere() {
        let mut config = cluster(3, 2);
        config.systems[0].kind = SystemKind::Replicate;
        assert_eq!(place(&config, 0, |server, item| (server, item) != (1, 0)), [vec![0, 2], vec![0, 1, 2]]);
    }
}
