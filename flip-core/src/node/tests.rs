//! Whole nodes, wired to each other without delay: what no single function can show.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Node, Start};
use crate::event::{CaseCause, Event};
use crate::io::{Input, Output};
use crate::testing;
use crate::time::Time;
use crate::view::Life;
use crate::wire::message::Ballot;

/// Nodes whose datagrams arrive at once. Streams lead nowhere.
struct Net {
    nodes: Vec<Node>,
    /// They neither hear nor wake.
    gone: BTreeSet<usize>,
    now: Time,
    datagrams: usize,
    /// States asked for.
    streams: usize,
    events: Vec<(usize, Event)>,
}

impl Net {
    /// One node for each letter, all started at once.
    fn new(ids: &str) -> Self {
        let now = Time::from_millis(1000);
        let node = |(n, id): (usize, char)| {
            let config = Arc::new(testing::config(ids, &id.to_string()));
            Node::new(
                config,
                Start { generation: 1, seed: [u8::try_from(n).expect("few"); 32], keys: None },
                now,
            )
        };
        let nodes: Vec<_> = ids.chars().enumerate().map(node).collect();
        let mut net =
            Self { nodes, gone: BTreeSet::new(), now, datagrams: 0, streams: 0, events: Vec::new() };
        // Nobody hears of another before it has greeted.
        for node in &mut net.nodes {
            node.handle(Input::Timeout, now);
        }
        net.deliver((0..net.nodes.len()).collect());
        net
    }

    fn feed(&mut self, node: usize, input: Input<'_>) {
        self.nodes[node].handle(input, self.now);
        self.deliver(BTreeSet::from([node]));
    }

    /// Delivers what these nodes have to say, and what comes of it.
    fn deliver(&mut self, mut busy: BTreeSet<usize>) {
        while let Some(from) = busy.pop_first() {
            while let Some(output) = self.nodes[from].poll_output() {
                match output {
                    Output::Datagram { to, data } => {
                        self.datagrams += 1;
                        let addr = self.nodes[from].config.my().addr;
                        let to = usize::from(to.port() - self.nodes[0].config.servers[0].addr.port());
                        if !self.gone.contains(&to) {
                            self.nodes[to].handle(Input::Datagram { from: addr, data: &data }, self.now);
                            busy.insert(to);
                        }
                    }
                    Output::Stream { .. } => self.streams += 1,
                    Output::Event(event) => self.events.push((from, event)),
                    _ => {}
                }
            }
        }
    }

    /// Lets everybody but `but` live for a while.
    fn run(&mut self, span: Duration, but: Option<usize>) {
        let end = self.now + span;
        let awake: Vec<_> =
            (0..self.nodes.len()).filter(|n| !self.gone.contains(n) && Some(*n) != but).collect();
        let next =
            |nodes: &[Node]| awake.iter().filter_map(|n| nodes[*n].poll_timeout().map(|at| (at, *n))).min();
        while let Some((at, node)) = next(&self.nodes)
            && at <= end
        {
            self.now = self.now.max(at);
            self.feed(node, Input::Timeout);
        }
        self.now = end;
    }

    fn stalls_of(&self, node: usize) -> usize {
        self.events.iter().filter(|(n, event)| *n == node && matches!(event, Event::Stalled { .. })).count()
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// 128 nodes once greeted everybody at once: 32,000 packets in one burst, which stalled the hosts that
/// ran several of them.
#[test]
fn a_large_cluster_comes_together_with_few_greetings() {
    let ids: String = ('\u{4e00}'..).take(128).collect();
    let mut net = Net::new(&ids);
    net.run(Duration::from_millis(500), None);
    for node in &net.nodes {
        assert!(node.view.iter().all(|record| record.life == Life::Up));
    }
    // Four for each pair, two of which prove the sessions to each other, and as many again where two
    // greetings cross.
    assert!(net.datagrams < 42_000, "{} datagrams", net.datagrams);
}

/// Cases that outlived a stall could not be closed by the pongs to what was sent before it, so nodes
/// that stalled again and again kept each other busy for ever.
#[test]
fn a_stall_voids_cases_and_the_dead_are_found_all_the_same() {
    let mut net = Net::new("abcde");
    net.run(SECOND, None);
    net.gone.insert(4);
    while net.nodes[0].cases.is_empty() {
        net.run(Duration::from_millis(5), None);
    }
    net.run(Duration::from_millis(250), Some(0));
    net.feed(0, Input::Timeout);
    assert_eq!(net.stalls_of(0), 1);
    assert!(net.nodes[0].cases.get(&4).is_none_or(|case| case.opened() == net.now));
    net.run(SECOND, None);
    assert!(net.nodes[..4].iter().all(|node| node.view.get(4).life == Life::Down));
}

/// A server that was never seen gets its case even when a stall voids the first one.
#[test]
fn a_stall_does_not_forget_who_was_never_seen() {
    let mut net = Net::new("abc");
    net.gone.insert(2);
    while net.nodes[0].cases.is_empty() {
        net.run(Duration::from_millis(5), None);
    }
    net.run(Duration::from_millis(250), Some(0));
    net.feed(0, Input::Timeout);
    assert!(net.nodes[0].cases.is_empty());
    net.run(3 * SECOND, None);
    assert_eq!(net.nodes[0].view.get(2).life, Life::Down);
}

#[test]
fn inputs_that_waited_through_one_stall_are_not_more_stalls() {
    let mut net = Net::new("abc");
    net.run(SECOND, None);
    net.gone.insert(0);
    net.run(SECOND, None);
    net.gone.clear();
    for _ in 0..5 {
        let from = net.nodes[1].config.my().addr;
        net.feed(0, Input::Datagram { from, data: b"noise" });
    }
    net.feed(0, Input::Timeout);
    assert_eq!(net.stalls_of(0), 1);
    net.run(SECOND, None);
    assert!(net.nodes[0].has_quorum(), "it asked, and was answered");
}

/// A machine that was paused may show it on no clock, but a quorum that declared it down knows.
#[test]
fn who_was_declared_down_counts_no_ballot_from_before() {
    let mut net = Net::new("abcde");
    net.run(SECOND, None);
    let now = net.now;
    let node = &mut net.nodes[0];
    for voter in [1, 2] {
        let ballot = Ballot {
            electorate: node.electorate,
            voter_generation: 1,
            about: node.about(4),
            seq: 1,
            down: true,
        };
        node.on_ballot(voter, ballot, now);
    }
    assert_eq!(node.standing(4, now), [(1, 1), (2, 1)]);
    node.rebirth(1, now);
    assert_eq!(node.standing(4, now), []);
    assert!(node.view.is_up(4));
}

/// A suspicion travels on after it was refuted, and each of 31 voters examined the member each time.
#[test]
fn hearsay_opens_no_case_where_it_can_tell_nothing() {
    let mut net = Net::new("abcde");
    net.run(SECOND, None);
    let now = net.now;
    let node = &mut net.nodes[0];
    node.spread.heard(1, now);
    node.on_suspected(1, 1, now);
    assert!(node.cases.is_empty(), "heard a moment ago");
    node.on_suspected(1, 1, now + SECOND);
    assert_eq!(node.cases.get(&1).map(super::cases::Case::cause), Some(CaseCause::Suspicion));
    let mut config = testing::config("abcde", "a");
    config.voters = vec![1, 2, 3];
    config.quorum = 2;
    let mut node = Node::new(Arc::new(config), Start { generation: 1, seed: [1; 32], keys: None }, now);
    node.view.alive(1, 1, now);
    node.on_suspected(1, 1, now + SECOND);
    assert!(node.cases.is_empty(), "it has no vote");
}

/// Where SWIM probes, digests travel with its datagrams, and still tell of a difference.
#[test]
fn digests_go_along() {
    let ids: String = ('a'..='l').collect();
    let mut net = Net::new(&ids);
    net.run(15 * SECOND, None);
    let before = net.datagrams;
    net.run(10 * SECOND, None);
    // A probe and its answer in every interval of 200 ms, and nothing else.
    let each = (net.datagrams - before) / 12;
    assert!((90..=112).contains(&each), "{each} datagrams of each in 10 s");
    let before = net.streams;
    net.nodes[3].view.left(5, 1, net.now);
    net.run(5 * SECOND, None);
    assert!(net.streams > before, "somebody noticed the difference and asked for the state");
}

#[test]
fn a_node_is_ready_when_it_knows_of_everybody_and_holds_what_falls_to_it() {
    let mut config = testing::config("abc", "a");
    config.systems[0].items = testing::items(1);
    let start = |n: u8| Start { generation: 1, seed: [n; 32], keys: None };
    let now = Time::from_millis(1000);
    let mut alone = Node::new(Arc::new(config), start(1), now);
    // Nobody else is there: it says so when it has looked for them, and does not wait for ever.
    let mut ready = now;
    while !alone.seen(ready).ready {
        ready = alone.poll_timeout().expect("it looks for the others");
        alone.handle(Input::Timeout, ready);
        while alone.poll_output().is_some() {}
    }
    let waited = ready.since(now);
    assert!(waited > SECOND && waited < SECOND * 3, "{waited:?}");
    let seen = alone.seen(ready);
    assert!(seen.isolated && seen.up == 1 && seen.servers == 3 && seen.held == 0, "{seen:?}");
    assert!(!seen.leaving && !alone.is_leaving());

    // With the others it waits for none of this.
    let mut net = Net::new("abc");
    net.run(Duration::from_millis(300), None);
    let seen = net.nodes[0].seen(net.now);
    assert!(seen.ready && !seen.isolated && seen.up == 3, "{seen:?}");

    // What falls to it at once must be there, or have been tried for long enough.
    let mut config = testing::config("a", "a");
    config.systems[0].items = testing::items(2);
    let mut node = Node::new(Arc::new(config), start(2), now);
    node.handle(Input::Timeout, now);
    let mut calls = Vec::new();
    while let Some(output) = node.poll_output() {
        if let Output::Hook(call) = output {
            calls.push(call.id);
        }
    }
    assert_eq!(calls.len(), 2);
    assert!(!node.seen(now).ready);
    let later = now + SECOND * 5;
    node.handle(Input::HookDone { hook: calls[0], result: Ok(()) }, later);
    assert!(!node.seen(later).ready && node.seen(later).held == 1);
    assert!(node.seen(now + SECOND * 20).ready, "a hook that does not end keeps nobody waiting for ever");
    node.handle(Input::HookDone { hook: calls[1], result: Ok(()) }, later);
    assert!(node.seen(later).ready && node.seen(later).held == 2);
}
