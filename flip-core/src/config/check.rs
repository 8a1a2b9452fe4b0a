//! What is valid and will surprise somebody: warnings about the cluster as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Profile;
use super::ip::takes_part;
use super::policy;
use super::problem::Problems;
use super::raw::clip;
use super::source::At;
use super::written::Written;
use crate::quorum::majority;

/// Servers up to which `turbo` is meant: everybody probes everybody.
const TURBO_SERVERS: usize = 9;

/// Reports all warnings of this module; voters and quorum are missing when they were refused.
pub(super) fn warn(written: &Written, voters: Option<usize>, quorum: Option<usize>, problems: &mut Problems) {
    if let (Some(voters), Some(quorum)) = (voters, quorum) {
        warn_quorum(written, voters, quorum, problems);
    }
    warn_addresses(written, problems);
    warn_unused(written, problems);
    let count = written.servers.len();
    if let Some(profile) = written.profile.as_ref().filter(|profile| profile.value == Profile::Turbo)
        && count > TURBO_SERVERS
    {
        let message =
            format!("profile turbo is meant for up to {TURBO_SERVERS} servers on one LAN, here are {count}");
        problems.warning(
            &profile.at,
            message,
            "use \"fast\": probing everybody costs the square of the servers",
        );
    }
}

fn warn_quorum(written: &Written, voters: usize, quorum: usize, problems: &mut Problems) {
    let servers = written.servers.len();
    let in_servers = At { span: written.servers_at.span, path: "servers".into() };
    let named = written.quorum.as_ref().map(|given| &given.at);
    let named = named.or(written.voters.as_ref().map(|voters| &voters.at));
    let at = named.unwrap_or(&in_servers);
    let add_arbiter = "add an arbiter: a third server, which may be without `systems`";
    let witness = "a `witness`, for instance {\"ping\": the address of the gateway}";
    let dropped = policy::first_drop(written);
    if servers == 1 {
        let message = "a single server: nobody takes over when it fails";
        problems.warning(&in_servers, message, "list all servers of the cluster, on each of them");
    } else if voters == 1 {
        let message = "one voter alone decides: nothing fails over when it is lost";
        problems.warning(at, message, "name at least three voters, or remove `voters`");
    } else if quorum == voters && voters == 2 {
        let who = if servers == 2 { "servers" } else { "voters" };
        let help = if servers == 2 { add_arbiter } else { "name at least three voters, or remove `voters`" };
        if let Some(dropped) = dropped {
            let message = format!(
                "two {who} with quorum 2, and {} is \"drop\": when one of them dies, the other alone is no \
                 quorum and lets go of every such item",
                policy::place(dropped, problems),
            );
            problems.warning(at, message, help);
        } else {
            let message =
                format!("two {who} with quorum 2 cannot fail over: the one that is left is no quorum alone");
            let or_one = "or set `quorum` to 1, if both may hold the same items when the network splits";
            let with = if written.witness.is_some() {
                String::new()
            } else {
                format!("; {witness} then keeps a server that is cut off from taking over")
            };
            problems.warning(at, message, format!("{help}; {or_one}{with}"));
        }
    } else if quorum == voters {
        let then = if dropped.is_some() { ", and what is \"drop\" is held by nobody" } else { "" };
        let message = format!(
            "quorum {quorum} of {voters} voters: once a server is lost no quorum is left, and nothing fails \
             over{then}"
        );
        problems.warning(at, message, format!("set `quorum` to {}, or remove it", majority(voters)));
    } else if quorum * 2 <= voters && dropped.is_none() {
        let sides = if written.witness.is_some() { "sides that reach the witness" } else { "sides" };
        let message = format!(
            "quorum {quorum} is not above half of {voters} voters: when the network splits, both {sides} may \
             decide and hold the same items"
        );
        let help = match voters {
            2 if written.witness.is_some() => format!("{add_arbiter}, and remove `quorum`"),
            2 => format!(
                "{add_arbiter}, and remove `quorum`; or add {witness}, so that a server that is cut off takes \
                 nothing"
            ),
            _ => format!("set `quorum` to {}, or remove it", majority(voters)),
        };
        problems.warning(at, message, help);
    }
}

fn warn_addresses(written: &Written, problems: &mut Problems) {
    let mut seen: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    for server in &written.servers {
        let Some(ip) = &server.ip else { continue };
        let address = SocketAddr::new(ip.value.to_canonical(), server.port);
        if let Some(first) = seen.get(&address) {
            let id = clip(&server.id.value);
            let message = format!("server `{id}` has the same address {address} as `{}`", clip(first));
            problems.warning(&ip.at, message, "give each server its own `ip`, or on one host its own `port`");
        } else {
            seen.insert(address, &server.id.value);
        }
    }
}

fn warn_unused(written: &Written, problems: &mut Problems) {
    for system in &written.systems {
        if !written.servers.iter().any(|server| takes_part(server, system)) {
            let name = clip(&system.name.value);
            let message = format!("no server takes part in system `{name}`: nobody holds its items");
            let help = format!("add \"{name}\" to `systems` of the servers that may hold them");
            problems.warning(&system.name.at, message, help);
        }
    }
    for server in written.servers.iter().filter(|server| server.systems.is_empty()) {
        if let Some(setting) = server.config.first() {
            let message =
                format!("nothing reads this: server `{}` takes part in no system", clip(&server.id.value));
            problems.warning(&setting.key.at, message, "remove its `config`, or add `systems`");
        }
    }
}
