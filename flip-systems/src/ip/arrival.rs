//! Announcing an address not before the kernel takes in what is sent to it.
//!
//! An IPv4 address works when the kernel has acknowledged it. An IPv6 address is finished later, by a work of the
//! kernel's own, even without detection of duplicates: that joins its solicited-node group and makes the local
//! route, and until then what is sent to the address is thrown away (addrconf_dad_start, addrconf_dad_work and
//! __ipv6_ifa_notify in net/ipv6/addrconf.c). It takes microseconds, or as long as a busy machine lets that work
//! wait. In a planned move the former holder answers meanwhile, so an announcement that came first would call its
//! clients to where nobody hears them. It would help nobody in a failover either.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use flip_core::Lifetime;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use socket2::{SockFilter, SockRef};
use tokio::time::timeout;

use super::{State, World};
use crate::netlink::{DATAGRAM, messages};

/// How long the kernel's word is waited for: where it never comes, the neighbours are told all the same.
pub(super) const LIMIT: Duration = Duration::from_secs(1);

/// An IPv6 address that the kernel has, and the link by which it should take in what is sent to it.
type Late = (Ipv6Addr, u32);

/// An item that was brought up and is not announced yet.
pub(super) struct Arrival {
    item: usize,
    late: Vec<Late>,
    notices: Notices,
}

impl World {
    /// Brings an item up and announces it; or gives it back where the kernel does not take in yet what is sent to
    /// it, for [`Self::arrive`].
    pub(super) fn bring(
        self: &Arc<Self>,
        item: usize,
        lifetime: Lifetime,
    ) -> Result<Option<Arrival>, String> {
        let ipv6 = |address| if let IpAddr::V6(ip) = address { Some(ip) } else { None };
        let ipv6: Vec<_> = self.lock().addresses_of(item).filter_map(ipv6).collect();
        // Before the addresses come, so that no notice is missed.
        let open = || {
            let opened = Notices::open(&ipv6);
            opened.inspect_err(|error| tracing::debug!(%error, "cannot subscribe to local routes")).ok()
        };
        let notices = if ipv6.is_empty() { None } else { open() };
        let late = self.alive(item, lifetime)?;
        match notices {
            _ if late.is_empty() => Ok(None),
            Some(notices) => Ok(Some(Arrival { item, late, notices })),
            None => self.came_late(item).map(|()| None),
        }
    }

    /// Announces an item as soon as the kernel takes in what is sent to it; after `limit` at the latest.
    pub(super) async fn arrive(self: &Arc<Self>, arrival: Arrival, limit: Duration) -> Result<(), String> {
        let Arrival { item, late, notices } = arrival;
        if timeout(limit, self.taken_in(late, notices)).await.is_err() {
            let name = self.lock().items[item].name.clone();
            tracing::warn!(item = name, "no local route by the kernel in {limit:?}; announced without it");
        }
        self.came_late(item)
    }

    /// Waits until the kernel takes in what is sent to these addresses.
    async fn taken_in(&self, mut late: Vec<Late>, mut notices: Notices) {
        while !late.is_empty() {
            match notices.next().await {
                Ok(()) => {
                    let come: Vec<_> = notices.addresses().collect();
                    late.retain(|(ip, _)| !come.contains(ip));
                }
                // Some were dropped, so what they said is asked for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    let mut state = self.lock();
                    late.retain(|late| !state.takes_in(*late));
                }
                Err(error) => {
                    tracing::debug!(%error, "lost the kernel's notices of local routes");
                    return;
                }
            }
        }
    }
}

impl State {
    /// The addresses of an item for which the kernel takes nothing in yet, by links with neighbours that may send
    /// something.
    pub(super) fn late(&mut self, item: usize) -> Vec<Late> {
        let mut late = Vec::new();
        for part in &self.parts[self.items[item].parts.clone()] {
            let IpAddr::V6(ip) = part.net.addr() else { continue };
            let works = self.link_of(part).filter(|link| link.announces() && link.up && link.carrier);
            late.extend(works.map(|link| (ip, link.index)));
        }
        late.retain(|late| !self.takes_in(*late));
        late
    }

    /// Whether a packet that came by this link for this address would be taken in. Where that cannot be asked, it
    /// is not known.
    fn takes_in(&mut self, (ip, index): Late) -> bool {
        self.netlink.route_in(ip, index).is_ok_and(|route| route.is_some_and(|route| is_local(&route)))
    }
}

fn is_local(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Local
}

/// The kernel's word that it made the local routes of some addresses.
struct Notices {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Notices {
    /// Subscribes, in the network namespace of the calling thread and within a tokio runtime. Not for longer than
    /// an address takes to come: a router's routes change thousands of times a second.
    fn open(to: &[Ipv6Addr]) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        SockRef::from(socket.socket_ref()).attach_filter(&local_routes(to))?;
        socket.socket_mut().bind(&SocketAddr::new(0, 1 << (MulticastGroup::Ipv6Route as u32 - 1)))?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits for the next.
    async fn next(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer).await
    }

    /// The addresses that the last was about.
    fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        messages(&self.buffer).filter_map(|message| match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) if is_local(&route) => {
                route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(*ip),
                    _ => None,
                })
            }
            _ => None,
        })
    }
}

/// A filter that lets nothing in but new local routes to addresses that end as these do: many may come at a time,
/// and who waits for one is not to be woken for each.
fn local_routes(to: &[Ipv6Addr]) -> Vec<SockFilter> {
    use libc::{BPF_ABS, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K};
    use libc::{BPF_LD, BPF_LDX, BPF_MISC, BPF_RET, BPF_TAX, BPF_W, RTM_NEWROUTE, RTN_LOCAL};
    // Offsets of nlmsg_type, of a route's rtm_type and first attribute (behind nlmsghdr and rtmsg), and of the end of
    // an attribute's value (behind nlattr).
    const TYPE: u32 = 4;
    const KIND: u32 = 23;
    const ATTRIBUTES: u32 = 28;
    const END: u32 = 4 + 12;
    // Offset 0 for an attribute that is not there.
    const FIND_ATTRIBUTE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32;
    // Each is a small number.
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let end = |bytes| op(BPF_RET | BPF_K, 0, 0, bytes);
    let mut filter = vec![
        op(BPF_LD | BPF_H | BPF_ABS, 0, 0, TYPE),
        // The kernel loads numbers as big-endian ones, and netlink has the machine's own.
        op(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, u32::from(RTM_NEWROUTE.to_be())),
        end(0),
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, KIND),
        op(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, u32::from(RTN_LOCAL)),
        end(0),
        op(BPF_LDX | BPF_IMM, 0, 0, u32::from(libc::RTA_DST)),
        op(BPF_LD | BPF_IMM, 0, 0, ATTRIBUTES),
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, FIND_ATTRIBUTE),
        op(BPF_MISC | BPF_TAX, 0, 0, 0),
        op(BPF_LD | BPF_W | BPF_IND, 0, 0, END),
    ];
    for ip in to {
        let [.., a, b, c, d] = ip.octets();
        filter.push(op(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, u32::from_be_bytes([a, b, c, d])));
        filter.push(end(u32::MAX));
    }
    filter.push(end(0));
    filter
}
