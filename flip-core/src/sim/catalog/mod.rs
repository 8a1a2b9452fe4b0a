//! Clusters with a replicated catalog: what operators ask for, disks that take time, tear, fill and get lost, and
//! what becomes of it all (P9).

mod disk;
mod draw;
mod judge;
mod operator;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::world::World;
use crate::catalog::{Key, Record};
use crate::config::Config;
use crate::time::Time;

use disk::Shelf;
use judge::Acknowledged;
use operator::Asked;
use text::Pool;

pub(super) use draw::draw;

/// How the catalogs of a plan are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// Microseconds that a write takes, from and to.
    pub write_us: (u64, u64),
}

/// One of the edits that are asked for together. Items are counted around in the list of all that there ever are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// An item is this from now on, whether it was there or not.
    Set {
        /// Which.
        item: usize,
        /// What tells this from all else that is ever said of it. Zero is for all items the same, so that two that
        /// have it make no config.
        to: u32,
    },
    /// An item is no more.
    Remove {
        /// Which.
        item: usize,
    },
    /// An item gets another home.
    Move {
        /// Which.
        item: usize,
        /// The number of a host, counted around.
        to: usize,
    },
    /// What no config can have.
    Wrong,
}

/// What the world knows of catalogs.
pub(super) struct Catalogs {
    plan: Plan,
    write: (Duration, Duration),
    pool: Pool,
    /// By host.
    shelves: Vec<Shelf>,
    /// What was asked for and is not answered, by asker.
    asked: BTreeMap<u64, Asked>,
    /// Numbers askers, and what operators make up themselves.
    next: u64,
    /// All that anybody ever said of a key.
    made: BTreeMap<Key, Vec<Record>>,
    /// What was refused, by what it would have said.
    refused: BTreeSet<String>,
    acknowledged: Vec<Acknowledged>,
    /// Config files that were taken: where, of which version, when.
    files: Vec<(usize, u64, Time)>,
    /// Disks that were lost: whose, and when.
    lost: Vec<(usize, Time)>,
    /// Somebody has asked for something, or changed a file.
    touched: bool,
    /// Since when an operator sees that something has to be done at a host.
    trouble: BTreeMap<usize, Time>,
    /// The highest version that a file had.
    version: u64,
}

/// The first asker of an edit; those below belong to other operators.
const FIRST_ASKER: u64 = 1_000;

impl World {
    /// Every host gets a catalog, and its disk nothing yet.
    pub(super) fn give_catalogs(&mut self, plan: &Plan) {
        let Some(disks) = plan.catalog else { return };
        let pool = Pool::of(plan);
        let us = Duration::from_micros;
        let shelves = (0..self.hosts.len()).map(|me| Shelf::new(pool.first_file(plan, me)));
        self.catalogs = Some(Box::new(Catalogs {
            write: (us(disks.write_us.0), us(disks.write_us.1)),
            shelves: shelves.collect(),
            pool,
            plan: plan.clone(),
            asked: BTreeMap::new(),
            next: FIRST_ASKER,
            made: BTreeMap::new(),
            refused: BTreeSet::new(),
            acknowledged: Vec::new(),
            files: Vec::new(),
            lost: Vec::new(),
            touched: false,
            trouble: BTreeMap::new(),
            version: 1,
        }));
    }

    /// Whether somebody has asked for a change of a catalog.
    pub(super) fn has_edited(&self) -> bool {
        self.catalogs.as_ref().is_some_and(|catalogs| catalogs.touched)
    }

    /// Whether daemons that run have different configs now, as they do while a change spreads and where two files
    /// of one version differ.
    pub(super) fn configs_differ(&self) -> bool {
        if self.catalogs.is_none() {
            return false;
        }
        let mut contents =
            self.hosts.iter().filter_map(|host| host.node.as_ref()).map(|node| node.config().content_hash());
        let first = contents.next();
        contents.any(|content| Some(content) != first)
    }
}

/// The config with which all hosts of a plan begin, and one that has all items that there ever are.
pub(super) fn configs(plan: &Plan) -> (Config, Config) {
    let pool = Pool::of(plan);
    (text::load(&pool.first_file(plan, 0).text(&pool, plan)), text::load(&pool.universe(plan)))
}
