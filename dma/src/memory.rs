//! Memory that has a file descriptor, so that a device behind any carrier can be given it.
//!
//! This memory has a second user that is no thread of this program: the device (or its model, through a mapping of its
//! own). So it is never borrowed as a slice here; it is read and written by copies and by atomic words.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::copy::{copy_in, copy_out};
use crate::{Error, Result, meminfo};

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
}

/// A region of memory shared by descriptor. Clones name the same region; the last one unmaps it.
#[derive(Clone, Debug)]
pub struct SharedMemory(Arc<Region>);

#[derive(Debug)]
struct Region {
    pages: MmapRaw,
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
        let advise = instead.is_some();
        let page_size = rustix::param::page_size();
        let len = len.checked_next_multiple_of(page_size).ok_or_else(|| error("length")(too_long()))?;
        let fd = memfd(name, len, MemfdFlags::empty()).map_err(error("memfd"))?;
        let pages = MmapOptions::new().len(len).map_raw(fd.as_raw_fd()).map_err(error("mmap"))?;
        if advise {
            // Best effort: with shmem_enabled=never the kernel takes the advice and does nothing.
            let _ = pages.advise(Advice::HugePage);
        }
        Ok(Self(Arc::new(Region { pages, fd, page_size, backing: Backing::Shmem { instead } })))
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
        Ok(Self(Arc::new(Region { pages, fd, page_size, backing: Backing::HugeTlb })))
    }

    /// Length, bytes: a multiple of [`page_size`](Self::page_size).
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

    /// What the region stands on.
    pub fn backing(&self) -> &Backing {
        &self.0.backing
    }

    /// First byte in this process. The device may change the bytes at any time.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.pages.as_mut_ptr()
    }

    /// The memfd; the region begins at its offset 0.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// A descriptor of the same memory that can only be mapped for reading.
    ///
    /// # Errors
    /// [`Error::Memory`] when `/proc` is not mounted or the process is out of descriptors.
    pub fn read_only_fd(&self) -> Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.0.fd.as_raw_fd());
        File::open(path).map(OwnedFd::from).map_err(|source| Error::Memory {
            len: self.len(),
            what: "read-only descriptor",
            source,
        })
    }

    /// Copies bytes out, beginning at byte `offset`.
    ///
    /// # Panics
    /// When the range is not inside the region.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.range(offset, bytes.len());
        // SAFETY: `range` proved `from..from + bytes.len()` to lie in the mapping, which is readable and lives as long
        // as `self`.
        unsafe { copy_out(from, bytes) };
    }

    /// Copies bytes in, beginning at byte `offset`.
    ///
    /// # Panics
    /// When the range is not inside the region.
    #[inline]
    pub fn write_at(&self, offset: usize, bytes: &[u8]) {
        let to = self.range(offset, bytes.len());
        // SAFETY: in bounds as in `read_at`, and writable. The only references this type gives out are to atomics, which
        // expect to be written. (Who makes plain references from `as_ptr` must keep others from writing.)
        unsafe { copy_in(bytes, to) };
    }

    /// The 32-bit word at byte `offset`.
    ///
    /// # Panics
    /// When `offset` is not aligned to 4 or not inside the region.
    #[inline]
    pub fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "offset {offset} is not aligned to 4 bytes");
        let at = self.range(offset, 4);
        // SAFETY: in bounds (`range`) and aligned (mappings are page aligned, `offset` is a multiple of 4); atomics may
        // be shared with writers of other mappings; the borrow ends with `self`.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    /// The 64-bit word at byte `offset`.
    ///
    /// # Panics
    /// When `offset` is not aligned to 8 or not inside the region.
    #[inline]
    pub fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "offset {offset} is not aligned to 8 bytes");
        let at = self.range(offset, 8);
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(at.cast()) }
    }

    /// The 64-bit words from byte `offset`: descriptor memory.
    ///
    /// # Panics
    /// When `offset` is not aligned to 8 or the words are not inside the region.
    pub fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8), "offset {offset} is not aligned to 8 bytes");
        let at = self.range(offset, count.saturating_mul(8));
        // SAFETY: in bounds and aligned as in `word64`; a slice of atomics asserts nothing about the stored values.
        unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), count) }
    }

    #[inline]
    fn range(&self, offset: usize, len: usize) -> *mut u8 {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        assert!(inside, "{len} bytes at {offset} asked of a region of {} bytes", self.len());
        self.as_ptr().wrapping_add(offset)
    }
}

fn memfd(name: &str, len: usize, flags: MemfdFlags) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, len as u64)?;
    // A peer that is handed the descriptor must not be able to cut the memory off under us (SIGBUS).
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

fn too_long() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidInput)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn length_is_rounded_to_pages_and_contents_are_kept() {
        let memory = SharedMemory::new("test", 5000, HugePages::Never).unwrap();
        assert_eq!(memory.len(), 8192);
        assert_eq!(memory.backing(), &Backing::Shmem { instead: None });
        memory.write_at(4095, b"across");
        let mut back = [0; 6];
        memory.read_at(4095, &mut back);
        assert_eq!(&back, b"across");
        memory.word32(8).store(0x0102_0304, Ordering::Relaxed);
        assert_eq!(memory.words(8, 1)[0].load(Ordering::Relaxed), 0x0102_0304);
    }

    #[test]
    fn asking_for_huge_pages_always_gives_memory() {
        let memory = SharedMemory::new("test", 4096, HugePages::IfFree).unwrap();
        match memory.backing() {
            Backing::HugeTlb => assert_eq!(memory.len() % memory.page_size(), 0),
            Backing::Shmem { instead } => assert!(instead.as_ref().unwrap().contains("nr_hugepages")),
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
}
