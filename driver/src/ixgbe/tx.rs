//! Transmit (82599 datasheet 7.2, 4.6.8).

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use stillwire_dma::{
    Access, HugePages, Mapping, Payload, Register, RingSlot, RingSlots, RingWords, Segment, fence, seeded,
};

use super::desc::{LEN as DESCRIPTOR, TxContext, TxData};
use super::init::Function;
use super::regs::*;
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
    /// [`Offload::key`] of what the last frame with an offload asked for; what is in the device's context 0 since then.
    offload: u64,
    context: Option<TxContext>,
    /// Descriptors since the last report was asked for: when there are any, the last one taken ends a frame and asks for
    /// none.
    since_report: u64,
    /// Second word of the last descriptor taken.
    last_word: u64,
    /// Room for the pieces of a payload.
    pieces: Vec<Segment>,
    tail: Register,
    tokens: Fifo<T>,
    /// Positions of descriptors that will be written back.
    reports: Fifo<()>,
    /// The queue's number.
    queue: u32,
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
        let ring_len = slots * DESCRIPTOR;
        let short = ring_len.next_multiple_of(4096)..ring_len.next_multiple_of(4096) + slots * SHORT_HEADER;
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
            offload: 0,
            context: None,
            since_report: 0,
            last_word: 0,
            pieces: Vec::with_capacity(MAX_SEGMENTS),
            tail: function.regs.space().register(TDT.at(number).offset),
            tokens: Fifo::new(size),
            reports: Fifo::new(size),
            queue: number,
            function,
            mapping,
        };
        queue.start(ring_len)?;
        Ok(queue)
    }

    fn start(&self, ring_len: usize) -> Result<()> {
        let (regs, queue) = (&self.function.regs, self.queue);
        let _others = self.function.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let base = self.mapping.iova_of(0).expect("a mapping has a first byte").get();
        regs.write(TXDCTL.at(queue), 0);
        regs.write(TDBAL.at(queue), base as u32);
        regs.write(TDBAH.at(queue), (base >> 32) as u32);
        regs.write(TDLEN.at(queue), ring_len as u32);
        regs.write(TDH.at(queue), 0);
        regs.write(TDT.at(queue), 0);
        regs.write(TDWBAL.at(queue), 0);
        regs.write(TXDCTL.at(queue), THRESHOLDS);
        regs.set(DMATXCTL, DMATXCTL_TE);
        regs.write(TXDCTL.at(queue), THRESHOLDS | DCTL_ENABLE);
        // The tail may not be written before the queue says it is on.
        regs.wait(TXDCTL.at(queue), DCTL_ENABLE, DCTL_ENABLE, Duration::from_millis(100))
    }

    pub(crate) fn free(&self) -> usize {
        self.ring.free()
    }

    /// Whether there is something to reclaim.
    pub(crate) fn is_ready(&self) -> bool {
        self.reports.first().is_some_and(|position| {
            let [_, word] = self.words.view().pair(position as usize);
            TxData::is_done(u64::from_le(word.load(Ordering::Acquire)))
        })
    }

    pub(crate) fn number(&self) -> usize {
        self.queue as usize
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
        // Apart, so that what is constant in a caller's frames stays so although the payload has to lie in memory.
        let Frame { header, offload, payload } = frame;
        let len = payload.as_ref().map_or(0, Payload::len);
        match self.post_range(header, offload, payload.as_ref(), 0..len)? {
            None => Ok(Posted::Full(Frame { header, offload, payload })),
            Some(last) => {
                if let Some(token) = payload {
                    self.keep(last, token);
                }
                Ok(Posted::Queued)
            }
        }
    }

    /// Gives the ring a token to keep until the descriptor at `position` is done.
    #[inline]
    pub(crate) fn keep(&mut self, position: u64, token: T) {
        if seeded!(ReleaseAtPost) {
            return;
        }
        self.tokens.push(position, token);
    }

    /// The same for the last descriptor taken; there is one.
    #[inline]
    pub(crate) fn keep_with_last(&mut self, token: T) {
        self.keep(self.ring.next() - 1, token);
    }

    /// Writes the descriptors of a frame: `header` and then `range` (bytes) of `payload`. Returns the position of the
    /// last one, or `None` when the ring has no room. The caller keeps `payload` alive until it is done.
    #[inline(always)]
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
            Some(payload) if is_segmented(offload) => self.write_pieces(header, offload, range.len(), |each| {
                payload.segments(range, each);
            }),
            Some(payload) if range.start < range.end => match payload.segment(range.clone()) {
                Some(segment) => self.post_segment(header, offload, segment),
                None => self.write_pieces(header, offload, range.len(), |each| payload.segments(range, each)),
            },
            _ => {
                self.check(header, 0, offload)?;
                Ok(self.write(header, 0, offload, &[]))
            }
        }
    }

    /// The same for a payload that is one segment.
    #[inline(always)]
    pub(crate) fn post_segment(
        &mut self,
        header: &[u8],
        offload: Option<Offload>,
        segment: Segment,
    ) -> Result<Option<u64>> {
        // No frame is longer than what one descriptor may name.
        const { assert!(LONGEST_FRAME <= MAX_SEGMENT as usize) };
        if is_segmented(offload) {
            return self.write_pieces(header, offload, segment.len as usize, |each| each(segment));
        }
        self.check(header, segment.len as usize, offload)?;
        Ok(self.write(header, segment.len as usize, offload, &[segment]))
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
        self.check(header, len, offload)?;
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.clear();
        payload(&mut |segment| {
            let mut skip = 0;
            while let Some(part) = segment.slice(skip, MAX_SEGMENT) {
                pieces.push(part);
                skip += part.len;
            }
        });
        let found = pieces.len();
        let written = (found <= MAX_SEGMENTS).then(|| self.write(header, len, offload, &pieces));
        self.pieces = pieces;
        written.ok_or(Error::Frame { what: "payload pieces", found, limit: MAX_SEGMENTS })
    }

    /// Writes the descriptors of a frame of `header` and `pieces`, `payload_len` bytes in all of them, and makes them part of
    /// the ring; as [`post_range`](Self::post_range).
    #[inline(always)]
    fn write(
        &mut self,
        header: &[u8],
        payload_len: usize,
        offload: Option<Offload>,
        pieces: &[Segment],
    ) -> Option<u64> {
        let segmented = is_segmented(offload);
        if let Some(offload) = offload
            && (segmented || offload.key() != self.offload)
            && !self.change_offload(offload, header.len(), 1 + pieces.len())
        {
            return None;
        }
        if self.ring.free() < 1 + pieces.len() {
            return None;
        }
        // The device counts the headers of what it cuts by itself.
        let len = if segmented { payload_len } else { header.len() + payload_len };
        let data = TxData::of_frame(len as u32, offload);
        let words = self.words.view();
        let put = |at: u64, [low, high]: [u64; 2]| {
            let [first, second] = words.pair(at as usize);
            first.store(low.to_le(), Ordering::Relaxed);
            second.store(high.to_le(), Ordering::Relaxed);
        };
        let mut at = self.ring.next();
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
        self.since_report += 1 + pieces.len() as u64;
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

    /// Writes the context that `offload` of a frame with `header` bytes needs, if it is not in the device, before a frame of
    /// `frame` descriptors; `false`, and nothing has changed, when the ring has no room for both.
    #[cold]
    fn change_offload(&mut self, offload: Offload, header: usize, frame: usize) -> bool {
        let segmented = offload.segment.is_some();
        let context = match segmented {
            true => TxContext::segmenting(offload, header - offload.transport_at()),
            false => TxContext::of(offload),
        };
        // Different offloads may need the same.
        if self.context != Some(context) {
            if self.ring.free() <= frame {
                return false;
            }
            let at = self.ring.next();
            for (word, value) in self.words.view().pair(at as usize).into_iter().zip(context.encode()) {
                word.store(value.to_le(), Ordering::Relaxed);
            }
            self.ring.take_until(at + 1);
            self.since_report += 1;
            self.context = Some(context);
        }
        // A key says nothing of segments.
        self.offload = if segmented { 0 } else { offload.key() };
        true
    }

    #[inline]
    fn expect_report(&mut self, position: u64) {
        self.reports.push(position, ());
        self.since_report = 0;
    }

    /// Shows the device everything posted: one doorbell, one report for the batch.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.since_report > 0 {
            // The last one taken is behind the tail, so the device has not fetched it yet.
            let position = self.ring.next() - 1;
            let [_, word] = self.words.view().pair(position as usize);
            word.store(TxData::report(self.last_word).to_le(), Ordering::Relaxed);
            self.expect_report(position);
        }
        if let Some(tail) = self.ring.publish() {
            fence::release_to_device();
            self.tail.write(tail);
        }
        if seeded!(ReleaseAtDoorbell) {
            while self.tokens.pop_through(u64::MAX).is_some() {}
        }
    }

    /// Takes back what the device is done with; returns the number of descriptors.
    #[inline]
    pub(crate) fn reclaim(&mut self, mut done: impl FnMut(T)) -> usize {
        let before = self.ring.used();
        while let Some(position) = self.reports.first() {
            let [_, word] = self.words.view().pair(position as usize);
            let word = u64::from_le(word.load(Ordering::Acquire));
            // A descriptor that the device has not been shown cannot be done, whatever it says.
            if !TxData::is_done(word) && !seeded!(IgnoreDone) || !self.ring.is_published(position) {
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
    pub(crate) fn stop(&mut self, mut back: impl FnMut(T)) -> Result<()> {
        if seeded!(DropBeforeQuiet) {
            while let Some(token) = self.tokens.pop_through(u64::MAX) {
                back(token);
            }
        }
        self.tokens.end(self.function.stop(), &self.mapping, back)
    }

    /// Refuses what the device cannot send.
    #[inline(always)]
    fn check(&self, header: &[u8], payload: usize, offload: Option<Offload>) -> Result<()> {
        let total = header.len() + payload;
        if is_segmented(offload) {
            return self.check_segments(header, payload, offload);
        }
        if (14..=HEADER_SLOT).contains(&header.len()) && total <= self.max_frame {
            return match offload {
                Some(offload) => offload.check(header.len(), payload),
                None => Ok(()),
            };
        }
        Err(self.refuse(header, total))
    }

    #[cold]
    fn check_segments(&self, header: &[u8], payload: usize, offload: Option<Offload>) -> Result<()> {
        match offload {
            Some(offload) if (14..=HEADER_SLOT).contains(&header.len()) => {
                offload.check_segments(header, payload, self.max_frame, MOST_SEGMENTED).map(drop)
            }
            _ => Err(self.refuse(header, header.len() + payload)),
        }
    }

    /// What is wrong with the lengths of a frame of `total` bytes.
    #[cold]
    fn refuse(&self, header: &[u8], total: usize) -> Error {
        let (what, found, limit) = match header.len() {
            ..=13 => ("header bytes (at least an Ethernet header)", header.len(), 14),
            14..=HEADER_SLOT => ("frame bytes", total, self.max_frame),
            _ => ("header bytes", header.len(), HEADER_SLOT),
        };
        Error::Frame { what, found, limit }
    }
}

/// Whether the payload is to be cut.
#[inline(always)]
fn is_segmented(offload: Option<Offload>) -> bool {
    offload.is_some_and(|offload| offload.segment.is_some())
}

/// Writes a header as the device wants it, and returns the device's name for it.
#[inline(always)]
fn write_header<const SLOT: usize>(
    slot: RingSlot<'_, SLOT>,
    header: &[u8],
    offload: Option<Offload>,
    payload_len: usize,
) -> Segment {
    let name = slot.write(header);
    if let Some(offload) = offload {
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

/// Bytes of a header slot; the 82599 parses headers up to 240 bytes or so.
pub(super) const HEADER_SLOT: usize = 256;
/// Bytes of a slot for headers that fit a cache line.
const SHORT_HEADER: usize = 64;
/// Payload descriptors of a frame: 40 in all, one is the header (limit of DPDK's driver).
pub(super) const MAX_SEGMENTS: usize = 39;
/// Bytes that one descriptor names; Linux uses 16 KiB as well.
const MAX_SEGMENT: u32 = 16 * 1024;
/// Descriptors between reports within a batch.
const REPORT_EVERY: u64 = 32;
/// PTHRESH 32, HTHRESH 1, WTHRESH 0: prefetch, and write every report back at once (7.2.3.3).
const THRESHOLDS: u32 = 32 | 1 << 8;
