//! Cached files: opening, reading in, letting go.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::cache::CacheInner;
use crate::hold::Hold;
use crate::page::Phase;
use crate::stats::count;
use crate::table::{PageTable, folio_of};
use crate::unheld::Unheld;
use crate::view::{Slot, View};
use crate::{Error, Result};

/// A file whose pages are cached. Clones are the same file, and so are two openings of it.
#[derive(Clone)]
pub struct CachedFile(pub(crate) Arc<Opened>);

impl CachedFile {
    /// Length, bytes: as it was when the file was opened.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.0.file.path
    }

    /// Holds the bytes of `range` still, reading in what is not cached: until the hold is dropped, no store through any
    /// view lands in a page of it.
    ///
    /// Costs an atomic addition a page when the pages are cached and nobody wrote them since they were last held.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::ArenaFull`]; [`Error::Shrunk`] and [`Error::File`] when the file can not be read.
    #[inline]
    pub fn hold(&self, range: Range<u64>) -> Result<Hold> {
        Hold::new(&self.0, range)
    }

    /// A mapping of the file for writers.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::View`]; as [`hold`](Self::hold) when the file can not be read in.
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
}

/// One opening of a file. Everything that needs the file's pages has a share in it.
pub(crate) struct Opened {
    pub(crate) file: Arc<FileCore>,
    pub(crate) cache: Arc<CacheInner>,
}

/// A file in the cache; stays while it is open anywhere, and while it has dirty pages.
pub(crate) struct FileCore {
    pub(crate) path: PathBuf,
    pub(crate) key: FileKey,
    pub(crate) writable: bool,
    pub(crate) table: PageTable,
    pub(crate) view: RwLock<Option<Slot>>,
    len: u64,
    source: File,
    /// Taken while folios are added to the table, and while one is claimed for reading.
    growing: Mutex<()>,
}

/// Device and inode: which file it is, whatever it is called.
pub(crate) type FileKey = (u64, u64);

impl FileCore {
    /// Opens a regular file, for writing too if that is allowed.
    pub(crate) fn open(path: &Path, page_shift: u32) -> Result<Self> {
        // Looked at before it is opened: opening a device or a FIFO can have effects.
        let found = std::fs::metadata(path).map_err(|source| Error::opening(path, "stat", source))?;
        regular(path, &found)?;
        let (source, writable) = open(path).map_err(|source| Error::opening(path, "open", source))?;
        let found = source.metadata().map_err(|source| Error::opening(path, "fstat", source))?;
        regular(path, &found)?;
        let len = found.len();
        Ok(Self {
            path: path.to_path_buf(),
            key: (found.dev(), found.ino()),
            writable,
            table: PageTable::new(len.div_ceil(1 << page_shift)),
            view: RwLock::default(),
            len,
            source,
            growing: Mutex::default(),
        })
    }

    /// Reads at `offset` until `bytes` is full or the file ends; the number of bytes read.
    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pread(&self.source, &mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(Error::File { path: self.path.clone(), what: "pread", source: error.into() });
                }
            }
        }
        Ok(done)
    }
}

impl Opened {
    /// Length of the file, bytes.
    pub(crate) fn len(&self) -> u64 {
        self.file.len
    }

    /// `range`, if it is inside the file.
    #[inline]
    pub(crate) fn check(&self, range: Range<u64>) -> Result<Range<u64>> {
        if range.start <= range.end && range.end <= self.file.len {
            return Ok(range);
        }
        let path = self.file.path.clone();
        Err(Error::OutOfRange { path, start: range.start, end: range.end, len: self.file.len })
    }

    /// The file pages that `range` (bytes, inside the file) touches.
    #[inline]
    pub(crate) fn pages_of(&self, range: &Range<u64>) -> Range<u64> {
        let shift = self.cache.core.arena.page_shift();
        if range.is_empty() {
            return 0..0;
        }
        range.start >> shift..((range.end - 1) >> shift) + 1
    }

    /// The arena ranges (bytes) that cache `range` (bytes of the file), in order, neighbours joined up to [`PIECE`]
    /// bytes. Every page of it must be cached.
    pub(crate) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Range<usize>> + '_ {
        let arena = &self.cache.core.arena;
        let (shift, page_size) = (arena.page_shift(), arena.page_size() as u64);
        let place = move |offset: u64| {
            let page = self.file.table.get(offset >> shift).unwrap_or_else(|| unreachable!("a page in use is cached"));
            ((page as usize) << shift) + (offset & (page_size - 1)) as usize
        };
        let mut at = range.start;
        std::iter::from_fn(move || {
            let start = (at < range.end).then(|| place(at))?;
            let mut end = start;
            loop {
                let step = (page_size - (at & (page_size - 1))).min(range.end - at);
                at += step;
                end += step as usize;
                if at == range.end || end - start >= PIECE || place(at) != end {
                    return Some(start..end);
                }
            }
        })
    }

    /// Makes sure that file page `page` is cached, reading its folio in if need be; its arena page. Waits for another
    /// thread that is reading it.
    #[cold]
    pub(crate) fn fill(&self, page: u64) -> Result<u32> {
        let arena = &self.cache.core.arena;
        loop {
            let Some(found) = self.file.table.get(page) else {
                self.grow(page)?;
                continue;
            };
            match arena.word(found).phase() {
                Phase::Empty | Phase::Error => self.read_in(page, found)?,
                Phase::Filling => arena.parking.wait_while(found, || arena.word(found).phase() == Phase::Filling),
                _ => return Ok(found),
            }
        }
    }

    /// Makes sure that the whole file is cached; its arena pages.
    pub(crate) fn fill_all(&self) -> Result<Box<[u32]>> {
        (0..self.file.table.pages()).map(|page| self.fill(page)).collect()
    }

    /// Finds memory for a folio with `page` in it.
    fn grow(&self, page: u64) -> Result<()> {
        let table = &self.file.table;
        let _growing = self.file.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if table.get(page).is_some() {
            return Ok(());
        }
        let arena = &self.cache.core.arena;
        // From the size that fits the file best down to a single page: the arena may have no run that long, and after
        // that has happened, a part of the run may be cached.
        for wanted in (0..=folio_of(page, table.pages(), arena.highest_order()).1).rev() {
            let first = page >> wanted << wanted;
            let run = first..first + (1 << wanted);
            if run.clone().any(|page| table.get(page).is_some()) {
                continue;
            }
            let block = arena.buddy().allocate(wanted);
            if let Some(block) = block {
                run.zip(block..).for_each(|(page, arena_page)| table.set(page, Some(arena_page)));
                return Ok(());
            }
        }
        Err(Error::ArenaFull {
            path: self.file.path.clone(),
            offset: page << arena.page_shift(),
            arena: arena.memory().len() as u64,
            free: u64::from(arena.buddy().free_pages()) << arena.page_shift(),
            needed: arena.page_size() as u64,
        })
    }

    /// Reads the folio of file page `page` in, or what is missing of it. Returns at once when another thread does.
    fn read_in(&self, page: u64, arena_page: u32) -> Result<()> {
        let core = &self.cache.core;
        let shift = core.arena.page_shift();
        // Locked, so that two threads do not claim a part of the folio each: it is read in one go.
        let growing = self.file.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, most) = self.run_around(page, arena_page);
        let Some(mut claim) = core.arena.claim(arena_page - (page - first) as u32, most) else { return Ok(()) };
        drop(growing);
        let start = first << shift;
        let wanted = ((u64::from(claim.pages())) << shift).min(self.file.len - start) as usize;
        let bytes = claim.bytes();
        let read = self.file.read(&mut bytes[..wanted], start)?;
        count(&core.counters.fills, 1);
        count(&core.counters.fill_bytes, read as u64);
        if read == wanted {
            bytes[wanted..].fill(0);
            let pages = claim.pages();
            claim.filled(pages);
            return Ok(());
        }
        // The pages before the new end are whole; the others fail, for this caller only if its page is one of them.
        let whole = (read >> shift) as u32;
        claim.filled(whole);
        if page < first + u64::from(whole) {
            return Ok(());
        }
        Err(Error::Shrunk { path: self.file.path.clone(), expected: self.file.len, found: start + read as u64 })
    }

    /// First file page and length of the run around `page` that is to be read together: its neighbours in the arena, at
    /// most a folio of the highest order, that are not read yet.
    fn run_around(&self, page: u64, arena_page: u32) -> (u64, u32) {
        let (table, arena) = (&self.file.table, &self.cache.core.arena);
        let (start, order) = folio_of(page, table.pages(), arena.highest_order());
        let missing = |other: u64| {
            let expected = i64::from(arena_page) + (other as i64 - page as i64);
            table.get(other).is_some_and(|found| {
                i64::from(found) == expected && matches!(arena.word(found).phase(), Phase::Empty | Phase::Error)
            })
        };
        let before = (start..page).rev().take_while(|&other| missing(other)).count() as u64;
        let after = (page + 1..start + (1 << order)).take_while(|&other| missing(other)).count() as u64;
        (page - before, (before + 1 + after) as u32)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.cache.closed(&self.file);
    }
}

/// Refuses what is not a regular file.
fn regular(path: &Path, found: &Metadata) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    Err(Error::NotRegular { path: path.to_path_buf(), kind: kind(found.file_type()) })
}

fn kind(found: FileType) -> &'static str {
    match found {
        found if found.is_dir() => "directory",
        found if found.is_fifo() => "FIFO",
        found if found.is_socket() => "socket",
        found if found.is_char_device() => "character device",
        found if found.is_block_device() => "block device",
        _ => "file of another kind",
    }
}

/// For reading and writing, or for reading only if writing is refused; never waits for a FIFO's other end.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let open = |write| OpenOptions::new().read(true).write(write).custom_flags(libc::O_NONBLOCK).open(path);
    match open(true) {
        Ok(file) => Ok((file, true)),
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY)) =>
        {
            Ok((open(false)?, false))
        }
        Err(error) => Err(error),
    }
}

/// Longest joined piece, bytes (a page more may come out): so that its length fits a DMA segment.
const PIECE: usize = 1 << 30;
