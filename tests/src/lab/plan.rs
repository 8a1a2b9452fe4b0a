//! The places of a lab, their names and their addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The interface of every host and of the client.
pub const INTERFACE: &str = "eth0";
pub(super) const BRIDGE: &str = "br0";
pub(super) const PREFIX_V4: u8 = 24;
pub(super) const PREFIX_V6: u8 = 64;
/// Host addresses end below the client's.
pub(super) const MAX_HOSTS: usize = 99;
const MAX_VIPS: usize = 55;

/// One place in a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// A server, counted from 0.
    Host(usize),
    /// The machine that uses the virtual addresses.
    Client,
    /// The switch between all of them.
    Bridge,
}

impl Who {
    /// The bridge's port for it.
    pub(super) fn port(self) -> String {
        match self {
            Self::Host(n) => format!("p{n}"),
            Self::Client => "pc".to_owned(),
            Self::Bridge => BRIDGE.to_owned(),
        }
    }
}

/// The IPv4 address of a place; the bridge has none and gets the network's.
#[must_use]
pub fn host_ip(who: Who) -> Ipv4Addr {
    let last = match who {
        Who::Host(n) => u8::try_from(n + 1).unwrap_or(u8::MAX),
        Who::Client => 100,
        Who::Bridge => 0,
    };
    Ipv4Addr::new(10, 77, 0, last)
}

/// The IPv6 address of a place.
#[must_use]
pub fn host_ip6(who: Who) -> Ipv6Addr {
    ip6(match who {
        Who::Host(n) => u16::try_from(n + 1).unwrap_or(u16::MAX),
        Who::Client => 0x100,
        Who::Bridge => 0,
    })
}

/// The virtual IPv4 address number `k`, of at most 55.
#[must_use]
pub fn vip(k: usize) -> IpAddr {
    debug_assert!(k < MAX_VIPS);
    Ipv4Addr::new(10, 77, 0, u8::try_from(200 + k).unwrap_or(u8::MAX)).into()
}

/// The virtual IPv6 address number `k`.
#[must_use]
pub fn vip6(k: usize) -> IpAddr {
    ip6(u16::try_from(0x200 + k).unwrap_or(u16::MAX)).into()
}

fn ip6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last)
}

pub(super) fn full_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}
