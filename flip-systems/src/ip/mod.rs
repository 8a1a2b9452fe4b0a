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
//! synchronous, because the kernel answers within the system call; but for the announcement of an IPv6 address
//! that the kernel is not through with, see the module `arrival`.
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
mod arrival;
mod conflict;
mod connections;
mod ground;
mod groups;
mod item;
mod lifetime;
mod listen;
mod look;
mod loose;
mod monitor;
mod neighbour;
mod neighbours;
mod notices;
mod others;
mod own;
mod pace;
mod plan;
mod proof;
mod prover;
mod release;
mod routes;
mod stand;
mod state;
mod system;

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use flip_core::{Lifetime, lease};
use rustix::thread::CapabilitySet;
use socket2::{Domain, Socket, Type};
use tokio::task::AbortHandle;

pub use self::address::PROTOCOL;
use self::adopt::Users;
use self::announcer::{Outside, Voice};
use self::connections::Connections;
use self::item::{Holdings, Part};
use self::lifetime::Installed;
use self::listen::Ear;
pub(crate) use self::loose::Loose;
use self::monitor::Monitor;
pub use self::release::{Removed, release};
use self::state::State;
pub use self::system::Ip;
use crate::clock;
use crate::netlink::Netlink;
use crate::system::{Drift, Leftover, OpenError};

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
    /// What listens to the kernel, and whether it hears of routes.
    monitor: Option<(AbortHandle, bool)>,
    /// Those that listen for conflicts about the addresses that there are.
    ears: Vec<AbortHandle>,
    /// Whether others are told of connections.
    shares: bool,
}

impl Drop for World {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        let monitor = tasks.monitor.iter().map(|(task, _)| task);
        tasks.all.iter().chain(&tasks.ears).chain(monitor).for_each(AbortHandle::abort);
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
        let routes = holdings.has_routes();
        let monitor = Monitor::open(mark, routes).map_err(kernel("subscribe to address changes"))?;
        let netlink = Netlink::open().map_err(kernel("open a netlink socket"))?;
        let mut state = State::new(netlink, mark, holdings, voice, &outside.peers());
        state.load_links().map_err(kernel("list the interfaces"))?;
        let leftovers = state.sort_leftovers(remove).map_err(kernel("list the addresses"))?;
        let ears = Ear::open(state.others.addresses()).map_err(kernel("listen for conflicts"))?;
        let world = Arc::new(Self::of(state, drift, raw, outside));
        world.look_at_ground(&mut world.lock());
        let weak = || Arc::downgrade(&world);
        let tasks = Tasks {
            all: vec![tokio::spawn(others::go_on_telling(weak())).abort_handle()],
            monitor: Some((tokio::spawn(monitor.run(weak())).abort_handle(), routes)),
            ears: ears.into_iter().map(|ear| tokio::spawn(ear.run(weak())).abort_handle()).collect(),
            shares: false,
        };
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

    /// Brings an item up, and announces it. Gives back the addresses for which the kernel takes nothing in yet:
    /// then it is still to be announced, with [`Self::came_late`].
    fn alive(self: &Arc<Self>, item: usize, lifetime: Lifetime) -> Result<Vec<(Ipv6Addr, u32)>, String> {
        let mut state = self.lock();
        self.drift.forget(state.items[item].at);
        state.clear_failed(item)?;
        // The hook has asked who has it, and many others had their turn.
        state.install(item, lease::later(lifetime, clock::now()))?;
        let late = state.late(item);
        if late.is_empty() {
            self.came(&mut state, item);
        }
        Ok(late)
    }

    /// Announces an item that was brought up a moment ago, if it is still here.
    fn came_late(self: &Arc<Self>, item: usize) -> Result<(), String> {
        let mut state = self.lock();
        state.check_here(item)?;
        self.came(&mut state, item);
        Ok(())
    }

    fn came(self: &Arc<Self>, state: &mut State, item: usize) {
        self.start_announcing(state, item);
        if let Some(connections) = self.connections.get() {
            // After the announcement, so that answers come here.
            for part in &state.parts[state.items[item].parts.clone()] {
                connections.took(part.net.addr(), state.link_of(part).map_or(0, |link| link.index));
            }
        }
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
        state.check_here(item)?;
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
}

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
