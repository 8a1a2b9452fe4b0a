//! Hardware addresses that move with an item: `"mac": "virtual"`.
//!
//! An item with one lives on a link of its own, so neighbours need to learn nothing when it moves. The address
//! has to be the same on every server and another one for every item, so it is chosen here, from the config
//! alone: 00:00:5e:00:01:XX, the block of VRRP (RFC 9568 §7.3), with XX from the item's id. Where two items
//! come to the same number, the later one takes the next that is free.

use std::collections::BTreeMap;

use super::super::Item;
use super::super::policy;
use super::super::problem::Problems;
use super::super::raw::{Node, clip};
use super::super::source::{At, Spanned};

/// The first five bytes of a virtual router's address for IPv4.
const BLOCK: [u8; 5] = [0x00, 0x00, 0x5e, 0x00, 0x01];

/// What the file says under `mac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum WrittenMac {
    /// The number is chosen.
    Virtual,
    /// This one.
    Given([u8; 6]),
}

/// The value of `mac`.
pub(super) fn read(node: &Node, problems: &mut Problems) -> Option<Spanned<WrittenMac>> {
    let expected =
        "\"virtual\", \"virtual:NUMBER\" with 1 to 255, or a hardware address such as 02:00:5e:00:00:07";
    let text = node.text(expected, problems)?;
    let Some(mac) = parse(&text.value) else {
        node.refuse(expected, problems);
        return None;
    };
    if let WrittenMac::Given(given) = mac
        && (given[0] & 1 != 0 || given == [0; 6])
    {
        let message = format!("found \"{}\", which is no address of a host", clip(&text.value));
        problems.error_help(&node.at, message, "the first byte must be even; 02:… is for own use");
        return None;
    }
    Some(node.spanned(mac))
}

fn parse(text: &str) -> Option<WrittenMac> {
    if text == "virtual" {
        return Some(WrittenMac::Virtual);
    }
    if let Some(number) = text.strip_prefix("virtual:") {
        let number = number.parse::<u8>().ok().filter(|number| *number > 0)?;
        return Some(WrittenMac::Given(block(number)));
    }
    let mut bytes = text.split(':').map(|byte| {
        let is_byte = byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
        is_byte.then(|| u8::from_str_radix(byte, 16).ok())?
    });
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(WrittenMac::Given(mac))
}

fn block(number: u8) -> [u8; 6] {
    let [a, b, c, d, e] = BLOCK;
    [a, b, c, d, e, number]
}

/// Gives every item that wants one its address. `written` has what the file says, for each system and item.
pub(in crate::config) fn assign(
    items: &mut [Vec<Item>],
    written: &[Vec<Option<Spanned<WrittenMac>>>],
    problems: &mut Problems,
) {
    let mut taken: BTreeMap<[u8; 6], &At> = BTreeMap::new();
    let mut wishes = Vec::new();
    for (system, macs) in written.iter().enumerate() {
        for (item, mac) in macs.iter().enumerate() {
            let Some(mac) = mac else { continue };
            let WrittenMac::Given(given) = mac.value else {
                wishes.push((system, item, &mac.at));
                continue;
            };
            if let Some(first) = taken.get(&given) {
                let message = format!(
                    "two items have the hardware address {}, the first is {}; expected one each, because they \
                     move apart",
                    show(given),
                    policy::place(first, problems),
                );
                problems.error_help(&mac.at, message, "give one of them another, or make them one group");
                continue;
            }
            taken.insert(given, &mac.at);
            give(&mut items[system][item], given);
        }
    }
    for (system, item, at) in wishes {
        let crate::id::ItemId(id) = items[system][item].id;
        // 1 to 255: no router has the number 0.
        let mut numbers = (0..255u64).filter_map(|step| u8::try_from((id % 255 + step) % 255 + 1).ok());
        let Some(mac) = numbers.find_map(|n| Some(block(n)).filter(|mac| !taken.contains_key(mac))) else {
            let message = "found more than 255 items with virtual hardware addresses";
            problems.error_help(at, message, "give the others an address each: \"mac\": \"02:…\"");
            return;
        };
        taken.insert(mac, at);
        give(&mut items[system][item], mac);
    }
}

fn give(item: &mut Item, mac: [u8; 6]) {
    for part in item.ip.iter_mut().flat_map(|ip| &mut ip.parts) {
        part.mac = Some(mac);
    }
}

fn show(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let given = WrittenMac::Given;
        for (text, expected) in [
            ("virtual", Some(WrittenMac::Virtual)),
            ("virtual:1", Some(given([0, 0, 0x5e, 0, 1, 1]))),
            ("virtual:255", Some(given([0, 0, 0x5e, 0, 1, 255]))),
            ("02:00:5E:00:00:0a", Some(given([2, 0, 0x5e, 0, 0, 10]))),
            ("virtual:0", None),
            ("virtual:256", None),
            ("virtual:", None),
            ("Virtual", None),
            ("02:00:5e:00:00", None),
            ("02:00:5e:00:00:0a:0b", None),
            ("2:0:5e:0:0:a", None),
            ("02:00:5e:00:00:+a", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
