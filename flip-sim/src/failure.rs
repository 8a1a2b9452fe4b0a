//! A failure as people can work on it: the promise, the command that replays it, the few faults that it
//! needs, and what happened.

use std::fmt::Write;

use flip_core::sim::{Case, shrink};

use crate::attempt::attempt;

/// What was broken first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The promise, or "panic".
    pub promise: String,
    /// What was seen.
    pub what: String,
}

impl Failure {
    /// How a case fails; none when it does not.
    #[must_use]
    pub fn of(case: &Case) -> Option<Self> {
        match attempt(case, false) {
            Ok(outcome) => outcome
                .violations
                .first()
                .map(|first| Self { promise: first.promise.into(), what: first.what.clone() }),
            Err(panic) => Some(Self { promise: "panic".into(), what: panic }),
        }
    }
}

/// Runs for shrinking one case at most.
const BUDGET: u32 = 400;
/// Lines of a timeline that are shown at most, from its end.
const LINES: usize = 120;

/// Everything that is to be said of a failing case. `replay` is the command that replays it.
#[must_use]
pub fn explain(case: &Case, failure: &Failure, replay: &str) -> String {
    let same = |candidate: &Case| Failure::of(candidate).is_some_and(|now| now.promise == failure.promise);
    let small = shrink(case, same, BUDGET);
    let mut text = format!("FAILED {}: {}\n  replay: {replay}\n", failure.promise, failure.what);
    let _ = writeln!(
        text,
        "  shrunk from {} faults to {}: {} servers, {} items, {} s",
        case.faults.len(),
        small.faults.len(),
        small.plan.servers,
        small.plan.addresses.len() + small.plan.programs.len() + small.plan.replicated,
        small.plan.length_ms / 1000,
    );
    for timed in &small.faults {
        let _ = writeln!(text, "    {:>9.3} s  {:?}", timed.at_ms as f64 / 1000.0, timed.fault);
    }
    if let Ok(json) = serde_json::to_string(&small) {
        let _ = writeln!(text, "  for the corpus (flip-sim --case FILE replays it):\n    {json}");
    }
    if let Ok(outcome) = attempt(&small, true) {
        let skipped = outcome.timeline.len().saturating_sub(LINES);
        if skipped > 0 {
            let _ = writeln!(text, "  … {skipped} lines before …");
        }
        for line in &outcome.timeline[skipped..] {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}
