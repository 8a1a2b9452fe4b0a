//! The node's replica of the catalog: what changes it, when it counts, and who else has it.
//!
//! ```text
//!  edits, files ───┐             ┌─ refused: Done                     ┌─► adopted: the node runs it
//!  others' entries ┴─► a batch ──┴─► StoreCatalog ─► Stored ─► merged ┼─► told to all who are up, until a
//!                      (one at a time)                                │   majority has it: Done
//!                                                                     └─► Kept, to whom it came from
//! ```
//!
//! Nothing counts here before it is on this node's disk, and nothing is acknowledged before that. Whatever comes
//! while a batch is on its way to the disk waits for the next: one write and one look at what changes for all of it.
//! What is on the disk is run at once, unless nothing but some of many items changed just after others did.

mod edits;
mod exchange;
mod report;
#[cfg(test)]
mod tests;
mod voters;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Node, Timer};
use crate::catalog::{self, Brief, Catalog, Composed, Edit, Entry, File, Key, Known, Local};
use crate::event::Event;
use crate::id::ShortId;
use crate::io::Output;
use crate::limits;
use crate::planted::{Bug, planted};
use crate::time::Time;

/// The replica and what is on its way.
pub(super) struct Replica {
    /// What is on this node's disk.
    catalog: Catalog,
    /// What this server's own file says to it alone.
    local: Local,
    waiting: Waiting,
    storing: Option<Batch>,
    /// Numbers batches and pushes, also across the lives of this server.
    next: u64,
    /// The file on disk is not one to append to.
    whole: bool,
    /// Bytes that were appended since the file was written whole.
    appended: usize,
    /// Why the disk took nothing the last time.
    trouble: Option<String>,
    /// Why what is on this disk is not what the node runs.
    invalid: Option<String>,
    pushes: BTreeMap<u64, Push>,
    pulls: exchange::Pulls,
    /// Who was seen to have the same catalog since it changed last.
    same: BTreeSet<ShortId>,
    /// Servers whose file has the version of this one's and another content: its hash.
    conflicts: BTreeMap<ShortId, u64>,
    /// Who said last that its catalog is another.
    differing: BTreeSet<ShortId>,
    /// When all are told what is here now, in brief.
    brief_at: Option<Time>,
    /// What the catalog came to when it was looked at last.
    composed: Option<Composed>,
    /// The node does not run what is on its disk yet.
    unrun: bool,
    /// What it is to wait for before it does.
    haste: Haste,
    /// When it began to run something else last.
    run: Option<Time>,
    /// What was said here with a counter up to this one is said again, with a later one; zero where there is nothing.
    say_again: u64,
    /// Who said last that it has the records that were here then: while this one may have lost its own.
    alike: BTreeSet<ShortId>,
    /// How often a file was met that has the version of this one's and another content.
    conflicts_met: u64,
    voters: voters::Voters,
}

/// What running what is on the disk may wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Haste {
    /// Nothing but items changed: for a pause, and for pages that are on their way.
    #[default]
    Items,
    /// For pages alone.
    Pages,
    /// For nothing: this server made more than items different, and who has to have that depends on who votes now.
    None,
}

/// What waits for the disk.
#[derive(Default)]
struct Waiting {
    entries: Vec<Entry>,
    file: Option<(File, ShortId)>,
    /// With this, all is here that somebody has who misses nothing: what that one has forgotten is all up to there.
    completes: Option<u64>,
    acks: Vec<(ShortId, u64)>,
    wishes: VecDeque<Wish>,
}

/// Somebody's edits.
struct Wish {
    asker: u64,
    what: What,
    local: bool,
    force: bool,
    until: Time,
    /// The voters agree that this changes who votes.
    granted: bool,
}

enum What {
    Edits(Vec<Edit>),
    File(String, Vec<Known>),
}

/// Who waits: its number, whether for this disk only, until when, and what was done.
type Asked = (u64, bool, Time, String);

/// What is on its way to the disk.
struct Batch {
    id: u64,
    entries: Vec<Entry>,
    /// Those of them that this node made.
    own: Vec<Entry>,
    file: Option<File>,
    /// Whose file that is; none for an own one.
    file_of: Option<ShortId>,
    local: Option<Local>,
    completes: Option<u64>,
    acks: Vec<(ShortId, u64)>,
    askers: Vec<Asked>,
    /// What it comes to, where somebody's wishes are in it.
    composed: Option<Composed>,
    /// Who voted before.
    former: Option<BTreeSet<ShortId>>,
}

/// What this node made and others are to have.
struct Push {
    entries: Vec<Entry>,
    kept: BTreeSet<ShortId>,
    /// Who voted before, where that changed: a majority of these must have it as well.
    former: Option<BTreeSet<ShortId>>,
    askers: Vec<(u64, Time, String)>,
    /// How often it was said, and when it is said again.
    said: u32,
    again: Time,
}

/// Changes of so much time are told in one brief.
const BRIEF_PAUSE: Duration = Duration::from_millis(100);
/// Pause before a push is said again, and how often it is.
const PUSH_PAUSE: Duration = Duration::from_millis(100);
const PUSHES: u32 = 8;

impl Node {
    /// Gives the node its catalog, which must be what its disk has, and what its own file says to it alone. It is
    /// told before the first input; a node without one refuses edits.
    pub fn set_catalog(&mut self, catalog: Catalog, local: Local) {
        // What was stored may make no config, and then the file alone is what runs.
        let invalid = if catalog.is_empty() { None } else { catalog::config(&catalog, &local).err() };
        // Acknowledgements of what an earlier life of this server has pushed may still wait for a disk elsewhere, so no
        // number is used twice.
        let next = if planted(Bug::PushNumbersReused) { 1 } else { self.generation << 16 | 1 };
        self.replica = Some(Replica {
            catalog,
            local,
            waiting: Waiting::default(),
            storing: None,
            next,
            whole: true,
            appended: 0,
            trouble: None,
            invalid: invalid.map(|invalid| invalid.to_string()),
            pushes: BTreeMap::new(),
            pulls: exchange::Pulls::default(),
            same: BTreeSet::new(),
            conflicts: BTreeMap::new(),
            differing: BTreeSet::new(),
            brief_at: None,
            composed: None,
            unrun: false,
            haste: Haste::default(),
            run: None,
            say_again: 0,
            alike: BTreeSet::new(),
            conflicts_met: 0,
            voters: voters::Voters::default(),
        });
    }

    /// The catalog that is on this node's disk; none in a node without one.
    #[must_use]
    pub fn catalog(&self) -> Option<&Catalog> {
        self.replica.as_ref().map(|replica| &replica.catalog)
    }

    /// How often this life met a config file that has the version of its own and another content.
    #[must_use]
    pub fn catalog_conflicts(&self) -> u64 {
        self.replica.as_ref().map_or(0, |replica| replica.conflicts_met)
    }

    pub(super) fn catalog_brief(&self) -> Option<Brief> {
        self.replica.as_ref().map(|replica| replica.catalog.brief())
    }

    /// Whether another config at this member is no more than a change that is on its way.
    pub(super) fn catalog_differs(&self, server: usize) -> bool {
        let short = self.config.servers[server].short;
        self.replica.as_ref().is_some_and(|replica| replica.differing.contains(&short))
    }

    /// Puts what waits on its way to the disk, unless something is.
    pub(super) fn catalog_turn(&mut self) {
        let Some(mut replica) = self.replica.take() else { return };
        if replica.storing.is_none() {
            let answers = replica.begin(&self.adoption.wanted);
            for (asker, result) in answers {
                self.done(asker, result);
            }
            if let Some((id, bytes, whole)) = replica.next_write() {
                self.outputs.push_back(Output::StoreCatalog { id, bytes, whole });
            }
        }
        // What was to be stored was here already.
        let idle = replica.storing.is_none() && !planted(Bug::PushNumbersReused);
        let acks = if idle { std::mem::take(&mut replica.waiting.acks) } else { Vec::new() };
        let count = replica.catalog.count();
        self.replica = Some(replica);
        self.acknowledge(acks, count);
        self.propose();
    }

    pub(super) fn on_stored(&mut self, id: u64, result: Result<(), String>, now: Time) {
        let Some(replica) = &mut self.replica else { return };
        let Some(mut batch) = replica.storing.take_if(|batch| batch.id == id) else { return };
        if let Err(why) = result
            && !planted(Bug::FailedWriteCounts)
        {
            // Part of it may be there.
            replica.whole |= !planted(Bug::TornAppendKept);
            let line = format!("the state dir takes nothing: {why}; nothing was changed");
            let news = replica.trouble.as_deref() != Some(&line);
            replica.trouble = Some(line.clone());
            if news {
                self.event(Event::CatalogNotStored { why });
            }
            for (asker, ..) in batch.askers {
                self.done(asker, Err(line.clone()));
            }
            return self.catalog_turn();
        }
        replica.trouble = None;
        replica.whole = false;
        if !batch.entries.is_empty() || batch.file.is_some() {
            replica.same.clear();
            replica.alike.clear();
            replica.brief_at.get_or_insert(now + BRIEF_PAUSE);
        }
        let adopted = batch.file.as_ref().map(|file| (file.version, replica.catalog.ended_by(file.version)));
        replica.see_what_changes(&mut batch);
        if let Some(file) = batch.file {
            replica.catalog.set_file(file);
            replica.conflicts.clear();
        }
        for (key, record) in batch.entries {
            if !replica.catalog.merge(key.clone(), record)
                && let Some(composed) = &mut replica.composed
            {
                // What was forgotten meanwhile is not taken, and must not be run.
                composed.outdate([key]);
            }
        }
        if let Some(local) = batch.local {
            replica.local = local;
        }
        replica.complete(batch.completes);
        let count = replica.catalog.count();
        if let Some((version, ended)) = adopted {
            let from = batch.file_of.and_then(|from| self.config.server_index(from));
            let ended = ended.iter().map(ToString::to_string).collect();
            self.event(Event::CatalogFile { version, from, ended });
        }
        if self.items.count() <= limits::ITEMS_AT_ONCE
            || self.replica.as_ref().is_some_and(|it| it.haste > Haste::Items)
        {
            self.run_catalog(now);
        }
        self.acknowledge(batch.acks, count);
        self.push_own(batch.own, batch.askers, batch.former, now);
        self.repeat_pull(now);
        self.plan_catalog_timer();
        self.catalog_turn();
    }

    /// The one place from which a catalog changes what the node runs. It waits where more of it is known to be on its
    /// way, and so that edits of many items that come one after the other are not as many changes of everything.
    pub(super) fn run_catalog(&mut self, now: Time) {
        let pause = self.run_pause();
        let Some(replica) = &mut self.replica else { return };
        if replica.run_due(pause).is_none_or(|due| now < due) {
            return;
        }
        (replica.unrun, replica.haste, replica.run) = (false, Haste::default(), Some(now));
        let (catalog, local) = (&replica.catalog, &replica.local);
        let composed = match replica.composed.take() {
            Some(composed) if composed.is_current() => Ok(composed),
            Some(composed) => composed.after(catalog, local, []),
            None => Composed::new(catalog, local),
        };
        match composed {
            Ok(composed) => {
                let config = Arc::clone(composed.config());
                (replica.composed, replica.invalid) = (Some(composed), None);
                if !planted(Bug::CatalogNotAdopted) {
                    self.adopt(config, now);
                }
            }
            Err(invalid) => {
                let why = invalid.to_string();
                let before = replica.invalid.replace(why.clone());
                if before.as_ref() != Some(&why) {
                    self.event(Event::CatalogInvalid { why });
                }
            }
        }
    }

    /// How long the node works at least with one config before it takes the next, where nothing but items changed:
    /// that costs time for each item that it has.
    fn run_pause(&self) -> Duration {
        let items = self.items.count();
        if items <= limits::ITEMS_AT_ONCE {
            return Duration::ZERO;
        }
        limits::ADOPT_PAUSE * u32::try_from(items).unwrap_or(u32::MAX)
    }

    /// What a person has to look at.
    pub(super) fn catalog_hints(&self) -> Vec<String> {
        let Some(replica) = &self.replica else { return Vec::new() };
        let mut hints = Vec::new();
        let name = |short: &ShortId| {
            let at = self.config.server_index(*short);
            at.map_or_else(|| format!("{short:?}"), |at| self.config.servers[at].id.clone())
        };
        if !replica.conflicts.is_empty() {
            let version = replica.catalog.file().version;
            let mut by_hash: BTreeMap<u64, Vec<String>> = BTreeMap::new();
            by_hash.entry(replica.catalog.file().hash).or_default().push(self.config.my().id.clone());
            for (server, hash) in &replica.conflicts {
                by_hash.entry(*hash).or_default().push(name(server));
            }
            let files = by_hash.into_iter().map(|(hash, ids)| format!("{} ({hash:016x})", ids.join(", ")));
            hints.push(format!(
                "config files of version {version} differ: {}; raise `version` in the right one and reload it there",
                files.collect::<Vec<_>>().join(" and "),
            ));
        }
        hints.extend(replica.invalid.iter().map(|why| {
            format!("the catalog makes no config that can be used: {why}; the one before goes on")
        }));
        hints.extend(replica.trouble.iter().map(|why| format!("edits are refused: {why}")));
        hints
    }

    /// Repeats pushes, answers those who waited too long, and asks again where no answer came.
    pub(super) fn catalog_timer(&mut self, now: Time) {
        self.repeat_pushes(now);
        self.repeat_pull(now);
        self.run_catalog(now);
        self.repeat_proposal(now);
        if self.replica.as_mut().is_some_and(|replica| replica.brief_at.take_if(|at| *at <= now).is_some()) {
            self.tell_brief_to_all();
        }
        self.catalog_turn();
        self.plan_catalog_timer();
    }

    pub(super) fn plan_catalog_timer(&mut self) {
        let Some(replica) = &self.replica else { return };
        let pushes = replica.pushes.values().flat_map(|push| {
            let again = (push.said < PUSHES).then_some(push.again);
            push.askers.iter().map(|(_, until, _)| *until).chain(again)
        });
        let run = replica.run_due(self.run_pause());
        let pull = replica.pulls.due(replica.is_busy());
        match pushes.chain(pull).chain(run).chain(replica.voters.due()).chain(replica.brief_at).min() {
            Some(at) => self.timers.set(Timer::Catalog, at),
            None => self.timers.cancel(Timer::Catalog),
        }
    }
}

impl Replica {
    /// All is here that somebody has who has forgotten what was removed up to this counter. Without its floor, what was
    /// removed after everything that is left would seem to be missing here.
    fn complete(&mut self, floor: Option<u64>) {
        if let Some(floor) = floor {
            self.catalog.set_complete(true);
            self.catalog.raise_floor(floor);
        }
    }

    /// Whether something is on its way to the disk.
    fn is_busy(&self) -> bool {
        self.storing.is_some() || !self.waiting.entries.is_empty()
    }

    /// When the node is to run what is on its disk; none when it does, or when pages are missing.
    fn run_due(&self, pause: Duration) -> Option<Time> {
        if !self.unrun || self.haste < Haste::None && self.pulls.is_between_pages() {
            return None;
        }
        let last = self.run.filter(|_| self.haste == Haste::Items);
        Some(last.map_or(Time::ZERO, |last| last + pause))
    }

    /// A batch is on the disk: notes what has to be looked at anew.
    fn see_what_changes(&mut self, batch: &mut Batch) {
        let is_item = |(key, _): &Entry| matches!(key, Key::Item(..) | Key::Home(..));
        let more = batch.file.is_some() || batch.local.is_some() || !batch.entries.iter().all(is_item);
        let haste = if !more && batch.former.is_none() {
            Haste::Items
        } else if batch.composed.is_some() {
            Haste::None
        } else {
            Haste::Pages
        };
        self.haste = self.haste.max(haste);
        self.unrun |= more || !batch.entries.is_empty() || batch.composed.is_some();
        if let Some(composed) = batch.composed.take() {
            self.composed = Some(composed);
        } else if batch.file.is_some() || batch.local.is_some() {
            self.composed = None;
        } else if let Some(composed) = &mut self.composed {
            composed.outdate(batch.entries.iter().map(|(key, _)| key.clone()));
        }
    }

    /// What goes to the disk for the batch that was begun: its number, the bytes, and whether they are the whole file.
    fn next_write(&mut self) -> Option<(u64, Vec<u8>, bool)> {
        let batch = self.storing.as_ref()?;
        let bytes = catalog::disk::frame(batch.file.as_ref(), &self.catalog, batch.entries.clone());
        // A file that is mostly history is written anew.
        let live = self.catalog.len() * 64 + self.catalog.file().text.len();
        if !self.whole && self.appended < (1 << 20) + 4 * live {
            self.appended += bytes.len();
            return Some((batch.id, bytes, false));
        }
        let mut all = self.catalog.clone();
        if let Some(file) = &batch.file {
            all.set_file(file.clone());
        }
        for (key, record) in &batch.entries {
            all.merge(key.clone(), record.clone());
        }
        self.appended = 0;
        Some((batch.id, catalog::disk::whole(&all), true))
    }
}
