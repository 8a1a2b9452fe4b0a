//! What a holder tells of its connections, and when: whenever a list is different, and again after a while for
//! those who missed it; never more than so much in a time.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use flip_core::Time;

use super::page::{self, CONNECTIONS, Client};

/// From one look at the connections to the next.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// After how long an unchanged list is told again.
const AGAIN: Duration = Duration::from_secs(30);
/// How often pages go out while some wait, and how many: 40 a second, of the 200 that others hear.
pub(super) const PACE: (Duration, usize) = (Duration::from_millis(100), 4);
/// Pages that may wait. A list that does not fit is told after a later look.
const WAITING: usize = 256;

/// The lists of the addresses that are here.
pub(super) struct Shares {
    life: u32,
    told: BTreeMap<IpAddr, Told>,
    waiting: VecDeque<Vec<u8>>,
    /// Addresses with more connections than are told of, named once.
    crowded: Vec<IpAddr>,
}

struct Told {
    edition: u32,
    clients: Vec<Client>,
    at: Time,
}

impl Shares {
    /// `life` differs between lives of this server's daemon.
    pub(super) const fn new(life: u32) -> Self {
        Self { life, told: BTreeMap::new(), waiting: VecDeque::new(), crowded: Vec::new() }
    }

    /// Takes note of the connections of all addresses that are here. Gives back those that have more than are
    /// told of, each once.
    pub(super) fn look(&mut self, here: BTreeMap<IpAddr, Vec<Client>>, now: Time) -> Vec<IpAddr> {
        self.told.retain(|address, _| here.contains_key(address));
        let mut crowded = Vec::new();
        for (address, mut clients) in here {
            clients.sort_unstable();
            clients.dedup();
            if clients.len() > CONNECTIONS {
                clients.truncate(CONNECTIONS);
                if !self.crowded.contains(&address) {
                    self.crowded.push(address);
                    crowded.push(address);
                }
            }
            let told = self.told.get(&address);
            let news = told.is_none_or(|told| told.clients != clients || now.since(told.at) >= AGAIN);
            let edition = told.map_or(1, |told| told.edition.wrapping_add(1));
            let pages = if news { page::pages(address, self.life, edition, &clients) } else { Vec::new() };
            if news && self.waiting.len() + pages.len() <= WAITING {
                self.waiting.extend(pages);
                self.told.insert(address, Told { edition, clients, at: now });
            }
        }
        crowded
    }

    /// What may go out now.
    pub(super) fn next(&mut self) -> Vec<Vec<u8>> {
        let count = self.waiting.len().min(PACE.1);
        self.waiting.drain(..count).collect()
    }

    /// Whether something waits to go out.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::Page;
    use super::*;

    fn clients(count: usize) -> Vec<Client> {
        let ip = "198.51.100.7".parse().unwrap();
        (0..count).map(|n| Client { ip, port: u16::try_from(n + 1).unwrap(), to: 443 }).collect()
    }

    fn here(lists: &[(u8, usize)]) -> BTreeMap<IpAddr, Vec<Client>> {
        lists.iter().map(|(n, count)| (address(*n), clients(*count))).collect()
    }

    fn address(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    fn said(shares: &mut Shares) -> Vec<(IpAddr, u32, usize)> {
        let mut said = Vec::new();
        while shares.waits() {
            let pages = shares.next();
            assert!((1..=PACE.1).contains(&pages.len()));
            for page in pages {
                let page = Page::read(&page).unwrap();
                assert_eq!(page.life, 7);
                said.push((page.address, page.edition, page.clients.len()));
            }
        }
        said
    }

    #[test]
    fn lists_are_told_when_they_differ_and_again_after_a_while() {
        let mut shares = Shares::new(7);
        let at = |seconds: u64| Time::from_millis(seconds * 1000);
        assert!(shares.look(here(&[(1, 2), (2, 0)]), at(0)).is_empty());
        assert_eq!(said(&mut shares), [(address(1), 1, 2), (address(2), 1, 0)]);
        shares.look(here(&[(1, 2), (2, 0)]), at(2));
        assert_eq!(said(&mut shares), []);
        shares.look(here(&[(1, 3), (2, 0)]), at(4));
        assert_eq!(said(&mut shares), [(address(1), 2, 3)]);
        shares.look(here(&[(1, 3), (2, 0)]), at(30));
        assert_eq!(said(&mut shares), [(address(2), 2, 0)], "thirty seconds after it was told");
        // What left is forgotten: should it come back, its list is told from the start.
        shares.look(here(&[(2, 0)]), at(31));
        shares.look(here(&[(1, 3), (2, 0)]), at(32));
        assert_eq!(said(&mut shares), [(address(1), 1, 3)]);
    }

    #[test]
    fn so_many_connections_are_told_of_and_the_rest_is_named_once() {
        let mut shares = Shares::new(7);
        let many = here(&[(1, CONNECTIONS + 1), (2, CONNECTIONS)]);
        assert_eq!(shares.look(many.clone(), Time::ZERO), [address(1)]);
        let told: usize = said(&mut shares).iter().map(|(.., count)| count).sum();
        assert_eq!(told, CONNECTIONS * 2);
        assert!(shares.look(many, Time::from_millis(60_000)).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_told_later() {
        let mut shares = Shares::new(7);
        let many: Vec<_> = (1..=100).map(|n| (n, CONNECTIONS)).collect();
        let mut heard = std::collections::BTreeSet::new();
        for look in 0..10 {
            shares.look(here(&many), Time::from_millis(look * 2000));
            assert!(shares.waiting.len() <= WAITING);
            heard.extend(said(&mut shares).into_iter().map(|(address, ..)| address));
        }
        assert_eq!(heard.len(), 100);
    }
}
