//! What this node believes of each server.
//!
//! ```text
//!            first sign of life            verdict (quorum)
//!  Unknown ───────────────────────▶ Up ───────────────────────▶ Down
//!     │                            ▲  │ goodbye                   │
//!     │ verdict on "never seen"    │  └──────────▶ Left           │
//!     └──────────────▶ Down        └──── a newer generation ──────┘
//! ```
//!
//! A verdict and a goodbye are irrevocable for their generation, so both only grow, and all views
//! converge by exchanging them. A server of which nothing is known yet counts as live: nobody takes
//! its items before a quorum agreed that it is not there.

use std::sync::OnceLock;

use crate::id::ShortId;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::Translation;
use crate::wire::message::Verdict;

/// What is believed of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Never seen since this node started.
    Unknown,
    /// Alive.
    Up,
    /// Down by verdict.
    Down,
    /// Said goodbye.
    Left,
}

/// Everything known of one server.
#[derive(Clone, Debug)]
pub struct Record {
    /// What is believed.
    pub life: Life,
    /// The newest generation heard of; zero when none was.
    pub generation: u64,
    /// Since when `life` is what it is.
    pub since: Time,
    /// The newest verdict. Few servers have one, and each knows thousands of servers.
    pub verdict: Option<Box<Verdict>>,
    /// The newest generation that said goodbye; zero when none did.
    pub left: u64,
}

impl Record {
    /// The newest generation that cannot come back.
    fn over(&self) -> u64 {
        self.left.max(self.verdict.as_ref().map_or(0, |verdict| verdict.about.generation))
    }
}

/// What a sign of life means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Nothing new.
    Known,
    /// It was not up in this generation before.
    NewlyUp,
    /// This generation is over: it must be told.
    Over,
    /// A newer generation is known; this one speaks from the past.
    Old,
}

/// The view: one record for each configured server, in listed order.
#[derive(Clone, Debug)]
pub struct View {
    records: Vec<Record>,
    /// How many are up.
    up: usize,
    /// How many of them the config names: the first. Others keep no views of the rest.
    named: usize,
    /// The digest, until something changes.
    digest: OnceLock<u64>,
}

impl View {
    /// A view of `servers` servers of which nothing is known.
    #[must_use]
    pub fn new(servers: usize, now: Time) -> Self {
        let record = Record { life: Life::Unknown, generation: 0, since: now, verdict: None, left: 0 };
        Self { records: vec![record; servers], up: 0, named: servers, digest: OnceLock::new() }
    }

    /// Goes on under another config, where servers that are new are unknown.
    pub fn translate(&mut self, to: &Translation, now: Time) {
        let fresh = Record { life: Life::Unknown, generation: 0, since: now, verdict: None, left: 0 };
        to.row_of_servers(&mut self.records, || fresh.clone());
        self.up = self.records.iter().filter(|record| record.life == Life::Up).count();
        self.named = to.named_servers();
        self.digest = OnceLock::new();
    }

    /// What is known of a server.
    #[must_use]
    pub fn get(&self, server: usize) -> &Record {
        &self.records[server]
    }

    /// All records in listed order.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// True when the server's items are its own: it is up, or nothing is known against it.
    #[must_use]
    pub fn is_live(&self, server: usize) -> bool {
        matches!(self.records[server].life, Life::Unknown | Life::Up)
    }

    /// True when it was seen alive and nothing happened since.
    #[must_use]
    pub fn is_up(&self, server: usize) -> bool {
        self.records[server].life == Life::Up
    }

    /// True when nobody is missing.
    #[must_use]
    pub const fn all_up(&self) -> bool {
        self.up == self.records.len()
    }

    /// Something of this server changes.
    fn change(&mut self, server: usize, life: Life, generation: u64, now: Time) {
        let record = &mut self.records[server];
        self.up -= usize::from(record.life == Life::Up);
        self.up += usize::from(life == Life::Up);
        (record.life, record.generation, record.since) = (life, generation, now);
        self.digest = OnceLock::new();
    }

    /// A sign of life of `generation`.
    pub fn alive(&mut self, server: usize, generation: u64, now: Time) -> Sign {
        let record = &self.records[server];
        if generation == 0 || generation < record.generation && generation > record.over() {
            return Sign::Old;
        }
        if generation <= record.over() && !planted(Bug::OldVoiceCounts) {
            return Sign::Over;
        }
        if record.life == Life::Up && generation == record.generation {
            return Sign::Known;
        }
        self.change(server, Life::Up, generation, now);
        Sign::NewlyUp
    }

    /// Somebody spoke of `generation` without proof that it lives.
    pub fn heard_of(&mut self, server: usize, generation: u64) {
        let record = &mut self.records[server];
        if generation > record.generation {
            record.generation = generation;
            self.digest = OnceLock::new();
        }
    }

    /// A verdict. True when it changes what is believed.
    pub fn verdict(&mut self, server: usize, verdict: Verdict, now: Time) -> bool {
        let record = &mut self.records[server];
        let generation = verdict.about.generation;
        let first = record.life == Life::Unknown && record.verdict.is_none() && record.left == 0;
        if generation < record.generation || generation <= record.over() && !(first && generation == 0) {
            return false;
        }
        record.verdict = Some(Box::new(verdict));
        self.change(server, Life::Down, generation, now);
        true
    }

    /// A goodbye. True when it changes what is believed.
    pub fn left(&mut self, server: usize, generation: u64, now: Time) -> bool {
        let record = &mut self.records[server];
        if generation <= record.left {
            return false;
        }
        record.left = generation;
        if generation < record.generation {
            return false;
        }
        let changed = record.life != Life::Left;
        self.change(server, Life::Left, generation, now);
        changed
    }

    /// Digest of everything that views exchange: equal digests, nothing to exchange.
    #[must_use]
    pub fn digest(&self) -> u64 {
        *self.digest.get_or_init(|| self.digest_anew())
    }

    fn digest_anew(&self) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("flip members v1");
        for record in &self.records[..self.named] {
            hasher.update(&record.generation.to_be_bytes());
            hasher.update(&[match record.life {
                Life::Unknown => 0,
                Life::Up => 1,
                Life::Down => 2,
                Life::Left => 3,
            }]);
        }
        word(&hasher)
    }

    /// The view id: a digest of who is live. Nodes with equal view ids and configs place equally.
    #[must_use]
    pub fn id(&self, ids: &[ShortId]) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("flip view v1");
        for (server, id) in ids.iter().enumerate() {
            if self.is_live(server) {
                hasher.update(&id.0.to_be_bytes());
            }
        }
        word(&hasher)
    }
}

/// The first eight bytes of a hash.
pub(crate) fn word(hasher: &blake3::Hasher) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::About;

    fn verdict(generation: u64) -> Verdict {
        Verdict { electorate: 0, about: About { id: 0, generation }, ballots: Vec::new(), ack: false }
    }

    /// From a state, an input, to a state and whether it changed: every cell.
    #[test]
    fn transition_table() {
        // start: life and generation; input; expected life, generation
        let table = "
            unknown:0 alive:5     up:5
            unknown:0 verdict:0   down:0
            unknown:0 verdict:5   down:5
            unknown:0 left:5      left:5
            up:5      alive:4     up:5
            up:5      alive:5     up:5
            up:5      alive:6     up:6
            up:5      verdict:0   up:5
            up:5      verdict:4   up:5
            up:5      verdict:5   down:5
            up:5      verdict:6   down:6
            up:5      left:4      up:5
            up:5      left:5      left:5
            up:5      left:6      left:6
            down:5    alive:5     down:5
            down:5    alive:4     down:5
            down:5    alive:6     up:6
            down:5    verdict:5   down:5
            down:5    verdict:6   down:6
            down:5    left:5      left:5
            down:5    left:4      down:5
            down:0    alive:1     up:1
            left:5    alive:5     left:5
            left:5    alive:6     up:6
            left:5    verdict:5   left:5
            left:5    verdict:6   down:6
            left:5    left:5      left:5
        ";
        for line in table.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            let split = |word: &str| {
                let (name, number) = word.split_once(':').expect("name:number");
                (name.to_string(), number.parse::<u64>().expect("number"))
            };
            let mut view = View::new(1, Time::ZERO);
            let apply = |view: &mut View, (name, generation): (String, u64)| match name.as_str() {
                "unknown" => {}
                "alive" | "up" => {
                    view.alive(0, generation, Time::ZERO);
                }
                "verdict" | "down" => {
                    view.verdict(0, verdict(generation), Time::ZERO);
                }
                _ => {
                    view.left(0, generation, Time::ZERO);
                }
            };
            apply(&mut view, split(words[0]));
            assert_eq!(view.digest(), view.digest_anew());
            apply(&mut view, split(words[1]));
            assert_eq!(view.digest(), view.digest_anew(), "{line}: a digest of before");
            assert_eq!(view.all_up(), view.is_up(0), "{line}");
            let record = view.get(0);
            let name = match record.life {
                Life::Unknown => "unknown",
                Life::Up => "up",
                Life::Down => "down",
                Life::Left => "left",
            };
            assert_eq!(format!("{name}:{}", record.generation), words[2], "{line}");
        }
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let inputs: [&dyn Fn(&mut View); 4] = [
            &|view| {
                let _ = view.verdict(0, verdict(5), Time::ZERO);
            },
            &|view| {
                let _ = view.verdict(0, verdict(7), Time::ZERO);
            },
            &|view| {
                let _ = view.left(0, 6, Time::ZERO);
            },
            &|view| {
                let _ = view.alive(0, 8, Time::ZERO);
            },
        ];
        let mut digests = std::collections::BTreeSet::new();
        for order in 0..24usize {
            let mut left: Vec<usize> = (0..4).collect();
            let mut view = View::new(1, Time::ZERO);
            let mut code = order;
            while !left.is_empty() {
                let pick = left.remove(code % left.len());
                code /= left.len() + 1;
                inputs[pick](&mut view);
            }
            assert_eq!((view.get(0).life, view.get(0).generation), (Life::Up, 8));
            digests.insert(view.digest());
        }
        assert_eq!(digests.len(), 1, "whatever the order, nothing is left to exchange");
    }
}
