//! The seam between a [`PciFunction`](crate::PciFunction) and whatever carries it.

use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use memmap2::MmapRaw;

use crate::{Access, Event, Node, Result, SharedMemory};

/// What a PCI function needs from its carrier: kernel VFIO, a vfio-user socket, or a device model in this process.
///
/// Offsets and lengths are bytes; multi-byte values are little endian, as on the bus.
pub trait Backend: Send + Sync {
    /// How a user would name the device, for error texts.
    fn name(&self) -> String;

    /// The memory node that the device is on, if that makes a difference: see [`Node::of`].
    fn node(&self) -> Option<Node> {
        None
    }

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

    /// The time in which the device lives, from any moment that does not change: the machine's, unless the carrier has a clock
    /// of its own. Whoever waits for the device measures with it.
    fn now(&self) -> Duration {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        EPOCH.get_or_init(Instant::now).elapsed()
    }

    /// Lets `time` pass for the device while the caller does nothing.
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Waits until `event` has happened, at most for `timeout` of the device's time; whether it has. It may end early.
    ///
    /// # Errors
    /// As [`Event::wait`].
    fn wait(&self, event: &Event, timeout: Duration) -> Result<bool> {
        event.wait(timeout)
    }
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
