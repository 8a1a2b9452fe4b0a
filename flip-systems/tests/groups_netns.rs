//! Items of several addresses, and interfaces that are found, against the real kernel.

mod net;

use flip_core::{HookAction, Lifetime, RefreshCall};
use flip_systems::{Leftover, Systems};
use net::*;

const GROUP: [&str; 3] = ["10.9.0.5@v0", "2001:db8:9::5@v1", "10.9.1.5/24@v1"];

/// Which addresses of the group are there.
fn there() -> Vec<&'static str> {
    let places = [("v0", "10.9.0.5"), ("v1", "2001:db8:9::5"), ("v1", "10.9.1.5")];
    places.into_iter().filter(|(on, address)| !bound(on, address).is_empty()).map(|(_, a)| a).collect()
}

const ALL: [&str; 3] = ["10.9.0.5", "2001:db8:9::5", "10.9.1.5"];
const NONE: [&str; 0] = [];

fn refresh(systems: &Systems, lifetime: Lifetime) -> Vec<usize> {
    systems.refresh(&RefreshCall { id: 1, system: 0, items: vec![0], lifetime })
}

#[test]
fn a_group_comes_and_goes_as_one() {
    in_namespace(|| async {
        let systems = Systems::open(&groups("v0", &[&GROUP])).unwrap();
        let mut wires = [Wire::tap("v1"), Wire::tap("v0")];
        for _ in 0..2 {
            alive(&systems, 0).await.unwrap();
            assert_eq!(there(), ALL);
        }
        assert_eq!(bound("v1", "10.9.1.5")[0]["prefixlen"], 24);
        assert_eq!(here(&systems).await, [true]);
        // Each on its own link: what v1 sees was sent by v0.
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let [a, b] = &mut wires;
            let (_, frame) = tokio::select! { f = a.next() => f, f = b.next() => f };
            let address = announced(&frame).map(|address| address.to_string());
            seen.extend(address.filter(|address| !seen.contains(address)));
        }
        seen.sort();
        assert_eq!(seen, ["10.9.0.5", "10.9.1.5", "2001:db8:9::5"]);
        systems.run(call(0, HookAction::Announce)).await.unwrap();
        assert_eq!(refresh(&systems, Lifetime::ENDLESS), [] as [usize; 0]);
        for _ in 0..2 {
            down(&systems, 0).await.unwrap();
            assert_eq!(there(), NONE);
        }
        assert_eq!(here(&systems).await, [false]);
    });
}

#[test]
fn a_group_that_cannot_be_whole_is_not_there_at_all() {
    in_namespace(|| async {
        let missing = groups("v0", &[&["10.9.0.5@v0", "2001:db8:9::5@wan"]]);
        let systems = Systems::open(&missing).unwrap();
        assert_eq!(alive(&systems, 0).await.unwrap_err(), "no interface wan; there are: lo, v1, v0");
        assert_eq!(there(), NONE);

        // Here the kernel refuses the second of three after it took the first.
        std::fs::write("/proc/sys/net/ipv6/conf/v1/disable_ipv6", "1").unwrap();
        let systems = Systems::open(&groups("v0", &[&GROUP])).unwrap();
        let error = alive(&systems, 0).await.unwrap_err();
        assert_eq!(
            error,
            "cannot add 2001:db8:9::5/128 to v1: IPv6 is disabled there (sysctl \
             net.ipv6.conf.v1.disable_ipv6); the other addresses of the group were taken away with it"
        );
        assert_eq!(there(), NONE);
        assert_eq!(here(&systems).await, [false]);

        // And it comes when it can.
        std::fs::write("/proc/sys/net/ipv6/conf/v1/disable_ipv6", "0").unwrap();
        alive(&systems, 0).await.unwrap();
        assert_eq!(there(), ALL);

        // What was whole and cannot be made whole again leaves, too.
        ip("link set v1 down");
        assert_eq!(systems.drift().await, (item(0), false), "the link took its IPv6 address along");
        let error = alive(&systems, 0).await.unwrap_err();
        assert!(error.starts_with("interface v1 is down: bring it up; the other"), "{error}");
        assert_eq!(there(), NONE);
    });
}

#[test]
fn a_lost_address_of_a_group_is_drift_until_it_is_back() {
    in_namespace(|| async {
        let systems = Systems::open(&groups("v0", &[&GROUP])).unwrap();
        alive(&systems, 0).await.unwrap();
        ip("addr del 2001:db8:9::5/128 dev v1");
        assert_eq!(systems.drift().await, (item(0), false));
        assert_eq!(here(&systems).await, [false]);
        let error = systems.run(call(0, HookAction::Announce)).await.unwrap_err();
        assert_eq!(error, "2001:db8:9::5/128 is not on v1");
        alive(&systems, 0).await.unwrap();
        assert_eq!(there(), ALL);
        assert_eq!(here(&systems).await, [true]);

        // Somebody else makes it whole again: that is news, too.
        ip("addr del 10.9.0.5/32 dev v0");
        assert_eq!(systems.drift().await, (item(0), false));
        ip("addr add 10.9.0.5/32 dev v0");
        assert_eq!(systems.drift().await, (item(0), true));

        // A refresh gives back what is not whole, and nothing of it is left.
        alive(&systems, 0).await.unwrap();
        ip("addr del 10.9.1.5/24 dev v1");
        assert_eq!(refresh(&systems, Lifetime::ENDLESS), [0]);
        assert_eq!(there(), NONE);
    });
}

#[test]
fn half_a_group_of_an_earlier_life_is_removed() {
    in_namespace(|| async {
        let config = groups("v0", &[&GROUP, &["10.9.0.6"]]);
        let systems = Systems::open(&config).unwrap();
        alive(&systems, 0).await.unwrap();
        alive(&systems, 1).await.unwrap();
        drop(systems);
        let systems = Systems::open(&config).unwrap();
        assert!(systems.leftovers().iter().all(|leftover| leftover.adopted), "{:?}", systems.leftovers());
        assert_eq!(here(&systems).await, [true, true]);
        drop(systems);

        ip("addr del 10.9.1.5/24 dev v1");
        let systems = Systems::open(&config).unwrap();
        let mut removed: Vec<_> =
            systems.leftovers().iter().filter(|l| !l.adopted).map(|l| l.what.as_str()).collect();
        removed.sort_unstable();
        assert_eq!(removed, ["10.9.0.5/32 on v0", "2001:db8:9::5/128 on v1"]);
        assert!(systems.leftovers().contains(&Leftover { what: "10.9.0.6/32 on v0".into(), adopted: true }));
        assert_eq!(there(), NONE);
        assert_eq!(here(&systems).await, [false, true]);
    });
}

#[test]
fn auto_finds_the_interface_by_its_network() {
    in_namespace(|| async {
        let systems = Systems::open(&groups("auto", &[&["10.9.0.5", "2001:db8:9::5"]])).unwrap();
        let error = alive(&systems, 0).await.unwrap_err();
        assert_eq!(
            error,
            "no interface for 10.9.0.5 (auto): none has a network that holds it, there are 127.0.0.0/8 on lo; \
             name the interface"
        );
        ip("addr add 10.9.0.1/24 dev v1");
        ip("addr add 2001:db8:9::1/64 dev v0 nodad");
        alive(&systems, 0).await.unwrap();
        assert_eq!((bound("v1", V4).len(), bound("v0", V6).len()), (1, 1));
        assert_eq!(here(&systems).await, [true]);

        // The same network elsewhere does not move what is there.
        ip("addr add 10.9.0.2/24 dev v0");
        assert_eq!(here(&systems).await, [true]);
        assert_eq!(refresh(&systems, Lifetime::ENDLESS), [] as [usize; 0]);
        down(&systems, 0).await.unwrap();
        assert_eq!((bound("v1", V4).len(), bound("v0", V6).len()), (0, 0));
        let error = alive(&systems, 0).await.unwrap_err();
        assert_eq!(
            error,
            "no interface for 10.9.0.5 (auto): v1 and v0 have the same network; name one of them"
        );
    });
}
