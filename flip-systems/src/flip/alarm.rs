//! One alarm on the node's own clock, to the microsecond: the runtime's own timers count whole
//! milliseconds of a clock that stops while the machine is suspended.

use std::io;
use std::os::fd::OwnedFd;

use flip_core::Time;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(super) struct Alarm {
    fd: AsyncFd<OwnedFd>,
    set: Option<Time>,
}

impl Alarm {
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(unsafe_code, reason = "registering a descriptor is, whoever owns it")]
        // SAFETY: an OwnedFd is open and the same file until it is dropped, and the AsyncFd owns it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd, set: None })
    }

    /// Goes off at `at`, at once when that is over; never for `None`.
    pub fn set(&mut self, at: Option<Time>) -> io::Result<()> {
        if at == self.set {
            return Ok(());
        }
        // All zeros would switch the timer off.
        let nanos = at.map_or(0, |at| at.as_nanos().max(1));
        let part = |nanos: u64| i64::try_from(nanos).unwrap_or(i64::MAX);
        let value = Timespec { tv_sec: part(nanos / 1_000_000_000), tv_nsec: part(nanos % 1_000_000_000) };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::ABSTIME, &spec)?;
        self.set = at;
        Ok(())
    }

    /// Waits until it goes off. Cancel safe.
    pub async fn ring(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut count = [0; 8];
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut count)?));
            match read {
                Ok(result) => {
                    result?;
                    self.set = None;
                    return Ok(());
                }
                // Set anew since it went off.
                Err(_would_block) => {}
            }
        }
    }
}
