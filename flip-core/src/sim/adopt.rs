//! Configs that change while daemons run: each goes on under the new one at its own moment, as it would when a change
//! spreads. Who does not run then finds it in its file.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::fault::{Fault, Timed};
use super::happening::{Happening, Mail};
use super::plan::{Case, Plan};
use super::world::World;
use crate::config::Config;
use crate::id::ItemRef;
use crate::lease::quarantine;
use crate::node::Node;
use crate::quorum;
use crate::time::Time;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// An item comes, at the end of the first system's list.
    AddItem,
    /// The item at this place of the list goes; counted around.
    RemoveItem(usize),
    /// Hooks see the item at this place otherwise than before.
    RedefineItem(usize),
    /// The list is turned by one, and with it the homes.
    Turn,
    /// The last server goes.
    RemoveServer,
    /// The last server is back.
    AddServer,
}

/// What the world knows of changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// How many there were.
    count: u64,
    /// When the last one was.
    last: Option<Time>,
    /// By host, the last change that its daemon knows.
    known: Vec<u64>,
    /// The last change of the servers: its number, the voters before it, and how many of them were a quorum.
    servers: Option<(u64, Vec<usize>, usize)>,
    /// Who voted before each of them, and how many were a quorum.
    electorates: Vec<(Vec<usize>, usize)>,
    /// Items were redefined so often.
    redefined: u64,
}

/// For so long after a change nobody promises who holds what: it spreads, and voters wait.
const UNREST: Duration = Duration::from_secs(15);

/// Draws changes for a case, with dice of their own.
pub(super) fn draw(case: &mut Case) {
    let mut rng = StdRng::seed_from_u64(case.seed ^ 0x00AD_0917);
    let plan = &case.plan;
    let others = |fault: &Fault| {
        matches!(fault, Fault::Edit { .. } | Fault::SecondDaemon { .. } | Fault::Checks { .. })
    };
    if !rng.random_bool(0.25) || plan.checks.is_some() || case.faults.iter().any(|timed| others(&timed.fault))
    {
        return;
    }
    let may_servers = plan.core.is_empty() && (3..=9).contains(&plan.servers);
    let mut gone = false;
    let mut at_ms = 0;
    for _ in 0..rng.random_range(1..=5) {
        at_ms += rng.random_range(0..plan.length_ms / 3);
        let change = pick(may_servers, &mut gone, &mut rng);
        if at_ms < plan.length_ms * 9 / 10 {
            let ms = if rng.random_bool(0.5) { 300 } else { 3_000 };
            case.faults.push(Timed { at_ms, fault: Fault::Adopt { change, ms } });
        }
    }
    case.faults.sort_by_key(|timed| timed.at_ms);
}

/// Whether a node sees a server up: one that its config does not name any more is none.
pub(super) fn sees(node: &Node, server: usize) -> bool {
    server < node.config().servers.len() && node.view().is_up(server)
}

/// One change, for a schedule of one family.
pub(super) fn fault(plan: &Plan, rng: &mut StdRng) -> Fault {
    let may_servers = plan.core.is_empty() && (3..=9).contains(&plan.servers);
    Fault::Adopt { change: pick(may_servers, &mut rng.random_bool(0.5), rng), ms: 300 }
}

/// Draws a change. Servers go and come by turns: `gone` says whether one is gone.
fn pick(may_servers: bool, gone: &mut bool, rng: &mut StdRng) -> Change {
    match rng.random_range(0..if may_servers { 6 } else { 4 }) {
        0 => Change::AddItem,
        1 => Change::RemoveItem(rng.random_range(0..8)),
        2 => Change::RedefineItem(rng.random_range(0..8)),
        3 => Change::Turn,
        _ => {
            *gone = !*gone;
            if *gone { Change::RemoveServer } else { Change::AddServer }
        }
    }
}

impl World {
    /// The item at a place in the config of a host.
    pub(super) fn thing_at(&self, index: usize, at: ItemRef) -> Option<usize> {
        let system = self.hosts[index].config.systems.get(at.system)?;
        let id = system.items.get(at.item)?.id;
        self.things.iter().position(|thing| thing.id == id)
    }

    /// The place of an item in the config of a host, retired or not.
    pub(super) fn place_at(&self, index: usize, item: usize) -> Option<ItemRef> {
        let thing = &self.things[item];
        let system = self.hosts[index].config.systems.get(thing.at.system)?;
        let at = system.items.iter().position(|known| known.id == thing.id)?;
        Some(ItemRef { system: thing.at.system, item: at })
    }

    /// Whether the config of a host names an item.
    pub(super) fn names(&self, index: usize, item: usize) -> bool {
        let config = &self.hosts[index].config;
        self.place_at(index, item).is_some_and(|at| !config.systems[at.system].items[at.item].retired)
    }

    /// Whether a server is in the newest config.
    pub(super) fn is_named(&self, server: usize) -> bool {
        self.edited.as_ref().is_none_or(|configs| configs[server].me < configs[server].servers.len())
    }

    /// Who votes, and how many of them are a quorum, as a host sees it.
    pub(super) fn electorate(&self, index: usize) -> (Vec<usize>, usize) {
        let config = &self.hosts[index].config;
        (config.voters.clone(), config.quorum)
    }

    /// How many of these voters are a quorum, now or before: a verdict of before still counts.
    pub(super) fn quorum_of(&self, index: usize, voters: &[usize]) -> usize {
        let former = self.changes.electorates.iter();
        let former = former.filter(|(all, _)| voters.iter().all(|voter| all.contains(voter)));
        // Ballots of those whom this host does not name any more counted, and it cannot say whose they were.
        let named = self.hosts[index].config.servers.len();
        let former = former.map(|(all, quorum)| {
            let unnamed = all.iter().filter(|voter| **voter >= named).count();
            quorum.saturating_sub(unnamed)
        });
        former.chain([self.electorate(index).1]).min().unwrap_or_default()
    }

    /// Whether a change is so recent that nothing is promised of who holds what.
    pub(super) fn is_changing(&self) -> bool {
        let unrest = UNREST + quarantine(self.lease);
        self.changes.last.is_some_and(|last| self.now.since(last) < unrest) || self.configs_differ()
    }

    /// The config is changed; daemons hear of it within so long.
    pub(super) fn change(&mut self, change: Change, within: Duration) {
        let configs = match &self.edited {
            Some(configs) => configs.clone(),
            None => self.hosts.iter().map(|host| (*host.config).clone()).collect(),
        };
        if matches!(change, Change::RemoveServer | Change::AddServer) && !self.may_change_servers(&configs[0])
        {
            self.note(None, || "it is too early to change the servers again".into());
            return;
        }
        let named = configs[0].clone();
        let redefined = self.changes.redefined + 1;
        let mut new: Vec<Config> = configs;
        let all = self.hosts.len();
        for (me, config) in new.iter_mut().enumerate() {
            let items = &mut config.systems[0].items;
            let len = items.len();
            match change {
                Change::AddItem => {
                    if let Some(extra) = self.extra.clone()
                        && items.iter().all(|item| item.id != extra.id)
                    {
                        items.push(extra);
                    }
                }
                Change::RemoveItem(at) if len > 1 => drop(items.remove(at % len)),
                Change::RedefineItem(at) if len > 0 => {
                    // Where hooks are programs, and where addresses are.
                    let system = &mut config.systems[0];
                    let item = &mut system.items[at % len];
                    let part = crate::config::IpItem::parse(
                        &format!("10.7.{}.{}", redefined / 250, redefined % 250 + 1),
                        &crate::config::Interface::Auto,
                    );
                    item.ip = part.ok();
                }
                Change::Turn if len > 1 => items.rotate_left(1),
                Change::RemoveServer => {
                    let mut servers = config.servers.to_vec();
                    if servers.len() == all {
                        servers.pop();
                    }
                    set_servers(config, servers, me);
                }
                Change::AddServer => {
                    let mut servers = config.servers.to_vec();
                    if servers.len() < all {
                        servers.extend(self.hosts[all - 1].own.clone());
                    }
                    set_servers(config, servers, me);
                }
                Change::RemoveItem(_) | Change::RedefineItem(_) | Change::Turn => {}
            }
        }
        self.changes.redefined = redefined;
        self.changes.count += 1;
        self.changes.last = Some(self.now);
        let count = self.changes.count;
        self.changes.known.resize(all, 0);
        let changed = new[0].servers.len() != named.servers.len();
        if changed {
            self.changes.servers = Some((count, named.voters.clone(), named.quorum));
            self.changes.electorates.push((named.voters.clone(), named.quorum));
        }
        self.edited = Some(new);
        for host in 0..all {
            let after = self.rng.random_range(Duration::ZERO..within + Duration::from_millis(1));
            let life = self.hosts[host].life;
            if self.hosts[host].node.is_some() {
                let mail = Mail::Adopt { count };
                self.queue.push(self.now + after, Happening::Mail { host, life, mail });
            }
        }
        if changed && change == Change::AddServer {
            let token = self.token();
            self.hosts[all - 1].kept_down = Some(token);
            self.queue.push(self.now + within, Happening::Start { host: all - 1, token });
        }
    }

    /// Servers change one at a time: a quorum of the voters before works with the last change, and what it
    /// promised under the one before is over.
    fn may_change_servers(&self, config: &Config) -> bool {
        let Some((count, voters, quorum)) = &self.changes.servers else { return true };
        let known = voters.iter().filter(|voter| {
            let knows = self.changes.known.get(**voter).is_some_and(|known| known >= count);
            knows && self.hosts[**voter].node.is_some()
        });
        let over = self.changes.last.is_none_or(|last| self.now.since(last) > quarantine(config.lease));
        known.count() >= *quorum && over
    }

    /// A daemon hears of the newest config.
    pub(super) fn adopt(&mut self, index: usize, count: u64) {
        let known = self.changes.known.get(index).copied().unwrap_or(0);
        let Some(configs) = self.edited.as_ref().filter(|_| known < count) else { return };
        let config = configs[index].clone();
        self.changes.known[index] = self.changes.count;
        let out = config.me >= config.servers.len();
        self.note(Some(index), || "goes on under another config".into());
        let now = self.now;
        let host = &mut self.hosts[index];
        host.leaving |= out;
        let local = host.clock.local(now);
        let Some(node) = host.node.as_mut() else { return };
        self.checker.budget = None;
        host.believes = None;
        node.adopt(std::sync::Arc::new(config), local);
    }

    /// A daemon starts, and reads what is in its file.
    pub(super) fn read_changes(&mut self, index: usize) {
        if let Some(known) = self.changes.known.get_mut(index) {
            *known = self.changes.count;
        }
    }

    /// A server that is in no config any more was taken away: nothing of it is left.
    pub(super) fn clear_away(&mut self, index: usize) {
        for item in 0..self.things.len() {
            self.remove(index, item);
        }
    }

    /// Whoever did not hear of a change hears of it now.
    pub(super) fn catch_up(&mut self, index: usize) {
        let count = self.changes.count;
        if self.changes.known.get(index).is_some_and(|known| *known < count) {
            self.mail(index, Mail::Adopt { count });
        }
    }

    /// Whether configs were changed in this case while daemons ran.
    pub(super) fn has_changed(&self) -> bool {
        self.changes.count > 0 || self.has_edited()
    }

    /// Something changed just now.
    pub(super) const fn changes_now(&mut self) {
        self.changes.last = Some(self.now);
    }

    /// What of an earlier config is still somewhere.
    pub(super) fn left_of_before(&self, core: &[usize]) -> Option<String> {
        if !self.has_changed() {
            return None;
        }
        // Who was not healed does not know whether others have let go.
        for index in core {
            let Some(node) = &self.hosts[*index].node else { continue };
            let config = node.config();
            let items = config.systems.iter().flat_map(|system| &system.items);
            if let Some(item) = items.into_iter().find(|item| item.retired) {
                return Some(format!("n{index} still keeps item {}, which no config names", item.name));
            }
            if let Some(server) = config.servers.iter().find(|server| server.retired) {
                return Some(format!("n{index} still counts with {}, which no config names", server.id));
            }
        }
        let named = |item: usize| core.iter().any(|host| self.names(*host, item));
        let held = |item: usize| self.truth.holders(item).iter().any(|host| core.contains(host));
        let left = (0..self.things.len()).find(|item| !named(*item) && held(*item));
        left.map(|item| format!("item {item} is on {:?}, and no config names it", self.truth.holders(item)))
    }
}

/// Other servers, with what follows from how many they are.
fn set_servers(config: &mut Config, servers: Vec<crate::config::Server>, me: usize) {
    let shorts: Vec<_> = servers.iter().map(|server| server.short).collect();
    config.me = me.min(servers.len());
    config.voters = quorum::voters(&shorts);
    config.quorum = quorum::majority(config.voters.len());
    config.servers = servers.into();
}
