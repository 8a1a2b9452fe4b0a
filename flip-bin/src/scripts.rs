//! Looks for the scripts that a config names, and compiles them.

use std::path::{Path, PathBuf};

use flip_core::config::{Script, ScriptFound, ScriptNames};
use flip_systems::lua::Scripts;
use flip_systems::lua::script::{self, Form};

/// Where scripts are unless `scripts_dir` says otherwise.
const DIR: &str = "scripts";

/// What was found under each name.
pub struct Looked {
    found: Vec<(String, Found)>,
    /// Those that can be used.
    pub scripts: Scripts,
}

enum Found {
    Body,
    Functions(Vec<String>),
    Missing(String),
    Wrong(String),
}

/// Looks for all of them. `beside` makes a path of the config one of this process.
pub fn look(names: &ScriptNames, beside: impl Fn(&str) -> PathBuf) -> Looked {
    let dir = beside(names.dir.as_deref().unwrap_or(DIR));
    let mut looked = Looked { found: Vec::new(), scripts: Scripts::default() };
    for name in &names.names {
        let found = find(&dir, name, &mut looked.scripts);
        looked.found.push((name.clone(), found));
    }
    looked
}

fn find(dir: &Path, name: &str, scripts: &mut Scripts) -> Found {
    match script::find(dir, name) {
        Ok(None) => Found::Missing(dir.join(format!("{name}.lua")).display().to_string()),
        Err(why) => Found::Wrong(why),
        Ok(Some(script)) => {
            let found = match &script.form {
                Form::Body => Found::Body,
                Form::Functions(names) => Found::Functions(names.clone()),
            };
            scripts.add(script);
            found
        }
    }
}

impl Looked {
    /// As `config::Overrides` has them.
    pub fn told(&self) -> Vec<Script<'_>> {
        self.found.iter().map(|(name, found)| Script { name, found: found.told() }).collect()
    }
}

impl Found {
    fn told(&self) -> ScriptFound<'_> {
        match self {
            Self::Body => ScriptFound::Body,
            Self::Functions(names) => ScriptFound::Functions(names),
            Self::Missing(path) => ScriptFound::Missing(path),
            Self::Wrong(why) => ScriptFound::Wrong(why),
        }
    }
}
