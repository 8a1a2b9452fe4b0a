//! Hosts, each with a network of its own, on a bridge in the network of the test.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use flip_core::config::Config;
use flip_systems::Systems;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{alive, down, ip, ip_json};

/// The test's own addresses, on the bridge `br0`.
pub const CLIENT: &str = "10.9.0.100";
pub const CLIENT6: &str = "2001:db8:9::100";

type Reply = Sender<Result<(), String>>;

enum Order {
    Open(Box<Config>, Reply),
    Close(Reply),
    Alive(usize, Reply),
    Down(usize, Reply),
    Run(Box<dyn FnOnce() + Send>, Reply),
}

/// A host with the link `v0` and the addresses 10.9.0.N/24 and 2001:db8:9::N/64. It ends with the test.
pub struct Host {
    orders: UnboundedSender<Order>,
}

/// Makes the bridge and two hosts, 1 and 2. Within [`super::in_namespace`].
pub fn lan() -> [Host; 2] {
    ip("link add br0 type bridge");
    ip("link set br0 up");
    ip(&format!("addr add {CLIENT}/24 dev br0"));
    ip(&format!("addr add {CLIENT6}/64 dev br0 nodad"));
    [1, 2].map(Host::start)
}

impl Host {
    fn start(n: usize) -> Self {
        let (orders, mut inbox) = unbounded_channel();
        let (id, started) = channel();
        std::thread::spawn(move || {
            // SAFETY: unshare concerns the calling thread only, and takes no pointer.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            // SAFETY: gettid takes nothing and cannot fail.
            id.send(unsafe { libc::gettid() }).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut systems = None;
                while let Some(order) = inbox.recv().await {
                    follow(order, &mut systems).await;
                }
            });
        });
        let id = started.recv().unwrap();
        ip(&format!("link add p{n} type veth peer name h{n}"));
        ip(&format!("link set h{n} netns {id} name v0"));
        ip(&format!("link set p{n} master br0"));
        ip(&format!("link set p{n} up"));
        let host = Self { orders };
        host.run(move || {
            ip("link set lo up");
            ip("link set v0 up");
            ip(&format!("addr add 10.9.0.{n}/24 dev v0"));
            ip(&format!("addr add 2001:db8:9::{n}/64 dev v0 nodad"));
        });
        host
    }

    fn ask(&self, order: impl FnOnce(Reply) -> Order) -> Result<(), String> {
        let (reply, answer) = channel();
        assert!(self.orders.send(order(reply)).is_ok(), "the host is there");
        answer.recv().expect("the host did not panic")
    }

    pub fn open(&self, config: &Config) {
        self.ask(|reply| Order::Open(Box::new(config.clone()), reply)).unwrap();
    }

    /// As a crash of the daemon.
    pub fn close(&self) {
        self.ask(Order::Close).unwrap();
    }

    pub fn alive(&self, item: usize) -> Result<(), String> {
        self.ask(|reply| Order::Alive(item, reply))
    }

    pub fn down(&self, item: usize) -> Result<(), String> {
        self.ask(|reply| Order::Down(item, reply))
    }

    /// Runs something in the host's network.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        self.ask(|reply| Order::Run(Box::new(work), reply)).unwrap();
    }

    /// Where a connection from this host to an address seems to come from. The address is the test's.
    pub fn source_seen_at(&self, address: &str) -> IpAddr {
        let listener = TcpListener::bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        let to = listener.local_addr().unwrap();
        self.run(move || {
            TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap_or_else(|e| panic!("{to}: {e}"));
        });
        listener.accept().unwrap().1.ip()
    }
}

async fn follow(order: Order, systems: &mut Option<Systems>) {
    let (reply, result) = match order {
        Order::Open(config, reply) => {
            *systems = None;
            let opened = Systems::open(&config).map_err(|error| error.to_string());
            (reply, opened.map(|opened| *systems = Some(opened)))
        }
        Order::Close(reply) => {
            *systems = None;
            (reply, Ok(()))
        }
        Order::Alive(item, reply) => (reply, alive(systems.as_ref().unwrap(), item).await),
        Order::Down(item, reply) => (reply, down(systems.as_ref().unwrap(), item).await),
        Order::Run(work, reply) => {
            work();
            (reply, Ok(()))
        }
    };
    // The test may be over.
    drop(reply.send(result));
}

/// Whether somebody answers at an address: nobody listens there, so a refusal is the answer.
pub fn answers(address: &str) -> bool {
    let to = SocketAddr::new(address.parse().unwrap(), 9);
    match TcpStream::connect_timeout(&to, Duration::from_secs(3)) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
    }
}

/// The hardware address that the test has in its cache for an address.
pub fn neighbour(address: &str) -> Option<String> {
    let all = ip_json(&format!("neigh show {address} dev br0"));
    Some(all.as_array()?.first()?["lladdr"].as_str()?.to_owned())
}
