//! The kernel's lease on a regular file (`F_SETLEASE`, fcntl(2)): writers that come later wait until it is given back.
//!
//! What was tried before this was written (Linux 6.18, ext4), because the manual is silent or brief about it:
//!
//! - `open` for writing and `truncate(2)` wait. Both count as writers from before they wait, so a lease that is asked for
//!   again meanwhile is refused: it can not overtake them. `open` with `O_NONBLOCK` (truncate(1) does so) fails at once
//!   with `EWOULDBLOCK`, and the lease breaks nevertheless.
//! - A writable shared mapping counts as a writer when its descriptor has been closed long ago.
//! - `open(O_RDONLY | O_TRUNC)` does **not** wait and does not break the lease: the file is cut short under it.
//! - When a lease goes, the kernel forgets the owner and the signal number that were set for its descriptor. A lease taken
//!   again without setting both would send SIGIO, which kills a process that does not expect it.
//! - `F_GETLEASE` answers `F_UNLCK` from the moment a writer waits, and also after the kernel took the lease away by
//!   force. Only giving it back tells the two apart: it fails with `EAGAIN` if it was gone.
//!
//! A lease belongs to an open file description, so its descriptor is opened for it alone and given to nobody.
//!
//! **How the keeper hears of a writer.** By a real-time signal to its thread alone (`F_OWNER_TID`), blocked there and read
//! from a signalfd. No handler runs, no other thread's mask changes, and the application may use the same number: a signal
//! sent to one thread that has it blocked meets nothing else. Asking `F_GETLEASE` again and again instead would either
//! keep a processor busy or keep every writer waiting for half the interval.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::thread::{Pid, gettid};

/// What a thread hears when a writer wants a file that is leased to it.
pub(crate) struct Ear {
    signals: OwnedFd,
    thread: Pid,
}

impl Ear {
    /// Makes the calling thread the one that is told. Its value must be read in this thread.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        // SAFETY: a sigset_t of zeros is a valid place to build a set in; the calls write only to it; the signal numbers
        // are the kernel's own. The mask of this thread alone changes.
        let signals = unsafe {
            let mut set: libc::sigset_t = zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, signal());
            // What the kernel falls back to when its queue of real-time signals is full.
            libc::sigaddset(&mut set, libc::SIGIO);
            let answer = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            if answer != 0 {
                return Err(io::Error::from_raw_os_error(answer));
            }
            libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if signals < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nothing else owns.
        let signals = unsafe { OwnedFd::from_raw_fd(signals) };
        Ok(Self { signals, thread: gettid() })
    }

    /// The thread.
    pub(crate) fn thread(&self) -> Pid {
        self.thread
    }

    /// Takes all signals that are there.
    pub(crate) fn drain(&self) {
        let mut signals = [0u8; 8 * size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.signals, &mut signals).is_ok() {}
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

/// A file description that can have a lease. Dropping it gives the lease back.
#[derive(Debug)]
pub(crate) struct Lease(File);

/// How giving a lease back went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Given {
    /// It was ours until now.
    Back,
    /// The kernel had taken it away and let the writer on.
    WasTaken,
}

impl Lease {
    /// A description of its own for `file`, without a lease yet.
    pub(crate) fn on(file: &File) -> io::Result<Self> {
        Ok(Self(super::kind::open_again(file)?))
    }

    /// Takes a read lease, of which `thread` is told when a writer comes: `EAGAIN` while anybody has the file open for
    /// writing, `EACCES` if the file is another user's and CAP_LEASE is missing, `EINVAL` if the file system has none.
    pub(crate) fn take(&self, thread: Pid) -> io::Result<()> {
        self.take_with(thread, signal())
    }

    /// Whether a lease could be taken now: takes one and gives it back. The errors are those of [`take`](Self::take).
    pub(crate) fn probe(&self) -> io::Result<()> {
        // A writer that comes in between sends a signal; this one is ignored unless somebody asked for it, and who did
        // must expect it without a cause (signal(7), socket(7)).
        self.take_with(gettid(), libc::SIGURG)?;
        self.give_back().map(drop)
    }

    fn take_with(&self, thread: Pid, signal: libc::c_int) -> io::Result<()> {
        let owner = OwnerEx { kind: F_OWNER_TID, pid: thread.as_raw_nonzero().get() };
        let fd = self.0.as_raw_fd();
        // In this order, each time (see the module's text): from its first moment on the lease has the right signal.
        // SAFETY: an integer argument.
        check(unsafe { libc::fcntl(fd, F_SETSIG, signal) })?;
        // SAFETY: the kernel reads a `struct f_owner_ex` at the pointer, which `OwnerEx` is.
        check(unsafe { libc::fcntl(fd, F_SETOWN_EX, &owner) })?;
        // SAFETY: an integer argument.
        check(unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) })
    }

    /// Whether the lease is held and no writer waits.
    pub(crate) fn is_quiet(&self) -> bool {
        // SAFETY: takes no argument.
        let found = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) };
        found == libc::F_RDLCK
    }

    /// Gives the lease back; a writer that waits goes on.
    pub(crate) fn give_back(&self) -> io::Result<Given> {
        // SAFETY: an integer argument.
        match check(unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) }) {
            Ok(()) => Ok(Given::Back),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(Given::WasTaken),
            Err(error) => Err(error),
        }
    }

    /// The leased file.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Closing alone would leave it with a child that was forked meanwhile.
        let _ = self.give_back();
    }
}

/// How long the kernel lets us drain; `None`: as long as we like.
pub(crate) fn break_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/sys/fs/lease-break-time").unwrap_or_default();
    // Without /proc: the kernel's default.
    let seconds = text.trim().parse().unwrap_or(45u32);
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Any real-time signal will do.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

/// `struct f_owner_ex` (asm-generic/fcntl.h).
#[repr(C)]
struct OwnerEx {
    kind: libc::c_int,
    pid: libc::pid_t,
}

const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;
