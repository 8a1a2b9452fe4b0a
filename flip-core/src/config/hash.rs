//! Digests by which two nodes see whether they work with the same config.

use std::time::Duration;

use super::{Check, Config, Isolated, System, SystemKind, WhenAllFail};

impl Config {
    /// A digest of what makes ballots comparable: the quorum, the servers' ids in listed order and who
    /// of them votes. Ballots of a node with another digest do not count.
    #[must_use]
    pub fn voters_hash(&self) -> u32 {
        let mut digest = Digest::new("flip voters v1");
        digest.number(self.quorum as u64);
        digest.number(self.servers.len() as u64);
        for server in &self.servers {
            digest.text(&server.id);
        }
        digest.number(self.voters.len() as u64);
        for voter in &self.voters {
            digest.number(*voter as u64);
        }
        let bytes = digest.0.finalize();
        u32::from_be_bytes(std::array::from_fn(|at| bytes.as_bytes()[at]))
    }

    /// A digest of everything that must be equal everywhere: servers with their systems and priorities,
    /// systems with their kind and items, all in listed order, what is done with each item where no
    /// quorum is in sight, its health checks, and the times that others wait out (`lease`, `on_daemon_death`, `mature`).
    ///
    /// Addresses, settings, other timings and the `witness` may differ: each site has a gateway of its own.
    #[must_use]
    pub fn content_hash(&self) -> u64 {
        let mut digest = Digest::new("flip config content v1");
        digest.number(self.servers.len() as u64);
        for server in &self.servers {
            digest.text(&server.id);
            digest.number(server.priority);
            digest.number(server.systems.len() as u64);
            for system in &server.systems {
                digest.number(*system as u64);
            }
        }
        digest.number(self.systems.len() as u64);
        for system in &self.systems {
            digest.text(&system.name);
            digest.number(match system.kind {
                SystemKind::Shard => 0,
                SystemKind::Replicate => 1,
            });
            digest.duration(system.orphan.unwrap_or(Duration::MAX));
            digest.number(system.items.len() as u64);
            for item in &system.items {
                digest.text(&item.name);
                digest.number(match item.isolated {
                    Isolated::Keep => 0,
                    Isolated::Take => 1,
                    Isolated::Drop => 2,
                });
            }
        }
        digest.duration(self.lease);
        digest.duration(self.timing.mature);
        self.digest_checks(&mut digest);
        self.digest_homes_and_groups(&mut digest);
        let bytes = digest.0.finalize();
        u64::from_be_bytes(std::array::from_fn(|at| bytes.as_bytes()[at]))
    }
}

impl Config {
    /// A config without checks has the digest that it had before there were any.
    fn digest_checks(&self, digest: &mut Digest) {
        let has_checks = |system: &System| {
            !system.checks.is_empty() || system.items.iter().any(|item| !item.checks.is_empty())
        };
        for system in self.systems.iter().filter(|system| has_checks(system)) {
            digest.text(&system.name);
            digest.checks(&system.checks);
            for item in &system.items {
                digest.checks(&item.checks);
                digest.number(match item.when_all_fail {
                    WhenAllFail::Release => 0,
                    WhenAllFail::Keep => 1,
                });
            }
        }
    }
}

impl Config {
    /// A config without preferred homes and without groups or names for addresses has the digest that it had
    /// before there were any. Interfaces may differ: each server has its own.
    fn digest_homes_and_groups(&self, digest: &mut Digest) {
        for (index, system) in self.systems.iter().enumerate() {
            for (at, item) in system.items.iter().enumerate() {
                if let Some(server) = item.prefer {
                    digest.text("prefer");
                    [index, at, server].iter().for_each(|number| digest.number(*number as u64));
                }
                if let Some(server) = item.home {
                    digest.text("home");
                    [index, at, server].iter().for_each(|number| digest.number(*number as u64));
                }
                let Some(ip) = &item.ip else { continue };
                if let Some(mac) = ip.parts.iter().find_map(|part| part.mac) {
                    digest.text("mac");
                    [index, at].iter().for_each(|number| digest.number(*number as u64));
                    mac.iter().for_each(|byte| digest.number(u64::from(*byte)));
                }
                let says_it = |net| super::parse_vip(&item.name).is_ok_and(|named| named == net);
                if !matches!(&ip.parts[..], [part] if says_it(part.net)) {
                    digest.text("group");
                    [index, at, ip.parts.len()].iter().for_each(|number| digest.number(*number as u64));
                    ip.parts.iter().for_each(|part| digest.text(&part.net.to_string()));
                }
            }
        }
    }
}

/// A hash over numbers and texts of which no two sequences look the same.
pub(super) struct Digest(blake3::Hasher);

impl Digest {
    fn checks(&mut self, checks: &[Check]) {
        self.number(checks.len() as u64);
        checks.iter().for_each(|check| check.digest(self));
    }

    fn new(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context))
    }

    pub(super) fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    pub(super) fn duration(&mut self, duration: Duration) {
        self.number(duration.as_secs());
        self.number(u64::from(duration.subsec_nanos()));
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::checks::{CheckKind, Endpoint};
    use crate::config::{Interface, IpItem, Item};
    use crate::testing;

    #[test]
    fn voters_hash_covers_quorum_servers_order_and_voters() {
        let base = testing::config("abc", "a");
        let hash = base.voters_hash();
        assert_eq!(testing::config("abc", "b").voters_hash(), hash);
        assert_ne!(testing::config("acb", "a").voters_hash(), hash);
        assert_ne!(testing::config("abcd", "a").voters_hash(), hash);
        assert_ne!(Config { quorum: 3, ..base.clone() }.voters_hash(), hash);
        assert_ne!(Config { voters: vec![0, 1], ..base.clone() }.voters_hash(), hash);
        let mut renamed = base;
        renamed.systems[0].name = "other".into();
        assert_eq!(renamed.voters_hash(), hash);
    }

    #[test]
    fn content_hash_covers_all_that_checks_say() {
        let mut base = testing::config("abc", "a");
        base.systems[0].items = testing::items(2);
        let tcp = |host: &str, port| CheckKind::Tcp(Endpoint { host: host.into(), port });
        let check = testing::check(tcp("h", 1));
        let hash = |system: &[&Check], item: &[&Check], all: WhenAllFail| {
            let mut config = base.clone();
            config.systems[0].checks = system.iter().map(|check| (*check).clone()).collect();
            config.systems[0].items[1].checks = item.iter().map(|check| (*check).clone()).collect();
            config.systems[0].items[1].when_all_fail = all;
            config.content_hash()
        };
        let release = WhenAllFail::Release;
        let mut seen = vec![base.content_hash()];
        seen.push(hash(&[&check], &[], release));
        seen.push(hash(&[], &[&check], release));
        seen.push(hash(&[&check], &[&check], release));
        seen.push(hash(&[&check], &[], WhenAllFail::Keep));
        for other in [
            Check { kind: tcp("i", 1), ..check.clone() },
            Check { kind: tcp("h", 2), ..check.clone() },
            Check { kind: CheckKind::Lua { script: "h".into() }, ..check.clone() },
            Check { kind: CheckKind::Exec { command: "h".into(), args: Vec::new() }, ..check.clone() },
            Check { kind: CheckKind::Exec { command: "h".into(), args: vec!["a".into()] }, ..check.clone() },
            Check { interval: Duration::from_millis(7), ..check.clone() },
            Check { timeout: Duration::from_millis(7), ..check.clone() },
            Check { rise: 9, ..check.clone() },
            Check { fall: 9, ..check.clone() },
        ] {
            seen.push(hash(&[&other], &[], release));
        }
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all, "two of them look the same");
    }

    fn group(texts: &[&str]) -> Option<IpItem> {
        let part = |text: &&str| IpItem::parse(text, &Interface::Auto).unwrap().parts.remove(0);
        Some(IpItem { parts: texts.iter().map(part).collect() })
    }

    #[test]
    fn content_hash_covers_homes_and_groups() {
        let mut base = testing::config("abc", "a");
        base.systems[0].items = vec![Item::plain("test", "10.0.0.1"), Item::plain("test", "10.0.0.2")];
        let hash = |first: Option<IpItem>, second: Option<IpItem>, prefer: [Option<usize>; 2]| {
            let mut config = base.clone();
            config.systems[0].items[0].ip = first;
            config.systems[0].items[1].ip = second;
            (config.systems[0].items[0].prefer, config.systems[0].items[1].prefer) = (prefer[0], prefer[1]);
            config.content_hash()
        };
        let none = [None; 2];
        let plain = hash(None, None, none);
        assert_eq!(hash(group(&["10.0.0.1"]), group(&["10.0.0.2@eth0"]), none), plain, "as before");
        assert_eq!(
            hash(group(&["10.0.0.1@eth0", "fd00::1"]), None, none),
            hash(group(&["10.0.0.1@eth1", "fd00::1@eth2"]), None, none),
            "each server has its own interfaces"
        );
        let mut seen = vec![
            plain,
            hash(group(&["10.0.0.1", "fd00::1"]), None, none),
            hash(group(&["fd00::1", "10.0.0.1"]), None, none),
            hash(group(&["10.0.0.1/24"]), None, none),
            hash(None, group(&["10.0.0.1", "fd00::1"]), none),
            hash(None, None, [Some(0), None]),
            hash(None, None, [Some(1), None]),
            hash(None, None, [None, Some(1)]),
        ];
        for mac in [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]] {
            let mut first = group(&["10.0.0.1"]);
            first.iter_mut().for_each(|ip| ip.parts[0].mac = Some(mac));
            seen.push(hash(first, None, none));
        }
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all, "two of them look the same");
    }

    #[test]
    fn content_hash_covers_what_must_be_equal() {
        let mut base = testing::config("abc", "a");
        base.systems[0].items = testing::items(2);
        let hash = base.content_hash();
        let changed = |change: fn(&mut Config)| {
            let mut config = base.clone();
            change(&mut config);
            config.content_hash() != hash
        };
        assert!(changed(|c| c.servers[1].priority = 1));
        assert!(changed(|c| c.servers[1].systems.clear()));
        assert!(changed(|c| c.servers.swap(0, 1)));
        assert!(changed(|c| c.systems[0].items.swap(0, 1)));
        assert!(changed(|c| c.systems[0].name = "x".into()));
        assert!(changed(|c| c.systems[0].kind = SystemKind::Replicate));
        assert!(changed(|c| {
            let item: Item = c.systems[0].items.remove(0);
            c.systems[0].items[0].name += &item.name;
        }));
        assert!(changed(|c| c.systems[0].items[1].prefer = Some(0)));
        assert!(changed(|c| c.systems[0].items[1].home = Some(0)));
        assert!(changed(|c| c.systems[0].items[1].ip = group(&["10.0.0.1", "10.0.0.2"])));
        assert!(changed(|c| c.systems[0].items[1].isolated = Isolated::Drop));
        assert!(changed(|c| c.systems[0].items[1].isolated = Isolated::Take));
        assert!(changed(|c| c.systems[0].orphan = Some(Duration::from_secs(60))));
        assert!(changed(|c| c.lease += Duration::from_millis(1)));
        assert!(changed(|c| c.timing.mature += Duration::from_millis(1)));
        // What nobody reads does not count.
        assert!(!changed(|c| c.systems[0].items[0].when_all_fail = WhenAllFail::Keep));
        assert!(!changed(|c| c.witness = Some([10, 0, 0, 1].into())));
        assert!(!changed(|c| c.timing.settle += Duration::from_millis(1)));
        assert!(!changed(|c| c.me = 1));
        assert!(!changed(|c| c.quorum = 3));
        assert!(!changed(|c| c.servers[1].addr.set_port(9)));
        assert!(!changed(|c| c.systems[0].alive = "x".into()));
    }
}
