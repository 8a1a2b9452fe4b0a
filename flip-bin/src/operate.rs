//! What operators tell a cluster: `flip drain`, `flip undrain`, `flip confirm-released`, `flip retry`, `flip reload`,
//! `flip announce`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use flip_core::event::ItemState;
use flip_core::status::Status;
use hyper::Method;
use serde_json::Value;

use crate::Outcome;
use crate::cli::{AnnounceArgs, AskArgs, DrainArgs, ItemArgs, ServerArgs};
use crate::client::{Client, Error, LIMIT, encoded, parse};
use crate::daemon::api::Done;

/// Longer than the daemon gives its plugins to stop and to start.
const RELOAD: Duration = Duration::from_secs(90);
/// What takes longer shows how far it is.
pub const PATIENCE: Duration = Duration::from_secs(1);

pub fn drain(args: DrainArgs) -> Outcome {
    let client = Client::of(&args.server.daemon)?;
    let server = name(&client, args.server.server)?;
    let Done { done } = client.send(Method::POST, &format!("/v1/drain/{}", encoded(&server)), None, LIMIT)?;
    writeln!(io::stdout(), "{done}")?;
    if !args.no_wait {
        wait_empty(client, &server)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until a server holds nothing that another may hold.
fn wait_empty(client: Client, server: &str) -> Outcome {
    let began = Instant::now();
    let inbox = client.statuses()?;
    let mut left = None;
    let mut told = None;
    loop {
        match inbox.recv_timeout(PATIENCE) {
            Ok(event) => left = Some(Left::of(&parse(&event.data)?, server)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let why = anyhow!("the daemon ended before {server} was empty");
                return Err(Error::NoDaemon(why).into());
            }
        }
        match left {
            Some(Left { moving: 0, staying: 0 }) if told.is_none() => return Ok(ExitCode::SUCCESS),
            Some(Left { moving: 0, staying: 0 }) => {
                writeln!(io::stderr(), "{server} holds nothing any more, after {:.1?}", began.elapsed())?;
                return Ok(ExitCode::SUCCESS);
            }
            Some(Left { moving: 0, staying }) => {
                writeln!(
                    io::stderr(),
                    "{} on {server}, because no other server may hold it now",
                    count(staying, "stays")
                )?;
                return Ok(ExitCode::SUCCESS);
            }
            Some(Left { moving, .. }) if began.elapsed() >= PATIENCE && told != Some(moving) => {
                told = Some(moving);
                writeln!(io::stderr(), "{server} still holds {moving} of the items that move from it")?;
            }
            _ => {}
        }
    }
}

fn count(items: usize, what: &str) -> String {
    if items == 1 {
        format!("1 item {what}")
    } else {
        format!("{items} items {}", what.trim_end_matches('s'))
    }
}

/// Whether a server that says this of an item has it, or has some of it.
pub const fn holds(state: ItemState) -> bool {
    matches!(state, ItemState::Acquiring | ItemState::Active | ItemState::Releasing)
}

/// What a server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    /// Items that another server is to hold.
    moving: usize,
    /// Items that no other server may hold.
    staying: usize,
}

impl Left {
    fn of(status: &Status, server: &str) -> Self {
        let mut left = Self { moving: 0, staying: 0 };
        for item in &status.items {
            if item.holders.iter().any(|holder| holder.server == server && holds(holder.state)) {
                let stays = item.wanted.iter().all(|wanted| wanted == server);
                *(if stays { &mut left.staying } else { &mut left.moving }) += 1;
            }
        }
        left
    }
}

pub fn undrain(args: ServerArgs) -> Outcome {
    let client = Client::of(&args.daemon)?;
    let server = name(&client, args.server)?;
    wish(&client, Method::POST, &format!("/v1/undrain/{}", encoded(&server)), None)
}

pub fn confirm_released(args: ItemArgs) -> Outcome {
    item(args, "confirm-released")
}

pub fn retry(args: ItemArgs) -> Outcome {
    item(args, "retry")
}

fn item(args: ItemArgs, what: &str) -> Outcome {
    let client = Client::of(&args.daemon)?;
    wish(&client, Method::POST, &format!("/v1/{what}/{}", encoded(&args.item)), None)
}

pub fn reload(args: &AskArgs) -> Outcome {
    let Done { done } = Client::of(args)?.send(Method::POST, "/v1/reload", None, RELOAD)?;
    writeln!(io::stdout(), "{done}")?;
    Ok(ExitCode::SUCCESS)
}

pub fn announce(args: AnnounceArgs) -> Outcome {
    let path = match &args.item {
        Some(item) => format!("/v1/announce/{}", encoded(item)),
        None => "/v1/announce".to_owned(),
    };
    wish(&Client::of(&args.daemon)?, Method::POST, &path, None)
}

/// The server that is meant: that of the daemon, unless another is named.
fn name(client: &Client, given: Option<String>) -> Result<String, Error> {
    match given {
        Some(server) => Ok(server),
        None => client.get::<Status>("/v1/status").map(|status| status.node),
    }
}

/// Tells the daemon, and people what came of it.
pub fn wish(client: &Client, method: Method, path: &str, body: Option<&Value>) -> Outcome {
    let Done { done } = client.send(method, path, body, LIMIT)?;
    writeln!(io::stdout(), "{done}")?;
    Ok(ExitCode::SUCCESS)
}
