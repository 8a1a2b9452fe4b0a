//! A node in your own program: [`Flip`] drives it on the runtime that is there, [`Handle`] asks and steers it.
//!
//! ```text
//!  UDP ─┐                                   ┌─ UDP
//!  TCP ─┤                                   ├─ TCP (a task per exchange)
//!  timerfd ─► Node::handle ─► poll_output ──┼─ hooks (a task each) ─► HookDone
//!  Handle ──┤        one at a time          ├─ refreshes, at once ─► Refreshed
//!  hooks, checks, drift ──┤                 ├─ health checks (a task each) ─► CheckDone
//!  witness ───────────────┘                 └─ Program, answers to handles, events
//! ```
//!
//! It makes no runtime, listens to no signal and writes no file. Tasks may be dropped at any point: an exchange
//! is asked for again by the rules, a hook is safe to repeat. When the loop ends, for whatever reason, its
//! tasks end with it.

mod alarm;
mod drive;
mod error;
mod handle;
mod history;
mod metrics;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use flip_core::catalog::{Catalog, Local};
use flip_core::config::{self, Config, Overrides, Problem, Script, ScriptFound, Source};
use flip_core::event::Event;
use flip_core::record::Record;
use flip_core::status::Status;
use flip_core::stored::StoredKeys;
use flip_core::{Node, Start, Time};
use tokio::net::TcpListener;

pub use error::Error;
pub use handle::{EVENTS, Handle, Happened, Refusal};
pub use history::{BYTES, RECORDS, Reader, Told};
pub use metrics::CONTENT_TYPE;

use crate::files::{self, ReadError};
use crate::lua::{Engine, LuaChecks, Setup};
use crate::{Checks, Registry, Scripts, Systems, UdpPort, Witness, clock, lua};
use drive::{Drive, Parts};
use handle::Inbox;

/// What the program around a node does for it. All of it may be left out: `()` does nothing.
///
/// The loop calls it between two inputs, and everything else waits meanwhile: it must not block.
pub trait Program: Send {
    /// Something happened.
    fn event(&mut self, event: &Event, config: &Config, now: Time) {
        let _ = (event, config, now);
    }

    /// The same event in words, as [`Handle::history`] gives it.
    fn record(&mut self, event: &Event, record: &Record, now: Time) {
        let _ = (event, record, now);
    }

    /// Remember this generation: the next start must use a larger one ([`Builder::generation`]). A program that
    /// remembers nothing relies on the clock; see [`clock::generation`].
    fn store_generation(&mut self, generation: u64) {
        let _ = generation;
    }

    /// Remember these keys: the next start must get them ([`Builder::keys`]). A program that remembers nothing
    /// must not change the keys of a running cluster, or change its config as well.
    fn store_keys(&mut self, keys: &StoredKeys) {
        let _ = keys;
    }

    /// Remember this of the catalog ([`Builder::catalog`]): what replaces all before, or else what comes after it.
    /// Call `done` when it is where a power cut does not take it away; it may be called from any thread, and the loop
    /// goes on meanwhile. A program that remembers nothing says at once that it is done: then an acknowledged edit
    /// lives for as long as a majority of these processes.
    fn store_catalog(&mut self, bytes: Vec<u8>, whole: bool, done: Stored) {
        let _ = (bytes, whole);
        done(Ok(()));
    }

    /// A turn of the loop is over: nothing is left to be done, and the loop is about to wait.
    fn turn(&mut self, node: &Node, now: Time) {
        let _ = (node, now);
    }

    /// When the program wants a turn, whatever the node has to do; none when it does not care.
    fn due(&self) -> Option<Time> {
        None
    }

    /// Adds to a picture of the node what only the program knows.
    fn picture(&self, status: &mut Status) {
        let _ = status;
    }

    /// The node has left; [`Flip::run`] ends after this.
    fn left(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

impl Program for () {}

/// To be called with what came of a write; `Err` carries one line for people.
pub type Stored = Box<dyn FnOnce(Result<(), String>) + Send>;

/// How a node ended that could go on for as long as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It handed over what it held, let go of it and said goodbye.
    Left,
    /// [`Handle::abort`]: it let go of nothing.
    Aborted,
}

/// A node that is ready to run: its ports are bound and its systems open.
///
/// [`Flip::run`] is a future like any other: spawn it, or wait for it beside something else. Dropping it ends
/// the node as [`Handle::abort`] does.
pub struct Flip {
    drive: Drive,
    handle: Handle,
}

impl Flip {
    /// Begins with a config that was loaded elsewhere.
    #[must_use]
    pub fn builder(config: Arc<Config>) -> Builder {
        let (handle, inbox) = handle::pair(Arc::clone(&config));
        Builder {
            config,
            registry: Registry::default(),
            engine: None,
            checks: None,
            program: Box::new(()),
            generation: None,
            keys: None,
            catalog: None,
            ports: None,
            handle,
            inbox,
        }
    }

    /// Begins with the text of a config as server `id`, in a few words: what the config will surprise somebody
    /// with goes to the log.
    ///
    /// # Errors
    /// As [`Flip::from_text`].
    pub fn node(id: &str, config: &str, registry: Registry) -> Result<Builder, Error> {
        let overrides = Overrides { id: Some(id), ..Overrides::default() };
        let (builder, warnings) =
            Self::from_text(&Source { file: "config", text: config }, &overrides, registry)?;
        for warning in warnings {
            tracing::warn!(line = warning.line, key = warning.path, "{}", warning.message);
        }
        Ok(builder)
    }

    /// Begins with the file of a config, which may name the systems of `registry` beside the native ones, a key
    /// file and scripts, as the daemon's may. `id` is the server that this is; without it, the config's `id`
    /// counts, else the name of the host. What the config will surprise somebody with comes back beside it.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Config`], or when the threads of scripts cannot be started.
    pub fn from_file(
        path: &Path,
        id: Option<&str>,
        registry: Registry,
    ) -> Result<(Builder, Vec<Problem>), Error> {
        let read = files::read(path, id, &registry).map_err(|error| match error {
            ReadError::File(why) => Error::File(why),
            ReadError::Config(problems) => Error::Config(problems),
        })?;
        if read.joining.is_some() {
            let why =
                "has no `servers`: it is that of a server that joins, which the daemon does (flip --join)";
            return Err(Error::File(format!("{} {why}", path.display())));
        }
        let builder = Self::builder(Arc::new(read.config)).registry(registry).scripts(read.scripts)?;
        Ok((builder, read.warnings))
    }

    /// Begins with the text of a config, which may name the systems of `registry` beside the native ones. What
    /// the config will surprise somebody with comes back beside it.
    ///
    /// Files that the config names are the caller's to read: `key_file` goes into
    /// [`Overrides::key_file`], scripts into [`Overrides::scripts`].
    ///
    /// # Errors
    /// [`Error::Config`]: what is wrong with it, each with its place.
    pub fn from_text(
        source: &Source<'_>,
        overrides: &Overrides<'_>,
        registry: Registry,
    ) -> Result<(Builder, Vec<Problem>), Error> {
        // For the config it only matters that somebody answers to the name.
        let known = registry.known().map(|name| Script { name, found: ScriptFound::Body });
        let scripts: Vec<_> = known.chain(overrides.scripts.iter().copied()).collect();
        let overrides = Overrides { scripts: &scripts, ..*overrides };
        let loaded = config::load(source, &overrides).map_err(Error::Config)?;
        Ok((Self::builder(Arc::new(loaded.config)).registry(registry), loaded.warnings))
    }

    /// What others ask and steer the node with.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs the node until it has left or was aborted.
    ///
    /// # Errors
    /// When the kernel does not let it go on, another node with its id is there, or it could not let go of
    /// all items when it was asked to leave.
    pub async fn run(self) -> Result<End, Error> {
        self.drive.run().await
    }
}

/// What a node is made of.
pub struct Builder {
    config: Arc<Config>,
    registry: Registry,
    engine: Option<Arc<Engine>>,
    checks: Option<Arc<dyn Scripts>>,
    program: Box<dyn Program>,
    generation: Option<u64>,
    keys: Option<StoredKeys>,
    catalog: Option<(Catalog, Local)>,
    ports: Option<(UdpPort, TcpListener)>,
    handle: Handle,
    inbox: Inbox,
}

impl Builder {
    /// The systems that the config may name; without it, the native ones ([`Registry::default`]).
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Runs these scripts where the config names them: as hooks, after plans, and as health checks.
    ///
    /// # Errors
    /// When their threads cannot be started.
    pub fn scripts(mut self, scripts: lua::Scripts) -> Result<Self, Error> {
        self.engine = None;
        if !scripts.is_empty() {
            let setup = Setup {
                host: Arc::new(self.handle.clone()),
                account: false,
                ..Setup::of(&self.config, scripts)
            };
            let kernel = |source| Error::Kernel { doing: "start the threads of scripts", source };
            self.engine = Some(Arc::new(Engine::new(setup).map_err(kernel)?));
        }
        Ok(self)
    }

    /// What runs the scripts, where there are any: for [`lua::Plugins`], and to put other scripts into their
    /// place.
    #[must_use]
    pub const fn engine(&self) -> Option<&Arc<Engine>> {
        self.engine.as_ref()
    }

    /// Who runs health checks of type `lua`, if not the scripts of [`Builder::scripts`].
    #[must_use]
    pub fn checks(mut self, scripts: Arc<dyn Scripts>) -> Self {
        self.checks = Some(scripts);
        self
    }

    /// What the program around does for the node.
    #[must_use]
    pub fn program(mut self, program: impl Program + 'static) -> Self {
        self.program = Box::new(program);
        self
    }

    /// The generation of this life, larger than those of all lives before; without it,
    /// [`clock::generation`].
    #[must_use]
    pub const fn generation(mut self, generation: u64) -> Self {
        self.generation = Some(generation);
        self
    }

    /// The keys that [`Program::store_keys`] got in an earlier life.
    #[must_use]
    pub fn keys(mut self, keys: Option<StoredKeys>) -> Self {
        self.keys = keys;
        self
    }

    /// The catalog of the cluster, and what this server's own file says to it alone: with them it may be changed
    /// while it runs. The config must be the one that they make ([`flip_core::catalog::begin`]).
    #[must_use]
    pub fn catalog(mut self, catalog: Catalog, local: Local) -> Self {
        self.catalog = Some((catalog, local));
        self
    }

    /// What others will ask and steer the node with; scripts that are started before the node need it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Binds the node's ports; [`Builder::start`] does so where this was not done before.
    ///
    /// # Errors
    /// When the address is taken or not one of this machine.
    pub async fn bind(mut self) -> Result<Self, Error> {
        if self.ports.is_none() {
            let addr = self.config.my().addr;
            let port = UdpPort::bind(addr).map_err(Error::Bind)?;
            let listener = TcpListener::bind(addr).await.map_err(|source| Error::Listen { addr, source })?;
            self.ports = Some((port, listener));
        }
        Ok(self)
    }

    /// Starts the node and lets it run beside the caller, who steers and ends it by the handle. Must be called
    /// within a tokio runtime, as [`Builder::start`]. Why it could not go on is in the log.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn spawn(self) -> Result<Handle, Error> {
        let flip = self.start().await?;
        let node = flip.handle();
        tokio::spawn(async move {
            if let Err(error) = flip.run().await {
                tracing::error!(%error, "the node ended");
            }
        });
        Ok(node)
    }

    /// Opens the systems and makes the node. Must be called within a tokio runtime, of either flavour, with
    /// its clock and its reactor enabled; the node runs on the same one.
    ///
    /// # Errors
    /// When a port is taken, a system cannot work here, or the kernel refuses something else.
    ///
    /// # Panics
    /// When [`Builder::generation`] was zero, which is reserved for "never seen".
    pub async fn start(self) -> Result<Flip, Error> {
        let Self {
            config,
            mut registry,
            engine,
            mut checks,
            program,
            generation,
            keys,
            catalog,
            ports,
            handle,
            inbox,
        } = self.bind().await?;
        if let Some(engine) = engine {
            checks.get_or_insert_with(|| Arc::new(LuaChecks::new(Arc::clone(&engine), Arc::clone(&config))));
            registry.scripts(engine);
        }
        let Some((port, listener)) = ports else { unreachable!("bind() has bound them") };
        let systems = Systems::open_with(&registry, &config).map_err(Error::Systems)?;
        for leftover in systems.leftovers() {
            let done = if leftover.adopted { "kept" } else { "removed" };
            tracing::info!(what = leftover.what, done, "left behind by an earlier life");
        }
        let witness = |addr| Witness::open(addr).map_err(|source| Error::Witness { addr, source });
        let witness = config.witness.map(witness).transpose()?;
        let checks = Checks::new(Arc::clone(&config), checks).map_err(Error::Checks)?;
        let mut seed = [0; 32];
        crate::entropy(&mut seed).map_err(|source| Error::Kernel { doing: "get random bytes", source })?;
        let generation = generation.unwrap_or_else(clock::generation);
        let mut node = Node::new(Arc::clone(&config), Start { generation, seed, keys }, clock::now());
        if let Some((catalog, local)) = catalog {
            node.set_catalog(catalog, local);
        }
        let parts =
            Parts { node, config, port, listener, registry, systems, witness, checks, program, inbox };
        Ok(Flip { drive: Drive::new(parts)?, handle })
    }
}
