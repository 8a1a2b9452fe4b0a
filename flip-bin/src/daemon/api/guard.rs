//! Who asks, whether they may, and what is written down of it: the layer around all paths.
//!
//! | request | without a right |
//! | --- | --- |
//! | over the Unix socket | none: whoever can open it may do all |
//! | `/healthz`, `/readyz`, the page at `/`, which holds nothing itself | anybody |
//! | GET, HEAD | a token, unless no `token_file` and no `read_token_file` is configured: then anybody on this host |
//! | all else | a token of `token_file` |
//!
//! By TCP, the name that a browser was led to by a forged answer of the DNS is not among those that are allowed as
//! `Host`, and a page of somebody else's site is told by its `Origin`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::access::{Access, Given, Role};
use super::error::ApiError;

/// Where a request came from.
#[derive(Clone, Debug)]
pub enum Peer {
    /// The Unix socket.
    Local { uid: u32, pid: Option<i32> },
    /// TCP.
    Remote { addr: SocketAddr, tls: bool, access: Arc<Access> },
}

/// What came of a request that changes something, as whoever listens to events is told.
#[derive(Clone, Debug)]
pub struct Audited(pub Result<String, String>);

pub async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions_mut().remove::<Peer>() else {
        // All listeners say who is there.
        return ApiError::new(StatusCode::FORBIDDEN, "forbidden", "nobody knows who asks").into_response();
    };
    let (method, what) = (request.method().clone(), format!("{} {}", request.method(), request.uri().path()));
    // A plan changes nothing; it is asked for with a body.
    let looks = matches!(method, Method::GET | Method::HEAD) || request.uri().path() == "/v1/plan";
    // What a config file says may have secrets of its checks and scripts.
    let rights = !looks || request.uri().path() == "/v1/catalog";
    let by = match who(&peer, request.headers(), request.uri().path(), !rights) {
        Ok(by) => by,
        Err(error) => {
            let refused = api.refused.fetch_add(1, Ordering::Relaxed);
            // The first few tell of a mistake, more of an attack: neither may fill the disk.
            if refused < LOGGED || refused.is_multiple_of(1000) {
                tracing::warn!(from = %from(&peer), %what, refused = refused + 1, "API: {}", error.message);
            }
            return with_headers(error.into_response());
        }
    };
    let mut response = next.run(request).await;
    if !looks {
        let audited = response.extensions_mut().remove::<Audited>();
        let result = audited.map_or_else(
            || match response.status() {
                status if status.is_success() => Ok(status.to_string()),
                status => Err(status.to_string()),
            },
            |Audited(result)| result,
        );
        api.node.asked(by, from(&peer), what, result).await;
    }
    with_headers(response)
}

/// Refusals that are written to the log one by one.
const LOGGED: u64 = 20;

fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn from(peer: &Peer) -> String {
    match peer {
        Peer::Local { .. } => "the Unix socket".to_owned(),
        Peer::Remote { addr, .. } => addr.to_string(),
    }
}

/// Who asks; an error where they may not.
fn who(peer: &Peer, headers: &HeaderMap, path: &str, looks: bool) -> Result<String, ApiError> {
    let (tls, access) = match peer {
        Peer::Local { uid, pid: Some(pid) } => return Ok(format!("user {uid}, process {pid}")),
        Peer::Local { uid, pid: None } => return Ok(format!("user {uid}")),
        Peer::Remote { tls, access, .. } => (*tls, access),
    };
    let host = check_host(headers, access)?;
    check_origin(headers, host, tls)?;
    if looks && matches!(path, "/healthz" | "/readyz" | "/") {
        return Ok("anybody".to_owned());
    }
    let refuse = |message: &str| ApiError::new(StatusCode::FORBIDDEN, "forbidden", message);
    match access.find(headers.get(AUTHORIZATION)) {
        Given::Token(name, role) if looks || role == Role::Admin => Ok(format!("token {name}")),
        Given::Token(name, _) => {
            Err(refuse(&format!("token {name} may look, and change nothing"))
                .hint("use one of admin.token_file"))
        }
        Given::Nothing if looks && access.is_open() => Ok("anybody".to_owned()),
        Given::Nothing if !looks && !access.has_admin() => {
            Err(refuse("nobody may change anything by this address, because admin.token_file is not set")
                .hint("set it, or use the Unix socket"))
        }
        Given::Nothing => {
            Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", "there is no token in the request")
                .hint("send the header Authorization: Bearer TOKEN, with a token of admin.token_file"))
        }
        Given::Wrong => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this token is none of this daemon's",
        )
        .hint("the header is Authorization: Bearer TOKEN, with a token of admin.token_file")),
    }
}

/// What a request says whom it is for. A page that had its own name lead here by DNS says that name.
fn check_host<'h>(headers: &'h HeaderMap, access: &Access) -> Result<&'h str, ApiError> {
    let mut given = headers.get_all(HOST).iter();
    let host = match (given.next(), given.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    let refuse = |message: String| ApiError::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", message);
    let Some((host, authority)) = host.and_then(|host| Some((host, host.parse::<Authority>().ok()?))) else {
        return Err(refuse("a request has one header Host, with the name of this server".to_owned()));
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    if name.parse::<IpAddr>().is_ok() || name == "localhost" || access.hosts().contains(&name) {
        return Ok(host);
    }
    Err(refuse(format!("the request is for {name:?}, which is no name of this server's"))
        .hint("ask by its address, or list the name in admin.hosts"))
}

/// Where the page is from that has a browser ask.
fn check_origin(headers: &HeaderMap, host: &str, tls: bool) -> Result<(), ApiError> {
    let own = format!("{}://{host}", if tls { "https" } else { "http" });
    match headers.get(ORIGIN) {
        None => Ok(()),
        Some(origin) if origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()) => Ok(()),
        Some(_) => {
            let message = "a page of another site asks";
            Err(ApiError::new(StatusCode::FORBIDDEN, "wrong_origin", message)
                .hint(format!("only pages of {own} may")))
        }
    }
}
