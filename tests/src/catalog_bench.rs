//! `flip-bench catalog`: edits a second that a majority has on disk, the status of many items, a new server that gets
//! a large catalog, and placement by itself.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use flip_core::config::{self, Config, Item, Overrides, Source};
use flip_core::id::ShortId;
use flip_core::placement::place;
use flip_core::status::Status;
use serde_json::{Map, Value, json};

use crate::local::{Local, name};
use crate::spread::Spread;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often everything is done.
    pub runs: usize,
    /// For how long edits are made.
    pub span: Duration,
    /// Who makes edits at a time.
    pub clients: usize,
    /// Items in the catalog that a new server gets.
    pub items: usize,
    /// Items in the status.
    pub shown: usize,
}

/// Edits in one request where only their number counts.
const AT_ONCE: usize = 5_000;
const LIMIT: Duration = Duration::from_secs(120);

/// Measures and prints a Markdown table.
///
/// # Errors
/// When daemons cannot be started, or refuse what they should do.
pub fn run(options: &Options, binary: &Path) -> anyhow::Result<()> {
    println!("| what | median (least to most) |\n| --- | --- |");
    for (items, servers) in [(100_000, 100), (1_000_000, 1_000)] {
        let config = placed(items, servers)?;
        for dead in [0, 10] {
            let times = (0..options.runs).map(|_| {
                let begin = Instant::now();
                let holders = place(&config, 0, |server, _| dead == 0 || server % dead != 0);
                assert!(holders.len() == items && holders.iter().all(|one| one.len() == 1), "each has one");
                begin.elapsed()
            });
            let times = Spread::of_millis(&times.collect::<Vec<_>>());
            let of = if dead == 0 { "all alive" } else { "one in ten dead" };
            println!("| placement of {items} items over {servers} servers, {of}, ms | {times} |");
        }
    }
    let rates = (0..options.runs).map(|_| edits(options, binary)).collect::<Result<Vec<_>, _>>()?;
    println!(
        "| edits a second on the disks of two of three, {} clients | {} |",
        options.clients,
        Spread::new(rates, 0)
    );
    let times = (0..options.runs).map(|_| shown(options.shown, binary)).collect::<Result<Vec<_>, _>>()?;
    let (asked, printed): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    println!("| GET /v1/status with {} items, ms | {} |", options.shown, Spread::of_millis(&asked));
    println!("| flip status with {} items, ms | {} |", options.shown, Spread::of_millis(&printed));
    let times = (0..options.runs).map(|_| synced(options.items, binary)).collect::<Result<Vec<_>, _>>()?;
    println!(
        "| a new server has {} items, ms from its start | {} |",
        options.items,
        Spread::of_millis(&times)
    );
    Ok(())
}

/// A config of so many plain items and servers.
fn placed(items: usize, servers: usize) -> anyhow::Result<Config> {
    // Short ids must differ, and two of a thousand names may have the same.
    let mut known = BTreeSet::new();
    let ids = (0..).map(|n| format!("s{n}")).filter(|id| known.insert(ShortId::of(id)));
    let list: Map<_, _> = ids
        .take(servers)
        .enumerate()
        .map(|(n, id)| (id, json!({ "ip": format!("10.{}.{}.1", n / 250, n % 250), "systems": ["job"] })))
        .collect();
    let system = json!({ "alive": "memory_up", "down": "memory_down", "data": ["x"] });
    let text = json!({
        "id": "s0",
        "key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "servers": list,
        "cluster": { "system": { "job": system } },
    });
    let text = text.to_string();
    let loaded = config::load(&Source { file: "bench", text: &text }, &Overrides::default());
    let mut config = match loaded {
        Ok(loaded) => loaded.config,
        Err(problems) => bail!("{problems:?}"),
    };
    config.systems[0].items = (0..items).map(|n| Item::plain("job", &format!("i{n}"))).collect();
    Ok(config)
}

fn socket(local: &Local, n: usize) -> PathBuf {
    local.state_dir().join(name(n)).join("flip.sock")
}

/// The body of an answer with code 200.
fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let len = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\n{kind}Content-Length: {len}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{head}\n{body}");
    Ok(body.to_owned())
}

fn set(names: impl Iterator<Item = String>) -> Value {
    let edits: Vec<_> =
        names.map(|name| json!({ "set_item": { "system": "items", "value": name } })).collect();
    json!({ "edits": edits, "timeout_ms": 60_000 })
}

fn started(servers: usize, items: &[&str], binary: &Path, first: usize) -> anyhow::Result<Local> {
    let mut local = Local::prepare(binary, servers, 0, items, Map::new())?;
    (0..first).try_for_each(|n| local.start(n))?;
    for n in 0..first {
        local.watch(n)?.until(LIMIT, |status| status.has_quorum && status.items.len() == items.len())?;
    }
    // A server that has heard of no other catalog yet refuses edits.
    let end = Instant::now() + LIMIT;
    while let Err(error) =
        ask(&socket(&local, 0), "POST", "/v1/edit", Some(&set(std::iter::once("first".into()))))
    {
        ensure!(Instant::now() < end, "{error}");
    }
    Ok(local)
}

fn edits(options: &Options, binary: &Path) -> anyhow::Result<f64> {
    let local = started(3, &["x"], binary, 3)?;
    let begin = Instant::now();
    let made = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..options.clients)
            .map(|client| {
                let socket = socket(&local, client % 3);
                scope.spawn(move || -> anyhow::Result<usize> {
                    let mut made = 0;
                    while begin.elapsed() < options.span {
                        let name = std::iter::once(format!("c{client}-{made}"));
                        ask(&socket, "POST", "/v1/edit", Some(&set(name)))?;
                        made += 1;
                    }
                    Ok(made)
                })
            })
            .collect();
        let made =
            clients.into_iter().map(|client| client.join().unwrap_or_else(|_| bail!("a client panicked")));
        made.sum::<anyhow::Result<usize>>()
    })?;
    Ok(made as f64 / begin.elapsed().as_secs_f64())
}

/// How long the API takes for the status, and the command.
fn shown(items: usize, binary: &Path) -> anyhow::Result<(Duration, Duration)> {
    let names: Vec<_> = (0..items).map(|n| format!("i{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut local = Local::prepare(binary, 3, 0, &names, Map::new())?;
    (0..3).try_for_each(|n| local.start(n))?;
    local.watch(0)?.until(LIMIT, Status::healthy)?;
    let begin = Instant::now();
    let body = ask(&socket(&local, 0), "GET", "/v1/status", None)?;
    let asked = begin.elapsed();
    ensure!(serde_json::from_str::<Status>(&body)?.items.len() == items, "not all are shown");
    let begin = Instant::now();
    let status = local.status_command(0).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{status}");
    Ok((asked, begin.elapsed()))
}

/// What stands for the config that a daemon runs.
fn hash(local: &Local, n: usize) -> Option<String> {
    let text = ask(&socket(local, n), "GET", "/metrics", None).ok()?;
    text.lines().find(|line| line.starts_with("flip_config_info")).map(str::to_owned)
}

/// How many items the config has that a daemon runs.
fn configured(local: &Local, n: usize) -> anyhow::Result<usize> {
    let systems: Value = serde_json::from_str(&ask(&socket(local, n), "GET", "/v1/systems", None)?)?;
    let count = systems["systems"][0]["items"].as_u64().context("no systems")?;
    Ok(usize::try_from(count)?)
}

/// How long a server that begins with nothing takes until it has the same config as the others.
fn synced(items: usize, binary: &Path) -> anyhow::Result<Duration> {
    let mut local = started(3, &["x"], binary, 2)?;
    for first in (0..items).step_by(AT_ONCE) {
        let names = (first..(first + AT_ONCE).min(items)).map(|n| format!("i{n}"));
        ask(&socket(&local, 0), "POST", "/v1/edit", Some(&set(names)))?;
    }
    // A server that has many items runs what was edited a moment later.
    let end = Instant::now() + LIMIT;
    while configured(&local, 0)? < items {
        ensure!(Instant::now() < end, "it never runs all");
        std::thread::sleep(Duration::from_millis(20));
    }
    let wanted = hash(&local, 0).context("no hash of the config")?;
    let begin = Instant::now();
    local.start(2)?;
    while hash(&local, 2).as_ref() != Some(&wanted) {
        ensure!(begin.elapsed() < LIMIT, "it never has all");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(begin.elapsed())
}
