//! The kernel's TCP connections by an address: listing and destroying them (sock_diag(7)).
//!
//! Requests and answers are laid out by hand: linux/inet_diag.h is small, has not changed since Linux 3.3, and
//! needs nothing of what a crate would bring.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use crate::netlink;

/// Message types (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Message types and flags of netlink(7).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const HEADER: usize = 16;

/// Operations of a filter, and the attribute that carries it (linux/inet_diag.h).
const BC_JMP: u8 = 1;
const BC_S_COND: u8 = 7;
const BC_D_COND: u8 = 8;
const REQ_BYTECODE: u16 = 1;

/// Bytes of `inet_diag_sockid`, of a request without filter, and of an answer without attributes.
const ID: usize = 48;
const REQUEST: usize = 8 + ID;
const ANSWER: usize = 4 + ID + 20;

/// Addresses of one request at most: offsets within a filter have 16 bits.
pub(crate) const ADDRESSES: usize = 512;

/// Connections of one listing at most; what is beyond is not seen.
const FOUND: usize = 100_000;

/// Connections in which data may still come or go: all states but LISTEN, TIME_WAIT and CLOSE.
pub(crate) const OPEN: u32 = bit(1) | bit(2) | bit(3) | bit(4) | bit(5) | bit(8) | bit(9) | bit(11) | bit(12);
/// ESTABLISHED and CLOSE_WAIT: those in which the other end may wait for ever.
pub(crate) const ESTABLISHED: u32 = bit(1) | bit(8);

const fn bit(state: u32) -> u32 {
    1 << state
}

/// A TCP connection of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// This end.
    pub(crate) local: (IpAddr, u16),
    /// The other end.
    pub(crate) remote: (IpAddr, u16),
    /// AF_INET, or AF_INET6 also where an IPv6 socket speaks IPv4.
    family: u8,
    /// As the kernel names it, its cookie included: nothing else can be meant.
    id: [u8; ID],
}

/// Which end of a connection an address is looked for at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// This one.
    Local,
    /// Either.
    Any,
}

/// A socket that asks.
pub(crate) struct SockDiag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl SockDiag {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Those of socket(2): EPROTONOSUPPORT where the kernel has no sock_diag.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = netlink::connect(NETLINK_SOCK_DIAG)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(netlink::DATAGRAM) })
    }

    /// Lists the connections in these `states` that have one of these addresses, at most [`ADDRESSES`].
    ///
    /// # Errors
    /// The kernel's; ENOENT where it has no inet_diag.
    pub(crate) fn connections(
        &mut self,
        addresses: &[IpAddr],
        end: End,
        states: u32,
    ) -> io::Result<Vec<Found>> {
        debug_assert!(addresses.len() <= ADDRESSES);
        let mut found = Vec::new();
        if addresses.is_empty() {
            return Ok(found);
        }
        // An IPv6 socket may speak IPv4, and is listed there.
        let families: &[i32] = match addresses.iter().any(IpAddr::is_ipv4) {
            true => &[libc::AF_INET, libc::AF_INET6],
            false => &[libc::AF_INET6],
        };
        for family in families {
            let family = u8::try_from(*family).unwrap_or_default();
            self.list(&list(family, states, &filter(addresses, end)), &mut found)?;
        }
        let wanted = |end: &(IpAddr, u16)| addresses.contains(&end.0);
        found.retain(|one| wanted(&one.local) || (end == End::Any && wanted(&one.remote)));
        Ok(found)
    }

    /// Destroys a connection: the other end gets a reset, and whoever has the socket gets ECONNABORTED. `Ok` when
    /// it is gone, whoever ended it.
    ///
    /// # Errors
    /// EOPNOTSUPP where the kernel was built without CONFIG_INET_DIAG_DESTROY, EPERM without CAP_NET_ADMIN.
    pub(crate) fn destroy(&mut self, one: &Found) -> io::Result<()> {
        let mut body = request(one.family, OPEN);
        body[8..].copy_from_slice(&one.id);
        self.send(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, &body)?;
        loop {
            self.receive()?;
            for Message { kind, sequence, body } in messages(&self.buffer) {
                if sequence == self.sequence && kind == NLMSG_ERROR {
                    return match code(body) {
                        0 | libc::ENOENT | libc::ESTALE => Ok(()),
                        code => Err(io::Error::from_raw_os_error(code)),
                    };
                }
            }
        }
    }

    fn list(&mut self, body: &[u8], found: &mut Vec<Found>) -> io::Result<()> {
        self.send(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, body)?;
        loop {
            self.receive()?;
            for Message { kind, sequence, body } in messages(&self.buffer) {
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    // A listing that failed in the middle ends with an error as well.
                    NLMSG_DONE if code(body) <= 0 || body.len() < 4 => return Ok(()),
                    NLMSG_DONE | NLMSG_ERROR => return Err(io::Error::from_raw_os_error(code(body))),
                    // Connections come and go while they are listed; those that stayed are all there.
                    SOCK_DIAG_BY_FAMILY if found.len() < FOUND => found.extend(read(body)),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = frame(kind, flags, self.sequence, body);
        self.socket.send(&bytes, 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer"));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A whole netlink message.
fn frame(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// `inet_diag_req_v2` with an empty id.
fn request(family: u8, states: u32) -> [u8; REQUEST] {
    let mut body = [0; REQUEST];
    body[0] = family;
    body[1] = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    body[4..8].copy_from_slice(&states.to_ne_bytes());
    body
}

/// A request for a listing.
fn list(family: u8, states: u32, filter: &[u8]) -> Vec<u8> {
    let mut body = request(family, states).to_vec();
    let length = u16::try_from(4 + filter.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(REQ_BYTECODE.to_ne_bytes());
    body.extend(filter);
    body
}

/// A filter that takes connections which have one of these addresses at that end.
///
/// Each condition leads to a jump to the end, which accepts, or past that to the next condition; the last
/// leads to the end or four bytes beyond, which refuses (`inet_diag_bc_run` in net/ipv4/inet_diag.c).
fn filter(addresses: &[IpAddr], end: End) -> Vec<u8> {
    let ends: &[u8] = match end {
        End::Local => &[BC_S_COND],
        End::Any => &[BC_S_COND, BC_D_COND],
    };
    let conditions: Vec<_> =
        ends.iter().flat_map(|code| addresses.iter().map(move |address| (*code, *address))).collect();
    let mut bytes = Vec::new();
    for (n, (code, address)) in conditions.iter().rev().enumerate() {
        let (family, octets) = match address {
            IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
        };
        let length = 12 + octets.len();
        let last = n == 0;
        let mut one = Vec::with_capacity(length + 4);
        // If not: past the jump, or past the end.
        let no = u16::try_from(length + 4).unwrap_or(u16::MAX);
        one.extend([*code, u8::try_from(length).unwrap_or(u8::MAX)]);
        one.extend(no.to_ne_bytes());
        one.extend([
            u8::try_from(family).unwrap_or_default(),
            u8::try_from(octets.len() * 8).unwrap_or(u8::MAX),
        ]);
        one.extend([0; 2]);
        // Any port.
        one.extend((-1i32).to_ne_bytes());
        one.extend(octets);
        if !last {
            let to_end = u16::try_from(4 + bytes.len()).unwrap_or(u16::MAX);
            one.extend([BC_JMP, 4]);
            one.extend(to_end.to_ne_bytes());
        }
        one.append(&mut bytes);
        bytes = one;
    }
    bytes
}

/// One `inet_diag_msg`.
fn read(body: &[u8]) -> Option<Found> {
    let body = body.get(..ANSWER)?;
    let family = body[0];
    let id: [u8; ID] = body[4..4 + ID].try_into().ok()?;
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let address = |at: usize| -> Option<IpAddr> {
        match i32::from(family) {
            libc::AF_INET => Some(Ipv4Addr::from(*id[at..].first_chunk::<4>()?).into()),
            libc::AF_INET6 => {
                Some(IpAddr::from(Ipv6Addr::from(*id[at..].first_chunk::<16>()?)).to_canonical())
            }
            _ => None,
        }
    };
    Some(Found { local: (address(4)?, port(0)), remote: (address(20)?, port(2)), family, id })
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of one datagram; what is cut short is left out.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest.get(..length).filter(|_| length >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            sequence: u32::from_ne_bytes([message[8], message[9], message[10], message[11]]),
            body: &message[HEADER..],
        })
    })
}

/// The error of an NLMSG_ERROR, as a positive number; zero is success.
fn code(body: &[u8]) -> i32 {
    body.first_chunk().map_or(libc::EBADMSG, |code| -i32::from_ne_bytes(*code))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn requests_byte_by_byte() {
        // On a machine of little endianness, which all of the supported ones are.
        let body = list(2, ESTABLISHED, &filter(&[ip("192.0.2.1")], End::Local));
        let mut expected = vec![2, 6, 0, 0, 0x02, 0x01, 0, 0];
        expected.extend([0; 48]);
        expected.extend([20, 0, 1, 0]);
        expected.extend([7, 16, 20, 0, 2, 32, 0, 0, 255, 255, 255, 255, 192, 0, 2, 1]);
        assert_eq!(body, expected);
        assert_eq!(
            frame(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, 9, &[1, 2, 3, 4]),
            [20, 0, 0, 0, 21, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]
        );
    }

    #[test]
    fn a_filter_for_several_addresses_jumps_to_its_end() {
        let program = filter(&[ip("192.0.2.1"), ip("2001:db8::1")], End::Local);
        let mut expected = vec![7, 16, 20, 0, 2, 32, 0, 0, 255, 255, 255, 255, 192, 0, 2, 1];
        expected.extend([1, 4, 32, 0]);
        expected.extend([7, 28, 32, 0, 10, 128, 0, 0, 255, 255, 255, 255, 0x20, 1, 0x0d, 0xb8]);
        expected.extend([0; 11]);
        expected.push(1);
        assert_eq!(program, expected);
        // Run as the kernel does: each way ends at the end, or four bytes beyond.
        for end in [End::Local, End::Any] {
            let addresses: Vec<_> = (1..=40).map(|n| ip(&format!("192.0.2.{n}"))).collect();
            let program = filter(&addresses, end);
            for wanted in 0..addresses.len() * if end == End::Any { 2 } else { 1 } {
                assert_eq!(run(&program, |n| n == wanted), 0, "{wanted}");
            }
            assert_eq!(run(&program, |_| false), -4);
        }
    }

    /// What is left of a program where its condition number n is `true`; zero accepts.
    fn run(program: &[u8], holds: impl Fn(usize) -> bool) -> i64 {
        let (mut at, mut left, mut n) = (0, i64::try_from(program.len()).unwrap(), 0);
        while left > 0 {
            let yes = i64::from(program[at + 1]);
            let no = i64::from(u16::from_ne_bytes([program[at + 2], program[at + 3]]));
            let step = match program[at] {
                BC_JMP => no,
                _ => {
                    n += 1;
                    if holds(n - 1) { yes } else { no }
                }
            };
            left -= step;
            at += usize::try_from(step).unwrap();
        }
        left
    }

    #[test]
    fn answers_are_read_and_damaged_ones_left_out() {
        let mut body = vec![10, 1, 0, 0, 0x1f, 0x90, 0xc0, 0x00];
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1]);
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 198, 51, 100, 7]);
        body.extend([3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        body.extend([0; 20]);
        let found = read(&body).unwrap();
        assert_eq!(found.local, (ip("192.0.2.1"), 8080));
        assert_eq!(found.remote, (ip("198.51.100.7"), 49_152));
        assert_eq!((found.family, &found.id[..]), (10, &body[4..52]));
        for length in 0..body.len() {
            assert_eq!(read(&body[..length]), None, "{length}");
        }
        body[0] = 1;
        assert_eq!(read(&body), None, "another family");
        for datagram in [&[][..], &[1, 2], &[0; 16], &[255; 64], &[16, 0, 0, 0, 9]] {
            assert_eq!(messages(datagram).count(), 0, "{datagram:?}");
        }
    }

    #[test]
    fn the_kernel_lists_what_is_connected() {
        // Listing needs no privilege. Loopback has addresses that nobody else uses.
        for (address, other) in [("127.64.3.1", "127.64.3.2"), ("::1", "::2")] {
            let Ok(listener) = TcpListener::bind((ip(address), 0)) else {
                // IPv6 may be switched off.
                assert_eq!(address, "::1");
                continue;
            };
            let at = listener.local_addr().unwrap();
            let client = TcpStream::connect(at).unwrap();
            let (_server, from) = listener.accept().unwrap();
            let mut diag = SockDiag::open().unwrap();
            let found = diag.connections(&[ip(other), at.ip()], End::Local, ESTABLISHED).unwrap();
            let server = |one: &&Found| one.local == (at.ip(), at.port());
            assert_eq!(found.iter().filter(server).count(), 1, "{found:?}");
            let one = found.iter().find(server).unwrap();
            assert_eq!(one.remote, (from.ip(), from.port()));
            // The client's end has it as the other one.
            let found = diag.connections(&[at.ip()], End::Any, ESTABLISHED).unwrap();
            let ends = found.iter().filter(|one| [one.local.1, one.remote.1].contains(&at.port()));
            assert_eq!(ends.count(), 2, "{found:?}");
            // The listener is none, whatever is asked for.
            assert!(found.iter().all(|one| one.remote.1 != 0), "{found:?}");
            assert!(diag.connections(&[ip(other)], End::Any, OPEN).unwrap().is_empty());
            drop(client);
        }
    }
}
