//! Facts: small values that each member states about itself: which items it holds, and for which it is not
//! fit.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use crate::event::ItemState;
use crate::id::ItemId;
use crate::limits;
use crate::time::Time;
use crate::translation::Translation;
use crate::view::word;
use crate::wire::message::{self, Held, STATES};

/// The newest facts of each server.
#[derive(Debug)]
pub struct Facts {
    count: usize,
    /// How many of them the config names: the first.
    named: usize,
    /// Those that stated something.
    servers: BTreeMap<usize, Stated>,
    /// The digest, until something changes.
    digest: OnceLock<u64>,
}

/// What a server stated that stated nothing.
static NOTHING: Stated =
    Stated { generation: 0, seq: 0, departing: false, held: BTreeMap::new(), unfit: BTreeMap::new() };

/// What one server stated last.
#[derive(Clone, Debug, Default)]
pub struct Stated {
    /// In which generation.
    pub generation: u64,
    /// Grows with each change within the generation.
    pub seq: u32,
    /// Whether it is about to leave.
    pub departing: bool,
    /// Items that are not in standby there, and since when.
    pub held: BTreeMap<ItemId, (ItemState, Time)>,
    /// Items that health checks keep away from there.
    pub unfit: BTreeMap<ItemId, Fitness>,
}

/// What the health checks of an item, and what it stands on, say on one server: from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// They succeed, or there are none.
    #[default]
    Fit,
    /// Not enough of them have ended yet, because the daemon was started a moment ago: worth waiting for.
    Young,
    /// Not enough of them have ended since the start.
    Unproven,
    /// They fail.
    Unhealthy,
}

/// A state on the wire: its position in [`STATES`], or this for standby.
const STANDBY: u8 = 0x0f;
/// Added where the checks have not ended.
const UNPROVEN: u8 = 0x40;
/// Added where they fail.
const UNHEALTHY: u8 = 0x80;
/// Added where they have not ended, but will in a moment.
const YOUNG: u8 = 0x20;

/// State and fitness from the wire; nothing where a newer version says more than this one knows.
fn unpack(byte: u8) -> Option<(Option<ItemState>, Fitness)> {
    let state = match byte & STANDBY {
        STANDBY => None,
        at => Some(*STATES.get(usize::from(at))?),
    };
    let fitness = match byte & !STANDBY {
        0 => Fitness::Fit,
        YOUNG => Fitness::Young,
        UNPROVEN => Fitness::Unproven,
        UNHEALTHY => Fitness::Unhealthy,
        _ => return None,
    };
    Some((state, fitness))
}

fn pack(state: Option<ItemState>, fitness: Fitness) -> Option<u8> {
    let at = match state {
        None | Some(ItemState::Standby) => STANDBY,
        Some(state) => u8::try_from(STATES.iter().position(|known| *known == state)?).ok()?,
    };
    Some(match fitness {
        Fitness::Fit => at,
        Fitness::Young => at | YOUNG,
        Fitness::Unproven => at | UNPROVEN,
        Fitness::Unhealthy => at | UNHEALTHY,
    })
}

/// What an update of facts changed, item by item: state before and after.
pub type Changes = Vec<(ItemId, Option<ItemState>, Option<ItemState>)>;

impl Facts {
    /// No facts of `servers` servers.
    #[must_use]
    pub fn new(servers: usize) -> Self {
        Self { count: servers, named: servers, servers: BTreeMap::new(), digest: OnceLock::new() }
    }

    /// Goes on under another config.
    pub fn translate(&mut self, to: &Translation) {
        to.by_server(&mut self.servers);
        (self.count, self.named) = (to.servers(), to.named_servers());
        self.digest = OnceLock::new();
    }

    /// What a server stated last.
    #[must_use]
    pub fn of(&self, server: usize) -> &Stated {
        debug_assert!(server < self.count, "server {server} of {}", self.count);
        self.servers.get(&server).unwrap_or(&NOTHING)
    }

    /// True when `(generation, seq)` is newer than what is known of the server.
    #[must_use]
    pub fn is_newer(&self, server: usize, generation: u64, seq: u32) -> bool {
        let stated = self.of(server);
        (generation, seq) > (stated.generation, stated.seq)
    }

    /// Takes facts from the wire if they are newer. Returns what changed, or nothing when they are old
    /// or travel by stream.
    pub fn update(&mut self, server: usize, facts: &message::Facts, now: Time) -> Option<Changes> {
        let held = facts.held.as_ref()?;
        if !self.is_newer(server, facts.generation, facts.seq) || held.len() > limits::FACTS {
            return None;
        }
        let (generation, seq, departing) = (facts.generation, facts.seq, facts.departing);
        let mut new = Stated { generation, seq, departing, ..Stated::default() };
        for held in held {
            let Some((state, fitness)) = unpack(held.state) else { continue };
            let id = ItemId(held.item);
            if let Some(state) = state {
                new.held.insert(id, (state, now - Duration::from_millis(u64::from(held.age_ms))));
            }
            if fitness != Fitness::Fit {
                new.unfit.insert(id, fitness);
            }
        }
        Some(self.replace(server, new))
    }

    /// Puts what a server states into the place of what it stated before, without a look at what that changes.
    pub fn put(&mut self, server: usize, stated: Stated) {
        self.digest = OnceLock::new();
        self.servers.insert(server, stated);
    }

    /// Replaces what is known of a server.
    pub fn replace(&mut self, server: usize, stated: Stated) -> Changes {
        self.digest = OnceLock::new();
        let old = self.servers.insert(server, stated).unwrap_or_default();
        let new = &self.of(server).held;
        let state = |map: &BTreeMap<ItemId, (ItemState, Time)>, item| map.get(item).map(|(state, _)| *state);
        let mut changes: Changes = old
            .held
            .iter()
            .filter(|(item, (was, _))| state(new, item) != Some(*was))
            .map(|(item, (was, _))| (*item, Some(*was), state(new, item)))
            .collect();
        changes.extend(
            new.iter()
                .filter(|(item, _)| !old.held.contains_key(item))
                .map(|(item, (is, _))| (*item, None, Some(*is))),
        );
        changes
    }

    /// Facts of a server for the wire; without the list when it is too long for a datagram and
    /// `by_stream` is false.
    #[must_use]
    pub fn to_wire(&self, server: usize, now: Time, by_stream: bool) -> message::Facts {
        let stated = self.of(server);
        let standby = stated.unfit.keys().filter(|item| !stated.held.contains_key(item));
        let count = stated.held.len() + standby.clone().count();
        let held = (by_stream || message::facts_fit(count)).then(|| {
            let age = |since: Time| u32::try_from(now.since(since).as_millis()).unwrap_or(u32::MAX);
            let fitness = |item| stated.unfit.get(item).copied().unwrap_or_default();
            let held = stated.held.iter().filter_map(|(item, (state, since))| {
                Some(Held { item: item.0, state: pack(Some(*state), fitness(item))?, age_ms: age(*since) })
            });
            let standby = standby
                .filter_map(|item| Some(Held { item: item.0, state: pack(None, fitness(item))?, age_ms: 0 }));
            held.chain(standby).collect()
        });
        message::Facts { generation: stated.generation, seq: stated.seq, departing: stated.departing, held }
    }

    /// Digest over which facts are known.
    #[must_use]
    pub fn digest(&self) -> u64 {
        *self.digest.get_or_init(|| self.digest_anew())
    }

    fn digest_anew(&self) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("flip facts v1");
        for stated in (0..self.named).map(|server| self.of(server)) {
            hasher.update(&stated.generation.to_be_bytes());
            hasher.update(&stated.seq.to_be_bytes());
        }
        word(&hasher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitness_travels_with_the_state_and_without_one() {
        let now = Time::from_millis(100);
        let item = ItemId;
        let stated = Stated {
            generation: 3,
            seq: 9,
            departing: false,
            held: [(item(1), (ItemState::Active, now)), (item(2), (ItemState::Failing, now))].into(),
            unfit: [
                (item(2), Fitness::Unhealthy),
                (item(3), Fitness::Unproven),
                (item(1), Fitness::Unproven),
            ]
            .into(),
        };
        let mut here = Facts::new(1);
        here.replace(0, stated.clone());
        let wire = here.to_wire(0, now, false);
        let mut there = Facts::new(1);
        assert_eq!(there.update(0, &wire, now).expect("newer").len(), 2, "what is held");
        assert_eq!((&there.of(0).held, &there.of(0).unfit), (&stated.held, &stated.unfit));
        for byte in 0..=u8::MAX {
            if let Some((state, fitness)) = unpack(byte) {
                assert_eq!(pack(state, fitness), Some(byte), "{byte:#x}");
            }
        }
        assert_eq!(unpack(1), Some((Some(ItemState::Active), Fitness::Fit)), "as before there were checks");
        assert_eq!(unpack(0x2f), Some((None, Fitness::Young)));
        assert_eq!((unpack(0x10), unpack(0xc1), unpack(0x07)), (None, None, None));
    }

    #[test]
    fn newer_facts_replace_older_ones_and_name_the_changes() {
        let mut facts = Facts::new(2);
        let wire = |generation, seq, held: &[(u64, u8)]| message::Facts {
            generation,
            seq,
            departing: false,
            held: Some(
                held.iter().map(|(item, state)| Held { item: *item, state: *state, age_ms: 5 }).collect(),
            ),
        };
        let now = Time::from_millis(100);
        let changes = facts.update(0, &wire(1, 1, &[(7, 0), (8, 1)]), now).expect("newer");
        assert_eq!(changes.len(), 2);
        assert_eq!(facts.of(0).held[&ItemId(7)], (ItemState::Acquiring, Time::from_millis(95)));
        assert_eq!(facts.update(0, &wire(1, 1, &[]), now), None, "the same again");
        let before = facts.digest();
        let changes = facts.update(0, &wire(1, 2, &[(7, 1), (9, 1)]), now).expect("newer");
        assert_eq!(
            changes,
            [
                (ItemId(7), Some(ItemState::Acquiring), Some(ItemState::Active)),
                (ItemId(8), Some(ItemState::Active), None),
                (ItemId(9), None, Some(ItemState::Active)),
            ]
        );
        assert_eq!(facts.digest(), facts.digest_anew());
        assert_ne!(facts.digest(), before);
        assert_eq!(facts.update(0, &wire(2, 0, &[]), now).expect("a new generation").len(), 2);
        assert_eq!(facts.update(0, &wire(1, 9, &[(7, 1)]), now), None, "an old generation");
    }
}
