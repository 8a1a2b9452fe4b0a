//! Hosts that are no members and use an address of flip: before it is taken, and while it is held.
//!
//! The foreign host is the lab's client: its kernel answers for the address as any other would.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flip_core::event::ItemState;
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Who, host_ip, host_ip6, root_or_skip, vip, vip6};
use flip_tests::probe::{Holders, wait_held};
use flip_tests::until::{until, until_logged};
use serde_json::json;

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(40);
/// Those that run a daemon.
const HOSTS: [usize; 3] = [0, 1, 2];

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// Three hosts, not started, with an IPv4 and an IPv6 address.
fn prepared(conflict: &str) -> Cluster {
    let mut spec = ClusterSpec::new(3, 1, "fast");
    spec.ip6 = true;
    let mut config = spec.config();
    let system = &mut config["cluster"]["system"]["ip"];
    system["config"]["conflict"] = json!(conflict);
    system["fall"] = json!(2);
    system["cool_down"] = json!(2000);
    let cluster = Cluster::prepare(spec, flip()).unwrap();
    cluster.set_config(&config).unwrap();
    cluster
}

fn start(cluster: &mut Cluster) {
    (0..3).for_each(|n| cluster.restart(n).unwrap());
}

/// The client's hardware address.
fn client_mac(cluster: &Cluster) -> String {
    let run = || Command::new("ip").args(["-o", "link", "show", "dev", "eth0"]).output().unwrap();
    let output = cluster.lab().enter(Who::Client, run).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

fn addresses() -> [IpAddr; 2] {
    [vip(0), vip6(0)]
}

fn one(hosts: &BTreeSet<usize>) -> bool {
    hosts.len() == 1
}

#[test]
fn what_a_foreign_host_has_is_not_taken_until_it_lets_go() {
    if !root_or_skip("what_a_foreign_host_has_is_not_taken_until_it_lets_go") {
        return;
    }
    let mut cluster = prepared("defend");
    for address in addresses() {
        cluster.lab().add_address(Who::Client, address).unwrap();
    }
    let mac = client_mac(&cluster);
    let holders = Holders::start(cluster.lab()).unwrap();
    start(&mut cluster);
    for address in addresses() {
        until_logged(&cluster, &HOSTS, &["hook failed", &address.to_string(), &mac], LIMIT);
    }
    // Wherever it is tried next, the foreign host is found.
    cluster.wait_for(0, LIMIT, |s| s.items.iter().all(|i| i.failure.is_some())).unwrap();
    let failing = |state: ItemState| state == ItemState::Failing;
    cluster
        .wait_for(1, LIMIT, |s| s.items.iter().any(|i| i.holders.iter().any(|h| failing(h.state))))
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let held = holders.stop().unwrap();
    for address in addresses() {
        assert_eq!(held.moves(address), 0, "nobody had {address}");
        cluster.lab().delete_address(Who::Client, address).unwrap();
    }
    for address in addresses() {
        wait_held(cluster.lab(), address, LIMIT, one).unwrap();
    }
}

#[test]
fn an_address_is_defended_against_a_foreign_host() {
    if !root_or_skip("an_address_is_defended_against_a_foreign_host") {
        return;
    }
    let mut cluster = prepared("defend");
    start(&mut cluster);
    cluster.wait_healthy(LIMIT).unwrap();
    let mac = client_mac(&cluster);
    let holders = Holders::start(cluster.lab()).unwrap();
    // Its kernel says nothing of its own accord; what it sends from there does.
    for address in addresses() {
        let words = ["address conflict", &address.to_string(), &mac, "announced again"];
        use_address(&cluster, address);
        until_logged(&cluster, &HOSTS, &words, LIMIT);
        let log = (0..3).map(|n| cluster.log(n)).collect::<String>();
        let told = log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
        assert_eq!(told, 1, "at most once in ten seconds: {log}");
    }
    let held = holders.stop().unwrap();
    for address in addresses() {
        assert_eq!(held.moves(address), 0, "it stays");
    }
}

#[test]
fn an_address_is_given_up_to_a_foreign_host_and_taken_back_when_that_is_gone() {
    if !root_or_skip("an_address_is_given_up_to_a_foreign_host_and_taken_back_when_that_is_gone") {
        return;
    }
    let mut cluster = prepared("release");
    start(&mut cluster);
    cluster.wait_healthy(LIMIT).unwrap();
    let mac = client_mac(&cluster);
    for address in addresses() {
        use_address(&cluster, address);
        until_logged(&cluster, &HOSTS, &["address conflict", &address.to_string(), &mac, "given up"], LIMIT);
        wait_held(cluster.lab(), address, LIMIT, BTreeSet::is_empty).unwrap();
    }
    // Nobody else takes it either, because all look first.
    let holders = Holders::start(cluster.lab()).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let held = holders.stop().unwrap();
    for address in addresses() {
        assert_eq!(held.moves(address), 0, "{address}");
        cluster.lab().delete_address(Who::Client, address).unwrap();
    }
    for address in addresses() {
        wait_held(cluster.lab(), address, LIMIT, one).unwrap();
    }
}

/// What failed the kernel's own detection of duplicates is there and answers nobody: it is no address that is held.
#[test]
fn a_duplicate_is_no_holder_and_is_put_there_anew() {
    if !root_or_skip("a_duplicate_is_no_holder_and_is_put_there_anew") {
        return;
    }
    let mut cluster = prepared("defend");
    let address = vip6(0);
    cluster.lab().add_address(Who::Client, address).unwrap();
    let ip = |arguments: String| {
        let run = || Command::new("ip").args(arguments.split(' ')).output().unwrap();
        let output = cluster.lab().enter(Who::Host(0), run).unwrap();
        assert!(output.status.success(), "ip {arguments}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (name, value) in [("accept_dad", "1"), ("dad_transmits", "1")] {
        let path = format!("/proc/sys/net/ipv6/conf/eth0/{name}");
        cluster.lab().enter(Who::Host(0), || std::fs::write(path, value)).unwrap().unwrap();
    }
    ip(format!("-6 addr add {address}/128 dev eth0"));
    let failed = || ip(format!("-6 addr show dev eth0 to {address}")).contains("dadfailed");
    until("a duplicate that the kernel finds", LIMIT, || ip("-6 addr".to_owned()), failed);
    // Its home is the first server.
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(cluster.config_path()).unwrap()).unwrap();
    config["cluster"]["system"]["ip"]["data"] = json!([address]);
    cluster.set_config(&config).unwrap();
    let mac = client_mac(&cluster);
    start(&mut cluster);
    until_logged(&cluster, &HOSTS, &["hook failed", &address.to_string(), &mac], LIMIT);
    cluster.lab().delete_address(Who::Client, address).unwrap();
    let holds = |status: &flip_core::status::Status| {
        let held = |h: &flip_core::status::HolderStatus| h.state == ItemState::Active && h.server == "h0";
        status.items[0].holders.iter().any(held)
    };
    cluster.wait_for(0, LIMIT, holds).unwrap();
    let show = || Command::new("ip").args(["-6", "addr", "show", "dev", "eth0"]).output().unwrap();
    let shown = cluster.lab().enter(Who::Host(0), show).unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&address.to_string()) && !shown.contains("dadfailed"), "{shown}");
}

/// The client takes the address without asking anybody, and speaks from it: to do so, its kernel asks for the
/// hardware address of whom it speaks to.
fn use_address(cluster: &Cluster, address: IpAddr) {
    cluster.lab().add_address(Who::Client, address).unwrap();
    for host in 0..3 {
        let to: IpAddr = match address {
            IpAddr::V4(_) => host_ip(Who::Host(host)).into(),
            IpAddr::V6(_) => host_ip6(Who::Host(host)).into(),
        };
        cluster.lab().forget_neighbour(Who::Client, to).unwrap();
        let speak = || UdpSocket::bind((address, 0))?.send_to(b"hello", (to, 9));
        cluster.lab().enter(Who::Client, speak).unwrap().unwrap();
    }
}
