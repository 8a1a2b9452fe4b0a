//! What addresses cost and how fast they are answered again: after a death, while they are renewed, in a
//! planned move.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use flip_core::config::Isolated;
use flip_systems::clock::raise_priority;
use serde_json::{Value, json};

use crate::cluster::{Cluster, ClusterSpec, name};
use crate::lab::{INTERFACE, Lab, Who, vip};
use crate::probe::Probe;
use crate::spread::Spread;

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(120);
/// When an address is not answered for so long, it will not be.
const NEVER: Duration = Duration::from_secs(30);
/// Where the hosts answer.
const PORT: u16 = 7778;
/// Addresses of one network of 256, so that none is a network's first or last.
const PER_BYTE: usize = 250;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often.
    pub runs: usize,
    /// How many addresses one host has that dies.
    pub addresses: Vec<usize>,
    /// How many addresses are renewed, and for how long that is watched.
    pub renewed: usize,
    /// How long renewals are watched.
    pub span: Duration,
    /// The profile of flip.
    pub profile: String,
}

/// Measures all, and prints Markdown.
///
/// # Errors
/// When there can be no lab, or something does not come to pass.
pub fn run(options: &Options, flip: &Path) -> anyhow::Result<()> {
    let Options { runs, profile, .. } = options;
    println!("Median (least to greatest) of {runs} runs, profile {profile}.\n");
    println!("| addresses of the host that died | from verdict to answer, ms: median address | p99 | last |");
    println!("| --- | --- | --- | --- |");
    for &count in &options.addresses {
        let mut columns: [Vec<Duration>; 3] = Default::default();
        for _ in 0..*runs {
            let times = takeover(count, profile, flip)?;
            let part = |percent: usize| times[(times.len() - 1) * percent / 100];
            for (column, percent) in columns.iter_mut().zip([50, 99, 100]) {
                column.push(part(percent));
            }
        }
        let [median, p99, last] = columns.map(|times| Spread::of_millis(&times));
        println!("| {count} | {median} | {p99} | {last} |");
    }
    println!("\n| addresses with a lease of 4 s | processor time, ms a second |");
    println!("| --- | --- |");
    for count in [1, options.renewed] {
        let cpu = (0..*runs).map(|_| renewals(count, options.span, profile, flip));
        let cpu = cpu.collect::<anyhow::Result<Vec<_>>>()?;
        println!("| {count} | {} |", Spread::new(cpu, 2));
    }
    println!("\n| planned move, one datagram a millisecond | lost |");
    println!("| --- | --- |");
    let (there, back) = planned(*runs, profile, flip)?;
    println!("| flip drain | {} |", Spread::new(there, 0));
    println!("| flip undrain | {} |", Spread::new(back, 0));
    Ok(())
}

/// The address number `k`, in the second network of the hosts.
#[must_use]
pub fn address(k: usize) -> Ipv4Addr {
    let byte = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 78, byte(1 + k / PER_BYTE), byte(1 + k % PER_BYTE))
}

/// A cluster whose addresses are all at home on the first host, in a network that has room for them. Its daemons
/// have been started, and nothing is waited for. `settings` are those of the addresses: `config` of the cluster.
///
/// # Errors
/// When there can be no lab, or a daemon cannot be started.
pub fn start(spec: ClusterSpec, count: usize, settings: &Value, flip: &Path) -> anyhow::Result<Cluster> {
    let hosts = spec.hosts + spec.arbiters;
    let mut config = spec.config();
    let item = |k| json!({ "ip": address(k), "prefer": name(0) });
    config["cluster"]["system"]["ip"]["data"] = (0..count).map(item).collect::<Value>();
    config["cluster"]["config"] = settings.clone();
    let mut cluster = Cluster::prepare(spec, flip)?;
    cluster.set_config(&config)?;
    for who in (0..hosts).map(Who::Host).chain([Who::Client]) {
        let last = match who {
            Who::Host(n) => n + 1,
            Who::Client | Who::Bridge => 100,
        };
        let mut ip = cluster.lab().command(who, "ip")?;
        ip.args(["address", "add", &format!("10.78.0.{last}/16"), "dev", INTERFACE]).stdin(Stdio::null());
        ensure!(cluster.lab().spawn(ip)?.wait(LIMIT)?.success(), "cannot add a network");
    }
    for n in 0..hosts {
        cluster.restart(n)?;
    }
    Ok(cluster)
}

fn cluster(spec: ClusterSpec, count: usize, flip: &Path) -> anyhow::Result<Cluster> {
    let cluster = start(spec, count, &json!({}), flip)?;
    cluster.wait_healthy(LIMIT)?;
    Ok(cluster)
}

/// A host with so many addresses dies: how long after the verdict each of them answers, ascending.
///
/// # Errors
/// When there can be no lab, or one of them does not answer.
pub fn takeover(count: usize, profile: &str, flip: &Path) -> anyhow::Result<Vec<Duration>> {
    let cluster = cluster(ClusterSpec::new(3, 0, profile), count, flip)?;
    let clients = Clients::start(cluster.lab(), count)?;
    let wait = |host: fn(usize) -> bool| -> anyhow::Result<Vec<SystemTime>> {
        let end = Instant::now() + NEVER;
        loop {
            let first = clients.first(host);
            if first.len() == count {
                return Ok(first);
            }
            ensure!(Instant::now() < end, "{} of {count} addresses answer after {NEVER:?}", first.len());
            thread::sleep(Duration::from_millis(5));
        }
    };
    wait(|host| host == 0)?;
    // The announcements of the start are over.
    thread::sleep(Duration::from_secs(6));
    let cut = SystemTime::now();
    clients.forget();
    cluster.lab().cut(0)?;
    let answered = wait(|host| host != 0)?;
    // The log is written by a thread of its own.
    let end = Instant::now() + NEVER;
    let verdict = loop {
        let verdicts = [1, 2].into_iter().filter_map(|n| verdict(&cluster.log(n), &name(0), cut));
        match verdicts.min() {
            Some(verdict) => break verdict,
            None => ensure!(Instant::now() < end, "no verdict in the logs"),
        }
        thread::sleep(Duration::from_millis(5));
    };
    // An address that answers before this daemon wrote of the verdict was very quick.
    let mut times: Vec<_> =
        answered.into_iter().map(|at| at.duration_since(verdict).unwrap_or_default()).collect();
    times.sort();
    Ok(times)
}

/// When a log says first that a member is down, after a moment.
fn verdict(log: &str, member: &str, after: SystemTime) -> Option<SystemTime> {
    let day = Duration::from_secs(24 * 3600);
    let since = after.duration_since(UNIX_EPOCH).ok()?;
    let midnight = since - Duration::from_nanos((since.as_nanos() % day.as_nanos()) as u64);
    let of = |line: &str| {
        // 2026-01-31T12:34:56.789012Z
        let time = line.split_once('T')?.1.split_once('Z')?.0;
        let mut parts = time.split(':').map(str::parse::<f64>);
        let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        let at = midnight + Duration::from_secs_f64((hours * 60.0 + minutes) * 60.0 + seconds);
        // The day may have changed since.
        Some(UNIX_EPOCH + if at < since { at + day } else { at })
            .filter(|_| at >= since || at + day / 2 < since)
    };
    let down =
        |line: &&str| line.contains("member is down") && line.contains(&format!("server=\"{member}\""));
    log.lines().filter(down).find_map(of)
}

/// Asks many addresses in turn, and notes who answers first and when.
struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    answers: Answers,
}

/// When each host first answered at each address.
type Answers = Arc<Mutex<BTreeMap<(usize, usize), SystemTime>>>;

impl Clients {
    fn start(lab: &Lab, count: usize) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Self { stop: Arc::clone(&stop), threads: Vec::new(), answers: Answers::default() };
        for host in 0..lab.hosts() {
            let socket = lab.enter(Who::Host(host), || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            let stop = Arc::clone(&stop);
            clients.threads.push(thread::spawn(move || answer(&socket, host, &stop)));
        }
        let socket = lab.enter(Who::Client, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.set_nonblocking(true)?;
        let answers = Arc::clone(&clients.answers);
        // Every address is asked often, and all of them together not so often that this is what is measured.
        let each = Duration::from_millis(1).max(Duration::from_micros(200) * u32::try_from(count)?);
        clients.threads.push(thread::spawn(move || ask(&socket, count, each, &answers, &stop)));
        Ok(clients)
    }

    /// From now on an answer counts as the first.
    fn forget(&self) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// When each address was first answered by such a host; those that were not are missing.
    fn first(&self, host: fn(usize) -> bool) -> Vec<SystemTime> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first: BTreeMap<usize, SystemTime> = BTreeMap::new();
        for ((_, address), at) in answers.iter().filter(|((by, _), _)| host(*by)) {
            let known = first.entry(*address).or_insert(*at);
            *known = (*known).min(*at);
        }
        first.into_values().collect()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn answer(socket: &UdpSocket, host: usize, stop: &AtomicBool) {
    raise_priority();
    let mut buffer = [0; 4];
    buffer[2..].copy_from_slice(&u16::try_from(host).unwrap_or(u16::MAX).to_be_bytes());
    while !stop.load(Ordering::Relaxed) {
        if let Ok((2, from)) = socket.recv_from(&mut buffer[..2]) {
            let _ = socket.send_to(&buffer, from);
        }
    }
}

fn ask(socket: &UdpSocket, count: usize, each: Duration, answers: &Answers, stop: &AtomicBool) {
    raise_priority();
    let targets: Vec<_> = (0..count).map(|k| SocketAddr::from((address(k), PORT))).collect();
    let mut next = Instant::now();
    let mut buffer = [0; 8];
    while !stop.load(Ordering::Relaxed) {
        for (k, target) in (0u16..).zip(&targets) {
            // One that cannot be sent is one that is not answered.
            let _ = socket.send_to(&k.to_be_bytes(), target);
        }
        next = (next + each).max(Instant::now());
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((4, _)) => {
                    let number = |at: usize| usize::from(u16::from_be_bytes([buffer[at], buffer[at + 1]]));
                    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                    answers.entry((number(2), number(0))).or_insert_with(SystemTime::now);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = next.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    thread::sleep(left.min(Duration::from_micros(200)));
                }
                Err(_) => break,
            }
        }
    }
}

/// Processor time of a daemon that holds so many addresses under leases, in milliseconds a second.
fn renewals(count: usize, span: Duration, profile: &str, flip: &Path) -> anyhow::Result<f64> {
    let spec = ClusterSpec { arbiters: 2, isolated: Some(Isolated::Drop), ..ClusterSpec::new(1, 0, profile) };
    let cluster = cluster(spec, count, flip)?;
    // The announcements of the start are over.
    thread::sleep(Duration::from_secs(8));
    let (before, start) = (cluster.process(0)?.cpu_precise()?, Instant::now());
    thread::sleep(span);
    let used = cluster.process(0)?.cpu_precise()? - before;
    let held = cluster.lab().addresses(Who::Host(0))?;
    let lost = (0..count).filter(|k| !held.contains(&address(*k).into())).count();
    ensure!(lost == 0, "{lost} of {count} addresses were not renewed");
    Ok(used.as_secs_f64() * 1000.0 / start.elapsed().as_secs_f64())
}

/// Datagrams that a client loses while its address is moved away and back, run by run.
fn planned(runs: usize, profile: &str, flip: &Path) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let cluster = Cluster::start(ClusterSpec::new(3, 1, profile), flip)?;
    cluster.wait_healthy(LIMIT)?;
    let (mut there, mut back) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        for (what, lost) in [("drain", &mut there), ("undrain", &mut back)] {
            let probe = Probe::start(cluster.lab(), vip(0), Duration::from_millis(1))?;
            thread::sleep(Duration::from_secs(1));
            let from = probe.mark();
            let state = cluster.socket(0);
            let state = state.parent().and_then(Path::parent).context("a socket in a state dir")?;
            let mut tool = Command::new(flip);
            tool.args([what, &name(0), "--id", &name(0), "--state-dir"]).arg(state).stdout(Stdio::null());
            ensure!(tool.status()?.success(), "flip {what} failed");
            let away = what == "drain";
            cluster.wait_for(0, LIMIT, |status| {
                let holders = &status.items[0].holders;
                matches!(&holders[..], [one] if (one.server != name(0)) == away)
            })?;
            thread::sleep(Duration::from_secs(1));
            let to = probe.mark();
            let report = probe.stop()?;
            lost.push(report.outages(from, to).iter().map(|outage| outage.lost as f64).sum::<f64>() + 0.0);
        }
    }
    Ok((there, back))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_of_a_verdict_is_read_from_a_log() {
        let log = "2026-03-04T00:00:01.500000Z  INFO member is up server=\"h0\"\n\
                   2026-03-04T00:00:02.250000Z  WARN member is down server=\"h1\"\n\
                   2026-03-04T00:00:03.250000Z  WARN member is down server=\"h0\" voters=2\n";
        // 2026-03-04T00:00:00Z
        let midnight = UNIX_EPOCH + Duration::from_secs(1_772_582_400);
        let after = midnight + Duration::from_secs(1);
        assert_eq!(verdict(log, "h0", after), Some(midnight + Duration::from_millis(3250)));
        assert_eq!(verdict(log, "h2", after), None);
        // The day changed in between.
        let after = midnight - Duration::from_secs(5);
        assert_eq!(verdict(log, "h0", after), Some(midnight + Duration::from_millis(3250)));
        // Before the moment that is asked for.
        assert_eq!(verdict(log, "h0", midnight + Duration::from_secs(9)), None);
    }

    #[test]
    fn addresses_differ() {
        let all: std::collections::BTreeSet<_> = (0..1000).map(address).collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(|address| !matches!(address.octets()[3], 0 | 255)));
    }
}
