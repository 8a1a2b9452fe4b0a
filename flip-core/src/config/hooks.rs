//! How hooks are called: the keys `timeout`, `fall`, `cool_down`, `parallel`, `post`, `remove_on_start` and
//! `on_exit` of a system, the last two also for the whole `cluster`.

use std::time::Duration;

use super::problem::Problems;
use super::raw::{Fields, Node, clip};
use super::source::Spanned;
use super::written::{Written, WrittenSystem};
use super::{Isolated, bounds, policy};
use crate::limits;

/// How the hooks of a system are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// How long one hook may take (`timeout`); none where `Timing::hook_timeout` holds.
    pub timeout: Option<Duration>,
    /// After how many failures in a row an item goes elsewhere (`fall`).
    pub fall: u32,
    /// For how long a server gets an item no more that failed there so often (`cool_down`).
    pub cool_down: Duration,
    /// How many hooks of the system run at once (`parallel`). Hooks that a lease waits for do not wait.
    pub parallel: usize,
    /// Whether what an earlier life of the daemon left here, and is not wanted here, is taken down
    /// (`remove_on_start`).
    pub remove_on_start: bool,
    /// What is done with items when the daemon ends (`on_exit`).
    pub on_exit: OnExit,
    /// Name of what runs once a whole plan is done (`post`).
    pub post: Option<String>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            timeout: None,
            fall: limits::HOOK_FALL,
            cool_down: limits::FAILING_FOR,
            parallel: limits::HOOKS_AT_ONCE,
            remove_on_start: true,
            on_exit: OnExit::Down,
            post: None,
        }
    }
}

/// What is done with items when the daemon ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// They are handed over, then their down hooks run.
    #[default]
    Down,
    /// They stay as they are, as after a crash, and the others take over.
    Keep,
}

impl OnExit {
    /// The words of the config.
    pub const NAMES: [(&'static str, Self); 2] = [("down", Self::Down), ("keep", Self::Keep)];
}

/// The keys as written, of a system or of the cluster.
#[derive(Debug, Default)]
pub(super) struct WrittenHooks {
    timeout: Option<Duration>,
    fall: Option<u32>,
    cool_down: Option<Duration>,
    parallel: Option<usize>,
    remove_on_start: Option<Spanned<bool>>,
    on_exit: Option<Spanned<OnExit>>,
    post: Option<String>,
}

/// The keys of a system.
pub(super) fn read(fields: &Fields, problems: &mut Problems) -> WrittenHooks {
    let mut millis = |key: &str, range| {
        let number = fields.get(key)?.whole("a whole number of milliseconds", range, problems)?;
        Some(Duration::from_millis(number.value))
    };
    let (timeout, cool_down) =
        (millis("timeout", bounds::HOOK_TIMEOUT), millis("cool_down", bounds::COOL_DOWN));
    let fall = fields.get("fall").and_then(|node| node.whole("a number of failures", bounds::FALL, problems));
    let parallel =
        fields.get("parallel").and_then(|node| node.whole("a number of hooks", bounds::PARALLEL, problems));
    WrittenHooks {
        timeout,
        fall: fall.and_then(|fall| u32::try_from(fall.value).ok()),
        cool_down,
        // Whether there is such a script is looked at with all others.
        post: fields
            .get("post")
            .and_then(|node| node.text("the name of a script", problems))
            .map(|name| name.value),
        parallel: parallel.and_then(|parallel| usize::try_from(parallel.value).ok()),
        ..read_of_cluster(fields, problems)
    }
}

/// The keys that may also stand in `cluster`, for all its systems.
pub(super) fn read_of_cluster(fields: &Fields, problems: &mut Problems) -> WrittenHooks {
    // The original's word for the same, as a truth value.
    let on_exit = fields.either("on_exit", "remove_on_failure", problems);
    let original = fields.get("on_exit").is_none();
    WrittenHooks {
        remove_on_start: fields.get("remove_on_start").and_then(|node| node.truth(problems)),
        on_exit: on_exit.and_then(|node| read_exit(node, original, problems)),
        ..WrittenHooks::default()
    }
}

fn read_exit(node: &Node, original: bool, problems: &mut Problems) -> Option<Spanned<OnExit>> {
    if !original {
        return node.one_of(&OnExit::NAMES, problems);
    }
    let remove = node.truth(problems)?;
    Some(node.spanned(if remove.value { OnExit::Down } else { OnExit::Keep }))
}

/// What the keys of a system mean.
pub(super) fn of(system: &WrittenSystem, written: &Written) -> Hooks {
    let (own, all, default) = (&system.hooks, &written.hooks, Hooks::default());
    let remove_on_start = own.remove_on_start.as_ref().or(all.remove_on_start.as_ref());
    let on_exit = own.on_exit.as_ref().or(all.on_exit.as_ref());
    Hooks {
        timeout: own.timeout,
        fall: own.fall.unwrap_or(default.fall),
        cool_down: own.cool_down.unwrap_or(default.cool_down),
        parallel: own.parallel.unwrap_or(default.parallel),
        remove_on_start: remove_on_start.map_or(default.remove_on_start, |given| given.value),
        on_exit: on_exit.map_or(default.on_exit, |given| given.value),
        post: own.post.clone(),
    }
}

/// An item under a lease may not be left behind.
pub(super) fn check(system: &WrittenSystem, written: &Written, problems: &mut Problems) {
    let dropped = system.items.iter().any(|item| policy::isolated_of(item, system) == Isolated::Drop);
    if !dropped {
        return;
    }
    let name = clip(&system.name.value);
    let (own, all) = (&system.hooks, &written.hooks);
    let help = "remove it, or set \"isolated\": \"keep\"";
    if let Some(at) = own.on_exit.as_ref().or(all.on_exit.as_ref()).filter(|at| at.value == OnExit::Keep) {
        let message = format!(
            "items are left behind when the daemon ends, but items of system `{name}` are \"drop\", which \
             promises never two holders: expected \"down\""
        );
        problems.error_help(&at.at, message, help);
    }
    if let Some(at) = own.remove_on_start.as_ref().or(all.remove_on_start.as_ref()).filter(|at| !at.value) {
        let message = format!(
            "what an earlier life left is left alone, but items of system `{name}` are \"drop\", which promises \
             never two holders: expected `true`"
        );
        problems.error_help(&at.at, message, help);
    }
}
