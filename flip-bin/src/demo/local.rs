//! Without root: the same daemons on loopback, with items in memory.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use flip_core::event::ItemState;
use flip_core::status::{MemberState, Status};
use flip_tests::local::Local;
use rustix::process::Signal;
use serde_json::{Map, Value};

use super::{LIMIT, show, span, tell};

pub fn run(binary: &Path, profile: &str) -> anyhow::Result<()> {
    tell(&format!(
        "Not root: three servers on loopback, two of them with items in memory, profile {profile}. As root, \
         the demo moves real addresses."
    ))?;
    let mut extra = Map::new();
    extra.insert("profile".to_owned(), Value::from(profile));
    let mut local = Local::prepare(binary, 3, 1, &["one", "two"], extra)?;
    for n in 0..3 {
        local.start(n)?;
    }
    let watch = local.watch(2)?;
    show(&watch.until(LIMIT, Status::healthy)?)?;

    tell("a is killed; the kernel of its host says that nobody listens there any more.")?;
    let killed = Instant::now();
    local.kill(0)?;
    let during = watch.until(LIMIT, |status| status.members[0].state != MemberState::Up)?;
    show(&during)?;
    tell("The others agree that a is down, and its item moves.")?;
    let after = watch.until(LIMIT, |status| holds(status, "b"))?;
    let moved = killed.elapsed();
    show(&after)?;

    tell("a is back, and takes back what is its own.")?;
    local.start(0)?;
    show(&watch.until(LIMIT, |status| status.healthy() && holds(status, "a"))?)?;

    tell("a is asked to stop (SIGTERM): it says goodbye, and nobody waits.")?;
    let asked = Instant::now();
    local.signal(0, Signal::TERM)?;
    let after = watch.until(LIMIT, |status| holds(status, "b"))?;
    let left = asked.elapsed();
    let status = local.wait(0)?;
    show(&after)?;

    tell("How long until the arbiter saw the item on b:")?;
    writeln!(
        std::io::stdout(),
        "\n    killed   {}\n    SIGTERM  {}   (a ended with {status})",
        span(moved),
        span(left)
    )?;
    drop((watch, local));
    tell("Everything is cleaned up.")?;
    Ok(())
}

/// Whether the item of `a` is held by this server alone.
fn holds(status: &Status, server: &str) -> bool {
    matches!(&status.items[0].holders[..], [one] if one.server == server && one.state == ItemState::Active)
}
