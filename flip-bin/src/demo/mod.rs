//! `flip demo`: a small cluster on this machine, a server that dies, and what anybody sees of it.

mod lab;
mod local;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use flip_core::status::Status;

use crate::Outcome;
use crate::cli::DemoArgs;
use crate::status::render;

/// For everything that is awaited: far more than it takes.
const LIMIT: Duration = Duration::from_secs(15);

pub fn run(args: &DemoArgs) -> Outcome {
    let binary = std::env::current_exe()?;
    if rustix::process::geteuid().is_root() {
        lab::run(&binary, &args.profile)?;
    } else {
        local::run(&binary, &args.profile)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of the story.
fn tell(text: &str) -> io::Result<()> {
    let bold = io::stdout().is_terminal();
    let (on, off) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    writeln!(io::stdout(), "\n{on}==> {text}{off}")
}

/// What one server sees, indented.
fn show(status: &Status) -> io::Result<()> {
    let table = render(status, Duration::ZERO, crate::status::colour());
    writeln!(io::stdout())?;
    for line in table.lines() {
        let line = if line.is_empty() { String::new() } else { format!("    {line}") };
        writeln!(io::stdout(), "{line}")?;
    }
    io::stdout().flush()
}

/// A time for people: milliseconds where they matter.
fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}
