//! What a script may use. Reaching a limit ends the call, or fails the one function that reached it, with
//! a message; nothing is cut off in silence.

use std::time::Duration;

/// Memory of one call's state, in bytes (config: `lua_memory`, MiB).
pub const MEMORY: usize = 64 << 20;
/// Loop turns and calls of one call (config: `lua_steps`): some 20 s of a busy loop.
pub const STEPS: u64 = 200_000_000;
/// A script that computes lets others of its thread work after this time.
pub const TURN: Duration = Duration::from_millis(1);
/// Calls that run at the same time; others wait for one to end.
pub const CALLS: usize = 64;
/// Longest script, in bytes.
pub const SCRIPT: usize = 1 << 20;
/// Scripts of one config.
pub const SCRIPTS: usize = 256;
/// Longest text that `flip.json.decode` takes, that `flip.json.encode` makes, and that a file, an HTTP
/// body or an output of a process may be.
pub const TEXT: usize = 1 << 20;
/// Depth of a JSON value.
pub const DEPTH: usize = 64;
/// Values in a JSON value.
pub const VALUES: usize = 50_000;
/// Longest line of the log, in bytes; the rest is left out, and the line says so.
pub const LOG_LINE: usize = 2048;
/// Lines of the log that one call may write.
pub const LOG_LINES: u32 = 1000;
/// Default of `timeout` of `flip.exec` and `flip.http`; the call's own deadline comes first.
pub const WAIT: Duration = Duration::from_secs(10);
/// Longest error of a hook, in bytes.
pub const ERROR: usize = 1024;
/// Handlers and timers of one plugin.
pub const HANDLERS: usize = 64;
/// Shortest interval of `flip.every`.
pub const EVERY: Duration = Duration::from_millis(10);
/// Events that wait for one plugin; older ones are dropped, and the log says so.
pub const EVENTS: usize = 1024;

/// The limits that a config may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one call's state.
    pub memory: usize,
    /// Loop turns and calls of one call.
    pub steps: u64,
    /// Opens the whole standard library, which can do everything that the daemon may do.
    pub unsafe_lua: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: MEMORY, steps: STEPS, unsafe_lua: false }
    }
}
