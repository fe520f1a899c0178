//! Small buffers for what is not file data: probes, answers, ARP.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stillwire_dma::{Access, HugePages, Iommu, Mapping, Payload, Segment, SharedMemory};

use crate::Result;

/// Buffers that a NIC may read, each of [`Pool::BUFFER`] bytes.
pub struct Pool(Arc<Shared>);

struct Shared {
    memory: SharedMemory,
    mapping: Mapping,
    /// One thread has the buffers, so nobody ever waits for this; but a ring's tokens must be fit to go to another, and with
    /// the ring of messages all others are of one type.
    free: Mutex<Vec<usize>>,
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A filled buffer. It goes back to its pool when it is dropped: after the NIC has read it, if it was posted.
pub struct Buffer {
    pool: Arc<Shared>,
    offset: usize,
    len: usize,
}

impl Pool {
    /// Length of a buffer, bytes: a full frame fits.
    pub const BUFFER: usize = 2048;

    /// `count` buffers, mapped read-only for the device.
    ///
    /// # Errors
    /// When memory or a mapping cannot be had.
    pub fn new(iommu: &Iommu, count: usize) -> Result<Self> {
        let memory = iommu.memory("stillwire-pool", count * Self::BUFFER, HugePages::Never)?;
        let mapping = iommu.map(&memory, Access::ReadOnly)?;
        let free = Mutex::new((0..count).map(|index| index * Self::BUFFER).collect());
        Ok(Self(Arc::new(Shared { memory, mapping, free })))
    }

    /// Buffers that are filled at this moment.
    pub fn in_use(&self) -> usize {
        self.0.memory.len() / Self::BUFFER - self.0.free().len()
    }

    /// A buffer that holds `bytes`; `None` when all are in use, or `bytes` are too many for one.
    pub fn fill(&self, bytes: &[u8]) -> Option<Buffer> {
        if bytes.len() > Self::BUFFER {
            return None;
        }
        let offset = self.0.free().pop()?;
        self.0.memory.write_at(offset, bytes);
        Some(Buffer { pool: self.0.clone(), offset, len: bytes.len() })
    }
}

impl Buffer {
    /// Copies bytes out, from byte `at` on.
    pub fn read_at(&self, at: usize, bytes: &mut [u8]) {
        assert!(at + bytes.len() <= self.len, "{} bytes at {at} of a buffer of {}", bytes.len(), self.len);
        self.pool.memory.read_at(self.offset + at, bytes);
    }
}

impl Payload for Buffer {
    fn len(&self) -> usize {
        self.len
    }

    fn segments(&self, range: Range<usize>, mut each: impl FnMut(Segment)) {
        assert!(range.end <= self.len, "{range:?} of a buffer of {} bytes", self.len);
        if let Some(segment) = self.pool.mapping.segment(self.offset + range.start..self.offset + range.end) {
            each(segment);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.free().push(self.offset);
    }
}
