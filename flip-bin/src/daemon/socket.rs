//! The Unix socket that tools ask: one JSON line in, JSON lines out.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

/// Tools served at a time.
const SERVED: usize = 32;
/// How long a tool may take to ask, or to take a line.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a question at most.
const QUESTION: u64 = 4096;

/// What a tool may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// One line.
    Get(Topic),
    /// A line at once, and one after every change. Changes that follow each other faster than they are
    /// taken are one.
    Watch(Topic),
}

/// About what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// `flip_core::status::Status`.
    Status,
}

/// Asks the loop for the status as it is now, as a line.
pub type Question = oneshot::Sender<Arc<str>>;

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
        questions: mpsc::Sender<Question>,
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
                        let (questions, changes) = (questions.clone(), changes.clone());
                        tokio::spawn(async move {
                            // A tool that goes away is none of our trouble.
                            let _ = answer(stream, questions, changes).await;
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
    questions: mpsc::Sender<Question>,
    changes: watch::Receiver<Arc<str>>,
) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from.take(QUESTION));
    let mut line = String::new();
    timeout(LIMIT, from.read_line(&mut line)).await??;
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let expected = r#"expected {"get":"status"} or {"watch":"status"}"#;
            let error = serde_json::json!({ "error": format!("{error}; {expected}") }).to_string();
            return write(&mut to, &error).await;
        }
    };
    // Told of changes from here on, so that none is lost between the first line and the next.
    let mut changes = changes;
    changes.mark_unchanged();
    let (ask, status) = oneshot::channel();
    if questions.send(ask).await.is_err() {
        return Ok(());
    }
    let Ok(status) = status.await else { return Ok(()) };
    write(&mut to, &status).await?;
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

async fn write(to: &mut tokio::net::unix::OwnedWriteHalf, line: &str) -> io::Result<()> {
    timeout(LIMIT, async {
        to.write_all(line.as_bytes()).await?;
        to.write_all(b"\n").await
    })
    .await?
}
