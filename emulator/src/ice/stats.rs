//! Statistics: 40 bits in two registers, or 32 in one; they count on over reads and resets, and bytes include the check
//! sequence.

use std::collections::HashMap;

use super::{Model, regs};

/// Upper ends of the size classes but the last, bytes with the check sequence.
const CLASSES: [usize; 6] = [64, 127, 255, 511, 1023, 1522];
/// Distance between the counters of two size classes, bytes.
const CLASS_STRIDE: u32 = 0x40;
/// Counters that are one register.
const SINGLE: [std::ops::Range<u32>; 2] =
    [regs::GLV_RDPC..regs::GLV_RDPC + 0xC00, regs::GLV_TEPC..regs::GLV_TEPC + 0xC00];
const WIDE: u64 = (1 << 40) - 1;

/// All counters, by their first register.
#[derive(Default)]
pub struct Stats(HashMap<u32, u64>);

/// Counters of unicast, multicast and broadcast frames, and of bytes: a port's, an interface's.
struct Set {
    port: [u32; 4],
    vsi: [u32; 4],
    classes: u32,
}

const TX: Set = Set {
    port: [regs::GLPRT_UPTC, regs::GLPRT_MPTC, regs::GLPRT_BPTC, regs::GLPRT_GOTC],
    vsi: [regs::GLV_UPTC, regs::GLV_MPTC, regs::GLV_BPTC, regs::GLV_GOTC],
    classes: regs::GLPRT_PTC64,
};
const RX: Set = Set {
    port: [regs::GLPRT_UPRC, regs::GLPRT_MPRC, regs::GLPRT_BPRC, regs::GLPRT_GORC],
    vsi: [regs::GLV_UPRC, regs::GLV_MPRC, regs::GLV_BPRC, regs::GLV_GORC],
    classes: regs::GLPRT_PRC64,
};

impl Stats {
    /// What the register at `offset` says.
    pub fn get(&self, offset: u32) -> u32 {
        if SINGLE.iter().any(|range| range.contains(&offset)) {
            return self.0.get(&offset).copied().unwrap_or(0) as u32;
        }
        let value = self.0.get(&(offset & !7)).copied().unwrap_or(0) & WIDE;
        (value >> (8 * (offset & 4))) as u32
    }

    /// Counts up.
    pub fn add(&mut self, offset: u32, count: u64) {
        let value = self.0.entry(offset).or_default();
        *value = value.wrapping_add(count);
    }

    fn count(&mut self, counters: [u32; 4], stride: u32, frame: &[u8]) {
        let kind = match frame {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ..] => 2,
            [first, ..] => usize::from(first & 1),
            [] => 0,
        };
        self.add(counters[kind] + stride, 1);
        self.add(counters[3] + stride, frame.len() as u64 + 4);
    }
}

impl Model {
    /// A frame of an interface leaves; it has no check sequence yet.
    pub(super) fn count_tx(&mut self, vsi: u16, frame: &[u8]) {
        self.bus.counters.frames_sent += 1;
        self.stats.add(TX.classes + CLASS_STRIDE * class(frame.len() + 4), 1);
        self.stats.count(TX.port, 0, frame);
        self.stats.count(TX.vsi, 8 * u32::from(vsi), frame);
    }

    /// A good frame came in.
    pub(super) fn count_rx(&mut self, frame: &[u8]) {
        self.stats.add(RX.classes + CLASS_STRIDE * class(frame.len() + 4), 1);
        self.stats.count(RX.port, 0, frame);
    }

    /// It was for an interface.
    pub(super) fn count_rx_vsi(&mut self, vsi: u16, frame: &[u8]) {
        self.stats.count(RX.vsi, 8 * u32::from(vsi), frame);
    }

    /// It was for an interface that had no room.
    pub(super) fn count_rx_drop(&mut self, vsi: u16) {
        self.bus.counters.rx_dropped += 1;
        self.stats.add(regs::GLV_RDPC + 4 * u32::from(vsi), 1);
    }
}

fn class(len: usize) -> u32 {
    CLASSES.iter().position(|end| len <= *end).unwrap_or(CLASSES.len()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_forty_bits_in_two_registers_or_thirty_two_in_one() {
        let mut stats = Stats::default();
        stats.add(regs::GLV_GOTC + 8, (1 << 40) + 0x12_3456_7890);
        assert_eq!((stats.get(regs::GLV_GOTC + 8), stats.get(regs::GLV_GOTC + 12)), (0x3456_7890, 0x12));
        stats.add(regs::GLV_RDPC + 4, 7);
        assert_eq!((stats.get(regs::GLV_RDPC), stats.get(regs::GLV_RDPC + 4)), (0, 7));
        assert_eq!([64, 65, 127, 128, 1523].map(class), [0, 1, 1, 2, 6]);
    }
}
