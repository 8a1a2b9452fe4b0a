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
//! **Drift.** Notices only say that something may have changed; what is reported comes from the
//! kernel's list, read under the lock that hooks hold too. So own changes are never reported, in
//! whatever order notices arrive.

pub mod announce;

mod address;
mod monitor;

use std::collections::BTreeMap;
use std::fs;
use std::future::ready;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use flip_core::config::parse_vip;
use flip_core::id::ItemRef;
use ipnet::IpNet;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use socket2::{Domain, Socket, Type};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub use self::address::PROTOCOL;
use self::address::{Bound, Maker};
use self::monitor::Monitor;
use crate::interfaces::{Link, address_of, missing};
use crate::netlink::{Netlink, messages};
use crate::sys;
use crate::system::{
    Assigned, Drift, Handler, HookFuture, Leftover, ObserveFuture, OpenError, Opened, System,
    capability_missing,
};

/// How many rounds of deleting and looking a down hook makes while somebody keeps adding.
const DELETE_ROUNDS: usize = 5;

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

    fn open(&self, systems: &[Assigned<'_>], drift: &Arc<Drift>) -> Result<Opened, OpenError> {
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
                    announcing: None,
                });
            }
        }
        let (world, leftovers) = World::open(items, address::mark(siblings), Arc::clone(drift))?;
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
    fn hook(&self, item: usize, run: fn(&Arc<World>, usize) -> Result<(), String>) -> HookFuture {
        if item >= self.count {
            return Box::pin(ready(Err(format!("no item {item}"))));
        }
        let (world, item) = (Arc::clone(&self.world), self.first + item);
        Box::pin(async move { run(&world, item) })
    }
}

impl System for IpSystem {
    fn alive(&self, item: usize) -> HookFuture {
        self.hook(item, World::alive)
    }

    fn down(&self, item: usize) -> HookFuture {
        self.hook(item, World::down)
    }

    fn announce(&self, item: usize) -> HookFuture {
        self.hook(item, World::announce)
    }

    fn observe(&self) -> ObserveFuture {
        let (world, first, count) = (Arc::clone(&self.world), self.first, self.count);
        Box::pin(async move {
            let present = world.observe()?;
            Ok((0..count).filter(|item| present[first + item]).collect())
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
}

struct Held {
    at: ItemRef,
    interface: String,
    net: IpNet,
    /// Whether the kernel has it, as far as is known.
    present: bool,
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
    fn open(items: Vec<Held>, mark: u8, drift: Arc<Drift>) -> Result<(Arc<Self>, Vec<Leftover>), OpenError> {
        let kernel = |doing| move |source| OpenError::Kernel { doing, source };
        let allowed = rustix::thread::capabilities(None)
            .map_err(|e| kernel("read the capabilities of this process")(e.into()))?;
        if !allowed.effective.contains(CapabilitySet::NET_ADMIN) {
            return Err(OpenError::Capability { missing: "CAP_NET_ADMIN" });
        }
        let raw = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None).map_err(|source| {
            match source.kind() {
                io::ErrorKind::PermissionDenied => OpenError::Capability { missing: "CAP_NET_RAW" },
                _ => OpenError::Kernel { doing: "open a packet socket", source },
            }
        })?;
        // Before the first list is read, so that nothing happens unseen in between.
        let monitor = Monitor::open().map_err(kernel("subscribe to address changes"))?;
        let netlink = Netlink::open().map_err(kernel("open a netlink socket"))?;
        let mut state = State { netlink, mark, links: BTreeMap::new(), items, bursts: 0 };
        state.load_links().map_err(kernel("list the interfaces"))?;
        let leftovers = state.sort_leftovers().map_err(kernel("list the addresses"))?;
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

    fn alive(self: &Arc<Self>, item: usize) -> Result<(), String> {
        let mut state = self.lock();
        let held = &state.items[item];
        let (net, interface) = (held.net, held.interface.clone());
        let link = state.usable_link(&interface)?;
        if let IpNet::V4(v4) = net
            && v4.prefix_len() < 32
        {
            promote_secondaries(&interface);
        }
        let request = address::add(net, link.index, &interface, state.mark);
        if let Err(error) = state.netlink.add_address(request) {
            return Err(state.explain_add(net, &interface, &error));
        }
        state.items[item].present = true;
        self.start_announcing(&mut state, item);
        Ok(())
    }

    fn down(self: &Arc<Self>, item: usize) -> Result<(), String> {
        let mut state = self.lock();
        // Before anything can fail: who is told to let go must not call the neighbours any more.
        state.items[item].stop_announcing();
        let (net, interface) = (state.items[item].net, state.items[item].interface.clone());
        if state.link(&interface).is_none() {
            state.load_links().map_err(|error| format!("cannot list the interfaces: {error}"))?;
        }
        let Some(index) = state.link(&interface).map(|link| link.index) else {
            state.items[item].present = false;
            return Ok(());
        };
        // Whatever prefix somebody else chose, it is the address that answers. Looking again is what
        // makes "gone" true.
        for _ in 0..DELETE_ROUNDS {
            let bound = state.bound().map_err(|error| format!("cannot list the addresses: {error}"))?;
            let there: Vec<_> = state.find(&state.items[item], &bound).map(|bound| bound.net).collect();
            if there.is_empty() {
                state.items[item].present = false;
                return Ok(());
            }
            for net in there {
                match state.netlink.delete_address(address::delete(net, index)) {
                    Ok(()) => {}
                    Err(error) => match Errno::from_io_error(&error) {
                        Some(Errno::ADDRNOTAVAIL | Errno::NODEV) => {}
                        Some(_) | None => return Err(explain_delete(net, &interface, &error)),
                    },
                }
            }
        }
        Err(format!("{net} is still on {interface}: something else adds it again and again"))
    }

    fn announce(self: &Arc<Self>, item: usize) -> Result<(), String> {
        let mut state = self.lock();
        let held = &state.items[item];
        if !held.present {
            return Err(format!("{} is not on {}", held.net, held.interface));
        }
        self.start_announcing(&mut state, item);
        Ok(())
    }

    fn observe(&self) -> Result<Vec<bool>, String> {
        let mut state = self.lock();
        let bound = state.bound().map_err(|error| format!("cannot list the addresses: {error}"))?;
        let present = state.present(&bound);
        for (held, present) in state.items.iter_mut().zip(&present) {
            held.present = *present;
            if !present {
                held.stop_announcing();
            }
        }
        Ok(present)
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

    /// Sends one announcement. False when its link has no neighbours to tell.
    fn send(&self, state: &State, item: usize) -> bool {
        let held = &state.items[item];
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
        let present = state.present(&bound);
        for (held, present) in state.items.iter_mut().zip(present) {
            if held.present != present {
                held.present = present;
                if !present {
                    held.stop_announcing();
                }
                self.drift.put(held.at, present);
            }
        }
    }
}

async fn go_on_announcing(world: Weak<World>, item: usize, id: u64) {
    let start = Instant::now();
    for n in 1.. {
        tokio::time::sleep_until(start + announce::due(n)).await;
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

    /// For each item whether it is there. The prefix does not matter: the address answers.
    fn present(&self, bound: &[Bound]) -> Vec<bool> {
        self.items.iter().map(|held| self.find(held, bound).next().is_some()).collect()
    }

    fn find<'a>(&self, held: &Held, bound: &'a [Bound]) -> impl Iterator<Item = &'a Bound> {
        let index = self.link(&held.interface).map(|link| link.index);
        let address = held.net.addr();
        bound
            .iter()
            .filter(move |b| Some(b.index) == index && b.net.addr() == address && b.maker != Maker::Sibling)
    }

    /// Whether a notice says something else than what is known.
    fn surprised(&self, address: IpAddr, present: bool) -> bool {
        self.items.iter().any(|held| held.net.addr() == address && held.present != present)
    }

    /// Finds what an earlier life left: keeps what is configured as it is, removes the rest.
    fn sort_leftovers(&mut self) -> io::Result<Vec<Leftover>> {
        let bound = self.bound()?;
        let mut leftovers = Vec::new();
        for b in bound.iter().filter(|b| b.maker == Maker::Us) {
            let name = self.links.get(&b.index).map_or("?", |link| link.name.as_str());
            let what = format!("{} on {name}", b.net);
            let adopted = self.items.iter().any(|held| held.net == b.net && held.interface == name);
            if adopted {
                tracing::info!("found {what} of an earlier life: kept");
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
        let present = self.present(&bound);
        for (held, &present) in self.items.iter().zip(&present) {
            if present && self.find(held, &bound).all(|b| b.maker != Maker::Us) {
                tracing::info!(
                    "{} is on {} and was not put there by flip: tolerated",
                    held.net,
                    held.interface
                );
            }
        }
        for (held, present) in self.items.iter_mut().zip(present) {
            held.present = present;
        }
        Ok(leftovers)
    }

    fn explain_add(&mut self, net: IpNet, interface: &str, error: &io::Error) -> String {
        let what = match Errno::from_io_error(error) {
            Some(Errno::PERM) => capability_missing("CAP_NET_ADMIN"),
            Some(Errno::NODEV) => match self.load_links() {
                Ok(()) => self.missing(interface),
                Err(error) => error.to_string(),
            },
            Some(Errno::ACCESS) if net.addr().is_ipv6() => {
                format!("IPv6 is disabled there (sysctl net.ipv6.conf.{interface}.disable_ipv6)")
            }
            Some(_) | None => error.to_string(),
        };
        format!("cannot add {net} to {interface}: {what}")
    }
}

fn explain_delete(net: IpNet, interface: &str, error: &io::Error) -> String {
    let what = match Errno::from_io_error(error) {
        Some(Errno::PERM) => capability_missing("CAP_NET_ADMIN"),
        Some(_) | None => error.to_string(),
    };
    format!("cannot delete {net} from {interface}: {what}")
}

/// Whether this host is a router on `interface`, which its advertisements must say.
fn forwards_ipv6(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}

/// Sees to it that deleting an address with a prefix does not take the host's other addresses of
/// that network along, as Linux does by default when it was the first of them
/// (Documentation/networking/ip-sysctl.rst, promote_secondaries).
fn promote_secondaries(interface: &str) {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/promote_secondaries");
    if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "0") {
        match fs::write(&path, "1") {
            Ok(()) => tracing::info!("set {path} to 1, because an item has a prefix"),
            Err(error) => {
                tracing::warn!(%error, "cannot set {path} to 1; deleting the item may delete other addresses")
            }
        }
    }
}
