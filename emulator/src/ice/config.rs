//! What is modelled, and what goes wrong.

use std::time::Duration;

use crate::pages::Doorbells;

/// What is to be modelled.
#[derive(Clone, Debug)]
pub struct Config {
    /// PCI device ID: 0x1591 (backplane), 0x1592 (QSFP), 0x1593 (SFP).
    pub device_id: u16,
    /// The address in the NVM.
    pub mac: [u8; 6],
    /// How tails are written.
    pub doorbells: Doorbells,
    /// Time between the checksum pass and the transmit pass of a frame.
    pub transmit_delay: Duration,
    /// Most frames that one step moves in each direction, for each queue.
    pub frames_per_step: usize,
    /// Whether the cable is in.
    pub link_up: bool,
    /// Whether a package (DDP) is there from the beginning, as an earlier driver leaves it. Without one the device knows no
    /// protocols: nothing is said of received checksums, and all frames of a VSI come on its first queue.
    pub package: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device_id: 0x1592,
            mac: [0x02, 0x53, 0x57, 0, 2, 1],
            doorbells: Doorbells::Mapped,
            transmit_delay: Duration::ZERO,
            frames_per_step: 64,
            link_up: true,
            package: false,
        }
    }
}

/// What goes wrong, on demand; may be changed at any time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Descriptors are fetched and checksums computed, but nothing is sent or completed until this is cleared.
    pub stall_tx: bool,
    /// A frame is reported so long after it was sent.
    pub completion_delay: Duration,
    /// The command that disables transmit queues is never answered.
    pub stuck_tx_disable: bool,
    /// QRX_CTRL.QENA_STAT never follows QENA_REQ.
    pub stuck_rx: bool,
    /// PFGEN_CTRL.PFSWR never clears.
    pub stuck_reset: bool,
    /// The card was pulled: all reads give ones, and it does no DMA.
    pub all_ones: bool,
    /// The cable is out.
    pub link_down: bool,
    /// Every nth frame sent is lost; 0 for none.
    pub lose_every: u32,
    /// Every nth frame sent has one bit flipped; 0 for none.
    pub corrupt_every: u32,
    /// Commands on the admin queue are not answered.
    pub silent_adminq: bool,
    /// Commands on the admin queue are answered with ones, descriptor and buffer.
    pub garbage_adminq: bool,
    /// The command of this opcode is refused with this code.
    pub refuse_command: Option<(u16, u16)>,
}
