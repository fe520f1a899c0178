//! What can go wrong, each with what was asked, what was found, and what to do.

use std::io;
use std::time::Duration;

/// Why the kernel was not measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No namespace of our own.
    #[error("a network namespace of our own: {0}; run as root, or allow unprivileged user namespaces")]
    Namespace(io::Error),
    /// The program `ip` did not do its work.
    #[error("`ip {arguments}`: {found}")]
    Ip {
        /// What it was called with.
        arguments: String,
        /// What it said, with what to do.
        found: String,
    },
    /// No TUN interface.
    #[error("/dev/net/tun: {0}; load the module (`modprobe tun`), or give the container the device")]
    Tun(io::Error),
    /// Neither a TUN nor an interface that frees.
    #[error("no interface to send to: {0}")]
    Nothing(String),
    /// A line of stdin was not understood.
    #[error("{asked:?} is no order: {found}; say: run WORK [mib=256] [payload=1460]")]
    Order {
        /// The line.
        asked: String,
        /// What is wrong with it.
        found: String,
    },
    /// A work that `ready` had excluded.
    #[error("{work} cannot be done here: {why}")]
    NotHere {
        /// The work.
        work: &'static str,
        /// The obstacle.
        why: String,
    },
    /// The system refused.
    #[error("{asked}: {source}")]
    System {
        /// What was asked of it.
        asked: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Something did not happen.
    #[error("{asked}: not within {deadline:?}; {found}")]
    Late {
        /// What was waited for.
        asked: &'static str,
        /// How long.
        deadline: Duration,
        /// What was there instead.
        found: String,
    },
    /// Bytes were lost, or arrived twice.
    #[error("sent {sent} bytes, but {arrived} were counted where they went")]
    Short {
        /// Bytes sent.
        sent: u64,
        /// Bytes counted.
        arrived: u64,
    },
}

impl Error {
    /// For `map_err`: the system refused `asked`.
    pub(crate) fn system<E: Into<io::Error>>(asked: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { asked, source: source.into() }
    }
}
