//! The loop. One input is worked off, with all its outputs, before the next is taken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use flip_core::event::Event;
use flip_core::status::Status;
use flip_core::{Input, Node, Output, Time};
use flip_systems::udp::BUFFER;
use flip_systems::{Received, Systems, UdpPort, clock};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::socket::{Answer, Question, Socket};
use super::state::State;
use super::stream::{self, Frame};
use super::timer::Alarm;

/// Profiles that probe at least this often need the processor before others.
pub const URGENT: Duration = Duration::from_millis(50);
/// Datagrams taken in one turn, so that a flood does not keep the alarm waiting.
const BATCH: usize = 256;
/// How long a goodbye may take beyond the hooks before the daemon ends all the same.
const GOODBYE: Duration = Duration::from_secs(5);

/// A supervisor may signal a process and its group: signals that come together are one wish.
const SAME_WISH: Duration = Duration::from_millis(500);

/// What tasks hand back to the loop.
struct HookEnd {
    hook: u64,
    result: Result<(), String>,
}

pub struct Drive {
    node: Node,
    state: State,
    port: UdpPort,
    systems: Systems,
    alarm: Alarm,
    hooks: (mpsc::UnboundedSender<HookEnd>, mpsc::UnboundedReceiver<HookEnd>),
    frames: (mpsc::Sender<Frame>, mpsc::Receiver<Frame>),
    replies: HashMap<u64, oneshot::Sender<Vec<u8>>>,
    connections: u64,
    questions: (mpsc::Sender<Question>, mpsc::Receiver<Question>),
    /// Who waits for `Output::Done`.
    askers: HashMap<u64, oneshot::Sender<Answer>>,
    asked: u64,
    changes: watch::Sender<Arc<str>>,
    /// What watchers were shown last, without what changes by itself.
    shown: Option<Status>,
    left: bool,
}

impl Drive {
    pub fn new(node: Node, state: State, port: UdpPort, systems: Systems) -> anyhow::Result<Self> {
        Ok(Self {
            node,
            state,
            port,
            systems,
            alarm: Alarm::new()?,
            hooks: mpsc::unbounded_channel(),
            frames: mpsc::channel(32),
            replies: HashMap::new(),
            connections: 0,
            questions: mpsc::channel(32),
            askers: HashMap::new(),
            asked: 0,
            changes: watch::Sender::new(Arc::from("")),
            shown: None,
            left: false,
        })
    }

    /// Runs until the node has left; the exit code.
    pub async fn run(mut self, listener: TcpListener, mut socket: Socket) -> anyhow::Result<u8> {
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
        for (item, present) in present {
            self.feed(Input::Observed { item, present })?;
        }
        self.feed(Input::Timeout)?;

        let mut asked: Option<Time> = None;
        let mut buffer = [0; BUFFER];
        while !self.left {
            self.show_changes();
            let limit = self.node.config().timing.hook_timeout + GOODBYE;
            let deadline = asked.map(|asked| asked + limit);
            let next = [self.node.poll_timeout(), deadline].into_iter().flatten().min();
            self.alarm.set(next)?;
            tokio::select! {
                biased;
                Some(()) = either(&mut terminate, &mut interrupt) => {
                    let now = clock::now();
                    match asked {
                        None => {
                            tracing::info!("asked to end: releasing all items and saying goodbye");
                            asked = Some(now);
                            self.feed(Input::Leave)?;
                        }
                        Some(first) if now.since(first) < SAME_WISH => {}
                        Some(_) => bail!("asked twice to end: items may be left behind on this host"),
                    }
                }
                // Unheard it would end the daemon without a goodbye, and leave the addresses behind.
                Some(()) = hangup.recv() => {
                    tracing::warn!("SIGHUP changes nothing: restart the daemon to use another config");
                }
                result = self.alarm.ring() => {
                    result?;
                    // Answers that waited while this process did not run are answers in time.
                    self.receive(&mut buffer)?;
                    self.feed(Input::Timeout)?;
                    if deadline.is_some_and(|deadline| deadline <= clock::now()) && !self.left {
                        bail!("could not release all items in time: some may be left behind on this host");
                    }
                }
                Some(HookEnd { hook, result }) = self.hooks.1.recv() => self.feed(Input::HookDone { hook, result })?,
                (item, present) = self.systems.drift() => self.feed(Input::Observed { item, present })?,
                readable = self.port.readable() => {
                    readable?;
                    self.receive(&mut buffer)?;
                }
                Some(frame) = self.frames.1.recv() => self.frame(frame)?,
                Some(question) = self.questions.1.recv() => self.question(question)?,
            }
        }
        Ok(0)
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

    fn receive(&mut self, buffer: &mut [u8]) -> anyhow::Result<()> {
        for _ in 0..BATCH {
            match self.port.try_recv(buffer) {
                Some(Received::Datagram { from, len }) => {
                    self.feed(Input::Datagram { from, data: &buffer[..len] })?;
                }
                Some(Received::Unreachable { addr }) => self.feed(Input::Unreachable { addr })?,
                None => break,
            }
        }
        Ok(())
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

    fn feed(&mut self, input: Input<'_>) -> anyhow::Result<()> {
        self.node.handle(input, clock::now());
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
                tokio::spawn(async move {
                    let result = run.await;
                    // The loop is gone only when the daemon ends.
                    let _ = ends.send(HookEnd { hook, result });
                });
            }
            Output::Event(event) => self.note(&event),
            Output::StoreGeneration(generation) => self.state.store(generation)?,
            Output::StoreKeys(keys) => self.state.store_keys(&keys)?,
            Output::Stream { to, data } => {
                tokio::spawn(stream::ask(to, data, self.frames.0.clone()));
            }
            Output::StreamReply { conn, data } => {
                if let Some(reply) = self.replies.remove(&conn) {
                    // The peer may be gone.
                    let _ = reply.send(data);
                }
            }
            Output::Done { asker, result } => {
                if let Some(reply) = self.askers.remove(&asker) {
                    // The tool may be gone.
                    let _ = reply.send(result);
                }
            }
            Output::Left => self.left = true,
            Output::Refresh(_) | Output::PingWitness { .. } | Output::Refused { .. } => {}
        }
        Ok(())
    }

    fn note(&self, event: &Event) {
        super::log::event(event, self.node.config());
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
        if let Some(case) = &mut member.case {
            case.since_ms = 0;
        }
    }
    for holder in status.items.iter_mut().flat_map(|item| &mut item.holders) {
        holder.since_ms = 0;
    }
    status
}
