//! The common configuration: negotiation, status, queues.

use super::config::Features;
use super::pci::VECTORS;
use super::queue::{NO_VECTOR, Ring, Setup};
use super::{Model, VirtQueue};
use crate::history::Event;

/// Status: the driver knows how to drive the device.
pub(super) const DRIVER: u8 = 2;
/// Status: the driver is set up.
pub(super) const DRIVER_OK: u8 = 4;
/// Status: both agree on the features.
pub(super) const FEATURES_OK: u8 = 8;
/// Status: the device met something it cannot go on from.
pub(super) const NEEDS_RESET: u8 = 64;

/// The registers that are no queue's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    pub(super) config_vector: u16,
    pub(super) status: u8,
    pub(super) generation: u8,
    queue_select: u16,
}

impl Common {
    /// After a reset; the generation goes on, for it counts changes.
    pub(super) fn new(generation: u8) -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation,
            queue_select: 0,
        }
    }
}

/// One half of a 64-bit value: bank 0 or 1, nothing beyond.
fn bank(value: u64, select: u32) -> u32 {
    if select < 2 { (value >> (32 * select)) as u32 } else { 0 }
}

fn set_half(value: &mut u64, high: bool, half: u32) {
    let shift = if high { 32 } else { 0 };
    *value = *value & !(0xffff_ffff << shift) | u64::from(half) << shift;
}

impl Model {
    /// A field of its own width, or half of an address; `None` for any other access.
    pub(super) fn read_common(&mut self, offset: u64, len: usize) -> Option<u32> {
        let common = self.common;
        let queue = self.queues.get(usize::from(common.queue_select));
        let address = |offset: u64| {
            let queue = queue?;
            let address = [queue.descriptors, queue.driver, queue.device][(offset as usize - 32) / 8];
            Some(bank(address, (offset as u32 % 8) / 4))
        };
        let word = |value: Option<u16>| value.unwrap_or(0).into();
        Some(match (offset, len) {
            (0, 4) => common.device_feature_select,
            (4, 4) => bank(self.config.features.bits(), common.device_feature_select),
            (8, 4) => common.driver_feature_select,
            (12, 4) => bank(common.driver_features, common.driver_feature_select),
            (16, 2) => common.config_vector.into(),
            (18, 2) => self.queues.len() as u32,
            (20, 1) => common.status.into(),
            (21, 1) => {
                if self.faults.restless_config {
                    self.common.generation = common.generation.wrapping_add(1);
                }
                self.common.generation.into()
            }
            (22, 2) => common.queue_select.into(),
            (24, 2) => word(queue.map(|queue| self.faults.queue_size.unwrap_or(queue.size))),
            (26, 2) => queue.map_or(NO_VECTOR, |queue| queue.vector).into(),
            (28, 2) => queue.is_some_and(|queue| queue.ring.is_some()).into(),
            (30, 2) => word(queue.map(|_| self.faults.notify_off.unwrap_or(common.queue_select))),
            (32 | 36 | 40 | 44 | 48 | 52, 4) => address(offset).unwrap_or(0),
            _ => return None,
        })
    }

    /// False for an access of no field's width, or to what cannot be written.
    pub(super) fn write_common(&mut self, offset: u64, len: usize, value: u32) -> bool {
        match (offset, len) {
            (0, 4) => self.common.device_feature_select = value,
            (8, 4) => self.common.driver_feature_select = value,
            (12, 4) => self.write_driver_features(value),
            (16, 2) => self.common.config_vector = self.vector(value),
            (20, 1) => self.write_status(value as u8),
            (22, 2) => self.common.queue_select = value as u16,
            (24 | 26 | 28, 2) | (32 | 36 | 40 | 44 | 48 | 52, 4) => self.write_queue(offset, value),
            _ => return false,
        }
        true
    }

    fn write_driver_features(&mut self, value: u32) {
        if self.common.status & FEATURES_OK != 0 {
            return self.complain("features were changed after FEATURES_OK");
        }
        match self.common.driver_feature_select {
            select @ (0 | 1) => set_half(&mut self.common.driver_features, select == 1, value),
            _ if value != 0 => self.complain("features were accepted beyond bit 63"),
            _ => {}
        }
    }

    /// What a vector register answers.
    fn vector(&self, value: u32) -> u16 {
        let possible = value < VECTORS.into() && !self.faults.refuse_vectors;
        if possible { value as u16 } else { NO_VECTOR }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            if !self.faults.stuck_reset {
                self.history.note(Event::Reset);
                self.device_reset();
            }
            return;
        }
        let old = self.common.status;
        if old & !NEEDS_RESET & !value != 0 {
            self.complain("status bits were cleared without a reset");
        }
        let mut new = old | value & !NEEDS_RESET;
        if new & !old & FEATURES_OK != 0 && !self.negotiate(old | value) {
            new &= !FEATURES_OK;
        }
        if new & DRIVER_OK != 0 && new & FEATURES_OK == 0 {
            self.complain("DRIVER_OK without FEATURES_OK");
            new &= !DRIVER_OK;
        }
        self.common.status = new;
    }

    /// Whether the device agrees with what the driver accepted.
    fn negotiate(&mut self, status: u8) -> bool {
        let accepted = Features::from_bits_retain(self.common.driver_features);
        let refusal = accepted.refusal(self.config.features);
        if status & DRIVER == 0 {
            self.complain("FEATURES_OK before DRIVER");
        }
        match refusal {
            Some(why) => self.complain(why),
            None if self.faults.refuse_features => return false,
            None => self.features = accepted,
        }
        refusal.is_none()
    }

    fn write_queue(&mut self, offset: u64, value: u32) {
        let index = usize::from(self.common.queue_select);
        let vector = self.vector(value);
        let packed = self.features.contains(Features::RING_PACKED);
        let most = self.config.queue_size;
        let Some(queue) = self.queues.get_mut(index) else {
            return self.complain("a queue that is not there was set up");
        };
        if offset == 26 {
            queue.vector = vector;
            return;
        }
        if queue.ring.is_some() {
            return self.complain("a queue was set up again after it was enabled");
        }
        match offset {
            24 if value == 0 || value > most.into() || !packed && !value.is_power_of_two() => {
                self.complain("queue_size is 0, more than the most, or (split) no power of two");
            }
            24 => queue.size = value as u16,
            28 if value == 1 => self.enable(index),
            28 => self.complain("queue_enable was written with something else than 1"),
            32 | 36 => set_half(&mut queue.descriptors, offset == 36, value),
            40 | 44 => set_half(&mut queue.driver, offset == 44, value),
            _ => set_half(&mut queue.device, offset == 52, value),
        }
    }

    fn enable(&mut self, index: usize) {
        if self.common.status & FEATURES_OK == 0 {
            return self.complain("a queue was enabled before FEATURES_OK");
        }
        let features = self.features;
        let queue = &mut self.queues[index];
        let &mut VirtQueue { size, descriptors, driver, device, .. } = queue;
        match Ring::new(&Setup { size, descriptors, driver, device, features }) {
            Ok(ring) => queue.ring = Some(ring),
            Err(why) => self.fail(index, why),
        }
    }

    /// The device's own configuration: address, status, queue pairs, MTU.
    pub(super) fn device_config(&self) -> [u8; super::pci::DEVICE_LEN as usize] {
        let mut bytes = [0; super::pci::DEVICE_LEN as usize];
        bytes[..6].copy_from_slice(&self.mac);
        bytes[6..8].copy_from_slice(&u16::from(self.link_up).to_le_bytes());
        bytes[8..10].copy_from_slice(&self.faults.max_pairs.unwrap_or(self.config.pairs).to_le_bytes());
        bytes[10..].copy_from_slice(&self.config.mtu.to_le_bytes());
        bytes
    }
}
