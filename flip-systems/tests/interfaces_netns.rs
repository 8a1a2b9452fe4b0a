//! Where addresses are put and what comes with them, against the real kernel and real neighbours: links with
//! hardware addresses of their own, source addresses, routes and rules, bridges and VLANs.

mod net;

use std::process::Command;
use std::time::{Duration, Instant};

use flip_core::config::{Config, IpItem, Scope};
use flip_systems::Systems;
use net::hosts::*;
use net::*;
use tokio::time::timeout;

const MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 7];
const MAC_TEXT: &str = "00:00:5e:00:01:07";

fn ips(config: &mut Config) -> impl Iterator<Item = &mut IpItem> {
    config.systems[0].items.iter_mut().filter_map(|item| item.ip.as_mut())
}

fn with_mac(mut config: Config) -> Config {
    ips(&mut config).flat_map(|ip| &mut ip.parts).for_each(|part| part.mac = Some(MAC));
    config
}

/// The links that flip made here.
fn own_links() -> Vec<String> {
    let all = ip_json("link show");
    let names = all.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("flip")).collect()
}

fn route_json(arguments: &str) -> Vec<String> {
    let all = ip_json(arguments);
    all.as_array().unwrap().iter().map(|route| route["dst"].as_str().unwrap().to_owned()).collect()
}

/// Who a frame says has an address: (address, hardware address) of an ARP packet's sender.
fn arp_sender(frame: &[u8]) -> Option<([u8; 4], [u8; 6])> {
    (frame.get(12..14)? == [0x08, 0x06])
        .then(|| Some((frame.get(28..32)?.try_into().ok()?, frame.get(22..28)?.try_into().ok()?)))?
}

#[test]
fn neighbours_need_to_learn_nothing_when_a_virtual_hardware_address_moves() {
    in_namespace(|| async {
        let [a, b] = lan();
        let config = with_mac(groups("v0", &[&[V4, V6]]));
        a.open(&config);
        b.open(&config);
        let mut wire = Wire::tap("br0");
        a.alive(0).unwrap();
        assert!(answers(V4) && answers(V6));
        assert_eq!([V4, V6].map(neighbour), [MAC_TEXT, MAC_TEXT].map(|mac| Some(mac.to_owned())));
        // The host's own address has the host's own.
        assert!(answers("10.9.0.1"));
        assert_ne!(neighbour("10.9.0.1").unwrap(), MAC_TEXT);

        for (to, from) in [(&b, &a), (&a, &b)] {
            // A host that must ask for its neighbours does not ask in the item's name.
            to.run(|| drop(ip("neigh flush dev v0")));
            to.alive(0).unwrap();
            from.down(0).unwrap();
            assert!(answers(V4) && answers(V6));
            assert_eq!([V4, V6].map(neighbour), [MAC_TEXT, MAC_TEXT].map(|mac| Some(mac.to_owned())));
            // Who asks anew is told the same, by one host.
            ip("neigh flush dev br0");
            assert!(answers(V4) && answers(V6));
            assert_eq!([V4, V6].map(neighbour), [MAC_TEXT, MAC_TEXT].map(|mac| Some(mac.to_owned())));
            from.run(|| assert_eq!(own_links(), [] as [String; 0]));
        }
        let (mut seen, end) = (0, tokio::time::Instant::now() + Duration::from_millis(100));
        while let Ok((_, frame)) = tokio::time::timeout_at(end, wire.next()).await {
            if let Some((sender, mac)) = arp_sender(&frame)
                && sender == [10, 9, 0, 5]
            {
                assert_eq!(mac, MAC, "{frame:02x?}");
                seen += 1;
            }
        }
        assert!(seen >= 6, "{seen} ARP packets from the address");
    });
}

#[test]
fn a_link_of_its_own_is_made_kept_and_removed() {
    in_namespace(|| async {
        let config = with_mac(groups("v0", &[&[V4, V6, "10.9.1.5@v1"]]));
        let systems = Systems::open(&config).unwrap();
        for _ in 0..2 {
            alive(&systems, 0).await.unwrap();
            let links = own_links();
            assert_eq!(links.len(), 2, "one on each interface: {links:?}");
        }
        let links = own_links();
        let on = links.iter().find(|link| !bound(link, V4).is_empty()).expect("one has the address").clone();
        assert_eq!(bound(&on, V6).len(), 1);
        assert_eq!(bound("v0", V4).len(), 0);
        let shown = &ip_json(&format!("-d link show dev {on}"))[0];
        assert_eq!((&shown["address"], &shown["link"]), (&MAC_TEXT.into(), &"v0".into()));
        assert_eq!(shown["linkinfo"]["info_kind"], "macvlan");
        let addresses = ip_json(&format!("addr show dev {on}"))[0]["addr_info"].as_array().unwrap().len();
        assert_eq!(addresses, 2, "none of the kernel's making");

        // Somebody deletes it.
        ip(&format!("link del {on}"));
        assert_eq!(systems.drift().await, (item(0), false));
        alive(&systems, 0).await.unwrap();
        assert_eq!((own_links().len(), bound(&on, V4).len()), (2, 1));
        assert_eq!(here(&systems).await, [true]);

        // The next life finds it, and keeps it for as long as it is in the config.
        drop(systems);
        let systems = Systems::open(&config).unwrap();
        assert_eq!(here(&systems).await, [true]);
        assert_eq!(own_links().len(), 2);
        drop(systems);
        let systems = Systems::open(&groups("v0", &[&["10.9.0.6"]])).unwrap();
        assert_eq!(own_links(), [] as [String; 0]);
        assert_eq!(here(&systems).await, [false]);
        drop(systems);

        // A hook that fails leaves none behind, and a stop neither.
        let systems = Systems::open(&with_mac(groups("v0", &[&[V4, "10.9.1.5@wan"]]))).unwrap();
        assert_eq!(alive(&systems, 0).await.unwrap_err(), "no interface wan; there are: lo, v1, v0");
        assert_eq!(own_links(), [] as [String; 0]);
        let systems = Systems::open(&config).unwrap();
        alive(&systems, 0).await.unwrap();
        down(&systems, 0).await.unwrap();
        assert_eq!(own_links(), [] as [String; 0]);
        // Two items with one hardware address: the kernel refuses the second, and nothing of it stays.
        let systems = Systems::open(&with_mac(groups("v0", &[&[V4], &["10.9.0.6"]]))).unwrap();
        alive(&systems, 0).await.unwrap();
        let error = alive(&systems, 1).await.unwrap_err();
        assert!(error.contains("cannot make the link flip") && error.contains("on v0"), "{error}");
        assert_eq!(own_links().len(), 1);
    });
}

#[test]
fn a_virtual_address_is_never_the_source_of_a_connection() {
    in_namespace(|| async {
        let [a, _b] = lan();
        ip("addr add 10.77.0.1/32 dev lo");
        ip("link set lo up");
        let mut config =
            groups("v0", &[&[V4], &[V6], &["10.9.0.6/24"], &["2001:db8:9::6/64"], &["10.9.0.7/28"]]);
        // Its network is a part of the host's: the kernel would make a route to it with this as the source.
        ips(&mut config).last().unwrap().parts[0].noprefixroute = true;
        a.open(&config);
        for item in 0..5 {
            a.alive(item).unwrap();
        }
        a.run(|| drop(ip(&format!("route add default via {CLIENT}"))));
        for (to, from) in [(CLIENT, "10.9.0.1"), (CLIENT6, "2001:db8:9::1"), ("10.77.0.1", "10.9.0.1")] {
            assert_eq!(a.source_seen_at(to).to_string(), from, "to {to}");
        }

        // The host's own address is gone and comes back, so that it is the last of all.
        a.down(2).unwrap();
        a.run(|| {
            ip("addr del 10.9.0.1/24 dev v0");
            ip("addr del 2001:db8:9::1/64 dev v0");
            ip("addr add 10.9.0.1/24 dev v0");
            ip("addr add 2001:db8:9::1/64 dev v0 nodad");
            ip(&format!("route replace default via {CLIENT}"));
        });
        for (to, from) in [(CLIENT, "10.9.0.1"), (CLIENT6, "2001:db8:9::1"), ("10.77.0.1", "10.9.0.1")] {
            assert_eq!(a.source_seen_at(to).to_string(), from, "to {to}, the own address being the last");
        }

        // A route without a next hop takes the first address of the link, whichever that is.
        let mut config = groups("v0", &[&[V4]]);
        for (scope, from) in [(Scope::Global, V4), (Scope::Host, "10.9.0.1")] {
            ips(&mut config).for_each(|ip| ip.parts[0].scope = scope);
            a.run(|| {
                ip("addr flush dev v0");
                ip("addr add 10.9.0.1/24 dev v0");
            });
            a.open(&config);
            a.alive(0).unwrap();
            a.run(|| {
                ip("addr del 10.9.0.1/24 dev v0");
                ip("addr add 10.9.0.1/24 dev v0");
                ip("route replace 10.77.0.1/32 dev v0");
            });
            assert_eq!(a.source_seen_at("10.77.0.1").to_string(), from, "scope {scope:?}");
            assert!(answers(V4), "it is answered all the same");
            a.down(0).unwrap();
        }
    });
}

#[test]
fn a_scope_that_the_kernel_refuses_is_named() {
    in_namespace(|| async {
        ip("addr add 10.9.0.1/24 dev v0");
        let mut config = groups("v0", &[&["10.9.0.5/24"]]);
        ips(&mut config).for_each(|ip| ip.parts[0].scope = Scope::Host);
        let systems = Systems::open(&config).unwrap();
        let error = alive(&systems, 0).await.unwrap_err();
        assert!(error.starts_with("cannot add 10.9.0.5/24 to v0: "), "{error}");
        assert!(error.contains("another scope"), "{error}");
    });
}

/// The config of the address with a table of its own: what comes to it leaves over the test's network.
fn routed() -> Config {
    let text = r#"{"id": "n", "servers": {"n": {"ip": "127.0.0.1", "systems": ["ip"]}}, "cluster": {"system": {"ip": {
        "config": {"interface": "v0"}, "data": [
        {"ip": "10.9.0.5", "routes": [{"to": "default", "via": "10.9.0.100", "table": 100, "src": "10.9.0.5"}],
         "rules": [{"table": 100, "priority": 1000}, {"to": "10.77.0.1", "table": 100, "priority": 1001}]},
        {"ip": "2001:db8:9::5", "routes": [{"to": "2001:db8:77::/64", "via": "2001:db8:9::100"}],
         "rules": [{"table": 100}]}
    ]}}}}"#;
    let source = flip_core::config::Source { file: "cluster.json", text };
    flip_core::config::load(&source, &flip_core::config::Overrides::default()).expect("a good config").config
}

fn rules() -> usize {
    let count = |text: String| text.lines().filter(|line| line.contains("lookup 100")).count();
    count(ip("rule show")) + count(ip("-6 rule show"))
}

#[test]
fn routes_and_rules_come_and_go_with_their_address() {
    in_namespace(|| async {
        let [a, _b] = lan();
        ip("addr add 10.77.0.1/32 dev lo");
        ip("link set lo up");
        a.open(&routed());
        a.run(|| drop(ip("route add 10.78.0.0/16 dev v0 table 100")));
        for _ in 0..2 {
            a.alive(0).unwrap();
            a.alive(1).unwrap();
        }
        a.run(|| {
            assert_eq!(route_json("route show table 100 proto 102"), ["default"]);
            assert_eq!(route_json("-6 route show proto 102"), ["2001:db8:77::/64"]);
            assert_eq!(rules(), 3);
        });
        assert_eq!(a.source_seen_at("10.77.0.1").to_string(), V4, "by its rule, its route and its source");
        assert_eq!(a.source_seen_at(CLIENT).to_string(), "10.9.0.1");

        // They go with the link, and come back with it.
        a.run(|| {
            ip("link set v0 down");
            ip("link set v0 up");
        });
        let mut back = false;
        for _ in 0..100 {
            let (tell, told) = std::sync::mpsc::channel();
            a.run(move || tell.send(route_json("route show table 100 proto 102") == ["default"]).unwrap());
            back = told.recv().unwrap();
            if back {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(back, "the route is not there again");
        a.run(|| drop(ip("route add 10.78.0.0/16 dev v0 table 100")));

        a.down(0).unwrap();
        a.down(1).unwrap();
        a.run(|| {
            assert_eq!(route_json("route show table 100"), ["10.78.0.0/16"], "somebody else's stays");
            assert_eq!(rules(), 0);
            assert_eq!(ip("-6 route show proto 102"), "");
        });
    });
}

/// Somebody deletes each of them, and all of them, and adds others.
#[test]
fn a_route_or_rule_that_somebody_deletes_is_back_and_told_of() {
    in_namespace(|| async {
        ip("addr add 10.9.0.1/24 dev v0");
        ip("addr add 2001:db8:9::1/64 dev v0 nodad");
        let systems = Systems::open(&routed()).unwrap();
        alive(&systems, 0).await.unwrap();
        alive(&systems, 1).await.unwrap();
        let there = || {
            let v4 = route_json("route show table 100 proto 102");
            let v6 = route_json("-6 route show proto 102");
            (v4, v6, rules())
        };
        let all = there();
        assert_eq!((all.0.len(), all.1.len(), all.2), (1, 1, 3));
        for (deletes, item) in [
            ("route del default table 100", 0),
            ("route flush table 100", 0),
            ("rule del priority 1001", 0),
            ("rule del to 10.77.0.1 lookup 100", 0),
            ("-6 route del 2001:db8:77::/64", 1),
            ("-6 rule del lookup 100", 1),
        ] {
            ip(deletes);
            let begin = Instant::now();
            let (at, present) = timeout(Duration::from_secs(5), systems.drift()).await.expect(deletes);
            let after = begin.elapsed();
            assert_eq!((at.item, present), (item, false), "{deletes}");
            assert_eq!(there(), all, "{deletes}: back before anybody was asked");
            assert!(after < Duration::from_millis(100), "{deletes}: {after:?}");
            // Whoever decides makes the item whole, which is no news.
            alive(&systems, item).await.unwrap();
        }
        // What is not ours comes and goes as it likes; so does what goes by our own doing.
        ip("route add 10.99.0.0/16 dev v0 table 100 proto static");
        ip("route del 10.99.0.0/16 table 100");
        ip("rule add to 10.98.0.1 lookup 100");
        ip("rule del to 10.98.0.1 lookup 100");
        down(&systems, 0).await.unwrap();
        alive(&systems, 0).await.unwrap();
        let more = timeout(Duration::from_millis(300), systems.drift()).await;
        assert!(more.is_err(), "{more:?}");
        assert_eq!(there(), all);
    });
}

#[test]
fn routes_of_an_earlier_life_are_found_by_their_number() {
    in_namespace(|| async {
        ip("addr add 10.9.0.1/24 dev v0");
        ip("addr add 2001:db8:9::1/64 dev v0 nodad");
        let config = routed();
        let systems = Systems::open(&config).unwrap();
        alive(&systems, 0).await.unwrap();
        alive(&systems, 1).await.unwrap();
        drop(systems);
        let systems = Systems::open(&config).unwrap();
        assert_eq!(here(&systems).await, [true, true]);
        assert_eq!(
            (route_json("route show table 100 proto 102").len(), rules()),
            (1, 3),
            "kept with the address"
        );
        drop(systems);
        let mut other = config.clone();
        other.systems[0].items.remove(0);
        let systems = Systems::open(&other).unwrap();
        assert_eq!(here(&systems).await, [true]);
        assert_eq!((ip("route show table 100 proto 102"), rules()), (String::new(), 1));
        drop(systems);

        // A route that cannot be made undoes what was done before it.
        let mut wrong = config;
        wrong.systems[0].items[0].ip.as_mut().unwrap().parts[0].routes[0].via = Some([10, 200, 0, 1].into());
        let systems = Systems::open(&wrong).unwrap();
        let error = alive(&systems, 0).await.unwrap_err();
        assert!(error.starts_with("cannot add the route to 0.0.0.0/0 in table 100: "), "{error}");
        assert_eq!((bound("v0", V4).len(), rules()), (0, 1));
        // Nor is somebody else's replaced.
        ip("route add default via 10.9.0.9 table 100");
        let systems = Systems::open(&routed()).unwrap();
        let error = alive(&systems, 0).await.unwrap_err();
        assert!(error.ends_with("there is another route to it, which is not flip's"), "{error}");
        assert!(ip("route show table 100").contains("via 10.9.0.9"));
    });
}

#[test]
fn a_bridge_and_a_vlan_are_interfaces_like_any_other() {
    in_namespace(|| async {
        let [a, b] = lan();
        // Host 1 has its addresses on a bridge, and its cable is a port of it.
        a.run(|| {
            ip("addr flush dev v0");
            ip("link add br1 type bridge");
            ip("link set br1 up");
            ip("link set v0 master br1");
            ip("addr add 10.9.0.1/24 dev br1");
        });
        a.open(&groups("auto", &[&["10.9.0.5@br1"], &["10.9.0.6"]]));
        a.alive(0).unwrap();
        a.alive(1).unwrap();
        assert!(answers("10.9.0.5") && answers("10.9.0.6"), "by name, and as the one with the network");
        a.run(|| assert_eq!((bound("br1", "10.9.0.5").len(), bound("br1", "10.9.0.6").len()), (1, 1)));
        let of_bridge = neighbour("10.9.0.5");
        assert!(answers("10.9.0.1"));
        assert_eq!(of_bridge, neighbour("10.9.0.1"));
        a.down(0).unwrap();
        b.open(&groups("v0", &[&["10.9.0.5"]]));
        b.alive(0).unwrap();
        assert!(answers("10.9.0.5"));
        assert_ne!(neighbour("10.9.0.5"), of_bridge, "told to the neighbours");

        let vlan = "link add link br0 name br0.7 type vlan id 7";
        let made = Command::new("ip").args(vlan.split(' ')).output().unwrap();
        if String::from_utf8_lossy(&made.stderr).contains("Unknown device type") {
            eprintln!("SKIPPED: this kernel has no VLAN devices");
            return;
        }
        assert!(made.status.success());
        ip("link set br0.7 up");
        ip("addr add 10.7.0.100/24 dev br0.7");
        b.run(|| {
            ip("link add link v0 name v0.7 type vlan id 7");
            ip("link set v0.7 up");
        });
        b.open(&groups("v0.7", &[&["10.7.0.5/24"]]));
        b.alive(0).unwrap();
        assert!(answers("10.7.0.5"));
    });
}
