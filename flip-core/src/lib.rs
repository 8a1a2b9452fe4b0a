//! The rules of flip, as a state machine that is driven and does nothing by itself: no clock, no
//! socket, no file, no dice of its own. The daemon drives it with the real ones, the simulator with
//! virtual ones, and both run the same code.
//!
//! # A cluster by hand
//!
//! To run a node with real sockets in your own program, take `flip_systems::Flip`. To see how the rules are
//! driven, here are two servers that share one thing, wired to each other without any network: each gets the same
//! config, is handed one input at a time, and says what is to be done. The first server in the list takes
//! the thing as soon as both have heard each other.
//!
//! ```
//! use std::collections::VecDeque;
//! use std::sync::Arc;
//!
//! use flip_core::config::{self, Overrides, Source};
//! use flip_core::{HookAction, Input, Node, Output, Start, Time};
//!
//! let text = r#"{
//!     "servers": {
//!         "a": {"ip": "192.0.2.1", "systems": ["demo"]},
//!         "b": {"ip": "192.0.2.2", "systems": ["demo"]},
//!     },
//!     "cluster": {"system": {"demo": {
//!         "alive": "memory_up", "down": "memory_down", "data": ["the-one-thing"],
//!     }}},
//! }"#;
//! let source = Source { file: "example", text };
//! let now = Time::from_millis(1);
//! let mut nodes = Vec::new();
//! for id in ["a", "b"] {
//!     let overrides = Overrides { id: Some(id), ..Overrides::default() };
//!     let loaded = config::load(&source, &overrides).expect("a config without errors");
//!     let start = Start { generation: 1, seed: [7; 32], keys: None };
//!     nodes.push(Node::new(Arc::new(loaded.config), start, now));
//! }
//! let addrs = nodes.iter().map(|node| node.config().my().addr).collect::<Vec<_>>();
//!
//! let mut taken = Vec::new();
//! let mut network = VecDeque::new();
//! for n in [0, 1, 0] {
//!     nodes[n].handle(Input::Timeout, now);
//!     loop {
//!         for n in 0..nodes.len() {
//!             // One input, then all outputs, then the next input: that is the contract.
//!             while let Some(output) = nodes[n].poll_output() {
//!                 match output {
//!                     Output::Datagram { to, data } => network.push_back((addrs[n], to, data)),
//!                     Output::Hook(call) => {
//!                         if call.action == HookAction::Alive {
//!                             taken.push(nodes[n].config().my().id.clone());
//!                         }
//!                         nodes[n].handle(Input::HookDone { hook: call.id, result: Ok(()) }, now);
//!                     }
//!                     _ => {}
//!                 }
//!             }
//!         }
//!         let Some((from, to, data)) = network.pop_front() else { break };
//!         let n = addrs.iter().position(|addr| *addr == to).expect("one of the two");
//!         nodes[n].handle(Input::Datagram { from, data: &data }, now);
//!     }
//! }
//! assert_eq!(taken, ["a"], "listed first, and both see a quorum");
//! assert!(nodes[0].poll_timeout().is_some(), "when to hand in the next Input::Timeout");
//! assert_eq!(nodes[1].status(now).items[0].holders[0].server, "a");
//! ```
//!
//! # The contract
//!
//! [`Node::handle`] one [`Input`], take [`Node::poll_output`] until it is empty, then wait
//! for the next input or [`Node::poll_timeout`], whichever comes first. Time never goes back. The same
//! config, seed, inputs and times give the same outputs, byte for byte.
//!
//! # Where things are
//!
//! Floors, each of which uses only those below: [`node`] · [`placement`] · [`view`] · [`ballot`],
//! [`swim`], [`facts`], [`loss`] · [`wire`], [`config`] · [`quorum`], [`id`], [`limits`], [`timer`],
//! [`time`].
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod ballot;
pub mod catalog;
pub mod config;
pub mod eligible;
pub mod event;
pub mod facts;
pub mod id;
pub mod io;
pub mod join;
pub mod lease;
pub mod limits;
pub mod link;
pub mod loss;
mod marks;
pub mod node;
pub mod placement;
pub mod plan;
pub mod planted;
pub mod quorum;
pub mod record;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod status;
pub mod stored;
pub mod supervise;
pub mod swim;
pub mod tally;
pub mod time;
pub mod timer;
pub mod translation;
pub mod view;
pub mod why;
pub mod wire;

#[cfg(test)]
mod testing;

pub use io::{
    Answered, Change, Command, HookAction, HookCall, Input, Lifetime, Output, PostCall, RefreshCall,
};
pub use node::{Node, Start};
pub use time::Time;
