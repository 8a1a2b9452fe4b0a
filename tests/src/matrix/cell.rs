//! One run of one cell: a fresh cluster, one fault, and who held what until all is as it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flip_core::config::Isolated;
use flip_core::status::MemberState;

use super::{Fault, Settings, VIPS};
use crate::cluster::Cluster;
use crate::lab::{Who, vip};
use crate::probe::{Holders, HoldersReport, Span, wait_held};

/// How long a cluster is left alone before the fault, and watched after it.
const REST: Duration = Duration::from_millis(500);

/// What was seen. All times are of the kernels' addresses, from the fault to the end of the recovery.
#[derive(Clone, Debug)]
pub struct Run {
    /// How long the fault lasted.
    pub lasted: Duration,
    /// The longest time in which an address was on two hosts or more.
    pub two: Duration,
    /// The longest time in which an address was on no host.
    pub none: Duration,
    /// From the fault until the owner's kernel had its address no more, if that was while it lasted.
    pub fence: Option<Duration>,
    /// From the fault until the first of the others took the owner for down.
    pub detected: Option<Duration>,
    /// How often a host took an address.
    pub taken: usize,
}

/// Starts a cluster, makes the fault happen, ends it, and waits until every address is at home again.
///
/// # Errors
/// When there can be no lab, or the cluster does not become healthy before or after.
pub fn run(policy: Isolated, fault: Fault, settings: &Settings, flip: &Path) -> anyhow::Result<Run> {
    let mut cluster = Cluster::start(settings.spec(policy), flip)?;
    wait_home(&cluster, settings.limit)?;
    thread::sleep(REST);
    let holders = Holders::start(cluster.lab())?;
    let verdicts = Verdicts::start(&cluster)?;
    let from = Instant::now();
    begin(&mut cluster, fault)?;
    thread::sleep(settings.lasts(policy, fault).saturating_sub(from.elapsed()));
    let until = Instant::now();
    end(&mut cluster, fault)?;
    wait_home(&cluster, settings.limit)?;
    thread::sleep(REST);
    let held = holders.stop()?;
    let over = held.observed().to;
    let longest = |spans: fn(&HoldersReport, std::net::IpAddr, Instant, Instant) -> Vec<Span>| {
        let all = (0..VIPS).flat_map(|k| spans(&held, vip(k), from, over));
        all.map(|span| span.length()).max().unwrap_or_default()
    };
    let gone = held.timeline(vip(0)).into_iter().find(|(at, hosts)| *at >= from && !hosts.contains(&0));
    Ok(Run {
        lasted: until - from,
        two: longest(HoldersReport::contested),
        none: longest(HoldersReport::unheld),
        fence: gone.filter(|(at, _)| *at < until).map(|(at, _)| at - from),
        detected: verdicts.stop().map(|at| at.saturating_duration_since(from)),
        taken: (0..VIPS).map(|k| held.taken_in(vip(k), from, over)).sum(),
    })
}

/// Waits until everybody is well and every address is on its own host and on no other.
fn wait_home(cluster: &Cluster, limit: Duration) -> anyhow::Result<()> {
    cluster.wait_healthy(limit)?;
    for k in 0..VIPS {
        wait_held(cluster.lab(), vip(k), limit, |hosts| *hosts == BTreeSet::from([k]))?;
    }
    Ok(())
}

fn begin(cluster: &mut Cluster, fault: Fault) -> anyhow::Result<()> {
    let hosts = cluster.lab().hosts();
    match fault {
        Fault::HostCut => {
            // A stopped daemon is silent at once and repairs nothing, and the kernel tells nobody that its
            // port is closed, as it would of a killed one before the cut.
            cluster.stop(0)?;
            let left = cluster.lab().addresses(Who::Host(0))?;
            for ip in cluster.spec().addresses().into_iter().filter(|ip| left.contains(ip)) {
                cluster.lab().delete_address(Who::Host(0), ip)?;
            }
            cluster.lab().cut(0)?;
            cluster.kill(0)?;
        }
        Fault::Sigkill => cluster.kill(0)?,
        Fault::Sigstop => cluster.stop(0)?,
        Fault::Isolated => cluster.lab().cut(0)?,
        Fault::Deaf => cluster.lab().deafen(0)?,
        Fault::Mute => {
            let others = (1..hosts).map(Who::Host).chain([Who::Client]);
            others.into_iter().try_for_each(|to| cluster.lab().cut_one_way(Who::Host(0), to))?;
        }
        Fault::Split => {
            let mut groups = vec![Vec::new(); 3];
            (0..hosts).for_each(|host| groups[host * 3 / hosts].push(host));
            let groups: Vec<&[usize]> = groups.iter().map(Vec::as_slice).collect();
            cluster.lab().partition(&groups, 0)?;
        }
        Fault::Loss => cluster.lab().loss(30)?,
    }
    Ok(())
}

fn end(cluster: &mut Cluster, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::HostCut => {
            cluster.restart(0)?;
            cluster.lab().heal()
        }
        Fault::Sigkill => cluster.restart(0),
        Fault::Sigstop => cluster.cont(0),
        Fault::Isolated | Fault::Deaf | Fault::Mute | Fault::Split | Fault::Loss => cluster.lab().heal(),
    }
}

/// When the other daemons take the owner for down.
struct Verdicts {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Option<Instant>>>,
}

impl Verdicts {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for n in 1..cluster.lab().hosts() {
            let mut watch = cluster.watch(n)?;
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let status = watch.next_within(Duration::from_millis(50)).ok()?;
                    if status.is_some_and(|status| status.members[0].state == MemberState::Down) {
                        return Some(Instant::now());
                    }
                }
                None
            }));
        }
        Ok(Self { stop, threads })
    }

    /// When the first of them did.
    fn stop(self) -> Option<Instant> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).min()
    }
}
