//! Real daemons on hosts of a lab, real addresses and a client that counts what it loses.
//!
//! Tests assert order and ratios; times are measured by the bench.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use flip_core::event::ItemState;
use flip_core::status::{ItemStatus, MemberState, Status};
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Lab, Who, root_or_skip, vip};
use flip_tests::probe::{Holders, Probe, wait_held};

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(30);
/// Longer than any rule of profile `fast` waits, for tests in which nothing must happen.
const LONG: Duration = Duration::from_secs(4);
/// `ping_timeout` of profile `fast`: a death takes at least this long to be believed.
const TIMEOUT: Duration = Duration::from_millis(400);
const EACH: Duration = Duration::from_millis(2);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// A healthy cluster of profile `fast`.
fn cluster(hosts: usize, vips: usize) -> Cluster {
    let cluster = Cluster::start(ClusterSpec::new(hosts, vips, "fast"), flip()).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
}

fn state(status: &Status, server: usize) -> MemberState {
    status.members[server].state
}

/// That nobody was declared down by anybody.
fn assert_nobody_fell(cluster: &Cluster, hosts: usize) {
    for n in 0..hosts {
        assert!(!cluster.log(n).contains("member is down"), "h{n}:\n{}", cluster.log(n));
    }
}

#[test]
fn a_dead_host_is_replaced_and_takes_back_what_is_its_own() {
    if !root_or_skip("a_dead_host_is_replaced_and_takes_back_what_is_its_own") {
        return;
    }
    let cluster = cluster(3, 2);
    let (probe, holders) =
        (Probe::start(cluster.lab(), vip(0), EACH).unwrap(), Holders::start(cluster.lab()).unwrap());
    assert_eq!(cluster.holder(vip(0)), Some(0));
    let cut = probe.mark();
    cluster.lab().cut(0).unwrap();
    cluster.wait_settled_among(&[1, 2], LIMIT).unwrap();
    let status = cluster.status(1).unwrap();
    assert_eq!(state(&status, 0), MemberState::Down);
    // The host that is cut off sees no quorum and takes nothing.
    cluster.wait_for(0, LIMIT, |status| !status.has_quorum).unwrap();
    std::thread::sleep(TIMEOUT);

    let heal = probe.mark();
    cluster.lab().heal().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    wait_held(cluster.lab(), vip(0), LIMIT, |hosts| *hosts == BTreeSet::from([0])).unwrap();
    std::thread::sleep(TIMEOUT);
    let end = probe.mark();
    let (seen, held) = (probe.stop().unwrap(), holders.stop().unwrap());

    let outage = seen.outage(cut, heal);
    assert!(outage > TIMEOUT, "faster than anybody can know: {outage:?}");
    let after = seen.outage(heal, end);
    assert!(after < outage / 4, "{after:?} without answers after the heal, {outage:?} after the cut");
    assert_eq!(seen.answered_by(heal, end).last().unwrap().host, 0);
    assert_eq!(held.without(&[0]).contested(vip(0), cut, heal), []);
    assert_eq!(held.moves(vip(1)), 0, "what was not on the dead host stays");
    assert_eq!(held.holders_at(vip(0), end), BTreeSet::from([0]));
}

#[test]
fn a_killed_daemon_leaves_an_address_that_does_not_win() {
    if !root_or_skip("a_killed_daemon_leaves_an_address_that_does_not_win") {
        return;
    }
    let mut cluster = cluster(3, 2);
    let probe = Probe::start(cluster.lab(), vip(0), EACH).unwrap();
    let killed = probe.mark();
    cluster.kill(0).unwrap();
    cluster.wait_settled(LIMIT).unwrap();
    let winner = cluster.holder(vip(0)).unwrap();
    let settled = probe.mark();
    // Long enough for the second wave of announcements.
    std::thread::sleep(LONG / 2);
    let later = probe.mark();
    let both = BTreeSet::from([0, winner]);
    assert_eq!(cluster.real_holders(vip(0)).unwrap(), both, "nobody is there to remove it");

    cluster.restart(0).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    wait_held(cluster.lab(), vip(0), LIMIT, |hosts| *hosts == BTreeSet::from([0])).unwrap();
    std::thread::sleep(TIMEOUT);
    let end = probe.mark();
    let seen = probe.stop().unwrap();
    // The host of the dead daemon still answers, so the client loses next to nothing at all.
    assert!(seen.outage(killed, later) < TIMEOUT, "{:?}", seen.outages(killed, later));
    let served = seen.answered_by(settled + TIMEOUT, later);
    assert_eq!(served.iter().map(|s| s.host).collect::<Vec<_>>(), [winner], "the new holder's word counts");
    assert_eq!(seen.answered_by(later, end).last().unwrap().host, 0);
}

#[test]
fn sigterm_and_return_move_without_waiting() {
    if !root_or_skip("sigterm_and_return_move_without_waiting") {
        return;
    }
    let mut cluster = cluster(3, 2);
    let (probe, holders) =
        (Probe::start(cluster.lab(), vip(0), EACH).unwrap(), Holders::start(cluster.lab()).unwrap());
    let term = probe.mark();
    cluster.term(0).unwrap();
    assert_eq!(cluster.wait_exit(0, LIMIT).unwrap().code(), Some(0));
    cluster.wait_settled(LIMIT).unwrap();
    assert_eq!(state(&cluster.status(1).unwrap(), 0), MemberState::Left);
    let after = cluster.real_holders(vip(0)).unwrap();
    assert!(after.len() == 1 && !after.contains(&0), "after a goodbye nothing is left behind: {after:?}");
    let back = probe.mark();
    cluster.restart(0).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    wait_held(cluster.lab(), vip(0), LIMIT, |hosts| *hosts == BTreeSet::from([0])).unwrap();
    std::thread::sleep(TIMEOUT);
    let end = probe.mark();
    let (seen, held) = (probe.stop().unwrap(), holders.stop().unwrap());
    assert!(seen.outage(term, back) < TIMEOUT / 2, "{:?}", seen.outages(term, back));
    assert!(
        seen.outage(back, end) < TIMEOUT / 4,
        "a planned move loses nothing: {:?}",
        seen.outages(back, end)
    );
    assert_eq!(held.unheld(vip(0), term, back), [], "who leaves waits for its successor");
    assert_eq!(held.unheld(vip(0), back, end), [], "the old holder waits for the new one");
    assert_eq!(seen.answered_by(back, end).last().unwrap().host, 0);
}

#[test]
fn nothing_moves_when_everybody_is_alone() {
    if !root_or_skip("nothing_moves_when_everybody_is_alone") {
        return;
    }
    let cluster = cluster(3, 2);
    let holders = Holders::start(cluster.lab()).unwrap();
    cluster.lab().partition(&[&[0], &[1], &[2]], 0).unwrap();
    for n in 0..3 {
        cluster.wait_for(n, LIMIT, |status| !status.has_quorum).unwrap();
    }
    std::thread::sleep(LONG);
    assert_nobody_fell(&cluster, 3);
    cluster.lab().heal().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let held = holders.stop().unwrap();
    for k in 0..2 {
        assert_eq!(held.timeline(vip(k)).len(), 1, "{:?}", held.timeline(vip(k)));
    }
}

#[test]
fn only_the_majority_moves_and_the_views_meet_again() {
    if !root_or_skip("only_the_majority_moves_and_the_views_meet_again") {
        return;
    }
    let cluster = cluster(5, 5);
    let (probe, holders) =
        (Probe::start(cluster.lab(), vip(0), EACH).unwrap(), Holders::start(cluster.lab()).unwrap());
    let split = probe.mark();
    cluster.lab().partition(&[&[0, 1], &[2, 3, 4]], 1).unwrap();
    cluster.wait_settled_among(&[2, 3, 4], LIMIT).unwrap();
    for n in [0, 1] {
        cluster.wait_for(n, LIMIT, |status| !status.has_quorum).unwrap();
    }
    std::thread::sleep(LONG / 2);
    let heal = probe.mark();
    cluster.lab().heal().unwrap();
    let all = cluster.wait_healthy(LIMIT).unwrap();
    assert!(all.values().all(|status| status.view == all[&0].view), "one view");
    for k in 0..5 {
        wait_held(cluster.lab(), vip(k), LIMIT, |hosts| *hosts == BTreeSet::from([k])).unwrap();
    }
    std::thread::sleep(TIMEOUT);
    let end = probe.mark();
    let (seen, held) = (probe.stop().unwrap(), holders.stop().unwrap());
    let (majority, minority) = (held.without(&[0, 1]), held.without(&[2, 3, 4]));
    for k in 0..5 {
        assert_eq!(minority.moves_in(vip(k), split, heal), 0, "the minority takes nothing");
        assert_eq!(majority.contested(vip(k), split, heal), [], "one holder on the majority's side");
        assert_eq!(majority.holders_at(vip(k), heal).len(), 1);
    }
    let (outage, after) = (seen.outage(split, heal), seen.outage(heal, end));
    assert!(after < outage / 4, "{after:?} without answers after the heal, {outage:?} after the split");
}

#[test]
fn one_accuser_removes_nobody() {
    if !root_or_skip("one_accuser_removes_nobody") {
        return;
    }
    let cluster = cluster(3, 2);
    let (probe, holders) =
        (Probe::start(cluster.lab(), vip(0), EACH).unwrap(), Holders::start(cluster.lab()).unwrap());
    let cut = probe.mark();
    cluster.lab().cut_one_way(Who::Host(0), Who::Host(1)).unwrap();
    cluster.wait_for(1, LIMIT, |status| state(status, 0) == MemberState::Suspect).unwrap();
    std::thread::sleep(LONG);
    let end = probe.mark();
    let (seen, held) = (probe.stop().unwrap(), holders.stop().unwrap());
    assert_nobody_fell(&cluster, 3);
    assert_eq!(held.timeline(vip(0)).len(), 1);
    assert_eq!(seen.outage(cut, end), Duration::ZERO);
    cluster.lab().heal().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
}

#[test]
fn a_deaf_host_is_replaced_and_accuses_nobody() {
    if !root_or_skip("a_deaf_host_is_replaced_and_accuses_nobody") {
        return;
    }
    let cluster = cluster(3, 2);
    cluster.lab().deafen(0).unwrap();
    cluster.wait_settled_among(&[1, 2], LIMIT).unwrap();
    std::thread::sleep(LONG / 2);
    for n in [1, 2] {
        assert_eq!(
            state(&cluster.status(n).unwrap(), 0),
            MemberState::Down,
            "it can send, and serves nobody"
        );
    }
    assert_nobody_fell(&cluster, 1);
    cluster.lab().mend(0).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
}

#[test]
fn a_frozen_daemon_comes_back_as_a_new_generation() {
    if !root_or_skip("a_frozen_daemon_comes_back_as_a_new_generation") {
        return;
    }
    let mut cluster = cluster(3, 2);
    let before = cluster.status(0).unwrap().generation;
    cluster.stop(0).unwrap();
    cluster.wait_settled(LIMIT).unwrap();
    assert_eq!(state(&cluster.status(1).unwrap(), 0), MemberState::Down);
    cluster.cont(0).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    assert!(cluster.status(0).unwrap().generation > before);
    wait_held(cluster.lab(), vip(0), LIMIT, |hosts| *hosts == BTreeSet::from([0])).unwrap();
    // It slept, so it knows that its own silence proves nothing about others.
    assert!(cluster.log(0).contains("stopped, suspended or starved"), "{}", cluster.log(0));
    assert_nobody_fell(&cluster, 1);
}

#[test]
fn a_fifth_of_all_datagrams_lost_for_a_minute_moves_nothing() {
    if !root_or_skip("a_fifth_of_all_datagrams_lost_for_a_minute_moves_nothing") {
        return;
    }
    let cluster = cluster(3, 2);
    let holders = Holders::start(cluster.lab()).unwrap();
    cluster.lab().loss(20).unwrap();
    std::thread::sleep(Duration::from_secs(60));
    cluster.lab().heal().unwrap();
    let held = holders.stop().unwrap();
    for k in 0..2 {
        assert_eq!(held.timeline(vip(k)).len(), 1, "{:?}", held.timeline(vip(k)));
    }
    assert_nobody_fell(&cluster, 3);
    cluster.wait_healthy(LIMIT).unwrap();
}

#[test]
fn ipv6_moves_as_ipv4_does() {
    if !root_or_skip("ipv6_moves_as_ipv4_does") {
        return;
    }
    let spec = ClusterSpec { ip6: true, arbiters: 1, ..ClusterSpec::new(2, 2, "fast") };
    let six: IpAddr = spec.addresses()[2];
    assert!(six.is_ipv6());
    let mut cluster = Cluster::start(spec, flip()).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let from = cluster.holder(six).unwrap();
    let probe = Probe::start(cluster.lab(), six, EACH).unwrap();
    let term = probe.mark();
    cluster.term(from).unwrap();
    cluster.wait_exit(from, LIMIT).unwrap();
    cluster.wait_settled(LIMIT).unwrap();
    std::thread::sleep(TIMEOUT);
    let end = probe.mark();
    let seen = probe.stop().unwrap();
    assert!(seen.outage(term, end) < TIMEOUT / 2, "{:?}", seen.outages(term, end));
    assert_eq!(seen.answered_by(term, end).last().unwrap().host, 1 - from);
    assert_eq!(cluster.real_holders(six).unwrap(), BTreeSet::from([1 - from]));
}

#[test]
fn the_original_config_deals_as_it_always_did() {
    if !root_or_skip("the_original_config_deals_as_it_always_did") {
        return;
    }
    // All three servers of the file are on 127.0.0.1, so they share a host.
    let lab = Lab::new(1).unwrap();
    let host = Who::Host(0);
    for args in ["link add lo0 type veth peer name lo1", "link set lo0 up", "link set lo1 up"] {
        let mut ip = lab.command(host, "ip").unwrap();
        ip.args(args.split(' '));
        assert!(lab.spawn(ip).unwrap().wait(LIMIT).unwrap().success(), "ip {args}");
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/original/cluster.json");
    let start = |id: &str| {
        let mut flip = lab.command(host, flip().to_str().unwrap()).unwrap();
        flip.arg("--config").arg(&config).args(["--id", id, "--state-dir"]).arg(dir.path());
        lab.spawn({
            flip.stderr(Stdio::null());
            flip
        })
        .unwrap()
    };
    // What `flip2` says of the holders of 192.168.0.2 and 192.168.0.1.
    let wait = |wanted: [&str; 2]| {
        let end = Instant::now() + LIMIT;
        let mut told = String::new();
        while Instant::now() < end {
            let mut status = std::process::Command::new(flip());
            status.args(["status", "--json", "--id", "flip2", "--state-dir"]).arg(dir.path());
            told = String::from_utf8(status.output().unwrap().stdout).unwrap();
            let Ok(status) = serde_json::from_str::<Status>(&told) else { continue };
            // Who is about to take it looks first whether somebody else has it.
            let has = |i: &ItemStatus| i.holders.iter().all(|h| h.state == ItemState::Active);
            let names = |i: &ItemStatus| i.holders.iter().map(|h| h.server.clone()).collect();
            let holders: Vec<Vec<String>> = status.items.iter().filter(|i| has(i)).map(names).collect();
            if holders == wanted.map(|holder| vec![holder.to_owned()]) {
                let here = lab.addresses(host).unwrap();
                let vips: [IpAddr; 2] = ["192.168.0.2", "192.168.0.1"].map(|ip| ip.parse().unwrap());
                assert!(vips.iter().all(|vip| here.contains(vip)), "{here:?}");
                return;
            }
        }
        panic!("expected {wanted:?}: {told}");
    };
    let _daemons = (start("flip"), start("flip2"));
    let mut flip1 = start("flip1");
    wait(["flip1", "flip"]);
    flip1.kill().unwrap();
    wait(["flip", "flip"]);
    let _flip1 = start("flip1");
    wait(["flip1", "flip"]);
}

#[test]
fn the_demo_tells_its_story() {
    if !root_or_skip("the_demo_tells_its_story") {
        return;
    }
    // A verdict may come with a moment of suspicion before it or without: several runs see both.
    for profile in ["fast", "turbo", "turbo"] {
        let out = std::process::Command::new(flip()).args(["demo", "--profile", profile]).output().unwrap();
        let (told, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{told}\n{errors}");
        for line in ["power lost  no answer for", "(answered by h", "Everything is cleaned up"] {
            assert!(told.contains(line), "{told}\n{errors}");
        }
    }
}

#[test]
fn a_native_hook_by_hand_binds_for_real() {
    if !root_or_skip("a_native_hook_by_hand_binds_for_real") {
        return;
    }
    let cluster = Cluster::prepare(ClusterSpec::new(1, 2, "fast"), flip()).unwrap();
    let lab = cluster.lab();
    let hook = |action: &str, n: usize| {
        let mut command = lab.command(Who::Host(0), flip().to_str().unwrap()).unwrap();
        command.args(["hook", "run", "--id", "h0", "--config"]).arg(cluster.config_path());
        command.args(["ip", action, &vip(n).to_string()]);
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8([out.stdout, out.stderr].concat()).unwrap())
    };
    let held = |n: usize| cluster.real_holders(vip(n)).unwrap();
    for n in [0, 1] {
        let (code, said) = hook("alive", n);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("ip alive {}: ok in ", vip(n))), "{said}");
        assert_eq!(held(n), BTreeSet::from([0]), "it stays when the command is through");
    }
    let (code, said) = hook("down", 0);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((held(0), held(1)), (BTreeSet::new(), BTreeSet::from([0])), "the other one is left alone");
    assert_eq!(hook("down", 0).0, Some(0), "safe to repeat");
    // What cannot work is told, and is a failure of the hook.
    let config = cluster.spec().config();
    let mut wrong = config.clone();
    wrong["cluster"]["system"]["ip"]["config"]["interface"] = "nowhere0".into();
    cluster.set_config(&wrong).unwrap();
    let (code, said) = hook("alive", 0);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ip alive") && said.contains("nowhere0"), "{said}");
}
