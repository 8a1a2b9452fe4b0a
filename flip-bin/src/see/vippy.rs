//! The status in the layout of `vippyctl status`, for scripts that read that.
//!
//! ```text
//! State:  inactive
//! Reason: administrative
//! (*) a: 192.0.2.7/32 192.0.2.8/24 P(a)
//!     (unowned): 192.0.2.9/32
//! ```
//!
//! A group is vippy's what an item is here. It is owned by who holds it; `(unowned)` when nobody may have it, `???`
//! while nobody has it who should. A node is inactive while it gets no items.

use std::fmt::Write;

use flip_core::event::ItemState;
use flip_core::status::{ItemStatus, Status};

/// The whole text, each line with its end.
pub fn render(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    match inactive(status) {
        None => out.push_str("State:  active\n"),
        Some(reason) => {
            let _ = write!(out, "State:  inactive\nReason: {reason}\n");
        }
    }
    for item in &status.items {
        let owner = owner(item, &status.node);
        let mark = if owner == status.node { "(*) " } else { "    " };
        let names = if item.addresses.is_empty() { item.item.clone() } else { item.addresses.join(" ") };
        let prefer = item.prefer.as_ref().map_or_else(String::new, |home| format!(" P({home})"));
        let _ = writeln!(out, "{mark}{owner}: {names}{prefer}");
    }
    out
}

/// Why this node gets no items, in vippy's words where it has one.
fn inactive(status: &Status) -> Option<String> {
    let me = status.members.iter().find(|member| member.is_self)?;
    if me.drained {
        Some("administrative".to_owned())
    } else if let Some(reason) = me.inactive.first() {
        Some(reason.clone())
    } else if me.immature_ms.is_some() {
        Some("booting".to_owned())
    } else if !status.has_quorum {
        Some("no quorum".to_owned())
    } else {
        None
    }
}

fn owner<'a>(item: &'a ItemStatus, me: &str) -> &'a str {
    let active = |h: &&flip_core::status::HolderStatus| h.state == ItemState::Active;
    let mut holders = item.holders.iter().filter(active).map(|holder| holder.server.as_str());
    // What everybody holds is one's own.
    match holders.clone().find(|holder| *holder == me).or_else(|| holders.next()) {
        Some(owner) => owner,
        None if item.wanted.is_empty() => "(unowned)",
        None => "???",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(change: impl Fn(&mut serde_json::Value)) -> Status {
        let item = |name: &str, addresses: &[&str], wanted: &[&str], holder: Option<&str>| {
            let holders: Vec<_> = holder
                .iter()
                .map(|server| serde_json::json!({"server": server, "state": "active", "since_ms": 1}))
                .collect();
            serde_json::json!({
                "system": "ip", "item": name, "isolated": "keep", "lease_ms": null, "unclean_on": null,
                "addresses": addresses, "prefer": if name == "g1" { Some("a") } else { None },
                "wanted": wanted, "holders": holders,
            })
        };
        let mut json = serde_json::json!({
            "node": "a", "generation": 1, "view": "0", "quorum": 2, "live": 2, "has_quorum": true,
            "members": [{
                "id": "a", "address": "192.0.2.1:2200", "state": "up", "is_self": true, "arbiter": false,
                "priority": null, "generation": 1, "since_ms": 1, "loss": 0.0, "case": null,
                "config_differs": false, "drained": false, "immature_ms": null,
            }],
            "items": [
                item("g1", &["192.0.2.7/32", "192.0.2.8/24"], &["a"], Some("a")),
                item("192.0.2.9", &["192.0.2.9/32"], &["b"], Some("b")),
                item("192.0.2.10", &["192.0.2.10/32"], &[], None),
                item("job", &[], &["a"], None),
            ],
            "refused": {}, "sent_datagrams": 0, "sent_bytes": 0,
        });
        change(&mut json);
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn byte_for_byte_as_vippyctl_prints_it() {
        let expected = "\
State:  active
(*) a: 192.0.2.7/32 192.0.2.8/24 P(a)
    b: 192.0.2.9/32
    (unowned): 192.0.2.10/32
    ???: job
";
        assert_eq!(render(&status(|_| {})), expected);
        type Change = dyn Fn(&mut serde_json::Value);
        let head = |change: &Change| {
            let text = render(&status(change));
            text.lines().take(2).collect::<Vec<_>>().join("|")
        };
        let table: [(&Change, &str); 4] = [
            (&|json| json["members"][0]["drained"] = true.into(), "administrative"),
            (&|json| json["members"][0]["inactive"] = serde_json::json!(["disk"]), "disk"),
            (&|json| json["members"][0]["immature_ms"] = 5.into(), "booting"),
            (&|json| json["has_quorum"] = false.into(), "no quorum"),
        ];
        for (change, reason) in table {
            assert_eq!(head(change), format!("State:  inactive|Reason: {reason}"));
        }
    }
}
