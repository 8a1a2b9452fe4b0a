//! `flip status`: asks a daemon and shows what it says.

mod table;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use flip_core::status::Status;

pub use table::{BOLD, Cell, RED, YELLOW, age, head, item_rows, member_row, painted, render, table};

use crate::Outcome;
use crate::cli::StatusArgs;
use crate::client::{Client, Error, parse};

pub fn run(args: &StatusArgs) -> Outcome {
    let client = Client::of(&args.daemon)?;
    if args.watch { watch(client, args) } else { once(&client, args) }
}

fn once(client: &Client, args: &StatusArgs) -> Outcome {
    let line = client.text("/v1/status")?;
    let status: Status = parse(&line)?;
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
fn watch(client: Client, args: &StatusArgs) -> Outcome {
    let inbox = client.statuses()?;
    let redraw = io::stdout().is_terminal() && !args.json;
    let mut shown: Option<(Status, Instant)> = None;
    loop {
        match inbox.recv_timeout(Duration::from_secs(1)) {
            // The reason of an end, after which there is nothing.
            Ok(event) if event.kind == "error" => {}
            Ok(event) => {
                let status = parse(&event.data)?;
                if args.json {
                    writeln!(io::stdout(), "{}", event.data)?;
                } else if !redraw {
                    writeln!(io::stdout(), "{}", render(&status, Duration::ZERO, colour()))?;
                }
                shown = Some((status, Instant::now()));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::NoDaemon(anyhow!("the daemon has ended, or its answer broke off")).into());
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

/// Whether standard output wants colours.
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
