//! The messages of flip. A sealed body is a sequence of `kind u8, len u16 (big-endian), bytes`;
//! unknown kinds are skipped by their length, so that a newer node can add some. Kinds from 32 up are the
//! wire's own: sessions, duplicates, keys.

use std::net::SocketAddr;

use bincode::{Decode, Encode};

use super::codec::{self, DecodeError};
use super::ring::Stamp;
use crate::catalog::{Brief, Entry, Key};
use crate::event::ItemState;
use crate::limits;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A datagram of the SWIM layer (foca's bytes in our encoding).
    Swim(Vec<u8>),
    /// Asks for a pong; also a greeting.
    Ping(Ping),
    /// The answer to a ping.
    Pong(Ping),
    /// One voter's first-hand statement.
    Ballot(Ballot),
    /// Asks voters to examine a member.
    Hint(About),
    /// A quorum of ballots.
    Verdict(Verdict),
    /// A verdict arrived.
    VerdictAck(About),
    /// The sender leaves.
    Leave(Leave),
    /// A goodbye arrived.
    LeaveAck(Leave),
    /// What the sender holds.
    Facts(Facts),
    /// Asks for the receiver's facts.
    FactsWanted,
    /// A digest of what the sender knows, to find differences.
    Digest(Digest),
    /// Everything that the sender knows; by stream only. Answered by the same when `answer` is set.
    State(State),
    /// Asks a voter to promise items to the sender.
    Claim(Claim),
    /// A voter's answer to a claim.
    Grant(Grant),
    /// Asks a voter to renew all its promises to the sender.
    Renew(Renew),
    /// A voter's answer to a renewal.
    Renewed(Renewed),
    /// Items are gone from the sender: its claims on them are over.
    Release(Release),
    /// What operators and hooks said of servers and items.
    Marks(Vec<Mark>),
    /// To a member that has returned: the recent verdicts on it, as in [`Known::flaps`].
    Flaps(Vec<(u64, u32)>),
    /// What a server's scripts said of it.
    Told(Told),
    /// Whose word of that kind the sender knows, in which version.
    Heard(Vec<Heard>),
    /// What a system of the sender says to its like.
    Aside(Aside),
    /// The sender's catalog in brief.
    Catalog(Brief),
    /// Entries of the catalog that the receiver is to store.
    Entries(Entries),
    /// Entries are on the sender's disk.
    Kept(Kept),
    /// A page of a catalog, or a question for it; by stream only.
    Exchange(Exchange),
    /// Asks a voter to accept that one server changes who votes.
    Propose(Propose),
    /// The answer to that.
    Accepted(Accepted),
    /// Proves that the sender's session is alive, and asks the receiver to do the same.
    Hello(Hello),
    /// The receiver is the second daemon under its id.
    Duplicate(Duplicate),
    /// Which keys the sender has.
    Keys(Keys),
    /// The ring of the sender, which is newer than what the receiver said it has.
    Ring(NewRing),
}

/// Challenge and proof. It is the only message of a session that the receiver has not seen prove itself
/// that counts, and a body that carries nothing else is the shortest there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// To be returned in `proof`; zero when the sender knows the receiver's session.
    pub challenge: [u8; 8],
    /// The receiver's challenge; zero when the sender has seen none.
    pub proof: [u8; 8],
    /// The newest wire version that the sender speaks.
    pub wire: u8,
}

/// The keys of a ring, by name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Keys {
    /// Which ring.
    pub stamp: Stamp,
    /// Ids of its keys.
    pub ids: Vec<u8>,
    /// Id of the key that seals.
    pub active: u8,
    /// Whether the sender wants to know the same of the receiver.
    pub want: bool,
}

/// A whole ring.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewRing {
    /// As in [`Stamp`].
    pub version: u32,
    /// Id of the key that seals.
    pub active: u8,
    /// The keys.
    pub keys: Vec<[u8; 32]>,
}

impl std::fmt::Debug for NewRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewRing v{} of {} keys", self.version, self.keys.len())
    }
}

impl Drop for NewRing {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.keys);
    }
}

/// The receiver's session is not the one that the sender knows alive under the receiver's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Duplicate {
    /// The receiver's session, chosen at random at its start: who says so has heard this very process.
    pub session: u64,
    /// For how long the sender knows the other one, in milliseconds.
    pub known_ms: u32,
    /// Where the other one is; none where the datagram would be longer than the one that it answers.
    pub other: Option<SocketAddr>,
}

/// A ping or a pong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ping {
    /// Chosen by the pinging node, echoed by the other.
    pub nonce: u32,
    /// Generation of the message's sender.
    pub generation: u64,
    /// Number of the sender's newest facts, to find out which were lost.
    pub facts: u32,
}

/// A statement that only its voter can make, about what it saw itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ballot {
    /// `Config::voters_hash` of the voter: ballots of another electorate do not count.
    pub electorate: u32,
    /// Generation of the voter.
    pub voter_generation: u64,
    /// Whom it is about.
    pub about: About,
    /// Grows with each ballot of this voter, so that a late one cannot undo a newer one.
    pub seq: u32,
    /// True for Down, false for Up.
    pub down: bool,
}

/// A member: short id and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct About {
    /// Short id of the server.
    pub id: u16,
    /// Its generation; zero when the sender never saw it.
    pub generation: u64,
}

/// A verdict with the ballots that made it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Verdict {
    /// As in [`Ballot`].
    pub electorate: u32,
    /// Who is down.
    pub about: About,
    /// Whose Down ballots: short id and generation of each voter.
    pub ballots: Vec<About>,
    /// Whether the receiver shall acknowledge.
    pub ack: bool,
}

/// A goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Leave {
    /// The generation that leaves.
    pub generation: u64,
}

/// The items that a member holds or is about to take or let go.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Facts {
    /// Generation of the member.
    pub generation: u64,
    /// Grows with each change within a generation.
    pub seq: u32,
    /// True when the sender is about to leave and waits for others to take its items.
    pub departing: bool,
    /// Every item that is not in standby; none when the list is too long for a datagram and must be
    /// fetched by stream.
    pub held: Option<Vec<Held>>,
}

/// One held item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Held {
    /// `ItemId`.
    pub item: u64,
    /// Position in [`STATES`], and what health checks say (`facts`).
    pub state: u8,
    /// Age of the state in milliseconds when this was sent.
    pub age_ms: u32,
}

/// The states that facts carry, in wire order.
pub const STATES: [ItemState; 5] =
    [ItemState::Acquiring, ItemState::Active, ItemState::Releasing, ItemState::Failing, ItemState::Unclean];

/// What a node knows, in brief.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Digest {
    /// Over generations, verdicts and goodbyes of all servers.
    pub members: u64,
    /// Over the facts of all members.
    pub facts: u64,
    /// `Config::voters_hash`.
    pub electorate: u32,
    /// `Config::content_hash`.
    pub content: u64,
    /// Over all marks.
    pub marks: u64,
}

/// Everything that a node knows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct State {
    /// True when the receiver shall answer with its own state.
    pub answer: bool,
    /// Generation of the sender.
    pub generation: u64,
    /// One entry for each server that the sender knows something about.
    pub members: Vec<Known>,
    /// The newest facts of each member.
    pub facts: Vec<(u16, Facts)>,
    /// All marks.
    pub marks: Vec<Mark>,
}

/// What a node knows of one server.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Known {
    /// Newest generation and the server.
    pub about: About,
    /// Whether the sender takes that generation for alive.
    pub up: bool,
    /// The newest verdict.
    pub verdict: Option<Verdict>,
    /// The newest generation that said goodbye; zero when none did.
    pub left: u64,
    /// The verdicts on it within the last ten minutes: generations and ages in seconds.
    pub flaps: Vec<(u64, u32)>,
}

/// A claim on items (rule R1). Times are the sender's own and only echoed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Claim {
    /// As in [`Ballot`]: voters of another electorate do not answer.
    pub electorate: u32,
    /// First half of the epochs.
    pub session: u64,
    /// When it was sent, in nanoseconds of the sender's clock.
    pub sent: u64,
    /// Length of the lease, ms.
    pub lease_ms: u32,
    /// The items and the second half of their epochs.
    pub items: Vec<(u64, u32)>,
}

/// A voter's answer (rule R2).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Grant {
    /// From the claim.
    pub session: u64,
    /// From the claim.
    pub sent: u64,
    /// What is promised, as in the claim.
    pub granted: Vec<(u64, u32)>,
    /// What is not, and after how many milliseconds it is worth asking again.
    pub refused: Vec<(u64, u32, u32)>,
}

/// A renewal of everything that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Renew {
    /// As in [`Claim`].
    pub electorate: u32,
    /// As in [`Claim`].
    pub session: u64,
    /// As in [`Claim`].
    pub sent: u64,
    /// As in [`Claim`].
    pub lease_ms: u32,
    /// Over the claims that the receiver has granted.
    pub digest: u64,
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Renewed {
    /// From the renewal.
    pub session: u64,
    /// From the renewal.
    pub sent: u64,
    /// False when the voter has promised something else than the digest names, or nothing: the claims
    /// are to be said again.
    pub done: bool,
}

/// Items that are gone (rule R8).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Release {
    /// First half of the epochs.
    pub session: u64,
    /// The items and the second half of their epochs.
    pub items: Vec<(u64, u32)>,
}

/// Something said of a server or of an item on it. The highest version wins; of equal ones the one that
/// is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Mark {
    /// Short id of the server.
    pub server: u16,
    /// The item that is unclean there; none: the server is drained.
    pub item: Option<u64>,
    /// Grows with each change.
    pub version: u32,
    /// Whether it holds.
    pub set: bool,
}

/// What the scripts of a server said of it. The whole of it, which replaces all before.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Told {
    /// The server, in which generation.
    pub about: About,
    /// Grows with each change within the generation.
    pub seq: u32,
    /// Names and short texts.
    pub facts: Vec<(String, String)>,
    /// Why it is not fit for items.
    pub inactive: Vec<String>,
}

/// Which [`Told`] is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Heard {
    /// The server, in which generation.
    pub about: About,
    /// From [`Told::seq`].
    pub seq: u32,
}

/// What a system of one node says to its like on another. The rules neither look into it nor depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Aside {
    /// What it is about; the systems know.
    pub topic: u8,
    /// At most [`limits::ASIDE`] bytes.
    pub data: Vec<u8>,
}

/// Entries that the receiver stores and acknowledges with [`Kept`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entries {
    /// The sender's number for them.
    pub push: u64,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// An acknowledgement of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Kept {
    /// From [`Entries::push`].
    pub push: u64,
    /// The largest counter that the sender of this has seen.
    pub count: u64,
    /// True when the sender of this knows something later of one of the keys, which counts.
    pub beaten: bool,
}

/// Somebody is about to change who votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Propose {
    /// `Config::voters_hash` before the change.
    pub electorate: u32,
    /// The sender's number for it.
    pub id: u64,
}

/// What a voter says to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Accepted {
    /// From [`Propose::id`].
    pub id: u64,
    /// Zero when it accepts; else why not: 1, it works with another electorate; 2, it has accepted another; 3, it has
    /// just started.
    pub refused: u8,
}

/// One step of a comparison of two catalogs, or entries that are too long for a datagram.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Exchange {
    /// The sender's catalog.
    pub brief: Brief,
    /// In a question, the sender's sums: what differs is wanted. Empty in an answer.
    pub sums: Vec<u64>,
    /// In a question, after which bucket and key to go on; in an answer, the same for the next question.
    pub after: Option<(u16, Option<Key>)>,
    /// The sender's file layer, where it has a higher version: that version and the text.
    pub file: Option<(u64, String)>,
    /// What differs, or what the receiver is to store.
    pub entries: Vec<Entry>,
    /// As in [`Entries::push`]; zero where nothing is to be acknowledged.
    pub push: u64,
}

impl Message {
    /// Appends this message to a body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let start = body.len();
        body.extend_from_slice(&[self.kind(), 0, 0]);
        match self {
            Self::Swim(bytes) => body.extend_from_slice(bytes),
            Self::Ping(m) | Self::Pong(m) => codec::encode(m, body),
            Self::Ballot(m) => codec::encode(m, body),
            Self::Hint(m) | Self::VerdictAck(m) => codec::encode(m, body),
            Self::Verdict(m) => codec::encode(m, body),
            Self::Leave(m) | Self::LeaveAck(m) => codec::encode(m, body),
            Self::Facts(m) => codec::encode(m, body),
            Self::FactsWanted => {}
            Self::Digest(m) => codec::encode(m, body),
            Self::State(m) => codec::encode(m, body),
            Self::Claim(m) => codec::encode(m, body),
            Self::Grant(m) => codec::encode(m, body),
            Self::Renew(m) => codec::encode(m, body),
            Self::Renewed(m) => codec::encode(m, body),
            Self::Release(m) => codec::encode(m, body),
            Self::Marks(m) => codec::encode(m, body),
            Self::Flaps(m) => codec::encode(m, body),
            Self::Told(m) => codec::encode(m, body),
            Self::Heard(m) => codec::encode(m, body),
            Self::Aside(m) => codec::encode(m, body),
            Self::Catalog(m) => codec::encode(m, body),
            Self::Entries(m) => codec::encode(m, body),
            Self::Kept(m) => codec::encode(m, body),
            Self::Exchange(m) => codec::encode(m, body),
            Self::Propose(m) => codec::encode(m, body),
            Self::Accepted(m) => codec::encode(m, body),
            Self::Hello(m) => codec::encode(m, body),
            Self::Duplicate(m) => codec::encode(m, body),
            Self::Keys(m) => codec::encode(m, body),
            Self::Ring(m) => codec::encode(m, body),
        }
        // A state or an exchange travels alone in a frame that carries its own length; a field that is too small
        // for it stays zero.
        let len = u16::try_from(body.len() - start - 3).unwrap_or(0);
        body[start + 1..start + 3].copy_from_slice(&len.to_be_bytes());
    }

    /// The number of its kind on the wire.
    pub(crate) const fn kind(&self) -> u8 {
        match self {
            Self::Swim(_) => 1,
            Self::Ping(_) => 2,
            Self::Pong(_) => 3,
            Self::Ballot(_) => 4,
            Self::Hint(_) => 5,
            Self::Verdict(_) => 6,
            Self::VerdictAck(_) => 7,
            Self::Leave(_) => 8,
            Self::LeaveAck(_) => 9,
            Self::Facts(_) => 10,
            Self::FactsWanted => 11,
            Self::Digest(_) => 12,
            Self::State(_) => 13,
            Self::Claim(_) => 14,
            Self::Grant(_) => 15,
            Self::Renew(_) => 16,
            Self::Renewed(_) => 17,
            Self::Release(_) => 18,
            Self::Marks(_) => 19,
            Self::Flaps(_) => 20,
            Self::Told(_) => 21,
            Self::Heard(_) => 22,
            Self::Aside(_) => 23,
            Self::Catalog(_) => 24,
            Self::Entries(_) => 25,
            Self::Kept(_) => 26,
            Self::Exchange(_) => 27,
            Self::Propose(_) => 28,
            Self::Accepted(_) => 29,
            Self::Hello(_) => 32,
            Self::Duplicate(_) => 33,
            Self::Keys(_) => 34,
            Self::Ring(_) => 35,
        }
    }
}

/// One more than the largest kind.
pub const KINDS: usize = 36;

/// The name of a kind, for people.
#[must_use]
pub const fn name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        1 => "swim",
        2 => "ping",
        3 => "pong",
        4 => "ballot",
        5 => "hint",
        6 => "verdict",
        7 => "verdict_ack",
        8 => "leave",
        9 => "leave_ack",
        10 => "facts",
        11 => "facts_wanted",
        12 => "digest",
        13 => "state",
        14 => "claim",
        15 => "grant",
        16 => "renew",
        17 => "renewed",
        18 => "release",
        19 => "marks",
        20 => "flaps",
        21 => "told",
        22 => "heard",
        23 => "aside",
        32 => "hello",
        33 => "duplicate",
        34 => "keys",
        35 => "ring",
        _ => return None,
    })
}

/// Kinds and lengths of the messages of a body that was understood, padding left out.
pub fn parts(mut body: &[u8]) -> impl Iterator<Item = (u8, usize)> {
    std::iter::from_fn(move || {
        loop {
            let (kind, content) = first(body)?;
            body = body.get(3 + content.len()..)?;
            if kind != PADDING {
                return Some((kind, 3 + content.len()));
            }
        }
    })
}

/// Bytes of a body that is a [`Hello`] alone.
pub const HELLO: usize = 3 + 8 + 8 + 1;

/// Lengthens a body to the shortest that is accepted, so that whoever asks has sent at least as much as
/// the challenge that answers.
pub fn pad(body: &mut Vec<u8>) {
    if body.len() < HELLO {
        let len = HELLO.saturating_sub(body.len() + 3);
        body.extend_from_slice(&[PADDING, 0, u8::try_from(len).unwrap_or(0)]);
        body.resize(body.len() + len, 0);
    }
}

/// The [`Hello`] at the start of a body.
#[must_use]
pub fn hello(body: &[u8]) -> Option<Hello> {
    match first(body)? {
        (32, content) => codec::decode(content).ok(),
        _ => None,
    }
}

/// The [`Duplicate`] at the start of a body.
#[must_use]
pub fn duplicate(body: &[u8]) -> Option<Duplicate> {
    match first(body)? {
        (33, content) => codec::decode(content).ok(),
        _ => None,
    }
}

/// Kind and content of the first message of a body.
fn first(body: &[u8]) -> Option<(u8, &[u8])> {
    let [kind, high, low, rest @ ..] = body else { return None };
    rest.get(..usize::from(u16::from_be_bytes([*high, *low]))).map(|content| (*kind, content))
}

/// What a body carries beside a [`Hello`] at its start.
#[must_use]
pub fn without_hello(body: &[u8]) -> &[u8] {
    match body {
        [32, 0, len, rest @ ..] => rest.get(usize::from(*len)..).unwrap_or_default(),
        _ => body,
    }
}

/// A kind that nobody knows, and that everybody skips therefore.
const PADDING: u8 = 0;

/// Splits a body into its messages. Either all of them are understood (or skipped by length), or none
/// is taken.
///
/// # Errors
/// When a length or a known kind's content does not fit.
pub fn decode_all(mut body: &[u8]) -> Result<Vec<Message>, DecodeError> {
    let mut messages = Vec::new();
    while let [kind, high, low, rest @ ..] = body {
        // A state or an exchange is the only message of its frame and may exceed the length field.
        let len = if matches!(*kind, 13 | 27) {
            rest.len()
        } else {
            usize::from(u16::from_be_bytes([*high, *low]))
        };
        let (content, after) = rest.split_at_checked(len).ok_or(DecodeError)?;
        body = after;
        messages.push(match kind {
            1 => Message::Swim(content.to_vec()),
            2 => Message::Ping(codec::decode(content)?),
            3 => Message::Pong(codec::decode(content)?),
            4 => Message::Ballot(codec::decode(content)?),
            5 => Message::Hint(codec::decode(content)?),
            6 => Message::Verdict(codec::decode(content)?),
            7 => Message::VerdictAck(codec::decode(content)?),
            8 => Message::Leave(codec::decode(content)?),
            9 => Message::LeaveAck(codec::decode(content)?),
            10 => Message::Facts(codec::decode(content)?),
            11 => Message::FactsWanted,
            12 => Message::Digest(codec::decode(content)?),
            13 => Message::State(codec::decode(content)?),
            14 => Message::Claim(codec::decode(content)?),
            15 => Message::Grant(codec::decode(content)?),
            16 => Message::Renew(codec::decode(content)?),
            17 => Message::Renewed(codec::decode(content)?),
            18 => Message::Release(codec::decode(content)?),
            19 => Message::Marks(codec::decode(content)?),
            20 => Message::Flaps(codec::decode(content)?),
            21 => Message::Told(codec::decode(content)?),
            22 => Message::Heard(codec::decode(content)?),
            23 => Message::Aside(codec::decode(content)?),
            24 => Message::Catalog(codec::decode(content)?),
            25 => Message::Entries(codec::decode(content)?),
            26 => Message::Kept(codec::decode(content)?),
            27 => Message::Exchange(codec::decode(content)?),
            28 => Message::Propose(codec::decode(content)?),
            29 => Message::Accepted(codec::decode(content)?),
            32 => Message::Hello(codec::decode(content)?),
            33 => Message::Duplicate(codec::decode(content)?),
            34 => Message::Keys(codec::decode(content)?),
            35 => Message::Ring(codec::decode(content)?),
            _ => continue,
        });
    }
    if body.is_empty() { Ok(messages) } else { Err(DecodeError) }
}

/// The longest list of held items that goes into one datagram.
#[must_use]
pub const fn facts_fit(held: usize) -> bool {
    held <= limits::FACTS_PER_DATAGRAM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_unknown_kinds() {
        let about = About { id: 7, generation: 1_763_000_000 };
        let all = vec![
            Message::Swim(vec![1, 2, 3]),
            Message::Ping(Ping { nonce: 5, generation: 9, facts: 0 }),
            Message::Pong(Ping { nonce: u32::MAX, generation: u64::MAX, facts: 3 }),
            Message::Ballot(Ballot { electorate: 1, voter_generation: 2, about, seq: 3, down: true }),
            Message::Hint(about),
            Message::Verdict(Verdict { electorate: 1, about, ballots: vec![about, about], ack: true }),
            Message::VerdictAck(about),
            Message::Leave(Leave { generation: 4 }),
            Message::LeaveAck(Leave { generation: 4 }),
            Message::Facts(Facts {
                generation: 1,
                seq: 2,
                departing: true,
                held: Some(vec![Held { item: 3, state: 1, age_ms: 9 }]),
            }),
            Message::FactsWanted,
            Message::Digest(Digest { members: 1, facts: 2, electorate: 3, content: 4, marks: 5 }),
            Message::Claim(Claim {
                electorate: 1,
                session: u64::MAX,
                sent: 3,
                lease_ms: 4000,
                items: vec![(u64::MAX, 1); limits::CLAIMS_PER_DATAGRAM],
            }),
            Message::Grant(Grant { session: 1, sent: 2, granted: vec![(3, 4)], refused: vec![(5, 6, 7)] }),
            Message::Renew(Renew { electorate: 1, session: 2, sent: 3, lease_ms: 4, digest: 5 }),
            Message::Renewed(Renewed { session: 1, sent: 2, done: true }),
            Message::Release(Release { session: 1, items: vec![(2, 3)] }),
            Message::Marks(vec![Mark { server: 1, item: Some(2), version: 3, set: true }]),
            Message::Flaps(vec![(1, 2)]),
            Message::Told(Told {
                about,
                seq: 1,
                facts: vec![("a".into(), "1".into())],
                inactive: vec!["b".into()],
            }),
            Message::Heard(vec![Heard { about, seq: 1 }; limits::HEARD]),
            Message::Aside(Aside { topic: 255, data: vec![7; limits::ASIDE] }),
            Message::Hello(Hello { challenge: [1; 8], proof: [0; 8], wire: 1 }),
            Message::Duplicate(Duplicate {
                session: 5,
                known_ms: 6,
                other: Some(([192, 0, 2, 1], 2200).into()),
            }),
            Message::Keys(Keys {
                stamp: Stamp { version: 1, hash: 2 },
                ids: vec![1, 2, 3],
                active: 2,
                want: true,
            }),
            Message::Ring(NewRing { version: 1, active: 2, keys: vec![[3; 32]; 3] }),
        ];
        let mut body = Vec::new();
        for message in &all {
            message.encode(&mut body);
        }
        assert_eq!(decode_all(&body), Ok(all.clone()));
        body.extend_from_slice(&[200, 0, 2, 9, 9]);
        assert_eq!(decode_all(&body), Ok(all), "an unknown kind is skipped");
        body.extend_from_slice(&[2, 0, 9, 1]);
        assert_eq!(decode_all(&body), Err(DecodeError), "a length beyond the end");
    }

    #[test]
    fn no_body_is_shorter_than_a_hello() {
        let mut hello = Vec::new();
        Message::Hello(Hello { challenge: [255; 8], proof: [255; 8], wire: 1 }).encode(&mut hello);
        assert_eq!(hello.len(), HELLO);
        for len in 0..40 {
            let mut body = Vec::new();
            if len >= 3 {
                Message::Swim(vec![7; len - 3]).encode(&mut body);
            }
            let before = decode_all(&body);
            pad(&mut body);
            assert!(body.len() >= HELLO);
            assert_eq!(decode_all(&body), before);
        }
    }

    #[test]
    fn damaged_bodies_never_panic() {
        let mut body = Vec::new();
        let about = About { id: 7, generation: 1_763_000_000 };
        Message::Verdict(Verdict { electorate: 1, about, ballots: vec![about; 31], ack: true })
            .encode(&mut body);
        Message::Facts(Facts { generation: 1, seq: 2, departing: false, held: None }).encode(&mut body);
        for at in 0..body.len() {
            for value in [0, 1, 0x7f, 0x80, 0xfb, 0xfc, 0xfd, 0xff] {
                let mut damaged = body.clone();
                damaged[at] = value;
                let _ = decode_all(&damaged);
            }
            let _ = decode_all(&body[..at]);
        }
        // A list that claims to be huge must not allocate for it.
        let huge = [10, 0, 14, 1, 1, 0, 1, 253, 255, 255, 255, 255, 255, 255, 255, 127, 0];
        assert_eq!(decode_all(&huge), Err(DecodeError));
    }
}
