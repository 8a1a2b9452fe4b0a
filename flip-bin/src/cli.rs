//! The command line as written.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::key::KeyId;

/// Decides which server holds what, and moves it when a server dies.
///
/// Without a command, runs the daemon in the foreground: it joins the cluster that the config names,
/// holds the items that fall to this server, and lets go of them on SIGTERM. On SIGUSR1 it tells the neighbours
/// again of all addresses that it holds.
#[derive(Debug, Parser)]
#[command(name = "flip", version, arg_required_else_help = true)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The cluster's config, the same file on every server.
    #[arg(short, long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Which of the config's servers this is. Default: the config's `id`, else the host name.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    #[command(flatten)]
    pub state: StateArgs,
    /// How the log is written to standard error.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log: LogFormat,
    /// Overrides `log_level` of the config.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<Level>,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The cluster's config, the same file on every server.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which of the config's servers this is. Default: the config's `id`, else the host name.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
}

#[derive(Debug, Args)]
pub struct StateArgs {
    /// Where the daemon keeps what must survive it, in one folder per server id. Default: /var/lib/flip,
    /// or for ordinary users flip in $XDG_STATE_HOME or ~/.local/state.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The daemon's Unix socket. Default: flip.sock in the server's folder of the state dir.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validates a config and says what will surprise you.
    ///
    /// Exit code: 0 fine, 1 warnings with --strict, 2 errors.
    Check(CheckArgs),
    /// Runs the cluster of a config through simulated faults and measures its items.
    ///
    /// The same rules as in the daemon, in virtual time: worst and median time without a holder and with
    /// two, and moves, per kind of fault and item. Touches nothing on this host.
    ///
    /// Exit code: 0 done, 1 a promise of the config was broken, 2 errors in the config.
    Simulate(SimulateArgs),
    /// Shows members and items as the daemon on this host sees them.
    ///
    /// Exit code: 0 healthy, 1 degraded, 2 no daemon.
    Status(StatusArgs),
    /// Lists the servers of the cluster, and what this host's daemon believes of each.
    ///
    /// Exit code: 0 done, 2 no daemon.
    Members(SeeArgs),
    /// Lists the items, where each is and how it is there.
    ///
    /// Exit code: 0 done, 2 no daemon.
    Items(SeeArgs),
    /// Shows what happened, and with --follow what happens.
    ///
    /// Events are numbered from the start of the daemon, and the last thousands are kept. What is not kept any more is
    /// counted. With --json, each line is one event as in the manual, or {"lost": N}.
    /// Exit code: 0 done, 1 refused, 2 no daemon, or it ended.
    Events(EventsArgs),
    /// Says why an item is where it is, step by step.
    ///
    /// Whose it is by right, who may have it and who may not and why, where it belongs, what stands in between, its
    /// lease, open cases with their ballots, and its last moves with what made them. It is the view of this host's
    /// daemon. Exit code: 0 done, 1 no such item, 2 no daemon.
    Why(WhyArgs),
    /// Says what would move if servers died, came back or were drained, or items were added.
    ///
    /// All options together are one question. Nothing is changed: the daemon computes by its own rules what would be
    /// at rest. Exit code: 0 everything would be held, 1 refused, 2 no daemon, 3 something would be held by nobody.
    Plan(PlanArgs),
    /// Prints the metrics of this host's daemon as Prometheus reads them.
    ///
    /// Exit code: 0 done, 2 no daemon.
    Metrics(AskArgs),
    /// Keeps items away from a server that is sick or gone for good, and says what becomes of those it has.
    ///
    /// It drains the server, also while that is down. It cannot declare a server down: that takes a quorum that
    /// looked for itself. Exit code: 0 done, 1 refused, 2 no daemon, 3 done, but whether the server lives is open.
    Evict(EvictArgs),
    /// Takes all items from a server, before it is maintained.
    ///
    /// They move as in any planned move, and none comes back before `flip undrain`; the server stays a
    /// member and votes. Waits until it holds nothing that another server may hold. Exit code: 0 done, 1 refused,
    /// 2 no daemon.
    Drain(DrainArgs),
    /// Lets a server have items again.
    ///
    /// Exit code: 0 done, 1 refused, 2 no daemon.
    Undrain(ServerArgs),
    /// Says that an item in state unclean is released, so that others may take it.
    ///
    /// An item is unclean when its down hook did not end in time: it may still be on its server. Make sure
    /// that it is not, because nobody else looks. Exit code: 0 done, 1 refused, 2 no daemon.
    ConfirmReleased(ItemArgs),
    /// Tries hooks of an item again that failed on this server, without waiting any longer.
    ///
    /// For when their cause is mended. Exit code: 0 done, 1 refused, 2 no daemon.
    Retry(ItemArgs),
    /// Removes the addresses that a daemon left on this host, which was killed.
    ///
    /// `ExecStopPost=` of the service runs it after any kind of death. It goes by the marks that flip's addresses
    /// carry, asks nobody, and is refused while a daemon runs, be it one that is stopped and answers nobody.
    /// Exit code: 0 nothing of flip is left, 1 something could not be removed, 3 a daemon runs.
    Release(ReleaseArgs),
    /// Reads the scripts again, and stops and starts the plugins that changed.
    ///
    /// All are compiled and checked first: if one cannot be used, everything stays as it is, and it is named
    /// with file and line. Hooks that run end with the version that they began with. Other changes of the config
    /// need a restart. SIGHUP does the same. Exit code: 0 done, 1 refused, 2 no daemon.
    Reload(AskArgs),
    /// Tells the neighbours again where an item of this server is, from the first announcement on.
    ///
    /// For when a switch or a host keeps sending elsewhere. Without ITEM, of all items that are here, as on
    /// SIGUSR1 to the daemon. Exit code: 0 done, 1 refused (it is not here: the answer names who holds it),
    /// 2 no daemon.
    Announce(AnnounceArgs),
    /// Shows and changes the keys of a running cluster: add a new one, use it, remove the old one.
    ///
    /// Each step waits until every server that is up has confirmed it, and nothing is refused meanwhile.
    /// Exit code: 0 done, 1 refused, 2 no daemon.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Runs hooks by hand.
    Hook {
        #[command(subcommand)]
        command: HookCommand,
    },
    /// Kills a server of a small cluster and shows what happens.
    ///
    /// As root, three daemons run in network namespaces with two virtual IPs, and a client measures the
    /// outage; otherwise they run on loopback with items in memory. Everything is cleaned up.
    Demo(DemoArgs),
    /// Prints a new random key for `key` or the file that `key_file` names.
    Keygen,
    /// Prints the manual page: `flip man | man -l -`.
    Man,
    /// Prints a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// The cluster's config: releases for this server's daemon alone. Without it, or where it cannot be used,
    /// for every daemon of flip on this host.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which of the config's servers this is. Default: the config's `id`, else the host name.
    #[arg(long, value_name = "ID", requires = "config")]
    pub id: Option<String>,
    #[command(flatten)]
    pub state: StateArgs,
    /// Releases although a daemon runs, which will put its addresses back.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct SimulateArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How often each kind of fault is tried.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub seeds: u64,
    /// Which kinds of faults.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "power-off,kill,freeze,leave,cut,split,loss",
        value_parser = clap::builder::PossibleValuesParser::new(flip_core::sim::FAMILIES.iter().copied()))]
    pub faults: Vec<String>,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Exit with 1 when there are warnings.
    #[arg(long)]
    pub strict: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub daemon: AskArgs,
    /// Prints JSON, one line each time.
    #[arg(long)]
    pub json: bool,
    /// Shows every change until interrupted.
    #[arg(short, long)]
    pub watch: bool,
    /// Prints what `vippyctl status` of vippy prints: the state of this node and who owns each group.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    pub vippy: bool,
}

#[derive(Debug, Args)]
pub struct SeeArgs {
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub daemon: AskArgs,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Goes on with those that come, until interrupted.
    #[arg(short, long)]
    pub follow: bool,
    /// Begins with the event of this number; 0 for the start of the daemon.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub from: u64,
    /// Prints JSON, one line each.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub daemon: AskArgs,
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The item's name as `flip status` shows it, one of its addresses, or SYSTEM/NAME.
    #[arg(value_name = "ITEM")]
    pub item: String,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub daemon: AskArgs,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// What if this server died? May be given several times, as the others.
    #[arg(long, value_name = "SERVER")]
    pub down: Vec<String>,
    /// What if this server came back and stayed?
    #[arg(long, value_name = "SERVER")]
    pub up: Vec<String>,
    /// What if this server was drained?
    #[arg(long, value_name = "SERVER")]
    pub drain: Vec<String>,
    /// What if this server was not drained any more?
    #[arg(long, value_name = "SERVER")]
    pub undrain: Vec<String>,
    /// What if this item was added to the end of that system's list?
    #[arg(long, value_name = "SYSTEM/ITEM")]
    pub add: Vec<Added>,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub daemon: AskArgs,
}

/// A system and an item of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added(pub String, pub String);

impl std::str::FromStr for Added {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((system, item)) if !system.is_empty() && !item.is_empty() => {
                Ok(Self(system.to_owned(), item.to_owned()))
            }
            _ => Err("expected SYSTEM/ITEM, as in ip/192.0.2.7".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub struct EvictArgs {
    /// The server's id.
    #[arg(value_name = "SERVER")]
    pub server: String,
    #[command(flatten)]
    pub daemon: AskArgs,
}

/// Which daemon is asked.
#[derive(Debug, Args)]
pub struct AskArgs {
    #[command(flatten)]
    pub state: StateArgs,
    /// Which daemon to ask, where several run under one state dir.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Asks a daemon by TCP: http://IP:PORT or https://HOST:PORT, as its config says under `admin`.
    #[arg(long, value_name = "URL", conflicts_with_all = ["state_dir", "socket", "id"])]
    pub api: Option<String>,
    /// The file with the token for it.
    #[arg(long, value_name = "FILE", requires = "api")]
    pub token_file: Option<PathBuf>,
    /// Trusts the certificates of this file in PEM, and no others.
    #[arg(long, value_name = "FILE", requires = "api")]
    pub ca: Option<PathBuf>,
    /// Shows the certificate of this file in PEM, which has its private key, too.
    #[arg(long, value_name = "FILE", requires = "api")]
    pub client_cert: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct AnnounceArgs {
    #[command(flatten)]
    pub daemon: AskArgs,
    /// The item, as in `data` of the config.
    #[arg(value_name = "ITEM")]
    pub item: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum HookCommand {
    /// Runs one hook here and now, outside any cluster, and shows its log, result and time.
    ///
    /// A script in the same sandbox as in the daemon, a native handler as it is, both with the settings of this
    /// server. What it does to this host it does: ip_up puts the address on the interface, without a lifetime,
    /// and needs the rights for it. `check` runs the function of a script, or the `checks` of the config where the
    /// handlers are native. Exit code: 0 success, 1 the hook failed, 2 it could not run.
    Run(HookRunArgs),
}

#[derive(Debug, Args)]
pub struct HookRunArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The system's name in the config.
    #[arg(value_name = "SYSTEM")]
    pub system: String,
    /// Which hook.
    #[arg(value_name = "HOOK")]
    pub hook: HookAction,
    /// The item, as in `data` of the config.
    #[arg(value_name = "ITEM")]
    pub item: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HookAction {
    /// The item arrives.
    Alive,
    /// The item leaves.
    Down,
    /// Is the item well?
    Check,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Adds a key. It opens what others seal with it, and seals nothing yet.
    Add(AddArgs),
    /// Shows the keys, which one seals, and which servers are known to have each.
    List(ListArgs),
    /// Seals with another key from now on.
    ///
    /// Put it into the config of every server then: a server without a state dir knows no other.
    Use(IdArgs),
    /// Removes a key that is not in use. Ten seconds later nothing that it sealed is opened.
    Remove(IdArgs),
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["file", "generate"]))]
pub struct AddArgs {
    /// The file with the key, 64 hexadecimal digits; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Makes a new key, and prints it once it was added.
    #[arg(value_name = "generate", value_parser = ["generate"])]
    pub generate: Option<String>,
    #[command(flatten)]
    pub daemon: AskArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub daemon: AskArgs,
}

#[derive(Debug, Args)]
pub struct IdArgs {
    /// The key's id, as `flip key list` shows it.
    #[arg(value_name = "KEY")]
    pub key: KeyId,
    #[command(flatten)]
    pub daemon: AskArgs,
}

#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The server's id. Default: the server of the daemon that is asked.
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
    #[command(flatten)]
    pub daemon: AskArgs,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Does not wait for the items to move.
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct ItemArgs {
    /// The item's name, as `flip status` shows it, or one of its addresses.
    #[arg(value_name = "ITEM")]
    pub item: String,
    #[command(flatten)]
    pub daemon: AskArgs,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The timings to show.
    #[arg(long, default_value = "fast", value_parser = ["lan", "balanced", "fast", "turbo"])]
    pub profile: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line per event with its fields.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
}

impl From<Level> for flip_core::config::LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warning => Self::Warning,
            Level::Error => Self::Error,
            Level::Fatal => Self::Fatal,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
