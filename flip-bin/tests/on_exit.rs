//! `"on_exit": "keep"`: a daemon that ends leaves its addresses, and the next life takes them over as they are.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use flip_core::event::ItemState;
use flip_core::status::{MemberState, Status};
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{root_or_skip, vip};
use flip_tests::probe::{Holders, wait_held};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// Servers with one address, and two arbiters, with this key for the whole cluster.
fn cluster(hosts: usize, key: &str, value: Value) -> Cluster {
    let spec = ClusterSpec { arbiters: 2, ..ClusterSpec::new(hosts, 1, "fast") };
    let mut cluster = Cluster::prepare(spec.clone(), Path::new(env!("CARGO_BIN_EXE_flip"))).unwrap();
    let mut config = spec.config();
    config["cluster"][key] = value;
    cluster.set_config(&config).unwrap();
    for n in 0..hosts + 2 {
        cluster.restart(n).unwrap();
    }
    held(&cluster, &[0]);
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
}

fn held(cluster: &Cluster, hosts: &[usize]) {
    let hosts = BTreeSet::from_iter(hosts.iter().copied());
    wait_held(cluster.lab(), vip(0), LIMIT, |seen| *seen == hosts)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.log(0)));
}

fn end(cluster: &mut Cluster, n: usize) {
    cluster.term(n).unwrap();
    let status = cluster.wait_exit(n, LIMIT).unwrap();
    assert!(status.success(), "{status}\n{}", cluster.log(n));
}

fn active(status: &Status, server: &str) -> bool {
    let holders = &status.items[0].holders;
    holders.iter().any(|holder| holder.server == server && holder.state == ItemState::Active)
}

#[test]
fn what_is_kept_at_the_end_is_adopted_at_the_next_start() {
    if !root_or_skip("what_is_kept_at_the_end_is_adopted_at_the_next_start") {
        return;
    }
    // The second is the original's word.
    for (key, value) in [("on_exit", json!("keep")), ("remove_on_failure", json!(false))] {
        let mut cluster = cluster(1, key, value);
        let holders = Holders::start(cluster.lab()).unwrap();
        let begin = Instant::now();
        end(&mut cluster, 0);
        let left = |status: &Status| status.members[0].state == MemberState::Left;
        cluster.wait_for(1, LIMIT, left).unwrap();
        assert_eq!(cluster.real_holders(vip(0)).unwrap(), BTreeSet::from([0]), "{key}");
        cluster.restart(0).unwrap();
        cluster.wait_for(0, LIMIT, |status| active(status, "h0")).unwrap();
        cluster.wait_healthy(LIMIT).unwrap();
        let seen = holders.stop().unwrap();
        assert_eq!(seen.unheld(vip(0), begin, Instant::now()), [], "{key}: it was there all the time");
        let log = cluster.log(0);
        assert!(log.contains("of an earlier life: kept"), "{log}");
        assert!(log.contains("reason=\"adopted\""), "{log}");
    }
    // As it is without the key.
    let mut cluster = cluster(1, "on_exit", json!("down"));
    end(&mut cluster, 0);
    held(&cluster, &[]);
}

#[test]
fn others_take_over_what_is_kept_and_give_it_back() {
    if !root_or_skip("others_take_over_what_is_kept_and_give_it_back") {
        return;
    }
    let mut cluster = cluster(2, "on_exit", json!("keep"));
    end(&mut cluster, 0);
    // The price: until the first one is started again, or its address ends by itself, both have it.
    held(&cluster, &[0, 1]);
    cluster.wait_for(1, LIMIT, |status| active(status, "h1")).unwrap();
    cluster.restart(0).unwrap();
    held(&cluster, &[0]);
    cluster.wait_healthy(LIMIT).unwrap();
}
