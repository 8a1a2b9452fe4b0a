//! A status as tables for people.

use std::fmt::Write;
use std::time::Duration;

use flip_core::event::ItemState;
use flip_core::status::{
    AnnouncedStatus, CatalogStatus, CheckHealth, ItemStatus, MemberState, MemberStatus, PrivilegeStatus,
    Status,
};

const GREEN: &str = "32";
pub const YELLOW: &str = "33";
pub const RED: &str = "31";
const DIM: &str = "2";
pub const BOLD: &str = "1";

/// One cell: its text, and the colour it has on a terminal.
pub struct Cell(pub String, pub Option<&'static str>);

impl Cell {
    pub fn plain(text: impl Into<String>) -> Self {
        Self(text.into(), None)
    }
}

/// The whole picture, `older` later than it was taken. Ends with a line feed.
pub fn render(status: &Status, older: Duration, colour: bool) -> String {
    let mut out = String::new();
    let (word, paint) = if status.healthy() { ("healthy", GREEN) } else { ("degraded", YELLOW) };
    let quorum = match status.has_quorum {
        true => format!("quorum {}", status.quorum),
        false => format!("NO QUORUM (needs {})", status.quorum),
    };
    let verdict = painted(word, Some(if status.has_quorum { paint } else { RED }), colour);
    let (live, all) = (status.live, status.members.len());
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{verdict}: {live} of {all} members live, {quorum}, view {}, seen by {}",
        status.view, status.node
    );
    out.push('\n');

    let mut rows =
        vec![head(&["MEMBER", "STATE", "SINCE", "ADDRESS", "PRIORITY", "GENERATION", "LOSS", "NOTES"])];
    rows.extend(status.members.iter().map(|member| member_row(member, older)));
    table(&mut out, &rows, colour);
    if !status.items.is_empty() {
        out.push('\n');
        let mut rows = vec![head(&["SYSTEM", "ITEM", "ISOLATED", "HOLDER", "STATE", "SINCE", "NOTES"])];
        rows.extend(status.items.iter().flat_map(|item| item_rows(item, &status.node, older)));
        table(&mut out, &rows, colour);
    }
    if !status.hints.is_empty() {
        out.push('\n');
        for hint in &status.hints {
            let _ = writeln!(out, "{} {hint}", painted("hint:", Some(YELLOW), colour));
        }
    }
    if let Some(catalog) = &status.catalog {
        let _ = writeln!(out, "\n{}", consists_of(catalog));
    }
    if let Some(privileges) = &status.privileges {
        let _ = writeln!(out, "\n{}", runs_as(privileges));
    }
    out
}

/// What the cluster consists of, in brief. What is wrong with it is among the hints.
fn consists_of(catalog: &CatalogStatus) -> String {
    let file = match &catalog.hash {
        Some(hash) => format!("config file of version {} ({hash})", catalog.version),
        None => "no config file".to_owned(),
    };
    let edits = match catalog.edits {
        0 => "no edits".to_owned(),
        1 => "1 edit".to_owned(),
        many => format!("{many} edits"),
    };
    let pushes = match catalog.pushes {
        0 => String::new(),
        many => format!(", {many} on their way to other disks"),
    };
    let complete =
        if catalog.complete { "" } else { ", not compared with other servers yet: it refuses edits" };
    format!("catalog: {file}, {edits}{pushes}{complete}")
}

/// As whom the daemon runs, and what it may do.
fn runs_as(privileges: &PrivilegeStatus) -> String {
    let PrivilegeStatus { user, capabilities, kept_everything, .. } = privileges;
    match kept_everything {
        Some(why) if !capabilities.is_empty() => format!("runs as {user} with all its privileges: {why}"),
        _ if capabilities.is_empty() => format!("runs as {user} without privileges"),
        _ => format!("runs as {user} with {}", capabilities.join(", ")),
    }
}

pub fn head(names: &[&str]) -> Vec<Cell> {
    names.iter().map(|name| Cell((*name).to_owned(), Some(BOLD))).collect()
}

pub fn member_row(member: &MemberStatus, older: Duration) -> Vec<Cell> {
    let (state, paint) = match member.state {
        MemberState::Unknown => ("unknown", YELLOW),
        MemberState::Up => ("up", GREEN),
        MemberState::Suspect => ("suspect", YELLOW),
        MemberState::Down => ("down", RED),
        MemberState::Left => ("left", DIM),
    };
    let mut notes = Vec::new();
    if member.is_self {
        notes.push("this node".to_owned());
    }
    if member.arbiter {
        notes.push("arbiter".to_owned());
    }
    if member.drained {
        notes.push("drained: no items until flip undrain".to_owned());
    }
    if !member.inactive.is_empty() {
        notes.push(format!("inactive: {}", member.inactive.join(", ")));
    }
    if let Some(immature) = member.immature_ms {
        notes.push(format!("was down lately: no items for {}", left(immature, older)));
    }
    if member.config_differs {
        notes.push("OTHER CONFIG: its ballots do not count".to_owned());
    }
    if let Some(case) = member.case.as_ref().filter(|_| member.state == MemberState::Suspect) {
        let voters =
            if case.down_ballots.is_empty() { "none".to_owned() } else { case.down_ballots.join(", ") };
        notes.push(format!(
            "case {} old: {} of {} ballots down ({voters})",
            age(case.since_ms, older),
            case.down_ballots.len(),
            case.quorum
        ));
    }
    let loss = format!("{:.0} %", member.loss * 100.0);
    vec![
        Cell::plain(&member.id),
        Cell(state.to_owned(), Some(paint)),
        Cell::plain(age(member.since_ms, older)),
        Cell::plain(&member.address),
        Cell::plain(member.priority.map_or_else(|| "-".to_owned(), |priority| priority.to_string())),
        Cell::plain(if member.generation == 0 { "-".to_owned() } else { member.generation.to_string() }),
        Cell(if member.is_self { "-".to_owned() } else { loss }, (member.loss > 0.05).then_some(YELLOW)),
        Cell::plain(notes.join(", ")),
    ]
}

/// A row for each server that says something of the item; one that says nobody does, if so.
pub fn item_rows(item: &ItemStatus, me: &str, older: Duration) -> Vec<Vec<Cell>> {
    let start = || vec![Cell::plain(&item.system), Cell::plain(&item.item), Cell::plain(&item.isolated)];
    let wanted = |server: &String| item.wanted.contains(server);
    let mut rows: Vec<_> = item
        .holders
        .iter()
        .map(|holder| {
            let (state, paint) = match holder.state {
                ItemState::Standby => ("standby", DIM),
                ItemState::Acquiring => ("acquiring", YELLOW),
                ItemState::Active => ("active", GREEN),
                ItemState::Releasing => ("releasing", YELLOW),
                ItemState::Failing => ("failing", RED),
                ItemState::Unclean => ("unclean", RED),
            };
            let mut row = start();
            row.push(Cell::plain(&holder.server));
            row.push(Cell(state.to_owned(), Some(paint)));
            row.push(Cell::plain(age(holder.since_ms, older)));
            let mut notes = Vec::new();
            let kept_away = holder.state == ItemState::Failing && item.unhealthy_on.contains(&holder.server);
            if !wanted(&holder.server) && !kept_away {
                notes.push("not its place".to_owned());
            }
            if item.unhealthy_on.contains(&holder.server) {
                notes.push(if holder.server == me { unhealthy(item) } else { "unhealthy".to_owned() });
            }
            if let Some(announced) = item.announced.as_ref().filter(|_| holder.server == me) {
                notes.push(self::announced(announced));
            }
            if let Some(lease) = item.lease_ms.filter(|_| holder.server == me) {
                notes.push(format!("lease for {}", left(lease, older)));
            }
            row.push(Cell::plain(notes.join(", ")));
            row
        })
        .collect();
    let active = item.holders.iter().filter(|holder| holder.state == ItemState::Active).count();
    if item.holders.is_empty() || (active == 0 && item.wanted.is_empty()) {
        let mut row = start();
        row.push(Cell("-".to_owned(), Some(RED)));
        row.push(Cell("nowhere".to_owned(), Some(RED)));
        row.push(Cell::plain("-"));
        row.push(Cell::plain(match item.wanted.as_slice() {
            [] if item.checks.iter().any(|check| check.health == CheckHealth::Unproven) => {
                "its health checks have not ended yet".to_owned()
            }
            [] if !item.unhealthy_on.is_empty() => "no live server is fit for it".to_owned(),
            [] => "no live server may hold it".to_owned(),
            wanted => format!("wanted on {}", wanted.join(", ")),
        }));
        rows.push(row);
    }
    if let Some(unusable) = &item.unusable
        && let Some(wait) = unusable.returns_in_ms
    {
        let mut row = start();
        row.push(Cell::plain(me));
        row.push(Cell("returning".to_owned(), Some(YELLOW)));
        row.push(Cell::plain(age(unusable.since_ms, older)));
        row.push(Cell::plain(format!("may be here again in {} ({})", left(wait, older), unusable.why)));
        rows.push(row);
    }
    if let Some(failure) = &item.failure {
        let mut row = start();
        row.push(Cell::plain(me));
        row.push(Cell("failed".to_owned(), Some(RED)));
        row.push(Cell::plain("-"));
        let times = match failure.failures {
            0 => String::new(),
            1 => "once: ".to_owned(),
            times => format!("{times} times: "),
        };
        let again = failure.retry_ms.map_or_else(String::new, |retry| {
            format!("; again in {}, or now by flip retry {}", left(retry, older), item.item)
        });
        row.push(Cell(format!("{times}{}{again}", failure.error), Some(RED)));
        rows.push(row);
    }
    if let Some(server) = &item.unclean_on {
        let mut row = start();
        row.push(Cell(server.clone(), Some(RED)));
        row.push(Cell("unclean".to_owned(), Some(RED)));
        row.push(Cell::plain("-"));
        row.push(Cell(
            format!(
                "may still be there: make sure that it is released, then run flip confirm-released {}",
                item.item
            ),
            Some(RED),
        ));
        // Its own word says less.
        rows.retain(|row| row[3].0 != *server);
        rows.push(row);
    }
    rows
}

/// How an item of the answering node is known outside.
fn announced(status: &AnnouncedStatus) -> String {
    match status {
        AnnouncedStatus { confirmed_by: Some(by), .. } => format!("announced, confirmed by {by}"),
        AnnouncedStatus { other: Some(mac), seen_by: Some(by), .. } => {
            format!("announced, but {by} sees {mac} answer")
        }
        _ => "announced".to_owned(),
    }
}

/// What is wrong with an item on the answering node.
fn unhealthy(item: &ItemStatus) -> String {
    let failing = item.checks.iter().filter(|check| check.health == CheckHealth::Unhealthy);
    let texts: Vec<_> = failing
        .map(|check| match &check.error {
            Some(error) => format!("{}: {error}", check.check),
            None => check.check.clone(),
        })
        .collect();
    let lacks = item.unusable.as_ref().filter(|unusable| unusable.returns_in_ms.is_none());
    let texts: Vec<_> = lacks.map(|unusable| unusable.why.clone()).into_iter().chain(texts).collect();
    format!("unhealthy: {}", texts.join("; "))
}

/// Columns as wide as their widest cell.
pub fn table(out: &mut String, rows: &[Vec<Cell>], colour: bool) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.0.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let last = row.iter().rposition(|cell| !cell.0.is_empty()).unwrap_or(0);
        for (at, cell) in row.iter().enumerate().take(last + 1) {
            out.push_str(&painted(&cell.0, cell.1, colour));
            if at < last {
                let pad = widths[at] - cell.0.chars().count() + 2;
                out.push_str(&" ".repeat(pad));
            }
        }
        out.push('\n');
    }
}

/// Text in a colour, on a terminal.
pub fn painted(text: &str, paint: Option<&str>, colour: bool) -> String {
    match paint {
        Some(paint) if colour => format!("\x1b[{paint}m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// What is left of a time, in its two largest units.
fn left(ms: u64, older: Duration) -> String {
    age(ms.saturating_sub(u64::try_from(older.as_millis()).unwrap_or(u64::MAX)), Duration::ZERO)
}

/// An age in its two largest units.
pub fn age(since_ms: u64, older: Duration) -> String {
    let ms = since_ms.saturating_add(u64::try_from(older.as_millis()).unwrap_or(u64::MAX));
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use flip_core::status::{CaseStatus, CheckStatus, FailureStatus, HolderStatus};

    use super::*;

    fn member(id: &str, state: MemberState) -> MemberStatus {
        MemberStatus {
            id: id.to_owned(),
            address: "192.0.2.1:2200".to_owned(),
            state,
            is_self: id == "a",
            arbiter: id == "c",
            priority: (id == "a").then_some(1),
            generation: if state == MemberState::Unknown { 0 } else { 1_700_000_000 },
            since_ms: 61_500,
            loss: if state == MemberState::Suspect { 0.25 } else { 0.0 },
            rtt_us: None,
            case: (state == MemberState::Suspect).then(|| CaseStatus {
                cause: "ProbeFailed".to_owned(),
                since_ms: 250,
                down_ballots: vec!["a".to_owned()],
                quorum: 2,
            }),
            retired: false,
            config_differs: false,
            inactive: Vec::new(),
            facts: Default::default(),
            drained: id == "bee",
            immature_ms: (id == "bee").then_some(7_200),
        }
    }

    #[test]
    fn a_degraded_cluster_is_shown_in_plain_text() {
        let status = Status {
            node: "a".to_owned(),
            generation: 1_700_000_000,
            view: "00c0ffee00c0ffee".to_owned(),
            quorum: 2,
            live: 2,
            has_quorum: true,
            members: vec![
                member("a", MemberState::Up),
                member("bee", MemberState::Suspect),
                member("c", MemberState::Unknown),
            ],
            items: vec![
                ItemStatus {
                    addresses: Vec::new(),
                    prefer: None,
                    retired: false,
                    isolated: "drop".into(),
                    lease_ms: Some(3_400),
                    unclean_on: None,
                    checks: vec![CheckStatus {
                        check: "tcp 127.0.0.1:80".to_owned(),
                        health: CheckHealth::Unhealthy,
                        since_ms: 4,
                        failures: 3,
                        error: Some("cannot connect to 127.0.0.1:80: Connection refused".to_owned()),
                        error_ms: Some(4),
                    }],
                    unhealthy_on: vec!["a".to_owned(), "c".to_owned()],
                    link: None,
                    unusable: None,
                    failure: None,
                    announced: Some(AnnouncedStatus {
                        confirmed_by: Some("bee".to_owned()),
                        since_ms: Some(80),
                        ..AnnouncedStatus::default()
                    }),
                    system: "ip".to_owned(),
                    item: "192.0.2.7".to_owned(),
                    wanted: vec!["a".to_owned()],
                    holders: vec![
                        HolderStatus {
                            server: "a".to_owned(),
                            state: ItemState::Active,
                            since_ms: 90_061_000,
                        },
                        HolderStatus { server: "bee".to_owned(), state: ItemState::Releasing, since_ms: 5 },
                        HolderStatus { server: "c".to_owned(), state: ItemState::Failing, since_ms: 7 },
                    ],
                },
                ItemStatus {
                    addresses: Vec::new(),
                    prefer: None,
                    retired: false,
                    isolated: "keep".into(),
                    lease_ms: None,
                    unclean_on: None,
                    checks: Vec::new(),
                    unhealthy_on: Vec::new(),
                    link: None,
                    unusable: None,
                    failure: Some(FailureStatus {
                        error: "no such device".to_owned(),
                        failures: 2,
                        retry_ms: Some(9_500),
                    }),
                    announced: None,
                    system: "ip".to_owned(),
                    item: "fd00::8".to_owned(),
                    wanted: vec!["bee".to_owned()],
                    holders: Vec::new(),
                },
                ItemStatus {
                    addresses: Vec::new(),
                    prefer: None,
                    retired: false,
                    isolated: "drop".into(),
                    lease_ms: None,
                    unclean_on: Some("bee".to_owned()),
                    checks: Vec::new(),
                    unhealthy_on: Vec::new(),
                    link: None,
                    unusable: None,
                    failure: None,
                    announced: None,
                    system: "nfs".to_owned(),
                    item: "export".to_owned(),
                    wanted: vec!["a".to_owned()],
                    holders: vec![HolderStatus {
                        server: "bee".to_owned(),
                        state: ItemState::Unclean,
                        since_ms: 5,
                    }],
                },
            ],
            refused: Default::default(),
            hints: vec!["datagrams from 192.0.2.9 do not open".to_owned()],
            keys: Vec::new(),
            sent_datagrams: 0,
            catalog: Some(CatalogStatus {
                version: 3,
                hash: Some("00c0ffee00c0ffee".to_owned()),
                edits: 1,
                pushes: 2,
                complete: true,
                ..CatalogStatus::default()
            }),
            privileges: None,
            sent_bytes: 0,
        };
        let expected = "\
degraded: 2 of 3 members live, quorum 2, view 00c0ffee00c0ffee, seen by a

MEMBER  STATE    SINCE      ADDRESS         PRIORITY  GENERATION  LOSS  NOTES
a       up       1 min 1 s  192.0.2.1:2200  1         1700000000  -     this node
bee     suspect  1 min 1 s  192.0.2.1:2200  -         1700000000  25 %  drained: no items until flip undrain, was down lately: no items for 7 s, case 250 ms old: 1 of 2 ballots down (a)
c       unknown  1 min 1 s  192.0.2.1:2200  -         -           0 %   arbiter

SYSTEM  ITEM       ISOLATED  HOLDER  STATE      SINCE    NOTES
ip      192.0.2.7  drop      a       active     1 d 1 h  unhealthy: tcp 127.0.0.1:80: cannot connect to 127.0.0.1:80: Connection refused, announced, confirmed by bee, lease for 3 s
ip      192.0.2.7  drop      bee     releasing  5 ms     not its place
ip      192.0.2.7  drop      c       failing    7 ms     unhealthy
ip      fd00::8    keep      -       nowhere    -        wanted on bee
ip      fd00::8    keep      a       failed     -        2 times: no such device; again in 9 s, or now by flip retry fd00::8
nfs     export     drop      bee     unclean    -        may still be there: make sure that it is released, then run flip confirm-released export

hint: datagrams from 192.0.2.9 do not open

catalog: config file of version 3 (00c0ffee00c0ffee), 1 edit, 2 on their way to other disks
";
        assert_eq!(render(&status, Duration::ZERO, false), expected);
        let other = AnnouncedStatus {
            other: Some("02:00:00:00:00:07".to_owned()),
            seen_by: Some("bee".to_owned()),
            ..AnnouncedStatus::default()
        };
        assert_eq!(announced(&other), "announced, but bee sees 02:00:00:00:00:07 answer");
        assert_eq!(announced(&AnnouncedStatus::default()), "announced");
        let coloured = render(&status, Duration::ZERO, true);
        assert!(coloured.contains("\x1b[33msuspect\x1b[0m"), "{coloured}");
    }
}
