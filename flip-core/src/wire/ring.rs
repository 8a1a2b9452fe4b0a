//! The key ring: at most three keys, of which one seals. Every change makes a new version of the whole
//! ring, so that two rings can be compared and the newer one replaces the older.

use std::fmt;

use bincode::{Decode, Encode};

use crate::config::ClusterKey;
use crate::limits;
use crate::view::word;

/// The keys under which datagrams open, and the one that seals.
#[derive(Clone, PartialEq, Eq)]
pub struct Ring {
    version: u32,
    /// In the order in which they were added.
    keys: Vec<ClusterKey>,
    /// Their ids. These and the stamp are hashes, and asked for with every datagram.
    ids: Vec<u8>,
    /// Id of the key that seals.
    active: u8,
    stamp: Stamp,
}

/// Which ring: rings with equal stamps are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Stamp {
    /// Grows with every change; zero for a ring that only has the config's key.
    pub version: u32,
    /// Over the content: decides between two changes that were made at the same time.
    pub hash: u32,
}

/// Why a ring cannot be changed so. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// There are as many keys as there may be.
    Full,
    /// The key is there already.
    Present(u8),
    /// Another key has the same id, by chance one in 256.
    SameId(u8),
    /// No key has this id.
    Unknown(u8),
    /// The key that seals cannot be removed.
    InUse(u8),
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(
                f,
                "there are {} keys already, the most there may be; remove one with `flip key remove`",
                limits::KEYS
            ),
            Self::Present(id) => write!(f, "key {id:02x} is there already"),
            Self::SameId(id) => {
                write!(f, "another key has the id {id:02x} too, by chance; generate another one")
            }
            Self::Unknown(id) => write!(f, "there is no key {id:02x}; `flip key list` shows the keys"),
            Self::InUse(id) => write!(f, "key {id:02x} is in use; use another one first"),
        }
    }
}

impl std::error::Error for RingError {}

/// The id of a key: the byte of a header that picks it, so that nothing is tried.
#[must_use]
pub fn key_id(key: &ClusterKey) -> u8 {
    blake3::hash(&key.0).as_bytes()[0]
}

impl Ring {
    /// The ring of a node that knows nothing but its config.
    #[must_use]
    pub fn new(key: ClusterKey) -> Self {
        let active = key_id(&key);
        Self::build(0, vec![key], active)
    }

    fn build(version: u32, keys: Vec<ClusterKey>, active: u8) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("flip key ring v1");
        hasher.update(&[active]);
        for key in &keys {
            hasher.update(&key.0);
        }
        let stamp = Stamp { version, hash: (word(&hasher) >> 32) as u32 };
        let ids = keys.iter().map(key_id).collect();
        Self { version, keys, ids, active, stamp }
    }

    /// A ring from its parts, as they come from disk or from the wire; none when it is no ring: without
    /// keys, with too many, with two of one id, or without the one that seals.
    #[must_use]
    pub fn from_parts(version: u32, active: u8, keys: Vec<[u8; 32]>) -> Option<Self> {
        let keys: Vec<_> = keys.into_iter().map(ClusterKey).collect();
        let mut ids: Vec<_> = keys.iter().map(key_id).collect();
        let fits = (1..=limits::KEYS).contains(&keys.len()) && ids.contains(&active);
        ids.sort_unstable();
        ids.dedup();
        (fits && ids.len() == keys.len()).then(|| Self::build(version, keys, active))
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[ClusterKey] {
        &self.keys
    }

    /// Ids of the keys, in the order in which they were added.
    pub fn ids(&self) -> impl Iterator<Item = u8> {
        self.ids.iter().copied()
    }

    /// Id of the key that seals.
    #[must_use]
    pub const fn active(&self) -> u8 {
        self.active
    }

    /// Version and hash of the content.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    fn position(&self, id: u8) -> Option<usize> {
        self.ids().position(|key| key == id)
    }

    /// The ring with one more key.
    ///
    /// # Errors
    /// When it is full, or has this key or its id.
    pub fn with(&self, key: ClusterKey) -> Result<Self, RingError> {
        let id = key_id(&key);
        if let Some(at) = self.position(id) {
            return Err(if self.keys[at] == key { RingError::Present(id) } else { RingError::SameId(id) });
        }
        if self.keys.len() >= limits::KEYS {
            return Err(RingError::Full);
        }
        let mut keys = self.keys.clone();
        keys.push(key);
        Ok(self.next(keys, self.active))
    }

    /// The ring sealing with another of its keys.
    ///
    /// # Errors
    /// When it has no such key.
    pub fn using(&self, id: u8) -> Result<Self, RingError> {
        self.position(id).ok_or(RingError::Unknown(id))?;
        Ok(self.next(self.keys.clone(), id))
    }

    /// The ring without a key.
    ///
    /// # Errors
    /// When it has no such key, or seals with it.
    pub fn without(&self, id: u8) -> Result<Self, RingError> {
        let at = self.position(id).ok_or(RingError::Unknown(id))?;
        if id == self.active {
            return Err(RingError::InUse(id));
        }
        let mut keys = self.keys.clone();
        keys.remove(at);
        Ok(self.next(keys, self.active))
    }

    fn next(&self, keys: Vec<ClusterKey>, active: u8) -> Self {
        Self::build(self.version.saturating_add(1), keys, active)
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring v{} {:02x?}, {:02x} seals", self.version, self.ids().collect::<Vec<_>>(), self.active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey([byte; 32])
    }

    #[test]
    fn add_use_remove() {
        let first = Ring::new(key(1));
        let (a, b) = (key_id(&key(1)), key_id(&key(2)));
        let added = first.with(key(2)).expect("room");
        assert!(added.stamp() > first.stamp());
        assert_eq!(added.active(), a, "a new key seals nothing yet");
        assert_eq!(added.with(key(2)), Err(RingError::Present(b)));
        assert_eq!(added.without(a), Err(RingError::InUse(a)));
        assert_eq!(first.using(b), Err(RingError::Unknown(b)));
        let full = added.with(key(3)).expect("room");
        assert_eq!(full.with(key(4)), Err(RingError::Full));
        let used = added.using(b).expect("there");
        let last = used.without(a).expect("not in use");
        assert_eq!(last.ids().collect::<Vec<_>>(), [b]);
        assert_eq!(last.stamp().version, 3);
        assert_eq!(last.without(a), Err(RingError::Unknown(a)));
    }

    #[test]
    fn what_is_no_ring_is_refused() {
        let active = key_id(&key(1));
        assert!(Ring::from_parts(1, active, vec![[1; 32]]).is_some());
        assert!(Ring::from_parts(1, active, Vec::new()).is_none());
        assert!(Ring::from_parts(1, active, vec![[1; 32]; 2]).is_none());
        assert!(Ring::from_parts(1, active, vec![[2; 32]]).is_none());
        assert!(Ring::from_parts(1, active, (1..5).map(|n| [n; 32]).collect()).is_none());
    }
}
