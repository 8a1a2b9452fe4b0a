//! What hooks cost: how many a second, native and Lua, how much memory a script takes, and whether scripts that
//! never end delay the loop of a node.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use flip_core::config::{Config, Overrides, Script, ScriptFound, Source, load};
use flip_core::event::{Event, ItemState};
use flip_core::{Input, Node, Output, Start, Time};
use flip_systems::flip::{Flip, Program};
use flip_systems::lua::{Call, Engine, Hook, Report, Scripts, Setup};
use flip_systems::{Registry, Systems, clock, lua};
use serde_json::json;
use tokio::sync::mpsc;

/// Items that one node is given at once.
const ITEMS: usize = 10_000;
/// Scripts that spin.
const SPINNING: usize = 16;
/// How often a loop of the quickest profile wants to run.
const TICK: Duration = Duration::from_millis(15);
const NOOP: &str = "return { alive = function(item, config) end, down = function(item, config) end }\n";

/// Measures all, and says it in Markdown.
///
/// # Errors
/// When something cannot be started.
pub fn run(runs: usize, seconds: u64) -> anyhow::Result<String> {
    let mut page = String::new();
    writeln!(
        page,
        "| hooks ({ITEMS} items at once on one node) | calls a second, median of {runs} | worst | best | processor, µs a call |"
    )?;
    writeln!(page, "| --- | --- | --- | --- | --- |")?;
    let kinds = [("native", "memory_up"), ("Lua", "noop")];
    let ways: [(&str, Measure); 3] = [
        ("hooks alone", hooks),
        ("with the node's rules", node),
        ("in a whole node, as in the daemon", whole),
    ];
    for (kind, alive) in kinds {
        for (way, measure) in ways {
            let mut rates = Vec::new();
            for _ in 0..runs {
                rates.push(measure(alive)?);
            }
            rates.sort_by(|a, b| a.calls.total_cmp(&b.calls));
            let (worst, best) = (rates[0].calls, rates[rates.len() - 1].calls);
            let Rate { calls, micros } = rates[rates.len() / 2];
            writeln!(page, "| {kind} no-op, {way} | {calls:.0} | {worst:.0} | {best:.0} | {micros:.1} |")?;
        }
    }
    let (loaded, state) = memory()?;
    writeln!(page, "\n| memory | KiB |\n| --- | --- |")?;
    writeln!(page, "| a loaded script | {:.1} |", loaded / 1024.0)?;
    writeln!(page, "| the state of a running call | {:.0} |", state / 1024.0)?;
    let ms = |nanos: u128| nanos as f64 / 1e6;
    writeln!(
        page,
        "\n| lateness of a tick every {TICK:?}, ms, {seconds} s | p50 | p99 | max |\n| --- | --- | --- | --- |"
    )?;
    for (name, spinning) in [("nothing else", 0), ("16 scripts spin until their limit", SPINNING)] {
        let late = lateness(spinning, Duration::from_secs(seconds))?;
        let at = |part: usize| ms(late[(late.len() - 1) * part / 100]);
        writeln!(page, "| {name} | {:.2} | {:.2} | {:.2} |", at(50), at(99), at(100))?;
    }
    Ok(page)
}

fn script(name: &str, text: &str) -> anyhow::Result<lua::Script> {
    lua::Script::compile(name, &format!("{name}.lua"), text.as_bytes()).map_err(anyhow::Error::msg)
}

fn engine() -> anyhow::Result<Arc<Engine>> {
    let mut scripts = Scripts::default();
    scripts.add(script("noop", NOOP)?);
    scripts.add(script("spin", "while true do end")?);
    Ok(Arc::new(Engine::new(Setup { scripts, account: false, ..Setup::new("a") })?))
}

fn config(alive: &str) -> anyhow::Result<Arc<Config>> {
    let down = alive.replace("_up", "_down");
    let items: Vec<_> = (0..ITEMS).map(|n| format!("item-{n}")).collect();
    // A port that is free now, and so most likely in a moment.
    let port = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = json!({
        "key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "log_level": "fatal",
        "servers": {"a": {"ip": "127.0.0.1", "port": port, "systems": ["s"]}},
        "cluster": {"system": {"s": {"alive": alive, "down": down, "data": items}}},
    });
    let text = config.to_string();
    let functions = ["alive".to_owned(), "down".to_owned()];
    let scripts = [Script { name: "noop", found: ScriptFound::Functions(&functions) }];
    let overrides = Overrides { id: Some("a"), scripts: &scripts, ..Overrides::default() };
    let loaded = load(&Source { file: "bench.json", text: &text }, &overrides);
    loaded.map(|loaded| Arc::new(loaded.config)).map_err(|problems| {
        anyhow::anyhow!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

fn systems(config: &Config) -> anyhow::Result<Systems> {
    let mut registry = Registry::default();
    registry.scripts(engine()?);
    Ok(Systems::open_with(&registry, config)?)
}

/// Runs the `alive` hook of each item, all spawned at once on the thread of a node's loop, as the daemon
/// spawns them.
fn hooks(alive: &str) -> anyhow::Result<Rate> {
    let config = config(alive)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let systems = systems(&config)?;
        let mut calls = first_plan(&config);
        let start = Begin::now();
        let (ends, mut inbox) = mpsc::unbounded_channel();
        for call in calls.drain(..) {
            let (id, run, ends) = (call.id, systems.run(call), ends.clone());
            tokio::spawn(async move {
                let _ = ends.send((id, run.await));
            });
        }
        for _ in 0..ITEMS {
            let (_, result) = inbox.recv().await.context("a hook was lost")?;
            result.map_err(anyhow::Error::msg)?;
        }
        Ok(start.rate())
    })
}

/// A hook call for each item.
fn first_plan(config: &Arc<Config>) -> Vec<flip_core::HookCall> {
    use flip_core::event::Reason;
    use flip_core::id::ItemRef;
    let call = |item: usize| flip_core::HookCall {
        id: item as u64,
        item: ItemRef { system: 0, item },
        action: flip_core::HookAction::Alive,
        reason: Reason::Home,
        timeout: Duration::from_secs(60),
        lifetime: flip_core::Lifetime::ENDLESS,
    };
    (0..config.systems[0].items.len()).map(call).collect()
}

/// A node takes all items, from its start until it says that it has them.
fn node(alive: &str) -> anyhow::Result<Rate> {
    let config = config(alive)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let systems = systems(&config)?;
        let start = Begin::now();
        let (ends, mut inbox) = mpsc::unbounded_channel();
        let mut node =
            Node::new(Arc::clone(&config), Start { generation: 1, seed: [7; 32], keys: None }, clock::now());
        node.handle(Input::Timeout, clock::now());
        let mut done = 0;
        while done < ITEMS {
            while let Some(output) = node.poll_output() {
                if let Output::Hook(call) = output {
                    let (id, run, ends) = (call.id, systems.run(call), ends.clone());
                    tokio::spawn(async move {
                        let _ = ends.send((id, run.await));
                    });
                }
            }
            let due = node.poll_timeout().map(|due| due.since(clock::now()));
            tokio::select! {
                ended = inbox.recv() => {
                    let mut ended = Some(ended.context("a hook was lost")?);
                    // Those that ended together, as the loop of a node takes them.
                    while let Some((hook, result)) = ended {
                        anyhow::ensure!(result.is_ok(), "a hook failed: {result:?}");
                        done += 1;
                        node.handle(Input::HookDone { hook, result }, clock::now());
                        ended = inbox.try_recv().ok();
                    }
                }
                () = tokio::time::sleep(due.unwrap_or(Duration::from_secs(1))) => {
                    node.handle(Input::Timeout, clock::now());
                }
            }
        }
        Ok(start.rate())
    })
}

/// A whole node takes all items: its loop, sockets, clock and alarm are the daemon's.
fn whole(alive: &str) -> anyhow::Result<Rate> {
    let config = config(alive)?;
    let mut registry = Registry::default();
    registry.scripts(engine()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (all, told) = tokio::sync::oneshot::channel();
        let counts = Counts { here: 0, all: Some(all) };
        let flip = Flip::builder(config).registry(registry).program(counts).start().await?;
        let node = flip.handle();
        let start = Begin::now();
        let run = tokio::spawn(flip.run());
        told.await.context("the node ended")?;
        let rate = start.rate();
        node.abort();
        run.await??;
        Ok(rate)
    })
}

/// Counts items that have come, and tells when all have.
struct Counts {
    here: usize,
    all: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Program for Counts {
    fn event(&mut self, event: &Event, _: &Config, _: Time) {
        self.here += usize::from(matches!(event, Event::Item { to: ItemState::Active, .. }));
        if self.here == ITEMS
            && let Some(all) = self.all.take()
        {
            // Who measures may have given up.
            let _ = all.send(());
        }
    }
}

/// How many calls a second, and what each took of all processors: on a busy machine only that can be compared.
struct Rate {
    calls: f64,
    micros: f64,
}

/// One way to run the `alive` hooks of this name.
type Measure = fn(&str) -> anyhow::Result<Rate>;

/// The beginning of a measurement.
struct Begin {
    wall: Instant,
    processor: Duration,
}

impl Begin {
    fn now() -> Self {
        Self { wall: Instant::now(), processor: processor() }
    }

    /// All items have come.
    fn rate(&self) -> Rate {
        let items = ITEMS as f64;
        let micros = (processor() - self.processor).as_secs_f64() * 1e6 / items;
        Rate { calls: items / self.wall.elapsed().as_secs_f64(), micros }
    }
}

/// Processor time of this process.
fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    Duration::new(part(time.tv_sec), u32::try_from(part(time.tv_nsec)).unwrap_or(0))
}

/// Bytes of a loaded script, and of a call's state.
fn memory() -> anyhow::Result<(f64, f64)> {
    let loaded = script("noop", NOOP)?.size() as f64;
    let engine = engine()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(engine.call(call(&engine, "noop", Duration::from_secs(10))?));
    Ok((loaded, report.memory as f64))
}

fn call(engine: &Engine, name: &str, timeout: Duration) -> anyhow::Result<Call> {
    let script = engine.script(name).context("no script")?;
    Ok(Call { timeout, ..Call::new(&script, Hook::Alive, "s", "x") })
}

/// How late ticks on a thread of their own are, in nanoseconds, sorted, while so many scripts spin.
fn lateness(spinning: usize, span: Duration) -> anyhow::Result<Vec<u128>> {
    let engine = engine()?;
    let over = Arc::new(AtomicBool::new(false));
    let mut spinners = Vec::new();
    for _ in 0..spinning {
        let (engine, over) = (Arc::clone(&engine), Arc::clone(&over));
        spinners.push(std::thread::spawn(move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            while !over.load(Ordering::Relaxed) {
                let report: Report =
                    runtime.block_on(engine.call(call(&engine, "spin", Duration::from_secs(1))?));
                anyhow::ensure!(report.result.is_err(), "a spinning script ended well");
            }
            Ok(())
        }));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut late = runtime.block_on(async {
        let start = tokio::time::Instant::now();
        let mut due = start;
        let mut late = Vec::new();
        while start.elapsed() < span {
            due += TICK;
            tokio::time::sleep_until(due).await;
            late.push(due.elapsed().as_nanos());
        }
        late
    });
    over.store(true, Ordering::Relaxed);
    for spinner in spinners {
        spinner.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    late.sort_unstable();
    Ok(late)
}
