//! The kernel of a simulation: address spaces that are maps of page table entries, and threads that sleep in them.
//!
//! What each call does and what it fails with is what Linux was seen to do, also what is unpleasant: a thread that sleeps at
//! a page sleeps until it is woken, whatever becomes of the page; who moves a mapping waits until the guard has read of it,
//! and until then calls that change the address space fail with EAGAIN; a call that finds a page not laid stops there, with
//! the pages before it done.
#![allow(unsafe_code)]

mod bell;
mod space;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stillwire_dma::SharedMemory;

pub(crate) use bell::Bell;
use space::{Entry, Space};

use super::Heard;
use crate::Result;
use crate::sync::thread;

/// A userfaultfd, and the address space that it belongs to.
#[derive(Debug)]
pub(crate) struct Uffd {
    id: u64,
    space: Arc<Space>,
}

impl Uffd {
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), space: Arc::default() })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn hears_kernel_stores(&self) -> bool {
        true
    }

    pub(crate) fn protect(&self, address: usize, bytes: usize) -> io::Result<()> {
        stillwire_scheduler::step();
        while self.space.is_moving() {
            thread::yield_now();
        }
        self.space.set_writable(address, bytes, false)
    }

    pub(crate) fn unprotect(&self, address: usize, bytes: usize, heard: &mut Vec<Heard>) -> io::Result<()> {
        stillwire_scheduler::step();
        while self.space.is_moving() {
            self.faults(heard)?;
            thread::yield_now();
        }
        self.space.set_writable(address, bytes, true)?;
        self.space.wake(address, bytes);
        Ok(())
    }

    pub(crate) fn wake(&self, address: usize, bytes: usize) -> io::Result<()> {
        stillwire_scheduler::step();
        self.space.wake(address, bytes);
        Ok(())
    }

    pub(crate) fn poison(&self, address: usize, bytes: usize) -> io::Result<()> {
        self.fill(address, bytes, || Entry::Poison)
    }

    pub(crate) fn zero(&self, address: usize, bytes: usize) -> io::Result<()> {
        self.fill(address, bytes, || Entry::Zeros)
    }

    fn fill(&self, address: usize, bytes: usize, entry: impl Fn() -> Entry) -> io::Result<()> {
        stillwire_scheduler::step();
        while self.space.is_moving() {
            thread::yield_now();
        }
        self.space.fill(address, bytes, entry)
    }

    pub(crate) fn faults(&self, heard: &mut Vec<Heard>) -> io::Result<()> {
        stillwire_scheduler::step();
        self.space.read(heard);
        Ok(())
    }
}

/// Address space for a view.
#[derive(Clone, Debug)]
pub(crate) struct Reserve {
    pub(crate) base: usize,
    len: usize,
    space: Arc<Space>,
}

impl Reserve {
    pub(crate) fn for_view(_: &Path, uffd: &Uffd, shift: u32, _least: u64, most: u64) -> Result<(Self, u64)> {
        let len = (most as usize) << shift;
        Ok((Self { base: uffd.space.reserve(len), len, space: uffd.space.clone() }, most))
    }

    /// # Safety
    /// As the kernel's.
    pub(crate) unsafe fn unmap(&self) {
        stillwire_scheduler::step();
        self.space.unmap(self.base, self.len);
    }
}

/// # Safety
/// As the kernel's.
pub(crate) unsafe fn lay(uffd: &Uffd, arena: &SharedMemory, offset: u64, at: usize, len: usize) -> io::Result<()> {
    let first = arena.as_ptr().addr() + offset as usize;
    uffd.space.moved(at, len, |space| space.lay(at, len, first));
    Ok(())
}

/// # Safety
/// As the kernel's.
pub(crate) unsafe fn unlay(uffd: &Uffd, at: usize, len: usize) -> io::Result<()> {
    uffd.space.moved(at, len, |space| space.clear(at, len));
    Ok(())
}

/// # Safety
/// As the kernel's.
pub(crate) unsafe fn store(uffd: &Uffd, address: usize, bytes: &[u8]) {
    for (at, part) in parts(address, bytes.len()) {
        // SAFETY: what is laid there is of the arena, which outlives its views.
        uffd.space.access(at, true, |touched| unsafe { touched.store(&bytes[part.clone()]) });
    }
}

/// # Safety
/// As the kernel's.
pub(crate) unsafe fn load(uffd: &Uffd, address: usize, bytes: &mut [u8]) {
    for (at, part) in parts(address, bytes.len()) {
        // SAFETY: what is laid there is of the arena, which outlives its views.
        uffd.space.access(at, false, |touched| unsafe { touched.load(&mut bytes[part.clone()]) });
    }
}

pub(crate) fn collapse(_: BorrowedFd<'_>, _: u64, _: usize) -> io::Result<()> {
    Ok(())
}

/// A processor stores a few bytes at a time, and others come in between.
fn parts(address: usize, len: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = (STRIDE - (address + at) % STRIDE).min(len - at);
        let part = at..at + left;
        at += left;
        (left > 0).then_some((address + part.start, part))
    })
}

/// Bytes that are stored at once; a page is a multiple.
const STRIDE: usize = 64;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);
