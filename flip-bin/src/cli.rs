//! The command line as written.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::Value;

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
    /// Joins a running cluster by this member, or one of several; the port is 2200 unless given. The config is that of
    /// a server that joins: `id`, `key` or `key_file`, and `bind`. Who has joined before starts as it is.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = member)]
    pub join: Vec<Member>,
    /// For how long to try, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "join")]
    pub join_timeout: u64,
}

/// A member of a cluster as given: host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member(pub String, pub u16);

fn member(text: &str) -> Result<Member, String> {
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(Member(ip.to_string(), 2200));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            (host, port.parse().map_err(|_| format!("`{port}` is no port, expected HOST or HOST:PORT"))?)
        }
        None => (text, 2200),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err("expected HOST or HOST:PORT".to_owned());
    }
    Ok(Member(host.to_owned(), port))
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
    /// Shows the cluster live on the terminal, with keys to drain, to announce and to ask why.
    ///
    /// `?` lists the keys. Exit code: 0 ended by q, 1 no terminal, 2 no daemon.
    Top(TopArgs),
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
    /// Adds, changes and removes items of the running cluster.
    ///
    /// Every server takes the change, and keeps it over restarts. Exit code: 0 on the disks of a majority of the voters
    /// (with --local on that of the server that was asked), 1 refused, 2 no daemon, 3 in effect, but not on the disks of
    /// a majority within --timeout; it spreads on then, and is not to be asked for again.
    Item {
        #[command(subcommand)]
        command: ItemCommand,
    },
    /// Adds, changes and removes servers of the running cluster.
    ///
    /// One that votes is added or removed alone, and only while a majority of the voters agrees; a server that has just
    /// started agrees to nothing for ten seconds. Exit code: as of flip item.
    Server {
        #[command(subcommand)]
        command: ServerCommand,
    },
    /// Adds, changes and removes systems of the running cluster.
    ///
    /// Exit code: as of flip item.
    System {
        #[command(subcommand)]
        command: SystemCommand,
    },
    /// Gives an item another home, and waits until it is active there.
    ///
    /// It stays there until it is moved again: also after that server was down and came back. Exit code: 0 done, 1
    /// refused, 2 no daemon, 3 the home is another one, but not on the disks of a majority within --timeout, or the
    /// server may not have the item now.
    Move(MoveArgs),
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
    /// with file and line. Hooks that run end with the version that they began with. A config file that changed is
    /// taken: for the whole cluster when its `version` is higher, else on this server. SIGHUP does the same. Exit code: 0 done, 1 refused, 2 no daemon.
    Reload(AskArgs),
    /// Tells the neighbours again where an item of this server is, from the first announcement on.
    ///
    /// For when a switch or a host keeps sending elsewhere. Without ITEM, of all items that are here, as on
    /// SIGUSR1 to the daemon. Exit code: 0 done, 1 refused (it is not here: the answer names who holds it),
    /// 2 no daemon.
    Announce(AnnounceArgs),
    /// Shows and changes the keys of a running cluster: add a new one, use it, remove the old one.
    ///
    /// `flip keygen` makes one without telling any daemon.
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
    Keygen(KeygenArgs),
    /// Prints the manual page: `flip man | man -l -`.
    Man,
    /// Prints a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// Writes it to this file instead, which only its owner may read. Refused when there is such a file already.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
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
pub struct TopArgs {
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
pub enum ItemCommand {
    /// Adds an item to the end of its system's list.
    Add(ItemAddArgs),
    /// Changes some of what is said of an item; the rest stays.
    Set(ItemSetArgs),
    /// Removes an item: whoever holds it lets it go.
    Remove(ItemRemoveArgs),
}

#[derive(Debug, Args)]
pub struct ItemAddArgs {
    /// The system's name.
    #[arg(value_name = "SYSTEM")]
    pub system: String,
    /// The item as a text such as 10.0.0.9/24@eth0; or what begins with { or [ as JSON, as in `data` of a config.
    #[arg(value_name = "VALUE", value_parser = item_value)]
    pub value: Value,
    #[command(flatten)]
    pub edit: EditArgs,
}

#[derive(Debug, Args)]
pub struct ItemSetArgs {
    /// The system's name.
    #[arg(value_name = "SYSTEM")]
    pub system: String,
    /// The item's name, or one of its addresses.
    #[arg(value_name = "ITEM")]
    pub item: String,
    /// What changes: isolated=drop, checks='[…]'. The value is JSON, or else a text; null takes the key away.
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub settings: Vec<Setting>,
    #[command(flatten)]
    pub edit: EditArgs,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct ItemRemoveArgs {
    /// The system's name. It may be left out where no other system has such an item.
    #[arg(value_name = "SYSTEM")]
    pub system: Option<String>,
    /// The item's name, one of its addresses, or SYSTEM/NAME.
    #[arg(value_name = "ITEM", required = true)]
    pub item: String,
    #[command(flatten)]
    pub edit: EditArgs,
}

#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The item's name, one of its addresses, or SYSTEM/NAME.
    #[arg(value_name = "ITEM")]
    pub item: String,
    /// Id of the server that becomes its home.
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// Does not wait for the item to move.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub edit: EditArgs,
}

#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Adds a server to the end of the list. Start its daemon with the key and a config file that names it, or
    /// with those of the others.
    Add(ServerAddArgs),
    /// Changes some of what is said of a server; the rest stays.
    Set(SetArgs),
    /// Removes a server: it lets go of what it holds, votes no more, and its daemon ends.
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub struct ServerAddArgs {
    /// Its id.
    #[arg(value_name = "ID")]
    pub server: String,
    /// IP or IP:PORT, as in 10.0.0.4 or 10.0.0.4:2201; an IPv6 address with a port stands in brackets.
    #[arg(value_name = "ADDRESS")]
    pub address: Address,
    /// The systems in which it takes part. Without any, it votes and holds nothing.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub systems: Vec<String>,
    /// The lower, the earlier its turn when items are dealt.
    #[arg(long, value_name = "N")]
    pub priority: Option<u64>,
    /// Other keys of an entry of `servers`, as in config='{"interface":"eth1"}'.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<Setting>,
    #[command(flatten)]
    pub edit: EditArgs,
}

#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Adds a system without items. Servers take part in it that have it among their `systems`.
    Add(SystemAddArgs),
    /// Changes some of what is said of a system; the rest stays, and so do its items.
    Set(SetArgs),
    /// Removes a system with all its items.
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub struct SystemAddArgs {
    /// Its name.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What runs for its items: ip, memory, or the name of a script. It is `alive` and `down` in one.
    #[arg(long, value_name = "HANDLER")]
    pub handler: Option<String>,
    /// Other keys of an entry of `cluster.system`: type=replicate, isolated=drop, config='{"interface":"eth1"}'.
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<Setting>,
    #[command(flatten)]
    pub edit: EditArgs,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// Its id or name.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What changes: priority=2, systems='["ip"]'. The value is JSON, or else a text; null takes the key away,
    /// and of an object only what it names changes.
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub settings: Vec<Setting>,
    #[command(flatten)]
    pub edit: EditArgs,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Its id or name.
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub edit: EditArgs,
}

/// How a change is made, and when it is done.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Done when it is on the disk of the server that is asked; it spreads on from there.
    #[arg(long)]
    pub local: bool,
    /// Also what changes more than one vote at once: two sides of a split network may then both have a majority.
    #[arg(long)]
    pub force: bool,
    /// How long to wait for the disks of a majority: 1 to 60.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub timeout: u64,
    /// Prints JSON: {"done": …} or {"error": …}.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub daemon: AskArgs,
}

/// A key of an entry and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting(pub String, pub Value);

impl std::str::FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                Ok(Self(key.to_owned(), value))
            }
            _ => Err("expected KEY=VALUE, as in priority=2 or isolated=drop".to_owned()),
        }
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub IpAddr, pub Option<u16>);

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_port = || text.parse().map(|at: SocketAddr| Self(at.ip(), Some(at.port())));
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        bare.parse()
            .map(|ip| Self(ip, None))
            .or_else(|_| with_port())
            .map_err(|_| "expected IP or IP:PORT, as in 10.0.0.4 or [fd00::4]:2201".to_owned())
    }
}

/// An item as it is given on the command line.
fn item_value(text: &str) -> Result<Value, String> {
    if !text.starts_with(['{', '[']) {
        return Ok(text.into());
    }
    serde_json::from_str(text)
        .map_err(|error| format!("{error}: what begins with {{ or [ is JSON, as an entry of `data`"))
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

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_json_where_they_are_and_else_a_text() {
        let setting =
            |text: &str| text.parse::<Setting>().map(|Setting(key, value)| (key, value.to_string()));
        for (text, key, value) in [
            ("priority=2", "priority", "2"),
            ("isolated=drop", "isolated", "\"drop\""),
            ("isolated=null", "isolated", "null"),
            ("ip=10.0.0.9/24@eth0", "ip", "\"10.0.0.9/24@eth0\""),
            ("data=[1, \"a=b\"]", "data", "[1,\"a=b\"]"),
            ("alive=", "alive", "\"\""),
        ] {
            assert_eq!(setting(text), Ok((key.to_owned(), value.to_owned())), "{text}");
        }
        assert!(setting("isolated").is_err() && setting("=drop").is_err());
        assert_eq!(item_value("10.0.0.9/24@eth0"), Ok("10.0.0.9/24@eth0".into()));
        assert_eq!(item_value("true"), Ok("true".into()), "a name like any other");
        assert_eq!(item_value("[\"a\"]"), Ok(serde_json::json!(["a"])));
        assert!(item_value("{name").is_err_and(|why| why.contains("is JSON")));
        let ip = |text: &str| text.parse().expect("an address");
        for (text, address) in [
            ("10.0.0.4", Address(ip("10.0.0.4"), None)),
            ("10.0.0.4:2201", Address(ip("10.0.0.4"), Some(2201))),
            ("fd00::4", Address(ip("fd00::4"), None)),
            ("[fd00::4]:2201", Address(ip("fd00::4"), Some(2201))),
        ] {
            assert_eq!(text.parse(), Ok(address), "{text}");
        }
        assert!("host:2201".parse::<Address>().is_err() && "10.0.0.4:x".parse::<Address>().is_err());
    }

    #[test]
    fn the_system_of_an_item_to_be_removed_may_be_left_out() {
        let names = |words: &[&str]| {
            let cli = Cli::try_parse_from([&["flip", "item", "remove"], words].concat()).expect("words");
            match cli.command {
                Some(Command::Item { command: ItemCommand::Remove(args) }) => (args.system, args.item),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(names(&["x"]), (None, "x".to_owned()));
        assert_eq!(names(&["job", "x", "--local"]), (Some("job".to_owned()), "x".to_owned()));
        assert!(Cli::try_parse_from(["flip", "item", "remove"]).is_err());
    }
}
