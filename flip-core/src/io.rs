//! The two closed enums between the core and its driver.

use std::net::SocketAddr;
use std::time::Duration;

use crate::event::{Event, Reason};
use crate::id::ItemRef;

/// What the driver hands to `Node::handle`.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived.
    Datagram {
        /// Source address.
        from: SocketAddr,
        /// The bytes; refused when over `limits::DATAGRAM`.
        data: &'a [u8],
    },
    /// `Node::poll_timeout` has passed.
    Timeout,
    /// The kernel reports that nobody listens at an address we sent to (ICMP port unreachable).
    Unreachable {
        /// The address of the lost datagram.
        addr: SocketAddr,
    },
    /// A hook ended.
    HookDone {
        /// From `HookCall::id`.
        hook: u64,
        /// `Err` carries one line for people.
        result: Result<(), String>,
    },
    /// What is really there, told at start for leftovers and later when the kernel reports a change.
    Observed {
        /// The item.
        item: ItemRef,
        /// Whether it is bound here.
        present: bool,
    },
    /// A peer opened a stream and sent one frame; answer with `Output::StreamReply`.
    StreamRequest {
        /// The driver's name for the connection.
        conn: u64,
        /// The frame.
        data: &'a [u8],
    },
    /// The answer to an `Output::Stream`.
    StreamReply {
        /// The frame.
        data: &'a [u8],
    },
    /// Shut down: down hooks, goodbye, then `Output::Left`.
    Leave,
}

/// What the driver takes from `Node::poll_output`.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// What.
        data: Vec<u8>,
    },
    /// Run a hook and answer with `Input::HookDone`. Hooks of one item never overlap.
    Hook(HookCall),
    /// Something happened.
    Event(Event),
    /// Remember this generation durably; the next start must use a larger one.
    StoreGeneration(u64),
    /// Connect to `to` over TCP, send one frame (u32 big-endian length, then the bytes), read one
    /// frame and hand it in as `Input::StreamReply`. Failures are dropped: the core asks again.
    Stream {
        /// Where to.
        to: SocketAddr,
        /// The frame.
        data: Vec<u8>,
    },
    /// The answer to an `Input::StreamRequest`.
    StreamReply {
        /// From `Input::StreamRequest`.
        conn: u64,
        /// The frame.
        data: Vec<u8>,
    },
    /// Everything is released and everybody who answers knows that we left: the driver may exit.
    Left,
}

/// One hook to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// Echoed in `Input::HookDone`.
    pub id: u64,
    /// Which item.
    pub item: ItemRef,
    /// What to do.
    pub action: HookAction,
    /// Why.
    pub reason: Reason,
    /// The driver must end the hook and report an error after this long.
    pub timeout: Duration,
}

/// What a hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookAction {
    /// Bring the item up here and announce it.
    Alive,
    /// Take it down.
    Down,
    /// It is here: tell the neighbours again.
    Announce,
}
