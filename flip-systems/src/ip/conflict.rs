//! Two hosts, one address: what to do about a host that is no member (RFC 5227, RFC 4862 §5.4).
//!
//! ```text
//!          asked                  the wait is over, nobody answered              bound
//!  Idle ───────────▶ Probing ─────────────────────────────────────────▶ Idle ─────────▶ Held ──▶ let go: Idle
//!                       │                                                               │
//!                       │ a foreign host uses it, or asks for it too                    │ a foreign host uses it
//!                       ▼                                                               ▼
//!                  Taken: the hook fails, and says by whom        defend: announce, at most once in 10 s
//!                                                                 release: give the item up
//! ```
//!
//! In an overlapping move the present holder answers, as it should. So it matters whose answer it is: members
//! tell each other their hardware addresses ([`Members`]). Where a member has not told them yet, an unknown host
//! may be that one: it is asked for them, and counts for nothing until it is known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flip_core::Time;

use super::neighbour::What;
use crate::interfaces::Mac;

/// RFC 5227 §2.4: how far apart two defences are at least, so that two hosts which both defend an address do not
/// flood the network.
pub(super) const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// How far apart two words about a conflict for which an item is given up are at least.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// For how long after the start an unknown host may be a member that has not told its hardware addresses. Whoever
/// was not heard by then has no daemon, and no address that one left behind either (`on_daemon_death`).
const GRACE: Duration = Duration::from_secs(60);

/// What to do about a foreign host while the address is held: `conflict` in the config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Policy {
    /// Announce again (RFC 5227 §2.4 (c)).
    #[default]
    Defend,
    /// Give the address up at once (RFC 5227 §2.4 (a)).
    Release,
}

/// Whose hardware address one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// This host's.
    Own,
    /// A member's.
    Member,
    /// Perhaps that of a member which has not told its own yet.
    Unknown,
    /// Nobody's of this cluster.
    Foreign,
}

/// One address, and what is known of foreign hosts that use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Guard {
    /// Not here, and nobody asks.
    #[default]
    Idle,
    /// It was asked whether anybody has it. Who is not known may have answered.
    Probing(Option<Mac>),
    /// It was asked, and a foreign host has it.
    Taken(Mac),
    /// It is here.
    Held {
        /// When a foreign host was last answered for.
        acted: Option<Time>,
    },
}

/// Who answered a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody, or a member.
    Nobody,
    /// Perhaps a member.
    Unknown(Mac),
    /// A host that is no member.
    Foreign(Mac),
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing.
    Nothing,
    /// Announce the address once, and tell of the conflict.
    Defend,
    /// Tell that the item must go.
    GiveUp,
}

impl Guard {
    /// It is asked now whether anybody has the address, unless it is here anyway.
    pub(super) fn ask(&mut self) {
        if !matches!(self, Self::Held { .. }) {
            *self = Self::Probing(None);
        }
    }

    /// Who answered so far.
    pub(super) const fn answer(&self) -> Answer {
        match *self {
            Self::Probing(Some(mac)) => Answer::Unknown(mac),
            Self::Taken(mac) => Answer::Foreign(mac),
            Self::Probing(None) | Self::Idle | Self::Held { .. } => Answer::Nobody,
        }
    }

    /// The wait is over.
    pub(super) fn done(&mut self) {
        if !matches!(self, Self::Held { .. }) {
            *self = Self::Idle;
        }
    }

    /// The address is here.
    pub(super) fn hold(&mut self) {
        if !matches!(self, Self::Held { .. }) {
            *self = Self::Held { acted: None };
        }
    }

    /// The address is not here any more.
    pub(super) fn let_go(&mut self) {
        if matches!(self, Self::Held { .. }) {
            *self = Self::Idle;
        }
    }

    /// Somebody was seen who uses the address, or is about to.
    pub(super) fn see(&mut self, what: What, mac: Mac, who: Who, policy: Policy, now: Time) -> Act {
        match (*self, who) {
            (_, Who::Foreign) => {}
            (Self::Probing(_), Who::Unknown) => {
                *self = Self::Probing(Some(mac));
                return Act::Nothing;
            }
            (_, Who::Own | Who::Member | Who::Unknown) => return Act::Nothing,
        }
        match (*self, what) {
            // Two that ask at the same time must both give way (RFC 5227 §2.1.1, RFC 4862 §5.4.3).
            (Self::Probing(_), What::Claim | What::Probe) => {
                *self = Self::Taken(mac);
                Act::Nothing
            }
            // The kernel answers who asks.
            (Self::Idle | Self::Taken(_), _) | (Self::Held { .. }, What::Probe) => Act::Nothing,
            (Self::Held { acted }, What::Claim) => {
                let (pause, act) = match policy {
                    Policy::Defend => (DEFEND_INTERVAL, Act::Defend),
                    Policy::Release => (TELL_INTERVAL, Act::GiveUp),
                };
                if acted.is_some_and(|acted| now.since(acted) < pause) {
                    return Act::Nothing;
                }
                *self = Self::Held { acted: Some(now) };
                act
            }
        }
    }
}

/// The hardware addresses of other members, by their own word.
#[derive(Debug)]
pub(super) struct Members {
    since: Time,
    told: BTreeMap<usize, BTreeSet<[u8; 6]>>,
    /// Servers that may have addresses of this system and have not told.
    silent: BTreeSet<usize>,
}

/// Hardware addresses that one member may tell.
const MACS: usize = 32;

impl Members {
    /// Nobody has told anything yet.
    pub(super) fn new(others: impl IntoIterator<Item = usize>, now: Time) -> Self {
        Self { since: now, told: BTreeMap::new(), silent: others.into_iter().collect() }
    }

    /// Takes what a member told; it replaces what it told before. Nonsense changes nothing. Whether the member
    /// wants to be told as well.
    pub(super) fn hear(&mut self, server: usize, text: &[u8]) -> bool {
        let Some((wants @ (0 | 1), macs)) = text.split_first() else { return false };
        if !macs.len().is_multiple_of(6) || macs.len() > 6 * MACS {
            return false;
        }
        let macs = macs.chunks_exact(6).filter_map(|mac| mac.try_into().ok()).collect();
        self.told.insert(server, macs);
        self.silent.remove(&server);
        *wants == 1
    }

    /// These are the others now. Those that are new have not told.
    pub(super) fn set(&mut self, others: impl IntoIterator<Item = usize>) {
        let others: BTreeSet<_> = others.into_iter().collect();
        self.told.retain(|server, _| others.contains(server));
        self.silent = others.into_iter().filter(|server| !self.told.contains_key(server)).collect();
    }

    /// Who has not told.
    pub(super) fn silent(&self) -> impl Iterator<Item = usize> {
        self.silent.iter().copied()
    }

    /// Whose hardware address this is; `own` are this host's.
    pub(super) fn who(&self, mac: Mac, mut own: impl Iterator<Item = Mac>, now: Time) -> Who {
        if own.any(|own| own == mac) {
            Who::Own
        } else if self.told.values().any(|macs| macs.contains(&mac.0)) {
            Who::Member
        } else if self.silent.is_empty() || now.since(self.since) >= GRACE {
            Who::Foreign
        } else {
            Who::Unknown
        }
    }
}

/// What this node tells of its own hardware addresses: one byte that says whether it wants to be told as well,
/// then six for each.
pub(super) fn tell(macs: impl Iterator<Item = Mac>, wants: bool) -> Vec<u8> {
    let macs: BTreeSet<[u8; 6]> = macs.map(|mac| mac.0).filter(|mac| *mac != [0; 6]).collect();
    let macs = macs.into_iter().take(MACS).flatten();
    std::iter::once(u8::from(wants)).chain(macs).collect()
}

#[cfg(test)]
mod tests {
    use super::Act::{Defend, GiveUp, Nothing};
    use super::*;

    const FOREIGN: Mac = Mac([2, 0, 0, 0, 0, 9]);

    #[test]
    fn every_state_meets_every_sighting() {
        let now = Time::from_millis(60_000);
        let before = |ms: u64| Guard::Held { acted: Some(Time::from_millis(60_000 - ms)) };
        let fresh = Guard::Held { acted: None };
        let acted = Guard::Held { acted: Some(now) };
        let other = Guard::Taken(Mac([2, 0, 0, 0, 0, 8]));
        use Guard::{Idle, Taken};
        use Policy::{Defend as D, Release as R};
        let asked = Guard::Probing(None);
        let suspects = Guard::Probing(Some(Mac([2, 0, 0, 0, 0, 7])));
        use What::{Claim, Probe};
        let table = [
            (Idle, Claim, D, Idle, Nothing),
            (Idle, Probe, D, Idle, Nothing),
            (Idle, Claim, R, Idle, Nothing),
            (asked, Claim, D, Taken(FOREIGN), Nothing),
            (asked, Probe, D, Taken(FOREIGN), Nothing),
            (asked, Claim, R, Taken(FOREIGN), Nothing),
            (suspects, Claim, D, Taken(FOREIGN), Nothing),
            (other, Claim, D, other, Nothing),
            (other, Probe, R, other, Nothing),
            (fresh, Claim, D, acted, Defend),
            (fresh, Probe, D, fresh, Nothing),
            (fresh, Claim, R, acted, GiveUp),
            (fresh, Probe, R, fresh, Nothing),
            (before(9_999), Claim, D, before(9_999), Nothing),
            (before(10_000), Claim, D, acted, Defend),
            (before(999), Claim, R, before(999), Nothing),
            (before(1_000), Claim, R, acted, GiveUp),
        ];
        for (state, what, policy, after, act) in table {
            let mut guard = state;
            let found = guard.see(what, FOREIGN, Who::Foreign, policy, now);
            assert_eq!((guard, found), (after, act), "{state:?} {what:?} {policy:?}");
            for who in [Who::Own, Who::Member, Who::Unknown] {
                let mut guard = state;
                assert_eq!(guard.see(what, FOREIGN, who, policy, now), Nothing, "{who:?}");
                let suspected = matches!(state, Guard::Probing(_)) && who == Who::Unknown;
                let expected = if suspected { Guard::Probing(Some(FOREIGN)) } else { state };
                assert_eq!(guard, expected, "{who:?}");
            }
        }
    }

    #[test]
    fn hooks_change_the_state() {
        let held = Guard::Held { acted: Some(Time::from_millis(5)) };
        let fresh = Guard::Held { acted: None };
        use Guard::{Idle, Probing, Taken};
        // State, after ask, who answered, after done, after hold, after let_go.
        let table = [
            (Idle, Probing(None), Answer::Nobody, Idle, fresh, Idle),
            (Probing(None), Probing(None), Answer::Nobody, Idle, fresh, Probing(None)),
            (
                Probing(Some(FOREIGN)),
                Probing(None),
                Answer::Unknown(FOREIGN),
                Idle,
                fresh,
                Probing(Some(FOREIGN)),
            ),
            (Taken(FOREIGN), Probing(None), Answer::Foreign(FOREIGN), Idle, fresh, Taken(FOREIGN)),
            (held, held, Answer::Nobody, held, held, Idle),
        ];
        for (state, asked, answer, done, hold, gone) in table {
            let (mut a, mut b, mut c, mut d) = (state, state, state, state);
            a.ask();
            b.done();
            c.hold();
            d.let_go();
            assert_eq!((a, state.answer(), b, c, d), (asked, answer, done, hold, gone), "{state:?}");
        }
    }

    #[test]
    fn who_is_who() {
        let mac = |n| Mac([2, 0, 0, 0, 0, n]);
        let own = || [mac(1), mac(2)].into_iter();
        let start = Time::from_millis(1000);
        let mut members = Members::new([1, 2], start);
        assert_eq!(members.who(mac(2), own(), start), Who::Own);
        assert_eq!(members.who(mac(3), own(), start), Who::Unknown);
        assert!(members.hear(1, &tell([mac(3), mac(4), Mac([0; 6])].into_iter(), true)), "wants to know");
        assert_eq!(members.who(mac(4), own(), start), Who::Member);
        assert_eq!(members.who(FOREIGN, own(), start), Who::Unknown, "it may be the second's");
        assert_eq!(members.who(FOREIGN, own(), start + GRACE), Who::Foreign, "it would have been heard");
        for nonsense in [&[][..], &[1; 5], &[1; 12], &[2; 7], &[1; 6 * 33 + 1]] {
            assert!(!members.hear(2, nonsense));
        }
        assert_eq!(members.silent().collect::<Vec<_>>(), [2]);
        assert!(!members.hear(2, &tell([mac(5)].into_iter(), false)));
        assert_eq!(members.silent().count(), 0);
        assert_eq!(members.who(FOREIGN, own(), start), Who::Foreign);
        // A network card was changed.
        members.hear(1, &tell([mac(6)].into_iter(), false));
        let who = |members: &Members, n| members.who(mac(n), own(), start);
        assert_eq!((who(&members, 6), who(&members, 3)), (Who::Member, Who::Foreign));
        let many = tell((0..99).map(mac), false);
        assert_eq!(many.len(), 1 + 6 * MACS);
        members.hear(2, &many);
        assert_eq!(who(&members, 31), Who::Member);
        // A server without any card of its own has told as well.
        let mut members = Members::new([1], start);
        members.hear(1, &tell(std::iter::empty(), false));
        assert_eq!(members.silent().count(), 0);
    }
}
