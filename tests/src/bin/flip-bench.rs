//! The benchmarks: `scripts/dev/bench failover`, `matrix`, `membership`, `flood`, `hooks`, `vip` and
//! `catalog`.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flip_core::config::Isolated;
use flip_tests::catalog_bench;
use flip_tests::cluster::flip_binary;
use flip_tests::failover::{self, Kind, What};
use flip_tests::flood;
use flip_tests::hooks_bench;
use flip_tests::matrix::{self, Fault};
use flip_tests::membership_bench;
use flip_tests::vip_bench;

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
    /// How long an address has two holders and how long none, by policy and fault, in the same lab.
    Matrix(Matrix),
    /// How fast nodes find each other and notice a death, and what they cost, on loopback.
    Membership(Membership),
    /// What forged datagrams do to a cluster on loopback.
    Flood(Flood),
    /// Hooks a second, native and Lua; memory of scripts; whether scripts that spin delay a node's loop.
    Hooks(Hooks),
    /// How fast many addresses are answered again, what their renewal costs, and what a planned move loses, in
    /// the same lab.
    Vip(Vip),
    /// Edits a second that a majority has on disk, the status of many items, a new server that gets a large catalog,
    /// and placement by itself; on loopback.
    Catalog(Catalog),
}

#[derive(Args)]
struct Catalog {
    /// How often everything is done.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds that edits are made.
    #[arg(long, default_value_t = 10)]
    span: u64,
    /// Who makes edits at a time.
    #[arg(long, default_value_t = 48)]
    clients: usize,
    /// Items in the catalog that a new server gets; with two that are there before, a system may have 100,000.
    #[arg(long, default_value_t = 99_998)]
    items: usize,
    /// Items in the status.
    #[arg(long, default_value_t = 10_000)]
    shown: usize,
}

#[derive(Args)]
struct Vip {
    /// How often everything is done.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How many addresses the host has that dies.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
    addresses: Vec<usize>,
    /// How many addresses are renewed.
    #[arg(long, default_value_t = 1000)]
    renewed: usize,
    /// Seconds that renewals are watched.
    #[arg(long, default_value_t = 20)]
    span: u64,
    /// The profile of flip.
    #[arg(long, default_value = "fast")]
    profile: String,
}

#[derive(Args)]
struct Hooks {
    /// How often each rate is measured.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds that ticks are watched.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
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

#[derive(Args)]
struct Matrix {
    /// How often every cell is done.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How many runs of a cell at a time, each in a lab of its own.
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// What servers do where they see no quorum.
    #[arg(long, value_delimiter = ',', default_value = "keep,take,drop", value_parser = policy)]
    policy: Vec<Isolated>,
    /// Only these faults.
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    only: Vec<Fault>,
    /// The profile of flip.
    #[arg(long, default_value = "balanced")]
    profile: String,
    /// Servers.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=50))]
    hosts: u8,
    /// The lease, milliseconds.
    #[arg(long, default_value_t = 4000)]
    lease: u64,
    /// Seconds after which the address of a dead daemon expires, unless the policy is drop.
    #[arg(long, default_value_t = 60)]
    orphan: u64,
    /// Seconds that a fault lasts.
    #[arg(long, default_value_t = 10)]
    hold: u64,
    /// Seconds that datagrams are lost.
    #[arg(long, default_value_t = 60)]
    loss: u64,
    /// Prints JSON with every single figure.
    #[arg(long)]
    json: bool,
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
    one_of(&What::ALL, name)
}

fn fault(name: &str) -> Result<Fault, String> {
    one_of(&Fault::ALL, name)
}

fn policy(name: &str) -> Result<Isolated, String> {
    one_of(&Isolated::NAMES, name)
}

fn one_of<T: Copy>(all: &[(&str, T)], name: &str) -> Result<T, String> {
    let found = all.iter().find(|(each, _)| *each == name);
    let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
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
        Command::Matrix(args) => {
            let all = || Fault::ALL.iter().map(|(_, fault)| *fault).collect();
            let options = matrix::Options {
                settings: matrix::Settings {
                    hosts: args.hosts.into(),
                    profile: args.profile,
                    lease: Duration::from_millis(args.lease),
                    orphan: Duration::from_secs(args.orphan),
                    hold: Duration::from_secs(args.hold),
                    loss: Duration::from_secs(args.loss),
                    ..matrix::Settings::default()
                },
                runs: args.runs,
                at_once: args.at_once,
                policies: args.policy,
                faults: if args.only.is_empty() { all() } else { args.only },
                json: args.json,
            };
            matrix::bench(&options, &flip_binary()?)
        }
        Command::Hooks(args) => {
            print!("{}", hooks_bench::run(args.runs.max(1), args.seconds)?);
            Ok(())
        }
        Command::Flood(args) => flood::bench(
            &flip_binary()?,
            flood::Options {
                span: Duration::from_secs(args.seconds),
                rate: args.rate,
                senders: args.senders.max(1),
            },
        ),
        Command::Catalog(Catalog { runs, span, clients, items, shown }) => {
            let span = Duration::from_secs(span);
            let options = catalog_bench::Options { runs, span, clients, items, shown };
            catalog_bench::run(&options, &flip_binary()?)
        }
        Command::Vip(args) => vip_bench::run(
            &vip_bench::Options {
                runs: args.runs.max(1),
                addresses: args.addresses,
                renewed: args.renewed,
                span: Duration::from_secs(args.span),
                profile: args.profile,
            },
            &flip_binary()?,
        ),
        Command::Membership(args) => membership_bench::run(&membership_bench::Options {
            nodes: args.nodes,
            runs: args.runs,
            busy: Duration::from_secs(args.busy),
            ..membership_bench::Options::default()
        }),
    }
}
