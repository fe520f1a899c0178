//! A split ring (virtio 1.2, 2.7): what the driver writes into it, and what it believes of the device's part.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use stillwire_dma::{
    Access, HugePages, Iommu, Iova, Mapping, Register16, RingSlots, RingView, RingWords, SharedMemory, fence,
};

use crate::Result;

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
    /// Chains put into the available ring, shown to the device, and seen used.
    offered: u64,
    shown: u64,
    seen: u64,
}

/// Memory of a ring and the device's names for its areas.
pub(crate) struct RingMemory {
    size: u16,
    memory: SharedMemory,
    pub mapping: Arc<Mapping>,
}

/// What a device did that no device may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Breach {
    /// More chains are used than it has.
    Index { new: u16, outstanding: u16 },
    /// A chain that cannot be.
    OutOfRange { id: u32, size: u16 },
    /// A chain that it does not have.
    NotInFlight { id: u32 },
    /// More bytes written than there was room.
    Len { id: u32, len: u32, room: u32 },
    /// A received frame shorter than its net header.
    Short { id: u32, len: u32 },
    /// A received frame in so many buffers.
    Buffers { count: u16, fresh: usize },
    /// A buffer that is not the last of its frame and not full.
    Hole { id: u32, len: u32, room: u32 },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Index { new, outstanding } => {
                write!(f, "the used index moved by {new}, and the device had {outstanding} chains")
            }
            Self::OutOfRange { id, size } => write!(f, "chain {id} was used in a ring of {size}"),
            Self::NotInFlight { id } => write!(f, "chain {id} was used, which the device did not have"),
            Self::Len { id, len, room } => write!(f, "{len} bytes were written into the {room} of chain {id}"),
            Self::Short { id, len } => write!(f, "a frame of {len} bytes in chain {id} has no net header"),
            Self::Buffers { count, fresh } => {
                write!(f, "num_buffers of a frame is {count}, and {fresh} buffers were used")
            }
            Self::Hole { id, len, room } => {
                write!(f, "{len} bytes of {room} in chain {id}, which is not the last of its frame")
            }
        }
    }
}

impl RingMemory {
    /// Memory for a ring of `size` descriptors (a power of two, at least 8), mapped.
    pub(crate) fn new(iommu: &Iommu, size: u16) -> Result<Self> {
        let memory = SharedMemory::new("stillwire-virtio", Layout::of(size).end, HugePages::Never)?;
        let mapping = Arc::new(iommu.map(&memory, Access::ReadWrite)?);
        Ok(Self { size, memory, mapping })
    }

    /// The device's names for the descriptor table, the available ring, and the used ring.
    pub(crate) fn areas(&self) -> [Iova; 3] {
        let layout = Layout::of(self.size);
        // Four bytes in, so that what follows flags and index begins with a word.
        [0, layout.available + 4, layout.used + 4]
            .map(|offset| self.mapping.iova_of(offset).expect("all of it is mapped"))
    }
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
    /// A ring in zeroed memory. `event_index`: EVENT_IDX was negotiated.
    pub(crate) fn new(ring: &RingMemory, number: u16, doorbell: Register16, event_index: bool) -> Self {
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
            seen: 0,
        };
        // The driver polls. With EVENT_IDX the flag must be 0 and the wish is an index far off; no vector is set either way.
        if event_index {
            split.available.at(1 + size / 4).write_pair(0, u16::MAX.to_le_bytes());
        } else {
            split.available.at(0).write_pair(4, NO_INTERRUPT.to_le_bytes());
        }
        split
    }

    /// The descriptor table.
    #[inline]
    pub(crate) fn descriptors(&self) -> RingView<'_> {
        self.descriptors.view()
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

    /// Chains that the device has used since they were last [taken](Self::next_used): at most as many as it has.
    #[inline]
    pub(crate) fn fresh(&self) -> std::result::Result<usize, Breach> {
        let index = (u64::from_le(self.used.at(0).load(Ordering::Acquire)) >> 48) as u16;
        fence::acquire_from_device();
        let new = index.wrapping_sub(self.seen as u16);
        let outstanding = (self.shown - self.seen) as u16;
        if new > outstanding {
            return Err(Breach::Index { new, outstanding });
        }
        Ok(new.into())
    }

    /// The next of them: what the device says is the chain's head, below the ring's size, and how many bytes it wrote.
    #[inline]
    pub(crate) fn next_used(&mut self) -> std::result::Result<(u16, u32), Breach> {
        let element = u64::from_le(self.used.at(1 + self.index(self.seen)).load(Ordering::Relaxed));
        self.seen += 1;
        let (id, len) = (element as u32, (element >> 32) as u32);
        if id >= self.size.into() {
            return Err(Breach::OutOfRange { id, size: self.size });
        }
        Ok((id as u16, len))
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
