//! Statistics registers: cleared by reading, so they are added up here (82599 datasheet 8.2.3.23).

use std::sync::PoisonError;

use super::init::Device;
use super::regs::*;
use crate::{QueueStatistics, Statistics};

/// Sums since the device was opened.
#[derive(Default)]
pub(crate) struct Counters {
    port: Statistics,
    queues: [QueueStatistics; QPRC.count as usize],
}

impl Device {
    pub(crate) fn statistics(&self) -> Statistics {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_all(&mut counters);
        let dropped: u64 = counters.queues.iter().map(|queue| queue.rx_dropped).sum();
        Statistics { rx_missed: counters.port.rx_missed + dropped, ..counters.port }
    }

    pub(crate) fn queue_statistics(&self) -> Vec<QueueStatistics> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_all(&mut counters);
        counters.queues[..self.function.config.queues.into()].to_vec()
    }

    fn read_all(&self, counters: &mut Counters) {
        let regs = &self.function.regs;
        // A device that is gone reads as all ones; its last words are kept instead.
        if regs.alive().is_err() {
            return;
        }
        let read = |register| u64::from(regs.read(register));
        // Low first: it latches the high half.
        let read64 = |low, high| read(low) | (read(high) & 0xf) << 32;
        let sum = &mut counters.port;
        sum.tx_frames += read(GPTC);
        sum.tx_bytes += read64(GOTCL, GOTCH);
        // Missed frames are counted as received, too (the rule of DPDK's driver).
        let missed: u64 = (0..MPC.count).map(|buffer| read(MPC.at(buffer))).sum();
        sum.rx_frames += read(GPRC).saturating_sub(missed);
        sum.rx_bytes += read64(GORCL, GORCH);
        sum.rx_missed += missed;
        sum.rx_errors += read(CRCERRS) + read(RLEC);
        sum.rx_checksum_errors += read(XEC);
        sum.pauses_sent += read(LXOFFTXC);
        sum.pauses_received += read(LXOFFRXCNT);
        // What ends a pause is no pause; read, so that it does not pile up.
        let _ = (read(LXONTXC), read(LXONRXCNT));
        for (index, queue) in (0..).zip(&mut counters.queues[..self.function.config.queues.into()]) {
            queue.tx_frames += read(QPTC.at(index));
            queue.tx_bytes += read64(QBTC_L.at(index), QBTC_H.at(index));
            queue.rx_frames += read(QPRC.at(index));
            queue.rx_bytes += read64(QBRC_L.at(index), QBRC_H.at(index));
            queue.rx_dropped += read(QPRDC.at(index));
        }
    }
}
