//! What plugins hear of the node's events.

use flip_core::HookAction;
use flip_core::config::Config;
use flip_core::event::{Event, ItemState, Reason};
use flip_core::id::ItemRef;
use flip_systems::lua::plugin::{self, Phase};
use flip_systems::lua::reason;

/// The event as plugins are told it, if it is one of theirs.
pub fn to_plugins(event: &Event, config: &Config) -> Option<plugin::Event> {
    let told = |item: ItemRef, up, phase, why: Reason, error| {
        let system = &config.systems[item.system];
        Some(plugin::Event::Item {
            up,
            phase,
            system: system.name.clone(),
            item: system.items[item.item].name.clone(),
            reason: reason(why).to_owned(),
            error,
        })
    };
    match event {
        Event::Item { item, from, to, reason } => match (from, to) {
            (_, ItemState::Acquiring) => told(*item, true, Phase::Will, *reason, None),
            (_, ItemState::Releasing) => told(*item, false, Phase::Will, *reason, None),
            (ItemState::Acquiring, ItemState::Active) => told(*item, true, Phase::Did, *reason, None),
            (ItemState::Releasing, ItemState::Standby) => told(*item, false, Phase::Did, *reason, None),
            _ => None,
        },
        Event::HookFailed { item, action, error, .. } => {
            told(*item, *action != HookAction::Down, Phase::Did, Reason::HookFailed, Some(error.clone()))
        }
        Event::MemberUp { .. } | Event::MemberDown { .. } | Event::MemberLeft { .. } => {
            Some(plugin::Event::View)
        }
        _ => None,
    }
}
