//! What a script is, found out without running a hook: its chunk is run in a closed state in which flip
//! does nothing. A chunk that only makes functions gives them; one that is a hook's body fails at the first
//! thing that it wants done, or gives no table.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use mlua::thread::ThreadStatus;
use mlua::{Function, MultiValue, StdLib, Value};

use super::api::Context;
use super::engine::{Setup, Shared};
use super::host::{Line, Log};
use super::limits::Limits;
use super::meter::Meter;
use super::script::Form;

/// What a chunk may take to make its functions.
const STEPS: u64 = 100_000;
const TIME: Duration = Duration::from_secs(1);

struct Silent;

impl Log for Silent {
    fn line(&self, _: &Line<'_>) {}
}

pub(super) fn form(bytecode: &[u8], file: &str, libraries: StdLib) -> Form {
    functions(bytecode, file, libraries).map_or(Form::Body, Form::Functions)
}

fn functions(bytecode: &[u8], file: &str, libraries: StdLib) -> Option<Vec<String>> {
    let setup = Setup { log: Arc::new(Silent), limits: Limits::default(), ..Setup::new("") };
    let shared = Arc::new(Shared::new(&setup).ok()?);
    let context = Arc::new(Context {
        meter: Arc::new(Meter::new(STEPS, false)),
        shared: Arc::clone(&shared),
        file: file.to_owned(),
        system: String::new(),
        item: String::new(),
        lines: AtomicU32::new(0),
        probe: true,
        plugin: None,
    });
    let sandbox = shared.sandbox(libraries, &context).ok()?;
    let chunk = sandbox.load_bytes(bytecode, file).ok()?;
    let thread = sandbox.lua.create_thread(chunk).ok()?;
    sandbox.meter.start(TIME);
    let end = Instant::now() + TIME;
    let mut given = thread.resume::<MultiValue>(("", sandbox.lua.create_table().ok()?)).ok()?;
    while thread.status() == ThreadStatus::Resumable
        && sandbox.meter.stopped().is_none()
        && Instant::now() < end
    {
        given = thread.resume::<MultiValue>(()).ok()?;
    }
    let Some(Value::Table(table)) = given.front().filter(|_| thread.status() == ThreadStatus::Finished)
    else {
        return None;
    };
    sandbox.meter.end();
    let mut names = Vec::new();
    for pair in table.pairs::<Value, Function>().take(100) {
        // Whatever is no function is none of flip's business.
        if let Ok((Value::String(name), _)) = pair {
            names.push(name.to_string_lossy());
        }
    }
    names.sort();
    Some(names)
}
