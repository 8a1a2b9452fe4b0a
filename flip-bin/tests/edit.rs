//! Changing what a cluster consists of while it runs, by the command line, on real daemons of loopback.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use flip_core::event::ItemState;
use flip_core::status::{ItemStatus, Status};
use flip_tests::local::{Local, free_port, name};
use flip_tests::until::until;
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// Three daemons, all up and each item in its place.
fn three() -> Local {
    let mut local = Local::prepare(flip(), 3, 0, &["x", "y"], Map::new()).unwrap();
    (0..3).for_each(|n| local.start(n).unwrap());
    everywhere(&local, |status| status.healthy() && status.catalog.as_ref().is_some_and(|c| c.complete));
    local
}

/// Waits until all three see that.
fn everywhere(local: &Local, wanted: impl Fn(&Status) -> bool) {
    for n in 0..3 {
        if let Err(error) = local.watch(n).unwrap().until(LIMIT, &wanted) {
            panic!("{}: {error}\n{}", name(n), local.log(n));
        }
    }
}

fn ask(local: &Local, n: usize, words: &[&str]) -> Output {
    local.command_about(n, words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a command says that a majority has on disk.
fn done(local: &Local, n: usize, words: &[&str]) -> String {
    let out = ask(local, n, words);
    assert_eq!(out.status.code(), Some(0), "{words:?}: {}{}", text(&out.stdout), text(&out.stderr));
    let said = text(&out.stdout);
    assert!(said.contains("voters, a majority"), "{words:?}: {said}");
    said
}

/// What a command says that is refused, in one line.
fn refused(local: &Local, n: usize, words: &[&str]) -> String {
    let out = ask(local, n, words);
    let why = text(&out.stderr);
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(1), ""), "{words:?}: {why}");
    assert_eq!(why.lines().count(), 1, "{why}");
    why.trim_end().strip_prefix("error: ").unwrap().to_owned()
}

fn item<'s>(status: &'s Status, name: &str) -> Option<&'s ItemStatus> {
    status.items.iter().find(|item| item.item == name && !item.retired)
}

/// Ids of the servers on which an item is active.
fn active(status: &Status, name: &str) -> Vec<String> {
    let holders = item(status, name).map(|item| &item.holders[..]).unwrap_or_default();
    holders.iter().filter(|holder| holder.state == ItemState::Active).map(|h| h.server.clone()).collect()
}

fn now(local: &Local, n: usize) -> Status {
    serde_json::from_slice(&local.status_command(n).arg("--json").output().unwrap().stdout).unwrap()
}

#[test]
fn items_come_change_move_and_go_by_command() {
    let local = three();
    let said = done(&local, 0, &["item", "add", "items", "z"]);
    assert!(said.starts_with("1 edit is made; on the disks of "), "{said}");
    everywhere(&local, |status| status.healthy() && active(status, "z").len() == 1);
    done(&local, 1, &["item", "add", "items", r#"{"name": "w", "isolated": "take"}"#]);
    everywhere(&local, |status| {
        status.healthy() && active(status, "w").len() == 1 && item(status, "w").unwrap().isolated == "take"
    });

    // Its name stays, and so does what is not named.
    done(&local, 2, &["item", "set", "items", "w", "prefer=b", "isolated=keep"]);
    everywhere(&local, |status| {
        let w = item(status, "w").unwrap();
        status.healthy() && (w.isolated.as_str(), w.prefer.as_deref()) == ("keep", Some("b"))
    });
    done(&local, 2, &["item", "set", "items", "w", "prefer=null"]);
    everywhere(&local, |status| {
        status.healthy() && item(status, "w").is_some_and(|w| w.prefer.is_none() && w.isolated == "keep")
    });

    // It is there when the command ends, whoever is asked.
    for (to, asked, named) in [("c", 0, "z"), ("a", 1, "items/z"), ("b", 1, "z")] {
        done(&local, asked, &["move", named, to]);
        assert_eq!(active(&now(&local, asked), "z"), [to]);
        everywhere(&local, |status| status.healthy() && active(status, "z") == [to]);
    }
    done(&local, 0, &["move", "z", "c", "--no-wait"]);
    everywhere(&local, |status| status.healthy() && active(status, "z") == ["c"]);
    // A server that may have nothing now is its home, and gets it later.
    assert_eq!(ask(&local, 0, &["drain", "a"]).status.code(), Some(0));
    let out = ask(&local, 1, &["move", "z", "a"]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    assert!(
        text(&out.stderr).contains("a is the home of z now, but may not have it yet"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(ask(&local, 0, &["undrain", "a"]).status.code(), Some(0));
    everywhere(&local, |status| status.healthy() && active(status, "z") == ["a"]);

    // What is wrong is refused by every server alike, and nothing happens.
    for (words, why) in [
        (&["item", "add", "items", "z"][..], "there is item items/z already; `flip item set` changes it"),
        (&["item", "add", "itmes", "q"], "there is no system itmes; did you mean system items?"),
        (&["item", "set", "items", "wz", "isolated=drop"], "there is no item items/wz"),
        (&["item", "set", "items", "x", "isolated=off"], "item items/x: found \"off\", expected"),
        (&["item", "set", "items", "x", "name=q"], "item items/x would become item items/q; remove the one"),
        (&["item", "remove", "q"], "there is no item q; `flip status` lists them"),
        (&["item", "remove", "items", "q"], "there is no item items/q; `flip status` lists"),
        (&["move", "z", "q"], "there is no server q"),
        (&["move", "q", "a"], "there is no item q"),
        (&["server", "add", "a", "127.0.0.1"], "there is server a already; `flip server set` changes it"),
        (&["system", "remove", "itmes"], "there is no system itmes; did you mean system items?"),
    ] {
        for n in [0, 2] {
            let said = refused(&local, n, words);
            assert!(said.contains(why), "{words:?}: {said}");
        }
    }
    let out = ask(&local, 0, &["item", "add", "items", "z", "--json"]);
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), &said["error"]["code"]), (Some(1), &json!("refused")));
    let out = ask(&local, 0, &["item", "add", "items", "{name"]);
    assert_eq!(out.status.code(), Some(2), "no JSON");
    let out = ask(&local, 0, &["item", "add", "items", "l", "--local", "--json"]);
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(said["done"].as_str().unwrap().contains("on this server's disk"), "{said}");
    everywhere(&local, |status| status.healthy() && active(status, "l").len() == 1);

    done(&local, 0, &["item", "remove", "z"]);
    done(&local, 2, &["item", "remove", "items", "x"]);
    // Of the file as well; nobody holds them any more.
    everywhere(&local, |status| {
        let names: Vec<_> = status.items.iter().map(|item| item.item.as_str()).collect();
        status.healthy() && names == ["y", "w", "l"]
    });
    let table = text(&local.status_command(0).output().unwrap().stdout);
    assert!(table.contains("\ncatalog: config file of version 0 ("), "{table}");
}

#[test]
fn what_was_acknowledged_outlives_the_death_of_all() {
    let mut local = three();
    done(&local, 0, &["item", "add", "items", "z"]);
    done(&local, 1, &["item", "remove", "x"]);
    done(&local, 2, &["server", "set", "b", "priority=7"]);
    done(&local, 2, &["move", "z", "c"]);
    (0..3).for_each(|n| local.kill(n).unwrap());
    (0..3).for_each(|n| local.start(n).unwrap());
    let kept = |status: &Status| {
        status.healthy()
            && item(status, "x").is_none()
            && active(status, "z") == ["c"]
            && status.members[1].priority == Some(7)
    };
    everywhere(&local, kept);
    let catalog = now(&local, 0).catalog.unwrap();
    assert!(catalog.edits >= 4 && catalog.conflicts.is_empty() && catalog.refuses.is_none(), "{catalog:?}");

    // Without a majority it is in effect, and said to be no more than that.
    local.kill(1).unwrap();
    local.kill(2).unwrap();
    let out = ask(&local, 0, &["item", "add", "items", "late", "--timeout", "1"]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("on the disks of 1 of 3 voters only, 2 are needed"), "{said}");
    assert!(said.contains("do not ask for it again"), "{said}");
    let out = ask(&local, 0, &["item", "add", "items", "later", "--timeout", "1", "--json"]);
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), &said["error"]["code"]), (Some(3), &json!("unacknowledged")));
    assert_eq!(ask(&local, 0, &["item", "add", "items", "here", "--local"]).status.code(), Some(0));
    local.start(1).unwrap();
    local.start(2).unwrap();
    everywhere(&local, |status| {
        kept(status) && ["late", "later", "here"].iter().all(|name| active(status, name).len() == 1)
    });
    assert_eq!(
        ask(&local, 1, &["item", "remove", "q", "--api", "http://127.0.0.1:1"]).status.code(),
        Some(2)
    );
}

#[test]
fn systems_and_servers_come_and_go() {
    let local = three();
    done(&local, 0, &["system", "add", "jobs", "--handler", "memory", "isolated=take"]);
    done(&local, 1, &["server", "set", "c", r#"systems=["items", "jobs"]"#]);
    done(&local, 2, &["item", "add", "jobs", "j"]);
    everywhere(&local, |status| {
        status.healthy() && active(status, "j") == ["c"] && item(status, "j").unwrap().isolated == "take"
    });
    done(&local, 0, &["system", "set", "jobs", "isolated=null"]);
    everywhere(&local, |status| item(status, "j").is_some_and(|item| item.isolated == "keep"));
    let said = refused(&local, 0, &["system", "add", "more", "--handler", "memry"]);
    assert!(said.contains("system more: ") && said.contains("memry"), "{said}");
    done(&local, 1, &["system", "remove", "jobs"]);
    everywhere(&local, |status| status.healthy() && status.items.len() == 2);

    // Voters agree to another voter once they have run for ten seconds.
    let address = format!("127.0.0.1:{}", free_port());
    let add = [
        "server",
        "add",
        "d",
        &address,
        "--systems",
        "items",
        "--priority",
        "9",
        "--set",
        "config={\"k\": 1}",
    ];
    let said = std::cell::RefCell::new(String::new());
    until(
        "d is added",
        LIMIT,
        || said.borrow().clone(),
        || {
            let out = ask(&local, 0, &add);
            *said.borrow_mut() = text(&out.stderr);
            assert!(
                out.status.success() || said.borrow().contains("nothing was changed"),
                "{}",
                said.borrow()
            );
            out.status.success()
        },
    );
    everywhere(&local, |status| {
        let d = status.members.iter().find(|member| member.id == "d");
        d.is_some_and(|d| d.address == address && d.priority == Some(9)) && status.quorum == 3
    });
    // Those who agreed to one agree to nobody else's for ten seconds; force goes without them.
    let why = refused(&local, 2, &["server", "remove", "d"]);
    assert!(
        why.starts_with("nothing was changed: ") && why.contains("another server changes who votes"),
        "{why}"
    );
    done(&local, 2, &["server", "remove", "d", "--force"]);
    everywhere(&local, |status| status.healthy() && status.members.len() == 3 && status.quorum == 2);
}
