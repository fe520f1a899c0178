//! Holds: stable references to byte ranges of a file.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError};

use stillwire_dma::{Payload, Segment};

use crate::core::{Core, Mail};
use crate::file::{FileCore, Opened};
use crate::frames::Frames;
use crate::page::{Left, Phase, Refusal, Touch};
use crate::stats::count;
use crate::{Error, Result};

/// A byte range of a file that nobody can change for as long as this value lives.
///
/// It owns what it needs: the memory and a mapping for a device stay until the last hold is dropped. Send it to another
/// thread, move it into a transmit queue; dropping it releases every page once.
pub struct Hold {
    /// `None` when it has no pages.
    core: Option<Kept>,
    offset: u64,
    len: usize,
    /// The pages are named here, not looked up again: while a writer waits for one, the file's newer holds get a copy.
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

impl Hold {
    #[inline]
    pub(crate) fn new(opened: &Arc<Opened>, range: Range<u64>) -> Result<Self> {
        let (core, file) = (&opened.cache.core, &*opened.file);
        if range.start < range.end && range.end <= file.len() {
            let pages = file.pages_of(&range);
            // One page that is there and that nobody writes: what most holds of a frame are.
            if pages.end - pages.start == 1
                && let Some(entry) = file.table.entries(pages.start).first()
                && let Some(frame) = entry.get()
            {
                let answer = core.arena.word(frame).hold();
                if answer == Ok(Touch::Again) && entry.get() == Some(frame) {
                    return Ok(Self::of(core, range, Frames::one(frame)));
                }
                return Self::of_any(opened, range, Some((frame, answer)));
            }
        }
        Self::of_any(opened, range, None)
    }

    /// The same for any range and pages in any state. `found`: the first page has been looked up and counted in already, and
    /// this was the answer.
    fn of_any(opened: &Arc<Opened>, range: Range<u64>, found: Option<(u32, Answer)>) -> Result<Self> {
        let core = &opened.cache.core;
        let pages = opened.file.pages_of(&range);
        let mut frames = Frames::default();
        match found {
            Some(_) => hold_slowly(core, &opened.file, pages.clone(), found, &mut frames)?,
            None => opened.file.check(range.clone()).map(|_| ())?,
        }
        hold_more(core, &opened.file, pages, &mut frames)?;
        // Checked again: the file may have been cut off before a page was read.
        match opened.file.check(range) {
            Ok(range) => Ok(Self::of(core, range, frames)),
            Err(error) => {
                frames.each(|frame| core.release(frame));
                Err(error)
            }
        }
    }

    /// The hold of `range`, whose pages `frames` are held.
    #[inline(always)]
    fn of(core: &Arc<Core>, range: Range<u64>, frames: Frames) -> Self {
        core.counters.holds.add_one();
        let kept = NonNull::new(Arc::as_ptr(core).cast_mut()).filter(|_| frames.len() > 0).map(Kept);
        Self { core: kept, offset: range.start, len: (range.end - range.start) as usize, frames }
    }

    /// The core; `None` when the hold has no pages.
    #[inline]
    fn core(&self) -> Option<&Core> {
        // SAFETY: made from an `Arc<Core>`'s content in `new`, which lives for as long as a page of it is held (`Core::end`),
        // and this value holds one until it is dropped.
        self.core.map(|core| unsafe { core.0.as_ref() })
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
        self.held(0..self.len)
    }

    /// CRC-32 (IEEE) of the held bytes.
    pub fn crc32(&self) -> u32 {
        self.crc32_range(0..self.len)
    }

    /// CRC-32 (IEEE) of a part of the held bytes; `range` counts from the hold's start. The digest of a whole page is
    /// kept until somebody writes to the page.
    ///
    /// # Panics
    /// When `range` reaches past [`len`](Self::len).
    pub fn crc32_range(&self, range: Range<usize>) -> u32 {
        let range = self.in_frames(range);
        let Some(core) = self.core() else { return 0 };
        let shift = core.arena.page_shift();
        let mut crc = 0;
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(((at >> shift) + 1) << shift);
            let frame = self.frames.at((at >> shift) as u32);
            crc = if end - at == 1 << shift {
                core.combine.append_page(crc, digest(core, frame))
            } else {
                let start = ((frame as usize) << shift) + (at & ((1 << shift) - 1)) as usize;
                // SAFETY: as in `held`: the page is held.
                let bytes = unsafe { core.arena.held(start..start + (end - at) as usize) };
                let mut hasher = crc32fast::Hasher::new_with_initial(crc);
                hasher.update(bytes);
                hasher.finalize()
            };
            at = end;
        }
        crc
    }

    /// Pieces of `range`, bytes from the hold's start.
    fn held(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        let range = self.in_frames(range);
        self.core().into_iter().flat_map(move |core| {
            let pieces = self.frames.pieces(range.clone(), core.arena.page_shift());
            // SAFETY: the slices borrow `self`, and `self` holds every page that it covers until it is dropped.
            pieces.map(|piece| unsafe { core.arena.held(piece) })
        })
    }

    /// `range` (bytes from the hold's start) as bytes from the start of its first page.
    fn in_frames(&self, range: Range<usize>) -> Range<u64> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a hold of {} bytes", self.len);
        let skipped = self.core().map_or(0, |core| self.offset & (core.arena.page_size() as u64 - 1));
        skipped + range.start as u64..skipped + range.end as u64
    }
}

impl Payload for Hold {
    fn len(&self) -> usize {
        self.len
    }

    /// # Panics
    /// Also when the cache has no DMA mapping ([`Cache::attach`](crate::Cache::attach)).
    fn segments(&self, range: Range<usize>, each: impl FnMut(Segment)) {
        let range = self.in_frames(range);
        if let Some(core) = self.core() {
            segments(core, &self.frames, range, each);
        }
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        if let Some(core) = self.core {
            // SAFETY: each page is held by this value, and released here, once; the core is there as long as one is.
            self.frames.each(|frame| unsafe { release(core, frame) });
        }
    }
}

/// Ends a hold of `frame`, after which the core may be gone.
///
/// # Safety
/// The caller holds the page, and does so no more.
#[inline]
unsafe fn release(core: Kept, frame: u32) {
    // SAFETY: the page is held up to here, so the core is there. Its last use is the operation that releases the page.
    match unsafe { core.0.as_ref() }.arena.word(frame).let_go() {
        Left::Nothing => {}
        // SAFETY: it is what this release has left.
        left => unsafe { finish(core, frame, left) },
    }
}

/// Does what releasing `frame` has left.
///
/// # Safety
/// The caller has released the page, and `left` is what that has left.
#[cold]
unsafe fn finish(core: Kept, frame: u32, left: Left) {
    match left {
        Left::Nothing => {}
        // A core that has come to the same address may have such a page too. To settle that is right at any time.
        Left::Unsettled => {
            if let Some(core) = Core::find(core.0.as_ptr())
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
pub(crate) fn segments(core: &Core, frames: &Frames, range: Range<u64>, mut each: impl FnMut(Segment)) {
    let mapping = core.mapping.get().unwrap_or_else(|| panic!("a payload without Cache::attach"));
    for piece in frames.pieces(range, core.arena.page_shift()) {
        let segment = mapping.segment(piece);
        each(segment.unwrap_or_else(|| unreachable!("the whole arena is mapped, and pieces are short")));
    }
}

/// What a page's word said.
type Answer = std::result::Result<Touch, Refusal>;

/// Holds every page of a run of file pages, or none.
#[inline]
pub(crate) fn hold_pages(core: &Arc<Core>, file: &Arc<FileCore>, pages: Range<u64>) -> Result<Frames> {
    let mut frames = Frames::default();
    hold_more(core, file, pages, &mut frames)?;
    Ok(frames)
}

/// Holds the pages of `pages` that `frames` has not yet; none when it fails.
#[inline]
fn hold_more(core: &Arc<Core>, file: &Arc<FileCore>, pages: Range<u64>, frames: &mut Frames) -> Result<()> {
    let mut at = pages.start + u64::from(frames.len());
    while at < pages.end {
        // What the first page that is not simply held was found to be.
        let mut found = None;
        for entry in file.table.entries(at).iter().take((pages.end - at) as usize) {
            let Some(frame) = entry.get() else { break };
            match core.arena.word(frame).hold() {
                // Looked up again: it may have left the file between the look and the hold.
                Ok(touch) if entry.get() == Some(frame) => {
                    frames.push(frame);
                    if touch == Touch::First {
                        file.first_touch(core, at);
                    }
                    at += 1;
                }
                answer => {
                    found = Some((frame, answer));
                    break;
                }
            }
        }
        if at < pages.end {
            hold_slowly(core, file, at..pages.end, found, frames)?;
            at = pages.start + u64::from(frames.len());
        }
    }
    Ok(())
}

/// Does what stands in the way of holding the first page of `pages`, and adds what is held by that to `frames`; releases
/// all of `frames` when it fails. Keeps nothing locked or half done while it waits, so holders and the guard can not wait
/// for each other.
#[cold]
fn hold_slowly(
    core: &Arc<Core>,
    file: &Arc<FileCore>,
    pages: Range<u64>,
    found: Option<(u32, Answer)>,
    frames: &mut Frames,
) -> Result<()> {
    let done = match found {
        None => fill(core, file, &pages),
        Some((frame, answer)) => step(core, file, pages, frame, answer, frames),
    };
    if done.is_err() {
        std::mem::take(frames).each(|frame| core.release(frame));
    }
    done
}

/// Reads the first page of `pages` in, and asks for the others meanwhile.
fn fill(core: &Arc<Core>, file: &Arc<FileCore>, pages: &Range<u64>) -> Result<()> {
    let most = (AT_ONCE >> core.arena.page_shift()).max(1).min(u64::from(core.arena.pages()) / 8);
    let end = pages.end.min(pages.start.saturating_add(most));
    if end - pages.start > 1 {
        file.prefetch(core, pages.start..end, pages.start);
    }
    file.fill(core, pages.start).map(drop)
}

/// One step towards holding the first page of `pages`, of which the look-up and the word said `frame` and `answer`.
fn step(
    core: &Arc<Core>,
    file: &Arc<FileCore>,
    pages: Range<u64>,
    frame: u32,
    answer: Answer,
    frames: &mut Frames,
) -> Result<()> {
    let word = core.arena.word(frame);
    let phase = match answer {
        Ok(_) | Err(Refusal::WriterWaits) => {
            // Counted in, but it has left the file; or it has a writer that must not wait for this hold too.
            let stays = file.table.get(pages.start) == Some(frame);
            if stays && answer == Ok(Touch::First) {
                file.first_touch(core, pages.start);
            }
            if stays && (answer.is_ok() || !core.copy_for_holders(file, pages.start, frame)) {
                frames.push(frame);
            } else {
                core.release(frame);
            }
            return Ok(());
        }
        Err(Refusal::TooMany) => {
            let offset = pages.start << core.arena.page_shift();
            return Err(Error::TooManyHolds { path: file.path().to_path_buf(), offset });
        }
        Err(Refusal::Phase { phase, released }) => {
            core.released(frame, released);
            phase
        }
    };
    match phase {
        Phase::Empty | Phase::Filling | Phase::Error => file.fill(core, pages.start).map(drop),
        Phase::Open => close(core, file, pages, frames),
        Phase::Protected | Phase::Opening | Phase::Closing | Phase::Taken => {
            let moving = || matches!(word.phase(), Phase::Opening | Phase::Closing | Phase::Taken);
            core.arena.parking.wait_while(frame, moving);
            Ok(())
        }
    }
}

/// Closes and holds the open pages that `pages` begins with: one ioctl for all of them.
pub(crate) fn close(core: &Core, file: &FileCore, pages: Range<u64>, frames: &mut Frames) -> Result<()> {
    let claim = |page: u64| {
        let frame = file.table.get(page).filter(|&frame| core.arena.word(frame).begin_close())?;
        if file.table.get(page) == Some(frame) {
            return Some(frame);
        }
        // It has left the file, and is open in another.
        not_closed(core, frame);
        None
    };
    let closing: Vec<u32> = pages.clone().map_while(claim).collect();
    if closing.is_empty() {
        return Ok(());
    }
    let count_of = closing.len() as u64;
    // Locked over the ioctls: the mappings stay where they are. Without a view there is nothing to protect.
    let views = file.views.read().unwrap_or_else(PoisonError::into_inner);
    let run = pages.start..pages.start + count_of;
    let answer = views.iter().try_fold(0, |calls, view| Ok(calls + view.protect(&run)?));
    drop(views);
    for &frame in &closing {
        match &answer {
            Ok(_) => {
                core.arena.word(frame).closed_and_held();
                frames.push(frame);
                core.arena.parking.wake(frame, 1);
            }
            Err(_) => not_closed(core, frame),
        }
    }
    let calls = answer.map_err(|source| Error::View {
        path: file.path().to_path_buf(),
        what: "UFFDIO_WRITEPROTECT",
        bytes: closing.len() << core.arena.page_shift(),
        source,
        hint: "",
    })?;
    count(&core.counters.closes, if calls > 0 { count_of } else { 0 });
    count(&core.counters.close_calls, calls);
    Ok(())
}

fn not_closed(core: &Core, frame: u32) {
    if core.arena.word(frame).not_closed() {
        core.tell_guard(Mail::Opening(frame));
    }
    core.arena.parking.wake(frame, 1);
}

/// Bytes of one hold that are read at the same time.
const AT_ONCE: u64 = 16 << 20;
