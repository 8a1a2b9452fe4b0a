//! The JSON with its places: parsing, and reading single values with errors that name found and expected.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::errors::ParseError;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::nearest::nearest;
use super::problem::Problems;
use super::source::{At, Span, Spanned, is_secret};

/// Standard JSON with comments and trailing commas, and nothing else that a person may type by mistake.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: false,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

pub(super) fn parse(text: &str) -> Result<Option<Value<'_>>, ParseError> {
    Ok(parse_to_ast(text, &CollectOptions::default(), &OPTIONS)?.value)
}

/// One value of the file and its place.
#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    pub value: &'t Value<'t>,
    pub at: At,
}

/// One key of an object, the key's place and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry<'t> {
    pub key: Spanned<&'t str>,
    pub node: Node<'t>,
}

impl<'t> Node<'t> {
    pub(super) fn root(value: &'t Value<'t>) -> Self {
        Self { value, at: At { span: head(value), path: String::new() } }
    }

    fn below(&self, value: &'t Value<'t>, path: String) -> Self {
        Self { value, at: At { span: head(value), path } }
    }

    /// The value of a key or, for a number, of an array's element; `system` and `systems` are one.
    pub(super) fn child(&self, key: &str) -> Option<Self> {
        let path = join(&self.at.path, key);
        match self.value {
            Value::Object(object) => {
                let other = match key {
                    "system" => "systems",
                    "systems" => "system",
                    _ => key,
                };
                let found = object.get(key).or_else(|| object.get(other))?;
                Some(self.below(&found.value, path))
            }
            Value::Array(array) => Some(self.below(array.elements.get(key.parse::<usize>().ok()?)?, path)),
            Value::StringLit(_) | Value::NumberLit(_) | Value::BooleanLit(_) | Value::NullKeyword(_) => None,
        }
    }

    /// What a message says was found.
    pub(super) fn found(&self) -> String {
        match self.value {
            Value::StringLit(text) if text.value.is_empty() => "an empty string".into(),
            Value::StringLit(text) => format!("\"{}\"", clip(&text.value)),
            Value::NumberLit(number) => format!("the number {}", clip(number.value)),
            Value::BooleanLit(bool) => format!("`{}`", bool.value),
            Value::NullKeyword(_) => "`null`".into(),
            Value::Object(_) => "an object".into(),
            Value::Array(_) => "an array".into(),
        }
    }

    pub(super) fn refuse(&self, expected: &str, problems: &mut Problems) {
        problems.error(&self.at, format!("found {}, expected {expected}", self.found()));
    }

    pub(super) fn refuse_help(&self, expected: &str, help: impl Into<String>, problems: &mut Problems) {
        problems.error_help(&self.at, format!("found {}, expected {expected}", self.found()), help);
    }

    /// The entries of an object, in order; of a key that is there twice, the first.
    pub(super) fn entries(&self, expected: &str, problems: &mut Problems) -> Option<Vec<Entry<'t>>> {
        let Value::Object(object) = self.value else {
            self.refuse(expected, problems);
            return None;
        };
        let mut seen = BTreeMap::new();
        let mut entries = Vec::new();
        for property in &object.properties {
            let key = property.name.as_str();
            let range = property.name.range();
            let at = At { span: Span::new(range.start, range.end), path: join(&self.at.path, key) };
            if let Some(first) = seen.get(key) {
                let line = problems.text.line(*first);
                let message =
                    format!("the key `{}` is there twice, first on line {line}; expected once", clip(key));
                problems.error_help(&at, message, "remove or rename one of the two");
                continue;
            }
            seen.insert(key, at.span.start);
            let node = self.below(&property.value, at.path.clone());
            entries.push(Entry { key: Spanned { value: key, at }, node });
        }
        Some(entries)
    }

    /// An object of any keys.
    pub(super) fn any_fields(&self, expected: &str, problems: &mut Problems) -> Option<Fields<'t>> {
        Some(Fields { entries: self.entries(expected, problems)? })
    }

    /// An object whose keys must be among `known`.
    pub(super) fn fields(
        &self,
        expected: &str,
        known: &'static [&'static str],
        problems: &mut Problems,
    ) -> Option<Fields<'t>> {
        let entries = self.entries(expected, problems)?;
        for Entry { key, .. } in &entries {
            if !known.contains(&key.value) {
                let help = match nearest(key.value, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the keys here are {}", list(known.iter().copied())),
                };
                problems.error_help(&key.at, format!("unknown key `{}`", clip(key.value)), help);
            }
        }
        Some(Fields { entries })
    }

    pub(super) fn elements(&self, expected: &str, problems: &mut Problems) -> Option<Vec<Self>> {
        let Value::Array(array) = self.value else {
            self.refuse(expected, problems);
            return None;
        };
        let numbered = array.elements.iter().enumerate();
        Some(numbered.map(|(index, value)| self.below(value, format!("{}[{index}]", self.at.path))).collect())
    }

    pub(super) fn text(&self, expected: &str, problems: &mut Problems) -> Option<Spanned<String>> {
        match self.value {
            Value::StringLit(text) => Some(self.spanned(text.value.clone().into_owned())),
            Value::NumberLit(_) | Value::BooleanLit(_) => {
                self.refuse_help(expected, "put it into double quotes", problems);
                None
            }
            Value::NullKeyword(_) | Value::Object(_) | Value::Array(_) => {
                self.refuse(expected, problems);
                None
            }
        }
    }

    /// A whole number in `range`; `what` names it in messages.
    pub(super) fn whole(
        &self,
        what: &str,
        range: RangeInclusive<u64>,
        problems: &mut Problems,
    ) -> Option<Spanned<u64>> {
        let expected = format!("{what} from {} to {}", range.start(), range.end());
        match self.value {
            Value::NumberLit(number) => match number.value.parse() {
                Ok(value) if range.contains(&value) => return Some(self.spanned(value)),
                Err(_) if number.value.contains(['.', 'e', 'E']) => {
                    self.refuse_help(&expected, "write it without fraction and exponent", problems);
                }
                Ok(_) | Err(_) => self.refuse(&expected, problems),
            },
            Value::StringLit(text) if text.value.parse::<u64>().is_ok_and(|n| range.contains(&n)) => {
                self.refuse_help(&expected, "remove the quotes", problems);
            }
            Value::StringLit(_)
            | Value::BooleanLit(_)
            | Value::NullKeyword(_)
            | Value::Object(_)
            | Value::Array(_) => self.refuse(&expected, problems),
        }
        None
    }

    /// One of some words.
    pub(super) fn one_of<T: Copy>(&self, table: &[(&str, T)], problems: &mut Problems) -> Option<Spanned<T>> {
        let words = || table.iter().map(|(word, _)| *word);
        let expected = format!("one of {}", list(words()));
        if let Value::StringLit(text) = self.value {
            if let Some((_, meaning)) = table.iter().find(|(word, _)| *word == text.value) {
                return Some(self.spanned(*meaning));
            }
            if let Some(near) = nearest(&text.value, words()) {
                self.refuse_help(&expected, format!("did you mean \"{near}\"?"), problems);
                return None;
            }
        }
        self.refuse(&expected, problems);
        None
    }

    /// `true` or `false`.
    pub(super) fn truth(&self, problems: &mut Problems) -> Option<Spanned<bool>> {
        match self.value {
            Value::BooleanLit(bool) => return Some(self.spanned(bool.value)),
            Value::StringLit(text) if matches!(&*text.value, "true" | "false") => {
                self.refuse_help("`true` or `false`", "remove the quotes", problems);
            }
            _ => self.refuse("`true` or `false`", problems),
        }
        None
    }

    /// Any JSON value; its objects may not hold a key twice and its numbers must fit.
    pub(super) fn json(&self, problems: &mut Problems) -> Option<serde_json::Value> {
        Some(match self.value {
            Value::StringLit(text) => serde_json::Value::String(text.value.clone().into_owned()),
            Value::BooleanLit(bool) => serde_json::Value::Bool(bool.value),
            Value::NullKeyword(_) => serde_json::Value::Null,
            Value::NumberLit(number) => match number.value.parse() {
                Ok(number) => serde_json::Value::Number(number),
                Err(_) => {
                    self.refuse("a number that fits into 64 bits", problems);
                    return None;
                }
            },
            Value::Object(_) => {
                let entries = self.entries("an object", problems)?;
                let values = entries.iter().filter_map(|entry| {
                    entry.node.json(problems).map(|value| (entry.key.value.to_owned(), value))
                });
                serde_json::Value::Object(values.collect())
            }
            Value::Array(_) => {
                let elements = self.elements("an array", problems)?;
                serde_json::Value::Array(elements.iter().filter_map(|node| node.json(problems)).collect())
            }
        })
    }

    pub(super) fn spanned<T>(&self, value: T) -> Spanned<T> {
        Spanned { value, at: self.at.clone() }
    }
}

/// The entries of an object whose keys are known.
pub(super) struct Fields<'t> {
    entries: Vec<Entry<'t>>,
}

impl<'t> Fields<'t> {
    /// All of them, in order.
    pub(super) fn all(&self) -> &[Entry<'t>] {
        &self.entries
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node<'t>> {
        self.entries.iter().find(|entry| entry.key.value == key).map(|entry| &entry.node)
    }

    /// The value of a key that has two spellings.
    pub(super) fn either(&self, key: &str, other: &str, problems: &mut Problems) -> Option<&Node<'t>> {
        if let (Some(_), Some(second)) = (self.get(key), self.get(other)) {
            let message = format!("`{key}` and `{other}` are two spellings of one key; expected one of them");
            problems.error_help(&second.at, message, "move everything under one of the two");
        }
        self.get(key).or_else(|| self.get(other))
    }
}

/// Where the cluster's key stands, also under a misspelt name.
pub(super) fn secrets(root: &Value) -> Vec<Span> {
    let Value::Object(object) = root else { return Vec::new() };
    let secret = object.properties.iter().filter(|property| is_secret(property.name.as_str()));
    secret
        .map(|property| {
            let range = property.value.range();
            Span::new(range.start, range.end)
        })
        .collect()
}

/// What a message marks of a value: a scalar whole, of an object or array the bracket that opens it.
fn head(value: &Value) -> Span {
    let range = value.range();
    match value {
        Value::Object(_) | Value::Array(_) => Span::new(range.start, range.start + 1),
        Value::StringLit(_) | Value::NumberLit(_) | Value::BooleanLit(_) | Value::NullKeyword(_) => {
            Span::new(range.start, range.end)
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { clip(key) } else { format!("{path}.{}", clip(key)) }
}

/// A text from the file as a message may show it: on one line, and not too long.
pub(super) fn clip(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut clipped = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == SHOWN {
            clipped.push('…');
            break;
        }
        if c.is_control() {
            let _infallible = write!(clipped, "{}", c.escape_default());
        } else {
            clipped.push(c);
        }
    }
    clipped
}

/// Names in backticks, with commas; of many, the first ones.
pub(super) fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<_> = names.into_iter().collect();
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        let _infallible = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}
