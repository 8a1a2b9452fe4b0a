//! The promises that are checked while the simulation runs, and at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::World;
use crate::config::{Config, SystemKind};
use crate::event::Event;
use crate::id::ItemRef;
use crate::io::{HookAction, HookCall};
use crate::time::Time;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise, P1 to P12 of the design.
    pub promise: &'static str,
    /// When.
    pub at: Time,
    /// What was seen.
    pub what: String,
}

/// Watches all nodes.
#[derive(Debug)]
pub struct Checker {
    quorum: usize,
    validity: Duration,
    servers: usize,
    /// When each voter last cast a Down ballot about each server: (voter, subject).
    cast: BTreeMap<(usize, usize), Time>,
    /// While set, nothing may move: every link is cut.
    pub nothing_may_move: bool,
    /// While set, nobody may be declared down: nothing but loss happened.
    pub nobody_may_fall: bool,
    /// Items up at each host, as far as hooks said.
    started: BTreeMap<(usize, ItemRef), bool>,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// Verdicts seen.
    pub verdicts: u64,
    /// Alive hooks seen.
    pub moves: u64,
}

impl Checker {
    pub(super) fn new(configs: &[Config]) -> Self {
        Self {
            quorum: configs[0].quorum,
            // A ballot is repeated while its voter stands by it, so its first cast may be long ago; what
            // must not happen is a verdict with the ballot of somebody who never cast one.
            validity: Duration::MAX,
            servers: configs.len(),
            cast: BTreeMap::new(),
            nothing_may_move: false,
            nobody_may_fall: false,
            started: BTreeMap::new(),
            violations: Vec::new(),
            verdicts: 0,
            moves: 0,
        }
    }

    fn broken(&mut self, promise: &'static str, at: Time, what: String) {
        if self.violations.len() < 100 {
            self.violations.push(Violation { promise, at, what });
        }
    }

    pub(super) fn event(&mut self, host: usize, event: &Event, now: Time) {
        match event {
            Event::BallotCast { server, .. } => {
                self.cast.insert((host, *server), now);
            }
            Event::MemberDown { server, voters, generation } => {
                self.verdicts += 1;
                let mut distinct = voters.clone();
                distinct.sort_unstable();
                distinct.dedup();
                if distinct.len() < self.quorum || distinct.contains(server) {
                    let what = format!("host {host} took {server} for down by the ballots of {voters:?}");
                    self.broken("P1", now, what);
                }
                for voter in distinct {
                    let first_hand = self
                        .cast
                        .get(&(voter, *server))
                        .is_some_and(|cast| now.since(*cast) <= self.validity);
                    if !first_hand {
                        let what =
                            format!("{voter} never cast a ballot against {server}, yet {host} counted one");
                        self.broken("P1", now, what);
                    }
                }
                if self.nobody_may_fall {
                    let what =
                        format!("host {host} took {server}@{generation} for down; only datagrams were lost");
                    self.broken("P11", now, what);
                }
            }
            _ => {}
        }
    }

    pub(super) fn hook(&mut self, host: usize, call: &HookCall, overlap: bool, now: Time) {
        if overlap {
            self.broken("P7", now, format!("two hooks of {:?} overlap on host {host}", call.item));
        }
        match call.action {
            HookAction::Alive => {
                self.moves += 1;
                self.started.insert((host, call.item), true);
            }
            HookAction::Down => {
                self.started.insert((host, call.item), false);
            }
            HookAction::Announce => return,
        }
        if self.nothing_may_move {
            self.broken(
                "P2",
                now,
                format!("{:?} of {:?} on host {host} in a total partition", call.action, call.item),
            );
        }
    }

    pub(super) fn killed(&mut self, host: usize, _now: Time) {
        self.started.retain(|(at, _), _| *at != host);
    }

    pub(super) fn generation(&mut self, host: usize, old: u64, new: u64) {
        if new <= old {
            self.broken("P1", Time::ZERO, format!("host {host} went from generation {old} to {new}"));
        }
    }

    /// P6: all views are equal and every item has exactly its holders. Returns what is not so yet.
    #[must_use]
    pub fn unsettled(world: &World) -> Option<String> {
        let running: Vec<_> =
            (0..world.hosts.len()).filter(|host| world.hosts[*host].node.is_some()).collect();
        let nodes =
            || running.iter().filter_map(|host| world.hosts[*host].node.as_ref().map(|node| (*host, node)));
        let mut digests = nodes().map(|(_, node)| node.view().digest());
        let first = digests.next()?;
        if digests.any(|digest| digest != first) {
            let lives: Vec<_> = nodes()
                .map(|(host, node)| {
                    (host, node.view().iter().map(|r| (r.life, r.generation)).collect::<Vec<_>>())
                })
                .collect();
            return Some(format!("views differ: {lives:?}"));
        }
        for (host, node) in nodes() {
            if !node.has_quorum() {
                return Some(format!("host {host} sees no quorum"));
            }
        }
        let (_, any) = nodes().next()?;
        let config = any.config();
        for (system, spec) in config.systems.iter().enumerate() {
            for item in 0..spec.items.len() {
                let at = ItemRef { system, item };
                let mut holders: Vec<_> =
                    running.iter().copied().filter(|host| world.hosts[*host].bound.contains(&at)).collect();
                let mut wanted = any.wanted(at).to_vec();
                holders.sort_unstable();
                wanted.sort_unstable();
                if holders != wanted {
                    let kind = if spec.kind == SystemKind::Shard { "item" } else { "replicated item" };
                    return Some(format!("{kind} {item} is on {holders:?}, wanted on {wanted:?}"));
                }
            }
        }
        None
    }

    pub(super) fn not_settled(&mut self, now: Time, what: String) {
        self.broken("P6", now, what);
    }

    /// How many servers the cluster has.
    #[must_use]
    pub const fn servers(&self) -> usize {
        self.servers
    }
}
