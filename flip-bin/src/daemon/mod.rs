//! The daemon: [`Flip`] drives the node on one thread; this adds what a daemon is: signals, a state dir, a
//! socket for tools, a log.
//!
//! ```text
//!  signals ─────► Handle ─┐              ┌─► Around: log, plugins, state dir
//!  tools ─► Socket ───────┴─► Flip ──────┴─► Around: status for those who watch
//! ```

mod around;
mod log;
pub mod socket;
mod state;
mod told;

use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use flip_core::Time;
use flip_core::config::{Config, LogLevel};
use flip_systems::flip::{End, Error, Flip};
use flip_systems::lua::{Engine, Limits, LuaChecks, Plugins, Scripts, Setup};
use flip_systems::{Registry, clock};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{ConfigArgs, DaemonArgs, LogFormat};
use crate::config::{self, Read, Refused};
use crate::{Failure, Outcome, paths};
use socket::Socket;

/// Profiles that probe at least this often need the processor before others.
const URGENT: Duration = Duration::from_millis(50);

/// A supervisor may signal a process and its group: signals that come together are one wish.
const SAME_WISH: Duration = Duration::from_millis(500);

/// The exit code of a daemon whose id another one has.
const REFUSED: u8 = 3;

pub fn run(config: PathBuf, args: DaemonArgs) -> Outcome {
    let from = ConfigArgs { config, id: args.id.clone() };
    let Read { config, warnings, scripts } = match config::read(&from) {
        Ok(read) => read,
        Err(Refused(text)) => {
            writeln!(std::io::stderr(), "{text}")?;
            return Ok(ExitCode::from(2));
        }
    };
    let level = args.log_level.map_or(config.log_level, LogLevel::from);
    let log = log::start(args.log, level);
    match args.log {
        LogFormat::Text if !warnings.is_empty() && level <= LogLevel::Warning => config::print(&warnings),
        LogFormat::Text => {}
        LogFormat::Json => warnings.iter().for_each(log::warning),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(start(args, Arc::new(config), scripts));
    // Tasks that still run are dropped, and the last lines of the log written.
    runtime.shutdown_background();
    drop(log);
    result
}

async fn start(args: DaemonArgs, config: Arc<Config>, scripts: Scripts) -> Outcome {
    let dir = paths::server_dir(&paths::state_dir(&args.state)?, &config.my().id);
    let state = state::State::open(&dir)?;
    let mut builder = Flip::builder(Arc::clone(&config)).bind().await?;
    let socket = socket::Socket::bind(&args.state.socket.unwrap_or_else(|| dir.join(paths::SOCKET)))?;
    let mut plugins = None;
    if !scripts.is_empty() {
        let setup = Setup { host: Arc::new(builder.handle()), account: false, ..setup(&config, scripts) };
        let engine = Arc::new(Engine::new(setup).context("cannot start the threads of scripts")?);
        if !config.lua.plugins.is_empty() {
            let started = Plugins::start(&engine, &config.lua.plugins, config.timing.hook_timeout);
            plugins = Some(started.map_err(|name| anyhow::anyhow!("there is no script {name}"))?);
        }
        let mut registry = Registry::default();
        registry.scripts(Arc::clone(&engine));
        builder = builder.registry(registry).checks(Arc::new(LuaChecks::new(engine, Arc::clone(&config))));
    }
    builder = builder.generation(state.next_generation()?).keys(state.keys()?);
    if config.timing.probe_interval <= URGENT {
        raise_priority();
    }
    let (around, changes) = around::Around::new(state, plugins, config.timing.hook_timeout);
    let flip = builder.program(around).start().await?;
    serve(flip, socket, changes).await
}

fn raise_priority() {
    let priority = clock::raise_priority();
    tracing::debug!(?priority, "priority raised for a profile of milliseconds");
    if priority == clock::Priority::Unchanged {
        tracing::warn!("cannot raise the priority: without CAP_SYS_NICE a busy machine delays this profile");
    }
}

/// Runs the node until it has left or a second signal ends it.
async fn serve(flip: Flip, mut socket: Socket, changes: watch::Receiver<Arc<str>>) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut announce = signal(SignalKind::user_defined1())?;
    let node = flip.handle();
    tokio::spawn(socket.serve(node.clone(), changes));
    let mut asked: Option<Time> = None;
    let mut run = pin!(flip.run());
    loop {
        tokio::select! {
            biased;
            Some(()) = either(&mut terminate, &mut interrupt) => match asked {
                None => {
                    tracing::info!("asked to end: releasing all items and saying goodbye");
                    asked = Some(clock::now());
                    node.leave();
                }
                Some(first) if clock::now().since(first) < SAME_WISH => {}
                Some(_) => {
                    return Err(anyhow!("asked twice to end: items may be left behind on this host").into());
                }
            },
            // Unheard it would end the daemon without a goodbye, and leave the addresses behind.
            Some(()) = hangup.recv() => {
                tracing::warn!("SIGHUP changes nothing: restart the daemon to use another config");
            }
            Some(()) = announce.recv() => {
                let node = node.clone();
                tokio::spawn(async move {
                    // The log has what was done, and why not.
                    match node.announce(None).await {
                        Ok(done) => tracing::info!("SIGUSR1: {done}"),
                        Err(why) => tracing::warn!("SIGUSR1: {why}"),
                    }
                });
            }
            end = &mut run => return match end {
                Ok(End::Left | End::Aborted) => Ok(ExitCode::SUCCESS),
                Err(error @ Error::Refused { .. }) => Err(Failure { code: REFUSED, error: error.into() }),
                Err(error) => Err(error.into()),
            },
        }
    }
}

async fn either(one: &mut Signal, other: &mut Signal) -> Option<()> {
    tokio::select! {
        received = one.recv() => received,
        received = other.recv() => received,
    }
}

/// What scripts of this config may use.
pub fn setup(config: &Config, scripts: Scripts) -> Setup {
    let mut limits = Limits { unsafe_lua: config.lua.unsafe_lua, ..Limits::default() };
    limits.memory = config.lua.memory_mib.map_or(limits.memory, |mib| (mib as usize) << 20);
    limits.steps = config.lua.steps.unwrap_or(limits.steps);
    let my_host = config.my().addr.ip();
    let siblings = config.servers[..config.me].iter().filter(|server| server.addr.ip() == my_host).count();
    Setup { siblings, scripts, limits, ..Setup::new(&config.my().id) }
}
