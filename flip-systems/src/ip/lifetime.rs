//! Putting addresses there, keeping them, and taking them away.
//!
//! An address may have a lifetime after which the kernel removes it by itself, at most 1.25 s late
//! (`check_lifetime` in net/ipv4/devinet.c, `addrconf_verify_rtnl` in net/ipv6/addrconf.c). So a daemon
//! that is killed, stopped or wedged loses what it does not refresh. The time that it may have is given in
//! [`Lifetime`], and three things are looked at here each time:
//!
//! - The clock, before and after the system call (rule R6 b): a process can be stopped between reading it
//!   and asking the kernel.
//! - When the kernel made the address (rule R6 a). It cannot be asked to change an address only if it is
//!   there: a refresh that comes too late would bring back what is gone, and perhaps lives elsewhere. It
//!   tells that by another `cstamp`, and the address is taken away again.
//! - Whether the address is one that this daemon knows of. What somebody else put there meanwhile is not
//!   refreshed.
//!
//! Nothing is announced before all three were looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::Duration;

use flip_core::config::{Interface, Scope};
use flip_core::{Lifetime, Time};
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressMessage;
use rustix::io::Errno;

use super::address::{self, Bound, Maker};
use super::plan::{self, Step};
use super::{Part, State};
use crate::clock;
use crate::interfaces::missing;
use crate::netlink::BATCH;
use crate::system::capability_missing;

/// How many rounds of deleting and looking are made while somebody keeps adding.
const DELETE_ROUNDS: usize = 5;

/// At most one log line about failing refreshes in this time.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// An address that is there with the knowledge of whoever decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Installed {
    /// With the prefix that it really has.
    net: IpNet,
    index: u32,
    /// See [`Bound::born`].
    born: u32,
    /// When its lifetime ends, if it does: the kernel takes it away then or a little later.
    ends: Option<Time>,
    /// Another daemon on this host has taken it over: it is not ours to refresh, and not gone.
    sibling: bool,
}

impl Installed {
    /// With the prefix that it has.
    pub(super) fn net(&self) -> IpNet {
        self.net
    }

    /// The link that it is on.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Whether this is the address of which the kernel speaks, and not a later one.
    pub(super) fn is(&self, bound: &Bound) -> bool {
        (self.net, self.index, self.born) == (bound.net, bound.index, bound.born)
    }

    pub(super) fn is_over(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= clock::now())
    }
}

impl From<&Bound> for Installed {
    fn from(bound: &Bound) -> Self {
        Self { net: bound.net, index: bound.index, born: bound.born, ends: None, sibling: false }
    }
}

/// Whether the last moment for this lifetime has passed.
fn is_late(lifetime: Lifetime) -> bool {
    lifetime.latest.is_some_and(|latest| latest < clock::now())
}

/// When a lifetime that is given now ends.
fn end(lifetime: Lifetime, now: Time) -> Option<Time> {
    (lifetime.seconds != Lifetime::FOREVER).then(|| now + Duration::from_secs(lifetime.seconds.into()))
}

impl State {
    /// Puts an item there, for a lifetime. After an error that names the lease it is not there, and after any
    /// error nothing is there of an item that is more than an address.
    pub(super) fn install(&mut self, item: usize, lifetime: Lifetime) -> Result<(), String> {
        if is_late(lifetime) {
            return Err(self.too_late(item));
        }
        let result = self.bring_up(item, lifetime);
        if is_late(lifetime) {
            return Err(self.too_late(item));
        }
        let Err(error) = result else {
            self.items[item].present = true;
            return Ok(());
        };
        let parts = self.items[item].parts.clone();
        let alone = |part: &Part| part.own.is_none() && part.routes.is_empty() && part.rules.is_empty();
        if parts.len() < 2 && alone(&self.parts[parts.start]) {
            self.items[item].present = self.is_whole(item);
            return Err(error);
        }
        let had = parts.len() > 1 && self.parts[parts].iter().any(|part| part.present);
        match self.remove(item) {
            Ok(()) if had => {
                Err(format!("{error}; the other addresses of the group were taken away with it"))
            }
            Ok(()) => Err(error),
            Err(more) => Err(format!("{error}; and not all of it could be taken away: {more}")),
        }
    }

    fn bring_up(&mut self, item: usize, lifetime: Lifetime) -> Result<(), String> {
        self.make_links(item)?;
        let steps = self.plan_take(item, lifetime)?;
        self.carry_out(item, &steps, lifetime)?;
        self.add_routes(item)
    }

    /// What brings an item up. Changes nothing. A bad answer from the table of links is checked with the kernel.
    fn plan_take(&mut self, item: usize, lifetime: Lifetime) -> Result<Vec<Step>, String> {
        // With another prefix it may have been there before, and for ever.
        let alone = lifetime.seconds != Lifetime::FOREVER;
        let range = self.items[item].parts.clone();
        let look = |part: &Part| part.interface == Interface::Auto || alone && part.present;
        let bound = if self.parts[range.clone()].iter().any(look) {
            self.bound().map_err(|error| format!("cannot list the addresses: {error}"))?
        } else {
            Vec::new()
        };
        let plan = |state: &Self| {
            let wanted: Vec<_> = state.parts[range.clone()].iter().map(Part::wanted).collect();
            plan::take(&wanted, &state.links, &bound, alone)
        };
        plan(self).or_else(|_| {
            self.load_links().map_err(|error| format!("cannot list the interfaces: {error}"))?;
            plan(self).map_err(|refusal| refusal.to_string())
        })
    }

    fn carry_out(&mut self, item: usize, steps: &[Step], lifetime: Lifetime) -> Result<(), String> {
        let first = self.items[item].parts.start;
        for step in steps {
            if let Step::Promote { index } = step
                && let Some(link) = self.links.get(index)
            {
                promote_secondaries(&link.name);
            }
        }
        self.set(first, steps, lifetime)?;
        for step in steps {
            if let Step::Delete { part, net, index } = *step {
                self.delete(net, index)
                    .map_err(|error| explain_delete(net, &self.interface_of(first + part), &error))?;
            }
        }
        Ok(())
    }

    /// All additions of a plan, in one exchange with the kernel.
    fn set(&mut self, first: usize, steps: &[Step], lifetime: Lifetime) -> Result<(), String> {
        let sets: Vec<_> = steps
            .iter()
            .filter_map(|step| match *step {
                Step::Set { part, net, index } => Some((first + part, net, index)),
                Step::Promote { .. }
                | Step::Delete { .. }
                | Step::Announce { .. }
                | Step::Unlink { .. }
                | Step::Link { .. } => None,
            })
            .collect();
        let request = |(part, net, index): &(usize, IpNet, u32)| {
            let name = self.links.get(index).map_or("", |link| link.name.as_str());
            address::add(*net, *index, name, self.mark, lifetime.seconds, self.parts[*part].manner)
        };
        let requests = sets.iter().map(request).collect();
        let given = clock::now();
        let answers = self.netlink.set_addresses(requests);
        let mut failed = None;
        let mut fail = |text: String| failed = failed.take().or(Some(text));
        match answers {
            Ok(answers) => {
                for ((part, net, index), answer) in sets.into_iter().zip(answers) {
                    match answer {
                        Ok(message) => {
                            let bound = message.and_then(|m| Bound::from_message(&m, self.mark));
                            if let Some(bound) = bound {
                                let ends = end(lifetime, given);
                                let part = &mut self.parts[part];
                                part.present = true;
                                part.installed = Some(Installed { ends, ..Installed::from(&bound) });
                                continue;
                            }
                            let taken =
                                self.remove_part(part).err().map(|e| format!("; {e}")).unwrap_or_default();
                            let on = self.interface_of(part);
                            fail(format!("the kernel does not confirm {net} on {on}{taken}"));
                        }
                        Err(error) => fail(self.explain_add(part, net, index, &error)),
                    }
                }
            }
            Err(error) => {
                if let Some((part, net, index)) = sets.first() {
                    fail(self.explain_add(*part, *net, *index, &error));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Takes away an item whose lease ended meanwhile; the line for people.
    fn too_late(&mut self, item: usize) -> String {
        let removed = self.remove(item);
        let part = self.items[item].parts.start;
        let what = format!(
            "the lease of {} ended before it was on {}",
            self.parts[part].net,
            self.interface_of(part)
        );
        match removed {
            Ok(()) => format!("{what}: this process was stopped or slow; nothing is left there"),
            Err(error) => format!("{what}, and it may still be there: {error}"),
        }
    }

    /// Gives items that are there a new lifetime; gives back those that are gone. Of an item that lost an
    /// address, the others are taken away.
    pub(super) fn refresh(&mut self, items: &[usize], lifetime: Lifetime) -> Vec<usize> {
        let mut lost = BTreeSet::new();
        let mut errors = Vec::new();
        let mut parts = Vec::new();
        for &item in items {
            let range = self.items[item].parts.clone();
            if range.clone().all(|part| self.knows(part)) {
                parts.extend(range.map(|part| (part, item)));
            } else {
                lost.insert(item);
            }
        }
        parts.retain(|(part, _)| self.parts[*part].installed.is_some_and(|installed| !installed.sibling));
        for parts in parts.chunks(BATCH) {
            self.refresh_batch(parts, lifetime, &mut lost, &mut errors);
        }
        let lost: Vec<_> = items.iter().copied().filter(|item| lost.contains(item)).collect();
        let mut gone = Vec::new();
        for (item, result) in self.remove_all(&lost) {
            match result {
                Ok(()) => gone.push(item),
                Err(error) => errors.push(error),
            }
        }
        self.warn(errors);
        gone
    }

    /// Whether the address is there as far as is known, and may go on.
    fn knows(&self, part: usize) -> bool {
        let part = &self.parts[part];
        let index = self.link_of(part).map(|link| link.index);
        part.present && part.installed.is_some_and(|installed| Some(installed.index) == index)
    }

    /// At most [`BATCH`] addresses, all with an `Installed`, each with its item. Items that must not be there
    /// are put into `lost`.
    fn refresh_batch(
        &mut self,
        parts: &[(usize, usize)],
        lifetime: Lifetime,
        lost: &mut BTreeSet<usize>,
        errors: &mut Vec<String>,
    ) {
        let items = || parts.iter().map(|(_, item)| *item);
        if is_late(lifetime) {
            lost.extend(items());
            return;
        }
        let given = clock::now();
        let requests: Vec<_> =
            parts.iter().filter_map(|(part, _)| self.refresh_request(*part, lifetime)).collect();
        let answers = self.netlink.set_addresses(requests);
        if is_late(lifetime) {
            lost.extend(items());
            return;
        }
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                parts.iter().map(|_| Err(io::Error::new(error.kind(), error.to_string()))).collect()
            }
        };
        for (&(part, item), answer) in parts.iter().zip(answers) {
            let error = match answer {
                Ok(Some(message)) => {
                    let bound = Bound::from_message(&message, self.mark);
                    match (&mut self.parts[part].installed, bound) {
                        (Some(installed), Some(bound)) if installed.is(&bound) => {
                            installed.ends = end(lifetime, given);
                        }
                        _ => {
                            lost.insert(item);
                        }
                    }
                    continue;
                }
                Ok(None) => io::Error::other("the kernel does not confirm it"),
                Err(error) => error,
            };
            match Errno::from_io_error(&error) {
                Some(Errno::ADDRNOTAVAIL | Errno::NODEV) => {
                    lost.insert(item);
                }
                // It is not known whether this brought back what was gone.
                Some(_) | None if lifetime.latest.is_some() => {
                    lost.insert(item);
                }
                Some(_) | None => {
                    let net = self.parts[part].net;
                    errors.push(format!("cannot refresh {net} on {}: {error}", self.interface_of(part)));
                }
            }
        }
    }

    fn refresh_request(&self, part: usize, lifetime: Lifetime) -> Option<AddressMessage> {
        let (installed, manner) = (self.parts[part].installed?, self.parts[part].manner);
        let name = self.links.get(&installed.index).map_or("", |link| link.name.as_str());
        Some(address::add(installed.net, installed.index, name, self.mark, lifetime.seconds, manner))
    }

    /// One line for all, and not too often: refreshes come several times a second.
    fn warn(&mut self, errors: Vec<String>) {
        let Some(first) = errors.first() else { return };
        let now = clock::now();
        if self.warned.is_some_and(|warned| now.since(warned) < WARN_EVERY) {
            return;
        }
        self.warned = Some(now);
        tracing::warn!(addresses = errors.len(), "{first}");
    }

    /// Takes an item away; `Ok` when it is not there.
    pub(super) fn remove(&mut self, item: usize) -> Result<(), String> {
        self.remove_all(&[item]).into_iter().try_for_each(|(_, result)| result)
    }

    /// Takes items away. Those that are gone, and for others why not.
    fn remove_all(&mut self, items: &[usize]) -> Vec<(usize, Result<(), String>)> {
        // Before anything can fail: who is told to let go must not call the neighbours any more.
        items.iter().for_each(|item| self.stop_announcing(*item));
        let parts: Vec<_> = items.iter().flat_map(|item| self.items[*item].parts.clone()).collect();
        let mut errors: BTreeMap<usize, String> = BTreeMap::new();
        for (part, result) in self.remove_parts(&parts) {
            if let Err(error) = result {
                errors.insert(part, error);
            }
        }
        let mut results = Vec::new();
        for &item in items {
            self.delete_routes(item);
            self.unlink(item);
            let failed: Vec<_> =
                self.items[item].parts.clone().filter_map(|part| errors.remove(&part)).collect();
            let present = self.is_whole(item);
            self.set_present(item, present);
            results.push((item, if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }));
        }
        results
    }

    fn remove_part(&mut self, part: usize) -> Result<(), String> {
        self.remove_parts(&[part]).into_iter().try_for_each(|(_, result)| result)
    }

    /// Takes addresses away, whatever prefix somebody else chose for them: it is the address that answers.
    /// Looking again is what makes "gone" true. What a sibling has stays.
    fn remove_parts(&mut self, parts: &[usize]) -> Vec<(usize, Result<(), String>)> {
        // At once, because finding what else there is takes longer.
        for &part in parts {
            if let Some(installed) = self.parts[part].installed.filter(|installed| !installed.sibling) {
                // If this fails, so does the same call below.
                drop(self.netlink.delete_address(address::delete(installed.net, installed.index)));
            }
        }
        let mut results = Vec::new();
        let mut left: Vec<usize> = parts.to_vec();
        for round in 0..=DELETE_ROUNDS {
            let there = match self.there(&left) {
                Ok(there) => there,
                Err(error) => {
                    results.extend(left.iter().map(|part| (*part, Err(error.clone()))));
                    return results;
                }
            };
            let mut next = Vec::new();
            for part in left {
                let Some(bound) = there.get(&part) else {
                    self.parts[part].present = false;
                    self.parts[part].installed = None;
                    results.push((part, Ok(())));
                    continue;
                };
                if round == DELETE_ROUNDS {
                    let text = format!(
                        "{} is still on {}: something else adds it again and again",
                        self.parts[part].net,
                        self.interface_of(part)
                    );
                    results.push((part, Err(text)));
                    continue;
                }
                let deleted = bound
                    .iter()
                    .try_for_each(|(net, index)| self.delete(*net, *index).map_err(|e| (*net, e)));
                match deleted {
                    Ok(()) => next.push(part),
                    Err((net, error)) => {
                        results.push((part, Err(explain_delete(net, &self.interface_of(part), &error))));
                    }
                }
            }
            if next.is_empty() {
                break;
            }
            left = next;
        }
        results
    }

    /// What the kernel has of these addresses; nothing for those of which it has nothing.
    fn there(&mut self, parts: &[usize]) -> Result<BTreeMap<usize, Vec<(IpNet, u32)>>, String> {
        if parts.iter().any(|part| self.link_of(&self.parts[*part]).is_none()) {
            self.load_links().map_err(|error| format!("cannot list the interfaces: {error}"))?;
        }
        let bound = self.bound().map_err(|error| format!("cannot list the addresses: {error}"))?;
        let wanted = parts.iter().map(|part| (*part, self.parts[*part].wanted()));
        let mut there: BTreeMap<usize, Vec<(IpNet, u32)>> = BTreeMap::new();
        for step in plan::release(wanted, &self.links, &bound) {
            if let Step::Delete { part, net, index } = step {
                there.entry(part).or_default().push((net, index));
            }
        }
        Ok(there)
    }

    /// Deletes an address; one that is not there is no error.
    fn delete(&mut self, net: IpNet, index: u32) -> io::Result<()> {
        match self.netlink.delete_address(address::delete(net, index)) {
            Ok(()) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::ADDRNOTAVAIL | Errno::NODEV) => Ok(()),
                Some(_) | None => Err(error),
            },
        }
    }

    /// Takes note when another daemon on this host takes an address over.
    pub(super) fn notice_sibling(&mut self, message: &AddressMessage) {
        let Some(bound) = Bound::from_message(message, self.mark) else { return };
        if bound.maker != Maker::Sibling {
            return;
        }
        for installed in self.parts.iter_mut().filter_map(|part| part.installed.as_mut()) {
            installed.sibling |= installed.is(&bound);
        }
    }

    fn explain_add(&mut self, part: usize, net: IpNet, index: u32, error: &io::Error) -> String {
        let interface = self.links.get(&index).map_or_else(|| "?".to_owned(), |link| link.name.clone());
        let what = match Errno::from_io_error(error) {
            Some(Errno::PERM) => capability_missing("CAP_NET_ADMIN"),
            Some(Errno::NODEV) => match self.load_links() {
                Ok(()) => missing(&interface, self.links.values().map(|link| link.name.as_str())),
                Err(error) => error.to_string(),
            },
            Some(Errno::ACCESS) if net.addr().is_ipv6() => {
                format!("IPv6 is disabled there (sysctl net.ipv6.conf.{interface}.disable_ipv6)")
            }
            Some(Errno::INVAL) if self.parts[part].manner.scope != Scope::Global && net.prefix_len() < 32 => {
                "an address of the same network has another scope; remove the prefix, or the scope".to_owned()
            }
            Some(_) | None => error.to_string(),
        };
        format!("cannot add {net} to {interface}: {what}")
    }
}

fn explain_delete(net: IpNet, interface: &str, error: &io::Error) -> String {
    let what = match Errno::from_io_error(error) {
        Some(Errno::PERM) => capability_missing("CAP_NET_ADMIN"),
        Some(_) | None => error.to_string(),
    };
    format!("cannot delete {net} from {interface}: {what}")
}

/// Sees to it that deleting an address with a prefix does not take the host's other addresses of
/// that network along, as Linux does by default when it was the first of them
/// (Documentation/networking/ip-sysctl.rst, promote_secondaries).
pub(super) fn promote_secondaries(interface: &str) {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/promote_secondaries");
    if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "0") {
        match fs::write(&path, "1") {
            Ok(()) => tracing::info!("set {path} to 1, because an item has a prefix"),
            Err(error) => {
                tracing::warn!(%error, "cannot set {path} to 1; deleting the item may delete other addresses")
            }
        }
    }
}
