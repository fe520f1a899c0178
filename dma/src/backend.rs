//! The seam between a [`PciFunction`](crate::PciFunction) and whatever carries it.

use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;

use memmap2::MmapRaw;

use crate::{Access, Result, SharedMemory};

/// What a PCI function needs from its carrier: kernel VFIO, a vfio-user socket, or a device model in this process.
///
/// Offsets and lengths are bytes; multi-byte values are little endian, as on the bus.
pub trait Backend: Send + Sync {
    /// How a user would name the device, for error texts.
    fn name(&self) -> String;

    /// Reads `data.len()` bytes (1, 2 or 4) of configuration space.
    fn config_read(&self, offset: u16, data: &mut [u8]) -> Result<()>;

    /// Writes `data.len()` bytes (1, 2 or 4) of configuration space.
    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()>;

    /// Size and directly mapped parts of a base address register's window.
    fn bar(&self, index: u8) -> Result<BarInfo>;

    /// Reads a register that is not mapped.
    fn bar_read(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<()>;

    /// Writes a register that is not mapped; on return the device has taken it.
    fn bar_write(&self, index: u8, offset: u64, data: &[u8]) -> Result<()>;

    /// Function-level reset.
    fn reset(&self) -> Result<()>;

    /// Number of MSI-X vectors; 0 when the function has none.
    fn msix_vectors(&self) -> u32;

    /// Routes vector `i` to `eventfds[i]`; an empty slice turns MSI-X off.
    fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()>;

    /// Device addresses that may be mapped, in ascending order.
    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>>;

    /// Makes `range` (bytes) of `memory` visible to the device at `iova`.
    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()>;

    /// Takes a mapping away; on return the device cannot reach it any more.
    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()>;
}

/// What a base address register covers.
pub struct BarInfo {
    /// Size of the window, bytes.
    pub len: u64,
    /// Parts that are memory in this process; the rest is reached by [`Backend::bar_read`] and [`Backend::bar_write`].
    pub mapped: Vec<MappedArea>,
}

/// A directly mapped part of a register window.
pub struct MappedArea {
    /// Offset in the window, bytes; page aligned.
    pub offset: u64,
    /// The pages.
    pub pages: MmapRaw,
}
