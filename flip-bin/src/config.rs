//! Reads the config file, the key file and what the host knows, and hands them to the rules.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use flip_core::config::{self, Config, Interface, Overrides, Problem, Severity, Source};

use flip_systems::lua::Scripts;

use crate::cli::ConfigArgs;
use crate::scripts;

/// A config that was read, with what there is to say about it.
pub struct Read {
    pub config: Config,
    pub warnings: Vec<Problem>,
    /// The scripts that it names.
    pub scripts: Scripts,
}

/// Why there is no config: one text for people, ready to print.
pub struct Refused(pub String);

/// Reads the config that the command line names, and looks whether its interfaces are there.
pub fn read(args: &ConfigArgs) -> Result<Read, Refused> {
    let file = args.config.display().to_string();
    let bytes = std::fs::read(&args.config)
        .map_err(|error| Refused(format!("error: cannot read the config {file}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        Refused(format!("error: {file}:{line}: byte {at} is not UTF-8; save the file as UTF-8"))
    })?;
    let source = Source { file: &file, text: &text };
    let key_file = match config::key_file_path(&source) {
        Some(path) => Some(read_key(&beside(&args.config, &path))?),
        None => None,
    };
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let looked = scripts::look(&config::script_names(&source), |path| beside(&args.config, path));
    let overrides = Overrides {
        id: args.id.as_deref(),
        host_name: Some(&host_name),
        key_file: key_file.as_ref().map(|(content, _)| content.as_slice()),
        scripts: &looked.told(),
    };
    let loaded = config::load(&source, &overrides).map_err(|problems| Refused(list(&problems)))?;
    let mut warnings = loaded.warnings;
    if let Some((_, Some(message))) = &key_file {
        let help = "chmod 600 the file: whoever reads it can forge messages of this cluster";
        warnings.push(Problem::at(&source, Severity::Warning, &["key_file"], message, Some(help)));
    }
    warnings.extend(missing_interfaces(&source, &loaded.config));
    Ok(Read { config: loaded.config, warnings, scripts: looked.scripts })
}

/// A relative path in the config is meant from the config's own folder.
fn beside(config: &Path, path: &str) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(path)
}

/// The content of the key file, and what is wrong with its permissions.
fn read_key(path: &Path) -> Result<(Vec<u8>, Option<String>), Refused> {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    let refused = |error| {
        let path = path.display();
        Refused(format!(
            "error: cannot read the key file {path}: {error}\n  help: `flip keygen > {path}` makes one"
        ))
    };
    let file = std::fs::File::open(path).map_err(refused)?;
    let mode = file.metadata().map_err(refused)?.permissions().mode();
    let mut content = Vec::new();
    // The rules refuse what is longer than a key; there is no need to read all of a wrong file.
    file.take(64 * 1024).read_to_end(&mut content).map_err(refused)?;
    let open = (mode & 0o044 != 0).then(|| {
        format!("the key file {} can be read by others (mode {:03o})", path.display(), mode & 0o777)
    });
    Ok((content, open))
}

fn missing_interfaces(source: &Source, config: &Config) -> Vec<Problem> {
    let Ok(present) = flip_systems::interfaces() else { return Vec::new() };
    let names: Vec<_> = present.iter().map(|interface| interface.name.as_str()).collect();
    let mut problems = Vec::new();
    let mut warn = |path: &[&str], name: &str| {
        let message = format!("interface \"{name}\" is not on this host, so no address can be put on it");
        let help = format!("this host has: {}", names.join(", "));
        problems.push(Problem::at(source, Severity::Warning, path, &message, Some(&help)));
    };
    for system in config.my().systems.iter().map(|at| &config.systems[*at]) {
        let setting = system.config.get("interface").and_then(|name| name.as_str());
        // Once for each: the file is read anew for every place.
        let mut warned = BTreeSet::new();
        for (at, item) in system.items.iter().enumerate() {
            for part in item.ip.iter().flat_map(|ip| &ip.parts) {
                let Interface::Name(name) = &part.interface else { continue };
                if names.contains(&name.as_str()) || !warned.insert(name) {
                    continue;
                }
                if setting == Some(name) {
                    warn(&interface_path(source, &config.my().id, &system.name), name);
                } else {
                    warn(&["cluster", "system", &system.name, "data", &at.to_string()], name);
                }
            }
        }
    }
    problems
}

/// Where the interface of a system is set for this server: its own config, the system's, the cluster's.
fn interface_path<'a>(source: &Source, server: &'a str, system: &'a str) -> Vec<&'a str> {
    let places = [
        vec!["servers", server, "config", "interface"],
        vec!["cluster", "system", system, "config", "interface"],
        vec!["cluster", "systems", system, "config", "interface"],
        vec!["cluster", "config", "interface"],
    ];
    let found = places.into_iter().find(|path| config::has_key(source, path));
    found.unwrap_or_else(|| vec!["cluster"])
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}

/// Prints problems to standard error, with an empty line between them.
pub fn print(problems: &[Problem]) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{}", list(problems));
}
