//! Deadlines by key: each key has at most one, the earliest is known at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::time::Time;
use crate::translation::rekey;

/// A set of deadlines.
#[derive(Debug)]
pub struct Timers<K> {
    /// All deadlines that there are, and some that were moved or forgotten since. The first is one that there is.
    by_time: BinaryHeap<Reverse<(Time, K)>>,
    by_key: BTreeMap<K, Time>,
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Self {
        Self { by_time: BinaryHeap::new(), by_key: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: K, at: Time) {
        let old = self.by_key.insert(key, at);
        if old == Some(at) {
            return;
        }
        self.by_time.push(Reverse((at, key)));
        if old.is_some() {
            self.tidy();
        }
    }

    /// Sets the deadline of `key` unless it has an earlier one.
    pub fn set_earlier(&mut self, key: K, at: Time) {
        if self.by_key.get(&key).is_none_or(|old| *old > at) {
            self.set(key, at);
        }
    }

    /// Forgets `key`.
    pub fn cancel(&mut self, key: K) {
        if self.by_key.remove(&key).is_some() {
            self.tidy();
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.by_time.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the earliest key that is due, with its deadline.
    pub fn pop_due(&mut self, now: Time) -> Option<(K, Time)> {
        let Reverse((at, key)) = *self.by_time.peek()?;
        if at > now {
            return None;
        }
        self.cancel(key);
        Some((key, at))
    }

    /// Gives all keys other names; what has none is forgotten.
    pub fn rename(&mut self, name: impl Fn(K) -> Option<K>) {
        rekey(&mut self.by_key, name);
        self.by_time = self.by_key.iter().map(|(key, at)| Reverse((*at, *key))).collect();
    }

    /// Whether `key` has a deadline.
    #[must_use]
    pub fn has(&self, key: &K) -> bool {
        self.by_key.contains_key(key)
    }

    /// Drops what is not true any more: in front at once, elsewhere when it is too much.
    fn tidy(&mut self) {
        let by_key = &self.by_key;
        while self.by_time.peek().is_some_and(|Reverse((at, key))| by_key.get(key) != Some(at)) {
            self.by_time.pop();
        }
        if self.by_time.len() > 64 + 4 * self.by_key.len() {
            self.by_time = self.by_key.iter().map(|(key, at)| Reverse((*at, *key))).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Against a model that looks at everything.
    #[test]
    fn always_the_earliest() {
        let (mut timers, mut model) = (Timers::default(), BTreeSet::<(Time, u8)>::new());
        let mut random = 1u64;
        for step in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (key, at) = ((random >> 33) as u8 % 9, Time::from_millis(random >> 50));
            match (random >> 45) % 8 {
                0..4 => {
                    timers.set(key, at);
                    model.retain(|(_, other)| *other != key);
                    model.insert((at, key));
                }
                4 => {
                    timers.set_earlier(key, at);
                    if !model.iter().any(|(old, other)| *other == key && *old <= at) {
                        model.retain(|(_, other)| *other != key);
                        model.insert((at, key));
                    }
                }
                5 => {
                    timers.cancel(key);
                    model.retain(|(_, other)| *other != key);
                }
                _ => {
                    let due = model.first().copied().filter(|(due, _)| *due <= at);
                    assert_eq!(timers.pop_due(at), due.map(|(at, key)| (key, at)), "step {step}");
                    if due.is_some() {
                        model.pop_first();
                    }
                }
            }
            assert_eq!(timers.next(), model.first().map(|(at, _)| *at), "step {step}");
            assert!(timers.by_time.len() <= 65 + 4 * timers.by_key.len());
        }
    }
}
