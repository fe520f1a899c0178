//! What is modelled, what goes wrong, and what was done.

use std::time::Duration;

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

/// How a client reaches the queue registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doorbells {
    /// Two pages of BAR0 are memory that the client maps; the model polls them.
    Mapped,
    /// Every register is a message.
    Messages,
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

/// What the model did since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Reads of host memory that were made.
    pub dma_reads: u64,
    /// Writes to host memory that were made.
    pub dma_writes: u64,
    /// Bytes read.
    pub dma_read_bytes: u64,
    /// Bytes written.
    pub dma_write_bytes: u64,
    /// Accesses that the IOMMU refused.
    pub bus_faults: u64,
    /// Accesses that the model wanted to make while bus mastering was off; none reached memory.
    pub gated: u64,
    /// Descriptors, rings and doorbells that stopped a queue, bus faults included.
    pub bad_descriptors: u64,
    /// Frames given to the wire's side of the MAC (each segment counts).
    pub frames_sent: u64,
    /// Frames written to host memory.
    pub frames_received: u64,
    /// Frames that [`Faults`] lost.
    pub frames_lost: u64,
    /// Frames that [`Faults`] damaged.
    pub frames_corrupted: u64,
    /// Frames dropped for want of a descriptor or of packet memory.
    pub rx_dropped: u64,
    /// Frames without offload whose PAYLEN was not their length: sent all the same.
    pub payload_len_mismatches: u64,
    /// Frames whose transport checksum the device computed (before segmentation).
    pub checksummed: u64,
    /// Frames that the device cut into segments.
    pub segmented: u64,
    /// MSI-X messages.
    pub interrupts: u64,
    /// Register accesses of no valid size or place.
    pub odd_accesses: u64,
    /// Resets of any kind.
    pub resets: u64,
}
