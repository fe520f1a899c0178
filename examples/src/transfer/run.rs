//! Runs: bytes of the file that the NIC cuts into datagrams by itself, and the datagram that announces them.

use std::ops::Range;

use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{DATA_HEADER_LEN, Header, Kind, ProtocolError};

/// UDP ports that runs come from, and nothing else: the run with number `n` from the port `n` modulo [`RUNS`] of them.
///
/// Beyond the ports that systems choose from for themselves (up to 60999 on Linux), so that no message comes from one.
pub const RUN_PORTS: Range<u16> = 0xff00..0xff10;

/// Most runs that are on their way at once without getting into each other's way.
pub const RUNS: usize = (RUN_PORTS.end - RUN_PORTS.start) as usize;

/// Most bytes in a run: what an IPv4 packet holds behind its header and UDP's, as that is what the NIC is given to cut.
pub const MAX_RUN: u32 = 0xffff - 20 - 8;

/// Bytes of the datagram that announces a run. No segment is as long: so the two are told apart.
pub const ANNOUNCEMENT_LEN: usize = DATA_HEADER_LEN + size_of::<RawRun>();

/// Bytes of the file that follow in segments without a header; the byte layout is in the
/// [module's table](super#on-the-wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Counted up by one for each run; says which of [`RUN_PORTS`] it comes from.
    pub number: u32,
    /// Place in the file, bytes.
    pub offset: u64,
    /// Length, bytes: 1 to [`MAX_RUN`].
    pub len: u32,
    /// Bytes in each segment; the last may have fewer.
    pub segment: u32,
    /// CRC-32 (IEEE) of all of it.
    pub crc32: u32,
}

impl Run {
    /// The source port of its announcement and of its segments.
    pub fn port(&self) -> u16 {
        RUN_PORTS.start + (self.number % RUNS as u32) as u16
    }

    /// Length of the segment that begins `done` bytes after its start: 0 at its end.
    pub fn segment_at(&self, done: u32) -> u32 {
        self.len.saturating_sub(done).min(self.segment)
    }

    /// The datagram that announces it, of transfer `transfer`, a file of `file_size` bytes.
    pub fn announcement(&self, transfer: u64, file_size: u64) -> [u8; ANNOUNCEMENT_LEN] {
        let mut bytes = [0; ANNOUNCEMENT_LEN];
        let raw = RawRun {
            number: U32::new(self.number),
            len: U32::new(self.len),
            segment: U32::new(self.segment),
            crc32: U32::new(self.crc32),
        };
        let crc32 = crc32fast::hash(raw.as_bytes());
        let (kind, offset, length) = (Kind::Run, self.offset, size_of::<RawRun>() as u32);
        Header { kind, more: false, transfer, offset, file_size, length, crc32 }.emit(&mut bytes);
        bytes[DATA_HEADER_LEN..].copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads what follows `header`, whose crc32 has been verified.
    pub(super) fn parse(header: &Header, payload: &[u8]) -> Result<Run, ProtocolError> {
        let length = ProtocolError::Length { length: header.length, found: payload.len() };
        let raw = RawRun::ref_from_bytes(payload).map_err(|_| length)?;
        let (number, len, segment) = (raw.number.get(), raw.len.get(), raw.segment.get());
        let run = Run { number, offset: header.offset, len, segment, crc32: raw.crc32.get() };
        if !(1..=MAX_RUN).contains(&len) || !can_be_cut(u64::from(len), segment) {
            return Err(ProtocolError::Run { len, segment });
        }
        let (offset, length, file_size) = (run.offset, u64::from(len), header.file_size);
        match offset.checked_add(length) {
            Some(end) if end <= file_size => Ok(run),
            _ => Err(ProtocolError::OutOfFile { offset, length, file_size }),
        }
    }
}

/// Whether a run of `len` bytes can go in segments of `segment` bytes: none of them may be as long as an announcement,
/// nor is it worth anything to have them shorter.
pub fn can_be_cut(len: u64, segment: u32) -> bool {
    segment as usize > ANNOUNCEMENT_LEN && segment <= MAX_RUN && len % u64::from(segment) != ANNOUNCEMENT_LEN as u64
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRun {
    number: U32,
    len: U32,
    segment: U32,
    crc32: U32,
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;

    fn run() -> Run {
        Run { number: 0x0102_0304, offset: 0x1234, len: 3000, segment: 1472, crc32: 0xa0b0_c0d0 }
    }

    #[test]
    fn announcement_bytes() {
        let bytes = run().announcement(9, 0x1_0000);
        assert_eq!(bytes[5..8], [6, 0, 0], "kind and flags");
        assert_eq!(bytes[8..16], 9u64.to_be_bytes());
        assert_eq!(bytes[16..24], 0x1234u64.to_be_bytes());
        assert_eq!(bytes[24..32], 0x1_0000u64.to_be_bytes());
        assert_eq!(bytes[32..36], [0, 0, 0, 16], "bytes that follow the header, not the run's");
        assert_eq!(bytes[44..], [1, 2, 3, 4, 0, 0, 0x0b, 0xb8, 0, 0, 5, 0xc0, 0xa0, 0xb0, 0xc0, 0xd0]);
        let (header, payload) = Header::parse(&bytes).unwrap();
        assert_eq!(Message::parse(&header, payload), Ok(Some(Message::Run(run()))));
        assert_eq!(Message::Run(run()).datagram(9, 0x1_0000), bytes);
    }

    #[test]
    fn ports_go_round() {
        let port = |number| Run { number, ..run() }.port();
        assert_eq!([port(0), port(15), port(16), port(u32::MAX)], [0xff00, 0xff0f, 0xff00, 0xff0f]);
    }

    #[test]
    fn segments_of_a_run() {
        assert_eq!([0, 1472, 2944, 3000].map(|done| run().segment_at(done)), [1472, 1472, 56, 0]);
    }

    #[test]
    fn what_parsing_refuses() {
        let check = |run: Run, file_size, expected: Option<ProtocolError>| {
            let bytes = run.announcement(1, file_size);
            let found = Header::parse(&bytes).and_then(|(header, payload)| Message::parse(&header, payload));
            assert_eq!(found.err(), expected, "{run:?}");
        };
        let refused = |len, segment| {
            let expected = Some(ProtocolError::Run { len, segment });
            check(Run { len, segment, ..run() }, 1 << 20, expected);
        };
        check(run(), 0x1234 + 3000, None);
        let length = 3000;
        check(
            run(),
            0x1234 + 2999,
            Some(ProtocolError::OutOfFile { offset: 0x1234, length, file_size: 0x1234 + 2999 }),
        );
        let (offset, file_size) = (u64::MAX, 1 << 20);
        check(Run { offset, ..run() }, file_size, Some(ProtocolError::OutOfFile { offset, length: 0, file_size }));
        check(Run { len: MAX_RUN, ..run() }, 1 << 20, None);
        refused(MAX_RUN + 1, 1472);
        refused(0, 1472);
        refused(3000, 0);
        refused(3000, 60);
        check(Run { segment: 61, ..run() }, 1 << 20, None);
        refused(3000, MAX_RUN + 1);
        refused(2 * 1472 + 60, 1472);
        check(Run { len: 2 * 1472 + 59, ..run() }, 1 << 20, None);
        refused(60, 1472);
    }
}
