//! What happened lately: the last events as records with numbers, for whoever asks for them from some number on
//! and then goes on listening.
//!
//! It has a bound, by count and by bytes. A reader has no queue of its own: it reads from the ring at its own pace,
//! costs nothing while it waits, and is told how many records it missed when it was too slow or came too late.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flip_core::record::Record;
use tokio::sync::watch;

/// Records that are kept at most.
pub const RECORDS: usize = 4096;
/// Bytes that they take at most, themselves and their texts.
pub const BYTES: usize = 4 << 20;

/// What a reader is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// The next record. Numbers follow each other without a gap, unless [`Told::Lost`] came between.
    Record(Arc<Record>),
    /// Records were dropped before they were read.
    Lost {
        /// How many; none when the number to begin from is larger than any of this life: it is of an earlier
        /// one, and nobody knows what happened in between.
        records: Option<u64>,
    },
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Arc<Record>>,
    bytes: usize,
    /// The number of the newest; zero when there is none yet.
    newest: u64,
}

impl Ring {
    fn push(&mut self, record: Arc<Record>) {
        self.bytes += record.bytes();
        self.newest = record.seq;
        self.records.push_back(record);
        // The newest is kept whatever its size.
        while self.records.len() > RECORDS || self.bytes > BYTES && self.records.len() > 1 {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }

    /// The number of the oldest that is kept, or of the next.
    fn oldest(&self) -> u64 {
        self.newest + 1 - self.records.len() as u64
    }

    /// The record of this number.
    fn get(&self, seq: u64) -> Option<&Arc<Record>> {
        let at = seq.checked_sub(self.oldest())?;
        self.records.get(usize::try_from(at).ok()?)
    }
}

/// The writing end; the node's loop has it. When it is dropped, readers come to their end.
#[derive(Debug)]
pub(super) struct History {
    ring: Arc<Mutex<Ring>>,
    newest: watch::Sender<u64>,
}

/// The end that handles have: they make readers of it.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    ring: Arc<Mutex<Ring>>,
    newest: watch::Receiver<u64>,
}

/// Reads records from a number on, then those that come.
#[derive(Clone, Debug)]
pub struct Reader {
    shelf: Shelf,
    next: u64,
    /// It has not looked yet.
    fresh: bool,
}

/// An empty history.
pub(super) fn history() -> (History, Shelf) {
    let ring = Arc::new(Mutex::new(Ring::default()));
    let (newest, seen) = watch::channel(0);
    (History { ring: Arc::clone(&ring), newest }, Shelf { ring, newest: seen })
}

fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    // No code panics between two changes that belong together.
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    /// The number of the next record.
    pub(super) fn next(&self) -> u64 {
        lock(&self.ring).newest + 1
    }

    /// Keeps a record, whose number is [`History::next`].
    pub(super) fn push(&self, record: Record) {
        let seq = record.seq;
        lock(&self.ring).push(Arc::new(record));
        self.newest.send_replace(seq);
    }
}

impl Shelf {
    /// A reader that begins with number `from`; zero and one are the beginning of this life.
    pub(super) fn read(&self, from: u64) -> Reader {
        Reader { shelf: self.clone(), next: from.max(1), fresh: true }
    }

    /// The number of the newest record; zero before the first.
    pub(super) fn newest(&self) -> u64 {
        lock(&self.ring).newest
    }
}

impl Reader {
    /// What is there already, without waiting; none when nothing is left to be read now.
    pub fn ready(&mut self) -> Option<Told> {
        let ring = lock(&self.shelf.ring);
        let oldest = ring.oldest();
        if std::mem::take(&mut self.fresh) && self.next > ring.newest + 1 {
            self.next = oldest;
            return Some(Told::Lost { records: None });
        }
        if self.next < oldest {
            let records = Some(oldest - self.next);
            self.next = oldest;
            return Some(Told::Lost { records });
        }
        let record = Arc::clone(ring.get(self.next)?);
        self.next += 1;
        Some(Told::Record(record))
    }

    /// What comes next; none when the node has ended and everything was read. Cancel safe.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            // Seen before it is looked, so that what comes in between wakes it.
            let ended = self.shelf.newest.has_changed().is_err();
            self.shelf.newest.mark_unchanged();
            if let Some(told) = self.ready() {
                return Some(told);
            }
            if ended {
                return None;
            }
            // An end shows at the next look.
            let _ = self.shelf.newest.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use flip_core::config::{Overrides, Source, load};
    use flip_core::event::Event;

    use super::*;

    fn record(seq: u64, text: usize) -> Record {
        let text_of_config = r#"{"servers": {"a": {"ip": "127.0.0.1"}}, "cluster": {"system": {}}}"#;
        let source = Source { file: "test", text: text_of_config };
        let config = load(&source, &Overrides { id: Some("a"), ..Overrides::default() }).unwrap().config;
        let mut record = Record::new(&Event::QuorumSeen, &config, seq, 1);
        record.error = Some("x".repeat(text));
        record
    }

    fn seqs(reader: &mut Reader) -> Vec<u64> {
        std::iter::from_fn(|| reader.ready())
            .map(|told| match told {
                Told::Record(record) => record.seq,
                Told::Lost { .. } => panic!("nothing is lost"),
            })
            .collect()
    }

    #[test]
    fn readers_begin_where_they_say_and_go_on_without_a_gap() {
        let (history, shelf) = history();
        let mut early = shelf.read(0);
        assert_eq!(early.ready(), None);
        let one = record(1, 0);
        for seq in 1..=5 {
            assert_eq!(history.next(), seq);
            history.push(Record { seq, ..one.clone() });
        }
        assert_eq!(seqs(&mut early), [1, 2, 3, 4, 5]);
        assert_eq!(seqs(&mut shelf.read(4)), [4, 5]);
        let mut next = shelf.read(6);
        assert_eq!(next.ready(), None, "the next one is no number of another life");
        let mut other_life = shelf.read(7);
        assert_eq!(other_life.ready(), Some(Told::Lost { records: None }));
        assert_eq!(seqs(&mut other_life), [1, 2, 3, 4, 5]);
        history.push(Record { seq: 6, ..one });
        assert_eq!((seqs(&mut early), seqs(&mut next)), (vec![6], vec![6]));
    }

    #[test]
    fn memory_is_bounded_by_count_and_by_bytes_and_what_is_lost_is_counted() {
        let (history, shelf) = history();
        let mut slow = shelf.read(1);
        let one = record(1, 0);
        let many = RECORDS as u64 + 100;
        for seq in 1..=many {
            history.push(Record { seq, ..one.clone() });
        }
        let kept = |shelf: &Shelf| {
            let ring = lock(&shelf.ring);
            (ring.records.len(), ring.bytes)
        };
        let (count, bytes) = kept(&shelf);
        assert!(count == RECORDS && bytes <= BYTES, "{count} {bytes}");
        assert_eq!(slow.ready(), Some(Told::Lost { records: Some(many - count as u64) }));
        assert_eq!(seqs(&mut slow).len(), count);
        // What scripts say may be long.
        let long = record(1, 100_000);
        for seq in many + 1..=many + 200 {
            history.push(Record { seq, ..long.clone() });
            assert!(kept(&shelf).1 <= BYTES);
        }
        let (count, bytes) = kept(&shelf);
        assert!((35..42).contains(&count), "{count} of 100 kB each in {bytes} bytes");
        assert_eq!(lock(&shelf.ring).records.iter().map(|record| record.bytes()).sum::<usize>(), bytes);
        // One that is larger than all may be is kept for those who listen.
        history.push(Record { seq: many + 201, ..record(1, BYTES + 1) });
        assert_eq!((kept(&shelf).0, shelf.newest()), (1, many + 201));
        assert!(matches!(slow.ready(), Some(Told::Lost { records: Some(200) })));
    }

    #[test]
    fn who_waits_is_woken_by_the_next_and_by_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (history, shelf) = history();
            let mut reader = shelf.read(0);
            let one = record(1, 0);
            let waits = tokio::spawn(async move {
                let mut seen = Vec::new();
                while let Some(Told::Record(record)) = reader.next().await {
                    seen.push(record.seq);
                }
                seen
            });
            tokio::task::yield_now().await;
            history.push(one.clone());
            tokio::task::yield_now().await;
            history.push(Record { seq: 2, ..one.clone() });
            history.push(Record { seq: 3, ..one });
            drop(history);
            assert_eq!(waits.await.unwrap(), [1, 2, 3], "what was said last is read before the end");
        });
    }
}
