//! One case from its start to its end: the cluster forms, things go wrong, and then it must be whole again
//! within a bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::check::Violation;
use super::fault::{Disk, Fault};
use super::happening::Happening;
use super::health::Checks;
use super::network::Trouble;
use super::plan::{Case, Plan};
use super::truth::Tally;
use super::world::World;
use crate::config::{Config, Timing};
use crate::limits;

/// How a case ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Broken promises; empty when all is well.
    pub violations: Vec<Violation>,
    /// Digest of the whole run.
    pub trace: u64,
    /// Verdicts reached.
    pub verdicts: u64,
    /// Positions of the servers that were declared down.
    pub fell: std::collections::BTreeSet<usize>,
    /// Alive hooks run.
    pub moves: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Situations reached, one bit per name of `marks::NAMES`; always zero without the harness.
    pub marks: u128,
    /// Longest overlap of a `drop` item that each exception excused.
    pub excused: BTreeMap<&'static str, Duration>,
    /// Per item, what was measured while the faults were on.
    pub tallies: Vec<Tally>,
    /// What happened, as lines for people; empty unless wanted.
    pub timeline: Vec<String>,
}

/// Runs a case. `timeline` keeps what happened as lines for people.
#[must_use]
pub fn run(case: &Case, timeline: bool) -> Outcome {
    let adds = |fault: &Fault| {
        matches!(
            fault,
            Fault::Edit { add: true } | Fault::Adopt { change: super::adopt::Change::AddItem, .. }
        )
    };
    let more = case.faults.iter().filter(|timed| adds(&timed.fault)).count();
    let (config, universe) = match case.plan.catalog {
        Some(_) => super::catalog::configs(&case.plan),
        None => (case.plan.config(0), case.plan.config(i64::from(more > 0))),
    };
    let failing = case.faults.iter().any(|timed| matches!(timed.fault, Fault::Checks { .. }));
    let checks = case.plan.checks.or(failing.then_some(Checks::USUAL));
    let with_checks = |mut config: Config| {
        if let Some(checks) = checks {
            checks.apply(&mut config);
        }
        config
    };
    let case = &Case { plan: Plan { checks, ..case.plan.clone() }, ..case.clone() };
    run_config(case, &with_checks(config), &with_checks(universe), timeline)
}

/// Runs a case on a config of its own instead of its plan's; `universe` has all items that there ever are.
#[must_use]
pub fn run_config(case: &Case, config: &Config, universe: &Config, timeline: bool) -> Outcome {
    #[cfg(feature = "harness")]
    super::cipher::choose(!case.plan.cipher);
    let servers = config.servers.len();
    let configs: Vec<_> = (0..servers).map(|me| Config { me, ..config.clone() }).collect();
    let us = Duration::from_micros;
    let latency = (us(case.plan.latency_us.0), us(case.plan.latency_us.1));
    let mut world = World::new(universe, configs, case.seed, latency, &case.plan.ppm);
    world.give_catalogs(&case.plan);
    world.faults = Arc::from(case.faults.clone());
    world.timeline = timeline.then(Vec::new);
    if case.faults.iter().any(|timed| matches!(timed.fault, Fault::Replay { .. } | Fault::Forge { .. })) {
        world.recorded = vec![super::world::Recorded::default(); servers];
    }
    let slowest = case.faults.iter().map(|timed| match timed.fault {
        Fault::Delay { by_ms, .. } | Fault::Late { by_ms, .. } => by_ms,
        _ => 0,
    });
    world.checker.slowest = Duration::from_millis(slowest.max().unwrap_or(0)) + latency.1 * 4;
    if case.faults.iter().any(|timed| matches!(timed.fault, Fault::Hooks { .. } | Fault::Interface { .. })) {
        world.checker.hook_patience =
            limits::HOOK_RETRY_MAX + limits::FAILING_FOR + config.timing.hook_timeout * 2;
        // Without an interface they fail at once, and their down hooks do not.
        world.checker.falls_within =
            if case.faults.iter().any(|timed| matches!(timed.fault, Fault::Hooks { .. })) {
                world.checker.hook_patience
            } else {
                limits::HOOK_RETRY * 2u32.pow(limits::HOOK_FALL) + Duration::from_secs(1)
            };
    }
    world.book.checks = case.plan.checks;
    world.book.hook_patience = world.checker.hook_patience;
    // Who was not well comes back no sooner than that.
    world.checker.hook_patience += case.plan.checks.map_or(Duration::ZERO, Checks::patience);
    let begin = world.now;
    Phases { case, timing: config.timing.clone() }.run(&mut world);
    world.check_limits();
    world.close_overlaps();
    if crate::planted::planted(crate::planted::Bug::Canary) {
        world.broken("canary", "the canary sings".into());
    }
    let tallies = std::mem::take(&mut world.tallies);
    Outcome {
        trace: world.trace(),
        verdicts: world.checker.verdicts,
        fell: world.checker.verdicts_seen.iter().map(|(server, _)| *server).collect(),
        moves: world.checker.moves,
        datagrams: world.datagrams,
        simulated: world.now.since(begin),
        #[cfg(feature = "harness")]
        marks: crate::marks::take(),
        #[cfg(not(feature = "harness"))]
        marks: 0,
        excused: std::mem::take(&mut world.checker.excused),
        violations: std::mem::take(&mut world.checker.violations),
        timeline: world.timeline.take().unwrap_or_default(),
        tallies,
    }
}

/// Clusters up to this size are small.
const SMALL: u32 = 9;

struct Phases<'a> {
    case: &'a Case,
    timing: Timing,
}

impl Phases<'_> {
    fn run(&self, world: &mut World) {
        let plan = &self.case.plan;
        let servers = world.hosts.len();
        let all: Vec<_> = (0..servers).collect();
        match servers {
            1 => super::mark!("world: cluster of one"),
            2 => super::mark!("world: cluster of two"),
            10.. => super::mark!("world: cluster of more than nine"),
            _ => {}
        }
        let mut order = all.clone();
        order.shuffle(&mut world.rng);
        // Small clusters start one after the other, large ones within a second: who is missing for longer is
        // declared down, and verdicts on half of a large cluster are another case.
        let crowd = u32::try_from(servers).unwrap_or(u32::MAX).max(SMALL);
        for host in order {
            world.hosts[host].healthy_since = Some(world.now);
            world.start(host);
            let pause = Duration::from_millis(world.rng.random_range(0..200));
            world.run_for(pause * SMALL / crowd);
        }
        if !self.settle(world, &all, "after the start") {
            return;
        }
        self.trouble(world);
        if world.broken_already() {
            return;
        }
        let core = if plan.core.is_empty() { all.clone() } else { plan.core.clone() };
        if core.len() < servers {
            super::mark!("world: healed only a quorum");
            self.leave_broken(world, &core);
        } else {
            world.mend(&all);
        }
        if !self.settle(world, &core, "after healing") {
            return;
        }
        if plan.apart && core.len() == servers && servers > 1 {
            self.total_partition(world, &all);
        }
    }

    /// The faults of the schedule.
    fn trouble(&self, world: &mut World) {
        world.begun = world.now;
        let now = world.now;
        world.truth.reset(now);
        for (number, timed) in self.case.faults.iter().enumerate() {
            let at = world.begun + Duration::from_millis(timed.at_ms);
            world.queue.push(at, Happening::Begin(number));
        }
        let until = world.begun + Duration::from_millis(self.case.plan.length_ms);
        while world.now < until && !world.broken_already() {
            world.run_for(Duration::from_secs(1).min(until.since(world.now)));
            world.check_limits();
            world.operate();
        }
        let now = world.now;
        world.tallies = world.truth.tally(now);
    }

    /// Whoever is not in the core stays away: dead, or cut off.
    fn leave_broken(&self, world: &mut World, core: &[usize]) {
        let rest: Vec<_> = (0..world.hosts.len()).filter(|host| !core.contains(host)).collect();
        world.mend(core);
        let mut groups = vec![0; world.hosts.len()];
        for (n, host) in rest.iter().copied().enumerate() {
            groups[host] = u8::try_from(n + 1).unwrap_or(u8::MAX);
            world.hosts[host].kept_down = None;
            if world.rng.random_bool(0.3) {
                world.kill(host, Disk::Kept);
            }
        }
        let now = world.now;
        world.network.begin(0, Trouble::Split(groups), now);
    }

    /// Everybody is alone: what is kept stays where it is, for as long as it lasts.
    fn total_partition(&self, world: &mut World, all: &[usize]) {
        let groups = all.iter().map(|host| u8::try_from(*host).unwrap_or(u8::MAX)).collect();
        let now = world.now;
        world.network.begin(0, Trouble::Split(groups), now);
        world.checker.apart = true;
        // What was decided before the cut may still be under way: a release waits for the hook that runs, and
        // what a failed one half did is undone.
        let step = Duration::from_millis(20);
        let until = world.now + self.timing.hook_timeout * 2;
        world.run_for(step);
        let moving = |host: &super::host::Host| host.node.as_ref().is_some_and(|node| node.is_moving());
        while world.now < until && world.hosts.iter().any(moving) {
            world.run_for(step);
        }
        world.checker.nothing_may_move = true;
        let unit = self.timing.ping_timeout + self.timing.probe_interval;
        // In a large one everybody looks for everybody, and a few windows show all that there is to see.
        let windows = if all.len() > SMALL as usize { 3 } else { 20 };
        world.run_for((unit * windows).max(Duration::from_secs(2)));
        world.checker.nothing_may_move = false;
        world.checker.apart = false;
        let now = world.now;
        world.network.calm(now);
        self.settle(world, all, "after the total partition");
    }

    /// Runs until all is settled, within the bound of promise P6. False when it is not, or something else
    /// was broken.
    fn settle(&self, world: &mut World, core: &[usize], when: &str) -> bool {
        let until = world.now + self.bound(world);
        let mut step = Duration::from_millis(50);
        let mut what = None;
        while world.now < until && !world.broken_already() {
            world.run_for(step);
            step = (step * 2).min(Duration::from_millis(500));
            world.operate();
            what = world.unsettled(core);
            if what.is_none() {
                world.judge_catalogs(core);
                return !world.broken_already();
            }
        }
        if let Some(what) = what
            && !world.broken_already()
            && !world.is_beyond_p9()
        {
            world.broken("P6", format!("{when}: {what}"));
        }
        false
    }

    /// The longest pause between two greetings, a case with the greatest stretch of its window, three
    /// digests; what failed hooks wait for; what restarts and flapping cost.
    fn bound(&self, world: &World) -> Duration {
        let timing = &self.timing;
        let unit = timing.ping_timeout + timing.probe_interval;
        let mut bound = Duration::from_millis(4_000) + unit * 6 + timing.digest_interval * 3;
        if !world.all_probe() {
            bound += unit * 20;
        }
        bound += world.checker.hook_patience;
        let faults = &self.case.faults;
        if faults.iter().any(|timed| matches!(timed.fault, Fault::Leave { .. } | Fault::Edit { .. })) {
            bound += Duration::from_secs(6);
        }
        if world.has_changed() {
            bound += limits::CONFIG_PATIENCE + crate::lease::quarantine(world.lease) + Duration::from_secs(6);
        }
        bound + world.checker.slowest + self.extra(world)
    }

    /// What leases, maturity and a slow operator add.
    fn extra(&self, world: &World) -> Duration {
        let dropped = world.things.iter().any(|thing| thing.policy == crate::config::Isolated::Drop);
        let lease = if dropped { world.lease * 3 + Duration::from_secs(8) } else { Duration::ZERO };
        // A server that was declared down again and again gets items ever later.
        let damping = (self.timing.mature * 2u32.pow(u32::try_from(crate::limits::FLAPS).unwrap_or(0)))
            .min(crate::limits::MATURE_MAX);
        lease + damping
    }
}
