//! Another config in the same life: what changed is brought about, and nothing else is touched.
//!
//! ```text
//!  adopt(wanted) ──▶ merge: wanted, and of the present config what cannot go yet
//!                      │
//!                      ▼
//!                    translate: every position in the state of every module, old to new
//!                      │
//!                      ▼
//!                    Output::Config; begin what is new; look at everything
//!                      ▲
//!                      │ something that was kept became needless
//!                    has_needless ◀── after each input
//! ```
//!
//! Kept are, behind all that the config names, so that others place alike whatever they keep:
//! - items that left it (`Item::retired`), as long as one is here, an up server says that it has it, or this voter
//!   is bound to a promise of it: they belong nowhere, and whoever has one lets go of it in its old form;
//! - servers that left it (`Server::retired`), as long as one is up and is heard, or is promised something: they
//!   get nothing and have no vote, and what they say they hold is taken from them only when they are ready for it;
//! - the old form of items of which hooks would see another one (*outdated*), until they have gone from here.
//!
//! All nodes change at their own moment. A planned move waits until the holder runs the same config
//! ([`limits::CONFIG_PATIENCE`]): else one would take what the other still takes for its own. Where others vote
//! than before, a voter makes no new promise before all that a former quorum may have made are over (R9); so
//! whoever changes the voters of a cluster does it one server at a time, the next only when a quorum of those
//! before has changed.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Node, Timer};
use crate::config::{Config, Isolated, Needs, System, merge};
use crate::event::{Event, ItemState, Reason};
use crate::id::{ItemId, ItemRef, Peer, ShortId};
use crate::io::{HookAction, Output};
use crate::limits;
use crate::loss::Purpose;
use crate::marks::mark;
use crate::planted::{Bug, planted};
use crate::time::Time;
use crate::translation::{Translation, places};
use crate::view::Life;

/// The config that is wanted, and what is not yet as it says.
#[derive(Debug)]
pub(super) struct Adoption {
    /// What was handed in last.
    pub(super) wanted: Arc<Config>,
    /// When that was; none when it was at the start.
    since: Option<Time>,
    /// Items that have to go from here before they are what they should be.
    outdated: BTreeSet<ItemId>,
    /// Since when servers are retired that still are.
    retired: BTreeMap<ShortId, Time>,
    /// Something of an earlier config is left.
    left: bool,
    /// When that may be looked at again.
    next: Time,
    /// Who voted before, oldest first, by the hashes of the configs.
    formers: VecDeque<(u32, Electorate)>,
}

/// Who votes, and how many of them are a quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Electorate {
    pub(super) voters: BTreeSet<ShortId>,
    pub(super) quorum: usize,
}

impl Electorate {
    pub(super) fn of(config: &Config) -> Self {
        let voters = config.voters.iter().map(|voter| config.servers[*voter].short).collect();
        Self { voters, quorum: config.quorum }
    }
}

impl Adoption {
    /// Whether something of an earlier config is left.
    #[cfg(feature = "sim")]
    pub(super) fn is_under_way(&self) -> bool {
        self.left || !self.outdated.is_empty()
    }

    pub(super) const fn new(config: Arc<Config>) -> Self {
        Self {
            wanted: config,
            since: None,
            outdated: BTreeSet::new(),
            retired: BTreeMap::new(),
            left: false,
            next: Time::ZERO,
            formers: VecDeque::new(),
        }
    }

    /// Who voted under a config before, if this life still knows.
    pub(super) fn former(&self, hash: u32) -> Option<&Electorate> {
        self.formers.iter().find(|(known, _)| *known == hash).map(|(_, electorate)| electorate)
    }

    fn voted(&mut self, hash: u32, electorate: Electorate) {
        self.formers.retain(|(known, _)| *known != hash);
        if self.formers.len() >= limits::ELECTORATES {
            self.formers.pop_front();
        }
        self.formers.push_back((hash, electorate));
    }
}

/// What this node still needs of its present config.
struct Needed<'a> {
    node: &'a Node,
    now: Time,
}

impl Needs for Needed<'_> {
    fn server(&self, server: usize) -> bool {
        self.node.is_server_needed(server, self.now)
    }

    fn here(&self, item: ItemRef) -> bool {
        self.node.is_here(item)
    }

    fn somewhere(&self, item: ItemRef) -> bool {
        self.node.is_somewhere(item, self.now)
    }
}

impl Node {
    /// Goes on under another config of the same cluster, in the same life. `config.me` is this node's server, or
    /// past the end when that is not named any more: then the node lets go of everything and leaves.
    ///
    /// What changed is brought about as any other change is; what did not is not touched. Outputs that came before
    /// `Output::Config` speak of positions in the config before. The cluster's key and id do not change by this.
    ///
    /// Voters must change by one server at a time, the next only when a quorum of those before works with the last
    /// change; else two of them might give the same lease to two servers.
    pub fn adopt(&mut self, config: Arc<Config>, now: Time) {
        self.now = now;
        self.check_leases_in_time(now);
        self.notice_stall(now);
        let what = difference(&self.adoption.wanted, &config);
        self.adoption.wanted = config;
        self.adoption.since = Some(now);
        self.go_over(now);
        self.event(Event::ConfigChanged { what });
        self.tell_content();
        self.work_off(now);
    }

    /// Puts the config together anew from what is wanted and what is needed, and goes on under it.
    pub(super) fn go_over(&mut self, now: Time) {
        // What waits to leave is for servers of the present config.
        self.flush();
        let wanted = Arc::clone(&self.adoption.wanted);
        let merged = merge(&self.config, &wanted, &Needed { node: self, now });
        let old = Arc::clone(&self.config);
        let to = Translation::new(&old, &merged.config);
        self.config = Arc::new(merged.config);
        self.adoption.outdated = merged.outdated;
        let fresh_checks = self.translate(&to, &old, now);
        self.outputs.push_back(Output::Config(Arc::clone(&self.config)));
        self.after_translation(&old, &fresh_checks, now);
        if merged.outcast && self.leaving.is_none() {
            mark!("adopt: the own server is gone");
            self.event(Event::Outcast);
            self.on_leave(now);
        }
    }

    /// Gives everything that this node knows its new positions. Gives back the checks that are new.
    fn translate(&mut self, to: &Translation, old: &Config, now: Time) -> Vec<usize> {
        let config = Arc::clone(&self.config);
        let electorate = self.adoption.wanted.voters_hash();
        self.translate_cases(to, electorate != self.electorate);
        if electorate != self.electorate {
            self.adoption.voted(self.electorate, Electorate::of(old));
        }
        if Electorate::of(old) != Electorate::of(&config) {
            mark!("adopt: other voters");
            self.leases.electorate_changed(&config, now);
        }
        self.electorate = electorate;
        self.content = self.adoption.wanted.content_hash();
        self.seals.translate(to, Arc::clone(&config));
        self.sessions.translate(to);
        self.keys.translate(to);
        self.view.translate(to, now);
        self.facts.translate(to);
        self.pings.translate(to);
        self.items.translate(to, &config, now);
        self.leases.translate(to, &config);
        let (probes, fresh_checks) = self.health.translate(to, &config, now);
        self.ground.translate(to);
        self.words.translate(to);
        self.flaps.translate(to);
        self.alone.forget();
        to.by_server(&mut self.proven);
        to.by_server(&mut self.asked_holders);
        self.spread.translate(to);
        self.refused.translate(to);
        self.differs.clear();
        if let Some(waiting) = self.leaving.as_mut().and_then(|leaving| leaving.waiting.as_mut()) {
            to.set_of_servers(waiting);
        }
        let round = std::mem::take(&mut self.round.1).into_iter();
        self.round.1 = round.filter_map(|server| to.server(server)).collect();
        self.timers.rename(|timer| match timer {
            Timer::Case(server) => to.server(server).map(Timer::Case),
            Timer::Verdict(server) => to.server(server).map(Timer::Verdict),
            Timer::Item(item) => to.item(item).map(Timer::Item),
            Timer::Check(probe) => probes.get(probe).copied().flatten().map(Timer::Check),
            timer => Some(timer),
        });
        let row = &self.leases.row;
        self.marks.keep(|server, item| {
            config.server_index(server).is_some() && item.is_none_or(|item| row.find(item).is_some())
        });
        fresh_checks
    }

    /// Begins what is new, and sees to what was kept.
    fn after_translation(&mut self, old: &Config, fresh_checks: &[usize], now: Time) {
        let config = Arc::clone(&self.config);
        let retired = config.servers.iter().filter(|server| server.retired).map(|server| server.short);
        let since: BTreeMap<_, _> =
            retired.map(|short| (short, self.adoption.retired.get(&short).copied().unwrap_or(now))).collect();
        self.adoption.retired = since;
        let retired_items = config.systems.iter().any(|s| s.items.last().is_some_and(|item| item.retired));
        self.adoption.left =
            retired_items || !self.adoption.retired.is_empty() || !self.adoption.outdated.is_empty();
        self.adoption.next = now;
        if self.adoption.left {
            let items = self.items.count();
            if items > limits::ITEMS_AT_ONCE {
                let many = u32::try_from(items).unwrap_or(u32::MAX);
                self.adoption.next = now + limits::NEEDLESS_PAUSE * many;
            }
            self.timers.set(Timer::Adopt, self.adoption.next.max(now + self.adopt_pace()));
        }
        for at in self.doomed() {
            self.items.dismiss(at);
        }
        self.begin_these(fresh_checks, now);
        if !fresh_checks.is_empty() || old.systems.iter().any(|system| !system.checks.is_empty()) {
            self.items.fitness_changed();
        }
        self.join_new_servers(old, now);
        if self.items.is_stale() {
            self.items.touch();
        } else {
            self.replace_items(now);
        }
        self.items.touch();
    }

    /// Looks for servers that are new, and lets the SWIM layer begin anew where its members are others.
    fn join_new_servers(&mut self, old: &Config, now: Time) {
        let ids = |config: &Config| -> BTreeSet<ShortId> {
            config.servers.iter().filter(|server| !server.retired).map(|server| server.short).collect()
        };
        let (before, after) = (ids(old), ids(&self.config));
        if before == after && old.timing == self.config.timing {
            return;
        }
        let named: Vec<_> = self.others().filter(|server| !self.config.servers[*server].retired).collect();
        let is = |server: &&usize, up: bool| match self.view.get(**server).life {
            Life::Up => up,
            Life::Down | Life::Left => !up,
            Life::Unknown => false,
        };
        let peers = |up: bool| -> Vec<Peer> {
            named.iter().filter(|server| is(server, up)).map(|server| self.peer(*server)).collect()
        };
        let (up, over) = (peers(true), peers(false));
        let over = over.into_iter().filter(|peer| peer.generation > 0);
        let everybody = self.everybody_probed();
        let rng = StdRng::from_seed(self.rng.random());
        self.swim.begin_anew((&self.config.timing, everybody), up.into_iter(), over, rng, now);
        if everybody && self.config.servers.len() > 1 {
            let next = now + self.config.timing.probe_interval;
            self.timers.set_earlier(Timer::Round, next);
        } else {
            self.timers.cancel(Timer::Round);
            self.timers.cancel(Timer::RoundCheck);
        }
        if self.config.servers.len() > 1 && !self.timers.has(&Timer::Digest) {
            self.timers.set(Timer::Digest, now + self.config.timing.digest_interval);
        }
        if self.leaving.is_none() && after.iter().any(|server| !before.contains(server)) {
            mark!("adopt: a server is new");
            self.wait_for_unseen(now);
            self.greet_soon(now);
        }
    }

    /// Items of the present config that have to go from here.
    fn doomed(&self) -> Vec<ItemRef> {
        let retired = self.config.systems.iter().enumerate().flat_map(|(system, spec)| {
            let retired = spec.items.iter().rev().take_while(|item| item.retired).count();
            (spec.items.len() - retired..spec.items.len()).map(move |item| ItemRef { system, item })
        });
        let outdated = self.adoption.outdated.iter().filter_map(|id| self.items.find(*id));
        retired.chain(outdated).collect()
    }

    fn adopt_pace(&self) -> Duration {
        self.config.timing.probe_interval.max(Duration::from_millis(50))
    }

    /// Asks servers that are to go whether they are there, and looks again whether they are.
    pub(super) fn adopt_turn(&mut self, now: Time) {
        if !self.adoption.left {
            return;
        }
        let retired = |server: &usize| self.config.servers[*server].retired && self.view.is_up(*server);
        let retired: Vec<_> = self.others().filter(retired).collect();
        for server in retired {
            self.ping(server, Purpose::Probe, now);
        }
        self.timers.set(Timer::Adopt, now + self.adopt_pace());
    }

    /// Whether something that was kept of an earlier config is not needed any more.
    pub(super) fn has_needless(&self, now: Time) -> bool {
        if !self.adoption.left || now < self.adoption.next {
            return false;
        }
        let is_needless = |server: usize| {
            self.config.servers[server].retired
                && server != self.config.me
                && !self.is_server_needed(server, now)
        };
        (0..self.config.servers.len()).any(is_needless)
            || self.doomed().into_iter().any(|at| {
                let item = &self.config.systems[at.system].items[at.item];
                if item.retired {
                    !self.is_here(at) && !self.is_somewhere(at, now)
                } else {
                    self.is_swapped(at)
                }
            })
    }

    /// Whether nothing keeps an outdated item from being what it should be.
    fn is_swapped(&self, at: ItemRef) -> bool {
        let present = &self.config.systems[at.system];
        let wanted = self.adoption.wanted.systems.iter().find(|wanted| wanted.name == present.name);
        if wanted.is_none_or(|wanted| present.looks_like(wanted)) {
            return !self.is_here(at);
        }
        (0..present.items.len()).all(|item| !self.is_here(ItemRef { item, ..at }))
    }

    /// Whether an item is here, on its way, or claimed.
    fn is_here(&self, at: ItemRef) -> bool {
        if planted(Bug::RetiredForgotten) {
            return false;
        }
        self.items.is_engaged(at) || self.leases.is_claimed(at)
    }

    /// Whether an item may be somewhere else, or somebody is still to hear of it.
    fn is_somewhere(&self, at: ItemRef, now: Time) -> bool {
        let id = self.config.systems[at.system].items[at.item].id;
        let holds = |server: usize| {
            self.view.is_up(server)
                && self
                    .stated(server, id)
                    .is_some_and(|(state, _)| !matches!(state, ItemState::Standby | ItemState::Failing))
        };
        self.items.is_told_of(at) || self.leases.binds(at, now) || self.others().any(holds)
    }

    /// Whether a server that the config does not name is still to be counted with: it is up and was heard within
    /// the time that a verdict takes, or something is promised to it.
    fn is_server_needed(&self, server: usize, now: Time) -> bool {
        if planted(Bug::OutcastForgotten) {
            return false;
        }
        let short = self.config.servers[server].short;
        let since = self.adoption.retired.get(&short).copied().unwrap_or(now);
        let heard = self.spread.last_heard(server).map_or(since, |heard| heard.max(since));
        let patience = self.grace() + self.config.timing.ping_timeout;
        self.view.is_up(server) && now.since(heard) < patience || self.leases.owes(server, now)
    }

    /// Why an item has to go from here, whatever placement says.
    pub(super) fn must_go(&self, at: ItemRef) -> Option<Reason> {
        if !self.adoption.left {
            return None;
        }
        let item = &self.config.systems[at.system].items[at.item];
        if item.retired {
            return Some(Reason::Removed);
        }
        self.adoption.outdated.contains(&item.id).then_some(Reason::Redefined)
    }

    /// One step of an item on its way out.
    pub(super) fn go_step(&mut self, at: ItemRef, reason: Reason, now: Time) {
        match self.item_state(at).0 {
            ItemState::Standby => {
                if self.items.take_stray(at) {
                    self.start(at, HookAction::Down, reason, now);
                } else {
                    self.release_lease(at, now);
                }
            }
            ItemState::Failing => self.change(at, ItemState::Standby, reason, now),
            ItemState::Acquiring | ItemState::Active => {
                mark!("adopt: an item goes");
                self.start(at, HookAction::Down, reason, now);
            }
            ItemState::Releasing => self.start(at, HookAction::Down, Reason::HookFailed, now),
            ItemState::Unclean if self.isolated(at) == Isolated::Drop => self.retry_unclean(at, now),
            ItemState::Unclean => {}
        }
    }

    /// Whether a planned move has to wait, because the holder may still work with another config: it would not let
    /// go. A server that is not named any more says by itself when it is ready.
    pub(super) fn awaits_config_of(&self, holder: usize, since: Time, now: Time) -> bool {
        if self.config.servers[holder].retired {
            return !self.is_departing(holder);
        }
        let patient = now.since(since) < limits::CONFIG_PATIENCE;
        match self.has_same_config(holder) {
            Some(same) => !same && patient,
            None => self.adopted_lately(now) && patient,
        }
    }

    /// Whether somebody to whom an item belongs now is known to see that too; always, a while after the last change.
    pub(super) fn successor_has_config(&mut self, at: ItemRef, now: Time) -> bool {
        let me = self.config.me;
        let knows = |holder: &usize| *holder != me && self.has_same_config(*holder) == Some(true);
        if !self.adopted_lately(now) || self.holders_now(at).iter().any(knows) {
            return true;
        }
        for holder in self.holders_now(at).clone() {
            self.tell_content_to(holder);
        }
        self.timers.set(Timer::Item(at), now + limits::REPEAT_PAUSE);
        false
    }

    pub(super) fn adopted_lately(&self, now: Time) -> bool {
        self.adoption.since.is_some_and(|since| now.since(since) < limits::CONFIG_PATIENCE)
    }
}

/// How many names a difference lists of each kind.
const NAMED: usize = 4;

/// What is different between two configs, for people.
fn difference(old: &Config, new: &Config) -> String {
    let servers =
        |config: &Config| config.servers.iter().map(|server| server.id.clone()).collect::<BTreeSet<_>>();
    let systems =
        |config: &Config| config.systems.iter().map(|system| system.name.clone()).collect::<BTreeSet<_>>();
    let without =
        |some: &BTreeSet<String>, others: &BTreeSet<String>| some.difference(others).cloned().collect();
    let (server, system) = ((servers(old), servers(new)), (systems(old), systems(new)));
    let kinds: [(&str, BTreeSet<String>, BTreeSet<String>); 3] = [
        ("server", without(&server.1, &server.0), without(&server.0, &server.1)),
        ("system", without(&system.1, &system.0), without(&system.0, &system.1)),
        ("item", items_without(new, old), items_without(old, new)),
    ];
    let mut parts = Vec::new();
    for (kind, added, removed) in &kinds {
        for (done, names) in [("added", added), ("removed", removed)] {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let (first, rest) = names.split_at(names.len().min(NAMED));
            match (first.len(), rest.len()) {
                (0, _) => {}
                (1, _) => parts.push(format!("{kind} {} {done}", first[0])),
                (_, 0) => parts.push(format!("{kind}s {} {done}", first.join(", "))),
                (_, more) => parts.push(format!("{kind}s {} and {more} more {done}", first.join(", "))),
            }
        }
    }
    if parts.is_empty() { "settings or order changed".to_owned() } else { parts.join("; ") }
}

/// The items of a config that another does not have.
fn items_without(config: &Config, other: &Config) -> BTreeSet<String> {
    let of = |system: &System| {
        let name = system.name.clone();
        let known = other.systems.iter().find(|known| known.name == name);
        let places = places(&system.items, known.map_or(&[], |known| &known.items));
        let new = places.into_iter().zip(&system.items).filter(|(place, _)| place.is_none());
        new.map(|(_, item)| format!("{name}/{}", item.name)).collect::<Vec<_>>()
    };
    config.systems.iter().flat_map(of).collect()
}
