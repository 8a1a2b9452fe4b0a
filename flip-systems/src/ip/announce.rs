//! Telling the neighbours where an address is, and asking them: the frames.
//!
//! Neighbours keep the old holder's hardware address in their caches for up to minutes. IPv4 hosts
//! correct it when they see an ARP packet from the address (RFC 826, "Packet Reception"; RFC 5227
//! §3), IPv6 hosts when they see an unsolicited neighbour advertisement with the override flag
//! (RFC 4861 §7.2.6), and routers among them make an entry even for an address that they did not know
//! (RFC 9131 §4.1). Nobody acknowledges either, so both are repeated.
//!
//! Some hosts and switches pass over gratuitous ARP, or never see a broadcast. They are told each
//! ([`directed`]) by what no host can pass over: a request for its own address, and an answer to it alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::neighbour::{self, Message};
use crate::interfaces::Mac;

/// The frames of one announcement of `address` by `mac`.
///
/// IPv4 is announced in both forms, because hosts and switches differ in which they learn from: as
/// a request (RFC 5227 §3) and as a reply (RFC 5944 §4.6). `router` is the router flag of IPv6: a
/// host that says 0 is dropped from its neighbours' lists of default routers (RFC 4861 §7.2.5).
#[must_use]
pub fn frames(address: IpAddr, mac: Mac, router: bool) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(ip) => vec![gratuitous(REQUEST, ip, mac), gratuitous(REPLY, ip, mac)],
        IpAddr::V6(ip) => vec![advertisement(ip, mac, router, ALL_NODES, ALL_NODES_FRAME)],
    }
}

/// The frames that tell one neighbour alone, `to` at `at`, where `address` is.
///
/// IPv4: a request for the neighbour's own address, which it must answer and so takes to heart (RFC 826,
/// "Packet Reception": the sender is merged, and added as the packet is for this host; sent to one host as in
/// RFC 1122 §2.3.2.1), and an answer. IPv6: an advertisement with the override flag (RFC 4861 §7.2.6).
///
/// Nothing for addresses of two families.
#[must_use]
pub fn directed(address: IpAddr, mac: Mac, router: bool, to: IpAddr, at: Mac) -> Vec<Vec<u8>> {
    match (address, to) {
        (IpAddr::V4(ip), IpAddr::V4(to)) => {
            let request = Arp { operation: REQUEST, sender: (mac, ip), target: (Mac([0; 6]), to) };
            let reply = Arp { operation: REPLY, sender: (mac, ip), target: (at, to) };
            vec![request.frame(at), reply.frame(at)]
        }
        (IpAddr::V6(ip), IpAddr::V6(to)) => vec![advertisement(ip, mac, router, to, at)],
        _ => Vec::new(),
    }
}

/// The frame that asks everybody for `wanted` in the name of `asker`: whoever has it, answers, and learns
/// where `asker` is (RFC 826; RFC 4861 §7.2.2 and §7.2.3, by the option with the source's hardware address).
///
/// None for addresses of two families.
#[must_use]
pub fn question(wanted: IpAddr, asker: IpAddr, mac: Mac) -> Option<Vec<u8>> {
    match (wanted, asker) {
        (IpAddr::V4(wanted), IpAddr::V4(asker)) => {
            let arp = Arp { operation: REQUEST, sender: (mac, asker), target: (Mac([0; 6]), wanted) };
            Some(arp.frame(BROADCAST))
        }
        (IpAddr::V6(wanted), IpAddr::V6(asker)) => Some(solicitation(wanted, asker, mac)),
        _ => None,
    }
}

/// Whose word a received frame is: the address that it tells of, and where that is said to be. None where the
/// frame is no ARP and no advertisement, or not one that a host has to believe (RFC 4861 §7.1.2).
///
/// An ARP packet of either kind tells where its sender is, but for a probe, which has none (RFC 5227 §1.1).
#[must_use]
pub fn told(frame: &[u8]) -> Option<(IpAddr, Mac)> {
    match neighbour::read(frame)? {
        Message::Arp { sender: (mac, ip), .. } => (!ip.is_unspecified()).then_some((ip.into(), mac)),
        Message::Neighbour { advertises: true, target, option, .. } => Some((target.into(), option?)),
        Message::Neighbour { advertises: false, .. } => None,
    }
}

/// Asks by ARP whether anybody has an address, in the name of nobody (RFC 5227 §2.1.1).
pub(super) fn arp_probe(ip: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let (sender, target) = ((mac, Ipv4Addr::UNSPECIFIED), (Mac([0; 6]), ip));
    Arp { operation: REQUEST, sender, target }.frame(BROADCAST)
}

const BROADCAST: Mac = Mac([0xff; 6]);
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

struct Arp {
    operation: u8,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
}

impl Arp {
    /// ```text
    /// 0        6        12   14   16   18  19 20  22         28     32         38     42
    /// | to     | sender | 806 | 1  |800 | 6 | 4 |op | sender | ip   | target | ip   |
    /// |  Ethernet header     |htype|ptype|hln|pln|   |  mac   |      |  mac   |      |
    /// ```
    fn frame(&self, to: Mac) -> Vec<u8> {
        let mut frame = Vec::with_capacity(42);
        frame.extend(to.0);
        frame.extend(self.sender.0.0);
        frame.extend(ARP);
        frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, self.operation]);
        for (mac, ip) in [self.sender, self.target] {
            frame.extend(mac.0);
            frame.extend(ip.octets());
        }
        frame
    }
}

/// An ARP packet of the address to everybody (RFC 5227 §3): as a request its target is unknown.
fn gratuitous(operation: u8, ip: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let target = if operation == REQUEST { Mac([0; 6]) } else { mac };
    Arp { operation, sender: (mac, ip), target: (target, ip) }.frame(BROADCAST)
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_FRAME: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const ICMPV6: u8 = 58;
/// Receivers drop any other (RFC 4861 §7.1.1 and §7.1.2).
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;
/// The options with the hardware address of the packet's source, and of the address that it tells of.
const SOURCE: u8 = 1;
const TARGET: u8 = 2;

fn advertisement(ip: Ipv6Addr, mac: Mac, router: bool, to: Ipv6Addr, at: Mac) -> Vec<u8> {
    let flags = OVERRIDE | if router { ROUTER } else { 0 };
    Neighbour { kind: ADVERTISEMENT, flags, target: ip, option: Some(TARGET), mac }.frame(ip, to, at)
}

/// Asks all that share the last three bytes of an address (RFC 4291 §2.7.1; their frames: RFC 2464 §7) who has it.
/// Who has no address yet asks from the unspecified one, and then there is no option with its hardware address
/// (RFC 4861 §4.3).
pub(super) fn solicitation(wanted: Ipv6Addr, asker: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let [.., x, y, z] = wanted.octets();
    let option = (!asker.is_unspecified()).then_some(SOURCE);
    Neighbour { kind: SOLICITATION, flags: 0, target: wanted, option, mac }.frame(
        asker,
        solicited_node(wanted),
        Mac([0x33, 0x33, 0xff, x, y, z]),
    )
}

/// The group that whoever has `ip` listens to (RFC 4291 §2.7.1).
pub(super) fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., x, y, z] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]))
}

struct Neighbour {
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    /// The kind of the option with the hardware address, where there is one.
    option: Option<u8>,
    mac: Mac,
}

impl Neighbour {
    /// ```text
    /// 0       6        12   14            54     56      58    62       78      80   86
    /// | to    | sender | 86dd| IPv6, hop  | 136 0| check | RSO | target | 2 1   | mac |
    /// |       |        |     | limit 255  |      |       |     |        | option      |
    /// ```
    fn frame(&self, from: Ipv6Addr, to: Ipv6Addr, at: Mac) -> Vec<u8> {
        let mut message = Vec::with_capacity(32);
        message.extend([self.kind, 0, 0, 0]);
        message.extend([self.flags, 0, 0, 0]);
        message.extend(self.target.octets());
        if let Some(option) = self.option {
            message.extend([option, 1]);
            message.extend(self.mac.0);
        }
        let sum = checksum(from, to, &message);
        message[2..4].copy_from_slice(&sum);

        let mut frame = Vec::with_capacity(86);
        frame.extend(at.0);
        frame.extend(self.mac.0);
        frame.extend(IPV6);
        // Version 6, and the length of the payload.
        frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, HOP_LIMIT]);
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend(message);
        frame
    }
}

/// The Internet checksum over pseudo-header and message (RFC 8200 §8.1). Over a message that has its checksum,
/// it is zero.
pub(super) fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let words = |bytes: &[u8]| -> u32 {
        let word = |w: &[u8]| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
        bytes.chunks(2).map(word).sum()
    };
    let mut sum = words(&from.octets()) + words(&to.octets()) + words(message);
    sum += message.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x02, 0x00, 0x5e, 0x0a, 0x0b, 0x0c]);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn arp_bytes() {
        let frames = frames("192.0.2.7".parse().unwrap(), MAC, true);
        let golden = [
            "ffffffffffff02005e0a0b0c0806\
             0001080006040001\
             02005e0a0b0cc0000207\
             000000000000c0000207",
            "ffffffffffff02005e0a0b0c0806\
             0001080006040002\
             02005e0a0b0cc0000207\
             02005e0a0b0cc0000207",
        ];
        assert_eq!(frames.iter().map(|f| hex(f)).collect::<Vec<_>>(), golden);
        assert!(frames.iter().all(|f| f.len() == 42));
    }

    #[test]
    fn neighbour_advertisement_bytes() {
        // The checksums were computed by another program.
        let golden = [(false, "20000000", "900d"), (true, "a0000000", "100d")];
        for (router, flags, sum) in golden {
            let frames = frames("2001:db8::5".parse().unwrap(), MAC, router);
            let expected = format!(
                "33330000000102005e0a0b0c86dd\
                 6000000000203aff\
                 20010db8000000000000000000000005\
                 ff020000000000000000000000000001\
                 8800{sum}{flags}\
                 20010db8000000000000000000000005\
                 020102005e0a0b0c"
            );
            assert_eq!(frames.iter().map(|f| hex(f)).collect::<Vec<_>>(), [expected]);
            assert_eq!(frames[0].len(), 86);
        }
    }

    #[test]
    fn directed_arp_bytes() {
        let frames = directed(
            "192.0.2.7".parse().unwrap(),
            MAC,
            true,
            "192.0.2.99".parse().unwrap(),
            Mac([0x02, 1, 2, 3, 4, 5]),
        );
        let golden = [
            // "Who has 192.0.2.99? Tell 192.0.2.7", to that host alone.
            "02010203040502005e0a0b0c0806\
             0001080006040001\
             02005e0a0b0cc0000207\
             000000000000c0000263",
            // "192.0.2.7 is at 02:00:5e:0a:0b:0c", to that host alone.
            "02010203040502005e0a0b0c0806\
             0001080006040002\
             02005e0a0b0cc0000207\
             020102030405c0000263",
        ];
        assert_eq!(frames.iter().map(|f| hex(f)).collect::<Vec<_>>(), golden);
    }

    #[test]
    fn directed_advertisement_bytes() {
        let to: IpAddr = "2001:db8::99".parse().unwrap();
        let frames = directed("2001:db8::5".parse().unwrap(), MAC, false, to, Mac([0x02, 1, 2, 3, 4, 5]));
        // The checksum was computed by another program.
        let golden = "02010203040502005e0a0b0c86dd\
             6000000000203aff\
             20010db8000000000000000000000005\
             20010db8000000000000000000000099\
             880060bf20000000\
             20010db8000000000000000000000005\
             020102005e0a0b0c";
        assert_eq!(frames.iter().map(|f| hex(f)).collect::<Vec<_>>(), [golden]);
        assert!(directed("192.0.2.7".parse().unwrap(), MAC, false, to, MAC).is_empty());
    }

    #[test]
    fn question_bytes() {
        let arp = question("192.0.2.99".parse().unwrap(), "192.0.2.7".parse().unwrap(), MAC).unwrap();
        let golden = "ffffffffffff02005e0a0b0c0806\
             0001080006040001\
             02005e0a0b0cc0000207\
             000000000000c0000263";
        assert_eq!(hex(&arp), golden);
        let solicitation =
            question("2001:db8::12:3456".parse().unwrap(), "2001:db8::5".parse().unwrap(), MAC).unwrap();
        // The checksum was computed by another program.
        let golden = "3333ff12345602005e0a0b0c86dd\
             6000000000203aff\
             20010db8000000000000000000000005\
             ff0200000000000000000001ff123456\
             87004a4100000000\
             20010db8000000000000000000123456\
             010102005e0a0b0c";
        assert_eq!(hex(&solicitation), golden);
        assert_eq!(question("192.0.2.7".parse().unwrap(), "2001:db8::5".parse().unwrap(), MAC), None);
    }

    #[test]
    fn who_told_what() {
        let at = |frame: &[u8]| told(frame).map(|(ip, mac)| (ip.to_string(), mac));
        for address in ["192.0.2.7", "2001:db8::5"] {
            let ip: IpAddr = address.parse().unwrap();
            for frame in frames(ip, MAC, true) {
                assert_eq!(at(&frame), Some((address.to_owned(), MAC)));
                // Ethernet frames are padded to 60 bytes.
                let mut padded = frame.clone();
                padded.resize(frame.len().max(60), 0);
                assert_eq!(at(&padded), Some((address.to_owned(), MAC)));
                for end in 0..frame.len() {
                    assert_eq!(at(&frame[..end]), None, "cut to {end} bytes");
                }
            }
        }
        // A request of somebody for somebody tells of who asks; a solicitation is no advertisement.
        let (wanted, asker) = ("192.0.2.99".parse().unwrap(), "192.0.2.7".parse().unwrap());
        assert_eq!(at(&question(wanted, asker, MAC).unwrap()), Some(("192.0.2.7".to_owned(), MAC)));
        let (wanted, asker) = ("2001:db8::9".parse().unwrap(), "2001:db8::5".parse().unwrap());
        assert_eq!(at(&question(wanted, asker, MAC).unwrap()), None);
        // A probe (RFC 5227 §1.1) has no sender.
        let probe = question("192.0.2.7".parse().unwrap(), "0.0.0.0".parse().unwrap(), MAC).unwrap();
        assert_eq!(at(&probe), None);
        // A wrong checksum, a hop limit that a router has counted down, another protocol.
        let good = frames("2001:db8::5".parse().unwrap(), MAC, true).remove(0);
        for (place, value) in [(57, 1), (21, 254), (20, 17), (12, 0x88)] {
            let mut bad = good.clone();
            assert_ne!(bad[place], value);
            bad[place] = value;
            assert_eq!(at(&bad), None, "byte {place}");
        }
    }

    #[test]
    fn damaged_frames_never_panic() {
        let mut all = frames("192.0.2.7".parse().unwrap(), MAC, true);
        all.extend(frames("2001:db8::5".parse().unwrap(), MAC, true));
        for frame in all {
            for at in 0..frame.len() {
                for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                    let mut damaged = frame.clone();
                    damaged[at] = value;
                    let _ = told(&damaged);
                }
            }
        }
    }
}
