//! What a daemon keeps of root's powers, on the real kernel, and that it is enough.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use flip_core::status::Status;
use flip_tests::lab::{INTERFACE, Lab, Process, Who, host_ip, root_or_skip, vip};
use flip_tests::local::Local;
use flip_tests::until::until;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType, netdevice, sockopt};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(20);

const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// A folder that everybody may pass.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The config of a cluster of one that holds `vip(0)`.
fn config(more: &[(&str, Value)]) -> Value {
    let mut config = json!({
        "profile": "fast",
        "servers": { "a": { "ip": host_ip(Who::Host(0)), "port": 1022, "systems": ["ip"] } },
        "cluster": { "system": { "ip": {
            "alive": "ip_up", "down": "ip_down", "config": { "interface": INTERFACE }, "data": [vip(0)],
        }}},
    });
    for (key, value) in more {
        config[*key] = value.clone();
    }
    config
}

/// Starts a daemon in a lab of one host, with its files in `dir`.
fn start(lab: &Lab, dir: &Path, config: &Value) -> Process {
    let file = dir.join("cluster.json");
    fs::write(&file, config.to_string()).unwrap();
    let mut command = lab.command(Who::Host(0), flip().to_str().unwrap()).unwrap();
    command.arg("--config").arg(&file).args(["--id", "a", "--state-dir"]).arg(dir.join("state"));
    let log = fs::File::create(dir.join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    lab.spawn(command).unwrap()
}

fn wait_until(what: &str, dir: &Path, done: impl FnMut() -> bool) {
    until(what, LIMIT, || fs::read_to_string(dir.join("log")).unwrap_or_default(), done);
}

/// A number of every thread of a process, by its name in /proc/PID/status: all must be alike.
fn of_all_threads(pid: u32, names: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        for name in names {
            let value = value_of(&status, name);
            let first = found.entry((*name).to_owned()).or_insert_with(|| value.clone());
            assert_eq!(*first, value, "{name} differs between threads of {pid}");
        }
    }
    found
}

fn value_of(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

fn capabilities(status: &str, name: &str) -> u64 {
    u64::from_str_radix(&value_of(status, name), 16).unwrap()
}

/// A socket that hears all ARP of this network namespace.
fn arp_socket() -> OwnedFd {
    const ETH_P_ARP: u16 = 0x0806;
    let protocol = Protocol::from_raw(u32::from(ETH_P_ARP.to_be()).try_into().unwrap());
    let socket = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, Some(protocol)).unwrap();
    // That there is the interface says that this is the right namespace.
    netdevice::name_to_index(&socket, INTERFACE).unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LIMIT)).unwrap();
    socket
}

/// Waits for a gratuitous ARP request for `address`: both protocol addresses are its own (RFC 5227 §3).
fn hear_announcement(socket: &OwnedFd, address: IpAddr) {
    let IpAddr::V4(address) = address else { panic!("ARP is IPv4's") };
    let mut frame = [0u8; 1500];
    loop {
        let (length, _) = rustix::net::recv(socket, &mut frame, RecvFlags::empty()).expect("an announcement");
        let frame = &frame[..length];
        if frame.len() >= 42 && frame[28..32] == address.octets() && frame[38..42] == address.octets() {
            return;
        }
    }
}

#[test]
fn a_daemon_as_nobody_takes_and_announces_an_address() {
    if !root_or_skip("a_daemon_as_nobody_takes_and_announces_an_address") {
        return;
    }
    let lab = Lab::new(1).unwrap();
    let dir = open_dir();
    let socket = lab.enter(Who::Client, arp_socket).unwrap();
    let mut daemon = start(&lab, dir.path(), &config(&[("user", json!("65534"))]));
    hear_announcement(&socket, vip(0));
    let held = || lab.addresses(Who::Host(0)).unwrap().contains(&vip(0));
    assert!(held());

    let found = of_all_threads(
        daemon.pid(),
        &["Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs"],
    );
    // The port below 1024 was bound afterwards.
    let kept = format!("{:016x}", NET_ADMIN | NET_RAW | NET_BIND_SERVICE);
    let none = format!("{:016x}", 0);
    let all_nobody = ["65534"; 4].join("\t");
    for (name, value) in [
        ("Uid", &all_nobody),
        ("Gid", &all_nobody),
        ("CapEff", &kept),
        ("CapPrm", &kept),
        ("CapBnd", &kept),
        ("CapInh", &none),
        ("CapAmb", &none),
        ("NoNewPrivs", &"1".to_owned()),
    ] {
        assert_eq!(found[name], *value, "{name}");
    }
    assert!(!found["Groups"].split_whitespace().any(|group| group == "0"), "{found:?}");

    // What was kept is shown.
    let status = Command::new(flip())
        .args(["status", "--json", "--state-dir"])
        .arg(dir.path().join("state"))
        .output()
        .unwrap();
    let status: Status = serde_json::from_slice(&status.stdout).unwrap();
    let privileges = status.privileges.unwrap();
    assert_eq!(privileges.capabilities, ["CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_NET_RAW"]);
    assert!(privileges.no_new_privileges && privileges.kept_everything.is_none());
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("privileges kept") && log.contains("CAP_NET_RAW"), "{log}");

    // It lets go as well, and a next life finds its folder as it needs it.
    daemon.signal(Signal::TERM).unwrap();
    assert!(daemon.wait(LIMIT).unwrap().success());
    assert!(!held());
    // Removing `user` makes it root's again.
    let mut daemon = start(&lab, dir.path(), &config(&[]));
    wait_until("the address", dir.path(), held);
    let found = of_all_threads(daemon.pid(), &["Uid", "CapEff", "NoNewPrivs"]);
    assert_eq!(found["Uid"], ["0"; 4].join("\t"));
    assert_eq!(found["CapEff"], kept);
    assert_eq!(found["NoNewPrivs"], "1");
    daemon.signal(Signal::TERM).unwrap();
    assert!(daemon.wait(LIMIT).unwrap().success());
}

#[test]
fn programs_of_hooks_keep_what_they_had_unless_the_config_limits_them() {
    if !root_or_skip("programs_of_hooks_keep_what_they_had_unless_the_config_limits_them") {
        return;
    }
    let lab = Lab::new(1).unwrap();
    let everything = fs::read_to_string("/proc/self/status").unwrap();
    let everything = capabilities(&everything, "CapEff");
    // What a program that the daemon runs has: user, and capabilities.
    for (keys, uid, has, alone) in [
        (vec![], "0", everything, false),
        (vec![("privileges", json!("least"))], "0", NET_ADMIN | NET_RAW | NET_BIND_SERVICE, false),
        (vec![("user", json!("65534"))], "65534", NET_ADMIN | NET_RAW, false),
    ] {
        let dir = open_dir();
        let seen = dir.path().join("seen");
        fs::create_dir(&seen).unwrap();
        fs::set_permissions(&seen, fs::Permissions::from_mode(0o777)).unwrap();
        let told = seen.join("status");
        let script = format!("cat /proc/self/status > {0}.new && mv {0}.new {0}", told.display());
        let mut config = config(&keys);
        config["cluster"]["system"]["ip"]["checks"] =
            json!([{ "type": "exec", "command": "/bin/sh", "args": ["-c", script] }]);
        let daemon = start(&lab, dir.path(), &config);
        wait_until("the word of the program", dir.path(), || told.exists());
        let status = fs::read_to_string(&told).unwrap();
        assert_eq!(value_of(&status, "Uid"), [uid; 4].join("\t"), "{keys:?}");
        assert_eq!(capabilities(&status, "CapEff"), has, "{keys:?}");
        // A set-user-id program of a hook still works.
        assert_eq!(value_of(&status, "NoNewPrivs") == "1", alone, "{keys:?}");
        wait_until("the address", dir.path(), || lab.addresses(Who::Host(0)).unwrap().contains(&vip(0)));
        daemon.signal(Signal::TERM).unwrap();
        assert!(daemon.ended_within(LIMIT).unwrap());
    }
}

#[test]
fn a_daemon_that_touches_nothing_keeps_nothing_and_says_so() {
    let extra: Map<String, Value> = Map::new();
    let mut local = Local::prepare(flip(), 1, 0, &["x"], extra).unwrap();
    local.start(0).unwrap();
    let status = local.watch(0).unwrap().until(LIMIT, Status::healthy).unwrap();
    let privileges = status.privileges.expect("a daemon says what it may do");
    assert_eq!(privileges.capabilities, [""; 0]);
    assert!(privileges.no_new_privileges);
    let shown = local.status_command(0).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.ends_with(&format!("runs as {} without privileges\n", privileges.user)), "{shown}");
}

#[test]
fn a_port_for_the_privileged_is_named_with_its_remedy() {
    if !root_or_skip("a_port_for_the_privileged_is_named_with_its_remedy") {
        return;
    }
    let lab = Lab::new(1).unwrap();
    let dir = open_dir();
    let file = dir.path().join("cluster.json");
    let config = json!({ "servers": { "a": { "ip": host_ip(Who::Host(0)), "port": 1022 } } });
    fs::write(&file, config.to_string()).unwrap();
    let mut command = lab.command(Who::Host(0), "setpriv").unwrap();
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(flip());
    command.arg("--config").arg(&file).args(["--id", "a", "--state-dir"]).arg(dir.path().join("state"));
    let log = fs::File::create(dir.path().join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let Ok(mut daemon) = lab.spawn(command) else {
        eprintln!("SKIPPED a_port_for_the_privileged_is_named_with_its_remedy: needs setpriv");
        return;
    };
    assert_eq!(daemon.wait(LIMIT).unwrap().code(), Some(1));
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("below 1024") && log.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"), "{log}");
}

#[test]
fn what_is_wrong_with_the_user_is_said_with_its_remedy() {
    if !root_or_skip("what_is_wrong_with_the_user_is_said_with_its_remedy") {
        return;
    }
    let said = |user: &str, dir: &Path| {
        let file = dir.join("cluster.json");
        let config = json!({ "user": user, "servers": { "a": { "ip": "127.0.0.1" } } });
        fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new(flip());
        command.arg("--config").arg(&file).args(["--id", "a", "--state-dir"]).arg(dir.join("state"));
        let out = command.stdin(Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let dir = open_dir();
    let (code, error) = said("no.such.user", dir.path());
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("no user `no.such.user`") && error.contains("useradd"), "{error}");
    let closed = tempfile::tempdir().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let (code, error) = said("65534", closed.path());
    assert_eq!(code, Some(1), "{error}");
    let path = closed.path().display().to_string();
    assert!(error.contains(&format!("{path} is closed to it")) && error.contains("chmod a+x"), "{error}");
}
