//! The ip system against the real kernel, in network namespaces of its own.
//!
//! Each test runs on a thread that has left the machine's network for a fresh one, which ends with
//! the thread, whatever happens: `lo`, and the two ends `v0` and `v1` of one cable. Needs root;
//! without it the tests say that they were skipped, or fail with FLIP_REQUIRE_ROOT=1.

mod net;

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flip_core::HookAction;
use flip_core::config::Config;
use flip_systems::{Leftover, Systems, Witness, interfaces};
use net::*;
use rustix::thread::CapabilitySet;
use serde_json::Value;
use tokio::time::timeout;

#[test]
fn addresses_come_and_go() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4, V6, "10.9.1.6/24"])).unwrap();
        for round in ["fresh", "repeated"] {
            for item in 0..3 {
                alive(&systems, item).await.unwrap_or_else(|e| panic!("{round}: {e}"));
            }
        }
        let v4 = bound("v0", V4);
        assert_eq!(v4.len(), 1, "{v4:?}");
        assert_eq!(v4[0]["prefixlen"], 32);
        assert_eq!(v4[0]["label"], "v0:flip");
        assert_eq!(v4[0]["deprecated"], true);
        let v6 = bound("v0", V6);
        assert_eq!(v6.len(), 1, "{v6:?}");
        assert_eq!(v6[0]["prefixlen"], 128);
        assert_eq!(v6[0]["nodad"], true);
        assert_eq!(v6[0]["deprecated"], true);
        assert_eq!(bound("v0", "10.9.1.6")[0]["prefixlen"], 24);
        assert_eq!(here(&systems).await, [true, true, true]);

        for _ in 0..2 {
            for item in 0..3 {
                down(&systems, item).await.unwrap();
            }
        }
        for address in [V4, V6, "10.9.1.6"] {
            assert_eq!(bound("v0", address), [] as [Value; 0]);
        }
        assert_eq!(here(&systems).await, [false, false, false]);
    });
}

#[test]
fn a_virtual_address_is_no_source_address() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        // The host's own come second, which is the harder case.
        alive(&systems, 0).await.unwrap();
        alive(&systems, 1).await.unwrap();
        ip("addr add 10.9.0.1/24 dev v0");
        ip("addr add 2001:db8:9::1/64 dev v0 nodad");
        for (to, from) in [("10.9.0.9", "10.9.0.1"), ("2001:db8:9::9", "2001:db8:9::1")] {
            let route = ip_json(&format!("route get {to}"));
            assert_eq!(route[0]["prefsrc"], from, "{route}");
        }
    });
}

#[test]
fn what_is_there_already_becomes_ours() {
    in_namespace(|| async {
        ip(&format!("addr add {V4}/32 dev v0"));
        ip(&format!("addr add {V6}/128 dev v0"));
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        assert_eq!(systems.leftovers(), []);
        assert_eq!(here(&systems).await, [true, true], "tolerated");
        for (item, address) in [V4, V6].into_iter().enumerate() {
            alive(&systems, item).await.unwrap();
            let bound = bound("v0", address);
            assert_eq!(bound.len(), 1, "{bound:?}");
            assert_eq!(bound[0]["deprecated"], true, "{bound:?}");
        }
        // The labels are not ours, so only IFA_PROTO can tell; this iproute2 does not show it.
        drop(systems);
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        assert_eq!(systems.leftovers().iter().filter(|l| l.adopted).count(), 2);
    });
}

#[test]
fn siblings_on_one_host_leave_each_other_alone() {
    in_namespace(|| async {
        let mut second = config("v0", &[V4, V6]);
        let first = second.servers[0].clone();
        second.servers.push(first);
        let first = second.clone();
        second.me = 1;
        let first = Systems::open(&first).unwrap();
        for item in 0..2 {
            alive(&first, item).await.unwrap();
        }
        let second = Systems::open(&second).unwrap();
        assert_eq!(second.leftovers(), []);
        assert_eq!(here(&second).await, [false, false]);
        down(&second, 0).await.unwrap();
        assert_eq!(here(&first).await, [true, true], "not the sibling's to take down");

        for item in 0..2 {
            alive(&second, item).await.unwrap();
        }
        assert_eq!(here(&first).await, [false, false]);
        for item in 0..2 {
            down(&first, item).await.unwrap();
        }
        assert_eq!(here(&second).await, [true, true], "taken over without a gap");
        assert_eq!((bound("v0", V4).len(), bound("v0", V6).len()), (1, 1));
    });
}

#[test]
fn a_foreign_prefix_leaves_too() {
    in_namespace(|| async {
        ip(&format!("addr add {V4}/24 dev v0"));
        ip(&format!("addr add {V6}/64 dev v0"));
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        assert_eq!(here(&systems).await, [true, true]);
        for (item, address) in [V4, V6].into_iter().enumerate() {
            alive(&systems, item).await.unwrap();
            down(&systems, item).await.unwrap();
            assert_eq!(bound("v0", address), [] as [Value; 0]);
        }
    });
}

#[test]
fn an_item_with_a_prefix_does_not_take_the_host_along() {
    in_namespace(|| async {
        std::fs::write("/proc/sys/net/ipv4/conf/v0/promote_secondaries", "0").unwrap();
        let systems = Systems::open(&config("v0", &["10.9.0.5/24"])).unwrap();
        alive(&systems, 0).await.unwrap();
        ip("addr add 10.9.0.1/24 dev v0");
        down(&systems, 0).await.unwrap();
        assert_eq!(bound("v0", "10.9.0.1").len(), 1);
    });
}

#[test]
fn leftovers_are_kept_or_removed() {
    in_namespace(|| async {
        let before = Systems::open(&config("v0", &[V4, V6, "10.9.0.6", "10.9.0.7"])).unwrap();
        for item in 0..4 {
            alive(&before, item).await.unwrap();
        }
        drop(before);

        let kept = |what: &str| Leftover { what: what.to_owned(), adopted: true };
        let removed = |what: &str| Leftover { what: what.to_owned(), adopted: false };
        let after = Systems::open(&config("v0", &[V4, V6, "10.9.0.7/24"])).unwrap();
        assert_eq!(
            after.leftovers(),
            [
                kept("10.9.0.5/32 on v0"),
                removed("10.9.0.6/32 on v0"),
                removed("10.9.0.7/32 on v0"),
                kept("2001:db8:9::5/128 on v0"),
            ]
        );
        assert_eq!(here(&after).await, [true, true, false]);
        assert_eq!(bound("v0", "10.9.0.6"), [] as [Value; 0]);
        drop(after);

        let moved = Systems::open(&config("v1", &[V4])).unwrap();
        assert_eq!(moved.leftovers(), [removed("10.9.0.5/32 on v0"), removed("2001:db8:9::5/128 on v0")]);
        assert_eq!(here(&moved).await, [false]);
    });
}

#[test]
fn changes_by_others_are_reported_and_own_ones_are_not() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4, V6, "10.9.0.6"])).unwrap();
        for _ in 0..3 {
            for item in 0..2 {
                alive(&systems, item).await.unwrap();
                down(&systems, item).await.unwrap();
                alive(&systems, item).await.unwrap();
            }
        }
        // Whatever was reported of the own changes would come before these.
        ip(&format!("addr del {V4}/32 dev v0"));
        assert_eq!(systems.drift().await, (item(0), false));
        ip(&format!("addr del {V6}/128 dev v0"));
        assert_eq!(systems.drift().await, (item(1), false));
        ip("addr add 10.9.0.6/32 dev v0");
        assert_eq!(systems.drift().await, (item(2), true));
        systems.run(call(0, HookAction::Announce)).await.unwrap_err();

        alive(&systems, 0).await.unwrap();
        ip("link del v0");
        let mut gone = [systems.drift().await, systems.drift().await];
        gone.sort();
        assert_eq!(gone, [(item(0), false), (item(2), false)]);
    });
}

#[test]
fn a_flood_of_changes_hides_nothing() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4])).unwrap();
        alive(&systems, 0).await.unwrap();
        // The runtime gets no turn while this runs, so the kernel must drop notices, the one that
        // counts among them.
        let mut batch = String::new();
        for n in 0..4000 {
            let address = format!("10.8.{}.{}/32 dev v1", n / 250, n % 250 + 1);
            batch.push_str(&format!("addr add {address}\n"));
        }
        batch.push_str(&format!("addr del {V4}/32 dev v0\n"));
        let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(systems.drift().await, (item(0), false));
        // The kernel goes on to drop notices until the queue has been read empty, without a word.
        alive(&systems, 0).await.unwrap();
        ip(&format!("addr del {V4}/32 dev v0"));
        assert_eq!(systems.drift().await, (item(0), false));
    });
}

#[test]
fn a_link_that_was_replaced_is_found() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4])).unwrap();
        alive(&systems, 0).await.unwrap();
        ip("link del v0");
        assert_eq!(systems.drift().await, (item(0), false));
        cable();
        alive(&systems, 0).await.unwrap();
        assert_eq!(bound("v0", V4).len(), 1);
    });
}

#[test]
fn a_renamed_link_is_another_one() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4])).unwrap();
        alive(&systems, 0).await.unwrap();
        ip("link set v0 down");
        ip("link set v0 name v9");
        assert_eq!(systems.drift().await, (item(0), false));
        assert_eq!(alive(&systems, 0).await.unwrap_err(), "no interface v0; there are: lo, v1, v9");
    });
}

#[test]
fn errors_are_for_people() {
    in_namespace(|| async {
        let systems = Systems::open(&config("lo0", &[V4])).unwrap();
        assert_eq!(alive(&systems, 0).await.unwrap_err(), "no interface lo0; there are: lo, v1, v0");
        down(&systems, 0).await.unwrap();

        ip("link set v0 down");
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        assert_eq!(alive(&systems, 0).await.unwrap_err(), "interface v0 is down: bring it up");
        ip("link set v0 up");
        std::fs::write("/proc/sys/net/ipv6/conf/v0/disable_ipv6", "1").unwrap();
        let error = alive(&systems, 1).await.unwrap_err();
        assert!(error.contains("IPv6 is disabled there"), "{error}");

        let open = |config: &Config| Systems::open(config).err().map(|e| e.to_string()).unwrap();
        assert_eq!(open(&config("v0", &["web"])), "system ip: item \"web\": expected addresses (`Item::ip`)");

        // From here on this thread may do less and less; it ends with the test.
        alive(&systems, 0).await.unwrap();
        give_up(CapabilitySet::NET_RAW);
        assert!(open(&config("v0", &[V4])).starts_with("CAP_NET_RAW is missing: run flip as root"));
        give_up(CapabilitySet::NET_ADMIN);
        assert!(open(&config("v0", &[V4])).starts_with("CAP_NET_ADMIN is missing: run flip as root"));
        let error = alive(&systems, 0).await.unwrap_err();
        assert!(error.starts_with("cannot add 10.9.0.5/32 to v0: CAP_NET_ADMIN is missing"), "{error}");
        let error = down(&systems, 0).await.unwrap_err();
        assert!(error.starts_with("cannot delete 10.9.0.5/32 from v0: CAP_NET_ADMIN is missing"), "{error}");
    });
}

#[test]
fn a_takeover_is_seen_on_the_wire() {
    in_namespace(|| async {
        let mut wire = Wire::tap("v1");
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        let start = Instant::now();
        alive(&systems, 0).await.unwrap();
        alive(&systems, 1).await.unwrap();
        let mac = interfaces().unwrap().into_iter().find(|i| i.name == "v0").unwrap().mac.unwrap();

        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        while v4.len() < 8 || v6.len() < 4 {
            let (at, frame) = wire.next().await;
            match announced(&frame) {
                Some(IpAddr::V4(ip)) if ip.to_string() == V4 => {
                    assert_eq!(frame[6..12], mac.0);
                    assert_eq!(frame.len(), 42);
                    v4.push((at.duration_since(start), u32::from(frame[21])));
                }
                Some(IpAddr::V6(ip)) if ip.to_string() == V6 => {
                    assert_eq!((frame[21], frame[58], frame.len()), (255, 0x20, 86));
                    v6.push((at.duration_since(start), 0));
                }
                Some(_) | None => {}
            }
        }
        let due = [0, 100, 200, 1000].map(Duration::from_millis);
        let form = |n: usize| (n % 2 + 1) as u32;
        for (n, (at, operation)) in v4.iter().enumerate() {
            assert_eq!(*operation, form(n), "request, reply, request, reply");
            assert_close(*at, due[n / 2]);
        }
        for (n, (at, _)) in v6.iter().enumerate() {
            assert_close(*at, due[n]);
        }
    });
}

#[test]
fn nothing_is_announced_after_down() {
    in_namespace(|| async {
        const MARK: &str = "10.9.0.9";
        let mut wire = Wire::tap("v1");
        let systems = Systems::open(&config("v0", &[V4, V6, MARK])).unwrap();
        for item in 0..2 {
            alive(&systems, item).await.unwrap();
            wire.announcement().await;
            down(&systems, item).await.unwrap();
        }
        // What was sent before is seen before this; the next of the burst would come after it.
        alive(&systems, 2).await.unwrap();
        let end = tokio::time::Instant::now() + Duration::from_millis(300);
        let mut marked = false;
        while let Ok((_, frame)) = tokio::time::timeout_at(end, wire.next()).await {
            let Some(address) = announced(&frame) else { continue };
            marked |= address.to_string() == MARK;
            assert!(!marked || address.to_string() == MARK, "{address} was announced after down");
        }
        assert!(marked);
    });
}

#[test]
fn a_burst_can_be_started_again() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V6])).unwrap();
        alive(&systems, 0).await.unwrap();
        let mut wire = Wire::tap("v1");
        let start = Instant::now();
        systems.run(call(0, HookAction::Announce)).await.unwrap();
        wire.announcement().await;
        assert_close(wire.announcement().await - start, Duration::from_millis(100));

        // So does a link that lost its carrier; IPv4, because IPv6 addresses don't survive that here.
        let systems = Systems::open(&config("v0", &[V4])).unwrap();
        alive(&systems, 0).await.unwrap();
        ip("link set v1 down");
        let mut wire = Wire::tap("v1");
        ip("link set v1 up");
        wire.announcement().await;

        // And a new hardware address.
        ip("link set v0 address 02:00:00:00:00:77");
        loop {
            let (_, frame) = wire.next().await;
            if announced(&frame).is_some() && frame[6..12] == [2, 0, 0, 0, 0, 0x77] {
                break;
            }
        }
    });
}

#[test]
fn routers_say_so() {
    in_namespace(|| async {
        std::fs::write("/proc/sys/net/ipv6/conf/v0/forwarding", "1").unwrap();
        let mut wire = Wire::tap("v1");
        let systems = Systems::open(&config("v0", &[V6])).unwrap();
        alive(&systems, 0).await.unwrap();
        loop {
            let (_, frame) = wire.next().await;
            if announced(&frame).is_some() {
                assert_eq!(frame[58], 0xa0);
                break;
            }
        }
    });
}

#[test]
fn loopback_has_nobody_to_tell() {
    in_namespace(|| async {
        let mut wire = Wire::tap("lo");
        let systems = Systems::open(&config("lo", &[V4, V6])).unwrap();
        for item in 0..2 {
            alive(&systems, item).await.unwrap();
            systems.run(call(item, HookAction::Announce)).await.unwrap();
        }
        assert_eq!(bound("lo", V4)[0]["label"], "lo:flip");
        timeout(Duration::from_millis(150), wire.announcement()).await.expect_err("an announcement on lo");
    });
}

/// The kernel acknowledges an IPv6 address before it takes in what is sent there, and whoever is told that it came
/// sends something at once.
#[test]
fn what_is_sent_to_an_address_that_came_arrives() {
    in_namespace(|| async {
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        for (item, address) in [V4, V6].into_iter().enumerate() {
            let address: IpAddr = address.parse().unwrap();
            let any: IpAddr = if item == 0 { [0; 4].into() } else { [0; 16].into() };
            let server = UdpSocket::bind((any, 0)).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let client = UdpSocket::bind((any, 0)).unwrap();
            for round in 0..100u8 {
                alive(&systems, item).await.unwrap();
                let to = (address, server.local_addr().unwrap().port());
                let sent = client.send_to(&[round], to);
                assert_eq!(sent.map_err(|error| format!("{address}, round {round}: {error}")), Ok(1));
                let mut buffer = [0];
                server.recv(&mut buffer).unwrap();
                assert_eq!(buffer, [round]);
                // It is there already, and so is its route.
                alive(&systems, item).await.unwrap();
                down(&systems, item).await.unwrap();
            }
        }
    });
}

#[test]
fn a_takeover_is_quick() {
    in_namespace(|| async {
        const ROUNDS: usize = 300;
        let systems = Systems::open(&config("v0", &[V4, V6])).unwrap();
        for (item, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let (mut up, mut gone) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let start = Instant::now();
                alive(&systems, item).await.unwrap();
                up.push(start.elapsed());
                let start = Instant::now();
                down(&systems, item).await.unwrap();
                gone.push(start.elapsed());
            }
            up.sort();
            gone.sort();
            println!(
                "{name}: alive median {:?}, p99 {:?}; down median {:?}, p99 {:?}",
                up[ROUNDS / 2],
                up[ROUNDS * 99 / 100],
                gone[ROUNDS / 2],
                gone[ROUNDS * 99 / 100]
            );
            assert!(up[ROUNDS / 2] < Duration::from_millis(1));
        }
    });
}

#[test]
fn a_witness_is_asked_whether_ping_sockets_are_allowed_or_not() {
    in_namespace(|| async {
        for groups in ["1 0", "0 0"] {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", groups).unwrap();
            for (address, length) in [(V4, 32), (V6, 128)] {
                let witness = Witness::open(address.parse().unwrap()).unwrap();
                // There is no route, and the answer to a later question is not held up by it.
                witness.ping(1);
                timeout(Duration::from_millis(30), witness.answered()).await.expect_err("an answer");
                ip(&format!("addr add {address}/{length} dev lo"));
                // An IPv6 address is not there at once, even on lo.
                let answer = loop {
                    witness.ping(2);
                    if let Ok(answer) = timeout(Duration::from_millis(100), witness.answered()).await {
                        break answer.unwrap();
                    }
                };
                assert_eq!(answer, 2, "{address}, {groups}");
                ip(&format!("addr del {address}/{length} dev lo"));
            }
        }
        give_up(CapabilitySet::NET_RAW);
        assert!(Witness::open(V4.parse().unwrap()).is_ok(), "ping sockets need no privilege");
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "1 0").unwrap();
        let error = Witness::open(V4.parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    });
}
