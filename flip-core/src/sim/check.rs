//! The promises about what nodes do and say: P1, P2, P5, P7, P8, P11 and limits. What is really there is
//! judged in `judge`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::World;
use crate::config::{Config, Isolated, Release, SystemKind, Timing};
use crate::event::{Event, Reason};
use crate::io::{HookAction, HookCall, PostCall};
use crate::time::Time;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise, P1 to P12 of the design, or what else must hold.
    pub promise: &'static str,
    /// When.
    pub at: Time,
    /// What was seen.
    pub what: String,
}

/// A Down ballot.
#[derive(Clone, Copy, Debug)]
struct Cast {
    /// The life that it is about.
    about: u64,
    /// When it was taken back.
    back: Option<Time>,
    /// Its voter lost contact since, and may cast it anew.
    abstained: bool,
    /// It is about an earlier life than this one, which its voter has seen since.
    former_to: Option<u64>,
}

/// What the checks remember.
#[derive(Debug)]
pub(super) struct Checker {
    timing: Timing,
    /// Whether everybody probes everybody.
    all_probe: bool,
    /// The newest Down ballot of each voter about each server: (voter, subject).
    cast: BTreeMap<(usize, usize), Cast>,
    /// When each server opened its newest case about each other.
    opened: BTreeMap<(usize, usize), Time>,
    /// When the witness kept silent last, if it answers now.
    pub(super) unwitnessed: Option<Time>,
    /// Verdicts that were looked at: subject and generation. Who hears of one later need not know its ballots.
    pub(super) verdicts_seen: BTreeSet<(usize, u64)>,
    /// While set, nothing that is kept may move: every link is cut.
    pub(super) nothing_may_move: bool,
    /// Every link is cut, and what was under way before may still be moving.
    pub(super) apart: bool,
    /// The longest that a datagram can be under way.
    pub(super) slowest: Duration,
    /// How long a hook that failed may wait for its next try, where hooks fail at all.
    pub(super) hook_patience: Duration,
    /// How long it may take until an item whose hooks fail goes elsewhere.
    pub(super) falls_within: Duration,
    /// Items whose alive hook was started at each host, or which were found there.
    started: BTreeMap<(usize, usize), Time>,
    /// Items that went in a total partition because of their checks.
    pub(super) unfit: BTreeSet<(usize, usize)>,
    /// When each server was told to let go of everything.
    pub(super) drained: BTreeMap<usize, Time>,
    /// Since when each daemon runs.
    since: Vec<Option<Time>>,
    /// Bytes that may leave a host in answer to an attack.
    pub(super) budget: Option<(usize, usize)>,
    pub(super) violations: Vec<Violation>,
    pub(super) verdicts: u64,
    pub(super) moves: u64,
    /// Longest overlap that each exception excused.
    pub(super) excused: BTreeMap<&'static str, Duration>,
    /// Items that two hosts hold by an exception: since when, and which.
    pub(super) overlaps: BTreeMap<usize, (Time, &'static str)>,
}

impl Checker {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            timing: config.timing.clone(),
            all_probe: config.timing.pings_per_interval + 1 >= config.servers.len(),
            cast: BTreeMap::new(),
            opened: BTreeMap::new(),
            unwitnessed: None,
            falls_within: Duration::ZERO,
            verdicts_seen: BTreeSet::new(),
            nothing_may_move: false,
            apart: false,
            slowest: Duration::from_secs(1),
            hook_patience: Duration::ZERO,
            started: BTreeMap::new(),
            unfit: BTreeSet::new(),
            drained: BTreeMap::new(),
            since: vec![None; config.servers.len()],
            budget: None,
            violations: Vec::new(),
            verdicts: 0,
            moves: 0,
            excused: BTreeMap::new(),
            overlaps: BTreeMap::new(),
        }
    }

    pub(super) const fn all_probe(&self) -> bool {
        self.all_probe
    }

    /// Since when a daemon runs.
    pub(super) fn runs_since(&self, host: usize) -> Option<Time> {
        self.since[host]
    }

    pub(super) fn started(&mut self, host: usize, now: Time) {
        self.since[host] = Some(now);
        self.cast.retain(|(voter, _), _| *voter != host);
        self.opened.retain(|(voter, _), _| *voter != host);
    }

    pub(super) fn ended(&mut self, host: usize) {
        self.since[host] = None;
        self.started.retain(|(at, _), _| *at != host);
    }

    pub(super) fn leftover(&mut self, host: usize, item: usize) {
        self.started.insert((host, item), Time::ZERO);
    }

    /// Something left a host. What is wrong with that, if it answers an attack with more than came.
    pub(super) fn sent(&mut self, host: usize, bytes: usize) -> Option<String> {
        let (attacked, left) = self.budget?;
        if attacked != host {
            return None;
        }
        self.budget = Some((attacked, left.saturating_sub(bytes)));
        (bytes > left).then(|| format!("n{host} answers an attacker with {bytes} bytes, {left} were left"))
    }

    /// The longest that silence may take until a voter speaks of it, loss and late datagrams included.
    pub(super) fn patience(&self) -> Duration {
        self.timing.probe_interval * 2 + self.timing.ping_timeout * 11 + self.slowest
    }
}

impl World {
    pub(super) fn broken(&mut self, promise: &'static str, what: String) {
        self.note(None, || format!("BROKEN {promise}: {what}"));
        let at = self.now;
        if self.checker.violations.len() < 20 {
            self.checker.violations.push(Violation { promise, at, what });
        }
    }

    pub(super) fn event(&mut self, host: usize, event: &Event) {
        let now = self.now;
        match event {
            Event::CaseOpened { server, .. } => {
                self.checker.opened.insert((host, *server), now);
            }
            Event::MemberUp { server, generation } => {
                if let Some(cast) = self.checker.cast.get_mut(&(host, *server)) {
                    cast.back.get_or_insert(now);
                    if cast.about < *generation {
                        cast.former_to = Some(*generation);
                    }
                }
            }
            Event::Abstained { server, .. } => {
                if let Some(cast) = self.checker.cast.get_mut(&(host, *server)) {
                    cast.abstained = true;
                }
            }
            Event::BallotCast { server, .. } => {
                let node = self.hosts[host].node.as_ref();
                let about = node.filter(|node| *server < node.config().servers.len());
                let about = about.map_or(0, |node| node.view().get(*server).generation);
                let cast = Cast { about, back: None, abstained: false, former_to: None };
                let before = self.checker.cast.insert((host, *server), cast);
                // One that stands is said anew of a life of which another voter knew.
                if before.is_none_or(|before| before.back.is_some() || before.abstained) {
                    self.check_own_contact(host, *server);
                }
                if let Some((other, _)) = self.checker.budget
                    && other == host
                {
                    self.broken("P10", format!("an attack makes n{host} cast a ballot"));
                }
            }
            Event::CaseClosed { server, .. } => {
                if let Some(cast) = self.checker.cast.get_mut(&(host, *server)) {
                    cast.back.get_or_insert(now);
                }
            }
            Event::MemberDown { server, voters, generation } => {
                self.verdict(host, *server, *generation, voters);
            }
            Event::MemberLeft { server, generation } => self.goodbye(host, *server, *generation),
            Event::Health { check, healthy } => self.health_changed(host, *check, *healthy),
            Event::Isolated => self.clients.seen_away(host, now),
            Event::ConfigChanged { .. } if self.catalogs.is_some() => self.changes_now(),
            _ => {}
        }
        self.mark_event(event);
    }

    /// When a host could have known that a ballot was taken back: what reached it in a pause that none of its clocks
    /// shows is lost, and the ballot grows no older for it (assumption A1 is broken, as in exception X4).
    fn heard_back(&self, host: usize, back: Time) -> Time {
        match self.hosts[host].unaware {
            Some((from, to)) if from <= back + self.checker.slowest && back <= to => to,
            _ => back,
        }
    }

    /// P1: a quorum of distinct, first-hand, standing ballots. P11: never about somebody whom they reach.
    fn verdict(&mut self, host: usize, server: usize, generation: u64, voters: &[usize]) {
        let now = self.now;
        self.checker.verdicts += 1;
        self.clients.seen_away(server, now);
        let mut distinct = voters.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() < self.quorum_of(host, &distinct) || distinct.contains(&server) {
            let what = format!("n{host} took n{server} for down by the ballots of {voters:?}");
            self.broken("P1", what);
        }
        if !self.checker.verdicts_seen.insert((server, generation)) {
            return;
        }
        // A verdict may be as old as its subject's generation; whoever restarted since forgot its ballot.
        let fresh = self.hosts[host].heard.is_empty();
        for voter in distinct {
            let began = self.checker.since[voter];
            let cast = self.checker.cast.get(&(voter, server)).copied();
            let limit = self.checker.timing.window() * 4 + self.checker.slowest;
            let stands = match cast {
                // It says nothing about a life that its voter has seen after it.
                Some(Cast { former_to: Some(life), .. }) if generation >= life => {
                    self.is_old(server, generation)
                }
                Some(Cast { back: None, .. }) => true,
                // Taken back, but what was said before may still be under way.
                Some(Cast { back: Some(back), .. }) => {
                    let back = self.heard_back(host, back);
                    now.since(back) <= limit || generation == 0 || self.is_old(server, generation)
                }
                None => {
                    began.is_none_or(|began| now.since(began) <= limit) || self.is_old(server, generation)
                }
            };
            if !stands && !fresh {
                let what = format!(
                    "n{host} took n{server}@{generation} for down, but no ballot of n{voter} stands: {cast:?}"
                );
                self.broken("P1", what);
            }
        }
        self.check_reach(host, server, generation);
        self.expect_all_told(host, server, generation);
    }

    /// P1: nobody votes who has not been in contact with a quorum since it suspects the subject.
    fn check_own_contact(&mut self, host: usize, server: usize) {
        // Exception X4: a pause that no clock of the host knows of.
        if self.hosts[host].unaware_until.is_some_and(|until| until >= self.now) {
            return;
        }
        let opened = self.checker.opened.get(&(host, server)).copied().unwrap_or(self.now);
        // Windows that grow with the loss need not be in contact from their beginning to their end.
        let lately = (self.now.since(opened) / 2).max(self.checker.timing.window() * 3);
        // A slow clock makes its spans longer.
        let since = opened.max(self.now - self.hosts[host].clock.stretch(lately).max(lately));
        let Some(heard) = Some(&self.hosts[host].heard).filter(|heard| !heard.is_empty()) else { return };
        let (voters, quorum) = self.electorate(host);
        let others = voters.iter().filter(|voter| **voter != host && **voter != server);
        let seen = others.filter(|voter| heard[**voter].is_some_and(|at| at >= since)).count();
        if seen + 1 < quorum {
            let what = format!(
                "n{host} casts a ballot on n{server} and has heard only {seen} other voters since {since}"
            );
            self.broken("P1", what);
        }
    }

    /// P11: nobody leaves but by its own word.
    fn goodbye(&mut self, host: usize, server: usize, generation: u64) {
        if !self.is_old(server, generation) && !self.hosts[server].leaving {
            let what = format!("n{host} says that n{server}@{generation} left, which it did not");
            self.broken("P11", what);
        }
    }

    /// True when this generation of a server is not its present one: the verdict is old news.
    fn is_old(&self, server: usize, generation: u64) -> bool {
        self.hosts[server].node.as_ref().is_none_or(|node| node.generation() != generation)
    }

    fn check_reach(&mut self, host: usize, server: usize, generation: u64) {
        let now = self.now;
        if self.is_old(server, generation) || self.hosts[server].heard.is_empty() {
            return;
        }
        let since = now - self.checker.patience();
        let sound = |index: usize| {
            let host = &self.hosts[index];
            host.healthy_since.is_some_and(|at| at < since)
                && self.checker.since[index].is_some_and(|at| at < since)
        };
        if !sound(server) {
            return;
        }
        let voters = self.electorate(host).0;
        let quorum = self.quorum_of(host, &[]);
        let voters = voters.into_iter().filter(|voter| *voter != server);
        let (able, all) = voters.fold((0, 0), |(able, all), voter| {
            let reaches = sound(voter) && self.network.was_good(voter, server, since);
            (able + usize::from(reaches), all + 1)
        });
        if all - able < quorum {
            let what = format!(
                "n{host} took n{server}@{generation} for down, though {able} of {all} voters have reached it all the time"
            );
            self.broken("P11", what);
        }
    }

    /// P2, P5, P7 and P8 where a hook begins.
    pub(super) fn check_hook(&mut self, index: usize, item: usize, call: &HookCall) {
        if self.hosts[index].hooks[item].is_some() {
            self.broken("P7", format!("two hooks of item {item} overlap on n{index}"));
        }
        let policy = self.things[item].policy;
        let urgent = policy == Isolated::Drop && call.action == HookAction::Down;
        if call.action != HookAction::Announce && !urgent {
            self.check_parallel(index, call.item.system);
        }
        match call.action {
            HookAction::Announce => return,
            HookAction::Alive => {
                self.checker.moves += 1;
                self.checker.started.insert((index, item), self.now);
                // What is tried again and is not there yet is taken like anything else.
                let again = call.reason == Reason::HookFailed && self.hosts[index].addresses[item].is_none();
                if (planned(call.reason) || again) && policy == Isolated::Keep {
                    self.check_contact(index, item);
                }
            }
            HookAction::Down => {
                if !self.checker.started.contains_key(&(index, item))
                    && self.hosts[index].addresses[item].is_none()
                {
                    self.broken("P7", format!("n{index} releases item {item}, which it never acquired"));
                }
                if planned(call.reason) && policy != Isolated::Drop {
                    self.check_successor(index, item, call.reason);
                }
            }
        }
        // What changes nothing is no move: a hook that is tried again, or one of an operator.
        let there = self.hosts[index].addresses[item].is_some();
        let moves = there == (call.action == HookAction::Down) && call.reason != Reason::Shutdown;
        // What its own checks call unhealthy is let go of, whoever can be seen, and comes back to it: also what was
        // let go of just after the cut, before all that was under way had come to rest.
        if self.checker.apart && call.reason == Reason::HealthCheck {
            self.checker.unfit.insert((index, item));
        }
        let unfit = self.checker.unfit.contains(&(index, item));
        if self.checker.nothing_may_move && moves && !unfit && policy == Isolated::Keep {
            let what = format!("{:?} of item {item} on n{index} in a total partition", call.action);
            self.broken("P2", what);
        }
    }

    /// P7: a system's hooks wait for each other when there are many, but for those that a lease waits for.
    fn check_parallel(&mut self, index: usize, system: usize) {
        let hooks = self.hosts[index].hooks.iter().zip(&self.things);
        let running = hooks
            .filter(|(hook, thing)| thing.at.system == system && hook.is_some_and(|hook| !hook.announces));
        let (running, most) = (running.count(), self.hosts[index].config.systems[system].hooks.parallel);
        if running >= most {
            let what = format!("n{index} runs {} hooks of system {system} at once, of {most}", running + 1);
            self.broken("P7", what);
        } else if running + 1 == most {
            super::mark!("hook: as many as may run");
        }
    }

    /// P7: a plan is called done when nothing of it is under way, and what it says has happened.
    pub(super) fn check_post(&mut self, index: usize, call: &PostCall) {
        let host = &self.hosts[index];
        let running =
            host.hooks.iter().zip(&self.things).any(|(hook, thing)| {
                thing.at.system == call.system && hook.is_some_and(|hook| !hook.announces)
            });
        if running || call.changes.is_empty() {
            let what = format!("n{index} calls the plan of system {} done, which it is not", call.system);
            self.broken("P7", what);
        }
    }

    /// P5: nothing is taken by somebody who cannot have seen a quorum.
    fn check_contact(&mut self, index: usize, item: usize) {
        let host = &self.hosts[index];
        if host.unaware_until.is_some_and(|until| until >= self.now) {
            return;
        }
        if !self.checker.all_probe {
            return;
        }
        let since = self.now - self.checker.patience();
        let heard = &self.hosts[index].heard;
        let (voters, quorum) = self.electorate(index);
        let voters = voters.iter();
        let seen = voters.filter(|voter| **voter != index && heard[**voter].is_some_and(|at| at >= since));
        let seen = seen.count();
        if seen + 1 < quorum {
            let what = format!("n{index} takes item {item} and has heard only {seen} voters since {since}");
            self.broken("P5", what);
        }
    }

    /// P8 and K3: nothing is given up for a successor that never had it.
    fn check_successor(&mut self, index: usize, item: usize, reason: Reason) {
        let thing = &self.things[item];
        if thing.kind == SystemKind::Replicate {
            return;
        }
        if self.truth.holders(item) != [index] {
            // Who held it when it was drained, for a successor that took it after that. Where two had it before,
            // for whatever reason, the winner announces it when the other one is gone.
            let began = |host: usize| self.checker.started.get(&(host, item));
            let moved = self.checker.drained.get(&index).is_some_and(|drained| {
                let holders = self.truth.holders(item);
                let well = self.hosts.iter().all(|host| {
                    host.healthy_since.is_some_and(|at| at + self.checker.patience() * 4 < *drained)
                });
                well && holders
                    .iter()
                    .all(|host| (*host == index) == began(*host).is_none_or(|began| began < drained))
            });
            if reason == Reason::Drain
                && moved
                && thing.release == Release::Kernel
                && let Some(what) = self.left_behind(index, item)
            {
                self.broken("P8", what);
            }
            return;
        }
        // Without its interface a successor is not answered, and has it all the same.
        let has = |other: usize| other != index && self.hosts[other].addresses[item].is_some();
        if (0..self.hosts.len()).any(has) {
            return;
        }
        // What the successor said may be as old as the slowest datagram, and two digests.
        let since = self.now - self.checker.patience() - self.checker.timing.digest_interval * 4;
        if !self.truth.held_elsewhere(item, index, since) {
            let what = format!("n{index} gives up item {item}, and nobody else has it or had it lately");
            self.broken("P8", what);
        }
    }

    /// Tables within limits, and nothing left to do once everything was drained.
    pub(super) fn check_limits(&mut self) {
        for index in 0..self.hosts.len() {
            // In the middle of its outputs it says nothing about what is left after them.
            if !self.hosts[index].runs(self.now) {
                continue;
            }
            let Some(node) = self.hosts[index].node.as_ref() else { continue };
            let over = node.sizes().into_iter().find(|(_, len, most)| len > most);
            if let Some((name, len, most)) = over {
                self.broken("limits", format!("n{index} has {len} {name}, the limit is {most}"));
            }
        }
        let hosts = self.hosts.len();
        let most = 12_000 + 600 * hosts * hosts.min(64) + 8 * self.things.len();
        if self.queue.len() > most {
            self.broken("limits", format!("{} happenings wait", self.queue.len()));
        }
    }
}

/// A hook that placement asked for, not one that repairs.
const fn planned(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Home | Reason::Failover | Reason::Failback | Reason::Leave | Reason::Drain | Reason::Inactive
    )
}
