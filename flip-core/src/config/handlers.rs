//! Which handlers a system may name.

use super::HANDLERS;
use super::nearest::nearest;
use super::problem::Problems;
use super::raw::{clip, list};
use super::source::At;
use super::written::WrittenSystem;

/// The handler that runs where an item arrives; by default `<name>_up`.
pub(super) fn alive_name(system: &WrittenSystem) -> String {
    system.alive.as_ref().map_or_else(|| format!("{}_up", system.name.value), |alive| alive.value.clone())
}

/// The handler that runs where an item leaves; by default `<name>_down`.
pub(super) fn down_name(system: &WrittenSystem) -> String {
    system.down.as_ref().map_or_else(|| format!("{}_down", system.name.value), |down| down.value.clone())
}

/// Both handlers must be known and belong together.
pub(super) fn check(system: &WrittenSystem, problems: &mut Problems) {
    let (alive, down) = (alive_name(system), down_name(system));
    let Some((_, partner)) = HANDLERS.iter().find(|(up, _)| *up == alive) else {
        let known = HANDLERS.iter().map(|(up, _)| *up);
        match &system.alive {
            Some(at) => refuse(&at.at, "alive", &at.value, known, problems),
            None => refuse_default(system, "alive", &alive, known, problems),
        }
        if let Some(at) = &system.down {
            let known = || HANDLERS.iter().map(|(_, down)| *down);
            if !known().any(|name| name == at.value) {
                refuse(&at.at, "down", &at.value, known(), problems);
            }
        }
        return;
    };
    if down == *partner {
        return;
    }
    match &system.down {
        Some(at) => {
            let message =
                format!("found \"{}\", expected \"{partner}\", which belongs to `{alive}`", clip(&at.value));
            problems.error(&at.at, message);
        }
        None => refuse_default(system, "down", &down, [*partner], problems),
    }
}

fn refuse<'k>(
    at: &At,
    role: &str,
    found: &str,
    known: impl Iterator<Item = &'k str> + Clone,
    problems: &mut Problems,
) {
    let message =
        format!("found \"{}\", expected a handler for `{role}`: {}", clip(found), list(known.clone()));
    match nearest(found, known) {
        Some(near) => problems.error_help(at, message, format!("did you mean \"{near}\"?")),
        None => problems.error(at, message),
    }
}

fn refuse_default<'k>(
    system: &WrittenSystem,
    role: &str,
    default: &str,
    known: impl IntoIterator<Item = &'k str>,
    problems: &mut Problems,
) {
    let name = clip(&system.name.value);
    let known: Vec<_> = known.into_iter().collect();
    let message = format!(
        "system `{name}` has no `{role}`, and the default `{}` is no handler; expected {}",
        clip(default),
        list(known.iter().copied())
    );
    problems.error_help(&system.name.at, message, format!("add for instance \"{role}\": \"{}\"", known[0]));
}
