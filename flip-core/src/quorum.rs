//! Quorum arithmetic: how many ballots make a verdict, and who may cast them.

use crate::id::ShortId;
use crate::limits;
use crate::planted::{Bug, planted};

/// The default quorum: a majority of the configured voters. The denominator is the configured list
/// and never shrinks by verdicts.
#[must_use]
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// True when `ballots` Down ballots are a verdict.
#[must_use]
pub fn is_verdict(ballots: usize, quorum: usize) -> bool {
    ballots + usize::from(planted(Bug::QuorumOffByOne)) >= quorum
}

/// True when a node with two-way contact to `others` trusts its own senses: together with itself they
/// could be a quorum.
#[must_use]
pub fn has_contact(others: usize, quorum: usize) -> bool {
    others + 1 + usize::from(planted(Bug::ContactOffByOne)) >= quorum
}

/// Who votes when the config names nobody: everybody up to 63 servers, else the 31 whose rendezvous
/// hash is lowest. Returns positions in `servers`, ascending.
#[must_use]
pub fn voters(servers: &[ShortId]) -> Vec<usize> {
    if servers.len() <= limits::ALL_VOTE {
        return (0..servers.len()).collect();
    }
    let mut ranked: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(index, short)| (blake3::derive_key("flip voter v1", &short.0.to_be_bytes()), index))
        .collect();
    ranked.sort_unstable();
    let mut chosen: Vec<_> = ranked.into_iter().take(limits::VOTERS).map(|(_, index)| index).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line per case: voters, configured quorum or `-`, live Down ballots => verdict yes or no.
    const VERDICTS: &str = "
        1 - 0 no
        1 - 1 yes
        2 - 1 no
        2 - 2 yes
        2 1 1 yes
        3 - 1 no
        3 - 2 yes
        3 3 2 no
        4 - 2 no
        4 - 3 yes
        4 2 2 yes
        5 - 2 no
        5 - 3 yes
        9 - 4 no
        9 - 5 yes
        31 - 15 no
        31 - 16 yes
        63 - 31 no
        63 - 32 yes
    ";

    /// One line per case: voters, configured quorum or `-`, others in two-way contact => may vote.
    const CONTACTS: &str = "
        1 - 0 yes
        2 - 0 no
        2 - 1 yes
        2 1 0 yes
        3 - 0 no
        3 - 1 yes
        3 3 1 no
        5 - 1 no
        5 - 2 yes
        9 - 3 no
        9 - 4 yes
    ";

    fn each(table: &str, check: impl Fn(usize, usize) -> bool) {
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            let voters: usize = words[0].parse().expect("voters");
            let quorum = words[1].parse().unwrap_or_else(|_| majority(voters));
            let count = words[2].parse().expect("count");
            assert_eq!(check(count, quorum), words[3] == "yes", "{line}");
        }
    }

    #[test]
    fn verdict_table() {
        each(VERDICTS, is_verdict);
    }

    #[test]
    fn contact_table() {
        each(CONTACTS, has_contact);
    }

    #[test]
    fn two_majorities_intersect() {
        for voters in 1..=64 {
            assert!(2 * majority(voters) > voters);
        }
    }

    #[test]
    fn many_servers_are_voted_for_by_31() {
        let all: Vec<_> = (0..63).map(ShortId).collect();
        assert_eq!(voters(&all).len(), 63);
        let more: Vec<_> = (0..64).map(ShortId).collect();
        let chosen = voters(&more);
        assert_eq!(chosen.len(), 31);
        let mut reversed = more.clone();
        reversed.reverse();
        let same: Vec<_> = voters(&reversed).into_iter().map(|i| reversed[i]).collect();
        assert!(chosen.iter().all(|i| same.contains(&more[*i])), "the choice does not depend on the order");
    }
}
