//! The daemon: one thread that feeds the node with what happens and does what it wants.
//!
//! ```text
//!  UDP ─┐                                   ┌─ UDP
//!  TCP ─┤                                   ├─ TCP (a task per exchange)
//!  timerfd ─► Node::handle ─► poll_output ──┼─ hooks (a task each) ─► HookDone
//!  signals ─┤        one at a time          ├─ refreshes, at once ─► Refreshed
//!  tools ───┤                               ├─ health checks (a task each) ─► CheckDone
//!  hooks, checks, drift ──┤                 ├─ log, status, answers to tools
//!  witness ───────────────┘                 └─ state dir
//! ```
//!
//! Tasks may be dropped at any point: an exchange is asked for again by the rules, a hook is safe to
//! repeat.

mod drive;
mod host;
mod log;
pub mod socket;
mod state;
mod timer;
mod told;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use flip_core::config::LogLevel;
use flip_core::{Node, Start};
use flip_systems::lua::{Engine, Limits, LuaChecks, Plugins, Scripts, Setup};
use flip_systems::{Checks, Registry, Systems, UdpPort, Witness, clock};
use tokio::net::TcpListener;

use crate::cli::{ConfigArgs, DaemonArgs, LogFormat};
use crate::config::{self, Read, Refused};
use crate::{Outcome, paths};

/// Fills a buffer from the kernel's random source.
pub fn entropy(mut buffer: &mut [u8]) -> std::io::Result<()> {
    while !buffer.is_empty() {
        let got = rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty())?;
        buffer = &mut buffer[got..];
    }
    Ok(())
}

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

async fn start(args: DaemonArgs, config: Arc<flip_core::config::Config>, scripts: Scripts) -> Outcome {
    let me = config.my();
    let dir = paths::server_dir(&paths::state_dir(&args.state)?, &me.id);
    let state = state::State::open(&dir)?;
    let port = UdpPort::bind(me.addr)?;
    let listener =
        TcpListener::bind(me.addr).await.with_context(|| format!("cannot listen on {} (TCP)", me.addr))?;
    let socket = socket::Socket::bind(&args.state.socket.unwrap_or_else(|| dir.join(paths::SOCKET)))?;
    let mut registry = Registry::default();
    let (host, ear) = host::pair();
    let mut plugins = None;
    let mut checked_by = None;
    if !scripts.is_empty() {
        let setup = Setup { host: Arc::new(host), account: false, ..setup(&config, scripts) };
        let engine = Engine::new(setup).context("cannot start the threads of scripts")?;
        if !config.lua.plugins.is_empty() {
            let started = Plugins::start(&engine, &config.lua.plugins, config.timing.hook_timeout);
            plugins = Some(started.map_err(|name| anyhow::anyhow!("there is no script {name}"))?);
        }
        let engine = Arc::new(engine);
        registry.scripts(Arc::clone(&engine));
        let run = LuaChecks::new(engine, Arc::clone(&config));
        checked_by = Some(Arc::new(run) as Arc<dyn flip_systems::Scripts>);
    }
    let systems = Systems::open_with(&registry, &config)?;
    for leftover in systems.leftovers() {
        let done = if leftover.adopted { "kept" } else { "removed" };
        tracing::info!(what = leftover.what, done, "left behind by an earlier life");
    }
    let witness = config.witness.map(open_witness).transpose()?;
    let checks = Checks::new(Arc::clone(&config), checked_by).map_err(anyhow::Error::msg)?;
    let mut seed = [0; 32];
    entropy(&mut seed)?;
    let generation = state.next_generation()?;
    if config.timing.probe_interval <= drive::URGENT {
        let priority = clock::raise_priority();
        tracing::debug!(?priority, "priority raised for a profile of milliseconds");
        if priority == clock::Priority::Unchanged {
            tracing::warn!(
                "cannot raise the priority: without CAP_SYS_NICE a busy machine delays this profile"
            );
        }
    }
    let node = Node::new(Arc::clone(&config), Start { generation, seed, keys: state.keys()? }, clock::now());
    let scripts = drive::Scripted { ear, plugins };
    drive::Drive::new(node, state, port, systems, witness, checks, scripts)?
        .run(listener, socket)
        .await
        .map(ExitCode::from)
}

/// What scripts of this config may use.
pub fn setup(config: &flip_core::config::Config, scripts: Scripts) -> Setup {
    let mut limits = Limits { unsafe_lua: config.lua.unsafe_lua, ..Limits::default() };
    limits.memory = config.lua.memory_mib.map_or(limits.memory, |mib| (mib as usize) << 20);
    limits.steps = config.lua.steps.unwrap_or(limits.steps);
    let my_host = config.my().addr.ip();
    let siblings = config.servers[..config.me].iter().filter(|server| server.addr.ip() == my_host).count();
    Setup { siblings, scripts, limits, ..Setup::new(&config.my().id) }
}

fn open_witness(addr: std::net::IpAddr) -> anyhow::Result<Witness> {
    Witness::open(addr).with_context(|| {
        format!(
            "cannot open an ICMP socket to ask the witness {addr}; give flip CAP_NET_RAW, or allow ping sockets \
             to its group (sysctl net.ipv4.ping_group_range), or remove \"witness\" from the config"
        )
    })
}
