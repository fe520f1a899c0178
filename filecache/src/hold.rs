//! Holds: stable references to byte ranges of a file.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use stillwire_dma::{Payload, Segment};

use crate::core::{Core, Mail};
use crate::file::{FileCore, Opened};
use crate::frames::Frames;
use crate::page::{Phase, Refusal, Touch};
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
    /// The pages are named here, not looked up again: while a writer waits for one, the file's newer holds get a copy.
    frames: Frames,
}

impl Hold {
    #[inline]
    pub(crate) fn new(opened: &Arc<Opened>, range: Range<u64>) -> Result<Self> {
        let range = opened.file.check(range)?;
        let core = &opened.cache.core;
        let frames = hold_pages(core, &opened.file, opened.file.pages_of(&range))?;
        core.counters.holds.add_one();
        Ok(Self { opened: opened.clone(), offset: range.start, len: (range.end - range.start) as usize, frames })
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
        let core = &self.opened.cache.core;
        let shift = core.arena.page_shift();
        let range = self.in_frames(range);
        let mut crc = 0;
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(((at >> shift) + 1) << shift);
            let frame = self.frames.at((at >> shift) as u32);
            crc = if end - at == 1 << shift {
                core.combine.append_page(crc, self.digest(frame))
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

    /// CRC-32 of a whole held page.
    fn digest(&self, frame: u32) -> u32 {
        let core = &self.opened.cache.core;
        core.digests.get(frame).unwrap_or_else(|| {
            let (start, len) = ((frame as usize) << core.arena.page_shift(), core.arena.page_size());
            // SAFETY: as in `held`: the page is held.
            let crc = crc32fast::hash(unsafe { core.arena.held(start..start + len) });
            core.digests.set(frame, crc);
            crc
        })
    }

    /// Pieces of `range`, bytes from the hold's start.
    fn held(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        let arena = &self.opened.cache.core.arena;
        let pieces = self.frames.pieces(self.in_frames(range), arena.page_shift());
        // SAFETY: the slices borrow `self`, and `self` holds every page that it covers until it is dropped.
        pieces.map(|piece| unsafe { arena.held(piece) })
    }

    /// `range` (bytes from the hold's start) as bytes from the start of its first page.
    fn in_frames(&self, range: Range<usize>) -> Range<u64> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a hold of {} bytes", self.len);
        let skipped = self.offset & (self.opened.cache.core.arena.page_size() as u64 - 1);
        skipped + range.start as u64..skipped + range.end as u64
    }
}

impl Payload for Hold {
    fn len(&self) -> usize {
        self.len
    }

    /// # Panics
    /// Also when the cache has no DMA mapping ([`Cache::attach`](crate::Cache::attach)).
    fn segments(&self, range: Range<usize>, each: &mut dyn FnMut(Segment)) {
        segments(&self.opened, &self.frames, self.in_frames(range), each);
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        let core = &self.opened.cache.core;
        self.frames.each(|frame| core.release(frame));
    }
}

/// Gives `each` the device's names for `range`, bytes from the start of the first of `frames`.
pub(crate) fn segments(opened: &Opened, frames: &Frames, range: Range<u64>, each: &mut dyn FnMut(Segment)) {
    let mapping = opened.cache.mapping.get().unwrap_or_else(|| panic!("a payload without Cache::attach"));
    for piece in frames.pieces(range, opened.cache.core.arena.page_shift()) {
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
    let start = pages.start;
    loop {
        let at = start + u64::from(frames.len());
        if at >= pages.end {
            return Ok(frames);
        }
        let Some(frame) = file.table.get(at) else {
            hold_slowly(core, file, at..pages.end, None, &mut frames)?;
            continue;
        };
        match core.arena.word(frame).hold() {
            // Looked up again: it may have left the file between the look and the hold.
            Ok(touch) if file.table.get(at) == Some(frame) => {
                frames.push(frame);
                if touch == Touch::First {
                    file.first_touch(core, at);
                }
            }
            other => hold_slowly(core, file, at..pages.end, Some((frame, other)), &mut frames)?,
        }
    }
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
        file.prefetch(core, pages.start..end);
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
