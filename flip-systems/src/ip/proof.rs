//! Proof of takeover: another member looks who answers for an address that was taken. Pure, driven with the time.
//!
//! ```text
//!            announced      no answer, or not on that network: the next member
//!            ┌────────▶ asking ◀───────────┐
//!  taken ────┘             │ ├─────────────┘
//!                          │ └ another hardware address answers ──▶ announced again ──▶ asked again
//!                          ▼ ours answers
//!                      confirmed
//! ```
//!
//! Nobody acknowledges an announcement. A former holder that still answers, a switch that sends frames to its
//! old port, or a filter in between: all of them look well from here. So a member that shares the network resolves
//! the address afresh, and says whose hardware address it got.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use flip_core::{Time, limits};

use crate::interfaces::Mac;

/// Between the first announcement and the first question: the former holder of a planned move has let go by then.
const DELAY: Duration = Duration::from_millis(500);
/// How long a member may take to answer: it looks for less than that, even for many addresses.
const PATIENCE: Duration = Duration::from_secs(2);
/// Before somebody is asked again who has seen another hardware address answer.
const AGAIN: Duration = Duration::from_secs(1);
/// Before all are asked again after none of them could tell.
const ROUND: Duration = Duration::from_secs(5);
/// How often the wrong one may answer, and how often all are asked.
const TRIES: u32 = 3;
/// Moments at which questions are asked and answered: so many addresses go into one message.
const TICK: Duration = Duration::from_millis(50);
/// The first byte of messages.
const FORMAT: u8 = 1;

/// What a member says of an address that it looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has no interface on that network.
    Elsewhere,
    /// Who answered; none when nobody did.
    Seen(Vec<Mac>),
}

/// What came of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Our own hardware address answered, and no other.
    Confirmed,
    /// Another one did.
    Other {
        mac: Mac,
        /// The address is to be announced again, and somebody is asked again.
        again: bool,
    },
}

/// The addresses that are to be confirmed, by key.
#[derive(Debug, Default)]
pub(super) struct Proofs<K> {
    asks: BTreeMap<K, Ask>,
    /// Numbers questions, so that no late answer is taken for another question's.
    number: u32,
}

#[derive(Debug)]
struct Ask {
    /// When somebody is to be asked next, or the one who is asked has taken too long.
    due: Time,
    asked: Option<(usize, u32)>,
    /// Who could not tell in this round.
    tried: Vec<usize>,
    rounds: u32,
    /// How often another hardware address answered.
    wrong: u32,
}

impl<K: Copy + Ord> Proofs<K> {
    /// An address was announced for the first time since it is here, or anew.
    pub(super) fn start(&mut self, key: K, now: Time) {
        let ask = Ask { due: tick(now + DELAY), asked: None, tried: Vec::new(), rounds: 0, wrong: 0 };
        self.asks.insert(key, ask);
    }

    /// Whether somebody is to look.
    pub(super) fn is_asking(&self, key: K) -> bool {
        self.asks.contains_key(&key)
    }

    /// Nobody needs to know any more.
    pub(super) fn stop(&mut self, key: K) {
        self.asks.remove(&key);
    }

    /// When [`Proofs::due`] has something to say.
    pub(super) fn next(&self) -> Option<Time> {
        self.asks.values().map(|ask| ask.due).min()
    }

    /// Which member is to be asked what now, under a number for each member. `members` are those that are up and
    /// may be asked, in this order.
    pub(super) fn due(&mut self, members: &[usize], now: Time) -> BTreeMap<(usize, u32), Vec<K>> {
        let mut questions: BTreeMap<usize, Vec<K>> = BTreeMap::new();
        for (key, ask) in self.asks.iter_mut().filter(|(_, ask)| ask.due <= now) {
            if let Some((silent, _)) = ask.asked.take() {
                ask.tried.push(silent);
            }
            match members.iter().find(|member| !ask.tried.contains(*member)) {
                Some(member) => {
                    questions.entry(*member).or_default().push(*key);
                    ask.due = tick(now + PATIENCE);
                }
                None => {
                    ask.tried.clear();
                    ask.rounds += 1;
                    ask.due = tick(now + ROUND);
                }
            }
        }
        self.asks.retain(|_, ask| ask.rounds < TRIES);
        let mut numbered = BTreeMap::new();
        for (member, keys) in questions {
            self.number = self.number.wrapping_add(1);
            for key in &keys {
                if let Some(ask) = self.asks.get_mut(key) {
                    ask.asked = Some((member, self.number));
                }
            }
            numbered.insert((member, self.number), keys);
        }
        numbered
    }

    /// A member answered a question. Nothing came of it where somebody else has to be asked, or nobody asked.
    pub(super) fn answered(
        &mut self,
        key: K,
        from: usize,
        number: u32,
        answer: &Answer,
        ours: Mac,
        now: Time,
    ) -> Option<Outcome> {
        let ask = self.asks.get_mut(&key).filter(|ask| ask.asked == Some((from, number)))?;
        let seen = match answer {
            Answer::Seen(seen) if !seen.is_empty() => seen,
            Answer::Elsewhere | Answer::Seen(_) => {
                ask.due = now;
                return None;
            }
        };
        let Some(other) = seen.iter().find(|mac| **mac != ours) else {
            self.asks.remove(&key);
            return Some(Outcome::Confirmed);
        };
        ask.wrong += 1;
        ask.asked = None;
        ask.due = tick(now + AGAIN);
        let (mac, again) = (*other, ask.wrong < TRIES);
        if !again {
            self.asks.remove(&key);
        }
        Some(Outcome::Other { mac, again })
    }
}

/// The next tick from this time on.
pub(super) fn tick(at: Time) -> Time {
    let tick = TICK.as_nanos() as u64;
    Time::from_nanos(at.as_nanos().div_ceil(tick).saturating_mul(tick))
}

/// The messages that ask for addresses.
pub(super) fn question(number: u32, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    messages(number, addresses.iter().map(|ip| address(*ip)))
}

/// What a question asks for.
pub(super) fn read_question(message: &[u8]) -> Option<(u32, Vec<IpAddr>)> {
    let (number, mut rest) = begin(message)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        found.push(read_address(&mut rest)?);
    }
    Some((number, found))
}

/// The messages that answer.
pub(super) fn reply(number: u32, answers: &[(IpAddr, Answer)]) -> Vec<Vec<u8>> {
    let one = |(ip, answer): &(IpAddr, Answer)| {
        let mut bytes = address(*ip);
        match answer {
            Answer::Elsewhere => bytes.push(u8::MAX),
            Answer::Seen(seen) => {
                let seen = &seen[..seen.len().min(SEEN)];
                bytes.push(seen.len() as u8);
                bytes.extend(seen.iter().flat_map(|mac| mac.0));
            }
        }
        bytes
    };
    messages(number, answers.iter().map(one))
}

/// Hardware addresses in one answer; more tell nothing more.
pub(super) const SEEN: usize = 3;

/// What an answer says.
pub(super) fn read_reply(message: &[u8]) -> Option<(u32, Vec<(IpAddr, Answer)>)> {
    let (number, mut rest) = begin(message)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let ip = read_address(&mut rest)?;
        let (count, after) = rest.split_first()?;
        rest = after;
        let answer = if *count == u8::MAX {
            Answer::Elsewhere
        } else {
            let (seen, after) = rest.split_at_checked(usize::from(*count) * 6)?;
            rest = after;
            Answer::Seen(seen.as_chunks::<6>().0.iter().map(|mac| Mac(*mac)).collect())
        };
        found.push((ip, answer));
    }
    Some((number, found))
}

fn messages(number: u32, entries: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let head = || [&[FORMAT][..], &number.to_be_bytes()].concat();
    let mut messages = Vec::new();
    let mut message = head();
    for entry in entries {
        if message.len() + entry.len() > limits::ASIDE {
            messages.push(std::mem::replace(&mut message, head()));
        }
        message.extend(entry);
    }
    messages.push(message);
    messages
}

fn begin(message: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = message.strip_prefix(&[FORMAT])?.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

fn address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => [&[4][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[6][..], &ip.octets()].concat(),
    }
}

fn read_address(rest: &mut &[u8]) -> Option<IpAddr> {
    let (family, after) = rest.split_first()?;
    let (ip, after) = match family {
        4 => after.split_first_chunk::<4>().map(|(ip, after)| (IpAddr::from(*ip), after)),
        6 => after.split_first_chunk::<16>().map(|(ip, after)| (IpAddr::from(*ip), after)),
        _ => None,
    }?;
    *rest = after;
    Some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time::from_millis(1_000_000);
    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn seen(macs: &[Mac]) -> Answer {
        Answer::Seen(macs.to_vec())
    }

    fn asked(questions: &BTreeMap<(usize, u32), Vec<u32>>) -> Vec<(usize, Vec<u32>)> {
        questions.iter().map(|((member, _), keys)| (*member, keys.clone())).collect()
    }

    fn number(questions: &BTreeMap<(usize, u32), Vec<u32>>) -> u32 {
        questions.keys().next().expect("a question").1
    }

    #[test]
    fn the_next_member_is_asked_and_its_word_counts() {
        let mut proofs = Proofs::default();
        assert_eq!(proofs.next(), None);
        for key in [5, 6] {
            proofs.start(key, AT);
        }
        assert_eq!(proofs.next(), Some(AT + DELAY));
        assert!(proofs.due(&[2, 3, 0], AT).is_empty(), "not yet");
        let now = AT + DELAY;
        let questions = proofs.due(&[2, 3, 0], now);
        assert_eq!(asked(&questions), [(2, vec![5, 6])], "one message for both");
        let n = number(&questions);
        assert_eq!(proofs.answered(5, 3, n, &seen(&[OURS]), OURS, now), None, "it was not asked");
        assert_eq!(proofs.answered(5, 2, n + 1, &seen(&[OURS]), OURS, now), None, "another question");
        assert_eq!(proofs.answered(5, 2, n, &seen(&[OURS]), OURS, now), Some(Outcome::Confirmed));
        assert_eq!(proofs.answered(5, 2, n, &seen(&[OURS]), OURS, now), None, "said once");
        proofs.stop(6);
        assert_eq!(proofs.next(), None);
    }

    /// Addresses that were announced one after the other go into one question.
    #[test]
    fn questions_are_gathered() {
        let mut proofs = Proofs::default();
        for key in 0..100u32 {
            proofs.start(key, AT + Duration::from_micros(10) * (key + 1));
        }
        let first = proofs.next().unwrap();
        assert_eq!(first, AT + DELAY + TICK);
        assert_eq!(asked(&proofs.due(&[1], first)), [(1, (0..100).collect())]);
    }

    #[test]
    fn who_is_silent_elsewhere_or_saw_nobody_is_passed_over() {
        let answers = [None, Some(Answer::Elsewhere), Some(seen(&[]))];
        for answer in answers {
            let mut proofs = Proofs::default();
            proofs.start(1, AT);
            let mut now = AT + DELAY;
            for member in [3, 0, 2] {
                let questions = proofs.due(&[3, 0, 2], now);
                assert_eq!(asked(&questions), [(member, vec![1])], "{answer:?}");
                match &answer {
                    Some(answer) => {
                        assert_eq!(proofs.answered(1, member, number(&questions), answer, OURS, now), None);
                        assert_eq!(proofs.next(), Some(now), "at once");
                    }
                    None => now += PATIENCE,
                }
            }
            // All over again, some times, and then it stays unproven.
            for _ in 1..TRIES {
                assert!(proofs.due(&[3, 0, 2], now).is_empty());
                now += ROUND;
                for _ in 0..3 {
                    assert_eq!(proofs.due(&[3, 0, 2], now).len(), 1);
                    now += PATIENCE;
                }
            }
            assert!(proofs.due(&[3, 0, 2], now).is_empty());
            assert_eq!(proofs.next(), None);
        }
    }

    #[test]
    fn where_another_answers_it_is_asked_again() {
        let mut proofs = Proofs::default();
        proofs.start(1, AT);
        let mut now = AT + DELAY;
        for time in 1..=TRIES {
            let questions = proofs.due(&[4], now);
            assert_eq!(asked(&questions), [(4, vec![1])]);
            let outcome = proofs.answered(1, 4, number(&questions), &seen(&[OURS, OTHER]), OURS, now);
            let again = time < TRIES;
            assert_eq!(outcome, Some(Outcome::Other { mac: OTHER, again }), "one too many is enough");
            assert_eq!(proofs.next(), (time < TRIES).then_some(now + AGAIN));
            now += AGAIN;
        }
        // It comes right.
        proofs.start(1, now);
        now += DELAY;
        let n = number(&proofs.due(&[4], now));
        assert_eq!(
            proofs.answered(1, 4, n, &seen(&[OTHER]), OURS, now),
            Some(Outcome::Other { mac: OTHER, again: true })
        );
        now += AGAIN;
        let n = number(&proofs.due(&[4], now));
        assert_eq!(proofs.answered(1, 4, n, &seen(&[OURS]), OURS, now), Some(Outcome::Confirmed));
    }

    #[test]
    fn without_members_nobody_is_asked() {
        let mut proofs = Proofs::default();
        proofs.start(1, AT);
        let mut now = AT + DELAY;
        for _ in 0..TRIES {
            assert!(proofs.due(&[], now).is_empty());
            now += ROUND;
        }
        assert_eq!(proofs.next(), None);
    }

    #[test]
    fn messages_come_back_and_damage_is_noticed() {
        let mut addresses: Vec<IpAddr> = (0..250u8).map(|n| [192, 0, 2, n].into()).collect();
        addresses.push("2001:db8::1".parse().unwrap());
        let messages = question(77, &addresses);
        assert!(messages.len() == 2 && messages.iter().all(|message| message.len() <= limits::ASIDE));
        let back: Vec<_> = messages.iter().flat_map(|m| read_question(m).unwrap().1).collect();
        assert_eq!(back, addresses);
        let answers = vec![
            (addresses[0], Answer::Elsewhere),
            (addresses[1], seen(&[])),
            (addresses[250], seen(&[OURS, OTHER])),
        ];
        let message = reply(78, &answers).concat();
        assert_eq!(read_reply(&message), Some((78, answers.clone())));
        for end in 0..message.len() {
            if let Some((_, found)) = read_reply(&message[..end]) {
                assert!(found.len() < answers.len() && found[..] == answers[..found.len()], "cut to {end}");
            }
            for value in [0, 1, 4, 6, 254, 255] {
                let mut damaged = message.clone();
                damaged[end] = value;
                let _ = (read_reply(&damaged), read_question(&damaged));
            }
        }
        let many: Vec<_> = addresses.iter().map(|ip| (*ip, seen(&[OURS; 9]))).collect();
        let messages = reply(1, &many);
        assert!(messages.iter().all(|message| message.len() <= limits::ASIDE));
        assert_eq!(read_reply(&messages[0]).unwrap().1[0].1, seen(&[OURS; SEEN]));
    }
}
