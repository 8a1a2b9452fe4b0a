//! The file of a catalog on a host's disk: it takes time to write, and of what was being written when a daemon died
//! some of it is there, all, or nothing.

use rand::RngExt;

use super::text::Written;
use crate::catalog::{self, Catalog, Entry};
use crate::config::{self, Overrides, Source};
use crate::node::Node;
use crate::sim::fault::Disk;
use crate::sim::happening::{Happening, Mail};
use crate::sim::world::World;

/// The first line of the file; a frame after it is a file of its own.
const MAGIC: &[u8] = b"flip catalog 1\n";

/// What is on the way to the disk.
#[derive(Debug)]
struct Writing {
    id: u64,
    bytes: Vec<u8>,
    whole: bool,
    /// What is said here for the first time.
    own: Vec<Entry>,
}

/// What one host keeps of its catalog.
pub(super) struct Shelf {
    /// Its config file.
    pub(super) written: Written,
    /// The file of the catalog; none where there is none.
    bytes: Option<Vec<u8>>,
    writing: Option<Writing>,
    /// What the last daemon counted with when it ended, while its disk is the same.
    counted: Option<Catalog>,
    /// What was on the disk is lost, and the host has not got it back from the others.
    pub(super) bereft: bool,
    /// The version of the config file that the last daemon began with.
    pub(super) began_with: u64,
}

impl Shelf {
    pub(super) const fn new(written: Written) -> Self {
        Self { written, bytes: None, writing: None, counted: None, bereft: false, began_with: 0 }
    }

    /// What the disk has; empty where there is nothing, or nothing that can be read.
    pub(super) fn read(&self) -> Catalog {
        let read = self.bytes.as_ref().and_then(|bytes| catalog::disk::read(bytes).ok());
        read.map(|(catalog, _)| catalog).unwrap_or_default()
    }
}

/// What was written, as a catalog of its own.
fn parsed(bytes: &[u8], whole: bool) -> Option<Catalog> {
    let read = if whole { catalog::disk::read(bytes) } else { catalog::disk::read(&[MAGIC, bytes].concat()) };
    read.ok().filter(|(_, torn)| !torn).map(|(catalog, _)| catalog)
}

impl World {
    /// A daemon that starts reads its own file and the stored catalog, as `flip run` does. False where it cannot.
    pub(in crate::sim) fn open_catalog(&mut self, index: usize) -> Option<(Catalog, catalog::Local)> {
        let catalogs = self.catalogs.as_mut()?;
        let shelf = &mut catalogs.shelves[index];
        let text = shelf.written.text(&catalogs.pool, &catalogs.plan);
        let key = self.hosts[index].config.key.clone();
        let loaded =
            config::load_with_key(&Source { file: "flip.json", text: &text }, &Overrides::default(), &key);
        let stored = shelf.bytes.as_ref().map(|bytes| catalog::disk::read(bytes));
        let (counted, existed) = (shelf.counted.take(), shelf.bytes.is_some());
        let stored = match stored {
            Some(Ok((catalog, torn))) => {
                if torn {
                    crate::sim::mark!("catalog: a torn append was left out");
                }
                Some(catalog)
            }
            Some(Err(_)) => {
                crate::sim::mark!("catalog: a damaged one was set aside");
                shelf.bytes = None;
                None
            }
            None => None,
        };
        // Before the first change nothing but the config file has its version, and somebody may have replaced that.
        let own = shelf.written.version.max(std::mem::replace(&mut shelf.began_with, shelf.written.version));
        if let Some(counted) = &counted {
            self.check_kept(index, counted, stored.as_ref(), own);
        }
        let Ok(loaded) = loaded else {
            self.broken("P9", format!("n{index} cannot read its own config file: {text}"));
            return None;
        };
        let (file, local) = catalog::open(&text, &loaded.config, &[]);
        match catalog::begin(&file, &local, stored) {
            Ok(begun) => {
                self.note(Some(index), || {
                    let how = if existed { "with" } else { "without" };
                    format!("begins {how} a stored catalog: {:?}", begun.catalog.brief())
                });
                self.hosts[index].config = std::sync::Arc::new(begun.config);
                Some((begun.catalog, local))
            }
            Err(invalid) => {
                self.broken("P9", format!("n{index} cannot start with what it stored: {invalid}"));
                None
            }
        }
    }

    /// A daemon wants something stored.
    pub(in crate::sim) fn store_catalog(&mut self, index: usize, id: u64, bytes: Vec<u8>, whole: bool) {
        self.trace.bytes(&bytes);
        let Some(catalogs) = &mut self.catalogs else { return };
        let (from, to) = catalogs.write;
        let after = self.rng.random_range(from..=to);
        let Some(said) = parsed(&bytes, whole) else {
            self.broken("P9", format!("n{index} stores what cannot be read"));
            return;
        };
        let own = self.said(index, &said);
        let Some(catalogs) = &mut self.catalogs else { return };
        if catalogs.shelves[index].writing.replace(Writing { id, bytes, whole, own }).is_some() {
            self.broken("P9", format!("n{index} stores twice at the same time"));
        }
        let life = self.hosts[index].life;
        self.queue.push(self.now + after, Happening::Stored { host: index, life, id });
    }

    /// A write comes to its end.
    pub(in crate::sim) fn stored(&mut self, index: usize, life: u64, id: u64) {
        let host = &self.hosts[index];
        let (same, full) = (host.life == life, host.disk_full);
        let Some(catalogs) = self.catalogs.as_mut().filter(|_| same) else { return };
        let shelf = &mut catalogs.shelves[index];
        let Some(Writing { bytes, whole, own, .. }) = shelf.writing.take_if(|writing| writing.id == id)
        else {
            return;
        };
        let result = if full {
            crate::sim::mark!("catalog: the disk was full");
            // A part of it fits.
            if let Some(file) = shelf.bytes.as_mut().filter(|_| !whole) {
                file.extend(&bytes[..bytes.len() / 2]);
            }
            for (key, record) in &own {
                if let Some(made) = catalogs.made.get_mut(key) {
                    made.retain(|other| other != record);
                }
            }
            Err("no space left on device")
        } else {
            match &mut shelf.bytes {
                Some(file) if !whole => file.extend(bytes),
                file => *file = Some(bytes),
            }
            Ok(())
        };
        self.mail(index, Mail::Stored { id, result });
    }

    /// A daemon ended, or its machine lost power: of what was being written some of an append is there, and of a new
    /// file all or nothing.
    pub(in crate::sim) fn cut_off(&mut self, index: usize) {
        let Some(catalogs) = &mut self.catalogs else { return };
        let shelf = &mut catalogs.shelves[index];
        shelf.counted = self.hosts[index].node.as_ref().and_then(|node| node.catalog().cloned());
        let Some(Writing { bytes, whole, .. }) = shelf.writing.take() else { return };
        if whole {
            if self.rng.random_bool(0.5) {
                shelf.bytes = Some(bytes);
            }
        } else if let Some(file) = &mut shelf.bytes {
            let len = self.rng.random_range(0..=bytes.len());
            file.extend(&bytes[..len]);
            // A file system may have made room for all of it.
            if self.rng.random_bool(0.3) {
                file.resize(file.len() + bytes.len() - len, 0);
            }
        }
    }

    /// What becomes of the file in a crash. Of a catalog everything is on the disk that was said to be, so a lost
    /// last write is one that was not.
    pub(in crate::sim) fn lose_catalog(&mut self, index: usize, disk: Disk) {
        let Some(catalogs) = self.catalogs.as_mut().filter(|_| matches!(disk, Disk::Torn | Disk::Gone))
        else {
            return;
        };
        let shelf = &mut catalogs.shelves[index];
        let Some(bytes) = shelf.bytes.as_mut() else { return };
        if disk == Disk::Torn {
            // In the middle of the first frame: it is no end that could be left out.
            let at = MAGIC.len() + 30;
            bytes[at] ^= 0x55;
        } else {
            shelf.bytes = None;
        }
        shelf.counted = None;
        shelf.bereft = true;
        catalogs.lost.push((index, self.now));
        self.note(Some(index), || "its catalog is lost".into());
    }

    /// Gives a daemon what was read for it.
    pub(in crate::sim) fn hand_catalog(node: &mut Node, read: Option<(Catalog, catalog::Local)>) {
        if let Some((catalog, local)) = read {
            node.set_catalog(catalog, local);
        }
    }

    /// The config file of a host is another from now on.
    pub(super) fn write_file(&mut self, index: usize, written: Written) -> Option<String> {
        let catalogs = self.catalogs.as_mut()?;
        catalogs.touched = true;
        catalogs.version = catalogs.version.max(written.version);
        let text = written.text(&catalogs.pool, &catalogs.plan);
        catalogs.shelves[index].written = written;
        Some(text)
    }
}
