//! What the bridge of a lab refuses to forward, as one nftables ruleset.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::PoisonError;

use anyhow::{Context, bail, ensure};

use super::netlink::Netlink;
use super::{Lab, Who};

/// The faults that are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Hosts that neither send nor receive.
    pub(super) cut: BTreeSet<usize>,
    /// Pairs of a sender and a receiver that does not hear it.
    pub(super) one_way: BTreeSet<(Who, Who)>,
    /// Hosts that send and do not receive.
    pub(super) deaf: BTreeSet<usize>,
    /// The group of every host and of the client, last; `None` without a partition.
    pub(super) groups: Option<Vec<usize>>,
    /// Percent of all datagrams lost at random.
    pub(super) loss: u8,
    /// Percent of the datagrams between hosts lost at random.
    pub(super) host_loss: u8,
}

impl Faults {
    /// Whether datagrams of `from` reach `to`, chance aside.
    fn passes(&self, from: Who, to: Who, hosts: usize) -> bool {
        let is_in = |set: &BTreeSet<usize>, who: Who| matches!(who, Who::Host(n) if set.contains(&n));
        let group = |who: Who| match (&self.groups, who) {
            (Some(groups), Who::Host(n)) => groups.get(n).copied(),
            (Some(groups), Who::Client) => groups.get(hosts).copied(),
            (None, _) | (_, Who::Bridge) => None,
        };
        !(is_in(&self.cut, from)
            || is_in(&self.cut, to)
            || is_in(&self.deaf, to)
            || self.one_way.contains(&(from, to))
            || group(from) != group(to))
    }

    /// The ruleset: it replaces the one before in one transaction.
    pub(super) fn render(&self, hosts: usize) -> String {
        let ports: Vec<_> = (0..hosts).map(Who::Host).chain([Who::Client]).collect();
        let mut refused = Vec::new();
        for &from in &ports {
            for &to in &ports {
                if from != to && !self.passes(from, to, hosts) {
                    refused.push(format!("\"{}\" . \"{}\"", from.port(), to.port()));
                }
            }
        }
        // Without the first line the flush would fail where there is no table yet.
        let mut rules = String::from("table bridge lab\ndelete table bridge lab\n");
        rules.push_str("table bridge lab {\n  chain forward {\n");
        rules.push_str("    type filter hook forward priority 0; policy accept;\n");
        if !refused.is_empty() {
            let _ = writeln!(rules, "    iifname . oifname {{ {} }} drop", refused.join(", "));
        }
        if self.loss > 0 {
            let _ = writeln!(rules, "    numgen random mod 100 < {} drop", self.loss);
        }
        if self.host_loss > 0 {
            let client = Who::Client.port();
            let _ = writeln!(
                rules,
                "    iifname != \"{client}\" oifname != \"{client}\" numgen random mod 100 < {} drop",
                self.host_loss
            );
        }
        rules.push_str("  }\n}\n");
        rules
    }
}

/// Faults.
impl Lab {
    /// Separates a host from all others: its carrier stays, and there is silence.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn cut(&self, host: usize) -> anyhow::Result<()> {
        self.change(|faults| {
            faults.cut.insert(host);
        })
    }

    /// From now on `to` hears nothing from `from`; the other direction passes.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn cut_one_way(&self, from: Who, to: Who) -> anyhow::Result<()> {
        self.change(|faults| {
            faults.one_way.insert((from, to));
        })
    }

    /// The host hears nobody from now on, and can send.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn deafen(&self, host: usize) -> anyhow::Result<()> {
        self.change(|faults| {
            faults.deaf.insert(host);
        })
    }

    /// Takes back all of `cut`, `cut_one_way` and `deafen` that concerns this host.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn mend(&self, host: usize) -> anyhow::Result<()> {
        self.change(|faults| {
            faults.cut.remove(&host);
            faults.deaf.remove(&host);
            faults.one_way.retain(|(from, to)| *from != Who::Host(host) && *to != Who::Host(host));
        })
    }

    /// Splits the hosts into groups that do not hear each other; `client` says which of the groups
    /// the client is in. A host in no group is alone. Replaces the partition before.
    ///
    /// # Errors
    /// When a group names no host or nftables refuses.
    pub fn partition(&self, groups: &[&[usize]], client: usize) -> anyhow::Result<()> {
        let hosts = self.hosts();
        ensure!(client < groups.len(), "there is no group {client} for the client to be in");
        let mut group: Vec<_> = (0..=hosts).map(|n| groups.len() + n).collect();
        group[hosts] = client;
        for (number, members) in groups.iter().enumerate() {
            for &host in *members {
                ensure!(host < hosts, "the lab has no host {host}");
                group[host] = number;
            }
        }
        self.change(|faults| faults.groups = Some(group))
    }

    /// Loses this share of all datagrams at random, in percent; the client's too. 0 ends it.
    ///
    /// # Errors
    /// When it is above 100 or nftables refuses.
    pub fn loss(&self, percent: u8) -> anyhow::Result<()> {
        ensure!(percent <= 100, "a loss of {percent} %");
        self.change(|faults| faults.loss = percent)
    }

    /// Loses this share of what hosts send each other, in percent; the client notices nothing.
    ///
    /// # Errors
    /// When it is above 100 or nftables refuses.
    pub fn host_loss(&self, percent: u8) -> anyhow::Result<()> {
        ensure!(percent <= 100, "a loss of {percent} %");
        self.change(|faults| faults.host_loss = percent)
    }

    /// Pulls a host's cable: unlike after [`Lab::cut`], it sees that its carrier is gone.
    /// [`Lab::plug`] puts it back, [`Lab::heal`] does not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unplug(&self, host: usize) -> anyhow::Result<()> {
        self.enter(Who::Bridge, || Netlink::open()?.set_up(&Who::Host(host).port(), false))?
    }

    /// Puts a host's cable back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn plug(&self, host: usize) -> anyhow::Result<()> {
        self.enter(Who::Bridge, || Netlink::open()?.set_up(&Who::Host(host).port(), true))?
    }

    /// Ends all faults that are refusals to forward.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.change(|faults| *faults = Faults::default())
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) -> anyhow::Result<()> {
        let mut faults = self.0.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = faults.clone();
        change(&mut next);
        self.nft(&next.render(self.hosts()))?;
        *faults = next;
        Ok(())
    }

    /// Loads a ruleset into the bridge's namespace.
    fn nft(&self, rules: &str) -> anyhow::Result<()> {
        let mut command = self.command(Who::Bridge, "nft")?;
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Waited for here and now, so this thread may be the parent.
        let mut child = command.spawn().context("cannot run nft: apt-get install nftables")?;
        let written = child.stdin.take().context("nft has no stdin")?.write_all(rules.as_bytes());
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("nft: {}\n{rules}", String::from_utf8_lossy(&output.stderr).trim());
        }
        written.context("cannot write to nft")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_faults_there_is_no_rule() {
        let rules = Faults::default().render(3);
        assert!(!rules.contains("drop"), "{rules}");
    }

    #[test]
    fn faults_add_up() {
        let faults = Faults {
            cut: [0].into(),
            deaf: [1].into(),
            one_way: [(Who::Host(2), Who::Client)].into(),
            loss: 7,
            ..Faults::default()
        };
        let rules = faults.render(3);
        for refused in [
            "\"p0\" . \"p2\"",
            "\"p2\" . \"p0\"",
            "\"p2\" . \"p1\"",
            "\"p2\" . \"pc\"",
            "\"pc\" . \"p1\"",
            "100 < 7",
        ] {
            assert!(rules.contains(refused), "{refused} in {rules}");
        }
        for passed in ["\"p1\" . \"p2\"", "\"p1\" . \"pc\"", "\"pc\" . \"p2\""] {
            assert!(!rules.contains(passed), "{passed} in {rules}");
        }
    }

    #[test]
    fn a_partition_separates_groups_and_nothing_else() {
        let faults = Faults { groups: Some(vec![0, 1, 1, 0]), ..Faults::default() };
        let passes = |from, to| faults.passes(from, to, 3);
        assert!(passes(Who::Client, Who::Host(0)) && passes(Who::Host(1), Who::Host(2)));
        assert!(!passes(Who::Client, Who::Host(1)) && !passes(Who::Host(2), Who::Host(0)));
    }
}
