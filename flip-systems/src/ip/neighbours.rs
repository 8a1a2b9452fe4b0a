//! Who is near: the neighbours that this server's interfaces have seen, and those that other servers told of.
//!
//! Every server tells the others which neighbours it knows (vippy's `arp-cache`), so that whoever takes an
//! address can tell those that spoke with its former holder. What is told is bounded and grows old; it only
//! says to whom a frame is sent, and a wrong entry costs that frame.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use flip_core::{Time, limits};
use ipnet::IpNet;

use super::pace::{TARGETS, Target};
use crate::interfaces::Mac;

/// Neighbours that one server tells of at a time.
pub(super) const TOLD: usize = 1024;
/// Neighbours that are remembered of others.
const REMEMBERED: usize = 8192;
/// For how many of the sender's intervals its word counts.
const INTERVALS: u32 = 3;
/// The first byte of a message: who does not know it passes over the message.
const FORMAT: u8 = 1;

/// A neighbour of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Neighbour {
    pub(super) index: u32,
    pub(super) ip: IpAddr,
    pub(super) mac: Mac,
}

/// What other servers told.
#[derive(Debug, Default)]
pub(super) struct Told {
    by_ip: BTreeMap<IpAddr, (Mac, Time)>,
}

impl Told {
    /// Takes a message of another server. What is in none of these subnets is no neighbour of anything here.
    pub(super) fn take(&mut self, message: &[u8], subnets: &[IpNet], interval: Duration, now: Time) {
        let until = now + interval.max(Duration::from_secs(1)) * INTERVALS;
        for (ip, mac) in decode(message) {
            if !subnets.iter().any(|subnet| is_host_of(subnet, ip)) {
                continue;
            }
            if self.by_ip.len() >= REMEMBERED && !self.by_ip.contains_key(&ip) {
                self.by_ip.retain(|_, (_, until)| *until > now);
                if self.by_ip.len() >= REMEMBERED {
                    return;
                }
            }
            self.by_ip.insert(ip, (mac, until));
        }
    }

    fn current(&self, now: Time) -> impl Iterator<Item = (IpAddr, Mac)> {
        self.by_ip.iter().filter(move |(_, (_, until))| *until > now).map(|(ip, (mac, _))| (*ip, *mac))
    }
}

/// To whom an address is announced each: the known neighbours in its subnet, and the hosts of the networks that
/// are to be notified; never anybody outside its subnet, and nobody who is on this host.
///
/// `own` are the neighbours of its interface. IPv6 neighbours are often known by their link-local addresses alone,
/// and are on the link by those.
pub(super) fn targets(
    address: IpAddr,
    subnet: IpNet,
    own: impl Iterator<Item = (IpAddr, Mac)>,
    told: &Told,
    nets: &[IpNet],
    mine: &[IpAddr],
    now: Time,
) -> Vec<Target> {
    let mut found: BTreeMap<IpAddr, Option<Mac>> = BTreeMap::new();
    let may = |ip: IpAddr| ip != address && !mine.contains(&ip);
    for host in nets.iter().flat_map(|net| within(*net, subnet)).filter(|ip| may(*ip)).take(TARGETS) {
        found.insert(host, None);
    }
    let link_local =
        |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) && address.is_ipv6();
    for (ip, mac) in told.current(now).filter(|(ip, _)| is_host_of(&subnet, *ip) && may(*ip)) {
        found.insert(ip, Some(mac));
    }
    // What this host has seen itself counts more.
    for (ip, mac) in own.filter(|(ip, _)| (is_host_of(&subnet, *ip) || link_local(*ip)) && may(*ip)) {
        found.insert(ip, Some(mac));
    }
    let all = found.into_iter().map(|(ip, mac)| Target { ip, mac });
    // Those that are told alone come first: they cost nobody else anything.
    let (alone, asked): (Vec<_>, Vec<_>) = all.partition(|target| target.mac.is_some());
    alone.into_iter().chain(asked).take(TARGETS).collect()
}

/// The hosts of a network that are in a subnet too.
fn within(net: IpNet, subnet: IpNet) -> impl Iterator<Item = IpAddr> {
    let smaller = if subnet.contains(&net) {
        Some(net)
    } else if net.contains(&subnet) {
        Some(subnet)
    } else {
        None
    };
    // The config allows small networks only. Their own ends are hosts, where the subnet is larger.
    let each = smaller.into_iter().filter_map(|net| net.subnets(net.max_prefix_len()).ok()).flatten();
    each.map(|one| one.addr()).filter(move |ip| is_host_of(&subnet, *ip))
}

/// Whether a single host of this subnet can have the address.
fn is_host_of(subnet: &IpNet, ip: IpAddr) -> bool {
    let reserved = match subnet {
        // RFC 3021: of a /31 both are hosts.
        IpNet::V4(net) => net.prefix_len() < 31 && (ip == net.network() || ip == net.broadcast()),
        IpNet::V6(_) => false,
    };
    subnet.contains(&ip) && !reserved
}

/// The messages that tell of these neighbours, each short enough for the bus; at most [`TOLD`] of them.
pub(super) fn encode(neighbours: impl Iterator<Item = (IpAddr, Mac)>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut message = vec![FORMAT];
    for (ip, mac) in neighbours.take(TOLD) {
        let before = message.len();
        match ip {
            IpAddr::V4(ip) => {
                message.push(4);
                message.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                message.push(6);
                message.extend(ip.octets());
            }
        }
        message.extend(mac.0);
        if message.len() > limits::ASIDE {
            let last = message.split_off(before);
            messages.push(std::mem::replace(&mut message, vec![FORMAT]));
            message.extend(last);
        }
    }
    if message.len() > 1 {
        messages.push(message);
    }
    messages
}

/// What a message tells of; from where it is not understood on, nothing.
fn decode(message: &[u8]) -> Vec<(IpAddr, Mac)> {
    let mut found = Vec::new();
    let Some((&FORMAT, mut rest)) = message.split_first() else { return found };
    while let [family, after @ ..] = rest {
        let ip = match family {
            4 => after.first_chunk::<4>().map(|ip| (IpAddr::from(*ip), 4)),
            6 => after.first_chunk::<16>().map(|ip| (IpAddr::from(*ip), 16)),
            _ => None,
        };
        let Some((ip, length)) = ip else { return found };
        let Some((mac, after)) = after[length..].split_first_chunk::<6>() else { return found };
        rest = after;
        if is_host(ip, Mac(*mac)) {
            found.push((ip, Mac(*mac)));
        }
    }
    found
}

/// Whether these are the addresses of one host.
pub(super) fn is_host(ip: IpAddr, mac: Mac) -> bool {
    !ip.is_multicast() && !ip.is_unspecified() && !ip.is_loopback() && mac.0 != [0; 6] && mac.0[0] & 1 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time::from_millis(1_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn told(entries: &[(&str, u8)], subnets: &[&str]) -> Told {
        let mut told = Told::default();
        let subnets: Vec<_> = subnets.iter().map(|text| net(text)).collect();
        for message in encode(entries.iter().map(|(text, last)| (ip(text), mac(*last)))) {
            told.take(&message, &subnets, MINUTE, AT);
        }
        told
    }

    #[test]
    fn messages_are_short_and_come_back() {
        let v4 = (0..2000u16).map(|n| (IpAddr::from([10, 0, (n >> 8) as u8, n as u8]), mac(1)));
        let messages = encode(v4.clone());
        assert!(messages.iter().all(|message| message.len() <= limits::ASIDE));
        assert_eq!(messages.len(), 12, "90 to a message");
        let back: Vec<_> = messages.iter().flat_map(|message| decode(message)).collect();
        let first: Vec<_> = v4.take(TOLD).collect();
        assert_eq!(back, first);
        let v6 = [(ip("2001:db8::1"), mac(1)), (ip("192.0.2.1"), mac(2))];
        assert_eq!(decode(&encode(v6.into_iter()).concat()), v6);
        assert!(encode(std::iter::empty()).is_empty());
    }

    #[test]
    fn damaged_messages_are_read_as_far_as_they_go() {
        let message = encode([(ip("192.0.2.1"), mac(1)), (ip("2001:db8::1"), mac(2))].into_iter()).concat();
        for end in 0..=message.len() {
            let expected = usize::from(end >= 12) + usize::from(end == message.len());
            assert_eq!(decode(&message[..end]).len(), expected, "cut to {end}");
            for value in [0, 4, 6, 255] {
                let mut damaged = message.clone();
                if let Some(byte) = damaged.get_mut(end) {
                    *byte = value;
                }
                let _ = decode(&damaged);
            }
        }
        let nobody =
            [("224.0.0.1", [2, 0, 0, 0, 0, 1]), ("192.0.2.1", [0; 6]), ("192.0.2.1", [1, 0, 0x5e, 0, 0, 1])];
        for (text, bytes) in nobody {
            assert!(
                decode(&encode([(ip(text), Mac(bytes))].into_iter()).concat()).is_empty(),
                "{text} {bytes:?}"
            );
        }
    }

    #[test]
    fn what_is_told_is_of_a_subnet_and_grows_old() {
        let mut told = told(&[("192.0.2.1", 1), ("198.51.100.1", 2), ("192.0.2.255", 3)], &["192.0.2.0/24"]);
        assert_eq!(told.current(AT).collect::<Vec<_>>(), [(ip("192.0.2.1"), mac(1))]);
        assert_eq!(told.current(AT + MINUTE * 3).count(), 0);
        // A newer word counts, and makes it young.
        let message = encode([(ip("192.0.2.1"), mac(9))].into_iter()).concat();
        told.take(&message, &[net("192.0.2.0/24")], MINUTE, AT + MINUTE);
        assert_eq!(told.current(AT + MINUTE * 3).collect::<Vec<_>>(), [(ip("192.0.2.1"), mac(9))]);
        // Whoever tells of more than there can be is not believed beyond a limit, until that is old.
        let subnet = [net("10.0.0.0/8")];
        for n in 0..2 * REMEMBERED / TOLD {
            let address = |k: usize| IpAddr::from([10, n as u8, (k >> 8) as u8, (k & 0xff) as u8]);
            for message in encode((1..=TOLD).map(|k| (address(k), mac(1)))) {
                told.take(&message, &subnet, MINUTE, AT + MINUTE);
            }
        }
        assert!(told.by_ip.len() == REMEMBERED);
        let message = encode([(ip("10.9.9.9"), mac(1))].into_iter()).concat();
        told.take(&message, &subnet, MINUTE, AT + MINUTE);
        assert!(!told.by_ip.contains_key(&ip("10.9.9.9")));
        told.take(&message, &subnet, MINUTE, AT + MINUTE * 10);
        assert!(told.by_ip.contains_key(&ip("10.9.9.9")));
    }

    #[test]
    fn who_is_told_of_an_address() {
        struct Case {
            address: &'static str,
            subnet: &'static str,
            own: &'static [(&'static str, u8)],
            told: &'static [(&'static str, u8)],
            nets: &'static [&'static str],
            expected: &'static [(&'static str, u8)],
        }
        let cases = [
            // Its subnet alone; what this host saw itself counts more; never itself and its own addresses.
            Case {
                address: "192.0.2.7",
                subnet: "192.0.2.0/24",
                own: &[("192.0.2.1", 1), ("198.51.100.1", 2), ("192.0.2.7", 3), ("fe80::1", 4)],
                told: &[("192.0.2.1", 99), ("192.0.2.9", 5), ("192.0.2.200", 6)],
                nets: &[],
                expected: &[("192.0.2.1", 1), ("192.0.2.9", 5)],
            },
            // Hosts of a network: those that are known alone first, no network and no broadcast address.
            Case {
                address: "192.0.2.6",
                subnet: "192.0.2.0/29",
                own: &[("192.0.2.3", 1)],
                told: &[],
                nets: &["192.0.2.0/24", "10.0.0.0/24"],
                expected: &[
                    ("192.0.2.3", 1),
                    ("192.0.2.1", 0),
                    ("192.0.2.2", 0),
                    ("192.0.2.4", 0),
                    ("192.0.2.5", 0),
                ],
            },
            Case {
                address: "192.0.2.7",
                subnet: "192.0.0.0/16",
                own: &[],
                told: &[],
                nets: &["192.0.2.4/30"],
                expected: &[("192.0.2.4", 0), ("192.0.2.5", 0), ("192.0.2.6", 0)],
            },
            // Routers are known by link-local addresses.
            Case {
                address: "2001:db8::7",
                subnet: "2001:db8::/64",
                own: &[("fe80::1", 1), ("2001:db8::9", 2), ("2001:db8:1::9", 3), ("192.0.2.1", 4)],
                told: &[("2001:db8::8", 5)],
                nets: &["2001:db8::/127"],
                expected: &[
                    ("2001:db8::8", 5),
                    ("2001:db8::9", 2),
                    ("fe80::1", 1),
                    ("2001:db8::", 0),
                    ("2001:db8::1", 0),
                ],
            },
        ];
        for case in cases {
            let own = case.own.iter().map(|(text, last)| (ip(text), mac(*last)));
            let told = told(case.told, &[case.subnet]);
            let nets: Vec<_> = case.nets.iter().map(|text| net(text)).collect();
            let mine = [ip("192.0.2.200")];
            let found = targets(ip(case.address), net(case.subnet), own, &told, &nets, &mine, AT);
            let expected: Vec<_> = case
                .expected
                .iter()
                .map(|(text, last)| Target { ip: ip(text), mac: (*last > 0).then(|| mac(*last)) })
                .collect();
            assert_eq!(found, expected, "{} in {}", case.address, case.subnet);
        }
    }

    /// As in vippy since its PR 12.
    #[test]
    fn networks_larger_than_24_bits_are_told_whole() {
        let none = std::iter::empty();
        let found = targets(
            ip("10.0.0.9"),
            net("10.0.0.0/22"),
            none,
            &Told::default(),
            &[net("10.0.0.0/23")],
            &[],
            AT,
        );
        assert_eq!(found.len(), 510, "512 addresses but for the network's and the one that is announced");
        assert!(found.iter().all(|target| target.mac.is_none()));
    }
}
