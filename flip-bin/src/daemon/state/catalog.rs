//! The catalog on disk: one file, replaced whole or appended to, by a thread of its own, so that no disk holds up
//! the loop.
//!
//! What is reported as stored is on the disk: the file is synced, and so is the folder where it was replaced. A
//! file that is damaged or of a later release is set aside under another name; the others have what was in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use anyhow::Context;
use flip_core::catalog::{Catalog, disk};
use flip_systems::flip::Stored;

use super::State;

/// What is read of a catalog at most; what is longer is damaged.
const LONGEST: u64 = 512 << 20;
const NAME: &str = "catalog";

/// One write, and whom to tell of its end.
struct Job {
    bytes: Vec<u8>,
    whole: bool,
    done: Stored,
}

/// The thread that writes.
pub struct Writer(mpsc::Sender<Job>);

impl Writer {
    /// Writes, and tells how it ended.
    pub fn store(&self, bytes: Vec<u8>, whole: bool, done: Stored) {
        if let Err(mpsc::SendError(write)) = self.0.send(Job { bytes, whole, done }) {
            (write.done)(Err("the thread that writes the catalog is gone".into()));
        }
    }
}

impl State {
    /// The catalog that an earlier life stored.
    pub fn catalog(&self) -> anyhow::Result<Option<Catalog>> {
        let path = self.dir.join(NAME);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(LONGEST + 1).read_to_end(&mut bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        }
        .with_context(|| format!("cannot read {}", path.display()))?;
        let read =
            if bytes.len() as u64 > LONGEST { Err(flip_core::stored::Damaged) } else { disk::read(&bytes) };
        match read {
            Ok((catalog, torn)) => {
                if torn {
                    tracing::info!(file = %path.display(), "its last write did not come to its end, and was left out");
                }
                Ok(Some(catalog))
            }
            Err(error) => {
                let name = |n: usize| self.dir.join(format!("{NAME}.damaged.{n}"));
                let aside = (1..1000).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(1000));
                std::fs::rename(&path, &aside)
                    .with_context(|| format!("cannot set {} aside", path.display()))?;
                tracing::error!(
                    file = %path.display(), set_aside = %aside.display(),
                    "the stored catalog is {error}; going on with the config file, and with what the others know"
                );
                Ok(None)
            }
        }
    }

    /// Stores a catalog that was got from a member, whatever was here.
    pub fn store_catalog(&self, catalog: &Catalog) -> anyhow::Result<()> {
        let stored = replace(&self.dir, &disk::whole(catalog), &mut None);
        stored.with_context(|| format!("cannot write {}", self.dir.join(NAME).display()))
    }

    /// Starts the thread that writes the catalog. It ends when the writer is dropped.
    pub fn writer(&self) -> anyhow::Result<Writer> {
        let dir = self.dir.clone();
        let (sender, writes) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("catalog".into())
            .spawn(move || {
                let mut file = None;
                while let Ok(Job { bytes, whole, done }) = writes.recv() {
                    let result =
                        if whole { replace(&dir, &bytes, &mut file) } else { append(&mut file, &bytes) };
                    if result.is_err() {
                        // A part may be there: the next write replaces the file.
                        file = None;
                    }
                    done(result.map_err(|error| format!("{}: {error}", dir.join(NAME).display())));
                }
            })
            .context("cannot start the thread that writes the catalog")?;
        Ok(Writer(sender))
    }
}

fn replace(dir: &Path, bytes: &[u8], file: &mut Option<File>) -> io::Result<()> {
    let (new, path): (PathBuf, PathBuf) = (dir.join(format!("{NAME}.new")), dir.join(NAME));
    *file = None;
    let mut made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    made.write_all(bytes)?;
    made.sync_all()?;
    std::fs::rename(&new, &path)?;
    File::open(dir)?.sync_all()?;
    *file = Some(made);
    Ok(())
}

fn append(file: &mut Option<File>, bytes: &[u8]) -> io::Result<()> {
    let file = file.as_mut().ok_or_else(|| io::Error::other("there is no file to append to"))?;
    file.write_all(bytes)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use flip_core::catalog::{Key, Record, Stamp};

    use super::*;

    fn entry(n: u64) -> (Key, Record) {
        let stamp = Stamp { count: n, writer: 1 };
        let record = Record { value: Some("\"x\"".into()), stamp, born: stamp, bound: None };
        (Key::Item("ip".into(), n.to_string()), record)
    }

    fn store(writer: &Writer, bytes: Vec<u8>, whole: bool) -> Result<(), String> {
        let (told, answer) = mpsc::channel();
        writer.store(bytes, whole, Box::new(move |result| told.send(result).unwrap()));
        answer.recv().unwrap()
    }

    #[test]
    fn a_catalog_is_written_appended_to_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert!(state.catalog().unwrap().is_none());
        let writer = state.writer().unwrap();
        store(&writer, disk::frame(None, &Catalog::default(), vec![entry(1)]), false)
            .expect_err("there is nothing to append to");
        let mut catalog = Catalog::default();
        catalog.merge(entry(1).0, entry(1).1);
        store(&writer, disk::whole(&catalog), true).unwrap();
        store(&writer, disk::frame(None, &Catalog::default(), vec![entry(2)]), false).unwrap();
        catalog.merge(entry(2).0, entry(2).1);
        assert_eq!(state.catalog().unwrap().unwrap().brief(), catalog.brief());
        let mode = std::fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // A torn end is left out, anything else set aside and kept.
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        std::fs::write(dir.path().join(NAME), &bytes[..bytes.len() - 3]).unwrap();
        assert_eq!(state.catalog().unwrap().unwrap().len(), 1);
        std::fs::write(dir.path().join(NAME), "flip catalog 9\n").unwrap();
        assert!(state.catalog().unwrap().is_none());
        assert_eq!(
            std::fs::read_to_string(dir.path().join("catalog.damaged.1")).unwrap(),
            "flip catalog 9\n"
        );
        assert!(state.catalog().unwrap().is_none(), "once");
    }
}
