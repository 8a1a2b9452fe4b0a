//! How many of everything: cheap to ask, because whoever collects metrics asks often.

use std::collections::BTreeMap;

use super::Node;
use crate::event::ItemState;
use crate::id::ItemId;
use crate::status::MemberState;
use crate::time::Time;
use crate::view::Life;

/// How many of everything there are, as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// By server, in listed order: what is believed of it.
    pub members: Vec<MemberState>,
    /// By server, in listed order: how many items are in which state there; standby is not counted.
    pub items: Vec<BTreeMap<ItemState, usize>>,
    /// All items of the config.
    pub all_items: usize,
    /// Items that nobody who is up says to hold.
    pub unheld: usize,
    /// Items that more than one server who is up says to hold, though one should.
    pub held_twice: usize,
    /// Items that may still be where they should not be.
    pub unclean: usize,
    /// Open cases.
    pub cases: usize,
    /// Ballots that stand in them.
    pub ballots: usize,
    /// Servers that are drained.
    pub drained: usize,
    /// Members that run another config.
    pub config_differs: usize,
    /// Leases that this node has.
    pub leases: usize,
}

impl Node {
    /// What this node believes of a server.
    #[must_use]
    pub fn member_state(&self, server: usize) -> MemberState {
        match self.view.get(server).life {
            Life::Unknown => MemberState::Unknown,
            // One lost ping is no suspicion; a window without an answer is.
            Life::Up if self.cases.get(&server).is_some_and(super::cases::Case::silent) => {
                MemberState::Suspect
            }
            Life::Up => MemberState::Up,
            Life::Down => MemberState::Down,
            Life::Left => MemberState::Left,
        }
    }

    /// How many of everything there are.
    #[must_use]
    pub fn census(&self, now: Time) -> Census {
        let servers = 0..self.config.servers.len();
        // Of each server in order, so that sorting them all is quick.
        let mut active = Vec::new();
        let mut items = Vec::new();
        for server in servers.clone() {
            let mut states = BTreeMap::<_, usize>::new();
            let mut add = |item, state| {
                *states.entry(state).or_default() += 1;
                if state == ItemState::Active {
                    active.push(item);
                }
            };
            if server == self.config.me {
                self.items.states_held(&self.config).for_each(|(item, state)| add(item, state));
            } else if self.view.is_up(server) {
                let stated = self.facts.of(server);
                if stated.generation == self.view.get(server).generation {
                    stated.held.iter().for_each(|(item, (state, _))| add(*item, *state));
                }
            }
            items.push(states);
        }
        active.sort();
        let twice: Vec<ItemId> =
            active.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        let is_in = |item: ItemId, list: &[ItemId]| list.binary_search(&item).is_ok();
        let mut census = Census {
            members: servers.clone().map(|server| self.member_state(server)).collect(),
            items,
            cases: self.cases.len(),
            ballots: self.cases.keys().map(|server| self.standing(*server, now).len()).sum(),
            drained: servers.filter(|server| self.is_drained(*server)).count(),
            config_differs: self.differs.len(),
            leases: self.leases.held(),
            ..Census::default()
        };
        for at in self.item_refs() {
            let item = self.item_id(at);
            let everywhere = self.config.systems[at.system].kind == crate::config::SystemKind::Replicate;
            census.all_items += 1;
            census.unheld += usize::from(!is_in(item, &active));
            census.held_twice += usize::from(!everywhere && is_in(item, &twice));
            census.unclean += usize::from(self.unclean_on(item).is_some());
        }
        census
    }
}
