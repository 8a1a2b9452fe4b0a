//! The SWIM layer: foca, driven, and gated.
//!
//! foca disseminates and probes; it never decides. In foca one accuser is enough, in flip a quorum is.
//! Three things keep it so:
//! - `Timer::ChangeSuspectToDown` never reaches foca; the failed probe behind it opens a case instead.
//!   (foca 2.0.0 also fires this timer for a suspicion that was refuted in time, and with
//!   `notify_down_members` then tells a healthy node that it is dead.)
//! - the codec turns every Down that no quorum agreed on into a suspicion, and does not know `TurnUndead`.
//! - an agreed Down is injected by [`Swim::declare_down`] alone.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Foca, Member, NoCustomBroadcast, Notification, Runtime, State, Timer};
use rand::rngs::StdRng;

use crate::config::Timing;
use crate::id::Peer;
use crate::limits;
use crate::time::Time;
use crate::wire::codec::{Codec, Gate};
use crate::wire::seal::OVERHEAD;

impl foca::Identity for Peer {
    type Addr = crate::id::ShortId;

    /// A new life needs a new generation on disk, which is the node's business.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> Self::Addr {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}

/// What the SWIM layer wants to happen.
#[derive(Debug, PartialEq, Eq)]
pub enum SwimOutput {
    /// Send these bytes as `Message::Swim`.
    Send(Peer, Vec<u8>),
    /// Gossip says that this member is alive.
    Up(Peer),
    /// The direct probe of this member was not answered in time; it was sent at the given time.
    ProbeFailed(Peer, Time),
    /// Another member suspects it.
    Suspected(Peer),
}

/// foca with its timers and its gate.
pub struct Swim {
    foca: Foca<Peer, Codec, StdRng, NoCustomBroadcast>,
    gate: Gate,
    runtime: Gated,
}

#[derive(Default)]
struct Gated {
    now: Time,
    /// Ordered by time, then by order of submission.
    timers: BTreeMap<(Time, u64), (Timer<Peer>, Time)>,
    submitted: u64,
    outputs: Vec<SwimOutput>,
}

impl Runtime<Peer> for &mut Gated {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        match notification {
            Notification::MemberUp(peer) | Notification::Rename(_, peer) => {
                self.outputs.push(SwimOutput::Up(*peer));
            }
            // The node knows its verdicts before foca does, and decides on its own rebirth.
            Notification::MemberDown(_)
            | Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        self.outputs.push(SwimOutput::Send(to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Peer>, after: Duration) {
        if matches!(event, Timer::ChangeSuspectToDown { .. }) {
            return;
        }
        self.submitted += 1;
        self.timers.insert((self.now + after, self.submitted), (event, self.now));
    }
}

impl Swim {
    /// A SWIM layer for `me` in a cluster with these timings.
    #[must_use]
    pub fn new(me: Peer, timing: &Timing, everybody_probed: bool, rng: StdRng) -> Self {
        let gate = Gate::default();
        let foca = Foca::new(me, foca_config(timing, everybody_probed), rng, Codec(gate.clone()));
        Self { foca, gate, runtime: Gated::default() }
    }

    /// When [`Swim::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.runtime.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.runtime.now = now;
        while let Some(entry) = self.runtime.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (timer, submitted) = entry.remove();
            if let Timer::SendIndirectProbe { probed_id, .. } = &timer {
                self.runtime.outputs.push(SwimOutput::ProbeFailed(*probed_id, submitted));
            }
            // An error here is a probe cycle that was cut short by lateness; foca recovers by itself.
            let _ = self.foca.handle_timer(timer, &mut self.runtime);
        }
        self.collect();
    }

    /// A datagram of the SWIM layer. False when it was malformed; nothing has changed then.
    pub fn handle_data(&mut self, data: &[u8], now: Time) -> bool {
        self.runtime.now = now;
        let understood = self.foca.handle_data(data, &mut self.runtime).is_ok();
        self.collect();
        understood
    }

    /// These are members, and everybody knows already.
    #[cfg(any(test, feature = "sim"))]
    pub fn know(&mut self, peers: impl Iterator<Item = Peer>, now: Time) {
        self.runtime.now = now;
        let members = peers.map(|peer| Member::new(peer, 0, State::Alive));
        let _ = self.foca.apply_many(members, false, &mut self.runtime);
        self.runtime.outputs.clear();
    }

    /// Begins anew with other members, of which those that are up are known to be, and those that are over to be
    /// over. Nobody is told anything: everybody begins with the same.
    pub fn begin_anew(
        &mut self,
        (timing, everybody_probed): (&Timing, bool),
        up: impl Iterator<Item = Peer>,
        over: impl Iterator<Item = Peer>,
        rng: StdRng,
        now: Time,
    ) {
        let me = *self.foca.identity();
        let outputs = std::mem::take(&mut self.runtime.outputs);
        *self = Self {
            foca: Foca::new(me, foca_config(timing, everybody_probed), rng, Codec(self.gate.clone())),
            gate: self.gate.clone(),
            runtime: Gated { now, ..Gated::default() },
        };
        let over: Vec<_> = over.collect();
        over.iter().for_each(|peer| self.gate.agree(*peer));
        let up = up.map(|peer| Member::new(peer, 0, State::Alive));
        let members = up.chain(over.into_iter().map(|peer| Member::new(peer, 0, State::Down)));
        let _ = self.foca.apply_many(members, false, &mut self.runtime);
        // Whom they tell of is known.
        self.runtime.outputs = outputs;
    }

    /// Gossip told of somebody whom the config does not name: nobody is told of it again.
    pub fn ignore(&mut self, peer: Peer, now: Time) {
        self.runtime.now = now;
        let member = Member::new(peer, 0, State::Down);
        let _ = self.foca.apply_many(std::iter::once(member), false, &mut self.runtime);
        self.collect();
    }

    /// First-hand knowledge: this member is alive.
    pub fn declare_up(&mut self, peer: Peer, now: Time) {
        self.apply(Member::new(peer, 0, State::Alive), now);
    }

    /// A quorum agreed, or the member left.
    pub fn declare_down(&mut self, peer: Peer, now: Time) {
        self.gate.agree(peer);
        self.apply(Member::new(peer, 0, State::Down), now);
    }

    /// This node goes on under a new generation.
    pub fn rebirth(&mut self, me: Peer, now: Time) {
        self.runtime.now = now;
        self.gate.agree(*self.foca.identity());
        let _ = self.foca.change_identity(me, &mut self.runtime);
        self.collect();
    }

    /// Takes what is to be done.
    pub fn take_outputs(&mut self) -> Vec<SwimOutput> {
        std::mem::take(&mut self.runtime.outputs)
    }

    fn apply(&mut self, member: Member<Peer>, now: Time) {
        self.runtime.now = now;
        let _ = self.foca.apply_many(std::iter::once(member), true, &mut self.runtime);
        self.collect();
    }

    fn collect(&mut self) {
        let suspicions = self.gate.take_suspicions();
        self.runtime.outputs.extend(suspicions.into_iter().map(SwimOutput::Suspected));
    }
}

fn foca_config(timing: &Timing, everybody_probed: bool) -> foca::Config {
    let each = u32::try_from(timing.pings_per_interval).unwrap_or(u32::MAX).max(1);
    // Where the node itself probes everybody, foca only has to carry news.
    let period = if everybody_probed {
        timing.probe_interval.max(Duration::from_secs(1))
    } else {
        timing.probe_interval / each
    };
    foca::Config {
        probe_period: period,
        probe_rtt: timing.open_after().min(period / 2),
        num_indirect_probes: NonZeroUsize::MIN.saturating_add(1),
        max_transmissions: NonZeroU8::MIN.saturating_add(9),
        suspect_to_down_after: period * 3,
        remove_down_after: None,
        max_packet_size: NonZeroUsize::new(limits::DATAGRAM - OVERHEAD - 3).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: false,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(foca::PeriodicParams {
            frequency: timing.probe_interval.clamp(Duration::from_millis(100), Duration::from_millis(500)),
            num_members: NonZeroUsize::MIN.saturating_add(2),
        }),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::config::Profile;
    use crate::id::ShortId;

    fn peer(id: u16) -> Peer {
        Peer { id: ShortId(id), generation: 1 }
    }

    /// foca's own runtime without a gate, to show what the gate is for.
    #[derive(Default)]
    struct Bare {
        timers: Vec<Timer<Peer>>,
        sent: Vec<(Peer, Vec<u8>)>,
        downs: Vec<Peer>,
    }

    impl Runtime<Peer> for &mut Bare {
        fn notify(&mut self, notification: Notification<'_, Peer>) {
            if let Notification::MemberDown(peer) = notification {
                self.downs.push(*peer);
            }
        }
        fn send_to(&mut self, to: Peer, data: &[u8]) {
            self.sent.push((to, data.to_vec()));
        }
        fn submit_after(&mut self, event: Timer<Peer>, _: Duration) {
            self.timers.push(event);
        }
    }

    /// A codec that lets `TurnUndead` through, as kind 99.
    #[derive(Clone)]
    struct Ungated(Codec);

    impl foca::Codec<Peer> for Ungated {
        type Error = crate::wire::codec::DecodeError;
        fn encode_header(
            &mut self,
            header: &foca::Header<Peer>,
            mut buf: impl bytes::BufMut,
        ) -> Result<(), Self::Error> {
            if header.message == foca::Message::TurnUndead {
                buf.put_slice(&[99]);
                return Ok(());
            }
            self.0.encode_header(header, buf)
        }
        fn decode_header(&mut self, buf: impl bytes::Buf) -> Result<foca::Header<Peer>, Self::Error> {
            self.0.decode_header(buf)
        }
        fn encode_member(
            &mut self,
            member: &Member<Peer>,
            buf: impl bytes::BufMut,
        ) -> Result<(), Self::Error> {
            self.0.encode_member(member, buf)
        }
        fn decode_member(&mut self, buf: impl bytes::Buf) -> Result<Member<Peer>, Self::Error> {
            self.0.decode_member(buf)
        }
    }

    /// The trap: plain foca sends `TurnUndead` to a member that refuted the suspicion in time.
    #[test]
    fn plain_foca_kills_a_member_that_refuted_in_time() {
        let timing = Profile::Fast.timing(3);
        let config = foca::Config { notify_down_members: true, ..foca_config(&timing, false) };
        let gate = Gate::default();
        let mut foca = Foca::new(peer(1), config, StdRng::seed_from_u64(1), Ungated(Codec(gate)));
        let mut bare = Bare::default();
        foca.apply_many([Member::new(peer(2), 0, State::Alive)].into_iter(), true, &mut bare)
            .expect("applies");
        // The only other member does not answer, so its probe fails and the suspicion timer is set.
        for _ in 0..2 {
            for timer in std::mem::take(&mut bare.timers) {
                if !matches!(timer, Timer::PeriodicGossip(_)) {
                    foca.handle_timer(timer, &mut bare).expect("timer");
                }
            }
        }
        let mut timers = std::mem::take(&mut bare.timers);
        while !timers.iter().any(|t| matches!(t, Timer::ChangeSuspectToDown { .. })) {
            for timer in std::mem::take(&mut timers) {
                if !matches!(timer, Timer::PeriodicGossip(_)) {
                    foca.handle_timer(timer, &mut bare).expect("timer");
                }
            }
            timers = std::mem::take(&mut bare.timers);
        }
        // It refutes with a higher incarnation before the timer fires.
        foca.apply_many([Member::new(peer(2), 1, State::Alive)].into_iter(), true, &mut bare)
            .expect("applies");
        bare.sent.clear();
        for timer in timers.into_iter().filter(|t| matches!(t, Timer::ChangeSuspectToDown { .. })) {
            foca.handle_timer(timer, &mut bare).expect("timer");
        }
        assert!(bare.downs.is_empty(), "foca itself still takes it for alive");
        assert!(
            bare.sent.iter().any(|(to, data)| *to == peer(2) && data.first() == Some(&99)),
            "foca no longer sends TurnUndead for a void suspicion timer: the gate may be reconsidered"
        );
    }

    /// The gate: whatever foca believes, nothing goes down and nobody is told that it is dead.
    #[test]
    fn the_gate_never_lets_one_accuser_decide() {
        let timing = Profile::Fast.timing(3);
        let mut swim = Swim::new(peer(1), &timing, false, StdRng::seed_from_u64(1));
        swim.declare_up(peer(2), Time::ZERO);
        swim.declare_up(peer(3), Time::ZERO);
        let mut failed = 0;
        for _ in 0..200 {
            let at = swim.poll_timeout().expect("foca always probes");
            swim.handle_timeout(at);
            for output in swim.take_outputs() {
                failed += usize::from(matches!(output, SwimOutput::ProbeFailed(..)));
            }
        }
        assert!(failed > 10, "failed probes are reported");
        assert_eq!(swim.foca.iter_members().count(), 2, "and yet both are still active");
    }

    /// A gossiped Down counts as a suspicion until a quorum agreed.
    #[test]
    fn hearsay_is_a_suspicion() {
        let timing = Profile::Fast.timing(3);
        let mut liar = Swim::new(peer(2), &timing, false, StdRng::seed_from_u64(1));
        liar.declare_up(peer(1), Time::ZERO);
        liar.declare_up(peer(3), Time::ZERO);
        liar.declare_down(peer(3), Time::ZERO);
        let at = liar.poll_timeout().expect("a timer");
        liar.handle_timeout(at + Duration::from_secs(1));
        let mut swim = Swim::new(peer(1), &timing, false, StdRng::seed_from_u64(2));
        swim.declare_up(peer(3), Time::ZERO);
        let mut heard = 0;
        for output in liar.take_outputs() {
            if let SwimOutput::Send(to, data) = output
                && to == peer(1)
            {
                assert!(swim.handle_data(&data, at));
                heard += 1;
            }
        }
        assert!(heard > 0);
        assert!(swim.take_outputs().contains(&SwimOutput::Suspected(peer(3))));
        assert!(swim.foca.iter_members().any(|m| *m.id() == peer(3)), "still active");
    }
}
