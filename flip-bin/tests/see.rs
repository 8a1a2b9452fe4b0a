//! Looking into a cluster of five real daemons on loopback by the command line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use flip_core::event::ItemState;
use flip_core::plan::Plan;
use flip_core::record::Record;
use flip_core::status::{ItemStatus, MemberState, MemberStatus, Status};
use flip_core::why::{Because, What, Why};
use flip_tests::local::{Local, name};
use serde_json::{Map, Value};

const LIMIT: Duration = Duration::from_secs(60);
const ITEMS: [&str; 7] = ["i0", "i1", "i2", "i3", "i4", "i5", "i6"];

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Five daemons, all up and each item in its place.
fn five() -> Local {
    let mut local = Local::prepare(flip(), 5, 0, &ITEMS, Map::new()).unwrap();
    for n in 0..5 {
        local.start(n).unwrap();
    }
    for n in 0..5 {
        local.watch(n).unwrap().until(LIMIT, Status::healthy).unwrap();
    }
    local
}

fn ask(local: &Local, n: usize, words: &[&str]) -> Output {
    local.command_about(n, words).output().unwrap()
}

/// What a command prints that succeeds.
fn said(local: &Local, n: usize, words: &[&str]) -> String {
    let out = ask(local, n, words);
    assert_eq!(out.status.code(), Some(0), "{words:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

fn json<T: serde::de::DeserializeOwned>(local: &Local, n: usize, words: &[&str]) -> T {
    let line = said(local, n, &[words, &["--json"]].concat());
    assert_eq!(line.lines().count(), 1, "{line}");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{words:?}: {error}: {line}"))
}

/// Who holds each item.
fn holders(status: &Status) -> BTreeMap<String, Vec<String>> {
    let active = |item: &ItemStatus| {
        let holders = item.holders.iter().filter(|holder| holder.state == ItemState::Active);
        holders.map(|holder| holder.server.clone()).collect()
    };
    status.items.iter().map(|item| (item.item.clone(), active(item))).collect()
}

#[test]
fn the_plan_of_each_death_is_what_then_happens() {
    let mut local = five();
    for dead in 0..5 {
        let asked = (dead + 2) % 5;
        let watch = local.watch(asked).unwrap();
        let before = holders(&watch.until(LIMIT, Status::healthy).unwrap());
        let plan: Plan = json(&local, asked, &["plan", "--down", &name(dead)]);
        assert!(plan.unheld.is_empty() && plan.quorum.seen && !plan.moves.is_empty(), "{plan:?}");
        let mut expected = before.clone();
        for one in &plan.moves {
            assert_eq!(one.from, [name(dead)], "only its items move");
            expected.insert(one.item.item.clone(), one.to.clone());
        }
        assert_ne!(expected, before);
        local.kill(dead).unwrap();
        let down = |status: &Status| status.members[dead].state == MemberState::Down;
        let status = watch.until(LIMIT, |status| down(status) && holders(status) == expected);
        let status =
            status.unwrap_or_else(|error| panic!("{} died, the plan was {plan:?}: {error}", name(dead)));
        for load in &plan.loads {
            let held = holders(&status).values().filter(|servers| servers.contains(&load.server)).count();
            assert_eq!(held, load.after, "{}", load.server);
        }
        let moved = &plan.moves[0];
        let why: Why = json(&local, asked, &["why", &moved.item.item]);
        assert_eq!((why.because, &why.wanted), (Because::Fewest, &moved.to));
        let died = why.moves.iter().any(|m| m.what == What::Died && m.server == name(dead));
        let came = why.moves.iter().any(|m| {
            m.what == What::Came && m.server == moved.to[0] && m.trigger.as_deref() == Some("failover")
        });
        assert!(died && came, "{:?}", why.moves);
        local.start(dead).unwrap();
        watch.until(LIMIT, |status| status.healthy() && holders(status) == before).unwrap();
    }
}

#[test]
fn lists_reasons_plans_events_and_metrics_for_people_and_programs() {
    let mut local = five();
    let members: Vec<MemberStatus> = json(&local, 0, &["members"]);
    assert!(members.len() == 5 && members.iter().all(|member| member.state == MemberState::Up));
    let items: Vec<ItemStatus> = json(&local, 0, &["items"]);
    assert_eq!(items.iter().map(|item| item.item.as_str()).collect::<Vec<_>>(), ITEMS);
    assert!(said(&local, 0, &["members"]).starts_with("MEMBER  STATE"));
    assert_eq!(said(&local, 0, &["items"]).lines().count(), 1 + ITEMS.len());
    let vippy = said(&local, 0, &["status", "--vippy"]);
    assert!(vippy.starts_with("State:  active\n(*) a: i0\n    b: i1\n"), "{vippy}");

    // Reasons.
    let why = said(&local, 1, &["why", "items/i0"]);
    for line in [
        "i0 of items, as b sees it",
        "  a holds it, for ",
        "  a: it is number 1 of its system, and items are dealt in this order over a, b, c, d, e",
        "  on a: that is its home",
        "  nothing: it is where it belongs",
    ] {
        assert!(why.contains(line), "{line}\n{why}");
    }
    let out = ask(&local, 0, &["why", "nope"]);
    assert_eq!((out.status.code(), text(&out.stderr).lines().count()), (Some(1), 1), "{}", text(&out.stderr));

    // Plans: several questions at once, and one that leaves something unheld.
    let table = said(&local, 0, &["plan", "--down", "b", "--drain", "c", "--add", "items/new"]);
    assert!(
        table.starts_with("SYSTEM  ITEM  FROM  TO\n") && table.contains("items   new   -     "),
        "{table}"
    );
    let out = ask(&local, 0, &["plan", "--down", "a", "--down", "b", "--down", "c"]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stdout));
    let told = text(&out.stdout);
    assert!(
        told.contains("nobody would hold: items/i0") && told.contains("fewer than the quorum of 3"),
        "{told}"
    );
    assert_eq!(ask(&local, 0, &["plan", "--down", "z"]).status.code(), Some(1));
    assert_eq!(ask(&local, 0, &["plan", "--add", "nonsense"]).status.code(), Some(2), "no SYSTEM/ITEM");

    // Events: those that were, and with --follow those that come.
    let lines = said(&local, 0, &["events", "--json"]);
    let records: Vec<Record> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((records[0].seq, records[0].kind.as_ref()), (1, "started"));
    assert!(records.windows(2).all(|two| two[1].seq == two[0].seq + 1), "without a gap");
    let last = records.last().unwrap().seq;
    let from = (last + 1).to_string();
    let mut follow = local.command_about(0, &["events", "--follow", "--json", "--from", &from]);
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (sender, inbox) = channel();
    let out = BufReader::new(follow.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let evicted = said(&local, 0, &["evict", "e"]);
    assert!(evicted.contains("e is drained") && evicted.contains("e is up: its items move"), "{evicted}");
    let end = Instant::now() + LIMIT;
    let mut seq = last;
    loop {
        let line =
            inbox.recv_timeout(end.saturating_duration_since(Instant::now())).expect("the event comes");
        let record: Record = serde_json::from_str(&line).unwrap();
        assert_eq!(record.seq, seq + 1);
        seq = record.seq;
        if record.kind == "drained" && record.server.as_deref() == Some("e") && record.on == Some(true) {
            break;
        }
    }
    follow.kill().unwrap();
    follow.wait().unwrap();
    let newest = said(&local, 0, &["events", "--from", &seq.to_string()]);
    assert!(newest.contains("INFO  drained: gets no items until flip undrain server=e on=true"), "{newest}");
    let why: Value = json(&local, 0, &["why", "i4"]);
    assert_eq!(why["servers"][4]["against"][0]["kind"], "drained", "{why}");

    // The number of an earlier life is larger than any of this one's.
    let other = said(&local, 0, &["events", "--from", "99999999"]);
    assert!(other.starts_with("(the daemon was restarted since that number"), "{other}");
    assert_eq!(ask(&local, 0, &["evict", "z"]).status.code(), Some(1));

    let metrics = said(&local, 0, &["metrics"]);
    assert!(
        metrics.contains("\nflip_members{state=\"up\"} 5\n") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );

    // Without a quorum nobody is declared down, and that is what it says.
    for n in [1, 2, 3] {
        local.kill(n).unwrap();
    }
    let lost = local.watch(0).unwrap().until(LIMIT, |status| !status.has_quorum).unwrap();
    let gone = lost.members.iter().find(|member| member.state == MemberState::Suspect).unwrap();
    let out = ask(&local, 0, &["evict", &gone.id]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stdout));
    assert!(text(&out.stderr).contains("nobody can know that it is down"), "{}", text(&out.stderr));
    let out = ask(&local, 1, &["members"]);
    assert_eq!((out.status.code(), text(&out.stderr).lines().count()), (Some(2), 1), "a killed daemon");
}

/// promtool reads the rules, where it is installed.
#[test]
fn promtool_reads_the_alert_rules_and_the_metrics() {
    let rules: std::path::PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "examples", "monitoring", "flip-alerts.yml"].iter().collect();
    let Ok(out) = Command::new("promtool").args(["check", "rules"]).arg(&rules).output() else {
        assert!(std::env::var_os("FLIP_NEED_PROMTOOL").is_none(), "promtool is not installed");
        return;
    };
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains("SUCCESS: 15 rules found"), "{}", text(&out.stdout));
}
