//! What happened: one closed enum that feeds the log, the counters, the status and the streams.

use std::net::SocketAddr;
use std::time::Duration;

use crate::id::{CheckRef, ItemRef};
use crate::io::HookAction;

/// Something that happened on this node. Servers and items are given as positions in the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node runs.
    Started {
        /// Its own generation.
        generation: u64,
    },
    /// A member was seen alive in a generation that was not up before.
    MemberUp {
        /// Position of the server.
        server: usize,
        /// Its generation.
        generation: u64,
    },
    /// A quorum agreed that a member is down.
    MemberDown {
        /// Position of the server.
        server: usize,
        /// The generation that is down; zero when it was never seen.
        generation: u64,
        /// Positions of the voters whose ballots made the verdict.
        voters: Vec<usize>,
    },
    /// A member said goodbye.
    MemberLeft {
        /// Position of the server.
        server: usize,
        /// The generation that left.
        generation: u64,
    },
    /// This node started to examine a member.
    CaseOpened {
        /// Position of the server.
        server: usize,
        /// Why.
        cause: CaseCause,
    },
    /// The member answered, or was replaced by a newer generation.
    CaseClosed {
        /// Position of the server.
        server: usize,
        /// How long the case was open.
        after: Duration,
    },
    /// This node cast a Down ballot.
    BallotCast {
        /// Position of the server.
        server: usize,
        /// How many ballots stand now, this one included.
        ballots: usize,
        /// How many are needed.
        quorum: usize,
    },
    /// This node found no answer but does not trust its own senses, so it casts no ballot.
    Abstained {
        /// Position of the server.
        server: usize,
        /// Why.
        reason: AbstainReason,
    },
    /// This node's own generation was declared down; it goes on as a new one.
    DeclaredDown {
        /// The generation that is over.
        old: u64,
        /// The generation that begins.
        new: u64,
    },
    /// This node sees fewer live members than the quorum: it keeps what it holds and takes nothing.
    Isolated,
    /// This node sees a quorum again.
    QuorumSeen,
    /// The loop of this node was late: it was stopped, suspended or starved.
    Stalled {
        /// By how much.
        late: Duration,
    },
    /// Another daemon runs under this node's id, or a second one under another server's id.
    DuplicateId {
        /// Position of the server.
        server: usize,
        /// Where the second one was heard.
        from: SocketAddr,
    },
    /// A member runs another list of servers or another quorum; its ballots do not count.
    ConfigDiffers {
        /// Position of the server.
        server: usize,
    },
    /// This node goes on under another config. Positions in the events after this one are those of the new one.
    ConfigChanged {
        /// What is different, for people.
        what: String,
    },
    /// This node's server is not in the config any more: it lets go of everything, and leaves.
    Outcast,
    /// An item changed its state on this node.
    Item {
        /// Which item.
        item: ItemRef,
        /// Its state before.
        from: ItemState,
        /// Its state after.
        to: ItemState,
        /// Why.
        reason: Reason,
    },
    /// A hook failed; it will be tried again.
    HookFailed {
        /// Which item.
        item: ItemRef,
        /// Which hook.
        action: HookAction,
        /// What the handler said.
        error: String,
        /// How many times in a row.
        failures: u32,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The `post` hook of a system failed. The next plan calls it anew.
    PostFailed {
        /// Position of the system.
        system: usize,
        /// What the handler said.
        error: String,
    },
    /// The scripts of this node were read again, because somebody asked for it.
    Reloaded {
        /// What changed; or why everything is as it was, with file and line.
        result: Result<String, String>,
    },
    /// Somebody asked for a change by the API.
    Asked {
        /// Who: a token's name, or the user and process at the other end of the Unix socket.
        by: String,
        /// From where.
        from: String,
        /// What for, as method and path.
        what: String,
        /// What came of it.
        result: Result<String, String>,
    },
    /// A held item was announced again, because a former holder let go or the network healed.
    Reannounced {
        /// Which item.
        item: ItemRef,
    },
    /// A member sees that this node answers for an item since it was announced, and nobody else.
    Confirmed {
        /// Which item.
        item: ItemRef,
        /// Position of the server that looked.
        by: usize,
    },
    /// A member sees that somebody else answers for an item that is here; it is announced again.
    AnsweredByOther {
        /// Which item.
        item: ItemRef,
        /// Position of the server that looked.
        by: usize,
        /// The hardware address that answered.
        mac: [u8; 6],
    },
    /// An address was found missing or present against what this node did.
    Drift {
        /// Which item.
        item: ItemRef,
        /// Whether it is there now.
        present: bool,
        /// How often that happened, this time included, without a pause of `limits::DRIFT_MEMORY`.
        times: u32,
    },
    /// What an item needs here is gone, so that it goes elsewhere; or it is there, and was for long enough.
    Usable {
        /// Which item.
        item: ItemRef,
        /// What is wrong; none when nothing is any more.
        trouble: Option<String>,
    },
    /// What an item needs here is there again, and has to stay for a while.
    Returning {
        /// Which item.
        item: ItemRef,
        /// For how long.
        after: Duration,
    },
    /// A host that is no member uses an item that is here.
    Conflict {
        /// Which item.
        item: ItemRef,
        /// That host's hardware address.
        with: String,
        /// Whether the item goes from here.
        give_up: bool,
    },
    /// A majority's grant to hold an item began or ended.
    Lease {
        /// Which item.
        item: ItemRef,
        /// Whether this node may hold it now.
        held: bool,
    },
    /// The machine slept.
    Suspended {
        /// For how long.
        by: Duration,
    },
    /// A server was marked by an operator: it takes no items while drained.
    Drained {
        /// Position of the server.
        server: usize,
        /// Whether it is drained now.
        drained: bool,
    },
    /// A server says that it is not fit for items, or that it is again, for a named reason.
    Inactive {
        /// Position of the server.
        server: usize,
        /// The reason's name.
        reason: String,
        /// Whether the reason holds now.
        inactive: bool,
    },
    /// An item may still be where it should not be, or somebody made sure that it is not.
    Unclean {
        /// Position of the server.
        server: usize,
        /// The item.
        item: ItemRef,
        /// Whether nobody may take it.
        unclean: bool,
    },
    /// A health check failed on this node.
    CheckFailed {
        /// Which.
        check: CheckRef,
        /// What it said.
        error: String,
        /// How many times in a row.
        failures: u32,
        /// After how many of them it counts as unhealthy.
        fall: u32,
    },
    /// A health check became healthy or unhealthy on this node.
    Health {
        /// Which.
        check: CheckRef,
        /// What it is now.
        healthy: bool,
    },
    /// The key ring changed, here or on another server.
    KeysChanged {
        /// Ids of the keys.
        ids: Vec<u8>,
        /// Id of the key that seals.
        active: u8,
    },
    /// The config file of a higher version counts now, in the whole cluster.
    CatalogFile {
        /// Its version.
        version: u64,
        /// Position of the server that it came from; none when it is this node's own.
        from: Option<usize>,
        /// Edits that it ended, by what they were about: they had changed what an older file said.
        ended: Vec<String>,
    },
    /// A member has another config file of the same version: neither counts for the other.
    CatalogConflict {
        /// Position of the server.
        server: usize,
        /// The version.
        version: u64,
    },
    /// What this node has of the catalog makes no config that can be used; it goes on with the one before.
    CatalogInvalid {
        /// All that is wrong, by entry.
        why: String,
    },
    /// The disk did not take a change of the catalog: edits are refused.
    CatalogNotStored {
        /// Why.
        why: String,
    },
    /// A datagram was refused. All are counted; this tells of one in a second for each reason.
    Refused {
        /// Where it came from.
        from: SocketAddr,
        /// Why.
        why: Refusal,
    },
}

/// What opened a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseCause {
    /// An own probe was not answered.
    ProbeFailed,
    /// Another member suspects it.
    Suspicion,
    /// Another voter's ballot or hint.
    Ballot,
    /// The kernel of its host says that nobody listens.
    PortUnreachable,
    /// A configured server that was never seen since this node started.
    NeverSeen,
}

/// Why a voter does not trust its own senses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbstainReason {
    /// It has two-way contact with fewer than quorum - 1 others.
    NoContact,
    /// Its own loop was late within the window.
    Stalled,
    /// The witness did not answer within the window.
    WitnessSilent,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Shorter than a header and a tag, or longer than the limit.
    Length,
    /// Another wire version.
    Version,
    /// Another cluster's tag, or another key.
    Cluster,
    /// No server of the config has this short id.
    Sender,
    /// More from this source than is opened.
    Budget,
    /// The counter was seen before or is too old.
    Replay,
    /// The seal does not open: forged or damaged.
    Seal,
    /// Opened, but of a session that has not proven that it is alive.
    Session,
    /// Opened, but not understood.
    Malformed,
    /// This node's own id from elsewhere.
    OwnId,
}

impl Refusal {
    /// All reasons, in the order of the work on a datagram.
    pub const ALL: [Self; 10] = [
        Self::Length,
        Self::Version,
        Self::Cluster,
        Self::Sender,
        Self::Budget,
        Self::Replay,
        Self::Seal,
        Self::Session,
        Self::Malformed,
        Self::OwnId,
    ];
}

/// The state of an item on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    /// Not here, and not wanted here.
    Standby,
    /// The alive hook runs or is to be tried again.
    Acquiring,
    /// Here.
    Active,
    /// The down hook runs or is to be tried again.
    Releasing,
    /// The alive hook failed too often, or a health check does: the item goes elsewhere.
    Failing,
    /// The down hook did not end before the lease did: the item may still be here, and nobody else takes
    /// it before somebody confirmed that it is released.
    Unclean,
}

/// Why an item changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Placement puts it here at rest.
    Home,
    /// Its home is down.
    Failover,
    /// Its home left.
    Leave,
    /// Its home is back.
    Failback,
    /// It was found here when the node started.
    Adopted,
    /// This node shuts down.
    Shutdown,
    /// Somebody removed it.
    Drift,
    /// No quorum is in sight, and nobody who is holds it (`"isolated": "take"`).
    Isolated,
    /// The lease to hold it ends (`"isolated": "drop"`).
    LeaseLost,
    /// Somebody made sure that it is released.
    Confirmed,
    /// Its home is drained.
    Drain,
    /// Its health checks began or ended to fail here.
    HealthCheck,
    /// Its home says that it is not fit for items.
    Inactive,
    /// What it needs here is gone: its interface, or the carrier of that.
    Unusable,
    /// A host that is no member uses it, and the config says to give it up.
    Conflict,
    /// It is not in the config any more.
    Removed,
    /// The config says something else of it: it goes as what it was, before it comes as what it is.
    Redefined,
    /// A hook failed, here or at its home.
    HookFailed,
    /// The hook ended well.
    HookDone,
}
