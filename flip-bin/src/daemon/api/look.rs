//! Looking: the status, whole and in parts.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use flip_core::config::SystemKind;
use flip_core::status::{ItemStatus, KeyStatus, MemberStatus, Status};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::{ApiError, Refusals};
use super::json::{self, Asked, Name};
use super::stream::Writer;

/// How long the loop may take to show its picture.
const SHOWN: Duration = Duration::from_secs(5);
/// Items from which on an answer is written on another thread.
const MANY: usize = 200;

/// The picture as of now.
pub async fn picture(api: &Api) -> Result<Arc<Status>, ApiError> {
    match timeout(SHOWN, api.node.status()).await {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err(ApiError::ending()),
        Err(_) => Err(ApiError::late(SHOWN)),
    }
}

/// What is made of the picture.
async fn show<T, F>(api: &Api, part: F) -> Result<Response, ApiError>
where
    T: Serialize,
    F: FnOnce(&Status) -> Result<T, ApiError> + Send + 'static,
{
    let status = picture(api).await?;
    let written = move || part(&status).map(|part| json::response(&part));
    json::written(written).await
}

/// The whole picture.
#[utoipa::path(get, path = "/v1/status", tag = "look", responses((status = 200, body = Status), Refusals))]
pub async fn status(State(api): State<Api>) -> Result<Response, ApiError> {
    let status = picture(&api).await?;
    if status.items.len() < MANY {
        return Ok(json::response(&*status));
    }
    json::written(move || Ok(json::response(&*status))).await
}

/// The whole picture now and after every change.
///
/// Server-sent events: the data of each is a status as of `/v1/status`. Changes that follow each other faster than they
/// are read are one.
#[utoipa::path(get, path = "/v1/status/watch", tag = "look", responses(
    (status = 200, body = String, content_type = "text/event-stream", description = "one event for each change"),
    Refusals,
))]
pub async fn watch(State(api): State<Api>) -> Result<Response, ApiError> {
    // Told of changes from here on, so that none is lost between the first picture and the next.
    let mut changes = api.changes.clone();
    changes.mark_unchanged();
    let first = picture(&api).await?;
    let first = tokio::task::spawn_blocking(move || serde_json::to_string(&*first)).await;
    let Ok(Ok(first)) = first else { return Err(ApiError::ending()) };
    let (writer, response) = Writer::begin(&api.streams)?;
    tokio::spawn(async move {
        let mut next = Arc::from(first);
        while writer.send(None, None, &next).await.is_ok() {
            match writer.wait(changes.changed()).await {
                Ok(Ok(())) => next = Arc::clone(&changes.borrow_and_update()),
                Ok(Err(_)) => return writer.end(&ApiError::ending()),
                Err(_) => return,
            }
        }
    });
    Ok(response)
}

/// All servers, in listed order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Members {
    pub members: Vec<MemberStatus>,
}

/// All servers.
#[utoipa::path(get, path = "/v1/members", tag = "look", responses((status = 200, body = Members), Refusals))]
pub async fn members(State(api): State<Api>) -> Result<Response, ApiError> {
    show(&api, |status| Ok(Members { members: status.members.clone() })).await
}

/// One server.
#[utoipa::path(get, path = "/v1/members/{server}", tag = "look", params(("server", description = "its id")),
    responses((status = 200, body = MemberStatus), Refusals))]
pub async fn member(State(api): State<Api>, Name(server): Name) -> Result<Response, ApiError> {
    show(&api, move |status| {
        let found = status.members.iter().find(|member| member.id == server).cloned();
        found.ok_or_else(|| {
            ApiError::not_found(format!("there is no server {server}")).hint("GET /v1/members lists them")
        })
    })
    .await
}

/// Which items.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Only those of this system.
    pub system: Option<String>,
    /// Only those that this server holds, or is about to hold or to let go.
    pub holder: Option<String>,
}

/// Items, in listed order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Items {
    pub items: Vec<ItemStatus>,
}

/// All items, or some.
#[utoipa::path(get, path = "/v1/items", tag = "look", params(Which), responses((status = 200, body = Items), Refusals))]
pub async fn items(State(api): State<Api>, Asked(which): Asked<Which>) -> Result<Response, ApiError> {
    show(&api, move |status| {
        let wanted = |item: &&ItemStatus| {
            which.system.as_ref().is_none_or(|system| item.system == *system)
                && which
                    .holder
                    .as_ref()
                    .is_none_or(|id| item.holders.iter().any(|holder| holder.server == *id))
        };
        Ok(Items { items: status.items.iter().filter(wanted).cloned().collect() })
    })
    .await
}

/// One item.
#[utoipa::path(get, path = "/v1/items/{item}", tag = "look",
    params(("item", description = "its name"), Which), responses((status = 200, body = ItemStatus), Refusals))]
pub async fn item(
    State(api): State<Api>,
    Name(name): Name,
    Asked(which): Asked<Which>,
) -> Result<Response, ApiError> {
    show(&api, move |status| {
        let in_system =
            |item: &&ItemStatus| which.system.as_ref().is_none_or(|system| item.system == *system);
        let mut found = status.items.iter().filter(in_system).filter(|item| item.item == name);
        match (found.next(), found.next()) {
            (Some(item), None) => Ok(item.clone()),
            (None, _) => {
                Err(ApiError::not_found(format!("there is no item {name}")).hint("GET /v1/items lists them"))
            }
            (Some(one), Some(other)) => {
                let message = format!("the systems {} and {} have an item {name}", one.system, other.system);
                Err(ApiError::new(axum::http::StatusCode::CONFLICT, "ambiguous", message)
                    .hint("add ?system=NAME"))
            }
        }
    })
    .await
}

/// All systems, in listed order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Systems {
    pub systems: Vec<SystemInfo>,
}

/// A system: a list of items and how they are placed and acted on.
#[derive(Debug, Serialize, ToSchema)]
pub struct SystemInfo {
    /// Its name.
    pub name: String,
    /// How its items are placed: `shard` on one server each, `replicate` on all.
    pub placement: &'static str,
    /// What runs where an item arrives.
    pub alive: String,
    /// What runs where an item leaves.
    pub down: String,
    /// Its settings, as they are on the answering server.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// How many items it has.
    pub items: usize,
    /// Ids of the servers that take part in it.
    pub servers: Vec<String>,
}

/// All systems.
#[utoipa::path(get, path = "/v1/systems", tag = "look", responses((status = 200, body = Systems), Refusals))]
pub async fn systems(State(api): State<Api>) -> Result<Response, ApiError> {
    let config = api.node.config();
    json::written(move || {
        let systems = config.systems.iter().enumerate().map(|(at, system)| SystemInfo {
            name: system.name.clone(),
            placement: match system.kind {
                SystemKind::Shard => "shard",
                SystemKind::Replicate => "replicate",
            },
            alive: system.alive.clone(),
            down: system.down.clone(),
            config: system.config.clone(),
            items: system.items.iter().filter(|item| !item.retired).count(),
            servers: (0..config.servers.len())
                .filter(|server| config.takes_part(*server, at))
                .map(|server| config.servers[server].id.clone())
                .collect(),
        });
        Ok(json::response(&Systems { systems: systems.collect() }))
    })
    .await
}

/// The keys of the cluster, without the keys themselves.
#[derive(Debug, Serialize, ToSchema)]
pub struct Keys {
    pub keys: Vec<KeyStatus>,
}

/// Which keys the cluster has, and who has them.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", responses((status = 200, body = Keys), Refusals))]
pub async fn keys(State(api): State<Api>) -> Result<Response, ApiError> {
    show(&api, |status| Ok(Keys { keys: status.keys.clone() })).await
}
