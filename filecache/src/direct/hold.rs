//! Holds of direct files.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use stillwire_dma::{Payload, Segment};

use super::{Direct, DirectKind};
use crate::hold::Hold;
use crate::{Error, Result};

/// A byte range of a direct file that nobody can change for as long as this value lives (see [`DirectKind`] for what
/// that rests on).
///
/// It owns what it needs: the file, its lease and its mapping stay until the last hold is dropped. Send it to another
/// thread, move it into a transmit queue; dropping it releases the file once.
pub struct DirectHold {
    direct: Arc<Direct>,
    offset: u64,
    len: usize,
    /// The hold of the pages of a file in memory; for other files, the gate has been entered.
    pages: Option<Hold>,
}

impl DirectHold {
    /// `range` is inside the file, and the caller has entered the gate on behalf of this value.
    pub(super) fn entered(direct: &Arc<Direct>, range: Range<u64>) -> Self {
        Self { direct: direct.clone(), offset: range.start, len: (range.end - range.start) as usize, pages: None }
    }

    /// `pages` is a hold of `range`.
    pub(super) fn of_pages(direct: &Arc<Direct>, range: Range<u64>, pages: Hold) -> Self {
        Self {
            pages: Some(pages),
            direct: direct.clone(),
            offset: range.start,
            len: (range.end - range.start) as usize,
        }
    }

    /// Length, bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where in the file it begins, bytes.
    pub fn file_offset(&self) -> u64 {
        self.offset
    }

    /// Whether the promise stands. It falls for a leased file only, when a writer has waited for longer than
    /// `/proc/sys/fs/lease-break-time` for this hold or others; the kernel lets it on then. A
    /// process that was stopped meanwhile learns of it a moment late.
    pub fn is_still(&self) -> bool {
        !self.direct.core.is_overdue()
    }

    /// Copies held bytes out, from byte `at` of the hold.
    ///
    /// By a read of the file, not through a mapping: where a file is on a disk, an I/O error or somebody who cuts the file
    /// short in spite of everything is an error here, and would be SIGBUS there.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Changed`], and [`Error::Broken`] when [`is_still`](Self::is_still) does not hold.
    ///
    /// # Panics
    /// When the range reaches past [`len`](Self::len).
    pub fn read_at(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        let inside = at.checked_add(bytes.len()).is_some_and(|end| end <= self.len);
        assert!(inside, "{} bytes at {at} of a hold of {} bytes", bytes.len(), self.len);
        let core = &self.direct.core;
        let (mut done, start) = (0, self.offset + at as u64);
        while done < bytes.len() {
            match rustix::io::pread(&self.direct.file, &mut bytes[done..], start + done as u64) {
                Ok(0) => {
                    let found = self.direct.file.metadata().map_or(start + done as u64, |found| found.len());
                    return Err(Error::Changed { path: core.path.clone(), expected: core.len, found });
                }
                Ok(more) => done += more,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(Error::File { path: core.path.clone(), what: "pread", source: error.into() });
                }
            }
        }
        // After the bytes, so that a promise that fell while they were read is seen.
        if self.is_still() { Ok(()) } else { Err(Error::Broken { path: core.path.clone() }) }
    }

    /// CRC-32 (IEEE) of the held bytes.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn crc32(&self) -> Result<u32> {
        self.crc32_range(0..self.len)
    }

    /// CRC-32 (IEEE) of a part of the held bytes; `range` counts from the hold's start.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    ///
    /// # Panics
    /// When `range` reaches past [`len`](Self::len).
    pub fn crc32_range(&self, range: Range<usize>) -> Result<u32> {
        self.check(&range);
        let mut digest = crc32fast::Hasher::new();
        let mut copy = vec![0; range.len().min(COPY)];
        for at in range.clone().step_by(COPY) {
            let part = &mut copy[..COPY.min(range.end - at)];
            self.read_at(at, part)?;
            digest.update(part);
        }
        Ok(digest.finalize())
    }

    /// The held bytes where they lie; `None` unless the file is [sealed](DirectKind::Sealed).
    ///
    /// A slice must not change or go away whatever anybody does. Seals promise that; a lease ends by force, a flag can be
    /// cleared, a disk can fail.
    pub fn as_slice(&self) -> Option<&[u8]> {
        if self.direct.kind != DirectKind::Sealed {
            return None;
        }
        let Some(memory) = &self.direct.core.memory else { return Some(&[]) };
        let start = self.offset as usize;
        assert!(start + self.len <= memory.len(), "a hold is inside its file");
        // SAFETY: inside the mapping (checked), which lives as long as `self.direct`, borrowed here. The bytes are those of
        // a memfd with F_SEAL_WRITE and F_SEAL_SHRINK, which can not be taken off: the kernel had no writable mapping when
        // it set the seal and makes none, refuses write(2) and holes, and never shortens the file; the device's mapping is
        // read-only. So they are initialised (a memfd begins as zeros), and nobody changes them.
        Some(unsafe { std::slice::from_raw_parts(memory.as_ptr().add(start), self.len) })
    }

    fn check(&self, range: &Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a hold of {} bytes", self.len);
    }
}

impl Payload for DirectHold {
    fn len(&self) -> usize {
        self.len
    }

    /// # Panics
    /// Also when the file was opened without an [`Iommu`](stillwire_dma::Iommu).
    fn segments(&self, range: Range<usize>, mut each: impl FnMut(Segment)) {
        self.check(&range);
        if let Some(pages) = &self.pages {
            return pages.segments(range, each);
        }
        // SAFETY: the hold has entered the gate and leaves it in `drop`; the reference ends here.
        let mapping = unsafe { self.direct.core.gate.value() };
        let end = self.offset as usize + range.end;
        let mut at = self.offset as usize + range.start;
        while at < end {
            let next = end.min(at + PIECE);
            let mapping = mapping.as_ref().unwrap_or_else(|| panic!("a payload of a file opened without an Iommu"));
            each(mapping.segment(at..next).unwrap_or_else(|| unreachable!("the whole file is mapped")));
            at = next;
        }
    }
}

impl Drop for DirectHold {
    #[inline]
    fn drop(&mut self) {
        if self.pages.is_none() {
            self.direct.core.leave();
        }
    }
}

/// Bytes read at a time for a digest.
const COPY: usize = 64 << 10;
/// Longest segment, bytes.
const PIECE: usize = 1 << 30;
