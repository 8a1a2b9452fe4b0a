//! Named situations ("sometimes" assertions): a sweep of the simulator must reach each of them, and says
//! which it did not. What is never reached is not tested, however many seeds are run.
//!
//! `mark!("…")` costs nothing unless the feature `harness` is on. A name that is not in [`NAMES`] does not
//! compile.

/// Remembers that this situation was reached.
macro_rules! mark {
    ($name:literal) => {{
        #[cfg(feature = "harness")]
        {
            const MARK: usize = $crate::marks::position($name);
            $crate::marks::hit(MARK);
        }
    }};
}
#[allow(unused_imports, reason = "only some builds have all of its users")]
pub(crate) use mark;

#[cfg(feature = "harness")]
pub use harness::{NAMES, hit, position, take};

#[cfg(feature = "harness")]
mod harness {
    use std::cell::Cell;

    /// All situations.
    pub const NAMES: &[&str] = &[
        "abstained: no contact",
        "abstained: stalled",
        "abstained: witness silent",
        "adopt: a config was adopted",
        "adopt: a server is new",
        "adopt: an item goes",
        "adopt: other voters",
        "adopt: the own server is gone",
        "ballot: an old voter's Down came after its Up",
        "ballot: too soon after a stall to count",
        "case: closed by a pong",
        "case: opened by a ballot or hint",
        "case: opened by a failed probe",
        "case: opened by a suspicion",
        "case: opened by an unreachable port",
        "case: opened for a server never seen",
        "case: window stretched by loss",
        "catalog: a batch was refused",
        "catalog: a damaged one was set aside",
        "catalog: a file came from another",
        "catalog: a lost one came back from the others",
        "catalog: a torn append was left out",
        "catalog: all disks that had an edit were lost",
        "catalog: an edit was acknowledged",
        "catalog: an edit was acknowledged by one disk",
        "catalog: an edit was beaten",
        "catalog: an edit was not acknowledged in time",
        "catalog: an edit was refused where it was lost",
        "catalog: an older file was refused",
        "catalog: edits made no config together",
        "catalog: files of one version differ",
        "catalog: something was said again",
        "catalog: the disk was full",
        "catalog: what was removed was forgotten",
        "check: a result came after the next run began",
        "config: differs",
        "drained",
        "undrained",
        "duplicate id",
        "facts: asked for again",
        "generation: declared down and goes on",
        "hook: as many as may run",
        "hook: failed",
        "hook: failed three times",
        "keys: changed",
        "keys: changed from the first step to the last",
        "second daemon: refused",
        "wire: the next version is spoken",
        "wire: two that speak the next version speak the present one",
        "item: adopted",
        "item: drift repaired",
        "item: fail-back",
        "item: failing",
        "item: failover",
        "item: redefined",
        "item: removed",
        "item: home",
        "item: leave",
        "item: shutdown",
        "hook: ended early",
        "hook: post",
        "item: unclean",
        "item: marked unclean",
        "item: confirmed released",
        "item: taken in isolation",
        "item: given up with its lease",
        "item: drain",
        "item: given up without ground",
        "ground: lost",
        "ground: returning",
        "ground: usable again",
        "refused: session",
        "isolated",
        "lease: held",
        "lease: lost",
        "leave: gave up waiting for somebody",
        "member: came back as a new generation",
        "member: down",
        "member: left",
        "quorum: seen again",
        "reannounced",
        "refused: another cluster",
        "refused: damaged seal",
        "refused: length",
        "refused: malformed",
        "refused: replay",
        "refused: version",
        "refused: sender",
        "settle: placement waited for another case",
        "stalled",
        "state: exchanged by stream",
        "suspended",
        "swim: gossip told of a member",
        "verdict: acknowledged by all",
        "verdict: at the node it is about",
        "verdict: received from another",
        "view: a voice from a life that is over",
        "view: a voice from the past",
        "world: a datagram was damaged",
        "world: a lifetime came too late after the call",
        "world: a lifetime came too late before the call",
        "world: a refresh brought an address back (R6 a)",
        "world: an announcement did not reach a client",
        "world: cluster of one",
        "world: cluster of two",
        "world: cluster of more than nine",
        "world: a generation could not be stored",
        "world: disk lost its generation",
        "world: everybody is down",
        "world: frozen in the middle of a call",
        "world: half of the cluster on each side",
        "world: healed only a quorum",
        "world: no holder of an item",
        "world: the kernel removed an address by itself",
        "world: stopped between the clock and the kernel (X1)",
        "world: two holders of an item that is dropped, excused",
        "world: two holders of an item that is kept",
        "world: woke while frozen or dead",
    ];

    thread_local! {
        static REACHED: Cell<u128> = const { Cell::new(0) };
    }

    /// Position of a name in [`NAMES`].
    ///
    /// # Panics
    /// When it is not there, which in the constant of `mark!` is an error of compilation.
    #[must_use]
    pub const fn position(name: &str) -> usize {
        let mut at = 0;
        while at < NAMES.len() {
            if equal(NAMES[at].as_bytes(), name.as_bytes()) {
                return at;
            }
            at += 1;
        }
        panic!("this mark is not in NAMES")
    }

    const fn equal(a: &[u8], b: &[u8]) -> bool {
        if a.len() != b.len() {
            return false;
        }
        let mut at = 0;
        while at < a.len() {
            if a[at] != b[at] {
                return false;
            }
            at += 1;
        }
        true
    }

    /// Remembers a mark.
    pub fn hit(mark: usize) {
        REACHED.set(REACHED.get() | 1 << mark);
    }

    /// What this thread reached since the last call, one bit per name.
    #[must_use]
    pub fn take() -> u128 {
        REACHED.take()
    }

    const _: () = assert!(NAMES.len() <= 128);
}
