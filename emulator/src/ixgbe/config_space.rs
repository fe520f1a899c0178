//! The 82599's configuration space.

use crate::config_space::{ConfigSpace, Identity};

/// BAR0: registers, bytes.
pub const BAR0_LEN: u64 = 512 << 10;
/// BAR4: MSI-X table and pending bits, bytes.
pub const BAR4_LEN: u64 = 16 << 10;
/// Offset of the pending bits in BAR4, bytes.
const PBA: u32 = 0x2000;
/// MSI-X vectors.
pub const VECTORS: u16 = 64;

/// The space after power-on.
pub fn space(device: u16) -> ConfigSpace {
    ConfigSpace::new(Identity { vendor: 0x8086, device, subsystem: 0x0003, revision: 1 })
        .bar(0, BAR0_LEN)
        .bar(4, BAR4_LEN)
        .power_management(0x40)
        .msix(0x70, VECTORS, 4, PBA)
        .express(0xA0)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_space::Effect;

    fn read32(space: &ConfigSpace, at: u16) -> u32 {
        let mut data = [0; 4];
        space.read(at, &mut data, false);
        u32::from_le_bytes(data)
    }

    #[test]
    fn identity_and_capability_chain() {
        let space = super::space(0x10fb);
        assert_eq!(read32(&space, 0), 0x10fb_8086);
        assert_eq!(read32(&space, 8) >> 8, 0x02_0000);
        let mut chain = Vec::new();
        let mut at = read32(&space, 0x34) as u16 & 0xff;
        while at != 0 {
            let word = read32(&space, at);
            chain.push((at, word as u8));
            at = (word >> 8) as u16 & 0xff;
        }
        assert_eq!(chain, [(0x40, 0x01), (0x70, 0x11), (0xA0, 0x10)]);
        assert_eq!(read32(&space, 0x70) >> 16, 63);
    }

    #[test]
    fn a_bar_shows_its_size() {
        let mut space = super::space(0x10fb);
        for (at, len) in [(0x10, BAR0_LEN), (0x20, BAR4_LEN)] {
            space.write(at, &[0xff; 8]);
            let found = u64::from(read32(&space, at + 4)) << 32 | u64::from(read32(&space, at));
            assert_eq!(found & 0xf, 0b0100, "64-bit, not prefetchable");
            assert_eq!(!(found & !0xf) + 1, len);
        }
    }

    #[test]
    fn power_state_reads_back_and_gates_the_bus() {
        let mut space = super::space(0x10fb);
        assert!(!space.may_master());
        assert_eq!(space.write(0x04, &6u16.to_le_bytes()), Effect::None);
        assert!(space.may_master());
        assert_eq!(space.write(0x44, &[3, 0]), Effect::None);
        assert_eq!(read32(&space, 0x44) & 3, 3);
        assert!(!space.may_master());
        assert_eq!(space.write(0x44, &[0, 0]), Effect::Reset);
    }

    #[test]
    fn function_level_reset_is_an_effect_that_does_not_stick() {
        let mut space = super::space(0x10fb);
        assert_eq!(space.write(0xA8, &0x8000u16.to_le_bytes()), Effect::Reset);
        assert_eq!(read32(&space, 0xA8) & 0x8000, 0);
        let mut status = [0; 2];
        space.read(0xAA, &mut status, true);
        assert_eq!(status[0] & 0x20, 0x20);
    }

    #[test]
    fn the_edge_of_the_space_is_safe() {
        let mut space = super::space(0x10fb);
        space.write(254, &[1; 4]);
        space.write(u16::MAX, &[1; 4]);
        assert_eq!(read32(&space, 254), 0);
        assert_eq!(read32(&space, u16::MAX), 0);
    }
}
