//! Forged datagrams by the hundred thousand, at a real daemon on loopback, and what becomes of the
//! cluster meanwhile.
//!
//! A quarter is noise, a quarter carries the cluster's own tag and nothing else that is right, as from
//! somebody who listens, a quarter the same from an address that no server has, and a quarter is too short
//! or too long.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flip_core::config::{self, Overrides, Source};
use flip_core::status::{MemberState, Status};
use flip_core::wire::ring::Ring;
use flip_core::wire::seal::{Seals, WIRE};
use serde_json::Map;

use crate::local::{Local, name};

/// How long the cluster may take to come together, before and after.
const LIMIT: Duration = Duration::from_secs(20);
/// The daemon that is flooded. It holds an item.
const VICTIM: usize = 1;
/// Datagrams in one system call, as many as the kernel takes (UDP_MAX_SEGMENTS).
const BATCH: usize = 64;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For how long.
    pub span: Duration,
    /// Datagrams a second at most, over all senders.
    pub rate: u32,
    /// Threads that send.
    pub senders: u32,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that the daemon read and refused. The kernel dropped the others: its buffer was full.
    pub refused: u64,
    /// For how long it went on.
    pub took: Duration,
    /// Resident memory of the daemon before and after, and the most in between, in bytes.
    pub memory: [u64; 3],
    /// Members that were declared down and items that moved, as somebody saw it.
    pub harm: Vec<String>,
}

impl Report {
    /// How much the daemon's memory grew at most, in bytes.
    #[must_use]
    pub fn growth(&self) -> u64 {
        self.memory[2].saturating_sub(self.memory[0])
    }

    /// Datagrams a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64()
    }
}

/// Starts three daemons, floods one and looks what happens.
///
/// # Errors
/// When the cluster does not come together, before or after.
pub fn run(binary: &Path, options: Options) -> anyhow::Result<Report> {
    let mut local = Local::prepare(binary, 3, 1, &["one", "two"], Map::new())?;
    for n in 0..3 {
        local.start(n)?;
    }
    let watches = (0..3).map(|n| local.watch(n)).collect::<Result<Vec<_>, _>>()?;
    let mut calm = None;
    for watch in &watches {
        calm = Some(watch.until(LIMIT, Status::healthy)?);
    }
    let calm = calm.context("three daemons")?;
    let refused_before = refused(&local)?;
    let packets = packets(&local)?;
    let to: SocketAddr = calm.members[VICTIM].address.parse().context("an address")?;
    let pid = local.pid(VICTIM)?;
    let memory_before = resident(pid)?;

    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let (sent, most, harm) = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..options.senders)
            .map(|n| {
                let (stop, packets) = (Arc::clone(&stop), &packets);
                scope.spawn(move || send(n, to, packets, options.rate / options.senders, &stop))
            })
            .collect();
        let watchers: Vec<_> = watches
            .into_iter()
            .enumerate()
            .map(|(n, watch)| {
                let calm = &calm;
                scope.spawn(move || {
                    let seen = watch.until(options.span, |status| harm(status, calm).is_some()).ok()?;
                    harm(&seen, calm).map(|what| format!("{} says: {what}", name(n)))
                })
            })
            .collect();
        let mut most = memory_before;
        while start.elapsed() < options.span {
            most = most.max(resident(pid).unwrap_or(0));
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        let sent: u64 = senders.into_iter().map(|sender| sender.join().unwrap_or(0)).sum();
        let harm: Vec<_> = watchers.into_iter().filter_map(|watch| watch.join().ok().flatten()).collect();
        (sent, most, harm)
    });
    let took = start.elapsed();
    // The daemon answers, and everybody is where they were.
    local.watch(VICTIM)?.until(LIMIT, Status::healthy)?;
    let memory_after = resident(pid)?;
    Ok(Report {
        sent,
        refused: refused(&local)? - refused_before,
        took,
        memory: [memory_before, memory_after, most.max(memory_after)],
        harm,
    })
}

/// What a flood must not do.
fn harm(status: &Status, calm: &Status) -> Option<String> {
    let fallen =
        status.members.iter().find(|member| member.state != MemberState::Up && !suspected(member.state));
    if let Some(member) = fallen {
        return Some(format!("{} is {:?}", member.id, member.state));
    }
    let holders = |status: &Status| -> Vec<Vec<String>> {
        let of =
            |item: &flip_core::status::ItemStatus| item.holders.iter().map(|h| h.server.clone()).collect();
        status.items.iter().map(of).collect()
    };
    (holders(status) != holders(calm)).then(|| format!("items are on {:?}", holders(status)))
}

const fn suspected(state: MemberState) -> bool {
    matches!(state, MemberState::Suspect)
}

fn refused(local: &Local) -> anyhow::Result<u64> {
    let status = local.watch(VICTIM)?.until(LIMIT, |_| true)?;
    Ok(status.refused.values().sum())
}

/// Eight forged datagrams of different kinds, as templates: senders vary what follows the first bytes.
fn packets(local: &Local) -> anyhow::Result<Vec<Vec<u8>>> {
    let text = std::fs::read_to_string(local.config())?;
    let overrides = Overrides { id: Some("a"), ..Overrides::default() };
    let Ok(loaded) = config::load(&Source { file: "cluster.json", text: &text }, &overrides) else {
        bail!("the config of the cluster is refused");
    };
    let config = Arc::new(loaded.config);
    let mut seals = Seals::new(Arc::clone(&config), Ring::new(config.key.clone()), 0xF100D);
    let key = seals.ring().active();
    let real = seals.seal(WIRE, key, &[0; 60], 1);
    let mut noise = real.clone();
    noise[4] ^= 0xFF;
    let mut stranger = real.clone();
    stranger[2] ^= 0x55;
    Ok(vec![noise, real, stranger, real_of(&config, 1_100), vec![0xF1; 20], vec![0xF1; 1_400]])
}

fn real_of(config: &Arc<config::Config>, len: usize) -> Vec<u8> {
    let mut seals = Seals::new(Arc::clone(config), Ring::new(config.key.clone()), 0xF100D);
    let key = seals.ring().active();
    seals.seal(WIRE, key, &vec![0; len], 1)
}

/// Datagrams of one kind from one address, many in one system call.
struct Burst {
    socket: UdpSocket,
    len: usize,
    data: Vec<u8>,
}

impl Burst {
    fn new(from: &str, packet: &[u8]) -> Option<Self> {
        let socket = UdpSocket::bind(from).ok()?;
        let segment = libc::c_int::try_from(packet.len()).ok()?;
        // SAFETY: the option takes an int, and this one lives until the call returns.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const segment).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        // Without segmentation (Linux before 4.18) each is a call of its own.
        let count = if set == 0 { BATCH.min(60_000 / packet.len()) } else { 1 };
        Some(Self { socket, len: packet.len(), data: packet.repeat(count) })
    }

    /// Sends them, each with another session; how many.
    fn send(&mut self, to: SocketAddr, variant: &mut u64) -> u64 {
        for packet in self.data.chunks_mut(self.len) {
            *variant += 1;
            if let Some(session) = packet.get_mut(8..16) {
                session.copy_from_slice(&variant.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
            }
        }
        let count = (self.data.len() / self.len) as u64;
        if self.socket.send_to(&self.data, to).is_ok() { count } else { 0 }
    }
}

/// Sends until it is told to stop; how many.
fn send(n: u32, to: SocketAddr, packets: &[Vec<u8>], rate: u32, stop: &AtomicBool) -> u64 {
    // From an address of loopback that no server has, and from one that all have.
    let froms = [format!("127.0.9.{}:0", n + 1), "127.0.0.1:0".to_owned()];
    let mut bursts: Vec<_> =
        froms.iter().flat_map(|from| packets.iter().filter_map(|packet| Burst::new(from, packet))).collect();
    let (mut sent, mut variant) = (0u64, u64::from(n) << 56);
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) && !bursts.is_empty() {
        for burst in &mut bursts {
            sent += burst.send(to, &mut variant);
            let due = Duration::from_secs_f64(sent as f64 / f64::from(rate.max(1)));
            if let Some(early) = due.checked_sub(start.elapsed()) {
                std::thread::sleep(early);
            }
        }
    }
    sent
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("a number of kB")?;
    Ok(kib * 1024)
}

/// Runs and prints the figures.
///
/// # Errors
/// Those of [`run`], and when harm was done.
pub fn bench(binary: &Path, options: Options) -> anyhow::Result<()> {
    let report = run(binary, options)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("| forged datagrams | per second | read by the daemon | memory before | at most | harm |");
    println!("| --- | --- | --- | --- | --- | --- |");
    println!(
        "| {} in {:.0} s | {:.0} | {:.0} % | {:.1} MiB | {:.1} MiB | {} |",
        report.sent,
        report.took.as_secs_f64(),
        report.rate(),
        100.0 * report.refused as f64 / report.sent.max(1) as f64,
        mib(report.memory[0]),
        mib(report.memory[2]),
        if report.harm.is_empty() { "none".to_owned() } else { report.harm.join("; ") },
    );
    if !report.harm.is_empty() || report.growth() >= 10 << 20 {
        bail!("the flood did harm");
    }
    Ok(())
}
