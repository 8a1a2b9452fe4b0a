//! The table of the states, and whole nodes that lose their ground.

use super::*;
use crate::event::ItemState::{Active, Failing, Standby};
use crate::io::Input;
use crate::node::checked::{Answer, Cluster, ITEM, MS};

const MATURE: Duration = Duration::from_secs(3);

/// A letter for each state: Usable, uNusable, Returning.
fn letter(ground: &Ground) -> char {
    match ground.troubled.get(&ITEM) {
        None => 'u',
        Some(Trouble { returning: false, .. }) => 'n',
        Some(Trouble { returning: true, .. }) => 'r',
    }
}

#[test]
fn every_state_meets_every_word() {
    let t = Time::from_millis;
    const WELL: Option<&str> = None;
    const TROUBLE: Option<&str> = Some("eth0 has no carrier");
    // What was said before and when, what is said at 5000 ms, the state after it, what it turned.
    type Word = Option<&'static str>;
    type Row = (&'static [(u64, Word)], Word, char, Turn);
    let table: [Row; 6] = [
        (&[], WELL, 'u', Turn::None),
        (&[], TROUBLE, 'n', Turn::Lost),
        (&[(0, TROUBLE)], TROUBLE, 'n', Turn::None),
        (&[(0, TROUBLE)], WELL, 'r', Turn::Returning),
        (&[(0, TROUBLE), (4000, WELL)], WELL, 'r', Turn::None),
        (&[(0, TROUBLE), (4000, WELL)], TROUBLE, 'n', Turn::Lost),
    ];
    for (before, word, state, turn) in table {
        let mut ground = Ground::default();
        for (at, word) in before {
            ground.hear(ITEM, word.map(str::to_owned), t(*at));
        }
        assert_eq!(ground.hear(ITEM, word.map(str::to_owned), t(5000)), turn, "{before:?} {word:?}");
        assert_eq!(letter(&ground), state, "{before:?} {word:?}");
    }
}

#[test]
fn it_returns_after_an_uninterrupted_while() {
    let t = Time::from_millis;
    let mut ground = Ground::default();
    let trouble = || Some("eth0 is down".to_owned());
    ground.hear(ITEM, trouble(), t(0));
    assert_eq!((ground.next(MATURE), ground.settle(MATURE, t(99_999))), (None, vec![]), "it is not well");
    ground.hear(ITEM, None, t(1000));
    ground.hear(ITEM, trouble(), t(3900));
    ground.hear(ITEM, None, t(4000));
    // Well once more is no new beginning.
    ground.hear(ITEM, None, t(6000));
    assert_eq!(ground.next(MATURE), Some(t(7000)));
    assert_eq!(ground.settle(MATURE, t(6999)), []);
    assert_eq!(ground.fitness(ITEM), Fitness::Unproven);
    assert_eq!(ground.settle(MATURE, t(7000)), [ITEM]);
    assert_eq!((ground.fitness(ITEM), ground.next(MATURE)), (Fitness::Fit, None));
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::new("abc", |config| {
        config.systems[0].items[0].checks.clear();
        config.timing.mature = MATURE;
    });
    cluster.run(MS(1000));
    assert_eq!(cluster.holders(), [0]);
    cluster
}

fn lose(cluster: &mut Cluster, node: usize) {
    let trouble = Some("eth0 has no carrier".to_owned());
    cluster.feed(node, Input::Usable { item: ITEM, trouble });
}

fn well(cluster: &mut Cluster, node: usize) {
    cluster.feed(node, Input::Usable { item: ITEM, trouble: None });
}

#[test]
fn an_item_without_ground_moves_at_once_and_returns_when_it_has_had_it_for_a_while() {
    let mut cluster = cluster();
    lose(&mut cluster, 0);
    cluster.run(MS(60));
    assert_eq!(cluster.states(), [Failing, Active, Standby], "no probe was awaited");
    let status = cluster.nodes[0].status(cluster.now);
    assert_eq!(status.items[0].unusable.as_ref().expect("it says why").why, "eth0 has no carrier");
    assert_eq!(cluster.nodes[2].status(cluster.now).items[0].unhealthy_on, ["a"], "everybody knows");
    cluster.run(MS(5000));
    well(&mut cluster, 0);
    cluster.run(MATURE - MS(10));
    assert_eq!(cluster.holders(), [1]);
    let returns = cluster.nodes[0].status(cluster.now).items[0].unusable.as_ref().unwrap().returns_in_ms;
    assert_eq!(returns, Some(10));
    cluster.run(MS(200));
    assert_eq!(cluster.states(), [Active, Standby, Standby]);
    assert_eq!(cluster.nodes[0].status(cluster.now).items[0].unusable, None);
}

#[test]
fn a_standby_without_ground_gets_nothing() {
    let mut cluster = cluster();
    lose(&mut cluster, 1);
    cluster.run(MS(60));
    assert_eq!(cluster.states(), [Active, Failing, Standby]);
    assert!(cluster.nodes[0].status(cluster.now).healthy(), "it is held where it belongs");
    lose(&mut cluster, 0);
    cluster.run(MS(60));
    assert_eq!(cluster.holders(), [2]);
}

#[test]
fn where_nobody_has_ground_the_holder_keeps_it_and_who_has_it_first_gets_it() {
    let mut cluster = cluster();
    for node in [1, 2, 0] {
        lose(&mut cluster, node);
    }
    cluster.run(MS(1000));
    assert_eq!(cluster.holders(), [0], "there is none to give it to");
    assert!(!cluster.nodes[1].status(cluster.now).healthy());
    // The holder's own return costs nothing.
    well(&mut cluster, 0);
    cluster.run(MS(100));
    assert_eq!(cluster.holders(), [0]);
    lose(&mut cluster, 0);
    cluster.run(MS(100));
    well(&mut cluster, 2);
    cluster.run(MS(100));
    assert_eq!(cluster.holders(), [2], "though it has not been well for long");
    // And it stays there until a server is there that has proven itself.
    well(&mut cluster, 0);
    cluster.run(MATURE + MS(200));
    assert_eq!(cluster.holders(), [0]);
}

#[test]
fn who_sees_no_quorum_keeps_what_it_has() {
    let mut cluster = cluster();
    cluster.cut = vec![true; 3];
    cluster.run(MS(8000));
    lose(&mut cluster, 0);
    cluster.run(MS(1000));
    assert_eq!(cluster.holders(), [0], "nothing moves without a quorum");
}

#[test]
fn an_exclusive_item_is_let_go_of_at_once() {
    let mut cluster = Cluster::new("abc", |config| {
        config.systems[0].items[0].checks.clear();
        config.systems[0].items[0].isolated = Isolated::Drop;
    });
    cluster.run(MS(15_000));
    assert_eq!(cluster.holders(), [0]);
    for node in [1, 2, 0] {
        lose(&mut cluster, node);
    }
    assert_eq!(cluster.holders(), [] as [usize; 0]);
    well(&mut cluster, 1);
    cluster.run(MS(8000));
    assert_eq!(cluster.holders(), [1]);
}

#[test]
fn ground_and_checks_both_have_to_be_well() {
    let mut cluster = Cluster::new("abc", |_| {});
    cluster.run(MS(3000));
    lose(&mut cluster, 0);
    cluster.run(MS(100));
    assert_eq!(cluster.holders(), [1]);
    cluster.answers[0] = Answer::Sick;
    cluster.run(MS(4000));
    well(&mut cluster, 0);
    cluster.run(MS(20_000));
    assert_eq!(cluster.holders(), [1], "its checks fail");
    cluster.answers[0] = Answer::Well;
    cluster.run(MS(3000));
    assert_eq!(cluster.holders(), [0]);
}

#[test]
fn items_that_are_not_in_the_config_are_no_matter() {
    let mut cluster = cluster();
    let trouble = Some("?".to_owned());
    for item in [ItemRef { system: 0, item: 9 }, ItemRef { system: 9, item: 0 }] {
        cluster.feed(0, Input::Usable { item, trouble: trouble.clone() });
    }
    assert!(cluster.nodes[0].ground.troubled.is_empty());
}
