//! Statistics registers: 40 bits or 32, counting on over resets, so what they held before is taken off, and wraps are added up
//! (Linux `ice_main.c`).

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::init::{Device, Function};
use super::regs::*;
use crate::registers::Reg;
use crate::{QueueStatistics, Statistics};

/// What the registers held when they were last looked at, and sums since the device was opened.
pub(super) struct Counters {
    last: Readings,
    sum: Readings,
}

/// Sums of a pair of queues since the device was opened, which the device does not count by queue. Each side is in cache lines of
/// its own and has one writer: who has the queue.
#[derive(Default)]
pub(super) struct QueueCounters {
    pub tx: Sums,
    pub rx: Sums,
}

/// Frames and bytes.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Sums {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Sums {
    /// With one writer adding needs no locked instruction.
    pub(super) fn add(&self, frames: u64, bytes: u64) {
        for (sum, amount) in [(&self.frames, frames), (&self.bytes, bytes)] {
            sum.store(sum.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
        }
    }

    fn get(&self) -> (u64, u64) {
        (self.frames.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// One value each, in the order of [`registers`].
type Readings = [u64; REGISTERS];

impl Counters {
    /// From here on.
    pub(super) fn new(function: &Function) -> Self {
        Self { last: function.readings(), sum: [0; REGISTERS] }
    }

    fn update(&mut self, now: Readings) {
        for (index, now) in now.into_iter().enumerate() {
            let mask = if index < WIDE { (1 << 40) - 1 } else { u64::from(u32::MAX) };
            self.sum[index] += now.wrapping_sub(self.last[index]) & mask;
            self.last[index] = now;
        }
    }

    fn statistics(&self, rx_checksum_errors: u64) -> Statistics {
        let [tx_bytes, rx_bytes, tx @ ..] = self.sum;
        let [tx1, tx2, tx3, rx1, rx2, rx3, crc, length, missed] = tx;
        Statistics {
            tx_frames: tx1 + tx2 + tx3,
            tx_bytes,
            rx_frames: rx1 + rx2 + rx3,
            rx_bytes,
            rx_missed: missed,
            rx_errors: crc + length,
            rx_checksum_errors,
            ..Statistics::default()
        }
    }
}

impl Device {
    /// Frames that were lost for want of buffers are counted for the VSI, not for each queue.
    pub(crate) fn queue_statistics(&self) -> Vec<QueueStatistics> {
        let queues = &self.function.queues[..self.function.config.queues.into()];
        let of = |QueueCounters { tx, rx }: &QueueCounters| {
            let ((tx_frames, tx_bytes), (rx_frames, rx_bytes)) = (tx.get(), rx.get());
            QueueStatistics { tx_frames, tx_bytes, rx_frames, rx_bytes, rx_dropped: 0 }
        };
        queues.iter().map(of).collect()
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        // A device that is gone reads as all ones; its last words are kept instead.
        if self.function.regs.alive().is_ok() {
            counters.update(self.function.readings());
        }
        counters.statistics(self.function.checksum_errors.load(Ordering::Relaxed))
    }
}

impl Function {
    fn readings(&self) -> Readings {
        let port = u32::from(self.port.number);
        let wide =
            [GLPRT_GOTCL, GLPRT_GORCL, GLPRT_UPTCL, GLPRT_MPTCL, GLPRT_BPTCL, GLPRT_UPRCL, GLPRT_MPRCL, GLPRT_BPRCL];
        let narrow = [GLPRT_CRCERRS.at(port), GLPRT_RLEC.at(port), GLV_RDPC.at(self.vsi.into())];
        let mut readings = [0; REGISTERS];
        for (reading, register) in readings.iter_mut().zip(wide) {
            *reading = self.read40(register.at(port));
        }
        for (reading, register) in readings[WIDE..].iter_mut().zip(narrow) {
            *reading = self.regs.read(register).into();
        }
        readings
    }

    /// A counter of 40 bits; the high half is read again in case the low one wrapped in between.
    fn read40(&self, low: Reg) -> u64 {
        let high = Reg { offset: low.offset + 4, ..low };
        let before = self.regs.read(high) & 0xff;
        let value = self.regs.read(low);
        let after = self.regs.read(high) & 0xff;
        let value = if before == after { value } else { self.regs.read(low) };
        u64::from(after) << 32 | u64::from(value)
    }
}

/// Counters of 40 bits, which come first, and all.
const WIDE: usize = 8;
const REGISTERS: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_are_added_up() {
        let mut last = [0; REGISTERS];
        (last[0], last[10]) = ((1 << 40) - 5, 0xffff_fffe);
        let mut counters = Counters { last, sum: [0; REGISTERS] };
        let mut now = [0; REGISTERS];
        (now[0], now[2], now[4], now[10]) = (7, 3, 2, 1);
        counters.update(now);
        now[0] = 8;
        counters.update(now);
        let found = counters.statistics(4);
        assert_eq!((found.tx_bytes, found.tx_frames, found.rx_missed, found.rx_checksum_errors), (13, 5, 3, 4));
    }
}
