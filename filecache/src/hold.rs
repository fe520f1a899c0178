//! Holds: stable references to byte ranges of a file.
#![allow(unsafe_code)]

use std::num::NonZeroU32;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use stillwire_dma::{Payload, Segment, seeded};

use crate::Result;
use crate::core::Core;
use crate::file::Opened;
use crate::frames::{Frames, Runs};
use crate::group::{self, Pages};
use crate::holding::{Begun, form_group, hold_group, hold_pages, hold_rest, hold_run, is_run};
use crate::page::{At, Left, Touch};
use crate::stats::count;
use crate::table::Entry;

/// A byte range of a file that nobody can change for as long as this value lives.
///
/// It owns what it needs: the memory and a mapping for a device stay until the last hold is dropped. Send it to another
/// thread, move it into a transmit queue; dropping it releases every page once.
pub struct Hold {
    /// Where in the file it begins, bytes.
    offset: u64,
    held: Held,
}

/// The pages of a hold. They are named here, not looked up again: while a writer waits for one, the file's newer holds get a
/// copy.
enum Held {
    /// Neighbours in the arena. A hold is moved with every frame, so this is as short as it can be, and knows the words
    /// that a release changes. `pages`: how many, or [`BY_GROUP`].
    Run { core: Kept, first: At, pages: NonZeroU32, len: u32 },
    /// All others: several runs, more than a run can say, none.
    Runs(Box<Scattered>),
}

struct Scattered {
    /// `None` when there are no pages.
    core: Option<Kept>,
    len: usize,
    frames: Frames,
}

/// The core of a cache of which a page is held. That hold is what keeps it, so that a hold costs no count of its own: when
/// a cache ends, the core waits for the last release of each held page ([`Core::end`]).
#[derive(Clone, Copy)]
struct Kept(NonNull<Core>);

// SAFETY: a `&Core` may go to any thread (`Core` is `Sync`), and this is no more than one.
unsafe impl Send for Kept {}
// SAFETY: as above.
unsafe impl Sync for Kept {}
// SAFETY: as above, for a `&PairWord`.
unsafe impl Send for At {}
// SAFETY: as above.
unsafe impl Sync for At {}

impl Hold {
    // Always: as a call, this would take a third longer, as the hold goes through memory on its way back.
    #[inline(always)]
    pub(crate) fn new(opened: &Arc<Opened>, range: Range<u64>) -> Result<Self> {
        let (core, file) = (&opened.cache.core, &*opened.file);
        if range.start < range.end && range.end <= file.len() {
            let pages = file.pages_of(&range);
            let entries = file.table.entries(pages.start);
            // One page: what most holds of a frame are.
            if pages.end - pages.start == 1
                && let Some(entry) = entries.first()
                && let Some(frame) = entry.get()
            {
                let answer = core.arena.word(frame).hold();
                if answer == Ok(Touch::Again) && (entry.get() == Some(frame) || seeded!(NoSecondLook)) {
                    core.counters.hits.add_one();
                    // A page has less than 4 GiB.
                    return Ok(Self::of_run(core, range.start, (frame, 1), (range.end - range.start) as u32));
                }
                return Self::of_any(opened, range, Some(Begun { first: frame, held: 0, answer: Some(answer) }));
            }
            return Self::of_neighbours(opened, range, entries);
        }
        Self::of_any(opened, range, None)
    }

    /// The same for pages that are neighbours here as in the file. `entries`: the first page's and those that follow.
    fn of_neighbours(opened: &Arc<Opened>, range: Range<u64>, entries: &[Entry]) -> Result<Self> {
        let core = &opened.cache.core;
        let pages = opened.file.pages_of(&range);
        let count = (pages.end - pages.start) as usize;
        let Some(entries) = entries.get(..count) else { return Self::of_any(opened, range, None) };
        if let Some(frame) = entries.first().and_then(Entry::get)
            && let Ok(len) = u32::try_from(range.end - range.start)
        {
            let is_group = count == group::PAGES as usize && frame.is_multiple_of(group::PAGES);
            if is_group && hold_group(core, entries, frame) {
                core.counters.hits.add_one();
                return Ok(Self::of_run(core, range.start, (frame, BY_GROUP), len));
            }
            let begun = hold_run(core, entries, frame);
            if begun.held as usize == count && (is_run(entries, frame) || seeded!(NoSecondLook)) {
                core.counters.hits.add_one();
                let pages = if is_group && form_group(core, frame) { BY_GROUP } else { begun.held };
                return Ok(Self::of_run(core, range.start, (frame, pages), len));
            }
            return Self::of_any(opened, range, Some(begun));
        }
        Self::of_any(opened, range, None)
    }

    /// The same for any range and pages in any state. `begun`: what [`hold_run`] has held, and found.
    #[cold]
    fn of_any(opened: &Arc<Opened>, range: Range<u64>, begun: Option<Begun>) -> Result<Self> {
        let (core, file) = (&opened.cache.core, &opened.file);
        let frames = match begun {
            Some(begun) => hold_rest(core, file, file.pages_of(&range), begun)?,
            None => hold_pages(core, file, file.pages_of(&file.check(range.clone())?))?,
        };
        // Checked again: the file may have been cut off before a page was read.
        match file.check(range) {
            Ok(range) => Ok(Self::of(core, range, frames)),
            Err(error) => {
                frames.each(|frame| core.release(frame));
                Err(error)
            }
        }
    }

    /// The hold of `len` bytes from byte `offset`. The held run: its first arena page and number of pages, at least one, or
    /// [`BY_GROUP`].
    #[inline(always)]
    fn of_run(core: &Arc<Core>, offset: u64, (frame, pages): (u32, u32), len: u32) -> Self {
        let pages = NonZeroU32::new(pages).unwrap_or_else(|| unreachable!("a run has pages"));
        Self { offset, held: Held::Run { core: Kept::of(core), first: core.arena.at(frame), pages, len } }
    }

    /// The hold of `range`, whose pages `frames` are held.
    fn of(core: &Arc<Core>, range: Range<u64>, frames: Frames) -> Self {
        let len = range.end - range.start;
        if frames.were_read() {
            count(&core.counters.holds_missed, 1);
        } else {
            core.counters.hits.add_one();
        }
        if let (Some(run), Ok(len)) = (frames.as_run(), u32::try_from(len)) {
            return Self::of_run(core, range.start, run, len);
        }
        let core = (frames.len() > 0).then(|| Kept::of(core));
        Self { offset: range.start, held: Held::Runs(Box::new(Scattered { core, len: len as usize, frames })) }
    }

    /// The core and the arena pages; `None` when the hold has no pages.
    #[inline]
    fn pages(&self) -> Option<(&Core, Runs<'_>)> {
        match &self.held {
            Held::Run { core, first, pages, .. } => {
                // SAFETY: made from an `Arc<Core>`'s content, which lives for as long as a page of it is held (`Core::end`),
                // and this value holds one until it is dropped.
                let core = unsafe { core.0.as_ref() };
                let pages = if pages.get() == BY_GROUP { group::PAGES } else { pages.get() };
                Some((core, Runs::run(core.arena.page_of(*first), pages)))
            }
            Held::Runs(held) => {
                // SAFETY: as above.
                let core = unsafe { held.core?.0.as_ref() };
                Some((core, held.frames.runs()))
            }
        }
    }

    /// Length, bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.held {
            Held::Run { len, .. } => *len as usize,
            Held::Runs(held) => held.len,
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where in the file it begins, bytes.
    pub fn file_offset(&self) -> u64 {
        self.offset
    }

    /// The held bytes, in order, as the pieces that are contiguous in memory.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.slices(0..self.len())
    }

    /// The same for a part of them; `range` counts from the hold's start.
    ///
    /// # Panics
    /// When `range` reaches past [`len`](Self::len).
    pub fn slices(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.part(range).into_iter().flat_map(|(core, range, runs)| {
            let pieces = runs.pieces(range, core.arena.page_shift());
            // SAFETY: the slices borrow `self`, and `self` holds every page that it covers until it is dropped.
            pieces.map(|piece| unsafe { core.arena.held(piece) })
        })
    }

    /// Copies held bytes out, from byte `at` of the hold on.
    ///
    /// # Panics
    /// When the range reaches past [`len`](Self::len).
    pub fn read_at(&self, at: usize, bytes: &mut [u8]) {
        let mut rest = bytes;
        for piece in self.slices(at..at.saturating_add(rest.len())) {
            let (part, more) = rest.split_at_mut(piece.len());
            part.copy_from_slice(piece);
            rest = more;
        }
    }

    /// CRC-32 (IEEE) of the held bytes.
    pub fn crc32(&self) -> u32 {
        self.crc32_range(0..self.len())
    }

    /// CRC-32 (IEEE) of a part of the held bytes; `range` counts from the hold's start. The digest of a whole page is
    /// kept until somebody writes to the page.
    ///
    /// # Panics
    /// When `range` reaches past [`len`](Self::len).
    pub fn crc32_range(&self, range: Range<usize>) -> u32 {
        let Some((core, range, runs)) = self.part(range) else { return 0 };
        let shift = core.arena.page_shift();
        let mut crc = 0;
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(((at >> shift) + 1) << shift);
            let frame = runs.at((at >> shift) as u32);
            crc = if end - at == 1 << shift {
                core.combine.append_page(crc, digest(core, frame))
            } else {
                let start = ((frame as usize) << shift) + (at & ((1 << shift) - 1)) as usize;
                // SAFETY: as in `slices`: the page is held.
                let bytes = unsafe { core.arena.held(start..start + (end - at) as usize) };
                let mut hasher = crc32fast::Hasher::new_with_initial(crc);
                hasher.update(bytes);
                hasher.finalize()
            };
            at = end;
        }
        crc
    }

    /// The core, and `range` (bytes from the hold's start) as bytes from the start of the first of the arena's pages, and
    /// these. `None` when the hold has no pages.
    #[inline]
    fn part(&self, range: Range<usize>) -> Option<(&Core, Range<u64>, Runs<'_>)> {
        let len = self.len();
        assert!(range.start <= range.end && range.end <= len, "{range:?} of a hold of {len} bytes");
        let (core, runs) = self.pages()?;
        let skipped = self.offset & (core.arena.page_size() as u64 - 1);
        Some((core, skipped + range.start as u64..skipped + range.end as u64, runs))
    }
}

impl Payload for Hold {
    #[inline]
    fn len(&self) -> usize {
        self.len()
    }

    /// # Panics
    /// Also when the cache has no DMA mapping ([`Cache::attach`](crate::Cache::attach)).
    #[inline]
    fn segments(&self, range: Range<usize>, each: impl FnMut(Segment)) {
        if let Some((core, range, runs)) = self.part(range) {
            segments(core, runs, range, each);
        }
    }

    #[inline]
    fn segment(&self, range: Range<usize>) -> Option<Segment> {
        let Held::Run { core, first, len, .. } = &self.held else { return None };
        assert!(range.start <= range.end && range.end <= *len as usize, "{range:?} of a hold of {len} bytes");
        // SAFETY: as in `pages`.
        let arena = unsafe { &core.0.as_ref().arena };
        let page = (arena.page_of(*first) as usize) << arena.page_shift();
        let begin = page + (self.offset as usize & (arena.page_size() - 1));
        // SAFETY: as above.
        unsafe { core.0.as_ref() }.mapping.get()?.segment(begin + range.start..begin + range.end)
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        if seeded!(DoubleRelease)
            && let Some((core, runs)) = self.pages()
        {
            core.release(runs.at(0));
        }
        match &self.held {
            Held::Run { core, first, pages, .. } => {
                // SAFETY: each page of the run is held by this value, or its group is; released here, once.
                unsafe {
                    match pages.get() {
                        1 => release(*core, *first),
                        BY_GROUP => release_group(*core, *first),
                        pages => release_run(*core, *first, pages),
                    }
                }
            }
            Held::Runs(held) => held.release(),
        }
    }
}

impl Scattered {
    #[cold]
    fn release(&self) {
        let Some(core) = self.core else { return };
        self.frames.each(|frame| {
            // SAFETY: this page is still held, so the core is there, and is released here, once.
            unsafe { release(core, core.0.as_ref().arena.at(frame)) };
        });
    }
}

impl Kept {
    #[inline]
    fn of(core: &Arc<Core>) -> Self {
        // SAFETY: what is in an `Arc` is not at 0. (Not made of a reference: a share is made of it in `finish`.)
        Self(unsafe { NonNull::new_unchecked(Arc::as_ptr(core).cast_mut()) })
    }
}

/// Ends a hold of the group from `first` on, after which the core may be gone.
///
/// # Safety
/// The caller holds this group of this core, and does so no more.
#[inline]
unsafe fn release_group(core: Kept, first: At) {
    // SAFETY: the group is held up to here, so it holds its pages, and these keep the core. The last use of the word is the
    // operation that releases the group.
    let arena = unsafe { &core.0.as_ref().arena };
    let group = arena.group(arena.page_of(first)).unwrap_or_else(|| unreachable!("a group is held"));
    if group.let_go() == Pages::Yours {
        // SAFETY: the pages' holds, which keep the core further, are this function's now.
        unsafe { release_run(core, first, group::PAGES) };
    }
}

/// Ends a hold of each of `pages` pages from `at` on, after which the core may be gone.
///
/// # Safety
/// The caller holds the pages of this core, and does so no more.
// Never: one page, which is what most holds are of, shall not pay for the room that this needs.
#[inline(never)]
unsafe fn release_run(core: Kept, mut at: At, mut pages: u32) {
    // SAFETY: each page is released once, after those before it; so it is held up to there.
    unsafe {
        if at.is_upper() {
            release(core, at);
            (at, pages) = (at.after(1), pages - 1);
        }
        while pages >= 2 {
            release_pair(core, at);
            (at, pages) = (at.after(2), pages - 2);
        }
        if pages == 1 {
            release(core, at);
        }
    }
}

/// Ends a hold of a page, after which the core may be gone.
///
/// # Safety
/// The caller holds the page of this core, and does so no more.
#[inline]
unsafe fn release(core: Kept, page: At) {
    // SAFETY: the page is held up to here, so its word is there. Its last use is the operation that releases the page.
    match unsafe { &*page.pair() }.of(page.is_upper().into()).let_go() {
        Left::Nothing => {}
        // SAFETY: it is what this release has left.
        left => unsafe { finish(core, page, left) },
    }
}

/// The same for a pair of pages, of which `lower` is the lower one.
///
/// # Safety
/// The caller holds both pages of this core, and does so no more.
#[inline]
unsafe fn release_pair(core: Kept, lower: At) {
    // SAFETY: both pages are held up to here, so their word is there. Its last use is the operation that releases both.
    if let Some([left, of_upper]) = unsafe { &*lower.pair() }.let_go() {
        // SAFETY: it is what this release has left, of one page after the other. What `finish` needs of the core for the upper
        // page is not lost in what it does for the lower one: if `Core::end` has counted the upper page, the core waits for
        // that too, and otherwise it is looked for.
        unsafe {
            finish(core, lower, left);
            finish(core, lower.after(1), of_upper);
        }
    }
}

/// Does what releasing a page has left.
///
/// # Safety
/// The caller has released this page of this core, and `left` is what that has left.
#[cold]
unsafe fn finish(core: Kept, page: At, left: Left) {
    match left {
        Left::Nothing => {}
        // A core that has come to the same address may have a page there too. To settle that is right at any time.
        Left::Unsettled => {
            if let Some(core) = Core::find(core.0.as_ptr())
                && let frame = core.arena.page_of(page)
                && frame < core.arena.pages()
            {
                core.released(frame, core.arena.word(frame).settle());
            }
        }
        Left::Ended => {
            // SAFETY: `Core::end` has counted this page, and keeps a share of the core until `last` has been called for it. So
            // the core is there, the content of an `Arc` (`Hold::of`), and a share of it can be taken for the call.
            let core = unsafe {
                Arc::increment_strong_count(core.0.as_ptr());
                Arc::from_raw(core.0.as_ptr())
            };
            core.last();
        }
    }
}

/// CRC-32 of a whole held page.
fn digest(core: &Core, frame: u32) -> u32 {
    core.digests.get(frame).unwrap_or_else(|| {
        let (start, len) = ((frame as usize) << core.arena.page_shift(), core.arena.page_size());
        // SAFETY: the callers hold the page.
        let crc = crc32fast::hash(unsafe { core.arena.held(start..start + len) });
        core.digests.set(frame, crc);
        crc
    })
}

/// Gives `each` the device's names for `range`, bytes from the start of the first of `frames`.
#[inline]
pub(crate) fn segments(core: &Core, runs: Runs<'_>, range: Range<u64>, mut each: impl FnMut(Segment)) {
    let mapping = core.mapping.get().unwrap_or_else(|| panic!("a payload without Cache::attach"));
    let mut name = |piece| {
        let segment = mapping.segment(piece);
        each(segment.unwrap_or_else(|| unreachable!("the whole arena is mapped, and pieces are short")));
    };
    let shift = core.arena.page_shift();
    match runs.piece(&range, shift) {
        Some(piece) => name(piece),
        None => runs.pieces(range, shift).for_each(name),
    }
}

/// In the place of a number of pages: those of a group, which is held instead of them.
const BY_GROUP: u32 = u32::MAX;

// A transmit ring moves a hold with every frame.
const _: () = assert!(size_of::<Hold>() <= 32);
