//! A short sweep of the deterministic simulator, and the corpus of cases that once failed.
//!
//! `scripts/dev/sim --seeds 20000` sweeps more; `scripts/dev/sim --seed 8` replays one with its timeline.

use std::path::PathBuf;

use flip_core::sim::{Case, draw, run};

/// In a debug build; the release build of scripts/dev/sim sweeps thousands.
const SEEDS: u64 = 60;
const REPLAY: &str = "replay it with scripts/dev/sim";

#[test]
fn the_corpus_holds() {
    let dir: PathBuf = [env!("CARGO_MANIFEST_DIR"), "corpus", "sim"].iter().collect();
    let mut cases = 0;
    for file in std::fs::read_dir(dir).expect("the corpus is there") {
        let path = file.expect("readable").path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        let case: Case = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let outcome = run(&case, false);
        let file = path.display();
        assert!(outcome.violations.is_empty(), "{:?}; {REPLAY} --case {file}", outcome.violations);
        cases += 1;
    }
    assert!(cases > 0, "an empty corpus proves nothing");
}

#[test]
fn a_short_sweep() {
    let (mut verdicts, mut moves) = (0, 0);
    for seed in 1_000..1_000 + SEEDS {
        let case = draw(seed);
        let outcome = run(&case, false);
        assert!(outcome.violations.is_empty(), "{:?}; {REPLAY} --seed {seed}", outcome.violations);
        verdicts += outcome.verdicts;
        moves += outcome.moves;
        // P12: the same seed gives the same run.
        if seed % 20 == 0 {
            assert_eq!(outcome.trace, run(&case, false).trace, "seed {seed} is not deterministic");
        }
    }
    println!("{SEEDS} seeds, {verdicts} verdicts, {moves} moves");
    assert!(verdicts > 0 && moves > 0, "a sweep in which nothing happens proves nothing");
}
