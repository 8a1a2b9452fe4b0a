//! Many addresses of one server, with real daemons.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use flip_core::config::Isolated;
use flip_systems::ip::announce;
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Who, root_or_skip};
use flip_tests::vip_bench::{address, start};
use serde_json::json;

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(60);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// How many of so many addresses the kernel of the first host has.
fn here(cluster: &Cluster, count: usize) -> usize {
    let held: BTreeSet<IpAddr> = cluster.lab().addresses(Who::Host(0)).unwrap().into_iter().collect();
    (0..count).filter(|k| held.contains(&address(*k).into())).count()
}

/// A lease gives a hook little time, and a thousand hooks need much together.
#[test]
fn a_thousand_addresses_under_leases_come_soon_and_none_fails() {
    if !root_or_skip("a_thousand_addresses_under_leases_come_soon_and_none_fails") {
        return;
    }
    const COUNT: usize = 1000;
    let spec = ClusterSpec { arbiters: 2, isolated: Some(Isolated::Drop), ..ClusterSpec::new(1, 0, "lan") };
    let begin = Instant::now();
    let cluster = start(spec, COUNT, &json!({}), flip()).unwrap();
    // It looks on all the time, as an operator with `flip status --watch` does.
    cluster.wait_healthy(LIMIT).unwrap();
    println!("all are here after {:?}", begin.elapsed());
    assert_eq!(here(&cluster, COUNT), COUNT);
    // Longer than a lease, so that every one was renewed. Somebody still looks on.
    let _watch = cluster.watch(0).unwrap();
    let (before, watched) = (cluster.process(0).unwrap().cpu_precise().unwrap(), Instant::now());
    let end = watched + Duration::from_secs(6);
    while Instant::now() < end {
        assert_eq!(here(&cluster, COUNT), COUNT, "{}", cluster.log(0));
        std::thread::sleep(Duration::from_millis(250));
    }
    let used = cluster.process(0).unwrap().cpu_precise().unwrap() - before;
    let share = used.as_secs_f64() / watched.elapsed().as_secs_f64();
    println!("while somebody looks on, the daemon takes {share:.3} of a processor");
    let log = cluster.log(0);
    // What a busy machine does to the loop is told as well, and is not the question here.
    let troubles: Vec<_> =
        log.lines().filter(|line| line.contains("hook failed") || line.contains("somebody else")).collect();
    assert_eq!(troubles, [] as [&str; 0]);
}

/// Whoever comes back may have been a neighbour of all that is here, so all of it is announced to it (rule K4): at the
/// pace of the config, and without a line for each.
#[test]
fn a_member_that_comes_back_raises_no_storm() {
    if !root_or_skip("a_member_that_comes_back_raises_no_storm") {
        return;
    }
    const COUNT: usize = 300;
    const RATE: usize = 200;
    let quiet = json!({
        "announce": {"count": 2, "again_after": [], "refresh": 0},
        "announce_rate": RATE,
        "notify": [],
    });
    let mut cluster = start(ClusterSpec::new(3, 0, "fast"), COUNT, &quiet, flip()).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let tap = cluster.lab().tap(Who::Client).unwrap();
    let is_vip = |frame: &[u8]| {
        let told = announce::told(frame).map(|(ip, _)| ip);
        told.filter(|ip| (0..COUNT).any(|k| *ip == IpAddr::from(address(k))))
    };
    // Two times both forms of each, and nothing for two seconds: the announcements of the start are over.
    let settle = || {
        let (mut spoken, mut last) = (Vec::new(), Instant::now());
        while last.elapsed() < Duration::from_secs(2) {
            for (at, frame) in tap.take() {
                if let Some(ip) = is_vip(&frame) {
                    spoken.push((at, ip));
                    last = last.max(at);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        spoken
    };
    settle();
    let before = cluster.log(0).len();
    cluster.restart(1).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let spoken = settle();
    let told: BTreeSet<IpAddr> = spoken.iter().map(|(_, ip)| *ip).collect();
    assert_eq!(told.len(), COUNT, "all are announced again");
    // As many at once as in a second, and a second's more.
    let window = Duration::from_secs(1);
    let most =
        |from: usize| spoken[from..].iter().take_while(|(at, _)| *at < spoken[from].0 + window).count();
    let most = (0..spoken.len()).map(most).max().unwrap();
    println!("{} frames, at most {most} in a second", spoken.len());
    assert!(most <= 2 * RATE + RATE / 10, "{most} frames in a second");
    let log = cluster.log(0).split_off(before);
    let lines = log.lines().count();
    println!("{lines} lines:\n{log}");
    assert!(lines < 60, "{lines} lines");
    assert!(log.contains("announced again, beside those above"), "{log}");
}
