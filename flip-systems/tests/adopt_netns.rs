//! A config that changes while the ip system runs: what is not spoken of is not touched, as the kernel sees it.

mod net;

use std::io::{Read, Write};
use std::net::IpAddr;

use flip_core::config::{Config, Interface, IpItem, Item, System};
use flip_core::id::ItemId;
use flip_systems::{Registry, Systems};
use net::*;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// When the kernel made an address, on a clock of its own: another one if it was ever gone since.
fn created(address: &str) -> Option<u32> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_CACHEINFO: u16 = 6;
    let address: IpAddr = address.parse().unwrap();
    let wanted = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW.cloexec(),
        Some(Protocol::from(libc::NETLINK_ROUTE)),
    )
    .unwrap();
    // A header and `struct ifaddrmsg`: a dump of all addresses.
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap();
    let mut request = 24_u32.to_ne_bytes().to_vec();
    request.extend(libc::RTM_GETADDR.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 16]);
    socket.write_all(&request).unwrap();
    let mut found = None;
    let mut buffer = vec![0; 65_536];
    loop {
        let read = socket.read(&mut buffer).unwrap();
        let mut rest = &buffer[..read];
        while rest.len() >= 16 {
            let len = usize::try_from(u32::from_ne_bytes(rest[..4].try_into().unwrap())).unwrap();
            let kind = u16::from_ne_bytes(rest[4..6].try_into().unwrap());
            if i32::from(kind) == libc::NLMSG_DONE {
                return found;
            }
            let mut attributes = &rest[24..len];
            let (mut same, mut made) = (false, None);
            while attributes.len() >= 4 {
                let size = usize::from(u16::from_ne_bytes(attributes[..2].try_into().unwrap()));
                let value = &attributes[4..size];
                match u16::from_ne_bytes(attributes[2..4].try_into().unwrap()) {
                    IFA_ADDRESS => same = value == wanted,
                    IFA_CACHEINFO => made = Some(u32::from_ne_bytes(value[8..12].try_into().unwrap())),
                    _ => {}
                }
                attributes = attributes.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
            found = found.or(made.filter(|_| same));
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn ip_item(system: &str, text: &str) -> Item {
    Item { ip: IpItem::parse(text, &Interface::of("v0")).ok(), ..Item::plain(system, text) }
}

/// The config with these items, and a second system with those.
fn with(first: &[&str], second: Option<&[&str]>) -> Config {
    let mut config = config("v0", first);
    if let Some(second) = second {
        let items = second.iter().map(|text| ip_item("more", text)).collect();
        // It comes first, so that everything has another position.
        config.systems.insert(0, System { name: "more".to_owned(), items, ..config.systems[0].clone() });
        config.servers[0].systems = vec![0, 1];
    }
    config
}

/// Place of an item in a config.
fn place(config: &Config, system: &str, text: &str) -> flip_core::id::ItemRef {
    let id = ItemId::of(system, text);
    let systems = config.systems.iter().enumerate();
    let mut places = systems.flat_map(|(system, spec)| {
        let items = spec.items.iter().enumerate();
        items.map(move |(item, spec)| (spec.id, flip_core::id::ItemRef { system, item }))
    });
    places.find(|(known, _)| *known == id).expect("it is in there").1
}

async fn run(
    systems: &Systems,
    config: &Config,
    (system, text): (&str, &str),
    action: flip_core::HookAction,
) -> Result<(), String> {
    let call = flip_core::HookCall { item: place(config, system, text), ..call(0, action) };
    systems.run(call).await
}

#[test]
fn an_address_that_stays_is_the_same_for_the_kernel() {
    use flip_core::HookAction::{Alive, Down};
    in_namespace(|| async {
        let registry = Registry::default();
        let before = with(&[V4, "10.9.1.6/24", V6], None);
        let mut systems = Systems::open_with(&registry, &before).unwrap();
        for item in 0..3 {
            alive(&systems, item).await.unwrap();
        }
        let stamps = [V4, V6].map(|address| created(address).expect("it is there"));
        // The kernel counts in hundredths of a second: from here on whatever is made has another stamp.
        loop {
            ip("addr add 10.99.0.1/32 dev lo");
            let now = created("10.99.0.1").expect("just made");
            ip("addr del 10.99.0.1/32 dev lo");
            if !stamps.contains(&now) {
                break;
            }
        }

        // One goes, two come, and all that stays stands elsewhere.
        run(&systems, &before, ("ip", "10.9.1.6/24"), Down).await.unwrap();
        let after = with(&[V6, "10.9.1.7", V4], Some(&["10.9.2.1"]));
        assert!(systems.adopt(&registry, &after).is_empty());
        assert_eq!([V4, V6].map(|address| created(address).unwrap()), stamps);
        let mut here: Vec<_> = systems.observe().await.unwrap();
        here.retain(|(_, present)| *present);
        let expected = [place(&after, "ip", V6), place(&after, "ip", V4)];
        assert_eq!(here.iter().map(|(item, _)| *item).collect::<Vec<_>>(), expected);

        run(&systems, &after, ("ip", "10.9.1.7"), Alive).await.unwrap();
        run(&systems, &after, ("more", "10.9.2.1"), Alive).await.unwrap();
        assert!(!bound("v0", "10.9.1.7").is_empty() && !bound("v0", "10.9.2.1").is_empty());
        assert_eq!([V4, V6].map(|address| created(address).unwrap()), stamps);

        // What a kernel's notice says of an item is said of its present place.
        ip(&format!("addr del {V6}/128 dev v0"));
        let told = tokio::time::timeout(std::time::Duration::from_secs(5), systems.drift()).await;
        assert_eq!(told.expect("it is told"), (place(&after, "ip", V6), false));
        run(&systems, &after, ("ip", V6), Alive).await.unwrap();

        // The second system goes, and the places that were left are used again.
        run(&systems, &after, ("more", "10.9.2.1"), Down).await.unwrap();
        run(&systems, &after, ("ip", "10.9.1.7"), Down).await.unwrap();
        let last = with(&[V4, V6, "10.9.1.8"], None);
        assert!(systems.adopt(&registry, &last).is_empty());
        run(&systems, &last, ("ip", "10.9.1.8"), Alive).await.unwrap();
        assert_eq!(created(V4).unwrap(), stamps[0]);
        for (item, address) in [V4, V6, "10.9.1.8"].into_iter().enumerate() {
            assert!(!bound("v0", address).is_empty());
            down(&systems, item).await.unwrap();
            assert_eq!(bound("v0", address), [] as [Value; 0]);
        }
        assert_eq!(bound("v0", "10.9.2.1"), [] as [Value; 0]);
    });
}
