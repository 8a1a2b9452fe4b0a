//! Announcements of real daemons: who is told, who looks, and what an operator can ask for.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use flip_core::status::{AnnouncedStatus, Status};
use flip_systems::ip::announce;
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Lab, Tap, Who, root_or_skip, vip, vip6};
use flip_tests::probe::Probe;
use flip_tests::until::until_logged;
use rustix::process::Signal;
use serde_json::{Value, json};

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(30);
const EACH: Duration = Duration::from_millis(5);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// A healthy cluster of profile `fast`, with these settings of its addresses.
fn cluster(spec: ClusterSpec, settings: Value) -> Cluster {
    let hosts = spec.hosts + spec.arbiters;
    let mut config = spec.config();
    config["cluster"]["config"] = settings;
    let mut cluster = Cluster::prepare(spec, flip()).unwrap();
    cluster.set_config(&config).unwrap();
    for n in 0..hosts {
        cluster.restart(n).unwrap();
    }
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
}

fn spec(hosts: usize, vips: usize) -> ClusterSpec {
    ClusterSpec::new(hosts, vips, "fast")
}

fn tell(cluster: &Cluster, n: usize, args: &[&str]) -> Output {
    let state = cluster.socket(n).parent().and_then(Path::parent).unwrap().to_owned();
    let mut flip = Command::new(flip());
    flip.args(args).args(["--id", &format!("h{n}"), "--state-dir"]).arg(state).output().unwrap()
}

fn announced(status: &Status, item: usize) -> AnnouncedStatus {
    status.items[item].announced.clone().unwrap_or_default()
}

/// Runs nft on the switch.
fn nft(lab: &Lab, rules: &str) {
    let mut command = lab.command(Who::Bridge, "nft").unwrap();
    command.arg(rules).stdin(Stdio::null());
    assert!(lab.spawn(command).unwrap().wait(LIMIT).unwrap().success(), "nft {rules}");
}

/// The client gets no gratuitous ARP for an address any more, as if it passed it over; other ARP comes through.
fn ignore_gratuitous(lab: &Lab, address: IpAddr) {
    nft(
        lab,
        &format!(
            "add table bridge deaf; \
             add chain bridge deaf forward {{ type filter hook forward priority 10; policy accept; }}; \
             add rule bridge deaf forward oifname \"pc\" ether type arp arp daddr ip {address} drop"
        ),
    );
}

/// The client believes what it once knew for minutes.
fn trust_the_cache(lab: &Lab) {
    let path = "/proc/sys/net/ipv4/neigh/eth0/base_reachable_time_ms";
    lab.enter(Who::Client, || std::fs::write(path, "600000")).unwrap().unwrap();
}

/// Frames of the tap that tell of an address: those to all, and those to the client alone.
fn told_of(tap: &Tap, address: IpAddr) -> (usize, usize) {
    let frames = tap.take();
    let of = frames.iter().filter(|(_, frame)| announce::told(frame).is_some_and(|(ip, _)| ip == address));
    let (all, one): (Vec<_>, Vec<_>) = of.partition(|(_, frame)| frame[0] & 1 == 1);
    (all.len(), one.len())
}

/// Waits until a daemon has written this.
/// Whether the client is served again soon after the holder's death, though it hears no gratuitous ARP.
fn served_without_gratuitous_arp(settings: Value) -> bool {
    let cluster = cluster(spec(3, 1), settings);
    trust_the_cache(cluster.lab());
    let probe = Probe::start(cluster.lab(), vip(0), EACH).unwrap();
    assert_eq!(cluster.holder(vip(0)), Some(0));
    // Long enough for the holder to tell the others whom it knows: that is heard by nobody here.
    std::thread::sleep(Duration::from_secs(4));
    ignore_gratuitous(cluster.lab(), vip(0));
    let tap = cluster.lab().tap(Who::Client).unwrap();
    let cut = probe.mark();
    cluster.lab().cut(0).unwrap();
    cluster.wait_settled_among(&[1, 2], LIMIT).unwrap();
    let winner = cluster.holder_among(&[1, 2], vip(0)).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let end = probe.mark();
    let seen = probe.stop().unwrap();
    println!(
        "of announcements the client saw {:?} to all and to itself\n{}",
        told_of(&tap, vip(0)),
        cluster.log(winner)
    );
    seen.answered_by(cut, end).last().is_some_and(|service| service.host == winner)
}

#[test]
fn a_client_that_ignores_gratuitous_arp_is_told_alone() {
    if !root_or_skip("a_client_that_ignores_gratuitous_arp_is_told_alone") {
        return;
    }
    assert!(
        served_without_gratuitous_arp(json!({"arp_cache": 1})),
        "the dead holder told who it is, and the new one tells it"
    );
    assert!(!served_without_gratuitous_arp(json!({"notify": []})), "by nothing else");
}

#[test]
fn another_member_confirms_who_answers() {
    if !root_or_skip("another_member_confirms_who_answers") {
        return;
    }
    let spec = ClusterSpec { ip6: true, ..spec(3, 2) };
    let cluster = cluster(spec, json!({}));
    // Of each family two: everything that is held here is confirmed by somebody else.
    let confirmed = |status: &Status| {
        let mine = |item: &&flip_core::status::ItemStatus| item.announced.is_some();
        let mut mine = status.items.iter().filter(mine).peekable();
        let by = |by: &Option<String>| by.as_ref().is_some_and(|by| *by != status.node);
        mine.peek().is_some() && mine.all(|item| by(&item.announced.as_ref().unwrap().confirmed_by))
    };
    for n in [0, 1] {
        cluster.wait_for(n, LIMIT, confirmed).unwrap();
    }
    let table = String::from_utf8(tell(&cluster, 0, &["status"]).stdout).unwrap();
    assert!(table.contains("announced, confirmed by h"), "{table}");
    until_logged(&cluster, &[0], &["announced, and confirmed"], LIMIT);
    // After a failover as well, by a member that lives.
    cluster.lab().cut(0).unwrap();
    cluster.wait_settled_among(&[1, 2], LIMIT).unwrap();
    let holder = cluster.holder_among(&[1, 2], vip(0)).unwrap();
    let other = format!("h{}", 3 - holder);
    let by_other = |status: &Status| announced(status, 0).confirmed_by.as_ref() == Some(&other);
    cluster.wait_for(holder, LIMIT, by_other).unwrap();
}

#[test]
fn another_host_that_answers_is_seen_and_spoken_against() {
    if !root_or_skip("another_host_that_answers_is_seen_and_spoken_against") {
        return;
    }
    for address in [vip(0), vip6(0)] {
        let cluster = cluster(ClusterSpec { ip6: true, ..spec(3, 1) }, json!({}));
        let lab = cluster.lab();
        let holder = cluster.holder(address).unwrap();
        let item = usize::from(address.is_ipv6());
        cluster.wait_for(holder, LIMIT, |status| announced(status, item).confirmed_by.is_some()).unwrap();
        // A host that is no member takes the address, and is found when somebody looks.
        lab.add_address(Who::Client, address).unwrap();
        let tap = lab.tap(Who::Host((holder + 1) % 3)).unwrap();
        let done = tell(&cluster, holder, &["announce", &address.to_string()]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let status =
            cluster.wait_for(holder, LIMIT, |status| announced(status, item).other.is_some()).unwrap();
        let seen = announced(&status, item);
        assert_eq!(seen.confirmed_by, None);
        assert!(seen.other.as_ref().is_some_and(|mac| mac.starts_with("02:77:00:00:00:")), "{seen:?}");
        until_logged(&cluster, &[holder], &["another host answers for it"], LIMIT);
        // It is announced again because of that: more than one announcement's burst.
        let enough = |frames: &[(Instant, Vec<u8>)]| {
            let of = frames.iter().filter(|(_, f)| announce::told(f).is_some_and(|(ip, _)| ip == address));
            of.filter(|(_, f)| f[0] & 1 == 1).count() > 2 * 5
        };
        tap.take_until(LIMIT, enough).unwrap();
        // It goes, and all is well.
        lab.delete_address(Who::Client, address).unwrap();
        tell(&cluster, holder, &["announce", &address.to_string()]);
        let status =
            cluster.wait_for(holder, LIMIT, |status| announced(status, item).confirmed_by.is_some()).unwrap();
        assert_eq!(announced(&status, item).other, None);
    }
}

#[test]
fn flip_announce_and_sigusr1_are_seen_on_the_wire() {
    if !root_or_skip("flip_announce_and_sigusr1_are_seen_on_the_wire") {
        return;
    }
    // No announcement comes by itself after the first second.
    let quiet = json!({"announce": {"count": 2, "again_after": [], "refresh": 0}, "notify": []});
    let cluster = cluster(spec(3, 2), quiet);
    assert_eq!((cluster.holder(vip(0)), cluster.holder(vip(1))), (Some(0), Some(1)));
    for n in [0, 1] {
        cluster.wait_for(n, LIMIT, |status| announced(status, n).confirmed_by.is_some()).unwrap();
    }
    let tap = cluster.lab().tap(Who::Client).unwrap();
    let spoken = |address| {
        let enough = |frames: &[(Instant, Vec<u8>)]| {
            let of = frames.iter().filter(|(_, f)| announce::told(f).is_some_and(|(ip, _)| ip == address));
            of.count() >= 4
        };
        tap.take_until(LIMIT, enough).unwrap()
    };
    let text = vip(0).to_string();
    let done = tell(&cluster, 0, &["announce", &text]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), format!("{text} is announced again by h0"));
    let frames = spoken(vip(0));
    // Both forms, byte by byte.
    let mac = frames.iter().find_map(|(_, frame)| announce::told(frame)).unwrap().1;
    for wanted in announce::frames(vip(0), mac, false) {
        assert!(frames.iter().any(|(_, frame)| frame[..42] == wanted), "{wanted:02x?}");
    }
    // Who does not hold it says who does.
    let refused = tell(&cluster, 2, &["announce", &text]);
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("not on h2 but on h0"), "{why}");
    let unknown = tell(&cluster, 0, &["announce", "192.0.2.1"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no item 192.0.2.1"));
    // All that is here, and nothing else.
    std::thread::sleep(Duration::from_millis(300));
    drop(tap.take());
    cluster.process(1).unwrap().signal(Signal::USR1).unwrap();
    spoken(vip(1));
    assert_eq!(told_of(&tap, vip(0)), (0, 0), "h0 was not asked");
    until_logged(&cluster, &[1], &["SIGUSR1: h1 announces 1 items again"], LIMIT);
    assert!(cluster.live().contains(&1), "the daemon lives");
}

#[test]
fn all_of_256_addresses_are_answered_again() {
    if !root_or_skip("all_of_256_addresses_are_answered_again") {
        return;
    }
    // It is an error when one of them is not. A profile of seconds, because so many addresses keep a busy machine
    // busier; times count from the verdict.
    let times = flip_tests::vip_bench::takeover(256, "lan", flip()).unwrap();
    assert_eq!(times.len(), 256);
    let part = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("from verdict to answer: median {:?}, p99 {:?}, last {:?}", part(50), part(99), part(100));
    // Nobody waits for the refresh of a minute, nor for a cache to grow old.
    assert!(part(100) < Duration::from_secs(10), "{:?}", part(100));
}
