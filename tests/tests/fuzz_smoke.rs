//! The fuzz targets without a fuzzer: each runs over its corpus, and over mutations of it drawn from a
//! fixed seed, for `FLIP_FUZZ_SECONDS` (default 5; continuous integration takes 30). `scripts/dev/fuzz` goes
//! deeper.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// How long each target runs.
fn span() -> Duration {
    let seconds = std::env::var("FLIP_FUZZ_SECONDS").ok().map_or(5, |text| {
        text.parse().unwrap_or_else(|_| panic!("FLIP_FUZZ_SECONDS={text}: expected a number of seconds"))
    });
    Duration::from_secs(seconds)
}

/// Longest input, in bytes.
const LONGEST: usize = 4096;

/// xorshift64* (Vigna 2014): small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap_or(0) % limit.max(1)
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).expect("a file of the corpus")).collect()
}

fn mutate(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut data = corpus[dice.below(corpus.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(data.len() + 1);
        match dice.below(7) {
            0 if at < data.len() => data[at] ^= 1 << dice.below(8),
            1 if at < data.len() => data[at] = [0, 1, 0x7f, 0x80, 0xfb, 0xfc, 0xfd, 0xff][dice.below(8)],
            2 => data.truncate(at),
            3 => data.insert(at, u8::try_from(dice.below(256)).unwrap_or(0)),
            4 => drop(data.drain(at..(at + dice.below(16)).min(data.len()))),
            5 => {
                let other = &corpus[dice.below(corpus.len())];
                let from = dice.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            _ => {
                let end = (at + dice.below(64)).min(data.len());
                let copy = data[at..end].to_vec();
                data.splice(at..at, copy);
            }
        }
    }
    data.truncate(LONGEST);
    data
}

thread_local! {
    /// What a target's panic says is in the test's own message, with the input.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn quietly(run: impl FnOnce()) -> std::thread::Result<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    result
}

fn no_input_breaks(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let (start, span, mut runs) = (Instant::now(), span(), 0);
    let mut inputs = corpus.clone().into_iter();
    while start.elapsed() < span {
        let data = inputs.next().unwrap_or_else(|| mutate(&corpus, &mut dice));
        runs += 1;
        if let Err(panic) = quietly(|| target(&data)) {
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("{name}, run {runs}: {}\n{hex}", what.unwrap_or_default());
        }
    }
    println!("{name}: {runs} inputs");
    assert!(runs > corpus.len(), "{name}: only {runs} inputs in {span:?}");
}

macro_rules! smoke {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            no_input_breaks(stringify!($target));
        })*

        #[test]
        fn every_target_is_here() {
            let here = [$(stringify!($target)),*];
            assert_eq!(targets::TARGETS.map(|(name, _)| name), here);
        }
    };
}

smoke!(packet body frame config state_file item_values);
