//! What can happen next, and what can wait for a daemon.

use std::net::SocketAddr;

use super::fault::HookMode;
use crate::io::{Command, HookCall};

/// One entry of the world's queue.
#[derive(Debug)]
pub(super) enum Happening {
    /// A daemon's own deadline.
    Wake { host: usize },
    /// Something arrives at a daemon of this life (zero: of any).
    Mail { host: usize, life: u64, mail: Mail },
    /// A datagram arrives at a host.
    Datagram { from: usize, to: usize, data: Vec<u8>, kind: Kind },
    /// A stream's request arrives.
    Request { from: usize, from_life: u64, to: usize, data: Vec<u8> },
    /// A stopped daemon may go on.
    Go { host: usize },
    /// SIGCONT.
    Thaw { host: usize, token: u64 },
    /// A machine wakes.
    Wakes { host: usize, late_us: u64, dies: bool },
    /// The kernel looks whether an address is over.
    Expire { host: usize, item: usize },
    /// A daemon announces an item once more, unless this burst has ended.
    Announce { host: usize, item: usize, burst: u64, n: usize },
    /// What a program does: of this life of its daemon and this hook, with which it ends.
    Effect { host: usize, id: (u64, u64), item: usize, up: bool },
    /// A daemon of this life has its catalog written.
    Stored { host: usize, life: u64, id: u64 },
    /// The fault of this number begins.
    Begin(usize),
    /// The trouble of this token ends.
    End(u64),
    /// A daemon is started, unless another fault keeps it down.
    Start { host: usize, token: u64 },
    /// The invariants are to be looked at again.
    Look { item: usize },
    /// Does the host still hold what this check keeps away from it since then?
    Unhealthy { host: usize, check: crate::id::CheckRef, since: crate::Time },
    /// Is the item still without a holder since then?
    Missing { item: usize, since: crate::Time },
    /// Has everybody heard of a verdict by now?
    Told(super::told::Word),
    /// A second daemon's own deadline.
    WakeSecond(usize),
    /// Was a second daemon refused?
    JudgeSecond(usize),
}

/// What a datagram really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What its sender sent.
    Genuine,
    /// Damaged on the way.
    Damaged,
    /// Recorded and sent again.
    Replayed,
    /// Made by somebody without the key.
    Forged,
    /// Sealed by a member, and no message.
    Garbled,
}

/// What waits for a daemon.
#[derive(Debug)]
pub(super) enum Mail {
    /// Its timer went off.
    Tick,
    Datagram {
        from: usize,
        data: Vec<u8>,
        kind: Kind,
    },
    Unreachable {
        addr: SocketAddr,
    },
    Request {
        from: usize,
        from_life: u64,
        data: Vec<u8>,
    },
    Reply {
        from: usize,
        data: Vec<u8>,
    },
    /// A hook of the kernel class gets to its system call.
    HookCall(HookCall),
    /// A hook reports.
    PostDone {
        id: u64,
    },
    HookDone {
        item: usize,
        id: u64,
        result: Result<(), &'static str>,
    },
    /// A hook that was ended by the daemon has ended.
    HookEnded {
        item: usize,
        ended: u64,
        id: u64,
    },
    /// A hook of the kernel class ends badly.
    HookEnds {
        call: HookCall,
        mode: HookMode,
    },
    /// The kernel reports a change.
    Observed {
        item: usize,
        present: bool,
    },
    /// What an item needs is there, or not.
    Usable {
        item: usize,
        well: bool,
    },
    Witness {
        nonce: u16,
    },
    /// A health check ends.
    CheckDone {
        id: u64,
        healthy: bool,
    },
    /// Somebody asks for something.
    Command {
        asker: u64,
        command: Command,
    },
    /// A write of the catalog came to its end.
    Stored {
        id: u64,
        result: Result<(), &'static str>,
    },
    /// It hears of the change of this number.
    Adopt {
        count: u64,
    },
    Leave,
}

impl Mail {
    /// What an operator asks for who does not need the answer.
    pub(super) const fn command(command: Command) -> Self {
        Self::Command { asker: 1, command }
    }
}
