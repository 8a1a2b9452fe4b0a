//! What is wrong with a config, told so that a person at 3 a.m. knows what to do next.

use std::fmt;

use super::raw::{self, Node};
use super::source::{At, Source, Span, Text};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The config cannot be used.
    Error,
    /// The config can be used, and will surprise somebody.
    Warning,
}

/// One thing that is wrong with a config, and where. `Display` renders it over several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the file.
    pub file: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// Column in the line, from 1, in characters.
    pub column: usize,
    /// Key path like `servers.flip1.port`; empty when the whole file is meant.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line of the file without its end; secrets are shown as `*`, and of a very long line only
    /// the part around the place.
    pub excerpt: String,
    /// How many characters of `excerpt` stand before the place: `column - 1` unless the line is cut.
    pub caret: usize,
    /// How many characters of `excerpt` are meant, at least 1.
    pub width: usize,
}

impl Problem {
    /// A problem that something outside this crate found with the value at a key path of the file, for
    /// instance an interface that does not exist: `&["cluster", "system", "ip", "config", "interface"]`.
    /// Where the path ends early, the place is that of its last known part.
    #[must_use]
    pub fn at(source: &Source, severity: Severity, path: &[&str], message: &str, help: Option<&str>) -> Self {
        let mut text = Text::new(source);
        let parsed = raw::parse(text.text());
        let mut at = At { span: Span::new(0, 1), path: String::new() };
        if parsed.is_err() {
            text.hide_by_looks();
        }
        if let Ok(Some(root)) = &parsed {
            text.hide(raw::secrets(root));
            let mut node = Node::root(root);
            for key in path {
                match node.child(key) {
                    Some(child) => node = child,
                    None => break,
                }
            }
            at = node.at;
        }
        at.path = path.join(".");
        text.problem(severity, &at, message, help.map(str::to_owned))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}: {}", self.message)?;
        write!(f, " --> {}:{}:{}", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, " (key {})", self.path)?;
        }
        // Tabs stay tabs, so that the marks stand below what they mean at every tab width.
        let indent: String =
            self.excerpt.chars().take(self.caret).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let line = format!("  | {}", self.excerpt);
        write!(f, "\n{}\n  | {indent}{}", line.trim_end(), "^".repeat(self.width))?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// Collects the problems of one file; after many it only counts.
pub(super) struct Problems<'a> {
    pub text: Text<'a>,
    errors: Kept,
    warnings: Kept,
}

/// Problems of one severity with their place in the text.
#[derive(Default)]
struct Kept {
    list: Vec<(usize, Problem)>,
    more: usize,
}

/// How many errors, and how many warnings, are reported one by one.
const SHOWN: usize = 100;

impl<'a> Problems<'a> {
    pub(super) fn new(source: &Source<'a>) -> Self {
        Self { text: Text::new(source), errors: Kept::default(), warnings: Kept::default() }
    }

    pub(super) fn error(&mut self, at: &At, message: impl Into<String>) {
        self.add(Severity::Error, at, message, None);
    }

    pub(super) fn error_help(&mut self, at: &At, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, at, message, Some(help.into()));
    }

    pub(super) fn warning(&mut self, at: &At, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Warning, at, message, Some(help.into()));
    }

    pub(super) fn any_error(&self) -> bool {
        !self.errors.list.is_empty()
    }

    fn add(&mut self, severity: Severity, at: &At, message: impl Into<String>, help: Option<String>) {
        let kept = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if kept.list.len() == SHOWN {
            kept.more += 1;
            return;
        }
        let problem = self.text.problem(severity, at, message, help);
        kept.list.push((at.span.start, problem));
    }

    /// All problems in the order of the file, and whether one of them is an error.
    pub(super) fn finish(self) -> (Vec<Problem>, bool) {
        let failed = self.any_error();
        let mut all: Vec<(usize, Problem)> = Vec::new();
        for (kept, what) in [(self.errors, "errors"), (self.warnings, "warnings")] {
            let Kept { mut list, more } = kept;
            if let (Some((offset, last)), true) = (list.last(), more > 0) {
                let message = format!("{more} more {what} are not shown");
                list.push((*offset, Problem { message, help: None, ..last.clone() }));
            }
            all.extend(list);
        }
        all.sort_by_key(|(offset, _)| *offset);
        (all.into_iter().map(|(_, problem)| problem).collect(), failed)
    }
}
