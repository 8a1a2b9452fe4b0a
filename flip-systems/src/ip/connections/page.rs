//! How a holder tells others of its connections: pages, each of which fits into one message of the bus.
//!
//! ```text
//!  0        1        2        3        4                 8                 12
//! ┌────────┬────────┬────────┬────────┬─────────────────┬─────────────────┬─────────┬─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─
//! │ format │ family │  page  │ pages  │ life of sender  │ edition         │ address │ client, its port, our port …
//! └────────┴────────┴────────┴────────┴─────────────────┴─────────────────┴─────────┴─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─
//! ```
//!
//! Numbers have their most significant byte first; addresses have 4 or 16 bytes by the family (4 or 6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flip_core::limits;

/// The only format so far. Whoever reads another one takes nothing from it.
const FORMAT: u8 = 1;
const HEADER: usize = 12;

/// Connections of one address that are told of.
pub(crate) const CONNECTIONS: usize = 1024;

/// A client of an address: where it is, and to which port of the address it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client {
    /// Its address; of the family of the address that it is connected to.
    pub(crate) ip: IpAddr,
    /// Its port.
    pub(crate) port: u16,
    /// The port at the address.
    pub(crate) to: u16,
}

/// A part of what a holder says of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The address.
    pub(crate) address: IpAddr,
    /// A number of the holder's process, so that editions of two lives are not mixed.
    pub(crate) life: u32,
    /// Grows with each new list.
    pub(crate) edition: u32,
    /// Which part, from zero.
    pub(crate) page: u8,
    /// Of how many; at least one.
    pub(crate) pages: u8,
    /// Its clients.
    pub(crate) clients: Vec<Client>,
}

/// How many clients of an address of this family go into one page.
fn per_page(address: IpAddr) -> usize {
    let width = width(address);
    (limits::ASIDE - HEADER - width) / (width + 4)
}

const fn width(address: IpAddr) -> usize {
    if address.is_ipv4() { 4 } else { 16 }
}

/// Divides a list into pages. Clients of the other family, and those beyond [`CONNECTIONS`], are left out.
pub(crate) fn pages(address: IpAddr, life: u32, edition: u32, clients: &[Client]) -> Vec<Vec<u8>> {
    let clients: Vec<_> =
        clients.iter().filter(|c| c.ip.is_ipv4() == address.is_ipv4()).take(CONNECTIONS).collect();
    let mut parts: Vec<_> = clients.chunks(per_page(address)).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let count = u8::try_from(parts.len()).unwrap_or(u8::MAX);
    let page = |(n, part): (usize, &&[&Client])| {
        let mut bytes = vec![FORMAT, if address.is_ipv4() { 4 } else { 6 }];
        bytes.extend([u8::try_from(n).unwrap_or(u8::MAX), count]);
        bytes.extend(life.to_be_bytes());
        bytes.extend(edition.to_be_bytes());
        push(&mut bytes, address);
        for client in *part {
            push(&mut bytes, client.ip);
            bytes.extend(client.port.to_be_bytes());
            bytes.extend(client.to.to_be_bytes());
        }
        bytes
    };
    parts.iter().enumerate().map(page).collect()
}

fn push(bytes: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => bytes.extend(v4.octets()),
        IpAddr::V6(v6) => bytes.extend(v6.octets()),
    }
}

impl Page {
    /// Reads a page; none where it is not one.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_first_chunk::<HEADER>()?;
        let [FORMAT, family, page, pages, ..] = *header else { return None };
        let number =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let ip = |rest: &mut &[u8]| -> Option<IpAddr> {
            match family {
                4 => {
                    let (octets, after) = rest.split_first_chunk::<4>()?;
                    *rest = after;
                    Some(Ipv4Addr::from(*octets).into())
                }
                6 => {
                    let (octets, after) = rest.split_first_chunk::<16>()?;
                    *rest = after;
                    Some(Ipv6Addr::from(*octets).into())
                }
                _ => None,
            }
        };
        let address = ip(&mut rest)?;
        let most = CONNECTIONS.div_ceil(per_page(address));
        if page >= pages || usize::from(pages) > most || bytes.len() > limits::ASIDE {
            return None;
        }
        let mut clients = Vec::with_capacity(rest.len() / (width(address) + 4));
        while !rest.is_empty() {
            let client = ip(&mut rest)?;
            let (&[a, b, c, d], after) = rest.split_first_chunk::<4>()?;
            rest = after;
            let (port, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            clients.push(Client { ip: client, port, to });
        }
        Some(Self { address, life: number(4), edition: number(8), page, pages, clients })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(prefix: &str, count: usize) -> Vec<Client> {
        let ip = prefix.parse().unwrap();
        (0..count).map(|n| Client { ip, port: u16::try_from(n + 1).unwrap(), to: 443 }).collect()
    }

    #[test]
    fn a_page_byte_by_byte() {
        let address = "192.0.2.1".parse().unwrap();
        let one = [Client { ip: "198.51.100.7".parse().unwrap(), port: 49_152, to: 80 }];
        let bytes = pages(address, 0x0102_0304, 9, &one);
        #[rustfmt::skip]
        let expected = vec![
            1, 4, 0, 1, 1, 2, 3, 4, 0, 0, 0, 9, 192, 0, 2, 1,
            198, 51, 100, 7, 0xc0, 0, 0, 80,
        ];
        assert_eq!(bytes, [expected]);
    }

    #[test]
    fn lists_of_any_length_come_back_in_pages_that_fit() {
        for (address, client) in [("192.0.2.1", "198.51.100.7"), ("2001:db8::1", "2001:db8::7")] {
            let address = address.parse().unwrap();
            for count in [0, 1, 48, 49, 123, 124, CONNECTIONS, CONNECTIONS + 5] {
                let all = clients(client, count);
                let told = pages(address, 1, 2, &all);
                assert!(told.iter().all(|bytes| bytes.len() <= limits::ASIDE), "{address} {count}");
                let read: Vec<_> = told.iter().map(|bytes| Page::read(bytes).unwrap()).collect();
                assert!(read.iter().all(|page| page.address == address && page.pages as usize == read.len()));
                let back: Vec<_> = read.into_iter().flat_map(|page| page.clients).collect();
                assert_eq!(back, all[..count.min(CONNECTIONS)], "{address} {count}");
            }
            // Nothing of the other family.
            let other = if client.contains(':') { "198.51.100.7" } else { "2001:db8::7" };
            let told = pages(address, 1, 2, &clients(other, 3));
            assert_eq!(Page::read(&told[0]).unwrap().clients, []);
        }
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let good = pages("192.0.2.1".parse().unwrap(), 1, 2, &clients("198.51.100.7", 2)).remove(0);
        assert!(Page::read(&good).is_some());
        // All but the ends of entries.
        for length in (0..good.len()).filter(|length| *length < 16 || length % 8 != 0) {
            assert_eq!(Page::read(&good[..length]), None, "{length}");
        }
        for (at, value) in [(0, 2), (0, 0), (1, 5), (1, 0), (2, 1), (3, 0), (3, 200)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(Page::read(&bad), None, "{at} {value}");
        }
        let mut long = good;
        long.extend([0; limits::ASIDE]);
        assert_eq!(Page::read(&long), None);
    }
}
