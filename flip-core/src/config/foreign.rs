//! What an ip system does about hosts that are no members and use its addresses: `conflict` and `probe`.

use super::bounds;
use super::problem::Problems;
use super::source::Spanned;

/// The values of `conflict`: to announce the address again, or to give the item up.
pub const CONFLICT_NAMES: [&str; 2] = ["defend", "release"];

/// `probe` where the config does not say, in milliseconds.
pub const PROBE: u64 = 100;

/// The largest `probe`, in milliseconds: a lease is as good as over if it waits for longer.
pub const PROBE_MOST: u64 = *bounds::PROBE.end();

/// Checks the value of `conflict`.
pub(super) fn check_conflict(value: &Spanned<serde_json::Value>, problems: &mut Problems) {
    if value.value.as_str().is_none_or(|word| !CONFLICT_NAMES.contains(&word)) {
        problems.error_help(
            &value.at,
            "expected \"defend\" or \"release\"",
            "\"defend\" announces the address again, \"release\" gives the item up",
        );
    }
}

/// Checks the value of `probe`.
pub(super) fn check_probe(value: &Spanned<serde_json::Value>, problems: &mut Problems) {
    if value.value.as_u64().is_none_or(|millis| !bounds::PROBE.contains(&millis)) {
        problems.error_help(
            &value.at,
            format!("expected a number of milliseconds from 0 to {PROBE_MOST}"),
            "0 is not to ask whether another host has an address that is about to be taken",
        );
    }
}
