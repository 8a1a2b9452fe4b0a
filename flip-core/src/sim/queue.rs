//! What happens next: ordered by time, then by the order of being planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Time;

/// The queue of the world. Only keys move about in the heap, what happens stays in its slot.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Time, order of being planned, slot.
    heap: BinaryHeap<Reverse<(Time, u64, u32)>>,
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    sequence: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::with_capacity(256), slots: Vec::new(), free: Vec::new(), sequence: 0 }
    }
}

impl<T> Queue<T> {
    pub(super) fn push(&mut self, at: Time, what: T) {
        self.sequence += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than four billion happenings wait")
        });
        self.slots[slot as usize] = Some(what);
        self.heap.push(Reverse((at, self.sequence, slot)));
    }

    /// The next happening, if it is due at `until` or before.
    pub(super) fn pop(&mut self, until: Time) -> Option<(Time, T)> {
        if self.heap.peek()?.0.0 > until {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.slots[slot as usize].take().map(|what| (at, what))
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_then_by_order() {
        let mut queue = Queue::default();
        for (at, what) in [(3, 'a'), (1, 'b'), (3, 'c'), (2, 'd'), (1, 'e')] {
            queue.push(Time::from_millis(at), what);
        }
        let mut order = String::new();
        while let Some((_, what)) = queue.pop(Time::from_millis(2)) {
            order.push(what);
        }
        assert_eq!((order.as_str(), queue.len()), ("bed", 2));
        order.clear();
        while let Some((_, what)) = queue.pop(Time::from_millis(9)) {
            order.push(what);
        }
        assert_eq!(order, "ac");
    }
}
