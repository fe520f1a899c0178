//! What the queues counted: the device has no counters of its own that must be there.

use std::sync::atomic::{AtomicU64, Ordering};

use super::init::{Device, Which};
use crate::{QueueStatistics, Statistics};

/// Sums of one queue since the device was opened, in cache lines of its own. Each has one writer: who has the queue.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub frames: Counter,
    pub bytes: Counter,
    pub errors: Counter,
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
    pub(crate) fn queue_statistics(&self) -> Vec<QueueStatistics> {
        let (tx, rx) = (self.function.all_counters(Which::Transmit), self.function.all_counters(Which::Receive));
        let of = |(tx, rx): (&Counters, &Counters)| QueueStatistics {
            tx_frames: tx.frames.get(),
            tx_bytes: tx.bytes.get(),
            rx_frames: rx.frames.get(),
            rx_bytes: rx.bytes.get(),
            // The device has no counter that must be there.
            rx_dropped: 0,
        };
        tx.zip(rx).map(of).collect()
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let sum = |which, counter: fn(&Counters) -> &Counter| {
            self.function.all_counters(which).map(|counters| counter(counters).get()).sum()
        };
        Statistics {
            tx_frames: sum(Which::Transmit, |counters| &counters.frames),
            tx_bytes: sum(Which::Transmit, |counters| &counters.bytes),
            rx_frames: sum(Which::Receive, |counters| &counters.frames),
            rx_bytes: sum(Which::Receive, |counters| &counters.bytes),
            rx_errors: sum(Which::Receive, |counters| &counters.errors),
            ..Statistics::default()
        }
    }
}
