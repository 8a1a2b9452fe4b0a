//! What can go wrong, as plain values: a schedule of these is what a seed draws, what a failure is shrunk
//! to, and what the corpus keeps.

use serde::{Deserialize, Serialize};

/// One fault. It ends by itself after `ms` milliseconds where it has them; whatever is left at the end of
/// the schedule is ended there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Datagrams are lost one by one with this probability.
    Loss {
        /// Which links.
        on: Links,
        /// One-way probability.
        p: f64,
        /// For how long.
        ms: u64,
    },
    /// Losses come in bursts: in its bad state a link loses nearly everything (Gilbert 1960, Elliott 1963).
    Burst {
        /// Which links.
        on: Links,
        /// Part of the time in the bad state.
        bad: f64,
        /// Mean length of a burst.
        mean_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// Every datagram takes up to so much longer.
    Delay {
        /// Which links.
        on: Links,
        /// Longest added delay.
        by_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// Datagrams arrive twice with this probability.
    Duplicate {
        /// Probability.
        p: f64,
        /// For how long.
        ms: u64,
    },
    /// Single datagrams are overtaken, by up to ten seconds.
    Late {
        /// Probability.
        p: f64,
        /// Longest delay.
        by_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// Bits flip on the way.
    Corrupt {
        /// Probability per datagram.
        p: f64,
        /// For how long.
        ms: u64,
    },
    /// Datagrams larger than this disappear.
    Mtu {
        /// Which links.
        on: Links,
        /// Largest that passes, in bytes of payload.
        bytes: usize,
        /// For how long.
        ms: u64,
    },
    /// Nothing passes.
    Cut {
        /// Which links.
        on: Links,
        /// For how long.
        ms: u64,
    },
    /// Only links within a group pass.
    Split {
        /// The group of each host.
        groups: Vec<u8>,
        /// For how long.
        ms: u64,
    },
    /// Two groups that see each other only through one host, which sees both.
    Bridge {
        /// Who sees both.
        host: usize,
        /// The group of each host, 0 or 1.
        groups: Vec<u8>,
        /// For how long.
        ms: u64,
    },
    /// The daemon is killed and started again.
    Kill {
        /// Where.
        host: usize,
        /// What its disk remembers.
        disk: Disk,
        /// How long it is down.
        ms: u64,
    },
    /// The host loses power and starts again.
    PowerOff {
        /// Which.
        host: usize,
        /// What its disk remembers.
        disk: Disk,
        /// How long it is down.
        ms: u64,
    },
    /// The daemon is asked to leave, and started again.
    Leave {
        /// Where.
        host: usize,
        /// How long after it was asked it is started, at the earliest.
        ms: u64,
    },
    /// SIGSTOP, later SIGCONT.
    Freeze {
        /// Where.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// SIGSTOP at the worst moment: in the middle of the next system call that gives an address a lifetime.
    FreezeAt {
        /// Where.
        host: usize,
        /// At which point.
        point: Point,
        /// For how long.
        ms: u64,
    },
    /// The machine sleeps. Its clock goes on, its kernel's timers do not.
    Suspend {
        /// Which.
        host: usize,
        /// For how long.
        ms: u64,
        /// How long after waking the daemon is scheduled.
        late_ms: u64,
        /// Whether the daemon is killed before it is scheduled.
        dies: bool,
    },
    /// A virtual machine is paused, and its clocks with it (exception X4).
    Pause {
        /// Which.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// A starved processor: every input takes so long.
    Slow {
        /// Where.
        host: usize,
        /// Microseconds per input.
        each_us: u64,
        /// For how long.
        ms: u64,
    },
    /// The clock runs at another rate.
    Clock {
        /// Where.
        host: usize,
        /// Parts per million that it is fast.
        ppm: i64,
        /// For how long.
        ms: u64,
    },
    /// The wall clock jumps, which must not matter.
    WallClock {
        /// Where.
        host: usize,
        /// By how much.
        by_s: i64,
    },
    /// Hooks end badly.
    Hooks {
        /// Where.
        host: usize,
        /// How.
        mode: HookMode,
        /// Probability per hook.
        p: f64,
        /// For how long.
        ms: u64,
    },
    /// The interface of the addresses goes away with them; hooks fail until it is back.
    Interface {
        /// Where.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// Somebody deletes an address.
    Steal {
        /// Where.
        host: usize,
    },
    /// Generations cannot be stored.
    DiskFull {
        /// Where.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// An operator drains a server, and lets it take items again.
    Drain {
        /// At which host the command is given.
        at: usize,
        /// Which server.
        server: usize,
        /// For how long.
        ms: u64,
    },
    /// Recorded datagrams are sent again.
    Replay {
        /// To whom.
        host: usize,
        /// How many.
        count: u32,
        /// Whether they were recorded before the receiver's last start.
        old: bool,
    },
    /// Datagrams that look right but for the seal.
    Forge {
        /// To whom.
        host: usize,
        /// How many.
        count: u32,
        /// Over how long.
        ms: u64,
    },
    /// Health checks end badly.
    Checks {
        /// Where; everywhere without.
        host: Option<usize>,
        /// How.
        mode: CheckMode,
        /// Probability per run.
        p: f64,
        /// For how long.
        ms: u64,
    },
    /// All daemons are restarted one by one with one item more or less.
    Edit {
        /// Whether an item is added, else the last is removed.
        add: bool,
    },
    /// The config is changed, and every daemon goes on under it at its own moment.
    Adopt {
        /// What is changed.
        change: super::adopt::Change,
        /// Within how long all have heard of it.
        ms: u64,
    },
    /// Somebody edits the catalog: all of this, or nothing.
    Edits {
        /// At which host, or the next one that runs.
        at: usize,
        /// What.
        edits: Vec<super::catalog::Ask>,
        /// The answer waits for this host's disk only.
        local: bool,
    },
    /// Somebody puts another config file in place, and has it read again.
    File {
        /// Where.
        host: usize,
        /// Its version.
        version: u64,
        /// The items of the first system: places in the list of all that there ever are, each with what is said of it.
        items: Vec<(usize, u32)>,
    },
    /// The witness does not answer a host, though others do.
    Witness {
        /// Whom.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// A member seals what is no message.
    Garble {
        /// Who.
        from: usize,
        /// To whom.
        to: usize,
        /// How many datagrams.
        count: u32,
    },
    /// An operator changes the cluster's key: adds a new one, uses it, removes the old one.
    Keys {
        /// Where the commands are given, while it sees a quorum; elsewhere when not.
        at: usize,
        /// For how long the operator goes on trying.
        ms: u64,
    },
    /// A daemon is replaced by one of the next release, which speaks one more wire version.
    Upgrade {
        /// Where.
        host: usize,
        /// How long after the old one was asked to leave the new one is started, at the earliest.
        ms: u64,
    },
    /// A second daemon is started under the id of one that runs.
    SecondDaemon {
        /// At which host.
        host: usize,
        /// Whose id it has.
        server: usize,
    },
}

/// Which links a fault is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Links {
    /// All.
    All,
    /// From one host to all.
    From(usize),
    /// From all to one host.
    To(usize),
    /// From and to one host.
    Of(usize),
    /// One direction of one link.
    One(usize, usize),
    /// Both directions of one link.
    Both(usize, usize),
}

impl Links {
    /// Whether the link from `from` to `to` is one of them.
    #[must_use]
    pub const fn has(self, from: usize, to: usize) -> bool {
        match self {
            Self::All => true,
            Self::From(host) => from == host,
            Self::To(host) => to == host,
            Self::Of(host) => from == host || to == host,
            Self::One(a, b) => from == a && to == b,
            Self::Both(a, b) => from == a && to == b || from == b && to == a,
        }
    }

    fn greatest(self) -> usize {
        match self {
            Self::All => 0,
            Self::From(host) | Self::To(host) | Self::Of(host) => host,
            Self::One(a, b) | Self::Both(a, b) => a.max(b),
        }
    }
}

/// What a disk remembers of the generation after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    /// What was written.
    Kept,
    /// The last write is lost.
    Unsynced,
    /// Half of the last write: it is recognised as damaged and set aside.
    Torn,
    /// Nothing: a new disk.
    Gone,
}

/// Where a process stops in the middle of giving an address a lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// The node has decided, nothing was looked at yet.
    BeforeCheck,
    /// The clock was read, the kernel not yet asked (exception X1).
    BeforeCall,
    /// The kernel has done it, the answer was not looked at yet.
    AfterCall,
}

/// How a hook ends badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookMode {
    /// In time, but only just.
    Slow,
    /// At once, without effect.
    Fails,
    /// It did what it should and says that it failed.
    FailsDone,
    /// Never: it is ended at its deadline, without effect.
    Hangs,
    /// It is ended at its deadline, and what it should do happens all the same, later.
    HangsDone,
}

/// How a health check ends badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckMode {
    /// At once.
    Fails,
    /// Well, but too late.
    Slow,
    /// Never.
    Hangs,
    /// Well, but when it was given up already and runs again.
    Late,
}

impl Fault {
    /// For how long it lasts by itself, in milliseconds.
    #[must_use]
    pub const fn millis(&self) -> u64 {
        match self {
            Self::Loss { ms, .. }
            | Self::Burst { ms, .. }
            | Self::Delay { ms, .. }
            | Self::Duplicate { ms, .. }
            | Self::Late { ms, .. }
            | Self::Corrupt { ms, .. }
            | Self::Mtu { ms, .. }
            | Self::Cut { ms, .. }
            | Self::Split { ms, .. }
            | Self::Bridge { ms, .. }
            | Self::Kill { ms, .. }
            | Self::PowerOff { ms, .. }
            | Self::Leave { ms, .. }
            | Self::Freeze { ms, .. }
            | Self::FreezeAt { ms, .. }
            | Self::Suspend { ms, .. }
            | Self::Pause { ms, .. }
            | Self::Slow { ms, .. }
            | Self::Clock { ms, .. }
            | Self::Hooks { ms, .. }
            | Self::Interface { ms, .. }
            | Self::DiskFull { ms, .. }
            | Self::Drain { ms, .. }
            | Self::Witness { ms, .. }
            | Self::Keys { ms, .. }
            | Self::Upgrade { ms, .. }
            | Self::Checks { ms, .. }
            | Self::Forge { ms, .. } => *ms,
            Self::WallClock { .. }
            | Self::Steal { .. }
            | Self::Replay { .. }
            | Self::Edit { .. }
            | Self::Adopt { .. }
            | Self::Edits { .. }
            | Self::File { .. }
            | Self::Garble { .. }
            | Self::SecondDaemon { .. } => 0,
        }
    }

    /// The highest number of a host that it names; the schedule means nothing in a smaller cluster.
    #[must_use]
    pub fn greatest_host(&self) -> usize {
        match self {
            Self::Loss { on, .. }
            | Self::Burst { on, .. }
            | Self::Delay { on, .. }
            | Self::Mtu { on, .. }
            | Self::Cut { on, .. } => on.greatest(),
            Self::Split { .. }
            | Self::Duplicate { .. }
            | Self::Late { .. }
            | Self::Corrupt { .. }
            | Self::Adopt { .. }
            | Self::Edit { .. } => 0,
            Self::Drain { at, server, .. } => *at.max(server),
            Self::Edits { at, .. } => *at,
            Self::Garble { from, to, .. } => *from.max(to),
            Self::SecondDaemon { host, server } => *host.max(server),
            Self::Checks { host, .. } => host.unwrap_or(0),
            Self::Bridge { host, .. }
            | Self::Kill { host, .. }
            | Self::PowerOff { host, .. }
            | Self::Leave { host, .. }
            | Self::Freeze { host, .. }
            | Self::FreezeAt { host, .. }
            | Self::Suspend { host, .. }
            | Self::Pause { host, .. }
            | Self::Slow { host, .. }
            | Self::Clock { host, .. }
            | Self::WallClock { host, .. }
            | Self::Hooks { host, .. }
            | Self::Interface { host, .. }
            | Self::Steal { host }
            | Self::DiskFull { host, .. }
            | Self::Replay { host, .. }
            | Self::Witness { host, .. }
            | Self::Keys { at: host, .. }
            | Self::Upgrade { host, .. }
            | Self::File { host, .. }
            | Self::Forge { host, .. } => *host,
        }
    }

    /// Its kind, as `flip simulate --faults` names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Loss { .. } => "loss",
            Self::Burst { .. } => "burst",
            Self::Delay { .. } => "delay",
            Self::Duplicate { .. } => "duplicate",
            Self::Late { .. } => "late",
            Self::Corrupt { .. } => "corrupt",
            Self::Mtu { .. } => "mtu",
            Self::Cut { .. } => "cut",
            Self::Split { .. } => "split",
            Self::Bridge { .. } => "bridge",
            Self::Kill { .. } => "kill",
            Self::PowerOff { .. } => "power-off",
            Self::Leave { .. } => "leave",
            Self::Freeze { .. } => "freeze",
            Self::FreezeAt { .. } => "freeze-at",
            Self::Suspend { .. } => "suspend",
            Self::Pause { .. } => "pause",
            Self::Slow { .. } => "slow",
            Self::Clock { .. } => "clock",
            Self::WallClock { .. } => "wall-clock",
            Self::Hooks { .. } => "hooks",
            Self::Interface { .. } => "interface",
            Self::Steal { .. } => "steal",
            Self::DiskFull { .. } => "disk-full",
            Self::Drain { .. } => "drain",
            Self::Replay { .. } => "replay",
            Self::Forge { .. } => "forge",
            Self::Checks { .. } => "checks",
            Self::Edit { .. } => "edit",
            Self::Adopt { .. } => "adopt",
            Self::Edits { .. } => "edits",
            Self::File { .. } => "file",
            Self::Witness { .. } => "witness",
            Self::Garble { .. } => "garble",
            Self::Keys { .. } => "keys",
            Self::Upgrade { .. } => "upgrade",
            Self::SecondDaemon { .. } => "second-daemon",
        }
    }
}

/// A fault and when it begins, in milliseconds after the cluster has settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// When.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}
