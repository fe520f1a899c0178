//! The port beside its queues: what is plugged in, which frames it takes, what each queue counted.

use std::fmt;

use crate::nic::Device;
use crate::{Error, Mac, Nic, Result};

/// What a port's cable goes into.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Socket {
    /// Nothing: the device is a program.
    Virtual,
    /// A backplane, or whatever else is soldered.
    Fixed,
    /// A twisted pair. The identifier of its PHY (IEEE 802.3, registers 1.2 and 1.3).
    TwistedPair {
        /// Organization, model and revision.
        phy: u32,
    },
    /// A cage for SFP+ modules, and the one that is in it.
    Cage(Option<Module>),
    /// Something that this driver does not ask: the E810's.
    Unread,
}

/// An SFP+ module as its EEPROM describes it (SFF-8472).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// Codes of 10G Ethernet (byte 3, bits 7:4): 0x10 SR, 0x20 LR, 0x40 LRM, 0x80 ER.
    pub ethernet: u8,
    /// Codes of cables (byte 8): 0x04 passive copper, 0x08 active.
    pub cable: u8,
    /// Who made it.
    pub vendor: String,
    /// What its maker calls it.
    pub part: String,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [(0x10, "10GBASE-SR"), (0x20, "10GBASE-LR"), (0x40, "10GBASE-LRM"), (0x80, "10GBASE-ER")];
        let cables = [(0x04, "passive copper cable"), (0x08, "active copper cable")];
        let kind = kinds.iter().find(|(bit, _)| self.ethernet & bit != 0);
        let kind = kind.or_else(|| cables.iter().find(|(bit, _)| self.cable & bit != 0));
        write!(f, "{}, {} {}", kind.map_or("of no known kind", |(_, name)| name), self.vendor, self.part)
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Virtual => f.write_str("virtual"),
            Self::Fixed => f.write_str("backplane"),
            Self::TwistedPair { phy } => write!(f, "twisted pair, PHY {phy:#010x}"),
            Self::Cage(None) => f.write_str("SFP+ cage, empty"),
            Self::Unread => f.write_str("not asked for"),
            Self::Cage(Some(module)) => write!(f, "SFP+: {module}"),
        }
    }
}

/// Which frames a port takes beside its own and broadcasts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Filter {
    /// Those to more addresses: 127 on the 82599 family.
    pub addresses: Vec<Mac>,
    /// Those to these groups; the 82599 family sorts by a hash of 12 bits, so others may come as well.
    pub groups: Vec<Mac>,
    /// Those to every group.
    pub all_groups: bool,
    /// All.
    pub promiscuous: bool,
}

impl Filter {
    fn check(&self) -> Result<()> {
        let wrong = |setting, mac: &Mac| {
            let allowed = "a station's address has bit 0 of its first byte clear, a group's has it set";
            Error::Setting { setting, found: mac.0.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)), allowed }
        };
        let is_group = |mac: &&Mac| mac.0[0] & 1 == 1;
        if let Some(mac) = self.addresses.iter().find(is_group) {
            return Err(wrong("address to receive", mac));
        }
        match self.groups.iter().find(|mac| !is_group(mac)) {
            Some(mac) => Err(wrong("group to receive", mac)),
            None => Ok(()),
        }
    }
}

/// What a queue counted since the NIC was opened or [reset](Nic::reset).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueueStatistics {
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent; with check sequences on virtio, without on the 82599 and the E810.
    pub tx_bytes: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received, likewise.
    pub rx_bytes: u64,
    /// Frames lost for want of buffers.
    pub rx_dropped: u64,
}

impl Nic {
    /// What the cable goes into. Asking a module takes some milliseconds.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::Timeout`], [`Error::Stopped`].
    pub fn socket(&self) -> Result<Socket> {
        match self.device()? {
            Device::Ixgbe(device) => device.socket(),
            Device::Ice(_) => Ok(Socket::Unread),
            Device::Virtio(_) => Ok(Socket::Virtual),
        }
    }

    /// Changes which frames are taken. It stays so over a [reset](Self::reset).
    ///
    /// # Errors
    /// [`Error::Setting`] for too many addresses or wrong ones; [`Error::Feature`] where the device cannot be told any more.
    pub fn set_filter(&self, filter: &Filter) -> Result<()> {
        filter.check()?;
        match self.device()? {
            Device::Ixgbe(device) => device.set_filter(filter)?,
            Device::Ice(device) => device.set_filter(filter)?,
            Device::Virtio(_) => {
                let hint = "a virtio device is told once, at its start: use Config::promiscuous";
                return Err(Error::Feature { name: self.name().to_owned(), feature: "a filter that changes", hint });
            }
        }
        self.remember(filter);
        Ok(())
    }

    /// What each queue counted, by its number.
    pub fn queue_statistics(&self) -> Vec<QueueStatistics> {
        match self.device() {
            Ok(Device::Ixgbe(device)) => device.queue_statistics(),
            Ok(Device::Ice(device)) => device.queue_statistics(),
            Ok(Device::Virtio(device)) => device.queue_statistics(),
            Err(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named() {
        let module =
            |ethernet, cable| Module { ethernet, cable, vendor: "Maker".into(), part: "X-1".into() }.to_string();
        assert_eq!(module(0x20, 0), "10GBASE-LR, Maker X-1");
        assert_eq!(module(0, 4), "passive copper cable, Maker X-1");
        assert_eq!(module(0, 0), "of no known kind, Maker X-1");
        assert_eq!(Socket::Cage(None).to_string(), "SFP+ cage, empty");
    }

    #[test]
    fn stations_and_groups_are_told_apart() {
        let (station, group) = (Mac([2, 0, 0, 0, 0, 1]), Mac([1, 0, 0x5e, 0, 0, 1]));
        let filter = |addresses, groups| Filter { addresses, groups, ..Filter::default() }.check();
        filter(vec![station], vec![group]).unwrap();
        assert!(filter(vec![group], vec![]).unwrap_err().to_string().contains("address to receive"));
        assert!(filter(vec![], vec![station]).unwrap_err().to_string().contains("group to receive"));
    }
}
