//! Changes of what the cluster consists of.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use flip_core::Command;
use flip_core::catalog::{Edit, Listing};
use flip_core::limits::EDITS;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::error::{ApiError, Refusals};
use super::json::{self, Json};
use super::wish::done;

/// How long the loop may take to hand out its catalog.
const SHOWN: Duration = Duration::from_secs(5);
/// The default of `timeout_ms`.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest `timeout_ms`.
const LONGEST: Duration = Duration::from_secs(60);
/// How long the loop may take beyond that.
const MORE: Duration = Duration::from_secs(5);

/// Edits that happen all or not at all.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Edits {
    /// What is changed, in this order.
    pub edits: Vec<Edit>,
    /// Answer when it is on the disk of the server that is asked, and not only when it is on those of a majority.
    #[serde(default)]
    pub local: bool,
    /// Also what takes more than one vote at once.
    #[serde(default)]
    pub force: bool,
    /// After this long the answer says how far the change has come, ms: 1 to 60000, default 10000.
    pub timeout_ms: Option<u64>,
}

/// Changes the catalog of the cluster. The answer says whether a majority has the change on disk, or only this server.
#[utoipa::path(post, path = "/v1/edit", tag = "edit", request_body = Edits,
    responses((status = 200, body = super::wish::Done), Refusals))]
pub async fn edit(State(api): State<Api>, Json(wanted): Json<Edits>) -> Result<Response, ApiError> {
    let Edits { edits, local, force, timeout_ms } = wanted;
    let invalid =
        |message: String| ApiError::new(axum::http::StatusCode::UNPROCESSABLE_ENTITY, "invalid", message);
    if edits.is_empty() || edits.len() > EDITS {
        return Err(invalid(format!("edits: found {}, expected 1 to {EDITS}", edits.len())));
    }
    let timeout = timeout_ms.map_or(TIMEOUT, Duration::from_millis);
    if timeout.is_zero() || timeout > LONGEST {
        let message =
            format!("timeout_ms: found {}, expected 1 to {}", timeout.as_millis(), LONGEST.as_millis());
        return Err(invalid(message));
    }
    let command = Command::Edit { edits, local, force, timeout };
    done(timeout + MORE, api.node.command(command)).await
}

/// What the cluster consists of: servers, systems and items as a config file writes them, and where each is from.
#[utoipa::path(get, path = "/v1/catalog", tag = "edit", responses((status = 200, body = Listing), Refusals))]
pub async fn catalog(State(api): State<Api>) -> Result<Response, ApiError> {
    match tokio::time::timeout(SHOWN, api.node.catalog()).await {
        Ok(Ok(catalog)) => json::written(move || Ok(json::response(&catalog.list()))).await,
        Ok(Err(refusal)) => Err(refusal.into()),
        Err(_) => Err(ApiError::late(SHOWN)),
    }
}
