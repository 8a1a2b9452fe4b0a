//! The one module that knows bincode (2.0.1: finished, unmaintained, pinned), and foca's codec over it.
//!
//! Everything decoded here has been authenticated before, is limited in size, and must be consumed to
//! its last byte.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};
use bytes::{Buf, BufMut};
use foca::{Header, Member, Message as Swim, State};

use crate::id::{Peer, ShortId};
use crate::limits;

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed message")
    }
}

impl std::error::Error for DecodeError {}

const CONFIG: Configuration<LittleEndian, Varint, Limit<{ limits::FRAME }>> =
    bincode::config::standard().with_limit::<{ limits::FRAME }>();

/// Appends the encoding of `value`.
pub fn encode(value: &impl Encode, out: &mut Vec<u8>) {
    bincode::encode_into_std_write(value, out, CONFIG)
        .expect("writing to memory within the limit cannot fail");
}

/// Decodes a value that fills `bytes` exactly.
///
/// # Errors
/// When it does not.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) = bincode::decode_from_slice(bytes, CONFIG).map_err(|_| DecodeError)?;
    if used == bytes.len() { Ok(value) } else { Err(DecodeError) }
}

/// What the gate needs to know of the verdicts, shared between the node and foca's codec.
///
/// foca owns its codec and gives no access to it, hence the lock; it is never contended.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Mutex<GateState>>);

#[derive(Debug, Default)]
struct GateState {
    /// Per server, the newest generation that a quorum declared down or that left.
    over: std::collections::BTreeMap<ShortId, u64>,
    /// Suspicions seen in updates since the node last looked.
    suspicions: Vec<Peer>,
}

impl Gate {
    /// Lets foca believe that `peer` is down.
    pub fn agree(&self, peer: Peer) {
        let mut state = self.lock();
        let over = state.over.entry(peer.id).or_default();
        *over = peer.generation.max(*over);
    }

    /// Takes the suspicions that were seen in updates.
    #[must_use]
    pub fn take_suspicions(&self) -> Vec<Peer> {
        std::mem::take(&mut self.lock().suspicions)
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, member: Wire) -> Member<Peer> {
        let peer = Peer { id: ShortId(member.id), generation: member.generation };
        let state = match member.state {
            0 => State::Alive,
            1 => State::Suspect,
            _ => State::Down,
        };
        if state == State::Alive {
            return Member::new(peer, member.incarnation, State::Alive);
        }
        let mut gate = self.lock();
        let agreed = gate.over.get(&peer.id).is_some_and(|over| peer.generation <= *over);
        if state == State::Down && agreed {
            return Member::new(peer, member.incarnation, State::Down);
        }
        // One accuser is not enough: a Down that no quorum agreed on counts as a suspicion.
        if gate.suspicions.len() < limits::ALL_VOTE {
            gate.suspicions.push(peer);
        }
        Member::new(peer, member.incarnation, State::Suspect)
    }
}

/// foca's codec: identities are a short id and a generation, integers are variable in length.
#[derive(Clone, Debug)]
pub struct Codec(pub Gate);

#[derive(Encode, Decode)]
struct Wire {
    id: u16,
    generation: u64,
    incarnation: u16,
    state: u8,
}

#[derive(Encode, Decode)]
struct WireHeader {
    src: (u16, u64),
    incarnation: u16,
    dst: (u16, u64),
    kind: u8,
    number: u8,
    other: Option<(u16, u64)>,
}

const fn pair(peer: &Peer) -> (u16, u64) {
    (peer.id.0, peer.generation)
}

const fn peer(pair: (u16, u64)) -> Peer {
    Peer { id: ShortId(pair.0), generation: pair.1 }
}

impl Codec {
    /// Writes a whole item or nothing, as foca demands.
    fn write(value: &impl Encode, mut buf: impl BufMut) -> Result<(), DecodeError> {
        let mut bytes = [0; 64];
        let len = bincode::encode_into_slice(value, &mut bytes, CONFIG).map_err(|_| DecodeError)?;
        if buf.remaining_mut() < len {
            return Err(DecodeError);
        }
        buf.put_slice(&bytes[..len]);
        Ok(())
    }

    fn read<T: Decode<()>>(mut buf: impl Buf) -> Result<T, DecodeError> {
        let (value, used) = bincode::decode_from_slice(buf.chunk(), CONFIG).map_err(|_| DecodeError)?;
        buf.advance(used);
        Ok(value)
    }
}

/// Who claims to have sent a SWIM datagram; the node checks it against the seal.
#[must_use]
pub fn swim_source(data: &[u8]) -> Option<Peer> {
    let (wire, _): (WireHeader, _) = bincode::decode_from_slice(data, CONFIG).ok()?;
    Some(peer(wire.src))
}

impl foca::Codec<Peer> for Codec {
    type Error = DecodeError;

    fn encode_header(&mut self, header: &Header<Peer>, buf: impl BufMut) -> Result<(), DecodeError> {
        let (kind, number, other) = match &header.message {
            Swim::Ping(number) => (0, *number, None),
            Swim::Ack(number) => (1, *number, None),
            Swim::PingReq { target, probe_number } => (2, *probe_number, Some(pair(target))),
            Swim::IndirectPing { origin, probe_number } => (3, *probe_number, Some(pair(origin))),
            Swim::IndirectAck { target, probe_number } => (4, *probe_number, Some(pair(target))),
            Swim::ForwardedAck { origin, probe_number } => (5, *probe_number, Some(pair(origin))),
            Swim::Announce => (6, 0, None),
            Swim::Feed => (7, 0, None),
            Swim::Gossip => (8, 0, None),
            Swim::Broadcast => (9, 0, None),
            // Never sent: the gate keeps foca from telling anybody that it is dead.
            Swim::TurnUndead => return Err(DecodeError),
        };
        let wire = WireHeader {
            src: pair(&header.src),
            incarnation: header.src_incarnation,
            dst: pair(&header.dst),
            kind,
            number,
            other,
        };
        Self::write(&wire, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Peer>, DecodeError> {
        let wire: WireHeader = Self::read(buf)?;
        let number = wire.number;
        let message = match (wire.kind, wire.other) {
            (0, None) => Swim::Ping(number),
            (1, None) => Swim::Ack(number),
            (2, Some(other)) => Swim::PingReq { target: peer(other), probe_number: number },
            (3, Some(other)) => Swim::IndirectPing { origin: peer(other), probe_number: number },
            (4, Some(other)) => Swim::IndirectAck { target: peer(other), probe_number: number },
            (5, Some(other)) => Swim::ForwardedAck { origin: peer(other), probe_number: number },
            (6, None) => Swim::Announce,
            (7, None) => Swim::Feed,
            (8, None) => Swim::Gossip,
            (9, None) => Swim::Broadcast,
            _ => return Err(DecodeError),
        };
        Ok(Header { src: peer(wire.src), src_incarnation: wire.incarnation, dst: peer(wire.dst), message })
    }

    fn encode_member(&mut self, member: &Member<Peer>, buf: impl BufMut) -> Result<(), DecodeError> {
        let state = match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        };
        let wire = Wire {
            id: member.id().id.0,
            generation: member.id().generation,
            incarnation: member.incarnation(),
            state,
        };
        Self::write(&wire, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Peer>, DecodeError> {
        Ok(self.0.pass(Self::read(buf)?))
    }
}
