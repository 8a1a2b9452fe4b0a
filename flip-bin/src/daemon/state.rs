//! What survives the daemon: its generation, and the lock that keeps a second one away.
//!
//! # What is promised of generations
//!
//! - With its disk, each start has a larger generation than all before, whatever the clock says. The
//!   number is kept twice, so that this holds when one of the files is damaged or missing.
//! - Without its disk, or with both files damaged, the clock alone decides: a generation is the wall clock
//!   in milliseconds, or one more than the last where that is more: two lives without a disk are told apart
//!   if they began in different milliseconds. So it grows unless the clock is behind an earlier life's.
//!   The same holds after a generation that could not be stored, because the disk was full: the daemon runs
//!   on, and the next start reads the clock. Where the clock is behind, the others take this server for an earlier life of itself and do not
//!   count it in before the clock is right and the daemon was started again. Nobody else is harmed: what
//!   an earlier life promised is waited out (rule R4) and not known by its number.

mod catalog;
mod keys;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
pub use catalog::Writer;
use flip_systems::clock;
use rustix::fs::{FlockOperation, flock};

/// Where the generation is, and where it is once more.
const FILES: [&str; 2] = ["generation", "generation.copy"];

/// The folder of one server, locked as long as this lives.
pub struct State {
    dir: PathBuf,
    _lock: File,
}

impl State {
    /// Makes the folder if need be, readable by its owner alone, and locks it.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let help = "; choose another folder with --state-dir";
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make the state dir {}{help}", dir.display()))?;
        let path = dir.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write to the state dir {}{help}", dir.display()))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
            let mut pid = String::new();
            // The text is only a hint for people.
            let _ = (&mut lock).take(32).read_to_string(&mut pid);
            let pid = pid.trim();
            bail!("another flip (process {pid}) uses the state dir {}; stop it{help}", dir.display());
        }
        // A hint for people who find the lock taken, so a full disk does not matter.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// A generation larger than all before, already on disk. The clock takes part so that a lost disk
    /// does not bring an old generation back.
    pub fn next_generation(&self) -> anyhow::Result<u64> {
        self.next_generation_at(clock::wall_millis())
    }

    /// As [`State::next_generation`] when the clock says `wall` milliseconds.
    fn next_generation_at(&self, wall: u64) -> anyhow::Result<u64> {
        let stored = FILES.map(|name| self.stored(name));
        let mut last = None;
        for stored in stored {
            last = last.max(stored?);
        }
        let next = match last {
            // The largest number is no generation: nothing could come after it.
            Some(last) => wall.max(last.saturating_add(1)).min(u64::MAX - 1),
            None => wall.max(1),
        };
        self.store(next)?;
        Ok(next)
    }

    /// Replaces the stored generation durably.
    pub fn store(&self, generation: u64) -> anyhow::Result<()> {
        self.replace(generation).with_context(|| {
            let [file, copy] = FILES;
            format!("cannot store the generation in {file} and {copy} in {}", self.dir.display())
        })
    }

    fn replace(&self, generation: u64) -> io::Result<()> {
        let new = |name: &str| self.dir.join(format!("{name}.new"));
        for name in FILES {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new(name))?;
            writeln!(file, "{generation}")?;
            file.sync_all()?;
        }
        for name in FILES {
            std::fs::rename(new(name), self.dir.join(name))?;
        }
        File::open(&self.dir)?.sync_all()
    }

    /// What an earlier life stored. A damaged file is set aside under another name.
    fn stored(&self, name: &str) -> anyhow::Result<Option<u64>> {
        let path = self.dir.join(name);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(64).read_to_end(&mut bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        }
        .with_context(|| format!("cannot read {}", path.display()))?;
        let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse::<u64>().ok());
        // An absurd number would leave no room to grow, and cannot have come from this code.
        if let Some(number) = number.filter(|number| *number > 0 && *number < u64::MAX / 2) {
            return Ok(Some(number));
        }
        let aside = self.aside();
        std::fs::rename(&path, &aside).with_context(|| format!("cannot set {} aside", path.display()))?;
        tracing::warn!(
            file = %path.display(), set_aside = %aside.display(),
            "a stored generation is damaged; going on with its copy and the clock"
        );
        Ok(None)
    }

    fn aside(&self) -> PathBuf {
        let name = |n: usize| self.dir.join(format!("generation.damaged.{n}"));
        (1..1000).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_grow_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let first = state.next_generation().unwrap();
        assert!(first > 1_600_000_000);
        assert!(state.next_generation().unwrap() > first);
        state.store(first + 1_000_000_000).unwrap();
        assert_eq!(state.next_generation().unwrap(), first + 1_000_000_001);
    }

    #[test]
    fn generations_grow_with_a_clock_far_back_and_one_file_damaged() {
        /// A machine without a battery for its clock.
        const EPOCH: u64 = 3;
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let mut last = state.next_generation_at(1_800_000_000).unwrap();
        for damage in ["", "1", "18446744073709551615", "garbage", "\u{0}\u{0}\u{0}"] {
            for name in FILES {
                std::fs::write(dir.path().join(name), damage).unwrap();
                let next = state.next_generation_at(EPOCH).unwrap();
                assert_eq!(next, last + 1, "{name} holds {damage:?}");
                last = next;
                std::fs::remove_file(dir.path().join(name)).unwrap();
                last += 1;
                assert_eq!(state.next_generation_at(EPOCH).unwrap(), last, "{name} is gone");
            }
        }
        // Both damaged: nothing but the clock is left, and what is said of it holds.
        for name in FILES {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        assert_eq!(state.next_generation_at(EPOCH).unwrap(), EPOCH);
        assert_eq!(state.next_generation_at(0).unwrap(), EPOCH + 1);
        assert_eq!(state.next_generation_at(1_900_000_000).unwrap(), 1_900_000_000);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        for (n, damage) in ["", "12x\n", "0\n", "18446744073709551615\n", "\u{0}\u{0}"].iter().enumerate() {
            std::fs::write(dir.path().join("generation"), damage).unwrap();
            let state = State::open(dir.path()).unwrap();
            assert!(state.next_generation().unwrap() > 1_600_000_000);
            let kept =
                std::fs::read_to_string(dir.path().join(format!("generation.damaged.{}", n + 1))).unwrap();
            assert_eq!(kept, *damage);
        }
    }

    #[test]
    fn a_second_daemon_is_refused_and_told_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let _state = State::open(dir.path()).unwrap();
        let error = State::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }
}
