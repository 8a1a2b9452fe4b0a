//! From the catalog and what a server's own file says to itself, to one text that is read as every config file is:
//! all that is checked there is checked here, in the same words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::entry::{Key, Stamp};
use super::file::Local;
use super::store::Catalog;
use crate::config::{self, Config, Overrides, Problem, ScriptNames, Severity, Source};

/// The entries that count, in listed order: those of the file, then what was added, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Effective {
    pub cluster: Arc<str>,
    pub servers: Vec<(String, Arc<str>)>,
    pub systems: Vec<System>,
    /// By system and item, the id of the server that is its home.
    pub homes: BTreeMap<(String, String), Arc<str>>,
}

/// A system that counts.
#[derive(Clone, Debug)]
pub(super) struct System {
    pub name: String,
    pub value: Arc<str>,
    pub items: Vec<(String, Arc<str>)>,
    /// When those items were added that no file has, which come last.
    pub born: Vec<Stamp>,
}

impl Catalog {
    /// What the file and everything after it come to.
    pub(super) fn effective(&self) -> Effective {
        let parts = &self.file().parts;
        let over = |key: &Key, value: &Arc<str>| match self.active(key) {
            Some(record) if record.value.is_some() => record.value.clone(),
            // What an API removed that no file had does not hide what a later file has.
            Some(record) if record.bound.is_some() => None,
            Some(_) | None => Some(Arc::clone(value)),
        };
        let mut effective = Effective {
            cluster: over(&Key::Cluster, &parts.cluster).unwrap_or_default(),
            ..Effective::default()
        };
        for (id, value) in &parts.servers {
            let key = Key::Server(id.clone());
            effective.servers.extend(over(&key, value).map(|value| (id.clone(), value)));
        }
        for system in &parts.systems {
            let key = Key::System(system.name.clone());
            if let Some(value) = over(&key, &system.value) {
                let items = system.items.iter().filter_map(|(item, value)| {
                    let key = Key::Item(system.name.clone(), item.clone());
                    let value = if self.is_empty() { Some(Arc::clone(value)) } else { over(&key, value) };
                    Some((item.clone(), value?))
                });
                let (name, items) = (system.name.clone(), items.collect());
                effective.systems.push(System { name, value, items, born: Vec::new() });
            }
        }
        self.add_later(&mut effective);
        effective
    }

    /// What no file has.
    fn add_later(&self, effective: &mut Effective) {
        let mut added: Vec<(Stamp, &Key, &Arc<str>)> = Vec::new();
        for (key, record) in self.records() {
            let Some(value) = record.value.as_ref().filter(|_| self.active(key).is_some()) else { continue };
            if let Key::Home(system, item) = key {
                effective.homes.insert((system.clone(), item.clone()), Arc::clone(value));
            } else if *key != Key::Cluster && !self.file().parts.all.contains_key(key) {
                added.push((record.born, key, value));
            }
        }
        added.sort_unstable();
        for (_, key, value) in &added {
            match key {
                Key::Server(id) => effective.servers.push((id.clone(), Arc::clone(value))),
                Key::System(name) => effective.systems.push(System {
                    name: name.clone(),
                    value: Arc::clone(value),
                    items: Vec::new(),
                    born: Vec::new(),
                }),
                Key::Cluster | Key::Item(..) | Key::Home(..) => {}
            }
        }
        let positions: BTreeMap<String, usize> =
            effective.systems.iter().enumerate().map(|(at, system)| (system.name.clone(), at)).collect();
        for (born, key, value) in added {
            // Items of a system that somebody else removed meanwhile are nowhere.
            if let Key::Item(system, item) = key
                && let Some(at) = positions.get(system)
            {
                let system = &mut effective.systems[*at];
                system.items.push((item.clone(), Arc::clone(value)));
                system.born.push(born);
            }
        }
    }
}

/// The text of a config, one entry in a line, and which line is which entry.
struct Document {
    text: String,
    lines: Vec<Option<Key>>,
}

impl Document {
    fn line(&mut self, text: &str, key: Option<Key>) {
        self.text.push_str(text);
        self.text.push('\n');
        self.lines.push(key);
    }

    fn of(effective: &Effective, local: &Local) -> Self {
        let mut document = Self { text: String::new(), lines: Vec::new() };
        document.line("{", None);
        let mut cluster = Map::new();
        let parsed = serde_json::from_str(&effective.cluster).unwrap_or(Value::Null);
        if let Value::Object(settings) = parsed {
            for (name, value) in settings {
                if name == "cluster" {
                    cluster = value.as_object().cloned().unwrap_or_default();
                } else if !local.top.contains_key(&name) {
                    document.line(&format!("{}:{value},", Value::from(name)), Some(Key::Cluster));
                }
            }
        }
        for (name, value) in &local.top {
            document.line(&format!("{}:{value},", Value::from(name.as_str())), None);
        }
        document.line("\"servers\":{", None);
        for (id, value) in &effective.servers {
            let value =
                if *id == local.id { own(value, local) } else { None }.unwrap_or_else(|| value.to_string());
            document.line(&format!("{}:{value},", Value::from(id.as_str())), Some(Key::Server(id.clone())));
        }
        document.line("},\"cluster\":{", None);
        for (name, value) in cluster {
            document.line(&format!("{}:{value},", Value::from(name)), Some(Key::Cluster));
        }
        document.line("\"system\":{", None);
        for system in &effective.systems {
            document.system(system);
        }
        document.line("}}}", None);
        document
    }

    fn system(&mut self, system: &System) {
        let key = Some(Key::System(system.name.clone()));
        let settings = system.value.strip_suffix('}').unwrap_or("{");
        let comma = if settings.ends_with('{') { "" } else { "," };
        let mut line = String::new();
        let _infallible = write!(line, "{}:{settings}{comma}\"data\":[", Value::from(system.name.as_str()));
        self.line(&line, key);
        for (item, value) in &system.items {
            self.text.push_str(value);
            self.line(",", Some(Key::Item(system.name.clone(), item.clone())));
        }
        self.line("]},", None);
    }
}

/// A server's own entry with the interface of its own file.
fn own(value: &str, local: &Local) -> Option<String> {
    let interface = local.interface.clone()?;
    let mut server: Value = serde_json::from_str(value).ok()?;
    let config = server.as_object_mut()?.entry("config").or_insert_with(|| Value::Object(Map::new()));
    config.as_object_mut()?.insert("interface".into(), interface);
    Some(server.to_string())
}

/// Why a catalog makes no config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<String>);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Invalid {}

/// The config that a catalog means on one server. Where it does not name that server any more, `Config::me` is past
/// the end of the servers.
///
/// # Errors
/// All that is wrong with it, each with the entry in which it is.
pub fn config(catalog: &Catalog, local: &Local) -> Result<Config, Invalid> {
    of(&catalog.effective(), local).map(|(config, _)| config)
}

/// The scripts that a catalog and this server's own file name.
#[must_use]
pub fn script_names(catalog: &Catalog, local: &Local) -> ScriptNames {
    config::names_in(&Document::of(&catalog.effective(), local).text)
}

/// The config, and how long its text is.
pub(super) fn of(effective: &Effective, local: &Local) -> Result<(Config, usize), Invalid> {
    let document = Document::of(effective, local);
    let source = Source { file: "catalog", text: &document.text };
    let scripts = local.scripts();
    let named = effective.servers.iter().any(|(id, _)| *id == local.id);
    let first = effective.servers.first().map_or(&local.id, |(id, _)| id);
    let id = if named { &local.id } else { first };
    let overrides = Overrides { id: Some(id), scripts: &scripts, ..Overrides::default() };
    match config::load_with_key(&source, &overrides, &local.key) {
        Ok(loaded) => {
            let mut config = loaded.config;
            if !named {
                config.me = config.servers.len();
            }
            set_homes(&mut config, &effective.homes);
            Ok((config, document.text.len()))
        }
        Err(problems) => Err(Invalid(say(&problems, &document.lines))),
    }
}

/// Puts every home in place whose server is one of the system's.
fn set_homes(config: &mut Config, homes: &BTreeMap<(String, String), Arc<str>>) {
    if homes.is_empty() {
        return;
    }
    let positions: BTreeMap<String, usize> =
        config.servers.iter().enumerate().map(|(at, server)| (server.id.clone(), at)).collect();
    let memberships: Vec<Vec<usize>> = config.servers.iter().map(|server| server.systems.clone()).collect();
    for (index, system) in config.systems.iter_mut().enumerate() {
        for item in &mut system.items {
            let Some(home) = homes.get(&(system.name.clone(), item.name.clone())) else { continue };
            let home = positions.get(&**home).copied();
            item.home = home.filter(|home| memberships[*home].contains(&index));
        }
    }
}

/// Errors as one line each, with the entry instead of a line of a text that nobody sees.
fn say(problems: &[Problem], lines: &[Option<Key>]) -> Vec<String> {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    errors
        .map(|problem| {
            let place = match lines.get(problem.line.saturating_sub(1)) {
                Some(Some(key)) => key.to_string(),
                Some(None) | None if problem.path.is_empty() => "catalog".into(),
                Some(None) | None => problem.path.clone(),
            };
            match &problem.help {
                Some(help) => format!("{place}: {} ({help})", problem.message),
                None => format!("{place}: {}", problem.message),
            }
        })
        .collect()
}
