//! The entries of `data` of an ip system, in every form that it may have.
//!
//! ```text
//! "10.0.0.1"   "10.0.0.1/24"   "10.0.0.1/24@eth0"             one address
//! {"ip": "10.0.0.1/24", "interface": "eth0", …}               one address, and what concerns the item
//! {"name": "web", "ip": ["10.0.0.1", "fd00::1@eth1"], …}      a group, and what concerns it
//! ["10.0.0.1", {"ip": "fd00::1", "interface": "eth1"}]        a group
//! ["node2", "10.0.0.1", …]                                    a group whose home is node2 (vippy)
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jsonc_parser::ast::Value;

use super::super::nearest::nearest;
use super::super::problem::Problems;
use super::super::raw::{Fields, Node, clip, list};
use super::super::source::{At, Spanned};
use super::super::written::{Setting, Written, WrittenItem, WrittenSystem};
use super::super::{SystemKind, announce, bounds, checks, policy};
use super::group::{Interface, IpItem, IpPart, Scope, parse_place};
use super::options::WrittenOptions;
use super::{mac, options, refuse_interface_name, scope_of, takes_part, warn_own_address};

/// What the entry itself may say, as an object.
const ITEM_KEYS: &[&str] = &[
    "ip",
    "name",
    "interface",
    "prefer",
    "mac",
    "isolated",
    "checks",
    "when_all_fail",
    "scope",
    "noprefixroute",
    "routes",
    "rules",
    "announce",
];
/// What an address of a group may say.
const PART_KEYS: &[&str] = &["ip", "interface", "scope", "noprefixroute", "routes", "rules"];
/// What concerns a whole item.
const WHOLE_KEYS: &[&str] = &["name", "prefer", "mac", "isolated", "checks", "when_all_fail", "announce"];

const EXPECTED: &str = "an item: an address, an object with the key `ip`, or a group of them as an array";

/// An address of an item.
#[derive(Debug)]
pub(in crate::config) struct WrittenPart {
    /// The address as written, without its interface.
    pub text: Spanned<String>,
    pub net: IpNet,
    /// What the item itself says.
    pub interface: Option<Interface>,
    pub options: WrittenOptions,
}

/// What a group says for those of its addresses that do not say it themselves.
#[derive(Default)]
struct OfGroup {
    interface: Option<Interface>,
    options: WrittenOptions,
}

/// Reads one entry.
pub(in crate::config) fn read(node: &Node, problems: &mut Problems) -> Option<WrittenItem> {
    match node.value {
        Value::Array(_) => read_list(node, problems),
        Value::Object(_) => read_object(node, problems),
        Value::StringLit(_) | Value::NumberLit(_) | Value::BooleanLit(_) | Value::NullKeyword(_) => {
            let part = read_text(node, EXPECTED, problems)?;
            Some(WrittenItem::plain(part.text.clone(), vec![part]))
        }
    }
}

/// vippy's form: the home first, if any, then the addresses.
fn read_list(node: &Node, problems: &mut Problems) -> Option<WrittenItem> {
    let mut elements = node.elements(EXPECTED, problems)?;
    let mut prefer = None;
    if let Some(Value::StringLit(first)) = elements.first().map(|first| first.value)
        && !first.value.contains(['/', '@', ':'])
        && parse_place(&first.value).is_err()
        && elements.len() > 1
    {
        let first = elements.remove(0);
        prefer = Some(first.spanned(first.text("the id of a server", problems)?.value));
    }
    let parts = read_parts(node, &elements, &OfGroup::default(), problems)?;
    let name = parts.first()?.text.clone();
    Some(WrittenItem { prefer, ..WrittenItem::plain(name, parts) })
}

fn read_object(node: &Node, problems: &mut Problems) -> Option<WrittenItem> {
    let fields = node.fields(EXPECTED, ITEM_KEYS, problems)?;
    let name = fields.get("name").and_then(|node| read_name(node, problems));
    let prefer = fields.get("prefer").and_then(|node| node.text("the id of a server", problems));
    let isolated = fields.get("isolated").and_then(|node| policy::isolated(node, problems));
    let checks = fields.get("checks").map(|node| checks::checks(node, problems)).unwrap_or_default();
    let when_all_fail = fields.get("when_all_fail").and_then(|node| checks::when_all_fail(node, problems));
    let mac = fields.get("mac").and_then(|node| mac::read(node, problems));
    let own = fields.get("announce").and_then(|node| read_announce(node, problems));
    let interface = read_interface(&fields, problems);
    let Some(ip) = fields.get("ip") else {
        let help = "write for instance {\"ip\": \"10.0.0.9\", \"isolated\": \"drop\"}";
        problems.error_help(&node.at, "found no `ip`, expected the address of the item", help);
        return None;
    };
    let parts = if matches!(ip.value, Value::Array(_)) {
        let elements = ip.elements(EXPECTED, problems)?;
        let of_group = OfGroup { interface, options: options::of_group(&fields, problems) };
        read_parts(ip, &elements, &of_group, problems)?
    } else {
        vec![read_address(ip, interface, &fields, problems)?]
    };
    let name = name.or_else(|| Some(parts.first()?.text.clone()))?;
    Some(WrittenItem { prefer, mac, isolated, checks, when_all_fail, own, ..WrittenItem::plain(name, parts) })
}

/// What an item says of its announcements, as settings that replace those of its system.
fn read_announce(node: &Node, problems: &mut Problems) -> Option<serde_json::Map<String, serde_json::Value>> {
    const KEY: &str = "announce";
    let value = node.spanned(node.json(problems)?);
    announce::check(KEY, &value, problems);
    Some(serde_json::Map::from_iter([(KEY.to_owned(), value.value)]))
}

fn read_name(node: &Node, problems: &mut Problems) -> Option<Spanned<String>> {
    let name = node.text("a name for the item", problems)?;
    policy::check_item_name(node, &name.value, problems).then_some(name)
}

fn read_parts(
    node: &Node,
    elements: &[Node],
    group: &OfGroup,
    problems: &mut Problems,
) -> Option<Vec<WrittenPart>> {
    if elements.is_empty() || elements.len() > bounds::PARTS {
        let message =
            format!("found {} addresses, expected a group of 1 to {}", elements.len(), bounds::PARTS);
        problems.error_help(&node.at, message, "all addresses of a group are on one server");
        return None;
    }
    let parts: Vec<_> = elements.iter().map(|element| read_part(element, group, problems)).collect();
    parts.into_iter().collect()
}

/// An address of a group.
fn read_part(node: &Node, group: &OfGroup, problems: &mut Problems) -> Option<WrittenPart> {
    const EXPECTED: &str = "an address of the group: a text, or an object with the key `ip`";
    if !matches!(node.value, Value::Object(_)) {
        let part = read_text(node, EXPECTED, problems)?;
        return Some(part.within(group));
    }
    let fields = node.any_fields(EXPECTED, problems)?;
    for entry in fields.all() {
        let key = entry.key.value;
        if WHOLE_KEYS.contains(&key) {
            let message = format!("`{key}` concerns the whole group, and here is one address of it");
            let help = format!("write the group as {{\"ip\": [ … ], \"{key}\": … }}");
            problems.error_help(&entry.key.at, message, help);
        } else if !PART_KEYS.contains(&key) {
            let help = match nearest(key, PART_KEYS.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", list(PART_KEYS.iter().copied())),
            };
            problems.error_help(&entry.key.at, format!("unknown key `{}`", clip(key)), help);
        }
    }
    let interface = read_interface(&fields, problems);
    let Some(ip) = fields.get("ip") else {
        let help = "write for instance {\"ip\": \"10.0.0.9/24\", \"interface\": \"eth0\"}";
        problems.error_help(&node.at, "found no `ip`, expected an address of the group", help);
        return None;
    };
    Some(read_address(ip, interface, &fields, problems)?.within(group))
}

impl WrittenPart {
    fn within(self, group: &OfGroup) -> Self {
        let interface = self.interface.or_else(|| group.interface.clone());
        Self { interface, options: self.options.or(&group.options), ..self }
    }
}

/// The value of `ip`, beside which `interface` may stand and what else `fields` say of one address.
fn read_address(
    node: &Node,
    interface: Option<Interface>,
    fields: &Fields,
    problems: &mut Problems,
) -> Option<WrittenPart> {
    let part = read_text(node, "an IP address such as 10.0.0.1 or 10.0.0.1/24", problems)?;
    if let (Some(of_text), Some(of_key)) = (&part.interface, &interface)
        && of_text != of_key
    {
        let message = format!("found `{of_text}` behind the @, and `{of_key}` under `interface`");
        problems.error_help(&node.at, message, "say the interface once");
    }
    let options = options::read(fields, part.net, problems);
    Some(WrittenPart { interface: part.interface.or(interface), options, ..part })
}

fn read_interface(fields: &Fields, problems: &mut Problems) -> Option<Interface> {
    let node = fields.get("interface")?;
    let name = node.text("the name of a network interface such as \"eth0\"", problems)?;
    refuse_interface_name(&name, problems).then(|| Interface::of(&name.value))
}

fn read_text(node: &Node, expected: &str, problems: &mut Problems) -> Option<WrittenPart> {
    let text = node.text(expected, problems)?;
    if !policy::check_item_name(node, &text.value, problems) {
        return None;
    }
    match parse_place(&text.value) {
        Ok((net, interface)) => {
            let address = text.value.split('@').next().unwrap_or_default().to_owned();
            let options = WrittenOptions::default();
            Some(WrittenPart { text: node.spanned(address), net, interface, options })
        }
        Err(expected) => {
            let message = format!("found \"{}\", expected {expected}", clip(&text.value));
            if text.value.trim() != text.value {
                problems.error_help(&text.at, message, "remove the blanks");
            } else if text.value.contains('%') {
                problems.error_help(&text.at, message, "name the interface behind an @: fe80::1/64@eth0");
            } else {
                problems.error(&text.at, message);
            }
            None
        }
    }
}

/// Where on this server every address of the cluster is, so that none is in two places.
#[derive(Default)]
pub(in crate::config) struct Places<'w> {
    seen: BTreeMap<IpAddr, Vec<(Option<Interface>, &'w At)>>,
    count: usize,
}

impl<'w> Places<'w> {
    /// The item as server `me` has it; `None` when one of its addresses has another item's place.
    pub(in crate::config) fn resolve(
        &mut self,
        item: &'w WrittenItem,
        system: &WrittenSystem,
        me: Option<usize>,
        written: &Written,
        problems: &mut Problems,
    ) -> Option<IpItem> {
        let say = |key| setting(key, system, me, written);
        let default = say("interface").and_then(|value| Some(Interface::of(value.as_str()?)));
        let scope = say("scope").and_then(scope_of).unwrap_or_default();
        let noprefixroute = say("noprefixroute").and_then(serde_json::Value::as_bool).unwrap_or_default();
        if let (Some(mac), SystemKind::Replicate) = (&item.mac, system.kind) {
            let message = format!(
                "a hardware address that moves in system `{}`, whose `type` is \"replicate\": all servers would \
                 have it at a time",
                clip(&system.name.value),
            );
            problems.error_help(&mac.at, message, "remove it, or set `type` to \"shard\"");
        }
        let mut parts = Vec::new();
        let mut clean = true;
        for part in &item.parts {
            let interface = part.interface.clone().or_else(|| default.clone());
            clean &= self.claim(part, interface.as_ref(), problems);
            warn_own_address(part.net.addr(), &part.text.at, written, problems);
            // A server that takes no part puts nothing anywhere, and need not say where.
            let options = &part.options;
            // Of the setting it is not known whether it would hurt an address with a prefix.
            let scope = match part.net {
                IpNet::V4(v4) if v4.prefix_len() == 32 => scope,
                IpNet::V4(_) | IpNet::V6(_) => Scope::default(),
            };
            let of_v6 = part.net.addr().is_ipv6();
            let own_scope = options.scope.as_ref().filter(|_| !of_v6).map(|given| given.value);
            parts.push(IpPart {
                scope: own_scope.unwrap_or(scope),
                noprefixroute: options.noprefixroute.as_ref().map_or(noprefixroute, |given| given.value),
                routes: options.routes.clone(),
                rules: options.rules.clone(),
                ..IpPart::new(part.net, interface.unwrap_or(Interface::Auto))
            });
        }
        clean.then_some(IpItem { parts })
    }

    fn claim(
        &mut self,
        part: &'w WrittenPart,
        interface: Option<&Interface>,
        problems: &mut Problems,
    ) -> bool {
        self.count += 1;
        if let (Some(Interface::Auto), IpAddr::V6(v6)) = (interface, part.net.addr())
            && v6.is_unicast_link_local()
        {
            let message = format!(
                "{v6} is a link-local address, and its interface is `auto`: every interface has that network"
            );
            problems.error_help(&part.text.at, message, "name the interface");
        }
        let places = self.seen.entry(part.net.addr().to_canonical()).or_default();
        let one = |other: &Option<Interface>| match (other.as_ref(), interface) {
            (Some(Interface::Name(a)), Some(Interface::Name(b))) => a == b,
            (None, Some(Interface::Name(_))) | (Some(Interface::Name(_)), None) => false,
            // `auto` may be any of them.
            (Some(Interface::Auto), _) | (_, Some(Interface::Auto)) | (None, None) => true,
        };
        let first = places.iter().find(|(other, _)| one(other)).map(|(_, at)| *at);
        if let Some(first) = first {
            let on = interface.map(|interface| format!(" on `{interface}`")).unwrap_or_default();
            let message = format!(
                "{} is listed twice{on}, first as {}; expected once",
                part.net.addr(),
                policy::place(first, problems),
            );
            let help = "remove one of the two: an address is part of one item, and has one prefix";
            problems.error_help(&part.text.at, message, help);
            return false;
        }
        places.push((interface.cloned(), &part.text.at));
        true
    }

    /// Reports more addresses than a daemon handles.
    pub(in crate::config) fn check_count(&self, at: &At, problems: &mut Problems) {
        if self.count > bounds::ADDRESSES {
            let message = format!(
                "found {} addresses in all ip systems, expected at most {}",
                self.count,
                bounds::ADDRESSES
            );
            problems.error_help(at, message, "split the cluster in two");
        }
    }
}

/// A setting of a system on a server: its own, else the system's, else the cluster's.
fn setting<'w>(
    key: &str,
    system: &'w WrittenSystem,
    me: Option<usize>,
    written: &'w Written,
) -> Option<&'w serde_json::Value> {
    let own = me.map(|me| &written.servers[me]).filter(|server| takes_part(server, system));
    let levels = [own.map(|server| &server.config), Some(&system.config), Some(&written.config)];
    let found = levels
        .into_iter()
        .flatten()
        .find_map(|settings: &Vec<Setting>| settings.iter().find(|setting| setting.key.value == key))?;
    Some(&found.value.value)
}
