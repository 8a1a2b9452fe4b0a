//! What a client of a virtual address sees, and where the address really is.
//!
//! [`Probe`] asks an address every millisecond or two who answers there; [`Holders`] notes every
//! change of the hosts' addresses. All times are [`Instant`]s, which is CLOCK_MONOTONIC.

mod holders;
mod report;
mod timeline;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use flip_systems::clock::raise_priority;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Lab, Who, wait_readable};
pub use holders::{Holders, wait_held};
use report::Sample;
pub use report::{Outage, Report, Service};
pub use timeline::{HoldersReport, Span};

/// Where the hosts answer.
const PORT: u16 = 7777;
/// How long answers are waited for after the last datagram.
const GRACE: Duration = Duration::from_millis(100);
/// Sequence number and token; an answer has the host's number as well.
const QUESTION: usize = 16;
const ANSWER: usize = QUESTION + 2;

/// Tells the probes of one process apart, should an answer of one find the socket of another.
static TOKENS: AtomicU64 = AtomicU64::new(1);

/// A client that asks a virtual address all the time, and something on every host that answers as
/// long as the address is there.
///
/// Asking and answering are done by real-time threads, so that what is measured is the cluster and
/// not the load of the machine; [`Report::late`] says how well that went.
pub struct Probe {
    stop: Arc<AtomicBool>,
    client: Option<JoinHandle<Report>>,
    responders: Vec<JoinHandle<()>>,
}

impl Probe {
    /// Starts asking `vip`, once in every `interval`.
    ///
    /// # Errors
    /// When sockets cannot be opened, or the interval is zero.
    pub fn start(lab: &Lab, vip: IpAddr, interval: Duration) -> anyhow::Result<Self> {
        ensure!(!interval.is_zero(), "a probe needs an interval");
        let token = TOKENS.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        // From here on an early return ends the threads that run already.
        let mut probe = Self { stop: Arc::clone(&stop), client: None, responders: Vec::new() };
        for host in 0..lab.hosts() {
            let socket = lab
                .enter(Who::Host(host), || responder(SocketAddr::new(vip, PORT)))?
                .with_context(|| format!("cannot answer at {vip} on host {host}"))?;
            let stop = Arc::clone(&stop);
            probe.responders.push(start_thread("probe-responder", move || answer(&socket, host, &stop))?);
        }
        let socket = lab.enter(Who::Client, || client(vip))?.context("cannot open the probe's socket")?;
        probe.client = Some(start_thread("probe-client", move || {
            Asking { socket, to: SocketAddr::new(vip, PORT), token }.run(interval, &stop)
        })?);
        Ok(probe)
    }

    /// The present, for questions to the report.
    #[must_use]
    pub fn mark(&self) -> Instant {
        Instant::now()
    }

    /// Waits a moment for late answers, and reports.
    ///
    /// # Errors
    /// When a thread of the probe died.
    pub fn stop(mut self) -> anyhow::Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let client = self.client.take().context("the probe has no client")?;
        client.join().ok().context("the probe's client died")
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(client) = self.client.take() {
            let _ = client.join();
        }
        for responder in self.responders.drain(..) {
            let _ = responder.join();
        }
    }
}

fn start_thread<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<JoinHandle<T>> {
    let run = move || {
        raise_priority();
        run()
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).context("cannot start a thread")
}

/// A socket at an address that need not be here; the answers come from it.
fn responder(at: SocketAddr) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
    }
    // Probes of the same address follow each other, and the one before may still be ending.
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.set_read_timeout(Some(GRACE / 2))?;
    Ok(socket)
}

fn client(vip: IpAddr) -> anyhow::Result<Socket> {
    let any: IpAddr = match vip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let at = SocketAddr::new(any, 0);
    // Not connected: ICMP errors would end up as errors of the next call.
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&at.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn answer(socket: &Socket, host: usize, stop: &AtomicBool) {
    let socket: std::net::UdpSocket = match socket.try_clone() {
        Ok(socket) => socket.into(),
        Err(_) => return,
    };
    let host = u16::try_from(host).unwrap_or(u16::MAX).to_be_bytes();
    let mut buffer = [0; ANSWER + 1];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((QUESTION, from)) = socket.recv_from(&mut buffer) {
            buffer[QUESTION..ANSWER].copy_from_slice(&host);
            // Fails when the address has just left.
            let _ = socket.send_to(&buffer[..ANSWER], from);
        }
    }
}

struct Asking {
    socket: Socket,
    to: SocketAddr,
    token: u64,
}

impl Asking {
    fn run(&self, interval: Duration, stop: &AtomicBool) -> Report {
        let mut report = Report::new(self.to.ip(), interval);
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= due {
                let late = now - due;
                report.late = report.late.max(late);
                self.ask(&mut report);
                // What was missed is not made up for by a burst; the schedule stays.
                let missed = (late.as_nanos() / interval.as_nanos()) as u32;
                report.skipped += u64::from(missed);
                due += interval * (missed + 1);
            }
            self.take_answers(&mut report);
            self.wait_until(due);
        }
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            self.wait_until(end);
            self.take_answers(&mut report);
        }
        report
    }

    fn ask(&self, report: &mut Report) {
        let mut question = [0; QUESTION];
        question[..8].copy_from_slice(&(report.samples.len() as u64).to_be_bytes());
        question[8..].copy_from_slice(&self.token.to_be_bytes());
        report.samples.push(Sample { sent: Instant::now(), answer: None });
        // A datagram that cannot be sent is one that is not answered.
        let _ = self.socket.send_to(&question, &self.to.into());
    }

    fn take_answers(&self, report: &mut Report) {
        let mut buffer = [0; ANSWER + 1];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], rustix::net::RecvFlags::DONTWAIT) {
                Ok((ANSWER, _)) => self.note(&buffer, report),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn note(&self, answer: &[u8; ANSWER + 1], report: &mut Report) {
        let at = Instant::now();
        let mut number = [0; 8];
        number.copy_from_slice(&answer[8..QUESTION]);
        if u64::from_be_bytes(number) != self.token {
            return;
        }
        number.copy_from_slice(&answer[..8]);
        let sequence = usize::try_from(u64::from_be_bytes(number)).unwrap_or(usize::MAX);
        let host = usize::from(u16::from_be_bytes([answer[QUESTION], answer[QUESTION + 1]]));
        match report.samples.get_mut(sequence) {
            Some(sample) if sample.answer.is_none() => sample.answer = Some((at, host)),
            Some(_) => report.repeated += 1,
            None => {}
        }
    }

    fn wait_until(&self, due: Instant) {
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            let _ = wait_readable(self.socket.as_fd(), left);
        }
    }
}
