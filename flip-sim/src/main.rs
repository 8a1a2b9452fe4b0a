//! Sweeps the simulator, replays what failed, and looks for planted bugs. `scripts/dev/sim` builds it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use flip_core::planted::Bug;
use flip_core::sim::{Case, MARKS, draw};
use flip_sim::{Entry, Failure, Figure, Sweep};

/// Runs the real core of flip through simulated clusters in which everything goes wrong.
///
/// Exit code: 0 when all promises hold (or all planted bugs were caught), 1 when not.
#[derive(Parser)]
#[command(name = "flip-sim")]
struct Cli {
    /// How many seeds to sweep.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    seeds: u64,
    /// Sweeps for so many hours instead.
    #[arg(long, value_name = "H", conflicts_with = "seeds")]
    hours: Option<f64>,
    /// The first seed of the sweep.
    #[arg(long, value_name = "S", default_value_t = 1)]
    from: u64,
    /// How many threads. Default: one per processor.
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Replays one seed, with its timeline.
    #[arg(long, value_name = "S", conflicts_with_all = ["hours", "case"])]
    seed: Option<u64>,
    /// Replays a case from a file, with its timeline.
    #[arg(long, value_name = "FILE")]
    case: Option<PathBuf>,
    /// Looks for the planted bugs and prints the table.
    #[arg(long)]
    planted: bool,
    /// Only these planted bugs; in a sweep or a replay, the one that is planted.
    #[arg(long, value_name = "BUG", value_parser = bug)]
    bug: Vec<Bug>,
    /// Fails when one of the named situations was not reached.
    #[arg(long)]
    marks: bool,
    /// Of the seeds, only those whose hosts have catalogs.
    #[arg(long)]
    catalogs: bool,
    /// Without the corpus of cases that once failed.
    #[arg(long)]
    no_corpus: bool,
    /// Measures the speed for clusters of these sizes, and for five servers under each profile.
    #[arg(long, value_name = "SIZES", value_delimiter = ',')]
    speed: Vec<usize>,
    /// Measures clusters of these sizes in which nothing happens: processor time, memory, datagrams.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(10..=60_000))]
    at_rest: Vec<u64>,
    /// Takes figures of long and large runs: loss, deaf, leases.
    #[arg(long, value_name = "FIGURES", value_delimiter = ',', value_parser = figure)]
    figures: Vec<Figure>,
}

fn figure(name: &str) -> Result<Figure, String> {
    let found = Figure::ALL.iter().find(|(each, _)| *each == name);
    found.map(|(_, figure)| *figure).ok_or_else(|| {
        let names: Vec<_> = Figure::ALL.iter().map(|(name, _)| *name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn bug(name: &str) -> Result<Bug, String> {
    let names = || Bug::ALL.iter().map(|bug| format!("{bug:?}")).collect::<Vec<_>>().join(", ");
    let found = Bug::ALL.iter().copied().find(|bug| format!("{bug:?}") == name);
    found.ok_or_else(|| format!("no such bug; there are {}", names()))
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let jobs = cli.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    if !cli.speed.is_empty() {
        print!("{}", flip_sim::speed(&cli.speed, Duration::from_secs(5)));
        return Ok(ExitCode::SUCCESS);
    }
    if !cli.at_rest.is_empty() {
        let sizes: Vec<_> = cli.at_rest.iter().filter_map(|size| usize::try_from(*size).ok()).collect();
        let (table, fine) = flip_sim::at_rest(&sizes);
        print!("{table}");
        return Ok(code(fine));
    }
    if !cli.figures.is_empty() {
        let mut fine = true;
        for figure in &cli.figures {
            let (table, good) = figure.take(jobs);
            println!("{table}");
            fine &= good;
        }
        return Ok(code(fine));
    }
    let corpus = if cli.no_corpus { Vec::new() } else { flip_sim::corpus()? };
    if cli.planted {
        return Ok(planted(&cli, jobs, &corpus));
    }
    flip_core::planted::plant(cli.bug.first().copied());
    if let Some(file) = &cli.case {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let case = serde_json::from_str(&text).with_context(|| format!("{} is no case", file.display()))?;
        return Ok(replay(&case));
    }
    if let Some(seed) = cli.seed {
        return Ok(replay(&draw(seed)));
    }
    Ok(sweep(&cli, jobs, &corpus))
}

fn code(fine: bool) -> ExitCode {
    ExitCode::from(u8::from(!fine))
}

fn replay(case: &Case) -> ExitCode {
    println!("{:#?}", case.plan);
    match flip_sim::attempt(case, true) {
        Ok(outcome) => {
            for line in &outcome.timeline {
                println!("{line}");
            }
            for broken in &outcome.violations {
                println!("BROKEN {} at {}: {}", broken.promise, broken.at, broken.what);
            }
            println!(
                "seed {}: {}, {} verdicts, {} moves, trace {:016x}",
                case.seed,
                if outcome.violations.is_empty() { "all promises held" } else { "FAILED" },
                outcome.verdicts,
                outcome.moves,
                outcome.trace
            );
            code(outcome.violations.is_empty())
        }
        Err(panic) => {
            println!("seed {}: FAILED, panic: {panic}", case.seed);
            code(false)
        }
    }
}

fn sweep(cli: &Cli, jobs: usize, corpus: &[Entry]) -> ExitCode {
    let mut failed = 0;
    for entry in corpus {
        if let Some(failure) = Failure::of(&entry.case) {
            failed += 1;
            let replay = format!("scripts/dev/sim --case tests/corpus/sim/{}.json", entry.name);
            println!("corpus {}: {}", entry.name, flip_sim::explain(&entry.case, &failure, &replay));
        }
    }
    let time = cli.hours.map(|hours| Duration::from_secs_f64(hours * 3600.0));
    let seeds = cli.hours.is_none().then_some(cli.seeds);
    let summary =
        Sweep { from: cli.from, seeds, time, jobs, catalogs: cli.catalogs, bug: cli.bug.first().copied() }
            .run();
    for (seed, failure) in &summary.failures {
        println!("{}", flip_sim::explain(&draw(*seed), failure, &format!("scripts/dev/sim --seed {seed}")));
    }
    let unreached = summary.unreached();
    for name in &unreached {
        println!("never reached: {name}");
    }
    for (by, span) in &summary.excused {
        println!("longest overlap that {by} excused: {:.3} s", span.as_secs_f64());
    }
    let fine = failed == 0 && summary.failures.is_empty() && (unreached.is_empty() || !cli.marks);
    let (verdicts, moves, datagrams) = summary.counts;
    let took = summary.took.as_secs_f64();
    println!(
        "{}: {} seeds from {} in {took:.0} s ({:.0}/s, {:.1} simulated days), {} failed, {failed} of {} corpus cases failed, {verdicts} verdicts, {moves} moves, {datagrams} datagrams, {} of {} situations reached",
        if fine { "ok" } else { "FAILED" },
        summary.seeds,
        cli.from,
        summary.seeds as f64 / took,
        summary.simulated.as_secs_f64() / 86_400.0,
        summary.failures.len(),
        corpus.len(),
        MARKS.len() - unreached.len(),
        MARKS.len(),
    );
    code(fine)
}

fn planted(cli: &Cli, jobs: usize, corpus: &[Entry]) -> ExitCode {
    let bugs = if cli.bug.is_empty() { Bug::ALL } else { &cli.bug };
    let caught = flip_sim::hunt(bugs, cli.seeds, jobs, corpus);
    print!("{}", flip_sim::table(&caught));
    let escaped = caught.iter().filter(|caught| caught.by.is_none()).count();
    println!();
    println!(
        "{}: {} planted bugs, {} caught, {escaped} escaped ({} seeds each)",
        if escaped == 0 { "ok" } else { "FAILED" },
        caught.len(),
        caught.len() - escaped,
        cli.seeds
    );
    code(escaped == 0)
}
