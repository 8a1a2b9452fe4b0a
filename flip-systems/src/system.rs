//! What a system is, which there are, and how hooks reach them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use flip_core::config::{Config, HANDLERS};
use flip_core::event::Reason;
use flip_core::id::ItemRef;
use flip_core::{HookAction, HookCall, Lifetime, RefreshCall};
use tokio::sync::Notify;

pub use crate::bus::{Bus, Confirmed, Said};
use crate::ip::Ip;
use crate::lua::{Engine, LuaPost, LuaSystem};
use crate::memory::Memory;
use crate::post::{Post, PostOf};
use crate::tasks::{Task, Tasks};

mod served;

use self::served::{Job, Served};

/// A hook at work. It does nothing before it is polled; `Err` carries one line for people.
pub type HookFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A look at what is there. It does nothing before it is polled; `Err` carries one line for people.
pub type ObserveFuture = Pin<Box<dyn Future<Output = Result<Vec<usize>, String>> + Send>>;

/// What a hook is told of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Why it is called.
    pub reason: Reason,
    /// After this long it is ended: whoever can end by itself, with a better message, ends before.
    pub timeout: std::time::Duration,
    /// How long the item may be there without being refreshed. Systems of which nothing ends by itself
    /// need not look at it.
    pub lifetime: Lifetime,
}

/// One system of the config at work on this server. Items are positions in the list that it was opened with. Items
/// that come into the config of a running node are served by a further one, opened for them alone.
///
/// Everything here must be safe to repeat: bringing up what is up and taking down what is down
/// succeed. A future that is dropped, because its time is over, may have been obeyed or not.
pub trait System: Send + Sync {
    /// Brings the item up here and starts to announce it. Ends when it is up and announced once, or its turn to be
    /// announced will come: many at once keep a pace.
    fn alive(&self, item: usize, context: &Context) -> HookFuture;

    /// Gives items that [`System::alive`] brought up, or [`System::observe`] found, a new lifetime, within
    /// this call. Gives back those that were not here any more or whose `latest` had passed; they are not
    /// here when it returns. Nothing to do where nothing ends by itself.
    fn refresh(&self, items: &[usize], lifetime: Lifetime) -> Vec<usize> {
        let _ = (items, lifetime);
        Vec::new()
    }

    /// Takes the item down and stops to announce it. Ends when it is gone.
    fn down(&self, item: usize, context: &Context) -> HookFuture;

    /// The item is here: tells the neighbours again from the start. Nothing to do where nobody is told.
    fn announce(&self, item: usize, context: &Context) -> HookFuture {
        let _ = (item, context);
        Box::pin(std::future::ready(Ok(())))
    }

    /// Somebody else is about to take the item: announces it no more, and leaves it as it is. Nothing to do
    /// where nothing is announced.
    fn hush(&self, item: usize) {
        let _ = item;
    }

    /// The items that are really here, whoever brought them.
    fn observe(&self) -> ObserveFuture;

    /// This item is not served any more: it is down, and its position will not be used again. Nothing to do where
    /// nothing is kept of an item.
    fn forget(&self, item: usize) {
        let _ = item;
    }

    /// The config of the node changed, and these items of the system are served on: position and what the config says
    /// of each now. What hooks see of them is as it was; what else is read of the config may be read anew. Servers
    /// may have come and gone.
    fn configure(&self, assigned: &Assigned<'_>, items: &[(usize, &flip_core::config::Item)]) {
        let _ = (assigned, items);
    }

    /// A system on another server, given as its number ([`Bus::number`]), said something with [`Bus::say`]. It
    /// comes from a holder of the cluster's key, once, late or never. All systems hear all topics, and pass
    /// over those that are not theirs. The loop waits meanwhile: it must not block.
    fn heard(&self, from: usize, topic: u8, data: &[u8]) {
        let _ = (from, topic, data);
    }
}

/// A system that this server takes part in, handed to [`Handler::open`].
#[derive(Clone, Copy, Debug)]
pub struct Assigned<'a> {
    /// Its number, the `system` of its `ItemRef`s: the position in the config that the node was started with. Each
    /// that is opened later has another.
    pub position: usize,
    /// What the config says of it.
    pub system: &'a flip_core::config::System,
    /// How many servers before this one in the list have its IP address, and so share its host.
    pub siblings: usize,
    /// The config that it is of, for the other servers.
    pub config: &'a Config,
}

/// Makes systems: what the names under `alive` and `down` in a config stand for.
pub trait Handler: Send + Sync {
    /// The name under `alive`.
    fn alive(&self) -> &str;

    /// The name under `down`.
    fn down(&self) -> &str;

    /// Makes all systems of this handler at once, so that they can share what they need. Changes
    /// that nobody asked for are to be put into `drift`; what they have to say to their like on other
    /// servers, into `bus`.
    ///
    /// # Errors
    /// When one of them can't work here; then none does.
    fn open(&self, systems: &[Assigned<'_>], drift: &Arc<Drift>, bus: &Arc<Bus>)
    -> Result<Opened, OpenError>;
}

/// What [`Handler::open`] made.
pub struct Opened {
    /// One system for each that was assigned, in their order.
    pub systems: Vec<Arc<dyn System>>,
    /// What was found of an earlier life.
    pub leftovers: Vec<Leftover>,
}

/// Something that an earlier life of the daemon left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What, for people: `192.0.2.7/32 on eth0`.
    pub what: String,
    /// Whether it was kept, because the config has it; otherwise it was removed.
    pub adopted: bool,
}

/// The handlers that a config may name.
pub struct Registry {
    handlers: Vec<Box<dyn Handler>>,
    /// Its scripts are handlers too, where no other has the name.
    lua: Option<Arc<Engine>>,
    posts: BTreeMap<String, Arc<dyn Post>>,
}

impl Default for Registry {
    /// `ip_up`/`ip_down` and `memory_up`/`memory_down`.
    fn default() -> Self {
        Self { handlers: vec![Box::new(Ip), Box::new(Memory::default())], lua: None, posts: BTreeMap::new() }
    }
}

impl Registry {
    /// Adds a handler. It takes the place of one with the same name under `alive`.
    pub fn register(&mut self, handler: impl Handler + 'static) {
        self.handlers.retain(|h| h.alive() != handler.alive());
        self.handlers.push(Box::new(handler));
    }

    /// Adds a handler that makes each of its systems by a function: for systems that share nothing, find
    /// nothing of an earlier life, and always open. It takes the place of one with the same name under `alive`.
    pub fn register_with<S: System + 'static>(
        &mut self,
        alive: &str,
        down: &str,
        make: impl Fn(&Assigned<'_>) -> S + Send + Sync + 'static,
    ) {
        self.register(Made { alive: alive.to_owned(), down: down.to_owned(), make });
    }

    /// Adds a system whose items are tasks: each is a future that runs where its item is placed, and is dropped
    /// when the item goes. `name` is the system's in the config; `<name>_up` and `<name>_down` are its handlers.
    ///
    /// `down` ends when the future is gone. One that ends by itself, or panics, is started again after a pause
    /// ([`tasks::RESTART`](crate::tasks::RESTART)). All run on the runtime of the node, so they must not block.
    pub fn register_tasks<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &str,
        make: impl Fn(Task) -> F + Send + Sync + 'static,
    ) {
        self.register(Tasks::new(name, make));
    }

    /// Names that no handler has are looked for among the scripts of this engine.
    pub fn scripts(&mut self, engine: Arc<Engine>) {
        self.lua = Some(engine);
    }

    /// What a name under `post` stands for.
    fn post(&self, name: &str) -> Option<Arc<dyn Post>> {
        let script = || Some(Arc::new(LuaPost::new(self.lua.as_ref()?, name)?) as Arc<dyn Post>);
        self.posts.get(name).cloned().or_else(script)
    }

    /// The scripts of a system, if its handler is a script.
    fn lua(
        &self,
        config: &Config,
        system: &flip_core::config::System,
    ) -> Option<Result<LuaSystem, OpenError>> {
        let engine = self.lua.as_ref()?;
        if self.handlers.iter().any(|h| h.alive() == system.alive) || engine.script(&system.alive).is_none() {
            return None;
        }
        let made = LuaSystem::new(
            Arc::clone(engine),
            system,
            system.hooks.timeout.unwrap_or(config.timing.hook_timeout),
        );
        Some(made.map_err(|name| OpenError::UnknownHandler {
            system: system.name.clone(),
            key: "down",
            name,
            known: vec!["the scripts of the directory".to_owned()],
        }))
    }

    /// The `post` hook of a system, if it has one.
    fn post_of(&self, system: &flip_core::config::System) -> Result<Option<PostOf>, OpenError> {
        let Some(name) = &system.hooks.post else { return Ok(None) };
        let post = self.post(name).ok_or_else(|| OpenError::UnknownHandler {
            system: system.name.clone(),
            key: "post",
            name: name.clone(),
            known: self.posts.keys().cloned().collect(),
        })?;
        Ok(Some(PostOf { system: system.clone(), post }))
    }

    /// Adds what a name under `post` stands for.
    pub fn register_post(&mut self, name: &str, post: impl Post + 'static) {
        self.posts.insert(name.to_owned(), Arc::new(post));
    }

    /// The names that may stand under `alive` and `down`, pair by pair.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.handlers.iter().map(|h| (h.alive(), h.down()))
    }

    /// All names that a config may use because this program registered them: those of flip's own handlers, which
    /// the rules of a config know, are not among them, nor are scripts.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        let own = self.names().filter(|pair| !HANDLERS.contains(pair));
        own.flat_map(|(alive, down)| [alive, down]).chain(self.posts.keys().map(String::as_str))
    }

    /// The handler's position.
    fn find(&self, system: &flip_core::config::System) -> Result<usize, OpenError> {
        let unknown = |key, name: &str| {
            let known = self.names().map(|(a, d)| if key == "alive" { a } else { d });
            OpenError::UnknownHandler {
                system: system.name.clone(),
                key,
                name: name.to_owned(),
                known: known.map(str::to_owned).collect(),
            }
        };
        let position = self
            .handlers
            .iter()
            .position(|h| h.alive() == system.alive)
            .ok_or_else(|| unknown("alive", &system.alive))?;
        if self.handlers[position].down() == system.down {
            return Ok(position);
        }
        if self.handlers.iter().all(|h| h.down() != system.down) {
            return Err(unknown("down", &system.down));
        }
        Err(OpenError::Mismatch {
            system: system.name.clone(),
            alive: system.alive.clone(),
            down: system.down.clone(),
            expected: self.handlers[position].down().to_owned(),
        })
    }
}

/// What [`Registry::register_with`] adds.
struct Made<F> {
    alive: String,
    down: String,
    make: F,
}

impl<S: System + 'static, F: Fn(&Assigned<'_>) -> S + Send + Sync> Handler for Made<F> {
    fn alive(&self) -> &str {
        &self.alive
    }

    fn down(&self) -> &str {
        &self.down
    }

    fn open(&self, systems: &[Assigned<'_>], _: &Arc<Drift>, _: &Arc<Bus>) -> Result<Opened, OpenError> {
        let made = systems.iter().map(|assigned| Arc::new((self.make)(assigned)) as Arc<dyn System>);
        Ok(Opened { systems: made.collect(), leftovers: Vec::new() })
    }
}

/// All systems that this server takes part in.
///
/// Dropping it leaves everything as it is, as a crash would; announcements end.
pub struct Systems {
    served: Served,
    pub(crate) posts: BTreeMap<usize, PostOf>,
    drift: Arc<Drift>,
    bus: Arc<Bus>,
    leftovers: Vec<Leftover>,
    siblings: usize,
}

impl Systems {
    /// Makes the systems that `config` gives to this server, and finds what an earlier life left:
    /// kept where it is still configured, removed where not. Must be called within a tokio
    /// runtime with its clock and its reactor enabled.
    ///
    /// An interface that is missing is not an error here: it may come later. The hook will say so.
    ///
    /// # Errors
    /// When a handler is unknown, an item or a setting is not understood, or a capability is
    /// missing. Nothing was changed then, except that leftovers may have been removed.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        Self::open_with(&Registry::default(), config)
    }

    /// As [`Systems::open`], with other handlers.
    ///
    /// # Errors
    /// As [`Systems::open`].
    pub fn open_with(registry: &Registry, config: &Config) -> Result<Self, OpenError> {
        let (drift, bus) = (Arc::new(Drift::default()), Arc::new(Bus::default()));
        let mut systems = Self {
            served: Served::new(config),
            posts: BTreeMap::new(),
            drift,
            bus,
            leftovers: Vec::new(),
            siblings: config.siblings(),
        };
        let mut jobs = Vec::new();
        for &position in &config.my().systems {
            let system = &config.systems[position];
            if let Some(post) = registry.post_of(system)? {
                systems.posts.insert(position, post);
            }
            jobs.push(Job { position, number: position, system: system.clone() });
        }
        systems.leftovers = systems.open_all(registry, config, jobs)?;
        Ok(systems)
    }

    /// What an earlier life of the daemon had left when this was opened.
    #[must_use]
    pub fn leftovers(&self) -> &[Leftover] {
        &self.leftovers
    }

    /// Runs a hook until it ends or `call.timeout` has passed. The future borrows nothing and may
    /// be spawned; dropping it ends the hook.
    ///
    /// # Errors
    /// One line for people, for `Input::HookDone`.
    pub fn run(&self, call: HookCall) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let ItemRef { system, item } = call.item;
        let found = self.served.find(call.item);
        let trouble = self.served.trouble(system);
        let context = Context { reason: call.reason, timeout: call.timeout, lifetime: call.lifetime };
        async move {
            let Some((found, item)) = found else {
                let missing = || format!("this server has no item {item} of system {system}");
                return Err(trouble.unwrap_or_else(missing));
            };
            let (name, hook) = match call.action {
                HookAction::Alive => ("alive", found.alive(item, &context)),
                HookAction::Down => ("down", found.down(item, &context)),
                HookAction::Announce => ("announce", found.announce(item, &context)),
            };
            match tokio::time::timeout(call.timeout, hook).await {
                Ok(result) => result,
                Err(_) => Err(format!("{name} took longer than {:?} and was ended", call.timeout)),
            }
        }
    }

    /// Carries out `Output::Refresh` within this call; gives back what to hand in as
    /// `Input::Refreshed::gone`. Items that this server does not have are gone.
    #[must_use]
    pub fn refresh(&self, call: &RefreshCall) -> Vec<usize> {
        self.served.refresh(call)
    }

    /// Carries out `Output::Hush`.
    pub fn hush(&self, item: ItemRef) {
        if let Some((found, item)) = self.served.find(item) {
            found.hush(item);
        }
    }

    /// All items of this server's systems, and whether they are really here, whoever brought them.
    ///
    /// # Errors
    /// One line for people when the kernel does not tell.
    pub async fn observe(&self) -> Result<Vec<(ItemRef, bool)>, String> {
        self.served.observe().await
    }

    /// The next word of a system about an item, that is neither a hook's end nor a change of what is here. Waits
    /// until there is one. Cancel safe.
    pub async fn word(&self) -> (ItemRef, Word) {
        loop {
            let (item, word) = self.drift.next_word().await;
            if let Some(at) = self.locate(item) {
                return (at, word);
            }
        }
    }

    /// As [`Systems::word`], if there is one by now.
    #[must_use]
    pub fn word_now(&self) -> Option<(ItemRef, Word)> {
        loop {
            let (item, word) = self.drift.take_word()?;
            if let Some(at) = self.locate(item) {
                return Some((at, word));
            }
        }
    }

    /// The next change that no hook made: an item that is here or gone by somebody else's doing.
    /// Waits until there is one. Cancel safe.
    pub async fn drift(&self) -> (ItemRef, bool) {
        loop {
            let (item, present) = self.drift.next().await;
            if let Some(at) = self.locate(item) {
                return (at, present);
            }
        }
    }

    /// As [`Systems::word`] and [`Systems::drift`], of whatever comes first: the config may change before it is
    /// handed in, so it is located then.
    pub(crate) fn reports(&self) -> &Drift {
        &self.drift
    }

    /// Where an item that a system speaks of stands in the config now; none for one that is served no more.
    pub(crate) fn locate(&self, item: ItemRef) -> Option<ItemRef> {
        self.served.locate(item)
    }

    /// The position of a server by its number ([`Bus::number`]).
    pub(crate) fn position_of(&self, number: usize) -> Option<usize> {
        self.bus.position(number)
    }

    /// The next thing that a system has to say to its like, for `Input::Say`. Waits until there is one. Cancel
    /// safe.
    pub async fn said(&self) -> Said {
        self.bus.next().await
    }

    /// The next thing that another server saw of an item that is here, for `Input::Confirmed`. Waits until there
    /// is one. Cancel safe.
    pub async fn confirmed(&self) -> Confirmed {
        self.bus.next_confirmed().await
    }

    /// What waits of [`Systems::said`] and [`Systems::confirmed`], without waiting for it.
    #[must_use]
    pub fn waiting(&self) -> (Option<Said>, Option<Confirmed>) {
        (self.bus.take(), self.bus.take_confirmed())
    }

    /// Tells the systems which other servers are up ([`Bus::members`]).
    pub fn set_members(&self, members: Vec<usize>) {
        let numbers = members.into_iter().map(|position| self.bus.number(position));
        self.bus.set_members(numbers.collect());
    }

    /// Carries out `Output::Heard`.
    pub fn heard(&self, from: usize, topic: u8, data: &[u8]) {
        let from = self.bus.number(from);
        for system in self.served.objects() {
            system.heard(from, topic, data);
        }
    }
}

/// What a system says of an item without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// What the item needs here is there, or not: one line for people says what is wrong.
    Usable(Option<String>),
    /// A host that is no member uses the item, which is here.
    Conflict {
        /// Its hardware address.
        with: String,
        /// Whether the item is to go from here.
        give_up: bool,
    },
}

/// What systems say without being asked: changes that no hook made, and words; the last of each kind about each
/// item.
#[derive(Debug, Default)]
pub struct Drift {
    // Entries per item, so none of them needs a limit of its own.
    changes: Mutex<BTreeMap<ItemRef, bool>>,
    notify: Notify,
    words: Mutex<BTreeMap<(ItemRef, Kind), Word>>,
    spoken: Notify,
}

/// A later word of the same kind replaces an earlier one that nobody took yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Usable,
    Conflict,
}

impl Drift {
    /// Tells that `item` is here or not. A word about the same item that nobody took yet is replaced.
    pub fn put(&self, item: ItemRef, present: bool) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).insert(item, present);
        self.notify.notify_one();
    }

    /// What was told of `item` and not taken yet is out of date: its system changed it meanwhile.
    pub fn forget(&self, item: ItemRef) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).remove(&item);
    }

    /// Says something of an item. A word of the same kind about it that nobody took yet is replaced.
    pub fn say(&self, item: ItemRef, word: Word) {
        let kind = match word {
            Word::Usable(_) => Kind::Usable,
            Word::Conflict { .. } => Kind::Conflict,
        };
        self.words.lock().unwrap_or_else(PoisonError::into_inner).insert((item, kind), word);
        self.spoken.notify_one();
    }

    pub(crate) fn take_word(&self) -> Option<(ItemRef, Word)> {
        let first = self.words.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
        first.map(|((item, _), word)| (item, word))
    }

    pub(crate) async fn next_word(&self) -> (ItemRef, Word) {
        loop {
            if let Some(word) = self.take_word() {
                return word;
            }
            self.spoken.notified().await;
        }
    }

    pub(crate) async fn next(&self) -> (ItemRef, bool) {
        loop {
            let change = self.changes.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            if let Some(change) = change {
                return change;
            }
            self.notify.notified().await;
        }
    }
}

/// Why the systems could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The config names a handler that does not exist. Nothing was changed.
    UnknownHandler {
        /// Name of the system.
        system: String,
        /// `alive`, `down` or `post`.
        key: &'static str,
        /// The handler.
        name: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// `alive` and `down` of a system do not belong together. Nothing was changed.
    Mismatch {
        /// Name of the system.
        system: String,
        /// What stands under `alive`.
        alive: String,
        /// What stands under `down`.
        down: String,
        /// What would belong under `down`.
        expected: String,
    },
    /// An item is not what the system handles. Nothing was changed.
    Item {
        /// Name of the system.
        system: String,
        /// The item.
        item: String,
        /// What is expected.
        what: &'static str,
    },
    /// A setting of a system is wrong. Nothing was changed.
    Setting {
        /// Name of the system.
        system: String,
        /// The key within its `config`.
        key: &'static str,
        /// What is expected, and what was found.
        what: String,
    },
    /// This process may not do what the system needs. Nothing was changed.
    Capability {
        /// The one that is missing.
        missing: &'static str,
    },
    /// The kernel refused something else.
    Kernel {
        /// What was tried, to be read after "cannot".
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownHandler { system, key, name, known } => {
                write!(
                    f,
                    "system {system}: unknown handler {name:?} under {key:?}; there are: {}",
                    known.join(", ")
                )
            }
            Self::Mismatch { system, alive, down, expected } => write!(
                f,
                "system {system}: {down:?} under \"down\" does not belong to {alive:?} under \"alive\"; \
                 expected {expected:?}"
            ),
            Self::Item { system, item, what } => {
                write!(f, "system {system}: item {item:?}: expected {what}")
            }
            Self::Setting { system, key, what } => write!(f, "system {system}: config.{key}: {what}"),
            Self::Capability { missing } => write!(f, "{}", capability_missing(missing)),
            Self::Kernel { doing, source: _ } => write!(f, "cannot {doing}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kernel { source, .. } => Some(source),
            Self::UnknownHandler { .. }
            | Self::Mismatch { .. }
            | Self::Item { .. }
            | Self::Setting { .. }
            | Self::Capability { .. } => None,
        }
    }
}

/// The text for a missing capability: which, and what to do.
pub(crate) fn capability_missing(missing: &str) -> String {
    format!(
        "{missing} is missing: run flip as root, or give it the capabilities (systemd: \
         AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW; else: setcap cap_net_admin,cap_net_raw+ep)"
    )
}

#[cfg(test)]
mod tests;
