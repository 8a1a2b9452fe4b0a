//! The daemon's loop under load, and what operators and a twin tell it, on loopback.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flip_core::status::Status;
use flip_tests::local::Local;
use rustix::process::Signal;
use serde_json::Map;

const LIMIT: Duration = Duration::from_secs(20);

/// Sends datagrams that no cluster knows, as fast as one thread can, until it is dropped.
struct Flood {
    ends: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn start(to: SocketAddr) -> Self {
        let (ends, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&ends), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            while !until.load(Ordering::Relaxed) {
                if socket.send_to(&[0xf1; 200], to).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { ends, sent, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

#[test]
fn a_flood_of_forgeries_holds_up_neither_tools_nor_hooks_nor_signals() {
    let flip = Path::new(env!("CARGO_BIN_EXE_flip"));
    let mut local = Local::prepare(flip, 3, 1, &["one", "two"], Map::new()).unwrap();
    for n in 0..3 {
        local.start(n).unwrap();
    }
    let first = local.watch(0).unwrap().until(LIMIT, Status::healthy).unwrap();
    let flood = Flood::start(first.members[0].address.parse().unwrap());
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        let start = Instant::now();
        let out = local.status_command(0).arg("--json").output().unwrap();
        slowest = slowest.max(start.elapsed());
        let status: Status = serde_json::from_slice(&out.stdout).unwrap();
        assert!(!status.refused.is_empty(), "the flood is counted");
        std::thread::sleep(Duration::from_millis(100));
    }
    let sent = flood.sent.load(Ordering::Relaxed);
    let log = local.log(0);
    assert!(log.matches("refused a datagram").count() <= 1, "{log}");
    // The end needs hooks and a signal, both of which wait for the same thread.
    let start = Instant::now();
    local.signal(0, Signal::TERM).unwrap();
    let status = local.wait(0).unwrap();
    let ended = start.elapsed();
    drop(flood);
    println!("{sent} forgeries; status within {slowest:?}; ended after {ended:?}");
    assert_eq!(status.code(), Some(0), "{}", local.log(0));
    assert!(slowest < Duration::from_secs(2), "{slowest:?} for a status");
}

/// Daemons `a` and `b` with an item each, and the arbiter `c`.
fn cluster() -> Local {
    let flip = Path::new(env!("CARGO_BIN_EXE_flip"));
    let mut local = Local::prepare(flip, 3, 1, &["one", "two"], Map::new()).unwrap();
    for n in 0..3 {
        local.start(n).unwrap();
    }
    for n in 0..3 {
        local.watch(n).unwrap().until(LIMIT, Status::healthy).unwrap();
    }
    local
}

/// Exit code, standard output and standard error of `flip …`, asked of the daemon `id`.
fn tell(local: &Local, id: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = local.command();
    let out = command.args(args).args(["--id", id, "--state-dir"]).arg(local.state_dir()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn holders(status: &Status, item: usize) -> Vec<&str> {
    status.items[item].holders.iter().map(|holder| holder.server.as_str()).collect()
}

#[test]
fn a_drained_server_holds_nothing_until_it_is_undrained() {
    let mut local = cluster();
    let watch = local.watch(1).unwrap();
    let (code, said, _) = tell(&local, "a", &["drain"]);
    assert_eq!((code, said.contains("a is drained")), (Some(0), true), "{said}");
    watch.until(LIMIT, |s| holders(s, 0) == ["b"] && holders(s, 1) == ["b"]).unwrap();
    let table = local.status_command(2).output().unwrap().stdout;
    let table = String::from_utf8(table).unwrap();
    assert!(table.contains("drained: no items until flip undrain"), "{table}");

    let (code, _, why) = tell(&local, "b", &["drain", "nobody"]);
    assert_eq!(code, Some(1));
    assert!(why.starts_with("error: there is no server nobody"), "{why}");
    let (code, _, why) = tell(&local, "b", &["confirm-released", "one"]);
    assert_eq!(code, Some(1));
    assert!(why.contains("one is not unclean"), "{why}");

    // Any daemon may be told of any server.
    assert_eq!(tell(&local, "b", &["undrain", "a"]).0, Some(0));
    watch.until(LIMIT, |s| s.healthy() && holders(s, 0) == ["a"]).unwrap();
    local.kill(0).unwrap();
    let (code, _, why) = tell(&local, "a", &["drain"]);
    assert_eq!(code, Some(2));
    assert!(why.contains("no daemon at"), "{why}");
}

#[test]
fn a_twin_is_refused_and_says_where_the_other_is() {
    let local = cluster();
    let known = local.watch(0).unwrap().until(LIMIT, Status::healthy).unwrap().members[0].address.clone();
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(local.config()).unwrap()).unwrap();
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config["servers"]["a"]["port"] = free.into();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cluster.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let mut twin = local.command();
    twin.arg("--config").arg(&file).args(["--id", "a", "--state-dir"]).arg(dir.path());
    let out = twin.output().unwrap();
    let told = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(3), "{told}");
    let last = told.lines().last().unwrap();
    assert!(last.starts_with("error: another daemon runs as server \"a\", heard from "), "{told}");
    assert!(last.contains(&known), "{known}: {told}");
    assert!(local.watch(0).unwrap().until(LIMIT, Status::healthy).is_ok(), "the first one goes on");
}
