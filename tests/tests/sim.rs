//! The quick sweep of the deterministic simulator over flip-core: promises P1, P2, P6, P7, P11 and P12.
//!
//! `FLIP_SIM_SEEDS=20000 cargo test --release -p flip-tests --test sim` sweeps more;
//! `FLIP_SEED=8 cargo test -p flip-core --lib sim -- --nocapture` replays one with its timeline.

use flip_core::sim::run_seed;

/// Seeds that once failed, and what they taught. They run first.
const CORPUS: [(u64, &str); 3] = [
    (4550, "the sweep itself: a goodbye may take longer than five probe periods of profile turbo"),
    (8, "P6: a loser did not look at its items when the successor's confirmation arrived"),
    (1, "P6: a goodbye of an earlier generation made digests differ for ever"),
];

#[test]
fn sweep() {
    let seeds: u64 = std::env::var("FLIP_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let mut broken = Vec::new();
    let (mut verdicts, mut moves) = (0, 0);
    for seed in CORPUS.iter().map(|(seed, _)| *seed).chain(1_000..1_000 + seeds) {
        let outcome = run_seed(seed, false);
        verdicts += outcome.verdicts;
        moves += outcome.moves;
        if let Some(first) = outcome.violations.first() {
            broken.push(format!("FLIP_SEED={seed}: {first:?} {:?}", outcome.plan));
        }
        // P12: the same seed gives the same run.
        if seed % 100 == 0 {
            assert_eq!(outcome.trace, run_seed(seed, false).trace, "seed {seed} is not deterministic");
        }
    }
    println!("{seeds} seeds, {verdicts} verdicts, {moves} moves");
    assert!(verdicts > 0 && moves > 0, "a sweep in which nothing happens proves nothing");
    assert!(broken.is_empty(), "{} of {seeds} seeds failed:\n{}", broken.len(), broken.join("\n"));
}
