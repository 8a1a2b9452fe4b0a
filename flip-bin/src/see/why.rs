//! Why an item is where it is, in sentences.

use std::fmt::Write;

use flip_core::event::ItemState;
use flip_core::why::{Because, Candidate, Moved, Obstacle, Wait, What, Why};

use super::span;

/// All reasons, step by step. Ends with a line feed.
pub fn show(why: &Why) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(out, "{} of {}, as {} sees it", why.item, why.system, why.node);
    section(&mut out, "Now", &now(why));
    section(&mut out, "Home", &home(why));
    section(&mut out, "Who may have it", &why.servers.iter().map(candidate).collect::<Vec<_>>());
    section(&mut out, "Where it belongs", &[belongs(why)]);
    let waits: Vec<_> = why.waits.iter().map(|one| wait(one, &why.item)).collect();
    section(&mut out, "What is in between", &or_nothing(waits, "nothing: it is where it belongs"));
    section(&mut out, "Lease", &lease(why));
    section(&mut out, "Open cases", &cases(why));
    section(&mut out, "Last moves", &why.moves.iter().rev().map(moved).collect::<Vec<_>>());
    out
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(out, "\n{title}\n");
    for line in lines {
        let _ = writeln!(out, "  {line}");
    }
}

fn or_nothing(lines: Vec<String>, nothing: &str) -> Vec<String> {
    if lines.is_empty() { vec![nothing.to_owned()] } else { lines }
}

fn now(why: &Why) -> Vec<String> {
    let mut lines: Vec<_> = why
        .holders
        .iter()
        .map(|holder| {
            let what = match holder.state {
                ItemState::Standby => "does not have it",
                ItemState::Acquiring => "is taking it",
                ItemState::Active => "holds it",
                ItemState::Releasing => "is letting go of it",
                ItemState::Failing => "cannot hold it",
                ItemState::Unclean => "may still have it, though it should not",
            };
            format!("{} {what}, for {}", holder.server, span(holder.since_ms))
        })
        .collect();
    if !why.holders.iter().any(|holder| holder.state == ItemState::Active) {
        lines.insert(0, "nobody holds it".to_owned());
    }
    if let Some(failure) = &why.failure {
        let again = failure.retry_ms.map_or_else(String::new, |ms| format!("; again in {}", span(ms)));
        lines.push(format!("its hooks failed on {}: {}{again}", why.node, failure.error));
    }
    lines
}

fn home(why: &Why) -> Vec<String> {
    match &why.home {
        None if why.replicated => {
            vec!["none: everybody who may have it has it (\"type\": \"replicate\")".to_owned()]
        }
        None => vec!["none: no server takes part in its system".to_owned()],
        Some(home) if home.kept => vec![format!(
            "{}, where the catalog keeps it: it was moved there, or was there when servers or items changed",
            home.server
        )],
        Some(home) if home.preferred => vec![format!("{}, because the config prefers it", home.server)],
        Some(home) => vec![format!(
            "{}: it is number {} of its system, and items are dealt in this order over {}",
            home.server,
            home.place,
            home.dealt_over.join(", ")
        )],
    }
}

fn candidate(one: &Candidate) -> String {
    let against: Vec<_> = one.against.iter().map(obstacle).collect();
    let (server, items) = (&one.server, one.items);
    match (one.eligible, &against[..]) {
        (true, []) => format!("{server} may (it has {items} of the system)"),
        (true, _) => format!("{server} may, because nobody is better off, though {}", against.join("; ")),
        (false, []) => format!("{server} may not, because others are better off"),
        (false, _) => format!("{server} may not: {}", against.join("; ")),
    }
}

fn obstacle(one: &Obstacle) -> String {
    match one {
        Obstacle::NotInSystem => "it takes no part in the system".to_owned(),
        Obstacle::Down { since_ms, voters } => {
            let by = if voters.is_empty() {
                String::new()
            } else {
                format!(" by the ballots of {}", voters.join(", "))
            };
            format!("down for {}{by}", span(*since_ms))
        }
        Obstacle::Left { since_ms } => format!("it said goodbye {} ago", span(*since_ms)),
        Obstacle::OutOfReach => "it does not answer, and no quorum is in sight".to_owned(),
        Obstacle::Drained => "drained until flip undrain".to_owned(),
        Obstacle::Inactive { reasons } => format!("it says that it is not fit: {}", reasons.join(", ")),
        Obstacle::Leaving => "it is about to leave".to_owned(),
        Obstacle::Immature { for_ms } => format!("it was down lately and gets nothing for {}", span(*for_ms)),
        Obstacle::Unhealthy { checks, trouble } => {
            let said = |check: &flip_core::why::FailedCheck| match &check.error {
                Some(error) => format!("{}: {error}", check.check),
                None => check.check.clone(),
            };
            let texts: Vec<_> = trouble.iter().cloned().chain(checks.iter().map(said)).collect();
            if texts.is_empty() {
                "it is not well there, by its own word".to_owned()
            } else {
                format!("it is not well there ({})", texts.join("; "))
            }
        }
        Obstacle::Unproven { returns_in_ms: Some(ms) } => {
            format!("what it needs is back, and has to stay for {}", span(*ms))
        }
        Obstacle::Unproven { returns_in_ms: None } => "its checks there have not ended".to_owned(),
        Obstacle::HooksFailing { error: Some(error) } => format!("its hooks fail there ({error})"),
        Obstacle::HooksFailing { error: None } => "its hooks fail there".to_owned(),
        Obstacle::Unclean { on } => format!("it may still be on {on}"),
    }
}

fn belongs(why: &Why) -> String {
    let to = why.wanted.join(", ");
    match why.because {
        Because::Home => format!("on {to}: that is its home"),
        Because::Fewest => {
            let home = why.home.as_ref().map_or("its home", |home| home.server.as_str());
            format!("on {to}: {home} may not have it, and of those who may it had the fewest items")
        }
        Because::Replicated => format!("on {to}: everybody who may have it"),
        Because::Nobody => "nowhere: nobody may have it".to_owned(),
        Because::InReach => {
            format!(
                "on {to}: no quorum is in sight, and \"isolated\": \"take\" gives it to somebody in reach"
            )
        }
    }
}

fn wait(one: &Wait, item: &str) -> String {
    match one {
        Wait::NoQuorum { live, quorum } => {
            format!("no quorum is in sight ({live} live, {quorum} needed): nothing is taken")
        }
        Wait::Settling => {
            "placement waits a moment for other cases, so that what dies together is one move".to_owned()
        }
        Wait::NobodyMay => "nobody may have it: see above".to_owned(),
        Wait::Unclean { on } => {
            format!(
                "it may still be on {on}: make sure that it is not, then run flip confirm-released {item}"
            )
        }
        Wait::Case { server, ballots, quorum } => {
            format!("{server} does not answer: {ballots} of {quorum} ballots say that it is down")
        }
        Wait::NotYet { server, state } => format!("{server} shall have it and says {}", state.name()),
        Wait::HookRuns { action, since_ms } => format!("its {action} hook has run for {}", span(*since_ms)),
        Wait::Retry { error, in_ms } => {
            format!(
                "its hook failed ({error}) and is tried again in {}, or now by flip retry {item}",
                span(*in_ms)
            )
        }
        Wait::Parallel { running, limit } => {
            format!("{running} hooks of the system run, and {limit} may at a time")
        }
        Wait::AsksHolder { holder } => format!("{holder} is asked whether it is there, before it is moved"),
        Wait::Lease { granted, needed } => format!("the lease: {granted} of {needed} voters have granted it"),
        Wait::Handover { from, to } => format!("{from} keeps it until {} has it", to.join(" or ")),
        Wait::Releasing { from } => format!("{from} has to let go of it first"),
    }
}

fn lease(why: &Why) -> Vec<String> {
    let Some(lease) = &why.lease else { return Vec::new() };
    let mut lines = Vec::new();
    match (lease.claimed, lease.held_for_ms) {
        (_, Some(ms)) => lines.push(format!("{} may hold it for {}", why.node, span(ms))),
        (true, None) => lines.push(format!("{} claims it and may not hold it yet", why.node)),
        (false, None) => lines.push(format!("{} does not claim it", why.node)),
    }
    if lease.claimed {
        let by = if lease.granted.is_empty() { "nobody".to_owned() } else { lease.granted.join(", ") };
        lines.push(format!("granted by {by}; it takes {}", lease.needed));
    }
    for refused in &lease.refused {
        lines.push(format!("{} refuses it for {}", refused.voter, span(refused.for_ms)));
    }
    if let Some(to) = &lease.promised_to {
        lines.push(format!("{} has promised it to {to}", why.node));
    }
    if let Some(ms) = lease.silent_for_ms {
        lines.push(format!("{} was just started and promises nothing for {}", why.node, span(ms)));
    }
    lines
}

fn cases(why: &Why) -> Vec<String> {
    let line = |case: &flip_core::why::CaseWhy| {
        let by =
            if case.ballots.is_empty() { String::new() } else { format!(" ({})", case.ballots.join(", ")) };
        let abstains =
            if case.abstains { "; this node does not trust its own senses and casts none" } else { "" };
        format!(
            "{} for {} ({}): {} of {} ballots{by}{abstains}",
            case.server,
            span(case.since_ms),
            case.cause,
            case.ballots.len(),
            case.quorum
        )
    };
    why.cases.iter().map(line).collect()
}

fn moved(one: &Moved) -> String {
    let what = match one.what {
        What::Came => "came to",
        What::Went => "was released by",
        What::Died => "died with",
        What::Failed => "could not be held by",
        What::Stuck => "could not be released by",
    };
    let because = one.trigger.as_ref().map_or_else(String::new, |trigger| format!(" ({trigger})"));
    format!("{} ago: {what} {}{because}", span(one.ago_ms), one.server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_step_by_step() {
        let json = r#"{"node":"a","system":"ip","item":"192.0.2.7","isolated":"drop","replicated":false,
            "holders":[{"server":"a","state":"acquiring","since_ms":40}],
            "home":{"server":"b","preferred":false,"place":2,"dealt_over":["a","b","c"]},
            "servers":[
              {"server":"a","eligible":true,"against":[],"items":2},
              {"server":"b","eligible":false,"items":0,"against":[{"kind":"down","since_ms":1500,"voters":["a","c"]}]},
              {"server":"c","eligible":false,"items":1,"against":[{"kind":"drained"},
                {"kind":"unhealthy","trouble":null,"checks":[{"check":"tcp :80","error":"refused"}]}]}],
            "wanted":["a"],"because":"fewest",
            "waits":[{"kind":"lease","granted":1,"needed":2}],
            "lease":{"claimed":true,"held_for_ms":null,"needed":2,"granted":["a"],
              "refused":[{"voter":"c","for_ms":3200}],"promised_to":"a","silent_for_ms":null},
            "cases":[{"server":"c","cause":"probe_failed","since_ms":90,"ballots":["a"],"quorum":2,"abstains":false}],
            "moves":[{"ago_ms":60000,"server":"b","what":"came","trigger":"home"},
                     {"ago_ms":1500,"server":"b","what":"died","trigger":null}],
            "checks":[],"failure":null}"#;
        let why: Why = serde_json::from_str(json).unwrap();
        let expected = "\
192.0.2.7 of ip, as a sees it

Now
  nobody holds it
  a is taking it, for 40 ms

Home
  b: it is number 2 of its system, and items are dealt in this order over a, b, c

Who may have it
  a may (it has 2 of the system)
  b may not: down for 1 s by the ballots of a, c
  c may not: drained until flip undrain; it is not well there (tcp :80: refused)

Where it belongs
  on a: b may not have it, and of those who may it had the fewest items

What is in between
  the lease: 1 of 2 voters have granted it

Lease
  a claims it and may not hold it yet
  granted by a; it takes 2
  c refuses it for 3 s
  a has promised it to a

Open cases
  c for 90 ms (probe_failed): 1 of 2 ballots (a)

Last moves
  1 s ago: died with b
  1 min 0 s ago: came to b (home)
";
        assert_eq!(show(&why), expected);
        let at_home = Why { waits: Vec::new(), lease: None, cases: Vec::new(), moves: Vec::new(), ..why };
        let text = show(&at_home);
        assert!(text.ends_with("\nWhat is in between\n  nothing: it is where it belongs\n"), "{text}");
    }
}
