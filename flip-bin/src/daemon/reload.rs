//! Reads scripts again, and the tokens and certificates of the API: all are compiled and checked first, then they take
//! the place of the old ones at once.

use std::sync::{Arc, Mutex};

use flip_systems::Handle;
use flip_systems::files::Files;
use flip_systems::flip::Refusal;
use flip_systems::lua::{Engine, Plugins};

use super::api::Access;

/// What it takes to read all this again.
pub struct Reload {
    files: Files,
    engine: Option<Arc<Engine>>,
    plugins: Option<Arc<Mutex<Plugins>>>,
    access: Option<Arc<Access>>,
    node: Handle,
    /// One at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Reload {
    pub fn new(
        files: Files,
        engine: Option<Arc<Engine>>,
        plugins: Option<Arc<Mutex<Plugins>>>,
        access: Option<Arc<Access>>,
        node: Handle,
    ) -> Self {
        Self { files, engine, plugins, access, node, turn: tokio::sync::Mutex::default() }
    }

    /// Reads them, and tells what came of it: whoever asked, the log, and all who listen to events.
    pub async fn run(&self) -> Result<String, Refusal> {
        let _turn = self.turn.lock().await;
        let result = match self.access().await {
            Ok(()) => self.scripts().await,
            Err(why) => Err(format!("nothing was changed: {why}")),
        };
        self.node.reloaded(result).await
    }

    async fn access(&self) -> Result<(), String> {
        let Some(access) = self.access.clone() else { return Ok(()) };
        let read = tokio::task::spawn_blocking(move || access.reload()).await;
        read.map_err(|error| format!("a fault in flip: {error}"))?.map_err(|error| format!("{error:#}"))
    }

    async fn scripts(&self) -> Result<String, String> {
        let files = self.files.clone();
        // Reading and compiling take time that the loop does not have.
        let read = tokio::task::spawn_blocking(move || (files.scripts(), files.differs()));
        let (scripts, differs) = read.await.map_err(|error| format!("a fault in flip: {error}"))?;
        let note = match differs {
            Ok(false) => String::new(),
            Ok(true) => "; the config changed too: that needs a restart".to_owned(),
            Err(why) => format!("; {why}"),
        };
        let refused = |why: &str| format!("nothing was changed: {why}{note}");
        let scripts = scripts.map_err(|problems| refused(&problems.join("; ")))?;
        let Some(engine) = &self.engine else {
            return Ok(format!("the config names no scripts, so there is nothing to read again{note}"));
        };
        let changed = engine.scripts().changed_in(&scripts);
        if changed.is_empty() {
            return Ok(format!("no script changed{note}"));
        }
        let restarted = match &self.plugins {
            Some(plugins) => Plugins::reload(plugins, engine, &scripts).await.map_err(|why| refused(&why))?,
            None => Vec::new(),
        };
        let all = scripts.len();
        engine.replace(scripts);
        let plugins = match restarted.as_slice() {
            [] => String::new(),
            names => format!("; plugins started again: {}", names.join(", ")),
        };
        Ok(format!("{} of {all} scripts changed: {}{plugins}{note}", changed.len(), changed.join(", ")))
    }
}
