//! The simulator on itself, and directed cases.

use super::*;

fn small(faults: Vec<Timed>) -> Case {
    let plan = Plan::simple(3, "fast", vec![Policy::Keep; 3]);
    Case { about: String::new(), seed: 1, plan, faults }
}

#[test]
fn the_same_case_gives_the_same_run() {
    for seed in 0..5 {
        let case = draw(seed);
        let (a, b) = (run(&case, false), run(&case, true));
        assert_eq!(a.trace, b.trace, "with and without a timeline");
        assert!(!b.timeline.is_empty());
        let other = Case { seed: seed + 1, ..case };
        assert_ne!(a.trace, run(&other, false).trace);
    }
}

#[test]
fn a_dead_host_is_a_verdict_and_a_move() {
    let fault = Fault::PowerOff { host: 0, disk: Disk::Kept, ms: 10_000 };
    let outcome = run(&small(vec![Timed { at_ms: 100, fault }]), true);
    assert!(outcome.violations.is_empty(), "{:?}\n{}", outcome.violations, outcome.timeline.join("\n"));
    assert!(outcome.verdicts >= 2 && outcome.moves >= 5, "{outcome:?}");
    let gap = outcome.tallies[0].longest_none;
    assert!(gap.as_millis() > 100 && gap.as_millis() < 2_000, "{gap:?}");
    assert_eq!(outcome.tallies[1].longest_none.as_millis(), 0, "only the dead host's item moves");
}
