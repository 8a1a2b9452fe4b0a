//! Proof of takeover, done with sockets: what the modules `proof` and `look` decide. On both sides: the server that
//! announced an address and asks, and the one that looks who answers for it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use flip_core::{Answered, Time};

use super::announcer::is_link_local;
use super::listen::Ear;
use super::look::{self, Asker};
use super::proof::{self, Answer, Outcome};
use super::{State, World, announce};
use crate::bus::{Bus, Confirmed, topic};
use crate::clock;
use crate::interfaces::Mac;

/// How long a listener waits before it looks whether it is needed.
const LISTEN: Duration = Duration::from_secs(1);

impl World {
    /// Asks other servers who answers for what is announced here, where that is due.
    pub(super) fn ask(&self, state: &mut State, bus: &Bus, now: Time) {
        let up = |peer: &usize| state.voice.members.contains(peer);
        let members: Vec<_> = self.outside.peers().into_iter().filter(up).collect();
        let questions = state.voice.proofs.due(&members, now);
        for ((member, number), parts) in questions {
            let addresses: Vec<_> = parts.iter().map(|part| state.parts[*part].net.addr()).collect();
            for message in proof::question(number, &addresses) {
                bus.say(Some(member), topic::RESOLVE, message);
            }
        }
    }

    pub(super) fn reply(&self, bus: &Bus, found: Vec<(Asker, IpAddr, Answer)>) {
        let mut answers: BTreeMap<Asker, Vec<(IpAddr, Answer)>> = BTreeMap::new();
        for (asker, ip, answer) in found {
            answers.entry(asker).or_default().push((ip, answer));
        }
        for ((member, number), answers) in answers {
            for message in proof::reply(number, &answers) {
                bus.say(Some(member), topic::RESOLVED, message);
            }
        }
    }

    /// Another server wants to know who answers for addresses that it holds.
    pub(super) fn start_looking(
        self: &Arc<Self>,
        state: &mut State,
        asker: Asker,
        addresses: &[IpAddr],
        now: Time,
    ) {
        let mut found = Vec::new();
        for &ip in addresses {
            let here = state.parts.iter().find(|part| part.present && part.net.addr() == ip);
            if let Some(mac) = here.and_then(|part| state.link_of(part)?.mac) {
                found.push((asker, ip, Answer::Seen(vec![mac])));
                continue;
            }
            let from = state.reach(ip).filter(|_| self.listen(state, ip.is_ipv6()));
            let Some((index, mac, own)) = from else {
                found.push((asker, ip, Answer::Elsewhere));
                continue;
            };
            // Who asks for too much at once asks somebody else when this one is silent.
            state.voice.looks.start(ip, look::From { index, mac, ip: own }, asker, now);
        }
        if let Some(bus) = &self.outside.bus {
            self.reply(bus, found);
        }
        self.outside.bell.notify_one();
    }

    /// Another server has looked.
    pub(super) fn take_answer(
        self: &Arc<Self>,
        state: &mut State,
        from: usize,
        number: u32,
        ip: IpAddr,
        answer: &Answer,
        now: Time,
    ) {
        let announced =
            |part: &usize| state.parts[*part].net.addr() == ip && state.voice.is_announcing(*part);
        let all: Vec<_> = (0..state.parts.len()).filter(announced).collect();
        for part in all {
            let Some(ours) = state.link_of(&state.parts[part]).and_then(|link| link.mac) else { continue };
            let Some(outcome) = state.voice.proofs.answered(part, from, number, answer, ours, now) else {
                continue;
            };
            let item = state.item_of(part);
            let at = state.items[item].at;
            let tell = |answered| {
                if let Some(bus) = &self.outside.bus {
                    bus.confirm(Confirmed { item: at, by: from, answered });
                }
            };
            match outcome {
                Outcome::Confirmed => {
                    state.voice.confirmed.insert(part, from);
                    let mut rest = state.items[item].parts.clone();
                    // Those of links without neighbours are known to this host alone.
                    if rest.all(|part| {
                        !state.voice.is_announcing(part) || state.voice.confirmed.contains_key(&part)
                    }) {
                        tell(Answered::Here);
                    }
                }
                Outcome::Other { mac: Mac(mac), again } => {
                    state.voice.confirmed.remove(&part);
                    tell(Answered::Other(mac));
                    if again {
                        state.voice.pacer.start(part, state.items[item].announce.clone(), now);
                        self.speak(state, now);
                        self.wake(state, now);
                    }
                }
            }
        }
    }

    /// Makes sure that answers are heard. False when the kernel does not let it.
    fn listen(self: &Arc<Self>, state: &mut State, v6: bool) -> bool {
        let listens = &mut state.voice.listens[usize::from(v6)];
        if *listens {
            return true;
        }
        match Ear::for_answers(v6) {
            Ok(ear) => {
                tokio::spawn(listen(Arc::downgrade(self), ear, v6));
                *listens = true;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen for answers to ARP and NDP questions");
                false
            }
        }
    }

    /// A frame arrived. False when nobody waits for such frames any more.
    fn saw(&self, frame: &[u8], index: u32) {
        let (Some((ip, mac)), Some(to)) = (announce::told(frame), frame.first_chunk()) else { return };
        let mut state = self.lock();
        state.voice.looks.told((index, Mac(*to)), ip, mac, clock::now());
        self.outside.bell.notify_one();
    }

    /// Whether answers of this kind are awaited; if not, its listener ends.
    fn goes_on_listening(&self, v6: bool) -> bool {
        let mut state = self.lock();
        let goes_on = state.voice.looks.any(v6);
        state.voice.listens[usize::from(v6)] = goes_on;
        goes_on
    }
}

impl State {
    /// The interface on whose network an address is, with its hardware address and this host's own address there.
    fn reach(&mut self, ip: IpAddr) -> Option<(u32, Mac, IpAddr)> {
        let mut all: Vec<_> = self.networks().to_vec();
        all.retain(|(_, net)| net.contains(&ip) && !is_link_local(net.addr()));
        all.sort_by_key(|(_, net)| Reverse(net.prefix_len()));
        all.into_iter().find_map(|(index, net)| {
            let link = self.links.get(&index).filter(|link| link.up && link.carrier && link.announces())?;
            Some((index, link.mac?, net.addr()))
        })
    }
}

async fn listen(world: Weak<World>, ear: Ear, v6: bool) {
    let mut buffer = [0; 256];
    loop {
        let heard = tokio::time::timeout(LISTEN, ear.hear(&mut buffer)).await;
        let Some(world) = world.upgrade() else { return };
        match heard {
            Ok(Ok(Some((index, length)))) => world.saw(&buffer[..length], index),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot listen for answers");
                tokio::time::sleep(LISTEN).await;
            }
            Ok(Ok(None)) | Err(_) => {}
        }
        if !world.goes_on_listening(v6) {
            return;
        }
    }
}
