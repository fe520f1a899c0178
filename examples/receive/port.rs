//! Where datagrams come in: a kernel socket, or a NIC of our own.

use std::io;
use std::net::SocketAddr;

use stillwire_examples::metrics::Metrics;

use crate::failure::Failure;

/// Where datagrams come in.
pub trait Port {
    /// The address that senders send to.
    fn address(&self) -> SocketAddr;

    /// What can lie here unread: the window to announce, bytes.
    fn window(&self) -> u32;

    /// Puts the next datagram into `buffer` (of 64 KiB) and says how long it is, in bytes, and where it came from; `None` when
    /// there was none for a moment.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<(usize, SocketAddr)>, Failure>;

    /// Frames that were dropped for a wrong checksum, as far as that is known here.
    fn wrong_checksums(&self) -> u64 {
        0
    }

    /// Leaves the figures of a NIC, if this is one.
    fn figures(&self, _metrics: &Metrics) {}

    /// Answers the sender of a datagram that has just been received, on any of its ports. A lost reply is asked for again.
    fn reply(&mut self, bytes: &[u8], to: SocketAddr) -> io::Result<()>;
}
