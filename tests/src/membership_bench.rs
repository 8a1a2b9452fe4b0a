//! `flip-bench membership`: how fast N nodes find each other, notice a death and a goodbye, and what
//! they cost when nothing happens.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use flip_core::Time;
use flip_core::config::{Profile, Timing};
use flip_systems::clock;
use tokio::task::LocalSet;

use crate::busy::BusyLoops;
use crate::membership::{self, Running, Seen};
use crate::spread::Spread;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cluster sizes.
    pub nodes: Vec<usize>,
    /// Runs per size; none: 32 for up to 8 nodes, 7 for more.
    pub runs: Option<usize>,
    /// How long the idle cluster is watched.
    pub idle: Duration,
    /// How long false verdicts are waited for beside three busy loops.
    pub busy: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: vec![8, 32, 128],
            runs: None,
            idle: Duration::from_secs(15),
            busy: Duration::from_secs(60),
        }
    }
}

/// One random member probed every 250 ms, 320 ms of silence until a ballot, and the rest as in profile
/// `fast`: fewer packets than HashiCorp's memberlist with 200 ms probes.
#[must_use]
pub fn timing(servers: usize) -> Timing {
    Timing {
        probe_interval: Duration::from_millis(250),
        pings_per_interval: 1,
        ping_timeout: Duration::from_millis(320),
        ..Profile::Fast.timing(servers)
    }
}

fn seconds(figures: Vec<f64>) -> Spread {
    Spread::new(figures, 3)
}

#[derive(Default)]
struct Figures {
    together: Vec<f64>,
    silent: (Vec<f64>, Vec<f64>),
    killed: (Vec<f64>, Vec<f64>),
    left: Vec<f64>,
    packets: f64,
    bytes: f64,
    cpu: f64,
    memory: f64,
    false_verdicts: usize,
}

/// Measures and prints a Markdown table.
///
/// # Errors
/// When a cluster cannot be built, or does not come together within a minute.
pub fn run(options: &Options) -> anyhow::Result<()> {
    println!(
        "| N | runs | all know all, s | silent host: first / last verdict, s | killed daemon: first / last, s | goodbye: last, s | idle packets/s per node | bytes/s per node | CPU of all, % of a core | memory per node, KiB | false verdicts beside 3 busy loops |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for count in &options.nodes {
        let runs = options.runs.unwrap_or(if *count <= 8 { 32 } else { 7 });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let figures = LocalSet::new().block_on(&runtime, measure(*count, runs, options))?;
        println!(
            "| {count} | {runs} | {} | {} / {} | {} / {} | {} | {:.1} | {:.0} | {:.2} | {:.0} | {} |",
            seconds(figures.together),
            seconds(figures.silent.0),
            seconds(figures.silent.1),
            seconds(figures.killed.0),
            seconds(figures.killed.1),
            seconds(figures.left),
            figures.packets,
            figures.bytes,
            figures.cpu,
            figures.memory,
            figures.false_verdicts,
        );
    }
    Ok(())
}

async fn measure(count: usize, runs: usize, options: &Options) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for run in 0..runs {
        let before = resident()?;
        let (nodes, took) = together(count, run as u64).await?;
        figures.together.push(took);
        if run == 0 {
            // The start's own traffic has to die down before "idle" means anything.
            tokio::time::sleep(Duration::from_secs(5)).await;
            idle(&nodes, options.idle, &mut figures).await?;
            figures.memory = resident()?.saturating_sub(before) as f64 / 1024.0 / count as f64;
            figures.false_verdicts = beside_busy_loops(&nodes, options.busy).await;
        } else {
            // Let every node's probe cycle be somewhere else in each run.
            tokio::time::sleep(Duration::from_millis(400 + 37 * run as u64 % 300)).await;
        }
        let mut nodes = nodes;
        let at = clock::now();
        nodes[0].freeze();
        let (first, last) = verdicts(&nodes[1..], 0, at).await?;
        figures.silent.0.push(first);
        figures.silent.1.push(last);
        if count > 3 {
            let at = clock::now();
            nodes[1].kill();
            let (first, last) = verdicts(&nodes[2..], 1, at).await?;
            figures.killed.0.push(first);
            figures.killed.1.push(last);
            let at = clock::now();
            nodes[2].leave();
            figures.left.push(goodbyes(&nodes[3..], 2, at).await?);
        }
        nodes.clear();
        tokio::task::yield_now().await;
    }
    Ok(figures)
}

async fn together(count: usize, seed: u64) -> anyhow::Result<(Vec<Running>, f64)> {
    let configs = membership::configs(count, &timing(count))?;
    let begin = clock::now();
    let mut nodes = Vec::new();
    for (n, config) in configs.into_iter().enumerate() {
        nodes.push(membership::start(Arc::new(config), 1, seed * 1000 + n as u64).await?);
    }
    let complete = |seen: &Rc<Seen>| seen.complete.get();
    let last = until(begin, Duration::from_secs(60), || {
        nodes.iter().map(|node| complete(&node.seen)).try_fold(begin, |last, at| at.map(|at| last.max(at)))
    })
    .await;
    let last =
        last.ok_or_else(|| anyhow::anyhow!("{count} nodes did not find each other within a minute"))?;
    Ok((nodes, last.since(begin).as_secs_f64()))
}

async fn verdicts(nodes: &[Running], about: usize, at: Time) -> anyhow::Result<(f64, f64)> {
    let when = |seen: &Rc<Seen>| {
        seen.down
            .borrow()
            .iter()
            .find(|(server, when)| *server == about && *when >= at)
            .map(|(_, when)| *when)
    };
    seen_by_all(nodes, at, when).await.ok_or_else(|| anyhow::anyhow!("no verdict within a minute"))
}

async fn goodbyes(nodes: &[Running], about: usize, at: Time) -> anyhow::Result<f64> {
    let when = |seen: &Rc<Seen>| {
        seen.left.borrow().iter().find(|(server, _)| *server == about).map(|(_, when)| *when)
    };
    let (_, last) = seen_by_all(nodes, at, when)
        .await
        .ok_or_else(|| anyhow::anyhow!("a goodbye was not heard by all"))?;
    Ok(last)
}

async fn seen_by_all(
    nodes: &[Running],
    begin: Time,
    when: impl Fn(&Rc<Seen>) -> Option<Time>,
) -> Option<(f64, f64)> {
    until(begin, Duration::from_secs(60), || {
        let all: Option<Vec<Time>> = nodes.iter().map(|node| when(&node.seen)).collect();
        let all = all?;
        let since = |at: Option<&Time>| at.map(|at| at.since(begin).as_secs_f64());
        Some((since(all.iter().min())?, since(all.iter().max())?))
    })
    .await
}

/// Waits for `what` for at most `limit`. The nodes run in this thread, so it has to look now and then;
/// the times themselves were taken by the nodes.
async fn until<T>(begin: Time, limit: Duration, what: impl Fn() -> Option<T>) -> Option<T> {
    loop {
        if let Some(found) = what() {
            return Some(found);
        }
        if clock::now().since(begin) > limit {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn idle(nodes: &[Running], span: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    let total = || {
        nodes.iter().map(|node| node.seen.sent.get()).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    };
    let (before, cpu, begin) = (total(), cpu_seconds()?, clock::now());
    tokio::time::sleep(span).await;
    let (after, took) = (total(), clock::now().since(begin).as_secs_f64());
    let each = took * nodes.len() as f64;
    figures.packets = (after.0 - before.0) as f64 / each;
    figures.bytes = (after.1 - before.1) as f64 / each;
    figures.cpu = (cpu_seconds()? - cpu) / took * 100.0;
    Ok(())
}

/// Counts verdicts on nodes of which none died, while other threads use all cores.
async fn beside_busy_loops(nodes: &[Running], span: Duration) -> usize {
    let loops = BusyLoops::start(3);
    tokio::time::sleep(span).await;
    drop(loops);
    nodes.iter().map(|node| node.seen.down.borrow().len()).sum()
}

/// CPU time of this process so far, user and system.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

/// Resident memory of this process, bytes.
fn resident() -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).unwrap_or_default().parse()?;
    Ok(pages * 4096)
}
