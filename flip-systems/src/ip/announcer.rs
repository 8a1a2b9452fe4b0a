//! The announcer: what the modules `pace`, `neighbours`, `proof` and `look` decide, done with sockets.
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
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use flip_core::config::Notify;
use flip_core::{Answered, Time};
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify as Bell;
use tokio::task::AbortHandle;

use super::look::{self, Asker, Looks};
use super::neighbours::{self, Told};
use super::pace::{Next, Pacer, What};
use super::proof::{self, Answer, Outcome, Proofs};
use super::{State, World, announce, forwards_ipv6};
use crate::bus::{Bus, Confirmed, topic};
use crate::clock;
use crate::interfaces::{Link, Mac, address_of};
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
    pacer: Pacer<usize>,
    proofs: Proofs<usize>,
    looks: Looks,
    /// What other servers told of their neighbours.
    told: Told,
    settings: Notify,
    /// Addresses that were announced to all, and whose neighbours are still to be found.
    alone: BTreeSet<usize>,
    /// Addresses that another server has confirmed, and which.
    confirmed: BTreeMap<usize, usize>,
    /// The networks of this host's links, each with this host's address there.
    networks: Option<Vec<(u32, IpNet)>>,
    /// This host's neighbours, and when they were read.
    near: Option<(Time, Arc<[neighbours::Neighbour]>)>,
    /// When this server tells the others of its neighbours.
    share: Time,
    members: Vec<usize>,
    /// When the announcer's next turn is.
    planned: Option<Time>,
    /// Whether somebody listens for answers by ARP and by NDP.
    listens: [bool; 2],
}

/// What stays when the state is locked by somebody else.
pub(super) struct Outside {
    /// None where the addresses are no system's: nobody is asked and nobody told.
    pub(super) bus: Option<Arc<Bus>>,
    /// Position of this server in the config.
    pub(super) me: usize,
    /// Rings when the announcer has something to do before the end of its sleep.
    bell: Arc<Bell>,
    task: OnceLock<AbortHandle>,
}

impl Outside {
    pub(super) fn new(bus: Option<Arc<Bus>>, me: usize) -> Self {
        Self { bus, me, bell: Arc::default(), task: OnceLock::new() }
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
    fn wake(&self, state: &mut State, now: Time) {
        state.voice.planned = Some(now);
        self.outside.bell.notify_one();
    }

    /// Sends what is due, and tells when there is more to send. None when there is nothing.
    fn speak(&self, state: &mut State, now: Time) -> Option<Time> {
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
                if !state.voice.proofs.is_asking(part) {
                    state.voice.proofs.start(part, now);
                }
            }
        }
        Some(now)
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

    /// Asks other servers who answers for what is announced here, where that is due.
    fn ask(&self, state: &mut State, bus: &Bus, now: Time) {
        let questions = state.voice.proofs.due(&state.voice.members, self.outside.me + 1, now);
        for ((member, number), parts) in questions {
            let addresses: Vec<_> = parts.iter().map(|part| state.parts[*part].net.addr()).collect();
            for message in proof::question(number, &addresses) {
                bus.say(Some(member), topic::RESOLVE, message);
            }
        }
    }

    fn reply(&self, bus: &Bus, found: Vec<(Asker, IpAddr, Answer)>) {
        let mut answers: BTreeMap<Asker, Vec<(IpAddr, Answer)>> = BTreeMap::new();
        for (asker, ip, answer) in found {
            answers.entry(asker).or_default().push((ip, answer));
        }
        for ((member, number), answers) in answers {
            for message in proof::reply(number, &answers) {
                bus.say(Some(member), topic::RESOLVED, message);
            }
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

    /// Another server wants to know who answers for addresses that it holds.
    fn start_looking(self: &Arc<Self>, state: &mut State, asker: Asker, addresses: &[IpAddr], now: Time) {
        let mut found = Vec::new();
        for &ip in addresses {
            let here = state.parts.iter().find(|part| part.present && part.net.addr() == ip);
            if let Some(mac) = here.and_then(|part| state.link_of(part)?.mac) {
                found.push((asker, ip, Answer::Seen(vec![mac])));
                continue;
            }
            let from = state.reach(ip).filter(|_| self.listen(state, ip.is_ipv6()));
            let Some((index, mac, own)) = from else {
                found.push((asker, ip, Answer::Elsewhere));
                continue;
            };
            // Who asks for too much at once asks somebody else when this one is silent.
            state.voice.looks.start(ip, look::From { index, mac, ip: own }, asker, now);
        }
        if let Some(bus) = &self.outside.bus {
            self.reply(bus, found);
        }
        self.outside.bell.notify_one();
    }

    fn take_answer(
        self: &Arc<Self>,
        state: &mut State,
        from: usize,
        number: u32,
        ip: IpAddr,
        answer: &Answer,
        now: Time,
    ) {
        let announced =
            |part: &usize| state.parts[*part].net.addr() == ip && state.voice.is_announcing(*part);
        let all: Vec<_> = (0..state.parts.len()).filter(announced).collect();
        for part in all {
            let Some(ours) = state.link_of(&state.parts[part]).and_then(|link| link.mac) else { continue };
            let Some(outcome) = state.voice.proofs.answered(part, from, number, answer, ours, now) else {
                continue;
            };
            let item = state.item_of(part);
            let at = state.items[item].at;
            let tell = |answered| {
                if let Some(bus) = &self.outside.bus {
                    bus.confirm(Confirmed { item: at, by: from, answered });
                }
            };
            match outcome {
                Outcome::Confirmed => {
                    state.voice.confirmed.insert(part, from);
                    let mut rest = state.items[item].parts.clone();
                    // Those of links without neighbours are known to this host alone.
                    if rest.all(|part| {
                        !state.voice.is_announcing(part) || state.voice.confirmed.contains_key(&part)
                    }) {
                        tell(Answered::Here);
                    }
                }
                Outcome::Other { mac: Mac(mac), again } => {
                    state.voice.confirmed.remove(&part);
                    tell(Answered::Other(mac));
                    if again {
                        state.voice.pacer.start(part, state.items[item].announce.clone(), now);
                        self.speak(state, now);
                        self.wake(state, now);
                    }
                }
            }
        }
    }

    /// Makes sure that answers are heard. False when the kernel does not let it.
    fn listen(self: &Arc<Self>, state: &mut State, v6: bool) -> bool {
        let listens = &mut state.voice.listens[usize::from(v6)];
        if *listens {
            return true;
        }
        match open_listener(v6) {
            Ok(socket) => {
                tokio::spawn(listen(Arc::downgrade(self), socket, v6));
                *listens = true;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen for answers to ARP and NDP questions");
                false
            }
        }
    }

    /// A frame arrived. False when nobody waits for such frames any more.
    fn saw(&self, frame: &[u8], index: u32) {
        let Some((ip, mac)) = announce::told(frame) else { return };
        let mut state = self.lock();
        state.voice.looks.told(index, ip, mac, clock::now());
        self.outside.bell.notify_one();
    }

    /// Whether answers of this kind are awaited; if not, its listener ends.
    fn goes_on_listening(&self, v6: bool) -> bool {
        let mut state = self.lock();
        let goes_on = state.voice.looks.any(v6);
        state.voice.listens[usize::from(v6)] = goes_on;
        goes_on
    }
}

impl State {
    /// The item that an address is of.
    fn item_of(&self, part: usize) -> usize {
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
    fn networks(&mut self) -> &[(u32, IpNet)] {
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

    /// The interface on whose network an address is, with its hardware address and this host's own address there.
    fn reach(&mut self, ip: IpAddr) -> Option<(u32, Mac, IpAddr)> {
        let mut all: Vec<_> = self.networks().to_vec();
        all.retain(|(_, net)| net.contains(&ip) && !is_link_local(net.addr()));
        all.sort_by_key(|(_, net)| std::cmp::Reverse(net.prefix_len()));
        all.into_iter().find_map(|(index, net)| {
            let link = self.links.get(&index).filter(|link| link.up && link.carrier && link.announces())?;
            Some((index, link.mac?, net.addr()))
        })
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

fn is_link_local(ip: IpAddr) -> bool {
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

/// A socket that gets all ARP packets, or all neighbour advertisements, of this network namespace.
fn open_listener(v6: bool) -> io::Result<UdpSocket> {
    let kind = Type::RAW.nonblocking().cloexec();
    let protocol = if v6 { libc::ETH_P_IPV6 } else { libc::ETH_P_ARP };
    // In network byte order (packet(7)). Nothing is received before there is a filter.
    let protocol = i32::from(u16::try_from(protocol).unwrap_or_default().to_be());
    let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(protocol)))?;
    if v6 {
        SockRef::from(&socket).attach_filter(&advertisements())?;
    }
    // The runtime only waits for it, which is the same for all sockets.
    UdpSocket::from_std(socket.into())
}

/// Passes frames of ICMPv6 neighbour advertisements.
fn advertisements() -> [SockFilter; 6] {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(IF_EQUAL, 0, 3, 58),
        SockFilter::new(LOAD_BYTE, 0, 0, 54),
        SockFilter::new(IF_EQUAL, 0, 1, 136),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// How long a listener waits before it looks whether it is needed.
const LISTEN: Duration = Duration::from_secs(1);

async fn listen(world: Weak<World>, socket: UdpSocket, v6: bool) {
    let mut buffer = [0; 256];
    loop {
        let ready = tokio::time::timeout(LISTEN, socket.readable()).await;
        let Some(world) = world.upgrade() else { return };
        match ready {
            Ok(Ok(())) => {
                for _ in 0..BATCH {
                    let take = || sys::receive_frame(socket.as_fd(), &mut buffer);
                    match socket.try_io(Interest::READABLE, take) {
                        Ok((length, index)) => world.saw(&buffer[..length], index),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        // An interface went down: others may still answer.
                        Err(error) => tracing::debug!(%error, "while listening for answers"),
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot listen for answers"),
            Err(_) => {}
        }
        if !world.goes_on_listening(v6) {
            return;
        }
    }
}
