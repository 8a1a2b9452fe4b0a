//! An operator who changes the cluster's key by the commands of `flip key`, a step at a time, after a look
//! at what there is: whoever was asked may be dead by then, or the word lost.

use std::collections::VecDeque;
use std::time::Duration;

use super::adopt::sees;
use super::happening::Mail;
use super::world::World;
use crate::config::{ClusterKey, Config};
use crate::io::Command;
use crate::limits;
use crate::time::Time;
use crate::wire::ring::key_id;

/// How long an operator waits before looking again.
const PAUSE: Duration = Duration::from_millis(700);
/// The first of the new keys.
const FIRST: u8 = 100;

/// Changes of the key that are under way.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// Where the commands are given, one entry per new key.
    wanted: VecDeque<usize>,
    begun: u8,
    next: Option<Time>,
    /// What stands in all config files, which a daemon reads when it starts; none while it is what the case says.
    pub(super) in_files: Option<ClusterKey>,
}

impl World {
    /// One more change of the key is wanted.
    pub(super) fn rotate(&mut self, at: usize) {
        self.rotation.wanted.push_back(at);
    }

    /// The operator gives up, or everything is over: the keys stay what they are.
    pub(super) fn stop_rotating(&mut self) {
        self.rotation.wanted.pop_front();
        self.rotation.begun += 1;
    }

    /// The next step of the change that is under way, if it is time.
    pub(super) fn go_on_rotating(&mut self) {
        let Some(at) = self.rotation.wanted.front().copied() else { return };
        if self.rotation.next.is_some_and(|next| next > self.now) {
            return;
        }
        self.rotation.next = Some(self.now + PAUSE);
        let asks = |host: &usize| {
            self.hosts[*host].runs(self.now)
                && self.hosts[*host].node.as_ref().is_some_and(|node| node.has_quorum())
        };
        let Some(asked) = std::iter::once(at).chain(0..self.hosts.len()).find(asks) else { return };
        let Some(node) = self.hosts[asked].node.as_ref() else { return };
        let new = ClusterKey([FIRST + self.rotation.begun; 32]);
        let id = key_id(&new);
        let ring = node.ring();
        let there = ring.keys().contains(&new);
        let spare = ring.ids().find(|other| *other != ring.active());
        let spare = spare.filter(|_| ring.active() == id || !there && ring.keys().len() >= limits::KEYS);
        let command = if let Some(id) = spare {
            // Who is away could not come back with a key that is gone; and whoever loses what it learned
            // has only its file.
            let all = (0..self.hosts.len()).all(|host| sees(node, host) && node.has_keys(host));
            if !all {
                return;
            }
            self.rotation.in_files = ring.keys().iter().find(|key| key_id(key) == ring.active()).cloned();
            Command::KeyRemove { id }
        } else if !there {
            Command::KeyAdd { key: new }
        } else if ring.active() != id {
            Command::KeyUse { id }
        } else {
            super::mark!("keys: changed from the first step to the last");
            self.stop_rotating();
            return;
        };
        self.note(None, || format!("an operator asks n{asked} for {command:?}"));
        self.mail(asked, Mail::command(command));
    }

    /// Whether a daemon has started before its config file was changed, and cannot talk to the others since
    /// then: it forgot what it had learned.
    pub(super) fn has_old_key(&self, index: usize) -> bool {
        let Some(key) = &self.rotation.in_files else { return false };
        self.hosts[index].node.as_ref().is_some_and(|node| !node.ring().keys().contains(key))
    }

    /// The config file of a host as it is now.
    pub(super) fn read_file(&mut self, index: usize) {
        if let Some(configs) = &self.edited {
            self.hosts[index].config = std::sync::Arc::new(configs[index].clone());
        }
        self.read_changes(index);
        if let Some(key) = &self.rotation.in_files {
            let host = &mut self.hosts[index];
            host.config = std::sync::Arc::new(Config { key: key.clone(), ..(*host.config).clone() });
        }
    }
}
