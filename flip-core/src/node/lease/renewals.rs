//! Renewals: everything that a voter granted, by one digest (rule R3).

use std::time::Duration;

use super::super::{Node, Timer};
use crate::limits;
use crate::time::Time;
use crate::wire::message::{Message, Renew, Renewed};

impl Node {
    pub(super) fn renew_own(&mut self, now: Time) {
        let me = self.config.me;
        let Some(digest) = self.leases.holder.digest(me) else { return };
        let row = &self.leases.row;
        if self.leases.voter.renew(me, digest, self.leases.lease, |at| row.id(at), now) {
            self.leases.holder.renewed(me, now, now);
        } else {
            let claimed: Vec<_> = self.leases.holder.claimed().collect();
            self.claim_own(&claimed, now);
        }
    }

    pub(super) fn renewal_due(&self, voter: usize, now: Time) -> bool {
        self.renewal_is_older(voter, self.leases.lease / 8, now)
    }

    /// Whether the newest renewal is older than `pause`, or was not answered for a step.
    fn renewal_is_older(&self, voter: usize, pause: Duration, now: Time) -> bool {
        if self.leases.holder.digest(voter).is_none() {
            return false;
        }
        let Some(renewal) = self.leases.renewals.get(&voter) else { return true };
        if renewal.claimed.is_some_and(|at| now.since(at) < 2 * self.leases.step()) {
            return false;
        }
        let Some(sent) = renewal.sent else { return true };
        let eager = !renewal.answered() && renewal.unanswered < 16 && self.view.is_up(voter);
        now.since(sent) >= if eager { self.leases.step() } else { pause }
    }

    /// Something is about to be sent to this server: a renewal that is nearly due goes along.
    pub(in crate::node) fn renew_along(&mut self, to: usize, now: Time) {
        if self.leases.holder.count() > 0
            && self.config.voters.binary_search(&to).is_ok()
            && self.renewal_is_older(to, self.leases.lease / 16, now)
        {
            self.renew(to, now);
        }
    }

    pub(super) fn renew(&mut self, voter: usize, now: Time) {
        let Some(digest) = self.leases.holder.digest(voter) else { return };
        let lease_ms = self.leases.lease_ms();
        let renewal = self.leases.renewals.entry(voter).or_default();
        renewal.unanswered = if renewal.answered() { 0 } else { renewal.unanswered.saturating_add(1) };
        renewal.sent = Some(now);
        let renew = Renew {
            electorate: self.electorate,
            session: self.leases.holder.session(),
            sent: now.as_nanos(),
            lease_ms,
            digest,
        };
        self.send(voter, &Message::Renew(renew));
    }

    /// A renewal arrives at this voter.
    pub(in crate::node) fn on_renew(&mut self, from: usize, renew: &Renew, now: Time) {
        if renew.electorate != self.electorate {
            self.note_difference(from);
            return;
        }
        if !self.is_voter() {
            return;
        }
        let lease = Duration::from_millis(u64::from(renew.lease_ms)).min(limits::LEASE_MAX);
        let row = &self.leases.row;
        let done = self.leases.voter.renew(from, renew.digest, lease, |at| row.id(at), now);
        self.send(from, &Message::Renewed(Renewed { session: renew.session, sent: renew.sent, done }));
    }

    /// A voter answers a renewal of this node.
    pub(in crate::node) fn on_renewed(&mut self, voter: usize, renewed: Renewed, now: Time) {
        if renewed.session != self.leases.holder.session() {
            return;
        }
        let sent = Time::from_nanos(renewed.sent);
        let renewal = self.leases.renewals.entry(voter).or_default();
        if sent <= now {
            renewal.done = renewal.done.max(Some(sent));
        }
        if renewed.done {
            self.leases.holder.renewed(voter, sent, now);
        } else if self.leases.disagree.insert(voter) {
            let pause = self.leases.step();
            self.timers.set_earlier(Timer::Lease, now + pause);
        }
    }
}
