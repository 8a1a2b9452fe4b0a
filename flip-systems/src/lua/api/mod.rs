//! The functions of `flip`. Each gives `true` and its results, or `false` and a message; the prelude makes
//! an error of the second, with the line of the script. They are made when a script first names them,
//! because most calls need none.

mod address;
pub(in crate::lua) mod cluster;
mod exec;
mod http;
mod strings;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use mlua::{Function, IntoLuaMulti, Lua, LuaString, MultiValue, Table, Value};

use super::engine::Shared;
use super::host::{Level, Line};
use super::meter::Meter;
use super::plugin::Desk;
use super::{json, limits};

/// What the functions of one state know.
pub(in crate::lua) struct Context {
    pub(in crate::lua) shared: Arc<Shared>,
    pub(in crate::lua) meter: Arc<Meter>,
    /// The script's file.
    pub(in crate::lua) file: String,
    /// The system; empty for a plugin.
    pub(in crate::lua) system: String,
    /// The item; empty for a plugin.
    pub(in crate::lua) item: String,
    pub(in crate::lua) lines: AtomicU32,
    /// The script is only read: nothing is done for it.
    pub(in crate::lua) probe: bool,
    /// What a plugin registers goes there.
    pub(in crate::lua) plugin: Option<Arc<Desk>>,
}

/// `native` of the prelude: from a name to a function, and whether that waits.
pub(in crate::lua) fn native(lua: &Lua, context: Arc<Context>) -> mlua::Result<Function> {
    lua.create_function(move |lua, name: String| {
        let Some((value, waits)) = make(lua, &name, &context)? else { return Ok((Value::Nil, false)) };
        Ok((value, waits))
    })
}

/// Functions that change nothing and look at nothing that changes.
const HARMLESS: [&str; 10] = [
    "string_find",
    "string_split",
    "json.null",
    "json.array",
    "json.encode",
    "json.decode",
    "env",
    "hex",
    "sha256",
    "hmac_sha256",
];

/// Result of a function: what it gives, or one line for people.
pub(in crate::lua) type Given<T> = Result<T, String>;

pub(in crate::lua) fn give<T: IntoLuaMulti>(lua: &Lua, given: Given<T>) -> mlua::Result<MultiValue> {
    match given {
        Ok(values) => {
            let mut values = values.into_lua_multi(lua)?;
            values.push_front(Value::Boolean(true));
            Ok(values)
        }
        Err(message) => (false, message).into_lua_multi(lua),
    }
}

fn make(lua: &Lua, name: &str, context: &Arc<Context>) -> mlua::Result<Option<(Value, bool)>> {
    let context = Arc::clone(context);
    if let Some((_, level)) = Level::NAMES.iter().find(|(known, _)| name.strip_prefix("log.") == Some(known))
    {
        let level = *level;
        let f = lua.create_function(move |lua, text: Value| give(lua, log(&context, level, &text)))?;
        return Ok(Some((Value::Function(f), false)));
    }
    if context.probe && !HARMLESS.contains(&name) {
        let f = lua.create_function(|lua, _: MultiValue| {
            give::<()>(lua, Err("nothing is done while the script is read".to_owned()))
        })?;
        return Ok(Some((Value::Function(f), false)));
    }
    let plain = |f: Function| Ok(Some((Value::Function(f), false)));
    let waits = |f: Function| Ok(Some((Value::Function(f), true)));
    match name {
        "string_find" => plain(lua.create_function(move |_, wanted| strings::find(wanted, &context.meter))?),
        "string_split" => {
            plain(lua.create_function(move |lua, wanted| strings::split(lua, wanted, &context.meter))?)
        }
        "json.null" => Ok(Some((Value::NULL, false))),
        "json.array" => plain(lua.create_function(|lua, table: Value| {
            let given = || match table {
                Value::Table(table) => {
                    let mark = json::array(lua).map_err(|error| error.to_string())?;
                    table.set_metatable(Some(mark)).map_err(|error| format!("json.array: {error}"))?;
                    Ok(table)
                }
                other => Err(format!("json.array: expected a table, found a {}", other.type_name())),
            };
            give(lua, given())
        })?),
        "json.encode" => plain(
            lua.create_function(move |lua, value: Value| give(lua, encode(lua, &value, &context.meter)))?,
        ),
        "json.decode" => plain(lua.create_function(move |lua, text: Value| match decode(&text) {
            Ok(value) => give(lua, Ok(json::to_lua(lua, &value, &context.meter)?)),
            Err(error) => give::<()>(lua, Err(error)),
        })?),
        "env" => plain(lua.create_function(|lua, name: Value| give(lua, env(lua, &name)))?),
        "hex" => plain(lua.create_function(|lua, text: Value| {
            give(lua, bytes("hex", &text).map(|bytes| strings::hex(&bytes)))
        })?),
        "sha256" => plain(lua.create_function(|lua, text: Value| {
            let digest = |bytes: Vec<u8>| ring::digest::digest(&ring::digest::SHA256, &bytes);
            give(lua, bytes("sha256", &text).map(|bytes| strings::hex(digest(bytes).as_ref())))
        })?),
        "hmac_sha256" => plain(lua.create_function(|lua, (key, text): (Value, Value)| {
            let given = || {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &bytes("hmac_sha256", &key)?);
                let tag = ring::hmac::sign(&key, &bytes("hmac_sha256", &text)?);
                lua.create_string(tag.as_ref()).map_err(|error| error.to_string())
            };
            give(lua, given())
        })?),
        "sleep" => waits(lua.create_async_function(|lua, ms: Value| async move {
            let given = match millis("sleep", &ms) {
                Ok(pause) => {
                    tokio::time::sleep(pause).await;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            give(&lua, given)
        })?),
        "read" => waits(lua.create_async_function(|lua, path: Value| async move {
            let given = match bytes("read", &path) {
                Ok(path) => read(path).await,
                Err(error) => Err(error),
            };
            match given {
                Ok(content) => give(&lua, Ok(lua.create_string(content)?)),
                Err(error) => give::<()>(&lua, Err(error)),
            }
        })?),
        "exec" => waits(lua.create_async_function(
            move |lua, (command, args, options): (Value, Value, Value)| {
                let run = run(&command, &args, &options);
                async move {
                    let ended = match run {
                        Ok(run) => exec::run(run).await,
                        Err(error) => Err(error),
                    };
                    match ended {
                        Ok(ended) => {
                            let (out, err) =
                                (lua.create_string(ended.stdout)?, lua.create_string(ended.stderr)?);
                            give(&lua, Ok((ended.code, out, err)))
                        }
                        Err(error) => give::<()>(&lua, Err(error)),
                    }
                }
            },
        )?),
        "http" => waits(lua.create_async_function(move |lua, options: Value| {
            let ask = ask(&options);
            async move {
                let answered = match ask {
                    Ok(ask) => http::ask(ask).await,
                    Err(error) => Err(error),
                };
                match answered {
                    Ok(answered) => give(&lua, Ok(answer(&lua, answered)?)),
                    Err(error) => give::<()>(&lua, Err(error)),
                }
            }
        })?),
        _ => match cluster::make(lua, name, &context)? {
            Some(made) => Ok(Some(made)),
            None => match address::make(lua, name, &context)? {
                Some(made) => Ok(Some(made)),
                None => super::plugin::make(lua, name, &context),
            },
        },
    }
}

fn log(context: &Context, level: Level, text: &Value) -> Given<()> {
    let lines = context.lines.fetch_add(1, Relaxed);
    if lines > limits::LOG_LINES {
        return Ok(());
    }
    let text = match text {
        Value::String(text) => text.to_string_lossy(),
        other => match other.to_string() {
            Ok(text) => text,
            Err(_) => format!("a {}", other.type_name()),
        },
    };
    let mut text: String = text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
    if text.len() > limits::LOG_LINE {
        let end = (0..=limits::LOG_LINE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        let left = text.len() - end;
        text.truncate(end);
        text.push_str(&format!(" … ({left} bytes more)"));
    }
    if lines == limits::LOG_LINES {
        text = format!("this call wrote {lines} lines; the rest of them is left out");
    }
    let line =
        Line { level, script: &context.file, system: &context.system, item: &context.item, text: &text };
    context.shared.log.line(&line);
    Ok(())
}

fn encode(lua: &Lua, value: &Value, meter: &Meter) -> Given<String> {
    let value = json::from_lua(lua, value, meter).map_err(|error| format!("json.encode: {error}"))?;
    let text = value.to_string();
    if text.len() > limits::TEXT {
        return Err(format!("json.encode: more than {} bytes", limits::TEXT));
    }
    Ok(text)
}

fn decode(text: &Value) -> Given<serde_json::Value> {
    let text = bytes("json.decode", text)?;
    if text.len() > limits::TEXT {
        return Err(format!("json.decode: {} bytes, expected at most {}", text.len(), limits::TEXT));
    }
    serde_json::from_slice(&text).map_err(|error| format!("json.decode: {error}"))
}

fn env(lua: &Lua, name: &Value) -> Given<Option<LuaString>> {
    let name = OsString::from_vec(bytes("env", name)?);
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    lua.create_string(value.into_vec()).map(Some).map_err(|error| error.to_string())
}

async fn read(path: Vec<u8>) -> Given<Vec<u8>> {
    let path = PathBuf::from(OsString::from_vec(path));
    let work = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        use std::os::unix::fs::OpenOptionsExt;
        let failed = |error: std::io::Error| format!("read: {}: {error}", path.display());
        // Not blocking: a FIFO would keep the thread for ever.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(format!("read: {} is not a regular file", path.display()));
        }
        let mut content = Vec::new();
        file.take(limits::TEXT as u64 + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() > limits::TEXT {
            return Err(format!("read: {} is longer than {} bytes", path.display(), limits::TEXT));
        }
        Ok(content)
    });
    work.await.map_err(|error| format!("read: {error}"))?
}

/// The bytes of a string or a number.
fn bytes(function: &str, value: &Value) -> Given<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Integer(number) => Ok(number.to_string().into_bytes()),
        Value::Number(number) => Ok(number.to_string().into_bytes()),
        other => Err(format!("{function}: expected a string, found {}", other.type_name())),
    }
}

pub(in crate::lua) fn text(function: &str, value: &Value) -> Given<String> {
    String::from_utf8(bytes(function, value)?).map_err(|_| format!("{function}: a string that is not UTF-8"))
}

/// Milliseconds.
pub(in crate::lua) fn millis(function: &str, value: &Value) -> Given<Duration> {
    const YEAR: f64 = 365.0 * 24.0 * 3600.0 * 1000.0;
    let number = match value {
        #[expect(clippy::cast_precision_loss, reason = "a year of milliseconds is exact")]
        Value::Integer(number) => *number as f64,
        Value::Number(number) => *number,
        other => return Err(format!("{function}: expected milliseconds, found {}", other.type_name())),
    };
    if (0.0..=YEAR).contains(&number) {
        Ok(Duration::from_secs_f64(number / 1000.0))
    } else {
        Err(format!("{function}: expected milliseconds from 0 to a year of them, found {number}"))
    }
}

/// A field of a table of options.
fn field(options: &Table, key: &str) -> Given<Value> {
    options.get::<Value>(key).map_err(|error| error.to_string())
}

fn timeout(function: &str, options: Option<&Table>) -> Given<Duration> {
    let Some(options) = options else { return Ok(limits::WAIT) };
    match field(options, "timeout")? {
        Value::Nil => Ok(limits::WAIT),
        value => millis(&format!("{function}: timeout"), &value),
    }
}

/// The pairs of a table of strings.
fn strings_of(function: &str, value: &Value) -> Given<Vec<(String, Vec<u8>)>> {
    let table = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::Table(table) => table,
        other => return Err(format!("{function}: expected a table, found {}", other.type_name())),
    };
    let mut pairs = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        pairs.push((text(function, &key)?, bytes(function, &value)?));
        if pairs.len() > 256 {
            return Err(format!("{function}: more than 256 entries"));
        }
    }
    pairs.sort();
    Ok(pairs)
}

fn known_keys(function: &str, options: &Table, known: &[&str]) -> Given<()> {
    for pair in options.pairs::<Value, Value>() {
        let (key, _) = pair.map_err(|error| error.to_string())?;
        let key = text(function, &key)?;
        if !known.contains(&key.as_str()) {
            return Err(format!("{function}: unknown option {key:?}; there are: {}", known.join(", ")));
        }
    }
    Ok(())
}

fn run(command: &Value, args: &Value, options: &Value) -> Given<exec::Run> {
    let command = OsString::from_vec(bytes("exec", command)?);
    let mut list = Vec::new();
    match args {
        Value::Nil => {}
        Value::Table(table) => {
            if table.raw_len() > 1000 {
                return Err("exec: more than 1000 arguments".to_owned());
            }
            for at in 1..=table.raw_len() {
                let value = table.raw_get::<Value>(at).map_err(|error| error.to_string())?;
                list.push(OsString::from_vec(bytes(&format!("exec: argument {at}"), &value)?));
            }
        }
        other => return Err(format!("exec: expected a list of arguments, found {}", other.type_name())),
    }
    let options = match options {
        Value::Nil => None,
        Value::Table(table) => Some(table),
        other => return Err(format!("exec: expected a table of options, found {}", other.type_name())),
    };
    let (mut env, mut stdin) = (Vec::new(), None);
    if let Some(options) = options {
        known_keys("exec", options, &["timeout", "stdin", "env"])?;
        env = strings_of("exec: env", &field(options, "env")?)?;
        stdin = match field(options, "stdin")? {
            Value::Nil => None,
            value => Some(bytes("exec: stdin", &value)?),
        };
    }
    let env = env.into_iter().map(|(key, value)| (key.into(), OsString::from_vec(value)));
    Ok(exec::Run { command, args: list, env: env.collect(), stdin, timeout: timeout("exec", options)? })
}

fn ask(options: &Value) -> Given<http::Ask> {
    let options = match options {
        Value::Table(table) => table,
        other => return Err(format!("http: expected a table with `url`, found {}", other.type_name())),
    };
    known_keys("http", options, &["method", "url", "headers", "body", "timeout", "ca_file"])?;
    let ca_file = match field(options, "ca_file")? {
        Value::Nil => None,
        value => Some(text("http: ca_file", &value)?),
    };
    let method = match field(options, "method")? {
        Value::Nil => "GET".to_owned(),
        value => text("http: method", &value)?,
    };
    let body = match field(options, "body")? {
        Value::Nil => Vec::new(),
        value => bytes("http: body", &value)?,
    };
    Ok(http::Ask {
        method,
        url: text("http: url", &field(options, "url")?)?,
        headers: strings_of("http: headers", &field(options, "headers")?)?,
        body,
        timeout: timeout("http", Some(options))?,
        ca_file,
    })
}

fn answer(lua: &Lua, answered: http::Answered) -> mlua::Result<Table> {
    let headers = lua.create_table()?;
    for (name, value) in answered.headers {
        headers.raw_set(name, lua.create_string(value)?)?;
    }
    let table = lua.create_table()?;
    table.raw_set("status", answered.status)?;
    table.raw_set("headers", headers)?;
    table.raw_set("body", lua.create_string(answered.body)?)?;
    Ok(table)
}
