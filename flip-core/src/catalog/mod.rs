//! The replicated catalog: what the cluster consists of, as entries that every server keeps and anybody may change.
//!
//! ```text
//!  config file ──► file ─┐
//!  edits ──► change ─────┼─► store (merges) ──► compose ──► config::load ──► Config
//!  other servers, disk ──┘                       ▲ what a file says to its own server alone
//! ```
//!
//! Of a few items that changed, `composed` lets load look at these alone.
//!
//! It has two layers. The **file layer** is what a config file says: one whole set with a `version`, of which
//! the highest counts, everywhere. Above it are **records**, one for each key that somebody changed by an edit; the
//! last writer wins, by a stamp. A record that changes or hides what the file says is bound to the file's
//! version and ends with it; what an edit added stays until an edit removes it.

mod begin;
mod change;
mod compose;
mod composed;
pub mod disk;
mod edit;
mod entry;
mod file;
pub mod homes;
mod list;
mod store;

#[cfg(test)]
mod tests;

pub use begin::{Begun, begin};
pub use change::Changes;
pub use compose::{Invalid, config, script_names};
pub use composed::Composed;
pub use edit::Edit;
pub use entry::{COUNT_MAX, Entry, Key, Record, Stamp};
pub use file::{File, Known, LOCAL_KEYS, Local, open};
pub use list::{Listed, ListedItem, ListedServer, ListedSystem, Listing, Origin};
pub(crate) use store::bucket;
pub use store::{BUCKETS, Brief, Catalog, FileMerge};
