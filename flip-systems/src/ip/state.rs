//! What this server knows of its links and addresses, and what it asks the kernel about them.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use flip_core::Time;
use flip_core::config::Interface;
use tokio::sync::watch;

use super::address::{self, Bound, Maker};
use super::announcer::Voice;
use super::conflict::Members;
use super::ground::Ground;
use super::item::{Held, Holdings, Part};
use super::others::Others;
use super::plan::{self, Links, Wanted};
use crate::clock;
use crate::interfaces::Link;
use crate::netlink::Netlink;
use crate::system::Leftover;

pub(super) struct State {
    pub(super) netlink: Netlink,
    /// IFA_PROTO of what this daemon adds.
    pub(super) mark: u8,
    pub(super) links: Links,
    pub(super) ground: Ground,
    pub(super) others: Others,
    pub(super) items: Vec<Held>,
    /// The addresses of all items, each item's together.
    pub(super) parts: Vec<Part>,
    /// What had failed the kernel's detection of duplicates when the addresses were read last.
    pub(super) failed: Vec<Bound>,
    pub(super) voice: Voice,
    /// When a failing refresh was last told of.
    pub(super) warned: Option<Time>,
    /// When a route that somebody deleted was last told of.
    pub(super) told_of_routes: Option<Time>,
    /// Items whose links are being deleted; true when they are gone.
    pub(super) unlinking: BTreeMap<usize, watch::Receiver<bool>>,
}

impl State {
    pub(super) fn addresses_of(&self, item: usize) -> impl Iterator<Item = IpAddr> {
        self.parts[self.items[item].parts.clone()].iter().map(|part| part.net.addr())
    }

    pub(super) fn new(netlink: Netlink, mark: u8, holdings: Holdings, voice: Voice, peers: &[usize]) -> Self {
        let Holdings { items, parts, rules } = holdings;
        let places = |held: (usize, &Held)| held.1.parts.clone().map(move |_| held.0);
        let item_of = items.iter().enumerate().flat_map(places);
        let addresses = item_of.zip(parts.iter().map(|part: &Part| part.net.addr()));
        let others = Others::new(Members::new(peers.iter().copied(), clock::now()), rules, addresses);
        let (links, ground) = (Links::new(), Ground::default());
        let (failed, unlinking) = (Vec::new(), BTreeMap::new());
        Self {
            netlink,
            mark,
            links,
            ground,
            others,
            items,
            parts,
            failed,
            voice,
            warned: None,
            told_of_routes: None,
            unlinking,
        }
    }

    pub(super) fn is_announcing(&self, item: usize) -> bool {
        self.items[item].parts.clone().any(|part| self.voice.is_announcing(part))
    }

    pub(super) fn stop_announcing(&mut self, item: usize) {
        self.items[item].parts.clone().for_each(|part| self.voice.stop(part));
    }

    pub(super) fn load_links(&mut self) -> io::Result<()> {
        let links = self.netlink.links()?;
        self.links = links.iter().filter_map(Link::from_message).map(|l| (l.index, l)).collect();
        Ok(())
    }

    /// Whether all addresses of an item are here, as far as is known.
    pub(super) fn is_whole(&self, item: usize) -> bool {
        self.parts[self.items[item].parts.clone()].iter().all(|part| part.present)
    }

    /// Why an item cannot be announced: an address of it is not here, or its time is over.
    pub(super) fn check_here(&self, item: usize) -> Result<(), String> {
        let here = |part: &Part| part.present && !part.is_over();
        match self.items[item].parts.clone().find(|part| !here(&self.parts[*part])) {
            Some(part) => Err(format!("{} is not on {}", self.parts[part].net, self.interface_of(part))),
            None => Ok(()),
        }
    }

    pub(super) fn set_present(&mut self, item: usize, present: bool) {
        self.items[item].present = present;
        if !present {
            self.stop_announcing(item);
        }
    }

    /// The link that an address is on, or would be looked for by its name.
    pub(super) fn link_of(&self, part: &Part) -> Option<&Link> {
        self.links.get(&plan::place(&part.wanted(), &self.links, &[])?)
    }

    /// The link by which neighbours are spoken to of an address: its own, or the interface where that will be made.
    pub(super) fn talks_by(&self, part: &Part) -> Option<&Link> {
        let parent = || plan::place(&Wanted { own: None, at: None, ..part.wanted() }, &self.links, &[]);
        self.link_of(part).or_else(|| self.links.get(&parent()?))
    }

    /// The interface of an address, for people.
    pub(super) fn interface_of(&self, part: usize) -> String {
        let part = &self.parts[part];
        self.link_of(part).map_or_else(|| part.interface.to_string(), |link| link.name.clone())
    }

    /// Whether the host's addresses say on which link some item is.
    pub(super) fn chooses_links(&self) -> bool {
        self.parts.iter().any(|part| part.interface == Interface::Auto)
    }

    pub(super) fn bound(&mut self) -> io::Result<Vec<Bound>> {
        let addresses = self.netlink.addresses()?;
        let bound = addresses.iter().filter_map(|message| Bound::from_message(message, self.mark));
        let bound: Vec<_> = bound.collect();
        self.failed = bound.iter().filter(|bound| bound.failed).copied().collect();
        Ok(bound)
    }

    /// For each address what is there of it, our own first.
    pub(super) fn found(&self, bound: &[Bound]) -> Vec<Option<Bound>> {
        plan::found(self.parts.iter().map(Part::wanted), &self.links, bound)
    }

    /// Whether a notice says something else than what is known.
    pub(super) fn surprised(&self, address: IpAddr, present: bool) -> bool {
        self.parts.iter().any(|part| part.net.addr() == address && part.present != present)
    }

    /// Finds what an earlier life left: keeps what is configured as it is, removes the rest if it may.
    pub(super) fn sort_leftovers(&mut self, remove: bool) -> io::Result<Vec<Leftover>> {
        let bound = self.bound()?;
        let wanted: Vec<_> = self.parts.iter().map(Part::wanted).collect();
        let items = self.items.iter().map(|held| held.parts.clone());
        let sorted = plan::leftovers(&wanted, items, &self.links, &bound);
        let mut leftovers = Vec::new();
        for (b, adopted) in sorted {
            let name = self.links.get(&b.index).map_or("?", |link| link.name.as_str());
            let what = format!("{} on {name}", b.net);
            if adopted {
                tracing::info!("found {what} of an earlier life: kept");
            } else if !remove {
                tracing::info!(
                    "found {what} of an earlier life, not in the config: left alone, as configured"
                );
                continue;
            } else {
                match self.netlink.delete_address(address::delete(b.net, b.index)) {
                    Ok(()) => tracing::info!("found {what} of an earlier life, not in the config: removed"),
                    Err(error) => {
                        tracing::warn!(%error, "found {what} of an earlier life, not in the config; cannot remove it");
                        continue;
                    }
                }
            }
            leftovers.push(Leftover { what, adopted });
        }
        let bound = self.bound()?;
        for (part, found) in self.found(&bound).into_iter().enumerate() {
            self.parts[part].present = found.is_some();
            if found.is_some_and(|bound| bound.maker != Maker::Us) {
                let (net, interface) = (self.parts[part].net, self.interface_of(part));
                tracing::info!("{net} is on {interface} and was not put there by flip: tolerated");
            }
        }
        for item in 0..self.items.len() {
            self.items[item].present = self.is_whole(item);
        }
        if remove {
            self.remove_links_left();
            self.remove_routes_left()?;
        }
        Ok(leftovers)
    }
}
