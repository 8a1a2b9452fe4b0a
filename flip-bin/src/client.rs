//! Asks a daemon, over its Unix socket or by TCP: what the command line uses.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cli::AskArgs;
use crate::daemon::api::{ErrorBody, ErrorDetail, UNACKNOWLEDGED, certificates};
use crate::{Failure, paths};

/// How long a daemon may take to answer: longer than it waits for its own loop, so that it is the daemon who says so.
pub const LIMIT: Duration = Duration::from_secs(10);
/// The exit code when a daemon refuses.
pub const REFUSED: u8 = 1;
/// The exit code when there is no daemon.
pub const NO_DAEMON: u8 = 2;
/// The exit code when something was done, and part of what was wished for is open.
pub const OPEN: u8 = 3;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no answer, or none that was wished for.
#[derive(Debug)]
pub enum Error {
    /// Nobody answers, or not in words of this version.
    NoDaemon(anyhow::Error),
    /// The daemon says no.
    Refused(ErrorDetail),
}

impl Error {
    /// As the command line tells it.
    fn into_parts(self) -> (u8, anyhow::Error) {
        match self {
            Self::NoDaemon(error) => (NO_DAEMON, error),
            Self::Refused(ErrorDetail { code, message, hint }) => {
                let code = if code == UNACKNOWLEDGED { OPEN } else { REFUSED };
                (code, if hint.is_empty() { anyhow!(message) } else { anyhow!("{message}; {hint}") })
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, error) = error.into_parts();
        Self { code, error }
    }
}

/// Who asks, and whom. One connection for each question.
pub struct Client {
    runtime: Runtime,
    target: Target,
}

enum Target {
    Socket(PathBuf),
    Url(Box<Url>),
}

struct Url {
    host: String,
    port: u16,
    /// The header `Host`.
    authority: HeaderValue,
    tls: Option<Arc<ClientConfig>>,
    token: Option<HeaderValue>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Url(url) => write!(f, "{}", url.authority.to_str().unwrap_or_default()),
        }
    }
}

impl Client {
    /// For the daemon that the command line means.
    pub fn of(args: &AskArgs) -> Result<Self, Error> {
        let made = || {
            let target = match &args.api {
                Some(url) => Target::Url(Box::new(Url::new(url, args)?)),
                None => Target::Socket(paths::find_socket(&args.state, args.id.as_deref())?),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(Self { runtime, target })
        };
        made().map_err(Error::NoDaemon)
    }

    /// What a path shows, as it was said.
    pub fn text(&self, path: &str) -> Result<String, Error> {
        self.ask(Method::GET, path, None, LIMIT)
    }

    /// What a path shows.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        parse(&self.text(path)?)
    }

    /// Has something done.
    pub fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<T, Error> {
        parse(&self.ask(method, path, body, limit)?)
    }

    /// Every status from now on, and as another kind the reason of an end; closed when the daemon ends.
    pub fn statuses(self) -> Result<Receiver<Event>, Error> {
        let mut stream = self.stream("/v1/status/watch")?;
        let (events, inbox) = channel();
        std::thread::spawn(move || stream.all(|event| events.send(event).is_ok()));
        Ok(inbox)
    }

    /// Server-sent events of a path, until the daemon ends.
    pub fn stream(self, path: &str) -> Result<Stream, Error> {
        let response = self.runtime.block_on(async {
            let response = self.exchange(Method::GET, path, None);
            within(LIMIT, response).await
        });
        let response = response.map_err(|error| self.no_answer(error))?;
        if !response.status().is_success() {
            return Err(self.runtime.block_on(async { refused(response).await }));
        }
        Ok(Stream {
            client: self,
            body: response.into_body(),
            rest: Vec::new(),
            searched: 0,
            events: VecDeque::new(),
        })
    }

    /// The answer to a request, as it was said.
    pub fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<String, Error> {
        let answer = self.runtime.block_on(within(limit, async {
            let response = self.exchange(method, path, body).await?;
            if !response.status().is_success() {
                return Ok(Err(refused(response).await));
            }
            let whole = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
            Ok(Ok(String::from_utf8(whole.to_vec()).context("the answer is no text")?))
        }));
        answer.map_err(|error| self.no_answer(error))?
    }

    fn no_answer(&self, error: anyhow::Error) -> Error {
        Error::NoDaemon(match error.downcast::<NotThere>() {
            Ok(NotThere(error)) => error,
            Err(error) => error.context(format!("the daemon at {} does not answer", self.target)),
        })
    }

    /// Sends a request, and waits for the head of the response.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut sender = self.connect().await.map_err(NotThere)?;
        let mut request = Request::builder().method(method).uri(path);
        request = match &self.target {
            Target::Socket(_) => request.header(HOST, "localhost"),
            Target::Url(url) => {
                let request = request.header(HOST, &url.authority);
                url.token.iter().fold(request, |request, token| request.header(AUTHORIZATION, token))
            }
        };
        let body = match body {
            None => Bytes::new(),
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                serde_json::to_vec(body)?.into()
            }
        };
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        match &self.target {
            Target::Socket(path) => {
                let stream = UnixStream::connect(path).await.with_context(|| no_socket(path))?;
                speak(stream).await
            }
            Target::Url(url) => {
                let connect = TcpStream::connect((url.host.as_str(), url.port));
                let stream = within(CONNECT, async { Ok(connect.await?) }).await;
                let stream = stream.with_context(|| format!("no daemon at {}", self.target))?;
                let Some(tls) = &url.tls else { return speak(stream).await };
                let name = ServerName::try_from(url.host.clone())
                    .with_context(|| format!("{} is no name that a certificate can have", url.host))?;
                let shaken = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
                let stream = within(CONNECT, async { Ok(shaken.await?) }).await;
                speak(stream.with_context(|| format!("no TLS with {}", self.target))?).await
            }
        }
    }
}

/// There was not even a connection.
#[derive(Debug)]
struct NotThere(anyhow::Error);

impl fmt::Display for NotThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for NotThere {}

fn no_socket(path: &Path) -> String {
    let help = match path.exists() {
        true => "the daemon that made it has ended, or you may not ask it",
        false => "start one with `flip --config FILE`, or name its socket with --socket",
    };
    format!("no daemon at {} ({help})", path.display())
}

async fn speak<S>(stream: S) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // What goes wrong with it is told where the answer is waited for.
    tokio::spawn(connection);
    Ok(sender)
}

async fn within<T>(limit: Duration, what: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(limit, what).await.unwrap_or_else(|_| Err(anyhow!("nothing came within {limit:?}")))
}

/// Why the daemon says no.
async fn refused(response: Response<Incoming>) -> Error {
    let status = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Error::NoDaemon(anyhow!(error).context("the answer broke off")),
    };
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { error }) => Error::Refused(error),
        // Not in the words of flip: somebody else listens there.
        Err(_) => Error::NoDaemon(anyhow!("it answered {status}, and not as flip does")),
    }
}

/// What a daemon said, in the words of this version.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).context("the daemon speaks another version of flip").map_err(Error::NoDaemon)
}

/// A name as a part of a path.
pub fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte);
    let byte = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(byte).collect()
}

impl Url {
    fn new(text: &str, args: &AskArgs) -> anyhow::Result<Self> {
        const EXPECTED: &str = "expected an address such as https://flip.example.org:7600";
        let uri: Uri = text.parse().with_context(|| format!("--api {text}: {EXPECTED}"))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => bail!("--api {text}: {EXPECTED}"),
        };
        let Some(authority) = uri.authority().filter(|_| matches!(uri.path(), "" | "/")) else {
            bail!("--api {text}: {EXPECTED}");
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let token = args.token_file.as_deref().map(read_token).transpose()?;
        let tls = if tls {
            Some(Arc::new(trust(args.ca.as_deref(), args.client_cert.as_deref())?))
        } else if let Some(file) = args.ca.as_ref().or(args.client_cert.as_ref()) {
            bail!("{} is for TLS, and --api {text} is plain HTTP", file.display());
        } else {
            None
        };
        Ok(Self { host, port, authority: HeaderValue::from_str(authority.as_str())?, tls, token })
    }
}

/// The header with the first token of a file.
fn read_token(file: &Path) -> anyhow::Result<HeaderValue> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read the token in {shown}"))?;
    let text = zeroize::Zeroizing::new(text);
    let line = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
    // As in the daemon's own file: a name may stand before it.
    let token = line.and_then(|line| line.split_whitespace().last());
    let token = token.with_context(|| format!("there is no token in {shown}"))?;
    let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
        .with_context(|| format!("the token in {shown} has characters that no token has"))?;
    header.set_sensitive(true);
    Ok(header)
}

fn trust(ca: Option<&Path>, own: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .with_context(|| format!("cannot use the certificates in {}", file.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                bail!("this host trusts no certificates: install ca-certificates, or name a file with --ca");
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some(own) = own else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_file(own)
        .map_err(|error| anyhow!("cannot use the private key in {}: {error}", own.display()))?;
    builder
        .with_client_auth_cert(certificates(own)?, key)
        .with_context(|| format!("cannot use the certificate in {}", own.display()))
}

/// One of a stream of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What it is, if it is not of the one kind that the stream is about.
    pub kind: String,
    pub data: String,
}

/// A stream of events. A thread that reads it waits as long as it takes.
pub struct Stream {
    client: Client,
    body: Incoming,
    /// What came after the last whole event.
    rest: Vec<u8>,
    /// How far it was searched for the end of an event.
    searched: usize,
    events: VecDeque<Event>,
}

impl Iterator for Stream {
    type Item = Event;

    /// None when the daemon has ended.
    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let frame = self.client.runtime.block_on(self.body.frame())?.ok()?;
            let Ok(data) = frame.into_data() else { continue };
            self.rest.extend_from_slice(&data);
            while let Some(end) = self.rest[self.searched..].windows(2).position(|two| two == b"\n\n") {
                let block: Vec<_> = self.rest.drain(..self.searched + end + 2).collect();
                self.searched = 0;
                self.events.extend(event(&String::from_utf8_lossy(&block)));
            }
            self.searched = self.rest.len().saturating_sub(1);
        }
    }
}

/// An event as it was written; none of a comment.
fn event(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut lines = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.kind = value.to_owned(),
            "data" => lines.push(value),
            _ => {}
        }
    }
    event.data = lines.join("\n");
    (!lines.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_comments_are_not() {
        let read = |kind: &str, data: &str| Some(Event { kind: kind.into(), data: data.into() });
        assert_eq!(event("data: {}\n\n"), read("", "{}"));
        assert_eq!(event("id: 7\nevent: lost\ndata: one\ndata:two\n\n"), read("lost", "one\ntwo"));
        assert_eq!(event(": alive\n\n"), None);
        assert_eq!(event("id: 7\n\n"), None);
    }

    #[test]
    fn names_are_one_part_of_a_path() {
        for (name, path) in [
            ("web-1.a_b~", "web-1.a_b~"),
            ("10.0.0.1/24@eth0", "10.0.0.1%2F24%40eth0"),
            ("ü ?", "%C3%BC%20%3F"),
        ] {
            assert_eq!(encoded(name), path);
        }
    }
}
