//! Statistics registers: cleared by reading, so they are added up here (82599 datasheet 8.2.3.23).

use std::sync::PoisonError;

use super::init::Device;
use super::regs::*;
use crate::Statistics;

/// Sums since the device was opened.
pub(crate) type Counters = Statistics;

impl Device {
    pub(crate) fn statistics(&self) -> Statistics {
        let regs = &self.function.regs;
        let mut sum = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        // A device that is gone reads as all ones; its last words are kept instead.
        if regs.alive().is_err() {
            return *sum;
        }
        let read = |register| u64::from(regs.read(register));
        // Low first: it latches the high half.
        let read64 = |low, high| read(low) | (read(high) & 0xf) << 32;
        sum.tx_frames += read(GPTC);
        sum.tx_bytes += read64(GOTCL, GOTCH);
        // Missed frames are counted as received, too (the rule of DPDK's driver).
        let missed: u64 = (0..MPC.count).map(|buffer| read(MPC.at(buffer))).sum();
        sum.rx_frames += read(GPRC).saturating_sub(missed);
        sum.rx_bytes += read64(GORCL, GORCH);
        let queues = 0..u32::from(self.function.config.queues);
        sum.rx_missed += missed + queues.map(|queue| read(QPRDC.at(queue))).sum::<u64>();
        sum.rx_errors += read(CRCERRS) + read(RLEC);
        sum.rx_checksum_errors += read(XEC);
        *sum
    }
}
