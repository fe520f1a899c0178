//! PCI configuration space: 256 bytes, with masks of what a host may write.

/// Size, bytes.
pub const LEN: usize = 256;
/// BAR0: registers, bytes.
pub const BAR0_LEN: u64 = 512 << 10;
/// BAR4: MSI-X table and pending bits, bytes.
pub const BAR4_LEN: u64 = 16 << 10;
/// Offset of the pending bits in BAR4, bytes.
pub const PBA: u64 = 0x2000;
/// MSI-X vectors.
pub const VECTORS: u16 = 64;

const COMMAND: usize = 0x04;
const COMMAND_MASTER: u16 = 1 << 2;
const BAR0: usize = 0x10;
const BAR4: usize = 0x20;
const CAPABILITIES: usize = 0x34;
const POWER: usize = 0x40;
const PMCSR: usize = 0x44;
const MSIX: usize = 0x70;
const EXPRESS: usize = 0xA0;
const DEVICE_CONTROL: usize = 0xA8;
const DEVICE_STATUS: usize = 0xAA;
const STATUS_PENDING: u8 = 1 << 5;
const CONTROL_FLR: u16 = 1 << 15;

/// What a write to configuration space asks of the device beyond being remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// A function-level reset, or the return from D3hot, which resets as well.
    Reset,
}

/// The space's bytes.
pub struct ConfigSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
    device_id: u16,
}

impl ConfigSpace {
    /// The space after power-on.
    pub fn new(device_id: u16) -> Self {
        let mut space = Self { bytes: [0; LEN], writable: [0; LEN], device_id };
        space.reset();
        space
    }

    /// Back to power-on: no bus mastering, no addresses, D0.
    pub fn reset(&mut self) {
        self.bytes = [0; LEN];
        self.writable = [0; LEN];
        self.identity();
        self.bar(BAR0, BAR0_LEN);
        self.bar(BAR4, BAR4_LEN);
        self.capabilities();
    }

    fn identity(&mut self) {
        self.put16(0x00, 0x8086);
        self.put16(0x02, self.device_id);
        self.put16(0x06, 1 << 4); // Status: there is a capability list.
        self.bytes[0x08] = 1; // Revision.
        self.put16(0x0A, 0x0200); // Class 02 00 00: Ethernet.
        self.put16(0x2C, 0x8086);
        self.put16(0x2E, 0x0003);
        self.bytes[CAPABILITIES] = POWER as u8;
        // IO, memory, master, parity, SERR, INTx disable; cache line size; interrupt line (no pin: INTx is not modelled).
        self.allow16(COMMAND, 0x0547);
        self.writable[0x0C] = 0xFF;
        self.writable[0x3C] = 0xFF;
    }

    /// A 64-bit memory BAR: the low size bits are not writable, which is how its size is found.
    fn bar(&mut self, at: usize, len: u64) {
        self.bytes[at] = 0b0100;
        self.writable[at..at + 8].copy_from_slice(&(!(len - 1)).to_le_bytes());
    }

    fn capabilities(&mut self) {
        // Power management, version 3, D3hot; next MSI-X.
        self.put16(POWER, 0x01 | (MSIX as u16) << 8);
        self.put16(POWER + 2, 0x0003);
        self.allow16(PMCSR, 0x0103);
        // MSI-X: the table in BAR4 at 0, the pending bits at 0x2000; next PCI Express.
        self.put16(MSIX, 0x11 | (EXPRESS as u16) << 8);
        self.put16(MSIX + 2, VECTORS - 1);
        self.put32(MSIX + 4, 4);
        self.put32(MSIX + 8, PBA as u32 | 4);
        self.allow16(MSIX + 2, 0xC000);
        // PCI Express endpoint, version 2, resettable by function, 5 GT/s x8.
        self.put16(EXPRESS, 0x10);
        self.put16(EXPRESS + 2, 0x0002);
        self.put32(EXPRESS + 4, 1 << 28 | 1 << 15 | 2);
        self.put16(DEVICE_CONTROL, 0x2810);
        self.allow16(DEVICE_CONTROL, 0x7FFF);
        self.put32(EXPRESS + 0xC, 0x0000_0082);
        self.allow16(EXPRESS + 0x10, 0x01FB);
        self.put16(EXPRESS + 0x12, 0x1082);
        self.put32(EXPRESS + 0x24, 0x001F);
        self.allow16(EXPRESS + 0x28, 0x001F);
    }

    /// Whether the function may start accesses to memory: COMMAND's bus master bit, in D0.
    pub fn may_master(&self) -> bool {
        self.get16(COMMAND) & COMMAND_MASTER != 0 && self.power_state() == 0
    }

    fn power_state(&self) -> u8 {
        self.bytes[PMCSR] & 3
    }

    /// Reads; `pending` is Device Status' transaction-pending bit. Bytes beyond the space read 0.
    pub fn read(&self, offset: u16, data: &mut [u8], pending: bool) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
            if at == DEVICE_STATUS && pending {
                *byte |= STATUS_PENDING;
            }
        }
    }

    /// Writes what may be written.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        let was = self.power_state();
        let mut flr = false;
        for (at, byte) in (usize::from(offset)..).zip(data).take_while(|(at, _)| *at < LEN) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | byte & mask;
            flr |= at == DEVICE_CONTROL + 1 && byte & (CONTROL_FLR >> 8) as u8 != 0;
        }
        let woken = was == 3 && self.power_state() == 0;
        if flr || woken { Effect::Reset } else { Effect::None }
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, mask: u16) {
        self.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
    }
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
    fn identity_and_capability_chain() {
        let space = ConfigSpace::new(0x10fb);
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
        let mut space = ConfigSpace::new(0x10fb);
        for (at, len) in [(0x10, BAR0_LEN), (0x20, BAR4_LEN)] {
            space.write(at, &[0xff; 8]);
            let found = u64::from(read32(&space, at + 4)) << 32 | u64::from(read32(&space, at));
            assert_eq!(found & 0xf, 0b0100, "64-bit, not prefetchable");
            assert_eq!(!(found & !0xf) + 1, len);
        }
    }

    #[test]
    fn power_state_reads_back_and_gates_the_bus() {
        let mut space = ConfigSpace::new(0x10fb);
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
        let mut space = ConfigSpace::new(0x10fb);
        assert_eq!(space.write(0xA8, &0x8000u16.to_le_bytes()), Effect::Reset);
        assert_eq!(read32(&space, 0xA8) & 0x8000, 0);
        let mut status = [0; 2];
        space.read(0xAA, &mut status, true);
        assert_eq!(status[0] & 0x20, 0x20);
    }

    #[test]
    fn the_edge_of_the_space_is_safe() {
        let mut space = ConfigSpace::new(0x10fb);
        space.write(254, &[1; 4]);
        space.write(u16::MAX, &[1; 4]);
        assert_eq!(read32(&space, 254), 0);
        assert_eq!(read32(&space, u16::MAX), 0);
    }
}
