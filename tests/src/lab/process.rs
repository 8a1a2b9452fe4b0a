//! Processes inside a lab: they die with it, and with the process that built it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal, test_kill_process,
};

type Order = (Command, Sender<io::Result<Child>>);

/// A thread that starts processes. PR_SET_PDEATHSIG speaks of the *thread* that forked, so all
/// processes of a lab are forked by one thread that lives exactly as long as the lab.
pub(super) struct Spawner {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    pub(super) fn start() -> anyhow::Result<Self> {
        let (orders, incoming) = channel::<Order>();
        let thread = std::thread::Builder::new()
            .name("lab-spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in incoming {
                    let _ = reply.send(command.spawn());
                }
            })
            .context("cannot start a thread")?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    pub(super) fn spawn(&self, command: Command) -> anyhow::Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        let (reply, answer) = channel();
        let orders = self.orders.as_ref().context("the lab is closed")?;
        orders.send((command, reply)).ok().context("the lab's spawner is gone")?;
        let child = answer
            .recv()
            .context("the lab's spawner is gone")?
            .with_context(|| format!("cannot start {program}"))?;
        Process::new(program, child)
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A process in a lab, which leads a process group of its own. Dropping it kills the whole group and
/// waits for the process.
#[derive(Debug)]
pub struct Process {
    program: String,
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    fn new(program: String, mut child: Child) -> anyhow::Result<Self> {
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { program, child, pid, pidfd }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error).with_context(|| format!("cannot watch {program}"))
            }
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's ends of its pipes, and whatever else std offers.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        pidfd_send_signal(&self.pidfd, signal)
            .with_context(|| format!("cannot signal {} ({})", self.program, self.pid()))
    }

    /// Sends a signal to the whole group of the process.
    ///
    /// # Errors
    /// When nothing is left of it.
    pub fn signal_group(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process_group(self.pid, signal)
            .with_context(|| format!("cannot signal the group of {} ({})", self.program, self.pid()))
    }

    /// Kills the process and its group at once, and waits for the process.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn kill(&mut self) -> anyhow::Result<()> {
        // The group may be empty already.
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.child.wait().with_context(|| format!("cannot wait for {}", self.program))?;
        Ok(())
    }

    /// Waits until the process ends.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        if !self.ended_within(limit)? {
            bail!("{} ({}) did not end within {limit:?}", self.program, self.pid());
        }
        self.child.wait().with_context(|| format!("cannot wait for {}", self.program))
    }

    /// Waits at most so long for the end of the process, and says whether it came.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn ended_within(&self, limit: Duration) -> anyhow::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if wait_readable(self.pidfd.as_fd(), left)? {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// True until the process has ended.
    #[must_use]
    pub fn running(&self) -> bool {
        matches!(self.ended_within(Duration::ZERO), Ok(false))
    }

    /// Processor time used so far, by all threads.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // The name in brackets may contain anything; utime and stime are fields 14 and 15.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
        let (Some(Ok(user)), Some(Ok(system))) = (fields.next(), fields.next()) else {
            bail!("cannot understand {path}: {stat}");
        };
        let hertz = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_millis((user + system) * 1000 / hertz.max(1)))
    }

    /// Processor time used so far as the scheduler counts it, in nanoseconds and not in ticks.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cpu_precise(&self) -> anyhow::Result<Duration> {
        let tasks = format!("/proc/{}/task", self.pid());
        let mut nanos = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            nanos += text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn rss(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/statm", self.pid());
        let statm = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let pages: u64 = statm
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .with_context(|| format!("cannot understand {path}: {statm}"))?;
        Ok(pages * rustix::param::page_size() as u64)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// True when a process with this id exists, as a zombie or not.
#[must_use]
pub fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// Waits until `fd` can be read; `false` when `limit` passed first.
pub(crate) fn wait_readable(fd: std::os::fd::BorrowedFd<'_>, limit: Duration) -> anyhow::Result<bool> {
    let timeout = Timespec::try_from(limit).context("the limit is too long")?;
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
