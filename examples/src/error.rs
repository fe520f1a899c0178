//! What the programs tell their users.

use std::io;
use std::path::PathBuf;

use crate::transfer::ProtocolError;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What was asked, what was found, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A `--device` that means nothing.
    #[error(
        "device: '{0}' is not a device; write emulated:ixgbe, emulated:ice, emulated:virtio, vfio-user:SOCKET, or a PCI address as lspci -D shows it (0000:03:00.0)"
    )]
    Device(String),
    /// Flags that do not go together, or lack each other.
    #[error("usage: {0}")]
    Usage(String),
    /// Nobody on the link has the address.
    #[error(
        "arp: nobody answered for {address} in {seconds} s; is that host up and on this link? A host behind a router needs --to-mac with the router's address"
    )]
    NoNeighbour {
        /// The address.
        address: std::net::Ipv4Addr,
        /// Seconds waited.
        seconds: u64,
    },
    /// The device does not cut UDP.
    #[error(
        "segments: {device} does not cut UDP into segments; leave out --segment, or name a device that does: \
         emulated:ixgbe, emulated:virtio, an 82599"
    )]
    NoSegments {
        /// The device.
        device: String,
    },
    /// More queues than there are.
    #[error("queues: {device} has {found} pairs of queues, and {asked} are asked for; --queues {found} would do")]
    Queues {
        /// The device.
        device: String,
        /// As asked for.
        asked: u16,
        /// What there is.
        found: usize,
    },
    /// A queue's thread.
    #[error("queue {queue}: no thread to own it: {why}; --queues 1 goes without")]
    Owner {
        /// The queue's number.
        queue: usize,
        /// What has happened.
        why: String,
    },
    /// A processor for the owner of a queue.
    #[error(
        "--cores: this process may not run on processor {core}: {source}; /proc/self/status says where it may \
         (Cpus_allowed_list)"
    )]
    Core {
        /// Its number.
        core: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The NIC took frames and never said it was done with them, again and again.
    #[error(
        "nic: {device} has not completed a descriptor for {seconds:.1} s, with {tokens} buffers in its ring, and {resets} resets have not helped; is the card, or its emulator, in order?"
    )]
    Hang {
        /// The device.
        device: String,
        /// Seconds waited.
        seconds: f64,
        /// Tokens in the ring.
        tokens: usize,
        /// Resets since it last completed anything.
        resets: u32,
    },
    /// Bytes arrived that are not the file's.
    #[error("verify: {bytes} bytes at {offset} arrived whole but are not the bytes of {path}", path = path.display())]
    Differs {
        /// The file.
        path: PathBuf,
        /// Where, bytes.
        offset: u64,
        /// How many.
        bytes: usize,
    },
    /// Something about a file.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No private copy for writers.
    #[error(
        "{path}: could not be copied to {folder}, for --scribble to write to ({source}); set TMPDIR to a folder with room for it",
        path = path.display(), folder = folder.display()
    )]
    Copy {
        /// The file.
        path: PathBuf,
        /// Where to.
        folder: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Nobody can be served figures.
    #[error("--metrics {address}: {why}; name an address of this host and a port that is free, or port 0")]
    Metrics {
        /// As asked for.
        address: std::net::SocketAddr,
        /// What stands in the way.
        why: String,
    },
    /// No figures are served.
    #[error(
        "no metrics at {address}: {why}; `send --metrics {address}` or `receive --metrics {address}` would serve some"
    )]
    NoMetrics {
        /// As asked for.
        address: std::net::SocketAddr,
        /// What was found.
        why: String,
    },
    /// The page cache.
    #[error(transparent)]
    Cache(#[from] stillwire_filecache::Error),
    /// The NIC.
    #[error(transparent)]
    Nic(#[from] stillwire_driver::Error),
    /// A fault that no emulated NIC has.
    #[error(transparent)]
    Fault(#[from] stillwire_emulator::scripted::UnknownFault),
    /// Memory and buses.
    #[error(transparent)]
    Dma(#[from] stillwire_dma::Error),
    /// What the emulated NIC is connected to.
    #[error(transparent)]
    Wire(#[from] stillwire_emulator::wire::Error),
    /// The emulated NIC itself.
    #[error("emulated NIC: no memory for its doorbells: {0}; raise this process' limit of open files (ulimit -n)")]
    Model(#[source] io::Error),
    /// The transfer.
    #[error(transparent)]
    Transfer(#[from] ProtocolError),
}
