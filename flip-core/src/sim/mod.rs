//! The deterministic simulator (feature `sim`): the real core with many nodes in one thread, virtual time,
//! and everything that can go wrong around them.
//!
//! A seed draws a [`Case`]: a cluster ([`Plan`]) and a schedule of faults ([`Timed`]). [`run`] plays it and
//! looks after every event whether the promises hold, by what is really in the simulated kernels and not
//! by what nodes say. [`shrink`] finds the few faults that a failure needs.
//!
//! ```text
//!  swarm ─► Case ─► run ─► world: queue ─► process (one daemon's turn) ─► Node::handle
//!                            │   ▲              │ outputs
//!                            │   │     network, hooks, kernel, clients, disk
//!                            ▼   └── trouble (faults begin and end)
//!                      truth (who holds what) ─► judge, check (P1 to P12) ─► Outcome
//! ```

mod adopt;
mod attack;
mod catalog;
mod check;
#[cfg(feature = "harness")]
pub(crate) mod cipher;
mod clients;
mod clock;
mod events;
mod fault;
mod happening;
mod health;
mod hooks;
mod host;
mod judge;
mod kernel;
mod network;
mod operator;
mod own;
mod plan;
mod process;
mod queue;
mod rest;
mod rotation;
mod run;
mod second;
mod shrink;
mod swarm;
#[cfg(test)]
mod tests;
mod told;
mod trace;
mod trouble;
mod truth;
mod versions;
mod world;

pub(crate) use crate::marks::mark;

pub use adopt::Change;
pub use catalog::{Ask, Disks};
pub use check::Violation;
pub use fault::{CheckMode, Disk, Fault, HookMode, Links, Point, Timed};
pub use health::Checks;
pub use own::{LARGEST, longest, simulate};
pub use plan::{Case, Plan, Policy};
pub use rest::AtRest;
pub use run::{Outcome, run, run_config};
pub use shrink::shrink;
pub use swarm::{FAMILIES, draw, schedule};
pub use truth::Tally;
pub use world::World;

#[cfg(feature = "harness")]
pub use crate::marks::NAMES as MARKS;
