//! The effects of flip: what the rules of `flip-core` want is done here, and nothing is decided.
//!
//! - [`Systems`] runs hooks: [`Systems::run`] takes the `HookCall`s that a node puts out,
//!   [`Systems::observe`] and [`Systems::drift`] tell it what is really there.
//! - [`ip`] puts virtual addresses on interfaces over netlink and announces them by ARP and NDP.
//! - [`lua`] runs scripts as hooks, each call in a closed state of its own, on threads of their own.
//! - [`memory`] remembers what is up and touches nothing, for demonstrations and tests.
//! - [`UdpPort`] sends and receives datagrams, and hears that nobody listens at the other end.
//! - [`stream`] exchanges frames over TCP, for what is too long for a datagram.
//! - [`Witness`] asks an address outside of the cluster whether it answers.
//! - [`Checks`] runs health checks: TCP, HTTP, programs, scripts, PostgreSQL, pgbouncer and ping.
//! - [`clock`] is the clock that nodes are driven with; [`interfaces()`] lists what an address could
//!   be put on.
//!
//! Everything runs on a current-thread tokio runtime, and nothing waits for longer than a system
//! call takes. Linux only.
//!
//! ```no_run
//! # async fn example(config: &flip_core::config::Config) -> Result<(), Box<dyn std::error::Error>> {
//! use flip_systems::Systems;
//!
//! let systems = Systems::open(config)?;
//! for (item, present) in systems.observe().await? {
//!     println!("{item:?} is {}", if present { "here" } else { "not here" });
//! }
//! let (item, present) = systems.drift().await;
//! println!("somebody else changed {item:?}: present = {present}");
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod check;
pub mod clock;
mod entropy;
pub mod flip;
pub mod interfaces;
pub mod ip;
pub mod lua;
pub mod memory;
mod netlink;
pub mod post;
pub mod stream;
#[expect(unsafe_code, reason = "the system calls that no safe crate wraps; each call has its proof")]
mod sys;
pub mod system;
pub mod udp;
pub mod witness;

pub use check::{Checks, Scripts};
pub use entropy::entropy;
pub use flip::{Flip, Handle};
pub use interfaces::{InterfaceInfo, interfaces};
pub use memory::Memory;
pub use post::Post;
pub use system::{Drift, Leftover, OpenError, Registry, System, Systems};
pub use udp::{BindError, Received, UdpCounters, UdpPort};
pub use witness::Witness;
