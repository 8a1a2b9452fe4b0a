//! Links of an item's own: a macvlan whose hardware address moves along with the item.
//!
//! ```text
//!   neighbours ── eth0 (host's MAC, host's address)
//!                   └── flip1a2b3c4d-0 (item's MAC, item's addresses)
//! ```
//!
//! The neighbours' caches stay right when the item moves: only a switch has to learn the port, which the first
//! announcement does. For that nobody but the link itself may answer for the addresses, and it for no others.
//! The kernel sees both as one host, so without the settings below each would answer for all:
//!
//! - `arp_ignore` 1 on both: answer for addresses on the interface that was asked.
//! - `arp_announce` 2 on the parent: questions of the host that are caused by packets from the item's address
//!   name the host's own address, and not the item's with the host's MAC.
//! - `rp_filter` 2 on the link: the way back leads over the parent, which is no forgery.
//! - no IPv6 addresses of the kernel's making, because two servers would make the same.
//!
//! The link has an alias, by which the next life of the daemon knows it, and is in bridge mode, so that macvlans
//! of containers on the same parent reach the item.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use flip_core::id::ItemId;
use tokio::sync::watch;

use super::State;
use super::address::PROTOCOL;
use super::plan::{self, Step, Wanted};
use crate::interfaces::{Link, Mac};
use crate::netlink::Netlink;

/// What the name of every such link begins with.
const PREFIX: &str = "flip";

/// A link that is made for an item where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnLink {
    pub(super) name: String,
    pub(super) mac: Mac,
}

impl OwnLink {
    /// The link of an item on its `nth` interface, as the daemon with this mark has it. The name has 14 or 15
    /// bytes, which is what the kernel takes.
    pub(super) fn new(item: ItemId, nth: usize, mark: u8, mac: [u8; 6]) -> Self {
        let ItemId(id) = item;
        // Siblings on one host may have the same item.
        let id = (id as u32).wrapping_add(u32::from(mark - PROTOCOL).wrapping_mul(0x9e37_79b9));
        Self { name: format!("{PREFIX}{id:08x}-{nth}"), mac: Mac(mac) }
    }
}

/// The alias of a link that the daemon with this mark makes, but for the item's name at its end.
fn alias_prefix(mark: u8) -> String {
    format!("{PREFIX} {mark:02x} ")
}

/// Whether a link is one of those.
pub(super) fn is_own(link: &Link, mark: u8) -> bool {
    link.alias.as_ref().is_some_and(|alias| alias.starts_with(&alias_prefix(mark)))
}

impl State {
    /// Makes the links that an item needs. Those that are there as they should be stay.
    pub(super) fn make_links(&mut self, item: usize) -> Result<(), String> {
        let range = self.items[item].parts.clone();
        if self.parts[range.clone()].iter().all(|part| part.own.is_none()) {
            return Ok(());
        }
        // Somebody may have changed a link without a notice that was read already.
        self.load_links().map_err(|error| format!("cannot list the interfaces: {error}"))?;
        let bound = self.bound().map_err(|error| format!("cannot list the addresses: {error}"))?;
        let wanted: Vec<Wanted<'_>> = self.parts[range.clone()].iter().map(super::Part::wanted).collect();
        let steps = plan::own_links(&wanted, &self.links, &bound).map_err(|refusal| refusal.to_string())?;
        for step in &steps {
            match *step {
                Step::Unlink { index } => {
                    self.delete_link(index).map_err(|error| format!("cannot delete a link: {error}"))?;
                }
                Step::Link { part, parent } => self.make_link(item, range.start + part, parent)?,
                // Not of this plan.
                Step::Promote { .. } | Step::Set { .. } | Step::Delete { .. } | Step::Announce { .. } => {}
            }
        }
        if steps.is_empty() {
            return Ok(());
        }
        self.load_links().map_err(|error| format!("cannot list the interfaces: {error}"))
    }

    fn make_link(&mut self, item: usize, part: usize, parent: u32) -> Result<(), String> {
        let Some(own) = self.parts[part].own.clone() else { return Ok(()) };
        let on = self.links.get(&parent).map_or_else(|| "?".to_owned(), |link| link.name.clone());
        let failed = |error| format!("cannot make the link {} with {} on {on}: {error}", own.name, own.mac);
        let mut alias = format!("{}{}", alias_prefix(self.mark), self.items[item].name);
        // IFALIASZ, cut where a character ends.
        alias.truncate((0..=255).rev().find(|at| alias.is_char_boundary(*at)).unwrap_or(0));
        prepare_parent(&on);
        self.netlink.add_macvlan(&own.name, parent, own.mac, &alias).map_err(failed)?;
        prepare_link(&own.name);
        let up = self.netlink.set_up(&own.name);
        up.map_err(|error| {
            let text = failed(error);
            drop(self.load_links());
            self.unlink(item);
            text
        })
    }

    /// Deletes the links of an item, which take along what is on them. The kernel takes some 20 ms for that, so
    /// another thread waits for it; [`super::World::unlinked`] tells when they are gone.
    pub(super) fn unlink(&mut self, item: usize) {
        let parts = &self.parts[self.items[item].parts.clone()];
        let own: BTreeMap<u32, String> = parts
            .iter()
            .filter_map(|part| plan::named(&part.own.as_ref()?.name, &self.links))
            .map(|link| (link.index, link.name.clone()))
            .collect();
        if own.is_empty() {
            return;
        }
        self.links.retain(|index, _| !own.contains_key(index));
        let (done, gone) = watch::channel(false);
        self.unlinking.insert(item, gone);
        tokio::task::spawn_blocking(move || {
            for (index, name) in own {
                let deleted = Netlink::open().and_then(|mut netlink| netlink.delete_link(index));
                if let Err(error) = deleted {
                    tracing::warn!(%error, "cannot delete the link {name}");
                }
            }
            // Nobody may wait.
            let _ = done.send(true);
        });
    }

    /// Deletes links of an earlier life that no item has whose addresses were kept.
    pub(super) fn remove_links_left(&mut self) {
        let kept: BTreeSet<&str> = self
            .items
            .iter()
            .filter(|held| held.present)
            .flat_map(|held| &self.parts[held.parts.clone()])
            .filter_map(|part| Some(part.own.as_ref()?.name.as_str()))
            .collect();
        let left = self.links.values().filter(|link| is_own(link, self.mark));
        let left: Vec<_> = left
            .filter(|link| !kept.contains(link.name.as_str()))
            .map(|link| (link.index, link.name.clone()))
            .collect();
        for (index, name) in left {
            match self.delete_link(index) {
                Ok(()) => tracing::info!("found the link {name} of an earlier life: removed"),
                Err(error) => {
                    tracing::warn!(%error, "found the link {name} of an earlier life; cannot remove it")
                }
            }
        }
    }

    fn delete_link(&mut self, index: u32) -> std::io::Result<()> {
        self.netlink.delete_link(index)?;
        self.links.remove(&index);
        Ok(())
    }
}

fn prepare_parent(name: &str) {
    at_least("ipv4", name, "arp_ignore", 1);
    at_least("ipv4", name, "arp_announce", 2);
}

fn prepare_link(name: &str) {
    at_least("ipv4", name, "arp_ignore", 1);
    at_least("ipv4", name, "arp_announce", 2);
    at_least("ipv4", name, "rp_filter", 2);
    // No link-local address of its own: 1 is "none" (IN6_ADDR_GEN_MODE_NONE).
    at_least("ipv6", name, "addr_gen_mode", 1);
    set("ipv6", name, "accept_ra", 0);
    set("ipv6", name, "autoconf", 0);
}

/// Raises a setting of an interface, and says so where it is the host's.
fn at_least(family: &str, interface: &str, key: &str, least: i64) {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{key}");
    let present = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i64>().ok());
    if present.is_none_or(|present| present < least) {
        set(family, interface, key, least);
    }
}

fn set(family: &str, interface: &str, key: &str, value: i64) {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{key}");
    // Without IPv6 in the kernel there is nothing to set.
    if !fs::exists(&path).unwrap_or(false) {
        return;
    }
    match fs::write(&path, value.to_string()) {
        Ok(()) if interface.starts_with(PREFIX) => {}
        Ok(()) => tracing::info!("set {path} to {value}, because an item has a hardware address of its own"),
        Err(error) => {
            tracing::warn!(%error, "cannot set {path} to {value}; neighbours may learn a wrong hardware address");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let mac = [0, 0, 0x5e, 0, 1, 7];
        let name = |id, nth, mark| OwnLink::new(ItemId(id), nth, mark, mac).name;
        assert_eq!(name(0x1234_5678_9abc_def0, 0, PROTOCOL), "flip9abcdef0-0");
        assert_ne!(name(1, 0, PROTOCOL), name(1, 0, PROTOCOL + 1));
        assert_ne!(name(1, 0, PROTOCOL), name(2, 0, PROTOCOL));
        assert!(name(u64::MAX, 63, PROTOCOL + 15).len() <= 15);
    }
}
