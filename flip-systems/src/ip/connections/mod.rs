//! TCP connections to an address that moves: those that the leaving holder ends, and those of a holder that is
//! no more, whose clients the new one lets know.
//!
//! **`kill_connections`**: before the address goes, every connection to it is destroyed in the kernel
//! (sock_diag(7), as `ss -K` does). The kernel sends each client a reset, which leaves while the address is still
//! here; the client connects again at once, and the service's sockets are freed. Not where a lease ends: then
//! nothing comes before the release, and the sockets are destroyed after it.
//!
//! **`tickle`**: the holder tells the other servers which clients are connected (`share`, `page`), and
//! whoever takes the address sends each an acknowledgement out of place (`packet`), which ends in a reset from
//! the new holder's kernel. So a client that is idle, or waits for an answer, learns of a dead holder at once.
//!
//! Everything here helps and nothing depends on it: what cannot be done is said once, and the address moves
//! all the same.

mod packet;
mod page;
mod share;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use flip_core::config::{IP_KILL_CONNECTIONS, IP_TICKLE, Item};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use self::page::{Client, Page};
use self::share::{LOOK, PACE, Shares};
use self::table::Table;
use crate::bus::{Bus, topic};
use crate::clock;
use crate::sockdiag::{self, End, Found, SockDiag};
use crate::system::capability_missing;

/// When a client is told, and by which number: one of the two is out of place whatever the client expects. The
/// first may come before the neighbours know the new holder.
const ROUNDS: [(Duration, u32); 3] =
    [(Duration::ZERO, 0), (Duration::from_secs(1), 1 << 31), (Duration::from_secs(3), 0)];
/// Clients that are told at once, and the pause after them: 2,000 a second, of all addresses together.
const BURST: (usize, Duration) = (20, Duration::from_millis(10));
/// How often what connects meanwhile is looked for again.
const KILL_ROUNDS: usize = 3;

/// What addresses want done with their connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Those with `kill_connections`.
    pub(super) kill: BTreeSet<IpAddr>,
    /// Those with `tickle`.
    pub(super) tickle: BTreeSet<IpAddr>,
}

/// What the settings of a system want for these of its items.
pub(super) fn wanted(system: &flip_core::config::System, items: &[&Item]) -> Wanted {
    let says = |key| system.config.get(key).and_then(serde_json::Value::as_bool) == Some(true);
    let ips = items.iter().filter_map(|item| item.ip.as_ref());
    let addresses: BTreeSet<_> = ips.flat_map(|ip| &ip.parts).map(|part| part.net.addr()).collect();
    Wanted {
        kill: if says(IP_KILL_CONNECTIONS) { addresses.clone() } else { BTreeSet::new() },
        tickle: if says(IP_TICKLE) { addresses } else { BTreeSet::new() },
    }
}

impl Wanted {
    /// What several want.
    pub(super) fn together<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum.kill.extend(&one.kill);
            sum.tickle.extend(&one.tickle);
            sum
        })
    }

    fn is_empty(&self) -> bool {
        self.kill.is_empty() && self.tickle.is_empty()
    }
}

/// The connections of all addresses of one daemon.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    wanted: RwLock<Wanted>,
    bus: Arc<Bus>,
    diag: Mutex<Option<SockDiag>>,
    table: Mutex<Table>,
    /// IPv4 and IPv6.
    raw: [OnceLock<Socket>; 2],
    telling: Mutex<BTreeMap<IpAddr, AbortHandle>>,
    /// Who has it sends.
    turn: Semaphore,
    /// What was said once.
    said: [AtomicBool; 3],
}

#[derive(Clone, Copy)]
enum Trouble {
    List,
    Kill,
    Send,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let telling = self.telling.get_mut().unwrap_or_else(PoisonError::into_inner);
        telling.values().for_each(AbortHandle::abort);
    }
}

impl Connections {
    /// Opens the sockets that are needed, in the network namespace of the calling thread; none where nobody wants
    /// anything done.
    pub(super) fn open(wanted: Wanted, bus: Arc<Bus>) -> Option<Self> {
        if wanted.is_empty() {
            return None;
        }
        let mut inner = Inner {
            wanted: RwLock::default(),
            bus,
            diag: Mutex::new(None),
            table: Mutex::default(),
            raw: [OnceLock::new(), OnceLock::new()],
            telling: Mutex::default(),
            turn: Semaphore::new(1),
            said: Default::default(),
        };
        match SockDiag::open() {
            Ok(diag) => inner.diag = Mutex::new(Some(diag)),
            Err(error) => inner.say(Trouble::List, &error),
        }
        let this = Self(Arc::new(inner));
        this.want(wanted);
        Some(this)
    }

    /// Something else is wanted from now on.
    pub(super) fn want(&self, wanted: Wanted) {
        for (n, v6) in [(0, false), (1, true)] {
            let inner = &self.0;
            if inner.raw[n].get().is_none() && wanted.tickle.iter().any(|address| address.is_ipv6() == v6) {
                match raw_socket(v6) {
                    // Nobody else sets it.
                    Ok(socket) => drop(inner.raw[n].set(socket)),
                    Err(error) => inner.say(Trouble::Send, &error),
                }
            }
        }
        *self.0.wanted.write().unwrap_or_else(PoisonError::into_inner) = wanted;
    }

    fn wanted(&self) -> RwLockReadGuard<'_, Wanted> {
        self.0.wanted.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether clients of any address are told of.
    pub(super) fn shares(&self) -> bool {
        !self.wanted().tickle.is_empty()
    }

    /// Whether clients of this address are told of.
    pub(super) fn is_shared(&self, address: IpAddr) -> bool {
        self.wanted().tickle.contains(&address)
    }

    /// Tells the other servers of the connections to the addresses that `here` gives, until it gives none.
    pub(super) async fn share(self, life: u32, here: impl Fn() -> Option<Vec<IpAddr>> + Send) {
        let mut shares = Shares::new(life);
        loop {
            let next = tokio::time::Instant::now() + LOOK;
            let Some(addresses) = here() else { return };
            let inner = Arc::clone(&self.0);
            // Many connections take longer to list than the loop may be held up.
            let listed = match addresses.is_empty() {
                true => Ok(Some(BTreeMap::new())),
                false => tokio::task::spawn_blocking(move || inner.clients(addresses)).await,
            };
            // A list that could not be had is not an empty one.
            if let Ok(Some(lists)) = listed {
                for address in shares.look(lists, clock::now()) {
                    tracing::warn!(
                        %address,
                        "more than {} clients are connected: only so many are told of a takeover",
                        page::CONNECTIONS
                    );
                }
            }
            while shares.waits() {
                for page in shares.next() {
                    // Should too much wait, the next edition says it again.
                    let _ = self.0.bus.say(None, topic::CONNECTIONS, page);
                }
                tokio::time::sleep(PACE.0).await;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Another server said something about [`topic::CONNECTIONS`].
    pub(super) fn heard(&self, from: usize, data: &[u8]) {
        let Some(page) = Page::read(data).filter(|page| self.is_shared(page.address)) else { return };
        tracing::debug!(address = %page.address, clients = page.clients.len(), from, "heard who is connected");
        lock(&self.0.table).hear(from, page, clock::now());
    }

    /// The address is here, on the interface with this index: lets the clients of its former holder know. Must be
    /// called within a runtime.
    pub(super) fn took(&self, address: IpAddr, index: u32) {
        if !self.is_shared(address) {
            return;
        }
        let clients = lock(&self.0.table).take(address, clock::now());
        if clients.is_empty() {
            return;
        }
        tracing::info!(
            %address, clients = clients.len(),
            "tells the clients of the former holder that their connections are gone"
        );
        let task = tokio::spawn(Arc::clone(&self.0).tell(address, index, clients)).abort_handle();
        if let Some(before) = lock(&self.0.telling).insert(address, task) {
            before.abort();
        }
    }

    /// The address is about to leave: nobody is told any more.
    pub(super) fn leaves(&self, address: IpAddr) {
        if let Some(task) = lock(&self.0.telling).remove(&address) {
            task.abort();
        }
    }

    /// Those of these addresses whose connections are to be ended.
    pub(super) fn to_kill(&self, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let wanted = self.wanted();
        addresses.filter(|address| wanted.kill.contains(address)).collect()
    }

    /// Ends all connections to these addresses, within `limit`.
    pub(super) async fn kill(&self, addresses: Vec<IpAddr>, limit: Duration) {
        if addresses.is_empty() {
            return;
        }
        let inner = Arc::clone(&self.0);
        let end = Instant::now() + limit;
        let shown = addresses.clone();
        match tokio::task::spawn_blocking(move || inner.kill(&addresses, end)).await {
            Ok(0) => {}
            Ok(killed) => tracing::info!(addresses = ?shown, connections = killed, "connections ended"),
            // The runtime ends.
            Err(_) => {}
        }
    }
}

impl Inner {
    /// Who is connected to each of these addresses; none where the kernel does not say.
    fn clients(&self, addresses: Vec<IpAddr>) -> Option<BTreeMap<IpAddr, Vec<Client>>> {
        let mut lists: BTreeMap<_, Vec<_>> = addresses.iter().map(|address| (*address, Vec::new())).collect();
        let mut diag = lock(&self.diag);
        let diag = diag.as_mut()?;
        for some in addresses.chunks(sockdiag::ADDRESSES) {
            match diag.connections(some, End::Local, sockdiag::ESTABLISHED) {
                Ok(found) => {
                    for Found { local, remote, .. } in found {
                        // What connects to itself needs no word from elsewhere.
                        if remote.0 != local.0 {
                            let client = Client { ip: remote.0, port: remote.1, to: local.1 };
                            lists.entry(local.0).or_default().push(client);
                        }
                    }
                }
                Err(error) => {
                    self.say(Trouble::List, &error);
                    return None;
                }
            }
        }
        Some(lists)
    }

    async fn tell(self: Arc<Self>, address: IpAddr, index: u32, clients: Vec<Client>) {
        let start = tokio::time::Instant::now();
        for (after, sequence) in ROUNDS {
            tokio::time::sleep_until(start + after).await;
            for some in clients.chunks(BURST.0) {
                // Of many addresses that come together, one after the other. It is never closed.
                let _turn = self.turn.acquire().await;
                some.iter().for_each(|client| self.tickle(address, index, *client, sequence));
                tokio::time::sleep(BURST.1).await;
            }
        }
    }

    fn tickle(&self, address: IpAddr, index: u32, client: Client, sequence: u32) {
        let Some(packet) = packet::tickle((address, client.to), (client.ip, client.port), sequence) else {
            return;
        };
        let Some(socket) = self.raw[usize::from(address.is_ipv6())].get() else { return };
        let to: SocketAddr = match client.ip {
            IpAddr::V4(v4) => (v4, 0).into(),
            IpAddr::V6(v6) => {
                let scope = if v6.is_unicast_link_local() { index } else { 0 };
                SocketAddrV6::new(v6, 0, 0, scope).into()
            }
        };
        match socket.send_to(&packet, &to.into()) {
            Ok(_) => {}
            // The queue is full: there is another round.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.say(Trouble::Send, &error),
        }
    }

    /// How many were ended.
    fn kill(&self, addresses: &[IpAddr], end: Instant) -> usize {
        let mut killed = 0;
        let mut diag = lock(&self.diag);
        let Some(diag) = diag.as_mut() else { return 0 };
        for _ in 0..KILL_ROUNDS {
            let mut found = Vec::new();
            for some in addresses.chunks(sockdiag::ADDRESSES) {
                match diag.connections(some, End::Any, sockdiag::OPEN) {
                    Ok(more) => found.extend(more),
                    Err(error) => self.say(Trouble::List, &error),
                }
            }
            if found.is_empty() {
                return killed;
            }
            for one in found {
                if Instant::now() >= end {
                    tracing::warn!(?addresses, killed, "not all connections were ended in time");
                    return killed;
                }
                match diag.destroy(&one) {
                    Ok(()) => killed += 1,
                    Err(error) => {
                        self.say(Trouble::Kill, &error);
                        return killed;
                    }
                }
            }
        }
        killed
    }

    /// Says once what cannot be done.
    fn say(&self, what: Trouble, error: &io::Error) {
        if self.said[what as usize].swap(true, Ordering::Relaxed) {
            return;
        }
        let (cannot, missing, effect) = match what {
            Trouble::List => (
                "list TCP connections",
                "the kernel was built without CONFIG_INET_DIAG, or its modules inet_diag and tcp_diag are not there",
                "connections to addresses that move are left as they are",
            ),
            Trouble::Kill => (
                "end TCP connections",
                "the kernel was built without CONFIG_INET_DIAG_DESTROY",
                "clients of an address that leaves notice when they send, or by timeouts of their own",
            ),
            Trouble::Send => (
                "tell clients of a takeover",
                "the kernel has no raw sockets",
                "idle clients notice by timeouts of their own",
            ),
        };
        let why = match Errno::from_io_error(error) {
            Some(Errno::OPNOTSUPP | Errno::NOENT | Errno::PROTONOSUPPORT) => missing.to_owned(),
            Some(Errno::PERM) if matches!(what, Trouble::Send) => capability_missing("CAP_NET_RAW"),
            Some(Errno::PERM) => capability_missing("CAP_NET_ADMIN"),
            Some(_) | None => error.to_string(),
        };
        tracing::warn!("cannot {cannot}: {why}; {effect}");
    }
}

/// A socket that takes whole packets, and receives nothing that is sent to anybody (raw(7), IPPROTO_RAW).
fn raw_socket(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(libc::IPPROTO_RAW)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that panics stands between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
