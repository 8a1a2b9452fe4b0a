//! Removing what a daemon left that is no more.

use std::io;

use rustix::io::Errno;

use super::address::{self, Bound, Maker};
use super::{own, routes};
use crate::interfaces::Link;
use crate::netlink::Netlink;

/// How often the list is read again, for what came while it was worked off.
const ROUNDS: usize = 5;

/// Something of flip that was found on this host.
#[derive(Debug)]
pub struct Removed {
    /// What, for people: `192.0.2.7/32 on eth0`, `the link flip1a2b3c4d-0`.
    pub what: String,
    /// Why it is still there; none when it is gone.
    pub error: Option<io::Error>,
}

/// Removes addresses, rules, routes and links that carry the marks of flip from this network namespace: those of
/// the daemon that has so many `siblings` before it on its host (`system::Assigned`), or those of every daemon.
/// Nobody may be at work who would put them back.
///
/// # Errors
/// When the kernel does not list what it has; then nothing was removed, or not all.
pub fn release(siblings: Option<usize>) -> io::Result<Vec<Removed>> {
    let mut netlink = Netlink::open()?;
    let links: Vec<_> = netlink.links()?.iter().filter_map(Link::from_message).collect();
    let mark = address::mark(siblings.unwrap_or(0));
    let mut removed: Vec<Removed> = Vec::new();
    for _ in 0..ROUNDS {
        let ours = |bound: &Bound| match bound.maker {
            Maker::Us => true,
            Maker::Sibling => siblings.is_none(),
            Maker::Other => false,
        };
        let addresses = netlink.addresses()?;
        let bound = addresses.iter().filter_map(|message| Bound::from_message(message, mark)).filter(ours);
        let mut found = false;
        for bound in bound {
            let name = links.iter().find(|link| link.index == bound.index).map_or("?", |link| &link.name);
            let what = format!("{} on {name}", bound.net);
            if removed.iter().any(|done| done.what == what && done.error.is_some()) {
                continue;
            }
            found = true;
            // Otherwise it might take addresses of others along.
            super::lifetime::promote_secondaries(name);
            let error = match netlink.delete_address(address::delete(bound.net, bound.index)) {
                Ok(()) => None,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL) => None,
                Err(error) => Some(error),
            };
            removed.retain(|done| done.what != what);
            removed.push(Removed { what, error });
        }
        if !found {
            break;
        }
    }
    let marks = address::marks(siblings);
    let (routes, rules) = routes::marked(&mut netlink, &marks)?;
    for (rule, what) in rules {
        let error = netlink.delete_rule(rule).or_else(routes::gone).err();
        removed.push(Removed { what, error });
    }
    for (route, what) in routes {
        let error = netlink.delete_route(route).or_else(routes::gone).err();
        removed.push(Removed { what, error });
    }
    for link in links.iter().filter(|link| marks.clone().any(|mark| own::is_own(link, mark))) {
        let error = netlink.delete_link(link.index).or_else(routes::gone).err();
        removed.push(Removed { what: format!("the link {}", link.name), error });
    }
    Ok(removed)
}
