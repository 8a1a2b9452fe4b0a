//! `flip key` on real daemons: a rotation while they run.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use flip_core::status::{MemberState, Status};
use flip_tests::local::{Local, name};
use serde_json::Map;

const LIMIT: Duration = Duration::from_secs(20);

fn key(local: &Local, n: usize, args: &[&str]) -> Output {
    local.command_about(n, &[&["key"], args].concat()).output().unwrap()
}

fn done(out: Output) -> String {
    let (said, error) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert_eq!(out.status.code(), Some(0), "{error}");
    said
}

fn refused(out: Output) -> String {
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).unwrap()
}

#[test]
fn keys_are_changed_while_all_run() {
    let mut local =
        Local::prepare(Path::new(env!("CARGO_BIN_EXE_flip")), 3, 1, &["one", "two"], Map::new()).unwrap();
    for n in 0..3 {
        local.start(n).unwrap();
    }
    let watch = local.watch(2).unwrap();
    let before = watch.until(LIMIT, Status::healthy).unwrap();
    let old = before.keys[0].id.clone();
    assert!(before.keys.len() == 1 && before.keys[0].in_use && before.keys[0].in_config);

    let said = done(key(&local, 0, &["add", "generate"]));
    let (line, printed) = said.trim_end().split_once('\n').unwrap();
    let new = line.strip_prefix("key ").unwrap()[..2].to_owned();
    assert_eq!(line, format!("key {new} added on all servers that are up"));
    assert_eq!(printed.len(), 64);
    let again = refused(key(&local, 1, &["remove", &old]));
    assert!(again.contains("is in use; use another one first"), "{again}");
    assert!(refused(key(&local, 1, &["use", "00"])).contains("there is no key 00"));
    let mut same = local.command();
    same.args(["key", "add", "--file", "-", "--id", "b", "--state-dir"]).arg(local.state_dir());
    same.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut same = same.spawn().unwrap();
    same.stdin.take().unwrap().write_all(printed.as_bytes()).unwrap();
    assert!(refused(same.wait_with_output().unwrap()).contains("is there already"));

    done(key(&local, 1, &["use", &new]));
    done(key(&local, 2, &["remove", &old]));
    let table = done(key(&local, 0, &["list"]));
    assert_eq!(table, format!("KEY  USE     CONFIG  KNOWN TO\n{new}   seals   no      all\n"));

    // The config has the old key, the disk the ring: a restart goes on with it.
    local.kill(0).unwrap();
    watch.until(LIMIT, |status| status.members[0].state == MemberState::Down).unwrap();
    local.start(0).unwrap();
    let after = watch.until(LIMIT, Status::healthy).unwrap();
    assert_eq!(after.keys.iter().map(|key| &key.id).collect::<Vec<_>>(), [&new]);
    let unopened = ["cluster", "seal"].map(|why| after.refused.get(why).copied().unwrap_or(0));
    assert_eq!(unopened, [0, 0], "{:?}", after.refused);
    for n in 0..3 {
        assert!(!local.log(n).contains(printed), "the key is in the log of {}", name(n));
    }
}

#[test]
fn what_is_no_key_is_refused_before_anybody_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "secret\n").unwrap();
    let flip = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_flip"));
        command.arg("key").args(args).arg("--state-dir").arg(dir.path()).output().unwrap()
    };
    let out = flip(&["add", "--file", file.to_str().unwrap()]);
    let told = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains("a key is 64 hexadecimal digits") && !told.contains("secret"), "{told}");
    assert_eq!(flip(&["add"]).status.code(), Some(2), "neither a file nor generate");
    assert_eq!(flip(&["use", "xyz"]).status.code(), Some(2));
    assert_eq!(flip(&["list"]).status.code(), Some(2), "no daemon");
}
