//! Counters and gauges in the text of Prometheus. What happens is counted where events and outputs pass; what is so
//! now is asked of the node when somebody collects.
//!
//! Labels are bounded by the config (servers, systems) and by closed lists of words; no item has a label of its own.
//! `docs/operating.md` has the table of all of them, and a test compares it with this.

mod failover;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flip_core::config::Config;
use flip_core::event::{AbstainReason, CaseCause, Event, ItemState, Reason, Refusal};
use flip_core::record::Record;
use flip_core::status::MemberState;
use flip_core::tally::{ByKind, ROUND_TRIPS, RoundTrips};
use flip_core::{HookAction, Node, Time};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use failover::Failover;

/// What the text is, for the header of a reply.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;
type Seconds = Gauge<f64, AtomicU64>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Upper bounds in seconds: from a turn of the loop to a hook that takes its whole time.
const SECONDS: [f64; 14] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const STATES: [ItemState; 5] =
    [ItemState::Acquiring, ItemState::Active, ItemState::Releasing, ItemState::Failing, ItemState::Unclean];

/// All of them.
pub(super) struct Metrics {
    registry: Registry,
    // What happened.
    events: Counters,
    verdicts: Counters,
    ballots: Counters,
    abstained: Counters,
    opened: Counters,
    closed: Counters,
    refuted: Counter,
    views: Counter,
    moves: Counters,
    failed: Counters,
    hooks: Histograms,
    failover: Failover,
    late: Histogram,
    stalls: Counter,
    drifts: Counter,
    conflicts: Counter,
    check_failures: Counters,
    /// Hooks that run: what, and since when.
    running: BTreeMap<u64, (String, &'static str, Time)>,
    // What the node counts.
    refused: Counters,
    messages: Counters,
    message_bytes: Counters,
    datagrams: Counters,
    datagram_bytes: Counters,
    leases: Counters,
    round_trips: Trips,
    // What is so now.
    members: Gauges,
    member_up: Gauges,
    items: Gauges,
    wrong: Gauges,
    quorum: Gauge,
    voters_needed: Gauge,
    cases: Gauge,
    standing: Gauge,
    drained: Gauge,
    differs: Gauge,
    held_leases: Gauge,
    diverged: Seconds,
    queues: Gauges,
    config: Gauges,
    catalog_version: Gauge,
    catalog_edits: Gauge,
    catalog_conflicts: Gauge,
    catalog_met: Counter,
    catalog_pushes: Gauge,
    up_seconds: Seconds,
    started: Time,
}

/// What waits outside of the node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    /// Questions of handles.
    pub(super) asks: usize,
    /// Hooks and checks whose end was not looked at yet.
    pub(super) ends: usize,
}

impl Metrics {
    pub(super) fn new(config: &Config, now: Time) -> Self {
        let mut r = Registry::with_prefix("flip");
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let late = Histogram::new(SECONDS);
        r.register_with_unit(
            "loop_late",
            "How late the loop was when something was due",
            Unit::Seconds,
            late.clone(),
        );
        let hooks = Histograms::new_with_constructor(seconds);
        let help =
            "How long hooks took, by system, action (alive, down, announce, post) and result (ok, error)";
        r.register_with_unit("hook_duration", help, Unit::Seconds, hooks.clone());
        let round_trips = Trips::default();
        let help = "Round trips of this node's pings that were answered";
        r.register_with_unit("probe_round_trip", help, Unit::Seconds, round_trips.clone());
        let diverged = Seconds::default();
        let help = "For how long the digest of some live member has differed from this node's";
        r.register_with_unit("view_divergence", help, Unit::Seconds, diverged.clone());
        let up_seconds = Seconds::default();
        r.register_with_unit("uptime", "Age of this node's process", Unit::Seconds, up_seconds.clone());
        let failover = Failover::new(&mut r, seconds);
        let metrics = Self {
            events: family(&mut r, "events", "Events by kind and level, as flip events shows them"),
            verdicts: family(&mut r, "verdicts", "Verdicts of a quorum that a server is down, by server"),
            ballots: family(&mut r, "ballots_cast", "Down ballots that this node cast, by server"),
            abstained: family(
                &mut r,
                "ballots_abstained",
                "Ballots that this node did not cast because it does not trust its own senses, by reason",
            ),
            opened: family(&mut r, "cases_opened", "Cases that this node opened, by cause"),
            closed: family(
                &mut r,
                "cases_closed",
                "Cases that ended, by outcome (refuted, verdict, left, replaced)",
            ),
            refuted: one(
                &mut r,
                "false_suspicions",
                "Cases in which this node cast a Down ballot and the server answered after all",
            ),
            views: one(&mut r, "view_changes", "Changes of the set of live members"),
            moves: family(
                &mut r,
                "moves",
                "Items that began to come to this node or to leave it, by direction (in, out) and cause",
            ),
            failed: family(&mut r, "hook_failures", "Hooks that failed, by system and action"),
            stalls: one(&mut r, "stalls", "Times when this process was stopped, suspended or starved"),
            drifts: one(&mut r, "drifts", "Items that somebody else added or removed"),
            conflicts: one(
                &mut r,
                "conflicts",
                "Times when a host that is no member used an item of this node",
            ),
            check_failures: family(&mut r, "check_failures", "Health checks that failed here, by system"),
            refused: family(&mut r, "datagrams_refused", "Datagrams that were refused, by reason"),
            messages: family(&mut r, "messages", "Messages by kind and direction (sent, received)"),
            message_bytes: family(
                &mut r,
                "message_bytes",
                "Bytes of messages before they are sealed, by kind and direction",
            ),
            datagrams: family(&mut r, "datagrams", "Datagrams by direction (sent, received)"),
            datagram_bytes: family(&mut r, "datagram_bytes", "Bytes of datagrams by direction"),
            leases: family(
                &mut r,
                "leases",
                "Answers to claims, by side (voter: given by this node, holder: got by it) and what became of them \
                 (granted, refused, expired)",
            ),
            members: gauges(&mut r, "members", "Servers by what this node believes of them"),
            member_up: gauges(&mut r, "member_up", "1 when the server is up, 0 when it is not, by server"),
            items: gauges(&mut r, "items", "Items by state and by the server that says so"),
            wrong: gauges(
                &mut r,
                "items_wrong",
                "Items that are not as they should be (unheld, held_twice, unclean), as this node sees them",
            ),
            quorum: gauge(&mut r, "quorum_seen", "1 when this node sees a quorum, 0 when it is isolated"),
            voters_needed: gauge(&mut r, "quorum_size", "Ballots that it takes for a verdict"),
            cases: gauge(&mut r, "cases_open", "Cases that are open"),
            standing: gauge(&mut r, "ballots_standing", "Down ballots that stand in open cases"),
            drained: gauge(&mut r, "members_drained", "Servers that an operator drained"),
            differs: gauge(
                &mut r,
                "config_differs",
                "Members that run another list of servers, another quorum or other content",
            ),
            held_leases: gauge(&mut r, "leases_held", "Items that this node may hold by a lease"),
            queues: gauges(
                &mut r,
                "queue_depth",
                "What waits or runs, by queue (hooks, items, checks, asks, ends)",
            ),
            config: gauges(
                &mut r,
                "config_info",
                "1, with the hash of all that has to be alike on all servers",
            ),
            catalog_version: gauge(&mut r, "catalog_version", "Version of the config file below all edits"),
            catalog_edits: gauge(&mut r, "catalog_edits", "Records of edits of the catalog"),
            catalog_conflicts: gauge(
                &mut r,
                "catalog_conflicts",
                "Servers whose config file has the version of this node's and another content",
            ),
            // The format knows no two families of one name, so it is not called after the gauge.
            catalog_met: one(&mut r, "catalog_conflicts_met", "Times when such a config file was met"),
            catalog_pushes: gauge(
                &mut r,
                "catalog_pushes",
                "Edits of this node that wait for the disks of other servers",
            ),
            registry: r,
            hooks,
            failover,
            late,
            running: BTreeMap::new(),
            round_trips,
            diverged,
            up_seconds,
            started: now,
        };
        metrics.begin(config);
        metrics
    }

    /// What has not happened yet is zero and not missing: a rate needs a beginning.
    fn begin(&self, config: &Config) {
        let zero = |family: &Counters, by: &[(&'static str, &str)]| drop(family.get_or_create(&labels(by)));
        for server in config.servers.iter() {
            zero(&self.verdicts, &[("server", &server.id)]);
            zero(&self.ballots, &[("server", &server.id)]);
        }
        for reason in AbstainReason::ALL {
            zero(&self.abstained, &[("reason", reason.name())]);
        }
        for cause in CaseCause::ALL {
            zero(&self.opened, &[("cause", cause.name())]);
        }
        for outcome in failover::OUTCOMES {
            zero(&self.closed, &[("outcome", outcome)]);
        }
        for cause in Reason::ALL {
            for direction in ["in", "out"] {
                zero(&self.moves, &[("direction", direction), ("cause", cause.name())]);
            }
        }
        for system in &config.systems {
            for action in ["alive", "down", "announce", "post"] {
                zero(&self.failed, &[("system", &system.name), ("action", action)]);
            }
            zero(&self.check_failures, &[("system", &system.name)]);
            for action in ["alive", "down"] {
                let by = [("system", system.name.as_str()), ("action", action), ("result", "ok")];
                drop(self.hooks.get_or_create(&labels(&by)));
            }
        }
    }

    /// Something happened.
    pub(super) fn event(&mut self, event: &Event, record: &Record, node: &Node, now: Time) {
        let level = match record.level {
            flip_core::record::Level::Debug => "debug",
            flip_core::record::Level::Info => "info",
            flip_core::record::Level::Warning => "warning",
            flip_core::record::Level::Error => "error",
        };
        count(&self.events, &[("kind", &record.kind), ("level", level)]);
        let server = record.server.as_deref().unwrap_or_default();
        let reason = record.reason.as_deref().unwrap_or_default();
        let system = record.system.as_deref().unwrap_or_default();
        match event {
            Event::MemberUp { .. } | Event::MemberLeft { .. } => drop(self.views.inc()),
            Event::MemberDown { .. } => {
                self.views.inc();
                count(&self.verdicts, &[("server", server)]);
            }
            Event::CaseOpened { .. } => count(&self.opened, &[("cause", reason)]),
            Event::BallotCast { .. } => count(&self.ballots, &[("server", server)]),
            Event::Abstained { .. } => count(&self.abstained, &[("reason", reason)]),
            Event::Item { to: ItemState::Acquiring, .. } => {
                count(&self.moves, &[("direction", "in"), ("cause", reason)]);
            }
            Event::Item { to: ItemState::Releasing, .. } => {
                count(&self.moves, &[("direction", "out"), ("cause", reason)]);
            }
            Event::HookFailed { action, .. } => {
                count(&self.failed, &[("system", system), ("action", action.name())]);
            }
            Event::PostFailed { .. } => count(&self.failed, &[("system", system), ("action", "post")]),
            Event::CheckFailed { .. } => count(&self.check_failures, &[("system", system)]),
            Event::Stalled { .. } | Event::Suspended { .. } => drop(self.stalls.inc()),
            Event::Drift { .. } => drop(self.drifts.inc()),
            Event::Conflict { .. } => drop(self.conflicts.inc()),
            _ => {}
        }
        if let Some((outcome, accused)) = self.failover.event(event, record, node, now) {
            count(&self.closed, &[("outcome", outcome)]);
            if accused && outcome == "refuted" {
                self.refuted.inc();
            }
        }
    }

    /// A hook begins.
    pub(super) fn hook_began(&mut self, hook: u64, system: &str, action: Option<HookAction>, now: Time) {
        let action = action.map_or("post", HookAction::name);
        self.running.insert(hook, (system.to_owned(), action, now));
    }

    /// A hook ended.
    pub(super) fn hook_ended(&mut self, hook: u64, ok: bool, now: Time) {
        let Some((system, action, since)) = self.running.remove(&hook) else { return };
        let result = if ok { "ok" } else { "error" };
        let labels = labels(&[("system", &system), ("action", action), ("result", result)]);
        self.hooks.get_or_create(&labels).observe(now.since(since).as_secs_f64());
    }

    /// Something was due, and looked at so much later.
    pub(super) fn was_late(&self, late: Duration) {
        self.late.observe(late.as_secs_f64());
    }

    /// The text as of now.
    pub(super) fn text(&self, node: &Node, waiting: Waiting, now: Time) -> String {
        self.take_tally(node);
        self.take_census(node, now);
        let depths = node.depths();
        let queues = [
            ("hooks", depths.hooks),
            ("items", depths.items),
            ("checks", depths.checks),
            ("asks", waiting.asks),
            ("ends", waiting.ends),
        ];
        for (queue, depth) in queues {
            set(&self.queues, &[("queue", queue)], depth);
        }
        self.up_seconds.set(now.since(self.started).as_secs_f64());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    fn take_tally(&self, node: &Node) {
        let tally = node.tally();
        for (direction, kinds) in [("sent", &tally.sent), ("received", &tally.received)] {
            self.take_kinds(direction, kinds);
        }
        let (sent, bytes) = node.sent();
        store(&self.datagrams, &[("direction", "sent")], sent);
        store(&self.datagram_bytes, &[("direction", "sent")], bytes);
        store(&self.datagrams, &[("direction", "received")], tally.datagrams.count);
        store(&self.datagram_bytes, &[("direction", "received")], tally.datagrams.bytes);
        for (why, refused) in Refusal::ALL.iter().zip(node.refused_by_reason()) {
            store(&self.refused, &[("reason", why.name())], refused);
        }
        let leases = tally.leases;
        for (side, what, many) in [
            ("voter", "granted", leases.granted),
            ("voter", "refused", leases.refused),
            ("holder", "granted", leases.got),
            ("holder", "refused", leases.denied),
            ("holder", "expired", leases.expired),
        ] {
            store(&self.leases, &[("side", side), ("result", what)], many);
        }
        self.round_trips.set(&tally.round_trips);
    }

    fn take_kinds(&self, direction: &str, kinds: &ByKind) {
        for (kind, traffic) in kinds.iter() {
            store(&self.messages, &[("kind", kind), ("direction", direction)], traffic.count);
            store(&self.message_bytes, &[("kind", kind), ("direction", direction)], traffic.bytes);
        }
    }

    fn take_census(&self, node: &Node, now: Time) {
        let census = node.census(now);
        let config = node.config();
        // The config may have changed: what left it is not told any more.
        for family in [&self.member_up, &self.items, &self.config] {
            family.clear();
        }
        let word = |state: MemberState| match state {
            MemberState::Unknown => "unknown",
            MemberState::Up => "up",
            MemberState::Suspect => "suspect",
            MemberState::Down => "down",
            MemberState::Left => "left",
        };
        for state in [
            MemberState::Unknown,
            MemberState::Up,
            MemberState::Suspect,
            MemberState::Down,
            MemberState::Left,
        ] {
            let many = census.members.iter().filter(|member| **member == state).count();
            set(&self.members, &[("state", word(state))], many);
        }
        for (server, state) in census.members.iter().enumerate() {
            let up = matches!(state, MemberState::Up | MemberState::Suspect);
            let id = config.servers[server].id.as_str();
            set(&self.member_up, &[("server", id)], usize::from(up));
            for state in STATES {
                let many = census.items[server].get(&state).copied().unwrap_or_default();
                set(&self.items, &[("state", state.name()), ("server", id)], many);
            }
        }
        let wrong =
            [("unheld", census.unheld), ("held_twice", census.held_twice), ("unclean", census.unclean)];
        for (what, many) in wrong {
            set(&self.wrong, &[("what", what)], many);
        }
        set_one(&self.quorum, usize::from(node.has_quorum()));
        set_one(&self.voters_needed, config.quorum);
        set_one(&self.cases, census.cases);
        set_one(&self.standing, census.ballots);
        set_one(&self.drained, census.drained);
        set_one(&self.differs, census.config_differs);
        set_one(&self.held_leases, census.leases);
        self.diverged.set(node.diverged_for(now).as_secs_f64());
        set(&self.config, &[("hash", &format!("{:016x}", node.content_hash()))], 1);
        let catalog = node.catalog_status().unwrap_or_default();
        self.catalog_version.set(i64::try_from(catalog.version).unwrap_or(i64::MAX));
        set_one(&self.catalog_edits, catalog.edits);
        set_one(&self.catalog_conflicts, catalog.conflicts.len());
        set_one(&self.catalog_pushes, catalog.pushes);
        self.catalog_met.inner().store(node.catalog_conflicts(), Ordering::Relaxed);
    }
}

fn family(registry: &mut Registry, name: &str, help: &str) -> Counters {
    let family = Counters::default();
    registry.register(name, help, family.clone());
    family
}

fn gauges(registry: &mut Registry, name: &str, help: &str) -> Gauges {
    let family = Gauges::default();
    registry.register(name, help, family.clone());
    family
}

fn one(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn labels(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

fn count(family: &Counters, by: &[(&'static str, &str)]) {
    family.get_or_create(&labels(by)).inc();
}

/// What the node counts is taken as it stands: it only grows.
fn store(family: &Counters, by: &[(&'static str, &str)], value: u64) {
    family.get_or_create(&labels(by)).inner().store(value, Ordering::Relaxed);
}

fn set(family: &Gauges, by: &[(&'static str, &str)], value: usize) {
    set_one(&family.get_or_create(&labels(by)), value);
}

fn set_one(gauge: &Gauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Round trips as the node counted them.
#[derive(Clone, Default)]
struct Trips(Arc<Mutex<RoundTrips>>);

impl Trips {
    fn set(&self, trips: &RoundTrips) {
        // It is replaced as a whole.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trips.clone();
    }
}

impl fmt::Debug for Trips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trips")
    }
}

impl EncodeMetric for Trips {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let trips = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bounds = ROUND_TRIPS.iter().map(|micros| Duration::from_micros(*micros).as_secs_f64());
        let longer = trips.count - trips.buckets.iter().sum::<u64>();
        let mut buckets: Vec<_> = bounds.zip(trips.buckets).collect();
        buckets.push((f64::INFINITY, longer));
        encoder.encode_histogram::<NoLabelSet>(trips.sum, trips.count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
