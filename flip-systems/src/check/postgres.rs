//! PostgreSQL and pgbouncer, both by the simple query protocol: it needs no prepared statement, which a
//! pooler may not have, and it is all that pgbouncer's console speaks.

use std::error::Error as _;
use std::time::Duration;

use flip_core::config::checks::{Login, Role};
use tokio::task::JoinHandle;
use tokio_postgres::{CancelToken, Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// How long a server may take to hear that a query is not wanted any more.
const CANCEL: Duration = Duration::from_secs(1);

/// A session that ends with the run, and with it what the server does for it.
struct Session {
    client: Client,
    connection: JoinHandle<()>,
    /// Set while the server works on a query.
    busy: Option<CancelToken>,
}

impl Session {
    async fn open(login: &Login) -> Result<Self, String> {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&login.host)
            .port(login.port)
            .user(&login.user)
            .dbname(&login.database)
            .application_name("flip");
        if let Some(file) = &login.password_file {
            let content = super::aside({
                let file = file.clone();
                move || std::fs::read(file)
            })
            .await?
            .map_err(|error| format!("cannot read the password file {file}: {}", super::plain(&error)))?;
            config.password(content.trim_ascii());
        }
        let connected = config.connect(NoTls).await;
        let (client, connection) = connected.map_err(|error| describe("cannot log in", &error))?;
        let connection = tokio::spawn(async move {
            // Whoever asks hears of the error too.
            let _ = connection.await;
        });
        Ok(Self { client, connection, busy: None })
    }

    async fn rows(&mut self, query: &str) -> Result<Vec<SimpleQueryRow>, String> {
        self.busy = Some(self.client.cancel_token());
        let answer = self.client.simple_query(query).await;
        self.busy = None;
        let messages = answer.map_err(|error| describe("the query failed", &error))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
        if let Some(token) = self.busy.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Else a server that is too slow would have one query more at each run.
            runtime.spawn(async move { tokio::time::timeout(CANCEL, token.cancel_query(NoTls)).await });
        }
    }
}

/// Asks a PostgreSQL server.
pub(super) async fn ask(login: &Login, query: &str, role: Option<Role>) -> Result<(), String> {
    let mut session = Session::open(login).await?;
    if let Some(expected) = role {
        let rows = session.rows("SELECT pg_catalog.pg_is_in_recovery()").await?;
        let found = match rows.first().and_then(|row| row.get(0)) {
            Some("f") => Role::Primary,
            Some("t") => Role::Standby,
            other => return Err(format!("pg_is_in_recovery() is {other:?}, expected t or f")),
        };
        let word = |role| Role::NAMES.iter().find(|(_, known)| *known == role).map_or("", |(word, _)| word);
        if found != expected {
            return Err(format!("it is a {}, expected a {}", word(found), word(expected)));
        }
    }
    session.rows(query).await.map(drop)
}

/// Asks the console of a pgbouncer.
pub(super) async fn ask_pgbouncer(
    login: &Login,
    pool: Option<&str>,
    max_waiting: Option<u64>,
) -> Result<(), String> {
    let mut session = Session::open(login).await?;
    session.rows("SHOW VERSION").await?;
    if let Some(pool) = pool {
        let databases = session.rows("SHOW DATABASES").await?;
        let Some(row) = databases.iter().find(|row| value(row, "name") == Some(pool)) else {
            return Err(format!("pgbouncer has no database \"{pool}\""));
        };
        for trouble in ["paused", "disabled"] {
            if value(row, trouble).is_some_and(|value| value != "0") {
                return Err(format!("the database \"{pool}\" is {trouble} in pgbouncer"));
            }
        }
    }
    if let Some(most) = max_waiting {
        let pools = session.rows("SHOW POOLS").await?;
        let own = pools.iter().filter(|row| pool.is_none_or(|pool| value(row, "database") == Some(pool)));
        let waiting: u64 = own
            .filter_map(|row| value(row, "cl_waiting"))
            .filter_map(|count| count.parse::<u64>().ok())
            .sum();
        if waiting > most {
            return Err(format!("{waiting} clients wait for a connection, expected at most {most}"));
        }
    }
    Ok(())
}

fn value<'r>(row: &'r SimpleQueryRow, column: &str) -> Option<&'r str> {
    row.try_get(column).ok().flatten()
}

/// What the server or the system said, which is in the cause.
fn describe(what: &str, error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{what}: {} ({})", said.message(), said.code().code());
    }
    match error.source() {
        Some(cause) => {
            let text = cause.to_string();
            format!("{what}: {}", text.split(" (os error").next().unwrap_or_default())
        }
        None => format!("{what}: {error}"),
    }
}
