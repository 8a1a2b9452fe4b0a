//! Addresses that no config lists: what scripts put on interfaces, by the code of the ip system.
//!
//! They carry the same marks, so that they are known as flip's own, and no lifetime: nothing renews it.

use std::sync::{Arc, PoisonError};

use flip_core::Lifetime;
use flip_core::config::{Announce, Interface, IpPart, Notify};
use flip_core::id::ItemRef;
use ipnet::IpNet;

use super::announcer::{Outside, Voice};
use super::arrival::LIMIT;
use super::item::{Held, Holdings, Part};
use super::{State, World, address, raw_socket};
use crate::netlink::Netlink;
use crate::system::Drift;

/// How many addresses one daemon's scripts may handle.
const ADDRESSES: usize = 10_000;

/// The addresses of scripts.
pub(crate) struct Loose {
    world: Arc<World>,
    /// Nobody but all is told of them.
    nobody: Arc<Notify>,
}

impl Loose {
    /// Opens the sockets. `siblings` as in `system::Assigned`.
    pub(crate) fn open(siblings: usize) -> Result<Self, String> {
        let raw = raw_socket().map_err(|error| error.to_string())?;
        let netlink = Netlink::open().map_err(|error| format!("cannot open a netlink socket: {error}"))?;
        let nobody = Notify { known: false, ..Notify::default() };
        let voice = Voice::new(nobody.clone());
        let mut state = State::new(netlink, address::mark(siblings), Holdings::default(), voice, &[]);
        state.load_links().map_err(|error| format!("cannot list the interfaces: {error}"))?;
        let drift = Arc::new(Drift::default());
        Ok(Self {
            nobody: Arc::new(nobody),
            world: Arc::new(World::of(state, drift, raw, Outside::new(None, Vec::new()))),
        })
    }

    /// Puts the address on the interface and announces it, or has it announced as soon as it works. Within a
    /// runtime.
    pub(crate) fn add(&self, net: IpNet, interface: &str) -> Result<(), String> {
        if let Some(arrival) = self.world.bring(self.place(net, interface)?, Lifetime::ENDLESS)? {
            let world = Arc::clone(&self.world);
            tokio::spawn(async move {
                if let Err(error) = world.arrive(arrival, LIMIT).await {
                    tracing::debug!("not announced: {error}");
                }
            });
        }
        Ok(())
    }

    /// Takes the address away.
    pub(crate) fn del(&self, net: IpNet, interface: &str) -> Result<(), String> {
        self.world.down(self.place(net, interface)?)
    }

    /// Announces the address again, which must be there. Within a runtime.
    pub(crate) fn announce(&self, net: IpNet, interface: &str) -> Result<(), String> {
        let at = self.place(net, interface)?;
        // An earlier life may have put it there.
        self.world.observe(&[at])?;
        self.world.announce(at)
    }

    /// Its position in the list, which grows with each address that is named.
    fn place(&self, net: IpNet, interface: &str) -> Result<usize, String> {
        let mut state = self.world.state.lock().unwrap_or_else(PoisonError::into_inner);
        // No notices come here: links may have changed since.
        state.load_links().map_err(|error| format!("cannot list the interfaces: {error}"))?;
        let interface = Interface::of(interface);
        let same = |part: &Part| part.net.addr() == net.addr() && part.interface == interface;
        // Each item here has one address, so items and addresses have the same positions.
        if let Some(at) = state.parts.iter().position(same) {
            if state.parts[at].installed.is_none() {
                state.parts[at].net = net;
            }
            return Ok(at);
        }
        if state.items.len() >= ADDRESSES {
            return Err(format!("scripts have named {ADDRESSES} addresses, expected fewer"));
        }
        let at = state.items.len();
        let item = ItemRef { system: 0, item: at };
        let voice = (Announce::default(), Arc::clone(&self.nobody), false);
        state.items.push(Held::new(item, &net.addr().to_string(), at..at + 1, voice));
        state.parts.push(Part::new(&IpPart::new(net, interface)));
        Ok(at)
    }
}
