//! Tasks as items: each is a future that runs where its item is placed, and is dropped when the item goes.
//!
//! ```text
//!  alive ──► spawned ──► runs ──► dropped by down, or with the node
//!              ▲            │
//!              └── a pause ─┘ it ended by itself, or panicked: it is started again
//! ```

use std::collections::BTreeMap;
use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use flip_core::id::ItemRef;
use serde_json::{Map, Value};
use tokio::task::{AbortHandle, JoinHandle};

use crate::system::{
    Assigned, Context, Drift, Handler, HookFuture, ObserveFuture, OpenError, Opened, System,
};

/// After this long a task that ended by itself is started again.
pub const RESTART: Duration = Duration::from_secs(1);

/// What a task is for.
#[derive(Clone, Debug)]
pub struct Task {
    /// Name of the item, as in the config's `data`.
    pub item: String,
    /// Position of the item in that list.
    pub position: usize,
    /// The whole entry, where it is an object that says more than its name.
    pub own: Option<Map<String, Value>>,
    /// Settings of the system: `config` of the cluster, then of the system, then of this server.
    pub config: Arc<Map<String, Value>>,
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
type Make = dyn Fn(Task) -> Work + Send + Sync;

/// What [`Registry::register_tasks`](crate::Registry::register_tasks) adds.
pub(crate) struct Tasks {
    alive: String,
    down: String,
    make: Arc<Make>,
}

impl Tasks {
    pub(crate) fn new<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        make: impl Fn(Task) -> F + Send + Sync + 'static,
    ) -> Self {
        let (alive, down) = (format!("{name}_up"), format!("{name}_down"));
        Self { alive, down, make: Arc::new(move |task| Box::pin(make(task))) }
    }
}

impl Handler for Tasks {
    fn alive(&self) -> &str {
        &self.alive
    }

    fn down(&self) -> &str {
        &self.down
    }

    fn open(
        &self,
        systems: &[Assigned<'_>],
        drift: &Arc<Drift>,
        _: &Arc<crate::Bus>,
    ) -> Result<Opened, OpenError> {
        let open = |assigned: &Assigned<'_>| {
            let config = Arc::new(assigned.system.config.clone());
            let items = assigned.system.items.iter().enumerate();
            let tasks = items.map(|(position, item)| Task {
                item: item.name.clone(),
                position,
                own: item.own.clone(),
                config: Arc::clone(&config),
            });
            let running = Arc::default();
            Arc::new(OneSystem {
                position: assigned.position,
                tasks: tasks.collect(),
                make: Arc::clone(&self.make),
                drift: Arc::clone(drift),
                running,
            }) as Arc<dyn System>
        };
        Ok(Opened { systems: systems.iter().map(open).collect(), leftovers: Vec::new() })
    }
}

struct OneSystem {
    position: usize,
    tasks: Vec<Task>,
    make: Arc<Make>,
    drift: Arc<Drift>,
    running: Arc<Running>,
}

/// The tasks at work, by position of their items. They end with it.
#[derive(Default)]
struct Running(Mutex<BTreeMap<usize, One>>);

struct One {
    abort: AbortHandle,
    /// It was told to end.
    ending: bool,
    /// Whoever takes it down waits for its end; one that was kept from waiting leaves that to the next.
    end: Arc<tokio::sync::Mutex<Option<JoinHandle<()>>>>,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, One>> {
        // No code panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lock().values().for_each(|one| one.abort.abort());
    }
}

impl System for OneSystem {
    fn alive(&self, item: usize, _: &Context) -> HookFuture {
        let Some(task) = self.tasks.get(item).cloned() else {
            return Box::pin(ready(Err(format!("no item {item}"))));
        };
        let (make, running) = (Arc::clone(&self.make), Arc::clone(&self.running));
        let (drift, at) = (Arc::clone(&self.drift), ItemRef { system: self.position, item });
        Box::pin(async move {
            let mine = Arc::downgrade(&running);
            let mut running = running.lock();
            if let Some(one) = running.get(&item).filter(|one| !one.abort.is_finished()) {
                return if one.ending { Err("it has not ended yet".to_owned()) } else { Ok(()) };
            }
            drift.forget(at);
            let handle = tokio::spawn(run(make, task, drift, at, mine));
            let abort = handle.abort_handle();
            let end = Arc::new(tokio::sync::Mutex::new(Some(handle)));
            running.insert(item, One { abort, ending: false, end });
            Ok(())
        })
    }

    fn down(&self, item: usize, _: &Context) -> HookFuture {
        let running = Arc::clone(&self.running);
        Box::pin(async move {
            let end = running.lock().get_mut(&item).map(|one| {
                one.ending = true;
                one.abort.abort();
                Arc::clone(&one.end)
            });
            if let Some(end) = end {
                let mut end = end.lock().await;
                if let Some(handle) = end.as_mut() {
                    // Aborted, or ended by itself just before.
                    let _ = handle.await;
                    *end = None;
                }
                running.lock().remove(&item);
            }
            Ok(())
        })
    }

    fn observe(&self) -> ObserveFuture {
        let running = self.running.lock();
        let here = running.iter().filter(|(_, one)| !one.abort.is_finished()).map(|(item, _)| *item);
        Box::pin(ready(Ok(here.collect())))
    }
}

/// Runs a task to its end, and tells after a pause that it is not there any more.
async fn run(make: Arc<Make>, task: Task, drift: Arc<Drift>, at: ItemRef, mine: Weak<Running>) {
    let name = task.item.clone();
    let mut work: Option<Work> = None;
    let ended = std::future::poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            work.get_or_insert_with(|| make(task.clone())).as_mut().poll(cx)
        }));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(true),
            // The panic was printed where it happened.
            Err(_) => Poll::Ready(false),
        }
    })
    .await;
    // What it holds is let go of before anybody is told.
    drop(work);
    if ended {
        tracing::warn!(item = name, "the task ended by itself: it is started again");
    } else {
        tracing::error!(item = name, "the task panicked: it is started again");
    }
    tokio::time::sleep(RESTART).await;
    // Before anybody hears of it: whoever brings the item up again must not find this one.
    if let Some(running) = mine.upgrade() {
        running.lock().remove(&at.item);
    }
    drift.put(at, false);
}
