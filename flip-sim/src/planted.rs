//! The planted bugs: each must be caught, or the simulator is not worth its electricity.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use flip_core::planted::{Bug, plant};
use flip_core::sim::{Case, draw};

use crate::corpus::Entry;
use crate::failure::Failure;
use crate::progress::Progress;

/// How a bug was caught.
#[derive(Clone, Debug)]
pub struct Caught {
    /// Which bug.
    pub bug: Bug,
    /// The promise that it broke, and after how many cases; none when it escaped.
    pub by: Option<(String, How)>,
}

/// Where a bug was caught.
#[derive(Clone, Debug)]
pub enum How {
    /// By the swarm, at this seed, the first being 1.
    Seed(u64),
    /// By a directed case of this name.
    Directed(String),
}

/// Looks for every bug with up to `seeds` seeds each, then with the directed cases.
#[must_use]
pub fn hunt(bugs: &[Bug], seeds: u64, jobs: usize, directed: &[Entry]) -> Vec<Caught> {
    let caught = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let progress = Progress::new("bugs", Some(bugs.len() as u64));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let by = catch(*bug, seeds, directed);
                    if let Ok(mut caught) = caught.lock() {
                        caught.push(Caught { bug: *bug, by });
                        progress.show(caught.len() as u64, 0);
                    }
                }
            });
        }
    });
    progress.clear();
    let mut caught = caught.into_inner().unwrap_or_default();
    caught.sort_by_key(|caught| caught.bug);
    caught
}

fn catch(bug: Bug, seeds: u64, directed: &[Entry]) -> Option<(String, How)> {
    let try_seed = |seed| fails_by(bug, &draw(seed)).map(|promise| (promise, How::Seed(seed)));
    let try_case = |entry: &Entry| {
        fails_by(bug, &entry.case).map(|promise| (promise, How::Directed(entry.name.clone())))
    };
    // Directed cases are quick, so they come before the long search.
    let soon = seeds.min(50);
    (1..=soon)
        .find_map(try_seed)
        .or_else(|| directed.iter().find_map(try_case))
        .or_else(|| (soon + 1..=seeds).find_map(try_seed))
}

/// The promise that a case breaks with the bug, if it breaks none without.
fn fails_by(bug: Bug, case: &Case) -> Option<String> {
    plant(Some(bug));
    let failure = Failure::of(case);
    plant(None);
    failure.filter(|_| Failure::of(case).is_none()).map(|failure| failure.promise)
}

/// The table, as Markdown.
#[must_use]
pub fn table(caught: &[Caught]) -> String {
    let mut text = String::from("| bug | what is wrong | caught by | after |\n| --- | --- | --- | ---: |\n");
    for Caught { bug, by } in caught {
        let (promise, after) = match by {
            Some((promise, How::Seed(seed))) => (promise.as_str(), format!("{seed} seeds")),
            Some((promise, How::Directed(name))) => (promise.as_str(), format!("directed: {name}")),
            None => ("**nothing**", "escaped".to_owned()),
        };
        let _ = writeln!(text, "| {bug:?} | {} | {promise} | {after} |", bug.what());
    }
    text
}
