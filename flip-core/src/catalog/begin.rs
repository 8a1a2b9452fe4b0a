//! What a server begins with: its own file, and what its disk has of the catalog.

use super::compose::{self, Invalid};
use super::file::{File, Local};
use super::store::Catalog;
use crate::config::Config;

/// The beginning of a life.
#[derive(Clone, Debug)]
pub struct Begun {
    /// What the node is given with `Node::set_catalog`.
    pub catalog: Catalog,
    /// What it runs.
    pub config: Config,
    /// What an operator should know: one line each.
    pub notes: Vec<String>,
}

/// Puts together what a server begins with. Of an own file and a stored one the higher version counts; of equal
/// versions the own file, because somebody may just have changed it.
///
/// # Errors
/// When neither the catalog nor the file alone makes a config for this server.
pub fn begin(file: &File, local: &Local, stored: Option<Catalog>) -> Result<Begun, Invalid> {
    let mut notes = Vec::new();
    let mut catalog = stored.unwrap_or_default();
    if !file.is_empty() {
        let here = catalog.file();
        if file.rank() < here.rank() {
            notes.push(format!(
                "the config file has version {}, and the cluster runs version {}: the file is ignored",
                file.version, here.version
            ));
        } else if file != here {
            catalog.set_file(file.clone());
        }
    }
    match compose::config(&catalog, local) {
        Ok(config) if config.me < config.servers.len() => Ok(Begun { catalog, config, notes }),
        Ok(_) => {
            let why = format!(
                "server {} was removed from the cluster; add it again there, or remove its state dir",
                local.id
            );
            Err(Invalid(vec![why]))
        }
        Err(invalid) => {
            let config = compose::config(&Catalog::new(file.clone()), local).map_err(|_| invalid.clone())?;
            notes.push(format!(
                "the stored catalog makes no config that can be used, so the file alone counts: {invalid}"
            ));
            Ok(Begun { catalog, config, notes })
        }
    }
}
