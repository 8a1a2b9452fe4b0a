//! For whoever watches the daemon: does it run, and is this server fit for work.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flip_core::event::ItemState;
use flip_core::status::{MemberState, Status};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::error::{ApiError, Refusals};
use super::look::picture;
use super::{Api, json};

/// How long the loop may take to answer.
const ANSWERS: Duration = Duration::from_secs(1);

/// The loop answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Healthy {
    /// Always true.
    pub healthy: bool,
}

/// Whether the daemon answers at all.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Healthy), Refusals))]
pub async fn healthz(State(api): State<Api>) -> Result<Response, ApiError> {
    match timeout(ANSWERS, api.node.answers()).await {
        Ok(true) => Ok(json::response(&Healthy { healthy: true })),
        Ok(false) => Err(ApiError::ending()),
        Err(_) => Err(ApiError::late(ANSWERS)),
    }
}

/// Whether this server is fit for work.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ready {
    /// True when there is no reason against it.
    pub ready: bool,
    /// `alone`: it sees no quorum. `not_joined`: the others do not have it as a member that is up. `failing`: it
    /// cannot hold an item that it should, or cannot let go of one.
    pub reasons: Vec<&'static str>,
}

/// Whether this server has joined, sees a quorum, and nothing fails on it. 503 when not, with the same body.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, body = Ready), (status = 503, body = Ready), Refusals))]
pub async fn readyz(State(api): State<Api>) -> Result<Response, ApiError> {
    let ready = ready(&*picture(&api).await?);
    let code = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (code, json::bytes(&ready)).into_response();
    json::mark(&mut response);
    Ok(response)
}

fn ready(status: &Status) -> Ready {
    let own = status.members.iter().find(|member| member.is_self);
    let joined = own.is_some_and(|own| own.state == MemberState::Up && own.immature_ms.is_none());
    let fails = status.items.iter().any(|item| {
        let bad = |state| matches!(state, ItemState::Failing | ItemState::Unclean);
        let here = item.holders.iter().any(|holder| holder.server == status.node && bad(holder.state));
        here || item.failure.is_some()
    });
    let reasons = [(!status.has_quorum, "alone"), (!joined, "not_joined"), (fails, "failing")];
    let reasons: Vec<_> = reasons.into_iter().filter_map(|(is, why)| is.then_some(why)).collect();
    Ready { ready: reasons.is_empty(), reasons }
}
