//! A split ring (virtio 1.2, 2.7): what the driver writes into it, and what it believes of the device's part.

use std::sync::atomic::Ordering;

use stillwire_dma::{Register16, RingSlots, RingWords, Segment, fence};

use super::breach::Breach;
use super::desc::{self, NEXT, WRITE};
use super::virtqueue::{Setup, Used};

/// A ring in memory, and how far both sides are. Counts go up for ever and are reduced only to index memory.
pub(crate) struct Split {
    pub size: u16,
    /// Number of the queue in the device.
    pub number: u16,
    descriptors: RingWords,
    /// Word 0 ends with flags and index; the heads follow, four a word.
    available: RingSlots<8>,
    /// Word 0 ends with flags and index; the elements follow, one a word. The wish to be told is behind the last.
    used: RingWords,
    doorbell: Register16,
    event_index: bool,
    /// Chains put into the available ring, shown to the device, used at the last look, and seen used.
    offered: u64,
    shown: u64,
    used_index: u64,
    seen: u64,
}

/// Where the areas of a ring begin, bytes.
struct Layout {
    available: usize,
    used: usize,
    end: usize,
}

impl Layout {
    fn of(size: u16) -> Self {
        let size = usize::from(size);
        // Each area is a power of two of words, so that an index cannot leave it; the rings need a little more than half.
        let available = size * 16;
        let used = available + size * 4;
        Self { available, used, end: used + size * 16 }
    }
}

impl Split {
    /// Where the areas of a ring begin, and its end, bytes.
    pub(super) fn areas(size: u16) -> ([usize; 3], usize) {
        let layout = Layout::of(size);
        // Four bytes in, so that what follows flags and index begins with a word.
        ([0, layout.available + 4, layout.used + 4], layout.end)
    }

    /// A ring in zeroed memory.
    pub(super) fn new(setup: Setup<'_>) -> Self {
        let Setup { ring, number, doorbell, event_index } = setup;
        let (layout, size) = (Layout::of(ring.size), usize::from(ring.size));
        let name = ring.mapping.segment(layout.available..layout.used).expect("all of it is mapped");
        let split = Self {
            size: ring.size,
            number,
            descriptors: RingWords::new(&ring.memory, 0, size * 2),
            available: RingSlots::new(&ring.memory, layout.available, name),
            used: RingWords::new(&ring.memory, layout.used, size * 2),
            doorbell,
            event_index,
            offered: 0,
            shown: 0,
            used_index: 0,
            seen: 0,
        };
        split.listen(false);
        split
    }

    /// As [`Virtqueue::listen`](super::virtqueue::Virtqueue::listen).
    pub(crate) fn listen(&self, on: bool) {
        if self.event_index {
            // The flag must be 0 then, and the wish is an index: the next one, or the one that is farthest off.
            let wish = if on { self.seen as u16 } else { (self.seen as u16).wrapping_sub(1) };
            self.available.at(1 + usize::from(self.size) / 4).write_pair(0, wish.to_le_bytes());
        } else {
            let flags: u16 = if on { 0 } else { NO_INTERRUPT };
            self.available.at(0).write_pair(4, flags.to_le_bytes());
        }
    }

    /// Writes a chain; as [`Virtqueue::put`](super::virtqueue::Virtqueue::put).
    #[inline]
    pub(crate) fn put(&mut self, first: u64, front: Segment, pieces: &[Segment], flags: u16) -> u64 {
        let table = self.descriptors.view();
        let put = |at: u64, [low, high]: [u64; 2]| {
            let [one, two] = table.pair(at as usize);
            one.store(low.to_le(), Ordering::Relaxed);
            two.store(high.to_le(), Ordering::Relaxed);
        };
        let (mut at, mut last) = (first, front);
        for piece in pieces {
            put(at, desc::encode(last, NEXT, self.index(at + 1) as u16));
            at += 1;
            last = *piece;
        }
        put(at, desc::encode(last, flags, 0));
        self.offer(self.index(first) as u16);
        at
    }

    /// Writes descriptor `id`: a buffer that the device writes.
    pub(crate) fn lay(&mut self, id: u16, buffer: Segment) {
        let words = desc::encode(buffer, WRITE, 0);
        for (word, value) in self.descriptors.view().pair(id.into()).into_iter().zip(words) {
            word.store(value.to_le(), Ordering::Relaxed);
        }
    }

    /// Puts the chain that begins at `head` into the available ring. It is seen after the next [`show`](Self::show).
    #[inline]
    pub(crate) fn offer(&mut self, head: u16) {
        let at = self.index(self.offered);
        self.available.at(1 + at / 4).write_pair(at % 4 * 2, head.to_le_bytes());
        self.offered += 1;
    }

    /// Shows the device everything offered, and rings if it wants that.
    #[inline]
    pub(crate) fn show(&mut self) {
        if self.shown == self.offered {
            return;
        }
        let before = std::mem::replace(&mut self.shown, self.offered);
        fence::release_to_device();
        self.available.at(0).write_pair(6, (self.shown as u16).to_le_bytes());
        fence::store_before_load();
        if self.wants_bell(before as u16, self.shown as u16) {
            self.doorbell.write(self.number);
        }
    }

    /// Looks how many chains the device has used: at most as many as it has.
    #[inline]
    pub(crate) fn look(&mut self) -> std::result::Result<(), Breach> {
        let index = (u64::from_le(self.used.at(0).load(Ordering::Acquire)) >> 48) as u16;
        fence::acquire_from_device();
        let new = index.wrapping_sub(self.seen as u16);
        let outstanding = (self.shown - self.seen) as u16;
        if new > outstanding {
            return Err(Breach::Index { new, outstanding });
        }
        self.used_index = self.seen + u64::from(new);
        Ok(())
    }

    /// The next entry of the used ring, if there was one at the last look.
    #[inline]
    pub(crate) fn peek(&self) -> std::result::Result<Option<Used>, Breach> {
        if self.seen == self.used_index {
            return Ok(None);
        }
        let element = u64::from_le(self.used.at(1 + self.index(self.seen)).load(Ordering::Relaxed));
        let (id, len) = (element as u32, (element >> 32) as u32);
        if id >= self.size.into() {
            return Err(Breach::OutOfRange { id, size: self.size });
        }
        Ok(Some(Used { id: id as u16, len, wrote: true }))
    }

    /// The entry, of chain `id`, stood for so many chains.
    #[inline]
    pub(crate) fn pass(&mut self, id: u16, chains: u16) -> std::result::Result<(), Breach> {
        let new = (self.used_index - self.seen) as u16;
        if chains > new {
            return Err(Breach::Batch { id: id.into(), chains, new });
        }
        self.seen += u64::from(chains);
        Ok(())
    }

    #[inline]
    fn wants_bell(&self, before: u16, now: u16) -> bool {
        if self.event_index {
            let event = u64::from_le(self.used.at(1 + usize::from(self.size)).load(Ordering::Relaxed)) as u16;
            return now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before);
        }
        let flags = (u64::from_le(self.used.at(0).load(Ordering::Relaxed)) >> 32) as u16;
        flags & NO_NOTIFY == 0
    }

    #[inline]
    fn index(&self, count: u64) -> usize {
        count as usize & (usize::from(self.size) - 1)
    }
}

/// Available ring: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;
/// Used ring: the device wants no doorbells.
const NO_NOTIFY: u16 = 1;
