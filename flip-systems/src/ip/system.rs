//! The ip system as the rest of flip sees it: its handler, and its hooks.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use flip_core::Lifetime;
use flip_core::config::{Announce, Isolated, Notify, SystemKind};
use flip_core::event::Reason;
use flip_core::id::ItemRef;

use super::announcer::{Outside, Voice};
use super::arrival::LIMIT;
use super::connections::{self, Connections};
use super::item::Holdings;
use super::others::Rules;
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
        let mut together = None;
        let mut starts = Vec::new();
        let mark = address::mark(systems.first().map_or(0, |assigned| assigned.siblings));
        for assigned in systems {
            starts.push(holdings.items.len());
            for item in &assigned.system.items {
                holdings.rules.push(Rules::read(assigned.system, item.isolated == Isolated::Drop)?);
            }
            let schedule = Announce::read(&assigned.system.config, &Announce::default());
            let notify = Arc::new(Notify::read(&assigned.system.config));
            together = Some(together.map_or((*notify).clone(), |all: Notify| all.together(&notify)));
            for (item, configured) in assigned.system.items.iter().enumerate() {
                let at = ItemRef { system: assigned.position, item };
                let schedule = match &configured.own {
                    Some(own) => Announce::read(own, &schedule),
                    None => schedule.clone(),
                };
                let proven = assigned.system.kind == SystemKind::Shard;
                if !holdings.push(at, configured, mark, (schedule, Arc::clone(&notify), proven)) {
                    return Err(OpenError::Item {
                        system: assigned.system.name.clone(),
                        item: configured.name.clone(),
                        what: "addresses (`Item::ip`)",
                    });
                }
            }
        }
        // What no config knows belongs to no system: one that wants order here is enough.
        let remove = systems.iter().any(|assigned| assigned.system.hooks.remove_on_start);
        let connections = Connections::open(connections::wanted(systems), Arc::clone(bus));
        let outside = Outside::new(Some(Arc::clone(bus)), peers(systems));
        let voice = Voice::new(together.unwrap_or_default());
        let beside = (connections, outside);
        let (world, leftovers) = World::open((holdings, mark, voice), remove, Arc::clone(drift), beside)?;
        let systems = starts
            .into_iter()
            .zip(systems)
            .map(|(first, assigned)| {
                let count = assigned.system.items.len();
                Arc::new(IpSystem { world: Arc::clone(&world), first, count }) as Arc<dyn System>
            })
            .collect();
        Ok(Opened { systems, leftovers })
    }
}

/// The other servers that take part in one of these systems, beginning with the one after this one in the list:
/// so servers do not all ask the same.
fn peers(systems: &[Assigned<'_>]) -> Vec<usize> {
    let Some(config) = systems.first().map(|assigned| assigned.config) else { return Vec::new() };
    let own = |server: &usize| {
        systems.iter().any(|assigned| config.servers[*server].systems.contains(&assigned.position))
    };
    (config.me + 1..config.servers.len()).chain(0..config.me).filter(own).collect()
}

struct IpSystem {
    world: Arc<World>,
    /// Where its items start in the world's list.
    first: usize,
    count: usize,
}

impl IpSystem {
    /// An item in the world's list.
    fn find(&self, item: usize) -> Option<(Arc<World>, usize)> {
        (item < self.count).then(|| (Arc::clone(&self.world), self.first + item))
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
        let items: Vec<_> = items.iter().map(|item| self.first + item).collect();
        self.world.refresh(&items, lifetime).into_iter().map(|item| item - self.first).collect()
    }

    fn down(&self, item: usize, context: &Context) -> HookFuture {
        let Some((world, item)) = self.find(item) else { return no_item(item) };
        let kill = world.connections.clone().map(|connections| {
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
        if item < self.count {
            let mut state = self.world.lock();
            state.stop_announcing(self.first + item);
            self.world.leaves(&state, self.first + item);
        }
    }

    fn heard(&self, from: usize, topic: u8, data: &[u8]) {
        // All systems hear it, and share what they know: the first hears for all.
        if self.first > 0 {
            return;
        }
        match topic {
            topic::MACS => self.world.member_says(from, data),
            topic::CONNECTIONS => {
                if let Some(connections) = &self.world.connections {
                    connections.heard(from, data);
                }
            }
            _ => self.world.heard(from, topic, data),
        }
    }

    fn observe(&self) -> ObserveFuture {
        let (world, first, count) = (Arc::clone(&self.world), self.first, self.count);
        Box::pin(async move {
            let present = world.observe(first..first + count)?;
            Ok((0..count).filter(|item| present[*item]).collect())
        })
    }
}
