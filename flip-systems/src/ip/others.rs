//! Other hosts that use our addresses: asking before an address is taken, and hearing while it is held.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use flip_core::Time;
use flip_core::event::Reason;

use super::conflict::{self, Act, Answer, Guard, Members, Policy};
use super::neighbour::{self, sighting};
use super::{Part, State, World};
use crate::bus::topic;
use crate::clock;
use crate::interfaces::{Link, Mac};
use crate::sys;
use crate::system::{OpenError, Word};

/// How often it is asked within the wait.
const PROBES: u32 = 3;

/// How often it is asked anew at most while a member that may have answered has not said who it is.
const ROUNDS: u32 = 5;

/// How often members that have not told their hardware addresses are asked for them, if they are up.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// After so many rounds of asking, all members are told ours: what was said before may have been lost.
const TELL_AGAIN: u32 = 60;

/// What the config of a system says about conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) policy: Policy,
    /// How long answers are awaited before an address is taken in a planned move; zero is not to ask.
    pub(super) probe: Duration,
    /// In a planned move nobody has the item until it is here: then nothing is waited for.
    pub(super) breaks: bool,
}

impl Rules {
    /// Reads `conflict` and `probe`, for items that are never on two servers or may be.
    pub(super) fn read(system: &flip_core::config::System, breaks: bool) -> Result<Self, OpenError> {
        let wrong = |key, what| OpenError::Setting { system: system.name.clone(), key, what };
        let policy = match system.config.get("conflict").map(|value| (value, value.as_str())) {
            None | Some((_, Some("defend"))) => Policy::Defend,
            Some((_, Some("release"))) => Policy::Release,
            Some((other, _)) => {
                let what = format!("expected \"defend\" or \"release\", found {other}");
                return Err(wrong("conflict", what));
            }
        };
        let most = flip_core::config::PROBE_MOST;
        let millis = match system.config.get("probe") {
            None => flip_core::config::PROBE,
            Some(value) => value.as_u64().filter(|millis| *millis <= most).ok_or_else(|| {
                wrong("probe", format!("expected milliseconds from 0 to {most}, found {value}"))
            })?,
        };
        Ok(Self { policy, probe: Duration::from_millis(millis), breaks })
    }
}

/// What is known of other hosts, beside the state that it is about.
pub(super) struct Others {
    pub(super) members: Members,
    /// By part.
    guards: Vec<Guard>,
    /// By item.
    rules: Vec<Rules>,
    /// Items and parts by address.
    places: BTreeMap<IpAddr, Vec<(usize, usize)>>,
    /// Items that were taken though somebody answered who may have been a member.
    unsure: BTreeSet<usize>,
    /// What all were told of our hardware addresses last.
    said: Vec<u8>,
}

impl Others {
    pub(super) fn new(
        members: Members,
        rules: Vec<Rules>,
        parts: impl Iterator<Item = (usize, IpAddr)>,
    ) -> Self {
        let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut guards = Vec::new();
        for (part, (item, address)) in parts.enumerate() {
            places.entry(address).or_default().push((item, part));
            guards.push(Guard::Idle);
        }
        Self { members, guards, rules, places, unsure: BTreeSet::new(), said: Vec::new() }
    }

    /// All addresses, each once.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.places.keys().copied()
    }
}

/// Whether there is the time to ask before an address is taken for this reason: where nobody had it, and where its
/// present holder has it until it is here. After a verdict, and where an address must be put back, there is not.
const fn has_time(reason: Reason, breaks: bool) -> bool {
    match reason {
        Reason::Home | Reason::Confirmed | Reason::Conflict | Reason::HookFailed => true,
        Reason::Leave | Reason::Failback | Reason::Drain | Reason::Inactive => !breaks,
        Reason::Failover
        | Reason::Adopted
        | Reason::Shutdown
        | Reason::Drift
        | Reason::Isolated
        | Reason::LeaseLost
        | Reason::HealthCheck
        | Reason::Unusable
        | Reason::Removed
        | Reason::Redefined
        | Reason::HookDone => false,
    }
}

impl World {
    /// Before an item is taken: asks whether a host that is no member has one of its addresses.
    ///
    /// # Errors
    /// When one has: a line that names it.
    pub(super) async fn ask_first(self: &Arc<Self>, item: usize, reason: Reason) -> Result<(), String> {
        let breaks = self.lock().others.rules[item].breaks;
        if !has_time(reason, breaks) {
            return Ok(());
        }
        let Some(wait) = self.begin_to_ask(item) else { return Ok(()) };
        // Again where a member has to say first whether it was the one that answered. What is held under a lease
        // has less time.
        for _ in 0..if breaks { 2 } else { ROUNDS } {
            for _ in 0..PROBES {
                self.send_probes(item);
                tokio::time::sleep(wait / PROBES).await;
                if let Some(error) = self.foreign(item) {
                    return Err(error);
                }
            }
            if !self.is_unsure(item) {
                break;
            }
            self.ask_silent();
            self.begin_to_ask(item);
        }
        let unsure = self.is_unsure(item);
        let mut state = self.lock();
        if unsure {
            state.others.unsure.insert(item);
        }
        for part in state.items[item].parts.clone() {
            state.others.guards[part].done();
        }
        Ok(())
    }

    /// Asks for an item that is taken without waiting: who answers is heard like anybody who uses it.
    pub(super) fn ask_beside(&self, item: usize, reason: Reason) {
        if self.lock().others.rules[item].probe > Duration::ZERO && matches!(reason, Reason::Failover) {
            self.send_probes(item);
        }
    }

    /// How long to wait for answers; none where nothing is to be asked.
    fn begin_to_ask(&self, item: usize) -> Option<Duration> {
        let mut state = self.lock();
        let wait = state.others.rules[item].probe;
        let parts = state.items[item].parts.clone();
        let has_neighbours = |part: &Part| state.link_of(part).is_some_and(Link::announces);
        let somebody = state.parts[parts.clone()].iter().any(has_neighbours);
        if wait.is_zero() || state.items[item].present || !somebody {
            return None;
        }
        for part in parts {
            if !state.parts[part].present {
                state.others.guards[part].ask();
            }
        }
        Some(wait)
    }

    fn send_probes(&self, item: usize) {
        let state = self.lock();
        for part in &state.parts[state.items[item].parts.clone()] {
            let Some(link) = state.talks_by(part).filter(|link| link.announces()) else { continue };
            let Some(mac) = link.mac else { continue };
            let frame = neighbour::probe(part.net.addr(), mac);
            if let Err(error) = sys::send_frame(&self.raw, link.index, &frame) {
                tracing::debug!(address = %part.net.addr(), interface = link.name, %error, "probe not sent");
            }
        }
    }

    /// The line about a foreign host that has an address of an item. Then it is not asked any more.
    fn foreign(&self, item: usize) -> Option<String> {
        let mut state = self.lock();
        let parts = state.items[item].parts.clone();
        let found = parts.clone().find_map(|part| match state.others.guards[part].answer() {
            Answer::Foreign(mac) => Some((part, mac)),
            Answer::Nobody | Answer::Unknown(_) => None,
        });
        let (part, mac) = found?;
        for part in parts {
            state.others.guards[part].done();
        }
        let (address, interface) = (state.parts[part].net.addr(), state.interface_of(part));
        Some(format!(
            "{address} is in use on {interface} by {mac}, which is no member: take it off that host, or out of \
             the config"
        ))
    }

    fn is_unsure(&self, item: usize) -> bool {
        let state = self.lock();
        let unsure = |part: usize| matches!(state.others.guards[part].answer(), Answer::Unknown(_));
        state.items[item].parts.clone().any(unsure)
    }

    /// Somebody else's frame about an address of ours came in by a link.
    pub(super) fn heard_frame(&self, index: u32, frame: &[u8]) {
        let Some(seen) = sighting(frame) else { return };
        let mut state = self.lock();
        for (item, part) in state.others.places.get(&seen.address).cloned().unwrap_or_default() {
            if state.talks_by(&state.parts[part]).is_none_or(|link| link.index != index) {
                continue;
            }
            if state.saw(item, part, seen, clock::now()) {
                self.conflict(&state, item, part, seen.mac);
            }
        }
    }

    /// A host that is no member uses an address that is here.
    fn conflict(&self, state: &State, item: usize, part: usize, mac: Mac) {
        let give_up = state.others.rules[item].policy == Policy::Release;
        if !give_up {
            self.defend(state, part);
        }
        let with = format!("{} at {mac}", state.parts[part].net.addr());
        self.drift.say(state.items[item].at, Word::Conflict { with, give_up });
    }

    /// A member told its hardware addresses.
    pub(super) fn member_says(&self, from: usize, text: &[u8]) {
        let (wants, known) = {
            let mut state = self.lock();
            let others = &mut state.others;
            let wants = others.members.hear(from, text);
            let all = others.members.silent().next().is_none();
            (wants, if all { std::mem::take(&mut others.unsure) } else { BTreeSet::new() })
        };
        // Whoever answers now is seen for what it is.
        known.into_iter().for_each(|item| self.send_probes(item));
        if wants {
            self.tell_members(Some(from), false);
        }
    }

    /// Tells members that have not told their hardware addresses ours, and asks them for theirs.
    fn ask_silent(&self) {
        let silent: Vec<_> = self.lock().others.members.silent().collect();
        for server in silent {
            self.tell_members(Some(server), true);
        }
    }

    /// A card came or has another address: members take what it sends for a foreign host's until they know.
    pub(super) fn tell_new_macs(&self, state: &mut State) {
        let text = conflict::tell(state.macs(), false);
        if text != state.others.said {
            state.others.said.clone_from(&text);
            self.say_macs(None, text);
        }
    }

    /// Tells one member, or all, this host's hardware addresses.
    fn tell_members(&self, to: Option<usize>, wants: bool) {
        let text = conflict::tell(self.lock().macs(), wants);
        self.say_macs(to, text);
    }

    fn say_macs(&self, to: Option<usize>, text: Vec<u8>) {
        if let Some(bus) = &self.outside.bus {
            // What is not said now is said in a while.
            let _ = bus.say(to, topic::MACS, text);
        }
    }
}

impl State {
    fn macs(&self) -> impl Iterator<Item = Mac> {
        self.links.values().filter_map(|link| link.mac)
    }

    /// Takes note of what was seen. Whether something must be done about it.
    fn saw(&mut self, item: usize, part: usize, seen: neighbour::Sighting, now: Time) -> bool {
        let who = self.others.members.who(seen.mac, self.macs(), now);
        let guard = &mut self.others.guards[part];
        if self.parts[part].present {
            guard.hold();
        } else {
            guard.let_go();
        }
        let act = guard.see(seen.what, seen.mac, who, self.others.rules[item].policy, now);
        act != Act::Nothing
    }
}

/// Tells members this host's hardware addresses until the world is gone: one that was not up before hears them
/// then.
pub(super) async fn go_on_telling(world: Weak<World>) {
    for round in 1_u32.. {
        tokio::time::sleep(ASK_AGAIN).await;
        let Some(world) = world.upgrade() else { return };
        world.ask_silent();
        if round.is_multiple_of(TELL_AGAIN) {
            world.tell_members(None, false);
        }
    }
}
