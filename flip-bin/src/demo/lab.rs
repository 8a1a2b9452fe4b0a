//! With root: hosts in network namespaces, virtual IPs, and a client that pings one of them.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use flip_core::status::MemberState;
use flip_tests::cluster::{Cluster, ClusterSpec};
use flip_tests::lab::vip;
use flip_tests::probe::{Probe, Report, wait_held};

use super::{LIMIT, show, span, tell};

/// How often the client asks.
const EACH: Duration = Duration::from_millis(2);
/// How long the client goes on asking after an address has arrived.
const REST: Duration = Duration::from_millis(300);

pub fn run(binary: &Path, profile: &str) -> anyhow::Result<()> {
    tell(&format!("Three servers h0, h1 and h2 in network namespaces on one bridge, profile {profile}."))?;
    let mut cluster = Cluster::start(ClusterSpec::new(3, 2, profile), binary)?;
    cluster.wait_healthy(LIMIT)?;
    let (ip, holder) = (vip(0), 0);
    wait_held(cluster.lab(), ip, LIMIT, |hosts| hosts.iter().eq([&holder]))?;
    show(&cluster.status(2)?)?;
    let probe = Probe::start(cluster.lab(), ip, EACH)?;

    tell(&format!(
        "h{holder}, which holds {ip}, loses its power; a client asks {ip} every {} ms.",
        EACH.as_millis()
    ))?;
    let dead = probe.mark();
    // Stopped first: a daemon that lives a moment longer than its link lets go of what is on it.
    cluster.stop(holder)?;
    cluster.lab().unplug(holder)?;
    cluster.kill(holder)?;
    // Suspect, as a rule; when the last ballot arrives with this one's own, it is down at once.
    show(&cluster.wait_for(2, LIMIT, |status| status.members[holder].state != MemberState::Up)?)?;
    tell(&format!("The others agree that h{holder} is down, and {ip} moves."))?;
    cluster.wait_settled(LIMIT)?;
    show(&cluster.status(2)?)?;
    std::thread::sleep(REST);

    tell(&format!("h{holder} has power again, and takes back what is its own."))?;
    let back = probe.mark();
    // What a host holds does not survive its power.
    cluster.lab().delete_address(flip_tests::lab::Who::Host(holder), ip)?;
    cluster.lab().plug(holder)?;
    cluster.restart(holder)?;
    home(&cluster, ip, holder)?;

    tell(&format!("h{holder} is asked to stop (SIGTERM): it says goodbye, and nobody waits."))?;
    let term = probe.mark();
    cluster.term(holder)?;
    let status = cluster.wait_exit(holder, LIMIT)?;
    cluster.wait_settled(LIMIT)?;
    show(&cluster.status(2)?)?;
    std::thread::sleep(REST);
    let end = probe.mark();

    let seen = probe.stop()?;
    tell("What the client saw:")?;
    let mut out = std::io::stdout();
    writeln!(out)?;
    for (what, from, to) in [("power lost", dead, back), ("power back", back, term), ("SIGTERM", term, end)] {
        writeln!(
            out,
            "    {what:10}  no answer for {:>8}   ({})",
            span(seen.outage(from, to)),
            served(&seen, from, to)
        )?;
    }
    writeln!(
        out,
        "\n    {} datagrams sent, {} answered; h{holder} ended with {status}",
        seen.sent(),
        seen.answered()
    )?;
    drop(cluster);
    tell("Everything is cleaned up. This was `flip demo`; `flip demo --profile turbo` is faster.")?;
    Ok(())
}

fn home(cluster: &Cluster, ip: IpAddr, holder: usize) -> anyhow::Result<()> {
    cluster.wait_healthy(LIMIT)?;
    wait_held(cluster.lab(), ip, LIMIT, |hosts| hosts.iter().eq([&holder]))
        .context("waiting for the return")?;
    show(&cluster.status(2)?)?;
    std::thread::sleep(REST);
    Ok(())
}

fn served(seen: &Report, from: Instant, to: Instant) -> String {
    let hosts: Vec<_> =
        seen.answered_by(from, to).iter().map(|service| format!("h{}", service.host)).collect();
    format!("answered by {}", hosts.join(", then "))
}
