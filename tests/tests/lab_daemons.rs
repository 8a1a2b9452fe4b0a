//! Whole clusters in a lab, flip's and keepalived's, as far as it takes to trust the harness.

use std::time::Duration;

use flip_tests::cluster::{Cluster, ClusterSpec, flip_binary};
use flip_tests::keepalived::{self, Keepalived, Spec};
use flip_tests::lab::{self, Lab, root_or_skip, vip};
use flip_tests::probe::{Holders, Probe, wait_held};

const LIMIT: Duration = Duration::from_secs(20);
const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn flip_runs_in_a_lab() {
    if !root_or_skip("flip_runs_in_a_lab") {
        return;
    }
    let binary = match flip_binary() {
        Ok(binary) => binary,
        Err(error) => return skip("flip_runs_in_a_lab", &error.to_string()),
    };
    let spec = ClusterSpec { arbiters: 1, ip6: true, ..ClusterSpec::new(2, 2, "fast") };
    let addresses = spec.addresses();
    let mut cluster = Cluster::start(spec, &binary).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    for address in addresses {
        let holder = cluster.holder(address).unwrap();
        assert_eq!(cluster.real_holders(address).unwrap(), [holder].into());
    }
    assert!(cluster.status(2).unwrap().items.iter().all(|item| !item.wanted.contains(&"h2".to_owned())));
    assert!(cluster.rss(0).unwrap() > 1 << 20 && cluster.cpu(0).unwrap() < LIMIT);
    let pid = cluster.pid(0).unwrap();

    let probe = Probe::start(cluster.lab(), vip(0), MILLISECOND).unwrap();
    let holders = Holders::start(cluster.lab()).unwrap();
    let held = cluster.holder(vip(0)).unwrap();
    cluster.wait_for(2, LIMIT, |status| status.live == 3).unwrap();
    cluster.lab().cut(held).unwrap();
    cluster.wait_settled_among(&[1 - held, 2], LIMIT).unwrap();
    let error = cluster.wait_healthy(200 * MILLISECOND).unwrap_err();
    assert!(format!("{error:#}").contains("last status of h"), "{error:#}");
    cluster.lab().heal().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let (report, held_by) = (probe.stop().unwrap(), holders.stop().unwrap());
    let observed = held_by.observed();
    let answered = report.answered_by(observed.from, observed.to);
    assert!(answered.iter().any(|service| service.host == 1 - held), "{answered:?}");
    assert!(!report.outage_since(observed.from).is_zero());
    assert!(!held_by.contested(vip(0), observed.from, observed.to).is_empty());

    cluster.stop(0).unwrap();
    assert_eq!(cluster.live(), [1, 2]);
    cluster.cont(0).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster.kill(0).unwrap();
    assert!(!lab::exists(pid));
    cluster.wait_settled(LIMIT).unwrap();
    cluster.restart(0).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster.term(0).unwrap();
    assert!(cluster.wait_exit(0, LIMIT).unwrap().success());
    cluster.wait_settled(LIMIT).unwrap();
    assert_eq!(cluster.real_holders(vip(0)).unwrap(), [1].into());
    assert!(cluster.log(0).contains("h1"), "{}", cluster.log(0));

    let files = cluster.config_path();
    assert!(files.exists());
    drop(cluster);
    assert!(!files.parent().unwrap().exists());
}

#[test]
fn keepalived_runs_in_a_lab() {
    if !root_or_skip("keepalived_runs_in_a_lab") {
        return;
    }
    if let Err(missing) = keepalived::available() {
        return skip("keepalived_runs_in_a_lab", &missing);
    }
    let lab = Lab::new(3).unwrap();
    let spec = Spec { advert: Duration::from_millis(20), vips: 3 };
    let mut keepalived = Keepalived::start(&lab, &spec).unwrap();
    assert_eq!(keepalived.wait_settled(LIMIT).unwrap(), [0, 1, 2]);

    let probe = Probe::start(&lab, vip(0), MILLISECOND).unwrap();
    std::thread::sleep(20 * MILLISECOND);
    let mark = probe.mark();
    lab.cut(0).unwrap();
    wait_held(&lab, vip(0), LIMIT, |holders| *holders == [0, 1].into()).unwrap();
    std::thread::sleep(100 * MILLISECOND);
    let report = probe.stop().unwrap();
    let outage = report.outage_since(mark);
    println!("keepalived, {:?}: {outage:?}", spec.advert);
    assert!(outage > spec.advert && outage < Duration::from_secs(2), "{outage:?}");
    lab.heal().unwrap();
    assert_eq!(keepalived.wait_settled(LIMIT).unwrap(), [0, 1, 2]);

    keepalived.kill(0).unwrap();
    assert_eq!(keepalived.wait_settled(LIMIT).unwrap(), [1, 1, 2]);
    keepalived.restart(0).unwrap();
    assert_eq!(keepalived.wait_settled(LIMIT).unwrap(), [0, 1, 2]);
    keepalived.stop(0).unwrap();
    wait_held(&lab, vip(0), LIMIT, |holders| holders.contains(&1)).unwrap();
    keepalived.cont(0).unwrap();
    keepalived.wait_settled(LIMIT).unwrap();
    keepalived.term(0).unwrap();
    assert!(keepalived.wait_exit(0, LIMIT).unwrap().success());
    wait_held(&lab, vip(0), LIMIT, |holders| *holders == [1].into()).unwrap();
    assert!(keepalived.log(0).contains("Stopped"), "{}", keepalived.log(0));
}

/// Loud, and an error where nothing may be skipped.
fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("FLIP_REQUIRE_ROOT").is_none_or(|v| v != "1"), "{test}: {why}");
    eprintln!("SKIPPED {test}: {why}");
}
