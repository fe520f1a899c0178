//! The cache: one arena, one guard, the files in it.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::JoinHandle;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stillwire_dma::{Access, Backing, Iommu, Mapping, Node, SharedMemory};

use crate::arena::Arena;
use crate::core::{Core, lock};
use crate::disk::{DiskFile, Engine, Storage};
use crate::file::{CachedFile, FileCore, FileKey, Opened};
use crate::kernel::Uffd;
use crate::stats::{Held, Pauses, Stats};
#[cfg(not(simulation))]
use crate::watch::Watch;
use crate::{Error, Result, flusher, guard, worker};

/// How a cache is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Memory for file pages, bytes; rounded up to whole pages.
    pub bytes: usize,
    /// Whether to take huge pages if there are free ones. A page, the unit that is held and protected, is 2 MiB then.
    pub huge: bool,
    /// Largest folio, bytes: how much of a large file is read and laid out in one piece.
    pub max_folio: usize,
    /// Whether to have the kernel back the memory by huge pages before it is used. A page, the unit that is held and
    /// protected, is small all the same. It takes more than a second for a GiB, and the disk then reads a third faster (it
    /// needs a segment for each piece of memory that does not lie beside the last). For caches that live long.
    pub prepare: bool,
    /// Name of the memory, as `/proc/PID/maps` shows it.
    pub name: String,
    /// Memory node to take it from, if it has some left: that of the device that will read it.
    pub node: Option<Node>,
    /// Whether files are read and written past the kernel's page cache (`O_DIRECT`) where their file system can.
    pub direct_io: bool,
    /// Whether the disk is reached by io_uring where it can be had, and not by threads. Some tools (valgrind) can not follow
    /// a program that uses it.
    pub io_uring: bool,
    /// Most bytes to read ahead of who reads a file in sequence.
    pub read_ahead: usize,
    /// Share of the memory, percent, that may be dirty before it is written back at once.
    pub dirty_background: u8,
    /// Share of the memory, percent, that may be dirty at all. Writers of clean pages wait then.
    pub dirty_most: u8,
    /// How long a store stays in memory only, at the most, if the disk can follow.
    pub flush_after: Duration,
    /// How long a hold waits for room while everything is dirty or being read.
    pub patience: Duration,
    /// Whether a page for which a writer waits is copied for new holds. Without it, a page that is held again and again by
    /// several threads keeps its writers waiting.
    pub snapshots: bool,
    /// Number of files that stay cached although nobody has them open.
    pub closed_files: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            huge: false,
            prepare: false,
            max_folio: 2 << 20,
            name: "stillwire-cache".into(),
            node: None,
            direct_io: true,
            io_uring: true,
            read_ahead: 8 << 20,
            dirty_background: 10,
            dirty_most: 40,
            flush_after: Duration::from_secs(5),
            patience: Duration::from_secs(10),
            snapshots: true,
            closed_files: 256,
        }
    }
}

/// A page cache in this process whose pages can be held still. Clones are the same cache. It lives until the last
/// clone, file and view is gone, and its memory until the last hold is; what is dirty then is written back, but only
/// [`CachedFile::sync`] says whether that went well.
#[derive(Clone)]
pub struct Cache(pub(crate) Arc<CacheInner>);

pub(crate) struct CacheInner {
    threads: Vec<JoinHandle<()>>,
    flusher: Option<JoinHandle<()>>,
    guard: Option<JoinHandle<()>>,
    #[cfg(not(simulation))]
    watch: Arc<Watch>,
    pub(crate) core: Arc<Core>,
    notices: Vec<String>,
}

impl Cache {
    /// Makes a cache and starts its threads.
    ///
    /// # Errors
    /// When the memory, or a userfaultfd that can write-protect it, is not to be had; each says what to set.
    pub fn new(config: Config) -> Result<Self> {
        let arena = Arena::new(&config.name, config.bytes, config.huge, config.max_folio)?;
        // Before the first touch: pages that are there stay where they are.
        let placed = config.node.map_or(Ok(()), |node| arena.memory().prefer(node));
        let prepared = if config.prepare { arena.prepare() } else { Ok(()) };
        let mut cache = Self::start(config, arena)?;
        if let Some(inner) = Arc::get_mut(&mut cache.0) {
            let prepared = prepared
                .map_err(|why| format!("the memory could not be prepared (MADV_COLLAPSE: {why}); reading is slower"));
            let placed = placed.map_err(|why| {
                format!("the memory could not be placed near the device (mbind: {why}); sending is slower")
            });
            let notices = [prepared, placed].into_iter().filter_map(|done| done.err());
            inner.notices.extend(notices.map(|notice| format!("cache: {notice}")));
        }
        Ok(cache)
    }

    /// A cache in `arena`.
    pub(crate) fn start(config: Config, arena: Arena) -> Result<Self> {
        let uffd = Uffd::open()?;
        let engine =
            Engine::new(config.io_uring).map_err(|source| Error::Guard { what: "starting the disk engine", source })?;
        let notices = notices(&arena, &uffd, &engine);
        let core = Core::new(config, arena, uffd, engine)?;
        let mut inner = CacheInner {
            threads: Vec::new(),
            flusher: None,
            guard: None,
            #[cfg(not(simulation))]
            watch: Arc::new(Watch::new()?),
            core: core.clone(),
            notices,
        };
        // One after the other into a value that ends those that run when the next can not be started.
        inner.guard = Some(guard::start(core.clone())?);
        inner.flusher = Some(flusher::start(core.clone())?);
        inner.threads = worker::start(&core)?;
        let (bytes, backing) = (core.arena.memory().len(), core.arena.memory().backing());
        tracing::debug!(bytes, page = core.arena.page_size(), ?backing, "a cache is there");
        #[cfg(not(simulation))]
        inner.threads.push(inner.watch.start(core)?);
        Ok(Self(Arc::new(inner)))
    }

    /// Opens a regular file through the cache. Nothing is read yet.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotPermitted`], [`Error::NotRegular`], [`Error::TooLong`], [`Error::File`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<CachedFile> {
        let core = &self.0.core;
        let disk = DiskFile::open(path.as_ref(), &core.engine, core.config.direct_io)?;
        let key = disk.key();
        let disk = Arc::new(disk);
        let (file, is_new) = self.file(key, disk.clone())?;
        #[cfg(not(simulation))]
        if is_new {
            self.0.watch.add(&file.0.file, disk.fd());
        }
        if !is_new {
            // Cached from before. A conflict is for who syncs.
            let _: Result<()> = file.recheck();
        }
        Ok(file)
    }

    /// Opens what `storage` stands for, under a `key` that tells it from every other file: for simulations of a disk.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[doc(hidden)]
    pub fn open_storage(&self, key: (u64, u64), storage: Arc<dyn Storage>) -> Result<CachedFile> {
        Ok(self.file(key, storage)?.0)
    }

    /// The file of `key`, made if it is not cached; whether it was made.
    fn file(&self, key: FileKey, storage: Arc<dyn Storage>) -> Result<(CachedFile, bool)> {
        let core = &self.0.core;
        let mut files = lock(&core.files);
        // Two openings of a file must share its pages, or one would not see the other's stores.
        let (file, is_new) = match files.get(&key) {
            Some(file) => (file.clone(), false),
            None => {
                let file = Arc::new(FileCore::new(core, storage)?);
                files.insert(key, file.clone());
                (file, true)
            }
        };
        file.openings.fetch_add(1, Ordering::Relaxed);
        let told = AtomicU64::new(lock(&file.failures).count);
        Ok((CachedFile(Arc::new(Opened { file, cache: self.0.clone(), told })), is_new))
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
        self.0.core.mapping.set(mapping).map_err(|_| Error::Attach("the cache has one already"))
    }

    /// What has been counted.
    pub fn stats(&self) -> Stats {
        let arena = &self.0.core.arena;
        Stats {
            arena_bytes: arena.memory().len() as u64,
            free_bytes: u64::from(arena.buddy().free_pages()) << arena.page_shift(),
            dirty_bytes: self.0.core.dirt.pages() << arena.page_shift(),
            ..self.0.core.counters.read()
        }
    }

    /// How long writers waited for holds: how many of them no longer than each of `bounds`.
    pub fn pauses(&self, bounds: &[Duration]) -> Pauses {
        self.0.core.counters.pauses(bounds)
    }

    /// What is held at this moment. It looks at every page of the memory, so it is for who looks on, not for a path that is
    /// to be fast; holders do not notice.
    pub fn held(&self) -> Held {
        let arena = &self.0.core.arena;
        let holds = (0..arena.pages()).map(|page| u64::from(arena.holds(page)));
        holds
            .filter(|&holds| holds > 0)
            .fold(Held::default(), |held, holds| Held { pages: held.pages + 1, page_holds: held.page_holds + holds })
    }

    /// What does not work as well as it could on this machine, and what to set.
    pub fn notices(&self) -> Vec<String> {
        self.0.notices.clone()
    }
}

impl Core {
    /// An opening of `file` ends. Its pages stay, for who opens it again, until the room is needed or there are too many
    /// such files.
    pub(crate) fn closed(self: &Arc<Self>, file: &Arc<FileCore>) {
        let mut files = lock(&self.files);
        if file.openings.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        // A file that is deleted can not be opened again.
        let deleted = lock(&file.outside).stamp.links == 0;
        let closed = |file: &FileCore| file.openings.load(Ordering::Relaxed) == 0;
        let too_many = files.values().filter(|file| closed(file)).count() > self.config.closed_files;
        if deleted || too_many {
            // Whatever of it is idle and clean; the rest goes when it is written back, or evicted.
            for folio in self.residents.of_file(file) {
                let _ = self.evict_folio(&folio);
            }
        }
        files.retain(|_, file| !closed(file) || !file.is_durable() || file.folios.load(Ordering::Relaxed) > 0);
    }
}

impl Drop for CacheInner {
    fn drop(&mut self) {
        let core = &self.core;
        #[cfg(not(simulation))]
        self.watch.stop();
        core.wanted.stop();
        // None of these threads has a share in this value, so it is never one of them that comes here.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
        // Touches of views that have gone know their core.
        core.wanted.clear();
        core.dirt.stop();
        if let Some(flusher) = self.flusher.take() {
            let _ = flusher.join();
        }
        // Nobody can be told any more; who wants to know calls `sync`.
        let _failed = core.flush();
        core.stop();
        if let Some(guard) = self.guard.take() {
            let _ = guard.join();
        }
        // Files know their folios and folios their file.
        let files: Vec<_> = lock(&core.files).drain().collect();
        for (_, file) in files {
            for folio in core.residents.of_file(&file) {
                let _ = core.residents.remove(&folio);
            }
        }
        core.end_copies();
        core.end();
    }
}

fn notices(arena: &Arena, uffd: &Uffd, engine: &Engine) -> Vec<String> {
    let mut notices = Vec::new();
    if let Backing::Shmem { instead: Some(why) } = arena.memory().backing() {
        notices.push(format!("cache: huge pages were asked for and are not used: {why}"));
    }
    if !uffd.hears_kernel_stores() {
        notices.push(
            "guard: only stores by programs are paused; a store by the kernel into a held page (read(2) into a view) \
             fails with EFAULT. To have these wait as well, give this user /dev/userfaultfd (sudo chown USER \
             /dev/userfaultfd), run with CAP_SYS_PTRACE, or set sysctl vm.unprivileged_userfaultfd=1"
                .into(),
        );
    }
    notices.extend(engine.notice());
    notices
}
