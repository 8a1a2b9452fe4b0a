//! TCP connections across a move: real daemons, real sockets of a service on each host, and a client that waits.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::{Who, host_ip, root_or_skip, vip, vip6};
use flip_tests::until::{until, until_logged};

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(30);
/// Longer than a tickle takes with all its rounds, for tests in which nothing must happen.
const LONG: Duration = Duration::from_secs(5);
const PORT: u16 = 4000;

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

/// Three hosts that share an address, which h0 holds.
fn cluster(address: IpAddr, settings: &[&str]) -> Cluster {
    let spec = ClusterSpec {
        args: vec!["--log-level".to_owned(), "debug".to_owned()],
        ..ClusterSpec::new(3, 1, "fast")
    };
    let mut config = spec.config();
    let system = &mut config["cluster"]["system"]["ip"];
    system["data"] = serde_json::json!([address]);
    for setting in settings {
        system["config"][*setting] = true.into();
    }
    let mut cluster = Cluster::prepare(spec, flip()).unwrap();
    cluster.set_config(&config).unwrap();
    for n in 0..3 {
        cluster.restart(n).unwrap();
    }
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(cluster.holder(address), Some(0));
    cluster
}

/// The same for both families, side by side.
fn for_each_family(test: impl Fn(IpAddr) + Sync) {
    std::thread::scope(|scope| {
        for address in [vip(0), vip6(0)] {
            let test = &test;
            scope.spawn(move || test(address));
        }
    });
}

/// A service on a host: greets, and keeps what it accepted. It listens for both families at once, as most do,
/// so that its IPv4 connections are those of IPv6 sockets.
fn serve(cluster: &Cluster, host: usize) -> Receiver<TcpStream> {
    let listener = cluster.lab().enter(Who::Host(host), || TcpListener::bind(("::", PORT))).unwrap().unwrap();
    let (accepted, streams) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            if stream.write_all(&[u8::try_from(host).unwrap()]).is_err() || accepted.send(stream).is_err() {
                return;
            }
        }
    });
    streams
}

/// Connects from the client, and says which host greeted.
fn connect(cluster: &Cluster, address: IpAddr) -> (TcpStream, usize) {
    let to = SocketAddr::new(address, PORT);
    let connect = || TcpStream::connect_timeout(&to, LIMIT);
    let mut stream = cluster.lab().enter(Who::Client, connect).unwrap().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut greeting = [0];
    stream.read_exact(&mut greeting).unwrap();
    (stream, greeting[0].into())
}

/// What a client that only waits learns within `limit`.
fn learns(mut stream: &TcpStream, limit: Duration) -> Option<ErrorKind> {
    stream.set_read_timeout(Some(limit)).unwrap();
    match stream.read(&mut [0]) {
        Ok(length) => panic!("{length} bytes of a service that says nothing"),
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => None,
        Err(error) => Some(error.kind()),
    }
}

/// A client that sends something instead.
fn sends(mut stream: &TcpStream) -> Option<ErrorKind> {
    stream.write_all(b"still there?").unwrap();
    learns(stream, LIMIT)
}

/// `flip drain` of a host.
fn drain(cluster: &Cluster, host: usize) {
    let mut command = cluster.lab().command(Who::Host(host), flip().to_str().unwrap()).unwrap();
    command.args(["drain", &format!("h{host}"), "--socket"]).arg(cluster.socket(host));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    assert!(cluster.lab().spawn(command).unwrap().wait(LIMIT).unwrap().success());
}

/// The holder dies with its host, after a client has connected. Gives back the client.
fn die(cluster: &Cluster, address: IpAddr, tickle: bool) -> TcpStream {
    let _services: Vec<_> = (0..3).map(|host| serve(cluster, host)).collect();
    let (client, greeted) = connect(cluster, address);
    assert_eq!(greeted, 0);
    if tickle {
        // The others were told.
        let said = format!("address={address} ");
        for other in [1, 2] {
            until_logged(cluster, &[other], &["who is connected", &said, "clients=1"], LIMIT);
        }
    }
    cluster.lab().cut(0).unwrap();
    cluster.wait_settled_among(&[1, 2], LIMIT).unwrap();
    client
}

#[test]
fn with_tickle_an_idle_client_learns_of_a_dead_holder() {
    if !root_or_skip("with_tickle_an_idle_client_learns_of_a_dead_holder") {
        return;
    }
    for_each_family(|address| {
        let cluster = cluster(address, &["tickle"]);
        let client = die(&cluster, address, true);
        assert_eq!(learns(&client, LONG), Some(ErrorKind::ConnectionReset), "{address}");
        let told = |n: usize| cluster.log(n).matches("tells the clients of the former holder").count();
        // The log is written by a thread of its own, which may be later than the client.
        let found = || format!("{} and {}", told(1), told(2));
        until("one tells the clients, once", LIMIT, found, || told(1) + told(2) > 0);
        assert_eq!(told(1) + told(2), 1, "{address}");
    });
}

#[test]
fn without_tickle_an_idle_client_learns_nothing_until_it_sends() {
    if !root_or_skip("without_tickle_an_idle_client_learns_nothing_until_it_sends") {
        return;
    }
    for_each_family(|address| {
        let cluster = cluster(address, &[]);
        let client = die(&cluster, address, false);
        assert_eq!(learns(&client, LONG), None, "{address}");
        assert_eq!(sends(&client), Some(ErrorKind::ConnectionReset), "{address}");
    });
}

#[test]
fn with_kill_connections_a_planned_move_resets_clients_at_once() {
    if !root_or_skip("with_kill_connections_a_planned_move_resets_clients_at_once") {
        return;
    }
    for_each_family(|address| {
        let cluster = cluster(address, &["kill_connections"]);
        let services: Vec<_> = (0..3).map(|host| serve(&cluster, host)).collect();
        let (client, greeted) = connect(&cluster, address);
        assert_eq!(greeted, 0);
        let served = services[0].recv_timeout(LIMIT).unwrap();
        // Somebody else's connection on the same host stays.
        let (other, _) = connect(&cluster, host_ip(Who::Host(0)).into());
        drain(&cluster, 0);
        assert_eq!(learns(&client, LIMIT), Some(ErrorKind::ConnectionReset), "{address}");
        assert_eq!(
            learns(&served, LIMIT),
            Some(ErrorKind::ConnectionAborted),
            "the service's end of {address}"
        );
        cluster.wait_settled(LIMIT).unwrap();
        let (_, greeted) = connect(&cluster, address);
        assert_ne!(greeted, 0, "{address}");
        assert_eq!(learns(&other, Duration::from_millis(100)), None, "another address of the host");
        let log = cluster.log(0);
        assert!(log.contains("connections ended"), "{log}");
    });
}

#[test]
fn with_tickle_a_planned_move_resets_clients_too() {
    if !root_or_skip("with_tickle_a_planned_move_resets_clients_too") {
        return;
    }
    for_each_family(|address| {
        let cluster = cluster(address, &["tickle"]);
        let _services: Vec<_> = (0..3).map(|host| serve(&cluster, host)).collect();
        let (client, _) = connect(&cluster, address);
        let said = format!("address={address} ");
        for other in [1, 2] {
            until_logged(&cluster, &[other], &[&said, "clients=1"], LIMIT);
        }
        drain(&cluster, 0);
        assert_eq!(learns(&client, LIMIT), Some(ErrorKind::ConnectionReset), "{address}");
    });
}

#[test]
fn a_connection_across_a_planned_move_ends_with_its_next_data() {
    if !root_or_skip("a_connection_across_a_planned_move_ends_with_its_next_data") {
        return;
    }
    for_each_family(|address| {
        let cluster = cluster(address, &[]);
        let _services: Vec<_> = (0..3).map(|host| serve(&cluster, host)).collect();
        let (client, _) = connect(&cluster, address);
        drain(&cluster, 0);
        cluster.wait_settled(LIMIT).unwrap();
        assert_eq!(learns(&client, Duration::from_secs(1)), None, "{address}");
        assert_eq!(sends(&client), Some(ErrorKind::ConnectionReset), "{address}");
    });
}
