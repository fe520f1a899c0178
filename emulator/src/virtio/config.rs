//! What is modelled, and what goes wrong.

use std::time::Duration;

use bitflags::bitflags;

use crate::pages::Doorbells;

bitflags! {
    /// Feature bits (virtio 1.x, "Reserved Feature Bits" and "Network Device, Feature bits").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u64 {
        /// Device completes checksums.
        const CSUM = 1 << 0;
        /// Driver takes frames whose checksums are checked already, or partial.
        const GUEST_CSUM = 1 << 1;
        /// Device says the MTU.
        const MTU = 1 << 3;
        /// Device has an address.
        const MAC = 1 << 5;
        /// Device segments TCP over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// Device segments TCP over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// Driver merges receive buffers.
        const MRG_RXBUF = 1 << 15;
        /// Device says whether there is link.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// Receive modes and the table of addresses.
        const CTRL_RX = 1 << 18;
        /// Several queue pairs.
        const MQ = 1 << 22;
        /// The address can be set.
        const CTRL_MAC_ADDR = 1 << 23;
        /// Chains may be tables of descriptors elsewhere.
        const INDIRECT_DESC = 1 << 28;
        /// Doorbells and interrupts by index.
        const EVENT_IDX = 1 << 29;
        /// Not a legacy device.
        const VERSION_1 = 1 << 32;
        /// Addresses are those of the IOMMU.
        const ACCESS_PLATFORM = 1 << 33;
        /// Packed rings.
        const RING_PACKED = 1 << 34;
        /// Buffers are used in the order in which they were made available.
        const IN_ORDER = 1 << 35;
        /// Device segments UDP.
        const HOST_USO = 1 << 56;
    }
}

impl Features {
    /// Device-side segmentation of any kind.
    pub(super) const SEGMENT: Self = Self::HOST_TSO4.union(Self::HOST_TSO6).union(Self::HOST_USO);
    /// What only a control queue can carry.
    const BY_CONTROL: Self = Self::CTRL_RX.union(Self::MQ).union(Self::CTRL_MAC_ADDR);

    /// Why a device that offers `offered` does not take `self`.
    pub(super) fn refusal(self, offered: Self) -> Option<&'static str> {
        let lacks = |needs: Self, what: Self| self.intersects(needs) && !self.contains(what);
        match () {
            () if !offered.contains(self) => Some("features were accepted that are not offered"),
            () if !self.contains(Self::VERSION_1) => Some("VERSION_1 was not accepted: there is no legacy interface"),
            () if offered.contains(Self::ACCESS_PLATFORM) && !self.contains(Self::ACCESS_PLATFORM) => {
                Some("ACCESS_PLATFORM was not accepted: there is no way around the IOMMU")
            }
            () if lacks(Self::SEGMENT, Self::CSUM) => Some("segmentation without CSUM"),
            () if lacks(Self::BY_CONTROL, Self::CTRL_VQ) => Some("MQ, CTRL_RX or CTRL_MAC_ADDR without CTRL_VQ"),
            () => None,
        }
    }
}

/// What is to be modelled.
#[derive(Clone, Debug)]
pub struct Config {
    /// The device's address.
    pub mac: [u8; 6],
    /// Largest packet without segmentation, bytes.
    pub mtu: u16,
    /// Most pairs of queues; 1 to 16.
    pub pairs: u16,
    /// Most descriptors in a queue; a power of two.
    pub queue_size: u16,
    /// What is offered.
    pub features: Features,
    /// How doorbells are reached.
    pub doorbells: Doorbells,
    /// Time between the checksum pass and the transmit pass of a frame.
    pub transmit_delay: Duration,
    /// Most frames that one step moves in each direction, for each queue.
    pub frames_per_step: usize,
    /// Whether the cable is in.
    pub link_up: bool,
    /// Frames come as from a sender on the same host: with a partial checksum, where GUEST_CSUM is negotiated.
    pub partial_checksums: bool,
    /// Transmit buffers come back in another order than they were posted, which is allowed without IN_ORDER.
    pub out_of_order: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mac: [0x02, 0x53, 0x57, 0, 1, 1],
            mtu: 1500,
            pairs: 4,
            queue_size: 256,
            features: Features::all(),
            doorbells: Doorbells::Mapped,
            transmit_delay: Duration::ZERO,
            frames_per_step: 64,
            link_up: true,
            partial_checksums: false,
            out_of_order: false,
        }
    }
}

/// What goes wrong, on demand; may be changed at any time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// The card was pulled: all reads give ones, and it does no DMA.
    pub all_ones: bool,
    /// The cable is out.
    pub link_down: bool,
    /// Every nth frame sent is lost; 0 for none.
    pub lose_every: u32,
    /// Every nth frame sent has one bit flipped; 0 for none.
    pub corrupt_every: u32,
    /// Frames are fetched and checksums computed, but nothing is sent or used until this is cleared.
    pub stall_tx: bool,
    /// Status never reads 0, and the device works on.
    pub stuck_reset: bool,
    /// FEATURES_OK never stays set.
    pub refuse_features: bool,
    /// No vector can be had: every vector register reads 0xffff.
    pub refuse_vectors: bool,
    /// `config_generation` changes with every read.
    pub restless_config: bool,
    /// Commands on the control queue are not answered.
    pub silent_control: bool,
    /// Commands on the control queue are answered with an error.
    pub refuse_control: bool,
    /// `queue_size` reads this.
    pub queue_size: Option<u16>,
    /// `queue_notify_off` reads this.
    pub notify_off: Option<u16>,
    /// `max_virtqueue_pairs` reads this.
    pub max_pairs: Option<u16>,
    /// `num_buffers` of a received frame.
    pub num_buffers: Option<u16>,
    /// Bytes of configuration space that read otherwise.
    pub config_space: Vec<(u16, u8)>,
    /// What is done to the used ring of a queue.
    pub used: Option<(u16, Misuse)>,
}

/// Names of faults with the shape of their values.
const NAMES: &str = "stall-tx, all-ones, link-down, stuck-reset, refuse-features, refuse-vectors, restless-config, \
    silent-control, refuse-control (each also with =off), lose-every=N, corrupt-every=N";

impl Faults {
    /// Changes one fault as a text says: `stall-tx`, `stall-tx=off`, `lose-every=100`. What only a test would do to a ring has no
    /// name.
    ///
    /// # Errors
    /// When the text is no fault; says which there are.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').unwrap_or((text, "on"));
        self.set_value(name, value).ok_or_else(|| format!("'{text}' is no fault; use {NAMES}"))
    }

    fn set_value(&mut self, name: &str, value: &str) -> Option<()> {
        let switch = match name {
            "stall-tx" => &mut self.stall_tx,
            "all-ones" => &mut self.all_ones,
            "link-down" => &mut self.link_down,
            "stuck-reset" => &mut self.stuck_reset,
            "refuse-features" => &mut self.refuse_features,
            "refuse-vectors" => &mut self.refuse_vectors,
            "restless-config" => &mut self.restless_config,
            "silent-control" => &mut self.silent_control,
            "refuse-control" => &mut self.refuse_control,
            "lose-every" | "corrupt-every" => {
                let every = if name == "lose-every" { &mut self.lose_every } else { &mut self.corrupt_every };
                *every = if value == "off" { 0 } else { value.parse().ok()? };
                return Some(());
            }
            _ => return None,
        };
        *switch = match value {
            "on" => true,
            "off" => false,
            _ => return None,
        };
        Some(())
    }
}

/// What a hostile device does to a ring; nothing of it needs a buffer that was posted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misuse {
    /// Buffers come back under an ID that no ring has.
    IdOutOfRange,
    /// Buffers come back twice.
    Twice,
    /// Buffers come back with more bytes written than they are long.
    LenTooLong,
    /// The used index jumps by so many; a packed ring shows so many descriptors used.
    Jump(u16),
    /// Of a batch only the last is given back, and the used index moves by one.
    LastOnly,
    /// At every step the whole ring is used, whatever is available.
    Endless,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_by_name() {
        let mut faults = Faults::default();
        let names: Vec<_> = NAMES.split(", ").map(|name| name.split([' ', '=']).next().unwrap()).collect();
        for name in &names {
            let value = if name.ends_with("-every") { "=3" } else { "" };
            let before = faults.clone();
            faults.set(&format!("{name}{value}")).unwrap();
            assert_ne!(faults, before, "{name} does nothing");
        }
        names.iter().for_each(|name| faults.set(&format!("{name}=off")).unwrap());
        assert_eq!((faults, names.len()), (Faults::default(), 11));
    }
}
