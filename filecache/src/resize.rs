//! Taking pages out of a file although they may be dirty or held: truncation, and what somebody else has changed.

use crate::sync::atomic::Ordering;
use std::sync::Arc;

use crate::core::{Core, Mail, lock};
use crate::file::FileCore;
use crate::folio::Folio;
use crate::frames::Frames;
use crate::holding::close;
use crate::mapping::ViewMap;
use crate::page::{Phase, Refusal, Released};
use crate::stats::count;
use crate::{Error, Result};

impl FileCore {
    /// Changes the file's length, here and on the disk.
    pub(crate) fn set_len(self: &Arc<Self>, core: &Arc<Core>, len: u64) -> Result<()> {
        if !self.storage.writable() {
            return Err(Error::ReadOnly { path: self.path().to_path_buf() });
        }
        self.fits(len)?;
        let (io, before) = loop {
            let io = lock(&self.io);
            // Before the stamp changes by this, or what somebody else did would be taken for our own doing.
            self.look_outside(core, &io)?;
            let before = self.len();
            if len <= before || self.zero_the_end(core, before) {
                break (io, before);
            }
            // Without the lock: others write back meanwhile.
            drop(io);
            crate::sync::thread::sleep(PAUSE);
        };
        // Before the disk's, so that no page is read that the file has no more; and not before the end is zeros.
        self.has_len(before.min(len));
        if let Err(source) = self.storage.set_len(len) {
            self.has_len(before);
            return Err(Error::File { path: self.path().to_path_buf(), what: "ftruncate", source });
        }
        self.has_len(len);
        self.resized.store(true, Ordering::Relaxed);
        if len < before {
            let kept = self.pages();
            self.drop_pages(core, |page, _| page >= kept);
        } else {
            self.unpoison(core, before >> core.arena.page_shift());
        }
        self.note_stamp(&io);
        Ok(())
    }

    /// What is touched beyond the end fails for good; from page `from` on it may be touched again.
    pub(crate) fn unpoison(&self, core: &Core, from: u64) {
        if core.counters.poisoned.load(Ordering::Relaxed) > 0 {
            let _layout = lock(&self.layout);
            for view in self.views() {
                // A view that can not be refreshed keeps failing there, which is no worse than before.
                let _: std::io::Result<()> = view.refresh(from);
            }
        }
    }

    /// Makes the end of the last page, behind the file's `len`, zeros: a writer may have stored there, and it is about to
    /// become a part of the file. `false`: the page has stores that are only here, and is held; try again later. The caller
    /// has the file's `io` locked.
    pub(crate) fn zero_the_end(self: &Arc<Self>, core: &Arc<Core>, len: u64) -> bool {
        let (shift, page_size) = (core.arena.page_shift(), core.arena.page_size() as u64);
        let page = len >> shift;
        let used = (len & (page_size - 1)) as usize;
        if used == 0 {
            return true;
        }
        // If it is clean it is read in again, with zeros there. Its holders keep what they have.
        self.drop_pages(core, |other, dirty| other == page && !dirty);
        if self.table.get(page).is_some_and(|frame| core.arena.word(frame).phase() == Phase::Open) {
            // Closed by holding it; if that fails, the next attempt does it.
            let held = crate::holding::hold_pages(core, self, page..page + 1);
            held.into_iter().for_each(|frames| frames.each(|frame| core.release(frame)));
        }
        let _layout = lock(&self.layout);
        let Some(frame) = self.table.get(page) else { return true };
        let word = core.arena.word(frame);
        // Never read in: what will be has zeros there.
        if matches!(word.phase(), Phase::Error) {
            return true;
        }
        core.part(frame);
        if !word.take_dirty() {
            return false;
        }
        let start = (frame as usize) << shift;
        core.arena.zero_taken(frame, start + used..start + page_size as usize);
        core.digests.clear(frame);
        if word.put_back() {
            core.tell_guard(Mail::Opening(frame));
        }
        core.arena.parking.wake(frame, 1);
        true
    }

    /// Takes pages out of the file: those of which `gone(page, dirty)`. What is held stays as it is until it is released,
    /// and then is free. Whether a dirty page was left. The caller has the file's `io` locked.
    pub(crate) fn drop_pages(self: &Arc<Self>, core: &Arc<Core>, gone: impl Fn(u64, bool) -> bool) -> bool {
        let mut left = false;
        for folio in core.residents.of_file(self) {
            let pages = folio.first..folio.first + u64::from(folio.pages());
            if pages.clone().any(|page| gone(page, false) || gone(page, true)) {
                left |= self.drop_of_folio(core, &folio, &gone);
            }
        }
        left
    }

    fn drop_of_folio(self: &Arc<Self>, core: &Arc<Core>, folio: &Folio, gone: &impl Fn(u64, bool) -> bool) -> bool {
        let _layout = lock(&self.layout);
        if !core.residents.remove(folio) {
            return false;
        }
        let mut left = false;
        let pages = folio.first..folio.first + u64::from(folio.pages());
        // First held, so that no store comes between the decision and its execution.
        let held: Vec<bool> =
            folio.frames().zip(pages.clone()).map(|(frame, page)| self.pin(core, frame, page)).collect();
        // A process that attached and does not answer keeps what it has mapped, and nobody gets these pages.
        let stuck: Vec<_> = self.views().into_iter().filter(|view| view.unlay(&pages).is_err()).collect();
        if !stuck.is_empty() {
            count(&core.counters.stuck, u64::from(folio.pages()));
            tracing::warn!(
                file = %self.path().display(), pages = folio.pages(),
                "a process that attached does not answer; what it has mapped is kept for it"
            );
        }
        core.arena.buddy().split(folio.frame);
        for ((page, frame), held) in pages.zip(folio.frames()).zip(held) {
            let word = core.arena.word(frame);
            let dirty = word.is_dirty();
            if gone(page, dirty) {
                for view in stuck.iter().filter(|view| held && view.is_laid(page)) {
                    // It is held already, so this one counts too, whoever waits; if nobody can be counted, when somebody goes.
                    while word.hold() == Err(Refusal::TooMany) {
                        crate::sync::thread::sleep(PAUSE);
                    }
                    view.keep(frame);
                }
                self.drop_page(core, page, frame, held);
                continue;
            }
            left |= dirty;
            core.residents.insert(Folio { file: self.clone(), first: page, frame, order: 0 });
            if held {
                core.release(frame);
            } else {
                give_back(core, frame);
            }
        }
        core.arena.parking.wake(folio.frame, folio.pages());
        left
    }

    /// Holds a page for the one purpose of taking it out of its file. `false`: it could not be read, and is taken instead.
    /// The caller has the layout locked, so that the page stays where it is.
    fn pin(self: &Arc<Self>, core: &Arc<Core>, frame: u32, page: u64) -> bool {
        let word = core.arena.word(frame);
        loop {
            let phase = match word.hold() {
                Ok(_) | Err(Refusal::WriterWaits) => return true,
                Err(Refusal::TooMany) => Phase::Closing,
                Err(Refusal::Phase { phase, released }) => {
                    core.released(frame, released);
                    phase
                }
            };
            match phase {
                Phase::Error if word.take() => return false,
                Phase::Open => {
                    let mut closed = Frames::default();
                    // When protecting fails, the next turn tries again.
                    if close(core, self, page..page + 1, &mut closed).is_ok() && closed.len() == 1 {
                        return true;
                    }
                }
                _ => {
                    let moving = |phase| !(phase == Phase::Protected || phase == Phase::Open || phase == Phase::Error);
                    core.arena.parking.wait_while(frame, || moving(word.phase()));
                }
            }
        }
    }

    /// Takes a pinned page out of the file.
    fn drop_page(&self, core: &Core, page: u64, frame: u32, held: bool) {
        // First: who has found the page in the table before holds it in vain, and looks again.
        core.end_copy(self, page, frame, None);
        if lock(&self.dirty).remove(&page) {
            core.dirt.less(1);
        }
        count(&core.counters.dropped, 1);
        // Told before the page can cache something else.
        core.tell_guard(Mail::Retry(frame));
        let word = core.arena.word(frame);
        if held {
            let released = word.detach();
            if released == Released::Free {
                core.digests.clear(frame);
            }
            core.released(frame, released);
            // After: nobody forms a group of it any more.
            core.part(frame);
        } else {
            let _nobody_waits_for_what_no_view_shows = word.emptied();
            core.arena.buddy().free(frame);
        }
    }
}

impl Core {
    /// Gives back what was kept of pages that `view` does not show any more.
    pub(crate) fn let_go(&self, view: &ViewMap) {
        for frame in view.no_longer_kept() {
            self.digests.clear(frame);
            self.tell_guard(Mail::Retry(frame));
            self.release(frame);
        }
    }
}

fn give_back(core: &Core, frame: u32) {
    if core.arena.word(frame).put_back() {
        core.tell_guard(Mail::Opening(frame));
    }
}

/// Between two looks at a page that is held.
const PAUSE: std::time::Duration = std::time::Duration::from_micros(100);
