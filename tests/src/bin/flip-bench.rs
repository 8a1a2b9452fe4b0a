//! The benchmarks: `scripts/dev/bench failover` and `scripts/dev/bench membership`.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flip_tests::cluster::flip_binary;
use flip_tests::failover::{self, Kind, What};
use flip_tests::flood;
use flip_tests::membership_bench;

/// Measures flip. Prints Markdown.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What a client notices, in a lab of network namespaces. Needs root and nftables.
    Failover(Failover),
    /// How fast nodes find each other and notice a death, and what they cost, on loopback.
    Membership(Membership),
    /// What forged datagrams do to a cluster on loopback.
    Flood(Flood),
}

#[derive(Args)]
struct Failover {
    /// How often everything is done.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// The profiles of flip.
    #[arg(long, value_delimiter = ',', default_value = "balanced,fast,turbo")]
    profile: Vec<String>,
    /// Measures another program too.
    #[arg(long)]
    peer: Option<Peer>,
    /// How often the peer advertises, milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "100,50,20,10")]
    advert: Vec<u64>,
    /// Only these measurements.
    #[arg(long, value_delimiter = ',', value_parser = what)]
    only: Vec<What>,
    /// Seconds that lossy and healed networks are watched.
    #[arg(long, default_value_t = 60)]
    span: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    /// Debian's keepalived.
    Keepalived,
}

#[derive(Args)]
struct Membership {
    /// Sizes of the clusters.
    #[arg(long, value_delimiter = ',', default_value = "8,32,128")]
    nodes: Vec<usize>,
    /// Runs per size. Default: 32 for up to 8 nodes, 7 for more.
    #[arg(long)]
    runs: Option<usize>,
    /// Seconds beside three busy loops.
    #[arg(long, default_value_t = 60)]
    busy: u64,
}

#[derive(Args)]
struct Flood {
    /// For how long.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Datagrams a second at most; the machine may give fewer.
    #[arg(long, default_value_t = 500_000)]
    rate: u32,
    /// Threads that send.
    #[arg(long, default_value_t = 1)]
    senders: u32,
}

fn what(name: &str) -> Result<What, String> {
    let found = What::ALL.iter().find(|(each, _)| *each == name);
    let names: Vec<_> = What::ALL.iter().map(|(name, _)| *name).collect();
    found.map(|(_, what)| *what).ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Failover(args) => {
            let mut kinds: Vec<_> = args.profile.into_iter().map(Kind::Flip).collect();
            if let Some(Peer::Keepalived) = args.peer {
                kinds.extend(args.advert.into_iter().map(Duration::from_millis).map(Kind::Keepalived));
            }
            let all = || What::ALL.iter().map(|(_, what)| *what).collect();
            let what = if args.only.is_empty() { all() } else { args.only };
            let options =
                failover::Options { runs: args.runs, kinds, what, span: Duration::from_secs(args.span) };
            failover::run(&options, &flip_binary()?)
        }
        Command::Flood(args) => flood::bench(
            &flip_binary()?,
            flood::Options {
                span: Duration::from_secs(args.seconds),
                rate: args.rate,
                senders: args.senders.max(1),
            },
        ),
        Command::Membership(args) => membership_bench::run(&membership_bench::Options {
            nodes: args.nodes,
            runs: args.runs,
            busy: Duration::from_secs(args.busy),
            ..membership_bench::Options::default()
        }),
    }
}
