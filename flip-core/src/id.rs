//! Names on the wire: short, derived, and checked for collisions when the config is read.

use std::fmt;

/// The short form of a server's id: 16 bits of a hash of the id.
///
/// Positions in the config shift when servers are added, hashes do not. Two servers with the same
/// short id are an error of the config.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(pub u16);

impl ShortId {
    /// The short id of a server id.
    #[must_use]
    pub fn of(id: &str) -> Self {
        let hash = blake3::derive_key("flip server id v1", id.as_bytes());
        Self(u16::from_be_bytes([hash[0], hash[1]]))
    }
}

impl fmt::Debug for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

/// An item of a system as the cluster names it: a hash of the system's and the item's name, the
/// same on every node whatever the order of its config.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub u64);

impl ItemId {
    /// The id of `item` of `system`.
    #[must_use]
    pub fn of(system: &str, item: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("flip item id v1");
        hasher.update(&(system.len() as u64).to_be_bytes());
        hasher.update(system.as_bytes());
        hasher.update(item.as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_be_bytes(bytes))
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A member: a server in one life of its daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Which server.
    pub id: ShortId,
    /// Which life: grows at every start of the daemon. Zero means "never seen alive".
    pub generation: u64,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.id, self.generation)
    }
}

/// Where a check stands in the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckRef {
    /// Index into `Config::systems`.
    pub system: usize,
    /// Index into `System::items`; none for a check of the whole system.
    pub item: Option<usize>,
    /// Index into the `checks` of the item or the system.
    pub check: usize,
}

/// Where an item stands in the config: the system's and the item's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemRef {
    /// Index into `Config::systems`.
    pub system: usize,
    /// Index into `System::items`.
    pub item: usize,
}
