//! The flip daemon and its command line: it parses, drives and shows, and decides nothing.

#![deny(unsafe_code)]

mod check;
mod cli;
mod client;
mod config;
mod daemon;
mod demo;
mod edit;
mod hook;
mod key;
mod operate;
mod paths;
mod release;
mod see;
mod simulate;
mod status;
mod top;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command, HookCommand};

/// What went wrong, and with which code the process ends.
pub struct Failure {
    pub code: u8,
    pub error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: 1, error: error.into() }
    }
}

/// The code to exit with, or why not.
pub type Outcome = Result<ExitCode, Failure>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Simulate(args)) => simulate::run(&args),
        Some(Command::Status(args)) => status::run(&args),
        Some(Command::Members(args)) => see::members(&args),
        Some(Command::Items(args)) => see::items(&args),
        Some(Command::Events(args)) => see::events(&args),
        Some(Command::Why(args)) => see::why(&args),
        Some(Command::Plan(args)) => see::plan(&args),
        Some(Command::Metrics(args)) => see::metrics(&args),
        Some(Command::Top(args)) => top::run(args),
        Some(Command::Evict(args)) => see::evict(&args),
        Some(Command::Item { command }) => edit::item(command),
        Some(Command::Server { command }) => edit::server(command),
        Some(Command::System { command }) => edit::system(command),
        Some(Command::Move(args)) => edit::move_item(&args),
        Some(Command::Drain(args)) => operate::drain(args),
        Some(Command::Undrain(args)) => operate::undrain(args),
        Some(Command::Retry(args)) => operate::retry(args),
        Some(Command::Reload(args)) => operate::reload(&args),
        Some(Command::Announce(args)) => operate::announce(args),
        Some(Command::ConfirmReleased(args)) => operate::confirm_released(args),
        Some(Command::Release(args)) => release::run(&args),
        Some(Command::Key { command }) => key::run(command),
        Some(Command::Hook { command: HookCommand::Run(args) }) => hook::run(&args),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Keygen(args)) => key::generate(&args),
        Some(Command::Man) => man(),
        Some(Command::Completions { shell }) => completions(shell),
        None => match cli.config {
            Some(config) => daemon::run(config, cli.daemon),
            None => Err(anyhow::anyhow!("neither a command nor --config was given").into()),
        },
    };
    match outcome {
        Ok(code) => code,
        Err(Failure { error, .. }) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(Failure { code, error }) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(code)
        }
    }
}

/// `flip status | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn man() -> Outcome {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(Cli::command()).section("8");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend_from_slice(COMMANDS_HEAD.as_bytes());
    for command in Cli::command().get_subcommands() {
        page.extend_from_slice(section("", command).as_bytes());
    }
    page.extend_from_slice(include_str!("../man/flip.8.tail").as_bytes());
    io::stdout().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}

/// What the manual says about a command and those under it.
fn section(parent: &str, command: &clap::Command) -> String {
    let name = format!("{parent}{}", command.get_name());
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let text = roff_text(&about.unwrap_or_default());
    let usage = roff_text(&command.clone().bin_name(format!("flip {name}")).render_usage().to_string());
    let options: String = command.get_opts().map(option).collect();
    let under: String = command.get_subcommands().map(|under| section(&format!("{name} "), under)).collect();
    format!(".SS {name}\n{text}\n.PP\n{usage}\n{options}{under}")
}

const COMMANDS_HEAD: &str = ".SH COMMANDS\n";

fn option(arg: &clap::Arg) -> String {
    let short = arg.get_short().map(|short| format!("\\-{short}, ")).unwrap_or_default();
    let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
    let value =
        value.and_then(|names| names.first()).map(|name| format!(" \\fI{name}\\fR")).unwrap_or_default();
    let help = roff_text(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    format!(".TP\n\\fB{short}\\-\\-{}\\fR{value}\n{help}\n", arg.get_long().unwrap_or_default())
}

/// Text as roff takes it literally: backslashes, dashes, and dots or quotes at the start of a line.
fn roff_text(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let line =
        |line: &str| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() };
    escaped.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "flip", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
