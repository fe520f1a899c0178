//! What differs between the parts of the family.

use std::time::Duration;

/// A part, by its PCI device number (Linux `ixgbe_type.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// 82599 with a cage for modules.
    Cage,
    /// 82599 on a backplane, CX4 or with somebody else's PHY.
    Fixed,
    /// X540: two 10GBASE-T PHYs of its own.
    X540,
    /// X550: the same, and 2.5 and 5 Gb/s.
    X550,
}

impl Part {
    pub(crate) fn of(vendor: u16, device: u16) -> Option<Self> {
        match (vendor, device) {
            (0x8086, 0x10fb | 0x1507 | 0x1529 | 0x154a | 0x154d | 0x1557 | 0x1558) => Some(Self::Cage),
            (0x8086, 0x10f7..=0x10f9 | 0x10fc | 0x1514 | 0x1517 | 0x151c | 0x152a | 0x154f) => Some(Self::Fixed),
            (0x8086, 0x1528 | 0x1560) => Some(Self::X540),
            (0x8086, 0x1563 | 0x15d1) => Some(Self::X550),
            _ => None,
        }
    }

    /// Whether it has copper PHYs of its own.
    pub(crate) fn is_copper(self) -> bool {
        matches!(self, Self::X540 | Self::X550)
    }

    /// The receive packet buffer, KiB.
    pub(crate) fn rx_buffer_kib(self) -> u32 {
        if self.is_copper() { 384 } else { 512 }
    }

    /// Time that it needs for itself after a reset: the datasheet asks for 10 ms (4.6.3.2), Linux waits so long.
    pub(crate) fn after_reset(self) -> Duration {
        Duration::from_millis(if self.is_copper() { 100 } else { 50 })
    }

    /// Megabits a second, of what LINKS says: its bits 29:28, and bit 27 with which the X550 means the others.
    pub(crate) fn megabits(self, speed: u32, other: bool) -> u32 {
        match (speed, other && self == Self::X550) {
            (3, false) => 10_000,
            (3, true) => 2_500,
            (2, _) => 1_000,
            (1, false) => 100,
            (1, true) => 5_000,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_by_their_numbers() {
        let part = |device| Part::of(0x8086, device);
        assert_eq!(part(0x10fb), Some(Part::Cage));
        assert_eq!(part(0x10f7), Some(Part::Fixed));
        assert_eq!(part(0x1528), Some(Part::X540));
        assert_eq!(part(0x1563), Some(Part::X550));
        assert_eq!(part(0x1592), None);
        assert_eq!(Part::of(0x1af4, 0x10fb), None);
    }

    #[test]
    fn speeds() {
        assert_eq!([0, 1, 2, 3].map(|bits| Part::Cage.megabits(bits, true)), [0, 100, 1_000, 10_000]);
        assert_eq!([0, 1, 2, 3].map(|bits| Part::X550.megabits(bits, true)), [0, 5_000, 1_000, 2_500]);
    }
}
