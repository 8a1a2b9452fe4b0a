//! A server that is not in the cluster yet asks any member to take it in, and gets the catalog. Then it starts as
//! every other server does.
//!
//! ```text
//!  ask to enter ──► challenge ──► ask with it ──► wait ─┐
//!                                     ▲  ▲──────────────┤
//!                    another attempt ─┘                 ├─► refused
//!                                                       └─► entered ──► page ──► page ──► joined
//! ```
//!
//! It does no I/O: [`Joiner::question`] is to be brought to a member, and what comes back to [`Joiner::answer`].

use serde_json::{Map, Value};

use crate::catalog::{Catalog, File};
use crate::config::{ClusterKey, Config};
use crate::wire::join::{Answer, Question, Said, Way, Wish, open, seal};

/// An attempt to join.
#[derive(Debug)]
pub struct Joiner {
    key: ClusterKey,
    cluster_id: String,
    id: String,
    entry: String,
    attempt: [u8; 16],
    challenge: [u8; 16],
    entered: bool,
    after: Option<(u16, Option<crate::catalog::Key>)>,
    catalog: Catalog,
    /// Pages were taken, and their sender missed nothing.
    complete: Option<bool>,
}

/// What an answer comes to.
#[derive(Debug)]
pub enum Next {
    /// Ask the next question at once.
    Ask,
    /// The same question again in a moment.
    Wait,
    /// It was refused, and why.
    Refused {
        /// One line for people.
        why: String,
        /// Whether a new attempt ([`Joiner::again`]) may do better in a while.
        again: bool,
    },
    /// The server is in the cluster, and this is the catalog: what it is to start with.
    Joined(Box<Catalog>),
}

/// An answer that is none: it was not sealed with the cluster's key, or answers another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

impl Joiner {
    /// An attempt of the server that a file describes ([`crate::config::Joining`] has both). `attempt` must be random.
    #[must_use]
    pub fn new(config: &Config, entry: &Map<String, Value>, attempt: [u8; 16]) -> Self {
        Self {
            key: config.key.clone(),
            cluster_id: config.cluster_id.clone(),
            id: config.my().id.clone(),
            entry: Value::from(entry.clone()).to_string(),
            attempt,
            challenge: [0; 16],
            entered: false,
            after: None,
            catalog: Catalog::default(),
            complete: None,
        }
    }

    /// Begins anew, after a refusal or an answer that did not come. `attempt` must be random.
    pub fn again(&mut self, attempt: [u8; 16]) {
        (self.attempt, self.challenge, self.entered) = (attempt, [0; 16], false);
        (self.after, self.catalog, self.complete) = (None, Catalog::default(), None);
    }

    /// The frame that a member is to get now. `random` must be fresh.
    #[must_use]
    pub fn question(&self, random: [u8; 24]) -> Vec<u8> {
        let wish = match self.entered {
            false => Wish::Enter { id: self.id.clone(), entry: self.entry.clone() },
            true => Wish::Page(self.after.clone()),
        };
        let question = Question { attempt: self.attempt, challenge: self.challenge, wish };
        seal(&self.key, &self.cluster_id, Way::Question, &question, random)
    }

    /// Takes the frame that came back.
    ///
    /// # Errors
    /// When it is no answer to the question: nothing has changed then.
    pub fn answer(&mut self, frame: &[u8]) -> Result<Next, NoAnswer> {
        let opened = open::<Answer>([&self.key], &self.cluster_id, Way::Answer, frame);
        let answer = opened.map(|(_, answer)| answer).filter(|answer| answer.attempt == self.attempt);
        Ok(match answer.ok_or(NoAnswer)?.said {
            Said::Challenge(challenge) => {
                self.challenge = challenge;
                Next::Ask
            }
            Said::Wait => Next::Wait,
            Said::Refused { why, again } => Next::Refused { why, again },
            Said::Entered => {
                self.entered = true;
                Next::Ask
            }
            Said::Page(page) => {
                if page.entries.iter().any(|entry| !Catalog::is_sound(entry)) {
                    return Err(NoAnswer);
                }
                if let Some((version, text)) = page.file {
                    self.catalog.set_file(File::from_text(version, &text).ok_or(NoAnswer)?);
                }
                // What was removed while the pages came is remembered by all until this server knows it as well.
                let first = self.complete.is_none();
                self.complete = Some(self.complete.unwrap_or(true) && page.brief.complete);
                for (key, record) in page.entries {
                    self.catalog.merge(key, record);
                }
                if first {
                    self.catalog.raise_floor(page.brief.floor);
                }
                self.after = page.after;
                if self.after.is_some() {
                    return Ok(Next::Ask);
                }
                let mut catalog = std::mem::take(&mut self.catalog);
                catalog.set_complete(self.complete == Some(true));
                Next::Joined(Box::new(catalog))
            }
        })
    }
}
