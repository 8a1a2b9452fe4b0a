//! The ip system: addresses on interfaces, announced to the neighbours.
//!
//! An item is an address, with a prefix or without: `192.0.2.1`, `2001:db8::1/64`. The setting
//! `interface` names the interface it is put on.
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
//! **Drift.** Notices only say that something may have changed; what is reported comes from the
//! kernel's list, read under the lock that hooks hold too. So own changes are never reported, in
//! whatever order notices arrive.

pub mod announce;

mod address;
mod lifetime;
mod loose;
mod monitor;

use std::collections::BTreeMap;
use std::fs;
use std::future::ready;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use flip_core::config::parse_vip;
use flip_core::id::ItemRef;
use flip_core::{Lifetime, Time};
use ipnet::IpNet;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rustix::thread::CapabilitySet;
use socket2::{Domain, Socket, Type};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub use self::address::PROTOCOL;
use self::address::{Bound, Maker};
use self::lifetime::Installed;
pub(crate) use self::loose::Loose;
use self::monitor::Monitor;
use crate::interfaces::{Link, address_of, missing};
use crate::netlink::{Netlink, messages};
use crate::sys;
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

    fn open(&self, systems: &[Assigned<'_>], drift: &Arc<Drift>, _: &Arc<Bus>) -> Result<Opened, OpenError> {
        let mut items = Vec::new();
        let mut starts = Vec::new();
        let siblings = systems.first().map_or(0, |assigned| assigned.siblings);
        for assigned in systems {
            starts.push(items.len());
            let interface = interface_of(assigned.system)?;
            for (item, configured) in assigned.system.items.iter().enumerate() {
                let net = parse_vip(&configured.name).map_err(|_| OpenError::Item {
                    system: assigned.system.name.clone(),
                    item: configured.name.clone(),
                    what: "an IPv4 or IPv6 address that an interface can have, with a prefix or without",
                })?;
                items.push(Held {
                    at: ItemRef { system: assigned.position, item },
                    interface: interface.to_owned(),
                    net,
                    present: false,
                    installed: None,
                    announcing: None,
                });
            }
        }
        // What no config knows belongs to no system: one that wants order here is enough.
        let remove = systems.iter().any(|assigned| assigned.system.hooks.remove_on_start);
        let (world, leftovers) = World::open(items, address::mark(siblings), remove, Arc::clone(drift))?;
        let systems = starts
            .into_iter()
            .zip(systems)
            .map(|(first, assigned)| {
                let count = assigned.system.items.len();
                Arc::new(IpSystem { world: Arc::clone(&world), first, count }) as Arc<dyn System>
            })
            .collect();
        Ok(Opened { systems, leftovers })
    }
}

fn interface_of(system: &flip_core::config::System) -> Result<&str, OpenError> {
    let wrong = |what: String| OpenError::Setting { system: system.name.clone(), key: "interface", what };
    match system.config.get("interface") {
        Some(serde_json::Value::String(name)) if !name.is_empty() => Ok(name),
        Some(other) => Err(wrong(format!("expected the name of an interface, found {other}"))),
        None => Err(wrong("missing; expected the name of the interface for the addresses".to_owned())),
    }
}

struct IpSystem {
    world: Arc<World>,
    /// Where its items start in the world's list.
    first: usize,
    count: usize,
}

impl IpSystem {
    fn hook(
        &self,
        item: usize,
        run: impl FnOnce(&Arc<World>, usize) -> Result<(), String> + Send + 'static,
    ) -> HookFuture {
        if item >= self.count {
            return Box::pin(ready(Err(format!("no item {item}"))));
        }
        let (world, item) = (Arc::clone(&self.world), self.first + item);
        Box::pin(async move { run(&world, item) })
    }
}

impl System for IpSystem {
    fn alive(&self, item: usize, context: &Context) -> HookFuture {
        let lifetime = context.lifetime;
        self.hook(item, move |world, item| world.alive(item, lifetime))
    }

    fn refresh(&self, items: &[usize], lifetime: Lifetime) -> Vec<usize> {
        let items: Vec<_> = items.iter().map(|item| self.first + item).collect();
        self.world.refresh(&items, lifetime).into_iter().map(|item| item - self.first).collect()
    }

    fn down(&self, item: usize, _: &Context) -> HookFuture {
        self.hook(item, |world, item| world.down(item))
    }

    fn announce(&self, item: usize, _: &Context) -> HookFuture {
        self.hook(item, |world, item| world.announce(item))
    }

    fn hush(&self, item: usize) {
        if item < self.count {
            self.world.lock().items[self.first + item].stop_announcing();
        }
    }

    fn observe(&self) -> ObserveFuture {
        let (world, first, count) = (Arc::clone(&self.world), self.first, self.count);
        Box::pin(async move {
            let present = world.observe(first..first + count)?;
            Ok((0..count).filter(|item| present[*item]).collect())
        })
    }
}

/// Everything that the ip systems of this server share.
pub(crate) struct World {
    state: Mutex<State>,
    drift: Arc<Drift>,
    /// Sends frames; receives nothing, because its protocol is 0 (packet(7)).
    raw: Socket,
    monitor: OnceLock<AbortHandle>,
}

struct State {
    netlink: Netlink,
    /// IFA_PROTO of what this daemon adds.
    mark: u8,
    /// By index.
    links: BTreeMap<u32, Link>,
    items: Vec<Held>,
    /// Counts bursts, so that each has a name.
    bursts: u64,
    /// When a failing refresh was last told of.
    warned: Option<Time>,
}

struct Held {
    at: ItemRef,
    interface: String,
    net: IpNet,
    /// Whether the kernel has it, as far as is known.
    present: bool,
    /// What `alive` put there or `observe` found: what a refresh may go on with.
    installed: Option<Installed>,
    announcing: Option<Burst>,
}

struct Burst {
    id: u64,
    task: AbortHandle,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(monitor) = self.monitor.get() {
            monitor.abort();
        }
        let mut state = self.lock();
        state.items.iter_mut().for_each(Held::stop_announcing);
    }
}

impl World {
    fn open(
        items: Vec<Held>,
        mark: u8,
        remove: bool,
        drift: Arc<Drift>,
    ) -> Result<(Arc<Self>, Vec<Leftover>), OpenError> {
        let kernel = |doing| move |source| OpenError::Kernel { doing, source };
        let raw = raw_socket()?;
        // Before the first list is read, so that nothing happens unseen in between.
        let monitor = Monitor::open(mark).map_err(kernel("subscribe to address changes"))?;
        let netlink = Netlink::open().map_err(kernel("open a netlink socket"))?;
        let mut state = State { netlink, mark, links: BTreeMap::new(), items, bursts: 0, warned: None };
        state.load_links().map_err(kernel("list the interfaces"))?;
        let leftovers = state.sort_leftovers(remove).map_err(kernel("list the addresses"))?;
        for held in &state.items {
            if state.link(&held.interface).is_none() {
                tracing::warn!("{}", state.missing(&held.interface));
            }
        }
        let world = Arc::new(Self { state: Mutex::new(state), drift, raw, monitor: OnceLock::new() });
        let task = tokio::spawn(monitor.run(Arc::downgrade(&world)));
        // The cell is fresh, so this can't fail.
        drop(world.monitor.set(task.abort_handle()));
        Ok((world, leftovers))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics stands between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(self: &Arc<Self>, item: usize, lifetime: Lifetime) -> Result<(), String> {
        let mut state = self.lock();
        self.drift.forget(state.items[item].at);
        state.install(item, lifetime)?;
        self.start_announcing(&mut state, item);
        Ok(())
    }

    fn down(self: &Arc<Self>, item: usize) -> Result<(), String> {
        let mut state = self.lock();
        self.drift.forget(state.items[item].at);
        state.remove(item)
    }

    fn refresh(self: &Arc<Self>, items: &[usize], lifetime: Lifetime) -> Vec<usize> {
        let mut state = self.lock();
        let gone = state.refresh(items, lifetime);
        gone.iter().for_each(|item| self.drift.forget(state.items[*item].at));
        gone
    }

    fn announce(self: &Arc<Self>, item: usize) -> Result<(), String> {
        let mut state = self.lock();
        let held = &state.items[item];
        if !held.present || held.is_over() {
            return Err(format!("{} is not on {}", held.net, held.interface));
        }
        self.start_announcing(&mut state, item);
        Ok(())
    }

    /// Which of these items are here.
    fn observe(&self, items: Range<usize>) -> Result<Vec<bool>, String> {
        let mut state = self.lock();
        let bound = state.bound().map_err(|error| format!("cannot list the addresses: {error}"))?;
        let found = state.found(&bound);
        for (held, found) in state.items[items.clone()].iter_mut().zip(&found[items.clone()]) {
            held.present = found.is_some();
            match found {
                // Whoever asked knows of this one.
                Some(bound) => held.installed = held.installed.filter(|i| i.is(bound)).or(Some(bound.into())),
                None => held.is_gone(),
            }
        }
        Ok(found[items].iter().map(Option::is_some).collect())
    }

    /// Sends the first announcement, and the rest in a task that ends with the burst.
    fn start_announcing(self: &Arc<Self>, state: &mut State, item: usize) {
        state.items[item].stop_announcing();
        if !self.send(state, item) {
            return;
        }
        state.bursts += 1;
        let id = state.bursts;
        let task = tokio::spawn(go_on_announcing(Arc::downgrade(self), item, id)).abort_handle();
        state.items[item].announcing = Some(Burst { id, task });
    }

    /// Sends one announcement. False when its link has no neighbours to tell, or when the time of the
    /// address is over: a process that was stopped learns of it by this clock first.
    fn send(&self, state: &State, item: usize) -> bool {
        let held = &state.items[item];
        if held.is_over() {
            return false;
        }
        let Some(link) = state.link(&held.interface).filter(|link| link.announces()) else {
            return false;
        };
        let Some(mac) = link.mac else { return false };
        let router = held.net.addr().is_ipv6() && forwards_ipv6(&link.name);
        for frame in announce::frames(held.net.addr(), mac, router) {
            if let Err(error) = sys::send_frame(&self.raw, link.index, &frame) {
                tracing::warn!(address = %held.net.addr(), interface = link.name, %error, "announcement not sent");
            }
        }
        true
    }

    /// Handles a datagram of notices.
    fn kernel_says(self: &Arc<Self>, datagram: &[u8]) {
        let mut state = self.lock();
        let mut look = false;
        let mut fresh = Vec::new();
        for message in messages(datagram) {
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            match message {
                RouteNetlinkMessage::NewLink(message) => {
                    let Some(link) = Link::from_message(&message) else { continue };
                    let old = state.links.insert(link.index, link.clone());
                    look |= old.as_ref().is_none_or(|old| old.name != link.name);
                    // The neighbours, or the switch between, know nothing of what was held while
                    // the link was down or had another address.
                    let works = |link: &Link| link.up && link.carrier;
                    if works(&link) && old.is_some_and(|old| !works(&old) || old.mac != link.mac) {
                        fresh.push(link.name);
                    }
                }
                RouteNetlinkMessage::DelLink(message) => {
                    if let Some(link) = Link::from_message(&message) {
                        state.links.remove(&link.index);
                        look = true;
                    }
                }
                RouteNetlinkMessage::NewAddress(message) => {
                    look |= address_of(&message).is_some_and(|net| state.surprised(net.addr(), true));
                    state.notice_sibling(&message);
                }
                RouteNetlinkMessage::DelAddress(message) => {
                    look |= address_of(&message).is_some_and(|net| state.surprised(net.addr(), false));
                }
                _ => {}
            }
        }
        if look {
            self.look(&mut state);
        }
        for item in 0..state.items.len() {
            let held = &state.items[item];
            if held.announcing.is_some() && fresh.contains(&held.interface) {
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
        let found = state.found(&bound);
        for (held, found) in state.items.iter_mut().zip(found) {
            let present = found.is_some();
            if held.present != present {
                held.present = present;
                if !present {
                    held.is_gone();
                }
                self.drift.put(held.at, present);
            }
        }
    }
}

/// An announcement that comes later than this after its time is left out.
const LATE: std::time::Duration = std::time::Duration::from_millis(500);
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

async fn go_on_announcing(world: Weak<World>, item: usize, id: u64) {
    let start = Instant::now();
    let schedule = flip_core::config::Announce::default();
    for n in 1.. {
        let Some(due) = schedule.due(n).map(|after| start + after) else { return };
        tokio::time::sleep_until(due).await;
        // This process was stopped: who holds the address now is for the rules to say, before anything is
        // announced.
        if due.elapsed() > LATE {
            continue;
        }
        let Some(world) = world.upgrade() else { return };
        let state = world.lock();
        // Under the lock, so that not even one frame follows a down hook.
        let current = state.items[item].announcing.as_ref().is_some_and(|burst| burst.id == id);
        if !current {
            return;
        }
        world.send(&state, item);
    }
}

impl Held {
    /// It is not here.
    fn is_gone(&mut self) {
        self.present = false;
        self.installed = None;
        self.stop_announcing();
    }

    /// Whether the time that it was given is over.
    fn is_over(&self) -> bool {
        self.installed.is_some_and(|installed| installed.is_over())
    }

    fn stop_announcing(&mut self) {
        if let Some(burst) = self.announcing.take() {
            burst.task.abort();
        }
    }
}

impl State {
    fn load_links(&mut self) -> io::Result<()> {
        let links = self.netlink.links()?;
        self.links = links.iter().filter_map(Link::from_message).map(|l| (l.index, l)).collect();
        Ok(())
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    fn missing(&self, name: &str) -> String {
        missing(name, self.links.values().map(|link| link.name.as_str()))
    }

    /// The link to put an address on. A bad answer from the table is checked with the kernel.
    fn usable_link(&mut self, name: &str) -> Result<Link, String> {
        if let Some(link) = self.link(name).filter(|link| link.up) {
            return Ok(link.clone());
        }
        self.load_links().map_err(|error| format!("cannot list the interfaces: {error}"))?;
        match self.link(name) {
            Some(link) if link.up => Ok(link.clone()),
            Some(_) => Err(format!("interface {name} is down: bring it up")),
            None => Err(self.missing(name)),
        }
    }

    fn bound(&mut self) -> io::Result<Vec<Bound>> {
        let addresses = self.netlink.addresses()?;
        Ok(addresses.iter().filter_map(|message| Bound::from_message(message, self.mark)).collect())
    }

    /// For each item what is there of it, our own first. The prefix does not matter: the address answers.
    fn found(&self, bound: &[Bound]) -> Vec<Option<Bound>> {
        let mut by_place: BTreeMap<(u32, IpAddr), Bound> = BTreeMap::new();
        for bound in bound.iter().filter(|bound| bound.maker != Maker::Sibling) {
            let place = (bound.index, bound.net.addr());
            if bound.maker == Maker::Us || !by_place.contains_key(&place) {
                by_place.insert(place, *bound);
            }
        }
        let place = |held: &Held| Some((self.link(&held.interface)?.index, held.net.addr()));
        self.items.iter().map(|held| by_place.get(&place(held)?).copied()).collect()
    }

    /// Whether a notice says something else than what is known.
    fn surprised(&self, address: IpAddr, present: bool) -> bool {
        self.items.iter().any(|held| held.net.addr() == address && held.present != present)
    }

    /// Finds what an earlier life left: keeps what is configured as it is, removes the rest if it may.
    fn sort_leftovers(&mut self, remove: bool) -> io::Result<Vec<Leftover>> {
        let bound = self.bound()?;
        let mut leftovers = Vec::new();
        for b in bound.iter().filter(|b| b.maker == Maker::Us) {
            let name = self.links.get(&b.index).map_or("?", |link| link.name.as_str());
            let what = format!("{} on {name}", b.net);
            let adopted = self.items.iter().any(|held| held.net == b.net && held.interface == name);
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
        let found = self.found(&bound);
        for (held, found) in self.items.iter_mut().zip(found) {
            held.present = found.is_some();
            if found.is_some_and(|bound| bound.maker != Maker::Us) {
                tracing::info!(
                    "{} is on {} and was not put there by flip: tolerated",
                    held.net,
                    held.interface
                );
            }
        }
        Ok(leftovers)
    }
}

/// Whether this host is a router on `interface`, which its advertisements must say.
fn forwards_ipv6(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
