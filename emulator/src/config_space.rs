//! PCI configuration space: 256 bytes, with masks of what a host may write.
//!
//! A model builds it once, capability by capability; [`ConfigSpace::reset`] goes back to that.

/// Size, bytes.
pub const LEN: usize = 256;

const COMMAND: usize = 0x04;
const COMMAND_MASTER: u16 = 1 << 2;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
/// Of the power management capability.
const PMCSR: usize = 4;
/// Of the PCI Express capability.
const DEVICE_CONTROL: usize = 8;
const DEVICE_STATUS: usize = 10;
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

/// Who the device says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor, and subsystem vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Subsystem.
    pub subsystem: u16,
    /// Revision.
    pub revision: u8,
}

/// The space's bytes.
pub struct ConfigSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
    power_on: [u8; LEN],
    /// Where the last capability's link is.
    link: usize,
    power: usize,
    express: usize,
}

impl ConfigSpace {
    /// An Ethernet controller without BARs and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; LEN],
            writable: [0; LEN],
            power_on: [0; LEN],
            link: CAPABILITIES,
            power: LEN,
            express: LEN,
        };
        space.put16(0x00, identity.vendor);
        space.put16(0x02, identity.device);
        space.put16(0x06, 1 << 4); // Status: there is a capability list.
        space.bytes[0x08] = identity.revision;
        space.put16(0x0A, 0x0200); // Class 02 00 00: Ethernet.
        space.put16(0x2C, identity.vendor);
        space.put16(0x2E, identity.subsystem);
        // IO, memory, master, parity, SERR, INTx disable; cache line size; interrupt line (no pin: INTx is not modelled).
        space.allow16(COMMAND, 0x0547);
        space.writable[0x0C] = 0xFF;
        space.writable[0x3C] = 0xFF;
        space
    }

    /// A 64-bit memory BAR of `len` bytes: the low size bits are not writable, which is how its size is found.
    pub fn bar(mut self, index: u8, len: u64) -> Self {
        let at = BARS + 4 * usize::from(index);
        self.bytes[at] = 0b0100;
        self.writable[at..at + 8].copy_from_slice(&(!(len - 1)).to_le_bytes());
        self
    }

    /// Power management, version 3, D3hot.
    pub fn power_management(mut self, at: usize) -> Self {
        self.chain(at, 0x01);
        self.power = at;
        self.put16(at + 2, 0x0003);
        self.allow16(at + PMCSR, 0x0103);
        self
    }

    /// MSI-X: the table at the beginning of a BAR, the pending bits at `pending` of it.
    pub fn msix(mut self, at: usize, vectors: u16, bar: u8, pending: u32) -> Self {
        self.chain(at, 0x11);
        self.put16(at + 2, vectors - 1);
        self.put32(at + 4, bar.into());
        self.put32(at + 8, pending | u32::from(bar));
        self.allow16(at + 2, 0xC000);
        self
    }

    /// PCI Express endpoint, version 2, resettable by function, 5 GT/s x8.
    pub fn express(mut self, at: usize) -> Self {
        self.chain(at, 0x10);
        self.express = at;
        self.put16(at + 2, 0x0002);
        self.put32(at + 4, 1 << 28 | 1 << 15 | 2);
        self.put16(at + DEVICE_CONTROL, 0x2810);
        self.allow16(at + DEVICE_CONTROL, 0x7FFF);
        self.put32(at + 0xC, 0x0000_0082);
        self.allow16(at + 0x10, 0x01FB);
        self.put16(at + 0x12, 0x1082);
        self.put32(at + 0x24, 0x001F);
        self.allow16(at + 0x28, 0x001F);
        self
    }

    /// Any capability; `body` follows its ID and its link.
    pub fn capability(mut self, at: usize, id: u8, body: &[u8]) -> Self {
        self.chain(at, id);
        self.bytes[at + 2..at + 2 + body.len()].copy_from_slice(body);
        self
    }

    /// Lets a host write the bits of `mask` from `at` on.
    pub fn allow(mut self, at: usize, mask: &[u8]) -> Self {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
        self
    }

    /// Remembers the space as it is as that after power-on.
    pub fn finish(mut self) -> Self {
        self.power_on = self.bytes;
        self
    }

    /// Back to power-on: no bus mastering, no addresses, D0.
    pub fn reset(&mut self) {
        self.bytes = self.power_on;
    }

    /// Links a capability into the list.
    fn chain(&mut self, at: usize, id: u8) {
        self.bytes[at] = id;
        self.bytes[self.link] = at as u8;
        self.link = at + 1;
    }

    /// Whether the function may start accesses to memory: COMMAND's bus master bit, in D0.
    pub fn may_master(&self) -> bool {
        self.get16(COMMAND) & COMMAND_MASTER != 0 && self.power_state() == 0
    }

    fn power_state(&self) -> u8 {
        self.bytes.get(self.power + PMCSR).map_or(0, |byte| byte & 3)
    }

    /// Reads; `pending` is Device Status' transaction-pending bit. Bytes beyond the space read 0.
    pub fn read(&self, offset: u16, data: &mut [u8], pending: bool) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
            if at == self.express + DEVICE_STATUS && pending {
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
            flr |= at == self.express + DEVICE_CONTROL + 1 && byte & (CONTROL_FLR >> 8) as u8 != 0;
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
