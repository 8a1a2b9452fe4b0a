//! A cluster of flip daemons on loopback with items in memory: it needs no privilege.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flip_core::status::Status;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::{Map, Value, json};

use crate::lab::Scratch;

/// A TCP port of the loopback that is free now.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("no free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Daemons `a`, `b` and so on; all end with it, and its files are removed.
pub struct Local {
    binary: PathBuf,
    scratch: Scratch,
    daemons: Vec<Option<Child>>,
}

impl Local {
    /// Writes a config of `servers` servers of which the last `arbiters` only vote, and starts nothing.
    /// Keys in `extra` replace those of the config.
    ///
    /// # Errors
    /// When no ports or no folder can be had.
    pub fn prepare(
        binary: &Path,
        servers: usize,
        arbiters: usize,
        items: &[&str],
        extra: Map<String, Value>,
    ) -> anyhow::Result<Self> {
        // All are open at once, so that each is another one.
        let sockets = (0..servers).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>();
        let mut list = Map::new();
        for (n, socket) in sockets.context("no free port")?.iter().enumerate() {
            let systems: &[&str] = if n + arbiters < servers { &["items"] } else { &[] };
            let port = socket.local_addr()?.port();
            list.insert(name(n), json!({ "ip": "127.0.0.1", "port": port, "systems": systems }));
        }
        let system = json!({ "alive": "memory_up", "down": "memory_down", "data": items });
        let mut config = json!({
            "key": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "profile": "fast",
            "servers": list,
            "cluster": { "system": { "items": system } },
        });
        for (key, value) in extra {
            config[key] = value;
        }
        let scratch = Scratch::new()?;
        scratch.write("cluster.json", &serde_json::to_string_pretty(&config)?)?;
        let daemons = (0..servers).map(|_| None).collect();
        Ok(Self { binary: binary.to_owned(), scratch, daemons })
    }

    /// Starts a daemon, with the state that an earlier one left.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start(&mut self, n: usize) -> anyhow::Result<()> {
        self.start_with(n, &self.config(), &["--id", &name(n)])
    }

    /// As [`Local::start`], with a config and arguments of its own. It may be a server that the config of the others
    /// does not name.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start_with(&mut self, n: usize, config: &Path, words: &[&str]) -> anyhow::Result<()> {
        if self.daemons.len() <= n {
            self.daemons.resize_with(n + 1, || None);
        }
        if self.daemons[n].is_some() {
            bail!("{} runs already", name(n));
        }
        let log = self.scratch.log(&format!("{}.log", name(n)))?;
        let mut command = self.command();
        command.arg("--config").arg(config).args(words);
        command
            .arg("--state-dir")
            .arg(self.scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // SAFETY: one system call between fork and exec, which allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        self.daemons[n] = Some(command.spawn().context("cannot start flip")?);
        Ok(())
    }

    /// The flip binary, to be run with any arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::new(&self.binary)
    }

    /// A command about one daemon, with more arguments to come.
    #[must_use]
    pub fn command_about(&self, n: usize, words: &[&str]) -> Command {
        let mut command = self.command();
        command.args(words).args(["--id", &name(n), "--state-dir"]).arg(self.scratch.path());
        command
    }

    /// `flip status` of one daemon, with more arguments to come.
    #[must_use]
    pub fn status_command(&self, n: usize) -> Command {
        self.command_about(n, &["status"])
    }

    /// The config file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.scratch.path().join("cluster.json")
    }

    /// The state dir that all daemons share.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        self.scratch.path()
    }

    /// What a daemon logged so far.
    #[must_use]
    pub fn log(&self, n: usize) -> String {
        self.scratch.read(&format!("{}.log", name(n)))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, n: usize, signal: Signal) -> anyhow::Result<()> {
        let child = self.daemons[n].as_ref().with_context(|| format!("{} does not run", name(n)))?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// The process of a daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, n: usize) -> anyhow::Result<u32> {
        Ok(self.daemons[n].as_ref().with_context(|| format!("{} does not run", name(n)))?.id())
    }

    /// Kills a daemon and waits for its end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, n: usize) -> anyhow::Result<()> {
        self.signal(n, Signal::KILL)?;
        self.wait(n).map(drop)
    }

    /// Waits for the end of a daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn wait(&mut self, n: usize) -> anyhow::Result<ExitStatus> {
        let child = self.daemons[n].take();
        Ok(child.with_context(|| format!("{} does not run", name(n)))?.wait()?)
    }

    /// What `flip status --watch --json` of a daemon says. A daemon that does not listen yet is tried
    /// again.
    ///
    /// # Errors
    /// When it does not begin to listen within five seconds.
    pub fn watch(&self, n: usize) -> anyhow::Result<Watching> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let mut command = self.status_command(n);
            command.args(["--watch", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().context("cannot start flip")?;
            let mut lines = BufReader::new(child.stdout.take().context("no pipe")?);
            let mut first = String::new();
            lines.read_line(&mut first)?;
            if first.is_empty() {
                child.wait()?;
                if Instant::now() > end {
                    bail!("{} does not listen\n{}", name(n), self.log(n));
                }
                continue;
            }
            let (sender, inbox) = channel();
            std::thread::spawn(move || {
                let mut line = first;
                while !line.is_empty() && sender.send(std::mem::take(&mut line)).is_ok() {
                    if lines.read_line(&mut line).is_err() {
                        break;
                    }
                }
            });
            return Ok(Watching { child, inbox });
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        for child in self.daemons.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A running `flip status --watch --json`.
pub struct Watching {
    child: Child,
    inbox: Receiver<String>,
}

impl Watching {
    /// Waits for a status that `wanted` likes.
    ///
    /// # Errors
    /// When there is none within `limit`; with the last one.
    pub fn until(&self, limit: Duration, wanted: impl Fn(&Status) -> bool) -> anyhow::Result<Status> {
        let end = Instant::now() + limit;
        let mut last = String::new();
        while let Ok(line) = self.inbox.recv_timeout(end.saturating_duration_since(Instant::now())) {
            let status: Status = serde_json::from_str(&line).with_context(|| format!("no status: {line}"))?;
            if wanted(&status) {
                return Ok(status);
            }
            last = line;
        }
        bail!("it did not come to that within {limit:?}; the last status was {last}")
    }

    /// Waits for the end of the command, which comes with the end of the daemon.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn end(mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The id of a server.
#[must_use]
pub fn name(n: usize) -> String {
    char::from(b'a' + u8::try_from(n).unwrap_or(25).min(25)).to_string()
}
