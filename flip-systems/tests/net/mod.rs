//! A network of its own for each test, and the ip system in it.
#![allow(dead_code, reason = "each test file uses its share")]

use std::future::Future;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use flip_core::config::{
    ClusterKey, Config, Interface, IpItem, Item, LEASE, LogLevel, Profile, Release, Server, System,
    SystemKind,
};
use flip_core::event::Reason;
use flip_core::id::{ItemRef, ShortId};
use flip_core::{HookAction, HookCall, Lifetime};
use flip_systems::Systems;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

pub mod hosts;

pub const V4: &str = "10.9.0.5";
pub const V6: &str = "2001:db8:9::5";

/// Runs `test` on a thread in a network of its own, with a cable between `v0` and `v1`.
pub fn in_namespace<F, T>(test: F)
where
    F: FnOnce() -> T + Send + 'static,
    T: Future<Output = ()>,
{
    unshared(|| {
        ip("link set lo up");
        cable();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(Duration::from_secs(30), test()).await.expect("the test hangs") });
    });
}

/// Runs `test` on a thread in an empty network of its own.
pub fn unshared(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("FLIP_REQUIRE_ROOT").is_none_or(|v| v != "1"),
            "FLIP_REQUIRE_ROOT=1, and this is not root"
        );
        eprintln!("SKIPPED: needs root (network namespaces)");
        return;
    }
    let thread = std::thread::spawn(move || {
        // SAFETY: unshare concerns the calling thread only, and takes no pointer.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn cable() {
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
}

/// Runs iproute2; what it prints.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn ip_json(arguments: &str) -> Value {
    let output = Command::new("ip").arg("-j").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip -j {arguments}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `ip address` shows of `address` on `interface`.
pub fn bound(interface: &str, address: &str) -> Vec<Value> {
    let all = ip_json(&format!("-d addr show dev {interface}"));
    let addresses = all[0]["addr_info"].as_array().unwrap();
    addresses.iter().filter(|a| a["local"] == address).cloned().collect()
}

pub fn give_up(capability: CapabilitySet) {
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(capability);
    set_capabilities(None, sets).unwrap();
}

pub fn config(interface: &str, items: &[&str]) -> Config {
    let mut settings = serde_json::Map::new();
    settings.insert("interface".to_owned(), interface.into());
    // What is tested here has no time to ask for hosts that are no members.
    settings.insert("probe".to_owned(), 0.into());
    let default = Interface::of(interface);
    let item = |i: &&str| Item { ip: IpItem::parse(i, &default).ok(), ..Item::plain("ip", i) };
    let items = items.iter().map(item).collect();
    Config {
        me: 0,
        servers: vec![Server {
            id: "n".to_owned(),
            short: ShortId::of("n"),
            addr: "127.0.0.1:1".parse().unwrap(),
            systems: vec![0],
            priority: 1,
            retired: false,
        }]
        .into(),
        quorum: 1,
        voters: vec![0],
        timing: Profile::Lan.timing(1),
        systems: vec![System {
            name: "ip".to_owned(),
            kind: SystemKind::Shard,
            alive: "ip_up".to_owned(),
            down: "ip_down".to_owned(),
            config: settings,
            release: Release::Kernel,
            hooks: Default::default(),
            orphan: None,
            checks: Vec::new(),

            items,
        }],
        key: ClusterKey([0; 32]),
        cluster_id: String::new(),
        log_level: LogLevel::Info,
        lease: LEASE,
        witness: None,
        lua: Default::default(),
        privileges: Default::default(),
    }
}

/// A config of groups: each is a list of addresses as `data` may say them.
pub fn groups(interface: &str, groups: &[&[&str]]) -> Config {
    let mut config = config(interface, &[]);
    let default = Interface::of(interface);
    let part = |text: &&str| IpItem::parse(text, &default).unwrap().parts.remove(0);
    let item = |texts: &&[&str]| {
        let ip = IpItem { parts: texts.iter().map(part).collect() };
        Item { ip: Some(ip), ..Item::plain("ip", texts[0]) }
    };
    config.systems[0].items = groups.iter().map(item).collect();
    config
}

pub fn item(item: usize) -> ItemRef {
    ItemRef { system: 0, item }
}

pub fn call(at: usize, action: HookAction) -> HookCall {
    HookCall {
        id: 1,
        item: item(at),
        action,
        reason: Reason::Home,
        timeout: Duration::from_secs(5),
        lifetime: Lifetime::ENDLESS,
    }
}

pub async fn alive(systems: &Systems, item: usize) -> Result<(), String> {
    systems.run(call(item, HookAction::Alive)).await
}

pub async fn down(systems: &Systems, item: usize) -> Result<(), String> {
    systems.run(call(item, HookAction::Down)).await
}

pub async fn here(systems: &Systems) -> Vec<bool> {
    systems.observe().await.unwrap().into_iter().map(|(_, present)| present).collect()
}

/// A machine that does other things as well may be late, but never early.
pub fn assert_close(at: Duration, due: Duration) {
    let early = Duration::from_millis(2);
    let late = Duration::from_millis(250);
    assert!(at + early >= due && at <= due + late, "at {at:?}, due {due:?}");
}

/// The frames that arrive at an interface.
pub struct Wire {
    frames: UnboundedReceiver<(Instant, Vec<u8>)>,
}

impl Wire {
    pub fn tap(interface: &str) -> Self {
        use socket2::{Domain, Protocol, SockAddr, Socket, Type};
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol)))).unwrap();
        let index = index_of(interface);
        // SAFETY: `storage` is zeroed, large enough and aligned for a `sockaddr_ll`.
        let ((), address) = unsafe {
            SockAddr::try_init(|storage, len| {
                let ll = &mut *storage.cast::<libc::sockaddr_ll>();
                *ll = zeroed();
                ll.sll_family = libc::AF_PACKET as u16;
                ll.sll_protocol = protocol;
                ll.sll_ifindex = index;
                *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                Ok(())
            })
        }
        .unwrap();
        socket.bind(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (sender, frames) = unbounded_channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !sender.is_closed() {
                // SAFETY: the pointer and the length are those of a live array.
                let length =
                    unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
                if let Ok(length) = usize::try_from(length) {
                    drop(sender.send((Instant::now(), buffer[..length].to_vec())));
                }
            }
        });
        Self { frames }
    }

    pub async fn next(&mut self) -> (Instant, Vec<u8>) {
        self.frames.recv().await.expect("the tap lives as long as its receiver")
    }

    /// When the next announcement arrives.
    pub async fn announcement(&mut self) -> Instant {
        loop {
            let (at, frame) = self.next().await;
            if announced(&frame).is_some() {
                return at;
            }
        }
    }
}

pub fn index_of(interface: &str) -> i32 {
    let all = ip_json(&format!("link show dev {interface}"));
    i32::try_from(all[0]["ifindex"].as_i64().unwrap()).unwrap()
}

/// The address that a frame announces: ARP about oneself, or an unsolicited advertisement.
pub fn announced(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x06] => {
            let (sender, target) = (frame.get(28..32)?, frame.get(38..42)?);
            let ip: [u8; 4] = sender.try_into().ok()?;
            (sender == target && frame[..6] == [0xff; 6]).then(|| ip.into())
        }
        [0x86, 0xdd] if frame.get(20) == Some(&58) && frame.get(54) == Some(&136) => {
            let ip: [u8; 16] = frame.get(62..78)?.try_into().ok()?;
            Some(Ipv6Addr::from(ip).into())
        }
        _ => None,
    }
}
