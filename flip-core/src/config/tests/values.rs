//! Values that a file may leave out, and how they combine.

use std::time::Duration;

use super::*;
use crate::config::checks::{Encryption, SourceAddress};
use crate::config::{CheckKind, Script, ScriptFound};
use crate::config::{
    Config, Hooks, IpRoute, IpRule, Isolated, OnExit, Profile, Release, Severity, SystemKind, key_file_path,
    script_names,
};

fn config(text: &str, id: &str) -> Config {
    let loaded = load_quickly(text, &Overrides { id: Some(id), ..Overrides::default() });
    loaded.unwrap_or_else(|problems| panic!("{}", render(&problems))).config
}

#[test]
fn everything_but_servers_has_a_default() {
    let config = config(r#"{"servers": {"a": {"ip": "10.0.0.1"}, "b": {"ip": "fd00::1"}}}"#, "b");
    assert_eq!(config.me, 1);
    assert_eq!(config.quorum, 2);
    assert_eq!(config.timing, Profile::Balanced.timing(2));
    assert_eq!(config.servers[1].addr.to_string(), "[fd00::1]:2200");
    assert_eq!(config.servers[1].priority, u64::MAX);
    assert!(config.systems.is_empty());
}

#[test]
fn quorum_is_a_majority_of_the_voters() {
    let servers = |count: usize| {
        let servers: Vec<_> = (0..count).map(|n| format!(r#""s{n}": {{"ip": "10.0.{}.1"}}"#, n)).collect();
        format!(r#"{{"servers": {{{}}}"#, servers.join(","))
    };
    for (count, quorum) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (63, 32), (64, 16), (200, 16)] {
        assert_eq!(config(&(servers(count) + "}"), "s0").quorum, quorum, "{count} servers");
    }
    let named = config(&(servers(9) + r#", "voters": ["s7", "s1", "s3"]}"#), "s0");
    assert_eq!((named.quorum, &named.voters[..]), (2, &[1, 3, 7][..]));
}

#[test]
fn single_keys_override_the_profile() {
    let text = r#"{"profile": "turbo", "settle": 0, "hook_timeout": 5000, "digest_interval": 700,
        "servers": {"a": {"ip": "10.0.0.1"}, "b": {"ip": "10.0.0.2"}, "c": {"ip": "10.0.0.3"}}}"#;
    let mut expected = Profile::Turbo.timing(3);
    expected.settle = Duration::ZERO;
    expected.hook_timeout = Duration::from_secs(5);
    expected.digest_interval = Duration::from_millis(700);
    assert_eq!(config(text, "a").timing, expected);
}

#[test]
fn settings_of_cluster_system_and_server_merge_in_this_order() {
    let text = r#"{
        "servers": {
            "a": {"ip": "10.0.0.1", "system": "m", "config": {"z": 3, "own": true}},
            "b": {"ip": "10.0.0.2", "systems": ["m", "v"], "config": {"interface": "eth1"}},
        },
        "cluster": {
            "config": {"x": 1, "y": 1, "z": 1},
            // Trailing commas and comments are fine.
            "systems": {
                "v": {"alive": "ip_up", "down": "ip_down", "type": "replicated"},
                "m": {"alive": "memory_up", "down": "memory_down", "config": {"y": {"deep": 2}, "z": 2}},
            },
        },
    }"#;
    let settings = |id, system: usize| serde_json::to_string(&config(text, id).systems[system].config).ok();
    assert_eq!(settings("a", 1).as_deref(), Some(r#"{"x":1,"y":{"deep":2},"z":3,"own":true}"#));
    assert_eq!(settings("b", 1).as_deref(), Some(r#"{"x":1,"y":{"deep":2},"z":2,"interface":"eth1"}"#));
    assert_eq!(settings("b", 0).as_deref(), Some(r#"{"x":1,"y":1,"z":1,"interface":"eth1"}"#));
    let config = config(text, "b");
    assert_eq!(config.systems[0].kind, SystemKind::Replicate);
    assert_eq!(config.servers[1].systems, [0, 1], "ascending, whatever the order in the file");
}

#[test]
fn an_item_does_without_a_quorum_what_it_says_itself_or_its_system() {
    let text = r#"{
        "lease": 3500, "mature": 250, "witness": {"ping": "::ffff:10.0.0.254"},
        "servers": {"a": {"ip": "10.0.0.1", "systems": ["v", "w", "m"]}, "b": {"ip": "10.0.0.2"}, "c": {"ip": "10.0.0.3"}},
        "cluster": {"config": {"interface": "eth0"}, "system": {
            "v": {"alive": "ip_up", "down": "ip_down", "isolated": "take", "on_daemon_death": "expire:10",
                  "data": ["10.0.0.9", {"ip": "fd00::9/64", "isolated": "drop"}, {"isolated": "keep", "ip": "10.0.0.8"}]},
            "w": {"alive": "ip_up", "down": "ip_down", "on_daemon_death": "keep", "data": [{"ip": "10.0.0.7"}]},
            "m": {"alive": "memory_up", "down": "memory_down", "data": [{"name": "x", "isolated": "take"}, "y"]}}}
    }"#;
    let written = config(text, "a");
    let items = |system: usize| {
        let items = written.systems[system].items.iter();
        items.map(|item| (item.name.as_str(), item.isolated)).collect::<Vec<_>>()
    };
    let expected =
        [("10.0.0.9", Isolated::Take), ("fd00::9/64", Isolated::Drop), ("10.0.0.8", Isolated::Keep)];
    assert_eq!(items(0), expected);
    assert_eq!(items(1), [("10.0.0.7", Isolated::Keep)]);
    assert_eq!(items(2), [("x", Isolated::Take), ("y", Isolated::Keep)]);
    let orphans: Vec<_> = written.systems.iter().map(|system| (system.release, system.orphan)).collect();
    let ten = Some(Duration::from_secs(10));
    assert_eq!(orphans, [(Release::Kernel, ten), (Release::Kernel, None), (Release::Hook, None)]);
    assert_eq!(written.lease, Duration::from_millis(3500));
    assert_eq!(written.timing.mature, Duration::from_millis(250));
    assert_eq!(written.witness, Some([10, 0, 0, 254].into()), "the plain form of a mapped address");

    let text = r#"{"servers": {"a": {"ip": "10.0.0.1", "systems": ["ip"]}}, "cluster": {"system": {"ip":
        {"config": {"interface": "eth0"}, "data": ["10.0.0.9"]}}}}"#;
    let default = config(text, "a");
    assert_eq!((default.lease, default.witness), (Duration::from_secs(4), None));
    assert_eq!(default.systems[0].orphan, Some(Duration::from_secs(60)));
    assert_eq!(default.systems[0].items[0].isolated, Isolated::Keep);
}

#[test]
fn items_of_an_ip_system_come_in_many_forms() {
    let text = r#"{
        "servers": {"a": {"ip": "10.0.0.1", "systems": ["ip"]},
                    "node2": {"ip": "10.0.0.2", "systems": ["ip"], "config": {"interface": "ens3"}},
                    "c": {"ip": "10.0.0.3"}},
        "cluster": {"system": {"ip": {"config": {"interface": "eth0"}, "data": [
            "10.1.0.1", "10.1.0.2/24", "10.1.0.3/24@eth1", "fd00::4@auto",
            {"interface": "eth1", "ip": "10.1.0.5/24", "prefer": "node2", "isolated": "drop"},
            {"name": "web", "prefer": "a", "interface": "eth2",
             "ip": ["10.1.0.6", "fd00::6@eth3", {"ip": "fd00::7", "interface": "auto"}]},
            ["10.1.0.8", {"ip": "fd00::8/64", "interface": "eth1"}],
            ["node2", {"interface": "eth0", "ip": "10.1.0.9/24"}, {"interface": "eth1", "ip": "10.2.0.9/24"}]
        ]}}}}"#;
    let items = |me| {
        let config = config(text, me);
        let items = config.systems[0].items.iter().map(|item| {
            let parts = &item.ip.as_ref().expect("an ip system").parts;
            let parts: Vec<_> = parts.iter().map(|part| format!("{}@{}", part.net, part.interface)).collect();
            format!("{} {:?} {:?} {}", item.name, item.prefer, item.isolated, parts.join(" "))
        });
        items.collect::<Vec<_>>()
    };
    let expected = |own: &str| {
        [
            format!("10.1.0.1 None Keep 10.1.0.1/32@{own}"),
            format!("10.1.0.2/24 None Keep 10.1.0.2/24@{own}"),
            "10.1.0.3/24 None Keep 10.1.0.3/24@eth1".to_owned(),
            "fd00::4 None Keep fd00::4/128@auto".to_owned(),
            "10.1.0.5/24 Some(1) Drop 10.1.0.5/24@eth1".to_owned(),
            "web Some(0) Keep 10.1.0.6/32@eth2 fd00::6/128@eth3 fd00::7/128@auto".to_owned(),
            format!("10.1.0.8 None Keep 10.1.0.8/32@{own} fd00::8/64@eth1"),
            "10.1.0.9/24 Some(1) Keep 10.1.0.9/24@eth0 10.2.0.9/24@eth1".to_owned(),
        ]
    };
    assert_eq!(items("a"), expected("eth0"));
    assert_eq!(items("node2"), expected("ens3"), "a server's own interface is stronger than the system's");
    assert_eq!(config(text, "a").content_hash(), config(text, "node2").content_hash());

    let web = &config(text, "a").systems[0].items[5];
    for name in ["web", "10.1.0.6", "10.1.0.6/32", "FD00:0::6", "fd00::7"] {
        assert!(web.is_called(name), "{name}");
    }
    for name in ["10.1.0.7", "we", "", "10.1.0.6@eth2"] {
        assert!(!web.is_called(name), "{name}");
    }
}

#[test]
fn addresses_say_how_they_are_put_there() {
    let text = r#"{
        "servers": {"a": {"ip": "10.0.0.1", "systems": ["ip"], "config": {"noprefixroute": true}},
                    "b": {"ip": "10.0.0.2", "systems": ["ip"]}, "c": {"ip": "10.0.0.3"}},
        "cluster": {"config": {"interface": "eth0", "scope": "host"}, "system": {"ip": {"data": [
            "10.1.0.1", "10.1.0.2/24", "fd00::3/64",
            {"ip": ["10.1.0.4/24", {"ip": "10.1.0.5", "scope": "site", "noprefixroute": false}, "fd00::5"],
             "scope": "link", "noprefixroute": true},
            {"ip": "10.1.0.6", "scope": "global"}
        ]}}}}"#;
    let shown = |me| {
        let parts = |item: &crate::config::Item| {
            let shown = |part: &crate::config::IpPart| format!("{:?} {}", part.scope, part.noprefixroute);
            item.ip.iter().flat_map(|ip| &ip.parts).map(shown).collect::<Vec<_>>().join(", ")
        };
        config(text, me).systems[0].items.iter().map(parts).collect::<Vec<_>>()
    };
    let group = "Link true, Site false, Global true";
    assert_eq!(shown("a"), ["Host true", "Global true", "Global true", group, "Global true"]);
    assert_eq!(shown("b"), ["Host false", "Global false", "Global false", group, "Global false"]);
}

#[test]
fn routes_and_rules_of_an_address() {
    let text = r#"{
        "servers": {"a": {"ip": "10.0.0.1", "systems": ["ip"]}, "b": {"ip": "10.0.0.2"}, "c": {"ip": "10.0.0.3"}},
        "cluster": {"config": {"interface": "eth0"}, "system": {"ip": {"data": [
            {"ip": "10.1.0.1", "routes": [{"to": "default", "via": "10.1.0.254", "src": "10.1.0.1", "table": 100},
                                          {"to": "10.2.3.4/16", "metric": 7}],
             "rules": [{"table": 100}, {"from": "default", "to": "10.3.0.1", "table": 101, "priority": 9}]},
            {"ip": ["10.1.0.2", {"ip": "fd00::2", "routes": [{"to": "default"}], "rules": [{"table": 7}]}]}
        ]}}}}"#;
    let items = config(text, "a").systems.remove(0).items;
    let part = |item: usize, at: usize| items[item].ip.as_ref().expect("an ip system").parts[at].clone();
    let route = |to: &str, via: Option<&str>, src: Option<&str>, table, metric| IpRoute {
        to: to.parse().expect("a network"),
        via: via.map(|via| via.parse().expect("an address")),
        src: src.map(|src| src.parse().expect("an address")),
        table,
        metric,
    };
    let rule = |from: Option<&str>, to: Option<&str>, table, priority| IpRule {
        from: from.map(|from| from.parse().expect("a network")),
        to: to.map(|to| to.parse().expect("a network")),
        table,
        priority,
    };
    assert_eq!(
        part(0, 0).routes,
        [
            route("0.0.0.0/0", Some("10.1.0.254"), Some("10.1.0.1"), Some(100), None),
            route("10.2.0.0/16", None, None, None, Some(7)),
        ]
    );
    assert_eq!(
        part(0, 0).rules,
        [
            rule(Some("10.1.0.1/32"), None, 100, None),
            rule(Some("0.0.0.0/0"), Some("10.3.0.1/32"), 101, Some(9)),
        ]
    );
    assert_eq!((part(1, 0).routes, part(1, 0).rules), (vec![], vec![]));
    assert_eq!(part(1, 1).routes, [route("::/0", None, None, None, None)]);
    assert_eq!(part(1, 1).rules, [rule(Some("fd00::2/128"), None, 7, None)]);
}

#[test]
fn virtual_hardware_addresses_are_the_same_on_all_servers_and_differ_between_items() {
    let config_of = |data: &str, me| {
        let text = format!(
            r#"{{"servers": {{"a": {{"ip": "10.0.0.1", "systems": ["ip"]}}, "b": {{"ip": "10.0.0.2", "systems": ["ip"]}},
                "c": {{"ip": "10.0.0.3"}}}},
                "cluster": {{"config": {{"interface": "eth0"}}, "system": {{"ip": {{"data": [{data}]}}}}}}}}"#
        );
        config(&text, me)
    };
    let macs = |config: &Config| -> Vec<Option<[u8; 6]>> {
        let parts = config.systems[0].items.iter().flat_map(|item| &item.ip.as_ref().expect("ip").parts);
        parts.map(|part| part.mac).collect()
    };
    // So many that some must come to the same number, beside one that is given.
    let all: Vec<_> = (0..200).map(|n| format!(r#"{{"ip": "10.1.0.{n}", "mac": "virtual"}}"#)).collect();
    let data = format!(r#"{}, {{"ip": "10.2.0.1", "mac": "virtual:7"}}, "10.2.0.2""#, all[1..].join(","));
    let config = config_of(&data, "a");
    let of_a = macs(&config);
    assert_eq!(of_a, macs(&config_of(&data, "b")));
    assert_eq!(of_a[199..], [Some([0, 0, 0x5e, 0, 1, 7]), None]);
    let mut numbers: Vec<_> = of_a.iter().flatten().map(|mac| (mac[..5].to_vec(), mac[5])).collect();
    assert!(numbers.iter().all(|(block, number)| block == &[0, 0, 0x5e, 0, 1] && *number > 0));
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 200, "one for each");
    // A group has one for all its addresses, and keeps it whatever else is listed.
    let group = r#"{"ip": ["10.3.0.1", "fd00::1@eth1"], "mac": "virtual"}"#;
    let alone = macs(&config_of(group, "a"));
    assert_eq!(alone[0], alone[1]);
    assert_eq!(macs(&config_of(&format!(r#""10.2.0.1", {group}"#), "a"))[1..], alone);
}

#[test]
fn a_host_name_stands_in_for_the_id() {
    let text = r#"{"servers": {"web1": {"ip": "10.0.0.1"}, "web2.example.com": {"ip": "10.0.0.2"}}}"#;
    let me = |host| {
        let loaded = load_quickly(text, &Overrides { host_name: Some(host), ..Overrides::default() });
        loaded.ok().map(|loaded| loaded.config.me)
    };
    assert_eq!(me("web1"), Some(0));
    assert_eq!(me("web1.example.com"), Some(0));
    assert_eq!(me("web2.example.com"), Some(1));
    assert_eq!(me("web2"), None);
}

#[test]
fn the_key_file_holds_the_key() {
    let digits = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
    let servers = r#""servers": {"a": {"ip": "10.0.0.1"}, "b": {"ip": "10.0.0.2"}, "c": {"ip": "10.0.0.3"}}"#;
    let in_file = format!(r#"{{"key_file": "/etc/flip.key", {servers}}}"#);
    let source = Source { file: "cluster.json", text: &in_file };
    assert_eq!(key_file_path(&source).as_deref(), Some("/etc/flip.key"));

    let content = format!("\n {digits}\r\n");
    let overrides = Overrides { id: Some("a"), key_file: Some(content.as_bytes()), ..Overrides::default() };
    let loaded = load_quickly(&in_file, &overrides).expect("valid");
    assert!(loaded.warnings.is_empty(), "{}", render(&loaded.warnings));
    let direct = config(&format!(r#"{{"key": "{digits}", {servers}}}"#), "a");
    assert_eq!(loaded.config.key.0, direct.key.0);

    for text in ["", "{", "[]", r#"{"key_file": 7}"#, r#"{"id": "a"}"#] {
        assert_eq!(key_file_path(&Source { file: "", text }), None, "{text}");
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_not_shift_places() {
    let text = "\u{feff}{\r\n  \"ports\": 1\r\n}\r\n";
    let problems = load_quickly(text, &Overrides::default()).expect_err("unknown key");
    let unknown = problems.iter().find(|problem| problem.path == "ports").expect("found");
    assert_eq!((unknown.line, unknown.column, unknown.width), (2, 3, 7));
    assert_eq!(unknown.excerpt, "  \"ports\": 1");
}

#[test]
fn a_very_long_line_is_cut_around_the_place() {
    let padding = " ".repeat(100_000);
    let text = format!("{{{padding}\"prot\": 1,{padding}\"servers\": {{\"a\": {{\"ip\": \"10.0.0.1\"}}}}}}");
    let problems = load_quickly(&text, &Overrides::default()).expect_err("unknown key");
    let unknown = problems.iter().find(|problem| problem.path == "prot").expect("found");
    assert_eq!((unknown.line, unknown.column), (1, 100_002));
    let shown: String = unknown.excerpt.chars().skip(unknown.caret).take(unknown.width).collect();
    assert_eq!(shown, "\"prot\"");
    assert!(unknown.excerpt.chars().count() < 200);
}

#[test]
fn many_problems_are_counted_and_not_all_shown() {
    let keys: Vec<_> = (0..1000).map(|n| format!("\"x{n}\": 1")).collect();
    let problems =
        load_quickly(&format!("{{{}}}", keys.join(",")), &Overrides::default()).expect_err("wrong");
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].message, "901 more errors are not shown");
    assert!(problems.iter().all(|problem| problem.severity == Severity::Error));
}

#[test]
fn limits_are_named() {
    let refused =
        |text: &str| load_quickly(text, &Overrides::default()).expect_err("too much")[0].message.clone();
    let huge = " ".repeat((1 << 20) + 1);
    assert_eq!(refused(&huge), "the file has 1048577 bytes, expected at most 1048576 (1 MiB)");
    let items = vec!["\"x\""; 100_001].join(",");
    let text = format!(
        r#"{{"cluster": {{"system": {{"m": {{"data": [{items}]}}}}}}, "id": "a", "servers": {{"a": {{"ip": "10.0.0.1"}}}}}}"#
    );
    assert!(
        render(&load_quickly(&text, &Overrides::default()).expect_err("too many"))
            .contains("found 100001 items, expected at most 100000")
    );
    let servers: Vec<_> = (0..4097).map(|n| format!("\"{n}\":{{}}")).collect();
    let text = format!("{{\"servers\":{{{}}}}}", servers.join(","));
    assert_eq!(refused(&text), "found 4097 servers, expected at most 4096");
    let deep = "[".repeat(100_000);
    assert_eq!(refused(&deep), "brackets within brackets, too deep");
    let nested = format!("{}1{}", "{\"x\":[".repeat(160), "]}".repeat(160));
    let text = format!(
        r#"{{"servers": {{"a": {{"ip": "10.0.0.1"}}}}, "cluster": {{"config": {{"x": {nested}}}}}}}"#
    );
    config(&text, "a");
    assert_eq!(refused(&"key ".repeat(1 << 18)), "found `k`, expected a value");
}

#[test]
fn a_problem_found_elsewhere_points_into_the_file() {
    let text = "{\"cluster\": {\"systems\": {\"ip\":\n  {\"config\": {\"interface\": \"lo0\"}}}}}";
    let path = ["cluster", "system", "ip", "config", "interface"];
    let source = Source { file: "cluster.json", text };
    let problem = Problem::at(&source, Severity::Error, &path, "no such interface", Some("there is eth0"));
    assert_eq!(
        problem.to_string(),
        "error: no such interface\n --> cluster.json:2:28 (key cluster.system.ip.config.interface)\n  |   \
         {\"config\": {\"interface\": \"lo0\"}}}}}\n  |                            ^^^^^\n  help: there is eth0"
    );
    let early = Problem::at(&source, Severity::Warning, &["cluster", "config", "interface"], "missing", None);
    assert_eq!((early.line, early.column), (1, 13));
    let nowhere = Problem::at(&Source { file: "", text: "" }, Severity::Error, &["x"], "missing", None);
    assert_eq!((nowhere.line, nowhere.column), (1, 1));
}

#[test]
fn how_hooks_are_called() {
    let text = r#"{
        "servers": {"a": {"ip": "10.0.0.1", "systems": ["v", "w"]}},
        "cluster": {"remove_on_failure": false, "remove_on_start": false, "system": {
            "v": {"alive": "memory_up", "down": "memory_down", "timeout": 2500, "fall": 1, "cool_down": 0,
                  "parallel": 3, "on_exit": "down", "remove_on_start": true},
            "w": {"alive": "memory_up", "down": "memory_down"}}}}"#;
    let systems = config(text, "a").systems;
    let expected = Hooks {
        timeout: Some(Duration::from_millis(2500)),
        fall: 1,
        cool_down: Duration::ZERO,
        parallel: 3,
        remove_on_start: true,
        on_exit: OnExit::Down,
        post: None,
    };
    assert_eq!(systems[0].hooks, expected);
    let of_cluster = Hooks { remove_on_start: false, on_exit: OnExit::Keep, ..Hooks::default() };
    assert_eq!(systems[1].hooks, of_cluster);
}

#[test]
fn scripts_are_named_before_they_are_looked_for_and_items_keep_what_is_theirs() {
    let text = r#"{"servers": {"a": {"ip": "10.0.0.1", "systems": ["s", "ip"]}, "b": {"ip": "10.0.0.2"}},
        "scripts_dir": "lua", "plugins": ["watch"], "lua_memory": 8,
        "cluster": {"systems": {
            "s": {"alive": "web", "down": "web", "data": ["x", {"name": "y", "port": 7, "deep": {"a": [1]}}]},
            "t": {"data": []},
            "ip": {"config": {"interface": "eth0"}, "data": ["10.0.0.9"]}}}}"#;
    let source = Source { file: "cluster.json", text };
    let names = script_names(&source);
    assert_eq!(names.dir.as_deref(), Some("lua"));
    assert_eq!(names.names, ["web", "t_up", "t_down", "watch"]);
    let both = ["alive".to_owned(), "down".to_owned()];
    let found = |name| Script { name, found: ScriptFound::Functions(&both) };
    let scripts = ["web", "t_up", "t_down", "watch"].map(found);
    let overrides = Overrides { id: Some("a"), scripts: &scripts, ..Overrides::default() };
    let config = load_quickly(text, &overrides).expect("a good config").config;
    let system = &config.systems[0];
    assert_eq!((system.alive.as_str(), system.release), ("web", Release::Hook));
    assert_eq!(system.items[0].own, None);
    let own = system.items[1].own.as_ref().expect("an object");
    assert_eq!((system.items[1].name.as_str(), own["port"].as_u64()), ("y", Some(7)));
    assert_eq!(config.lua.plugins, ["watch"]);
    assert_eq!(config.lua.memory_mib, Some(8));
    // Without a look at the files no script is known.
    let overrides = Overrides { id: Some("a"), ..Overrides::default() };
    assert!(load_quickly(text, &overrides).is_err());
    // What is no JSON, or another shape, names nothing and does not panic.
    for text in ["", "{", "[]", r#"{"cluster": 5, "plugins": {}}"#, r#"{"cluster": {"system": {"s": 5}}}"#] {
        let _ = script_names(&Source { file: "x", text });
    }
}

#[test]
fn how_a_database_is_reached() {
    let login = |keys: &str| {
        let text = format!(
            r#"{{"servers": {{"a": {{"ip": "10.0.0.1", "systems": ["m"]}}}}, "cluster": {{"system": {{"m": {{
                "alive": "memory_up", "down": "memory_down", "data": ["x"],
                "checks": [{{"type": "postgres"{keys}}}]}}}}}}}}"#
        );
        let config = config(&text, "a");
        let CheckKind::Postgres { login, .. } = config.systems[0].checks[0].kind.clone() else { panic!() };
        (login.tls, login.source, config.content_hash())
    };
    let (tls, source, plain) = login("");
    assert_eq!((tls, source), (Encryption::Off, None));
    assert_eq!(login(r#", "tls": "off""#).2, plain, "what is the default changes no hash");
    let verify = Encryption::Verify { name: Some("db".into()), ca_file: Some("/ca.pem".into()) };
    let table = [
        (r#", "tls": "prefer""#, Encryption::Prefer, None),
        (r#", "tls": "require", "source": "server""#, Encryption::Require, Some(SourceAddress::Server)),
        (
            r#", "tls": "verify", "tls_name": "db", "ca_file": "/ca.pem", "source": "10.0.0.5""#,
            verify,
            Some(SourceAddress::Ip([10, 0, 0, 5].into())),
        ),
    ];
    let mut hashes = vec![plain];
    for (keys, tls, source) in table {
        let found = login(keys);
        assert_eq!((&found.0, found.1), (&tls, source), "{keys}");
        assert!(!hashes.contains(&found.2), "{keys}: all servers must have the same");
        hashes.push(found.2);
    }
}
