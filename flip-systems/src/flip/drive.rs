//! The loop. One input is worked off, with all its outputs, before the next is taken.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flip_core::config::Config;
use flip_core::event::Event;
use flip_core::id::ItemRef;
use flip_core::limits::HANDOVER;
use flip_core::record::Record;
use flip_core::status::Status;
use flip_core::view::Life;
use flip_core::{Command, Input, Node, Output, Time};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::alarm::Alarm;
use super::handle::{Ask, Asker, Happened, Inbox, Refusal, Wish};
use super::metrics::{Metrics, Waiting};
use super::{End, Error, Program};
use crate::clock::{self, Sleep};
use crate::stream::{self, Frame};
use crate::udp::BUFFER;
use crate::{Checks, Confirmed, Received, Registry, Said, Systems, UdpPort, Witness, Word};

/// Datagrams taken in one turn, so that a flood does not keep the alarm waiting.
const BATCH: usize = 256;
/// Hooks that ended whose results are handed in in one turn: a turn costs system calls, and hooks end together.
const ENDS: usize = 64;
/// How long a goodbye may take beyond the hooks before the loop ends all the same.
const GOODBYE: Duration = Duration::from_secs(5);
/// A picture of the cluster that is not older than this is given to a script that asks: many hooks may ask at
/// once, and each picture costs the loop time.
const FRESH: Duration = Duration::from_millis(50);

/// What tasks hand back to the loop.
struct HookEnd {
    hook: u64,
    result: Result<(), String>,
}

struct StoreEnd {
    id: u64,
    result: Result<(), String>,
}

struct CheckEnd {
    id: u64,
    result: Result<(), String>,
}

/// What ended a wait.
enum Wake {
    Wish(Wish),
    HookEnd(HookEnd),
    CheckEnd(CheckEnd),
    StoreEnd(StoreEnd),
    /// Of an item as its system numbers it: the config may change before this is handed in.
    Drift(ItemRef, bool),
    /// As `Drift`.
    Word(ItemRef, Word),
    Frame(Frame),
    Ask(Ask),
    Witness(u16),
    Said(Said),
    Confirmed(Confirmed),
    /// The alarm, or datagrams: both are looked at in each turn.
    Look,
}

/// What a node is driven with.
pub(super) struct Parts {
    pub(super) node: Node,
    pub(super) config: Arc<Config>,
    pub(super) port: UdpPort,
    pub(super) listener: TcpListener,
    pub(super) registry: Registry,
    pub(super) systems: Systems,
    pub(super) witness: Option<Witness>,
    pub(super) checks: Checks,
    pub(super) program: Box<dyn Program>,
    pub(super) inbox: Inbox,
}

pub(super) struct Drive {
    node: Node,
    config: Arc<Config>,
    port: UdpPort,
    listener: Option<TcpListener>,
    /// What systems are opened with that come later.
    registry: Registry,
    systems: Systems,
    witness: Option<Witness>,
    checks: Checks,
    program: Box<dyn Program>,
    inbox: Inbox,
    metrics: Metrics,
    /// What health checks hand back; the core says how many run at a time.
    checked: (mpsc::UnboundedSender<CheckEnd>, mpsc::UnboundedReceiver<CheckEnd>),
    sleep: Sleep,
    alarm: Alarm,
    hooks: (mpsc::UnboundedSender<HookEnd>, mpsc::UnboundedReceiver<HookEnd>),
    /// Hooks that run, to end them before their time.
    running: HashMap<u64, oneshot::Sender<()>>,
    frames: (mpsc::Sender<Frame>, mpsc::Receiver<Frame>),
    replies: HashMap<u64, oneshot::Sender<Vec<u8>>>,
    connections: u64,
    /// Who waits for `Output::Done` or `Output::Late`.
    askers: HashMap<u64, oneshot::Sender<Result<String, Refusal>>>,
    asked: u64,
    /// The last picture that was made for a script.
    picture: Option<(Time, Arc<Status>)>,
    /// Refreshes that were carried out and not yet told of.
    refreshed: VecDeque<(u64, Vec<usize>)>,
    /// What came of writes of the catalog.
    stored: (mpsc::UnboundedSender<StoreEnd>, mpsc::UnboundedReceiver<StoreEnd>),
    /// When this node was asked to leave.
    ending: Option<Time>,
    left: bool,
    /// Where another node with this one's id is.
    refused: Option<SocketAddr>,
}

impl Drive {
    pub(super) fn new(parts: Parts) -> Result<Self, Error> {
        let Parts { node, config, port, listener, registry, systems, witness, checks, program, inbox } =
            parts;
        let alarm = Alarm::new().map_err(|source| Error::Kernel { doing: "make a timer", source })?;
        let metrics = Metrics::new(&config, clock::now());
        Ok(Self {
            node,
            config,
            port,
            listener: Some(listener),
            registry,
            systems,
            witness,
            checks,
            program,
            inbox,
            metrics,
            checked: mpsc::unbounded_channel(),
            sleep: Sleep::default(),
            alarm,
            hooks: mpsc::unbounded_channel(),
            running: HashMap::new(),
            frames: mpsc::channel(32),
            replies: HashMap::new(),
            connections: 0,
            askers: HashMap::new(),
            asked: 0,
            picture: None,
            refreshed: VecDeque::new(),
            stored: mpsc::unbounded_channel(),
            ending: None,
            left: false,
            refused: None,
        })
    }

    /// Runs until the node has left.
    ///
    /// A turn is: what is due by the clock, then what was waited for, then one frame and one word of the disk, then
    /// datagrams, but only so many.
    /// So no flood of any kind delays what must be let go of in time.
    pub(super) async fn run(mut self) -> Result<End, Error> {
        if let Some(listener) = self.listener.take() {
            let frames = self.frames.0.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stream::serve(listener, frames.clone()) => {}
                    // The loop is gone, and its port free again.
                    () = frames.closed() => {}
                }
            });
        }
        let present = self.systems.observe().await.map_err(Error::Observe)?;
        let leftovers: Vec<_> =
            present.into_iter().filter(|(_, present)| *present).map(|(item, _)| item).collect();
        self.node.leftovers(&leftovers, clock::now());

        // Before anything is placed.
        while let Some((item, word)) = self.systems.word_now() {
            self.word(item, word);
        }
        self.inbox.listen();
        let mut buffer = [0; BUFFER];
        let mut wake = Wake::Look;
        self.feed(Input::Timeout);
        loop {
            self.look_at_the_clock()?;
            match wake {
                Wake::Wish(Wish::Abort) => return Ok(End::Aborted),
                wake => self.take(wake),
            }
            self.take_one_of_each();
            let more = self.receive(&mut buffer);
            if let Some(other) = self.refused {
                return Err(Error::Refused { id: self.config.my().id.clone(), other });
            }
            if self.left {
                self.program.left().await;
                return Ok(End::Left);
            }
            self.program.turn(&self.node, clock::now());
            self.alarm.set(self.next()).map_err(stopped)?;
            wake = tokio::select! {
                biased;
                wish = self.inbox.wishes.next() => Wake::Wish(wish),
                Some(end) = self.hooks.1.recv() => Wake::HookEnd(end),
                // Before drift: a link that went took its addresses along, and nobody can put them back.
                (item, word) = self.systems.reports().next_word() => Wake::Word(item, word),
                (item, present) = self.systems.reports().next() => Wake::Drift(item, present),
                nonce = answered(self.witness.as_ref()) => Wake::Witness(nonce.map_err(stopped)?),
                Some(end) = self.checked.1.recv() => Wake::CheckEnd(end),
                Some(end) = self.stored.1.recv() => Wake::StoreEnd(end),
                Some(frame) = self.frames.1.recv() => Wake::Frame(frame),
                Some(ask) = self.inbox.asks.recv() => Wake::Ask(ask),
                said = self.systems.said() => Wake::Said(said),
                confirmed = self.systems.confirmed() => Wake::Confirmed(confirmed),
                result = self.alarm.ring() => {
                    result.map_err(stopped)?;
                    Wake::Look
                }
                readable = self.port.readable(), if !more => {
                    readable.map_err(stopped)?;
                    Wake::Look
                }
                // The others of this thread get their turn, hooks among them.
                () = tokio::task::yield_now(), if more => Wake::Look,
            };
        }
    }

    /// Hands in what is due, before anything that waited beside it.
    fn look_at_the_clock(&mut self) -> Result<(), Error> {
        let now = clock::now();
        if let Some(due) = self.node.poll_timeout().filter(|due| *due <= now) {
            self.metrics.was_late(now.since(due));
            self.feed(Input::Timeout);
        }
        if self.deadline().is_some_and(|deadline| deadline <= now) && !self.left {
            return Err(Error::Late);
        }
        Ok(())
    }

    /// When something is due.
    fn next(&self) -> Option<Time> {
        [self.node.poll_timeout(), self.deadline(), self.program.due()].into_iter().flatten().min()
    }

    /// When a goodbye has taken too long.
    fn deadline(&self) -> Option<Time> {
        self.ending.map(|asked| asked + HANDOVER + self.config.timing.hook_timeout + GOODBYE)
    }

    fn take(&mut self, wake: Wake) {
        match wake {
            Wake::Look | Wake::Wish(Wish::Run | Wish::Abort) => {}
            Wake::Wish(Wish::Leave) => {
                self.ending.get_or_insert(clock::now());
                self.feed(Input::Leave);
            }
            Wake::HookEnd(end) => {
                self.hook_ended(end);
                for _ in 1..ENDS {
                    let Ok(end) = self.hooks.1.try_recv() else { break };
                    self.hook_ended(end);
                }
            }
            Wake::CheckEnd(CheckEnd { id, result }) => self.feed(Input::CheckDone { id, result }),
            Wake::StoreEnd(StoreEnd { id, result }) => self.feed(Input::Stored { id, result }),
            Wake::Drift(item, present) => {
                if let Some(item) = self.systems.locate(item) {
                    self.feed(Input::Observed { item, present });
                }
            }
            Wake::Word(item, word) => {
                if let Some(item) = self.systems.locate(item) {
                    self.word(item, word);
                }
            }
            Wake::Said(said) => self.speak(Some(said), None),
            Wake::Confirmed(confirmed) => self.speak(None, Some(confirmed)),
            Wake::Witness(nonce) => self.feed(Input::WitnessAnswered { nonce }),
            Wake::Frame(frame) => self.frame(frame),
            Wake::Ask(ask) => self.answer(ask),
        }
    }

    /// Hooks of many items may end without a pause: what a peer asks and what the disk says does not wait for the last.
    fn take_one_of_each(&mut self) {
        if let Ok(end) = self.stored.1.try_recv() {
            self.take(Wake::StoreEnd(end));
        }
        if let Ok(frame) = self.frames.1.try_recv() {
            self.take(Wake::Frame(frame));
        }
    }

    fn hook_ended(&mut self, HookEnd { hook, result }: HookEnd) {
        self.running.remove(&hook);
        self.metrics.hook_ended(hook, result.is_ok(), clock::now());
        self.feed(Input::HookDone { hook, result });
    }

    fn word(&mut self, item: ItemRef, word: Word) {
        self.feed(match word {
            Word::Usable(trouble) => Input::Usable { item, trouble },
            Word::Conflict { with, give_up } => Input::Conflict { item, with, give_up },
        });
    }

    /// Hands in what systems have to say, and what else waits of that: many addresses are spoken of at once, and
    /// each turn of the loop has a price.
    fn speak(&mut self, said: Option<Said>, confirmed: Option<Confirmed>) {
        let mut next = (said, confirmed);
        for left in (0..BATCH).rev() {
            let (said, confirmed) = next;
            if said.is_none() && confirmed.is_none() {
                return;
            }
            if let Some(Said { to, topic, data }) = said {
                let receiver = to.map(|number| self.systems.position_of(number));
                // One that left the config hears nothing.
                if receiver != Some(None) {
                    self.feed(Input::Say { to: receiver.flatten(), topic, data });
                }
            }
            if let Some(Confirmed { item, by, answered }) = confirmed
                && let (Some(item), Some(by)) = (self.systems.locate(item), self.systems.position_of(by))
            {
                self.feed(Input::Confirmed { item, by, answered });
            }
            // What is not taken waits for the next turn.
            next = if left > 0 { self.systems.waiting() } else { (None, None) };
        }
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Status(asker, reply) => {
                // Whoever asked may be gone.
                let _ = reply.send(self.status(asker));
            }
            Ask::Answer(reply) => {
                let _ = reply.send(());
            }
            Ask::Do(asker, command, reply) => self.command(asker, command, reply),
            Ask::Why(item, reply) => drop(reply.send(self.node.explain(&item, clock::now()))),
            Ask::Plan(what_if, reply) => drop(reply.send(self.node.plan(&what_if, clock::now()))),
            Ask::Catalog(reply) => drop(reply.send(self.node.catalog().cloned())),
            Ask::Moves(reply) => drop(reply.send(self.node.moves(clock::now()))),
            Ask::Metrics(reply) => {
                let waiting =
                    Waiting { asks: self.inbox.asks.len(), ends: self.hooks.1.len() + self.checked.1.len() };
                let _ = reply.send(self.metrics.text(&self.node, waiting, clock::now()));
            }
            #[cfg(test)]
            Ask::Adopt(config, reply) => {
                self.node.adopt(config, clock::now());
                self.drain();
                let _ = reply.send(());
            }
        }
    }

    fn status(&mut self, asker: Asker) -> Arc<Status> {
        let now = clock::now();
        match &self.picture {
            Some((at, status)) if asker == Asker::Script && now.since(*at) < FRESH => Arc::clone(status),
            _ => {
                let mut status = self.node.status(now);
                self.program.picture(&mut status);
                let status = Arc::new(status);
                self.picture = Some((now, Arc::clone(&status)));
                status
            }
        }
    }

    fn command(&mut self, asker: Asker, command: Command, reply: oneshot::Sender<Result<String, Refusal>>) {
        match asker {
            // A file may hold the cluster's key.
            Asker::Person if matches!(command, Command::File { .. }) => {
                tracing::info!("an operator's word: the config file was read again");
            }
            Asker::Person => tracing::info!(?command, "an operator's word"),
            Asker::Script => tracing::debug!(?command, "a script's word"),
        }
        // It changes the picture: whoever asks next must see it.
        self.picture = None;
        // Those who asked and went away get no answer.
        self.askers.retain(|_, reply| !reply.is_closed());
        self.asked += 1;
        let asker = self.asked;
        self.askers.insert(asker, reply);
        self.feed(Input::Command { asker, command });
    }

    /// Takes datagrams, at most [`BATCH`]. True when there may be more.
    fn receive(&mut self, buffer: &mut [u8]) -> bool {
        for _ in 0..BATCH {
            match self.port.try_recv(buffer) {
                Some(Received::Datagram { from, len }) => {
                    self.feed(Input::Datagram { from, data: &buffer[..len] });
                }
                Some(Received::Unreachable { addr }) => self.feed(Input::Unreachable { addr }),
                None => return false,
            }
        }
        true
    }

    fn frame(&mut self, frame: Frame) {
        match frame {
            Frame::Request { data, reply } => {
                self.replies.retain(|_, reply| !reply.is_closed());
                self.connections += 1;
                let conn = self.connections;
                self.replies.insert(conn, reply);
                self.feed(Input::StreamRequest { conn, data: &data });
                // An answer comes at once or never; without one the connection closes.
                self.replies.remove(&conn);
            }
            Frame::Reply(data) => self.feed(Input::StreamReply { data: &data }),
        }
    }

    /// Hands in one input, and carries out all that follows from it.
    fn feed(&mut self, input: Input<'_>) {
        if let Some(by) = self.sleep.noticed() {
            self.hand_in(Input::Suspended { by });
        }
        self.hand_in(input);
    }

    fn hand_in(&mut self, input: Input<'_>) {
        self.node.handle(input, clock::now());
        self.drain();
        while let Some((id, gone)) = self.refreshed.pop_front() {
            self.node.handle(Input::Refreshed { id, gone }, clock::now());
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Datagram { to, data } => self.port.send_to(&data, to),
            Output::Hook(call) => {
                let hook = call.id;
                let system = &self.config.systems[call.item.system].name;
                self.metrics.hook_began(hook, system, Some(call.action), clock::now());
                let (cancel, cancelled) = oneshot::channel::<()>();
                self.running.insert(hook, cancel);
                let run = self.systems.run(call);
                self.spawn_hook(hook, async move {
                    tokio::select! {
                        biased;
                        result = run => result,
                        // Dropping the hook's future ends it.
                        _ = cancelled => Err("ended: the lease to hold the item ends".to_owned()),
                    }
                });
            }
            Output::Hush { item } => self.systems.hush(item),
            Output::Post(call) => {
                let system = &self.config.systems[call.system].name;
                self.metrics.hook_began(call.id, system, None, clock::now());
                self.spawn_hook(call.id, self.systems.post(call));
            }
            Output::Cancel { hook } => {
                if let Some(cancel) = self.running.remove(&hook) {
                    // It may have ended just now.
                    let _ = cancel.send(());
                }
            }
            Output::Event(event) => self.tell(event),
            Output::StoreGeneration(generation) => self.program.store_generation(generation),
            Output::StoreKeys(keys) => self.program.store_keys(&keys),
            Output::Config(config) => self.adopt(config),
            Output::StoreCatalog { id, bytes, whole } => {
                let ends = self.stored.0.clone();
                // The loop may end meanwhile.
                let done = Box::new(move |result| drop(ends.send(StoreEnd { id, result })));
                self.program.store_catalog(bytes, whole, done);
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
                    tokio::select! {
                        // The loop may end meanwhile.
                        result = run => drop(ends.send(CheckEnd { id: call.id, result })),
                        () = ends.closed() => {}
                    }
                });
            }
            Output::Done { asker, result } => self.answered(asker, result.map_err(Refusal::Refused)),
            Output::Late { asker, how_far } => self.answered(asker, Err(Refusal::Late(how_far))),
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
            Output::Heard { from, topic, data } => self.systems.heard(from, topic, &data),
            Output::Refused { other } => self.refused = Some(other),
        }
    }

    fn answered(&mut self, asker: u64, result: Result<String, Refusal>) {
        if let Some(reply) = self.askers.remove(&asker) {
            // The tool may be gone.
            let _ = reply.send(result);
        }
    }

    /// Everything that reads positions goes on under another config, before the next output.
    fn adopt(&mut self, config: Arc<Config>) {
        for (system, error) in self.systems.adopt(&self.registry, &config) {
            tracing::error!(system, %error, "cannot serve all of its items");
        }
        self.checks.adopt(&config);
        if config.witness != self.config.witness {
            self.witness = match config.witness.map(Witness::open).transpose() {
                Ok(witness) => witness,
                Err(error) => {
                    tracing::error!(%error, "cannot ask the new witness: no ballot of this node counts until it can");
                    None
                }
            };
        }
        if config.my().addr != self.config.my().addr {
            let (old, new) = (self.config.my().addr, config.my().addr);
            tracing::warn!(%old, %new, "this server has another address: start it again, it listens at the old one");
        }
        self.inbox.adopt(&config);
        self.picture = None;
        self.config = config;
        self.tell_members();
    }

    /// Tells the systems who is up.
    fn tell_members(&self) {
        let up = self.node.view().iter().enumerate().filter(|(_, record)| record.life == Life::Up);
        let others = up.map(|(server, _)| server).filter(|server| *server != self.config.me);
        self.systems.set_members(others.collect());
    }

    /// Runs a hook beside the loop, for as long as there is a loop.
    fn spawn_hook(&self, hook: u64, run: impl Future<Output = Result<(), String>> + Send + 'static) {
        let ends = self.hooks.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // The loop is gone, and with it whoever would let go of what is brought up now.
                () = ends.closed() => {}
                result = run => drop(ends.send(HookEnd { hook, result })),
            }
        });
    }

    fn tell(&mut self, event: Event) {
        if matches!(event, Event::MemberUp { .. } | Event::MemberDown { .. } | Event::MemberLeft { .. }) {
            self.tell_members();
        }
        let now = clock::now();
        let history = &self.inbox.history;
        let record = Record::new(&event, &self.config, history.next(), clock::wall_millis());
        self.metrics.event(&event, &record, &self.node, now);
        self.program.event(&event, &self.config, now);
        self.program.record(&event, &record, now);
        history.push(record);
        let events: &broadcast::Sender<Happened> = &self.inbox.events;
        if events.receiver_count() > 0 {
            // The last of them may have gone just now.
            let _ = events.send(Happened { event, config: Arc::clone(&self.config) });
        }
    }
}

/// The kernel or the runtime does not let the loop go on.
fn stopped(source: std::io::Error) -> Error {
    Error::Kernel { doing: "wait for what happens", source }
}

/// The witness's next answer; never without a witness.
async fn answered(witness: Option<&Witness>) -> std::io::Result<u16> {
    match witness {
        Some(witness) => witness.answered().await,
        None => std::future::pending().await,
    }
}
