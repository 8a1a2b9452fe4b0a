//! The seal of a datagram or frame, wire version 1: 48 bytes of overhead.
//!
//! ```text
//!  0  u8   version = 0xF1
//!  1  u8   key id                first byte of blake3(cluster key): picks the key, nothing is tried
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
//!
//! The work on a datagram is ordered by what it costs, so that a flood of noise costs a comparison
//! each: [`Seals::header`] looks at length, version, tag and sender and allocates nothing; between it
//! and [`Seals::open`] the caller looks at its budget and at the replay window.

use std::collections::BTreeMap;
use std::sync::Arc;

#[cfg(not(feature = "harness"))]
use chacha20poly1305::XChaCha20Poly1305;
#[cfg(not(feature = "harness"))]
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XNonce};

use super::ring::{Ring, key_id};
use crate::config::{ClusterKey, Config};
use crate::event::Refusal;
use crate::id::ShortId;
#[cfg(feature = "harness")]
use crate::sim::cipher::Cipher as XChaCha20Poly1305;
use crate::translation::Translation;

/// The wire version that this release speaks.
pub const WIRE: u8 = 1;
/// The one after it, which does not exist outside tests: version byte and key derivation differ.
#[cfg(any(test, feature = "sim"))]
pub const NEXT_WIRE: u8 = 2;
/// The first byte of everything is this plus the wire version.
const VERSION_BASE: u8 = 0xF0;
/// Bytes before the ciphertext.
pub const HEADER: usize = 32;
/// Bytes that a seal adds to the plain text.
pub const OVERHEAD: usize = HEADER + TAG;
pub(super) const TAG: usize = 16;

/// Seals what this process sends and opens what others send.
pub struct Seals {
    config: Arc<Config>,
    ring: Ring,
    /// One for each key of the ring and each wire version that is spoken.
    keyed: Vec<Keyed>,
    /// The newest wire version that this node speaks and understands.
    newest: u8,
    session: u64,
    counter: u64,
}

struct Keyed {
    wire: u8,
    id: u8,
    tag: [u8; 4],
    key: ClusterKey,
    /// By server; made when first needed.
    ciphers: BTreeMap<usize, Cipher>,
}

/// What stands before the ciphertext, unproven until the seal is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Wire version.
    pub wire: u8,
    /// Id of the key.
    pub key: u8,
    /// Position of the sender in the config.
    pub server: usize,
    /// Random number of the sender's process.
    pub session: u64,
    /// Number of the packet in its session.
    pub counter: u64,
}

impl Seals {
    /// Seals for this node. `session` must be random and never used before.
    #[must_use]
    pub fn new(config: Arc<Config>, ring: Ring, session: u64) -> Self {
        let mut seals =
            Self { config, ring: ring.clone(), keyed: Vec::new(), newest: WIRE, session, counter: 0 };
        seals.set_ring(ring);
        seals
    }

    /// Goes on with another ring. Keys that are not in it open until [`Seals::retire`].
    pub fn set_ring(&mut self, ring: Ring) {
        let old = std::mem::take(&mut self.keyed);
        self.ring = ring;
        let wires = WIRE..=self.newest;
        self.keyed = wires
            .flat_map(|wire| self.ring.keys().iter().map(move |key| (wire, key)))
            .map(|(wire, key)| Keyed {
                wire,
                id: key_id(key),
                tag: tag(wire, key, &self.config.cluster_id),
                key: key.clone(),
                ciphers: BTreeMap::new(),
            })
            .collect();
        let ids: Vec<_> = self.ring.ids().collect();
        self.keyed.extend(old.into_iter().filter(|keyed| !ids.contains(&keyed.id)));
    }

    /// Goes on under another config of the same cluster.
    pub fn translate(&mut self, to: &Translation, config: Arc<Config>) {
        self.config = config;
        for keyed in &mut self.keyed {
            to.by_server(&mut keyed.ciphers);
        }
    }

    /// Keys that are not in the ring do not open any longer.
    pub fn retire(&mut self) {
        let ids: Vec<_> = self.ring.ids().collect();
        self.keyed.retain(|keyed| ids.contains(&keyed.id));
    }

    /// Speaks every wire version up to this one.
    #[cfg(any(test, feature = "sim"))]
    pub fn speak(&mut self, newest: u8) {
        self.newest = newest;
        self.set_ring(self.ring.clone());
    }

    /// The newest wire version that this node speaks.
    #[must_use]
    pub const fn newest(&self) -> u8 {
        self.newest
    }

    /// The ring.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The random number of this process.
    #[must_use]
    pub const fn session(&self) -> u64 {
        self.session
    }

    /// Seals `body` with the key `key`, or the ring's own when it has none of that id, in version `wire`,
    /// or its own newest; `random` must be fresh for every call.
    pub fn seal(&mut self, wire: u8, key: u8, body: &[u8], random: u64) -> Vec<u8> {
        self.counter += 1;
        let me = self.config.my().short;
        let (counter, session) = (self.counter, self.session);
        let position = self.keyed(wire, key);
        let keyed = &self.keyed[position];
        let mut out = Vec::with_capacity(body.len() + OVERHEAD);
        out.extend_from_slice(&[VERSION_BASE + keyed.wire, keyed.id]);
        out.extend_from_slice(&me.0.to_be_bytes());
        out.extend_from_slice(&keyed.tag);
        out.extend_from_slice(&session.to_be_bytes());
        out.extend_from_slice(&counter.to_be_bytes());
        out.extend_from_slice(&random.to_be_bytes());
        out.extend_from_slice(body);
        let at = self.config.me;
        let cipher = self.cipher(position, at);
        let (header, text) = out.split_at_mut(HEADER);
        let tag = cipher.seal(header, &nonce(header), text);
        out.extend_from_slice(&tag);
        out
    }

    /// Looks at what costs nothing: length (`shortest` to `longest` bytes), version, key and tag, sender.
    ///
    /// # Errors
    /// The reason of the refusal.
    pub fn header(&self, data: &[u8], shortest: usize, longest: usize) -> Result<Header, Refusal> {
        if data.len() < shortest.max(OVERHEAD) || data.len() > longest {
            return Err(Refusal::Length);
        }
        let wire = data[0].wrapping_sub(VERSION_BASE);
        if !(WIRE..=self.newest).contains(&wire) {
            return Err(Refusal::Version);
        }
        let known = |keyed: &Keyed| keyed.wire == wire && keyed.id == data[1] && keyed.tag == data[4..8];
        if !self.keyed.iter().any(known) {
            return Err(Refusal::Cluster);
        }
        let sender = ShortId(u16::from_be_bytes([data[2], data[3]]));
        let server = self.config.server_index(sender).ok_or(Refusal::Sender)?;
        Ok(Header { wire, key: data[1], server, session: be64(&data[8..16]), counter: be64(&data[16..24]) })
    }

    /// Opens a packet of which [`Seals::header`] returned `header` into `body`, which must be empty.
    ///
    /// # Errors
    /// When it was forged or damaged. What is in `body` then must not be used.
    pub fn open(&mut self, header: &Header, data: &[u8], body: &mut Vec<u8>) -> Result<(), Refusal> {
        let (head, rest) = data.split_at_checked(HEADER).ok_or(Refusal::Length)?;
        let (text, tag) = rest.split_at_checked(rest.len().wrapping_sub(TAG)).ok_or(Refusal::Length)?;
        let tag = tag.try_into().map_err(|_| Refusal::Length)?;
        body.extend_from_slice(text);
        let keyed = self.keyed(header.wire, header.key);
        self.cipher(keyed, header.server).open(head, &nonce(head), body, tag).map_err(|_| Refusal::Seal)
    }

    /// Position of the key of this id in this version; the ring's own in the oldest version where there is none.
    fn keyed(&self, wire: u8, key: u8) -> usize {
        let find = |wire, key| self.keyed.iter().position(|keyed| keyed.wire == wire && keyed.id == key);
        let active = self.ring.active();
        find(wire, key).or_else(|| find(wire, active)).or_else(|| find(WIRE, active)).unwrap_or(0)
    }

    fn cipher(&mut self, keyed: usize, server: usize) -> &Cipher {
        let (config, keyed) = (&self.config, &mut self.keyed[keyed]);
        let (wire, key) = (keyed.wire, &keyed.key);
        let fresh = || cipher(wire, key, &config.cluster_id, &config.servers[server].id);
        keyed.ciphers.entry(server).or_insert_with(fresh)
    }
}

fn cipher(wire: u8, key: &ClusterKey, cluster_id: &str, sender: &str) -> Cipher {
    let context = if wire == WIRE { "flip packet v1" } else { "flip packet v2, of tests alone" };
    Cipher::new(context, key, cluster_id, sender)
}

/// XChaCha20-Poly1305 under a key for one use and sender.
pub(super) struct Cipher(XChaCha20Poly1305);

impl Cipher {
    /// The key is derived for `context` from the cluster's, the cluster's id and the sender's.
    pub(super) fn new(context: &str, key: &ClusterKey, cluster_id: &str, sender: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&key.0);
        hasher.update(&(cluster_id.len() as u64).to_be_bytes());
        hasher.update(cluster_id.as_bytes());
        hasher.update(sender.as_bytes());
        let key: [u8; 32] = hasher.finalize().into();
        Self(XChaCha20Poly1305::new(&key.into()))
    }

    /// Seals `text` where it is, with what goes before it in the open, and gives the tag.
    pub(super) fn seal(&self, header: &[u8], nonce: &[u8; 24], text: &mut [u8]) -> [u8; TAG] {
        let nonce = XNonce::from(*nonce);
        let tag = self.0.encrypt_inout_detached(&nonce, header, text.into());
        tag.expect("a frame is far below the 256 GiB that the cipher allows").into()
    }

    /// Opens `text` where it is. What is in it after a failure must not be used.
    pub(super) fn open(
        &self,
        header: &[u8],
        nonce: &[u8; 24],
        text: &mut [u8],
        tag: [u8; TAG],
    ) -> Result<(), Forged> {
        let (nonce, tag) = (XNonce::from(*nonce), Tag::from(tag));
        self.0.decrypt_inout_detached(&nonce, header, text.into(), &tag).map_err(|_| Forged)
    }
}

/// The bytes are not what their sender sealed.
pub(super) struct Forged;

pub(super) fn tag(wire: u8, key: &ClusterKey, cluster_id: &str) -> [u8; 4] {
    let context = if wire == WIRE { "flip cluster tag v1" } else { "flip cluster tag v2, of tests alone" };
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(&key.0);
    hasher.update(cluster_id.as_bytes());
    let hash = hasher.finalize();
    let hash = hash.as_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn nonce(header: &[u8]) -> [u8; 24] {
    std::array::from_fn(|at| header[8 + at])
}

fn be64(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_be_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits, testing};

    fn seals(ids: &str, me: &str) -> Seals {
        let config = Arc::new(testing::config(ids, me));
        let ring = Ring::new(config.key.clone());
        Seals::new(config, ring, 7)
    }

    fn open(seals: &mut Seals, data: &[u8]) -> Result<(Header, Vec<u8>), Refusal> {
        let header = seals.header(data, OVERHEAD, limits::DATAGRAM)?;
        let mut body = Vec::new();
        seals.open(&header, data, &mut body).map(|()| (header, body))
    }

    fn packet(from: &mut Seals, body: &[u8]) -> Vec<u8> {
        let key = from.ring.active();
        from.seal(WIRE, key, body, 1)
    }

    #[test]
    fn what_a_sealed_is_opened_by_b() {
        let (mut a, mut b) = (seals("abc", "a"), seals("abc", "b"));
        let data = packet(&mut a, b"hello");
        assert_eq!(data.len(), 5 + OVERHEAD);
        let (header, body) = open(&mut b, &data).expect("opens");
        assert_eq!((header.server, header.session, header.counter, &body[..]), (0, 7, 1, &b"hello"[..]));
        assert_eq!(open(&mut b, &packet(&mut a, b"")).expect("opens").0.counter, 2);
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (mut a, mut b) = (seals("abc", "a"), seals("abc", "b"));
        let data = packet(&mut a, b"hello");
        for at in 0..data.len() {
            for bit in 0..8 {
                let mut forged = data.clone();
                forged[at] ^= 1 << bit;
                assert!(open(&mut b, &forged).is_err(), "byte {at} bit {bit}");
            }
        }
        for len in 0..data.len() {
            assert!(open(&mut b, &data[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn strangers_are_refused_before_the_cipher() {
        let data = packet(&mut seals("abc", "a"), b"hello");
        let mut other = testing::config("abc", "b");
        other.cluster_id = "other".into();
        let ring = Ring::new(other.key.clone());
        let mut other = Seals::new(Arc::new(other), ring, 7);
        assert_eq!(open(&mut other, &data).err(), Some(Refusal::Cluster));
        let mut stranger = seals("bcd", "b");
        assert_eq!(open(&mut stranger, &data).err(), Some(Refusal::Sender));
        assert_eq!(stranger.header(&data, OVERHEAD, 40).err(), Some(Refusal::Length));
        assert_eq!(stranger.header(&data, 60, 100).err(), Some(Refusal::Length));
        let mut old = data;
        old[0] = 0xF0;
        assert_eq!(open(&mut stranger, &old).err(), Some(Refusal::Version));
        old[0] = 0xF2;
        assert_eq!(open(&mut stranger, &old).err(), Some(Refusal::Version));
    }

    #[test]
    fn any_key_of_the_ring_opens() {
        let (mut a, mut b) = (seals("abc", "a"), seals("abc", "b"));
        let second = ClusterKey([9; 32]);
        let ring = a.ring.with(second.clone()).expect("room").using(key_id(&second)).expect("there");
        let old = packet(&mut a, b"old");
        a.set_ring(ring.clone());
        let new = packet(&mut a, b"new");
        assert_eq!(open(&mut b, &new).err(), Some(Refusal::Cluster));
        b.set_ring(ring.clone());
        assert_eq!(open(&mut b, &new).expect("opens").1, b"new");
        assert_eq!(open(&mut b, &old).expect("opens").1, b"old");
        b.set_ring(ring.without(ring.ids().next().expect("two")).expect("not in use"));
        assert_eq!(open(&mut b, &old).expect("still").1, b"old");
        b.retire();
        assert_eq!(open(&mut b, &old).err(), Some(Refusal::Cluster), "a removed key is dead");
    }

    #[test]
    fn the_next_version_is_understood_where_it_is_spoken() {
        let (mut a, mut b) = (seals("abc", "a"), seals("abc", "b"));
        a.speak(NEXT_WIRE);
        let key = a.ring.active();
        let data = a.seal(NEXT_WIRE, key, b"new", 1);
        assert_eq!(data[0], 0xF2);
        assert_eq!(open(&mut b, &data).err(), Some(Refusal::Version));
        b.speak(NEXT_WIRE);
        assert_eq!(open(&mut b, &data).expect("opens").1, b"new");
        assert_eq!(open(&mut b, &packet(&mut a, b"old")).expect("opens").1, b"old");
        let mut disguised = data;
        disguised[0] = 0xF1;
        assert!(open(&mut b, &disguised).is_err());
    }
}
