//! Changes of who votes: one server at a time, and only when the voters of before agree to it (rule R9).
//!
//! # Why this is safe
//!
//! Leases and verdicts rest on one thing: two quorums of voters have somebody in common. Let E0, E1, E2 be electorates
//! that follow each other, and a quorum a majority of one of them.
//!
//! - E0 and E1 differ by one voter. Then every majority of one has somebody in common with every majority of the
//!   other. Whoever is in both quorums has changed from E0 to E1 at one moment. Before it, it answered only claims
//!   of E0 (an answer goes to claims of the own electorate alone), after it only claims of E1; and when it changed, it
//!   promised nothing new before all promises of before were over (`Leases::electorate_changed`). So at no instant
//!   do both quorums hold.
//! - E0 and E2 may have disjoint majorities. So E2 is not begun before no majority works with E0 any more: a proposer
//!   needs a majority of E1 that accepts, and a voter accepts only a proposal of the electorate that it works
//!   with itself. That majority has adopted E1, and so those that may still be at E0 are at most half of E0: with n voters
//!   in E0, at least ⌊(n+1)/2⌋ of them have adopted E1 where it has one more voter, and ⌊(n-1)/2⌋+1 where it has one
//!   fewer.
//! - Two proposers at once would make of E0 both E1 and E1', which together change two votes. A voter accepts one
//!   proposal in [`limits::PROPOSAL_LIFE`], two majorities have a voter in common, and so one of the two waits. The
//!   proposer writes what was accepted at once, or lets it be. A voter that has just started does not know what it
//!   accepted before, so it accepts nothing for as long.
//!
//! What remains: a proposer that is cut off between its own disk and all others for longer than that life, while
//! another change is made, brings a second change when it is back; its electorate differs by one from the present
//! one, but a part that missed the other change meanwhile differs by two. `--force`, a restart with an edited file and a
//! file of a higher version that another server adopts go without all this, and are for clusters in which nothing is
//! `drop`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Replica, Wish};
use crate::config::Config;
use crate::id::ShortId;
use crate::limits;
use crate::node::Node;
use crate::quorum;
use crate::time::Time;
use crate::wire::message::{Accepted, Message, Propose};

const PAUSE: Duration = Duration::from_millis(100);

/// What a voter of this node's electorate has agreed to, and what this node wants agreed.
#[derive(Default)]
pub(super) struct Voters {
    proposal: Option<Proposal>,
    /// Whose proposal was accepted last, which, and when.
    accepted: Option<(ShortId, u64, Time)>,
    next: u64,
}

struct Proposal {
    id: u64,
    wish: Wish,
    /// When it was begun; none before it was said.
    since: Option<Time>,
    again: Time,
    accepted: BTreeSet<ShortId>,
    refused: BTreeSet<u8>,
}

impl Voters {
    pub(super) fn park(&mut self, wish: Wish) {
        self.next += 1;
        self.proposal = Some(Proposal {
            id: self.next,
            wish,
            since: None,
            again: Time::ZERO,
            accepted: BTreeSet::new(),
            refused: BTreeSet::new(),
        });
    }

    pub(super) fn due(&self) -> Option<Time> {
        self.proposal.as_ref().map(|proposal| proposal.again)
    }
}

fn names(config: &Config) -> BTreeSet<&str> {
    config.voters.iter().map(|voter| config.servers[*voter].id.as_str()).collect()
}

/// Ids of those that vote before or after, and not both. A quorum that changes alone changes everybody's vote.
pub(super) fn changed(before: &Config, after: &Config) -> Vec<String> {
    let (was, is) = (names(before), names(after));
    let own = |config: &Config| config.quorum != quorum::majority(config.voters.len());
    if was == is && before.quorum != after.quorum && (own(before) || own(after)) {
        return was.into_iter().take(1).map(str::to_owned).collect();
    }
    was.symmetric_difference(&is).map(|id| (*id).to_owned()).collect()
}

/// Who voted before, where that changes.
pub(super) fn former(before: &Config, after: &Config) -> Option<BTreeSet<ShortId>> {
    let ids = before.voters.iter().map(|voter| before.servers[*voter].short);
    (!changed(before, after).is_empty()).then(|| ids.collect())
}

impl Replica {
    /// Whether a wish that comes to this config has to be agreed to first.
    ///
    /// # Errors
    /// When it changes more than one vote, or another such change is under way.
    pub(super) fn may_change_voters(
        &self,
        before: &Config,
        after: &Config,
        wish: &Wish,
    ) -> Result<bool, String> {
        let changed = changed(before, after);
        if changed.is_empty() || wish.force {
            return Ok(false);
        }
        if changed.len() > 1 {
            return Err(format!(
                "this changes {} votes at once ({}); change one server at a time, or use --force",
                changed.len(),
                changed.join(", ")
            ));
        }
        if self.voters.proposal.is_some() || self.storing.is_some() {
            return Err("another change of who votes is under way on this server; wait for its end".into());
        }
        Ok(!wish.granted)
    }
}

impl Node {
    /// Asks the voters, when there is something to be asked that was not yet.
    pub(super) fn propose(&mut self) {
        let now = self.now;
        let proposal = self.replica.as_ref().and_then(|replica| replica.voters.proposal.as_ref());
        if proposal.is_some_and(|proposal| proposal.since.is_none()) {
            self.repeat_proposal(now);
            self.plan_catalog_timer();
        }
    }

    pub(super) fn repeat_proposal(&mut self, now: Time) {
        let (me, electorate) = (self.config.my().short, self.electorate);
        let votes = self.is_voter();
        let young = now.since(self.started) < limits::PROPOSAL_LIFE;
        let Some(replica) = &mut self.replica else { return };
        let Some(proposal) = &mut replica.voters.proposal else { return };
        if proposal.again > now {
            return;
        }
        let since = *proposal.since.get_or_insert(now);
        // Half of the life is left for the disks.
        if now >= proposal.wish.until || now.since(since) >= limits::PROPOSAL_LIFE / 2 {
            let why = explain(&proposal.refused);
            let asker = proposal.wish.asker;
            let (agreed, all) = (proposal.accepted.len(), self.config.voters.len());
            let result = Err(format!(
                "nothing was changed: {agreed} of {all} voters agreed to a change of who votes, a majority has to{why}"
            ));
            replica.voters.proposal = None;
            return self.done(asker, result);
        }
        proposal.again = now + PAUSE;
        let id = proposal.id;
        let accepted = &mut replica.voters.accepted;
        let free = |(of, _, at): &(ShortId, u64, Time)| *of == me || now.since(*at) >= limits::PROPOSAL_LIFE;
        // A voter alone has nobody to disagree with.
        if votes && (!young || self.config.voters.len() == 1) && accepted.as_ref().is_none_or(free) {
            *accepted = Some((me, id, now));
            proposal.accepted.insert(me);
        }
        let message = Message::Propose(Propose { electorate, id });
        for voter in self.config.voters.clone() {
            if voter != self.config.me && self.view.is_up(voter) {
                self.send(voter, &message);
            }
        }
        self.count_accepted();
    }

    pub(in crate::node) fn on_propose(&mut self, server: usize, propose: Propose, now: Time) {
        let short = self.config.servers[server].short;
        let young = now.since(self.started) < limits::PROPOSAL_LIFE;
        let (electorate, votes) = (self.electorate, self.is_voter());
        let Some(replica) = &mut self.replica else { return };
        if !votes {
            return;
        }
        let taken = replica.voters.accepted.filter(|(of, id, at)| {
            (*of, *id) != (short, propose.id) && now.since(*at) < limits::PROPOSAL_LIFE
        });
        // What is on its way to this disk may be such a change.
        let refused = if electorate != propose.electorate || replica.storing.is_some() {
            1
        } else if taken.is_some() {
            2
        } else if young {
            3
        } else {
            replica.voters.accepted = Some((short, propose.id, now));
            0
        };
        self.send(server, &Message::Accepted(Accepted { id: propose.id, refused }));
    }

    pub(in crate::node) fn on_accepted(&mut self, server: usize, accepted: Accepted) {
        let short = self.config.servers[server].short;
        let Some(replica) = &mut self.replica else { return };
        let Some(proposal) = replica.voters.proposal.as_mut().filter(|proposal| proposal.id == accepted.id)
        else {
            return;
        };
        if accepted.refused == 0 {
            proposal.accepted.insert(short);
            self.count_accepted();
        } else {
            proposal.refused.insert(accepted.refused);
        }
    }

    fn count_accepted(&mut self) {
        let needed = quorum::majority(self.config.voters.len());
        let voters: BTreeSet<_> =
            self.config.voters.iter().map(|voter| self.config.servers[*voter].short).collect();
        let Some(replica) = &mut self.replica else { return };
        let Some(proposal) = replica
            .voters
            .proposal
            .take_if(|proposal| proposal.accepted.intersection(&voters).count() >= needed)
        else {
            return;
        };
        // All others wait for the next.
        replica.waiting.wishes.push_front(Wish { granted: true, ..proposal.wish });
        self.catalog_turn();
    }
}

fn explain(refused: &BTreeSet<u8>) -> String {
    let why = |code: &u8| match code {
        1 => "an earlier change has not come to all",
        2 => "another server changes who votes",
        3 => "some have just started, and agree to nothing for 10 s",
        _ => "some refuse",
    };
    if refused.is_empty() {
        return "; the others do not answer".into();
    }
    format!(": {}; try again", refused.iter().map(why).collect::<Vec<_>>().join(", "))
}
