//! A catalog as a list that people and programs read: what counts, as it is written, and who said it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::entry::{Key, Stamp};
use super::store::Catalog;
use crate::id::ShortId;

/// Everything that a cluster consists of, as one server knows it. What was removed is not in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Listing {
    /// Version of the config file below all edits.
    pub version: u64,
    /// Its hash, as hex; none without a file.
    pub hash: Option<String>,
    /// The settings of the whole cluster.
    pub cluster: Listed,
    /// All servers, in listed order.
    pub servers: Vec<ListedServer>,
    /// All systems, in listed order.
    pub systems: Vec<ListedSystem>,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Listed {
    /// As it would stand in a config file.
    pub value: Value,
    /// Where it is from.
    pub from: Origin,
}

/// Where an entry is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The config file of this version.
    File(u64),
    /// An edit.
    Edit {
        /// Of two edits of one entry, the one with the larger counter counts.
        count: u64,
        /// Id of the server that was asked for it; four hexadecimal digits where no server has that id any more.
        by: String,
        /// It replaces what the config file of this version says, and ends with that version; none of what no
        /// file has.
        until: Option<u64>,
    },
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ListedServer {
    /// Its id.
    pub id: String,
    /// What is said of it.
    #[serde(flatten)]
    pub entry: Listed,
}

/// A system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ListedSystem {
    /// Its name.
    pub name: String,
    /// What is said of it, without its items.
    #[serde(flatten)]
    pub entry: Listed,
    /// Its items, in listed order.
    pub items: Vec<ListedItem>,
}

/// An item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ListedItem {
    /// Its name.
    pub name: String,
    /// What is said of it.
    #[serde(flatten)]
    pub entry: Listed,
    /// Id of the server to which it was moved, or where it stayed when others came; none where it is dealt.
    pub home: Option<String>,
}

impl Catalog {
    /// All of it that counts.
    #[must_use]
    pub fn list(&self) -> Listing {
        let effective = self.effective();
        let writers: Vec<(u16, &str)> =
            effective.servers.iter().map(|(id, _)| (ShortId::of(id).0, id.as_str())).collect();
        let by = |Stamp { writer, .. }: Stamp| {
            let known = writers.iter().find(|(short, _)| *short == writer);
            known.map_or_else(|| format!("{writer:04x}"), |(_, id)| (*id).to_owned())
        };
        let entry = |key: &Key, value: &str| Listed {
            value: serde_json::from_str(value).unwrap_or(Value::Null),
            from: match self.active(key) {
                Some(record) if record.value.is_some() => {
                    Origin::Edit { count: record.stamp.count, by: by(record.stamp), until: record.bound }
                }
                Some(_) | None => Origin::File(self.file().version),
            },
        };
        let servers = effective.servers.iter().map(|(id, value)| ListedServer {
            id: id.clone(),
            entry: entry(&Key::Server(id.clone()), value),
        });
        let systems = effective.systems.iter().map(|system| ListedSystem {
            name: system.name.clone(),
            entry: entry(&Key::System(system.name.clone()), &system.value),
            items: system
                .items
                .iter()
                .map(|(item, value)| {
                    let names = (system.name.clone(), item.clone());
                    ListedItem {
                        name: item.clone(),
                        entry: entry(&Key::Item(names.0.clone(), names.1.clone()), value),
                        home: effective.homes.get(&names).map(ToString::to_string),
                    }
                })
                .collect(),
        });
        Listing {
            version: self.file().version,
            hash: (!self.file().is_empty()).then(|| format!("{:016x}", self.file().hash)),
            cluster: entry(&Key::Cluster, &effective.cluster),
            servers: servers.collect(),
            systems: systems.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Changes, Edit, File};

    #[test]
    fn the_list_says_what_counts_and_who_said_it() {
        let root = r#"{"profile": "fast", "servers": {"a": {"ip": "10.0.0.1", "systems": ["job"]}},
            "cluster": {"system": {"job": {"alive": "memory_up", "data": ["x", "y"]}}}}"#;
        let root = serde_json::from_str(root).expect("JSON");
        let mut catalog = Catalog::new(File::new(7, &root).expect("a file"));
        let edits = r#"[{"set_item": {"system": "job", "value": "z"}}, {"remove_item": {"system": "job", "item": "y"}},
            {"change_item": {"system": "job", "item": "x", "change": {"isolated": "drop"}}},
            {"move_item": {"system": "job", "item": "z", "to": "a"}}]"#;
        let edits: Vec<Edit> = serde_json::from_str(edits).expect("edits");
        for (edit, writer) in edits.iter().zip([ShortId::of("a").0, 1, 2, 3]) {
            let stamp = catalog.next_stamp(writer);
            let mut changes = Changes::default();
            changes.apply(&mut catalog, edit, stamp).expect("an edit");
            for (key, record) in changes.entries(&catalog) {
                catalog.merge(key, record);
            }
        }
        let list = catalog.list();
        let shown = serde_json::to_value(&list).expect("JSON");
        let hash = format!("{:016x}", catalog.file().hash);
        let expected = serde_json::json!({
            "version": 7, "hash": hash,
            "cluster": {"value": {"profile": "fast", "cluster": {}}, "from": {"file": 7}},
            "servers": [{"id": "a", "value": {"ip": "10.0.0.1", "systems": ["job"]}, "from": {"file": 7}}],
            "systems": [{"name": "job", "value": {"alive": "memory_up"}, "from": {"file": 7}, "items": [
                {"name": "x", "value": {"name": "x", "isolated": "drop"}, "home": null,
                    "from": {"edit": {"count": 3, "by": "0002", "until": 7}}},
                {"name": "z", "value": "z", "home": "a", "from": {"edit": {"count": 1, "by": "a", "until": null}}},
            ]}],
        });
        assert_eq!(shown, expected);
        assert_eq!(serde_json::from_value::<Listing>(shown).expect("it is read as well"), list);
        assert_eq!(Catalog::default().list().hash, None);
    }
}
