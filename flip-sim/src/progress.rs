//! One line on a terminal that says how far a sweep is.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(200);

/// Shows nothing where standard error is no terminal.
pub struct Progress {
    what: &'static str,
    of: Option<u64>,
    begun: Instant,
    shown: Mutex<Option<Instant>>,
}

impl Progress {
    /// Progress over `of` things, or over as many as there will be.
    #[must_use]
    pub fn new(what: &'static str, of: Option<u64>) -> Self {
        let shown = stderr().is_terminal().then(Instant::now);
        Self { what, of, begun: Instant::now(), shown: Mutex::new(shown) }
    }

    /// So many are done, and so many of them failed.
    pub fn show(&self, done: u64, failed: usize) {
        let Ok(mut shown) = self.shown.lock() else { return };
        let Some(last) = *shown else { return };
        if last.elapsed() < PAUSE {
            return;
        }
        *shown = Some(Instant::now());
        let rate = done as f64 / self.begun.elapsed().as_secs_f64();
        let of = self.of.map(|of| format!(" of {of}")).unwrap_or_default();
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let left = self.of.map(|of| (of.saturating_sub(done)) as f64 / rate);
        let left = left.map(|left| format!(", {left:.0} s left")).unwrap_or_default();
        // Progress is not worth an error.
        let _ = write!(stderr(), "\r\x1b[K{done}{of} {}, {rate:.0}/s{left}{failed}", self.what);
    }

    /// Wipes the line.
    pub fn clear(&self) {
        if stderr().is_terminal() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
