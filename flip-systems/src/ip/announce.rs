//! Telling the neighbours where an address is: frames and schedule.
//!
//! Neighbours keep the old holder's hardware address in their caches for up to minutes. IPv4 hosts
//! correct it when they see an ARP packet from the address (RFC 826, "Packet Reception"; RFC 5227
//! §3), IPv6 hosts when they see an unsolicited neighbour advertisement with the override flag
//! (RFC 4861 §7.2.6). Nobody acknowledges either, so both are repeated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::interfaces::Mac;

/// When the announcements of a takeover are sent, counted from it: three at once for what is lost,
/// then for the switch port that was not forwarding yet.
const BURST: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// How far apart announcements are after the burst, for as long as the address is held. A neighbour
/// that missed all of the burst, or heard a former holder after it, comes right within this time.
const REFRESH: Duration = Duration::from_secs(60);

/// When announcement number `n` (from 0) is sent, counted from the first.
#[must_use]
pub fn due(n: u32) -> Duration {
    let burst = BURST.len() as u32;
    match BURST.get(n as usize) {
        Some(&time) => time,
        None => BURST[BURST.len() - 1] + REFRESH * (n - burst + 1),
    }
}

/// The frames of one announcement of `address` by `mac`.
///
/// IPv4 is announced in both forms, because hosts and switches differ in which they learn from: as
/// a request (RFC 5227 §3) and as a reply (RFC 5944 §4.6). `router` is the router flag of IPv6: a
/// host that says 0 is dropped from its neighbours' lists of default routers (RFC 4861 §7.2.5).
#[must_use]
pub fn frames(address: IpAddr, mac: Mac, router: bool) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(ip) => vec![arp(ArpForm::Request, ip, mac), arp(ArpForm::Reply, ip, mac)],
        IpAddr::V6(ip) => vec![neighbour_advertisement(ip, mac, router)],
    }
}

#[derive(Clone, Copy)]
enum ArpForm {
    Request,
    Reply,
}

/// ```text
/// 0        6        12   14   16   18  19 20  22         28     32         38     42
/// | ff x 6 | sender | 806 | 1  |800 | 6 | 4 |op | sender | ip   | target | ip   |
/// |  Ethernet header     |htype|ptype|hln|pln|   |  mac   |      |  mac   |      |
/// ```
fn arp(form: ArpForm, ip: Ipv4Addr, Mac(mac): Mac) -> Vec<u8> {
    let (operation, target) = match form {
        ArpForm::Request => (1, [0; 6]),
        ArpForm::Reply => (2, mac),
    };
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend([0x08, 0x06]);
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(target);
    frame.extend(ip.octets());
    frame
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;

/// ```text
/// 0       6        12   14            54     56      58    62       78      80   86
/// | 33:33:| sender | 86dd| IPv6, hop  | 136 0| check | RSO | target | 2 1   | mac |
/// | ::1   |        |     | limit 255  |      |       |     |        | option      |
/// ```
fn neighbour_advertisement(ip: Ipv6Addr, Mac(mac): Mac, router: bool) -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend([136, 0, 0, 0]);
    message.extend([OVERRIDE | if router { ROUTER } else { 0 }, 0, 0, 0]);
    message.extend(ip.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let sum = checksum(ip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend([0x33, 0x33, 0, 0, 0, 1]);
    frame.extend(mac);
    frame.extend([0x86, 0xdd]);
    // Version 6, payload of 32 bytes, hop limit 255: receivers drop any other (RFC 4861 §7.1.2).
    frame.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum over pseudo-header and message (RFC 8200 §8.1), for a message of even
/// length.
pub(super) fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    debug_assert!(message.len().is_multiple_of(2));
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum()
    };
    let mut sum = words(&from.octets()) + words(&to.octets()) + words(message);
    sum += message.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
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
    fn schedule() {
        let table = [0, 100, 200, 1000, 5000, 65_000, 125_000, 185_000];
        for (n, millis) in (0..).zip(table) {
            assert_eq!(due(n), Duration::from_millis(millis), "announcement {n}");
        }
        // A year and a hundred years of refreshes.
        assert_eq!(due(525_604), Duration::from_secs(5 + 60 * 525_600));
        assert_eq!(due(52_560_004), Duration::from_secs(5 + 60 * 52_560_000));
    }
}
