//! Bring-up: reset, negotiation, queues (virtio 1.2, 3.1, 5.1.5).

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use stillwire_dma::{Claim, Mapping, PciFunction};

use super::breach::Breach;
use super::control::{CONTROL_RING, Command, Control};
use super::pci::Parts;
use super::regs::*;
use super::rx::BUFFER;
use super::stats::Counters;
use super::stop::State;
use super::virtqueue::{RingMemory, Virtqueue};
use super::{desc, tx};
use crate::bells::Bells;
use crate::values::{MOST_SEGMENTED_BY_HEADER, TAGGED_ETHERNET};
use crate::{Capabilities, Config, Error, Link, Mac, Result};

/// Whether this family's driver drives the function: a network device of virtio 1.0 or later, no transitional one.
pub(crate) fn knows(vendor: u16, device: u16) -> bool {
    (vendor, device) == (0x1af4, 0x1041)
}

/// What the queues and the [`Device`] share.
pub(crate) struct Function {
    /// Kept until the last queue is gone: a queue of an earlier life must not ring the doorbells of the next.
    _claim: Claim,
    pub pci: PciFunction,
    pub parts: Parts,
    pub features: u64,
    pub config: Config,
    pub(super) state: Mutex<State>,
    /// One for each queue, in the order of their numbers.
    counters: Box<[Counters]>,
    /// Rings that nobody has taken yet, likewise: all must be there before the device starts.
    free: Mutex<Vec<Option<Virtqueue>>>,
    /// Memory of all rings, for when it must be kept.
    rings: Mutex<Vec<Arc<Mapping>>>,
    /// What the device did first that no device may do.
    failure: OnceLock<String>,
    pub bells: Bells,
}

/// Which of the two queues of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    Receive,
    Transmit,
}

impl Which {
    /// Number of the queue of a pair in the device.
    fn number(self, pair: usize) -> usize {
        2 * pair + self as usize
    }

    fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Transmit => "transmit",
        }
    }
}

/// A port, reset and configured.
pub(crate) struct Device {
    pub function: Arc<Function>,
    pub mac: Mac,
}

impl Device {
    pub(crate) fn open(pci: PciFunction, config: Config) -> Result<Self> {
        let claim = pci.claim()?;
        pci.enable_memory()?;
        let mut function = Function {
            _claim: claim,
            parts: Parts::find(&pci)?,
            pci,
            features: 0,
            config,
            state: Mutex::new(State::Running),
            counters: Box::default(),
            free: Mutex::default(),
            rings: Mutex::default(),
            failure: OnceLock::new(),
            bells: Bells::default(),
        };
        match function.bring_up() {
            Ok(mac) => Ok(Self { function: Arc::new(function), mac }),
            Err(error) => {
                // It may have its rings already; without proof `stop` keeps them.
                let _ = function.stop();
                Err(error)
            }
        }
    }

    pub(crate) fn link(&self) -> Result<Link> {
        self.function.sound()?;
        let has_status = self.function.features & F_STATUS != 0;
        let up = !has_status || self.function.parts.device.read(NET_STATUS) & NET_STATUS_LINK_UP != 0;
        Ok(Link { up, megabits: 0 })
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let Function { config, features, .. } = &*self.function;
        Capabilities {
            tx_checksum: features & F_CSUM != 0,
            rx_checksum: features & F_GUEST_CSUM != 0,
            sctp_checksum: false,
            tcp_segmentation: features & (F_HOST_TSO4 | F_HOST_TSO6) == F_HOST_TSO4 | F_HOST_TSO6,
            udp_segmentation: features & F_HOST_USO != 0,
            vlan: false,
            max_segmented: if features & SEGMENTATION != 0 { MOST_SEGMENTED_BY_HEADER + TAGGED_ETHERNET } else { 0 },
            queues: config.queues.into(),
            max_frame: config.max_frame.into(),
            header_len: tx::HEADER_LEN,
            payload_pieces: tx::max_segments(config.tx_ring),
            tx_ring: config.tx_ring.into(),
            rx_ring: config.rx_ring.into(),
        }
    }
}

impl Function {
    fn bring_up(&mut self) -> Result<Mac> {
        let common = self.parts.common.clone();
        self.reset(RESET)?;
        common.write(DEVICE_STATUS, STATUS_ACKNOWLEDGE);
        common.write(DEVICE_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        self.features = self.negotiate()?;
        let features = format_args!("{:#x}", self.features);
        tracing::debug!(device = self.pci.name(), features, "reset, features agreed on");
        let mac = self.device_config()?;
        common.write(CONFIG_MSIX_VECTOR, NO_VECTOR);
        let (pairs, control) = self.numbering()?;
        self.config.queues = self.config.queues.min(pairs);
        if self.config.interrupts {
            self.bells = Bells::hang(&self.pci, self.config.queues)?;
        }
        for pair in 0..self.config.queues {
            let (rx, tx) =
                (self.set_up(2 * pair, self.config.rx_ring)?, self.set_up(2 * pair + 1, self.config.tx_ring)?);
            (self.config.rx_ring, self.config.tx_ring) = (rx.size(), tx.size());
            self.free.get_mut().unwrap_or_else(PoisonError::into_inner).extend([Some(rx), Some(tx)]);
        }
        self.counters = (0..2 * self.config.queues).map(|_| Counters::default()).collect();
        let control = control.map(|number| Control::new(self, self.set_up(number, CONTROL_RING)?)).transpose()?;
        let (queues, rx_ring, tx_ring) = (self.config.queues, self.config.rx_ring, self.config.tx_ring);
        tracing::debug!(device = self.pci.name(), queues, rx_ring, tx_ring, "queues set up");
        self.pci.set_bus_master(true)?;
        common.write(DEVICE_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
        self.sound()?;
        if let Some(control) = control {
            self.tell(control)?;
        }
        Ok(mac)
    }

    /// Pairs of queues that there are, and the number of the control queue if one is to be used. That is behind all pairs,
    /// whether they are used or not.
    fn numbering(&self) -> Result<(u16, Option<u16>)> {
        let pairs = if self.features & F_MQ != 0 { self.parts.device.read(NET_MAX_PAIRS) } else { 1 };
        if !(1..=0x8000).contains(&pairs) {
            return Err(self.breaks(format!("it has {pairs} pairs of queues, from 1 to 32768 can be")));
        }
        let control = self.features & F_CTRL_VQ != 0;
        let (found, needed) = (self.parts.common.read(NUM_QUEUES), 2 * pairs + u32::from(control));
        if found < needed {
            let with = if control { " and a control queue" } else { "" };
            return Err(self.breaks(format!("it has {found} queues, for {pairs} pairs{with} there must be {needed}")));
        }
        Ok((pairs as u16, control.then_some((2 * pairs) as u16)))
    }

    /// What a device has to be told once it runs.
    fn tell(&self, mut control: Control) -> Result<()> {
        if self.features & F_CTRL_RX != 0 {
            // In words, whatever it does by itself: devices differ in what they begin with.
            control.tell(self, Command::Promiscuous(self.config.promiscuous))?;
        }
        if self.features & F_MQ != 0 {
            control.tell(self, Command::Pairs(self.config.queues))?;
        }
        Ok(())
    }

    /// Takes what this driver knows of what is offered; returns it.
    fn negotiate(&self) -> Result<u64> {
        let common = &self.parts.common;
        let offered = [0, 1].map(|bank| {
            common.write(DEVICE_FEATURE_SELECT, bank);
            u64::from(common.read(DEVICE_FEATURE)) << (32 * bank)
        });
        let offered = offered[0] | offered[1];
        for (bit, feature, hint) in REQUIRED {
            if offered & bit == 0 {
                common.write(DEVICE_STATUS, common.read(DEVICE_STATUS) | STATUS_FAILED);
                return Err(Error::Feature { name: self.pci.name(), feature, hint });
            }
        }
        let accepted = self.useful(offered & KNOWN);
        for bank in [0, 1] {
            common.write(DRIVER_FEATURE_SELECT, bank);
            common.write(DRIVER_FEATURE, (accepted >> (32 * bank)) as u32);
        }
        let status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
        common.write(DEVICE_STATUS, status);
        let found = common.read(DEVICE_STATUS);
        if found & STATUS_FEATURES_OK == 0 {
            let what = format!("it offers features {offered:#x} and refuses {accepted:#x} of them (status {found:#x})");
            return Err(self.breaks(what));
        }
        Ok(accepted)
    }

    /// What is left of features when those go that nothing would be done with, and those that need another.
    fn useful(&self, mut features: u64) -> u64 {
        if features & F_CSUM == 0 {
            features &= !SEGMENTATION;
        }
        if self.config.queues < 2 {
            features &= !F_MQ;
        }
        if features & F_CTRL_VQ == 0 || features & (F_MQ | F_CTRL_RX) == 0 {
            features &= !(F_CTRL_VQ | F_MQ | F_CTRL_RX);
        }
        features
    }

    /// Reads the device's configuration, and refuses settings that do not go with it.
    fn device_config(&self) -> Result<Mac> {
        let device = &self.parts.device;
        let read = || (device.read(NET_MAC_LOW), device.read(NET_MAC_HIGH), device.read(NET_MTU));
        let generation = || self.parts.common.read(CONFIG_GENERATION);
        // Several registers are one value only if nothing changed meanwhile.
        let steady = (0..GENERATIONS).find_map(|_| {
            let before = generation();
            let values = read();
            (generation() == before).then_some(values)
        });
        let Some((low, high, mtu)) = steady else {
            return Err(self.breaks(format!("its configuration changed under each of {GENERATIONS} readings")));
        };
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        let mac = Mac([a, b, c, d, e, f]);
        if self.features & F_MAC == 0 || mac.0 == [0; 6] || a & 1 != 0 {
            return Err(Error::NoMac { name: self.pci.name(), found: mac.to_string() });
        }
        let found = u64::from(self.config.max_frame);
        if self.features & F_MTU != 0 && found > u64::from(mtu) + 14 {
            let allowed = "no more than the device's MTU and an Ethernet header would do";
            return Err(Error::Setting { setting: "largest frame", found, allowed });
        }
        if self.features & F_MRG_RXBUF == 0 && usize::from(self.config.max_frame) > BUFFER - desc::NET_HEADER {
            let allowed = "the device cannot merge receive buffers: 2036 bytes at most would do";
            return Err(Error::Setting { setting: "largest frame", found, allowed });
        }
        Ok(mac)
    }

    /// Gives a queue a ring of `wanted` descriptors, or of what the device can do, and starts it.
    fn set_up(&self, number: u16, wanted: u16) -> Result<Virtqueue> {
        let common = &self.parts.common;
        common.write(QUEUE_SELECT, number.into());
        let most = common.read(QUEUE_SIZE);
        let packed = self.features & F_RING_PACKED != 0;
        if !(SMALLEST_RING..=0x8000).contains(&most) || !packed && !most.is_power_of_two() {
            let kind = if packed { "" } else { "a power of two " };
            let what = format!("queue {number} has {most} descriptors, not {kind}from {SMALLEST_RING} to 32768");
            return Err(self.breaks(what));
        }
        if common.read(QUEUE_ENABLE) != 0 {
            return Err(self.breaks(format!("queue {number} is enabled after a reset")));
        }
        // A packed ring may be of any size; a power of two is what positions are reduced by.
        let size = wanted.min(1 << most.ilog2());
        let doorbell = self.parts.doorbell(common.read(QUEUE_NOTIFY_OFF))?;
        let ring = RingMemory::new(self.pci.iommu(), size, self.features)?;
        common.write(QUEUE_SIZE, size.into());
        // The control queue is behind the pairs, and polled.
        let vector = u32::from(number / 2);
        let wanted = if self.bells.are_hung() && number / 2 < self.config.queues { vector } else { NO_VECTOR };
        common.write(QUEUE_MSIX_VECTOR, wanted);
        if common.read(QUEUE_MSIX_VECTOR) != wanted {
            return Err(self.breaks(format!("queue {number} does not take vector {wanted}")));
        }
        let fields = [
            (QUEUE_DESC_LOW, QUEUE_DESC_HIGH),
            (QUEUE_DRIVER_LOW, QUEUE_DRIVER_HIGH),
            (QUEUE_DEVICE_LOW, QUEUE_DEVICE_HIGH),
        ];
        for ((low, high), area) in fields.into_iter().zip(ring.areas()) {
            common.write(low, area.get() as u32);
            common.write(high, (area.get() >> 32) as u32);
        }
        let queue = Virtqueue::new(&ring, number, doorbell, self.features);
        // From here on the device may know the memory.
        self.keep(ring.mapping);
        common.write(QUEUE_ENABLE, 1);
        Ok(queue)
    }

    /// Takes the next ring of its kind that nobody has taken, and says of which pair it is.
    pub(super) fn take(&self, which: Which) -> Result<(usize, Virtqueue)> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = (0..free.len() / 2).find_map(|pair| Some((pair, free[which.number(pair)].take()?)));
        found.ok_or_else(|| Error::QueueTaken { name: self.pci.name(), queue: which.name() })
    }

    /// What a queue counts.
    #[inline]
    pub(super) fn counters(&self, which: Which, pair: usize) -> &Counters {
        &self.counters[which.number(pair)]
    }

    /// What all queues of a kind count.
    pub(super) fn all_counters(&self, which: Which) -> impl Iterator<Item = &Counters> {
        self.counters.iter().skip(which.number(0)).step_by(2)
    }

    /// Remembers memory that the device knows: it goes with the function, or never.
    pub(super) fn keep(&self, mapping: Arc<Mapping>) {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).push(mapping);
    }

    /// Neither the rings' memory nor its device addresses are ever given back.
    pub(super) fn keep_rings_mapped(&self) {
        for mapping in self.rings.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            std::mem::forget(mapping.clone());
        }
    }

    /// Notes what a device did that no device may do; the first is kept.
    #[cold]
    pub(super) fn fail(&self, which: Which, pair: usize, breach: Breach) {
        let _ = self.failure.set(format!("{} queue {pair}: {breach}", which.name()));
    }

    /// Errors when the device is gone, at its end, or not to be believed.
    pub(super) fn sound(&self) -> Result<()> {
        if let Some(failure) = self.failure.get() {
            return Err(self.breaks(failure.clone()));
        }
        let status = self.parts.common.read(DEVICE_STATUS);
        if status == 0xff {
            return Err(Error::Gone { name: self.pci.name() });
        }
        if status & STATUS_NEEDS_RESET != 0 {
            return Err(self.breaks(format!("it asks for a reset (status {status:#04x})")));
        }
        Ok(())
    }

    pub(super) fn breaks(&self, what: String) -> Error {
        Error::Protocol { name: self.pci.name(), what }
    }
}

/// What this driver takes when it is offered.
const KNOWN: u64 = F_CSUM
    | F_GUEST_CSUM
    | F_MTU
    | F_MAC
    | F_MRG_RXBUF
    | SEGMENTATION
    | F_STATUS
    | F_CTRL_VQ
    | F_CTRL_RX
    | F_MQ
    | F_EVENT_IDX
    | F_VERSION_1
    | F_ACCESS_PLATFORM
    | F_RING_PACKED
    | F_IN_ORDER
    | F_ORDER_PLATFORM;
/// What must be offered, and how to get it.
const REQUIRED: [(u64, &str, &str); 2] = [
    (F_VERSION_1, "VERSION_1", "a legacy device cannot be driven; in QEMU use virtio-net-pci with disable-legacy=on"),
    (
        F_ACCESS_PLATFORM,
        "ACCESS_PLATFORM",
        "without it the device may go around the IOMMU, so this is refused; in QEMU add iommu_platform=on to the device",
    ),
];
/// A device that needs longer for a reset is not waited for.
const RESET: Duration = Duration::from_secs(2);
/// Readings of the configuration before it is given up.
const GENERATIONS: usize = 16;
/// A frame needs several descriptors.
const SMALLEST_RING: u32 = 16;
