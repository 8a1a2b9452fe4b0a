//! One change of the catalog, as a person or a program asks for it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One change of what the cluster consists of. Several that are asked for together happen all or not at all.
///
/// As JSON: `{"set_item": {"system": "ip", "value": "10.0.0.9"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Adds a server, or replaces what is said of it.
    SetServer {
        /// Its id.
        id: String,
        /// As an entry of `servers` in a config file.
        value: Map<String, Value>,
        /// Refused when there is such a server already.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        new: bool,
    },
    /// Changes some of what is said of a server.
    ChangeServer {
        /// Its id.
        id: String,
        /// What differs, as a merge patch (RFC 7396): keys that are not named stay, and `null` takes one away.
        change: Map<String, Value>,
    },
    /// Removes a server: it holds nothing and votes no more.
    RemoveServer {
        /// Its id.
        id: String,
    },
    /// Adds a system, or replaces what is said of it. Its items stay.
    SetSystem {
        /// Its name.
        name: String,
        /// As an entry of `cluster.system` in a config file, without `data`.
        value: Map<String, Value>,
        /// Refused when there is such a system already.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        new: bool,
    },
    /// Changes some of what is said of a system. Its items stay.
    ChangeSystem {
        /// Its name.
        name: String,
        /// As in `change_server`, without `data`.
        change: Map<String, Value>,
    },
    /// Removes a system with all its items.
    RemoveSystem {
        /// Its name.
        name: String,
    },
    /// Adds an item, or replaces the one of the same name.
    SetItem {
        /// The name of its system.
        system: String,
        /// As an entry of `data` in a config file.
        value: Value,
        /// Refused when there is an item of that name already.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        new: bool,
    },
    /// Changes some of what is said of an item, which keeps its name.
    ChangeItem {
        /// The name of its system.
        system: String,
        /// Its name.
        item: String,
        /// As in `change_server`. An item that was written as a text is an object with that text first.
        change: Map<String, Value>,
    },
    /// Removes an item: whoever holds it lets it go.
    RemoveItem {
        /// The name of its system.
        system: String,
        /// Its name.
        item: String,
    },
    /// Gives an item another home.
    MoveItem {
        /// The name of its system.
        system: String,
        /// Its name.
        item: String,
        /// Id of the server that becomes its home.
        to: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_written_as_they_are_said() {
        let all = r#"[
            {"set_server": {"id": "d", "value": {"ip": "10.0.0.4", "systems": ["ip"]}}},
            {"set_server": {"id": "e", "value": {"ip": "10.0.0.5"}, "new": true}},
            {"change_server": {"id": "e", "change": {"priority": 2, "systems": null}}},
            {"remove_server": {"id": "d"}},
            {"set_system": {"name": "ip", "value": {"isolated": "drop"}}},
            {"set_system": {"name": "job", "value": {}, "new": true}},
            {"change_system": {"name": "ip", "change": {"isolated": "keep"}}},
            {"remove_system": {"name": "ip"}},
            {"set_item": {"system": "ip", "value": ["10.0.0.9", "a"]}},
            {"set_item": {"system": "ip", "value": "10.0.0.10", "new": true}},
            {"change_item": {"system": "ip", "item": "10.0.0.10", "change": {"isolated": "drop"}}},
            {"remove_item": {"system": "ip", "item": "10.0.0.9"}},
            {"move_item": {"system": "ip", "item": "10.0.0.9", "to": "b"}}
        ]"#;
        let edits: Vec<Edit> = serde_json::from_str(all).expect("every form is known");
        assert_eq!(edits.len(), 13);
        assert_eq!(edits[3], Edit::RemoveServer { id: "d".into() });
        let again = serde_json::to_value(&edits).expect("edits are JSON");
        assert_eq!(again, serde_json::from_str::<Value>(all).expect("JSON"));
        for wrong in [r#"{"drop_all": {}}"#, r#"{"remove_server": {"id": "d", "really": true}}"#] {
            assert!(serde_json::from_str::<Edit>(wrong).is_err(), "{wrong}");
        }
    }
}
