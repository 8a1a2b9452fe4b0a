//! One simulated host: its power, its process, its kernel's addresses, its disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::fault::{CheckMode, HookMode, Point};
use super::happening::Mail;
use crate::config::{Config, Release};
use crate::io::{HookCall, RefreshCall};
use crate::node::Node;
use crate::time::Time;
use crate::wire::seal::WIRE;

/// An address, or whatever a hook brought up, in a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    /// When the kernel removes it by itself, lateness included.
    pub(super) expires: Option<Time>,
    /// Tells one installation from the next, as `cstamp` does.
    pub(super) stamp: u64,
}

/// A hook that has not reported yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) id: u64,
    /// It changes nothing of what is there.
    pub(super) announces: bool,
}

/// A machine that does not run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sleep {
    pub(super) since: Time,
    /// Its clocks stand still as well.
    pub(super) hidden: bool,
}

/// In the middle of giving addresses a lifetime.
#[derive(Clone, Debug)]
pub(super) struct Doing {
    pub(super) work: Work,
    pub(super) stage: Point,
    /// Items of the call, as positions in the world's list.
    pub(super) items: Vec<usize>,
    /// Items, as positions in the world's list, that are not there any more.
    pub(super) gone: Vec<usize>,
    /// What was found in the kernel before the call, per item.
    pub(super) recreated: Vec<usize>,
    /// The process was stopped in the middle.
    pub(super) interrupted: bool,
    /// It asked the kernel after that.
    pub(super) raced: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Work {
    Refresh(RefreshCall),
    Alive(HookCall),
}

/// One host.
pub(super) struct Host {
    pub(super) config: Arc<Config>,
    /// The entry of its server.
    pub(super) own: Option<crate::config::Server>,
    /// The daemon; none while it is down.
    pub(super) node: Option<Box<Node>>,
    pub(super) clock: Clock,
    /// Counts the lives of the daemon, so that late events of an earlier one are dropped.
    pub(super) life: u64,
    pub(super) powered: bool,
    pub(super) asleep: Option<Sleep>,
    /// SIGSTOP: which freeze, so that an older one's end does not thaw a newer one.
    pub(super) frozen: Option<u64>,
    /// Busy with an input, or not scheduled yet.
    pub(super) busy_until: Time,
    /// How long each input takes.
    pub(super) each: Duration,
    pub(super) inbox: VecDeque<Mail>,
    pub(super) doing: Option<Doing>,
    pub(super) refreshed: VecDeque<(u64, Vec<usize>)>,
    /// Time asleep that the daemon has not been told.
    pub(super) slept: Option<Duration>,
    /// The last pause that none of its clocks knows of: from, to.
    pub(super) unaware: Option<(Time, Time)>,
    /// Until when it may act on what it believed before a pause that none of its clocks knows of (exception X4).
    pub(super) unaware_until: Option<Time>,
    /// What programs do once the machine runs again, in order: hook, item, whether it comes.
    pub(super) held_up: Vec<((u64, u64), usize, bool)>,
    /// The earliest wake-up that is planned.
    pub(super) wake_at: Option<Time>,
    /// Where the next system call stops, and for how long.
    pub(super) trap: Option<(Point, Duration)>,
    /// Per item of the world.
    pub(super) addresses: Vec<Option<Address>>,
    /// Per item, the burst of announcements that goes on.
    pub(super) bursts: Vec<Option<u64>>,
    pub(super) interface: bool,
    /// Whether its kernel tells what becomes of the interface.
    pub(super) interface_told: bool,
    pub(super) hooks: Vec<Option<Running>>,
    pub(super) hook_trouble: Option<(HookMode, f64)>,
    pub(super) check_trouble: Option<(CheckMode, f64)>,
    /// Since when its checks are right; none while they are not.
    pub(super) check_sound: Option<Time>,
    /// The generation on disk, and the one before.
    pub(super) stored: Option<u64>,
    pub(super) stored_before: Option<u64>,
    /// The key ring on disk.
    pub(super) keys: Option<crate::stored::StoredKeys>,
    pub(super) disk_full: bool,
    /// How many faults keep the witness from answering this host.
    pub(super) unwitnessed: u32,
    /// It runs the release after this one from its next start on.
    pub(super) next_release: bool,
    /// The newest wire version that its daemon speaks.
    pub(super) speaks: u8,
    /// Something was wrong with it at some time.
    pub(super) was_ill: bool,
    /// By how many seconds the wall clock is off.
    pub(super) wall_off: i64,
    /// Asked to leave, and still here.
    pub(super) leaving: bool,
    /// Said goodbye to the end.
    pub(super) left: bool,
    /// It may not be started before the end of this fault.
    pub(super) kept_down: Option<u64>,
    /// Since when nothing is wrong with this host; none while something is.
    pub(super) healthy_since: Option<Time>,
    /// How many faults are on it now.
    pub(super) ills: u32,
    /// An operator drained it, as far as the commands went.
    pub(super) drained: bool,
    /// When something genuine of each other host was taken in last.
    pub(super) heard: Vec<Option<Time>>,
    /// Since when it talks to the present life of each other host; kept only where an attacker listens.
    pub(super) met: std::collections::BTreeMap<usize, ((u64, u64), Time)>,
    /// What the daemon believed after its last input, where that was asked.
    pub(super) believes: Option<u64>,
    /// Overlaps are excused until then, and by which exception.
    pub(super) excuse: Option<(Time, &'static str)>,
    /// Per item: it may still be there although nobody answers for it (rule R10).
    pub(super) unanswered: Vec<bool>,
}

impl Host {
    pub(super) fn new(config: Config, items: usize, clock: Clock) -> Self {
        let servers = config.servers.len();
        Self {
            own: config.servers.get(config.me).cloned(),
            config: Arc::new(config),
            node: None,
            clock,
            life: 0,
            powered: true,
            asleep: None,
            frozen: None,
            busy_until: Time::ZERO,
            each: Duration::ZERO,
            inbox: VecDeque::new(),
            doing: None,
            refreshed: VecDeque::new(),
            slept: None,
            unaware: None,
            unaware_until: None,
            held_up: Vec::new(),
            wake_at: None,
            trap: None,
            addresses: vec![None; items],
            bursts: vec![None; items],
            interface: true,
            interface_told: false,
            hooks: vec![None; items],
            hook_trouble: None,
            check_trouble: None,
            check_sound: Some(Time::ZERO),
            stored: None,
            stored_before: None,
            keys: None,
            disk_full: false,
            unwitnessed: 0,
            next_release: false,
            speaks: WIRE,
            was_ill: false,
            wall_off: 0,
            leaving: false,
            left: false,
            kept_down: None,
            healthy_since: None,
            ills: 0,
            drained: false,
            heard: if servers <= 128 { vec![None; servers] } else { Vec::new() },
            met: std::collections::BTreeMap::new(),
            believes: None,
            excuse: None,
            unanswered: vec![false; items],
        }
    }

    /// True when these two lives have talked for a while: what is heard now is really taken in, not only
    /// answered by a challenge.
    pub(super) fn knows(&mut self, from: usize, lives: (u64, u64), now: Time) -> bool {
        let met = self.met.entry(from).or_insert((lives, now));
        if met.0 != lives {
            *met = (lives, now);
        }
        now.since(met.1) >= Duration::from_secs(3)
    }

    /// True when the daemon can go on with its work.
    pub(super) fn runs(&self, now: Time) -> bool {
        self.node.is_some() && self.asleep.is_none() && self.frozen.is_none() && self.busy_until <= now
    }

    /// True when a client that asks for this item is answered by this host. Programs need no interface.
    pub(super) fn answers(&self, item: usize, release: Release) -> bool {
        let interface = self.interface || release == Release::Hook;
        self.powered && self.asleep.is_none() && interface && self.addresses[item].is_some()
    }

    /// Forgets the process.
    pub(super) fn stop(&mut self) {
        self.node = None;
        self.believes = None;
        self.life += 1;
        self.inbox.clear();
        self.doing = None;
        self.refreshed.clear();
        self.slept = None;
        self.wake_at = None;
        self.trap = None;
        self.frozen = None;
        self.busy_until = Time::ZERO;
        self.hooks.fill(None);
        self.bursts.fill(None);
        self.leaving = false;
    }
}
