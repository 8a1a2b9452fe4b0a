//! The daemon under a service manager: what it is told and when, the unit that ships, and what is left when the
//! daemon dies by force.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Who, root_or_skip, vip, vip6};
use flip_tests::local::Local;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::Map;

const LIMIT: Duration = Duration::from_secs(20);
/// What the manager of these tests gives a daemon to be silent.
const WATCHDOG: Duration = Duration::from_millis(900);

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// A service manager that starts one daemon and hears what it says.
struct Manager {
    socket: UnixDatagram,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn start(local: &Local) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut command = local.command();
        command.arg("--config").arg(local.config()).args(["--id", "a", "--state-dir"]).arg(local.state_dir());
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: one system call between fork and exec, which allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        Self { socket, child: command.spawn().unwrap(), _dir: dir }
    }

    /// The next word within `limit`, several where they came together.
    fn hear(&self, limit: Duration) -> Option<Vec<String>> {
        self.socket.set_read_timeout(Some(limit.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(std::str::from_utf8(&buffer[..length]).unwrap().lines().map(str::to_owned).collect())
    }

    /// All words until one of them is `last`.
    fn hear_until(&self, last: impl Fn(&str) -> bool) -> Vec<String> {
        let end = Instant::now() + LIMIT;
        let mut words = Vec::new();
        while !words.last().is_some_and(|word: &String| last(word)) {
            assert!(Instant::now() < end, "heard only {words:?}");
            for word in self.hear(Duration::from_millis(100)).unwrap_or_default() {
                words.push(word);
                if words.last().is_some_and(|word| last(word)) {
                    break;
                }
            }
        }
        words
    }

    /// All words of a time.
    fn hear_for(&self, time: Duration) -> Vec<String> {
        let end = Instant::now() + time;
        let mut words = Vec::new();
        while Instant::now() < end {
            words.extend(self.hear(end.saturating_duration_since(Instant::now())).unwrap_or_default());
        }
        words
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pings(words: &[String]) -> usize {
    words.iter().filter(|word| *word == "WATCHDOG=1").count()
}

#[test]
fn the_service_manager_hears_that_the_daemon_is_ready_lives_and_stops() {
    let local = Local::prepare(flip(), 1, 0, &["one", "two"], Map::new()).unwrap();
    let mut manager = Manager::start(&local);
    // Ready comes once the items are here, so that who is started afterwards finds them.
    let words = manager.hear_until(|word| word.starts_with("STATUS=holds 2 items"));
    assert!(words.contains(&"READY=1".to_owned()), "{words:?}");
    assert_eq!(words.last().unwrap(), "STATUS=holds 2 items; 1 of 1 servers up");

    // Fed three times in each period of the watchdog, and not all the time.
    let fed = pings(&manager.hear_for(WATCHDOG * 4));
    assert!((6..=13).contains(&fed), "fed {fed} times in four periods");

    // A loop that does not turn feeds nothing: what was sent before is all there is.
    manager.signal(Signal::STOP);
    while manager.hear(Duration::from_millis(100)).is_some() {}
    assert_eq!(manager.hear(WATCHDOG * 2), None, "a stopped daemon says that it lives");
    manager.signal(Signal::CONT);
    manager.hear_until(|word| word == "WATCHDOG=1");

    manager.signal(Signal::TERM);
    let words = manager.hear_until(|word| word.starts_with("EXTEND_TIMEOUT_USEC="));
    let stopping = words.iter().position(|word| word == "STOPPING=1").expect("it says that it stops");
    assert!(words[stopping..].iter().any(|word| word.starts_with("STATUS=leaving")), "{words:?}");
    assert!(manager.child.wait().unwrap().success());
}

#[test]
fn who_finds_nobody_says_so_and_keeps_no_machine_from_booting() {
    let local = Local::prepare(flip(), 3, 0, &["one"], Map::new()).unwrap();
    let started = Instant::now();
    let manager = Manager::start(&local);
    let words = manager.hear_until(|word| word == "READY=1");
    let ready = started.elapsed();
    // It has looked for the others: servers that were never seen are given a second.
    assert!(ready >= Duration::from_secs(1), "ready after {ready:?}");
    assert!(
        words.contains(&"STATUS=holds 0 items; 1 of 3 servers up, NO QUORUM (needs 2)".to_owned()),
        "{words:?}"
    );
}

fn unit() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "examples", "systemd", "flip.service"].iter().collect()
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let text = fs::read_to_string(unit()).unwrap();
    let mut section = "";
    let mut keys = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = name,
            None => {
                let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
                keys.push((section, key, value));
            }
        }
    }
    for wanted in [
        ("Service", "Type", "notify"),
        ("Service", "ExecStopPost", "/usr/bin/flip release --config /etc/flip/cluster.json"),
        ("Service", "Restart", "on-failure"),
    ] {
        assert!(keys.contains(&wanted), "{wanted:?}");
    }
    assert!(keys.iter().any(|(_, key, value)| *key == "WatchdogSec" && value.parse::<u32>().is_ok()));

    let there = Command::new("systemd-analyze").arg("--version").output();
    if !there.is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED the_unit_is_one_that_systemd_takes: needs systemd-analyze");
        return;
    }
    // It looks for the programs too.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flip.service");
    fs::write(&file, text.replace("/usr/bin/flip", flip().to_str().unwrap())).unwrap();
    let out = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && !said.contains("flip.service"), "{said}");
}

/// `flip release` on a host of a cluster.
fn release(cluster: &Cluster, more: &[&str]) -> (Option<i32>, String) {
    let mut command = cluster.lab().command(Who::Host(0), flip().to_str().unwrap()).unwrap();
    command.args(["release", "--state-dir"]).arg(cluster.socket(0).parent().unwrap()).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = cluster.lab().spawn(command).unwrap();
    let status = process.wait(LIMIT).unwrap();
    let mut said = String::new();
    let child = process.child();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut said).unwrap();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    (status.code(), said)
}

#[test]
fn what_a_killed_daemon_left_is_released() {
    if !root_or_skip("what_a_killed_daemon_left_is_released") {
        return;
    }
    let spec = ClusterSpec { ip6: true, ..ClusterSpec::new(1, 2, "fast") };
    let mut cluster = Cluster::start(spec, flip()).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let all = [vip(0), vip(1), vip6(0), vip6(1)];
    // Somebody else's is not touched.
    cluster.lab().add_address(Who::Host(0), vip(7)).unwrap();
    let held = |cluster: &Cluster| {
        let there = cluster.lab().addresses(Who::Host(0)).unwrap();
        assert!(there.contains(&vip(7)), "{there:?}");
        all.iter().filter(|address| there.contains(address)).count()
    };
    let config = cluster.config_path().to_str().unwrap().to_owned();
    let with_config = ["--config", config.as_str(), "--id", "h0"];

    // A daemon that runs keeps what it holds, also one that answers nobody.
    for _ in 0..2 {
        for more in [&[][..], &with_config] {
            let (code, said) = release(&cluster, more);
            assert_eq!(code, Some(3), "{said}");
            let pid = cluster.pid(0).unwrap().to_string();
            assert!(said.contains(&format!("process {pid}")) && said.contains("--force"), "{said}");
        }
        assert_eq!(held(&cluster), 4);
        cluster.stop(0).unwrap();
    }

    cluster.kill(0).unwrap();
    assert_eq!(held(&cluster), 4, "a kill releases nothing");
    let (code, said) = release(&cluster, &with_config);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(held(&cluster), 0);
    for address in all {
        assert!(said.contains(&format!("removed {address}/")), "{said}");
    }
    let (code, said) = release(&cluster, &[]);
    assert_eq!((code, said.as_str()), (Some(0), "no address of flip is on this host\n"));

    // What comes with an address goes with it.
    let mut text =
        serde_json::from_str::<serde_json::Value>(&std::fs::read_to_string(&config).unwrap()).unwrap();
    let before = text.clone();
    let systems = text["cluster"]["system"].as_object_mut().unwrap();
    let data = systems.values_mut().next().unwrap()["data"].as_array_mut().unwrap();
    let first =
        data.iter_mut().find(|item| item.as_str().is_some_and(|item| item.starts_with(&vip(0).to_string())));
    *first.unwrap() = serde_json::json!({
        "ip": vip(0).to_string(),
        "mac": "virtual",
        "routes": [{"to": "198.51.100.0/24", "table": 100}],
        "rules": [{"table": 100}],
    });
    cluster.set_config(&text).unwrap();
    cluster.restart(0).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster.kill(0).unwrap();
    let (code, said) = release(&cluster, &with_config);
    assert_eq!(code, Some(0), "{said}");
    let rule = format!("removed the rule from {}/32 for table 100\n", vip(0));
    for what in ["removed the link flip", &rule] {
        assert!(said.contains(what), "{what} not in {said}");
    }
    // The kernel took the route along with the last address of its link: nothing of it is found now.
    assert_eq!(release(&cluster, &[]).1, "no address of flip is on this host\n");
    cluster.set_config(&before).unwrap();

    // By force, although it runs; and without a config that can be used.
    cluster.restart(0).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(release(&cluster, &["--force"]).0, Some(0));
    cluster.wait_healthy(LIMIT).unwrap();
    cluster.kill(0).unwrap();
    cluster.set_config(&serde_json::json!({"servers": 7})).unwrap();
    let (code, said) = release(&cluster, &with_config);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("releasing for every daemon"), "{said}");
    assert_eq!(held(&cluster), 0);
}

#[test]
fn release_needs_the_capability_and_says_so() {
    if !root_or_skip("release_needs_the_capability_and_says_so") {
        return;
    }
    let mut cluster = Cluster::start(ClusterSpec::new(1, 1, "fast"), flip()).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster.kill(0).unwrap();
    let mut command = cluster.lab().command(Who::Host(0), "setpriv").unwrap();
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(flip());
    command.args(["release", "--state-dir"]).arg(cluster.socket(0).parent().unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let Ok(mut process) = cluster.lab().spawn(command) else {
        eprintln!("SKIPPED release_needs_the_capability_and_says_so: needs setpriv");
        return;
    };
    let status = process.wait(LIMIT).unwrap();
    let mut said = String::new();
    let mut pipe = process.child().stderr.take().unwrap();
    std::io::Read::read_to_string(&mut pipe, &mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("CAP_NET_ADMIN is missing"), "{said}");
    assert!(cluster.lab().addresses(Who::Host(0)).unwrap().contains(&vip(0)));
}

#[test]
fn the_manual_names_release_and_its_exit_codes() {
    let Output { stdout, .. } = Command::new(flip()).arg("man").output().unwrap();
    let page = String::from_utf8(stdout).unwrap();
    assert!(page.contains(".SS release") && page.contains("ExecStopPost"), "{page}");
}
