//! The status of a daemon, from its Unix socket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flip_core::status::Status;

use crate::lab::wait_readable;

/// How long an iteration waits for a change.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon's status: as it is when this begins, and after every change.
#[derive(Debug)]
pub struct Watch {
    stream: UnixStream,
    /// What came after the last whole line.
    pending: Vec<u8>,
    /// Whether the head of the answer was read.
    begun: bool,
}

impl Watch {
    /// Connects; the daemon must be listening.
    pub(super) fn open(socket: &Path) -> std::io::Result<Self> {
        Self::ask(socket, "/v1/status/watch")
    }

    /// Asks for one status.
    pub(super) fn get(socket: &Path, limit: Duration) -> anyhow::Result<Status> {
        let mut once =
            Self::ask(socket, "/v1/status").with_context(|| format!("cannot ask {}", socket.display()))?;
        once.next_within(limit)?.with_context(|| format!("no status from {} in {limit:?}", socket.display()))
    }

    /// Asks as HTTP/1.0 does, whose answers are not cut into chunks.
    fn ask(socket: &Path, path: &str) -> std::io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, pending: Vec::new(), begun: false })
    }

    /// The next status that is there already.
    ///
    /// # Errors
    /// When the daemon closed the connection or says something else.
    pub fn take(&mut self) -> anyhow::Result<Option<Status>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.pending.drain(..=end).collect();
                if !self.begun {
                    self.begun = line == b"\r\n";
                    continue;
                }
                let line = line.strip_prefix(b"data: ").unwrap_or(&line);
                // Between two events, and to say that the stream is alive.
                if line == b"\n" || line.starts_with(b":") {
                    continue;
                }
                let status = serde_json::from_slice(line);
                return status
                    .with_context(|| format!("this is no status: {}", String::from_utf8_lossy(line)))
                    .map(Some);
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the daemon closed its socket"),
                Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read from the daemon"),
            }
        }
    }

    /// The next status; `None` when there is none within `limit`.
    ///
    /// # Errors
    /// As [`Watch::take`].
    pub fn next_within(&mut self, limit: Duration) -> anyhow::Result<Option<Status>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.take()? {
                return Ok(Some(status));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            wait_readable(self.stream.as_fd(), left)?;
        }
    }
}

impl Iterator for Watch {
    type Item = Status;

    /// Ends when the daemon ends, or when nothing changes for a minute.
    fn next(&mut self) -> Option<Status> {
        self.next_within(PATIENCE).ok().flatten()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
