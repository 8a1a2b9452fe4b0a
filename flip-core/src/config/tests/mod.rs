//! Whole files in, working types or rendered problems out.

mod original;
mod privileges;
mod problems;
mod values;

use super::key::{self, Secret};
use super::resolve::Secrets;
use super::{ClusterKey, Loaded, Overrides, Problem, Source};

/// Loads without Argon2, of which one run takes longer than a thousand files.
fn load_quickly(text: &str, overrides: &Overrides) -> Result<Loaded, Vec<Problem>> {
    super::read::load_with(&Source { file: "cluster.json", text }, overrides, Secrets::Derive(quick_key))
}

fn quick_key(secret: Secret, cluster_id: &str) -> Result<ClusterKey, argon2::Error> {
    match secret {
        Secret::Passphrase(text) => Ok(ClusterKey(blake3::derive_key(cluster_id, text))),
        Secret::Key(_) | Secret::None => key::derive(secret, cluster_id),
    }
}

/// Problems as `flip check` prints them.
fn render(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}
