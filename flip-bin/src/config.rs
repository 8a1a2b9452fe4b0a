//! Reads the config that the command line names, and adds what the host knows.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;

use flip_core::config::{self, Config, Interface, Problem, Severity, Source};
use flip_systems::Registry;
use flip_systems::files::{self, Read, ReadError};

use crate::cli::ConfigArgs;

/// Why there is no config: one text for people, ready to print.
pub struct Refused(pub String);

/// Reads the config of a whole cluster.
pub fn read(args: &ConfigArgs) -> Result<Read, Refused> {
    let read = read_any(args)?;
    if read.joining.is_some() {
        return Err(Refused(format!(
            "error: {} is the config of a server that joins a cluster (it has `bind` and no `servers`), expected one \
             that names the servers",
            args.config.display()
        )));
    }
    Ok(read)
}

/// Reads the config that the command line names, also one of a server that joins, and looks whether its interfaces are
/// there.
pub fn read_any(args: &ConfigArgs) -> Result<Read, Refused> {
    let mut read = files::read(&args.config, args.id.as_deref(), &Registry::default()).map_err(|error| {
        Refused(match error {
            ReadError::File(why) => format!("error: {why}"),
            ReadError::Config(problems) => list(&problems),
        })
    })?;
    let file = read.files.file();
    read.warnings.extend(missing_interfaces(&read.files.source(&file), &read.config));
    Ok(read)
}

fn missing_interfaces(source: &Source, config: &Config) -> Vec<Problem> {
    let Ok(present) = flip_systems::interfaces() else { return Vec::new() };
    let names: Vec<_> = present.iter().map(|interface| interface.name.as_str()).collect();
    let mut problems = Vec::new();
    let missing = |path: &[&str], name: &str| {
        let message = format!("interface \"{name}\" is not on this host, so no address can be put on it");
        let help = format!("this host has: {}", names.join(", "));
        Problem::at(source, Severity::Warning, path, &message, Some(&help))
    };
    for system in config.my().systems.iter().map(|at| &config.systems[*at]) {
        let setting = system.config.get("interface").and_then(|name| name.as_str());
        // Once for each: the file is read anew for every place.
        let (mut warned, mut unclear) = (BTreeSet::new(), None);
        for (at, item) in system.items.iter().enumerate() {
            for part in item.ip.iter().flat_map(|ip| &ip.parts) {
                let Interface::Name(name) = &part.interface else {
                    if unclear.is_none() {
                        let fit = flip_systems::with_network_of(&present, part.net.addr());
                        unclear = unclear_auto(source, &fit, part.net.addr(), &system.name, &at.to_string());
                    }
                    continue;
                };
                if names.contains(&name.as_str()) || !warned.insert(name) {
                    continue;
                }
                if setting == Some(name) {
                    problems.push(missing(&interface_path(source, &config.my().id, &system.name), name));
                } else {
                    problems
                        .push(missing(&["cluster", "system", &system.name, "data", &at.to_string()], name));
                }
            }
        }
        problems.extend(unclear);
    }
    problems
}

/// What there is to say of an address whose interface is `auto`: where it would be put is not one interface.
fn unclear_auto(source: &Source, fit: &[&str], address: IpAddr, system: &str, at: &str) -> Option<Problem> {
    let message = match fit {
        [_] => return None,
        [] => {
            format!("the interface of {address} is `auto`, and none of this host has a network with it now")
        }
        _ => format!("the interface of {address} is `auto`, and {} have the same network", fit.join(" and ")),
    };
    let path = ["cluster", "system", system, "data", at];
    let help = "name the interface, unless this changes before the item comes here";
    Some(Problem::at(source, Severity::Warning, &path, &message, Some(help)))
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
