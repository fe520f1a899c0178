//! What is modelled, and what goes wrong.

use std::time::Duration;

use crate::pages::Doorbells;

/// What is to be modelled.
#[derive(Clone, Debug)]
pub struct Config {
    /// PCI device ID: 0x10fb (SFP+) or 0x10f7 (KX4 backplane, which stock drivers bring up without an SFP module).
    pub device_id: u16,
    /// The address in the EEPROM.
    pub mac: [u8; 6],
    /// How queue registers are reached.
    pub doorbells: Doorbells,
    /// Time between the checksum pass and the transmit pass of a frame.
    pub transmit_delay: Duration,
    /// Most frames that one step moves in each direction, for each queue.
    pub frames_per_step: usize,
    /// Whether the cable is in.
    pub link_up: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device_id: 0x10fb,
            mac: [0x02, 0x53, 0x57, 0, 0, 1],
            doorbells: Doorbells::Mapped,
            transmit_delay: Duration::ZERO,
            frames_per_step: 64,
            link_up: true,
        }
    }
}

impl Config {
    /// Whether it is a part without SFP cage.
    pub(super) fn is_backplane(&self) -> bool {
        matches!(self.device_id, 0x10f7 | 0x10f8 | 0x10fc | 0x1514 | 0x1517)
    }
}

/// What goes wrong, on demand; may be changed at any time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Descriptors are fetched and checksums computed, but nothing is sent or completed until this is cleared.
    pub stall_tx: bool,
    /// TXDCTL.ENABLE never goes back to 0.
    pub stuck_tx_disable: bool,
    /// STATUS' master bit never clears.
    pub stuck_master: bool,
    /// The card was pulled: all reads give ones, and it does no DMA.
    pub all_ones: bool,
    /// The cable is out.
    pub link_down: bool,
    /// Every nth frame sent is lost; 0 for none.
    pub lose_every: u32,
    /// Every nth frame sent has one bit flipped; 0 for none.
    pub corrupt_every: u32,
}
