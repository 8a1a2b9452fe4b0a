//! The ip system: addresses on interfaces, announced to the neighbours.
//!
//! An item is a group of addresses (`IpItem`), often of one. They come and go as one: it is here when all
//! of them are, what is half up is taken down again, and one that is lost takes the others along until all
//! are back.
//!
//! **Plan.** What to do is decided by the module `plan`, a pure function of what is wanted and what is there;
//! `World` reads the kernel and carries the steps out.
//!
//! **Marks.** Every address that flip adds carries IFA_PROTO [`PROTOCOL`] and, for IPv4, the label
//! `<interface>:flip` where that fits, so that the next life of the daemon knows what it left
//! behind. Servers of one config that share an IP address are taken to share a host, as in a trial on
//! one machine, and count their marks up from there: an address of a sibling is not seen as present,
//! is no leftover and is not taken down, and bringing it up makes it one's own.
//!
//! **Takeover** is one exchange with the kernel and one or two frames, on sockets that are open and
//! with a link table that notices keep up to date: some tens of microseconds. All of it is
//! synchronous, because the kernel answers within the system call.
//!
//! **Lifetimes.** The kernel itself takes an address away whose lifetime ends, whether this process
//! lives or not; see the module `lifetime`.
//!
//! **Connections** to an address that comes or goes are dealt with beside, where the config wants it; see the
//! module `connections`.
//!
//! **Announcing** goes on for as long as an item is here, at a pace that the whole daemon keeps; neighbours that
//! are known are told each, and another server is asked to look who answers: see the modules `announcer` and `prover`.
//!
//! **Drift.** Notices only say that something may have changed; what is reported comes from the
//! kernel's list, read under the lock that hooks hold too. So own changes are never reported, in
//! whatever order notices arrive.

pub mod announce;

mod address;
mod adopt;
mod announcer;
mod conflict;
mod connections;
mod ground;
mod lifetime;
mod listen;
mod look;
mod loose;
mod monitor;
mod neighbour;
mod neighbours;
mod others;
mod own;
mod pace;
mod plan;
mod proof;
mod prover;
mod release;
mod routes;
mod stand;

use std::collections::BTreeMap;
use std::fs;
use std::future::ready;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use flip_core::config::{
    Announce, Config, HANDLERS, Interface, IpPart, IpRoute, IpRule, Isolated, Item, Notify, SystemKind,
};
use flip_core::event::Reason;
use flip_core::id::ItemRef;
use flip_core::{Lifetime, Time};
use ipnet::IpNet;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rustix::thread::CapabilitySet;
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use self::address::PROTOCOL;
use self::address::{Bound, Maker, Manner};
use self::adopt::Users;
use self::announcer::{Outside, Voice};
use self::conflict::Members;
use self::connections::Connections;
use self::ground::Ground;
use self::lifetime::Installed;
use self::listen::Ear;
pub(crate) use self::loose::Loose;
use self::monitor::Monitor;
use self::others::{Others, Rules};
use self::own::OwnLink;
use self::plan::{Links, Wanted};
pub use self::release::{Removed, release};
use crate::bus::topic;
use crate::clock;
use crate::interfaces::{Link, address_of};
use crate::netlink::{Netlink, messages};
use crate::system::{
    Assigned, Bus, Context, Drift, Handler, HookFuture, Leftover, ObserveFuture, OpenError, Opened, System,
};

/// The handler of `ip_up` and `ip_down`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ip;

impl Handler for Ip {
    fn alive(&self) -> &str {
        "ip_up"
    }

    fn down(&self) -> &str {
        "ip_down"
    }

    fn open(
        &self,
        systems: &[Assigned<'_>],
        drift: &Arc<Drift>,
        bus: &Arc<Bus>,
    ) -> Result<Opened, OpenError> {
        let mut holdings = Holdings::default();
        let mut settings = None;
        let mark = address::mark(systems.first().map_or(0, |assigned| assigned.siblings));
        for assigned in systems {
            holdings.push_system(assigned, mark)?;
            let notify = Notify::read(&assigned.system.config);
            settings = Some(settings.map_or(notify.clone(), |all: Notify| all.together(&notify)));
        }
        let present = bus.world.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let (world, leftovers, places) = match present {
            // The node is at work, and these have come into its config.
            Some(world) => {
                let places = world.extend(holdings)?;
                (world, Vec::new(), places)
            }
            None => {
                // What no config knows belongs to no system: one that wants order here is enough.
                let remove = systems.iter().any(|assigned| assigned.system.hooks.remove_on_start);
                let peers = systems.first().map_or_else(Vec::new, |one| peers(one.config, bus));
                let outside = Outside::new(Some(Arc::clone(bus)), peers);
                let voice = Voice::new(settings.unwrap_or_default());
                let places = 0..holdings.items.len();
                let (world, leftovers) =
                    World::open((holdings, mark, voice), remove, Arc::clone(drift), outside)?;
                *bus.world.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&world);
                (world, leftovers, places.collect())
            }
        };
        let mut places = places.into_iter();
        let make = |assigned: &Assigned<'_>| {
            let items = places.by_ref().take(assigned.system.items.len()).collect();
            Arc::new(IpSystem::new(Arc::clone(&world), items, assigned)) as Arc<dyn System>
        };
        Ok(Opened { systems: systems.iter().map(make).collect(), leftovers })
    }
}

/// The numbers of the other servers that have ip systems with this one, beginning with the one after this one in the
/// list: so servers do not all ask the same.
fn peers(config: &Config, bus: &Bus) -> Vec<usize> {
    let shared = |system: &usize| {
        let is_ip = config.systems.get(*system).is_some_and(|spec| spec.alive == HANDLERS[0].0);
        is_ip && config.my().systems.contains(system)
    };
    let others = (config.me + 1..config.servers.len()).chain(0..config.me.min(config.servers.len()));
    let own = |server: &usize| config.servers[*server].systems.iter().any(shared);
    others.filter(own).map(|server| bus.number(server)).collect()
}

struct IpSystem {
    world: Arc<World>,
    /// Where its items are in the world's list.
    items: Vec<usize>,
    /// Its number among all that this world ever had.
    id: u64,
}

impl IpSystem {
    fn new(world: Arc<World>, items: Vec<usize>, assigned: &Assigned<'_>) -> Self {
        let id = world.join();
        let all: Vec<_> = assigned.system.items.iter().collect();
        world.want(id, connections::wanted(assigned.system, &all));
        world.tune(id, Notify::read(&assigned.system.config));
        Self { world, items, id }
    }

    /// An item in the world's list.
    fn find(&self, item: usize) -> Option<(Arc<World>, usize)> {
        Some((Arc::clone(&self.world), *self.items.get(item)?))
    }
}

impl Drop for IpSystem {
    fn drop(&mut self) {
        self.world.leave(self.id);
    }
}

fn no_item(item: usize) -> HookFuture {
    Box::pin(ready(Err(format!("no item {item}"))))
}

impl System for IpSystem {
    fn alive(&self, item: usize, context: &Context) -> HookFuture {
        let (lifetime, reason) = (context.lifetime, context.reason);
        let Some((world, item)) = self.find(item) else { return no_item(item) };
        Box::pin(async move {
            // It may be coming back while its link is still going.
            world.unlinked(item).await;
            world.ask_first(item, reason).await?;
            let result = world.alive(item, lifetime);
            if result.is_err() {
                world.unlinked(item).await;
            } else {
                world.ask_beside(item, reason);
            }
            result
        })
    }

    fn refresh(&self, items: &[usize], lifetime: Lifetime) -> Vec<usize> {
        let places: Vec<_> = items.iter().filter_map(|item| self.items.get(*item).copied()).collect();
        let gone = self.world.refresh(&places, lifetime);
        items
            .iter()
            .copied()
            .filter(|item| self.items.get(*item).is_none_or(|at| gone.contains(at)))
            .collect()
    }

    fn down(&self, item: usize, context: &Context) -> HookFuture {
        let Some((world, item)) = self.find(item) else { return no_item(item) };
        let kill = world.connections.get().cloned().map(|connections| {
            let addresses = connections.to_kill(world.lock().addresses_of(item));
            (connections, addresses)
        });
        // A lease ends when it ends: nothing comes before.
        let before = (context.reason != Reason::LeaseLost).then(|| KILL.min(context.timeout / 2));
        Box::pin(async move {
            if let (Some((connections, addresses)), Some(limit)) = (&kill, before) {
                connections.kill(addresses.clone(), limit).await;
            }
            let result = world.down(item);
            world.unlinked(item).await;
            if let Some((connections, addresses)) = kill {
                // What came meanwhile. The address is gone, and nobody waits for this.
                tokio::spawn(async move { connections.kill(addresses, KILL).await });
            }
            result
        })
    }

    fn announce(&self, item: usize, _: &Context) -> HookFuture {
        let Some((world, item)) = self.find(item) else { return no_item(item) };
        Box::pin(async move { world.announce(item) })
    }

    fn hush(&self, item: usize) {
        if let Some((world, item)) = self.find(item) {
            let mut state = world.lock();
            state.stop_announcing(item);
            world.leaves(&state, item);
        }
    }

    fn forget(&self, item: usize) {
        if let Some((world, item)) = self.find(item) {
            world.vacate(item);
        }
    }

    fn configure(&self, assigned: &Assigned<'_>, items: &[(usize, &Item)]) {
        let configured: Vec<_> = items.iter().map(|(_, item)| *item).collect();
        self.world.want(self.id, connections::wanted(assigned.system, &configured));
        self.world.tune(self.id, Notify::read(&assigned.system.config));
        let places = items.iter().filter_map(|(at, item)| Some((*self.items.get(*at)?, *item)));
        self.world.configure(assigned, places);
    }

    fn heard(&self, from: usize, topic: u8, data: &[u8]) {
        // All systems hear it, and share what they know: the first hears for all.
        if !self.world.is_first(self.id) {
            return;
        }
        match topic {
            topic::MACS => self.world.member_says(from, data),
            topic::CONNECTIONS => {
                if let Some(connections) = self.world.connections.get() {
                    connections.heard(from, data);
                }
            }
            _ => self.world.heard(from, topic, data),
        }
    }

    fn observe(&self) -> ObserveFuture {
        let (world, items) = (Arc::clone(&self.world), self.items.clone());
        Box::pin(async move {
            let present = world.observe(&items)?;
            Ok((0..items.len()).filter(|item| present[*item]).collect())
        })
    }
}

/// Everything that the ip systems of this server share.
pub(crate) struct World {
    state: Mutex<State>,
    drift: Arc<Drift>,
    /// Sends frames; receives nothing, because its protocol is 0 (packet(7)).
    raw: Socket,
    /// None where nobody wants anything done with them.
    connections: OnceLock<Connections>,
    /// What reads notices and frames, and tells members what they need to know.
    tasks: Mutex<Tasks>,
    outside: Outside,
    /// Those that use this world.
    users: Mutex<Users>,
}

/// What runs beside, to be ended with the world.
#[derive(Default)]
struct Tasks {
    all: Vec<AbortHandle>,
    /// Those of them that listen for conflicts about the addresses that there are.
    ears: Vec<AbortHandle>,
    /// Whether others are told of connections.
    shares: bool,
}

struct State {
    netlink: Netlink,
    /// IFA_PROTO of what this daemon adds.
    mark: u8,
    links: Links,
    ground: Ground,
    others: Others,
    items: Vec<Held>,
    /// The addresses of all items, each item's together.
    parts: Vec<Part>,
    /// What had failed the kernel's detection of duplicates when the addresses were read last.
    failed: Vec<Bound>,
    voice: Voice,
    /// When a failing refresh was last told of.
    warned: Option<Time>,
    /// Items whose links are being deleted; true when they are gone.
    unlinking: BTreeMap<usize, watch::Receiver<bool>>,
}

/// What the config gives to this server.
#[derive(Default)]
struct Holdings {
    items: Vec<Held>,
    parts: Vec<Part>,
    /// By item.
    rules: Vec<Rules>,
}

impl Holdings {
    /// False for an item without addresses.
    fn push(&mut self, at: ItemRef, item: &Item, mark: u8, voice: (Announce, Arc<Notify>, bool)) -> bool {
        let Some(ip) = &item.ip else { return false };
        let first = self.parts.len();
        for part in &ip.parts {
            // One link for all addresses of the item on one interface.
            let nth = ip.parts.iter().position(|other| other.interface == part.interface).unwrap_or(0);
            let own = part.mac.map(|mac| OwnLink::new(item.id, nth, mark, mac));
            self.parts.push(Part { own, ..Part::new(part) });
        }
        self.items.push(Held::new(at, &item.name, first..self.parts.len(), voice));
        true
    }

    /// All items of a system.
    fn push_system(&mut self, assigned: &Assigned<'_>, mark: u8) -> Result<(), OpenError> {
        let manner = Voices::read(assigned.system);
        for (item, configured) in assigned.system.items.iter().enumerate() {
            self.rules.push(Rules::read(assigned.system, configured.isolated == Isolated::Drop)?);
            let at = ItemRef { system: assigned.position, item };
            if !self.push(at, configured, mark, manner.of(configured)) {
                return Err(OpenError::Item {
                    system: assigned.system.name.clone(),
                    item: configured.name.clone(),
                    what: "addresses (`Item::ip`)",
                });
            }
        }
        Ok(())
    }
}

/// How the items of a system are announced.
struct Voices {
    schedule: Announce,
    notify: Arc<Notify>,
    proven: bool,
}

impl Voices {
    fn read(system: &flip_core::config::System) -> Self {
        Self {
            schedule: Announce::read(&system.config, &Announce::default()),
            notify: Arc::new(Notify::read(&system.config)),
            proven: system.kind == SystemKind::Shard,
        }
    }

    fn of(&self, item: &Item) -> (Announce, Arc<Notify>, bool) {
        let schedule = match &item.own {
            Some(own) => Announce::read(own, &self.schedule),
            None => self.schedule.clone(),
        };
        (schedule, Arc::clone(&self.notify), self.proven)
    }
}

/// An item.
struct Held {
    at: ItemRef,
    name: String,
    /// Where its addresses are in the list of parts.
    parts: Range<usize>,
    /// Whether the kernel has all of it, as far as is known.
    present: bool,
    /// Why it cannot be reached here, as was told last.
    trouble: Option<String>,
    /// When it is announced.
    announce: Announce,
    /// To whom each.
    notify: Arc<Notify>,
    /// Whether this server alone has it, so that another can prove it.
    proven: bool,
    /// It is served no more: its place is free.
    vacant: bool,
}

/// One address of an item.
struct Part {
    net: IpNet,
    interface: Interface,
    manner: Manner,
    /// The link that is made for it.
    own: Option<OwnLink>,
    routes: Vec<IpRoute>,
    rules: Vec<IpRule>,
    /// Whether the kernel has it, as far as is known.
    present: bool,
    /// What `alive` put there or `observe` found: what a refresh may go on with.
    installed: Option<Installed>,
}

impl Drop for World {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.all.iter().chain(&tasks.ears).for_each(AbortHandle::abort);
    }
}

impl World {
    fn open(
        (holdings, mark, voice): (Holdings, u8, Voice),
        remove: bool,
        drift: Arc<Drift>,
        outside: Outside,
    ) -> Result<(Arc<Self>, Vec<Leftover>), OpenError> {
        let kernel = |doing| move |source| OpenError::Kernel { doing, source };
        let raw = raw_socket()?;
        // Before the first list is read, so that nothing happens unseen in between.
        let monitor = Monitor::open(mark).map_err(kernel("subscribe to address changes"))?;
        let netlink = Netlink::open().map_err(kernel("open a netlink socket"))?;
        let mut state = State::new(netlink, mark, holdings, voice, &outside.peers());
        state.load_links().map_err(kernel("list the interfaces"))?;
        let leftovers = state.sort_leftovers(remove).map_err(kernel("list the addresses"))?;
        let ears = Ear::open(state.others.addresses()).map_err(kernel("listen for conflicts"))?;
        let world = Arc::new(Self::of(state, drift, raw, outside));
        world.look_at_ground(&mut world.lock());
        let weak = || Arc::downgrade(&world);
        let mut tasks = Tasks::default();
        tasks.all.push(tokio::spawn(monitor.run(weak())).abort_handle());
        tasks.all.push(tokio::spawn(others::go_on_telling(weak())).abort_handle());
        tasks.ears = ears.into_iter().map(|ear| tokio::spawn(ear.run(weak())).abort_handle()).collect();
        *world.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        world.start_announcer();
        Ok((world, leftovers))
    }

    fn of(state: State, drift: Arc<Drift>, raw: Socket, outside: Outside) -> Self {
        Self {
            state: Mutex::new(state),
            drift,
            raw,
            connections: OnceLock::new(),
            tasks: Mutex::default(),
            outside,
            users: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics stands between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(self: &Arc<Self>, item: usize, lifetime: Lifetime) -> Result<(), String> {
        let mut state = self.lock();
        self.drift.forget(state.items[item].at);
        state.clear_failed(item)?;
        state.install(item, lifetime)?;
        self.start_announcing(&mut state, item);
        if let Some(connections) = self.connections.get() {
            // After the announcement, so that answers come here.
            for part in &state.parts[state.items[item].parts.clone()] {
                connections.took(part.net.addr(), state.link_of(part).map_or(0, |link| link.index));
            }
        }
        Ok(())
    }

    /// The item is about to go: nobody is told any more that it came.
    fn leaves(&self, state: &State, item: usize) {
        if let Some(connections) = self.connections.get() {
            state.addresses_of(item).for_each(|address| connections.leaves(address));
        }
    }

    /// The addresses that are here and whose connections others are told of.
    fn shared(&self) -> Vec<IpAddr> {
        let Some(connections) = self.connections.get() else { return Vec::new() };
        let state = self.lock();
        let here = state.parts.iter().filter(|part| part.present).map(|part| part.net.addr());
        here.filter(|address| connections.is_shared(*address)).collect()
    }

    fn down(self: &Arc<Self>, item: usize) -> Result<(), String> {
        let mut state = self.lock();
        self.drift.forget(state.items[item].at);
        self.leaves(&state, item);
        state.remove(item)
    }

    /// Waits until links that an item had are gone, which takes a moment longer than its addresses.
    async fn unlinked(&self, item: usize) {
        let gone = self.lock().unlinking.remove(&item);
        if let Some(mut gone) = gone {
            // An error says that nobody works on it any more.
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }

    fn refresh(self: &Arc<Self>, items: &[usize], lifetime: Lifetime) -> Vec<usize> {
        let mut state = self.lock();
        let gone = state.refresh(items, lifetime);
        gone.iter().for_each(|item| self.drift.forget(state.items[*item].at));
        gone
    }

    fn announce(self: &Arc<Self>, item: usize) -> Result<(), String> {
        let mut state = self.lock();
        let here = |part: &Part| part.present && !part.is_over();
        if let Some(part) = state.items[item].parts.clone().find(|part| !here(&state.parts[*part])) {
            return Err(format!("{} is not on {}", state.parts[part].net, state.interface_of(part)));
        }
        self.start_announcing(&mut state, item);
        Ok(())
    }

    /// Which of these items are here.
    fn observe(&self, items: &[usize]) -> Result<Vec<bool>, String> {
        let mut state = self.lock();
        let bound = state.bound().map_err(|error| format!("cannot list the addresses: {error}"))?;
        let found = state.found(&bound);
        for item in items.iter().copied() {
            for part in state.items[item].parts.clone() {
                // Whoever asked knows of this one.
                let installed = found[part].as_ref().map(Installed::from);
                let known = state.parts[part].installed.filter(|i| found[part].is_some_and(|b| i.is(&b)));
                state.parts[part].present = installed.is_some();
                state.parts[part].installed = known.or(installed);
            }
            let present = state.is_whole(item);
            state.set_present(item, present);
        }
        Ok(items.iter().map(|item| state.items[*item].present).collect())
    }

    /// Handles a datagram of notices.
    fn kernel_says(self: &Arc<Self>, datagram: &[u8]) {
        let mut state = self.lock();
        let (mut look, mut ground) = (false, false);
        let mut fresh = Vec::new();
        for message in messages(datagram) {
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            match message {
                RouteNetlinkMessage::NewLink(message) => {
                    let Some(link) = Link::from_message(&message) else { continue };
                    let old = state.links.insert(link.index, link.clone());
                    look |= old.as_ref().is_none_or(|old| old.name != link.name);
                    ground = true;
                    if let Some(old) = old.as_ref().filter(|old| old.name != link.name) {
                        state.leave_renamed(link.index, &old.name);
                    }
                    // The neighbours, or the switch between, know nothing of what was held while
                    // the link was down or had another address.
                    let works = |link: &Link| link.up && link.carrier;
                    if works(&link) && old.is_some_and(|old| !works(&old) || old.mac != link.mac) {
                        fresh.push(link.index);
                    }
                }
                RouteNetlinkMessage::DelLink(message) => {
                    if let Some(link) = Link::from_message(&message) {
                        state.links.remove(&link.index);
                        (look, ground) = (true, true);
                    }
                }
                RouteNetlinkMessage::NewAddress(message) => {
                    state.voice.notice(address_of(&message));
                    let failed = address::failed(&message);
                    look |=
                        failed || address_of(&message).is_some_and(|net| state.surprised(net.addr(), true));
                    ground |= state.chooses_links();
                    state.notice_sibling(&message);
                }
                RouteNetlinkMessage::DelAddress(message) => {
                    state.voice.notice(address_of(&message));
                    look |= address_of(&message).is_some_and(|net| state.surprised(net.addr(), false));
                    ground |= state.chooses_links();
                }
                _ => {}
            }
        }
        if ground {
            self.tell_new_macs(&mut state);
            self.look_at_ground(&mut state);
        }
        if look {
            self.look(&mut state);
        }
        if fresh.is_empty() {
            return;
        }
        for item in 0..state.items.len() {
            let held = &state.items[item];
            let mut links = state.parts[held.parts.clone()].iter().filter_map(|part| state.link_of(part));
            if !held.present || !links.any(|link| fresh.contains(&link.index)) {
                continue;
            }
            let announcing = state.is_announcing(item);
            // They went with the link.
            if let Err(error) = state.add_routes(item) {
                tracing::warn!("{error}");
            }
            if announcing {
                self.start_announcing(&mut state, item);
            }
        }
    }

    /// Notices were lost: reads everything again.
    fn resync(&self) {
        let mut state = self.lock();
        if let Err(error) = state.load_links() {
            tracing::warn!(%error, "cannot list the interfaces");
        }
        self.look_at_ground(&mut state);
        self.look(&mut state);
    }

    /// Compares what is known with what is there, and reports the differences.
    fn look(&self, state: &mut State) {
        let bound = match state.bound() {
            Ok(bound) => bound,
            Err(error) => {
                tracing::warn!(%error, "cannot list the addresses");
                return;
            }
        };
        for (part, found) in state.found(&bound).into_iter().enumerate() {
            let part = &mut state.parts[part];
            part.present = found.is_some();
            part.installed = part.installed.filter(|_| part.present);
        }
        for item in 0..state.items.len() {
            let present = state.is_whole(item);
            if state.items[item].present != present {
                state.set_present(item, present);
                self.drift.put(state.items[item].at, present);
            }
        }
    }
}

/// How long ending connections may keep an address from leaving.
const KILL: std::time::Duration = std::time::Duration::from_secs(1);
/// The socket for frames, for those who may have one and may change addresses.
fn raw_socket() -> Result<Socket, OpenError> {
    let allowed = rustix::thread::capabilities(None).map_err(|error| OpenError::Kernel {
        doing: "read the capabilities of this process",
        source: error.into(),
    })?;
    if !allowed.effective.contains(CapabilitySet::NET_ADMIN) {
        return Err(OpenError::Capability { missing: "CAP_NET_ADMIN" });
    }
    Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None).map_err(|source| {
        match source.kind() {
            io::ErrorKind::PermissionDenied => OpenError::Capability { missing: "CAP_NET_RAW" },
            _ => OpenError::Kernel { doing: "open a packet socket", source },
        }
    })
}

impl Held {
    fn new(
        at: ItemRef,
        name: &str,
        parts: Range<usize>,
        (announce, notify, proven): (Announce, Arc<Notify>, bool),
    ) -> Self {
        let name = name.to_owned();
        Self { at, name, parts, present: false, trouble: None, announce, notify, proven, vacant: false }
    }
}

impl Part {
    fn new(part: &IpPart) -> Self {
        Self {
            net: part.net,
            interface: part.interface.clone(),
            manner: Manner { scope: part.scope, noprefixroute: part.noprefixroute },
            own: None,
            routes: part.routes.clone(),
            rules: part.rules.clone(),
            present: false,
            installed: None,
        }
    }

    fn wanted(&self) -> Wanted<'_> {
        let at = self.installed.map(|installed| installed.index());
        Wanted { net: self.net, interface: &self.interface, at, own: self.own.as_ref() }
    }

    /// Whether the time that it was given is over.
    fn is_over(&self) -> bool {
        self.installed.is_some_and(|installed| installed.is_over())
    }
}

impl State {
    fn addresses_of(&self, item: usize) -> impl Iterator<Item = IpAddr> {
        self.parts[self.items[item].parts.clone()].iter().map(|part| part.net.addr())
    }

    fn new(netlink: Netlink, mark: u8, holdings: Holdings, voice: Voice, peers: &[usize]) -> Self {
        let Holdings { items, parts, rules } = holdings;
        let places = |held: (usize, &Held)| held.1.parts.clone().map(move |_| held.0);
        let item_of = items.iter().enumerate().flat_map(places);
        let addresses = item_of.zip(parts.iter().map(|part: &Part| part.net.addr()));
        let others = Others::new(Members::new(peers.iter().copied(), clock::now()), rules, addresses);
        let (links, ground) = (Links::new(), Ground::default());
        let (failed, unlinking) = (Vec::new(), BTreeMap::new());
        Self { netlink, mark, links, ground, others, items, parts, failed, voice, warned: None, unlinking }
    }

    fn is_announcing(&self, item: usize) -> bool {
        self.items[item].parts.clone().any(|part| self.voice.is_announcing(part))
    }

    fn stop_announcing(&mut self, item: usize) {
        self.items[item].parts.clone().for_each(|part| self.voice.stop(part));
    }

    fn load_links(&mut self) -> io::Result<()> {
        let links = self.netlink.links()?;
        self.links = links.iter().filter_map(Link::from_message).map(|l| (l.index, l)).collect();
        Ok(())
    }

    /// Whether all addresses of an item are here, as far as is known.
    fn is_whole(&self, item: usize) -> bool {
        self.parts[self.items[item].parts.clone()].iter().all(|part| part.present)
    }

    fn set_present(&mut self, item: usize, present: bool) {
        self.items[item].present = present;
        if !present {
            self.stop_announcing(item);
        }
    }

    /// The link that an address is on, or would be looked for by its name.
    fn link_of(&self, part: &Part) -> Option<&Link> {
        self.links.get(&plan::place(&part.wanted(), &self.links, &[])?)
    }

    /// The link by which neighbours are spoken to of an address: its own, or the interface where that will be made.
    fn talks_by(&self, part: &Part) -> Option<&Link> {
        let parent = || plan::place(&Wanted { own: None, at: None, ..part.wanted() }, &self.links, &[]);
        self.link_of(part).or_else(|| self.links.get(&parent()?))
    }

    /// The interface of an address, for people.
    fn interface_of(&self, part: usize) -> String {
        let part = &self.parts[part];
        self.link_of(part).map_or_else(|| part.interface.to_string(), |link| link.name.clone())
    }

    /// Whether the host's addresses say on which link some item is.
    fn chooses_links(&self) -> bool {
        self.parts.iter().any(|part| part.interface == Interface::Auto)
    }

    fn bound(&mut self) -> io::Result<Vec<Bound>> {
        let addresses = self.netlink.addresses()?;
        let bound = addresses.iter().filter_map(|message| Bound::from_message(message, self.mark));
        let bound: Vec<_> = bound.collect();
        self.failed = bound.iter().filter(|bound| bound.failed).copied().collect();
        Ok(bound)
    }

    /// For each address what is there of it, our own first.
    fn found(&self, bound: &[Bound]) -> Vec<Option<Bound>> {
        plan::found(self.parts.iter().map(Part::wanted), &self.links, bound)
    }

    /// Whether a notice says something else than what is known.
    fn surprised(&self, address: IpAddr, present: bool) -> bool {
        self.parts.iter().any(|part| part.net.addr() == address && part.present != present)
    }

    /// Finds what an earlier life left: keeps what is configured as it is, removes the rest if it may.
    fn sort_leftovers(&mut self, remove: bool) -> io::Result<Vec<Leftover>> {
        let bound = self.bound()?;
        let wanted: Vec<_> = self.parts.iter().map(Part::wanted).collect();
        let items = self.items.iter().map(|held| held.parts.clone());
        let sorted = plan::leftovers(&wanted, items, &self.links, &bound);
        let mut leftovers = Vec::new();
        for (b, adopted) in sorted {
            let name = self.links.get(&b.index).map_or("?", |link| link.name.as_str());
            let what = format!("{} on {name}", b.net);
            if adopted {
                tracing::info!("found {what} of an earlier life: kept");
            } else if !remove {
                tracing::info!(
                    "found {what} of an earlier life, not in the config: left alone, as configured"
                );
                continue;
            } else {
                match self.netlink.delete_address(address::delete(b.net, b.index)) {
                    Ok(()) => tracing::info!("found {what} of an earlier life, not in the config: removed"),
                    Err(error) => {
                        tracing::warn!(%error, "found {what} of an earlier life, not in the config; cannot remove it");
                        continue;
                    }
                }
            }
            leftovers.push(Leftover { what, adopted });
        }
        let bound = self.bound()?;
        for (part, found) in self.found(&bound).into_iter().enumerate() {
            self.parts[part].present = found.is_some();
            if found.is_some_and(|bound| bound.maker != Maker::Us) {
                let (net, interface) = (self.parts[part].net, self.interface_of(part));
                tracing::info!("{net} is on {interface} and was not put there by flip: tolerated");
            }
        }
        for item in 0..self.items.len() {
            self.items[item].present = self.is_whole(item);
        }
        if remove {
            self.remove_links_left();
            self.remove_routes_left()?;
        }
        Ok(leftovers)
    }
}

/// Whether this host is a router on `interface`, which its advertisements must say.
fn forwards_ipv6(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
