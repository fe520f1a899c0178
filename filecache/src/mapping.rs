//! What a view shows: which folios are laid over its address space, and who does that in the view's process.
//!
//! How it is done without a moment in which a store goes through unheard is in `kernel/address_space.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use crate::core::lock;
use crate::file::FileCore;
use crate::kernel::{Heard, Uffd};
use crate::sync::{Mutex, RwLock, RwLockReadGuard};

/// A view's mapping, in this process or in another.
pub(crate) struct ViewMap {
    pub(crate) file: Arc<FileCore>,
    pub(crate) uffd: Arc<Uffd>,
    /// First address, in the view's process.
    pub(crate) base: usize,
    /// Address space, pages.
    pub(crate) capacity: u64,
    page_shift: u32,
    seat: Box<dyn Seat>,
    /// What is laid: by first page of the view, length in pages and first arena page.
    laid: RwLock<BTreeMap<u64, (u64, u32)>>,
    calls: Mutex<Calls>,
    /// Whether the mapping is still there. The guard keeps it for reading while it unprotects.
    live: RwLock<bool>,
    /// Holds of arena pages that have left the file and that the view may still show.
    kept: Mutex<Vec<u32>>,
}

/// Calls under way ([`ViewMap::call`]), and what they may have met.
#[derive(Default)]
struct Calls {
    under_way: usize,
    /// Pages that were given to calls in place of what could not be had, and are there.
    scratch: BTreeSet<u64>,
    /// Every page that was, while a call is under way.
    given: Vec<u64>,
}

/// A call that touches a view and looks afterwards whether all of it was there.
pub(crate) struct Call<'a> {
    map: &'a ViewMap,
    /// Pages that had been given before it began.
    before: usize,
}

impl Call<'_> {
    /// Whether a page of `pages`, which the call has touched, may have been no page of the file. What there is of such pages
    /// is taken away.
    pub(crate) fn missed(&self, pages: Range<u64>) -> bool {
        if lock(&self.map.calls).given.len() == self.before {
            return false;
        }
        let _layout = lock(&self.map.file.layout);
        let mut calls = lock(&self.map.calls);
        let scratch = std::mem::take(&mut calls.scratch);
        // Also what is the file's again by now: another call may have seen to that, after this one's store.
        let missed = calls.given[self.before..].iter().any(|index| pages.contains(index));
        drop(calls);
        for index in scratch.into_iter().filter(|index| !self.map.is_laid(*index)) {
            let (at, len) = self.map.bytes(&(index..index + 1));
            // What can not be taken away is met again by the next call.
            let _: io::Result<()> = self.map.seat.unlay(at, len);
        }
        missed || pages.into_iter().any(|index| !self.map.is_laid(index))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut calls = lock(&self.map.calls);
        calls.under_way -= 1;
        if calls.under_way == 0 {
            calls.given.clear();
        }
    }
}

/// Who changes the mappings of a view's process.
pub(crate) trait Seat: Send + Sync {
    /// Lays `len` bytes of the arena from `offset` over the view, `at` bytes from its start.
    fn lay(&self, at: usize, offset: u64, len: usize) -> io::Result<()>;
    /// Takes them away again.
    fn unlay(&self, at: usize, len: usize) -> io::Result<()>;
    /// The view ends.
    fn unmap(&self);
    /// Whether it is another process that does so. It may do it later than it is waited for (an error of kind `TimedOut`),
    /// and it may not be as it should.
    fn is_foreign(&self) -> bool {
        false
    }
    /// Whether that process has done all that it was asked for. While it has not, it is asked for nothing more.
    fn answers(&self) -> bool {
        true
    }
}

impl ViewMap {
    /// A view of which nothing is laid.
    pub(crate) fn new(
        file: Arc<FileCore>,
        uffd: Arc<Uffd>,
        base: usize,
        capacity: u64,
        page_shift: u32,
        seat: Box<dyn Seat>,
    ) -> Self {
        Self {
            file,
            uffd,
            base,
            capacity,
            page_shift,
            seat,
            laid: RwLock::default(),
            calls: Mutex::default(),
            live: RwLock::new(true),
            kept: Mutex::default(),
        }
    }

    /// Page of the view at `address`; `None` outside of it.
    pub(crate) fn index_of(&self, address: usize) -> Option<u64> {
        let index = (address.checked_sub(self.base)? >> self.page_shift) as u64;
        (index < self.capacity).then_some(index)
    }

    /// What `decide` makes of the arena page that is laid at `index`, which can not leave its file meanwhile.
    pub(crate) fn with_laid<T>(&self, index: u64, decide: impl FnOnce(u32) -> T) -> Option<T> {
        let laid = self.laid.read().unwrap_or_else(PoisonError::into_inner);
        let (first, (pages, frame)) = laid.range(..=index).next_back()?;
        (index < first + pages).then(|| decide(frame + (index - first) as u32))
    }

    /// Whether the page at `index` is laid.
    pub(crate) fn is_laid(&self, index: u64) -> bool {
        self.with_laid(index, |_| ()).is_some()
    }

    /// Lays `pages` over the view, which the arena pages from `frame` cache. The caller has the file's layout locked, and
    /// none of it is laid.
    pub(crate) fn lay(&self, pages: Range<u64>, frame: u32) -> io::Result<()> {
        let (at, len) = self.bytes(&pages);
        let (offset, run) = (u64::from(frame) << self.page_shift, (pages.end - pages.start, frame));
        if self.seat.is_foreign() {
            // Known before: from when it is asked for until it is said to have failed, it may be there.
            self.write_laid().insert(pages.start, run);
            let answer = self.seat.lay(at, offset, len);
            if answer.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::TimedOut) {
                self.write_laid().remove(&pages.start);
            }
            return answer;
        }
        self.seat.lay(at, offset, len)?;
        // Known after it is there, as only what is there can be protected. A fault that comes before this finds nothing laid
        // and tries again.
        self.write_laid().insert(pages.start, run);
        Ok(())
    }

    /// Takes away whatever is laid of `pages`, in the runs in which it was laid. The caller has the file's layout locked and
    /// the pages taken or held. A store that comes after finds the place missing.
    pub(crate) fn unlay(&self, pages: &Range<u64>) -> io::Result<()> {
        for run in self.laid_of(pages) {
            let (at, len) = self.bytes(&run);
            self.seat.unlay(at, len)?;
            self.write_laid().remove(&run.start);
        }
        Ok(())
    }

    /// Keeps stores out of what is laid of `pages`; the number of calls. The caller keeps the file's views locked and the
    /// pages `Closing`, so they stay laid.
    pub(crate) fn protect(&self, pages: &Range<u64>) -> io::Result<u64> {
        let mut calls = 0;
        let mut runs = self.laid_of(pages).into_iter().peekable();
        while let Some(mut run) = runs.next() {
            while let Some(next) = runs.next_if(|next| next.start == run.end) {
                run.end = next.end;
            }
            let part = run.start.max(pages.start)..run.end.min(pages.end);
            calls += self.protect_run(&part)?;
        }
        Ok(calls)
    }

    fn protect_run(&self, pages: &Range<u64>) -> io::Result<u64> {
        let (at, len) = self.bytes(pages);
        let error = match self.uffd.protect(self.base + at, len) {
            Ok(()) => return Ok(1),
            Err(error) => error,
        };
        match error.raw_os_error() {
            // The process has ended, and nobody stores any more.
            Some(libc::ESRCH) => Ok(1),
            // A part of it is not laid: not yet, and then it will be protected; or not any more, and then nobody stores.
            // The kernel has stopped at that part.
            Some(libc::ENOENT) if self.seat.is_foreign() && pages.end - pages.start > 1 => {
                let single = |page| self.protect_run(&(page..page + 1));
                pages.clone().try_fold(0, |calls, page| Ok(calls + single(page)?))
            }
            Some(libc::ENOENT) if self.seat.is_foreign() => Ok(1),
            _ => Err(error),
        }
    }

    /// Whether the view's process does what it is asked for.
    pub(crate) fn answers(&self) -> bool {
        self.seat.answers()
    }

    /// Whether something of `pages` is laid that can not be taken away now.
    pub(crate) fn is_stuck(&self, pages: &Range<u64>) -> bool {
        !self.answers() && !self.laid_of(pages).is_empty()
    }

    /// What is laid from byte `at` of the view is known not to be so any more.
    pub(crate) fn is_unlaid(&self, at: usize) {
        self.write_laid().remove(&((at >> self.page_shift) as u64));
    }

    /// Keeps a hold of `frame`, which leaves the file while the view may still show it.
    pub(crate) fn keep(&self, frame: u32) {
        lock(&self.kept).push(frame);
    }

    /// The runs of which holds are kept.
    pub(crate) fn kept_runs(&self) -> Vec<Range<u64>> {
        let laid = self.laid.read().unwrap_or_else(PoisonError::into_inner);
        let kept = lock(&self.kept);
        let is_kept = |pages: u64, frame: u32| kept.iter().any(|kept| (frame..frame + pages as u32).contains(kept));
        let runs = laid.iter().filter(|(_, (pages, frame))| is_kept(*pages, *frame));
        runs.map(|(first, (pages, _))| *first..first + pages).collect()
    }

    /// The holds that were kept of what the view does not show any more.
    pub(crate) fn no_longer_kept(&self) -> Vec<u32> {
        let laid = self.laid.read().unwrap_or_else(PoisonError::into_inner);
        let shown = |kept: u32| laid.values().any(|(pages, frame)| (*frame..frame + *pages as u32).contains(&kept));
        lock(&self.kept).extract_if(.., |kept| !shown(*kept)).collect()
    }

    /// Keeps the mapping there for as long as the answer lives; `None` when it has gone.
    pub(crate) fn live(&self) -> Option<RwLockReadGuard<'_, bool>> {
        Some(self.live.read().unwrap_or_else(PoisonError::into_inner)).filter(|live| **live)
    }

    /// Lets stores into one page and wakes who waits there. The guard alone calls this, with the page `Opening`; `heard` is
    /// what it heard meanwhile of this view's process.
    pub(crate) fn unprotect(&self, index: u64, heard: &mut Vec<Heard>) {
        if let Some(_live) = self.live() {
            let (at, len) = (self.address(index), 1 << self.page_shift);
            if self.uffd.unprotect(at, len, heard).is_err() {
                // The page is not laid any more, and the writer must try again. (Or its process has ended.)
                let _: io::Result<()> = self.uffd.wake(at, len);
            }
        }
    }

    /// Lets whoever waits at a page try again.
    pub(crate) fn wake(&self, index: u64) {
        if let Some(_live) = self.live() {
            let _: io::Result<()> = self.uffd.wake(self.address(index), 1 << self.page_shift);
        }
    }

    /// Lets whoever waits anywhere in the view try again.
    pub(crate) fn wake_all(&self) {
        if let Some(_live) = self.live() {
            let _: io::Result<()> = self.uffd.wake(self.base, (self.capacity as usize) << self.page_shift);
        }
    }

    /// Lets whoever waits at a page, which can not be had, go on: with SIGBUS, as for a mapped file of which a page can not be
    /// read; or, while somebody is in a call that looks afterwards ([`call`](Self::call)), on zeros that are nobody's. The
    /// caller has the file's layout locked.
    pub(crate) fn refuse(&self, index: u64) {
        let Some(_live) = self.live() else { return };
        let (at, len) = (self.address(index), 1 << self.page_shift);
        if self.is_laid(index) {
            return;
        }
        let mut calls = lock(&self.calls);
        // Under the lock: a call that begins after finds the poison before it stores, and lays the page.
        if calls.under_way == 0 && self.uffd.poison(at, len).is_ok() {
            return;
        }
        // Noted first: who stores into it must find the note.
        calls.scratch.insert(index);
        calls.given.push(index);
        drop(calls);
        let _: io::Result<()> = self.uffd.zero(at, len);
    }

    /// Begins a call during which a page that can not be had is no SIGBUS; [`Call::missed`] tells at its end.
    pub(crate) fn call(&self) -> Call<'_> {
        let mut calls = lock(&self.calls);
        calls.under_way += 1;
        Call { map: self, before: calls.given.len() }
    }

    /// Replaces all that is not laid from page `from` on by fresh reserve, so that what was poisoned there can be touched
    /// again. The caller has the file's layout locked.
    pub(crate) fn refresh(&self, from: u64) -> io::Result<()> {
        let from = from.min(self.capacity);
        let laid_to = self.laid_of(&(from..self.capacity)).last().map_or(from, |run| run.end);
        let (at, len) = self.bytes(&(laid_to..self.capacity));
        if len > 0 { self.seat.unlay(at, len) } else { Ok(()) }
    }

    /// Ends the mapping. The caller has the file's layout locked, and its views for writing, so no page is being closed.
    pub(crate) fn unmap(&self) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *live, false) {
            self.seat.unmap();
            self.write_laid().clear();
        }
    }

    fn laid_of(&self, pages: &Range<u64>) -> Vec<Range<u64>> {
        let laid = self.laid.read().unwrap_or_else(PoisonError::into_inner);
        let before = laid.range(..pages.start).next_back().filter(|(first, (len, _))| **first + len > pages.start);
        let runs = before.into_iter().chain(laid.range(pages.start..pages.end.max(pages.start)));
        runs.map(|(first, (len, _))| *first..first + len).collect()
    }

    fn write_laid(&self) -> crate::sync::RwLockWriteGuard<'_, BTreeMap<u64, (u64, u32)>> {
        self.laid.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self, index: u64) -> usize {
        self.base + ((index as usize) << self.page_shift)
    }

    /// Bytes from the view's start, and length.
    fn bytes(&self, pages: &Range<u64>) -> (usize, usize) {
        ((pages.start as usize) << self.page_shift, ((pages.end - pages.start) as usize) << self.page_shift)
    }
}
