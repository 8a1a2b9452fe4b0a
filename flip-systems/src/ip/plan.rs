//! What has to be done, from what is wanted and what is there: no system call is made here.
//!
//! ```text
//! addresses of an item ─┐
//! links of the host    ─┼─► take / release / leftovers ─► steps, in order ─► World carries them out
//! addresses that it has ┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use flip_core::config::Interface;
use ipnet::IpNet;

use super::address::{Bound, Maker};
use crate::interfaces::{Link, missing};

/// The links of this host, by index.
pub(super) type Links = BTreeMap<u32, Link>;

/// An address that is to be here, or that may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) net: IpNet,
    pub(super) interface: &'a Interface,
    /// The link on which it was put or found.
    pub(super) at: Option<u32>,
}

/// One thing to do. `part` is the position of its address in the list that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Sees to it that an address of this link does not take others along when it leaves.
    Promote { index: u32 },
    /// Adds the address, or gives it a new lifetime where it is.
    Set { part: usize, net: IpNet, index: u32 },
    /// Deletes the address.
    Delete { part: usize, net: IpNet, index: u32 },
    /// Tells the neighbours.
    Announce { part: usize, index: u32 },
}

/// Why an item cannot be brought up: the interface of one of its addresses. Nothing is to be done then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no link of this name.
    Missing { interface: String, there: Vec<String> },
    /// The link is switched off.
    Down { interface: String },
    /// `auto`, and no link has a network with the address.
    NoNetwork { address: IpAddr, networks: Vec<String> },
    /// `auto`, and several links have the same network with the address.
    Ambiguous { address: IpAddr, interfaces: Vec<String> },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { interface, there } => {
                f.write_str(&missing(interface, there.iter().map(String::as_str)))
            }
            Self::Down { interface } => write!(f, "interface {interface} is down: bring it up"),
            Self::NoNetwork { address, networks } if networks.is_empty() => write!(
                f,
                "no interface for {address} (auto): none has an address with a network; name the interface"
            ),
            Self::NoNetwork { address, networks } => write!(
                f,
                "no interface for {address} (auto): none has a network that holds it, there are {}; name the \
                 interface",
                networks.join(", ")
            ),
            Self::Ambiguous { address, interfaces } => write!(
                f,
                "no interface for {address} (auto): {} have the same network; name one of them",
                interfaces.join(" and ")
            ),
        }
    }
}

/// Brings up the addresses of an item: all of them, or none when one has no usable link.
///
/// `bound` need only be complete where an interface is `auto`, or where other prefixes of the addresses have
/// to go (`alone`): what is there with another prefix may stay for ever, and a lease must not.
pub(super) fn take(
    wanted: &[Wanted<'_>],
    links: &Links,
    bound: &[Bound],
    alone: bool,
) -> Result<Vec<Step>, Refusal> {
    let chosen: Vec<_> =
        wanted.iter().map(|wanted| choose(wanted, links, bound)).collect::<Result<_, _>>()?;
    let mut steps = Vec::with_capacity(3 * wanted.len());
    let mut promoted = BTreeSet::new();
    for (wanted, link) in wanted.iter().zip(&chosen) {
        let with_network = matches!(wanted.net, IpNet::V4(v4) if v4.prefix_len() < 32);
        if with_network && promoted.insert(link.index) {
            steps.push(Step::Promote { index: link.index });
        }
    }
    let places = || wanted.iter().zip(&chosen).enumerate();
    steps.extend(places().map(|(part, (w, link))| Step::Set { part, net: w.net, index: link.index }));
    if alone {
        for (part, (wanted, link)) in places() {
            let others = bound.iter().filter(|b| {
                (b.index, b.net.addr()) == (link.index, wanted.net.addr())
                    && b.net != wanted.net
                    && b.maker != Maker::Sibling
            });
            steps.extend(others.map(|b| Step::Delete { part, net: b.net, index: b.index }));
        }
    }
    let told = places().filter(|(_, (_, link))| link.announces());
    steps.extend(told.map(|(part, (_, link))| Step::Announce { part, index: link.index }));
    Ok(steps)
}

/// Takes addresses away, whatever prefix somebody else chose for them: it is the address that answers. What a
/// sibling has stays.
pub(super) fn release<'a>(
    wanted: impl Iterator<Item = (usize, Wanted<'a>)>,
    links: &Links,
    bound: &[Bound],
) -> Vec<Step> {
    let mut places: BTreeMap<(u32, IpAddr), Vec<usize>> = BTreeMap::new();
    for (part, wanted) in wanted {
        if let Some(index) = place(&wanted, links, bound) {
            places.entry((index, wanted.net.addr())).or_default().push(part);
        }
    }
    let mut steps = Vec::new();
    for b in bound.iter().filter(|b| b.maker != Maker::Sibling) {
        let parts = places.get(&(b.index, b.net.addr())).into_iter().flatten();
        steps.extend(parts.map(|part| Step::Delete { part: *part, net: b.net, index: b.index }));
    }
    steps
}

/// For each address what is there of it, our own first. The prefix does not matter: the address answers.
pub(super) fn found<'a>(
    wanted: impl Iterator<Item = Wanted<'a>>,
    links: &Links,
    bound: &[Bound],
) -> Vec<Option<Bound>> {
    let mut by_place: BTreeMap<(u32, IpAddr), Bound> = BTreeMap::new();
    for b in bound.iter().filter(|b| b.maker != Maker::Sibling) {
        let place = (b.index, b.net.addr());
        if b.maker == Maker::Us || !by_place.contains_key(&place) {
            by_place.insert(place, *b);
        }
    }
    let find = |w: Wanted<'_>| by_place.get(&(place(&w, links, bound)?, w.net.addr())).copied();
    wanted.map(find).collect()
}

/// Which of our own addresses are kept: those of items that are here whole, as they are configured. A part of
/// an item is of no use, and its other part may be elsewhere. `items` are ranges of `wanted`.
pub(super) fn leftovers<'b>(
    wanted: &[Wanted<'_>],
    items: impl Iterator<Item = Range<usize>>,
    links: &Links,
    bound: &'b [Bound],
) -> Vec<(&'b Bound, bool)> {
    let places: Vec<_> = wanted.iter().map(|wanted| place(wanted, links, bound)).collect();
    let has = |part: usize, b: &Bound| {
        places[part] == Some(b.index)
            && b.net.addr() == wanted[part].net.addr()
            && match b.maker {
                Maker::Us => b.net == wanted[part].net,
                Maker::Other => true,
                Maker::Sibling => false,
            }
    };
    let whole = items.filter(|parts| parts.clone().all(|part| bound.iter().any(|b| has(part, b))));
    let whole: BTreeSet<_> =
        whole.flatten().filter_map(|part| Some((places[part]?, wanted[part].net))).collect();
    let ours = bound.iter().filter(|b| b.maker == Maker::Us);
    ours.map(|b| (b, whole.contains(&(b.index, b.net)))).collect()
}

/// The link that an address is put on.
fn choose<'l>(wanted: &Wanted<'_>, links: &'l Links, bound: &[Bound]) -> Result<&'l Link, Refusal> {
    let link = match wanted.interface {
        Interface::Name(name) => named(name, links).ok_or_else(|| Refusal::Missing {
            interface: name.clone(),
            there: links.values().map(|link| link.name.clone()).collect(),
        })?,
        Interface::Auto => auto(wanted.net.addr(), links, bound)?,
    };
    if !link.up {
        return Err(Refusal::Down { interface: link.name.clone() });
    }
    Ok(link)
}

/// The link on which an address is, or would be looked for.
pub(super) fn place(wanted: &Wanted<'_>, links: &Links, bound: &[Bound]) -> Option<u32> {
    match wanted.interface {
        Interface::Name(name) => named(name, links).map(|link| link.index),
        Interface::Auto => wanted
            .at
            .filter(|at| links.contains_key(at))
            .or_else(|| auto(wanted.net.addr(), links, bound).ok().map(|link| link.index))
            .or_else(|| {
                let ours = |b: &&Bound| b.maker == Maker::Us && b.net.addr() == wanted.net.addr();
                bound.iter().find(ours).map(|b| b.index)
            }),
    }
}

pub(super) fn named<'l>(name: &str, links: &'l Links) -> Option<&'l Link> {
    links.values().find(|link| link.name == name)
}

/// The link whose own network holds the address, by the longest prefix, as the host's routes choose. Addresses
/// that flip put there do not count: they move.
fn auto<'l>(address: IpAddr, links: &'l Links, bound: &[Bound]) -> Result<&'l Link, Refusal> {
    let networks = || {
        bound.iter().filter(|b| {
            b.maker == Maker::Other
                && b.net.prefix_len() < b.net.max_prefix_len()
                && b.net.addr() != address
                && links.contains_key(&b.index)
        })
    };
    let holding = || networks().filter(|b| b.net.contains(&address));
    let Some(longest) = holding().map(|b| b.net.prefix_len()).max() else {
        let of_family = networks().filter(|b| b.net.addr().is_ipv4() == address.is_ipv4());
        let named = of_family.map(|b| format!("{} on {}", b.net.trunc(), links[&b.index].name));
        return Err(Refusal::NoNetwork { address, networks: named.collect() });
    };
    let best: BTreeSet<u32> = holding().filter(|b| b.net.prefix_len() == longest).map(|b| b.index).collect();
    match best.first() {
        Some(index) if best.len() == 1 => Ok(&links[index]),
        Some(_) | None => {
            let interfaces = best.iter().map(|index| links[index].name.clone()).collect();
            Err(Refusal::Ambiguous { address, interfaces })
        }
    }
}

#[cfg(test)]
mod tests;
