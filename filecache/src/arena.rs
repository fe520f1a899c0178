//! The memory that caches file pages: one region, mapped once for the device, and half a state word a page.
//!
//! The region is mapped writable in this process for filling. That mapping is the *arena's own*; views are others, with
//! protection of their own. Who may touch a page through the arena's mapping follows from its phase:
//!
//! - *Filling*: the one thread that claimed it may write ([`Claim`]);
//! - *Taken*: the one thread that took it may write ([`Arena::zero_taken`]);
//! - *Protected* and held: anybody who holds it may read ([`Arena::held`]); nobody writes;
//! - otherwise: bytes may only be copied out as they are at the moment ([`Arena::copy`]).
#![allow(unsafe_code)]

use crate::sync::{Mutex, MutexGuard};
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use stillwire_dma::copy::copy_out;
use stillwire_dma::{Backing, HugePages, SharedMemory};

use crate::buddy::{Buddy, HIGHEST_ORDER};
use crate::core::Core;
use crate::disk::Buffer;
use crate::group::{self, GroupWord};
use crate::kernel;
use crate::page::{At, PageWord, PairWord};
use crate::parking::Parking;
use crate::{Error, Result};

/// Memory, page words and free blocks.
#[derive(Debug)]
pub(crate) struct Arena {
    memory: SharedMemory,
    page_shift: u32,
    highest_order: u8,
    pages: u32,
    /// One more page than there are, if that is an odd number: nobody has it.
    words: Box<[PairWord]>,
    /// Of whole groups only.
    groups: Box<[GroupWord]>,
    buddy: Mutex<Buddy>,
    /// Where threads wait for a page's phase to change.
    pub(crate) parking: Parking,
}

impl Arena {
    /// `bytes` of memory in folios of at most `max_folio` bytes (but at least a page).
    pub(crate) fn new(name: &str, bytes: usize, huge: bool, max_folio: usize) -> Result<Self> {
        let huge = if huge { HugePages::IfFree } else { HugePages::Never };
        if bytes == 0 {
            return Err(Error::BadSize { bytes });
        }
        let memory = SharedMemory::new(name, bytes, huge)?;
        // A hold keeps its folios whole, and may need the next one beside them: none is more than a quarter of the memory.
        let most = max_folio.min(memory.len() / 4);
        Self::over(memory, most)
    }

    /// An arena in `memory`.
    pub(crate) fn over(memory: SharedMemory, max_folio: usize) -> Result<Self> {
        let page_shift = memory.page_size().trailing_zeros();
        // One less than can be counted: page tables keep the number plus one.
        let pages = u32::try_from(memory.len() >> page_shift).ok().filter(|&pages| pages < u32::MAX);
        let pages = pages.ok_or(Error::BadSize { bytes: memory.len() })?;
        let most = (max_folio >> page_shift).max(1).min(pages as usize);
        Ok(Self {
            page_shift,
            highest_order: (most.ilog2() as u8).min(HIGHEST_ORDER),
            pages,
            words: (0..pages.div_ceil(2)).map(|_| PairWord::new()).collect(),
            groups: (0..pages / group::PAGES).map(|_| GroupWord::new()).collect(),
            buddy: Mutex::new(Buddy::new(pages)),
            parking: Parking::new(),
            memory,
        })
    }

    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Length, pages.
    #[inline]
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Bytes in a page.
    #[inline]
    pub(crate) fn page_size(&self) -> usize {
        1 << self.page_shift
    }

    /// Page size as a shift.
    #[inline]
    pub(crate) fn page_shift(&self) -> u32 {
        self.page_shift
    }

    /// Order of the largest folio.
    pub(crate) fn highest_order(&self) -> u8 {
        self.highest_order
    }

    /// Has the kernel back the memory by huge pages, before it is used; why it can not, if so.
    pub(crate) fn prepare(&self) -> std::io::Result<()> {
        // hugetlb has them.
        let small = matches!(self.memory.backing(), Backing::Shmem { .. });
        let starts = (0..if small { self.memory.len() } else { 0 }).step_by(STRETCH);
        starts.into_iter().try_for_each(|start| {
            let len = STRETCH.min(self.memory.len() - start);
            kernel::collapse(self.memory.fd(), start as u64, len)
        })
    }

    /// State of an arena page.
    #[inline]
    pub(crate) fn word(&self, page: u32) -> PageWord<'_> {
        self.pair(page).of(page)
    }

    /// Number of holds of an arena page at this moment: its own, and those of its group.
    pub(crate) fn holds(&self, page: u32) -> u32 {
        let by_group = self.group(page).and_then(GroupWord::holds);
        with_group(self.word(page).holds(), by_group)
    }

    /// The same, and nobody goes on meanwhile.
    #[cfg(simulation)]
    pub(crate) fn holds_now(&self, page: u32) -> u32 {
        let by_group = self.group(page).and_then(GroupWord::peek);
        with_group(self.word(page).peek().holds(), by_group)
    }

    /// State of an arena page and its neighbour.
    #[inline]
    pub(crate) fn pair(&self, page: u32) -> &PairWord {
        &self.words[page as usize / 2]
    }

    /// The group of an arena page, if it has one.
    #[inline]
    pub(crate) fn group(&self, page: u32) -> Option<&GroupWord> {
        self.groups.get((page / group::PAGES) as usize)
    }

    /// Whether a writer waits for a page of the group from `first` on, or one is in no file.
    pub(crate) fn is_wanted(&self, first: u32) -> bool {
        (first..first + group::PAGES).step_by(2).any(|page| self.pair(page).is_wanted())
    }

    /// Where the state of an arena page is.
    #[inline]
    pub(crate) fn at(&self, page: u32) -> At {
        At::of(&self.words, page)
    }

    /// The arena page whose state is there; a number beyond all pages if none is.
    #[inline]
    pub(crate) fn page_of(&self, at: At) -> u32 {
        at.page_of(&self.words)
    }

    /// Free and allocated blocks.
    pub(crate) fn buddy(&self) -> MutexGuard<'_, Buddy> {
        self.buddy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of held pages.
    ///
    /// # Safety
    /// The caller holds every page of `range` (bytes of the arena) for as long as the slice lives.
    pub(crate) unsafe fn held(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.memory.len(), "{range:?} is not in the arena");
        // SAFETY: inside the mapping (checked), which `self` keeps alive. No store reaches the bytes while the slice
        // lives: the caller's holds keep the pages `Protected`, so
        // - no view lets a store through (a page leaves `Protected` for `Opening` only at a hold count of zero, and
        //   views are unprotected only in `Opening`);
        // - no thread writes through the arena's own mapping (that takes a `Claim`, which needs `Empty` or `Error`, or a
        //   page that is `Taken`);
        // - the device can not write: only a read-only mapping is accepted by `Cache::attach`.
        // All bytes are initialised: a page becomes `Protected` only after a fill has written all of it.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(range.start), range.len()) }
    }

    /// Copies the whole page `from`, which the caller holds, to `to`, which is not in use yet.
    ///
    /// # Safety
    /// The caller holds `from` and owns the block `to`, in phase `Empty`.
    pub(crate) unsafe fn copy_page(&self, from: u32, to: u32) {
        assert!(from != to && from < self.pages() && to < self.pages(), "pages {from} and {to} of {}", self.pages());
        let at = |page: u32| self.memory.as_ptr().wrapping_add((page as usize) << self.page_shift);
        // SAFETY: two different whole pages of the mapping (checked). Nobody writes `from`, which is held, and nobody else
        // touches `to`, which the caller owns.
        unsafe { std::ptr::copy_nonoverlapping(at(from), at(to), self.page_size()) };
    }

    /// Zeros `range` (bytes of the arena) of `page`.
    ///
    /// # Panics
    /// When the page is not taken, or the range not in it.
    pub(crate) fn zero_taken(&self, page: u32, range: Range<usize>) {
        let start = (page as usize) << self.page_shift;
        assert!(start <= range.start && range.start <= range.end && range.end <= start + self.page_size(), "{range:?}");
        assert_eq!(self.word(page).phase(), crate::page::Phase::Taken, "page {page}");
        // SAFETY: inside a page of the mapping (checked). It is `Taken`, which is entered from `Protected` without holds: so
        // no view lets a store through, nobody has a slice of it, and of the threads only the one that took it comes here.
        unsafe { self.memory.as_ptr().add(range.start).write_bytes(0, range.len()) };
    }

    /// Copies bytes that may change meanwhile out of the arena.
    pub(crate) fn copy(&self, range: Range<usize>, to: &mut [u8]) {
        assert!(range.end <= self.memory.len() && range.len() == to.len(), "{range:?} is not in the arena");
        // SAFETY: inside the mapping (checked), which lives as long as `self`. Bytes that the kernel, a view or a device
        // changes meanwhile are read by atomic words. (Only a simulated disk makes a `&mut` of a page while it fills it.)
        unsafe { copy_out(self.memory.as_ptr().add(range.start), to) };
    }
}

/// Holds of a page whose word counts `own` and whose group stands with so many, if it does: the group itself is no holder.
fn with_group(own: u32, by_group: Option<u32>) -> u32 {
    match by_group {
        // Read one after the other: they need not be of the same moment.
        Some(holds) => own.saturating_sub(1) + holds,
        None => own,
    }
}

/// Pages that this value's owner alone may write, until they are filled. What is not filled when it goes becomes
/// [`Phase::Error`](crate::page::Phase::Error).
pub(crate) struct Claim {
    core: Arc<Core>,
    first: u32,
    pages: u32,
}

impl Claim {
    /// Claims the longest run of pages from `first`, at most `most`, that can be filled now; `None` when not even the
    /// first can.
    pub(crate) fn new(core: &Arc<Core>, first: u32, most: u32) -> Option<Self> {
        let pages = (first..first + most).take_while(|&page| core.arena.word(page).begin_fill()).count() as u32;
        (pages > 0).then(|| Self { core: core.clone(), first, pages })
    }

    /// Number of pages that are still to be filled.
    #[inline]
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// The bytes of those pages, for a reader of the disk. The claim must be kept until the reader has ended.
    pub(crate) fn buffer(&mut self) -> Buffer {
        let (start, len) = self.range();
        // SAFETY: inside the mapping, for `begin_fill` succeeded on the words of these pages, and the core keeps the
        // mapping. Nobody else reads or writes them while the claim lives: `begin_fill` made them `Filling` and succeeds
        // for one caller only, holders read only `Protected` pages, and a view shows only pages that have been filled.
        // `FileCore::submit`, the one caller, moves the claim into the request's end.
        unsafe { Buffer::new(self.core.arena.memory.as_ptr().add(start), len) }
    }

    /// Zeros from byte `from` of those pages to their end.
    pub(crate) fn zero_from(&mut self, from: usize) {
        let (start, len) = self.range();
        assert!(from <= len, "byte {from} of a claim of {len}");
        // SAFETY: inside the mapping and nobody else's, as in `buffer`; the reader has ended, as the claim is here.
        unsafe { self.core.arena.memory.as_ptr().add(start + from).write_bytes(0, len - from) };
    }

    /// The first `pages` pages are filled: they may be held from now on.
    pub(crate) fn filled(&mut self, pages: u32) {
        assert!(pages <= self.pages, "more pages filled than claimed");
        (self.first..self.first + pages).for_each(|page| {
            self.core.digests.clear(page);
            self.core.arena.word(page).filled();
        });
        self.core.arena.parking.wake(self.first, pages);
        self.first += pages;
        self.pages -= pages;
    }

    /// First byte in the arena and number of bytes.
    fn range(&self) -> (usize, usize) {
        let shift = self.core.arena.page_shift;
        ((self.first as usize) << shift, (self.pages as usize) << shift)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        (self.first..self.first + self.pages).for_each(|page| self.core.arena.word(page).not_filled());
        self.core.arena.parking.wake(self.first, self.pages);
    }
}

/// So much memory is prepared at a time, bytes.
const STRETCH: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_folio_fits_the_arena_and_the_wish() {
        let order =
            |pages: usize, max_folio| Arena::new("test", pages * 4096, false, max_folio).unwrap().highest_order();
        assert_eq!((order(2048, 2 << 20), order(1024, 64 << 10), order(1024, 0)), (9, 4, 0));
        assert_eq!((order(1024, 2 << 20), order(10, 2 << 20), order(1, 2 << 20)), (8, 1, 0), "a quarter");
    }
}
