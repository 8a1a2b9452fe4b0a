//! Each kind of event in words.

use std::borrow::Cow;

use super::Level::{Debug, Error, Info, Warning};
use super::{Record, ms};
use crate::config::{Config, Isolated};
use crate::event::{AbstainReason, CaseCause, Event, ItemState, Reason, Refusal};
use crate::io::HookAction;

pub(super) fn of(event: &Event, config: &Config) -> Record {
    match event {
        Event::Started { .. }
        | Event::MemberUp { .. }
        | Event::MemberDown { .. }
        | Event::MemberLeft { .. }
        | Event::DeclaredDown { .. }
        | Event::Isolated
        | Event::QuorumSeen
        | Event::DuplicateId { .. }
        | Event::ConfigDiffers { .. }
        | Event::ConfigChanged { .. }
        | Event::Outcast
        | Event::CatalogFile { .. }
        | Event::CatalogConflict { .. }
        | Event::CatalogInvalid { .. }
        | Event::CatalogNotStored { .. }
        | Event::Drained { .. }
        | Event::Inactive { .. } => member(event, config),
        Event::CaseOpened { .. }
        | Event::CaseClosed { .. }
        | Event::BallotCast { .. }
        | Event::Abstained { .. } => case(event, config),
        Event::Item { .. }
        | Event::HookFailed { .. }
        | Event::PostFailed { .. }
        | Event::Drift { .. }
        | Event::Usable { .. }
        | Event::Returning { .. }
        | Event::Lease { .. }
        | Event::Unclean { .. }
        | Event::CheckFailed { .. }
        | Event::Health { .. } => item(event, config),
        Event::Reannounced { .. }
        | Event::Confirmed { .. }
        | Event::AnsweredByOther { .. }
        | Event::Conflict { .. } => network(event, config),
        Event::Reloaded { .. }
        | Event::Asked { .. }
        | Event::Stalled { .. }
        | Event::Suspended { .. }
        | Event::KeysChanged { .. }
        | Event::Refused { .. } => process(event),
    }
}

/// What happens to members.
fn member(event: &Event, config: &Config) -> Record {
    let plain = Record::plain;
    match event {
        Event::Started { generation } => {
            let record = plain("started", Info, "started").server(config, config.me);
            Record { generation: Some(*generation), ..record }
        }
        Event::MemberUp { server, generation } => {
            let record = plain("member_up", Info, "member is up").server(config, *server);
            Record { generation: Some(*generation), ..record }
        }
        Event::MemberDown { server, generation, voters } => {
            let record = plain("member_down", Warning, "member is down").server(config, *server);
            let voters = voters.iter().map(|voter| config.servers[*voter].id.clone()).collect();
            Record { generation: Some(*generation), voters, ..record }
        }
        Event::MemberLeft { server, generation } => {
            let record = plain("member_left", Info, "member left").server(config, *server);
            Record { generation: Some(*generation), ..record }
        }
        Event::DeclaredDown { old, new } => {
            let text = "the others declared this node down; going on as a new generation";
            let record = plain("declared_down", Warning, text).server(config, config.me);
            Record { generation: Some(*new), old_generation: Some(*old), ..record }
        }
        Event::Isolated => {
            let text = Cow::Owned(format!("sees no quorum: {}", without_quorum(config)));
            let record = plain("isolated", Warning, "").server(config, config.me);
            Record { text, quorum: Some(config.quorum as u64), ..record }
        }
        Event::QuorumSeen => {
            let record = plain("quorum_seen", Info, "sees a quorum").server(config, config.me);
            Record { quorum: Some(config.quorum as u64), ..record }
        }
        Event::DuplicateId { server, from } => {
            let text = "a second daemon runs under this id";
            let record = plain("duplicate_id", Error, text).server(config, *server);
            let expected = Some(config.servers[*server].addr.to_string());
            Record { address: Some(from.to_string()), expected, ..record }
        }
        Event::ConfigDiffers { server } => {
            let text = "runs another list of servers or another quorum: its ballots do not count";
            plain("config_differs", Error, text).server(config, *server)
        }
        Event::ConfigChanged { what } => Record {
            text: Cow::Owned(format!("another config: {what}")),
            ..plain("config_changed", Info, "")
        },
        Event::Outcast => {
            let text = "this server is not in the config any more: it lets go of everything and leaves";
            plain("outcast", Warning, text)
        }
        Event::CatalogFile { .. }
        | Event::CatalogConflict { .. }
        | Event::CatalogInvalid { .. }
        | Event::CatalogNotStored { .. } => catalog(event, config),
        Event::Drained { server, drained } => {
            let text =
                if *drained { "drained: gets no items until flip undrain" } else { "may have items again" };
            Record { on: Some(*drained), ..plain("drained", Info, text).server(config, *server) }
        }
        Event::Inactive { server, reason, inactive } => {
            let record = if *inactive {
                plain("inactive", Warning, "says that it is not fit for items: gets none")
            } else {
                plain("inactive", Info, "says that this reason is over")
            };
            let reason = Some(Cow::Owned(reason.clone()));
            Record { on: Some(*inactive), reason, ..record.server(config, *server) }
        }
        other => unreachable!("{other:?} is not about a member"),
    }
}

/// What happens on the way to a verdict.
fn case(event: &Event, config: &Config) -> Record {
    let plain = Record::plain;
    match event {
        Event::CaseOpened { server, cause } => {
            let record = plain("case_opened", Debug, "case opened").server(config, *server);
            Record { reason: Some(Cow::Borrowed(cause.name())), ..record }
        }
        Event::CaseClosed { server, after } => {
            let record =
                plain("case_closed", Debug, "case closed: the member answers").server(config, *server);
            Record { after_ms: Some(ms(*after)), ..record }
        }
        Event::BallotCast { server, ballots, quorum } => {
            let record = plain("ballot_cast", Info, "no answer: cast a ballot").server(config, *server);
            Record { ballots: Some(*ballots as u64), quorum: Some(*quorum as u64), ..record }
        }
        Event::Abstained { server, reason } => {
            let text = "no answer, but this node does not trust its own senses";
            let record = plain("abstained", Info, text).server(config, *server);
            Record { reason: Some(Cow::Borrowed(reason.name())), ..record }
        }
        other => unreachable!("{other:?} is not about a case"),
    }
}

/// What happens to items.
fn item(event: &Event, config: &Config) -> Record {
    let plain = Record::plain;
    match event {
        Event::Item { item, from, to, reason } => {
            let record = match to {
                // It is told of itself, once for each interface.
                ItemState::Failing if *reason == Reason::Unusable => {
                    plain("item", Debug, "item cannot be held here")
                }
                ItemState::Failing => plain("item", Error, "item cannot be held here"),
                ItemState::Unclean => {
                    plain("item", Error, "item could not be released in time: it may still be here")
                }
                ItemState::Active | ItemState::Standby => plain("item", Info, "item"),
                ItemState::Acquiring | ItemState::Releasing => plain("item", Debug, "item"),
            };
            let reason = Some(Cow::Borrowed(reason.name()));
            Record { from: Some(*from), to: Some(*to), reason, ..record }
                .item(config, *item)
                .server(config, config.me)
        }
        Event::HookFailed { item, action, error, failures, retry_in } => Record {
            action: Some(Cow::Borrowed(action.name())),
            error: Some(error.clone()),
            failures: Some(u64::from(*failures)),
            retry_ms: Some(ms(*retry_in)),
            ..plain("hook_failed", Warning, "hook failed").item(config, *item)
        },
        Event::PostFailed { system, error } => Record {
            system: Some(config.systems[*system].name.clone()),
            action: Some(Cow::Borrowed("post")),
            error: Some(error.clone()),
            ..plain("post_failed", Warning, "post hook failed")
        },
        Event::Drift { item, present, times } => {
            let text = if *present { "somebody else added it" } else { "somebody else removed it" };
            let record = plain("drift", Warning, text).item(config, *item);
            Record { on: Some(*present), times: Some(u64::from(*times)), ..record }
        }
        Event::Usable { item, trouble: Some(trouble) } => {
            let record = plain("usable", Debug, "cannot be here: it goes elsewhere").item(config, *item);
            Record { on: Some(false), error: Some(trouble.clone()), ..record }
        }
        Event::Usable { item, trouble: None } => {
            Record { on: Some(true), ..plain("usable", Info, "may be here again").item(config, *item) }
        }
        Event::Returning { item, after } => {
            let record = plain("returning", Debug, "may be here again, if that lasts").item(config, *item);
            Record { after_ms: Some(ms(*after)), ..record }
        }
        Event::Lease { item, held } => {
            let text = if *held { "lease: it may be held here" } else { "lease: it may not be held here" };
            Record { on: Some(*held), ..plain("lease", Debug, text).item(config, *item) }
        }
        Event::Unclean { server, item, unclean } => {
            let record = if *unclean {
                let name = &config.systems[item.system].items[item.item].name;
                let text = format!(
                    "item may still be there, so nobody takes it; make sure that it is released, then run: \
                     flip confirm-released {name}"
                );
                Record { text: Cow::Owned(text), ..plain("unclean", Error, "") }
            } else {
                plain("unclean", Info, "item is released there")
            };
            Record { on: Some(*unclean), ..record.item(config, *item).server(config, *server) }
        }
        Event::CheckFailed { check, error, failures, fall } => {
            // Once it is unhealthy, that it still is says nothing new.
            let level = if failures <= fall { Warning } else { Debug };
            let record = plain("check_failed", level, "health check failed").check(config, *check);
            let (failures, fall) = (Some(u64::from(*failures)), Some(u64::from(*fall)));
            Record { error: Some(error.clone()), failures, fall, ..record }
        }
        Event::Health { check, healthy } => {
            let record = if *healthy {
                plain("health", Info, "healthy")
            } else {
                plain("health", Error, "unhealthy: others that are healthy take over")
            };
            Record { on: Some(*healthy), ..record.check(config, *check) }
        }
        other => unreachable!("{other:?} is not about an item"),
    }
}

/// What becomes of the catalog.
fn catalog(event: &Event, config: &Config) -> Record {
    let plain = Record::plain;
    match event {
        Event::CatalogFile { version, from, ended } => {
            let record =
                plain("catalog_file", Info, "the config file of this version counts now, everywhere");
            let by = from.map(|server| config.servers[server].id.clone());
            Record { version: Some(*version), by, ended: ended.clone(), ..record }
        }
        Event::CatalogConflict { server, version } => {
            let text = "has another config file of the same version: neither counts for the other; raise \
                        `version` in the right one and reload it there";
            let record = plain("catalog_conflict", Error, text).server(config, *server);
            Record { version: Some(*version), ..record }
        }
        Event::CatalogInvalid { why } => {
            let text = "the catalog makes no config that can be used: the one before goes on";
            Record { error: Some(why.clone()), ..plain("catalog_invalid", Error, text) }
        }
        Event::CatalogNotStored { why } => {
            let text = "the state dir takes no changes: edits are refused";
            Record { error: Some(why.clone()), ..plain("catalog_not_stored", Error, text) }
        }
        other => unreachable!("{other:?} is not about the catalog"),
    }
}

/// What is seen of items on the network.
fn network(event: &Event, config: &Config) -> Record {
    let plain = Record::plain;
    match event {
        Event::Reannounced { item } => plain("reannounced", Info, "announced again").item(config, *item),
        Event::Confirmed { item, by } => {
            let record = plain("confirmed", Info, "announced, and confirmed").item(config, *item);
            Record { by: Some(config.servers[*by].id.clone()), ..record }
        }
        Event::AnsweredByOther { item, by, mac } => {
            let text = "another host answers for it: announced again";
            let record = plain("answered_by_other", Warning, text).item(config, *item);
            let digits: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            Record { by: Some(config.servers[*by].id.clone()), mac: Some(digits.join(":")), ..record }
        }
        Event::Conflict { item, with, give_up } => {
            let text = if *give_up {
                "address conflict: a host that is no member uses it, too; it is given up here"
            } else {
                "address conflict: a host that is no member uses it, too; it is announced again"
            };
            let record = plain("conflict", Error, text).item(config, *item);
            Record { on: Some(*give_up), mac: Some(with.clone()), ..record }
        }
        other => unreachable!("{other:?} is not about the network"),
    }
}

/// What happens to this process.
fn process(event: &Event) -> Record {
    let plain = Record::plain;
    match event {
        Event::Reloaded { result: Ok(what) } => {
            let text = Cow::Owned(format!("scripts read again: {what}"));
            Record { text, on: Some(true), ..plain("reloaded", Info, "") }
        }
        Event::Reloaded { result: Err(why) } => {
            let text = Cow::Owned(format!("scripts not read again: {why}"));
            Record { text, on: Some(false), ..plain("reloaded", Error, "") }
        }
        Event::Asked { by, from, what, result } => {
            let (level, text) = match result {
                Ok(done) => (Info, format!("asked for, and done: {done}")),
                Err(why) => (Warning, format!("asked for, and not done: {why}")),
            };
            let record =
                Record { text: Cow::Owned(text), on: Some(result.is_ok()), ..plain("asked", level, "") };
            let action = Some(Cow::Owned(what.clone()));
            Record { by: Some(by.clone()), address: Some(from.clone()), action, ..record }
        }
        Event::Stalled { late } => {
            let record = plain("stalled", Warning, "this process was stopped, suspended or starved");
            Record { late_ms: Some(ms(*late)), ..record }
        }
        Event::Suspended { by } => {
            Record { late_ms: Some(ms(*by)), ..plain("suspended", Warning, "this machine slept") }
        }
        Event::KeysChanged { ids, active } => {
            let others = ids.iter().filter(|id| *id != active);
            let keys = std::iter::once(active).chain(others).map(|id| format!("{id:02x}")).collect();
            Record { keys, ..plain("keys_changed", Info, "keys changed: the first seals") }
        }
        Event::Refused { from, why } => Record {
            address: Some(from.to_string()),
            reason: Some(Cow::Borrowed(why.name())),
            ..plain("refused", Debug, "refused a datagram")
        },
        other => unreachable!("{other:?} is not about this process"),
    }
}

/// What becomes of items without a quorum.
fn without_quorum(config: &Config) -> &'static str {
    let any = |policy| {
        let mut items = config.systems.iter().flat_map(|system| &system.items);
        items.any(|item| item.isolated == policy)
    };
    match (any(Isolated::Drop), any(Isolated::Take)) {
        (false, false) => "keeps what it holds, takes nothing",
        (true, false) => "lets go of items with \"isolated\": \"drop\", keeps others, takes nothing",
        (false, true) => {
            "keeps what it holds, takes items with \"isolated\": \"take\" that nobody in sight holds"
        }
        (true, true) => "each item goes by its \"isolated\": keep, take or drop",
    }
}

impl CaseCause {
    /// All causes.
    pub const ALL: [Self; 5] =
        [Self::ProbeFailed, Self::Suspicion, Self::Ballot, Self::PortUnreachable, Self::NeverSeen];

    /// The word for it in records, the status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProbeFailed => "probe_failed",
            Self::Suspicion => "suspicion",
            Self::Ballot => "ballot",
            Self::PortUnreachable => "port_unreachable",
            Self::NeverSeen => "never_seen",
        }
    }
}

impl AbstainReason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::NoContact, Self::Stalled, Self::WitnessSilent];

    /// The word for it in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoContact => "no_contact",
            Self::Stalled => "stalled",
            Self::WitnessSilent => "witness_silent",
        }
    }
}

impl Refusal {
    /// The word for it in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Version => "version",
            Self::Cluster => "cluster",
            Self::Sender => "sender",
            Self::Budget => "budget",
            Self::Replay => "replay",
            Self::Seal => "seal",
            Self::Session => "session",
            Self::Malformed => "malformed",
            Self::OwnId => "own_id",
        }
    }
}

impl ItemState {
    /// The word for it everywhere.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Acquiring => "acquiring",
            Self::Active => "active",
            Self::Releasing => "releasing",
            Self::Failing => "failing",
            Self::Unclean => "unclean",
        }
    }
}

impl HookAction {
    /// The word for it in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Down => "down",
            Self::Announce => "announce",
        }
    }
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 19] = [
        Self::Home,
        Self::Failover,
        Self::Leave,
        Self::Failback,
        Self::Adopted,
        Self::Shutdown,
        Self::Drift,
        Self::Isolated,
        Self::LeaseLost,
        Self::Confirmed,
        Self::Drain,
        Self::HealthCheck,
        Self::Inactive,
        Self::Unusable,
        Self::Conflict,
        Self::Removed,
        Self::Redefined,
        Self::HookFailed,
        Self::HookDone,
    ];

    /// The word for it in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Failover => "failover",
            Self::Leave => "leave",
            Self::Failback => "failback",
            Self::Adopted => "adopted",
            Self::Shutdown => "shutdown",
            Self::Drift => "drift",
            Self::Isolated => "isolated",
            Self::LeaseLost => "lease_lost",
            Self::Confirmed => "confirmed",
            Self::Drain => "drain",
            Self::HealthCheck => "health_check",
            Self::Inactive => "inactive",
            Self::Unusable => "unusable",
            Self::Conflict => "conflict",
            Self::Removed => "removed",
            Self::Redefined => "redefined",
            Self::HookFailed => "hook_failed",
            Self::HookDone => "hook_done",
        }
    }
}
