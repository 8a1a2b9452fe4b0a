//! How positions in one config become positions in the next.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::config::{Config, Item};
use crate::id::{ItemId, ItemRef};

/// For each position in the config before, the one in the config after; none for what is gone.
#[derive(Debug)]
pub struct Translation {
    servers: Vec<Option<usize>>,
    systems: Vec<Option<usize>>,
    items: Vec<Vec<Option<ItemRef>>>,
    /// How many servers there are after it, and how many of them are not retired.
    counts: (usize, usize),
}

impl Translation {
    /// From `old` to `new`: servers go by their id, systems by their name, items by their id.
    #[must_use]
    pub fn new(old: &Config, new: &Config) -> Self {
        let server = |before: &crate::config::Server| {
            new.servers.with_short(before.short).filter(|after| new.servers[*after].id == before.id)
        };
        let systems: Vec<_> = (old.systems.iter())
            .map(|before| new.systems.iter().position(|after| after.name == before.name))
            .collect();
        // An item's id has the name of its system in it.
        let items = old.systems.iter().zip(&systems).map(|(before, system)| {
            let Some(system) = *system else { return vec![None; before.items.len()] };
            let places = places(&before.items, &new.systems[system].items).into_iter();
            places.map(|item| item.map(|item| ItemRef { system, item })).collect()
        });
        let items = items.collect();
        Self {
            servers: old.servers.iter().map(server).collect(),
            systems,
            items,
            counts: (new.servers.len(), new.named_servers()),
        }
    }

    /// Position of a server.
    #[must_use]
    pub fn server(&self, before: usize) -> Option<usize> {
        self.servers.get(before).copied().flatten()
    }

    /// Position of a system.
    #[must_use]
    pub fn system(&self, before: usize) -> Option<usize> {
        self.systems.get(before).copied().flatten()
    }

    /// Place of an item.
    #[must_use]
    pub fn item(&self, before: ItemRef) -> Option<ItemRef> {
        self.items.get(before.system)?.get(before.item).copied().flatten()
    }

    /// How many servers the config after it has.
    #[must_use]
    pub const fn servers(&self) -> usize {
        self.counts.0
    }

    /// How many of them it names: those that are not retired.
    #[must_use]
    pub const fn named_servers(&self) -> usize {
        self.counts.1
    }

    /// A table by server.
    pub fn by_server<V>(&self, table: &mut BTreeMap<usize, V>) {
        rekey(table, |server| self.server(server));
    }

    /// A set of servers.
    pub fn set_of_servers(&self, set: &mut BTreeSet<usize>) {
        *set = std::mem::take(set).into_iter().filter_map(|server| self.server(server)).collect();
    }

    /// A table by item.
    pub fn by_item<V>(&self, table: &mut BTreeMap<ItemRef, V>) {
        rekey(table, |item| self.item(item));
    }

    /// A row with one entry for each server; those that are new get a fresh one.
    pub fn row_of_servers<V>(&self, row: &mut Vec<V>, fresh: impl FnMut() -> V) {
        let servers = std::mem::take(row).into_iter().zip(&self.servers);
        *row = arrange(self.servers(), servers.filter_map(|(entry, at)| Some(((*at)?, entry))), fresh);
    }
}

/// Where each of some items is in another list, by its id. Of two configs that follow each other most items are in the
/// same order, so the next is looked for behind the last.
pub(crate) fn places(items: &[Item], list: &[Item]) -> Vec<Option<usize>> {
    let sorted = OnceCell::new();
    let search = |id: ItemId| {
        let sorted: &Vec<(ItemId, usize)> = sorted.get_or_init(|| {
            let mut sorted: Vec<_> = list.iter().enumerate().map(|(at, item)| (item.id, at)).collect();
            sorted.sort_unstable();
            sorted
        });
        let at = sorted.partition_point(|(other, _)| *other < id);
        sorted.get(at).filter(|(found, _)| *found == id).map(|(_, at)| *at)
    };
    let mut next = 0;
    let place = |item: &Item| {
        let is_next = list.get(next).is_some_and(|other| other.id == item.id);
        let found = if is_next { Some(next) } else { search(item.id) };
        next = found.map_or(next, |at| at + 1);
        found
    };
    items.iter().map(place).collect()
}

/// Gives a table other keys, and drops what has none.
pub fn rekey<K: Ord, V>(table: &mut BTreeMap<K, V>, key: impl Fn(K) -> Option<K>) {
    *table = std::mem::take(table).into_iter().filter_map(|(at, entry)| Some((key(at)?, entry))).collect();
}

/// A row of `len` entries: these at their places, fresh ones elsewhere.
pub fn arrange<V>(
    len: usize,
    entries: impl IntoIterator<Item = (usize, V)>,
    mut fresh: impl FnMut() -> V,
) -> Vec<V> {
    let mut row: Vec<Option<V>> = std::iter::repeat_with(|| None).take(len).collect();
    for (at, entry) in entries {
        if let Some(place) = row.get_mut(at) {
            *place = Some(entry);
        }
    }
    row.into_iter().map(|entry| entry.unwrap_or_else(&mut fresh)).collect()
}
