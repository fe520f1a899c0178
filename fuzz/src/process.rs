//! What this crate needs of the kernel and no library gives safely.
#![allow(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::mm::UserfaultfdFlags;

/// Has writes to a closed socket be errors and no signals, as they are in every Rust program: libFuzzer's `main` is C++.
pub fn ignore_broken_pipes() {
    // SAFETY: ignoring a signal runs no code of ours in a handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// A userfaultfd that listens to nothing.
pub fn userfaultfd(nonblocking: bool) -> Option<OwnedFd> {
    let flags = UserfaultfdFlags::CLOEXEC;
    let flags = if nonblocking { flags | UserfaultfdFlags::NONBLOCK } else { flags };
    // SAFETY: whoever it is given to may have it listen to memory of this process only by the ioctls of the page cache, which
    // it makes for no memory but that of views.
    unsafe { rustix::mm::userfaultfd(flags) }.ok()
}
