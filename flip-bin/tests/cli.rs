//! The command line, on the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use flip_core::event::ItemState;
use flip_core::status::{MemberState, Status};
use flip_tests::local::Local;
use rustix::process::Signal;
use serde_json::{Map, json};

const LIMIT: Duration = Duration::from_secs(20);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

fn run(args: &[&str]) -> Output {
    Command::new(flip()).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn example(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "examples", name, "cluster.json"].iter().collect();
    path.to_str().unwrap().to_owned()
}

/// Runs `flip check` on a config, as server `a`.
fn check(config: &str, more: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cluster.json");
    std::fs::write(&file, config).unwrap();
    let out = run(&[&["check", "--id", "a", "--config", file.to_str().unwrap()], more].concat());
    (out.status.code(), text(&out.stderr))
}

/// A cluster of `a`, `b` and the arbiter `c`, all up, and each item in its place.
fn cluster() -> Local {
    let mut local = Local::prepare(flip(), 3, 1, &["one", "two"], Map::new()).unwrap();
    for n in 0..3 {
        local.start(n).unwrap();
    }
    for n in 0..3 {
        local.watch(n).unwrap().until(LIMIT, Status::healthy).unwrap();
    }
    local
}

fn holder(status: &Status, item: &str) -> Option<String> {
    let item = status.items.iter().find(|found| found.item == item)?;
    match &item.holders[..] {
        [one] if one.state == ItemState::Active => Some(one.server.clone()),
        _ => None,
    }
}

#[test]
fn the_original_config_is_valid_and_names_the_missing_interface() {
    let file = example("original");
    let out = run(&["check", "--config", &file]);
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{told}");
    assert!(told.contains(":20:32 (key cluster.system.ip.config.interface)"), "{told}");
    assert!(told.contains("interface \"lo0\" is not on this host"), "{told}");
    assert!(told.contains("this host has: lo"), "{told}");
    assert!(!told.contains("\"secret\""), "the key is not shown: {told}");
    assert_eq!(run(&["check", "--strict", "--config", &file]).status.code(), Some(1));
    assert_eq!(run(&["check", "--config", &file, "--id", "flip9"]).status.code(), Some(2));
}

#[test]
fn the_other_examples_are_valid_too() {
    for (name, id) in [("three-servers", "a"), ("never-two", "db1"), ("two-servers", "a"), ("vip", "web1")] {
        let out = run(&["check", "--config", &example(name), "--id", id]);
        assert_eq!(out.status.code(), Some(0), "{name}: {}", text(&out.stderr));
    }
}

#[test]
fn interfaces_of_items_are_looked_for_on_this_host() {
    let config = |item: &str| {
        let servers = r#""id": "a", "servers": {"a": {"ip": "127.0.0.1", "systems": ["ip"]}}"#;
        let data = format!(r#"["127.3.0.1", "{item}"]"#);
        format!(
            r#"{{{servers}, "cluster": {{"system": {{"ip": {{"config": {{"interface": "auto"}}, "data": {data}}}}}}}}}"#
        )
    };
    let (code, told) = check(&config("fd77:1:2:3::9"), &[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains(
            "the interface of fd77:1:2:3::9 is `auto`, and none of this host has a network with it now"
        ),
        "{told}"
    );
    assert!(told.contains("key cluster.system.ip.data.1"), "{told}");
    // The loopback has 127.0.0.0/8.
    let (_, told) = check(&config("127.4.0.1"), &[]);
    assert!(!told.contains("`auto`"), "{told}");
    let (_, told) = check(&config("fd77:1:2:3::9@wan9"), &[]);
    assert!(told.contains("interface \"wan9\" is not on this host"), "{told}");
}

#[test]
fn never_two_holders_takes_more_than_half_of_the_votes() {
    let file = std::fs::read_to_string(example("two-servers")).unwrap();
    let (code, told) =
        check(&file.replace("\"192.0.2.10/24\"", r#"{"ip": "192.0.2.10", "isolated": "drop"}"#), &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("cluster.json:7:15 (key quorum)"), "{told}");
    assert!(told.contains("cluster.system.ip.data[0].isolated on line 22 is \"drop\""), "{told}");
    assert!(told.contains("add an arbiter"), "{told}");
}

#[test]
fn an_error_tells_where_what_and_what_else() {
    let (code, told) = check("{\n\t\"servers\": {\"a\": {\"ip\": \"10.0.0.1\", \"prioritty\": 1}},\n}", &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("cluster.json:2:38 (key servers.a.prioritty)"), "{told}");
    assert!(told.contains("`priority`"), "{told}");
    let (code, told) = check("{\"servers\": {\"a\": {\"ip\": \"10.0.0.1\"},,}}", &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("cluster.json:1:"), "{told}");
    let out = run(&["check", "--config", "/nowhere/cluster.json"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("/nowhere/cluster.json"), "{}", text(&out.stderr));
}

#[test]
fn warnings_matter_and_change_the_code_only_when_strict() {
    let two = r#"{ // two servers
        "key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "servers": {"a": {"ip": "10.0.0.1"}, "b": {"ip": "10.0.0.2"}},
    }"#;
    let (code, told) = check(two, &[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("cannot fail over") && told.contains("arbiter"), "{told}");
    assert_eq!(check(two, &["--strict"]).0, Some(1));
}

#[test]
fn keys_are_random_and_accepted_from_a_file() {
    use std::os::unix::fs::PermissionsExt;
    let (one, two) = (text(&run(&["keygen"]).stdout), text(&run(&["keygen"]).stdout));
    assert_eq!(one.trim().len(), 64);
    assert_ne!(one, two);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new");
    let write = || run(&["keygen", "--out", file.to_str().unwrap()]);
    let out = write();
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(0), ""), "{}", text(&out.stderr));
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.len() == 65 && written.trim_end().bytes().all(|b| b.is_ascii_hexdigit()), "{written:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let out = write();
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("is there already"), "{}", text(&out.stderr));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written, "it is kept");
    let (config, key) = (dir.path().join("c.json"), dir.path().join("key"));
    let servers = r#"{"a": {"ip": "10.0.0.1"}, "b": {"ip": "10.0.0.2"}, "c": {"ip": "10.0.0.3"}}"#;
    std::fs::write(&config, format!(r#"{{"key_file": "key", "servers": {servers}}}"#)).unwrap();
    let check = || {
        let out = run(&["check", "--strict", "--id", "a", "--config", config.to_str().unwrap()]);
        (out.status.code(), text(&out.stderr))
    };
    let (code, told) = check();
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("flip keygen"), "{told}");
    std::fs::write(&key, &one).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(check().0, Some(0), "{}", check().1);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let (code, told) = check();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("can be read by others"), "{told}");
}

#[test]
fn status_shows_the_cluster_and_its_exit_code_its_health() {
    let mut local = cluster();
    let out = local.status_command(2).output().unwrap();
    let table = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{table}");
    assert!(table.starts_with("healthy: 3 of 3 members live, quorum 2, view "), "{table}");
    assert!(!table.contains('\x1b'), "no colours in a pipe: {table}");
    let json = local.status_command(0).arg("--json").output().unwrap();
    let status: Status = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(holder(&status, "one").as_deref(), Some("a"));
    assert_eq!(holder(&status, "two").as_deref(), Some("b"));
    assert!(status.members[2].arbiter);

    // Without --id nobody knows which of the three is meant.
    let mut which = local.command();
    let out = which.args(["status", "--state-dir"]).arg(local.state_dir()).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("a, b, c"), "{}", text(&out.stderr));

    let watch = local.watch(2).unwrap();
    local.kill(0).unwrap();
    watch.until(LIMIT, |s| s.members[0].state == MemberState::Down && holder(s, "one").is_some()).unwrap();
    let out = local.status_command(2).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stdout));
    assert!(text(&out.stdout).starts_with("degraded: 2 of 3 members live"), "{}", text(&out.stdout));
    let out = local.status_command(0).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "a killed daemon does not answer");
    assert!(text(&out.stderr).contains("no daemon at"), "{}", text(&out.stderr));

    local.kill(2).unwrap();
    assert_eq!(watch.end().unwrap().code(), Some(2), "a watch ends with its daemon");
}

#[test]
fn sigterm_says_goodbye_and_a_return_begins_a_new_generation() {
    let mut local = cluster();
    let watch = local.watch(1).unwrap();
    // A terminal that closes ends nothing.
    local.signal(0, Signal::HUP).unwrap();
    let before = watch.until(LIMIT, |_| true).unwrap().members[0].generation;
    local.signal(0, Signal::TERM).unwrap();
    let status = watch.until(LIMIT, |s| holder(s, "one").as_deref() == Some("b")).unwrap();
    assert_eq!(status.members[0].state, MemberState::Left);
    assert_eq!(local.wait(0).unwrap().code(), Some(0), "{}", local.log(0));
    assert!(!local.state_dir().join("a/flip.sock").exists());
    local.start(0).unwrap();
    let status = watch.until(LIMIT, |s| s.healthy() && s.members[0].state == MemberState::Up).unwrap();
    assert!(status.members[0].generation > before);
    assert_eq!(holder(&status, "one").as_deref(), Some("a"));
}

#[test]
fn a_second_daemon_of_the_same_server_is_refused() {
    let mut local = Local::prepare(flip(), 3, 1, &["one"], Map::new()).unwrap();
    local.start(0).unwrap();
    drop(local.watch(0).unwrap());
    let mut second = local.command();
    second.arg("--config").arg(local.config()).args(["--id", "a", "--state-dir"]).arg(local.state_dir());
    let out = second.output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("another flip (process "), "{}", text(&out.stderr));
    assert_eq!(text(&out.stderr).lines().count(), 1, "{}", text(&out.stderr));
    assert_eq!(local.status_command(0).output().unwrap().status.code(), Some(1), "the first one still runs");
}

#[test]
fn a_bad_config_starts_nothing() {
    let mut extra = Map::new();
    extra.insert("quorum".into(), json!(99));
    let mut local = Local::prepare(flip(), 3, 1, &["one"], extra).unwrap();
    local.start(0).unwrap();
    assert_eq!(local.wait(0).unwrap().code(), Some(2));
    assert!(local.log(0).starts_with("error: ") && local.log(0).contains("(key quorum)"), "{}", local.log(0));
    assert!(!local.state_dir().join("a").exists());
}

#[test]
fn the_log_is_quiet_when_nothing_happens_and_json_on_request() {
    let local = cluster();
    for n in 0..3 {
        let log = local.log(n);
        assert!(log.lines().count() < 20, "{log}");
        assert!(log.contains("INFO started server="), "{log}");
        assert!(!log.contains('\x1b'), "{log}");
    }
    let alone = Local::prepare(flip(), 1, 0, &["one"], Map::new()).unwrap();
    let mut command = alone.command();
    command.arg("--config").arg(alone.config()).args(["--log", "json", "--state-dir"]).arg(alone.state_dir());
    let child = command.args(["--id", "a"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    alone.watch(0).unwrap().until(LIMIT, |s| holder(s, "one").is_some()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    let told = text(&out.stderr);
    let lines: Vec<serde_json::Value> = told
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.iter().any(|line| line["message"] == "started" && line["server"] == "a"), "{told}");
    assert!(lines.iter().any(|line| line["key"] == "servers" && line["level"] == "WARN"), "{told}");
    assert!(lines.iter().any(|line| line["item"] == "one" && line["to"] == "active"), "{told}");
}

#[test]
fn manual_and_completions_are_there() {
    let man = text(&run(&["man"]).stdout);
    for word in [".TH flip 8", "SH COMMANDS", "\\-\\-strict", "SH CONFIG", "EXIT STATUS"] {
        assert!(man.contains(word), "{word}");
    }
    assert!(text(&run(&["completions", "bash"]).stdout).contains("_flip()"));
    assert_eq!(run(&[]).status.code(), Some(2));
}

#[test]
fn a_config_can_be_simulated() {
    let file = example("three-servers");
    let args =
        ["simulate", "--config", &file, "--id", "a", "--seeds", "2", "--faults", "power-off,leave", "--json"];
    let out = run(&args);
    assert_eq!(out.status.code(), Some(0), "{}{}", text(&out.stdout), text(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["fault"] == "power-off"), "{report}");
    assert!(rows.iter().any(|row| row["fault"] == "leave"), "{report}");
    let gap = |row: &serde_json::Value| row["without_holder_ms"]["worst"].as_u64().unwrap();
    let worst = rows.iter().filter(|row| row["fault"] == "power-off").map(gap).max().unwrap();
    assert!(worst > 0 && worst < 10_000, "a host that died was noticed and replaced: {report}");
    assert_eq!(run(&args).stdout, out.stdout, "the same runs each time");
    let table = run(&args[..args.len() - 1]);
    assert!(text(&table.stdout).contains("no holder, s"), "{}", text(&table.stdout));
    let wrong = run(&["simulate", "--config", &file, "--faults", "earthquake"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("power-off"), "the kinds are named: {}", text(&wrong.stderr));
}
