//! What the two ends say to each other besides data.

use std::fmt;
use std::ops::Range;

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{DATA_HEADER_LEN, Header, Kind, ProtocolError, Run};

/// Most ranges that one Missing datagram lists: with them it is still shorter than 1280 bytes.
pub const MAX_MISSING: usize = 64;

/// What the two ends say to each other besides data; the byte layout is in the [module's table](super#on-the-wire).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// "Everything below `offset` has been sent at least once: what do you miss?"
    Probe {
        /// Counted up by one for each probe.
        number: u32,
        /// Bytes of the file sent once.
        offset: u64,
    },
    /// What the receiver has and what it misses below `offset`. No range: nothing is missing there.
    Missing {
        /// How far the receiver is.
        status: Status,
        /// The probe's offset, bytes.
        offset: u64,
        /// Missing byte ranges, ascending, apart, at most [`MAX_MISSING`].
        ranges: Vec<Range<u64>>,
        /// More ranges are missing than are listed.
        more: bool,
    },
    /// The receiver has everything and the file is in its place.
    Complete {
        /// The sums of the transfer.
        status: Status,
    },
    /// The receiver does not take this transfer.
    Refuse {
        /// Why.
        reason: Reason,
    },
    /// Bytes of the file follow in segments, without a header.
    Run(Run),
}

/// How far a receiver is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The probe that is answered.
    pub number: u32,
    /// Bytes the receiver can take in flight, each datagram weighing its payload plus
    /// [`DATAGRAM_OVERHEAD`](super::DATAGRAM_OVERHEAD).
    pub window: u32,
    /// Bytes of the file that have arrived whole.
    pub received: u64,
    /// Datagrams of the transfer whose payload did not match its crc32.
    pub torn: u64,
    /// Datagrams of the transfer that brought nothing new.
    pub duplicates: u64,
}

/// Why a receiver does not take a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It is in the middle of another transfer.
    Busy = 1,
    /// It took the one file it was to take.
    Finished = 2,
    /// The disk is full.
    StorageFull = 3,
    /// The file could not be written.
    Storage = 4,
    /// Its user stopped it.
    Stopped = 5,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Busy => "it is busy with another transfer; wait for that one to end",
            Reason::Finished => "it has taken one file and is ending; `receive --keep` goes on for further ones",
            Reason::StorageFull => "its disk is full",
            Reason::Storage => "it cannot write the file; its own message says why",
            Reason::Stopped => "it was stopped",
        })
    }
}

impl Message {
    /// Reads the message that follows `header`. `None` when the datagram is data.
    pub fn parse(header: &Header, payload: &[u8]) -> Result<Option<Message>, ProtocolError> {
        if header.kind == Kind::Data {
            return Ok(None);
        }
        header.verify(payload)?;
        let length = ProtocolError::Length { length: header.length, found: payload.len() };
        Ok(Some(match header.kind {
            Kind::Data => return Ok(None),
            Kind::Probe => {
                let number = U32::read_from_bytes(payload).map_err(|_| length)?.get();
                Message::Probe { number, offset: header.offset }
            }
            Kind::Missing => {
                let (status, ranges) = RawStatus::ref_from_prefix(payload).map_err(|_| length.clone())?;
                let ranges = <[RawRange]>::ref_from_bytes(ranges).map_err(|_| length.clone())?;
                if ranges.len() > MAX_MISSING {
                    return Err(length);
                }
                let ranges = checked_ranges(ranges, header.offset)?;
                Message::Missing { status: status.value(), offset: header.offset, ranges, more: header.more }
            }
            Kind::Complete => {
                Message::Complete { status: RawStatus::ref_from_bytes(payload).map_err(|_| length)?.value() }
            }
            Kind::Refuse => match payload {
                [reason] => Message::Refuse { reason: Reason::from_wire(*reason)? },
                _ => return Err(length),
            },
            Kind::Run => Message::Run(Run::parse(header, payload)?),
        }))
    }

    /// The whole datagram that says this about `transfer`, a file of `file_size` bytes.
    ///
    /// # Panics
    ///
    /// When more than [`MAX_MISSING`] ranges are listed.
    pub fn datagram(&self, transfer: u64, file_size: u64) -> Vec<u8> {
        let mut bytes = vec![0; DATA_HEADER_LEN];
        let (kind, offset, more) = match self {
            Message::Probe { number, offset } => {
                bytes.extend_from_slice(&number.to_be_bytes());
                (Kind::Probe, *offset, false)
            }
            Message::Missing { status, offset, ranges, more } => {
                assert!(ranges.len() <= MAX_MISSING, "{} ranges do not fit in a datagram", ranges.len());
                bytes.extend_from_slice(RawStatus::from(*status).as_bytes());
                for range in ranges {
                    bytes.extend_from_slice(&range.start.to_be_bytes());
                    bytes.extend_from_slice(&range.end.to_be_bytes());
                }
                (Kind::Missing, *offset, *more)
            }
            Message::Complete { status } => {
                bytes.extend_from_slice(RawStatus::from(*status).as_bytes());
                (Kind::Complete, file_size, false)
            }
            Message::Refuse { reason } => {
                bytes.push(*reason as u8);
                (Kind::Refuse, 0, false)
            }
            Message::Run(run) => return run.announcement(transfer, file_size).to_vec(),
        };
        let payload = &bytes[DATA_HEADER_LEN..];
        let length = u32::try_from(payload.len()).expect("a message is shorter than 1280 bytes");
        let crc32 = crc32fast::hash(payload);
        Header { kind, more, transfer, offset, file_size, length, crc32 }.emit(&mut bytes);
        bytes
    }
}

impl Reason {
    fn from_wire(found: u8) -> Result<Reason, ProtocolError> {
        [Reason::Busy, Reason::Finished, Reason::StorageFull, Reason::Storage, Reason::Stopped]
            .into_iter()
            .find(|reason| *reason as u8 == found)
            .ok_or(ProtocolError::UnknownReason { found })
    }
}

/// Ranges that a sender can go through without a further thought: none empty, each after the one before, all below `end`.
fn checked_ranges(raw: &[RawRange], end: u64) -> Result<Vec<Range<u64>>, ProtocolError> {
    let mut above = 0;
    raw.iter()
        .map(|raw| {
            let range = raw.start.get()..raw.end.get();
            if range.start < above || range.is_empty() || range.end > end {
                return Err(ProtocolError::Ranges { start: range.start, end: range.end });
            }
            above = range.end;
            Ok(range)
        })
        .collect()
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawStatus {
    number: U32,
    window: U32,
    received: U64,
    torn: U64,
    duplicates: U64,
}

impl RawStatus {
    fn value(&self) -> Status {
        Status {
            number: self.number.get(),
            window: self.window.get(),
            received: self.received.get(),
            torn: self.torn.get(),
            duplicates: self.duplicates.get(),
        }
    }
}

impl From<Status> for RawStatus {
    fn from(status: Status) -> RawStatus {
        RawStatus {
            number: U32::new(status.number),
            window: U32::new(status.window),
            received: U64::new(status.received),
            torn: U64::new(status.torn),
            duplicates: U64::new(status.duplicates),
        }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRange {
    start: U64,
    end: U64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: Status = Status { number: 7, window: 0x4_0000, received: 600, torn: 2, duplicates: 3 };
    #[rustfmt::skip]
    const STATUS_BYTES: [u8; 32] = [
        0, 0, 0, 7,  0, 4, 0, 0,  0, 0, 0, 0, 0, 0, 2, 0x58,
        0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 3,
    ];

    /// Checks one message against its bytes after the header, and the header's kind, flags and offset.
    fn check(message: Message, kind: u8, flags: u8, offset: u64, payload: &[u8]) {
        let bytes = message.datagram(9, 1000);
        assert_eq!(bytes[5..8], [kind, 0, flags], "kind and flags of {message:?}");
        assert_eq!(bytes[16..24], offset.to_be_bytes(), "offset of {message:?}");
        assert_eq!(bytes[DATA_HEADER_LEN..], *payload, "payload of {message:?}");
        assert!(bytes.len() < 1280);
        let (header, payload) = Header::parse(&bytes).unwrap();
        assert_eq!((header.transfer, header.file_size), (9, 1000));
        assert_eq!(Message::parse(&header, payload), Ok(Some(message)));
    }

    #[test]
    fn message_bytes() {
        check(Message::Probe { number: 0x0a0b, offset: 512 }, 2, 0, 512, &[0, 0, 0x0a, 0x0b]);
        let missing = |ranges, more| Message::Missing { status: STATUS, offset: 700, ranges, more };
        check(missing(vec![], false), 3, 0, 700, &STATUS_BYTES);
        let mut listed = STATUS_BYTES.to_vec();
        for number in [0u64, 100, 200, 700] {
            listed.extend_from_slice(&number.to_be_bytes());
        }
        check(missing(vec![0..100, 200..700], true), 3, 1, 700, &listed);
        check(Message::Complete { status: STATUS }, 4, 0, 1000, &STATUS_BYTES);
        check(Message::Refuse { reason: Reason::Busy }, 5, 0, 0, &[1]);
        check(Message::Refuse { reason: Reason::Finished }, 5, 0, 0, &[2]);
        check(Message::Refuse { reason: Reason::StorageFull }, 5, 0, 0, &[3]);
        check(Message::Refuse { reason: Reason::Storage }, 5, 0, 0, &[4]);
        check(Message::Refuse { reason: Reason::Stopped }, 5, 0, 0, &[5]);
    }

    #[test]
    fn the_longest_message_fits() {
        let ranges = (0..MAX_MISSING as u64).map(|i| i * 10..i * 10 + 5).collect();
        let message = Message::Missing { status: STATUS, offset: 1000, ranges, more: true };
        assert_eq!(message.datagram(1, 1000).len(), 44 + 32 + 64 * 16);
    }

    fn refused(kind: Kind, payload: &[u8]) -> ProtocolError {
        let crc32 = crc32fast::hash(payload);
        let length = payload.len() as u32;
        let header = Header { kind, more: false, transfer: 1, offset: 700, file_size: 1000, length, crc32 };
        Message::parse(&header, payload).unwrap_err()
    }

    #[test]
    fn what_parsing_refuses() {
        for (kind, payload) in [
            (Kind::Probe, &[0; 3][..]),
            (Kind::Probe, &[0; 5]),
            (Kind::Missing, &[0; 31]),
            (Kind::Missing, &[0; 33]),
            (Kind::Missing, &[0; 32 + 16 * (MAX_MISSING + 1)]),
            (Kind::Complete, &[0; 33]),
            (Kind::Refuse, &[]),
            (Kind::Refuse, &[1, 1]),
        ] {
            let length = payload.len() as u32;
            assert_eq!(refused(kind, payload), ProtocolError::Length { length, found: payload.len() });
        }
        assert_eq!(refused(Kind::Refuse, &[6]), ProtocolError::UnknownReason { found: 6 });
        for (before, start, end) in [(50, 49, 60), (50, 60, 60), (50, 60, 59), (50, 60, 701)] {
            let mut payload = STATUS_BYTES.to_vec();
            for number in [0u64, before, start, end] {
                payload.extend_from_slice(&number.to_be_bytes());
            }
            assert_eq!(refused(Kind::Missing, &payload), ProtocolError::Ranges { start, end });
        }
    }

    #[test]
    fn a_damaged_message_is_torn() {
        let mut bytes = Message::Complete { status: STATUS }.datagram(1, 1000);
        *bytes.last_mut().unwrap() ^= 1;
        let (header, payload) = Header::parse(&bytes).unwrap();
        assert!(matches!(Message::parse(&header, payload), Err(ProtocolError::Torn { .. })));
    }
}
