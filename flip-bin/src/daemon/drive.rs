//! The loop. One input is worked off, with all its outputs, before the next is taken.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use flip_core::id::ItemRef;
use flip_core::limits::HANDOVER;
use flip_core::status::Status;
use flip_core::{Input, Node, Output, Time};
use flip_systems::clock::Sleep;
use flip_systems::lua::Plugins;
use flip_systems::stream::{self, Frame};
use flip_systems::udp::BUFFER;
use flip_systems::{Checks, Received, Systems, UdpPort, Witness, clock};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::host::{Ear, Word};
use super::log::Log;
use super::socket::{Answer, Question, Socket};
use super::state::State;
use super::timer::Alarm;
use super::told;
use crate::Failure;

/// Profiles that probe at least this often need the processor before others.
pub const URGENT: Duration = Duration::from_millis(50);
/// Datagrams taken in one turn, so that a flood does not keep the alarm waiting.
const BATCH: usize = 256;
/// How long a goodbye may take beyond the hooks before the daemon ends all the same.
const GOODBYE: Duration = Duration::from_secs(5);

/// A supervisor may signal a process and its group: signals that come together are one wish.
const SAME_WISH: Duration = Duration::from_millis(500);

/// The exit code of a daemon whose id another one has.
const REFUSED: u8 = 3;

/// What tasks hand back to the loop.
struct HookEnd {
    hook: u64,
    result: Result<(), String>,
}

struct CheckEnd {
    id: u64,
    result: Result<(), String>,
}

/// What ended a wait.
enum Wake {
    Terminate,
    Hangup,
    HookEnd(HookEnd),
    CheckEnd(CheckEnd),
    Drift(ItemRef, bool),
    Frame(Frame),
    Question(Question),
    Witness(u16),
    Word(Word),
    /// The alarm, or datagrams: both are looked at in each turn.
    Look,
}

/// What scripts have to do with the loop.
pub struct Scripted {
    pub ear: Ear,
    pub plugins: Option<Plugins>,
}

pub struct Drive {
    node: Node,
    state: State,
    port: UdpPort,
    systems: Systems,
    witness: Option<Witness>,
    checks: Checks,
    /// What health checks hand back; the core says how many run at a time.
    checked: (mpsc::UnboundedSender<CheckEnd>, mpsc::UnboundedReceiver<CheckEnd>),
    scripts: Scripted,
    sleep: Sleep,
    alarm: Alarm,
    hooks: (mpsc::UnboundedSender<HookEnd>, mpsc::UnboundedReceiver<HookEnd>),
    /// Hooks that run, to end them before their time.
    running: HashMap<u64, oneshot::Sender<()>>,
    frames: (mpsc::Sender<Frame>, mpsc::Receiver<Frame>),
    replies: HashMap<u64, oneshot::Sender<Vec<u8>>>,
    connections: u64,
    questions: (mpsc::Sender<Question>, mpsc::Receiver<Question>),
    /// Who waits for `Output::Done`.
    askers: HashMap<u64, oneshot::Sender<Answer>>,
    asked: u64,
    /// Refreshes that were carried out and not yet told of.
    refreshed: VecDeque<(u64, Vec<usize>)>,
    changes: watch::Sender<Arc<str>>,
    /// What watchers were shown last, without what changes by itself.
    shown: Option<Status>,
    log: Log,
    /// When this daemon was asked to end.
    ending: Option<Time>,
    left: bool,
    /// Where another daemon with this one's id is.
    refused: Option<SocketAddr>,
}

impl Drive {
    pub fn new(
        node: Node,
        state: State,
        port: UdpPort,
        systems: Systems,
        witness: Option<Witness>,
        checks: Checks,
        scripts: Scripted,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            node,
            state,
            port,
            systems,
            witness,
            checks,
            checked: mpsc::unbounded_channel(),
            scripts,
            sleep: Sleep::default(),
            alarm: Alarm::new()?,
            hooks: mpsc::unbounded_channel(),
            running: HashMap::new(),
            frames: mpsc::channel(32),
            replies: HashMap::new(),
            connections: 0,
            questions: mpsc::channel(32),
            askers: HashMap::new(),
            asked: 0,
            refreshed: VecDeque::new(),
            changes: watch::Sender::new(Arc::from("")),
            shown: None,
            log: Log::default(),
            ending: None,
            left: false,
            refused: None,
        })
    }

    /// Runs until the node has left; the exit code.
    ///
    /// A turn is: what is due by the clock, then what was waited for, then datagrams, but only so many.
    /// So no flood of any kind delays what must be let go of in time.
    pub async fn run(mut self, listener: TcpListener, mut socket: Socket) -> Result<u8, Failure> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(stream::serve(listener, self.frames.0.clone()));
        tokio::spawn(socket.serve(self.questions.0.clone(), self.changes.subscribe()));
        let present = self
            .systems
            .observe()
            .await
            .map_err(|error| anyhow::anyhow!("cannot look what is here: {error}"))?;
        let leftovers: Vec<_> =
            present.into_iter().filter(|(_, present)| *present).map(|(item, _)| item).collect();
        self.node.leftovers(&leftovers, clock::now());

        self.scripts.ear.listen();
        let mut buffer = [0; BUFFER];
        let mut wake = Wake::Look;
        self.feed(Input::Timeout)?;
        loop {
            self.look_at_the_clock()?;
            self.take(wake)?;
            let more = self.receive(&mut buffer)?;
            if let Some(other) = self.refused {
                return Err(Failure { code: REFUSED, error: self.twin(other) });
            }
            if self.left {
                if let Some(plugins) = &mut self.scripts.plugins {
                    let limit = self.node.config().timing.hook_timeout;
                    // Whoever is not through by then is ended with the process.
                    let _ = tokio::time::timeout(limit, plugins.stop()).await;
                }
                return Ok(0);
            }
            self.show_changes();
            self.alarm.set(self.next())?;
            wake = tokio::select! {
                biased;
                Some(()) = either(&mut terminate, &mut interrupt) => Wake::Terminate,
                // Unheard it would end the daemon without a goodbye, and leave the addresses behind.
                Some(()) = hangup.recv() => Wake::Hangup,
                Some(end) = self.hooks.1.recv() => Wake::HookEnd(end),
                (item, present) = self.systems.drift() => Wake::Drift(item, present),
                nonce = answered(self.witness.as_ref()) => Wake::Witness(nonce?),
                Some(end) = self.checked.1.recv() => Wake::CheckEnd(end),
                Some(frame) = self.frames.1.recv() => Wake::Frame(frame),
                Some(question) = self.questions.1.recv() => Wake::Question(question),
                Some(word) = self.scripts.ear.words.recv() => Wake::Word(word),
                result = self.alarm.ring() => {
                    result?;
                    Wake::Look
                }
                readable = self.port.readable(), if !more => {
                    readable?;
                    Wake::Look
                }
                // The others of this thread get their turn, hooks among them.
                () = tokio::task::yield_now(), if more => Wake::Look,
            };
        }
    }

    /// Hands in what is due, before anything that waited beside it.
    fn look_at_the_clock(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        if self.node.poll_timeout().is_some_and(|due| due <= now) {
            self.feed(Input::Timeout)?;
        }
        if self.deadline().is_some_and(|deadline| deadline <= now) && !self.left {
            bail!("could not release all items in time: some may be left behind on this host");
        }
        Ok(())
    }

    /// When something is due.
    fn next(&self) -> Option<Time> {
        [self.node.poll_timeout(), self.deadline()].into_iter().flatten().min()
    }

    /// When a goodbye has taken too long.
    fn deadline(&self) -> Option<Time> {
        self.ending.map(|asked| asked + HANDOVER + self.node.config().timing.hook_timeout + GOODBYE)
    }

    fn take(&mut self, wake: Wake) -> anyhow::Result<()> {
        match wake {
            Wake::Look => Ok(()),
            Wake::Terminate => self.terminate(),
            Wake::Hangup => {
                tracing::warn!("SIGHUP changes nothing: restart the daemon to use another config");
                Ok(())
            }
            Wake::HookEnd(HookEnd { hook, result }) => {
                self.running.remove(&hook);
                self.feed(Input::HookDone { hook, result })
            }
            Wake::CheckEnd(CheckEnd { id, result }) => self.feed(Input::CheckDone { id, result }),
            Wake::Drift(item, present) => self.feed(Input::Observed { item, present }),
            Wake::Witness(nonce) => self.feed(Input::WitnessAnswered { nonce }),
            Wake::Frame(frame) => self.frame(frame),
            Wake::Question(question) => self.question(question),
            Wake::Word(word) => self.word(word),
        }
    }

    fn terminate(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        match self.ending {
            None => {
                tracing::info!("asked to end: releasing all items and saying goodbye");
                self.ending = Some(now);
                self.feed(Input::Leave)
            }
            Some(first) if now.since(first) < SAME_WISH => Ok(()),
            Some(_) => bail!("asked twice to end: items may be left behind on this host"),
        }
    }

    fn question(&mut self, question: Question) -> anyhow::Result<()> {
        match question {
            Question::Status(reply) => {
                let line = line(&self.node.status(clock::now()))?;
                // The tool may be gone.
                let _ = reply.send(line);
                Ok(())
            }
            Question::Do(command, reply) => {
                // Those who asked and went away get no answer.
                self.askers.retain(|_, reply| !reply.is_closed());
                self.asked += 1;
                let asker = self.asked;
                self.askers.insert(asker, reply);
                tracing::info!(?command, "an operator's word");
                self.feed(Input::Command { asker, command })
            }
        }
    }

    /// A script asks, or says something.
    fn word(&mut self, word: Word) -> anyhow::Result<()> {
        match word {
            Word::Status(reply) => {
                let now = clock::now();
                let status = self.scripts.ear.status(now, || self.node.status(now));
                // The call may be over.
                let _ = reply.send(status);
                Ok(())
            }
            Word::Tell(command, reply) => {
                self.askers.retain(|_, reply| !reply.is_closed());
                self.asked += 1;
                let asker = self.asked;
                self.askers.insert(asker, reply);
                tracing::debug!(?command, "a script's word");
                self.scripts.ear.forget();
                self.feed(Input::Command { asker, command })
            }
        }
    }

    /// Takes datagrams, at most [`BATCH`]. True when there may be more.
    fn receive(&mut self, buffer: &mut [u8]) -> anyhow::Result<bool> {
        for _ in 0..BATCH {
            match self.port.try_recv(buffer) {
                Some(Received::Datagram { from, len }) => {
                    self.feed(Input::Datagram { from, data: &buffer[..len] })?;
                }
                Some(Received::Unreachable { addr }) => self.feed(Input::Unreachable { addr })?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn frame(&mut self, frame: Frame) -> anyhow::Result<()> {
        match frame {
            Frame::Request { data, reply } => {
                self.replies.retain(|_, reply| !reply.is_closed());
                self.connections += 1;
                let conn = self.connections;
                self.replies.insert(conn, reply);
                self.feed(Input::StreamRequest { conn, data: &data })?;
                // An answer comes at once or never; without one the connection closes.
                self.replies.remove(&conn);
                Ok(())
            }
            Frame::Reply(data) => self.feed(Input::StreamReply { data: &data }),
        }
    }

    /// Hands in one input, and carries out all that follows from it.
    fn feed(&mut self, input: Input<'_>) -> anyhow::Result<()> {
        if let Some(by) = self.sleep.noticed() {
            self.hand_in(Input::Suspended { by })?;
        }
        self.hand_in(input)
    }

    fn hand_in(&mut self, input: Input<'_>) -> anyhow::Result<()> {
        self.node.handle(input, clock::now());
        self.drain()?;
        while let Some((id, gone)) = self.refreshed.pop_front() {
            self.node.handle(Input::Refreshed { id, gone }, clock::now());
            self.drain()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        while let Some(output) = self.node.poll_output() {
            self.carry_out(output)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output) -> anyhow::Result<()> {
        match output {
            Output::Datagram { to, data } => self.port.send_to(&data, to),
            Output::Hook(call) => {
                let hook = call.id;
                let run = self.systems.run(call);
                let ends = self.hooks.0.clone();
                let (cancel, cancelled) = oneshot::channel::<()>();
                self.running.insert(hook, cancel);
                tokio::spawn(async move {
                    let result = tokio::select! {
                        result = run => result,
                        // Dropping the hook's future ends it.
                        Ok(()) = cancelled => Err("ended: the lease to hold the item ends".to_owned()),
                    };
                    // The loop is gone only when the daemon ends.
                    let _ = ends.send(HookEnd { hook, result });
                });
            }
            Output::Hush { item } => self.systems.hush(item),
            Output::Post(call) => {
                let hook = call.id;
                let run = self.systems.post(call);
                let ends = self.hooks.0.clone();
                tokio::spawn(async move {
                    // The loop is gone only when the daemon ends.
                    let _ = ends.send(HookEnd { hook, result: run.await });
                });
            }
            Output::Cancel { hook } => {
                if let Some(cancel) = self.running.remove(&hook) {
                    // It may have ended just now.
                    let _ = cancel.send(());
                }
            }
            Output::Event(event) => {
                if let Some(plugins) = &mut self.scripts.plugins
                    && let Some(told) = told::to_plugins(&event, self.node.config())
                {
                    plugins.tell(&told);
                }
                self.log.event(&event, self.node.config(), clock::now());
            }
            // A disk that is full must not take down what is held: the daemon runs on, and says what is at stake.
            Output::StoreGeneration(generation) => {
                if let Err(error) = self.state.store(generation) {
                    tracing::error!(
                        "{error:#}; running on: the next start relies on the clock, so make room, and let \
                         the clock not go back"
                    );
                }
            }
            Output::StoreKeys(keys) => {
                if let Err(error) = self.state.store_keys(&keys) {
                    tracing::error!(
                        "{error:#}; running on: after a restart this server would not know the new key, so \
                         make room and repeat the change of keys"
                    );
                }
            }
            Output::Stream { to, data } => {
                tokio::spawn(stream::ask(to, data, self.frames.0.clone()));
            }
            Output::StreamReply { conn, data } => {
                if let Some(reply) = self.replies.remove(&conn) {
                    // The peer may be gone.
                    let _ = reply.send(data);
                }
            }
            Output::Check(call) => {
                let run = self.checks.run(call);
                let ends = self.checked.0.clone();
                tokio::spawn(async move {
                    let result = run.await;
                    // The loop is gone only when the daemon ends.
                    let _ = ends.send(CheckEnd { id: call.id, result });
                });
            }
            Output::Done { asker, result } => {
                if let Some(reply) = self.askers.remove(&asker) {
                    // The tool may be gone.
                    let _ = reply.send(result);
                }
            }
            Output::Left => self.left = true,
            Output::Refresh(call) => {
                let gone = self.systems.refresh(&call);
                self.refreshed.push_back((call.id, gone));
            }
            Output::PingWitness { nonce } => {
                if let Some(witness) = &self.witness {
                    witness.ping(nonce);
                }
            }
            Output::Refused { other } => self.refused = Some(other),
        }
        Ok(())
    }

    /// Why this daemon must not run.
    fn twin(&self, other: SocketAddr) -> anyhow::Error {
        let id = &self.node.config().my().id;
        anyhow::anyhow!(
            "another daemon runs as server {id:?}, heard from {other}: stop that one, or start this one as the \
             server that it is (--id); no item was taken here"
        )
    }

    /// Tells watchers when something but ages and counters is different from what they were shown.
    fn show_changes(&mut self) {
        // One receiver is the server's own.
        if self.changes.receiver_count() <= 1 {
            self.shown = None;
            return;
        }
        let status = self.node.status(clock::now());
        let still = still(status.clone());
        if self.shown.as_ref() == Some(&still) {
            return;
        }
        self.shown = Some(still);
        if let Ok(line) = line(&status) {
            self.changes.send_replace(line);
        }
    }
}

/// The witness's next answer; never without a witness.
async fn answered(witness: Option<&Witness>) -> std::io::Result<u16> {
    match witness {
        Some(witness) => witness.answered().await,
        None => std::future::pending().await,
    }
}

async fn either(
    one: &mut tokio::signal::unix::Signal,
    other: &mut tokio::signal::unix::Signal,
) -> Option<()> {
    tokio::select! {
        received = one.recv() => received,
        received = other.recv() => received,
    }
}

fn line(status: &Status) -> anyhow::Result<Arc<str>> {
    Ok(Arc::from(serde_json::to_string(status)?))
}

/// A status without what changes by itself: ages, counters and estimates.
fn still(mut status: Status) -> Status {
    status.refused.clear();
    status.sent_datagrams = 0;
    status.sent_bytes = 0;
    for member in &mut status.members {
        member.since_ms = 0;
        member.loss = 0.0;
        member.immature_ms = member.immature_ms.map(|_| 0);
        if let Some(case) = &mut member.case {
            case.since_ms = 0;
        }
    }
    for item in &mut status.items {
        item.lease_ms = item.lease_ms.map(|_| 0);
        for check in &mut item.checks {
            (check.since_ms, check.failures, check.error_ms) = (0, 0, None);
        }
        if let Some(failure) = &mut item.failure {
            failure.retry_ms = failure.retry_ms.map(|_| 0);
        }
    }
    for holder in status.items.iter_mut().flat_map(|item| &mut item.holders) {
        holder.since_ms = 0;
    }
    status
}
