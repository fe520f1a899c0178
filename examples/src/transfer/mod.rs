//! The transfer protocol: one file over UDP, from a sender that says where every byte belongs to a receiver that asks
//! again for what it misses.
//!
//! The module is pure. It opens no socket, starts no thread and reads no clock: the caller passes datagrams in and out,
//! and the time as a [`Duration`](std::time::Duration) since a start of its choosing. So [`Sender`] runs as well over
//! an Intel NIC's TX ring as over a kernel socket, and the tests run hours of bad network in milliseconds.
//!
//! # On the wire
//!
//! Every UDP payload but a segment of a run ([below](#runs)) begins with [`DATA_HEADER_LEN`] = 44 bytes; all numbers are
//! big endian.
//!
//! | offset | bytes | field     | meaning                                                                          |
//! |-------:|------:|-----------|----------------------------------------------------------------------------------|
//! |      0 |     4 | magic     | `53 74 57 72` (`StWr`)                                                           |
//! |      4 |     1 | version   | 1                                                                                |
//! |      5 |     1 | kind      | 1 Data, 2 Probe, 3 Missing, 4 Complete, 5 Refuse, 6 Run                          |
//! |      6 |     2 | flags     | bit 0 (Missing only): more ranges are missing than are listed; others 0          |
//! |      8 |     8 | transfer  | number that the sender chose for this transfer                                   |
//! |     16 |     8 | offset    | Data, Run: place of the bytes in the file. Probe, Missing: everything below      |
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
//! | Run      | sender   | `number: u32`, `length: u32` and `segment: u32` in bytes, `crc32: u32` of the run        |
//!
//! | status offset | bytes | field      | meaning                                                                   |
//! |--------------:|------:|------------|---------------------------------------------------------------------------|
//! |             0 |     4 | number     | of the probe that is answered; the newest one seen when none asked        |
//! |             4 |     4 | window     | bytes the receiver can take in flight; a datagram weighs its payload plus |
//! |               |       |            | [`DATAGRAM_OVERHEAD`]                                                     |
//! |             8 |     8 | received   | bytes of this file that have arrived whole                                |
//! |            16 |     8 | torn       | datagrams and runs of this transfer whose bytes are not those that were   |
//! |               |       |            | digested                                                                  |
//! |            24 |     8 | duplicates | datagrams and runs of this transfer that brought nothing new              |
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
//!
//! # Runs
//!
//! A NIC that segments is given one header and up to [`MAX_RUN`] bytes, and makes datagrams of them. It repeats UDP's header,
//! but knows nothing of ours. So the bytes of a run come without a header, and one datagram before them says what they are:
//!
//! ```text
//! sender                                     receiver
//!   │ Run n: offset, length, segment, crc32 ─▶ │   from the port RUN_PORTS.start + n mod RUNS
//!   │ segment, segment ... the last shorter ─▶ │   from the same port
//! ```
//!
//! - Nothing but runs comes from [`RUN_PORTS`], and runs come from nowhere else; so no byte of a file is ever taken for a
//!   message. What has just [`ANNOUNCEMENT_LEN`] bytes there is an announcement, anything else a segment: none is so long,
//!   and where the file's end would be, it goes as Data. Announcement and segments have the same ports, so whatever keeps
//!   the order within a flow keeps theirs.
//! - Segments are taken in the order in which they arrive. When the announced bytes are there and match the crc32, the
//!   run is stored. A segment that is lost, repeated, damaged, or out of its place makes a run that does not add up: it is
//!   given up when a segment has not the length that is due, when all bytes are there and the crc32 is another, or when the
//!   next run comes from its port. Its bytes are then missing like any others, and **come again as Data**: each datagram
//!   of that counts for itself, where a run would be lost again as a whole. Bytes in a wrong order have one chance in 2³²
//!   to match, as damaged Data has.
//! - A wrong crc32 of a whole run is a torn page only if nothing on the way can have changed the order
//!   ([`ReceiverConfig::in_order`]: a loopback). Otherwise it is counted as mismatched, which may also be segments that
//!   changed places, or a lost one in whose place came one of a later run.
//! - A run does not begin a transfer, the probe before it does; and answers go to where the last probe or Data came from.
//! - The receiver keeps at most [`RUNS`] runs that are not yet whole, of the current transfer only, and for each no more
//!   bytes than were announced: 1 MiB, whatever arrives.
//! - Where addresses are translated on the way, ports are too, and no run arrives: all of it comes as Data.

mod assembly;
mod error;
mod header;
mod message;
mod ranges;
mod receiver;
mod report;
mod run;
mod sender;
#[cfg(test)]
mod simulation;

pub use error::ProtocolError;
pub use header::{DATA_HEADER_LEN, Header, Kind};
pub use message::{MAX_MISSING, Message, Reason, Status};
pub use ranges::{Insert, RangeSet};
pub use receiver::{Receiver, Reply, Sink};
pub use report::{ReceiverConfig, ReceiverStats, State};
pub use run::{ANNOUNCEMENT_LEN, MAX_RUN, RUN_PORTS, RUNS, Run, can_be_cut};
pub use sender::{Next, Sender, SenderConfig, Summary};

/// What a datagram weighs against the window beyond its payload, bytes: a kernel socket charges its buffer for the
/// bookkeeping of each datagram too, so a megabyte of tiny datagrams fills it long before a megabyte of large ones.
pub const DATAGRAM_OVERHEAD: u64 = 512;
