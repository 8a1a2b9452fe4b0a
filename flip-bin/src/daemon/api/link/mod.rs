//! LINK's endpoints, for the tools that were written for it: <https://github.com/Scalingo/link>. An IP is an item of the
//! cluster's ip system.
//!
//! Bodies and codes are LINK's, also where flip would say it otherwise: what is unknown cannot be removed with code 500.

mod ip;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use flip_core::Command;
use flip_core::catalog::Edit;
use flip_core::config::Config;
use flip_core::event::ItemState;
use flip_core::plan::WhatIf;
use flip_core::status::{MemberState, Status};
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use utoipa::IntoParams;

use super::Api;
use super::edit::TIMEOUT;
use super::error::{ApiError, Refusals};
use super::guard::Audited;
use super::json::{self, Asked, Name};
use super::look::picture;
use ip::{Checks, Ip, Ips, NewIp};

/// How long whoever holds an IP may take to let it go.
const GONE: Duration = Duration::from_secs(60);
/// How often it is looked, where nothing is told.
const LOOK: Duration = Duration::from_millis(100);
/// How long an edit may take beyond its own limit.
const MORE: Duration = Duration::from_secs(5);

/// Which ip system.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct In {
    /// Its name; it may be left out where there is one alone.
    pub system: Option<String>,
}

/// What LINK says when it refuses.
#[derive(Debug)]
pub enum Refused {
    /// `{"msg": …}`.
    Msg(StatusCode, String),
    /// Plain text.
    Text(String),
    /// What LINK has no words for.
    Flip(ApiError),
}

impl Refused {
    fn bad(msg: &str) -> Self {
        Self::Msg(StatusCode::BAD_REQUEST, msg.to_owned())
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Flip(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (mut response, why) = match self {
            Self::Flip(error) => return error.into_response(),
            Self::Msg(status, msg) => {
                let mut response = (status, serde_json::json!({ "msg": msg }).to_string()).into_response();
                json::mark(&mut response);
                (response, msg)
            }
            Self::Text(text) => {
                let plain = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
                ((StatusCode::INTERNAL_SERVER_ERROR, plain, text.clone()).into_response(), text)
            }
        };
        response.extensions_mut().insert(Audited(Err(why)));
        response
    }
}

fn audited(status: StatusCode, body: Option<Response>, what: String) -> Response {
    let mut response = body.unwrap_or_else(|| ().into_response());
    *response.status_mut() = status;
    response.extensions_mut().insert(Audited(Ok(what)));
    response
}

/// Position of the ip system that is meant.
fn system(config: &Config, asked: &In) -> Result<usize, ApiError> {
    let ip = |at: &usize| config.systems[*at].alive == flip_core::config::HANDLERS[0].0;
    let named = |at: &usize| asked.system.as_ref().is_none_or(|name| config.systems[*at].name == *name);
    let found: Vec<_> = (0..config.systems.len()).filter(ip).filter(named).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            Err(ApiError::not_found("there is no such ip system").hint("GET /v1/systems lists all systems"))
        }
        several => {
            let names: Vec<_> = several.iter().map(|at| config.systems[*at].name.as_str()).collect();
            let message = format!("there are several ip systems: {}", names.join(", "));
            Err(ApiError::new(StatusCode::CONFLICT, "ambiguous", message).hint("add ?system=NAME"))
        }
    }
}

/// All IPs, as they are on this server.
#[utoipa::path(get, path = "/ips", tag = "link", params(In), responses((status = 200, body = Ips), Refusals))]
pub async fn list(State(api): State<Api>, Asked(asked): Asked<In>) -> Result<Response, Refused> {
    let config = api.node.config();
    let system = system(&config, &asked)?;
    let status = picture(&api).await?;
    Ok(json::written(move || Ok(json::response(&Ips::of(&config, system, &status)))).await?)
}

/// Adds an IP.
#[utoipa::path(post, path = "/ips", tag = "link", params(In), request_body = NewIp,
    responses((status = 201, body = ip::Added), Refusals))]
pub async fn add(
    State(api): State<Api>,
    Asked(asked): Asked<In>,
    request: Request,
) -> Result<Response, Refused> {
    let new = NewIp::read(&json::body(request).await?)?;
    let config = api.node.config();
    let system = system(&config, &asked)?;
    let address = new.net.addr();
    let here = tokio::task::spawn_blocking(move || {
        let interfaces = flip_systems::interfaces().unwrap_or_default();
        interfaces.iter().flat_map(|interface| &interface.addresses).any(|net| net.addr() == address)
    });
    if ip::is_of(&config, address) || here.await.unwrap_or(false) {
        return Err(Refused::bad("IP already assigned"));
    }
    let id = ip::new_id();
    let edit = Edit::SetItem { system: config.systems[system].name.clone(), value: new.item(&id), new: true };
    let done = edited(&api, edit).await?;
    Ok(audited(StatusCode::CREATED, Some(json::response(&new.added(&id))), done))
}

/// Removes an IP. When this answers 204, no server that is up holds it.
#[utoipa::path(delete, path = "/ips/{id}", tag = "link", params(("id", description = "as GET /ips says"), In),
    responses((status = 204), Refusals))]
pub async fn remove(
    State(api): State<Api>,
    Name(id): Name,
    Asked(asked): Asked<In>,
) -> Result<Response, Refused> {
    let config = api.node.config();
    let system = system(&config, &asked)?;
    let Some(item) = ip::find(&config, system, &id) else {
        return Err(Refused::Text("Not found".to_owned()));
    };
    let (system, item) =
        (config.systems[system].name.clone(), config.systems[system].items[item].name.clone());
    let edit = Edit::RemoveItem { system: system.clone(), item: item.clone() };
    let done = edited(&api, edit).await?;
    let mut changes = api.changes.clone();
    let end = Instant::now() + GONE;
    loop {
        let holders = holders(&*picture(&api).await?, &system, &item);
        if holders.is_empty() {
            return Ok(audited(StatusCode::NO_CONTENT, None, done));
        }
        if Instant::now() >= end {
            return Err(Refused::Text(format!(
                "removed, but after {GONE:?} still on {}",
                holders.join(", ")
            )));
        }
        let _ = timeout(LOOK, changes.changed()).await;
    }
}

/// Ids of the servers that are up and have said that they hold an item.
fn holders(status: &Status, system: &str, item: &str) -> Vec<String> {
    let up = |id: &str| {
        let member = status.members.iter().find(|member| member.id == id);
        member.is_some_and(|member| matches!(member.state, MemberState::Up | MemberState::Suspect))
    };
    let holds = |state| !matches!(state, ItemState::Standby | ItemState::Failing);
    let found = status.items.iter().filter(|found| found.system == system && found.item == item);
    let holders = found.flat_map(|found| &found.holders);
    holders
        .filter(|holder| holds(holder.state) && up(&holder.server))
        .map(|holder| holder.server.clone())
        .collect()
}

/// One IP.
#[utoipa::path(get, path = "/ips/{id}", tag = "link", params(("id", description = "as GET /ips says"), In),
    responses((status = 200, body = Ip), Refusals))]
pub async fn get(
    State(api): State<Api>,
    Name(id): Name,
    Asked(asked): Asked<In>,
) -> Result<Response, Refused> {
    let (config, system, item) = meant(&api, &asked, &id)?;
    let status = picture(&api).await?;
    Ok(json::response(&Ip::of(&config, system, item, &status)))
}

/// The config, and positions of the system and the item that are meant.
fn meant(api: &Api, asked: &In, id: &str) -> Result<(Arc<Config>, usize, usize), Refused> {
    let config = api.node.config();
    let system = system(&config, asked)?;
    if !ip::is_id(id) {
        return Err(Refused::bad("invalid ID"));
    }
    let unknown = || Refused::Msg(StatusCode::NOT_FOUND, "not found".to_owned());
    let item = ip::find(&config, system, id).ok_or_else(unknown)?;
    Ok((config, system, item))
}

/// Hands an IP that is here to another server, where it stays.
#[utoipa::path(post, path = "/ips/{id}/failover", tag = "link", params(("id", description = "as GET /ips says"), In),
    responses((status = 204), Refusals))]
pub async fn failover(
    State(api): State<Api>,
    Name(id): Name,
    Asked(asked): Asked<In>,
) -> Result<Response, Refused> {
    let (config, system, item) = meant(&api, &asked, &id)?;
    let (system, item) =
        (config.systems[system].name.clone(), config.systems[system].items[item].name.clone());
    let me = config.my().id.clone();
    if !holders(&*picture(&api).await?, &system, &item).contains(&me) {
        return Err(Refused::bad("this node is not master of this endpoint"));
    }
    // Where it would go if nothing more could be here: the rules say, not this.
    let plan = api.node.plan(vec![WhatIf::Drain(me)]).await.map_err(ApiError::from)?;
    let moved = plan.moves.iter().find(|one| one.item.system == system && one.item.item == item);
    let Some(to) = moved.and_then(|one| one.to.first()).cloned() else {
        return Err(Refused::bad("no other nodes are listening for this endpoint"));
    };
    let done = edited(&api, Edit::MoveItem { system, item, to }).await?;
    Ok(audited(StatusCode::NO_CONTENT, None, done))
}

/// Replaces the checks of an IP that was added here.
#[utoipa::path(patch, path = "/ips/{id}", tag = "link", params(("id", description = "as GET /ips says"), In),
    request_body = Checks, responses((status = 200, body = Ip), Refusals))]
pub async fn patch(
    State(api): State<Api>,
    Name(id): Name,
    Asked(asked): Asked<In>,
    request: Request,
) -> Result<Response, Refused> {
    let checks = Checks::read(&json::body(request).await?)?;
    let (config, at, item) = meant(&api, &asked, &id)?;
    let Some(value) = checks.item(&config.systems[at].items[item]) else {
        let msg = "this IP is not of this API's making: change its checks where it was made";
        return Err(Refused::Msg(StatusCode::UNPROCESSABLE_ENTITY, msg.to_owned()));
    };
    let done =
        edited(&api, Edit::SetItem { system: config.systems[at].name.clone(), value, new: false }).await?;
    let status = picture(&api).await?;
    let shown = Ip { checks: checks.checks, ..Ip::of(&config, at, item, &status) };
    Ok(audited(StatusCode::OK, Some(json::response(&shown)), done))
}

/// Has the catalog changed; LINK says as text what went wrong with that.
async fn edited(api: &Api, edit: Edit) -> Result<String, Refused> {
    let command = Command::Edit { edits: vec![edit], local: false, force: false, timeout: TIMEOUT };
    match timeout(TIMEOUT + MORE, api.node.command(command)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(refusal)) => Err(Refused::Text(refusal.to_string())),
        Err(_) => Err(Refused::Text(ApiError::late(TIMEOUT + MORE).message)),
    }
}
