//! The two pages of queue registers, which a client may map.
//!
//! Both are always words of atomics. In `Messages` mode they are private; in `Mapped` mode they are pages of a memfd as
//! long as the BAR, so that an offset in the BAR is an offset in the file, and the client's stores land here unseen.
//!
//! A mapped page is memory and no more: TXDCTL.ENABLE reads as written, and the counters in it (QPRC, QPTC) go on
//! counting where a message would clear them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};

use super::regs;

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// The RX page, then the TX page.
pub struct QueuePages {
    memory: Memory,
}

enum Memory {
    Private(Box<[AtomicU32]>),
    Shared { file: OwnedFd, pages: [MmapRaw; 2] },
}

impl QueuePages {
    /// Pages that only messages reach.
    pub fn private() -> Self {
        Self { memory: Memory::Private((0..2 * PAGE / 4).map(|_| AtomicU32::new(0)).collect()) }
    }

    /// Pages in a file of `len` bytes that a client may map.
    pub fn shared(len: u64) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("stillwire-doorbells", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, len)?;
        // A client that is handed the file must not be able to cut it off under us (SIGBUS).
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = |offset: u32| MmapOptions::new().offset(offset.into()).len(PAGE).map_raw(file.as_raw_fd());
        let pages = [map(regs::RX_PAGE)?, map(regs::TX_PAGE)?];
        Ok(Self { memory: Memory::Shared { file, pages } })
    }

    /// The file, where there is one.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.memory {
            Memory::Private(_) => None,
            Memory::Shared { file, .. } => Some(file.as_fd()),
        }
    }

    /// The word of a register in one of the pages.
    fn word(&self, offset: u32) -> &AtomicU32 {
        let (page, base) = if offset < regs::TX_PAGE { (0, regs::RX_PAGE) } else { (1, regs::TX_PAGE) };
        let word = (offset.wrapping_sub(base) as usize / 4) % (PAGE / 4);
        match &self.memory {
            Memory::Private(words) => &words[page * (PAGE / 4) + word],
            Memory::Shared { pages, .. } => {
                let start = pages[page].as_mut_ptr().cast::<AtomicU32>();
                // SAFETY: the mapping is PAGE bytes long, readable and writable, page aligned, and lives as long as
                // `self`, to which the reference is bound; `word` < PAGE / 4 by the remainder above, so the word is
                // aligned and inside. The file is at least as long as the mapping's end and sealed against shrinking.
                // All of this process' accesses through this mapping are atomic; the client has a mapping of its own.
                unsafe { &*start.add(word) }
            }
        }
    }

    /// Reads a register; what its writer wrote before is seen after.
    pub fn get(&self, offset: u32) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Writes a register.
    pub fn set(&self, offset: u32, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// Writes a register if it still holds `old`: a client may have set up its queue anew meanwhile.
    pub fn replace(&self, offset: u32, old: u32, value: u32) {
        let _ = self.word(offset).compare_exchange(old, value, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Counts up; saturates.
    pub fn add(&self, offset: u32, count: u32) {
        self.set(offset, self.get(offset).saturating_add(count));
    }

    /// Writes all registers.
    pub fn fill(&self, value: u32) {
        for page in [regs::RX_PAGE, regs::TX_PAGE] {
            (page..page + PAGE as u32).step_by(4).for_each(|offset| self.set(offset, value));
        }
    }

    /// Back to the reset values.
    pub fn reset(&self) {
        self.fill(0);
        for register in regs::TABLE.iter().filter(|r| r.reset != 0 && regs::in_queue_pages(r.offset)) {
            for i in 0..register.count {
                self.set(register.offset + i * register.stride, register.reset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_through_the_file_is_seen() {
        let pages = QueuePages::shared(512 << 10).unwrap();
        let file = pages.file().unwrap();
        let tail = regs::TX_PAGE + 0x40 * 5 + regs::tx::TDT;
        rustix::io::pwrite(file, &77u32.to_le_bytes(), tail.into()).unwrap();
        assert_eq!(pages.get(tail), 77);
        pages.replace(tail, 76, 1);
        assert_eq!(pages.get(tail), 77);
        pages.replace(tail, 77, 78);
        assert_eq!(pages.get(tail), 78);
        pages.reset();
        assert_eq!(pages.get(tail), 0);
        assert_eq!(pages.get(regs::RX_PAGE + regs::rx::DCA_RXCTRL), regs::DCA_RXCTRL_RESERVED);
    }

    #[test]
    fn the_pages_do_not_overlap() {
        let pages = QueuePages::private();
        pages.set(regs::RX_PAGE, 1);
        pages.set(regs::TX_PAGE, 2);
        pages.set(regs::TX_PAGE + 0xffc, 3);
        assert_eq!((pages.get(regs::RX_PAGE), pages.get(regs::TX_PAGE)), (1, 2));
        assert_eq!((pages.get(regs::RX_PAGE + 0xffc), pages.get(regs::TX_PAGE + 0xffc)), (0, 3));
    }
}
