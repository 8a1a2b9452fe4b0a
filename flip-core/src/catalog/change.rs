//! From what somebody asks for to records.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::edit::Edit;
use super::entry::{Entry, Key, Record, Stamp};
use super::file;
use super::store::Catalog;
use crate::config::nearest;
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

    /// The keys of which something else is said than before.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.undo.iter().map(|(key, _)| key)
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
            Edit::SetServer { id, value, new } => {
                self.set_entry(catalog, Key::Server(id.clone()), Value::Object(value.clone()), *new, stamp)
            }
            Edit::ChangeServer { id, change } => {
                let key = Key::Server(id.clone());
                let value = merged(parsed(&known(catalog, &key)?), change);
                self.set_entry(catalog, key, value, false, stamp)
            }
            Edit::SetSystem { name, value, new } => {
                without_items(name, value)?;
                self.set_entry(catalog, Key::System(name.clone()), Value::Object(value.clone()), *new, stamp)
            }
            Edit::ChangeSystem { name, change } => {
                without_items(name, change)?;
                let key = Key::System(name.clone());
                let value = merged(parsed(&known(catalog, &key)?), change);
                self.set_entry(catalog, key, value, false, stamp)
            }
            Edit::RemoveServer { id } => {
                known(catalog, &Key::Server(id.clone()))?;
                self.remove(catalog, Key::Server(id.clone()), stamp);
                self.forget_voter(catalog, id, stamp);
                Ok(())
            }
            Edit::RemoveSystem { name } => self.remove_system(catalog, name, stamp),
            Edit::SetItem { system, value, new } => {
                let key = item_key(catalog, system, value)?;
                self.set_entry(catalog, key, value.clone(), *new, stamp)
            }
            Edit::ChangeItem { system, item, change } => {
                let (key, value) = changed_item(catalog, system, item, change)?;
                self.set_entry(catalog, key, value, false, stamp)
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
                let kind = catalog.value(&Key::System(system.clone())).map(|said| parsed(&said));
                if kind.is_some_and(|said| is_replicated(&said)) {
                    return Err(format!(
                        "system {system} is replicated: its items are on all of its servers, and none has a home"
                    ));
                }
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
        value: Value,
        new: bool,
        stamp: Stamp,
    ) -> Result<(), String> {
        if new && catalog.value(&key).is_some() {
            let kind = key.to_string();
            let kind = kind.split(' ').next().unwrap_or_default();
            return Err(format!("there is {key} already; `flip {kind} set` changes it"));
        }
        let text = file::canonical(&value);
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
    catalog.value(key).ok_or_else(|| {
        let help = match near(catalog, key) {
            Some(near) => format!("did you mean {near}?"),
            None => "`flip status` lists what there is".to_owned(),
        };
        format!("there is no {key}; {help}")
    })
}

/// What was probably meant by a key that is not there.
fn near(catalog: &Catalog, key: &Key) -> Option<Key> {
    let effective = catalog.effective();
    let systems = || effective.systems.iter().map(|system| system.name.as_str());
    match key {
        Key::Server(id) => {
            let ids = effective.servers.iter().map(|(id, _)| id.as_str());
            nearest(id, ids).map(|near| Key::Server(near.to_owned()))
        }
        Key::System(name) => nearest(name, systems()).map(|near| Key::System(near.to_owned())),
        Key::Item(name, item) => {
            let Some(system) = effective.systems.iter().find(|system| system.name == *name) else {
                return nearest(name, systems()).map(|near| Key::System(near.to_owned()));
            };
            let near = nearest(item, system.items.iter().map(|(item, _)| item.as_str()));
            let elsewhere = || {
                let others = effective.systems.iter();
                let mut others = others.filter(|other| other.items.iter().any(|(name, _)| name == item));
                Some(Key::Item(others.next()?.name.clone(), item.clone()))
            };
            near.map(|near| Key::Item(name.clone(), near.to_owned())).or_else(elsewhere)
        }
        Key::Cluster | Key::Home(..) => None,
    }
}

fn without_items(name: &str, value: &Map<String, Value>) -> Result<(), String> {
    if value.contains_key("data") {
        return Err(format!(
            "system {name}: found `data`, expected a system without its items; add those one by one"
        ));
    }
    Ok(())
}

/// What an entry says: it was written by this program, or read as JSON before.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// A value with what a merge patch changes (RFC 7396).
fn merged(value: Value, change: &Map<String, Value>) -> Value {
    let mut whole = match value {
        Value::Object(whole) => whole,
        _ => Map::new(),
    };
    for (key, new) in change {
        match new {
            Value::Null => drop(whole.shift_remove(key)),
            Value::Object(inner) => {
                let before = whole.shift_remove(key).unwrap_or(Value::Null);
                whole.insert(key.clone(), merged(before, inner));
            }
            new => drop(whole.insert(key.clone(), new.clone())),
        }
    }
    Value::Object(whole)
}

fn is_replicated(system: &Value) -> bool {
    matches!(system.get("type").and_then(Value::as_str), Some("replicate" | "replicated"))
}

/// An item with some of its keys changed; the name stays, because it is what the item is.
fn changed_item(
    catalog: &Catalog,
    system: &str,
    item: &str,
    change: &Map<String, Value>,
) -> Result<(Key, Value), String> {
    let key = Key::Item(system.to_owned(), item.to_owned());
    let said = parsed(&known(catalog, &key)?);
    let settings = parsed(&known(catalog, &Key::System(system.to_owned()))?);
    let is_ip = file::is_ip(system, &settings);
    let whole = match said {
        Value::String(text) => Value::Object(Map::from_iter([(
            if is_ip { "ip" } else { "name" }.to_owned(),
            Value::String(text),
        )])),
        Value::Array(_) if !change.contains_key("ip") => {
            return Err(format!(
                "{key} is written as a list, which has no keys; give its addresses as `ip` as well"
            ));
        }
        other => other,
    };
    let value = merged(whole, change);
    match item_key(catalog, system, &value)? {
        new if new == key => Ok((key, value)),
        new => Err(format!("{key} would become {new}; remove the one and add the other")),
    }
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
    let settings = parsed(&known(catalog, &Key::System(system.to_owned()))?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::file::File;

    const FILE: &str = r#"{"profile": "fast",
        "servers": {"a": {"ip": "10.0.0.1", "systems": ["ip", "job", "all"]}, "b": {"ip": "10.0.0.2", "config": {"x": 1, "y": 2}}},
        "cluster": {"system": {
            "ip": {"data": ["10.0.1.1", "10.0.1.2/24@eth0", ["a", "10.0.1.3", "10.0.1.4"], {"name": "web", "ip": "10.0.1.5"}]},
            "job": {"alive": "memory_up", "down": "memory_down", "data": ["x", {"name": "y", "isolated": "drop"}]},
            "all": {"type": "replicate", "data": ["every"]}
        }}}"#;

    /// What an edit makes of the entry that it is about, or why it is refused.
    fn apply(edit: &str, key: &Key) -> Result<Value, String> {
        let root = serde_json::from_str(FILE).expect("JSON");
        let mut catalog = Catalog::new(File::new(1, &root).expect("a file"));
        let edit = serde_json::from_str(edit).expect("an edit");
        let stamp = catalog.next_stamp(1);
        Changes::default().apply(&mut catalog, &edit, stamp)?;
        Ok(parsed(&catalog.value(key).expect("it is there")))
    }

    fn item(system: &str, item: &str) -> Key {
        Key::Item(system.into(), item.into())
    }

    #[test]
    fn changes_keep_what_they_do_not_name() {
        for (edit, key, expected) in [
            (
                r#"{"change_item": {"system": "ip", "item": "10.0.1.2/24", "change": {"isolated": "drop"}}}"#,
                item("ip", "10.0.1.2/24"),
                r#"{"ip": "10.0.1.2/24@eth0", "isolated": "drop"}"#,
            ),
            (
                r#"{"change_item": {"system": "ip", "item": "web", "change": {"ip": "10.0.1.6"}}}"#,
                item("ip", "web"),
                r#"{"name": "web", "ip": "10.0.1.6"}"#,
            ),
            (
                r#"{"change_item": {"system": "ip", "item": "10.0.1.3", "change": {"ip": ["10.0.1.3"], "prefer": "a"}}}"#,
                item("ip", "10.0.1.3"),
                r#"{"ip": ["10.0.1.3"], "prefer": "a"}"#,
            ),
            (
                r#"{"change_item": {"system": "job", "item": "x", "change": {"size": {"big": true, "no": null}}}}"#,
                item("job", "x"),
                r#"{"name": "x", "size": {"big": true}}"#,
            ),
            (
                r#"{"change_item": {"system": "job", "item": "y", "change": {"isolated": null}}}"#,
                item("job", "y"),
                r#"{"name": "y"}"#,
            ),
            (
                r#"{"change_server": {"id": "b", "change": {"priority": 2, "config": {"x": null, "z": 3}}}}"#,
                Key::Server("b".into()),
                r#"{"ip": "10.0.0.2", "priority": 2, "config": {"y": 2, "z": 3}}"#,
            ),
            (
                r#"{"change_system": {"name": "job", "change": {"isolated": "drop"}}}"#,
                Key::System("job".into()),
                r#"{"alive": "memory_up", "down": "memory_down", "isolated": "drop"}"#,
            ),
        ] {
            let expected: Value = serde_json::from_str(expected).expect("JSON");
            assert_eq!(apply(edit, &key), Ok(expected), "{edit}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_was_probably_meant() {
        for (edit, expected) in [
            (
                r#"{"set_item": {"system": "job", "value": {"name": "x"}, "new": true}}"#,
                "there is item job/x already; `flip item set` changes it",
            ),
            (
                r#"{"set_server": {"id": "a", "value": {"ip": "10.0.0.9"}, "new": true}}"#,
                "there is server a already; `flip server set` changes it",
            ),
            (
                r#"{"set_system": {"name": "job", "value": {}, "new": true}}"#,
                "there is system job already; `flip system set` changes it",
            ),
            (
                r#"{"remove_item": {"system": "ip", "item": "10.0.1.9"}}"#,
                "there is no item ip/10.0.1.9; did you mean item ip/10.0.1.1?",
            ),
            (
                r#"{"remove_item": {"system": "ip", "item": "every"}}"#,
                "there is no item ip/every; did you mean item all/every?",
            ),
            (
                r#"{"remove_item": {"system": "jobs", "item": "x"}}"#,
                "there is no item jobs/x; did you mean system job?",
            ),
            (r#"{"remove_system": {"name": "jb"}}"#, "there is no system jb; did you mean system job?"),
            (r#"{"remove_server": {"id": "zebra"}}"#, "there is no server zebra; `flip status` lists"),
            (
                r#"{"change_item": {"system": "ip", "item": "10.0.1.1", "change": {"ip": "10.0.1.7"}}}"#,
                "item ip/10.0.1.1 would become item ip/10.0.1.7; remove the one and add the other",
            ),
            (
                r#"{"change_item": {"system": "ip", "item": "10.0.1.3", "change": {"isolated": "drop"}}}"#,
                "item ip/10.0.1.3 is written as a list, which has no keys; give its addresses as `ip`",
            ),
            (
                r#"{"change_system": {"name": "job", "change": {"data": ["q"]}}}"#,
                "system job: found `data`, expected",
            ),
            (r#"{"move_item": {"system": "all", "item": "every", "to": "a"}}"#, "system all is replicated"),
            (
                r#"{"change_item": {"system": "job", "item": "z", "change": {}}}"#,
                "there is no item job/z; `flip status` lists",
            ),
        ] {
            let refused = apply(edit, &Key::Cluster).expect_err(edit);
            assert!(refused.contains(expected), "{edit}: {refused}");
        }
    }
}
