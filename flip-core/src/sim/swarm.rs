//! Swarm testing: each seed draws its own cluster and its own kinds of trouble.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::check::{Checker, Violation};
use super::world::{Fate, World};
use crate::config::{
    ClusterKey, Config, Isolated, Item, LEASE, LogLevel, Profile, Release, Server, System, SystemKind,
};
use crate::id::{ItemId, ShortId};
use crate::quorum;

/// What a seed draws before it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Servers, arbiters included.
    pub servers: usize,
    /// Of them, how many hold nothing.
    pub arbiters: usize,
    /// Items of the sharded system.
    pub items: usize,
    /// Timings.
    pub profile: Profile,
    /// Kinds of trouble that are on.
    pub partitions: bool,
    /// Links cut in one direction.
    pub one_way: bool,
    /// Loss of up to this one-way probability.
    pub loss: f64,
    /// Delay spikes.
    pub delay: bool,
    /// Daemons and hosts that die and come back.
    pub crashes: bool,
    /// Daemons that are stopped for a while.
    pub freezes: bool,
    /// Daemons that are asked to leave and come back.
    pub leaves: bool,
}

/// How a seed ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was drawn.
    pub plan: Plan,
    /// Broken promises; empty when all is well.
    pub violations: Vec<Violation>,
    /// Digest of the whole run.
    pub trace: String,
    /// Verdicts reached.
    pub verdicts: u64,
    /// Alive hooks run.
    pub moves: u64,
    /// Simulated time.
    pub simulated: Duration,
}

impl Plan {
    fn draw(rng: &mut StdRng) -> Self {
        let servers = rng.random_range(3..=7);
        let on = |rng: &mut StdRng| rng.random_bool(0.5);
        Self {
            servers,
            arbiters: rng.random_range(0..=servers / 3),
            items: rng.random_range(0..=9),
            profile: Profile::NAMES[rng.random_range(0..Profile::NAMES.len())].1,
            partitions: on(rng),
            one_way: on(rng),
            loss: if on(rng) { rng.random_range(0.05..0.4) } else { 0.0 },
            delay: on(rng),
            crashes: on(rng),
            freezes: on(rng),
            leaves: on(rng),
        }
    }

    /// No faults, for directed scenarios.
    #[cfg(test)]
    fn calm() -> Self {
        let mut plan = Self::draw(&mut StdRng::seed_from_u64(0));
        plan.loss = 0.0;
        for fault in [
            &mut plan.partitions,
            &mut plan.one_way,
            &mut plan.delay,
            &mut plan.crashes,
            &mut plan.freezes,
            &mut plan.leaves,
        ] {
            *fault = false;
        }
        plan
    }

    /// The configs of all nodes.
    #[must_use]
    pub fn configs(&self) -> Vec<Config> {
        let servers: Vec<_> = (0..self.servers)
            .map(|index| {
                let id = format!("n{index}");
                Server {
                    short: ShortId::of(&id),
                    addr: ([10, 0, 0, u8::try_from(index + 1).unwrap_or(255)], 2200).into(),
                    systems: if index < self.servers - self.arbiters { vec![0] } else { Vec::new() },
                    priority: u64::MAX,
                    id,
                }
            })
            .collect();
        let name = |n: usize| format!("item{n}");
        let items = (0..self.items)
            .map(|n| Item { name: name(n), id: ItemId::of("sim", &name(n)), isolated: Isolated::Keep })
            .collect();
        let system = System {
            name: "sim".into(),
            kind: SystemKind::Shard,
            alive: "memory_up".into(),
            down: "memory_down".into(),
            config: serde_json::Map::new(),
            items,
            release: Release::Hook,
            orphan: None,
        };
        (0..self.servers)
            .map(|me| Config {
                me,
                servers: servers.clone(),
                quorum: quorum::majority(self.servers),
                voters: (0..self.servers).collect(),
                timing: self.profile.timing(self.servers),
                systems: vec![system.clone()],
                key: ClusterKey([3; 32]),
                cluster_id: "sim".into(),
                log_level: LogLevel::Info,
                lease: LEASE,
                witness: None,
            })
            .collect()
    }
}

/// Runs one seed to its end. `verbose` prints a timeline to stderr.
#[must_use]
pub fn run_seed(seed: u64, verbose: bool) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let plan = Plan::draw(&mut rng);
    let mut world = World::new(plan.configs(), rng.random());
    world.verbose = verbose;
    if verbose {
        eprintln!("{plan:?}");
    }
    let begin = world.now;
    let timing = plan.profile.timing(plan.servers);
    let unit = timing.ping_timeout + timing.probe_interval;
    let mut order: Vec<_> = (0..plan.servers).collect();
    order.shuffle(&mut rng);
    for host in order {
        world.start(host);
        world.run_for(Duration::from_millis(rng.random_range(0..200)));
    }
    settle(&mut world, unit, "after the start");

    // Nothing but loss: nobody may fall, however much is lost.
    if plan.loss > 0.0 {
        world.loss = plan.loss;
        world.checker.nobody_may_fall = true;
        world.run_for(unit * 20);
        world.checker.nobody_may_fall = false;
        world.heal();
        settle(&mut world, unit, "after loss");
    }

    for _ in 0..rng.random_range(2..6) {
        trouble(&mut world, &plan, &mut rng, unit);
    }
    mend(&mut world, plan.servers, unit);
    settle(&mut world, unit, "after healing");

    // A total partition: nothing moves, for as long as it lasts, nor does healing it lose anything.
    let apart: Vec<_> = (0..plan.servers).map(|host| vec![host]).collect();
    world.partition(&apart);
    // What was decided before the cut may still be under way.
    world.run_for(Duration::from_millis(20));
    world.checker.nothing_may_move = true;
    world.run_for(unit * 20);
    world.checker.nothing_may_move = false;
    world.heal();
    settle(&mut world, unit, "after the total partition");

    Outcome {
        violations: world.checker.violations.clone(),
        trace: world.trace(),
        verdicts: world.checker.verdicts,
        moves: world.checker.moves,
        simulated: world.now.since(begin),
        plan,
    }
}

fn trouble(world: &mut World, plan: &Plan, rng: &mut StdRng, unit: Duration) {
    let any = |rng: &mut StdRng| rng.random_range(0..plan.servers);
    if plan.partitions && rng.random_bool(0.5) {
        let mut groups = vec![Vec::new(), Vec::new(), Vec::new()];
        for host in 0..plan.servers {
            groups[rng.random_range(0..3usize)].push(host);
        }
        world.partition(&groups);
    }
    if plan.one_way && rng.random_bool(0.5) {
        world.blocked.insert((any(rng), any(rng)));
    }
    if plan.loss > 0.0 {
        world.loss = rng.random_range(0.0..plan.loss);
    }
    if plan.delay && rng.random_bool(0.5) {
        let most = unit.mul_f64(rng.random_range(0.0..0.5));
        world.latency = (Duration::from_micros(150), most.max(Duration::from_millis(1)));
    }
    if plan.crashes && rng.random_bool(0.7) {
        let fate = if rng.random_bool(0.5) { Fate::Killed } else { Fate::HostDead };
        world.kill(any(rng), fate);
    }
    if plan.freezes && rng.random_bool(0.5) {
        world.freeze(any(rng), unit.mul_f64(rng.random_range(0.05..4.0)));
    }
    if plan.leaves && rng.random_bool(0.5) {
        world.leave(any(rng));
    }
    world.run_for(unit.mul_f64(rng.random_range(0.1..5.0)));
    if rng.random_bool(0.5) {
        world.heal();
    }
    if rng.random_bool(0.5) {
        for host in 0..plan.servers {
            world.start(host);
        }
    }
    world.run_for(unit.mul_f64(rng.random_range(0.1..3.0)));
}

fn mend(world: &mut World, servers: usize, unit: Duration) {
    world.heal();
    // Frozen ones thaw, and whoever is on its way out may finish: with somebody who does not answer, a
    // goodbye takes as long as its repetitions, whatever the profile.
    world.run_for(unit * 5);
    let until = world.now + Duration::from_secs(5);
    while (0..servers).any(|host| world.is_leaving(host)) && world.now < until {
        world.run_for(unit);
    }
    for host in 0..servers {
        world.start(host);
    }
}

/// Runs until all is settled, within the bound of promise P6: the longest pause between two greetings,
/// a case with the greatest stretch of its window, and two digests.
fn settle(world: &mut World, unit: Duration, when: &str) {
    let timing = world.hosts[0].node.as_ref().map(|node| node.config().timing.clone());
    let digest = timing.as_ref().map_or(unit, |timing| timing.digest_interval);
    let bound = Duration::from_millis(4000) + unit * 6 + digest * 3;
    let until = world.now + bound;
    let mut what = None;
    while world.now < until {
        world.run_for(Duration::from_millis(100));
        what = Checker::unsettled(world);
        if what.is_none() {
            return;
        }
    }
    if let Some(what) = what {
        world.checker.not_settled(world.now, format!("{when}: {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ItemRef;

    /// `FLIP_SEED=n` replays one seed with its timeline.
    #[test]
    fn replay() {
        let Some(seed) = std::env::var("FLIP_SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
        let outcome = run_seed(seed, true);
        assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let (a, b) = (run_seed(1, false), run_seed(1, false));
        assert_eq!(a.trace, b.trace);
        assert_ne!(a.trace, run_seed(2, false).trace);
    }

    /// P3 and its liveness: a leased item never has two holders, and has one again within a lease and a
    /// second after a crash; planned moves cost a few round trips.
    #[test]
    fn a_leased_item_has_one_holder() {
        for seed in 0..40 {
            let plan = Plan { servers: 3, arbiters: 0, items: 4, profile: Profile::Balanced, ..Plan::calm() };
            let mut configs = plan.configs();
            for config in &mut configs {
                for item in &mut config.systems[0].items {
                    item.isolated = Isolated::Drop;
                }
            }
            let mut world = World::new(configs, seed);
            (0..3).for_each(|host| world.start(host));
            world.run_for(Duration::from_secs(8));
            assert_eq!(Checker::unsettled(&world), None, "seed {seed}");
            // The longest time without a holder of item 0, which is at home on host 0.
            let watch = |world: &mut World, millis: u64| {
                let (mut none, mut longest) = (0u64, 0);
                for _ in 0..millis {
                    world.run_for(Duration::from_millis(1));
                    for item in 0..4 {
                        let at = ItemRef { system: 0, item };
                        let holders = world.hosts.iter().filter(|host| host.bound.contains(&at)).count();
                        assert!(holders <= 1, "seed {seed}: item {item} has two holders");
                        if item == 0 {
                            none = if holders == 0 { none + 1 } else { 0 };
                            longest = longest.max(none);
                        }
                    }
                }
                longest
            };
            let settled = |world: &World| assert_eq!(Checker::unsettled(world), None, "seed {seed}");
            world.kill(0, Fate::HostDead);
            let crash = watch(&mut world, 8_000);
            assert!((3_000..5_100).contains(&crash), "seed {seed}: crash {crash}");
            settled(&world);
            world.start(0);
            let back = watch(&mut world, 8_000);
            assert!(back < 20, "seed {seed}: fail-back {back}");
            settled(&world);
            world.partition(&[vec![0], vec![1, 2]]);
            assert!(watch(&mut world, 8_000) < 3_000, "seed {seed}: isolated");
            world.heal();
            assert!(watch(&mut world, 12_000) < 20, "seed {seed}: healed");
            settled(&world);
            world.leave(0);
            assert!(watch(&mut world, 2_000) < 20, "seed {seed}: leave");
            world.loss = 0.3;
            assert_eq!(watch(&mut world, 30_000), 0, "seed {seed}: loss");
        }
    }

    /// P8: a host that died takes its item back without a moment in which nobody holds it, though the
    /// others still remember what its former life said.
    #[test]
    fn a_return_leaves_no_gap() {
        for seed in 0..40 {
            let plan = Plan { servers: 3, arbiters: 0, items: 3, profile: Profile::Fast, ..Plan::calm() };
            let mut world = World::new(plan.configs(), seed);
            (0..3).for_each(|host| world.start(host));
            world.run_for(Duration::from_secs(2));
            let item = ItemRef { system: 0, item: 0 };
            assert!(world.hosts[0].bound.contains(&item));
            world.kill(0, Fate::HostDead);
            world.run_for(Duration::from_secs(3));
            world.start(0);
            for _ in 0..40_000 {
                world.run_for(Duration::from_micros(50));
                assert!(world.hosts.iter().any(|host| host.bound.contains(&item)), "seed {seed}: a gap");
            }
            assert!(world.hosts[0].bound.contains(&item), "seed {seed}: it did not come home");
        }
    }
}
