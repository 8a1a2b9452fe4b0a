//! The page at `/`: one file, which asks this daemon and nobody else.

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use axum::response::{Html, IntoResponse, Response};

use super::error::{ApiError, Refusals};

const PAGE: &str = include_str!("page.html");
/// What stands in the page where its number goes.
const NONCE: &str = "{{nonce}}";

/// The cluster as a page for browsers.
#[utoipa::path(get, path = "/", tag = "look", responses(
    (status = 200, body = String, content_type = "text/html", description = "one file without references to others"), Refusals))]
pub async fn page() -> Result<Response, ApiError> {
    let mut random = [0; 16];
    flip_systems::entropy(&mut random).map_err(|_| ApiError::ending())?;
    let nonce: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut response = Html(PAGE.replace(NONCE, &nonce)).into_response();
    // Names come from configs: should one ever become more than text, nothing of it runs, and nothing leaves.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}
