//! Waiting for what nobody announces, such as a line in a log.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until `done`.
///
/// # Panics
/// After `limit`; `found` tells what is there instead.
pub fn until(what: &str, limit: Duration, found: impl Fn() -> String, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}\n{}", found());
        std::thread::sleep(PAUSE);
    }
}

/// Waits until one of some daemons has written a line with all of `words`.
///
/// # Panics
/// After `limit`; with their logs.
pub fn until_logged(cluster: &Cluster, daemons: &[usize], words: &[&str], limit: Duration) {
    let logs = || daemons.iter().map(|n| cluster.log(*n)).collect::<Vec<_>>().join("\n---\n");
    let says = |line: &str| words.iter().all(|word| line.contains(word));
    until(&format!("a line with {words:?}"), limit, logs, || logs().lines().any(says));
}
