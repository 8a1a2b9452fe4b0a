//! The Unix socket that tools ask: one JSON line in, JSON lines out.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use flip_core::Command;
use flip_core::plan::WhatIf;
use flip_systems::Handle;
use flip_systems::flip::{Refusal, Told};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::reload::Reload;
use crate::key::{HexKey, KeyId};

/// Tools served at a time.
const SERVED: usize = 32;
/// How long a tool may take to ask, or to take a line.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a question at most.
const QUESTION: u64 = 4096;

/// How long the loop may take to carry out a wish.
const DONE: Duration = Duration::from_secs(5);

/// How long plugins may take to stop and to start.
const RELOADED: Duration = Duration::from_secs(80);

/// What a tool may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// One line.
    Get(Topic),
    /// A line at once, and one after every change. Changes that follow each other faster than they are
    /// taken are one.
    Watch(Topic),
    /// One line, an [`Outcome`], when it is done or refused.
    Do(Wish),
    /// What comes of a question, a line each; an [`Outcome`] where it is refused.
    Ask(Question),
}

/// What a tool may want to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// `flip_core::status::Status`.
    Status,
    /// `flip_core::why::Why` of this item.
    Why(String),
    /// `flip_core::plan::Plan` of this.
    Plan(Vec<WhatIf>),
    /// The metrics as one text.
    Metrics,
    /// `flip_core::record::Record`s and [`Lost`], one a line.
    Events {
        /// The number of the first.
        from: u64,
        /// Whether to go on with those that come.
        follow: bool,
    },
}

/// Events that are not kept any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// How many; none when nobody knows.
    pub lost: Option<u64>,
}

/// What a tool may want.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Take all items from the server with this id.
    Drain(String),
    /// Let it have items again.
    Undrain(String),
    /// The item of this name is released, whatever its hook said.
    ConfirmReleased(String),
    /// What made hooks of the item of this name fail here is mended: try again now.
    Retry(String),
    /// Read the scripts again.
    Reload,
    /// Tell the neighbours again of the item of this name, which is here; of all that are, without a name.
    Announce(Option<String>),
    /// Add a key to the ring of the cluster.
    KeyAdd(HexKey),
    /// Seal with this key of the ring.
    KeyUse(KeyId),
    /// Remove this key from the ring.
    KeyRemove(KeyId),
}

impl Wish {
    /// What the node is told; none where the daemon itself does it.
    fn command(self) -> Option<Command> {
        Some(match self {
            Self::Drain(server) => Command::Drain { server },
            Self::Undrain(server) => Command::Undrain { server },
            Self::ConfirmReleased(item) => Command::ConfirmReleased { item },
            Self::Retry(item) => Command::Retry { item },
            Self::Announce(item) => Command::Announce { item },
            Self::Reload => return None,
            Self::KeyAdd(key) => Command::KeyAdd { key: key.0 },
            Self::KeyUse(id) => Command::KeyUse { id: id.0 },
            Self::KeyRemove(id) => Command::KeyRemove { id: id.0 },
        })
    }
}

/// What came of a wish, or of a question that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What was done.
    Done(String),
    /// Why nothing was done, and what to do.
    Error(String),
}

/// About what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// `flip_core::status::Status`.
    Status,
}

/// The socket, removed when this is dropped.
pub struct Socket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl Socket {
    /// Binds the socket. The caller holds the lock of the state dir, so what lies there is left over.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot remove the old socket {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).with_context(|| {
            format!(
                "cannot make the socket {}; choose another path (of at most 107 bytes) with --socket",
                path.display()
            )
        })?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot restrict the socket {}", path.display()))?;
        Ok(Self { path: path.to_owned(), listener: Some(listener) })
    }

    /// Serves tools until it is dropped.
    pub fn serve(
        &mut self,
        node: Handle,
        reload: Arc<Reload>,
        changes: watch::Receiver<Arc<str>>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let listener = self.listener.take();
        async move {
            let Some(listener) = listener else { return };
            let slots = Arc::new(Semaphore::new(SERVED));
            loop {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (node, reload, changes) = (node.clone(), Arc::clone(&reload), changes.clone());
                        tokio::spawn(async move {
                            // A tool that goes away is none of our trouble.
                            let _ = answer(stream, node, &reload, changes).await;
                            drop(slot);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection on the socket");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Left behind it would only be refused by the next tool.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(
    stream: UnixStream,
    node: Handle,
    reload: &Reload,
    changes: watch::Receiver<Arc<str>>,
) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from.take(QUESTION));
    let mut line = String::new();
    timeout(LIMIT, from.read_line(&mut line)).await??;
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let expected = r#"expected {"get":"status"}, {"watch":"status"}, {"ask":{"why":"ITEM"}} or {"do":{"drain":"ID"}}"#;
            return say(&mut to, &Outcome::Error(format!("{error}; {expected}"))).await;
        }
    };
    if let Request::Do(wish) = request {
        let outcome = match wish.command() {
            Some(command) => wanted(node.command(command), DONE).await,
            None => wanted(reload.run(), RELOADED).await,
        };
        return say(&mut to, &outcome).await;
    }
    if let Request::Ask(question) = request {
        return see(&mut to, from, node, question).await;
    }
    // Told of changes from here on, so that none is lost between the first line and the next.
    let mut changes = changes;
    changes.mark_unchanged();
    let Some(status) = node.status().await else { return Ok(()) };
    write(&mut to, &serde_json::to_string(&*status)?).await?;
    if let Request::Watch(Topic::Status) = request {
        let mut from = from.into_inner().into_inner();
        let mut end = [0; 1];
        loop {
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let status = Arc::clone(&changes.borrow_and_update());
                    write(&mut to, &status).await?;
                }
                // The tool closed its end.
                read = from.read(&mut end) => if read? == 0 { return Ok(()) },
            }
        }
    }
    Ok(())
}

/// Shows a tool what it wants to see.
async fn see(
    to: &mut tokio::net::unix::OwnedWriteHalf,
    from: BufReader<tokio::io::Take<tokio::net::unix::OwnedReadHalf>>,
    node: Handle,
    question: Question,
) -> io::Result<()> {
    let line = match question {
        Question::Status => node.status().await.map(|status| serde_json::to_string(&*status)),
        Question::Metrics => node.metrics().await.map(|text| serde_json::to_string(&text)),
        Question::Why(item) => match node.why(&item).await {
            Ok(why) => Some(serde_json::to_string(&why)),
            Err(refusal) => return say(to, &Outcome::Error(refusal.to_string())).await,
        },
        Question::Plan(what_if) => match node.plan(what_if).await {
            Ok(plan) => Some(serde_json::to_string(&plan)),
            Err(refusal) => return say(to, &Outcome::Error(refusal.to_string())).await,
        },
        Question::Events { from: seq, follow } => {
            let mut reader = node.history(seq);
            let mut gone = from.into_inner().into_inner();
            let mut end = [0; 1];
            loop {
                let told = match reader.ready() {
                    Some(told) => told,
                    None if !follow => return Ok(()),
                    None => tokio::select! {
                        told = reader.next() => match told {
                            Some(told) => told,
                            None => return Ok(()),
                        },
                        // The tool closed its end.
                        read = gone.read(&mut end) => if read? == 0 { return Ok(()) } else { continue },
                    },
                };
                let line = match told {
                    Told::Record(record) => serde_json::to_string(&*record)?,
                    Told::Lost { records } => serde_json::to_string(&Lost { lost: records })?,
                };
                write(to, &line).await?;
            }
        }
    };
    match line {
        Some(line) => write(to, &line?).await,
        None => say(to, &Outcome::Error(Refusal::Ended.to_string())).await,
    }
}

/// What comes of a wish, within `limit`.
async fn wanted(done: impl Future<Output = Result<String, Refusal>>, limit: Duration) -> Outcome {
    match timeout(limit, done).await {
        Ok(Ok(done)) => Outcome::Done(done),
        Ok(Err(refusal)) => Outcome::Error(refusal.to_string()),
        Err(_) => Outcome::Error(format!(
            "the daemon did not say within {limit:?} whether it was done: look at flip status and ask again"
        )),
    }
}

async fn say(to: &mut tokio::net::unix::OwnedWriteHalf, outcome: &Outcome) -> io::Result<()> {
    let line = serde_json::to_string(outcome)?;
    write(to, &line).await
}

async fn write(to: &mut tokio::net::unix::OwnedWriteHalf, line: &str) -> io::Result<()> {
    timeout(LIMIT, async {
        to.write_all(line.as_bytes()).await?;
        to.write_all(b"\n").await
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_single_lines_of_json() {
        let table = [
            (Request::Get(Topic::Status), r#"{"get":"status"}"#),
            (Request::Watch(Topic::Status), r#"{"watch":"status"}"#),
            (Request::Ask(Question::Why("ip".into())), r#"{"ask":{"why":"ip"}}"#),
            (
                Request::Ask(Question::Plan(vec![WhatIf::Down("a".into())])),
                r#"{"ask":{"plan":[{"down":"a"}]}}"#,
            ),
            (Request::Do(Wish::Drain("a".into())), r#"{"do":{"drain":"a"}}"#),
            (Request::Do(Wish::Undrain("a".into())), r#"{"do":{"undrain":"a"}}"#),
            (Request::Do(Wish::Retry("ip".into())), r#"{"do":{"retry":"ip"}}"#),
            (Request::Do(Wish::Reload), r#"{"do":"reload"}"#),
            (Request::Do(Wish::Announce(Some("ip".into()))), r#"{"do":{"announce":"ip"}}"#),
            (Request::Do(Wish::Announce(None)), r#"{"do":{"announce":null}}"#),
            (Request::Do(Wish::ConfirmReleased("ip".into())), r#"{"do":{"confirm_released":"ip"}}"#),
        ];
        for (request, line) in table {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        let table = [
            (Outcome::Done("x".into()), r#"{"done":"x"}"#),
            (Outcome::Error("y".into()), r#"{"error":"y"}"#),
        ];
        for (outcome, line) in table {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), line);
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let limit = Duration::from_millis(20);
            // The loop takes it, and says nothing.
            let Outcome::Error(why) = wanted(std::future::pending(), limit).await else { panic!("not done") };
            assert!(why.contains("within 20ms") && why.contains("flip status"), "{why}");
            let ended = wanted(std::future::ready(Err(Refusal::Ended)), limit).await;
            assert_eq!(ended, Outcome::Error("the daemon is ending".to_owned()));
        });
    }
}
