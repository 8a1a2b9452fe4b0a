//! What `flip status` shows: a plain picture of the node's view, serialisable, apart from the working types.

use serde::{Deserialize, Serialize};

use crate::event::ItemState;

/// The whole picture. Ages are milliseconds before the moment of the question.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Status {
    /// Id of the answering node.
    pub node: String,
    /// Its generation.
    pub generation: u64,
    /// Digest of the live members, as hex; nodes with equal view ids and configs place equally.
    pub view: String,
    /// Ballots needed for a verdict.
    pub quorum: usize,
    /// Live members that this node sees, itself included.
    pub live: usize,
    /// False when it sees fewer than a quorum: it takes nothing then.
    pub has_quorum: bool,
    /// All servers, in listed order.
    pub members: Vec<MemberStatus>,
    /// All items, in listed order.
    pub items: Vec<ItemStatus>,
    /// Refused datagrams by reason since the start.
    pub refused: std::collections::BTreeMap<String, u64>,
    /// Troubles that a person has to look at, one sentence each, seen within the last minute.
    #[serde(default)]
    pub hints: Vec<String>,
    /// The keys of the cluster, in the order in which they were added.
    #[serde(default)]
    pub keys: Vec<KeyStatus>,
    /// What the answering node knows the cluster to consist of, in brief; none where it has no state dir for it.
    #[serde(default)]
    pub catalog: Option<CatalogStatus>,
    /// As whom the answering daemon runs, and what it may do; none where a program embeds the node.
    #[serde(default)]
    pub privileges: Option<PrivilegeStatus>,
    /// Datagrams sent since the start.
    pub sent_datagrams: u64,
    /// Payload bytes sent since the start.
    pub sent_bytes: u64,
}

/// The catalog of the answering node in brief.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CatalogStatus {
    /// Version of the config file below all edits.
    pub version: u64,
    /// Its hash, as hex, which files of all servers have in common; none without a file.
    pub hash: Option<String>,
    /// Records of edits, those of what was removed among them until every server knows it.
    pub edits: usize,
    /// Edits of this node that some server has not on its disk yet, as far as this node knows.
    pub pushes: usize,
    /// False for a server that begins without a catalog until it has heard what the others have: it refuses edits.
    pub complete: bool,
    /// Ids of the servers whose config file has the same version and another content.
    pub conflicts: Vec<String>,
    /// Why edits are refused, because the disk takes nothing; none while it does.
    pub refuses: Option<String>,
    /// Why what is on the disk is not what the node runs; none where it is.
    pub invalid: Option<String>,
}

/// One key of the ring.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct KeyStatus {
    /// Two hexadecimal digits.
    pub id: String,
    /// True for the one that seals.
    pub in_use: bool,
    /// True for the one that stands in this server's config.
    pub in_config: bool,
    /// Ids of the servers that are known to have it.
    pub servers: Vec<String>,
}

/// What a daemon may do on its host.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PrivilegeStatus {
    /// As whom it runs.
    pub user: String,
    /// Its capabilities, by the names of capabilities(7).
    pub capabilities: Vec<String>,
    /// Whether nothing that it starts can have more.
    pub no_new_privileges: bool,
    /// Why it kept everything; none where it gave up what it does not need.
    pub kept_everything: Option<String>,
}

/// One server.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MemberStatus {
    /// The server's id.
    pub id: String,
    /// `ip:port`.
    pub address: String,
    /// What this node believes.
    pub state: MemberState,
    /// The node that answers.
    pub is_self: bool,
    /// True for a server that votes and holds nothing.
    pub arbiter: bool,
    /// From the config; none when it has none.
    pub priority: Option<u64>,
    /// The last generation known; zero when it was never seen.
    pub generation: u64,
    /// Age of this state, ms.
    pub since_ms: u64,
    /// Estimated round-trip loss to it, 0 to 1, from this node's own pings.
    pub loss: f64,
    /// Estimated round trip to it, microseconds; none before it has answered, and for the answering node itself.
    #[serde(default)]
    pub rtt_us: Option<u32>,
    /// The open case, if there is one.
    pub case: Option<CaseStatus>,
    /// True for one that the config does not name any more, and that has not left yet.
    #[serde(default)]
    pub retired: bool,
    /// True when it runs another list of servers or another quorum.
    pub config_differs: bool,
    /// True while an operator keeps items away from it.
    pub drained: bool,
    /// Why it says itself that it is not fit for items, if it does.
    #[serde(default)]
    pub inactive: Vec<String>,
    /// What its scripts said of it to all, as JSON texts.
    #[serde(default)]
    pub facts: std::collections::BTreeMap<String, String>,
    /// How much longer it gets no items because it was declared down lately, ms.
    pub immature_ms: Option<u64>,
}

/// What a node believes of a server.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Never seen since this node started.
    Unknown,
    /// Alive.
    Up,
    /// Alive, with an open case.
    Suspect,
    /// Down by verdict.
    Down,
    /// Said goodbye.
    Left,
}

/// An open case.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CaseStatus {
    /// What opened it.
    pub cause: String,
    /// Age, ms.
    pub since_ms: u64,
    /// Ids of the voters whose Down ballots stand now.
    pub down_ballots: Vec<String>,
    /// How many are needed.
    pub quorum: usize,
}

/// One item.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ItemStatus {
    /// The system's name.
    pub system: String,
    /// The item's name.
    pub item: String,
    /// Its addresses with their prefixes, in an ip system.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The server that is its home by wish.
    #[serde(default)]
    pub prefer: Option<String>,
    /// True for one that the config does not name any more, and that somebody has not let go of yet.
    #[serde(default)]
    pub retired: bool,
    /// What happens to it without a quorum: `keep`, `take` or `drop`.
    pub isolated: String,
    /// How much longer the answering node may hold it, ms: for `drop` only, and only where it is claimed.
    pub lease_ms: Option<u64>,
    /// The server on which it may still be, though its down hook failed: nobody takes it before that is
    /// cleared up and confirmed.
    pub unclean_on: Option<String>,
    /// What its hooks said that failed on the answering node, until one succeeds.
    #[serde(default)]
    pub failure: Option<FailureStatus>,
    /// What it needs and the answering node lacks, or has not had for long enough.
    #[serde(default)]
    pub unusable: Option<UnusableStatus>,
    /// How it is known outside, where it is an address that the answering node holds.
    #[serde(default)]
    pub announced: Option<AnnouncedStatus>,
    /// Where placement wants it: ids of servers.
    pub wanted: Vec<String>,
    /// The health checks that it depends on, as they are on the answering node.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
    /// Ids of the servers whose checks of it fail, or which lack what it needs.
    #[serde(default)]
    pub unhealthy_on: Vec<String>,
    /// Its state on the answering node, in the words of LINK.
    #[serde(default)]
    pub link: Option<crate::link::LinkState>,
    /// Who has said that it holds it, or is about to or about to let go.
    pub holders: Vec<HolderStatus>,
}

/// One health check on the answering node.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CheckStatus {
    /// Its kind and what it asks.
    pub check: String,
    /// What its results add up to.
    pub health: CheckHealth,
    /// Age of that, ms.
    pub since_ms: u64,
    /// Failures in a row until now.
    pub failures: u32,
    /// What the last failure said, if there was one.
    pub error: Option<String>,
    /// Age of that failure, ms.
    pub error_ms: Option<u64>,
}

/// What the results of a health check add up to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckHealth {
    /// Too few have ended since the daemon was started.
    Unproven,
    /// It succeeds.
    Healthy,
    /// It fails.
    Unhealthy,
}

/// What keeps an item from the answering node.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UnusableStatus {
    /// What is, or was last, wrong: `eth0 has no carrier`.
    pub why: String,
    /// For how long it is wrong, or is over, ms.
    pub since_ms: u64,
    /// When the item may be here again, ms from now; none while it is wrong.
    pub returns_in_ms: Option<u64>,
}

/// Hooks of an item that failed on the answering node.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FailureStatus {
    /// What the last one said.
    pub error: String,
    /// How many in a row.
    pub failures: u32,
    /// When it is tried again, ms from now; none while it runs.
    pub retry_ms: Option<u64>,
}

/// What came of the announcements of an item on the answering node.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AnnouncedStatus {
    /// The server that has seen that the answering node answers for it, and nobody else.
    pub confirmed_by: Option<String>,
    /// The hardware address of somebody else who answers for it.
    pub other: Option<String>,
    /// The server that has seen that.
    pub seen_by: Option<String>,
    /// Age of what was seen, ms.
    pub since_ms: Option<u64>,
}

/// One server's word on one item.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HolderStatus {
    /// The server's id.
    pub server: String,
    /// The item's state there.
    pub state: ItemState,
    /// Age of that state, ms.
    pub since_ms: u64,
}

impl Status {
    /// True when every member is up (or left on purpose) and long enough to get its items, a quorum is seen, no case is open and every
    /// item is active exactly where placement wants it. A server may fail an item's health checks, if another
    /// holds it.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.has_quorum
            && self.members.iter().all(|m| {
                matches!(m.state, MemberState::Up | MemberState::Left)
                    && !m.config_differs
                    && m.immature_ms.is_none()
            })
            && self.items.iter().all(|item| {
                let mut active: Vec<_> =
                    item.holders.iter().filter(|h| h.state == ItemState::Active).map(|h| &h.server).collect();
                let mut wanted: Vec<_> = item.wanted.iter().collect();
                active.sort();
                wanted.sort();
                // A server that is kept from an item by its checks is as it should be: a standby of a
                // database is no primary.
                let mut others = item.holders.iter().filter(|h| h.state != ItemState::Active);
                let as_expected =
                    |h: &HolderStatus| h.state == ItemState::Failing && item.unhealthy_on.contains(&h.server);
                !wanted.is_empty() && active == wanted && others.all(as_expected)
            })
    }
}
