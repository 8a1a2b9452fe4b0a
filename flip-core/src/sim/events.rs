//! Which situations an event means.

use super::mark;
use super::world::World;
use crate::event::{AbstainReason, CaseCause, Event, ItemState, Reason, Refusal};

impl World {
    pub(super) fn mark_event(&self, event: &Event) {
        match event {
            Event::Started { .. } => {}
            Event::MemberUp { server, .. } => {
                if self.checker.verdicts > 0 && self.hosts[*server].life > 1 {
                    mark!("member: came back as a new generation");
                }
            }
            Event::MemberDown { .. } => mark!("member: down"),
            Event::MemberLeft { .. } => mark!("member: left"),
            Event::CaseOpened { cause, .. } => match cause {
                CaseCause::ProbeFailed => mark!("case: opened by a failed probe"),
                CaseCause::Suspicion => mark!("case: opened by a suspicion"),
                CaseCause::Ballot => mark!("case: opened by a ballot or hint"),
                CaseCause::PortUnreachable => mark!("case: opened by an unreachable port"),
                CaseCause::NeverSeen => mark!("case: opened for a server never seen"),
            },
            Event::CaseClosed { .. } => mark!("case: closed by a pong"),
            Event::BallotCast { .. } => {}
            Event::Abstained { reason, .. } => match reason {
                AbstainReason::NoContact => mark!("abstained: no contact"),
                AbstainReason::Stalled => mark!("abstained: stalled"),
                AbstainReason::WitnessSilent => mark!("abstained: witness silent"),
            },
            Event::DeclaredDown { .. } => mark!("generation: declared down and goes on"),
            Event::Isolated => mark!("isolated"),
            Event::QuorumSeen => mark!("quorum: seen again"),
            Event::Stalled { .. } => mark!("stalled"),
            Event::DuplicateId { .. } => mark!("duplicate id"),
            Event::ConfigDiffers { .. } => mark!("config: differs"),
            Event::ConfigChanged { .. } => mark!("adopt: a config was adopted"),
            Event::Outcast => {}
            Event::Item { to, reason, .. } => mark_item(*to, *reason),
            Event::HookFailed { failures, .. } => {
                mark!("hook: failed");
                if *failures >= 3 {
                    mark!("hook: failed three times");
                }
            }
            // The simulator's do not fail.
            Event::PostFailed { .. } | Event::Reloaded { .. } | Event::Asked { .. } => {}
            Event::Reannounced { .. } => mark!("reannounced"),
            // Nobody looks who answers in the simulator.
            Event::Confirmed { .. } | Event::AnsweredByOther { .. } => {}
            Event::CatalogFile { from: Some(_), .. } => mark!("catalog: a file came from another"),
            Event::CatalogFile { from: None, .. }
            | Event::CatalogConflict { .. }
            | Event::CatalogInvalid { .. }
            | Event::CatalogNotStored { .. } => {}
            Event::Drift { .. } => mark!("item: drift repaired"),
            Event::Usable { trouble: Some(_), .. } => mark!("ground: lost"),
            Event::Usable { trouble: None, .. } => mark!("ground: usable again"),
            Event::Returning { .. } => mark!("ground: returning"),
            // The simulator has no other hosts.
            Event::Conflict { .. } => {}
            Event::Lease { held: true, .. } => mark!("lease: held"),
            Event::Lease { held: false, .. } => mark!("lease: lost"),
            Event::Suspended { .. } => mark!("suspended"),
            Event::Drained { drained: true, .. } => mark!("drained"),
            Event::Drained { drained: false, .. } => mark!("undrained"),
            Event::Unclean { unclean: true, .. } => mark!("item: marked unclean"),
            Event::Unclean { unclean: false, .. } => mark!("item: confirmed released"),
            Event::KeysChanged { .. } => mark!("keys: changed"),
            Event::CheckFailed { .. } | Event::Health { .. } | Event::Inactive { .. } => {}
            Event::Refused { why, .. } => mark_refusal(*why),
        }
    }
}

fn mark_item(to: ItemState, reason: Reason) {
    match to {
        ItemState::Failing => mark!("item: failing"),
        ItemState::Unclean => mark!("item: unclean"),
        _ => {}
    }
    match reason {
        Reason::Home => mark!("item: home"),
        Reason::Failover => mark!("item: failover"),
        Reason::Leave => mark!("item: leave"),
        Reason::Failback => mark!("item: fail-back"),
        Reason::Adopted => mark!("item: adopted"),
        Reason::Shutdown => mark!("item: shutdown"),
        Reason::Isolated => mark!("item: taken in isolation"),
        Reason::LeaseLost => mark!("item: given up with its lease"),
        Reason::Drain => mark!("item: drain"),
        Reason::Unusable => mark!("item: given up without ground"),
        Reason::Removed => mark!("item: removed"),
        Reason::Redefined => mark!("item: redefined"),
        Reason::Inactive
        | Reason::Confirmed
        | Reason::Conflict
        | Reason::Drift
        | Reason::HealthCheck
        | Reason::HookFailed
        | Reason::HookDone => {}
    }
}

fn mark_refusal(why: Refusal) {
    match why {
        Refusal::Length => mark!("refused: length"),
        Refusal::Version => mark!("refused: version"),
        Refusal::Cluster => mark!("refused: another cluster"),
        Refusal::Sender => mark!("refused: sender"),
        Refusal::Replay => mark!("refused: replay"),
        Refusal::Seal => mark!("refused: damaged seal"),
        Refusal::Malformed => mark!("refused: malformed"),
        Refusal::Session => mark!("refused: session"),
        Refusal::Budget | Refusal::OwnId => {}
    }
}
