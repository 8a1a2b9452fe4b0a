//! Scripts as a system of the config.

use std::sync::Arc;

use std::time::Duration;

use flip_core::Lifetime;
use flip_core::event::Reason;
use serde_json::Map;

use super::engine::{Call, Engine, Hook, Report, Said};
use super::script::Script;
use crate::system::{Context, HookFuture, ObserveFuture, System};

/// A system whose hooks are scripts.
pub struct LuaSystem {
    engine: Arc<Engine>,
    /// Names of scripts: each call gets what stands under its name then.
    alive: String,
    down: String,
    system: String,
    config: Arc<Map<String, serde_json::Value>>,
    items: Vec<flip_core::config::Item>,
    /// How long `observe` may take.
    timeout: Duration,
}

impl LuaSystem {
    /// The system of a config, with the scripts that it names.
    ///
    /// # Errors
    /// The name that is no script of the engine.
    pub fn new(
        engine: Arc<Engine>,
        system: &flip_core::config::System,
        timeout: Duration,
    ) -> Result<Self, String> {
        for name in [&system.alive, &system.down] {
            engine.script(name).ok_or_else(|| name.clone())?;
        }
        Ok(Self {
            alive: system.alive.clone(),
            down: system.down.clone(),
            system: system.name.clone(),
            config: Arc::new(system.config.clone()),
            items: system.items.clone(),
            timeout,
            engine,
        })
    }

    /// What a call of `hook` for an item is. `None` when there is no such item.
    #[must_use]
    pub fn call(&self, hook: Hook, item: usize, context: &Context) -> Option<Call> {
        let spec = self.items.get(item)?;
        Some(Call {
            script: self.script(hook)?,
            hook,
            system: self.system.clone(),
            item: spec.name.clone(),
            own: spec.own.clone(),
            config: Arc::clone(&self.config),
            reason: reason(context.reason).to_owned(),
            timeout: context.timeout,
        })
    }

    fn script(&self, hook: Hook) -> Option<Arc<Script>> {
        self.engine.script(if hook == Hook::Down { &self.down } else { &self.alive })
    }

    fn has(&self, hook: Hook) -> bool {
        self.script(hook).is_some_and(|script| script.has(hook))
    }

    fn hook(&self, hook: Hook, item: usize, context: &Context) -> HookFuture {
        if hook == Hook::Announce && !self.has(hook) {
            return Box::pin(std::future::ready(Ok(())));
        }
        let Some(call) = self.call(hook, item, context) else {
            return Box::pin(std::future::ready(Err(format!("no item {item}"))));
        };
        let engine = Arc::clone(&self.engine);
        Box::pin(async move { verdict(engine.call(call).await) })
    }
}

/// A report as the result of a hook.
pub(super) fn verdict(report: Report) -> Result<(), String> {
    match report.result {
        Ok(Said::Yes | Said::Absent) => Ok(()),
        Ok(Said::No(why)) | Err(why) => Err(why),
    }
}

impl System for LuaSystem {
    fn alive(&self, item: usize, context: &Context) -> HookFuture {
        self.hook(Hook::Alive, item, context)
    }

    fn down(&self, item: usize, context: &Context) -> HookFuture {
        self.hook(Hook::Down, item, context)
    }

    fn announce(&self, item: usize, context: &Context) -> HookFuture {
        self.hook(Hook::Announce, item, context)
    }

    /// Asks the script's `observe` for each item, where it has one. A script that fails is taken to say that
    /// the item is not here, and the log says so.
    fn observe(&self) -> ObserveFuture {
        if !self.has(Hook::Observe) {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let context = Context { reason: Reason::Adopted, timeout: self.timeout, lifetime: Lifetime::ENDLESS };
        let calls: Vec<_> =
            (0..self.items.len()).filter_map(|item| self.call(Hook::Observe, item, &context)).collect();
        let engine = Arc::clone(&self.engine);
        Box::pin(async move {
            let mut here = Vec::new();
            for (item, call) in calls.into_iter().enumerate() {
                let name = call.item.clone();
                match engine.call(call).await.result {
                    Ok(Said::Yes) => here.push(item),
                    Ok(Said::No(_) | Said::Absent) => {}
                    Err(error) => tracing::warn!(item = name, error, "observe failed: taken for not here"),
                }
            }
            Ok(here)
        })
    }
}

/// Why a hook runs, as scripts are told.
#[must_use]
pub fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Home => "start",
        Reason::Failover => "member_down",
        Reason::Leave => "member_left",
        Reason::Failback => "failback",
        Reason::Adopted => "adopted",
        Reason::Shutdown => "shutdown",
        Reason::Drift => "drift",
        Reason::Isolated => "isolated",
        Reason::LeaseLost => "lease_lost",
        Reason::Confirmed => "confirmed",
        Reason::Drain => "drain",
        Reason::Inactive => "inactive",
        Reason::HealthCheck => "health_check",
        Reason::Unusable => "unusable",
        Reason::Conflict => "conflict",
        Reason::Removed => "removed",
        Reason::Redefined => "redefined",
        Reason::HookFailed => "hook_failed",
        Reason::HookDone => "hook_done",
    }
}
