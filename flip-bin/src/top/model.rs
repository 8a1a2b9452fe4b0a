//! What `flip top` shows and what keys do to it. It reads no terminal and asks no daemon.

use std::collections::VecDeque;

use flip_core::event::ItemState;
use flip_core::status::{ItemStatus, MemberStatus, Status};

/// Events that are kept to be scrolled through.
pub const EVENTS: usize = 500;

/// Which part the arrow keys move in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    #[default]
    Members,
    Items,
    Events,
}

/// What lies over everything else until it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Popup {
    /// A text to be read, scrolled down by so many lines.
    Text { title: String, text: String, scroll: u16 },
    /// A wish that has to be confirmed.
    Confirm { question: String, wish: Wish },
    /// To which server an item is to be moved.
    Choose { item: String, servers: Vec<String>, at: usize },
    /// The text that items are filtered by.
    Filter,
}

/// What the daemon is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Drain(String),
    Undrain(String),
    Move { system: String, item: String, to: String },
    Why(String),
    Announce(String),
    Retry(String),
}

/// A key, as far as it means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    Page(i16),
    Next,
    Enter,
    Escape,
    Back,
    /// Whatever is open.
    Quit,
    Letter(char),
}

/// What came of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    Ask(Wish),
    Quit,
}

#[derive(Debug, Default)]
pub struct Model {
    pub status: Option<Status>,
    /// Newest last: when it happened on the wall clock of the daemon, for people, and what.
    pub events: VecDeque<(String, String)>,
    /// Why there is nothing newer than what is shown; none while the daemon answers.
    pub lost: Option<String>,
    pub part: Part,
    /// The selected row of members and of items, and how many events are scrolled back.
    pub at: [usize; 3],
    pub filter: String,
    pub popup: Option<Popup>,
    /// What the daemon said last, and whether it refused.
    pub said: Option<(String, bool)>,
}

impl Model {
    pub fn show(&mut self, status: Status) {
        self.status = Some(status);
        self.lost = None;
        self.stay_inside();
    }

    pub fn tell(&mut self, when: String, what: String) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((when, what));
        if self.at[2] > 0 {
            // Whoever reads back is not carried along.
            self.at[2] = (self.at[2] + 1).min(self.events.len());
        }
    }

    pub fn members(&self) -> &[MemberStatus] {
        self.status.as_ref().map_or(&[], |status| &status.members)
    }

    /// The items that the filter lets through.
    pub fn items(&self) -> impl Iterator<Item = &ItemStatus> {
        let all = self.status.as_ref().map_or(&[][..], |status| &status.items);
        all.iter().filter(|item| {
            self.filter.is_empty()
                || item.item.contains(&self.filter)
                || item.system.contains(&self.filter)
                || item.holders.iter().any(|holder| holder.server == self.filter)
        })
    }

    pub fn key(&mut self, key: Key) -> Effect {
        if key == Key::Quit {
            return Effect::Quit;
        }
        if let Some(popup) = self.popup.take() {
            return self.key_of_popup(popup, key);
        }
        match key {
            Key::Up => self.step(-1),
            Key::Down => self.step(1),
            Key::Page(by) => self.step(isize::from(by)),
            Key::Next => {
                self.part = match self.part {
                    Part::Members => Part::Items,
                    Part::Items => Part::Events,
                    Part::Events => Part::Members,
                }
            }
            Key::Escape if !self.filter.is_empty() => self.filter.clear(),
            Key::Quit | Key::Letter('q') | Key::Escape => return Effect::Quit,
            Key::Letter('/') => self.popup = Some(Popup::Filter),
            Key::Letter('?') => self.popup = Some(help()),
            Key::Letter('d') => return self.drain(),
            Key::Letter('w') | Key::Enter => {
                if let Some(item) = self.selected_item() {
                    return Effect::Ask(Wish::Why(item.item.clone()));
                }
            }
            Key::Letter('m') => self.choose(),
            Key::Letter('a') => return self.ask_of_item(Wish::Announce),
            Key::Letter('r') => return self.ask_of_item(Wish::Retry),
            Key::Back | Key::Letter(_) => {}
        }
        self.stay_inside();
        Effect::Nothing
    }

    fn key_of_popup(&mut self, popup: Popup, key: Key) -> Effect {
        match (popup, key) {
            (Popup::Confirm { wish, .. }, Key::Enter | Key::Letter('y')) => return Effect::Ask(wish),
            (Popup::Confirm { .. }, _) | (_, Key::Escape) => {}
            (Popup::Text { title, text, scroll }, Key::Up | Key::Down | Key::Page(_)) => {
                let by = match key {
                    Key::Up => -1,
                    Key::Page(by) => by,
                    _ => 1,
                };
                let lines = u16::try_from(text.lines().count()).unwrap_or(u16::MAX);
                let scroll = scroll.saturating_add_signed(by).min(lines.saturating_sub(1));
                self.popup = Some(Popup::Text { title, text, scroll });
            }
            (Popup::Text { .. }, _) => {}
            (Popup::Choose { item, servers, at }, Key::Enter) => {
                let system = self.items().find(|i| i.item == item).map(|i| i.system.clone());
                if let (Some(to), Some(system)) = (servers.get(at).cloned(), system) {
                    return Effect::Ask(Wish::Move { system, item, to });
                }
            }
            (Popup::Choose { item, servers, at }, key) => {
                let at = match key {
                    Key::Up => at.saturating_sub(1),
                    Key::Down => (at + 1).min(servers.len().saturating_sub(1)),
                    _ => at,
                };
                self.popup = Some(Popup::Choose { item, servers, at });
            }
            (Popup::Filter, key) => {
                match key {
                    Key::Letter(letter) => self.filter.push(letter),
                    Key::Back => drop(self.filter.pop()),
                    Key::Enter => {
                        self.part = Part::Items;
                        self.stay_inside();
                        return Effect::Nothing;
                    }
                    _ => {}
                }
                self.popup = Some(Popup::Filter);
            }
        }
        self.stay_inside();
        Effect::Nothing
    }

    fn drain(&mut self) -> Effect {
        if self.part != Part::Members {
            return Effect::Nothing;
        }
        let Some(member) = self.members().get(self.at[0]) else { return Effect::Nothing };
        let id = member.id.clone();
        if member.drained {
            return Effect::Ask(Wish::Undrain(id));
        }
        let held =
            |item: &&ItemStatus| item.holders.iter().any(|h| h.server == id && h.state == ItemState::Active);
        let held = self.status.iter().flat_map(|s| &s.items).filter(held).count();
        let question = format!("Move the {held} items of {id} to other servers, until it is undrained?");
        self.popup = Some(Popup::Confirm { question, wish: Wish::Drain(id) });
        Effect::Nothing
    }

    fn choose(&mut self) {
        let Some(item) = self.selected_item() else { return };
        let holds =
            |id: &String| item.holders.iter().any(|h| h.server == *id && h.state == ItemState::Active);
        let servers = self.members().iter().filter(|m| !m.arbiter).map(|m| m.id.clone());
        let servers = servers.filter(|id| !holds(id)).collect();
        let item = item.item.clone();
        self.popup = Some(Popup::Choose { item, servers, at: 0 });
    }

    fn ask_of_item(&self, wish: fn(String) -> Wish) -> Effect {
        self.selected_item().map_or(Effect::Nothing, |item| Effect::Ask(wish(item.item.clone())))
    }

    fn selected_item(&self) -> Option<&ItemStatus> {
        self.items().nth(self.at[1]).filter(|_| self.part == Part::Items)
    }

    fn step(&mut self, by: isize) {
        let (at, by) = match self.part {
            Part::Members => (&mut self.at[0], by),
            Part::Items => (&mut self.at[1], by),
            // Up is back in time.
            Part::Events => (&mut self.at[2], -by),
        };
        *at = at.saturating_add_signed(by);
    }

    fn stay_inside(&mut self) {
        let most = [self.members().len(), self.items().count(), self.events.len()];
        for (at, most) in self.at.iter_mut().zip(most) {
            *at = (*at).min(most.saturating_sub(1));
        }
    }
}

fn help() -> Popup {
    let text = "\
tab         members, items, events
up, down    select; in events: back and forth
/           filter items by a part of the name, a system or a holder
w, enter    why is this item where it is
m           move this item to another server
d           drain this server, or end that
a           announce this item again (where it is on this host)
r           try failed hooks of this item again
q           quit";
    Popup::Text { title: "keys".to_owned(), text: text.to_owned(), scroll: 0 }
}
