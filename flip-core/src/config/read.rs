//! From the text of a file to the working types, or to everything that is wrong with it.

use super::problem::{Problem, Problems};
use super::raw::{self, Node};
use super::resolve::{self, Secrets};
use super::scripts::Script;
use super::source::{At, Source, Span};
use super::{ClusterKey, Config, bounds, key, syntax, written};

/// What the config does not say itself. Reading files and asking the host is the caller's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides<'a> {
    /// The id on the command line: stronger than the key `id`. Default: the key.
    pub id: Option<&'a str>,
    /// The name of this host: where there is no id, it or its first label must be a server's id.
    pub host_name: Option<&'a str>,
    /// The content of the file that [`key_file_path`] names; blanks around the key do not matter.
    pub key_file: Option<&'a [u8]>,
    /// What was found under the names that [`super::script_names`] gives.
    pub scripts: &'a [Script<'a>],
}

/// A config that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The config.
    pub config: Config,
    /// What will surprise somebody, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// What `key_file` says, so that the caller can read that file before [`load`]. `None` when the key is
/// not there or cannot be read, which [`load`] then reports.
#[must_use]
pub fn key_file_path(source: &Source) -> Option<String> {
    if source.text.len() > bounds::FILE {
        return None;
    }
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(source.text);
    let root = raw::parse(text).ok()??;
    let node = Node::root(&root).child("key_file")?;
    node.value.as_string_lit().map(|path| path.value.clone().into_owned())
}

/// Whether the file has a value at this key path, for callers that want to point at it with
/// [`Problem::at`].
#[must_use]
pub fn has_key(source: &Source, path: &[&str]) -> bool {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(source.text);
    let Ok(Some(root)) = raw::parse(text) else { return false };
    path.iter().try_fold(Node::root(&root), |node, key| node.child(key)).is_some()
}

/// Reads a config.
///
/// # Errors
/// All that is wrong with the file, in its order: at least one error, and the warnings. Of a file that
/// is not JSON, the first place where it is not.
pub fn load(source: &Source, overrides: &Overrides) -> Result<Loaded, Vec<Problem>> {
    load_with(source, overrides, Secrets::Derive(key::derive))
}

/// Reads a text whose key is known already: none of its words about a key counts. The text may be longer than a
/// file: a catalog makes it.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_with_key(
    source: &Source,
    overrides: &Overrides,
    key: &ClusterKey,
) -> Result<Loaded, Vec<Problem>> {
    load_with(source, overrides, Secrets::Known(key))
}

/// A text as JSON, if it is some; of a key that is there twice, the first.
pub(crate) fn to_json(text: &str) -> Option<serde_json::Value> {
    let source = Source { file: "", text: text.strip_prefix('\u{feff}').unwrap_or(text) };
    let root = raw::parse(source.text).ok()??;
    Node::root(&root).json(&mut Problems::new(&source))
}

/// What an entry of `data` is called, from its JSON text; none when it cannot be one.
pub(crate) fn item_name(text: &str, is_ip: bool) -> Option<String> {
    let source = Source { file: "", text };
    let root = raw::parse(text).ok()??;
    written::item_name(&Node::root(&root), is_ip, &mut Problems::new(&source))
}

pub(super) fn load_with(
    source: &Source,
    overrides: &Overrides,
    secrets: Secrets<'_>,
) -> Result<Loaded, Vec<Problem>> {
    let read = |root: &Node, problems: &mut Problems| {
        let written = written::read(root, problems)?;
        resolve::resolve(&written, overrides, secrets, problems)
    };
    let longest = match secrets {
        Secrets::Derive(_) => bounds::FILE,
        Secrets::Known(_) => bounds::DOCUMENT,
    };
    let (config, warnings) = read_source(source, longest, "servers", read)?;
    Ok(Loaded { config, warnings })
}

/// Reads a text as `read` understands its root value, with what there is to warn of.
pub(super) fn read_source<T>(
    source: &Source,
    longest: usize,
    needs: &str,
    read: impl FnOnce(&Node, &mut Problems) -> Option<T>,
) -> Result<(T, Vec<Problem>), Vec<Problem>> {
    let mut problems = Problems::new(source);
    let read = read_root(longest, needs, &mut problems, read);
    let (problems, failed) = problems.finish();
    match read {
        Some(read) if !failed => Ok((read, problems)),
        Some(_) | None => Err(problems),
    }
}

fn read_root<T>(
    longest: usize,
    needs: &str,
    problems: &mut Problems,
    read: impl FnOnce(&Node, &mut Problems) -> Option<T>,
) -> Option<T> {
    let text = problems.text.text();
    let start = At { span: Span::new(0, 1), path: String::new() };
    if text.len() > longest {
        let mib = longest >> 20;
        let message = format!("the file has {} bytes, expected at most {longest} ({mib} MiB)", text.len());
        problems.error_help(&start, message, "is this really a config of flip?");
        return None;
    }
    let root = match raw::parse(text) {
        Ok(Some(root)) => root,
        Ok(None) => {
            let message = format!("found nothing in the file, expected an object with the key `{needs}`");
            let help = match needs {
                "servers" => "write at least {\"servers\": {\"web1\": {\"ip\": \"10.0.0.1\"}}}",
                _ => "write at least {\"id\": \"web1\", \"bind\": \"10.0.0.1\"}",
            };
            problems.error_help(&start, message, help);
            return None;
        }
        Err(error) => {
            problems.text.hide_by_looks();
            syntax::report(&error, problems);
            return None;
        }
    };
    read(&Node::root(&root), problems)
}
