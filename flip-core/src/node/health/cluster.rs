//! Nodes with one checked item, for tests: what they send arrives and what they call ends at once.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::CheckKind;
use crate::io::{Input, Output};
use crate::node::Start;
use crate::testing;

/// How the checks of a node answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Well,
    Sick,
    /// Well, after so many milliseconds.
    Slow(u64),
    Never,
}

/// Nodes with one item, whose datagrams arrive and whose hooks end at once.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) answers: Vec<Answer>,
    /// Cut off from all others.
    pub(crate) cut: Vec<bool>,
    /// Stopped, with what waits in its socket.
    pub(crate) frozen: BTreeMap<usize, Vec<(std::net::SocketAddr, Vec<u8>)>>,
    pub(crate) now: Time,
    pub(crate) late: BTreeMap<(Time, usize), u64>,
    pub(crate) events: Vec<(usize, Event)>,
    pub(crate) ran: Vec<Vec<Time>>,
}

pub(crate) const MS: fn(u64) -> Duration = Duration::from_millis;

impl Cluster {
    pub(crate) fn new(ids: &str, change: impl Fn(&mut Config)) -> Self {
        let now = Time::from_millis(1000);
        let nodes: Vec<_> = ids.chars().map(|id| Self::node(ids, id, 1, now, &change)).collect();
        let count = nodes.len();
        let mut cluster = Self {
            nodes,
            answers: vec![Answer::Well; count],
            cut: vec![false; count],
            frozen: BTreeMap::new(),
            now,
            late: BTreeMap::new(),
            events: Vec::new(),
            ran: vec![Vec::new(); count],
        };
        for node in 0..count {
            cluster.feed(node, Input::Timeout);
        }
        cluster
    }

    pub(crate) fn node(
        ids: &str,
        id: char,
        generation: u64,
        now: Time,
        change: &impl Fn(&mut Config),
    ) -> Node {
        let mut config = testing::config(ids, &id.to_string());
        config.systems[0].items = testing::items(1);
        config.systems[0].items[0].checks = vec![testing::check(CheckKind::Lua { script: "x".into() })];
        change(&mut config);
        let seed = [u8::try_from(config.me).expect("few"); 32];
        Node::new(Arc::new(config), Start { generation, seed, keys: None }, now)
    }

    pub(crate) fn feed(&mut self, node: usize, input: Input<'_>) {
        self.nodes[node].handle(input, self.now);
        let mut busy = VecDeque::from([node]);
        while let Some(from) = busy.pop_front() {
            while let Some(output) = self.nodes[from].poll_output() {
                match output {
                    Output::Datagram { to, data } => {
                        let addr = self.nodes[from].config.my().addr;
                        let to = usize::from(to.port() - self.nodes[0].config.servers[0].addr.port());
                        if let Some(waiting) = self.frozen.get_mut(&to) {
                            waiting.push((addr, data));
                        } else if !self.cut[from] && !self.cut[to] {
                            self.nodes[to].handle(Input::Datagram { from: addr, data: &data }, self.now);
                            busy.push_back(to);
                        }
                    }
                    Output::Hook(call) => {
                        self.nodes[from].handle(Input::HookDone { hook: call.id, result: Ok(()) }, self.now);
                        busy.push_back(from);
                    }
                    Output::Check(call) => {
                        self.ran[from].push(self.now);
                        let result = match self.answers[from] {
                            Answer::Well => Ok(()),
                            Answer::Sick => Err("no answer".to_owned()),
                            Answer::Slow(ms) => {
                                self.late.insert((self.now + MS(ms), from), call.id);
                                continue;
                            }
                            Answer::Never => continue,
                        };
                        self.nodes[from].handle(Input::CheckDone { id: call.id, result }, self.now);
                        busy.push_back(from);
                    }
                    Output::Event(event) => self.events.push((from, event)),
                    _ => {}
                }
            }
        }
    }

    pub(crate) fn freeze(&mut self, node: usize) {
        self.frozen.insert(node, Vec::new());
    }

    /// Goes on as the driver does: first what is due, then what waited.
    pub(crate) fn thaw(&mut self, node: usize) {
        let waiting = self.frozen.remove(&node).unwrap_or_default();
        self.feed(node, Input::Timeout);
        for (from, data) in waiting {
            self.feed(node, Input::Datagram { from, data: &data });
        }
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let next = (0..self.nodes.len())
                .filter(|node| !self.frozen.contains_key(node))
                .filter_map(|node| Some((self.nodes[node].poll_timeout()?, node)))
                .min()
                .filter(|(at, _)| *at <= end);
            let late = self.late.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= end);
            match (next, late) {
                (None, None) => break,
                (Some((at, node)), late) if late.is_none_or(|late| at <= late.0) => {
                    self.now = self.now.max(at);
                    self.feed(node, Input::Timeout);
                }
                (_, Some((at, node))) => {
                    self.now = self.now.max(at);
                    let id = self.late.remove(&(at, node)).expect("it is the first");
                    self.feed(node, Input::CheckDone { id, result: Ok(()) });
                }
                (Some(_), None) => unreachable!("a timer without anything late was taken above"),
            }
        }
        self.now = end;
    }

    pub(crate) fn state(&self, node: usize) -> ItemState {
        self.nodes[node].item_state(ITEM).0
    }

    /// Where a node wants each item of the first system: ids of servers.
    pub(crate) fn placed(&self, node: usize) -> Vec<Vec<String>> {
        let status = self.nodes[node].status(self.now);
        status.items.into_iter().map(|item| item.wanted).collect()
    }

    pub(crate) fn states(&self) -> Vec<ItemState> {
        (0..self.nodes.len()).map(|node| self.state(node)).collect()
    }

    pub(crate) fn holders(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.state(*node) == ItemState::Active).collect()
    }

    pub(crate) fn health_events(&self, node: usize) -> Vec<bool> {
        let events = self.events.iter().filter(|(from, _)| *from == node);
        events
            .filter_map(|(_, event)| match event {
                Event::Health { healthy, .. } => Some(*healthy),
                _ => None,
            })
            .collect()
    }
}

pub(crate) const ITEM: ItemRef = ItemRef { system: 0, item: 0 };
