//! Where the parts of the device lie: vendor capabilities (virtio 1.2, 4.1.4).

use stillwire_dma::{PciFunction, Register16};

use super::regs::{COMMON_LEN, NET_LEN, Part};
use crate::{Error, Result};

/// The parts that this driver uses.
pub(crate) struct Parts {
    pub common: Part,
    pub device: Part,
    pub notify: Part,
    /// Bytes from one doorbell to the next.
    multiplier: u32,
    name: String,
}

/// What one capability says.
#[derive(Clone, Copy, Debug)]
struct Capability {
    kind: u8,
    bar: u8,
    offset: u32,
    len: u32,
    /// Of notifications only.
    multiplier: u32,
}

impl Parts {
    /// Finds all parts and checks that they are inside of their BARs.
    pub(crate) fn find(pci: &PciFunction) -> Result<Self> {
        let capabilities = read_all(pci)?;
        // The first of a kind is the one that the device prefers.
        let first = |kind, what: &str, needed, alignment| {
            let found = capabilities.iter().find(|capability| capability.kind == kind);
            let found = found.ok_or_else(|| broken(pci, format!("it has no {what} capability")))?;
            Ok::<_, Error>((part(pci, found, what, needed, alignment)?, found.multiplier))
        };
        let (common, _) = first(KIND_COMMON, "common configuration", COMMON_LEN, 4)?;
        let (notify, multiplier) = first(KIND_NOTIFY, "notification", 2, 2)?;
        first(KIND_ISR, "ISR", 1, 1)?;
        let (device, _) = first(KIND_DEVICE, "device configuration", NET_LEN, 4)?;
        if multiplier != 0 && (!multiplier.is_power_of_two() || multiplier == 1) {
            let what = format!("its notify_off_multiplier is {multiplier}, not 0 or an even power of two");
            return Err(broken(pci, what));
        }
        Ok(Self { common, device, notify, multiplier, name: pci.name() })
    }

    /// The doorbell that the device has for a queue of this `queue_notify_off`.
    pub(crate) fn doorbell(&self, notify_off: u32) -> Result<Register16> {
        let offset = u64::from(notify_off) * u64::from(self.multiplier);
        if offset + 2 > u64::from(self.notify.len) {
            let (name, len) = (self.name.clone(), self.notify.len);
            let what = format!("queue_notify_off {notify_off} is behind its {len} bytes of doorbells");
            return Err(Error::Protocol { name, what });
        }
        Ok(self.notify.space.register16(self.notify.start + offset as u32))
    }
}

/// All vendor capabilities that name a BAR that can be.
fn read_all(pci: &PciFunction) -> Result<Vec<Capability>> {
    let mut found = Vec::new();
    for at in pci.capabilities(CAP_VENDOR)? {
        let (head, place) = (pci.config_read32(at)?, pci.config_read32(at + 4)?);
        let (cap_len, kind, bar) = ((head >> 16) as u8, (head >> 24) as u8, place as u8);
        let needed = if kind == KIND_NOTIFY { 20 } else { 16 };
        // Reserved BAR numbers and unknown kinds are passed over, as the standard wants it.
        if cap_len < needed || bar > 5 || u16::from(needed) + at > 256 {
            continue;
        }
        let (offset, len) = (pci.config_read32(at + 8)?, pci.config_read32(at + 12)?);
        let multiplier = if kind == KIND_NOTIFY { pci.config_read32(at + 16)? } else { 0 };
        found.push(Capability { kind, bar, offset, len, multiplier });
    }
    Ok(found)
}

fn part(pci: &PciFunction, found: &Capability, what: &str, needed: u32, alignment: u32) -> Result<Part> {
    let Capability { bar, offset, len, .. } = *found;
    if len < needed || !offset.is_multiple_of(alignment) {
        let what = format!(
            "its {what} has {len} bytes at {offset:#x}; at least {needed} at a multiple of {alignment} must be"
        );
        return Err(broken(pci, what));
    }
    let end = u64::from(offset) + u64::from(len);
    let space = pci.registers(bar, 0)?;
    if end > space.len() || end > u64::from(u32::MAX) {
        let bar_len = space.len();
        let what =
            format!("its {what} of {len} bytes at {offset:#x} reaches behind the {bar_len:#x} bytes of BAR{bar}");
        return Err(broken(pci, what));
    }
    Ok(Part { space, start: offset, len })
}

fn broken(pci: &PciFunction, what: String) -> Error {
    Error::Protocol { name: pci.name(), what }
}

const CAP_VENDOR: u8 = 0x09;
const KIND_COMMON: u8 = 1;
const KIND_NOTIFY: u8 = 2;
const KIND_ISR: u8 = 3;
const KIND_DEVICE: u8 = 4;
