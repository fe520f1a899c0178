//! Transmit queues: fetch, checksum pass, transmit pass, give back.

use std::time::Duration;

use super::config::Features;
use super::offload::{self, Allowed, HEADER, LONGEST, NetHeader};
use super::queue::{Chain, Used};
use super::{Model, is_nth};
use crate::packet::Packet;

/// Frames between the two passes, a queue: a device's own memory is finite.
const IN_FLIGHT: usize = 64;

/// A frame whose checksums are computed and whose bytes will be read once more.
pub struct InFlight {
    due: Duration,
    segments: Vec<(u64, usize)>,
    packets: Vec<Packet>,
    used: Used,
}

impl Model {
    /// Fetches what was posted and sends what is due.
    pub(super) fn step_tx(&mut self, now: Duration) -> bool {
        let mut busy = false;
        for pair in 0..self.active_pairs {
            let queue = 2 * usize::from(pair) + 1;
            let mut done = Vec::new();
            self.send_due(queue, now, &mut done);
            busy |= self.fetch(queue, now);
            self.send_due(queue, now, &mut done);
            busy |= !done.is_empty();
            self.give_back(queue, done);
        }
        busy
    }

    fn fetch(&mut self, queue: usize, now: Duration) -> bool {
        let mut busy = false;
        for _ in 0..self.config.frames_per_step {
            if self.queues[queue].in_flight.len() >= IN_FLIGHT {
                break;
            }
            let Some(chain) = self.next_chain(queue) else { break };
            busy = true;
            self.checksum_pass(queue, chain, now);
        }
        busy
    }

    /// First pass: reads all bytes and computes what goes into the headers.
    fn checksum_pass(&mut self, queue: usize, chain: Chain, now: Duration) {
        let total: usize = chain.readable.iter().map(|(_, len)| len).sum();
        if !chain.writable.is_empty() {
            return self.fail(queue, "a transmit buffer that is to be written");
        }
        if !(HEADER..=HEADER + LONGEST).contains(&total) {
            return self.fail(queue, "a transmit buffer has no header, or is longer than any frame");
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        let outcome = self.bus.gather(&chain.readable, &mut bytes);
        let packets = match outcome {
            Ok(()) => self.plan(&bytes),
            Err(_) => Vec::new(),
        };
        self.scratch = bytes;
        if outcome.is_err() {
            return self.fail(queue, "bus fault while reading a frame (checksum pass)");
        }
        let due = now.saturating_add(self.config.transmit_delay);
        let used = chain.used(0);
        self.queues[queue].in_flight.push_back(InFlight { due, segments: chain.readable, packets, used });
    }

    /// What is to go out for a header and a frame; nothing for one that makes no sense.
    fn plan(&mut self, bytes: &[u8]) -> Vec<Packet> {
        let (head, frame) = bytes.split_at(HEADER);
        let header = NetHeader::decode(head.try_into().unwrap_or_default());
        let mtu = if self.features.contains(Features::MTU) { self.config.mtu.into() } else { 65_535 };
        match offload::plan(&header, frame, Allowed { features: self.features, mtu }) {
            Ok(packets) => {
                self.bus.counters.checksummed += u64::from(header.completes());
                self.bus.counters.segmented += u64::from(header.segments());
                if header.completes() && offload::is_prepared(&header, frame) == Some(false) {
                    self.complain("the checksum field does not hold the sum of the pseudo-header");
                }
                packets
            }
            Err(why) => {
                self.bus.counters.bad_descriptors += 1;
                self.complain(why);
                Vec::new()
            }
        }
    }

    /// Second pass for every frame that is due, in order.
    fn send_due(&mut self, queue: usize, now: Duration, done: &mut Vec<Used>) {
        while self.link_up && !self.faults.stall_tx && self.may_work() {
            let frames = &mut self.queues[queue].in_flight;
            if frames.front().is_none_or(|frame| frame.due > now) {
                break;
            }
            let Some(frame) = frames.pop_front() else { break };
            let mut bytes = std::mem::take(&mut self.scratch);
            let outcome = self.bus.gather(&frame.segments, &mut bytes);
            if outcome.is_ok() {
                frame.packets.iter().for_each(|packet| self.send_packet(queue, packet, &bytes[HEADER..]));
            }
            self.scratch = bytes;
            match outcome {
                Ok(()) => done.push(frame.used),
                Err(_) => self.fail(queue, "bus fault while reading a frame (transmit pass)"),
            }
        }
    }

    fn send_packet(&mut self, queue: usize, packet: &Packet, bytes: &[u8]) {
        let mut frame = std::mem::take(&mut self.out);
        packet.build(bytes, &mut frame);
        self.steering.learn(&frame, queue / 2);
        self.bus.counters.frames_sent += 1;
        self.sent = self.sent.wrapping_add(1);
        if is_nth(self.sent, self.faults.lose_every) {
            self.bus.counters.frames_lost += 1;
        } else {
            if is_nth(self.sent, self.faults.corrupt_every) {
                self.bus.counters.frames_corrupted += 1;
                frame.last_mut().into_iter().for_each(|byte| *byte ^= 1);
            }
            self.wire.transmit(&frame);
        }
        self.out = frame;
    }

    /// Reports frames whose bytes were read for the last time.
    fn give_back(&mut self, queue: usize, mut done: Vec<Used>) {
        if done.is_empty() || !self.may_work() {
            return;
        }
        let in_order = self.features.contains(Features::IN_ORDER);
        if self.config.out_of_order && !in_order {
            done.reverse();
        }
        match self.misuse(queue) {
            Some(misuse) => self.push_misused(queue, &done, misuse),
            None if in_order => drop(self.with_ring(queue, |ring, memory| ring.push_batch(memory, &done))),
            None => drop(self.with_ring(queue, |ring, memory| ring.push(memory, &done))),
        }
        self.signal(queue);
    }
}
