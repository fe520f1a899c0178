//! What is modelled.

use std::time::Duration;

use super::sfp::Module;
use crate::pages::Doorbells;

/// What is to be modelled.
#[derive(Clone, Debug)]
pub struct Config {
    /// PCI device ID, one of [`SUPPORTED`](super::SUPPORTED): 0x10fb (82599, SFP+), 0x10f7 (82599, backplane), 0x1528 (X540),
    /// 0x1563 (X550)... Any other is an 82599 that no driver knows.
    pub device_id: u16,
    /// What is in the cage of a part that has one.
    pub module: Module,
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
            module: Module::Sr,
            mac: [0x02, 0x53, 0x57, 0, 0, 1],
            doorbells: Doorbells::Mapped,
            transmit_delay: Duration::ZERO,
            frames_per_step: 64,
            link_up: true,
        }
    }
}
