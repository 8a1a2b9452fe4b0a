//! What plugins hear of the node's events.

use flip_core::HookAction;
use flip_core::event::{Event, ItemState, Reason};
use flip_core::record::Record;
use flip_systems::lua::plugin::{self, Phase};
use flip_systems::lua::reason;

/// The event as plugins are told it, if it is one of theirs: with the names of its record.
pub fn to_plugins(event: &Event, record: &Record) -> Option<plugin::Event> {
    let told = |up, phase, why: Reason, error| {
        Some(plugin::Event::Item {
            up,
            phase,
            system: record.system.clone()?,
            item: record.item.clone()?,
            reason: reason(why).to_owned(),
            error,
        })
    };
    match event {
        Event::Item { from, to, reason, .. } => match (from, to) {
            (_, ItemState::Acquiring) => told(true, Phase::Will, *reason, None),
            (_, ItemState::Releasing) => told(false, Phase::Will, *reason, None),
            (ItemState::Acquiring, ItemState::Active) => told(true, Phase::Did, *reason, None),
            (ItemState::Releasing, ItemState::Standby) => told(false, Phase::Did, *reason, None),
            _ => None,
        },
        Event::HookFailed { action, error, .. } => {
            told(*action != HookAction::Down, Phase::Did, Reason::HookFailed, Some(error.clone()))
        }
        Event::MemberUp { .. } | Event::MemberDown { .. } | Event::MemberLeft { .. } => {
            Some(plugin::Event::View)
        }
        _ => None,
    }
}
