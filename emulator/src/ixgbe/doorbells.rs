//! The two pages of queue registers, which a client may map.
//!
//! A mapped page is memory and no more: TXDCTL.ENABLE reads as written, and the counters in it (QPRC, QPTC) go on
//! counting where a message would clear them.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::config_space::BAR0_LEN;
use super::regs;
use crate::pages::{Doorbells, PAGE, Pages};

/// Where they are in BAR0.
const OFFSETS: [u32; 2] = [regs::RX_PAGE, regs::TX_PAGE];

/// The RX page, then the TX page.
pub struct QueuePages(Pages);

impl QueuePages {
    /// The pages, as a client reaches them.
    pub fn new(kind: Doorbells) -> io::Result<Self> {
        Ok(Self(Pages::new(kind, BAR0_LEN, &OFFSETS)?))
    }

    /// The file, where there is one.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.0.file()
    }

    /// The pages' offsets in BAR0, bytes.
    pub fn offsets(&self) -> &'static [u32] {
        self.0.offsets()
    }

    /// The word of a register in one of the pages.
    fn word(&self, offset: u32) -> &AtomicU32 {
        let (page, base) = if offset < regs::TX_PAGE { (0, regs::RX_PAGE) } else { (1, regs::TX_PAGE) };
        self.0.word(page, offset.wrapping_sub(base) as usize / 4)
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
        for page in OFFSETS {
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
        let pages = QueuePages::new(Doorbells::Mapped).unwrap();
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
        let pages = QueuePages::new(Doorbells::Messages).unwrap();
        pages.set(regs::RX_PAGE, 1);
        pages.set(regs::TX_PAGE, 2);
        pages.set(regs::TX_PAGE + 0xffc, 3);
        assert_eq!((pages.get(regs::RX_PAGE), pages.get(regs::TX_PAGE)), (1, 2));
        assert_eq!((pages.get(regs::RX_PAGE + 0xffc), pages.get(regs::TX_PAGE + 0xffc)), (0, 3));
    }
}
