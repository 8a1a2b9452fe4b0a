//! Who is not in the cluster yet and has its key may ask a member to be taken in: the member makes the edit, and
//! gives away the catalog.
//!
//! What a stranger asks changes nothing before it has echoed a challenge that depends on this process, its own
//! attempt and the time, and that this node does not remember. An attempt makes one edit, however often it is
//! repeated.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::RngExt;
use serde_json::{Map, Value};

use super::Node;
use crate::catalog::Edit;
use crate::event::Event;
use crate::io::{Command, Output};
use crate::limits;
use crate::time::Time;
use crate::wire::join::{Answer, Question, Said, Way, Wish, open, seal};
use crate::wire::message::Exchange;

/// Askers from here up are not the driver's: they are servers that join.
pub(super) const OWN_ASKERS: u64 = 1 << 63;
/// A challenge is answered within one to two of these.
const EPOCH: Duration = Duration::from_secs(30);

/// Attempts to join that this node has met.
#[derive(Default)]
pub(super) struct Joins {
    /// Makes challenges; drawn when the first is needed.
    secret: Option<[u8; 32]>,
    attempts: BTreeMap<[u8; 16], Attempt>,
    next: u64,
}

struct Attempt {
    since: Time,
    id: String,
    addr: String,
    asker: u64,
    /// What came of it; none while it is being done.
    end: Option<Result<(), String>>,
}

impl Node {
    /// A frame of a server that is not in the cluster. One that does not open gets no answer.
    pub(super) fn on_join(&mut self, conn: u64, frame: &[u8], now: Time) {
        let ring = self.seals.ring().clone();
        let opened = open::<Question>(ring.keys(), &self.config.cluster_id, Way::Question, frame);
        let Some((key, Question { attempt, challenge, wish })) = opened else { return };
        let said = if self.is_fresh(attempt, challenge, now) {
            match wish {
                Wish::Enter { id, entry } => self.enter(attempt, id, &entry, now),
                Wish::Page(after) => self.page_for_stranger(after),
            }
        } else {
            let epoch = now.as_nanos() / EPOCH.as_nanos() as u64;
            Said::Challenge(self.join_challenge(attempt, epoch))
        };
        let random = self.rng.random();
        let answer = Answer { attempt, said };
        let data = seal(key, &self.config.cluster_id, Way::Answer, &answer, random);
        self.outputs.push_back(Output::StreamReply { conn, data });
    }

    fn is_fresh(&mut self, attempt: [u8; 16], challenge: [u8; 16], now: Time) -> bool {
        let epoch = now.as_nanos() / EPOCH.as_nanos() as u64;
        let mut valid = [epoch, epoch.saturating_sub(1)].map(|epoch| self.join_challenge(attempt, epoch));
        // Who knows the key knows the challenge that it was given, and nobody else gets here.
        valid.iter_mut().any(|valid| *valid == challenge)
    }

    fn join_challenge(&mut self, attempt: [u8; 16], epoch: u64) -> [u8; 16] {
        let secret = *self.joins.secret.get_or_insert_with(|| self.rng.random());
        let mut hasher = blake3::Hasher::new_keyed(&secret);
        hasher.update(&attempt);
        hasher.update(&epoch.to_be_bytes());
        let hash = hasher.finalize();
        std::array::from_fn(|at| hash.as_bytes()[at])
    }

    fn enter(&mut self, attempt: [u8; 16], id: String, entry: &str, now: Time) -> Said {
        let over = |since: Time| now.since(since) > EPOCH * 3;
        self.joins.attempts.retain(|_, attempt| attempt.end.is_none() || !over(attempt.since));
        if let Some(attempt) = self.joins.attempts.get(&attempt) {
            return match &attempt.end {
                None => Said::Wait,
                Some(Ok(())) => Said::Entered,
                Some(Err(why)) => Said::Refused { why: why.clone(), again: true },
            };
        }
        let refused = |why: String, again| Said::Refused { why, again };
        let Ok(Value::Object(value)) = serde_json::from_str(entry) else {
            return refused("found no entry of a server in the question".into(), false);
        };
        let Some(addr) = address(&value) else {
            return refused("found no address of a server in the question".into(), false);
        };
        let servers = &self.adoption.wanted.servers;
        if let Some(known) = servers.iter().find(|server| server.id == id && !server.retired) {
            return match known.addr == addr {
                // It was added by hand, or its state dir is lost.
                true => Said::Entered,
                false => refused(
                    format!(
                        "the cluster has a server {id} at {}, and not at {addr}: choose another id, or remove that one",
                        known.addr
                    ),
                    false,
                ),
            };
        }
        if let Some(other) = servers.iter().find(|server| server.addr == addr && !server.retired) {
            return refused(format!("server {} of the cluster has the address {addr}", other.id), false);
        }
        if self.joins.attempts.len() >= limits::JOINS {
            return refused("too many servers join at once".into(), true);
        }
        self.joins.next += 1;
        let asker = OWN_ASKERS + self.joins.next;
        let edits = vec![Edit::SetServer { id: id.clone(), value, new: true }];
        let begun = Attempt { since: now, id, addr: addr.to_string(), asker, end: None };
        self.joins.attempts.insert(attempt, begun);
        let command = Command::Edit { edits, local: false, force: false, timeout: limits::PROPOSAL_LIFE };
        self.on_edit_command(asker, &command, now);
        Said::Wait
    }

    /// What came of an attempt.
    pub(super) fn on_join_done(&mut self, asker: u64, result: Result<String, String>) {
        let Some(attempt) = self.joins.attempts.values_mut().find(|attempt| attempt.asker == asker) else {
            return;
        };
        attempt.end = Some(result.clone().map(drop));
        let (by, from) = (format!("server {}", attempt.id), attempt.addr.clone());
        self.event(Event::Asked { by, from, what: "join".into(), result });
    }

    fn page_for_stranger(&self, after: Option<(u16, Option<crate::catalog::Key>)>) -> Said {
        let Some(replica) = &self.replica else {
            return Said::Refused {
                why: "this server has no catalog to give; ask another".into(),
                again: false,
            };
        };
        // An empty catalog asks: everything differs from it.
        let nothing = crate::catalog::Catalog::default();
        let question = Exchange {
            brief: nothing.brief(),
            sums: nothing.sums().to_vec(),
            after,
            file: None,
            entries: Vec::new(),
            push: 0,
        };
        Said::Page(replica.answer(&question))
    }
}

/// The address of a server's entry.
fn address(entry: &Map<String, Value>) -> Option<SocketAddr> {
    let ip: IpAddr = entry.get("ip")?.as_str()?.parse().ok()?;
    let port = entry.get("port").map_or(Some(2200), |port| u16::try_from(port.as_u64()?).ok())?;
    Some(SocketAddr::new(ip, port))
}
