//! Kernel truth: what the kernel does to links and addresses behind the daemon's back, and what follows.
//!
//! Where a test takes a link away, the addresses are on a card of their own in each host: what is told of it
//! goes by the other one, as in a rack with a management network.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flip_core::status::Status;
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Lab, Who, root_or_skip, vip};
use flip_tests::probe::{Holders, Probe, wait_held};
use flip_tests::until::until_logged;
use serde_json::{Value, json};

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a link has to be well, in these tests.
const MATURE: Duration = Duration::from_millis(1500);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// Runs iproute2 in a place; what it prints.
fn ip(lab: &Lab, who: Who, arguments: &str) -> String {
    let run = || Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    let output = lab.enter(who, run).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A second card `d0` for the addresses, with a cable to `d1`.
fn card(lab: &Lab, host: usize) {
    ip(lab, Who::Host(host), "link add d0 type veth peer name d1");
    ip(lab, Who::Host(host), "link set d0 up");
    ip(lab, Who::Host(host), "link set d1 up");
}

/// Three hosts whose addresses are on `d0`.
fn cluster(vips: usize) -> Cluster {
    cluster_of(vips, None, |_| {})
}

/// As [`cluster`], with another text for the first item, and something done before the daemons start.
fn cluster_of(vips: usize, item: Option<&str>, before: impl Fn(&Lab)) -> Cluster {
    let mut items = json!(ClusterSpec::new(3, vips, "fast").addresses());
    if let Some(item) = item {
        items[0] = json!(item);
    }
    cluster_of_items(items, before)
}

/// As [`cluster`], with these items.
fn cluster_of_items(items: Value, before: impl Fn(&Lab)) -> Cluster {
    let mut spec = ClusterSpec::new(3, 0, "fast");
    spec.extra.insert("mature".to_owned(), json!(u64::try_from(MATURE.as_millis()).unwrap()));
    let mut config = spec.config();
    let system = &mut config["cluster"]["system"]["ip"];
    system["config"]["interface"] = json!("d0");
    system["data"] = items;
    let mut cluster = Cluster::prepare(spec, flip()).unwrap();
    (0..3).for_each(|n| card(cluster.lab(), n));
    before(cluster.lab());
    cluster.set_config(&config).unwrap();
    (0..3).for_each(|n| cluster.restart(n).unwrap());
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
}

fn only(host: usize) -> impl Fn(&BTreeSet<usize>) -> bool {
    move |hosts| *hosts == BTreeSet::from([host])
}

fn elsewhere(hosts: &BTreeSet<usize>) -> bool {
    hosts.len() == 1 && !hosts.contains(&0)
}

fn why(status: &Status) -> Option<&str> {
    status.items[0].unusable.as_ref().map(|unusable| unusable.why.as_str())
}

fn assert_nobody_fell(cluster: &Cluster) {
    for n in 0..3 {
        assert!(!cluster.log(n).contains("member is down"), "h{n}:\n{}", cluster.log(n));
    }
}

/// Takes the ground from h0, sees the item move, gives it back, and sees it return, but not at once.
fn moves_and_returns(cluster: &Cluster, take: impl Fn(&Lab), text: &str, give: impl Fn(&Lab)) {
    wait_held(cluster.lab(), vip(0), LIMIT, only(0)).unwrap();
    take(cluster.lab());
    wait_held(cluster.lab(), vip(0), LIMIT, elsewhere).unwrap();
    cluster.wait_for(0, LIMIT, |status| why(status) == Some(text)).unwrap();
    cluster.wait_for(1, LIMIT, |status| status.items[0].unhealthy_on == ["h0"]).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let given = Instant::now();
    give(cluster.lab());
    cluster
        .wait_for(0, LIMIT, |status| {
            status.items[0].unusable.as_ref().is_some_and(|unusable| unusable.returns_in_ms.is_some())
        })
        .unwrap();
    wait_held(cluster.lab(), vip(0), LIMIT, only(0)).unwrap();
    assert!(given.elapsed() >= MATURE, "after {:?}", given.elapsed());
    cluster.wait_healthy(LIMIT).unwrap();
    assert_nobody_fell(cluster);
}

#[test]
fn an_address_whose_link_is_dead_moves_at_once_and_returns_later() {
    if !root_or_skip("an_address_whose_link_is_dead_moves_at_once_and_returns_later") {
        return;
    }
    let cluster = cluster(2);
    let holders = Holders::start(cluster.lab()).unwrap();
    let h0 = Who::Host(0);
    let no_carrier = "d0 has no carrier";
    moves_and_returns(
        &cluster,
        |lab| drop(ip(lab, h0, "link set d1 down")),
        no_carrier,
        |lab| drop(ip(lab, h0, "link set d1 up")),
    );
    moves_and_returns(
        &cluster,
        |lab| drop(ip(lab, h0, "link set d0 down")),
        "d0 is down",
        |lab| drop(ip(lab, h0, "link set d0 up")),
    );
    moves_and_returns(
        &cluster,
        |lab| drop(ip(lab, h0, "link del d0")),
        "there is no interface d0",
        |lab| card(lab, 0),
    );
    let held = holders.stop().unwrap();
    assert_eq!(held.moves(vip(1)), 0, "what stands on the others' links stays");
}

#[test]
fn an_interface_that_is_renamed_is_named() {
    if !root_or_skip("an_interface_that_is_renamed_is_named") {
        return;
    }
    let cluster = cluster(1);
    let h0 = Who::Host(0);
    moves_and_returns(
        &cluster,
        |lab| {
            // Since Linux 6.2 a link can be renamed while it is up, with what is on it.
            let live = || Command::new("ip").args(["link", "set", "d0", "name", "lan0"]).status().unwrap();
            if !lab.enter(h0, live).unwrap().success() {
                ip(lab, h0, "link set d0 down");
                ip(lab, h0, "link set d0 name lan0");
                ip(lab, h0, "link set lan0 up");
            }
        },
        "d0 was renamed to lan0: rename it back, or change \"interface\" in the config",
        |lab| {
            ip(lab, h0, "link set lan0 down");
            ip(lab, h0, "link set lan0 name d0");
            ip(lab, h0, "link set d0 up");
        },
    );
}

/// What systemd-networkd and NetworkManager do when they set an interface up anew.
#[test]
fn flushed_addresses_are_back_and_whoever_flushes_again_and_again_is_named() {
    if !root_or_skip("flushed_addresses_are_back_and_whoever_flushes_again_and_again_is_named") {
        return;
    }
    let cluster = cluster(2);
    wait_held(cluster.lab(), vip(0), LIMIT, only(0)).unwrap();
    let holders = Holders::start(cluster.lab()).unwrap();
    let begin = Instant::now();
    for _ in 0..8 {
        ip(cluster.lab(), Who::Host(0), "addr flush dev d0");
        wait_held(cluster.lab(), vip(0), LIMIT, only(0)).unwrap();
    }
    let held = holders.stop().unwrap();
    for gap in held.unheld(vip(0), begin, held.observed().to) {
        assert!(gap.length() < Duration::from_millis(100), "{gap:?}");
    }
    assert_eq!(held.without(&[0]).taken_in(vip(0), begin, held.observed().to), 0, "nobody else took it");
    let log = cluster.log(0);
    assert!(log.contains("somebody else removed it") && log.contains("times=2"), "{log}");
    let named: Vec<_> = log.lines().filter(|line| line.contains("again and again")).collect();
    assert_eq!(named.len(), 1, "once, however often: {log}");
    let line = named[0];
    assert!(line.contains("KeepConfiguration=") && line.contains("unmanaged-devices="), "{line}");
}

/// Linux deletes the secondary addresses of a network with its first one, unless it is told to promote them.
#[test]
fn an_address_that_goes_with_its_networks_first_one_is_back() {
    if !root_or_skip("an_address_that_goes_with_its_networks_first_one_is_back") {
        return;
    }
    let item = format!("{}/24", vip(0));
    let h0 = Who::Host(0);
    let first = "10.77.0.77/24";
    let cluster = cluster_of(1, Some(&item), |lab| drop(ip(lab, h0, &format!("addr add {first} dev d0"))));
    wait_held(cluster.lab(), vip(0), LIMIT, only(0)).unwrap();
    let secondary = || ip(cluster.lab(), h0, "-o addr show dev d0 secondary").contains(&vip(0).to_string());
    assert!(secondary(), "{}", ip(cluster.lab(), h0, "addr"));
    let no_promotion = || std::fs::write("/proc/sys/net/ipv4/conf/d0/promote_secondaries", "0");
    cluster.lab().enter(h0, no_promotion).unwrap().unwrap();
    let holders = Holders::start(cluster.lab()).unwrap();
    let deleted = Instant::now();
    ip(cluster.lab(), h0, &format!("addr del {first} dev d0"));
    until_logged(&cluster, &[0], &["somebody else removed it"], LIMIT);
    wait_held(cluster.lab(), vip(0), LIMIT, only(0)).unwrap();
    let held = holders.stop().unwrap();
    assert_eq!(held.without(&[0]).taken_in(vip(0), deleted, held.observed().to), 0);
    assert!(!secondary(), "it was deleted with the other, and is the first now");
}

/// Policy routing that somebody deletes is kept as an address is.
#[test]
fn a_route_or_rule_that_somebody_deletes_is_back() {
    if !root_or_skip("a_route_or_rule_that_somebody_deletes_is_back") {
        return;
    }
    let item = json!({
        "ip": vip(0),
        "routes": [{"to": "192.0.2.0/24", "table": 100}],
        "rules": [{"table": 100}],
    });
    let cluster = cluster_of_items(json!([item]), |_| {});
    wait_held(cluster.lab(), vip(0), LIMIT, only(0)).unwrap();
    let h0 = Who::Host(0);
    let there = || {
        let route = ip(cluster.lab(), h0, "route show table 100").contains("192.0.2.0/24");
        let rule = ip(cluster.lab(), h0, "rule show").contains("lookup 100");
        route && rule
    };
    assert!(there(), "{}", ip(cluster.lab(), h0, "rule show"));
    for deletes in ["route flush table 100", "rule del lookup 100"] {
        ip(cluster.lab(), h0, deletes);
        // `ip` itself takes some milliseconds to look.
        let begin = Instant::now();
        while !there() {
            assert!(begin.elapsed() < Duration::from_millis(100), "{deletes}: after {:?}", begin.elapsed());
        }
    }
    let end = Instant::now() + LIMIT;
    while !cluster.log(0).contains("times=2") {
        assert!(Instant::now() < end, "both are counted:\n{}", cluster.log(0));
        std::thread::sleep(Duration::from_millis(10));
    }
    let log = cluster.log(0);
    assert!(log.contains("somebody else deleted the route to 192.0.2.0/24 in table 100"), "{log}");
    cluster.wait_healthy(LIMIT).unwrap();
    wait_held(cluster.lab(), vip(0), LIMIT, only(0)).unwrap();
}

/// A holder that was stopped knows nothing of its successor when it goes on.
#[test]
fn a_thawed_holder_wins_no_traffic_back() {
    if !root_or_skip("a_thawed_holder_wins_no_traffic_back") {
        return;
    }
    let mut spec = ClusterSpec::new(3, 2, "fast");
    // So that it does not get its item back by right while the test looks.
    spec.extra.insert("mature".to_owned(), json!(20_000));
    let mut cluster = Cluster::start(spec, flip()).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let probe = Probe::start(cluster.lab(), vip(0), Duration::from_millis(2)).unwrap();
    cluster.stop(0).unwrap();
    cluster.wait_settled_among(&[1, 2], LIMIT).unwrap();
    let winner = cluster.status(1).unwrap().items[0].wanted[0].clone();
    let winner: usize = winner.strip_prefix('h').unwrap().parse().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(cluster.real_holders(vip(0)).unwrap().contains(&0), "its kernel still has the address");
    let thawed = probe.mark();
    cluster.cont(0).unwrap();
    wait_held(cluster.lab(), vip(0), LIMIT, only(winner)).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let end = probe.mark();
    let seen = probe.stop().unwrap();
    // `gossip_interval` of profile fast.
    let period = Duration::from_millis(100);
    let served: Vec<_> = seen.answered_by(thawed + period, end).iter().map(|s| s.host).collect();
    assert_eq!(served, [winner], "{:?}", seen.answered_by(thawed, end));
    let mac = |who, device: &str| {
        let text = ip(cluster.lab(), who, &format!("-o link show dev {device}"));
        text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    let neighbour = ip(cluster.lab(), Who::Client, &format!("neigh show {}", vip(0)));
    assert!(neighbour.contains(&mac(Who::Host(winner), "eth0")), "{neighbour}");
}
