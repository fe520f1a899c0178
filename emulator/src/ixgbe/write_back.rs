//! How a transmit queue tells its driver what is done: done bits, the head in memory, TDH.

use super::tx::InFlight;
use super::{Model, desc, link, regs};

/// What is to be written.
pub(super) enum WriteBack {
    /// The done bit, into these status words; `true` when the queue's vector fires then.
    Done(Vec<(u64, u32)>, bool),
    /// The head, as one word; the vector fires.
    Head(u32),
}

impl Model {
    /// Reports a frame whose bytes were fetched for the last time.
    pub(super) fn complete(&mut self, q: usize, frame: &InFlight) {
        if frame.life != self.tx[q].life {
            return;
        }
        self.tx[q].head = frame.end;
        self.show_tx_head(q);
        let wthresh = self.wthresh(q);
        let reported = frame.descriptors.iter().any(|(_, _, report)| *report);
        // WTHRESH asks for done bits without RS; the head in memory always wants RS.
        let head = self.head_write_back(q) & 1 != 0;
        if !reported && (head || wthresh == 0) || self.loses_write_back() {
            return;
        }
        if head {
            return self.write_back(q, WriteBack::Head(frame.end));
        }
        let chosen = frame.descriptors.iter().filter(|(_, _, report)| *report || wthresh > 0);
        self.tx[q].batch.extend(chosen.map(|(at, status, _)| (*at, *status)));
        if self.tx[q].batch.len() >= wthresh.max(1) || reported {
            let batch = std::mem::take(&mut self.tx[q].batch);
            self.write_back(q, WriteBack::Done(batch, reported));
        }
    }

    fn loses_write_back(&mut self) -> bool {
        self.written_back = self.written_back.wrapping_add(1);
        link::is_nth(self.written_back, self.faults.lose_write_back_every)
    }

    /// What WTHRESH has kept back goes out when there is nothing else to do.
    pub(super) fn flush_write_back(&mut self, q: usize) {
        if !self.tx[q].batch.is_empty() && self.bus.open {
            let batch = std::mem::take(&mut self.tx[q].batch);
            self.write_back(q, WriteBack::Done(batch, false));
        }
    }

    /// Writes now, or later when a fault says so.
    fn write_back(&mut self, q: usize, what: WriteBack) {
        if self.faults.write_back_delay.is_zero() && self.tx[q].late.is_empty() {
            self.write_back_now(q, what);
        } else {
            self.tx[q].late.push_back((self.now.saturating_add(self.faults.write_back_delay), what));
        }
    }

    /// Writes what is late and due; false when there is nothing.
    pub(super) fn write_late(&mut self, q: usize) -> bool {
        let mut busy = false;
        while self.bus.open && self.tx[q].late.front().is_some_and(|(due, _)| *due <= self.now) {
            let Some((_, what)) = self.tx[q].late.pop_front() else { break };
            self.write_back_now(q, what);
            busy = true;
        }
        busy
    }

    fn write_back_now(&mut self, q: usize, what: WriteBack) {
        match what {
            WriteBack::Done(batch, fires) => {
                // The address word is left alone.
                for (address, status) in &batch {
                    if self.bus.store_u32(address + desc::TX_STATUS, status | desc::TX_DD).is_err() {
                        return self.halt_tx(q, "bus fault while writing a descriptor back");
                    }
                }
                if fires {
                    self.queue_event(true, q);
                }
            }
            WriteBack::Head(head) => {
                self.write_head(q, head);
                self.queue_event(true, q);
            }
        }
    }

    /// Head write-back: the head index as one word, instead of done bits.
    fn write_head(&mut self, q: usize, head: u32) {
        let page = regs::TX_PAGE + 0x40 * q as u32;
        let low = self.head_write_back(q);
        let address = u64::from(self.pages.get(page + regs::tx::TDWBAH)) << 32 | u64::from(low & !3);
        if self.pages.get(page + regs::tx::DCA_TXCTRL) & regs::DCA_TXCTRL_WB_RELAXED != 0 {
            self.complain("head write-back with relaxed ordering (DCA_TXCTRL b11): the head may go backwards");
        }
        if self.wthresh(q) != 0 {
            self.complain("head write-back with WTHRESH other than 0");
        }
        if !address.is_multiple_of(16) {
            return self.halt_tx(q, "head write-back address is not 16-byte aligned");
        }
        if self.bus.store_u32(address, head).is_err() {
            self.halt_tx(q, "bus fault while writing the head back");
        }
    }

    /// TDWBAL: bit 0 switches head write-back on.
    fn head_write_back(&self, q: usize) -> u32 {
        self.pages.get(regs::TX_PAGE + 0x40 * q as u32 + regs::tx::TDWBAL)
    }

    pub(super) fn show_tx_head(&mut self, q: usize) {
        let queue = &mut self.tx[q];
        let shown = std::mem::replace(&mut queue.shown, queue.head);
        if shown != queue.head {
            self.pages.replace(regs::TX_PAGE + 0x40 * q as u32 + regs::tx::TDH, shown, queue.head);
        }
    }

    pub(super) fn wthresh(&self, q: usize) -> usize {
        (self.pages.get(regs::TX_PAGE + 0x40 * q as u32 + regs::tx::TXDCTL) >> 16) as usize & 0x7f
    }
}
