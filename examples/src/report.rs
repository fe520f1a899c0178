//! What `send` says at its end.

use serde::{Deserialize, Serialize};

/// The object that `send --json` prints as the last line of its output.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// As given by `--device`.
    pub device: String,
    /// Bytes of file data that arrived whole.
    pub bytes: u64,
    /// Frames with file data, those sent again included.
    pub frames: u64,
    /// Runs that the NIC cut them from; 0 without `--segment`.
    pub runs: u64,
    /// From the first frame to the last answer, seconds.
    pub seconds: f64,
    /// Frames whose bytes were not those that were digested.
    pub torn: u64,
    /// Frames sent again.
    pub resent: u64,
    /// Holds taken.
    pub holds: u64,
    /// Reads of the file into the cache: one a folio.
    pub fills: u64,
    /// Pages that had to make room for others.
    pub evictions: u64,
    /// Pages that were copied for the sender as a writer waited for them.
    pub snapshots: u64,
    /// With `--direct`: times that a writer came, and the sender stepped back.
    pub breaks: u64,
    /// Stores that had to wait for a hold.
    pub writer_pauses: u64,
    /// How long they waited.
    pub writer_pause_us: Pauses,
    /// Times that the NIC was reset, because it hung or its link was gone.
    pub resets: u64,
    /// Times that its link was lost.
    pub link_losses: u64,
    /// Bytes of file data that it gave back as not sent then; they were sent again.
    pub not_sent: u64,
    /// Frames that each transmit queue sent, as the NIC counted them since its last reset.
    pub queue_frames: Vec<u64>,
    /// The receiver has every byte, and (on a loopback, unless somebody wrote to it meanwhile) every byte is the file's.
    pub verified: bool,
}

/// Distribution of writers' waits, microseconds.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Pauses {
    /// Half of them were shorter.
    pub p50: f64,
    /// All but one in a hundred were shorter.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}
