//! The datagram socket of a node.
//!
//! It hears not only datagrams but also that nobody listens at the other end: the kernel of a
//! host whose daemon died answers with ICMP "port unreachable", which is evidence within one round
//! trip. Linux keeps such answers in the socket's error queue when IP_RECVERR is set (ip(7)).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::sys;

/// A size for the receive buffer that no datagram of flip exceeds, in bytes.
pub const BUFFER: usize = 2048;

/// What is asked for the kernel's buffers, in bytes: a burst of a whole cluster while this process
/// does something else for a moment.
const KERNEL_BUFFER: usize = 1024 * 1024;

/// CS6, network control (RFC 4594 §3.2), in the upper six bits of the traffic class.
const TRAFFIC_CLASS: u32 = 48 << 2;

/// TC_PRIO_INTERACTIVE, the highest priority that needs no privilege (socket(7), SO_PRIORITY).
const PRIORITY: u32 = 6;

/// A datagram socket bound to this server's address.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use flip_systems::udp::{BUFFER, Received, UdpPort};
///
/// let port = UdpPort::bind("192.0.2.1:2200".parse()?)?;
/// let mut buffer = [0; BUFFER];
/// loop {
///     port.readable().await?;
///     while let Some(received) = port.try_recv(&mut buffer) {
///         match received {
///             Received::Datagram { from, len } => println!("{from}: {:?}", &buffer[..len]),
///             Received::Unreachable { addr } => println!("nobody listens at {addr}"),
///         }
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct UdpPort {
    socket: UdpSocket,
    counters: Counters,
}

/// What [`UdpPort::try_recv`] took from the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A datagram; its bytes are at the start of the buffer.
    Datagram {
        /// Who sent it.
        from: SocketAddr,
        /// How many bytes. A datagram longer than the buffer is cut.
        len: usize,
    },
    /// The host of `addr` itself says that nobody listens there: ICMP type 3 code 3 or ICMPv6 type 1
    /// code 4. Such a word of a router in between is not taken for it.
    Unreachable {
        /// Where the lost datagram was sent to.
        addr: SocketAddr,
    },
}

/// What a socket counted since it was bound, in datagrams unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// Handed to the kernel.
    pub sent: u64,
    /// Received.
    pub received: u64,
    /// Not sent because the kernel's buffer or queue is full (EAGAIN, ENOBUFS).
    pub send_full: u64,
    /// Not sent for want of a route or a neighbour (ENETUNREACH, EHOSTUNREACH, ENETDOWN).
    pub send_unreachable: u64,
    /// Not sent because a packet filter forbids it (EPERM, EACCES).
    pub send_denied: u64,
    /// Not sent for another reason.
    pub send_failed: u64,
    /// Sends tried twice because the first reported the error of an earlier datagram.
    pub send_retried: u64,
    /// ICMP errors that say that nobody listens.
    pub port_unreachable: u64,
    /// Other entries of the error queue.
    pub other_errors: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    send_full: AtomicU64,
    send_unreachable: AtomicU64,
    send_denied: AtomicU64,
    send_failed: AtomicU64,
    send_retried: AtomicU64,
    port_unreachable: AtomicU64,
    other_errors: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Why a socket could not be bound. There is no socket.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub addr: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on UDP {}", self.addr)?;
        match self.source.kind() {
            io::ErrorKind::AddrInUse => f.write_str(": another process, perhaps another flip, does"),
            io::ErrorKind::AddrNotAvailable => f.write_str(": no interface of this machine has this address"),
            io::ErrorKind::PermissionDenied if self.addr.port() < 1024 => f.write_str(
                ": a port below 1024 needs CAP_NET_BIND_SERVICE: run flip as root, or give it the capability \
                 (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), or configure a higher port",
            ),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl UdpPort {
    /// Binds a socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address is taken, is not one of this machine, or the kernel has no IP_RECVERR.
    pub fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let socket = Self::open(addr).map_err(|source| BindError { addr, source })?;
        Ok(Self { socket, counters: Counters::default() })
    }

    fn open(addr: SocketAddr) -> io::Result<UdpSocket> {
        let socket =
            Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        sys::enable_error_queue(socket.as_fd(), addr.is_ipv6())?;
        // The rest makes things better and not different: a refusal is no reason not to run.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, KERNEL_BUFFER).is_err() {
            drop(socket.set_recv_buffer_size(KERNEL_BUFFER));
        }
        drop(socket.set_send_buffer_size(KERNEL_BUFFER));
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
            drop(socket.set_tclass_v6(TRAFFIC_CLASS));
        } else {
            drop(socket.set_tos_v4(TRAFFIC_CLASS));
        }
        // After the traffic class, because that sets a priority too.
        drop(socket.set_priority(PRIORITY));
        socket.bind(&addr.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits until [`UdpPort::try_recv`] may have something. Cancel safe.
    ///
    /// # Errors
    /// Only when the runtime shuts down.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.ready(Interest::READABLE | Interest::ERROR).await.map(drop)
    }

    /// Takes the next datagram or unreachable address; `None` when there is nothing more, after which
    /// [`UdpPort::readable`] waits. One system call per datagram.
    pub fn try_recv(&self, buffer: &mut [u8]) -> Option<Received> {
        // Errors first: they are rare and urgent, and asking costs nothing while there are none.
        while let Ok(error) =
            self.socket.try_io(Interest::ERROR, || sys::take_queued_error(self.socket.as_fd()))
        {
            if let Some(received) = self.unreachable(error) {
                return Some(received);
            }
        }
        // Each error that is reported here is one that is in the queue as well. The bound is for a
        // kernel that would report one for ever.
        for _ in 0..4 {
            match self.socket.try_recv_from(buffer) {
                Ok((len, from)) => {
                    count(&self.counters.received);
                    return Some(Received::Datagram { from, len });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {
                    if let Ok(error) = sys::take_queued_error(self.socket.as_fd())
                        && let Some(received) = self.unreachable(error)
                    {
                        return Some(received);
                    }
                }
            }
        }
        None
    }

    /// Waits for the next datagram or unreachable address. Cancel safe.
    ///
    /// # Errors
    /// Only when the runtime shuts down.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            if let Some(received) = self.try_recv(buffer) {
                return Ok(received);
            }
            self.readable().await?;
        }
    }

    fn unreachable(&self, error: sys::QueuedError) -> Option<Received> {
        let port_unreachable = matches!(
            (error.origin, error.kind, error.code),
            (libc::SO_EE_ORIGIN_ICMP, 3, 3) | (libc::SO_EE_ORIGIN_ICMP6, 1, 4)
        );
        match error.to {
            Some(addr) if port_unreachable && error.offender == Some(addr.ip()) => {
                count(&self.counters.port_unreachable);
                Some(Received::Unreachable { addr })
            }
            Some(_) | None => {
                count(&self.counters.other_errors);
                None
            }
        }
    }

    /// Sends a datagram, without waiting and without failing: what can't be sent is lost, as any
    /// datagram may be, and counted.
    pub fn send_to(&self, data: &[u8], to: SocketAddr) {
        let socket = SockRef::from(&self.socket);
        let address = SockAddr::from(to);
        let mut result = socket.send_to(data, &address);
        if let Err(error) = &result
            && !is_full(error)
        {
            // It may be the error of an earlier datagram, perhaps to somebody else (ip(7),
            // IP_RECVERR); reporting it took it off the socket.
            count(&self.counters.send_retried);
            result = socket.send_to(data, &address);
        }
        count(match result {
            Ok(_) => &self.counters.sent,
            Err(error) if is_full(&error) => &self.counters.send_full,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN) => {
                    &self.counters.send_unreachable
                }
                Some(Errno::PERM | Errno::ACCESS) => &self.counters.send_denied,
                Some(_) | None => &self.counters.send_failed,
            },
        });
    }

    /// What was counted since the socket was bound.
    #[must_use]
    pub fn counters(&self) -> UdpCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        UdpCounters {
            sent: get(&c.sent),
            received: get(&c.received),
            send_full: get(&c.send_full),
            send_unreachable: get(&c.send_unreachable),
            send_denied: get(&c.send_denied),
            send_failed: get(&c.send_failed),
            send_retried: get(&c.send_retried),
            port_unreachable: get(&c.port_unreachable),
            other_errors: get(&c.other_errors),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AGAIN | Errno::NOBUFS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn on_runtime(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), test).await.unwrap() });
    }

    fn v4() -> UdpPort {
        UdpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    #[test]
    fn datagrams_come_in_batches() {
        on_runtime(async {
            let (a, b) = (v4(), v4());
            for i in 0..3u8 {
                a.send_to(&[i; 5], b.local_addr().unwrap());
            }
            let mut buffer = [0; BUFFER];
            for i in 0..3u8 {
                let received = b.recv(&mut buffer).await.unwrap();
                assert_eq!(received, Received::Datagram { from: a.local_addr().unwrap(), len: 5 });
                assert_eq!(buffer[..5], [i; 5]);
            }
            assert_eq!(b.try_recv(&mut buffer), None);
            assert_eq!((a.counters().sent, b.counters().received), (3, 3));
        });
    }

    #[test]
    fn nobody_listening_is_heard() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            on_runtime(async {
                let addr = bind.parse().unwrap();
                let Ok(port) = UdpPort::bind(addr) else {
                    return eprintln!("skipped: no {addr} here");
                };
                let other = UdpPort::bind(addr).unwrap();
                let gone = UdpPort::bind(addr).unwrap().local_addr().unwrap();
                let mut buffer = [0; BUFFER];
                port.send_to(b"anybody?", gone);
                assert_eq!(port.recv(&mut buffer).await.unwrap(), Received::Unreachable { addr: gone });

                // The pending error of the first must not cost the second its datagram.
                port.send_to(b"anybody?", gone);
                port.send_to(b"you?", other.local_addr().unwrap());
                let received = other.recv(&mut buffer).await.unwrap();
                assert_eq!(received, Received::Datagram { from: port.local_addr().unwrap(), len: 4 });
                assert_eq!(port.recv(&mut buffer).await.unwrap(), Received::Unreachable { addr: gone });
                let counters = port.counters();
                assert_eq!((counters.sent, counters.send_retried, counters.port_unreachable), (3, 1, 2));

                // And a datagram is not lost behind an error.
                port.send_to(b"anybody?", gone);
                other.send_to(b"me", port.local_addr().unwrap());
                assert_eq!(port.recv(&mut buffer).await.unwrap(), Received::Unreachable { addr: gone });
                let from = other.local_addr().unwrap();
                assert_eq!(port.recv(&mut buffer).await.unwrap(), Received::Datagram { from, len: 2 });
            });
        }
    }

    #[test]
    fn a_send_never_fails_the_caller() {
        on_runtime(async {
            let port = v4();
            port.send_to(b"x", "[::1]:9".parse().unwrap());
            port.send_to(&[0; 70_000], port.local_addr().unwrap());
            assert_eq!((port.counters().sent, port.counters().send_failed), (0, 2));
        });
    }

    #[test]
    fn a_taken_address_is_named() {
        on_runtime(async {
            let port = v4();
            let error = UdpPort::bind(port.local_addr().unwrap()).unwrap_err();
            assert!(error.to_string().contains("another process"), "{error}");
        });
    }
}
