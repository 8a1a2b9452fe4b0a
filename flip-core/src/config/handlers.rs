//! Which handlers a system may name: native ones, in pairs, and scripts.

use super::HANDLERS;
use super::nearest::nearest;
use super::problem::Problems;
use super::raw::{clip, list};
use super::scripts::{self, Script, ScriptFound};
use super::source::{At, Spanned};
use super::written::WrittenSystem;

/// The handler that runs where an item arrives; by default `<name>_up`.
pub(super) fn alive_name(system: &WrittenSystem) -> String {
    alive_of(&system.name.value, system.alive.as_ref().map(|alive| alive.value.as_str()))
}

/// The same of a system of this name that says this under `alive`.
pub(crate) fn alive_of(name: &str, alive: Option<&str>) -> String {
    alive.map_or_else(|| format!("{name}_up"), str::to_owned)
}

/// The handler that runs where an item leaves; by default `<name>_down`.
pub(super) fn down_name(system: &WrittenSystem) -> String {
    system.down.as_ref().map_or_else(|| format!("{}_down", system.name.value), |down| down.value.clone())
}

/// Whether a name under `alive` is a native handler or a script that can be used.
pub(super) fn is_known(alive: &str, scripts: &[Script]) -> bool {
    HANDLERS.iter().any(|(up, _)| *up == alive)
        || matches!(scripts::find(alive, scripts), Some(ScriptFound::Body | ScriptFound::Functions(_)))
}

/// Both handlers must be known and belong together: two native ones that are a pair, or scripts.
pub(super) fn check(system: &WrittenSystem, scripts: &[Script], problems: &mut Problems) {
    let (alive, down) = (alive_name(system), down_name(system));
    let Some((_, partner)) = HANDLERS.iter().find(|(up, _)| *up == alive) else {
        if is_script(&alive, scripts) {
            check_scripts(system, scripts, problems);
        } else {
            check_unknown(system, &alive, scripts, problems);
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

/// Whether there is a file under this name, good or not.
fn is_script(name: &str, scripts: &[Script]) -> bool {
    scripts::find(name, scripts).is_some_and(|found| !matches!(found, ScriptFound::Missing(_)))
}

/// No handler has the name under `alive`.
fn check_unknown(system: &WrittenSystem, alive: &str, scripts: &[Script], problems: &mut Problems) {
    let known = HANDLERS.iter().map(|(up, _)| *up);
    match &system.alive {
        Some(at) => refuse(&at.at, "alive", &at.value, known, scripts, problems),
        None => refuse_default(system, "alive", alive, known, problems),
    }
    if let Some(at) = &system.down {
        let known = || HANDLERS.iter().map(|(_, down)| *down);
        if !known().any(|name| name == at.value) && !is_script(&at.value, scripts) {
            refuse(&at.at, "down", &at.value, known(), scripts, problems);
        }
    }
}

/// The name under `alive` is a script: so must be the one under `down`, and each must have its function.
fn check_scripts(system: &WrittenSystem, scripts: &[Script], problems: &mut Problems) {
    let roles = [("alive", alive_name(system), &system.alive), ("down", down_name(system), &system.down)];
    for (role, name, given) in roles {
        let at = given.as_ref().map_or(&system.name.at, |given| &given.at);
        match scripts::find(&name, scripts) {
            Some(ScriptFound::Body) => {}
            Some(ScriptFound::Functions(functions)) if functions.iter().any(|known| known == role) => {}
            Some(ScriptFound::Functions(functions)) => {
                let message = format!(
                    "script `{}` has no function `{role}`; it has {}",
                    clip(&name),
                    list(functions.iter().map(String::as_str))
                );
                problems.error_help(
                    at,
                    message,
                    format!("add the function, or name another script for `{role}`"),
                );
            }
            Some(ScriptFound::Wrong(why)) => problems.error(at, why.to_owned()),
            Some(ScriptFound::Missing(_)) | None => {
                refuse_down(system, &name, given.as_ref(), scripts, problems)
            }
        }
    }
}

/// The script under `alive` has no partner.
fn refuse_down(
    system: &WrittenSystem,
    name: &str,
    given: Option<&Spanned<String>>,
    scripts: &[Script],
    problems: &mut Problems,
) {
    let alive = alive_name(system);
    let both = match scripts::find(&alive, scripts) {
        Some(ScriptFound::Functions(functions)) => functions.iter().any(|known| known == "down"),
        _ => false,
    };
    if given.is_none() && both {
        let message = format!("system `{}` has no `down`", clip(&system.name.value));
        let help = format!("add \"down\": \"{}\": that script has the function `down` too", clip(&alive));
        return problems.error_help(&system.name.at, message, help);
    }
    let place = match scripts::find(name, scripts) {
        Some(ScriptFound::Missing(path)) => format!("; there is no {path}"),
        _ => String::new(),
    };
    match given {
        Some(at) => {
            let message = format!("found \"{}\", expected a script, as under `alive`{place}", clip(name));
            problems.error(&at.at, message);
        }
        None => {
            let message = format!(
                "system `{}` has no `down`, and the default `{}` is no script{place}",
                clip(&system.name.value),
                clip(name)
            );
            problems.error_help(&system.name.at, message, "name the script that takes an item down");
        }
    }
}

fn refuse<'k>(
    at: &At,
    role: &str,
    found: &str,
    known: impl Iterator<Item = &'k str> + Clone,
    scripts: &[Script],
    problems: &mut Problems,
) {
    let message =
        format!("found \"{}\", expected a handler for `{role}`: {}", clip(found), list(known.clone()));
    match (nearest(found, known), scripts::find(found, scripts)) {
        (Some(near), _) => problems.error_help(at, message, format!("did you mean \"{near}\"?")),
        (None, Some(ScriptFound::Missing(path))) => {
            problems.error_help(at, format!("{message}, or a script"), format!("write the script {path}"));
        }
        (None, Some(ScriptFound::Wrong(why))) => problems.error(at, why.to_owned()),
        (None, _) => problems.error(at, message),
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
