//! What frames say about who has an address, and the frames that ask.
//!
//! IPv4 asks by an ARP probe (RFC 5227 §2.1.1): a request from nobody. IPv6 asks by a neighbour solicitation from
//! the unspecified address (RFC 4862 §5.4.2). Either is answered by whoever has the address, and changes no
//! neighbour's cache.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::announce::{arp_probe, checksum, solicitation};
use crate::interfaces::Mac;

/// What one frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// Of which address.
    pub(super) address: IpAddr,
    /// Who.
    pub(super) mac: Mac,
    pub(super) what: What,
}

/// What is said of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The sender uses it.
    Claim,
    /// The sender is about to use it, and asks whether anybody does.
    Probe,
}

const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Options of both (RFC 4861 §4.6.1).
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;

/// What a frame of ARP or of neighbour discovery says, whoever wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// An ARP packet: who sends it, and about which address.
    Arp { request: bool, sender: (Mac, Ipv4Addr), target: Ipv4Addr },
    /// A solicitation or an advertisement about `target`, sent `by` a hardware address, and the one that its
    /// option names.
    Neighbour { advertises: bool, from: Ipv6Addr, target: Ipv6Addr, by: Mac, option: Option<Mac> },
}

/// Reads a frame; none where it is not whole, is neither, or must not be believed.
pub(super) fn read(frame: &[u8]) -> Option<Message> {
    match frame.get(12..14)?.try_into().ok()? {
        ARP => arp(frame.get(14..42)?),
        IPV6 => neighbour_discovery(frame),
        _ => None,
    }
}

/// Who uses an address, by a frame; none where it says nothing of the kind.
///
/// RFC 5227 §1.1: any ARP packet with a sender's address is a claim to it, whether it asks or answers. RFC 4862 §5.4.3
/// and §5.4.4 are about IPv6.
pub(super) fn sighting(frame: &[u8]) -> Option<Sighting> {
    let (address, mac, what): (IpAddr, _, _) = match read(frame)? {
        Message::Arp { sender: (mac, ip), .. } if !ip.is_unspecified() => (ip.into(), mac, What::Claim),
        Message::Arp { request: true, sender: (mac, _), target } => (target.into(), mac, What::Probe),
        Message::Arp { .. } => return None,
        Message::Neighbour { advertises, from, target, by, option } => {
            let (address, what) = match (advertises, from.is_unspecified()) {
                (true, _) => (target, What::Claim),
                (false, true) => (target, What::Probe),
                (false, false) => (from, What::Claim),
            };
            (address.into(), option.unwrap_or(by), what)
        }
    };
    (!address.is_unspecified()).then_some(Sighting { address, mac, what })
}

fn arp(packet: &[u8]) -> Option<Message> {
    // Ethernet, IPv4, addresses of 6 and 4 bytes.
    if packet[..6] != [0, 1, 8, 0, 6, 4] || packet[6] != 0 || !matches!(packet[7], 1 | 2) {
        return None;
    }
    let ip = |at: usize| packet.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from);
    let mac = Mac(packet[8..14].try_into().ok()?);
    Some(Message::Arp { request: packet[7] == 1, sender: (mac, ip(14)?), target: ip(24)? })
}

/// Invalid messages are those of RFC 4861 §7.1.
fn neighbour_discovery(frame: &[u8]) -> Option<Message> {
    let (packet, by) = (frame.get(14..)?, Mac(frame.get(6..12)?.try_into().ok()?));
    let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
    let message = packet.get(40..40 + length)?;
    let ip = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from);
    let (from, to) = (ip(&packet[8..24])?, ip(&packet[24..40])?);
    let whole = packet[0] >> 4 == 6 && packet[6] == ICMPV6 && packet[7] == 255 && message.len() >= 24;
    if !whole || message[1] != 0 || message.len() % 8 != 0 || checksum(from, to, message) != [0; 2] {
        return None;
    }
    let target = ip(&message[8..24])?;
    let (advertises, option) = match message[0] {
        ADVERTISEMENT => (true, TARGET_MAC),
        SOLICITATION => (false, SOURCE_MAC),
        _ => return None,
    };
    if target.is_multicast() {
        return None;
    }
    let option = option_of(&message[24..], option).and_then(|mac| Some(Mac(mac.try_into().ok()?)));
    Some(Message::Neighbour { advertises, from, target, by, option })
}

/// The hardware address in an option, if there is one.
fn option_of(mut options: &[u8], kind: u8) -> Option<&[u8]> {
    while let [found, length, ..] = *options {
        let length = usize::from(length) * 8;
        if length == 0 {
            return None;
        }
        if found == kind {
            return options.get(2..8);
        }
        options = options.get(length..)?;
    }
    None
}

/// The frame that asks whether anybody has `address`.
pub(super) fn probe(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => arp_probe(ip, mac),
        IpAddr::V6(ip) => solicitation(ip, Ipv6Addr::UNSPECIFIED, mac),
    }
}

#[cfg(test)]
mod tests {
    use super::super::announce::{frames, solicited_node};
    use super::*;

    const MAC: Mac = Mac([0x02, 0x00, 0x5e, 0x0a, 0x0b, 0x0c]);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter(|c| c.is_ascii_hexdigit()).collect();
        let pair = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    #[test]
    fn arp_probe_bytes() {
        let frame = probe("192.0.2.7".parse().unwrap(), MAC);
        let golden = "ffffffffffff02005e0a0b0c0806\
                      0001080006040001\
                      02005e0a0b0c00000000\
                      000000000000c0000207";
        assert_eq!(hex(&frame), golden);
    }

    #[test]
    fn solicitation_bytes() {
        let frame = probe("2001:db8::1:fffe:abcd".parse().unwrap(), MAC);
        // The checksum was computed by another program.
        let golden = "3333fffeabcd02005e0a0b0c86dd\
                      6000000000183aff\
                      00000000000000000000000000000000\
                      ff0200000000000000000001fffeabcd\
                      8700f45500000000\
                      20010db80000000000000001fffeabcd";
        assert_eq!(hex(&frame), golden);
        assert_eq!(frame.len(), 78);
    }

    #[test]
    fn what_frames_say() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.7".parse().unwrap(), "2001:db8::5".parse().unwrap());
        let said = |frame: &[u8]| sighting(frame).map(|s| (s.address, s.mac, s.what));
        for frame in frames(v4, MAC, false).iter().chain(&frames(v6, MAC, true)) {
            let address = if frame.len() == 42 { v4 } else { v6 };
            assert_eq!(said(frame), Some((address, MAC, What::Claim)));
            // Cut anywhere, it says nothing.
            for end in 0..frame.len() {
                assert_eq!(said(&frame[..end]), None, "{end} bytes");
            }
        }
        for address in [v4, v6] {
            assert_eq!(said(&probe(address, MAC)), Some((address, MAC, What::Probe)));
        }
        // A host that asks for somebody else says that it has its own address.
        let request =
            "ffffffffffff 02005e0a0b0c 0806 0001080006040001 02005e0a0b0c c0000209 000000000000 c0000207";
        let own: IpAddr = "192.0.2.9".parse().unwrap();
        assert_eq!(said(&unhex(request)), Some((own, MAC, What::Claim)));
    }

    #[test]
    fn who_asks_by_ipv6_says_its_own_address() {
        let (from, target): (Ipv6Addr, Ipv6Addr) =
            ("2001:db8::9".parse().unwrap(), "2001:db8::5".parse().unwrap());
        let mut frame = solicitation(target, Ipv6Addr::UNSPECIFIED, MAC);
        frame[22..38].copy_from_slice(&from.octets());
        frame[56..58].copy_from_slice(&[0, 0]);
        let sum = checksum(from, solicited_node(target), &frame[54..]);
        frame[56..58].copy_from_slice(&sum);
        assert_eq!(sighting(&frame), Some(Sighting { address: from.into(), mac: MAC, what: What::Claim }));
    }

    #[test]
    fn the_option_names_the_host_behind_a_relay() {
        let mut frame = frames("2001:db8::5".parse().unwrap(), MAC, false).remove(0);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 99]);
        assert_eq!(sighting(&frame).unwrap().mac, MAC);
    }

    #[test]
    fn what_is_damaged_says_nothing() {
        let v6 = frames("2001:db8::5".parse().unwrap(), MAC, false).remove(0);
        // Each byte of the packet that its checksum or a rule covers; the flow label is neither.
        for at in (14..v6.len()).filter(|at| !(15..18).contains(at)) {
            let mut frame = v6.clone();
            frame[at] ^= 0x80;
            assert_eq!(sighting(&frame), None, "byte {at}");
        }
        let v4 = frames("192.0.2.7".parse().unwrap(), MAC, false).remove(0);
        for at in 12..22 {
            let mut frame = v4.clone();
            frame[at] ^= 0x80;
            assert_eq!(sighting(&frame), None, "byte {at}");
        }
    }
}
