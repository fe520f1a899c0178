//! What travels with frames through a transmit ring.

use std::ops::Range;

use stillwire_dma::{Payload, Segment};
use stillwire_filecache::{DirectHold, Hold, Unheld};

use crate::Result;
use crate::packet::Sum;
use crate::pool::Buffer;

/// What travels with frames through the transmit ring.
pub enum Cargo {
    /// File pages, still until the NIC is done.
    Held(Hold),
    /// File pages that anybody may write meanwhile.
    Unheld(Unheld),
    /// The kernel's pages of a file, still until the NIC is done.
    Direct(DirectHold),
    /// A buffer of our own.
    Buffer(Buffer),
}

impl Payload for Cargo {
    fn len(&self) -> usize {
        match self {
            Cargo::Held(hold) => hold.len(),
            Cargo::Unheld(unheld) => unheld.len(),
            Cargo::Direct(hold) => hold.len(),
            Cargo::Buffer(buffer) => buffer.len(),
        }
    }

    fn segments(&self, range: Range<usize>, each: impl FnMut(Segment)) {
        match self {
            Cargo::Held(hold) => hold.segments(range, each),
            Cargo::Unheld(unheld) => unheld.segments(range, each),
            Cargo::Direct(hold) => hold.segments(range, each),
            Cargo::Buffer(buffer) => buffer.segments(range, each),
        }
    }

    fn segment(&self, range: Range<usize>) -> Option<Segment> {
        match self {
            Cargo::Held(hold) => hold.segment(range),
            Cargo::Unheld(unheld) => unheld.segment(range),
            Cargo::Direct(hold) => hold.segment(range),
            Cargo::Buffer(buffer) => buffer.segment(range),
        }
    }
}

impl Cargo {
    /// The bytes of a file that it is; `None` for a buffer.
    pub fn file_range(&self) -> Option<Range<u64>> {
        let start = match self {
            Cargo::Held(hold) => hold.file_offset(),
            Cargo::Unheld(unheld) => unheld.file_offset(),
            Cargo::Direct(hold) => hold.file_offset(),
            Cargo::Buffer(_) => return None,
        };
        Some(start..start + self.len() as u64)
    }

    /// Digest of a part of it, bytes.
    ///
    /// # Errors
    /// When a file that is sent without the cache can not be read.
    pub fn crc32(&self, range: Range<usize>) -> Result<u32> {
        match self {
            Cargo::Held(hold) => Ok(hold.crc32_range(range)),
            Cargo::Unheld(unheld) => Ok(unheld.crc32_range(range)),
            Cargo::Direct(hold) => Ok(hold.crc32_range(range)?),
            Cargo::Buffer(_) => unreachable!("only file pages are digested"),
        }
    }

    /// Sum of a part of it, bytes, for a checksum that the NIC does not compute.
    ///
    /// # Errors
    /// As [`crc32`](Self::crc32).
    pub fn sum(&self, range: Range<usize>) -> Result<Sum> {
        let mut sum = Sum::default();
        match self {
            Cargo::Held(hold) => hold.slices(range).for_each(|bytes| sum.add(bytes)),
            Cargo::Unheld(unheld) => unheld.copies(range, |bytes| sum.add(bytes)),
            Cargo::Direct(hold) => {
                let mut copy = vec![0; range.len()];
                hold.read_at(range.start, &mut copy)?;
                sum.add(&copy);
            }
            Cargo::Buffer(_) => unreachable!("what is in a buffer was summed before"),
        }
        Ok(sum)
    }

    /// Copies bytes out, from byte `at` on.
    ///
    /// # Errors
    /// As [`crc32`](Self::crc32).
    pub fn read_at(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        match self {
            Cargo::Held(hold) => hold.read_at(at, bytes),
            Cargo::Unheld(unheld) => unheld.read_at(at, bytes),
            Cargo::Direct(hold) => hold.read_at(at, bytes)?,
            Cargo::Buffer(buffer) => buffer.read_at(at, bytes),
        }
        Ok(())
    }
}
