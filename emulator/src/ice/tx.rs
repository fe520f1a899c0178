//! Transmit queues: fetch, checksum pass, transmit pass, write-back.
//!
//! ```text
//!   ring in host memory            in_flight (first pass done)            wire
//!   [head ............ tail)  -->  frame, due at now + delay  --second-->  frame
//!        ^ fetched up to `next`    payload address list, patches   read
//!   ^ `head` follows completed frames; `done` are descriptors to be written back, by the line
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use super::context::TxContext;
use super::desc::{self, Command, Context, Data, TxDescriptor};
use super::{Model, State, is_nth, offload, regs};
use crate::packet::Packet;

/// Frames between the two passes, a queue: the device's own packet memory is finite.
const IN_FLIGHT: usize = 64;
/// Descriptors that a frame may have, all segments together.
const LONGEST_LIST: usize = 512;
/// Descriptors in a cache line.
const LINE: u32 = (desc::LINE / desc::TX_LEN) as u32;
/// Shortest frame on the wire without check sequence, bytes.
const PADDED: usize = 60;

/// One transmit queue's inside.
#[derive(Default)]
pub(super) struct TxQueue {
    pub(super) state: State,
    context: TxContext,
    /// Its place in the scheduler.
    pub(super) node: u32,
    /// Completed up to here.
    pub(super) head: u32,
    /// Fetched up to here.
    next: u32,
    offload: Option<Context>,
    gather: Vec<(u64, Data)>,
    /// Whether the frame in `gather` asks for a report.
    reports: Option<u32>,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Reported descriptors that are not written back, and when they may be.
    done: VecDeque<(Duration, u32)>,
}

/// A frame whose checksums are computed and whose bytes will be read once more.
pub(super) struct InFlight {
    due: Duration,
    segments: Vec<(u64, usize)>,
    packets: Vec<Packet>,
    tags: [Option<u16>; 2],
    /// Ring index after the frame.
    end: u32,
    /// Ring index of the descriptor that is to be reported.
    report: Option<u32>,
}

/// Who found a queue's driver malicious.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Detector {
    /// The descriptors (TCLAN).
    Descriptor,
    /// The doorbell (PQM).
    Doorbell,
    /// Nobody: the bus failed.
    Bus,
}

impl TxQueue {
    /// A queue that was added.
    pub(super) fn start(&mut self, context: TxContext, node: u32) {
        *self = Self { state: State::On, context, node, ..Self::default() };
    }

    /// Whether something was fetched and not completed, or waits for its write-back.
    pub(super) fn has_work(&self) -> bool {
        self.state == State::On && (self.head != self.next || !self.done.is_empty())
    }

    /// Forgets everything, as a reset does.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Model {
    /// Fetches what was posted and sends what is due.
    pub(super) fn step_tx(&mut self) -> bool {
        let mut busy = false;
        for q in 0..self.tx.len() {
            if self.tx[q].state == State::Off {
                continue;
            }
            busy |= self.send_due(q);
            if self.may_start_dma() && self.tx[q].state == State::On {
                busy |= self.fetch(q);
                busy |= self.send_due(q);
            }
            self.flush_tx(q, false);
        }
        busy
    }

    fn fetch(&mut self, q: usize) -> bool {
        let mut frames = self.config.frames_per_step;
        let mut descriptors = frames.saturating_mul(offload::BUFFERS + 1).max(LONGEST_LIST);
        let mut busy = false;
        while frames > 0 && descriptors > 0 && self.tx[q].in_flight.len() < IN_FLIGHT {
            let tail = self.tails.tx(q);
            let queue = &self.tx[q];
            if queue.state != State::On || queue.next == tail {
                break;
            }
            if tail >= queue.context.ring.count {
                self.halt_tx(q, Detector::Doorbell, "a transmit tail points beyond the ring");
                break;
            }
            busy = true;
            descriptors -= 1;
            if self.take_descriptor(q) {
                frames -= 1;
                self.checksum_pass(q);
            }
        }
        busy
    }

    /// Reads one descriptor; true when it completes a frame.
    fn take_descriptor(&mut self, q: usize) -> bool {
        let index = self.tx[q].next;
        let mut bytes = [0; desc::TX_LEN as usize];
        if self.bus.read(self.tx[q].context.ring.descriptor(index), &mut bytes).is_err() {
            self.halt_tx(q, Detector::Bus, "bus fault while fetching a descriptor");
            return false;
        }
        match self.tx[q].take(index, desc::decode_tx(desc::words(&bytes))) {
            Ok(whole) => whole,
            Err(why) => {
                self.halt_tx(q, Detector::Descriptor, why);
                false
            }
        }
    }

    /// First pass: reads all bytes and computes what goes into the headers.
    fn checksum_pass(&mut self, q: usize) {
        let queue = &mut self.tx[q];
        let gather = std::mem::take(&mut queue.gather);
        let (context, report, end) = (queue.offload.take(), queue.reports.take(), queue.next);
        let Some((_, first)) = gather.first() else { return };
        let command = first.command;
        let segments: Vec<_> = gather.iter().map(|(_, data)| (data.address, usize::from(data.len))).collect();
        let total: usize = segments.iter().map(|(_, len)| len).sum();
        if total > offload::longest(context.as_ref()) {
            return self.halt_tx(q, Detector::Descriptor, "a frame is longer than 9728 bytes");
        }
        if context.is_some_and(|context| context.segment) && !self.tx[q].context.segments {
            return self.halt_tx(
                q,
                Detector::Descriptor,
                "a frame is to be cut, and the queue's context lacks TSO_ENA",
            );
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        let read = self.bus.gather(&segments, &mut bytes);
        let planned = read.is_ok().then(|| match first.dummy {
            true => Ok(Vec::new()),
            false => offload::plan(&command, context.as_ref(), &gather, &bytes),
        });
        self.scratch = bytes;
        match planned {
            None => self.halt_tx(q, Detector::Bus, "bus fault while reading a frame (checksum pass)"),
            Some(Err(why)) => self.halt_tx(q, Detector::Descriptor, why),
            Some(Ok(packets)) => {
                self.count_offloads(&command, context.as_ref());
                let due = self.now.saturating_add(self.config.transmit_delay);
                let tags = [command.tag, context.and_then(|context| context.tag)];
                self.tx[q].in_flight.push_back(InFlight { due, segments, packets, tags, end, report });
            }
        }
    }

    fn count_offloads(&mut self, command: &Command, context: Option<&Context>) {
        self.bus.counters.checksummed += u64::from(command.l4 != 0);
        self.bus.counters.segmented += u64::from(context.is_some_and(|context| context.segment));
    }

    /// Whether frames between their passes may finish. A queue that is being disabled lets go of them without a link too.
    fn may_finish_tx(&self, q: usize) -> bool {
        let open = self.link_up || self.tx[q].state == State::Stopping;
        self.bus.open && open && !self.faults.stall_tx
    }

    /// Second pass for every frame that is due, in order.
    fn send_due(&mut self, q: usize) -> bool {
        let mut busy = false;
        while self.may_finish_tx(q) && self.tx[q].in_flight.front().is_some_and(|frame| frame.due <= self.now) {
            let Some(frame) = self.tx[q].in_flight.pop_front() else { break };
            busy = true;
            let mut bytes = std::mem::take(&mut self.scratch);
            let outcome = self.bus.gather(&frame.segments, &mut bytes);
            if outcome.is_ok() {
                frame.packets.iter().for_each(|packet| self.send_packet(q, packet, frame.tags, &bytes));
            }
            self.scratch = bytes;
            match outcome {
                Ok(()) => self.complete(q, &frame),
                Err(_) => self.halt_tx(q, Detector::Bus, "bus fault while reading a frame (transmit pass)"),
            }
        }
        busy
    }

    fn send_packet(&mut self, q: usize, packet: &Packet, tags: [Option<u16>; 2], bytes: &[u8]) {
        let mut frame = std::mem::take(&mut self.out);
        packet.build(bytes, &mut frame);
        let vsi = self.tx[q].context.vsi;
        let allowed = self.firmware.vsis.find(vsi).is_some_and(super::vsi::Vsi::may_tag);
        for tag in tags.into_iter().flatten() {
            insert_tag(&mut frame, tag);
        }
        if frame.len() < PADDED {
            frame.resize(PADDED, 0);
        }
        if tags != [None; 2] && !allowed {
            self.complain("a tag is to be inserted, and the interface may not send tagged frames: they are dropped");
            self.stats.add(regs::GLV_TEPC + 4 * u32::from(vsi), 1);
        } else if self.link_up && !self.is_dropped(&frame) {
            self.count_tx(vsi, &frame);
            self.put_on_wire(&mut frame);
        }
        self.out = frame;
    }

    /// Whether a rule keeps the frame from leaving.
    fn is_dropped(&self, frame: &[u8]) -> bool {
        super::switch::Frame::new(frame).is_some_and(|frame| self.firmware.switch.drops(&frame))
    }

    /// Sends a frame, unless a fault says otherwise.
    fn put_on_wire(&mut self, frame: &mut [u8]) {
        self.sent = self.sent.wrapping_add(1);
        if is_nth(self.sent, self.faults.lose_every) {
            self.bus.counters.frames_lost += 1;
            return;
        }
        if is_nth(self.sent, self.faults.corrupt_every) {
            self.bus.counters.frames_corrupted += 1;
            frame.last_mut().into_iter().for_each(|byte| *byte ^= 1);
        }
        self.wire.transmit(frame);
    }

    /// A frame's bytes were read for the last time.
    fn complete(&mut self, q: usize, frame: &InFlight) {
        let queue = &mut self.tx[q];
        queue.head = frame.end;
        if let Some(index) = frame.report {
            queue.done.push_back((self.now.saturating_add(self.faults.completion_delay), index));
        }
    }

    /// Writes back what is done and may be written: whole lines, or all when the vector allows, or when it `must`.
    pub(super) fn flush_tx(&mut self, q: usize, must: bool) {
        if self.tx[q].done.is_empty() || !self.bus.open {
            return;
        }
        let control = self.regs.get(regs::QINT_TQCTL + 4 * q as u32);
        let writes_back = self.writes_back(control);
        if writes_back.is_none() {
            self.complain("a transmit queue has no vector: its completions wait for a whole cache line");
        }
        let all = must || writes_back == Some(true) || self.tx[q].done.len() >= LINE as usize;
        let mut written = false;
        while let Some((due, index)) = self.tx[q].done.front().copied() {
            let whole = index / LINE != self.tx[q].head / LINE;
            if !must && due > self.now || !all && !whole {
                break;
            }
            self.tx[q].done.pop_front();
            written = true;
            let at = self.tx[q].context.ring.descriptor(index) + 8;
            if self.bus.store_u64(at, desc::TX_DONE).is_err() {
                self.halt_tx(q, Detector::Bus, "bus fault while writing a descriptor back");
                break;
            }
        }
        if written {
            self.cause(control);
        }
    }

    /// A queue that met something it cannot do stands still until it is disabled.
    pub(super) fn halt_tx(&mut self, q: usize, detector: Detector, why: &'static str) {
        if self.tx[q].state == State::On {
            self.tx[q].state = State::Halted;
        }
        self.tx[q].gather.clear();
        match detector {
            Detector::Descriptor => {
                self.malicious(regs::GL_MDET_TX_TCLAN, regs::PF_MDET_TX_TCLAN, q as u32);
            }
            Detector::Doorbell => self.malicious(regs::GL_MDET_TX_PQM, regs::PF_MDET_TX_PQM, (q as u32) << 12),
            Detector::Bus => {}
        }
        self.note_halt(format!("TX queue {q}: {why}"), why);
    }
}

/// Puts an 802.1Q tag behind the addresses.
fn insert_tag(frame: &mut Vec<u8>, tag: u16) {
    let [high, low] = tag.to_be_bytes();
    frame.splice(12..12, [0x81, 0x00, high, low]);
}

impl TxQueue {
    /// Takes a descriptor in; true when it completes a frame.
    fn take(&mut self, index: u32, descriptor: Result<TxDescriptor, &'static str>) -> Result<bool, &'static str> {
        match descriptor? {
            TxDescriptor::Context(_) if !self.gather.is_empty() => Err("a context descriptor in the middle of a frame"),
            TxDescriptor::Context(_) if self.offload.is_some() => Err("two context descriptors before a frame"),
            TxDescriptor::Context(context) => {
                self.offload = Some(context);
                self.next = self.context.ring.after(index);
                Ok(false)
            }
            TxDescriptor::Flow if !self.gather.is_empty() => Err("a flow director's rule in the middle of a frame"),
            TxDescriptor::Flow => {
                self.next = self.context.ring.after(index);
                Ok(false)
            }
            TxDescriptor::Data(data) if data.len == 0 => Err("a data descriptor of length 0"),
            TxDescriptor::Data(_) if self.gather.len() >= LONGEST_LIST => Err("a frame without end"),
            TxDescriptor::Data(data) if data.report && !data.end => Err("RS without EOP"),
            TxDescriptor::Data(data) => {
                self.reports = data.report.then_some(index);
                self.gather.push((self.context.ring.descriptor(index), data));
                self.next = self.context.ring.after(index);
                Ok(data.end)
            }
        }
    }
}
