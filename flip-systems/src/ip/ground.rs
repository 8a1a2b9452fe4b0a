//! What addresses stand on: whether a link is there, switched on and has a carrier.

use std::collections::BTreeMap;

use flip_core::config::Interface;

use super::address::Bound;
use super::plan::{self, Links, Refusal, Wanted};

/// The interfaces that items name, and the index that each had when it was there last: so that one which was
/// renamed is not called missing.
#[derive(Debug, Default)]
pub(super) struct Ground {
    indices: BTreeMap<String, u32>,
}

impl Ground {
    /// Takes note of what is there.
    pub(super) fn look<'a>(&mut self, interfaces: impl Iterator<Item = &'a Interface>, links: &Links) {
        for interface in interfaces {
            if let Interface::Name(name) = interface
                && let Some(link) = plan::named(name, links)
                && self.indices.get(name) != Some(&link.index)
            {
                self.indices.insert(name.clone(), link.index);
            }
        }
    }

    /// Why an address cannot be reached on this host, as one line for people; none when it can. `bound` are the
    /// host's addresses where an interface is `auto`.
    pub(super) fn trouble(&self, wanted: &Wanted<'_>, links: &Links, bound: &[Bound]) -> Option<String> {
        // Where it is counts, and not where it would be put now.
        let there = match wanted.interface {
            Interface::Name(_) => None,
            Interface::Auto => plan::place(wanted, links, bound).and_then(|index| links.get(&index)),
        };
        let refusal = match there.map_or_else(|| plan::choose(wanted, links, bound), Ok) {
            Ok(link) if !link.up => return Some(format!("{} is down", link.name)),
            Ok(link) if !link.carrier => return Some(format!("{} has no carrier", link.name)),
            Ok(_) => return None,
            Err(refusal) => refusal,
        };
        Some(match refusal {
            Refusal::Missing { interface, .. } => {
                match self.indices.get(&interface).and_then(|index| links.get(index)) {
                    Some(link) => format!(
                        "{interface} was renamed to {}: rename it back, or change \"interface\" in the config",
                        link.name
                    ),
                    None => format!("there is no interface {interface}"),
                }
            }
            Refusal::Down { interface } => format!("{interface} is down"),
            other @ (Refusal::NoNetwork { .. } | Refusal::Ambiguous { .. }) => other.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::{Link, Mac};

    fn link(index: u32, name: &str, up: bool, carrier: bool) -> Link {
        let mut link = Link::of_kind(index, name, up, true, Some(Mac([2, 0, 0, 0, 0, 1])));
        link.carrier = carrier;
        link
    }

    fn map(links: &[Link]) -> Links {
        links.iter().map(|link| (link.index, link.clone())).collect()
    }

    #[test]
    fn every_state_of_a_link() {
        let renamed = "eth0 was renamed to lan0: rename it back, or change \"interface\" in the config";
        // Links as they were, links as they are, the word.
        let there = || link(2, "eth0", true, true);
        let table = [
            (vec![there()], vec![there()], None),
            (vec![there()], vec![link(2, "eth0", true, false)], Some("eth0 has no carrier")),
            (vec![there()], vec![link(2, "eth0", false, true)], Some("eth0 is down")),
            (vec![there()], vec![link(2, "eth0", false, false)], Some("eth0 is down")),
            (vec![there()], vec![], Some("there is no interface eth0")),
            (vec![], vec![link(3, "eth1", true, true)], Some("there is no interface eth0")),
            (vec![there()], vec![link(2, "lan0", true, true)], Some(renamed)),
            // The name went to another card.
            (vec![there()], vec![link(2, "lan0", true, true), link(3, "eth0", true, true)], None),
            // The index was never this interface's.
            (vec![], vec![link(2, "lan0", true, true)], Some("there is no interface eth0")),
        ];
        let interface = Interface::Name("eth0".to_owned());
        for (before, after, expected) in table {
            let mut ground = Ground::default();
            ground.look([&interface].into_iter(), &map(&before));
            ground.look([&interface].into_iter(), &map(&after));
            let wanted = Wanted { net: "192.0.2.7/32".parse().unwrap(), interface: &interface, at: None };
            let found = ground.trouble(&wanted, &map(&after), &[]);
            assert_eq!(found.as_deref(), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn an_interface_that_is_chosen_needs_a_network_or_the_address() {
        let wanted = |at| Wanted { net: "192.0.2.7/32".parse().unwrap(), interface: &Interface::Auto, at };
        let ground = Ground::default();
        let links = map(&[link(2, "eth0", true, true), link(3, "eth1", true, false)]);
        assert!(ground.trouble(&wanted(None), &links, &[]).unwrap().contains("auto"));
        assert_eq!(ground.trouble(&wanted(Some(2)), &links, &[]), None, "it is there");
        assert_eq!(ground.trouble(&wanted(Some(3)), &links, &[]).unwrap(), "eth1 has no carrier");
    }
}
