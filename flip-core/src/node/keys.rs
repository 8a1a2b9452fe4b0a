//! The key ring of the cluster: under which key a packet is sealed, and how a change reaches everybody.
//!
//! ```text
//!  add:           ring + key ───────────────▶ told to all who are up ──▶ all have it: done
//!  use, remove:   all who are up have the present ring? ──▶ the changed ring, told as above
//! ```
//!
//! A member says which keys it has to everybody of whom it does not know that they have the same ring, with
//! whatever it sends them anyway; who has the newer ring answers with it. So whoever was away learns what
//! changed from any member with which it shares a key. Until somebody has said that it has the key in use,
//! it is spoken to under the key that it used itself last.

use std::collections::{BTreeMap, BTreeSet};

use super::{Node, Timer};
use crate::event::Event;
use crate::io::{Command, Output};
use crate::limits;
use crate::status::KeyStatus;
use crate::stored::StoredKeys;
use crate::time::Time;
use crate::translation::Translation;
use crate::wire::message::{Keys, Message, NewRing};
use crate::wire::ring::{Ring, Stamp, key_id};
use crate::wire::seal::WIRE;

/// What this node knows of the rings of others, and the change that it is asked for.
#[derive(Debug, Default)]
pub(super) struct KeyRing {
    /// What each server said it has.
    have: BTreeMap<usize, Keys>,
    change: Option<Change>,
}

impl KeyRing {
    pub(super) fn translate(&mut self, to: &Translation) {
        to.by_server(&mut self.have);
    }
}

/// A change on its way.
#[derive(Debug)]
struct Change {
    asker: u64,
    /// What was done, for people.
    what: String,
    /// The ring that is to come once all have the present one; none when it has come.
    next: Option<Ring>,
    since: Time,
}

impl Node {
    /// Seals for `to`.
    pub(super) fn seal(&mut self, to: usize, body: &[u8]) -> Vec<u8> {
        let random = rand::Rng::next_u64(&mut self.rng);
        let (wire, key) = (self.wire_for(to), self.key_for(to));
        self.seals.seal(wire, key, body, random)
    }

    /// A member has the keys that it said it has, and the one that it used itself last.
    fn key_for(&self, to: usize) -> u8 {
        let active = self.seals.ring().active();
        let has = self.keys.have.get(&to).is_some_and(|keys| keys.ids.contains(&active));
        let used = self.sessions.key(to).filter(|id| self.seals.ring().ids().any(|key| key == *id));
        if has { active } else { used.unwrap_or(active) }
    }

    /// The newest version that the receiver and every voter said they speak.
    fn wire_for(&self, to: usize) -> u8 {
        let newest = self.seals.newest();
        let speaks = |server: usize| server == self.config.me || self.sessions.wire(server) >= Some(newest);
        if newest > WIRE && speaks(to) && self.config.voters.iter().all(|voter| speaks(*voter)) {
            newest
        } else {
            WIRE
        }
    }

    fn stamp(&self) -> Stamp {
        self.seals.ring().stamp()
    }

    /// What this node has. `want` asks for the same.
    fn own_keys(&self, want: bool) -> Keys {
        let ring = self.seals.ring();
        Keys { stamp: ring.stamp(), ids: ring.ids().collect(), active: ring.active(), want }
    }

    pub(super) fn has_present_ring(&self, server: usize) -> bool {
        self.keys.have.get(&server).is_some_and(|keys| keys.stamp == self.stamp())
    }

    /// Something is about to be sent to a member: it learns which keys this node has, until it is known to
    /// have the same. A ring that nobody ever changed needs no words.
    pub(super) fn keys_to_go_along(&self, to: usize) -> Option<Message> {
        let changed = self.stamp().version > 0;
        (changed && self.sessions.is_live(to) && !self.has_present_ring(to))
            .then(|| Message::Keys(self.own_keys(true)))
    }

    /// Another process of this server speaks: what the one before it had says nothing of it.
    pub(super) fn forget_keys(&mut self, server: usize) {
        self.keys.have.remove(&server);
    }

    pub(super) fn on_keys(&mut self, server: usize, keys: Keys, now: Time) {
        if keys.ids.len() > limits::KEYS {
            return;
        }
        let (older, want) = (keys.stamp < self.stamp(), keys.want);
        self.keys.have.insert(server, keys);
        if older {
            self.tell_ring(server);
        } else if want {
            self.send(server, &Message::Keys(self.own_keys(false)));
        }
        self.go_on_with_change(now);
    }

    pub(super) fn on_ring(&mut self, server: usize, mut new: NewRing, now: Time) {
        let keys = std::mem::take(&mut new.keys);
        let Some(ring) = Ring::from_parts(new.version, new.active, keys) else { return };
        let (stamp, active, ids) = (ring.stamp(), ring.active(), ring.ids().collect());
        self.keys.have.insert(server, Keys { stamp, ids, active, want: false });
        if stamp > self.stamp() {
            self.take_ring(ring, now);
            if let Some(change) = self.keys.change.take() {
                let error = "the keys were changed on another server meanwhile: look at `flip key list`";
                self.done(change.asker, Err(error.into()));
            }
        }
        self.send(server, &Message::Keys(self.own_keys(false)));
        self.go_on_with_change(now);
    }

    fn tell_ring(&mut self, to: usize) {
        let ring = self.seals.ring();
        let keys = ring.keys().iter().map(|key| key.0).collect();
        let new = NewRing { version: ring.stamp().version, active: ring.active(), keys };
        self.send(to, &Message::Ring(new));
    }

    /// On disk before anybody is told.
    fn take_ring(&mut self, ring: Ring, now: Time) {
        let stored = StoredKeys::new(&self.config.key, ring.clone());
        self.outputs.push_back(Output::StoreKeys(stored));
        self.event(Event::KeysChanged { ids: ring.ids().collect(), active: ring.active() });
        self.seals.set_ring(ring);
        // Who has not heard of the change may still use a key that is gone.
        self.timers.set(Timer::RetireKeys, now + limits::KEY_GRACE);
    }

    pub(super) fn retire_keys(&mut self) {
        self.seals.retire();
    }

    pub(super) fn on_key_command(&mut self, asker: u64, command: &Command, now: Time) {
        let ring = self.seals.ring();
        let plan = match command {
            Command::KeyAdd { key } => {
                ring.with(key.clone()).map(|ring| (format!("key {:02x} added", key_id(key)), ring))
            }
            Command::KeyUse { id } if *id == ring.active() => {
                return self.done(asker, Ok(format!("key {id:02x} is in use already")));
            }
            Command::KeyUse { id } => ring.using(*id).map(|ring| (format!("key {id:02x} is in use"), ring)),
            Command::KeyRemove { id } => {
                ring.without(*id).map(|ring| (format!("key {id:02x} removed"), ring))
            }
            Command::Drain { .. }
            | Command::Undrain { .. }
            | Command::ConfirmReleased { .. }
            | Command::Retry { .. }
            | Command::Reloaded { .. }
            | Command::Asked { .. }
            | Command::Announce { .. }
            | Command::SetFact { .. }
            | Command::SetActive { .. }
            | Command::Edit { .. }
            | Command::File { .. } => return,
        };
        let (what, next) = match plan {
            Ok(plan) => plan,
            Err(error) => return self.done(asker, Err(error.to_string())),
        };
        if self.keys.change.is_some() {
            let error = "another change of the keys is under way on this server; wait for its end";
            return self.done(asker, Err(error.into()));
        }
        if !self.has_quorum {
            let error =
                "this server sees no quorum, and keys that a part of the cluster does not know split it";
            return self.done(asker, Err(error.into()));
        }
        let mut change = Change { asker, what, next: Some(next), since: now };
        if matches!(command, Command::KeyAdd { .. })
            && let Some(ring) = change.next.take()
        {
            self.take_ring(ring, now);
        }
        self.keys.change = Some(change);
        self.tell_all();
        self.timers.set(Timer::Keys, now + limits::KEY_REPEAT);
        self.go_on_with_change(now);
    }

    /// Members that are up and have not said that they have the present ring.
    fn without_present_ring(&self) -> Vec<usize> {
        self.up_others().into_iter().filter(|server| !self.has_present_ring(*server)).collect()
    }

    fn tell_all(&mut self) {
        for server in self.without_present_ring() {
            self.tell_ring(server);
        }
    }

    /// Whether all have what they need, and if so the next step.
    fn go_on_with_change(&mut self, now: Time) {
        let Some(change) = &mut self.keys.change else { return };
        let next = change.next.take();
        if !self.without_present_ring().is_empty() {
            if let Some(change) = &mut self.keys.change {
                change.next = next;
            }
            return;
        }
        if let Some(ring) = next {
            self.take_ring(ring, now);
            self.tell_all();
            return self.go_on_with_change(now);
        }
        if let Some(change) = self.keys.change.take() {
            self.timers.cancel(Timer::Keys);
            let away = self.names(|server| !self.view.is_up(server));
            let away = if away.is_empty() {
                String::new()
            } else {
                format!("; {away} will learn it when back, as long as a key there is still in the ring")
            };
            self.done(change.asker, Ok(format!("{} on all servers that are up{away}", change.what)));
        }
    }

    /// Tells those again who did not confirm, for a while.
    pub(super) fn repeat_keys(&mut self, now: Time) {
        let Some(change) = &self.keys.change else { return };
        if now.since(change.since) < limits::KEY_WAIT {
            self.tell_all();
            self.timers.set(Timer::Keys, now + limits::KEY_REPEAT);
            // Who did not confirm may have fallen meanwhile.
            return self.go_on_with_change(now);
        }
        let missing: BTreeSet<_> = self.without_present_ring().into_iter().collect();
        let missing = self.names(|server| missing.contains(&server));
        if let Some(change) = self.keys.change.take() {
            let error = if change.next.is_some() {
                format!("nothing was changed: {missing} did not confirm the keys that it should have already")
            } else {
                format!("{}, but {missing} did not confirm it and will learn it from the others", change.what)
            };
            self.done(change.asker, Err(error));
        }
    }

    fn names(&self, which: impl Fn(usize) -> bool) -> String {
        let ids = self.others().filter(|server| which(*server)).map(|n| self.config.servers[n].id.as_str());
        ids.collect::<Vec<_>>().join(", ")
    }

    /// The keys and who is known to have them.
    pub(super) fn key_status(&self) -> Vec<KeyStatus> {
        let ring = self.seals.ring();
        let has = |server: usize, id: u8| {
            server == self.config.me
                || self.keys.have.get(&server).is_some_and(|keys| keys.ids.contains(&id))
                || self.sessions.key(server) == Some(id)
        };
        let servers = |id| {
            let with = (0..self.config.servers.len()).filter(|server| has(*server, id));
            with.map(|server| self.config.servers[server].id.clone()).collect()
        };
        ring.ids()
            .map(|id| KeyStatus {
                id: format!("{id:02x}"),
                in_use: id == ring.active(),
                in_config: id == key_id(&self.config.key),
                servers: servers(id),
            })
            .collect()
    }
}
