//! Addresses as a device sees them.

use std::fmt;
use std::ops::Range;

/// An IO virtual address: what a device puts on the bus to reach memory.
///
/// Only a [`Mapping`](crate::Mapping) makes one, so an `Iova` always named mapped memory when it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iova(u64);

impl Iova {
    pub(crate) const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The address as it is written into a descriptor.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iova({:#x})", self.0)
    }
}

/// A run of device addresses: what one descriptor can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First byte.
    pub iova: Iova,
    /// Length, bytes; never 0.
    pub len: u32,
}

impl Segment {
    /// The bytes `range` of this segment; `None` when there are none, or not all of them are in it.
    #[inline]
    pub fn part(self, range: &Range<usize>) -> Option<Segment> {
        let inside = range.start < range.end && range.end <= self.len as usize;
        // In a segment, so both fit 32 bits.
        inside.then(|| Segment { iova: Iova(self.iova.0 + range.start as u64), len: (range.end - range.start) as u32 })
    }

    /// The part of this segment that begins `skip` bytes in and is at most `len` bytes long; `None` when nothing is left.
    #[inline]
    pub fn slice(self, skip: u32, len: u32) -> Option<Segment> {
        let left = self.len.checked_sub(skip)?.min(len);
        (left > 0).then_some(Segment { iova: Iova(self.iova.0 + u64::from(skip)), len: left })
    }
}

/// Bytes that a device may read for as long as the value lives.
///
/// A transmit queue takes such a value with the frame, keeps it while the device may read the bytes, and gives it back
/// when the device is done. What "may read" means is the implementer's promise: a pool buffer is not reused, a held
/// file page is not written.
pub trait Payload {
    /// Length, bytes.
    fn len(&self) -> usize;

    /// Whether there is nothing to send.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` with the segments that make up `range` (bytes from the payload's start), in order.
    ///
    /// # Panics
    /// When `range` reaches past [`len`](Self::len): the caller's mistake.
    fn segments(&self, range: Range<usize>, each: impl FnMut(Segment));

    /// The segment that is all of `range`, if it is one: what it is most often, so worth a short way of its own where there is
    /// one. An implementer that says `None` is asked for the [`segments`](Self::segments).
    ///
    /// # Panics
    /// As [`segments`](Self::segments).
    #[inline]
    fn segment(&self, range: Range<usize>) -> Option<Segment> {
        let (mut count, mut last) = (0, None);
        self.segments(range, |segment| (count, last) = (count + 1, Some(segment)));
        last.filter(|_| count == 1)
    }
}

/// The payload of a frame that is all header.
impl Payload for () {
    fn len(&self) -> usize {
        0
    }

    fn segments(&self, range: Range<usize>, _each: impl FnMut(Segment)) {
        assert!(range.is_empty(), "() has no bytes, {range:?} was asked for");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_stays_inside_its_segment() {
        let segment = Segment { iova: Iova::new(0x1000), len: 100 };
        assert_eq!(segment.slice(10, 20), Some(Segment { iova: Iova::new(0x100a), len: 20 }));
        assert_eq!(segment.slice(90, 20), Some(Segment { iova: Iova::new(0x105a), len: 10 }));
        assert_eq!(segment.slice(100, 1), None);
        assert_eq!(segment.part(&(10..30)), segment.slice(10, 20));
        assert_eq!(segment.part(&(99..100)), segment.slice(99, 1));
        #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake")]
        for nothing in [99..101, 5..5, 7..6, 0..usize::MAX] {
            assert_eq!(segment.part(&nothing), None);
        }
        assert_eq!(segment.slice(101, 1), None);
    }
}
