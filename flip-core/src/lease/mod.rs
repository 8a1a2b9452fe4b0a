//! Item leases: a majority's grants to hold an item until a time (rules R1 to R10 of the guarantees).
//!
//! ```text
//!  holder                          voter
//!    │ Claim {epoch, sent}  ─────▶  │  promises the item until its own now + L(1+δ)   R2
//!    │ ◀───────── Grant {sent}      │  unless it promised it to another
//!    │ may hold it until sent + L, by the q-th largest of these                       R3
//!    │ Renew {digest, sent} ─────▶  │  all items of the digest at once
//!    │ Release {epoch}      ─────▶  │  only after the item is gone                     R8
//! ```
//!
//! After Gray and Cheriton, "Leases" (1989), granted by a quorum instead of one server. Verdict = who
//! should hold an item, lease = who may: nothing here knows who is up.

mod holder;
mod voter;

use std::time::Duration;

pub use holder::{Answer, Holder};
pub use voter::{Decision, Voter};

use crate::config::Config;
use crate::id::{ItemId, ItemRef};
use crate::io::Lifetime;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::view::word;

/// How far a clock may run from real time, in either direction (assumption A1).
const DRIFT: f64 = 0.01;
/// δ: how much longer than the holder counts a voter keeps its promise, so that both clocks may be off
/// by [`DRIFT`].
const MARGIN: f64 = 2.0 * DRIFT / (1.0 - DRIFT);
/// Λ: how late the kernel removes an address at most (assumption A2, measured).
pub const KERNEL_LATENESS: Duration = Duration::from_millis(1250);
/// Time that is left for the way from the decision to the system call.
const SLACK: Duration = Duration::from_millis(100);

/// Number of one claim on one item: of a process, which is random, and within it. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    /// Random at the start of the process that claims.
    pub session: u64,
    /// Grows with each claim of that process.
    pub counter: u32,
}

impl Epoch {
    /// What this claim on `item` adds to the digest of a set of claims.
    fn digest(self, item: ItemId) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("flip lease v1");
        hasher.update(&item.0.to_be_bytes());
        hasher.update(&self.session.to_be_bytes());
        hasher.update(&self.counter.to_be_bytes());
        word(&hasher)
    }
}

/// How long a voter keeps a promise: L(1+δ) by its own clock.
#[must_use]
pub fn promise(lease: Duration) -> Duration {
    lease.mul_f64(if planted(Bug::NoDriftMargin) { 1.0 } else { 1.0 + MARGIN })
}

/// How long a voter that has just started promises nothing, because it may have forgotten promises of
/// its earlier life (R4).
#[must_use]
pub fn quarantine(lease: Duration) -> Duration {
    promise(lease) + Duration::from_secs(1)
}

/// The longest lifetime that a kernel may give an address now, such that it is gone when the lease ends
/// at `deadline`, however late the kernel is (R5). None when not even a second fits.
#[must_use]
pub fn lifetime(deadline: Time, now: Time) -> Option<Lifetime> {
    let late = if planted(Bug::KernelLatenessIgnored) { Duration::ZERO } else { KERNEL_LATENESS };
    let fits = deadline.since(now).checked_sub(late + SLACK)?;
    let seconds = u32::try_from(fits.as_secs()).unwrap_or(Lifetime::FOREVER - 1);
    if seconds == 0 {
        return None;
    }
    let latest = deadline - Duration::from_secs(u64::from(seconds)) - late;
    Some(Lifetime { seconds, latest: Some(latest) })
}

/// The same lifetime for whoever gives it later than was thought, because the hook had to ask or to wait: it ends no
/// later, and is as many whole seconds shorter as it takes. What is left of one that has no second to spare may still
/// be too late.
#[must_use]
pub fn later(given: Lifetime, now: Time) -> Lifetime {
    let Lifetime { seconds, latest: Some(latest) } = given else { return given };
    let missing = (now + SLACK).since(latest);
    let whole = u32::try_from(missing.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
    let less = whole.min(seconds.saturating_sub(1));
    Lifetime { seconds: seconds - less, latest: Some(latest + Duration::from_secs(less.into())) }
}

/// All items of a config in one row, so that tables about them are vectors.
#[derive(Clone, Debug)]
pub struct Row {
    ids: Vec<ItemId>,
    starts: Vec<usize>,
    by_id: std::collections::BTreeMap<ItemId, usize>,
}

impl Row {
    /// The items of `config`, in listed order.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut ids = Vec::new();
        let mut starts = Vec::new();
        for system in &config.systems {
            starts.push(ids.len());
            ids.extend(system.items.iter().map(|item| item.id));
        }
        let by_id = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        Self { ids, starts, by_id }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Position of an item.
    #[must_use]
    pub fn at(&self, item: ItemRef) -> usize {
        self.starts[item.system] + item.item
    }

    /// The item at a position.
    #[must_use]
    pub fn item(&self, at: usize) -> ItemRef {
        let system = self.starts.partition_point(|start| *start <= at) - 1;
        ItemRef { system, item: at - self.starts[system] }
    }

    /// Position of the item with this id.
    #[must_use]
    pub fn find(&self, id: ItemId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self, at: usize) -> ItemId {
        self.ids[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn an_address_never_outlives_its_lease() {
        for millis in 0..8000 {
            let (now, left) = (Time::from_millis(5000), Duration::from_millis(millis));
            let deadline = now + left;
            let Some(given) = lifetime(deadline, now) else {
                assert!(left < 2 * S + KERNEL_LATENESS, "{left:?} is enough for a second");
                continue;
            };
            let latest = given.latest.expect("a lease has an end");
            assert!(given.seconds >= 1 && latest >= now + SLACK, "{left:?}: {given:?}");
            assert!(latest + S * given.seconds + KERNEL_LATENESS <= deadline, "{left:?}: {given:?}");
        }
        assert_eq!(lifetime(Time::ZERO + 4 * S, Time::ZERO).map(|given| given.seconds), Some(2));
        assert_eq!(lifetime(Time::ZERO + 3 * S, Time::ZERO).map(|given| given.seconds), Some(1));
    }

    /// A hook that took long gives less, and the end stays what it was.
    #[test]
    fn whoever_gives_it_later_gives_less() {
        let start = Time::from_millis(5000);
        let end = |given: Lifetime| given.latest.expect("an end") + S * given.seconds;
        let given = lifetime(start + 6 * S, start).expect("enough");
        assert_eq!(given.seconds, 4);
        for millis in 0..8000 {
            let now = start + Duration::from_millis(millis);
            let less = later(given, now);
            assert_eq!(end(less), end(given), "after {millis} ms");
            let in_time = less.latest.is_some_and(|latest| latest >= now + SLACK);
            assert!(in_time || less.seconds == 1, "after {millis} ms: {less:?}");
            // It is as long as it may be.
            assert!(less == given || less.latest.is_some_and(|latest| latest < now + SLACK + S), "{millis}");
        }
        assert_eq!(later(Lifetime::ENDLESS, start), Lifetime::ENDLESS);
    }

    /// Lemma 1 and 2: a holder with a clock that is as slow, and a voter with one that is as fast, as
    /// they may be.
    #[test]
    fn the_margin_covers_both_clocks() {
        let lease = 4.0;
        let holder_counts = lease / (1.0 - DRIFT);
        let voter_waits = promise(4 * S).as_secs_f64() / (1.0 + DRIFT);
        assert!(voter_waits >= holder_counts - 1e-9, "{voter_waits} {holder_counts}");
    }

    #[test]
    fn a_row_finds_its_items() {
        let mut config = crate::testing::config("ab", "a");
        config.systems.push(config.systems[0].clone());
        config.systems[0].items = crate::testing::items(3);
        config.systems.push(config.systems[0].clone());
        config.systems[2].items =
            vec![crate::config::Item { id: ItemId(77), ..crate::config::Item::plain("test", "z") }];
        let row = Row::new(&config);
        assert_eq!(row.len(), 4);
        for at in 0..row.len() {
            assert_eq!(row.at(row.item(at)), at);
            assert_eq!(row.find(row.id(at)), Some(at));
        }
        assert_eq!(row.item(3), ItemRef { system: 2, item: 0 });
        assert_eq!(row.find(ItemId(1)), None);
    }
}
