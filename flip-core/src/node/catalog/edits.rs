//! Edits: looked at together, refused one by one, acknowledged when a majority of the voters has them on disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Asked, Batch, PUSH_PAUSE, PUSHES, Push, Replica, What, Wish, voters};
use crate::catalog::{self, Changes, Composed, Entry, File, Known, Local, Record, Stamp, homes};
use crate::config::{Config, Source};
use crate::id::ShortId;
use crate::io::Command;
use crate::limits;
use crate::node::Node;
use crate::planted::{Bug, planted};
use crate::quorum;
use crate::time::Time;
use crate::wire::message::{Entries, Kept, Message};

/// Answers to those who asked.
type Answers = Vec<(u64, Result<String, String>)>;

/// What a wish came to while a batch is made.
#[derive(Clone, Default)]
pub(super) struct Made {
    file: Option<File>,
    local: Option<Local>,
}

impl Node {
    pub(in crate::node) fn on_edit_command(&mut self, asker: u64, command: &Command, now: Time) {
        let Some(replica) = &mut self.replica else {
            let why = "this server has no catalog to change; change its config file and restart it";
            return self.done(asker, Err(why.into()));
        };
        if self.leaving.is_some() {
            return self.done(asker, Err("this server is about to leave; ask another".into()));
        }
        // A stamp from here could seem old to the others, and what is old and unknown was removed.
        let alone = self.adoption.wanted.servers.len() == 1 || planted(Bug::LostDiskStampsCount);
        if !replica.catalog.is_complete() && !alone {
            let why = "this server has lost its catalog or begins with none, and has not heard yet what the others \
                       have; try again when one of them is up, or ask another";
            return self.done(asker, Err(why.into()));
        }
        if replica.waiting.wishes.len() + replica.pushes.len() >= limits::EDITS_WAITING {
            return self.done(asker, Err("too many edits wait for disks; try again later".into()));
        }
        let wish = match command {
            Command::Edit { edits, .. } if edits.len() > limits::EDITS => {
                let why = format!("found {} edits, expected at most {} at once", edits.len(), limits::EDITS);
                return self.done(asker, Err(why));
            }
            Command::Edit { edits, local, force, timeout } => Wish {
                asker,
                what: What::Edits(edits.clone()),
                local: *local,
                force: *force,
                until: now + *timeout,
                granted: false,
            },
            Command::File { text, scripts } => {
                let what = What::File(text.clone(), scripts.clone());
                let until = now + limits::PROPOSAL_LIFE;
                Wish { asker, what, local: true, force: false, until, granted: false }
            }
            _ => return,
        };
        replica.waiting.wishes.push_back(wish);
        self.catalog_turn();
    }

    pub(super) fn acknowledge(&mut self, acks: Vec<(ShortId, u64)>, count: u64) {
        for (server, push) in acks {
            if let Some(server) = self.config.server_index(server) {
                self.send(server, &Message::Kept(Kept { push, count, beaten: false }));
            }
        }
    }

    /// What this node made is on its disk: everybody who is up gets it.
    pub(super) fn push_own(
        &mut self,
        own: Vec<Entry>,
        askers: Vec<Asked>,
        former: Option<BTreeSet<ShortId>>,
        now: Time,
    ) {
        let mut waiting = Vec::new();
        for (asker, local, until, what) in askers {
            if local {
                let result = Ok(format!("{what}; on this server's disk, and spreads on"));
                self.done(asker, result);
            } else {
                waiting.push((asker, until, what));
            }
        }
        if own.is_empty() {
            for (asker, _, what) in waiting {
                self.done(asker, Ok(format!("{what}; nothing had to be changed")));
            }
            return;
        }
        let Some(replica) = &mut self.replica else { return };
        let id = replica.next;
        replica.next += 1;
        let kept = BTreeSet::from([self.config.my().short]);
        let push = Push { entries: own, kept, former, askers: waiting, said: 0, again: now };
        replica.pushes.insert(id, push);
        self.look_at_push(id);
        self.repeat_pushes(now);
        self.plan_catalog_timer();
    }

    pub(super) fn repeat_pushes(&mut self, now: Time) {
        let Some(replica) = &mut self.replica else { return };
        let (mut due, mut late) = (Vec::new(), Vec::new());
        for (id, push) in &mut replica.pushes {
            if push.askers.iter().any(|(_, until, _)| *until <= now) {
                late.push(*id);
            }
            if push.said < PUSHES && push.again <= now {
                push.said += 1;
                push.again = now + PUSH_PAUSE * push.said;
                due.push(*id);
            }
        }
        for id in late {
            self.too_late(id, now);
        }
        for id in due {
            self.say_push(id);
        }
        let Some(replica) = &mut self.replica else { return };
        replica.pushes.retain(|_, push| push.said < PUSHES || !push.askers.is_empty());
    }

    fn say_push(&mut self, id: u64) {
        let Some(push) = self.replica.as_ref().and_then(|replica| replica.pushes.get(&id)) else { return };
        let missing: Vec<_> = self
            .up_others()
            .into_iter()
            .filter(|server| !push.kept.contains(&self.config.servers[*server].short))
            .collect();
        let entries = push.entries.clone();
        let size: usize = entries.iter().map(catalog::disk::size_of_entry).sum();
        if size > limits::CATALOG_DATAGRAM {
            for server in missing {
                self.push_by_stream(server, id, &entries);
            }
            return;
        }
        let message = Message::Entries(Entries { push: id, entries });
        for server in missing {
            self.send(server, &message);
        }
    }

    /// Voters that have a push on disk, and how many must.
    fn votes(&self, push: &Push) -> (usize, usize) {
        let voters = self.config.voters.iter().map(|voter| self.config.servers[*voter].short);
        let kept = voters.filter(|voter| push.kept.contains(voter)).count();
        let needed = quorum::majority(self.config.voters.len());
        // Of those who voted before, a majority as well.
        let missing = push.former.as_ref().map_or(0, |former| {
            let kept = former.iter().filter(|voter| push.kept.contains(voter)).count();
            quorum::majority(former.len()).saturating_sub(kept)
        });
        (kept, needed.max(kept + missing))
    }

    fn look_at_push(&mut self, id: u64) {
        let Some(push) = self.replica.as_ref().and_then(|replica| replica.pushes.get(&id)) else { return };
        let (kept, needed) = self.votes(push);
        let everybody = push.kept.len() >= self.adoption.wanted.servers.len();
        let of = self.config.voters.len();
        let Some(replica) = &mut self.replica else { return };
        let Some(push) = replica.pushes.get_mut(&id) else { return };
        let enough = kept + usize::from(planted(Bug::AcknowledgedByMinority)) >= needed;
        let askers = if enough { std::mem::take(&mut push.askers) } else { Vec::new() };
        if everybody {
            replica.pushes.remove(&id);
        }
        for (asker, _, what) in askers {
            self.done(asker, Ok(format!("{what}; on the disks of {kept} of {of} voters, a majority")));
        }
    }

    fn too_late(&mut self, id: u64, now: Time) {
        let Some(push) = self.replica.as_ref().and_then(|replica| replica.pushes.get(&id)) else { return };
        let (kept, needed) = self.votes(push);
        let of = self.config.voters.len();
        let Some(push) = self.replica.as_mut().and_then(|replica| replica.pushes.get_mut(&id)) else {
            return;
        };
        let late: Vec<_> = push.askers.extract_if(.., |(_, until, _)| *until <= now).collect();
        for (asker, _, what) in late {
            let how_far = format!(
                "{what}, but on the disks of {kept} of {of} voters only, {needed} are needed; it is in effect where it is, and spreads on"
            );
            self.late(asker, how_far);
        }
    }

    pub(in crate::node) fn on_kept(&mut self, server: usize, kept: Kept) {
        let short = self.config.servers[server].short;
        let Some(replica) = &mut self.replica else { return };
        let Some(push) = replica.pushes.get_mut(&kept.push) else { return };
        if kept.beaten {
            let askers = std::mem::take(&mut push.askers);
            replica.pushes.remove(&kept.push);
            for (asker, _, what) in askers {
                let why = "but another server changed the same at the same time, and that counts; look, and try again";
                self.done(asker, Err(format!("{what}, {why}")));
            }
        } else {
            push.kept.insert(short);
            self.look_at_push(kept.push);
        }
        self.plan_catalog_timer();
    }
}

impl Replica {
    /// Makes a batch of all that waits. Answers go to those whose wishes are refused.
    pub(super) fn begin(&mut self, running: &Config) -> Answers {
        let waiting = std::mem::take(&mut self.waiting);
        let mut answers = Answers::new();
        let nothing = waiting.entries.is_empty() && waiting.file.is_none() && waiting.wishes.is_empty();
        if nothing && self.say_again == 0 {
            self.waiting.acks = waiting.acks;
            self.complete(waiting.completes);
            return answers;
        }
        let (before, counters) = (self.catalog.file().clone(), self.catalog.counters());
        let mut changes = Changes::default();
        let mut batch = Batch {
            id: self.next,
            entries: Vec::new(),
            own: Vec::new(),
            file: None,
            file_of: None,
            local: None,
            completes: waiting.completes,
            acks: waiting.acks,
            askers: Vec::new(),
            composed: None,
            former: None,
        };
        for (key, record) in &waiting.entries {
            changes.merge(&mut self.catalog, key, record);
        }
        if let Some((file, of)) = waiting.file
            && file.rank() > self.catalog.file().rank()
        {
            self.catalog.exchange_file(file.clone());
            (batch.file, batch.file_of) = (Some(file), Some(of));
        }
        let base = changes.len();
        self.restamp(&mut changes);
        let mut made = Made::default();
        // What the node runs may be behind what was looked at last.
        let before_it = self.composed.as_ref().map(|composed| Arc::clone(composed.config()));
        let running = before_it.as_deref().unwrap_or(running);
        let (accepted, composed) =
            self.together(waiting.wishes, &mut changes, &mut made, running, &mut answers);
        if let Some(composed) = composed {
            batch.former = voters::former(running, composed.config());
            batch.composed = Some(composed);
        }
        if made.file.is_some() {
            (batch.file, batch.file_of) = (made.file, None);
        }
        batch.local = made.local;
        batch.entries = changes.entries(&self.catalog);
        batch.own = changes.entries_since(&self.catalog, base);
        changes.back_to(&mut self.catalog, 0);
        self.catalog.exchange_file(before);
        self.catalog.set_counters(counters);
        batch.askers = accepted;
        if batch.entries.is_empty()
            && batch.file.is_none()
            && batch.local.is_none()
            && batch.askers.is_empty()
            && batch.composed.is_none()
        {
            // All of it was here before.
            self.waiting.acks = batch.acks;
            self.complete(batch.completes);
            return answers;
        }
        self.next += 1;
        self.storing = Some(batch);
        answers
    }

    /// Gives what was said here in ignorance of others stamps that come after all that they know.
    fn restamp(&mut self, changes: &mut Changes) {
        let floor = std::mem::take(&mut self.say_again);
        if floor == 0 {
            return;
        }
        let old: Vec<Entry> =
            self.catalog.records().map(|(key, record)| (key.clone(), record.clone())).collect();
        for (key, record) in old.into_iter().filter(|(_, record)| record.stamp.count <= floor) {
            let next = self.stamp(changes);
            let stamp = Stamp { count: next.count.max(floor + 1 + changes.len() as u64), ..next };
            changes.merge(&mut self.catalog, &key, &Record { stamp, ..record });
        }
    }

    /// Makes all wishes, and looks once at what comes of them. Where that can't be used, each is looked at alone.
    fn together(
        &mut self,
        wishes: impl IntoIterator<Item = Wish>,
        changes: &mut Changes,
        made: &mut Made,
        running: &Config,
        answers: &mut Answers,
    ) -> (Vec<Asked>, Option<Composed>) {
        let wishes: Vec<_> = wishes.into_iter().collect();
        let (base, mut composed): (usize, Option<Composed>) = (changes.len(), None);
        let alone = wishes.len() <= 1 || wishes.iter().any(|wish| matches!(wish.what, What::File(..)));
        let mut accepted = Vec::new();
        if !alone {
            let mut refused = Answers::new();
            for wish in &wishes {
                let mark = changes.len();
                match self.make(wish, changes, made) {
                    Ok(what) => accepted.push((wish.asker, wish.local, wish.until, what)),
                    Err(why) => {
                        changes.back_to(&mut self.catalog, mark);
                        refused.push((wish.asker, Err(why)));
                    }
                }
            }
            // Changes of who votes are looked at one by one.
            if let Ok(good) = self.settle(changes, made, running)
                && voters::changed(running, good.config()).is_empty()
            {
                answers.append(&mut refused);
                return (accepted, Some(good));
            }
            changes.back_to(&mut self.catalog, base);
            accepted.clear();
        }
        for wish in wishes {
            let (mark, was, file_before) = (changes.len(), made.clone(), self.catalog.file().clone());
            let result = self.make(&wish, changes, made).and_then(|what| {
                let present = composed.as_ref().map_or(running, |composed| composed.config());
                let good = self.settle(changes, made, present)?;
                let ask = self.may_change_voters(running, good.config(), &wish)?;
                Ok((what, good, ask))
            });
            if !matches!(result, Ok((_, _, false))) {
                changes.back_to(&mut self.catalog, mark);
                self.catalog.exchange_file(file_before);
                *made = was;
            }
            match result {
                Ok((_, _, true)) => self.voters.park(wish),
                Ok((what, good, false)) => {
                    composed = Some(good);
                    accepted.push((wish.asker, wish.local, wish.until, what));
                }
                Err(why) => answers.push((wish.asker, Err(why))),
            }
        }
        (accepted, composed)
    }

    /// Makes one wish in the catalog at hand, and says what it was.
    fn make(&mut self, wish: &Wish, changes: &mut Changes, made: &mut Made) -> Result<String, String> {
        match &wish.what {
            What::Edits(edits) => {
                for edit in edits {
                    let stamp = self.stamp(changes);
                    changes.apply(&mut self.catalog, edit, stamp)?;
                }
                Ok(match edits.len() {
                    1 => "1 edit is made".into(),
                    more => format!("{more} edits are made"),
                })
            }
            What::File(text, scripts) => self.make_file(text, scripts, made),
        }
    }

    fn make_file(&mut self, text: &str, scripts: &[Known], made: &mut Made) -> Result<String, String> {
        let local = made.local.as_ref().unwrap_or(&self.local).clone().with_scripts(scripts.to_vec());
        let source = Source { file: "the config file", text };
        let (file, own) = local.read(&source).map_err(|problems| {
            let errors = problems.iter().filter(|problem| problem.severity == crate::config::Severity::Error);
            let errors: Vec<_> = errors
                .map(|problem| {
                    format!("line {}, column {}: {}", problem.line, problem.column, problem.message)
                })
                .collect();
            format!("nothing was changed: {}", errors.join("; "))
        })?;
        let here = self.catalog.file();
        if !file.is_empty() && file.rank() < here.rank() {
            return Err(format!(
                "nothing was changed: the file has version {}, and the cluster runs version {}; raise `version`",
                file.version, here.version
            ));
        }
        let later = match own.differs(&local).as_slice() {
            [] => String::new(),
            keys => format!("; a restart is needed for: {}", keys.join(", ")),
        };
        made.local = Some(own);
        if file.is_empty() {
            return Ok(format!("the config file is taken, which says nothing to the cluster{later}"));
        }
        if file.hash == here.hash && file.text == here.text {
            return Ok(format!("the config file says what the cluster runs{later}"));
        }
        let (version, before) = (file.version, here.version);
        self.catalog.exchange_file(file.clone());
        made.file = Some(file);
        Ok(if version > before {
            format!("version {version} of the config file is taken, for the whole cluster{later}")
        } else {
            format!("the config file is taken, on this server: its version is {version} as before{later}")
        })
    }

    /// The stamp of the next edit of a batch.
    fn stamp(&self, changes: &Changes) -> Stamp {
        let next = self.catalog.next_stamp(ShortId::of(&self.local.id).0);
        Stamp { count: next.count + changes.len() as u64, ..next }
    }

    /// What the catalog at hand comes to, with what has to be said of homes.
    fn settle(&mut self, changes: &mut Changes, made: &Made, running: &Config) -> Result<Composed, String> {
        let composed = match (&made.local, &self.composed) {
            (None, Some(composed)) => composed.after(&self.catalog, &self.local, changes.keys()),
            (local, _) => Composed::new(&self.catalog, local.as_ref().unwrap_or(&self.local)),
        };
        let mut composed = composed.map_err(|invalid| invalid.to_string())?;
        let said = homes::keep(running, composed.config_mut());
        let stamp = self.stamp(changes);
        for (key, home) in said {
            if self.catalog.value(&key).as_deref() != Some(home.as_str()) {
                changes.set(&mut self.catalog, key, home.into(), stamp);
            }
        }
        Ok(composed)
    }
}
