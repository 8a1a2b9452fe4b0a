//! From what somebody asks for to records.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::edit::Edit;
use super::entry::{Entry, Key, Record, Stamp};
use super::file;
use super::store::Catalog;
use crate::limits;

/// Changes of a catalog that can be taken back.
#[derive(Debug, Default)]
pub struct Changes {
    /// What was said before of each key, the oldest change first.
    undo: Vec<(Key, Option<Record>)>,
}

impl Changes {
    /// The records that these changes came to, once each.
    #[must_use]
    pub fn entries(&self, catalog: &Catalog) -> Vec<Entry> {
        self.entries_since(catalog, 0)
    }

    /// The same of what was changed after there were so many changes.
    #[must_use]
    pub fn entries_since(&self, catalog: &Catalog, len: usize) -> Vec<Entry> {
        let mut keys: Vec<&Key> = self.undo.iter().skip(len).map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().filter_map(|key| Some((key.clone(), catalog.get(key)?.clone()))).collect()
    }

    /// How many there are, for [`Changes::back_to`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.undo.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.undo.is_empty()
    }

    /// Takes back what was changed after there were so many changes.
    pub fn back_to(&mut self, catalog: &mut Catalog, len: usize) {
        while self.undo.len() > len
            && let Some((key, record)) = self.undo.pop()
        {
            catalog.put(key, record);
        }
    }

    /// Takes a record that another server made.
    pub fn merge(&mut self, catalog: &mut Catalog, key: &Key, record: &Record) -> bool {
        let before = catalog.get(key).cloned();
        let merged = catalog.merge(key.clone(), record.clone());
        if merged {
            self.undo.push((key.clone(), before));
        }
        merged
    }

    fn put(&mut self, catalog: &mut Catalog, key: Key, record: Record) {
        let before = catalog.put(key.clone(), Some(record));
        self.undo.push((key, before));
    }

    /// Says of a key that it is this from now on.
    pub fn set(&mut self, catalog: &mut Catalog, key: Key, value: Arc<str>, stamp: Stamp) {
        let of_file = catalog.is_in_file(&key);
        let living = catalog.active(&key).filter(|record| record.value.is_some());
        let record = Record {
            value: Some(value),
            stamp,
            born: living.map_or(stamp, |record| record.born),
            bound: match living {
                Some(record) => record.bound,
                None => of_file.then_some(catalog.file().version),
            },
        };
        self.put(catalog, key, record);
    }

    /// Says of a key that it is no more.
    pub fn remove(&mut self, catalog: &mut Catalog, key: Key, stamp: Stamp) {
        let bound = catalog.is_in_file(&key).then_some(catalog.file().version);
        self.put(catalog, key, Record { value: None, stamp, born: stamp, bound });
    }

    /// Makes one edit.
    ///
    /// # Errors
    /// When it makes no sense in this catalog: one line for people. Whether what comes of it is a config that can
    /// be used is not looked at here.
    pub fn apply(&mut self, catalog: &mut Catalog, edit: &Edit, stamp: Stamp) -> Result<(), String> {
        match edit {
            Edit::SetServer { id, value } => self.set_entry(catalog, Key::Server(id.clone()), value, stamp),
            Edit::SetSystem { name, value } => {
                if value.contains_key("data") {
                    return Err(format!(
                        "system {name}: found `data`, expected a system without its items; add those one by one"
                    ));
                }
                self.set_entry(catalog, Key::System(name.clone()), value, stamp)
            }
            Edit::RemoveServer { id } => {
                known(catalog, &Key::Server(id.clone()))?;
                self.remove(catalog, Key::Server(id.clone()), stamp);
                self.forget_voter(catalog, id, stamp);
                Ok(())
            }
            Edit::RemoveSystem { name } => self.remove_system(catalog, name, stamp),
            Edit::SetItem { system, value } => {
                let key = item_key(catalog, system, value)?;
                let text = file::canonical(value);
                check_length(&key, &text)?;
                self.set(catalog, key, text.into(), stamp);
                Ok(())
            }
            Edit::RemoveItem { system, item } => {
                let key = Key::Item(system.clone(), item.clone());
                known(catalog, &key)?;
                self.remove(catalog, key, stamp);
                self.forget_home(catalog, system, item, stamp);
                Ok(())
            }
            Edit::MoveItem { system, item, to } => {
                known(catalog, &Key::Item(system.clone(), item.clone()))?;
                let server = known(catalog, &Key::Server(to.clone()))?;
                if !takes_part(&server, system) {
                    return Err(format!(
                        "server {to} takes no part in system {system}; add \"{system}\" to its `systems`"
                    ));
                }
                self.set(catalog, Key::Home(system.clone(), item.clone()), to.as_str().into(), stamp);
                Ok(())
            }
        }
    }

    fn set_entry(
        &mut self,
        catalog: &mut Catalog,
        key: Key,
        value: &Map<String, Value>,
        stamp: Stamp,
    ) -> Result<(), String> {
        let text = file::canonical(&Value::Object(value.clone()));
        check_length(&key, &text)?;
        self.set(catalog, key, text.into(), stamp);
        Ok(())
    }

    fn forget_home(&mut self, catalog: &mut Catalog, system: &str, item: &str, stamp: Stamp) {
        let home = Key::Home(system.to_owned(), item.to_owned());
        if catalog.value(&home).is_some() {
            self.remove(catalog, home, stamp);
        }
    }

    /// A system goes with its items, and no server takes part in it any more.
    fn remove_system(&mut self, catalog: &mut Catalog, name: &str, stamp: Stamp) -> Result<(), String> {
        known(catalog, &Key::System(name.to_owned()))?;
        let effective = catalog.effective();
        self.remove(catalog, Key::System(name.to_owned()), stamp);
        for system in effective.systems.iter().filter(|system| system.name == name) {
            for (item, _) in &system.items {
                self.remove(catalog, Key::Item(name.to_owned(), item.clone()), stamp);
                self.forget_home(catalog, name, item, stamp);
            }
        }
        for (id, value) in &effective.servers {
            let Ok(Value::Object(mut server)) = serde_json::from_str::<Value>(value) else { continue };
            let mut differs = false;
            for key in ["systems", "system"] {
                let Some(value) = server.get_mut(key) else { continue };
                match value {
                    Value::Array(names) => {
                        let before = names.len();
                        names.retain(|other| other != name);
                        differs |= names.len() < before;
                    }
                    Value::String(only) if only == name => {
                        *value = Value::Array(Vec::new());
                        differs = true;
                    }
                    _ => {}
                }
            }
            if differs {
                let text = file::canonical(&Value::Object(server));
                self.set(catalog, Key::Server(id.clone()), text.into(), stamp);
            }
        }
        Ok(())
    }

    /// Who is gone does not vote.
    fn forget_voter(&mut self, catalog: &mut Catalog, id: &str, stamp: Stamp) {
        let Some(cluster) = catalog.value(&Key::Cluster) else { return };
        let Ok(mut settings) = serde_json::from_str::<Value>(&cluster) else { return };
        let Some(Value::Array(voters)) = settings.get_mut("voters") else { return };
        let before = voters.len();
        voters.retain(|voter| voter != id);
        if voters.len() < before {
            let text = file::canonical(&settings);
            self.set(catalog, Key::Cluster, text.into(), stamp);
        }
    }
}

impl Catalog {
    /// What a key has that counts, from the file or after it.
    #[must_use]
    pub fn value(&self, key: &Key) -> Option<Arc<str>> {
        match self.active(key) {
            Some(record) if record.value.is_some() => record.value.clone(),
            Some(record) if record.bound.is_some() => None,
            Some(_) | None => self.file().value(key),
        }
    }

    fn is_in_file(&self, key: &Key) -> bool {
        self.file().value(key).is_some()
    }
}

/// What a key has, which must be there.
fn known(catalog: &Catalog, key: &Key) -> Result<Arc<str>, String> {
    catalog.value(key).ok_or_else(|| format!("there is no {key}; `flip status` lists what there is"))
}

fn check_length(key: &Key, text: &str) -> Result<(), String> {
    if key.len() > limits::CATALOG_NAME {
        return Err(format!("a name of {} bytes, expected at most {}", key.len(), limits::CATALOG_NAME));
    }
    if text.len() > limits::CATALOG_ENTRY {
        return Err(format!("{key} has {} bytes, expected at most {}", text.len(), limits::CATALOG_ENTRY));
    }
    Ok(())
}

fn takes_part(server: &str, system: &str) -> bool {
    let Ok(server) = serde_json::from_str::<Value>(server) else { return false };
    ["systems", "system"].iter().filter_map(|key| server.get(key)).any(|value| match value {
        Value::Array(names) => names.iter().any(|name| name == system),
        other => other == system,
    })
}

/// The key of an item that is to be set.
fn item_key(catalog: &Catalog, system: &str, value: &Value) -> Result<Key, String> {
    let said = known(catalog, &Key::System(system.to_owned()))?;
    let settings = serde_json::from_str(&said).unwrap_or(Value::Null);
    let is_ip = file::is_ip(system, &settings);
    let name = file::item_name(value, is_ip).ok_or_else(|| {
        let expected = if is_ip {
            "an address like \"10.0.0.9\", an object with the key `ip`, or a group of them as an array"
        } else {
            "a string, or an object with the key `name`"
        };
        format!("system {system}: found {value} as an item, expected {expected}")
    })?;
    Ok(Key::Item(system.to_owned(), name))
}
