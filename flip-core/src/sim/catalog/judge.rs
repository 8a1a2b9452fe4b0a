//! P9: what was acknowledged is on the disks of a majority when it is acknowledged, and everywhere in the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{self, Catalog, Entry, Key, Record};
use crate::node::Node;
use crate::quorum;
use crate::sim::world::World;
use crate::time::Time;

/// An edit that somebody was told is safe.
#[derive(Debug)]
pub(super) struct Acknowledged {
    key: Key,
    record: Record,
    /// By whom.
    host: usize,
    /// It was asked for no more than this host's disk.
    local: bool,
    /// When it was asked for, and when it was acknowledged.
    since: Time,
    at: Time,
    /// What promises nothing any more: no disk of those that go on has it.
    excused: bool,
}

/// Whether a catalog has this of a key, or something later, or all that is left of it: nothing.
fn has(catalog: &Catalog, key: &Key, said: &Record) -> bool {
    if said.bound.is_some_and(|version| version < catalog.file().version) {
        return true;
    }
    match catalog.get(key) {
        Some(known) => known == said || known.beats(said, key.hash()),
        None => said.value.is_none() && said.bound.is_none() && said.stamp.count <= catalog.floor(),
    }
}

/// The same, or of something that was said after it: what was set and then removed is forgotten as well.
fn has_or_later(catalog: &Catalog, said: (&Key, &Record), made: &BTreeMap<Key, Vec<Record>>) -> bool {
    let (key, record) = said;
    let mut later = made.get(key).into_iter().flatten().filter(|other| other.beats(record, key.hash()));
    has(catalog, key, record) || later.any(|later| has(catalog, key, later))
}

impl World {
    /// What a daemon counted with was on its disk, or in its own config file of this version.
    pub(super) fn check_kept(&mut self, index: usize, counted: &Catalog, read: Option<&Catalog>, own: u64) {
        let nothing = Catalog::default();
        let read = read.unwrap_or(&nothing);
        let missing = counted.records().find(|(key, record)| !has(read, key, record));
        let what = if let Some((key, record)) = missing {
            format!(
                "n{index} counted with {record:?} of {key}, which is not on its disk: {:?}",
                read.get(key)
            )
        } else if read.file().version.max(own) < counted.file().version {
            format!(
                "n{index} counted with a file of version {}, which is not on its disk",
                counted.file().version
            )
        } else {
            return;
        };
        self.broken("P9", what);
    }

    /// Whose disks were lost since then.
    fn lost_since(&self, since: Time) -> BTreeSet<usize> {
        let lost = self.catalogs.iter().flat_map(|catalogs| &catalogs.lost);
        lost.filter(|(_, at)| *at >= since).map(|(host, _)| *host).collect()
    }

    /// Somebody was told that an edit is safe.
    pub(super) fn acknowledged(&mut self, index: usize, made: Vec<Entry>, local: bool, since: Time) {
        let lost = self.lost_since(since);
        let (voters, quorum) = self.electorate(index);
        let ever = self.lost_since(Time::ZERO);
        let ever = voters.iter().filter(|voter| ever.contains(voter)).count();
        let Some(catalogs) = &mut self.catalogs else { return };
        let disks: Vec<_> = catalogs.shelves.iter().map(super::Shelf::read).collect();
        let mut wrong = Vec::new();
        // A home follows from what else is said: where somebody else's counts, that takes nothing from the rest.
        let alone = made.iter().all(|(key, _)| matches!(key, Key::Home(..)));
        let made = made.into_iter().filter(|(key, _)| alone || !matches!(key, Key::Home(..)));
        for (key, record) in made {
            if local {
                crate::sim::mark!("catalog: an edit was acknowledged by one disk");
            }
            if !local {
                crate::sim::mark!("catalog: an edit was acknowledged");
            }
            let made = &catalogs.made;
            let kept = |host: &usize| has_or_later(&disks[*host], (&key, &record), made);
            let kept: Vec<_> = (0..disks.len()).filter(kept).collect();
            let there = |host: &usize| kept.contains(host) || lost.contains(host);
            let enough = voters.iter().filter(|host| there(host)).count() >= quorum;
            if !there(&index) || !local && !enough {
                wrong.push(format!(
                    "n{index} acknowledges {record:?} of {key}, which is on the disks of n{kept:?} only"
                ));
            }
            // Two majorities have somebody in common, who would have said that the other one counts.
            let before = catalogs.acknowledged.iter().find(|said| {
                !local
                    && !said.local
                    && !alone
                    && said.key == key
                    && said.at <= since
                    && said.record.beats(&record, key.hash())
            });
            if let Some(before) = before.filter(|_| ever < quorum::majority(voters.len())) {
                let before = &before.record;
                wrong.push(format!(
                    "n{index} acknowledges {record:?} of {key}, which {before:?} of before undoes"
                ));
            }
            let (at, excused) = (self.now, false);
            catalogs.acknowledged.push(Acknowledged { key, record, host: index, local, since, at, excused });
        }
        for what in wrong {
            self.broken("P9", what);
        }
    }

    /// A server says again what it said before it knew what others had said. Only who has compared itself with others
    /// that had lost their disks as well has to, and it could undo what somebody says meanwhile.
    pub(super) fn said_again(&mut self, index: usize, again: &[Entry]) {
        let Some((key, record)) = again.first() else { return };
        crate::sim::mark!("catalog: something was said again");
        let (voters, lost) = (self.electorate(index).0, self.lost_since(Time::ZERO));
        if voters.iter().filter(|voter| lost.contains(voter)).count() < quorum::majority(voters.len()) {
            let what =
                format!("n{index} says {record:?} of {key} again, and only the disks of n{lost:?} were lost");
            self.broken("P9", what);
        }
    }

    /// Everything is about to be healed, or these hosts are: what none of their disks has, because disks were lost
    /// that had it, is outside the promise.
    pub(in crate::sim) fn excuse_lost(&mut self, core: &[usize]) {
        let Some(catalogs) = self.catalogs.take() else { return };
        let mut catalogs = catalogs;
        let disks: Vec<_> = core.iter().map(|host| catalogs.shelves[*host].read()).collect();
        for said in &mut catalogs.acknowledged {
            let lost = catalogs
                .lost
                .iter()
                .any(|(host, at)| *at >= said.since && (!said.local || *host == said.host));
            let away = said.local && !core.contains(&said.host);
            let mut disks = disks.iter();
            let anywhere = disks.any(|disk| has_or_later(disk, (&said.key, &said.record), &catalogs.made));
            if !anywhere && (lost || away) {
                crate::sim::mark!("catalog: all disks that had an edit were lost");
                said.excused = true;
            }
        }
        self.catalogs = Some(catalogs);
    }

    /// What of the catalogs is not yet as it must be at rest: all wishes are answered, and all have the same, nothing
    /// is missing, and it is what they run.
    pub(in crate::sim) fn unsettled_catalogs(&self, core: &[usize]) -> Option<String> {
        let catalogs = self.catalogs.as_ref()?;
        let waits = catalogs.asked.iter().find(|(_, asked)| {
            let host = &self.hosts[asked.host];
            core.contains(&asked.host) && host.life == asked.life && host.node.is_some()
        });
        if let Some((asker, asked)) = waits {
            return Some(format!("n{} has not answered asker {asker}: {asked:?}", asked.host));
        }
        // While a change is young, who leaves waits for its successors for longer than views take to be equal.
        if let Some(host) = core.iter().find(|host| self.hosts[**host].leaving) {
            return Some(format!("n{host} has not left yet"));
        }
        let nodes = || core.iter().filter_map(|host| Some((*host, self.hosts[*host].node.as_ref()?)));
        let mut briefs = nodes().filter_map(|(host, node)| Some((host, node.catalog()?.brief())));
        let (first, brief) = briefs.next()?;
        if let Some((host, other)) = briefs.find(|(_, other)| *other != brief) {
            return Some(format!("catalogs differ: n{first} {brief:?}, n{host} {other:?}"));
        }
        if !brief.complete && self.hosts.len() > 1 {
            return Some("nobody knows whether something is missing in its catalog".into());
        }
        let invalid = |node: &Node| node.catalog_status().is_some_and(|status| status.invalid.is_some());
        if let Some((host, _)) = nodes().find(|(_, node)| invalid(node)) {
            return Some(format!("the catalog of n{host} makes no config"));
        }
        if let Some((host, _)) = nodes().find(|(_, node)| node.is_adopting()) {
            return Some(format!("n{host} still keeps what its catalog does not have"));
        }
        let mut contents = nodes().map(|(_, node)| node.config().content_hash());
        let content = contents.next();
        if contents.any(|other| Some(other) != content) {
            return Some("catalogs are equal, and configs differ".into());
        }
        None
    }

    /// Whether a majority of the disks was lost: what those say who took that for a beginning, the others may take for
    /// what was removed, for good (not covered by P9).
    pub(in crate::sim) fn is_beyond_p9(&self) -> bool {
        self.lost_since(Time::ZERO).len() > self.hosts.len() / 2
    }

    /// P9, where all is at rest.
    pub(in crate::sim) fn judge_catalogs(&mut self, core: &[usize]) {
        let beyond = self.is_beyond_p9();
        let Some(catalogs) = self.catalogs.take() else { return };
        let mut catalogs = catalogs;
        let mut wrong = Vec::new();
        for host in core.iter().copied() {
            let Some(node) = &self.hosts[host].node else { continue };
            let Some(catalog) = node.catalog() else { continue };
            let missing = catalogs.acknowledged.iter().find(|said| {
                !said.excused && !has_or_later(catalog, (&said.key, &said.record), &catalogs.made)
            });
            if let Some(said) = missing.filter(|_| !beyond) {
                let there = catalog.get(&said.key);
                wrong.push(format!(
                    "n{host} has {there:?} of {}, and n{} had acknowledged {:?}",
                    said.key, said.host, said.record
                ));
            }
            let files = catalogs.files.iter().filter(|(at, _, since)| {
                core.contains(at) && catalogs.lost.iter().all(|(lost, when)| lost != at || when < since)
            });
            let version = files.map(|(_, version, _)| *version).max().unwrap_or_default();
            if catalog.file().version < version {
                let here = catalog.file().version;
                wrong.push(format!("n{host} has a file of version {here}, and one of {version} was taken"));
            }
            let shelf = &mut catalogs.shelves[host];
            if std::mem::take(&mut shelf.bereft) && !catalog.is_empty() {
                crate::sim::mark!("catalog: a lost one came back from the others");
            }
            if catalog.floor() > 0 {
                crate::sim::mark!("catalog: what was removed was forgotten");
            }
            let text = shelf.written.text(&catalogs.pool, &catalogs.plan);
            let loaded = super::text::load(&text);
            let (_, local) = catalog::open(&text, &loaded, &[]);
            match catalog::config(catalog, &local) {
                Ok(config) if config.content_hash() == node.config().content_hash() => {}
                Ok(_) => wrong.push(format!("n{host} runs another config than its catalog says")),
                Err(invalid) => wrong.push(format!("the catalog of n{host} makes no config: {invalid}")),
            }
        }
        self.catalogs = Some(catalogs);
        for what in wrong {
            self.broken("P9", what);
        }
    }
}
