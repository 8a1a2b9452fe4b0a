//! The announcer: what the modules `pace` and `neighbours` decide, done with sockets. What concerns proofs of
//! takeover is in `prover`.
//!
//! ```text
//!  hooks, links, SIGUSR1 ─► start_announcing ─► Pacer ─► frames to all ─► frames to each neighbour
//!                                                            │
//!        this server's neighbours ─► bus ─► the others'      └► Proofs ─► bus ─► another server
//!                                                                                   │ looks
//!                                       event, status ◄─ answer ◄─ bus ◄────────────┘
//! ```
//!
//! One task does all of it, under the lock that hooks hold too: so not even one frame follows a `down`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use flip_core::Time;
use flip_core::config::Notify;
use ipnet::IpNet;
use tokio::sync::Notify as Bell;
use tokio::task::AbortHandle;

use super::look::Looks;
use super::neighbours::{self, Told};
use super::pace::{Next, Pacer, What};
use super::proof::{self, Proofs};
use super::{State, World, announce};
use crate::bus::{Bus, topic};
use crate::clock;
use crate::interfaces::{Link, address_of};
use crate::sys;

/// A turn that comes later than this after its time: this process was stopped, and what became due meanwhile is
/// left out.
const LATE: Duration = Duration::from_millis(500);
/// Announcements of one turn: others of this thread get theirs in between.
const BATCH: usize = 64;
/// What was read of the kernel's caches is not read again for so long, however many addresses move.
const FRESH: Duration = Duration::from_secs(1);
/// The longest sleep of the announcer, so that a new member soon hears of the neighbours.
const NAP: Duration = Duration::from_secs(10);
/// How soon a new member hears of them.
const WELCOME: Duration = Duration::from_secs(2);

/// What the announcer of a daemon knows. Addresses are positions in the list of parts.
pub(super) struct Voice {
    pub(super) pacer: Pacer<usize>,
    pub(super) proofs: Proofs<usize>,
    pub(super) looks: Looks,
    /// What other servers told of their neighbours.
    told: Told,
    settings: Notify,
    /// Addresses that were announced to all, and whose neighbours are still to be found.
    alone: BTreeSet<usize>,
    /// Addresses that another server has confirmed, and which.
    pub(super) confirmed: BTreeMap<usize, usize>,
    /// The networks of this host's links, each with this host's address there.
    networks: Option<Vec<(u32, IpNet)>>,
    /// This host's neighbours, and when they were read.
    near: Option<(Time, Arc<[neighbours::Neighbour]>)>,
    /// When this server tells the others of its neighbours.
    share: Time,
    pub(super) members: Vec<usize>,
    /// When the announcer's next turn is.
    planned: Option<Time>,
    /// Whether somebody listens for answers by ARP and by NDP.
    pub(super) listens: [bool; 2],
}

/// What stays when the state is locked by somebody else.
pub(super) struct Outside {
    /// None where the addresses are no system's: nobody is asked and nobody told.
    pub(super) bus: Option<Arc<Bus>>,
    /// The other servers that may be asked who answers for an address, in this order.
    peers: Mutex<Vec<usize>>,
    /// Rings when the announcer has something to do before the end of its sleep.
    pub(super) bell: Arc<Bell>,
    task: OnceLock<AbortHandle>,
}

impl Outside {
    pub(super) fn new(bus: Option<Arc<Bus>>, peers: Vec<usize>) -> Self {
        Self { bus, peers: Mutex::new(peers), bell: Arc::default(), task: OnceLock::new() }
    }

    pub(super) fn peers(&self) -> Vec<usize> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_peers(&self, peers: Vec<usize>) {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Voice {
    pub(super) fn new(settings: Notify) -> Self {
        Self {
            pacer: Pacer::new(settings.rate),
            proofs: Proofs::default(),
            looks: Looks::new(settings.rate),
            told: Told::default(),
            settings,
            alone: BTreeSet::new(),
            confirmed: BTreeMap::new(),
            networks: None,
            near: None,
            share: clock::now() + WELCOME,
            members: Vec::new(),
            planned: None,
            listens: [false; 2],
        }
    }

    /// An address of this host came or went: with it, perhaps, a network.
    pub(super) fn notice(&mut self, net: Option<IpNet>) {
        if net.is_none_or(|net| net.prefix_len() < net.max_prefix_len()) {
            self.networks = None;
        }
    }

    pub(super) fn is_announcing(&self, part: usize) -> bool {
        self.pacer.is_announcing(part)
    }

    /// Settings of all systems together, which changed.
    pub(super) fn configure(&mut self, settings: Notify) {
        self.pacer.set_rate(settings.rate);
        self.settings = settings;
    }

    /// Nothing of this address is sent any more, and nobody is asked for it.
    pub(super) fn stop(&mut self, part: usize) {
        self.pacer.stop(part);
        self.proofs.stop(part);
        self.alone.remove(&part);
        self.confirmed.remove(&part);
    }
}

impl World {
    /// Starts the task that announces. Within a runtime.
    pub(super) fn start_announcer(self: &Arc<Self>) {
        let start = || tokio::spawn(run(Arc::downgrade(self), Arc::clone(&self.outside.bell))).abort_handle();
        self.outside.task.get_or_init(start);
    }

    /// Announces an item from the first announcement on: at once, as far as the pace of the daemon allows, and
    /// then by its schedule for as long as it is here. Another server is asked to look who answers. Addresses
    /// whose links have no neighbours, or whose time is over, are not announced.
    pub(super) fn start_announcing(self: &Arc<Self>, state: &mut State, item: usize) {
        self.start_announcer();
        state.stop_announcing(item);
        let parts = state.items[item].parts.clone();
        // A process that was stopped learns by this clock first that the time of an address is over.
        if state.parts[parts.clone()].iter().any(super::Part::is_over) {
            return;
        }
        let now = clock::now();
        for part in parts {
            if state.link_of(&state.parts[part]).is_some_and(Link::announces) {
                state.voice.pacer.start(part, state.items[item].announce.clone(), now);
            }
        }
        self.speak(state, now);
        self.wake(state, now);
    }

    /// The announcer sleeps until what it knows of: there is more now.
    pub(super) fn wake(&self, state: &mut State, now: Time) {
        state.voice.planned = Some(now);
        self.outside.bell.notify_one();
    }

    /// Sends what is due, and tells when there is more to send. None when there is nothing.
    pub(super) fn speak(&self, state: &mut State, now: Time) -> Option<Time> {
        if state.voice.planned.is_some_and(|planned| now.since(planned) > LATE) {
            state.voice.pacer.skip(now);
        }
        state.voice.planned = None;
        let mut routers = BTreeMap::new();
        for _ in 0..BATCH {
            let now = clock::now();
            let (part, what) = match state.voice.pacer.next(now) {
                Next::Send(part, what) => (part, what),
                Next::At(at) => return Some(at),
                Next::Never => return None,
            };
            if state.parts[part].is_over() {
                state.voice.stop(part);
                continue;
            }
            let sent = self.send(state, part, what, &mut routers);
            state.voice.pacer.sent(part, what, sent, now);
            if what == What::All(0) && self.outside.bus.is_some() {
                state.voice.alone.insert(part);
                if state.items[state.item_of(part)].proven && !state.voice.proofs.is_asking(part) {
                    state.voice.proofs.start(part, now);
                }
            }
        }
        Some(now)
    }

    /// Announces an address to all once, whatever else is due: somebody else claims it.
    pub(super) fn defend(&self, state: &State, part: usize) {
        self.send(state, part, What::All(0), &mut BTreeMap::new());
    }

    /// Sends the frames of one announcement; tells how many these are.
    fn send(&self, state: &State, part: usize, what: What, routers: &mut BTreeMap<u32, bool>) -> u32 {
        let part = &state.parts[part];
        let Some(link) = state.link_of(part).filter(|link| link.announces()) else { return 0 };
        let Some(mac) = link.mac else { return 0 };
        let address = part.net.addr();
        let router =
            address.is_ipv6() && *routers.entry(link.index).or_insert_with(|| forwards_ipv6(&link.name));
        let frames = match what {
            What::All(_) => announce::frames(address, mac, router),
            What::To(target) => match target.mac {
                Some(at) => announce::directed(address, mac, router, target.ip, at),
                None => announce::question(target.ip, address, mac).into_iter().collect(),
            },
        };
        for frame in &frames {
            if let Err(error) = sys::send_frame(&self.raw, link.index, frame) {
                tracing::warn!(%address, interface = link.name, %error, "announcement not sent");
            }
        }
        u32::try_from(frames.len()).unwrap_or(u32::MAX)
    }

    /// Does all that is due, and tells when there is more.
    fn turn(self: &Arc<Self>) -> Time {
        let mut state = self.lock();
        let state = &mut *state;
        let now = clock::now();
        let mut next = now + NAP;
        let mut more = |at: Option<Time>| next = at.map_or(next, |at| next.min(at));
        more(self.speak(state, now));
        // One of many, so that what is due to all is not kept waiting.
        if let Some(part) = state.voice.alone.pop_first() {
            let targets = state.targets(part, now);
            state.voice.pacer.tell(part, targets);
            more(Some(now));
        }
        if let Some(bus) = &self.outside.bus {
            self.share(state, bus, now);
            self.ask(state, bus, now);
            let work = state.voice.looks.work(now);
            for (index, frame) in work.frames {
                if let Err(error) = sys::send_frame(&self.raw, index, &frame) {
                    tracing::debug!(%error, "cannot ask who has an address");
                }
            }
            self.reply(bus, work.found);
            let share = (!state.voice.settings.arp_cache.is_zero()).then_some(state.voice.share);
            [share, state.voice.proofs.next(), state.voice.looks.next()].into_iter().for_each(more);
        }
        state.voice.planned = Some(next);
        next
    }

    /// Tells the others of this server's neighbours, when it is time.
    fn share(&self, state: &mut State, bus: &Bus, now: Time) {
        let interval = state.voice.settings.arp_cache;
        let members = bus.members();
        if members.iter().any(|member| !state.voice.members.contains(member)) {
            state.voice.share = state.voice.share.min(now + WELCOME);
        }
        state.voice.members = members;
        if interval.is_zero() || now < state.voice.share {
            return;
        }
        state.voice.share = now + interval;
        let links: BTreeSet<u32> =
            state.parts.iter().filter_map(|part| Some(state.link_of(part)?.index)).collect();
        let near = state.near(now);
        let told = near.iter().filter(|one| links.contains(&one.index) && !is_link_local(one.ip));
        for message in neighbours::encode(told.map(|one| (one.ip, one.mac))) {
            bus.say(None, topic::NEIGHBOURS, message);
        }
    }

    /// The announcer of another server speaks.
    pub(super) fn heard(self: &Arc<Self>, from: usize, about: u8, message: &[u8]) {
        let mut state = self.lock();
        let now = clock::now();
        match about {
            topic::NEIGHBOURS => {
                let subnets: Vec<_> = state.networks().iter().map(|(_, net)| net.trunc()).collect();
                let interval = state.voice.settings.arp_cache;
                state.voice.told.take(message, &subnets, interval, now);
            }
            topic::RESOLVE => {
                if let Some((number, addresses)) = proof::read_question(message) {
                    self.start_looking(&mut state, (from, number), &addresses, now);
                }
            }
            topic::RESOLVED => {
                let Some((number, answers)) = proof::read_reply(message) else { return };
                for (ip, answer) in answers {
                    self.take_answer(&mut state, from, number, ip, &answer, now);
                }
                self.outside.bell.notify_one();
            }
            _ => {}
        }
    }
}

impl State {
    /// The item that an address is of.
    pub(super) fn item_of(&self, part: usize) -> usize {
        // Places that are used again keep the ascending order.
        self.items.partition_point(|held| held.parts.end <= part)
    }

    /// Whom an address is announced to each.
    fn targets(&mut self, part: usize, now: Time) -> Vec<super::pace::Target> {
        let address = self.parts[part].net;
        let Some(index) = self.link_of(&self.parts[part]).map(|link| link.index) else { return Vec::new() };
        let notify = Arc::clone(&self.items[self.item_of(part)].notify);
        if !notify.known && notify.nets.is_empty() {
            return Vec::new();
        }
        let host = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let subnet = if host(&address) {
            let all =
                self.networks().iter().filter(|(at, net)| *at == index && net.contains(&address.addr()));
            all.map(|(_, net)| net.trunc()).max_by_key(IpNet::prefix_len)
        } else {
            Some(address.trunc())
        };
        let Some(subnet) = subnet else { return Vec::new() };
        let mut mine: Vec<_> = self.networks().iter().map(|(_, net)| net.addr()).collect();
        mine.extend(self.parts.iter().map(|part| part.net.addr()));
        let near = if notify.known { self.near(now) } else { Arc::default() };
        let none = Told::default();
        let told = if notify.known { &self.voice.told } else { &none };
        let own = near.iter().filter(|one| one.index == index).map(|one| (one.ip, one.mac));
        neighbours::targets(address.addr(), subnet, own, told, &notify.nets, &mine, now)
    }

    /// The networks of this host's links: its own addresses that have one.
    pub(super) fn networks(&mut self) -> &[(u32, IpNet)] {
        if self.voice.networks.is_none() {
            match self.netlink.addresses() {
                Ok(all) => {
                    let nets =
                        all.iter().filter_map(|message| Some((message.header.index, address_of(message)?)));
                    self.voice.networks =
                        Some(nets.filter(|(_, net)| net.prefix_len() < net.max_prefix_len()).collect());
                }
                Err(error) => tracing::warn!(%error, "cannot list the addresses"),
            }
        }
        self.voice.networks.as_deref().unwrap_or_default()
    }

    /// This host's neighbours, read lately.
    fn near(&mut self, now: Time) -> Arc<[neighbours::Neighbour]> {
        if let Some((read, near)) = &self.voice.near
            && now.since(*read) < FRESH
        {
            return Arc::clone(near);
        }
        let near: Arc<[_]> = match self.netlink.neighbours() {
            Ok(all) => all
                .into_iter()
                .filter(|(_, ip, mac)| neighbours::is_host(*ip, *mac))
                .map(|(index, ip, mac)| neighbours::Neighbour { index, ip, mac })
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "cannot read the neighbour cache");
                Arc::default()
            }
        };
        self.voice.near = Some((now, Arc::clone(&near)));
        near
    }
}

pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The announcer, until the world is gone. May be aborted at any time.
async fn run(world: Weak<World>, bell: Arc<Bell>) {
    loop {
        let next = match world.upgrade() {
            Some(world) => world.turn(),
            None => return,
        };
        let pause = next.since(clock::now());
        if pause.is_zero() {
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = bell.notified() => {}
        }
    }
}

/// Whether this host is a router on `interface`, which its advertisements must say.
fn forwards_ipv6(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
