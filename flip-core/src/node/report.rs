//! The status: the node's view as a plain picture.

use super::Node;
use super::health::Report;
use crate::config::Isolated;
use crate::event::ItemState;
use crate::facts::Fitness;
use crate::id::{ItemRef, ShortId};
use crate::status::{
    CaseStatus, CheckHealth, CheckStatus, HolderStatus, ItemStatus, MemberState, MemberStatus, Status,
};
use crate::time::Time;

impl Node {
    pub(super) fn report(&self, now: Time) -> Status {
        let named = &self.config.servers[..self.config.named_servers()];
        let ids: Vec<ShortId> = named.iter().map(|server| server.short).collect();
        let servers = 0..self.config.servers.len();
        Status {
            node: self.config.my().id.clone(),
            generation: self.generation,
            view: format!("{:016x}", self.view.id(&ids)),
            quorum: self.config.quorum,
            live: servers.clone().filter(|server| self.view.is_up(*server)).count(),
            has_quorum: self.has_quorum,
            members: servers.map(|server| self.member_status(server, now)).collect(),
            items: self.item_refs().map(|at| self.item_status(at, now)).collect(),
            refused: self.refused.counts(),
            hints: self.hints(now),
            keys: self.key_status(),
            catalog: self.catalog_status(),
            privileges: None,
            sent_datagrams: self.sent.0,
            sent_bytes: self.sent.1,
        }
    }

    pub(super) fn item_refs(&self) -> impl Iterator<Item = ItemRef> {
        self.config
            .systems
            .iter()
            .enumerate()
            .flat_map(|(system, spec)| (0..spec.items.len()).map(move |item| ItemRef { system, item }))
    }

    fn member_status(&self, server: usize, now: Time) -> MemberStatus {
        let spec = &self.config.servers[server];
        let record = self.view.get(server);
        let case = self.cases.get(&server).map(|case| CaseStatus {
            cause: format!("{:?}", case.cause()),
            since_ms: millis(now, case.opened()),
            down_ballots: self
                .standing(server, now)
                .into_iter()
                .map(|(voter, _)| self.config.servers[voter].id.clone())
                .collect(),
            quorum: self.config.quorum,
        });
        let state = self.member_state(server);
        MemberStatus {
            id: spec.id.clone(),
            address: spec.addr.to_string(),
            state,
            is_self: server == self.config.me,
            arbiter: spec.systems.is_empty(),
            priority: (spec.priority < u64::MAX).then_some(spec.priority),
            generation: record.generation,
            since_ms: millis(now, record.since),
            loss: self.pings.loss(server),
            rtt_us: self
                .pings
                .round_trip(server)
                .map(|took| u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            case,
            retired: spec.retired,
            config_differs: self.differs.contains(&server),
            drained: self.is_drained(server),
            inactive: self.inactive_reasons(server),
            facts: self.told_facts(server),
            immature_ms: (state == MemberState::Up)
                .then(|| millis(self.mature_at(server, now), now))
                .filter(|left| *left > 0),
        }
    }

    pub(super) fn item_status(&self, at: ItemRef, now: Time) -> ItemStatus {
        let system = &self.config.systems[at.system];
        let id = system.items[at.item].id;
        let name = |server: usize| self.config.servers[server].id.clone();
        let mut holders = Vec::new();
        for server in 0..self.config.servers.len() {
            let stated = if server == self.config.me {
                Some(self.item_state(at))
            } else {
                self.stated(server, id).filter(|_| self.view.is_up(server))
            };
            let Some((state, since)) = stated else { continue };
            if state != ItemState::Standby {
                holders.push(HolderStatus { server: name(server), state, since_ms: millis(now, since) });
            }
        }
        let policy = self.isolated(at);
        let word = Isolated::NAMES.iter().find(|(_, known)| *known == policy).map_or("", |(word, _)| word);
        ItemStatus {
            system: system.name.clone(),
            item: system.items[at.item].name.clone(),
            addresses: system.items[at.item].addresses(),
            prefer: system.items[at.item].prefer.map(name),
            isolated: word.to_owned(),
            lease_ms: self.lease_deadline(at).map(|deadline| millis(deadline, now)),
            unclean_on: self.unclean_on(id).map(name),
            retired: system.items[at.item].retired,
            link: self.takes_part(at).then(|| self.link_state(at)),
            checks: self.check_status(at, now),
            unhealthy_on: self.unhealthy_on(at).map(name).collect(),
            failure: self.items.failure(at, now),
            unusable: self.unusable_status(at, now),
            announced: self.announced(at, now),
            wanted: self.wanted(at).iter().map(|server| name(*server)).collect(),
            holders,
        }
    }
}

impl Node {
    pub(super) fn check_status(&self, at: ItemRef, now: Time) -> Vec<CheckStatus> {
        let status = |check: Report<'_>| CheckStatus {
            check: check.spec.kind.to_string(),
            health: match check.state {
                Fitness::Fit => CheckHealth::Healthy,
                Fitness::Young | Fitness::Unproven => CheckHealth::Unproven,
                Fitness::Unhealthy => CheckHealth::Unhealthy,
            },
            since_ms: millis(now, check.since),
            failures: check.failures,
            error: check.error.map(|(text, _)| text.clone()),
            error_ms: check.error.map(|(_, at)| millis(now, *at)),
        };
        self.health_of(at).map(status).collect()
    }

    fn takes_part(&self, at: ItemRef) -> bool {
        self.config.my().systems.contains(&at.system)
    }

    fn unhealthy_on(&self, at: ItemRef) -> impl Iterator<Item = usize> {
        (0..self.config.servers.len()).filter(move |server| {
            let up = *server == self.config.me || self.view.is_up(*server);
            up && self.fitness_on(*server, at) == Fitness::Unhealthy
        })
    }
}

fn millis(now: Time, then: Time) -> u64 {
    u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX)
}
