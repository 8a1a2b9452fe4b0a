//! A bar on a terminal, nothing elsewhere.

use std::io::{IsTerminal, Write, stderr};

const WIDTH: u64 = 30;

pub struct Progress {
    of: u64,
    done: u64,
    shows: bool,
}

impl Progress {
    pub fn new(of: u64) -> Self {
        Self { of: of.max(1), done: 0, shows: stderr().is_terminal() }
    }

    /// One more is done, of this kind.
    pub fn step(&mut self, kind: &str) {
        self.done += 1;
        if self.shows {
            let full = usize::try_from(self.done * WIDTH / self.of).unwrap_or(0);
            let bar = "#".repeat(full) + &" ".repeat(WIDTH as usize - full);
            // Progress is not worth an error.
            let _ = write!(stderr(), "\r\x1b[K[{bar}] {}/{} {kind}", self.done, self.of);
        }
    }

    pub fn clear(&self) {
        if self.shows {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
