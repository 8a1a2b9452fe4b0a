//! How fast the simulator is.

use std::fmt::Write;
use std::time::Duration;

use flip_core::sim::{Case, Plan, Policy, draw, run, schedule};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::time::{ClockId, clock_gettime};

/// Simulated time of one seed that is measured.
const LENGTH_MS: u64 = 150_000;

/// Processor time of this thread: what else runs on the machine does not count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Clusters of these sizes with faults, each for `time` of one processor; as Markdown.
#[must_use]
pub fn speed(sizes: &[usize], time: Duration) -> String {
    let mut text = String::from(
        "| servers | cases of 150 s per processor second | simulated per processor second | datagrams |\n",
    );
    text.push_str("| ---: | ---: | ---: | ---: |\n");
    for size in sizes {
        let begun = processor_time();
        let (mut seeds, mut datagrams, mut simulated) = (0u64, 0u64, Duration::ZERO);
        while processor_time() - begun < time {
            let outcome = run(&case(*size, seeds), false);
            seeds += 1;
            datagrams += outcome.datagrams;
            simulated += outcome.simulated;
        }
        let took = (processor_time() - begun).as_secs_f64();
        let _ = writeln!(
            text,
            "| {size} | {:.1} | {:.0} | {:.0} |",
            simulated.as_secs_f64() / 150.0 / took,
            simulated.as_secs_f64() / took,
            datagrams as f64 / took,
        );
    }
    text
}

/// A cluster of this size with the faults of some seed, under the default profile.
fn case(servers: usize, seed: u64) -> Case {
    let plan = Plan {
        length_ms: if servers > 9 { LENGTH_MS / 10 } else { LENGTH_MS },
        ..Plan::simple(servers, "balanced", vec![Policy::Keep; 4])
    };
    let families = ["loss", "kill", "freeze", "split", "cut", "leave"];
    let faults =
        if servers > 100 { Vec::new() } else { schedule(&families, &plan, &mut StdRng::seed_from_u64(seed)) };
    Case { seed, plan, faults, ..draw(seed) }
}
