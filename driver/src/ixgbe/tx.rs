//! Transmit (82599 datasheet 7.2, 4.6.8).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stillwire_dma::{Access, HugePages, Mapping, Payload, Register, Segment, SharedMemory, fence};

use super::desc::{LEN as DESCRIPTOR, TxContext, TxData};
use super::init::Function;
use super::regs::*;
use crate::frame::{Frame, Posted};
use crate::ring::{Fifo, Ring};
use crate::{Error, Offload, Result};

/// A transmit ring whose slots carry tokens.
pub(crate) struct TxQueue<T> {
    function: Arc<Function>,
    ring: Ring,
    tokens: Fifo<T>,
    /// Positions of descriptors that will be written back.
    reports: Fifo<()>,
    /// Frames end here, and nobody asked for a report yet: position and second word.
    unreported: Option<(u64, TxData)>,
    /// Descriptors since the last report was asked for.
    since_report: usize,
    /// What is in the device's context 0.
    context: Option<TxContext>,
    tail: Register,
    memory: SharedMemory,
    /// Shared with nobody but a leaked clone, if the device cannot be proved quiet.
    mapping: Arc<Mapping>,
    /// Where header slots begin in `memory`, bytes.
    headers: usize,
    segments: Vec<Segment>,
}

impl<T> TxQueue<T> {
    pub(crate) fn new(function: Arc<Function>) -> Result<Self> {
        function.running()?;
        let size = function.config.tx_ring;
        let ring_len = usize::from(size) * DESCRIPTOR;
        let headers = ring_len.next_multiple_of(4096);
        let len = headers + usize::from(size) * HEADER_SLOT;
        let memory = SharedMemory::new("stillwire-tx", len, HugePages::Never)?;
        let mapping = Arc::new(function.pci.iommu().map(&memory, Access::ReadWrite)?);
        let tail = function.regs.space().register(TDT.at(0).offset);
        let queue = Self {
            function,
            ring: Ring::new(size),
            tokens: Fifo::new(size),
            reports: Fifo::new(size),
            unreported: None,
            since_report: 0,
            context: None,
            tail,
            memory,
            mapping,
            headers,
            segments: Vec::with_capacity(MAX_SEGMENTS),
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
    pub(crate) fn post<'a>(&mut self, mut frame: Frame<'a, T>) -> Result<Posted<'a, T>>
    where
        T: Payload,
    {
        let payload = frame.payload.as_ref().map_or(0..0, |payload| 0..payload.len());
        let (header, offload) = (frame.header, frame.offload);
        match self.post_range(header, offload, frame.payload.as_ref(), payload)? {
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
    pub(crate) fn keep(&mut self, position: u64, token: T) {
        self.tokens.push(position, token);
    }

    /// Writes the descriptors of a frame: `header` and then `range` (bytes) of `payload`. Returns the position of the
    /// last one, or `None` when the ring has no room. The caller keeps `payload` alive until it is done.
    pub(crate) fn post_range(
        &mut self,
        header: &[u8],
        offload: Option<Offload>,
        payload: Option<&T>,
        range: std::ops::Range<usize>,
    ) -> Result<Option<u64>>
    where
        T: Payload,
    {
        let total = self.check(header, range.len())?;
        let patches = offload.map(|offload| offload.plan(header, range.len())).transpose()?;
        self.gather(payload, range)?;
        let context = offload.map(TxContext::of).filter(|context| self.context != Some(*context));
        let needed = usize::from(context.is_some()) + 1 + self.segments.len();
        if self.ring.free() < needed {
            return Ok(None);
        }
        if let Some(context) = context {
            let position = self.ring.take();
            self.store(position, context.encode());
            self.context = Some(context);
        }
        let first = self.ring.take();
        let slot = self.header_slot(first);
        self.memory.write_at(slot, header);
        if let Some(patches) = patches {
            if let Some(at) = patches.ip_checksum {
                self.memory.write_at(slot + at, &[0, 0]);
            }
            if let Some((at, sum)) = patches.transport {
                self.memory.write_at(slot + at, &sum.to_be_bytes());
            }
        }
        self.since_report += needed;
        Ok(Some(self.write_data(
            first,
            slot,
            header.len(),
            TxData::new().with_payload_len(total).with_offload(offload),
        )))
    }

    /// The data descriptors: the header at `first`, then the gathered segments.
    fn write_data(&mut self, first: u64, slot: usize, header_len: usize, data: TxData) -> u64 {
        let header = self.mapping.segment(slot..slot + header_len).expect("header slots are mapped");
        let mut here = (first, header);
        let mut segments = std::mem::take(&mut self.segments);
        for segment in segments.drain(..) {
            self.store(here.0, data.with_len(here.1.len as u16).encode(here.1));
            here = (self.ring.take(), segment);
        }
        self.segments = segments;
        let (position, segment) = here;
        let report = self.since_report >= REPORT_EVERY;
        let last = data.with_len(segment.len as u16).with_end_of_packet(true).with_report_status(report);
        self.store(position, last.encode(segment));
        if report {
            self.expect_report(position);
        } else {
            self.unreported = Some((position, last));
        }
        position
    }

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
            let word = &self.words()[self.ring.index(position) * 2 + 1];
            word.store(last.with_report_status(true).into_bits().to_le(), Ordering::Relaxed);
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
            let word = u64::from_le(self.words()[self.ring.index(position) * 2 + 1].load(Ordering::Acquire));
            // A descriptor that the device has not been shown cannot be done, whatever it says.
            if !TxData::from_bits(word).done() || !self.ring.is_published(position) {
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
    fn check(&self, header: &[u8], payload: usize) -> Result<u32> {
        let refuse = |what, found, limit| Err(Error::Frame { what, found, limit });
        let max = usize::from(self.function.config.max_frame);
        if header.len() < 14 {
            return refuse("header bytes (at least an Ethernet header)", header.len(), 14);
        }
        if header.len() > HEADER_SLOT {
            return refuse("header bytes", header.len(), HEADER_SLOT);
        }
        let total = header.len() + payload;
        if total > max {
            return refuse("frame bytes", total, max);
        }
        Ok(total as u32)
    }

    /// Collects the payload's segments, cut to what one descriptor may name.
    fn gather(&mut self, payload: Option<&T>, range: std::ops::Range<usize>) -> Result<()>
    where
        T: Payload,
    {
        self.segments.clear();
        let Some(payload) = payload.filter(|_| !range.is_empty()) else { return Ok(()) };
        let segments = &mut self.segments;
        payload.segments(range, &mut |segment| {
            let mut skip = 0;
            while let Some(part) = segment.slice(skip, MAX_SEGMENT) {
                segments.push(part);
                skip += part.len;
            }
        });
        if self.segments.len() > MAX_SEGMENTS {
            return Err(Error::Frame { what: "payload pieces", found: self.segments.len(), limit: MAX_SEGMENTS });
        }
        Ok(())
    }

    #[inline]
    fn header_slot(&self, position: u64) -> usize {
        self.headers + self.ring.index(position) * HEADER_SLOT
    }

    #[inline]
    fn words(&self) -> &[std::sync::atomic::AtomicU64] {
        self.memory.words(0, usize::from(self.function.config.tx_ring) * 2)
    }

    #[inline]
    fn store(&self, position: u64, [low, high]: [u64; 2]) {
        let at = self.ring.index(position) * 2;
        let words = self.words();
        words[at].store(low.to_le(), Ordering::Relaxed);
        words[at + 1].store(high.to_le(), Ordering::Relaxed);
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
pub(crate) const HEADER_SLOT: usize = 256;
/// Payload descriptors of a frame: 40 in all, one is the header (limit of DPDK's driver).
pub(crate) const MAX_SEGMENTS: usize = 39;
/// Bytes that one descriptor names; Linux uses 16 KiB as well.
const MAX_SEGMENT: u32 = 16 * 1024;
/// Descriptors between reports within a batch.
const REPORT_EVERY: usize = 32;
/// PTHRESH 32, HTHRESH 1, WTHRESH 0: prefetch, and write every report back at once (7.2.3.3).
const THRESHOLDS: u32 = 32 | 1 << 8;
