//! The interfaces of this machine: what an address could be put on.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use crate::netlink::Netlink;

/// An interface as `flip check` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether neighbours on it are found by ARP and NDP, so that addresses must be announced.
    pub has_arp: bool,
    /// Its hardware address; `None` where there is none of six bytes.
    pub mac: Option<Mac>,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<IpNet>,
}

/// Lists the interfaces of the calling thread's network namespace, by index. Needs no privilege.
///
/// # Errors
/// When the kernel refuses a netlink socket or does not answer.
pub fn interfaces() -> io::Result<Vec<InterfaceInfo>> {
    let mut netlink = Netlink::open()?;
    let links: Vec<Link> = netlink.links()?.iter().filter_map(Link::from_message).collect();
    let addresses = netlink.addresses()?;
    Ok(links
        .into_iter()
        .map(|link| InterfaceInfo {
            up: link.up,
            has_arp: link.announces(),
            mac: link.mac,
            addresses: addresses
                .iter()
                .filter(|a| a.header.index == link.index)
                .filter_map(address_of)
                .collect(),
            name: link.name,
        })
        .collect())
}

/// The interfaces among which `auto` has to choose for an address: those that have an address of their own in
/// a network with it, of the longest prefix. With one name it is clear, with several or none the hook fails.
/// What flip put there cannot be told apart here, and counts as well.
#[must_use]
pub fn with_network_of(interfaces: &[InterfaceInfo], address: IpAddr) -> Vec<&str> {
    let holding = || {
        interfaces
            .iter()
            .flat_map(|interface| interface.addresses.iter().map(move |net| (interface, net)))
            .filter(|(_, net)| {
                net.contains(&address) && net.addr() != address && net.prefix_len() < net.max_prefix_len()
            })
    };
    let Some(longest) = holding().map(|(_, net)| net.prefix_len()).max() else { return Vec::new() };
    let mut names: Vec<_> = holding()
        .filter(|(_, net)| net.prefix_len() == longest)
        .map(|(interface, _)| interface.name.as_str())
        .collect();
    names.dedup();
    names
}

/// A hardware address of six bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is kept of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// IFF_UP: somebody switched it on.
    pub(crate) up: bool,
    /// IFF_LOWER_UP: it has a carrier.
    pub(crate) carrier: bool,
    pub(crate) mac: Option<Mac>,
    /// IFLA_IFALIAS: what somebody wrote on it.
    pub(crate) alias: Option<String>,
    /// IFLA_LINK: the link that it is made on.
    pub(crate) parent: Option<u32>,
    ethernet: bool,
    quiet: bool,
}

impl Link {
    /// `None` for messages that tell of something else than the link itself, such as a bridge's
    /// word about one of its ports.
    pub(crate) fn from_message(message: &LinkMessage) -> Option<Self> {
        if u8::from(message.header.interface_family) != 0 {
            return None;
        }
        let flags = message.header.flags;
        let name = message
            .attributes
            .iter()
            .find_map(|a| if let LinkAttribute::IfName(n) = a { Some(n.clone()) } else { None })?;
        let mac = message
            .attributes
            .iter()
            .find_map(|a| if let LinkAttribute::Address(m) = a { Some(m) } else { None })
            .and_then(|m| <[u8; 6]>::try_from(m.as_slice()).ok())
            .map(Mac);
        let alias = message.attributes.iter().find_map(|a| match a {
            LinkAttribute::IfAlias(alias) => Some(alias.clone()),
            _ => None,
        });
        let parent = message.attributes.iter().find_map(|a| match a {
            LinkAttribute::Link(parent) => Some(*parent),
            _ => None,
        });
        Some(Self {
            index: message.header.index,
            name,
            alias,
            parent,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            mac,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            quiet: flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp),
        })
    }

    /// A link with a carrier, for tests.
    #[cfg(test)]
    pub(crate) fn of_kind(index: u32, name: &str, up: bool, ethernet: bool, mac: Option<Mac>) -> Self {
        let (name, alias, parent) = (name.to_owned(), None, None);
        Self { index, name, up, carrier: up, mac, alias, parent, ethernet, quiet: !ethernet }
    }

    /// Whether neighbours on this link keep a cache that must be told of a moved address.
    pub(crate) fn announces(&self) -> bool {
        self.ethernet && !self.quiet && self.mac.is_some()
    }
}

/// The text for an interface that is not there.
pub(crate) fn missing<'a>(name: &str, there: impl Iterator<Item = &'a str>) -> String {
    let there: Vec<&str> = there.collect();
    format!("no interface {name}; there are: {}", there.join(", "))
}

/// The address and prefix of a netlink message.
pub(crate) fn address_of(message: &AddressMessage) -> Option<IpNet> {
    // IFA_ADDRESS is the other end on a point-to-point link; IFA_LOCAL is ours where it is given.
    let local = message.attributes.iter().find_map(|a| local_of(a, true));
    let address = local.or_else(|| message.attributes.iter().find_map(|a| local_of(a, false)))?;
    IpNet::new(address, message.header.prefix_len).ok()
}

fn local_of(attribute: &AddressAttribute, local: bool) -> Option<IpAddr> {
    match attribute {
        AddressAttribute::Local(address) if local => Some(*address),
        AddressAttribute::Address(address) if !local => Some(*address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_arp() {
        let all = interfaces().unwrap();
        let lo = all.iter().find(|i| i.name == "lo").unwrap();
        assert!(!lo.has_arp);
    }

    #[test]
    fn a_missing_interface_names_the_others() {
        assert_eq!(missing("lo0", ["lo", "eth0"].into_iter()), "no interface lo0; there are: lo, eth0");
    }

    #[test]
    fn auto_chooses_among_the_longest_networks() {
        let interface = |name: &str, addresses: &[&str]| InterfaceInfo {
            name: name.to_owned(),
            up: true,
            has_arp: true,
            mac: None,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let all = [
            interface("eth0", &["10.0.0.1/24", "10.0.0.2/24", "10.1.0.1/16", "10.3.0.9/32"]),
            interface("eth1", &["10.1.2.1/24", "10.2.0.1/24", "fd00::1/64"]),
            interface("eth2", &["10.2.0.2/24"]),
        ];
        for (address, expected) in [
            ("10.0.0.9", &["eth0"][..]),
            ("10.1.9.9", &["eth0"]),
            ("10.1.2.9", &["eth1"]),
            ("10.2.0.9", &["eth1", "eth2"]),
            ("fd00::9", &["eth1"]),
            ("10.3.0.9", &[]),
            ("192.0.2.1", &[]),
        ] {
            assert_eq!(with_network_of(&all, address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn mac_text() {
        assert_eq!(Mac([2, 0, 0x5e, 0xa, 0xb, 0xc]).to_string(), "02:00:5e:0a:0b:0c");
    }
}
