//! The world: hosts, the network between them, and the queue of what happens next.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::check::Checker;
use super::clients::Clients;
use super::clock::Clock;
use super::fault::Timed;
use super::happening::{Happening, Kind, Mail};
use super::host::Host;
use super::network::Network;
use super::queue::Queue;
use super::trace::Trace;
use super::truth::Truth;
use crate::config::{Config, Isolated, Release, SystemKind};
use crate::id::ItemRef;
use crate::time::Time;

/// One item of the cluster as the world knows it.
#[derive(Clone, Debug)]
pub(super) struct Thing {
    pub(super) id: crate::id::ItemId,
    /// Where it stood at first.
    pub(super) at: ItemRef,
    pub(super) policy: Isolated,
    pub(super) release: Release,
    pub(super) kind: SystemKind,
    /// Who may hold it.
    pub(super) members: Vec<bool>,
}

/// Datagrams of one receiver that an attacker recorded: sender, bytes, and the lives of sender and receiver.
pub(super) type Recorded = std::collections::VecDeque<(usize, Vec<u8>, (u64, u64))>;

/// Everything simulated.
pub struct World {
    pub(super) now: Time,
    pub(super) hosts: Vec<Host>,
    pub(super) things: Vec<Thing>,
    pub(super) network: Network,
    pub(super) clients: Clients,
    pub(super) truth: Truth,
    pub(super) checker: Checker,
    pub(super) queue: Queue<Happening>,
    pub(super) rng: StdRng,
    pub(super) trace: Trace,
    pub(super) faults: Arc<[Timed]>,
    /// When the schedule began.
    pub(super) begun: Time,
    /// What ends the troubles that are on.
    pub(super) undo: BTreeMap<u64, super::trouble::Undo>,
    pub(super) tokens: u64,
    pub(super) by_addr: BTreeMap<SocketAddr, usize>,
    /// Per receiver, what an attacker recorded; empty when there is none.
    pub(super) recorded: Vec<Recorded>,
    /// Requests whose connection waits for a reply: connection to asker and its life.
    pub(super) connection: (u64, Option<(usize, u64)>),
    /// Configs to start with instead of a host's own, after an edit.
    pub(super) edited: Option<Vec<Config>>,
    /// Where hosts have catalogs, what is known of them.
    pub(super) catalogs: Option<Box<super::catalog::Catalogs>>,
    /// What became of configs while daemons ran.
    pub(super) changes: super::adopt::Changes,
    /// Everything that happens, as lines for people, when wanted.
    pub(super) timeline: Option<Vec<String>>,
    pub(super) datagrams: u64,
    /// What was measured while the faults were on.
    pub(super) tallies: Vec<super::truth::Tally>,
    /// Items that an operator saw as unclean: at which host, which, and since when.
    pub(super) unclean: BTreeMap<(usize, usize), Time>,
    /// The item that an edit adds.
    pub(super) extra: Option<crate::config::Item>,
    pub(super) lease: Duration,
    pub(super) rotation: super::rotation::Rotation,
    /// Second daemons under an id, and those that are over. In datagrams they have the numbers after the
    /// last host.
    pub(super) seconds: Vec<super::second::Second>,
    /// What is known of health checks.
    pub(super) book: super::health::Book,
}

/// Where the world's clock starts.
const BEGIN: u64 = 1_000_000;

impl World {
    /// A world whose hosts run these configs; all daemons are down. `universe` has all items that there
    /// ever are.
    #[must_use]
    pub fn new(
        universe: &Config,
        configs: Vec<Config>,
        seed: u64,
        latency: (Duration, Duration),
        ppm: &[i64],
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let things = things(universe);
        let now = Time::from_millis(BEGIN);
        let checker = Checker::new(&configs[0]);
        let network = Network::new(configs.len(), latency, StdRng::from_rng(&mut rng));
        let lease = configs[0].lease;
        let by_addr = configs[0].servers.iter().enumerate().map(|(n, server)| (server.addr, n)).collect();
        let hosts: Vec<_> = configs
            .into_iter()
            .enumerate()
            .map(|(n, config)| {
                let local = Time::from_millis(rng.random_range(1_000..100_000_000));
                let clock = Clock::new(now, local, ppm.get(n).copied().unwrap_or(0));
                Host::new(config, things.len(), clock)
            })
            .collect();
        Self {
            now,
            truth: Truth::new(things.len(), now),
            clients: Clients::new(hosts.len(), things.len()),
            hosts,
            things,
            network,
            checker,
            queue: Queue::default(),
            rng,
            trace: Trace::default(),
            faults: Arc::new([]),
            begun: now,
            undo: BTreeMap::new(),
            tokens: 0,
            by_addr,
            recorded: Vec::new(),
            connection: (0, None),
            edited: None,
            catalogs: None,
            changes: super::adopt::Changes::default(),
            timeline: None,
            datagrams: 0,
            tallies: Vec::new(),
            unclean: BTreeMap::new(),
            extra: universe.systems.first().and_then(|system| system.items.last().cloned()),
            lease,
            rotation: super::rotation::Rotation::default(),
            seconds: Vec::new(),
            book: super::health::Book::default(),
        }
    }

    /// Virtual time.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Runs until `until`.
    pub fn run_until(&mut self, until: Time) {
        while let Some((at, happening)) = self.queue.pop(until) {
            self.now = self.now.max(at);
            self.happen(happening);
        }
        self.now = self.now.max(until);
    }

    /// Runs for `span`.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }

    /// Digest of everything that happened so far.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace.digest()
    }

    pub(super) fn note(&mut self, host: Option<usize>, line: impl FnOnce() -> String) {
        if let Some(timeline) = &mut self.timeline {
            let at = self.now.since(Time::from_millis(BEGIN)).as_secs_f64();
            let who = host.map_or_else(|| "  world".to_owned(), |host| format!("{:>7}", format!("n{host}")));
            timeline.push(format!("{at:>11.6} {who}  {}", line()));
        }
    }

    pub(super) fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { host } => self.wake(host),
            Happening::Mail { host, life, mail } => {
                if life == 0 || self.hosts[host].life == life {
                    self.mail(host, mail);
                }
            }
            Happening::Datagram { from, to, data, kind } => self.arrive(from, to, data, kind),
            Happening::Request { from, from_life, to, data } => {
                self.mail(to, Mail::Request { from, from_life, data });
            }
            Happening::Go { host } => self.pump(host),
            Happening::Thaw { host, token } => self.thaw(host, token),
            Happening::Wakes { host, late_us, dies } => {
                self.machine_wakes(host, Duration::from_micros(late_us), dies);
            }
            Happening::Announce { host, item, burst, n } => self.announce_again(host, item, burst, n),
            Happening::Expire { host, item } => self.expire(host, item),
            Happening::Effect { host, id, item, up } => self.effect(host, id, item, up),
            Happening::Begin(fault) => self.begin_fault(fault),
            Happening::End(token) => self.end_fault(token),
            Happening::Start { host, token } => self.restart(host, token),
            Happening::Stored { host, life, id } => self.stored(host, life, id),
            Happening::Look { item } => self.judge(item),
            Happening::Unhealthy { host, check, since } => self.judge_unhealthy(host, check, since),
            Happening::Missing { item, since } => self.judge_missing(item, since),
            Happening::Told(word) => self.judge_told(&word),
            Happening::WakeSecond(second) => self.wake_second(second),
            Happening::JudgeSecond(second) => self.judge_second(second),
        }
    }

    /// A datagram reaches a host.
    fn arrive(&mut self, from: usize, to: usize, data: Vec<u8>, kind: Kind) {
        if to >= self.hosts.len() {
            self.arrive_at_second(from, to, &data);
            return;
        }
        let host = &self.hosts[to];
        if !host.powered || host.asleep.is_some() {
            return;
        }
        if host.node.is_some() {
            // A socket's buffer holds so many.
            if host.inbox.len() < 512 {
                self.mail(to, Mail::Datagram { from, data, kind });
            }
        } else if kind == Kind::Genuine
            && from < self.hosts.len()
            && !self.network.is_cut(to, from)
            && self.rng.random_bool(0.5)
        {
            // Kernels limit the rate of these, so some never come.
            let addr = self.hosts[to].config.my().addr;
            let at = self.now + self.network.latency();
            let life = self.hosts[from].life;
            let mail = Mail::Unreachable { addr };
            self.queue.push(at, Happening::Mail { host: from, life, mail });
        }
    }

    /// Puts a datagram on the network.
    pub(super) fn transmit(&mut self, from: usize, to: usize, mut data: Vec<u8>) {
        self.datagrams += 1;
        let (here, there) = (self.machine(from), self.machine(to));
        let fate = self.network.send(here, there, data.len(), self.now);
        let Some(after) = fate.after else { return };
        let mut kind = Kind::Genuine;
        if fate.corrupt {
            self.network.damage(&mut data);
            kind = Kind::Damaged;
            super::mark!("world: a datagram was damaged");
        }
        if let Some(again) = fate.again {
            let copy = data.clone();
            self.queue.push(self.now + again, Happening::Datagram { from, to, data: copy, kind });
        }
        self.queue.push(self.now + after, Happening::Datagram { from, to, data, kind });
    }
}

fn things(config: &Config) -> Vec<Thing> {
    let mut things = Vec::new();
    for (system, spec) in config.systems.iter().enumerate() {
        let members: Vec<_> = config.servers.iter().map(|server| server.systems.contains(&system)).collect();
        for (item, entry) in spec.items.iter().enumerate() {
            things.push(Thing {
                id: entry.id,
                at: ItemRef { system, item },
                policy: entry.isolated,
                release: spec.release,
                kind: spec.kind,
                members: members.clone(),
            });
        }
    }
    things
}
