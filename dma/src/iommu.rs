//! Mappings: memory that a device can reach, for exactly as long as a value lives.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Backend, Error, HugePages, Iova, IovaAllocator, Result, Segment, SharedMemory};

/// What the device may do with mapped memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// The device may read: transmit payload. A NIC that should only read cannot write.
    ReadOnly,
    /// The device may read and write: rings, receive buffers.
    ReadWrite,
}

/// The address space of a device. Clones name the same one.
#[derive(Clone)]
pub struct Iommu(Arc<Domain>);

struct Domain {
    backend: Arc<dyn Backend>,
    free: Mutex<IovaAllocator>,
}

impl Iommu {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        let free = Mutex::new(IovaAllocator::new(backend.iova_ranges()));
        Self(Arc::new(Domain { backend, free }))
    }

    /// Zeroed memory for the device's own use (rings, buffers), as [`SharedMemory::new`] makes it, on the device's
    /// [node](crate::Node) where there are several.
    ///
    /// # Errors
    /// As [`SharedMemory::new`].
    pub fn memory(&self, name: &str, len: usize, huge: HugePages) -> Result<SharedMemory> {
        let memory = SharedMemory::new(name, len, huge)?;
        memory.place(name, self.0.backend.node());
        Ok(memory)
    }

    /// Maps the whole region at an address of the IOMMU's choice.
    ///
    /// # Errors
    /// [`Error::NoIova`] when no run of device addresses is free, [`Error::Map`] when the kernel or the peer refuses.
    pub fn map(&self, memory: &SharedMemory, access: Access) -> Result<Mapping> {
        self.map_range(memory, 0..memory.len(), access)
    }

    /// Maps whole pages of the region.
    ///
    /// # Errors
    /// As [`map`](Self::map), and [`Error::OutOfRange`] when `range` (bytes) is empty, not page aligned, or not inside;
    /// [`Error::Map`] when the device could write memory that this process can only read.
    pub fn map_range(&self, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<Mapping> {
        let page = memory.page_size();
        let aligned = range.start.is_multiple_of(page) && range.end.is_multiple_of(page);
        if range.is_empty() || range.end > memory.len() || !aligned {
            return Err(Error::OutOfRange { start: range.start, end: range.end, len: memory.len() });
        }
        if access == Access::ReadWrite && !memory.is_writable() {
            return Err(Error::Map {
                device: self.0.backend.name(),
                len: range.len(),
                source: std::io::ErrorKind::PermissionDenied.into(),
                hint: "; the memory is a file mapped for reading: map it with Access::ReadOnly".into(),
            });
        }
        let len = range.len() as u64;
        // Aligned to the backing's pages, so that the IOMMU can use large entries.
        let iova = {
            let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.take(len, page as u64).ok_or_else(|| Error::NoIova { len, largest: free.largest() })?
        };
        if let Err(error) = self.0.backend.dma_map(iova, memory, range.clone(), access) {
            self.0.give(iova, len);
            return Err(error);
        }
        tracing::debug!(device = self.0.backend.name(), iova = format_args!("{iova:#x}"), len, ?access, "mapped");
        Ok(Mapping { domain: self.0.clone(), iova, len: range.len(), memory: memory.clone(), access })
    }
}

impl Domain {
    fn give(&self, iova: u64, len: u64) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).give(iova, len);
    }
}

/// Memory that the device reaches under [`iova_of`](Self::iova_of) while this value lives. Dropping it unmaps; it keeps
/// the memory and the device's carrier alive until then.
pub struct Mapping {
    domain: Arc<Domain>,
    iova: u64,
    len: usize,
    memory: SharedMemory,
    access: Access,
}

impl Mapping {
    /// Length, bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a mapping has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What the device may do.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The memory that is mapped.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Device address of the byte `offset` bytes from the mapping's start; `None` outside of it.
    #[inline]
    pub fn iova_of(&self, offset: usize) -> Option<Iova> {
        (offset < self.len).then(|| Iova::new(self.iova + offset as u64))
    }

    /// The device's name for `range` (bytes from the mapping's start); `None` when it is empty, longer than a segment
    /// can say (4 GiB), or reaches outside.
    #[inline]
    pub fn segment(&self, range: Range<usize>) -> Option<Segment> {
        let len = u32::try_from(range.end.checked_sub(range.start)?).ok().filter(|&len| len > 0)?;
        (range.end <= self.len).then(|| Segment { iova: Iova::new(self.iova + range.start as u64), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Addresses of a mapping that could not be taken away stay taken: the device may still use them.
        match self.domain.backend.dma_unmap(self.iova, self.len) {
            Ok(()) => self.domain.give(self.iova, self.len as u64),
            Err(error) => {
                tracing::warn!(%error, len = self.len, "a mapping can not be taken away; its addresses stay taken")
            }
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({:#x}, {} bytes, {:?})", self.iova, self.len, self.access)
    }
}
