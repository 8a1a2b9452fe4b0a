//! The rules of flip.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod ballot;
pub mod config;
pub mod event;
pub mod facts;
pub mod id;
pub mod io;
pub mod limits;
pub mod loss;
pub mod node;
pub mod placement;
pub mod quorum;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod status;
pub mod swim;
pub mod time;
pub mod timer;
pub mod view;
pub mod wire;

#[cfg(test)]
mod testing;

pub use io::{HookAction, HookCall, Input, Output};
pub use node::{Node, Start};
pub use time::Time;
