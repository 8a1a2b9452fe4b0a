//! Whole nodes in one process on loopback: the core, the seal and real UDP and TCP sockets, without
//! hooks. What `flip-bench membership` measures.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use flip_core::config::{ClusterKey, Config, LEASE, LogLevel, Server, Servers, Timing};
use flip_core::event::Event;
use flip_core::id::ShortId;
use flip_core::{Input, Node, Output, Start, Time};
use flip_systems::clock;
use flip_systems::stream::{self, Frame};
use flip_systems::udp::{BUFFER, Received, UdpPort};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// What a node reports to the bench.
#[derive(Debug, Default)]
pub struct Seen {
    /// Members that it takes for up, itself included.
    pub up: Cell<usize>,
    /// When it first took all servers for up.
    pub complete: Cell<Option<Time>>,
    /// Verdicts: position of the server, and when.
    pub down: RefCell<Vec<(usize, Time)>>,
    /// Goodbyes: position of the server, and when.
    pub left: RefCell<Vec<(usize, Time)>>,
    /// Datagrams and payload bytes sent.
    pub sent: Cell<(u64, u64)>,
}

enum Order {
    Leave,
    /// The host freezes: its socket stays open, nobody reads it, no ICMP tells of it.
    Freeze,
}

/// One running node.
pub struct Running {
    /// What it saw.
    pub seen: Rc<Seen>,
    orders: mpsc::UnboundedSender<Order>,
    task: JoinHandle<()>,
    listener: JoinHandle<()>,
}

impl Running {
    /// Asks it to say goodbye.
    pub fn leave(&self) {
        let _ = self.orders.send(Order::Leave);
    }

    /// Silences it without closing its sockets, as a host that is cut off.
    pub fn freeze(&self) {
        let _ = self.orders.send(Order::Freeze);
        self.listener.abort();
    }

    /// Kills it: its sockets close, and the kernel says so to whoever asks.
    pub fn kill(&self) {
        self.task.abort();
        self.listener.abort();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Configs of a cluster of `count` servers on loopback, on ports that are free now.
///
/// # Errors
/// When no ports can be had.
pub fn configs(count: usize, timing: &Timing) -> anyhow::Result<Vec<Config>> {
    let sockets: Vec<_> =
        (0..count).map(|_| std::net::UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addrs: Vec<SocketAddr> =
        sockets.iter().map(std::net::UdpSocket::local_addr).collect::<Result<_, _>>()?;
    let servers: Vec<_> = addrs
        .into_iter()
        .enumerate()
        .map(|(n, addr)| {
            let id = format!("node{n}");
            Server {
                short: ShortId::of(&id),
                addr,
                systems: Vec::new(),
                priority: u64::MAX,
                retired: false,
                id,
            }
        })
        .collect();
    let servers = Servers::from(servers);
    let shorts: Vec<_> = servers.iter().map(|server| server.short).collect();
    let voters = flip_core::quorum::voters(&shorts);
    Ok((0..count)
        .map(|me| Config {
            me,
            servers: servers.clone(),
            quorum: flip_core::quorum::majority(voters.len()),
            voters: voters.clone(),
            timing: timing.clone(),
            systems: Vec::new(),
            key: ClusterKey([9; 32]),
            cluster_id: "bench".into(),
            log_level: LogLevel::Error,
            lease: LEASE,
            witness: None,
            lua: Default::default(),
            admin: None,
            privileges: Default::default(),
        })
        .collect())
}

/// Starts a node. Must be called within a `LocalSet`.
///
/// # Errors
/// When its sockets cannot be bound.
pub async fn start(config: Arc<Config>, generation: u64, seed: u64) -> anyhow::Result<Running> {
    let addr = config.my().addr;
    let port = UdpPort::bind(addr)?;
    let listener = TcpListener::bind(addr).await?;
    let (orders, inbox) = mpsc::unbounded_channel();
    let seen = Rc::new(Seen::default());
    let frames = mpsc::channel(32);
    let listener = tokio::spawn(stream::serve(listener, frames.0.clone()));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let node = Node::new(config, Start { generation, seed: bytes, keys: None }, clock::now());
    let driver = Driver { node, port, seen: seen.clone(), frames, replies: Vec::new() };
    let task = tokio::task::spawn_local(driver.run(inbox));
    Ok(Running { seen, orders, task, listener })
}

struct Driver {
    node: Node,
    port: UdpPort,
    seen: Rc<Seen>,
    frames: (mpsc::Sender<Frame>, mpsc::Receiver<Frame>),
    replies: Vec<Option<oneshot::Sender<Vec<u8>>>>,
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        self.feed(Input::Timeout);
        loop {
            // What has arrived comes first: after a pause of this process, an answer that waits in the
            // socket must not count as missing.
            self.receive();
            let now = clock::now();
            let due = self.node.poll_timeout();
            if due.is_some_and(|due| due <= now) {
                self.feed(Input::Timeout);
            }
            let due = self.node.poll_timeout();
            let pause = due.map_or(Duration::from_secs(60), |at| at.since(clock::now()));
            tokio::select! {
                biased;
                _ = self.port.readable() => {}
                order = inbox.recv() => match order {
                    Some(Order::Leave) => self.feed(Input::Leave),
                    Some(Order::Freeze) | None => std::future::pending().await,
                },
                Some(frame) = self.frames.1.recv() => match frame {
                    Frame::Request { data, reply } => {
                        self.replies.push(Some(reply));
                        let conn = self.replies.len() as u64 - 1;
                        self.feed(Input::StreamRequest { conn, data: &data });
                    }
                    Frame::Reply(data) => self.feed(Input::StreamReply { data: &data }),
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes what is in the socket, but not for ever.
    fn receive(&mut self) {
        let mut buffer = [0; BUFFER];
        for _ in 0..256 {
            match self.port.try_recv(&mut buffer) {
                Some(Received::Datagram { from, len }) => {
                    self.feed(Input::Datagram { from, data: &buffer[..len] });
                }
                Some(Received::Unreachable { addr }) => self.feed(Input::Unreachable { addr }),
                None => break,
            }
        }
    }

    fn feed(&mut self, input: Input<'_>) {
        let now = clock::now();
        self.node.handle(input, now);
        while let Some(output) = self.node.poll_output() {
            self.carry_out(output, now);
        }
    }

    fn carry_out(&mut self, output: Output, now: Time) {
        match output {
            Output::Datagram { to, data } => {
                let (count, bytes) = self.seen.sent.get();
                self.seen.sent.set((count + 1, bytes + data.len() as u64));
                self.port.send_to(&data, to);
            }
            Output::Event(event) => match event {
                Event::MemberUp { .. } => {
                    let up = self.node.view().iter().filter(|r| r.life == flip_core::view::Life::Up).count();
                    self.seen.up.set(up);
                    if up == self.node.config().servers.len() && self.seen.complete.get().is_none() {
                        self.seen.complete.set(Some(now));
                    }
                }
                Event::MemberDown { server, .. } => self.seen.down.borrow_mut().push((server, now)),
                Event::MemberLeft { server, .. } => self.seen.left.borrow_mut().push((server, now)),
                _ => {}
            },
            Output::Stream { to, data } => {
                tokio::spawn(stream::ask(to, data, self.frames.0.clone()));
            }
            Output::StreamReply { conn, data } => {
                let waiting = usize::try_from(conn).ok().and_then(|conn| self.replies.get_mut(conn));
                if let Some(reply) = waiting.and_then(Option::take) {
                    let _ = reply.send(data);
                }
            }
            Output::Hook(_)
            | Output::Check(_)
            | Output::Post(_)
            | Output::Hush { .. }
            | Output::StoreGeneration(_)
            | Output::Left
            | Output::Cancel { .. }
            | Output::Refresh(_)
            | Output::PingWitness { .. }
            | Output::Done { .. }
            | Output::Late { .. }
            | Output::Heard { .. }
            | Output::StoreKeys(_)
            | Output::StoreCatalog { .. }
            | Output::Config(_)
            | Output::Refused { .. } => {}
        }
    }
}
