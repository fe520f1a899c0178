//! The writer's own mappings: what the cache asks to have laid, and what becomes of them when it has gone.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use rustix::net::{Shutdown, shutdown};

use super::super::protocol::{Message, code_of, send};
use super::Shared;
use crate::core::lock;
use crate::kernel;

impl Shared {
    /// Changes the view's mappings as the cache asks for it.
    pub(super) fn serve(&self, jobs: &Receiver<Message>) {
        while let Ok(job) = jobs.recv() {
            let (call, answer) = {
                let mapped = lock(&self.mapped);
                if self.gone.load(Ordering::SeqCst) {
                    return;
                }
                match job {
                    Message::Lay { call, at, offset, len } => (call, self.lay(*mapped, at, offset, len)),
                    Message::Unlay { call, at, len } => (call, self.unlay(*mapped, at, len)),
                    _ => return,
                }
            };
            // When it can not be sent, the reader finds out too.
            let _ = send(&self.socket, &Message::Answer { call, code: code_of(&answer) }, None, true);
        }
    }

    fn lay(&self, mapped: bool, at: u64, offset: u64, len: u64) -> io::Result<()> {
        let (at, len) = self.in_view(mapped, at, len)?;
        if offset.checked_add(len as u64).is_none_or(|end| end > self.arena_len) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: inside of the reserve (checked), which is mapped (checked, and locked by the caller).
        unsafe { kernel::lay_file(&self.uffd, self.arena.as_fd(), offset, self.reserve.base + at, len) }?;
        self.write_laid().insert(at, len);
        Ok(())
    }

    fn unlay(&self, mapped: bool, at: u64, len: u64) -> io::Result<()> {
        let (at, len) = self.in_view(mapped, at, len)?;
        // Before: a store that takes it for laid meets missing pages then, and waits there.
        self.write_laid().retain(|&start, _| !(at..at + len).contains(&start));
        // SAFETY: as in `lay`.
        unsafe { kernel::unlay(&self.uffd, self.reserve.base + at, len) }
    }

    /// A range of the view, if it is one of whole pages and the view is there.
    fn in_view(&self, mapped: bool, at: u64, len: u64) -> io::Result<(usize, usize)> {
        let page = (1u64 << self.page_shift) - 1;
        let end = at.checked_add(len).filter(|end| *end <= self.capacity as u64);
        if !mapped {
            return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
        }
        match end {
            Some(_) if len > 0 && (at | len) & page == 0 => Ok((at as usize, len as usize)),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn write_laid(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<usize, usize>> {
        self.laid.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cache says no more, for it has ended, has cut this process off, or because this process has detached. Lets all
    /// go on that waits, and takes the arena out of the view.
    pub(super) fn cache_is_gone(&self, seat: JoinHandle<()>) {
        self.gone.store(true, Ordering::SeqCst);
        drop(lock(&self.calls));
        self.bell.notify_all();
        // The seat may be moving a mapping, and wait until somebody has read of it.
        while !seat.is_finished() {
            let _: io::Result<()> = self.uffd.faults(&mut Vec::new());
            std::thread::sleep(Duration::from_micros(100));
        }
        let _ = seat.join();
        let mapped = lock(&self.mapped);
        if !*mapped {
            return;
        }
        // First memory that takes stores and forgets them, for calls that are inside: they end, and with an error.
        self.map_over(|at, len, prot| {
            // SAFETY: replaces what is mapped in the view, which exists to be replaced, by memory of the same length.
            unsafe { mmap_anonymous(at, len, prot, MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE) }
        });
        while self.inside.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
        // Then a file that has no bytes.
        if let Ok(empty) = stillwire_dma::memfd("stillwire-gone", 0, MemfdFlags::empty()) {
            self.map_over(|at, len, prot| {
                // SAFETY: as above.
                unsafe { mmap(at, len, prot, MapFlags::SHARED | MapFlags::FIXED, &empty, 0) }
            });
        }
        // If it is there and has only ended what it serves, it waits for this.
        let _ = send(&self.socket, &Message::Detach, None, false);
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// Maps something over the whole view and wakes who waited at what was there.
    fn map_over(
        &self,
        map: impl FnOnce(*mut std::ffi::c_void, usize, ProtFlags) -> rustix::io::Result<*mut std::ffi::c_void>,
    ) {
        // There is memory for it, or the kernel says no and the touches wait on.
        let _ = map(self.reserve.base as *mut _, self.capacity, ProtFlags::READ | ProtFlags::WRITE);
        let _: io::Result<()> = self.uffd.wake(self.reserve.base, self.capacity);
    }
}
