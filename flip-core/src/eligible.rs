//! Who may hold an item: pure rules on what is known of servers. Placement asks them, and so does whoever wants to
//! know what placement would do ([`crate::plan`]) or why it does what it does ([`crate::why`]).

use crate::facts::Fitness;

/// What is known of one item on each server.
pub struct Look<'a> {
    /// Whether the item has health checks.
    pub checked: bool,
    /// Whether it stays with a server whose checks fail, when they fail everywhere (`when_all_fail`).
    pub keep: bool,
    /// How it is on a server, by its checks and by what it stands on.
    pub fitness: &'a dyn Fn(usize) -> Fitness,
    /// Whether its hooks failed too often on a server.
    pub failing: &'a dyn Fn(usize) -> bool,
    /// Whether a server has it, or is about to.
    pub holds: &'a dyn Fn(usize) -> bool,
}

impl Look<'_> {
    /// Who may hold the item, of those that are ready and of those that are mature as well. None where servers do
    /// not differ by it, and only its hooks count.
    ///
    /// A server that is not mature is better than one that is unhealthy. Where nobody passes and nobody may
    /// yet, `"when_all_fail": "keep"` makes it the holder's, else everybody's.
    #[must_use]
    pub fn fit(&self, ready: &[bool], mature: &[bool]) -> Option<Vec<bool>> {
        let is_fit = |server: usize| !ready[server] || (self.fitness)(server) == Fitness::Fit;
        if !self.checked && (0..ready.len()).all(is_fit) {
            return None;
        }
        let choose = |from: &[bool], may: &dyn Fn(usize) -> bool| {
            let chosen: Vec<_> = (0..from.len()).map(|server| from[server] && may(server)).collect();
            chosen.contains(&true).then_some(chosen)
        };
        let fit = |server| match (self.fitness)(server) {
            Fitness::Fit | Fitness::Young => !(self.failing)(server),
            // What it held before it was started again.
            Fitness::Unproven => (self.holds)(server),
            Fitness::Unhealthy => false,
        };
        if let Some(fit) = choose(mature, &fit).or_else(|| choose(ready, &fit)) {
            return Some(fit);
        }
        let nobody = Some(vec![false; ready.len()]);
        let hope = |server| (self.fitness)(server) == Fitness::Unproven;
        if !self.checked {
            // Who has its ground back, but not for long, is better than nobody.
            return choose(ready, &hope).or(nobody);
        }
        if !self.keep || choose(ready, &hope).is_some() {
            return nobody;
        }
        let unhealthy = |server| (self.fitness)(server) == Fitness::Unhealthy;
        let holder = |server| unhealthy(server) && (self.holds)(server);
        choose(ready, &holder).or_else(|| choose(ready, &unhealthy)).or(nobody)
    }
}

/// Where nobody that is ready is mature, everybody is: damping must not leave an item without a holder.
pub fn forgive(mature: &mut [bool], ready: &[bool]) {
    if !mature.iter().zip(ready).any(|(mature, ready)| *mature && *ready) {
        for (mature, ready) in mature.iter_mut().zip(ready) {
            *mature |= ready;
        }
    }
}
