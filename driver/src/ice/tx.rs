//! Transmit (Linux `ice_txrx.c`, `ice_base.c`).

use std::num::NonZeroU16;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use stillwire_dma::{Access, HugePages, Mapping, Payload, Register, RingSlot, RingSlots, RingWords, Segment, fence};

use super::adminq::Request;
use super::commands::ADD_TX_QUEUES;
use super::context::TxContext as QueueContext;
use super::desc::{TX_LEN as DESCRIPTOR, TxContext, TxData};
use super::init::Function;
use super::plan::{self, CUT, MAX_BUFFER, MAX_BUFFERS, SHORTEST_FRAME};
use super::regs::*;
use super::scheduler;
use crate::frame::{Frame, Posted};
use crate::ring::{Fifo, Ring};
use crate::values::{LONGEST_FRAME, MOST_SEGMENTED};
use crate::{Error, Offload, Result};

/// A transmit ring whose slots carry tokens.
pub(crate) struct TxQueue<T> {
    ring: Ring,
    words: RingWords,
    /// Two header slots for each descriptor: most headers fit a cache line, and the lines of a ring of common size stay in the
    /// first level then.
    short_headers: RingSlots<SHORT_HEADER>,
    long_headers: RingSlots<HEADER_SLOT>,
    max_frame: usize,
    /// The device knows protocols, and where a tag of a descriptor goes.
    offloads: bool,
    vlan: bool,
    /// Descriptors since the last report was asked for: when there are any, the last one taken ends a frame and asks for
    /// none.
    since_report: u64,
    /// Second word of the last descriptor taken.
    last_word: u64,
    /// Frames on the wire, and bytes of them, since the last publish.
    fresh: (u64, u64),
    /// Room for the pieces of a payload.
    pieces: Vec<Segment>,
    tail: Register,
    tokens: Fifo<T>,
    /// Positions of descriptors that will be written back.
    reports: Fifo<()>,
    /// The queue's number.
    queue: u16,
    function: Arc<Function>,
    /// Shared with nobody but a leaked clone, if the device cannot be proved quiet.
    mapping: Arc<Mapping>,
}

impl<T> TxQueue<T> {
    pub(crate) fn new(function: Arc<Function>) -> Result<Self> {
        function.running()?;
        let number = function.take(&function.tx_taken, "transmit")?;
        let size = function.config.tx_ring;
        let slots = usize::from(size);
        let ring_len = (slots * DESCRIPTOR).next_multiple_of(4096);
        let short = ring_len..ring_len + slots * SHORT_HEADER;
        let long = short.end..short.end + slots * HEADER_SLOT;
        let memory = function.pci.iommu().memory("stillwire-tx", long.end, HugePages::Never)?;
        let mapping = Arc::new(function.pci.iommu().map(&memory, Access::ReadWrite)?);
        let name = |part| mapping.segment(part).expect("all of it is mapped");
        let queue = Self {
            ring: Ring::new(size),
            words: RingWords::new(&memory, 0, slots * 2),
            short_headers: RingSlots::new(&memory, short.start, name(short)),
            long_headers: RingSlots::new(&memory, long.start, name(long)),
            max_frame: function.config.max_frame.into(),
            offloads: function.package.is_some(),
            vlan: function.single_vlan,
            since_report: 0,
            last_word: 0,
            fresh: (0, 0),
            pieces: Vec::with_capacity(MOST_PIECES),
            tail: function.regs.space().register(QTX_COMM_DBELL.at(number.into()).offset),
            tokens: Fifo::new(size),
            reports: Fifo::new(size),
            queue: number,
            function,
            mapping,
        };
        queue.start(size)?;
        Ok(queue)
    }

    /// Has the firmware start the queue.
    fn start(&self, size: u16) -> Result<()> {
        let function = &*self.function;
        let base = self.mapping.iova_of(0).expect("a mapping has a first byte").get();
        let context = QueueContext {
            base,
            port: function.port.number,
            function: function.number,
            vsi: function.vsi,
            size,
            queue: self.queue,
        };
        function.regs.write(QINT_TQCTL.at(self.queue.into()), function.cause(self.queue));
        let buffer = scheduler::add_queue(function.parent(self.queue), self.queue, context.encode());
        function.admin().ask(Request::new(ADD_TX_QUEUES).with(0, &[1]).giving(&buffer))?;
        Ok(())
    }

    pub(crate) fn free(&self) -> usize {
        self.ring.free()
    }

    /// Whether there is something to reclaim.
    pub(super) fn is_ready(&self) -> bool {
        self.reports.first().is_some_and(|position| {
            let [_, word] = self.words.view().pair(position as usize);
            TxData::is_done(u64::from_le(word.load(Ordering::Acquire)))
        })
    }

    pub(crate) fn number(&self) -> usize {
        self.queue.into()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.tokens.len()
    }

    /// Puts a frame into the ring, which keeps its payload until the frame's last descriptor is done.
    #[inline(always)]
    pub(crate) fn post<'a>(&mut self, frame: Frame<'a, T>) -> Result<Posted<'a, T>>
    where
        T: Payload,
    {
        let Frame { header, offload, payload } = frame;
        let len = payload.as_ref().map_or(0, Payload::len);
        match self.post_range(header, offload, payload.as_ref(), 0..len)? {
            None => Ok(Posted::Full(Frame { header, offload, payload })),
            Some(last) => {
                if let Some(token) = payload {
                    self.tokens.push(last, token);
                }
                Ok(Posted::Queued)
            }
        }
    }

    /// Gives the ring a token to keep until the last descriptor taken is done; there is one.
    #[inline]
    pub(crate) fn keep_with_last(&mut self, token: T) {
        self.tokens.push(self.ring.next() - 1, token);
    }

    /// Writes the descriptors of a frame: `header` and then `range` (bytes) of `payload`. Returns the position of the
    /// last one, or `None` when the ring has no room. The caller keeps `payload` alive until it is done.
    // Cold only to the compiler: the caller's code is laid out for the sister family, at the price of a jump here.
    #[cold]
    #[inline(never)]
    pub(crate) fn post_range(
        &mut self,
        header: &[u8],
        offload: Option<Offload>,
        payload: Option<&T>,
        range: Range<usize>,
    ) -> Result<Option<u64>>
    where
        T: Payload,
    {
        match payload {
            Some(payload) if range.start < range.end => match payload.segment(range.clone()) {
                Some(segment) => self.post_one(header, offload, segment),
                None => self.write_pieces(header, offload, range.len(), |each| payload.segments(range, each)),
            },
            _ => {
                let data = self.check(header, 0, offload)?;
                Ok(self.write(header, 0, offload, data, &[]))
            }
        }
    }

    /// The same for a payload that is one segment.
    #[cold]
    #[inline(never)]
    pub(crate) fn post_segment(
        &mut self,
        header: &[u8],
        offload: Option<Offload>,
        segment: Segment,
    ) -> Result<Option<u64>> {
        self.post_one(header, offload, segment)
    }

    #[inline]
    fn post_one(&mut self, header: &[u8], offload: Option<Offload>, segment: Segment) -> Result<Option<u64>> {
        // No frame that is not cut is longer than what one descriptor may name, so one buffer breaks no rule.
        const { assert!(LONGEST_FRAME <= MAX_BUFFER as usize) };
        if segment_of(offload).is_some() {
            return self.write_pieces(header, offload, segment.len as usize, |each| each(segment));
        }
        let data = self.check(header, segment.len as usize, offload)?;
        Ok(self.write(header, segment.len as usize, offload, data, &[segment]))
    }

    /// The same for a payload of `len` bytes in several pieces, which `payload` tells one by one, or one that is to be cut.
    #[inline(never)]
    fn write_pieces(
        &mut self,
        header: &[u8],
        offload: Option<Offload>,
        len: usize,
        payload: impl FnOnce(&mut dyn FnMut(Segment)),
    ) -> Result<Option<u64>> {
        let data = self.check(header, len, offload)?;
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.clear();
        payload(&mut |segment| {
            let most = if segment.len > MAX_BUFFER { CUT } else { MAX_BUFFER };
            let mut skip = 0;
            while let Some(part) = segment.slice(skip, most) {
                pieces.push(part);
                skip += part.len;
            }
        });
        let found = pieces.len();
        let planned = match found {
            ..=MOST_PIECES => plan::check(pieces.iter().map(|piece| piece.len), segment_of(offload)),
            _ => Err(Error::Frame { what: "payload pieces", found, limit: MOST_PIECES }),
        };
        let written = planned.map(|()| self.write(header, len, offload, data, &pieces));
        self.pieces = pieces;
        written
    }

    /// Writes the descriptors of a frame of `header` and `pieces`, `payload_len` bytes in all of them, and makes them part of
    /// the ring; as [`post_range`](Self::post_range).
    #[inline]
    fn write(
        &mut self,
        header: &[u8],
        payload_len: usize,
        offload: Option<Offload>,
        data: TxData,
        pieces: &[Segment],
    ) -> Option<u64> {
        let segment = segment_of(offload);
        let count = 1 + pieces.len() + usize::from(segment.is_some());
        if self.ring.free() < count {
            return None;
        }
        let words = self.words.view();
        let put = |at: u64, [low, high]: [u64; 2]| {
            let [first, second] = words.pair(at as usize);
            first.store(low.to_le(), Ordering::Relaxed);
            second.store(high.to_le(), Ordering::Relaxed);
        };
        let mut at = self.ring.next();
        if let Some(segment) = segment {
            put(at, TxContext::segmenting(payload_len as u32, segment).encode());
            at += 1;
        }
        let mut last = if header.len() <= SHORT_HEADER {
            write_header(self.short_headers.at(at as usize), header, offload, payload_len)
        } else {
            write_header(self.long_headers.at(at as usize), header, offload, payload_len)
        };
        for piece in pieces {
            put(at, data.encode(last));
            at += 1;
            last = *piece;
        }
        self.since_report += count as u64;
        let frames = segment.map_or(1, |segment| payload_len.div_ceil(segment.into()));
        self.fresh.0 += frames as u64;
        self.fresh.1 += (frames * header.len() + payload_len) as u64;
        let report = self.since_report >= REPORT_EVERY;
        let words = data.last().reporting(report).encode(last);
        put(at, words);
        self.ring.take_until(at + 1);
        self.last_word = words[1];
        if report {
            self.expect_report(at);
        }
        Some(at)
    }

    #[inline]
    fn expect_report(&mut self, position: u64) {
        self.reports.push(position, ());
        self.since_report = 0;
    }

    /// Shows the device everything posted: one doorbell, one report for the batch.
    #[cold]
    #[inline(never)]
    pub(crate) fn publish(&mut self) {
        if self.since_report > 0 {
            // The last one taken is behind the tail, so the device has not fetched it yet.
            let position = self.ring.next() - 1;
            let [_, word] = self.words.view().pair(position as usize);
            word.store(TxData::report(self.last_word).to_le(), Ordering::Relaxed);
            self.expect_report(position);
        }
        let (frames, bytes) = std::mem::take(&mut self.fresh);
        self.function.queues[usize::from(self.queue)].tx.add(frames, bytes);
        if let Some(tail) = self.ring.publish() {
            fence::release_to_device();
            self.tail.write(tail);
        }
    }

    /// Takes back what the device is done with; returns the number of descriptors.
    #[cold]
    #[inline(never)]
    pub(crate) fn reclaim(&mut self, mut done: impl FnMut(T)) -> usize {
        let before = self.ring.used();
        while let Some(position) = self.reports.first() {
            let [_, word] = self.words.view().pair(position as usize);
            let word = u64::from_le(word.load(Ordering::Acquire));
            // A descriptor that the device has not been shown cannot be done, whatever it says.
            if !TxData::is_done(word) || !self.ring.is_published(position) {
                break;
            }
            fence::acquire_from_device();
            self.reports.pop_through(position);
            self.ring.reclaim_through(position);
            while let Some(token) = self.tokens.pop_through(position) {
                done(token);
            }
        }
        before - self.ring.used()
    }

    /// Stops the device with proof, then hands out every token that is left, in ring order.
    pub(crate) fn stop(&mut self, back: impl FnMut(T)) -> Result<()> {
        self.tokens.end(self.function.stop(), &self.mapping, back)
    }

    /// Refuses what the device cannot send; returns what the frame's descriptors have in common.
    #[inline]
    fn check(&self, header: &[u8], payload: usize, offload: Option<Offload>) -> Result<TxData> {
        let total = header.len() + payload;
        let Some(offload) = offload else {
            let fits = (14..=HEADER_SLOT).contains(&header.len()) && (SHORTEST_FRAME..=self.max_frame).contains(&total);
            return if fits { Ok(TxData::PLAIN) } else { Err(self.refuse(header, total)) };
        };
        if !self.offloads {
            let what = "offload: asked for (none in safe mode, without a DDP package)";
            return Err(Error::Frame { what, found: 1, limit: 0 });
        }
        if offload.vlan.is_some() && !self.vlan {
            let what = "offload: VLAN tags (none in double VLAN mode; they may be in the header)";
            return Err(Error::Frame { what, found: 1, limit: 0 });
        }
        if !(14..=HEADER_SLOT).contains(&header.len()) {
            return Err(self.refuse(header, total));
        }
        if !offload.ip_len.is_multiple_of(4) {
            let (what, found) = ("offload: IP header (a multiple of 4 bytes)", usize::from(offload.ip_len));
            return Err(Error::Frame { what, found, limit: found / 4 * 4 });
        }
        if offload.segment.is_some() {
            offload.check_segments(header, payload, self.max_frame, MOST_SEGMENTED)?;
        } else {
            offload.check(header.len(), payload)?;
            if total > self.max_frame {
                return Err(self.refuse(header, total));
            }
        }
        Ok(TxData::of_frame(header, offload))
    }

    /// What is wrong with the lengths of a frame of `total` bytes.
    #[cold]
    fn refuse(&self, header: &[u8], total: usize) -> Error {
        let (what, found, limit) = match header.len() {
            ..=13 => ("header bytes (at least an Ethernet header)", header.len(), 14),
            14..=HEADER_SLOT if total < SHORTEST_FRAME => ("frame bytes (at least)", total, SHORTEST_FRAME),
            14..=HEADER_SLOT => ("frame bytes", total, self.max_frame),
            _ => ("header bytes", header.len(), HEADER_SLOT),
        };
        Error::Frame { what, found, limit }
    }
}

/// Payload bytes of a segment, if the payload is to be cut.
#[inline(always)]
fn segment_of(offload: Option<Offload>) -> Option<u16> {
    offload.and_then(|offload| offload.segment).map(NonZeroU16::get)
}

/// Writes a header as the device wants it, and returns the device's name for it.
#[inline]
fn write_header<const SLOT: usize>(
    slot: RingSlot<'_, SLOT>,
    header: &[u8],
    offload: Option<Offload>,
    payload_len: usize,
) -> Segment {
    let name = slot.write(header);
    if let Some(offload) = offload.filter(|offload| offload.transport.is_some() || offload.ip == crate::Ip::V4) {
        let patches = offload.patches(header, payload_len);
        slot.write_pair(patches.zero_at, [0; 2]);
        slot.write_pair(patches.sum_at, patches.sum.to_be_bytes());
        if let Some(at) = patches.also_zero_at {
            slot.write_pair(at, [0; 2]);
        }
    }
    name
}

impl<T> Drop for TxQueue<T> {
    fn drop(&mut self) {
        // The tokens go only behind the proof; without it `stop` keeps them. The error was the last chance to tell
        // somebody: a caller who wants to know calls `stop` first.
        let _ = self.stop(drop);
    }
}

/// Bytes of a header slot: an Ethernet header may have 254, an IP header 508.
pub(super) const HEADER_SLOT: usize = 256;
/// Bytes of a slot for headers that fit a cache line.
const SHORT_HEADER: usize = 64;
/// Payload pieces that any frame may have: the header is a buffer as well.
pub(super) const PIECES: usize = MAX_BUFFERS - 1;
/// Payload pieces of a frame to be cut, if each of its segments keeps to that: what fits the smallest ring.
const MOST_PIECES: usize = 60;
/// Descriptors between reports within a batch.
const REPORT_EVERY: u64 = 32;
