//! What others learn of a node at work, and tell it: they ask the loop, which answers between two inputs.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use flip_core::Command;
use flip_core::catalog::Catalog;
use flip_core::config::Config;
use flip_core::event::Event;
use flip_core::plan::{Plan, WhatIf};
use flip_core::status::Status;
use flip_core::why::{ItemMoved, Why};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::history::{self, History, Reader, Shelf};
use crate::lua::Host;
use crate::lua::host::Answer;

/// Questions that wait for the loop; whoever asks more waits to ask.
const WAITING: usize = 256;
/// Events kept for a receiver that is slow; then it misses the oldest.
pub const EVENTS: usize = 1024;

/// Whose word it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    Person,
    Script,
}

/// What is asked of the loop.
pub(super) enum Ask {
    Status(Asker, oneshot::Sender<Arc<Status>>),
    Answer(oneshot::Sender<()>),
    Do(Asker, Command, oneshot::Sender<Result<String, Refusal>>),
    Catalog(oneshot::Sender<Option<Catalog>>),
    Why(String, oneshot::Sender<Result<Why, String>>),
    Plan(Vec<WhatIf>, oneshot::Sender<Result<Plan, String>>),
    Moves(oneshot::Sender<Vec<ItemMoved>>),
    Metrics(oneshot::Sender<String>),
    /// For tests: a config comes by other ways.
    #[cfg(test)]
    Adopt(Arc<Config>, oneshot::Sender<()>),
}

/// What is to become of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    Run,
    Leave,
    Abort,
}

/// The loop's end.
pub(super) struct Inbox {
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) events: broadcast::Sender<Happened>,
    pub(super) history: History,
    pub(super) wishes: Wishes,
    listens: Arc<AtomicBool>,
    config: Arc<RwLock<Arc<Config>>>,
}

/// Something that happened, with the config that its positions are of: a running node may change it.
#[derive(Clone, Debug)]
pub struct Happened {
    /// What.
    pub event: Event,
    /// The config of that time.
    pub config: Arc<Config>,
}

impl std::ops::Deref for Happened {
    type Target = Event;
    fn deref(&self) -> &Event {
        &self.event
    }
}

impl Inbox {
    /// The node goes on under another config.
    pub(super) fn adopt(&self, config: &Arc<Config>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(config);
    }

    /// From now on somebody answers.
    pub(super) fn listen(&self) {
        self.listens.store(true, Ordering::Release);
    }
}

/// What handles want to become of the node: they cannot be kept waiting, so only the last wish counts.
pub(super) struct Wishes(watch::Receiver<Wish>);

impl Wishes {
    /// The next wish. Cancel safe.
    pub(super) async fn next(&mut self) -> Wish {
        if self.0.changed().await.is_err() {
            // All handles are gone, and nobody can wish any more.
            std::future::pending::<()>().await;
        }
        *self.0.borrow_and_update()
    }
}

/// Makes both ends.
pub(super) fn pair(config: Arc<Config>) -> (Handle, Inbox) {
    let (asks, inbox) = mpsc::channel(WAITING);
    let (wishes, wished) = watch::channel(Wish::Run);
    let events = broadcast::Sender::new(EVENTS);
    let listens = Arc::new(AtomicBool::new(false));
    let (history, shelf) = history::history();
    let config = Arc::new(RwLock::new(config));
    let inbox = Inbox {
        asks: inbox,
        events,
        history,
        wishes: Wishes(wished),
        listens: Arc::clone(&listens),
        config: Arc::clone(&config),
    };
    (Handle { config, asks, wishes, events: inbox.events.downgrade(), shelf, listens }, inbox)
}

/// A node at work, for whoever asks it, steers it and ends it. Clones are the same node's; dropping all of them
/// changes nothing.
///
/// Scripts of an [`Engine`](crate::lua::Engine) may have one as their [`Host`].
#[derive(Clone, Debug)]
pub struct Handle {
    config: Arc<RwLock<Arc<Config>>>,
    asks: mpsc::Sender<Ask>,
    wishes: watch::Sender<Wish>,
    events: broadcast::WeakSender<Happened>,
    shelf: Shelf,
    listens: Arc<AtomicBool>,
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node runs no more: it left, was aborted, or could not go on.
    Ended,
    /// The rules refuse it: why, and what to do, in one line for people.
    Refused(String),
    /// It is in effect and on this server's disk, but not on the disks of a majority in time: how far it has come. It
    /// spreads on.
    Late(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the daemon is ending"),
            Self::Refused(why) | Self::Late(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refusal {}

impl Handle {
    /// The config that the node runs now. Positions in events are those of the config that comes with each.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The picture as of now; none when the node runs no more. Asked before it runs, it waits.
    pub async fn status(&self) -> Option<Arc<Status>> {
        self.ask(|reply| Ask::Status(Asker::Person, reply)).await
    }

    /// Carries out a command, and says what was done.
    ///
    /// # Errors
    /// When the rules refuse it, or the node runs no more.
    pub async fn command(&self, command: Command) -> Result<String, Refusal> {
        let answer = self.ask(|reply| Ask::Do(Asker::Person, command, reply)).await;
        answer.ok_or(Refusal::Ended)?
    }

    /// Takes all items from a server, in planned moves, until [`Handle::undrain`].
    ///
    /// # Errors
    /// As [`Handle::command`].
    pub async fn drain(&self, server: &str) -> Result<String, Refusal> {
        self.command(Command::Drain { server: server.to_owned() }).await
    }

    /// Lets a server have items again.
    ///
    /// # Errors
    /// As [`Handle::command`].
    pub async fn undrain(&self, server: &str) -> Result<String, Refusal> {
        self.command(Command::Undrain { server: server.to_owned() }).await
    }

    /// What made hooks of an item fail on this node is mended: they are tried again at once.
    ///
    /// # Errors
    /// As [`Handle::command`].
    pub async fn retry(&self, item: &str) -> Result<String, Refusal> {
        self.command(Command::Retry { item: item.to_owned() }).await
    }

    /// Tells all who listen to events that scripts were read again, and what came of it; gives that back.
    ///
    /// # Errors
    /// As the result that is told, or when the node runs no more.
    pub async fn reloaded(&self, result: Result<String, String>) -> Result<String, Refusal> {
        let command = Command::Reloaded { result };
        let answer = self.ask(|reply| Ask::Do(Asker::Script, command, reply)).await;
        answer.ok_or(Refusal::Ended)?
    }

    /// Tells all who listen to events that somebody asked the program around the node for a change, and what came
    /// of it.
    pub async fn asked(&self, by: String, from: String, what: String, result: Result<String, String>) {
        let command = Command::Asked { by, from, what, result };
        // A node that ends tells nobody.
        let _ = self.ask(|reply| Ask::Do(Asker::Script, command, reply)).await;
    }

    /// Waits for the loop: true when it answered, false when the node runs no more. Asked before it runs, it waits.
    pub async fn answers(&self) -> bool {
        self.ask(Ask::Answer).await.is_some()
    }

    /// Tells the neighbours again of an item that is here, or of all that are.
    ///
    /// # Errors
    /// As [`Handle::command`].
    pub async fn announce(&self, item: Option<&str>) -> Result<String, Refusal> {
        self.command(Command::Announce { item: item.map(str::to_owned) }).await
    }

    /// All events from now on. Whoever falls behind by more than [`EVENTS`] misses the oldest, and is told how
    /// many (`RecvError::Lagged`); after the end of the node there are no more (`RecvError::Closed`).
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Happened> {
        match self.events.upgrade() {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// Why an item is where it is: by its name, one of its addresses, or `system/name`.
    ///
    /// # Errors
    /// When there is no such item or more than one, or the node runs no more.
    pub async fn why(&self, item: &str) -> Result<Why, Refusal> {
        let item = item.to_owned();
        let answer = self.ask(|reply| Ask::Why(item, reply)).await;
        answer.ok_or(Refusal::Ended)?.map_err(Refusal::Refused)
    }

    /// What happened to all items, oldest first, as far as the node remembers; none when it runs no more.
    pub async fn moves(&self) -> Option<Vec<ItemMoved>> {
        self.ask(Ask::Moves).await
    }

    /// What would become of the items if all of this happened at once.
    ///
    /// # Errors
    /// When a server or a system is unknown or an item is there already, or the node runs no more.
    pub async fn plan(&self, what_if: Vec<WhatIf>) -> Result<Plan, Refusal> {
        let answer = self.ask(|reply| Ask::Plan(what_if, reply)).await;
        answer.ok_or(Refusal::Ended)?.map_err(Refusal::Refused)
    }

    /// The catalog that is on this node's disk, as of now.
    ///
    /// # Errors
    /// When the node has none, or runs no more.
    pub async fn catalog(&self) -> Result<Catalog, Refusal> {
        let answer = self.ask(Ask::Catalog).await.ok_or(Refusal::Ended)?;
        answer.ok_or_else(|| Refusal::Refused("this server has no catalog, only its config file".to_owned()))
    }

    /// Events as records, from number `from` on as far as they are kept, and then those that come. Zero is the
    /// beginning of this life of the node.
    #[must_use]
    pub fn history(&self, from: u64) -> Reader {
        self.shelf.read(from)
    }

    /// The number of the newest record; zero before the first.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.shelf.newest()
    }

    /// All metrics in the text of Prometheus ([`CONTENT_TYPE`](super::CONTENT_TYPE)); none when the node runs no
    /// more.
    pub async fn metrics(&self) -> Option<String> {
        self.ask(Ask::Metrics).await
    }

    /// Asks the node to leave: it hands over what it holds, lets go of it, says goodbye and ends. Wait for that
    /// with [`Handle::ended`], or with what [`Flip::run`](super::Flip::run) gives back.
    pub fn leave(&self) {
        self.wish(Wish::Leave);
    }

    /// Ends the node at once, as if the machine had lost its power: no goodbye, and no `down` hooks. Its hooks
    /// that run are dropped, and so are its systems. The others notice and take over.
    pub fn abort(&self) {
        self.wish(Wish::Abort);
    }

    /// Waits until the node runs no more.
    pub async fn ended(&self) {
        self.asks.closed().await;
    }

    fn wish(&self, wish: Wish) {
        self.wishes.send_if_modified(|now| {
            let more = wish > *now;
            *now = wish.max(*now);
            more
        });
    }

    #[cfg(test)]
    pub(super) async fn adopt(&self, config: Config) {
        self.ask(|reply| Ask::Adopt(Arc::new(config), reply)).await;
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.ok()?;
        answer.await.ok()
    }

    fn ask_for_script<T: Send + 'static>(
        &self,
        ask: impl FnOnce(oneshot::Sender<T>) -> Ask + Send + 'static,
    ) -> Answer<T> {
        if !self.listens.load(Ordering::Acquire) {
            return Box::pin(std::future::ready(Err("the daemon is not through with its start".to_owned())));
        }
        let handle = self.clone();
        Box::pin(async move { handle.ask(ask).await.ok_or_else(|| "the daemon ends".to_owned()) })
    }

    fn tell(&self, command: Command) -> Answer<()> {
        let answer = self.ask_for_script(|reply| Ask::Do(Asker::Script, command, reply));
        Box::pin(async move { answer.await?.map(drop).map_err(|refusal| refusal.to_string()) })
    }
}

impl Host for Handle {
    fn status(&self) -> Answer<Arc<Status>> {
        self.ask_for_script(|reply| Ask::Status(Asker::Script, reply))
    }

    fn set_fact(&self, key: String, value: Option<String>) -> Answer<()> {
        self.tell(Command::SetFact { key, value })
    }

    fn set_active(&self, active: bool, reason: String) -> Answer<()> {
        self.tell(Command::SetActive { active, reason })
    }
}
