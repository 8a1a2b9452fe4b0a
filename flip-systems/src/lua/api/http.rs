//! HTTP requests: one connection each, no proxy, no redirects, so that what was asked is what is known.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::lua::limits;
use crate::tls::{self, Trust};

/// What is asked.
pub(in crate::lua) struct Ask {
    pub(in crate::lua) method: String,
    pub(in crate::lua) url: String,
    pub(in crate::lua) headers: Vec<(String, Vec<u8>)>,
    pub(in crate::lua) body: Vec<u8>,
    pub(in crate::lua) timeout: Duration,
    /// A file of certificates to trust, instead of the host's.
    pub(in crate::lua) ca_file: Option<String>,
}

/// What was answered.
pub(in crate::lua) struct Answered {
    pub(in crate::lua) status: u16,
    pub(in crate::lua) headers: Vec<(String, Vec<u8>)>,
    pub(in crate::lua) body: Vec<u8>,
}

/// Asks, and reads the whole answer.
pub(in crate::lua) async fn ask(ask: Ask) -> Result<Answered, String> {
    let (url, timeout) = (ask.url.clone(), ask.timeout);
    match tokio::time::timeout(timeout, exchange(ask)).await {
        Ok(Ok(answered)) => Ok(answered),
        Ok(Err(error)) => Err(format!("http: {url}: {error}")),
        Err(_) => Err(format!("http: {url}: no answer within {timeout:?}")),
    }
}

async fn exchange(ask: Ask) -> Result<Answered, String> {
    let uri: Uri = ask.url.parse().map_err(|error| format!("not a URL: {error}"))?;
    let host = uri.host().ok_or("expected a whole URL, like http://host/path")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err("expected a URL that begins with http:// or https://".to_owned()),
    };
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let request = request(&ask, &uri)?;
    let stream =
        TcpStream::connect((host, port)).await.map_err(|error| format!("cannot connect: {error}"))?;
    if !tls {
        return speak(stream, request).await;
    }
    let client = client(ask.ca_file).await?;
    speak(tls::wrap(stream, host, client).await?, request).await
}

fn request(ask: &Ask, uri: &Uri) -> Result<Request<Full<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(ask.method.as_str()).uri(path);
    for (name, value) in &ask.headers {
        request = request.header(name.as_str(), value.as_slice());
    }
    let mut request = request
        .body(Full::new(Bytes::from(ask.body.clone())))
        .map_err(|error| format!("this cannot be asked: {error}"))?;
    if !request.headers().contains_key(HOST) {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let value = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
        request.headers_mut().insert(HOST, value);
    }
    Ok(request)
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answered, String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, limits::TEXT)
            .collect()
            .await
            .map_err(|error| format!("the body: {error} (at most {} bytes)", limits::TEXT))?;
        let headers = parts.headers.iter();
        Ok(Answered {
            status: parts.status.as_u16(),
            headers: headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
            body: body.to_bytes().to_vec(),
        })
    };
    tokio::pin!(talk);
    // Within this future, so that dropping it closes the connection.
    tokio::select! {
        biased;
        answered = &mut talk => answered,
        ended = connection => match ended {
            Ok(()) => talk.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// TLS as the certificates of a file allow it, or those of this host, made once.
async fn client(ca_file: Option<String>) -> Result<Arc<ClientConfig>, String> {
    static HOST: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if ca_file.is_none()
        && let Some(client) = HOST.get()
    {
        return Ok(Arc::clone(client));
    }
    let made = tokio::task::spawn_blocking(move || match ca_file {
        None => Ok(Arc::clone(HOST.get_or_init({
            let client = Arc::new(tls::client(Trust::Host)?);
            move || client
        }))),
        Some(file) => tls::client(Trust::File(&file)).map(Arc::new),
    });
    made.await.map_err(|error| error.to_string())?
}
