//! What a catalog is made of: keys, stamped records, and which of two wins.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Key {
    /// All settings of the whole cluster.
    Cluster,
    /// One server.
    Server(String),
    /// One system, without its items.
    System(String),
    /// One item: its system's name and its own.
    Item(String, String),
    /// The id of the server that is an item's home, where that is not where it would be dealt to.
    Home(String, String),
}

impl Key {
    /// What speaks for this key where catalogs are compared: the same on every server.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("flip catalog key v1");
        let (kind, first, second): (u8, &str, &str) = match self {
            Self::Cluster => (0, "", ""),
            Self::Server(id) => (1, id, ""),
            Self::System(name) => (2, name, ""),
            Self::Item(system, item) => (3, system, item),
            Self::Home(system, item) => (4, system, item),
        };
        hasher.update(&[kind]);
        hasher.update(&(first.len() as u64).to_be_bytes());
        hasher.update(first.as_bytes());
        hasher.update(second.as_bytes());
        word(&hasher)
    }

    /// Bytes of its names.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Cluster => 0,
            Self::Server(name) | Self::System(name) => name.len(),
            Self::Item(system, item) | Self::Home(system, item) => system.len() + item.len(),
        }
    }

    /// Whether it has no names: the settings of the cluster.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// As messages name it: `item ip/10.0.0.9`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Server(id) => write!(f, "server {id}"),
            Self::System(name) => write!(f, "system {name}"),
            Self::Item(system, item) => write!(f, "item {system}/{item}"),
            Self::Home(system, item) => write!(f, "home of {system}/{item}"),
        }
    }
}

/// When something was said, by whom: a counter that is larger than all that its writer had seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Stamp {
    /// The counter (Lamport 1978).
    pub count: u64,
    /// Short id of the server that said it.
    pub writer: u16,
}

/// The largest counter that is believed: it leaves room to count on.
pub const COUNT_MAX: u64 = 1 << 62;

/// What is said of a key. Of two records of one key the one with the later stamp counts; of equal stamps, which
/// only a server that lost its memory can make, the one with the larger hash.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    /// JSON; none: it was removed.
    pub value: Option<Arc<str>>,
    /// When this was said.
    pub stamp: Stamp,
    /// When the key was added that this is about: what was added later is listed later.
    pub born: Stamp,
    /// The version of the config file whose entry this replaces or hides; none for what no file has. What is
    /// bound to a version ends with it.
    pub bound: Option<u64>,
}

impl Record {
    /// What speaks for this record where catalogs are compared.
    #[must_use]
    pub fn hash(&self, key: u64) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("flip catalog record v1");
        hasher.update(&key.to_be_bytes());
        for stamp in [self.stamp, self.born] {
            hasher.update(&stamp.count.to_be_bytes());
            hasher.update(&stamp.writer.to_be_bytes());
        }
        hasher.update(&[u8::from(self.bound.is_some())]);
        hasher.update(&self.bound.unwrap_or_default().to_be_bytes());
        hasher.update(&[u8::from(self.value.is_some())]);
        hasher.update(self.value.as_deref().unwrap_or_default().as_bytes());
        word(&hasher)
    }

    /// True when this one counts, and not `other`, which is said of the same key.
    #[must_use]
    pub fn beats(&self, other: &Self, key: u64) -> bool {
        (self.stamp, self.hash(key)) > (other.stamp, other.hash(key))
    }
}

/// A key and what is said of it, as it is stored and travels.
pub type Entry = (Key, Record);

fn word(hasher: &blake3::Hasher) -> u64 {
    let bytes = hasher.finalize();
    u64::from_be_bytes(std::array::from_fn(|at| bytes.as_bytes()[at]))
}
