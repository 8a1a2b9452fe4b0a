//! The config that a running node works with after a change: the new one, and of the old one what cannot go yet.
//!
//! What is kept stands behind everything else, so that positions of what the config names, and with them homes and
//! voters, are the same on all nodes that have the same config, whatever each of them still keeps.

use std::collections::BTreeSet;

use super::{Config, HANDLERS, Item, Servers, System};
use crate::id::{ItemId, ItemRef};
use crate::planted::{Bug, planted};
use crate::translation::places;

/// What a node cannot do without yet. Positions are those of the config before.
pub(crate) trait Needs {
    /// Whether a server that is not in the config any more is still to be counted with.
    fn server(&self, server: usize) -> bool;
    /// Whether an item is here, on its way, or claimed: as what it was when it came.
    fn here(&self, item: ItemRef) -> bool;
    /// Whether an item that is not in the config any more may still be somewhere.
    fn somewhere(&self, item: ItemRef) -> bool;
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) config: Config,
    /// Items that are still as they were before the change, and have to go from here before they are as they
    /// should be.
    pub(crate) outdated: BTreeSet<ItemId>,
    /// Whether this node's own server is not in the config.
    pub(crate) outcast: bool,
}

/// Puts together `wanted`, and of `old` what `needs` says.
///
/// The key and the id of the cluster stay what they are: changing them is not the config's business while a node
/// runs.
pub(crate) fn merge(old: &Config, wanted: &Config, needs: &impl Needs) -> Merged {
    let mut config = Config {
        key: old.key.clone(),
        cluster_id: old.cluster_id.clone(),
        ..wanted.with_systems(Vec::with_capacity(wanted.systems.len()))
    };
    let mut outdated = BTreeSet::new();
    for system in &wanted.systems {
        let known = old.systems.iter().position(|known| known.name == system.name);
        let system = match known {
            Some(known) => merge_system(old, known, system, needs, &mut outdated),
            None => system.clone(),
        };
        config.systems.push(system);
    }
    for (index, system) in old.systems.iter().enumerate() {
        if wanted.systems.iter().any(|known| known.name == system.name) {
            continue;
        }
        let items = retired(old, index, |_| false, needs);
        if !items.is_empty() {
            config.systems.push(System { items, checks: Vec::new(), ..system.clone() });
        }
    }
    let outcast = retire_servers(old, wanted, needs, &mut config);
    Merged { config, outdated, outcast }
}

/// A system that both configs have.
fn merge_system(
    old: &Config,
    index: usize,
    wanted: &System,
    needs: &impl Needs,
    outdated: &mut BTreeSet<ItemId>,
) -> System {
    let known = &old.systems[index];
    let here = |item: usize| needs.here(ItemRef { system: index, item });
    // All its items go before it is what it should be: one handler cannot be two.
    let is_old = !known.looks_like(wanted) && (0..known.items.len()).any(here);
    let mut system = wanted.clone();
    if is_old {
        system.alive.clone_from(&known.alive);
        system.down.clone_from(&known.down);
        system.config.clone_from(&known.config);
        system.release = known.release;
    }
    let before = places(&system.items, &known.items);
    for (item, before) in system.items.iter_mut().zip(before) {
        match before.filter(|before| here(*before)) {
            Some(before) if is_old || !wanted.sees_as_one(&known.items[before], item) => {
                outdated.insert(item.id);
                *item = as_it_was(&known.items[before], item);
            }
            // It comes when the system is what it should be.
            None if is_old => {
                outdated.insert(item.id);
            }
            Some(_) | None => {}
        }
    }
    let named = places(&known.items, &wanted.items);
    system.items.extend(retired(old, index, |item| named[item].is_some(), needs));
    system
}

/// An item in its old form, at the place that it has in the new config.
fn as_it_was(before: &Item, wanted: &Item) -> Item {
    Item {
        prefer: wanted.prefer,
        home: wanted.home,
        checks: wanted.checks.clone(),
        when_all_fail: wanted.when_all_fail,
        retired: false,
        ..before.clone()
    }
}

/// The items of an old system that cannot go yet.
fn retired(old: &Config, system: usize, named: impl Fn(usize) -> bool, needs: &impl Needs) -> Vec<Item> {
    let items = old.systems[system].items.iter().enumerate();
    let needed = |item: usize| {
        let at = ItemRef { system, item };
        needs.here(at) || needs.somewhere(at)
    };
    items
        .filter(|(at, _)| !named(*at) && needed(*at))
        .map(|(_, item)| Item { prefer: None, home: None, checks: Vec::new(), retired: true, ..item.clone() })
        .collect()
}

impl System {
    /// Whether hooks see no difference to another form of this system, whatever its items are. What an ip system says
    /// of its announcements and connections concerns addresses that are here as they are.
    #[must_use]
    pub fn looks_like(&self, other: &Self) -> bool {
        self.alive == other.alive
            && self.down == other.down
            && self.release == other.release
            && (is_ip(self) || self.config == other.config)
    }

    /// Whether hooks see no difference between two forms of an item of this system.
    #[must_use]
    pub fn sees_as_one(&self, a: &Item, b: &Item) -> bool {
        let same = a.ip == b.ip && a.isolated == b.isolated && (is_ip(self) || a.own == b.own);
        same && !planted(Bug::UntouchedRedefined)
    }
}

fn is_ip(system: &System) -> bool {
    system.alive == HANDLERS[0].0
}

/// Puts servers that are still there behind the others, and finds this node's own. True when it is one of them.
fn retire_servers(old: &Config, wanted: &Config, needs: &impl Needs, config: &mut Config) -> bool {
    let mut servers = wanted.servers.to_vec();
    let names = |server: &super::Server| -> Vec<usize> {
        let known = server.systems.iter().filter_map(|system| old.systems.get(*system));
        known.filter_map(|system| config.systems.iter().position(|now| now.name == system.name)).collect()
    };
    let mut outcast = false;
    for (index, server) in old.servers.iter().enumerate() {
        let named = wanted.servers.iter().position(|known| known.id == server.id);
        if let Some(named) = named {
            // Whoever has an item of a system that is gone still takes part in it.
            for system in names(server).into_iter().filter(|system| *system >= wanted.systems.len()) {
                servers[named].systems.push(system);
            }
            continue;
        }
        let own = index == old.me;
        outcast |= own;
        if own || wanted.servers.with_short(server.short).is_none() && needs.server(index) {
            servers.push(super::Server { systems: names(server), retired: true, ..server.clone() });
        }
    }
    config.me = servers.iter().position(|server| server.id == old.my().id).unwrap_or(servers.len() - 1);
    if servers.len() > wanted.servers.len() || config.systems.len() > wanted.systems.len() {
        config.servers = Servers::from(servers);
    }
    outcast
}
