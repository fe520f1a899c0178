//! Views: where writers write.
//!
//! A view is a linear mapping of a whole file. Its pages are the arena's pages, mapped a second time, and a userfaultfd
//! hears of every store into a page that is write-protected *in this mapping*; the arena's own mapping is not concerned.
//!
//! A file has at most one view mapping in a process, shared by all [`View`] values of it, so "protected" is one ioctl
//! for a run of pages. The mapping is made fully protected; pages open one by one as writers come, and when the mapping goes
//! its open pages are *Protected* again: nobody is left who could store.
#![allow(unsafe_code)]

use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use stillwire_dma::copy::{copy_in, copy_out};

use crate::arena::Arena;
use crate::file::Opened;
use crate::guard::Core;
use crate::uffd::Uffd;
use crate::{Error, Result};

/// A writable mapping of a whole file. Clones share it; the last one unmaps it.
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
/// A child made by `fork` does not inherit the view.
#[derive(Clone)]
pub struct View(Arc<Token>);

impl View {
    /// First byte, page aligned; dangling for an empty file. Bytes up to [`len`](Self::len) may be read and written by
    /// raw pointers and system calls for as long as the view lives. Others may be writing at the same time.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.map.base as *mut u8
    }

    /// Length of the file, bytes.
    pub fn len(&self) -> usize {
        self.0.opened.len() as usize
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stores `bytes` at byte `offset` of the file. Waits while a page of that range is held. Stores of two threads to
    /// the same bytes may mix.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = self.0.opened.check(offset..offset.saturating_add(bytes.len() as u64))?;
        // SAFETY: the range is inside the file (checked) and so inside the mapping, which is writable and lives as long
        // as `self`. References into the arena exist only to held pages, and the store waits for their holds to end.
        unsafe { copy_in(bytes, self.as_ptr().add(range.start as usize)) };
        Ok(())
    }

    /// Copies bytes out, as they are at the moment.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let range = self.0.opened.check(offset..offset.saturating_add(bytes.len() as u64))?;
        // SAFETY: inside the file, so inside the mapping, which is readable and lives as long as `self`.
        unsafe { copy_out(self.as_ptr().add(range.start as usize), bytes) };
        Ok(())
    }

    /// The file's view, made if there is none.
    pub(crate) fn of(opened: &Arc<Opened>) -> Result<Self> {
        let file = &opened.file;
        if !file.writable {
            return Err(Error::ReadOnly { path: file.path.clone() });
        }
        let mut slot = file.view.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = slot.as_ref().and_then(|slot| slot.token.upgrade()) {
            return Ok(Self(token));
        }
        let (map, generation) = match slot.take() {
            // The last view is just being dropped and waits for this lock: the mapping changes hands, and the one that
            // is dropped sees by the generation that it is no longer the owner.
            Some(old) => (old.map, old.generation + 1),
            None => (ViewMap::new(opened)?, 0),
        };
        let token = Arc::new(Token { opened: opened.clone(), map: map.clone(), generation });
        *slot = Some(Slot { map, generation, token: Arc::downgrade(&token) });
        Ok(Self(token))
    }
}

/// What the clones of a view share.
struct Token {
    opened: Arc<Opened>,
    map: Arc<ViewMap>,
    generation: u64,
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut slot = self.opened.file.view.write().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|slot| slot.generation == self.generation && Arc::ptr_eq(&slot.map, &self.map)) {
            *slot = None;
            self.map.retire(&self.opened.cache.core);
        }
    }
}

/// A file's place for its view. Whoever closes a page keeps this lock for reading meanwhile, so that the mapping stays.
pub(crate) struct Slot {
    pub(crate) map: Arc<ViewMap>,
    token: Weak<Token>,
    generation: u64,
}

/// The mapping.
#[derive(Default)]
pub(crate) struct ViewMap {
    base: usize,
    /// Address space taken: begins at or before `base`.
    reserve: (usize, usize),
    page_shift: u32,
    /// Arena pages, by page of the view.
    pages: Box<[u32]>,
    /// Whether the mapping is still there. The guard keeps it for reading while it unprotects.
    live: RwLock<bool>,
}

impl ViewMap {
    /// Reads the whole file in and maps it, fully protected.
    fn new(opened: &Arc<Opened>) -> Result<Arc<Self>> {
        let pages = opened.fill_all()?;
        let core = &opened.cache.core;
        let bytes = pages.len() << core.arena.page_shift();
        let error = |what, hint| {
            let path = opened.file.path.clone();
            move |source: io::Error| Error::View { path, what, bytes, source, hint }
        };
        let page_shift = core.arena.page_shift();
        if pages.is_empty() {
            let base = core.arena.page_size();
            return Ok(Arc::new(Self { base, page_shift, pages, live: RwLock::new(true), ..Self::default() }));
        }
        let map = Self::reserve(bytes, page_shift, pages).map_err(error("reserving address space", ""))?;
        map.lay(&core.arena).map_err(error("mapping", "; sysctl vm.max_map_count may be too low"))?;
        core.uffd.register(map.base, bytes).map_err(error("UFFDIO_REGISTER", ""))?;
        core.uffd.protect(map.base, bytes).map_err(error("UFFDIO_WRITEPROTECT", ""))?;
        let map = Arc::new(map);
        core.views.write().unwrap_or_else(PoisonError::into_inner).insert(map.base, map.clone());
        Ok(map)
    }

    /// Takes address space, aligned so that huge pages of the arena can be mapped as such.
    fn reserve(bytes: usize, page_shift: u32, pages: Box<[u32]>) -> io::Result<Self> {
        let align = ALIGN.max(1 << page_shift);
        let len = bytes + align;
        let (prot, flags) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, flags) }? as usize;
        let base = start.next_multiple_of(align);
        Ok(Self { base, reserve: (start, len), page_shift, pages, live: RwLock::new(true) })
    }

    /// Lays the arena's pages over the reserve, one mapping for each run that is contiguous in the arena.
    fn lay(&self, arena: &Arena) -> io::Result<()> {
        let mut index = 0;
        for run in self.pages.chunk_by(|a, b| a + 1 == *b) {
            let (at, len) = (self.base + (index << self.page_shift), run.len() << self.page_shift);
            let offset = u64::from(run[0]) << self.page_shift;
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: replaces a part of our own reserve that nobody has been told of yet: `index + run.len()` is at
            // most `pages.len()`, and the reserve has room for that many pages from `base`.
            unsafe { mmap(at as *mut _, len, prot, MapFlags::SHARED | MapFlags::FIXED, arena.memory().fd(), offset) }?;
            index += run.len();
        }
        // SAFETY: changes no bytes and no mapping of this process; a child will not have the view.
        unsafe { madvise(self.base as *mut _, index << self.page_shift, Advice::LinuxDontFork) }?;
        Ok(())
    }

    /// Page of the view and arena page at `address`; `None` when the view does not show it.
    pub(crate) fn index_of(&self, address: usize) -> Option<(u64, u32)> {
        let index = address.checked_sub(self.base)? >> self.page_shift;
        Some((index as u64, *self.pages.get(index)?))
    }

    /// Keeps stores out of `count` pages from `index`. The caller keeps the file's slot locked and the pages `Closing`.
    pub(crate) fn protect(&self, uffd: &Uffd, index: u64, count: u64) -> io::Result<()> {
        uffd.protect(self.base + ((index as usize) << self.page_shift), (count as usize) << self.page_shift)
    }

    /// Keeps the mapping there for as long as the answer lives; `None` when it has gone.
    pub(crate) fn live(&self) -> Option<RwLockReadGuard<'_, bool>> {
        Some(self.live.read().unwrap_or_else(PoisonError::into_inner)).filter(|live| **live)
    }

    /// Lets stores into one page and wakes who waits there. The caller (the guard) keeps the mapping [`live`](Self::live)
    /// and the page `Opening`.
    pub(crate) fn unprotect(&self, uffd: &Uffd, index: u64) -> io::Result<()> {
        uffd.unprotect(self.base + ((index as usize) << self.page_shift), 1 << self.page_shift)
    }

    /// Takes the mapping away. The caller has the file's slot locked for writing, so no page is being closed in it.
    fn retire(&self, core: &Core) {
        core.views.write().unwrap_or_else(PoisonError::into_inner).remove(&self.base);
        self.unmap();
        for &page in &self.pages {
            // What is `Opening` now, the guard moves back itself: it finds the view dead. What is `Closing`, the
            // closing holder moves on: it finds no view to protect.
            core.arena.word(page).views_gone();
        }
    }

    fn unmap(&self) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *live, false) && self.reserve.1 > 0 {
            // SAFETY: our own reserve with everything laid over it, unmapped once (`live`). Safe users of the memory
            // borrow a `View`, and the last one is being dropped; users of `View::as_ptr` were told to stop before that.
            let _ = unsafe { munmap(self.reserve.0 as *mut _, self.reserve.1) };
        }
    }
}

impl Drop for ViewMap {
    fn drop(&mut self) {
        // For a view that could not be finished; one that was is unmapped already.
        self.unmap();
    }
}

/// Alignment of a view, bytes: a huge page's.
const ALIGN: usize = 2 << 20;
