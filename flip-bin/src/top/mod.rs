//! `flip top`: the cluster live on a terminal, and keys to drain, to move and to ask why.
//!
//! ```text
//!  /v1/status/watch ─► thread ─┐
//!  /v1/events ───────► thread ─┼─► Message ─► Model ─► draw
//!  keys ─────────────► thread ─┘                └─► Effect ─► thread that asks ─► Message
//! ```

mod draw;
mod model;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::anyhow;
use flip_core::record::Record;
use flip_core::status::Status;
use flip_core::why::Why;
use hyper::Method;
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::{Value, json};

use crate::cli::TopArgs;
use crate::client::{Client, Error, LIMIT, encoded, parse};
use crate::{Failure, Outcome, see};
use model::{Effect, Key, Model, Popup, Wish};

/// Pause before a daemon that ended is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long what the daemon said stays in the last line.
const SAID: Duration = Duration::from_secs(8);
/// Lines of a page.
const PAGE: i16 = 10;

enum Message {
    Status(Box<Status>),
    Event(Box<Record>),
    /// Nobody answers, and why.
    Lost(String),
    Why(String, String),
    /// What came of a wish, and whether it was refused.
    Said(String, bool),
    Key(KeyEvent),
    /// The terminal has another size, or is gone.
    Resize,
    Gone,
}

pub fn run(args: TopArgs) -> Outcome {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let error = anyhow!("flip top needs a terminal; for programs there is: flip status --watch --json");
        return Err(Failure { code: 1, error });
    }
    // Before the terminal is touched: whoever has no daemon reads so on an ordinary screen.
    let client = Client::of(&args.daemon)?;
    client.text("/v1/status")?;
    let args = Arc::new(args);
    let (messages, inbox) = channel();
    watch(&args, &messages);
    listen(&args, &messages);
    let keys = messages.clone();
    std::thread::spawn(move || {
        loop {
            let message = match event::read() {
                Ok(event::Event::Key(key)) if key.kind != KeyEventKind::Release => Message::Key(key),
                Ok(event::Event::Resize(..)) => Message::Resize,
                Ok(_) => continue,
                Err(_) => Message::Gone,
            };
            let gone = matches!(message, Message::Gone);
            if keys.send(message).is_err() || gone {
                return;
            }
        }
    });
    let mut terminal = ratatui::try_init()?;
    let result = show_all(&mut terminal, &args, &messages, &inbox);
    ratatui::restore();
    result
}

fn show_all(
    terminal: &mut ratatui::DefaultTerminal,
    args: &Arc<TopArgs>,
    messages: &Sender<Message>,
    inbox: &Receiver<Message>,
) -> Outcome {
    let mut model = Model::default();
    let mut said = None;
    loop {
        terminal.draw(|frame| draw::draw(frame, &model))?;
        // Ages grow, and what was said grows old.
        let first = match inbox.recv_timeout(Duration::from_secs(1)) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(ExitCode::SUCCESS),
        };
        // All that is there by now is one picture.
        for message in first.into_iter().chain(std::iter::from_fn(|| inbox.try_recv().ok())) {
            match message {
                Message::Status(status) => model.show(*status),
                Message::Event(record) => model.tell(see::time(record.wall_ms), record.line()),
                Message::Lost(why) => model.lost = Some(why),
                Message::Why(title, text) => model.popup = Some(Popup::Text { title, text, scroll: 0 }),
                Message::Said(text, refused) => {
                    model.said = Some((text, refused));
                    said = Some(std::time::Instant::now());
                }
                Message::Resize => {}
                Message::Gone => return Ok(ExitCode::SUCCESS),
                Message::Key(key) => match meaning(key).map_or(Effect::Nothing, |key| model.key(key)) {
                    Effect::Nothing => {}
                    Effect::Quit => return Ok(ExitCode::SUCCESS),
                    Effect::Ask(wish) => ask(Arc::clone(args), wish, messages.clone()),
                },
            }
        }
        if said.is_some_and(|at| at.elapsed() > SAID) {
            model.said = None;
        }
    }
}

fn meaning(key: KeyEvent) -> Option<Key> {
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::Page(-PAGE),
        KeyCode::PageDown => Key::Page(PAGE),
        KeyCode::Tab => Key::Next,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Back,
        KeyCode::Char(letter) => Key::Letter(letter),
        _ => return None,
    })
}

/// Sends every status, for as long as somebody takes them.
fn watch(args: &Arc<TopArgs>, to: &Sender<Message>) {
    stream(
        args,
        to,
        |_| "/v1/status/watch".to_owned(),
        |_, data| parse(data).map(|status| Message::Status(Box::new(status))),
    );
}

/// Sends every event, from the oldest that the daemon has.
fn listen(args: &Arc<TopArgs>, to: &Sender<Message>) {
    stream(
        args,
        to,
        |seen| format!("/v1/events?from={}", seen + 1),
        |seen, data| {
            let record: Record = parse(data)?;
            *seen = record.seq;
            Ok(Message::Event(Box::new(record)))
        },
    );
}

/// Follows a stream in a thread of its own, and begins anew where it ended.
fn stream(
    args: &Arc<TopArgs>,
    to: &Sender<Message>,
    path: impl Fn(u64) -> String + Send + 'static,
    read: impl Fn(&mut u64, &str) -> Result<Message, Error> + Send + 'static,
) {
    let (args, to) = (Arc::clone(args), to.clone());
    std::thread::spawn(move || {
        let mut seen = 0;
        loop {
            let why = match Client::of(&args.daemon).and_then(|client| client.stream(&path(seen))) {
                Ok(events) => {
                    for event in events.filter(|event| event.kind.is_empty()) {
                        let message = read(&mut seen, &event.data);
                        if to.send(message.unwrap_or_else(|error| Message::Lost(words(error)))).is_err() {
                            return;
                        }
                    }
                    // Its numbers begin anew with the next daemon.
                    seen = 0;
                    "the daemon has ended".to_owned()
                }
                Err(error) => words(error),
            };
            if to.send(Message::Lost(why)).is_err() {
                return;
            }
            std::thread::sleep(AGAIN);
        }
    });
}

/// Asks the daemon beside what is shown.
fn ask(args: Arc<TopArgs>, wish: Wish, to: Sender<Message>) {
    std::thread::spawn(move || {
        let asked = Client::of(&args.daemon).and_then(|client| carry_out(&client, &wish));
        // The terminal may be given back by now.
        let _ = to.send(asked.unwrap_or_else(|error| Message::Said(words(error), true)));
    });
}

/// An error of the client as one line.
fn words(error: Error) -> String {
    format!("{:#}", Failure::from(error).error)
}

fn carry_out(client: &Client, wish: &Wish) -> Result<Message, Error> {
    let path = match wish {
        Wish::Why(item) => {
            let why: Why = client.get(&format!("/v1/why/{}", encoded(item)))?;
            return Ok(Message::Why(format!("why {item}"), see::sentences(&why)));
        }
        Wish::Drain(server) => format!("/v1/drain/{}", encoded(server)),
        Wish::Undrain(server) => format!("/v1/undrain/{}", encoded(server)),
        Wish::Announce(item) => format!("/v1/announce/{}", encoded(item)),
        Wish::Retry(item) => format!("/v1/retry/{}", encoded(item)),
        Wish::Move { .. } => "/v1/edit".to_owned(),
    };
    let body = match wish {
        Wish::Move { system, item, to } => {
            Some(json!({ "edits": [{ "move_item": { "system": system, "item": item, "to": to } }] }))
        }
        _ => None,
    };
    // An edit waits for the disks of others first.
    let limit = if body.is_some() { LIMIT * 2 } else { LIMIT };
    let answer: Value = client.send(Method::POST, &path, body.as_ref(), limit)?;
    let text = answer.get("done").and_then(Value::as_str).unwrap_or("done");
    Ok(Message::Said(text.to_owned(), false))
}
