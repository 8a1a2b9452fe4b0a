//! Giving up what the daemon does not need of root's powers.
//!
//! What is kept is for the config to say (`flip_core::config::privileges`). In Linux users and capabilities are
//! a thread's own, so this comes before any other thread is started; threads and processes that are started
//! afterwards inherit what is left.

use std::ffi::CString;
use std::fmt;
use std::io;

use flip_core::config::Capability;
use flip_core::config::privileges::Plan;
use nix::unistd::{Gid, Uid, User, getgrouplist};
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, no_new_privs, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name; its number where it has none.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// All groups that it is in.
    groups: Vec<u32>,
}

impl Identity {
    /// Whether it is a member of this group.
    #[must_use]
    pub fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// What a process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// As whom it runs: a name, or a number without one.
    pub user: String,
    /// Its capabilities, by the names of capabilities(7).
    pub capabilities: Vec<String>,
    /// Whether nothing that it starts can have more.
    pub no_new_privileges: bool,
}

/// Why privileges could not be given up. The process may have lost some of them.
#[derive(Debug)]
pub enum Error {
    /// There is no such user on this host. Nothing was changed.
    NoUser(String),
    /// This process may not become another user. Nothing was changed.
    NotAllowed(String),
    /// Other threads run, which would keep everything. Nothing was changed.
    Threads(usize),
    /// The kernel, or the list of users, refused something else.
    Kernel {
        /// What was tried, to be read after "cannot".
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUser(name) => write!(
                f,
                "there is no user `{name}` on this host, which the config's `user` names: make it (useradd \
                 --system {name}), or remove `user`"
            ),
            Self::NotAllowed(name) => write!(
                f,
                "cannot become user `{name}`: start flip as root, or as `{name}` with the capabilities that it \
                 needs, or remove `user` from the config"
            ),
            Self::Threads(count) => write!(f, "cannot give up privileges: {count} threads run already"),
            Self::Kernel { doing, source: _ } => write!(f, "cannot {doing}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kernel { source, .. } => Some(source),
            Self::NoUser(_) | Self::NotAllowed(_) | Self::Threads(_) => None,
        }
    }
}

/// The user that has this name, or this number. A number need not have a user: then its group has the same one.
///
/// # Errors
/// When there is none of this name, or the list of users cannot be read.
pub fn look_up(user: &str) -> Result<Identity, Error> {
    let list = |error: nix::Error| Error::Kernel { doing: "read the list of users", source: error.into() };
    let number = user.parse::<u32>().ok();
    let found = match number {
        Some(uid) => User::from_uid(Uid::from_raw(uid)),
        None => User::from_name(user),
    };
    let Some(found) = found.map_err(list)? else {
        let uid = number.ok_or_else(|| Error::NoUser(user.to_owned()))?;
        return Ok(Identity { name: user.to_owned(), uid, gid: uid, groups: Vec::new() });
    };
    let name = CString::new(found.name.clone()).map_err(|_| Error::NoUser(user.to_owned()))?;
    let groups = getgrouplist(&name, found.gid).map_err(list)?;
    Ok(Identity {
        name: found.name,
        uid: found.uid.as_raw(),
        gid: found.gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    })
}

/// Becomes `identity`, if one is given, and keeps of this process's capabilities what `plan` says.
///
/// # Errors
/// When the process may not become that user, or the kernel refuses something.
pub fn give_up(plan: &Plan, identity: Option<&Identity>) -> Result<(), Error> {
    let kernel = |doing| move |error: rustix::io::Errno| Error::Kernel { doing, source: error.into() };
    let Some(keep) = &plan.keep else { return Ok(()) };
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(Error::Threads(threads));
    }
    let has = capabilities(None).map_err(kernel("read the capabilities of this process"))?;
    let other = identity.filter(|identity| identity.uid != geteuid().as_raw());
    if let Some(identity) = other
        && !has.effective.contains(CapabilitySet::SETUID | CapabilitySet::SETGID)
    {
        return Err(Error::NotAllowed(identity.name.clone()));
    }
    let keep = set_of(keep) & has.permitted;
    // Afterwards nothing that is run as root has more either. Only who may change the set does, and who may
    // not has not got it from anybody.
    if has.effective.contains(CapabilitySet::SETPCAP) {
        for one in CapabilitySet::all().difference(keep) {
            if capability_is_in_bounding_set(one).unwrap_or(false) {
                remove_capability_from_bounding_set(one)
                    .map_err(kernel("narrow the bounding set of capabilities"))?;
            }
        }
    }
    if let Some(identity) = other {
        let doing = "become another user";
        set_keep_capabilities(true).map_err(kernel(doing))?;
        let groups: Vec<_> = identity.groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups).map_err(kernel(doing))?;
        let gid = rustix::fs::Gid::from_raw(identity.gid);
        set_thread_res_gid(gid, gid, gid).map_err(kernel(doing))?;
        let uid = rustix::fs::Uid::from_raw(identity.uid);
        set_thread_res_uid(uid, uid, uid).map_err(kernel(doing))?;
        set_keep_capabilities(false).map_err(kernel(doing))?;
    }
    let pass_on = set_of(&plan.pass_on) & keep;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: pass_on };
    set_capabilities(None, sets).map_err(kernel("give up capabilities"))?;
    clear_ambient_capability_set().map_err(kernel("give up capabilities"))?;
    for one in pass_on {
        configure_capability_in_ambient_set(one, true)
            .map_err(kernel("pass capabilities on to programs that hooks run"))?;
    }
    if plan.no_new_privileges {
        set_no_new_privs(true).map_err(kernel("forbid new privileges"))?;
    }
    Ok(())
}

/// What this thread has, as the kernel says.
///
/// # Errors
/// When the kernel does not tell.
pub fn held() -> Result<Held, Error> {
    let kernel = |doing| move |error: rustix::io::Errno| Error::Kernel { doing, source: error.into() };
    let has = capabilities(None).map_err(kernel("read the capabilities of this process"))?;
    let uid = geteuid().as_raw();
    // A list of users that cannot be read is no reason not to run.
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    Ok(Held {
        user: name.unwrap_or_else(|| uid.to_string()),
        capabilities: has.effective.iter_names().map(|(name, _)| format!("CAP_{name}")).collect(),
        no_new_privileges: no_new_privs().map_err(kernel("read the privileges of this process"))?,
    })
}

fn set_of(capabilities: &[Capability]) -> CapabilitySet {
    let one = |capability: &Capability| match capability {
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetRaw => CapabilitySet::NET_RAW,
        Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        Capability::SysNice => CapabilitySet::SYS_NICE,
        Capability::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
    };
    capabilities.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = look_up("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0), "{root:?}");
        assert_eq!(look_up("0").unwrap(), root);
        let stranger = look_up("3999999999").unwrap();
        assert_eq!((stranger.uid, stranger.gid, stranger.groups.len()), (3_999_999_999, 3_999_999_999, 0));
        let error = look_up("no.such.user").unwrap_err().to_string();
        assert!(error.contains("no.such.user") && error.contains("useradd"), "{error}");
    }

    #[test]
    fn threads_that_would_keep_everything_are_named() {
        // The test's own harness is one.
        let other = std::thread::spawn(std::thread::park);
        let plan = Plan {
            user: None,
            keep: Some(Vec::new()),
            pass_on: Vec::new(),
            no_new_privileges: true,
            programs: None,
        };
        let error = give_up(&plan, None).unwrap_err();
        assert!(matches!(error, Error::Threads(2..)), "{error}");
        other.thread().unpark();
        other.join().unwrap();
    }
}
