use super::*;
use crate::config::{Config, Isolated, Release};
use crate::io::{Command, Input};
use crate::limits;
use crate::node::checked::{Answer, Cluster, MS};
use crate::testing;
use crate::why::What;

/// Three items without checks.
fn plain(config: &mut Config) {
    config.systems[0].items = testing::items(3);
}

fn why(cluster: &Cluster, node: usize, item: &str) -> Why {
    cluster.nodes[node].explain(item, cluster.now).unwrap()
}

fn against(why: &Why, server: &str) -> Vec<Obstacle> {
    why.servers.iter().find(|one| one.server == server).unwrap().against.clone()
}

fn moves(why: &Why) -> Vec<(String, What, Option<String>)> {
    why.moves.iter().map(|m| (m.server.clone(), m.what, m.trigger.clone())).collect()
}

#[test]
fn at_rest_an_item_is_at_home_and_nothing_is_in_between() {
    let mut cluster = Cluster::new("abc", plain);
    cluster.run(MS(2000));
    for node in 0..3 {
        let why = why(&cluster, node, "1");
        let home = why.home.clone().unwrap();
        assert_eq!((home.server.as_str(), home.place, home.preferred), ("b", 2, false));
        assert_eq!(home.dealt_over, ["a", "b", "c"]);
        assert_eq!((why.because, why.wanted.clone()), (Because::Home, vec!["b".to_owned()]));
        assert!(why.servers.iter().all(|one| one.eligible && one.against.is_empty() && one.items == 1));
        assert_eq!((&why.waits[..], why.lease.clone(), &why.cases[..]), (&[][..], None, &[][..]));
        assert_eq!(why.holders.len(), 1);
        assert_eq!(
            moves(&why).last().map(|(server, what, _)| (server.as_str(), *what)),
            Some(("b", What::Came))
        );
        // It goes over the wire as it is.
        let json = serde_json::to_string(&why).unwrap();
        assert_eq!(serde_json::from_str::<Why>(&json).unwrap(), why);
    }
    let node = &cluster.nodes[0];
    assert!(node.explain("nope", cluster.now).unwrap_err().contains("no item nope"));
    assert!(node.explain("test/1", cluster.now).is_ok());
}

#[test]
fn of_a_death_it_names_the_voters_and_the_move() {
    let mut cluster = Cluster::new("abc", plain);
    cluster.run(MS(2000));
    cluster.freeze(1);
    // Until the window of the case is over, it says who is looked at.
    let mut seen = None;
    for _ in 0..1000 {
        cluster.run(MS(1));
        let why = why(&cluster, 0, "1");
        if let Some(Wait::Case { server, quorum, .. }) = why.waits.first() {
            assert_eq!((server.as_str(), *quorum, why.cases[0].server.as_str()), ("b", 2, "b"));
            seen = Some(why);
            break;
        }
        assert!(against(&why, "b").is_empty(), "nobody has agreed that it is down");
    }
    assert!(seen.is_some(), "there was a case");
    cluster.run(MS(2000));
    let why = why(&cluster, 0, "1");
    let [Obstacle::Down { voters, .. }] = &against(&why, "b")[..] else { panic!("{why:?}") };
    assert_eq!(voters.iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["a", "c"]));
    assert_eq!(why.because, Because::Fewest);
    assert!(why.waits.is_empty(), "{:?}", why.waits);
    let last: Vec<_> = moves(&why).into_iter().rev().take(2).collect();
    let holder = why.wanted[0].clone();
    assert_eq!(last[0], (holder, What::Came, Some("failover".to_owned())));
    assert_eq!((last[1].0.as_str(), last[1].1), ("b", What::Died));
}

#[test]
fn every_reason_against_a_server_is_named() {
    let mut cluster = Cluster::new("abc", |config| {
        plain(config);
        config.systems[0].items[0].checks =
            vec![testing::check(crate::config::CheckKind::Lua { script: "x".into() })];
    });
    cluster.run(MS(2000));
    cluster.feed(0, Input::Command { asker: 1, command: Command::Drain { server: "c".into() } });
    let inactive = Command::SetActive { active: false, reason: "disk".into() };
    cluster.feed(1, Input::Command { asker: 1, command: inactive });
    cluster.answers[0] = Answer::Sick;
    cluster.run(MS(6000));
    let here = why(&cluster, 0, "0");
    assert_eq!(against(&here, "c"), [Obstacle::Drained]);
    assert_eq!(against(&here, "b"), [Obstacle::Inactive { reasons: vec!["disk".into()] }]);
    let [Obstacle::Unhealthy { checks, trouble: None }] = &against(&here, "a")[..] else {
        panic!("{here:?}")
    };
    assert_eq!(checks[0].error.as_deref(), Some("no answer"));
    assert!(here.servers.iter().all(|one| !one.eligible), "{here:?}");
    assert_eq!((here.because, &here.waits[..]), (Because::Nobody, &[Wait::NobodyMay][..]));
    // Elsewhere what its checks said is not known, only that they failed.
    let there = why(&cluster, 1, "0");
    assert_eq!(against(&there, "a"), [Obstacle::Unhealthy { checks: Vec::new(), trouble: None }]);
    // Items without that check go on where they may.
    assert_eq!(why(&cluster, 1, "1").wanted, ["a"]);
    let trouble = Some("eth0 has no carrier".to_owned());
    let item = ItemRef { system: 0, item: 1 };
    cluster.feed(0, Input::Usable { item, trouble: trouble.clone() });
    cluster.run(MS(100));
    let ground = why(&cluster, 0, "1");
    assert_eq!(against(&ground, "a"), [Obstacle::Unhealthy { checks: Vec::new(), trouble }]);
}

#[test]
fn without_a_quorum_it_says_so() {
    let mut cluster = Cluster::new("abc", plain);
    cluster.run(MS(2000));
    cluster.cut = vec![true, true, true];
    cluster.run(MS(3000));
    let lost = why(&cluster, 0, "1");
    assert!(
        lost.waits.iter().any(|wait| matches!(wait, Wait::Case { server, .. } if server == "b")),
        "{lost:?}"
    );
    assert!(lost.cases.iter().all(|case| case.abstains && case.ballots.is_empty()), "{:?}", lost.cases);
    assert!(why(&cluster, 0, "0").waits.is_empty(), "it is here, and stays");
}

#[test]
fn a_lease_that_is_refused_names_who_refuses_and_for_how_long() {
    let mut cluster = Cluster::new("abc", |config| {
        plain(config);
        config.systems[0].release = Release::Hook;
        config.systems[0].items[1].isolated = Isolated::Drop;
    });
    // Voters promise nothing in the first while.
    cluster.run(MS(100));
    let young = why(&cluster, 1, "1").lease.unwrap();
    assert!(young.silent_for_ms.is_some_and(|ms| ms > 1000), "{young:?}");
    cluster.run(MS(15_000));
    let held = why(&cluster, 1, "1").lease.unwrap();
    assert!(held.claimed && held.held_for_ms.is_some() && held.granted.len() >= held.needed, "{held:?}");
    assert_eq!(held.promised_to.as_deref(), Some("b"));
    cluster.freeze(1);
    let mut refused = None;
    for _ in 0..200 {
        cluster.run(MS(10));
        for node in [0, 2] {
            let why = why(&cluster, node, "1");
            let lease = why.lease.clone().unwrap();
            if !lease.refused.is_empty() {
                assert!(why.waits.iter().any(|wait| matches!(wait, Wait::Lease { .. })), "{:?}", why.waits);
                assert!(lease.claimed && lease.held_for_ms.is_none() && lease.refused[0].for_ms > 0);
                refused = Some(lease);
            }
        }
        if refused.is_some() {
            break;
        }
    }
    assert!(refused.is_some(), "voters that have promised it to the dead refuse it");
    cluster.run(MS(6000));
    let taken = why(&cluster, 0, "1");
    assert!(taken.waits.is_empty() && taken.wanted != ["b"], "{taken:?}");
}

#[test]
fn a_hook_that_fails_and_what_runs_are_named() {
    let mut cluster = Cluster::new("abc", plain);
    cluster.run(MS(2000));
    let node = &mut cluster.nodes[0];
    let now = cluster.now;
    // Whatever runs here is not ended by anybody.
    node.handle(Input::Observed { item: ItemRef { system: 0, item: 0 }, present: false }, now);
    let mut hook = None;
    while let Some(output) = node.poll_output() {
        if let crate::io::Output::Hook(call) = output {
            hook = Some(call.id);
        }
    }
    let runs = node.explain("0", now).unwrap();
    assert!(
        matches!(&runs.waits[..], [Wait::HookRuns { action, .. }] if action == "alive"),
        "{:?}",
        runs.waits
    );
    let error = "no such device".to_owned();
    node.handle(Input::HookDone { hook: hook.unwrap(), result: Err(error.clone()) }, now);
    let failed = node.explain("0", now).unwrap();
    assert_eq!(failed.failure.as_ref().map(|failure| failure.error.clone()), Some(error));
    assert!(matches!(&failed.waits[..], [Wait::Retry { in_ms, .. }] if *in_ms > 0), "{:?}", failed.waits);
}

#[test]
fn what_it_remembers_is_bounded() {
    let mut cluster = Cluster::new("ab", |config| {
        plain(config);
        config.quorum = 1;
    });
    cluster.run(MS(2000));
    let drain = |server: &str| Command::Drain { server: server.into() };
    let undrain = |server: &str| Command::Undrain { server: server.into() };
    for _ in 0..20 {
        cluster.feed(0, Input::Command { asker: 1, command: drain("a") });
        cluster.run(MS(500));
        cluster.feed(0, Input::Command { asker: 1, command: undrain("a") });
        cluster.run(MS(500));
    }
    let why = why(&cluster, 0, "0");
    assert_eq!(why.moves.len(), limits::MOVES_SHOWN);
    let causes: BTreeSet<_> = why.moves.iter().filter_map(|m| m.trigger.clone()).collect();
    assert!(causes.contains("drain") && causes.contains("failback"), "{causes:?}");
    assert!(why.moves.is_sorted_by_key(|m| std::cmp::Reverse(m.ago_ms)), "{:?}", why.moves);
    cluster.nodes[0].fill_memory();
    assert_eq!(cluster.nodes[0].memory_len(), (limits::MOVES, limits::REFUSALS_KEPT));
}
