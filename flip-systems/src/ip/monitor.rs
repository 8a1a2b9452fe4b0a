//! The kernel's word about links and addresses, from netlink multicast.

use std::io;
use std::sync::Weak;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

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
}

impl Monitor {
    /// Subscribes, in the network namespace of the calling thread and within a tokio runtime.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        // A smaller buffer only makes `resync` more likely.
        let _ = set_socket_recv_buffer_size_force(socket.socket_ref(), KERNEL_BUFFER);
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let groups = groups.iter().fold(0, |all, group| all | 1 << (*group as u32 - 1));
        socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
        Ok(Self { socket })
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
                match Self::open() {
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
