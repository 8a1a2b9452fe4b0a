//! Reads scripts again, the tokens and certificates of the API, and the config. All scripts are compiled and checked
//! first, then they take the place of the old ones at once; then the config is looked at as a whole, and what differs
//! is applied.

use std::sync::{Arc, Mutex};

use flip_core::Command;
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
    /// The text of the config that counts. One at a time.
    turn: tokio::sync::Mutex<String>,
}

impl Reload {
    pub fn new(
        files: Files,
        engine: Option<Arc<Engine>>,
        plugins: Option<Arc<Mutex<Plugins>>>,
        access: Option<Arc<Access>>,
        node: Handle,
    ) -> Self {
        let turn = tokio::sync::Mutex::new(files.text().to_owned());
        Self { files, engine, plugins, access, node, turn }
    }

    /// Reads them, and tells what came of it: whoever asked, the log, and all who listen to events.
    pub async fn run(&self) -> Result<String, Refusal> {
        let mut text = self.turn.lock().await;
        let result = match self.access().await {
            Ok(()) => match self.scripts().await {
                Ok(what) => self.config(&mut text).await.map(|config| format!("{what}; {config}")),
                Err(why) => Err(why),
            },
            Err(why) => Err(format!("nothing was changed: {why}")),
        };
        self.node.reloaded(result).await
    }

    async fn access(&self) -> Result<(), String> {
        let Some(access) = self.access.clone() else { return Ok(()) };
        let read = tokio::task::spawn_blocking(move || access.reload()).await;
        read.map_err(|error| format!("a fault in flip: {error}"))?.map_err(|error| format!("{error:#}"))
    }

    /// Applies what differs in the config's file.
    async fn config(&self, applied: &mut String) -> Result<String, String> {
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || files.text_now()).await;
        let text = read.map_err(|error| format!("a fault in flip: {error}"))??;
        if text == *applied {
            return Ok("the config did not change".into());
        }
        let done = self.node.command(Command::File { text: text.clone() }).await;
        let done = done.map_err(|why| format!("the config: {why}"))?;
        *applied = text;
        Ok(done)
    }

    async fn scripts(&self) -> Result<String, String> {
        let files = self.files.clone();
        // Reading and compiling take time that the loop does not have.
        let read = tokio::task::spawn_blocking(move || files.scripts());
        let scripts = read.await.map_err(|error| format!("a fault in flip: {error}"))?;
        let refused = |why: &str| format!("nothing was changed: {why}");
        let scripts = scripts.map_err(|problems| refused(&problems.join("; ")))?;
        let Some(engine) = &self.engine else {
            return Ok("the config names no scripts".to_owned());
        };
        let changed = engine.scripts().changed_in(&scripts);
        if changed.is_empty() {
            return Ok("no script changed".to_owned());
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
        Ok(format!("{} of {all} scripts changed: {}{plugins}", changed.len(), changed.join(", ")))
    }
}
