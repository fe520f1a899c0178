//! The E810's configuration space.

use crate::config_space::{ConfigSpace, Identity};

/// BAR0: registers, bytes.
pub const BAR0_LEN: u64 = 32 << 20;
/// BAR3: MSI-X table and pending bits, bytes.
pub const BAR3_LEN: u64 = 64 << 10;
/// Offset of the pending bits in BAR3, bytes.
const PBA: u32 = 0x8000;
/// MSI-X vectors.
pub const VECTORS: u16 = 64;

/// The space after power-on.
pub fn space(device: u16) -> ConfigSpace {
    ConfigSpace::new(Identity { vendor: 0x8086, device, subsystem: 0x0002, revision: 2 })
        .bar(0, BAR0_LEN)
        .bar(3, BAR3_LEN)
        .power_management(0x40)
        .msix(0x70, VECTORS, 3, PBA)
        .express(0xA0)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(space: &ConfigSpace, at: u16) -> u32 {
        let mut data = [0; 4];
        space.read(at, &mut data, false);
        u32::from_le_bytes(data)
    }

    #[test]
    fn identity_bars_and_the_msix_table() {
        let mut space = super::space(0x1592);
        assert_eq!(read32(&space, 0), 0x1592_8086);
        assert_eq!(read32(&space, 8) >> 8, 0x02_0000);
        assert_eq!((read32(&space, 0x70) >> 16, read32(&space, 0x74), read32(&space, 0x78)), (63, 3, 0x8003));
        for (at, len) in [(0x10, BAR0_LEN), (0x1c, BAR3_LEN)] {
            space.write(at, &[0xff; 8]);
            let found = u64::from(read32(&space, at + 4)) << 32 | u64::from(read32(&space, at));
            assert_eq!((found & 0xf, !(found & !0xf) + 1), (0b0100, len));
        }
    }
}
