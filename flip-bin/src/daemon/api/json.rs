//! JSON in and out.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// Bytes of a body at most.
pub const BODY: usize = 1024 * 1024;
/// How long a body may take to arrive.
const ARRIVES: Duration = Duration::from_secs(10);

/// A value as a line of JSON.
pub fn bytes<T: Serialize>(value: &T) -> Bytes {
    // What is shown are plain structures with names as keys: they always have a form.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// Says that a response is JSON.
pub fn mark(response: &mut Response) {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
}

/// A value as a response.
pub fn response<T: Serialize>(value: &T) -> Response {
    let mut response = bytes(value).into_response();
    mark(&mut response);
    response
}

/// A response that is written on another thread, because it may be large: the loop does not wait for it.
pub async fn written<F>(write: F) -> Result<Response, ApiError>
where
    F: FnOnce() -> Result<Response, ApiError> + Send + 'static,
{
    tokio::task::spawn_blocking(write).await.map_err(|_| ApiError::ending())?
}

/// The body of a request, understood whole or refused.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            let message = "the body is not said to be JSON";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
                .hint("send the header Content-Type: application/json"));
        }
        parse(&body(request).await?).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// The whole body of a request.
pub async fn body(request: Request) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body has more than {BODY} bytes"),
        )
        .hint("send fewer changes at a time")
    };
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > BODY as u64) {
        return Err(too_large());
    }
    let whole = Limited::<Body>::new(request.into_body(), BODY).collect();
    match tokio::time::timeout(ARRIVES, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            format!("the body ended early: {error}"),
        )),
        Err(_) => {
            let message = format!("the body did not arrive within {ARRIVES:?}");
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }
    }
}

/// Reads a value; what does not fit is named with its path.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let mut source = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() {
            let at = if path == "." { String::new() } else { format!("{path}: ") };
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", format!("{at}{error}"))
                .hint("GET /openapi.json says what is expected")
        } else {
            ApiError::new(StatusCode::BAD_REQUEST, "bad_json", format!("the body is no JSON: {error}"))
        }
    })?;
    source.end().map_err(|error| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad_json",
            format!("something follows the JSON of the body: {error}"),
        )
    })?;
    Ok(value)
}

/// What stands behind the `?` of a request.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(value)| Self(value)).map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, "bad_query", error.body_text())
                .hint("GET /openapi.json lists what may stand behind the ?")
        })
    }
}

/// The part of the path that names something.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(error) => Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_path", error.body_text())
                .hint("write what is no letter, digit or . _ - ~ as % and two hexadecimal digits, in UTF-8")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        one: u8,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        list: Vec<Inner>,
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_path() {
        let table = [
            (r#"{"list": [{"one": 1}]}"#, 200, ""),
            (r#"{"list": [{"one": 1}, {"one": 1, "two": 2}]}"#, 422, "list[1].two: unknown field `two`"),
            (r#"{"list": [{"one": "1"}]}"#, 422, "list[0].one: invalid type: string \"1\", expected u8"),
            (r#"{"list": [{"one": 256}]}"#, 422, "list[0].one: invalid value: integer `256`"),
            ("{}", 422, "missing field `list`"),
            (r#"{"list": [}"#, 400, "the body is no JSON"),
            ("", 400, "the body is no JSON"),
            (r#"{"list": []} x"#, 400, "something follows"),
        ];
        for (text, status, message) in table {
            match parse::<Outer>(text.as_bytes()) {
                Ok(_) => assert_eq!(status, 200, "{text}"),
                Err(error) => {
                    assert_eq!(error.status.as_u16(), status, "{text}");
                    assert!(error.message.starts_with(message), "{text}: {}", error.message);
                }
            }
        }
    }
}
