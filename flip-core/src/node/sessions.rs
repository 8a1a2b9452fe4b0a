//! Who speaks: which sessions of the others are alive, and how much of whom is opened.
//!
//! ```text
//!             Hello with our challenge (sealed under the sender's key)
//!  unknown ─────────────────────────────────────────────────────────▶ live ──▶ former
//!     │ anything else: counts for nothing, answered by a challenge      ▲  another │
//!     └─────────────────────────────────────────────────────────────────┘  proved  │
//!                              proves itself again: two daemons live ◀─────────────┘
//! ```
//!
//! A session is the random number of one process. That a datagram opens proves that it was sealed by
//! a holder of the key, some day; only the echo of a random number of this process proves that it was
//! sealed since. So whatever was recorded before a restart of the receiver changes nothing, this table
//! included.

use std::net::SocketAddr;

use crate::event::Refusal;
use crate::limits;
use crate::time::Time;
use crate::translation::Translation;
use crate::wire::message::Hello;
use crate::wire::replay::Window;
use crate::wire::seal::Header;

/// What is known of the sessions of all others, by position in the config.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// As long as the last of them that was met.
    peers: Vec<Option<Box<Peer>>>,
}

#[derive(Debug, Default)]
struct Peer {
    live: Option<Session>,
    /// The one that was live before it; most have none.
    former: Option<Box<Session>>,
    /// The second daemon of this id, refused while the first one lives.
    second: Option<u64>,
    /// What is to be echoed, and since when.
    challenge: Option<(u64, Time)>,
    /// When a session that had not proven itself was answered last.
    answered: Option<Time>,
    /// When a second daemon was told so last.
    told: Option<Time>,
    /// What was sent last while no session of the peer was live.
    unheard: Option<(Vec<u8>, Time)>,
    /// From its address in the config: under the live session, under others; from elsewhere.
    buckets: [Bucket; 3],
    /// For what its systems say to this node's.
    asides: Bucket,
    /// Id of the key that its live session used last.
    key: Option<u8>,
    /// The newest wire version that it speaks.
    wire: Option<u8>,
}

/// One process of another server.
#[derive(Debug)]
pub(super) struct Session {
    id: u64,
    window: Window,
    /// When it proved itself first.
    since: Time,
    heard: Time,
    from: Option<SocketAddr>,
}

/// Tokens for work on datagrams, in nanoseconds of time saved up.
#[derive(Debug, Default)]
struct Bucket {
    /// When it will be full again; in the past when it is.
    full: Time,
}

impl Bucket {
    /// Takes a token (after the "virtual scheduling" form of the leaky bucket, ITU-T I.371 annex A).
    fn take(&mut self, rate: u32, burst: u32, now: Time) -> bool {
        let each = std::time::Duration::from_secs(1) / rate;
        let full = self.full.max(now);
        if full.since(now) > each * (burst - 1) {
            return false;
        }
        self.full = full + each;
        true
    }
}

/// Where the session of an opened datagram stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It proved itself.
    Live,
    /// It did not, or another one did after it.
    Unproven,
    /// It is the second of two that live.
    Second,
}

/// What a proof changed.
#[derive(Debug)]
pub(super) enum Proof {
    /// It is none, or proves what was known.
    Nothing,
    /// This session is the live one from here on.
    New,
    /// The session that was live before lives: `second` is the id and origin of the one that came after.
    Both {
        /// Id of the second one's session.
        second: u64,
        /// Where it was heard.
        from: Option<SocketAddr>,
    },
}

impl Sessions {
    fn peer(&mut self, server: usize) -> &mut Peer {
        if self.peers.len() <= server {
            self.peers.resize_with(server + 1, || None);
        }
        self.peers[server].get_or_insert_default()
    }

    pub(super) fn translate(&mut self, to: &Translation) {
        self.peers.resize_with(to.servers().max(self.peers.len()), || None);
        to.row_of_servers(&mut self.peers, || None);
    }

    fn known(&self, server: usize) -> Option<&Peer> {
        self.peers.get(server)?.as_deref()
    }

    /// Takes a token of the source of a datagram. Who knows neither the address in the config nor the
    /// session of a live server cannot keep it from being heard.
    pub(super) fn charge(&mut self, header: &Header, expected: bool, now: Time) -> Result<(), Refusal> {
        let peer = self.peer(header.server);
        let live = peer.live.as_ref().is_some_and(|live| live.id == header.session);
        let source = match (expected, live) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        if peer.buckets[source].take(limits::RATE, limits::BURST, now) {
            Ok(())
        } else {
            Err(Refusal::Budget)
        }
    }

    /// Takes a token for something that a server's systems say to this node's.
    pub(super) fn charge_aside(&mut self, server: usize, now: Time) -> Result<(), Refusal> {
        let taken = self.peer(server).asides.take(limits::ASIDES, limits::ASIDES_AT_ONCE, now);
        if taken { Ok(()) } else { Err(Refusal::Budget) }
    }

    /// Refuses what was seen before, ahead of the cipher.
    pub(super) fn check(&self, header: &Header) -> Result<(), Refusal> {
        let Some(peer) = self.known(header.server) else { return Ok(()) };
        let mut known = peer.live.iter().chain(peer.former.as_deref());
        match known.find(|session| session.id == header.session) {
            Some(session) if !session.window.is_new(header.counter) => Err(Refusal::Replay),
            Some(_) | None => Ok(()),
        }
    }

    /// A datagram was opened: marks it in its session's window, if that is known.
    pub(super) fn mark(&mut self, header: &Header, now: Time) -> Standing {
        let peer = self.peer(header.server);
        if let Some(live) = &mut peer.live
            && live.id == header.session
        {
            live.window.mark(header.counter);
            live.heard = now;
            peer.key = Some(header.key);
            return Standing::Live;
        }
        if let Some(former) = &mut peer.former
            && former.id == header.session
        {
            former.window.mark(header.counter);
        }
        let first_lives =
            peer.live.as_ref().is_some_and(|live| now.since(live.heard) <= limits::DUPLICATE_MEMORY);
        if peer.second == Some(header.session) && first_lives {
            return Standing::Second;
        }
        Standing::Unproven
    }

    /// Looks at the proof in a hello of an opened datagram.
    pub(super) fn prove(
        &mut self,
        header: &Header,
        hello: &Hello,
        from: Option<SocketAddr>,
        now: Time,
    ) -> Proof {
        let peer = self.peer(header.server);
        let proof = u64::from_be_bytes(hello.proof);
        let answers = peer.challenge.is_some_and(|(challenge, since)| {
            challenge == proof && now.since(since) <= limits::CHALLENGE_LIFE
        });
        if !answers {
            return Proof::Nothing;
        }
        peer.challenge = None;
        peer.wire = Some(hello.wire);
        peer.key = Some(header.key);
        if peer.live.as_ref().is_some_and(|live| live.id == header.session) {
            return Proof::Nothing;
        }
        if let Some(mut first) = peer.former.take_if(|former| former.id == header.session) {
            first.heard = now;
            let second = peer.live.replace(*first);
            peer.second = second.as_ref().map(|second| second.id);
            return match second {
                Some(second) => Proof::Both { second: second.id, from: second.from },
                None => Proof::New,
            };
        }
        let window = Window::after(header.counter);
        let session = Session { id: header.session, window, since: now, heard: now, from };
        peer.former = peer.live.replace(session).map(Box::new);
        peer.second = None;
        Proof::New
    }

    /// The challenge for a server: the same until it is answered or too old, so that nobody can void it by
    /// asking for another.
    pub(super) fn challenge(&mut self, server: usize, random: u64, now: Time) -> [u8; 8] {
        let peer = self.peer(server);
        let valid = peer.challenge.filter(|(_, since)| now.since(*since) <= limits::CHALLENGE_LIFE / 2);
        let (challenge, _) = *peer.challenge.insert(valid.unwrap_or((random.max(1), now)));
        challenge.to_be_bytes()
    }

    /// True when a session that has not proven itself may be answered now.
    pub(super) fn may_answer(&mut self, server: usize, now: Time) -> bool {
        let peer = self.peer(server);
        let may = peer.answered.is_none_or(|last| now.since(last) >= limits::CHALLENGE_PAUSE);
        if may {
            peer.answered = Some(now);
        }
        may
    }

    /// True when a second daemon may be told so now.
    pub(super) fn may_tell(&mut self, server: usize, now: Time) -> bool {
        let peer = self.peer(server);
        let may = peer.told.is_none_or(|last| now.since(last) >= limits::CHALLENGE_PAUSE * 10);
        if may {
            peer.told = Some(now);
        }
        may
    }

    /// For how long the live session of a server is known, if it was heard lately and is not this one.
    pub(super) fn other_lives(&self, header: &Header, now: Time) -> Option<std::time::Duration> {
        let live = self.known(header.server)?.live.as_ref()?;
        let lately = now.since(live.heard) <= limits::DUPLICATE_MEMORY;
        (lately && live.id != header.session).then(|| now.since(live.since))
    }

    /// True when a session of this server has proven itself.
    pub(super) fn is_live(&self, server: usize) -> bool {
        self.known(server).is_some_and(|peer| peer.live.is_some())
    }

    /// When the live session of a server was heard last.
    pub(super) fn heard(&self, server: usize) -> Option<Time> {
        self.known(server)?.live.as_ref().map(|live| live.heard)
    }

    /// The live session of a server.
    #[cfg(test)]
    pub(super) fn live_session(&self, server: usize) -> Option<u64> {
        self.known(server)?.live.as_ref().map(|live| live.id)
    }

    /// Id of the key that a server used last.
    pub(super) fn key(&self, server: usize) -> Option<u8> {
        self.known(server)?.key
    }

    /// The newest wire version that a server speaks, if it said.
    pub(super) fn wire(&self, server: usize) -> Option<u8> {
        self.known(server)?.wire
    }

    /// Keeps what was sent to a server that may not know this session.
    pub(super) fn keep(&mut self, server: usize, body: &[u8], now: Time) {
        self.peer(server).unheard = Some((body.to_vec(), now));
    }

    /// What was sent a moment ago to a server that did not know this session.
    pub(super) fn take_unheard(&mut self, server: usize, now: Time) -> Option<Vec<u8>> {
        let (body, sent) = self.peers.get_mut(server)?.as_mut()?.unheard.take()?;
        (now.since(sent) <= limits::REPEAT_WITHIN).then_some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn header(session: u64, counter: u64) -> Header {
        Header { wire: 1, key: 0, server: 1, session, counter }
    }

    fn hello(proof: [u8; 8]) -> Hello {
        Hello { challenge: [0; 8], proof, wire: 1 }
    }

    const AT: Time = Time::from_millis(1_000);

    fn live(sessions: &mut Sessions, session: u64, now: Time) -> Proof {
        let challenge = sessions.challenge(1, session ^ 0xABCD, now);
        sessions.prove(&header(session, 1), &hello(challenge), None, now)
    }

    #[test]
    fn only_an_echo_makes_a_session_live() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.mark(&header(7, 1), AT), Standing::Unproven);
        assert!(matches!(sessions.prove(&header(7, 1), &hello([0; 8]), None, AT), Proof::Nothing));
        let challenge = sessions.challenge(1, 5, AT);
        assert_eq!(sessions.challenge(1, 6, AT), challenge, "the same until it is answered");
        assert!(matches!(sessions.prove(&header(7, 2), &hello(challenge), None, AT), Proof::New));
        assert_eq!(sessions.check(&header(7, 2)), Err(Refusal::Replay));
        assert_eq!(sessions.mark(&header(7, 3), AT), Standing::Live);
        assert!(matches!(sessions.prove(&header(8, 1), &hello(challenge), None, AT), Proof::Nothing), "once");
        let challenge = sessions.challenge(1, 9, AT);
        let late = AT + limits::CHALLENGE_LIFE + Duration::from_nanos(1);
        assert!(matches!(sessions.prove(&header(8, 1), &hello(challenge), None, late), Proof::Nothing));
        assert!(sessions.challenge(1, 10, late) != challenge);
    }

    #[test]
    fn a_new_process_takes_over_and_the_old_one_does_not_come_back() {
        let mut sessions = Sessions::default();
        assert!(matches!(live(&mut sessions, 7, AT), Proof::New));
        assert!(matches!(live(&mut sessions, 8, AT), Proof::New));
        assert_eq!(sessions.mark(&header(8, 2), AT), Standing::Live);
        assert_eq!(sessions.mark(&header(7, 2), AT), Standing::Unproven, "it must prove itself again");
        let Proof::Both { second: 8, .. } = live(&mut sessions, 7, AT) else { panic!("both live") };
        assert_eq!(sessions.mark(&header(7, 3), AT), Standing::Live, "the first keeps all");
        assert_eq!(sessions.mark(&header(8, 3), AT), Standing::Second);
        let later = AT + limits::DUPLICATE_MEMORY + Duration::from_nanos(1);
        assert_eq!(sessions.mark(&header(8, 4), later), Standing::Unproven, "the first is silent");
    }

    /// A flood spends its own budget, not that of the live session at the right address.
    #[test]
    fn budgets_are_kept_apart() {
        let mut sessions = Sessions::default();
        live(&mut sessions, 7, AT);
        let opened = (0..10_000).filter(|_| sessions.charge(&header(9, 1), true, AT).is_ok()).count();
        assert_eq!(opened, limits::BURST as usize);
        assert!(sessions.charge(&header(7, 1), true, AT).is_ok());
        assert!(sessions.charge(&header(9, 1), false, AT).is_ok());
        let later = AT + Duration::from_secs(1);
        let opened = (0..10_000).filter(|_| sessions.charge(&header(9, 1), true, later).is_ok()).count();
        assert_eq!(opened, limits::RATE as usize);
    }
}
