//! `flip hook run`: one hook by hand, outside any cluster: of a script in the same sandbox as in the daemon, or a
//! native one.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flip_core::config::Config;
use flip_core::event::Reason;
use flip_core::id::{CheckRef, ItemRef};
use flip_core::io::CheckCall;
use flip_core::status::Status;
use flip_core::{HookCall, Lifetime, Node, Start};
use flip_systems::files::Read;
use flip_systems::lua::host::{Answer, Line};
use flip_systems::lua::{Engine, Hook, Host, Log, LuaChecks, LuaSystem, Report, Said, Setup};
use flip_systems::system::Context;
use flip_systems::{Checks, OpenError, Systems, clock};

use crate::Outcome;
use crate::cli::{HookAction, HookRunArgs};
use crate::config::{self, Refused};

/// The hook could not run at all.
const NOT_RUN: u8 = 2;

pub fn run(args: &HookRunArgs) -> Outcome {
    let Read { config, warnings, scripts, .. } = match config::read(&args.config) {
        Ok(read) => read,
        Err(Refused(text)) => return not_run(&text),
    };
    if !warnings.is_empty() {
        config::print(&warnings);
    }
    let config = Arc::new(config);
    let Some(system) = config.systems.iter().find(|system| system.name == args.system) else {
        let known: Vec<_> = config.systems.iter().map(|system| system.name.as_str()).collect();
        return not_run(&format!("error: no system {}; there are: {}", args.system, known.join(", ")));
    };
    let Some(item) = system.items.iter().position(|item| item.name == args.item) else {
        return not_run(&format!("error: system {} has no item {}", args.system, args.item));
    };
    let host = Arc::new(Alone { config: Arc::clone(&config), facts: Mutex::default() });
    let setup = Setup { host, log: Arc::new(Printed), ..Setup::of(&config, scripts) };
    let engine = Arc::new(Engine::new(setup)?);
    let timeout = system.hooks.timeout.unwrap_or(config.timing.hook_timeout);
    let Ok(scripted) = LuaSystem::new(Arc::clone(&engine), system, timeout) else {
        let position = config.systems.iter().position(|system| system.name == args.system).unwrap_or(0);
        let at = ItemRef { system: position, item };
        return match args.hook {
            HookAction::Alive => native(args, &config, at, Hook::Alive, timeout),
            HookAction::Down => native(args, &config, at, Hook::Down, timeout),
            HookAction::Check => checks(args, &config, at, engine),
        };
    };
    let hook = match args.hook {
        HookAction::Alive => Hook::Alive,
        HookAction::Down => Hook::Down,
        HookAction::Check => Hook::Check,
    };
    let context = Context { reason: Reason::Home, timeout, lifetime: Lifetime::ENDLESS };
    let Some(call) = scripted.call(hook, item, &context) else {
        return not_run("error: there is no such item");
    };
    if !call.script.has(hook) {
        return not_run(&format!("error: {} has no function `{}`", call.script.file, hook.name()));
    }
    let Some(report) = unless_interrupted(engine.call(call))? else { return not_run("interrupted") };
    say(args, hook, &report)
}

/// Runs it on a runtime of its own; none when somebody interrupted it. What it started ends with it.
fn unless_interrupted<T>(work: impl Future<Output = T>) -> std::io::Result<Option<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        tokio::select! {
            done = work => Some(done),
            _ = tokio::signal::ctrl_c() => None,
        }
    }))
}

/// Runs a native hook: for real, on this host.
fn native(args: &HookRunArgs, config: &Config, at: ItemRef, hook: Hook, timeout: Duration) -> Outcome {
    let mut alone = config.clone();
    let me = alone.me;
    alone.servers[me].systems = vec![at.system];
    // What else an earlier life or a running daemon has here is none of this command's business.
    alone.systems[at.system].hooks.remove_on_start = false;
    alone.systems[at.system].hooks.post = None;
    let action = if hook == Hook::Alive { flip_core::HookAction::Alive } else { flip_core::HookAction::Down };
    let lifetime = Lifetime::ENDLESS;
    let call = HookCall { id: 0, item: at, action, reason: Reason::Home, timeout, lifetime };
    let run = unless_interrupted(async {
        let systems = Systems::open(&alone)?;
        let start = Instant::now();
        let result = systems.run(call).await;
        Ok::<_, OpenError>((result, start.elapsed()))
    })?;
    let what = format!("{} {} {}", args.system, hook.name(), args.item);
    match run {
        None => not_run("interrupted"),
        Some(Err(error)) => not_run(&format!("error: {:#}", anyhow::Error::new(error))),
        Some(Ok((result, took))) => ended(&what, result, &format!("in {}", millis(took))),
    }
}

/// Runs the checks of the config that an item depends on, one after the other.
fn checks(args: &HookRunArgs, config: &Arc<Config>, at: ItemRef, engine: Arc<Engine>) -> Outcome {
    let scripts = Arc::new(LuaChecks::new(engine, Arc::clone(config)));
    let checks = Checks::new(Arc::clone(config), Some(scripts)).map_err(|why| anyhow::anyhow!(why))?;
    let system = &config.systems[at.system];
    let own = &system.items[at.item].checks;
    let of = |item, checks: &[flip_core::config::Check]| {
        (0..checks.len()).map(|check| CheckRef { system: at.system, item, check }).collect::<Vec<_>>()
    };
    let all = [of(None, &system.checks), of(Some(at.item), own)].concat();
    if all.is_empty() {
        return not_run(&format!(
            "error: {} of system {} has no `checks` in the config",
            args.item, args.system
        ));
    }
    let mut code = ExitCode::SUCCESS;
    for check in all {
        let Some(spec) = config.check(check) else { continue };
        let start = Instant::now();
        let run = checks.run(CheckCall { id: 0, check, timeout: spec.timeout });
        let Some(result) = unless_interrupted(run)? else { return not_run("interrupted") };
        let what = format!("{} check {}: {}", args.system, args.item, spec.kind);
        if result.is_err() {
            code = ExitCode::from(1);
        }
        ended(&what, result, &format!("in {}", millis(start.elapsed())))?;
    }
    Ok(code)
}

fn ended(what: &str, result: Result<(), String>, took: &str) -> Outcome {
    match result {
        Ok(()) => {
            writeln!(std::io::stdout(), "{what}: ok {took}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            writeln!(std::io::stdout(), "{what}: failed {took}\n  {why}")?;
            Ok(ExitCode::from(1))
        }
    }
}

fn say(args: &HookRunArgs, hook: Hook, report: &Report) -> Outcome {
    let took = format!(
        "in {} ({} of the processor, {} KiB, {} steps)",
        millis(report.wall),
        millis(report.cpu),
        report.memory / 1024,
        report.steps
    );
    let what = format!("{} {} {}", args.system, hook.name(), args.item);
    let result = match &report.result {
        Ok(Said::Yes | Said::Absent) => Ok(()),
        Ok(Said::No(why)) | Err(why) => Err(why.clone()),
    };
    ended(&what, result, &took)
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

fn not_run(why: &str) -> Outcome {
    writeln!(std::io::stderr(), "{why}")?;
    Ok(ExitCode::from(NOT_RUN))
}

/// The script's log, on standard output.
struct Printed;

impl Log for Printed {
    fn line(&self, line: &Line<'_>) {
        let level = format!("{:?}", line.level).to_lowercase();
        // Nobody is left to tell when standard output is closed.
        let _ = writeln!(std::io::stdout(), "{level:5} {}", line.text);
    }
}

/// A node that nobody answers: the servers of the config, of which none but this one is known.
struct Alone {
    config: Arc<Config>,
    facts: Mutex<BTreeMap<String, String>>,
}

impl Host for Alone {
    fn status(&self) -> Answer<Arc<Status>> {
        let now = clock::now();
        let start = Start { generation: 1, seed: [0; 32], keys: None };
        let mut status = Node::new(Arc::clone(&self.config), start, now).status(now);
        status.members[self.config.me].facts =
            self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(std::future::ready(Ok(Arc::new(status))))
    }

    fn set_fact(&self, key: String, value: Option<String>) -> Answer<()> {
        let shown = value.as_deref().unwrap_or("nil");
        let _ = writeln!(std::io::stdout(), "fact  {key} = {shown}");
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            Some(value) => facts.insert(key, value),
            None => facts.remove(&key),
        };
        Box::pin(std::future::ready(Ok(())))
    }

    fn set_active(&self, active: bool, reason: String) -> Answer<()> {
        let _ = writeln!(std::io::stdout(), "active {active}: {reason}");
        Box::pin(std::future::ready(Ok(())))
    }
}
