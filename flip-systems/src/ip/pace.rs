//! Which announcement is sent next, and when: pure, driven with the time.
//!
//! ```text
//!  start ──▶ due ──▶ sent: round n ──▶ due: round n + 1 … for as long as the schedule goes on
//!             │            └ round 0 is sent: the neighbours that are told each, one by one
//!             └ waits while the daemon has sent as many frames as it may
//! ```
//!
//! Many addresses may move at once, and a switch passes on so many broadcasts a second to its hosts, or to its
//! own processor. So the frames of the whole daemon go through one leaky bucket. What is sent first is what
//! most depends on: the first announcement of every address comes before the second of any, and neighbours that
//! are told each come when nothing else is due, one of each address in turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use flip_core::Time;
use flip_core::config::Announce;

use crate::interfaces::Mac;

/// Neighbours that are told of one address each; more are left to the broadcasts.
pub(super) const TARGETS: usize = 8192;

/// A neighbour that is told of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) ip: IpAddr,
    /// Where it is known: it is told alone.
    pub(super) mac: Option<Mac>,
}

/// What is to be sent of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Announcement number so much, from 0, to everybody.
    All(u32),
    /// To one neighbour.
    To(Target),
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next<K> {
    /// This, now.
    Send(K, What),
    /// Nothing before this time.
    At(Time),
    /// Nothing.
    Never,
}

/// All announcements of a daemon. An address is known by a key.
#[derive(Debug)]
pub(super) struct Pacer<K> {
    /// Frames a second, and how many at once.
    rate: u32,
    /// When the bucket will be full again; in the past when it is.
    full: Time,
    bursts: BTreeMap<K, Burst>,
    /// Announcements whose time has not come.
    waiting: BTreeSet<(Time, K)>,
    /// Those whose time has come: the earliest rounds first.
    ready: BTreeSet<(u32, Time, K)>,
    /// Whose neighbours are still to be told.
    turns: VecDeque<K>,
}

#[derive(Debug)]
struct Burst {
    schedule: Announce,
    /// When the first announcement was sent.
    start: Option<Time>,
    /// The next one and its time; none when there is none.
    next: Option<(u32, Time)>,
    targets: VecDeque<Target>,
}

impl<K: Copy + Ord> Pacer<K> {
    /// Keeps another pace from now on.
    pub(super) fn set_rate(&mut self, rate: u32) {
        self.rate = rate.max(1);
    }

    pub(super) fn new(rate: u32) -> Self {
        Self {
            rate: rate.max(1),
            full: Time::ZERO,
            bursts: BTreeMap::new(),
            waiting: BTreeSet::new(),
            ready: BTreeSet::new(),
            turns: VecDeque::new(),
        }
    }

    /// Begins to announce an address, from the first announcement on. What was left of an earlier burst is
    /// forgotten.
    pub(super) fn start(&mut self, key: K, schedule: Announce, now: Time) {
        self.stop(key);
        let burst = Burst { schedule, start: None, next: Some((0, now)), targets: VecDeque::new() };
        self.ready.insert((0, now, key));
        self.bursts.insert(key, burst);
    }

    /// These neighbours are to be told of an address each, once it has been announced to all.
    pub(super) fn tell(&mut self, key: K, targets: Vec<Target>) {
        let Some(burst) = self.bursts.get_mut(&key) else { return };
        burst.targets = targets.into();
        burst.targets.truncate(TARGETS);
        self.turns.retain(|turn| *turn != key);
        if burst.start.is_some() && !burst.targets.is_empty() {
            self.turns.push_back(key);
        }
    }

    /// Announces an address no more: nothing of it is sent after this.
    pub(super) fn stop(&mut self, key: K) {
        let Some(burst) = self.bursts.remove(&key) else { return };
        if let Some((round, due)) = burst.next {
            self.waiting.remove(&(due, key));
            self.ready.remove(&(round, due, key));
        }
        self.turns.retain(|turn| *turn != key);
    }

    pub(super) fn is_announcing(&self, key: K) -> bool {
        self.bursts.contains_key(&key)
    }

    /// What is to be sent now. Whoever gets something sends it and says so with [`Pacer::sent`].
    pub(super) fn next(&mut self, now: Time) -> Next<K> {
        while let Some((due, key)) = self.waiting.first().copied()
            && due <= now
        {
            self.waiting.remove(&(due, key));
            if let Some((round, due)) = self.bursts.get(&key).and_then(|burst| burst.next) {
                self.ready.insert((round, due, key));
            }
        }
        let first = match self.ready.first() {
            Some((round, _, key)) => Some((*key, What::All(*round))),
            None => self.turns.front().and_then(|key| {
                let target = self.bursts.get(key)?.targets.front()?;
                Some((*key, What::To(*target)))
            }),
        };
        match first {
            Some((key, what)) => match self.blocked_until(now) {
                Some(until) => Next::At(until),
                None => Next::Send(key, what),
            },
            None => self.waiting.first().map_or(Next::Never, |(due, _)| Next::At(*due)),
        }
    }

    /// What [`Pacer::next`] gave was sent, in so many frames.
    pub(super) fn sent(&mut self, key: K, what: What, frames: u32, now: Time) {
        self.full = self.full.max(now) + self.each() * frames;
        let Some(burst) = self.bursts.get_mut(&key) else { return };
        match what {
            What::All(round) => {
                if let Some((round, due)) = burst.next.take() {
                    self.ready.remove(&(round, due, key));
                }
                if round == 0 && !burst.targets.is_empty() {
                    self.turns.push_back(key);
                }
                let start = *burst.start.get_or_insert(now);
                burst.next = burst.schedule.due(round + 1).map(|after| (round + 1, start + after));
                if let Some((_, due)) = burst.next {
                    self.waiting.insert((due, key));
                }
            }
            What::To(_) => {
                burst.targets.pop_front();
                if self.turns.front() == Some(&key) {
                    self.turns.pop_front();
                }
                if !burst.targets.is_empty() {
                    self.turns.push_back(key);
                }
            }
        }
    }

    /// This process was stopped, and all that became due meanwhile is left out: who holds what now is for the
    /// rules to say, before anything of it is announced.
    pub(super) fn skip(&mut self, now: Time) {
        self.turns.clear();
        self.ready.clear();
        for (key, burst) in &mut self.bursts {
            burst.targets.clear();
            let start = *burst.start.get_or_insert(now);
            while let Some((round, due)) = burst.next
                && due <= now
            {
                self.waiting.remove(&(due, *key));
                burst.next = burst.schedule.due(round + 1).map(|after| (round + 1, start + after));
            }
            if let Some((_, due)) = burst.next {
                self.waiting.insert((due, *key));
            }
        }
    }

    /// Until when no more frames may be sent.
    fn blocked_until(&self, now: Time) -> Option<Time> {
        let depth = Duration::from_secs(1) - self.each();
        (self.full.since(now) > depth).then(|| self.full - depth)
    }

    fn each(&self) -> Duration {
        Duration::from_secs(1) / self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time::from_millis(50_000);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn schedule(refresh: u64) -> Announce {
        Announce { count: 2, interval: ms(100), again_after: vec![ms(1000)], refresh: ms(refresh) }
    }

    fn target(last: u8) -> Target {
        Target { ip: [192, 0, 2, last].into(), mac: Some(Mac([2, 0, 0, 0, 0, last])) }
    }

    fn start(pacer: &mut Pacer<u32>, key: u32, schedule: Announce, targets: Vec<Target>, now: Time) {
        pacer.start(key, schedule, now);
        pacer.tell(key, targets);
    }

    /// All that is sent until `until`: ms after the beginning, key, and round or the last byte of a neighbour.
    fn run(
        pacer: &mut Pacer<u32>,
        from: Time,
        until: Duration,
        frames: u32,
    ) -> Vec<(u64, u32, Result<u32, u8>)> {
        let mut now = from;
        let mut sent = Vec::new();
        loop {
            match pacer.next(now) {
                Next::Send(key, what) => {
                    pacer.sent(key, what, frames, now);
                    let what = match what {
                        What::All(round) => Ok(round),
                        What::To(Target { ip: IpAddr::V4(ip), .. }) => Err(ip.octets()[3]),
                        What::To(_) => unreachable!("only IPv4 here"),
                    };
                    sent.push((u64::try_from(now.since(AT).as_millis()).unwrap(), key, what));
                }
                Next::At(at) if at <= AT + until => {
                    assert!(at > now, "time goes on");
                    now = at;
                }
                Next::At(_) | Next::Never => return sent,
            }
        }
    }

    #[test]
    fn one_address_keeps_its_schedule() {
        let mut pacer = Pacer::new(1000);
        start(&mut pacer, 7, schedule(2000), vec![], AT);
        let times: Vec<_> =
            run(&mut pacer, AT, ms(6000), 2).into_iter().map(|(at, _, what)| (at, what)).collect();
        assert_eq!(times, [(0, Ok(0)), (100, Ok(1)), (1000, Ok(2)), (3000, Ok(3)), (5000, Ok(4))]);
        let mut pacer = Pacer::new(1000);
        start(&mut pacer, 7, schedule(0), vec![], AT);
        assert_eq!(run(&mut pacer, AT, ms(60_000), 2).len(), 3, "no refresh, and it ends");
        assert_eq!(pacer.next(AT + ms(60_000)), Next::Never);
        assert!(pacer.is_announcing(7), "it is still held");
    }

    /// 100 addresses at 20 frames a second: 20 at once, then 20 a second, firsts before seconds.
    #[test]
    fn the_first_of_every_address_comes_before_the_second_of_any() {
        let mut pacer = Pacer::new(20);
        for key in 0..100 {
            start(&mut pacer, key, schedule(0), vec![], AT);
        }
        let sent = run(&mut pacer, AT, ms(60_000), 1);
        assert_eq!(sent.len(), 300);
        let rounds: Vec<_> = sent.iter().map(|(_, _, what)| what.unwrap()).collect();
        let second = rounds.iter().position(|round| *round == 1).unwrap();
        assert_eq!(second, 100, "all firsts, then the seconds");
        assert_eq!(sent.iter().filter(|(at, ..)| *at == 0).count(), 20, "the bucket at once");
        for window in 0..14 {
            let from = 1 + window * 1000;
            let within = sent.iter().filter(|(at, ..)| (from..from + 1000).contains(at)).count();
            assert!((19..=21).contains(&within), "{within} in second {window}");
        }
        // Each address has its first within five seconds, in the order in which they came.
        let firsts: Vec<_> = sent[..100].iter().map(|(_, key, _)| *key).collect();
        assert!(firsts.is_sorted());
    }

    #[test]
    fn announcements_of_two_frames_cost_two() {
        let mut pacer = Pacer::new(100);
        for key in 0..200 {
            start(
                &mut pacer,
                key,
                Announce { count: 1, again_after: vec![], refresh: Duration::ZERO, ..Announce::default() },
                vec![],
                AT,
            );
        }
        let sent = run(&mut pacer, AT, ms(60_000), 2);
        assert_eq!(sent.iter().filter(|(at, ..)| *at == 0).count(), 50);
        assert_eq!(sent.last().unwrap().0, 3000 - 20 + 10, "150 more in three seconds");
    }

    #[test]
    fn neighbours_are_told_in_turn_and_after_all_else() {
        let mut pacer = Pacer::new(10);
        start(&mut pacer, 1, schedule(0), (1..=3).map(target).collect(), AT);
        start(&mut pacer, 2, schedule(0), (11..=12).map(target).collect(), AT);
        let sent: Vec<_> =
            run(&mut pacer, AT, ms(60_000), 1).into_iter().map(|(_, key, what)| (key, what)).collect();
        let expected = [
            (1, Ok(0)),
            (2, Ok(0)),
            (1, Err(1)),
            (2, Err(11)),
            (1, Err(2)),
            (2, Err(12)),
            (1, Err(3)),
            (1, Ok(1)),
            (2, Ok(1)),
            (1, Ok(2)),
            (2, Ok(2)),
        ];
        assert_eq!(sent, expected);
        // A slow pace: what is due comes before neighbours that wait.
        let mut pacer = Pacer::new(2);
        start(&mut pacer, 1, schedule(0), (1..=9).map(target).collect(), AT);
        let sent = run(&mut pacer, AT, ms(60_000), 1);
        let second = sent.iter().find(|(_, _, what)| *what == Ok(1)).unwrap();
        assert!(second.0 <= 600, "{sent:?}");
        assert_eq!(sent.iter().filter(|(_, _, what)| what.is_err()).count(), 9);
    }

    #[test]
    fn nothing_follows_a_stop_and_a_new_burst_begins_anew() {
        let mut pacer = Pacer::new(3);
        start(&mut pacer, 1, schedule(1000), (1..=9).map(target).collect(), AT);
        start(&mut pacer, 2, schedule(1000), (1..=9).map(target).collect(), AT);
        let before = run(&mut pacer, AT, ms(1500), 1);
        assert!(before.iter().any(|(_, key, _)| *key == 1));
        pacer.stop(1);
        pacer.stop(1);
        assert!(!pacer.is_announcing(1));
        let after = run(&mut pacer, AT + ms(1500), ms(20_000), 1);
        assert!(!after.is_empty() && after.iter().all(|(_, key, _)| *key == 2));
        let now = AT + ms(30_000);
        start(&mut pacer, 2, schedule(1000), vec![target(5)], now);
        let rounds: Vec<_> =
            run(&mut pacer, now, ms(31_050), 1).into_iter().map(|(_, _, what)| what).collect();
        assert_eq!(rounds, [Ok(0), Err(5), Ok(1), Ok(2)], "from the first on, and only the new neighbours");
        // Neighbours that come later are told all the same.
        pacer.tell(2, vec![target(6), target(7)]);
        let more: Vec<_> =
            run(&mut pacer, now + ms(1050), ms(31_100), 1).into_iter().map(|(_, _, what)| what).collect();
        assert_eq!(more, [Err(6), Err(7)]);
        pacer.tell(9, vec![target(6)]);
        pacer.stop(2);
        assert_eq!(pacer.next(now + ms(100_000)), Next::Never);
    }

    #[test]
    fn what_became_due_during_a_stop_is_left_out() {
        let mut pacer = Pacer::new(1000);
        start(&mut pacer, 1, schedule(60_000), vec![target(1)], AT);
        assert_eq!(pacer.next(AT), Next::Send(1, What::All(0)));
        pacer.sent(1, What::All(0), 1, AT);
        // One that had not even begun.
        start(&mut pacer, 2, schedule(60_000), vec![target(1)], AT + ms(50));
        let thawed = AT + ms(10_000);
        pacer.skip(thawed);
        assert_eq!(pacer.next(thawed), Next::At(thawed + ms(100)), "the second of the one that began late");
        let sent = run(&mut pacer, thawed, ms(70_000), 1);
        assert_eq!(sent, [(10_100, 2, Ok(1)), (11_000, 2, Ok(2)), (61_000, 1, Ok(3))]);
    }

    /// A thousand addresses for a day: nothing is lost, nothing doubled, and the pace is kept.
    #[test]
    fn refreshes_of_many_go_on() {
        let mut pacer = Pacer::new(500);
        for key in 0..1000 {
            start(&mut pacer, key, schedule(60_000), vec![], AT);
        }
        let sent = run(&mut pacer, AT, Duration::from_secs(3600), 2);
        let mut by_key = BTreeMap::<u32, Vec<u32>>::new();
        for (_, key, what) in &sent {
            by_key.entry(*key).or_default().push(what.unwrap());
        }
        assert_eq!(by_key.len(), 1000);
        for rounds in by_key.values() {
            assert!(
                rounds.iter().copied().eq(0..u32::try_from(rounds.len()).unwrap()),
                "each once, in order"
            );
            assert!((61..=63).contains(&rounds.len()), "{}", rounds.len());
        }
    }
}
