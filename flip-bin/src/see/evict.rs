//! `flip evict`: keeps items away from a server, whatever its state, and says what that cannot do.
//!
//! Nobody can be declared down by a wish: that takes a quorum that looked for itself, and no flag gets around it.
//! What can be done safely is that the server gets nothing, now and when it returns.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::anyhow;
use flip_core::status::{MemberState, Status};
use hyper::Method;

use crate::cli::EvictArgs;
use crate::client::{Client, LIMIT, OPEN, encoded};
use crate::daemon::api::Done;
use crate::{Failure, Outcome};

pub fn evict(args: &EvictArgs) -> Outcome {
    let client = Client::of(&args.daemon)?;
    // Refused where there is no such server.
    let path = format!("/v1/drain/{}", encoded(&args.server));
    let Done { done } = client.send(Method::POST, &path, None, LIMIT)?;
    writeln!(io::stdout(), "{done}")?;
    let status: Status = client.get("/v1/status")?;
    match say(&status, &args.server) {
        Ok(text) => {
            writeln!(io::stdout(), "{text}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => Err(Failure { code: OPEN, error: anyhow!(why) }),
    }
}

/// What becomes of the items of a server that is drained; an error when that is open.
fn say(status: &Status, server: &str) -> Result<String, String> {
    let unclean: Vec<_> = status
        .items
        .iter()
        .filter(|item| item.unclean_on.as_deref() == Some(server))
        .map(|item| item.item.as_str())
        .collect();
    let confirm = match &unclean[..] {
        [] => String::new(),
        items => format!(
            "; these may still be there, so nobody takes them before you made sure that they are not and ran \
             flip confirm-released: {}",
            items.join(", ")
        ),
    };
    let Some(member) = status.members.iter().find(|member| member.id == server) else {
        return Err(format!("there is no server {server}"));
    };
    let remove = format!("stop its daemon and take {server} out of the config to remove it for good");
    match member.state {
        MemberState::Up => {
            Ok(format!("{server} is up: its items move to others, and it gets none; then {remove}{confirm}"))
        }
        MemberState::Down | MemberState::Left => Ok(format!(
            "{server} is gone by the word of the cluster: others have its items, and it gets none when it returns; \
             {remove}{confirm}"
        )),
        MemberState::Suspect | MemberState::Unknown if status.has_quorum => Ok(format!(
            "{server} does not answer, and a quorum is looking: its items move when it agrees, in a moment; it gets \
             none when it returns{confirm}"
        )),
        MemberState::Suspect | MemberState::Unknown => Err(format!(
            "{server} does not answer, but {} sees no quorum ({} of {} live voters needed), so nobody can know that \
             it is down and not just cut off; it is drained for when they meet again. Start other servers, or give \
             the cluster a quorum that lives; to move an item by hand, make sure that {server} has no power first",
            status.node, status.live, status.quorum
        )),
    }
}
