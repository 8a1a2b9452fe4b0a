//! The replica as others see it.

use crate::node::Node;
use crate::status::CatalogStatus;

impl Node {
    /// The catalog in brief, for the status; none in a node without one.
    #[must_use]
    pub fn catalog_status(&self) -> Option<CatalogStatus> {
        let replica = self.replica.as_ref()?;
        let file = replica.catalog.file();
        let id = |short: &crate::id::ShortId| {
            let at = self.config.server_index(*short);
            at.map_or_else(|| format!("{:04x}", short.0), |at| self.config.servers[at].id.clone())
        };
        Some(CatalogStatus {
            version: file.version,
            hash: (!file.is_empty()).then(|| format!("{:016x}", file.hash)),
            edits: replica.catalog.len(),
            pushes: replica.pushes.len(),
            complete: replica.catalog.is_complete() || self.adoption.wanted.servers.len() == 1,
            conflicts: replica.conflicts.keys().map(id).collect(),
            refuses: replica.trouble.clone(),
            invalid: replica.invalid.clone(),
        })
    }
}
