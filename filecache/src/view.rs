//! Views: where writers write.
//!
//! A view is a linear mapping of a file. Its pages are the arena's pages, mapped a second time, and a userfaultfd hears of
//! every store into a page that is write-protected *in this mapping*; the arena's own mapping is not concerned. Nothing of
//! it is mapped until it is touched, so a view of a large file costs address space only (`mapping.rs`).
//!
//! In a process a file has one view mapping, shared by all [`View`] values of it; processes that attach have their own.
//! "Protected" is one ioctl for a run of pages and a mapping.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use crate::core::{Core, lock};
use crate::file::{FileCore, Opened};
use crate::kernel::{self, Reserve};
use crate::mapping::{Call, Seat, ViewMap};
use crate::{Error, Result};

/// A writable mapping of a file. Clones share it; the last one unmaps it.
///
/// A store into a page that is held waits until the last hold ends, and then lands. It gets no signal and no error. So
/// do not store into a view while keeping anything that a holder of the same bytes needs before it can release: that
/// would be a deadlock, as with any lock.
///
/// Stores by the kernel (`read(2)` into the view) wait too, where the userfaultfd could be had with full privilege (see
/// [`Cache::notices`](crate::Cache::notices)).
///
/// What it can not stop: stores through pages that were pinned before the hold (an `O_DIRECT` read into the view that is
/// under way, an io_uring fixed buffer, RDMA).
///
/// As with any mapped file, a touch through a raw pointer is a SIGBUS beyond the file's end, and where the file can not be
/// read; [`write_at`](Self::write_at) and [`read_at`](Self::read_at) say so with an error instead.
///
/// A child made by `fork` does not inherit the view.
#[derive(Clone)]
pub struct View(Arc<Token>);

impl View {
    /// First byte, page aligned. Bytes up to [`len`](Self::len) may be read and written by raw pointers and system calls for
    /// as long as the view lives. Others may be writing at the same time.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.map.base as *mut u8
    }

    /// Bytes of the file that the view can show: its length, or the [`capacity`](Self::capacity) if that is less.
    pub fn len(&self) -> usize {
        usize::try_from(self.0.opened.file.len()).unwrap_or(usize::MAX).min(self.capacity())
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Address space of the view, bytes: how far the file may grow and be seen here. For more, drop all views of the file and
    /// make a new one.
    pub fn capacity(&self) -> usize {
        (self.0.map.capacity as usize) << self.0.opened.cache.core.arena.page_shift()
    }

    /// Stores `bytes` at byte `offset` of the file. Waits while a page of that range is held. Stores of two threads to
    /// the same bytes may mix.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; when the file can not be read in, as [`CachedFile::hold`](crate::CachedFile::hold), and then
    /// what lies before that page is stored.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = self.check(offset, bytes.len())?;
        let call = self.0.map.call();
        for part in self.by_page(&range) {
            self.touch(part.start)?;
            let bytes = &bytes[(part.start - range.start) as usize..(part.end - range.start) as usize];
            // SAFETY: the part is inside the file (checked) and so inside the mapping, which is writable and lives as long
            // as `self`. References into the arena exist only to held pages, and the store waits for their holds to end.
            unsafe { kernel::store(&self.0.map.uffd, self.0.map.base + part.start as usize, bytes) };
        }
        self.end(&call, range)
    }

    /// Copies bytes out, as they are at the moment.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let range = self.check(offset, bytes.len())?;
        let call = self.0.map.call();
        for part in self.by_page(&range) {
            self.touch(part.start)?;
            let bytes = &mut bytes[(part.start - range.start) as usize..(part.end - range.start) as usize];
            // SAFETY: inside the file, so inside the mapping, which is readable and lives as long as `self`.
            unsafe { kernel::load(&self.0.map.uffd, self.0.map.base + part.start as usize, bytes) };
        }
        self.end(&call, range)
    }

    /// Whether all that a call has touched was the file's: while it waited for a hold, the file may have been cut off, or the
    /// page dropped and not be read again.
    fn end(&self, call: &Call<'_>, range: Range<u64>) -> Result<()> {
        let file = &self.0.opened.file;
        if !call.missed(file.pages_of(&range)) {
            return Ok(());
        }
        file.check(range)?;
        let source = io::Error::from_raw_os_error(libc::EIO);
        Err(Error::File { path: file.path().to_path_buf(), what: "reading a page again that was dropped", source })
    }

    /// `len` bytes from `offset`, if the view shows them.
    fn check(&self, offset: u64, len: usize) -> Result<Range<u64>> {
        let opened = &self.0.opened;
        let range = opened.file.check(offset..offset.saturating_add(len as u64))?;
        if range.end > self.capacity() as u64 {
            let (path, len) = (opened.file.path().to_path_buf(), self.capacity() as u64);
            return Err(Error::OutOfRange { path, start: range.start, end: range.end, len });
        }
        Ok(range)
    }

    /// The parts of a range that are in one page each.
    fn by_page(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let (range, shift) = (range.clone(), self.0.opened.cache.core.arena.page_shift());
        let pages = self.0.opened.file.pages_of(&range);
        pages.map(move |page| range.start.max(page << shift)..range.end.min((page + 1) << shift))
    }

    /// Has the page at byte `at` laid by this thread, if it is not there: so that what fails is an error and no signal. Just
    /// before it is used: the pages of a long range may push each other out.
    fn touch(&self, at: u64) -> Result<()> {
        let Token { opened, map } = &*self.0;
        let core = &opened.cache.core;
        let page = at >> core.arena.page_shift();
        if map.is_laid(page) { Ok(()) } else { opened.file.lay(core, map, page) }
    }

    /// The file's view in this process, made if there is none or if the file has outgrown it.
    pub(crate) fn of(opened: &Arc<Opened>) -> Result<Self> {
        let file = &opened.file;
        if !file.storage.writable() {
            return Err(Error::ReadOnly { path: file.path().to_path_buf() });
        }
        let mut local = lock(&file.local);
        if let Some(token) = local.upgrade().filter(|token| token.map.capacity >= file.pages()) {
            return Ok(Self(token));
        }
        let map = new_map(&opened.cache.core, file)?;
        let token = Arc::new(Token { opened: opened.clone(), map });
        *local = Arc::downgrade(&token);
        Ok(Self(token))
    }
}

/// Address space for a view of `file`, with room for it to grow.
fn new_map(core: &Arc<Core>, file: &Arc<FileCore>) -> Result<Arc<ViewMap>> {
    let shift = core.arena.page_shift();
    let (least, most) = (file.pages().max(1), (file.pages() * 2).max((GROWTH >> shift) as u64));
    let (reserve, capacity) = Reserve::for_view(file.path(), &core.uffd, shift, least, most)?;
    let base = reserve.base;
    let seat = Box::new(Local { core: core.clone(), reserve });
    let map = Arc::new(ViewMap::new(file.clone(), core.uffd.clone(), base, capacity, shift, seat));
    add_view(core, &map);
    Ok(map)
}

/// Lets the guard and the holders know of a view.
pub(crate) fn add_view(core: &Core, map: &Arc<ViewMap>) {
    let mut views = core.views.write().unwrap_or_else(PoisonError::into_inner);
    views.insert((map.uffd.id(), map.base), map.clone());
    drop(views);
    map.file.views.write().unwrap_or_else(PoisonError::into_inner).push(map.clone());
}

/// Ends a view.
pub(crate) fn remove_view(core: &Core, map: &Arc<ViewMap>) {
    // What is `Open` stays so: it only says that a view may let stores through, and a hold finds none to protect.
    let _layout = lock(&map.file.layout);
    let mut views = map.file.views.write().unwrap_or_else(PoisonError::into_inner);
    views.retain(|other| !Arc::ptr_eq(other, map));
    let mut all = core.views.write().unwrap_or_else(PoisonError::into_inner);
    all.remove(&(map.uffd.id(), map.base));
    drop(all);
    // With the file's views locked, so that no page is being closed in this one.
    map.unmap();
    core.let_go(map);
}

/// What the clones of a view share.
pub(crate) struct Token {
    opened: Arc<Opened>,
    map: Arc<ViewMap>,
}

impl Drop for Token {
    fn drop(&mut self) {
        remove_view(&self.opened.cache.core, &self.map);
    }
}

/// A view of this process.
struct Local {
    core: Arc<Core>,
    reserve: Reserve,
}

impl Seat for Local {
    fn lay(&self, at: usize, offset: u64, len: usize) -> io::Result<()> {
        let arena = self.core.arena.memory();
        // SAFETY: inside the reserve (the view's pages are), which is mapped: `remove_view`, which unmaps it, takes the
        // layout lock that the caller has, and a view that has gone is not laid any more.
        unsafe { kernel::lay(&self.core.uffd, arena, offset, self.reserve.base + at, len) }
    }

    fn unlay(&self, at: usize, len: usize) -> io::Result<()> {
        // SAFETY: as in `lay`.
        unsafe { kernel::unlay(&self.core.uffd, self.reserve.base + at, len) }
    }

    fn unmap(&self) {
        // SAFETY: `ViewMap::unmap` calls this once. Safe users of the memory borrow a `View`, and the last one is being
        // dropped; users of `View::as_ptr` were told to stop before that.
        unsafe { self.reserve.unmap() };
    }
}

/// Address space of a small file's view, bytes.
pub(crate) const GROWTH: usize = 1 << 30;
