//! Values that a file may leave out, and how they combine.

use std::time::Duration;

use super::*;
use crate::config::{
    Config, Hooks, Isolated, OnExit, Profile, Release, Severity, SystemKind, key_file_path, script_names,
};
use crate::config::{Script, ScriptFound};

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
    let items = vec!["\"x\""; 10_001].join(",");
    let text = format!(
        r#"{{"cluster": {{"system": {{"m": {{"data": [{items}]}}}}}}, "id": "a", "servers": {{"a": {{"ip": "10.0.0.1"}}}}}}"#
    );
    assert!(
        render(&load_quickly(&text, &Overrides::default()).expect_err("too many"))
            .contains("found 10001 items, expected at most 10000")
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
