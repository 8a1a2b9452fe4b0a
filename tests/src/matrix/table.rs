//! The matrix as Markdown and as JSON.

use std::time::Duration;

use flip_core::config::Isolated;
use serde_json::{Value, json};

use super::{Fault, Options, Run, VIPS};
use crate::spread::Spread;

/// All runs of one cell.
pub(super) struct Row {
    pub(super) policy: Isolated,
    pub(super) fault: Fault,
    pub(super) runs: Vec<Run>,
}

pub(super) fn head(options: &Options) {
    let settings = &options.settings;
    println!(
        "Median (least to greatest) of {} runs, milliseconds. {} hosts, {VIPS} addresses, profile `{}`, lease {} \
         ms, on_daemon_death {} s. A holder is a host whose kernel has the address, whether it can be reached or \
         not.\n",
        options.runs,
        settings.hosts,
        settings.profile,
        settings.lease.as_millis(),
        settings.orphan.as_secs(),
    );
    println!(
        "| fault | lasts, s | policy | two holders, longest | none, longest | the owner's address gone after | \
         the owner down after | taken |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
}

impl Row {
    pub(super) fn print(&self) {
        let of = |each: fn(&Run) -> Option<Duration>| {
            let times: Vec<_> = self.runs.iter().filter_map(each).collect();
            let some = if times.is_empty() || times.len() == self.runs.len() {
                String::new()
            } else {
                format!(" in {} of {}", times.len(), self.runs.len())
            };
            format!("{}{some}", Spread::of_millis(&times))
        };
        let taken = self.runs.iter().map(|run| run.taken as f64).collect();
        println!(
            "| {} | {} | `{}` | {} | {} | {} | {} | {} |",
            self.fault.describe(),
            self.runs.first().map_or(0, |run| run.lasted.as_secs()),
            policy_name(self.policy),
            of(|run| Some(run.two)),
            of(|run| Some(run.none)),
            of(|run| run.fence),
            of(|run| run.detected),
            Spread::new(taken, 0),
        );
    }
}

/// The word of the config.
pub(super) fn policy_name(policy: Isolated) -> &'static str {
    Isolated::NAMES.iter().find(|(_, each)| *each == policy).map_or("?", |(name, _)| name)
}

/// All settings and all single figures; times in milliseconds, `null` where something did not happen.
pub(super) fn json(options: &Options, rows: &[Row]) -> Value {
    let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let run = |run: &Run| {
        json!({
            "lasted": millis(run.lasted),
            "two": millis(run.two),
            "none": millis(run.none),
            "fence": run.fence.map(millis),
            "detected": run.detected.map(millis),
            "taken": run.taken,
        })
    };
    let settings = &options.settings;
    json!({
        "hosts": settings.hosts,
        "addresses": VIPS,
        "profile": settings.profile,
        "lease": millis(settings.lease),
        "on_daemon_death": millis(settings.orphan),
        "cells": rows.iter().map(|row| json!({
            "policy": policy_name(row.policy),
            "fault": row.fault.name(),
            "runs": row.runs.iter().map(run).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Settings;

    #[test]
    fn what_did_not_happen_is_null() {
        let options = Options {
            settings: Settings::default(),
            runs: 1,
            at_once: 1,
            policies: vec![Isolated::Drop],
            faults: vec![Fault::Sigkill],
            json: true,
        };
        let run = Run {
            lasted: Duration::from_secs(10),
            two: Duration::ZERO,
            none: Duration::from_micros(1500),
            fence: None,
            detected: Some(Duration::from_millis(300)),
            taken: 2,
        };
        let json = json(&options, &[Row { policy: Isolated::Drop, fault: Fault::Sigkill, runs: vec![run] }]);
        let cell = &json["cells"][0];
        assert_eq!((&cell["policy"], &cell["fault"]), (&json!("drop"), &json!("sigkill")));
        let expected = json!({
            "lasted": 10_000.0, "two": 0.0, "none": 1.5, "fence": null, "detected": 300.0, "taken": 2,
        });
        assert_eq!(cell["runs"][0], expected);
    }
}
