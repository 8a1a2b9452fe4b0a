//! Questions to the daemon of this host: the one place that knows how they travel.

use std::io::{BufRead, BufReader};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::cli::AskArgs;
use crate::daemon::socket::{self, Request, Topic};
use crate::{Failure, Outcome, operate, paths, status};

pub use crate::daemon::socket::Question;
pub use crate::operate::NO_DAEMON;

/// Longer than the daemon waits for its own loop, so that it is the daemon who says so.
const LIMIT: Duration = Duration::from_secs(10);
const REFUSED: u8 = 1;
/// The exit code when what was asked for is open.
pub const UNDECIDED: u8 = 3;

fn no_daemon(error: anyhow::Error) -> Failure {
    Failure { code: NO_DAEMON, error }
}

fn request(question: &Question) -> Request {
    match question {
        Question::Status => Request::Get(Topic::Status),
        other => Request::Ask(other.clone()),
    }
}

/// One question, one line of JSON.
pub fn line(daemon: &AskArgs, question: &Question) -> Result<String, Failure> {
    let socket = paths::find_socket(&daemon.state, daemon.id.as_deref()).map_err(no_daemon)?;
    let line = operate::exchange(&socket, request(question)).map_err(no_daemon)?;
    refused(&line)?;
    Ok(line.trim_end().to_owned())
}

/// One question, lines of JSON until the daemon ends or `each` does.
pub fn stream(
    daemon: &AskArgs,
    question: &Question,
    mut each: impl FnMut(&str) -> anyhow::Result<()>,
) -> Outcome {
    let socket = paths::find_socket(&daemon.state, daemon.id.as_deref()).map_err(no_daemon)?;
    let stream = status::ask(&socket, request(question)).map_err(no_daemon)?;
    let follow = matches!(question, Question::Events { follow: true, .. });
    if !follow {
        stream.set_read_timeout(Some(LIMIT))?;
    }
    for line in BufReader::new(stream).lines() {
        let line = line.with_context(|| format!("the daemon at {} does not answer", socket.display()));
        let line = line.map_err(no_daemon)?;
        refused(&line)?;
        each(&line)?;
    }
    if follow {
        return Err(no_daemon(anyhow!("the daemon at {} has ended", socket.display())));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the daemon said why not.
fn refused(line: &str) -> Result<(), Failure> {
    match serde_json::from_str(line) {
        Ok(socket::Outcome::Error(why)) => Err(Failure { code: REFUSED, error: anyhow!(why) }),
        _ => Ok(()),
    }
}
