//! `flip status`: asks the daemon of this host and shows what it says.

mod table;

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flip_core::status::Status;

pub use table::{BOLD, Cell, RED, YELLOW, age, head, item_rows, member_row, painted, render, table};

use crate::cli::StatusArgs;
use crate::daemon::socket::{Request, Topic};
use crate::{Failure, Outcome, paths};

/// How long the daemon may take to answer: its loop never waits for longer than a system call.
const LIMIT: Duration = Duration::from_secs(5);
const NO_DAEMON: u8 = 2;

pub fn run(args: &StatusArgs) -> Outcome {
    let no_daemon = |error| Failure { code: NO_DAEMON, error };
    let socket = paths::find_socket(&args.state, args.id.as_deref()).map_err(no_daemon)?;
    if args.watch { watch(&socket, args) } else { once(&socket, args) }
}

fn once(socket: &Path, args: &StatusArgs) -> Outcome {
    let no_daemon = |error| Failure { code: NO_DAEMON, error };
    let stream = ask(socket, Request::Get(Topic::Status)).map_err(no_daemon)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .with_context(|| format!("the daemon at {} does not answer", socket.display()))
        .map_err(no_daemon)?;
    let status = parse(&line).map_err(no_daemon)?;
    let mut out = io::stdout().lock();
    if args.vippy {
        out.write_all(crate::see::vippy::render(&status).as_bytes())?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        out.write_all(line.as_bytes())?;
    } else {
        out.write_all(render(&status, Duration::ZERO, colour()).as_bytes())?;
    }
    out.flush()?;
    Ok(ExitCode::from(u8::from(!status.healthy())))
}

/// Shows every change. On a terminal the table is redrawn in place, each second too because ages grow.
fn watch(socket: &Path, args: &StatusArgs) -> Outcome {
    let no_daemon = |error| Failure { code: NO_DAEMON, error };
    let stream = ask(socket, Request::Watch(Topic::Status)).map_err(no_daemon)?;
    let (lines, inbox) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    let redraw = io::stdout().is_terminal() && !args.json;
    let mut shown: Option<(Status, Instant)> = None;
    loop {
        match inbox.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                let status = parse(&line).map_err(no_daemon)?;
                if args.json {
                    writeln!(io::stdout(), "{line}")?;
                } else if !redraw {
                    writeln!(io::stdout(), "{}", render(&status, Duration::ZERO, colour()))?;
                }
                shown = Some((status, Instant::now()));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(no_daemon(anyhow::anyhow!("the daemon at {} has ended", socket.display())));
            }
        }
        if let (true, Some((status, at))) = (redraw, &shown) {
            // Home, the table, and nothing left of a longer one.
            let table = render(status, at.elapsed(), colour()).replace('\n', "\x1b[K\n");
            write!(io::stdout(), "\x1b[H{table}\x1b[J")?;
            io::stdout().flush()?;
        }
    }
}

/// Puts one question to the daemon.
pub fn ask(socket: &Path, request: Request) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        let help = match socket.exists() {
            true if socket.metadata().is_ok() => "the daemon that made it has ended, or you may not ask it",
            _ => "start one with `flip --config FILE`, or name its socket with --socket",
        };
        format!("no daemon at {} ({help})", socket.display())
    })?;
    let line = serde_json::to_string(&request)?;
    writeln!(stream, "{line}").with_context(|| format!("cannot ask the daemon at {}", socket.display()))?;
    Ok(stream)
}

/// A status that a daemon told.
pub fn parse(line: &str) -> anyhow::Result<Status> {
    if line.is_empty() {
        bail!("the daemon ended before it answered");
    }
    serde_json::from_str(line).context("the daemon speaks another version of flip")
}

/// Whether standard output wants colours.
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
