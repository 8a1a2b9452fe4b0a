//! The ip system as the rest of flip sees it: its handler, and its hooks.

use std::future::ready;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use flip_core::Lifetime;
use flip_core::config::{Config, HANDLERS, Item, Notify};
use flip_core::event::Reason;

use super::announcer::{Outside, Voice};
use super::arrival::LIMIT;
use super::connections;
use super::item::Holdings;
use super::{World, address};
use crate::bus::topic;
use crate::system::{
    Assigned, Bus, Context, Drift, Handler, HookFuture, ObserveFuture, OpenError, Opened, System,
};

/// How long ending connections may keep an address from leaving.
const KILL: Duration = Duration::from_secs(1);

/// The handler of `ip_up` and `ip_down`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ip;

impl Handler for Ip {
    fn alive(&self) -> &str {
        "ip_up"
    }

    fn down(&self) -> &str {
        "ip_down"
    }

    fn open(
        &self,
        systems: &[Assigned<'_>],
        drift: &Arc<Drift>,
        bus: &Arc<Bus>,
    ) -> Result<Opened, OpenError> {
        let mut holdings = Holdings::default();
        let mut settings = None;
        let mark = address::mark(systems.first().map_or(0, |assigned| assigned.siblings));
        for assigned in systems {
            holdings.push_system(assigned, mark)?;
            let notify = Notify::read(&assigned.system.config);
            settings = Some(settings.map_or(notify.clone(), |all: Notify| all.together(&notify)));
        }
        let present = bus.world.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let (world, leftovers, places) = match present {
            // The node is at work, and these have come into its config.
            Some(world) => {
                let places = world.extend(holdings)?;
                (world, Vec::new(), places)
            }
            None => {
                // What no config knows belongs to no system: one that wants order here is enough.
                let remove = systems.iter().any(|assigned| assigned.system.hooks.remove_on_start);
                let peers = systems.first().map_or_else(Vec::new, |one| peers(one.config, bus));
                let outside = Outside::new(Some(Arc::clone(bus)), peers);
                let voice = Voice::new(settings.unwrap_or_default());
                let places = 0..holdings.items.len();
                let (world, leftovers) =
                    World::open((holdings, mark, voice), remove, Arc::clone(drift), outside)?;
                *bus.world.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&world);
                (world, leftovers, places.collect())
            }
        };
        let mut places = places.into_iter();
        let make = |assigned: &Assigned<'_>| {
            let items = places.by_ref().take(assigned.system.items.len()).collect();
            Arc::new(IpSystem::new(Arc::clone(&world), items, assigned)) as Arc<dyn System>
        };
        Ok(Opened { systems: systems.iter().map(make).collect(), leftovers })
    }
}

/// The numbers of the other servers that have ip systems with this one, beginning with the one after this one in the
/// list: so servers do not all ask the same.
pub(super) fn peers(config: &Config, bus: &Bus) -> Vec<usize> {
    let shared = |system: &usize| {
        let is_ip = config.systems.get(*system).is_some_and(|spec| spec.alive == HANDLERS[0].0);
        is_ip && config.my().systems.contains(system)
    };
    let others = (config.me + 1..config.servers.len()).chain(0..config.me.min(config.servers.len()));
    let own = |server: &usize| config.servers[*server].systems.iter().any(shared);
    others.filter(own).map(|server| bus.number(server)).collect()
}

struct IpSystem {
    world: Arc<World>,
    /// Where its items are in the world's list.
    items: Vec<usize>,
    /// Its number among all that this world ever had.
    id: u64,
}

impl IpSystem {
    fn new(world: Arc<World>, items: Vec<usize>, assigned: &Assigned<'_>) -> Self {
        let id = world.join();
        let all: Vec<_> = assigned.system.items.iter().collect();
        world.want(id, connections::wanted(assigned.system, &all));
        world.tune(id, Notify::read(&assigned.system.config));
        Self { world, items, id }
    }

    /// An item in the world's list.
    fn find(&self, item: usize) -> Option<(Arc<World>, usize)> {
        Some((Arc::clone(&self.world), *self.items.get(item)?))
    }
}

impl Drop for IpSystem {
    fn drop(&mut self) {
        self.world.leave(self.id);
    }
}

fn no_item(item: usize) -> HookFuture {
    Box::pin(ready(Err(format!("no item {item}"))))
}

impl System for IpSystem {
    fn alive(&self, item: usize, context: &Context) -> HookFuture {
        let (lifetime, reason, timeout) = (context.lifetime, context.reason, context.timeout);
        let Some((world, item)) = self.find(item) else { return no_item(item) };
        Box::pin(async move {
            // It may be coming back while its link is still going.
            world.unlinked(item).await;
            world.ask_first(item, reason).await?;
            let result = match world.bring(item, lifetime) {
                Ok(Some(arrival)) => world.arrive(arrival, LIMIT.min(timeout / 2)).await,
                brought => brought.map(drop),
            };
            if result.is_err() {
                world.unlinked(item).await;
            } else {
                world.ask_beside(item, reason);
            }
            result
        })
    }

    fn refresh(&self, items: &[usize], lifetime: Lifetime) -> Vec<usize> {
        let places: Vec<_> = items.iter().filter_map(|item| self.items.get(*item).copied()).collect();
        let gone = self.world.refresh(&places, lifetime);
        let is_gone = |item: &usize| self.items.get(*item).is_none_or(|at| gone.contains(at));
        items.iter().copied().filter(is_gone).collect()
    }

    fn down(&self, item: usize, context: &Context) -> HookFuture {
        let Some((world, item)) = self.find(item) else { return no_item(item) };
        let kill = world.connections.get().cloned().map(|connections| {
            let addresses = connections.to_kill(world.lock().addresses_of(item));
            (connections, addresses)
        });
        // A lease ends when it ends: nothing comes before.
        let before = (context.reason != Reason::LeaseLost).then(|| KILL.min(context.timeout / 2));
        Box::pin(async move {
            if let (Some((connections, addresses)), Some(limit)) = (&kill, before) {
                connections.kill(addresses.clone(), limit).await;
            }
            let result = world.down(item);
            world.unlinked(item).await;
            if let Some((connections, addresses)) = kill {
                // What came meanwhile. The address is gone, and nobody waits for this.
                tokio::spawn(async move { connections.kill(addresses, KILL).await });
            }
            result
        })
    }

    fn announce(&self, item: usize, _: &Context) -> HookFuture {
        let Some((world, item)) = self.find(item) else { return no_item(item) };
        Box::pin(async move { world.announce(item) })
    }

    fn hush(&self, item: usize) {
        if let Some((world, item)) = self.find(item) {
            let mut state = world.lock();
            state.stop_announcing(item);
            world.leaves(&state, item);
        }
    }

    fn forget(&self, item: usize) {
        if let Some((world, item)) = self.find(item) {
            world.vacate(item);
        }
    }

    fn configure(&self, assigned: &Assigned<'_>, items: &[(usize, &Item)]) {
        let configured: Vec<_> = items.iter().map(|(_, item)| *item).collect();
        self.world.want(self.id, connections::wanted(assigned.system, &configured));
        self.world.tune(self.id, Notify::read(&assigned.system.config));
        let places = items.iter().filter_map(|(at, item)| Some((*self.items.get(*at)?, *item)));
        self.world.configure(assigned, places);
    }

    fn heard(&self, from: usize, topic: u8, data: &[u8]) {
        // All systems hear it, and share what they know: the first hears for all.
        if !self.world.is_first(self.id) {
            return;
        }
        match topic {
            topic::MACS => self.world.member_says(from, data),
            topic::CONNECTIONS => {
                if let Some(connections) = self.world.connections.get() {
                    connections.heard(from, data);
                }
            }
            _ => self.world.heard(from, topic, data),
        }
    }

    fn observe(&self) -> ObserveFuture {
        let (world, items) = (Arc::clone(&self.world), self.items.clone());
        Box::pin(async move {
            let present = world.observe(&items)?;
            Ok((0..items.len()).filter(|item| present[*item]).collect())
        })
    }
}
