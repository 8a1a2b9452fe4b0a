//! `flip simulate`: the user's own cluster through the simulator.

mod figures;
mod progress;

use std::io::{self, Write};
use std::process::ExitCode;

use flip_core::sim;

use crate::cli::SimulateArgs;
use crate::config::{self, Refused};
use crate::{Failure, Outcome};
use flip_systems::files::Read;

use figures::Figures;
use progress::Progress;

pub fn run(args: &SimulateArgs) -> Outcome {
    let config = match config::read(&args.config) {
        Err(Refused(text)) => {
            writeln!(io::stderr(), "{text}")?;
            return Ok(ExitCode::from(2));
        }
        Ok(Read { config, .. }) => config,
    };
    if config.servers.len() > sim::LARGEST {
        let (servers, most) = (config.servers.len(), sim::LARGEST);
        let error = anyhow::anyhow!("the config has {servers} servers; up to {most} can be simulated");
        return Err(Failure { code: 2, error });
    }
    let mut figures = Figures::new(&config);
    let mut progress = Progress::new(args.faults.len() as u64 * args.seeds);
    for kind in &args.faults {
        for seed in 1..=args.seeds {
            if let Some(outcome) = sim::simulate(&config, kind, seed) {
                figures.add(kind, &outcome);
            }
            progress.step(kind);
        }
    }
    progress.clear();
    let text = if args.json { figures.json()? } else { figures.table(args.seeds) };
    writeln!(io::stdout(), "{text}")?;
    Ok(ExitCode::from(u8::from(figures.broken())))
}
