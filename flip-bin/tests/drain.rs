//! A server with a hundred addresses is drained, and its clients do not notice (rules K1 and K3).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flip_core::event::ItemState;
use flip_core::status::Status;
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::root_or_skip;
use flip_tests::probe::Probe;

const LIMIT: Duration = Duration::from_secs(60);
/// Between two questions of one client; there is a client for each address.
const EACH: Duration = Duration::from_millis(25);
/// Half of them IPv4, half of them IPv6.
const ADDRESSES: usize = 100;

fn tell(cluster: &Cluster, n: usize, args: &[&str]) {
    let state = cluster.socket(n).parent().and_then(Path::parent).unwrap().to_owned();
    let mut flip = Command::new(env!("CARGO_BIN_EXE_flip"));
    let out = flip.args(args).args(["--id", &format!("h{n}"), "--state-dir"]).arg(state).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// All items are held by this server and nobody else.
fn all_on(status: &Status, server: &str) -> bool {
    status.items.iter().all(|item| {
        matches!(item.holders.as_slice(), [one] if one.server == server && one.state == ItemState::Active)
    })
}

#[test]
fn draining_a_hundred_addresses_loses_no_datagram() {
    if !root_or_skip("draining_a_hundred_addresses_loses_no_datagram") {
        return;
    }
    let spec = ClusterSpec { arbiters: 1, ip6: true, ..ClusterSpec::new(2, ADDRESSES / 2, "balanced") };
    let addresses = spec.addresses();
    assert_eq!(addresses.len(), ADDRESSES);
    let cluster = Cluster::start(spec, Path::new(env!("CARGO_BIN_EXE_flip"))).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    tell(&cluster, 0, &["drain", "h1"]);
    cluster.wait_for(0, LIMIT, |status| all_on(status, "h0")).unwrap();
    // Both drained: everything stays where it is. Then all of it moves in one plan.
    tell(&cluster, 0, &["drain", "h0"]);
    let probes: Vec<_> =
        addresses.iter().map(|vip| Probe::start(cluster.lab(), *vip, EACH).unwrap()).collect();
    let asked = probes[0].mark();
    // Every client has asked and was answered by the first server.
    std::thread::sleep(EACH * 20);
    let from = probes[0].mark();
    tell(&cluster, 0, &["undrain", "h1"]);
    cluster.wait_for(1, LIMIT, |status| all_on(status, "h1")).unwrap();
    std::thread::sleep(EACH * 20);
    let to = probes[0].mark();
    let mut lost = 0;
    for probe in probes {
        let report = probe.stop().unwrap();
        let service = report.answered_by(asked, to);
        assert_eq!(service.last().unwrap().host, 1, "{}", report.vip());
        assert!(service.iter().any(|service| service.host == 0), "{} moved while it was asked", report.vip());
        lost += report.lost();
        if report.lost() > 0 {
            let now = (std::time::SystemTime::now(), std::time::Instant::now());
            for outage in report.outages(from, to) {
                let at = |when: std::time::Instant| humantime(now.0 - (now.1 - when));
                println!("{}: {} to {}: {} lost", report.vip(), at(outage.from), at(outage.to), outage.lost);
            }
            for n in 0..2 {
                let log = cluster.log(n);
                let vip = report.vip().to_string();
                log.lines().filter(|line| line.contains(&vip)).for_each(|line| println!("h{n} {line}"));
            }
        }
    }
    assert_eq!(lost, 0, "of {ADDRESSES} addresses");
}

fn humantime(at: std::time::SystemTime) -> String {
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{:02}:{:02}.{:06}", since.as_secs() / 60 % 60, since.as_secs() % 60, since.subsec_micros())
}
