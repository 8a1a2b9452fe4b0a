//! The seal of a datagram or frame, wire version 1: 48 bytes of overhead.
//!
//! ```text
//!  0  u8   version = 0xF1
//!  1  u8   key id                first byte of blake3(cluster key)
//!  2  u16  sender                short id of the sending server
//!  4  [4]  cluster tag           noise filter, compared before anything costs time
//!  8  u64  session               random at process start
//! 16  u64  counter               +1 per packet of this session
//! 24  u64  random                keeps the nonce unique if a machine's snapshot is run twice
//! 32  ...  ciphertext
//!  +16     Poly1305 tag          associated data = bytes 0..32
//! ```
//!
//! XChaCha20-Poly1305 with nonce = bytes 8..32 and one key per sender, so that a packet cannot be
//! passed off as another member's, nor carried into a cluster with another id.

use std::collections::BTreeMap;

#[cfg(not(feature = "harness"))]
use chacha20poly1305::XChaCha20Poly1305;
#[cfg(not(feature = "harness"))]
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XNonce};

use super::replay::Window;
use crate::config::Config;
use crate::event::Refusal;
use crate::id::ShortId;
use crate::limits;
#[cfg(feature = "harness")]
use crate::sim::cipher::Cipher as XChaCha20Poly1305;

/// The first byte of everything that this version sends.
pub const VERSION: u8 = 0xF1;
/// Bytes before the ciphertext.
pub const HEADER: usize = 32;
/// Bytes that a seal adds to the plain text.
pub const OVERHEAD: usize = HEADER + TAG;
const TAG: usize = 16;

/// Seals what this process sends.
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    prefix: [u8; 8],
    session: u64,
    counter: u64,
}

/// Opens what others send, and remembers what it has seen of each.
pub struct Opener {
    prefix: [u8; 8],
    me: ShortId,
    senders: BTreeMap<ShortId, Sender>,
}

struct Sender {
    cipher: XChaCha20Poly1305,
    /// Newest first.
    sessions: Vec<(u64, Window)>,
}

/// An opened datagram.
pub struct Opened {
    /// Who sealed it.
    pub sender: ShortId,
    /// True when it is the first of a session that was not known before.
    pub new_session: bool,
    /// The plain text.
    pub body: Vec<u8>,
}

impl Sealer {
    /// A sealer for this node. `session` must be random and never used before.
    #[must_use]
    pub fn new(config: &Config, session: u64) -> Self {
        let me = config.my();
        Self { cipher: cipher(config, &me.id), prefix: prefix(config, me.short), session, counter: 0 }
    }

    /// Seals `body`; `random` must be fresh for every call.
    pub fn seal(&mut self, body: &[u8], random: u64) -> Vec<u8> {
        self.counter += 1;
        let mut out = Vec::with_capacity(body.len() + OVERHEAD);
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(&self.session.to_be_bytes());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(&random.to_be_bytes());
        out.extend_from_slice(body);
        let (header, text) = out.split_at_mut(HEADER);
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce(header), header, text.into())
            .expect("a frame is far below the 256 GiB that the cipher allows");
        out.extend_from_slice(&tag);
        out
    }
}

impl Opener {
    /// An opener for all servers of the config.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let me = config.my().short;
        let senders = config
            .servers
            .iter()
            .map(|server| (server.short, Sender { cipher: cipher(config, &server.id), sessions: Vec::new() }))
            .collect();
        Self { prefix: prefix(config, me), me, senders }
    }

    /// Opens a datagram or frame of at most `limit` bytes. Cheap refusals come first, so that a
    /// flood of noise costs a comparison each.
    ///
    /// # Errors
    /// The reason of the refusal; nothing has changed then.
    pub fn open(&mut self, data: &[u8], limit: usize) -> Result<Opened, Refusal> {
        if data.len() < OVERHEAD || data.len() > limit {
            return Err(Refusal::Length);
        }
        if data[0] != VERSION {
            return Err(Refusal::Version);
        }
        if data[4..8] != self.prefix[4..8] || data[1] != self.prefix[1] {
            return Err(Refusal::Cluster);
        }
        let sender = ShortId(u16::from_be_bytes([data[2], data[3]]));
        let from = self.senders.get_mut(&sender).ok_or(Refusal::Sender)?;
        let session = be64(&data[8..16]);
        let counter = be64(&data[16..24]);
        let known = from.sessions.iter().position(|(id, _)| *id == session);
        if let Some(index) = known
            && !from.sessions[index].1.is_new(counter)
        {
            return Err(Refusal::Replay);
        }
        let (header, rest) = data.split_at(HEADER);
        let (text, tag) = rest.split_at(rest.len() - TAG);
        let tag = Tag::try_from(tag).map_err(|_| Refusal::Length)?;
        let mut body = text.to_vec();
        from.cipher
            .decrypt_inout_detached(&nonce(header), header, body.as_mut_slice().into(), &tag)
            .map_err(|_| Refusal::Seal)?;
        // This node never sends to itself: somebody else runs under its id, and knows the key.
        if sender == self.me {
            return Err(Refusal::OwnId);
        }
        let index = known.unwrap_or_else(|| {
            from.sessions.truncate(limits::SESSIONS - 1);
            from.sessions.insert(0, (session, Window::default()));
            0
        });
        from.sessions[index].1.mark(counter);
        Ok(Opened { sender, new_session: known.is_none(), body })
    }
}

fn cipher(config: &Config, sender: &str) -> XChaCha20Poly1305 {
    let mut hasher = blake3::Hasher::new_derive_key("flip packet v1");
    hasher.update(&config.key.0);
    hasher.update(&(config.cluster_id.len() as u64).to_be_bytes());
    hasher.update(config.cluster_id.as_bytes());
    hasher.update(sender.as_bytes());
    let key: [u8; 32] = hasher.finalize().into();
    XChaCha20Poly1305::new(&key.into())
}

fn prefix(config: &Config, sender: ShortId) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_derive_key("flip cluster tag v1");
    hasher.update(&config.key.0);
    hasher.update(config.cluster_id.as_bytes());
    let tag = hasher.finalize();
    let tag = tag.as_bytes();
    let id = sender.0.to_be_bytes();
    let key_id = blake3::hash(&config.key.0).as_bytes()[0];
    [VERSION, key_id, id[0], id[1], tag[0], tag[1], tag[2], tag[3]]
}

fn nonce(header: &[u8]) -> XNonce {
    let mut nonce = [0; 24];
    nonce.copy_from_slice(&header[8..32]);
    nonce.into()
}

fn be64(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_be_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn what_a_sealed_is_opened_by_b_once() {
        let (a, b) = (testing::config("abc", "a"), testing::config("abc", "b"));
        let mut sealer = Sealer::new(&a, 7);
        let mut opener = Opener::new(&b);
        let packet = sealer.seal(b"hello", 1);
        assert_eq!(packet.len(), 5 + OVERHEAD);
        let opened = opener.open(&packet, limits::DATAGRAM).expect("opens");
        assert_eq!(
            (opened.sender, &opened.body[..], opened.new_session),
            (ShortId::of("a"), &b"hello"[..], true)
        );
        assert_eq!(opener.open(&packet, limits::DATAGRAM).err(), Some(Refusal::Replay));
        assert!(!opener.open(&sealer.seal(b"x", 2), limits::DATAGRAM).expect("opens").new_session);
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (a, b) = (testing::config("abc", "a"), testing::config("abc", "b"));
        let packet = Sealer::new(&a, 7).seal(b"hello", 1);
        for at in 0..packet.len() {
            for bit in 0..8 {
                let mut forged = packet.clone();
                forged[at] ^= 1 << bit;
                assert!(Opener::new(&b).open(&forged, limits::DATAGRAM).is_err(), "byte {at} bit {bit}");
            }
        }
        for len in 0..packet.len() {
            assert!(Opener::new(&b).open(&packet[..len], limits::DATAGRAM).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn strangers_are_refused_before_the_cipher() {
        let a = testing::config("abc", "a");
        let mut b = testing::config("abc", "b");
        let packet = Sealer::new(&a, 7).seal(b"hello", 1);
        let mut own = Opener::new(&a);
        assert_eq!(own.open(&packet, limits::DATAGRAM).err(), Some(Refusal::OwnId));
        let mut forged = packet.clone();
        forged[40] ^= 1;
        assert_eq!(own.open(&forged, limits::DATAGRAM).err(), Some(Refusal::Seal), "an alarm needs the key");
        b.cluster_id = "other".into();
        assert_eq!(Opener::new(&b).open(&packet, limits::DATAGRAM).err(), Some(Refusal::Cluster));
        let mut stranger = Opener::new(&testing::config("bcd", "b"));
        assert_eq!(stranger.open(&packet, limits::DATAGRAM).err(), Some(Refusal::Sender));
        assert_eq!(stranger.open(&packet, 40).err(), Some(Refusal::Length));
        let mut old = packet;
        old[0] = 0xF0;
        assert_eq!(stranger.open(&old, limits::DATAGRAM).err(), Some(Refusal::Version));
    }
}
