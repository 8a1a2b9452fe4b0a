//! What others told of their connections, until somebody takes an address and lets the clients know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use flip_core::Time;

use super::page::{Client, Page};

/// A list that nobody repeated for so long is out of date: its holder tells it every half minute.
const KEEP: Duration = Duration::from_secs(600);
/// Clients of all addresses; beyond, the lists go that were heard of least lately.
const CLIENTS: usize = 131_072;

/// The lists of others, by address.
#[derive(Default)]
pub(super) struct Table {
    lists: BTreeMap<IpAddr, List>,
}

struct List {
    from: usize,
    life: u32,
    edition: u32,
    count: u8,
    pages: BTreeMap<u8, Vec<Client>>,
    /// What an earlier edition said, as long as this one is not whole.
    before: Vec<Client>,
    at: Time,
}

impl List {
    fn new(from: usize, page: Page, before: Vec<Client>, at: Time) -> Self {
        let Page { life, edition, pages: count, page, clients, .. } = page;
        Self { from, life, edition, count, pages: BTreeMap::from([(page, clients)]), before, at }
    }

    fn is_whole(&self) -> bool {
        self.pages.len() == usize::from(self.count)
    }

    fn clients(&self) -> BTreeSet<Client> {
        let before = self.before.iter().filter(|_| !self.is_whole());
        self.pages.values().flatten().chain(before).copied().collect()
    }

    fn len(&self) -> usize {
        self.before.len() + self.pages.values().map(Vec::len).sum::<usize>()
    }
}

impl Table {
    /// A server told a part of the list of one address. Pages come in any order, twice, or not at all.
    pub(super) fn hear(&mut self, from: usize, page: Page, now: Time) {
        let address = page.address;
        match self.lists.get_mut(&address) {
            Some(list) if list.from == from && list.life == page.life => {
                let newer = page.edition.wrapping_sub(list.edition);
                if newer == 0 && page.pages == list.count {
                    list.pages.insert(page.page, page.clients);
                    if list.is_whole() {
                        list.before = Vec::new();
                    }
                    list.at = now;
                } else if (1..1 << 31).contains(&newer) {
                    let before: Vec<_> = list.clients().into_iter().take(super::page::CONNECTIONS).collect();
                    let whole = page.pages == 1;
                    *list = List::new(from, page, if whole { Vec::new() } else { before }, now);
                }
            }
            // Another holder knows nothing of the connections of the one before.
            _ => drop(self.lists.insert(address, List::new(from, page, Vec::new(), now))),
        }
        while self.lists.values().map(List::len).sum::<usize>() > CLIENTS && self.lists.len() > 1 {
            let oldest = self.lists.iter().filter(|(at, _)| **at != address).min_by_key(|(_, list)| list.at);
            let Some(oldest) = oldest.map(|(at, _)| *at) else { return };
            self.lists.remove(&oldest);
        }
    }

    /// This server has taken an address: whom to tell, in order. The list is forgotten.
    pub(super) fn take(&mut self, address: IpAddr, now: Time) -> Vec<Client> {
        let list = self.lists.remove(&address).filter(|list| now.since(list.at) <= KEEP);
        list.map(|list| list.clients().into_iter().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::{CONNECTIONS, pages};
    use super::*;

    fn address(n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        [10, 1, high, low].into()
    }

    fn clients(range: std::ops::Range<usize>) -> Vec<Client> {
        let ip = "198.51.100.7".parse().unwrap();
        range.map(|n| Client { ip, port: u16::try_from(n + 1).unwrap(), to: 443 }).collect()
    }

    /// The pages of a list, as they are heard.
    fn told(life: u32, edition: u32, clients: &[Client]) -> Vec<Page> {
        pages(address(1), life, edition, clients).iter().map(|bytes| Page::read(bytes).unwrap()).collect()
    }

    fn hear(table: &mut Table, from: usize, pages: Vec<Page>) {
        pages.into_iter().for_each(|page| table.hear(from, page, Time::ZERO));
    }

    fn take(table: &mut Table) -> Vec<Client> {
        table.take(address(1), Time::ZERO)
    }

    #[test]
    fn the_newest_list_counts_and_is_taken_once() {
        let mut table = Table::default();
        hear(&mut table, 1, told(5, 1, &clients(0..300)));
        hear(&mut table, 1, told(5, 2, &clients(100..200)));
        // Overtaken on its way.
        hear(&mut table, 1, told(5, 1, &clients(0..300)));
        assert_eq!(take(&mut table), clients(100..200));
        assert_eq!(take(&mut table), []);
        // Numbers may start anew after the largest.
        hear(&mut table, 1, told(5, u32::MAX, &clients(0..1)));
        hear(&mut table, 1, told(5, 0, &clients(1..2)));
        assert_eq!(take(&mut table), clients(1..2));
        // Nothing is left where all have gone.
        hear(&mut table, 1, told(5, 7, &clients(0..10)));
        hear(&mut table, 1, told(5, 8, &[]));
        assert_eq!(take(&mut table), []);
    }

    #[test]
    fn pages_come_in_any_order_and_a_lost_one_loses_little() {
        let mut table = Table::default();
        let mut old = told(5, 1, &clients(0..300));
        assert_eq!(old.len(), 3);
        old.reverse();
        hear(&mut table, 1, old.clone());
        hear(&mut table, 1, old);
        let mut new = told(5, 2, &clients(200..500));
        let lost = new.remove(1);
        hear(&mut table, 1, new.clone());
        // As long as the new list has a gap, the old one is not forgotten.
        let mut all: BTreeSet<_> = clients(0..300).into_iter().collect();
        all.extend(new.into_iter().flat_map(|page| page.clients));
        assert_eq!(table.lists[&address(1)].clients(), all);
        hear(&mut table, 1, vec![lost]);
        assert_eq!(take(&mut table), clients(200..500));
    }

    #[test]
    fn another_holder_and_another_life_begin_anew() {
        let mut table = Table::default();
        hear(&mut table, 1, told(5, 9, &clients(0..10)));
        hear(&mut table, 2, told(5, 1, &clients(10..20)));
        assert_eq!(take(&mut table), clients(10..20));
        hear(&mut table, 1, told(5, 9, &clients(0..10)));
        hear(&mut table, 1, told(6, 1, &clients(20..30)));
        assert_eq!(take(&mut table), clients(20..30));
    }

    #[test]
    fn old_lists_are_not_believed_and_too_many_go_the_oldest_first() {
        let mut table = Table::default();
        hear(&mut table, 1, told(5, 1, &clients(0..10)));
        assert_eq!(table.take(address(1), Time::ZERO + KEEP + Duration::from_secs(1)), []);
        let most = u16::try_from(CLIENTS / CONNECTIONS).unwrap();
        for n in 0..most + 10 {
            let now = Time::from_millis(u64::from(n));
            for bytes in pages(address(n), 5, 1, &clients(0..CONNECTIONS)) {
                table.hear(1, Page::read(&bytes).unwrap(), now);
            }
        }
        assert!(table.lists.values().map(List::len).sum::<usize>() <= CLIENTS);
        assert_eq!(table.take(address(0), Time::ZERO), []);
        assert_eq!(table.take(address(most + 9), Time::ZERO).len(), CONNECTIONS);
    }
}
