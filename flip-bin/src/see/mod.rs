//! Looking into a cluster: `flip members`, `items`, `events`, `why`, `plan`, `metrics`, and `flip evict`, which first
//! looks.

pub mod ask;
mod events;
mod evict;
mod lists;
mod plan;
pub mod vippy;
mod why;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use flip_core::plan::{Plan, WhatIf};
use flip_core::status::Status;
use flip_core::why::Why;

use crate::cli::{AskArgs, EventsArgs, PlanArgs, SeeArgs, WhyArgs};
use crate::status::colour;
use crate::{Failure, Outcome};
use ask::Question;

pub use evict::evict;

/// The exit code of a plan that leaves something without a holder.
const UNHELD: u8 = 3;

pub fn members(args: &SeeArgs) -> Outcome {
    let status = status(&args.daemon)?;
    if args.json {
        return say(&serde_json::to_string(&status.members)?);
    }
    print(&lists::members(&status, colour()))
}

pub fn items(args: &SeeArgs) -> Outcome {
    let status = status(&args.daemon)?;
    if args.json {
        return say(&serde_json::to_string(&status.items)?);
    }
    print(&lists::items(&status, colour()))
}

pub fn why(args: &WhyArgs) -> Outcome {
    let line = ask::line(&args.daemon, &Question::Why(args.item.clone()))?;
    if args.json {
        return say(&line);
    }
    let why: Why = read(&line)?;
    print(&why::show(&why))
}

pub fn plan(args: &PlanArgs) -> Outcome {
    let mut what_if = Vec::new();
    what_if.extend(args.down.iter().cloned().map(WhatIf::Down));
    what_if.extend(args.up.iter().cloned().map(WhatIf::Up));
    what_if.extend(args.drain.iter().cloned().map(WhatIf::Drain));
    what_if.extend(args.undrain.iter().cloned().map(WhatIf::Undrain));
    what_if.extend(args.add.iter().map(|add| WhatIf::AddItem { system: add.0.clone(), name: add.1.clone() }));
    let line = ask::line(&args.daemon, &Question::Plan(what_if))?;
    let plan: Plan = read(&line)?;
    if args.json {
        say(&line)?;
    } else {
        print(&plan::show(&plan, colour()))?;
    }
    Ok(if plan.unheld.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(UNHELD) })
}

pub fn events(args: &EventsArgs) -> Outcome {
    let mut out = io::stdout().lock();
    ask::events(&args.daemon, args.from, args.follow, |line| {
        if args.json {
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{}", events::show(line)?)?;
        }
        out.flush()?;
        Ok(())
    })
}

pub fn metrics(args: &AskArgs) -> Outcome {
    print(&ask::line(args, &Question::Metrics)?)
}

/// Why an item is where it is, in sentences.
pub fn sentences(why: &Why) -> String {
    why::show(why)
}

/// A time of the wall clock, for people: `23:59:59.999Z`.
pub fn time(wall_ms: u64) -> String {
    events::utc(wall_ms).split_off(11)
}

/// The picture as of now.
fn status(daemon: &AskArgs) -> Result<Status, Failure> {
    read(&ask::line(daemon, &Question::Status)?)
}

fn read<T: serde::de::DeserializeOwned>(line: &str) -> Result<T, Failure> {
    let other = "the daemon speaks another version of flip";
    serde_json::from_str(line).context(other).map_err(|error| Failure { code: ask::NO_DAEMON, error })
}

fn say(line: &str) -> Outcome {
    writeln!(io::stdout(), "{}", line.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A span in its two largest units.
pub fn span(ms: u64) -> String {
    crate::status::age(ms, Duration::ZERO)
}
