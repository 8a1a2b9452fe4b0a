//! What follows from the kernel's notices.

use std::collections::BTreeSet;
use std::sync::Arc;

use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::{State, World, address};
use crate::interfaces::{Link, address_of};
use crate::netlink::messages;

impl World {
    /// Handles a datagram of notices.
    pub(super) fn kernel_says(self: &Arc<Self>, datagram: &[u8]) {
        let mut state = self.lock();
        let (mut look, mut ground) = (false, false);
        let mut fresh = Vec::new();
        let mut bare = BTreeSet::new();
        for message in messages(datagram) {
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            match message {
                RouteNetlinkMessage::NewLink(message) => {
                    let Some(link) = Link::from_message(&message) else { continue };
                    let old = state.links.insert(link.index, link.clone());
                    look |= old.as_ref().is_none_or(|old| old.name != link.name);
                    ground = true;
                    if let Some(old) = old.as_ref().filter(|old| old.name != link.name) {
                        state.leave_renamed(link.index, &old.name);
                    }
                    // The neighbours, or the switch between, know nothing of what was held while
                    // the link was down or had another address.
                    let works = |link: &Link| link.up && link.carrier;
                    if works(&link) && old.is_some_and(|old| !works(&old) || old.mac != link.mac) {
                        fresh.push(link.index);
                    }
                }
                RouteNetlinkMessage::DelLink(message) => {
                    if let Some(link) = Link::from_message(&message) {
                        state.links.remove(&link.index);
                        (look, ground) = (true, true);
                    }
                }
                RouteNetlinkMessage::NewAddress(message) => {
                    state.voice.notice(address_of(&message));
                    let failed = address::failed(&message);
                    look |=
                        failed || address_of(&message).is_some_and(|net| state.surprised(net.addr(), true));
                    ground |= state.chooses_links();
                    state.notice_sibling(&message);
                }
                RouteNetlinkMessage::DelAddress(message) => {
                    state.voice.notice(address_of(&message));
                    look |= address_of(&message).is_some_and(|net| state.surprised(net.addr(), false));
                    ground |= state.chooses_links();
                }
                RouteNetlinkMessage::DelRoute(message) => bare.extend(state.lost_route(&message)),
                RouteNetlinkMessage::DelRule(message) => bare.extend(state.lost_rule(&message)),
                _ => {}
            }
        }
        self.report_bare(&state, bare);
        if ground {
            self.tell_new_macs(&mut state);
            self.look_at_ground(&mut state);
        }
        if look {
            self.look(&mut state);
        }
        if fresh.is_empty() {
            return;
        }
        for item in 0..state.items.len() {
            let held = &state.items[item];
            let mut links = state.parts[held.parts.clone()].iter().filter_map(|part| state.link_of(part));
            if !held.present || !links.any(|link| fresh.contains(&link.index)) {
                continue;
            }
            let announcing = state.is_announcing(item);
            // They went with the link.
            if let Err(error) = state.add_routes(item) {
                tracing::warn!("{error}");
            }
            if announcing {
                self.start_announcing(&mut state, item);
            }
        }
    }

    /// Notices were lost: reads everything again.
    pub(super) fn resync(&self) {
        let mut state = self.lock();
        if let Err(error) = state.load_links() {
            tracing::warn!(%error, "cannot list the interfaces");
        }
        self.look_at_ground(&mut state);
        self.look(&mut state);
        let bare = state.lost_any();
        self.report_bare(&state, bare);
    }

    /// Items that lost a route or a rule are repaired like those that lost an address.
    fn report_bare(&self, state: &State, items: BTreeSet<usize>) {
        for item in items {
            self.drift.put(state.items[item].at, false);
        }
    }

    /// Compares what is known with what is there, and reports the differences.
    pub(super) fn look(&self, state: &mut State) {
        let bound = match state.bound() {
            Ok(bound) => bound,
            Err(error) => {
                tracing::warn!(%error, "cannot list the addresses");
                return;
            }
        };
        for (part, found) in state.found(&bound).into_iter().enumerate() {
            let part = &mut state.parts[part];
            part.present = found.is_some();
            part.installed = part.installed.filter(|_| part.present);
        }
        for item in 0..state.items.len() {
            let present = state.is_whole(item);
            if state.items[item].present != present {
                state.set_present(item, present);
                self.drift.put(state.items[item].at, present);
            }
        }
    }
}
