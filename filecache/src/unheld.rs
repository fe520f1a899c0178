//! What everybody else sends: bytes that nobody keeps still.

use std::ops::Range;
use std::sync::Arc;

use stillwire_dma::{Payload, Segment};

use crate::Result;
use crate::file::Opened;
use crate::frames::Frames;
use crate::hold::segments;
use crate::holding::hold_pages;

/// A byte range of a cached file *without* a hold.
///
/// It exists to show what a hold is for: a digest of it and the bytes that a device reads later can differ, as with
/// `sendfile`, `MSG_ZEROCOPY` or DPDK's external buffers over a page that somebody else may write. It does not even keep
/// the pages in memory: in a cache that is smaller than its files it may show another file's bytes. Do not send with it.
pub struct Unheld {
    opened: Arc<Opened>,
    range: Range<u64>,
    frames: Frames,
}

impl Unheld {
    pub(crate) fn new(opened: &Arc<Opened>, range: Range<u64>) -> Result<Self> {
        let range = opened.file.check(range)?;
        let mut frames = Frames::default();
        for page in opened.file.pages_of(&range) {
            let core = &opened.cache.core;
            match opened.file.table.get(page) {
                Some(frame) if core.arena.word(frame).phase().has_bytes() => frames.push(frame),
                _ => {
                    let held = hold_pages(core, &opened.file, page..page + 1)?;
                    held.each(|frame| {
                        frames.push(frame);
                        core.release(frame);
                    });
                }
            }
        }
        Ok(Self { opened: opened.clone(), range, frames })
    }

    /// Length, bytes.
    pub fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Where in the file it begins, bytes.
    pub fn file_offset(&self) -> u64 {
        self.range.start
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
        let mut digest = crc32fast::Hasher::new();
        self.copies(range, |bytes| digest.update(bytes));
        digest.finalize()
    }

    /// Hands copies of the bytes of `range` to `each`, piece by piece, as they are found meanwhile.
    ///
    /// # Panics
    /// When `range` reaches outside.
    pub fn copies(&self, range: Range<usize>, mut each: impl FnMut(&[u8])) {
        let arena = &self.opened.cache.core.arena;
        let mut copy = [0u8; 4096];
        for piece in self.frames.runs().pieces(self.in_frames(range), arena.page_shift()) {
            let mut at = piece.start;
            while at < piece.end {
                let part = at..piece.end.min(at + copy.len());
                let copy = &mut copy[..part.len()];
                arena.copy(part.clone(), copy);
                each(copy);
                at = part.end;
            }
        }
    }

    /// Copies bytes out as they are found, from byte `at` of this value on.
    ///
    /// # Panics
    /// When the range reaches outside.
    pub fn read_at(&self, at: usize, bytes: &mut [u8]) {
        let arena = &self.opened.cache.core.arena;
        let mut done = 0;
        for piece in self.frames.runs().pieces(self.in_frames(at..at + bytes.len()), arena.page_shift()) {
            let part = &mut bytes[done..done + piece.len()];
            done += piece.len();
            arena.copy(piece, part);
        }
    }

    /// `range` (bytes from the start of this value) as bytes from the start of its first page.
    fn in_frames(&self, range: Range<usize>) -> Range<u64> {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        let skipped = self.range.start & (self.opened.cache.core.arena.page_size() as u64 - 1);
        skipped + range.start as u64..skipped + range.end as u64
    }
}

impl Payload for Unheld {
    fn len(&self) -> usize {
        self.len()
    }

    /// # Panics
    /// Also when the cache has no DMA mapping ([`Cache::attach`](crate::Cache::attach)).
    fn segments(&self, range: Range<usize>, each: impl FnMut(Segment)) {
        segments(&self.opened.cache.core, self.frames.runs(), self.in_frames(range), each);
    }
}
