//! From the config as written to the config as meant: defaults, references, merged settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::key::{self, Secret};
use super::nearest::nearest;
use super::problem::Problems;
use super::raw::{clip, list};
use super::source::{At, Spanned};
use super::written::{Setting, Written, WrittenSystem};
use super::{
    ClusterKey, Config, Item, LEASE, ORPHAN, Overrides, Profile, Release, Server, System, SystemKind, Timing,
    check, checks, handlers, hooks, ip, policy, scripts,
};
use crate::id::{ItemId, ShortId};
use crate::{limits, quorum};

/// How a secret becomes a key; an argument, because the real one is slow on purpose.
pub(super) type Derive = fn(Secret, &str) -> Result<ClusterKey, argon2::Error>;

/// Where the key comes from.
#[derive(Clone, Copy)]
pub(super) enum Secrets<'a> {
    /// From what the file says.
    Derive(Derive),
    /// It is known, whatever the file says.
    Known(&'a ClusterKey),
}

/// The config that a file means, unless an error was reported.
pub(super) fn resolve(
    written: &Written,
    overrides: &Overrides,
    secrets: Secrets<'_>,
    problems: &mut Problems,
) -> Option<Config> {
    if written.servers.is_empty() {
        return None;
    }
    let count = written.servers.len();
    let me = find_me(written, overrides, problems);
    check_short_ids(written, problems);
    let memberships = find_systems(written, problems);
    let voters = find_voters(written, problems);
    let quorum = voters.as_ref().and_then(|voters| find_quorum(written, voters.len(), problems));
    for system in &written.systems {
        handlers::check(system, overrides.scripts, problems);
        hooks::check(system, written, problems);
    }
    ip::check_settings(written, problems);
    let items = read_items(written, me, &memberships, problems);
    let secret = match secrets {
        Secrets::Derive(derive) => Ok((key::choose(written, overrides.key_file, problems), derive)),
        Secrets::Known(key) => Err(key),
    };
    policy::check(written, voters.as_ref().map(Vec::len), quorum, overrides.scripts, problems);
    checks::warn(written, problems);
    scripts::check_plugins(&written.lua, overrides.scripts, problems);
    scripts::check_uses(&written.script_uses, overrides.scripts, problems);
    check::warn(written, voters.as_ref().map(Vec::len), quorum, problems);

    let (Some(me), Some(voters), Some(quorum), false) = (me, voters, quorum, problems.any_error()) else {
        return None;
    };
    let mut servers = Vec::with_capacity(count);
    for (server, systems) in written.servers.iter().zip(memberships) {
        servers.push(Server {
            id: server.id.value.clone(),
            short: ShortId::of(&server.id.value),
            addr: SocketAddr::new(server.ip.as_ref()?.value, server.port),
            systems,
            priority: server.priority,
            retired: false,
        });
    }
    let key = match secret.map(|(secret, derive)| derive(secret, &written.cluster_id)) {
        Err(key) => key.clone(),
        Ok(Ok(key)) => key,
        Ok(Err(error)) => {
            let at = written.key.as_ref().or(written.key_file.as_ref()).map_or(&written.at, |key| &key.at);
            let message = format!("the passphrase cannot be made a key: {error}");
            problems.error_help(at, message, "free 19 MiB of memory, or use a key that `flip keygen` prints");
            return None;
        }
    };
    let my_settings = &written.servers[me].config;
    let systems = written.systems.iter().zip(items).map(|(system, items)| {
        let alive = handlers::alive_name(system);
        let release = Release::of(&alive);
        let orphan = system.on_daemon_death.as_ref().map_or(Some(ORPHAN), |given| given.value);
        System {
            name: system.name.value.clone(),
            kind: system.kind,
            alive,
            down: handlers::down_name(system),
            config: merge([&written.config, &system.config, my_settings]),
            items,
            release,
            hooks: hooks::of(system, written),
            orphan: orphan.filter(|_| release == Release::Kernel),
            checks: system.checks.clone(),
        }
    });
    Some(Config {
        me,
        servers: servers.into(),
        quorum,
        voters,
        timing: timing(written, count),
        systems: systems.collect(),
        key,
        cluster_id: written.cluster_id.clone(),
        log_level: written.log_level,
        lease: written.lease.as_ref().map_or(LEASE, |given| given.value),
        witness: written.witness.as_ref().map(|given| given.value.to_canonical()),
        lua: written.lua.resolve(),
        privileges: written.privileges.resolve(),
        admin: written.admin.clone(),
    })
}

/// Which server this node is: `--id`, else `id`, else the host name or its first label.
fn find_me(written: &Written, overrides: &Overrides, problems: &mut Problems) -> Option<usize> {
    let position = |id: &str| written.servers.iter().position(|server| server.id.value == id);
    let known = || written.servers.iter().map(|server| server.id.value.as_str());
    let help = |id: &str| match nearest(id, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the servers are {}", list(known())),
    };
    let in_servers = At { span: written.servers_at.span, path: "servers".into() };
    if let Some(id) = overrides.id {
        if let (Some(own), true) = (&written.id, position(id).is_some())
            && position(&own.value).is_none()
        {
            let message =
                format!("\"{}\" is not one of the servers; --id {} is used instead", clip(&own.value), id);
            problems.warning(&own.at, message, help(&own.value));
        }
        let found = position(id);
        if found.is_none() {
            let message = format!("found --id {}, expected the id of one of the servers", clip(id));
            problems.error_help(&in_servers, message, help(id));
        }
        return found;
    }
    if let Some(id) = &written.id {
        let found = position(&id.value);
        if found.is_none() {
            let message = format!("found \"{}\", expected the id of one of the servers", clip(&id.value));
            problems.error_help(&id.at, message, help(&id.value));
        }
        return found;
    }
    let Some(host) = overrides.host_name else {
        let message = "which server is this? found neither `id` nor --id, and the host name is unknown";
        problems.error_help(&in_servers, message, format!("use --id with one of {}", list(known())));
        return None;
    };
    let label = host.split('.').next().unwrap_or(host);
    let found = position(host).or_else(|| position(label));
    if found.is_none() {
        let names = if label == host {
            format!("the host name `{}` is not in `servers`", clip(host))
        } else {
            format!("neither the host name `{}` nor `{}` is in `servers`", clip(host), clip(label))
        };
        let message = format!("which server is this? found no `id`, and {names}");
        problems.error_help(
            &in_servers,
            message,
            format!("set `id`, or start with --id, to one of {}", list(known())),
        );
    }
    found
}

/// On the wire a server is a 16-bit hash of its id.
fn check_short_ids(written: &Written, problems: &mut Problems) {
    let mut seen = BTreeMap::new();
    for server in &written.servers {
        let id = server.id.value.as_str();
        if let Some(first) = seen.insert(ShortId::of(id), id) {
            let message = format!(
                "`{}` and `{}` have the same short id {:?} on the wire, expected different ones",
                clip(id),
                clip(first),
                ShortId::of(id),
            );
            problems.error_help(
                &server.id.at,
                message,
                "rename one of the two servers, a digit more is enough",
            );
        }
    }
}

/// The systems of every server, ascending.
fn find_systems(written: &Written, problems: &mut Problems) -> Vec<Vec<usize>> {
    let positions: BTreeMap<&str, usize> = written
        .systems
        .iter()
        .enumerate()
        .map(|(index, system)| (system.name.value.as_str(), index))
        .collect();
    let mut memberships = Vec::with_capacity(written.servers.len());
    for server in &written.servers {
        let mut systems = Vec::new();
        for name in &server.systems {
            let Some(index) = positions.get(name.value.as_str()) else {
                refuse_system(written, name, problems);
                continue;
            };
            if systems.contains(index) {
                let message = format!("system `{}` is named twice here", clip(&name.value));
                problems.warning(&name.at, message, "remove it");
                continue;
            }
            systems.push(*index);
        }
        systems.sort_unstable();
        memberships.push(systems);
    }
    memberships
}

fn refuse_system(written: &Written, name: &Spanned<String>, problems: &mut Problems) {
    let known = || written.systems.iter().map(|system| system.name.value.as_str());
    let help = match nearest(&name.value, known()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if written.systems.is_empty() => "there is no system; define it under `cluster.system`".into(),
        None => format!("the systems are {}", list(known())),
    };
    let message = format!("found \"{}\", expected the name of a system", clip(&name.value));
    problems.error_help(&name.at, message, help);
}

fn find_voters(written: &Written, problems: &mut Problems) -> Option<Vec<usize>> {
    let Some(named) = &written.voters else {
        let shorts: Vec<_> = written.servers.iter().map(|server| ShortId::of(&server.id.value)).collect();
        return Some(quorum::voters(&shorts));
    };
    let known = || written.servers.iter().map(|server| server.id.value.as_str());
    let mut voters = Vec::new();
    let mut refused = false;
    for name in &named.value {
        match known().position(|id| id == name.value) {
            Some(index) if voters.contains(&index) => {
                let message = format!("voter `{}` is named twice, expected once", clip(&name.value));
                problems.error_help(&name.at, message, "remove it: every voter has one vote");
                refused = true;
            }
            Some(index) => voters.push(index),
            None => {
                let help = match nearest(&name.value, known()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("the servers are {}", list(known())),
                };
                let message =
                    format!("found \"{}\", expected the id of one of the servers", clip(&name.value));
                problems.error_help(&name.at, message, help);
                refused = true;
            }
        }
    }
    if refused {
        return None;
    }
    if voters.is_empty() {
        let message = "found no voter, expected at least one server id";
        problems.error_help(&named.at, message, "remove `voters`: then the servers vote");
        return None;
    }
    voters.sort_unstable();
    Some(voters)
}

fn find_quorum(written: &Written, voters: usize, problems: &mut Problems) -> Option<usize> {
    let Some(given) = &written.quorum else {
        return (!written.quorum_given).then(|| quorum::majority(voters));
    };
    match usize::try_from(given.value) {
        Ok(quorum) if (1..=voters).contains(&quorum) => Some(quorum),
        Ok(_) | Err(_) => {
            let who = if written.voters.is_some() { "voters" } else { "servers that vote" };
            let message = format!(
                "found a quorum of {} with {voters} {who}, expected a number from 1 to {voters}",
                given.value
            );
            let help = format!("set it to {}, or remove it", quorum::majority(voters));
            problems.error_help(&given.at, message, help);
            None
        }
    }
}

/// The items of every system as server `me` has them. One that is listed twice is placed once: two servers
/// would hold it.
fn read_items(
    written: &Written,
    me: Option<usize>,
    memberships: &[Vec<usize>],
    problems: &mut Problems,
) -> Vec<Vec<Item>> {
    let mut places = ip::item::Places::default();
    let (mut all, mut macs) = (Vec::with_capacity(written.systems.len()), Vec::new());
    for (index, system) in written.systems.iter().enumerate() {
        let members: Vec<_> = memberships.iter().map(|systems| systems.contains(&index)).collect();
        let items = read_items_of(system, me, &members, written, &mut places, problems);
        let (items, of_items): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        all.push(items);
        macs.push(of_items);
    }
    ip::mac::assign(&mut all, &macs, problems);
    let total: usize = all.iter().map(Vec::len).sum();
    if total > limits::FACTS {
        let message = format!("found {total} items in all systems, expected at most {}", limits::FACTS);
        problems.error_help(&written.at, message, "split the cluster in two");
    }
    places.check_count(&written.at, problems);
    all
}

fn read_items_of<'w>(
    system: &'w WrittenSystem,
    me: Option<usize>,
    members: &[bool],
    written: &Written,
    places: &mut ip::item::Places<'w>,
    problems: &mut Problems,
) -> Vec<(Item, Option<Spanned<ip::mac::WrittenMac>>)> {
    let is_ip = ip::is_ip(system);
    let mut names: BTreeMap<&str, &At> = BTreeMap::new();
    let mut items = Vec::new();
    for item in &system.items {
        let name = &item.name;
        let addresses = is_ip.then(|| places.resolve(item, system, me, written, problems));
        if let Some(None) = addresses {
            continue;
        }
        if let Some(first) = names.get(name.value.as_str()) {
            if is_ip {
                refuse_same_name(name, first, problems);
            } else {
                warn_twice(name, first, problems);
            }
            continue;
        }
        names.insert(&name.value, &name.at);
        let resolved = Item {
            name: name.value.clone(),
            id: ItemId::of(&system.name.value, &name.value),
            prefer: (item.prefer.as_ref())
                .and_then(|id| find_preferred(id, system, members, written, problems)),
            home: None,
            isolated: policy::isolated_of(item, system),
            checks: item.checks.clone(),
            when_all_fail: (item.when_all_fail.as_ref())
                .or(system.when_all_fail.as_ref())
                .map(|given| given.value)
                .unwrap_or_default(),
            own: item.own.clone(),
            ip: addresses.flatten(),
            retired: false,
        };
        items.push((resolved, item.mac.clone()));
    }
    items
}

/// The position of the server that an item names as its home.
fn find_preferred(
    id: &Spanned<String>,
    system: &WrittenSystem,
    members: &[bool],
    written: &Written,
    problems: &mut Problems,
) -> Option<usize> {
    let known = || written.servers.iter().map(|server| server.id.value.as_str());
    let Some(index) = known().position(|known| known == id.value) else {
        let in_list = ip::is_ip(system) && !id.at.path.ends_with(".prefer");
        let what = if in_list { "an address, or the id of the server" } else { "the id of the server" };
        let help = match nearest(&id.value, known()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("the servers are {}", list(known())),
        };
        let message = format!("found \"{}\", expected {what} that is its home", clip(&id.value));
        problems.error_help(&id.at, message, help);
        return None;
    };
    let name = clip(&system.name.value);
    if !members.get(index).is_some_and(|member| *member) {
        let message =
            format!("server `{}` is preferred, and takes no part in system `{name}`", clip(&id.value));
        let help = format!("add \"{name}\" to its `systems`, or prefer a server that has it");
        problems.error_help(&id.at, message, help);
        return None;
    }
    if system.kind == SystemKind::Replicate {
        let message = format!("a home has no effect in system `{name}`: every server holds every item");
        problems.warning(&id.at, message, "remove it, or set `type` to \"shard\"");
    }
    Some(index)
}

fn refuse_same_name(item: &Spanned<String>, first: &At, problems: &mut Problems) {
    let message = format!(
        "two items are called \"{}\", the first is {}; expected different names",
        clip(&item.value),
        policy::place(first, problems),
    );
    problems.error_help(&item.at, message, "give one of them another `name`");
}

fn warn_twice(item: &Spanned<String>, first: &At, problems: &mut Problems) {
    let message = format!(
        "\"{}\" is listed twice: the first, {} on line {}, is used and this one ignored",
        clip(&item.value),
        first.path,
        problems.text.line(first.span.start),
    );
    problems.warning(&item.at, message, "remove one of the two");
}

fn timing(written: &Written, servers: usize) -> Timing {
    let profile = written.profile.as_ref().map_or(Profile::Balanced, |profile| profile.value);
    let mut timing = profile.timing(servers);
    let durations = [
        (&mut timing.probe_interval, written.gossip_interval),
        (&mut timing.ping_timeout, written.ping_timeout),
        (&mut timing.settle, written.settle),
        (&mut timing.digest_interval, written.digest_interval),
        (&mut timing.hook_timeout, written.hook_timeout),
        (&mut timing.mature, written.mature),
    ];
    for (value, given) in durations {
        *value = given.unwrap_or(*value);
    }
    timing.pings_per_interval = written.ping_per_interval.unwrap_or(timing.pings_per_interval);
    timing
}

/// Later settings replace earlier ones of the same key, whole.
fn merge(levels: [&Vec<Setting>; 3]) -> serde_json::Map<String, serde_json::Value> {
    let settings = levels.into_iter().flatten();
    settings.map(|setting| (setting.key.value.clone(), setting.value.value.clone())).collect()
}
