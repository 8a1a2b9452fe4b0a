//! What was measured, per kind of fault and item.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use flip_core::config::{Config, Isolated};
use flip_core::sim::Outcome;
use serde::Serialize;

pub struct Figures {
    /// System, name and policy of each item.
    items: Vec<(String, String, &'static str)>,
    /// In the order in which the kinds were asked for: per item, one sample per seed.
    kinds: Vec<(String, Vec<Vec<Sample>>)>,
    broken: BTreeMap<String, String>,
}

#[derive(Clone, Copy)]
struct Sample {
    none: Duration,
    two: Duration,
    moves: u64,
}

/// Worst and median of some figures.
#[derive(Serialize)]
struct Spread<T> {
    worst: T,
    median: T,
}

#[derive(Serialize)]
struct Row<'a> {
    fault: &'a str,
    system: &'a str,
    item: &'a str,
    isolated: &'static str,
    without_holder_ms: Spread<u64>,
    two_holders_ms: Spread<u64>,
    moves: Spread<u64>,
}

#[derive(Serialize)]
struct Report<'a> {
    rows: Vec<Row<'a>>,
    broken_promises: &'a BTreeMap<String, String>,
}

impl Figures {
    pub fn new(config: &Config) -> Self {
        let policy = |isolated: Isolated| {
            let known = Isolated::NAMES.iter().find(|(_, named)| *named == isolated);
            known.map_or("keep", |(name, _)| *name)
        };
        let items = config.systems.iter().flat_map(|system| {
            let item = move |item: &flip_core::config::Item| {
                (system.name.clone(), item.name.clone(), policy(item.isolated))
            };
            system.items.iter().map(item)
        });
        Self { items: items.collect(), kinds: Vec::new(), broken: BTreeMap::new() }
    }

    pub fn add(&mut self, kind: &str, outcome: &Outcome) {
        if self.kinds.last().is_none_or(|(last, _)| last != kind) {
            self.kinds.push((kind.to_owned(), vec![Vec::new(); self.items.len()]));
        }
        if let Some((_, samples)) = self.kinds.last_mut() {
            for (samples, tally) in samples.iter_mut().zip(&outcome.tallies) {
                let (none, two) = (tally.longest_none, tally.longest_two);
                samples.push(Sample { none, two, moves: tally.arrivals });
            }
        }
        if let Some(first) = outcome.violations.first() {
            let entry = self.broken.entry(format!("{} ({kind})", first.promise));
            entry.or_insert_with(|| first.what.clone());
        }
    }

    /// True when a promise of the config was broken.
    pub fn broken(&self) -> bool {
        !self.broken.is_empty()
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for (kind, samples) in &self.kinds {
            for ((system, item, isolated), samples) in self.items.iter().zip(samples) {
                let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                rows.push(Row {
                    fault: kind,
                    system,
                    item,
                    isolated,
                    without_holder_ms: spread(samples.iter().map(|sample| ms(sample.none))),
                    two_holders_ms: spread(samples.iter().map(|sample| ms(sample.two))),
                    moves: spread(samples.iter().map(|sample| sample.moves)),
                });
            }
        }
        rows
    }

    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&Report { rows: self.rows(), broken_promises: &self.broken })
    }

    pub fn table(&self, seeds: u64) -> String {
        let rows = self.rows();
        let width =
            |least: usize, texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0).max(least);
        let item_width = width(4, &mut rows.iter().map(|row| row.system.len() + 1 + row.item.len()));
        let mut text = format!(
            "{:<10}  {:<item_width$}  {:<8}  {:>21}  {:>21}  {:>13}\n{:<10}  {:<item_width$}  {:<8}  {:>21}  {:>21}  {:>13}\n",
            "fault",
            "item",
            "isolated",
            "no holder, s",
            "two holders, s",
            "moves",
            "",
            "",
            "",
            "worst      median",
            "worst      median",
            "worst median",
        );
        let seconds = |ms: u64| ms as f64 / 1000.0;
        for row in &rows {
            let name = format!("{}/{}", row.system, row.item);
            let (none, two) = (&row.without_holder_ms, &row.two_holders_ms);
            let _ = writeln!(
                text,
                "{:<10}  {name:<item_width$}  {:<8}  {:>9.3}  {:>10.3}  {:>9.3}  {:>10.3}  {:>6}  {:>5}",
                row.fault,
                row.isolated,
                seconds(none.worst),
                seconds(none.median),
                seconds(two.worst),
                seconds(two.median),
                row.moves.worst,
                row.moves.median,
            );
        }
        let _ =
            write!(text, "{seeds} simulated runs per kind of fault; a new start of flip draws the same ones");
        for (promise, what) in &self.broken {
            let _ = write!(text, "\nbroken promise {promise}: {what}");
        }
        text
    }
}

fn spread(figures: impl Iterator<Item = u64>) -> Spread<u64> {
    let mut sorted: Vec<_> = figures.collect();
    sorted.sort_unstable();
    Spread {
        worst: sorted.last().copied().unwrap_or(0),
        median: sorted.get(sorted.len() / 2).copied().unwrap_or(0),
    }
}
