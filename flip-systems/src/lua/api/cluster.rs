//! What scripts learn of the cluster, and tell it.

use std::collections::BTreeMap;
use std::sync::Arc;

use flip_core::status::Status;
use mlua::{Lua, Table, Value};

use super::{Context, Given, give, text};
use crate::lua::json;
use crate::lua::meter::Meter;

pub(super) fn make(lua: &Lua, name: &str, context: &Arc<Context>) -> mlua::Result<Option<(Value, bool)>> {
    let host = Arc::clone(&context.shared.host);
    let context = Arc::clone(context);
    let f = match name {
        "members" => lua.create_async_function(move |lua, ()| {
            let status = host.status();
            async move {
                match status.await {
                    Ok(status) => give(&lua, Ok(members(&lua, &status)?)),
                    Err(error) => give::<()>(&lua, Err(format!("members: {error}"))),
                }
            }
        })?,
        "items" => {
            let own = context.system.clone();
            lua.create_async_function(move |lua, system: Value| {
                let status = host.status();
                let system = match &system {
                    Value::Nil => Ok(own.clone()),
                    other => text("items", other),
                };
                async move {
                    let found = match (system, status.await) {
                        (Ok(system), Ok(status)) => items(&lua, &system, &status)?,
                        (Err(error), _) => Err(error),
                        (_, Err(error)) => Err(format!("items: {error}")),
                    };
                    give(&lua, found)
                }
            })?
        }
        "get_facts" => lua.create_async_function(move |lua, server: Value| {
            let (status, context) = (host.status(), Arc::clone(&context));
            async move {
                let server = match &server {
                    Value::Nil => Ok(None),
                    other => text("get_facts", other).map(Some),
                };
                match (server, status.await) {
                    (Ok(server), Ok(status)) => {
                        give(&lua, facts(&lua, server.as_deref(), &status, &context.meter)?)
                    }
                    (Err(error), _) => give::<()>(&lua, Err(error)),
                    (_, Err(error)) => give::<()>(&lua, Err(format!("get_facts: {error}"))),
                }
            }
        })?,
        "set_fact" => lua.create_async_function(move |lua, (key, value): (Value, Value)| {
            let read = || {
                let key = text("set_fact", &key)?;
                let value = match &value {
                    Value::Nil => None,
                    value => Some(
                        json::from_lua(&lua, value, &context.meter)
                            .map_err(|error| format!("set_fact: {error}"))?
                            .to_string(),
                    ),
                };
                Ok::<_, String>((key, value))
            };
            let told = read().map(|(key, value)| host.set_fact(key, value));
            async move {
                let given = match told {
                    Ok(told) => told.await.map_err(|error| format!("set_fact: {error}")),
                    Err(error) => Err(error),
                };
                give(&lua, given)
            }
        })?,
        "active" => lua.create_async_function(move |lua, (active, reason): (Value, Value)| {
            let read = || {
                let Value::Boolean(active) = active else {
                    return Err(format!("active: expected true or false, found {}", active.type_name()));
                };
                Ok((active, text("active: reason", &reason)?))
            };
            let told = read().map(|(active, reason)| host.set_active(active, reason));
            async move {
                let given = match told {
                    Ok(told) => told.await.map_err(|error| format!("active: {error}")),
                    Err(error) => Err(error),
                };
                give(&lua, given)
            }
        })?,
        _ => return Ok(None),
    };
    Ok(Some((Value::Function(f), true)))
}

/// The word of a state, as in `flip status --json`.
fn word(state: impl serde::Serialize) -> String {
    serde_json::to_value(state).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default()
}

/// A list of servers.
pub(in crate::lua) fn members(lua: &Lua, status: &Status) -> mlua::Result<Table> {
    let list = lua.create_table_with_capacity(status.members.len(), 0)?;
    for member in &status.members {
        let one = lua.create_table()?;
        one.raw_set("id", member.id.as_str())?;
        one.raw_set("address", member.address.as_str())?;
        one.raw_set("state", word(member.state))?;
        one.raw_set("is_self", member.is_self)?;
        one.raw_set("arbiter", member.arbiter)?;
        one.raw_set("drained", member.drained)?;
        one.raw_set("generation", member.generation.to_string())?;
        let inactive = lua.create_table()?;
        for reason in &member.inactive {
            inactive.raw_push(reason.as_str())?;
        }
        one.raw_set("inactive", inactive)?;
        list.raw_push(one)?;
    }
    Ok(list)
}

fn items(lua: &Lua, system: &str, status: &Status) -> mlua::Result<Given<Table>> {
    let list = lua.create_table()?;
    for item in status.items.iter().filter(|item| item.system == system) {
        let one = lua.create_table()?;
        one.raw_set("item", item.item.as_str())?;
        let wanted = lua.create_table()?;
        for server in &item.wanted {
            wanted.raw_push(server.as_str())?;
        }
        one.raw_set("wanted", wanted)?;
        let holders = lua.create_table()?;
        for holder in &item.holders {
            holders.raw_set(holder.server.as_str(), word(holder.state))?;
        }
        one.raw_set("holders", holders)?;
        list.raw_push(one)?;
    }
    if list.raw_len() == 0 && !status.items.iter().any(|item| item.system == system) {
        let known: BTreeMap<_, ()> = status.items.iter().map(|item| (item.system.as_str(), ())).collect();
        let known: Vec<_> = known.into_keys().collect();
        return Ok(Err(format!("items: no system {system:?} with items; there are: {}", known.join(", "))));
    }
    Ok(Ok(list))
}

/// The facts of one server, or of all by server.
fn facts(lua: &Lua, server: Option<&str>, status: &Status, meter: &Meter) -> mlua::Result<Given<Table>> {
    let all = lua.create_table()?;
    for member in &status.members {
        let own = lua.create_table()?;
        for (key, value) in &member.facts {
            // What was not made by this function is of no use to a script.
            let Ok(value) = serde_json::from_str::<serde_json::Value>(value) else { continue };
            own.raw_set(key.as_str(), json::to_lua(lua, &value, meter)?)?;
        }
        if server == Some(member.id.as_str()) {
            return Ok(Ok(own));
        }
        all.raw_set(member.id.as_str(), own)?;
    }
    Ok(match server {
        Some(server) => Err(format!("get_facts: there is no server {server:?}")),
        None => Ok(all),
    })
}
