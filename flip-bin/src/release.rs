//! `flip release`: removes what a daemon left on this host that is no more.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use flip_systems::ip;
use rustix::fs::{FlockOperation, flock};

use crate::cli::{ConfigArgs, ReleaseArgs};
use crate::config::{self, Refused};
use crate::{Failure, Outcome, paths};

/// Something could not be removed.
const LEFT: u8 = 1;
/// A daemon runs.
const RUNS: u8 = 3;

pub fn run(args: &ReleaseArgs) -> Outcome {
    let state_dir = paths::state_dir(&args.state)?;
    let mut siblings = None;
    let mut dirs = None;
    if let Some(file) = &args.config {
        match config::read_any(&ConfigArgs { config: file.clone(), id: args.id.clone() }) {
            Ok(read) => {
                siblings = Some(read.config.siblings());
                dirs = Some(vec![paths::server_dir(&state_dir, &read.config.my().id)]);
            }
            // A daemon is dead, and what it left may be on another host as well: that cannot wait until
            // somebody has mended the config. No daemon runs with it either.
            Err(Refused(text)) => {
                writeln!(io::stderr(), "{text}")?;
                writeln!(
                    io::stderr(),
                    "warning: the config cannot be used: releasing for every daemon of flip"
                )?;
            }
        }
    }
    let dirs = dirs.unwrap_or_else(|| every_server(&state_dir));
    // No daemon starts before this ends.
    let mut locks = Vec::new();
    if !args.force {
        for dir in &dirs {
            locks.extend(lock(dir)?);
        }
        if let Some(socket) = args.state.socket.as_deref().filter(|socket| answers(socket)) {
            return Err(runs(&format!("a daemon answers at {}", socket.display())));
        }
    }
    let found = ip::release(siblings).context("cannot list the addresses of this host")?;
    let mut out = io::stdout().lock();
    let mut left = 0;
    for removed in &found {
        match &removed.error {
            None => writeln!(out, "removed {}", removed.what)?,
            Some(error) => {
                left += 1;
                writeln!(io::stderr(), "error: cannot remove {}: {}", removed.what, explain(error))?;
            }
        }
    }
    if found.is_empty() {
        writeln!(out, "no address of flip is on this host")?;
    }
    drop(locks);
    Ok(ExitCode::from(if left > 0 { LEFT } else { 0 }))
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "CAP_NET_ADMIN is missing: run this as root".to_owned(),
        _ => error.to_string(),
    }
}

fn runs(what: &str) -> Failure {
    let help = "stop it, which releases all items, or use --force";
    Failure { code: RUNS, error: anyhow!("{what}: {help}") }
}

/// The folders of all servers whose daemons ever used this state dir.
fn every_server(state_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state_dir).into_iter().flatten().flatten();
    let mut dirs: Vec<_> =
        entries.map(|entry| entry.path()).filter(|dir| dir.join("lock").exists()).collect();
    dirs.sort();
    dirs
}

/// The lock of a server's folder, which a daemon holds as long as it lives: also one that is stopped, and answers
/// nobody.
fn lock(dir: &Path) -> Result<Option<File>, Failure> {
    let path = dir.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        // No daemon has ever run here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(anyhow!(error).context(format!("cannot open {}", path.display())).into()),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            Err(runs(&format!("a daemon (process {}) runs with the state dir {}", pid.trim(), dir.display())))
        }
        Err(error) => Err(anyhow!(error).context(format!("cannot lock {}", path.display())).into()),
    }
}

fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}
