//! What the daemon does for its node: log, plugins, state dir, and the status for those who watch it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flip_core::event::Event;
use flip_core::record::Record;
use flip_core::status::{PrivilegeStatus, Status};
use flip_core::stored::StoredKeys;
use flip_core::{Node, Time};
use flip_systems::clock;
use flip_systems::flip::{Program, Stored};
use flip_systems::lua::Plugins;
use tokio::sync::watch;

use super::log::Log;
use super::pictures::Pictures;
use super::service::Service;
use super::state::{State, Writer};
use super::told;

/// How long the process may take to end, once the node has left.
const ENDING: Duration = Duration::from_secs(5);

/// What it is made of.
pub struct Given {
    pub state: State,
    pub writer: Writer,
    pub plugins: Option<Arc<Mutex<Plugins>>>,
    /// How long plugins may take to end.
    pub limit: Duration,
    pub privileges: PrivilegeStatus,
    pub service: Option<Service>,
}

pub struct Around {
    given: Given,
    changes: watch::Sender<Arc<str>>,
    /// What watchers were shown last, without what changes by itself.
    shown: Option<Status>,
    pictures: Pictures,
    log: Log,
}

impl Around {
    /// Also gives what tells of changes of the status, a line each.
    pub fn new(given: Given) -> (Self, watch::Receiver<Arc<str>>) {
        let (changes, watched) = watch::channel(Arc::from(""));
        (Self { given, changes, shown: None, pictures: Pictures::default(), log: Log::default() }, watched)
    }
}

impl Around {
    /// Tells watchers when something but ages and counters is different from what they were shown.
    fn show(&mut self, node: &Node, now: Time) {
        let mut status = node.status(now);
        self.picture(&mut status);
        let still = still(status.clone());
        if self.shown.as_ref() == Some(&still) {
            return;
        }
        self.shown = Some(still);
        // A status always has a line.
        if let Ok(line) = serde_json::to_string(&status) {
            self.changes.send_replace(Arc::from(line));
        }
    }
}

impl Program for Around {
    fn record(&mut self, event: &Event, record: &Record, now: Time) {
        if let Some(plugins) = &self.given.plugins
            && let Some(told) = told::to_plugins(event, record)
        {
            lock(plugins).tell(&told);
        }
        self.log.record(record, now);
    }

    // A disk that is full must not take down what is held: the daemon runs on, and says what is at stake.
    fn store_generation(&mut self, generation: u64) {
        if let Err(error) = self.given.state.store(generation) {
            tracing::error!(
                "{error:#}; running on: the next start relies on the clock, so make room, and let the clock \
                 not go back"
            );
        }
    }

    fn store_keys(&mut self, keys: &StoredKeys) {
        if let Err(error) = self.given.state.store_keys(keys) {
            tracing::error!(
                "{error:#}; running on: after a restart this server would not know the new key, so make room \
                 and repeat the change of keys"
            );
        }
    }

    fn store_catalog(&mut self, bytes: Vec<u8>, whole: bool, done: Stored) {
        self.given.writer.store(bytes, whole, done);
    }

    fn due(&self) -> Option<Time> {
        let service = self.given.service.as_ref().map(Service::due);
        [service, self.pictures.due(), self.log.due_at()].into_iter().flatten().min()
    }

    fn picture(&self, status: &mut Status) {
        status.privileges = Some(self.given.privileges.clone());
    }

    /// Feeds the service manager, and shows watchers what is different.
    fn turn(&mut self, node: &Node, now: Time) {
        if let Some(service) = &mut self.given.service {
            service.turn(node, now);
        }
        self.log.crowds(now);
        // One receiver is the server's own.
        if self.changes.receiver_count() <= 1 {
            (self.shown, self.pictures) = (None, Pictures::default());
            return;
        }
        let began = clock::now();
        if self.pictures.may(began) {
            self.show(node, now);
            self.pictures.made(began, clock::now());
        }
    }

    fn left(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let limit = self.given.limit;
        Box::pin(async move {
            if let Some(plugins) = &self.given.plugins {
                if let Some(service) = &mut self.given.service {
                    service.extend(limit + ENDING);
                }
                let stopped = lock(plugins).stop();
                // Whoever is not through by then is ended with the process.
                let _ = tokio::time::timeout(limit, stopped).await;
            }
        })
    }
}

fn lock(plugins: &Mutex<Plugins>) -> MutexGuard<'_, Plugins> {
    // No code panics between two changes that belong together.
    plugins.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A status without what changes by itself: ages, counters and estimates.
fn still(mut status: Status) -> Status {
    status.refused.clear();
    status.sent_datagrams = 0;
    status.sent_bytes = 0;
    for member in &mut status.members {
        member.since_ms = 0;
        member.loss = 0.0;
        member.immature_ms = member.immature_ms.map(|_| 0);
        if let Some(case) = &mut member.case {
            case.since_ms = 0;
        }
    }
    for item in &mut status.items {
        item.lease_ms = item.lease_ms.map(|_| 0);
        for check in &mut item.checks {
            (check.since_ms, check.failures, check.error_ms) = (0, 0, None);
        }
        if let Some(failure) = &mut item.failure {
            failure.retry_ms = failure.retry_ms.map(|_| 0);
        }
    }
    for holder in status.items.iter_mut().flat_map(|item| &mut item.holders) {
        holder.since_ms = 0;
    }
    status
}
