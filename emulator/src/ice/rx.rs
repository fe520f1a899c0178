//! Receive queues: filters, queue choice, buffers, what the parser says, write-back.

use std::collections::VecDeque;

use super::context::RxContext;
use super::desc::{self, Profile, RxWriteBack};
use super::switch::Frame;
use super::vsi::Vsi;
use super::{Model, State, regs};
use crate::headers::{self, Headers, Network, Transport, Verdict};

/// Bytes that wait for descriptors; more are dropped.
const PACKET_BUFFER: usize = 512 << 10;
/// Shortest frame without check sequence, bytes.
const SHORTEST: usize = 60;
/// Descriptors in a cache line.
const LINE: u32 = (desc::LINE / desc::RX_LEN) as u32;

/// One receive queue's inside.
#[derive(Default)]
pub(super) struct RxQueue {
    pub(super) state: State,
    context: RxContext,
    profile: Option<Profile>,
    /// Next descriptor to fill.
    head: u32,
    /// Filled descriptors that are not written back.
    done: VecDeque<(u32, [u64; 4])>,
}

impl RxQueue {
    /// A queue that was enabled.
    pub(super) fn start(&mut self, context: RxContext, profile: Profile) {
        let profile = Some(profile);
        *self = Self { state: State::On, context, profile, head: context.head, done: VecDeque::new() };
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// What became of the frame at the front of the packet buffer, for one interface.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Done,
    Dropped,
    /// No descriptors: it blocks all that is behind.
    Blocked,
}

/// A frame, where its headers are, and the tag that is taken out of it.
struct Received<'a> {
    frame: &'a [u8],
    headers: Option<Headers>,
    tag: Option<u16>,
}

impl Model {
    /// Takes frames from the wire into the packet buffer, and from there into host memory.
    pub(super) fn step_rx(&mut self) -> bool {
        let mut busy = self.take_from_wire();
        while let Some((vsi, frame)) = self.packet_buffer.pop_front().filter(|_| self.bus.open) {
            match self.deliver(vsi, &frame) {
                Delivery::Blocked => {
                    self.packet_buffer.push_front((vsi, frame));
                    break;
                }
                outcome => {
                    self.packet_buffer_bytes -= frame.len();
                    busy = true;
                    if outcome == Delivery::Dropped {
                        self.count_rx_drop(vsi);
                    }
                }
            }
        }
        for q in 0..self.rx.len() {
            self.flush_rx(q, false);
        }
        busy
    }

    fn take_from_wire(&mut self) -> bool {
        let mut busy = false;
        for _ in 0..self.config.frames_per_step {
            let mut frame = Vec::new();
            if !self.link_up || !self.wire.receive(&mut frame) {
                break;
            }
            busy = true;
            for vsi in self.accept(&frame) {
                self.count_rx_vsi(vsi, &frame);
                if !self.bus.open || self.packet_buffer_bytes + frame.len() > PACKET_BUFFER {
                    self.count_rx_drop(vsi);
                    continue;
                }
                self.packet_buffer_bytes += frame.len();
                self.packet_buffer.push_back((vsi, frame.clone()));
            }
        }
        busy
    }

    /// The interfaces that a frame is for; counts what passes and what is malformed.
    fn accept(&mut self, frame: &[u8]) -> Vec<u16> {
        if frame.len() < SHORTEST {
            self.stats.add(regs::GLPRT_RUC, 1);
            return Vec::new();
        }
        if frame.len() + 4 > self.firmware.port.max_frame() {
            self.stats.add(regs::GLPRT_ROC, 1);
            return Vec::new();
        }
        self.count_rx(frame);
        let Some(looked_at) = Frame::new(frame) else { return Vec::new() };
        let firmware = &self.firmware;
        let takes = |number: &u16| {
            let vsi = firmware.vsis.find(*number);
            vsi.is_some_and(|vsi| !vsi.prunes() || firmware.switch.admits(*number, &looked_at))
        };
        let mut receivers = firmware.switch.receivers(&looked_at);
        receivers.retain(takes);
        receivers
    }

    fn deliver(&mut self, number: u16, frame: &[u8]) -> Delivery {
        let Some(vsi) = self.firmware.vsis.find(number) else { return Delivery::Dropped };
        let parser = self.firmware.package.is_active();
        let headers = headers::parse(frame).filter(|_| parser);
        let hash = self.firmware.rss.hash(number, frame, headers.as_ref()).filter(|_| parser);
        let q = hash.map_or(vsi.queue(0), |hash| self.firmware.rss.queue(number, vsi, hash));
        let tag = stripped(vsi, frame);
        let Some(queue) = self.rx.get(q).filter(|queue| queue.state == State::On) else { return Delivery::Dropped };
        let (context, tail) = (queue.context, self.tails.rx(q));
        let len = frame.len() - if tag.is_some() { 4 } else { 0 };
        let beyond = (tail >= context.ring.count).then_some("a receive tail points beyond the ring");
        if let Some(why) = context.obstacle().or(beyond) {
            self.halt_rx(q, why);
            return Delivery::Dropped;
        }
        if len > context.longest {
            return Delivery::Dropped;
        }
        let free = (tail + context.ring.count - queue.head) % context.ring.count;
        if len.div_ceil(context.buffer) > free as usize {
            return Delivery::Blocked;
        }
        let received = Received { frame, headers, tag };
        let mut back = received.verdict();
        (back.hash, back.tag_first) = (hash, context.tag_first);
        let body = match tag {
            Some(_) => [&frame[..12], &frame[16..]].concat(),
            None => frame.to_vec(),
        };
        self.fill_buffers(q, &body, back);
        Delivery::Done
    }

    /// Writes a frame into as many buffers as it takes; what is told of it is in the last one's descriptor.
    fn fill_buffers(&mut self, q: usize, frame: &[u8], last: RxWriteBack) {
        let mut pieces = frame.chunks(self.rx[q].context.buffer).peekable();
        while let Some(piece) = pieces.next() {
            let middle = RxWriteBack { len: piece.len() as u16, ..RxWriteBack::default() };
            let end = RxWriteBack { len: piece.len() as u16, end: true, ..last };
            let back = if pieces.peek().is_some() { middle } else { end };
            if let Err(why) = self.fill_buffer(q, piece, &back) {
                return self.halt_rx(q, why);
            }
        }
        self.bus.counters.frames_received += 1;
    }

    fn fill_buffer(&mut self, q: usize, piece: &[u8], back: &RxWriteBack) -> Result<(), &'static str> {
        let queue = &mut self.rx[q];
        let (ring, index) = (queue.context.ring, queue.head);
        let mut buffer = [0; 8];
        // The header buffer's address is not looked at: headers are not split off.
        let read = self.bus.read(ring.descriptor(index), &mut buffer);
        read.map_err(|_| "bus fault while fetching a descriptor")?;
        let written = self.bus.write(u64::from_le_bytes(buffer), piece);
        written.map_err(|_| "bus fault while writing a frame")?;
        queue.done.push_back((index, back.encode(queue.profile.unwrap_or(Profile::Nic))));
        queue.head = ring.after(index);
        Ok(())
    }

    /// Writes back what is filled and may be written: whole lines, or all when the vector allows, or when it `must`.
    pub(super) fn flush_rx(&mut self, q: usize, must: bool) {
        if self.rx[q].done.is_empty() || !self.bus.open {
            return;
        }
        let control = self.regs.get(regs::QINT_RQCTL + 4 * q as u32);
        let writes_back = self.writes_back(control);
        if writes_back.is_none() {
            self.complain("a receive queue has no vector: its completions wait for a whole cache line");
        }
        let all = must || writes_back == Some(true);
        let mut written = false;
        while let Some((index, words)) = self.rx[q].done.front().copied() {
            let queue = &mut self.rx[q];
            let whole = index / LINE != queue.head / LINE || queue.done.len() as u32 > LINE;
            if !all && !whole {
                break;
            }
            queue.done.pop_front();
            written = true;
            let at = queue.context.ring.descriptor(index);
            // The word with the done bit comes after all else.
            let stored =
                [2, 3, 0, 1].iter().try_for_each(|word| self.bus.store_u64(at + 8 * word, words[*word as usize]));
            if stored.is_err() {
                return self.halt_rx(q, "bus fault while writing a descriptor back");
            }
        }
        if written {
            self.cause(control);
        }
    }

    /// A queue that met something it cannot do takes no more frames until it is disabled.
    pub(super) fn halt_rx(&mut self, q: usize, why: &'static str) {
        self.rx[q].state = State::Halted;
        self.rx[q].done.clear();
        self.malicious(regs::GL_MDET_RX, regs::PF_MDET_RX, q as u32);
        self.note_halt(format!("RX queue {q}: {why}"), why);
    }
}

/// The tag of a frame, if its interface has it taken out.
fn stripped(vsi: &Vsi, frame: &[u8]) -> Option<u16> {
    let tagged = frame[12..14] == [0x81, 0x00] && vsi.strips_tags();
    tagged.then(|| u16::from_be_bytes([frame[14], frame[15]]))
}

impl Received<'_> {
    /// Protocols and checksums, as the write-back tells them.
    fn verdict(&self) -> RxWriteBack {
        let back = RxWriteBack { packet_type: LAYER_2, tag: self.tag, ..RxWriteBack::default() };
        let Some(headers) = &self.headers else { return back };
        RxWriteBack {
            packet_type: packet_type(self.frame, headers),
            parsed: true,
            ip_error: headers.check_ip(self.frame) == Verdict::Bad,
            l4_error: headers.check_transport(self.frame) == Verdict::Bad,
            extensions: headers.network == Network::V6 { extensions: true },
            ..back
        }
    }
}

/// A frame in which the parser found no more than an Ethernet header.
const LAYER_2: u16 = 1;

/// The parser's numbers for what a frame is (Linux `libie`, table of packet types).
fn packet_type(frame: &[u8], headers: &Headers) -> u16 {
    let ip = headers.ip.start;
    let v4 = matches!(headers.network, Network::V4 { .. });
    let (fragment, icmp) = match headers.network {
        Network::V4 { .. } => (u16::from_be_bytes([frame[ip + 6], frame[ip + 7]]) & 0x3fff != 0, frame[ip + 9] == 1),
        Network::V6 { .. } => (frame[ip + 6] == 44, frame[ip + 6] == 58),
    };
    let (of_v4, of_v6) = match headers.transport.as_ref().map(|(kind, _)| *kind) {
        Some(Transport::Udp) => (24, 90),
        Some(Transport::Tcp) => (26, 92),
        Some(Transport::Sctp) => (27, 93),
        None if fragment => (22, 88),
        None if icmp => (28, 94),
        None => (23, 89),
    };
    if v4 { of_v4 } else { of_v6 }
}
