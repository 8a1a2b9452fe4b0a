//! The deterministic simulator: N real nodes, one thread, virtual time, a seeded network.
//!
//! The nodes are the ones that run in production; only their clock, sockets, disk and hooks are
//! simulated. The same seed gives the same run, byte for byte.

mod check;
mod swarm;
mod world;

pub use check::Violation;
pub use swarm::{Outcome, Plan, run_seed};
pub use world::{Fate, Host, World};
