//! The two pages of tails, which a client may map. There is nothing else in them.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use super::config_space::BAR0_LEN;
use super::regs::{QRX_TAIL, QTX_COMM_DBELL};
use crate::pages::{Doorbells, PAGE, Pages};

/// Where they are in BAR0.
const OFFSETS: [u32; 2] = [QRX_TAIL, QTX_COMM_DBELL];
/// Hardware does not look at the rest of a receive tail.
const RX_TAIL_STEP: u32 = 8;

/// The receive tails, then the transmit tails.
pub struct Tails(Pages);

impl Tails {
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

    /// The tail of a receive queue, as far as it counts.
    pub fn rx(&self, q: usize) -> u32 {
        self.0.word(0, q).load(Ordering::Acquire) & !(RX_TAIL_STEP - 1)
    }

    /// The tail of a transmit queue.
    pub fn tx(&self, q: usize) -> u32 {
        self.0.word(1, q).load(Ordering::Acquire)
    }

    /// A transmit queue that is added starts from nothing.
    pub fn clear_tx(&self, q: usize) {
        self.0.word(1, q).store(0, Ordering::Release);
    }

    /// Reads the register at an offset in BAR0 that lies in one of the pages.
    pub fn get(&self, offset: u32) -> u32 {
        let (page, word) = place(offset);
        self.0.word(page, word).load(Ordering::Acquire)
    }

    /// Writes it.
    pub fn set(&self, offset: u32, value: u32) {
        let (page, word) = place(offset);
        self.0.word(page, word).store(value, Ordering::Release);
    }

    /// Writes all.
    pub fn fill(&self, value: u32) {
        for page in OFFSETS {
            (page..page + PAGE as u32).step_by(4).for_each(|offset| self.set(offset, value));
        }
    }
}

fn place(offset: u32) -> (usize, usize) {
    let page = usize::from(offset >= QTX_COMM_DBELL);
    (page, offset.wrapping_sub(OFFSETS[page]) as usize / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_through_the_file_is_seen_and_the_pages_do_not_overlap() {
        let tails = Tails::new(Doorbells::Mapped).unwrap();
        let write = |offset: u32, value: u32| {
            rustix::io::pwrite(tails.file().unwrap(), &value.to_le_bytes(), offset.into()).unwrap()
        };
        write(QTX_COMM_DBELL + 4 * 5, 77);
        write(QRX_TAIL + 4 * 5, 79);
        assert_eq!((tails.tx(5), tails.rx(5), tails.tx(4)), (77, 72, 0));
        tails.clear_tx(5);
        assert_eq!((tails.get(QTX_COMM_DBELL + 20), tails.get(QRX_TAIL + 20)), (0, 79));
    }
}
