//! Changes of what the cluster consists of, while it runs: `flip item`, `flip server`, `flip system`, `flip move`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use flip_core::catalog::Edit;
use flip_core::event::ItemState;
use flip_core::status::Status;
use flip_core::why::Why;
use hyper::Method;
use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::cli::{
    Address, EditArgs, ItemAddArgs, ItemCommand, ItemRemoveArgs, ItemSetArgs, MoveArgs, RemoveArgs,
    ServerAddArgs, ServerCommand, SetArgs, Setting, SystemAddArgs, SystemCommand,
};
use crate::client::{Client, Error, OPEN, REFUSED, encoded, parse};
use crate::daemon::api::{Done, ErrorBody, UNACKNOWLEDGED};
use crate::operate::{PATIENCE, holds};

/// How much longer than its own time an edit may take to be answered: longer than the daemon waits for its loop.
const MORE: Duration = Duration::from_secs(10);
/// How long placement may want an item elsewhere before that is told.
const SETTLED: Duration = Duration::from_secs(3);

pub fn item(command: ItemCommand) -> Outcome {
    match command {
        ItemCommand::Add(ItemAddArgs { system, value, edit }) => {
            finish(&Client::of(&edit.daemon)?, &edit, &Edit::SetItem { system, value, new: true })
        }
        ItemCommand::Set(ItemSetArgs { system, item, settings, edit }) => {
            let client = Client::of(&edit.daemon)?;
            with_name(&client, &edit, Some(system), item, |system, item| Edit::ChangeItem {
                system,
                item,
                change: map(settings),
            })
        }
        ItemCommand::Remove(ItemRemoveArgs { system, item, edit }) => {
            let client = Client::of(&edit.daemon)?;
            with_name(&client, &edit, system, item, |system, item| Edit::RemoveItem { system, item })
        }
    }
}

pub fn server(command: ServerCommand) -> Outcome {
    let (edit, args) = match command {
        ServerCommand::Add(args) => {
            let ServerAddArgs { server, address: Address(ip, port), systems, priority, settings, edit } =
                args;
            let mut value = Map::from_iter([("ip".to_owned(), Value::from(ip.to_string()))]);
            value.extend(port.map(|port| ("port".to_owned(), port.into())));
            if !systems.is_empty() {
                value.insert("systems".to_owned(), systems.into());
            }
            value.extend(priority.map(|priority| ("priority".to_owned(), priority.into())));
            value.extend(map(settings));
            (Edit::SetServer { id: server, value, new: true }, edit)
        }
        ServerCommand::Set(SetArgs { name, settings, edit }) => {
            (Edit::ChangeServer { id: name, change: map(settings) }, edit)
        }
        ServerCommand::Remove(RemoveArgs { name, edit }) => (Edit::RemoveServer { id: name }, edit),
    };
    finish(&Client::of(&args.daemon)?, &args, &edit)
}

pub fn system(command: SystemCommand) -> Outcome {
    let (edit, args) = match command {
        SystemCommand::Add(SystemAddArgs { name, handler, settings, edit }) => {
            let mut value = handler.as_deref().map(handlers).unwrap_or_default();
            value.extend(map(settings));
            (Edit::SetSystem { name, value, new: true }, edit)
        }
        SystemCommand::Set(SetArgs { name, settings, edit }) => {
            (Edit::ChangeSystem { name, change: map(settings) }, edit)
        }
        SystemCommand::Remove(RemoveArgs { name, edit }) => (Edit::RemoveSystem { name }, edit),
    };
    finish(&Client::of(&args.daemon)?, &args, &edit)
}

pub fn move_item(args: &MoveArgs) -> Outcome {
    let client = Client::of(&args.edit.daemon)?;
    let (system, item) = match named(&client, &args.item) {
        Ok(named) => named,
        Err(error) => return refused(&args.edit, error),
    };
    let to = args.server.clone();
    let edit = Edit::MoveItem { system: system.clone(), item: item.clone(), to };
    let code = match send(&client, &args.edit, &edit) {
        Ok(()) => ExitCode::SUCCESS,
        // It is in effect: whether it comes there is what was asked.
        Err(Error::Refused(detail)) if detail.code == UNACKNOWLEDGED => {
            refused(&args.edit, Error::Refused(detail))?
        }
        Err(error) => return refused(&args.edit, error),
    };
    if args.no_wait {
        return Ok(code);
    }
    match wait(client, &system, &item, &args.server)? {
        true => Ok(code),
        false => Ok(ExitCode::from(OPEN)),
    }
}

/// Both handlers in one word: `ip`, `memory`, or a script that has both functions.
fn handlers(word: &str) -> Map<String, Value> {
    let native =
        flip_core::config::HANDLERS.iter().find(|(alive, _)| alive.strip_suffix("_up") == Some(word));
    let (alive, down) = native.copied().unwrap_or((word, word));
    Map::from_iter([("alive".to_owned(), alive.into()), ("down".to_owned(), down.into())])
}

fn map(settings: Vec<Setting>) -> Map<String, Value> {
    settings.into_iter().map(|Setting(key, value)| (key, value)).collect()
}

/// System and name of the item that is meant.
fn named(client: &Client, text: &str) -> Result<(String, String), Error> {
    let why: Why = client.get(&format!("/v1/why/{}", encoded(text)))?;
    Ok((why.system, why.item))
}

fn with_name(
    client: &Client,
    args: &EditArgs,
    system: Option<String>,
    item: String,
    edit: impl FnOnce(String, String) -> Edit,
) -> Outcome {
    let found = match &system {
        Some(system) => named(client, &format!("{system}/{item}")),
        None => named(client, &item),
    };
    let (system, item) = match (found, system) {
        (Ok(found), _) => found,
        // The refusal of the edit says what was probably meant.
        (Err(Error::Refused(_)), Some(system)) => (system, item),
        (Err(error), _) => return refused(args, error),
    };
    finish(client, args, &edit(system, item))
}

fn finish(client: &Client, args: &EditArgs, edit: &Edit) -> Outcome {
    match send(client, args, edit) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => refused(args, error),
    }
}

/// Has an edit made, and says on which disks it is.
fn send(client: &Client, args: &EditArgs, edit: &Edit) -> Result<(), Error> {
    let timeout = Duration::from_secs(args.timeout);
    let body = json!({
        "edits": [edit], "local": args.local, "force": args.force, "timeout_ms": args.timeout * 1000,
    });
    let said: Done = client.send(Method::POST, "/v1/edit", Some(&body), timeout + MORE)?;
    let line = if args.json { json!(said).to_string() } else { said.done };
    // Whoever closed standard output does not want to read it.
    let _ = writeln!(io::stdout(), "{line}");
    Ok(())
}

/// What the daemon refused, as JSON where that is wished for.
fn refused(args: &EditArgs, error: Error) -> Outcome {
    match error {
        Error::Refused(error) if args.json => {
            let code = if error.code == UNACKNOWLEDGED { OPEN } else { REFUSED };
            writeln!(io::stdout(), "{}", serde_json::to_string(&ErrorBody { error })?)?;
            Ok(ExitCode::from(code))
        }
        Error::Refused(error) if error.code == UNACKNOWLEDGED => {
            writeln!(io::stderr(), "{}; {}", error.message, error.hint)?;
            Ok(ExitCode::from(OPEN))
        }
        error => Err(error.into()),
    }
}

/// How far an item has come to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    There,
    /// It is to come, and who holds it until then.
    Under(Vec<String>),
    /// Placement wants it elsewhere.
    Elsewhere(Vec<String>),
    /// A server is examined, and placement waits.
    Open,
    Gone,
}

impl Way {
    fn of(status: &Status, system: &str, item: &str, to: &str) -> Self {
        let Some(item) = status.items.iter().find(|found| found.system == system && found.item == item)
        else {
            return Self::Gone;
        };
        let holders: Vec<_> = item.holders.iter().filter(|holder| holds(holder.state)).collect();
        if let [one] = holders[..]
            && one.server == to
            && one.state == ItemState::Active
        {
            return Self::There;
        }
        if item.wanted.iter().any(|wanted| wanted == to) {
            return Self::Under(holders.iter().map(|holder| holder.server.clone()).collect());
        }
        if status.members.iter().any(|member| member.case.is_some()) {
            return Self::Open;
        }
        Self::Elsewhere(item.wanted.clone())
    }
}

/// Waits until an item is active on a server and nowhere else. False when that may not have it now.
fn wait(client: Client, system: &str, item: &str, to: &str) -> Result<bool, crate::Failure> {
    let began = Instant::now();
    let inbox = client.statuses()?;
    let (mut way, mut since, mut told) = (None, began, None);
    loop {
        match inbox.recv_timeout(PATIENCE) {
            // The reason of an end, after which there is nothing.
            Ok(event) if !event.kind.is_empty() => {}
            Ok(event) => {
                let now = Way::of(&parse(&event.data)?, system, item, to);
                if way.as_ref() != Some(&now) {
                    (way, since) = (Some(now), Instant::now());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let why = anyhow!("the daemon ended before {item} was on {to}");
                return Err(Error::NoDaemon(why).into());
            }
        }
        let late = began.elapsed() >= PATIENCE;
        match &way {
            Some(Way::There) => {
                if told.is_some() {
                    writeln!(io::stderr(), "{item} is on {to} after {:.1?}", began.elapsed())?;
                }
                return Ok(true);
            }
            Some(Way::Gone) => {
                writeln!(io::stderr(), "{item} was removed meanwhile")?;
                return Ok(false);
            }
            Some(Way::Elsewhere(wanted)) if since.elapsed() >= SETTLED => {
                let place = if wanted.is_empty() { "nowhere".to_owned() } else { wanted.join(", ") };
                writeln!(
                    io::stderr(),
                    "{to} is the home of {item} now, but may not have it yet: it belongs on {place} until then; \
                     flip why {item} says why"
                )?;
                return Ok(false);
            }
            Some(now) if late && told.as_ref() != Some(now) => {
                match now {
                    Way::Under(holders) if holders.is_empty() => {
                        writeln!(io::stderr(), "{item} is nowhere, and comes to {to}")?;
                    }
                    Way::Under(holders) => {
                        writeln!(io::stderr(), "{item} is on {}, and comes to {to}", holders.join(", "))?;
                    }
                    Way::Open => {
                        writeln!(io::stderr(), "{item} waits until it is known whether a server is down")?;
                    }
                    Way::There | Way::Gone | Way::Elsewhere(_) => continue,
                }
                told = Some(now.clone());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_names_both_handlers() {
        let pair = |word: &str| {
            let map = handlers(word);
            (
                map["alive"].as_str().unwrap_or_default().to_owned(),
                map["down"].as_str().unwrap_or_default().to_owned(),
            )
        };
        for (word, alive, down) in
            [("ip", "ip_up", "ip_down"), ("memory", "memory_up", "memory_down"), ("job", "job", "job")]
        {
            assert_eq!(pair(word), (alive.to_owned(), down.to_owned()), "{word}");
        }
    }
}
