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

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use flip_core::{Lifetime, Time};
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressMessage;
use rustix::io::Errno;

use super::address::{self, Bound, Maker};
use super::{Held, State};
use crate::clock;
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
    /// Puts an item there, for a lifetime. After an error that names the lease it is not there.
    pub(super) fn install(&mut self, item: usize, lifetime: Lifetime) -> Result<(), String> {
        if is_late(lifetime) {
            return Err(self.too_late(item));
        }
        let Held { net, ref interface, present, .. } = self.items[item];
        let interface = interface.clone();
        let link = self.usable_link(&interface)?;
        if let IpNet::V4(v4) = net
            && v4.prefix_len() < 32
        {
            promote_secondaries(&interface);
        }
        let request = address::add(net, link.index, &interface, self.mark, lifetime.seconds);
        let given = clock::now();
        let answer = self.netlink.set_addresses(vec![request]).and_then(|mut answers| {
            answers.pop().unwrap_or_else(|| Err(io::Error::other("the kernel did not answer")))
        });
        if is_late(lifetime) {
            return Err(self.too_late(item));
        }
        let bound = match answer {
            Ok(message) => message.and_then(|message| Bound::from_message(&message, self.mark)),
            Err(error) => return Err(self.explain_add(net, &interface, &error)),
        };
        let Some(bound) = bound else {
            let taken = self.remove(item).err().map(|error| format!("; {error}")).unwrap_or_default();
            return Err(format!("the kernel does not confirm {net} on {interface}{taken}"));
        };
        let held = &mut self.items[item];
        held.present = true;
        held.installed = Some(Installed { ends: end(lifetime, given), ..Installed::from(&bound) });
        if present && lifetime.seconds != Lifetime::FOREVER {
            // With another prefix it may have been there before, and for ever.
            self.remove_other_prefixes(item).map_err(|error| explain_delete(net, &interface, &error))?;
        }
        Ok(())
    }

    /// Takes away an item whose lease ended meanwhile; the line for people.
    fn too_late(&mut self, item: usize) -> String {
        let removed = self.remove(item);
        let held = &self.items[item];
        let what = format!("the lease of {} ended before it was on {}", held.net, held.interface);
        match removed {
            Ok(()) => format!("{what}: this process was stopped or slow; nothing is left there"),
            Err(error) => format!("{what}, and it may still be there: {error}"),
        }
    }

    /// Gives items that are there a new lifetime; gives back those that are gone.
    pub(super) fn refresh(&mut self, items: &[usize], lifetime: Lifetime) -> Vec<usize> {
        let mut lost = Vec::new();
        let mut errors = Vec::new();
        let (known, unknown): (Vec<_>, Vec<_>) = items.iter().copied().partition(|item| self.knows(*item));
        lost.extend(unknown);
        let ours = |item: &usize| self.items[*item].installed.is_some_and(|installed| !installed.sibling);
        let known: Vec<_> = known.into_iter().filter(ours).collect();
        for items in known.chunks(BATCH) {
            self.refresh_batch(items, lifetime, &mut lost, &mut errors);
        }
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

    /// Whether the item is there as far as is known, and may go on.
    fn knows(&self, item: usize) -> bool {
        let held = &self.items[item];
        let index = self.link(&held.interface).map(|link| link.index);
        held.present && held.installed.is_some_and(|installed| Some(installed.index) == index)
    }

    /// At most [`BATCH`] items, all with an `Installed`. Those that must not be there are put into `lost`.
    fn refresh_batch(
        &mut self,
        items: &[usize],
        lifetime: Lifetime,
        lost: &mut Vec<usize>,
        errors: &mut Vec<String>,
    ) {
        if is_late(lifetime) {
            lost.extend(items);
            return;
        }
        let given = clock::now();
        let requests: Vec<_> =
            items.iter().filter_map(|item| self.refresh_request(*item, lifetime)).collect();
        let answers = self.netlink.set_addresses(requests);
        if is_late(lifetime) {
            lost.extend(items);
            return;
        }
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                items.iter().map(|_| Err(io::Error::new(error.kind(), error.to_string()))).collect()
            }
        };
        for (&item, answer) in items.iter().zip(answers) {
            let error = match answer {
                Ok(Some(message)) => {
                    let bound = Bound::from_message(&message, self.mark);
                    let held = &mut self.items[item];
                    match (&mut held.installed, bound) {
                        (Some(installed), Some(bound)) if installed.is(&bound) => {
                            installed.ends = end(lifetime, given);
                        }
                        _ => lost.push(item),
                    }
                    continue;
                }
                Ok(None) => io::Error::other("the kernel does not confirm it"),
                Err(error) => error,
            };
            match Errno::from_io_error(&error) {
                Some(Errno::ADDRNOTAVAIL | Errno::NODEV) => lost.push(item),
                // It is not known whether this brought back what was gone.
                Some(_) | None if lifetime.latest.is_some() => lost.push(item),
                Some(_) | None => {
                    let held = &self.items[item];
                    errors.push(format!("cannot refresh {} on {}: {error}", held.net, held.interface));
                }
            }
        }
    }

    fn refresh_request(&self, item: usize, lifetime: Lifetime) -> Option<AddressMessage> {
        let held = &self.items[item];
        let installed = held.installed?;
        Some(address::add(installed.net, installed.index, &held.interface, self.mark, lifetime.seconds))
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

    /// Takes items away, whatever prefix somebody else chose for them: it is the address that answers.
    /// Looking again is what makes "gone" true. What a sibling has stays.
    fn remove_all(&mut self, items: &[usize]) -> Vec<(usize, Result<(), String>)> {
        // Before anything can fail: who is told to let go must not call the neighbours any more.
        items.iter().for_each(|item| self.items[*item].stop_announcing());
        // At once, because finding what else there is takes longer.
        for &item in items {
            if let Some(installed) = self.items[item].installed.filter(|installed| !installed.sibling) {
                // If this fails, so does the same call below.
                drop(self.netlink.delete_address(address::delete(installed.net, installed.index)));
            }
        }
        let mut results = Vec::new();
        let mut left: Vec<usize> = items.to_vec();
        for round in 0..=DELETE_ROUNDS {
            let there = match self.there(&left) {
                Ok(there) => there,
                Err(error) => {
                    results.extend(left.iter().map(|item| (*item, Err(error.clone()))));
                    return results;
                }
            };
            let mut next = Vec::new();
            for item in left {
                let held = &mut self.items[item];
                let Some(bound) = there.get(&item) else {
                    held.is_gone();
                    results.push((item, Ok(())));
                    continue;
                };
                if round == DELETE_ROUNDS {
                    let text = format!(
                        "{} is still on {}: something else adds it again and again",
                        held.net, held.interface
                    );
                    results.push((item, Err(text)));
                    continue;
                }
                match self.delete(bound) {
                    Ok(()) => next.push(item),
                    Err((net, error)) => {
                        let interface = &self.items[item].interface;
                        results.push((item, Err(explain_delete(net, interface, &error))));
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

    /// What the kernel has of these items; nothing for those of which it has nothing.
    fn there(&mut self, items: &[usize]) -> Result<BTreeMap<usize, Vec<Bound>>, String> {
        let unknown = |state: &Self, item: &usize| state.link(&state.items[*item].interface).is_none();
        if items.iter().any(|item| unknown(self, item)) {
            self.load_links().map_err(|error| format!("cannot list the interfaces: {error}"))?;
        }
        let bound = self.bound().map_err(|error| format!("cannot list the addresses: {error}"))?;
        let mut places: BTreeMap<(u32, IpAddr), Vec<usize>> = BTreeMap::new();
        for &item in items {
            let held = &self.items[item];
            if let Some(link) = self.link(&held.interface) {
                places.entry((link.index, held.net.addr())).or_default().push(item);
            }
        }
        let mut there: BTreeMap<usize, Vec<Bound>> = BTreeMap::new();
        for bound in bound.into_iter().filter(|bound| bound.maker != Maker::Sibling) {
            for item in places.get(&(bound.index, bound.net.addr())).into_iter().flatten() {
                there.entry(*item).or_default().push(bound);
            }
        }
        Ok(there)
    }

    fn delete(&mut self, bound: &[Bound]) -> Result<(), (IpNet, io::Error)> {
        for bound in bound {
            match self.netlink.delete_address(address::delete(bound.net, bound.index)) {
                Ok(()) => {}
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::ADDRNOTAVAIL | Errno::NODEV) => {}
                    Some(_) | None => return Err((bound.net, error)),
                },
            }
        }
        Ok(())
    }

    fn remove_other_prefixes(&mut self, item: usize) -> io::Result<()> {
        let mut others = self.there(&[item]).map_err(io::Error::other)?.remove(&item).unwrap_or_default();
        let net = self.items[item].net;
        others.retain(|bound| bound.net != net);
        self.delete(&others).map_err(|(_, error)| error)
    }

    /// Takes note when another daemon on this host takes an address over.
    pub(super) fn notice_sibling(&mut self, message: &AddressMessage) {
        let Some(bound) = Bound::from_message(message, self.mark) else { return };
        if bound.maker != Maker::Sibling {
            return;
        }
        for installed in self.items.iter_mut().filter_map(|held| held.installed.as_mut()) {
            installed.sibling |= installed.is(&bound);
        }
    }

    fn explain_add(&mut self, net: IpNet, interface: &str, error: &io::Error) -> String {
        let what = match Errno::from_io_error(error) {
            Some(Errno::PERM) => capability_missing("CAP_NET_ADMIN"),
            Some(Errno::NODEV) => match self.load_links() {
                Ok(()) => self.missing(interface),
                Err(error) => error.to_string(),
            },
            Some(Errno::ACCESS) if net.addr().is_ipv6() => {
                format!("IPv6 is disabled there (sysctl net.ipv6.conf.{interface}.disable_ipv6)")
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
