//! Real PostgreSQL servers and poolers on hosts of a lab, run by a user without rights: PostgreSQL and
//! pgbouncer refuse root. Their files are in a folder of their own, which goes with them.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, process};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use crate::lab::{Lab, Process, Who};

/// `nobody` and `nogroup` of Debian.
const NOBODY: u32 = 65_534;
/// How long a server may take to start, to stop, or to be copied.
const LIMIT: Duration = Duration::from_secs(60);
/// The port of the servers.
pub const PORT: u16 = 5432;
/// The port of the poolers.
pub const POOLER_PORT: u16 = 6432;

/// The folder of the newest PostgreSQL's programs; none where it is not installed.
#[must_use]
pub fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<_> = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| Path::new(&format!("/usr/lib/postgresql/{version}/bin/postgres")).exists())
        .collect();
    found.sort_unstable();
    found.pop().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")))
}

/// Guards a test that needs PostgreSQL and pgbouncer: `false`, and a loud word, where they are not.
///
/// # Panics
/// Without them when FLIP_REQUIRE_ROOT=1, as for everything that scripts/test installs.
#[must_use]
pub fn postgres_or_skip(test: &str) -> bool {
    let missing =
        "needs PostgreSQL and pgbouncer: apt-get install --no-install-recommends postgresql pgbouncer";
    programs().is_some() && Path::new("/usr/sbin/pgbouncer").exists() || crate::needs::skip(test, missing)
}

/// A server of one host. Dropping it kills it and removes its data.
pub struct Postgres {
    lab: Lab,
    who: Who,
    dir: PathBuf,
    process: Option<Process>,
    /// Whether it speaks TLS.
    tls: bool,
}

/// What a server proves its name with: PEM texts.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// The certificate.
    pub certificate: &'a str,
    /// Its private key.
    pub key: &'a str,
}

impl Certificate<'_> {
    /// Writes both to files that nobody but the servers can read.
    fn write(&self, dir: &Path) -> anyhow::Result<[String; 2]> {
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            chown(&path, Some(NOBODY), Some(NOBODY))?;
            Ok::<_, anyhow::Error>(path.display().to_string())
        };
        Ok([write("server.crt", self.certificate)?, write("server.key", self.key)?])
    }
}

impl Postgres {
    /// Makes and starts a server that takes writes.
    ///
    /// # Errors
    /// What its programs say.
    pub fn primary(lab: &Lab, who: Who) -> anyhow::Result<Self> {
        let mut server = Self::new(lab, who)?;
        let data = server.data();
        server.run("initdb", &["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"])?;
        let hba = format!("{data}/pg_hba.conf");
        let mut rules = fs::read_to_string(&hba)?;
        rules.push_str("host all all 10.77.0.0/24 trust\nhost replication all 10.77.0.0/24 trust\n");
        fs::write(&hba, rules)?;
        server.start()?;
        Ok(server)
    }

    /// Makes and starts a server that takes writes, and whom nobody may ask over the network without TLS.
    ///
    /// # Errors
    /// What its programs say.
    pub fn encrypted(lab: &Lab, who: Who, certificate: &Certificate<'_>) -> anyhow::Result<Self> {
        let mut server = Self::new(lab, who)?;
        let data = server.data();
        server.run("initdb", &["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"])?;
        fs::write(format!("{data}/pg_hba.conf"), "local all all trust\nhostssl all all 0.0.0.0/0 trust\n")?;
        certificate.write(&server.dir)?;
        server.tls = true;
        server.start()?;
        Ok(server)
    }

    /// Makes and starts a standby of the server at this address.
    ///
    /// # Errors
    /// What its programs say.
    pub fn standby(lab: &Lab, who: Who, of: IpAddr) -> anyhow::Result<Self> {
        let mut server = Self::new(lab, who)?;
        let (data, of) = (server.data(), of.to_string());
        let copy = ["-D", &data, "-h", &of, "-U", "postgres", "-R", "-c", "fast", "--no-sync"];
        server.run("pg_basebackup", &copy)?;
        server.start()?;
        Ok(server)
    }

    fn new(lab: &Lab, who: Who) -> anyhow::Result<Self> {
        ensure!(programs().is_some(), "there is no PostgreSQL");
        Ok(Self { lab: lab.clone(), who, dir: folder("postgres")?, process: None, tls: false })
    }

    fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    /// Starts the server with the data that it has, and waits until it answers.
    ///
    /// # Errors
    /// When it does not; with its log.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = fs::File::create(self.dir.join("log"))?;
        let mut command = self.unprivileged("postgres")?;
        command.args(["-D", &self.data(), "-k", &self.dir.display().to_string()]);
        for setting in ["listen_addresses=*", "fsync=off", "shared_buffers=16MB", "max_connections=30"] {
            command.args(["-c", setting]);
        }
        if self.tls {
            for (setting, file) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
                command.args(["-c", &format!("{setting}={}", self.dir.join(file).display())]);
            }
            command.args(["-c", "ssl=on"]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(self.lab.spawn(command)?);
        let end = Instant::now() + LIMIT;
        while self.ask("SELECT 1").is_err() {
            let ended = self.process.as_ref().is_none_or(|process| !process.running());
            if ended || Instant::now() > end {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                bail!("PostgreSQL does not start:\n{log}");
            }
        }
        Ok(())
    }

    /// Stops the server at once, as `pg_ctl stop -m immediate` does.
    ///
    /// # Errors
    /// When it does not run or does not end.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        process.signal(Signal::QUIT)?;
        process.wait(LIMIT).map(drop)
    }

    /// Makes a standby take writes.
    ///
    /// # Errors
    /// What its programs say.
    pub fn promote(&self) -> anyhow::Result<()> {
        self.run("pg_ctl", &["promote", "-D", &self.data()])
    }

    /// The first value that a query gives, asked over the server's own socket.
    ///
    /// # Errors
    /// What psql says.
    pub fn ask(&self, query: &str) -> anyhow::Result<String> {
        ask(&self.lab, self.who, &self.dir.display().to_string(), PORT, query)
    }

    fn unprivileged(&self, program: &str) -> anyhow::Result<Command> {
        let path = programs().context("there is no PostgreSQL")?.join(program);
        unprivileged(&self.lab, self.who, &path)
    }

    fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        let mut command = self.unprivileged(program)?;
        command.args(args);
        finish(&self.lab, command).map(drop)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Its backends are in sessions of their own; they end with it when it is asked to end.
            let asked = process.signal(Signal::QUIT).and_then(|()| process.wait(LIMIT));
            if asked.is_err() {
                let _ = process.kill();
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A pgbouncer before the server of its host. Its console is open to the role `pgbouncer`.
pub struct Pooler {
    process: Process,
    dir: PathBuf,
}

impl Pooler {
    /// Starts one with a pool `app`, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(lab: &Lab, who: Who) -> anyhow::Result<Self> {
        Self::begin(lab, who, None)
    }

    /// Starts one whom nobody may ask without TLS, before a server that is the same, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn encrypted(lab: &Lab, who: Who, certificate: &Certificate<'_>) -> anyhow::Result<Self> {
        Self::begin(lab, who, Some(certificate))
    }

    fn begin(lab: &Lab, who: Who, certificate: Option<&Certificate<'_>>) -> anyhow::Result<Self> {
        let dir = folder("pgbouncer")?;
        let tls = match certificate {
            None => String::new(),
            Some(certificate) => {
                let [certificate, key] = certificate.write(&dir)?;
                format!(
                    "client_tls_sslmode = require\nclient_tls_cert_file = {certificate}\nclient_tls_key_file = {key}\n\
                     server_tls_sslmode = require\n"
                )
            }
        };
        let (users, config) = (dir.join("users"), dir.join("pgbouncer.ini"));
        fs::write(&users, "\"pgbouncer\" \"\"\n\"postgres\" \"\"\n")?;
        fs::write(
            &config,
            format!(
                "[databases]\napp = host=127.0.0.1 port={PORT} dbname=postgres user=postgres\n[pgbouncer]\n\
                 listen_addr = *\nlisten_port = {POOLER_PORT}\nauth_type = trust\nauth_file = {}\n\
                 admin_users = pgbouncer\nunix_socket_dir =\nserver_login_retry = 1\n{tls}",
                users.display()
            ),
        )?;
        let log = fs::File::create(dir.join("log"))?;
        let mut command = unprivileged(lab, who, Path::new("/usr/sbin/pgbouncer"))?;
        command.arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let pooler = Self { process: lab.spawn(command)?, dir };
        let end = Instant::now() + LIMIT;
        while ask(lab, who, "127.0.0.1", POOLER_PORT, "SELECT 1").is_err() {
            ensure!(
                Instant::now() < end && pooler.process.running(),
                "pgbouncer does not start: {}",
                pooler.log()
            );
        }
        Ok(pooler)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The first value that a query gives at an address (or in the directory of a socket), asked from a place.
///
/// # Errors
/// What psql says.
pub fn ask(lab: &Lab, from: Who, host: &str, port: u16, query: &str) -> anyhow::Result<String> {
    let psql = programs().context("there is no PostgreSQL")?.join("psql");
    let mut command = lab.command(from, &psql.display().to_string())?;
    let database = if port == POOLER_PORT { "app" } else { "postgres" };
    command.env("PGCONNECT_TIMEOUT", "2");
    command.args(["-h", host, "-p", &port.to_string(), "-U", "postgres", "-d", database, "-XAtqc", query]);
    Ok(String::from_utf8_lossy(&finish(lab, command)?.stdout).trim().to_owned())
}

/// A program that runs as nobody, dies with the lab, and leads a process group.
fn unprivileged(lab: &Lab, who: Who, program: &Path) -> anyhow::Result<Command> {
    let mut command = lab.command(who, "setpriv")?;
    let nobody = NOBODY.to_string();
    // A change of user undoes PR_SET_PDEATHSIG, so that it is set anew.
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--pdeathsig", "KILL", "--"]);
    command.arg(program).current_dir("/");
    Ok(command)
}

/// Runs a command of a lab to its end.
fn finish(lab: &Lab, mut command: Command) -> anyhow::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let what = format!("{command:?}");
    let mut process = lab.spawn(command)?;
    let read = |pipe: Option<&mut dyn std::io::Read>| {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What can't be read is not there.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    };
    let child = process.child();
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    // These programs say little: neither pipe is ever full.
    let status = process.wait(LIMIT)?;
    let stdout = read(out.as_mut().map(|pipe| pipe as &mut dyn std::io::Read));
    let stderr = read(err.as_mut().map(|pipe| pipe as &mut dyn std::io::Read));
    ensure!(status.success(), "{what}: {status}: {}", String::from_utf8_lossy(&stderr));
    Ok(Output { status, stdout, stderr })
}

/// A new folder that nobody else can look into.
fn folder(name: &str) -> anyhow::Result<PathBuf> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = env::temp_dir().join(format!("flip-{name}-{}-{number}", process::id()));
    // Left by a process that had the same id.
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    chown(&path, Some(NOBODY), Some(NOBODY))?;
    Ok(path)
}
