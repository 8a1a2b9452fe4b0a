//! Asking a witness: ICMP echo, as ping(8) does.
//!
//! A witness is an address outside of the cluster, such as the default gateway, whose answer tells that
//! this host's own network works.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

/// Type of an echo request and of its reply (RFC 792, "Echo or Echo Reply Message"; RFC 4443 §4).
const V4: (u8, u8) = (8, 0);
const V6: (u8, u8) = (128, 129);
/// Type, code, checksum, identifier and sequence number.
const HEADER: usize = 8;
const COOKIE: usize = 8;

/// A socket that asks one address and hears its answers.
#[derive(Debug)]
pub struct Witness {
    addr: IpAddr,
    /// Only the type of the runtime; the socket is an ICMP one.
    socket: UdpSocket,
    /// Comes back in answers to this socket alone: others on this host ask too, and a stranger can't
    /// guess it.
    cookie: [u8; COOKIE],
    /// Whether the kernel hands in the IP header as well.
    headers: bool,
}

impl Witness {
    /// Opens a socket: one of the kernel's ping sockets where they are allowed
    /// (`net.ipv4.ping_group_range`, icmp(7)), else a raw one. Must be called within a tokio runtime.
    /// Whether there is a route to `addr` does not matter yet.
    ///
    /// # Errors
    /// `PermissionDenied` when this process may have neither: it lacks CAP_NET_RAW. Else those of
    /// socket(2) and getrandom(2).
    pub fn open(addr: IpAddr) -> io::Result<Self> {
        let (domain, protocol) = match addr {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let open = |kind: Type| Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol));
        let (socket, raw) = match open(Type::DGRAM) {
            Ok(socket) => (socket, false),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (open(Type::RAW)?, true),
            Err(error) => return Err(error),
        };
        let mut cookie = [0; COOKIE];
        rustix::rand::getrandom(&mut cookie[..], rustix::rand::GetRandomFlags::empty())?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { addr, socket, cookie, headers: raw && addr.is_ipv4() })
    }

    /// Sends one echo request, without waiting and without failing: a request that can't be sent is
    /// one that is not answered.
    pub fn ping(&self, nonce: u16) {
        let (request, _) = self.types();
        let mut message = [0; HEADER + COOKIE];
        message[0] = request;
        message[4..6].copy_from_slice(&self.cookie[..2]);
        message[6..8].copy_from_slice(&nonce.to_be_bytes());
        message[HEADER..].copy_from_slice(&self.cookie);
        if self.addr.is_ipv4() {
            // The sum of IPv6 covers addresses that only the kernel knows, so that the kernel makes it.
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let to = SocketAddr::new(self.addr, 0).into();
        let socket = SockRef::from(&self.socket);
        if socket.send_to(&message, &to).is_err() {
            // It may be the error of an earlier request, which is off the socket now.
            if let Err(error) = socket.send_to(&message, &to) {
                tracing::debug!(witness = %self.addr, %error, "cannot ask the witness");
            }
        }
    }

    /// Waits for the next answer and gives its nonce. Cancel safe.
    ///
    /// # Errors
    /// Only when the runtime shuts down.
    pub async fn answered(&self) -> io::Result<u16> {
        let mut buffer = [0; 256];
        loop {
            self.socket.readable().await?;
            // An error is that of an earlier request, and off the socket with this.
            let Ok((length, from)) = self.socket.try_recv_from(&mut buffer) else { continue };
            if from.ip() == self.addr
                && let Some(nonce) = self.nonce(&buffer[..length])
            {
                return Ok(nonce);
            }
        }
    }

    const fn types(&self) -> (u8, u8) {
        match self.addr {
            IpAddr::V4(_) => V4,
            IpAddr::V6(_) => V6,
        }
    }

    /// The nonce of an answer to this socket.
    fn nonce(&self, packet: &[u8]) -> Option<u16> {
        let message = match self.headers {
            // The low half of the first byte counts words of four bytes (RFC 791 §3.1).
            true => packet.get(usize::from(packet.first()? & 0xf) * 4..)?,
            false => packet,
        };
        let answers = message.first() == Some(&self.types().1) && message.get(HEADER..)? == self.cookie;
        let nonce = message.get(6..HEADER)?.try_into().ok()?;
        answers.then_some(u16::from_be_bytes(nonce))
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(message: &[u8]) -> u16 {
    debug_assert!(message.len().is_multiple_of(2));
    let mut sum: u32 = message.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn on_runtime(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(Duration::from_secs(10), test).await.unwrap() });
    }

    #[test]
    fn a_witness_answers_whom_it_was_asked_by() {
        for addr in ["127.0.0.1", "::1"] {
            let addr = addr.parse().unwrap();
            on_runtime(async move {
                let (one, other) = match (Witness::open(addr), Witness::open(addr)) {
                    (Ok(one), Ok(other)) => (one, other),
                    (Err(error), _) | (_, Err(error)) => {
                        return eprintln!("SKIPPED: no ICMP socket for {addr}: {error}");
                    }
                };
                for nonce in [0, 7, u16::MAX] {
                    other.ping(1);
                    one.ping(nonce);
                    assert_eq!(one.answered().await.unwrap(), nonce, "{addr}");
                }
                timeout(Duration::from_millis(50), one.answered()).await.expect_err("the other's answers");
                for _ in 0..3 {
                    assert_eq!(other.answered().await.unwrap(), 1);
                }
            });
        }
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        on_runtime(async {
            let Ok(witness) = Witness::open("127.0.0.1".parse().unwrap()) else {
                return eprintln!("SKIPPED: no ICMP socket");
            };
            let answer = |kind: u8, cookie: [u8; COOKIE], more: &[u8]| {
                let mut packet = if witness.headers { vec![0x45; 20] } else { Vec::new() };
                packet.extend([kind, 0, 0, 0, 9, 9, 0x12, 0x34]);
                packet.extend(cookie);
                packet.extend(more);
                packet
            };
            let mut wrong = witness.cookie;
            wrong[7] ^= 1;
            assert_eq!(witness.nonce(&answer(0, witness.cookie, &[])), Some(0x1234));
            for packet in [
                answer(8, witness.cookie, &[]),
                answer(0, wrong, &[]),
                answer(0, witness.cookie, &[0]),
                Vec::new(),
                vec![0x4f],
                vec![0],
            ] {
                assert_eq!(witness.nonce(&packet), None, "{packet:?}");
            }
        });
    }

    #[test]
    fn checksums() {
        assert_eq!(checksum(&[8, 0, 0, 0, 0x12, 0x34, 0, 1]), 0xe5ca);
        assert_eq!(checksum(&[0xff; 4]), 0);
    }
}
