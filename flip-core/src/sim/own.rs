//! A cluster of the user's own under one fault, for `flip simulate`.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::fault::Timed;
use super::plan::{Case, Plan};
use super::run::{Outcome, run_config};
use super::swarm::schedule;
use crate::config::Config;

/// When the fault begins.
const BEGIN_MS: u64 = 1_000;
/// How long a fault lasts at most.
const LONGEST_MS: u64 = 30_000;
/// How long the cluster is watched after the fault.
const AFTER_MS: u64 = 15_000;

/// The largest cluster that is simulated with faults on single links.
pub const LARGEST: usize = 128;

/// Runs a cluster of this config through one fault of this kind (a name of `FAMILIES`), and measures its
/// items from the fault's beginning to a while after its end. None when the kind is unknown.
#[must_use]
pub fn simulate(config: &Config, kind: &str, seed: u64) -> Option<Outcome> {
    let servers = config.servers.len();
    let mut plan = Plan::simple(servers, "balanced", Vec::new());
    plan.lease_ms = u64::try_from(config.lease.as_millis()).unwrap_or(u64::MAX);
    plan.length_ms = 3 * LONGEST_MS;
    let mut rng = StdRng::seed_from_u64(seed);
    let fault = schedule(&[kind], &plan, &mut rng).into_iter().next()?.fault;
    let faults = vec![Timed { at_ms: BEGIN_MS, fault }];
    plan.length_ms = BEGIN_MS + faults[0].fault.millis() + AFTER_MS;
    plan.cipher = true;
    let case = Case { about: String::new(), seed, plan, faults };
    Some(run_config(&case, config, config, false))
}

/// How long the one fault of [`simulate`] lasts at most.
#[must_use]
pub const fn longest() -> Duration {
    Duration::from_millis(LONGEST_MS)
}
