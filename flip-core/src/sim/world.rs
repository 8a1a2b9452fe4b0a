//! The world: hosts, their kernels, the network between them and the queue of what happens next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::check::Checker;
use crate::config::Config;
use crate::id::ItemRef;
use crate::io::{HookAction, Input, Output};
use crate::node::{Node, Start};
use crate::stored::StoredKeys;
use crate::time::Time;

/// One simulated host.
pub struct Host {
    config: Arc<Config>,
    /// The daemon; none while it is down.
    pub node: Option<Node>,
    /// The generation on its disk.
    stored: u64,
    /// The keys on its disk.
    keys: Option<StoredKeys>,
    /// Items bound in its kernel: they outlive the daemon, not the host.
    pub bound: BTreeSet<ItemRef>,
    /// Counts the lives of the daemon, so that late events of an earlier one are dropped.
    life: u64,
    /// While set, the daemon does not run; its events wait.
    frozen_until: Option<Time>,
    /// Running hook per item, to see that they never overlap.
    hooks: BTreeSet<ItemRef>,
    /// True from the wish to leave until the daemon is gone.
    leaving: bool,
    /// True once the daemon said that it has left.
    left: bool,
}

/// How a daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The process dies; the host and its addresses stay.
    Killed,
    /// The host dies.
    HostDead,
}

#[derive(Debug)]
enum Happening {
    Wake { host: usize, life: u64 },
    Datagram { from: usize, to: usize, data: Vec<u8> },
    Unreachable { host: usize, about: usize },
    Hook { host: usize, life: u64, id: u64, item: ItemRef, action: HookAction },
    Request { from: usize, to: usize, data: Vec<u8> },
    Reply { to: usize, data: Vec<u8> },
    Thaw { host: usize },
}

/// Everything simulated.
pub struct World {
    /// Virtual time.
    pub now: Time,
    /// The hosts, in the config's order.
    pub hosts: Vec<Host>,
    /// What is checked after every event.
    pub checker: Checker,
    queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    rng: StdRng,
    /// One-way probability of loss, for all links.
    pub loss: f64,
    /// One-way latency, from and to.
    pub latency: (Duration, Duration),
    /// Links that carry nothing, directed.
    pub blocked: BTreeSet<(usize, usize)>,
    /// Requests whose connection waits for a reply: connection to (asker, host asked).
    connections: BTreeMap<u64, (usize, usize)>,
    next_connection: u64,
    trace: blake3::Hasher,
    /// Print every event as it happens.
    pub verbose: bool,
}

impl World {
    /// A world whose hosts run these configs; all daemons are down.
    #[must_use]
    pub fn new(configs: Vec<Config>, seed: u64) -> Self {
        let checker = Checker::new(&configs);
        let host = |config| Host {
            config: Arc::new(config),
            node: None,
            stored: 0,
            keys: None,
            bound: BTreeSet::new(),
            life: 0,
            frozen_until: None,
            hooks: BTreeSet::new(),
            leaving: false,
            left: false,
        };
        Self {
            now: Time::from_millis(1_000_000),
            hosts: configs.into_iter().map(host).collect(),
            checker,
            queue: BTreeMap::new(),
            sequence: 0,
            rng: StdRng::seed_from_u64(seed),
            loss: 0.0,
            latency: (Duration::from_micros(150), Duration::from_micros(800)),
            blocked: BTreeSet::new(),
            connections: BTreeMap::new(),
            next_connection: 1,
            trace: blake3::Hasher::new(),
            verbose: false,
        }
    }

    /// Starts a daemon that is down. Its kernel's leftovers are observed first, as in production.
    pub fn start(&mut self, index: usize) {
        if self.hosts[index].node.is_some() {
            return;
        }
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        let now = self.now;
        let host = &mut self.hosts[index];
        host.life += 1;
        host.stored += 1;
        host.leaving = false;
        host.left = false;
        host.hooks.clear();
        host.frozen_until = None;
        host.node = Some(Node::new(
            host.config.clone(),
            Start { generation: host.stored, seed, keys: host.keys.clone() },
            now,
        ));
        for item in host.bound.clone() {
            self.feed(index, Input::Observed { item, present: true });
        }
        self.feed(index, Input::Timeout);
    }

    /// Ends a daemon without a word.
    pub fn kill(&mut self, index: usize, fate: Fate) {
        let now = self.now;
        let host = &mut self.hosts[index];
        host.node = None;
        host.life += 1;
        if fate == Fate::HostDead {
            host.bound.clear();
        }
        self.checker.killed(index, now);
    }

    /// Stops a daemon as SIGSTOP does; what arrives meanwhile waits in its socket.
    pub fn freeze(&mut self, index: usize, pause: Duration) {
        let until = self.now + pause;
        self.hosts[index].frozen_until = Some(until);
        self.push(until, Happening::Thaw { host: index });
    }

    /// Asks a daemon to leave.
    pub fn leave(&mut self, index: usize) {
        self.hosts[index].leaving = self.hosts[index].node.is_some();
        self.feed(index, Input::Leave);
    }

    /// True while a daemon is on its way out.
    #[must_use]
    pub fn is_leaving(&self, index: usize) -> bool {
        self.hosts[index].leaving && self.hosts[index].node.is_some()
    }

    /// True when the daemon said goodbye to the end.
    #[must_use]
    pub fn has_left(&self, index: usize) -> bool {
        self.hosts[index].left
    }

    /// Lets the links between different groups carry nothing. A host in no group is in the first.
    pub fn partition(&mut self, groups: &[Vec<usize>]) {
        let group = |host: usize| groups.iter().position(|group| group.contains(&host)).unwrap_or(0);
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                if group(from) != group(to) {
                    self.blocked.insert((from, to));
                }
            }
        }
    }

    /// Mends the network.
    pub fn heal(&mut self) {
        self.blocked.clear();
        self.loss = 0.0;
        self.latency = (Duration::from_micros(150), Duration::from_micros(800));
    }

    /// Runs until `until`.
    pub fn run_until(&mut self, until: Time) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(happening);
        }
        self.now = until;
    }

    /// Runs for `span`.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }

    /// Digest of everything that happened so far.
    #[must_use]
    pub fn trace(&self) -> String {
        self.trace.finalize().to_hex().to_string()
    }

    fn push(&mut self, at: Time, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    fn happen(&mut self, happening: Happening) {
        // A frozen daemon's events wait until it thaws; the kernel goes on.
        let target = match &happening {
            Happening::Wake { host, .. }
            | Happening::Hook { host, .. }
            | Happening::Unreachable { host, .. } => *host,
            Happening::Datagram { to, .. } | Happening::Request { to, .. } | Happening::Reply { to, .. } => {
                *to
            }
            Happening::Thaw { host } => *host,
        };
        if let Some(until) = self.hosts[target].frozen_until
            && !matches!(happening, Happening::Thaw { .. })
        {
            self.push(until, happening);
            return;
        }
        match happening {
            Happening::Wake { host, life } => {
                let due = |node: &Node, now| node.poll_timeout().is_some_and(|at| at <= now);
                if self.hosts[host].life == life
                    && self.hosts[host].node.as_ref().is_some_and(|node| due(node, self.now))
                {
                    self.feed(host, Input::Timeout);
                }
            }
            Happening::Datagram { from, to, data } => {
                if self.hosts[to].node.is_some() {
                    let addr = self.hosts[from].config.my().addr;
                    self.feed(to, Input::Datagram { from: addr, data: &data });
                } else if !self.blocked.contains(&(to, from)) && self.rng.random_bool(0.5) {
                    // Kernels limit the rate of these, so some never come.
                    let at = self.now + self.draw_latency();
                    self.push(at, Happening::Unreachable { host: from, about: to });
                }
            }
            Happening::Unreachable { host, about } => {
                let addr = self.hosts[about].config.my().addr;
                self.feed(host, Input::Unreachable { addr });
            }
            Happening::Hook { host, life, id, item, action } => {
                if self.hosts[host].life == life {
                    self.hosts[host].hooks.remove(&item);
                    match action {
                        HookAction::Alive => {
                            self.hosts[host].bound.insert(item);
                        }
                        HookAction::Down => {
                            self.hosts[host].bound.remove(&item);
                        }
                        HookAction::Announce => {}
                    }
                    self.feed(host, Input::HookDone { hook: id, result: Ok(()) });
                }
            }
            Happening::Request { from, to, data } => {
                let conn = self.next_connection;
                self.next_connection += 1;
                self.connections.insert(conn, (from, to));
                self.feed(to, Input::StreamRequest { conn, data: &data });
                self.connections.remove(&conn);
            }
            Happening::Reply { to, data } => self.feed(to, Input::StreamReply { data: &data }),
            Happening::Thaw { host } => {
                if self.hosts[host].frozen_until.is_some_and(|until| until <= self.now) {
                    self.hosts[host].frozen_until = None;
                    self.feed(host, Input::Timeout);
                }
            }
        }
    }

    fn feed(&mut self, index: usize, input: Input<'_>) {
        let now = self.now;
        let Some(node) = self.hosts[index].node.as_mut() else { return };
        node.handle(input, now);
        let mut outputs = Vec::new();
        while let Some(output) = node.poll_output() {
            outputs.push(output);
        }
        if let Some(at) = node.poll_timeout() {
            let life = self.hosts[index].life;
            self.push(at.max(now), Happening::Wake { host: index, life });
        }
        for output in outputs {
            self.carry_out(index, output);
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        self.trace.update(&self.now.as_nanos().to_be_bytes());
        self.trace.update(&[u8::try_from(index).unwrap_or(u8::MAX)]);
        match output {
            Output::Datagram { to, data } => {
                self.trace.update(&data);
                let Some(to) = self.host_of(to) else { return };
                if !self.blocked.contains(&(index, to)) && !self.rng.random_bool(self.loss) {
                    let at = self.now + self.draw_latency();
                    self.push(at, Happening::Datagram { from: index, to, data });
                }
            }
            Output::Hook(call) => {
                self.trace.update(format!("{call:?}").as_bytes());
                if self.verbose {
                    eprintln!("{} {} {:?} {:?} {:?}", self.now, index, call.action, call.item, call.reason);
                }
                let overlap = !self.hosts[index].hooks.insert(call.item);
                self.checker.hook(index, &call, overlap, self.now);
                let at =
                    self.now + self.rng.random_range(Duration::from_micros(100)..Duration::from_millis(3));
                let life = self.hosts[index].life;
                self.push(
                    at,
                    Happening::Hook { host: index, life, id: call.id, item: call.item, action: call.action },
                );
            }
            Output::Event(event) => {
                self.trace.update(format!("{event:?}").as_bytes());
                if self.verbose {
                    eprintln!("{} {} {event:?}", self.now, index);
                }
                self.checker.event(index, &event, self.now);
            }
            Output::StoreGeneration(generation) => {
                let host = &mut self.hosts[index];
                self.checker.generation(index, host.stored, generation);
                host.stored = generation;
            }
            Output::StoreKeys(keys) => self.hosts[index].keys = Some(keys),
            Output::Stream { to, data } => {
                self.trace.update(&data);
                let Some(to) = self.host_of(to) else { return };
                if self.connected(index, to) {
                    let at = self.now + self.draw_latency() * 2;
                    self.push(at, Happening::Request { from: index, to, data });
                }
            }
            Output::StreamReply { conn, data } => {
                self.trace.update(&data);
                if let Some((asker, host)) = self.connections.get(&conn).copied()
                    && self.connected(host, asker)
                {
                    let at = self.now + self.draw_latency();
                    self.push(at, Happening::Reply { to: asker, data });
                }
            }
            Output::Refresh(call) => self.feed(index, Input::Refreshed { id: call.id, gone: Vec::new() }),
            Output::Cancel { .. }
            | Output::PingWitness { .. }
            | Output::Done { .. }
            | Output::Refused { .. } => {}
            Output::Left => {
                self.hosts[index].left = true;
                self.hosts[index].node = None;
                self.hosts[index].life += 1;
                self.checker.killed(index, self.now);
            }
        }
    }

    /// A stream needs both directions and gives up when much is lost.
    fn connected(&mut self, a: usize, b: usize) -> bool {
        !self.blocked.contains(&(a, b)) && !self.blocked.contains(&(b, a)) && !self.rng.random_bool(self.loss)
    }

    fn host_of(&self, addr: std::net::SocketAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.config.my().addr == addr)
    }

    fn draw_latency(&mut self) -> Duration {
        self.rng.random_range(self.latency.0..=self.latency.1)
    }
}
