//! What nodes tell of themselves because their scripts say so: facts, which are for others' scripts, and the
//! named reasons for which a node is not fit for items.
//!
//! A node's own word is whole and numbered; the newest of its present life counts. It is said to everybody
//! at once, some times, and with each digest goes a list of who is known to have said what, so that a word
//! that was lost is said again by whoever has it.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;

use super::{Node, Timer};
use crate::event::Event;
use crate::io::Output;
use crate::limits;
use crate::time::Time;
use crate::translation::Translation;
use crate::wire::message::{About, Heard, Message, Told};

/// What every server said last.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Of those who said something.
    servers: BTreeMap<usize, Word>,
    /// Repetitions of this node's own still to come.
    repeats: u32,
}

#[derive(Clone, Debug, Default)]
struct Word {
    generation: u64,
    seq: u32,
    facts: BTreeMap<String, String>,
    inactive: BTreeSet<String>,
}

impl Words {
    pub(super) fn translate(&mut self, to: &Translation) {
        to.by_server(&mut self.servers);
    }

    fn is_older_than(&self, server: usize, generation: u64, seq: u32) -> bool {
        self.servers.get(&server).map_or((0, 0), |word| (word.generation, word.seq)) < (generation, seq)
    }
}

impl Word {
    /// What it takes in a datagram, nearly.
    fn bytes(&self) -> usize {
        let facts = self.facts.iter().map(|(key, value)| key.len() + value.len() + 4);
        facts.chain(self.inactive.iter().map(|reason| reason.len() + 2)).sum()
    }

    /// Whether it keeps to the limits.
    fn fits(&self) -> bool {
        self.facts.len() <= limits::TOLD_FACTS
            && self.inactive.len() <= limits::TOLD_REASONS
            && self.facts.keys().chain(&self.inactive).all(|name| is_name(name))
            && self.bytes() <= limits::TOLD_BYTES
    }
}

/// Names are shown, logged and compared: short, and of characters that nothing takes for something else.
fn is_name(name: &str) -> bool {
    (1..=limits::TOLD_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/ ".contains(&byte))
}

impl Node {
    /// The facts of a server's present life.
    pub(super) fn told_facts(&self, server: usize) -> BTreeMap<String, String> {
        self.word(server).map(|word| word.facts.clone()).unwrap_or_default()
    }

    /// Why a server says that it is not fit for items.
    pub(super) fn inactive_reasons(&self, server: usize) -> Vec<String> {
        self.word(server).map(|word| word.inactive.iter().cloned().collect()).unwrap_or_default()
    }

    /// True while a server says that it is not fit for items.
    #[must_use]
    pub fn is_inactive(&self, server: usize) -> bool {
        self.word(server).is_some_and(|word| !word.inactive.is_empty())
    }

    /// What an earlier life said is void: its scripts are gone.
    fn word(&self, server: usize) -> Option<&Word> {
        let current = self.view.get(server).generation;
        self.words.servers.get(&server).filter(|word| word.generation == current)
    }

    pub(super) fn on_told_command(&mut self, asker: u64, told: Tell, now: Time) {
        let result = self.tell(told, now);
        self.outputs.push_back(Output::Done { asker, result });
    }

    fn tell(&mut self, told: Tell, now: Time) -> Result<String, String> {
        let me = self.config.me;
        let mut word = self.words.servers.get(&me).cloned().unwrap_or_default();
        let name = match &told {
            Tell::Fact { key, .. } => key,
            Tell::Active { reason, .. } => reason,
        };
        if !is_name(name) {
            return Err(format!(
                "{:?} is no name; expected 1 to {} letters, digits, spaces or . _ - /",
                name.chars().take(limits::TOLD_NAME).collect::<String>(),
                limits::TOLD_NAME
            ));
        }
        let changed = match told {
            Tell::Fact { key, value: Some(value) } => word.facts.insert(key, value.clone()) != Some(value),
            Tell::Fact { key, value: None } => word.facts.remove(&key).is_some(),
            Tell::Active { active: true, reason } => word.inactive.remove(&reason),
            Tell::Active { active: false, reason } => word.inactive.insert(reason),
        };
        if !changed {
            return Ok("said already".to_owned());
        }
        if !word.fits() {
            return Err(format!(
                "a node may say at most {} facts and {} reasons, {} bytes together",
                limits::TOLD_FACTS,
                limits::TOLD_REASONS,
                limits::TOLD_BYTES
            ));
        }
        word.generation = self.generation;
        word.seq += 1;
        self.replace_word(me, word, now);
        self.tell_again(now);
        Ok("said to all".to_owned())
    }

    /// Another life of this node begins: its word is said anew.
    pub(super) fn restate_word(&mut self, now: Time) {
        if let Some(word) = self.words.servers.get_mut(&self.config.me) {
            word.generation = self.generation;
            self.tell_again(now);
        }
    }

    fn tell_again(&mut self, now: Time) {
        self.words.repeats = 2;
        self.tell_word(now);
    }

    /// Says this node's word to everybody.
    pub(super) fn tell_word(&mut self, now: Time) {
        for to in self.up_others() {
            self.send_word(to, self.config.me);
        }
        if self.words.repeats > 0 {
            self.words.repeats -= 1;
            self.timers.set(Timer::Words, now + limits::REPEAT_PAUSE);
        }
    }

    /// Passes a server's word on.
    pub(super) fn send_word(&mut self, to: usize, server: usize) {
        let Some(word) = self.words.servers.get(&server) else { return };
        let told = Told {
            about: About { id: self.config.servers[server].short.0, generation: word.generation },
            seq: word.seq,
            facts: word.facts.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            inactive: word.inactive.iter().cloned().collect(),
        };
        self.send(to, &Message::Told(told));
    }

    pub(super) fn on_told(&mut self, told: Told, now: Time) {
        let Some(server) = self.server_of(told.about).filter(|server| *server != self.config.me) else {
            return;
        };
        if told.seq == 0 || !self.words.is_older_than(server, told.about.generation, told.seq) {
            return;
        }
        let word = Word {
            generation: told.about.generation,
            seq: told.seq,
            facts: told.facts.into_iter().collect(),
            inactive: told.inactive.into_iter().collect(),
        };
        if word.fits() {
            self.replace_word(server, word, now);
        }
    }

    fn replace_word(&mut self, server: usize, word: Word, now: Time) {
        let before: BTreeSet<_> = self.inactive_reasons(server).into_iter().collect();
        self.words.servers.insert(server, word);
        let after: BTreeSet<_> = self.inactive_reasons(server).into_iter().collect();
        for reason in before.symmetric_difference(&after) {
            let inactive = after.contains(reason);
            self.event(Event::Inactive { server, reason: reason.clone(), inactive });
        }
        if before.is_empty() != after.is_empty() {
            self.replace_items(now);
        }
    }

    /// Goes with each digest.
    pub(super) fn send_heard(&mut self, to: usize) {
        if !self.words.servers.is_empty() {
            let heard = self.heard_words();
            self.send(to, &Message::Heard(heard));
        }
    }

    fn heard_words(&mut self) -> Vec<Heard> {
        let said = self.words.servers.iter();
        let mut heard: Vec<_> = said
            .map(|(server, word)| Heard {
                about: About { id: self.config.servers[*server].short.0, generation: word.generation },
                seq: word.seq,
            })
            .collect();
        if heard.len() > limits::HEARD {
            heard.shuffle(&mut self.rng);
            heard.truncate(limits::HEARD);
        }
        heard
    }

    /// Says what `from` has missed, and asks for what this node has.
    pub(super) fn on_heard(&mut self, from: usize, heard: &[Heard]) {
        let mut known = BTreeMap::new();
        let mut missed = false;
        for entry in heard {
            let Some(server) = self.server_of(entry.about) else { continue };
            known.insert(server, (entry.about.generation, entry.seq));
            missed |= server != self.config.me
                && self.words.is_older_than(server, entry.about.generation, entry.seq);
        }
        let whole = heard.len() < limits::HEARD;
        let behind = |(server, word): (&usize, &Word)| {
            let behind = known.get(server).map_or(whole, |known| *known < (word.generation, word.seq));
            (behind && *server != from).then_some(*server)
        };
        let behind: Vec<_> = self.words.servers.iter().filter_map(behind).collect();
        for server in behind {
            self.send_word(from, server);
        }
        if missed {
            let heard = self.heard_words();
            self.send(from, &Message::Heard(heard));
        }
    }
}

/// What a script of this node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    Fact { key: String, value: Option<String> },
    Active { active: bool, reason: String },
}
