//! Merging, and the way from a file and edits to a config.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::config::{self, Config, Overrides, Source};

const FILE: &str = r#"{
    // Comments and order do not matter, lists do.
    "id": "a", "version": 3, "log_level": "error", "witness": {"ping": "10.0.0.254"},
    "key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "servers": {
        "b": {"ip": "10.0.0.2", "systems": ["ip", "job"], "config": {"interface": "eth1"}},
        "a": {"ip": "10.0.0.1", "systems": ["ip", "job"], "config": {"interface": "eth7"}},
        "c": {"ip": "10.0.0.3", "systems": ["ip"], "config": {"interface": "eth2"}},
    },
    "profile": "fast",
    "cluster": {
        "config": {"x": 1},
        "systems": {
            "ip": {"data": ["10.0.1.1", "10.0.1.2/24@eth0", {"name": "web", "ip": ["10.0.1.3", "fd00::3"]}]},
            "job": {"alive": "memory_up", "down": "memory_down", "data": ["x", {"name": "y", "isolated": "drop"}]},
        },
    },
}"#;

fn load(text: &str) -> Config {
    config::load(&Source { file: "test", text }, &Overrides::default()).expect("no errors").config
}

fn opened(text: &str) -> (Catalog, Local) {
    let (file, local) = open(text, &load(text), &[]);
    (Catalog::new(file), local)
}

fn edits(text: &str) -> Vec<Edit> {
    serde_json::from_str(text).expect("edits")
}

/// Makes edits one after the other, and gives the config that comes of them.
fn edit(catalog: &mut Catalog, local: &Local, text: &str) -> Result<Config, String> {
    let mut changes = Changes::default();
    let stamp = catalog.next_stamp(1);
    for one in edits(text) {
        changes.apply(catalog, &one, stamp).inspect_err(|_| ())?;
    }
    for (_, record) in changes.entries(catalog) {
        assert!(record.stamp == stamp);
    }
    let entries = changes.entries(catalog);
    let made = config(catalog, local).map_err(|invalid| invalid.to_string());
    changes.back_to(catalog, 0);
    if made.is_ok() {
        for (key, record) in entries {
            assert!(catalog.merge(key, record));
        }
    }
    made
}

fn items(config: &Config, system: usize) -> Vec<&str> {
    config.systems[system].items.iter().map(|item| item.name.as_str()).collect()
}

#[test]
fn a_catalog_of_a_file_alone_means_what_the_file_means() {
    let plain = load(FILE);
    let (catalog, local) = opened(FILE);
    let made = config(&catalog, &local).expect("no errors");
    assert_eq!(made.content_hash(), plain.content_hash());
    assert_eq!(made.voters_hash(), plain.voters_hash());
    assert_eq!(format!("{made:?}"), format!("{plain:?}"));
    assert_eq!(made.key, plain.key);
    assert_eq!(catalog.file().version, 3);
    for secret in ["0123456789abcdef", "log_level", "10.0.0.254", "\"id\""] {
        assert!(!catalog.file().text.contains(secret), "{secret} spreads");
    }
}

#[test]
fn blanks_comments_local_keys_and_interfaces_make_no_other_file() {
    let (catalog, _) = opened(FILE);
    let other = FILE.replace("eth7", "eth9").replace("\"error\"", "\"info\"").replace("// Comments", "//");
    let other =
        other.replace("\"id\": \"a\"", "\"id\": \"b\"").replace(r#", "witness": {"ping": "10.0.0.254"}"#, "");
    let (same, local) = opened(&other);
    assert_eq!(same.file().hash, catalog.file().hash);
    // The own interface counts, and that of others comes from wherever the file came from.
    let made = config(&catalog, &local).expect("no errors");
    assert_eq!(made.systems[0].config["interface"], "eth1");
    let (_, own) = opened(&FILE.replace("eth7", "eth9"));
    assert_eq!(config(&catalog, &own).expect("no errors").systems[0].config["interface"], "eth9");
    for change in [("\"fast\"", "\"lan\""), ("10.0.1.1", "10.0.1.9"), ("\"version\": 3", "\"version\": 4")] {
        assert_ne!(
            opened(&FILE.replace(change.0, change.1)).0.file().hash,
            catalog.file().hash,
            "{change:?}"
        );
    }
}

#[test]
fn edits_change_what_they_say_and_nothing_else() {
    let (mut catalog, local) = opened(FILE);
    let made = edit(
        &mut catalog,
        &local,
        r#"[{"set_item": {"system": "ip", "value": "10.0.1.9@eth0"}},
            {"remove_item": {"system": "ip", "item": "10.0.1.1"}},
            {"set_item": {"system": "job", "value": {"name": "y", "isolated": "keep"}}},
            {"set_server": {"id": "d", "value": {"ip": "10.0.0.4", "systems": ["job"]}}},
            {"set_system": {"name": "n", "value": {"alive": "memory_up", "down": "memory_down"}}},
            {"set_item": {"system": "n", "value": "z"}},
            {"move_item": {"system": "job", "item": "x", "to": "a"}}]"#,
    )
    .expect("no errors");
    assert_eq!(items(&made, 0), ["10.0.1.2/24", "web", "10.0.1.9"]);
    assert_eq!(made.systems[1].items[1].isolated, config::Isolated::Keep);
    assert_eq!(made.systems[1].items[0].home, Some(1));
    assert_eq!(made.systems[2].items[0].name, "z");
    let servers: Vec<_> = made.servers.iter().map(|server| server.id.as_str()).collect();
    assert_eq!(servers, ["b", "a", "c", "d"]);

    // What a file made ends with a file of a higher version; what an edit made stays.
    let (next, _) =
        opened(&FILE.replace("\"version\": 3", "\"version\": 4").replace("10.0.1.2/24@eth0", "10.0.1.7"));
    let ended: Vec<_> = catalog.ended_by(4).iter().map(ToString::to_string).collect();
    assert_eq!(catalog.merge_file(next.file()), FileMerge::Adopted);
    assert!(
        ended.contains(&"item ip/10.0.1.1".to_owned()) && ended.contains(&"item job/y".to_owned()),
        "{ended:?}"
    );
    let made = config(&catalog, &local).expect("no errors");
    assert_eq!(items(&made, 0), ["10.0.1.1", "10.0.1.7", "web", "10.0.1.9"]);
    assert_eq!(made.systems[1].items[1].isolated, config::Isolated::Drop);
    assert_eq!(made.systems[2].items[0].name, "z");

    // Removed, it is gone; a system goes with its items and with its place in servers.
    let made = edit(
        &mut catalog,
        &local,
        r#"[{"remove_item": {"system": "ip", "item": "10.0.1.9"}}, {"remove_system": {"name": "job"}}]"#,
    )
    .expect("no errors");
    assert_eq!(made.systems.iter().map(|system| system.name.as_str()).collect::<Vec<_>>(), ["ip", "n"]);
    assert!(made.servers.iter().all(|server| server.systems.iter().all(|system| *system == 0)));
    assert_eq!(catalog.merge_file(opened(FILE).0.file()), FileMerge::Older);
    let other = opened(&FILE.replace("\"version\": 3", "\"version\": 4")).0;
    assert_eq!(catalog.merge_file(other.file()), FileMerge::Conflict);
}

#[test]
fn what_is_wrong_is_named_by_its_entry_and_changes_nothing() {
    let (mut catalog, local) = opened(FILE);
    let brief = catalog.brief();
    for (text, expected) in [
        (r#"[{"set_item": {"system": "ip", "value": "10.0.1.2/33"}}]"#, "10.0.1.2/33"),
        (
            r#"[{"set_item": {"system": "ip", "value": {"ip": "10.0.9.9", "prefer": "zz"}}}]"#,
            "item ip/10.0.9.9: found \"zz\"",
        ),
        (r#"[{"set_item": {"system": "no", "value": "x"}}]"#, "there is no system no"),
        (r#"[{"remove_item": {"system": "ip", "item": "10.9.9.9"}}]"#, "there is no item ip/10.9.9.9"),
        (
            r#"[{"set_server": {"id": "d", "value": {"systems": ["ip"]}}}]"#,
            "server d: server `d` has no `ip`",
        ),
        (r#"[{"set_system": {"name": "ip", "value": {"data": []}}}]"#, "found `data`"),
        (
            r#"[{"set_system": {"name": "ip", "value": {"isolatd": "drop"}}}]"#,
            "system ip: unknown key `isolatd`",
        ),
        (r#"[{"move_item": {"system": "job", "item": "x", "to": "c"}}]"#, "server c takes no part"),
        (r#"[{"set_item": {"system": "job", "value": 5}}]"#, "expected a string"),
    ] {
        let error = edit(&mut catalog, &local, text).expect_err(text);
        assert!(error.contains(expected), "{text}: {error}");
        assert_eq!(catalog.brief(), brief, "{text}");
    }
}

#[test]
fn who_is_removed_votes_no_more() {
    let (mut catalog, local) = opened(FILE);
    let made = edit(&mut catalog, &local, r#"[{"remove_server": {"id": "a"}}]"#).expect("no errors");
    assert_eq!((made.me, made.servers.len()), (2, 2), "it is told that it is named no more");
    let text = FILE.replace("\"profile\"", "\"voters\": [\"a\", \"b\", \"c\"], \"profile\"");
    let (mut catalog, local) = opened(&text);
    let made = edit(&mut catalog, &local, r#"[{"remove_server": {"id": "b"}}]"#).expect("no errors");
    assert_eq!(made.voters, [0, 1]);
    assert_eq!(made.quorum, 2);
}

fn random_entry(rng: &mut StdRng) -> Entry {
    let name = |rng: &mut StdRng| format!("{}", rng.random_range(0..4));
    let key = match rng.random_range(0..5) {
        0 => Key::Cluster,
        1 => Key::Server(name(rng)),
        2 => Key::System(name(rng)),
        3 => Key::Item(name(rng), name(rng)),
        _ => Key::Home(name(rng), name(rng)),
    };
    let stamp = Stamp { count: rng.random_range(1..9), writer: rng.random_range(0..3) };
    let value = rng.random_bool(0.6).then(|| format!("{}", rng.random_range(0..3)).into());
    let bound = rng.random_bool(0.4).then(|| rng.random_range(0..4));
    (key, Record { value, stamp, born: stamp, bound })
}

/// Whatever arrives in whatever order and however often: all end with the same.
#[test]
fn merging_is_commutative_and_idempotent() {
    for seed in 0..2000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let entries: Vec<_> = (0..rng.random_range(1..20)).map(|_| random_entry(&mut rng)).collect();
        let files: Vec<File> =
            (0..4).map(|version| File::from_text(version, "{}").expect("a file")).collect();
        let run = |rng: &mut StdRng| {
            let mut catalog = Catalog::default();
            let mut steps: Vec<(usize, bool)> = (0..entries.len()).map(|at| (at, true)).collect();
            steps.extend((0..files.len()).map(|at| (at, false)));
            let again: Vec<_> = steps.iter().copied().filter(|_| rng.random_bool(0.5)).collect();
            steps.extend(again);
            steps.shuffle(rng);
            for (at, is_entry) in steps {
                if is_entry {
                    let (key, record) = entries[at].clone();
                    catalog.merge(key, record);
                } else {
                    catalog.merge_file(&files[at]);
                }
            }
            catalog
        };
        let (one, other) = (run(&mut rng), run(&mut rng));
        assert_eq!(one.brief(), other.brief(), "seed {seed}");
        assert_eq!(one.sums(), other.sums());
        assert!(one.records().eq(other.records()), "seed {seed}");
        // What everybody knows is forgotten everywhere alike.
        let (mut one, mut other) = (one, other);
        if let Some(floor) = one.to_forget() {
            assert!(one.raise_floor(floor) && other.raise_floor(floor));
            assert_eq!(one.tombstones(), 0, "seed {seed}");
            assert_eq!((one.brief(), one.to_forget()), (other.brief(), None));
            assert!(one.records().eq(other.records()), "seed {seed}");
        }
        let mut sums = vec![0u64; BUCKETS];
        for (key, record) in one.records() {
            let hash = key.hash();
            let sum = &mut sums[usize::try_from(hash % BUCKETS as u64).expect("small")];
            *sum = sum.wrapping_add(record.hash(hash));
        }
        assert_eq!(one.sums(), sums, "the sums are those of what is there");
    }
}

/// An old message about something that was removed, and whose removal is forgotten, brings nothing back.
#[test]
fn what_is_forgotten_stays_removed() {
    let key = Key::Item("job".into(), "x".into());
    let record = |count, value: Option<&str>| {
        let stamp = Stamp { count, writer: 1 };
        Record { value: value.map(Into::into), stamp, born: stamp, bound: None }
    };
    let mut catalog = Catalog::default();
    catalog.set_complete(true);
    assert!(catalog.merge(key.clone(), record(12, Some("\"x\""))));
    assert!(catalog.merge(key.clone(), record(15, None)));
    assert!(catalog.raise_floor(17) && catalog.is_empty());
    assert!(!catalog.merge(key.clone(), record(12, Some("\"x\""))));
    assert!(catalog.merge(key.clone(), record(18, Some("\"x\""))), "somebody added it anew");
    // What hides an entry of the file hides it for as long as there is that file.
    let (mut filed, local) = opened(FILE);
    let stamp = filed.next_stamp(1);
    let mut changes = Changes::default();
    let edit = &edits(r#"[{"remove_item": {"system": "job", "item": "x"}}]"#)[0];
    changes.apply(&mut filed, edit, stamp).expect("it is there");
    assert_eq!(filed.to_forget(), None);
    filed.raise_floor(stamp.count);
    assert_eq!(items(&config(&filed, &local).expect("no errors"), 1), ["y"]);
    // Who begins with nothing takes what others have, however old it is.
    let mut young = Catalog::default();
    assert!(young.merge(key, record(12, Some("\"x\""))));
}
