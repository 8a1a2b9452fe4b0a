//! Asking whether somebody has an address before it is taken, behind a switch that passes on only what was asked for.

mod net;

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use flip_systems::interfaces::Mac;
use flip_systems::ip::announce;
use net::hosts::*;
use net::*;

/// Nobody has it, and nobody here wants it.
const NOBODYS: &str = "2001:db8:9::77";

/// Whether the kernel has joined the solicited-node group of an address in this network.
fn joined(address: &str) -> bool {
    let [.., a, b, c] = address.parse::<Ipv6Addr>().unwrap().octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap().contains(&group)
}

/// How many solicitations for an address arrive at a host within a moment.
fn solicited(host: &Host, wanted: &str) -> usize {
    let wanted = wanted.parse::<Ipv6Addr>().unwrap().octets();
    let (tell, told) = channel();
    host.run(move || {
        let socket = packet_socket("v0", (libc::ETH_P_IPV6 as u16).to_be());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let end = Instant::now() + Duration::from_millis(300);
        let (mut buffer, mut seen) = ([0u8; 256], 0);
        while Instant::now() < end {
            // SAFETY: the pointer and the length are those of a live array.
            let length =
                unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(length) = usize::try_from(length) else { continue };
            let frame = &buffer[..length];
            seen += usize::from(frame.get(54) == Some(&135) && frame.get(62..78) == Some(&wanted));
        }
        tell.send(seen).unwrap();
    });
    told.recv().unwrap()
}

/// Another host that is about to use the address asks for it at the same time, to its solicited-node group (RFC 4862
/// §5.4.3). A bridge that follows MLD sends that only to ports from which somebody has joined.
#[test]
fn who_asks_at_the_same_time_is_heard_behind_a_switch_that_follows_mld() {
    in_namespace(|| async {
        let [a, b] = lan();
        // It follows MLD once it has asked for members, from an address of its own, and waited for their answers.
        while ip("-6 addr show dev br0 scope link -tentative").is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ip("link set br0 type bridge mcast_snooping 1 mcast_query_response_interval 10");
        ip("link set br0 type bridge mcast_startup_query_interval 50 mcast_querier 1");
        let mut asking = config("v0", &[V6]);
        asking.systems[0].config.insert("probe".to_owned(), 500.into());
        a.open(&asking);
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&stop);
        b.run(move || {
            let socket = packet_socket("v0", 0);
            let mac = Mac([2, 0, 0x5e, 0, 0, 0x53]);
            let nobody = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            let frames =
                [V6, NOBODYS].map(|ip| announce::question(ip.parse().unwrap(), nobody, mac).unwrap());
            std::thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    for frame in &frames {
                        socket.send(frame).unwrap();
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        });
        let mut tries = 0;
        while solicited(&a, V6) > 0 {
            tries += 1;
            assert!(tries < 30, "the bridge passes on what nobody asked for");
        }
        let error = a.alive(0).unwrap_err();
        assert!(error.contains("02:00:5e:00:00:53, which is no member"), "{error}");
        a.run(|| assert!(!joined(V6), "the group is left again"));
        assert_eq!(solicited(&a, NOBODYS), 0, "the bridge still holds back the others");
        stop.store(true, Ordering::Relaxed);
        // Without that host it is taken.
        tokio::time::sleep(Duration::from_millis(100)).await;
        a.alive(0).unwrap();
        a.run(|| assert!(!bound("v0", V6).is_empty() && joined(V6)));
    });
}
