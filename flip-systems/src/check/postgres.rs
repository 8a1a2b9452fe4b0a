//! PostgreSQL and pgbouncer, both by the simple query protocol: it needs no prepared statement, which a
//! pooler may not have, and it is all that pgbouncer's console speaks.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use flip_core::config::checks::{Encryption, Endpoint, Login, Role};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{CancelToken, Client, NoTls, SimpleQueryMessage, SimpleQueryRow};
use tokio_rustls::TlsConnector;

use super::tcp;
use crate::tls::{self, Trust};

/// How long a server may take to hear that a query is not wanted any more.
const CANCEL: Duration = Duration::from_secs(1);

/// A connection, over TCP or a Unix socket.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One of them, or what TLS made of it.
struct Pipe(Box<dyn Io>);

/// Where a server is and how it is reached: once to ask, and once more to take a query back.
#[derive(Clone)]
struct Way {
    login: Login,
    source: Option<IpAddr>,
    /// None where nothing is encrypted.
    tls: Option<Encrypts>,
}

impl Way {
    async fn new(login: &Login, source: Option<IpAddr>) -> Result<Self, String> {
        let tls = match &login.tls {
            Encryption::Off => None,
            encryption => {
                let (name, ca_file) = match encryption {
                    Encryption::Verify { name, ca_file } => (name.as_ref(), Some(ca_file.clone())),
                    Encryption::Off | Encryption::Prefer | Encryption::Require => (None, None),
                };
                let client = super::aside(move || match &ca_file {
                    None => tls::client(Trust::Anyone),
                    Some(None) => tls::client(Trust::Host),
                    Some(Some(file)) => tls::client(Trust::File(file)),
                });
                let server = tls::server_name(name.unwrap_or(&login.host))?;
                Some(Encrypts { client: Arc::new(client.await??), server })
            }
        };
        Ok(Self { login: login.clone(), source, tls })
    }

    async fn connect(&self) -> Result<Pipe, String> {
        let Login { host, port, .. } = &self.login;
        if host.starts_with('/') {
            let path = format!("{host}/.s.PGSQL.{port}");
            let connected = UnixStream::connect(&path).await;
            let refused = |error| format!("cannot log in: {path}: {}", super::plain(&error));
            return Ok(Pipe(Box::new(connected.map_err(refused)?)));
        }
        let to = Endpoint { host: host.clone(), port: *port };
        let opened = tcp::open(&to, self.source).await;
        Ok(Pipe(Box::new(opened.map_err(|why| format!("cannot log in: {why}"))?)))
    }

    fn mode(&self) -> SslMode {
        match self.login.tls {
            Encryption::Off => SslMode::Disable,
            Encryption::Prefer => SslMode::Prefer,
            Encryption::Require | Encryption::Verify { .. } => SslMode::Require,
        }
    }

    async fn cancel(self, token: CancelToken) -> Result<(), String> {
        let stream = self.connect().await?;
        let done = match self.tls {
            None => token.cancel_query_raw(stream, NoTls).await,
            Some(tls) => token.cancel_query_raw(stream, tls).await,
        };
        done.map_err(|error| error.to_string())
    }
}

/// Begins TLS where PostgreSQL's protocol says so.
#[derive(Clone)]
struct Encrypts {
    client: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl TlsConnect<Pipe> for Encrypts {
    type Stream = Pipe;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Pipe>> + Send>>;

    fn connect(self, stream: Pipe) -> Self::Future {
        let begun = TlsConnector::from(self.client).connect(self.server, stream);
        Box::pin(async move { begun.await.map(|stream| Pipe(Box::new(stream))) })
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl TlsStream for Pipe {
    /// None: passwords are proven by SCRAM without it, as libpq does where the certificate is verified.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// A session that ends with the run, and with it what the server does for it.
struct Session {
    way: Way,
    client: Client,
    connection: JoinHandle<()>,
    /// Set while the server works on a query.
    busy: Option<CancelToken>,
}

impl Session {
    async fn open(login: &Login, source: Option<IpAddr>) -> Result<Self, String> {
        let way = Way::new(login, source).await?;
        let mut config = tokio_postgres::Config::new();
        config.user(&login.user).dbname(&login.database).application_name("flip").ssl_mode(way.mode());
        if let Some(file) = &login.password_file {
            let content = super::aside({
                let file = file.clone();
                move || std::fs::read(file)
            })
            .await?
            .map_err(|error| format!("cannot read the password file {file}: {}", super::plain(&error)))?;
            config.password(content.trim_ascii());
        }
        let stream = way.connect().await?;
        let failed = |error| describe("cannot log in", &error);
        // Whoever asks hears of the connection's error too.
        let (client, connection) = match way.tls.clone() {
            None => {
                let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(failed)?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
            Some(tls) => {
                let (client, connection) = config.connect_raw(stream, tls).await.map_err(failed)?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
        };
        Ok(Self { way, client, connection, busy: None })
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
            let way = self.way.clone();
            runtime.spawn(async move { tokio::time::timeout(CANCEL, way.cancel(token)).await });
        }
    }
}

/// Asks a PostgreSQL server.
pub(super) async fn ask(
    login: &Login,
    source: Option<IpAddr>,
    query: &str,
    role: Option<Role>,
) -> Result<(), String> {
    let mut session = Session::open(login, source).await?;
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
    source: Option<IpAddr>,
    pool: Option<&str>,
    max_waiting: Option<u64>,
) -> Result<(), String> {
    let mut session = Session::open(login, source).await?;
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
