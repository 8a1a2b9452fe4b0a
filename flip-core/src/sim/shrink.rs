//! From a case that fails to a small one that fails in the same way: delta debugging (Zeller and Hildebrandt
//! 2002, algorithm ddmin) over the schedule, then less of everything else.

use super::fault::Timed;
use super::plan::Case;

type Change = Box<dyn Fn(&mut Case)>;

/// Shrinks a failing case while it fails in the same way, with at most `budget` runs.
#[must_use]
pub fn shrink(case: &Case, mut same: impl FnMut(&Case) -> bool, mut budget: u32) -> Case {
    let mut best = case.clone();
    let mut fails = |candidate: &Case, budget: &mut u32| {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        same(candidate)
    };
    loop {
        let before = best.clone();
        best.faults = ddmin(&best.faults, |faults| {
            fails(&Case { faults: faults.to_vec(), ..best.clone() }, &mut budget)
        });
        let last = best.faults.iter().map(|timed| timed.at_ms + timed.fault.millis()).max().unwrap_or(0);
        let mut changes: Vec<Change> = vec![
            Box::new(|case| case.plan.core.clear()),
            Box::new(|case| case.plan.apart = false),
            Box::new(|case| case.plan.witness = false),
            Box::new(|case| case.plan.checks = None),
            Box::new(|case| case.plan.catalog = None),
            Box::new(|case| case.plan.programs.clear()),
            Box::new(|case| case.plan.replicated = 0),
            Box::new(|case| case.plan.ppm.fill(0)),
            Box::new(move |case| case.plan.length_ms = case.plan.length_ms.min(last + 100)),
            Box::new(earlier),
        ];
        for _ in 1..best.plan.addresses.len() {
            changes.push(Box::new(|case| case.plan.addresses.truncate(case.plan.addresses.len() - 1)));
        }
        for _ in 1..best.plan.servers {
            changes.push(Box::new(fewer_servers));
        }
        for change in changes {
            let mut candidate = best.clone();
            change(&mut candidate);
            if candidate != best && fails(&candidate, &mut budget) {
                best = candidate;
            }
        }
        if best == before || budget == 0 {
            return best;
        }
    }
}

fn fewer_servers(case: &mut Case) {
    let named = case.faults.iter().map(|timed| timed.fault.greatest_host()).max().unwrap_or(0);
    if named + 1 >= case.plan.servers {
        return;
    }
    case.plan.servers -= 1;
    let servers = case.plan.servers;
    case.plan.arbiters = case.plan.arbiters.min(servers.saturating_sub(1));
    case.plan.ppm.truncate(servers);
    case.plan.core.retain(|host| *host < servers);
    if case.plan.core.len() < crate::quorum::majority(servers) {
        case.plan.core.clear();
    }
    for timed in &mut case.faults {
        if let super::fault::Fault::Split { groups, .. } | super::fault::Fault::Bridge { groups, .. } =
            &mut timed.fault
        {
            groups.truncate(servers);
        }
    }
}

/// The schedule begins at once.
fn earlier(case: &mut Case) {
    let first = case.faults.first().map_or(0, |timed| timed.at_ms);
    for timed in &mut case.faults {
        timed.at_ms -= first;
    }
    case.plan.length_ms = case.plan.length_ms.saturating_sub(first).max(1);
}

/// The smallest part of a list that still fails, found by leaving out ever smaller parts.
fn ddmin(faults: &[Timed], mut fails: impl FnMut(&[Timed]) -> bool) -> Vec<Timed> {
    let mut current = faults.to_vec();
    let mut parts = 2;
    while !current.is_empty() {
        let size = current.len().div_ceil(parts);
        let mut smaller = None;
        for begin in (0..current.len()).step_by(size.max(1)) {
            let end = (begin + size).min(current.len());
            let rest: Vec<_> = current[..begin].iter().chain(&current[end..]).cloned().collect();
            if fails(&rest) {
                smaller = Some(rest);
                break;
            }
        }
        match smaller {
            Some(rest) => {
                current = rest;
                parts = (parts - 1).max(2);
            }
            None if size <= 1 => break,
            None => parts = (parts * 2).min(current.len()),
        }
    }
    current
}

#[cfg(test)]
mod tests {
    use super::super::fault::Fault;
    use super::*;

    #[test]
    fn ddmin_finds_the_two_that_matter() {
        let fault = |n| Timed { at_ms: n, fault: Fault::Steal { host: 0 } };
        let all: Vec<_> = (0..40).map(fault).collect();
        let mut runs = 0;
        let found = ddmin(&all, |faults| {
            runs += 1;
            [7, 31].into_iter().all(|n| faults.iter().any(|timed| timed.at_ms == n))
        });
        assert_eq!(found.iter().map(|timed| timed.at_ms).collect::<Vec<_>>(), [7, 31]);
        assert!(runs < 120, "{runs}");
    }
}
