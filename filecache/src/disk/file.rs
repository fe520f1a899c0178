//! A regular file of the kernel's: one descriptor through its page cache and, where the file system has it, one past it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::{Engine, Request, Stamp, Storage};
use crate::{Error, Result};

/// An open file on a disk.
pub(crate) struct DiskFile {
    path: PathBuf,
    key: (u64, u64),
    writable: bool,
    files: Arc<Descriptors>,
    engine: Arc<Engine>,
}

impl DiskFile {
    /// Opens a regular file, for writing too if that is allowed; with `direct`, past the kernel's page cache where that can
    /// be had.
    pub(crate) fn open(path: &Path, engine: &Arc<Engine>, direct: bool) -> Result<Self> {
        // Looked at before it is opened: opening a device or a FIFO can have effects.
        let found = std::fs::metadata(path).map_err(|source| Error::opening(path, "stat", source))?;
        Error::unless_regular(path, &found)?;
        let (source, writable) = open(path).map_err(|source| Error::opening(path, "open", source))?;
        let found = source.metadata().map_err(|source| Error::opening(path, "fstat", source))?;
        Error::unless_regular(path, &found)?;
        wait_when_asked(&source).map_err(|source| Error::opening(path, "fcntl", source))?;
        let direct = if direct { Direct::open(&source, writable) } else { None };
        Ok(Self {
            path: path.to_path_buf(),
            key: (found.dev(), found.ino()),
            writable,
            files: Arc::new(Descriptors { buffered: source.into(), direct }),
            engine: engine.clone(),
        })
    }

    /// Device and inode: which file it is, whatever it is called.
    pub(crate) fn key(&self) -> (u64, u64) {
        self.key
    }

    /// The descriptor through the kernel's page cache.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.files.buffered.as_fd()
    }

    /// Whether aligned parts go past the kernel's page cache; becomes `false` for good when the file system refuses.
    #[cfg(test)]
    pub(crate) fn uses_direct(&self) -> bool {
        self.files.direct().is_some()
    }
}

impl Storage for DiskFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn writable(&self) -> bool {
        self.writable
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let wanted = StatxFlags::SIZE | StatxFlags::MTIME | StatxFlags::CTIME | StatxFlags::NLINK;
        let found = rustix::fs::statx(self.fd(), c"", AtFlags::EMPTY_PATH, wanted)?;
        Ok(Stamp {
            len: found.stx_size,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
            links: found.stx_nlink,
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(self.fd(), len)?)
    }

    fn submit(&self, request: Request) {
        self.engine.submit(request, &self.files);
    }
}

/// What is open of a file, kept by every request under way.
pub(super) struct Descriptors {
    buffered: OwnedFd,
    direct: Option<Direct>,
}

/// The descriptor past the kernel's page cache.
struct Direct {
    fd: OwnedFd,
    alignment: Alignment,
    refused: AtomicBool,
}

/// What direct calls must be multiples of, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Alignment {
    memory: usize,
    /// Of offsets and lengths.
    file: u64,
}

impl Descriptors {
    /// How many of the `len` bytes at `offset`, to or from `address`, may go past the kernel's page cache in one call.
    pub(super) fn direct_part(&self, address: usize, offset: u64, len: usize) -> usize {
        self.direct().map_or(0, |direct| direct.alignment.part(address, offset, len))
    }

    /// The file system will have no direct calls after all.
    pub(super) fn refuse_direct(&self) {
        if let Some(direct) = &self.direct {
            // Nothing is published with it: who does not see it yet is refused once more.
            direct.refused.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn fd(&self, direct: bool) -> BorrowedFd<'_> {
        match &self.direct {
            Some(found) if direct => found.fd.as_fd(),
            _ => self.buffered.as_fd(),
        }
    }

    fn direct(&self) -> Option<&Direct> {
        self.direct.as_ref().filter(|direct| !direct.refused.load(Ordering::Relaxed))
    }
}

impl Direct {
    /// A second description of the open file `source`; `None` if the file system has no direct calls for it.
    fn open(source: &File, writable: bool) -> Option<Self> {
        let alignment = Alignment::of(source)?;
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        // By the descriptor, not by the path, which may be another file by now.
        let path = format!("/proc/self/fd/{}", source.as_raw_fd());
        let fd = rustix::fs::open(path, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(Self { fd, alignment, refused: AtomicBool::new(false) })
    }
}

impl Alignment {
    /// As the kernel says (Linux 6.1); a page where it says nothing, and then the first call tries it. `None` where it
    /// says that there are no direct calls.
    fn of(source: &File) -> Option<Self> {
        let asked = rustix::fs::statx(source, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
        match asked {
            Ok(found) if found.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
                let (memory, file) = (found.stx_dio_mem_align as usize, u64::from(found.stx_dio_offset_align));
                (memory != 0 && file != 0).then_some(Self { memory, file })
            }
            _ => Some(Self { memory: PAGE, file: PAGE as u64 }),
        }
    }

    /// The longest direct part. It ends at a page where there is one: the tail of a page is not worth a call of its own
    /// beside the rest of that page.
    fn part(self, address: usize, offset: u64, len: usize) -> usize {
        if !address.is_multiple_of(self.memory) || !offset.is_multiple_of(self.file) {
            return 0;
        }
        let unit = self.file.max(PAGE as u64) as usize;
        len - len % unit
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

/// Takes back `O_NONBLOCK`, which was for opening: io_uring would answer EAGAIN where a file system cannot promise not to
/// wait.
fn wait_when_asked(source: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(source)?;
    Ok(rustix::fs::fcntl_setfl(source, flags - OFlags::NONBLOCK)?)
}

const PAGE: usize = 4096;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    impl DiskFile {
        /// One whose file system is said to take direct calls of any alignment, which none does.
        pub(crate) fn with_alignment_of_one(mut self) -> Self {
            let files = Arc::get_mut(&mut self.files).unwrap();
            files.direct.as_mut().unwrap().alignment = Alignment { memory: 1, file: 1 };
            self
        }
    }

    /// Descriptors of an empty file without a name; with `direct`, the second one is said to need 512 bytes.
    pub(in super::super) fn unnamed(direct: bool) -> Arc<Descriptors> {
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        let alignment = Alignment { memory: 512, file: 512 };
        let direct = direct.then(|| Direct { fd: file(), alignment, refused: AtomicBool::new(false) });
        Arc::new(Descriptors { buffered: file(), direct })
    }

    /// Descriptors of what knows no sync.
    pub(in super::super) fn of_a_pipe() -> Arc<Descriptors> {
        Arc::new(Descriptors { buffered: rustix::pipe::pipe().unwrap().1, direct: None })
    }

    #[test]
    fn a_direct_part_is_aligned_and_ends_at_a_page() {
        let check = |alignment, address, offset, len| Alignment::part(alignment, address, offset, len);
        let sector = Alignment { memory: 4, file: 512 };
        assert_eq!(check(sector, 0x1000, 4096, 10_000), 8192, "the tail of the last page is left");
        assert_eq!(check(sector, 0x1004, 512, 4096), 4096, "as little as the kernel asks for");
        assert_eq!(check(sector, 0x1002, 0, 4096), 0, "memory");
        assert_eq!(check(sector, 0x1000, 100, 4096), 0, "offset");
        assert_eq!(check(sector, 0x1000, 0, 4095), 0, "less than a page");
        let large = Alignment { memory: 4096, file: 16384 };
        assert_eq!(check(large, 0x1000, 16384, 40_000), 32768, "a unit larger than a page");
        assert_eq!(check(large, 0x1000, 4096, 40_000), 0);
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused() {
        let engine = Arc::new(Engine::new(true).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let open = |path: &Path| DiskFile::open(path, &engine, true).err().unwrap();
        assert!(matches!(open(&fifo), Error::NotRegular { kind: "FIFO", .. }));
        assert!(matches!(open(dir.path()), Error::NotRegular { kind: "directory", .. }));
        assert!(matches!(open(Path::new("/dev/null")), Error::NotRegular { kind: "character device", .. }));
        assert!(matches!(open(&dir.path().join("none")), Error::NotFound { .. }));
    }

    #[test]
    fn two_names_are_one_file_and_a_stamp_tells_of_every_change() {
        let engine = Arc::new(Engine::new(true).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, b"abc").unwrap();
        std::fs::hard_link(&one, &two).unwrap();
        let open = |path| DiskFile::open(path, &engine, true).unwrap();
        let (file, other) = (open(&one), open(&two));
        assert_eq!(file.key(), other.key());
        assert_eq!((file.path(), file.writable()), (one.as_path(), true));
        let before = file.stamp().unwrap();
        assert_eq!((before.len, before.links), (3, 2));
        assert_eq!(before, other.stamp().unwrap());
        file.set_len(5000).unwrap();
        assert_eq!(other.stamp().unwrap().len, 5000);
        std::fs::remove_file(&two).unwrap();
        assert_eq!(file.stamp().unwrap().links, 1);
        let set = std::fs::File::options().write(true).open(&one).unwrap();
        set.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(7, 8)).unwrap();
        let after = file.stamp().unwrap();
        assert_eq!(after.modified, (7, 8));
        assert!(after.changed >= before.changed && after != before);
    }

    #[test]
    fn the_descriptors_are_one_inode_and_block() {
        let engine = Arc::new(Engine::new(true).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"abc").unwrap();
        let file = DiskFile::open(&path, &engine, true).unwrap();
        let flags = rustix::fs::fcntl_getfl(file.fd()).unwrap();
        assert!(!flags.intersects(OFlags::NONBLOCK | OFlags::DIRECT) && flags.contains(OFlags::RDWR), "{flags:?}");
        let Some(direct) = file.files.direct() else { return eprintln!("skipped: no O_DIRECT at {}", path.display()) };
        let found = rustix::fs::fstat(&direct.fd).unwrap();
        assert_eq!((found.st_dev, found.st_ino), file.key());
        let flags = rustix::fs::fcntl_getfl(&direct.fd).unwrap();
        assert!(flags.contains(OFlags::RDWR | OFlags::DIRECT), "{flags:?}");
        assert!(!DiskFile::open(&path, &engine, false).unwrap().uses_direct());
    }
}
