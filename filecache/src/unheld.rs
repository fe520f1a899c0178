//! What everybody else sends: bytes that nobody keeps still.

use std::ops::Range;
use std::sync::Arc;

use stillwire_dma::{Payload, Segment};

use crate::Result;
use crate::file::Opened;
use crate::hold::segments;

/// A byte range of a cached file *without* a hold.
///
/// It exists to show what a hold is for: a digest of it and the bytes that a device reads later can differ, as with
/// `sendfile`, `MSG_ZEROCOPY` or DPDK's external buffers over a page that somebody else may write. It keeps the pages
/// in memory, and nothing more. Do not send with it.
pub struct Unheld {
    opened: Arc<Opened>,
    range: Range<u64>,
}

impl Unheld {
    pub(crate) fn new(opened: &Arc<Opened>, range: Range<u64>) -> Result<Self> {
        let range = opened.check(range)?;
        for page in opened.pages_of(&range) {
            opened.fill(page)?;
        }
        Ok(Self { opened: opened.clone(), range })
    }

    /// Length, bytes.
    pub fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// CRC-32 (IEEE) of the bytes as they are found, one after the other, while writers may be changing them.
    pub fn crc32(&self) -> u32 {
        self.crc32_range(0..self.len())
    }

    /// The same for `range`, bytes from the start of this value.
    ///
    /// # Panics
    /// When `range` reaches outside.
    pub fn crc32_range(&self, range: Range<usize>) -> u32 {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        let range = self.range.start + range.start as u64..self.range.start + range.end as u64;
        let mut digest = crc32fast::Hasher::new();
        let mut copy = [0u8; 4096];
        for piece in self.opened.pieces(range) {
            let mut at = piece.start;
            while at < piece.end {
                let part = at..piece.end.min(at + copy.len());
                let copy = &mut copy[..part.len()];
                self.opened.cache.core.arena.copy(part.clone(), copy);
                digest.update(copy);
                at = part.end;
            }
        }
        digest.finalize()
    }
}

impl Payload for Unheld {
    fn len(&self) -> usize {
        self.len()
    }

    /// # Panics
    /// Also when the cache has no DMA mapping ([`Cache::attach`](crate::Cache::attach)).
    fn segments(&self, range: Range<usize>, each: &mut dyn FnMut(Segment)) {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        let start = self.range.start;
        segments(&self.opened, start + range.start as u64..start + range.end as u64, each);
    }
}
