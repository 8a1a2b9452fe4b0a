//! Processes: no shell, a group of their own, and an end.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::group::Group;
use crate::lua::limits;

/// How long the outputs of a process that ended may stay open in what it left running.
const LINGER: Duration = Duration::from_millis(200);

/// What is to be run.
pub(in crate::lua) struct Run {
    pub(in crate::lua) command: OsString,
    pub(in crate::lua) args: Vec<OsString>,
    pub(in crate::lua) env: Vec<(OsString, OsString)>,
    pub(in crate::lua) stdin: Option<Vec<u8>>,
    pub(in crate::lua) timeout: Duration,
}

/// How it ended. A process that a signal ended has 128 and the signal as its code, as in a shell.
#[derive(Debug)]
pub(in crate::lua) struct Ended {
    pub(in crate::lua) code: i32,
    pub(in crate::lua) stdout: Vec<u8>,
    pub(in crate::lua) stderr: Vec<u8>,
}

/// Runs a process to its end. Dropping the future ends the process and all that it started.
pub(in crate::lua) async fn run(run: Run) -> Result<Ended, String> {
    let name = run.command.to_string_lossy().into_owned();
    let mut child = Command::new(&run.command)
        .args(&run.args)
        .envs(run.env)
        .process_group(0)
        .kill_on_drop(true)
        .stdin(if run.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("exec: cannot run {name}: {error}"))?;
    let mut group = Group::of(&child);
    let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let work = async {
        let write = async {
            if let (Some(mut stdin), Some(data)) = (stdin, run.stdin) {
                // A process need not read what it is given.
                let _ = stdin.write_all(&data).await;
            }
            std::future::pending::<()>().await;
        };
        let read = async { tokio::try_join!(take(out, &mut stdout), take(err, &mut stderr)) };
        tokio::pin!(read);
        let status = tokio::select! {
            () = write => None,
            read = &mut read => {
                read?;
                Some(child.wait().await)
            }
            status = child.wait() => {
                group.reaped();
                // What it left running may hold the outputs open.
                if let Ok(read) = tokio::time::timeout(LINGER, read).await {
                    read?;
                }
                Some(status)
            }
        };
        match status {
            Some(Ok(status)) => Ok(status),
            Some(Err(error)) => Err(format!("cannot wait for it: {error}")),
            // The writer never ends.
            None => Err("it vanished".to_owned()),
        }
    };
    let status = match tokio::time::timeout(run.timeout, work).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(format!("exec: {name}: {error}")),
        Err(_) => return Err(format!("exec: {name} took longer than {:?} and was ended", run.timeout)),
    };
    group.reaped();
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(Ended { code, stdout, stderr })
}

async fn take(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), String> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = [0; 8192];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(read) if into.len() + read > limits::TEXT => {
                return Err(format!("its output is longer than {} bytes", limits::TEXT));
            }
            Ok(read) => into.extend_from_slice(&buffer[..read]),
            Err(error) => return Err(format!("cannot read its output: {error}")),
        }
    }
}
