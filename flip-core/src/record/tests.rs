use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::event::{AbstainReason, CaseCause, Reason, Refusal};
use crate::io::HookAction;
use crate::testing;

/// One of each kind; where a flag says whether something began or ended, one of each.
pub(crate) fn one_of_each() -> Vec<Event> {
    let item = ItemRef { system: 0, item: 1 };
    let check = CheckRef { system: 0, item: None, check: 0 };
    let from = ([192, 0, 2, 9], 2200).into();
    let ms = Duration::from_millis;
    let both = [true, false];
    let mut all = vec![
        Event::Started { generation: 7 },
        Event::MemberUp { server: 1, generation: 3 },
        Event::MemberDown { server: 1, generation: 3, voters: vec![0, 2] },
        Event::MemberLeft { server: 1, generation: 3 },
        Event::CaseOpened { server: 1, cause: CaseCause::PortUnreachable },
        Event::CaseClosed { server: 1, after: Duration::from_micros(1_234_567) },
        Event::BallotCast { server: 1, ballots: 1, quorum: 2 },
        Event::Abstained { server: 1, reason: AbstainReason::NoContact },
        Event::DeclaredDown { old: 7, new: 8 },
        Event::Isolated,
        Event::QuorumSeen,
        Event::Stalled { late: ms(70) },
        Event::DuplicateId { server: 1, from },
        Event::ConfigDiffers { server: 1 },
        Event::ConfigChanged { what: "item x added".into() },
        Event::Outcast,
        Event::CatalogFile { version: 3, from: Some(1), ended: vec!["item ip/10.0.0.9".into()] },
        Event::CatalogConflict { server: 1, version: 3 },
        Event::CatalogInvalid { why: "item 7: no address".into() },
        Event::CatalogNotStored { why: "no space left on device".into() },
        Event::Item { item, from: ItemState::Standby, to: ItemState::Acquiring, reason: Reason::Failover },
        Event::HookFailed {
            item,
            action: HookAction::Alive,
            error: "no such device".into(),
            failures: 2,
            retry_in: ms(500),
        },
        Event::PostFailed { system: 0, error: "x".into() },
        Event::Reloaded { result: Ok("1 script".into()) },
        Event::Reloaded { result: Err("s.lua:3: no".into()) },
        Event::Asked {
            by: "ops".into(),
            from: "192.0.2.9:5".into(),
            what: "POST /v1/drain/b".into(),
            result: Ok("drained".into()),
        },
        Event::Reannounced { item },
        Event::Confirmed { item, by: 2 },
        Event::AnsweredByOther { item, by: 2, mac: [2, 0, 0, 0, 0, 0xfe] },
        Event::Usable { item, trouble: Some("eth0 has no carrier".into()) },
        Event::Usable { item, trouble: None },
        Event::Returning { item, after: ms(1000) },
        Event::Suspended { by: ms(5000) },
        Event::CheckFailed { check, error: "refused".into(), failures: 1, fall: 3 },
        Event::KeysChanged { ids: vec![1, 0xab], active: 0xab },
        Event::Refused { from, why: Refusal::OwnId },
    ];
    for on in both {
        all.push(Event::Drift { item, present: on, times: 2 });
        all.push(Event::Conflict { item, with: "02:00:00:00:00:07".into(), give_up: on });
        all.push(Event::Lease { item, held: on });
        all.push(Event::Drained { server: 2, drained: on });
        all.push(Event::Inactive { server: 2, reason: "disk".into(), inactive: on });
        all.push(Event::Unclean { server: 2, item, unclean: on });
        all.push(Event::Health { check, healthy: on });
        let result = if on { Ok("a is drained".to_owned()) } else { Err("there is no server a".to_owned()) };
        let (by, from) = ("token ann".to_owned(), "192.0.2.7:50000".to_owned());
        all.push(Event::Asked { by, from, what: "POST /v1/drain/a".to_owned(), result });
    }
    all
}

fn config() -> Config {
    let mut config = testing::config("abc", "a");
    config.systems[0].items = testing::items(2);
    config.systems[0].checks = vec![testing::check(crate::config::CheckKind::Lua { script: "s".into() })];
    config
}

/// The kinds are what others rely on: this list only grows.
const KINDS: [&str; 41] = [
    "abstained",
    "answered_by_other",
    "asked",
    "ballot_cast",
    "case_closed",
    "case_opened",
    "catalog_conflict",
    "catalog_file",
    "catalog_invalid",
    "catalog_not_stored",
    "check_failed",
    "config_changed",
    "config_differs",
    "confirmed",
    "conflict",
    "declared_down",
    "drained",
    "drift",
    "duplicate_id",
    "health",
    "hook_failed",
    "inactive",
    "isolated",
    "item",
    "keys_changed",
    "lease",
    "member_down",
    "member_left",
    "member_up",
    "outcast",
    "post_failed",
    "quorum_seen",
    "reannounced",
    "refused",
    "reloaded",
    "returning",
    "stalled",
    "started",
    "suspended",
    "unclean",
    "usable",
];

#[test]
fn every_kind_is_stable_documented_and_comes_back_from_json() {
    let config = config();
    let docs = include_str!("../../../docs/operating.md");
    let mut kinds = BTreeSet::new();
    for (seq, event) in one_of_each().iter().enumerate() {
        let record = Record::new(event, &config, seq as u64 + 1, 1_763_000_000_000);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record, "{json}");
        assert!(!json.contains("null"), "what is not there is left out: {json}");
        assert!(!record.text.is_empty() && record.line().starts_with(record.text.as_ref()), "{json}");
        assert!(docs.contains(&format!("`{}`", record.kind)), "docs/operating.md names {}", record.kind);
        assert!(record.bytes() > size_of::<Record>() / 2);
        kinds.insert(record.kind.to_string());
    }
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), KINDS);
}

#[test]
fn names_instead_of_positions_and_numbers_with_units() {
    let config = config();
    let line = |event: &Event| Record::new(event, &config, 1, 0).line();
    let item = ItemRef { system: 0, item: 1 };
    let table = [
        (
            Event::MemberDown { server: 1, generation: 3, voters: vec![0, 2] },
            "member is down server=b generation=3 voters=a,c",
        ),
        (
            Event::CaseClosed { server: 1, after: Duration::from_nanos(1_234_567_499) },
            "case closed: the member answers server=b after_ms=1234.567",
        ),
        (
            Event::Item { item, from: ItemState::Acquiring, to: ItemState::Active, reason: Reason::HookDone },
            "item server=a system=test item=1 from=acquiring to=active reason=hook_done",
        ),
        (
            Event::Usable { item, trouble: Some("eth0 has no carrier".into()) },
            "cannot be here: it goes elsewhere system=test item=1 error=\"eth0 has no carrier\" on=false",
        ),
        (Event::KeysChanged { ids: vec![1, 0xab], active: 0xab }, "keys changed: the first seals keys=ab,01"),
    ];
    for (event, expected) in table {
        assert_eq!(line(&event), expected);
    }
}

#[test]
fn words_are_those_of_the_status() {
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
    }
    for refusal in Refusal::ALL {
        assert_eq!(serde_json::to_value(refusal).unwrap(), refusal.name());
    }
    let states = [ItemState::Standby, ItemState::Acquiring, ItemState::Active, ItemState::Releasing];
    for state in states.into_iter().chain([ItemState::Failing, ItemState::Unclean]) {
        assert_eq!(serde_json::to_value(state).unwrap(), state.name());
    }
    for cause in [CaseCause::ProbeFailed, CaseCause::Suspicion, CaseCause::Ballot, CaseCause::NeverSeen] {
        assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
    }
}
