//! What the queues counted: the device has no counters of its own that must be there.

use std::sync::atomic::{AtomicU64, Ordering};

use super::init::Device;
use crate::Statistics;

/// Sums since the device was opened. Each has one writer.
#[derive(Default)]
pub(crate) struct Counters {
    pub tx_frames: Counter,
    pub tx_bytes: Counter,
    pub rx_frames: Counter,
    pub rx_bytes: Counter,
    pub rx_errors: Counter,
}

/// A sum with one writer, so that adding needs no locked instruction.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, amount: u64) {
        self.0.store(self.get() + amount, Ordering::Relaxed);
    }

    #[inline]
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes of a frame on a wire, with its check sequence.
#[inline]
pub(crate) fn wire_len(frame: usize) -> u64 {
    frame.max(60) as u64 + 4
}

impl Device {
    pub(crate) fn statistics(&self) -> Statistics {
        let counters = &self.function.counters;
        Statistics {
            tx_frames: counters.tx_frames.get(),
            tx_bytes: counters.tx_bytes.get(),
            rx_frames: counters.rx_frames.get(),
            rx_bytes: counters.rx_bytes.get(),
            rx_errors: counters.rx_errors.get(),
            ..Statistics::default()
        }
    }
}
