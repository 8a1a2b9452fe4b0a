//! `flip hook run`: one hook of a script by hand, outside any cluster, in the same sandbox as in the daemon.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flip_core::config::Config;
use flip_core::event::Reason;
use flip_core::status::Status;
use flip_core::{Lifetime, Node, Start};
use flip_systems::clock;
use flip_systems::lua::host::{Answer, Line};
use flip_systems::lua::{Engine, Hook, Host, Log, LuaSystem, Report, Said, Setup};
use flip_systems::system::Context;

use crate::Outcome;
use crate::cli::{HookAction, HookRunArgs};
use crate::config::{self, Read, Refused};
use crate::daemon;

/// The hook could not run at all.
const NOT_RUN: u8 = 2;

pub fn run(args: &HookRunArgs) -> Outcome {
    let Read { config, warnings, scripts } = match config::read(&args.config) {
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
    let setup = Setup { host, log: Arc::new(Printed), ..daemon::setup(&config, scripts) };
    let engine = Arc::new(Engine::new(setup)?);
    let timeout = system.hooks.timeout.unwrap_or(config.timing.hook_timeout);
    let Ok(scripted) = LuaSystem::new(Arc::clone(&engine), system, timeout) else {
        return not_run(&format!(
            "error: system {} is run by the native handlers {} and {}; this command runs scripts",
            system.name, system.alive, system.down
        ));
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = engine.call(call) => Some(report),
            // Dropping the call ends all processes that it started.
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    let Some(report) = report else { return not_run("interrupted") };
    say(args, hook, &report)
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
    match &report.result {
        Ok(Said::Yes | Said::Absent) => {
            writeln!(std::io::stdout(), "{what}: ok {took}")?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(Said::No(why)) | Err(why) => {
            writeln!(std::io::stdout(), "{what}: failed {took}\n  {why}")?;
            Ok(ExitCode::from(1))
        }
    }
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
