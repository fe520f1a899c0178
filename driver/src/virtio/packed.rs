//! A packed ring (virtio 1.2, 2.8): what the driver writes into it, and what it believes of the device's part.
//!
//! Both sides write the same descriptors. Two bits of each say whose it is, and change their meaning with every lap: so a
//! descriptor of an earlier lap is neither available nor used in this one, whoever wrote it last.

use std::sync::atomic::Ordering;

use stillwire_dma::{Register16, RingWords, Segment, fence};

use super::breach::Breach;
use super::desc::{NEXT, WRITE};
use super::virtqueue::{Setup, Used};

/// A ring in memory, and how far both sides are. Positions count descriptors up for ever; the lap of one is the bit above
/// the ring's index.
pub(crate) struct Packed {
    pub size: u16,
    /// Number of the queue in the device.
    pub number: u16,
    descriptors: RingWords,
    /// What the driver wants to be told, and what the device wants: the low half of a word each.
    events: RingWords,
    doorbell: Register16,
    event_index: bool,
    /// Written, shown to the device, and seen used.
    next: u64,
    shown: u64,
    seen: u64,
    /// Second word of the first descriptor that is not shown. Without its flags the device comes to none behind it.
    held: u64,
}

impl Packed {
    /// Where the areas of a ring begin, and its end, bytes.
    pub(super) fn areas(size: u16) -> ([usize; 3], usize) {
        let events = usize::from(size) * 16;
        ([0, events, events + 8], events + 16)
    }

    /// A ring in zeroed memory.
    pub(super) fn new(setup: Setup<'_>) -> Self {
        let Setup { ring, number, doorbell, event_index } = setup;
        let ([descriptors, events, _], _) = Self::areas(ring.size);
        let packed = Self {
            size: ring.size,
            number,
            descriptors: RingWords::new(&ring.memory, descriptors, usize::from(ring.size) * 2),
            events: RingWords::new(&ring.memory, events, 2),
            doorbell,
            event_index,
            next: 0,
            shown: 0,
            seen: 0,
            held: 0,
        };
        packed.listen(false);
        packed
    }

    /// As [`Virtqueue::listen`](super::virtqueue::Virtqueue::listen).
    pub(crate) fn listen(&self, on: bool) {
        let wish = if on { EVENTS_ON } else { EVENTS_OFF };
        self.events.at(0).store((wish << 16).to_le(), Ordering::Relaxed);
    }

    /// Writes a chain; as [`Virtqueue::put`](super::virtqueue::Virtqueue::put).
    #[inline]
    pub(crate) fn put(&mut self, first: u64, front: Segment, pieces: &[Segment], flags: u16) -> u64 {
        debug_assert_eq!(first, self.next, "a chain begins where the last one ended");
        let id = (first & self.mask()) as u16;
        let mut last = front;
        for piece in pieces {
            self.write(last, id, NEXT);
            last = *piece;
        }
        self.write(last, id, flags);
        self.next - 1
    }

    /// Makes a buffer a chain of its own.
    #[inline]
    pub(crate) fn lend(&mut self, id: u16, buffer: Segment) {
        self.write(buffer, id, WRITE);
    }

    /// Shows the device everything written, and rings if it wants that.
    #[inline]
    pub(crate) fn show(&mut self) {
        if self.shown == self.next {
            return;
        }
        let before = std::mem::replace(&mut self.shown, self.next);
        fence::release_to_device();
        let [_, flags] = self.descriptors.view().pair(before as usize);
        flags.store(self.held.to_le(), Ordering::Relaxed);
        fence::store_before_load();
        if self.wants_bell(before) {
            self.doorbell.write(self.number);
        }
    }

    /// The descriptor at the position that the device uses next, if it is used.
    #[inline]
    pub(crate) fn peek(&self) -> std::result::Result<Option<Used>, Breach> {
        let [_, word] = self.descriptors.view().pair(self.seen as usize);
        let word = u64::from_le(word.load(Ordering::Acquire));
        let used = if self.is_odd(self.seen) { 0 } else { AVAIL | USED };
        let flags = (word >> 48) as u16;
        if flags & (AVAIL | USED) != used {
            return Ok(None);
        }
        fence::acquire_from_device();
        let id = (word >> 32) as u16;
        if id >= self.size {
            return Err(Breach::OutOfRange { id: id.into(), size: self.size });
        }
        Ok(Some(Used { id, len: word as u32, wrote: flags & WRITE != 0 }))
    }

    /// The device goes on so many descriptors further.
    #[inline]
    pub(crate) fn pass(&mut self, descriptors: u16) {
        self.seen += u64::from(descriptors);
        debug_assert!(self.seen <= self.shown, "the caller knows which chains there are");
    }

    #[inline]
    fn write(&mut self, segment: Segment, id: u16, flags: u16) {
        let at = self.next;
        let flags = flags | if self.is_odd(at) { USED } else { AVAIL };
        let word = u64::from(segment.len) | u64::from(id) << 32 | u64::from(flags) << 48;
        let [address, rest] = self.descriptors.view().pair(at as usize);
        address.store(segment.iova.get().to_le(), Ordering::Relaxed);
        if at == self.shown {
            self.held = word;
        } else {
            rest.store(word.to_le(), Ordering::Relaxed);
        }
        self.next += 1;
    }

    /// Whether the device wants to know of what was shown from position `before` on.
    #[inline]
    fn wants_bell(&self, before: u64) -> bool {
        let wish = u64::from_le(self.events.at(1).load(Ordering::Relaxed));
        match wish >> 16 & 3 {
            EVENTS_OFF => false,
            EVENTS_AT if self.event_index => {
                let event = self.position(wish as u16);
                event.wrapping_sub(before) < self.shown - before
            }
            // A wish that cannot be is none for silence.
            _ => true,
        }
    }

    /// The position that an event names: in the lap of what was shown last, or in the one before.
    #[inline]
    fn position(&self, event: u16) -> u64 {
        let lap = self.shown & !self.mask();
        let back = if (event >> 15 == 0) == self.is_odd(self.shown) { 0 } else { u64::from(self.size) };
        (lap + u64::from(event & 0x7fff)).wrapping_sub(back)
    }

    /// Whether a position is in an odd lap, in which the bits mean the opposite.
    #[inline]
    fn is_odd(&self, position: u64) -> bool {
        position & u64::from(self.size) != 0
    }

    #[inline]
    fn mask(&self) -> u64 {
        u64::from(self.size) - 1
    }
}

/// Flags: which lap the driver made it available in, and which lap the device used it in.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Events: always.
const EVENTS_ON: u64 = 0;
/// Events: never.
const EVENTS_OFF: u64 = 1;
/// Events: at one descriptor.
const EVENTS_AT: u64 = 2;
