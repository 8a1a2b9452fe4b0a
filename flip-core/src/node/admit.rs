//! From the socket to a message. The work on a datagram, cheapest first:
//!
//! length → version → tag → sender and budget → replay window → decrypt → mark → session → parse
//!
//! Until its session has proven itself, a datagram is answered by nothing but a challenge, which is not
//! longer and goes to the sender's address in the config, whatever address the datagram came from. One
//! answer goes elsewhere: a second daemon is told so where it was heard, no longer than what it sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::sessions::{Proof, Standing};
use super::{Leaving, Node};
use crate::config::Config;
use crate::event::{Event, Refusal};
use crate::io::Output;
use crate::limits;
use crate::loss::Purpose;
use crate::time::Time;
use crate::translation::Translation;
use crate::wire::message::{self, Duplicate, Hello, Message, decode_all};
use crate::wire::seal::{Header, OVERHEAD};

/// Datagrams that did not open before a person is told.
const HINT_AFTER: u32 = 3;

/// What was refused, and from which servers.
#[derive(Debug)]
pub(super) struct Refused {
    /// By position in `Refusal::ALL`: how many, and when that was last told.
    counts: [(u64, Option<Time>); Refusal::ALL.len()],
    /// Datagrams from the address of a server that did not open.
    unopened: BTreeMap<usize, Unopened>,
    /// Servers that were heard from another address than the config's, and whether beside another one.
    elsewhere: BTreeMap<usize, (SocketAddr, Time, bool)>,
    /// When a second daemon was last reported.
    duplicate: Option<Time>,
}

#[derive(Debug)]
struct Unopened {
    why: Refusal,
    count: u32,
    first: Time,
    last: Time,
}

impl Refused {
    pub(super) fn new() -> Self {
        Self {
            counts: [(0, None); Refusal::ALL.len()],
            unopened: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            duplicate: None,
        }
    }

    /// How many, by position in `Refusal::ALL`.
    pub(super) fn by_reason(&self) -> [u64; Refusal::ALL.len()] {
        self.counts.map(|(count, _)| count)
    }

    pub(super) fn translate(&mut self, to: &Translation) {
        to.by_server(&mut self.unopened);
        to.by_server(&mut self.elsewhere);
    }

    /// By reason, those that occurred.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let counts = Refusal::ALL.iter().zip(self.counts);
        counts
            .filter(|(_, (count, _))| *count > 0)
            .map(|(why, (count, _))| (format!("{why:?}").to_lowercase(), count))
            .collect()
    }

    /// Counts one; true when it is to be told.
    fn count(&mut self, why: Refusal, now: Time) -> bool {
        let Some(at) = Refusal::ALL.iter().position(|each| *each == why) else { return false };
        let (count, told) = &mut self.counts[at];
        *count += 1;
        let tell = told.is_none_or(|last| now.since(last) >= limits::REFUSAL_PAUSE);
        if tell {
            *told = Some(now);
        }
        tell
    }

    /// Remembers that something from a server's own address did not open. Allocates once per server.
    fn note_unopened(&mut self, config: &Config, from: SocketAddr, why: Refusal, now: Time) {
        let Some(server) = config.servers.with_addr(from) else { return };
        let fresh = Unopened { why, count: 0, first: now, last: now };
        let entry = self.unopened.entry(server).or_insert(fresh);
        if now.since(entry.last) > limits::HINT_LIFE || entry.why != why {
            *entry = Unopened { why, count: 0, first: now, last: now };
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
    }
}

impl Node {
    /// False when the datagram was refused: nothing has changed then.
    pub(super) fn on_datagram(&mut self, from: SocketAddr, data: &[u8], now: Time) -> bool {
        let done =
            self.admit(Some(from), data, limits::DATAGRAM, now).and_then(|(header, standing, body)| {
                let done = self.on_opened(from, data.len(), &header, standing, &body, now);
                self.bodies.spare(body);
                done
            });
        if let Err(why) = done {
            self.refuse(from, why, now);
        }
        done.is_ok()
    }

    fn admit(
        &mut self,
        from: Option<SocketAddr>,
        data: &[u8],
        longest: usize,
        now: Time,
    ) -> Result<(Header, Standing, Vec<u8>), Refusal> {
        let header = self.seals.header(data, limits::SHORTEST, longest)?;
        // Streams are few by themselves.
        if let Some(from) = from {
            let expected = from == self.config.servers[header.server].addr;
            self.sessions.charge(&header, expected, now)?;
        }
        self.sessions.check(&header)?;
        let mut body = self.bodies.buffer();
        self.seals.open(&header, data, &mut body)?;
        // This node never sends to itself: somebody else runs under its id, and knows the key.
        if header.server == self.config.me {
            return Err(Refusal::OwnId);
        }
        let standing = self.sessions.mark(&header, now);
        Ok((header, standing, body))
    }

    fn on_opened(
        &mut self,
        from: SocketAddr,
        len: usize,
        header: &Header,
        standing: Standing,
        body: &[u8],
        now: Time,
    ) -> Result<(), Refusal> {
        let server = header.server;
        if let Some(word) = message::duplicate(body)
            && word.session == self.seals.session()
        {
            self.on_duplicate(server, word, now);
            return Ok(());
        }
        let hello = message::hello(body);
        let proof = match hello.filter(|_| standing != Standing::Second) {
            Some(hello) => self.sessions.prove(header, &hello, Some(from), now),
            None => Proof::Nothing,
        };
        let proved = !matches!(proof, Proof::Nothing);
        if proved {
            self.forget_keys(server);
        }
        if let Proof::Both { second, from } = proof {
            let at = from.unwrap_or(self.config.servers[server].addr);
            self.report_duplicate(server, at, now);
            self.tell_second(server, second, at, len, header, now);
        }
        if standing != Standing::Live && !proved {
            self.on_unproven(Some(from), len, header, standing, hello, now);
            return Err(Refusal::Session);
        }
        let messages = decode_all(body).map_err(|_| Refusal::Malformed)?;
        self.spread.heard(server, now);
        self.tally.datagrams.add(len);
        for (kind, bytes) in message::parts(body) {
            self.tally.received.add(kind, bytes);
        }
        let challenge = hello.map(|hello| hello.challenge).filter(|challenge| *challenge != [0; 8]);
        if let Some(challenge) = challenge {
            self.prove_to(server, challenge, now);
        } else if proved && !messages.iter().any(|message| matches!(message, Message::Ping(_))) {
            self.ping(server, Purpose::Probe, now);
        }
        if proved || challenge.is_some() {
            self.request_again(server, now);
        }
        for message in messages {
            self.on_message(server, message, now);
        }
        Ok(())
    }

    /// A live session asked for a proof, so whatever was sent to it before it dropped.
    fn prove_to(&mut self, server: usize, challenge: [u8; 8], now: Time) {
        let hello = Message::Hello(self.hello(server, challenge));
        self.send(server, &hello);
        match self.sessions.take_unheard(server, now) {
            Some(content) => {
                let body = self.bodies.of(server);
                if body.len() + content.len() + OVERHEAD <= limits::DATAGRAM {
                    body.extend_from_slice(&content);
                } else {
                    let full = std::mem::replace(body, content);
                    self.emit(server, full);
                }
            }
            None => self.ping(server, Purpose::Probe, now),
        }
    }

    /// Something that anybody may have recorded any time ago: a challenge is all that it is worth.
    fn on_unproven(
        &mut self,
        from: Option<SocketAddr>,
        len: usize,
        header: &Header,
        standing: Standing,
        hello: Option<Hello>,
        now: Time,
    ) {
        let server = header.server;
        let addr = self.config.servers[server].addr;
        let elsewhere = from.filter(|from| *from != addr);
        let other_lives = self.sessions.other_lives(header, now).is_some();
        if let Some(at) = elsewhere {
            self.refused.elsewhere.insert(server, (at, now, other_lives));
        }
        if other_lives && (elsewhere.is_some() || standing == Standing::Second) {
            let at = elsewhere.unwrap_or(addr);
            self.report_duplicate(server, at, now);
            self.tell_second(server, header.session, at, len, header, now);
        } else if self.sessions.may_answer(server, now) {
            let proof = hello.map_or([0; 8], |hello| hello.challenge);
            // An earlier life of the sender may be known; this session is not.
            let random = rand::RngExt::random(&mut self.rng);
            let challenge = self.sessions.challenge(server, random, now);
            let hello = Hello { challenge, proof, wire: self.seals.newest() };
            self.answer(addr, &Message::Hello(hello), header);
        }
    }

    /// Tells the second daemon of a server where it was heard, no longer than what it sent.
    fn tell_second(
        &mut self,
        server: usize,
        session: u64,
        at: SocketAddr,
        len: usize,
        header: &Header,
        now: Time,
    ) {
        let second = Header { session, ..*header };
        let Some(known) = self.sessions.other_lives(&second, now) else { return };
        if !self.sessions.may_tell(server, now) {
            return;
        }
        let known_ms = u32::try_from(known.as_millis()).unwrap_or(u32::MAX);
        let addr = self.config.servers[server].addr;
        for other in [Some(addr), None] {
            let word = Message::Duplicate(Duplicate { session, known_ms, other });
            let mut body = Vec::new();
            word.encode(&mut body);
            if body.len() + OVERHEAD <= len {
                self.answer(at, &word, header);
                return;
            }
        }
    }

    /// Sends one message at once, under the key and in the version of what it answers.
    fn answer(&mut self, to: SocketAddr, message: &Message, header: &Header) {
        let mut body = Vec::new();
        message.encode(&mut body);
        message::pad(&mut body);
        let random = rand::RngExt::random(&mut self.rng);
        let data = self.seals.seal(header.wire, header.key, &body, random);
        self.sent.0 += 1;
        self.sent.1 += data.len() as u64;
        self.outputs.push_back(Output::Datagram { to, data });
    }

    /// What the frame of a stream holds, if it is of a live session.
    pub(super) fn open_frame(&mut self, data: &[u8], now: Time) -> Option<(usize, Message)> {
        let (header, standing, body) = self.admit(None, data, limits::FRAME, now).ok()?;
        if standing != Standing::Live {
            self.on_unproven(None, data.len(), &header, standing, None, now);
            return None;
        }
        let message = decode_all(&body).ok()?.pop()?;
        self.tally.received.add(message.kind(), body.len());
        Some((header.server, message))
    }

    /// Another member says that this process is the second under its id. It is the younger one when the
    /// other is known for longer than this one runs; and whoever has joined nothing gives way in any case.
    fn on_duplicate(&mut self, teller: usize, word: Duplicate, now: Time) {
        let known = Duration::from_millis(word.known_ms.into());
        let other = word.other.unwrap_or(self.config.servers[teller].addr);
        self.report_duplicate(self.config.me, other, now);
        if self.ever_had_quorum && now.since(self.started) >= known {
            return;
        }
        match &mut self.leaving {
            Some(leaving) => leaving.refused = leaving.refused.or(Some(other)),
            // What it holds it lets go, but it must not say goodbye in the other's name.
            None => self.leaving = Some(Leaving { refused: Some(other), ..Leaving::default() }),
        }
        self.items.touch();
        for server in self.others() {
            self.drop_case(server);
        }
    }

    pub(super) fn refuse(&mut self, from: SocketAddr, why: Refusal, now: Time) {
        if matches!(why, Refusal::Version | Refusal::Cluster | Refusal::Seal) {
            self.refused.note_unopened(&self.config, from, why, now);
        }
        if why == Refusal::OwnId {
            self.report_duplicate(self.config.me, from, now);
        }
        if self.refused.count(why, now) {
            self.event(Event::Refused { from, why });
        }
    }

    fn report_duplicate(&mut self, server: usize, from: SocketAddr, now: Time) {
        if self.refused.duplicate.is_none_or(|last| now.since(last) >= limits::DUPLICATE_MEMORY) {
            self.refused.duplicate = Some(now);
            self.event(Event::DuplicateId { server, from });
        }
    }

    /// What a person has to look at.
    pub(super) fn hints(&self, now: Time) -> Vec<String> {
        let recent = |at: Time| now.since(at) <= limits::HINT_LIFE;
        let mut hints = self.catalog_hints();
        for (server, unopened) in &self.refused.unopened {
            let heard = self.sessions.heard(*server).is_some_and(|heard| heard >= unopened.first);
            if !recent(unopened.last) || unopened.count < HINT_AFTER || heard {
                continue;
            }
            let spec = &self.config.servers[*server];
            let what = if unopened.why == Refusal::Version {
                "are of a wire version that this server does not speak: update the older of the two"
            } else {
                "do not open: its key or cluster_id differs from this server's; compare them"
            };
            hints.push(format!("datagrams from {} (server {}) {what}", spec.addr.ip(), spec.id));
        }
        for (server, (at, since, beside)) in &self.refused.elsewhere {
            if !recent(*since) {
                continue;
            }
            let spec = &self.config.servers[*server];
            let (id, addr) = (&spec.id, spec.addr);
            hints.push(if *beside {
                format!(
                    "a second daemon runs as server {id} at {at}, beside the one at {addr}: stop one of them"
                )
            } else {
                format!(
                    "server {id} speaks from {at}, but its address in this config is {addr}: compare the configs"
                )
            });
        }
        hints
    }
}
