//! A closed state: what a script can reach, and what stops it.
//!
//! The order matters. What is put in before `sandbox(true)` becomes read-only for scripts; what they load
//! after it has globals of its own.

use std::sync::Arc;

use mlua::chunk::{ChunkMode, Compiler};
use mlua::{Function, Lua, LuaOptions, StdLib};

use super::api::{self, Context};
use super::limits::Limits;
use super::meter::Meter;

/// Name of the prelude in stack traces.
pub(super) const PRELUDE: &str = "flip";

/// A state that nothing has run in yet.
pub(super) struct Sandbox {
    pub(super) lua: Lua,
    pub(super) meter: Arc<Meter>,
    /// `run` of the prelude.
    pub(super) run: Function,
    /// Which function of flip waits, and where.
    pub(super) waits: Function,
    /// `begin` of the prelude: takes the values of `flip` that are no functions.
    pub(super) given: Function,
    /// `enter` of the prelude: calls a function that is there.
    pub(super) enter: Function,
}

/// The libraries that a script can name: most name few, and opening one that reads a clock, as `math` does,
/// costs as much as the rest of a state. A global that is not in the text can only be reached by way of `_G`.
pub(super) fn libraries(text: &str) -> StdLib {
    let optional = [
        ("math", StdLib::MATH),
        ("bit32", StdLib::BIT),
        ("utf8", StdLib::UTF8),
        ("buffer", StdLib::BUFFER),
        ("os", StdLib::OS),
    ];
    let all = text.contains("_G");
    let named = optional.into_iter().filter(|(name, _)| all || text.contains(name));
    // The last one is for the prelude, which takes it away. Luau's only reads.
    let always = StdLib::TABLE | StdLib::STRING | StdLib::COROUTINE | StdLib::DEBUG;
    named.fold(always, |libraries, (_, library)| libraries | library)
}

/// The prelude, compiled.
pub(super) fn prelude() -> Result<Vec<u8>, mlua::Error> {
    Compiler::new().set_optimization_level(2).set_debug_level(1).compile(include_str!("prelude.luau"))
}

impl Sandbox {
    /// `libraries` are those that the script can name, from [`libraries`].
    pub(super) fn new(
        prelude: &[u8],
        limits: &Limits,
        libraries: StdLib,
        context: &Arc<Context>,
    ) -> mlua::Result<Self> {
        let libraries = if limits.unsafe_lua { StdLib::ALL } else { libraries };
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        let meter = Arc::clone(&context.meter);
        let native = api::native(&lua, Arc::clone(context))?;
        let chunk = lua.load(prelude).set_name(format!("={PRELUDE}")).set_mode(ChunkMode::Binary);
        let (run, waits, given, enter) = chunk.call((native, limits.unsafe_lua))?;
        if !limits.unsafe_lua {
            lua.sandbox(true)?;
        }
        lua.set_memory_limit(limits.memory)?;
        let account = Arc::clone(&meter);
        lua.set_interrupt(move |lua| account.interrupt(lua));
        Ok(Self { lua, meter, run, waits, given, enter })
    }

    /// Makes a function of a script.
    pub(super) fn load(&self, script: &super::Script) -> mlua::Result<Function> {
        self.load_bytes(&script.bytecode, &script.file)
    }

    /// Makes a function of what the compiler of this process made.
    pub(super) fn load_bytes(&self, bytecode: &[u8], file: &str) -> mlua::Result<Function> {
        self.lua.load(bytecode).set_name(format!("={file}")).set_mode(ChunkMode::Binary).into_function()
    }
}
