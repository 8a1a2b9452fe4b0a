//! How long the parts of a failover took, as this node saw them.
//!
//! ```text
//!  last heard ──detection──▶ own ballot ──agreement──▶ verdict ─▶ alive hook ──hook──▶ here ──announce──▶ confirmed
//!       └──────────────────────────────────total──────────────────────────────────────▶│
//! ```
//!
//! A node that heard of the verdict from others and cast no ballot tells nothing of the first two parts.

use std::collections::BTreeMap;
use std::time::Duration;

use flip_core::event::{Event, ItemState, Reason};
use flip_core::record::Record;
use flip_core::{Node, Time};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Histograms, labels};

/// What is taken over later than this after a verdict has other reasons to be late.
const RECENT: Duration = Duration::from_secs(60);

type Name = (String, String);

/// How cases end.
pub(super) const OUTCOMES: [&str; 4] = ["refuted", "verdict", "left", "replaced"];
const PARTS: [&str; 5] = ["detection", "agreement", "hook", "announce", "total"];

/// The clock of failovers.
pub(super) struct Failover {
    parts: Histograms,
    /// Open cases by server, and when this node cast a ballot in them.
    cases: BTreeMap<String, Option<Time>>,
    /// Items that are being taken over: since when. At most all items.
    taking: BTreeMap<Name, Time>,
    /// Items that were taken over and not confirmed yet.
    unconfirmed: BTreeMap<Name, Time>,
    /// When the server of the newest verdict was last heard, and when that verdict was.
    death: Option<(Time, Time)>,
}

impl Failover {
    pub(super) fn new(registry: &mut Registry, seconds: fn() -> Histogram) -> Self {
        let parts = Histograms::new_with_constructor(seconds);
        let help = "Parts of failovers as this node saw them (detection, agreement, hook, announce, total)";
        registry.register_with_unit("failover", help, Unit::Seconds, parts.clone());
        for part in PARTS {
            drop(parts.get_or_create(&labels(&[("part", part)])));
        }
        Self {
            parts,
            cases: BTreeMap::new(),
            taking: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
            death: None,
        }
    }

    fn observe(&self, part: &str, took: Duration) {
        self.parts.get_or_create(&labels(&[("part", part)])).observe(took.as_secs_f64());
    }

    /// Something happened. When it ends a case: how, and whether this node had cast a ballot in it.
    pub(super) fn event(
        &mut self,
        event: &Event,
        record: &Record,
        node: &Node,
        now: Time,
    ) -> Option<(&'static str, bool)> {
        let about = record.server.clone().unwrap_or_default();
        match event {
            Event::CaseOpened { .. } => {
                self.cases.insert(about, None);
                None
            }
            Event::BallotCast { server, .. } => {
                let ballot = self.cases.entry(about).or_default();
                if ballot.is_none()
                    && let Some(heard) = node.last_heard(*server)
                {
                    self.parts
                        .get_or_create(&labels(&[("part", "detection")]))
                        .observe(now.since(heard).as_secs_f64());
                }
                ballot.get_or_insert(now);
                None
            }
            Event::MemberDown { server, .. } => {
                self.death = node.last_heard(*server).map(|heard| (heard, now));
                let case = self.cases.remove(&about)?;
                if let Some(ballot) = case {
                    self.observe("agreement", now.since(ballot));
                }
                Some(("verdict", case.is_some()))
            }
            Event::CaseClosed { .. } => Some(("refuted", self.cases.remove(&about)?.is_some())),
            Event::MemberLeft { .. } => Some(("left", self.cases.remove(&about)?.is_some())),
            // A newer generation of it.
            Event::MemberUp { .. } => Some(("replaced", self.cases.remove(&about)?.is_some())),
            Event::Item { from, to, reason, .. } => {
                let name = (record.system.clone()?, record.item.clone()?);
                self.item(name, *from, *to, *reason, now);
                None
            }
            Event::Confirmed { .. } => {
                let name = (record.system.clone()?, record.item.clone()?);
                if let Some(since) = self.unconfirmed.remove(&name) {
                    self.observe("announce", now.since(since));
                }
                None
            }
            _ => None,
        }
    }

    fn item(&mut self, name: Name, from: ItemState, to: ItemState, reason: Reason, now: Time) {
        self.unconfirmed.remove(&name);
        match (from, to) {
            (ItemState::Standby, ItemState::Acquiring) if reason == Reason::Failover => {
                self.taking.insert(name, now);
            }
            (ItemState::Acquiring, ItemState::Active) => {
                let Some(since) = self.taking.remove(&name) else { return };
                self.observe("hook", now.since(since));
                if let Some((heard, verdict)) = self.death
                    && since.since(verdict) < RECENT
                {
                    self.observe("total", now.since(heard));
                }
                self.unconfirmed.insert(name, now);
            }
            _ => drop(self.taking.remove(&name)),
        }
    }
}
