//! Health checks: each kind asks once, and says in one line what was wrong.
//!
//! Nothing is kept between two runs: no connection is reused, no redirect followed, no proxy asked. So a
//! check tells what a new client would find. A run is ended by dropping its future; what it started, such
//! as a program or a query, ends with it.

mod exec;
mod http;
mod ping;
mod postgres;
mod tcp;

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flip_core::config::checks::{Login, SourceAddress};
use flip_core::config::{CheckKind, Config};
use flip_core::id::CheckRef;
use flip_core::io::CheckCall;

/// Most characters of an error that a check reports.
const LONGEST: usize = 300;

/// How a run of a script's `check` function ends.
pub type ScriptRun = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Whoever runs the checks of kind `lua`.
pub trait Scripts: Send + Sync {
    /// Runs the function `check` of a script for the check at `at`, within `timeout`. Dropping the future
    /// ends the script.
    fn check(&self, script: &str, at: CheckRef, timeout: Duration) -> ScriptRun;

    /// The node goes on under another config: positions of later checks are its own.
    fn adopt(&self, config: &Arc<Config>) {
        let _ = config;
    }
}

/// Runs the checks of a config.
#[derive(Clone)]
pub struct Checks {
    config: Arc<Config>,
    scripts: Option<Arc<dyn Scripts>>,
}

impl Checks {
    /// Checks of this config; those of kind `lua` are run by `scripts`.
    ///
    /// # Errors
    /// When the config has such checks and there is nobody to run them: says so in one line.
    pub fn new(config: Arc<Config>, scripts: Option<Arc<dyn Scripts>>) -> Result<Self, String> {
        let items = |system: &flip_core::config::System| {
            let own = system.items.iter().flat_map(|item| &item.checks);
            system.checks.iter().chain(own).any(|check| matches!(check.kind, CheckKind::Lua { .. }))
        };
        if scripts.is_none()
            && let Some(system) = config.systems.iter().find(|system| items(system))
        {
            return Err(format!(
                "system `{}` has a check of type \"lua\", and this program runs no scripts: use \"exec\"",
                system.name
            ));
        }
        Ok(Self { config, scripts })
    }

    /// Goes on under another config, that of `Output::Config`. Runs that have begun end as they are.
    pub fn adopt(&mut self, config: &Arc<Config>) {
        self.config = Arc::clone(config);
        if let Some(scripts) = &self.scripts {
            scripts.adopt(config);
        }
    }

    /// Runs a check once. The future ends by itself at the call's timeout. It must run within a tokio
    /// runtime with time and IO.
    pub fn run(&self, call: CheckCall) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let this = self.clone();
        async move {
            let Some(check) = this.config.check(call.check) else {
                return Err("no such check in the config".to_owned());
            };
            let asked = this.ask(&check.kind, call);
            match tokio::time::timeout(call.timeout, asked).await {
                Ok(result) => result.map_err(|error| one_line(&error)),
                Err(_elapsed) => Err(format!("no answer within {} ms", call.timeout.as_millis())),
            }
        }
    }

    async fn ask(&self, kind: &CheckKind, call: CheckCall) -> Result<(), String> {
        match kind {
            CheckKind::Tcp(to) => tcp::connect(to).await.map(drop),
            CheckKind::Http(http) => http::ask(http).await,
            CheckKind::Exec { command, args } => {
                exec::run(command, args, &self.environment(call.check)).await
            }
            CheckKind::Lua { script } => match &self.scripts {
                Some(scripts) => scripts.check(script, call.check, call.timeout).await,
                None => Err("this program runs no scripts".to_owned()),
            },
            CheckKind::Postgres { login, query, role } => {
                postgres::ask(login, self.source(login), query, *role).await
            }
            CheckKind::Pgbouncer { login, pool, max_waiting } => {
                postgres::ask_pgbouncer(login, self.source(login), pool.as_deref(), *max_waiting).await
            }
            CheckKind::Ping { ip } => ping::ask(*ip).await,
        }
    }

    /// The address that a connection to a database comes from, if it is set.
    fn source(&self, login: &Login) -> Option<IpAddr> {
        login.source.map(|source| match source {
            SourceAddress::Server => self.config.my().addr.ip(),
            SourceAddress::Ip(ip) => ip,
        })
    }

    /// What a program is told about the check: no item where it is of a whole system.
    fn environment(&self, at: CheckRef) -> Vec<(&'static str, String)> {
        let system = &self.config.systems[at.system];
        let mut variables =
            vec![("FLIP_NODE", self.config.my().id.clone()), ("FLIP_SYSTEM", system.name.clone())];
        variables.extend(at.item.map(|item| ("FLIP_ITEM", system.items[item].name.clone())));
        variables
    }
}

/// A text from elsewhere, for one line of a log.
fn one_line(text: &str) -> String {
    let mut line: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if text.trim().chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// Reads files where it does not keep the loop waiting.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

/// An error of the system without its number: "Connection refused".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
