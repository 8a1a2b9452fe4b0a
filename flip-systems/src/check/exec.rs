//! A program that ends with exit code 0.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::plain;
use crate::group::Group;

/// Most bytes of its output that are looked at for a reason.
const OUTPUT: usize = 4096;
/// How long to wait for output that is still in the pipe when the program has ended. Its children may keep
/// the pipe open for ever.
const DRAIN: Duration = Duration::from_millis(100);

/// Runs it without a shell, in a process group of its own.
pub(super) async fn run(
    command: &str,
    args: &[String],
    environment: &[(&'static str, String)],
) -> Result<(), String> {
    let mut child = Command::new(command)
        .args(args)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {command}: {}", plain(&error)))?;
    let mut stderr = child.stderr.take();
    let mut group = Group::of(&child);
    let mut output = Vec::new();
    let read = async {
        if let Some(pipe) = &mut stderr {
            let mut chunk = [0; 1024];
            // What cannot be read is no reason to fail a check.
            while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
                let room = OUTPUT.saturating_sub(output.len()).min(length);
                output.extend_from_slice(&chunk[..room]);
            }
        }
    };
    tokio::pin!(read);
    let mut reading = true;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = &mut read, if reading => reading = false,
        }
    };
    group.reaped();
    if reading {
        let _elapsed = tokio::time::timeout(DRAIN, &mut read).await;
    }
    let status = status.map_err(|error| format!("cannot wait for {command}: {}", plain(&error)))?;
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    let said = String::from_utf8_lossy(&output);
    match said.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => Err(format!("{command} {how}: {}", line.trim())),
        None => Err(format!("{command} {how}")),
    }
}
