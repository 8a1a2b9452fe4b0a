//! The daemon: [`Flip`] drives the node on one thread; this adds what a daemon is: signals, a state dir, a
//! an API for tools, a log.
//!
//! ```text
//!  signals ─────► Handle ─┐              ┌─► Around: log, plugins, state dir
//!  tools ─► API ──────────┴─► Flip ──────┴─► Around: status for those who watch, Service
//! ```

pub mod api;
mod around;
mod crowd;
mod join;
mod log;
mod pictures;
mod privileges;
mod reload;
mod service;
mod state;
mod told;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::anyhow;
use flip_core::config::LogLevel;
use flip_core::status::PrivilegeStatus;
use flip_core::{Time, catalog};
use flip_systems::clock;
use flip_systems::files::{Files, Read};
use flip_systems::flip::{End, Error, Flip};
use flip_systems::lua::{Plugins, Scripts};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{ConfigArgs, DaemonArgs, LogFormat};
use crate::config::{self, Refused};
use crate::{Failure, Outcome, paths};
use api::{Access, Api, Socket, Tcp};
use reload::Reload;

/// A supervisor may signal a process and its group: signals that come together are one wish.
const SAME_WISH: Duration = Duration::from_millis(500);

/// The exit code of a daemon whose id another one has.
const REFUSED: u8 = 3;

pub fn run(config: PathBuf, args: DaemonArgs) -> Outcome {
    let from = ConfigArgs { config, id: args.id.clone() };
    let mut read = match config::read_any(&from) {
        Ok(read) => read,
        Err(Refused(text)) => {
            writeln!(std::io::stderr(), "{text}")?;
            return Ok(ExitCode::from(2));
        }
    };
    let state_dir = paths::state_dir(&args.state)?;
    let dir = paths::server_dir(&state_dir, &read.config.my().id);
    join::join(&mut read, &args, [&state_dir, &dir])?;
    let Read { config, warnings, scripts, known, file, local, files, .. } = read;
    // Before there is another thread, which would keep everything.
    let privileges = privileges::give_up(&config, [&state_dir, &dir])?;
    let level = args.log_level.map_or(config.log_level, LogLevel::from);
    let log = log::start(args.log, level);
    match args.log {
        LogFormat::Text if !warnings.is_empty() && level <= LogLevel::Warning => config::print(&warnings),
        LogFormat::Text => {}
        LogFormat::Json => warnings.iter().for_each(log::warning),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Whoever is to be told may be gone; what the daemon holds matters more.
    let service = service::Service::from_environment().unwrap_or_else(|error| {
        tracing::warn!("{error:#}; running without");
        None
    });
    let beside = from.config.parent().unwrap_or(Path::new("")).to_owned();
    let host = Host { dir, beside, privileges, service };
    let result = runtime.block_on(start(args, (file, local), scripts, (files, known), host));
    // Tasks that still run are dropped, and the last lines of the log written.
    runtime.shutdown_background();
    drop(log);
    result
}

/// What the daemon was given by its host.
struct Host {
    /// This server's folder of the state dir.
    dir: PathBuf,
    /// The folder of the config.
    beside: PathBuf,
    privileges: PrivilegeStatus,
    service: Option<service::Service>,
}

async fn start(
    args: DaemonArgs,
    (file, local): (catalog::File, catalog::Local),
    scripts: Scripts,
    files: (Files, Vec<catalog::Known>),
    host: Host,
) -> Outcome {
    let Host { dir, beside, privileges, service } = host;
    let state = state::State::open(&dir)?;
    let begun = catalog::begin(&file, &local, state.catalog()?)?;
    begun.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let config = Arc::new(begun.config);
    privileges::log(&privileges);
    let builder = Flip::builder(Arc::clone(&config)).bind().await?;
    let socket = Socket::bind(&args.state.socket.unwrap_or_else(|| dir.join(paths::SOCKET)))?;
    let tcp = match &config.admin {
        Some(admin) => Some(Tcp::bind(Access::read(admin, &beside)?).await?),
        None => None,
    };
    let builder = builder.scripts(scripts)?;
    let engine = builder.engine().cloned();
    let plugins = match &engine {
        Some(engine) if !config.lua.plugins.is_empty() => {
            let started = Plugins::start(engine, &config.lua.plugins, config.timing.hook_timeout);
            Some(Arc::new(Mutex::new(started.map_err(|name| anyhow!("there is no script {name}"))?)))
        }
        _ => None,
    };
    let builder = builder.generation(state.next_generation()?).keys(state.keys()?);
    let (builder, writer) = (builder.catalog(begun.catalog, local), state.writer()?);
    if config.is_urgent() {
        raise_priority();
    }
    let access = tcp.as_ref().map(Tcp::access);
    let reload = Arc::new(Reload::new(files, engine, plugins.clone(), access, builder.handle()));
    let given =
        around::Given { state, writer, plugins, limit: config.timing.hook_timeout, privileges, service };
    let (around, changes) = around::Around::new(given);
    let flip = builder.program(around).start().await?;
    serve(flip, (socket, tcp), reload, changes).await
}

fn raise_priority() {
    let priority = clock::raise_priority();
    tracing::debug!(?priority, "priority raised for a profile of milliseconds");
    if priority == clock::Priority::Unchanged {
        tracing::warn!("cannot raise the priority: without CAP_SYS_NICE a busy machine delays this profile");
    }
}

/// Runs the node until it has left or a second signal ends it.
async fn serve(
    flip: Flip,
    (mut socket, tcp): (Socket, Option<Tcp>),
    reload: Arc<Reload>,
    changes: watch::Receiver<Arc<str>>,
) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut announce = signal(SignalKind::user_defined1())?;
    let node = flip.handle();
    let router = Api::new(node.clone(), Arc::clone(&reload), changes).router();
    tokio::spawn(socket.serve(router.clone()));
    if let Some(tcp) = tcp {
        tokio::spawn(tcp.serve(router));
    }
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
            Some(()) = hangup.recv() => {
                let reload = Arc::clone(&reload);
                // The log says what came of it.
                tokio::spawn(async move { drop(reload.run().await) });
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
