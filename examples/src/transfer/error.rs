//! What can be wrong with a datagram, and how a conversation can fail.

use std::net::SocketAddr;
use std::time::Duration;

use super::{ANNOUNCEMENT_LEN, DATA_HEADER_LEN, MAX_RUN, Reason};

/// What can be wrong with a datagram, and how a conversation can fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The datagram is shorter than a header.
    #[error("transfer: a datagram of {found} bytes is shorter than the {DATA_HEADER_LEN}-byte header; ignore it")]
    Short {
        /// Bytes in the datagram.
        found: usize,
    },
    /// The first four bytes are another protocol's.
    #[error("transfer: magic {found:#010x} is not stillwire's; another program sends to this port")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// A version that this program does not speak.
    #[error("transfer: protocol version {found}, but this program speaks version 1; run the same release at both ends")]
    Version {
        /// The version on the wire.
        found: u8,
    },
    /// The header was damaged on its way.
    #[error("transfer: header check {found:#010x}, computed {expected:#010x}; the datagram was damaged on its way")]
    HeaderCheck {
        /// The check on the wire.
        found: u32,
        /// The check of the bytes that came.
        expected: u32,
    },
    /// A kind that does not exist.
    #[error("transfer: no datagram kind {found}")]
    UnknownKind {
        /// The kind on the wire.
        found: u8,
    },
    /// A flag that does not exist, or not for this kind.
    #[error("transfer: flags {found:#06x} mean nothing for this kind")]
    Flags {
        /// The flags on the wire.
        found: u16,
    },
    /// The header's length is not what the datagram holds, or not one its kind can have.
    #[error("transfer: the header says {length} bytes follow, but {found} do (or this kind never has as many)")]
    Length {
        /// Bytes announced.
        length: u32,
        /// Bytes that follow the header.
        found: usize,
    },
    /// The bytes lie outside the file, or the file is larger than a file can be.
    #[error("transfer: {length} bytes at {offset} do not lie in a file of {file_size} bytes")]
    OutOfFile {
        /// Place in the file, bytes.
        offset: u64,
        /// Length, bytes.
        length: u64,
        /// File size, bytes.
        file_size: u64,
    },
    /// The bytes after the header are not those that the crc32 was computed over.
    #[error("transfer: payload crc32 {found:#010x}, computed {expected:#010x}; the payload is torn")]
    Torn {
        /// The crc32 on the wire.
        found: u32,
        /// The crc32 of the bytes that came.
        expected: u32,
    },
    /// The listed ranges are empty, descending or overlapping.
    #[error("transfer: the missing range {start}..{end} is empty or out of order")]
    Ranges {
        /// Start, bytes.
        start: u64,
        /// End, bytes.
        end: u64,
    },
    /// The announced run cannot be cut so.
    #[error(
        "transfer: no run has {len} bytes in segments of {segment}: 1 to {MAX_RUN} would do, in segments of more than \
         {ANNOUNCEMENT_LEN}, and none of them of just as many"
    )]
    Run {
        /// Length of the run, bytes.
        len: u32,
        /// Length of its segments, bytes.
        segment: u32,
    },
    /// A reason that does not exist.
    #[error("transfer: no refusal reason {found}")]
    UnknownReason {
        /// The reason on the wire.
        found: u8,
    },
    /// The receiver never answered.
    #[error(
        "no answer from {to} for {:.1} s: is `receive --listen {to}` running there, and is UDP port {} open on the way?",
        .waited.as_secs_f64(), .to.port()
    )]
    NoAnswer {
        /// Whom the sender asked.
        to: SocketAddr,
        /// How long it asked.
        waited: Duration,
    },
    /// The receiver answers, but nothing that is sent arrives whole.
    #[error(
        "{to} answers, but in {:.1} s no further byte arrived whole ({torn} torn): try a smaller `--payload`, or no `--segment`; \
         does something on the way drop large datagrams?",
        .waited.as_secs_f64()
    )]
    NoProgress {
        /// The receiver.
        to: SocketAddr,
        /// How long nothing arrived.
        waited: Duration,
        /// Datagrams that arrived torn.
        torn: u64,
    },
    /// The receiver does not take the file.
    #[error("{to} refused the transfer: {reason}")]
    Refused {
        /// The receiver.
        to: SocketAddr,
        /// Why.
        reason: Reason,
    },
}
