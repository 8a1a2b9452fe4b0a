//! Events as log lines: one line each, names instead of positions.

use std::collections::BTreeMap;
use std::time::Duration;

use flip_core::Time;
use flip_core::config::{Config, Isolated, LogLevel, Problem};
use flip_core::event::{Event, ItemState, Reason, Refusal};
use flip_core::id::{CheckRef, ItemRef};
use tracing::{debug, error, info, warn};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::LogFormat;

/// Starts the log. A thread of its own writes it, so that a reader of standard error that stands still
/// cannot hold up the loop; lines are dropped then. Ends when the guard is dropped.
pub fn start(format: LogFormat, level: LogLevel) -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).thread_name("flip-log").finish(std::io::stderr());
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        // What ends the daemon is printed by main, with its reason.
        LogLevel::Fatal => LevelFilter::OFF,
    };
    let ours = ["flip", "flip_core", "flip_systems"].map(|target| (target, level));
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(ours);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(
            std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none(),
        )
        .with_writer(writer);
    // Only a second call in one process could fail.
    let _ = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    guard
}

/// Writes what `flip check` would say of the config, as one line.
pub fn warning(problem: &Problem) {
    let Problem { file, line, column, path, message, help, .. } = problem;
    warn!(file, line, column, key = path, help, "{message}");
}

/// So many removals in a row are no accident.
const FIGHT: u32 = 5;
/// Who removes addresses that it did not put there, and how it is told not to (systemd.network(5), networkd.conf(5),
/// NetworkManager.conf(5)).
const WHO_FIGHTS: &str = "it is put back each time. Mostly it is the manager of the interface: for systemd-networkd set \
    KeepConfiguration=yes in the interface's .network file; for NetworkManager name the interface under \
    unmanaged-devices= in its [keyfile] section, or run: nmcli device set <interface> managed no";

/// How long a line that would repeat is held back after it was written.
const QUIET: Duration = Duration::from_secs(60);

/// Writes events. Those that may come many times a second are written once in a while, with how many were
/// left out: who floods the network must not flood the disk.
#[derive(Debug, Default)]
pub struct Log {
    /// When each was written last, and how many came since.
    repeats: BTreeMap<Repeat, (Time, u64)>,
}

/// What may repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Repeat {
    Stalled,
    Refused(Refusal),
    /// Somebody removes an item again and again.
    Fight(ItemRef),
}

impl Log {
    /// Writes one event.
    pub fn event(&mut self, event: &Event, config: &Config, now: Time) {
        match event {
            Event::Stalled { late } => {
                if let Some(left_out) = self.due(Repeat::Stalled, now) {
                    warn!(?late, left_out, "this process was stopped, suspended or starved");
                }
            }
            Event::Refused { from, why } => {
                debug!(%from, ?why, "refused a datagram");
                if let Some(hint) = hint(*why)
                    && let Some(left_out) = self.due(Repeat::Refused(*why), now)
                {
                    warn!(%from, left_out, "refused a datagram: {hint}");
                }
            }
            Event::Drift { item: at, present: false, times } if *times >= FIGHT => {
                if let Some(left_out) = self.due(Repeat::Fight(*at), now) {
                    let (system, item) = names(config, *at);
                    warn!(
                        system,
                        item, times, left_out, "somebody else removes it again and again: {WHO_FIGHTS}"
                    );
                }
            }
            event => self::event(event, config),
        }
    }

    /// How many were left out before this one; none when this one is left out too.
    fn due(&mut self, what: Repeat, now: Time) -> Option<u64> {
        match self.repeats.get_mut(&what) {
            Some((written, left_out)) if now.since(*written) < QUIET => {
                *left_out += 1;
                None
            }
            Some((written, left_out)) => {
                *written = now;
                Some(std::mem::take(left_out))
            }
            None => {
                self.repeats.insert(what, (now, 0));
                Some(0)
            }
        }
    }
}

/// What an operator should look at, where a refused datagram tells of more than chance or an attack.
fn hint(why: Refusal) -> Option<&'static str> {
    if why == Refusal::Cluster {
        Some(
            "another key or another cluster_id; compare \"key\", \"key_file\" and \"cluster_id\" of both configs",
        )
    } else if why == Refusal::Sender {
        Some("its sender is no server of this config; compare \"servers\" of both configs")
    } else if why == Refusal::Version {
        Some("another version of the wire format; run versions of flip that fit together")
    } else {
        None
    }
}

/// Writes one event that does not repeat.
fn event(event: &Event, config: &Config) {
    let name = |server: usize| config.servers[server].id.as_str();
    match event {
        Event::Started { generation } => info!(node = name(config.me), generation, "started"),
        Event::MemberUp { server, generation } => info!(member = name(*server), generation, "member is up"),
        Event::MemberDown { server, generation, voters } => {
            let voters: Vec<_> = voters.iter().map(|voter| name(*voter)).collect();
            warn!(member = name(*server), generation, voters = voters.join(","), "member is down");
        }
        Event::MemberLeft { server, generation } => info!(member = name(*server), generation, "member left"),
        Event::CaseOpened { server, cause } => debug!(member = name(*server), ?cause, "case opened"),
        Event::CaseClosed { server, after } => debug!(member = name(*server), ?after, "case closed"),
        Event::BallotCast { server, ballots, quorum } => {
            info!(member = name(*server), ballots, quorum, "no answer: cast a ballot");
        }
        Event::Abstained { server, reason } => {
            info!(member = name(*server), ?reason, "no answer, but this node does not trust its own senses");
        }
        Event::DeclaredDown { old, new } => {
            warn!(old, new, "the others declared this node down; going on as a new generation");
        }
        Event::Isolated => {
            warn!(quorum = config.quorum, "sees no quorum: {}", without_quorum(config));
        }
        Event::QuorumSeen => info!(quorum = config.quorum, "sees a quorum"),
        Event::Stalled { late } => warn!(?late, "this process was stopped, suspended or starved"),
        Event::DuplicateId { server, from } => {
            error!(member = name(*server), %from, expected = %config.servers[*server].addr, "a second daemon runs under this id");
        }
        Event::ConfigDiffers { server } => {
            error!(
                member = name(*server),
                "runs another list of servers or another quorum: its ballots do not count"
            );
        }
        Event::Item { item, from, to, reason } => self::item(config, *item, *from, *to, *reason),
        Event::HookFailed { item, error, failures, retry_in, .. } => {
            let (system, item) = names(config, *item);
            warn!(system, item, %error, failures, ?retry_in, "hook failed");
        }
        Event::PostFailed { system, error } => {
            warn!(system = config.systems[*system].name, %error, "post hook failed");
        }
        Event::Reloaded { result: Ok(what) } => info!("scripts read again: {what}"),
        Event::Reloaded { result: Err(why) } => error!("scripts not read again: {why}"),
        Event::Reannounced { item } => {
            let (system, item) = names(config, *item);
            info!(system, item, "announced again");
        }
        Event::Confirmed { item, by } => {
            let (system, item) = names(config, *item);
            info!(system, item, by = name(*by), "announced, and confirmed");
        }
        Event::AnsweredByOther { item, by, mac } => {
            let (system, item) = names(config, *item);
            let mac = flip_systems::interfaces::Mac(*mac);
            warn!(system, item, by = name(*by), %mac, "another host answers for it: announced again");
        }
        Event::Drift { item, present, times } => {
            let (system, item) = names(config, *item);
            let what = if *present { "somebody else added it" } else { "somebody else removed it" };
            warn!(system, item, times, "{what}");
        }
        // The ip system writes one line for each interface.
        Event::Usable { item, trouble: Some(trouble) } => {
            let (system, item) = names(config, *item);
            debug!(system, item, trouble, "cannot be here: it goes elsewhere");
        }
        Event::Usable { item, trouble: None } => {
            let (system, item) = names(config, *item);
            info!(system, item, "may be here again");
        }
        Event::Returning { item, after } => {
            let (system, item) = names(config, *item);
            debug!(system, item, ?after, "may be here again, if that lasts");
        }
        Event::Conflict { item, with, give_up } => {
            let (system, item) = names(config, *item);
            let what = if *give_up { "it is given up here" } else { "it is announced again" };
            error!(system, item, with, "address conflict: a host that is no member uses it, too; {what}");
        }
        Event::Lease { item, held } => {
            debug!(item = config.systems[item.system].items[item.item].name, held, "lease")
        }
        Event::Suspended { by } => warn!(?by, "this machine slept"),
        Event::Drained { server, drained: true } => {
            info!(member = name(*server), "drained: gets no items until flip undrain");
        }
        Event::Drained { server, drained: false } => info!(member = name(*server), "may have items again"),
        Event::Inactive { server, reason, inactive: true } => {
            warn!(member = name(*server), reason, "says that it is not fit for items: gets none");
        }
        Event::Inactive { server, reason, inactive: false } => {
            info!(member = name(*server), reason, "says that this reason is over");
        }
        Event::Unclean { server, item, unclean } => {
            let (system, item) = names(config, *item);
            let member = name(*server);
            if *unclean {
                error!(
                    system,
                    item,
                    member,
                    "item may still be there, so nobody takes it; make sure that it is released, then run: \
                     flip confirm-released {item}"
                );
            } else {
                info!(system, item, member, "item is released there");
            }
        }
        Event::CheckFailed { check, error, failures, fall } => {
            let (system, item, name) = check_names(config, *check);
            // Once it is unhealthy, that it still is says nothing new.
            if failures <= fall {
                warn!(system, item, check = name, %error, failures, fall, "health check failed");
            } else {
                debug!(system, item, check = name, %error, failures, fall, "health check failed");
            }
        }
        Event::Health { check, healthy } => {
            let (system, item, name) = check_names(config, *check);
            if *healthy {
                info!(system, item, check = name, "healthy");
            } else {
                error!(system, item, check = name, "unhealthy: others that are healthy take over");
            }
        }
        Event::ConfigChanged { what } => info!(what, "another config"),
        Event::Outcast => {
            warn!("this server is not in the config any more: it lets go of everything and leaves")
        }
        Event::KeysChanged { ids, active } => {
            let ids: Vec<_> = ids.iter().map(|id| format!("{id:02x}")).collect();
            info!(keys = ids.join(","), in_use = format!("{active:02x}"), "keys changed");
        }
        Event::CatalogFile { version, from, ended } => {
            let from = from.map_or("its own file", name);
            let ended = ended.join(", ");
            info!(version, from, ended, "the config file of this version counts now");
        }
        Event::CatalogConflict { server, version } => {
            error!(
                member = name(*server),
                version,
                "has another config file of the same version: neither counts for the other; raise `version` in the \
                 right one and reload it there"
            );
        }
        Event::CatalogInvalid { why } => {
            error!(
                "what the others changed makes no config that can be used, so the one before goes on: {why}"
            );
        }
        Event::CatalogNotStored { why } => {
            error!("the state dir takes no changes, so edits are refused: {why}");
        }
        Event::Refused { from, why } => debug!(%from, ?why, "refused a datagram"),
    }
}

fn item(config: &Config, at: ItemRef, from: ItemState, to: ItemState, reason: Reason) {
    let (system, item) = names(config, at);
    if to == ItemState::Failing && reason == Reason::Unusable {
        debug!(system, item, ?from, ?to, ?reason, "item cannot be held here");
    } else if to == ItemState::Failing {
        error!(system, item, ?from, ?to, ?reason, "item cannot be held here");
    } else if to == ItemState::Unclean {
        error!(system, item, ?from, ?to, ?reason, "item could not be released in time: it may still be here");
    } else if matches!(to, ItemState::Active | ItemState::Standby) {
        info!(system, item, ?from, ?to, ?reason, "item");
    } else {
        debug!(system, item, ?from, ?to, ?reason, "item");
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

/// System, item and check; a check of a whole system has no item.
fn check_names(config: &Config, at: CheckRef) -> (&str, &str, String) {
    let system = &config.systems[at.system];
    let item = at.item.map_or("all", |item| &system.items[item].name);
    (&system.name, item, config.check(at).map(|check| check.kind.to_string()).unwrap_or_default())
}

fn names(config: &Config, at: ItemRef) -> (&str, &str) {
    let system = &config.systems[at.system];
    (&system.name, &system.items[at.item].name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_told_once_in_a_while() {
        let mut log = Log::default();
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let table = [(0, Some(0)), (1, None), (59, None), (60, Some(2)), (119, None), (500, Some(1))];
        for (seconds, left_out) in table {
            assert_eq!(log.due(Repeat::Refused(Refusal::Cluster), at(seconds)), left_out, "{seconds}");
        }
        assert_eq!(log.due(Repeat::Stalled, at(500)), Some(0), "each for itself");
    }
}
