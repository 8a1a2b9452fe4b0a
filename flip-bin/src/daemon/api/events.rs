//! What happened, as a stream: from a number on, without a gap, and then on and on.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use flip_systems::flip::Told;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::{ApiError, Refusals};
use super::json::Asked;
use super::stream::Writer;

/// From where on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct From {
    /// The number of the first event that is wanted; 0 is the oldest that is kept. Without it, only what happens from
    /// now on. The header `Last-Event-ID` counts before it: its event was the last that came.
    pub from: Option<u64>,
    /// False ends the stream after what has happened until now.
    pub follow: Option<bool>,
}

/// Events that were dropped before they were read.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// How many; none where the number to begin from is of an earlier life of the daemon, and nobody knows.
    pub lost: Option<u64>,
}

/// Events from a number on, and then those that come.
///
/// Server-sent events: the id of each is its number, its data a record as JSON. An event of kind `lost` tells how many were
/// dropped because they are too old or the reader is too slow; one of kind `error` why the stream ends.
#[utoipa::path(get, path = "/v1/events", tag = "look", params(From,
    ("Last-Event-ID" = Option<u64>, Header, description = "the number of the last event that came")), responses(
    (status = 200, body = flip_core::record::Record, content_type = "text/event-stream", description = "one event for each record"),
    Refusals,
))]
pub async fn events(
    State(api): State<Api>,
    Asked(asked): Asked<From>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = headers.get("last-event-id").map(|id| id.to_str().ok().and_then(|id| id.parse::<u64>().ok()));
    let from = match last {
        Some(Some(last)) => last.saturating_add(1),
        Some(None) => {
            let message = "the header Last-Event-ID is no number of an event";
            return Err(ApiError::new(axum::http::StatusCode::BAD_REQUEST, "bad_header", message)
                .hint("leave it out, or send the id of the last event that came"));
        }
        None => asked.from.unwrap_or_else(|| api.node.newest() + 1),
    };
    let follow = asked.follow.unwrap_or(true);
    let mut reader = api.node.history(from);
    let (writer, response) = Writer::begin(&api)?;
    tokio::spawn(async move {
        loop {
            let told = match follow {
                true => writer.wait(reader.next()).await,
                false => Ok(reader.ready()),
            };
            let sent = match told {
                Ok(Some(Told::Record(record))) => {
                    let Ok(line) = serde_json::to_string(&*record) else { return };
                    writer.send(Some(record.seq), None, &line).await
                }
                Ok(Some(Told::Lost { records })) => {
                    let Ok(line) = serde_json::to_string(&Lost { lost: records }) else { return };
                    writer.send(None, Some("lost"), &line).await
                }
                Ok(None) if follow => return writer.end(&ApiError::ending()),
                Ok(None) | Err(_) => return,
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(response)
}
