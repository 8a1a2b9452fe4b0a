//! Being sent what is said to the multicast groups of IPv6 addresses that are not here yet.
//!
//! Whoever asks for an address hears of another host that asks for it, too, only at the address's solicited-node
//! group (RFC 4862 §5.4.2 demands to join it first). A packet socket hears what arrives, but a card or a switch that
//! follows MLD (RFC 4541) passes on only what somebody has asked for. So the kernel is asked to join, which makes it
//! say so on the link. For an address that is here it does that by itself.

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::announce::solicited_node;
use super::{State, World};

impl World {
    /// Joins the groups of the IPv6 addresses of an item. They are left when what comes back is dropped; none where
    /// there are none.
    pub(super) fn join_groups(&self, item: usize) -> Option<Socket> {
        let joined = self.lock().join_groups(item);
        // What is to be heard there is rare, and the answers of those that have the address come to all nodes.
        joined
            .inspect_err(|error| tracing::debug!(%error, "cannot join a solicited-node group"))
            .ok()
            .flatten()
    }
}

impl State {
    fn join_groups(&self, item: usize) -> io::Result<Option<Socket>> {
        let mut socket = None;
        for part in &self.parts[self.items[item].parts.clone()] {
            let IpAddr::V6(ip) = part.net.addr() else { continue };
            let Some(link) = self.talks_by(part).filter(|link| link.announces()) else { continue };
            let socket = match &mut socket {
                Some(socket) => socket,
                none => none.insert(Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?),
            };
            match socket.join_multicast_v6(&solicited_node(ip), link.index) {
                // Addresses that end alike have one group.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRINUSE) => {}
                result => result?,
            }
        }
        Ok(socket)
    }
}
