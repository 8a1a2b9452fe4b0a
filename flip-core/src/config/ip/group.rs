//! What an item of an ip system is: addresses that move as one.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{check_interface_name, parse_vip};

/// The word that leaves the choice of an interface to the server.
pub const AUTO: &str = "auto";

/// An item of an ip system: a group of addresses. All of them are on one server, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpItem {
    /// Its addresses, in listed order; never empty, at most `bounds::PARTS`.
    pub parts: Vec<IpPart>,
}

/// One address of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPart {
    /// The address, with the prefix that it is put there with.
    pub net: IpNet,
    /// Where it is put on this server.
    pub interface: Interface,
}

/// Where a server puts an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// On the interface of this name.
    Name(String),
    /// On the one whose own network holds the address (`"auto"`).
    Auto,
}

impl IpItem {
    /// Reads an item of one address as `data` may say it: `10.0.0.1`, `10.0.0.1/24` or `10.0.0.1/24@eth0`.
    /// Without an interface of its own it is put on `default`.
    ///
    /// # Errors
    /// Says what was expected, as a fragment that fits after "found …, expected ".
    pub fn parse(text: &str, default: &Interface) -> Result<Self, String> {
        let (net, interface) = parse_place(text)?;
        Ok(Self { parts: vec![IpPart { net, interface: interface.unwrap_or_else(|| default.clone()) }] })
    }

    /// Whether one of its addresses is this one.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.parts.iter().any(|part| part.net.addr().to_canonical() == address.to_canonical())
    }
}

impl Interface {
    /// What a name in a config means: `auto` is none.
    #[must_use]
    pub fn of(name: &str) -> Self {
        if name == AUTO { Self::Auto } else { Self::Name(name.to_owned()) }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Auto => f.write_str(AUTO),
        }
    }
}

/// An address as a text says it, and its interface, if it says one.
pub(super) fn parse_place(text: &str) -> Result<(IpNet, Option<Interface>), String> {
    let Some((net, interface)) = text.split_once('@') else { return Ok((parse_vip(text)?, None)) };
    let net = parse_vip(net)?;
    if interface.contains('@') || check_interface_name(interface).is_err() {
        return Err("the name of a network interface behind the @, as in 10.0.0.1/24@eth0".to_owned());
    }
    Ok((net, Some(Interface::of(interface))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_an_item_of_one_address() {
        let default = Interface::Name("eth9".into());
        for (text, net, interface) in [
            ("10.0.0.1", "10.0.0.1/32", "eth9"),
            ("10.0.0.1/24", "10.0.0.1/24", "eth9"),
            ("10.0.0.1/24@eth0", "10.0.0.1/24", "eth0"),
            ("fd00::1@vlan.7", "fd00::1/128", "vlan.7"),
            ("fe80::1/64@auto", "fe80::1/64", "auto"),
        ] {
            let item = IpItem::parse(text, &default).unwrap();
            let [part] = &item.parts[..] else { panic!("{text}: {item:?}") };
            assert_eq!(
                (part.net.to_string().as_str(), part.interface.to_string().as_str()),
                (net, interface)
            );
        }
        for text in
            ["@eth0", "10.0.0.1@", "10.0.0.1@a b", "10.0.0.1@eth0@eth1", "10.0.0.1@sixteen-letters-", "x@y"]
        {
            assert!(IpItem::parse(text, &default).is_err(), "{text}");
        }
    }
}
