//! Lua scripts as hooks: anything can be an item, without a line of Rust.
//!
//! A script is found by a plain name in one directory, compiled when it is read, and run in a closed
//! state of its own for every call. The language is Luau: of the Lua dialects it is the one in which every
//! hostile script of the tests was stopped, because it asks at every call, every turn of a loop and within
//! the matching of patterns whether to go on. See `docs/lua.md` for those who write scripts.
//!
//! ```text
//!  System::alive ─► Engine::call ─► a thread "flip-lua"
//!                                     │ new state: memory limit, interrupt, prelude, sandbox
//!                                     │ chunk (compiled once), item, config
//!                                     ▼
//!                                   coroutine ◄─► flip.exec, flip.http, flip.sleep, … (async)
//!                                     │
//!  HookFuture ◄─ Report ◄─────────────┘ or stopped at its deadline; the state is thrown away
//! ```
//!
//! The threads are the engine's own: a script that computes delays other scripts for a millisecond, and the
//! node's loop not at all. Dropping the future of a call ends it with all processes that it started.

mod api;
mod aside;
mod engine;
mod handler;
pub mod host;
mod json;
pub mod limits;
mod meter;
pub mod plugin;
mod probe;
mod sandbox;
pub mod script;

pub use aside::{LuaChecks, LuaPost};
pub use engine::{Call, Engine, Hook, Report, Said, Setup};
pub use handler::{LuaSystem, reason};
pub use host::{Host, Log};
pub use limits::Limits;
pub use plugin::Plugins;
pub use script::{Script, Scripts};
