//! Transmit queues: fetch, checksum pass, transmit pass, write-back.
//!
//! ```text
//!   ring in host memory            in_flight (first pass done)            wire
//!   [head ............ tail)  -->  frame, due at now + delay  --second-->  frame
//!        ^ fetched up to `next`    payload address list, patches   read
//!   ^ `head` follows completed frames, and DD with RS
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use super::desc::{self, Command, Context, Data, TxDescriptor};
use super::offload::{self, LONGEST_FRAME, LONGEST_TSO};
use super::write_back::WriteBack;
use super::{Model, Ring, State, regs};
use crate::offload::FlagMasks;
use crate::packet::Packet;

/// Frames between the two passes, a queue: the device's own packet memory is finite.
const IN_FLIGHT: usize = 64;
/// Descriptors that the device holds for a frame.
const CACHE: usize = 40;

/// One transmit queue's inside.
#[derive(Default)]
pub(super) struct TxQueue {
    pub(super) state: State,
    pub(super) ring: Ring,
    /// Completed up to here.
    pub(super) head: u32,
    /// Fetched up to here.
    next: u32,
    /// What the page last showed as TDH.
    pub(super) shown: u32,
    contexts: [Option<Context>; 2],
    gather: Vec<(u64, Data)>,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Descriptors done and not yet written back (WTHRESH), with their words.
    pub(super) batch: Vec<(u64, u32)>,
    /// What is written back later than it should ([`Faults::write_back_delay`](super::Faults::write_back_delay)).
    pub(super) late: VecDeque<(Duration, WriteBack)>,
    /// Counts the starts, so that a frame of an earlier life is known.
    pub(super) life: u32,
}

/// A frame whose checksums are computed and whose bytes will be read once more.
pub(super) struct InFlight {
    due: Duration,
    segments: Vec<(u64, usize)>,
    packets: Vec<Packet>,
    vlan: Option<u16>,
    /// Ring index after the frame.
    pub(super) end: u32,
    /// Address, status word and RS of each data descriptor.
    pub(super) descriptors: Vec<(u64, u32, bool)>,
    pub(super) life: u32,
}

impl TxQueue {
    /// Latches a ring and starts from `head`.
    pub(super) fn start(&mut self, ring: Ring, head: u32) {
        self.state = State::On;
        self.ring = ring;
        (self.head, self.next, self.shown) = (head, head, head);
        self.contexts = [None; 2];
        self.gather.clear();
        self.batch.clear();
        self.late.clear();
        self.life = self.life.wrapping_add(1);
    }

    /// Whether the device will reach host memory again for what was posted.
    pub(super) fn is_pending(&self) -> bool {
        !self.in_flight.is_empty() || !self.late.is_empty()
    }

    /// Whether there is nothing to do, and nothing will come.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Off && !self.is_pending()
    }

    /// Whether something was fetched and not completed, or waits for its write-back.
    pub(super) fn has_work(&self) -> bool {
        self.state == State::On && (self.head != self.next || !self.batch.is_empty())
    }

    /// Forgets everything, as a reset does.
    pub(super) fn reset(&mut self) {
        *self = Self { life: self.life.wrapping_add(1), ..Self::default() };
    }
}

impl Model {
    /// Fetches what was posted and sends what is due.
    pub(super) fn step_tx(&mut self, now: Duration) -> bool {
        let mut busy = false;
        for q in self.awake() {
            if self.tx[q].is_idle() || self.is_hung(q) {
                continue;
            }
            busy |= self.send_due(q, now);
            if self.may_start_dma() && self.tx[q].state == State::On {
                busy |= self.fetch(q, now);
                busy |= self.send_due(q, now);
            }
            self.flush_write_back(q);
            busy |= self.write_late(q);
        }
        busy
    }

    fn fetch(&mut self, q: usize, now: Duration) -> bool {
        let page = regs::TX_PAGE + 0x40 * q as u32;
        let mut frames = self.config.frames_per_step;
        let mut descriptors = frames.saturating_mul(CACHE);
        let mut busy = false;
        while frames > 0 && descriptors > 0 && self.tx[q].in_flight.len() < IN_FLIGHT && self.may_start_dma() {
            let tail = self.pages.get(page + regs::tx::TDT);
            let queue = &self.tx[q];
            if queue.state != State::On || queue.next == tail {
                break;
            }
            if tail >= queue.ring.count {
                self.halt_tx(q, "TDT points beyond the ring");
                break;
            }
            busy = true;
            descriptors -= 1;
            if self.take_descriptor(q) {
                frames -= 1;
                self.checksum_pass(q, now);
            }
        }
        let queue = &mut self.tx[q];
        if queue.in_flight.is_empty() && queue.gather.is_empty() && queue.state == State::On {
            // Context descriptors at the end of what was posted are done as soon as they are fetched.
            queue.head = queue.next;
            self.show_tx_head(q);
        }
        busy
    }

    /// Reads one descriptor; true when it completes a frame.
    fn take_descriptor(&mut self, q: usize) -> bool {
        let address = self.tx[q].ring.descriptor(self.tx[q].next);
        let mut bytes = [0; 16];
        if self.bus.read(address, &mut bytes).is_err() {
            self.halt_tx(q, "bus fault while fetching a descriptor");
            return false;
        }
        let words = desc_words(&bytes);
        let wthresh = self.wthresh(q);
        let queue = &mut self.tx[q];
        let next = queue.ring.after(queue.next);
        let problem = match desc::decode_tx(words) {
            Err(problem) => Some(problem),
            Ok(TxDescriptor::Context { .. }) if !queue.gather.is_empty() => {
                Some("a context descriptor in the middle of a frame")
            }
            Ok(TxDescriptor::Context { index, context }) => {
                queue.contexts[index] = Some(context);
                None
            }
            Ok(TxDescriptor::Data(data)) if data.len == 0 => Some("a data descriptor of length 0"),
            Ok(TxDescriptor::Data(_)) if queue.gather.len() + wthresh >= CACHE => {
                Some("more than 40 - WTHRESH data descriptors in a frame")
            }
            Ok(TxDescriptor::Data(data)) => {
                queue.gather.push((address, data));
                queue.next = next;
                return data.end;
            }
        };
        match problem {
            Some(problem) => self.halt_tx(q, problem),
            None => queue.next = next,
        }
        false
    }

    /// First pass: reads all bytes and computes what goes into the headers.
    fn checksum_pass(&mut self, q: usize, now: Duration) {
        let queue = &mut self.tx[q];
        let gather = std::mem::take(&mut queue.gather);
        let (end, life) = (queue.next, queue.life);
        let Some((_, first)) = gather.first() else { return };
        let command = first.command;
        let context = queue.contexts.get(usize::from(command.context)).copied().flatten();
        let segments: Vec<_> = gather.iter().map(|(_, data)| (data.address, usize::from(data.len))).collect();
        let total: usize = segments.iter().map(|(_, len)| len).sum();
        if total > if command.segment { LONGEST_TSO } else { LONGEST_FRAME } {
            return self.halt_tx(q, "frame is longer than the device can hold");
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        let outcome = match self.bus.gather(&segments, &mut bytes) {
            Err(_) => Err("bus fault while reading a frame (checksum pass)"),
            Ok(()) => offload::plan(&command, context.as_ref(), &bytes, self.flag_masks()),
        };
        self.scratch = bytes;
        match outcome {
            Err(problem) => self.halt_tx(q, problem),
            Ok(packets) => {
                self.note_payload_len(&command, total);
                self.bus.counters.checksummed += u64::from(command.l4_checksum);
                self.bus.counters.segmented += u64::from(command.segment);
                self.tx[q].in_flight.push_back(InFlight {
                    due: now.saturating_add(self.config.transmit_delay),
                    segments,
                    packets,
                    vlan: tag(&command, context.as_ref()),
                    end,
                    descriptors: gather.iter().map(|(at, data)| (*at, data.status, data.report)).collect(),
                    life,
                });
            }
        }
    }

    fn note_payload_len(&mut self, command: &Command, total: usize) {
        if !command.legacy && !command.segment && command.payload_len as usize != total {
            self.bus.counters.payload_len_mismatches += 1;
        }
    }

    fn flag_masks(&self) -> FlagMasks {
        let low = self.regs.get(regs::DTXTCPFLGL);
        let high = self.regs.get(regs::DTXTCPFLGH);
        FlagMasks { first: low as u16 & 0xfff, middle: (low >> 16) as u16 & 0xfff, last: high as u16 & 0xfff }
    }

    /// Second pass for every frame that is due, in order.
    fn send_due(&mut self, q: usize, now: Duration) -> bool {
        let mut busy = false;
        while self.may_finish_tx()
            && !self.is_paused()
            && self.tx[q].in_flight.front().is_some_and(|frame| frame.due <= now)
        {
            let Some(frame) = self.tx[q].in_flight.pop_front() else { break };
            busy = true;
            let mut bytes = std::mem::take(&mut self.scratch);
            let outcome = self.bus.gather(&frame.segments, &mut bytes);
            if outcome.is_ok() {
                for packet in &frame.packets {
                    self.send_packet(q, packet, frame.vlan, &bytes);
                }
            }
            self.scratch = bytes;
            match outcome {
                Ok(()) => self.complete(q, &frame),
                Err(_) => self.halt_tx(q, "bus fault while reading a frame (transmit pass)"),
            }
        }
        busy
    }

    fn send_packet(&mut self, q: usize, packet: &Packet, vlan: Option<u16>, bytes: &[u8]) {
        let mut frame = std::mem::take(&mut self.out);
        packet.build(bytes, &mut frame);
        if let Some(tag) = vlan {
            let ethertype = (self.regs.get(regs::DMATXCTL) >> 16) as u16;
            let field: Vec<u8> = [ethertype.to_be_bytes(), tag.to_be_bytes()].concat();
            frame.splice(12..12, field);
        }
        if self.regs.has(regs::HLREG0, regs::HLREG0_TXPADEN) && frame.len() < 60 {
            frame.resize(60, 0);
        }
        self.count_tx(q, &frame);
        self.put_on_wire(&mut frame);
        self.out = frame;
    }

    /// A queue that met something it cannot do stands still until it is disabled, as hardware does.
    pub(super) fn halt_tx(&mut self, q: usize, reason: &'static str) {
        self.tx[q].state = State::Halted;
        self.block_malicious(regs::WQBR_TX, q);
        self.tx[q].gather.clear();
        self.note_halt(format!("TX queue {q}: {reason}"), reason);
    }
}

/// The tag that goes in, if any.
fn tag(command: &Command, context: Option<&Context>) -> Option<u16> {
    let extended = context.filter(|_| command.vlan).map(|context| context.vlan);
    extended.or(command.legacy_vlan)
}

pub(super) fn desc_words(bytes: &[u8; 16]) -> [u64; 2] {
    let (words, _) = bytes.as_chunks::<8>();
    [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
}
