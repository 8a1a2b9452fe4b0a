//! The simulator on itself, and directed cases.

use std::time::Duration;

use super::*;
use crate::config::Config;

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

/// Of 200 servers only the voters start: the others are declared down, a few at a time.
#[test]
fn the_missing_of_a_large_cluster_are_looked_for_a_few_at_a_time() {
    let plan = Plan::simple(200, "fast", vec![Policy::Keep]);
    let universe = plan.config(0);
    let configs = (0..200).map(|me| Config { me, ..universe.clone() }).collect();
    let latency = (Duration::from_micros(150), Duration::from_micros(800));
    let mut world = World::new(&universe, configs, 1, latency, &plan.ppm);
    for voter in &universe.voters {
        world.start(*voter);
    }
    let mut most = 0;
    for _ in 0..100 {
        world.run_for(Duration::from_millis(50));
        for voter in &universe.voters {
            let sizes = world.hosts[*voter].node.as_ref().expect("runs").sizes();
            most = most.max(sizes.iter().find(|(name, ..)| *name == "open cases").expect("counted").1);
        }
    }
    // Those whose window is over wait for their verdict while the next ones are looked for.
    assert!((64..=160).contains(&most), "{most} cases at once");
    for voter in &universe.voters {
        let node = world.hosts[*voter].node.as_ref().expect("runs");
        for server in 0..200 {
            assert_eq!(node.view().is_up(server), universe.voters.contains(&server), "n{voter} on n{server}");
            assert!(
                node.view().is_live(server) == universe.voters.contains(&server),
                "n{voter} on n{server}"
            );
        }
    }
}

/// A swarm of clusters with health checks: what fails, hangs and flaps beside all else that goes wrong.
#[test]
fn checks_fail_hang_and_flap() {
    let seeds = std::env::var("FLIP_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(400);
    let cases = (0..seeds).map(draw).filter(|case| case.plan.checks.is_some());
    let mut ran = 0;
    for case in cases {
        let outcome = run(&case, false);
        if !outcome.violations.is_empty() {
            let small = shrink(&case, |case| !run(case, false).violations.is_empty(), 200);
            let text = serde_json::to_string(&small).expect("plain values");
            panic!(
                "seed {}: {:?}\n{text}\n{}",
                case.seed,
                outcome.violations,
                run(&small, true).timeline.join("\n")
            );
        }
        ran += 1;
    }
    assert!(ran >= seeds / 12, "{ran} of {seeds} cases have checks");
}

/// Nobody tells anybody of anybody, and each probes one member a second.
#[test]
fn a_large_cluster_at_rest_stays_at_rest() {
    let run = |seed| {
        let mut cluster = AtRest::new(&Plan::simple(150, "lan", Vec::new()), seed);
        cluster.run_for(Duration::from_secs(10));
        assert_eq!(cluster.wrong(), None);
        (cluster.datagrams(), cluster.trace())
    };
    let (datagrams, trace) = run(1);
    // A probe of somebody new and its answer are four datagrams.
    let each = datagrams / (150 * 9);
    assert!((2..8).contains(&each), "{each} datagrams per probe");
    assert_eq!(trace, run(1).1);
    assert_ne!(trace, run(2).1);
}

fn sick(host: Option<usize>, ms: u64) -> Timed {
    Timed { at_ms: 100, fault: Fault::Checks { host, mode: CheckMode::Fails, p: 1.0, ms } }
}

#[test]
fn what_is_unhealthy_on_one_host_is_moved_and_comes_back() {
    let outcome = run(&small(vec![sick(Some(0), 10_000)]), true);
    assert!(outcome.violations.is_empty(), "{:?}\n{}", outcome.violations, outcome.timeline.join("\n"));
    assert_eq!((outcome.verdicts, outcome.moves), (0, 5), "three at the start, one away and one back");
    assert!(outcome.tallies[0].longest_none.as_millis() < 50, "{:?}", outcome.tallies[0].longest_none);
}

#[test]
fn what_is_unhealthy_everywhere_is_held_by_nobody_or_its_last_holder() {
    for keep in [false, true] {
        let mut case = small(vec![sick(None, 8_000)]);
        case.plan.checks = Some(Checks { interval_ms: 500, timeout_ms: 300, rise: 1, fall: 3, keep });
        let outcome = run(&case, true);
        assert!(outcome.violations.is_empty(), "{:?}\n{}", outcome.violations, outcome.timeline.join("\n"));
        let longest = outcome.tallies.iter().map(|tally| tally.longest_none.as_millis()).max();
        let longest = longest.expect("there are items");
        assert!(if keep { longest < 500 } else { longest > 5_000 }, "{keep}: {longest} ms without a holder");
    }
}

fn adopt(at_ms: u64, change: Change) -> Timed {
    Timed { at_ms, fault: Fault::Adopt { change, ms: 300 } }
}

/// Items come, go and change while daemons run: what is not spoken of is never without its holder, and never has two.
#[test]
fn what_a_change_does_not_speak_of_is_not_touched() {
    let faults = vec![
        adopt(1_000, Change::AddItem),
        adopt(4_000, Change::RedefineItem(1)),
        adopt(8_000, Change::RemoveItem(3)),
    ];
    let outcome = run(&small(faults), true);
    assert!(outcome.violations.is_empty(), "{:?}\n{}", outcome.violations, outcome.timeline.join("\n"));
    for item in [0, 2] {
        let tally = &outcome.tallies[item];
        assert_eq!((tally.arrivals, tally.total_none.as_nanos()), (0, 0), "item {item}: {tally:?}");
        assert_eq!(tally.total_two.as_nanos(), 0);
    }
    let tally = &outcome.tallies[1];
    assert_eq!(tally.arrivals, 1, "it went and came: {tally:?}");
    assert!(tally.longest_none.as_millis() < 100 && tally.total_two.is_zero(), "{tally:?}");
}

/// A server goes with its items, and comes back.
#[test]
fn servers_go_and_come_one_at_a_time() {
    for policy in [Policy::Keep, Policy::Take, Policy::Drop] {
        let plan = Plan { length_ms: 40_000, ..Plan::simple(4, "fast", vec![policy; 5]) };
        let faults = vec![adopt(1_000, Change::RemoveServer), adopt(18_000, Change::AddServer)];
        let case = Case { about: String::new(), seed: 3, plan, faults };
        let outcome = run(&case, true);
        assert!(outcome.violations.is_empty(), "{:?}\n{}", outcome.violations, outcome.timeline.join("\n"));
        // The first three are at home where they were, but for the one that was dealt to the fourth again.
        for item in 0..3 {
            let tally = &outcome.tallies[item];
            assert!(tally.arrivals == 0 && tally.total_none.is_zero(), "{policy:?} {item}: {tally:?}");
        }
        if policy != Policy::Drop {
            assert!(outcome.tallies[3].total_none.is_zero(), "{policy:?}: {:?}", outcome.tallies[3]);
        }
    }
}

/// Drawn cases, of those that change configs. `FLIP_ADOPT_SEEDS` says how many seeds are looked at.
#[test]
fn drawn_changes_keep_all_promises() {
    let seeds = std::env::var("FLIP_ADOPT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let mut ran = 0;
    for seed in 0..seeds {
        let case = draw(seed);
        if case.plan.servers > 9 || !case.faults.iter().any(|timed| timed.fault.kind() == "adopt") {
            continue;
        }
        ran += 1;
        let outcome = run(&case, false);
        assert!(outcome.violations.is_empty(), "seed {seed}: {:?}\n{:?}", outcome.violations, case.faults);
    }
    assert!(ran * 10 >= seeds, "{ran} of {seeds}");
}
