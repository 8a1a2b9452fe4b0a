//! What operators tell a cluster: `flip drain`, `flip undrain`, `flip confirm-released`, `flip retry`, `flip reload`,
//! `flip announce`.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::cli::{AnnounceArgs, AskArgs, ItemArgs, ServerArgs};
use crate::daemon::socket::{self, Request, Topic, Wish};
use crate::status::{ask, parse};
use crate::{Failure, Outcome, paths};

/// Longer than the daemon waits for its own loop, so that it is the daemon who says so.
const LIMIT: Duration = Duration::from_secs(10);
/// Longer than the daemon gives its plugins to stop and to start.
const RELOAD: Duration = Duration::from_secs(90);
const REFUSED: u8 = 1;
/// The exit code when there is no daemon.
pub const NO_DAEMON: u8 = 2;

pub fn drain(args: ServerArgs) -> Outcome {
    server(args, Wish::Drain)
}

pub fn undrain(args: ServerArgs) -> Outcome {
    server(args, Wish::Undrain)
}

pub fn confirm_released(args: ItemArgs) -> Outcome {
    wish(&args.daemon, |_| Ok(Wish::ConfirmReleased(args.item)))
}

pub fn retry(args: ItemArgs) -> Outcome {
    wish(&args.daemon, |_| Ok(Wish::Retry(args.item)))
}

pub fn reload(args: &AskArgs) -> Outcome {
    ask_for(args, RELOAD, |_| Ok(Wish::Reload))
}

pub fn announce(args: AnnounceArgs) -> Outcome {
    wish(&args.daemon, |_| Ok(Wish::Announce(args.item)))
}

fn server(args: ServerArgs, what: fn(String) -> Wish) -> Outcome {
    wish(&args.daemon, |socket| {
        Ok(what(match args.server {
            Some(server) => server,
            None => parse(&exchange(socket, Request::Get(Topic::Status))?)?.node,
        }))
    })
}

/// Tells the daemon, and people what came of it.
pub fn wish(args: &AskArgs, what: impl FnOnce(&Path) -> anyhow::Result<Wish>) -> Outcome {
    ask_for(args, LIMIT, what)
}

fn ask_for(args: &AskArgs, limit: Duration, what: impl FnOnce(&Path) -> anyhow::Result<Wish>) -> Outcome {
    let no_daemon = |error| Failure { code: NO_DAEMON, error };
    let socket = paths::find_socket(&args.state, args.id.as_deref()).map_err(no_daemon)?;
    let wish = what(&socket).map_err(no_daemon)?;
    let line = exchange_within(&socket, Request::Do(wish), limit).map_err(no_daemon)?;
    let outcome = serde_json::from_str(&line).context("the daemon speaks another version of flip");
    match outcome.map_err(no_daemon)? {
        socket::Outcome::Done(done) => {
            writeln!(io::stdout(), "{done}")?;
            Ok(ExitCode::SUCCESS)
        }
        socket::Outcome::Error(why) => Err(Failure { code: REFUSED, error: anyhow::anyhow!(why) }),
    }
}

/// One question, one line.
pub fn exchange(socket: &Path, request: Request) -> anyhow::Result<String> {
    exchange_within(socket, request, LIMIT)
}

fn exchange_within(socket: &Path, request: Request, limit: Duration) -> anyhow::Result<String> {
    let stream = ask(socket, request)?;
    stream.set_read_timeout(Some(limit))?;
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    let read = read.with_context(|| format!("the daemon at {} does not answer", socket.display()))?;
    if read == 0 {
        anyhow::bail!("the daemon at {} ended before it answered", socket.display());
    }
    Ok(line)
}
