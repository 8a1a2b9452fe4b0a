//! Runs hooks of scripts: each call in a state of its own, on threads of their own.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use flip_core::config::Config;
use mlua::{StdLib, Table, Value};
use serde_json::Map;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::api::Context;
use super::host::{Host, Log, Nobody, Traced};
use super::json;
use super::limits::{self, Limits};
use super::meter::{Meter, Metered, Stop};
use super::sandbox::{self, Sandbox};
use super::script::{Script, Scripts};
use crate::ip::Loose;

/// What is asked of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The item arrives.
    Alive,
    /// The item leaves.
    Down,
    /// The item is here: the neighbours are to be told again.
    Announce,
    /// Is it well?
    Check,
    /// Is it here?
    Observe,
    /// A whole plan is done.
    Post,
}

impl Hook {
    /// Name of the function in a script.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Down => "down",
            Self::Announce => "announce",
            Self::Check => "check",
            Self::Observe => "observe",
            Self::Post => "post",
        }
    }

    /// Whether a script need not have it.
    const fn is_optional(self) -> bool {
        matches!(self, Self::Announce | Self::Observe)
    }
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is run.
    pub script: Arc<Script>,
    /// Which function of it.
    pub hook: Hook,
    /// The system's name.
    pub system: String,
    /// The item's name.
    pub item: String,
    /// The item, where it is an object in the config.
    pub own: Option<Map<String, serde_json::Value>>,
    /// Settings: cluster, then system, then server. Those of the item are added by the call.
    pub config: Arc<Map<String, serde_json::Value>>,
    /// Why, as `flip.reason`.
    pub reason: String,
    /// After how long it is stopped, from when it starts.
    pub timeout: Duration,
}

impl Call {
    /// A call for an item without settings of its own, at the start of a node, with ten seconds.
    #[must_use]
    pub fn new(script: &Arc<Script>, hook: Hook, system: &str, item: &str) -> Self {
        Self {
            script: Arc::clone(script),
            hook,
            system: system.to_owned(),
            item: item.to_owned(),
            own: None,
            config: Arc::default(),
            reason: "start".to_owned(),
            timeout: Duration::from_secs(10),
        }
    }
}

/// What a script said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It went well.
    Yes,
    /// It did not: the reason, with the script's file.
    No(String),
    /// It has no such function, and need not.
    Absent,
}

/// How a call ended, and what it took.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the script said, or what is wrong with it: one line with file and line.
    pub result: Result<Said, String>,
    /// From its start to its end.
    pub wall: Duration,
    /// Processor time, where it is on account.
    pub cpu: Duration,
    /// Processor time after its deadline, where it is on account.
    pub overrun: Duration,
    /// Memory of its state at the end, in bytes.
    pub memory: usize,
    /// Loop turns and calls.
    pub steps: u64,
}

/// What all calls share.
pub(in crate::lua) struct Shared {
    pub(in crate::lua) host: Arc<dyn Host>,
    pub(in crate::lua) log: Arc<dyn Log>,
    pub(in crate::lua) limits: Limits,
    /// Id of this server.
    pub(in crate::lua) node: String,
    pub(in crate::lua) account: bool,
    siblings: usize,
    addresses: OnceLock<Result<Loose, String>>,
    prelude: Vec<u8>,
    turns: Arc<Semaphore>,
}

impl Shared {
    /// For `flip.ip`, opened when a script first uses it.
    pub(in crate::lua) fn addresses(&self) -> Result<&Loose, String> {
        self.addresses.get_or_init(|| Loose::open(self.siblings)).as_ref().map_err(Clone::clone)
    }
}

/// What an engine is made of.
pub struct Setup {
    /// Id of this server, as `flip.node`.
    pub node: String,
    /// How many servers before this one in the list share its address, as in `system::Assigned`.
    pub siblings: usize,
    /// Whether calls are told what processor time they took: the clock of a thread is slow on some machines.
    pub account: bool,
    /// The scripts that hooks may name.
    pub scripts: Scripts,
    /// What a script may use.
    pub limits: Limits,
    /// The cluster.
    pub host: Arc<dyn Host>,
    /// Where `flip.log` writes.
    pub log: Arc<dyn Log>,
}

impl Setup {
    /// No scripts, the default limits, no cluster, and `tracing` for the log.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            siblings: 0,
            account: true,
            scripts: Scripts::default(),
            limits: Limits::default(),
            host: Arc::new(Nobody),
            log: Arc::new(Traced),
        }
    }
}

impl Setup {
    /// Scripts of a config, within the limits that it sets.
    #[must_use]
    pub fn of(config: &Config, scripts: Scripts) -> Self {
        let mut limits = Limits { unsafe_lua: config.lua.unsafe_lua, ..Limits::default() };
        limits.memory = config.lua.memory_mib.map_or(limits.memory, |mib| (mib as usize) << 20);
        limits.steps = config.lua.steps.unwrap_or(limits.steps);
        let siblings = config.siblings();
        Self { siblings, scripts, limits, ..Self::new(&config.my().id) }
    }
}

/// Runs scripts on threads of its own, so that none delays whoever asks. Dropping it ends all calls.
pub struct Engine {
    /// Always there before the end.
    runtime: Option<Runtime>,
    pub(in crate::lua) shared: Arc<Shared>,
    /// Those that calls get from now on; calls at work keep theirs.
    scripts: RwLock<Scripts>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whoever drops it may be a task itself, which must not wait.
            runtime.shutdown_background();
        }
    }
}

impl Engine {
    /// Starts the threads: as many as the machine has processors, two at least.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn new(setup: Setup) -> std::io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("flip-lua")
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared::new(&setup).map_err(|error| std::io::Error::other(error.to_string()))?);
        Ok(Self { runtime: Some(runtime), shared, scripts: RwLock::new(setup.scripts) })
    }

    /// The script of a name, as it is now.
    #[must_use]
    pub fn script(&self, name: &str) -> Option<Arc<Script>> {
        self.scripts.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All scripts, as they are now.
    #[must_use]
    pub fn scripts(&self) -> Scripts {
        self.scripts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other scripts into the place of all, at once. Calls that run end with the version that they began
    /// with, and plugins go on with theirs ([`Plugins::reload`](super::Plugins::reload)).
    pub fn replace(&self, scripts: Scripts) {
        *self.scripts.write().unwrap_or_else(PoisonError::into_inner) = scripts;
    }

    /// Runs a call. Dropping the future ends it, and all processes that it started.
    pub fn call(&self, call: Call) -> impl Future<Output = Report> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        let work = async move {
            // The semaphore is never closed.
            let _turn = shared.turns.clone().acquire_owned().await;
            perform(&shared, &call).await
        };
        Running(self.spawn(work))
    }

    pub(in crate::lua) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        self.runtime.as_ref().map(|runtime| runtime.spawn(work))
    }
}

/// A call on the engine's threads, which ends when this is dropped.
struct Running(Option<JoinHandle<Report>>);

impl Future for Running {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Report> {
        let ended = match &mut self.0 {
            Some(handle) => match Pin::new(handle).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(report)) => return Poll::Ready(report),
                Poll::Ready(Err(error)) => format!("a fault in flip: {error}"),
            },
            None => "flip ends".to_owned(),
        };
        let none = Duration::ZERO;
        Poll::Ready(Report { result: Err(ended), wall: none, cpu: none, overrun: none, memory: 0, steps: 0 })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

impl Shared {
    pub(in crate::lua) fn new(setup: &Setup) -> mlua::Result<Self> {
        Ok(Self {
            host: Arc::clone(&setup.host),
            log: Arc::clone(&setup.log),
            limits: setup.limits,
            node: setup.node.clone(),
            account: setup.account,
            siblings: setup.siblings,
            addresses: OnceLock::new(),
            prelude: sandbox::prelude()?,
            turns: Arc::new(Semaphore::new(limits::CALLS)),
        })
    }

    /// A new state, for one script.
    pub(in crate::lua) fn sandbox(&self, libraries: StdLib, context: &Arc<Context>) -> mlua::Result<Sandbox> {
        Sandbox::new(&self.prelude, &self.limits, libraries, context)
    }
}

async fn perform(shared: &Arc<Shared>, call: &Call) -> Report {
    let start = Instant::now();
    let meter = Arc::new(Meter::new(shared.limits.steps, shared.account));
    let context = Arc::new(Context {
        shared: Arc::clone(shared),
        meter: Arc::clone(&meter),
        file: call.script.file.clone(),
        system: call.system.clone(),
        item: call.item.clone(),
        lines: AtomicU32::new(0),
        probe: false,
        plugin: None,
    });
    let (result, memory) = match shared.sandbox(call.script.libraries, &context) {
        Ok(sandbox) => {
            let result = run(shared, &sandbox, call).await;
            meter.end();
            (result, meter.memory())
        }
        Err(error) => (Err(explain(&error, &call.script.file, &meter, &shared.limits)), 0),
    };
    Report {
        result,
        wall: start.elapsed(),
        cpu: meter.cpu(),
        overrun: meter.overrun(),
        memory,
        steps: meter.steps(),
    }
}

async fn run(shared: &Shared, sandbox: &Sandbox, call: &Call) -> Result<Said, String> {
    let meter = &sandbox.meter;
    let file = &call.script.file;
    let broken = |error: mlua::Error| explain(&error, file, meter, &shared.limits);
    meter.start(call.timeout);
    let arguments = || {
        let chunk = sandbox.load(&call.script)?;
        let item = match &call.own {
            Some(own) => Value::Table(json::object(&sandbox.lua, own, meter)?),
            None => Value::String(sandbox.lua.create_string(&call.item)?),
        };
        let config = config(sandbox, call)?;
        let given = given(shared, sandbox, call)?;
        Ok((chunk, call.hook.name(), call.hook.is_optional(), item, config, given))
    };
    // Not a thread of our own: dropping this future also drops what it waits for within the state.
    let future =
        sandbox.run.call_async::<(Option<bool>, Option<mlua::LuaString>)>(arguments().map_err(broken)?);
    let future = Metered { call: future, meter: Arc::clone(meter), lua: sandbox.lua.clone() };
    let ended = tokio::time::timeout_at(meter.deadline().into(), future).await;
    match ended {
        // Whatever a script makes of its end, it was stopped.
        Ok(ended) if meter.stopped().is_none() => {
            let (verdict, why) = ended.map_err(broken)?;
            let why = why.map(|why| clip(why.to_string_lossy())).unwrap_or_default();
            match verdict {
                Some(true) if why == "absent" => Ok(Said::Absent),
                Some(true) => Ok(Said::Yes),
                Some(false) => Ok(Said::No(format!("{file}: {why}"))),
                None => Err(format!("{file}: {why}")),
            }
        }
        stopped => {
            let computed = explain(&mlua::Error::runtime(""), file, meter, &shared.limits);
            meter.end();
            Err(match waited(sandbox, call.timeout) {
                Some(waited) => waited,
                None if stopped.is_ok() => computed,
                None => format!("{file}: took longer than {:?} and was stopped", call.timeout),
            })
        }
    }
}

/// Where a script was that waited until its end.
fn waited(sandbox: &Sandbox, timeout: Duration) -> Option<String> {
    type Where = (Option<String>, Option<String>, Option<u32>);
    let (function, source, line) = sandbox.waits.call::<Where>(()).ok()?;
    let (function, source, line) = (function?, source?, line?);
    Some(format!("{source}:{line}: took longer than {timeout:?} and was stopped in flip.{function}"))
}

fn config(sandbox: &Sandbox, call: &Call) -> mlua::Result<Table> {
    let table = json::object(&sandbox.lua, &call.config, &sandbox.meter)?;
    for (key, value) in call.own.iter().flatten() {
        if key != "name" && key != "isolated" {
            table.raw_set(key.as_str(), json::to_lua(&sandbox.lua, value, &sandbox.meter)?)?;
        }
    }
    Ok(table)
}

/// The values of `flip` that are no functions.
fn given(shared: &Shared, sandbox: &Sandbox, call: &Call) -> mlua::Result<Table> {
    let table = sandbox.lua.create_table_with_capacity(0, 4)?;
    table.raw_set("node", shared.node.as_str())?;
    table.raw_set("system", call.system.as_str())?;
    table.raw_set("reason", call.reason.as_str())?;
    table.raw_set("action", call.hook.name())?;
    Ok(table)
}

/// One line for people of what went wrong, with the script's file and line where they are known.
pub(in crate::lua) fn explain(error: &mlua::Error, file: &str, meter: &Meter, limits: &Limits) -> String {
    if let Some(stop) = meter.stopped() {
        let place = meter.place().unwrap_or_else(|| file.to_owned());
        return match stop {
            Stop::Time => format!("{place}: took longer than {:?} and was stopped", meter.timeout()),
            Stop::Steps => {
                format!("{place}: made more than {} steps (`lua_steps`) and was stopped", limits.steps)
            }
        };
    }
    match error {
        mlua::Error::MemoryError(_) => {
            format!("{file}: needs more memory than {} MiB (`lua_memory`)", limits.memory >> 20)
        }
        mlua::Error::RuntimeError(text) => placed(text, file),
        mlua::Error::CallbackError { traceback, cause } => {
            let cause = explain(cause, file, meter, limits);
            match traceback.lines().find(|line| line.starts_with(file)) {
                Some(line)
                    if !cause[file.len().min(cause.len())..].starts_with(':') || !cause.starts_with(file) =>
                {
                    let place: String = line.splitn(3, ':').take(2).collect::<Vec<_>>().join(":");
                    let place = place.split_whitespace().next().unwrap_or(file).to_owned();
                    format!("{place}: {}", cause.strip_prefix(&format!("{file}: ")).unwrap_or(&cause))
                }
                _ => cause,
            }
        }
        other => placed(&other.to_string(), file),
    }
}

/// The message without its stack, beginning with the file.
fn placed(text: &str, file: &str) -> String {
    let message = text.split("\nstack traceback:").next().unwrap_or(text);
    let message = message.strip_prefix("runtime error: ").unwrap_or(message).trim_end();
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clip(if message.starts_with(file) { message } else { format!("{file}: {message}") })
}

fn clip(mut text: String) -> String {
    if text.len() > limits::ERROR {
        let end = (0..=limits::ERROR).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state that waits holds what it waits for, and that holds the state: it must be freed all the same.
    #[test]
    fn nothing_of_a_call_stays() {
        let mut scripts = Scripts::default();
        for (name, text) in [
            ("ends", "return true"),
            ("fails", "error('x')"),
            ("sleeps", "flip.sleep(60000)"),
            ("runs", "flip.exec('/bin/sleep', {'60'})"),
            ("spins", "while true do end"),
            ("sorts", "table.sort({3, 2, 1}, function() while true do end end)"),
        ] {
            scripts.add(Script::compile(name, "t.lua", text.as_bytes()).unwrap());
        }
        let names: Vec<_> = ["ends", "fails", "sleeps", "runs", "spins", "sorts"].to_vec();
        let engine = Engine::new(Setup { scripts, ..Setup::new("a") }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for name in names {
            let script = engine.script(name).unwrap();
            let call =
                Call { timeout: Duration::from_millis(50), ..Call::new(&script, Hook::Alive, "s", "x") };
            runtime.block_on(engine.call(call));
            // The task that ran it gives up its share after it has answered.
            let start = Instant::now();
            while Arc::strong_count(&engine.shared) > 1 {
                assert!(start.elapsed() < Duration::from_secs(10), "{name}: its state is still there");
                std::thread::yield_now();
            }
        }
    }
}
