//! What scripts learn of the cluster, and tell it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use flip_core::status::Status;

/// An answer that may take a moment.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// The cluster, as far as scripts see it. Errors are one line for people.
pub trait Host: Send + Sync {
    /// The node's picture of the cluster; it may be some milliseconds old.
    fn status(&self) -> Answer<Arc<Status>>;

    /// Says something of this node to all: a value as JSON text, or none to take it back.
    fn set_fact(&self, key: String, value: Option<String>) -> Answer<()>;

    /// Says that this node is fit for items or not, for a named reason. While any reason says that it is
    /// not, it gets none.
    fn set_active(&self, active: bool, reason: String) -> Answer<()>;
}

/// What scripts write to the log.
pub trait Log: Send + Sync {
    /// One line.
    fn line(&self, line: &Line<'_>);
}

/// A line that a script wrote.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// How important.
    pub level: Level,
    /// Its file.
    pub script: &'a str,
    /// The system whose hook runs; empty for a plugin.
    pub system: &'a str,
    /// The item; empty for a plugin.
    pub item: &'a str,
    /// What it says.
    pub text: &'a str,
}

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For whoever writes the script.
    Debug,
    /// For whoever wants to know.
    Info,
    /// For whoever runs the cluster.
    Warn,
    /// Something is broken.
    Error,
}

impl Level {
    /// The names of the functions under `flip.log`.
    pub const NAMES: [(&'static str, Self); 4] =
        [("debug", Self::Debug), ("info", Self::Info), ("warn", Self::Warn), ("error", Self::Error)];
}

/// Lines go to `tracing`, with their fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traced;

impl Log for Traced {
    fn line(&self, line: &Line<'_>) {
        let Line { level, script, system, item, text } = *line;
        match level {
            Level::Debug => tracing::debug!(script, system, item, "{text}"),
            Level::Info => tracing::info!(script, system, item, "{text}"),
            Level::Warn => tracing::warn!(script, system, item, "{text}"),
            Level::Error => tracing::error!(script, system, item, "{text}"),
        }
    }
}

/// No cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Host for Nobody {
    fn status(&self) -> Answer<Arc<Status>> {
        Box::pin(std::future::ready(Err(NO_CLUSTER.to_owned())))
    }

    fn set_fact(&self, _: String, _: Option<String>) -> Answer<()> {
        Box::pin(std::future::ready(Err(NO_CLUSTER.to_owned())))
    }

    fn set_active(&self, _: bool, _: String) -> Answer<()> {
        Box::pin(std::future::ready(Err(NO_CLUSTER.to_owned())))
    }
}

const NO_CLUSTER: &str = "there is no cluster here";
