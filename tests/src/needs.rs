//! What a test needs of its machine beside Rust: it is skipped loudly without, and fails where scripts/test has
//! installed it.

use std::process::{Command, Stdio};

/// Says that a test is skipped, and why: `false`.
///
/// # Panics
/// When FLIP_REQUIRE_ROOT=1, so that nobody takes skipped tests for passed ones.
#[must_use]
pub fn skip(test: &str, needs: &str) -> bool {
    assert!(
        std::env::var_os("FLIP_REQUIRE_ROOT").is_none_or(|v| v != "1"),
        "{test}: FLIP_REQUIRE_ROOT=1, and it {needs}"
    );
    eprintln!("SKIPPED {test}: {needs}");
    false
}

/// Guards a test that runs a command: `false`, and a loud word, where that is not installed.
///
/// # Panics
/// As [`skip`].
#[must_use]
pub fn command_or_skip(test: &str, command: &str, version: &str, package: &str) -> bool {
    let asked = Command::new(command).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok()
        || skip(test, &format!("needs {command}: apt-get install --no-install-recommends {package}"))
}
