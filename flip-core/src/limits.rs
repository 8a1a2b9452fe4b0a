//! Every limit of the core, in one place. Reaching one is an event or a counted refusal, never silence.

use std::time::Duration;

use crate::wire::message::HELLO;
use crate::wire::seal::OVERHEAD;

/// Largest datagram that is sent or accepted, in bytes: fits every path MTU from 1280 up.
pub const DATAGRAM: usize = 1200;
/// Largest stream frame, in bytes: the facts of 100,000 items fit.
pub const FRAME: usize = 4 << 20;
/// Smallest datagram that is accepted, in bytes: as long as the challenge that may answer it, so that no
/// answer to an unknown session is longer than what asked for it.
pub const SHORTEST: usize = OVERHEAD + HELLO;
/// Sessions of one sender whose replay windows are kept: the running daemon's and the one before.
pub const SESSIONS: usize = 2;
/// How long a challenge may be answered, and so how long an answer may be held up on its way.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(10);
/// Shortest time between two answers to a session that has not proven itself, per sender.
pub const CHALLENGE_PAUSE: Duration = Duration::from_millis(10);
/// How old a datagram may be that is repeated once its receiver knows this session.
pub const REPEAT_WITHIN: Duration = Duration::from_millis(500);
/// Datagrams a second that are opened per source.
pub const RATE: u32 = 2_000;
/// Datagrams that are opened at once per source.
pub const BURST: u32 = 4_000;
/// Shortest time between two events about refusals for the same reason.
pub const REFUSAL_PAUSE: Duration = Duration::from_secs(1);
/// For how long a server that was heard counts as running where another claims its id.
pub const DUPLICATE_MEMORY: Duration = Duration::from_secs(10);
/// How long a hint outlives its cause.
pub const HINT_LIFE: Duration = Duration::from_secs(60);
/// After so long without a change by somebody else, the count of such changes of an item begins anew.
pub const DRIFT_MEMORY: Duration = Duration::from_secs(60);
/// Keys in the ring.
pub const KEYS: usize = 3;
/// How long members may take to confirm a change of the keys.
pub const KEY_WAIT: Duration = Duration::from_secs(4);
/// Pause between two words about it to the same member.
pub const KEY_REPEAT: Duration = Duration::from_millis(200);
/// How long a removed key still opens, for those that have not heard of its end.
pub const KEY_GRACE: Duration = Duration::from_secs(10);
/// Voters in a cluster of more than [`ALL_VOTE`] servers: the lowest rendezvous hashes.
pub const VOTERS: usize = 31;
/// Up to this many servers, all vote.
pub const ALL_VOTE: usize = 63;
/// Pings in the window of one case at most, however much is lost.
pub const CASE_PINGS: u32 = 96;
/// Items in one facts datagram; a longer list travels by stream.
pub const FACTS_PER_DATAGRAM: usize = 64;
/// Items in one claim, grant or release.
pub const CLAIMS_PER_DATAGRAM: usize = 64;
/// Marks in one datagram.
pub const MARKS_PER_DATAGRAM: usize = 32;
/// Facts that the scripts of one node may tell all.
pub const TOLD_FACTS: usize = 32;
/// Reasons for which one node may be inactive.
pub const TOLD_REASONS: usize = 16;
/// Bytes of the name of a fact or a reason.
pub const TOLD_NAME: usize = 48;
/// Bytes of all that together: it goes into one datagram.
pub const TOLD_BYTES: usize = 900;
/// Bytes of what one system of a node says to its like on another (`Input::Say`): it goes into one datagram.
pub const ASIDE: usize = 1_000;
/// Such messages of one sender that are heard, a second.
pub const ASIDES: u32 = 200;
/// Such messages of one sender that are heard at once.
pub const ASIDES_AT_ONCE: u32 = 1_000;
/// Servers in one list of whose word is known.
pub const HEARD: usize = 64;
/// Pause between two repetitions of something that is said to everybody.
pub const REPEAT_PAUSE: Duration = Duration::from_millis(50);
/// Addresses that get a new lifetime by one call of the driver: some milliseconds of work.
pub const REFRESHED_AT_ONCE: usize = 64;
/// Longest lease that a voter grants.
pub const LEASE_MAX: Duration = Duration::from_secs(60);
/// Verdicts on one server that are remembered, to damp its flapping.
pub const FLAPS: usize = 8;
/// How long a verdict counts for flap damping.
pub const FLAP_MEMORY: Duration = Duration::from_secs(600);
/// Longest time that a flapping server is kept from getting items.
pub const MATURE_MAX: Duration = Duration::from_secs(300);
/// How long a leaving node waits for others to take its items before it lets go of them.
pub const HANDOVER: Duration = Duration::from_secs(5);
/// Items that one member may report.
pub const FACTS: usize = 100_000;
/// How often a verdict or a goodbye is repeated to one member that does not acknowledge it.
pub const REPEATS: u32 = 12;
/// How many random members a rumour is passed on to by each that hears it first.
pub const RUMOUR_FANOUT: usize = 8;
/// Longest pause between two greetings to a server that does not answer.
pub const GREETING_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause before a node that stalls again and again asks the voters whether they are there.
pub const ASKING_PAUSE: Duration = Duration::from_secs(2);
/// Hook failures in a row after which an item is `Failing` on this node.
pub const HOOK_FALL: u32 = 3;
/// Hooks of one system that run at once, unless the config says otherwise (`parallel`).
pub const HOOKS_AT_ONCE: usize = 16;
/// How long a holder stays after its successor confirmed that it holds the item, for what is on its way.
pub const LINGER: Duration = Duration::from_millis(100);
/// Least pause between two statements of facts that do not fit into a datagram.
pub const LONG_FACTS_PAUSE: Duration = Duration::from_millis(50);
/// The same for each item, where they are so many that it is longer.
pub const FACTS_PAUSE: Duration = Duration::from_micros(5);
/// First pause before a failed hook is tried again; doubles up to [`HOOK_RETRY_MAX`].
pub const HOOK_RETRY: Duration = Duration::from_millis(250);
/// Longest pause before a failed hook is tried again.
pub const HOOK_RETRY_MAX: Duration = Duration::from_secs(60);
/// How long an item stays `Failing` before this node offers itself again.
pub const FAILING_FOR: Duration = Duration::from_secs(30);
/// Health checks that run at a time.
pub const CHECKS_AT_ONCE: usize = 64;
/// The first runs of so many checks begin within so much time for each.
pub const CHECK_SPREAD: Duration = Duration::from_millis(5);
/// How long after its timeout a check that did not report is given up.
pub const CHECK_GRACE: Duration = Duration::from_millis(200);
/// For so long after the start of a daemon others wait for its checks before they take what belongs there.
pub const CHECK_YOUTH: Duration = Duration::from_secs(1);
/// Moves of items that a node remembers to be able to say why.
pub const MOVES: usize = 8192;
/// Of these, the last of one item that it tells.
pub const MOVES_SHOWN: usize = 16;
/// Refusals of leases that a node remembers to be able to say why.
pub const REFUSALS_KEPT: usize = 4096;
/// How long a planned move waits for a holder that does not say that it runs the same config.
pub const CONFIG_PATIENCE: Duration = Duration::from_secs(10);
/// So many electorates of before are remembered: verdicts of theirs still count.
pub const ELECTORATES: usize = 16;
/// Up to so many items, what is left of an earlier config is dropped as soon as it is needless.
pub const ITEMS_AT_ONCE: usize = 64;
/// With more items, so much later for each: it costs a look at all of them.
pub const NEEDLESS_PAUSE: Duration = Duration::from_micros(20);
/// Pause for each item between two changes of many items.
pub const ADOPT_PAUSE: Duration = Duration::from_micros(20);
/// Bytes of one entry of the catalog.
pub const CATALOG_ENTRY: usize = 64 << 10;
/// Bytes of the names in the key of an entry.
pub const CATALOG_NAME: usize = 512;
/// Bytes of the file layer of the catalog: a config file, whose text may become a little longer.
pub const CATALOG_FILE: usize = 2 << 20;
/// Bytes of entries in one frame while catalogs are compared.
pub const CATALOG_PAGE: usize = 1 << 20;
/// Bytes of entries, and of a file, in one answer about a catalog; an answer fits into a [`FRAME`].
pub const CATALOG_ANSWER: usize = 3 << 20;
/// Bytes of entries in one datagram.
pub const CATALOG_DATAGRAM: usize = 900;
/// How long a voter that accepted a change of who votes accepts no other.
pub const PROPOSAL_LIFE: Duration = Duration::from_secs(10);
/// Edits of one command.
pub const EDITS: usize = 20_000;
/// Edits that wait for a disk or for others.
pub const EDITS_WAITING: usize = 10_000;
/// Servers that one member takes in at a time.
pub const JOINS: usize = 64;
