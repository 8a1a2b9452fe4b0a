//! As whom the daemon runs and what it may do: the keys `user` and `privileges`, and what follows from them.
//!
//! | `user` | `privileges` | programs of others run | the daemon |
//! | --- | --- | --- | --- |
//! | – | `auto` | no | stays who it is, keeps what it needs, nothing can gain more |
//! | – | `auto` | yes | keeps everything: a hook that was root's stays root's |
//! | – | `least` | no | as `auto` without programs |
//! | – | `least` | yes | keeps what it needs; programs get CAP_NET_ADMIN and CAP_NET_RAW of that |
//! | given | `auto`, `least` | no or yes | becomes that user, and goes on as with `least` |
//! | – | `keep` | no or yes | keeps everything |
//!
//! `user` with `keep` contradict each other, which is an error of the config.

use std::fmt;
use std::time::Duration;

use super::problem::Problems;
use super::raw::{Fields, Node, clip};
use super::source::Spanned;
use super::{Check, CheckKind, Config, HANDLERS, System, bounds};

/// Profiles that probe at least this often need the processor before others.
const URGENT: Duration = Duration::from_millis(50);

/// Below this a port is for the privileged, unless `net.ipv4.ip_unprivileged_port_start` says otherwise.
const PRIVILEGED_PORTS: u16 = 1024;

/// What the config says of the daemon's privileges. A program that embeds a node sees to its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Name or number of the user that the daemon becomes (`user`); none to stay.
    pub user: Option<String>,
    /// What it keeps (`privileges`).
    pub keep: Keep,
}

/// What a daemon keeps of what it was started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// What it needs, unless programs of others run: then everything.
    #[default]
    Auto,
    /// What it needs.
    Least,
    /// Everything.
    All,
}

impl Keep {
    /// The words of the config.
    pub const NAMES: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("least", Self::Least), ("keep", Self::All)];
}

/// What a process may do beside what every process may (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Addresses, interfaces, routes, and connections of others.
    NetAdmin,
    /// Frames and packets of its own making.
    NetRaw,
    /// Ports below 1024.
    NetBindService,
    /// Real-time priority.
    SysNice,
    /// Reading what belongs to others.
    DacReadSearch,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
            Self::SysNice => "CAP_SYS_NICE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
        })
    }
}

/// What a daemon is to do with its privileges once its config is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whom to become; none to stay.
    pub user: Option<String>,
    /// What to keep, ascending; none to keep everything.
    pub keep: Option<Vec<Capability>>,
    /// What programs that the daemon runs are given of that.
    pub pass_on: Vec<Capability>,
    /// Whether nothing that is run can gain privileges (PR_SET_NO_NEW_PRIVS): only where nothing is run, because
    /// `sudo` and other set-user-id programs of a hook would fail.
    pub no_new_privileges: bool,
    /// What runs programs of others here, for people; none if nothing does.
    pub programs: Option<String>,
}

impl Config {
    /// What the daemon of this server does with its privileges.
    #[must_use]
    pub fn privilege_plan(&self) -> Plan {
        let programs = self.programs();
        // Who names root says nothing: it is started as root.
        let user = self.privileges.user.clone().filter(|user| !["root", "0"].contains(&user.as_str()));
        let all = match self.privileges.keep {
            Keep::Auto => user.is_none() && programs.is_some(),
            Keep::Least => false,
            Keep::All => true,
        };
        let keep = (!all).then(|| self.needed(user.is_none()));
        let pass_on = match (&keep, &programs) {
            (Some(keep), Some(_)) => {
                let network = |one: &&Capability| matches!(one, Capability::NetAdmin | Capability::NetRaw);
                keep.iter().filter(network).copied().collect()
            }
            _ => Vec::new(),
        };
        Plan { no_new_privileges: keep.is_some() && programs.is_none(), user, keep, pass_on, programs }
    }

    /// Whether the profile is so fast that the processor must come before others.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.timing.probe_interval <= URGENT
    }

    /// What this server's daemon cannot do without, ascending. Whether it stays root: then it reads the files that
    /// checks and `admin` name whoever owns them, as root always did; another user reads its own.
    fn needed(&self, root: bool) -> Vec<Capability> {
        let ip = self.my_systems().any(|system| system.alive == HANDLERS[0].0);
        // Scripts handle addresses by `flip.address`.
        let addresses = ip || self.script().is_some();
        let pings = self.witness.is_some()
            || self.my_checks().any(|(_, check)| matches!(check.kind, CheckKind::Ping { .. }));
        let files = self.my_checks().any(|(_, check)| check.kind.names_file())
            || self.admin.as_ref().is_some_and(|admin| admin.files().next().is_some());
        let ports =
            [self.my().addr.port(), self.admin.as_ref().map_or(u16::MAX, |admin| admin.listen.port())];
        [
            (addresses, Capability::NetAdmin),
            (addresses || pings, Capability::NetRaw),
            (ports.iter().any(|port| *port < PRIVILEGED_PORTS), Capability::NetBindService),
            (self.is_urgent(), Capability::SysNice),
            (root && files, Capability::DacReadSearch),
        ]
        .into_iter()
        .filter_map(|(needed, one)| needed.then_some(one))
        .collect()
    }

    fn my_systems(&self) -> impl Iterator<Item = &System> {
        self.my().systems.iter().map(|system| &self.systems[*system])
    }

    fn my_checks(&self) -> impl Iterator<Item = (&System, &Check)> {
        self.my_systems().flat_map(|system| {
            let own = system.items.iter().flat_map(|item| &item.checks);
            system.checks.iter().chain(own).map(move |check| (system, check))
        })
    }

    /// What runs programs of others on this server.
    fn programs(&self) -> Option<String> {
        let check = self.my_checks().find_map(|(system, check)| match &check.kind {
            CheckKind::Exec { command, .. } => {
                Some(format!("a health check of system {} runs {command}", system.name))
            }
            _ => None,
        });
        self.script().or(check)
    }

    /// What runs scripts on this server.
    fn script(&self) -> Option<String> {
        let native = |name: &str| HANDLERS.iter().any(|(alive, _)| *alive == name);
        let hook = self.my_systems().find_map(|system| {
            let script = (!native(&system.alive)).then_some(&system.alive).or(system.hooks.post.as_ref())?;
            Some(format!("system {} runs the script {script}", system.name))
        });
        let check = self.my_checks().find_map(|(system, check)| match &check.kind {
            CheckKind::Lua { script } => {
                Some(format!("a health check of system {} runs the script {script}", system.name))
            }
            _ => None,
        });
        let plugin = self.lua.plugins.first().map(|name| format!("the plugin {name} runs"));
        hook.or(check).or(plugin)
    }
}

/// The keys as written.
#[derive(Debug, Default)]
pub(super) struct WrittenPrivileges {
    user: Option<Spanned<String>>,
    keep: Option<Spanned<Keep>>,
}

pub(super) fn read(fields: &Fields, problems: &mut Problems) -> WrittenPrivileges {
    let user = fields.get("user").and_then(|node| read_user(node, problems));
    let keep = fields.get("privileges").and_then(|node| node.one_of(&Keep::NAMES, problems));
    if let (Some(user), Some(keep)) = (&user, keep.as_ref().filter(|keep| keep.value == Keep::All)) {
        let message = format!("the daemon becomes `{}`, which has no privileges to keep", clip(&user.value));
        problems.error_help(&keep.at, message, "remove `user`, or set \"privileges\": \"least\"");
    }
    WrittenPrivileges { user, keep }
}

fn read_user(node: &Node, problems: &mut Problems) -> Option<Spanned<String>> {
    let expected = "the name or number of a user such as \"flip\"";
    let user = node.text(expected, problems)?;
    // Whether there is such a user is for each host to say.
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-$@\\".contains(c);
    let number = user.value.starts_with(|c: char| c.is_ascii_digit());
    let wrong = user.value.is_empty()
        || user.value.len() > bounds::NAME
        || !user.value.chars().all(fits)
        || (number && !user.value.parse::<u32>().is_ok_and(|uid| uid < u32::MAX));
    if wrong {
        node.refuse(expected, problems);
        return None;
    }
    Some(user)
}

impl WrittenPrivileges {
    pub(super) fn resolve(&self) -> Privileges {
        Privileges {
            user: self.user.as_ref().map(|user| user.value.clone()),
            keep: self.keep.as_ref().map(|keep| keep.value).unwrap_or_default(),
        }
    }
}
