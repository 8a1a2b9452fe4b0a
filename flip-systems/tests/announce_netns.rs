//! Announcements on a real wire: by whom, to whom, how fast and how often.

mod net;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use flip_systems::interfaces::Mac;
use flip_systems::ip::announce;
use flip_systems::{Said, Systems, interfaces, topic};
use net::*;
use serde_json::{Value, json};
use tokio::time::{Instant as TokioInstant, timeout, timeout_at};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

fn systems(items: &[&str], settings: Value) -> Systems {
    let mut config = config("v0", items);
    config.systems[0].config.extend(settings.as_object().unwrap().clone());
    Systems::open(&config).unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

/// Puts a neighbour into the cache, as if it had been heard long ago.
fn neighbour(address: &str, last: u8) {
    ip(&format!("neigh replace {address} lladdr {} dev v0 nud stale", mac(last)));
}

fn my_mac() -> Mac {
    interfaces().unwrap().into_iter().find(|i| i.name == "v0").unwrap().mac.unwrap()
}

/// Waits until all these frames were on the wire; others are given back.
async fn seen(wire: &mut Wire, wanted: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut missing: Vec<_> = wanted.to_vec();
    let mut others = Vec::new();
    while !missing.is_empty() {
        let Ok((_, frame)) = timeout(LONG, wire.next()).await else {
            panic!("never seen: {missing:02x?}, but {others:02x?}");
        };
        match missing.iter().position(|wanted| *wanted == frame) {
            Some(at) => drop(missing.remove(at)),
            None => others.push(frame),
        }
    }
    others
}

/// All frames of a while.
async fn frames(wire: &mut Wire, span: Duration) -> Vec<(Instant, Vec<u8>)> {
    let end = TokioInstant::now() + span;
    let mut all = Vec::new();
    while let Ok(frame) = timeout_at(end, wire.next()).await {
        all.push(frame);
    }
    all
}

/// Whether a frame is for one host.
fn is_to_one(frame: &[u8]) -> bool {
    frame[0] & 1 == 0
}

/// Whether a frame speaks for an address: ARP from it, or an advertisement of it.
fn speaks_for(frame: &[u8], address: IpAddr) -> bool {
    announce::told(frame).is_some_and(|(ip, _)| ip == address)
}

#[test]
fn neighbours_in_its_subnet_are_told_each() {
    in_namespace(|| async {
        ip("addr add 10.9.0.1/24 dev v0");
        ip("addr add 2001:db8:9::1/64 dev v0 nodad");
        for (address, last) in [
            ("10.9.0.99", 0x99),
            ("10.8.0.98", 0x98),
            ("2001:db8:9::97", 0x97),
            ("fe80::96", 0x96),
            ("2001:db8:8::95", 0x95),
        ] {
            neighbour(address, last);
        }
        let mut wire = Wire::tap("v1");
        let systems = systems(&[V4, V6], json!({}));
        for item in 0..2 {
            alive(&systems, item).await.unwrap();
        }
        let me = my_mac();
        let tell = |vip: &str, to: &str, last| announce::directed(addr(vip), me, false, addr(to), mac(last));
        let mut wanted = tell(V4, "10.9.0.99", 0x99);
        assert_eq!(wanted.len(), 2, "as a request and as a reply");
        wanted.extend(tell(V6, "2001:db8:9::97", 0x97));
        wanted.extend(tell(V6, "fe80::96", 0x96));
        let mut others = seen(&mut wire, &wanted).await;
        others
            .extend(frames(&mut wire, Duration::from_millis(300)).await.into_iter().map(|(_, frame)| frame));
        let more: Vec<_> = others
            .iter()
            .filter(|frame| is_to_one(frame))
            .filter(|frame| speaks_for(frame, addr(V4)) || speaks_for(frame, addr(V6)))
            .collect();
        assert!(more.is_empty(), "nobody else, and each once: {more:02x?}");
    });
}

#[test]
fn nobody_is_told_each_where_the_config_says_so() {
    in_namespace(|| async {
        ip("addr add 10.9.0.1/24 dev v0");
        neighbour("10.9.0.99", 0x99);
        let mut wire = Wire::tap("v1");
        let systems = systems(&[V4], json!({"notify": []}));
        alive(&systems, 0).await.unwrap();
        let all = frames(&mut wire, Duration::from_millis(400)).await;
        let told: Vec<_> = all.iter().filter(|(_, frame)| speaks_for(frame, addr(V4))).collect();
        assert!(told.len() >= 4 && told.iter().all(|(_, frame)| !is_to_one(frame)), "{told:02x?}");
    });
}

#[test]
fn the_hosts_of_a_network_are_asked_and_so_told() {
    in_namespace(|| async {
        ip("addr add 10.9.0.1/24 dev v0");
        neighbour("10.9.0.97", 0x97);
        let mut wire = Wire::tap("v1");
        let systems = systems(&[V4], json!({"notify": ["10.9.0.96/30", "10.7.0.0/24", "arp-cache"]}));
        alive(&systems, 0).await.unwrap();
        let me = my_mac();
        let mut wanted = announce::directed(addr(V4), me, false, addr("10.9.0.97"), mac(0x97));
        for host in [96, 98, 99] {
            let host = addr(&format!("10.9.0.{host}"));
            wanted.push(announce::question(host, addr(V4), me).unwrap());
        }
        let others = seen(&mut wire, &wanted).await;
        let outside = others.iter().filter(|frame| frame.get(38..41) == Some(&[10, 7, 0])).count();
        assert_eq!(outside, 0, "never outside its subnet");
    });
}

#[test]
fn an_address_that_leaves_is_spoken_for_no_more() {
    in_namespace(|| async {
        ip("addr add 10.9.0.1/24 dev v0");
        for last in 100..250 {
            neighbour(&format!("10.9.0.{last}"), last);
        }
        let mut wire = Wire::tap("v1");
        // Told one after the other, this takes seconds.
        let systems = systems(&[V4], json!({"announce_rate": 50}));
        alive(&systems, 0).await.unwrap();
        let mut told = 0;
        while told < 20 {
            let (_, frame) = timeout(LONG, wire.next()).await.unwrap();
            told += usize::from(is_to_one(&frame) && speaks_for(&frame, addr(V4)));
        }
        down(&systems, 0).await.unwrap();
        // What is here now was sent before.
        let mark = Instant::now();
        let after = frames(&mut wire, Duration::from_millis(300)).await;
        let late = Duration::from_millis(50);
        let spoke: Vec<_> =
            after.iter().filter(|(at, frame)| *at > mark + late && speaks_for(frame, addr(V4))).collect();
        assert!(spoke.is_empty(), "{spoke:02x?}");
    });
}

#[test]
fn so_many_frames_a_second_and_all_firsts_before_any_second() {
    in_namespace(|| async {
        const ADDRESSES: usize = 100;
        const RATE: usize = 100;
        let items: Vec<_> = (0..ADDRESSES).map(|n| format!("10.9.1.{n}")).collect();
        let items: Vec<_> = items.iter().map(String::as_str).collect();
        let mut wire = Wire::tap("v1");
        let systems = systems(&items, json!({"announce_rate": RATE}));
        let start = Instant::now();
        for item in 0..ADDRESSES {
            alive(&systems, item).await.unwrap();
        }
        let mut order = Vec::new();
        let mut counts: BTreeMap<IpAddr, u32> = BTreeMap::new();
        while counts.len() < ADDRESSES || counts.values().any(|count| *count < 4) {
            let (at, frame) = timeout(LONG, wire.next()).await.unwrap();
            if let Some(address) = announced(&frame) {
                *counts.entry(address).or_default() += 1;
                order.push((at - start, counts[&address]));
            }
        }
        // An announcement is two frames: a third one is of the second announcement.
        let second = order.iter().position(|(_, count)| *count > 2).unwrap();
        assert_eq!(order[..second].len(), 2 * ADDRESSES);
        let within = |span| order.iter().filter(|(at, _)| *at < span).count();
        let (half, whole) = (within(Duration::from_millis(500)), within(Duration::from_millis(2500)));
        assert!(half <= RATE + RATE / 2 + 5, "{half} frames in half a second");
        assert!(whole <= RATE * 7 / 2 + 5, "{whole} frames in two seconds and a half");
        let firsts = order[second - 1].0;
        assert!(firsts < Duration::from_secs(3), "{firsts:?}");
    });
}

#[test]
fn the_schedule_is_the_configs_and_an_items_own() {
    in_namespace(|| async {
        let mut own = config("v0", &[V4, V6]);
        let settings = json!({"announce": {"count": 2, "interval": 50, "again_after": [], "refresh": 0}});
        own.systems[0].config.extend(settings.as_object().unwrap().clone());
        own.systems[0].items[1].own =
            Some(json!({"announce": {"count": 3, "interval": 100}}).as_object().unwrap().clone());
        let mut wire = Wire::tap("v1");
        let systems = Systems::open(&own).unwrap();
        for item in 0..2 {
            alive(&systems, item).await.unwrap();
        }
        let all = frames(&mut wire, Duration::from_millis(1500)).await;
        let at = |text: &str| -> Vec<_> {
            let of = |(at, frame): &(Instant, Vec<u8>)| (announced(frame) == Some(addr(text))).then_some(*at);
            all.iter().filter_map(of).collect()
        };
        let (v4, v6) = (at(V4), at(V6));
        assert_eq!(v4.len(), 4, "two announcements of two frames, and no more");
        assert_close(v4[2] - v4[0], Duration::from_millis(50));
        assert_eq!(v6.len(), 3);
        assert_close(v6[2] - v6[0], Duration::from_millis(200));
    });
}

#[test]
fn neighbours_that_another_server_knows_are_told() {
    in_namespace(|| async {
        ip("addr add 10.9.0.1/24 dev v0");
        neighbour("10.9.0.99", 0x99);
        neighbour("10.8.0.98", 0x98);
        // Another server tells of its neighbours soon after its start, and then each second.
        let other = systems(&[V4], json!({"arp_cache": 1}));
        let said = timeout(LONG, other.said()).await.unwrap();
        let Said { to: None, topic: topic::NEIGHBOURS, data } = said else { panic!("{said:?}") };
        timeout(LONG, other.said()).await.expect("again");
        drop(other);

        ip("neigh flush all");
        let mut wire = Wire::tap("v1");
        let systems = systems(&[V4], json!({}));
        systems.heard(1, topic::NEIGHBOURS, b"\xffanother version");
        systems.heard(1, topic::NEIGHBOURS, &data);
        alive(&systems, 0).await.unwrap();
        let wanted = announce::directed(addr(V4), my_mac(), false, addr("10.9.0.99"), mac(0x99));
        seen(&mut wire, &wanted).await;
    });
}

#[test]
fn servers_that_want_no_shared_cache_say_nothing() {
    in_namespace(|| async {
        ip("addr add 10.9.0.1/24 dev v0");
        neighbour("10.9.0.99", 0x99);
        let systems = systems(&[V4], json!({"arp_cache": 0}));
        timeout(Duration::from_secs(3), systems.said()).await.expect_err("a word");
    });
}
