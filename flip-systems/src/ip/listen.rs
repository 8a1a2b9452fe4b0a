//! Hearing who else uses an address: packet sockets that wake only for frames about ours.
//!
//! The kernel tells nobody that an address is used twice. For IPv4 it does not look, and for IPv6 flip asks it not
//! to (`IFA_F_NODAD`), because its own look takes a second and would lose against a former holder that is just
//! leaving.

use std::io;
use std::net::IpAddr;
use std::sync::Weak;
use std::time::Duration;

use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::World;
use crate::sys;

/// So many addresses are compared in the kernel, whose filters have 4,096 instructions. Of more, every frame of
/// the protocol that is about some address wakes us.
const COMPARED: usize = 800;

/// Of longer frames the start is enough: nothing that we ask of lies behind it.
const FRAME: usize = 2048;

/// A socket that hears frames of one protocol on all interfaces.
pub(super) struct Ear {
    socket: AsyncFd<Socket>,
}

impl Ear {
    /// An ear for each family that is among these addresses. Call it within a tokio runtime.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2) and epoll_ctl(2).
    pub(super) fn open(addresses: impl Iterator<Item = IpAddr>) -> io::Result<Vec<Self>> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(ip) => v4.push(u32::from(ip)),
                // The last four bytes: what another address with the same ones says is sorted out later.
                IpAddr::V6(ip) => v6.push(u32::try_from(u128::from(ip) & 0xffff_ffff).unwrap_or(0)),
            }
        }
        let mut ears = Vec::new();
        for (addresses, protocol, filter) in
            [(v4, libc::ETH_P_ARP, arp_filter as fn(&[u32]) -> _), (v6, libc::ETH_P_IPV6, nd_filter)]
        {
            if !addresses.is_empty() {
                ears.push(Self::listen(protocol, &filter(&addresses))?);
            }
        }
        Ok(ears)
    }

    fn listen(protocol: i32, filter: &[SockFilter]) -> io::Result<Self> {
        // Nothing arrives before the filter is there: with protocol 0 it hears nothing (packet(7)).
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        socket.attach_filter(filter)?;
        let protocol = u16::try_from(protocol).map_err(|_| io::ErrorKind::InvalidInput)?;
        sys::bind_packet(&socket, protocol)?;
        Ok(Self { socket: sys::watch(socket)? })
    }

    /// An ear for all ARP packets, or for all neighbour advertisements: who answers a question. Call it within a
    /// tokio runtime.
    ///
    /// # Errors
    /// As [`Ear::open`].
    pub(super) fn for_answers(v6: bool) -> io::Result<Self> {
        if v6 {
            Self::listen(libc::ETH_P_IPV6, &advertisements())
        } else {
            Self::listen(libc::ETH_P_ARP, &[keep()])
        }
    }

    /// The next frame: the index of the interface that it came in by, and its length in `buffer`. None where there
    /// was none after all. May be aborted at any time.
    ///
    /// # Errors
    /// Those of recvfrom(2).
    pub(super) async fn hear(&self, buffer: &mut [u8]) -> io::Result<Option<(u32, usize)>> {
        // A flood is not to keep hooks waiting.
        tokio::task::yield_now().await;
        let mut ready = self.socket.readable().await?;
        match ready.try_io(|socket| sys::receive_frame(socket.get_ref(), buffer)) {
            Ok(Ok(received)) => Ok(Some(received)),
            // An interface that goes down says so on every packet socket.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(_would_block) => Ok(None),
        }
    }

    /// Passes everything on until the world is gone. May be aborted at any time.
    pub(super) async fn run(self, world: Weak<World>) {
        let mut buffer = [0; FRAME];
        loop {
            match self.hear(&mut buffer).await {
                Ok(None) => {}
                Ok(Some((index, length))) => {
                    let Some(world) = world.upgrade() else { return };
                    world.heard_frame(index, &buffer[..length]);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot hear who else uses an address");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// A filter's instructions. Each code is a small number.
fn op(code: u32, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, jt, jf, k)
}

/// Loads four bytes, or one, of the frame.
fn word(at: u32) -> SockFilter {
    op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at)
}

fn byte(at: u32) -> SockFilter {
    op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, at)
}

/// Skips instructions where the loaded value is, or is not, `k`.
fn if_equal(k: u32, jt: u8, jf: u8) -> SockFilter {
    op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, k)
}

fn keep() -> SockFilter {
    op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX)
}

fn drop_it() -> SockFilter {
    op(libc::BPF_RET | libc::BPF_K, 0, 0, 0)
}

/// Keeps the frame where the loaded value is one of ours; goes on where it is none.
fn keep_ours(addresses: &[u32]) -> Vec<SockFilter> {
    addresses.iter().flat_map(|address| [if_equal(*address, 0, 1), keep()]).collect()
}

/// ARP from one of ours, or from nobody about one of ours.
fn arp_filter(addresses: &[u32]) -> Vec<SockFilter> {
    const SENDER: u32 = 28;
    const TARGET: u32 = 38;
    if addresses.len() > COMPARED {
        return vec![keep()];
    }
    let mut filter = vec![word(SENDER)];
    filter.extend(keep_ours(addresses));
    filter.extend([if_equal(0, 1, 0), drop_it(), word(TARGET)]);
    filter.extend(keep_ours(addresses));
    filter.push(drop_it());
    filter
}

/// Passes frames of neighbour advertisements, whoever they are about.
fn advertisements() -> [SockFilter; 6] {
    [byte(NEXT_HEADER), if_equal(58, 0, 3), byte(TYPE), if_equal(136, 0, 1), keep(), drop_it()]
}

/// Offsets in a frame of ICMPv6.
const NEXT_HEADER: u32 = 20;
const TYPE: u32 = 54;

/// Advertisements of one of ours, and solicitations from one of ours or from nobody about one of ours.
fn nd_filter(addresses: &[u32]) -> Vec<SockFilter> {
    const SOURCE_END: u32 = 34;
    const TARGET_END: u32 = 74;
    let mut filter = vec![
        byte(NEXT_HEADER),
        if_equal(58, 1, 0),
        drop_it(),
        byte(TYPE),
        if_equal(136, 3, 0),
        if_equal(135, 1, 0),
        drop_it(),
    ];
    if addresses.len() > COMPARED {
        filter.extend([keep(), keep()]);
        return filter;
    }
    let sender = 1 + 2 * addresses.len() + 2;
    // Advertisements come from any address of the host: only what they are about counts.
    filter.push(op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1));
    filter.push(op(libc::BPF_JMP | libc::BPF_JA, 0, 0, u32::try_from(sender).unwrap_or(0)));
    filter.push(word(SOURCE_END));
    filter.extend(keep_ours(addresses));
    filter.extend([if_equal(0, 1, 0), drop_it()]);
    filter.push(word(TARGET_END));
    filter.extend(keep_ours(addresses));
    filter.push(drop_it());
    filter
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::announce::frames;
    use super::super::neighbour::probe;
    use super::*;
    use crate::interfaces::Mac;

    const MAC: Mac = Mac([2, 0, 0x5e, 1, 2, 3]);

    /// Whether the kernel lets a frame through.
    fn passes(filter: &[SockFilter], frame: &[u8]) -> bool {
        let (sender, mut receiver) = Socket::pair(Domain::UNIX, Type::DGRAM.nonblocking(), None).unwrap();
        receiver.attach_filter(filter).unwrap();
        sender.send(frame).unwrap();
        let mut buffer = [0; FRAME];
        match receiver.read(&mut buffer) {
            Ok(length) => length == frame.len(),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }

    fn v4(address: &str) -> u32 {
        u32::from(address.parse::<std::net::Ipv4Addr>().unwrap())
    }

    #[test]
    fn the_kernel_lets_through_what_is_about_ours() {
        let ours: Vec<u32> = (1..=COMPARED as u32).map(|n| v4("192.0.2.0") + n).collect();
        let few = arp_filter(&[v4("192.0.2.7"), v4("192.0.2.8")]);
        let many = arp_filter(&ours);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (address, wanted) in [("192.0.2.7", true), ("192.0.2.8", true), ("198.51.100.7", false)] {
            for frame in frames(ip(address), MAC, false).iter().chain([&probe(ip(address), MAC)]) {
                assert_eq!(passes(&few, frame), wanted, "{address}");
                assert_eq!(passes(&many, frame), wanted, "{address}");
            }
        }
        // Somebody else asks for ours: the kernel answers, and it is nothing to us.
        let mut request = probe(ip("192.0.2.7"), MAC);
        request[28..32].copy_from_slice(&[192, 0, 3, 99]);
        assert!(!passes(&few, &request));
        let all = arp_filter(&vec![1; COMPARED + 1]);
        assert!(passes(&all, &request));
    }

    #[test]
    fn the_kernel_lets_through_neighbour_discovery_about_ours() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let few = nd_filter(&[5, 6]);
        let many = nd_filter(&(1..=COMPARED as u32).collect::<Vec<_>>());
        for (address, wanted) in [("2001:db8::5", true), ("2001:db8::6", true), ("2001:db8::1:5", false)] {
            for frame in frames(ip(address), MAC, false).iter().chain([&probe(ip(address), MAC)]) {
                assert_eq!(passes(&few, frame), wanted, "{address}");
                assert_eq!(passes(&many, frame), wanted, "{address}");
            }
        }
        // A neighbour that resolves ours.
        let mut asks = probe(ip("2001:db8::5"), MAC);
        asks[22..38].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99]);
        assert!(!passes(&few, &asks));
        // A host that resolves another, from our address.
        asks[37] = 5;
        asks[77] = 99;
        assert!(passes(&few, &asks));
        let mut other = probe(ip("2001:db8::5"), MAC);
        for (at, byte) in [(20, 6), (54, 128)] {
            let before = std::mem::replace(&mut other[at], byte);
            assert!(!passes(&few, &other), "byte {at}");
            other[at] = before;
        }
        let all = nd_filter(&vec![1; COMPARED + 1]);
        assert!(passes(&all, &probe(ip("2001:db8::99"), MAC)));
    }
}
