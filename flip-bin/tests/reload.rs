//! `flip reload` and SIGHUP: scripts of a running daemon are read again, all of them or none.

use std::path::Path;
use std::time::Duration;

use flip_core::event::ItemState;
use flip_core::status::Status;
use flip_tests::local::Local;
use flip_tests::until::until;
use rustix::process::Signal;
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn wait(what: &str, wanted: impl Fn() -> bool) {
    until(what, LIMIT, String::new, wanted);
}

/// One daemon with the item `x`, whose hook and plugin say their version.
struct One {
    dir: tempfile::TempDir,
    local: Local,
}

impl One {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let extra = json!({
            "scripts_dir": dir.path().to_str().unwrap(),
            "plugins": ["watch"],
            "hook_timeout": 60_000,
            "cluster": {"system": {"items": {"alive": "job", "down": "job", "cool_down": 0, "data": ["x"], "checks": [{
                "type": "exec", "command": "/usr/bin/test", "args": ["-e", dir.path().join("well")],
                "interval": 100, "timeout": 20_000, "fall": 1,
            }]}}},
        });
        let local = Local::prepare(
            Path::new(env!("CARGO_BIN_EXE_flip")),
            1,
            0,
            &[],
            extra.as_object().unwrap().clone(),
        );
        let one = Self { dir, local: local.unwrap() };
        one.job("1");
        one.plugin("1");
        one.write("well", "");
        one
    }

    fn write(&self, script: &str, text: &str) {
        let text = text.replace('@', self.dir.path().to_str().unwrap());
        std::fs::write(self.dir.path().join(script), text).unwrap();
    }

    /// A hook that waits for the file `go`, and notes which version it is.
    fn job(&self, version: &str) {
        let note = "flip.exec('tee', {'-a', '@/notes'}, {stdin = flip.action .. ' VERSION\\n'})";
        let text = format!(
            "return {{\n alive = function()\n while not pcall(flip.read, '@/go') do flip.sleep(10) end\n {note}\n end,\n \
             down = function() {note} end }}"
        );
        self.write("job.lua", &text.replace("VERSION", version));
    }

    fn plugin(&self, version: &str) {
        let text = "local function note(text) flip.exec('tee', {'-a', '@/plugin'}, {stdin = text .. ' VERSION\\n'}) end
            note('start')
            flip.on('down', function(e) if e.phase == 'did' then note('down') end end)
            flip.on('stop', function() note('stop') end)";
        self.write("watch.lua", &text.replace("VERSION", version));
    }

    fn notes(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(file)).unwrap_or_default()
    }

    /// Exit code and what was said.
    fn flip(&self, command: &str) -> (Option<i32>, String) {
        let mut flip = self.local.command();
        flip.arg(command).args(["--id", "a", "--state-dir"]).arg(self.local.state_dir());
        let out = flip.output().unwrap();
        (out.status.code(), String::from_utf8([out.stdout, out.stderr].concat()).unwrap())
    }
}

fn state(wanted: ItemState) -> impl Fn(&Status) -> bool {
    move |status| status.items[0].holders.iter().any(|holder| holder.state == wanted)
}

#[test]
fn scripts_are_read_again_all_or_none() {
    let mut one = One::start();
    one.local.start(0).unwrap();
    let watch = one.local.watch(0).unwrap();
    watch.until(LIMIT, state(ItemState::Acquiring)).unwrap();
    wait("the plugin runs", || one.notes("plugin") == "start 1\n");

    // A hook of the old version runs meanwhile, and ends with it.
    one.job("2");
    one.plugin("2");
    let done =
        "2 of 2 scripts changed: job, watch; plugins started again: watch; the config did not change\n";
    assert_eq!(one.flip("reload"), (Some(0), done.to_owned()));
    assert_eq!(one.notes("plugin"), "start 1\nstop 1\nstart 2\n");
    one.write("go", "");
    watch.until(LIMIT, state(ItemState::Active)).unwrap();
    assert_eq!(one.notes("notes"), "alive 1\n");
    assert_eq!(one.flip("reload"), (Some(0), "no script changed; the config did not change\n".to_owned()));

    // One that does not compile keeps all as they are, the good ones too.
    one.plugin("3");
    one.write("job.lua", "return {\n alive = function( }");
    let (code, said) = one.flip("reload");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("error: nothing was changed: ") && said.contains("job.lua:2: "), "{said}");
    wait("the log names it", || {
        let log = one.local.log(0);
        log.lines().any(|line| line.contains("scripts not read again") && line.contains("job.lua:2: "))
    });
    // So does one that has not what the config calls it for, and a plugin that fails while it is loaded.
    one.write("job.lua", "return { alive = print }");
    let (code, said) = one.flip("reload");
    assert!(code == Some(1) && said.contains("has no function `down`"), "{said}");
    assert_eq!(one.notes("plugin"), "start 1\nstop 1\nstart 2\n");
    one.job("3");
    one.write("watch.lua", "local a = 1\nerror('it is broken')");
    let (code, said) = one.flip("reload");
    assert!(code == Some(1) && said.contains("watch.lua:2: it is broken"), "{said}");
    wait("the plugin runs again", || one.notes("plugin") == "start 1\nstop 1\nstart 2\nstop 2\nstart 2\n");
    std::fs::remove_file(one.dir.path().join("well")).unwrap();
    wait("the version that was read last", || one.notes("notes") == "alive 1\ndown 2\n");
    wait("and hears what happens", || one.notes("plugin").ends_with("start 2\ndown 2\n"));

    // SIGHUP does the same, and its outcome is in the log.
    one.plugin("4");
    one.local.signal(0, Signal::HUP).unwrap();
    let done = "scripts read again: 2 of 2 scripts changed: job, watch; plugins started again: watch";
    wait("the log says so", || one.local.log(0).contains(done));
    one.write("well", "");
    wait("the new hook runs", || one.notes("notes") == "alive 1\ndown 2\nalive 3\n");

    // What the config says anew is applied; what is wrong changes nothing.
    let mut config: Value =
        serde_json::from_str(&std::fs::read_to_string(one.local.config()).unwrap()).unwrap();
    config["cluster"]["system"]["items"]["data"] = json!(["x", "y"]);
    std::fs::write(one.local.config(), config.to_string()).unwrap();
    let said = "no script changed; the config file is taken, on this server: its version is 0 as before; on this server's \
                disk, and spreads on\n";
    assert_eq!(one.flip("reload"), (Some(0), said.to_owned()));
    wait("the log says that too", || one.local.log(0).contains("the config file is taken"));
    let has = |items: usize| move |status: &Status| status.items.len() == items && status.healthy();
    one.local.watch(0).unwrap().until(LIMIT, has(2)).unwrap();
    config["cluster"]["system"]["items"]["data"] = json!(["x", "y", 5]);
    std::fs::write(one.local.config(), config.to_string()).unwrap();
    let (code, said) = one.flip("reload");
    assert!(code == Some(1) && said.contains("found the number 5"), "{said}");
    one.local.watch(0).unwrap().until(LIMIT, has(2)).unwrap();
    config["cluster"]["system"]["items"]["data"] = json!(["x"]);
    std::fs::write(one.local.config(), config.to_string()).unwrap();
    assert_eq!(one.flip("reload").0, Some(0));
    one.local.watch(0).unwrap().until(LIMIT, has(1)).unwrap();

    one.local.signal(0, Signal::TERM).unwrap();
    assert!(one.local.wait(0).unwrap().success());
    assert!(one.notes("plugin").ends_with("down 4\nstop 4\n"), "{}", one.notes("plugin"));
    assert_eq!(one.flip("reload").0, Some(2), "there is no daemon");
}

#[test]
fn a_daemon_without_scripts_has_nothing_to_read_again() {
    let mut local = Local::prepare(Path::new(env!("CARGO_BIN_EXE_flip")), 1, 0, &["x"], Map::new()).unwrap();
    local.start(0).unwrap();
    local.watch(0).unwrap().until(LIMIT, Status::healthy).unwrap();
    local.signal(0, Signal::HUP).unwrap();
    wait("the log says so", || {
        local.log(0).contains("the config names no scripts; the config did not change")
    });
    local.watch(0).unwrap().until(LIMIT, Status::healthy).unwrap();
}
