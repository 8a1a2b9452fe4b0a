//! What large clusters cost in which nothing happens: processor time, memory and datagrams.

use std::fmt::Write;
use std::time::Duration;

use flip_core::sim::{AtRest, Plan};

use crate::speed::processor_time;

/// Simulated before anything is measured: the first probes have all left.
const BEFORE: Duration = Duration::from_secs(5);
/// Simulated time that is measured.
const MEASURED: Duration = Duration::from_secs(20);

/// Clusters of these sizes at rest under profile `lan`, as Markdown; and whether all was well in them.
#[must_use]
pub fn at_rest(sizes: &[usize]) -> (String, bool) {
    let mut text = String::from(
        "| servers | processor seconds per simulated second | datagrams/s per server | memory, MB | bytes per pair | to set up, processor seconds |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let mut fine = true;
    // What was freed is not all given back, so the small ones come first.
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    let nothing = resident();
    for size in sizes {
        let begun = processor_time();
        let mut cluster = AtRest::new(&Plan::simple(size, "lan", Vec::new()), 1);
        cluster.run_for(BEFORE);
        let set_up = processor_time();
        let before = cluster.datagrams();
        cluster.run_for(MEASURED);
        let took = (processor_time() - set_up).as_secs_f64();
        let sent = (cluster.datagrams() - before) as f64;
        let bytes = resident().saturating_sub(nothing) as f64;
        let seconds = MEASURED.as_secs_f64();
        let _ = writeln!(
            text,
            "| {size} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} |",
            took / seconds,
            sent / seconds / size as f64,
            bytes / 1e6,
            bytes / (size as f64 * size as f64),
            (set_up - begun).as_secs_f64(),
        );
        if let Some(wrong) = cluster.wrong() {
            fine = false;
            let _ = writeln!(text, "BROKEN with {size} servers: {wrong}");
        }
    }
    (text, fine)
}

/// Resident memory of this process, bytes; zero where the kernel does not say.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = pages.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
