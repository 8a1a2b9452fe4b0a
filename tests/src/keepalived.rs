//! Debian's keepalived in a lab, in the shape of [`crate::cluster`], to be measured by the same probe.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::lab::{INTERFACE, Lab, Process, Scratch, Who, vip};
use crate::probe::wait_held;

/// The priority of an address's home; every host further on has this less.
const HOME_PRIORITY: usize = 250;
const PRIORITY_STEP: usize = 10;

/// What keepalived is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `advert_int`. Whole seconds are VRRP version 2, keepalived's default; anything else is
    /// version 3, which knows hundredths, from 10 ms on.
    pub advert: Duration,
    /// Virtual IPv4 addresses, from `vip(0)` on: one VRRP instance each, at home on host 0, 1, 2, 0
    /// and so on.
    pub vips: usize,
}

impl Default for Spec {
    /// keepalived's own default: once a second.
    fn default() -> Self {
        Self { advert: Duration::from_secs(1), vips: 1 }
    }
}

impl Spec {
    fn version(&self) -> u8 {
        if self.advert.subsec_nanos() == 0 { 2 } else { 3 }
    }

    /// The config of one host. What is not here is left to keepalived's defaults: preemption, and
    /// what it sends to announce an address.
    fn config(&self, host: usize, hosts: usize) -> String {
        let mut text = format!(
            "global_defs {{\n  router_id h{host}\n  vrrp_version {}\n  enable_script_security\n}}\n",
            self.version()
        );
        for k in 0..self.vips {
            let behind = (host + hosts - k % hosts) % hosts;
            let priority = HOME_PRIORITY - PRIORITY_STEP * behind;
            let advert = self.advert.as_secs_f64();
            let (id, address) = (k + 1, vip(k));
            let _ = write!(
                text,
                "vrrp_instance V{k} {{\n  state BACKUP\n  interface {INTERFACE}\n  virtual_router_id {id}\n  \
                 priority {priority}\n  advert_int {advert}\n  \
                 virtual_ipaddress {{\n    {address}/32 dev {INTERFACE}\n  }}\n}}\n"
            );
        }
        text
    }
}

/// A keepalived on every host of a lab; all end with this, and their files are removed.
pub struct Keepalived {
    spec: Spec,
    processes: Vec<Option<Process>>,
    scratch: Scratch,
    lab: Lab,
}

impl Keepalived {
    /// Starts keepalived on every host. It does not wait for anything: see
    /// [`Keepalived::wait_settled`].
    ///
    /// # Errors
    /// When keepalived is missing.
    pub fn start(lab: &Lab, spec: &Spec) -> anyhow::Result<Self> {
        let least = Duration::from_millis(10);
        ensure!(spec.advert >= least, "VRRP cannot advertise more often than every {least:?}");
        available().map_err(anyhow::Error::msg)?;
        let mut all = Self { spec: *spec, processes: Vec::new(), scratch: Scratch::new()?, lab: lab.clone() };
        all.processes.resize_with(lab.hosts(), || None);
        for n in 0..lab.hosts() {
            all.launch(n)?;
        }
        Ok(all)
    }

    fn launch(&mut self, n: usize) -> anyhow::Result<()> {
        let config = self.scratch.write(&format!("h{n}.conf"), &self.spec.config(n, self.lab.hosts()))?;
        let file = |suffix: &str| self.scratch.path().join(format!("h{n}.{suffix}"));
        // Of a life that was killed; it would take the dying process for a living one.
        for left in ["pid", "vrrp.pid", "checkers.pid"] {
            let _ = fs::remove_file(file(left));
        }
        let mut command = self.lab.command(Who::Host(n), "keepalived")?;
        // In the foreground, to the console, in detail, VRRP only.
        command.args(["-n", "-l", "-D", "-P"]).arg("-f").arg(&config);
        command
            .arg("-p")
            .arg(file("pid"))
            .arg("-r")
            .arg(file("vrrp.pid"))
            .arg("-c")
            .arg(file("checkers.pid"));
        let log = self.scratch.log(&log_name(n))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes[n] = Some(self.lab.spawn(command)?);
        Ok(())
    }

    /// Kills keepalived with all its processes at once: nothing is let go of.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, n: usize) -> anyhow::Result<()> {
        self.slot(n)?.take().context("it does not run")?.kill()
    }

    /// Asks keepalived to end, which gives its addresses up; [`Keepalived::wait_exit`] waits for it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn term(&self, n: usize) -> anyhow::Result<()> {
        self.process(n)?.signal(Signal::TERM)
    }

    /// Waits until keepalived has ended by itself.
    ///
    /// # Errors
    /// When it does not within `limit`; with its log.
    pub fn wait_exit(&mut self, n: usize, limit: Duration) -> anyhow::Result<ExitStatus> {
        let status = self.slot(n)?.as_mut().context("it does not run")?.wait(limit);
        status.with_context(|| self.scratch.tail(&log_name(n)))
    }

    /// Stops keepalived where it is, with all its processes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&self, n: usize) -> anyhow::Result<()> {
        self.process(n)?.signal_group(Signal::STOP)
    }

    /// Lets a stopped keepalived go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cont(&self, n: usize) -> anyhow::Result<()> {
        self.process(n)?.signal_group(Signal::CONT)
    }

    /// Kills keepalived, should it run, and starts it anew.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, n: usize) -> anyhow::Result<()> {
        drop(self.slot(n)?.take());
        self.launch(n)
    }

    /// The log of a host.
    #[must_use]
    pub fn log(&self, n: usize) -> String {
        self.scratch.read(&log_name(n))
    }

    /// keepalived's first process on a host.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self, n: usize) -> anyhow::Result<&Process> {
        let process = self.processes.get(n).with_context(|| format!("there is no host {n}"))?;
        process.as_ref().with_context(|| format!("keepalived does not run on host {n}"))
    }

    /// The virtual addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        (0..self.spec.vips).map(vip).collect()
    }

    /// Waits until every address is, of the hosts where keepalived runs, on the one with the highest
    /// priority for it and on no other; as the kernels say. Returns these hosts.
    ///
    /// # Errors
    /// When it is not so within `limit`; with the logs.
    pub fn wait_settled(&self, limit: Duration) -> anyhow::Result<Vec<usize>> {
        let hosts = self.lab.hosts();
        let runs = |host: usize| self.processes[host].as_ref().is_some_and(Process::running);
        let running: BTreeSet<_> = (0..hosts).filter(|host| runs(*host)).collect();
        let mut settled = Vec::new();
        for (k, address) in self.addresses().into_iter().enumerate() {
            let first = (k..k + hosts).map(|n| n % hosts).find(|host| running.contains(host));
            let first = first.context("keepalived runs nowhere")?;
            wait_held(&self.lab, address, limit, |holders| holders & &running == [first].into())
                .with_context(|| self.tails())?;
            settled.push(first);
        }
        Ok(settled)
    }

    fn tails(&self) -> String {
        (0..self.processes.len()).map(|n| self.scratch.tail(&log_name(n))).collect()
    }

    fn slot(&mut self, n: usize) -> anyhow::Result<&mut Option<Process>> {
        self.processes.get_mut(n).with_context(|| format!("there is no host {n}"))
    }
}

/// Whether keepalived is here.
///
/// # Errors
/// How to get it.
pub fn available() -> Result<(), String> {
    let mut version = Command::new("keepalived");
    match version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) | Err(_) => Err("keepalived is missing: apt-get install keepalived".to_owned()),
    }
}

fn log_name(n: usize) -> String {
    format!("h{n}.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_home_to_some_addresses() {
        let spec = Spec { advert: Duration::from_millis(20), vips: 4 };
        let config = spec.config(1, 3);
        for part in ["vrrp_version 3", "advert_int 0.02", "10.77.0.203/32 dev eth0", "virtual_router_id 4"] {
            assert!(config.contains(part), "{part} in {config}");
        }
        let priorities: Vec<_> = config.lines().filter_map(|l| l.trim().strip_prefix("priority ")).collect();
        assert_eq!(priorities, ["240", "250", "230", "240"]);
        assert!(Spec::default().config(0, 3).contains("vrrp_version 2"));
    }
}
