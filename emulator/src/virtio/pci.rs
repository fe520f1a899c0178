//! Where things are: configuration space, capabilities, BARs.
//!
//! ```text
//!   BAR0  MSI-X table, pending bits at 0x2000
//!   BAR4  0x0000 common configuration   0x1000 ISR   0x2000 device configuration   0x3000 doorbells, four bytes each
//! ```

use super::Model;
use crate::config_space::{ConfigSpace, Effect, Identity};

/// MSI-X table and pending bits, bytes.
pub const BAR0_LEN: u64 = 16 << 10;
/// Everything of virtio, bytes.
pub const BAR4_LEN: u64 = 16 << 10;
/// MSI-X vectors.
pub const VECTORS: u16 = 64;
/// The doorbells' page in BAR4.
pub const NOTIFY: u32 = 0x3000;
/// Bytes from one doorbell to the next (`notify_off_multiplier`).
pub const NOTIFY_STRIDE: u32 = 4;

pub(super) const COMMON: u64 = 0x0000;
pub(super) const COMMON_LEN: u64 = 56;
pub(super) const ISR: u64 = 0x1000;
pub(super) const DEVICE: u64 = 0x2000;
pub(super) const DEVICE_LEN: u64 = 12;
const NOTIFY_LEN: u64 = 0x1000;

const VENDOR: u16 = 0x1af4;
/// 0x1040 + device type 1.
const NET: u16 = 0x1041;
const VENDOR_CAPABILITY: u8 = 0x09;
/// The capability by which configuration space reaches the BARs.
const ACCESS: usize = 0xD4;
const WINDOW: usize = ACCESS + 16;

/// The space after power-on.
pub(super) fn space() -> ConfigSpace {
    let structure = |kind: u8, offset: u64, len: u64| {
        let mut body = vec![16, kind, 4, 0, 0, 0];
        body.extend((offset as u32).to_le_bytes());
        body.extend((len as u32).to_le_bytes());
        body
    };
    let mut notify = structure(2, NOTIFY.into(), NOTIFY_LEN);
    notify.extend(NOTIFY_STRIDE.to_le_bytes());
    notify[0] = 20;
    let mut access = structure(5, 0, 0);
    access.extend([0; 4]);
    (access[0], access[2]) = (20, 0);
    ConfigSpace::new(Identity { vendor: VENDOR, device: NET, subsystem: 0x1100, revision: 1 })
        .bar(0, BAR0_LEN)
        .bar(4, BAR4_LEN)
        .power_management(0x40)
        .msix(0x48, VECTORS, 0, 0x2000)
        .express(0x54)
        .capability(0x90, VENDOR_CAPABILITY, &structure(1, COMMON, COMMON_LEN))
        .capability(0xA0, VENDOR_CAPABILITY, &notify)
        .capability(0xB4, VENDOR_CAPABILITY, &structure(3, ISR, 1))
        .capability(0xC4, VENDOR_CAPABILITY, &structure(4, DEVICE, DEVICE_LEN))
        .capability(ACCESS, VENDOR_CAPABILITY, &access)
        // BAR, offset, length.
        .allow(ACCESS + 4, &[0xff])
        .allow(ACCESS + 8, &[0xff; 8])
        .finish()
}

impl Model {
    /// Reads configuration space.
    pub fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if self.is_removed() {
            return data.fill(0xff);
        }
        let pending = self.dma_pending() && self.bus.open;
        self.pci.read(offset, data, pending);
        if let Some((bar, at, len)) = self.window(offset, data.len()) {
            let mut bytes = [0; 4];
            self.bar_read(bar, at, &mut bytes[..len]);
            let skip = usize::from(offset) - WINDOW;
            data.iter_mut().zip(&bytes[skip..]).for_each(|(to, from)| *to = *from);
        }
        for (at, byte) in &self.faults.config_space {
            if let Some(place) = at.checked_sub(offset).and_then(|at| data.get_mut(usize::from(at))) {
                *place = *byte;
            }
        }
    }

    /// Writes configuration space.
    pub fn config_write(&mut self, offset: u16, data: &[u8]) {
        if self.is_removed() {
            return;
        }
        if let Some((bar, at, len)) = self.window(offset, data.len()) {
            if usize::from(offset) == WINDOW && data.len() >= len {
                self.bar_write(bar, at, &data[..len]);
            }
            return;
        }
        match self.pci.write(offset, data) {
            Effect::None => self.set_master(self.pci.may_master()),
            Effect::Reset => self.function_reset(),
        }
    }

    /// Where an access to the data window of the access capability goes; `None` when it is no such access, or the
    /// capability says nothing that could be accessed.
    fn window(&self, offset: u16, len: usize) -> Option<(u8, u64, usize)> {
        let start = usize::from(offset);
        if start < WINDOW || start + len > WINDOW + 4 {
            return None;
        }
        let mut words = [0; 12];
        self.pci.read((ACCESS + 4) as u16, &mut words, false);
        let word = |at: usize| u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        let (bar, at, width) = (words[0], word(4), word(8));
        let valid = matches!(width, 1 | 2 | 4) && at % width == 0 && matches!(bar, 0 | 4);
        valid.then_some((bar, at.into(), width as usize))
    }

    /// Reads BAR `bar`.
    pub fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if self.is_removed() {
            return data.fill(0xff);
        }
        self.poll_doorbells();
        data.fill(0);
        match (bar, offset) {
            (0, _) => {
                for (at, byte) in (offset..).zip(data) {
                    *byte = usize::try_from(at).ok().and_then(|at| self.msix.get(at)).copied().unwrap_or(0);
                }
            }
            (4, ..COMMON_LEN) => match self.read_common(offset, data.len()) {
                Some(value) => {
                    self.history.touch(offset as u32, false);
                    data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
                }
                None => self.bus.counters.odd_accesses += 1,
            },
            (4, ISR) if data.len() == 1 => {
                self.history.touch(offset as u32, false);
                data[0] = std::mem::take(&mut self.isr);
            }
            (4, DEVICE..) if offset < DEVICE + DEVICE_LEN => {
                self.history.touch(offset as u32, false);
                let bytes = self.device_config();
                let at = (offset - DEVICE) as usize;
                data.iter_mut().zip(&bytes[at..]).for_each(|(to, from)| *to = *from);
            }
            (4, NOTIFY_START..NOTIFY_END) => {}
            _ => self.bus.counters.odd_accesses += 1,
        }
    }

    /// Writes BAR `bar`. Anything but a field's own width is counted and changes nothing.
    pub fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        if self.is_removed() {
            return;
        }
        // What a client stored in the mapped page before this message counts before it.
        self.poll_doorbells();
        match (bar, offset) {
            (0, _) => {
                for (at, byte) in (offset..BAR0_LEN).zip(data) {
                    self.msix[at as usize] = *byte;
                }
            }
            (4, ..COMMON_LEN) if matches!(data.len(), 1 | 2 | 4) => {
                let mut bytes = [0; 4];
                bytes[..data.len()].copy_from_slice(data);
                self.history.touch(offset as u32, true);
                if !self.write_common(offset, data.len(), u32::from_le_bytes(bytes)) {
                    self.bus.counters.odd_accesses += 1;
                }
            }
            (4, NOTIFY_START..NOTIFY_END) if data.len() == 2 && offset.is_multiple_of(NOTIFY_STRIDE.into()) => {
                let queue = u16::from_le_bytes([data[0], data[1]]);
                self.kick(((offset - NOTIFY_START) / u64::from(NOTIFY_STRIDE)) as usize, queue);
            }
            _ => self.bus.counters.odd_accesses += 1,
        }
    }
}

const NOTIFY_START: u64 = NOTIFY as u64;
const NOTIFY_END: u64 = NOTIFY_START + NOTIFY_LEN;

/// The name of what is at an offset in BAR4.
pub(super) fn name(offset: u32) -> &'static str {
    match u64::from(offset) {
        0 => "device_feature_select",
        4 => "device_feature",
        8 => "driver_feature_select",
        12 => "driver_feature",
        16 => "config_msix_vector",
        18 => "num_queues",
        20 => "device_status",
        21 => "config_generation",
        22 => "queue_select",
        24 => "queue_size",
        26 => "queue_msix_vector",
        28 => "queue_enable",
        30 => "queue_notify_off",
        32 | 36 => "queue_desc",
        40 | 44 => "queue_driver",
        48 | 52 => "queue_device",
        ISR => "isr",
        DEVICE.. => "device configuration",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_and_capability_chain() {
        let space = space();
        let read = |at: u16| {
            let mut word = [0; 4];
            space.read(at, &mut word, false);
            u32::from_le_bytes(word)
        };
        assert_eq!((read(0), read(8)), (0x1041_1af4, 0x0200_0001));
        let mut chain = Vec::new();
        let mut at = read(0x34) as u16 & 0xff;
        while at != 0 {
            let kind = if read(at) as u8 == 9 { (read(at) >> 24) as u8 } else { 0 };
            chain.push((read(at) as u8, kind));
            at = (read(at) >> 8) as u16 & 0xff;
        }
        assert_eq!(chain, [(1, 0), (0x11, 0), (0x10, 0), (9, 1), (9, 2), (9, 3), (9, 4), (9, 5)]);
        assert_eq!((read(0xA0) >> 16 & 0xff, read(0xA4) & 0xff), (20, 4));
        assert_eq!((read(0xA8), read(0xAC), read(0xB0)), (0x3000, 0x1000, 4));
    }
}
