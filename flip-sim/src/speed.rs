//! How fast the simulator is.

use std::time::Duration;

use flip_core::config::Profile;
use flip_core::sim::{Case, Plan, Policy, draw, run, schedule};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::time::{ClockId, clock_gettime};

/// Simulated time of one seed that is measured.
const LENGTH_MS: u64 = 150_000;
const CASE_SECONDS: f64 = LENGTH_MS as f64 / 1000.0;

/// Processor time of this thread: what else runs on the machine does not count.
pub(super) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What runs of some time came to.
#[derive(Default)]
struct Measured {
    took: f64,
    /// Simulated seconds.
    simulated: f64,
    datagrams: f64,
}

impl Measured {
    /// Clusters of this size with faults, for `time` of one processor.
    fn of(servers: usize, profile: &str, time: Duration) -> Self {
        let begun = processor_time();
        let mut all = Self::default();
        for seed in 0.. {
            let outcome = run(&case(servers, profile, seed), false);
            all.simulated += outcome.simulated.as_secs_f64();
            all.datagrams += outcome.datagrams as f64;
            if processor_time() - begun >= time {
                break;
            }
        }
        all.took = (processor_time() - begun).as_secs_f64();
        all
    }

    fn row(&self, name: impl std::fmt::Display) -> String {
        let cases = self.simulated / CASE_SECONDS;
        format!(
            "| {name} | {:.1} | {:.0} | {:.0} | {:.2} |\n",
            cases / self.took,
            self.simulated / self.took,
            self.datagrams / cases,
            self.took * 1e6 / self.datagrams,
        )
    }
}

/// Clusters of these sizes with faults under profile `balanced`, and of five servers under each profile; each
/// for `time` of one processor, as Markdown.
#[must_use]
pub fn speed(sizes: &[usize], time: Duration) -> String {
    let head = |first: &str| {
        format!(
            "| {first} | cases of 150 s per processor second | simulated seconds per processor second | datagrams per case | processor µs per datagram |\n\
             | ---: | ---: | ---: | ---: | ---: |\n"
        )
    };
    let mut text = head("servers");
    for size in sizes {
        text += &Measured::of(*size, "balanced", time).row(size);
    }
    text += "\n";
    text += &head("five servers, profile").replacen("---:", "---", 1);
    for (profile, _) in Profile::NAMES {
        text += &Measured::of(5, profile, time).row(profile);
    }
    text
}

/// A cluster of this size with the faults of some seed.
fn case(servers: usize, profile: &str, seed: u64) -> Case {
    let plan = Plan {
        length_ms: if servers > 9 { LENGTH_MS / 10 } else { LENGTH_MS },
        ..Plan::simple(servers, profile, vec![Policy::Keep; 4])
    };
    let families = ["loss", "kill", "freeze", "split", "cut", "leave"];
    let faults =
        if servers > 100 { Vec::new() } else { schedule(&families, &plan, &mut StdRng::seed_from_u64(seed)) };
    Case { seed, plan, faults, ..draw(seed) }
}
