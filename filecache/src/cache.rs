//! The cache: one arena, one guard, the files in it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use stillwire_dma::{Access, Backing, Iommu, Mapping, SharedMemory};

use crate::arena::Arena;
use crate::file::{CachedFile, FileCore, FileKey, Opened};
use crate::guard::{self, Core};
use crate::page::Phase;
use crate::stats::Stats;
use crate::uffd::Uffd;
use crate::{Error, Result};

/// How a cache is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Memory for file pages, bytes; rounded up to whole pages.
    pub bytes: usize,
    /// Whether to take huge pages if there are free ones. A page, the unit that is held and protected, is 2 MiB then.
    pub huge: bool,
    /// Largest folio, bytes: how much of a large file is read and laid out in one piece.
    pub max_folio: usize,
    /// Name of the memory, as `/proc/PID/maps` shows it.
    pub name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { bytes: 256 << 20, huge: false, max_folio: 2 << 20, name: "stillwire-cache".into() }
    }
}

/// A page cache in this process whose pages can be held still. Clones are the same cache. It lives until the last
/// clone, file, hold and view is gone.
#[derive(Clone)]
pub struct Cache(Arc<CacheInner>);

pub(crate) struct CacheInner {
    guard: Option<JoinHandle<()>>,
    // Declared before `core`, so dropped before it: the device loses its mapping before the memory goes.
    pub(crate) mapping: OnceLock<Mapping>,
    pub(crate) core: Arc<Core>,
    files: Mutex<HashMap<FileKey, CachedEntry>>,
    notices: Vec<String>,
}

struct CachedEntry {
    file: Arc<FileCore>,
    /// Number of [`Opened`] values.
    openings: usize,
}

impl Cache {
    /// Makes a cache and starts its guard.
    ///
    /// # Errors
    /// When the memory, or a userfaultfd that can write-protect it, is not to be had; each says what to set.
    pub fn new(config: Config) -> Result<Self> {
        let arena = Arena::new(&config.name, config.bytes, config.huge, config.max_folio)?;
        let uffd = Uffd::open()?;
        let notices = notices(&arena, &uffd);
        let core = Arc::new(Core::new(arena, uffd)?);
        let guard = Some(guard::start(core.clone())?);
        Ok(Self(Arc::new(CacheInner { guard, mapping: OnceLock::new(), core, files: Mutex::default(), notices })))
    }

    /// Opens a regular file through the cache. Nothing is read yet.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotPermitted`], [`Error::NotRegular`], [`Error::File`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<CachedFile> {
        let file = Arc::new(FileCore::open(path.as_ref(), self.0.core.arena.page_shift())?);
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        // Two openings of a file must share its pages, or one would not see the other's stores.
        let entry = files.entry(file.key).or_insert(CachedEntry { file, openings: 0 });
        entry.openings += 1;
        Ok(CachedFile(Arc::new(Opened { file: entry.file.clone(), cache: self.0.clone() })))
    }

    /// The arena's memory, for mapping it in ways that [`attach_to`](Self::attach_to) does not know.
    ///
    /// # Safety
    /// Nobody may write through it, nor let a device do so: that would be a store that no view and no guard sees, into
    /// bytes that [`Hold::chunks`](crate::Hold::chunks) may have lent out as a slice.
    #[allow(unsafe_code)]
    pub unsafe fn memory(&self) -> &SharedMemory {
        self.0.core.arena.memory()
    }

    /// Maps the arena for a device to read, once for the life of the cache.
    ///
    /// # Errors
    /// As [`Iommu::map`] and [`attach`](Self::attach).
    pub fn attach_to(&self, iommu: &Iommu) -> Result<()> {
        self.attach(iommu.map(self.0.core.arena.memory(), Access::ReadOnly)?)
    }

    /// Takes the mapping in which holds name their segments. It is kept until the last hold is gone.
    ///
    /// # Errors
    /// [`Error::Attach`] when there is one already, and when `mapping` is not of the whole arena, for reading only.
    pub fn attach(&self, mapping: Mapping) -> Result<()> {
        let memory = self.0.core.arena.memory();
        if mapping.memory().as_ptr() != memory.as_ptr() || mapping.len() != memory.len() {
            return Err(Error::Attach("it must cover the whole of the cache's memory"));
        }
        if mapping.access() != Access::ReadOnly {
            return Err(Error::Attach("it must be read-only, or the device could write held pages"));
        }
        self.0.mapping.set(mapping).map_err(|_| Error::Attach("the cache has one already"))
    }

    /// What has been counted.
    pub fn stats(&self) -> Stats {
        let arena = &self.0.core.arena;
        Stats {
            arena_bytes: arena.memory().len() as u64,
            free_bytes: u64::from(arena.buddy().free_pages()) << arena.page_shift(),
            ..self.0.core.counters.read()
        }
    }

    /// What does not work as well as it could on this machine, and what to set.
    pub fn notices(&self) -> Vec<String> {
        self.0.notices.clone()
    }
}

impl CacheInner {
    /// An opening of `file` ends. Its pages are freed with the last, unless there are stores that are only here.
    pub(crate) fn closed(&self, file: &FileCore) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Entry::Occupied(mut entry) = files.entry(file.key) else { return };
        entry.get_mut().openings -= 1;
        let dirty = || file.table.cached().any(|(_, page)| self.core.arena.word(page).is_dirty());
        if entry.get().openings == 0 && !dirty() {
            entry.remove();
            self.free(file);
        }
    }

    /// Frees the pages of a file that nobody has open.
    fn free(&self, file: &FileCore) {
        let arena = &self.core.arena;
        let blocks: Vec<u32> = file.table.cached().map(|(_, page)| page).collect();
        for &page in &blocks {
            let word = arena.word(page);
            // The guard may still be taking back an opening for a view that has gone; nobody else is left.
            while !word.empty() {
                arena.parking.wait_while(page, || matches!(word.phase(), Phase::Opening | Phase::Closing));
            }
        }
        let mut buddy = arena.buddy();
        for page in blocks {
            if buddy.order(page).is_some() {
                buddy.free(page);
            }
        }
    }
}

impl Drop for CacheInner {
    fn drop(&mut self) {
        self.core.stop();
        if let Some(guard) = self.guard.take() {
            // The guard has no share in this value, so it is never the guard that comes here.
            let _ = guard.join();
        }
    }
}

fn notices(arena: &Arena, uffd: &Uffd) -> Vec<String> {
    let mut notices = Vec::new();
    if let Backing::Shmem { instead: Some(why) } = arena.memory().backing() {
        notices.push(format!("cache: huge pages were asked for and are not used: {why}"));
    }
    if !uffd.hears_kernel_stores() {
        notices.push(
            "guard: only stores by programs are paused; a store by the kernel into a held page (read(2) into a view) \
             fails with EFAULT. Run with CAP_SYS_PTRACE, give access to /dev/userfaultfd, or set sysctl \
             vm.unprivileged_userfaultfd=1"
                .into(),
        );
    }
    notices
}
