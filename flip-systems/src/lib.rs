//! The effects of flip: what the rules of `flip-core` want is done here, and nothing is decided.
//!
//! # flip in your own program
//!
//! You bring something of which each piece is to be on one server at a time: shards, jobs, a leader's duties. Say
//! how a piece comes and goes ([`System`]), give it a name that the config may use, and run a node in each of
//! your processes. The nodes find out who lives, and call you.
//!
//! ```
//! use std::collections::BTreeSet;
//! use std::future::ready;
//! use std::sync::{Arc, Mutex};
//!
//! use flip_core::config::{Overrides, Source};
//! use flip_core::event::{Event, ItemState};
//! use flip_systems::system::{Context, HookFuture, ObserveFuture};
//! use flip_systems::{Flip, Registry, System};
//!
//! /// Items are positions in the config's list.
//! struct Shards(Arc<Mutex<BTreeSet<usize>>>);
//!
//! impl System for Shards {
//!     fn alive(&self, item: usize, _: &Context) -> HookFuture {
//!         let here = Arc::clone(&self.0);
//!         Box::pin(async move {
//!             here.lock().unwrap().insert(item);
//!             Ok(())
//!         })
//!     }
//!     fn down(&self, item: usize, _: &Context) -> HookFuture {
//!         let here = Arc::clone(&self.0);
//!         Box::pin(async move {
//!             here.lock().unwrap().remove(&item);
//!             Ok(())
//!         })
//!     }
//!     fn observe(&self) -> ObserveFuture {
//!         let here = self.0.lock().unwrap().iter().copied().collect();
//!         Box::pin(ready(Ok(here)))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let here = Arc::new(Mutex::new(BTreeSet::new()));
//! let mut registry = Registry::default();
//! let shared = Arc::clone(&here);
//! registry.register_with("shard_up", "shard_down", move |_| Shards(Arc::clone(&shared)));
//!
//! # let port = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
//! // A cluster of one; with more servers, each runs this with its own id.
//! let text = r#"{
//!     "servers": {"a": {"ip": "127.0.0.1", "port": 2200, "systems": ["shard"]}},
//!     "cluster": {"system": {"shard": {"type": "shard", "data": ["north", "south"]}}},
//! }"#;
//! # let text = &text.replace("2200", &port);
//! let overrides = Overrides { id: Some("a"), ..Overrides::default() };
//! let source = Source { file: "cluster.json", text };
//! let (builder, _warnings) = Flip::from_text(&source, &overrides, registry)?;
//! let flip = builder.start().await?;
//!
//! let node = flip.handle();
//! let mut events = node.events();
//! let run = tokio::spawn(flip.run());
//! for _ in 0..2 {
//!     while !matches!(events.recv().await?.event, Event::Item { to: ItemState::Active, .. }) {}
//! }
//! assert_eq!(*here.lock().unwrap(), BTreeSet::from([0, 1]));
//! let status = node.status().await.expect("it runs");
//! assert_eq!(status.items[0].wanted, ["a"]);
//!
//! // Hands over, lets go, says goodbye.
//! node.leave();
//! run.await??;
//! assert!(here.lock().unwrap().is_empty());
//! # Ok(()) })
//! # }
//! ```
//!
//! [`flip`] says what a program may add. Where a piece is just a future that runs, [`Registry::register_tasks`] needs no
//! [`System`]: `examples/embed.rs` does so, and loses one node of three. The daemon is such a program too.
//!
//! # What is here
//!
//! - [`Flip`] drives a node, [`Handle`] asks it, steers it and ends it.
//! - [`Systems`] runs hooks: [`Systems::run`] takes the `HookCall`s that a node puts out,
//!   [`Systems::observe`] and [`Systems::drift`] tell it what is really there.
//! - [`tasks`] runs futures as items, [`files`] reads a config with what lies beside it.
//! - [`ip`] puts virtual addresses on interfaces over netlink and announces them by ARP and NDP.
//! - [`lua`] runs scripts as hooks, each call in a closed state of its own, on threads of their own.
//! - [`privileges`] gives up what a daemon does not need of root's powers.
//! - [`memory`] remembers what is up and touches nothing, for demonstrations and tests.
//! - [`UdpPort`] sends and receives datagrams, and hears that nobody listens at the other end.
//! - [`stream`] exchanges frames over TCP, for what is too long for a datagram.
//! - [`Witness`] asks an address outside of the cluster whether it answers.
//! - [`Checks`] runs health checks: TCP, HTTP, programs, scripts, PostgreSQL, pgbouncer and ping.
//! - [`clock`] is the clock that nodes are driven with; [`interfaces()`] lists what an address could
//!   be put on; [`entropy()`] is the kernel's random source.
//!
//! Everything runs on the caller's tokio runtime, and nothing waits for longer than a system call takes. Linux
//! only.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod bus;
pub mod check;
pub mod clock;
mod entropy;
pub mod files;
pub mod flip;
mod group;
pub mod interfaces;
pub mod ip;
pub mod join;
pub mod lua;
pub mod memory;
mod netlink;
pub mod post;
pub mod privileges;
mod sockdiag;
pub mod stream;
#[expect(unsafe_code, reason = "the system calls that no safe crate wraps; each call has its proof")]
mod sys;
pub mod system;
pub mod tasks;
mod tls;
pub mod udp;
pub mod witness;

pub use bus::{Bus, Confirmed, Said, topic};
pub use check::{Checks, Scripts};
pub use entropy::entropy;
pub use flip::{Flip, Handle, Happened};
pub use interfaces::{InterfaceInfo, interfaces, with_network_of};
pub use memory::Memory;
pub use post::Post;
pub use system::{Drift, Leftover, OpenError, Registry, System, Systems, Word};
pub use udp::{BindError, Received, UdpCounters, UdpPort};
pub use witness::Witness;
