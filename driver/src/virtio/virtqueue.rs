//! A virtqueue of either layout: what the queues need of it.
//!
//! Its user says which positions of the descriptor ring a chain takes, and which chains there are; the layout says what is
//! written for them, and what the device says of those that it has used. Both kinds name a chain by the index of its first
//! descriptor, so that what a queue knows of its chains is the same for both.

use std::sync::Arc;

use stillwire_dma::{Access, HugePages, Iommu, Iova, Mapping, Register16, Segment, SharedMemory, fence};

use super::breach::Breach;
use super::packed::Packed;
use super::regs::{F_EVENT_IDX, F_RING_PACKED};
use super::split::Split;
use crate::Result;

/// A ring in memory, and how far both sides are.
pub(crate) enum Virtqueue {
    Split(Split),
    Packed(Packed),
}

/// What the device says of a chain that it has used.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Used {
    /// Below the ring's size. With IN_ORDER all chains up to this one are used.
    pub id: u16,
    /// Bytes written.
    pub len: u32,
    /// Whether the device says that `len` counts; a packed ring's may leave it open.
    pub wrote: bool,
}

/// What a ring has to know.
pub(super) struct Setup<'a> {
    pub ring: &'a RingMemory,
    /// Number of the queue in the device.
    pub number: u16,
    pub doorbell: Register16,
    /// EVENT_IDX was negotiated.
    pub event_index: bool,
}

/// Memory of a ring and the device's names for its areas.
pub(crate) struct RingMemory {
    pub(super) size: u16,
    pub(super) memory: SharedMemory,
    pub mapping: Arc<Mapping>,
    /// Descriptors, the driver's area, the device's: bytes from the start.
    areas: [usize; 3],
}

impl RingMemory {
    /// Memory for a ring of `size` descriptors (a power of two, at least 8), mapped.
    pub(crate) fn new(iommu: &Iommu, size: u16, features: u64) -> Result<Self> {
        let (areas, end) = if features & F_RING_PACKED != 0 { Packed::areas(size) } else { Split::areas(size) };
        let memory = iommu.memory("stillwire-virtio", end, HugePages::Never)?;
        let mapping = Arc::new(iommu.map(&memory, Access::ReadWrite)?);
        Ok(Self { size, memory, mapping, areas })
    }

    /// The device's names for the descriptors, the driver's area and its own.
    pub(crate) fn areas(&self) -> [Iova; 3] {
        self.areas.map(|offset| self.mapping.iova_of(offset).expect("all of it is mapped"))
    }
}

impl Virtqueue {
    /// A ring in zeroed memory.
    pub(crate) fn new(ring: &RingMemory, number: u16, doorbell: Register16, features: u64) -> Self {
        let setup = Setup { ring, number, doorbell, event_index: features & F_EVENT_IDX != 0 };
        if features & F_RING_PACKED != 0 { Self::Packed(Packed::new(setup)) } else { Self::Split(Split::new(setup)) }
    }

    /// Descriptors; a power of two.
    #[inline]
    pub(crate) fn size(&self) -> u16 {
        match self {
            Self::Split(ring) => ring.size,
            Self::Packed(ring) => ring.size,
        }
    }

    /// Writes a chain of `front` and `pieces` from position `first` on, which is the one behind the last chain; the last
    /// descriptor has `flags`. The device sees it after the next [`show`](Self::show). Returns the last position.
    #[inline]
    pub(crate) fn put(&mut self, first: u64, front: Segment, pieces: &[Segment], flags: u16) -> u64 {
        match self {
            Self::Split(ring) => ring.put(first, front, pieces, flags),
            Self::Packed(ring) => ring.put(first, front, pieces, flags),
        }
    }

    /// Says where receive buffer `id` lies, once and for all; a packed ring has no place for it.
    pub(crate) fn lay(&mut self, id: u16, buffer: Segment) {
        match self {
            Self::Split(ring) => ring.lay(id, buffer),
            Self::Packed(_) => {}
        }
    }

    /// Makes receive buffer `id`, which lies at `buffer`, a chain. It is seen after the next [`show`](Self::show).
    #[inline]
    pub(crate) fn lend(&mut self, id: u16, buffer: Segment) {
        match self {
            Self::Split(ring) => ring.offer(id),
            Self::Packed(ring) => ring.lend(id, buffer),
        }
    }

    /// Shows the device everything that was put or lent, and rings if it wants that.
    #[inline]
    pub(crate) fn show(&mut self) {
        match self {
            Self::Split(ring) => ring.show(),
            Self::Packed(ring) => ring.show(),
        }
    }

    /// Whether the device shall interrupt at the next chain that it uses. What it used before, it says nothing of.
    pub(crate) fn listen(&mut self, on: bool) {
        match self {
            Self::Split(ring) => ring.listen(on),
            Self::Packed(ring) => ring.listen(on),
        }
        fence::store_before_load();
    }

    /// Whether there is something to look at; a breach is.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.look().is_err() || !matches!(self.peek(), Ok(None))
    }

    /// Looks how far the device is. What a split ring's device uses after this is for the next look.
    #[inline]
    pub(crate) fn look(&mut self) -> std::result::Result<(), Breach> {
        match self {
            Self::Split(ring) => ring.look(),
            Self::Packed(_) => Ok(()),
        }
    }

    /// The next entry that the device wrote, if there is one; the same again until it is [passed](Self::pass).
    #[inline]
    pub(crate) fn peek(&self) -> std::result::Result<Option<Used>, Breach> {
        match self {
            Self::Split(ring) => ring.peek(),
            Self::Packed(ring) => ring.peek(),
        }
    }

    /// The entry, of chain `id`, stood for so many chains, of so many descriptors in all; the device had them.
    #[inline]
    pub(crate) fn pass(&mut self, id: u16, chains: u16, descriptors: u16) -> std::result::Result<(), Breach> {
        match self {
            Self::Split(ring) => ring.pass(id, chains),
            Self::Packed(ring) => {
                ring.pass(descriptors);
                Ok(())
            }
        }
    }
}
