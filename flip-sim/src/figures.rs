//! Figures that no single seed shows: false verdicts in long times of loss, deaf nodes in a large cluster,
//! and what leases cost.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flip_core::sim::{Case, Fault, Links, Outcome, Plan, Policy, Timed, run};

use crate::Progress;

/// Nodes times hours of each cell of [`loss`].
const NODE_HOURS: u64 = 100;
/// Such a time is cut into runs of at most this length.
const LONGEST: Duration = Duration::from_secs(1200);

/// A figure to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Verdicts on healthy nodes while datagrams are lost.
    Loss,
    /// A hundredth of a thousand nodes is deaf on and off.
    Deaf,
    /// Datagrams that leases cost.
    Leases,
}

impl Figure {
    /// By name.
    pub const ALL: [(&'static str, Self); 3] =
        [("loss", Self::Loss), ("deaf", Self::Deaf), ("leases", Self::Leases)];

    /// Takes it: a table, and whether it is as it must be.
    #[must_use]
    pub fn take(self, jobs: usize) -> (String, bool) {
        match self {
            Self::Loss => loss(jobs),
            Self::Deaf => deaf(jobs),
            Self::Leases => leases(jobs),
        }
    }
}

fn case(about: &str, seed: u64, plan: Plan, faults: Vec<Timed>) -> Case {
    Case { about: about.into(), seed, plan, faults }
}

/// Runs cases on so many threads, the last one first.
fn run_all(cases: &[Case], jobs: usize) -> Vec<Outcome> {
    let next = AtomicUsize::new(cases.len());
    let progress = Progress::new("runs", Some(cases.len() as u64));
    let outcomes = Mutex::new(Vec::new());
    let take = || next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Ok(left) = take() {
                    let outcome = run(&cases[left - 1], false);
                    let mut outcomes = outcomes.lock().expect("no thread panics with it");
                    outcomes.push((left, outcome));
                    progress.show(outcomes.len() as u64, 0);
                }
            });
        }
    });
    progress.clear();
    let mut outcomes = outcomes.into_inner().expect("all ended");
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// What was broken, as lines below a table.
fn broken<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> String {
    let lines = outcomes.into_iter().flat_map(|outcome| &outcome.violations);
    lines.map(|broken| format!("BROKEN {} at {}: {}\n", broken.promise, broken.at, broken.what)).collect()
}

/// 100 node-hours at each loss and size, in profile balanced.
fn loss(jobs: usize) -> (String, bool) {
    let mut cases = Vec::new();
    let mut cells = Vec::new();
    for servers in [3, 8, 64] {
        for loss in [0.1, 0.2, 0.3] {
            let mut left = Duration::from_secs(NODE_HOURS * 3600 / servers as u64);
            let first = cases.len();
            while !left.is_zero() {
                let length = left.min(LONGEST);
                left -= length;
                let ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
                let mut plan = Plan::simple(servers, "balanced", vec![Policy::Keep; 2]);
                plan.length_ms = ms;
                let faults = vec![Timed { at_ms: 0, fault: Fault::Loss { on: Links::All, p: loss, ms } }];
                cases.push(case("loss", cases.len() as u64, plan, faults));
            }
            cells.push((servers, loss, first..cases.len()));
        }
    }
    let outcomes = run_all(&cases, jobs);
    let mut table = String::from(
        "| servers | loss, one way | node-hours | false verdicts |\n| ---: | ---: | ---: | ---: |\n",
    );
    for (servers, loss, range) in cells {
        let outcomes = &outcomes[range];
        let time: Duration = outcomes.iter().map(|outcome| outcome.simulated).sum();
        let hours = time.as_secs_f64() / 3600.0 * servers as f64;
        let verdicts: u64 = outcomes.iter().map(|outcome| outcome.verdicts).sum();
        let _ = writeln!(table, "| {servers} | {:.0} % | {hours:.0} | {verdicts} |", loss * 100.0);
    }
    let broken = broken(&outcomes);
    let fine = broken.is_empty() && outcomes.iter().all(|outcome| outcome.verdicts == 0);
    (table + &broken, fine)
}

/// Ten of 1,000 nodes hear nothing for 20 s, hear for 20 s, and so on, three times.
fn deaf(jobs: usize) -> (String, bool) {
    let deaf: Vec<usize> = (0..10).map(|n| n * 97 + 13).collect();
    let mut plan = Plan::simple(1000, "balanced", Vec::new());
    plan.length_ms = 120_000;
    let mut faults = Vec::new();
    for turn in 0..3 {
        for host in &deaf {
            faults
                .push(Timed { at_ms: turn * 40_000, fault: Fault::Cut { on: Links::To(*host), ms: 20_000 } });
        }
    }
    let cases: Vec<_> = [1, 2].map(|seed| case("deaf", seed, plan.clone(), faults.clone())).into();
    let outcomes = run_all(&cases, jobs);
    let mut table = String::from(
        "| seed | servers | deaf, 20 s on and off | seconds | deaf ones declared down | healthy ones declared down |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let broken = broken(&outcomes);
    let mut fine = broken.is_empty();
    for (case, outcome) in cases.iter().zip(&outcomes) {
        let healthy = outcome.fell.iter().filter(|server| !deaf.contains(server)).count();
        fine &= healthy == 0;
        let _ = writeln!(
            table,
            "| {} | {} | {} | {:.0} | {} | {healthy} |",
            case.seed,
            plan.servers,
            deaf.len(),
            outcome.simulated.as_secs_f64(),
            outcome.fell.len() - healthy,
        );
    }
    (table + &broken, fine)
}

/// Datagrams per second and host of three servers with so many leased items, beyond what the same
/// servers send for kept ones.
fn leases(jobs: usize) -> (String, bool) {
    const SHORT_MS: u64 = 30_000;
    const LONG_MS: u64 = 90_000;
    let cells: Vec<_> = ["lan", "balanced", "fast"]
        .into_iter()
        .flat_map(|profile| [1, 100, 1_000, 10_000].map(|items| (profile, items)))
        .collect();
    let runs = |(profile, items): (&'static str, usize)| {
        let of = move |policy, length_ms| {
            let mut plan = Plan::simple(3, profile, vec![policy; items]);
            plan.length_ms = length_ms;
            // A run is as long as its faults.
            let none = Fault::Loss { on: Links::All, p: 0.0, ms: length_ms };
            case("leases", 1, plan, vec![Timed { at_ms: 0, fault: none }])
        };
        [Policy::Keep, Policy::Drop]
            .into_iter()
            .flat_map(move |policy| [SHORT_MS, LONG_MS].map(|ms| of(policy, ms)))
    };
    let cases: Vec<_> = cells.iter().copied().flat_map(runs).collect();
    let outcomes = run_all(&cases, jobs);
    // The difference of two lengths leaves the start out.
    let rate = |short: &Outcome, long: &Outcome| {
        let more = long.datagrams as f64 - short.datagrams as f64;
        more / (long.simulated.as_secs_f64() - short.simulated.as_secs_f64()) / 3.0
    };
    let mut table = String::from(
        "| profile | items | datagrams/s per host, kept | leased | of them for leases |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for ((profile, items), runs) in cells.iter().zip(outcomes.chunks(4)) {
        let (kept, leased) = (rate(&runs[0], &runs[1]), rate(&runs[2], &runs[3]));
        let _ = writeln!(table, "| {profile} | {items} | {kept:.2} | {leased:.2} | {:.2} |", leased - kept);
    }
    let broken = broken(&outcomes);
    let fine = broken.is_empty();
    (table + &broken, fine)
}
