//! Scripts: which names a config wants looked for, and what it says of them. Files are the caller's: it
//! looks for the names that [`script_names`] gives, and tells [`super::load`] what it found.

use jsonc_parser::ast::Value;

use super::problem::Problems;
use super::raw::{self, Fields, Node, clip};
use super::source::{Source, Spanned};
use super::{HANDLERS, bounds};

/// What scripts may use, and which plugins run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LuaConfig {
    /// Memory of one call's state, in MiB (`lua_memory`).
    pub memory_mib: Option<u32>,
    /// Loop turns and calls of one call (`lua_steps`).
    pub steps: Option<u64>,
    /// Whether scripts have the whole standard library (`unsafe_lua`).
    pub unsafe_lua: bool,
    /// Names of the scripts that stay loaded (`plugins`).
    pub plugins: Vec<String>,
}

/// A name that a config gives, and what the caller found under it.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    /// The name.
    pub name: &'a str,
    /// What is there.
    pub found: ScriptFound<'a>,
}

/// What is under a name.
#[derive(Clone, Copy, Debug)]
pub enum ScriptFound<'a> {
    /// The body of one hook, or of a plugin.
    Body,
    /// A script that gives functions, by these names.
    Functions(&'a [String]),
    /// Nothing; where it would be.
    Missing(&'a str),
    /// Something that cannot be used, and why: one line for people.
    Wrong(&'a str),
}

/// What a caller needs to look for scripts before [`super::load`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptNames {
    /// The value of `scripts_dir`; its default is `scripts`. Relative to the config's own folder.
    pub dir: Option<String>,
    /// Names that no native handler has, in the order of the file.
    pub names: Vec<String>,
}

/// The scripts that a config names. What cannot be read is left out here and reported by
/// [`super::load`].
#[must_use]
pub fn script_names(source: &Source) -> ScriptNames {
    if source.text.len() > bounds::FILE {
        return ScriptNames::default();
    }
    names_in(source.text)
}

/// As [`script_names`], of a text of any length.
pub(crate) fn names_in(text: &str) -> ScriptNames {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Ok(Some(root)) = raw::parse(text) else { return ScriptNames::default() };
    let root = Node::root(&root);
    let text_of = |node: Node| node.value.as_string_lit().map(|text| text.value.clone().into_owned());
    let mut names = ScriptNames { dir: root.child("scripts_dir").and_then(text_of), names: Vec::new() };
    let mut add = |name: String| {
        let native = HANDLERS.iter().any(|(alive, down)| *alive == name || *down == name);
        if !native && !names.names.contains(&name) {
            names.names.push(name);
        }
    };
    let cluster = root.child("cluster");
    let systems = cluster.and_then(|cluster| cluster.child("system").or_else(|| cluster.child("systems")));
    if let Some(Value::Object(systems)) = systems.map(|node| node.value) {
        for property in &systems.properties {
            let name = property.name.as_str();
            let system = Node::root(&property.value);
            let given = |key| system.child(key).and_then(text_of);
            add(given("alive").unwrap_or_else(|| format!("{name}_up")));
            add(given("down").unwrap_or_else(|| format!("{name}_down")));
        }
    }
    uses(&root).into_iter().for_each(|used| add(used.name.value));
    if let Some(Value::Array(plugins)) = root.child("plugins").map(|node| node.value) {
        for plugin in &plugins.elements {
            if let Some(name) = text_of(Node::root(plugin)) {
                add(name);
            }
        }
    }
    names
}

/// The keys about scripts, as written.
#[derive(Debug, Default)]
pub(super) struct WrittenLua {
    memory_mib: Option<u64>,
    steps: Option<u64>,
    unsafe_lua: bool,
    plugins: Vec<Spanned<String>>,
}

pub(super) fn read(fields: &Fields, problems: &mut Problems) -> WrittenLua {
    let whole = |key, what, range, problems: &mut Problems| {
        fields.get(key).and_then(|node: &Node| node.whole(what, range, problems)).map(|number| number.value)
    };
    if let Some(node) = fields.get("scripts_dir") {
        // Read by `script_names`; here it is only checked.
        node.text("the path of a directory", problems);
    }
    let unsafe_lua = fields.get("unsafe_lua").is_some_and(|node| match node.value {
        Value::BooleanLit(given) => {
            if given.value {
                problems.warning(
                    &node.at,
                    "scripts have the whole standard library: they can do all that the daemon can, and a \
                     script that does not end is not always stopped",
                    "remove it where the functions of `flip` are enough (docs/lua.md)",
                );
            }
            given.value
        }
        _ => {
            node.refuse("true or false", problems);
            false
        }
    });
    let plugins = fields.get("plugins").and_then(|node| {
        let names = node.elements("an array of names of scripts", problems)?;
        if names.len() > bounds::PLUGINS {
            let message = format!("found {} plugins, expected at most {}", names.len(), bounds::PLUGINS);
            problems.error(&node.at, message);
        }
        Some(names.iter().filter_map(|name| name.text("the name of a script", problems)).collect())
    });
    WrittenLua {
        memory_mib: whole("lua_memory", "a number of MiB", bounds::LUA_MEMORY, problems),
        steps: whole("lua_steps", "a number of steps", bounds::LUA_STEPS, problems),
        unsafe_lua,
        plugins: plugins.unwrap_or_default(),
    }
}

impl WrittenLua {
    pub(super) fn resolve(&self) -> LuaConfig {
        LuaConfig {
            memory_mib: self.memory_mib.and_then(|mib| u32::try_from(mib).ok()),
            steps: self.steps,
            unsafe_lua: self.unsafe_lua,
            plugins: self.plugins.iter().map(|name| name.value.clone()).collect(),
        }
    }
}

/// A script that does one thing beside the hooks of items.
#[derive(Debug)]
pub(super) struct Use {
    name: Spanned<String>,
    /// The function that it must have, if it gives functions.
    function: &'static str,
}

/// Scripts under `post` and in checks of type `lua`.
pub(super) fn uses(root: &Node) -> Vec<Use> {
    let mut uses = Vec::new();
    let Some(systems) = root.child("cluster").and_then(|cluster| cluster.child("system")) else {
        return uses;
    };
    let Value::Object(object) = systems.value else { return uses };
    for property in &object.properties {
        let Some(system) = systems.child(property.name.as_str()) else { continue };
        push(&mut uses, system.child("post"), "post");
        push_checks(&mut uses, &system);
        let data = system.child("data");
        let Some((data, Value::Array(items))) = data.as_ref().map(|data| (data, data.value)) else {
            continue;
        };
        for item in (0..items.elements.len()).filter_map(|at| data.child(&at.to_string())) {
            push_checks(&mut uses, &item);
        }
    }
    uses
}

fn push_checks(uses: &mut Vec<Use>, of: &Node) {
    let Some(checks) = of.child("checks") else { return };
    let Value::Array(elements) = checks.value else { return };
    for check in (0..elements.elements.len()).filter_map(|at| checks.child(&at.to_string())) {
        let is_lua = |node: &Node| node.value.as_string_lit().is_some_and(|text| text.value == "lua");
        if check.child("type").as_ref().is_some_and(is_lua) {
            push(uses, check.child("script"), "check");
        }
    }
}

fn push(uses: &mut Vec<Use>, node: Option<Node>, function: &'static str) {
    let Some(node) = node else { return };
    if let Some(text) = node.value.as_string_lit() {
        uses.push(Use { name: node.spanned(text.value.clone().into_owned()), function });
    }
}

/// Every script must be there, and have what it is called for.
pub(super) fn check_uses(uses: &[Use], scripts: &[Script], problems: &mut Problems) {
    for Use { name, function } in uses {
        match find(&name.value, scripts) {
            Some(ScriptFound::Body) => {}
            Some(ScriptFound::Functions(functions)) if functions.iter().any(|given| given == function) => {}
            Some(ScriptFound::Functions(functions)) => {
                let message = format!(
                    "script \"{}\" gives {}, expected a function `{function}`",
                    clip(&name.value),
                    raw::list(functions.iter().map(String::as_str)),
                );
                problems.error(&name.at, message);
            }
            other => refuse(name, other, problems),
        }
    }
}

fn refuse(name: &Spanned<String>, found: Option<ScriptFound>, problems: &mut Problems) {
    match found {
        Some(ScriptFound::Wrong(why)) => problems.error(&name.at, why.to_owned()),
        Some(ScriptFound::Missing(path)) => problems.error(
            &name.at,
            format!("found \"{}\", expected the name of a script; there is no {path}", clip(&name.value)),
        ),
        Some(ScriptFound::Body | ScriptFound::Functions(_)) | None => {
            problems
                .error(&name.at, format!("found \"{}\", expected the name of a script", clip(&name.value)));
        }
    }
}

/// What was found under a name.
pub(super) fn find<'s>(name: &str, scripts: &[Script<'s>]) -> Option<ScriptFound<'s>> {
    scripts.iter().find(|script| script.name == name).map(|script| script.found)
}

/// Every plugin must be there.
pub(super) fn check_plugins(lua: &WrittenLua, scripts: &[Script], problems: &mut Problems) {
    for (at, name) in lua.plugins.iter().enumerate() {
        if lua.plugins[..at].iter().any(|other| other.value == name.value) {
            let message = format!("plugin \"{}\" is named twice", clip(&name.value));
            problems.error_help(&name.at, message, "remove one of the two");
            continue;
        }
        match find(&name.value, scripts) {
            Some(ScriptFound::Body | ScriptFound::Functions(_)) => {}
            other => refuse(name, other, problems),
        }
    }
}
