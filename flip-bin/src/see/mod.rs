//! Looking into a cluster: `flip members`, `items`, `events`, `why`, `plan`, `metrics`, and `flip evict`, which first
//! looks.

mod events;
mod evict;
mod lists;
mod plan;
pub mod vippy;
mod why;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use flip_core::plan::{Plan, WhatIf};
use flip_core::status::Status;
use flip_core::why::Why;
use hyper::Method;
use serde_json::{Value, json};

use crate::Outcome;
use crate::cli::{AskArgs, EventsArgs, PlanArgs, SeeArgs, WhyArgs};
use crate::client::{Client, Error, LIMIT, encoded, parse};
use crate::status::colour;

pub use evict::evict;

/// The exit code of a plan that leaves something without a holder.
const UNHELD: u8 = 3;

pub fn members(args: &SeeArgs) -> Outcome {
    let status: Status = Client::of(&args.daemon)?.get("/v1/status")?;
    if args.json {
        return say(&serde_json::to_string(&status.members)?);
    }
    print(&lists::members(&status, colour()))
}

pub fn items(args: &SeeArgs) -> Outcome {
    let status: Status = Client::of(&args.daemon)?.get("/v1/status")?;
    if args.json {
        return say(&serde_json::to_string(&status.items)?);
    }
    print(&lists::items(&status, colour()))
}

pub fn why(args: &WhyArgs) -> Outcome {
    let line = Client::of(&args.daemon)?.text(&format!("/v1/why/{}", encoded(&args.item)))?;
    if args.json {
        return say(&line);
    }
    let why: Why = parse(&line)?;
    print(&why::show(&why))
}

pub fn plan(args: &PlanArgs) -> Outcome {
    let mut what_if = Vec::new();
    what_if.extend(args.down.iter().cloned().map(WhatIf::Down));
    what_if.extend(args.up.iter().cloned().map(WhatIf::Up));
    what_if.extend(args.drain.iter().cloned().map(WhatIf::Drain));
    what_if.extend(args.undrain.iter().cloned().map(WhatIf::Undrain));
    what_if.extend(args.add.iter().map(|add| WhatIf::AddItem { system: add.0.clone(), name: add.1.clone() }));
    let question = json!({ "what_if": what_if });
    let plan: Plan = Client::of(&args.daemon)?.send(Method::POST, "/v1/plan", Some(&question), LIMIT)?;
    if args.json {
        say(&serde_json::to_string(&plan)?)?;
    } else {
        print(&plan::show(&plan, colour()))?;
    }
    Ok(if plan.unheld.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(UNHELD) })
}

pub fn events(args: &EventsArgs) -> Outcome {
    let path = format!("/v1/events?from={}&follow={}", args.from, args.follow);
    let mut out = io::stdout().lock();
    for event in Client::of(&args.daemon)?.stream(&path)? {
        if event.kind == "error" {
            // The reason of an end, in the words of the API.
            let why: Value = parse(&event.data)?;
            let message = why["error"]["message"].as_str().unwrap_or("the stream ended").to_owned();
            return Err(Error::NoDaemon(anyhow!(message)).into());
        }
        if args.json {
            writeln!(out, "{}", event.data)?;
        } else {
            writeln!(out, "{}", events::show(&event.data)?)?;
        }
        out.flush()?;
    }
    if args.follow {
        return Err(Error::NoDaemon(anyhow!("the daemon has ended, or its answer broke off")).into());
    }
    Ok(ExitCode::SUCCESS)
}

pub fn metrics(args: &AskArgs) -> Outcome {
    print(&Client::of(args)?.text("/metrics")?)
}

/// Why an item is where it is, in sentences.
pub fn sentences(why: &Why) -> String {
    why::show(why)
}

/// A time of the wall clock, for people: `23:59:59.999Z`.
pub fn time(wall_ms: u64) -> String {
    events::utc(wall_ms).split_off(11)
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
