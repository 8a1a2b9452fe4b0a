//! Many addresses of one server, with real daemons.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use flip_core::config::Isolated;
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Who, root_or_skip};
use flip_tests::vip_bench::{address, start};

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
    let spec = ClusterSpec { arbiters: 2, isolated: Some(Isolated::Drop), ..ClusterSpec::new(1, 0, "fast") };
    let begin = Instant::now();
    let cluster = start(spec, COUNT, flip()).unwrap();
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
    let troubles: Vec<_> =
        log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert_eq!(troubles, [] as [&str; 0]);
}
