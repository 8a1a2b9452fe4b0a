//! What systems of different nodes say to each other, beside the rules: it goes out once to who is up and
//! comes in as it is, sealed and proven as everything. Nothing here remembers it, and a lost one stays lost.

use super::Node;
use crate::event::Refusal;
use crate::io::Output;
use crate::limits;
use crate::time::Time;
use crate::wire::message::{Aside, Message};

impl Node {
    /// Carries out `Input::Say`.
    pub(super) fn say(&mut self, to: Option<usize>, topic: u8, data: Vec<u8>) {
        if data.len() > limits::ASIDE {
            return;
        }
        let mut receivers = self.up_others();
        if let Some(to) = to {
            receivers.retain(|server| *server == to);
        }
        let message = Message::Aside(Aside { topic, data });
        for server in receivers {
            self.send(server, &message);
        }
    }

    pub(super) fn on_aside(&mut self, server: usize, aside: Aside, now: Time) {
        let allowed = if aside.data.len() > limits::ASIDE {
            Err(Refusal::Malformed)
        } else {
            self.sessions.charge_aside(server, now)
        };
        match allowed {
            Ok(()) => {
                let Aside { topic, data } = aside;
                self.outputs.push_back(Output::Heard { from: server, topic, data });
            }
            Err(why) => self.refuse(self.config.servers[server].addr, why, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::io::Input;
    use crate::node::Start;
    use crate::testing;

    /// What each node heard: from whom, topic, bytes.
    type Heard = Vec<(usize, u8, Vec<u8>)>;

    struct Net {
        nodes: Vec<Node>,
        now: Time,
        heard: Vec<Heard>,
    }

    impl Net {
        fn new(ids: &str) -> Self {
            let now = Time::from_millis(1000);
            let node = |(n, id): (u8, char)| {
                let start = Start { generation: 1, seed: [n; 32], keys: None };
                Node::new(Arc::new(testing::config(ids, &id.to_string())), start, now)
            };
            let nodes: Vec<_> = (1u8..).zip(ids.chars()).map(node).collect();
            let heard = nodes.iter().map(|_| Vec::new()).collect();
            let mut net = Self { nodes, now, heard };
            for node in 0..net.nodes.len() {
                net.feed(node, Input::Timeout);
            }
            net
        }

        /// Hands in one input; datagrams arrive at once.
        fn feed(&mut self, node: usize, input: Input<'_>) {
            self.nodes[node].handle(input, self.now);
            let mut air: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)> = VecDeque::new();
            let mut busy = node;
            loop {
                while let Some(output) = self.nodes[busy].poll_output() {
                    match output {
                        Output::Datagram { to, data } => {
                            assert!(data.len() <= limits::DATAGRAM);
                            air.push_back((self.nodes[busy].config.my().addr, to, data));
                        }
                        Output::Heard { from, topic, data } => self.heard[busy].push((from, topic, data)),
                        _ => {}
                    }
                }
                let Some((from, to, data)) = air.pop_front() else { return };
                let Some(at) = self.nodes.iter().position(|node| node.config.my().addr == to) else {
                    continue;
                };
                busy = at;
                self.nodes[busy].handle(Input::Datagram { from, data: &data }, self.now);
            }
        }

        fn say(&mut self, node: usize, to: Option<usize>, data: Vec<u8>) {
            self.feed(node, Input::Say { to, topic: 9, data });
        }

        fn take(&mut self) -> Vec<Heard> {
            self.heard.iter_mut().map(std::mem::take).collect()
        }
    }

    #[test]
    fn it_is_heard_by_whom_it_is_for() {
        let mut net = Net::new("abc");
        net.say(0, None, b"all".to_vec());
        let all = |from| vec![(from, 9, b"all".to_vec())];
        assert_eq!(net.take(), [vec![], all(0), all(0)]);
        net.say(1, Some(2), b"all".to_vec());
        assert_eq!(net.take(), [vec![], vec![], all(1)]);
        // Nobody speaks to itself, to nobody, or to who is not up.
        net.say(1, Some(1), b"x".to_vec());
        net.say(1, Some(99), b"x".to_vec());
        net.nodes[0].accept_leave(2, 1, net.now);
        net.say(0, Some(2), b"x".to_vec());
        assert!(net.take().iter().all(Vec::is_empty));
        net.say(0, None, b"all".to_vec());
        assert_eq!(net.take(), [vec![], all(0), vec![]]);
    }

    #[test]
    fn the_longest_fits_and_a_longer_one_is_not_sent() {
        let mut net = Net::new("ab");
        net.say(0, None, vec![7; limits::ASIDE]);
        assert_eq!(net.take()[1], [(0, 9, vec![7; limits::ASIDE])]);
        net.say(0, None, vec![7; limits::ASIDE + 1]);
        assert!(net.take()[1].is_empty());
        // A sender that does not keep to it is refused.
        let long = Aside { topic: 9, data: vec![7; limits::ASIDE + 1] };
        let now = net.now;
        net.nodes[1].on_aside(0, long, now);
        assert!(net.nodes[1].refused.counts().contains_key("malformed"));
    }

    #[test]
    fn a_talker_is_heard_so_often_and_others_all_the_same() {
        let mut net = Net::new("abc");
        for _ in 0..limits::ASIDES_AT_ONCE + 50 {
            net.say(0, Some(2), vec![1]);
        }
        assert_eq!(net.take()[2].len(), limits::ASIDES_AT_ONCE as usize);
        assert_eq!(net.nodes[2].refused.counts().get("budget"), Some(&50));
        net.say(1, Some(2), vec![2]);
        assert_eq!(net.take()[2], [(1, 9, vec![2])]);
        net.now += Duration::from_millis(100);
        for _ in 0..100 {
            net.say(0, Some(2), vec![1]);
        }
        assert_eq!(net.take()[2].len(), limits::ASIDES as usize / 10);
    }
}
