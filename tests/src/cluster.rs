//! A cluster of flip daemons in a lab.

mod spec;
mod wait;
mod watch;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, bail};
use flip_core::status::Status;
use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Lab, Process, Scratch, Who};
pub use spec::ClusterSpec;
pub use wait::Statuses;
pub use watch::Watch;

const CONFIG: &str = "flip.json";
/// How long a daemon may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a daemon is tried that does not listen yet.
const RETRY: Duration = Duration::from_millis(5);

/// Flip daemons in a lab of their own, one per host; all end with it, and its files are removed.
pub struct Cluster {
    spec: ClusterSpec,
    daemons: Vec<Daemon>,
    binary: PathBuf,
    scratch: Scratch,
    lab: Lab,
}

#[derive(Default)]
struct Daemon {
    process: Option<Process>,
    /// Stopped by SIGSTOP: it runs, and does not answer.
    stopped: bool,
}

impl Cluster {
    /// Builds a lab and starts a daemon on every host. It does not wait for anything: see
    /// [`Cluster::wait_healthy`].
    ///
    /// # Errors
    /// When there can be no lab, or the binary cannot be started.
    pub fn start(spec: ClusterSpec, flip_binary: &Path) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(spec, flip_binary)?;
        for n in 0..cluster.daemons.len() {
            cluster.launch(n)?;
        }
        Ok(cluster)
    }

    /// The same without starting any daemon: [`Cluster::restart`] starts each.
    ///
    /// # Errors
    /// When there can be no lab.
    pub fn prepare(spec: ClusterSpec, flip_binary: &Path) -> anyhow::Result<Self> {
        let lab = Lab::new(spec.hosts + spec.arbiters)?;
        let scratch = Scratch::new()?;
        write_config(&scratch, &spec.config())?;
        let daemons = (0..lab.hosts()).map(|_| Daemon::default()).collect();
        let binary = flip_binary
            .canonicalize()
            .with_context(|| format!("no flip binary at {}", flip_binary.display()))?;
        Ok(Self { spec, daemons, binary, scratch, lab })
    }

    fn launch(&mut self, n: usize) -> anyhow::Result<()> {
        let program = self.binary.to_str().context("the binary's path is not UTF-8")?;
        let state = self.scratch.path().join(name(n));
        fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
        let mut command = self.lab.command(Who::Host(n), program)?;
        command.arg("--config").arg(self.config_path());
        command.args(["--id", &name(n)]).arg("--state-dir").arg(&state).arg("--socket").arg(self.socket(n));
        command.args(&self.spec.args);
        let log = self.scratch.log(&log_name(n))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.daemons[n] = Daemon { process: Some(self.lab.spawn(command)?), stopped: false };
        Ok(())
    }

    /// The lab that the cluster is in.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// The config file, for tools.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.scratch.path().join(CONFIG)
    }

    /// Replaces the config of all daemons; each reads it when it is started the next time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_config(&self, config: &Value) -> anyhow::Result<()> {
        write_config(&self.scratch, config)
    }

    /// A daemon's socket, for tools.
    #[must_use]
    pub fn socket(&self, n: usize) -> PathBuf {
        self.scratch.path().join(name(n)).join("flip.sock")
    }

    /// The daemons that run and are not stopped.
    #[must_use]
    pub fn live(&self) -> Vec<usize> {
        let lives = |n: &usize| {
            let daemon = &self.daemons[*n];
            !daemon.stopped && daemon.process.as_ref().is_some_and(Process::running)
        };
        (0..self.daemons.len()).filter(lives).collect()
    }

    /// Kills a daemon (SIGKILL): nothing is let go of.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, n: usize) -> anyhow::Result<()> {
        let mut process = self.daemon_mut(n)?.process.take().context("it does not run")?;
        process.kill()
    }

    /// Asks a daemon to leave (SIGTERM); [`Cluster::wait_exit`] waits for it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn term(&mut self, n: usize) -> anyhow::Result<()> {
        self.process(n)?.signal(Signal::TERM)
    }

    /// Waits until a daemon has ended by itself.
    ///
    /// # Errors
    /// When it does not within `limit`; with its log.
    pub fn wait_exit(&mut self, n: usize, limit: Duration) -> anyhow::Result<ExitStatus> {
        let process = self.daemon_mut(n)?.process.as_mut().context("it does not run")?;
        let status = process.wait(limit);
        status.with_context(|| self.scratch.tail(&log_name(n)))
    }

    /// Stops a daemon where it is (SIGSTOP), like a machine that hangs.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&mut self, n: usize) -> anyhow::Result<()> {
        self.process(n)?.signal(Signal::STOP)?;
        self.daemon_mut(n)?.stopped = true;
        Ok(())
    }

    /// Lets a stopped daemon go on (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn cont(&mut self, n: usize) -> anyhow::Result<()> {
        self.process(n)?.signal(Signal::CONT)?;
        self.daemon_mut(n)?.stopped = false;
        Ok(())
    }

    /// Kills a daemon, should it run, and starts it anew with the state that it left.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, n: usize) -> anyhow::Result<()> {
        drop(self.daemon_mut(n)?.process.take());
        self.launch(n)
    }

    /// The log of a daemon, that of earlier lives included.
    #[must_use]
    pub fn log(&self, n: usize) -> String {
        self.scratch.read(&log_name(n))
    }

    /// The process of a daemon, for its id, memory and processor time.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self, n: usize) -> anyhow::Result<&Process> {
        let daemon = self.daemons.get(n).with_context(|| format!("there is no {}", name(n)))?;
        daemon.process.as_ref().with_context(|| format!("{} does not run", name(n)))
    }

    fn daemon_mut(&mut self, n: usize) -> anyhow::Result<&mut Daemon> {
        self.daemons.get_mut(n).with_context(|| format!("there is no {}", name(n)))
    }

    /// The id of a daemon's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, n: usize) -> anyhow::Result<u32> {
        Ok(self.process(n)?.pid())
    }

    /// Processor time that a daemon has used.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu(&self, n: usize) -> anyhow::Result<Duration> {
        self.process(n)?.cpu()
    }

    /// Resident memory of a daemon, in bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn rss(&self, n: usize) -> anyhow::Result<u64> {
        self.process(n)?.rss()
    }

    /// What a daemon says now.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self, n: usize) -> anyhow::Result<Status> {
        Watch::get(&self.socket(n), ANSWER).with_context(|| name(n))
    }

    /// What a daemon says now and after every change. A daemon that does not listen yet is waited for.
    ///
    /// # Errors
    /// When it does not run or does not begin to listen.
    pub fn watch(&self, n: usize) -> anyhow::Result<Watch> {
        self.watch_before(n, Instant::now() + ANSWER)
    }

    fn watch_before(&self, n: usize, end: Instant) -> anyhow::Result<Watch> {
        let process = self.process(n)?;
        loop {
            let error = match Watch::open(&self.socket(n)) {
                Ok(watch) => return Ok(watch),
                Err(error) => error,
            };
            if process.ended_within(RETRY)? {
                bail!("{} has ended\n{}", name(n), self.scratch.tail(&log_name(n)));
            }
            if Instant::now() >= end {
                return Err(error).with_context(|| format!("{} does not listen", name(n)));
            }
        }
    }

    /// Statuses and the ends of all logs, for an error.
    fn describe(&self, last: &Statuses) -> String {
        let mut text = String::new();
        for (n, status) in last {
            let status = serde_json::to_string(status).unwrap_or_else(|error| error.to_string());
            let _ = writeln!(text, "--- last status of {}:\n{status}", name(*n));
        }
        for n in 0..self.daemons.len() {
            text.push_str(&self.scratch.tail(&log_name(n)));
        }
        text
    }
}

/// Where the flip binary is: FLIP_BINARY says it, else it was built along with the running program.
///
/// # Errors
/// How to build it.
pub fn flip_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("FLIP_BINARY") {
        return Ok(path.into());
    }
    // target/PROFILE/flip, for a test in target/PROFILE/deps or an example in target/PROFILE/examples.
    let program = env::current_exe().context("cannot find the running program")?;
    let binary = program.ancestors().skip(1).map(|folder| folder.join("flip")).find(|path| path.is_file());
    binary.context("there is no flip binary yet: cargo build -p flip-bin, or set FLIP_BINARY")
}

/// The id of a server.
#[must_use]
pub fn name(n: usize) -> String {
    format!("h{n}")
}

fn write_config(scratch: &Scratch, config: &Value) -> anyhow::Result<()> {
    scratch.write(CONFIG, &serde_json::to_string_pretty(config)?).map(drop)
}

fn log_name(n: usize) -> String {
    format!("h{n}.log")
}
