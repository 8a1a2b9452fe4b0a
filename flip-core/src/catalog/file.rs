//! The file layer: what a config file says to the whole cluster, and what it says to its own server alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::entry::Key;
use crate::config::{self, ClusterKey, Overrides, Problem, Source};
use crate::limits;

/// Keys of a config file that concern its own server alone: they never spread. The witness is among them, because
/// each site has a gateway of its own.
pub const LOCAL_KEYS: [&str; 15] = [
    "id",
    "key",
    "key_file",
    "cluster_id",
    "log_level",
    "scripts_dir",
    "unsafe_lua",
    "lua_memory",
    "lua_steps",
    "plugins",
    "user",
    "privileges",
    "admin",
    "witness",
    "version",
];

/// The layer of entries that config files make: one whole set. The one with the higher version counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The key `version`.
    pub version: u64,
    /// Over all that must be equal in files of one version; zero where there is no file.
    pub hash: u64,
    /// The set as one JSON text, by which it is stored and travels; empty where there is no file.
    pub text: Arc<str>,
    pub(super) parts: Arc<Parts>,
}

/// The set in pieces, in listed order; values are JSON texts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub cluster: Arc<str>,
    pub servers: Vec<(String, Arc<str>)>,
    pub systems: Vec<PartSystem>,
    /// All of it by key.
    pub all: BTreeMap<Key, Arc<str>>,
}

/// A system of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartSystem {
    pub name: String,
    pub value: Arc<str>,
    pub items: Vec<(String, Arc<str>)>,
}

impl Default for File {
    fn default() -> Self {
        Self { version: 0, hash: 0, text: Arc::from(""), parts: Arc::default() }
    }
}

/// What a config file, or the command line, says to its own server alone.
#[derive(Clone, Debug)]
pub struct Local {
    /// Which server this is.
    pub id: String,
    /// The cluster's key, derived once.
    pub key: ClusterKey,
    /// [`LOCAL_KEYS`] that the file has, but for the keys and the id.
    pub(super) top: Map<String, Value>,
    /// `interface` in the `config` of this server in its own file.
    pub(super) interface: Option<Value>,
    pub(super) scripts: Vec<Known>,
}

/// What was found under a name that a config may give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    name: String,
    found: Found,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Body,
    Functions(Vec<String>),
    Missing(String),
    Wrong(String),
}

impl Known {
    /// What was found under a name.
    #[must_use]
    pub fn of(script: &config::Script<'_>) -> Self {
        let found = match script.found {
            config::ScriptFound::Body => Found::Body,
            config::ScriptFound::Functions(names) => Found::Functions(names.to_vec()),
            config::ScriptFound::Missing(place) => Found::Missing(place.to_owned()),
            config::ScriptFound::Wrong(why) => Found::Wrong(why.to_owned()),
        };
        Self { name: script.name.to_owned(), found }
    }

    fn script(&self) -> config::Script<'_> {
        let found = match &self.found {
            Found::Body => config::ScriptFound::Body,
            Found::Functions(names) => config::ScriptFound::Functions(names),
            Found::Missing(place) => config::ScriptFound::Missing(place),
            Found::Wrong(why) => config::ScriptFound::Wrong(why),
        };
        config::Script { name: &self.name, found }
    }
}

impl Local {
    /// Of a server that has no config file: its id and the cluster's key is all that it knows.
    #[must_use]
    pub fn alone(id: &str, key: ClusterKey) -> Self {
        Self { id: id.to_owned(), key, top: Map::new(), interface: None, scripts: Vec::new() }
    }

    /// What this server finds under the names that a config may give.
    #[must_use]
    pub fn with_scripts(mut self, scripts: Vec<Known>) -> Self {
        self.scripts = scripts;
        self
    }

    /// What this server finds under those names.
    #[must_use]
    pub fn known(&self) -> &[Known] {
        &self.scripts
    }

    /// Keys that say something else to this server than another file did. They are read when a daemon starts.
    pub(crate) fn differs(&self, other: &Self) -> Vec<&'static str> {
        let differs = |name: &&str| self.top.get(*name) != other.top.get(*name);
        LOCAL_KEYS.into_iter().filter(differs).collect()
    }

    pub(super) fn scripts(&self) -> Vec<config::Script<'_>> {
        self.scripts.iter().map(Known::script).collect()
    }

    /// Takes a config file apart, which must be without errors for this server. That of a server that joined says
    /// nothing to the cluster.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(&self, source: &Source<'_>) -> Result<(File, Self), Vec<Problem>> {
        let scripts = self.scripts();
        let overrides = Overrides { id: Some(&self.id), scripts: &scripts, ..Overrides::default() };
        if config::is_joining(source.text) {
            config::load_joining_with_key(source, &overrides, &self.key)?;
        } else {
            config::load_with_key(source, &overrides, &self.key)?;
        }
        Ok(split(source.text, &self.id, self.key.clone(), self.scripts.clone()))
    }
}

/// Takes the text of a config file apart that was loaded without an error.
#[must_use]
pub fn open(text: &str, loaded: &config::Config, scripts: &[config::Script<'_>]) -> (File, Local) {
    let scripts = scripts.iter().map(Known::of).collect();
    split(text, &loaded.my().id, loaded.key.clone(), scripts)
}

fn split(text: &str, id: &str, key: ClusterKey, scripts: Vec<Known>) -> (File, Local) {
    let Some(Value::Object(mut root)) = config::to_json(text) else {
        return (File::default(), Local { scripts, ..Local::alone(id, key) });
    };
    let version = root.get("version").and_then(Value::as_u64).unwrap_or_default();
    let mut top = Map::new();
    for name in LOCAL_KEYS {
        if let Some(value) = root.remove(name)
            && !["id", "key", "key_file", "version"].contains(&name)
        {
            top.insert(name.to_owned(), value);
        }
    }
    let own = root.get("servers").and_then(|servers| servers.get(id));
    let interface = own.and_then(|own| own.get("config")?.get("interface")).cloned();
    if config::is_joining(text) {
        let interface = root.remove("interface");
        return (File::default(), Local { id: id.to_owned(), key, top, interface, scripts });
    }
    let file = File::new(version, &Value::Object(root)).unwrap_or_default();
    (file, Local { id: id.to_owned(), key, top, interface, scripts })
}

impl File {
    /// The layer of this version that a file without its local keys makes; none when it is too long.
    #[must_use]
    pub fn new(version: u64, root: &Value) -> Option<Self> {
        Self::from_text(version, &canonical(root))
    }

    /// A layer from its text, as another server or the disk gives it; none when it is not one.
    #[must_use]
    pub fn from_text(version: u64, text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        if text.len() > limits::CATALOG_FILE {
            return None;
        }
        let root: Value = serde_json::from_str(text).ok()?;
        if canonical(&root) != text {
            return None;
        }
        let parts = parts(&root)?;
        let hash = hash(version, root);
        Some(Self { version, hash, text: text.into(), parts: Arc::new(parts) })
    }

    /// Whether there is a file at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// What the file says of a key.
    pub(super) fn value(&self, key: &Key) -> Option<Arc<str>> {
        self.parts.all.get(key).cloned()
    }

    /// What decides between two layers: the higher version, and a file is more than none.
    #[must_use]
    pub fn rank(&self) -> (u64, bool) {
        (self.version, !self.is_empty())
    }
}

/// Interfaces differ: each server's file has its own.
fn hash(version: u64, mut root: Value) -> u64 {
    if let Some(Value::Object(servers)) = root.get_mut("servers") {
        for server in servers.values_mut() {
            if let Some(Value::Object(settings)) = server.get_mut("config") {
                settings.remove("interface");
                let empty = settings.is_empty();
                if let Some(server) = server.as_object_mut().filter(|_| empty) {
                    server.remove("config");
                }
            }
        }
    }
    let mut hasher = blake3::Hasher::new_derive_key("flip catalog file v1");
    hasher.update(&version.to_be_bytes());
    hasher.update(canonical(&root).as_bytes());
    let bytes = hasher.finalize();
    u64::from_be_bytes(std::array::from_fn(|at| bytes.as_bytes()[at]))
}

fn parts(root: &Value) -> Option<Parts> {
    let mut root = root.as_object()?.clone();
    let servers = match root.remove("servers") {
        Some(Value::Object(servers)) => {
            servers.iter().map(|(id, value)| (id.clone(), canonical(value).into())).collect()
        }
        _ => Vec::new(),
    };
    let mut systems = Vec::new();
    if let Some(Value::Object(cluster)) = root.get_mut("cluster") {
        let listed = cluster.remove("system").or_else(|| cluster.remove("systems"));
        if let Some(Value::Object(listed)) = listed {
            systems = listed.iter().map(|(name, value)| part_system(name, value)).collect();
        }
    }
    let cluster: Arc<str> = canonical(&Value::Object(root)).into();
    let mut all = BTreeMap::from([(Key::Cluster, Arc::clone(&cluster))]);
    all.extend(
        servers.iter().map(|(id, value): &(String, Arc<str>)| (Key::Server(id.clone()), value.clone())),
    );
    for PartSystem { name, value, items } in &systems {
        all.insert(Key::System(name.clone()), Arc::clone(value));
        let items = items.iter().map(|(item, value)| (Key::Item(name.clone(), item.clone()), value.clone()));
        all.extend(items);
    }
    Some(Parts { cluster, servers, systems, all })
}

fn part_system(name: &str, value: &Value) -> PartSystem {
    let mut value = value.clone();
    let data = value.as_object_mut().and_then(|system| system.shift_remove("data"));
    let is_ip = is_ip(name, &value);
    let mut items: Vec<(String, Arc<str>)> = Vec::new();
    let mut names = std::collections::BTreeSet::new();
    for item in data.as_ref().and_then(Value::as_array).into_iter().flatten() {
        // Of two items of one name the first counts, as in the file.
        if let Some(item_name) = item_name(item, is_ip)
            && names.insert(item_name.clone())
        {
            items.push((item_name, canonical(item).into()));
        }
    }
    PartSystem { name: name.to_owned(), value: canonical(&value).into(), items }
}

/// Whether a system of this name that says this has addresses as its items.
pub(super) fn is_ip(name: &str, system: &Value) -> bool {
    config::alive_of(name, system.get("alive").and_then(Value::as_str)) == config::HANDLERS[0].0
}

/// What an entry of `data` is called; none when it cannot be one.
pub(super) fn item_name(value: &Value, is_ip: bool) -> Option<String> {
    config::item_name(&value.to_string(), is_ip)
}

/// A JSON text that is the same for the same value: no blanks; keys of objects in order, but for those that are
/// listed in an order that means something (servers, systems).
pub(super) fn canonical(value: &Value) -> String {
    fn write(value: &Value, path: &mut Vec<String>, out: &mut String) {
        match value {
            Value::Object(map) => {
                let listed = matches!(
                    path.iter().map(String::as_str).collect::<Vec<_>>()[..],
                    ["servers"] | ["cluster", "system" | "systems"]
                );
                let mut entries: Vec<_> = map.iter().collect();
                if !listed {
                    entries.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (at, (key, value)) in entries.into_iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::from(key.as_str()).to_string());
                    out.push(':');
                    path.push(key.clone());
                    write(value, path, out);
                    path.pop();
                }
                out.push('}');
            }
            Value::Array(list) => {
                out.push('[');
                path.push(String::new());
                for (at, value) in list.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    write(value, path, out);
                }
                path.pop();
                out.push(']');
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                out.push_str(&value.to_string());
            }
        }
    }
    let mut out = String::new();
    write(value, &mut Vec::new(), &mut out);
    out
}
