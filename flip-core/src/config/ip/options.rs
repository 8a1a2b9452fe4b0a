//! How an address is put there: its scope, its prefix route, and the routes and rules that come with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::super::bounds;
use super::super::problem::Problems;
use super::super::raw::{Fields, Node, clip};
use super::super::source::Spanned;
use super::Scope;

const ROUTE_KEYS: &[&str] = &["to", "via", "src", "table", "metric"];
const RULE_KEYS: &[&str] = &["from", "to", "table", "priority"];

/// A route that is there while its address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpRoute {
    /// Where to; everything is `0.0.0.0/0` or `::/0`.
    pub to: IpNet,
    /// The next hop; without one the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// What connections over this route have as their source.
    pub src: Option<IpAddr>,
    /// The routing table; none is the main one.
    pub table: Option<u32>,
    /// The lowest wins among routes to one destination.
    pub metric: Option<u32>,
}

/// A rule of policy routing that is there while its address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpRule {
    /// For packets from here; none is everywhere.
    pub from: Option<IpNet>,
    /// For packets to there; none is everywhere.
    pub to: Option<IpNet>,
    /// The routing table that is looked up.
    pub table: u32,
    /// The lowest is asked first; none lets the kernel choose.
    pub priority: Option<u32>,
}

/// What the file says; `None` where it says nothing.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct WrittenOptions {
    pub scope: Option<Spanned<Scope>>,
    pub noprefixroute: Option<Spanned<bool>>,
    pub routes: Vec<IpRoute>,
    pub rules: Vec<IpRule>,
}

/// Reads what a group says for all its addresses.
pub(super) fn of_group(fields: &Fields, problems: &mut Problems) -> WrittenOptions {
    for key in ["routes", "rules"] {
        if let Some(node) = fields.get(key) {
            let message = format!("`{key}` concerns one address, and here is a group");
            let help = format!("write {{\"ip\": …, \"{key}\": …}} within the group");
            problems.error_help(&node.at, message, help);
        }
    }
    WrittenOptions {
        scope: fields.get("scope").and_then(|node| node.one_of(&Scope::NAMES, problems)),
        noprefixroute: fields.get("noprefixroute").and_then(|node| node.truth(problems)),
        ..WrittenOptions::default()
    }
}

impl WrittenOptions {
    /// What an address says itself is stronger than what its group says.
    pub(super) fn or(self, group: &Self) -> Self {
        Self {
            scope: self.scope.or_else(|| group.scope.clone()),
            noprefixroute: self.noprefixroute.or_else(|| group.noprefixroute.clone()),
            ..self
        }
    }
}

/// Reads what stands beside an address.
pub(super) fn read(fields: &Fields, net: IpNet, problems: &mut Problems) -> WrittenOptions {
    let scope = fields.get("scope").and_then(|node| node.one_of(&Scope::NAMES, problems));
    if let Some(scope) = &scope {
        check_scope(scope, net, problems);
    }
    WrittenOptions {
        scope,
        noprefixroute: fields.get("noprefixroute").and_then(|node| node.truth(problems)),
        routes: each(fields.get("routes"), "an array of routes", problems, |node, problems| {
            route(node, net, problems)
        }),
        rules: each(fields.get("rules"), "an array of rules", problems, |node, problems| {
            rule(node, net, problems)
        }),
    }
}

fn check_scope(scope: &Spanned<Scope>, net: IpNet, problems: &mut Problems) {
    if scope.value == Scope::Global {
        return;
    }
    match net {
        IpNet::V6(_) => {
            let message = format!("found a scope for {net}, expected one for IPv4 addresses only");
            let help =
                "remove it: an IPv6 address says its scope itself, and flip's are never a source address";
            problems.error_help(&scope.at, message, help);
        }
        IpNet::V4(v4) if v4.prefix_len() < 32 => {
            let message = format!(
                "{net} has a prefix and a scope: the kernel refuses it, or the host's own address, where both are \
                 of one network"
            );
            problems.warning(&scope.at, message, "remove the prefix, or the scope");
        }
        IpNet::V4(_) => {}
    }
}

fn each<T>(
    node: Option<&Node>,
    expected: &str,
    problems: &mut Problems,
    read: impl Fn(&Node, &mut Problems) -> Option<T>,
) -> Vec<T> {
    let Some(node) = node else { return Vec::new() };
    let elements = node.elements(expected, problems).unwrap_or_default();
    if elements.len() > bounds::ROUTES {
        let message = format!("found {}, expected at most {}", elements.len(), bounds::ROUTES);
        problems.error(&node.at, message);
        return Vec::new();
    }
    elements.iter().filter_map(|element| read(element, problems)).collect()
}

fn route(node: &Node, net: IpNet, problems: &mut Problems) -> Option<IpRoute> {
    const EXAMPLE: &str = "write for instance {\"to\": \"default\", \"via\": \"10.0.0.254\", \"table\": 100}";
    let fields = node.fields("a route: an object with the key `to`", ROUTE_KEYS, problems)?;
    let Some(to) = fields.get("to") else {
        problems.error_help(&node.at, "found no `to`, expected where the route leads", EXAMPLE);
        return None;
    };
    Some(IpRoute {
        to: network(to, net, problems)?,
        via: fields.get("via").and_then(|node| host(node, net, problems)),
        src: fields.get("src").and_then(|node| host(node, net, problems)),
        table: number(&fields, "table", problems),
        metric: number(&fields, "metric", problems),
    })
}

fn rule(node: &Node, net: IpNet, problems: &mut Problems) -> Option<IpRule> {
    const EXAMPLE: &str = "write for instance {\"table\": 100}: packets from the address itself";
    let fields = node.fields("a rule: an object with the key `table`", RULE_KEYS, problems)?;
    if fields.get("table").is_none() {
        problems.error_help(&node.at, "found no `table`, expected the number of a routing table", EXAMPLE);
    }
    let of = |key, problems: &mut Problems| fields.get(key).and_then(|node| network(node, net, problems));
    let (from, to) = (of("from", problems), of("to", problems));
    let itself = fields.get("from").is_none() && fields.get("to").is_none();
    Some(IpRule {
        from: if itself { Some(IpNet::from(net.addr())) } else { from },
        to,
        table: number(&fields, "table", problems)?,
        priority: number(&fields, "priority", problems),
    })
}

/// A destination or a source, of the address's family.
fn network(node: &Node, of: IpNet, problems: &mut Problems) -> Option<IpNet> {
    let expected = "a network such as 10.1.0.0/16, or \"default\"";
    let text = node.text(expected, problems)?;
    let unspecified: IpAddr = match of {
        IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    if text.value == "default" {
        return IpNet::new(unspecified, 0).ok();
    }
    let parsed = text.value.parse::<IpNet>().or_else(|_| text.value.parse::<IpAddr>().map(IpNet::from));
    let Ok(net) = parsed else {
        node.refuse(expected, problems);
        return None;
    };
    same_family(node, net.addr(), of, problems).then(|| net.trunc())
}

fn host(node: &Node, of: IpNet, problems: &mut Problems) -> Option<IpAddr> {
    let expected = "an IP address such as 10.0.0.254";
    let text = node.text(expected, problems)?;
    let Ok(address) = text.value.parse::<IpAddr>() else {
        node.refuse(expected, problems);
        return None;
    };
    same_family(node, address, of, problems).then_some(address)
}

fn same_family(node: &Node, address: IpAddr, of: IpNet, problems: &mut Problems) -> bool {
    let same = address.is_ipv4() == of.addr().is_ipv4();
    if !same {
        let family = if of.addr().is_ipv4() { "an IPv4" } else { "an IPv6" };
        let message = format!(
            "found {address} beside {}, expected {family} address as that one",
            clip(&of.to_string())
        );
        problems.error(&node.at, message);
    }
    same
}

fn number(fields: &Fields, key: &str, problems: &mut Problems) -> Option<u32> {
    let number = fields.get(key)?.whole("a whole number", bounds::ROUTE_NUMBER, problems)?;
    u32::try_from(number.value).ok()
}
