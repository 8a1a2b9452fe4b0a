//! Becoming a server of a running cluster, before the daemon begins: its file says who it is, and the catalog all the
//! rest. Who has joined before has that in its state dir.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use flip_core::catalog::{self, Catalog, Key};
use flip_core::config::{BIND, Problem, Severity};
use flip_systems::files::Read;

use super::privileges;
use super::state::State;
use crate::cli::{DaemonArgs, Member};

/// Completes what the file of a server that joins says; other files are complete. `dirs` are the state dir and this
/// server's folder in it.
///
/// It happens before there is a log or a second thread: privileges are given up later, and which ones depends on what
/// the cluster runs.
pub fn join(read: &mut Read, args: &DaemonArgs, dirs: [&Path; 2]) -> anyhow::Result<()> {
    let Some(entry) = &read.joining else {
        if args.join.is_empty() {
            return Ok(());
        }
        bail!(
            "--join is for a server whose config has `bind` and no `servers`, and {} names the servers",
            read.files.file()
        );
    };
    privileges::prepare(&read.config.privilege_plan(), dirs)?;
    let state = State::open(dirs[1])?;
    let own = Key::Server(read.local.id.clone());
    // One that it was removed from says nothing any more.
    let stored = state.catalog()?.filter(|catalog| catalog.value(&own).is_some());
    let catalog = match stored {
        Some(catalog) => catalog,
        None if args.join.is_empty() => bail!(
            "server {} is in no cluster yet, as far as {} knows: say --join HOST[:PORT] of any member",
            read.config.my().id,
            dirs[1].display()
        ),
        None => {
            let members = resolve(&args.join)?;
            let told = |why: &str| {
                // Nobody is left to tell when standard error is closed.
                let _ = writeln!(std::io::stderr(), "joining: {why}; trying again");
            };
            let patience = Duration::from_secs(args.join_timeout);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let joined = flip_systems::join::join(&members, &read.config, entry, patience, told);
            let catalog = runtime.block_on(joined).map_err(|why| anyhow!("cannot join: {why}"))?;
            state.store_catalog(&catalog)?;
            catalog
        }
    };
    complete(read, &catalog)
}

/// The addresses of all members that were named; one that has none does not matter where another has.
fn resolve(members: &[Member]) -> anyhow::Result<Vec<SocketAddr>> {
    let (mut found, mut error) = (Vec::new(), None);
    for Member(host, port) in members {
        match (host.as_str(), *port).to_socket_addrs() {
            Ok(addresses) => found.extend(addresses),
            Err(why) => error = Some(anyhow!("cannot find the address of {host}: {why}")),
        }
    }
    match error {
        Some(error) if found.is_empty() => Err(error),
        Some(_) | None => Ok(found),
    }
}

/// Puts the scripts that the cluster names, and its config, in place of what the file alone came to.
fn complete(read: &mut Read, catalog: &Catalog) -> anyhow::Result<()> {
    let scripts = read.files.with_catalog(catalog, &mut read.local);
    read.scripts = scripts.map_err(|problems| anyhow!("{}", problems.join("\n")))?;
    read.known = read.local.known().to_vec();
    let begun = catalog::begin(&read.file, &read.local, Some(catalog.clone()));
    let config = begun.context("the catalog of the cluster cannot be used here")?.config;
    let (own, known, id) = (read.config.my().addr, config.my().addr, &config.my().id);
    if own != known {
        let message = format!("this file says {own}, and the cluster knows {id} at {known}, which counts");
        let help =
            format!("change it there (flip server set {id} ip=... port=...), or bring this file up to date");
        let file = read.files.file();
        let source = read.files.source(&file);
        let problem = Problem::at(&source, Severity::Warning, &[BIND], &message, Some(&help));
        read.warnings.push(problem);
    }
    read.config = config;
    Ok(())
}
