//! What is measured: a cluster of flip, or Debian's keepalived, on three hosts with two addresses.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::cluster::{Cluster, ClusterSpec};
use crate::keepalived::{Keepalived, Spec};
use crate::lab::{Lab, vip};
use crate::probe::wait_held;

/// Hosts of every lab.
pub const HOSTS: usize = 3;
/// Virtual addresses of every lab.
pub const VIPS: usize = 2;
/// For everything that is awaited.
const LIMIT: Duration = Duration::from_secs(90);

/// Which program, with which timings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// flip with a profile.
    Flip(String),
    /// keepalived, advertising this often.
    Keepalived(Duration),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip(profile) => write!(f, "flip {profile}"),
            Self::Keepalived(advert) => write!(f, "keepalived {} ms", advert.as_millis()),
        }
    }
}

/// One that runs. `vip(0)` is at home on host 0, `vip(1)` on host 1.
pub enum Subject {
    /// Daemons of flip.
    Flip(Box<Cluster>),
    /// Daemons of keepalived, and their lab.
    Keepalived(Keepalived, Lab),
}

impl Subject {
    /// Starts it and waits until every address is at home.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn start(kind: &Kind, flip: &Path) -> anyhow::Result<Self> {
        let subject = match kind {
            Kind::Flip(profile) => {
                Self::Flip(Box::new(Cluster::start(ClusterSpec::new(HOSTS, VIPS, profile), flip)?))
            }
            Kind::Keepalived(advert) => {
                let lab = Lab::new(HOSTS)?;
                Self::Keepalived(Keepalived::start(&lab, &Spec { advert: *advert, vips: VIPS })?, lab)
            }
        };
        subject.wait_home()?;
        Ok(subject)
    }

    /// Its lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        match self {
            Self::Flip(cluster) => cluster.lab(),
            Self::Keepalived(_, lab) => lab,
        }
    }

    /// Waits until every address is at home and nowhere else.
    ///
    /// # Errors
    /// After a minute and a half.
    pub fn wait_home(&self) -> anyhow::Result<()> {
        if let Self::Flip(cluster) = self {
            cluster.wait_healthy(LIMIT)?;
        }
        for k in 0..VIPS {
            wait_held(self.lab(), vip(k), LIMIT, |hosts| *hosts == BTreeSet::from([k]))?;
        }
        Ok(())
    }

    /// Waits until somebody but host 0 holds `vip(0)`; false when nobody did within `limit`.
    #[must_use]
    pub fn taken(&self, limit: Duration) -> bool {
        wait_held(self.lab(), vip(0), limit, |hosts| hosts.iter().any(|host| *host != 0)).is_ok()
    }

    /// SIGTERM for the daemon of host 0; returns when it has ended.
    ///
    /// # Errors
    /// When it does not end.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Flip(cluster) => {
                cluster.term(0)?;
                cluster.wait_exit(0, LIMIT)?;
            }
            Self::Keepalived(all, _) => {
                all.term(0)?;
                all.wait_exit(0, LIMIT)?;
            }
        }
        Ok(())
    }

    /// SIGKILL for the daemon of host 0: its host lives on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Flip(cluster) => cluster.kill(0),
            Self::Keepalived(all, _) => all.kill(0),
        }
    }

    /// Starts the daemon of host 0 again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Flip(cluster) => cluster.restart(0),
            Self::Keepalived(all, _) => all.restart(0),
        }
    }

    /// Processor time of all daemons so far; none where that is not known (keepalived has children).
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn cpu(&self) -> anyhow::Result<Option<Duration>> {
        match self {
            Self::Flip(cluster) => {
                let each = (0..HOSTS).map(|n| cluster.process(n)?.cpu_precise());
                each.sum::<anyhow::Result<Duration>>().map(Some)
            }
            Self::Keepalived(..) => Ok(None),
        }
    }
}
