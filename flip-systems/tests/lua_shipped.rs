//! The scripts that ship, against a server that plays the cloud's API and records what it got.

mod net;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use flip_systems::lua::script::{self, Form};
use flip_systems::lua::{Call, Engine, Hook, Said, Scripts, Setup};
use net::ip;
use serde_json::{Value, json};

fn dir() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "scripts"].iter().collect()
}

fn engine() -> Engine {
    let mut scripts = Scripts::default();
    for entry in std::fs::read_dir(dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "lua") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let script = script::find(&dir(), name).unwrap().unwrap();
            assert!(matches!(script.form, Form::Functions(_)), "{name} gives functions");
            scripts.add(script);
        }
    }
    assert_eq!(scripts.len(), 6);
    Engine::new(Setup { scripts, ..Setup::new("web1") }).unwrap()
}

fn run(engine: &Engine, name: &str, hook: Hook, item: &str, config: &Value) -> Result<Said, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let call = Call {
        config: Arc::new(config.as_object().unwrap().clone()),
        reason: "member_down".to_owned(),
        ..Call::new(&engine.script(name).unwrap(), hook, "s", item)
    };
    runtime.block_on(engine.call(call)).result
}

/// Gives each request to the test, and answers what the test says.
fn api() -> (String, Receiver<String>, Sender<(u16, &'static str)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, inbox) = channel();
    let (outbox, answers) = channel::<(u16, &'static str)>();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    break;
                }
            }
            let Ok((status, body)) = answers.recv() else { return };
            requests.send(String::from_utf8(request).unwrap()).unwrap();
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, inbox, outbox)
}

fn header<'r>(request: &'r str, name: &str) -> &'r str {
    let prefix = format!("{name}: ");
    request
        .lines()
        .find_map(|line| line.strip_prefix(prefix.as_str()))
        .unwrap_or_else(|| panic!("{name} in {request}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    ring::hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn sha256(text: &str) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
}

/// The signature as the receiver computes it, from what it got (AWS Signature Version 4, "Create a signed
/// request").
fn aws_signature(request: &str, secret: &str) -> String {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let (host, date) = (header(request, "host"), header(request, "x-amz-date"));
    let canonical =
        format!("POST\n{path}\n\nhost:{host}\nx-amz-date:{date}\n\nhost;x-amz-date\n{}", sha256(body));
    let day = &date[..8];
    let text =
        format!("AWS4-HMAC-SHA256\n{date}\n{day}/us-east-1/route53/aws4_request\n{}", sha256(&canonical));
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [day, "us-east-1", "route53", "aws4_request"] {
        key = hmac(&key, part);
    }
    hex(&hmac(&key, &text))
}

#[test]
fn route53_writes_the_record_and_signs_it() {
    let (url, requests, answers) = api();
    let engine = engine();
    let config = json!({"endpoint": url, "zone": "Z123", "address": "192.0.2.7", "access_key": "AKID", "secret_key": "se<cret"});
    answers.send((200, "<ok/>")).unwrap();
    assert_eq!(run(&engine, "route53", Hook::Alive, "www.example.com", &config), Ok(Said::Yes));
    let request = requests.recv().unwrap();
    assert!(request.starts_with("POST /2013-04-01/hostedzone/Z123/rrset HTTP/1.1\r\n"), "{request}");
    for part in [
        "<Action>UPSERT</Action>",
        "<Name>www.example.com</Name>",
        "<Type>A</Type>",
        "<TTL>30</TTL>",
        "<Value>192.0.2.7</Value>",
    ] {
        assert!(request.contains(part), "{part} in {request}");
    }
    let signature = header(&request, "authorization").rsplit_once("Signature=").unwrap().1.to_owned();
    assert_eq!(signature, aws_signature(&request, "se<cret"));

    answers.send((403, "<e><Message>The security token is invalid</Message></e>")).unwrap();
    let refused = run(&engine, "route53", Hook::Alive, "www.example.com", &config);
    let path = dir().join("route53.lua").display().to_string();
    assert_eq!(
        refused,
        Ok(Said::No(format!("{path}: Route 53 answered 403: The security token is invalid")))
    );
    assert_eq!(
        run(&engine, "route53", Hook::Down, "www.example.com", &config),
        Ok(Said::Yes),
        "nothing is asked"
    );

    let error = run(&engine, "route53", Hook::Alive, "x", &json!({"address": "192.0.2.7"})).unwrap_err();
    assert!(error.contains("is missing in the settings"), "{error}");
}

#[test]
fn hetzner_routes_the_address() {
    let (url, requests, answers) = api();
    let engine = engine();
    let config = json!({"endpoint": url, "server_ip": "192.0.2.1", "user": "#ws+1", "password": "päss"});
    answers.send((200, "{}")).unwrap();
    assert_eq!(run(&engine, "hetzner_failover", Hook::Alive, "203.0.113.9", &config), Ok(Said::Yes));
    let request = requests.recv().unwrap();
    assert!(request.starts_with("POST /failover/203.0.113.9 HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\nactive_server_ip=192.0.2.1"), "{request}");
    // `printf '#ws+1:päss' | base64`
    assert_eq!(header(&request, "authorization"), "Basic I3dzKzE6cMOkc3M=");
    answers.send((409, r#"{"error":{"code":"FAILOVER_ALREADY_ROUTED"}}"#)).unwrap();
    assert_eq!(run(&engine, "hetzner_failover", Hook::Alive, "203.0.113.9", &config), Ok(Said::Yes));
    answers.send((409, r#"{"error":{"code":"FAILOVER_LOCKED"}}"#)).unwrap();
    let Ok(Said::No(why)) = run(&engine, "hetzner_failover", Hook::Alive, "203.0.113.9", &config) else {
        panic!()
    };
    assert!(why.contains("Hetzner answered 409") && why.contains("FAILOVER_LOCKED"), "{why}");
}

#[test]
fn exec_gives_item_and_config_as_the_original_did() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (program, out) = (dir.path().join("hook"), dir.path().join("out"));
    let text = format!(
        "#!/bin/sh\nprintf '%s|%s|%s' \"$1\" \"$2\" \"$FLIP_REASON\" > {}\n[ \"$1\" = good ] || {{ echo not good >&2; exit 3; }}\n",
        out.display()
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let engine = engine();
    let config = json!({"alive_command": program.to_str().unwrap(), "n": 5});
    assert_eq!(run(&engine, "exec", Hook::Alive, "good", &config), Ok(Said::Yes));
    let told = std::fs::read_to_string(&out).unwrap();
    let parts: Vec<_> = told.split('|').collect();
    assert_eq!((parts[0], parts[2]), ("good", "member_down"));
    assert_eq!(serde_json::from_str::<Value>(parts[1]).unwrap(), config);
    let Ok(Said::No(why)) = run(&engine, "exec", Hook::Alive, "bad", &config) else { panic!() };
    assert!(why.contains("ended with 3: not good"), "{why}");
    assert_eq!(run(&engine, "exec", Hook::Down, "good", &config), Ok(Said::Yes), "no command for it");
}

#[test]
fn cron_leader_makes_and_removes_its_mark() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine();
    let config = json!({"directory": dir.path().to_str().unwrap()});
    let mark = |name: &str| Path::new(dir.path()).join(name).exists();
    assert!(matches!(run(&engine, "cron_leader", Hook::Observe, "reports", &config), Ok(Said::No(_))));
    for _ in 0..2 {
        assert_eq!(run(&engine, "cron_leader", Hook::Alive, "reports", &config), Ok(Said::Yes));
        assert!(mark("reports"));
    }
    assert_eq!(run(&engine, "cron_leader", Hook::Observe, "reports", &config), Ok(Said::Yes));
    for _ in 0..2 {
        assert_eq!(run(&engine, "cron_leader", Hook::Down, "reports", &config), Ok(Said::Yes));
        assert!(!mark("reports"));
    }
    for bad in ["../x", "/etc/x", ".x"] {
        let error = run(&engine, "cron_leader", Hook::Alive, bad, &config).unwrap_err();
        assert!(error.contains("is the name of a file"), "{error}");
    }
}

#[test]
fn addresses_by_script_are_those_of_the_native_handler() {
    net::unshared(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        let engine = engine();
        let config = json!({"interface": "v0"});
        for address in ["10.9.0.5/24", "2001:db8::5"] {
            assert_eq!(run(&engine, "ip_up", Hook::Alive, address, &config), Ok(Said::Yes));
            assert_eq!(run(&engine, "ip_up", Hook::Announce, address, &config), Ok(Said::Yes));
            let shown = ip("-d addr show dev v0");
            assert!(shown.contains(address), "{shown}");
            assert!(address.contains(':') || shown.contains("v0:flip"), "its label: {shown}");
            assert_eq!(run(&engine, "ip_down", Hook::Down, address, &config), Ok(Said::Yes));
            assert!(!ip("addr show dev v0").contains(address));
        }
        let error = run(&engine, "ip_up", Hook::Alive, "10.9.0.5", &json!({"interface": "no0"})).unwrap_err();
        assert!(error.contains("no0"), "{error}");
    });
}
