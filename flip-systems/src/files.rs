//! A config as it lies on a host: the file, the key file that it names, and its scripts beside it.

use std::fmt;
use std::path::{Path, PathBuf};

use flip_core::catalog::{self, Catalog, File, Known, Local};
use flip_core::config::{
    self, Config, Overrides, Problem, Script, ScriptFound, ScriptNames, Severity, Source,
};

use serde_json::{Map, Value};

use crate::Registry;
use crate::lua::Scripts;
use crate::lua::script::{self, Form};

/// Where scripts are unless `scripts_dir` says otherwise.
const DIR: &str = "scripts";
/// What is read of a key file at most: the rules refuse what is longer than a key.
const KEY: u64 = 64 * 1024;
/// Stands for the key where only scripts are looked at.
const SOME_KEY: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A config that was read, with what there is to say about it.
#[derive(Debug)]
pub struct Read {
    /// The config.
    pub config: Config,
    /// What will surprise somebody, in the order of the file.
    pub warnings: Vec<Problem>,
    /// The scripts that it names, compiled.
    pub scripts: Scripts,
    /// What was found under the names that it gives.
    pub known: Vec<Known>,
    /// What it says to the whole cluster.
    pub file: File,
    /// What it says to this server alone.
    pub local: Local,
    /// What it was read from.
    pub files: Files,
    /// Where the file is that of a server that joins a cluster: its entry there. The config is that of a cluster
    /// of this server alone then.
    pub joining: Option<Map<String, Value>>,
}

/// Why a config could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// A file could not be read: for people.
    File(String),
    /// What is wrong with the config, each with its place, and what else will surprise somebody.
    Config(Vec<Problem>),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(why) => f.write_str(why),
            Self::Config(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                f.write_str(&problems.join("\n\n"))
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// The files of a config that was read: its text as it was then, and where the rest is.
#[derive(Clone)]
pub struct Files {
    path: PathBuf,
    text: String,
    id: Option<String>,
    host_name: String,
    names: ScriptNames,
    /// What the program's own handlers are called.
    native: Vec<String>,
}

/// Without the text, in which the cluster's key may be.
impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads a config that may name the systems of `registry`. `id` is the server that this is; without it, the
/// config's `id` counts, else the name of this host.
///
/// # Errors
/// When a file cannot be read, or the config cannot be used.
pub fn read(path: &Path, id: Option<&str>, registry: &Registry) -> Result<Read, ReadError> {
    let text = read_text(path).map_err(ReadError::File)?;
    let native: Vec<_> = registry.known().map(str::to_owned).collect();
    let names = names(&Source { file: "", text: &text }, &native);
    let files = Files {
        path: path.to_owned(),
        id: id.map(str::to_owned),
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        names,
        native,
        text,
    };
    let key_file = match config::key_file_path(&files.source(&files.file())) {
        Some(path) => Some(read_key(&files.beside(&path)).map_err(ReadError::File)?),
        None => None,
    };
    let key = key_file.as_ref().map(|(content, _)| content.as_slice());
    let Loaded { config, mut warnings, joining, scripts, known, parts: (file, local) } =
        files.load(key).map_err(ReadError::Config)?;
    if let Some((_, Some(message))) = &key_file {
        let help = "chmod 600 the file: whoever reads it can forge messages of this cluster";
        let source = files.file();
        let source = files.source(&source);
        warnings.push(Problem::at(&source, Severity::Warning, &["key_file"], message, Some(help)));
    }
    Ok(Read { config, warnings, scripts, known, file, local, files, joining })
}

/// The scripts that a config names, but for those that are native.
fn names(source: &Source<'_>, native: &[String]) -> ScriptNames {
    let mut names = config::script_names(source);
    names.names.retain(|name| !native.contains(name));
    names
}

impl Files {
    /// The config's file, as messages name it.
    #[must_use]
    pub fn file(&self) -> String {
        self.path.display().to_string()
    }

    /// The text as it was read, for whoever wants to point at it; `file` from [`Files::file`].
    #[must_use]
    pub fn source<'s>(&'s self, file: &'s str) -> Source<'s> {
        Source { file, text: &self.text }
    }

    /// Reads the config and its scripts again, compiles them, and looks whether they fit together.
    ///
    /// # Errors
    /// All that is wrong with them: one line for each, with file and line.
    pub fn again(&self) -> Result<Again, Vec<String>> {
        let text = read_text(&self.path).map_err(|why| vec![why])?;
        let mut names = names(&Source { file: "", text: &text }, &self.native);
        if config::is_joining(&text) {
            // The systems are the cluster's.
            let more = self.names.names.iter().filter(|name| !names.names.contains(name)).cloned();
            names.names.extend(more.collect::<Vec<_>>());
        }
        let files = Self { text, names, ..self.clone() };
        match files.load(Some(SOME_KEY)) {
            Ok(Loaded { scripts, known, .. }) => Ok(Again { text: files.text, scripts, known }),
            Err(problems) => Err(lines(problems)),
        }
    }

    /// Of a server that joined: reads the scripts that the cluster's catalog names, and what was found goes into
    /// `local`.
    ///
    /// # Errors
    /// As [`Files::again`].
    pub fn with_catalog(&mut self, catalog: &Catalog, local: &mut Local) -> Result<Scripts, Vec<String>> {
        self.names = catalog::script_names(catalog, local);
        self.names.names.retain(|name| !self.native.contains(name));
        let Loaded { scripts, known, .. } = self.load(Some(SOME_KEY)).map_err(lines)?;
        *local = local.clone().with_scripts(known);
        Ok(scripts)
    }

    /// What the config's file said when it was read.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A relative path in the config is meant from the config's own folder.
    fn beside(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn load(&self, key_file: Option<&[u8]>) -> Result<Loaded, Vec<Problem>> {
        let file = self.file();
        let dir = self.beside(self.names.dir.as_deref().unwrap_or(DIR));
        let mut scripts = Scripts::default();
        let found: Vec<_> =
            self.names.names.iter().map(|name| (name.as_str(), find(&dir, name, &mut scripts))).collect();
        let native = self.native.iter().map(|name| Script { name, found: ScriptFound::Body });
        let told = found.iter().map(|(name, found)| Script { name, found: found.told() });
        let told: Vec<_> = native.chain(told).collect();
        let source = self.source(&file);
        let overrides = Overrides {
            id: self.id.as_deref(),
            host_name: Some(&self.host_name),
            // What is not asked for is refused.
            key_file: key_file.filter(|_| config::key_file_path(&source).is_some()),
            scripts: &told,
        };
        let (config, warnings, joining) = if config::is_joining(source.text) {
            let config::Joining { config, entry, warnings } = config::load_joining(&source, &overrides)?;
            (config, warnings, Some(entry))
        } else {
            let config::Loaded { config, warnings } = config::load(&source, &overrides)?;
            (config, warnings, None)
        };
        let parts = catalog::open(source.text, &config, &told);
        let known = told.iter().map(Known::of).collect();
        Ok(Loaded { config, warnings, joining, scripts, known, parts })
    }
}

/// What a config's file comes to.
struct Loaded {
    config: Config,
    warnings: Vec<Problem>,
    joining: Option<Map<String, Value>>,
    scripts: Scripts,
    known: Vec<Known>,
    /// What it says to the cluster, and to this server.
    parts: (File, Local),
}

/// What files say when they are read again.
#[derive(Debug)]
pub struct Again {
    /// The config's text.
    pub text: String,
    /// The scripts that it names, compiled.
    pub scripts: Scripts,
    /// What was found under those names.
    pub known: Vec<Known>,
}

/// Errors as one line each.
fn lines(problems: Vec<Problem>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut messages = Vec::new();
    for problem in problems.into_iter().filter(|problem| problem.severity == Severity::Error) {
        // A script that stands in several places is named once.
        if messages.contains(&problem.message) {
            continue;
        }
        let Problem { file, line, column, message, help, .. } = problem;
        let help = help.map(|help| format!(" ({help})")).unwrap_or_default();
        lines.push(format!("{file}:{line}:{column}: {message}{help}"));
        messages.push(message);
    }
    lines
}

/// What was found under the name of a script.
enum Found {
    Body,
    Functions(Vec<String>),
    Missing(String),
    Wrong(String),
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

fn read_text(path: &Path) -> Result<String, String> {
    let file = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read the config {file}: {error}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{file}:{line}: byte {at} is not UTF-8; save the file as UTF-8")
    })
}

/// The content of the key file, and what is wrong with its permissions.
fn read_key(path: &Path) -> Result<(Vec<u8>, Option<String>), String> {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    let refused = |error| {
        let path = path.display();
        format!("cannot read the key file {path}: {error}\n  help: `flip keygen > {path}` makes one")
    };
    let file = std::fs::File::open(path).map_err(refused)?;
    let mode = file.metadata().map_err(refused)?.permissions().mode();
    let mut content = Vec::new();
    file.take(KEY).read_to_end(&mut content).map_err(refused)?;
    let open = (mode & 0o044 != 0).then(|| {
        format!("the key file {} can be read by others (mode {:03o})", path.display(), mode & 0o777)
    });
    Ok((content, open))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    const CONFIG: &str = r#"{
        "key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "servers": {"a": {"ip": "127.0.0.1", "systems": ["job", "s"]}},
        "cluster": {"system": {
            "job": {"data": ["x"], "post": "told"},
            "s": {"alive": "s", "down": "s", "data": ["y"]}
        }}
    }"#;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        registry.register_tasks("job", |_| std::future::pending());
        registry.register_post("told", |_: &config::System, _: &flip_core::PostCall| {
            Box::pin(std::future::ready(Ok(()))) as crate::system::HookFuture
        });
        registry
    }

    #[test]
    fn a_file_may_name_what_the_program_registered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        std::fs::write(&path, CONFIG).unwrap();
        std::fs::create_dir(dir.path().join("scripts")).unwrap();
        std::fs::write(dir.path().join("scripts/s.lua"), "return {alive = print, down = print}").unwrap();
        let read = super::read(&path, Some("a"), &registry()).unwrap();
        assert_eq!((read.config.systems[0].alive.as_str(), read.scripts.len()), ("job_up", 1));
        // Without them the names mean nothing.
        let mut other = Registry::default();
        other.register(Memory::default());
        let error = super::read(&path, Some("a"), &other).unwrap_err().to_string();
        assert!(error.contains("job_up") && error.contains("\"told\""), "{error}");
    }

    #[test]
    fn scripts_are_read_again_and_the_file_is_compared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        let key = dir.path().join("key");
        std::fs::write(&key, SOME_KEY).unwrap();
        let text = CONFIG.replace(r#""key": "#, r#""key_file": "key", "cluster_id": "#);
        let text = text.replace(std::str::from_utf8(SOME_KEY).unwrap(), "c");
        std::fs::write(&path, &text).unwrap();
        std::fs::create_dir(dir.path().join("scripts")).unwrap();
        let script = dir.path().join("scripts/s.lua");
        std::fs::write(&script, "return {alive = print, down = print}").unwrap();
        let read = super::read(&path, Some("a"), &registry()).unwrap();
        let again = read.files.again().unwrap().scripts;
        assert!(read.scripts.changed_in(&again).is_empty());
        std::fs::write(&script, "return {alive = print, down = function() end}").unwrap();
        assert_eq!(read.scripts.changed_in(&read.files.again().unwrap().scripts), ["s"]);
        std::fs::write(&script, "return {\nalive = print, down =").unwrap();
        let why = read.files.again().unwrap_err();
        assert!(why.len() == 1 && why[0].contains("scripts/s.lua:2: "), "{why:?}");
        std::fs::write(&script, "return {alive = print}").unwrap();
        let why = read.files.again().unwrap_err();
        assert!(why.len() == 1 && why[0].contains("has no function `down`"), "{why:?}");
        std::fs::remove_file(&script).unwrap();
        let why = read.files.again().unwrap_err();
        assert!(why.iter().any(|why| why.contains("scripts/s.lua")), "{why:?}");

        std::fs::write(&script, "return {alive = print, down = print}").unwrap();
        assert_eq!(read.files.again().unwrap().text, read.files.text());
        std::fs::write(&path, text + "\n").unwrap();
        assert_ne!(read.files.again().unwrap().text, read.files.text());
        std::fs::write(&path, "{").unwrap();
        assert!(read.files.again().unwrap_err()[0].contains("cluster.json:1:"));
        std::fs::remove_file(&path).unwrap();
        assert!(read.files.again().unwrap_err()[0].contains("cannot read the config"));
    }
}
