//! The kernel's userfaultfd: a descriptor that hears of touches of missing pages and of stores into write-protected ones,
//! and changes protection. It belongs to the address space that made it, wherever the descriptor goes.
//!
//! `linux/userfaultfd.h`, the few calls that are used. Nothing here reads or writes the memory itself; every call takes
//! an address range and the kernel checks it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Heard, Listen};
use crate::{Error, Result};

/// A userfaultfd that can write-protect shared memory.
#[derive(Debug)]
pub(crate) struct Uffd {
    fd: OwnedFd,
    kernel_stores: bool,
    id: u64,
}

impl Uffd {
    /// Opens one with as much privilege as there is: `userfaultfd(2)`, `/dev/userfaultfd`, user faults only.
    pub(crate) fn open() -> Result<Self> {
        let (fd, kernel_stores) = match system_call(0) {
            Ok(fd) => (fd, true),
            Err(_) => match device() {
                Ok(fd) => (fd, true),
                Err(_) => (system_call(USER_MODE_ONLY).map_err(|source| Error::NoUserfaultfd { source })?, false),
            },
        };
        let offered = offered_features()?;
        if offered & NEEDED != NEEDED {
            return Err(Error::NoWriteProtect { found: offered, needed: NEEDED });
        }
        let uffd = Self::of(fd, kernel_stores);
        let mut api = Api { api: API_VERSION, features: NEEDED, ioctls: 0 };
        uffd.ioctl(UFFDIO_API, &mut api).map_err(|source| Error::Guard { what: "UFFDIO_API", source })?;
        Ok(uffd)
    }

    /// One that another process has opened as [`open`](Self::open) does, and sent here.
    pub(crate) fn of(fd: OwnedFd, kernel_stores: bool) -> Self {
        Self { fd, kernel_stores, id: NEXT_ID.fetch_add(1, Ordering::Relaxed) }
    }

    /// A number that no other in this process has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether a store by the kernel (`read(2)` into a view) waits like any other. If not, it fails with EFAULT.
    pub(crate) fn hears_kernel_stores(&self) -> bool {
        self.kernel_stores
    }

    /// Asks to hear of touches in the range.
    pub(crate) fn register(&self, address: usize, bytes: usize, listen: Listen) -> io::Result<()> {
        let mode = match listen {
            Listen::Missing => REGISTER_MODE_MISSING,
            Listen::WriteProtect => REGISTER_MODE_WP,
        };
        let mut register = Register { range: Range::of(address, bytes), mode, ioctls: 0 };
        self.ioctl(UFFDIO_REGISTER, &mut register)
    }

    /// Takes write permission away. On return no processor has a translation left that would let a store through.
    pub(crate) fn protect(&self, address: usize, bytes: usize) -> io::Result<()> {
        loop {
            let mut call = WriteProtect { range: Range::of(address, bytes), mode: WRITEPROTECT_MODE_WP };
            match self.ioctl(UFFDIO_WRITEPROTECT, &mut call) {
                // A mapping is being moved, and its mover waits for the guard; nothing has been done yet, or a part: the
                // call is idempotent.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    /// Gives write permission back and wakes the threads that wait for it. The guard calls this, for which a mover of a
    /// mapping may be waiting; so it must hear of that meanwhile, or both would wait for ever. What else it hears is in
    /// `heard`.
    pub(crate) fn unprotect(&self, address: usize, bytes: usize, heard: &mut Vec<Heard>) -> io::Result<()> {
        loop {
            let mut call = WriteProtect { range: Range::of(address, bytes), mode: 0 };
            match self.ioctl(UFFDIO_WRITEPROTECT, &mut call) {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => self.faults(heard)?,
                other => return other,
            }
            std::thread::yield_now();
        }
    }

    /// Wakes threads that wait in the range; they try again.
    pub(crate) fn wake(&self, address: usize, bytes: usize) -> io::Result<()> {
        self.ioctl(UFFDIO_WAKE, &mut Range::of(address, bytes))
    }

    /// Lets threads that touch the range, which is registered for missing pages, fail with SIGBUS (Linux 6.6).
    pub(crate) fn poison(&self, address: usize, bytes: usize) -> io::Result<()> {
        self.fill(UFFDIO_POISON, address, bytes)
    }

    /// Puts zeros into the range, which is registered for missing pages.
    pub(crate) fn zero(&self, address: usize, bytes: usize) -> io::Result<()> {
        self.fill(UFFDIO_ZEROPAGE, address, bytes)
    }

    fn fill(&self, request: u64, address: usize, bytes: usize) -> io::Result<()> {
        loop {
            let mut call = Fill { range: Range::of(address, bytes), mode: 0, filled: 0 };
            match self.ioctl(request, &mut call) {
                // A mapping is being moved, and its mover waits for the guard (who never calls this).
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => std::thread::yield_now(),
                // Somebody was faster.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => return Ok(()),
                other => return other,
            }
        }
    }

    /// Reads what was touched, as many messages as there are now and fit; never blocks.
    pub(crate) fn faults(&self, heard: &mut Vec<Heard>) -> io::Result<()> {
        let mut messages = [0u8; MESSAGE_LEN * 32];
        let len = match rustix::io::read(&self.fd, &mut messages) {
            Ok(len) => len,
            // Nothing there: the thread that faulted was woken or killed between poll and read.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        // Other events: a mapping has been moved (by `mapping.rs`), and the mover waited for this to be read.
        for message in messages[..len].chunks_exact(MESSAGE_LEN) {
            if message[0] == EVENT_PAGEFAULT {
                let address: [u8; 8] = message[16..24].try_into().unwrap_or_default();
                let flags: [u8; 8] = message[8..16].try_into().unwrap_or_default();
                let missing = u64::from_ne_bytes(flags) & PAGEFAULT_FLAG_WP == 0;
                heard.push(Heard { address: u64::from_ne_bytes(address) as usize, missing });
            }
        }
        Ok(())
    }

    fn ioctl<T>(&self, request: u64, argument: &mut T) -> io::Result<()> {
        // SAFETY: each request is called with the structure whose size is encoded in its number (the constants below),
        // which the kernel reads and writes and nothing else in this process: no memory is mapped, unmapped or written.
        let answer = unsafe { libc::ioctl(self.fd.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Feature bits of this kernel, asked of a descriptor of their own: a descriptor shakes hands once.
fn offered_features() -> Result<u64> {
    let fd = system_call(USER_MODE_ONLY).or_else(|_| device());
    let fd = fd.map_err(|source| Error::NoUserfaultfd { source })?;
    let mut api = Api { api: API_VERSION, features: 0, ioctls: 0 };
    let probe = Uffd::of(fd, false);
    probe.ioctl(UFFDIO_API, &mut api).map_err(|source| Error::Guard { what: "UFFDIO_API", source })?;
    Ok(api.features)
}

fn system_call(flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes a flag word and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags | libc::O_CLOEXEC | libc::O_NONBLOCK) };
    owned(fd)
}

fn device() -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/userfaultfd")?;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: this request takes a flag word by value and touches no memory.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW as _, flags) };
    owned(fd.into())
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `struct uffdio_range`.
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

impl Range {
    fn of(address: usize, bytes: usize) -> Self {
        Self { start: address as u64, len: bytes as u64 }
    }
}

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

/// `struct uffdio_poison`, `struct uffdio_zeropage`.
#[repr(C)]
struct Fill {
    range: Range,
    mode: u64,
    filled: i64,
}

/// `_IOC` of the kernel's generic ioctl numbering (x86, Arm, RISC-V).
const fn request<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | UFFDIO << 8 | number
}

const READ: u64 = 2;
const READ_WRITE: u64 = 3;
const UFFDIO: u64 = 0xaa;
const UFFDIO_API: u64 = request::<Api>(READ_WRITE, 0x3f);
const UFFDIO_REGISTER: u64 = request::<Register>(READ_WRITE, 0x00);
const UFFDIO_WAKE: u64 = request::<Range>(READ, 0x02);
const UFFDIO_WRITEPROTECT: u64 = request::<WriteProtect>(READ_WRITE, 0x06);
const UFFDIO_ZEROPAGE: u64 = request::<Fill>(READ_WRITE, 0x04);
const UFFDIO_POISON: u64 = request::<Fill>(READ_WRITE, 0x08);
const USERFAULTFD_IOC_NEW: u64 = UFFDIO << 8;
const API_VERSION: u64 = 0xaa;
/// `UFFD_USER_MODE_ONLY`: no privilege needed; stores by the kernel are not heard of.
const USER_MODE_ONLY: libc::c_int = 1;
/// `UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM`.
const NEEDED: u64 = 1 | 1 << 2 | 1 << 12;
const REGISTER_MODE_MISSING: u64 = 1;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1;
/// `sizeof(struct uffd_msg)`, bytes.
const MESSAGE_LEN: usize = 32;
const EVENT_PAGEFAULT: u8 = 0x12;
/// `UFFD_PAGEFAULT_FLAG_WP`.
const PAGEFAULT_FLAG_WP: u64 = 1 << 1;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_the_kernels() {
        let numbers = [UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WAKE, UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE, UFFDIO_POISON];
        assert_eq!(numbers, [0xc018_aa3f, 0xc020_aa00, 0x8010_aa02, 0xc018_aa06, 0xc020_aa04, 0xc020_aa08]);
        assert_eq!(USERFAULTFD_IOC_NEW, 0xaa00);
    }

    #[test]
    fn nothing_waiting_gives_no_addresses() {
        let uffd = Uffd::open().unwrap();
        let mut heard = Vec::new();
        uffd.faults(&mut heard).unwrap();
        assert!(heard.is_empty());
    }

    #[test]
    fn memory_that_is_not_mapped_can_not_be_registered() {
        assert!(Uffd::open().unwrap().register(0x1000, 0x1000, Listen::Missing).is_err());
    }
}
