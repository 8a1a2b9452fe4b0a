//! The two closed enums between the core and its driver.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Edit, Known};
use crate::config::{ClusterKey, Config};
use crate::event::{Event, Reason};
use crate::id::{CheckRef, ItemRef};
use crate::stored::StoredKeys;
use crate::time::Time;

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
    /// Whether what an item needs here is there at all, told when that changes, and at start where it is not.
    Usable {
        /// The item.
        item: ItemRef,
        /// What is wrong, as one line for people: `eth0 has no carrier`. None when nothing is.
        trouble: Option<String>,
    },
    /// A host that is no member uses an item that is here.
    Conflict {
        /// The item.
        item: ItemRef,
        /// That host, for people: its hardware address.
        with: String,
        /// Whether the item is to go from here, by the config. Else whoever tells this defends it.
        give_up: bool,
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
    /// Shut down: hand over, down hooks, goodbye, then `Output::Left`.
    Leave,
    /// The machine slept: CLOCK_BOOTTIME went this much further than CLOCK_MONOTONIC since the last
    /// input. Handed in before anything else that happened since, because the kernel's own timers
    /// stood still meanwhile (rule R7).
    Suspended {
        /// For how long.
        by: Duration,
    },
    /// An `Output::Refresh` was carried out.
    Refreshed {
        /// From `RefreshCall::id`.
        id: u64,
        /// Items of the call that were not there any more, or whose `Lifetime::latest` had passed. They
        /// are not there now.
        gone: Vec<usize>,
    },
    /// The witness answered an `Output::PingWitness`.
    WitnessAnswered {
        /// From the ping.
        nonce: u16,
    },
    /// A run of a health check ended.
    CheckDone {
        /// From `CheckCall::id`.
        id: u64,
        /// `Err` carries one line for people.
        result: Result<(), String>,
    },
    /// Another member has looked who answers for an item that is here.
    Confirmed {
        /// The item.
        item: ItemRef,
        /// Position of the server that looked.
        by: usize,
        /// Who answered.
        answered: Answered,
    },
    /// A system of this node says something to its like on other nodes, which get it as `Output::Heard`. It
    /// travels once, may be lost or overtaken, and nothing in the core depends on it.
    Say {
        /// Position of the server that is to hear it; none for all that are up. Nobody who is not up gets it.
        to: Option<usize>,
        /// What it is about: `flip_systems::topic` has those in use.
        topic: u8,
        /// At most [`limits::ASIDE`](crate::limits::ASIDE) bytes; what is longer is not sent.
        data: Vec<u8>,
    },
    /// An `Output::StoreCatalog` was carried out.
    Stored {
        /// From the output.
        id: u64,
        /// `Err` carries one line for people: nothing, or a part of it, is there.
        result: Result<(), String>,
    },
    /// Somebody who may says what to do; answered by `Output::Done`, or `Output::Late`.
    Command {
        /// The driver's name for who asked, below 2^63.
        asker: u64,
        /// What.
        command: Command,
    },
}

/// What an operator, or a script of this node, can tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Takes all items from a server, in planned moves, until [`Command::Undrain`].
    Drain {
        /// Its id.
        server: String,
    },
    /// Lets a server take items again.
    Undrain {
        /// Its id.
        server: String,
    },
    /// The operator has made sure that an item in state `Unclean` is released.
    ConfirmReleased {
        /// The item's name.
        item: String,
    },
    /// A script of this node says something of the node to all: a short text, or none to take it back.
    SetFact {
        /// Its name.
        key: String,
        /// The text.
        value: Option<String>,
    },
    /// A script of this node says whether the node is fit for items. While any reason says that it is not,
    /// it gets none.
    SetActive {
        /// Whether it is, as far as this reason goes.
        active: bool,
        /// Name of the reason.
        reason: String,
    },
    /// What made hooks of an item fail on this node is mended: they are tried again at once.
    Retry {
        /// The item's name.
        item: String,
    },
    /// The driver has read its scripts again, and this is what came of it: everybody who listens to events
    /// hears of it.
    Reloaded {
        /// What changed; or why everything is as it was, with file and line.
        result: Result<String, String>,
    },
    /// Somebody asked the daemon for a change, and this is what came of it: everybody who listens to events
    /// hears of it.
    Asked {
        /// Who.
        by: String,
        /// From where.
        from: String,
        /// What for.
        what: String,
        /// What was done, or why not.
        result: Result<String, String>,
    },
    /// The neighbours are told again of an item that is here, from the start.
    Announce {
        /// The item's name; none for all that are here.
        item: Option<String>,
    },
    /// Adds a key to the ring of the whole cluster. It opens from then on and seals nothing yet.
    KeyAdd {
        /// The key.
        key: ClusterKey,
    },
    /// Seals with another key of the ring.
    KeyUse {
        /// `wire::ring::key_id` of the key.
        id: u8,
    },
    /// Removes a key from the ring.
    KeyRemove {
        /// `wire::ring::key_id` of the key.
        id: u8,
    },
    /// Changes the catalog of the whole cluster: all of the edits, or none.
    Edit {
        /// What, in this order.
        edits: Vec<Edit>,
        /// The answer waits for this node's disk only, and not for a majority's.
        local: bool,
        /// Also what takes more than one vote at once.
        force: bool,
        /// After this long the answer says how far the change has come.
        timeout: Duration,
    },
    /// The config file was read again: what differs is applied, or nothing where any of it is wrong.
    File {
        /// Its text.
        text: String,
        /// What is found now under the names that it gives.
        scripts: Vec<Known>,
    },
}

/// Who answers for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// This node, and nobody else.
    Here,
    /// Somebody with this hardware address, alone or beside this node.
    Other([u8; 6]),
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
    /// Somebody else is about to take an item that is here: announce it no more, at once. It stays, and
    /// `HookAction::Announce` begins anew.
    Hush {
        /// Which item.
        item: ItemRef,
    },
    /// All changes of a plan are done: run the `post` hook of their system and answer with `Input::HookDone`.
    Post(PostCall),
    /// End a running hook at once and answer with `Input::HookDone` and an error.
    Cancel {
        /// From `HookCall::id`.
        hook: u64,
    },
    /// Something happened.
    Event(Event),
    /// The node goes on under this config: positions in later outputs, and in inputs from now on, are its own. What
    /// is retired in it is still to be worked with, and what is in neither this one nor the one before is new.
    Config(Arc<Config>),
    /// Remember this generation durably; the next start must use a larger one. Where it cannot be stored,
    /// the next start's clock has to be larger, so the driver says so and runs on.
    StoreGeneration(u64),
    /// Remember these keys durably, before later outputs; the next start gets them.
    StoreKeys(StoredKeys),
    /// Remember this of the catalog durably, and answer with `Input::Stored`; the next start gets all of it. There
    /// is one at a time.
    StoreCatalog {
        /// Echoed.
        id: u64,
        /// What to write.
        bytes: Vec<u8>,
        /// Whether it replaces the file, whole and at once, or is appended to it.
        whole: bool,
    },
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
    /// Give items that are here a new lifetime, at once and before later outputs; answer with
    /// `Input::Refreshed` before any other input.
    Refresh(RefreshCall),
    /// Send one ICMP echo request to the config's witness; answer with `Input::WitnessAnswered` if it
    /// answers.
    PingWitness {
        /// Echoed.
        nonce: u16,
    },
    /// A system of another node said something to its like here, with `Input::Say`.
    Heard {
        /// Position of the server that said it.
        from: usize,
        /// What it is about.
        topic: u8,
        /// What was said, as the sender made it: from a holder of the key, and not checked otherwise.
        data: Vec<u8>,
    },
    /// Run a health check once, and answer with `Input::CheckDone`.
    Check(CheckCall),
    /// The answer to an `Input::Command`: one line for people.
    Done {
        /// From the input.
        asker: u64,
        /// What was done, or why not and what to do.
        result: Result<String, String>,
    },
    /// The answer to a `Command::Edit` that is in effect and on this node's disk, but not on the disks of a majority
    /// in time.
    Late {
        /// From the input.
        asker: u64,
        /// How far it has come: one line for people.
        how_far: String,
    },
    /// This node must not run: another daemon has its id. Nothing was taken; the driver exits.
    Refused {
        /// Where the other one is, or was heard.
        other: SocketAddr,
    },
}

/// How long a kernel keeps an address by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Whole seconds from the system call on (`valid_lft`); [`Lifetime::FOREVER`] for no end.
    pub seconds: u32,
    /// The last moment at which this lifetime may be given: given later, the address would outlive the
    /// lease (rule R6 b). Whoever finds, before or after the system call, that it has passed takes the
    /// address away at once and reports a failure, before anything is announced.
    pub latest: Option<Time>,
}

impl Lifetime {
    /// The value of `seconds` for no end, as in the kernel (`INFINITY_LIFE_TIME`).
    pub const FOREVER: u32 = u32::MAX;
    /// No end.
    pub const ENDLESS: Self = Self { seconds: Self::FOREVER, latest: None };
}

/// Items of one system that get a new lifetime together.
///
/// It must not bring back what is gone: where the kernel had already removed an address, the call takes
/// it away again and reports it (rule R6 a).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshCall {
    /// Echoed in `Input::Refreshed`.
    pub id: u64,
    /// Position of the system.
    pub system: usize,
    /// Positions of the items.
    pub items: Vec<usize>,
    /// Their new lifetime.
    pub lifetime: Lifetime,
}

/// One run of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckCall {
    /// Echoed in `Input::CheckDone`.
    pub id: u64,
    /// Which: `Config::check` has it.
    pub check: CheckRef,
    /// The driver must end the run and report an error after this long. A result that comes later counts as
    /// an error all the same.
    pub timeout: Duration,
}

/// One `post` hook to run (as Wackamole's). There is at most one for each system at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostCall {
    /// Echoed in `Input::HookDone`.
    pub id: u64,
    /// Position of the system.
    pub system: usize,
    /// What became different since the last one, item by item.
    pub changes: Vec<Change>,
    /// The driver must end the hook and report an error after this long.
    pub timeout: Duration,
}

/// What a plan changed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Position of the item in its system.
    pub item: usize,
    /// True when it came, false when it went.
    pub here: bool,
    /// Why.
    pub reason: Reason,
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
    /// How long the item may be there without being refreshed. Only systems whose release is the
    /// kernel's know what to do with it.
    pub lifetime: Lifetime,
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
