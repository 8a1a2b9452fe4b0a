//! The replicated catalog: what the cluster consists of, as entries that every server keeps and anybody may change.

mod edit;

pub use edit::Edit;
