//! Cached files: opening, and what a file consists of.

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, PoisonError, Weak};

use crate::cache::CacheInner;
use crate::core::{Core, lock};
use crate::disk::{Stamp, Storage};
use crate::hold::Hold;
use crate::mapping::ViewMap;
use crate::table::{MOST_PAGES, PageTable};
use crate::unheld::Unheld;
use crate::view::{Token, View};
use crate::writeback::Failures;
use crate::{Error, Result};

/// A file whose pages are cached. Clones are the same file, and so are two openings of it; but each opening hears of a
/// failed write-back for itself ([`sync`](Self::sync)).
#[derive(Clone)]
pub struct CachedFile(pub(crate) Arc<Opened>);

impl CachedFile {
    /// Length, bytes.
    pub fn len(&self) -> u64 {
        self.0.file.len()
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// Holds the bytes of `range` still, reading in what is not cached: until the hold is dropped, no store through any
    /// view lands in a page of it.
    ///
    /// Costs an atomic addition a page when the pages are cached and nobody wrote them since they were last held.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::ArenaFull`] when everything in the cache is held; [`Error::Shrunk`] and
    /// [`Error::File`] when the file can not be read.
    #[inline]
    pub fn hold(&self, range: Range<u64>) -> Result<Hold> {
        Hold::new(&self.0, range)
    }

    /// A mapping of the file for writers. Nothing is read until it is touched.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::View`].
    pub fn view(&self) -> Result<View> {
        View::of(&self.0)
    }

    /// The bytes of `range` without a hold: what others send. For showing what goes wrong then.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn unheld(&self, range: Range<u64>) -> Result<Unheld> {
        Unheld::new(&self.0, range)
    }

    /// Returns when every store and every [`set_len`](Self::set_len) that returned before this call is on the disk
    /// (`fdatasync(2)`).
    ///
    /// Pages that could not be written stay dirty, and are tried again by the next call and in the background.
    ///
    /// # Errors
    /// [`Error::WriteBack`]: what could not be written now; or, once for each opening of the file, that a write-back
    /// since the last call has failed (it may have succeeded since). [`Error::Conflict`] as long as somebody else's
    /// change of the file stands against stores that are only here.
    pub fn sync(&self) -> Result<()> {
        self.0.sync(0..u64::MAX)
    }

    /// The same for the pages of `range`.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn sync_range(&self, range: Range<u64>) -> Result<()> {
        self.0.sync(range)
    }

    /// Makes the file longer (by zeros) or shorter, here and on the disk. Stores beyond the new end are dropped, holds
    /// there keep their bytes. Waits for holds of the last page when the file grows and that page has
    /// stores that are not on the disk. Views show what is new as far as
    /// their address space reaches ([`View::capacity`]).
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::TooLong`]; [`Error::Conflict`]; [`Error::File`] with the disk's answer. Nothing has
    /// changed then.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.0.file.set_len(&self.0.cache.core, len)
    }

    /// Drops what is cached of `range` and is neither held nor dirty; whole folios only.
    pub fn evict(&self, range: Range<u64>) {
        self.0.file.evict(&self.0.cache.core, range);
    }

    /// Looks now whether somebody else has changed the file, as the cache otherwise does when the kernel tells it
    /// (inotify) and when a file is opened: clean pages are dropped then, and dirty ones make it a conflict.
    ///
    /// # Errors
    /// [`Error::Conflict`]; [`Error::File`] when the file can not be asked.
    pub fn recheck(&self) -> Result<()> {
        self.0.file.recheck(&self.0.cache.core)
    }

    /// Ends a conflict in favour of the file: stores that are not on the disk are dropped.
    pub fn discard(&self) {
        self.0.file.discard_stores(&self.0.cache.core);
    }

    /// Ends a conflict in favour of this cache: the next write-back overwrites what somebody else wrote in the same pages.
    /// Waits for holds of the last page when the other has made the file longer.
    pub fn overwrite(&self) {
        self.0.file.accept_conflict(&self.0.cache.core);
    }
}

/// One opening of a file. Everything that needs the file's pages has a share in it.
pub(crate) struct Opened {
    pub(crate) file: Arc<FileCore>,
    pub(crate) cache: Arc<CacheInner>,
    /// The last failure of a write-back that this opening was told of.
    pub(crate) told: AtomicU64,
}

/// A file in the cache; stays while it is open anywhere, and while it has pages.
pub(crate) struct FileCore {
    pub(crate) id: u64,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) table: PageTable,
    len: AtomicU64,
    page_shift: u32,
    /// Number of [`Opened`] values; changed with the cache's `files` locked.
    pub(crate) openings: AtomicUsize,
    /// Number of its folios.
    pub(crate) folios: AtomicUsize,
    /// Taken by whoever writes back, changes the length, or drops pages that may be dirty.
    pub(crate) io: Mutex<()>,
    /// Taken while folios are added, and while one is claimed for reading.
    pub(crate) growing: Mutex<()>,
    /// Taken while what the views show is changed, and by who takes folios away: under it a folio stays.
    pub(crate) layout: Mutex<()>,
    /// The views. Whoever closes a page keeps this lock for reading meanwhile, so that the mappings stay.
    pub(crate) views: RwLock<Vec<Arc<ViewMap>>>,
    /// This process's view, while it lives.
    pub(crate) local: Mutex<Weak<Token>>,
    /// File pages that are not on the disk.
    pub(crate) dirty: Mutex<BTreeSet<u64>>,
    /// The length has been changed, and the disk has not said since that this is durable.
    pub(crate) resized: AtomicBool,
    pub(crate) failures: Mutex<Failures>,
    pub(crate) outside: Mutex<Outside>,
    /// Read-ahead: number of folios that the next sequential miss asks for.
    pub(crate) window: AtomicU32,
}

/// What is known of other people's doings with the file.
#[derive(Default)]
pub(crate) struct Outside {
    /// The file as the cache last saw or left it.
    pub(crate) stamp: Stamp,
    /// What has happened to it, if there were dirty pages then.
    pub(crate) conflict: Option<&'static str>,
}

/// Device and inode: which file it is, whatever it is called.
pub(crate) type FileKey = (u64, u64);

impl FileCore {
    pub(crate) fn new(core: &Core, storage: Arc<dyn Storage>) -> Result<Self> {
        let stamp = storage.stamp().map_err(|source| Error::opening(storage.path(), "statx", source))?;
        let page_shift = core.arena.page_shift();
        let file = Self {
            id: core.next_id(),
            table: PageTable::new(),
            len: AtomicU64::new(stamp.len),
            page_shift,
            openings: AtomicUsize::new(0),
            folios: AtomicUsize::new(0),
            io: Mutex::default(),
            growing: Mutex::default(),
            layout: Mutex::default(),
            views: RwLock::default(),
            local: Mutex::default(),
            dirty: Mutex::default(),
            resized: AtomicBool::new(false),
            failures: Mutex::default(),
            outside: Mutex::new(Outside { stamp, conflict: None }),
            window: AtomicU32::new(0),
            storage,
        };
        file.fits(stamp.len)?;
        Ok(file)
    }

    pub(crate) fn path(&self) -> &Path {
        self.storage.path()
    }

    /// Length of the file, bytes.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// The file has another length from now on.
    pub(crate) fn has_len(&self, len: u64) {
        // Whatever the disk says, there are no more pages than can be counted.
        self.len.store(len.min(MOST_PAGES << self.page_shift), Ordering::Release);
    }

    /// Length of the file, pages.
    pub(crate) fn pages(&self) -> u64 {
        self.len().div_ceil(1 << self.page_shift)
    }

    /// Refuses lengths that can not be cached.
    pub(crate) fn fits(&self, len: u64) -> Result<()> {
        let most = MOST_PAGES << self.page_shift;
        if len <= most { Ok(()) } else { Err(Error::TooLong { path: self.path().to_path_buf(), len, most }) }
    }

    /// `range`, if it is inside the file.
    #[inline]
    pub(crate) fn check(&self, range: Range<u64>) -> Result<Range<u64>> {
        let len = self.len();
        if range.start <= range.end && range.end <= len {
            return Ok(range);
        }
        let path = self.path().to_path_buf();
        Err(Error::OutOfRange { path, start: range.start, end: range.end, len })
    }

    /// The file pages that `range` (bytes) touches.
    #[inline]
    pub(crate) fn pages_of(&self, range: &Range<u64>) -> Range<u64> {
        if range.is_empty() {
            return 0..0;
        }
        range.start >> self.page_shift..((range.end - 1) >> self.page_shift) + 1
    }

    /// The views at this moment.
    pub(crate) fn views(&self) -> Vec<Arc<ViewMap>> {
        self.views.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes pages out of all views. The caller has the layout locked and the pages taken, or held.
    pub(crate) fn unlay(&self, pages: Range<u64>) -> std::io::Result<()> {
        self.views().iter().try_for_each(|view| view.unlay(&pages))
    }

    /// A store may land in `page` from now on.
    pub(crate) fn is_dirty_now(&self, core: &Core, page: u64) {
        if lock(&self.dirty).insert(page) {
            core.dirt.more();
        }
    }

    /// Whether every page is on the disk.
    pub(crate) fn is_clean(&self) -> bool {
        lock(&self.dirty).is_empty()
    }

    /// Whether the disk has all of it: every page, and the length.
    pub(crate) fn is_durable(&self) -> bool {
        self.is_clean() && !self.resized.load(Ordering::Relaxed)
    }

    /// Drops what is idle and clean of the folios in `range`.
    fn evict(self: &Arc<Self>, core: &Core, range: Range<u64>) {
        let pages = self.pages_of(&range);
        for folio in core.residents.of_file(self) {
            if pages.start <= folio.first && folio.first + u64::from(folio.pages()) <= pages.end {
                core.evict_folio(&folio);
            }
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.cache.core.closed(&self.file);
    }
}
