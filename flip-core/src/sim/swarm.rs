//! Swarm testing (Groce et al. 2012): each seed draws its own cluster, which families of faults are on, and
//! how hard. With everything on all the time, some faults would hide others.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::fault::{Disk, Fault, HookMode, Links, Point, Timed};
use super::plan::{Case, Plan, Policy};
use crate::{limits, quorum};

/// The families, by the names of [`Fault::kind`].
pub const FAMILIES: &[&str] = &[
    "loss",
    "burst",
    "delay",
    "duplicate",
    "late",
    "corrupt",
    "mtu",
    "cut",
    "split",
    "bridge",
    "kill",
    "power-off",
    "leave",
    "freeze",
    "freeze-at",
    "suspend",
    "pause",
    "slow",
    "clock",
    "wall-clock",
    "hooks",
    "interface",
    "steal",
    "disk-full",
    "drain",
    "replay",
    "forge",
    "edit",
    "witness",
    "garble",
    "keys",
    "upgrade",
    "second-daemon",
    "checks",
    "adopt",
];

/// What a seed is: a cluster and its faults.
#[must_use]
pub fn draw(seed: u64) -> Case {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut plan = draw_plan(&mut rng);
    let density = *[0.08, 0.2, 0.4].choose(&mut rng).unwrap_or(&0.2);
    let families: Vec<_> = FAMILIES
        .iter()
        .copied()
        // These have dice of their own.
        .filter(|family| !matches!(*family, "checks" | "adopt") && rng.random_bool(density))
        .collect();
    // Where nobody asks a witness, its silence is no fault.
    plan.witness |= families.contains(&"witness");
    let mut faults = schedule(&families, &plan, &mut rng);
    if plan.servers > 9 {
        // The large ones are about the gossip layer; what is done to single hosts is the small ones' part.
        faults.truncate(12);
    }
    if rng.random_bool(0.3) {
        plan.core = draw_core(&plan, &mut rng);
    }
    let mut case = Case { about: String::new(), seed, plan, faults };
    super::health::draw(&mut case);
    super::adopt::draw(&mut case);
    super::catalog::draw(&mut case);
    case
}

fn draw_plan(rng: &mut StdRng) -> Plan {
    let servers = if rng.random_ratio(1, 50) {
        rng.random_range(25..=64)
    } else {
        *[1, 2, 3, 3, 3, 4, 4, 5, 5, 5, 6, 7, 8, 9].choose(rng).unwrap_or(&5)
    };
    let profiles: &[&str] = match servers {
        10.. => &["balanced", "fast"],
        6.. => &["lan", "balanced", "fast"],
        _ => &["lan", "balanced", "balanced", "fast", "fast", "fast", "turbo"],
    };
    let profile = *profiles.choose(rng).unwrap_or(&"fast");
    let unit = match profile {
        "lan" => 2_500,
        "balanced" => 1_500,
        "fast" => 600,
        _ => 47,
    };
    let most = if servers > 9 { 10 } else { 40 };
    let items = rng.random_range(1..=if servers > 9 { 20 } else { 6 });
    let policies = |rng: &mut StdRng, count: usize| -> Vec<Policy> {
        // Clusters of one policy are as likely as mixed ones.
        let one = POLICIES.choose(rng).copied().unwrap_or(Policy::Keep);
        let mixed = rng.random_bool(0.5);
        (0..count).map(|_| if mixed { POLICIES.choose(rng).copied().unwrap_or(one) } else { one }).collect()
    };
    Plan {
        servers,
        arbiters: if servers > 2 { rng.random_range(0..=servers / 3) } else { 0 },
        addresses: policies(rng, items),
        programs: {
            let count = if rng.random_bool(0.3) { rng.random_range(1..=3) } else { 0 };
            policies(rng, count)
        },
        replicated: usize::from(rng.random_bool(0.15)),
        profile: profile.into(),
        lease_ms: rng.random_range(3_000..=6_000),
        length_ms: {
            let length = unit * rng.random_range(5..=most);
            let (least, longest) = match (servers, profile) {
                // The work grows with the square of the servers, and twice of them is as good as four times.
                (10.., _) => (2_500, (SQUARES * 1_000 / (servers * servers) as u64).clamp(3_000, 12_000)),
                // So many probes a second that little time is much work.
                (_, "turbo") => (3_000, 6_000),
                _ => (8_000, 60_000),
            };
            length.clamp(least, longest)
        },
        latency_us: *[(50, 150), (150, 800), (150, 800), (500, 3_000)].choose(rng).unwrap_or(&(150, 800)),
        ppm: (0..servers).map(|_| rng.random_range(-9_900..=9_900)).collect(),
        cipher: rng.random_ratio(1, 10),
        core: Vec::new(),
        apart: rng.random_bool(0.4),
        witness: rng.random_bool(0.1),
        checks: None,
        catalog: None,
        parallel: *[1, 2, limits::HOOKS_AT_ONCE, limits::HOOKS_AT_ONCE]
            .choose(rng)
            .unwrap_or(&limits::HOOKS_AT_ONCE),
    }
}

/// Servers squared times seconds of a large cluster's faults.
const SQUARES: u64 = 10_000;

/// The policies that items may have.
const POLICIES: &[Policy] = &[Policy::Keep, Policy::Take, Policy::Drop];

/// A random quorum, and perhaps some more.
fn draw_core(plan: &Plan, rng: &mut StdRng) -> Vec<usize> {
    let majority = quorum::majority(plan.servers.min(crate::limits::ALL_VOTE));
    let size = rng.random_range(majority..=plan.servers);
    if size == plan.servers {
        return Vec::new();
    }
    let mut all: Vec<_> = (0..plan.servers).collect();
    all.shuffle(rng);
    // In a large cluster only some vote: half of the servers may be less than half of the voters.
    let config = plan.config(0);
    let is_voter = |server: &usize| config.voters.binary_search(server).is_ok();
    let last = all.iter().enumerate().filter(|(_, server)| is_voter(server)).nth(config.quorum - 1);
    let size = last.map_or(size, |(at, _)| size.max(at + 1));
    if size == plan.servers {
        return Vec::new();
    }
    all.truncate(size);
    all.sort_unstable();
    all
}

/// A schedule of faults of these families for a cluster, in the order of their beginnings.
#[must_use]
pub fn schedule(families: &[&str], plan: &Plan, rng: &mut StdRng) -> Vec<Timed> {
    let mut faults = Vec::new();
    for family in families {
        if *family == "upgrade" {
            faults.extend(draw_upgrade(plan, rng));
            continue;
        }
        for _ in 0..rng.random_range(1..=3) {
            let at_ms = rng.random_range(0..plan.length_ms * 9 / 10);
            faults.extend(draw_fault(family, plan, rng).map(|fault| Timed { at_ms, fault }));
        }
    }
    faults.sort_by_key(|timed| timed.at_ms);
    // A list of items is edited once: what an edit in the middle of another means is nobody's promise.
    let mut edited = false;
    faults
        .retain(|timed| !matches!(timed.fault, Fault::Edit { .. }) || !std::mem::replace(&mut edited, true));
    never_back(&mut faults);
    faults
}

/// A generation that is made from the clock needs a clock that does not go back.
pub(super) fn never_back(faults: &mut [Timed]) {
    let lost = faults.iter().any(|timed| {
        matches!(
            timed.fault,
            Fault::Kill { disk: Disk::Unsynced | Disk::Torn | Disk::Gone, .. }
                | Fault::PowerOff { disk: Disk::Unsynced | Disk::Torn | Disk::Gone, .. }
                | Fault::DiskFull { .. }
        )
    });
    if lost {
        for timed in faults {
            if let Fault::WallClock { by_s, .. } = &mut timed.fault {
                *by_s = by_s.abs();
            }
        }
    }
}

/// A rolling upgrade: one host after the other, in any order; some may be left out.
fn draw_upgrade(plan: &Plan, rng: &mut StdRng) -> Vec<Timed> {
    let mut hosts: Vec<_> = (0..plan.servers).collect();
    hosts.shuffle(rng);
    hosts.truncate(if rng.random_bool(0.7) { plan.servers } else { rng.random_range(1..=plan.servers) });
    let length = plan.length_ms * 9 / 10;
    let mut at_ms = rng.random_range(0..length / 2);
    let pause = (length - at_ms) / u64::try_from(plan.servers).unwrap_or(1).max(1);
    let upgrade = |host| {
        let ms = rng.random_range(50..2_000);
        let timed = Timed { at_ms, fault: Fault::Upgrade { host, ms } };
        at_ms += rng.random_range(pause / 4..=pause);
        timed
    };
    hosts.into_iter().map(upgrade).collect()
}

struct Draw<'a> {
    plan: &'a Plan,
    rng: &'a mut StdRng,
}

impl Draw<'_> {
    fn host(&mut self) -> usize {
        self.rng.random_range(0..self.plan.servers)
    }

    /// How long a fault lasts: short ones are as likely as long ones.
    fn ms(&mut self) -> u64 {
        let longest = (self.plan.length_ms / 3) as f64;
        let exponent = self.rng.random_range(0.0..1.0f64);
        (20.0 * (longest / 20.0).powf(exponent)) as u64
    }

    /// A pause of a host: often near what a lease is long, where it matters.
    fn pause(&mut self) -> u64 {
        if self.rng.random_bool(0.5) {
            self.rng.random_range(self.plan.lease_ms / 4..self.plan.lease_ms * 2)
        } else {
            self.ms()
        }
    }

    /// A part of one, in thousandths: with more digits it would not survive being written down.
    fn part(&mut self, from: f64, to: f64) -> f64 {
        (self.rng.random_range(from..to) * 1000.0).round() / 1000.0
    }

    fn links(&mut self) -> Links {
        let (a, b) = (self.host(), self.host());
        match self.rng.random_range(0..6) {
            0 => Links::All,
            1 => Links::From(a),
            2 => Links::To(a),
            3 => Links::Of(a),
            4 => Links::One(a, b),
            _ => Links::Both(a, b),
        }
    }

    fn disk(&mut self) -> Disk {
        *[Disk::Kept, Disk::Kept, Disk::Unsynced, Disk::Torn, Disk::Gone]
            .choose(self.rng)
            .unwrap_or(&Disk::Kept)
    }

    fn groups(&mut self, count: u8) -> Vec<u8> {
        (0..self.plan.servers).map(|_| self.rng.random_range(0..count)).collect()
    }
}

fn draw_fault(family: &str, plan: &Plan, rng: &mut StdRng) -> Option<Fault> {
    let mut draw = Draw { plan, rng };
    let (host, ms) = (draw.host(), draw.ms());
    Some(match family {
        "loss" => Fault::Loss { on: draw.links(), p: draw.part(0.01, 0.4), ms },
        "burst" => Fault::Burst {
            on: draw.links(),
            bad: draw.part(0.02, 0.5),
            mean_ms: draw.rng.random_range(5..2_000),
            ms,
        },
        "delay" => Fault::Delay { on: draw.links(), by_ms: draw.rng.random_range(1..1_500), ms },
        "duplicate" => Fault::Duplicate { p: draw.part(0.01, 0.5), ms },
        "late" => Fault::Late { p: draw.part(0.001, 0.1), by_ms: draw.rng.random_range(50..10_000), ms },
        "corrupt" => Fault::Corrupt { p: draw.part(0.001, 0.3), ms },
        "mtu" => Fault::Mtu { on: draw.links(), bytes: draw.rng.random_range(100..1_200), ms },
        "cut" => Fault::Cut { on: draw.links(), ms },
        "split" => {
            let mut groups = draw.groups(3);
            if draw.rng.random_bool(0.4) {
                // Even, or as even as can be.
                groups = (0..plan.servers).map(|n| u8::from(n * 2 >= plan.servers)).collect();
                groups.shuffle(draw.rng);
            }
            Fault::Split { groups, ms }
        }
        "bridge" => Fault::Bridge { host, groups: draw.groups(2), ms },
        "kill" => {
            Fault::Kill { host, disk: draw.disk(), ms: if draw.rng.random_bool(0.3) { 200 } else { ms } }
        }
        "power-off" => Fault::PowerOff { host, disk: draw.disk(), ms: ms.max(1_000) },
        "leave" => Fault::Leave { host, ms },
        "freeze" => Fault::Freeze { host, ms: draw.pause() },
        "freeze-at" => {
            let points = [Point::BeforeCheck, Point::BeforeCall, Point::AfterCall];
            let point = *points.choose(draw.rng).unwrap_or(&Point::BeforeCall);
            Fault::FreezeAt { host, point, ms: draw.pause() }
        }
        "suspend" => Fault::Suspend {
            host,
            ms: draw.pause(),
            late_ms: draw.rng.random_range(1..60),
            dies: draw.rng.random_bool(0.2),
        },
        "pause" => Fault::Pause { host, ms: draw.pause() },
        "slow" => Fault::Slow { host, each_us: draw.rng.random_range(50..30_000), ms },
        "clock" => {
            let ppm = if draw.rng.random_bool(0.7) {
                draw.rng.random_range(-9_900..=9_900)
            } else {
                draw.rng.random_range(-150_000..=150_000)
            };
            Fault::Clock { host, ppm, ms }
        }
        "wall-clock" => Fault::WallClock { host, by_s: draw.rng.random_range(-300_000_000..300_000_000) },
        "hooks" => {
            let modes =
                [HookMode::Slow, HookMode::Fails, HookMode::FailsDone, HookMode::Hangs, HookMode::HangsDone];
            let mode = *modes.choose(draw.rng).unwrap_or(&HookMode::Fails);
            Fault::Hooks { host, mode, p: draw.part(0.2, 1.0), ms }
        }
        "interface" => Fault::Interface { host, ms },
        "steal" => Fault::Steal { host },
        "disk-full" => Fault::DiskFull { host, ms },
        "drain" => Fault::Drain { at: draw.host(), server: host, ms },
        "replay" => {
            let old = OLD_SESSIONS && draw.rng.random_bool(0.5);
            Fault::Replay { host, count: draw.rng.random_range(1..60), old }
        }
        "forge" => {
            let count = if draw.rng.random_bool(0.1) { 3_000 } else { draw.rng.random_range(1..60) };
            Fault::Forge { host, count, ms: ms.min(2_000) }
        }
        "checks" => super::health::fault(plan, draw.rng),
        "adopt" => super::adopt::fault(plan, draw.rng),
        "edit" => Fault::Edit { add: draw.rng.random_bool(0.5) },
        "witness" => Fault::Witness { host, ms: ms.max(1_000) },
        "garble" => Fault::Garble { from: draw.host(), to: host, count: draw.rng.random_range(1..60) },
        "keys" => Fault::Keys { at: host, ms: ms.max(8_000) },
        // Others draw whole rows of it.
        "upgrade" => Fault::Upgrade { host, ms: ms.min(2_000) },
        "second-daemon" => Fault::SecondDaemon { host: draw.host(), server: host },
        _ => return None,
    })
    .filter(|fault| OPERATORS || !matches!(fault, Fault::Drain { .. }))
}

/// Whether replays of sessions that the receiver does not know any more are among the attacks.
const OLD_SESSIONS: bool = true;
/// Whether operators give commands.
const OPERATORS: bool = true;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_drawn() {
        let plan = Plan::simple(5, "fast", vec![Policy::Keep]);
        let mut rng = StdRng::seed_from_u64(1);
        for family in FAMILIES.iter().filter(|family| OPERATORS || **family != "drain") {
            let faults = schedule(&[family], &plan, &mut rng);
            assert!(!faults.is_empty(), "{family}");
            assert!(faults.iter().all(|timed| timed.fault.kind() == *family));
            assert!(faults.iter().all(|timed| timed.fault.greatest_host() < 5));
        }
    }

    #[test]
    fn whoever_is_healed_is_a_quorum_of_the_voters() {
        let mut drawn = 0;
        for servers in [3, 9, 63, 64, 64, 64] {
            let plan = Plan::simple(servers, "fast", vec![Policy::Keep]);
            let config = plan.config(0);
            for seed in 0..100 {
                let core = draw_core(&plan, &mut StdRng::seed_from_u64(seed));
                let voters = core.iter().filter(|server| config.voters.contains(server)).count();
                assert!(core.is_empty() || voters >= config.quorum, "{voters} voters in {core:?}");
                drawn += usize::from(!core.is_empty());
            }
        }
        assert!(drawn > 300);
    }

    #[test]
    fn a_case_survives_being_written_down() {
        for seed in 0..50 {
            let case = draw(seed);
            let text = serde_json::to_string(&case).expect("plain values");
            let read: Case = serde_json::from_str(&text).expect("what was written");
            assert_eq!(serde_json::to_string(&read).expect("plain values"), text);
            assert_eq!(draw(seed), case);
        }
    }
}
