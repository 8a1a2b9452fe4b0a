//! Runs every example of `docs/lua.md`, and looks whether every function of the API has one.

mod net;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flip_core::status::Status;
use flip_systems::lua::host::{Answer, Line};
use flip_systems::lua::{Call, Engine, Hook, Host, Log, Plugins, Said, Script, Scripts, Setup};
use net::ip;
use serde_json::json;

const PAGE: &str = include_str!("../../docs/lua.md");

/// Every function, as it stands in an example.
const API: [&str; 26] = [
    "flip.log.debug(",
    "flip.log.info(",
    "flip.log.warn(",
    "print(",
    "flip.exec(",
    "flip.http(",
    "flip.sleep(",
    "flip.json.encode(",
    "flip.json.decode(",
    "flip.json.null",
    "flip.json.array(",
    "flip.read(",
    "flip.env(",
    "flip.sha256(",
    "flip.hmac_sha256(",
    "flip.hex(",
    "flip.members()",
    "flip.items(",
    "flip.ip.add(",
    "flip.ip.del(",
    "flip.ip.announce(",
    "flip.set_fact(",
    "flip.get_facts(",
    "flip.active(",
    "flip.every(",
    "flip.on(",
];

#[derive(Debug)]
struct Example {
    line: usize,
    plugin: bool,
    code: String,
    output: Option<String>,
}

fn examples() -> Vec<Example> {
    let mut all: Vec<Example> = Vec::new();
    let mut lines = PAGE.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```").filter(|kind| !kind.is_empty()) else { continue };
        let block: Vec<_> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        match kind {
            "lua" | "lua plugin" => all.push(Example {
                line: at + 1,
                plugin: kind == "lua plugin",
                code: block.join("\n"),
                output: None,
            }),
            "text" => all.last_mut().unwrap().output = Some(block.join("\n")),
            "json" => {}
            other => panic!("a block of {other} on line {}", at + 1),
        }
    }
    all
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Log for Lines {
    fn line(&self, line: &Line<'_>) {
        self.0.lock().unwrap().push(line.text.to_owned());
    }
}

/// A cluster of two, as the page shows it.
#[derive(Default)]
struct Cluster(Mutex<BTreeMap<String, String>>);

impl Host for Cluster {
    fn status(&self) -> Answer<Arc<Status>> {
        let member = |id: &str, state: &str, is_self: bool| {
            let facts = if is_self { self.0.lock().unwrap().clone() } else { BTreeMap::new() };
            json!({"id": id, "address": "10.0.0.1:2200", "state": state, "is_self": is_self, "arbiter": false,
                   "priority": null, "generation": 1, "since_ms": 0, "loss": 0.0, "case": null,
                   "config_differs": false, "drained": false, "immature_ms": null, "facts": facts})
        };
        let status = json!({"node": "web1", "generation": 1, "view": "", "quorum": 1, "live": 1, "has_quorum": true,
            "members": [member("web1", "up", true), member("web2", "down", false)],
            "items": [{"system": "jobs", "item": "reports", "isolated": "keep", "lease_ms": null,
                       "unclean_on": null, "wanted": ["web1"],
                       "holders": [{"server": "web1", "state": "active", "since_ms": 0}]}],
            "refused": {}, "sent_datagrams": 0, "sent_bytes": 0});
        let status = serde_json::from_value(status).map(Arc::new).map_err(|error| error.to_string());
        Box::pin(std::future::ready(status))
    }

    fn set_fact(&self, key: String, value: Option<String>) -> Answer<()> {
        let mut facts = self.0.lock().unwrap();
        match value {
            Some(value) => facts.insert(key, value),
            None => facts.remove(&key),
        };
        Box::pin(std::future::ready(Ok(())))
    }

    fn set_active(&self, _: bool, _: String) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Answers every request with what was asked, as JSON.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 1024];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
            }
            let head = String::from_utf8_lossy(&request).into_owned();
            let method = head.split(' ').next().unwrap();
            let body = json!({"method": method}).to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
}

fn run(examples: &[Example]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    serve(listener);
    let mut scripts = Scripts::default();
    for example in examples {
        let code = example.code.replace(":8008", &format!(":{port}"));
        scripts.add(Script::compile(&example.line.to_string(), "doc.lua", code.as_bytes()).unwrap());
    }
    let lines = Arc::new(Lines::default());
    let engine = Engine::new(Setup {
        scripts,
        log: Arc::clone(&lines) as Arc<dyn Log>,
        host: Arc::new(Cluster::default()),
        ..Setup::new("web1")
    })
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for example in examples {
        lines.0.lock().unwrap().clear();
        let name = example.line.to_string();
        if example.plugin {
            let mut plugins = Plugins::start(&engine, &[name], Duration::from_secs(20)).unwrap();
            runtime.block_on(plugins.stop());
            assert_eq!(*lines.0.lock().unwrap(), Vec::<String>::new(), "the plugin on line {}", example.line);
            continue;
        }
        let script = engine.script(&name).unwrap();
        let config = Arc::new(json!({"port": 80}).as_object().unwrap().clone());
        let report = runtime
            .block_on(engine.call(Call { config, ..Call::new(&script, Hook::Alive, "jobs", "reports") }));
        assert_eq!(report.result, Ok(Said::Yes), "the example on line {}", example.line);
        if let Some(output) = &example.output {
            assert_eq!(lines.0.lock().unwrap().join("\n"), *output, "the example on line {}", example.line);
        }
    }
}

#[test]
fn every_function_has_an_example() {
    let code: String = examples().iter().map(|example| example.code.as_str()).collect::<Vec<_>>().join("\n");
    for function in API {
        assert!(code.contains(function), "{function} has no example");
    }
}

#[test]
fn the_examples_do_what_the_page_says() {
    let (_, others): (Vec<_>, Vec<_>) = examples().into_iter().partition(|e| e.code.contains("flip.ip."));
    run(&others);
}

#[test]
fn addresses_come_and_go() {
    net::unshared(|| {
        ip("link set lo up");
        let (mut addresses, _): (Vec<_>, Vec<_>) =
            examples().into_iter().partition(|e| e.code.contains("flip.ip."));
        assert_eq!(addresses.len(), 1);
        run(&addresses);
        assert!(!ip("addr show dev lo").contains("192.0.2.7"), "it was taken away");
        addresses[0].code = "flip.ip.add('192.0.2.8', 'lo') flip.ip.add('192.0.2.8', 'lo')".to_owned();
        run(&addresses);
        assert!(ip("addr show dev lo").contains("192.0.2.8/32"), "it is there");
        addresses[0].code = "return pcall(flip.ip.add, '192.0.2.9', 'no0') == false".to_owned();
        run(&addresses);
    });
}
