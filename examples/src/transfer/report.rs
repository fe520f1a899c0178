//! What a receiver is told, and what it tells.

use std::time::Duration;

use super::Reason;

/// What a receiver takes.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// What the socket can hold unread, bytes, each datagram weighing its payload plus
    /// [`DATAGRAM_OVERHEAD`](super::DATAGRAM_OVERHEAD).
    pub window: u32,
    /// Take further transfers after the first. Otherwise they are refused as [`Reason::Finished`].
    pub keep: bool,
    /// A transfer that has been silent for so long gives way to another.
    pub abandon_after: Duration,
    /// Most ranges of the file that are remembered; pieces that would need more are asked for again later.
    pub max_ranges: usize,
    /// Nothing between the sender and here changes the order of datagrams, as on a loopback: a run that does not match its
    /// crc32 then is torn.
    pub in_order: bool,
}

impl Default for ReceiverConfig {
    fn default() -> ReceiverConfig {
        ReceiverConfig {
            window: 64 << 10,
            keep: false,
            abandon_after: Duration::from_secs(3),
            max_ranges: 16 << 10,
            in_order: false,
        }
    }
}

/// What a receiver has seen since it was made, over all transfers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiverStats {
    /// Datagrams of any kind.
    pub datagrams: u64,
    /// Bytes of files that arrived whole, each counted once.
    pub bytes: u64,
    /// Data whose payload did not match its crc32; with [`ReceiverConfig::in_order`] also runs.
    pub torn: u64,
    /// Data and runs that brought nothing new.
    pub duplicates: u64,
    /// Runs that arrived whole.
    pub runs: u64,
    /// Runs of which as many bytes arrived as announced, but not those that were digested: torn, out of order, or a later run's.
    pub mismatched: u64,
    /// Runs of which bytes did not arrive.
    pub broken: u64,
    /// Data left out because too many ranges were to be remembered; asked for again.
    pub left_out: u64,
    /// Datagrams that are not of this protocol, or contradict their own transfer.
    pub malformed: u64,
    /// Late data of an earlier transfer, data of a refused one, segments of no run, and what only a receiver says.
    pub ignored: u64,
    /// Transfers completed.
    pub transfers: u64,
}

/// Where a receiver stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No transfer has begun.
    Idle,
    /// In the middle of one.
    Receiving {
        /// The sender's number for it.
        transfer: u64,
        /// Bytes that have arrived whole.
        received: u64,
        /// Size of the file, bytes.
        file_size: u64,
    },
    /// The last one is complete; its probes are still answered.
    Complete {
        /// The sender's number for it.
        transfer: u64,
        /// Size of the file, bytes.
        file_size: u64,
    },
    /// The last one was refused; its probes are still answered.
    Refused {
        /// The sender's number for it.
        transfer: u64,
        /// Why.
        reason: Reason,
    },
}
