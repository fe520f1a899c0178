//! Files that are sent from where the kernel caches them, without an arena.
//!
//! The cache of this crate copies a file in once and is then the only one who can write it. A direct file saves that
//! copy and that memory: the device reads the kernel's own pages. What keeps them still is then not ours but the
//! kernel's, and it depends on the file ([`DirectKind`]); a file that nothing keeps still is refused.
//!
//! - `kind.rs`: which promise fits, and who could break it;
//! - `lease.rs`: the kernel's lease, and what was found out about it;
//! - `in_memory.rs`: files whose writers are views;
//! - `gate.rs`: who may use the mapping now, pure, model-checked;
//! - `keeper.rs`: the thread of a leased file.

mod gate;
mod hold;
mod in_memory;
mod keeper;
mod kind;
mod lease;

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use stillwire_dma::{Access, Iommu, Mapping, SharedMemory};

pub use hold::DirectHold;
pub use kind::DirectKind;

use crate::file::CachedFile;
use crate::view::View;
use crate::{Error, Result};
use gate::Gate;
use lease::{Ear, Lease};

/// How a direct file is used.
#[derive(Clone, Debug)]
pub struct DirectConfig {
    /// How long [`DirectFile::hold`] waits while a writer has a leased file.
    pub wait: Duration,
}

impl Default for DirectConfig {
    fn default() -> Self {
        Self { wait: Duration::from_secs(10) }
    }
}

/// A file that a device reads where the kernel caches it. Clones are the same file.
///
/// A [leased](DirectKind::Leased) file has a thread of its own. When somebody opens it for writing or truncates it, the
/// kernel makes them wait, new holds wait too, and when the last hold is dropped the writer goes on; after its last close
/// the file is taken up again with its new bytes. This process is no exception: a thread that has a hold and opens the
/// file for writing waits for itself.
///
/// The kernel waits for `/proc/sys/fs/lease-break-time` (45 s) and no longer: see [`broken`](Self::broken).
#[derive(Clone)]
pub struct DirectFile(Arc<Direct>);

impl DirectFile {
    /// Opens a file for sending, and maps it for the device behind `iommu` to read. Without one it can be held and read,
    /// but not posted.
    ///
    /// # Errors
    /// [`Error::NotDirect`] with the reason when nothing would keep the file still; [`Error::NotFound`],
    /// [`Error::NotPermitted`], [`Error::NotRegular`], [`Error::File`]; [`Error::Dma`] when it can not be mapped.
    pub fn open(path: impl AsRef<Path>, iommu: Option<&Iommu>, config: DirectConfig) -> Result<Self> {
        let path = path.as_ref();
        Self::new(path.to_path_buf(), kind::open(path)?, iommu, config)
    }

    /// The same for a file that is open already, a memfd for one. The descriptor is opened again, for reading; the
    /// caller's own stays with the caller, and counts as a writer if it can write.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_fd(fd: impl AsFd, iommu: Option<&Iommu>, config: DirectConfig) -> Result<Self> {
        let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        let path = std::fs::read_link(&link).unwrap_or_else(|_| link.into());
        let given = File::from(fd.as_fd().try_clone_to_owned().map_err(Error::file(&path, "dup"))?);
        Error::unless_regular(&path, &given.metadata().map_err(Error::file(&path, "fstat"))?)?;
        let file =
            kind::open_again(&given).map_err(|source| Error::opening(&path, "opening it again for reading", source))?;
        Self::new(path, file, iommu, config)
    }

    fn new(path: PathBuf, file: File, iommu: Option<&Iommu>, config: DirectConfig) -> Result<Self> {
        let kind = kind::classify(&path, &file)?;
        let direct = match kind {
            DirectKind::Sealed | DirectKind::Immutable => {
                let core = Arc::new(Core::new(path, &file, iommu)?);
                Direct { core, file, kind, config, keeper: None, cached: None }
            }
            DirectKind::Leased => {
                let (core, keeper) = leased(path, &file, iommu)?;
                Direct { core, file, kind, config, keeper: Some(keeper), cached: None }
            }
            DirectKind::WriteProtect => {
                let writable = kind::open_to_write(&file).map_err(|source| Error::opening(&path, "open", source))?;
                let cached = in_memory::in_place(&path, writable, iommu)?;
                // Neither memory nor mapping: the cached file has both.
                let core = Arc::new(Core::without_memory(path, cached.as_ref().map_or(0, CachedFile::len))?);
                Direct { core, file, kind, config, keeper: None, cached }
            }
        };
        Ok(Self(Arc::new(direct)))
    }

    /// Length, bytes: as it was when the file was opened.
    pub fn len(&self) -> u64 {
        self.0.core.len
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.0.core.path
    }

    /// What keeps it still.
    pub fn kind(&self) -> DirectKind {
        self.0.kind
    }

    /// Holds the bytes of `range` still: until the hold is dropped, nobody changes them.
    ///
    /// Costs an atomic addition beside the one of sharing the file. While a writer has the file it waits, at most
    /// [`DirectConfig::wait`]. The writer in turn waits for the holds that are left: a thread that has some (in its
    /// transmit queue, say) uses [`try_hold`](Self::try_hold), and goes on reclaiming.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Away`] when a writer has the file for too long; [`Error::Changed`] and
    /// [`Error::Lost`] when it has to be opened again.
    #[inline]
    pub fn hold(&self, range: Range<u64>) -> Result<DirectHold> {
        self.hold_within(range, self.0.config.wait)
    }

    /// As [`hold`](Self::hold), but never waits.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    #[inline]
    pub fn try_hold(&self, range: Range<u64>) -> Result<DirectHold> {
        self.hold_within(range, Duration::ZERO)
    }

    #[inline]
    fn hold_within(&self, range: Range<u64>, wait: Duration) -> Result<DirectHold> {
        let core = &self.0.core;
        if range.start > range.end || range.end > core.len {
            return Err(Error::OutOfRange {
                path: core.path.clone(),
                start: range.start,
                end: range.end,
                len: core.len,
            });
        }
        if let Some(cached) = &self.0.cached {
            // The gate stays open; what counts is the hold of the pages.
            let inner = cached.hold(range.clone())?;
            return Ok(DirectHold::of_pages(&self.0, range, inner));
        }
        if !core.enter() {
            core.enter_later(wait)?;
        }
        Ok(DirectHold::entered(&self.0, range))
    }

    /// Where writers of a file [in memory](DirectKind::WriteProtect) write: a store into a held page waits.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for a file of another kind; [`Error::NotDirect`] for an empty one; [`Error::View`].
    pub fn view(&self) -> Result<View> {
        match &self.0.cached {
            Some(cached) => cached.view(),
            None if self.0.kind == DirectKind::WriteProtect => Err(kind::refused(
                &self.0.core.path,
                "is empty, so there is nothing to view",
                "give it its length first",
            )),
            None => Err(Error::ReadOnly { path: self.0.core.path.clone() }),
        }
    }

    /// Number of times that a writer came and holds had to drain.
    pub fn breaks(&self) -> u64 {
        self.0.core.breaks.load(Ordering::Acquire)
    }

    /// Number of times that the kernel let a writer on while bytes were held, because they were held for longer than
    /// `/proc/sys/fs/lease-break-time` after it came. What was sent from such a hold may be torn
    /// ([`DirectHold::is_still`]).
    pub fn broken(&self) -> u64 {
        self.0.core.broken.load(Ordering::Relaxed)
    }
}

/// An open file. Every hold has a share in it.
struct Direct {
    core: Arc<Core>,
    /// For reading. Not the descriptor of the lease.
    file: File,
    kind: DirectKind,
    config: DirectConfig,
    keeper: Option<JoinHandle<()>>,
    /// The file as a cache of itself, if it is in memory.
    cached: Option<CachedFile>,
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.core.stopping.store(true, Ordering::Release);
        self.core.ring();
        if let Some(keeper) = self.keeper.take() {
            // The keeper has no share in this value, so it is never the keeper that comes here.
            let _ = keeper.join();
        }
    }
}

/// What holders share with the keeper.
struct Core {
    path: PathBuf,
    len: u64,
    /// The file's pages; `None` for an empty file.
    memory: Option<SharedMemory>,
    iommu: Option<Iommu>,
    gate: Gate<Option<Mapping>>,
    /// Whether the holds that are left have outlasted the lease.
    overdue: AtomicBool,
    breaks: AtomicU64,
    broken: AtomicU64,
    stopping: AtomicBool,
    bell: OwnedFd,
    /// Why there will be no more holds.
    loss: Mutex<Option<Loss>>,
    /// Rung, under the lock of `loss`, when the gate has been opened or has gone.
    moved: Condvar,
}

/// Why a file can not be taken up again.
enum Loss {
    Changed { found: u64 },
    Failed(String),
}

impl Core {
    /// Maps `file` as it is: the caller knows that it stays so.
    fn new(path: PathBuf, file: &File, iommu: Option<&Iommu>) -> Result<Self> {
        let len = file.metadata().map_err(Error::file(&path, "fstat"))?.len();
        let bytes =
            usize::try_from(len).map_err(|_| Error::file(&path, "length")(std::io::ErrorKind::FileTooLarge.into()))?;
        let memory = match bytes {
            0 => None,
            _ => {
                let file = file.try_clone().map_err(Error::file(&path, "dup"))?;
                Some(SharedMemory::of_file(file, bytes, Access::ReadOnly)?)
            }
        };
        let mapping = map(iommu, memory.as_ref())?;
        Ok(Self { memory, iommu: iommu.cloned(), gate: Gate::new(mapping), ..Self::without_memory(path, len)? })
    }

    /// Nothing is mapped here.
    fn without_memory(path: PathBuf, len: u64) -> Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = bell.map_err(|error| Error::file(&path, "eventfd")(error.into()))?;
        Ok(Self {
            path,
            len,
            memory: None,
            iommu: None,
            gate: Gate::new(None),
            overdue: AtomicBool::new(false),
            breaks: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            bell,
            loss: Mutex::default(),
            moved: Condvar::new(),
        })
    }

    /// Makes the file visible to the device.
    fn map(&self) -> stillwire_dma::Result<Option<Mapping>> {
        map(self.iommu.as_ref(), self.memory.as_ref())
    }

    /// Counts a hold in; false when the gate is shut.
    #[inline]
    fn enter(&self) -> bool {
        match self.gate.enter() {
            Ok(()) => true,
            Err((_, last)) => {
                if last {
                    self.ring();
                }
                false
            }
        }
    }

    /// The same, waiting for the gate to open.
    #[cold]
    fn enter_later(&self, wait: Duration) -> Result<()> {
        let start = Instant::now();
        let mut loss = self.loss.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.enter() {
            if let Some(loss) = &*loss {
                return Err(loss.error(self));
            }
            let waited = start.elapsed();
            let Some(left) = wait.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return Err(Error::Away { path: self.path.clone(), waited });
            };
            loss = self.moved.wait_timeout(loss, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Counts a hold out.
    #[inline]
    fn leave(&self) {
        if self.gate.leave() {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        // A bell whose counter is full has been rung already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Acquire)
    }

    /// The kernel does not wait any longer for the holds that are left; counted once a lease.
    fn overdue(&self) {
        if !self.overdue.swap(true, Ordering::AcqRel) {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Holds may be had again.
    fn open(&self) {
        let _news = self.loss.lock().unwrap_or_else(PoisonError::into_inner);
        // No hold is left that this was said of.
        self.overdue.store(false, Ordering::Release);
        self.gate.open();
        self.moved.notify_all();
    }

    /// There will be no more holds.
    fn lose(&self, why: Loss) {
        let mut loss = self.loss.lock().unwrap_or_else(PoisonError::into_inner);
        *loss = Some(why);
        self.gate.end();
        self.moved.notify_all();
    }
}

impl Loss {
    fn error(&self, core: &Core) -> Error {
        let path = core.path.clone();
        match self {
            Self::Changed { found } => Error::Changed { path, expected: core.len, found: *found },
            Self::Failed(why) => Error::Lost { path, why: why.clone() },
        }
    }
}

fn map(iommu: Option<&Iommu>, memory: Option<&SharedMemory>) -> stillwire_dma::Result<Option<Mapping>> {
    iommu.zip(memory).map(|(iommu, memory)| iommu.map(memory, Access::ReadOnly)).transpose()
}

/// Takes a lease on `file`, maps what it has then, and starts its keeper.
fn leased(path: PathBuf, file: &File, iommu: Option<&Iommu>) -> Result<(Arc<Core>, JoinHandle<()>)> {
    let lease = Lease::on(file).map_err(Error::file(&path, "opening again"))?;
    let (tell, told) = mpsc::channel();
    let (give, given) = mpsc::channel::<(Arc<Core>, Lease)>();
    let keeper = std::thread::Builder::new().name("stillwire-lease".into()).spawn(move || {
        let ear = Ear::of_this_thread();
        let thread = ear.as_ref().map(Ear::thread).map_err(|error| std::io::Error::from(error.kind()));
        // The kernel is told of this thread before there is a lease, and it hears what comes before it begins to look.
        if tell.send(thread).is_ok()
            && let (Ok(ear), Ok((core, lease))) = (ear, given.recv())
        {
            keeper::keep(&core, &ear, &lease);
        }
    });
    let keeper = keeper.map_err(Error::file(&path, "starting a thread"))?;
    let thread = told.recv().map_err(|_| std::io::ErrorKind::BrokenPipe.into()).and_then(|thread| thread);
    lease.take(thread.map_err(Error::file(&path, "signalfd"))?).map_err(|source| kind::not_leased(&path, source))?;
    let core = Arc::new(Core::new(path, file, iommu)?);
    // The keeper is there: it has said so, and it waits for this.
    let _ = give.send((core.clone(), lease));
    Ok((core, keeper))
}
