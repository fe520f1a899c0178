//! Memory that has a file descriptor, so that a device behind any carrier can be given it.
//!
//! This memory has a second user that is no thread of this program: the device (or its model, through a mapping of its
//! own). So it is never borrowed as a slice here; it is read and written by copies and by atomic words.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use crate::copy::{copy_in, copy_out};
use crate::{Access, Error, Result, meminfo};

/// Whether huge pages are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugePages {
    /// 4 KiB pages on shmem.
    Never,
    /// Huge pages if the pool has enough of them free, else shmem with advice to use transparent huge pages.
    IfFree,
}

/// What the memory stands on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backing {
    /// hugetlbfs pages of the system's default huge page size.
    HugeTlb,
    /// Ordinary shmem pages; `instead` says why huge pages that were asked for are not used, and what to set.
    Shmem {
        /// Set when huge pages were asked for.
        instead: Option<String>,
    },
    /// The pages of a file that was there before ([`SharedMemory::of_file`]).
    File,
}

/// A region of memory shared by descriptor. Clones name the same region; the last one unmaps it.
#[derive(Clone, Debug)]
pub struct SharedMemory(Arc<Region>);

#[derive(Debug)]
struct Region {
    pages: MmapRaw,
    /// Bytes that may be written through `pages`: all of them or none.
    writable: usize,
    fd: OwnedFd,
    page_size: usize,
    backing: Backing,
}

impl SharedMemory {
    /// Makes a zeroed region of at least `len` bytes (rounded up to whole pages of its backing). `name` shows in
    /// `/proc/PID/maps`.
    ///
    /// # Errors
    /// [`Error::Memory`] with the step that failed.
    pub fn new(name: &str, len: usize, huge: HugePages) -> Result<Self> {
        let error = |what| move |source| Error::Memory { len, what, source };
        if len == 0 {
            return Err(error("length")(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let instead = match huge {
            HugePages::Never => None,
            HugePages::IfFree => match Self::on_hugetlb(name, len) {
                Ok(region) => return Ok(region),
                Err(refusal) => Some(refusal),
            },
        };
        if let Some(why) = &instead {
            tracing::info!(name, len, why, "huge pages were asked for and are not used");
        }
        let advise = instead.is_some();
        let page_size = rustix::param::page_size();
        let len = len.checked_next_multiple_of(page_size).ok_or_else(|| error("length")(too_long()))?;
        let fd = memfd(name, len, MemfdFlags::empty()).map_err(error("memfd"))?;
        let pages = MmapOptions::new().len(len).map_raw(fd.as_raw_fd()).map_err(error("mmap"))?;
        if advise {
            // Best effort: with shmem_enabled=never the kernel takes the advice and does nothing.
            let _ = pages.advise(Advice::HugePage);
        }
        Ok(Self::region(pages, true, fd, page_size, Backing::Shmem { instead }))
    }

    fn on_hugetlb(name: &str, len: usize) -> std::result::Result<Self, String> {
        let page_size = meminfo::huge_page_size().ok_or("this kernel has no huge pages")?;
        let len = len.checked_next_multiple_of(page_size).ok_or("the length is too large")?;
        let advice = |error: io::Error| {
            format!(
                "no {} free huge pages of {} KiB ({error}); to have them: echo {} > /proc/sys/vm/nr_hugepages",
                len / page_size,
                page_size / 1024,
                len / page_size
            )
        };
        let fd = memfd(name, len, MemfdFlags::HUGETLB).map_err(advice)?;
        // Mapping reserves the pages: this is where an empty pool says no, not a later touch.
        let pages = MmapOptions::new().len(len).map_raw(fd.as_raw_fd()).map_err(advice)?;
        Ok(Self::region(pages, true, fd, page_size, Backing::HugeTlb))
    }

    /// The first `len` bytes of a file as memory, rounded up to whole pages: for a device to read a file where the
    /// kernel caches it. Bytes between the file's end and the end of its last page are zeros.
    ///
    /// With [`Access::ReadOnly`] any file will do that can be mapped, and a descriptor that can only be read suffices;
    /// nothing can be written through the region then, by this process or by a device. With [`Access::ReadWrite`] the
    /// file must be memory (memfd, tmpfs, hugetlbfs): a device's stores would not reach a disk.
    ///
    /// The region does not keep others from changing the file. A file that is cut short under it takes the pages away,
    /// and a touch of them is SIGBUS: who makes such a region must know why that can not happen.
    ///
    /// # Errors
    /// [`Error::Memory`] with the step that failed: `len` is 0, or reaches past the last page of the file, whose bytes
    /// would be SIGBUS from the start.
    pub fn of_file(fd: impl Into<OwnedFd>, len: usize, access: Access) -> Result<Self> {
        let fd = fd.into();
        let error = |what| move |source: io::Error| Error::Memory { len, what, source };
        let (page_size, in_memory) = file_pages(fd.as_fd()).map_err(error("fstatfs"))?;
        let found = rustix::fs::fstat(&fd).map_err(|source| error("fstat")(source.into()))?.st_size;
        let end = u64::try_from(found).unwrap_or(0).checked_next_multiple_of(page_size as u64);
        let rounded = len.checked_next_multiple_of(page_size).filter(|&len| len > 0 && Some(len as u64) <= end);
        let rounded = rounded.ok_or_else(|| error("length of the file")(too_long()))?;
        let writable = access == Access::ReadWrite;
        if writable && !in_memory {
            return Err(error("writable mapping of a file that is not memory")(io::ErrorKind::PermissionDenied.into()));
        }
        let mut options = MmapOptions::new();
        let pages = match writable {
            true => options.len(rounded).map_raw(fd.as_raw_fd()),
            false => options.len(rounded).map_raw_read_only(fd.as_raw_fd()),
        };
        Ok(Self::region(pages.map_err(error("mmap"))?, writable, fd, page_size, Backing::File))
    }

    fn region(pages: MmapRaw, writable: bool, fd: OwnedFd, page_size: usize, backing: Backing) -> Self {
        let writable = if writable { pages.len() } else { 0 };
        Self(Arc::new(Region { pages, writable, fd, page_size, backing }))
    }

    /// Length, bytes: a multiple of [`page_size`](Self::page_size).
    #[inline]
    pub fn len(&self) -> usize {
        self.0.pages.len()
    }

    /// Never: a region has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Page size of the backing, bytes: 4096 on shmem, the huge page size on hugetlb.
    pub fn page_size(&self) -> usize {
        self.0.page_size
    }

    /// Whether the region can be written: not if it is of a file mapped for reading.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.0.writable > 0
    }

    /// What the region stands on.
    pub fn backing(&self) -> &Backing {
        &self.0.backing
    }

    /// First byte in this process. The device may change the bytes at any time.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.pages.as_mut_ptr()
    }

    /// The memfd or file; the region begins at its offset 0.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// A descriptor of the same memory that can only be mapped for reading.
    ///
    /// # Errors
    /// [`Error::Memory`] when `/proc` is not mounted or the process is out of descriptors.
    pub fn read_only_fd(&self) -> Result<OwnedFd> {
        let reading = rustix::fs::fcntl_getfl(&self.0.fd).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDONLY);
        let fd = match reading {
            // Opening it again would need permission on the file, which whoever passed the descriptor on may not have.
            true => self.0.fd.try_clone(),
            false => File::open(format!("/proc/self/fd/{}", self.0.fd.as_raw_fd())).map(OwnedFd::from),
        };
        fd.map_err(|source| Error::Memory { len: self.len(), what: "read-only descriptor", source })
    }

    /// Copies bytes out, beginning at byte `offset`.
    ///
    /// # Panics
    /// When the range is not inside the region.
    #[inline]
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.range(offset, bytes.len());
        // SAFETY: `range` proved `from..from + bytes.len()` to lie in the mapping, which is readable and lives as long
        // as `self`.
        unsafe { copy_out(from, bytes) };
    }

    /// The `N` bytes at byte `offset`; fastest when both are multiples of 8.
    ///
    /// # Panics
    /// As [`read_at`](Self::read_at).
    #[inline]
    pub fn read_array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if !offset.is_multiple_of(8) || !N.is_multiple_of(8) || !self.is_writable() {
            self.read_elsewhere(offset, &mut bytes);
            return bytes;
        }
        let words = self.words(offset, N / 8);
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        bytes
    }

    /// [`read_at`](Self::read_at), not as a part of its caller.
    #[cold]
    fn read_elsewhere(&self, offset: usize, bytes: &mut [u8]) {
        self.read_at(offset, bytes);
    }

    /// Copies bytes in, beginning at byte `offset`.
    ///
    /// # Panics
    /// When the range is not inside the region, or the region can not be written.
    #[inline]
    pub fn write_at(&self, offset: usize, bytes: &[u8]) {
        let to = self.writable_range(offset, bytes.len());
        // SAFETY: in bounds as in `read_at`, and writable. The only references this type gives out are to atomics, which
        // expect to be written. (Who makes plain references from `as_ptr` must keep others from writing.)
        unsafe { copy_in(bytes, to) };
    }

    /// The 32-bit word at byte `offset`.
    ///
    /// # Panics
    /// When `offset` is not aligned to 4 or not inside the region, or the region can not be written.
    #[inline]
    pub fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "offset {offset} is not aligned to 4 bytes");
        let at = self.writable_range(offset, 4);
        // SAFETY: in bounds and writable (`writable_range`), aligned (mappings are page aligned, `offset` is a multiple of 4); atomics may
        // be shared with writers of other mappings; the borrow ends with `self`.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    /// The 64-bit word at byte `offset`.
    ///
    /// # Panics
    /// When `offset` is not aligned to 8 or not inside the region, or the region can not be written.
    #[inline]
    pub fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "offset {offset} is not aligned to 8 bytes");
        let at = self.writable_range(offset, 8);
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(at.cast()) }
    }

    /// The 64-bit words from byte `offset`: descriptor memory.
    ///
    /// # Panics
    /// When `offset` is not aligned to 8, the words are not inside the region, or the region can not be written.
    #[inline]
    pub fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8), "offset {offset} is not aligned to 8 bytes");
        let at = self.writable_range(offset, count.saturating_mul(8));
        // SAFETY: in bounds and aligned as in `word64`; a slice of atomics asserts nothing about the stored values.
        unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), count) }
    }

    #[inline]
    fn range(&self, offset: usize, len: usize) -> *mut u8 {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        assert!(inside, "{len} bytes at {offset} asked of a region of {} bytes", self.len());
        self.as_ptr().wrapping_add(offset)
    }

    /// The same for what will be written: a store to a read-only mapping would be SIGSEGV, and an atomic there is not
    /// allowed even to be read.
    #[inline]
    fn writable_range(&self, offset: usize, len: usize) -> *mut u8 {
        let (all, writable) = (self.len(), self.0.writable);
        let inside = offset.checked_add(len).is_some_and(|end| end <= writable);
        assert!(inside, "{len} bytes at {offset} asked of a region of {all} bytes, {writable} of them writable");
        self.as_ptr().wrapping_add(offset)
    }
}

/// A memfd of `len` bytes to hand to a peer: its length is sealed, it can not be run, and nobody but this user can open it
/// again. Who is handed a descriptor that only reads would otherwise open `/proc/self/fd/N` for writing: to that, a memfd is a
/// file that everybody may write.
///
/// # Errors
/// The kernel's.
pub fn memfd(name: &str, len: usize, flags: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // With `vm.memfd_noexec=2` there are no others. Before Linux 6.3 the flag is not known.
    let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        other => other?,
    };
    // Ours has been opened for both; this is asked of those that are opened by name.
    rustix::fs::fchmod(&fd, Mode::RUSR)?;
    rustix::fs::ftruncate(&fd, len as u64)?;
    // A peer that is handed the descriptor must not be able to cut the memory off under us (SIGBUS).
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Page size of the file system that `fd` is on, bytes, and whether its files are memory.
fn file_pages(fd: BorrowedFd<'_>) -> io::Result<(usize, bool)> {
    let found = rustix::fs::fstatfs(fd)?;
    Ok(match found.f_type as u32 {
        // What hugetlbfs calls its block size is its page size.
        HUGETLBFS_MAGIC => (found.f_bsize as usize, true),
        kind => (rustix::param::page_size(), kind == TMPFS_MAGIC),
    })
}

/// linux/magic.h; a memfd is on a tmpfs of the kernel's own.
const TMPFS_MAGIC: u32 = 0x0102_1994;
const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;

fn too_long() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidInput)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_rounded_to_pages_and_contents_are_kept() {
        let memory = SharedMemory::new("test", 5000, HugePages::Never).unwrap();
        assert_eq!(memory.len(), 8192);
        assert_eq!(memory.backing(), &Backing::Shmem { instead: None });
        memory.write_at(4095, b"across");
        let mut back = [0; 6];
        memory.read_at(4095, &mut back);
        assert_eq!(&back, b"across");
        assert_eq!(&memory.read_array::<6>(4095), b"across");
        assert_eq!(&memory.read_array::<8>(4088), b"\0\0\0\0\0\0\0a");
        assert_eq!(&memory.read_array::<8>(4096), b"cross\0\0\0");
        memory.word32(8).store(0x0102_0304, Ordering::Relaxed);
        assert_eq!(memory.words(8, 1)[0].load(Ordering::Relaxed), 0x0102_0304);
    }

    #[test]
    fn asking_for_huge_pages_always_gives_memory() {
        let memory = SharedMemory::new("test", 4096, HugePages::IfFree).unwrap();
        match memory.backing() {
            Backing::HugeTlb => assert_eq!(memory.len() % memory.page_size(), 0),
            Backing::Shmem { instead } => assert!(instead.as_ref().unwrap().contains("nr_hugepages")),
            Backing::File => unreachable!("no file was given"),
        }
    }

    #[test]
    fn no_memory_of_zero_or_absurd_length() {
        assert!(SharedMemory::new("test", 0, HugePages::Never).is_err());
        assert!(SharedMemory::new("test", usize::MAX, HugePages::IfFree).is_err());
    }

    #[test]
    #[should_panic(expected = "asked of a region")]
    fn a_read_past_the_end_panics() {
        SharedMemory::new("test", 4096, HugePages::Never).unwrap().read_at(4095, &mut [0; 2]);
    }

    #[test]
    fn a_read_only_descriptor_cannot_be_mapped_for_writing() {
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        memory.write_at(0, b"still");
        let fd = memory.read_only_fd().unwrap();
        // `map_raw` asks for PROT_WRITE.
        assert!(MmapOptions::new().len(4096).map_raw(fd.as_raw_fd()).is_err());
        let read_only = MmapOptions::new().len(4096).map_raw_read_only(fd.as_raw_fd()).unwrap();
        // SAFETY: a page that was just mapped, and nobody writes it now.
        assert_eq!(unsafe { *read_only.as_ptr() }, b's');
    }

    #[test]
    fn the_descriptor_cannot_be_shrunk_by_a_peer() {
        let memory = SharedMemory::new("test", 8192, HugePages::Never).unwrap();
        assert!(rustix::fs::ftruncate(memory.fd(), 4096).is_err());
    }

    #[test]
    fn a_peer_that_was_handed_a_descriptor_for_reading_gets_none_for_writing() {
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        let found = rustix::fs::fstat(memory.fd()).unwrap();
        assert_eq!(found.st_mode & 0o777, 0o400);
        let seals = rustix::fs::fcntl_get_seals(memory.fd()).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL), "{seals:?}");
        // Linux 6.3: `F_SEAL_EXEC`.
        let known = rustix::fs::memfd_create("test", MemfdFlags::NOEXEC_SEAL).is_ok();
        assert_eq!(seals.bits() & 0x20 != 0, known, "{seals:?}");
        if !rustix::process::geteuid().is_root() {
            // (Root asks nobody.)
            let fd = memory.read_only_fd().unwrap();
            assert!(File::options().write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd())).is_err());
            return;
        }
        // As another user, this program's descriptor is its standard input.
        let reopen = |fd: OwnedFd| {
            let mut shell = std::process::Command::new("sh");
            std::os::unix::process::CommandExt::uid(&mut shell, 65534);
            shell
                .args(["-c", "exec 3<>/proc/self/fd/0"])
                .current_dir("/")
                .stdin(fd)
                .stderr(std::process::Stdio::null());
            shell.status().unwrap().success()
        };
        assert!(!reopen(memory.read_only_fd().unwrap()), "opened for writing");
        let open = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        assert!(reopen(open), "so this can fail");
    }

    #[test]
    fn a_file_is_memory_up_to_the_end_of_its_last_page() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 5000]).unwrap();
        let of = |len| SharedMemory::of_file(File::open(file.path()).unwrap(), len, Access::ReadOnly);
        let memory = of(5000).unwrap();
        assert_eq!((memory.len(), memory.backing(), memory.is_writable()), (8192, &Backing::File, false));
        let mut end = [9; 3193];
        memory.read_at(4999, &mut end);
        assert_eq!((end[0], &end[1..]), (7, &[0; 3192][..]), "zeros behind the end");
        assert_eq!(of(8192).unwrap().len(), 8192);
        assert!(of(8193).is_err(), "a page behind the last one is SIGBUS");
        assert!(of(0).is_err());
        assert!(of(usize::MAX).is_err());
        let fd = memory.read_only_fd().unwrap();
        assert!(MmapOptions::new().len(4096).map_raw(fd.as_raw_fd()).is_err());
    }

    #[test]
    fn only_memory_can_be_a_writable_region() {
        let fd = memfd("test", 4096, MemfdFlags::empty()).unwrap();
        let memory = SharedMemory::of_file(fd.try_clone().unwrap(), 4096, Access::ReadWrite).unwrap();
        memory.write_at(0, b"both");
        let mut seen = [0; 4];
        SharedMemory::of_file(fd, 4096, Access::ReadOnly).unwrap().read_at(0, &mut seen);
        assert_eq!(&seen, b"both");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"disk").unwrap();
        let writable = || File::options().read(true).write(true).open(file.path()).unwrap();
        if file_pages(writable().as_fd()).unwrap().1 {
            println!("skipped: the temporary folder is on a tmpfs");
            return;
        }
        assert!(SharedMemory::of_file(writable(), 4, Access::ReadWrite).is_err());
    }

    #[test]
    #[should_panic(expected = "0 of them writable")]
    fn a_word_of_a_region_for_reading_panics() {
        let fd = memfd("test", 4096, MemfdFlags::empty()).unwrap();
        SharedMemory::of_file(fd, 4096, Access::ReadOnly).unwrap().word64(0);
    }
}
