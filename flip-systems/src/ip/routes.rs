//! Routes and rules that are there while their address is.
//!
//! Each carries the mark of the daemon as its protocol number (`ip route show proto 102`), so that none but our
//! own is ever deleted, and the next life finds what this one left.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use flip_core::config::{IpRoute, IpRule};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rustix::io::Errno;

use super::State;
use crate::clock;
use crate::netlink::Netlink;

/// The main table (RT_TABLE_MAIN).
const MAIN: u32 = 254;

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The request that adds or deletes a route of the daemon with this mark over a link.
fn route(route: &IpRoute, index: u32, mark: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.to.addr());
    message.header.destination_prefix_length = route.to.prefix_len();
    message.header.protocol = RouteProtocol::Other(mark);
    message.header.kind = RouteType::Unicast;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.scope = match (route.to, route.via) {
        (IpNet::V4(_), None) => RouteScope::Link,
        (IpNet::V4(_), Some(_)) | (IpNet::V6(_), _) => RouteScope::Universe,
    };
    if route.to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.to.network().into()));
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.push(RouteAttribute::Table(route.table.unwrap_or(MAIN)));
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    message.attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(src.into())));
    message.attributes.extend(route.metric.map(RouteAttribute::Priority));
    message
}

/// The request that adds or deletes a rule of the daemon with this mark; `of` tells the family where the rule
/// names no network.
fn rule(rule: &IpRule, of: IpNet, mark: u8) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(of.addr());
    message.header.action = RuleAction::ToTable;
    message.header.src_len = rule.from.map_or(0, |net| net.prefix_len());
    message.header.dst_len = rule.to.map_or(0, |net| net.prefix_len());
    let given = |net: Option<IpNet>| net.filter(|net| net.prefix_len() > 0).map(|net| net.network());
    message.attributes.extend(given(rule.from).map(RuleAttribute::Source));
    message.attributes.extend(given(rule.to).map(RuleAttribute::Destination));
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.extend(rule.priority.map(RuleAttribute::Priority));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(mark)));
    message
}

/// What a route is known again by: destination, table, link.
type Place = (IpNet, u32, u32);

fn place_of(message: &RouteMessage) -> Option<Place> {
    let (mut to, mut table, mut index) = (None, u32::from(message.header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => to = Some(IpAddr::from(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => to = Some(IpAddr::from(*v6)),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(oif) => index = *oif,
            _ => {}
        }
    }
    let everything = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let net = IpNet::new(to.unwrap_or(everything), message.header.destination_prefix_length).ok()?;
    Some((net, table, index))
}

/// What a rule is known again by: family, source, destination, table.
type Match = (AddressFamily, Option<IpNet>, Option<IpNet>, u32);

fn match_of(message: &RuleMessage) -> Match {
    let (mut from, mut to, mut table) = (None, None, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => from = IpNet::new(*address, message.header.src_len).ok(),
            RuleAttribute::Destination(address) => to = IpNet::new(*address, message.header.dst_len).ok(),
            RuleAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    (message.header.family, from, to, table)
}

/// The rules that carry this mark.
fn own_rules(netlink: &mut Netlink, mark: u8) -> io::Result<Vec<Match>> {
    let rules = netlink.rules()?;
    let is_own = |message: &&RuleMessage| {
        message.attributes.iter().any(|a| matches!(a, RuleAttribute::Protocol(p) if u8::from(*p) == mark))
    };
    Ok(rules.iter().filter(is_own).map(match_of).collect())
}

/// Each with a line for people.
type Named<M> = Vec<(M, String)>;

/// Routes and rules that carry one of these marks.
pub(super) fn marked(
    netlink: &mut Netlink,
    marks: &RangeInclusive<u8>,
) -> io::Result<(Named<RouteMessage>, Named<RuleMessage>)> {
    let routes = netlink.routes()?.into_iter().filter(|m| marks.contains(&u8::from(m.header.protocol)));
    let routes = routes.map(|message| {
        let name = name_of_route(&message);
        (message, name)
    });
    let is_marked = |message: &RuleMessage| {
        let protocol =
            |a: &RuleAttribute| matches!(a, RuleAttribute::Protocol(p) if marks.contains(&u8::from(*p)));
        message.attributes.iter().any(protocol)
    };
    let rules = netlink.rules()?.into_iter().filter(is_marked);
    let rules = rules.map(|message| {
        let name = name_of_rule(&message);
        (message, name)
    });
    Ok((routes.collect(), rules.collect()))
}

/// A route, for people.
fn name_of_route(message: &RouteMessage) -> String {
    let place = place_of(message).map(|(to, table, _)| format!(" to {to} in table {table}"));
    format!("the route{}", place.unwrap_or_default())
}

/// A rule, for people.
fn name_of_rule(message: &RuleMessage) -> String {
    let (_, from, to, table) = match_of(message);
    let net = |word: &str, net: Option<IpNet>| net.map_or_else(String::new, |net| format!(" {word} {net}"));
    format!("the rule{}{} for table {table}", net("from", from), net("to", to))
}

/// What it is not an error to miss.
pub(super) fn gone(error: io::Error) -> io::Result<()> {
    match Errno::from_io_error(&error) {
        Some(Errno::SRCH | Errno::NOENT | Errno::NODEV | Errno::NETUNREACH) => Ok(()),
        Some(_) | None => Err(error),
    }
}

/// Between two log lines about routes that somebody deletes.
const TELL_EVERY: Duration = Duration::from_secs(10);

impl State {
    /// Somebody deleted a route that has our mark: the items that are here, want it, and have it no more.
    pub(super) fn lost_route(&mut self, deleted: &RouteMessage) -> BTreeSet<usize> {
        let place = place_of(deleted);
        self.lost(|route| place.is_some() && place_of(route) == place, |_| false)
    }

    /// As [`Self::lost_route`], for a rule of anybody.
    pub(super) fn lost_rule(&mut self, deleted: &RuleMessage) -> BTreeSet<usize> {
        let is_it = match_of(deleted);
        self.lost(|_| false, |rule| match_of(rule) == is_it)
    }

    /// Notices were lost: the items that are here and lack a route or a rule.
    pub(super) fn lost_any(&mut self) -> BTreeSet<usize> {
        self.lost(|_| true, |_| true)
    }

    /// Whether a route is there is asked by adding it: a list of all is long on a router. Rules are few, and one
    /// without a priority would be added beside its like. So what was missing is back at once; whoever repairs the
    /// item makes it whole.
    fn lost(
        &mut self,
        is_route: impl Fn(&RouteMessage) -> bool,
        is_rule: impl Fn(&RuleMessage) -> bool,
    ) -> BTreeSet<usize> {
        let mut items = BTreeSet::new();
        let mut own: Option<Option<Vec<Match>>> = None;
        for item in 0..self.items.len() {
            if !self.items[item].present {
                continue;
            }
            for part in self.items[item].parts.clone() {
                let (mark, index) = (self.mark, self.link_of(&self.parts[part]).map(|link| link.index));
                let part = &self.parts[part];
                let Some(index) = index else { continue };
                let routes = part.routes.iter().map(|wanted| route(wanted, index, mark)).filter(&is_route);
                let rules = part.rules.iter().map(|wanted| rule(wanted, part.net, mark)).filter(&is_rule);
                let (routes, rules): (Vec<_>, Vec<_>) = (routes.collect(), rules.collect());
                for message in routes {
                    let what = name_of_route(&message);
                    let there = self.netlink.add_route(message).is_err_and(|error| {
                        // Other failures are for whoever repairs the item to tell.
                        Errno::from_io_error(&error) == Some(Errno::EXIST)
                    });
                    if !there {
                        self.note_lost(item, &what, &mut items);
                    }
                }
                for message in rules {
                    let netlink = &mut self.netlink;
                    let own = own.get_or_insert_with(|| own_rules(netlink, mark).ok());
                    // What the kernel does not say is no reason to change anything.
                    if own.as_ref().is_none_or(|own| own.contains(&match_of(&message))) {
                        continue;
                    }
                    let what = name_of_rule(&message);
                    // Where it fails, whoever repairs the item says why.
                    drop(self.netlink.add_rule(message));
                    self.note_lost(item, &what, &mut items);
                }
            }
        }
        items
    }

    fn note_lost(&mut self, item: usize, what: &str, items: &mut BTreeSet<usize>) {
        items.insert(item);
        let now = clock::now();
        if self.told_of_routes.is_none_or(|told| now.since(told) >= TELL_EVERY) {
            self.told_of_routes = Some(now);
            tracing::warn!(item = self.items[item].name, "somebody else deleted {what}: it is put back");
        }
    }

    /// Adds the routes and rules of an item that is there. Its own that are there already are made anew.
    pub(super) fn add_routes(&mut self, item: usize) -> Result<(), String> {
        for part in self.items[item].parts.clone() {
            let Some(index) = self.link_of(&self.parts[part]).map(|link| link.index) else { continue };
            for at in 0..self.parts[part].routes.len() {
                let wanted = self.parts[part].routes[at].clone();
                let message = route(&wanted, index, self.mark);
                let added = self.netlink.delete_route(message.clone()).or_else(gone);
                added.and_then(|()| self.netlink.add_route(message)).map_err(|error| {
                    let why = match Errno::from_io_error(&error) {
                        Some(Errno::EXIST) => "there is another route to it, which is not flip's".to_owned(),
                        Some(_) | None => error.to_string(),
                    };
                    let table = wanted.table.unwrap_or(MAIN);
                    format!("cannot add the route to {} in table {table}: {why}", wanted.to)
                })?;
            }
            for at in 0..self.parts[part].rules.len() {
                let (wanted, net) = (self.parts[part].rules[at].clone(), self.parts[part].net);
                let message = rule(&wanted, net, self.mark);
                let added = self.netlink.delete_rule(message.clone()).or_else(gone);
                added.and_then(|()| self.netlink.add_rule(message)).map_err(|error| {
                    format!("cannot add the rule of {} for table {}: {error}", net.addr(), wanted.table)
                })?;
            }
        }
        Ok(())
    }

    /// Deletes them. The address itself is gone already, and took along what had it as its source.
    pub(super) fn delete_routes(&mut self, item: usize) {
        for part in self.items[item].parts.clone() {
            let index = self.link_of(&self.parts[part]).map(|link| link.index);
            let part = &self.parts[part];
            let routes: Vec<_> =
                index.into_iter().flat_map(|index| part.routes.iter().map(move |r| (r, index))).collect();
            let rules: Vec<_> = part.rules.iter().map(|wanted| rule(wanted, part.net, self.mark)).collect();
            let routes: Vec<_> = routes.into_iter().map(|(r, index)| route(r, index, self.mark)).collect();
            let net = part.net;
            for message in rules {
                if let Err(error) = self.netlink.delete_rule(message).or_else(gone) {
                    tracing::warn!(%error, "cannot delete a rule of {}", net.addr());
                }
            }
            for message in routes {
                if let Err(error) = self.netlink.delete_route(message).or_else(gone) {
                    tracing::warn!(%error, "cannot delete a route of {}", net.addr());
                }
            }
        }
    }

    /// Deletes what an earlier life left and no item has whose addresses were kept.
    pub(super) fn remove_routes_left(&mut self) -> io::Result<()> {
        let mut routes: Vec<Place> = Vec::new();
        let mut rules: Vec<Match> = Vec::new();
        for held in self.items.iter().filter(|held| held.present) {
            for part in &self.parts[held.parts.clone()] {
                let Some(index) = self.link_of(part).map(|link| link.index) else { continue };
                routes.extend(part.routes.iter().filter_map(|r| place_of(&route(r, index, self.mark))));
                rules.extend(part.rules.iter().map(|r| match_of(&rule(r, part.net, self.mark))));
            }
        }
        let mut removed = 0;
        for message in self.netlink.routes()? {
            let ours = u8::from(message.header.protocol) == self.mark;
            if ours && place_of(&message).is_none_or(|place| !routes.contains(&place)) {
                self.netlink.delete_route(message).or_else(gone)?;
                removed += 1;
            }
        }
        for message in self.netlink.rules()? {
            let ours = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::Protocol(p) if u8::from(*p) == self.mark);
            if message.attributes.iter().any(ours) && !rules.contains(&match_of(&message)) {
                self.netlink.delete_rule(message).or_else(gone)?;
                removed += 1;
            }
        }
        if removed > 0 {
            tracing::info!("found {removed} routes and rules of an earlier life: removed");
        }
        Ok(())
    }
}
