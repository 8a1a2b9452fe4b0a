//! Values of scripts and JSON, both ways, within limits: a script may build what unfolds to more than it
//! has memory for.

use mlua::{Lua, Table, Value};
use serde_json::{Map, Number};

use super::limits;
use super::meter::Meter;

type Json = serde_json::Value;

/// Registry key of the metatable that says that an empty table is an array.
const ARRAY: &str = "flip array";

/// Makes a value of a script, as long as it has time.
pub(super) fn to_lua(lua: &Lua, json: &Json, meter: &Meter) -> mlua::Result<Value> {
    Ok(match json {
        Json::Null => Value::NULL,
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or_default()),
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Array(_) | Json::Object(_) if meter.expired() => {
            return Err(mlua::Error::runtime("the time is over"));
        }
        Json::Array(values) => {
            let table = lua.create_table_with_capacity(values.len(), 0)?;
            for value in values {
                table.raw_push(to_lua(lua, value, meter)?)?;
            }
            if values.is_empty() {
                table.set_metatable(Some(array(lua)?))?;
            }
            Value::Table(table)
        }
        Json::Object(map) => Value::Table(object(lua, map, meter)?),
    })
}

/// Makes a table of an object.
pub(super) fn object(lua: &Lua, map: &Map<String, Json>, meter: &Meter) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, map.len())?;
    for (key, value) in map {
        table.raw_set(key.as_str(), to_lua(lua, value, meter)?)?;
    }
    Ok(table)
}

/// The mark of arrays.
pub(super) fn array(lua: &Lua) -> mlua::Result<Table> {
    if let Value::Table(table) = lua.named_registry_value::<Value>(ARRAY)? {
        return Ok(table);
    }
    let table = lua.create_table()?;
    table.raw_set("__metatable", "array")?;
    lua.set_named_registry_value(ARRAY, &table)?;
    Ok(table)
}

/// Reads a value of a script.
pub(super) fn from_lua(lua: &Lua, value: &Value, meter: &Meter) -> Result<Json, String> {
    let array = array(lua).map_err(|error| error.to_string())?;
    Reader { meter, array, values: 0, bytes: 0 }.read(value, 0)
}

struct Reader<'m> {
    meter: &'m Meter,
    array: Table,
    values: usize,
    bytes: usize,
}

impl Reader<'_> {
    fn read(&mut self, value: &Value, depth: usize) -> Result<Json, String> {
        self.values += 1;
        if self.values > limits::VALUES {
            return Err(format!("more than {} values", limits::VALUES));
        }
        if self.values.is_multiple_of(64) && self.meter.expired() {
            return Err("the time is over".to_owned());
        }
        if depth > limits::DEPTH {
            return Err(format!("deeper than {} levels, or a table that holds itself", limits::DEPTH));
        }
        match value {
            Value::Nil => Ok(Json::Null),
            Value::LightUserData(pointer) if pointer.0.is_null() => Ok(Json::Null),
            Value::Boolean(value) => Ok(Json::Bool(*value)),
            Value::Integer(number) => Ok(Json::from(*number)),
            Value::Number(number) => self.number(*number),
            Value::String(text) => self.text(text).map(Json::String),
            Value::Table(table) => self.table(table, depth),
            other => Err(format!("a {} has no form in JSON", other.type_name())),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number that fits")]
    fn number(&self, number: f64) -> Result<Json, String> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if number.fract() == 0.0 && number.abs() <= EXACT {
            return Ok(Json::from(number as i64));
        }
        Number::from_f64(number).map(Json::Number).ok_or_else(|| format!("{number} has no form in JSON"))
    }

    fn text(&mut self, text: &mlua::LuaString) -> Result<String, String> {
        let bytes = text.as_bytes();
        self.bytes += bytes.len();
        if self.bytes > limits::TEXT {
            return Err(format!("more than {} bytes of text", limits::TEXT));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| "a string that is not UTF-8".to_owned())?;
        Ok(text.to_owned())
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<Json, String> {
        let broken = |error: mlua::Error| error.to_string();
        let len = table.raw_len();
        if len > limits::VALUES {
            return Err(format!("more than {} values", limits::VALUES));
        }
        if len > 0 || table.metatable().is_some_and(|given| given == self.array) {
            let mut values = Vec::with_capacity(len);
            for at in 1..=len {
                values.push(self.read(&table.raw_get::<Value>(at).map_err(broken)?, depth + 1)?);
            }
            let mut keys = 0;
            for pair in table.pairs::<Value, Value>() {
                pair.map_err(broken)?;
                keys += 1;
                if keys > len {
                    return Err("a table that is a list and has other keys too".to_owned());
                }
            }
            return Ok(Json::Array(values));
        }
        let mut map = Map::new();
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair.map_err(broken)?;
            let key = match &key {
                Value::String(text) => self.text(text)?,
                Value::Integer(number) => number.to_string(),
                Value::Number(number) => number.to_string(),
                other => return Err(format!("a {} as a key has no form in JSON", other.type_name())),
            };
            let value = self.read(&value, depth + 1)?;
            map.insert(key, value);
        }
        Ok(Json::Object(map))
    }
}
