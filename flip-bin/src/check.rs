//! `flip check`: validates a config without starting anything.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use flip_core::config::{Problem, Severity};
use flip_systems::files::Read;

use crate::Outcome;
use crate::cli::CheckArgs;
use crate::config::{self, Refused};
use crate::daemon::api::Access;

pub fn run(args: &CheckArgs) -> Outcome {
    match config::read_any(&args.config) {
        Err(Refused(text)) => {
            writeln!(std::io::stderr(), "{text}")?;
            Ok(ExitCode::from(2))
        }
        Ok(Read { config, mut warnings, scripts, files, joining, .. }) => {
            let beside = args.config.config.parent().unwrap_or(Path::new(""));
            if let Some(Err(error)) = config.admin.as_ref().map(|admin| Access::read(admin, beside)) {
                let file = files.file();
                let help =
                    Some("the daemon does not start without; as another user this may be as it should");
                let message = format!("{error:#}");
                warnings.push(Problem::at(
                    &files.source(&file),
                    Severity::Warning,
                    &["admin"],
                    &message,
                    help,
                ));
            }
            if !warnings.is_empty() {
                config::print(&warnings);
            }
            if joining.is_some() {
                let (id, addr, file) = (&config.my().id, config.my().addr, args.config.config.display());
                let state = fine(&warnings);
                writeln!(
                    std::io::stdout(),
                    "{file}: {state} as {id}, which joins a cluster and listens at {addr}"
                )?;
                return Ok(ExitCode::from(u8::from(args.strict && !warnings.is_empty())));
            }
            let items: usize = config.systems.iter().map(|system| system.items.len()).sum();
            let file = args.config.config.display();
            writeln!(
                std::io::stdout(),
                "{file}: {} as {}: {}, {}, quorum {}, {}, {}{}",
                fine(&warnings),
                config.my().id,
                count(config.servers.len(), "server"),
                count(config.voters.len(), "voter"),
                config.quorum,
                count(config.systems.len(), "system"),
                count(items, "item"),
                if scripts.is_empty() {
                    String::new()
                } else {
                    format!(", {}", count(scripts.len(), "script"))
                },
            )?;
            Ok(ExitCode::from(u8::from(args.strict && !warnings.is_empty())))
        }
    }
}

fn fine(warnings: &[Problem]) -> String {
    if warnings.is_empty() { "fine".to_owned() } else { count(warnings.len(), "warning") }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
