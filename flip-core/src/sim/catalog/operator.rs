//! Operators who edit, and who look after what needs a person: files that differ, and what makes no config.

use std::time::Duration;

use serde_json::json;

use super::Ask;
use super::text::{Written, address};
use crate::catalog::{Catalog, Edit, Entry, Key};
use crate::id::ShortId;
use crate::io::Command;
use crate::sim::happening::Mail;
use crate::sim::world::World;
use crate::time::Time;

/// How long somebody waits for the answer to an edit.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an operator takes to look after what needs a person.
const SLOW: Duration = Duration::from_secs(3);
/// The first number that operators make up themselves.
const MADE_UP: u64 = 1_000_000;

/// Somebody's wish that is not answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) host: usize,
    /// The life of the daemon that was asked: with another one, the connection is gone.
    pub(super) life: u64,
    pub(super) what: What,
    pub(super) local: bool,
    pub(super) since: Time,
    /// The daemon has taken it in.
    given: bool,
}

/// What was asked for.
#[derive(Debug)]
pub(super) enum What {
    Edits {
        keys: Vec<Key>,
        /// Texts that no config has but by this.
        words: Vec<String>,
        /// What it came to, once it is on its way to the disk.
        made: Option<Vec<Entry>>,
    },
    File {
        version: u64,
    },
}

impl World {
    /// Somebody edits at a host, or at the next one that runs.
    pub(in crate::sim) fn ask_edits(&mut self, at: usize, asks: &[Ask], local: bool) {
        let hosts = self.hosts.len();
        let running = |host: &usize| self.hosts[*host].runs(self.now);
        let Some(at) = (0..hosts).map(|n| (at + n) % hosts).find(running) else { return };
        let Some(catalogs) = &mut self.catalogs else { return };
        catalogs.touched = true;
        let (mut edits, mut keys, mut words) = (Vec::new(), Vec::new(), Vec::new());
        for ask in asks {
            let (edit, key) = match ask {
                Ask::Set { item, to } => {
                    let (item, thing) = catalogs.pool.thing(*item);
                    let value = catalogs.pool.value(item, *to);
                    if *to > 0 {
                        words.push(value.to_string());
                    }
                    let key = Key::Item(thing.system.into(), thing.name.clone());
                    (Edit::SetItem { system: thing.system.into(), value, new: false }, key)
                }
                Ask::Remove { item } => {
                    let (_, thing) = catalogs.pool.thing(*item);
                    let (system, item) = (thing.system.to_owned(), thing.name.clone());
                    let key = Key::Item(system.clone(), item.clone());
                    (Edit::RemoveItem { system, item }, key)
                }
                Ask::Move { item, to } => {
                    let (_, thing) = catalogs.pool.thing(*item);
                    let (system, item) = (thing.system.to_owned(), thing.name.clone());
                    let key = Key::Home(system.clone(), item.clone());
                    (Edit::MoveItem { system, item, to: format!("n{}", to % hosts) }, key)
                }
                Ask::Wrong => {
                    let value = json!({ "name": "wrong", "ip": "10.99.0.1/16", "prefer": "nobody" });
                    let key = Key::Item("addr".into(), "wrong".into());
                    (Edit::SetItem { system: "addr".into(), value, new: false }, key)
                }
            };
            edits.push(edit);
            keys.push(key);
        }
        keys.sort_unstable();
        keys.dedup();
        let asker = catalogs.next;
        catalogs.next += 1;
        let what = What::Edits { keys, words, made: None };
        let command = Command::Edit { edits, local, force: false, timeout: PATIENCE };
        self.ask(at, asker, what, local, command);
    }

    /// Somebody puts another config file in place and has it read again, if a daemon runs there.
    pub(in crate::sim) fn ask_file(&mut self, at: usize, version: u64, items: &[(usize, u32)]) {
        let Some(catalogs) = &self.catalogs else { return };
        let mut listed: Vec<(usize, u32)> = Vec::new();
        for (item, to) in items {
            let item = catalogs.pool.address(*item);
            if listed.iter().all(|(other, _)| *other != item) {
                listed.push((item, *to));
            }
        }
        self.reload(at, Written { me: at, version, items: listed });
    }

    fn reload(&mut self, at: usize, written: Written) {
        let version = written.version;
        let Some(text) = self.write_file(at, written) else { return };
        self.note(Some(at), || format!("its config file has version {version} now"));
        let Some(catalogs) = &mut self.catalogs else { return };
        let asker = catalogs.next;
        catalogs.next += 1;
        if self.hosts[at].runs(self.now) {
            self.ask(at, asker, What::File { version }, true, Command::File { text, scripts: Vec::new() });
        }
    }

    fn ask(&mut self, at: usize, asker: u64, what: What, local: bool, command: Command) {
        self.note(Some(at), || format!("asker {asker}: {command:?}"));
        let asked = Asked { host: at, life: self.hosts[at].life, what, local, since: self.now, given: false };
        if let Some(catalogs) = &mut self.catalogs {
            catalogs.asked.insert(asker, asked);
        }
        self.mail(at, Mail::Command { asker, command });
    }

    /// A daemon takes in what somebody asks for.
    pub(in crate::sim) fn given(&mut self, asker: u64) {
        if let Some(asked) = self.catalogs.as_mut().and_then(|catalogs| catalogs.asked.get_mut(&asker)) {
            asked.given = true;
        }
    }

    /// What is on its way to a disk: which wishes it grants, and whether somebody said all of it. Gives back what is said
    /// here for the first time.
    pub(super) fn said(&mut self, index: usize, said: &Catalog) -> Vec<Entry> {
        let me = ShortId::of(&format!("n{index}")).0;
        let Some(catalogs) = &mut self.catalogs else { return Vec::new() };
        let life = self.hosts[index].life;
        let mut own = Vec::new();
        let mut wrong = Vec::new();
        for (key, record) in said.records() {
            let made = catalogs.made.entry(key.clone()).or_default();
            if made.contains(record) {
                continue;
            }
            if record.stamp.writer == me {
                own.push((key.clone(), record.clone()));
            } else {
                wrong.push(format!("n{index} stores of {key} what nobody has said: {record:?}"));
            }
            made.push(record.clone());
            if let Some(value) = record.value.as_ref().filter(|value| catalogs.refused.contains(&***value)) {
                wrong.push(format!("n{index} makes an edit that was refused: {value}"));
            }
        }
        let mut wished = Vec::new();
        for asked in catalogs
            .asked
            .values_mut()
            .filter(|asked| asked.host == index && asked.life == life && asked.given)
        {
            if let What::Edits { keys, made: made @ None, .. } = &mut asked.what {
                let entries = own.iter().filter(|(key, _)| keys.contains(key)).cloned();
                let entries: Vec<_> = entries.collect();
                if entries.len() == keys.len() {
                    wished.extend(keys.iter().cloned());
                    *made = Some(entries);
                }
            }
        }
        let again: Vec<_> = own
            .iter()
            .filter(|(key, _)| !matches!(key, Key::Home(..)) && !wished.contains(key))
            .cloned()
            .collect();
        for what in wrong {
            self.broken("P9", what);
        }
        self.said_again(index, &again);
        own
    }

    /// An answer to somebody.
    pub(in crate::sim) fn answered(&mut self, index: usize, asker: u64, result: &Result<String, String>) {
        if asker < super::FIRST_ASKER {
            return;
        }
        let Some(catalogs) = &mut self.catalogs else { return };
        let Some(asked) = catalogs.asked.remove(&asker) else {
            return self
                .broken("P9", format!("n{index} answers asker {asker}, who has an answer or is gone"));
        };
        match (asked.what, result) {
            (What::File { version }, Ok(_)) => catalogs.files.push((index, version, self.now)),
            (What::File { .. }, Err(_)) => crate::sim::mark!("catalog: an older file was refused"),
            (What::Edits { made: Some(made), .. }, Ok(_)) => {
                self.acknowledged(index, made, asked.local, asked.since);
            }
            (What::Edits { made: None, keys, .. }, Ok(_)) => {
                let what = format!("n{index} acknowledges {keys:?}, which it has not put on its disk");
                self.broken("P9", what);
            }
            (What::Edits { made: None, words, keys }, Err(why)) => {
                let lost = why.contains("has lost its catalog");
                if lost {
                    crate::sim::mark!("catalog: an edit was refused where it was lost");
                }
                if !lost && keys.len() > 1 {
                    crate::sim::mark!("catalog: a batch was refused");
                }
                catalogs.refused.extend(words);
            }
            (What::Edits { made: Some(_), .. }, Err(why)) => {
                if why.contains("another server changed the same") {
                    crate::sim::mark!("catalog: an edit was beaten");
                }
            }
        }
    }

    /// Somebody is told how far an edit came in time.
    pub(in crate::sim) fn answered_late(&mut self, index: usize, asker: u64) {
        let Some(catalogs) = &mut self.catalogs else { return };
        if catalogs.asked.remove(&asker).is_none() {
            return self
                .broken("P9", format!("n{index} answers asker {asker}, who has an answer or is gone"));
        }
        crate::sim::mark!("catalog: an edit was not acknowledged in time");
    }

    /// One look at what needs a person: files of one version that differ, and edits that together make no config.
    pub(in crate::sim) fn look_after_catalogs(&mut self) {
        if self.catalogs.is_none() {
            return;
        }
        if self.configs_differ() {
            self.changes_now();
        }
        let mut troubled = None;
        for index in 0..self.hosts.len() {
            let status = self.hosts[index].node.as_ref().filter(|_| self.hosts[index].runs(self.now));
            let status = status.and_then(|node| node.catalog_status());
            let Some(catalogs) = &mut self.catalogs else { return };
            match status {
                Some(status) if !status.conflicts.is_empty() || status.invalid.is_some() => {
                    let since = *catalogs.trouble.entry(index).or_insert(self.now);
                    if self.now.since(since) >= SLOW && (troubled.is_none() || status.invalid.is_some()) {
                        // What makes no config takes no file either.
                        troubled = Some((index, status));
                    }
                }
                _ => drop(catalogs.trouble.remove(&index)),
            }
        }
        let Some((index, status)) = troubled else { return };
        if let Some(catalogs) = &mut self.catalogs {
            // What is done shows after a while.
            catalogs.trouble.clear();
        }
        if status.invalid.is_some() {
            return self.mend_catalog(index);
        }
        crate::sim::mark!("catalog: files of one version differ");
        let Some(catalogs) = &self.catalogs else { return };
        let version = catalogs.version.max(status.version) + 1;
        let written = Written { version, ..catalogs.shelves[index].written.clone() };
        self.reload(index, written);
    }

    /// Of the items that are said to be the same, all but one become others, at once: what is still wrong after an edit
    /// refuses it.
    fn mend_catalog(&mut self, index: usize) {
        crate::sim::mark!("catalog: edits made no config together");
        let Some(catalogs) = &mut self.catalogs else { return };
        let clash = address(0);
        let items = 0..catalogs.pool.len();
        let node = self.hosts[index].node.as_ref();
        let Some(catalog) = node.and_then(|node| node.catalog()) else { return };
        let same = items.filter(|item| {
            let (_, thing) = catalogs.pool.thing(*item);
            let value = catalog.value(&Key::Item(thing.system.into(), thing.name.clone()));
            value.is_some_and(|value| value.contains(&clash))
        });
        let first = u32::try_from(MADE_UP + catalogs.next * 100).unwrap_or(u32::MAX);
        let others: Vec<_> = same.skip(1).zip(first..).map(|(item, to)| Ask::Set { item, to }).collect();
        self.ask_edits(index, &others, false);
    }
}
