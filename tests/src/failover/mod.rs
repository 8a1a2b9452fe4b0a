//! `flip-bench failover`: what a client notices when hosts die, daemons end, datagrams are lost and
//! partitions heal.

mod measure;
mod subject;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::spread::Spread;
use measure::Figures;
pub use subject::{Kind, Subject};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A host falls silent: until the client is answered again.
    HostCut,
    /// The holder's daemon is asked to end.
    Sigterm,
    /// The holder's daemon is killed; its host lives on with the address.
    Sigkill,
    /// The holder's host can send and hears nothing.
    Deaf,
    /// A fifth of all datagrams is lost.
    Loss20,
    /// Two fifths of all datagrams are lost.
    Loss40,
    /// After a partition has healed in which the client was with the two hosts that agreed.
    Heal,
    /// After one in which it was with the host that was alone, and one address out of its reach.
    HealMinority,
    /// Three busy loops use all processors.
    Busy,
    /// Nothing happens.
    Idle,
}

impl What {
    /// All, with the names that the command line knows.
    pub const ALL: [(&'static str, Self); 10] = [
        ("host-cut", Self::HostCut),
        ("sigterm", Self::Sigterm),
        ("sigkill", Self::Sigkill),
        ("deaf", Self::Deaf),
        ("loss20", Self::Loss20),
        ("loss40", Self::Loss40),
        ("heal", Self::Heal),
        ("heal-minority", Self::HealMinority),
        ("busy", Self::Busy),
        ("idle", Self::Idle),
    ];
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often.
    pub runs: usize,
    /// On what.
    pub kinds: Vec<Kind>,
    /// What of it.
    pub what: Vec<What>,
    /// How long lossy and healed networks are watched.
    pub span: Duration,
}

/// Measures and prints a Markdown table, row by row.
///
/// # Errors
/// When a lab cannot be built or something never settles.
pub fn run(options: &Options, flip: &Path) -> anyhow::Result<()> {
    println!(
        "Median (least to greatest) of {} runs, milliseconds. Three hosts, two addresses.\n",
        options.runs
    );
    println!("| what | subject | client's longest outage | times that a host took an address | remark |");
    println!("| --- | --- | --- | --- | --- |");
    for what in &options.what {
        for kind in &options.kinds {
            let figures = measure::measure(*what, kind, options, flip)
                .with_context(|| format!("measuring {what:?} of {kind}"))?;
            print(*what, kind, &figures);
        }
    }
    Ok(())
}

fn print(what: What, kind: &Kind, figures: &Figures) {
    let name = What::ALL.iter().find(|(_, each)| *each == what).map_or("?", |(name, _)| name);
    let outage = Spread::of_millis(&figures.outages);
    let moves = figures
        .moves
        .as_ref()
        .map_or_else(|| "-".to_owned(), |moves| Spread::new(moves.clone(), 0).to_string());
    println!("| {name} | {kind} | {outage} | {moves} | {} |", figures.remark);
}
