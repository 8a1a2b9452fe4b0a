//! Reads scripts again, the tokens and certificates of the API, and the config. All scripts are compiled and checked
//! first, then they take the place of the old ones at once; then the config is looked at as a whole, and what differs
//! is applied.

use std::sync::{Arc, Mutex};

use flip_core::Command;
use flip_core::catalog::Known;
use flip_systems::Handle;
use flip_systems::files::{Again, Files};
use flip_systems::flip::Refusal;
use flip_systems::lua::{Engine, Plugins, Scripts};

use super::api::Access;

/// What it takes to read all this again.
pub struct Reload {
    files: Files,
    engine: Option<Arc<Engine>>,
    plugins: Option<Arc<Mutex<Plugins>>>,
    access: Option<Arc<Access>>,
    node: Handle,
    /// One at a time.
    turn: tokio::sync::Mutex<Applied>,
}

/// What of the files the node works with.
struct Applied {
    text: String,
    known: Vec<Known>,
}

impl Reload {
    pub fn new(
        (files, known): (Files, Vec<Known>),
        engine: Option<Arc<Engine>>,
        plugins: Option<Arc<Mutex<Plugins>>>,
        access: Option<Arc<Access>>,
        node: Handle,
    ) -> Self {
        let turn = tokio::sync::Mutex::new(Applied { text: files.text().to_owned(), known });
        Self { files, engine, plugins, access, node, turn }
    }

    /// Reads them, and tells what came of it: whoever asked, the log, and all who listen to events.
    pub async fn run(&self) -> Result<String, Refusal> {
        let mut applied = self.turn.lock().await;
        let result = self.all(&mut applied).await;
        self.node.reloaded(result).await
    }

    /// Everything is read and checked before anything is changed.
    async fn all(&self, applied: &mut Applied) -> Result<String, String> {
        let refused = |why: &str| format!("nothing was changed: {why}");
        let files = self.files.clone();
        // Reading and compiling take time that the loop does not have.
        let read = tokio::task::spawn_blocking(move || files.again());
        let read = read.await.map_err(|error| format!("a fault in flip: {error}"))?;
        let Again { text, scripts, known } = read.map_err(|problems| refused(&problems.join("; ")))?;
        self.access().await.map_err(|why| refused(&why))?;
        let what = self.scripts(scripts).await.map_err(|why| refused(&why))?;
        if (&text, &known) == (&applied.text, &applied.known) {
            return Ok(format!("{what}; the config did not change"));
        }
        let command = Command::File { text: text.clone(), scripts: known.clone() };
        let done = self.node.command(command).await.map_err(|why| format!("{what}; the config: {why}"))?;
        *applied = Applied { text, known };
        Ok(format!("{what}; {done}"))
    }

    async fn access(&self) -> Result<(), String> {
        let Some(access) = self.access.clone() else { return Ok(()) };
        let read = tokio::task::spawn_blocking(move || access.reload()).await;
        read.map_err(|error| format!("a fault in flip: {error}"))?.map_err(|error| format!("{error:#}"))
    }

    async fn scripts(&self, scripts: Scripts) -> Result<String, String> {
        let Some(engine) = &self.engine else {
            return match scripts.is_empty() {
                true => Ok("the config names no scripts".to_owned()),
                false => Err("the first scripts of a config need a restart".to_owned()),
            };
        };
        let changed = engine.scripts().changed_in(&scripts);
        if changed.is_empty() {
            return Ok("no script changed".to_owned());
        }
        let restarted = match &self.plugins {
            Some(plugins) => Plugins::reload(plugins, engine, &scripts).await?,
            None => Vec::new(),
        };
        let all = scripts.len();
        engine.replace(scripts);
        let plugins = match restarted.as_slice() {
            [] => String::new(),
            names => format!("; plugins started again: {}", names.join(", ")),
        };
        Ok(format!("{} of {all} scripts changed: {}{plugins}", changed.len(), changed.join(", ")))
    }
}
