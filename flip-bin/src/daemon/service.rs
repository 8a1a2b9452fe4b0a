//! What the service manager hears of the daemon (sd_notify(3)). When it hears what, the rules say
//! (`flip_core::supervise`); here are the socket and the words.
//!
//! The crate sd-notify is not used: it knows no socket in the abstract namespace, and its sends wait where the
//! manager does not read, which the loop must never do.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::{Context, bail};
use flip_core::supervise::{Notice, Supervisor};
use flip_core::{Node, Time};

/// Bytes that are kept while the manager does not read. More is not worth keeping: only the first READY and the
/// last STATUS matter then.
const UNSENT: usize = 4096;

/// The service manager, where there is one.
pub struct Service {
    socket: UnixDatagram,
    supervisor: Supervisor,
    /// What it did not take yet.
    unsent: String,
    /// A failure was told of.
    failed: bool,
}

impl Service {
    /// The service manager that started this process, if it wants to be told.
    pub fn from_environment() -> anyhow::Result<Option<Self>> {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && mine).map(Duration::from_micros);
        Self::open(&name, watchdog).map(Some)
    }

    fn open(name: &OsString, watchdog: Option<Duration>) -> anyhow::Result<Self> {
        let shown = name.to_string_lossy();
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
            [b'/', ..] => SocketAddr::from_pathname(name),
            _ => bail!("NOTIFY_SOCKET is {shown}, expected a path or a name that begins with @"),
        };
        let wrong = || format!("cannot reach the service manager at {shown} (NOTIFY_SOCKET)");
        let socket = UnixDatagram::unbound().with_context(wrong)?;
        socket.set_nonblocking(true).with_context(wrong)?;
        socket.connect_addr(&address.with_context(wrong)?).with_context(wrong)?;
        Ok(Self { socket, supervisor: Supervisor::new(watchdog), unsent: String::new(), failed: false })
    }

    /// A turn of the loop is over.
    pub fn turn(&mut self, node: &Node, now: Time) {
        let notices = self.supervisor.turn(now, node.poll_timeout(), node.is_leaving(), || node.seen(now));
        self.tell(&notices);
    }

    /// When there must be a turn.
    pub fn due(&self) -> Time {
        self.supervisor.due()
    }

    /// The daemon needs so much more time to end.
    pub fn extend(&mut self, by: Duration) {
        self.tell(&[Notice::Extend(by)]);
    }

    fn tell(&mut self, notices: &[Notice]) {
        self.unsent.extend(notices.iter().map(word));
        if self.unsent.is_empty() {
            return;
        }
        match self.socket.send(self.unsent.as_bytes()) {
            Ok(_) => self.unsent.clear(),
            // Tried again in the next turn.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.unsent.len() < UNSENT => {}
            Err(error) => {
                self.unsent.clear();
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(%error, "the service manager takes no word");
                }
            }
        }
    }
}

fn word(notice: &Notice) -> String {
    match notice {
        Notice::Ready => "READY=1\n".to_owned(),
        // A line feed would begin another word.
        Notice::Status(line) => format!("STATUS={}\n", line.replace('\n', " ")),
        Notice::Watchdog => "WATCHDOG=1\n".to_owned(),
        Notice::Stopping => "STOPPING=1\n".to_owned(),
        Notice::Extend(by) => format!("EXTEND_TIMEOUT_USEC={}\n", by.as_micros()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_a_path_and_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hidden = format!("flip-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = SocketAddr::from_abstract_name(&hidden).and_then(|at| UnixDatagram::bind_addr(&at));
        for (socket, name) in
            [(by_path, path.into_os_string()), (by_name.unwrap(), format!("@{hidden}").into())]
        {
            let mut service = Service::open(&name, None).unwrap();
            service.tell(&[
                Notice::Ready,
                Notice::Status("holds 1 item\nREADY=0".to_owned()),
                Notice::Watchdog,
                Notice::Stopping,
                Notice::Extend(Duration::from_millis(1500)),
            ]);
            let mut buffer = [0; 256];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(
                std::str::from_utf8(&buffer[..length]).unwrap(),
                "READY=1\nSTATUS=holds 1 item READY=0\nWATCHDOG=1\nSTOPPING=1\nEXTEND_TIMEOUT_USEC=1500000\n"
            );
        }
        let error = Service::open(&"vsock:2:1234".into(), None).err().unwrap().to_string();
        assert!(error.contains("vsock:2:1234"), "{error}");
    }

    #[test]
    fn a_manager_that_does_not_read_keeps_nobody_waiting_and_hears_it_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut service = Service::open(&path.into_os_string(), None).unwrap();
        // Its queue is short (net.unix.max_dgram_qlen).
        let mut sent = 0;
        while service.unsent.is_empty() {
            service.tell(&[Notice::Watchdog]);
            sent += 1;
            assert!(sent < 100_000, "the queue has no end");
        }
        service.tell(&[Notice::Ready]);
        let mut buffer = [0; 256];
        manager.recv(&mut buffer).unwrap();
        service.tell(&[]);
        assert!(service.unsent.is_empty());
        manager.set_nonblocking(true).unwrap();
        let mut last = String::new();
        while let Ok(length) = manager.recv(&mut buffer) {
            last = String::from_utf8(buffer[..length].to_vec()).unwrap();
        }
        assert_eq!(last, "WATCHDOG=1\nREADY=1\n");
    }
}
