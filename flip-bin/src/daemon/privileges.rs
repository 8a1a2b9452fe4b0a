//! Becoming who the config wants the daemon to be, before anything else is begun.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::Path;

use anyhow::Context;
use flip_core::config::Config;
use flip_core::config::privileges::Plan;
use flip_core::status::PrivilegeStatus;
use flip_systems::privileges::{self, Held, Identity};
use rustix::process::geteuid;

/// Gives up what `config` does not need. `dirs` are the state dir and this server's folder in it, which whoever
/// the daemon becomes must be able to use.
pub fn give_up(config: &Config, dirs: [&Path; 2]) -> anyhow::Result<PrivilegeStatus> {
    let plan = config.privilege_plan();
    let identity = prepare(&plan, dirs)?;
    privileges::give_up(&plan, identity.as_ref())?;
    Ok(status(&plan, privileges::held()?))
}

/// Makes the folders as whoever the daemon becomes needs them.
pub fn prepare(plan: &Plan, dirs: [&Path; 2]) -> anyhow::Result<Option<Identity>> {
    let identity = plan.user.as_deref().map(privileges::look_up).transpose()?;
    if plan.keep.is_some() && geteuid().is_root() {
        hand_over(dirs, identity.as_ref())?;
    }
    Ok(identity)
}

/// What the daemon has, for people and tools.
fn status(plan: &Plan, held: Held) -> PrivilegeStatus {
    let why = || match &plan.programs {
        Some(programs) => format!("{programs}; `user` or \"privileges\": \"least\" would limit it"),
        None => "the config says \"privileges\": \"keep\"".to_owned(),
    };
    PrivilegeStatus {
        kept_everything: plan.keep.is_none().then(why),
        user: held.user,
        capabilities: held.capabilities,
        no_new_privileges: held.no_new_privileges,
    }
}

/// One line of the log.
pub fn log(status: &PrivilegeStatus) {
    let PrivilegeStatus { user, capabilities, no_new_privileges, kept_everything } = status;
    match kept_everything {
        // Who has nothing keeps nothing that matters.
        Some(why) if capabilities.len() > 4 => {
            tracing::info!(%user, "kept all privileges, because {why}");
        }
        _ => {
            tracing::info!(%user, capabilities = %capabilities.join(" "), no_new_privileges, "privileges kept")
        }
    }
}

/// Gives the server's folder to whom the daemon becomes: without CAP_DAC_OVERRIDE not even root uses what is
/// another's.
fn hand_over([state_dir, dir]: [&Path; 2], identity: Option<&Identity>) -> anyhow::Result<()> {
    let make = |path: &Path, mode| {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.with_context(|| {
            format!("cannot make the state dir {}; choose another folder with --state-dir", path.display())
        })
    };
    if identity.is_some() {
        // Others may pass, and see nothing.
        make(state_dir, 0o711)?;
    }
    make(dir, 0o700)?;
    let (uid, gid) = identity.map_or((0, 0), |identity| (identity.uid, identity.gid));
    let give = |path: &Path| -> io::Result<()> {
        if path.symlink_metadata()?.uid() != uid {
            lchown(path, Some(uid), Some(gid))?;
        }
        Ok(())
    };
    let all = || -> io::Result<()> {
        // What lies in it first: until the folder is theirs, nobody can put anything there.
        for entry in fs::read_dir(dir)? {
            give(&entry?.path())?;
        }
        give(dir)
    };
    let name = identity.map_or("root", |identity| &identity.name);
    all().with_context(|| format!("cannot give the state dir {} to user {name}", dir.display()))?;
    if let Some(identity) = identity {
        check_way(dir, identity)?;
    }
    Ok(())
}

/// Whether `identity` gets as far as its folder.
fn check_way(dir: &Path, identity: &Identity) -> anyhow::Result<()> {
    let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
    for above in dir.ancestors().skip(1) {
        let metadata = above.metadata().with_context(|| format!("cannot look at {}", above.display()))?;
        let needed = match () {
            () if metadata.uid() == identity.uid => 0o100,
            () if identity.is_in(metadata.gid()) => 0o010,
            () => 0o001,
        };
        if metadata.mode() & needed == 0 {
            anyhow::bail!(
                "user {} cannot reach the state dir {}: {} is closed to it; `chmod a+x {}`, or choose another \
                 folder with --state-dir",
                identity.name,
                dir.display(),
                above.display(),
                above.display()
            );
        }
    }
    Ok(())
}
