//! What is said when something is refused: always the same JSON, `{"error": {"code", "message", "hint"}}`.

use axum::http::header::{ALLOW, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use flip_systems::flip;
use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

use super::guard::Audited;
use super::json;

/// The code of an edit that is in effect, but not on the disks of a majority in time.
pub const UNACKNOWLEDGED: &str = "unacknowledged";

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// One word for programs, such as `not_found`.
    pub code: String,
    /// What happened, for people.
    pub message: String,
    /// What to do next; empty where there is nothing to add.
    pub hint: String,
}

/// Every operation may be refused, always in the same form.
#[derive(IntoResponses)]
pub enum Refusals {
    /// The request cannot be understood (400, 408, 413, 415, 422), is not allowed (401, 403), or asks for what is not there
    /// (404, 405).
    #[response(status = "4XX")]
    #[expect(dead_code, reason = "only its schema is used")]
    Client(#[to_schema] ErrorBody),
    /// The daemon cannot answer now (503), or did not in time (504).
    #[response(status = "5XX")]
    #[expect(dead_code, reason = "only its schema is used")]
    Server(#[to_schema] ErrorBody),
}

/// Why a request was refused.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: StatusCode,
    code: &'static str,
    pub message: String,
    hint: String,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), hint: String::new() }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// There is nothing of that name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// The node runs no more.
    pub fn ending() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "the daemon is ending")
            .hint("ask another server's")
    }

    /// The loop did not answer.
    pub fn late(limit: std::time::Duration) -> Self {
        let message = format!("the daemon did not say within {limit:?} whether it was done");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "late", message).hint("look at flip status and ask again")
    }

    pub fn body(&self) -> ErrorBody {
        let Self { code, message, hint, .. } = self.clone();
        ErrorBody { error: ErrorDetail { code: code.to_owned(), message, hint } }
    }
}

impl From<flip::Refusal> for ApiError {
    fn from(refusal: flip::Refusal) -> Self {
        match refusal {
            flip::Refusal::Ended => Self::ending(),
            flip::Refusal::Refused(why) => Self::new(StatusCode::CONFLICT, "refused", why),
            flip::Refusal::Late(how_far) => Self::new(StatusCode::GATEWAY_TIMEOUT, UNACKNOWLEDGED, how_far)
                .hint("do not ask for it again: it was made"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, json::bytes(&self.body())).into_response();
        json::mark(&mut response);
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Audited(Err(self.message)));
        response
    }
}

/// No such path.
pub async fn no_path(uri: axum::http::Uri) -> ApiError {
    ApiError::not_found(format!("there is nothing at {}", uri.path()))
        .hint("GET /openapi.json lists all there is")
}

/// The path is there, and this is not to be done with it.
pub async fn no_method(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("{method} means nothing at {}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        .hint(format!("the header {ALLOW} of this answer lists what does"))
}
