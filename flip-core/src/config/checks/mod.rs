//! Health checks: what tells whether a server is fit to hold an item. The keys `checks` and `when_all_fail`.

mod read;
mod url;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::hash::Digest;
pub(super) use read::{checks, warn, when_all_fail};

/// The default of a check's `interval`.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// The default of a check's `timeout`.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// The default of a check's `rise`.
pub const RISE: u32 = 1;
/// The default of a check's `fall`.
pub const FALL: u32 = 3;

/// One check. Of several, all must succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// From the start of one run to the start of the next.
    pub interval: Duration,
    /// A run that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row after which it counts as healthy; at least 1.
    pub rise: u32,
    /// Failures in a row after which it counts as unhealthy; at least 1.
    pub fall: u32,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A TCP connection is accepted.
    Tcp(Endpoint),
    /// An HTTP server answers as expected.
    Http(Box<Http>),
    /// A program ends with exit code 0.
    Exec {
        /// Absolute path of the program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
    },
    /// The function `check` of a script says so.
    Lua {
        /// Name of the script.
        script: String,
    },
    /// A PostgreSQL server answers a query, in the right role.
    Postgres {
        /// Where and as whom.
        login: Login,
        /// What is asked.
        query: String,
        /// In which role it has to be.
        role: Option<Role>,
    },
    /// A pgbouncer answers on its console.
    Pgbouncer {
        /// Where and as whom.
        login: Login,
        /// The database whose pools have to be there.
        pool: Option<String>,
        /// How many clients may wait for a connection of these pools.
        max_waiting: Option<u64>,
    },
    /// A host answers an echo request.
    Ping {
        /// Which.
        ip: IpAddr,
    },
}

impl CheckKind {
    /// Whether it reads a file at each run.
    pub(super) fn names_file(&self) -> bool {
        match self {
            Self::Http(http) => http.tls.as_ref().is_some_and(|tls| tls.ca_file.is_some()),
            Self::Postgres { login, .. } | Self::Pgbouncer { login, .. } => login.password_file.is_some(),
            Self::Tcp(_) | Self::Exec { .. } | Self::Lua { .. } | Self::Ping { .. } => false,
        }
    }
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// An address, or a name that is looked up at each run.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// What a `http` check sends, and what it expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where to connect.
    pub to: Endpoint,
    /// None for plain HTTP.
    pub tls: Option<Tls>,
    /// Path and query, beginning with a slash.
    pub path: String,
    /// The request's method, in capitals.
    pub method: String,
    /// More header fields of the request.
    pub headers: Vec<(String, String)>,
    /// Ranges of status codes that are fine, both ends included.
    pub status: Vec<(u16, u16)>,
    /// What the body has to be.
    pub body_equals: Option<String>,
    /// What has to be in the body.
    pub body_contains: Option<String>,
}

/// How a server's certificate is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The name in the certificate; the URL's host by default.
    pub name: Option<String>,
    /// A file of PEM certificates to trust, instead of the system's.
    pub ca_file: Option<String>,
    /// False takes any certificate.
    pub verify: bool,
}

/// Where a database is, and who asks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// An address, a name, or the directory of its Unix socket.
    pub host: String,
    /// Its port; part of the socket's name.
    pub port: u16,
    /// The role that logs in.
    pub user: String,
    /// A file that holds the password; read at each run, so that it may be changed.
    pub password_file: Option<String>,
    /// The database.
    pub database: String,
    /// Whether the connection is encrypted.
    pub tls: Encryption,
    /// The address that the connection comes from; the kernel's choice by default.
    pub source: Option<SourceAddress>,
}

/// Whether and how a connection to a database is encrypted (the key `tls`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// It is not.
    #[default]
    Off,
    /// If the server offers it; any certificate will do.
    Prefer,
    /// It must be; any certificate will do.
    Require,
    /// It must be, and the server's certificate must be the right one.
    Verify {
        /// The name in the certificate; the host by default.
        name: Option<String>,
        /// A file of PEM certificates to trust, instead of the system's.
        ca_file: Option<String>,
    },
}

impl Encryption {
    /// The words of the config.
    pub const NAMES: [&'static str; 4] = ["off", "prefer", "require", "verify"];
}

/// The address of this host that a check comes from (the key `source`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceAddress {
    /// The address of this server in the config, on each server its own.
    Server,
    /// This one, on every server.
    Ip(IpAddr),
}

/// The role of a PostgreSQL server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It is in recovery: a standby.
    Standby,
}

impl Role {
    /// The words of the config.
    pub const NAMES: [(&'static str, Self); 2] = [("primary", Self::Primary), ("standby", Self::Standby)];
}

/// What becomes of an item whose checks fail on every server that could hold it (the key
/// `when_all_fail`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenAllFail {
    /// Nobody holds it.
    #[default]
    Release,
    /// Its holder keeps it. When that one is gone too, it is placed as if all checks had succeeded: at
    /// least one server has it.
    Keep,
}

impl WhenAllFail {
    /// The words of the config.
    pub const NAMES: [(&'static str, Self); 2] = [("release", Self::Release), ("keep", Self::Keep)];
}

impl CheckKind {
    /// The words of the config, under `type`.
    pub const NAMES: [&'static str; 7] = ["tcp", "http", "exec", "lua", "postgres", "pgbouncer", "ping"];

    /// Its word in the config.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Http(_) => "http",
            Self::Exec { .. } => "exec",
            Self::Lua { .. } => "lua",
            Self::Postgres { .. } => "postgres",
            Self::Pgbouncer { .. } => "pgbouncer",
            Self::Ping { .. } => "ping",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// As people call the check: its kind and what it asks.
impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.name())?;
        match self {
            Self::Tcp(to) => write!(f, "{to}"),
            Self::Http(http) => {
                let scheme = if http.tls.is_some() { "https" } else { "http" };
                write!(f, "{} {scheme}://{}{}", http.method, http.to, http.path)
            }
            Self::Exec { command, .. } => f.write_str(command),
            Self::Lua { script } => f.write_str(script),
            Self::Postgres { login, .. } | Self::Pgbouncer { login, .. } => {
                write!(f, "{}", Endpoint { host: login.host.clone(), port: login.port })
            }
            Self::Ping { ip } => write!(f, "{ip}"),
        }
    }
}

impl Check {
    /// Everything that it is, for the hash over what must be equal on all servers.
    pub(super) fn digest(&self, digest: &mut Digest) {
        digest.text(self.kind.name());
        digest.duration(self.interval);
        digest.duration(self.timeout);
        digest.number(u64::from(self.rise));
        digest.number(u64::from(self.fall));
        match &self.kind {
            CheckKind::Tcp(to) => endpoint(to, digest),
            CheckKind::Http(http) => http.digest(digest),
            CheckKind::Exec { command, args } => {
                digest.text(command);
                digest.number(args.len() as u64);
                args.iter().for_each(|arg| digest.text(arg));
            }
            CheckKind::Lua { script } => digest.text(script),
            CheckKind::Postgres { login, query, role } => {
                login.digest(digest);
                digest.text(query);
                digest.number(match role {
                    None => 0,
                    Some(Role::Primary) => 1,
                    Some(Role::Standby) => 2,
                });
            }
            CheckKind::Pgbouncer { login, pool, max_waiting } => {
                login.digest(digest);
                optional(pool.as_ref(), digest);
                digest.number(max_waiting.map_or(u64::MAX, |most| most.min(u64::MAX - 1)));
            }
            CheckKind::Ping { ip } => digest.text(&ip.to_string()),
        }
    }
}

impl Http {
    fn digest(&self, digest: &mut Digest) {
        endpoint(&self.to, digest);
        match &self.tls {
            None => digest.number(0),
            Some(tls) => {
                digest.number(if tls.verify { 1 } else { 2 });
                optional(tls.name.as_ref(), digest);
                optional(tls.ca_file.as_ref(), digest);
            }
        }
        digest.text(&self.path);
        digest.text(&self.method);
        digest.number(self.headers.len() as u64);
        for (name, value) in &self.headers {
            digest.text(name);
            digest.text(value);
        }
        digest.number(self.status.len() as u64);
        for (from, to) in &self.status {
            digest.number(u64::from(*from));
            digest.number(u64::from(*to));
        }
        optional(self.body_equals.as_ref(), digest);
        optional(self.body_contains.as_ref(), digest);
    }
}

impl Login {
    fn digest(&self, digest: &mut Digest) {
        digest.text(&self.host);
        digest.number(u64::from(self.port));
        digest.text(&self.user);
        optional(self.password_file.as_ref(), digest);
        digest.text(&self.database);
        // What is not set adds nothing: the hash is the same as of versions that do not know these keys.
        match &self.tls {
            Encryption::Off => {}
            Encryption::Prefer => digest.text("tls: prefer"),
            Encryption::Require => digest.text("tls: require"),
            Encryption::Verify { name, ca_file } => {
                digest.text("tls: verify");
                optional(name.as_ref(), digest);
                optional(ca_file.as_ref(), digest);
            }
        }
        match self.source {
            None => {}
            Some(SourceAddress::Server) => digest.text("source: server"),
            Some(SourceAddress::Ip(ip)) => digest.text(&format!("source: {ip}")),
        }
    }
}

fn endpoint(to: &Endpoint, digest: &mut Digest) {
    digest.text(&to.host);
    digest.number(u64::from(to.port));
}

fn optional(text: Option<&String>, digest: &mut Digest) {
    match text {
        None => digest.number(0),
        Some(text) => {
            digest.number(1);
            digest.text(text);
        }
    }
}
