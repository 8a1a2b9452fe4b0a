//! A config with what it was made of, so that a change of few items costs little more than these items.
//!
//! Items of a system do not depend on each other, but for their names and their number, unless they are addresses.
//! So those that changed are read and checked in a config that has nothing else in their systems, and are put where
//! they belong among the others. Whatever is refused there is looked at again in the config that has everything,
//! and that decides, in its own words. What is not a change of such items is made anew as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compose::{self, Effective, Invalid};
use super::entry::{Key, Stamp};
use super::file::{Local, Parts};
use super::store::Catalog;
use crate::config::{Config, HANDLERS, Item, bounds};
use crate::id::{ItemId, ShortId};
use crate::limits;

/// What a catalog came to on one server.
#[derive(Clone, Debug)]
pub struct Composed {
    /// As [`compose::config`] makes it.
    config: Arc<Config>,
    /// Of the file that was there.
    parts: Arc<Parts>,
    /// Everything but items and their homes.
    frame: Arc<Effective>,
    /// By system, when those items were added that no file has, which come last; none where items are not looked at
    /// by themselves.
    born: Vec<Option<Vec<Stamp>>>,
    /// At least as long as the text of everything.
    len: usize,
    /// Keys of which something was said since.
    stale: BTreeSet<Key>,
}

/// What changes in one system.
#[derive(Default)]
struct Patch<'k> {
    /// Items of which something else is said than before.
    items: BTreeMap<ItemId, &'k str>,
    /// Items whose homes are looked up.
    homes: BTreeMap<ItemId, &'k str>,
}

impl Composed {
    /// Makes everything anew.
    ///
    /// # Errors
    /// As [`compose::config`].
    pub fn new(catalog: &Catalog, local: &Local) -> Result<Self, Invalid> {
        let mut effective = catalog.effective();
        let (config, len) = compose::of(&effective, local)?;
        let born = effective.systems.iter_mut().zip(&config.systems).map(|(said, system)| {
            let names = said.items.iter().map(|(name, _)| name.as_str());
            let alike = names.eq(system.items.iter().map(|item| item.name.as_str()));
            said.items = Vec::new();
            let born = std::mem::take(&mut said.born);
            (alike && system.name == said.name && system.alive != HANDLERS[0].0).then_some(born)
        });
        let born = born.collect();
        effective.homes = BTreeMap::new();
        let parts = Arc::clone(&catalog.file().parts);
        let (config, frame) = (Arc::new(config), Arc::new(effective));
        Ok(Self { config, parts, frame, born, len, stale: BTreeSet::new() })
    }

    /// The same of a catalog of which more was said since, of these keys.
    ///
    /// # Errors
    /// As [`compose::config`].
    pub fn after<'k>(
        &'k self,
        catalog: &Catalog,
        local: &Local,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<Self, Invalid> {
        let changed: BTreeSet<&Key> = self.stale.iter().chain(keys).collect();
        match self.patched(catalog, local, &changed) {
            Some(composed) => Ok(composed),
            None => Self::new(catalog, local),
        }
    }

    /// The config.
    #[must_use]
    pub const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The config, to put homes in place of which the catalog is told as well.
    pub(crate) fn config_mut(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }

    /// Something was said of these keys that the config does not have yet.
    pub fn outdate(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.stale.extend(keys);
    }

    /// Whether the config has all that was said.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.stale.is_empty()
    }

    fn patched(&self, catalog: &Catalog, local: &Local, changed: &BTreeSet<&Key>) -> Option<Self> {
        if !Arc::ptr_eq(&self.parts, &catalog.file().parts) {
            return None;
        }
        let mut patches: BTreeMap<usize, Patch<'_>> = BTreeMap::new();
        for key in changed {
            let (Key::Item(system, item) | Key::Home(system, item)) = key else { return None };
            let at = self.config.systems.iter().position(|known| known.name == *system)?;
            self.born.get(at)?.as_ref()?;
            let (patch, id) = (patches.entry(at).or_default(), ItemId::of(system, item));
            if matches!(key, Key::Item(..)) {
                // It stands where the file has it.
                if catalog.file().value(key).is_some() {
                    return None;
                }
                patch.items.insert(id, item);
            }
            patch.homes.insert(id, item);
        }
        let (mut fresh, added) = self.read(catalog, local, &patches)?;
        let len = self.len.checked_add(added).filter(|len| *len <= bounds::DOCUMENT)?;
        let mut born = self.born.clone();
        let (mut systems, mut total) = (Vec::with_capacity(self.config.systems.len()), 0);
        for (at, system) in self.config.systems.iter().enumerate() {
            let Some(patch) = patches.get(&at) else {
                total += system.items.len();
                systems.push(system.clone());
                continue;
            };
            let fresh = fresh.remove(&at).unwrap_or_default();
            let (mut items, stamps) = put(&system.items, self.born[at].as_ref()?, patch, fresh);
            total += items.len();
            if items.len() > bounds::ITEMS {
                return None;
            }
            for item in &mut items {
                if let Some(name) = patch.homes.get(&item.id).filter(|name| **name == item.name) {
                    item.home = self.home(catalog, at, name);
                }
            }
            born[at] = Some(stamps);
            systems.push(system.with_items(items));
        }
        if total > limits::FACTS {
            return None;
        }
        Some(Self {
            config: Arc::new(self.config.with_systems(systems)),
            parts: Arc::clone(&self.parts),
            frame: Arc::clone(&self.frame),
            born,
            len,
            stale: BTreeSet::new(),
        })
    }

    /// The changed items that there are now, by system, and the length of what is said of them; none where they have
    /// to be looked at among all others.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn read(
        &self,
        catalog: &Catalog,
        local: &Local,
        patches: &BTreeMap<usize, Patch<'_>>,
    ) -> Option<(BTreeMap<usize, Vec<(Stamp, Item)>>, usize)> {
        let mut said: BTreeMap<usize, Vec<(Stamp, &str, Arc<str>)>> = BTreeMap::new();
        let mut len = 0;
        for (at, patch) in patches {
            let system = &self.config.systems[*at].name;
            for name in patch.items.values() {
                let key = Key::Item(system.clone(), (*name).to_owned());
                if let Some(record) = catalog.active(&key)
                    && let Some(value) = &record.value
                {
                    len += value.len() + ",\n".len();
                    said.entry(*at).or_default().push((record.born, name, Arc::clone(value)));
                }
            }
        }
        if said.is_empty() {
            return Some((BTreeMap::new(), 0));
        }
        let mut effective = Effective::clone(&self.frame);
        for (at, said) in &mut said {
            said.sort_unstable();
            let items = said.iter().map(|(_, name, value)| ((*name).to_owned(), Arc::clone(value)));
            effective.systems.get_mut(*at)?.items = items.collect();
        }
        let (config, _) = compose::of(&effective, local).ok()?;
        let mut fresh = BTreeMap::new();
        for (at, said) in said {
            let items = &config.systems.get(at)?.items;
            let names = said.iter().map(|(_, name, _)| *name);
            // Checks are counted over all items.
            if !names.eq(items.iter().map(|item| item.name.as_str()))
                || items.iter().any(|item| !item.checks.is_empty())
            {
                return None;
            }
            let stamps = said.iter().map(|(born, ..)| *born);
            fresh.insert(at, stamps.zip(items.iter().cloned()).collect());
        }
        Some((fresh, len))
    }

    /// The home that the catalog gives an item.
    fn home(&self, catalog: &Catalog, system: usize, item: &str) -> Option<usize> {
        let key = Key::Home(self.config.systems[system].name.clone(), item.to_owned());
        let id = catalog.active(&key)?.value.as_ref()?;
        let servers = &self.config.servers;
        let home = servers.with_short(ShortId::of(id)).filter(|at| servers[*at].id == **id)?;
        servers[home].systems.contains(&system).then_some(home)
    }
}

/// The items of a system after a change, and when those were added that no file has.
fn put(
    items: &[Item],
    born: &[Stamp],
    patch: &Patch<'_>,
    fresh: Vec<(Stamp, Item)>,
) -> (Vec<Item>, Vec<Stamp>) {
    let (of_file, later) = items.split_at(items.len() - born.len());
    let mut all = Vec::with_capacity(items.len() + fresh.len());
    let mut stamps = Vec::with_capacity(born.len() + fresh.len());
    all.extend_from_slice(of_file);
    let mut fresh = fresh.into_iter().peekable();
    for (item, stamp) in later.iter().zip(born) {
        if patch.items.get(&item.id).is_some_and(|name| *name == item.name) {
            continue;
        }
        let is_earlier = |new: &(Stamp, Item)| (new.0, new.1.name.as_str()) < (*stamp, item.name.as_str());
        while let Some((stamp, new)) = fresh.next_if(is_earlier) {
            stamps.push(stamp);
            all.push(new);
        }
        stamps.push(*stamp);
        all.push(item.clone());
    }
    for (stamp, new) in fresh {
        stamps.push(stamp);
        all.push(new);
    }
    (all, stamps)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::catalog::{Changes, Edit, Record, open};
    use crate::config::{self, Overrides, Source};

    const FILE: &str = r#"{
        "id": "a", "version": 3, "key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "servers": {
            "a": {"ip": "10.0.0.1", "systems": ["ip", "job", "all"]},
            "b": {"ip": "10.0.0.2", "systems": ["ip", "job", "all"]},
            "c": {"ip": "10.0.0.3", "systems": ["ip", "all"]}
        },
        "cluster": {"system": {
            "ip": {"config": {"interface": "eth0"}, "data": ["10.0.1.1", "10.0.1.2"]},
            "job": {"alive": "memory_up", "down": "memory_down", "data": ["x", {"name": "y", "isolated": "drop"}]},
            "all": {"type": "replicate", "alive": "memory_up", "down": "memory_down", "data": []}
        }}
    }"#;

    fn opened() -> (Catalog, Local) {
        let source = Source { file: "test", text: FILE };
        let loaded = config::load(&source, &Overrides::default()).expect("no errors");
        let (file, local) = open(FILE, &loaded.config, &[]);
        (Catalog::new(file), local)
    }

    fn edit(rng: &mut StdRng) -> Edit {
        let n = rng.random_range(0..12);
        let system = ["job", "job", "all", "job", "ip"][rng.random_range(0..5)];
        let item = if system == "ip" { format!("10.0.1.{n}") } else { format!("i{n}") };
        let item = if rng.random_bool(0.1) { "x".to_owned() } else { item };
        let server = ["a", "b", "c", "d"][rng.random_range(0..4)];
        let text = match rng.random_range(0..40) {
            0..12 => format!(r#"{{"set_item": {{"system": "{system}", "value": "{item}"}}}}"#),
            12..17 => format!(
                r#"{{"set_item": {{"system": "{system}", "value": {{"name": "{item}", "ip": "10.0.1.{n}", "prefer": "{server}", "size": {n}}}}}}}"#
            ),
            17..19 => format!(
                r#"{{"set_item": {{"system": "{system}", "value": {{"name": "{item}", "isolated": "drop"}}}}}}"#
            ),
            19..21 => format!(
                r#"{{"set_item": {{"system": "{system}", "value": {{"name": "{item}", "checks": [{{"tcp": "h:1"}}]}}}}}}"#
            ),
            21 => format!(
                r#"{{"set_item": {{"system": "{system}", "value": {{"name": "{item}", "prefer": 7}}}}}}"#
            ),
            22..31 => format!(r#"{{"remove_item": {{"system": "{system}", "item": "{item}"}}}}"#),
            31..36 => {
                format!(r#"{{"move_item": {{"system": "{system}", "item": "{item}", "to": "{server}"}}}}"#)
            }
            36 => {
                r#"{"set_server": {"id": "d", "value": {"ip": "10.0.0.4", "systems": ["job"]}}}"#.to_owned()
            }
            37 => r#"{"remove_server": {"id": "d"}}"#.to_owned(),
            38 => format!(r#"{{"change_system": {{"name": "job", "change": {{"cool_down": {n}}}}}}}"#),
            _ => r#"{"remove_system": {"name": "all"}}"#.to_owned(),
        };
        serde_json::from_str(&text).expect("an edit")
    }

    fn same(one: &Composed, other: &Composed, place: &str) {
        // What finds a server quickly is made when it is needed.
        let shown = |composed: &Composed| {
            let mut config = Config::clone(&composed.config);
            let servers = std::mem::take(&mut config.servers).to_vec();
            format!("{servers:?} {config:?}")
        };
        assert_eq!(shown(one), shown(other), "{place}");
        assert_eq!(one.config.content_hash(), other.config.content_hash(), "{place}");
        assert_eq!(one.born, other.born, "{place}");
        assert!(one.len >= other.len, "{place}: a text of {} bytes is longer than {}", other.len, one.len);
    }

    /// Whatever is edited here, and comes late from elsewhere: a few items looked at alone come to what everything
    /// comes to, and what is refused is refused in the same words.
    #[test]
    fn a_part_comes_to_what_all_comes_to() {
        let seeds = std::env::var("FLIP_CATALOG_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
        let (mut in_part, mut refused) = (0, 0);
        for seed in 0..seeds {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut catalog, local) = opened();
            let mut known = Composed::new(&catalog, &local).expect("a config");
            for step in 0..60 {
                let mut changes = Changes::default();
                for _ in 0..rng.random_range(1..4) {
                    let mark = changes.len();
                    let stamp = catalog.next_stamp(rng.random_range(1..4));
                    let stamp = Stamp { count: stamp.count + changes.len() as u64, ..stamp };
                    if changes.apply(&mut catalog, &edit(&mut rng), stamp).is_err() {
                        changes.back_to(&mut catalog, mark);
                    }
                }
                if rng.random_bool(0.3) {
                    // Somebody said this before others said what is here.
                    let stamp = Stamp { count: rng.random_range(1..=catalog.count() + 1), writer: 9 };
                    let name = format!("z{}", rng.random_range(0..9));
                    let value = rng.random_bool(0.7).then(|| format!("\"{name}\"").into());
                    let record = Record { value, stamp, born: stamp, bound: None };
                    changes.merge(&mut catalog, &Key::Item("job".into(), name), &record);
                }
                let entries = changes.entries(&catalog);
                let place = format!("seed {seed} step {step}: {entries:?}");
                let all = Composed::new(&catalog, &local);
                let part = known.after(&catalog, &local, changes.keys());
                let changed = known.stale.iter().chain(changes.keys()).collect();
                in_part += usize::from(known.patched(&catalog, &local, &changed).is_some());
                match (all, part) {
                    (Ok(all), Ok(part)) => {
                        same(&part, &all, &place);
                        if rng.random_bool(0.3) {
                            known.outdate(entries.iter().map(|(key, _)| key.clone()));
                        } else {
                            known = part;
                        }
                    }
                    (Err(all), Err(part)) => {
                        assert_eq!(all, part, "{place}");
                        refused += 1;
                        changes.back_to(&mut catalog, 0);
                        continue;
                    }
                    (all, part) => panic!("{place}: {all:?} and {part:?}"),
                }
                // What was tried is said.
                changes.back_to(&mut catalog, 0);
                for (key, record) in entries {
                    catalog.merge(key, record);
                }
                let said = known.after(&catalog, &local, []).expect("it was looked at");
                same(&said, &Composed::new(&catalog, &local).expect("a config"), &place);
            }
        }
        assert!(
            in_part > seeds as usize * 10 && refused > seeds as usize,
            "{in_part} in part, {refused} refused"
        );
    }

    #[test]
    fn what_is_too_much_is_refused_as_ever() {
        let (mut catalog, local) = opened();
        let known = Composed::new(&catalog, &local).expect("a config");
        let mut changes = Changes::default();
        let add = |changes: &mut Changes, catalog: &mut Catalog, n: usize| {
            let key = Key::Item("job".into(), format!("i{n}"));
            let stamp = Stamp { count: n as u64 + 1, writer: 1 };
            changes.set(catalog, key, format!("\"i{n}\"").into(), stamp);
        };
        // Of 100,000 four are there.
        (0..limits::FACTS - 4).for_each(|n| add(&mut changes, &mut catalog, n));
        let full = known.after(&catalog, &local, changes.keys()).expect("so many may be");
        assert_eq!(
            full.config().systems.iter().map(|system| system.items.len()).sum::<usize>(),
            limits::FACTS
        );
        let mark = changes.len();
        add(&mut changes, &mut catalog, limits::FACTS);
        let keys: Vec<_> = changes.keys().skip(mark).cloned().collect();
        let refused = full.after(&catalog, &local, &keys).expect_err("one too many").to_string();
        assert!(refused.contains("expected at most 100000"), "{refused}");
    }
}
