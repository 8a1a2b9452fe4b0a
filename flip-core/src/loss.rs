//! Pings in flight, and what they tell about loss.
//!
//! The window of a case must be long enough that silence means death and not bad luck: with a
//! round-trip loss `p`, `m` pings in a row are lost with probability `p^m`. So a node keeps an
//! estimate of the loss to each peer from its own pings, and a case asks for as many pings as bring
//! that probability below one in a million.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::limits;
use crate::marks::mark;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::Translation;

/// Weight of one sample in the running estimate.
const WEIGHT: f64 = 1.0 / 24.0;
/// The probability that silence of a whole window is bad luck, per voter.
const BAD_LUCK: f64 = 1e-6;

/// Loss that asks for no more pings.
const NEGLIGIBLE: f64 = 0.02;
/// So many pings lost in a row are an outage, not loss.
const OUTAGE: u32 = 24;

/// Why a ping was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To find a server that is not up, or to probe one that is.
    Probe,
    /// To examine the subject of a case.
    Case,
    /// To see, during a case about this server, whether others still answer.
    Contact(usize),
}

/// A ping whose pong has not come.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    /// To whom.
    pub to: usize,
    /// When it was sent.
    pub sent: Time,
    /// Why.
    pub purpose: Purpose,
}

/// All pings in flight and the state of each path.
#[derive(Debug, Default)]
pub struct Pings {
    in_flight: BTreeMap<u32, InFlight>,
    /// Nonces in the order in which they were sent.
    order: std::collections::VecDeque<(Time, u32)>,
    /// To whoever was pinged: of a large cluster, few.
    paths: BTreeMap<usize, Path>,
    /// Paths whose loss counts: a large cluster has few of them.
    lossy: BTreeSet<usize>,
}

#[derive(Clone, Debug, Default)]
struct Path {
    /// Running estimate of round-trip loss, 0 to 1.
    loss: f64,
    /// Pings given up since the last pong. They count as lost only when a pong follows: a dead peer is
    /// not a bad path.
    given_up: u32,
    /// When the last pong came.
    pong: Option<Time>,
}

impl Pings {
    /// A ping leaves.
    pub fn sent(&mut self, nonce: u32, ping: InFlight) {
        self.in_flight.insert(nonce, ping);
        self.order.push_back((ping.sent, nonce));
    }

    /// A pong came: the ping that it answers, if it is one of ours to that server.
    pub fn answered(&mut self, nonce: u32, from: usize, now: Time) -> Option<InFlight> {
        if self.in_flight.get(&nonce)?.to != from {
            return None;
        }
        let ping = self.in_flight.remove(&nonce)?;
        let path = self.paths.entry(from).or_default();
        // Silence before the first pong was an absence and a longer one an outage: neither says anything
        // about single pings.
        let was_there = path.pong.replace(now).is_some();
        let lost = if was_there && path.given_up <= OUTAGE { path.given_up } else { 0 };
        for lost in std::iter::repeat_n(1.0, lost as usize).chain([0.0]) {
            path.loss += (lost - path.loss) * WEIGHT;
        }
        path.given_up = 0;
        if path.loss < NEGLIGIBLE {
            self.lossy.remove(&from);
        } else {
            self.lossy.insert(from);
        }
        Some(ping)
    }

    /// Gives up pings older than `patience`.
    pub fn give_up(&mut self, patience: Duration, now: Time) {
        while let Some((sent, nonce)) = self.order.front().copied() {
            if now.since(sent) <= patience {
                break;
            }
            self.order.pop_front();
            if let Some(ping) = self.in_flight.remove(&nonce) {
                let path = self.paths.entry(ping.to).or_default();
                path.given_up = path.given_up.saturating_add(1);
            }
        }
    }

    /// A member is down or left: its next pong begins anew, and the silence until then was no loss.
    pub fn gone(&mut self, server: usize) {
        if let Some(path) = self.paths.get_mut(&server) {
            path.pong = None;
        }
    }

    /// Goes on under another config: what was sent to servers that are gone, or because of them, is forgotten.
    pub fn translate(&mut self, to: &Translation) {
        let known = |ping: InFlight| {
            let purpose = match ping.purpose {
                Purpose::Contact(subject) => Purpose::Contact(to.server(subject)?),
                purpose @ (Purpose::Probe | Purpose::Case) => purpose,
            };
            Some(InFlight { to: to.server(ping.to)?, sent: ping.sent, purpose })
        };
        let in_flight = std::mem::take(&mut self.in_flight).into_iter();
        self.in_flight = in_flight.filter_map(|(nonce, ping)| Some((nonce, known(ping)?))).collect();
        to.by_server(&mut self.paths);
        to.set_of_servers(&mut self.lossy);
    }

    /// How many pings are in flight.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// When the last pong of a server came.
    #[must_use]
    pub fn last_pong(&self, server: usize) -> Option<Time> {
        self.paths.get(&server)?.pong
    }

    /// Estimated round-trip loss to a server, 0 to 1.
    #[must_use]
    pub fn loss(&self, server: usize) -> f64 {
        self.paths.get(&server).map_or(0.0, |path| path.loss)
    }

    /// Servers to which more than nothing is lost, with the estimate.
    pub fn losses(&self) -> impl Iterator<Item = (usize, f64)> {
        self.lossy.iter().map(|server| (*server, self.loss(*server)))
    }

    /// After a stall nothing in flight says anything, neither do old pongs.
    pub fn forget(&mut self) {
        self.in_flight.clear();
        self.order.clear();
        for path in self.paths.values_mut() {
            path.given_up = 0;
            path.pong = None;
        }
    }
}

/// How many pings in a row must be lost before silence is not bad luck, given the round-trip loss
/// that is seen now.
#[must_use]
pub fn pings_needed(loss: f64, at_least: u32) -> u32 {
    if loss < NEGLIGIBLE || planted(Bug::LossIgnored) {
        return at_least;
    }
    mark!("case: window stretched by loss");
    // The estimate lags behind a loss that grows, hence the margin.
    let assumed = (loss * 1.1 + 0.03).min(0.9);
    let needed = (BAD_LUCK.ln() / assumed.ln()).ceil();
    (needed as u32).clamp(at_least, limits::CASE_PINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_stretches_with_the_loss() {
        assert_eq!(pings_needed(0.0, 8), 8);
        let table: Vec<_> =
            [0.05, 0.19, 0.36, 0.51, 0.64, 0.75, 1.0].map(|loss| pings_needed(loss, 8)).into();
        assert_eq!(table, [8, 10, 17, 27, 45, 89, 96]);
    }

    #[test]
    fn a_dead_peer_is_not_a_bad_path() {
        let mut pings = Pings::default();
        let at = Time::from_millis;
        let mut now = 0;
        let mut nonce = 0;
        let mut ping = |pings: &mut Pings, answer: bool| {
            now += 10;
            nonce += 1;
            pings.sent(nonce, InFlight { to: 0, sent: at(now), purpose: Purpose::Probe });
            if answer {
                assert!(pings.answered(nonce, 0, at(now + 1)).is_some());
            }
            pings.give_up(Duration::from_millis(15), at(now));
        };
        // Neither before its first pong, nor in a long silence, nor after it was declared down.
        for silence in [20, 100, 20] {
            for _ in 0..silence {
                ping(&mut pings, false);
            }
            ping(&mut pings, true);
            assert!(pings.loss(0) < 0.01, "{silence}: {}", pings.loss(0));
            pings.gone(0);
        }
        ping(&mut pings, true);
        for n in 0..200 {
            ping(&mut pings, n % 2 == 0);
        }
        assert!((0.35..0.65).contains(&pings.loss(0)), "{}", pings.loss(0));
        assert!(pings.answered(nonce, 0, at(now)).is_some(), "late is better than never");
        assert!(pings.answered(nonce, 0, at(now)).is_none(), "but it counts once");
    }
}
