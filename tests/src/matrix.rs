//! `flip-bench matrix`: how long an address has two holders and how long none, by policy and fault, on real
//! kernels with real daemons.
//!
//! A holder is a host whose kernel has the address, whether anybody can reach that host or not: the strict
//! reading, under which an owner that is cut off and keeps its address counts for as long as it does. So do the
//! milliseconds of a planned move in which the old holder waits for the new one, where the policy is not `drop`.

mod cell;
mod table;

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use flip_core::config::Isolated;

use crate::cluster::ClusterSpec;
pub use cell::{Run, run};

/// Virtual addresses of every lab. `vip(0)` is at home on host 0, to which the faults happen.
pub const VIPS: usize = 2;
/// How late the kernel removes an address at most (GUARANTEES, assumption A2).
pub const LATENESS: Duration = Duration::from_millis(1250);

/// What happens to host 0, the owner of `vip(0)`, or to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It loses its power: it is silent, and its kernel with its addresses is gone.
    HostCut,
    /// Its daemon gets SIGKILL, and starts again only when the fault ends.
    Sigkill,
    /// Its daemon gets SIGSTOP, and SIGCONT when the fault ends.
    Sigstop,
    /// Nobody hears it and it hears nobody; its daemon and its kernel go on.
    Isolated,
    /// It hears nobody, and can send.
    Deaf,
    /// Nobody hears it, and it hears the others.
    Mute,
    /// All hosts are in three groups that do not hear each other, none of them a quorum.
    Split,
    /// Three tenths of all datagrams are lost.
    Loss,
}

impl Fault {
    /// All, with the names that the command line knows.
    pub const ALL: [(&'static str, Self); 8] = [
        ("host-cut", Self::HostCut),
        ("sigkill", Self::Sigkill),
        ("sigstop", Self::Sigstop),
        ("isolated", Self::Isolated),
        ("deaf", Self::Deaf),
        ("mute", Self::Mute),
        ("split", Self::Split),
        ("loss", Self::Loss),
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, each)| *each == self).map_or("?", |(name, _)| name)
    }

    /// What it is, for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::HostCut => "the owner's host loses its power",
            Self::Sigkill => "SIGKILL for the owner's daemon",
            Self::Sigstop => "SIGSTOP for the owner's daemon, later SIGCONT",
            Self::Isolated => "the owner is isolated",
            Self::Deaf => "one-way cut: the owner hears nobody",
            Self::Mute => "one-way cut: nobody hears the owner",
            Self::Split => "split into three, no quorum anywhere",
            Self::Loss => "30 % of all datagrams lost",
        }
    }
}

/// On what it is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Servers; all may hold addresses.
    pub hosts: usize,
    /// The profile of flip.
    pub profile: String,
    /// `lease`, where the policy is `drop`.
    pub lease: Duration,
    /// `on_daemon_death`, where it is another.
    pub orphan: Duration,
    /// How long a fault lasts.
    pub hold: Duration,
    /// How long datagrams are lost.
    pub loss: Duration,
    /// For the way to a healthy cluster, before and after.
    pub limit: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            hosts: 5,
            profile: "balanced".to_owned(),
            lease: flip_core::config::LEASE,
            orphan: flip_core::config::ORPHAN,
            hold: seconds(10),
            loss: seconds(60),
            limit: seconds(90),
        }
    }
}

impl Settings {
    fn spec(&self, policy: Isolated) -> ClusterSpec {
        let dropped = policy == Isolated::Drop;
        ClusterSpec {
            isolated: Some(policy),
            lease: dropped.then_some(self.lease),
            orphan: (!dropped).then_some(self.orphan),
            ..ClusterSpec::new(self.hosts, VIPS, &self.profile)
        }
    }

    /// How long this fault lasts under this policy: the end of an orphan is waited for.
    #[must_use]
    pub fn lasts(&self, policy: Isolated, fault: Fault) -> Duration {
        match fault {
            Fault::Loss => self.loss,
            Fault::Sigkill if policy != Isolated::Drop => {
                self.hold.max(self.orphan + LATENESS + Duration::from_secs(2))
            }
            Fault::HostCut
            | Fault::Sigkill
            | Fault::Sigstop
            | Fault::Isolated
            | Fault::Deaf
            | Fault::Mute
            | Fault::Split => self.hold,
        }
    }

    /// Within what a daemon that is killed or stopped has lost an address with `drop`: the longest lifetime
    /// that rule R5 gives, and the kernel's lateness.
    #[must_use]
    pub fn fence(&self) -> Duration {
        Duration::from_secs(self.lease.saturating_sub(LATENESS).as_secs()) + LATENESS
    }
}

/// Runs some cells, a number of labs at a time; the runs are in the order of the cells.
///
/// # Errors
/// The first of a run.
pub fn run_all(
    cells: &[(Isolated, Fault)],
    settings: &Settings,
    flip: &Path,
    at_once: usize,
) -> anyhow::Result<Vec<Run>> {
    let next = Mutex::new(0);
    let runs = Mutex::new(Vec::new());
    let work = || {
        loop {
            let n = {
                let mut next = next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *next += 1;
                *next - 1
            };
            let Some(&(policy, fault)) = cells.get(n) else { return };
            let result = run(policy, fault, settings, flip)
                .with_context(|| format!("measuring {} with {policy:?}", fault.name()));
            runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((n, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            scope.spawn(work);
        }
    });
    let mut runs = runs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    runs.sort_by_key(|(n, _)| *n);
    runs.into_iter().map(|(_, run)| run).collect()
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// On what.
    pub settings: Settings,
    /// How often each cell.
    pub runs: usize,
    /// How many runs of a cell at a time, each in a lab of its own.
    pub at_once: usize,
    /// The policies.
    pub policies: Vec<Isolated>,
    /// The faults.
    pub faults: Vec<Fault>,
    /// JSON in place of Markdown.
    pub json: bool,
}

/// Measures, and prints a Markdown table row by row, or one JSON object at the end.
///
/// # Errors
/// When a lab cannot be built, or a cluster does not recover from a fault.
pub fn bench(options: &Options, flip: &Path) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    if !options.json {
        table::head(options);
    }
    for &fault in &options.faults {
        for &policy in &options.policies {
            let cells = vec![(policy, fault); options.runs];
            let row = table::Row {
                policy,
                fault,
                runs: run_all(&cells, &options.settings, flip, options.at_once)?,
            };
            if !options.json {
                row.print();
            }
            rows.push(row);
        }
    }
    if options.json {
        println!("{:#}", table::json(options, &rows));
    }
    Ok(())
}
