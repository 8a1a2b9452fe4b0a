//! Health checks in the simulator: how they end.

use std::time::Duration;

use rand::RngExt;

use super::happening::{Happening, Mail};
use super::world::World;
use crate::io::CheckCall;

impl World {
    /// A daemon runs a check.
    pub(super) fn begin_check(&mut self, index: usize, call: CheckCall) {
        let quick = self.rng.random_range(Duration::from_micros(100)..Duration::from_millis(5));
        let (at, life) = (self.now + quick, self.hosts[index].life);
        let mail = Mail::CheckDone { id: call.id, healthy: true };
        self.queue.push(at, Happening::Mail { host: index, life, mail });
    }
}
