//! Which hosts have which addresses, as their kernels tell.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::timeline::{Change, HoldersReport};
use crate::lab::netlink::{changed_address, messages};
use crate::lab::{Lab, Who};

const DATAGRAM: usize = 64 * 1024;
const KERNEL_BUFFER: usize = 4 * 1024 * 1024;

/// Notes every address that comes to a host or leaves it.
///
/// One real-time thread reads what all hosts report, so times are exact to some tens of microseconds
/// unless the machine itself stands still; so short a time without or with two holders stays unseen.
pub struct Holders {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<anyhow::Result<Vec<Change>>>>,
    started: Instant,
    before: Vec<Change>,
}

impl Holders {
    /// Notes what is there, and every change from now on.
    ///
    /// # Errors
    /// When a netlink socket cannot be opened.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let started = Instant::now();
        let (sockets, mut before) = open(lab)?;
        before.iter_mut().for_each(|change| change.at = started);
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        let thread = super::start_thread("holders", move || watch(&sockets, stopped.as_fd()))?;
        Ok(Self { stop, thread: Some(thread), started, before })
    }

    /// Ends the notes.
    ///
    /// # Errors
    /// When the kernel dropped notices, which leaves nothing to rely on.
    pub fn stop(mut self) -> anyhow::Result<HoldersReport> {
        self.end()?;
        let thread = self.thread.take().context("the observer has no thread")?;
        let changes = thread.join().ok().context("the observer died")??;
        let changes = self.before.drain(..).chain(changes).collect();
        Ok(HoldersReport { started: self.started, ended: Instant::now(), changes })
    }

    fn end(&self) -> anyhow::Result<()> {
        rustix::io::write(&*self.stop, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.end();
            let _ = thread.join();
        }
    }
}

/// A subscription to every host, and what was there when it began.
fn open(lab: &Lab) -> anyhow::Result<(Vec<Socket>, Vec<Change>)> {
    let (mut sockets, mut before) = (Vec::new(), Vec::new());
    for host in 0..lab.hosts() {
        // First the subscription, then the list: nothing is missed, and what is told twice is the same.
        let socket = lab
            .enter(Who::Host(host), subscribe)?
            .with_context(|| format!("cannot watch the addresses of host {host}"))?;
        sockets.push(socket);
        let at = Instant::now();
        let present = lab.addresses(Who::Host(host))?;
        before.extend(present.into_iter().map(|ip| Change { at, host, ip, present: true }));
    }
    Ok((sockets, before))
}

fn subscribe() -> anyhow::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    set_socket_recv_buffer_size_force(borrow(&socket), KERNEL_BUFFER)?;
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let groups = groups.iter().fold(0, |all, group| all | 1 << (*group as u32 - 1));
    socket.bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the socket, which is borrowed as long.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

fn watch(sockets: &[Socket], stop: BorrowedFd<'_>) -> anyhow::Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut fds = poll_fds(sockets);
    fds.push(PollFd::from_borrowed_fd(stop, PollFlags::IN));
    loop {
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        take_changes(sockets, &mut changes)?;
        if fds.last().is_some_and(|stop| !stop.revents().is_empty()) {
            return Ok(changes);
        }
    }
}

fn poll_fds(sockets: &[Socket]) -> Vec<PollFd<'_>> {
    sockets.iter().map(|s| PollFd::from_borrowed_fd(borrow(s), PollFlags::IN)).collect()
}

/// Takes what is there from all sockets. It happened at once, as far as can be told: the hosts have no
/// clock in common but the moment of reading, and by that of each socket an address that went from a
/// later host to an earlier one would seem to have been on both.
fn take_changes(sockets: &[Socket], changes: &mut Vec<Change>) -> anyhow::Result<()> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    let at = Instant::now();
    for (host, socket) in sockets.iter().enumerate() {
        loop {
            buffer.clear();
            match socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => bail!("the observer of host {host} has missed changes: {error}"),
            }
            for message in messages(&buffer) {
                let NetlinkPayload::InnerMessage(message) = &message.payload else { continue };
                if let Some((ip, present)) = changed_address(message) {
                    changes.push(Change { at, host, ip, present });
                }
            }
        }
    }
    Ok(())
}

/// Waits until the hosts that have an address are what `wanted` likes, as their kernels tell.
///
/// # Errors
/// After `limit`, with those that have it then.
pub fn wait_held(
    lab: &Lab,
    vip: IpAddr,
    limit: Duration,
    wanted: impl Fn(&BTreeSet<usize>) -> bool,
) -> anyhow::Result<BTreeSet<usize>> {
    let end = Instant::now() + limit;
    let (sockets, mut changes) = open(lab)?;
    let mut holders = BTreeSet::new();
    loop {
        for change in changes.drain(..).filter(|change| change.ip == vip) {
            if change.present {
                holders.insert(change.host)
            } else {
                holders.remove(&change.host)
            };
        }
        if wanted(&holders) {
            return Ok(holders);
        }
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "after {limit:?} {vip} is on the hosts {holders:?}");
        match poll(&mut poll_fds(&sockets), Some(&Timespec::try_from(left)?)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        take_changes(&sockets, &mut changes)?;
    }
}
