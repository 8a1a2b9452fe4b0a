//! Events as log lines: one line each, names instead of positions.

use flip_core::config::{Config, LogLevel, Problem};
use flip_core::event::{Event, ItemState, Reason};
use flip_core::id::ItemRef;
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

/// Writes one event.
pub fn event(event: &Event, config: &Config) {
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
            warn!(quorum = config.quorum, "sees no quorum: keeps what it holds, takes nothing");
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
        Event::HookFailed { item, error, failures, retry_in } => {
            let (system, item) = names(config, *item);
            warn!(system, item, %error, failures, ?retry_in, "hook failed");
        }
        Event::Reannounced { item } => {
            let (system, item) = names(config, *item);
            info!(system, item, "announced again");
        }
        Event::Drift { item, present } => {
            let (system, item) = names(config, *item);
            let what = if *present { "somebody else added it" } else { "somebody else removed it" };
            warn!(system, item, "{what}");
        }
        Event::Lease { item, held } => {
            debug!(item = config.systems[item.system].items[item.item].name, held, "lease")
        }
        Event::Suspended { by } => warn!(?by, "this machine slept"),
        Event::Drained { server, drained } => info!(member = name(*server), drained, "drain"),
        Event::KeysChanged { ids, active } => {
            let ids: Vec<_> = ids.iter().map(|id| format!("{id:02x}")).collect();
            info!(keys = ids.join(","), in_use = format!("{active:02x}"), "keys changed");
        }
        Event::Refused { from, why } => debug!(%from, ?why, "refused a datagram"),
    }
}

fn item(config: &Config, at: ItemRef, from: ItemState, to: ItemState, reason: Reason) {
    let (system, item) = names(config, at);
    if to == ItemState::Failing {
        error!(system, item, ?from, ?to, ?reason, "item cannot be held here");
    } else if matches!(to, ItemState::Active | ItemState::Standby) {
        info!(system, item, ?from, ?to, ?reason, "item");
    } else {
        debug!(system, item, ?from, ?to, ?reason, "item");
    }
}

fn names(config: &Config, at: ItemRef) -> (&str, &str) {
    let system = &config.systems[at.system];
    (&system.name, &system.items[at.item].name)
}
