//! What the configuration of an `ip` system may say: addresses and the interfaces that hold them.

mod group;
pub(super) mod item;
pub(super) mod mac;
mod options;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

pub use self::group::{AUTO, Interface, IpItem, IpPart, Scope};
pub use self::options::{IpRoute, IpRule};
use super::nearest::nearest;
use super::problem::Problems;
use super::raw::{Node, clip, list};
use super::source::{At, Spanned};
use super::written::{Setting, Written, WrittenServer, WrittenSystem};
use super::{IP_CONFIG_KEYS, IP_KILL_CONNECTIONS, IP_TICKLE, announce, bounds, foreign};

/// Reads an item of an `ip` system: `address` or `address/prefix`, IPv4 or IPv6. Without a prefix the
/// address stands alone (/32 or /128). The host part is kept: `addr()` of the result is what a server
/// holds.
///
/// # Errors
/// Says what was expected, as a fragment that fits after "found …, expected ".
pub fn parse_vip(text: &str) -> Result<IpNet, String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let example = "an IP address such as 192.168.0.1, 192.168.0.1/24 or fd00::1";
    let address: IpAddr = address.parse().map_err(|_| example.to_owned())?;
    if let Some(why) = unusable(address) {
        return Err(format!("the address of a host, and this is {why}"));
    }
    let most = if address.is_ipv4() { 32 } else { 128 };
    let refused = || format!("a prefix length from 1 to {most}");
    let length = match prefix {
        None => most,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| refused())?
        }
        Some(_) => return Err(refused()),
    };
    if length == 0 {
        return Err(refused());
    }
    IpNet::new(address, length).map_err(|_| refused())
}

/// The value of a server's `ip`.
pub(super) fn server_address(node: &Node, problems: &mut Problems) -> Option<Spanned<IpAddr>> {
    const ROLE: Role = Role {
        port: "the port goes into the key `port`",
        prefix: "an address of a server has no prefix",
        link_local: "flip does not listen on link-local addresses; use a global or unique local one",
        host: "the address of one server",
        remedy: "give the address at which the other servers reach this one",
    };
    host_address(node, &ROLE, problems)
}

/// The value of `ping` of the `witness`.
pub(super) fn witness_address(node: &Node, problems: &mut Problems) -> Option<Spanned<IpAddr>> {
    const ROLE: Role = Role {
        port: "an echo request goes to no port; give the address alone",
        prefix: "the address of a witness has no prefix",
        link_local: "a witness has no link-local address; use a global or unique local one",
        host: "the address of one host",
        remedy: "name the gateway, or another host that is always there",
    };
    host_address(node, &ROLE, problems)
}

/// The value of `ip` of a `ping` check.
pub(super) fn check_address(node: &Node, problems: &mut Problems) -> Option<Spanned<IpAddr>> {
    const ROLE: Role = Role {
        port: "an echo request goes to no port; give the address alone",
        prefix: "the address of a host has no prefix",
        link_local: "a link-local address means another host on every interface; use a global one",
        host: "the address of one host",
        remedy: "name the host that has to answer",
    };
    host_address(node, &ROLE, problems)
}

/// What messages say about an address of a host.
struct Role {
    port: &'static str,
    prefix: &'static str,
    link_local: &'static str,
    host: &'static str,
    remedy: &'static str,
}

fn host_address(node: &Node, role: &Role, problems: &mut Problems) -> Option<Spanned<IpAddr>> {
    let expected = "an IP address such as 10.0.0.1";
    let text = node.text(expected, problems)?;
    let Ok(address) = text.value.parse::<IpAddr>() else {
        let help = if text.value.parse::<std::net::SocketAddr>().is_ok() {
            role.port
        } else if text.value.contains('/') {
            role.prefix
        } else if text.value.contains('%') {
            role.link_local
        } else if text.value.contains(|c: char| c.is_ascii_alphabetic()) && !text.value.contains(':') {
            "names are not looked up, because that would need a working DNS to survive a failure"
        } else {
            "an IPv4 address has four numbers from 0 to 255 without leading zeros"
        };
        node.refuse_help(expected, help, problems);
        return None;
    };
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let why = unusable(address).or(link_local.then_some("a link-local address"));
    if let Some(why) = why {
        let message = format!("found \"{address}\", which is {why}, expected {}", role.host);
        problems.error_help(&node.at, message, role.remedy);
        return None;
    }
    Some(node.spanned(address))
}

/// Why no single host can have this address.
fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("the broadcast address")
    } else {
        None
    }
}

/// True when the system's items are addresses.
pub(super) fn is_ip(system: &WrittenSystem) -> bool {
    super::handlers::alive_name(system) == "ip_up"
}

/// Checks all settings that an `ip` system reads, and that no server lacks its interface.
pub(super) fn check_settings(written: &Written, problems: &mut Problems) {
    let systems = &written.systems;
    let any = systems.iter().any(is_ip);
    check_level(&written.config, any, any && systems.iter().all(is_ip), problems);
    for system in systems.iter().filter(|system| is_ip(system)) {
        check_level(&system.config, true, true, problems);
        check_interface(written, system, problems);
    }
    for server in &written.servers {
        let own = || systems.iter().filter(|system| takes_part(server, system));
        check_level(&server.config, own().any(is_ip), own().any(is_ip) && own().all(is_ip), problems);
    }
}

pub(super) fn takes_part(server: &WrittenServer, system: &WrittenSystem) -> bool {
    server.systems.iter().any(|name| name.value == system.name.value)
}

/// Checks one `config`; where only `ip` systems read it, nothing else belongs there.
fn check_level(settings: &[Setting], read_by_ip: bool, only_by_ip: bool, problems: &mut Problems) {
    for Setting { key, value } in settings {
        if read_by_ip {
            announce::check(&key.value, value, problems);
        }
        if read_by_ip && key.value == "interface" {
            check_name(value, problems);
        } else if read_by_ip && [IP_KILL_CONNECTIONS, IP_TICKLE].contains(&key.value.as_str()) {
            check_truth(value, problems);
        } else if read_by_ip && key.value == "conflict" {
            foreign::check_conflict(value, problems);
        } else if read_by_ip && key.value == "probe" {
            foreign::check_probe(value, problems);
        } else if read_by_ip && key.value == "scope" {
            check_scope(value, problems);
        } else if read_by_ip && key.value == "noprefixroute" {
            check_truth(value, problems);
        } else if only_by_ip && !IP_CONFIG_KEYS.contains(&key.value.as_str()) {
            match nearest(&key.value, IP_CONFIG_KEYS) {
                Some(near) => problems.error_help(
                    &key.at,
                    format!("unknown key `{}`", clip(&key.value)),
                    format!("did you mean `{near}`?"),
                ),
                None => problems.warning(
                    &key.at,
                    format!("nothing reads `{}`", clip(&key.value)),
                    format!("an ip system reads {}; remove this key", list(IP_CONFIG_KEYS)),
                ),
            }
        }
    }
}

fn check_truth(value: &Spanned<serde_json::Value>, problems: &mut Problems) {
    match &value.value {
        serde_json::Value::Bool(_) => {}
        serde_json::Value::String(text) if ["true", "false"].contains(&text.as_str()) => {
            problems.error_help(&value.at, "expected `true` or `false`", "remove the quotes");
        }
        _ => problems.error(&value.at, "expected `true` or `false`"),
    }
}

fn check_scope(value: &Spanned<serde_json::Value>, problems: &mut Problems) {
    if scope_of(&value.value).is_none() {
        let expected = list(Scope::NAMES.iter().map(|(name, _)| *name));
        problems.error(&value.at, format!("expected one of {expected}, in double quotes"));
    }
}

fn scope_of(value: &serde_json::Value) -> Option<Scope> {
    let text = value.as_str()?;
    Scope::NAMES.iter().find(|(name, _)| *name == text).map(|(_, scope)| *scope)
}

fn check_name(value: &Spanned<serde_json::Value>, problems: &mut Problems) {
    let serde_json::Value::String(name) = &value.value else {
        problems.error(&value.at, format!("expected {INTERFACE}, in double quotes"));
        return;
    };
    refuse_interface_name(&Spanned { value: name.clone(), at: value.at.clone() }, problems);
}

const INTERFACE: &str = "the name of a network interface such as \"eth0\"";

/// Reports a name that no interface has; false then.
fn refuse_interface_name(name: &Spanned<String>, problems: &mut Problems) -> bool {
    let Err(long) = check_interface_name(&name.value) else { return true };
    let mut message = format!("found \"{}\", expected {INTERFACE}", clip(&name.value));
    if long {
        message = format!(
            "found \"{}\" ({} bytes), expected {INTERFACE} of 1 to {} bytes",
            clip(&name.value),
            name.value.len(),
            bounds::INTERFACE
        );
    }
    let help = if !long && name.value.contains(':') {
        "name the interface itself: addresses need no alias like eth0:1"
    } else {
        "`ip link` lists the interfaces"
    };
    problems.error_help(&name.at, message, help);
    false
}

/// Whether an interface may have this name; an error says whether its length is wrong, or else a character.
fn check_interface_name(name: &str) -> Result<(), bool> {
    let refused = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > bounds::INTERFACE || [".", ".."].contains(&name) {
        return Err(true);
    }
    if name.contains(refused) { Err(false) } else { Ok(()) }
}

fn check_interface(written: &Written, system: &WrittenSystem, problems: &mut Problems) {
    // A misspelt key was reported as such.
    let is_interface = |key: &str| key == "interface" || nearest(key, ["interface"]).is_some();
    let says = |settings: &[Setting]| settings.iter().any(|setting| is_interface(&setting.key.value));
    let all_say = !system.items.is_empty()
        && system.items.iter().flat_map(|item| &item.parts).all(|part| part.interface.is_some());
    if all_say || says(&written.config) || says(&system.config) {
        return;
    }
    let name = clip(&system.name.value);
    let without: Vec<_> = written
        .servers
        .iter()
        .filter(|server| takes_part(server, system) && !says(&server.config))
        .map(|server| server.id.value.as_str())
        .collect();
    let Some(first) = without.first() else { return };
    let message = format!(
        "system `{name}` names no `interface` for {}, expected one for each server that takes part",
        list(without.iter().copied())
    );
    let help = format!(
        "add \"config\": {{\"interface\": \"eth0\"}} to `{name}`, or to `{}` for that server alone",
        clip(first)
    );
    problems.error_help(&system.name.at, message, help);
}

/// Warns about the address of a server's daemon among the items: two hosts would have it.
fn warn_own_address(address: IpAddr, at: &At, written: &Written, problems: &mut Problems) {
    let owns =
        |server: &&WrittenServer| server.ip.as_ref().is_some_and(|ip| ip.value == address.to_canonical());
    if let Some(server) = written.servers.iter().find(owns) {
        let id = clip(&server.id.value);
        let message = format!("{address} is the address of server `{id}` itself, not one that may move");
        problems.warning(at, message, format!("remove it from `data`, or correct `ip` of `{id}`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_addresses_with_or_without_a_prefix() {
        for (text, expected) in [
            ("192.168.0.1", "192.168.0.1/32"),
            ("192.168.0.1/24", "192.168.0.1/24"),
            ("fd00::1", "fd00::1/128"),
            ("fd00::1/64", "fd00::1/64"),
        ] {
            assert_eq!(parse_vip(text).map(|net| net.to_string()), Ok(expected.into()), "{text}");
        }
        for text in [
            "",
            "/",
            "1.2.3",
            "1.2.3.4/",
            "1.2.3.4/0",
            "1.2.3.4/33",
            "1.2.3.4/+8",
            "fd00::1/129",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "ff02::1",
            " 1.2.3.4",
            "1.2.3.4/24/24",
        ] {
            assert!(parse_vip(text).is_err(), "{text}");
        }
    }
}
