//! How a system speaks to its like on other servers, beside the rules.
//!
//! What is said goes out once, sealed as everything, to who is up; it may be lost or overtaken. It is for
//! what helps when it arrives and is missed by nobody otherwise: neighbours that another server has seen, a
//! request to look whether an address answers. What must not be lost belongs into the core.
//!
//! Servers have numbers here, which are those of their positions in the config that the systems were opened with. A
//! server keeps its number when the config changes, and one that is new gets the next: [`Bus::number`].

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, Weak};

use flip_core::id::ItemRef;
use flip_core::{Answered, limits};
use tokio::sync::Notify;

use crate::ip::World;

/// Messages that wait for the loop. It takes them as fast as it can, so this many are a burst.
pub const WAITING: usize = 1024;

/// What messages are about. Numbers from 128 up are for the systems of programs that embed a node.
pub mod topic {
    /// Neighbours that a server's interfaces have seen.
    pub const NEIGHBOURS: u8 = 1;
    /// Asks the receiver to resolve addresses afresh.
    pub const RESOLVE: u8 = 2;
    /// Who answered.
    pub const RESOLVED: u8 = 3;
    /// Hardware addresses of the sender's interfaces.
    pub const MACS: u8 = 4;
    /// Who is connected to an address (`ip::connections`).
    pub const CONNECTIONS: u8 = 16;
}

/// Something for systems of other servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Number of the server that is to hear it; none for all.
    pub to: Option<usize>,
    /// What it is about.
    pub topic: u8,
    /// At most [`limits::ASIDE`] bytes.
    pub data: Vec<u8>,
}

/// Takes what systems say. Given to [`Handler::open`](crate::system::Handler::open).
#[derive(Debug, Default)]
pub struct Bus {
    waiting: Mutex<VecDeque<Said>>,
    notify: Notify,
    /// Who is up, but for this server.
    members: Mutex<Vec<usize>>,
    confirmed: Mutex<VecDeque<Confirmed>>,
    confirms: Notify,
    /// The numbers of the servers, by position in the config; without any, each has its position.
    numbers: Mutex<Vec<usize>>,
    /// What the ip systems that speak here share.
    pub(crate) world: Mutex<Weak<World>>,
}

/// What another server saw of an item that is here, for `Input::Confirmed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The item.
    pub item: ItemRef,
    /// Number of the server that looked.
    pub by: usize,
    /// Who answered.
    pub answered: Answered,
}

impl Bus {
    /// The number of the server at this position of the config that is in use now.
    #[must_use]
    pub fn number(&self, position: usize) -> usize {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.get(position).copied().unwrap_or(position)
    }

    /// The position of the server with this number; none for one that the config has no more.
    pub(crate) fn position(&self, number: usize) -> Option<usize> {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.is_empty() { Some(number) } else { numbers.iter().position(|known| *known == number) }
    }

    pub(crate) fn set_numbers(&self, numbers: Vec<usize>) {
        *self.numbers.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
    }

    /// Says something to the server with the number `to`, or to all that are up. False when it is
    /// too long or too much waits: then it is not said.
    pub fn say(&self, to: Option<usize>, topic: u8, data: Vec<u8>) -> bool {
        if data.len() > limits::ASIDE {
            return false;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING {
            return false;
        }
        waiting.push_back(Said { to, topic, data });
        drop(waiting);
        self.notify.notify_one();
        true
    }

    /// The other servers that are up as far as this one knows: their numbers.
    #[must_use]
    pub fn members(&self) -> Vec<usize> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_members(&self, members: Vec<usize>) {
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = members;
    }

    /// Tells the rules what another server saw of an item that is here. Of too many, the oldest are lost.
    pub fn confirm(&self, confirmed: Confirmed) {
        let mut all = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= WAITING {
            all.pop_front();
        }
        all.push_back(confirmed);
        drop(all);
        self.confirms.notify_one();
    }

    pub(crate) fn take_confirmed(&self) -> Option<Confirmed> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(crate) fn take(&self) -> Option<Said> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(crate) async fn next_confirmed(&self) -> Confirmed {
        loop {
            if let Some(next) = self.take_confirmed() {
                return next;
            }
            self.confirms.notified().await;
        }
    }

    pub(crate) async fn next(&self) -> Said {
        loop {
            if let Some(said) = self.take() {
                return said;
            }
            self.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_in_order_and_has_limits() {
        let bus = Bus::default();
        assert!(!bus.say(None, 1, vec![0; limits::ASIDE + 1]));
        for n in 0..WAITING {
            assert!(bus.say(Some(n), 1, vec![0; limits::ASIDE]));
        }
        assert!(!bus.say(None, 1, Vec::new()), "no more than that");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for n in 0..WAITING {
                assert_eq!(bus.next().await.to, Some(n));
            }
            // Somebody who waits is woken.
            let (sent, said) = tokio::join!(async { bus.say(None, 7, vec![1]) }, bus.next());
            assert!(sent);
            assert_eq!(said, Said { to: None, topic: 7, data: vec![1] });
        });
    }
}
