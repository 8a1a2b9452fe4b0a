//! One measurement at a time: fresh probes, one fault, one figure.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};

use super::subject::{HOSTS, Kind, Subject, VIPS};
use super::{Options, What};
use crate::busy::BusyLoops;
use crate::lab::{Traffic, Who, vip};
use crate::probe::{Holders, Probe, Report};
use crate::spread::Spread;

/// How often the client asks.
const EACH: Duration = Duration::from_millis(1);
/// How often it asks where seven labs run at once.
const SELDOM: Duration = Duration::from_millis(2);
/// How long the client goes on asking after the address is elsewhere.
const REST: Duration = Duration::from_millis(500);
/// When nobody takes an address for this long, nobody will.
const NEVER: Duration = Duration::from_secs(15);
/// The announcements of a start are over after this.
const CALM: Duration = Duration::from_secs(6);

/// Where the client is while the network is split: with host 0, or with the others.
const MINORITY: usize = 0;
const MAJORITY: usize = 1;

/// The figures of all runs.
#[derive(Default)]
pub struct Figures {
    /// The client's longest outage in each run.
    pub outages: Vec<Duration>,
    /// How often a host took an address in each run.
    pub moves: Option<Vec<f64>>,
    /// What else there is to say.
    pub remark: String,
}

pub fn measure(what: What, kind: &Kind, options: &Options, flip: &Path) -> anyhow::Result<Figures> {
    match what {
        What::HostCut => one_by_one(kind, options, flip, host_cut),
        What::Sigterm => one_by_one(kind, options, flip, sigterm),
        What::Sigkill => one_by_one(kind, options, flip, sigkill),
        What::Deaf => one_by_one(kind, options, flip, deaf),
        What::Loss20 => at_once(kind, options, flip, |subject, _| loss(subject, 20, options.span)),
        What::Loss40 => at_once(kind, options, flip, |subject, _| loss(subject, 40, options.span)),
        What::Heal => at_once(kind, options, flip, |subject, _| heal(subject, MAJORITY, options.span)),
        What::HealMinority => {
            at_once(kind, options, flip, |subject, _| heal(subject, MINORITY, options.span))
        }
        What::Busy => one_by_one(kind, options, flip, |subject| busy(subject, options.span)),
        What::Idle => idle(kind, flip),
    }
}

/// What one run gives: the outage, the moves where they count, and a remark.
struct Run {
    outage: Duration,
    moves: Option<f64>,
    remark: Option<String>,
}

impl Run {
    fn outage(outage: Duration) -> Self {
        Self { outage, moves: None, remark: None }
    }
}

fn collect(runs: Vec<Run>) -> Figures {
    let mut remarks: Vec<_> = runs.iter().filter_map(|run| run.remark.clone()).collect();
    remarks.sort();
    let mut counted: Vec<(String, usize)> = Vec::new();
    for remark in remarks {
        match counted.last_mut() {
            Some((last, count)) if *last == remark => *count += 1,
            _ => counted.push((remark, 1)),
        }
    }
    Figures {
        outages: runs.iter().map(|run| run.outage).collect(),
        moves: runs.iter().map(|run| run.moves).collect(),
        remark: counted.iter().map(|(what, n)| format!("{n} × {what}")).collect::<Vec<_>>().join(", "),
    }
}

/// Runs that must not disturb each other, in one lab, at different moments of the probe cycle.
fn one_by_one(
    kind: &Kind,
    options: &Options,
    flip: &Path,
    each: impl Fn(&mut Subject) -> anyhow::Result<Run>,
) -> anyhow::Result<Figures> {
    let mut subject = Subject::start(kind, flip)?;
    let mut runs = Vec::new();
    for run in 0..options.runs {
        thread::sleep(Duration::from_millis(1000 + 71 * run as u64));
        runs.push(each(&mut subject)?);
        subject.wait_home()?;
    }
    Ok(collect(runs))
}

/// Long runs, each in a lab of its own, all at the same time.
fn at_once(
    kind: &Kind,
    options: &Options,
    flip: &Path,
    each: impl Fn(&mut Subject, usize) -> anyhow::Result<Run> + Sync,
) -> anyhow::Result<Figures> {
    let run = |run| {
        let mut subject = Subject::start(kind, flip)?;
        each(&mut subject, run)
    };
    let runs = thread::scope(|scope| {
        let threads: Vec<_> = (0..options.runs).map(|n| scope.spawn(move || run(n))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a run panicked"))?)
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(collect(runs))
}

fn host_cut(subject: &mut Subject) -> anyhow::Result<Run> {
    let (run, _) = fault(subject, REST, |subject| subject.lab().cut(0))?;
    subject.lab().heal()?;
    Ok(run)
}

fn sigterm(subject: &mut Subject) -> anyhow::Result<Run> {
    let (run, _) = fault(subject, REST, Subject::terminate)?;
    subject.restart()?;
    Ok(run)
}

fn sigkill(subject: &mut Subject) -> anyhow::Result<Run> {
    // Announcements come again after 1 s and 5 s.
    let (mut run, seen) = fault(subject, CALM, Subject::kill)?;
    if run.remark.is_none() {
        let end = Instant::now();
        let last = seen.answered_by(end - 2 * CALM, end).last().map(|service| service.host);
        let remark = if last == Some(0) { "the dead daemon's address wins" } else { "the new holder wins" };
        run.remark = Some(remark.to_owned());
    }
    subject.restart()?;
    Ok(run)
}

fn deaf(subject: &mut Subject) -> anyhow::Result<Run> {
    let (run, _) = fault(subject, REST, |subject| subject.lab().deafen(0))?;
    subject.lab().heal()?;
    Ok(run)
}

/// What the client of `vip(0)` loses by a fault at its holder, watched until `rest` after somebody else
/// has taken the address.
fn fault(
    subject: &mut Subject,
    rest: Duration,
    happen: impl FnOnce(&mut Subject) -> anyhow::Result<()>,
) -> anyhow::Result<(Run, Report)> {
    let probe = Probe::start(subject.lab(), vip(0), EACH)?;
    thread::sleep(REST);
    let mark = probe.mark();
    happen(subject)?;
    let taken = subject.taken(NEVER);
    thread::sleep(rest);
    let seen = probe.stop()?;
    let remark = (!taken).then(|| "never replaced".to_owned());
    Ok((Run { remark, ..Run::outage(seen.outage_since(mark)) }, seen))
}

fn loss(subject: &mut Subject, percent: u8, span: Duration) -> anyhow::Result<Run> {
    let watch = Watch::start(subject)?;
    let from = Instant::now();
    subject.lab().loss(percent)?;
    thread::sleep(span);
    let to = Instant::now();
    subject.lab().heal()?;
    watch.stop(from, to)
}

/// Host 0 alone on one side; `client` says on which side the client is.
fn heal(subject: &mut Subject, client: usize, span: Duration) -> anyhow::Result<Run> {
    subject.lab().partition(&[&[0], &[1, 2]], client)?;
    ensure!(subject.taken(NEVER), "nobody took over on the larger side");
    thread::sleep(Duration::from_secs(3));
    let watch = Watch::start(subject)?;
    thread::sleep(REST);
    subject.lab().heal()?;
    // What the partition itself took from the client ends here.
    let from = Instant::now();
    thread::sleep(span);
    let mut run = watch.stop(from, Instant::now())?;
    // Where they go is not the question here.
    run.moves = None;
    Ok(run)
}

/// Nothing is wrong but that the processors have other things to do.
fn busy(subject: &mut Subject, span: Duration) -> anyhow::Result<Run> {
    let watch = Watch::start(subject)?;
    let from = Instant::now();
    let loops = BusyLoops::start(3);
    thread::sleep(span);
    drop(loops);
    watch.stop(from, Instant::now())
}

/// A client of each address, and an observer of their holders.
struct Watch {
    probes: Vec<Probe>,
    holders: Holders,
}

impl Watch {
    fn start(subject: &Subject) -> anyhow::Result<Self> {
        let probes =
            (0..VIPS).map(|k| Probe::start(subject.lab(), vip(k), SELDOM)).collect::<Result<_, _>>()?;
        Ok(Self { probes, holders: Holders::start(subject.lab())? })
    }

    fn stop(self, from: Instant, to: Instant) -> anyhow::Result<Run> {
        let held = self.holders.stop()?;
        let moves: usize = (0..VIPS).map(|k| held.taken_in(vip(k), from, to)).sum();
        let seen = self.probes.into_iter().map(Probe::stop).collect::<Result<Vec<Report>, _>>()?;
        let outage = seen.iter().map(|report| report.outage_within(from, to)).max().context("no probe")?;
        Ok(Run { moves: Some(moves as f64), ..Run::outage(outage) })
    }
}

fn idle(kind: &Kind, flip: &Path) -> anyhow::Result<Figures> {
    let span = Duration::from_secs(20);
    let subject = Subject::start(kind, flip)?;
    thread::sleep(CALM);
    let traffic = || {
        let each = (0..HOSTS).map(|n| subject.lab().traffic(Who::Host(n)));
        each.collect::<anyhow::Result<Vec<Traffic>>>()
    };
    let (before, cpu, begin) = (traffic()?, subject.cpu()?, Instant::now());
    thread::sleep(span);
    let (after, used, took) = (traffic()?, subject.cpu()?, begin.elapsed().as_secs_f64());
    let each = |field: fn(&Traffic) -> u64| {
        let rates = before.iter().zip(&after).map(|(was, is)| (field(is) - field(was)) as f64 / took);
        Spread::new(rates.collect(), 1)
    };
    let share = cpu.zip(used).map(|(was, is)| (is - was).as_secs_f64() / took / HOSTS as f64 * 100.0);
    let share = share.map(|share| format!(", {share:.2} % of a core per daemon")).unwrap_or_default();
    let (packets, bytes) = (each(|t| t.packets_out), each(|t| t.bytes_out));
    Ok(Figures {
        remark: format!("sent per host: {packets} packets/s, {bytes} bytes/s{share}"),
        ..Figures::default()
    })
}
