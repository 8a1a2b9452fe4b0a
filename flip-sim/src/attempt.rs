//! One run, with its panics caught.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use flip_core::sim::{Case, Outcome, run};

/// How a run ended; `Err` is what a panic said, and where.
pub type Attempt = Result<Outcome, String>;

thread_local! {
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
    static LISTENS: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs a case. A panic of the core is a failure of the case, not of the sweep.
///
/// # Errors
/// What the panic said, and where.
pub fn attempt(case: &Case, timeline: bool) -> Attempt {
    listen();
    LISTENS.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| run(case, timeline)));
    LISTENS.set(false);
    result.map_err(|_| SAID.take().unwrap_or_else(|| "a panic without words".to_owned()))
}

/// Panics of runs are kept for the report, others are printed as always.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if LISTENS.with(|listens| *listens.borrow()) {
                SAID.set(Some(info.to_string().replace('\n', " ")));
            } else {
                before(info);
            }
        }));
    });
}
