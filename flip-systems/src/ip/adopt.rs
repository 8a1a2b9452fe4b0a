//! Items that come and go while others stay: the world's lists grow, and places that were left are used again. What
//! is not spoken of here is not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, MutexGuard, PoisonError};

use flip_core::config::{Interface, IpPart, Isolated, Item, Notify};
use flip_core::id::ItemRef;
use ipnet::{IpNet, Ipv4Net};

use super::connections::{self, Connections};
use super::item::{Held, Holdings, Part, Voices};
use super::listen::Ear;
use super::monitor::Monitor;
use super::others::Rules;
use super::state::State;
use super::system::peers;
use super::{Tasks, World};
use crate::system::{Assigned, OpenError};

/// Those that use one world.
#[derive(Default)]
pub(super) struct Users {
    ids: BTreeSet<u64>,
    next: u64,
    /// What each wants done with connections.
    wanted: BTreeMap<u64, connections::Wanted>,
    /// What each says of announcements.
    settings: BTreeMap<u64, Notify>,
}

impl World {
    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more uses this world; its number.
    pub(super) fn join(&self) -> u64 {
        let mut users = self.users();
        users.next += 1;
        let id = users.next;
        users.ids.insert(id);
        id
    }

    /// One uses it no more.
    pub(super) fn leave(&self, id: u64) {
        let mut users = self.users();
        users.ids.remove(&id);
        users.wanted.remove(&id);
        users.settings.remove(&id);
    }

    /// What one of them says of announcements. The pace is that of all together.
    pub(super) fn tune(&self, id: u64, settings: Notify) {
        let together = {
            let mut users = self.users();
            users.settings.insert(id, settings);
            let all = users.settings.values().cloned();
            all.reduce(|all, one| all.together(&one)).unwrap_or_default()
        };
        self.lock().voice.configure(together);
    }

    /// Whether one of those that use this world is the first of them.
    pub(super) fn is_first(&self, id: u64) -> bool {
        self.users().ids.first() == Some(&id)
    }

    /// One wants this done with connections.
    pub(super) fn want(self: &Arc<Self>, id: u64, wanted: connections::Wanted) {
        let all = {
            let mut users = self.users();
            users.wanted.insert(id, wanted);
            connections::Wanted::together(users.wanted.values())
        };
        match self.connections.get() {
            Some(connections) => connections.want(all),
            None => {
                let Some(bus) = self.outside.bus.clone() else { return };
                let Some(opened) = Connections::open(all, bus) else { return };
                // Nobody else sets it.
                drop(self.connections.set(opened));
            }
        }
        self.share_connections();
    }

    /// Tells others of connections, from when that is wanted first.
    fn share_connections(self: &Arc<Self>) {
        let Some(connections) = self.connections.get().filter(|connections| connections.shares()) else {
            return;
        };
        let mut tasks = self.tasks();
        if std::mem::replace(&mut tasks.shares, true) {
            return;
        }
        let mut life = [0; 4];
        if let Err(error) = crate::entropy(&mut life) {
            tracing::warn!(%error, "cannot get random bytes: others are not told of connections");
            return;
        }
        let weak = Arc::downgrade(self);
        let here = move || weak.upgrade().map(|world| world.shared());
        let share = connections.clone().share(u32::from_ne_bytes(life), here);
        tasks.all.push(tokio::spawn(share).abort_handle());
    }

    /// More items; gives back where each of them is.
    ///
    /// # Errors
    /// When the kernel does not let it listen for conflicts, or to its own notices. Nothing has changed then.
    pub(super) fn extend(self: &Arc<Self>, holdings: Holdings) -> Result<Vec<usize>, OpenError> {
        let mut state = self.lock();
        let hears = self.tasks().monitor.as_ref().is_some_and(|(_, routes)| *routes);
        let monitor = (holdings.has_routes() && !hears)
            .then(|| Monitor::open(state.mark, true))
            .transpose()
            .map_err(|source| OpenError::Kernel { doing: "subscribe to changes of routes", source })?;
        let listening: Vec<_> = state.others.addresses().collect();
        let more = holdings.parts.iter().map(|part| part.net.addr());
        let ears = Ear::open(listening.into_iter().chain(more))
            .map_err(|source| OpenError::Kernel { doing: "listen for conflicts", source })?;
        let places = state.extend(holdings);
        self.look_at_ground(&mut state);
        self.look(&mut state);
        drop(state);
        let mut tasks = self.tasks();
        if let Some(monitor) = monitor {
            let task = tokio::spawn(monitor.run(Arc::downgrade(self))).abort_handle();
            // The new one hears already.
            if let Some((before, _)) = tasks.monitor.replace((task, true)) {
                before.abort();
            }
        }
        let ears = ears.into_iter().map(|ear| tokio::spawn(ear.run(Arc::downgrade(self))).abort_handle());
        // The new ones hear already.
        std::mem::replace(&mut tasks.ears, ears.collect()).iter().for_each(tokio::task::AbortHandle::abort);
        Ok(places)
    }

    /// An item is served no more.
    pub(super) fn vacate(&self, item: usize) {
        let mut state = self.lock();
        self.drift.forget(state.items[item].at);
        self.leaves(&state, item);
        state.vacate(item);
    }

    /// Reads anew what the config says of items that stay as they are.
    pub(super) fn configure<'a>(
        &self,
        assigned: &Assigned<'_>,
        items: impl Iterator<Item = (usize, &'a Item)>,
    ) {
        if let Some(bus) = &self.outside.bus {
            let peers = peers(assigned.config, bus);
            self.lock().others.members.set(peers.iter().copied());
            self.outside.set_peers(peers);
        }
        let voices = Voices::read(assigned.system);
        let mut state = self.lock();
        for (place, item) in items {
            let held = &mut state.items[place];
            (held.announce, held.notify, held.proven) = voices.of(item);
            // What is wrong was said when the config was read.
            if let Ok(rules) = Rules::read(assigned.system, item.isolated == Isolated::Drop) {
                state.others.set_rules(place, rules);
            }
        }
    }
}

impl State {
    fn extend(&mut self, holdings: Holdings) -> Vec<usize> {
        let Holdings { items, parts, rules } = holdings;
        let mut parts = parts.into_iter();
        let mut places = Vec::with_capacity(items.len());
        for (held, rules) in items.into_iter().zip(rules) {
            let len = held.parts.len();
            let vacant = self.items.iter().position(|known| known.vacant && known.parts.len() == len);
            let place = vacant.unwrap_or(self.items.len());
            let range = match vacant {
                Some(place) => self.items[place].parts.clone(),
                None => self.parts.len()..self.parts.len() + len,
            };
            for at in range.clone() {
                let Some(part) = parts.next() else { break };
                if at < self.parts.len() {
                    self.parts[at] = part;
                } else {
                    self.parts.push(part);
                }
            }
            let addresses: Vec<_> = range.clone().map(|at| (at, self.parts[at].net.addr())).collect();
            let held = Held { parts: range, ..held };
            if place < self.items.len() {
                self.items[place] = held;
            } else {
                self.items.push(held);
            }
            self.others.put(place, rules, addresses.into_iter());
            places.push(place);
        }
        places
    }

    /// Nothing is known of this item any more, and nothing in the kernel is its own.
    fn vacate(&mut self, item: usize) {
        self.stop_announcing(item);
        self.others.forget(item);
        self.unlinking.remove(&item);
        let Range { start, end } = self.items[item].parts;
        for part in start..end {
            self.parts[part] = Part::nothing();
        }
        let held = &mut self.items[item];
        held.at = ItemRef { system: usize::MAX, item };
        (held.present, held.trouble, held.vacant) = (false, None, true);
    }
}

impl Part {
    /// An address that no host has, on an interface that there cannot be.
    fn nothing() -> Self {
        Self::new(&IpPart::new(IpNet::V4(Ipv4Net::default()), Interface::Name(String::new())))
    }
}
