//! What a view is made of: address space, and folios laid over it.
//!
//! The address space of a view is *reserved* at first: mapped without memory and registered with a userfaultfd for missing
//! pages, so that it costs nothing and the guard hears of the first touch. Then the folio is *laid* over its part: a
//! mapping of the arena, registered for write protection and protected.
//!
//! A thread may touch the place at any moment, also between two of those steps, and a store that got through then would be
//! one that nobody heard of. So the steps are done at a place that nobody knows, and `mremap(2)` moves the finished mapping
//! over its destination in one step; the userfaultfd and the protection move along (`UFFD_FEATURE_EVENT_REMAP`). Taking a
//! folio away again is the same the other way round, with a fresh piece of reserve.
//!
//! `mremap` returns when the guard has read the event. So nobody may move a mapping while keeping a lock that the guard
//! takes.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags, madvise, mmap, mmap_anonymous, mremap_fixed, munmap};
use stillwire_dma::SharedMemory;
use stillwire_dma::copy::{copy_in, copy_out};

use super::{Listen, Uffd};
use crate::{Error, Result};

/// Address space for a view. Unmapped by [`unmap`](Self::unmap), or by nobody: it does not know its users.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserve {
    /// First byte for the view, aligned to 2 MiB and to the page size.
    pub(crate) base: usize,
    start: usize,
    len: usize,
}

impl Reserve {
    /// Takes `len` bytes of address space, a multiple of the page size, and listens for the first touch of each page.
    pub(crate) fn new(uffd: &Uffd, len: usize, page_size: usize) -> io::Result<Self> {
        let align = ALIGN.max(page_size);
        let start = anonymous(len + align)?;
        let base = start.next_multiple_of(align);
        let reserve = Self { base, start, len: len + align };
        match uffd.register(base, len, Listen::Missing) {
            Ok(()) => Ok(reserve),
            Err(error) => {
                // SAFETY: mapped above, and nobody has been told of it.
                unsafe { reserve.unmap() };
                Err(error)
            }
        }
    }

    /// Takes address space for a view of the file at `path`, and tells how many pages it is of: `most`, or `least` where a
    /// machine counts address space as memory (vm.overcommit_memory=2) and does not grant that.
    pub(crate) fn for_view(path: &Path, uffd: &Uffd, shift: u32, least: u64, most: u64) -> Result<(Self, u64)> {
        let of = |pages: u64| Self::new(uffd, (pages as usize) << shift, 1 << shift).map(|reserve| (reserve, pages));
        of(most).or_else(|_| of(least)).map_err(|source| Error::View {
            path: path.to_path_buf(),
            what: "reserving address space",
            bytes: (least as usize) << shift,
            source,
            hint: "; sysctl vm.overcommit_memory or a limit on address space may be too strict",
        })
    }

    /// Gives the address space back, with all that is laid over it.
    ///
    /// # Safety
    /// Nobody uses the memory any more, and this is called once.
    pub(crate) unsafe fn unmap(&self) {
        // SAFETY: our own mapping (`new`) with whatever was laid over parts of it; the caller is the last user.
        let _ = unsafe { munmap(self.start as *mut _, self.len) };
    }
}

/// Lays `len` bytes of `arena` from `offset` over the part of a reserve at `at`, protected from the first moment on.
///
/// # Safety
/// `at..at + len` lies in a [`Reserve`] that is still mapped.
pub(crate) unsafe fn lay(uffd: &Uffd, arena: &SharedMemory, offset: u64, at: usize, len: usize) -> io::Result<()> {
    // SAFETY: the caller's.
    unsafe { lay_file(uffd, arena.fd(), offset, at, len) }
}

/// The same for an arena of which there is only a descriptor.
///
/// # Safety
/// As [`lay`].
pub(crate) unsafe fn lay_file(
    uffd: &Uffd,
    arena: BorrowedFd<'_>,
    offset: u64,
    at: usize,
    len: usize,
) -> io::Result<()> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let place = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, arena, offset) }? as usize;
    // SAFETY: a mapping that was just made and that nobody else knows; a child will not have it.
    let prepared = unsafe { madvise(place as *mut _, len, Advice::LinuxDontFork) }
        .map_err(io::Error::from)
        .and_then(|()| uffd.register(place, len, Listen::WriteProtect))
        .and_then(|()| uffd.protect(place, len));
    // SAFETY: the caller vouches for the destination; the source is ours.
    unsafe { move_to(prepared, place, at, len) }
}

/// Replaces what is laid at `at..at + len` by fresh reserve.
///
/// # Safety
/// As [`lay`].
pub(crate) unsafe fn unlay(uffd: &Uffd, at: usize, len: usize) -> io::Result<()> {
    let place = anonymous(len)?;
    let prepared = uffd.register(place, len, Listen::Missing);
    // SAFETY: the caller vouches for the destination; the source is ours.
    unsafe { move_to(prepared, place, at, len) }
}

/// Stores `bytes` at `address` of a view, word by word. Waits like any store.
///
/// # Safety
/// The bytes there are in a view that stays mapped, and nobody has references to them.
pub(crate) unsafe fn store(_: &Uffd, address: usize, bytes: &[u8]) {
    // SAFETY: the caller's.
    unsafe { copy_in(bytes, address as *mut u8) };
}

/// Copies out what is at `address` of a view, word by word.
///
/// # Safety
/// The bytes there are in a view that stays mapped.
pub(crate) unsafe fn load(_: &Uffd, address: usize, bytes: &mut [u8]) {
    // SAFETY: the caller's.
    unsafe { copy_out(address as *const u8, bytes) };
}

/// Moves the finished mapping at `place` over `at`; unmaps it when that, or what `prepared` it, failed.
///
/// # Safety
/// `at..at + len` lies in a reserve, `place..place + len` is a mapping that nobody else knows.
unsafe fn move_to(prepared: io::Result<()>, place: usize, at: usize, len: usize) -> io::Result<()> {
    let moved = prepared.and_then(|()| {
        // SAFETY: replaces a part of a reserve, which exists to be replaced (caller), by a mapping of the same length. Users
        // of the view's memory find it mapped before and after, and the kernel lets no access fall in between.
        let moved = unsafe { mremap_fixed(place as *mut _, len, len, MremapFlags::MAYMOVE, at as *mut _) };
        moved.map(drop).map_err(io::Error::from)
    });
    if moved.is_err() {
        // SAFETY: ours, and not moved.
        let _ = unsafe { munmap(place as *mut _, len) };
    }
    moved
}

/// Address space that a touch makes zeros of, unless a userfaultfd listens.
fn anonymous(len: usize) -> io::Result<usize> {
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let place = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, flags) }? as usize;
    // SAFETY: changes no bytes and no mapping of this process; a child will not have the memory.
    unsafe { madvise(place as *mut _, len, Advice::LinuxDontFork) }?;
    Ok(place)
}

/// Has the kernel back a part of `arena` by huge pages, as far as it has some. What is in the pages stays. Takes some 40 ms
/// for 32 MiB, most of it for making the small pages first, which the call needs.
pub(crate) fn collapse(arena: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<()> {
    let reserve = anonymous(len + ALIGN)?;
    // The call wants an aligned address, so the part is mapped once more for it.
    let place = reserve.next_multiple_of(ALIGN);
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
    // SAFETY: replaces a part of the reserve, which was just mapped and has room for `len` bytes from `place`.
    let mapped = unsafe { mmap(place as *mut _, len, prot, flags, arena, offset) }.map_err(io::Error::from);
    let answer = mapped.and_then(|place| {
        // SAFETY: both calls change no bytes, only the pages that they are in (Linux 5.14, 6.1).
        let done = unsafe {
            libc::madvise(place, len, libc::MADV_POPULATE_READ) == 0
                && libc::madvise(place, len, libc::MADV_COLLAPSE) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    });
    // SAFETY: mapped above, and nobody else knows it.
    let _ = unsafe { munmap(reserve as *mut _, len + ALIGN) };
    answer
}

/// Alignment of a view, bytes: a huge page's.
const ALIGN: usize = 2 << 20;
