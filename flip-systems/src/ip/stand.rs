//! Telling the rules what items stand on, and what failed the kernel's own detection of duplicates.

use std::collections::BTreeMap;

use flip_core::config::Interface;

use super::address::{self, Bound};
use super::item::{Held, Part};
use super::{State, World};
use crate::system::Word;

impl World {
    /// Looks what each item stands on, and tells what is different.
    pub(super) fn look_at_ground(&self, state: &mut State) {
        let troubles = state.troubles();
        let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
        let mut well: BTreeMap<&str, usize> = BTreeMap::new();
        for (held, trouble) in state.items.iter().zip(&troubles) {
            match (&held.trouble, trouble) {
                (before, Some(text)) if before.as_ref() != Some(text) => {
                    *lost.entry(text.as_str()).or_default() += 1
                }
                (Some(text), None) => *well.entry(text.as_str()).or_default() += 1,
                (Some(_) | None, Some(_)) | (None, None) => continue,
            }
            self.drift.say(held.at, Word::Usable(trouble.clone()));
        }
        // One line for each link, however many items are on it.
        for (text, items) in lost {
            tracing::warn!(items, "{text}: items that need it go elsewhere");
        }
        for (text, items) in well {
            tracing::info!(items, "over: {text}");
        }
        for (held, trouble) in state.items.iter_mut().zip(troubles) {
            held.trouble = trouble;
        }
    }
}

impl State {
    /// For each item, why one of its addresses cannot be reached here.
    fn troubles(&mut self) -> Vec<Option<String>> {
        self.ground.look(self.parts.iter().map(|part| &part.interface), &self.links);
        let any_auto = self.parts.iter().any(|part| part.interface == Interface::Auto);
        let bound = if any_auto { self.bound().unwrap_or_default() } else { Vec::new() };
        let trouble = |part| self.ground.trouble(&part, &self.links, &bound);
        let parts = |held: &Held| self.parts[held.parts.clone()].iter().map(Part::wanted);
        let of = |held: &Held| if held.vacant { None } else { parts(held).find_map(trouble) };
        self.items.iter().map(of).collect()
    }

    /// A link got another name, and items go by the old one: what they had on it is taken away, because nobody
    /// would find it there.
    pub(super) fn leave_renamed(&mut self, index: u32, old: &str) {
        for part in &mut self.parts {
            let named = matches!(&part.interface, Interface::Name(name) if name == old);
            if let Some(installed) = part.installed.filter(|installed| named && installed.index() == index) {
                // The kernel's list is read after this.
                drop(self.netlink.delete_address(address::delete(installed.net(), index)));
            }
        }
    }

    /// Takes away what failed the kernel's detection of duplicates: it cannot be revived, only added anew.
    pub(super) fn clear_failed(&mut self, item: usize) -> Result<(), String> {
        for part in self.items[item].parts.clone() {
            let part = &self.parts[part];
            let place = (part.net.addr(), self.link_of(part).map(|link| link.index));
            let failed = |b: &&Bound| (b.net.addr(), Some(b.index)) == place;
            let Some(Bound { net, index, .. }) = self.failed.iter().find(failed).copied() else { continue };
            tracing::warn!("{net} failed duplicate address detection: it is put there anew");
            self.netlink
                .delete_address(address::delete(net, index))
                .map_err(|error| format!("cannot delete {net}, which is a duplicate: {error}"))?;
            self.failed.retain(|b| (b.net, b.index) != (net, index));
        }
        Ok(())
    }
}
