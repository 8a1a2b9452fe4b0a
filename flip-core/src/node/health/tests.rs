//! Whole nodes whose checks answer as a table says: what is held where, and when.

use super::cluster::{Answer, Cluster, ITEM, MS};
use super::*;
use crate::config::CheckKind;
use crate::io::Input;
use crate::status::CheckHealth;
use crate::testing;

fn keep(config: &mut Config) {
    config.systems[0].items[0].when_all_fail = WhenAllFail::Keep;
}

#[test]
fn an_item_goes_where_its_checks_succeed_and_returns_when_they_do_again() {
    let mut cluster = Cluster::new("abc", |_| {});
    cluster.run(MS(3000));
    assert_eq!(cluster.holders(), [0]);
    cluster.answers[0] = Answer::Sick;
    let before = cluster.now;
    cluster.run(MS(1500));
    assert_eq!(cluster.holders(), [0], "two failures are not three");
    cluster.run(MS(2000));
    assert_eq!(cluster.states(), [ItemState::Failing, ItemState::Active, ItemState::Standby]);
    let failing = cluster.events.iter().find_map(|(node, event)| match event {
        Event::Item { to: ItemState::Failing, reason, .. } => Some((*node, *reason)),
        _ => None,
    });
    assert_eq!(failing, Some((0, Reason::HealthCheck)));
    for node in &cluster.nodes {
        let status = node.status(cluster.now);
        assert_eq!(status.items[0].unhealthy_on, ["a"], "everybody knows");
        assert!(status.healthy(), "it is held where it can be: {status:?}");
    }
    let own = &cluster.nodes[0].status(cluster.now).items[0].checks[0];
    assert_eq!((own.health, own.error.as_deref()), (CheckHealth::Unhealthy, Some("no answer")));
    assert!(own.failures >= 3 && before < cluster.now);
    cluster.answers[0] = Answer::Well;
    cluster.run(MS(3000));
    assert_eq!(cluster.states(), [ItemState::Active, ItemState::Standby, ItemState::Standby]);
    assert_eq!(cluster.health_events(0), [true, false, true]);
    assert_eq!(cluster.health_events(1), [true]);
}

#[test]
fn nobody_takes_what_is_not_proven_yet() {
    let mut cluster = Cluster::new("abc", |_| {});
    cluster.answers = vec![Answer::Never, Answer::Sick, Answer::Never];
    cluster.run(MS(1200));
    assert_eq!(cluster.states(), [ItemState::Standby; 3]);
    cluster.answers[2] = Answer::Well;
    cluster.run(MS(3000));
    assert_eq!(cluster.holders(), [2]);
}

#[test]
fn a_check_that_is_too_slow_or_never_ends_fails() {
    for answer in [Answer::Slow(501), Answer::Never] {
        let mut cluster = Cluster::new("abc", |_| {});
        cluster.run(MS(3000));
        cluster.answers[0] = answer;
        cluster.run(MS(4500));
        assert_eq!(cluster.holders(), [1], "{answer:?}");
        let errors = cluster.events.iter().filter_map(|(_, event)| match event {
            Event::CheckFailed { error, .. } => Some(error.as_str()),
            _ => None,
        });
        let expected = match answer {
            Answer::Never => "no result within 500 ms",
            _ => "took 501 ms, expected at most 500",
        };
        assert!(errors.clone().count() >= 3 && errors.clone().all(|error| error == expected));
    }
    let mut cluster = Cluster::new("abc", |_| {});
    cluster.answers[0] = Answer::Slow(499);
    cluster.run(MS(6000));
    assert_eq!(cluster.holders(), [0], "slow, but in time");
}

#[test]
fn hysteresis_counts_results_in_a_row() {
    let mut cluster = Cluster::new("abc", |config| {
        config.systems[0].items[0].checks[0].rise = 2;
    });
    cluster.run(MS(800));
    assert_eq!(cluster.states(), [ItemState::Standby; 3], "one success is not two");
    cluster.run(MS(3000));
    assert_eq!(cluster.holders(), [0]);
    // Two failures, one success, again and again: never three in a row.
    for _ in 0..5 {
        let runs = cluster.ran[0].len();
        for (more, answer) in [(2, Answer::Sick), (3, Answer::Well)] {
            cluster.answers[0] = answer;
            while cluster.ran[0].len() < runs + more {
                cluster.run(MS(10));
            }
        }
    }
    assert_eq!(cluster.health_events(0), [true]);
    assert_eq!(cluster.holders(), [0]);
}

#[test]
fn where_all_fail_nobody_holds_it_unless_the_config_says_keep() {
    for keeps in [false, true] {
        let mut cluster = Cluster::new("abc", |config| {
            if keeps {
                keep(config);
            }
        });
        cluster.run(MS(3000));
        cluster.answers[0] = Answer::Sick;
        cluster.run(MS(4000));
        assert_eq!(cluster.holders(), [1]);
        cluster.answers[2] = Answer::Sick;
        cluster.run(MS(4000));
        cluster.answers[1] = Answer::Sick;
        cluster.run(MS(5000));
        let kept: &[usize] = if keeps { &[1] } else { &[] };
        assert_eq!(cluster.holders(), kept, "the last holder, not the home");
        let status = cluster.nodes[2].status(cluster.now);
        assert_eq!(status.items[0].unhealthy_on, ["a", "b", "c"]);
        assert_eq!(status.healthy(), keeps);
        // Whoever is well first gets it.
        cluster.answers[2] = Answer::Well;
        cluster.run(MS(3000));
        assert_eq!(cluster.holders(), [2]);
        assert_eq!(cluster.state(1), ItemState::Failing);
    }
}

#[test]
fn at_least_one_has_it_when_the_last_holder_dies_too() {
    let mut cluster = Cluster::new("abc", keep);
    cluster.run(MS(3000));
    cluster.answers = vec![Answer::Well, Answer::Sick, Answer::Sick];
    cluster.run(MS(5000));
    cluster.answers[0] = Answer::Sick;
    cluster.run(MS(5000));
    assert_eq!(cluster.holders(), [0]);
    cluster.cut[0] = true;
    cluster.run(MS(10_000));
    assert_eq!(cluster.holders(), [0, 1], "the old one is cut off and keeps it, as without checks");
    cluster.cut[0] = false;
    cluster.run(MS(10_000));
    assert_eq!(cluster.holders().len(), 1, "{:?}", cluster.states());
}

#[test]
fn a_check_of_the_system_is_run_once_for_all_its_items() {
    let mut cluster = Cluster::new("ab", |config| {
        config.systems[0].items = testing::items(4);
        config.systems[0].checks = vec![testing::check(CheckKind::Lua { script: "y".into() })];
        config.systems[0].items[3].checks = vec![testing::check(CheckKind::Lua { script: "z".into() })];
    });
    cluster.run(MS(5500));
    let runs = cluster.ran[0].len();
    assert!((10..=14).contains(&runs), "{runs} runs of two checks in five seconds");
    assert_eq!(cluster.nodes[0].status(cluster.now).items[3].checks.len(), 2);
    assert_eq!(cluster.nodes[0].status(cluster.now).items[0].checks.len(), 1);
    let held = |node: &Node| {
        (0..4)
            .filter(|item| node.item_state(ItemRef { system: 0, item: *item }).0 == ItemState::Active)
            .count()
    };
    assert_eq!(held(&cluster.nodes[0]), 2);
    cluster.answers[0] = Answer::Sick;
    cluster.run(MS(5000));
    assert_eq!((held(&cluster.nodes[0]), held(&cluster.nodes[1])), (0, 4));
}

#[test]
fn what_was_awaited_through_a_stop_of_this_process_counts_for_nothing() {
    let mut cluster = Cluster::new("abc", |config| config.systems[0].items[0].checks[0].fall = 1);
    cluster.run(MS(3000));
    cluster.answers[0] = Answer::Slow(400);
    while !cluster.late.keys().any(|(_, node)| *node == 0) {
        cluster.run(MS(10));
    }
    // Stopped for four seconds: the result that waits in the socket is old, and says nothing.
    let (at, node) = *cluster.late.first_key_value().expect("it runs").0;
    let id = cluster.late.remove(&(at, node)).expect("it is there");
    cluster.cut[0] = true;
    cluster.now += MS(4000);
    cluster.feed(0, Input::CheckDone { id, result: Ok(()) });
    cluster.cut[0] = false;
    assert_eq!(cluster.health_events(0), [true], "it is run again instead");
    cluster.run(MS(2000));
    assert_eq!(cluster.health_events(0), [true]);
}

#[test]
fn so_many_checks_at_once_are_run_a_few_at_a_time() {
    let mut cluster = Cluster::new("a", |config| {
        config.systems[0].items = testing::items(200);
        for item in &mut config.systems[0].items {
            item.checks = vec![testing::check(CheckKind::Lua { script: "x".into() })];
        }
    });
    cluster.answers[0] = Answer::Never;
    cluster.run(MS(1100));
    let most = cluster.nodes[0].health.running.len();
    assert_eq!(most, crate::limits::CHECKS_AT_ONCE);
    cluster.answers[0] = Answer::Well;
    cluster.run(MS(4000));
    assert!(cluster.nodes[0].health.waiting.is_empty());
    assert_eq!(
        cluster.nodes[0].status(cluster.now).items.iter().filter(|item| item.holders.len() == 1).count(),
        200
    );
}

/// LINK dropped its addresses at each restart before it had a state BOOTING (its issue 51).
#[test]
fn a_restart_moves_nothing_that_is_still_there() {
    let mut cluster = Cluster::new("abc", |_| {});
    cluster.run(MS(3000));
    assert_eq!(cluster.holders(), [0]);
    cluster.answers[0] = Answer::Slow(300);
    cluster.events.clear();
    cluster.nodes[0] = Cluster::node("abc", 'a', 2, cluster.now, &|_| {});
    cluster.feed(0, Input::Observed { item: ITEM, present: true });
    cluster.feed(0, Input::Timeout);
    cluster.run(MS(200));
    assert_eq!(cluster.holders(), [0], "though nothing is proven yet");
    cluster.run(MS(5000));
    assert_eq!(cluster.holders(), [0]);
    let moved = |(_, event): &(usize, Event)| matches!(event, Event::Item { to: ItemState::Releasing, .. });
    assert!(!cluster.events.iter().any(moved), "{:?}", cluster.events);
}
