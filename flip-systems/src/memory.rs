//! The in-memory system: it remembers what is up and touches nothing.
//!
//! For `flip demo` without root, and for tests that look at the calls.

use std::collections::{BTreeSet, VecDeque};
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flip_core::HookAction;
use flip_core::id::ItemRef;

use crate::system::{
    Assigned, Bus, Context, Drift, Handler, HookFuture, ObserveFuture, OpenError, Opened, System,
};

/// How many calls are remembered; older ones are forgotten.
pub const CALLS: usize = 4096;

/// The handler of `memory_up` and `memory_down`. Clones share what they remember.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    up: BTreeSet<ItemRef>,
    calls: VecDeque<(ItemRef, HookAction)>,
}

impl Memory {
    /// What is up.
    #[must_use]
    pub fn up(&self) -> BTreeSet<ItemRef> {
        self.lock().up.clone()
    }

    /// The last [`CALLS`] hooks in the order in which they ran.
    #[must_use]
    pub fn calls(&self) -> Vec<(ItemRef, HookAction)> {
        self.lock().calls.iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Memory {
    fn alive(&self) -> &str {
        "memory_up"
    }

    fn down(&self) -> &str {
        "memory_down"
    }

    fn open(&self, systems: &[Assigned<'_>], _: &Arc<Drift>, _: &Arc<Bus>) -> Result<Opened, OpenError> {
        let systems = systems
            .iter()
            .map(|assigned| {
                let one = OneMemory { memory: self.clone(), system: assigned.position };
                Arc::new(one) as Arc<dyn System>
            })
            .collect();
        Ok(Opened { systems, leftovers: Vec::new() })
    }
}

struct OneMemory {
    memory: Memory,
    system: usize,
}

impl OneMemory {
    fn record(&self, item: usize, action: HookAction) -> HookFuture {
        let item = ItemRef { system: self.system, item };
        let memory = self.memory.clone();
        Box::pin(async move {
            let mut state = memory.lock();
            match action {
                HookAction::Alive => drop(state.up.insert(item)),
                HookAction::Down => drop(state.up.remove(&item)),
                HookAction::Announce => {}
            }
            if state.calls.len() == CALLS {
                state.calls.pop_front();
            }
            state.calls.push_back((item, action));
            Ok(())
        })
    }
}

impl System for OneMemory {
    fn alive(&self, item: usize, _: &Context) -> HookFuture {
        self.record(item, HookAction::Alive)
    }

    fn down(&self, item: usize, _: &Context) -> HookFuture {
        self.record(item, HookAction::Down)
    }

    fn announce(&self, item: usize, _: &Context) -> HookFuture {
        self.record(item, HookAction::Announce)
    }

    fn observe(&self) -> ObserveFuture {
        let up = self.memory.up().into_iter().filter(|i| i.system == self.system).map(|i| i.item).collect();
        Box::pin(ready(Ok(up)))
    }
}
