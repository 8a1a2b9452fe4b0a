//! Why an item is where it is: a plain picture of the reasons, serialisable, as `flip why` shows it.
//!
//! It is one node's view, step by step: whose the item is by right, who may have it and who may not and why,
//! where placement puts it, what stands between that and what is so now, and how it came to be where it is.

use serde::{Deserialize, Serialize};

use crate::event::ItemState;
use crate::status::{CheckStatus, FailureStatus, HolderStatus};

/// The whole answer. Ages are milliseconds before the moment of the question, `…_in_ms` and `for_ms` after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Why {
    /// Id of the answering node.
    pub node: String,
    /// The system's name.
    pub system: String,
    /// The item's name.
    pub item: String,
    /// What happens to it without a quorum: `keep`, `take` or `drop`.
    pub isolated: String,
    /// Whether every server that may have it has it.
    pub replicated: bool,
    /// Who has said that it has it, or is about to or about to let go.
    pub holders: Vec<HolderStatus>,
    /// Whose it is when everybody is up; none where it is replicated, or no server takes part in its system.
    pub home: Option<Home>,
    /// Every server, in listed order, and what keeps the item from it.
    pub servers: Vec<Candidate>,
    /// Ids of the servers where placement wants it.
    pub wanted: Vec<String>,
    /// Why there.
    pub because: Because,
    /// What stands between what is wanted and what is; empty when it is where it belongs.
    pub waits: Vec<Wait>,
    /// The lease, for an item with `"isolated": "drop"`.
    pub lease: Option<LeaseWhy>,
    /// Open cases about servers that matter for it, with their ballots.
    pub cases: Vec<CaseWhy>,
    /// Its last moves, oldest first, as far as this node remembers.
    pub moves: Vec<Moved>,
    /// Its health checks on the answering node.
    pub checks: Vec<CheckStatus>,
    /// What its hooks said that failed on the answering node.
    pub failure: Option<FailureStatus>,
}

/// Whose an item is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Home {
    /// Id of the server.
    pub server: String,
    /// True when the config wishes so (`prefer`).
    pub preferred: bool,
    /// True when the catalog keeps it there: it was moved, or was there when servers or items came and went.
    #[serde(default)]
    pub kept: bool,
    /// The item's place in the list of its system, from 1.
    pub place: usize,
    /// The servers over which items are dealt, in their order: by priority, then as listed.
    pub dealt_over: Vec<String>,
}

/// One server as a place for the item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Candidate {
    /// Its id.
    pub server: String,
    /// Whether it may have the item now, by the rules of placement.
    pub eligible: bool,
    /// What speaks against it. A server may be eligible all the same, where nobody is better.
    pub against: Vec<Obstacle>,
    /// How many items of the system placement gives it.
    pub items: usize,
}

/// What speaks against a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Obstacle {
    /// It takes no part in the item's system, or is an arbiter.
    NotInSystem,
    /// Down by verdict.
    Down {
        /// Age of that, ms.
        since_ms: u64,
        /// Ids of the servers whose ballots made the verdict.
        voters: Vec<String>,
    },
    /// It said goodbye.
    Left {
        /// Age of that, ms.
        since_ms: u64,
    },
    /// Silent, while the answering node sees no quorum.
    OutOfReach,
    /// An operator keeps items away.
    Drained,
    /// It says itself that it is not fit for items.
    Inactive {
        /// Names of the reasons.
        reasons: Vec<String>,
    },
    /// It is about to leave.
    Leaving,
    /// It was down lately and has not been up for long enough.
    Immature {
        /// How much longer it gets nothing, ms.
        for_ms: u64,
    },
    /// Health checks of the item fail there, or what it needs is gone.
    Unhealthy {
        /// Which, with what they said: known of the answering node only.
        checks: Vec<FailedCheck>,
        /// What it stands on that is gone: known of the answering node only.
        trouble: Option<String>,
    },
    /// Too few health checks have ended there, or what it needs has not been back for long enough.
    Unproven {
        /// When it counts as well, ms, where that is known.
        returns_in_ms: Option<u64>,
    },
    /// Its hooks failed too often there.
    HooksFailing {
        /// What the last one said: known of the answering node only.
        error: Option<String>,
    },
    /// The item may still be on a server where it should not be: nobody takes it.
    Unclean {
        /// Id of that server.
        on: String,
    },
}

/// A health check that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FailedCheck {
    /// Its kind and what it asks.
    pub check: String,
    /// What it said.
    pub error: Option<String>,
}

/// Why placement puts an item where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// Its home may have it.
    Home,
    /// Its home may not; of those that may, this one has the fewest items.
    Fewest,
    /// Everybody who may have it has it.
    Replicated,
    /// Nobody may have it.
    Nobody,
    /// No quorum is in sight, and the item goes to somebody in reach (`"isolated": "take"`).
    InReach,
}

/// What stands between what is wanted and what is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Wait {
    /// The answering node sees no quorum: it takes nothing.
    NoQuorum {
        /// Live members that it sees.
        live: usize,
        /// How many it takes.
        quorum: usize,
    },
    /// Placement waits for open cases, so that what dies together is one move.
    Settling,
    /// Nobody may have it.
    NobodyMay,
    /// The item may still be there; somebody has to make sure that it is not.
    Unclean {
        /// Id of the server.
        on: String,
    },
    /// The server does not answer, and no quorum has agreed yet that it is down.
    Case {
        /// Id of the server.
        server: String,
        /// Ballots that stand.
        ballots: usize,
        /// How many it takes.
        quorum: usize,
    },
    /// A server that shall have it has said nothing of it yet.
    NotYet {
        /// Id of the server.
        server: String,
        /// Its state there by that server's word.
        state: ItemState,
    },
    /// A hook runs on the answering node.
    HookRuns {
        /// Which: `alive`, `down` or `announce`.
        action: String,
        /// For how long, ms.
        since_ms: u64,
    },
    /// A hook failed on the answering node.
    Retry {
        /// What it said.
        error: String,
        /// When it is tried again, ms.
        in_ms: u64,
    },
    /// As many hooks of the system run at once as the config allows.
    Parallel {
        /// How many run.
        running: usize,
        /// How many may.
        limit: usize,
    },
    /// Before a planned move the present holder is asked whether it is there.
    AsksHolder {
        /// Id of the holder.
        holder: String,
    },
    /// The lease is not granted by enough voters.
    Lease {
        /// How many have granted it.
        granted: usize,
        /// How many it takes.
        needed: usize,
    },
    /// A holder keeps it until a successor says that it has it.
    Handover {
        /// Id of the holder.
        from: String,
        /// Ids of those who shall have it.
        to: Vec<String>,
    },
    /// A holder lets go, because nobody else may hold it at the same time.
    Releasing {
        /// Id of the holder.
        from: String,
    },
}

/// The lease of an item, as the answering node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LeaseWhy {
    /// Whether the answering node claims it.
    pub claimed: bool,
    /// How much longer the answering node may hold it, ms.
    pub held_for_ms: Option<u64>,
    /// How many voters must grant it.
    pub needed: usize,
    /// Ids of the voters that have granted the present claim.
    pub granted: Vec<String>,
    /// The voters that have refused it.
    pub refused: Vec<RefusedLease>,
    /// To whom this node, as a voter, has promised it.
    pub promised_to: Option<String>,
    /// How much longer this node, as a voter, promises nothing because it was just started, ms.
    pub silent_for_ms: Option<u64>,
}

/// A voter that refused a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RefusedLease {
    /// Id of the voter.
    pub voter: String,
    /// How much longer asking is in vain, ms.
    pub for_ms: u64,
}

/// An open case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CaseWhy {
    /// Id of the server that is examined.
    pub server: String,
    /// What opened it.
    pub cause: String,
    /// Age, ms.
    pub since_ms: u64,
    /// Ids of the voters whose Down ballots stand.
    pub ballots: Vec<String>,
    /// How many it takes.
    pub quorum: usize,
    /// Why the answering node casts no ballot though it gets no answer, if so.
    pub abstains: bool,
}

/// One thing that happened to the item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Moved {
    /// Age, ms.
    pub ago_ms: u64,
    /// Id of the server.
    pub server: String,
    /// What happened there.
    pub what: What,
    /// What made it happen, in the word of records; none where the answering node cannot know.
    pub trigger: Option<String>,
}

/// One thing that happened to an item, of all that the answering node remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ItemMoved {
    /// The system's name.
    pub system: String,
    /// The item's name.
    pub item: String,
    /// Age, ms.
    pub ago_ms: u64,
    /// Id of the server.
    pub server: String,
    /// What happened there.
    pub what: What,
    /// As in [`Moved`].
    pub trigger: Option<String>,
}

/// What happened to an item on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It was active there from then on.
    Came,
    /// It was released there.
    Went,
    /// The server was declared down with it.
    Died,
    /// It could not be held there.
    Failed,
    /// It could not be released there.
    Stuck,
}
