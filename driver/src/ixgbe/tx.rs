//! Transmit (82599 datasheet 7.2, 4.6.8).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stillwire_dma::{
    Access, HugePages, Mapping, Payload, Register, RingSlots, RingWords, Segment, SharedMemory, fence,
};

use super::desc::{LEN as DESCRIPTOR, TxContext, TxData};
use super::init::Function;
use super::regs::*;
use crate::frame::{Frame, Posted};
use crate::offload::Patches;
use crate::ring::{Fifo, Ring};
use crate::{Error, Offload, Result};

/// A transmit ring whose slots carry tokens.
pub(crate) struct TxQueue<T> {
    ring: Ring,
    words: RingWords,
    /// A header slot for each descriptor, and the device's name for all of them.
    headers: RingSlots,
    header_slots: Segment,
    max_frame: usize,
    /// What the last frame with an offload asked for, and what is in the device's context 0 since then.
    offload: Option<Offload>,
    context: Option<TxContext>,
    /// Descriptors since the last report was asked for.
    since_report: u64,
    /// Frames end here, and nobody asked for a report yet: position and second word.
    unreported: Option<(u64, u64)>,
    tail: Register,
    tokens: Fifo<T>,
    /// Positions of descriptors that will be written back.
    reports: Fifo<()>,
    function: Arc<Function>,
    /// Shared with nobody but a leaked clone, if the device cannot be proved quiet.
    mapping: Arc<Mapping>,
}

impl<T> TxQueue<T> {
    pub(crate) fn new(function: Arc<Function>) -> Result<Self> {
        function.running()?;
        let size = function.config.tx_ring;
        let slots = usize::from(size);
        let ring_len = slots * DESCRIPTOR;
        let headers = ring_len.next_multiple_of(4096)..ring_len.next_multiple_of(4096) + slots * HEADER_SLOT;
        let memory = SharedMemory::new("stillwire-tx", headers.end, HugePages::Never)?;
        let mapping = Arc::new(function.pci.iommu().map(&memory, Access::ReadWrite)?);
        let queue = Self {
            ring: Ring::new(size),
            words: RingWords::new(&memory, 0, slots * 2),
            headers: RingSlots::new(&memory, headers.start, slots),
            header_slots: mapping.segment(headers).expect("the whole memory is mapped"),
            max_frame: function.config.max_frame.into(),
            offload: None,
            context: None,
            since_report: 0,
            unreported: None,
            tail: function.regs.space().register(TDT.at(0).offset),
            tokens: Fifo::new(size),
            reports: Fifo::new(size),
            function,
            mapping,
        };
        queue.start(ring_len)?;
        Ok(queue)
    }

    fn start(&self, ring_len: usize) -> Result<()> {
        let regs = &self.function.regs;
        let base = self.mapping.iova_of(0).expect("a mapping has a first byte").get();
        regs.write(TXDCTL.at(0), 0);
        regs.write(TDBAL.at(0), base as u32);
        regs.write(TDBAH.at(0), (base >> 32) as u32);
        regs.write(TDLEN.at(0), ring_len as u32);
        regs.write(TDH.at(0), 0);
        regs.write(TDT.at(0), 0);
        regs.write(TDWBAL.at(0), 0);
        regs.write(TXDCTL.at(0), THRESHOLDS);
        regs.set(DMATXCTL, DMATXCTL_TE);
        regs.write(TXDCTL.at(0), THRESHOLDS | DCTL_ENABLE);
        // The tail may not be written before the queue says it is on.
        regs.wait(TXDCTL.at(0), DCTL_ENABLE, DCTL_ENABLE, Duration::from_millis(100))
    }

    pub(crate) fn free(&self) -> usize {
        self.ring.free()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.tokens.len()
    }

    /// Puts a frame into the ring, which keeps its payload until the frame's last descriptor is done.
    #[inline(always)]
    pub(crate) fn post<'a>(&mut self, mut frame: Frame<'a, T>) -> Result<Posted<'a, T>>
    where
        T: Payload,
    {
        let len = frame.payload.as_ref().map_or(0, Payload::len);
        match self.post_range(frame.header, frame.offload, frame.payload.as_ref(), 0..len)? {
            None => Ok(Posted::Full(frame)),
            Some(last) => {
                if let Some(token) = frame.payload.take() {
                    self.keep(last, token);
                }
                Ok(Posted::Queued)
            }
        }
    }

    /// Gives the ring a token to keep until the descriptor at `position` is done.
    #[inline]
    pub(crate) fn keep(&mut self, position: u64, token: T) {
        self.tokens.push(position, token);
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
        let total = self.check(header, range.len())?;
        let patches = match offload {
            Some(offload) => offload.plan(header, range.len())?,
            None => Patches::NONE,
        };
        let context = self.context_for(offload);
        let mut draft = Draft { words: &self.words, room: self.ring.room(), next: self.ring.room().start };
        if let Some(context) = context {
            draft.put(context.encode());
        }
        if draft.is_full() {
            return Ok(None);
        }
        let slot = self.ring.index(draft.next);
        self.headers.write(slot, header);
        patches.each(|at, pair| self.headers.write_pair(slot, at, pair));
        let data = TxData::of_frame(total, offload);
        let mut last = self.header_segment(slot, header.len());
        if let Some(payload) = payload.filter(|_| !range.is_empty()) {
            match payload.segment(range.clone()).filter(|segment| segment.len <= MAX_SEGMENT) {
                Some(segment) => {
                    draft.put(data.encode(last));
                    last = segment;
                }
                None => last = draft.put_pieces(data, last, payload, range)?,
            }
        }
        let data = data.last();
        let report = self.since_report + draft.len() + 1 >= REPORT_EVERY;
        let words = data.reporting(report).encode(last);
        draft.put(words);
        let Some(filled) = draft.filled() else { return Ok(None) };
        if context.is_some() {
            self.context = context;
        }
        self.offload = offload.or(self.offload);
        Ok(Some(self.take(filled, (!report).then_some(words[1]))))
    }

    /// The context that has to be written before a frame with this offload, if any.
    #[inline]
    fn context_for(&self, offload: Option<Offload>) -> Option<TxContext> {
        match offload {
            Some(offload) if self.offload != Some(offload) => self.other_context(offload),
            _ => None,
        }
    }

    /// The same for an offload that is not the last one's; it may need no other context.
    #[cold]
    fn other_context(&self, offload: Offload) -> Option<TxContext> {
        Some(TxContext::of(offload)).filter(|context| self.context != Some(*context))
    }

    /// Makes the frame whose descriptors are `filled` part of the ring; `unreported` is the second word of its last one, if
    /// that asks for no report. Returns the position of that one.
    #[inline]
    fn take(&mut self, filled: Range<u64>, unreported: Option<u64>) -> u64 {
        let last = filled.end - 1;
        self.ring.take_until(filled.end);
        self.since_report += filled.end - filled.start;
        match unreported {
            None => self.expect_report(last),
            Some(word) => self.unreported = Some((last, word)),
        }
        last
    }

    #[inline]
    fn expect_report(&mut self, position: u64) {
        self.reports.push(position, ());
        self.unreported = None;
        self.since_report = 0;
    }

    /// Shows the device everything posted: one doorbell, one report for the batch.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if let Some((position, last)) = self.unreported {
            // Behind the tail, so the device has not fetched it yet.
            let word = self.words.at(self.ring.index(position) * 2 + 1);
            word.store(TxData::from_bits(last).reporting(true).into_bits().to_le(), Ordering::Relaxed);
            self.expect_report(position);
        }
        if let Some(tail) = self.ring.publish() {
            fence::release_to_device();
            self.tail.write(tail);
        }
    }

    /// Takes back what the device is done with; returns the number of descriptors.
    #[inline]
    pub(crate) fn reclaim(&mut self, mut done: impl FnMut(T)) -> usize {
        let before = self.ring.used();
        while let Some(position) = self.reports.first() {
            let word = u64::from_le(self.words.at(self.ring.index(position) * 2 + 1).load(Ordering::Acquire));
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
    pub(crate) fn stop(&mut self, mut back: impl FnMut(T)) -> Result<()> {
        match self.function.stop() {
            Ok(_quiet) => {
                while let Some(token) = self.tokens.pop_through(u64::MAX) {
                    back(token);
                }
                Ok(())
            }
            Err(error) => {
                // The device may still read these bytes, and the ring: neither they nor their device addresses are ever
                // given back.
                std::mem::forget(self.mapping.clone());
                let mut kept = 0;
                while let Some(token) = self.tokens.pop_through(u64::MAX) {
                    std::mem::forget(token);
                    kept += 1;
                }
                match error {
                    Error::NotQuiet { name, why, .. } => Err(Error::NotQuiet { name, why, kept }),
                    other => Err(other),
                }
            }
        }
    }

    /// Refuses what the device cannot send; returns the frame's length, bytes.
    #[inline]
    fn check(&self, header: &[u8], payload: usize) -> Result<u32> {
        let total = header.len() + payload;
        if (14..=HEADER_SLOT).contains(&header.len()) && total <= self.max_frame {
            return Ok(total as u32);
        }
        let (what, found, limit) = match header.len() {
            ..=13 => ("header bytes (at least an Ethernet header)", header.len(), 14),
            14..=HEADER_SLOT => ("frame bytes", total, self.max_frame),
            _ => ("header bytes", header.len(), HEADER_SLOT),
        };
        Err(Error::Frame { what, found, limit })
    }

    /// The device's name for the header of `len` bytes in a slot.
    #[inline]
    fn header_segment(&self, slot: usize, len: usize) -> Segment {
        let segment = self.header_slots.slice((slot * HEADER_SLOT) as u32, len as u32);
        segment.unwrap_or_else(|| unreachable!("every slot is mapped, and a header has bytes"))
    }
}

/// Descriptors of one frame, that the ring takes only when all of them are there. Until then they are nobody's: the device
/// reads none behind the tail.
struct Draft<'q> {
    words: &'q RingWords,
    /// Free positions.
    room: Range<u64>,
    next: u64,
}

impl Draft<'_> {
    #[inline]
    fn is_full(&self) -> bool {
        self.next >= self.room.end
    }

    /// Number of descriptors.
    #[inline]
    fn len(&self) -> u64 {
        self.next - self.room.start
    }

    /// Fills the next descriptor; one for which there is no room is only counted.
    #[inline]
    fn put(&mut self, [low, high]: [u64; 2]) {
        if !self.is_full() {
            let at = self.next as usize * 2;
            self.words.at(at).store(low.to_le(), Ordering::Relaxed);
            self.words.at(at + 1).store(high.to_le(), Ordering::Relaxed);
        }
        self.next += 1;
    }

    /// Fills descriptors for `last` and all pieces of `range` of `payload` but the last one, which is returned.
    #[inline(never)]
    fn put_pieces<T: Payload>(
        &mut self,
        data: TxData,
        mut last: Segment,
        payload: &T,
        range: Range<usize>,
    ) -> Result<Segment> {
        let first = self.next;
        payload.segments(range, |segment| {
            let mut skip = 0;
            while let Some(part) = segment.slice(skip, MAX_SEGMENT) {
                self.put(data.encode(last));
                last = part;
                skip += part.len;
            }
        });
        let pieces = (self.next - first) as usize;
        if pieces > MAX_SEGMENTS {
            return Err(Error::Frame { what: "payload pieces", found: pieces, limit: MAX_SEGMENTS });
        }
        Ok(last)
    }

    /// The positions filled; `None` when there was no room.
    #[inline]
    fn filled(self) -> Option<Range<u64>> {
        (self.next <= self.room.end).then_some(self.room.start..self.next)
    }
}

impl<T> Drop for TxQueue<T> {
    fn drop(&mut self) {
        // The tokens go only behind the proof; without it `stop` keeps them. The error was the last chance to tell
        // somebody: a caller who wants to know calls `stop` first.
        let _ = self.stop(drop);
    }
}

/// Bytes of a header slot; the 82599 parses headers up to 240 bytes or so.
pub(crate) const HEADER_SLOT: usize = RingSlots::SLOT;
/// Payload descriptors of a frame: 40 in all, one is the header (limit of DPDK's driver).
pub(crate) const MAX_SEGMENTS: usize = 39;
/// Bytes that one descriptor names; Linux uses 16 KiB as well.
const MAX_SEGMENT: u32 = 16 * 1024;
/// Descriptors between reports within a batch.
const REPORT_EVERY: u64 = 32;
/// PTHRESH 32, HTHRESH 1, WTHRESH 0: prefetch, and write every report back at once (7.2.3.3).
const THRESHOLDS: u32 = 32 | 1 << 8;
