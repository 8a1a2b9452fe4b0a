//! Scripts in real daemons, and `flip hook run`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use flip_core::event::ItemState;
use flip_core::status::Status;
use flip_tests::local::Local;
use flip_tests::until::until;
use rustix::process::Signal;
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(20);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

fn run(args: &[&str]) -> Output {
    Command::new(flip()).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn wait(what: &str, wanted: impl Fn() -> bool) {
    until(what, LIMIT, String::new, wanted);
}

/// A copy of an example with ports and a directory of its own.
struct Example {
    dir: tempfile::TempDir,
    local: Local,
}

impl Example {
    fn new(name: &str, shared: &str, servers: usize) -> Self {
        let from: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "examples", name].iter().collect();
        let dir = tempfile::tempdir().unwrap();
        for id in ["a", "b", "c"] {
            std::fs::create_dir(dir.path().join(id)).unwrap();
        }
        let config = std::fs::read_to_string(from.join("cluster.json")).unwrap();
        let config = config.replace(shared, dir.path().to_str().unwrap());
        let config = config.lines().filter(|line| !line.starts_with("//")).collect::<String>();
        let config: Value = serde_json::from_str(&config).unwrap();
        // Ports come from there, everything else from the example.
        let local = Local::prepare(flip(), servers, 0, &[], Map::new()).unwrap();
        let made: Value = serde_json::from_str(&std::fs::read_to_string(local.config()).unwrap()).unwrap();
        let mut config = config;
        for (id, server) in config["servers"].as_object_mut().unwrap() {
            server["port"] = made["servers"][id]["port"].clone();
        }
        let scripts = from.join(config["scripts_dir"].as_str().unwrap_or("scripts"));
        config["scripts_dir"] = json!(scripts.to_str().unwrap());
        std::fs::write(local.config(), config.to_string()).unwrap();
        Self { dir, local }
    }

    fn files(&self, id: &str) -> BTreeSet<String> {
        names(&self.dir.path().join(id))
    }

    fn start(&mut self, servers: usize) {
        for n in 0..servers {
            self.local.start(n).unwrap();
        }
        for n in 0..servers {
            self.local.watch(n).unwrap().until(LIMIT, Status::healthy).unwrap();
        }
    }

    /// Runs hooks by hand and compares what they print with the example's page.
    fn by_hand(&self, example: &str, shared: &str, hooks: &[[&str; 3]]) {
        let mut printed = String::new();
        for [system, hook, item] in hooks {
            let config = self.local.config();
            let out =
                run(&["hook", "run", "--config", config.to_str().unwrap(), "--id", "a", system, hook, item]);
            assert_eq!(out.status.code(), Some(0), "{}{}", text(&out.stdout), text(&out.stderr));
            for line in text(&out.stdout).lines() {
                let line =
                    line.split_once(" ok in ").map_or(line.to_owned(), |(what, _)| format!("{what} ok in *"));
                printed += &format!("{}\n", line.replace(self.dir.path().to_str().unwrap(), shared));
            }
        }
        let page: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "..", "examples", example, "expected.txt"].iter().collect();
        assert_eq!(printed, std::fs::read_to_string(page).unwrap());
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn the_lua_example_shards_and_replicates() {
    let mut example = Example::new("lua", "/tmp/flip-lua", 3);
    example.by_hand("lua", "/tmp/flip-lua", &[["jobs", "alive", "mails"], ["jobs", "down", "mails"]]);
    example.start(3);
    assert_eq!(example.files("a"), set(&["heartbeat", "mails", "reports"]));
    assert_eq!(example.files("b"), set(&["backups", "heartbeat", "thumbnails"]));
    let mails = std::fs::read_to_string(example.dir.path().join("a/mails")).unwrap();
    assert_eq!(mails, "a has it, on port 25\n");

    example.local.kill(0).unwrap();
    wait("b has all", || {
        example.files("b") == set(&["backups", "heartbeat", "mails", "reports", "thumbnails"])
    });
    example.local.start(0).unwrap();
    wait("b gives back", || example.files("b") == set(&["backups", "heartbeat", "thumbnails"]));
    wait("a has its own", || example.files("a") == set(&["heartbeat", "mails", "reports"]));
    // On a planned end everything is taken down.
    for n in 0..3 {
        example.local.signal(n, Signal::TERM).unwrap();
    }
    for n in 0..3 {
        assert!(example.local.wait(n).unwrap().success());
    }
    assert!(example.files("a").is_empty() && example.files("b").is_empty());
}

#[test]
fn the_cron_leader_moves() {
    let mut example = Example::new("cron-leader", "/tmp/flip-cron", 3);
    example.by_hand(
        "cron-leader",
        "/tmp/flip-cron",
        &[["cron", "alive", "reports"], ["cron", "down", "reports"]],
    );
    example.start(3);
    let leaders = |example: &Example| -> Vec<_> {
        ["a", "b", "c"].into_iter().filter(|id| example.files(id).contains("reports")).collect()
    };
    assert_eq!(leaders(&example), ["a"]);
    example.local.kill(0).unwrap();
    wait("another leads", || leaders(&example).len() == 2);
    example.local.start(0).unwrap();
    wait("one leads again", || leaders(&example).len() == 1);
}

/// A cluster of `a`, `b` and the arbiter `c`, whose hooks and plugins are these scripts.
fn cluster(scripts: &[(&str, &str)], extra: Value) -> (tempfile::TempDir, Local) {
    let dir = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let script = script.replace("@", dir.path().to_str().unwrap());
        std::fs::write(dir.path().join(format!("{name}.lua")), script).unwrap();
    }
    let mut all = extra.as_object().unwrap().clone();
    all.insert("scripts_dir".into(), json!(dir.path().to_str().unwrap()));
    let mut local = Local::prepare(flip(), 3, 1, &[], all).unwrap();
    for n in 0..3 {
        local.start(n).unwrap();
    }
    (dir, local)
}

#[test]
fn a_failing_script_is_told_of_with_file_and_line() {
    let (_dir, local) = cluster(
        &[("bad", "return {\n alive = function() error('no such thing') end,\n down = function() end }")],
        json!({"cluster": {"system": {"items": {"alive": "bad", "down": "bad", "data": ["x"]}}}}),
    );
    let told = |status: &Status| {
        status.items[0].failure.as_ref().is_some_and(|it| it.error.ends_with("bad.lua:2: no such thing"))
    };
    local.watch(0).unwrap().until(LIMIT, told).unwrap();
    wait("the log says so", || local.log(0).contains("bad.lua:2: no such thing"));
}

#[test]
fn plugins_hear_intentions_and_results_and_may_make_a_node_unfit() {
    let plugin = "
        local function note(text) flip.exec('tee', {'-a', '@/' .. flip.node .. '.events'}, {stdin = text .. '\\n'}) end
        for _, name in {'up', 'down'} do
          flip.on(name, function(e) note(name .. ' ' .. e.phase .. ' ' .. e.system .. ' ' .. e.item) end)
        end
        flip.on('stop', function() note('stop') end)
        flip.every(20, function()
          flip.active(not pcall(flip.read, '@/' .. flip.node .. '.unfit'), 'file')
          flip.set_fact('runs', {since = 1})
        end)";
    let hook = "return {
        alive = function() flip.sleep(1) assert(#flip.members() == 3) assert(flip.items()[1].item == 'x') end,
        down = function() end }";
    let (dir, local) = cluster(
        &[("watch", plugin), ("job", hook)],
        json!({"plugins": ["watch"], "cluster": {"system": {"items": {"alive": "job", "down": "job", "data": ["x"]}}}}),
    );
    let holder = |status: &Status| -> Option<String> {
        let active = status.items[0].holders.iter().find(|holder| holder.state == ItemState::Active)?;
        (status.items[0].holders.len() == 1).then(|| active.server.clone())
    };
    let watch = local.watch(1).unwrap();
    // In one look: what is true already is no change, of which the next look would hear.
    let told = |status: &Status| status.members[0].facts.get("runs").is_some_and(|v| v == "{\"since\":1}");
    let settled = |status: &Status| status.healthy() && holder(status).as_deref() == Some("a");
    watch.until(LIMIT, |status| settled(status) && told(status)).unwrap();
    std::fs::write(dir.path().join("a.unfit"), "").unwrap();
    let moved = watch
        .until(LIMIT, |status| {
            status.members[0].inactive == ["file"] && holder(status).as_deref() == Some("b")
        })
        .unwrap();
    assert_eq!(moved.items[0].wanted, ["b"]);
    std::fs::remove_file(dir.path().join("a.unfit")).unwrap();
    watch.until(LIMIT, |status| holder(status).as_deref() == Some("a")).unwrap();
    let events = || std::fs::read_to_string(dir.path().join("a.events")).unwrap_or_default();
    let expected = "up will items x\nup did items x\ndown will items x\ndown did items x\nup will items x\nup did items x\n";
    wait("a's plugin heard all", || events() == expected);
    local.signal(0, Signal::TERM).unwrap();
    wait("a's plugin heard the end", || events().ends_with("down did items x\nstop\n"));
}

#[test]
fn hooks_by_hand_have_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cluster.json");
    let config = json!({
        "key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "hook_timeout": 300,
        "servers": {"a": {"ip": "127.0.0.1", "systems": ["s", "native"]}},
        "cluster": {"system": {
            "s": {"alive": "s", "down": "s", "data": ["good", "bad", "slow", {"name": "table", "port": 7}]},
            "native": {"alive": "memory_up", "down": "memory_down", "data": ["m", {"name": "n", "checks": [
                {"type": "exec", "command": "/bin/true"}, {"type": "exec", "command": "/bin/false"}]}]}}},
    });
    std::fs::write(&file, config.to_string()).unwrap();
    std::fs::create_dir(dir.path().join("scripts")).unwrap();
    let script = "return { down = function() end, alive = function(item, config)
        flip.set_fact('port', config.port or 0)
        print(flip.get_facts('a').port, flip.members()[1].id)
        if item == 'slow' then while true do end end
        return item ~= 'bad', 'it is bad' end }";
    std::fs::write(dir.path().join("scripts/s.lua"), script).unwrap();
    let hook = |args: &[&str]| {
        let out = run(&[&["hook", "run", "--id", "a", "--config", file.to_str().unwrap()], args].concat());
        (out.status.code(), text(&out.stdout) + &text(&out.stderr))
    };
    let (code, said) = hook(&["s", "alive", "table"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("fact  port = 7\ninfo  7 a\ns alive table: ok in "), "{said}");
    let (code, said) = hook(&["s", "alive", "bad"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("s alive bad: failed in ") && said.contains("scripts/s.lua: it is bad\n"),
        "{said}"
    );
    let (code, said) = hook(&["s", "alive", "slow"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("scripts/s.lua:4: took longer than 300ms and was stopped"), "{said}");
    for action in ["alive", "down"] {
        let (code, said) = hook(&["native", action, "m"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("native {action} m: ok in ")), "{said}");
    }
    let (code, said) = hook(&["native", "check", "n"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("native check n: exec /bin/true: ok in "), "{said}");
    assert!(said.contains("native check n: exec /bin/false: failed in "), "{said}");
    assert!(said.contains("\n  /bin/false ended with exit code 1\n"), "{said}");
    for (args, expected) in [
        (["s", "check", "good"], "has no function `check`"),
        (["s", "alive", "none"], "has no item none"),
        (["t", "alive", "good"], "no system t; there are: s, native"),
        (["native", "check", "m"], "m of system native has no `checks` in the config"),
    ] {
        let (code, said) = hook(&args);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn check_names_what_is_wrong_with_a_script() {
    let dir = tempfile::tempdir().unwrap();
    let scripts = dir.path().join("scripts");
    std::fs::create_dir(&scripts).unwrap();
    for (name, script) in [
        ("good", "return { alive = print, down = print }"),
        ("half", "return { alive = print }"),
        ("body", "return true"),
        ("syntax", "local a = 1\nlocal = 2"),
    ] {
        std::fs::write(scripts.join(format!("{name}.lua")), script).unwrap();
    }
    std::fs::write(dir.path().join("outside.lua"), "return true").unwrap();
    std::os::unix::fs::symlink("../outside.lua", scripts.join("link.lua")).unwrap();
    let file = dir.path().join("cluster.json");
    let check = |system: Value, extra: Value| {
        let mut config = json!({
            "key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "servers": {"a": {"ip": "127.0.0.1", "systems": ["s"]}},
            "cluster": {"system": {"s": system}},
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(&file, serde_json::to_string_pretty(&config).unwrap()).unwrap();
        let out = run(&["check", "--id", "a", "--config", file.to_str().unwrap()]);
        (out.status.code(), text(&out.stderr) + &text(&out.stdout))
    };
    let pair = |alive: &str, down: &str| json!({"alive": alive, "down": down, "data": ["x"]});
    for (system, expected) in [(pair("good", "good"), "1 script"), (pair("half", "body"), "2 scripts")] {
        let (code, said) = check(system, json!({}));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    for (system, expected) in [
        (pair("syntax", "good"), "scripts/syntax.lua:2: Expected identifier"),
        (pair("../outside", "good"), "is no plain name"),
        (pair("/etc/passwd", "good"), "is no plain name"),
        (pair("link", "good"), "is a link that leaves"),
        (pair("none", "good"), "scripts/none.lua"),
        (pair("good", "none"), "there is no "),
        (pair("half", "half"), "has no function `down`"),
        (pair("good", "ip_down"), "expected a script, as under `alive`"),
        (pair("ip_up", "good"), "expected \"ip_down\""),
        (json!({"alive": "good", "data": ["x"]}), "add \"down\": \"good\""),
    ] {
        let (code, said) = check(system.clone(), json!({}));
        assert_eq!(code, Some(2), "{system}: {said}");
        assert!(said.contains(expected) && said.contains("cluster.json:"), "{system}: {said}");
    }
    for (extra, code, expected) in [
        (json!({"plugins": ["body"]}), 0, "2 scripts"),
        (json!({"plugins": ["nothing"]}), 2, "there is no "),
        (json!({"plugins": ["body", "body"]}), 2, "named twice"),
        (json!({"unsafe_lua": true}), 0, "scripts have the whole standard library"),
        (json!({"lua_memory": 1}), 2, "expected a number of MiB from 2 to 4096"),
        (json!({"scripts_dir": 5}), 2, "expected the path of a directory"),
    ] {
        let (found, said) = check(pair("good", "good"), extra.clone());
        assert_eq!(found, Some(code), "{extra}: {said}");
        assert!(said.contains(expected), "{extra}: {said}");
    }
}

/// A `post` script is told of whole plans, and a `check` script says whether a server is fit for an item.
#[test]
fn scripts_after_a_plan_and_for_health_checks() {
    let post = "return { post = function(told)
        local line = told.system
        for _, change in ipairs(told.changes) do
          line ..= ' ' .. change.item .. ' ' .. tostring(change.here) .. ' ' .. change.reason
        end
        flip.exec('tee', {'-a', '@/' .. flip.node .. '.posts'}, {stdin = line .. '\\n'})
      end }";
    let check = "return { check = function(item)
        if pcall(flip.read, '@/' .. flip.node .. '.sick') then return false, item .. ' is sick' end
      end }";
    let (dir, local) = cluster(
        &[
            ("job", "return { alive = function() end, down = function() end }"),
            ("tell", post),
            ("well", check),
        ],
        json!({"cluster": {"system": {"items": {
            "alive": "job", "down": "job", "post": "tell", "data": ["x"],
            "checks": [{"type": "lua", "script": "well", "interval": 100, "timeout": 5000, "fall": 1}]
        }}}}),
    );
    let on = |id: &'static str| move |status: &Status| matches!(status.items[0].holders.as_slice(), [one] if one.server == id && one.state == ItemState::Active);
    let watch = local.watch(1).unwrap();
    watch.until(LIMIT, on("a")).unwrap();
    std::fs::write(dir.path().join("a.sick"), "").unwrap();
    watch
        .until(LIMIT, |status| {
            let holders = &status.items[0].holders;
            holders.iter().any(|holder| holder.server == "b" && holder.state == ItemState::Active)
        })
        .unwrap();
    wait("a's log says why", || local.log(0).contains("items is sick"));
    std::fs::remove_file(dir.path().join("a.sick")).unwrap();
    watch.until(LIMIT, on("a")).unwrap();
    let posts =
        |id: &str| std::fs::read_to_string(dir.path().join(format!("{id}.posts"))).unwrap_or_default();
    wait("a is told of all three plans", || posts("a").lines().count() == 3);
    let told = posts("a");
    let told: Vec<_> = told.lines().collect();
    assert!(told[0].starts_with("items x true "), "{told:?}");
    assert_eq!(told[1..], ["items x false health_check", "items x true failback"]);
    wait("b of both of its own", || posts("b").lines().count() == 2);
}
