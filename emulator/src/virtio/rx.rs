//! Receive queues: filter, steer, wait for buffers, fill them.

use super::Model;
use super::config::Features;
use super::offload::{self, HEADER};
use super::queue::Chain;

/// Frames that wait for buffers, a queue; more are dropped.
const BACKLOG: usize = 256;

impl Model {
    /// Takes what arrived and writes what has buffers.
    pub(super) fn step_rx(&mut self) -> bool {
        let mut busy = self.take_frames();
        for pair in 0..self.active_pairs {
            let queue = 2 * usize::from(pair);
            for _ in 0..self.config.frames_per_step {
                if self.queues[queue].backlog.is_empty() || !self.deliver(queue) {
                    break;
                }
                busy = true;
            }
        }
        busy
    }

    /// Without a driver, what arrives is lost.
    pub(super) fn drop_frames(&mut self) -> bool {
        let mut frame = std::mem::take(&mut self.out);
        let found = (0..self.config.frames_per_step).take_while(|_| self.wire.receive(&mut frame)).count();
        self.out = frame;
        self.bus.counters.rx_dropped += found as u64;
        found > 0
    }

    fn take_frames(&mut self) -> bool {
        if !self.link_up {
            return self.drop_frames();
        }
        let budget = self.config.frames_per_step * usize::from(self.active_pairs);
        for taken in 0..budget {
            let mut frame = Vec::new();
            if !self.wire.receive(&mut frame) {
                return taken > 0;
            }
            if !self.filter.accepts(&frame, &self.mac) {
                continue;
            }
            let queue = 2 * self.steering.pair(&frame, self.active_pairs);
            let backlog = &mut self.queues[queue].backlog;
            if backlog.len() < BACKLOG {
                backlog.push_back(frame);
            } else {
                self.bus.counters.rx_dropped += 1;
            }
        }
        true
    }

    /// Writes the oldest frame of a queue, or drops one that can never be written; false when it must wait.
    fn deliver(&mut self, queue: usize) -> bool {
        let merge = self.features.contains(Features::MRG_RXBUF);
        let Some(len) = self.queues[queue].backlog.front().map(Vec::len) else { return false };
        let mut room: usize = self.queues[queue].held.iter().map(Chain::capacity).sum();
        while room < HEADER + len && (merge || self.queues[queue].held.is_empty()) {
            let size = self.queues[queue].ring.as_ref().map_or(0, |ring| usize::from(ring.size()));
            if size > 0 && self.queues[queue].held.len() >= size {
                break;
            }
            let Some(chain) = self.next_chain(queue) else { return false };
            if !chain.readable.is_empty() || chain.capacity() < HEADER {
                self.fail(queue, "a receive buffer that is to be read, or too short for a header");
                return false;
            }
            room += chain.capacity();
            self.queues[queue].held.push_back(chain);
        }
        let Some(mut frame) = self.queues[queue].backlog.pop_front() else { return false };
        if room < HEADER + len {
            self.bus.counters.rx_dropped += 1;
            self.complain("receive buffers are too short for a frame");
            return true;
        }
        self.fill(queue, &mut frame);
        true
    }

    /// Writes header and frame into as many buffers as they need, and gives those back together.
    fn fill(&mut self, queue: usize, frame: &mut [u8]) {
        let total = HEADER + frame.len();
        let mut room = 0;
        let held = &mut self.queues[queue].held;
        let chains: Vec<Chain> = std::iter::from_fn(|| {
            let chain = if room < total { held.pop_front()? } else { return None };
            room += chain.capacity();
            Some(chain)
        })
        .collect();
        let guest_csum = self.features.contains(Features::GUEST_CSUM);
        let mut header = offload::receive(frame, guest_csum, self.config.partial_checksums);
        header.num_buffers = self.faults.num_buffers.unwrap_or(chains.len() as u16);
        let bytes = [&header.encode(), &*frame].concat();
        let mut left = &bytes[..];
        let mut used = Vec::with_capacity(chains.len());
        for chain in &chains {
            let before = left.len();
            for (address, len) in &chain.writable {
                let (now, later) = left.split_at((*len).min(left.len()));
                if !now.is_empty() && self.bus.write(*address, now).is_err() {
                    return self.fail(queue, "bus fault while writing a frame");
                }
                left = later;
            }
            used.push(chain.used(before - left.len()));
        }
        self.bus.counters.frames_received += 1;
        match self.misuse(queue) {
            Some(misuse) => self.push_misused(queue, &used, misuse),
            // All but the last are full, so that one entry can stand for all.
            None if self.features.contains(Features::IN_ORDER) => {
                _ = self.with_ring(queue, |ring, memory| ring.push_batch(memory, &used));
            }
            None => drop(self.with_ring(queue, |ring, memory| ring.push(memory, &used))),
        }
        self.signal(queue);
    }
}
