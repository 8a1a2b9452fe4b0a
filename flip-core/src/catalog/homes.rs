//! Which homes move when servers or items come and go: no more than balance needs.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::Key;
use crate::config::{Config, SystemKind};
use crate::placement;
use crate::translation::places;

/// One system before and after a change, by position.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The servers of the system now, those first that are to get items first.
    pub members: Vec<usize>,
    /// Those of them that were not before.
    pub new: BTreeSet<usize>,
    /// Of every item of now, its home before; none for an item that was not there.
    pub before: Vec<Option<usize>>,
    /// Of every item of now, the home that it insists on.
    pub fixed: Vec<Option<usize>>,
    /// Items that were there before and are not now.
    pub removed: usize,
}

/// The homes after a change; empty when nobody is left to be one.
///
/// - A server that comes takes items of those that have the most, at most `items / servers` (rounded up), and no
///   other home moves.
/// - Of a server that goes, only its items move, each to the server that is home to the fewest.
/// - An item that comes goes there as well. For each that goes at most one other moves, and only where loads would
///   differ by more than one.
#[must_use]
pub fn rehome(change: &Change) -> Vec<usize> {
    if change.members.is_empty() {
        return Vec::new();
    }
    let mut loads = Loads::new(change);
    let at = |server: Option<usize>| server.and_then(|server| loads.position.get(&server).copied());
    let homes = change.fixed.iter().zip(&change.before);
    let mut homes: Vec<Option<usize>> =
        homes.map(|(fixed, before)| at(*fixed).or_else(|| at(*before))).collect();
    for (item, home) in homes.iter().enumerate() {
        if let Some(home) = home {
            loads.add(*home, change.fixed[item].is_none().then_some(item));
        }
    }
    for (item, home) in homes.iter_mut().enumerate() {
        if home.is_none() {
            let fewest = loads.fewest();
            loads.add(fewest, Some(item));
            *home = Some(fewest);
        }
    }
    let mut homes: Vec<usize> = homes.into_iter().flatten().collect();
    let new: Vec<usize> =
        change.new.iter().filter_map(|server| loads.position.get(server).copied()).collect();
    while let Some(to) = new.iter().copied().min_by_key(|at| (loads.load[*at], *at)) {
        if !loads.even_out(to, &mut homes) {
            break;
        }
    }
    for _ in 0..change.removed {
        let fewest = loads.fewest();
        if !loads.even_out(fewest, &mut homes) {
            break;
        }
    }
    homes.into_iter().map(|at| change.members[at]).collect()
}

/// How many items each member is home to.
struct Loads {
    position: BTreeMap<usize, usize>,
    load: Vec<usize>,
    by_load: BTreeSet<(usize, usize)>,
    /// Members that have something that may move, by their load.
    givers: BTreeSet<(usize, usize)>,
    /// What may move, by member; what is listed last moves first.
    movable: Vec<Vec<usize>>,
}

impl Loads {
    fn new(change: &Change) -> Self {
        let members = &change.members;
        Self {
            position: members.iter().enumerate().map(|(at, server)| (*server, at)).collect(),
            load: vec![0; members.len()],
            by_load: (0..members.len()).map(|at| (0, at)).collect(),
            givers: BTreeSet::new(),
            movable: vec![Vec::new(); members.len()],
        }
    }

    fn fewest(&self) -> usize {
        self.by_load.first().map_or(0, |(_, at)| *at)
    }

    fn add(&mut self, at: usize, item: Option<usize>) {
        self.movable[at].extend(item);
        self.set(at, self.load[at] + 1);
    }

    fn set(&mut self, at: usize, load: usize) {
        let old = std::mem::replace(&mut self.load[at], load);
        self.by_load.remove(&(old, at));
        self.by_load.insert((load, at));
        self.givers.remove(&(old, at));
        if !self.movable[at].is_empty() {
            self.givers.insert((load, at));
        }
    }

    /// Moves one item from whoever has the most, if that has at least two more.
    fn even_out(&mut self, to: usize, homes: &mut [usize]) -> bool {
        let Some((load, from)) = self.givers.last().copied().filter(|(load, _)| *load > self.load[to] + 1)
        else {
            return false;
        };
        let Some(item) = self.movable[from].pop() else { return false };
        self.set(from, load - 1);
        self.add(to, Some(item));
        homes[item] = to;
        true
    }
}

/// The homes that the catalog has to say, so that a change from one config to another moves no more than it must:
/// `after` gets them, and they come back with the ids of their servers.
#[must_use]
pub fn keep(before: &Config, after: &mut Config) -> Vec<(Key, String)> {
    let mut said = Vec::new();
    for system in 0..after.systems.len() {
        let Some(wanted) = wanted(before, after, system) else { continue };
        let mut changed = BTreeSet::new();
        // What is said of one item changes where others are dealt to.
        for round in 0..3 {
            let dealt = placement::homes(after, system);
            if dealt == wanted {
                break;
            }
            let items = &mut after.systems[system].items;
            let mut differs = false;
            for (at, item) in items.iter_mut().enumerate() {
                if item.prefer.is_none()
                    && item.home != Some(wanted[at])
                    && (dealt[at] != wanted[at] || round == 2)
                {
                    item.home = Some(wanted[at]);
                    changed.insert(at);
                    differs = true;
                }
            }
            if !differs {
                break;
            }
        }
        let spec = &after.systems[system];
        said.extend(changed.into_iter().map(|at| {
            let key = Key::Home(spec.name.clone(), spec.items[at].name.clone());
            (key, after.servers[wanted[at]].id.clone())
        }));
    }
    said
}

/// Where the items of a system belong after a change; none when its members and items are as they were, or it has
/// no homes.
fn wanted(before: &Config, after: &Config, system: usize) -> Option<Vec<usize>> {
    let now = &after.systems[system];
    if now.kind == SystemKind::Replicate {
        return None;
    }
    let position = before.systems.iter().position(|other| other.name == now.name)?;
    let was = &before.systems[position];
    let members = placement::members(after, system);
    let old_members = placement::members(before, position);
    let ids = |config: &Config, members: &[usize]| {
        members.iter().map(|server| config.servers[*server].id.clone()).collect::<Vec<_>>()
    };
    let (ids_now, ids_before) = (ids(after, &members), ids(before, &old_members));
    let same_items = was.items.len() == now.items.len()
        && was
            .items
            .iter()
            .zip(&now.items)
            .all(|(was, now)| was.name == now.name && was.prefer.is_some() == now.prefer.is_some());
    if was.kind == SystemKind::Replicate || members.is_empty() || ids_now == ids_before && same_items {
        return None;
    }
    let server_now: BTreeMap<&str, usize> =
        after.servers.iter().enumerate().map(|(at, server)| (server.id.as_str(), at)).collect();
    let old_homes = placement::homes(before, position);
    let places = places(&now.items, &was.items);
    let home_before = |at: usize| {
        let home = *old_homes.get(places[at]?)?;
        server_now.get(&*before.servers[home].id).copied()
    };
    let change = Change {
        new: members
            .iter()
            .copied()
            .filter(|server| !ids_before.contains(&after.servers[*server].id))
            .collect(),
        before: now
            .items
            .iter()
            .enumerate()
            .map(|(at, item)| item.home.or_else(|| home_before(at)))
            .collect(),
        fixed: now.items.iter().map(|item| item.prefer).collect(),
        removed: was.items.len() - places.iter().flatten().count(),
        members,
    };
    Some(rehome(&change))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::testing;

    fn loads(homes: &[usize], servers: &BTreeSet<usize>) -> (usize, usize) {
        let load = |server: &usize| homes.iter().filter(|home| *home == server).count();
        let loads = || servers.iter().map(load);
        (loads().min().unwrap_or_default(), loads().max().unwrap_or_default())
    }

    /// Whatever comes and goes, one at a time, for long: loads stay even, and no more moves than must.
    #[test]
    fn homes_move_no_more_than_balance_needs() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut members: BTreeSet<usize> = (0..rng.random_range(1..6)).collect();
            let mut next = members.len();
            let count = rng.random_range(0..40);
            let mut homes = rehome(&Change {
                members: members.iter().copied().collect(),
                before: vec![None; count],
                fixed: vec![None; count],
                ..Change::default()
            });
            for step in 0..60 {
                let mut change =
                    Change { before: homes.iter().copied().map(Some).collect(), ..Change::default() };
                let what = rng.random_range(0..4);
                let mut gone = None;
                match what {
                    0 => {
                        members.insert(next);
                        change.new.insert(next);
                        next += 1;
                    }
                    1 if members.len() > 1 => {
                        let server = *members.iter().nth(rng.random_range(0..members.len())).expect("one");
                        members.remove(&server);
                        gone = Some(server);
                    }
                    2 if !homes.is_empty() => {
                        change.before.remove(rng.random_range(0..homes.len()));
                        change.removed = 1;
                    }
                    _ => change.before.push(None),
                }
                change.members = members.iter().copied().collect();
                change.fixed = vec![None; change.before.len()];
                let after = rehome(&change);
                let moved: Vec<_> = change
                    .before
                    .iter()
                    .zip(&after)
                    .filter_map(|(before, after)| {
                        before.filter(|before| before != after).map(|b| (b, *after))
                    })
                    .collect();
                let place = format!("seed {seed} step {step} what {what}: {moved:?}");
                let (fewest, most) = loads(&after, &members);
                assert!(most - fewest <= 1, "{place}: loads from {fewest} to {most}");
                if let Some(new) = change.new.first() {
                    assert!(moved.len() <= after.len().div_ceil(members.len()), "{place}");
                    assert!(moved.iter().all(|(_, to)| to == new), "{place}");
                } else if let Some(gone) = gone {
                    assert!(moved.iter().all(|(from, _)| *from == gone), "{place}");
                } else if change.removed == 1 {
                    assert!(moved.len() <= 1, "{place}");
                } else {
                    assert!(moved.is_empty(), "{place}");
                }
                homes = after;
            }
        }
    }

    /// The homes that a config says after [`keep`] are those that were wanted, and what was said is little.
    #[test]
    fn a_config_keeps_its_homes() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut before = testing::config(&"abcdefg"[..rng.random_range(1..5)], "a");
            before.systems[0].items = testing::items(rng.random_range(0..30));
            for _ in 0..8 {
                let mut after = before.clone();
                match rng.random_range(0..3) {
                    0 => {
                        let ids: String = before.servers.iter().map(|server| server.id.as_str()).collect();
                        let next = "abcdefghijklmnopqrstuvwxyz".chars().nth(ids.len()).expect("a letter");
                        let config = testing::config(&format!("{ids}{next}"), "a");
                        after.servers = config.servers;
                    }
                    1 if !after.systems[0].items.is_empty() => {
                        let at = rng.random_range(0..after.systems[0].items.len());
                        after.systems[0].items.remove(at);
                    }
                    _ => {
                        let name = format!("new{}", rng.random::<u32>());
                        after.systems[0].items.push(crate::config::Item::plain("test", &name));
                    }
                }
                let wanted = wanted(&before, &after, 0).expect("something changed");
                let said = keep(&before, &mut after);
                assert_eq!(placement::homes(&after, 0), wanted, "seed {seed}");
                assert!(said.len() <= wanted.len());
                assert!(keep(&after.clone(), &mut after).is_empty(), "nothing more to be said");
                before = after;
            }
        }
    }

    #[test]
    fn an_item_that_insists_stays_and_others_make_room() {
        let change = Change {
            members: vec![0, 1],
            before: vec![Some(0), Some(1), Some(0), Some(1)],
            fixed: vec![Some(1), Some(1), None, None],
            removed: 1,
            ..Change::default()
        };
        assert_eq!(rehome(&change), [1, 1, 0, 0]);
        assert!(rehome(&Change::default()).is_empty());
    }
}
