//! Places in a config file: from byte offsets to lines, columns and an excerpt that hides secrets.

use super::nearest;
use super::problem::{Problem, Severity};

/// A config file that somebody has read.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its name, for messages only.
    pub file: &'a str,
    /// Its content.
    pub text: &'a str,
}

/// A byte range of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub(super) const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

/// A place that a message can point at.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub span: Span,
    /// Key path, empty for the whole file.
    pub path: String,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub value: T,
    pub at: At,
}

/// Characters of a line that an excerpt shows at most.
const EXCERPT: usize = 120;
/// Characters that an excerpt of a longer line shows before the marked place.
const BEFORE: usize = 60;

/// The text with what is needed to find lines in it and to keep secrets out of messages.
pub(super) struct Text<'a> {
    file: &'a str,
    text: &'a str,
    line_starts: Vec<usize>,
    secrets: Vec<Span>,
}

impl<'a> Text<'a> {
    pub(super) fn new(source: &Source<'a>) -> Self {
        // Editors on Windows put a byte order mark first; it is not part of the first line.
        let text = source.text.strip_prefix('\u{feff}').unwrap_or(source.text);
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: source.file, text, line_starts, secrets: Vec::new() }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Hides these ranges in every excerpt made from here on.
    pub(super) fn hide(&mut self, secrets: impl IntoIterator<Item = Span>) {
        self.secrets.extend(secrets);
    }

    /// Hides what looks like the key in a text that is not JSON: a message about a syntax error must not
    /// print the secret either.
    pub(super) fn hide_by_looks(&mut self) {
        self.secrets.extend(likely_secrets(self.text));
    }

    /// The 1-based line of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    pub(super) fn problem(
        &self,
        severity: Severity,
        at: &At,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Problem {
        let start = floor_boundary(self.text, at.span.start);
        let line = self.line(start);
        let line_start = self.line_starts[line - 1];
        let rest = &self.text[line_start..];
        let content = rest.split('\n').next().unwrap_or(rest).trim_end_matches('\r');
        let before = self.text[line_start..start].chars().count();
        let covered = self.text[start..].char_indices();
        let covered = covered.take_while(|(at_char, _)| start + at_char < at.span.end).count();
        let length = content.chars().count();

        let line_end = line_start + content.len();
        let secrets: Vec<_> =
            self.secrets.iter().filter(|span| span.start < line_end && span.end > line_start).collect();
        let hidden = |offset: usize| secrets.iter().any(|span| (span.start..span.end).contains(&offset));

        let first = if length > EXCERPT { before.saturating_sub(BEFORE) } else { 0 };
        let shown = content.char_indices().skip(first).take(EXCERPT);
        let mut excerpt = String::from(if first > 0 { "…" } else { "" });
        excerpt.extend(shown.map(|(at_char, c)| printable(c, hidden(line_start + at_char))));
        let cut_off = length > first + EXCERPT;
        if cut_off {
            excerpt.push('…');
        }
        let caret = before - first + usize::from(first > 0);
        let room = (length.min(first + EXCERPT)).saturating_sub(before);
        Problem {
            severity,
            file: self.file.to_owned(),
            line,
            column: before + 1,
            path: at.path.clone(),
            message: message.into(),
            help,
            excerpt,
            caret,
            width: covered.min(room).max(1),
        }
    }
}

/// What an excerpt shows for a character: nothing that moves a cursor, nothing of a secret.
fn printable(c: char, hidden: bool) -> char {
    if hidden {
        '*'
    } else if c.is_control() && c != '\t' {
        '\u{fffd}'
    } else {
        c
    }
}

/// True for a top-level key that holds, or with a typing error was meant to hold, the cluster's key.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let named = ["key", "secret", "pass"].iter().any(|word| key.contains(word));
    key != "key_file" && (named || nearest::distance(&key, "key") == 1 || key == "kye" || key == "eky")
}

/// What follows the word `key` in a text that may not be JSON.
fn likely_secrets(text: &str) -> Vec<Span> {
    let bytes = text.as_bytes();
    let between = |b: &u8| b" \t\r\n:=,\"'".contains(b);
    let mut found: Vec<Span> = Vec::new();
    for (at, _) in text.to_ascii_lowercase().match_indices("key") {
        let after = bytes[at + 3..].iter().take_while(|b| between(b)).count();
        let starts_a_word = at == 0 || between(&bytes[at - 1]) || bytes[at - 1] == b'{';
        // A word within what is hidden already would be scanned again and again.
        let inside = found.last().is_some_and(|last| at < last.end);
        if after == 0 || !starts_a_word || inside {
            continue;
        }
        let start = at + 3 + after;
        let mut end = start;
        while bytes.get(end).is_some_and(|b| !b"\"'\n".contains(b)) {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        found.push(Span::new(start, end.min(bytes.len())));
    }
    found
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
