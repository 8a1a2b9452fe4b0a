//! Plugins: scripts that stay loaded, with timers and handlers of events.
//!
//! A plugin's state lives as long as the engine. What it registers runs one after the other, each call with
//! a deadline of its own; one that takes too long or fails is told of in the log, and the plugin goes on.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mlua::{Function, Lua, Table, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::api::{Context, cluster, give, millis, text};
use super::engine::{Engine, Shared, explain};
use super::host::{Level, Line};
use super::limits;
use super::meter::{Meter, Metered};
use super::sandbox::Sandbox;
use super::script::{Script, Scripts};

/// Whether something is about to happen, or has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The hook is about to run.
    Will,
    /// The hook ended.
    Did,
}

/// What plugins hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An item arrives here (`up`) or leaves (`down`).
    Item {
        /// Arrives.
        up: bool,
        /// Intention or result.
        phase: Phase,
        /// The system.
        system: String,
        /// The item.
        item: String,
        /// Why, as scripts are told.
        reason: String,
        /// Why it failed, if it did.
        error: Option<String>,
    },
    /// Members came or went (`view`).
    View,
}

impl Event {
    const fn name(&self) -> &'static str {
        match self {
            Self::Item { up: true, .. } => "up",
            Self::Item { up: false, .. } => "down",
            Self::View => "view",
        }
    }
}

/// The events that a plugin may ask for.
const EVENTS: [&str; 4] = ["up", "down", "view", "stop"];

/// What a plugin has registered.
#[derive(Default)]
pub(in crate::lua) struct Desk {
    registered: Mutex<Registered>,
}

#[derive(Default)]
struct Registered {
    handlers: Vec<(&'static str, Function)>,
    timers: Vec<Timer>,
}

struct Timer {
    every: Duration,
    due: Instant,
    function: Function,
}

impl Desk {
    fn lock(&self) -> std::sync::MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `flip.every` and `flip.on`, for plugins only.
pub(in crate::lua) fn make(
    lua: &Lua,
    name: &str,
    context: &Arc<Context>,
) -> mlua::Result<Option<(Value, bool)>> {
    let Some(desk) = context.plugin.clone() else { return Ok(None) };
    let f = match name {
        "every" => lua.create_function(move |lua, (ms, function): (Value, Value)| {
            give(lua, every(&desk, &ms, function))
        })?,
        "on" => lua.create_function(move |lua, (event, function): (Value, Value)| {
            give(lua, on(&desk, &event, function))
        })?,
        _ => return Ok(None),
    };
    Ok(Some((Value::Function(f), false)))
}

fn every(desk: &Desk, ms: &Value, function: Value) -> Result<(), String> {
    let every = millis("every", ms)?;
    if every < limits::EVERY {
        return Err(format!("every: expected at least {:?}, found {every:?}", limits::EVERY));
    }
    let Value::Function(function) = function else {
        return Err(format!("every: expected a function, found {}", function.type_name()));
    };
    let mut registered = desk.lock();
    if registered.timers.len() >= limits::HANDLERS {
        return Err(format!("every: more than {} timers", limits::HANDLERS));
    }
    registered.timers.push(Timer { every, due: Instant::now() + every, function });
    Ok(())
}

fn on(desk: &Desk, event: &Value, function: Value) -> Result<(), String> {
    let event = text("on", event)?;
    let Some(event) = EVENTS.iter().find(|known| **known == event) else {
        return Err(format!("on: unknown event {event:?}; there are: {}", EVENTS.join(", ")));
    };
    let Value::Function(function) = function else {
        return Err(format!("on: expected a function, found {}", function.type_name()));
    };
    let mut registered = desk.lock();
    if registered.handlers.len() >= limits::HANDLERS {
        return Err(format!("on: more than {} handlers", limits::HANDLERS));
    }
    registered.handlers.push((event, function));
    Ok(())
}

/// The plugins of a node at work. Dropping it ends them.
pub struct Plugins {
    all: Vec<Running>,
    /// For each call of a handler or timer.
    timeout: Duration,
}

struct Running {
    script: Arc<Script>,
    events: mpsc::Sender<Event>,
    /// Told to stop, it answers when its `stop` handlers have run.
    stop: Option<oneshot::Sender<oneshot::Sender<()>>>,
    /// Events were dropped since the log said so.
    lost: bool,
}

/// A plugin's ends of the channels to it.
struct Inbox {
    events: mpsc::Receiver<Event>,
    stopped: oneshot::Receiver<oneshot::Sender<()>>,
}

/// Whether a plugin could be loaded; why not, and what another version of it may go on with.
type Loaded = Result<(), (String, Inbox)>;

impl Running {
    fn new(script: &Arc<Script>) -> (Self, Inbox) {
        let (events, inbox) = mpsc::channel(limits::EVENTS);
        let (stop, stopped) = oneshot::channel();
        let running = Self { script: Arc::clone(script), events, stop: Some(stop), lost: false };
        (running, Inbox { events: inbox, stopped })
    }

    /// Tells it to stop; none when it does not run.
    fn end(&mut self) -> Option<oneshot::Receiver<()>> {
        let (done, ended) = oneshot::channel();
        self.stop.take()?.send(done).is_ok().then_some(ended)
    }
}

impl Plugins {
    /// Loads the plugins of these names and starts them. What one of them does wrong is told in the log.
    /// `timeout` is for each call of a handler or timer.
    ///
    /// # Errors
    /// The name that is no script of the engine.
    pub fn start(engine: &Engine, names: &[String], timeout: Duration) -> Result<Self, String> {
        let mut all = Vec::new();
        for name in names {
            let script = engine.script(name).ok_or_else(|| name.clone())?;
            let (running, inbox) = Running::new(&script);
            let load = run(Arc::clone(&engine.shared), Arc::clone(&script), timeout, inbox, None);
            engine.spawn(load);
            all.push(running);
        }
        Ok(Self { all, timeout })
    }

    /// Tells all of them. Never waits: a plugin that is too slow misses events, and the log says so.
    pub fn tell(&mut self, event: &Event) {
        for plugin in &mut self.all {
            match plugin.events.try_send(event.clone()) {
                Ok(()) => plugin.lost = false,
                Err(mpsc::error::TrySendError::Full(_)) if !plugin.lost => {
                    plugin.lost = true;
                    tracing::warn!(plugin = plugin.script.name, "too slow: it misses events");
                }
                // It could not be loaded, and the log has said so.
                Err(_) => {}
            }
        }
    }

    /// Lets the `stop` handlers run, and waits for their end, each as long as any call may take.
    pub fn stop(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let ends: Vec<_> = self.all.iter_mut().filter_map(Running::end).collect();
        async move {
            for end in ends {
                // It ends in time, because every call of it does.
                let _ = end.await;
            }
        }
    }

    /// Stops each plugin whose script is another one in `scripts`, and starts that in its place; what happens
    /// meanwhile is told to the new one. Gives their names.
    ///
    /// # Errors
    /// When one of them cannot be loaded: why, with file and line. All run as before then, though those that
    /// were stopped have been started anew.
    pub async fn reload(
        plugins: &Mutex<Self>,
        engine: &Engine,
        scripts: &Scripts,
    ) -> Result<Vec<String>, String> {
        let changed: Vec<_> = {
            let running = lock(plugins);
            let newer = running.all.iter().map(|running| {
                scripts.get(&running.script.name).filter(|script| !script.is_same(&running.script)).cloned()
            });
            newer.enumerate().filter_map(|(at, script)| Some((at, script?))).collect()
        };
        let mut before: Vec<(usize, Arc<Script>)> = Vec::new();
        let mut names = Vec::new();
        for (at, script) in changed {
            match Self::exchange(plugins, engine, at, &script).await {
                Ok(old) => before.push((at, old)),
                Err(why) => {
                    for (at, old) in before {
                        if let Err(error) = Self::exchange(plugins, engine, at, &old).await {
                            tracing::error!(plugin = old.name, error, "the plugin does not run");
                        }
                    }
                    return Err(why);
                }
            }
            names.push(script.name.clone());
        }
        Ok(names)
    }

    /// Stops the plugin at this position, and starts another version of it. Gives the version before; when the
    /// other one cannot be loaded, that is started again.
    async fn exchange(
        plugins: &Mutex<Self>,
        engine: &Engine,
        at: usize,
        script: &Arc<Script>,
    ) -> Result<Arc<Script>, String> {
        let (ended, inbox, old, timeout) = {
            let mut plugins = lock(plugins);
            let timeout = plugins.timeout;
            // Told before its events end, so that it is by this that it ends.
            let ended = plugins.all[at].end();
            let (running, inbox) = Running::new(script);
            let old = std::mem::replace(&mut plugins.all[at], running);
            (ended, inbox, old.script, timeout)
        };
        if let Some(ended) = ended {
            let _ = ended.await;
        }
        let (loaded, told) = oneshot::channel();
        let shared = || Arc::clone(&engine.shared);
        engine.spawn(run(shared(), Arc::clone(script), timeout, inbox, Some(loaded)));
        let (why, inbox) = match told.await {
            Ok(Ok(())) => return Ok(old),
            Ok(Err(refused)) => refused,
            Err(_) => return Err("the engine of scripts ends".to_owned()),
        };
        lock(plugins).all[at].script = Arc::clone(&old);
        engine.spawn(run(shared(), old, timeout, inbox, None));
        Err(why)
    }
}

fn lock(plugins: &Mutex<Plugins>) -> std::sync::MutexGuard<'_, Plugins> {
    plugins.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(
    shared: Arc<Shared>,
    script: Arc<Script>,
    timeout: Duration,
    inbox: Inbox,
    loaded: Option<oneshot::Sender<Loaded>>,
) {
    let plugin = match (Plugin::load(shared, &script, timeout).await, loaded) {
        (Ok(plugin), loaded) => {
            if let Some(loaded) = loaded {
                // Whoever wanted it may have given up; it runs all the same.
                let _ = loaded.send(Ok(()));
            }
            plugin
        }
        (Err(error), Some(loaded)) => {
            let _ = loaded.send(Err((error, inbox)));
            return;
        }
        (Err(error), None) => {
            tracing::error!(plugin = script.name, error, "the plugin does not run");
            return;
        }
    };
    let Inbox { mut events, mut stopped } = inbox;
    loop {
        let due = plugin.desk.lock().timers.iter().map(|timer| timer.due).min();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            end = &mut stopped => {
                // What happened before is told before.
                while let Ok(event) = events.try_recv() {
                    plugin.event(&event).await;
                }
                plugin.handle("stop", |_| Ok(Value::Nil)).await;
                if let Ok(end) = end {
                    // The daemon may have given up on it.
                    let _ = end.send(());
                }
                return;
            }
            event = events.recv() => match event {
                Some(event) => plugin.event(&event).await,
                None => return,
            },
            () = timer => plugin.timers().await,
        }
    }
}

struct Plugin {
    sandbox: Sandbox,
    desk: Arc<Desk>,
    context: Arc<Context>,
    timeout: Duration,
}

impl Plugin {
    async fn load(shared: Arc<Shared>, script: &Script, timeout: Duration) -> Result<Self, String> {
        let desk = Arc::new(Desk::default());
        let context = Arc::new(Context {
            meter: Arc::new(Meter::new(shared.limits.steps, false)),
            shared: Arc::clone(&shared),
            file: script.file.clone(),
            system: String::new(),
            item: String::new(),
            lines: AtomicU32::new(0),
            probe: false,
            plugin: Some(Arc::clone(&desk)),
        });
        let broken = |error: mlua::Error| explain(&error, &script.file, &context.meter, &shared.limits);
        let sandbox = shared.sandbox(script.libraries, &context).map_err(broken)?;
        let chunk = sandbox.load(script).map_err(broken)?;
        let given = sandbox.lua.create_table().map_err(broken)?;
        given.raw_set("node", shared.node.as_str()).map_err(broken)?;
        let plugin = Self { sandbox, desk, context: Arc::clone(&context), timeout };
        plugin.sandbox.given.call::<()>(given).map_err(broken)?;
        plugin.call(&chunk, Value::Nil).await?;
        Ok(plugin)
    }

    /// Calls one function to its end or its deadline.
    async fn call(&self, function: &Function, argument: Value) -> Result<(), String> {
        let meter = &self.context.meter;
        let file = &self.context.file;
        self.sandbox.lua.set_memory_limit(self.context.shared.limits.memory).map_err(|e| e.to_string())?;
        meter.start(self.timeout);
        self.context.lines.store(0, std::sync::atomic::Ordering::Relaxed);
        let call = self.sandbox.enter.call_async::<Value>((function, argument));
        let ended = tokio::time::timeout_at(
            meter.deadline().into(),
            Metered { call, meter: Arc::clone(meter), lua: self.sandbox.lua.clone() },
        )
        .await;
        let result = match ended {
            Ok(Ok(_)) if meter.stopped().is_none() => Ok(()),
            Ok(Err(error)) => Err(explain(&error, file, meter, &self.context.shared.limits)),
            Ok(Ok(_)) => Err(explain(&mlua::Error::runtime(""), file, meter, &self.context.shared.limits)),
            Err(_) => Err(format!("{file}: took longer than {:?} and was stopped", self.timeout)),
        };
        meter.end();
        result
    }

    async fn event(&self, event: &Event) {
        match event {
            Event::Item { phase, system, item, reason, error, .. } => {
                let make = |lua: &Lua| {
                    let table = lua.create_table()?;
                    table.raw_set("phase", if *phase == Phase::Will { "will" } else { "did" })?;
                    table.raw_set("system", system.as_str())?;
                    table.raw_set("item", item.as_str())?;
                    table.raw_set("reason", reason.as_str())?;
                    table.raw_set("error", error.as_deref())?;
                    Ok(Value::Table(table))
                };
                self.handle(event.name(), make).await;
            }
            Event::View => {
                let wants = self.desk.lock().handlers.iter().any(|(name, _)| *name == "view");
                if !wants {
                    return;
                }
                match self.context.shared.host.status().await {
                    Ok(status) => {
                        let make = |lua: &Lua| -> mlua::Result<Value> {
                            let list: Table = cluster::members(lua, &status)?;
                            Ok(Value::Table(list))
                        };
                        self.handle("view", make).await;
                    }
                    Err(error) => self.complain(&error),
                }
            }
        }
    }

    /// Calls all handlers of an event, in the order in which they were registered.
    async fn handle(&self, name: &str, make: impl Fn(&Lua) -> mlua::Result<Value>) {
        let handlers: Vec<Function> = {
            let registered = self.desk.lock();
            registered.handlers.iter().filter(|(on, _)| *on == name).map(|(_, f)| f.clone()).collect()
        };
        for handler in handlers {
            let result = match make(&self.sandbox.lua) {
                Ok(argument) => self.call(&handler, argument).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = result {
                self.complain(&error);
            }
        }
    }

    async fn timers(&self) {
        let now = Instant::now();
        let due: Vec<Function> = {
            let mut registered = self.desk.lock();
            let due = registered.timers.iter_mut().filter(|timer| timer.due <= now);
            due.map(|timer| {
                // What was missed is not made up for.
                timer.due = now + timer.every;
                timer.function.clone()
            })
            .collect()
        };
        for function in due {
            if let Err(error) = self.call(&function, Value::Nil).await {
                self.complain(&error);
            }
        }
    }

    fn complain(&self, error: &str) {
        let line =
            Line { level: Level::Error, script: &self.context.file, system: "", item: "", text: error };
        self.context.shared.log.line(&line);
    }
}
