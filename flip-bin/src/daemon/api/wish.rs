//! What operators want of a cluster.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use flip_core::Command;
use flip_systems::flip::Refusal;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::Api;
use super::error::{ApiError, Refusals};
use super::guard::Audited;
use super::json::{self, Json, Name};
use crate::key::{HexKey, KeyId};

/// How long the loop may take to carry out a wish.
const DONE: Duration = Duration::from_secs(5);
/// How long plugins may take to stop and to start.
const RELOADED: Duration = Duration::from_secs(80);

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// One line for people.
    pub done: String,
}

/// What came of a wish, within `limit`.
pub async fn done(
    limit: Duration,
    wish: impl Future<Output = Result<String, Refusal>>,
) -> Result<Response, ApiError> {
    match timeout(limit, wish).await {
        Ok(Ok(done)) => Ok(said(done)),
        Ok(Err(refusal)) => Err(refusal.into()),
        Err(_) => Err(ApiError::late(limit)),
    }
}

/// Says what was done, to whoever asked and to those who listen to events.
fn said(done: String) -> Response {
    let mut response = json::response(&Done { done: done.clone() }).into_response();
    response.extensions_mut().insert(Audited(Ok(done)));
    response
}

async fn command(api: &Api, command: Command) -> Result<Response, ApiError> {
    done(DONE, api.node.command(command)).await
}

/// Takes all items from a server, in planned moves, until it is undrained. Answers before they have moved.
#[utoipa::path(post, path = "/v1/drain/{server}", tag = "operate", params(("server", description = "its id")),
    responses((status = 200, body = Done), Refusals))]
pub async fn drain(State(api): State<Api>, Name(server): Name) -> Result<Response, ApiError> {
    command(&api, Command::Drain { server }).await
}

/// Lets a server have items again.
#[utoipa::path(post, path = "/v1/undrain/{server}", tag = "operate", params(("server", description = "its id")),
    responses((status = 200, body = Done), Refusals))]
pub async fn undrain(State(api): State<Api>, Name(server): Name) -> Result<Response, ApiError> {
    command(&api, Command::Undrain { server }).await
}

/// Says that an unclean item is released, whatever its hook said. Make sure of it first: nobody else looks.
#[utoipa::path(post, path = "/v1/confirm-released/{item}", tag = "operate",
    params(("item", description = "its name, or one of its addresses")), responses((status = 200, body = Done), Refusals))]
pub async fn confirm_released(State(api): State<Api>, Name(item): Name) -> Result<Response, ApiError> {
    command(&api, Command::ConfirmReleased { item }).await
}

/// Tries hooks of an item again that failed on this server.
#[utoipa::path(post, path = "/v1/retry/{item}", tag = "operate",
    params(("item", description = "its name, or one of its addresses")), responses((status = 200, body = Done), Refusals))]
pub async fn retry(State(api): State<Api>, Name(item): Name) -> Result<Response, ApiError> {
    command(&api, Command::Retry { item }).await
}

/// Tells the neighbours again of an item that is on this server.
#[utoipa::path(post, path = "/v1/announce/{item}", tag = "operate",
    params(("item", description = "its name, or one of its addresses")), responses((status = 200, body = Done), Refusals))]
pub async fn announce(State(api): State<Api>, Name(item): Name) -> Result<Response, ApiError> {
    command(&api, Command::Announce { item: Some(item) }).await
}

/// Tells the neighbours again of all items that are on this server.
#[utoipa::path(post, path = "/v1/announce", tag = "operate", responses((status = 200, body = Done), Refusals))]
pub async fn announce_all(State(api): State<Api>) -> Result<Response, ApiError> {
    command(&api, Command::Announce { item: None }).await
}

/// Reads scripts, tokens and certificates again. All are looked at first: if one cannot be used, everything stays as it is.
#[utoipa::path(post, path = "/v1/reload", tag = "operate", responses((status = 200, body = Done), Refusals))]
pub async fn reload(State(api): State<Api>) -> Result<Response, ApiError> {
    // It goes on when whoever asked goes away.
    let reload = std::sync::Arc::clone(&api.reload);
    let run = tokio::spawn(async move { reload.run().await });
    done(RELOADED, async { run.await.unwrap_or(Err(Refusal::Ended)) }).await
}

/// A new key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// 64 hexadecimal digits.
    #[schema(value_type = String)]
    pub key: HexKey,
}

/// Adds a key to the ring of the cluster. It opens from then on and seals nothing yet.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", request_body = NewKey, responses((status = 200, body = Done), Refusals))]
pub async fn key_add(State(api): State<Api>, Json(new): Json<NewKey>) -> Result<Response, ApiError> {
    command(&api, Command::KeyAdd { key: new.key.0 }).await
}

/// Seals with another key of the ring.
#[utoipa::path(post, path = "/v1/keys/{key}/use", tag = "keys",
    params(("key", description = "its id: two hexadecimal digits")), responses((status = 200, body = Done), Refusals))]
pub async fn key_use(State(api): State<Api>, Name(key): Name) -> Result<Response, ApiError> {
    command(&api, Command::KeyUse { id: key_id(&key)?.0 }).await
}

/// Removes a key that is not in use.
#[utoipa::path(delete, path = "/v1/keys/{key}", tag = "keys",
    params(("key", description = "its id: two hexadecimal digits")), responses((status = 200, body = Done), Refusals))]
pub async fn key_remove(State(api): State<Api>, Name(key): Name) -> Result<Response, ApiError> {
    command(&api, Command::KeyRemove { id: key_id(&key)?.0 }).await
}

fn key_id(text: &str) -> Result<KeyId, ApiError> {
    text.parse().map_err(|why: String| ApiError::not_found(why))
}
