//! Events as log lines: one line for each record.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use flip_core::Time;
use flip_core::config::{LogLevel, Problem};
use flip_core::event::Refusal;
use flip_core::record::{Level, Record};
use tracing::{debug, error, info, warn};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::crowd::Crowd;
use crate::cli::LogFormat;

/// One line at a level: the macros of `tracing` take names that are known when they are compiled. What a record does not
/// have is not written.
macro_rules! write_line {
    ($level:ident, $record:ident, $text:ident, $left_out:ident) => {
        $level!(
            server = $record.server.as_deref(),
            system = $record.system.as_deref(),
            item = $record.item.as_deref(),
            check = $record.check.as_deref(),
            from = $record.from.map(|state| state.name()),
            to = $record.to.map(|state| state.name()),
            reason = $record.reason.as_deref(),
            generation = $record.generation,
            old_generation = $record.old_generation,
            voters = joined(&$record.voters),
            ballots = $record.ballots,
            quorum = $record.quorum,
            after_ms = $record.after_ms,
            late_ms = $record.late_ms,
            retry_ms = $record.retry_ms,
            address = $record.address.as_deref(),
            expected = $record.expected.as_deref(),
            action = $record.action.as_deref(),
            error = $record.error.as_deref(),
            failures = $record.failures,
            fall = $record.fall,
            by = $record.by.as_deref(),
            mac = $record.mac.as_deref(),
            times = $record.times,
            on = $record.on,
            keys = joined(&$record.keys),
            left_out = $left_out,
            kind = $record.kind.as_ref(),
            "{}",
            $text
        )
    };
}

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
const FIGHT: u64 = 5;
/// Who removes addresses that it did not put there, and how it is told not to (systemd.network(5), networkd.conf(5),
/// NetworkManager.conf(5)).
const WHO_FIGHTS: &str = "it is put back each time. Mostly it is the manager of the interface: for systemd-networkd set \
    KeepConfiguration=yes in the interface's .network file; for NetworkManager name the interface under \
    unmanaged-devices= in its [keyfile] section, or run: nmcli device set <interface> managed no";

/// How long a line that would repeat is held back after it was written.
const QUIET: Duration = Duration::from_secs(60);

/// Writes records. Those that may come many times a second are written once in a while, with how many were
/// left out: who floods the network must not flood the disk.
#[derive(Debug, Default)]
pub struct Log {
    /// When each was written last, and how many came since.
    repeats: BTreeMap<Repeat, (Time, u64)>,
    /// Items that are announced again all at once, as when a member comes up; and what others see of them.
    announced: Crowd,
    confirmed: Crowd,
}

/// What may repeat.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Repeat {
    Stalled,
    /// Datagrams that are refused for this reason.
    Refused(Cow<'static, str>),
    /// Somebody removes an item of a system again and again.
    Fight(Option<String>, Option<String>),
}

impl Log {
    /// When [`Log::crowds`] has something to say.
    pub fn due_at(&self) -> Option<Time> {
        [self.announced.due(), self.confirmed.due()].into_iter().flatten().min()
    }

    /// Tells how many items had no line of their own.
    pub fn crowds(&mut self, now: Time) {
        if let Some(items) = self.announced.over(now) {
            info!(items, "announced again, beside those above");
        }
        if let Some(items) = self.confirmed.over(now) {
            info!(items, "announced, and confirmed, beside those above");
        }
    }

    /// Writes what happened.
    pub fn record(&mut self, record: &Record, now: Time) {
        self.crowds(now);
        match record.kind.as_ref() {
            "reannounced" if !self.announced.comes(now) => write(record, Level::Debug, &record.text, None),
            "confirmed" if !self.confirmed.comes(now) => write(record, Level::Debug, &record.text, None),
            "stalled" => {
                if let Some(left_out) = self.due(Repeat::Stalled, now) {
                    write(record, record.level, &record.text, Some(left_out));
                }
            }
            "refused" => {
                write(record, record.level, &record.text, None);
                let why = record.reason.clone().unwrap_or_default();
                if let Some(hint) = hint(&why)
                    && let Some(left_out) = self.due(Repeat::Refused(why), now)
                {
                    write(record, Level::Warning, &format!("{}: {hint}", record.text), Some(left_out));
                }
            }
            "drift" if record.on == Some(false) && record.times.is_some_and(|times| times >= FIGHT) => {
                if let Some(left_out) =
                    self.due(Repeat::Fight(record.system.clone(), record.item.clone()), now)
                {
                    let text = format!("{} again and again: {WHO_FIGHTS}", record.text);
                    write(record, record.level, &text, Some(left_out));
                }
            }
            _ => write(record, record.level, &record.text, None),
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
fn hint(why: &str) -> Option<&'static str> {
    if why == Refusal::Cluster.name() {
        Some(
            "another key or another cluster_id; compare \"key\", \"key_file\" and \"cluster_id\" of both configs",
        )
    } else if why == Refusal::Sender.name() {
        Some("its sender is no server of this config; compare \"servers\" of both configs")
    } else if why == Refusal::Version.name() {
        Some("another version of the wire format; run versions of flip that fit together")
    } else {
        None
    }
}

/// Writes one line with all that the record says.
fn write(record: &Record, level: Level, text: &str, left_out: Option<u64>) {
    match level {
        Level::Debug => write_line!(debug, record, text, left_out),
        Level::Info => write_line!(info, record, text, left_out),
        Level::Warning => write_line!(warn, record, text, left_out),
        Level::Error => write_line!(error, record, text, left_out),
    }
}

fn joined(list: &[String]) -> Option<String> {
    (!list.is_empty()).then(|| list.join(","))
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
            assert_eq!(log.due(Repeat::Refused("cluster".into()), at(seconds)), left_out, "{seconds}");
        }
        assert_eq!(log.due(Repeat::Stalled, at(500)), Some(0), "each for itself");
    }
}
