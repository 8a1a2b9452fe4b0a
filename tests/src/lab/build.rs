//! Network namespaces without a name, and what is wired between them.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::netlink::{Mac, Netlink};
use super::plan::{BRIDGE, INTERFACE, PREFIX_V4, PREFIX_V6, Who, host_ip, host_ip6};

/// How long the kernel may take until a cable works; it takes milliseconds, or a second when many
/// links change.
const READY: Duration = Duration::from_secs(10);

/// A network namespace that ends with the last of its descriptors and processes.
pub(super) struct Namespace(OwnedFd);

impl Namespace {
    fn new() -> anyhow::Result<Self> {
        let made = thread::spawn(|| {
            // SAFETY: of what this thread shares, only its network is replaced.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
            let path = "/proc/thread-self/ns/net";
            File::open(path).with_context(|| format!("cannot open {path}"))
        });
        let file = returned(made.join())?;
        Ok(Self(file.into()))
    }

    /// The descriptor, for a process that is about to enter the namespace.
    pub(super) fn descriptor(&self) -> anyhow::Result<OwnedFd> {
        self.0.try_clone().context("cannot duplicate a namespace's descriptor")
    }

    /// Runs `f` on a thread of its own inside the namespace.
    pub(super) fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter a network namespace")?;
                Ok(f())
            });
            returned(inside.join())
        })
    }
}

/// What a thread returned; its panic goes on here.
fn returned<T>(end: thread::Result<T>) -> T {
    end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The namespaces of a lab, wired.
pub(super) struct Wiring {
    pub(super) hosts: Vec<Namespace>,
    pub(super) client: Namespace,
    pub(super) bridge: Namespace,
}

impl Wiring {
    pub(super) fn new(hosts: usize) -> anyhow::Result<Self> {
        let bridge = Namespace::new()?;
        bridge.enter(|| {
            // The bridge only forwards; without this it would talk IPv6 itself.
            for conf in ["all", "default"] {
                sysctl(&format!("ipv6/conf/{conf}/disable_ipv6"), "1")?;
            }
            let mut netlink = Netlink::open()?;
            netlink.set_up("lo", true)?;
            netlink.add_bridge(BRIDGE, [2, 0x77, 0, 0, 2, 1]).map(drop)
        })??;
        let end = |who| -> anyhow::Result<Namespace> {
            let namespace = Namespace::new()?;
            namespace.enter(prepare_end)??;
            bridge.enter(|| plug(who, &namespace))??;
            namespace.enter(|| address_end(who))??;
            Ok(namespace)
        };
        let hosts = (0..hosts).map(|n| end(Who::Host(n))).collect::<anyhow::Result<Vec<_>>>()?;
        let client = end(Who::Client)?;
        let wiring = Self { hosts, client, bridge };
        for who in (0..wiring.hosts.len()).map(Who::Host).chain([Who::Client]) {
            wiring.bridge.enter(|| wait_ready(&who.port()))??;
            wiring.of(who)?.enter(|| wait_ready(INTERFACE))??;
        }
        Ok(wiring)
    }

    pub(super) fn of(&self, who: Who) -> anyhow::Result<&Namespace> {
        match who {
            Who::Host(n) => self.hosts.get(n).with_context(|| format!("the lab has no host {n}")),
            Who::Client => Ok(&self.client),
            Who::Bridge => Ok(&self.bridge),
        }
    }
}

/// What must be set before the link comes, because the link copies it.
fn prepare_end() -> anyhow::Result<()> {
    for conf in ["all", "default"] {
        for (name, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")] {
            sysctl(&format!("ipv6/conf/{conf}/{name}"), value)?;
        }
    }
    Netlink::open()?.set_up("lo", true)
}

fn plug(who: Who, namespace: &Namespace) -> anyhow::Result<()> {
    let mut netlink = Netlink::open()?;
    let bridge = netlink.index(BRIDGE)?;
    let near: Mac = [2, 0x77, 0, 0, 1, last(who)];
    netlink.add_cable((&who.port(), near), bridge, (INTERFACE, mac(who)), namespace.0.as_raw_fd())
}

fn address_end(who: Who) -> anyhow::Result<()> {
    let mut netlink = Netlink::open()?;
    netlink.add_address(INTERFACE, host_ip(who).into(), PREFIX_V4)?;
    netlink.add_address(INTERFACE, host_ip6(who).into(), PREFIX_V6)?;
    netlink.set_up(INTERFACE, true)
}

/// Waits until a link works: the kernel tells its queue and its bridge of the carrier later, by a work
/// of its own, and loses everything until then.
fn wait_ready(link: &str) -> anyhow::Result<()> {
    let end = Instant::now() + READY;
    let mut netlink = Netlink::open()?;
    while !netlink.ready(link)? {
        ensure!(Instant::now() < end, "{link} did not come up in {READY:?}");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The hardware address of a host's or the client's interface.
fn mac(who: Who) -> Mac {
    [2, 0x77, 0, 0, 0, last(who)]
}

fn last(who: Who) -> u8 {
    host_ip(who).octets()[3]
}

fn sysctl(name: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
}
