//! Registers of a virtio device that this driver touches, in the order of the standard (virtio 1.2, 4.1.4.3, 5.1.4), and
//! feature bits (5.1.3, 6).

use std::time::Duration;

use stillwire_dma::RegisterSpace;

use crate::{Error, Result};

/// One register of a part of the device: natural width, offset in its part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub name: &'static str,
    pub offset: u32,
    /// Bytes: 1, 2 or 4.
    pub width: u32,
}

/// Makes one constant a line: `NAME offset width "meaning";`
macro_rules! fields {
    ($($name:ident $offset:literal $width:literal $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub(crate) const $name: Field = Field { name: stringify!($name), offset: $offset, width: $width };
        )*
    };
}

fields! {
    // Common configuration
    DEVICE_FEATURE_SELECT 0 4 "Which 32 feature bits the next one shows.";
    DEVICE_FEATURE        4 4 "Features offered.";
    DRIVER_FEATURE_SELECT 8 4 "Which 32 feature bits the next one takes.";
    DRIVER_FEATURE       12 4 "Features accepted.";
    CONFIG_MSIX_VECTOR   16 2 "Vector of configuration changes.";
    NUM_QUEUES           18 2 "Queues that there are.";
    DEVICE_STATUS        20 1 "Status; writing 0 resets.";
    CONFIG_GENERATION    21 1 "Changes with the device's configuration.";
    QUEUE_SELECT         22 2 "Which queue the next ones speak of.";
    QUEUE_SIZE           24 2 "Descriptors; the most there can be after a reset.";
    QUEUE_MSIX_VECTOR    26 2 "Vector of the queue.";
    QUEUE_ENABLE         28 2 "Writing 1 starts the queue.";
    QUEUE_NOTIFY_OFF     30 2 "Place of the queue's doorbell, in multipliers.";
    QUEUE_DESC_LOW       32 4 "Address of the descriptor table, low.";
    QUEUE_DESC_HIGH      36 4 "The same, high.";
    QUEUE_DRIVER_LOW     40 4 "Address of the available ring, low.";
    QUEUE_DRIVER_HIGH    44 4 "The same, high.";
    QUEUE_DEVICE_LOW     48 4 "Address of the used ring, low.";
    QUEUE_DEVICE_HIGH    52 4 "The same, high.";
    // Device configuration of a network device
    NET_MAC_LOW           0 4 "Bytes 0..4 of the address.";
    NET_MAC_HIGH          4 2 "Bytes 4..6 of the address.";
    NET_STATUS            6 2 "Bit 0: there is link.";
    NET_MAX_PAIRS         8 2 "Most pairs of queues.";
    NET_MTU              10 2 "Largest packet, bytes.";
}

/// Bytes of the common configuration that any device has.
pub(crate) const COMMON_LEN: u32 = 56;
/// Bytes of the device configuration up to the last field above.
pub(crate) const NET_LEN: u32 = 12;

pub(crate) const STATUS_ACKNOWLEDGE: u32 = 1;
pub(crate) const STATUS_DRIVER: u32 = 2;
pub(crate) const STATUS_DRIVER_OK: u32 = 4;
pub(crate) const STATUS_FEATURES_OK: u32 = 8;
pub(crate) const STATUS_NEEDS_RESET: u32 = 64;
pub(crate) const STATUS_FAILED: u32 = 128;
pub(crate) const NET_STATUS_LINK_UP: u32 = 1;
/// No vector: the driver polls.
pub(crate) const NO_VECTOR: u32 = 0xffff;

pub(crate) const F_CSUM: u64 = 1 << 0;
pub(crate) const F_GUEST_CSUM: u64 = 1 << 1;
pub(crate) const F_MTU: u64 = 1 << 3;
pub(crate) const F_MAC: u64 = 1 << 5;
pub(crate) const F_HOST_TSO4: u64 = 1 << 11;
pub(crate) const F_HOST_TSO6: u64 = 1 << 12;
pub(crate) const F_MRG_RXBUF: u64 = 1 << 15;
pub(crate) const F_STATUS: u64 = 1 << 16;
pub(crate) const F_CTRL_VQ: u64 = 1 << 17;
pub(crate) const F_CTRL_RX: u64 = 1 << 18;
pub(crate) const F_MQ: u64 = 1 << 22;
pub(crate) const F_EVENT_IDX: u64 = 1 << 29;
pub(crate) const F_VERSION_1: u64 = 1 << 32;
pub(crate) const F_ACCESS_PLATFORM: u64 = 1 << 33;
pub(crate) const F_RING_PACKED: u64 = 1 << 34;
pub(crate) const F_IN_ORDER: u64 = 1 << 35;
pub(crate) const F_ORDER_PLATFORM: u64 = 1 << 36;
pub(crate) const F_HOST_USO: u64 = 1 << 56;
/// What needs CSUM.
pub(crate) const SEGMENTATION: u64 = F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_USO;

/// A part of the device: a run of registers within a BAR, checked to lie in it.
#[derive(Clone)]
pub(crate) struct Part {
    pub space: RegisterSpace,
    pub start: u32,
    /// Bytes.
    pub len: u32,
}

impl Part {
    pub(crate) fn read(&self, field: Field) -> u32 {
        let at = self.at(field);
        match field.width {
            1 => self.space.read8(at).into(),
            2 => self.space.read16(at).into(),
            _ => self.space.read(at),
        }
    }

    pub(crate) fn write(&self, field: Field, value: u32) {
        let at = self.at(field);
        match field.width {
            1 => self.space.write8(at, value as u8),
            2 => self.space.write16(at, value as u16),
            _ => self.space.write(at, value),
        }
    }

    /// Reads until the bits under `mask` are `wanted`, at most for `deadline`.
    pub(crate) fn wait(&self, field: Field, mask: u32, wanted: u32, deadline: Duration) -> Result<()> {
        let start = self.space.now();
        loop {
            let found = self.read(field);
            if found & mask == wanted {
                return Ok(());
            }
            let waited = self.space.now().saturating_sub(start);
            if waited >= deadline {
                let offset = self.at(field);
                return Err(Error::Timeout { register: field.name, offset, found, mask, wanted, waited });
            }
            self.space.sleep(POLL);
        }
    }

    fn at(&self, field: Field) -> u32 {
        debug_assert!(field.offset + field.width <= self.len, "{} is outside of its part", field.name);
        self.start + field.offset
    }
}

/// Between two looks at a register, outside of the data path.
const POLL: Duration = Duration::from_micros(100);
