//! The lab, tested by itself: what it builds, what its faults do, and that nothing is left of it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use flip_tests::lab::{self, Lab, Who, host_ip, host_ip6, root_or_skip, vip, vip6};
use flip_tests::probe::{Holders, Probe};

const PORT: u16 = 9000;
/// Far more than a datagram needs through a bridge; silence is waited for this long.
const QUIET: Duration = Duration::from_millis(30);
/// What a busy machine may make of it.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn everybody_reaches_everybody() {
    if !root_or_skip("everybody_reaches_everybody") {
        return;
    }
    let lab = Lab::new(3).unwrap();
    for v6 in [false, true] {
        let ends = Ends::open(&lab, v6);
        for from in ends.all() {
            for to in ends.all().filter(|to| *to != from) {
                assert!(ends.hears(from, to), "{from:?} to {to:?}, v6 = {v6}");
            }
        }
    }
    let traffic = lab.traffic(Who::Client).unwrap();
    assert!(traffic.packets_in >= 6 && traffic.bytes_out >= 6 * 42, "{traffic:?}");
    assert!(lab.traffic(Who::Bridge).unwrap().packets_out > traffic.packets_in);
}

#[test]
fn a_cut_is_silence_both_ways_until_it_heals() {
    if !root_or_skip("a_cut_is_silence_both_ways_until_it_heals") {
        return;
    }
    let lab = Lab::new(3).unwrap();
    let ends = Ends::open(&lab, false);
    ends.meet();
    lab.cut(1).unwrap();
    for other in [Who::Host(0), Who::Host(2), Who::Client] {
        assert!(ends.misses(other, Who::Host(1)));
        assert!(ends.misses(Who::Host(1), other));
    }
    assert!(ends.hears(Who::Host(0), Who::Host(2)) && ends.hears(Who::Client, Who::Host(0)));
    assert!(lab.carrier(Who::Host(1)).unwrap());
    lab.heal().unwrap();
    ends.all_hear();
    lab.unplug(1).unwrap();
    assert!(!lab.carrier(Who::Host(1)).unwrap());
    lab.plug(1).unwrap();
    assert!(lab.carrier(Who::Host(1)).unwrap());
}

#[test]
fn one_way_is_one_way() {
    if !root_or_skip("one_way_is_one_way") {
        return;
    }
    let lab = Lab::new(2).unwrap();
    let ends = Ends::open(&lab, false);
    ends.meet();
    lab.cut_one_way(Who::Host(0), Who::Host(1)).unwrap();
    assert!(ends.misses(Who::Host(0), Who::Host(1)));
    assert!(ends.hears(Who::Host(1), Who::Host(0)));
    assert!(ends.hears(Who::Host(0), Who::Client) && ends.hears(Who::Client, Who::Host(1)));
    lab.mend(1).unwrap();
    ends.all_hear();
}

#[test]
fn the_deaf_can_speak() {
    if !root_or_skip("the_deaf_can_speak") {
        return;
    }
    let lab = Lab::new(3).unwrap();
    let ends = Ends::open(&lab, false);
    ends.meet();
    lab.deafen(2).unwrap();
    for other in [Who::Host(0), Who::Host(1), Who::Client] {
        assert!(ends.misses(other, Who::Host(2)));
        assert!(ends.hears(Who::Host(2), other));
    }
    lab.mend(2).unwrap();
    ends.all_hear();
}

#[test]
fn a_partition_has_sides() {
    if !root_or_skip("a_partition_has_sides") {
        return;
    }
    let lab = Lab::new(5).unwrap();
    let ends = Ends::open(&lab, false);
    ends.meet();
    lab.partition(&[&[0, 1], &[2, 3]], 1).unwrap();
    let side = |who: Who| match who {
        Who::Host(0 | 1) => 0,
        Who::Host(2 | 3) | Who::Client => 1,
        Who::Host(_) | Who::Bridge => 2,
    };
    for from in ends.all() {
        for to in ends.all().filter(|to| *to != from) {
            let expected = side(from) == side(to);
            assert!(
                if expected { ends.hears(from, to) } else { ends.misses(from, to) },
                "{from:?} to {to:?}"
            );
        }
    }
    assert!(lab.partition(&[&[0, 7]], 0).is_err() && lab.partition(&[&[0]], 1).is_err());
    lab.heal().unwrap();
    ends.all_hear();
}

#[test]
fn loss_is_as_large_as_asked_for() {
    if !root_or_skip("loss_is_as_large_as_asked_for") {
        return;
    }
    const COUNT: usize = 2000;
    let lab = Lab::new(2).unwrap();
    let ends = Ends::open(&lab, false);
    ends.meet();
    let lost = |from, to| {
        (0..COUNT).for_each(|_| ends.send(from, to));
        COUNT - ends.drain(to)
    };
    lab.loss(40).unwrap();
    for (from, to) in [(Who::Host(0), Who::Host(1)), (Who::Client, Who::Host(0))] {
        let lost = lost(from, to);
        assert!((COUNT * 30 / 100..=COUNT * 50 / 100).contains(&lost), "{lost} of {COUNT}");
    }
    lab.loss(0).unwrap();
    lab.host_loss(40).unwrap();
    assert_eq!(lost(Who::Client, Who::Host(0)), 0);
    assert!((COUNT * 30 / 100..=COUNT * 50 / 100).contains(&lost(Who::Host(1), Who::Host(0))));
    lab.heal().unwrap();
    assert_eq!(lost(Who::Host(1), Who::Host(0)), 0);
}

#[test]
fn a_probe_sees_an_address_move() {
    if !root_or_skip("a_probe_sees_an_address_move") {
        return;
    }
    let gap = Duration::from_millis(40);
    let lab = Lab::new(2).unwrap();
    for vip in [vip(0), vip6(0)] {
        lab.add_address(Who::Host(0), vip).unwrap();
        let probe = Probe::start(&lab, vip, Duration::from_millis(1)).unwrap();
        std::thread::sleep(2 * gap);
        let quiet = probe.mark();
        lab.delete_address(Who::Host(0), vip).unwrap();
        let gone = probe.mark();
        std::thread::sleep(gap);
        lab.add_address(Who::Host(1), vip).unwrap();
        lab.forget_neighbour(Who::Client, vip).unwrap();
        let back = probe.mark();
        std::thread::sleep(2 * gap);
        let end = probe.mark();
        let report = probe.stop().unwrap();

        let outage = report.outage_since(gone);
        println!(
            "{vip}: {outage:?}, known to {:?}, lost {} of {}",
            report.late(),
            report.lost(),
            report.sent()
        );
        // A machine that stood still for a while has made it longer.
        let most = back - quiet + gap + 2 * report.late();
        assert!(outage >= gap && outage <= most, "{outage:?}, expected {gap:?} to {most:?}");
        // What was asked last may still be under way when the probe stops.
        let all = report.outages(quiet, end - gap);
        assert_eq!((all.len(), all[0].before, all[0].after), (1, Some(0), Some(1)), "{all:?}");
        assert!(report.lost() <= all[0].lost + 5, "{report:?}");
        let hosts: Vec<_> = report.answered_by(quiet - gap, end).iter().map(|s| s.host).collect();
        assert_eq!(hosts, [0, 1]);
        assert_eq!((report.vip(), report.repeated()), (vip, 0));
    }
}

#[test]
fn holders_are_counted() {
    if !root_or_skip("holders_are_counted") {
        return;
    }
    let pause = || std::thread::sleep(Duration::from_millis(40));
    let lab = Lab::new(3).unwrap();
    for vip in [vip(3), vip6(3)] {
        lab.add_address(Who::Host(0), vip).unwrap();
        let holders = Holders::start(&lab).unwrap();
        pause();
        let from = Instant::now();
        lab.delete_address(Who::Host(0), vip).unwrap();
        pause();
        let nobody = Instant::now();
        lab.add_address(Who::Host(1), vip).unwrap();
        pause();
        lab.add_address(Who::Host(2), vip).unwrap();
        let both = Instant::now();
        pause();
        lab.delete_address(Who::Host(1), vip).unwrap();
        pause();
        let to = Instant::now();
        let report = holders.stop().unwrap();

        assert_eq!(report.holders_at(vip, from), [0].into());
        assert_eq!(report.holders_at(vip, nobody), [].into());
        assert_eq!(report.holders_at(vip, both + Duration::from_millis(35)), [1, 2].into());
        assert_eq!(report.holders_at(vip, to), [2].into());
        for spans in [report.unheld(vip, from, to), report.contested(vip, from, to)] {
            assert_eq!(spans.len(), 1, "{spans:?}");
            assert!(spans[0].length() >= Duration::from_millis(20), "{spans:?}");
        }
        assert_eq!(report.moves(vip), 2);
        assert!(report.without(&[1]).contested(vip, from, to).is_empty());
        assert!(report.unheld(lab::vip(9), from, to) == [flip_tests::probe::Span { from, to }]);
        lab.delete_address(Who::Host(2), vip).unwrap();
    }
}

#[test]
fn nothing_is_left_after_a_lab() {
    if !root_or_skip("nothing_is_left_after_a_lab") {
        return;
    }
    let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let lab = Lab::new(1).unwrap();
    let own = lab.enter(Who::Host(0), namespace).unwrap();
    assert_ne!(own, namespace());
    let mut command = lab.command(Who::Host(0), "sleep").unwrap();
    command.arg("1000");
    let mut sleep = lab.spawn(command).unwrap();
    let inside = std::fs::read_link(format!("/proc/{}/ns/net", sleep.pid())).unwrap();
    assert_eq!(inside, own);
    assert!(sleep.running() && lab::exists(sleep.pid()));
    assert!(sleep.rss().unwrap() > 0 && sleep.cpu().unwrap() < Duration::from_secs(1));
    let error = sleep.wait(Duration::from_millis(10)).unwrap_err();
    assert!(error.to_string().contains("did not end within"), "{error}");
    drop(lab);
    assert_eq!(sleep.wait(Duration::from_secs(5)).unwrap().signal(), Some(libc::SIGKILL));
    assert!(!lab::exists(sleep.pid()));
    let left = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    assert!(!left.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to == own));
}

/// A UDP socket in every place.
struct Ends {
    sockets: Vec<(Who, UdpSocket, SocketAddr)>,
}

impl Ends {
    fn open(lab: &Lab, v6: bool) -> Self {
        let places = (0..lab.hosts()).map(Who::Host).chain([Who::Client]);
        let sockets = places.map(|who| {
            let ip: IpAddr = if v6 { host_ip6(who).into() } else { host_ip(who).into() };
            let address = SocketAddr::new(ip, PORT);
            let socket = lab.enter(who, || UdpSocket::bind(address)).unwrap().unwrap();
            // Thousands of small datagrams wait in there until they are counted.
            socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20).unwrap();
            (who, socket, address)
        });
        Self { sockets: sockets.collect() }
    }

    fn all(&self) -> impl Iterator<Item = Who> {
        self.sockets.iter().map(|(who, _, _)| *who)
    }

    fn of(&self, who: Who) -> &(Who, UdpSocket, SocketAddr) {
        self.sockets.iter().find(|(w, _, _)| *w == who).unwrap()
    }

    /// Fills all neighbour caches, so that later silence is not that of address resolution.
    fn meet(&self) {
        self.all_hear();
    }

    fn all_hear(&self) {
        for from in self.all() {
            for to in self.all().filter(|to| *to != from) {
                assert!(self.hears(from, to), "{from:?} to {to:?}");
            }
        }
    }

    fn send(&self, from: Who, to: Who) {
        self.of(from).1.send_to(b"hello", self.of(to).2).unwrap();
    }

    /// Whether a datagram arrives at all.
    fn hears(&self, from: Who, to: Who) -> bool {
        self.send(from, to);
        self.receives(from, to, LIMIT)
    }

    /// Whether a datagram does not arrive.
    fn misses(&self, from: Who, to: Who) -> bool {
        self.send(from, to);
        !self.receives(from, to, QUIET)
    }

    fn receives(&self, from: Who, to: Who, limit: Duration) -> bool {
        let socket = &self.of(to).1;
        socket.set_read_timeout(Some(limit)).unwrap();
        loop {
            match socket.recv_from(&mut [0; 16]) {
                Ok((_, sender)) => {
                    assert_eq!(sender, self.of(from).2);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn drain(&self, at: Who) -> usize {
        let socket = &self.of(at).1;
        socket.set_read_timeout(Some(10 * QUIET)).unwrap();
        (0..).take_while(|_| socket.recv(&mut [0; 16]).is_ok()).count()
    }
}
