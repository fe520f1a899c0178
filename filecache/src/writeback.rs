//! Write-back: what was stored goes to the disk.
//!
//! A dirty page is held while it is written, as it is while it is sent, and by the same code: so what is written is one
//! state of the page, and a store that comes meanwhile waits. It stays dirty until the disk has said that it is durable
//! (`fdatasync`), and if a store was let through after it was written, it is still dirty then.
#![allow(unsafe_code)]

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use crate::core::{Core, lock};
use crate::disk::{Buffer, Operation, Request};
use crate::file::{FileCore, Opened};
use crate::frames::Frames;
use crate::holding::hold_pages;
use crate::stats::count;
use crate::{Error, Result};

/// Failed write-backs of a file.
#[derive(Default)]
pub(crate) struct Failures {
    /// How many there were.
    pub(crate) count: u64,
    last: Option<(&'static str, i32)>,
}

impl Opened {
    /// Writes the stores in `range` (bytes) to the disk.
    pub(crate) fn sync(&self, range: Range<u64>) -> Result<()> {
        let file = &self.file;
        let pages = file.pages_of(&(range.start.min(range.end)..range.end));
        let answer = file.write_back(&self.cache.core, pages);
        if !matches!(answer, Ok(()) | Err(Error::WriteBack { .. })) {
            // What has failed before is told when this no longer stands in front of it.
            return answer;
        }
        let failures = lock(&file.failures);
        let told = self.told.swap(failures.count, Ordering::Relaxed);
        answer?;
        match failures.last {
            // It has been written by now; but whoever read the file on the disk in between has not seen it.
            Some((what, code)) if told < failures.count => Err(file.write_back_error(what, code)),
            _ => Ok(()),
        }
    }
}

impl FileCore {
    /// Writes the dirty ones of `pages` to the disk and waits until they are durable.
    pub(crate) fn write_back(self: &Arc<Self>, core: &Arc<Core>, pages: Range<u64>) -> Result<()> {
        let io = lock(&self.io);
        let dirty: Vec<u64> = lock(&self.dirty).range(pages).copied().collect();
        let resized = self.resized.load(Ordering::Relaxed);
        if dirty.is_empty() && !resized {
            // What is not dirty is durable already. But somebody may wait for an answer about a conflict.
            return self.conflict();
        }
        self.look_outside(core, &io)?;
        let batch = Arc::new(Batch::default());
        let held = self.write_all(core, &dirty, &batch);
        let mut failed = batch.wait_for(0);
        let written = std::mem::take(&mut *lock(&batch.written));
        if batch.wrote.load(Ordering::Relaxed) || resized {
            match self.flush() {
                Ok(()) => {
                    self.are_durable(core, &written);
                    // Set only by who has `io` locked, as this has.
                    self.resized.store(false, Ordering::Relaxed);
                }
                Err(error) => {
                    // What the disk was given may be lost: it has to be written again.
                    written.iter().for_each(|(_, frame)| core.arena.word(*frame).not_durable());
                    failed = failed.or(Some(("fdatasync", error)));
                }
            }
        }
        self.note_stamp(&io);
        drop(io);
        if let Some((what, error)) = failed {
            return Err(self.failed(core, what, &error));
        }
        held
    }

    /// Starts to write `dirty`, a run of neighbours at a time; not more at once than [`IN_FLIGHT`].
    fn write_all(self: &Arc<Self>, core: &Arc<Core>, dirty: &[u64], batch: &Arc<Batch>) -> Result<()> {
        let longest = (LONGEST >> core.arena.page_shift()).max(1);
        for neighbours in dirty.chunk_by(|a, b| a + 1 == *b) {
            for run in neighbours.chunks(longest) {
                let pages = run[0]..(run[run.len() - 1] + 1).min(self.pages());
                if pages.is_empty() {
                    continue;
                }
                // Somebody who reads the file in (as a page of the run was cut off, say) is none of ours to report.
                let frames = hold_pages(core, self, pages.clone())?;
                let len = ((pages.end - pages.start) << core.arena.page_shift()) as usize;
                batch.wait_for(IN_FLIGHT.saturating_sub(len));
                self.write_run(core, pages, frames, batch);
            }
        }
        Ok(())
    }

    /// Starts to write a held run.
    fn write_run(self: &Arc<Self>, core: &Arc<Core>, pages: Range<u64>, frames: Frames, batch: &Arc<Batch>) {
        let shift = core.arena.page_shift();
        let start = pages.start << shift;
        let len = (pages.end << shift).min(self.len()).saturating_sub(start);
        let pieces: Vec<_> = frames.runs().pieces(0..len, shift).collect();
        let held = Arc::new(HeldRun { core: core.clone(), frames });
        let mut offset = start;
        for piece in pieces {
            // SAFETY: held, so nobody writes it, until `held` goes, which the request's end has a share in.
            let buffer = unsafe { Buffer::new(core.arena.memory().as_ptr().add(piece.start), piece.len()) };
            let (held, first) = (held.clone(), offset >> shift);
            let batch = batch.started(piece.len());
            offset += piece.len() as u64;
            let done = move |answer: io::Result<usize>| {
                match answer {
                    Ok(_) => held.written(first, &piece, &batch.0),
                    Err(error) => batch.0.fail("writing", error),
                }
                // In this order: the pages are let go before the batch counts as done.
                drop(held);
                drop(batch);
            };
            self.storage.submit(Request::new(Operation::Write(buffer), first << shift, done));
        }
    }

    fn flush(&self) -> io::Result<()> {
        let batch = Arc::new(Batch::default());
        let part = batch.started(1);
        self.storage.submit(Request::new(Operation::Sync, 0, move |answer| {
            if let Err(error) = answer {
                part.0.fail("fdatasync", error);
            }
            drop(part);
        }));
        batch.wait_for(0).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// `written` pages are on the disk.
    fn are_durable(&self, core: &Core, written: &[(u64, u32)]) {
        // Locked, so that a store that comes now is noted after it was struck off here.
        let mut dirty = lock(&self.dirty);
        let clean = written.iter().filter(|(page, frame)| core.arena.word(*frame).durable() && dirty.remove(page));
        let clean = clean.count() as u64;
        drop(dirty);
        core.dirt.less(clean);
        count(&core.counters.written_back, clean);
    }

    /// A write-back has failed: every opening will be told.
    fn failed(&self, core: &Core, what: &'static str, error: &io::Error) -> Error {
        let code = error.raw_os_error().unwrap_or(libc::EIO);
        let mut failures = lock(&self.failures);
        failures.count += 1;
        failures.last = Some((what, code));
        let failures = failures.count;
        count(&core.counters.write_errors, 1);
        let error = self.write_back_error(what, code);
        tracing::error!(%error, failures, "a write-back has failed; what is stored stays in memory");
        error
    }

    fn write_back_error(&self, what: &'static str, code: i32) -> Error {
        let source = io::Error::from_raw_os_error(code);
        let hint = match code {
            libc::ENOSPC | libc::EDQUOT => "; make room on the disk and sync again",
            _ => "; the next sync tries again",
        };
        Error::WriteBack { path: self.path().to_path_buf(), what, source, hint }
    }

    /// The file is now as this cache left it.
    pub(crate) fn note_stamp(&self, _io: &MutexGuard<'_, ()>) {
        if let Ok(stamp) = self.storage.stamp() {
            lock(&self.outside).stamp = stamp;
        }
    }
}

/// A run of pages while they are written.
struct HeldRun {
    core: Arc<Core>,
    frames: Frames,
}

impl HeldRun {
    /// The pages of `piece` (bytes of the arena), the first of which is file page `first`, have been written.
    fn written(&self, first: u64, piece: &Range<usize>, batch: &Batch) {
        let core = &self.core;
        let shift = core.arena.page_shift();
        batch.wrote.store(true, Ordering::Relaxed);
        let frames = (piece.start >> shift) as u32..piece.end.div_ceil(1 << shift) as u32;
        let mut written = lock(&batch.written);
        for (page, frame) in (first..).zip(frames) {
            if core.arena.word(frame).is_for_holders() {
                written.extend(core.copy_written(frame).map(|original| (page, original)));
            } else {
                core.arena.word(frame).written();
                written.push((page, frame));
            }
        }
    }
}

impl Drop for HeldRun {
    fn drop(&mut self) {
        self.frames.each(|frame| self.core.release(frame));
    }
}

/// Writes that are under way together.
#[derive(Default)]
struct Batch {
    /// Bytes under way.
    pending: Mutex<usize>,
    bell: Condvar,
    failed: Mutex<Option<(&'static str, io::Error)>>,
    /// The disk was given something. Also when nothing of it counts as written, since stores have come after it: those
    /// before it are in what the disk was given, and there only.
    wrote: AtomicBool,
    /// File pages written, and their arena pages.
    written: Mutex<Vec<(u64, u32)>>,
}

/// So many bytes of a batch.
struct Part(Arc<Batch>, usize);

impl Batch {
    fn started(self: &Arc<Self>, bytes: usize) -> Part {
        *lock(&self.pending) += bytes;
        Part(self.clone(), bytes)
    }

    fn fail(&self, what: &'static str, error: io::Error) {
        lock(&self.failed).get_or_insert((what, error));
    }

    /// Waits until at most `pending` bytes are under way. The first failure, if that is none.
    fn wait_for(&self, pending: usize) -> Option<(&'static str, io::Error)> {
        let mut now = lock(&self.pending);
        while *now > pending {
            now = self.bell.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        if pending == 0 { lock(&self.failed).take() } else { None }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        *lock(&self.0.pending) -= self.1;
        self.0.bell.notify_all();
    }
}

/// Longest run that is held and written in one piece, bytes.
const LONGEST: usize = 1 << 20;
/// Bytes under way to the disk at once.
const IN_FLIGHT: usize = 16 << 20;
