//! The transfer protocol: one file over UDP, from a sender that says where every byte belongs to a receiver that asks
//! again for what it misses.
//!
//! The module is pure. It opens no socket, starts no thread and reads no clock: the caller passes datagrams in and out,
//! and the time as a [`Duration`](std::time::Duration) since a start of its choosing. So [`Sender`] runs as well over
//! an Intel NIC's TX ring as over a kernel socket, and the tests run hours of bad network in milliseconds.
//!
//! # On the wire
//!
//! Every UDP payload begins with [`DATA_HEADER_LEN`] = 44 bytes; all numbers are big endian.
//!
//! | offset | bytes | field     | meaning                                                                          |
//! |-------:|------:|-----------|----------------------------------------------------------------------------------|
//! |      0 |     4 | magic     | `53 74 57 72` (`StWr`)                                                           |
//! |      4 |     1 | version   | 1                                                                                |
//! |      5 |     1 | kind      | 1 Data, 2 Probe, 3 Missing, 4 Complete, 5 Refuse                                 |
//! |      6 |     2 | flags     | bit 0 (Missing only): more ranges are missing than are listed; others 0          |
//! |      8 |     8 | transfer  | number that the sender chose for this transfer                                   |
//! |     16 |     8 | offset    | Data: place of the payload in the file, bytes. Probe, Missing: everything below  |
//! |       |       |           | it has been sent once. Complete: the file size. Refuse: 0                        |
//! |     24 |     8 | file size | bytes, at most 2⁶³ − 1                                                           |
//! |     32 |     4 | length    | bytes after this header; must be exactly what the datagram holds                 |
//! |     36 |     4 | crc32     | CRC-32 (IEEE) of the bytes after this header                                     |
//! |     40 |     4 | check     | CRC-32 (IEEE) of the 40 bytes before                                             |
//!
//! After the header:
//!
//! | kind     | from     | bytes                                                                                    |
//! |----------|----------|------------------------------------------------------------------------------------------|
//! | Data     | sender   | 1 or more bytes of the file                                                              |
//! | Probe    | sender   | `number: u32`, counted up by one for each probe                                          |
//! | Missing  | receiver | a status (below), then up to [`MAX_MISSING`] × (`start: u64`, `end: u64`), ascending     |
//! | Complete | receiver | a status                                                                                 |
//! | Refuse   | receiver | `reason: u8` ([`Reason`])                                                                |
//!
//! | status offset | bytes | field      | meaning                                                                   |
//! |--------------:|------:|------------|---------------------------------------------------------------------------|
//! |             0 |     4 | number     | of the probe that is answered; the newest one seen when none asked        |
//! |             4 |     4 | window     | bytes the receiver can take in flight; a datagram weighs its payload plus |
//! |               |       |            | [`DATAGRAM_OVERHEAD`]                                                     |
//! |             8 |     8 | received   | bytes of this file that have arrived whole                                |
//! |            16 |     8 | torn       | datagrams of this transfer whose payload did not match its crc32          |
//! |            24 |     8 | duplicates | datagrams of this transfer that brought nothing new                       |
//!
//! The header has a check of its own so that the two kinds of damage stay apart: when `check` is wrong nothing in the
//! header can be believed and the datagram is dropped as malformed; when only `crc32` is wrong the payload changed
//! between its digest and its transmission, and the datagram is counted as **torn**. Torn payload is never stored and is
//! asked for again.
//!
//! # The conversation
//!
//! ```text
//! sender                                   receiver
//!   │ Probe 1, offset 0 ───────────────────▶ │   a transfer begins
//!   │ ◀──────────── Missing 1: window, none  │
//!   │ Data, Data, Data, Probe 2 ───────────▶ │   a probe each quarter of a window
//!   │ ◀─── Missing 2: received so far, gaps  │   acknowledges all that was sent before probe 2
//!   │ Data (gaps first), Data ... Probe n ─▶ │
//!   │ ◀───────────────────────────  Complete │   the file is in its place
//! ```
//!
//! Probes carry the only timer: an unanswered one is followed by another, at doubling intervals, until the sender's
//! deadline. The receiver never speaks unless a datagram came in.

mod error;
mod header;
mod message;
mod ranges;
mod receiver;
mod sender;
#[cfg(test)]
mod simulation;

pub use error::ProtocolError;
pub use header::{DATA_HEADER_LEN, Header, Kind};
pub use message::{MAX_MISSING, Message, Reason, Status};
pub use ranges::{Insert, RangeSet};
pub use receiver::{Receiver, ReceiverConfig, ReceiverStats, Reply, Sink, State};
pub use sender::{Next, Sender, SenderConfig, Summary};

/// What a datagram weighs against the window beyond its payload, bytes: a kernel socket charges its buffer for the
/// bookkeeping of each datagram too, so a megabyte of tiny datagrams fills it long before a megabyte of large ones.
pub const DATAGRAM_OVERHEAD: u64 = 512;
