//! The servers of a config, with what finds one of many quickly.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use super::Server;
use crate::id::ShortId;

/// The servers of a cluster, in listed order.
///
/// Clones share one list until one of them is changed, because a simulation of 10,000 nodes has as many configs.
#[derive(Clone, Debug, Default)]
pub struct Servers(Arc<Listed>);

#[derive(Debug, Default)]
struct Listed {
    servers: Vec<Server>,
    /// Positions by short id and by address, made when first needed.
    by_short: OnceLock<Vec<(ShortId, u32)>>,
    by_addr: OnceLock<Vec<(SocketAddr, u32)>>,
}

impl Clone for Listed {
    fn clone(&self) -> Self {
        Self { servers: self.servers.clone(), ..Self::default() }
    }
}

impl Servers {
    /// Position of the server with this short id.
    #[must_use]
    pub fn with_short(&self, short: ShortId) -> Option<usize> {
        find(self.0.by_short.get_or_init(|| sorted(&self.0.servers, |server| server.short)), short)
    }

    /// Position of the server with this address.
    #[must_use]
    pub fn with_addr(&self, addr: SocketAddr) -> Option<usize> {
        find(self.0.by_addr.get_or_init(|| sorted(&self.0.servers, |server| server.addr)), addr)
    }
}

fn sorted<K: Ord>(servers: &[Server], key: impl Fn(&Server) -> K) -> Vec<(K, u32)> {
    let mut sorted: Vec<_> = servers.iter().zip(0..).map(|(server, at)| (key(server), at)).collect();
    sorted.sort_unstable();
    sorted
}

/// The first in listed order, should two have the same key.
fn find<K: Ord + Copy>(sorted: &[(K, u32)], key: K) -> Option<usize> {
    let at = sorted.partition_point(|(other, _)| *other < key);
    sorted.get(at).filter(|(found, _)| *found == key).map(|(_, at)| *at as usize)
}

impl From<Vec<Server>> for Servers {
    fn from(servers: Vec<Server>) -> Self {
        Self(Arc::new(Listed { servers, ..Listed::default() }))
    }
}

impl Deref for Servers {
    type Target = Vec<Server>;
    fn deref(&self) -> &Vec<Server> {
        &self.0.servers
    }
}

impl DerefMut for Servers {
    fn deref_mut(&mut self) -> &mut Vec<Server> {
        let listed = Arc::make_mut(&mut self.0);
        listed.by_short.take();
        listed.by_addr.take();
        &mut listed.servers
    }
}

impl<'a> IntoIterator for &'a Servers {
    type Item = &'a Server;
    type IntoIter = std::slice::Iter<'a, Server>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use crate::testing;

    #[test]
    fn found_also_after_a_change_which_clones_do_not_see() {
        let first = testing::config("abc", "a").servers;
        let mut second = first.clone();
        for (at, server) in first.iter().enumerate() {
            assert_eq!(first.with_short(server.short), Some(at));
            assert_eq!(second.with_addr(server.addr), Some(at));
        }
        second.swap(0, 2);
        assert_eq!(second.with_short(first[0].short), Some(2));
        assert_eq!(second.with_addr(first[2].addr), Some(0));
        assert_eq!(first.with_short(first[0].short), Some(0));
        second.remove(2);
        assert_eq!(second.with_short(first[0].short), None);
    }
}
