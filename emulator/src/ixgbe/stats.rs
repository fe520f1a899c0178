//! Statistics: cleared by reading, saturating; bytes include the check sequence.

use super::{Model, regs};

/// Upper ends of the first five size classes, bytes with the check sequence.
const CLASSES: [usize; 5] = [64, 127, 255, 511, 1023];

fn class(len: usize) -> u32 {
    CLASSES.iter().position(|end| len <= *end).unwrap_or(CLASSES.len()) as u32
}

impl Model {
    /// A frame leaves queue `q`; `frame` has no check sequence yet.
    pub(super) fn count_tx(&mut self, q: usize, frame: &[u8]) {
        self.bus.counters.frames_sent += 1;
        self.count_tx_port(frame);
        let set = self.counter_set(regs::TQSM, q);
        self.pages.add(regs::QPTC + 0x40 * set, 1);
        self.regs.add_u64(regs::QBTC + 8 * set, frame.len() as u64 + 4);
    }

    /// A frame leaves the port, be it a queue's or a PAUSE frame.
    pub(super) fn count_tx_port(&mut self, frame: &[u8]) {
        let len = frame.len() + 4;
        self.regs.add(regs::GPTC, 1);
        self.regs.add(regs::TPT, 1);
        self.regs.add_u64(regs::GOTC, len as u64);
        self.regs.add(regs::PTC + 4 * class(len), 1);
        match frame[..6] {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => self.regs.add(regs::BPTC, 1),
            [first, ..] if first & 1 == 1 => self.regs.add(regs::MPTC, 1),
            _ => {}
        }
    }

    /// A good frame passed the filters.
    pub(super) fn count_rx(&mut self, frame: &[u8]) {
        let len = frame.len() + 4;
        self.regs.add(regs::GPRC, 1);
        self.regs.add_u64(regs::GORC, len as u64);
        self.regs.add(regs::PRC + 4 * class(len), 1);
        match frame[..6] {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => self.regs.add(regs::BPRC, 1),
            [first, ..] if first & 1 == 1 => self.regs.add(regs::MPRC, 1),
            _ => {}
        }
    }

    /// A frame of `len` bytes went into queue `q`'s buffers.
    pub(super) fn count_rx_queue(&mut self, q: usize, len: usize) {
        let set = self.counter_set(regs::RQSMR, q);
        self.pages.add(regs::QPRC + 0x40 * set, 1);
        let low = regs::QBRC + 0x40 * set;
        let bytes = u64::from(self.pages.get(low + 4)) << 32 | u64::from(self.pages.get(low));
        let bytes = bytes.saturating_add(len as u64 + 4);
        self.pages.set(low, bytes as u32);
        self.pages.set(low + 4, (bytes >> 32) as u32);
    }

    /// A frame was for queue `q`, which had no room.
    pub(super) fn count_rx_dropped(&mut self, q: usize) {
        self.bus.counters.rx_dropped += 1;
        let set = self.counter_set(regs::RQSMR, q);
        self.pages.add(regs::QPRDC + 0x40 * set, 1);
        self.regs.add(regs::RNBC, 1);
    }

    /// Which of the 16 counter sets the map (RQSMR or TQSM) names for a queue: a byte each, four to a register.
    fn counter_set(&self, map: u32, q: usize) -> u32 {
        let q = q as u32;
        self.regs.get(map + (q & !3)) >> (8 * (q & 3)) & 0xf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes() {
        assert_eq!([64, 65, 127, 128, 1023, 1024, 9000].map(class), [0, 1, 1, 2, 4, 5, 5]);
    }
}
