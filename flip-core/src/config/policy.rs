//! What happens where no quorum is in sight: the keys `isolated`, `lease`, `on_daemon_death` and `witness`,
//! and whether they fit the quorum, the systems and each other.

use std::net::IpAddr;
use std::time::Duration;

use jsonc_parser::ast::Value;

use super::problem::Problems;
use super::raw::{Fields, Node, clip};
use super::scripts::Script;
use super::source::{At, Spanned};
use super::written::{Written, WrittenItem, WrittenSystem};
use super::{Isolated, ORPHAN, Release, SystemKind, bounds, checks, handlers, ip};
use crate::quorum::majority;

const WITNESS_KEYS: &[&str] = &["ping"];
const NAMED_KEYS: &[&str] = &["name", "prefer", "isolated", "checks", "when_all_fail"];

/// The value of `isolated`, of a system or of one item.
pub(super) fn isolated(node: &Node, problems: &mut Problems) -> Option<Spanned<Isolated>> {
    node.one_of(&Isolated::NAMES, problems)
}

/// The value of `on_daemon_death`: `None` inside is for ever.
pub(super) fn on_daemon_death(node: &Node, problems: &mut Problems) -> Option<Spanned<Option<Duration>>> {
    let (least, most) = (bounds::ORPHAN.start(), bounds::ORPHAN.end());
    let default = format!("expire:{}", ORPHAN.as_secs());
    let expected = format!("\"keep\", or \"expire:SECONDS\" with {least} to {most} seconds");
    let Value::StringLit(text) = node.value else {
        node.refuse_help(&expected, format!("write for instance \"{default}\""), problems);
        return None;
    };
    if text.value == "keep" {
        return Some(node.spanned(None));
    }
    let digits = text.value.strip_prefix("expire:").filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    match digits.map(str::parse) {
        Some(Ok(seconds)) if bounds::ORPHAN.contains(&seconds) => {
            Some(node.spanned(Some(Duration::from_secs(seconds))))
        }
        Some(_) if digits != Some("") => {
            node.refuse(&expected, problems);
            None
        }
        Some(_) | None => {
            let word = text.value.split(':').next().unwrap_or_default();
            let help = match super::nearest::nearest(word, ["keep", "expire"]) {
                Some("keep") => "did you mean \"keep\"?".to_owned(),
                Some(_) => format!("did you mean \"{default}\"?"),
                None => format!("write for instance \"{default}\""),
            };
            node.refuse_help(&expected, help, problems);
            None
        }
    }
}

/// The value of `lease`. A shorter one than the least leaves no whole second for the kernel.
pub(super) fn lease(node: &Node, problems: &mut Problems) -> Option<Spanned<Duration>> {
    let (least, most) = (bounds::LEASE.start(), bounds::LEASE.end());
    if let Value::NumberLit(number) = node.value
        && let Ok(millis) = number.value.parse::<u64>()
        && millis < *least
    {
        node.refuse_help(
            &format!("a whole number of milliseconds from {least} to {most}"),
            "the kernel counts the lifetime of an address in whole seconds and removes it up to 1.25 s late: \
             within less than 3 s there is no time left to hold one",
            problems,
        );
        return None;
    }
    let number = node.whole("a whole number of milliseconds", bounds::LEASE, problems)?;
    Some(node.spanned(Duration::from_millis(number.value)))
}

/// The value of `witness`: an object, so that other ways to ask can be added.
pub(super) fn witness(node: &Node, problems: &mut Problems) -> Option<Spanned<IpAddr>> {
    const EXAMPLE: &str = "write for instance {\"ping\": \"10.0.0.1\"}, the address of the gateway";
    if !matches!(node.value, Value::Object(_)) {
        node.refuse_help("an object with the key `ping`", EXAMPLE, problems);
        return None;
    }
    let fields = node.fields("an object with the key `ping`", WITNESS_KEYS, problems)?;
    match fields.get("ping") {
        Some(node) => ip::witness_address(node, problems),
        None => {
            problems.error_help(&node.at, "found no `ping`, expected the address of the witness", EXAMPLE);
            None
        }
    }
}

/// An entry of `data` of a system that is not ip: a text, or an object where the item has more to say than
/// its name.
pub(super) fn item(node: &Node, problems: &mut Problems) -> Option<WrittenItem> {
    const EXPECTED: &str = "an item: a string, or an object with the key `name`";
    if !matches!(node.value, Value::Object(_)) {
        let text = node.text(EXPECTED, problems)?;
        return check_item_name(node, &text.value, problems).then(|| WrittenItem::plain(text, Vec::new()));
    }
    let fields = named_fields(node, EXPECTED, problems)?;
    let name = fields.get("name");
    if name.is_none() {
        let help = "write for instance {\"name\": \"x\", \"isolated\": \"drop\"}";
        problems.error_help(&node.at, "found no `name`, expected the name of the item", help);
    }
    let more = fields.all().iter().any(|entry| !NAMED_KEYS.contains(&entry.key.value));
    let own = if more { node.json(problems)?.as_object().cloned() } else { None };
    let prefer = fields.get("prefer").and_then(|node| node.text("the id of a server", problems));
    let isolated = fields.get("isolated").and_then(|node| isolated(node, problems));
    let checks = fields.get("checks").map(|node| checks::checks(node, problems)).unwrap_or_default();
    let when_all_fail = fields.get("when_all_fail").and_then(|node| checks::when_all_fail(node, problems));
    let text = name?.text(EXPECTED, problems)?;
    if !check_item_name(name?, &text.value, problems) {
        return None;
    }
    let plain = WrittenItem::plain(text, Vec::new());
    Some(WrittenItem { prefer, isolated, checks, when_all_fail, own, ..plain })
}

/// Reports a text that cannot name an item; false then.
pub(super) fn check_item_name(node: &Node, text: &str, problems: &mut Problems) -> bool {
    if text.is_empty() || text.len() > bounds::ITEM || text.contains(char::is_control) {
        let expected = format!("an item: 1 to {} bytes without control characters", bounds::ITEM);
        node.refuse(&expected, problems);
        return false;
    }
    true
}

/// An item with a name: keys that flip does not know are settings for its hooks.
fn named_fields<'t>(node: &Node<'t>, expected: &str, problems: &mut Problems) -> Option<Fields<'t>> {
    let fields = node.any_fields(expected, problems)?;
    for entry in fields.all() {
        let key = &entry.key;
        if NAMED_KEYS.contains(&key.value) {
            continue;
        }
        if let Some(near) = super::nearest::nearest(key.value, NAMED_KEYS.iter().copied()) {
            let message = format!("`{}` is taken for a setting of the item's hooks", clip(key.value));
            problems.warning(&key.at, message, format!("did you mean `{near}`?"));
        }
    }
    Some(fields)
}

/// What an item does without a quorum: its own word, else its system's.
pub(super) fn isolated_of(item: &WrittenItem, system: &WrittenSystem) -> Isolated {
    item.isolated.as_ref().or(system.isolated.as_ref()).map(|given| given.value).unwrap_or_default()
}

/// Where the file says `drop` first.
pub(super) fn first_drop(written: &Written) -> Option<&At> {
    written.systems.iter().find_map(drop_of)
}

fn drop_of(system: &WrittenSystem) -> Option<&At> {
    let items = system.items.iter().map(|item| &item.isolated);
    let mut given = std::iter::once(&system.isolated).chain(items).flatten();
    given.find(|given| given.value == Isolated::Drop).map(|given| &given.at)
}

/// Where a message says that another place is: its key and line.
pub(super) fn place(at: &At, problems: &Problems) -> String {
    format!("{} on line {}", at.path, problems.text.line(at.span.start))
}

/// Reports what does not fit together; voters and quorum are missing when they were refused.
pub(super) fn check(
    written: &Written,
    voters: Option<usize>,
    quorum: Option<usize>,
    scripts: &[Script],
    problems: &mut Problems,
) {
    let first = first_drop(written);
    if let (Some(at), Some(voters), Some(quorum)) = (first, voters, quorum) {
        check_majority(written, at, voters, quorum, problems);
    }
    if let (Some(lease), None) = (&written.lease, first) {
        let message = "nothing reads `lease`: no system and no item has \"isolated\": \"drop\"";
        problems.warning(&lease.at, message, "remove it, or set \"isolated\": \"drop\" where it was meant");
    }
    for system in &written.systems {
        check_drop(system, scripts, problems);
        check_orphan(system, scripts, problems);
    }
    check_witness(written, problems);
}

/// Two quorums must share a voter, or each could grant the same item (GUARANTEES lemma 3 of promise E).
fn check_majority(written: &Written, at: &At, voters: usize, quorum: usize, problems: &mut Problems) {
    // Without the key, the quorum is a majority.
    let Some(given) = written.quorum.as_ref().filter(|_| quorum * 2 <= voters) else { return };
    let message = format!(
        "quorum {quorum} is not above half of {voters} voters, and {} is \"drop\", which promises never two \
         holders: when the network splits, both sides could grant the same item",
        place(at, problems),
    );
    let help = match voters {
        2 => "add an arbiter: a third server, which may be without `systems`, and remove `quorum`; or set \
              `isolated` to \"keep\""
            .to_owned(),
        _ => format!(
            "set `quorum` to {}, or remove it; or set `isolated` to \"keep\" or \"take\"",
            majority(voters)
        ),
    };
    problems.error_help(&given.at, message, help);
}

fn check_drop(system: &WrittenSystem, scripts: &[Script], problems: &mut Problems) {
    let Some(at) = drop_of(system) else { return };
    let name = clip(&system.name.value);
    if system.kind == SystemKind::Replicate {
        let message = format!(
            "found \"drop\" in system `{name}`, whose `type` is \"replicate\": \"drop\" promises never two \
             holders, and there every server holds every item"
        );
        problems.error_help(
            at,
            message,
            "set `type` to \"shard\", or remove this: a replicated item may be \"keep\" or \"take\"",
        );
        return;
    }
    let alive = handlers::alive_name(system);
    // Of an unknown handler there is an error already.
    let known = handlers::is_known(&alive, scripts);
    if known && Release::of(&alive) == Release::Hook {
        let down = handlers::down_name(system);
        let message = format!(
            "\"drop\" in system `{name}` promises never two holders only if `{}` ends before the lease does",
            clip(&down),
        );
        problems.warning(
            at,
            message,
            "an item whose release did not end is `unclean`: nobody takes it before `flip confirm-released`; \
             only addresses are released by the kernel, whatever happens to the daemon",
        );
    }
}

fn check_orphan(system: &WrittenSystem, scripts: &[Script], problems: &mut Problems) {
    let Some(given) = &system.on_daemon_death else { return };
    let name = clip(&system.name.value);
    let alive = handlers::alive_name(system);
    if !handlers::is_known(&alive, scripts) {
        return;
    }
    if Release::of(&alive) == Release::Hook {
        let message = format!(
            "found `on_daemon_death` in system `{name}`, expected it in ip systems only: nobody but the kernel \
             can release an item of a dead daemon, and here `{}` does",
            clip(&handlers::down_name(system)),
        );
        problems.error_help(&given.at, message, "remove it");
        return;
    }
    let dropped = |item| isolated_of(item, system) == Isolated::Drop;
    if !system.items.is_empty() && system.items.iter().all(dropped) {
        let message = format!(
            "`on_daemon_death` has no effect in system `{name}`: all its items are \"drop\", and such an address \
             goes with its lease"
        );
        problems.warning(&given.at, message, "remove it; `lease` says how long such an address may stay");
    }
}

/// A witness that falls with what it is to witness keeps everybody from failing over.
fn check_witness(written: &Written, problems: &mut Problems) {
    let Some(witness) = &written.witness else { return };
    let address = witness.value.to_canonical();
    let daemon = |server: &&super::written::WrittenServer| {
        server.ip.as_ref().is_some_and(|ip| ip.value.to_canonical() == address)
    };
    if let Some(server) = written.servers.iter().find(daemon) {
        let message = format!(
            "found {}, the address of server `{}`, expected one that none of the servers has: the witness must \
             answer when a server does not",
            witness.value,
            clip(&server.id.value),
        );
        problems.error_help(&witness.at, message, "name the gateway, or another host that is always there");
    }
    for system in written.systems.iter().filter(|system| ip::is_ip(system)) {
        let mut parts = system.items.iter().flat_map(|item| &item.parts);
        if let Some(part) = parts.find(|part| part.net.addr().to_canonical() == address) {
            let message = format!(
                "found {}, which is also an item ({}), expected an address that does not move: when its \
                 holder dies, the witness would be silent too, and nobody could take over",
                witness.value,
                place(&part.text.at, problems),
            );
            problems.error_help(
                &witness.at,
                message,
                "name the gateway, or another host that is always there",
            );
        }
    }
    if address.is_loopback() {
        let message = format!("{address} is a loopback address: it answers even where the network is gone");
        problems.warning(&witness.at, message, "name the gateway, or another host that is always there");
    }
}
