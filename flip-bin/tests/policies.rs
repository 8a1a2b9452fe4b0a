//! What each policy promises where no quorum is in sight, kept by real daemons on real kernels.
//!
//! A holder is a host whose kernel has the address, whether anybody reaches that host or not. The times are
//! bounds of the rules (GUARANTEES 1.2 and 1.3), not figures; those come from `flip-bench matrix`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use flip_core::config::Isolated;
use flip_core::status::MemberState;
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Who, host_ip, root_or_skip, vip};
use flip_tests::matrix::{Fault, LATENESS, Run, Settings, run_all};
use flip_tests::probe::{Holders, wait_held};
use serde_json::json;

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(30);
/// What the observer and a busy machine may add to a bound.
const SLACK: Duration = Duration::from_millis(300);
/// The longest pause before a candidate claims an item (GUARANTEES 1.2, B).
const BACKOFF: Duration = Duration::from_secs(1);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// Three hosts and the shortest lease and expiry there are, so that the bounds are soon reached.
fn settings(hold: u64) -> Settings {
    Settings {
        hosts: 3,
        profile: "fast".to_owned(),
        lease: Duration::from_secs(3),
        orphan: Duration::from_secs(10),
        hold: Duration::from_secs(hold),
        loss: Duration::from_secs(hold),
        limit: LIMIT,
    }
}

/// Every fault under one policy, several labs at a time.
fn all(policy: Isolated, faults: &[Fault], settings: &Settings) -> Vec<(Fault, Run)> {
    let cells: Vec<_> = faults.iter().map(|fault| (policy, *fault)).collect();
    let runs = run_all(&cells, settings, flip(), 4).unwrap();
    // Where one is out of bounds, the others tell why.
    faults.iter().zip(&runs).for_each(|(fault, run)| println!("{policy:?}, {fault:?}: {run:?}"));
    faults.iter().copied().zip(runs).collect()
}

fn every_fault() -> Vec<Fault> {
    Fault::ALL.iter().map(|(_, fault)| *fault).collect()
}

#[test]
fn drop_never_has_two_holders() {
    if !root_or_skip("drop_never_has_two_holders") {
        return;
    }
    let settings = settings(6);
    for (fault, run) in all(Isolated::Drop, &every_fault(), &settings) {
        assert_eq!(run.two, Duration::ZERO, "{fault:?}: {run:?}");
        // There and back. An address whose lifetime nobody renewed would come and go all the time.
        assert!(run.taken <= 2 || fault == Fault::Split, "{fault:?}: {run:?}");
        // L(1+delta) with a clock drift of 1 %, and the pause before a claim.
        let taken = settings.lease.mul_f64(1.0203) + BACKOFF + SLACK;
        match fault {
            // The kernel alone is left to take the address away.
            Fault::Sigkill | Fault::Sigstop => {
                let fence = run.fence.unwrap_or(Duration::MAX);
                assert!(fence <= settings.fence() + SLACK, "{fault:?}: {run:?}");
                assert!(run.none <= taken, "{fault:?}: {run:?}");
            }
            // The owner lets go by itself, before its lease ends.
            Fault::Isolated | Fault::Deaf | Fault::Mute => {
                assert!(run.fence.is_some_and(|fence| fence <= settings.lease + SLACK), "{fault:?}: {run:?}");
                assert!(run.none <= taken, "{fault:?}: {run:?}");
            }
            Fault::HostCut => assert!(run.none <= taken + run.detected.unwrap(), "{fault:?}: {run:?}"),
            Fault::Split => {
                let fence = run.fence.unwrap_or(Duration::MAX);
                assert!(fence <= settings.lease + SLACK, "nobody holds it without a quorum: {run:?}");
                assert!(run.none >= run.lasted - settings.lease - SLACK, "nobody takes it either: {run:?}");
            }
            Fault::Loss => assert!(run.none <= taken, "{fault:?}: {run:?}"),
        }
    }
}

#[test]
fn take_always_has_a_holder() {
    if !root_or_skip("take_always_has_a_holder") {
        return;
    }
    for (fault, run) in all(Isolated::Take, &every_fault(), &settings(4)) {
        match fault {
            // The owner is gone, so somebody has to notice.
            Fault::HostCut => {
                let detected = run.detected.unwrap();
                assert!(run.none <= detected + SLACK, "{fault:?}: {run:?}");
            }
            // Every side takes what it cannot see held, and that is the price.
            Fault::Split => {
                assert_eq!(run.none, Duration::ZERO, "{fault:?}: {run:?}");
                assert!(run.two > Duration::ZERO && run.taken >= 2, "{fault:?}: {run:?}");
            }
            Fault::Sigkill | Fault::Sigstop | Fault::Isolated | Fault::Deaf | Fault::Mute | Fault::Loss => {
                assert_eq!(run.none, Duration::ZERO, "{fault:?}: {run:?}")
            }
        }
    }
}

#[test]
fn keep_loses_nothing_and_its_orphans_expire() {
    if !root_or_skip("keep_loses_nothing_and_its_orphans_expire") {
        return;
    }
    // Longer than an orphan stays: an owner that is cut off is none.
    let settings = settings(13);
    let faults = [Fault::Sigkill, Fault::Isolated, Fault::Split, Fault::HostCut];
    for (fault, run) in all(Isolated::Keep, &faults, &settings) {
        assert!(run.taken <= 2, "there and back: {fault:?}: {run:?}");
        match fault {
            Fault::Sigkill => {
                assert_eq!(run.none, Duration::ZERO, "{run:?}");
                let gone = run.fence.unwrap_or(Duration::MAX);
                assert!(gone <= settings.orphan + LATENESS + SLACK, "{run:?}");
                // Not before a daemon had the time to start again.
                assert!(gone >= settings.orphan / 2, "{run:?}");
            }
            Fault::Isolated => {
                assert_eq!((run.none, run.fence), (Duration::ZERO, None), "{run:?}");
                assert!(run.two > settings.orphan, "the owner keeps it, the others take it: {run:?}");
            }
            Fault::Split => {
                assert_eq!((run.none, run.two), (Duration::ZERO, Duration::ZERO), "{run:?}");
                assert_eq!(run.taken, 0, "nothing moves without a quorum: {run:?}");
            }
            Fault::HostCut => assert!(run.none <= run.detected.unwrap() + SLACK, "{run:?}"),
            other => panic!("nothing is said of {other:?}"),
        }
    }
}

#[test]
fn each_item_does_what_it_says_itself() {
    if !root_or_skip("each_item_does_what_it_says_itself") {
        return;
    }
    // Dealt to h0, h1, h2 and h0 again; the first says `drop`.
    let spec = ClusterSpec { lease: Some(Duration::from_secs(3)), ..ClusterSpec::new(3, 4, "fast") };
    let mut config = spec.config();
    config["cluster"]["system"]["ip"]["data"][0] = json!({ "ip": vip(0), "isolated": "drop" });
    let mut cluster = Cluster::prepare(spec, flip()).unwrap();
    cluster.set_config(&config).unwrap();
    (0..3).for_each(|n| cluster.restart(n).unwrap());
    cluster.wait_healthy(LIMIT).unwrap();
    let home = |host: usize| move |hosts: &BTreeSet<usize>| *hosts == BTreeSet::from([host]);
    wait_held(cluster.lab(), vip(0), LIMIT, home(0)).unwrap();
    wait_held(cluster.lab(), vip(3), LIMIT, home(0)).unwrap();
    let holders = Holders::start(cluster.lab()).unwrap();
    let cut = Instant::now();
    cluster.lab().cut(0).unwrap();
    wait_held(cluster.lab(), vip(0), LIMIT, |hosts| !hosts.is_empty() && !hosts.contains(&0)).unwrap();
    wait_held(cluster.lab(), vip(3), LIMIT, |hosts| hosts.len() == 2 && hosts.contains(&0)).unwrap();
    cluster.lab().heal().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    wait_held(cluster.lab(), vip(0), LIMIT, home(0)).unwrap();
    wait_held(cluster.lab(), vip(3), LIMIT, home(0)).unwrap();
    let held = holders.stop().unwrap();
    let end = held.observed().to;
    assert_eq!(held.contested(vip(0), cut, end), [], "drop: never two");
    assert_eq!(held.unheld(vip(3), cut, end), [], "keep: never none");
}

#[test]
fn a_server_that_does_not_reach_its_witness_takes_nothing() {
    if !root_or_skip("a_server_that_does_not_reach_its_witness_takes_nothing") {
        return;
    }
    let mut spec = ClusterSpec::new(2, 2, "fast");
    spec.extra.insert("quorum".to_owned(), json!(1));
    spec.extra.insert("witness".to_owned(), json!({ "ping": host_ip(Who::Client) }));
    let cluster = Cluster::start(spec, flip()).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let holders = Holders::start(cluster.lab()).unwrap();
    let split = Instant::now();
    cluster.lab().partition(&[&[0], &[1]], 0).unwrap();
    wait_held(cluster.lab(), vip(1), LIMIT, |hosts| hosts.contains(&0)).unwrap();
    // As long again as it took the other one to decide, and some more.
    std::thread::sleep(split.elapsed() + Duration::from_secs(1));
    let alone = cluster.status(1).unwrap();
    assert_ne!(alone.members[0].state, MemberState::Down, "its word does not count");
    let heal = Instant::now();
    cluster.lab().heal().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let held = holders.stop().unwrap();
    assert_eq!(held.without(&[0]).taken_in(vip(0), split, heal), 0, "h1 does not reach its witness");
}
