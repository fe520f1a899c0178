//! The 44 bytes that every datagram begins with.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ProtocolError;

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of the file; from the sender.
    Data = 1,
    /// "What do you miss?"; from the sender.
    Probe = 2,
    /// How far the receiver is and what it misses.
    Missing = 3,
    /// The receiver has everything and the file is in its place.
    Complete = 4,
    /// The receiver does not take this transfer.
    Refuse = 5,
    /// Bytes of the file follow, cut by the NIC; from the sender.
    Run = 6,
}

/// The fields of a header that are not the same in every datagram. The byte layout is in the
/// [module's table](super#on-the-wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the datagram is for.
    pub kind: Kind,
    /// Missing only: more ranges are missing than are listed.
    pub more: bool,
    /// The sender's number for the transfer.
    pub transfer: u64,
    /// Data and Run: place of the bytes in the file. Probe and Missing: everything below has been sent once.
    pub offset: u64,
    /// Size of the file, bytes.
    pub file_size: u64,
    /// Bytes after the header.
    pub length: u32,
    /// CRC-32 (IEEE) of the bytes after the header.
    pub crc32: u32,
}

impl Header {
    /// The header of one piece of a file: `length` bytes at `offset` whose CRC-32 is `crc32`.
    pub fn data(transfer: u64, file_size: u64, offset: u64, length: u32, crc32: u32) -> Header {
        Header { kind: Kind::Data, more: false, transfer, offset, file_size, length, crc32 }
    }

    /// Splits a datagram into its header and the bytes after it.
    ///
    /// Everything is checked but the payload's crc32, which [`verify`](Header::verify) does: what to do with a torn
    /// payload is the receiver's decision.
    pub fn parse(datagram: &[u8]) -> Result<(Header, &[u8]), ProtocolError> {
        let short = ProtocolError::Short { found: datagram.len() };
        let (raw, payload) = RawHeader::ref_from_prefix(datagram).map_err(|_| short)?;
        if raw.magic.get() != MAGIC {
            return Err(ProtocolError::Magic { found: raw.magic.get() });
        }
        if raw.version != VERSION {
            return Err(ProtocolError::Version { found: raw.version });
        }
        let expected = raw.computed_check();
        if raw.check.get() != expected {
            return Err(ProtocolError::HeaderCheck { found: raw.check.get(), expected });
        }
        let header = raw.header()?;
        header.check_length(payload.len())?;
        header.check_place()?;
        Ok((header, payload))
    }

    /// Writes the header into the first [`DATA_HEADER_LEN`] bytes of `datagram`.
    ///
    /// # Panics
    ///
    /// When `datagram` is shorter than that.
    pub fn emit(&self, datagram: &mut [u8]) {
        let mut raw = RawHeader {
            magic: U32::new(MAGIC),
            version: VERSION,
            kind: self.kind as u8,
            flags: U16::new(if self.more { FLAG_MORE } else { 0 }),
            transfer: U64::new(self.transfer),
            offset: U64::new(self.offset),
            file_size: U64::new(self.file_size),
            length: U32::new(self.length),
            crc32: U32::new(self.crc32),
            check: U32::ZERO,
        };
        raw.check = U32::new(raw.computed_check());
        datagram[..DATA_HEADER_LEN].copy_from_slice(raw.as_bytes());
    }

    /// [`ProtocolError::Torn`] when `payload` is not what the crc32 was computed over.
    pub fn verify(&self, payload: &[u8]) -> Result<(), ProtocolError> {
        let expected = crc32fast::hash(payload);
        if self.crc32 == expected { Ok(()) } else { Err(ProtocolError::Torn { found: self.crc32, expected }) }
    }

    fn check_length(&self, found: usize) -> Result<(), ProtocolError> {
        let fits = usize::try_from(self.length).is_ok_and(|length| length == found);
        if fits && (self.kind != Kind::Data || found > 0) {
            Ok(())
        } else {
            Err(ProtocolError::Length { length: self.length, found })
        }
    }

    fn check_place(&self) -> Result<(), ProtocolError> {
        let length = if self.kind == Kind::Data { u64::from(self.length) } else { 0 };
        let inside = self.offset.checked_add(length).is_some_and(|end| end <= self.file_size);
        if inside && self.file_size <= MAX_FILE_SIZE {
            Ok(())
        } else {
            Err(ProtocolError::OutOfFile { offset: self.offset, length, file_size: self.file_size })
        }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    version: u8,
    kind: u8,
    flags: U16,
    transfer: U64,
    offset: U64,
    file_size: U64,
    length: U32,
    crc32: U32,
    check: U32,
}

impl RawHeader {
    fn computed_check(&self) -> u32 {
        let bytes = self.as_bytes();
        crc32fast::hash(&bytes[..bytes.len() - size_of::<U32>()])
    }

    fn header(&self) -> Result<Header, ProtocolError> {
        let kind = match self.kind {
            1 => Kind::Data,
            2 => Kind::Probe,
            3 => Kind::Missing,
            4 => Kind::Complete,
            5 => Kind::Refuse,
            6 => Kind::Run,
            found => return Err(ProtocolError::UnknownKind { found }),
        };
        let more = match self.flags.get() {
            0 => false,
            FLAG_MORE if kind == Kind::Missing => true,
            found => return Err(ProtocolError::Flags { found }),
        };
        Ok(Header {
            kind,
            more,
            transfer: self.transfer.get(),
            offset: self.offset.get(),
            file_size: self.file_size.get(),
            length: self.length.get(),
            crc32: self.crc32.get(),
        })
    }
}

/// Bytes before the payload in every datagram.
pub const DATA_HEADER_LEN: usize = size_of::<RawHeader>();

const MAGIC: u32 = u32::from_be_bytes(*b"StWr");
const VERSION: u8 = 1;
const FLAG_MORE: u16 = 1;
/// A file offset is a signed 64-bit number to the kernel.
const MAX_FILE_SIZE: u64 = i64::MAX as u64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Header of 3 bytes "abc" at 0x1234 of a file of 0x1_0000 bytes.
    const GOLDEN: [u8; DATA_HEADER_LEN + 3] = [
        0x53, 0x74, 0x57, 0x72, // magic
        1, 1, 0, 0, // version, Data, no flags
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // transfer
        0, 0, 0, 0, 0, 0, 0x12, 0x34, // offset
        0, 0, 0, 0, 0, 1, 0, 0, // file size
        0, 0, 0, 3, // length
        0x35, 0x24, 0x41, 0xc2, // crc32 of "abc"
        0x77, 0xa7, 0x51, 0x16, // check
        b'a', b'b', b'c',
    ];

    #[test]
    fn data_header_bytes() {
        let header = Header::data(0x0102_0304_0506_0708, 0x1_0000, 0x1234, 3, 0x3524_41c2);
        let mut bytes = [0; DATA_HEADER_LEN + 3];
        bytes[DATA_HEADER_LEN..].copy_from_slice(b"abc");
        header.emit(&mut bytes);
        assert_eq!(bytes, GOLDEN);
        assert_eq!(Header::parse(&bytes), Ok((header, &b"abc"[..])));
        assert_eq!(header.verify(b"abc"), Ok(()));
        assert_eq!(
            header.verify(b"abd"),
            Err(ProtocolError::Torn { found: 0x3524_41c2, expected: crc32fast::hash(b"abd") })
        );
    }

    /// Changes one field of the golden datagram, seals the header again and looks at what parsing says.
    fn check(change: impl FnOnce(&mut Vec<u8>), expected: Option<ProtocolError>) {
        let mut bytes = GOLDEN.to_vec();
        change(&mut bytes);
        seal(&mut bytes);
        assert_eq!(Header::parse(&bytes).err(), expected, "{bytes:02x?}");
    }

    #[test]
    fn what_parsing_refuses() {
        check(|_| (), None);
        check(|b| b[0] = b'X', Some(ProtocolError::Magic { found: 0x5874_5772 }));
        check(|b| b[4] = 2, Some(ProtocolError::Version { found: 2 }));
        check(|b| b[5] = 0, Some(ProtocolError::UnknownKind { found: 0 }));
        check(|b| b[5] = 7, Some(ProtocolError::UnknownKind { found: 7 }));
        check(|b| b[7] = 1, Some(ProtocolError::Flags { found: 1 }));
        check(|b| (b[5], b[7]) = (3, 1), None);
        check(|b| (b[5], b[7]) = (3, 2), Some(ProtocolError::Flags { found: 2 }));
        check(|b| b.push(0), Some(ProtocolError::Length { length: 3, found: 4 }));
        check(|b| b.truncate(46), Some(ProtocolError::Length { length: 3, found: 2 }));
        check(|b| b[32] = 0xff, Some(ProtocolError::Length { length: 0xff00_0003, found: 3 }));
        check(
            |b| {
                b[35] = 0;
                b.truncate(DATA_HEADER_LEN);
            },
            Some(ProtocolError::Length { length: 0, found: 0 }),
        );
        let end = |offset, file_size| Some(ProtocolError::OutOfFile { offset, length: 3, file_size });
        check(|b| b[16..24].copy_from_slice(&0xfffd_u64.to_be_bytes()), None);
        check(|b| b[16..24].copy_from_slice(&0xfffe_u64.to_be_bytes()), end(0xfffe, 0x1_0000));
        check(|b| b[16..24].fill(0xff), end(u64::MAX, 0x1_0000));
        check(|b| b[24] = 0x80, end(0x1234, 0x8000_0000_0001_0000));
    }

    #[test]
    fn a_header_damaged_on_its_way_is_not_believed() {
        for bit in 40..DATA_HEADER_LEN * 8 {
            let mut bytes = GOLDEN;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Header::parse(&bytes), Err(ProtocolError::HeaderCheck { .. })), "bit {bit}");
        }
        for len in 0..DATA_HEADER_LEN {
            assert_eq!(Header::parse(&GOLDEN[..len]), Err(ProtocolError::Short { found: len }));
        }
    }

    fn seal(bytes: &mut [u8]) {
        let check = crc32fast::hash(&bytes[..40]);
        bytes[40..44].copy_from_slice(&check.to_be_bytes());
    }

    proptest! {
        #[test]
        fn whatever_parses_emits_the_same_bytes(mut bytes in prop::collection::vec(any::<u8>(), 44..80), kind in 0u8..8) {
            bytes[..8].copy_from_slice(&[0x53, 0x74, 0x57, 0x72, 1, kind, 0, 0]);
            let length = (bytes.len() - DATA_HEADER_LEN) as u32;
            bytes[32..36].copy_from_slice(&length.to_be_bytes());
            bytes[16] = 0;
            bytes[24] &= 0x7f;
            seal(&mut bytes);
            if let Ok((header, payload)) = Header::parse(&bytes) {
                let mut again = vec![0; DATA_HEADER_LEN];
                header.emit(&mut again);
                again.extend_from_slice(payload);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
