//! What LINK's users know: the four states of an item in <https://github.com/Scalingo/link>, and which of
//! them an item of flip is in.
//!
//! | LINK | flip |
//! | --- | --- |
//! | `BOOTING` | not placed yet since the daemon was started, and no check fails; what an earlier life left stays |
//! | `ACTIVATED` | held here, or about to be |
//! | `STANDBY` | another server's, or nobody's |
//! | `FAILING` | kept away from here, by its checks or by its hooks |
//!
//! LINK's events are these in flip: `elected` is that placement wants the item here, `demoted` that it wants
//! it elsewhere; `fault` that no quorum is in sight (then `"isolated": "take"` does what LINK does);
//! `health_check_fail` and `health_check_success` are `fall` failures and `rise` successes in a row. Two
//! things are different on purpose: an item whose checks have not ended since the start is not activated, and
//! LINK's `fault` is the word of one server, while flip asks a quorum who is gone.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::ItemState;
use crate::id::ItemRef;
use crate::node::Node;

/// A state of LINK's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum LinkState {
    /// Nothing is decided yet.
    Booting,
    /// Here.
    Activated,
    /// Not here.
    Standby,
    /// May not be here.
    Failing,
}

impl LinkState {
    /// The state of LINK's that an item is in whose state here is `state`; `undecided` is that this life of
    /// the daemon has neither placed it nor moved it.
    #[must_use]
    pub const fn of(state: ItemState, undecided: bool) -> Self {
        match state {
            ItemState::Failing | ItemState::Unclean => Self::Failing,
            ItemState::Standby | ItemState::Active if undecided => Self::Booting,
            ItemState::Acquiring | ItemState::Active => Self::Activated,
            ItemState::Standby | ItemState::Releasing => Self::Standby,
        }
    }

    /// LINK's word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Booting => "BOOTING",
            Self::Activated => "ACTIVATED",
            Self::Standby => "STANDBY",
            Self::Failing => "FAILING",
        }
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Node {
    /// The state of an item here in LINK's words.
    #[must_use]
    pub fn link_state(&self, at: ItemRef) -> LinkState {
        LinkState::of(self.item_state(at).0, self.is_undecided(at))
    }
}

#[cfg(test)]
mod tests {
    use super::LinkState::{Activated, Booting, Failing, Standby};
    use super::*;
    use crate::config::{Config, Isolated};
    use crate::io::{Command, Input};
    use crate::node::checked::{Answer, Cluster, ITEM, MS};

    const EVENTS: [&str; 5] = ["fault", "elected", "demoted", "health_check_fail", "health_check_success"];

    /// LINK's own table, with BOOTING of its version 1.6.
    const TABLE: [(LinkState, [LinkState; 5]); 4] = [
        (Booting, [Activated, Activated, Standby, Failing, Booting]),
        (Activated, [Activated, Activated, Standby, Failing, Activated]),
        (Standby, [Activated, Activated, Standby, Failing, Standby]),
        (Failing, [Failing, Failing, Failing, Failing, Standby]),
    ];

    /// Two servers and an arbiter, as LINK would have it: whoever sees no quorum takes what it cannot see
    /// held. The item is at home on the first.
    fn config(config: &mut Config) {
        config.servers[2].systems.clear();
        config.systems[0].items[0].isolated = Isolated::Take;
        let check = &mut config.systems[0].items[0].checks[0];
        (check.interval, check.timeout, check.fall) = (MS(100), MS(50), 2);
    }

    /// A cluster in which the item is in this state on a server, and that server.
    fn arrange(state: LinkState, event: &str) -> (Cluster, usize) {
        let server = usize::from(state != Activated);
        let mut cluster = Cluster::new("abc", config);
        if state == Booting {
            // The others run, and this one has just been started and hears nobody.
            cluster.run(MS(2000));
            cluster.cut[server] = true;
            cluster.nodes[server] = Cluster::node("abc", 'b', 2, cluster.now, &config);
            cluster.feed(server, Input::Timeout);
            cluster.run(MS(60));
        } else {
            if state == Failing {
                cluster.answers[server] = Answer::Sick;
            }
            cluster.run(MS(3000));
        }
        assert_eq!(cluster.nodes[server].link_state(ITEM), state, "arranged for {event}");
        (cluster, server)
    }

    fn happen(cluster: &mut Cluster, server: usize, event: &str) {
        let drain = |cluster: &mut Cluster, server: usize| {
            let id = if server == 0 { "a" } else { "b" };
            // The word of somebody who hears the others.
            cluster.feed(2, Input::Command { asker: 1, command: Command::Drain { server: id.into() } });
        };
        match event {
            "fault" => cluster.cut[server] = true,
            "elected" => {
                drain(cluster, 1 - server);
                cluster.cut[server] = false;
            }
            "demoted" => {
                drain(cluster, server);
                cluster.cut[server] = false;
            }
            "health_check_fail" => cluster.answers[server] = Answer::Sick,
            _ => cluster.answers[server] = Answer::Well,
        }
    }

    #[test]
    fn every_cell_of_links_table() {
        for (state, expected) in TABLE {
            for (event, expected) in EVENTS.into_iter().zip(expected) {
                let (mut cluster, server) = arrange(state, event);
                let runs = cluster.ran[server].len();
                happen(&mut cluster, server, event);
                // A fault is believed after a while. Who boots without hearing anybody is not left alone for
                // so long that it would be one.
                let checks = event.starts_with("health");
                cluster.run(if state == Booting && checks { MS(250) } else { MS(6000) });
                let found = cluster.nodes[server].link_state(ITEM);
                assert_eq!(found, expected, "{state} and {event}: {:?}", cluster.states());
                assert!(cluster.ran[server].len() > runs, "checks ran on");
            }
        }
    }

    #[test]
    fn words_are_links() {
        for (state, word) in
            [(Booting, "BOOTING"), (Activated, "ACTIVATED"), (Standby, "STANDBY"), (Failing, "FAILING")]
        {
            assert_eq!(state.to_string(), word);
            assert_eq!(serde_json::to_string(&state).expect("a word"), format!("\"{word}\""));
        }
    }
}
