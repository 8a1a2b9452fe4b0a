//! The catalog itself: layers that merge. Merging is commutative, associative and idempotent, so that servers
//! that have heard the same end with the same, in whatever order and however often they heard it.

use std::collections::BTreeMap;

use super::entry::{COUNT_MAX, Entry, Key, Record, Stamp};
use super::file::File;
use crate::limits;
use crate::planted::{Bug, planted};

/// Parts in which two catalogs are compared, so that only what differs travels.
pub const BUCKETS: usize = 1024;

/// Everything that a cluster consists of, as one server knows it.
#[derive(Clone, Debug)]
pub struct Catalog {
    file: File,
    /// By bucket, so that one bucket is read without the others.
    records: BTreeMap<(u16, Key), Record>,
    /// By bucket, the sum of the hashes of its records.
    sums: Vec<u64>,
    /// Nothing removed up to this counter needs to be remembered: every server knows it.
    floor: u64,
    /// The largest counter seen.
    count: u64,
    /// The largest counter of a record that nothing is left of but that it is over.
    over: u64,
    /// Nothing that somebody made is missing, but for what is on its way.
    complete: bool,
}

/// What became of a file layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileMerge {
    /// It is the one that is here.
    Same,
    /// It replaced the one that was here.
    Adopted,
    /// The one that is here has a higher version.
    Older,
    /// It has the same version and another content: nobody's wins.
    Conflict,
}

/// A catalog in brief.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Brief {
    /// Version of the file layer.
    pub version: u64,
    /// Hash of the file layer; zero when there is none.
    pub file: u64,
    /// Over all records.
    pub records: u64,
    /// As [`Catalog::floor`].
    pub floor: u64,
    /// As [`Catalog::is_complete`].
    pub complete: bool,
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new(File::default())
    }
}

impl Catalog {
    /// A catalog of which nobody has changed anything since this file was written.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self {
            file,
            records: BTreeMap::new(),
            sums: vec![0; BUCKETS],
            floor: 0,
            count: 0,
            over: 0,
            complete: false,
        }
    }

    /// The file layer.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Up to which counter removed keys are forgotten.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether this is known to be what others have, or had when this server heard of them last: what is not here of
    /// the time before the floor was removed then. One that begins with nothing is not before it was compared.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// It was found to be the same as another's, or found not to be what it seemed.
    pub fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
    }

    /// Records, removed keys among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nobody has changed anything since the file was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Up to which counter there is something to be forgotten once every server knows it; none when there is
    /// nothing.
    #[must_use]
    pub fn to_forget(&self) -> Option<u64> {
        Some(self.over).filter(|over| *over > self.floor)
    }

    /// Removed keys that are remembered.
    #[must_use]
    pub fn tombstones(&self) -> usize {
        self.records.values().filter(|record| self.has_ended(record)).count()
    }

    /// The stamp of what this server says next.
    #[must_use]
    pub const fn next_stamp(&self, writer: u16) -> Stamp {
        Stamp { count: self.count + 1, writer }
    }

    /// The largest counter seen.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// What is said of a key beside the file, whether it counts or not.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(&(bucket(key.hash()), key.clone()))
    }

    /// What counts of what is said beside the file: what is bound to another version does not.
    #[must_use]
    pub fn active(&self, key: &Key) -> Option<&Record> {
        self.get(key).filter(|record| self.counts(record))
    }

    fn counts(&self, record: &Record) -> bool {
        record.bound.is_none_or(|version| version == self.file.version)
    }

    /// All records, in an order of its own.
    pub fn records(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter().map(|((_, key), record)| (key, record))
    }

    /// Records of one bucket from `after` on.
    pub(crate) fn bucket_from<'c>(
        &'c self,
        bucket: u16,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'c Key, &'c Record)> + use<'c> {
        use std::ops::Bound;
        let from = match after {
            Some(key) => Bound::Excluded((bucket, key.clone())),
            // The least key of all.
            None => Bound::Included((bucket, Key::Cluster)),
        };
        let to = match bucket.checked_add(1) {
            Some(next) => Bound::Excluded((next, Key::Cluster)),
            None => Bound::Unbounded,
        };
        self.records.range((from, to)).map(|((_, key), record)| (key, record))
    }

    /// The sums by which two catalogs are compared.
    #[must_use]
    pub fn sums(&self) -> &[u64] {
        &self.sums
    }

    /// The catalog in brief.
    #[must_use]
    pub fn brief(&self) -> Brief {
        let mut hasher = blake3::Hasher::new_derive_key("flip catalog brief v1");
        for sum in &self.sums {
            hasher.update(&sum.to_be_bytes());
        }
        let bytes = hasher.finalize();
        let records = u64::from_be_bytes(std::array::from_fn(|at| bytes.as_bytes()[at]));
        let (version, file) = (self.file.version, self.file.hash);
        Brief { version, file, records, floor: self.floor, complete: self.complete }
    }

    /// Whether a record is one that could be here: small enough, and not from the end of all counting.
    #[must_use]
    pub fn is_sound((key, record): &Entry) -> bool {
        record.stamp.count > 0
            && record.stamp.count < COUNT_MAX
            && record.born.count <= record.stamp.count
            && key.len() <= limits::CATALOG_NAME
            && record.value.as_ref().is_none_or(|value| value.len() <= limits::CATALOG_ENTRY)
    }

    /// Whether merging a record would change anything.
    #[must_use]
    pub fn wants(&self, key: &Key, record: &Record) -> bool {
        if self.is_over(record) {
            return false;
        }
        let hash = key.hash();
        match self.records.get(&(bucket(hash), key.clone())) {
            // It was removed, and that is forgotten: an old message may still bring it.
            None => !self.complete || record.stamp.count > self.floor,
            Some(known) => record.beats(known, hash) || planted(Bug::StaleCatalogApplied) && record != known,
        }
    }

    /// Nothing of it counts any more, nor will: its key was removed, or it is bound to a version that a higher one
    /// has ended. It is kept all the same, for the servers that do not know that.
    fn has_ended(&self, record: &Record) -> bool {
        match record.bound {
            // What hides an entry of the file is not over before that file is.
            Some(version) => version < self.file.version,
            None => record.value.is_none(),
        }
    }

    fn is_over(&self, record: &Record) -> bool {
        record.stamp.count <= self.floor && self.has_ended(record)
    }

    /// Takes a record that another server, or this one, has made. False when what is here counts more.
    pub fn merge(&mut self, key: Key, record: Record) -> bool {
        self.count = self.count.max(record.stamp.count);
        if !self.wants(&key, &record) {
            return false;
        }
        self.put(key, Some(record));
        true
    }

    /// Takes a record that was stored with the floor of its time.
    pub(super) fn merge_stored(&mut self, key: Key, record: Record) {
        let complete = std::mem::replace(&mut self.complete, false);
        self.merge(key, record);
        self.complete = complete;
    }

    /// Puts a record in place whatever is there; none takes it away. Gives back what was there.
    pub(super) fn put(&mut self, key: Key, record: Option<Record>) -> Option<Record> {
        let hash = key.hash();
        let bucket = bucket(hash);
        let new = record.as_ref().map_or(0, |record| record.hash(hash));
        if let Some(record) = record.as_ref().filter(|record| self.has_ended(record)) {
            self.over = self.over.max(record.stamp.count);
        }
        let old = match record {
            Some(record) => self.records.insert((bucket, key), record),
            None => self.records.remove(&(bucket, key)),
        };
        let sum = &mut self.sums[usize::from(bucket)];
        *sum = sum.wrapping_add(new).wrapping_sub(old.as_ref().map_or(0, |old| old.hash(hash)));
        old
    }

    /// What trying something changes beside the records: what was counted and what is over.
    pub(crate) const fn counters(&self) -> (u64, u64) {
        (self.count, self.over)
    }

    /// Nothing of what was tried counts: what nobody has must not seem known to all.
    pub(crate) fn set_counters(&mut self, (count, over): (u64, u64)) {
        (self.count, self.over) = (count.max(self.floor), over);
    }

    /// Takes the file layer of another server, or of an own file.
    pub fn merge_file(&mut self, file: &File) -> FileMerge {
        match file.rank().cmp(&self.file.rank()) {
            std::cmp::Ordering::Less => FileMerge::Older,
            std::cmp::Ordering::Equal if file.hash == self.file.hash => FileMerge::Same,
            std::cmp::Ordering::Equal => FileMerge::Conflict,
            std::cmp::Ordering::Greater => {
                self.set_file(file.clone());
                FileMerge::Adopted
            }
        }
    }

    /// Replaces the file layer by that of an own file: of equal versions an operator's own counts here.
    pub fn set_file(&mut self, file: File) {
        self.file = file;
        let ended = self.records.values().filter(|record| self.has_ended(record));
        self.over = ended.map(|record| record.stamp.count).max().unwrap_or_default().max(self.over);
        self.drop_over();
    }

    /// Puts another file layer in place while something is tried: nothing is forgotten.
    pub(crate) fn exchange_file(&mut self, file: File) {
        self.file = file;
    }

    /// What a file layer of this version will end: changes of entries of the present one.
    #[must_use]
    pub fn ended_by(&self, version: u64) -> Vec<Key> {
        let ended = self
            .records()
            .filter(|(_, record)| record.bound == Some(self.file.version).filter(|now| *now < version));
        ended.map(|(key, _)| key.clone()).collect()
    }

    fn drop_over(&mut self) {
        let over: Vec<_> = self
            .records
            .iter()
            .filter(|(_, record)| self.is_over(record))
            .map(|(key, _)| key.1.clone())
            .collect();
        for key in over {
            self.put(key, None);
        }
    }

    /// Every server knows what was removed up to this counter: it is forgotten. It never goes back.
    pub fn raise_floor(&mut self, floor: u64) -> bool {
        if floor <= self.floor || floor >= COUNT_MAX {
            return false;
        }
        self.floor = floor;
        self.count = self.count.max(floor);
        self.drop_over();
        true
    }
}

/// The bucket of a key with this hash.
pub(crate) fn bucket(hash: u64) -> u16 {
    u16::try_from(hash % BUCKETS as u64).unwrap_or_default()
}
