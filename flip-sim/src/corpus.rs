//! Cases that once failed, as explicit schedules: seeds change their meaning when the swarm changes.

use std::path::PathBuf;

use anyhow::Context;
use flip_core::sim::Case;

/// One file of the corpus.
pub struct Entry {
    /// Its name without the ending.
    pub name: String,
    /// What it holds.
    pub case: Case,
}

/// All entries, by name.
///
/// # Errors
/// When the folder or one of its files cannot be read, or is no case.
pub fn corpus() -> anyhow::Result<Vec<Entry>> {
    let dir: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "tests", "corpus", "sim"].iter().collect();
    let mut entries = Vec::new();
    let files =
        std::fs::read_dir(&dir).with_context(|| format!("cannot read the corpus {}", dir.display()))?;
    for file in files {
        let path = file?.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let read = || -> anyhow::Result<Case> { Ok(serde_json::from_str(&std::fs::read_to_string(&path)?)?) };
        let case = read().with_context(|| format!("{} is no case of the simulator", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        entries.push(Entry { name, case });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
