//! Questions to a daemon: the one place that knows how they travel.

use std::process::ExitCode;

use anyhow::anyhow;
use flip_core::plan::WhatIf;
use hyper::Method;
use serde_json::json;

use crate::cli::AskArgs;
use crate::client::{Client, Error, LIMIT, encoded};
use crate::{Failure, Outcome};

pub use crate::client::NO_DAEMON;

/// The exit code when what was asked for is open.
pub const UNDECIDED: u8 = 3;

/// What a daemon can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `flip_core::status::Status`.
    Status,
    /// `flip_core::why::Why` of this item.
    Why(String),
    /// `flip_core::plan::Plan` of this.
    Plan(Vec<WhatIf>),
    /// The metrics as text.
    Metrics,
}

/// One question, one answer.
pub fn line(daemon: &AskArgs, question: &Question) -> Result<String, Failure> {
    let client = Client::of(daemon)?;
    let text = match question {
        Question::Status => client.text("/v1/status"),
        Question::Why(item) => client.text(&format!("/v1/why/{}", encoded(item))),
        Question::Plan(what_if) => {
            client.ask(Method::POST, "/v1/plan", Some(&json!({ "what_if": what_if })), LIMIT)
        }
        Question::Metrics => client.text("/metrics"),
    };
    Ok(text?)
}

/// Events from a number on, as JSON, until there are no more, the daemon ends or `each` does.
pub fn events(
    daemon: &AskArgs,
    from: u64,
    follow: bool,
    mut each: impl FnMut(&str) -> anyhow::Result<()>,
) -> Outcome {
    let stream = Client::of(daemon)?.stream(&format!("/v1/events?from={from}&follow={follow}"))?;
    for event in stream {
        if event.kind == "error" {
            return Err(Error::NoDaemon(anyhow!("the daemon ended the stream: {}", event.data)).into());
        }
        each(&event.data)?;
    }
    if follow {
        return Err(Error::NoDaemon(anyhow!("the daemon has ended")).into());
    }
    Ok(ExitCode::SUCCESS)
}
