//! Scripts: found by plain names in one directory, compiled once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlua::StdLib;
use mlua::chunk::Compiler;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::engine::Hook;
use super::{limits, probe, sandbox};

/// What a script is, as its chunk says when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// The body of one hook.
    Body,
    /// It gives functions, by these names.
    Functions(Vec<String>),
}

/// A script that was compiled.
pub struct Script {
    /// The name in the config.
    pub name: String,
    /// The file, as messages name it.
    pub file: String,
    /// Made by our own compiler from text a moment ago: bytecode from anywhere else is not safe to run,
    /// and none is ever read from a file.
    pub(super) bytecode: Vec<u8>,
    /// What it is.
    pub form: Form,
    pub(super) libraries: StdLib,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Script({})", self.file)
    }
}

impl Script {
    /// Compiles a text. `file` names it in messages.
    ///
    /// # Errors
    /// One line for people, with file and line.
    pub fn compile(name: &str, file: &str, text: &[u8]) -> Result<Self, String> {
        if text.len() > limits::SCRIPT {
            return Err(format!("{file}: {} bytes, expected at most {}", text.len(), limits::SCRIPT));
        }
        let text = std::str::from_utf8(text).map_err(|error| {
            let line = text[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("{file}:{line}: not UTF-8; expected the text of a Lua script, never bytecode")
        })?;
        // Lines for messages, and nothing reordered that a debugger would miss.
        let compiler = Compiler::new().set_optimization_level(1).set_debug_level(1);
        let bytecode = compiler.compile(text).map_err(|error| {
            let message = match error {
                mlua::Error::SyntaxError { message, .. } => message,
                other => other.to_string(),
            };
            // It begins with the line.
            format!("{file}:{}", message.lines().next().unwrap_or(" syntax error"))
        })?;
        let libraries = sandbox::libraries(text);
        let form = probe::form(&bytecode, file, libraries);
        Ok(Self { name: name.to_owned(), file: file.to_owned(), bytecode, form, libraries })
    }

    /// Whether it does the same as another: not where only comments or blanks differ that move no line.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.bytecode == other.bytecode && self.form == other.form
    }

    /// What it keeps in memory while no call runs, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.name.capacity() + self.file.capacity() + self.bytecode.capacity()
    }

    /// Whether it has something to run for this hook. A body is a hook where items arrive, leave, or are
    /// checked, whatever it is named for.
    #[must_use]
    pub fn has(&self, hook: Hook) -> bool {
        match &self.form {
            Form::Body => matches!(hook, Hook::Alive | Hook::Down | Hook::Check | Hook::Post),
            Form::Functions(names) => names.iter().any(|name| name == hook.name()),
        }
    }
}

/// The scripts of a config.
#[derive(Clone, Debug, Default)]
pub struct Scripts {
    by_name: BTreeMap<String, Arc<Script>>,
}

impl Scripts {
    /// The script of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Script>> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub fn each(&self) -> impl Iterator<Item = &Arc<Script>> {
        self.by_name.values()
    }

    /// Names of those that are not the same in `other`, or not there.
    #[must_use]
    pub fn changed_in(&self, other: &Self) -> Vec<String> {
        let same = |script: &Script| other.get(&script.name).is_some_and(|other| other.is_same(script));
        self.each().filter(|script| !same(script)).map(|script| script.name.clone()).collect()
    }

    /// Adds a script; it takes the place of one with the same name.
    pub fn add(&mut self, script: Script) {
        self.by_name.insert(script.name.clone(), Arc::new(script));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// True for a name that may be looked for: letters, digits, `.`, `_` and `-`, not hidden.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Looks for `<dir>/<name>.lua` and compiles it. `None` when there is no such file.
///
/// # Errors
/// One line for people when it is there and cannot be used.
pub fn find(dir: &Path, name: &str) -> Result<Option<Script>, String> {
    let path = dir.join(format!("{name}.lua"));
    let file = path.display().to_string();
    if !is_plain(name) {
        return Err(format!(
            "\"{}\" is no plain name; expected letters, digits, `.`, `_` and `-`: scripts are looked for in {} only",
            name.escape_default(),
            dir.display()
        ));
    }
    let text = match read_beneath(dir, name) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) => {
            return Err(format!(
                "{file} is a link that leaves {}; put the script itself there",
                dir.display()
            ));
        }
        Err(error) => return Err(format!("cannot read {file}: {error}")),
    };
    Script::compile(name, &file, &text).map(Some)
}

/// Reads a file that really is in `dir`: the kernel itself follows no link out of it.
fn read_beneath(dir: &Path, name: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, dir_or_here(dir), flags | OFlags::DIRECTORY, Mode::empty())?;
    // Not blocking, so that a FIFO with this name holds up nobody.
    let file = rustix::fs::openat2(
        &dir,
        format!("{name}.lua"),
        flags | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )?;
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = Vec::new();
    file.take(limits::SCRIPT as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn dir_or_here(dir: &Path) -> PathBuf {
    if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names() {
        for name in ["a", "web_up", "web-2.old", "A9"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "a/b", "../a", "/etc/x", "a b", "ä", "a\0"] {
            assert!(!is_plain(name), "{name}");
        }
    }

    #[test]
    fn scripts_are_read_beneath_their_directory_only() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = dir.path().join("scripts");
        std::fs::create_dir(&scripts).unwrap();
        std::fs::write(scripts.join("good.lua"), "return true").unwrap();
        std::fs::write(dir.path().join("outside.lua"), "return true").unwrap();
        std::os::unix::fs::symlink("good.lua", scripts.join("inside.lua")).unwrap();
        std::os::unix::fs::symlink("../outside.lua", scripts.join("leaves.lua")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", scripts.join("absolute.lua")).unwrap();
        std::fs::create_dir(scripts.join("folder.lua")).unwrap();
        rustix::fs::mkfifoat(CWD, scripts.join("fifo.lua"), Mode::RUSR).unwrap();
        assert!(find(&scripts, "good").unwrap().is_some());
        assert!(find(&scripts, "inside").unwrap().is_some(), "a link within the directory");
        assert!(find(&scripts, "none").unwrap().is_none());
        for name in ["leaves", "absolute"] {
            let error = find(&scripts, name).unwrap_err();
            assert!(error.contains("is a link that leaves"), "{error}");
        }
        for name in ["folder", "fifo"] {
            let error = find(&scripts, name).unwrap_err();
            assert!(error.contains("not a regular file"), "{error}");
        }
        let error = find(&scripts, "../outside").unwrap_err();
        assert!(error.contains("is no plain name"), "{error}");
    }

    #[test]
    fn the_form_is_known_before_anything_runs() {
        let form = |text: &str| Script::compile("x", "x.lua", text.as_bytes()).unwrap().form;
        let functions = |names: &[&str]| Form::Functions(names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(form("return { alive = function() end, down = print }"), functions(&["alive", "down"]));
        assert_eq!(form("local M = {} function M.check() end M.n = 5 return M"), functions(&["check"]));
        assert_eq!(
            form("local m = flip.json.decode('[1]') return { down = function() end }"),
            functions(&["down"])
        );
        assert_eq!(form("flip.exec('/bin/true')"), Form::Body);
        assert_eq!(form("return true"), Form::Body);
        assert_eq!(form("error('x')"), Form::Body);
        assert_eq!(form("while true do end"), Form::Body);
        assert_eq!(form("pcall(flip.exec, '/usr/bin/touch', {'/tmp/flip-must-not-exist'})"), Form::Body);
        assert!(!Path::new("/tmp/flip-must-not-exist").exists());
    }

    #[test]
    fn a_syntax_error_names_file_and_line() {
        let error = Script::compile("x", "scripts/x.lua", b"local a = 1\nlocal = 2\n").unwrap_err();
        assert!(error.starts_with("scripts/x.lua:2: "), "{error}");
        let error = Script::compile("x", "scripts/x.lua", b"local a = 1\n\xff").unwrap_err();
        assert!(error.starts_with("scripts/x.lua:2: not UTF-8"), "{error}");
    }
}
