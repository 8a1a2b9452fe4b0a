//! The kernel's word about links and addresses, from netlink multicast.

use std::io;
use std::sync::Weak;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{SockFilter, SockRef};

use super::World;
use crate::netlink::DATAGRAM;

/// What the kernel keeps for us while this process does something else, in bytes: some thousand
/// changes.
const KERNEL_BUFFER: usize = 1024 * 1024;

/// How long to wait before a broken socket is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// A subscription. What happens after [`Monitor::open`] is not missed.
pub(super) struct Monitor {
    socket: TokioSocket,
    mark: u8,
    routes: bool,
}

impl Monitor {
    /// Subscribes, in the network namespace of the calling thread and within a tokio runtime, to all but
    /// what the daemon with this mark itself adds and refreshes; with `routes`, also to the deletion of its
    /// routes and of rules.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub(super) fn open(mark: u8, routes: bool) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        // A smaller buffer only makes `resync` more likely.
        let _ = set_socket_recv_buffer_size_force(socket.socket_ref(), KERNEL_BUFFER);
        // Without it every notice of a refresh is read, understood and forgotten.
        if let Err(error) = SockRef::from(socket.socket_ref()).attach_filter(&what_may_matter(mark)) {
            tracing::debug!(%error, "cannot filter the kernel's notices");
        }
        let addresses = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let of_routes = [
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        // A router's routes change thousands of times a second: nobody hears of them without need.
        let groups = addresses.iter().chain(of_routes.iter().filter(|_| routes));
        let groups = groups.fold(0, |all, group| all | 1 << (*group as u32 - 1));
        socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
        Ok(Self { socket, mark, routes })
    }

    /// Passes everything on until the world is gone. May be aborted at any time.
    pub(super) async fn run(mut self, world: Weak<World>) {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            let error = match self.socket.recv(&mut buffer).await {
                Ok(()) => {
                    let Some(world) = world.upgrade() else { return };
                    world.kernel_says(&buffer);
                    continue;
                }
                Err(error) => error,
            };
            // ENOBUFS says that the kernel had more to tell than the buffer holds. It says so once,
            // and goes on to drop until the queue has been read empty (netlink_overrun in
            // net/netlink/af_netlink.c), so that a list read in between would be followed by
            // changes that nobody hears of. A fresh socket has no such state.
            if error.raw_os_error() == Some(libc::ENOBUFS) {
                tracing::debug!("too many address changes at once; reading all");
            } else {
                tracing::warn!(%error, "lost the kernel's notices of address changes; subscribing again");
                tokio::time::sleep(REOPEN).await;
            }
            self = loop {
                match Self::open(self.mark, self.routes) {
                    Ok(monitor) => break monitor,
                    Err(error) => tracing::warn!(%error, "cannot subscribe to address changes"),
                }
                tokio::time::sleep(REOPEN).await;
            };
            let Some(world) = world.upgrade() else { return };
            world.resync();
        }
    }
}

/// A filter that keeps RTM_NEWADDR out where IFA_PROTO is `mark`: refreshes of a thousand addresses would
/// fill the queue again and again, and tell nothing that is not known. Of routes and rules only what is deleted
/// matters, and of routes only those whose protocol is `mark`.
fn what_may_matter(mark: u8) -> [SockFilter; 16] {
    use libc::{BPF_ABS, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K};
    use libc::{BPF_LD, BPF_LDX, BPF_MISC, BPF_RET, BPF_TAX, BPF_W};
    // Offsets of nlmsg_type, of a route's rtm_protocol, of the first attribute of an address (behind nlmsghdr
    // and ifaddrmsg) and of an attribute's value (behind nlattr).
    const TYPE: u32 = 4;
    const PROTOCOL: u32 = 21;
    const ATTRIBUTES: u32 = 24;
    const VALUE: u32 = 4;
    const IFA_PROTO: u32 = 11;
    // Offset 0 for an attribute that is not there.
    const FIND_ATTRIBUTE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32;
    // The kernel loads numbers as big-endian ones, and netlink has the machine's own.
    let kind = |kind: u16| u32::from(kind.to_be());
    // Each is a small number.
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    [
        op(BPF_LD | BPF_H | BPF_ABS, 0, 0, TYPE),
        op(BPF_JMP | BPF_JEQ | BPF_K, 13, 0, kind(libc::RTM_NEWROUTE)),
        op(BPF_JMP | BPF_JEQ | BPF_K, 12, 0, kind(libc::RTM_NEWRULE)),
        op(BPF_JMP | BPF_JEQ | BPF_K, 8, 0, kind(libc::RTM_DELROUTE)),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 9, kind(libc::RTM_NEWADDR)),
        op(BPF_LDX | BPF_IMM, 0, 0, IFA_PROTO),
        op(BPF_LD | BPF_IMM, 0, 0, ATTRIBUTES),
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, FIND_ATTRIBUTE),
        op(BPF_JMP | BPF_JEQ | BPF_K, 5, 0, 0),
        op(BPF_MISC | BPF_TAX, 0, 0, 0),
        op(BPF_LD | BPF_B | BPF_IND, 0, 0, VALUE),
        op(BPF_JMP | BPF_JEQ | BPF_K, 3, 2, u32::from(mark)),
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, PROTOCOL),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, u32::from(mark)),
        op(BPF_RET | BPF_K, 0, 0, u32::MAX),
        op(BPF_RET | BPF_K, 0, 0, 0),
    ]
}
