//! An event as everybody reads it: the log, plugins, streams of events and whoever keeps them. Names instead of
//! positions, numbers with their units, and a sentence for people.
//!
//! This is the only place that turns an [`Event`] into words. `docs/operating.md` has the table of kinds.

#[cfg(test)]
mod tests;
mod words;

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::event::{Event, ItemState};
use crate::id::{CheckRef, ItemRef};

/// One event. What a kind has nothing to say of is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Record {
    /// Number of the event in this life of the daemon, from 1, without a gap.
    pub seq: u64,
    /// When it happened by the host's clock: milliseconds since 1970.
    pub wall_ms: u64,
    /// What happened, in one word that does not change between versions: `member_down`.
    pub kind: Cow<'static, str>,
    /// How much it concerns an operator.
    pub level: Level,
    /// The same for people, without the names and numbers that stand beside it.
    pub text: Cow<'static, str>,
    /// Id of the server that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Name of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Name of the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// The health check: its kind and what it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// The item's state before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ItemState>,
    /// The item's state after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ItemState>,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// The member's generation, or the one that begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The generation that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_generation: Option<u64>,
    /// Ids of the servers whose ballots made a verdict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters: Vec<String>,
    /// Ballots that stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ballots: Option<u64>,
    /// Ballots or live members that are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u64>,
    /// After or for how long, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<f64>,
    /// How late this process was, or how long the machine slept, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_ms: Option<f64>,
    /// When it is tried again, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<f64>,
    /// Where something was heard or asked from, `ip:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where it should have come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// Which hook: `alive`, `down`, `announce` or `post`; or what was asked for: `POST /v1/drain/a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Cow<'static, str>>,
    /// What went wrong, in the words of whoever found it; or what came of a reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
    /// After how many failures in a row it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<u64>,
    /// Id of the server that has seen it; or who asked for it: a token, or a user and a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The other host's hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// How often in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Whether it began or ended: drained, inactive, unclean, healthy, leased, present, given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// Version of a config file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Edits that a config file ended, by what they were about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<String>,
    /// Ids of keys, the one that seals first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// How much an event concerns an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Of interest when something is looked for.
    Debug,
    /// What a user would call a change.
    Info,
    /// What an operator should look at.
    Warning,
    /// What is broken.
    Error,
}

impl Record {
    /// What `event` is to others, as the `seq`th of this life at `wall_ms`. `config` is the one that the node ran
    /// when it happened.
    #[must_use]
    pub fn new(event: &Event, config: &Config, seq: u64, wall_ms: u64) -> Self {
        let mut record = words::of(event, config);
        (record.seq, record.wall_ms) = (seq, wall_ms);
        record
    }

    /// An event of which nothing is known but what it is.
    fn plain(kind: &'static str, level: Level, text: &'static str) -> Self {
        Self {
            seq: 0,
            wall_ms: 0,
            kind: Cow::Borrowed(kind),
            level,
            text: Cow::Borrowed(text),
            server: None,
            system: None,
            item: None,
            check: None,
            from: None,
            to: None,
            reason: None,
            generation: None,
            old_generation: None,
            voters: Vec::new(),
            ballots: None,
            quorum: None,
            after_ms: None,
            late_ms: None,
            retry_ms: None,
            address: None,
            expected: None,
            action: None,
            error: None,
            failures: None,
            fall: None,
            by: None,
            mac: None,
            times: None,
            on: None,
            version: None,
            ended: Vec::new(),
            keys: Vec::new(),
        }
    }

    fn server(mut self, config: &Config, server: usize) -> Self {
        self.server = Some(config.servers[server].id.clone());
        self
    }

    fn item(mut self, config: &Config, at: ItemRef) -> Self {
        let system = &config.systems[at.system];
        self.system = Some(system.name.clone());
        self.item = Some(system.items[at.item].name.clone());
        self
    }

    /// A check of a whole system has no item.
    fn check(mut self, config: &Config, at: CheckRef) -> Self {
        let system = &config.systems[at.system];
        self.system = Some(system.name.clone());
        self.item = at.item.map(|item| system.items[item].name.clone());
        self.check = config.check(at).map(|check| check.kind.to_string());
        self
    }

    /// What of it takes memory, in bytes: itself and its texts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let owned = |text: &Cow<'static, str>| if matches!(text, Cow::Owned(_)) { text.len() } else { 0 };
        let texts = [
            &self.server,
            &self.system,
            &self.item,
            &self.check,
            &self.address,
            &self.expected,
            &self.error,
            &self.by,
            &self.mac,
        ];
        let texts: usize = texts.into_iter().flatten().map(String::capacity).sum();
        let lists = self.voters.iter().chain(&self.keys).chain(&self.ended);
        let lists: usize = lists.map(|text| text.capacity() + size_of::<String>()).sum();
        let words = owned(&self.kind) + owned(&self.text);
        let words = words + [&self.reason, &self.action].into_iter().flatten().map(owned).sum::<usize>();
        size_of::<Self>() + texts + lists + words
    }

    /// The record as one line for people, without its time: what happened, then what it was about as `name=value`.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.text.to_string();
        // A record is an object of plain values, and lists of texts.
        let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(self) else { return line };
        for (name, value) in fields {
            if ["seq", "wall_ms", "kind", "level", "text"].contains(&name.as_str()) {
                continue;
            }
            let value = match value {
                serde_json::Value::String(text) if is_word(&text) => text,
                serde_json::Value::Array(list) => {
                    let texts: Vec<_> = list.iter().filter_map(serde_json::Value::as_str).collect();
                    texts.join(",")
                }
                value => value.to_string(),
            };
            line.push_str(&format!(" {name}={value}"));
        }
        line
    }
}

/// Whether a text needs no quotes.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=')
}

/// Milliseconds, to the microsecond.
fn ms(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}
