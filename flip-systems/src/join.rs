//! Brings a server's wish to join to a member of the cluster, and its catalog back.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use flip_core::catalog::Catalog;
use flip_core::config::Config;
use flip_core::join::{Joiner, Next, NoAnswer};
use serde_json::{Map, Value};
use tokio::time::sleep;

use crate::{entropy, stream};

/// Pause before the same question again, while an edit is being made.
const SOON: Duration = Duration::from_millis(50);
/// Pause before another attempt.
const LATER: Duration = Duration::from_secs(1);

/// Has a server taken into a cluster by one of `members`, which are tried in turn, and gives the catalog with which
/// it is to start. `config` and `entry` are what its file says ([`flip_core::config::Joining`]). What time may mend is
/// tried again for so long; `told` hears why, once for each reason.
///
/// # Errors
/// One line for people: why it was not taken in.
pub async fn join(
    members: &[SocketAddr],
    config: &Config,
    entry: &Map<String, Value>,
    patience: Duration,
    mut told: impl FnMut(&str),
) -> Result<Catalog, String> {
    let end = Instant::now() + patience;
    let mut joiner = Joiner::new(config, entry, random()?);
    let mut last = String::new();
    for member in members.iter().cycle() {
        let why = match ask(*member, &mut joiner, end).await? {
            Ok(catalog) => return Ok(catalog),
            Err(why) => format!("{member}: {why}"),
        };
        if Instant::now() + LATER >= end {
            return Err(why);
        }
        if why != last {
            told(&why);
            last = why;
        }
        sleep(LATER).await;
        joiner.again(random()?);
    }
    Err("no address of a member was given".to_owned())
}

/// One attempt with one member. The inner error is what time, or another member, may mend.
async fn ask(
    member: SocketAddr,
    joiner: &mut Joiner,
    end: Instant,
) -> Result<Result<Catalog, String>, String> {
    loop {
        let answer = match stream::exchange(member, &joiner.question(random()?)).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Err(
                    "it closed the connection: `key` or `cluster_id` differs from its own, or it is of an \
                               older release"
                        .to_owned(),
                ));
            }
            Err(error) => return Ok(Err(format!("it does not answer: {error}"))),
        };
        match joiner.answer(&answer) {
            Ok(Next::Ask) => {}
            Ok(Next::Wait) if Instant::now() < end => sleep(SOON).await,
            Ok(Next::Wait) => return Ok(Err("it is still about to take this server in".to_owned())),
            Ok(Next::Refused { why, again: true }) => return Ok(Err(why)),
            Ok(Next::Refused { why, again: false }) => return Err(format!("{member}: {why}")),
            Ok(Next::Joined(catalog)) => return Ok(Ok(*catalog)),
            Err(NoAnswer) => return Ok(Err("it answered something else".to_owned())),
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    entropy(&mut bytes).map_err(|error| format!("cannot get random bytes: {error}"))?;
    Ok(bytes)
}
