//! Host memory as a table of device addresses: the IOMMU that stands before a model.
//!
//! Every mapping is made by the table itself from a file descriptor, so a model's accesses go through other pointers
//! than its driver's, as a device's do.
#![allow(unsafe_code)]

mod between;
mod volatile;

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use memmap2::{MmapOptions, MmapRaw};

use crate::bus::{BusFault, BusMemory};

use between::{Between, Bytes};

pub(crate) use between::garble;
pub use between::{DmaAccess, DmaFate, Interposer};
pub(crate) use volatile::{RingMemory, Tally};

/// Which memory a device address means. Changes wait for the access under way; after [`unmap`](Self::unmap) returns
/// there is none.
#[derive(Default)]
pub struct MemoryTable {
    table: RwLock<Table>,
    between: OnceLock<Between>,
}

#[derive(Default)]
struct Table {
    /// By first address; they do not overlap.
    regions: BTreeMap<u64, Region>,
    /// Files already mapped, by device, inode and writability: QEMU hands a new descriptor of one file for every page.
    files: BTreeMap<(u64, u64, bool), Weak<FileMap>>,
    now: Mapped,
    peak: Mapped,
}

/// How much is mapped, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mapped {
    /// The device may only read it.
    pub read_only: u64,
    /// The device may read and write it.
    pub writable: u64,
}

impl Mapped {
    fn kind(&mut self, writable: bool) -> &mut u64 {
        if writable { &mut self.writable } else { &mut self.read_only }
    }
}

struct FileMap {
    pages: MmapRaw,
}

#[derive(Clone)]
struct Region {
    /// Last address; inclusive, so that the top of the address space can be mapped.
    last: u64,
    file: Arc<FileMap>,
    /// Offset in the file of the first address, bytes.
    offset: usize,
    writable: bool,
}

impl MemoryTable {
    /// A table in which nothing is mapped.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Makes `len` bytes of a file, from byte `offset`, visible at `address`. `writable` is cut down to what the
    /// descriptor itself allows: a read-only descriptor gives read-only memory. The descriptor is not kept.
    ///
    /// # Errors
    /// `InvalidInput` when the range is empty, wraps, or lies beyond the file; `AlreadyExists` when an address is mapped;
    /// else what mmap(2) said.
    pub fn map(&self, address: u64, fd: BorrowedFd<'_>, offset: u64, len: u64, writable: bool) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let last = len.checked_sub(1).and_then(|rest| address.checked_add(rest)).ok_or_else(invalid)?;
        let mode = rustix::fs::fcntl_getfl(fd)? & rustix::fs::OFlags::RWMODE;
        if mode == rustix::fs::OFlags::WRONLY {
            return Err(invalid());
        }
        let writable = writable && mode == rustix::fs::OFlags::RDWR;
        let mut table = self.write_table();
        if table.overlapping(address, last).next().is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = table.file(fd, offset.checked_add(len).ok_or_else(invalid)?, writable)?;
        let offset = usize::try_from(offset).map_err(|_| invalid())?;
        table.regions.insert(address, Region { last, file, offset, writable });
        table.count(writable, len);
        Ok(())
    }

    /// Takes `len` bytes from `address` out of the table; what was not mapped is left so. A mapping that lies partly
    /// within keeps its other part. `address + len` may be 2^64. Returns how many ranges lost something.
    pub fn unmap(&self, address: u64, len: u64) -> usize {
        let Some(rest) = len.checked_sub(1) else { return 0 };
        let last = address.saturating_add(rest);
        let mut table = self.write_table();
        let starts: Vec<u64> = table.overlapping(address, last).collect();
        let count = starts.len();
        for start in starts {
            let Some(region) = table.regions.remove(&start) else { continue };
            let gone = region.last.min(last) - start.max(address) + 1;
            *table.now.kind(region.writable) -= gone;
            if start < address {
                table.regions.insert(start, Region { last: address - 1, ..region.clone() });
            }
            if region.last > last {
                let offset = region.offset + (last + 1 - start) as usize;
                table.regions.insert(last + 1, Region { offset, ..region });
            }
        }
        table.files.retain(|_, file| file.strong_count() > 0);
        count
    }

    /// Takes everything out.
    pub fn clear(&self) {
        let mut table = self.write_table();
        table.regions.clear();
        table.files.clear();
        table.now = Mapped::default();
    }

    /// The most that was mapped of each kind, not necessarily at the same time.
    pub fn peak(&self) -> Mapped {
        self.read_table().peak
    }

    /// Number of mapped ranges.
    pub fn len(&self) -> usize {
        self.read_table().regions.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read_table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn count(&mut self, writable: bool, len: u64) {
        let now = self.now.kind(writable);
        *now = now.saturating_add(len);
        let now = *now;
        let peak = self.peak.kind(writable);
        *peak = now.max(*peak);
    }

    /// First addresses of the regions that have a byte in `first..=last`.
    fn overlapping(&self, first: u64, last: u64) -> impl Iterator<Item = u64> + '_ {
        let before = self.regions.range(..first).next_back().filter(|(_, region)| region.last >= first);
        before.into_iter().chain(self.regions.range(first..=last)).map(|(start, _)| *start)
    }

    /// The map of a whole file, at least `end` bytes long; an older one is shared when it is long enough.
    fn file(&mut self, fd: BorrowedFd<'_>, end: u64, writable: bool) -> io::Result<Arc<FileMap>> {
        let stat = rustix::fs::fstat(fd)?;
        // A file's last page is whole in memory, zeros behind the file's end; a page behind that would be SIGBUS.
        let page = rustix::param::page_size() as u64;
        let len = u64::try_from(stat.st_size).unwrap_or(0).checked_next_multiple_of(page).unwrap_or(0);
        if end > len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let key = (stat.st_dev, stat.st_ino, writable);
        if let Some(file) = self.files.get(&key).and_then(Weak::upgrade).filter(|file| file.pages.len() as u64 >= end) {
            return Ok(file);
        }
        let mut options = MmapOptions::new();
        options.len(usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?);
        let pages = match writable {
            true => options.map_raw(fd.as_raw_fd())?,
            false => options.map_raw_read_only(fd.as_raw_fd())?,
        };
        let file = Arc::new(FileMap { pages });
        self.files.insert(key, Arc::downgrade(&file));
        Ok(file)
    }

    /// Pointer to `address`, and how many bytes follow it in its region.
    fn find(&self, address: u64, write: bool) -> Option<(*mut u8, usize)> {
        let (start, region) = self.regions.range((Bound::Unbounded, Bound::Included(address))).next_back()?;
        if address > region.last || write && !region.writable {
            return None;
        }
        let at = region.offset + (address - start) as usize;
        let left = usize::try_from((region.last - address).saturating_add(1)).unwrap_or(usize::MAX);
        // In bounds: `map` checked that the file's map reaches to the region's end.
        Some((region.file.pages.as_mut_ptr().wrapping_add(at), left))
    }

    /// Calls `each` with pointer, place in the access and length of every piece of an access; all or nothing is mapped.
    fn pieces(&self, fault: BusFault, mut each: impl FnMut(*mut u8, usize, usize)) -> Result<(), BusFault> {
        let mut done = 0;
        let mut found = Vec::new();
        while done < fault.len {
            let address = fault.address.checked_add(done as u64).ok_or(fault)?;
            let (pointer, left) = self.find(address, fault.write).ok_or(fault)?;
            let len = left.min(fault.len - done);
            if len == fault.len {
                each(pointer, 0, len);
                return Ok(());
            }
            found.push((pointer, done, len));
            done += len;
        }
        found.into_iter().for_each(|(pointer, at, len)| each(pointer, at, len));
        Ok(())
    }

    /// Pointer to a naturally aligned word that may be written.
    fn word(&self, address: u64, len: usize) -> Result<*mut u8, BusFault> {
        let fault = BusFault { address, len, write: true };
        let (pointer, left) = self.find(address, true).ok_or(fault)?;
        // The pointer's own alignment counts: a region need not be page aligned on both sides.
        let fits = left >= len && (pointer as usize).is_multiple_of(len);
        if fits { Ok(pointer) } else { Err(fault) }
    }
}

impl BusMemory for MemoryTable {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), BusFault> {
        self.read_through(address, bytes).unwrap_or_else(|| self.read_table().read(address, bytes))
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BusFault> {
        let through = self.write_through(address, || Bytes::Any(bytes.into()), bytes.len());
        through.unwrap_or_else(|| self.read_table().write(address, bytes))
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), BusFault> {
        let through = self.write_through(address, || Bytes::Word32(value), 4);
        through.unwrap_or_else(|| self.read_table().store_u32(address, value))
    }

    fn store_u64(&self, address: u64, value: u64) -> Result<(), BusFault> {
        let through = self.write_through(address, || Bytes::Word64(value), 8);
        through.unwrap_or_else(|| self.read_table().store_u64(address, value))
    }
}

/// Accesses of whoever has the table locked.
impl BusMemory for Table {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), BusFault> {
        let fault = BusFault { address, len: bytes.len(), write: false };
        self.pieces(fault, |from, at, len| {
            let to = &mut bytes[at..at + len];
            // SAFETY: `from` has `len` readable bytes: they lie in a region of `self`, which is borrowed for the whole
            // call, so its map stands, and `map` checked that the region lies inside of it. `to` is `len` bytes of the
            // caller's own. The bytes have other writers, through other mappings only; any mix is a valid `u8` value.
            unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), len) };
        })
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BusFault> {
        let fault = BusFault { address, len: bytes.len(), write: true };
        self.pieces(fault, |to, at, len| {
            let from = &bytes[at..at + len];
            // SAFETY: as in `read`, the other way round; `find` gave `to` for writing only from a map that was made
            // writable. Nobody holds a Rust reference to the map's bytes: this type gives out none.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, len) };
        })
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), BusFault> {
        let pointer = self.word(address, 4)?;
        // SAFETY: `word` gave a writable, 4-byte aligned pointer with 4 bytes in a map that stands while `self` is
        // borrowed; the reference ends with this statement.
        unsafe { AtomicU32::from_ptr(pointer.cast()) }.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    fn store_u64(&self, address: u64, value: u64) -> Result<(), BusFault> {
        let pointer = self.word(address, 8)?;
        // SAFETY: as in `store_u32`, with 8 bytes.
        unsafe { AtomicU64::from_ptr(pointer.cast()) }.store(value.to_le(), Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    fn file(len: u64) -> OwnedFd {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, len).unwrap();
        fd
    }

    #[test]
    fn an_access_may_span_two_regions_but_no_hole() {
        let (table, fd) = (MemoryTable::new(), file(0x3000));
        table.map(0x10000, fd.as_fd(), 0x2000, 0x1000, true).unwrap();
        table.map(0x11000, fd.as_fd(), 0, 0x1000, true).unwrap();
        table.write(0x10ffe, b"abcd").unwrap();
        let mut seen = [0; 2];
        rustix::io::pread(&fd, &mut seen, 0x2ffe).unwrap();
        assert_eq!(&seen, b"ab");
        rustix::io::pread(&fd, &mut seen, 0).unwrap();
        assert_eq!(&seen, b"cd");
        // Nothing of an access that faults reaches memory.
        let fault = table.write(0x11fff, b"xy").unwrap_err();
        assert_eq!(fault, BusFault { address: 0x11fff, len: 2, write: true });
        let mut byte = [9];
        table.read(0x11fff, &mut byte).unwrap();
        assert_eq!(byte, [0]);
        assert!(table.read(u64::MAX, &mut [0; 4]).is_err());
    }

    #[test]
    fn read_only_by_flag_or_by_descriptor() {
        let (table, fd) = (MemoryTable::new(), file(0x1000));
        table.map(0, fd.as_fd(), 0, 0x1000, false).unwrap();
        let read_only = std::fs::File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        table.map(0x1000, read_only.as_fd(), 0, 0x1000, true).unwrap();
        table.map(0x2000, fd.as_fd(), 0, 0x1000, true).unwrap();
        table.store_u64(0x2008, 7).unwrap();
        for address in [8, 0x1008] {
            let mut word = [0; 8];
            table.read(address, &mut word).unwrap();
            assert_eq!(u64::from_le_bytes(word), 7);
            assert!(table.store_u64(address, 1).is_err() && table.write(address, &[1]).is_err());
        }
    }

    #[test]
    fn unmapping_parts_holes_and_the_whole_space() {
        let (table, fd) = (MemoryTable::new(), file(0x4000));
        table.map(0x4000, fd.as_fd(), 0, 0x4000, true).unwrap();
        assert_eq!(table.map(0x7fff, fd.as_fd(), 0, 1, true).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        table.write(0x7000, b"end").unwrap();
        table.unmap(0x5000, 0x2000);
        assert_eq!(table.len(), 2);
        assert!(table.read(0x4fff, &mut [0; 2]).is_err());
        let mut seen = [0; 3];
        table.read(0x7000, &mut seen).unwrap();
        assert_eq!(&seen, b"end");
        table.unmap(0x100_0000, 0x1000);
        table.unmap(0, 0);
        assert_eq!(table.len(), 2);
        table.unmap(0x7000, 0u64.wrapping_sub(0x7000));
        table.unmap(0, u64::MAX);
        assert!(table.is_empty());
    }

    #[test]
    fn what_is_mapped_is_counted() {
        let (table, fd) = (MemoryTable::new(), file(0x4000));
        table.map(0x1000, fd.as_fd(), 0, 0x2000, false).unwrap();
        table.map(0x3000, fd.as_fd(), 0x2000, 0x1000, true).unwrap();
        // Half of the first, and all of the second.
        assert_eq!(table.unmap(0x2000, 0x2000), 2);
        assert_eq!(table.unmap(0x2000, 0x2000), 0);
        table.map(0x8000, fd.as_fd(), 0, 0x800, false).unwrap();
        assert_eq!(table.peak(), Mapped { read_only: 0x2000, writable: 0x1000 });
        table.map(0x9000, fd.as_fd(), 0, 0x1000, false).unwrap();
        assert_eq!(table.peak(), Mapped { read_only: 0x2800, writable: 0x1000 });
    }

    #[test]
    fn a_file_is_mapped_once_and_a_bad_range_not_at_all() {
        let (table, fd) = (MemoryTable::new(), file(0x2000));
        for page in 0..2 {
            let again = fd.try_clone().unwrap();
            table.map(page << 12, again.as_fd(), page << 12, 0x1000, true).unwrap();
        }
        assert_eq!(table.read_table().files.len(), 1);
        assert!(table.map(0x8000, fd.as_fd(), 0x1000, 0x1001, true).is_err());
        assert!(table.map(0x8000, fd.as_fd(), u64::MAX, 2, true).is_err());
        assert!(table.map(u64::MAX, fd.as_fd(), 0, 2, true).is_err());
        assert!(table.map(0x8000, fd.as_fd(), 0, 0, true).is_err());
        table.map(u64::MAX, fd.as_fd(), 0, 1, true).unwrap();
    }

    #[test]
    fn a_file_counts_up_to_the_end_of_its_last_page() {
        let (table, fd) = (MemoryTable::new(), file(5000));
        rustix::io::pwrite(&fd, b"end", 4997).unwrap();
        table.map(0, fd.as_fd(), 0, 0x2000, false).unwrap();
        let mut seen = [9; 8];
        table.read(4997, &mut seen).unwrap();
        assert_eq!(&seen, b"end\0\0\0\0\0");
        table.read(0x1ff8, &mut seen).unwrap();
        assert!(table.map(0x8000, fd.as_fd(), 0, 0x2001, false).is_err());
    }

    #[test]
    fn words_must_be_aligned() {
        let (table, fd) = (MemoryTable::new(), file(0x1000));
        table.map(0, fd.as_fd(), 0, 0x1000, true).unwrap();
        assert!(table.store_u32(2, 1).is_err());
        assert!(table.store_u64(4, 1).is_err());
        assert!(table.store_u64(0xffc, 1).is_err());
        table.store_u32(0xffc, 1).unwrap();
    }
}
