//! Where things are: the state dir, and in it one folder per server id.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::StateArgs;

/// The state dir of root.
const ROOT_STATE: &str = "/var/lib/flip";

/// The socket's name within a server's folder.
pub const SOCKET: &str = "flip.sock";

/// The state dir: from the command line, /var/lib/flip for root, else the user's.
pub fn state_dir(args: &StateArgs) -> anyhow::Result<PathBuf> {
    if let Some(dir) = &args.state_dir {
        return Ok(dir.clone());
    }
    if rustix::process::geteuid().is_root() {
        return Ok(ROOT_STATE.into());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match (absolute("XDG_STATE_HOME"), absolute("HOME")) {
        (Some(state), _) => Ok(state.join("flip")),
        (None, Some(home)) => Ok(home.join(".local/state/flip")),
        (None, None) => bail!("neither XDG_STATE_HOME nor HOME is set; name a folder with --state-dir"),
    }
}

/// The folder of one server.
pub fn server_dir(state_dir: &Path, id: &str) -> PathBuf {
    state_dir.join(file_name(id))
}

/// An id as a file name: ids may hold what a name may not.
fn file_name(id: &str) -> String {
    let mut name = String::new();
    for (at, byte) in id.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || (byte == b'.' && at > 0);
        if plain {
            name.push(byte.into());
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

/// The socket to ask: the one named, the one of the id named, or the only one there is.
pub fn find_socket(args: &StateArgs, id: Option<&str>) -> anyhow::Result<PathBuf> {
    if let Some(socket) = &args.socket {
        return Ok(socket.clone());
    }
    let dir = state_dir(args)?;
    if let Some(id) = id {
        return Ok(server_dir(&dir, id).join(SOCKET));
    }
    let entries = std::fs::read_dir(&dir).with_context(|| no_daemon(args, &dir))?;
    let mut found: Vec<_> =
        entries.flatten().map(|entry| entry.path().join(SOCKET)).filter(|path| path.exists()).collect();
    // A daemon that was killed leaves its socket behind; nobody answers there.
    if found.len() > 1 {
        found.retain(|path| std::os::unix::net::UnixStream::connect(path).is_ok());
    }
    found.sort();
    match found.as_slice() {
        [] => bail!("{}", no_daemon(args, &dir)),
        [one] => Ok(one.clone()),
        several => {
            let names: Vec<_> = several
                .iter()
                .filter_map(|path| Some(path.parent()?.file_name()?.to_string_lossy().into_owned()))
                .collect();
            bail!(
                "several daemons run with the state dir {}; choose with --id: {}",
                dir.display(),
                names.join(", ")
            )
        }
    }
}

fn no_daemon(args: &StateArgs, dir: &Path) -> String {
    let root = rustix::process::geteuid().is_root();
    let help = match args.state_dir {
        None if !root && Path::new(ROOT_STATE).exists() => "a daemon of root's is asked as root",
        _ => "start one with `flip --config FILE`, or name its socket with --socket",
    };
    format!("no daemon runs with the state dir {} ({help})", dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_names_that_stay_in_the_folder() {
        for (id, name) in [
            ("web1", "web1"),
            ("a.b", "a.b"),
            ("..", "%2E."),
            ("a/b", "a%2Fb"),
            ("ü", "%C3%BC"),
            (".x", "%2Ex"),
        ] {
            assert_eq!(file_name(id), name);
        }
    }
}
