//! Servers, a client and the bridge between them, in network namespaces that have no name.
//!
//! Nothing of a [`Lab`] can be seen from outside, and nothing is left of it when the process that
//! built it ends, however it ends: namespaces live as long as their descriptors, and processes are
//! killed by the kernel with the thread that forked them. (What such a process has started itself is
//! killed with its group when its [`Process`] is dropped, and only then.)

mod build;
mod faults;
pub(crate) mod netlink;
mod plan;
mod process;
mod scratch;
mod tap;

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use build::Wiring;
use faults::Faults;
use netlink::Netlink;
pub use plan::{INTERFACE, Who, host_ip, host_ip6, vip, vip6};
use plan::{MAX_HOSTS, full_prefix};
use process::Spawner;
pub(crate) use process::wait_readable;
pub use process::{Process, exists};
pub(crate) use scratch::Scratch;
pub use tap::Tap;

/// Packets and bytes that an interface has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets received.
    pub packets_in: u64,
    /// Bytes received, Ethernet headers included.
    pub bytes_in: u64,
    /// Packets sent.
    pub packets_out: u64,
    /// Bytes sent, Ethernet headers included.
    pub bytes_out: u64,
}

/// The namespaces, what is wired between them, and the faults that are on.
///
/// A clone is the same lab; it ends with the last clone, and every process in it ends with it.
#[derive(Clone)]
pub struct Lab(Arc<Inner>);

struct Inner {
    // First, because it kills what lives in the namespaces.
    spawner: Spawner,
    wiring: Wiring,
    faults: Mutex<Faults>,
}

impl Lab {
    /// Builds a lab with a number of hosts and one client.
    ///
    /// # Errors
    /// Without root, without nftables, or when the kernel refuses.
    pub fn new(hosts: usize) -> anyhow::Result<Self> {
        ensure!((1..=MAX_HOSTS).contains(&hosts), "a lab has 1 to {MAX_HOSTS} hosts, not {hosts}");
        available().map_err(anyhow::Error::msg)?;
        let wiring = Wiring::new(hosts).context("cannot build the lab")?;
        Ok(Self(Arc::new(Inner { spawner: Spawner::start()?, wiring, faults: Mutex::default() })))
    }

    /// How many hosts there are.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.0.wiring.hosts.len()
    }

    /// Runs `f` on a thread of its own inside a namespace, and returns what it returned. Sockets
    /// that it opens stay in that namespace, wherever they are used.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn enter<T: Send>(&self, who: Who, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        self.0.wiring.of(who)?.enter(f)
    }

    /// A command whose process will run inside a namespace, lead a process group, and be killed when
    /// the thread that started it ends. Start it with [`Lab::spawn`].
    ///
    /// # Errors
    /// When there is no such host.
    pub fn command(&self, who: Who, program: &str) -> anyhow::Result<Command> {
        let namespace = self.0.wiring.of(who)?.descriptor()?;
        let mut command = Command::new(program);
        command.process_group(0);
        // SAFETY: between fork and exec this makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        Ok(command)
    }

    /// Starts a command from [`Lab::command`], on a thread that lives as long as the lab.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, command: Command) -> anyhow::Result<Process> {
        self.0.spawner.spawn(command)
    }

    /// Adds an address to a place's interface by hand, with prefix 32 or 128, and waits until the place
    /// would answer who asks for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(&self, who: Who, ip: IpAddr) -> anyhow::Result<()> {
        self.enter(who, || {
            Netlink::open()?.add_address(INTERFACE, ip, full_prefix(ip))?;
            wait_solicitable(ip)
        })?
    }

    /// Deletes an address that [`Lab::add_address`] or somebody else added.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_address(&self, who: Who, ip: IpAddr) -> anyhow::Result<()> {
        self.enter(who, || Netlink::open()?.delete_address(INTERFACE, ip, full_prefix(ip)))?
    }

    /// All addresses of a place, `lo` and IPv6's link-local ones included.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&self, who: Who) -> anyhow::Result<Vec<IpAddr>> {
        self.enter(who, || Netlink::open()?.addresses())?
    }

    /// Makes a place forget the hardware address of `ip`; `false` when it knew none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget_neighbour(&self, who: Who, ip: IpAddr) -> anyhow::Result<bool> {
        self.enter(who, || Netlink::open()?.forget_neighbour(INTERFACE, ip))?
    }

    /// Whether a host's or the client's interface has a carrier.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn carrier(&self, who: Who) -> anyhow::Result<bool> {
        self.enter(who, || Netlink::open()?.carrier(INTERFACE))?
    }

    /// What the interface of a place has seen so far; for the bridge, what it forwarded on all ports.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn traffic(&self, who: Who) -> anyhow::Result<Traffic> {
        let path = "/proc/thread-self/net/dev";
        let text = self.enter(who, || fs::read_to_string(path))?.with_context(|| format!("read {path}"))?;
        let mut sum = Traffic::default();
        for line in text.lines() {
            let Some((name, numbers)) = line.split_once(':') else { continue };
            let name = name.trim();
            let counts = if who == Who::Bridge { name.starts_with('p') } else { name == INTERFACE };
            let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            let (true, [bytes_in, packets_in, _, _, _, _, _, _, bytes_out, packets_out, ..]) =
                (counts, &numbers[..])
            else {
                continue;
            };
            sum.bytes_in += bytes_in;
            sum.packets_in += packets_in;
            sum.bytes_out += bytes_out;
            sum.packets_out += packets_out;
        }
        Ok(sum)
    }
}

/// Waits until this namespace hears neighbour solicitations for `ip`: the kernel joins their group
/// later than it acknowledges the address, by a work of its own. IPv4 has no such thing.
fn wait_solicitable(ip: IpAddr) -> anyhow::Result<()> {
    let IpAddr::V6(ip) = ip else { return Ok(()) };
    let [.., a, b, c] = ip.octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    let path = "/proc/thread-self/net/igmp6";
    let end = Instant::now() + Duration::from_secs(5);
    while !fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.contains(&group) {
        ensure!(Instant::now() < end, "nobody listens to solicitations for {ip}");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether a lab can be built here.
///
/// # Errors
/// What is missing, and how to get it.
pub fn available() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("a lab needs root, for network namespaces".to_owned());
    }
    match Command::new("nft").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) | Err(_) => Err("a lab needs nftables for its faults: apt-get install nftables".to_owned()),
    }
}

/// Guards a test that needs root: `false`, and a loud word, where there is none.
///
/// # Panics
/// Without root when FLIP_REQUIRE_ROOT=1, so that nobody takes skipped tests for passed ones.
#[must_use]
pub fn root_or_skip(test: &str) -> bool {
    rustix::process::geteuid().is_root() || crate::needs::skip(test, "needs root")
}
