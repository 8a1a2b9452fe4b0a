//! Looking who answers for an address, afresh and without the kernel's cache. Pure, driven with the time.
//!
//! The question is asked on the wire some times, because frames are lost, and answers are collected for a moment
//! after the first: where two hosts have the address, both say so.

use std::net::IpAddr;
use std::time::Duration;

use flip_core::Time;

use super::announce;
use super::proof::{self, Answer, SEEN};
use crate::interfaces::Mac;

/// Addresses that are looked for at a time; who asks for more gets no answer.
pub(super) const AT_ONCE: usize = 1024;
/// How often the question is asked on the wire.
const QUESTIONS: u32 = 4;
/// How far apart.
const PAUSE: Duration = Duration::from_millis(150);
/// How long others may answer beside the first.
const MORE: Duration = Duration::from_millis(100);

/// Who wants to know, and how the question is numbered there.
pub(super) type Asker = (usize, u32);

/// The interface on which an address is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct From {
    pub(super) index: u32,
    pub(super) mac: Mac,
    /// An address of this host on the same network.
    pub(super) ip: IpAddr,
}

/// What is looked for.
#[derive(Debug)]
pub(super) struct Looks {
    looks: Vec<Look>,
    /// Between two questions on the wire: many addresses may be looked for at once.
    pace: Duration,
    /// When the next one may be asked.
    free: Time,
}

#[derive(Debug)]
struct Look {
    ip: IpAddr,
    asker: Asker,
    from: From,
    asked: u32,
    due: Time,
    seen: Vec<Mac>,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Frames, each with the interface that it leaves by.
    pub(super) frames: Vec<(u32, Vec<u8>)>,
    /// What was found out.
    pub(super) found: Vec<(Asker, IpAddr, Answer)>,
}

impl Looks {
    /// Asks at most so many questions a second.
    pub(super) fn new(rate: u32) -> Self {
        Self { looks: Vec::new(), pace: Duration::from_secs(1) / rate.max(1), free: Time::ZERO }
    }

    /// Begins to look. False when too much is looked for already.
    pub(super) fn start(&mut self, ip: IpAddr, from: From, asker: Asker, now: Time) -> bool {
        if self.looks.len() >= AT_ONCE {
            return false;
        }
        let due = self.free.max(now);
        self.free = due + self.pace;
        self.looks.push(Look { ip, asker, from, asked: 0, due, seen: Vec::new() });
        true
    }

    /// A host says that it has an address, to a hardware address on an interface. What it says to all is no answer
    /// to the question: only a host that can be asked, and can answer, is reached by others.
    pub(super) fn told(&mut self, to: (u32, Mac), ip: IpAddr, mac: Mac, now: Time) {
        for look in self
            .looks
            .iter_mut()
            .filter(|look| look.ip == ip && (look.from.index, look.from.mac) == to && look.asked > 0)
        {
            if look.seen.is_empty() {
                look.due = proof::tick(now + MORE);
            }
            if !look.seen.contains(&mac) && look.seen.len() < SEEN {
                look.seen.push(mac);
            }
        }
    }

    /// What is due.
    pub(super) fn work(&mut self, now: Time) -> Work {
        let mut work = Work::default();
        self.looks.retain_mut(|look| {
            if look.due > now {
                return true;
            }
            if look.seen.is_empty() && look.asked < QUESTIONS {
                look.asked += 1;
                look.due = now + PAUSE;
                if let Some(frame) = announce::question(look.ip, look.from.ip, look.from.mac) {
                    work.frames.push((look.from.index, frame));
                    return true;
                }
            }
            work.found.push((look.asker, look.ip, Answer::Seen(std::mem::take(&mut look.seen))));
            false
        });
        work
    }

    /// When there is work.
    pub(super) fn next(&self) -> Option<Time> {
        self.looks.iter().map(|look| look.due).min()
    }

    /// Whether addresses of this family are looked for.
    pub(super) fn any(&self, v6: bool) -> bool {
        self.looks.iter().any(|look| look.ip.is_ipv6() == v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time::from_millis(1_000_000);
    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const FROM: From = From {
        index: 3,
        mac: Mac([2, 0, 0, 0, 0, 9]),
        ip: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    };

    const HERE: (u32, Mac) = (3, FROM.mac);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_question_is_asked_until_somebody_answers() {
        let mut looks = Looks::new(1000);
        assert!(looks.start(ip("192.0.2.7"), FROM, (1, 5), AT));
        assert!(looks.any(false) && !looks.any(true));
        // Heard before anything was asked: anybody may have said that any time.
        looks.told(HERE, ip("192.0.2.7"), B, AT);
        let frame = announce::question(ip("192.0.2.7"), FROM.ip, FROM.mac).unwrap();
        let asks = Work { frames: vec![(3, frame)], found: vec![] };
        assert_eq!(looks.work(AT), asks);
        assert_eq!(looks.next(), Some(AT + PAUSE));
        assert_eq!(looks.work(AT + PAUSE), asks);
        looks.told((4, FROM.mac), ip("192.0.2.7"), B, AT + PAUSE);
        looks.told(HERE, ip("192.0.2.8"), B, AT + PAUSE);
        looks.told((3, Mac([0xff; 6])), ip("192.0.2.7"), B, AT + PAUSE);
        let answered = AT + PAUSE + Duration::from_millis(1);
        looks.told(HERE, ip("192.0.2.7"), A, answered);
        looks.told(HERE, ip("192.0.2.7"), A, answered);
        assert_eq!(looks.work(AT + PAUSE), Work::default(), "others may answer too");
        let end = AT + PAUSE + 3 * MORE / 2;
        assert_eq!(looks.next(), Some(end), "a little later, with others");
        let found = Work { frames: vec![], found: vec![((1, 5), ip("192.0.2.7"), Answer::Seen(vec![A]))] };
        assert_eq!(looks.work(end), found);
        assert_eq!(looks.next(), None);
    }

    #[test]
    fn all_that_answer_are_named() {
        let mut looks = Looks::new(1000);
        looks.start(ip("192.0.2.7"), FROM, (1, 5), AT);
        looks.work(AT);
        for mac in [A, B] {
            looks.told(HERE, ip("192.0.2.7"), mac, AT);
        }
        assert_eq!(looks.work(AT + MORE).found, [((1, 5), ip("192.0.2.7"), Answer::Seen(vec![A, B]))]);
    }

    #[test]
    fn silence_is_an_answer() {
        let mut looks = Looks::new(1000);
        looks.start(ip("192.0.2.7"), FROM, (1, 5), AT);
        let mut now = AT;
        for _ in 0..QUESTIONS {
            assert_eq!(looks.work(now).frames.len(), 1);
            now += PAUSE;
        }
        assert_eq!(looks.work(now).found, [((1, 5), ip("192.0.2.7"), Answer::Seen(vec![]))]);
    }

    #[test]
    fn only_so_many_at_a_time() {
        let mut looks = Looks::new(1000);
        let started = (0..2 * AT_ONCE).filter(|_| looks.start(ip("192.0.2.7"), FROM, (1, 5), AT)).count();
        assert_eq!(started, AT_ONCE);
        // A thousand a second.
        assert_eq!(looks.work(AT).frames.len(), 1);
        assert_eq!(looks.work(AT + Duration::from_millis(100)).frames.len(), 100);
    }
}
