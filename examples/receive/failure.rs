//! Why no file was received, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why no file was received, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("another program listens on UDP {0}: end it (`ss -lunp` names it) or choose another port")]
    AddressInUse(SocketAddr),
    #[error("{} is not an address of this host: `ip addr` lists those that are, 0.0.0.0 means all of them", .0.ip())]
    NotOurAddress(SocketAddr),
    #[error("no permission to listen on UDP {0}: ports below 1024 need root, choose a higher one")]
    PortNotPermitted(SocketAddr),
    #[error("cannot listen on UDP {listen}: {source}")]
    Listen { listen: SocketAddr, source: io::Error },
    #[error("{0} is a directory: name the file to write in it")]
    Directory(PathBuf),
    #[error("{0} is neither a file nor free to become one: it would be replaced, name another")]
    NotAFile(PathBuf),
    #[error("cannot write beside {}: {source}; the file is written under another name there and renamed when complete", .out.display())]
    Beside { out: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}; {} was left as it was", .out.display(), .out.display())]
    Storage { out: PathBuf, source: io::Error },
    #[error("cannot read {} again to check it: {source}", .out.display())]
    ReadBack { out: PathBuf, source: io::Error },
    #[error("{} has {found} bytes when read again, but {expected} were received: does another program write it?", .out.display())]
    Changed { out: PathBuf, found: u64, expected: u64 },
    #[error("UDP {listen}: {source}")]
    Socket { listen: SocketAddr, source: io::Error },
    #[error(
        "nothing came in on UDP {listen} for {:.1} s: is `send --to` running with an address of this host and port {}, \
         and is that port open on the way?",
        .waited.as_secs_f64(), .listen.port()
    )]
    Idle { listen: SocketAddr, waited: Duration },
    #[error("stopped before the file was complete; {} was left as it was", .out.display())]
    Stopped { out: PathBuf },
    #[error(transparent)]
    Ours(#[from] stillwire_examples::Error),
    #[error("no signal can be caught: {0}")]
    Signal(io::Error),
}

impl Failure {
    /// The exit status a shell expects.
    pub fn status(&self) -> u8 {
        // 128 + SIGINT, as if the signal itself had ended the program.
        if matches!(self, Failure::Stopped { .. }) { 130 } else { 1 }
    }
}
