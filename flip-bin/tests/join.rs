//! Servers that join a running cluster with an id, the key, an address to listen at and one of a member, on real
//! daemons of loopback.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use flip_core::status::Status;
use flip_tests::local::{Local, free_port, name};
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(120);
const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn three() -> Local {
    let mut local =
        Local::prepare(Path::new(env!("CARGO_BIN_EXE_flip")), 3, 0, &["x", "y"], Map::new()).unwrap();
    (0..3).for_each(|n| local.start(n).unwrap());
    everywhere(&local, 3, |status| status.healthy() && status.catalog.as_ref().is_some_and(|c| c.complete));
    local
}

/// Waits until the first servers see that.
fn everywhere(local: &Local, count: usize, wanted: impl Fn(&Status) -> bool) {
    for n in 0..count {
        if let Err(error) = local.watch(n).unwrap().until(LIMIT, &wanted) {
            panic!("{}: {error}\n{}", name(n), local.log(n));
        }
    }
}

/// Where a member listens.
fn member(local: &Local, n: usize) -> String {
    let config: Value = serde_json::from_slice(&std::fs::read(local.config()).unwrap()).unwrap();
    format!("127.0.0.1:{}", config["servers"][name(n)]["port"])
}

/// The file of a server that joins.
fn file(local: &Local, id: &str, extra: Value) -> PathBuf {
    let mut file = json!({
        "id": id, "key": KEY, "bind": "127.0.0.1", "port": free_port(), "systems": ["items"],
    });
    for (key, value) in extra.as_object().unwrap() {
        file[key] = value.clone();
    }
    let path = local.state_dir().join(format!("{id}.json"));
    std::fs::write(&path, file.to_string()).unwrap();
    path
}

/// A daemon that is not to come up.
fn refused(local: &Local, file: &Path, words: &[&str]) -> String {
    let mut command: Command = local.command();
    // On a host of its own, as it were.
    command.arg("--config").arg(file).arg("--state-dir").arg(local.state_dir().join("other")).args(words);
    let Output { status, stderr, .. } = command.stdout(Stdio::null()).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

fn ask(local: &Local, n: usize, words: &[&str]) -> String {
    let out = local.command_about(n, words).output().unwrap();
    let said = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    assert!(out.status.success(), "{words:?}: {said}");
    said
}

/// Whether so many servers are up, and each item is in its place.
fn whole(status: &Status, servers: usize) -> bool {
    status.healthy() && status.members.len() == servers && status.quorum == servers / 2 + 1
}

#[test]
fn two_servers_join_at_once_and_are_like_the_others_from_then_on() {
    let mut local = three();
    let (d, e) = (file(&local, "d", json!({})), file(&local, "e", json!({ "log_level": "debug" })));
    let mut check = local.command();
    let check = check.arg("check").arg("--config").arg(&d).output().unwrap();
    assert!(
        check.status.success() && String::from_utf8_lossy(&check.stdout).contains("fine as d"),
        "{check:?}"
    );

    // By different members; one of the addresses that `e` knows is nobody's.
    let (by_a, by_b) = (member(&local, 0), member(&local, 1));
    local.start_with(3, &d, &["--join", &by_a, "--join-timeout", "120"]).unwrap();
    let nobody = format!("127.0.0.1:{}", free_port());
    local.start_with(4, &e, &["--join", &nobody, "--join", &by_b, "--join-timeout", "120"]).unwrap();
    everywhere(&local, 3, |status| whole(status, 5));
    everywhere(&local, 5, |status| whole(status, 5));
    assert!(local.log(4).contains("it does not answer"), "{}", local.log(4));
    let events = [0, 1].map(|n| ask(&local, n, &["events"])).concat();
    assert!(events.contains("server d") && events.contains("server e"), "who joined is told: {events}");

    // They get their share, and edits may be made there.
    for item in ["z", "v", "w"] {
        let said = ask(&local, 4, &["item", "add", "items", item]);
        assert!(said.contains("5 voters, a majority"), "{said}");
    }
    everywhere(&local, 5, |status| {
        let mut holders: Vec<_> = status.items.iter().flat_map(|item| &item.holders).collect();
        holders.sort_by(|a, b| a.server.cmp(&b.server));
        whole(status, 5) && holders.len() == 5 && holders.windows(2).all(|two| two[0].server != two[1].server)
    });

    // Who is one of them starts as it is, whether told to join or not.
    local.kill(3).unwrap();
    everywhere(&local, 1, |status| !status.healthy());
    local.start_with(3, &d, &[]).unwrap();
    local.kill(4).unwrap();
    local.start_with(4, &e, &["--join", &nobody]).unwrap();
    everywhere(&local, 5, |status| whole(status, 5));

    // What concerns it alone is in its file.
    let text = std::fs::read_to_string(&e).unwrap();
    std::fs::write(&e, text.replace("debug", "loud")).unwrap();
    let out = local.command_about(4, &["reload"]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("loud"), "{out:?}");
    std::fs::write(&e, text.replace("debug", "info")).unwrap();
    let said = ask(&local, 4, &["reload"]);
    assert!(said.contains("says nothing to the cluster; a restart is needed for: log_level"), "{said}");
    everywhere(&local, 5, |status| whole(status, 5));
}

#[test]
fn who_cannot_join_is_told_why() {
    let local = three();
    let by_a = member(&local, 0);
    let d = file(&local, "d", json!({}));
    let said = refused(&local, &d, &[]);
    assert!(said.contains("server d is in no cluster yet") && said.contains("--join"), "{said}");
    let other = file(&local, "o", json!({ "key": KEY.replace('0', "1") }));
    let said = refused(&local, &other, &["--join", &by_a, "--join-timeout", "1"]);
    assert!(said.contains("`key` or `cluster_id` differs"), "{said}");
    let taken = file(&local, "b", json!({}));
    let said = refused(&local, &taken, &["--join", &by_a]);
    assert!(said.contains("has a server b at") && said.contains("choose another id"), "{said}");
    let said = refused(&local, &local.config(), &["--id", "a", "--join", &by_a]);
    assert!(said.contains("names the servers"), "{said}");
    let unknown = file(&local, "u", json!({ "systems": ["itemz"] }));
    let said = refused(&local, &unknown, &["--join", &by_a, "--join-timeout", "1"]);
    assert!(said.contains("did you mean \"items\"?"), "{said}");
    everywhere(&local, 3, |status| whole(status, 3));
}
