//! Two replicas become one: briefs go with digests, and where they differ each side pulls, by stream and in pages,
//! the records of those buckets that differ.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Replica;
use crate::catalog::disk::size_of_entry;
use crate::catalog::{BUCKETS, Brief, Catalog, Entry, File, Key, bucket};
use crate::event::Event;
use crate::id::ShortId;
use crate::io::Output;
use crate::limits;
use crate::node::Node;
use crate::planted::{Bug, planted};
use crate::quorum;
use crate::time::Time;
use crate::wire::message::{Entries, Exchange, Kept, Message};

/// How long an answer is waited for before the same is asked again, and how often it is.
const PULL_LIMIT: Duration = Duration::from_millis(1500);
const PULL_TRIES: u32 = 4;
/// Pause before a comparison begins.
const PULL_DELAY: Duration = Duration::from_millis(30);
/// How long a comparison that is due waits for the disk at most.
const PULL_PATIENCE: Duration = Duration::from_secs(1);
/// Least pause between two comparisons that begin.
const PULL_PAUSE: Duration = Duration::from_millis(20);

/// After which bucket and key a page begins; none for the first.
type After = Option<(u16, Option<Key>)>;

/// The comparison that is under way.
#[derive(Default)]
pub(super) struct Pulls {
    asked: Option<Asked>,
    /// When one began last.
    last: Option<Time>,
    /// Who is to be asked next.
    next: BTreeMap<ShortId, Time>,
}

/// Who was asked, for what comes after what, when, and how often.
#[derive(Clone)]
struct Asked {
    server: ShortId,
    after: After,
    at: Time,
    tries: u32,
}

impl Pulls {
    /// When something is to be asked. What is on its way to the disk would be answered again.
    pub(super) fn due(&self, busy: bool) -> Option<Time> {
        match &self.asked {
            Some(asked) => Some(asked.at + PULL_LIMIT),
            None => self.next.values().min().map(|at| *at + patience(busy)),
        }
    }

    /// Whether some pages of an answer are here, and others not.
    pub(super) fn is_between_pages(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.after.is_some())
    }
}

/// How long a comparison waits for the disk.
const fn patience(busy: bool) -> Duration {
    if busy { PULL_PATIENCE } else { Duration::ZERO }
}

impl Node {
    /// The brief as a message; none in a node without a catalog.
    pub(in crate::node) fn brief_message(&self) -> Option<Message> {
        self.catalog_brief().map(Message::Catalog)
    }

    pub(super) fn tell_brief_to_all(&mut self) {
        let Some(brief) = self.brief_message() else { return };
        // In a large cluster the digests bring it round.
        if self.everybody_probed() {
            for server in self.up_others() {
                self.send(server, &brief);
            }
        }
    }

    pub(in crate::node) fn on_brief(&mut self, server: usize, brief: Brief, now: Time) {
        let short = self.config.servers[server].short;
        let Some(replica) = &mut self.replica else { return };
        let own = replica.catalog.brief();
        let ranks = (replica.catalog.file().rank(), (brief.version, brief.file != 0));
        let mut events = Vec::new();
        if ranks.0 == ranks.1 && own.file != brief.file {
            if replica.conflicts.insert(short, brief.file) != Some(brief.file) {
                replica.conflicts_met += 1;
                events.push(Event::CatalogConflict { server, version: brief.version });
            }
        } else {
            replica.conflicts.remove(&short);
        }
        let catalog = &mut replica.catalog;
        if catalog.is_complete() && brief.floor > catalog.count() {
            // Everybody knew everything up to there, and this server does not: it lost its disk, and compared itself
            // with others that had lost theirs. What was said here since is said again, as something new.
            catalog.set_complete(false);
            replica.say_again = brief.floor;
        }
        if own.records == brief.records {
            replica.alike.insert(short);
            let alike = replica.alike.len() + 1;
            if brief.complete || alike >= quorum::majority(self.adoption.wanted.servers.len()) {
                replica.catalog.set_complete(true);
            }
        } else {
            replica.alike.remove(&short);
        }
        if brief.floor > own.floor && replica.catalog.is_complete() {
            // Its sender has seen that everybody knows everything up to there.
            replica.catalog.raise_floor(brief.floor);
        }
        if own.records == brief.records && ranks.0 == ranks.1 {
            replica.differing.remove(&short);
            replica.pulls.next.remove(&short);
            if own.file == brief.file {
                replica.same.insert(short);
            }
            self.forget_what_all_know();
        } else if !planted(Bug::PullIgnored) && (own.records != brief.records || ranks.1 > ranks.0) {
            replica.differing.insert(short);
            // What differs may be on its way already.
            replica.pulls.next.entry(short).or_insert(now + PULL_DELAY);
            self.repeat_pull(now);
            self.plan_catalog_timer();
        }
        for event in events {
            self.event(event);
        }
    }

    /// Every configured server has the same catalog: nobody needs to be told what was removed.
    fn forget_what_all_know(&mut self) {
        let servers = &self.adoption.wanted.servers;
        let me = self.config.my().short;
        let Some(replica) = &mut self.replica else { return };
        if let Some(floor) = replica.catalog.to_forget()
            && replica.storing.is_none()
            && servers.iter().all(|server| {
                server.short == me
                    || replica.same.contains(&server.short)
                    || planted(Bug::TombstoneForgottenEarly)
            })
        {
            replica.catalog.raise_floor(floor);
            self.tell_brief_to_all();
        }
    }

    /// Asks whoever is to be asked, unless an answer is awaited.
    pub(super) fn repeat_pull(&mut self, now: Time) {
        let Some(replica) = &mut self.replica else { return };
        let patience = patience(replica.is_busy());
        let pulls = &mut replica.pulls;
        if let Some(asked) = pulls.asked.clone() {
            if now < asked.at + PULL_LIMIT {
                return;
            }
            let server = self.config.server_index(asked.server).filter(|server| self.view.is_up(*server));
            if let Some(server) = server.filter(|_| asked.tries < PULL_TRIES) {
                return self.pull(server, asked.after, asked.tries + 1, now);
            }
            // The next brief of its says whether there is still something to be had.
            pulls.next.remove(&asked.server);
            pulls.asked = None;
        }
        let due = pulls.next.iter().find(|(_, at)| **at + patience <= now);
        let Some(server) = due.map(|(server, _)| *server) else {
            return;
        };
        if let Some(last) = pulls.last.filter(|last| now < *last + PULL_PAUSE) {
            pulls.next.insert(server, last + PULL_PAUSE);
            return;
        }
        pulls.next.remove(&server);
        pulls.last = Some(now);
        if let Some(server) = self.config.server_index(server).filter(|server| self.view.is_up(*server)) {
            self.pull(server, None, 1, now);
        }
    }

    fn pull(&mut self, server: usize, after: After, tries: u32, now: Time) {
        let short = self.config.servers[server].short;
        let Some(replica) = &mut self.replica else { return };
        replica.pulls.asked = Some(Asked { server: short, after: after.clone(), at: now, tries });
        let (brief, sums) = (replica.catalog.brief(), replica.catalog.sums().to_vec());
        let question = Exchange { brief, sums, after, file: None, entries: Vec::new(), push: 0 };
        self.stream(server, question);
        self.plan_catalog_timer();
    }

    fn stream(&mut self, server: usize, exchange: Exchange) {
        let mut body = Vec::new();
        Message::Exchange(exchange).encode(&mut body);
        let data = self.seal(server, &body);
        self.outputs.push_back(Output::Stream { to: self.config.servers[server].addr, data });
    }

    pub(super) fn push_by_stream(&mut self, server: usize, push: u64, entries: &[Entry]) {
        let Some(brief) = self.catalog_brief() else { return };
        // What does not fit into a frame is pulled.
        let size: usize = entries.iter().map(size_of_entry).sum();
        if size > 2 * limits::CATALOG_PAGE {
            self.send(server, &Message::Catalog(brief));
            return;
        }
        let entries = entries.to_vec();
        self.stream(server, Exchange { brief, sums: Vec::new(), after: None, file: None, entries, push });
    }

    /// Somebody asks what differs, or gives what is to be stored.
    pub(in crate::node) fn on_exchange_request(
        &mut self,
        conn: u64,
        server: usize,
        exchange: Exchange,
        now: Time,
    ) {
        if exchange.push > 0 {
            let entries = Entries { push: exchange.push, entries: exchange.entries };
            return self.on_entries(server, entries);
        }
        let Some(replica) = &self.replica else { return };
        if exchange.sums.len() != BUCKETS {
            return;
        }
        let answer = Message::Exchange(replica.answer(&exchange));
        let mut body = Vec::new();
        answer.encode(&mut body);
        let data = self.seal(server, &body);
        self.outputs.push_back(Output::StreamReply { conn, data });
        self.on_brief(server, exchange.brief, now);
    }

    /// A page of what another has.
    pub(in crate::node) fn on_exchange_reply(&mut self, server: usize, exchange: Exchange, now: Time) {
        let short = self.config.servers[server].short;
        let Some(replica) = &mut self.replica else { return };
        let Some(asked) = replica.pulls.asked.as_ref().filter(|asked| asked.server == short) else { return };
        if exchange.after.is_some() && exchange.after == asked.after {
            // The page before this one, which was asked for twice.
            return;
        }
        replica.pulls.asked = None;
        if exchange.entries.iter().any(|entry| !Catalog::is_sound(entry)) {
            return;
        }
        if let Some((version, text)) = exchange.file
            && let Some(file) = File::from_text(version, &text)
        {
            replica.waiting.file = Some((file, short));
        }
        let catalog = &replica.catalog;
        let new = exchange.entries.into_iter().filter(|(key, record)| catalog.wants(key, record));
        replica.waiting.entries.extend(new);
        if exchange.after.is_none() && exchange.brief.complete {
            replica.waiting.completes = Some(exchange.brief.floor);
        }
        match exchange.after {
            Some(after) => self.pull(server, Some(after), 1, now),
            // What differs still is seen by the next brief.
            None => self.plan_catalog_timer(),
        }
        self.catalog_turn();
        if self.replica.as_ref().is_some_and(|replica| !replica.is_busy()) {
            self.run_catalog(now);
        }
    }

    /// Entries that are to be stored and acknowledged.
    pub(in crate::node) fn on_entries(&mut self, server: usize, entries: Entries) {
        let short = self.config.servers[server].short;
        let Some(replica) = &mut self.replica else { return };
        if !entries.entries.iter().all(Catalog::is_sound) {
            return;
        }
        let (catalog, push) = (&replica.catalog, entries.push);
        let is_beaten = |(key, record): &&Entry| {
            !catalog.wants(key, record) && catalog.get(key).is_none_or(|known| known != record)
        };
        // Homes follow from what is edited: that another edit made others at the same time takes nothing from this one,
        // unless it says nothing else.
        let lost: Vec<_> = entries.entries.iter().filter(is_beaten).collect();
        let is_home = |(key, _): &&Entry| matches!(key, Key::Home(..));
        let beaten = !lost.is_empty() && (lost.len() == entries.entries.len() || !lost.iter().all(is_home));
        let new: Vec<_> =
            entries.entries.into_iter().filter(|(key, record)| catalog.wants(key, record)).collect();
        if beaten || new.is_empty() {
            let count = catalog.count();
            replica.waiting.entries.extend(new);
            self.send(server, &Message::Kept(Kept { push, count, beaten }));
        } else {
            let storing = replica.storing.as_ref();
            let on_its_way = storing.is_some_and(|batch| batch.acks.contains(&(short, push)));
            if !on_its_way && !replica.waiting.acks.contains(&(short, push)) {
                replica.waiting.entries.extend(new);
                replica.waiting.acks.push((short, push));
            }
            if planted(Bug::AcknowledgedBeforeDisk) {
                let count = replica.catalog.count();
                self.send(server, &Message::Kept(Kept { push, count, beaten: false }));
            }
        }
        self.catalog_turn();
    }
}

impl Replica {
    /// What the asker does not have, as much as fits into a page.
    pub(in crate::node) fn answer(&self, question: &Exchange) -> Exchange {
        let file = self.catalog.file();
        let newer = file.rank() > (question.brief.version, question.brief.file != 0);
        let mut answer = Exchange {
            brief: self.catalog.brief(),
            sums: Vec::new(),
            after: None,
            file: (newer && question.after.is_none()).then(|| (file.version, file.text.to_string())),
            entries: Vec::new(),
            push: 0,
        };
        // A file that goes along takes its part of the frame.
        let most = limits::CATALOG_ANSWER - answer.file.as_ref().map_or(0, |(_, text)| text.len());
        let (first, mut after) = match &question.after {
            Some((bucket, key)) => (*bucket, key.clone()),
            None => (0, None),
        };
        let mut size = 0;
        let differs = (first..).take(BUCKETS.saturating_sub(usize::from(first))).filter(|bucket| {
            // A bucket that was begun is brought to its end, though sums may agree meanwhile.
            let at = usize::from(*bucket);
            self.catalog.sums()[at] != question.sums[at] || *bucket == first && question.after.is_some()
        });
        for number in differs {
            for (key, record) in self.catalog.bucket_from(number, after.take().as_ref()) {
                let entry = (key.clone(), record.clone());
                // Whoever reads it counts what the entries become as well, against the same limit.
                size += size_of_entry(&entry) + size_of::<Entry>();
                if size > most
                    && let Some((last, _)) = answer.entries.last()
                {
                    answer.after = Some((bucket(last.hash()), Some(Key::clone(last))));
                    return answer;
                }
                answer.entries.push(entry);
            }
        }
        answer
    }
}
