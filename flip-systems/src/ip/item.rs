//! What the config gives to this server: items, and the addresses that each is made of.

use std::ops::Range;
use std::sync::Arc;

use flip_core::config::{
    Announce, Interface, IpPart, IpRoute, IpRule, Isolated, Item, Notify, System, SystemKind,
};
use flip_core::id::ItemRef;
use ipnet::IpNet;

use super::address::Manner;
use super::lifetime::Installed;
use super::others::Rules;
use super::own::OwnLink;
use super::plan::Wanted;
use crate::system::{Assigned, OpenError};

/// What the config gives to this server.
#[derive(Default)]
pub(super) struct Holdings {
    pub(super) items: Vec<Held>,
    pub(super) parts: Vec<Part>,
    /// By item.
    pub(super) rules: Vec<Rules>,
}

impl Holdings {
    /// False for an item without addresses.
    pub(super) fn push(
        &mut self,
        at: ItemRef,
        item: &Item,
        mark: u8,
        voice: (Announce, Arc<Notify>, bool),
    ) -> bool {
        let Some(ip) = &item.ip else { return false };
        let first = self.parts.len();
        for part in &ip.parts {
            // One link for all addresses of the item on one interface.
            let nth = ip.parts.iter().position(|other| other.interface == part.interface).unwrap_or(0);
            let own = part.mac.map(|mac| OwnLink::new(item.id, nth, mark, mac));
            self.parts.push(Part { own, ..Part::new(part) });
        }
        self.items.push(Held::new(at, &item.name, first..self.parts.len(), voice));
        true
    }

    /// All items of a system.
    pub(super) fn push_system(&mut self, assigned: &Assigned<'_>, mark: u8) -> Result<(), OpenError> {
        let manner = Voices::read(assigned.system);
        for (item, configured) in assigned.system.items.iter().enumerate() {
            self.rules.push(Rules::read(assigned.system, configured.isolated == Isolated::Drop)?);
            let at = ItemRef { system: assigned.position, item };
            if !self.push(at, configured, mark, manner.of(configured)) {
                return Err(OpenError::Item {
                    system: assigned.system.name.clone(),
                    item: configured.name.clone(),
                    what: "addresses (`Item::ip`)",
                });
            }
        }
        Ok(())
    }

    /// Whether an address comes with routes or rules.
    pub(super) fn has_routes(&self) -> bool {
        self.parts.iter().any(|part| !part.routes.is_empty() || !part.rules.is_empty())
    }
}

/// How the items of a system are announced.
pub(super) struct Voices {
    schedule: Announce,
    notify: Arc<Notify>,
    proven: bool,
}

impl Voices {
    pub(super) fn read(system: &System) -> Self {
        Self {
            schedule: Announce::read(&system.config, &Announce::default()),
            notify: Arc::new(Notify::read(&system.config)),
            proven: system.kind == SystemKind::Shard,
        }
    }

    pub(super) fn of(&self, item: &Item) -> (Announce, Arc<Notify>, bool) {
        let schedule = match &item.own {
            Some(own) => Announce::read(own, &self.schedule),
            None => self.schedule.clone(),
        };
        (schedule, Arc::clone(&self.notify), self.proven)
    }
}

/// An item.
pub(super) struct Held {
    pub(super) at: ItemRef,
    pub(super) name: String,
    /// Where its addresses are in the list of parts.
    pub(super) parts: Range<usize>,
    /// Whether the kernel has all of it, as far as is known.
    pub(super) present: bool,
    /// Why it cannot be reached here, as was told last.
    pub(super) trouble: Option<String>,
    /// When it is announced.
    pub(super) announce: Announce,
    /// To whom each.
    pub(super) notify: Arc<Notify>,
    /// Whether this server alone has it, so that another can prove it.
    pub(super) proven: bool,
    /// It is served no more: its place is free.
    pub(super) vacant: bool,
}

impl Held {
    pub(super) fn new(
        at: ItemRef,
        name: &str,
        parts: Range<usize>,
        (announce, notify, proven): (Announce, Arc<Notify>, bool),
    ) -> Self {
        let name = name.to_owned();
        Self { at, name, parts, present: false, trouble: None, announce, notify, proven, vacant: false }
    }
}

/// One address of an item.
pub(super) struct Part {
    pub(super) net: IpNet,
    pub(super) interface: Interface,
    pub(super) manner: Manner,
    /// The link that is made for it.
    pub(super) own: Option<OwnLink>,
    pub(super) routes: Vec<IpRoute>,
    pub(super) rules: Vec<IpRule>,
    /// Whether the kernel has it, as far as is known.
    pub(super) present: bool,
    /// What `alive` put there or `observe` found: what a refresh may go on with.
    pub(super) installed: Option<Installed>,
}

impl Part {
    pub(super) fn new(part: &IpPart) -> Self {
        Self {
            net: part.net,
            interface: part.interface.clone(),
            manner: Manner { scope: part.scope, noprefixroute: part.noprefixroute },
            own: None,
            routes: part.routes.clone(),
            rules: part.rules.clone(),
            present: false,
            installed: None,
        }
    }

    pub(super) fn wanted(&self) -> Wanted<'_> {
        let at = self.installed.map(|installed| installed.index());
        Wanted { net: self.net, interface: &self.interface, at, own: self.own.as_ref() }
    }

    /// Whether the time that it was given is over.
    pub(super) fn is_over(&self) -> bool {
        self.installed.is_some_and(|installed| installed.is_over())
    }
}
