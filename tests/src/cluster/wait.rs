//! Waiting for a cluster to be as it should.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flip_core::event::ItemState;
use flip_core::status::{HolderStatus, ItemStatus, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Cluster, name};

/// The last word of every daemon that was asked.
pub type Statuses = BTreeMap<usize, Status>;

impl Cluster {
    /// Waits until a daemon's status is one that `wanted` likes, and returns it. A daemon that does not
    /// listen yet is waited for as well.
    ///
    /// # Errors
    /// After `limit`, or when the daemon ends; with the last status and the logs.
    pub fn wait_for(
        &self,
        n: usize,
        limit: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> anyhow::Result<Status> {
        let all = |statuses: &Statuses| statuses.get(&n).is_some_and(&wanted);
        let mut statuses = self.wait_all(&[n], limit, all)?;
        statuses.remove(&n).context("a status that was there is gone")
    }

    /// Waits until the last statuses of some daemons together are what `wanted` likes.
    ///
    /// # Errors
    /// As [`Cluster::wait_for`].
    pub fn wait_all(
        &self,
        daemons: &[usize],
        limit: Duration,
        wanted: impl Fn(&Statuses) -> bool,
    ) -> anyhow::Result<Statuses> {
        let end = Instant::now() + limit;
        let mut last = Statuses::new();
        self.watch_until(daemons, end, &mut last, &wanted)
            .with_context(|| format!("waiting for {limit:?}"))
            .with_context(|| self.describe(&last))?;
        Ok(last)
    }

    fn watch_until(
        &self,
        daemons: &[usize],
        end: Instant,
        last: &mut Statuses,
        wanted: &impl Fn(&Statuses) -> bool,
    ) -> anyhow::Result<()> {
        let mut watches = Vec::new();
        for &n in daemons {
            let watch = self.watch_before(n, end)?;
            watches.push((n, watch));
        }
        loop {
            for (n, watch) in &mut watches {
                while let Some(status) = watch.take().with_context(|| format!("{} is gone", name(*n)))? {
                    last.insert(*n, status);
                    // Every status counts, a short moment of it as well.
                    if last.len() == daemons.len() && wanted(last) {
                        return Ok(());
                    }
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("it did not come to that");
            }
            let mut fds: Vec<_> = watches.iter().map(|(_, w)| PollFd::new(w, PollFlags::IN)).collect();
            match poll(&mut fds, Some(&Timespec::try_from(left)?)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until every daemon that runs says that all is well.
    ///
    /// # Errors
    /// As [`Cluster::wait_for`].
    pub fn wait_healthy(&self, limit: Duration) -> anyhow::Result<Statuses> {
        self.wait_all(&self.live(), limit, |all| all.values().all(Status::healthy))
    }

    /// Waits until the daemons that run agree on where every item is: on one of them.
    ///
    /// # Errors
    /// As [`Cluster::wait_for`].
    pub fn wait_settled(&self, limit: Duration) -> anyhow::Result<Statuses> {
        self.wait_settled_among(&self.live(), limit)
    }

    /// Waits until some daemons agree on where every item is: on one of them. For one side of a
    /// partition.
    ///
    /// # Errors
    /// As [`Cluster::wait_for`].
    pub fn wait_settled_among(&self, daemons: &[usize], limit: Duration) -> anyhow::Result<Statuses> {
        self.wait_all(daemons, limit, |all| settled(all, daemons))
    }

    /// The host that holds an address, as the first daemon says that answers; none when there is not
    /// exactly one.
    #[must_use]
    pub fn holder(&self, vip: IpAddr) -> Option<usize> {
        let status = self.live().into_iter().find_map(|n| self.status(n).ok())?;
        let vip = vip.to_string();
        holder(status.items.iter().find(|item| item.item == vip)?)
    }

    /// As [`Cluster::holder`], asking these daemons alone: one side of a partition.
    #[must_use]
    pub fn holder_among(&self, daemons: &[usize], vip: IpAddr) -> Option<usize> {
        let status = daemons.iter().find_map(|n| self.status(*n).ok())?;
        let vip = vip.to_string();
        holder(status.items.iter().find(|item| item.item == vip)?)
    }

    /// The hosts whose kernels have an address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn real_holders(&self, vip: IpAddr) -> anyhow::Result<BTreeSet<usize>> {
        let mut holders = BTreeSet::new();
        for n in 0..self.lab().hosts() {
            if self.lab().addresses(crate::lab::Who::Host(n))?.contains(&vip) {
                holders.insert(n);
            }
        }
        Ok(holders)
    }
}

/// The one host that is said to hold an item, while nobody takes it or lets go of it.
fn holder(item: &ItemStatus) -> Option<usize> {
    // Whoever is kept away by health checks says so, and has nothing to do with it.
    let kept_away = |holder: &&HolderStatus| {
        holder.state == ItemState::Failing && item.unhealthy_on.contains(&holder.server)
    };
    let holders: Vec<_> = item.holders.iter().filter(|holder| !kept_away(holder)).collect();
    match &holders[..] {
        [one] if one.state == ItemState::Active => one.server.strip_prefix('h')?.parse().ok(),
        _ => None,
    }
}

fn settled(all: &Statuses, daemons: &[usize]) -> bool {
    let placed = |status: &Status| -> Option<Vec<usize>> {
        let at = |item| holder(item).filter(|n| daemons.contains(n));
        status.items.iter().map(at).collect()
    };
    let mut placements = all.values().map(placed);
    let Some(Some(first)) = placements.next() else { return false };
    all.values().all(|status| status.has_quorum)
        && placements.all(|placement| placement.as_ref() == Some(&first))
}
