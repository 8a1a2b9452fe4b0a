//! Scripts that do one thing beside the hooks of items: `post` of a system, and health checks.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use flip_core::PostCall;
use flip_core::config::Config;
use flip_core::id::CheckRef;
use serde_json::{Map, Value, json};

use super::engine::{Call, Engine, Hook};
use super::handler::{reason, verdict};
use crate::check::{ScriptRun, Scripts};
use crate::post::Post;
use crate::system::HookFuture;

/// A script under `post`. Its item is a table with the `system` and its `changes`: for each the `item`, true
/// or false under `here`, and the `reason`.
pub struct LuaPost {
    engine: Arc<Engine>,
    name: String,
}

impl LuaPost {
    /// None when the engine has no such script.
    #[must_use]
    pub fn new(engine: &Arc<Engine>, name: &str) -> Option<Self> {
        engine.script(name)?;
        Some(Self { engine: Arc::clone(engine), name: name.to_owned() })
    }
}

impl Post for LuaPost {
    fn run(&self, system: &flip_core::config::System, call: &PostCall) -> HookFuture {
        let Some(script) = self.engine.script(&self.name) else {
            return Box::pin(std::future::ready(Err(format!("there is no script {}", self.name))));
        };
        let change = |change: &flip_core::Change| {
            let item = &system.items[change.item];
            json!({ "item": item.name, "here": change.here, "reason": reason(change.reason) })
        };
        let changes: Vec<Value> = call.changes.iter().map(change).collect();
        let told: Map<String, Value> =
            [("system".into(), json!(system.name)), ("changes".into(), json!(changes))].into_iter().collect();
        let call = Call {
            own: Some(told),
            config: Arc::new(system.config.clone()),
            reason: "post".to_owned(),
            timeout: call.timeout,
            ..Call::new(&script, Hook::Post, &system.name, &system.name)
        };
        let engine = Arc::clone(&self.engine);
        Box::pin(async move { verdict(engine.call(call).await) })
    }
}

/// Runs health checks that are scripts. The item of a check of a whole system is the system's name.
pub struct LuaChecks {
    engine: Arc<Engine>,
    config: RwLock<Arc<Config>>,
}

impl LuaChecks {
    /// The checks of a config, by the scripts of an engine.
    #[must_use]
    pub const fn new(engine: Arc<Engine>, config: Arc<Config>) -> Self {
        Self { engine, config: RwLock::new(config) }
    }
}

impl Scripts for LuaChecks {
    fn adopt(&self, config: &Arc<Config>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(config);
    }

    fn check(&self, script: &str, at: CheckRef, timeout: Duration) -> ScriptRun {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let system = &config.systems[at.system];
        let item = at.item.map(|item| &system.items[item]);
        let Some(found) = self.engine.script(script) else {
            let error = format!("there is no script {script}");
            return Box::pin(std::future::ready(Err(error)));
        };
        let name = item.map_or(&system.name, |item| &item.name);
        let call = Call {
            own: item.and_then(|item| item.own.clone()),
            config: Arc::new(system.config.clone()),
            reason: "check".to_owned(),
            timeout,
            ..Call::new(&found, Hook::Check, &system.name, name)
        };
        let engine = Arc::clone(&self.engine);
        Box::pin(async move { verdict(engine.call(call).await) })
    }
}
