//! One HTTP/1.1 request on a connection of its own: no pool, no proxy, no redirect.

use std::sync::Arc;

use flip_core::config::checks::{Http, Tls};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{aside, one_line, tcp};
use crate::tls::{self, Trust};

/// Most bytes of a body that are looked at.
const BODY: usize = 1 << 20;

pub(super) async fn ask(check: &Http) -> Result<(), String> {
    let stream = tcp::connect(&check.to).await?;
    match &check.tls {
        None => exchange(stream, check).await,
        Some(tls) => {
            let settings = tls.clone();
            let client = aside(move || client(&settings)).await??;
            let name = tls.name.as_deref().unwrap_or(&check.to.host);
            exchange(tls::wrap(stream, name, Arc::new(client)).await?, check).await
        }
    }
}

fn client(tls: &Tls) -> Result<ClientConfig, String> {
    let trust = match (&tls.ca_file, tls.verify) {
        (_, false) => Trust::Anyone,
        (Some(file), true) => Trust::File(file),
        (None, true) => Trust::Host,
    };
    let mut client = tls::client(trust)?;
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(client)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    check: &Http,
) -> Result<(), String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let request = request(check)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        judge(check, response).await
    };
    // Both are dropped together when the run is over, and the connection is closed.
    tokio::pin!(answered, connection);
    tokio::select! {
        biased;
        result = &mut answered => result,
        // The whole answer may be there already.
        _ended = &mut connection => answered.await,
    }
}

fn request(check: &Http) -> Result<Request<Empty<Bytes>>, String> {
    let default = if check.tls.is_some() { 443 } else { 80 };
    let host = match check.to.host.contains(':') {
        true => format!("[{}]", check.to.host),
        false => check.to.host.clone(),
    };
    let host = if check.to.port == default { host } else { format!("{host}:{}", check.to.port) };
    let mut request = Request::builder().method(check.method.as_str()).uri(check.path.as_str());
    let given = |name: &str| check.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    if !given("host") {
        request = request.header(HOST, host);
    }
    if !given("user-agent") {
        request = request.header(USER_AGENT, "flip health check");
    }
    for (name, value) in &check.headers {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(|error| format!("cannot make the request: {error}"))
}

async fn judge(check: &Http, response: Response<Incoming>) -> Result<(), String> {
    let code = response.status().as_u16();
    if !check.status.iter().any(|(from, to)| (*from..=*to).contains(&code)) {
        let range = |(from, to): &(u16, u16)| {
            if from == to { from.to_string() } else { format!("{from} to {to}") }
        };
        let expected: Vec<_> = check.status.iter().map(range).collect();
        return Err(format!("answered {code}, expected {}", expected.join(" or ")));
    }
    if check.body_equals.is_none() && check.body_contains.is_none() {
        return Ok(());
    }
    let body = Limited::new(response.into_body(), BODY).collect().await;
    let body =
        body.map_err(|error| format!("cannot read the body (at most {BODY} bytes): {error}"))?.to_bytes();
    let begins = || {
        let text = String::from_utf8_lossy(&body);
        one_line(&text.chars().take(60).collect::<String>())
    };
    if let Some(expected) = &check.body_equals
        && body != expected.as_bytes()
    {
        return Err(format!("the body is not what was expected; it begins with \"{}\"", begins()));
    }
    if let Some(part) = &check.body_contains
        && !body.windows(part.len()).any(|window| window == part.as_bytes())
    {
        return Err(format!("the body does not contain \"{part}\"; it begins with \"{}\"", begins()));
    }
    Ok(())
}

/// An error of hyper with its cause, which says more.
fn broken(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("no HTTP answer: {error}: {cause}"),
        None => format!("no HTTP answer: {error}"),
    }
}
