//! Pings: greetings, rounds, and what their pongs prove.

use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::{Node, Timer};
use crate::event::CaseCause;
use crate::limits;
use crate::loss::{InFlight, Purpose};
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::wire::message::{Message, Ping};

/// Servers greeted in one turn at most. A greeting makes both known to each other, so in a large
/// cluster that starts all at once, a few turns cost half of what greeting everybody at once would.
const GREETED: usize = 32;

impl Node {
    pub(super) fn ping(&mut self, to: usize, purpose: Purpose, now: Time) {
        let nonce = self.rng.random();
        self.pings.sent(nonce, InFlight { to, sent: now, purpose });
        let message = Message::Ping(self.ping_of(nonce));
        self.send(to, &message);
        self.renew_along(to, now);
    }

    pub(super) fn ping_of(&self, nonce: u32) -> Ping {
        Ping { nonce, generation: self.generation, facts: self.facts.of(self.config.me).seq }
    }

    /// Small clusters probe everybody: each up or unknown server in every interval.
    pub(super) fn probe_round(&mut self, now: Time) {
        let to: Vec<_> = self.others().filter(|server| self.view.is_up(*server)).collect();
        for server in &to {
            self.ping(*server, Purpose::Probe, now);
        }
        self.round = (now, to);
        self.timers.set(Timer::RoundCheck, now + self.config.timing.open_after());
        // Nodes that started together must not probe in step for ever.
        let interval = self.config.timing.probe_interval;
        let jitter = interval.mul_f64(self.rng.random_range(-0.1..0.1f64).abs());
        self.timers.set(Timer::Round, now + interval.mul_f64(0.95) + jitter);
    }

    pub(super) fn check_round(&mut self, now: Time) {
        let (sent, to) = std::mem::take(&mut self.round);
        for server in to {
            if self.pings.last_pong(server).is_none_or(|pong| pong < sent) {
                self.open_case(server, CaseCause::ProbeFailed, now);
            }
        }
    }

    /// A direct probe of the SWIM layer went unanswered, unless anything was heard since. What was sent
    /// before a stall may have been answered during it.
    pub(super) fn on_probe_failed(&mut self, server: usize, sent: Time, now: Time) {
        if self.distrust_before.is_none_or(|stall| sent >= stall)
            && self.spread.last_heard(server).is_none_or(|heard| heard < sent)
        {
            self.open_case(server, CaseCause::ProbeFailed, now);
        }
    }

    /// Greets every server that is not up, for ever, ever more slowly.
    pub(super) fn greet(&mut self, now: Time) {
        if self.leaving.is_some() || planted(Bug::NoGreeting) && self.ever_had_quorum {
            return;
        }
        let mut missing: Vec<_> = match self.view.all_up() {
            true => Vec::new(),
            false => self.others().filter(|server| !self.view.is_up(*server)).collect(),
        };
        missing.shuffle(&mut self.rng);
        missing.truncate(GREETED);
        for server in missing {
            self.ping(server, Purpose::Probe, now);
        }
        let jitter = self.rng.random_range(0.8..1.2);
        self.timers.set(Timer::Greet, now + self.greeting_pause.mul_f64(jitter));
        self.greeting_pause = (self.greeting_pause * 2).min(limits::GREETING_PAUSE);
    }

    /// Something changed that makes it worth greeting at once.
    pub(super) fn greet_soon(&mut self, now: Time) {
        self.greeting_pause = Duration::from_millis(50);
        self.timers.set(Timer::Greet, now);
    }

    pub(super) fn on_pong(&mut self, server: usize, pong: Ping, now: Time) {
        let Some(ping) = self.pings.answered(pong.nonce, server, now) else { return };
        self.tally.round_trips.add(now.since(ping.sent));
        let proven = self.proven.entry(server).or_default();
        *proven = ping.sent.max(*proven);
        if self.asked_holders.remove(&server).is_some() {
            self.items.touch();
        }
        match ping.purpose {
            Purpose::Probe | Purpose::Case => {}
            Purpose::Contact(subject) => {
                // It may vote no more since it was asked.
                let votes = self.config.voters.contains(&server);
                if let Some(case) = self.cases.get_mut(&subject).filter(|_| votes) {
                    case.contact_answered(server, ping.sent);
                }
            }
        }
        // Only a pong to its own nonce proves life, and only of the generation that sent it.
        if pong.generation >= self.view.get(server).generation {
            self.close_case(server, now);
        }
    }
}
