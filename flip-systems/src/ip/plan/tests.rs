//! Tables: what is wanted and what is there in, steps out.

use flip_core::config::IpItem;

use super::*;
use crate::interfaces::Mac;

/// `lo`, `eth0` and `eth1`, and `off`, which is switched off.
fn links() -> Links {
    let link =
        |index, name: &str, up| Link::of_kind(index, name, up, index > 1, Some(Mac([2, 0, 0, 0, 0, 1])));
    [link(1, "lo", true), link(2, "eth0", true), link(3, "eth1", true), link(4, "off", false)]
        .map(|link| (link.index, link))
        .into()
}

/// The addresses of an item, as `data` may say them.
fn item(texts: &str) -> IpItem {
    let part = |text| IpItem::parse(text, &Interface::Name("eth0".into())).unwrap().parts.remove(0);
    IpItem { parts: texts.split(' ').map(part).collect() }
}

fn wanted(item: &IpItem) -> Vec<Wanted<'_>> {
    item.parts.iter().map(|part| Wanted { net: part.net, interface: &part.interface, at: None }).collect()
}

/// What is there: `us 10.0.0.1/24@2`, with the index of its link.
fn bound(text: &str) -> Vec<Bound> {
    let one = |text: &str| {
        let (maker, place) = text.split_once(' ').unwrap();
        let (net, index) = place.split_once('@').unwrap();
        let maker = match maker {
            "us" => Maker::Us,
            "sibling" => Maker::Sibling,
            _ => Maker::Other,
        };
        Bound { net: net.parse().unwrap(), index: index.parse().unwrap(), maker, born: 0 }
    };
    text.split(", ").filter(|text| !text.is_empty()).map(one).collect()
}

fn show(steps: &[Step]) -> String {
    let one = |step: &Step| match *step {
        Step::Promote { index } => format!("promote {index}"),
        Step::Set { part, net, index } => format!("set {part} {net}@{index}"),
        Step::Delete { part, net, index } => format!("delete {part} {net}@{index}"),
        Step::Announce { part, index } => format!("announce {part}@{index}"),
    };
    steps.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn taking_an_item() {
    for (item_text, there, alone, expected) in [
        ("10.0.0.1", "", false, "set 0 10.0.0.1/32@2, announce 0@2"),
        // The loopback has no neighbours.
        ("10.0.0.1@lo", "", false, "set 0 10.0.0.1/32@1"),
        ("10.0.0.1/24", "", false, "promote 2, set 0 10.0.0.1/24@2, announce 0@2"),
        ("fd00::1/64", "", false, "set 0 fd00::1/64@2, announce 0@2"),
        // All are put there before the first is announced, and a link is prepared once.
        (
            "10.0.0.1/24 10.0.0.2/24 fd00::1@eth1 10.1.0.1/24@eth1",
            "",
            false,
            "promote 2, promote 3, set 0 10.0.0.1/24@2, set 1 10.0.0.2/24@2, set 2 fd00::1/128@3, \
             set 3 10.1.0.1/24@3, announce 0@2, announce 1@2, announce 2@3, announce 3@3",
        ),
        // The same address is set again: that renews it, whoever made it.
        ("10.0.0.1", "us 10.0.0.1/32@2", true, "set 0 10.0.0.1/32@2, announce 0@2"),
        ("10.0.0.1", "other 10.0.0.1/32@2", true, "set 0 10.0.0.1/32@2, announce 0@2"),
        // Another prefix stays for ever, which a lease must not; elsewhere, or a sibling's, it is not ours.
        ("10.0.0.1", "other 10.0.0.1/24@2", false, "set 0 10.0.0.1/32@2, announce 0@2"),
        (
            "10.0.0.1",
            "other 10.0.0.1/24@2, us 10.0.0.1/25@2, sibling 10.0.0.1/26@2, other 10.0.0.1/27@3, us 10.0.0.9/24@2",
            true,
            "set 0 10.0.0.1/32@2, delete 0 10.0.0.1/24@2, delete 0 10.0.0.1/25@2, announce 0@2",
        ),
        ("10.0.0.1@auto", "other 10.0.0.7/24@3", false, "set 0 10.0.0.1/32@3, announce 0@3"),
    ] {
        let item = item(item_text);
        let steps = take(&wanted(&item), &links(), &bound(there), alone);
        assert_eq!(steps.map(|steps| show(&steps)).as_deref(), Ok(expected), "{item_text} where {there}");
    }
}

#[test]
fn an_item_of_which_one_address_has_no_link_is_not_begun() {
    for (item_text, there, expected) in [
        ("10.0.0.1@wan", "", "no interface wan; there are: lo, eth0, eth1, off"),
        ("10.0.0.1 fd00::1@wan", "", "no interface wan; there are: lo, eth0, eth1, off"),
        ("10.0.0.1 fd00::1@off", "", "interface off is down: bring it up"),
        (
            "10.0.0.1@auto",
            "",
            "no interface for 10.0.0.1 (auto): none has an address with a network; name the interface",
        ),
        (
            "10.0.0.1@auto",
            "other 10.1.0.7/24@2, other 10.2.0.7/32@2, other fd00::1/64@3, us 10.0.0.8/24@3",
            "no interface for 10.0.0.1 (auto): none has a network that holds it, there are 10.1.0.0/24 on eth0; \
             name the interface",
        ),
        (
            "10.0.0.1@auto",
            "other 10.0.0.7/24@2, other 10.0.0.8/24@3",
            "no interface for 10.0.0.1 (auto): eth0 and eth1 have the same network; name one of them",
        ),
        ("10.0.0.1@auto", "other 10.0.0.7/24@4", "interface off is down: bring it up"),
    ] {
        let item = item(item_text);
        let refusal = take(&wanted(&item), &links(), &bound(there), false);
        assert_eq!(refusal.map_err(|r| r.to_string()), Err(expected.to_owned()), "{item_text} where {there}");
    }
}

#[test]
fn auto_is_the_link_with_the_longest_network() {
    for (address, there, expected) in [
        ("10.0.0.1", "other 10.0.0.7/8@2, other 10.0.0.8/24@3", Some(3)),
        ("10.0.0.1", "other 10.0.0.7/24@2, other 10.0.0.8/8@3", Some(2)),
        ("10.0.0.1", "other 10.0.0.7/24@2, other 10.0.0.8/24@2", Some(2)),
        ("fd00::1", "other fd00::7/64@3, other 10.0.0.7/24@2", Some(3)),
        // What flip put there moves, the wanted address says nothing of itself, and a host has no network.
        ("10.0.0.1", "us 10.0.0.7/24@2, sibling 10.0.0.8/24@2", None),
        ("10.0.0.1", "other 10.0.0.1/24@2", None),
        ("10.0.0.1", "other 10.0.0.1/32@2", None),
        // A link that is gone meanwhile.
        ("10.0.0.1", "other 10.0.0.7/24@77", None),
    ] {
        let found = auto(address.parse().unwrap(), &links(), &bound(there)).ok().map(|link| link.index);
        assert_eq!(found, expected, "{address} where {there}");
    }
}

#[test]
fn an_automatic_place_is_kept() {
    let (links, auto) = (links(), Interface::Auto);
    let net: IpNet = "10.0.0.1/32".parse().unwrap();
    for (at, there, expected) in [
        (None, "", None),
        (Some(3), "", Some(3)),
        // Its network moved while it is there: it is looked for where it was put.
        (Some(3), "other 10.0.0.7/24@2", Some(3)),
        (Some(77), "other 10.0.0.7/24@2", Some(2)),
        // Of an earlier life.
        (None, "us 10.0.0.1/32@3", Some(3)),
        (None, "us 10.0.0.1/32@3, other 10.0.0.7/24@2", Some(2)),
        (None, "other 10.0.0.1/32@3", None),
    ] {
        let wanted = Wanted { net, interface: &auto, at };
        assert_eq!(place(&wanted, &links, &bound(there)), expected, "{at:?} where {there}");
    }
}

#[test]
fn releasing_an_item() {
    for (item_text, there, expected) in [
        ("10.0.0.1", "", ""),
        ("10.0.0.1", "us 10.0.0.1/32@2", "delete 0 10.0.0.1/32@2"),
        ("10.0.0.1", "other 10.0.0.1/24@2", "delete 0 10.0.0.1/24@2"),
        (
            "10.0.0.1",
            "us 10.0.0.1/32@2, other 10.0.0.1/24@2",
            "delete 0 10.0.0.1/32@2, delete 0 10.0.0.1/24@2",
        ),
        ("10.0.0.1", "sibling 10.0.0.1/32@2, us 10.0.0.1/32@3, us 10.0.0.2/32@2", ""),
        (
            "10.0.0.1 10.0.0.1@eth1",
            "us 10.0.0.1/32@3, us 10.0.0.1/32@2",
            "delete 1 10.0.0.1/32@3, delete 0 10.0.0.1/32@2",
        ),
        ("10.0.0.1@wan", "us 10.0.0.1/32@2", ""),
    ] {
        let item = item(item_text);
        let steps = release(wanted(&item).into_iter().enumerate(), &links(), &bound(there));
        assert_eq!(show(&steps), expected, "{item_text} where {there}");
    }
}

#[test]
fn what_is_found_is_rather_ours() {
    let item = item("10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4@wan");
    let there = bound(
        "other 10.0.0.1/24@2, us 10.0.0.1/32@2, other 10.0.0.1/25@2, sibling 10.0.0.2/32@2, \
                       us 10.0.0.3/32@3, us 10.0.0.4/32@2",
    );
    let found = found(wanted(&item).into_iter(), &links(), &there);
    assert_eq!(found, [Some(there[1]), None, None, None]);
}

/// Items are separated by `;`. What is kept has a `+`.
#[test]
fn leftovers_of_an_earlier_life() {
    for (items, there, expected) in [
        ("10.0.0.1", "us 10.0.0.1/32@2", "+10.0.0.1/32@2"),
        (
            "10.0.0.1",
            "us 10.0.0.1/24@2, us 10.0.0.1/32@3, us 10.0.0.9/32@2",
            "-10.0.0.1/24@2 -10.0.0.1/32@3 -10.0.0.9/32@2",
        ),
        ("10.0.0.1", "other 10.0.0.1/32@2, sibling 10.0.0.2/32@2", ""),
        // Half an item is of no use.
        (
            "10.0.0.1 fd00::1@eth1;10.0.0.2",
            "us 10.0.0.1/32@2, us 10.0.0.2/32@2",
            "-10.0.0.1/32@2 +10.0.0.2/32@2",
        ),
        ("10.0.0.1 fd00::1@eth1", "us 10.0.0.1/32@2, us fd00::1/128@3", "+10.0.0.1/32@2 +fd00::1/128@3"),
        ("10.0.0.1 fd00::1@eth1", "us 10.0.0.1/32@2, other fd00::1/64@3", "+10.0.0.1/32@2"),
        ("10.0.0.1 fd00::1@eth1", "us 10.0.0.1/32@2, us fd00::1/64@3", "-10.0.0.1/32@2 -fd00::1/64@3"),
        ("10.0.0.1 fd00::1@eth1", "us 10.0.0.1/32@2, sibling fd00::1/128@3", "-10.0.0.1/32@2"),
        ("10.0.0.1@auto", "us 10.0.0.1/32@3, other 10.0.0.7/24@3", "+10.0.0.1/32@3"),
        ("10.0.0.1@auto", "us 10.0.0.1/32@3, other 10.0.0.7/24@2", "-10.0.0.1/32@3"),
    ] {
        let items: Vec<_> = items.split(';').map(item).collect();
        let all: Vec<_> = items.iter().flat_map(wanted).collect();
        let mut next = 0;
        let ranges = items.iter().map(|item| {
            next += item.parts.len();
            next - item.parts.len()..next
        });
        let there = bound(there);
        let sorted = leftovers(&all, ranges, &links(), &there);
        let show =
            |(b, kept): &(&Bound, bool)| format!("{}{}@{}", if *kept { '+' } else { '-' }, b.net, b.index);
        assert_eq!(sorted.iter().map(show).collect::<Vec<_>>().join(" "), expected, "{items:?}");
    }
}
