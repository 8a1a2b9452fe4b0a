//! What an operator does who looks at `flip status` now and then: takes back a drain that is over, and makes
//! sure that unclean items are released.

use std::time::Duration;

use super::happening::Mail;
use super::world::World;
use crate::event::ItemState;
use crate::io::Command;

/// How long an operator takes to look after an unclean item.
const SLOW: Duration = Duration::from_secs(3);

impl World {
    /// One look at the status of every server that runs.
    pub(super) fn operate(&mut self) {
        self.go_on_rotating();
        self.look_after_catalogs();
        for index in 0..self.hosts.len() {
            if self.hosts[index].heard.is_empty() || !self.hosts[index].runs(self.now) {
                continue;
            }
            // Servers that left the config are the last ones of the world.
            let known = self.hosts[index].node.as_ref().map_or(0, |node| node.config().servers.len());
            for server in 0..known {
                let Some(node) = self.hosts[index].node.as_ref() else { break };
                if node.is_drained(server) && !self.hosts[server].drained {
                    let id = node.config().servers[server].id.clone();
                    self.mail(index, Mail::command(Command::Undrain { server: id }));
                }
            }
            for item in 0..self.things.len() {
                self.confirm(index, item);
            }
        }
    }

    fn confirm(&mut self, index: usize, item: usize) {
        let Some(at) = self.place_at(index, item) else { return };
        let Some(node) = self.hosts[index].node.as_ref() else { return };
        let Some(spec) = node.config().systems.get(at.system).and_then(|system| system.items.get(at.item))
        else {
            return;
        };
        let Some(server) = node.unclean_on(spec.id) else {
            self.unclean.remove(&(index, item));
            return;
        };
        let name = spec.name.clone();
        let seen = *self.unclean.entry((index, item)).or_insert(self.now);
        if self.now.since(seen) < SLOW || self.hosts[server].asleep.is_some() || self.holds(server, item) {
            return;
        }
        self.unclean.remove(&(index, item));
        self.note(None, || format!("an operator makes sure that item {item} is not on n{server}"));
        self.remove(server, item);
        self.mail(index, Mail::command(Command::ConfirmReleased { item: name }));
    }

    /// Whoever goes to a server to look asks its daemon as well, which may hold the item again by now: what
    /// another server says of it is as old as the last word that reached it, and one that was paused does not
    /// know how old that is.
    fn holds(&self, server: usize, item: usize) -> bool {
        let Some(at) = self.place_at(server, item) else { return false };
        self.hosts[server].node.as_ref().is_some_and(|node| {
            let known =
                node.config().systems.get(at.system).is_some_and(|system| at.item < system.items.len());
            known && matches!(node.item_state(at).0, ItemState::Active | ItemState::Acquiring)
        })
    }
}
