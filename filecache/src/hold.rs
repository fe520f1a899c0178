//! Holds: stable references to byte ranges of a file.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use stillwire_dma::{Payload, Segment};

use crate::file::Opened;
use crate::page::{Phase, Refusal};
use crate::stats::count;
use crate::{Error, Result};

/// A byte range of a file that nobody can change for as long as this value lives.
///
/// It owns what it needs: the file, the cache and a mapping for a device stay until the last hold is dropped. Send it to
/// another thread, move it into a transmit queue; dropping it releases every page once.
pub struct Hold {
    opened: Arc<Opened>,
    offset: u64,
    len: usize,
}

impl Hold {
    #[inline]
    pub(crate) fn new(opened: &Arc<Opened>, range: Range<u64>) -> Result<Self> {
        let range = opened.check(range)?;
        hold_pages(opened, opened.pages_of(&range))?;
        opened.cache.core.counters.holds.add_one();
        Ok(Self { opened: opened.clone(), offset: range.start, len: (range.end - range.start) as usize })
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

    /// The held bytes, in order, as the pieces that are contiguous in memory.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.held(self.range())
    }

    /// CRC-32 (IEEE) of the held bytes.
    pub fn crc32(&self) -> u32 {
        self.crc32_range(0..self.len)
    }

    /// CRC-32 (IEEE) of a part of the held bytes; `range` counts from the hold's start.
    ///
    /// # Panics
    /// When `range` reaches past [`len`](Self::len).
    pub fn crc32_range(&self, range: Range<usize>) -> u32 {
        let mut digest = crc32fast::Hasher::new();
        self.held(self.part(range)).for_each(|chunk| digest.update(chunk));
        digest.finalize()
    }

    /// Pieces of `range` (bytes of the file, inside the hold).
    fn held(&self, range: Range<u64>) -> impl Iterator<Item = &[u8]> {
        let arena = &self.opened.cache.core.arena;
        // SAFETY: the slices borrow `self`, and `self` holds every page that it covers until it is dropped.
        self.opened.pieces(range).map(|piece| unsafe { arena.held(piece) })
    }

    /// The held bytes of the file.
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len as u64
    }

    /// A part of them.
    fn part(&self, range: Range<usize>) -> Range<u64> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a hold of {} bytes", self.len);
        self.offset + range.start as u64..self.offset + range.end as u64
    }
}

impl Payload for Hold {
    fn len(&self) -> usize {
        self.len
    }

    /// # Panics
    /// Also when the cache has no DMA mapping ([`Cache::attach`](crate::Cache::attach)).
    fn segments(&self, range: Range<usize>, each: &mut dyn FnMut(Segment)) {
        segments(&self.opened, self.part(range), each);
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        release_pages(&self.opened, self.opened.pages_of(&self.range()));
    }
}

/// Gives `each` the device's names for `range` (bytes of the file), of which every page is cached.
pub(crate) fn segments(opened: &Opened, range: Range<u64>, each: &mut dyn FnMut(Segment)) {
    let mapping = opened.cache.mapping.get().unwrap_or_else(|| panic!("a payload without Cache::attach"));
    for piece in opened.pieces(range) {
        let segment = mapping.segment(piece);
        each(segment.unwrap_or_else(|| unreachable!("the whole arena is mapped, and pieces are short")));
    }
}

/// Holds every page of a run, or none.
#[inline]
fn hold_pages(opened: &Opened, pages: Range<u64>) -> Result<()> {
    let arena = &opened.cache.core.arena;
    let mut at = pages.start;
    while at < pages.end {
        let found = opened.file.table.get(at).map(|page| (page, arena.word(page).hold()));
        if let Some((_, Ok(()))) = found {
            at += 1;
            continue;
        }
        let refused = found.and_then(|(page, held)| Some((page, held.err()?)));
        match hold_slowly(opened, at..pages.end, refused) {
            Ok(held) => at += held,
            Err(error) => {
                release_pages(opened, pages.start..at);
                return Err(error);
            }
        }
    }
    Ok(())
}

#[inline]
fn release_pages(opened: &Opened, pages: Range<u64>) {
    for page in pages {
        // A held page stays in the table.
        if let Some(page) = opened.file.table.get(page) {
            opened.cache.core.release(page);
        }
    }
}

/// Does what stands in the way of holding the first page of `pages`; the number of pages that are held by that (0: try
/// again). Keeps nothing locked or half done while it waits, so holders and the guard can not wait for each other.
#[cold]
fn hold_slowly(opened: &Opened, pages: Range<u64>, refused: Option<(u32, Refusal)>) -> Result<u64> {
    let core = &opened.cache.core;
    let (page, phase) = match refused {
        None => return opened.fill(pages.start).map(|_| 0),
        Some((_, Refusal::TooMany)) => {
            let offset = pages.start << core.arena.page_shift();
            return Err(Error::TooManyHolds { path: opened.file.path.clone(), offset });
        }
        Some((page, Refusal::Phase { phase, opening })) => {
            if opening {
                core.tell_guard(page);
            }
            (page, phase)
        }
    };
    match phase {
        Phase::Empty | Phase::Filling | Phase::Error => opened.fill(pages.start).map(|_| 0),
        Phase::Open => close(opened, pages),
        Phase::Protected | Phase::Opening | Phase::Closing => {
            let moving = || matches!(core.arena.word(page).phase(), Phase::Opening | Phase::Closing);
            core.arena.parking.wait_while(page, moving);
            Ok(0)
        }
    }
}

/// Closes and holds the open pages that `pages` begins with: one ioctl for all of them.
fn close(opened: &Opened, pages: Range<u64>) -> Result<u64> {
    let core = &opened.cache.core;
    let claim = |page: &u32| core.arena.word(*page).begin_close();
    let closing: Vec<u32> = pages.clone().map_while(|page| opened.file.table.get(page).filter(claim)).collect();
    if closing.is_empty() {
        return Ok(0);
    }
    let count_of = closing.len() as u64;
    // Locked over the ioctl: the mapping stays where it is. Without a view there is nothing to protect.
    let view = opened.file.view.read().unwrap_or_else(PoisonError::into_inner);
    let answer = view.as_ref().map_or(Ok(()), |slot| slot.map.protect(&core.uffd, pages.start, count_of));
    drop(view);
    for &page in &closing {
        match &answer {
            Ok(()) => core.arena.word(page).closed_and_held(),
            Err(_) if core.arena.word(page).not_closed() => core.tell_guard(page),
            Err(_) => {}
        }
        core.arena.parking.wake(page, 1);
    }
    answer.map_err(|source| Error::View {
        path: opened.file.path.clone(),
        what: "UFFDIO_WRITEPROTECT",
        bytes: closing.len() << core.arena.page_shift(),
        source,
        hint: "",
    })?;
    count(&core.counters.closes, count_of);
    count(&core.counters.close_calls, 1);
    Ok(count_of)
}
