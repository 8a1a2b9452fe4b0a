//! What operators tell a cluster.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::cli::AskArgs;
use crate::daemon::socket::{self, Request, Wish};
use crate::status::ask;
use crate::{Failure, Outcome, paths};

/// Longer than the daemon waits for its own loop, so that it is the daemon who says so.
const LIMIT: Duration = Duration::from_secs(10);
const REFUSED: u8 = 1;
/// The exit code when there is no daemon.
pub const NO_DAEMON: u8 = 2;

/// Tells the daemon, and people what came of it.
pub fn wish(args: &AskArgs, what: impl FnOnce(&Path) -> anyhow::Result<Wish>) -> Outcome {
    let no_daemon = |error| Failure { code: NO_DAEMON, error };
    let socket = paths::find_socket(&args.state, args.id.as_deref()).map_err(no_daemon)?;
    let wish = what(&socket).map_err(no_daemon)?;
    let line = exchange(&socket, Request::Do(wish)).map_err(no_daemon)?;
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
    let stream = ask(socket, request)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    let read = read.with_context(|| format!("the daemon at {} does not answer", socket.display()))?;
    if read == 0 {
        anyhow::bail!("the daemon at {} ended before it answered", socket.display());
    }
    Ok(line)
}
