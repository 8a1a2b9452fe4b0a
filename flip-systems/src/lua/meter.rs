//! What a call uses: time, steps, and where it was when it was stopped.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mlua::{Lua, VmState};
use rustix::time::{ClockId, clock_gettime};

use super::limits;

/// Why a call was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Time,
    Steps,
}

/// The account of one state. Only the thread that runs it writes, one after the other, so nothing here
/// needs an order.
#[derive(Debug)]
pub(super) struct Meter {
    base: Instant,
    /// Nanoseconds since `base`.
    deadline: AtomicU64,
    timeout: AtomicU64,
    /// When the script's turn on its thread began.
    turn: AtomicU64,
    steps: AtomicU64,
    max_steps: u64,
    /// Whether the thread's clock is read.
    account: bool,
    /// 0: runs; 1: stopped by time; 2: by steps; 3: over, nothing is counted.
    stop: AtomicU8,
    /// The coroutine that the call runs in: only that can let others work.
    main: AtomicUsize,
    /// A stopped script was asked to yield, and did not: it was where it cannot.
    asked: AtomicBool,
    /// Where it was stopped.
    place: Mutex<Option<String>>,
    /// Of the state, when the script ended.
    memory: AtomicU64,
    cpu: AtomicU64,
    overrun: AtomicU64,
}

impl Meter {
    pub(super) fn new(max_steps: u64, account: bool) -> Self {
        Self {
            base: Instant::now(),
            deadline: AtomicU64::new(u64::MAX),
            timeout: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            max_steps,
            account,
            stop: AtomicU8::new(0),
            main: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            place: Mutex::new(None),
            memory: AtomicU64::new(0),
            cpu: AtomicU64::new(0),
            overrun: AtomicU64::new(0),
        }
    }

    /// Starts the account anew: so much time from now on, in the coroutine that runs next.
    pub(super) fn start(&self, timeout: Duration) {
        let now = self.now();
        self.deadline.store(now.saturating_add(nanos(timeout)), Relaxed);
        self.timeout.store(nanos(timeout), Relaxed);
        self.turn.store(now, Relaxed);
        self.main.store(0, Relaxed);
        self.asked.store(false, Relaxed);
        for counter in [&self.steps, &self.cpu, &self.overrun] {
            counter.store(0, Relaxed);
        }
        self.stop.store(0, Relaxed);
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The call is over: what runs in its state from now on is ours.
    pub(super) fn end(&self) {
        self.stop.store(3, Relaxed);
    }

    pub(super) fn stopped(&self) -> Option<Stop> {
        match self.stop.load(Relaxed) {
            1 => Some(Stop::Time),
            2 => Some(Stop::Steps),
            _ => None,
        }
    }

    pub(super) fn place(&self) -> Option<String> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn deadline(&self) -> Instant {
        self.base + Duration::from_nanos(self.deadline.load(Relaxed).min(nanos(FAR)))
    }

    /// The time that the call was given.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout.load(Relaxed))
    }

    /// Whether the time is over: for functions of ours that work for long.
    pub(super) fn expired(&self) -> bool {
        self.now() >= self.deadline.load(Relaxed)
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    /// Bytes of the state when the script ended.
    pub(super) fn memory(&self) -> usize {
        usize::try_from(self.memory.load(Relaxed)).unwrap_or(usize::MAX)
    }

    pub(super) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Relaxed))
    }

    /// Processor time that was used after the deadline.
    pub(super) fn overrun(&self) -> Duration {
        Duration::from_nanos(self.overrun.load(Relaxed))
    }

    fn now(&self) -> u64 {
        nanos(self.base.elapsed())
    }

    /// At every call and every turn of a loop, and within the matching of patterns.
    pub(super) fn interrupt(&self, lua: &Lua) -> mlua::Result<VmState> {
        match self.stop.load(Relaxed) {
            0 => {}
            3 => return Ok(VmState::Continue),
            _ => return self.stop_it(lua),
        }
        let steps = self.steps.load(Relaxed) + 1;
        self.steps.store(steps, Relaxed);
        let now = self.now();
        let stop = if now >= self.deadline.load(Relaxed) {
            1
        } else if steps > self.max_steps {
            2
        } else if now - self.turn.load(Relaxed) >= limits::TURN.as_nanos() as u64 {
            self.turn.store(now, Relaxed);
            return Ok(if self.in_main(lua) && !between_poll_and_yield(lua) {
                VmState::Yield
            } else {
                VmState::Continue
            });
        } else {
            if self.main.load(Relaxed) == 0 {
                self.in_main(lua);
            }
            return Ok(VmState::Continue);
        };
        self.stop.store(stop, Relaxed);
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place(lua);
        self.stop_it(lua)
    }

    /// A yield out of the call, after which nobody resumes it, is an end that no `pcall` can catch, and
    /// it costs nothing however deep the script is. Where it cannot yield, in the matching of a pattern or
    /// in a coroutine of its own, an error brings it nearer to where it can.
    fn stop_it(&self, lua: &Lua) -> mlua::Result<VmState> {
        let asked = self.asked.fetch_xor(true, Relaxed);
        if !asked && self.in_main(lua) { Ok(VmState::Yield) } else { Err(mlua::Error::runtime("stopped")) }
    }

    /// Whether the call's own coroutine runs: a yield in another would go to the script. The first that is
    /// seen is the call's own, because that starts all others.
    fn in_main(&self, lua: &Lua) -> bool {
        let running = lua.current_thread().to_pointer() as usize;
        match self.main.load(Relaxed) {
            0 => {
                self.main.store(running, Relaxed);
                true
            }
            main => main == running,
        }
    }
}

const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether mlua's own code around an async function runs. Yielding there would lose a wake: when the
/// coroutine goes on it would yield as pending, without having asked the future again.
fn between_poll_and_yield(lua: &Lua) -> bool {
    let own = |debug: &mlua::debug::Debug<'_>| {
        debug.source().short_src.is_some_and(|source| source.starts_with("__mlua"))
    };
    lua.inspect_stack(0, own).unwrap_or_default()
}

/// The innermost line of the script itself.
fn place(lua: &Lua) -> Option<String> {
    (0..20).find_map(|level| {
        lua.inspect_stack(level, |debug| {
            let source = debug.source();
            let file = source.short_src?;
            let line = debug.current_line()?;
            (source.what == "Lua" || source.what == "main")
                .then(|| file.into_owned())
                .filter(|file| file != super::sandbox::PRELUDE && !file.starts_with("__mlua"))
                .map(|file| format!("{file}:{line}"))
        })?
    })
}

/// A call at work, with its processor time on account.
pub(super) struct Metered<F> {
    pub(super) call: F,
    pub(super) meter: Arc<Meter>,
    pub(super) lua: Lua,
}

impl<F> Drop for Metered<F> {
    fn drop(&mut self) {
        self.meter.memory.store(self.lua.used_memory() as u64, Relaxed);
        // The coroutine is about to be reset, where mlua does not expect the state to be out of memory: the
        // script runs no more, so the limit has done its work.
        let _ = self.lua.set_memory_limit(0);
    }
}

impl<T, F: Future<Output = mlua::Result<T>> + Unpin> Future for Metered<F> {
    type Output = mlua::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<mlua::Result<T>> {
        let account = self.meter.account;
        let cpu = if account { thread_cpu() } else { 0 };
        let start = self.meter.now();
        self.meter.turn.store(start, Relaxed);
        let result = Pin::new(&mut self.call).poll(cx);
        let used = if account { thread_cpu().saturating_sub(cpu) } else { 0 };
        let meter = &self.meter;
        meter.cpu.fetch_add(used, Relaxed);
        // What was used before the deadline can't be more than the time until it.
        let until = meter.deadline.load(Relaxed).saturating_sub(start);
        meter.overrun.fetch_add(used.saturating_sub(until), Relaxed);
        if result.is_pending() && meter.stopped().is_some() {
            return Poll::Ready(Err(mlua::Error::runtime("stopped")));
        }
        result
    }
}

fn thread_cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}
