//! Descriptors: what is followed from head to tail.

use std::sync::atomic::{AtomicU64, Ordering};

use stillwire_dma::{Access, Error, Result, SharedMemory};

use super::{Context, DMATXCTL, DMATXCTL_TE, Mapped, PaperNic, RXCTRL, RXCTRL_RXEN, Sent};

/// The pages with the registers of the receive and of the transmit queues; queue 0 comes first in both.
pub(super) const RX: u32 = 0x1000;
pub(super) const TX: u32 = 0x6000;

/// A queue between two steps.
struct Ring<'a> {
    words: &'a [AtomicU64],
    size: u32,
    head: u32,
    tail: u32,
}

/// A frame of which the last descriptor was not seen yet.
#[derive(Default)]
struct Frame {
    descriptors: u64,
    bytes: u32,
    /// What the first descriptor says of the whole (PAYLEN), headers included.
    announced: u32,
    /// What it is cut by: bytes of its headers, and of a segment.
    cut: Option<Context>,
}

impl PaperNic {
    /// Follows the transmit tail, and says done where a report was asked for (RS).
    ///
    /// # Errors
    /// The first descriptor that no 82599 could have sent.
    pub fn step(&self) -> Result<()> {
        let mut state = self.lock();
        let state = &mut *state;
        if !self.may_master(state) || self.get(DMATXCTL) & DMATXCTL_TE == 0 {
            return Ok(());
        }
        let Some(ring) = self.ring(&state.mappings, TX)? else { return Ok(()) };
        if ring.head == ring.tail {
            return Ok(());
        }
        let sent = &mut state.sent;
        sent.counts.doorbells += 1;
        let mut frame = Frame::default();
        let mut at = ring.head;
        while at != ring.tail {
            let words = ring.descriptor(at);
            sent.add(words, &mut frame, &state.mappings).map_err(|what| unfit(what, at, words))?;
            let [_, high] = words;
            if high & RS != 0 {
                sent.counts.reports += 1;
                ring.words[2 * at as usize + 1].store((high | TX_DD).to_le(), Ordering::Release);
            }
            at = (at + 1) % ring.size;
        }
        self.set(TX + HEAD, at);
        if frame.descriptors > 0 {
            return Err(Error::Model(format!("paper NIC: the tail {at} is within a frame; publish whole frames")));
        }
        Ok(())
    }

    /// Lets up to `count` copies of `frame` arrive; returns for how many there were buffers.
    ///
    /// # Errors
    /// A buffer that is not there.
    pub fn receive(&self, count: usize, frame: &[u8]) -> Result<usize> {
        let mut state = self.lock();
        let state = &mut *state;
        if !self.may_master(state) || self.get(RXCTRL) & RXCTRL_RXEN == 0 {
            return Ok(0);
        }
        let Some(ring) = self.ring(&state.mappings, RX)? else { return Ok(0) };
        state.rx.doorbells += u64::from(ring.tail != state.rx_tail);
        state.rx_tail = ring.tail;
        let buffer = (self.get(RX + BUFFERS) as usize & 0x1f) << 10;
        let pieces = frame.len().div_ceil(buffer.max(1));
        let (mut at, mut arrived) = (ring.head, 0);
        while arrived < count && ring.ready(at) >= pieces as u32 {
            for (index, piece) in frame.chunks(buffer.max(1)).enumerate() {
                ring.fill(at, &state.mappings, piece, index + 1 == pieces)?;
                at = (at + 1) % ring.size;
            }
            arrived += 1;
        }
        self.set(RX + HEAD, at);
        state.rx.frames += arrived as u64;
        state.rx.bytes += (arrived * frame.len()) as u64;
        state.rx.descriptors += (arrived * pieces) as u64;
        state.rx.reports += (arrived * pieces) as u64;
        Ok(arrived)
    }

    /// The queue whose registers begin at `page`; `None` while it is not enabled.
    fn ring<'a>(&self, mappings: &'a [Mapped], page: u32) -> Result<Option<Ring<'a>>> {
        if self.get(page + CONTROL) & CONTROL_ENABLE == 0 {
            return Ok(None);
        }
        // The tail first: what its writer wrote before is seen after.
        let (tail, head) = (self.get(page + TAIL), self.get(page + HEAD));
        let base = u64::from(self.get(page + BASE_HIGH)) << 32 | u64::from(self.get(page + BASE_LOW));
        let bytes = self.get(page + LENGTH);
        let size = bytes / LEN;
        let found = find(mappings, base, bytes as usize, Access::ReadWrite);
        match found.filter(|_| size > 0 && tail < size && head < size) {
            Some((memory, offset)) => {
                Ok(Some(Ring { words: memory.words(offset, 2 * size as usize), size, head, tail }))
            }
            None => Err(Error::Model(format!(
                "paper NIC: the ring at {base:#x} has {bytes} bytes, head {head} and tail {tail}; map all of it, and keep both below {size}"
            ))),
        }
    }
}

impl Sent {
    /// Takes a descriptor in, or says what is wrong with it.
    fn add(
        &mut self,
        [low, high]: [u64; 2],
        frame: &mut Frame,
        mappings: &[Mapped],
    ) -> std::result::Result<(), &'static str> {
        if high & DEXT == 0 {
            return Err("is not of the advanced format (DEXT)");
        }
        self.counts.descriptors += 1;
        match high >> 20 & 0xf {
            CONTEXT if frame.descriptors > 0 => return Err("is a context within a frame"),
            CONTEXT => {
                self.contexts[(high >> 36) as usize & 1] = context(low, high)?;
                return Ok(());
            }
            DATA => frame.add(high, &self.contexts)?,
            _ => return Err("is neither context nor data (DTYP)"),
        }
        if find(mappings, low, high as usize & 0xffff, Access::ReadOnly).is_none() {
            return Err("names bytes that are not mapped");
        }
        if high & EOP != 0 {
            if frame.bytes != frame.announced {
                return Err("ends a frame whose bytes are not those that PAYLEN says");
            }
            let (frames, bytes) = frame.sent();
            self.counts.frames += frames;
            self.counts.bytes += bytes;
            *frame = Frame::default();
        }
        Ok(())
    }
}

impl Ring<'_> {
    fn descriptor(&self, at: u32) -> [u64; 2] {
        let index = 2 * at as usize;
        [0, 1].map(|word| u64::from_le(self.words[index + word].load(Ordering::Relaxed)))
    }

    /// Descriptors from `at` to the tail.
    fn ready(&self, at: u32) -> u32 {
        (self.tail + self.size - at) % self.size
    }

    /// Writes a piece of a frame into the buffer of a receive descriptor, and the descriptor back.
    fn fill(&self, at: u32, mappings: &[Mapped], piece: &[u8], last: bool) -> Result<()> {
        let [low, high] = self.descriptor(at);
        let wrong = |what| unfit(what, at, [low, high]);
        if high & RX_DD != 0 {
            return Err(wrong("was not given back"));
        }
        let (memory, buffer) = find(mappings, low, piece.len(), Access::ReadWrite)
            .ok_or_else(|| wrong("names a buffer that is not mapped for writing"))?;
        memory.write_at(buffer, piece);
        let words = &self.words[2 * at as usize..];
        words[0].store(RX_UDP_V4.to_le(), Ordering::Relaxed);
        let end = if last { RX_EOP } else { 0 };
        let status = RX_DD | end | RX_IPCS | (piece.len() as u64) << 32;
        words[1].store(status.to_le(), Ordering::Release);
        Ok(())
    }
}

impl Frame {
    /// Frames that it is on the wire, and bytes in them.
    fn sent(&self) -> (u64, u64) {
        let Some(Context { headers, segment }) = self.cut else { return (1, self.bytes.into()) };
        let payload = self.bytes - headers;
        let frames = payload.div_ceil(segment);
        (frames.into(), (payload + frames * headers).into())
    }

    /// Takes a data descriptor in, or says what is wrong with it.
    fn add(&mut self, high: u64, contexts: &[Context; 2]) -> std::result::Result<(), &'static str> {
        if high & TX_DD != 0 {
            return Err("was shown a second time: it is done");
        }
        if self.descriptors == 0 {
            self.announced = (high >> 46) as u32;
            self.first(high, contexts)?;
        }
        self.descriptors += 1;
        self.bytes += high as u32 & 0xffff;
        match high & 0xffff {
            0 => Err("has no bytes"),
            _ if self.descriptors > MOST_DESCRIPTORS => Err("is one too many for its frame"),
            _ => Ok(()),
        }
    }

    fn first(&mut self, high: u64, contexts: &[Context; 2]) -> std::result::Result<(), &'static str> {
        if high & IFCS == 0 {
            return Err("begins a frame without a check sequence (IFCS)");
        }
        let context = contexts[(high >> 36) as usize & 1];
        // PAYLEN is then the bytes behind the headers, and a frame becomes many.
        if high & TSE != 0 {
            if context.headers == 0 || context.segment == 0 || high & TXSM == 0 {
                return Err("asks for segmentation, and not for checksums, or its context does not say how");
            }
            let payload = self.announced;
            self.announced += context.headers;
            self.cut = Some(context);
            return match (payload, context.headers + context.segment.min(payload)) {
                (1.., SHORTEST..=LONGEST) => Ok(()),
                _ => Err("begins segments of a length that cannot be sent"),
            };
        }
        if high & (IXSM | TXSM) != 0 && !(1..self.announced).contains(&context.headers) {
            return Err("asks for checksums, and its context does not describe its headers");
        }
        match self.announced {
            SHORTEST..=LONGEST => Ok(()),
            _ => Err("begins a frame of a length that cannot be sent"),
        }
    }
}

/// What a context says (MACLEN, IPLEN and L4LEN; MSS), or what is wrong with it.
fn context(low: u64, high: u64) -> std::result::Result<Context, &'static str> {
    let (ip, ethernet, transport) = (low as u32 & 0x1ff, low as u32 >> 9 & 0x7f, (high >> 40) as u32 & 0xff);
    match (ethernet, ip, transport) {
        (14..=127, 20.., 8..) => Ok(Context { headers: ethernet + ip + transport, segment: (high >> 48) as u32 }),
        _ => Err("describes headers that no frame has"),
    }
}

/// The memory of `len` bytes at `iova`, and the offset in it.
fn find(mappings: &[Mapped], iova: u64, len: usize, access: Access) -> Option<(&SharedMemory, usize)> {
    let mapped = mappings.iter().find(|mapped| {
        let inside = iova.checked_sub(mapped.iova).map(|skipped| skipped as usize);
        inside.is_some_and(|skipped| skipped < mapped.range.len() && len <= mapped.range.len() - skipped)
    })?;
    let may = access == Access::ReadOnly || mapped.access == Access::ReadWrite;
    may.then(|| (&mapped.memory, mapped.range.start + (iova - mapped.iova) as usize))
}

fn unfit(what: &str, at: u32, [low, high]: [u64; 2]) -> Error {
    Error::Model(format!("paper NIC: descriptor {at} ({low:#018x} {high:#018x}) {what}"))
}

/// A frame that may arrive: 60 bytes of UDP over IPv4.
pub const RECEIVED: [u8; 60] = {
    let mut frame = [0; 60];
    let headers: [u8; 42] = [
        0x02, 0x53, 0x57, 0, 0, 1, 0x02, 0x53, 0x57, 0, 0, 2, 0x08, 0, // Ethernet
        0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0xf6, 0xbb, 192, 0, 2, 2, 192, 0, 2, 1, // IPv4
        0x0f, 0xa1, 0x0f, 0xa0, 0, 26, 0, 0, // UDP, without a checksum
    ];
    let mut at = 0;
    while at < headers.len() {
        frame[at] = headers[at];
        at += 1;
    }
    frame
};

/// Bytes of a descriptor.
const LEN: u32 = 16;
// Registers of a queue, from its page's start; transmit and receive queues have them in the same places.
const BASE_LOW: u32 = 0x00;
const BASE_HIGH: u32 = 0x04;
const LENGTH: u32 = 0x08;
const HEAD: u32 = 0x10;
/// Receive only: size of the buffers, KiB (SRRCTL).
const BUFFERS: u32 = 0x14;
const TAIL: u32 = 0x18;
const CONTROL: u32 = 0x28;
const CONTROL_ENABLE: u32 = 1 << 25;

// Second word of a transmit descriptor (82599 datasheet 7.2.3.2).
const CONTEXT: u64 = 2;
const DATA: u64 = 3;
const EOP: u64 = 1 << 24;
const IFCS: u64 = 1 << 25;
const RS: u64 = 1 << 27;
const DEXT: u64 = 1 << 29;
const TSE: u64 = 1 << 31;
const TX_DD: u64 = 1 << 32;
const IXSM: u64 = 1 << 40;
const TXSM: u64 = 1 << 41;
/// Data descriptors of a frame; the 82599's limit with WTHRESH 0.
const MOST_DESCRIPTORS: u64 = 40;
/// Shortest and longest frame, bytes without check sequence.
const SHORTEST: u32 = 14;
const LONGEST: u32 = 9724;

// Second word of a receive descriptor that was written back (7.1.6.2).
const RX_DD: u64 = 1 << 0;
const RX_EOP: u64 = 1 << 1;
/// The IPv4 checksum was looked at; UDP has none here.
const RX_IPCS: u64 = 1 << 6;
/// In the first word: the packet's type.
const RX_UDP_V4: u64 = 1 << 4 | 1 << 9;
