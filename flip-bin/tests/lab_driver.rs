//! The daemon's loop under load, on loopback.

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
