//! examples/vip with real daemons, on the hosts of a lab: groups, links of their own, routes and rules.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use flip_core::status::Status;
use flip_tests::lab::{Lab, Process, Who, root_or_skip};

/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(30);
const IDS: [&str; 3] = ["web1", "web2", "web3"];

fn flip() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flip"))
}

fn page(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/vip").join(file)
}

/// What `ip` prints on a host.
fn ip(lab: &Lab, host: usize, arguments: &str) -> String {
    let output = lab
        .enter(Who::Host(host), || {
            std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap()
        })
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

struct Example {
    lab: Lab,
    dir: tempfile::TempDir,
    daemons: Vec<Process>,
}

impl Example {
    fn start() -> Self {
        let lab = Lab::new(3).unwrap();
        for host in 0..3 {
            ip(&lab, host, &format!("addr add 10.0.0.{}/24 dev eth0", host + 1));
            // The world, which is not there.
            ip(&lab, host, "link add wan type veth peer name world");
            ip(&lab, host, "link set wan up");
            ip(&lab, host, "link set world up");
        }
        let mut example = Self { lab, dir: tempfile::tempdir().unwrap(), daemons: Vec::new() };
        for (host, id) in IDS.into_iter().enumerate() {
            let mut flip = example.lab.command(Who::Host(host), flip().to_str().unwrap()).unwrap();
            flip.arg("--config").arg(page("cluster.json")).args(["--id", id, "--state-dir"]);
            flip.arg(example.dir.path()).stderr(Stdio::null());
            let daemon = example.lab.spawn(flip).unwrap();
            example.daemons.push(daemon);
        }
        example
    }

    fn status(&self, host: usize) -> Option<Status> {
        let mut status = std::process::Command::new(flip());
        status.args(["status", "--json", "--id", IDS[host], "--state-dir"]).arg(self.dir.path());
        serde_json::from_slice(&status.output().unwrap().stdout).ok()
    }

    /// Waits until a host's status says something, and returns it.
    fn wait<T>(&self, host: usize, what: &str, says: impl Fn(&Status) -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        let mut last = None;
        while Instant::now() < end {
            last = self.status(host);
            if let Some(said) = last.as_ref().and_then(&says) {
                return said;
            }
        }
        panic!("{what}: {last:#?}");
    }

    fn addresses(&self, host: usize) -> String {
        ip(&self.lab, host, "-br address")
    }
}

/// The items as `expected.txt` has them.
fn table(status: &Status) -> String {
    let mut table = String::new();
    for item in &status.items {
        for holder in &item.holders {
            let state = format!("{:?}", holder.state).to_lowercase();
            table += &format!("{} {} {} {} {state}\n", item.system, item.item, item.isolated, holder.server);
        }
    }
    table
}

const SHOP: [&str; 3] = ["203.0.113.9/24", "2001:db8::9/64", "10.0.0.10/32"];

#[test]
fn the_vip_example_does_what_its_page_says() {
    if !root_or_skip("the_vip_example_does_what_its_page_says") {
        return;
    }
    let example = Example::start();
    let expected = std::fs::read_to_string(page("expected.txt")).unwrap();
    example.wait(0, &expected, |status| (table(status) == expected).then_some(()));

    for (host, there) in
        [(0, &["10.0.0.9/32", "10.0.0.12/32"][..]), (1, &SHOP[..]), (2, &["10.0.0.11/32"][..])]
    {
        let addresses = example.addresses(host);
        assert!(there.iter().all(|address| addresses.contains(address)), "host {host}: {addresses}");
    }
    let on_wan = ip(&example.lab, 1, "address show dev wan");
    assert!(on_wan.contains(SHOP[0]) && on_wan.contains(SHOP[1]) && !on_wan.contains(SHOP[2]), "{on_wan}");
    assert!(ip(&example.lab, 2, "-d link show type macvlan").contains("00:00:5e:00:01:07"));
    assert!(ip(&example.lab, 0, "rule").contains("from 10.0.0.12 lookup 100"));
    assert!(ip(&example.lab, 0, "route show table 100").contains("via 10.0.0.254"));

    // The plug: all of the group is on another, and on one.
    example.lab.cut(1).unwrap();
    let holder = example.wait(0, "shop is elsewhere", |status| {
        let shop = status.items.iter().find(|item| item.item == "shop")?;
        let active = |holder: &&flip_core::status::HolderStatus| {
            holder.state == flip_core::event::ItemState::Active && holder.server != "web2"
        };
        shop.holders.iter().find(active).and_then(|holder| IDS.iter().position(|id| *id == holder.server))
    });
    let has = |host: usize, address: &&&str| example.addresses(host).contains(**address);
    assert_eq!(
        SHOP.iter().filter(|address| has(holder, address)).count(),
        3,
        "{}",
        example.addresses(holder)
    );
    let other = 2 - holder;
    assert_eq!(SHOP.iter().filter(|address| has(other, address)).count(), 0, "{}", example.addresses(other));

    // An interface of the group is switched off: it leaves whole.
    ip(&example.lab, holder, "link set wan down");
    example.wait(0, "shop moves on", |status| {
        let shop = status.items.iter().find(|item| item.item == "shop")?;
        shop.holders
            .iter()
            .any(|h| h.server == IDS[other] && h.state == flip_core::event::ItemState::Active)
            .then_some(())
    });
    assert_eq!(SHOP.iter().filter(|address| has(other, address)).count(), 3);
    assert_eq!(
        SHOP.iter().filter(|address| has(holder, address)).count(),
        0,
        "{}",
        example.addresses(holder)
    );
}
