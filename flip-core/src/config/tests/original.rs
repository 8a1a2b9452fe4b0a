//! The configuration of the original flip, byte for byte.

use std::time::Duration;

use super::*;
use crate::config::{LogLevel, SystemKind, load};

const ORIGINAL: &str = include_str!("../../../../examples/original/cluster.json");

#[test]
fn it_means_what_it_meant() {
    let source = Source { file: "cluster.json", text: ORIGINAL };
    let Loaded { config, warnings } = load(&source, &Overrides::default()).expect("valid");
    assert_eq!(config.my().id, "flip");
    assert_eq!(config.quorum, 2);
    assert_eq!(config.voters, [0, 1, 2]);
    assert_eq!(config.timing.probe_interval, Duration::from_millis(1000));
    assert_eq!(config.timing.pings_per_interval, 3);
    assert_eq!(config.timing.ping_timeout, Duration::from_millis(1500));
    assert_eq!(config.timing.settle, Duration::from_millis(300), "of the profile");
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.cluster_id, "flip");

    let servers: Vec<_> = config
        .servers
        .iter()
        .map(|s| (s.id.as_str(), s.addr.to_string(), s.priority, &s.systems[..]))
        .collect();
    assert_eq!(
        servers,
        [
            ("flip", "127.0.0.1:2200".into(), u64::MAX, &[0][..]),
            ("flip1", "127.0.0.1:2201".into(), 1, &[0][..]),
            ("flip2", "127.0.0.1:2202".into(), u64::MAX, &[][..]),
        ]
    );
    let [system] = &config.systems[..] else { panic!("one system") };
    assert_eq!((system.name.as_str(), system.kind), ("ip", SystemKind::Shard));
    assert_eq!((system.alive.as_str(), system.down.as_str()), ("ip_up", "ip_down"));
    assert_eq!(system.config["interface"], "lo0");
    let items: Vec<_> = system.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(items, ["192.168.0.2", "192.168.0.1"], "in listed order");

    let rendered = render(&warnings);
    assert_eq!(
        rendered,
        "warning: this key is not 64 hexadecimal digits: it is taken as a passphrase, which whoever records \
         a datagram can try to guess offline\n --> cluster.json:5:11 (key key)\n  | \t,\"key\" : ********\n  \
         | \t         ^^^^^^^^\n  help: replace it, on every server alike, by what `flip keygen` prints\n"
    );
}

#[test]
fn digests_do_not_change_between_releases() {
    let config = load_quickly(ORIGINAL, &Overrides::default()).expect("valid").config;
    let other = load_quickly(ORIGINAL, &Overrides { id: Some("flip2"), ..Overrides::default() });
    let other = other.expect("valid").config;
    assert_eq!(config.voters_hash(), other.voters_hash());
    assert_eq!(config.content_hash(), other.content_hash());
    assert_eq!((config.voters_hash(), config.content_hash()), (84_299_438, 1_912_408_095_249_960_589));
}

#[test]
fn no_prefix_panics() {
    let overrides = Overrides { host_name: Some("flip"), ..Overrides::default() };
    for end in 0..=ORIGINAL.len() {
        let text = &ORIGINAL[..end];
        let whole = text.trim_end() == ORIGINAL.trim_end();
        let loaded = load_quickly(text, &overrides);
        assert_eq!(loaded.is_ok(), whole, "prefix of {end} bytes");
        render(&loaded.map_or_else(|problems| problems, |loaded| loaded.warnings));
    }
}

#[test]
fn no_changed_byte_panics() {
    let overrides = Overrides { host_name: Some("flip"), ..Overrides::default() };
    for at in 0..ORIGINAL.len() {
        for byte in *b"{}[]\",:0-9e.\\/*\n\r\t\0\x1b\x7fa" {
            let mut bytes = ORIGINAL.as_bytes().to_vec();
            bytes[at] = byte;
            check_sane(&String::from_utf8(bytes).expect("ASCII"), at, &overrides);
        }
        for piece in ["", "ß", "\u{feff}", "\u{10ffff}", "null", "{\"a\":[", "9999999999999999999999"] {
            let text = format!("{}{piece}{}", &ORIGINAL[..at], &ORIGINAL[at + 1..]);
            check_sane(&text, at, &overrides);
        }
    }
}

/// Whatever was changed at `at`, the answer names places that exist, and does not show the key unless
/// that is no longer called so.
fn check_sane(text: &str, at: usize, overrides: &Overrides) {
    let name = ORIGINAL.find("\"key\"").expect("there");
    let renamed = (name..name + "\"key\" : \"".len()).contains(&at);
    let problems = match load_quickly(text, overrides) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason: {text}");
            problems
        }
    };
    for problem in problems {
        assert!((1..=text.lines().count().max(1) + 1).contains(&problem.line), "{problem}");
        assert!(problem.column >= 1 && problem.width >= 1, "{problem}");
        let rendered = problem.to_string();
        assert!(renamed || !rendered.contains("secret"), "{rendered}");
    }
}
