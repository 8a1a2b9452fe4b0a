//! Why a node could not start, or not go on.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use flip_core::config::Problem;

use crate::system::OpenError;
use crate::udp::BindError;

/// Why a node could not start, or not go on.
#[derive(Debug)]
pub enum Error {
    /// A file of the config could not be read: for people.
    File(String),
    /// What is wrong with the config, each with its place, and what else will surprise somebody.
    Config(Vec<Problem>),
    /// Its UDP port could not be bound.
    Bind(BindError),
    /// Its TCP port could not be bound.
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// One of its systems cannot work here.
    Systems(OpenError),
    /// There is nobody to run one of its health checks: one line for people.
    Checks(String),
    /// The witness of the config cannot be asked.
    Witness {
        /// Its address.
        addr: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused something else.
    Kernel {
        /// What was tried, to be read after "cannot".
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A system could not say what is here: one line for people.
    Observe(String),
    /// Another daemon has this node's id. No item was taken.
    Refused {
        /// The id.
        id: String,
        /// Where the other one is, or was heard.
        other: SocketAddr,
    },
    /// Asked to leave, it could not release all items in time.
    Late,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                f.write_str(&problems.join("\n\n"))
            }
            Self::Bind(error) => error.fmt(f),
            Self::Listen { addr, .. } => write!(f, "cannot listen on {addr} (TCP)"),
            Self::Systems(error) => error.fmt(f),
            Self::File(why) | Self::Checks(why) => f.write_str(why),
            Self::Witness { addr, .. } => write!(
                f,
                "cannot open an ICMP socket to ask the witness {addr}; give flip CAP_NET_RAW, or allow ping \
                 sockets to its group (sysctl net.ipv4.ping_group_range), or remove \"witness\" from the config"
            ),
            Self::Kernel { doing, .. } => write!(f, "cannot {doing}"),
            Self::Observe(why) => write!(f, "cannot look what is here: {why}"),
            Self::Refused { id, other } => write!(
                f,
                "another daemon runs as server {id:?}, heard from {other}: stop that one, or start this one as \
                 the server that it is (--id); no item was taken here"
            ),
            Self::Late => {
                f.write_str("could not release all items in time: some may be left behind on this host")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // They speak for themselves, so what caused them comes next.
            Self::Bind(error) => error.source(),
            Self::Systems(error) => error.source(),
            Self::Listen { source, .. } | Self::Witness { source, .. } | Self::Kernel { source, .. } => {
                Some(source)
            }
            Self::File(_)
            | Self::Config(_)
            | Self::Checks(_)
            | Self::Observe(_)
            | Self::Refused { .. }
            | Self::Late => None,
        }
    }
}
