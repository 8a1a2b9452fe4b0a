//! Looking closer: why an item is where it is, what would move if, and what a monitoring system collects.

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use flip_core::plan::{Plan, WhatIf};
use flip_core::why::{ItemMoved, Why};
use flip_systems::clock;
use flip_systems::flip::Refusal;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::{ApiError, Refusals};
use super::json::{self, Asked, Json, Name};
use crate::see;

/// How long the loop may take.
const SEEN: Duration = Duration::from_secs(5);

async fn seen<T: Serialize + Send + 'static>(
    what: impl Future<Output = Result<T, Refusal>>,
) -> Result<Response, ApiError> {
    match timeout(SEEN, what).await {
        Ok(Ok(seen)) => json::written(move || Ok(json::response(&seen))).await,
        Ok(Err(refusal)) => Err(refusal.into()),
        Err(_) => Err(ApiError::late(SEEN)),
    }
}

/// In which form.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Form {
    /// As sentences for people instead of JSON.
    #[serde(default)]
    pub text: bool,
}

/// Why an item is where it is, step by step.
#[utoipa::path(get, path = "/v1/why/{item}", tag = "look",
    params(("item", description = "its name, one of its addresses, or system/name"), Form),
    responses((status = 200, body = Why), Refusals))]
pub async fn why(
    State(api): State<Api>,
    Name(item): Name,
    Asked(form): Asked<Form>,
) -> Result<Response, ApiError> {
    let why = api.node.why(&item);
    if form.text {
        return match timeout(SEEN, why).await {
            Ok(Ok(why)) => Ok(see::sentences(&why).into_response()),
            Ok(Err(refusal)) => Err(refusal.into()),
            Err(_) => Err(ApiError::late(SEEN)),
        };
    }
    seen(why).await
}

/// What happened to all items, oldest first, as far as this server remembers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Moves {
    /// The time of the answer by the host's clock: milliseconds since 1970.
    pub wall_ms: u64,
    pub moves: Vec<ItemMoved>,
}

/// What happened to all items.
#[utoipa::path(get, path = "/v1/moves", tag = "look", responses((status = 200, body = Moves), Refusals))]
pub async fn moves(State(api): State<Api>) -> Result<Response, ApiError> {
    seen(async {
        api.node
            .moves()
            .await
            .map(|moves| Moves { wall_ms: clock::wall_millis(), moves })
            .ok_or(Refusal::Ended)
    })
    .await
}

/// What could happen.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// All of it at once.
    pub what_if: Vec<WhatIf>,
}

/// Where all items are now.
#[utoipa::path(get, path = "/v1/plan", tag = "look", responses((status = 200, body = Plan), Refusals))]
pub async fn plan_now(State(api): State<Api>) -> Result<Response, ApiError> {
    seen(api.node.plan(Vec::new())).await
}

/// What would move if something happened. Changes nothing.
#[utoipa::path(post, path = "/v1/plan", tag = "look", request_body = Question,
    responses((status = 200, body = Plan), Refusals))]
pub async fn plan(State(api): State<Api>, Json(question): Json<Question>) -> Result<Response, ApiError> {
    seen(api.node.plan(question.what_if)).await
}

/// The metrics of this server in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text", description = "metrics"), Refusals))]
pub async fn metrics(State(api): State<Api>) -> Result<Response, ApiError> {
    match timeout(SEEN, api.node.metrics()).await {
        Ok(Some(text)) => {
            let mut response = text.into_response();
            let kind = HeaderValue::from_static(flip_systems::flip::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            Ok(response)
        }
        Ok(None) => Err(ApiError::ending()),
        Err(_) => Err(ApiError::late(SEEN)),
    }
}
