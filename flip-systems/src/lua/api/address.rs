//! Addresses, by the same code as the ip system's.

use std::sync::Arc;

use ipnet::IpNet;
use mlua::{Lua, Value};

use super::{Context, Given, give, text};
use crate::ip::Loose;

type Work = fn(&Loose, IpNet, &str) -> Result<(), String>;

pub(super) fn make(lua: &Lua, name: &str, context: &Arc<Context>) -> mlua::Result<Option<(Value, bool)>> {
    let (function, work): (&'static str, Work) = match name {
        "ip.add" => ("ip.add", Loose::add),
        "ip.del" => ("ip.del", Loose::del),
        "ip.announce" => ("ip.announce", Loose::announce),
        _ => return Ok(None),
    };
    let context = Arc::clone(context);
    // Some tens of microseconds in the kernel: nothing waits.
    let f = lua.create_function(move |lua, (address, interface): (Value, Value)| {
        let done = || -> Given<()> {
            let address = text(function, &address)?;
            let net = flip_core::config::parse_vip(&address).map_err(|_| {
                format!("{function}: {address:?} is not an address that an interface can have, with a prefix or without")
            })?;
            let interface = text(&format!("{function}: interface"), &interface)?;
            let loose = context.shared.addresses().map_err(|error| format!("{function}: {error}"))?;
            work(loose, net, &interface).map_err(|error| format!("{function}: {error}"))
        };
        give(lua, done())
    })?;
    Ok(Some((Value::Function(f), false)))
}
