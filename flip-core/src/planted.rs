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
    HooksUnlimited,
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
    StaleBallotsCount,
    GrantsWhatIsPromised,
    DeadlineFromReceipt,
    NoQuarantine,
    NoDriftMargin,
    KernelLatenessIgnored,
    PermanentAddress,
    NoCheckAfterRefresh,
    LeaseQuorumOffByOne,
    GrantCountsTwice,
    ReleasesBeforeItIsGone,
    StaleReleaseAccepted,
    MonotonicClock,
    NoDeadlineCheck,
    EpochReused,
    LatestUnchecked,
    NoSuspendCheck,
    FallAcrossSuccess,
    StaleCheckCounts,
    UnhealthyHolds,
    RetiredForgotten,
    UntouchedRedefined,
    OutcastForgotten,
    StaleCatalogApplied,
    AcknowledgedBeforeDisk,
    AcknowledgedByMinority,
    TombstoneForgottenEarly,
    LostDiskStampsCount,
    PullIgnored,
    CatalogNotAdopted,
    TornAppendKept,
    FailedWriteCounts,
    PushNumbersReused,
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
        Self::HooksUnlimited,
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
        Self::StaleBallotsCount,
        Self::GrantsWhatIsPromised,
        Self::DeadlineFromReceipt,
        Self::NoQuarantine,
        Self::NoDriftMargin,
        Self::KernelLatenessIgnored,
        Self::PermanentAddress,
        Self::NoCheckAfterRefresh,
        Self::LeaseQuorumOffByOne,
        Self::GrantCountsTwice,
        Self::ReleasesBeforeItIsGone,
        Self::StaleReleaseAccepted,
        Self::MonotonicClock,
        Self::NoDeadlineCheck,
        Self::EpochReused,
        Self::LatestUnchecked,
        Self::NoSuspendCheck,
        Self::FallAcrossSuccess,
        Self::StaleCheckCounts,
        Self::UnhealthyHolds,
        Self::RetiredForgotten,
        Self::UntouchedRedefined,
        Self::OutcastForgotten,
        Self::StaleCatalogApplied,
        Self::AcknowledgedBeforeDisk,
        Self::AcknowledgedByMinority,
        Self::TombstoneForgottenEarly,
        Self::LostDiskStampsCount,
        Self::PullIgnored,
        Self::CatalogNotAdopted,
        Self::TornAppendKept,
        Self::FailedWriteCounts,
        Self::PushNumbersReused,
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
            Self::HooksUnlimited => "hooks of one system do not wait for each other",
            Self::DownHookSkipped => "an item is released without its down hook",
            Self::TakesWithoutQuorum => "items are taken without a quorum in sight",
            Self::StaleFactsCount => "what a former life said of its items counts for the present one",
            Self::NoGreeting => "servers that are not up are never greeted",
            Self::DigestIgnored => "differences between views are seen and not repaired",
            Self::LossIgnored => "the window of a case does not grow with the loss",
            Self::GenerationReused => "a start may have the generation of an earlier life",
            Self::SwimGateOpen => "a single accuser of the gossip layer removes a member",
            Self::GrantsWhatIsPromised => "a voter promises an item that it has promised to another (1)",
            Self::DeadlineFromReceipt => {
                "a lease counts from when its grant came, not from when it was asked for (2, R3)"
            }
            Self::NoQuarantine => "a voter that has just started promises at once (3, R4)",
            Self::NoDriftMargin => "a voter keeps its promise no longer than the holder counts (4)",
            Self::KernelLatenessIgnored => "the kernel is taken to be on time (5, R5)",
            Self::PermanentAddress => "the address has no lifetime (6)",
            Self::NoCheckAfterRefresh => "nothing is looked at after a refresh (7, R6)",
            Self::LeaseQuorumOffByOne => "a lease needs one grant less than a quorum (8)",
            Self::GrantCountsTwice => "every grant counts twice (9)",
            Self::ReleasesBeforeItIsGone => "the release is said before the address is gone (10, R8)",
            Self::StaleReleaseAccepted => "a release of an older claim ends the present one (11)",
            Self::MonotonicClock => "the clock stops while the machine sleeps (12)",
            Self::NoDeadlineCheck => "queued work comes before a look at the deadlines (13)",
            Self::EpochReused => "a new process has the claims' numbers of an old one (14, R1)",
            Self::LatestUnchecked => "nothing is done about a lifetime that comes too late (15, R6 b)",
            Self::NoSuspendCheck => "a machine that slept keeps what it had (16, R7)",
            Self::FallAcrossSuccess => "failures of a health check are counted on across a success",
            Self::StaleCheckCounts => {
                "what a run says that was given up counts as the result of the next one"
            }
            Self::UnhealthyHolds => "items are taken and held where their health checks fail",
            Self::RetiredForgotten => "what leaves the config is forgotten where it is held",
            Self::UntouchedRedefined => {
                "what a change of the config does not touch is released and taken anew"
            }
            Self::OutcastForgotten => "who leaves the config is forgotten while it holds items",
            Self::StaleCatalogApplied => {
                "of two edits of one entry the one that comes last counts, whatever its stamp"
            }
            Self::AcknowledgedBeforeDisk => {
                "entries of others are acknowledged before they are on the own disk"
            }
            Self::AcknowledgedByMinority => {
                "an edit is acknowledged when one voter less than a majority has it"
            }
            Self::TombstoneForgottenEarly => "what was removed is forgotten before everybody knows of it",
            Self::LostDiskStampsCount => {
                "who has lost its catalog edits before it has heard what others have"
            }
            Self::PullIgnored => "differences between catalogs are seen and not fetched",
            Self::CatalogNotAdopted => "what is stored is not run",
            Self::TornAppendKept => "after a write that failed the next is appended to what there is of it",
            Self::PushNumbersReused => "a new life numbers its pushes as the one before did",
            Self::FailedWriteCounts => "what the disk did not take counts all the same",
            Self::StaleBallotsCount => "ballots that waited while a node was stopped count",
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
