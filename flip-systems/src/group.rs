//! A process with all that it started.

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

/// Ends a whole process group when it is dropped before its leader was waited for. The leader has to have
/// been started as one (`process_group(0)`).
pub(crate) struct Group(Option<Pid>);

impl Group {
    pub(crate) fn of(leader: &Child) -> Self {
        Self(leader.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The leader was waited for: its number may be another's now.
    pub(crate) const fn reaped(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // All of it may be gone already. The leader is not reaped yet, so the number is still its own.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
