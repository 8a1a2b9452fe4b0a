//! Planted bugs: what the simulator must find. A simulator that is green with one of these in the code
//! would be green with a real one.
//!
//! `planted(Bug::X)` is a constant `false` unless the feature `planted` is on, which nothing but the
//! harness of the simulator turns on.

/// The bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is described by `Bug::what`")]
pub enum Bug {
    Canary,
    QuorumOffByOne,
    ContactOffByOne,
    HearsayIsABallot,
    BallotsNeverExpire,
    VerdictForWrongGeneration,
    NoAbstain,
    NoStallCheck,
    VerdictWithoutRebirth,
    VerdictNotBelieved,
    ReplayWindowOff,
    SealUnchecked,
    PlacementIgnoresDead,
    PlacementIgnoresEligibility,
    HandoverReleasesFirst,
    NoReannounce,
    NoDriftRepair,
    LeftoverForgotten,
    HooksOverlap,
    DownHookSkipped,
    TakesWithoutQuorum,
    StaleFactsCount,
    NoGreeting,
    DigestIgnored,
    LossIgnored,
    GenerationReused,
    SwimGateOpen,
    BallotCountsTwice,
    QuorumOfTheLiving,
    OldVoiceCounts,
    NoFailback,
    NoRetry,
}

impl Bug {
    /// All of them, in the order of the table.
    pub const ALL: &[Self] = &[
        Self::Canary,
        Self::QuorumOffByOne,
        Self::ContactOffByOne,
        Self::HearsayIsABallot,
        Self::BallotsNeverExpire,
        Self::VerdictForWrongGeneration,
        Self::NoAbstain,
        Self::NoStallCheck,
        Self::VerdictWithoutRebirth,
        Self::VerdictNotBelieved,
        Self::ReplayWindowOff,
        Self::SealUnchecked,
        Self::PlacementIgnoresDead,
        Self::PlacementIgnoresEligibility,
        Self::HandoverReleasesFirst,
        Self::NoReannounce,
        Self::NoDriftRepair,
        Self::LeftoverForgotten,
        Self::HooksOverlap,
        Self::DownHookSkipped,
        Self::TakesWithoutQuorum,
        Self::StaleFactsCount,
        Self::NoGreeting,
        Self::DigestIgnored,
        Self::LossIgnored,
        Self::GenerationReused,
        Self::SwimGateOpen,
        Self::BallotCountsTwice,
        Self::QuorumOfTheLiving,
        Self::OldVoiceCounts,
        Self::NoFailback,
        Self::NoRetry,
    ];

    /// What is wrong with the code that has it.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Canary => "every run fails: a silent simulator is noticed",
            Self::QuorumOffByOne => "a verdict needs one ballot less than the quorum",
            Self::ContactOffByOne => "a quorum counts as seen with one voter less",
            Self::HearsayIsABallot => "a suspicion heard counts as an own ballot",
            Self::BallotsNeverExpire => "a ballot counts for ever",
            Self::VerdictForWrongGeneration => "ballots about a former life end the present one",
            Self::NoAbstain => "a voter without contact votes all the same",
            Self::NoStallCheck => "a voter that was stopped takes its own absence for silence",
            Self::VerdictWithoutRebirth => "who was declared down goes on as the same generation",
            Self::VerdictNotBelieved => "the verdicts of others are not believed",
            Self::ReplayWindowOff => "a datagram that was seen before counts again",
            Self::SealUnchecked => "a datagram is opened without a look at its seal",
            Self::PlacementIgnoresDead => "items stay placed on members that are down",
            Self::PlacementIgnoresEligibility => "items are placed where their hooks fail",
            Self::HandoverReleasesFirst => "a holder gives up before its successor has confirmed",
            Self::NoReannounce => "the winner of a heal does not announce again",
            Self::NoDriftRepair => "an address that somebody deleted stays away",
            Self::LeftoverForgotten => "what an earlier life left in the kernel is not looked at",
            Self::HooksOverlap => "a hook is started while one of the same item runs",
            Self::DownHookSkipped => "an item is released without its down hook",
            Self::TakesWithoutQuorum => "items are taken without a quorum in sight",
            Self::StaleFactsCount => "what a former life said of its items counts for the present one",
            Self::NoGreeting => "servers that are not up are never greeted",
            Self::DigestIgnored => "differences between views are seen and not repaired",
            Self::LossIgnored => "the window of a case does not grow with the loss",
            Self::GenerationReused => "a start may have the generation of an earlier life",
            Self::SwimGateOpen => "a single accuser of the gossip layer removes a member",
            Self::NoRetry => "a hook that failed is never tried again",
            Self::NoFailback => "who should give up an item never does",
            Self::OldVoiceCounts => "a voice from a life that is over counts",
            Self::QuorumOfTheLiving => "the quorum is counted on those who are up",
            Self::BallotCountsTwice => "every ballot counts twice",
        }
    }
}

/// Whether this bug is planted now.
#[cfg(not(feature = "planted"))]
#[inline(always)]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether this bug is planted now.
#[cfg(feature = "planted")]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug in this thread, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
