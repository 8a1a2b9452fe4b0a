//! A large cluster at rest: everybody is up, and everybody has known everybody for long. Thousands of nodes
//! that start would tell each other of each other for hours of processor time before anything is to be seen.

use std::time::Duration;

use super::happening::Mail;
use super::plan::Plan;
use super::world::World;
use crate::config::Config;

/// The generation of every node.
const LIFE: u64 = 1 << 60;

/// A cluster without faults.
pub struct AtRest {
    world: World,
}

impl AtRest {
    /// All servers of this plan are up, know of each other, and have not spoken yet.
    #[must_use]
    pub fn new(plan: &Plan, seed: u64) -> Self {
        #[cfg(feature = "harness")]
        super::cipher::choose(!plan.cipher);
        let config = plan.config(0);
        let servers = config.servers.len();
        let configs: Vec<_> = (0..servers).map(|me| Config { me, ..config.clone() }).collect();
        let us = Duration::from_micros;
        let latency = (us(plan.latency_us.0), us(plan.latency_us.1));
        let mut world = World::new(&config, configs, seed, latency, &plan.ppm);
        // A life is one more than what is stored, if that is beyond the clock.
        for host in &mut world.hosts {
            host.stored = Some(LIFE - 1);
        }
        let pause = config.timing.probe_interval / u32::try_from(servers).unwrap_or(u32::MAX);
        for index in 0..servers {
            world.boot(index);
            let local = world.local(index);
            if let Some(node) = &mut world.hosts[index].node {
                node.know_all(LIFE, local);
            }
            world.hosts[index].inbox.push_back(Mail::Tick);
            world.pump(index);
            world.run_for(pause);
        }
        Self { world }
    }

    /// Lets it run for so long.
    pub fn run_for(&mut self, span: Duration) {
        self.world.run_for(span);
        self.world.check_limits();
    }

    /// Digest of everything that happened so far.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.world.trace()
    }

    /// Datagrams sent so far.
    #[must_use]
    pub const fn datagrams(&self) -> u64 {
        self.world.datagrams
    }

    /// What is not as it must be where nothing goes wrong: a verdict, a broken promise, a node without a
    /// quorum or with another view than the rest.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        let all: Vec<_> = (0..self.world.hosts.len()).collect();
        let checker = &self.world.checker;
        if let Some(broken) = checker.violations.first() {
            return Some(format!("{} at {}: {}", broken.promise, broken.at, broken.what));
        }
        if checker.verdicts > 0 {
            return Some(format!("{} verdicts where nothing is wrong", checker.verdicts));
        }
        self.world.unsettled(&all)
    }
}
