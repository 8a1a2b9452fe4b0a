//! Sweeps of the simulator: many seeds on all processors, what failed made small and readable, the planted
//! bugs, and how fast it is. The program `flip-sim` is what `scripts/dev/sim` builds and runs.

#![cfg(feature = "planted")]

mod attempt;
mod corpus;
mod failure;
mod figures;
mod planted;
mod progress;
mod rest;
mod speed;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use flip_core::planted::Bug;
use flip_core::sim::{MARKS, draw};

pub use attempt::{Attempt, attempt};
pub use corpus::{Entry, corpus};
pub use failure::{Failure, explain};
pub use figures::Figure;
pub use planted::{Caught, hunt, table};
pub use progress::Progress;
pub use rest::at_rest;
pub use speed::speed;

/// After so many failures a sweep ends: they are most likely one.
const ENOUGH: usize = 5;

/// Which seeds to run.
pub struct Sweep {
    /// The first seed.
    pub from: u64,
    /// How many seeds; as many as `time` allows where there is none.
    pub seeds: Option<u64>,
    /// How long to go on.
    pub time: Option<Duration>,
    /// How many threads.
    pub jobs: usize,
    /// Only seeds whose hosts have catalogs; the others are drawn and not run.
    pub catalogs: bool,
    /// What is planted.
    pub bug: Option<Bug>,
}

/// What a sweep found.
#[derive(Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Failures, by seed.
    pub failures: BTreeMap<u64, Failure>,
    /// Situations reached.
    pub marks: u128,
    /// Simulated time.
    pub simulated: Duration,
    /// Verdicts, alive hooks and datagrams.
    pub counts: (u64, u64, u64),
    /// Longest overlap that each exception excused.
    pub excused: BTreeMap<&'static str, Duration>,
    /// How long it took.
    pub took: Duration,
}

impl Summary {
    /// Situations that were not reached.
    #[must_use]
    pub fn unreached(&self) -> Vec<&'static str> {
        let reached = |at: usize| self.marks & (1 << at) != 0;
        MARKS.iter().enumerate().filter(|(at, _)| !reached(*at)).map(|(_, name)| *name).collect()
    }

    fn add(&mut self, seed: u64, result: Attempt) {
        self.seeds += 1;
        match result {
            Ok(outcome) => {
                self.marks |= outcome.marks;
                self.simulated += outcome.simulated;
                self.counts.0 += outcome.verdicts;
                self.counts.1 += outcome.moves;
                self.counts.2 += outcome.datagrams;
                for (by, span) in outcome.excused {
                    let longest = self.excused.entry(by).or_default();
                    *longest = span.max(*longest);
                }
                if let Some(first) = outcome.violations.first() {
                    let what = first.what.clone();
                    self.failures.insert(seed, Failure { promise: first.promise.into(), what });
                }
            }
            Err(panic) => {
                self.failures.insert(seed, Failure { promise: "panic".into(), what: panic });
            }
        }
    }
}

impl Sweep {
    /// Runs the seeds. Every hundredth runs twice and must do the same (P12).
    #[must_use]
    pub fn run(&self) -> Summary {
        let begun = Instant::now();
        let next = AtomicU64::new(self.from);
        let end = self.seeds.map(|seeds| self.from + seeds);
        let stop = AtomicBool::new(false);
        let summary = Mutex::new(Summary::default());
        let progress = Progress::new("seeds", self.seeds);
        let over = || stop.load(Ordering::Relaxed) || self.time.is_some_and(|time| begun.elapsed() >= time);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    // Each thread has its own.
                    flip_core::planted::plant(self.bug);
                    while !over() {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if end.is_some_and(|end| seed >= end) {
                            return;
                        }
                        if self.catalogs && draw(seed).plan.catalog.is_none() {
                            continue;
                        }
                        let result = twice(seed);
                        let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                        summary.add(seed, result);
                        if summary.failures.len() >= ENOUGH {
                            stop.store(true, Ordering::Relaxed);
                        }
                        progress.show(summary.seeds, summary.failures.len());
                    }
                });
            }
        });
        progress.clear();
        let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
        summary.took = begun.elapsed();
        summary
    }
}

fn twice(seed: u64) -> Attempt {
    let case = draw(seed);
    let first = attempt(&case, false)?;
    if seed.is_multiple_of(100) {
        let second = attempt(&case, false)?;
        if first.trace != second.trace {
            return Err(format!("P12: seed {seed} is not deterministic"));
        }
    }
    Ok(first)
}
