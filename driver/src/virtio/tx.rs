//! Transmit (virtio 1.2, 2.7.13, 5.1.6.2).

use std::ops::Range;
use std::sync::Arc;

use stillwire_dma::{Access, HugePages, Mapping, Payload, RingSlot, RingSlots, Segment};

use super::breach::Breach;
use super::desc::{self, NET_HEADER};
use super::init::{Function, Which};
use super::regs::{F_CSUM, F_HOST_TSO4, F_HOST_TSO6, F_HOST_USO, F_IN_ORDER};
use super::stats::wire_len;
use super::virtqueue::Virtqueue;
use crate::frame::{Frame, Posted};
use crate::offload::ipv4_checksum;
use crate::ring::{Fifo, Ring};
use crate::values::MOST_SEGMENTED_BY_HEADER;
use crate::{Error, Ip, Offload, Result, Transport};

/// A transmit ring whose slots carry tokens.
pub(crate) struct TxQueue<T> {
    ring: Ring,
    queue: Virtqueue,
    /// Which of the pairs it is of.
    pair: usize,
    /// A header slot for each descriptor.
    headers: RingSlots<HEADER_SLOT>,
    /// What the driver knows by itself of the chain that begins at each descriptor.
    chains: Box<[Chain]>,
    /// Position of the oldest chain that is not given back.
    front: u64,
    max_frame: usize,
    max_segments: usize,
    /// Features that were negotiated.
    features: u64,
    /// The device is not believed any more.
    failed: bool,
    /// Room for the pieces of a payload.
    pieces: Vec<Segment>,
    tokens: Fifo<T>,
    function: Arc<Function>,
    /// Of the headers. Shared with nobody but a leaked clone, if the device cannot be proved quiet.
    mapping: Arc<Mapping>,
}

/// A chain in the device's hands.
#[derive(Clone, Copy, Default)]
struct Chain {
    /// Descriptors; 0 when no chain begins here.
    len: u16,
    /// The device has used it, and one before it not yet.
    used: bool,
    /// Frames that it is on the wire.
    frames: u16,
    /// Bytes of them there.
    bytes: u32,
}

impl<T> TxQueue<T> {
    pub(crate) fn new(function: Arc<Function>) -> Result<Self> {
        function.running()?;
        let (pair, queue) = function.take(Which::Transmit)?;
        let size = queue.size();
        let memory = function.pci.iommu().memory("stillwire-tx", usize::from(size) * HEADER_SLOT, HugePages::Never)?;
        let mapping = Arc::new(function.pci.iommu().map(&memory, Access::ReadOnly)?);
        let name = mapping.segment(0..usize::from(size) * HEADER_SLOT).expect("all of it is mapped");
        let max_segments = max_segments(size);
        Ok(Self {
            ring: Ring::new(size),
            queue,
            pair,
            headers: RingSlots::new(&memory, 0, name),
            chains: vec![Chain::default(); size.into()].into(),
            front: 0,
            max_frame: function.config.max_frame.into(),
            max_segments,
            features: function.features,
            failed: false,
            pieces: Vec::with_capacity(max_segments),
            tokens: Fifo::new(size),
            function,
            mapping,
        })
    }

    pub(crate) fn free(&self) -> usize {
        self.ring.free()
    }

    /// The ring, to be listened to.
    pub(super) fn virtqueue(&mut self) -> &mut Virtqueue {
        &mut self.queue
    }

    pub(crate) fn number(&self) -> usize {
        self.pair
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.tokens.len()
    }

    /// Puts a frame into the ring, which keeps its payload until the frame's chain is used.
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

    /// Writes the chain of a frame: `header` and then `range` (bytes) of `payload`. Returns the position of its last
    /// descriptor, or `None` when the ring has no room. The caller keeps `payload` alive until it is done.
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
        let total = self.check(header, offload, range.len())?;
        match payload {
            Some(payload) if range.start < range.end => match payload.segment(range.clone()) {
                Some(segment) => Ok(self.write(header, total, offload, &[segment])),
                None => self.write_pieces(header, total, offload, payload, range),
            },
            _ => Ok(self.write(header, total, offload, &[])),
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
        let total = self.check(header, offload, segment.len as usize)?;
        Ok(self.write(header, total, offload, &[segment]))
    }

    /// The same for a payload in several pieces.
    fn write_pieces(
        &mut self,
        header: &[u8],
        frame_len: usize,
        offload: Option<Offload>,
        payload: &T,
        range: Range<usize>,
    ) -> Result<Option<u64>>
    where
        T: Payload,
    {
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.clear();
        payload.segments(range, |segment| pieces.push(segment));
        let (found, limit) = (pieces.len(), self.max_segments);
        let written = (found <= limit).then(|| self.write(header, frame_len, offload, &pieces));
        self.pieces = pieces;
        written.ok_or(Error::Frame { what: "payload pieces", found, limit })
    }

    /// Writes the chain of a frame of `header` and `pieces`, `frame_len` bytes in all, and makes it part of the ring; as
    /// [`post_range`](Self::post_range).
    #[inline]
    fn write(&mut self, header: &[u8], frame_len: usize, offload: Option<Offload>, pieces: &[Segment]) -> Option<u64> {
        if self.ring.free() < 1 + pieces.len() {
            return None;
        }
        let first = self.ring.next();
        let head = self.ring.index(first);
        let front = write_header(self.headers.at(head), header, offload, frame_len - header.len());
        let last = self.queue.put(first, front, pieces, 0);
        self.ring.take_until(last + 1);
        let (frames, bytes) = counted(frame_len, header.len(), offload);
        self.chains[head] = Chain { len: 1 + pieces.len() as u16, used: false, frames, bytes };
        Some(last)
    }

    /// Shows the device everything posted: one doorbell at most.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.ring.publish().is_some() {
            self.queue.show();
        }
    }

    /// Takes back what the device is done with, in ring order; returns the number of descriptors.
    #[inline]
    pub(crate) fn reclaim(&mut self, mut done: impl FnMut(T)) -> usize {
        let before = self.ring.used();
        if let Some(last) = self.take_used() {
            self.ring.reclaim_through(last);
            while let Some(token) = self.tokens.pop_through(last) {
                done(token);
            }
        }
        before - self.ring.used()
    }

    /// Looks what the device has used; returns the position up to which all is done, if that is further than before.
    fn take_used(&mut self) -> Option<u64> {
        if self.failed {
            return None;
        }
        if let Err(breach) = self.note_used() {
            self.failed = true;
            self.function.fail(Which::Transmit, self.pair, breach);
            return None;
        }
        let (mut frames, mut bytes) = (0, 0);
        loop {
            let chain = &mut self.chains[self.ring.index(self.front)];
            if !chain.used {
                break;
            }
            let done = std::mem::take(chain);
            self.front += u64::from(done.len);
            frames += u64::from(done.frames);
            bytes += u64::from(done.bytes);
        }
        if frames == 0 {
            return None;
        }
        let counters = self.function.counters(Which::Transmit, self.pair);
        counters.frames.add(frames);
        counters.bytes.add(bytes);
        Some(self.front - 1)
    }

    /// Marks the chains that the device has used since the last look. Each entry marks one at least, so a device that is
    /// always ahead comes to a chain that it does not have.
    fn note_used(&mut self) -> std::result::Result<(), Breach> {
        self.queue.look()?;
        let mut oldest = self.front;
        while let Some(used) = self.queue.peek()? {
            let head = usize::from(used.id);
            let ahead = u64::from(used.id).wrapping_sub(self.front) & (self.chains.len() as u64 - 1);
            let first = self.front + ahead;
            let chain = &mut self.chains[head];
            if chain.len == 0 || chain.used || !self.ring.is_published(first) {
                return Err(Breach::NotInFlight { id: used.id.into() });
            }
            if used.wrote && used.len != 0 {
                return Err(Breach::Len { id: used.id.into(), len: used.len, room: 0 });
            }
            chain.used = true;
            let (mut chains, mut descriptors) = (1, chain.len);
            if self.features & F_IN_ORDER != 0 {
                let end = first + u64::from(descriptors);
                descriptors = (end - oldest) as u16;
                while oldest < first {
                    let before = &mut self.chains[self.ring.index(oldest)];
                    before.used = true;
                    chains += 1;
                    oldest += u64::from(before.len);
                }
                oldest = end;
            }
            self.queue.pass(used.id, chains, descriptors)?;
        }
        Ok(())
    }

    /// Stops the device with proof, then hands out every token that is left, in ring order.
    pub(crate) fn stop(&mut self, back: impl FnMut(T)) -> Result<()> {
        self.tokens.end(self.function.stop(), &self.mapping, back)
    }

    /// Refuses what was not negotiated.
    fn check_offload(&self, offload: Offload) -> Result<()> {
        let needs = match (offload.segment, offload.transport, offload.ip) {
            (_, Some(Transport::Sctp), _) => Err("offload: SCTP checksums (virtio has none)"),
            (_, _, _) if offload.vlan.is_some() => {
                Err("offload: VLAN tags (virtio has none; they may be in the header)")
            }
            (Some(_), Some(Transport::Tcp), Ip::V4) => {
                Ok((F_HOST_TSO4, "segmentation (the device offers no HOST_TSO4)"))
            }
            (Some(_), Some(Transport::Tcp), Ip::V6) => {
                Ok((F_HOST_TSO6, "segmentation (the device offers no HOST_TSO6)"))
            }
            (Some(_), ..) => Ok((F_HOST_USO, "segmentation (the device offers no HOST_USO)")),
            (None, Some(_), _) => Ok((F_CSUM, "offload: transport checksums (the device offers no CSUM)")),
            (None, None, _) => return Ok(()),
        };
        let (feature, what) = needs.unwrap_or_else(|what| (0, what));
        if self.features & feature != 0 {
            return Ok(());
        }
        Err(Error::Frame { what, found: 1, limit: 0 })
    }

    /// Refuses what the device cannot send, and a device that is not believed; returns the frame's length, bytes.
    #[inline]
    fn check(&self, header: &[u8], offload: Option<Offload>, payload: usize) -> Result<usize> {
        let total = header.len() + payload;
        if self.failed {
            self.function.sound()?;
        }
        if let Some(offload) = offload {
            self.check_offload(offload)?;
            if offload.segment.is_some() && header.len() <= HEADER_LEN {
                let most = MOST_SEGMENTED_BY_HEADER;
                return offload.check_segments(header, payload, self.max_frame, most).map(|_| total);
            }
            offload.check(header.len(), payload)?;
        }
        if (14..=HEADER_LEN).contains(&header.len()) && total <= self.max_frame {
            return Ok(total);
        }
        let (what, found, limit) = match header.len() {
            ..=13 => ("header bytes (at least an Ethernet header)", header.len(), 14),
            14..=HEADER_LEN => ("frame bytes", total, self.max_frame),
            _ => ("header bytes", header.len(), HEADER_LEN),
        };
        Err(Error::Frame { what, found, limit })
    }
}

/// What was counted of a frame of so many bytes: frames and bytes on a wire.
fn counted(frame_len: usize, header: usize, offload: Option<Offload>) -> (u16, u32) {
    match offload.and_then(|offload| offload.segment) {
        None => (1, wire_len(frame_len) as u32),
        Some(segment) => {
            let (payload, segment) = (frame_len - header, usize::from(segment.get()));
            let (full, rest) = (payload / segment, payload % segment);
            let last = if rest > 0 { wire_len(header + rest) } else { 0 };
            let bytes = full as u64 * wire_len(header + segment) + last;
            (payload.div_ceil(segment) as u16, bytes as u32)
        }
    }
}

/// Writes the net header and a frame's header as the device wants them, and returns the device's name for them.
#[inline]
fn write_header(
    slot: RingSlot<'_, HEADER_SLOT>,
    header: &[u8],
    offload: Option<Offload>,
    payload_len: usize,
) -> Segment {
    let segmented = offload.filter(|offload| offload.segment.is_some());
    let net = segmented.map_or_else(|| desc::net_header(offload), |offload| desc::segmenting(offload, header.len()));
    let name = slot.write_behind(net, header);
    if let Some(offload) = segmented {
        // The device writes the IPv4 header's checksum of each.
        for (at, value) in offload.whole(header, payload_len) {
            slot.write_pair(FRONT + at, value.to_be_bytes());
        }
    } else if let Some(offload) = offload {
        let patches = offload.patches(header, payload_len);
        slot.write_pair(FRONT + patches.sum_at, patches.sum.to_be_bytes());
        if offload.ip == Ip::V4 {
            let ip_at = usize::from(offload.ethernet_len);
            let sum = ipv4_checksum(&header[ip_at..ip_at + usize::from(offload.ip_len)]);
            slot.write_pair(FRONT + ip_at + 10, sum.to_be_bytes());
        }
    }
    let skip = (FRONT - NET_HEADER) as u32;
    name.slice(skip, u32::MAX).expect("a header has bytes")
}

/// Payload descriptors of a frame in a ring of `size`: as many as the sister families take, or what the ring holds.
pub(crate) fn max_segments(size: u16) -> usize {
    MAX_SEGMENTS.min(usize::from(size) - 2)
}

impl<T> Drop for TxQueue<T> {
    fn drop(&mut self) {
        // The tokens go only behind the proof; without it `stop` keeps them. The error was the last chance to tell
        // somebody: a caller who wants to know calls `stop` first.
        let _ = self.stop(drop);
    }
}

/// Bytes of a frame's header.
pub(crate) const HEADER_LEN: usize = 256 - FRONT;
/// Bytes of a header slot.
const HEADER_SLOT: usize = 256;
/// Bytes before a frame's header in its slot: two words that end with the net header.
const FRONT: usize = 16;
const MAX_SEGMENTS: usize = 39;
