//! Marks: what operators said of servers (drained) and what hooks left behind (unclean items). Everybody
//! has the same, the highest version wins, and digests repair what was lost.

use std::collections::{BTreeMap, BTreeSet};

use super::told::Tell;
use super::{Node, Timer};
use crate::event::{Event, ItemState, Reason};
use crate::id::{ItemId, ItemRef, ShortId};
use crate::io::{Command, Output};
use crate::limits;
use crate::time::Time;
use crate::view::word;
use crate::wire::message::{Mark, Message};

/// All marks.
#[derive(Debug, Default)]
pub(super) struct Marks {
    by_subject: BTreeMap<(u16, Option<u64>), (u32, bool)>,
    /// Items that are unclean somewhere, because placement asks for each item.
    unclean: BTreeSet<u64>,
    /// Repetitions of the newest marks still to come.
    repeats: u32,
}

impl Marks {
    fn is_set(&self, server: u16, item: Option<u64>) -> bool {
        self.by_subject.get(&(server, item)).is_some_and(|(_, set)| *set)
    }

    /// Takes a mark unless a newer one is known. True when it changes what holds.
    fn take(&mut self, mark: &Mark) -> bool {
        let known = self.by_subject.entry((mark.server, mark.item)).or_default();
        let before = known.1;
        *known = (*known).max((mark.version, mark.set));
        let changed = known.1 != before;
        if let (Some(item), true) = (mark.item, changed) {
            let set = self.by_subject.iter().any(|((_, other), (_, set))| *other == Some(item) && *set);
            if set {
                self.unclean.insert(item)
            } else {
                self.unclean.remove(&item)
            };
        }
        changed
    }

    fn all(&self) -> Vec<Mark> {
        let mark = |((server, item), (version, set)): (&(u16, Option<u64>), &(u32, bool))| Mark {
            server: *server,
            item: *item,
            version: *version,
            set: *set,
        };
        self.by_subject.iter().map(mark).collect()
    }

    /// Forgets what was said of servers and items that no config names.
    pub(super) fn keep(&mut self, known: impl Fn(ShortId, Option<ItemId>) -> bool) {
        let is_known = |server: &u16, item: &Option<u64>| known(ShortId(*server), item.map(ItemId));
        self.by_subject.retain(|(server, item), _| is_known(server, item));
        let marked = &self.by_subject;
        self.unclean.retain(|item| marked.iter().any(|((_, of), (_, set))| *set && *of == Some(*item)));
    }

    pub(super) fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("flip marks v1");
        for ((server, item), (version, set)) in &self.by_subject {
            hasher.update(&server.to_be_bytes());
            hasher.update(&item.unwrap_or_default().to_be_bytes());
            hasher.update(&[u8::from(item.is_some()), u8::from(*set)]);
            hasher.update(&version.to_be_bytes());
        }
        word(&hasher)
    }
}

impl Node {
    /// True while an operator keeps items away from a server.
    #[must_use]
    pub fn is_drained(&self, server: usize) -> bool {
        self.marks.is_set(self.config.servers[server].short.0, None)
    }

    /// The server on which an item may still be, though it should not: nobody may take it.
    #[must_use]
    pub fn unclean_on(&self, item: ItemId) -> Option<usize> {
        if !self.marks.unclean.contains(&item.0) {
            return None;
        }
        (0..self.config.servers.len())
            .find(|server| self.marks.is_set(self.config.servers[*server].short.0, Some(item.0)))
    }

    pub(super) fn marks(&self) -> Vec<Mark> {
        self.marks.all()
    }

    /// Says something new of a server, or of an item on it.
    pub(super) fn mark(&mut self, server: usize, item: Option<ItemId>, set: bool, now: Time) {
        let server = self.config.servers[server].short.0;
        let item = item.map(|id| id.0);
        let version = self.marks.by_subject.get(&(server, item)).map_or(0, |(version, _)| *version);
        let mark = Mark { server, item, version: version.saturating_add(1), set };
        self.marks.repeats = 2;
        self.take_marks(&[mark], now);
        self.tell_marks(now);
    }

    pub(super) fn tell_marks(&mut self, now: Time) {
        let all = self.marks.all();
        for to in self.up_others() {
            for part in all.chunks(limits::MARKS_PER_DATAGRAM) {
                self.send(to, &Message::Marks(part.to_vec()));
            }
        }
        if self.marks.repeats > 0 {
            self.marks.repeats -= 1;
            self.timers.set(Timer::Marks, now + limits::REPEAT_PAUSE);
        }
    }

    pub(super) fn take_marks(&mut self, marks: &[Mark], now: Time) {
        let mut changed = false;
        for mark in marks {
            let Some(server) = self.config.server_index(ShortId(mark.server)) else { continue };
            let item = mark.item.map(|id| self.leases.row.find(ItemId(id)));
            if item == Some(None) || !self.marks.take(mark) {
                continue;
            }
            changed = true;
            match item.flatten() {
                None => self.event(Event::Drained { server, drained: mark.set }),
                Some(at) => {
                    let at = self.leases.row.item(at);
                    self.event(Event::Unclean { server, item: at, unclean: mark.set });
                    if server == self.config.me && !mark.set {
                        self.on_confirmed(at, now);
                    }
                }
            }
        }
        if changed {
            self.replace_items(now);
        }
    }

    /// Somebody made sure that the item is gone from here.
    fn on_confirmed(&mut self, at: ItemRef, now: Time) {
        if self.item_state(at).0 == ItemState::Unclean {
            self.change(at, ItemState::Standby, Reason::Confirmed, now);
            self.release_lease(at, now);
        }
    }

    pub(super) fn on_command(&mut self, asker: u64, command: &Command, now: Time) {
        let result = match command {
            Command::Drain { server } => self.drain(server, true, now),
            Command::Undrain { server } => self.drain(server, false, now),
            Command::ConfirmReleased { item } => self.confirm_released(item, now),
            Command::SetFact { key, value } => {
                let told = Tell::Fact { key: key.clone(), value: value.clone() };
                return self.on_told_command(asker, told, now);
            }
            Command::SetActive { active, reason } => {
                let told = Tell::Active { active: *active, reason: reason.clone() };
                return self.on_told_command(asker, told, now);
            }
            Command::Retry { item } => self.retry(item),
            Command::Reloaded { result } => {
                self.event(Event::Reloaded { result: result.clone() });
                result.clone()
            }
            Command::Asked { by, from, what, result } => {
                let result = result.clone();
                self.event(Event::Asked { by: by.clone(), from: from.clone(), what: what.clone(), result });
                Ok(String::new())
            }
            Command::Announce { item } => self.announce_command(item.as_deref()),
            Command::KeyAdd { .. } | Command::KeyUse { .. } | Command::KeyRemove { .. } => {
                return self.on_key_command(asker, command, now);
            }
            Command::Edit { .. } | Command::File { .. } => {
                return self.on_edit_command(asker, command, now);
            }
        };
        self.outputs.push_back(Output::Done { asker, result });
    }

    fn drain(&mut self, id: &str, set: bool, now: Time) -> Result<String, String> {
        let Some(server) = self.config.servers.iter().position(|server| server.id == id) else {
            let known: Vec<_> = self.config.servers.iter().map(|server| server.id.as_str()).collect();
            return Err(format!("there is no server {id}; the servers are {}", known.join(", ")));
        };
        if self.is_drained(server) == set {
            return Ok(format!("{id} was {}drained already", if set { "" } else { "not " }));
        }
        self.mark(server, None, set, now);
        Ok(if set {
            format!("{id} is drained: its items move, and none comes until `flip undrain {id}`")
        } else {
            format!("{id} takes items again")
        })
    }

    fn confirm_released(&mut self, name: &str, now: Time) -> Result<String, String> {
        let found: Vec<_> = (0..self.leases.row.len())
            .map(|at| self.leases.row.item(at))
            .filter(|at| self.config.systems[at.system].items[at.item].is_called(name))
            .map(|at| self.config.systems[at.system].items[at.item].id)
            .collect();
        if found.is_empty() {
            return Err(format!("there is no item {name}; `flip status` lists them"));
        }
        let unclean: Vec<_> = found.into_iter().filter_map(|id| Some((id, self.unclean_on(id)?))).collect();
        if unclean.is_empty() {
            return Err(format!("{name} is not unclean: nothing needs to be confirmed"));
        }
        for (id, _) in &unclean {
            while let Some(server) = self.unclean_on(*id) {
                self.mark(server, Some(*id), false, now);
            }
        }
        Ok(format!("{name} counts as released: another server may take it"))
    }
}
