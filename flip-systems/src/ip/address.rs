//! What an address of flip looks like in the kernel, and how it is known again.

use flip_core::config::Scope;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};

use crate::interfaces::address_of;

/// IFA_PROTO of an address of flip: who made it. Linux keeps it since 5.18; it is not one of the
/// values that the kernel itself uses (1 to 3).
pub const PROTOCOL: u8 = 0x66;

/// The marks from [`PROTOCOL`] on are those of further daemons on one host.
const MARKS: u8 = 16;

/// Who made an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    /// The daemon that asks, in this life or an earlier one.
    Us,
    /// Another daemon of flip on this host.
    Sibling,
    /// Somebody else.
    Other,
}

/// The IFA_PROTO of the daemon that has `siblings` others before it on its host.
pub(super) fn mark(siblings: usize) -> u8 {
    PROTOCOL + u8::try_from(siblings).unwrap_or(MARKS).min(MARKS - 1)
}

/// The IFA_PROTO of the daemon that has so many before it on its host, or of every daemon.
pub(super) fn marks(siblings: Option<usize>) -> RangeInclusive<u8> {
    match siblings {
        Some(siblings) => mark(siblings)..=mark(siblings),
        None => PROTOCOL..=PROTOCOL + (MARKS - 1),
    }
}

/// What the label of an IPv4 address of flip ends with.
const LABEL: &str = ":flip";

/// The longest label, in bytes: IFNAMSIZ without its terminating zero.
const LABEL_MAX: usize = 15;

/// The label of an IPv4 address on `interface`, where it fits.
///
/// It shows the origin in `ip address` and `ifconfig`, and marks the address on kernels without
/// IFA_PROTO.
fn label(interface: &str) -> Option<String> {
    (interface.len() + LABEL.len() <= LABEL_MAX).then(|| format!("{interface}{LABEL}"))
}

/// How an address is put there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) scope: Scope,
    pub(super) noprefixroute: bool,
}

/// The request that adds `net` to an interface for `seconds` (`Lifetime::FOREVER` for no end), or gives it
/// that lifetime where it is.
pub(super) fn add(
    net: IpNet,
    index: u32,
    interface: &str,
    mark: u8,
    seconds: u32,
    manner: Manner,
) -> AddressMessage {
    let mut message = delete(net, index);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(mark)));
    // Deprecated from the start: an address that may leave at any time must not become the source
    // of the host's own connections (RFC 6724 §5 rule 3). For IPv4 the kernel only shows it; there
    // the /32 keeps it from being chosen for any other destination.
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = 0;
    lifetime.ifa_valid = seconds;
    message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    match net {
        IpNet::V4(_) => {
            message.attributes.extend(label(interface).map(AddressAttribute::Label));
            message.header.scope = match manner.scope {
                Scope::Global => AddressScope::Universe,
                Scope::Site => AddressScope::Site,
                Scope::Link => AddressScope::Link,
                Scope::Host => AddressScope::Host,
            };
            if manner.noprefixroute {
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
            }
        }
        IpNet::V6(_) => {
            // Detection of duplicates would keep the address useless for a second, and would lose
            // against a former holder that is just leaving.
            let mut flags = AddressFlags::Nodad;
            if manner.noprefixroute || net.prefix_len() == net.max_prefix_len() {
                flags |= AddressFlags::Noprefixroute;
            }
            message.attributes.push(AddressAttribute::Flags(flags));
        }
    }
    message
}

/// The request that deletes `net` from an interface.
pub(super) fn delete(net: IpNet, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

/// An address that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) net: IpNet,
    pub(super) index: u32,
    pub(super) maker: Maker,
    /// When the kernel made it, in hundredths of a second on a clock of its own. A new lifetime leaves it
    /// as it is; an address that was gone and is back has another one.
    pub(super) born: u32,
    /// It failed the kernel's detection of duplicates, and is of no use.
    pub(super) failed: bool,
}

/// Whether the kernel has found that another host has this address (RFC 4862 §5.4.5).
pub(super) fn failed(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Dadfailed),
        _ => false,
    })
}

impl Bound {
    /// Reads an address as the daemon with this mark sees it.
    pub(super) fn from_message(message: &AddressMessage, mark: u8) -> Option<Self> {
        let protocol = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Protocol(protocol) => Some(u8::from(*protocol)),
            _ => None,
        });
        let labelled = message.attributes.iter().any(|attribute| match attribute {
            // By its end: the label stays when the interface is renamed.
            AddressAttribute::Label(label) => label.ends_with(LABEL),
            _ => false,
        });
        let maker = match protocol {
            Some(found) if found == mark => Maker::Us,
            Some(found) if (PROTOCOL..PROTOCOL + MARKS).contains(&found) => Maker::Sibling,
            // A kernel without IFA_PROTO.
            Some(_) | None if labelled => Maker::Us,
            Some(_) | None => Maker::Other,
        };
        let born = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::CacheInfo(info) => Some(info.cstamp),
            _ => None,
        });
        let (net, index) = (address_of(message)?, message.header.index);
        Some(Self { net, index, maker, born: born.unwrap_or(0), failed: failed(message) })
    }
}

#[cfg(test)]
mod tests {
    use flip_core::config::parse_vip;

    use super::*;

    #[test]
    fn items() {
        let cases = [
            ("192.168.0.2", Some("192.168.0.2/32")),
            ("192.168.0.2/24", Some("192.168.0.2/24")),
            ("2001:db8::5", Some("2001:db8::5/128")),
            ("fe80::1/64", Some("fe80::1/64")),
            ("192.168.0.256", None),
            ("192.168.0.2/33", None),
            ("web", None),
            ("", None),
            ("0.0.0.0", None),
            ("224.0.0.1", None),
            ("ff02::1", None),
            ("255.255.255.255", None),
        ];
        for (item, expected) in cases {
            assert_eq!(parse_vip(item).ok().map(|n| n.to_string()).as_deref(), expected, "{item}");
        }
    }

    #[test]
    fn labels_fit() {
        let cases = [
            ("lo", Some("lo:flip")),
            ("eth0", Some("eth0:flip")),
            ("enp0s31f60", Some("enp0s31f60:flip")),
            ("enp0s31f6-1", None),
            ("wlx0123456789ab", None),
        ];
        for (interface, expected) in cases {
            assert_eq!(label(interface).as_deref(), expected, "{interface}");
        }
    }

    #[test]
    fn own_addresses_are_known_again() {
        for net in ["192.0.2.7/32", "2001:db8::7/128"] {
            let net: IpNet = net.parse().unwrap();
            for (siblings, maker) in [(0, Maker::Us), (1, Maker::Sibling), (99, Maker::Sibling)] {
                let message = add(net, 3, "a-very-long-one", mark(siblings), 2, Manner::default());
                assert_eq!(
                    Bound::from_message(&message, PROTOCOL),
                    Some(Bound { net, index: 3, maker, born: 0, failed: false })
                );
            }
            let foreign = Bound::from_message(&delete(net, 3), PROTOCOL);
            assert_eq!(foreign, Some(Bound { net, index: 3, maker: Maker::Other, born: 0, failed: false }));
        }
        // A kernel without IFA_PROTO gives the label only.
        let mut message =
            add("192.0.2.7/32".parse().unwrap(), 3, "eth0", PROTOCOL, u32::MAX, Manner::default());
        message.attributes.retain(|a| !matches!(a, AddressAttribute::Protocol(_)));
        assert_eq!(Bound::from_message(&message, PROTOCOL).unwrap().maker, Maker::Us);
    }
}
