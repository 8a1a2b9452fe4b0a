//! Flap damping: a server that was declared down lately gets items again only after it has been up for a
//! while, twice as long for each further verdict.
//!
//! Who returns must know it of itself, so whoever notices its return tells it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Node, Timer};
use crate::limits;
use crate::time::Time;
use crate::translation::Translation;

/// Verdicts of the last minutes, by server and generation.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    servers: BTreeMap<usize, BTreeMap<u64, Time>>,
}

impl Flaps {
    pub(super) fn translate(&mut self, to: &Translation) {
        to.by_server(&mut self.servers);
    }

    fn note(&mut self, server: usize, generation: u64, at: Time) {
        let flaps = self.servers.entry(server).or_default();
        flaps.entry(generation).or_insert(at);
        while flaps.len() > limits::FLAPS {
            flaps.pop_first();
        }
    }

    fn of(&self, server: usize) -> impl Iterator<Item = (u64, Time)> {
        self.servers.get(&server).into_iter().flatten().map(|(generation, at)| (*generation, *at))
    }

    fn count(&self, server: usize, now: Time) -> u32 {
        let recent = self.of(server).filter(|(_, at)| now.since(*at) < limits::FLAP_MEMORY);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }
}

impl Node {
    /// A quorum declared this generation down.
    pub(super) fn note_flap(&mut self, server: usize, generation: u64, now: Time) {
        // A server that was never seen did not flap.
        if generation > 0 {
            self.flaps.note(server, generation, now);
        }
    }

    /// The recent verdicts on a server: generations and ages in seconds.
    pub(super) fn flaps_of(&self, server: usize, now: Time) -> Vec<(u64, u32)> {
        let age = |at: Time| u32::try_from(now.since(at).as_secs()).unwrap_or(u32::MAX);
        self.flaps.of(server).map(|(generation, at)| (generation, age(at))).collect()
    }

    /// What others remember of a server.
    pub(super) fn learn_flaps(&mut self, server: usize, flaps: &[(u64, u32)], now: Time) {
        let before = self.flaps.count(server, now);
        for (generation, age) in flaps.iter().take(limits::FLAPS) {
            let age = Duration::from_secs(u64::from(*age));
            if age < limits::FLAP_MEMORY && *generation > 0 {
                self.flaps.note(server, *generation, now - age);
            }
        }
        if self.flaps.count(server, now) != before {
            self.replace_items(now);
        }
    }

    /// From when on a server may get items.
    pub(super) fn mature_at(&self, server: usize, now: Time) -> Time {
        let mut since = self.view.get(server).since;
        if server == self.config.me {
            // The others count from when they heard of it. A node that counted from its start would take its
            // items back while they still hold them for good reason.
            since = since.max(self.first_quorum.unwrap_or(since));
        }
        match self.flaps.count(server, now) {
            0 => since,
            flaps => {
                let wait = self.config.timing.mature * 2u32.pow((flaps - 1).min(16));
                since + wait.min(limits::MATURE_MAX)
            }
        }
    }

    /// The members that may get items as far as time is concerned. Where nobody may, everybody may:
    /// damping must not leave an item without a holder.
    pub(super) fn mature(
        &mut self,
        system: usize,
        usable: impl Fn(&Self, usize) -> bool,
        now: Time,
    ) -> Vec<bool> {
        let members = |server: &usize| self.config.servers[*server].systems.contains(&system);
        let all: Vec<_> =
            (0..self.config.servers.len()).filter(members).filter(|s| usable(self, *s)).collect();
        let mut mature = vec![false; self.config.servers.len()];
        let mut next: Option<Time> = None;
        for server in &all {
            let at = self.mature_at(*server, now);
            mature[*server] = at <= now;
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        if let Some(next) = next {
            self.timers.set_earlier(Timer::Mature, next);
        }
        if !mature.contains(&true) {
            for server in all {
                mature[server] = true;
            }
        }
        mature
    }
}
