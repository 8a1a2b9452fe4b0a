//! Announcing what is here: on an operator's word, and what others say of it.

use super::super::Node;
use crate::config::Release;
use crate::event::{Event, ItemState};
use crate::id::ItemRef;
use crate::io::Answered;
use crate::status::AnnouncedStatus;
use crate::time::Time;
use crate::translation::Translation;

/// What a member said last of an item that was announced here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    by: usize,
    answered: Answered,
    at: Time,
}

impl Proof {
    pub(super) fn translate(self, to: &Translation) -> Option<Self> {
        Some(Self { by: to.server(self.by)?, ..self })
    }
}

impl Node {
    /// An operator's word: the neighbours are to be told again of one item that is here, or of all.
    pub(in crate::node) fn announce_command(&mut self, name: Option<&str>) -> Result<String, String> {
        let named = |at: &ItemRef| {
            name.is_none_or(|name| self.config.systems[at.system].items[at.item].is_called(name))
        };
        let found: Vec<_> = self.items.each().filter(named).collect();
        let here: Vec<_> =
            found.iter().copied().filter(|at| self.items.at(*at).state == ItemState::Active).collect();
        let me = self.config.my().id.clone();
        match name {
            Some(name) if found.is_empty() => {
                return Err(format!("there is no item {name}; `flip status` lists them"));
            }
            Some(name) if here.is_empty() => return Err(self.announced_elsewhere(name, &found)),
            _ => {}
        }
        for at in &here {
            let item = self.items.at_mut(*at);
            item.announce = true;
            item.unannounced = (0, None);
            self.items.queue.look_at(*at);
        }
        Ok(match name {
            Some(name) => format!("{name} is announced again by {me}"),
            None => format!("{me} announces {} items again", here.len()),
        })
    }

    fn announced_elsewhere(&self, name: &str, found: &[ItemRef]) -> String {
        let me = &self.config.my().id;
        let holds = |server: &usize| {
            self.view.is_up(*server)
                && found.iter().any(|at| {
                    let id = self.config.systems[at.system].items[at.item].id;
                    self.says(*server, id, ItemState::Active)
                })
        };
        let holders: Vec<_> =
            self.others().filter(holds).map(|server| self.config.servers[server].id.as_str()).collect();
        if holders.is_empty() {
            format!("{name} is not on {me}, and no live server says that it holds it")
        } else {
            format!("{name} is not on {me} but on {}: run this there", holders.join(" and "))
        }
    }

    /// A member has looked who answers for an item that is here.
    pub(in crate::node) fn on_confirmed_by(&mut self, at: ItemRef, by: usize, answered: Answered, now: Time) {
        let known = self.config.systems.get(at.system).is_some_and(|system| at.item < system.items.len())
            && by < self.config.servers.len();
        if !known || self.items.at(at).state != ItemState::Active {
            return;
        }
        let before = self.items.at_mut(at).proof.replace(Proof { by, answered, at: now });
        let same = |before: Proof| before.answered == answered && before.by == by;
        match answered {
            Answered::Here if before.is_some_and(same) => {}
            Answered::Here => self.event(Event::Confirmed { item: at, by }),
            // Each time it is found, it is announced again.
            Answered::Other(mac) => self.event(Event::AnsweredByOther { item: at, by, mac }),
        }
    }

    /// How an item that is here is known outside; none where nothing is announced.
    pub(in crate::node) fn announced(&self, at: ItemRef, now: Time) -> Option<AnnouncedStatus> {
        let item = self.items.at(at);
        if item.state != ItemState::Active || self.config.systems[at.system].release != Release::Kernel {
            return None;
        }
        let by = |proof: Proof| Some(self.config.servers[proof.by].id.clone());
        let (mut status, proof) = (AnnouncedStatus::default(), item.proof);
        match proof.map(|proof| (proof, proof.answered)) {
            Some((proof, Answered::Here)) => status.confirmed_by = by(proof),
            Some((proof, Answered::Other(mac))) => {
                let digits: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                status.other = Some(digits.join(":"));
                status.seen_by = by(proof);
            }
            None => {}
        }
        status.since_ms =
            proof.map(|proof| u64::try_from(now.since(proof.at).as_millis()).unwrap_or(u64::MAX));
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::config::{Release, SystemKind};
    use crate::event::{Event, ItemState};
    use crate::id::ItemRef;
    use crate::io::{Answered, Command, HookAction, HookCall, Input, Output};
    use crate::node::{Node, Start};
    use crate::testing;
    use crate::time::Time;

    struct Alone {
        node: Node,
        now: Time,
        hooks: Vec<HookCall>,
        events: Vec<Event>,
        answers: Vec<Result<String, String>>,
    }

    impl Alone {
        /// A node that holds two addresses.
        fn new() -> Self {
            let mut config = testing::config("ab", "a");
            config.quorum = 1;
            config.systems[0].items = testing::items(2);
            config.systems[0].kind = SystemKind::Replicate;
            config.systems[0].release = Release::Kernel;
            let now = Time::from_millis(1000);
            let node = Node::new(Arc::new(config), Start { generation: 1, seed: [5; 32], keys: None }, now);
            let (hooks, events, answers) = (Vec::new(), Vec::new(), Vec::new());
            let mut alone = Self { node, now, hooks, events, answers };
            alone.feed(Input::Timeout);
            alone.end();
            alone
        }

        fn feed(&mut self, input: Input<'_>) {
            self.node.handle(input, self.now);
            while let Some(output) = self.node.poll_output() {
                match output {
                    Output::Hook(call) => self.hooks.push(call),
                    Output::Event(event) => self.events.push(event),
                    Output::Done { result, .. } => self.answers.push(result),
                    _ => {}
                }
            }
        }

        /// Ends all hooks well, and tells which they were.
        fn end(&mut self) -> Vec<(HookAction, usize)> {
            let mut ended = Vec::new();
            while let Some(call) = self.hooks.pop() {
                ended.push((call.action, call.item.item));
                self.feed(Input::HookDone { hook: call.id, result: Ok(()) });
            }
            ended.sort_by_key(|(_, item)| *item);
            ended
        }

        fn announce(&mut self, item: Option<&str>) -> Result<String, String> {
            let command = Command::Announce { item: item.map(str::to_owned) };
            self.feed(Input::Command { asker: 1, command });
            self.answers.pop().expect("an answer")
        }

        fn confirmed(&mut self, item: usize, answered: Answered) -> Vec<Event> {
            self.events.clear();
            self.feed(Input::Confirmed { item: ItemRef { system: 0, item }, by: 1, answered });
            std::mem::take(&mut self.events)
        }
    }

    #[test]
    fn what_is_here_is_announced_on_demand() {
        let mut alone = Alone::new();
        assert_eq!(alone.announce(Some("1")), Ok("1 is announced again by a".into()));
        assert_eq!(alone.end(), [(HookAction::Announce, 1)]);
        assert_eq!(alone.announce(None), Ok("a announces 2 items again".into()));
        assert_eq!(alone.end(), [(HookAction::Announce, 0), (HookAction::Announce, 1)]);
        assert!(alone.announce(Some("7")).unwrap_err().contains("no item 7"));
        alone.feed(Input::Leave);
        alone.end();
        let refused = alone.announce(Some("0")).unwrap_err();
        assert_eq!(refused, "0 is not on a, and no live server says that it holds it");
        assert_eq!(alone.announce(None), Ok("a announces 0 items again".into()));
        assert_eq!(alone.end(), []);
    }

    #[test]
    fn a_members_word_is_an_event_and_shown() {
        let mut alone = Alone::new();
        let shown = |alone: &Alone| alone.node.status(alone.now).items[0].announced.clone();
        let nothing = crate::status::AnnouncedStatus::default();
        assert_eq!(shown(&alone), Some(nothing));
        let item = ItemRef { system: 0, item: 0 };
        let mac = [2, 0, 0, 0, 0, 7];
        let events = alone.confirmed(0, Answered::Other(mac));
        assert_eq!(events, [Event::AnsweredByOther { item, by: 1, mac }]);
        assert_eq!(alone.confirmed(0, Answered::Other(mac)).len(), 1, "and again");
        let status = shown(&alone).unwrap();
        assert_eq!(status.other.as_deref(), Some("02:00:00:00:00:07"));
        assert_eq!((status.confirmed_by, status.seen_by.as_deref()), (None, Some("b")));
        assert_eq!(alone.confirmed(0, Answered::Here), [Event::Confirmed { item, by: 1 }]);
        assert_eq!(alone.confirmed(0, Answered::Here), [], "nothing new");
        assert_eq!(shown(&alone).unwrap().confirmed_by.as_deref(), Some("b"));
        // Words about what nobody knows, or by nobody, are passed over.
        alone.feed(Input::Confirmed {
            item: ItemRef { system: 9, item: 0 },
            by: 1,
            answered: Answered::Here,
        });
        alone.feed(Input::Confirmed { item, by: 99, answered: Answered::Here });
        // Announced again, it is to be proven again.
        alone.announce(Some("0")).unwrap();
        assert_eq!(shown(&alone).unwrap().confirmed_by, None);
        alone.end();
        alone.confirmed(0, Answered::Here);
        alone.feed(Input::Leave);
        assert_eq!(alone.end().len(), 2);
        assert_eq!(alone.node.item_state(item).0, ItemState::Standby);
        assert_eq!(alone.confirmed(0, Answered::Here), [], "it is not here any more");
        assert_eq!(shown(&alone), None);
    }
}
