//! What would happen if: the placement of now and the placement after, by the rules that a node itself goes by.
//!
//! [`plan`] is a function of the config and of what a node knows now ([`Present`]); it changes nothing. What it says
//! is what comes to rest: a hook that fails, a lease that must run out first, or a server that is not mature yet may
//! take things elsewhere for a while.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Isolated, Item, SystemKind, WhenAllFail};
use crate::eligible::{self, Look};
use crate::facts::Fitness;
use crate::id::{ItemId, ItemRef};
use crate::placement::{self, Holders};

/// Something that could happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WhatIf {
    /// The server with this id dies.
    Down(String),
    /// It comes back, and is well there for long enough.
    Up(String),
    /// An operator takes its items.
    Drain(String),
    /// An operator lets it have items again.
    Undrain(String),
    /// An item is added at the end of a system's list.
    AddItem {
        /// The system's name.
        system: String,
        /// The item's name.
        name: String,
    },
}

/// What a node knows of the cluster, as far as placement depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// In listed order.
    pub servers: Vec<Standing>,
    /// Items that are not alike on all servers, or that somebody holds.
    pub items: BTreeMap<ItemId, Known>,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It is up, or nothing is known against it.
    pub live: bool,
    /// An operator keeps items away.
    pub drained: bool,
    /// It says itself that it is not fit for items.
    pub inactive: bool,
    /// It is about to leave.
    pub leaving: bool,
    /// It has been up for long enough.
    pub mature: bool,
}

impl Standing {
    /// A server of which nothing is to be said.
    pub const WELL: Self = Self { live: true, drained: false, inactive: false, leaving: false, mature: true };

    const fn ready(self) -> bool {
        self.live && !self.drained && !self.inactive && !self.leaving
    }
}

/// What is known of an item: positions of servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Where its checks, or what it stands on, do not say that all is well.
    pub unfit: BTreeMap<usize, Fitness>,
    /// Where its hooks failed too often.
    pub failing: BTreeSet<usize>,
    /// Who has it or is about to.
    pub holds: BTreeSet<usize>,
    /// It may still be somewhere where it should not be: nobody takes it.
    pub unclean: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Plan {
    /// What was asked.
    pub what_if: Vec<WhatIf>,
    /// Whether enough voters live afterwards to agree on anything.
    pub quorum: QuorumAfter,
    /// What moves, in listed order.
    pub moves: Vec<Move>,
    /// What nobody holds afterwards, in listed order.
    pub unheld: Vec<ItemName>,
    /// How many items each server has to hold, in listed order.
    pub loads: Vec<Load>,
    /// What else is to be known, one sentence each.
    pub notes: Vec<String>,
}

/// Whether enough voters live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct QuorumAfter {
    /// Voters that live afterwards.
    pub live_voters: usize,
    /// How many it takes.
    pub needed: usize,
    /// Whether there are enough.
    pub seen: bool,
}

/// One item that goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Move {
    /// Which.
    #[serde(flatten)]
    pub item: ItemName,
    /// Ids of the servers where it belongs now; empty when nobody may have it, or when it is new.
    pub from: Vec<String>,
    /// Ids of the servers where it belongs afterwards.
    pub to: Vec<String>,
}

/// An item by its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ItemName {
    /// The system's.
    pub system: String,
    /// Its own.
    pub item: String,
}

/// How many items a server has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Load {
    /// Its id.
    pub server: String,
    /// Now.
    pub before: usize,
    /// Afterwards.
    pub after: usize,
}

/// What becomes of the items of `config` if all of `what_if` happens at once.
///
/// # Errors
/// When a server or a system is unknown, or an item to be added is there already: one line for people.
pub fn plan(config: &Config, present: &Present, what_if: Vec<WhatIf>) -> Result<Plan, String> {
    let mut after = present.clone();
    let mut grown = config.clone();
    let mut notes = Vec::new();
    for one in &what_if {
        apply(one, &mut grown, &mut after, &mut notes)?;
    }
    let before = place(config, present);
    let quorum = quorum(config, &after);
    let placed = place(&grown, &after);
    let mut answer =
        Plan { what_if, quorum, moves: Vec::new(), unheld: Vec::new(), loads: Vec::new(), notes };
    let name = |server: &usize| config.servers[*server].id.clone();
    let mut loads = vec![(0, 0); config.servers.len()];
    for (system, spec) in grown.systems.iter().enumerate() {
        for (item, each) in spec.items.iter().enumerate() {
            let none = Holders::new();
            let was = before[system].get(item).unwrap_or(&none);
            let is = match answer.quorum.seen {
                true => placed[system][item].clone(),
                false => without_quorum(each, was, &placed[system][item], &after),
            };
            let named = || ItemName { system: spec.name.clone(), item: each.name.clone() };
            was.iter().for_each(|server| loads[*server].0 += 1);
            is.iter().for_each(|server| loads[*server].1 += 1);
            if is.is_empty() {
                answer.unheld.push(named());
            }
            let set = |holders: &Holders| holders.iter().copied().collect::<BTreeSet<_>>();
            if set(was) != set(&is) {
                let (from, to) = (was.iter().map(name).collect(), is.iter().map(name).collect());
                answer.moves.push(Move { item: named(), from, to });
            }
        }
    }
    if !answer.quorum.seen {
        let QuorumAfter { live_voters, needed, .. } = answer.quorum;
        answer.notes.push(format!(
            "{live_voters} live voters are fewer than the quorum of {needed}: nobody can agree who is down, so items \
             go by their \"isolated\": keep stays where it is, take goes to who is left, drop is released"
        ));
    }
    let load =
        |(server, (before, after)): (usize, (usize, usize))| Load { server: name(&server), before, after };
    answer.loads = loads.into_iter().enumerate().map(load).collect();
    Ok(answer)
}

/// Where every item belongs: by system, then item.
#[must_use]
pub fn place(config: &Config, present: &Present) -> Vec<Vec<Holders>> {
    (0..config.systems.len()).map(|system| place_system(config, present, system)).collect()
}

fn place_system(config: &Config, present: &Present, system: usize) -> Vec<Holders> {
    let (ready, mature) = who(config, present, system);
    let items = 0..config.systems[system].items.len();
    let may: Vec<_> =
        items.map(|item| who_may(config, present, ItemRef { system, item }, &ready, &mature)).collect();
    placement::place(config, system, |server, item| may[item][server])
}

/// Which servers may have an item, by their position.
#[must_use]
pub fn eligible(config: &Config, present: &Present, at: ItemRef) -> Vec<bool> {
    let (ready, mature) = who(config, present, at.system);
    who_may(config, present, at, &ready, &mature)
}

/// Which servers may have items of a system at all, and which of them as far as time is concerned as well.
fn who(config: &Config, present: &Present, system: usize) -> (Vec<bool>, Vec<bool>) {
    let spec = &config.systems[system];
    let member = |server: usize| config.takes_part(server, system);
    let standing = |server: usize| present.servers.get(server).copied().unwrap_or(Standing::WELL);
    let servers = 0..config.servers.len();
    let ready: Vec<_> = servers.clone().map(|server| member(server) && standing(server).ready()).collect();
    let mut mature: Vec<_> = servers
        // Damping spares items that would move; those that are everywhere would only blink.
        .map(|server| ready[server] && (standing(server).mature || spec.kind == SystemKind::Replicate))
        .collect();
    eligible::forgive(&mut mature, &ready);
    (ready, mature)
}

fn who_may(config: &Config, present: &Present, at: ItemRef, ready: &[bool], mature: &[bool]) -> Vec<bool> {
    let spec = &config.systems[at.system];
    let item = &spec.items[at.item];
    let nothing = Known::default();
    let known = present.items.get(&item.id).unwrap_or(&nothing);
    if known.unclean {
        return vec![false; ready.len()];
    }
    let look = Look {
        checked: !spec.checks.is_empty() || !item.checks.is_empty(),
        keep: item.when_all_fail == WhenAllFail::Keep,
        fitness: &|server| known.unfit.get(&server).copied().unwrap_or_default(),
        failing: &|server| known.failing.contains(&server),
        holds: &|server| known.holds.contains(&server),
    };
    let hooks = || (0..mature.len()).map(|server| mature[server] && !known.failing.contains(&server));
    look.fit(ready, mature).unwrap_or_else(|| hooks().collect())
}

fn apply(
    one: &WhatIf,
    config: &mut Config,
    present: &mut Present,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let find = |id: &str| {
        config.servers.iter().position(|server| server.id == id).ok_or_else(|| {
            let known: Vec<_> = config.servers.iter().map(|server| server.id.as_str()).collect();
            format!("there is no server {id}; the servers are {}", known.join(", "))
        })
    };
    match one {
        WhatIf::Down(id) => {
            let server = find(id)?;
            if !present.servers[server].live {
                notes.push(format!("{id} is not there now"));
            }
            present.servers[server].live = false;
            forget(present, server);
        }
        WhatIf::Up(id) => {
            let server = find(id)?;
            if present.servers[server].live {
                notes.push(format!("{id} is there now"));
            } else {
                // A new life: nothing is held against it but an operator's word.
                forget(present, server);
                let drained = present.servers[server].drained;
                present.servers[server] = Standing { drained, ..Standing::WELL };
                if drained {
                    notes.push(format!("{id} is drained: it gets nothing until flip undrain {id}"));
                }
            }
        }
        WhatIf::Drain(id) => present.servers[find(id)?].drained = true,
        WhatIf::Undrain(id) => present.servers[find(id)?].drained = false,
        WhatIf::AddItem { system, name } => {
            let Some(spec) = config.systems.iter_mut().find(|spec| spec.name == *system) else {
                let known: Vec<_> = config.systems.iter().map(|spec| spec.name.as_str()).collect();
                return Err(format!("there is no system {system}; the systems are {}", known.join(", ")));
            };
            if spec.items.iter().any(|item| item.is_called(name)) {
                return Err(format!("{name} is an item of {system} already"));
            }
            let like = spec.items.last().map_or(Isolated::default(), |item| item.isolated);
            spec.items.push(Item { isolated: like, ..Item::plain(system, name) });
        }
    }
    Ok(())
}

/// What a server said of items is void with its life.
fn forget(present: &mut Present, server: usize) {
    for known in present.items.values_mut() {
        known.unfit.remove(&server);
        known.failing.remove(&server);
        known.holds.remove(&server);
    }
}

fn quorum(config: &Config, present: &Present) -> QuorumAfter {
    let live = |voter: &&usize| present.servers.get(**voter).is_none_or(|server| server.live);
    let live_voters = config.voters.iter().filter(live).count();
    QuorumAfter { live_voters, needed: config.quorum, seen: live_voters >= config.quorum }
}

/// What becomes of an item where nobody can agree on anything.
fn without_quorum(item: &Item, was: &Holders, placed: &Holders, after: &Present) -> Holders {
    match item.isolated {
        Isolated::Keep => was.iter().copied().filter(|server| after.servers[*server].live).collect(),
        Isolated::Take => placed.clone(),
        Isolated::Drop => Holders::new(),
    }
}
