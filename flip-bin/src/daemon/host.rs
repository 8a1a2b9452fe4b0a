//! What scripts learn of this node, and tell it: they ask the loop, which answers between two inputs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flip_core::status::Status;
use flip_core::{Command, Time};
use flip_systems::lua::Host;
use flip_systems::lua::host::Answer;
use tokio::sync::{mpsc, oneshot};

/// A picture of the cluster that is not older than this is given to whoever asks next: many hooks may ask at
/// once, and each picture costs the loop time.
const FRESH: Duration = Duration::from_millis(50);
/// Words that wait for the loop.
const WAITING: usize = 256;

/// What a script wants of the loop.
pub enum Word {
    Status(oneshot::Sender<Arc<Status>>),
    Tell(Command, oneshot::Sender<Result<String, String>>),
}

/// The loop's end.
pub struct Ear {
    pub words: mpsc::Receiver<Word>,
    listens: Arc<AtomicBool>,
    /// The last picture.
    last: Option<(Time, Arc<Status>)>,
}

/// The scripts' end.
pub struct Daemon {
    words: mpsc::Sender<Word>,
    listens: Arc<AtomicBool>,
}

pub fn pair() -> (Daemon, Ear) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let listens = Arc::new(AtomicBool::new(false));
    (Daemon { words: sender, listens: Arc::clone(&listens) }, Ear { words: receiver, listens, last: None })
}

impl Ear {
    /// From now on somebody answers.
    pub fn listen(&self) {
        self.listens.store(true, Ordering::Release);
    }

    /// The picture as of now, or of a moment ago.
    pub fn status(&mut self, now: Time, make: impl FnOnce() -> Status) -> Arc<Status> {
        match &self.last {
            Some((at, status)) if now.since(*at) < FRESH => Arc::clone(status),
            _ => {
                let status = Arc::new(make());
                self.last = Some((now, Arc::clone(&status)));
                status
            }
        }
    }

    /// What was told changes the picture: whoever asks next must see it.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

impl Daemon {
    fn ask<T: Send + 'static>(&self, word: impl FnOnce(oneshot::Sender<T>) -> Word) -> Answer<T> {
        if !self.listens.load(Ordering::Acquire) {
            return Box::pin(std::future::ready(Err("the daemon is not through with its start".to_owned())));
        }
        let (reply, answer) = oneshot::channel();
        let (words, word) = (self.words.clone(), word(reply));
        Box::pin(async move {
            let ends = |_| "the daemon ends".to_owned();
            words.send(word).await.map_err(|_| "the daemon ends".to_owned())?;
            answer.await.map_err(ends)
        })
    }

    fn tell(&self, command: Command) -> Answer<()> {
        let answer = self.ask(|reply| Word::Tell(command, reply));
        Box::pin(async move { answer.await?.map(drop) })
    }
}

impl Host for Daemon {
    fn status(&self) -> Answer<Arc<Status>> {
        self.ask(Word::Status)
    }

    fn set_fact(&self, key: String, value: Option<String>) -> Answer<()> {
        self.tell(Command::SetFact { key, value })
    }

    fn set_active(&self, active: bool, reason: String) -> Answer<()> {
        self.tell(Command::SetActive { active, reason })
    }
}
